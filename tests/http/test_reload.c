/*
 * SIGHUP: models are replaced, added and removed under load, and nobody notices but by the answers.
 *
 * A longer run: CONVD_RELOADS=N sends the test under load N signals, one a second (120 of them need
 * a TEST_TIMEOUT of 300 for tests/run.sh).
 */
#include "tests/support/faults.h"
#include "tests/support/requests.h"
#include "tests/unit/classifier_model.h"

#include <criterion/criterion.h>

#include <ftw.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char folder[64];

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* ---------------------------------------------------------------- the model folder */

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "/tmp/convd-reload-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void remove_folder(void)
{
    remove_tree(folder);
}

TestSuite(reload, .init = make_folder, .fini = remove_folder);

static const char *at(const char *name)
{
    return data_printf("%s/%s", folder, name);
}

/* Puts a file into its place in one step, as a deployment should. */
static void put(const char *name, const void *bytes, size_t len)
{
    const char *aside = at(".new");
    FILE *f = fopen(aside, "wb");
    cr_assert(f != NULL && fwrite(bytes, 1, len, f) == len && fclose(f) == 0);
    cr_assert_eq(rename(aside, at(name)), 0, "%s", name);
}

static void put_text(const char *name, const char *text)
{
    put(name, text, strlen(text));
}

/* A model whose labels begin with this letter; different biases answer differently. */
static void put_model(const char *name, char letter, float bias)
{
    const char *labels = data_printf("[\"%c0\",\"%c1\",\"%c2\",\"%c3\",\"%c4\"]", letter, letter,
                                     letter, letter, letter);
    struct pb file = classifier_model(&(struct classifier_options){.bias = bias, .labels = labels});
    put(name, file.data, file.len);
    pb_free(&file);
}

static void make_subfolder(const char *name)
{
    cr_assert_eq(mkdir(at(name), 0700), 0, "%s", name);
}

/* How often a text is in the log. */
static unsigned logged(const struct server *s, const char *text)
{
    unsigned count = 0;
    for (const char *p = server_log(s); (p = strstr(p, text)) != NULL; p++)
        count++;
    return count;
}

static bool wait_logged(const struct server *s, const char *text, unsigned count)
{
    for (int ms = 0; logged(s, text) < count && ms < 20000 * server_slowness(); ms += 2)
        pause_ms(2);
    return logged(s, text) >= count;
}

static void expect_logged(const struct server *s, const char *text, unsigned count)
{
    wait_logged(s, text, count);
    cr_assert_eq(logged(s, text), count, "%u lines with '%s' instead of %u:\n%s", logged(s, text),
                 text, count, server_log_tail(s));
}

#define PASS "\"model folder read\""

/* Has the folder read again and waits for the end of that. */
static void reload(const struct server *s)
{
    unsigned passes = logged(s, PASS);
    server_signal(s, SIGHUP);
    expect_logged(s, PASS, passes + 1);
}

/* ---------------------------------------------------------------- requests */

enum { IMAGES = 4 };

static void post_image(struct client *c, const char *model, int image)
{
    unsigned char pixels[CLASSIFIER_PIXELS];
    for (int i = 0; i < CLASSIFIER_PIXELS; i++)
        pixels[i] = (unsigned char)((i + 1) * (image + 3) * 29);
    client_printf(c,
                  "POST /classify/%s?top_k=0 HTTP/1.1\r\nHost: x\r\n"
                  "Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n",
                  model, CLASSIFIER_PIXELS);
    client_send(c, pixels, sizeof pixels);
}

/* All of an answer but how long it took. */
static char *answer_of(const struct response *r, const char *what)
{
    cr_assert(r != NULL && r->status == 200, "%s: %s", what, r ? r->body : "no response");
    const char *end = strstr(r->body, ",\"timing_ms\"");
    cr_assert_not_null(end, "%s", r->body);
    return data_printf("%.*s", (int)(end - r->body), r->body);
}

static char *ask(const struct server *s, const char *model, int image)
{
    struct client *c = client_connect(s);
    post_image(c, model, image);
    char *answer = answer_of(client_read(c, false), model);
    client_close(c);
    return answer;
}

static int status_of(const struct server *s, const char *model)
{
    struct client *c = client_connect(s);
    post_image(c, model, 0);
    int status = client_read(c, false)->status;
    client_close(c);
    return status;
}

/* ---------------------------------------------------------------- under load */

/* What the two models answer, in the first or the second state of the folder: "swap" is another
 * file under the same version, "step" another version. */
static const char *const names[] = {"swap", "step"};
enum { MODELS = 2, STATES = 2 };
static char *expected[MODELS][STATES][IMAGES];

static void put_swap(int state)
{
    put_model("swap.onnx", state == 0 ? 'A' : 'B', state == 0 ? 0 : 0.5f);
}

static void put_step(int state)
{
    if (state == 1) { /* the newest is served */
        cr_assert_eq(rename(at(".aside"), at("step/2")), 0);
    } else {
        cr_assert_eq(rename(at("step/2"), at(".aside")), 0);
    }
}

static void learn(int state)
{
    struct server *s = server_start_with("--models", folder, "--log-format", "json");
    for (int m = 0; m < MODELS; m++) {
        for (int i = 0; i < IMAGES; i++) {
            expected[m][state][i] = ask(s, names[m], i);
            cr_assert(state == 0 || strcmp(expected[m][0][i], expected[m][1][i]) != 0);
        }
    }
    server_stop(s);
}

struct user {
    pthread_t thread;
    const struct server *server;
    const atomic_bool *stop;
    long pause_ms;
    atomic_uint seen[MODELS][STATES];
    atomic_uint failed;
    const char *failure;
};

static void use_once(struct user *u, struct client *c, int model, int image)
{
    post_image(c, names[model], image);
    const struct response *r = client_read(c, false);
    const char *end = r != NULL && r->status == 200 ? strstr(r->body, ",\"timing_ms\"") : NULL;
    for (int state = 0; end != NULL && state < STATES; state++) {
        const char *answer = expected[model][state][image];
        if (strlen(answer) == (size_t)(end - r->body) &&
            strncmp(answer, r->body, strlen(answer)) == 0) {
            u->seen[model][state]++;
            return;
        }
    }
    u->failed++;
    u->failure = r != NULL ? data_printf("%s%s", r->head, r->body) : "no response";
}

static void *use(void *arg)
{
    struct user *u = arg;
    struct client *c = client_connect(u->server);
    for (int n = 0; !atomic_load(u->stop) && u->failed == 0; n++) {
        use_once(u, c, n % MODELS, n / MODELS % IMAGES);
        pause_ms(u->pause_ms);
    }
    client_close(c);
    return NULL;
}

/* Waits until each user has seen that model in this state, be it in the past. */
static void expect_seen(const struct user *users, int count, int model, int state)
{
    for (int i = 0; i < count; i++) {
        const struct user *u = &users[i];
        for (int ms = 0; u->seen[model][state] == 0 && u->failed == 0; ms++) {
            cr_assert(ms < 20000 * server_slowness(), "%s in state %d was never seen", names[model],
                      state);
            pause_ms(1);
        }
    }
}

Test(reload, under_load_no_request_fails_and_every_answer_is_one_models, .timeout = 600)
{
    enum { USERS = 4 };
    const char *count = getenv("CONVD_RELOADS");
    bool is_long = count != NULL;
    int rounds = is_long ? atoi(count) : 40;
    make_subfolder("step");
    make_subfolder("step/1");
    make_subfolder("step/2");
    put_swap(0);
    put_model("step/1/model.onnx", 'C', 0);
    put_model("step/2/model.onnx", 'D', 0.5f);
    put_step(0);
    learn(0);
    put_swap(1);
    put_step(1);
    learn(1);

    struct server *s = server_start_with("--models", folder, "--log-format", "json", "--access-log",
                                         "off", "--io-threads", "2");
    atomic_bool stop = false;
    struct user users[USERS];
    for (int i = 0; i < USERS; i++) {
        users[i] = (struct user){.server = s, .stop = &stop, .pause_ms = is_long ? 10 : 1};
        cr_assert(pthread_create(&users[i].thread, NULL, use, &users[i]) == 0);
    }
    int step = 1;
    for (int round = 0; round < rounds; round++) {
        switch (round % 4) {
        case 0:
            put_swap(0);
            put_step(step = !step);
            break;
        case 1:
            put_text("swap.onnx", "not a model");
            break;
        case 2:
            put_swap(1);
            put_step(step = !step);
            break;
        case 3:
            put_model("swap.onnx", 'N', NAN);
            break;
        }
        server_signal(s, SIGHUP);
        pause_ms(is_long ? 1000 : 100);
    }
    for (int state = 0; state < STATES; state++) {
        put_swap(state);
        if (step != state)
            put_step(step = state);
        server_signal(s, SIGHUP);
        for (int m = 0; m < MODELS; m++)
            expect_seen(users, USERS, m, state);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < USERS; i++) {
        pthread_join(users[i].thread, NULL);
        cr_assert_eq(users[i].failed, 0, "%s\n%s", users[i].failure, server_log_tail(s));
    }

    put_swap(0);
    for (int i = 0; i < 2;
         i++) { /* the end of the first may be that of one that had begun before */
        unsigned passes = logged(s, PASS);
        server_signal(s, SIGHUP);
        cr_assert(wait_logged(s, PASS, passes + 1), "%s", server_log_tail(s));
    }
    cr_expect_str_eq(ask(s, "swap", 2), expected[0][0][2]);
    cr_expect(logged(s, "not an ONNX file") > 0 && logged(s, "not a finite number") > 0, "%s",
              server_log_tail(s));
    /* lenet5, swap and step are there now; everything else was freed. */
    expect_logged(s, "\"model freed\"", logged(s, "\"model loaded\"") - 3);
    cr_expect_eq(http_metric(s, "convd_model_loaded{model=\"swap\",version=\"1\"}"), 1);
    cr_expect_eq(http_metric(s, "convd_model_loaded{model=\"step\",version=\"2\"}"), step);
    cr_expect(http_metric(s, "convd_model_load_seconds{model=\"swap\"}") > 0);
    server_stop(s);
}

/* ---------------------------------------------------------------- memory */

enum { WIDE = 1024, WEIGHT_BYTES = WIDE * WIDE * 4 };

/* x [N,1,4,4] -> flatten -> times 16 x WIDE -> times WIDE x WIDE -> y: 4 MiB of weights. */
static void put_large_model(const char *name, unsigned seed)
{
    static float weights[WIDE * WIDE];
    const int64_t x[] = {-1, 1, 4, 4}, y[] = {-1, WIDE};
    const int64_t w1[] = {CLASSIFIER_PIXELS, WIDE}, w2[] = {WIDE, WIDE};
    for (size_t i = 0; i < WIDE * WIDE; i++)
        weights[i] = (float)((i * 37 + seed) % 61) / 1024;
    struct pb graph = {0};
    pb_message(&graph, 1, pb_node("Flatten", "flat", "x", NULL, "f"));
    pb_message(&graph, 1, pb_node("MatMul", "first", "f", "w1", "m"));
    pb_message(&graph, 1, pb_node("MatMul", "second", "m", "w2", "y"));
    pb_text(&graph, 2, "large");
    pb_message(&graph, 5, pb_tensor("w1", 1, 2, w1, weights, CLASSIFIER_PIXELS * WIDE * 4));
    pb_message(&graph, 5, pb_tensor("w2", 1, 2, w2, weights, WEIGHT_BYTES));
    pb_message(&graph, 11, pb_value("x", 1, 4, x));
    pb_message(&graph, 12, pb_value("y", 1, 2, y));
    struct pb model = pb_model(graph);
    put(name, model.data, model.len);
    pb_free(&model);
}

Test(reload, memory_of_replaced_models_goes_back)
{
    if (server_slowness() > 1)
        cr_skip_test("sanitizers keep freed memory");
    put_large_model("large.onnx", 1);
    struct server *s = server_start_with("--models", folder, "--log-format", "json");
    put_large_model("large.onnx", 2);
    reload(s);
    size_t before = server_rss(s);
    for (unsigned i = 3; i < 10; i++) {
        put_large_model("large.onnx", i);
        reload(s);
        cr_assert_eq(status_of(s, "large"), 200);
    }
    expect_logged(s, "\"model freed\"", 8);
    size_t after = server_rss(s);
    cr_expect(after < before + 2 * WEIGHT_BYTES, "%zu bytes grew to %zu", before, after);
    server_stop(s);
}

/* ---------------------------------------------------------------- what changes and what stays */

Test(reload, a_failed_one_keeps_the_old_model)
{
    make_subfolder("mine");
    put_model("mine/model.onnx", 'A', 0);
    struct server *s = server_start_with("--models", folder, "--log-format", "json");
    const char *before = ask(s, "mine", 1);
    put_text("mine/model.onnx", "broken");
    reload(s);
    cr_expect_eq(logged(s, "\"model not loaded\""), 1);
    put_model("mine/model.onnx", 'B', NAN);
    reload(s);
    cr_expect_eq(logged(s, "\"model not loaded\""), 2);
    put_model("mine/model.onnx", 'B', 3e38f); /* finite weights, infinite answers */
    reload(s);
    cr_expect_eq(logged(s, "\"model not loaded\""), 3);
    put_model("mine/model.onnx", 'B', 1);
    put_text("mine/config.json", "{\"lables\":\"x\"}");
    reload(s);
    cr_expect_eq(logged(s, "\"model not loaded\""), 4);
    cr_expect_eq(logged(s, "\"still_served\":\"1\""), 4, "%s", server_log(s));
    cr_expect(logged(s, "lables") == 1);
    cr_expect_str_eq(ask(s, "mine", 1), before);
    cr_expect_eq(http_get(s, "/readyz")->status, 200);
    cr_expect_eq(http_metric(s, "convd_model_loaded{model=\"mine\",version=\"1\"}"), 1);
    cr_expect_eq(logged(s, "\"model freed\""), 0);
    put_text("mine/config.json", "{}");
    reload(s);
    cr_expect_not_null(strstr(ask(s, "mine", 1), "\"B"));
    server_stop(s);
}

Test(reload, models_come_and_go)
{
    put_model("old.onnx", 'A', 0);
    struct server *s = server_start_with("--models", folder, "--log-format", "json");
    cr_assert_eq(status_of(s, "old"), 200);
    cr_assert_eq(status_of(s, "new"), 404);
    reload(s); /* nothing has changed */
    cr_expect_eq(logged(s, "\"model loaded\""), 2, "%s", server_log(s));
    put_model("new.onnx", 'B', 0);
    cr_assert_eq(remove(at("old.onnx")), 0);
    reload(s);
    cr_expect_eq(status_of(s, "old"), 404);
    cr_expect_eq(status_of(s, "new"), 200);
    cr_expect_null(strstr(http_get(s, "/models")->body, "\"old\""));
    cr_expect_not_null(strstr(http_get(s, "/models")->body, "\"new\""));
    cr_expect_eq(http_metric(s, "convd_model_loaded{model=\"old\",version=\"1\"}"), 0);
    cr_expect_eq(http_metric(s, "convd_model_loaded{model=\"new\",version=\"1\"}"), 1);
    server_stop(s);
}

Test(reload, without_a_folder_nothing_happens)
{
    struct server *s = server_start_with("--log-format", "json");
    reload(s);
    cr_expect_eq(logged(s, "\"model loaded\""), 1);
    expect_digit(http_post(s, "/classify", "application/octet-stream", digit_pixels(4), 784), 4, 5,
                 "after a reload");
    server_stop(s);
}

/* Each allocation in the whole process fails in turn, once and from then on, from the signal to the
 * end of the reload: the models go on answering, as before or as they should, and the next reload
 * puts everything right. */
Test(reload, without_memory, .timeout = 600)
{
    static const char *const ends[] = {PASS, "\"reload: "};
    struct alloc_hook *hook;
    put_model("swap.onnx", 'A', 0);
    make_subfolder("step");
    make_subfolder("step/1");
    put_model("step/1/model.onnx", 'A', 0);
    struct server *s = faults_server_start((const char *const[]){"--models", folder, "--log-format",
                                                                 "json", "--threads", "1",
                                                                 "--request-timeout", "60s", NULL},
                                           &hook);
    for (int forever = 0; forever < 2; forever++) {
        unsigned long failed = 1;
        char letter = 'A';
        long n = 1;
        for (; failed > 0; n++) {
            const char *what = data_printf("allocation %ld%s", n, forever ? " and all after" : "");
            letter = letter == 'A' ? 'B' : 'A';
            put_model("swap.onnx", letter, 0);
            put_model("step/1/model.onnx", letter, 0);
            cr_assert_eq(ftruncate(s->log_fd, 0), 0); /* or reading it takes most of the time */
            faults_begin(hook, n, forever);
            server_signal(s, SIGHUP);
            for (int ms = 0; logged(s, ends[0]) + logged(s, ends[1]) == 0; ms++) {
                cr_assert(ms < 20000 * server_slowness(), "%s: the reload does not end:\n%s", what,
                          server_log_tail(s));
                pause_ms(1);
            }
            failed = faults_end(hook);
            for (int m = 0; m < MODELS; m++)
                cr_assert_not_null(strchr("AB", strstr(ask(s, names[m], 0), "label\":\"")[8]), "%s",
                                   what);
            reload(s);
            for (int m = 0; m < MODELS; m++)
                cr_assert_eq(strstr(ask(s, names[m], 0), "label\":\"")[8], letter, "%s: %s", what,
                             names[m]);
        }
        cr_assert_gt(n, 100);
    }
    server_stop(s);
}

/* A request waits in the queue of a model that goes: it is answered all the same, and until then
 * the reload is not over, which nobody else feels; signals meanwhile become one more reload. False
 * when it did not wait for so long. */
static bool finished_under_way(void)
{
    put_model("mine.onnx", 'A', 0);
    put_model("gone.onnx", 'G', 0);
    struct server *s =
        server_start_with("--models", folder, "--log-format", "json", "--max-delay-us", "1000000");
    struct client *waiting = client_connect(s);
    post_image(waiting, "gone", 0);
    http_metric_wait(s, "convd_queue_depth{model=\"gone\"}", 1, 1, 1);
    cr_assert_eq(remove(at("gone.onnx")), 0);
    put_model("other.onnx", 'O', 0);
    server_signal(s, SIGHUP);
    cr_assert(server_log_wait(s, "\"other\"", 20));
    for (int i = 0; i < 20; i++) {
        server_signal(s, SIGHUP);
        cr_assert_eq(http_get(s, "/livez")->status, 200);
        pause_ms(2);
    }
    cr_expect_eq(status_of(s, "gone"), 404);
    bool waits = !client_readable(waiting);
    cr_expect_not_null(strstr(answer_of(client_read(waiting, false), "waiting"), "\"G"));
    expect_logged(s, "\"model freed\"", 1);
    if (waits) {
        expect_logged(s, PASS, 3);
        pause_ms(50);
        expect_logged(s, PASS, 3);
    }
    server_stop(s);
    cr_assert_eq(remove(at("other.onnx")), 0);
    return waits;
}

Test(reload, a_request_under_way_is_finished)
{
    int left = 10;
    while (!finished_under_way())
        cr_assert(--left > 0, "the request never waited for so long");
}

Test(reload, a_stop_in_the_middle_is_clean)
{
    for (unsigned i = 0; i < 6; i++) {
        put_large_model("large.onnx", i);
        put_model("small.onnx", 'A', 0);
        struct server *s = server_start_with("--models", folder, "--log-format", "json");
        put_large_model("large.onnx", i + 100);
        put_model("small.onnx", 'B', 0);
        server_signal(s, SIGHUP);
        pause_ms((long)i * 7);
        server_signal(s, SIGHUP);
        server_stop(s);
    }
}
