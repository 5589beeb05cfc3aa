/* More than the queue has room for: what is refused is refused before work is put into it. */
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <pthread.h>
#include <stdatomic.h>

enum { CLIENTS = 24, SIDE = 200 };

struct user {
    pthread_t thread;
    struct client *client;
    struct data photo;
    const atomic_bool *enough;
    unsigned answered, refused, odd;
};

static void *insist(void *arg)
{
    struct user *u = arg;
    while (!atomic_load(u->enough)) {
        client_printf(u->client,
                      "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                      u->photo.len);
        client_send(u->client, u->photo.bytes, u->photo.len);
        const struct response *r = client_read(u->client, false);
        u->answered += r && r->status == 200;
        u->refused += r && r->status == 503;
        if (r && r->status == 408) /* sent too slowly, by a machine that stalls */
            break;
        u->odd += !r || (r->status != 200 && r->status != 503);
        if (!r)
            break;
    }
    return NULL;
}

/* A photo of noise: no compression makes it small enough to be decoded where it is received. */
static struct data make_photo(void)
{
    unsigned char *samples = data_alloc(SIDE * SIDE);
    for (unsigned i = 0, random = 1; i < SIDE * SIDE; i++) {
        random = random * 1664525u + 1013904223u;
        samples[i] = (unsigned char)(random >> 24);
    }
    struct data photo = make_png(samples, SIDE, SIDE, 1);
    cr_assert_gt(photo.len, 32u * 1024);
    return photo;
}

Test(announced, what_is_refused_is_not_decoded)
{
    struct server *s =
        server_start_with("--threads", "1", "--max-queue", "4", "--request-timeout", "60s");
    const struct data photo = make_photo();
    struct user users[CLIENTS];
    atomic_bool enough = false;
    unsigned answered = 0, refused = 0, odd = 0;
    for (int i = 0; i < CLIENTS; i++) {
        users[i] = (struct user){.client = client_connect(s), .photo = photo, .enough = &enough};
        cr_assert(pthread_create(&users[i].thread, NULL, insist, &users[i]) == 0);
    }
    cr_expect(http_metric_wait(s, "convd_decode_seconds_count{format=\"png\"}", CLIENTS, 1e9, 20) &&
              http_metric_wait(s, "convd_rejected_total{reason=\"queue_full\"}", CLIENTS, 1e9, 20));
    atomic_store(&enough, true);
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(users[i].thread, NULL);
        answered += users[i].answered;
        refused += users[i].refused;
        odd += users[i].odd;
        client_close(users[i].client);
    }
    cr_expect_eq(odd, 0);
    cr_expect(answered > 0 && refused > 0, "%u answered, %u refused", answered, refused);
    cr_expect_eq(http_metric(s, "convd_decode_seconds_count{format=\"png\"}"), answered);
    server_stop(s);
}

#define DEPTH "convd_queue_depth{model=\"lenet5\"}"

/* A full queue is known before a long body has come: it is read and thrown away, and the connection
 * is good for the next try; who asks whether to send one need not. False when the queue was not
 * full for so long. */
static bool refused_before_the_body(void)
{
    enum { PLACES = 4, LENGTH = 300000 };
    struct server *s = server_start_with("--threads", "1", "--max-queue", "4", "--max-delay-us",
                                         "1000000", "--max-batch", "64");
    struct client *waiting[PLACES], *late = client_connect(s), *asking = client_connect(s);
    for (int i = 0; i < PLACES; i++) {
        waiting[i] = client_connect(s);
        client_printf(waiting[i], "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: "
                                  "application/octet-stream\r\nContent-Length: 784\r\n\r\n");
        client_send(waiting[i], digit_pixels(i), 784);
    }
    http_metric_wait(s, DEPTH, PLACES, PLACES, 1);
    client_printf(asking, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 784\r\n"
                          "Expect: 100-continue\r\n\r\n");
    const struct response *of_asking = client_read(asking, false);
    client_printf(late, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", LENGTH);
    cr_expect(!client_readable(late), "answered before the body");
    client_send(late, data_alloc(LENGTH), LENGTH);
    const struct response *r = client_read(late, false);
    bool full = true;
    for (int i = 0; i < PLACES; i++)
        full = full && !client_readable(waiting[i]);
    if (full) {
        response_expect_error(of_asking, 503, "queue_full", "100-continue");
        cr_expect(client_at_end(asking, 20));
        response_expect_error(r, 503, "queue_full", "a long body");
        cr_assert(response_header(r, "Retry-After") != NULL);
        cr_expect(response_header(r, "Connection") == NULL);
        cr_expect_eq(http_metric(s, "convd_rejected_total{reason=\"queue_full\"}"), 2);
    }
    for (int i = 0; i < PLACES; i++) {
        expect_digit(client_read(waiting[i], false), i, 5, "a place in the queue");
        client_close(waiting[i]);
    }
    client_printf(late, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", LENGTH);
    client_send(late, data_alloc(LENGTH), LENGTH);
    response_expect_error(client_read(late, false), 415, NULL, "the next try");
    client_close(late);
    client_close(asking);
    cr_expect(http_metric_wait(s, DEPTH, 0, 0, 20));
    server_stop(s);
    return full;
}

Test(announced, a_full_queue_refuses_before_the_body)
{
    unsigned left = 10;
    while (!refused_before_the_body())
        cr_assert(--left > 0, "the queue was never full for long");
}

/* Whoever takes his time to send a body takes nobody's place meanwhile. */
Test(announced, slow_bodies_take_no_places)
{
    enum { SLOW = 8, LENGTH = 100000 };
    struct server *s = server_start_with("--max-queue", "4");
    struct client *slow[SLOW];
    for (int i = 0; i < SLOW; i++) {
        slow[i] = client_connect(s);
        client_printf(slow[i], "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
                      LENGTH);
        client_send(slow[i], data_alloc(LENGTH), LENGTH / 2);
    }
    cr_assert(http_metric_wait(s, "convd_inflight_requests", SLOW + 1, SLOW + 1, 20));
    cr_expect_eq(http_metric(s, DEPTH), 0);
    expect_digit(http_post(s, "/classify", "application/octet-stream", digit_pixels(4), 784), 4, 5,
                 "beside slow bodies");
    for (int i = 0; i < SLOW; i++)
        client_close(slow[i]);
    server_stop(s);
}
