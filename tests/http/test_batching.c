/* Many clients at a time: everybody's own answer, batches, full queues, deadlines. */
#include "tests/support/requests.h"
#include "tests/unit/onnx_build.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define RAW    "Content-Type: application/octet-stream\r\n"
#define TAKEN  "convd_queue_wait_seconds_count{model=\"lenet5\"}"
#define IMAGES "convd_inference_images_total{model=\"lenet5\",version=\"1\"}"

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

/* Memory for bodies is bounded over all connections: who comes too late is told so, and not kept.
 */
Test(batching, too_many_bytes_of_bodies)
{
    struct server *s = server_start_with("--max-queue-bytes", "1M", "--max-body", "2M");
    size_t len = 900000;
    char *bytes = data_alloc(len);
    struct client *first = client_connect(s);
    client_printf(first, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", len);
    client_send(first, bytes, len - 1);
    cr_assert(http_metric_wait(s, "convd_inflight_requests", 2, 2, 2));
    process_pause_ms(200); /* until it has been read */
    const struct response *r = http_post(s, "/classify", NULL, bytes, 300000);
    response_expect_error(r, 503, "out_of_memory", "a second body");
    cr_assert(response_header(r, "Retry-After") != NULL);
    cr_expect(http_metric(s, "convd_rejected_total{reason=\"memory\"}") == 1);
    client_send(first, bytes, 1);
    response_expect_error(client_read(first, false), 415, NULL, "the first body");
    response_expect_error(http_post(s, "/classify", NULL, bytes, 300000), 415, NULL, "afterwards");
    client_close(first);
    server_stop(s);
}

/* ---------------------------------------------------------------- deadlines, clients that leave */

/* A request that cannot wait does not, although others would make the batch fuller. */
Test(batching, a_delay_leaves_time_before_the_deadline)
{
    struct server *s = server_start_with("--max-delay-us", "1000000");
    double begin = process_now_s();
    expect_digit(http_request(s, "POST", "/classify", RAW "X-Request-Timeout-Ms: 400\r\n",
                              digit_pixels(1), 784),
                 1, 5, "400 ms");
    double took = process_now_s() - begin;
    cr_expect(took > 0.19 && took < 0.5 * server_slowness(), "answered after %.2f s", took);
    server_stop(s);
}

/* The only worker is busy for longer than the deadline: what waits is told in time, and what cannot
 * be in time, as far as one knows by then, is not let in. Nothing of it is computed. */
Test(batching, deadlines)
{
    struct server *s = server_start_with("--cpu", "c", "--threads", "1", "--max-batch", "1024",
                                         "--request-timeout", "60s");
    struct client *long_one = client_connect(s);
    unsigned images = 1000 / (unsigned)server_slowness();
    struct body b = many_images(images);
    send_images(long_one, &b);
    /* Not before it has left the queue. */
    cr_assert(http_metric_wait(s, TAKEN, 1, 1, 5));
    double begin = process_now_s();
    const struct response *r = http_request(
        s, "POST", "/classify", RAW "X-Request-Timeout-Ms: 50\r\n", digit_pixels(1), 784);
    double took = process_now_s() - begin;
    unsigned in_time = r->status == 200; /* on a machine for which it is no long one */
    if (!client_readable(long_one)) {
        response_expect_error(r, 504, "deadline_exceeded", "50 ms");
        cr_expect(took > 0.045 && took < 0.3 * server_slowness(), "told after %.3f s", took);
    }
    r = client_read(long_one, false);
    cr_assert(r != NULL && r->status == 200);

    send_images(long_one, &b); /* how long an image takes is known now */
    cr_assert(http_metric_wait(s, TAKEN, 3, 3, 5));
    r = http_request(s, "POST", "/classify", RAW "X-Request-Timeout-Ms: 5\r\n", digit_pixels(1),
                     784);
    in_time += r->status == 200;
    if (!client_readable(long_one)) {
        response_expect_error(r, 503, "queue_timeout", "5 ms");
        cr_assert(response_header(r, "Retry-After") != NULL);
        cr_expect_eq(http_metric(s, "convd_rejected_total{reason=\"deadline\"}"), 1);
    }
    r = client_read(long_one, false);
    cr_assert(r != NULL && r->status == 200);
    cr_expect_eq(http_metric(s, IMAGES), 2 * images + in_time, "%g images, %u in time",
                 http_metric(s, IMAGES), in_time);
    client_close(long_one);
    server_stop(s);
}

/* The deadline passes while the batch is computed: the client is told then, not when the batch is
 * over, and the other in it has its answer. */
Test(batching, a_deadline_passes_during_the_computing)
{
    enum { IMAGES_OF_MATE = 1000 };
    static const char expired[] =
        "convd_inference_requests_total{model=\"lenet5\",version=\"1\",outcome=\"expired\"}";
    struct server *s = server_start_with("--cpu", "c", "--threads", "1", "--max-batch", "1024",
                                         "--max-delay-us", "1000000", "--request-timeout", "60s");
    struct body b = many_images(IMAGES_OF_MATE);
    struct client *mate = client_connect(s), *c = client_connect(s);
    send_images(mate, &b);
    cr_assert(http_metric_wait(s, "convd_queue_depth{model=\"lenet5\"}", IMAGES_OF_MATE,
                               IMAGES_OF_MATE, 2));
    /* Half of that time goes into waiting for more. */
    double begin = process_now_s();
    client_printf(c,
                  "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "X-Request-Timeout-Ms: %d\r\n"
                  "Content-Length: 784\r\n\r\n",
                  60 * server_slowness());
    client_send(c, digit_pixels(3), 784);
    response_expect_error(client_read(c, false), 504, "deadline_exceeded", "a long batch");
    double told = process_now_s() - begin;
    const struct response *r = client_read(mate, false);
    cr_assert(r != NULL && r->status == 200);
    double over = process_now_s() - begin;
    cr_expect(told < 0.8 * over, "told after %.3f s of %.3f s", told, over);
    /* On a busy machine it may have expired before. */
    double computed = http_metric(s, "convd_batch_size_sum{model=\"lenet5\"}");
    cr_expect(computed == IMAGES_OF_MATE + 1 || over > 0.2, "%g images computed", computed);
    cr_expect_eq(http_metric(s, IMAGES), IMAGES_OF_MATE);
    cr_expect_eq(http_metric(s, expired), 1);
    /* The connection is of use again. */
    client_printf(c, "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW
                     "X-Request-Timeout-Ms: 1000\r\nContent-Length: 784\r\n\r\n");
    client_send(c, digit_pixels(3), 784);
    expect_digit(client_read(c, false), 3, 5, "afterwards");
    client_close(mate);
    client_close(c);
    server_stop(s);
}

/* Clients that reset their connection in the same instant: some requests are with a worker by then,
 * and their connections are not suspended yet, so that the library closes them. */
Test(batching, clients_that_reset_at_once)
{
    struct server *s = server_start_with("--max-delay-us", "500", "--io-threads", "2");
    const uint8_t *digit = digit_pixels(4);
    enum { ROUNDS = 60, EACH = 5 };
    for (int round = 0; round < ROUNDS; round++) {
        struct client *c[EACH];
        for (int i = 0; i < EACH; i++) {
            c[i] = client_connect(s);
            client_printf(c[i], "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 784\r\n"
                                "Content-Type: application/octet-stream\r\n\r\n");
            client_send(c[i], digit, 784);
        }
        for (int i = 0; i < EACH; i++) {
            usleep((unsigned)(round * 37 + i * 101) % 400);
            client_reset(c[i]);
        }
    }
    cr_expect(http_metric_wait(s, "convd_inflight_requests", 1, 1, 5), "the metrics' own is left");
    cr_expect_eq(http_metric(s, "convd_queue_depth{model=\"lenet5\"}"), 0);
    expect_digit(http_post(s, "/classify", "application/octet-stream", digit, 784), 4, 5,
                 "afterwards");
    server_stop(s);
}

/* Clients that leave while their request waits, by closing, by a reset or by closing their side
 * alone, are noticed, and their images are not computed. */
Test(batching, requests_of_clients_that_left_are_dropped)
{
    enum { CLIENTS = 9 };
    static const char cancelled[] =
        "convd_inference_requests_total{model=\"lenet5\",version=\"1\",outcome=\"cancelled\"}";
    static void (*const ways[])(struct client *) = {client_reset, client_close, client_half_close};
    struct server *s = server_start_with("--max-delay-us", "1000000", "--threads", "1");
    double begin = process_now_s();
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = client_connect(s);
        client_printf(c,
                      "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "Content-Length: 784\r\n\r\n");
        client_send(c, digit_pixels(i), 784);
        /* Leave only once it waits in the queue. */
        cr_assert(http_metric_wait(s, "convd_queue_depth{model=\"lenet5\"}", i + 1, i + 1, 1) ||
                  process_now_s() - begin > 0.9);
        ways[i % 3](c);
    }
    bool in_time = process_now_s() - begin < 0.8;
    cr_expect(http_metric_wait(s, "convd_inflight_requests", 1, 1, 5));
    cr_expect_eq(http_metric(s, "convd_queue_depth{model=\"lenet5\"}"), 0);
    if (in_time) {
        cr_expect_eq(http_metric(s, IMAGES), 0);
        cr_expect_eq(http_metric(s, cancelled), CLIENTS);
        cr_expect_eq(http_metric(s, "convd_client_disconnects_total"), CLIENTS);
    }
    cr_expect(http_metric(s, "convd_client_disconnects_total") > 0);
    expect_digit(http_post(s, "/classify", "application/octet-stream", digit_pixels(2), 784), 2, 5,
                 "afterwards");
    server_stop(s);
}

/* ---------------------------------------------------------------- one beside the other */

/* First come, first served: a small request is answered before what came after it. */
Test(batching, a_long_request_does_not_overtake)
{
    struct server *s = server_start_with("--cpu", "c", "--threads", "1", "--max-batch", "4",
                                         "--request-timeout", "60s");
    struct client *first = client_connect(s), *small = client_connect(s), *last = client_connect(s);
    struct body b = many_images(200 / (unsigned)server_slowness());
    send_images(first, &b);
    cr_assert(http_metric_wait(s, "convd_batch_size_sum{model=\"lenet5\"}", 1, 200, 5));
    client_printf(small,
                  "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "Content-Length: 784\r\n\r\n");
    client_send(small, digit_pixels(6), 784);
    /* Another connection's answer: this one has been read before it. */
    cr_assert_eq(http_get(s, "/livez")->status, 200);
    send_images(last, &b);
    const struct response *r = client_read(last, false);
    cr_assert(r != NULL && r->status == 200);
    cr_expect(client_readable(first), "the first is still waiting");
    cr_expect(client_readable(small), "the small one is still waiting");
    expect_digit(client_read(small, false), 6, 5, "the small one");
    client_close(first);
    client_close(small);
    client_close(last);
    server_stop(s);
}

/* A folder with one model, removed by models_remove(). */
static const char *models_folder(const char *name, struct pb model)
{
    char *folder = data_printf("/tmp/convd-models-XXXXXX");
    cr_assert(mkdtemp(folder) != NULL, "%s: %s", folder, strerror(errno));
    FILE *file = fopen(data_printf("%s/%s.onnx", folder, name), "w");
    cr_assert(file != NULL && fwrite(model.data, 1, model.len, file) == model.len);
    fclose(file);
    pb_free(&model);
    return folder;
}

static void models_remove(const char *folder, const char *name)
{
    unlink(data_printf("%s/%s.onnx", folder, name));
    rmdir(folder);
}

/* log(1 - sum of 16 pixels / 12): fine for a dark picture, not a number for a white one. */
static struct pb log_model(void)
{
    const int64_t x[] = {-1, 1, 4, 4}, y[] = {-1, 3}, w[] = {16, 3}, b[] = {3};
    float weights[48];
    const float bias[3] = {1, 1.01f, 1.02f};
    for (int i = 0; i < 48; i++)
        weights[i] = -1.0f / 12;
    struct pb graph = {0};
    pb_message(&graph, 1, pb_node("Flatten", "flat", "x", NULL, "f"));
    pb_message(&graph, 1, pb_node("MatMul", "dense", "f", "w", "m"));
    pb_message(&graph, 1, pb_node("Add", "bias", "m", "b", "a"));
    pb_message(&graph, 1, pb_node("Log", "log", "a", NULL, "y"));
    pb_text(&graph, 2, "log");
    pb_message(&graph, 5, pb_tensor("w", 1, 2, w, weights, sizeof weights));
    pb_message(&graph, 5, pb_tensor("b", 1, 1, b, bias, sizeof bias));
    pb_message(&graph, 11, pb_value("x", 1, 4, x));
    pb_message(&graph, 12, pb_value("y", 1, 2, y));
    return pb_model(graph);
}

/* Two pictures in a batch of eight for which the model has no answer: their senders learn that, the
 * others get what they would get alone, to the last bit. */
Test(batching, poison_spoils_its_own_answer_alone)
{
    enum { CLIENTS = 8 };
    const char *folder = models_folder("log", log_model());
    struct server *s = server_start_with("--models", folder, "--max-delay-us", "400000",
                                         "--max-batch", "8", "--threads", "1");
    const char *alone[CLIENTS];
    struct client *clients[CLIENTS];
    uint8_t pixels[CLIENTS][16];
    for (int i = 0; i < CLIENTS; i++)
        memset(pixels[i], i % 4 == 2 ? 255 : i * 9, 16);
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < CLIENTS; i++) {
            clients[i] = client_connect(s);
            client_printf(clients[i],
                          "POST /classify/log HTTP/1.1\r\nHost: x\r\n" RAW
                          "X-Request-Timeout-Ms: %d\r\nContent-Length: 16\r\n\r\n",
                          turn == 0 ? 20 * server_slowness() : 5000);
            client_send(clients[i], pixels[i], 16);
            if (turn == 1)
                continue;
            const struct response *r = client_read(clients[i], false);
            const char *end = r == NULL ? NULL : strstr(r->body, "\"timing_ms\"");
            cr_assert(i % 4 == 2 || end != NULL, "image %d: %s", i, r == NULL ? "" : r->body);
            alone[i] = end == NULL ? "" : data_printf("%.*s", (int)(end - r->body), r->body);
            client_close(clients[i]);
        }
        for (int i = 0; turn == 1 && i < CLIENTS; i++) {
            const struct response *r = client_read(clients[i], false);
            if (i % 4 == 2)
                response_expect_error(r, 500, "model_nonfinite_output", "poison");
            else
                cr_expect(r->status == 200 && strncmp(r->body, alone[i], strlen(alone[i])) == 0,
                          "image %d: %s instead of %s", i, r->body, alone[i]);
            client_close(clients[i]);
        }
    }
    cr_expect_eq(http_metric(s, "convd_batches_total{model=\"log\",reason=\"full\"}"), 1);
    server_stop(s);
    models_remove(folder, "log");
}

struct flood {
    pthread_t thread;
    struct server *server;
    const struct body *body;
    atomic_bool *enough;
    unsigned answered;
};

static void *pour(void *arg)
{
    struct flood *f = arg;
    struct client *c = client_connect(f->server);
    while (!atomic_load(f->enough)) {
        send_images(c, f->body);
        const struct response *r = client_read(c, false);
        f->answered += r != NULL && r->status == 200;
    }
    client_close(c);
    return NULL;
}

/* A model that everybody asks for does not keep the others waiting, nor they it. */
Test(batching, models_do_not_starve_each_other)
{
    enum { FLOODS = 6, ASKS = 20 };
    const char *folder = models_folder("log", log_model());
    struct server *s =
        server_start_with("--models", folder, "--default-model", "lenet5", "--access-log", "off",
                          "--max-queue", "4096", "--request-timeout", "60s");
    atomic_bool enough = false;
    struct body b = many_images(100 / (unsigned)server_slowness());
    struct flood floods[FLOODS];
    for (int i = 0; i < FLOODS; i++) {
        floods[i] = (struct flood){.server = s, .body = &b, .enough = &enough};
        cr_assert(pthread_create(&floods[i].thread, NULL, pour, &floods[i]) == 0);
    }
    cr_assert(http_metric_wait(s, IMAGES, 300, 1e9, 5));
    double longest = 0;
    for (int i = 0; i < ASKS; i++) {
        double begin = process_now_s();
        const struct response *r =
            http_post(s, "/classify/log", "application/octet-stream", data_alloc(16), 16);
        double took = process_now_s() - begin;
        cr_assert_eq(r->status, 200, "%s", r->body);
        longest = took > longest ? took : longest;
    }
    double during = http_metric(s, IMAGES);
    atomic_store(&enough, true);
    unsigned answered = 0;
    for (int i = 0; i < FLOODS; i++) {
        pthread_join(floods[i].thread, NULL);
        answered += floods[i].answered;
    }
    cr_expect(longest < 0.5 * server_slowness(), "one waited for %.2f s", longest);
    cr_expect(during > 300 && answered > FLOODS, "%g images, %u answers", during, answered);
    server_stop(s);
    models_remove(folder, "log");
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

/* One address does not take all there is. */
Test(batching, too_many_connections_of_one_address)
{
    struct server *s = server_start_with("--max-connections-per-ip", "2");
    struct client *kept[2], *third;
    for (int i = 0; i < 2; i++) {
        kept[i] = client_connect(s);
        client_printf(kept[i], "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
        cr_assert(client_read(kept[i], false)->status == 200);
    }
    third = client_connect(s);
    cr_expect(client_at_end(third, 2), "a third connection is kept");
    client_close(third);
    client_close(kept[0]);
    const struct response *r = NULL;
    for (int i = 0; i < 100 && r == NULL; i++) {
        third = client_connect(s);
        client_printf(third, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
        r = client_read(third, false);
        client_close(third);
    }
    cr_expect(r != NULL && r->status == 200, "no room after one has left");
    client_close(kept[1]);
    server_stop(s);
}
