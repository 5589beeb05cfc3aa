/* More photos than the queue has room for: those that are refused are refused undecoded. */
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <pthread.h>
#include <time.h>

enum { CLIENTS = 24, SIDE = 400 };

struct user {
    pthread_t thread;
    struct client *client;
    struct data photo;
    double until_s;
    unsigned answered, refused, odd;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *insist(void *arg)
{
    struct user *u = arg;
    while (now_s() < u->until_s) {
        client_printf(u->client,
                      "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                      u->photo.len);
        client_send(u->client, u->photo.bytes, u->photo.len);
        const struct response *r = client_read(u->client, false);
        u->answered += r && r->status == 200;
        u->refused += r && r->status == 503;
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
    unsigned answered = 0, refused = 0, odd = 0;
    for (int i = 0; i < CLIENTS; i++) {
        users[i] =
            (struct user){.client = client_connect(s), .photo = photo, .until_s = now_s() + 1};
        cr_assert(pthread_create(&users[i].thread, NULL, insist, &users[i]) == 0);
    }
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
