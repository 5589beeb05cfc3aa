/* Many clients at a time: everybody's own answer, batches, full queues, deadlines. */
#include "tests/support/requests.h"
#include "tests/unit/onnx_build.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <math.h>
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

enum { USERS = 16 };

static void run_users(struct server *s, unsigned requests)
{
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

/* A batch of four is full before a second is over, whatever the speed of the machine. */
Test(batching, requests_share_batches)
{
    struct server *s = server_start_with("--max-delay-us", "1000000", "--max-batch", "4",
                                         "--request-timeout", "60s", "--access-log", "off");
    run_users(s, 40);
    double batches = http_metric(s, "convd_batch_size_count{model=\"lenet5\"}");
    double single = http_metric(s, "convd_batch_size_bucket{model=\"lenet5\",le=\"1\"}");
    cr_expect(batches < USERS * 40 / 2, "%g batches for %d requests", batches, USERS * 40);
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

/* How long batches are to wait, for a situation that lasts as long. A machine that stalls may miss
 * it: then it is made again and lasts longer. */
#define ATTEMPTS 20
static const char *longer(unsigned *delay_us)
{
    *delay_us = *delay_us < 500000 ? 2 * *delay_us : 1000000;
    return data_printf("%u", *delay_us);
}

/* More than the queue holds: the others are refused at once, with the time to come back; none is
 * lost. False when there was more than one batch, so that the queue has been emptied meanwhile. */
static bool a_full_queue(const char *delay_us)
{
    enum { CLIENTS = 40, PLACES = 64, IMAGES_EACH = 16 };
    struct server *s = server_start_with("--max-queue", "64", "--threads", "1", "--access-log",
                                         "off", "--max-delay-us", delay_us, "--max-batch", "1024");
    struct body b = many_images(IMAGES_EACH);
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
    bool at_once = http_metric(s, "convd_batch_size_count{model=\"lenet5\"}") == 1;
    cr_expect(!at_once || accepted == PLACES / IMAGES_EACH, "%d accepted", accepted);
    cr_expect_eq(http_metric(s, "convd_rejected_total{reason=\"queue_full\"}"), refused);
    cr_expect_eq(http_metric(s, "convd_queue_depth{model=\"lenet5\"}"), 0);
    cr_expect_eq(http_metric(s, "convd_queue_bytes"), 0);
    cr_expect_eq(http_get(s, "/readyz")->status, 200);
    server_stop(s);
    return at_once;
}

Test(batching, a_full_queue_refuses)
{
    unsigned delay_us = 50000, left = ATTEMPTS;
    while (!a_full_queue(longer(&delay_us)))
        cr_assert(--left > 0, "the queue was never full for long");
}

/* Memory for bodies is bounded over all connections: who comes too late is told so, and not kept.
 */
Test(batching, too_many_bytes_of_bodies)
{
    static const char refused[] = "convd_rejected_total{reason=\"memory\"}";
    struct server *s = server_start_with("--max-queue-bytes", "1M", "--max-body", "2M");
    size_t len = 900000;
    char *bytes = data_alloc(len);
    const struct response *of_first, *of_second;
    long pause_ms = 50;
    do { /* until the first had been read when the second came: the server may be slow */
        double before = http_metric(s, refused);
        struct client *first = client_connect(s);
        client_printf(first, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                      len);
        client_send(first, bytes, len - 1);
        process_pause_ms(pause_ms *= 2);
        of_second = http_post(s, "/classify", NULL, bytes, 300000);
        client_send(first, bytes, 1);
        of_first = client_read(first, false);
        client_close(first);
        cr_assert(of_first != NULL);
        cr_expect_eq(http_metric(s, refused) - before,
                     (of_first->status == 503) + (of_second->status == 503));
    } while (of_second->status != 503 && pause_ms < 2000);
    response_expect_error(of_second, 503, "out_of_memory", "a second body");
    cr_assert(response_header(of_second, "Retry-After") != NULL);
    response_expect_error(of_first, 415, NULL, "the first body");
    response_expect_error(http_post(s, "/classify", NULL, bytes, 300000), 415, NULL, "afterwards");
    server_stop(s);
}

/* ---------------------------------------------------------------- deadlines, clients that leave */

/* A request that cannot wait does not, although others would make the batch fuller. Whoever asks
 * for more time than there is at most gets that. */
Test(batching, a_delay_leaves_time_before_the_deadline)
{
    static const struct {
        const char *at_most, *asked;
    } rows[] = {{"5s", "400"}, {"400ms", "3600000"}, {"400ms", "99999999999999999999"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct server *s =
            server_start_with("--max-delay-us", "1000000", "--request-timeout", rows[i].at_most);
        const char *headers = data_printf(RAW "X-Request-Timeout-Ms: %s\r\n", rows[i].asked);
        const struct response *r;
        unsigned left = ATTEMPTS;
        double took;
        do { /* on a machine that stalls it may be late */
            double begin = process_now_s();
            r = http_request(s, "POST", "/classify", headers, digit_pixels(1), 784);
            took = process_now_s() - begin;
            cr_expect(took > 0.19, "%s: answered after %.2f s", rows[i].asked, took);
        } while ((r->status == 504 || took > 0.9) && --left > 0);
        expect_digit(r, 1, 5, rows[i].asked);
        cr_expect(took < 0.9, "%s: answered after %.2f s", rows[i].asked, took);
        server_stop(s);
    }
}

static double compute_ms(const struct response *r)
{
    cr_assert(r != NULL && r->status == 200, "%s", r == NULL ? "no answer" : r->body);
    json_t *timing = json_object_get(response_json(r), "timing_ms");
    return json_number_value(json_object_get(timing, "compute"));
}

/* The only worker is busy for longer than the deadline: what waits is told in time, and what cannot
 * be in time, as far as one knows by then, is not let in. Nothing of it is computed. False when it
 * was not busy for so long. `*ms` is how long, in and out. */
static bool deadlines(double *ms)
{
    enum { LONG = 1024 };
    struct server *s = server_start_with("--cpu", "c", "--threads", "1", "--max-batch", "1024",
                                         "--request-timeout", "60s");
    struct client *long_one = client_connect(s);
    const struct body b = many_images(LONG);
    const char *headers = data_printf(RAW "X-Request-Timeout-Ms: %.0f\r\n", ceil(*ms / 10));
    unsigned in_time = 0, taken = 0;
    bool told = false, not_let_in = false;

    send_images(long_one, &b);
    /* Not before it has left the queue. */
    cr_assert(http_metric_wait(s, TAKEN, 1, 1, 20));
    const struct response *r = http_request(s, "POST", "/classify", headers, digit_pixels(1), 784);
    if (!client_readable(long_one) && r->status == 504) {
        response_expect_error(r, 504, "deadline_exceeded", "nobody knows how long it will take");
        told = true;
    }
    in_time += r->status == 200;
    taken = r->status == 503 ? 1 : 2;
    *ms = compute_ms(client_read(long_one, false));

    send_images(long_one, &b); /* how long an image takes is known now */
    cr_assert(http_metric_wait(s, TAKEN, taken + 1, taken + 1, 20));
    double before = http_metric(s, "convd_rejected_total{reason=\"deadline\"}");
    r = http_request(s, "POST", "/classify", headers, digit_pixels(1), 784);
    if (!client_readable(long_one) && r->status == 503) {
        response_expect_error(r, 503, "queue_timeout", "it is known how long it will take");
        cr_assert(response_header(r, "Retry-After") != NULL);
        cr_expect_eq(http_metric(s, "convd_rejected_total{reason=\"deadline\"}"), before + 1);
        not_let_in = true;
    }
    in_time += r->status == 200;
    compute_ms(client_read(long_one, false));
    cr_expect_eq(http_metric(s, IMAGES), 2 * LONG + in_time, "%g images, %u in time",
                 http_metric(s, IMAGES), in_time);
    client_close(long_one);
    server_stop(s);
    return told && not_let_in;
}

Test(batching, deadlines)
{
    double ms = 20;
    unsigned left = ATTEMPTS;
    while (!deadlines(&ms))
        cr_assert(--left > 0, "nobody was told in time, or too many let in");
}

/* The deadline passes while the batch is computed: the client is told then, not when the batch is
 * over, and the other in it has its answer. False when that has not happened. */
static bool deadline_during_the_computing(double *ms)
{
    enum { IMAGES_OF_MATE = 1000 };
    static const char expired[] =
        "convd_inference_requests_total{model=\"lenet5\",version=\"1\",outcome=\"expired\"}";
    struct server *s = server_start_with("--cpu", "c", "--threads", "1", "--max-batch", "1024",
                                         "--max-delay-us", "1000000", "--request-timeout", "60s");
    const struct body b = many_images(IMAGES_OF_MATE);
    struct client *mate = client_connect(s), *c = client_connect(s);
    send_images(mate, &b);
    bool met = http_metric_wait(s, "convd_queue_depth{model=\"lenet5\"}", IMAGES_OF_MATE,
                                IMAGES_OF_MATE, 1);
    /* Half of that time goes into waiting for more. */
    client_printf(c,
                  "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "X-Request-Timeout-Ms: %.0f\r\n"
                  "Content-Length: 784\r\n\r\n",
                  ceil(*ms));
    client_send(c, digit_pixels(3), 784);
    const struct response *r = client_read(c, false);
    met = met && r != NULL && r->status == 504 && !client_readable(mate);
    *ms = compute_ms(client_read(mate, false));
    /* Or it has expired before. */
    met = met && http_metric(s, "convd_batch_size_sum{model=\"lenet5\"}") == IMAGES_OF_MATE + 1;
    if (met) {
        response_expect_error(r, 504, "deadline_exceeded", "a long batch");
        cr_expect_eq(http_metric(s, IMAGES), IMAGES_OF_MATE);
        cr_expect_eq(http_metric(s, expired), 1);
        /* The connection is of use again. */
        client_printf(c,
                      "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "Content-Length: 784\r\n\r\n");
        client_send(c, digit_pixels(3), 784);
        expect_digit(client_read(c, false), 3, 5, "afterwards");
    }
    client_close(mate);
    client_close(c);
    server_stop(s);
    return met;
}

Test(batching, a_deadline_passes_during_the_computing)
{
    double ms = 60;
    unsigned left = ATTEMPTS;
    while (!deadline_during_the_computing(&ms))
        cr_assert(--left > 0, "nobody was told before the batch was over");
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
    cr_expect(http_metric_wait(s, "convd_inflight_requests", 1, 1, 20), "the metrics' own is left");
    cr_expect_eq(http_metric(s, "convd_queue_depth{model=\"lenet5\"}"), 0);
    expect_digit(http_post(s, "/classify", "application/octet-stream", digit, 784), 4, 5,
                 "afterwards");
    server_stop(s);
}

/* Clients that leave while their request waits, by closing, by a reset or by closing their side
 * alone, are noticed, and their images are not computed. False when the wait was over before all
 * had left. */
static bool clients_that_left_are_dropped(void)
{
    enum { CLIENTS = 9 };
    static const char cancelled[] =
        "convd_inference_requests_total{model=\"lenet5\",version=\"1\",outcome=\"cancelled\"}";
    static void (*const ways[])(struct client *) = {client_reset, client_close, client_half_close};
    struct server *s = server_start_with("--max-delay-us", "1000000", "--threads", "1");
    bool queued = true;
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = client_connect(s);
        client_printf(c,
                      "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "Content-Length: 784\r\n\r\n");
        client_send(c, digit_pixels(i), 784);
        /* Leave only once it waits in the queue. */
        queued =
            queued && http_metric_wait(s, "convd_queue_depth{model=\"lenet5\"}", i + 1, i + 1, 1);
        ways[i % 3](c);
    }
    cr_expect(http_metric_wait(s, "convd_inflight_requests", 1, 1, 20));
    cr_expect_eq(http_metric(s, "convd_queue_depth{model=\"lenet5\"}"), 0);
    double computed = http_metric(s, IMAGES), dropped = http_metric(s, cancelled);
    double noticed = http_metric(s, "convd_client_disconnects_total");
    cr_expect_eq(computed + dropped, CLIENTS, "%g computed, %g dropped", computed, dropped);
    cr_expect_geq(noticed, dropped, "%g of %g noticed", noticed, dropped);
    expect_digit(http_post(s, "/classify", "application/octet-stream", digit_pixels(2), 784), 2, 5,
                 "afterwards");
    server_stop(s);
    return queued && dropped == CLIENTS;
}

Test(batching, requests_of_clients_that_left_are_dropped)
{
    unsigned left = ATTEMPTS / 2;
    while (!clients_that_left_are_dropped())
        cr_assert(--left > 0, "some are always computed");
}

/* ---------------------------------------------------------------- one beside the other */

/* First come, first served: a small request is answered before what came after it. False when the
 * answer of the last was seen first; they may have been sent in one go. */
static bool in_turn(void)
{
    struct server *s = server_start_with("--cpu", "c", "--threads", "1", "--max-batch", "4",
                                         "--request-timeout", "60s");
    struct client *first = client_connect(s), *small = client_connect(s), *last = client_connect(s);
    struct body b = many_images(200 / (unsigned)server_slowness());
    send_images(first, &b);
    cr_assert(http_metric_wait(s, "convd_batch_size_sum{model=\"lenet5\"}", 1, 200, 20));
    client_printf(small,
                  "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "Content-Length: 784\r\n\r\n");
    client_send(small, digit_pixels(6), 784);
    /* Another connection's answer: this one has been read before it. */
    cr_assert_eq(http_get(s, "/livez")->status, 200);
    send_images(last, &b);
    const struct response *r = client_read(last, false);
    cr_assert(r != NULL && r->status == 200);
    bool met = client_readable(first) && client_readable(small);
    expect_digit(client_read(small, false), 6, 5, "the small one");
    client_close(first);
    client_close(small);
    client_close(last);
    server_stop(s);
    return met;
}

Test(batching, a_long_request_does_not_overtake)
{
    unsigned left = ATTEMPTS / 2;
    while (!in_turn())
        cr_assert(--left > 0, "the last is always answered first");
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

enum { EIGHT = 8 };

static bool is_poison(int image)
{
    return image % 4 == 2;
}

/* Has the server classify eight pictures, of which two are poison, one after the other or all at a
 * time. The answers, without how long they took; NULL for an error. */
static void ask_eight(struct server *s, bool at_once, const char *answers[EIGHT])
{
    struct client *clients[EIGHT];
    uint8_t pixels[16];
    for (int i = 0; i < EIGHT; i++) {
        memset(pixels, is_poison(i) ? 255 : i * 9, 16);
        clients[i] = client_connect(s);
        client_printf(clients[i], "POST /classify/log HTTP/1.1\r\nHost: x\r\n" RAW
                                  "Content-Length: 16\r\n\r\n");
        client_send(clients[i], pixels, 16);
        for (int j = at_once ? 0 : i; j <= i && (!at_once || i == EIGHT - 1); j++) {
            const struct response *r = client_read(clients[j], false);
            cr_assert(r != NULL);
            const char *end = strstr(r->body, "\"timing_ms\"");
            if (is_poison(j))
                response_expect_error(r, 500, "model_nonfinite_output", "poison");
            else
                cr_assert(end != NULL, "image %d: %s", j, r->body);
            answers[j] = end == NULL ? "" : data_printf("%.*s", (int)(end - r->body), r->body);
            client_close(clients[j]);
        }
    }
}

/* Two pictures in a batch of eight for which the model has no answer: their senders learn that, the
 * others get what they would get alone, to the last bit. */
Test(batching, poison_spoils_its_own_answer_alone)
{
    const char *folder = models_folder("log", log_model()), *alone[EIGHT], *together[EIGHT];
    unsigned left = ATTEMPTS / 2;
    struct server *s = server_start_with("--models", folder, "--threads", "1");
    ask_eight(s, false, alone);
    server_stop(s);
    double full;
    do { /* until they were in one batch */
        s = server_start_with("--models", folder, "--max-delay-us", "1000000", "--max-batch", "8",
                              "--threads", "1");
        ask_eight(s, true, together);
        for (int i = 0; i < EIGHT; i++)
            cr_expect_str_eq(together[i], alone[i], "image %d", i);
        full = http_metric(s, "convd_batches_total{model=\"log\",reason=\"full\"}");
        server_stop(s);
    } while (full != 1 && --left > 0);
    cr_expect_eq(full, 1, "never eight in a batch");
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
    enum { FLOODS = 6, ASKS = 20, MANY = 1000 };
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
    cr_assert(http_metric_wait(s, IMAGES, MANY, 1e9, 20));
    double before = http_metric(s, IMAGES), during = before;
    /* Neither can wait for the other to come to an end: they do not. */
    for (int i = 0; i < ASKS || during < before + MANY; i++) {
        cr_assert(i < 100000, "only %g images beside %d", during - before, i);
        const struct response *r =
            http_post(s, "/classify/log", "application/octet-stream", data_alloc(16), 16);
        cr_assert_eq(r->status, 200, "%s", r->body);
        during = http_metric(s, IMAGES);
    }
    atomic_store(&enough, true);
    unsigned answered = 0;
    for (int i = 0; i < FLOODS; i++) {
        pthread_join(floods[i].thread, NULL);
        answered += floods[i].answered;
    }
    cr_expect(answered > FLOODS, "%u answers", answered);
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
    cr_expect(client_at_end(third, 20), "a third connection is kept");
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
