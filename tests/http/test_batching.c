/* Many clients at a time: everybody's own answer, batches, full queues, deadlines. */
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <pthread.h>
#include <stdatomic.h>

#define RAW "Content-Type: application/octet-stream\r\n"

struct user {
    pthread_t thread;
    struct server *server;
    int digit;
    unsigned requests, wrong;
};

/* Threads other than the test's must not assert: they count. */
static void *use(void *arg)
{
    struct user *u = arg;
    const uint8_t *pixels = digit_pixels(u->digit);
    const char *label = data_printf("\"label\":\"%d\",\"probability\"", u->digit);
    struct client *c = client_connect(u->server);
    for (unsigned i = 0; i < u->requests; i++) {
        client_printf(c,
                      "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW
                      "X-Request-Id: %d-%u\r\nContent-Length: 784\r\n\r\n",
                      u->digit, i);
        client_send(c, pixels, 784);
        const struct response *r = client_read(c, false);
        const char *id = r == NULL ? NULL : response_header(r, "X-Request-Id");
        if (r == NULL || r->status != 200 || strstr(r->body, label) == NULL || id == NULL ||
            strcmp(id, data_printf("%d-%u", u->digit, i)) != 0)
            u->wrong++;
    }
    client_close(c);
    return NULL;
}

static void run_users(struct server *s, unsigned requests)
{
    enum { USERS = 16 };
    struct user users[USERS];
    for (int i = 0; i < USERS; i++) {
        users[i] = (struct user){.server = s, .digit = i % 10, .requests = requests};
        cr_assert(pthread_create(&users[i].thread, NULL, use, &users[i]) == 0);
    }
    unsigned wrong = 0;
    for (int i = 0; i < USERS; i++) {
        pthread_join(users[i].thread, NULL);
        wrong += users[i].wrong;
    }
    cr_assert_eq(wrong, 0, "%u of %u answers are wrong\n%s", wrong, USERS * requests,
                 server_log_tail(s));
    double images = http_metric(s, "convd_batch_size_sum{model=\"lenet5\"}");
    cr_expect_eq(images, USERS * requests, "%g images computed", images);
}

Test(batching, everybody_gets_the_own_answer)
{
    struct server *s = server_start_with("--io-threads", "2", "--access-log", "off");
    run_users(s, server_slowness() > 1 ? 40 : 150);
    server_stop(s);
}

/* A delay makes batches certain, whatever the speed of the machine. */
Test(batching, requests_share_batches)
{
    struct server *s = server_start_with("--max-delay-us", "3000", "--access-log", "off");
    run_users(s, 40);
    double batches = http_metric(s, "convd_batch_size_count{model=\"lenet5\"}");
    double single = http_metric(s, "convd_batch_size_bucket{model=\"lenet5\",le=\"1\"}");
    cr_expect(batches < 16 * 40 / 2, "%g batches for %d requests", batches, 16 * 40);
    cr_expect(single < batches, "no batch of more than one");
    server_stop(s);
}

/* The answer does not depend on who else is in the batch, nor on its size or the threads. */
Test(batching, the_answer_is_the_same_in_any_company)
{
    const char *const options[][5] = {{"--threads", "1", NULL},
                                      {"--threads", "2", NULL},
                                      {"--max-batch", "3", "--threads", "2", NULL}};
    const char *alone = NULL;
    for (size_t i = 0; i < 3; i++) {
        struct server *s = server_start(options[i]);
        for (unsigned count = 1; count <= 9; count += 4) {
            uint8_t pixels[9 * 784];
            for (unsigned n = 0; n < count; n++)
                memcpy(pixels + n * 784, digit_pixels((int)(n == count - 1 ? 6 : n)), 784);
            struct body b = {0};
            body_printf(&b, "{\"pixels\":");
            body_pixels(&b, pixels, (const unsigned[]){count, 28, 28, 1}, 4);
            body_printf(&b, "}");
            json_t *reply = response_json(http_post(s, "/classify?top_k=0", NULL, b.bytes, b.len));
            json_t *results = json_object_get(reply, "results");
            json_t *last = results == NULL ? reply : json_array_get(results, count - 1);
            char *classes = json_dumps(json_object_get(last, "classes"), JSON_COMPACT);
            cr_assert(classes != NULL);
            if (alone == NULL)
                alone = data_printf("%s", classes);
            cr_expect_str_eq(classes, alone, "options %zu, batch of %u", i, count);
            free(classes);
        }
        server_stop(s);
    }
}

/* A body of `count` images, long enough to compute that a queue can fill meanwhile. */
static struct body many_images(unsigned count)
{
    struct body b = {0};
    uint8_t *pixels = data_alloc((size_t)count * 784);
    for (unsigned n = 0; n < count; n++)
        memcpy(pixels + (size_t)n * 784, digit_pixels((int)(n % 10)), 784);
    body_printf(&b, "{\"pixels\":");
    body_pixels(&b, pixels, (const unsigned[]){count, 28, 28, 1}, 4);
    body_printf(&b, "}");
    return b;
}

static void send_images(struct client *c, const struct body *b)
{
    client_printf(c, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", b->len);
    client_send(c, b->bytes, b->len);
}

/* More than the queue holds: some are refused at once, with the time to come back; none is lost. */
Test(batching, a_full_queue_refuses)
{
    enum { CLIENTS = 40 };
    struct server *s = server_start_with("--max-queue", "64", "--threads", "1", "--access-log",
                                         "off", "--max-delay-us", "100000", "--max-batch", "1024");
    struct body b = many_images(16);
    struct client *clients[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_connect(s);
        send_images(clients[i], &b);
    }
    int accepted = 0, refused = 0;
    for (int i = 0; i < CLIENTS; i++) {
        const struct response *r = client_read(clients[i], false);
        cr_assert(r != NULL, "client %d: no answer", i);
        if (r->status == 200) {
            accepted++;
        } else {
            response_expect_error(r, 503, "queue_full", "full queue");
            const char *after = response_header(r, "Retry-After");
            cr_assert(after != NULL && atoi(after) >= 1 && atoi(after) <= 3, "%s", r->head);
            refused++;
        }
        client_close(clients[i]);
    }
    cr_expect(accepted >= 4, "%d accepted", accepted);
    cr_expect(refused >= CLIENTS / 2, "%d refused", refused);
    cr_expect_eq(http_metric(s, "convd_rejected_total{reason=\"queue_full\"}"), refused);
    cr_expect_eq(http_metric(s, "convd_queue_depth{model=\"lenet5\"}"), 0);
    cr_expect_eq(http_metric(s, "convd_queue_bytes"), 0);
    cr_expect_eq(http_get(s, "/readyz")->status, 200);
    server_stop(s);
}

/* A deadline that cannot be met is refused or given up, not computed late. */
Test(batching, deadlines)
{
    struct server *s = server_start_with("--max-delay-us", "300000", "--threads", "1");
    const struct response *r = http_request(
        s, "POST", "/classify", RAW "X-Request-Timeout-Ms: 20\r\n", digit_pixels(1), 784);
    cr_assert(r->status == 503 || r->status == 504, "%d: %s", r->status, r->body);
    response_expect_error(r, r->status, NULL, "deadline");
    if (r->status == 503)
        cr_assert(response_header(r, "Retry-After") != NULL);
    expect_digit(http_request(s, "POST", "/classify", RAW "X-Request-Timeout-Ms: 4000\r\n",
                              digit_pixels(1), 784),
                 1, 5, "enough time");
    server_stop(s);
}

/* Clients that leave while their request waits are noticed, and their images are not computed. */
Test(batching, requests_of_clients_that_left_are_dropped)
{
    enum { CLIENTS = 8 };
    struct server *s = server_start_with("--max-delay-us", "500000", "--threads", "1");
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = client_connect(s);
        client_printf(c,
                      "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "Content-Length: 784\r\n\r\n");
        client_send(c, digit_pixels(i), 784);
        /* Leave only once it waits in the queue. */
        cr_assert(http_metric_wait(s, "convd_queue_depth{model=\"lenet5\"}", 1, 100, 2));
        client_reset(c);
    }
    cr_expect(http_metric_wait(s, "convd_inflight_requests", 1, 1, 5));
    cr_expect_eq(http_metric(s, "convd_queue_depth{model=\"lenet5\"}"), 0);
    double computed =
        http_metric(s, "convd_inference_images_total{model=\"lenet5\",version=\"1\"}");
    cr_expect(computed < CLIENTS, "all %g images were computed", computed);
    cr_expect(http_metric(s, "convd_client_disconnects_total") > 0);
    expect_digit(http_post(s, "/classify", "application/octet-stream", digit_pixels(2), 784), 2, 5,
                 "afterwards");
    server_stop(s);
}

/* Beyond max-connections: an answer at once instead of a wait, and room again afterwards. */
Test(batching, too_many_connections)
{
    enum { LIMIT = 8 };
    struct server *s = server_start_with("--max-connections", "8");
    struct client *kept[LIMIT];
    for (int i = 0; i < LIMIT; i++) {
        kept[i] = client_connect(s);
        client_printf(kept[i], "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
        cr_assert(client_read(kept[i], false)->status == 200);
    }
    const struct response *r =
        http_post(s, "/classify", "application/octet-stream", digit_pixels(2), 784);
    response_expect_error(r, 503, "too_many_connections", "one too many");
    cr_assert(response_header(r, "Retry-After") != NULL);
    /* Probes are answered all the same. */
    cr_assert(http_get(s, "/livez")->status == 200);
    for (int i = 0; i < LIMIT; i++)
        client_close(kept[i]);
    for (int i = 0; i < 100 && r->status != 200; i++)
        r = http_post(s, "/classify", "application/octet-stream", digit_pixels(2), 784);
    expect_digit(r, 2, 5, "afterwards");
    server_stop(s);
}
