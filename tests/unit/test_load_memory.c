/*
 * A model folder loaded, and loaded again, while memory runs out: each allocation of the engine,
 * the server and their libraries fails in turn, once and from then on. What is served all the same
 * is what the files say, or said before, nothing is lost, and with memory again everything loads.
 */
#include "server/metrics.h"
#include "server/pool.h"
#include "server/registry.h"
#include "server/registry_json.h"

#include "tests/support/alloc_hook.h"
#include "tests/support/data.h"
#include "tests/unit/classifier_model.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MODELS = 8 };

static char folder[] = "/tmp/convd-memory-XXXXXX";

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void make_folder(void)
{
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(load, .init = make_folder, .fini = remove_folder);

static void make_subfolder(const char *name)
{
    cr_assert_eq(mkdir(data_printf("%s/%s", folder, name), 0700), 0, "%s", name);
}

static void put(const char *name, const void *bytes, size_t len)
{
    const char *path = data_printf("%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f, "%s", path);
    cr_assert_eq(fwrite(bytes, 1, len, f), len);
    fclose(f);
}

static void put_model(const char *name, const struct classifier_options *options)
{
    struct pb file = classifier_model(options);
    put(name, file.data, file.len);
    pb_free(&file);
}

/* Every source of settings: config.json, labels.txt, metadata; strings and numbers that are longer
 * than a parser's first buffer. In place of the built-in model, whose size only takes time. */
static void fill_folder(void)
{
    static const char config[] =
        "{\"labels\":\"names of the classes.txt\",\"versions\":\"all\",\"input\":{\"mean\":0.25,"
        "\"scale\":0.0039215686274509803921568627,\"resize\":\"stretch\"},"
        "\"batching\":{\"max_batch_size\":3,\"max_delay_us\":100},\"output\":{\"softmax\":"
        "\"always\"}}";
    static const char names[] = "a label that is rather long\nb\nc\nd\ne\n";
    const struct classifier_options plain = {0},
                                    described = {.labels =
                                                     "[\"the first of five classes\",\"2\",\"3\","
                                                     "\"4\",\"the last of the five classes\"]",
                                                 .input = "{\"std\":0.50000000000000000000001}"};
    make_subfolder("lenet5");
    make_subfolder("lenet5/1");
    make_subfolder("lenet5/12");
    put("lenet5/config.json", config, sizeof config - 1);
    put("lenet5/names of the classes.txt", names, sizeof names - 1);
    put_model("lenet5/1/model.onnx", &plain);
    put_model("lenet5/12/model.onnx", &plain);
    put_model("described.onnx", &described);
}

/* What is served, model by model. */
struct served {
    size_t count;
    char *text[MODELS];
};

static void describe(const struct registry_model *m, void *cookie)
{
    struct served *s = cookie;
    struct text t = {0};
    registry_json(&t, m);
    text_printf(&t, " softmax %d batch %u delay %llu", m->apply_softmax, m->max_batch,
                (unsigned long long)m->max_delay_ns);
    cr_assert(!t.failed && s->count < MODELS);
    s->text[s->count++] = t.data;
}

static void served_free(struct served *s)
{
    while (s->count > 0)
        pool_free(s->text[--s->count]);
}

/* From now on the n-th allocation fails, and when `forever` every one after it. */
static void begin_failing(long n, bool forever)
{
    atomic_store(&alloc_hook->failed, 0);
    atomic_store(&alloc_hook->forever, forever);
    atomic_store(&alloc_hook->countdown, n);
}

/* Whether any had to. */
static bool end_failing(void)
{
    atomic_store(&alloc_hook->countdown, 0);
    return atomic_load(&alloc_hook->failed) > 0;
}

/* Loads with the n-th allocation failing (0: none); false when none had to. */
static bool load(struct log *lines, long n, bool forever, struct served *served)
{
    const struct config config = {
        .models = folder, .max_batch = 4, .max_queue = 8, .max_queue_bytes = 1 << 20};
    const struct cvd_settings settings = {.threads = 2};
    struct cvd_error err;
    struct cvd_engine *engine = NULL;
    struct metrics *metrics = NULL;
    struct registry *r = NULL;
    enum cvd_status status = CVD_STATUS_OUT_OF_MEMORY;
    begin_failing(n, forever);
    if (cvd_engine_create(&settings, &engine, &err) == CVD_STATUS_OK)
        metrics = metrics_create("c");
    if (metrics)
        r = registry_create(engine, &config, metrics, lines);
    if (r)
        status = registry_load(r, &err);
    const bool failed = end_failing();
    served->count = 0;
    if (status == CVD_STATUS_OK)
        registry_each(r, describe, served);
    registry_destroy(r);
    metrics_destroy(metrics);
    cvd_engine_destroy(engine);
    return failed;
}

Test(load, without_memory, .timeout = 600)
{
    if (!ALLOC_HOOK_LINKED)
        cr_skip_test("ThreadSanitizer must see allocations first");
    fill_folder();
    struct log *lines = log_create(LOG_ERROR, LOG_TEXT);
    struct served all, some;
    cr_assert(!load(lines, 0, false, &all));
    cr_assert_eq(all.count, 3);
    for (int forever = 0; forever < 2; forever++) {
        long n = 1;
        while (load(lines, n, forever, &some)) {
            for (size_t i = 0, j = 0; i < some.count; i++, j++) {
                while (j < all.count && strcmp(some.text[i], all.text[j]) != 0)
                    j++;
                cr_assert(j < all.count, "allocation %ld: a model is not as its files say: %s", n,
                          some.text[i]);
            }
            served_free(&some);
            n++;
        }
        cr_assert_gt(n, 100);
        cr_expect_eq(some.count, all.count, "not all models load again");
        served_free(&some);
    }
    served_free(&all);
    log_destroy(lines);
}

/* ---- loading again ---- */

/* Two states of the folder. "swap" and "conf" are the same versions of other files, "step" is
 * another version; "gone" and "new" are in one of them only; "same" and "lenet5" do not change. */
static void fill_states(void)
{
    static const char *const states[] = {"a", "b"};
    for (int s = 0; s < 2; s++) {
        const char *in = states[s], *other = s == 0 ? "gone" : "new";
        const char *version = s == 0 ? "1" : "2";
        const struct classifier_options plain = {.bias = (float)s},
                                        labelled = {
                                            .bias = (float)s,
                                            .labels = s == 0 ? "[\"one\",\"b\",\"c\",\"d\",\"e\"]"
                                                             : "[\"two\",\"b\",\"c\",\"d\",\"e\"]"};
        make_subfolder(in);
        put_model(data_printf("%s/swap.onnx", in), &labelled);
        put_model(data_printf("%s/%s.onnx", in, other), &plain);
        make_subfolder(data_printf("%s/step", in));
        make_subfolder(data_printf("%s/step/%s", in, version));
        put_model(data_printf("%s/step/%s/model.onnx", in, version), &plain);
        make_subfolder(data_printf("%s/conf", in));
        put_model(data_printf("%s/conf/model.onnx", in), &plain);
        const char *config =
            data_printf("{\"labels\":\"names.txt\",\"batching\":{\"max_batch_size\":%d}}", s + 1);
        put(data_printf("%s/conf/config.json", in), config, strlen(config));
        const char *names = data_printf("label %d\nb\nc\nd\ne\n", s);
        put(data_printf("%s/conf/names.txt", in), names, strlen(names));
    }
    static const char *const same[] = {"same.onnx", "lenet5.onnx"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        put_model(data_printf("a/%s", same[i]), &(struct classifier_options){.bias = 7});
        cr_assert_eq(
            link(data_printf("%s/a/%s", folder, same[i]), data_printf("%s/b/%s", folder, same[i])),
            0);
    }
}

static void show_state(int state)
{
    const char *aside = data_printf("%s/.aside", folder), *current = data_printf("%s/now", folder);
    cr_assert(symlink(state == 0 ? "a" : "b", aside) == 0 && rename(aside, current) == 0);
}

static atomic_uint computed;

static void count_computed(struct batch_ticket *t)
{
    (void)t;
    atomic_fetch_add(&computed, 1);
}

/* Description and answers of every model. */
static void describe_and_ask(const struct registry_model *m, void *cookie)
{
    struct served *s = cookie;
    describe(m, s);
    float output[CLASSIFIER_CLASSES];
    static const float input[CLASSIFIER_PIXELS] = {1, 0, 2};
    struct batch_ticket ticket = {
        .input = input, .output = output, .images = 1, .done = count_computed};
    unsigned before = atomic_load(&computed);
    cr_assert_eq(batch_reserve(m->batcher, 1, 0), BATCH_ACCEPTED, "%s", m->name);
    batch_submit(m->batcher, &ticket);
    while (atomic_load(&computed) == before)
        usleep(50);
    cr_assert_eq(ticket.outcome, BATCH_DONE, "%s: outcome %d", m->name, (int)ticket.outcome);
    struct text t = {0};
    text_printf(&t, "%s = %.9g %.9g", s->text[s->count - 1], (double)output[0], (double)output[4]);
    cr_assert(!t.failed);
    pool_free(s->text[s->count - 1]);
    s->text[s->count - 1] = t.data;
}

static bool is_served(const struct served *s, const char *text)
{
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->text[i], text) == 0)
            return true;
    return false;
}

static bool has_model(struct registry *r, const char *name)
{
    struct registry_model *m = registry_acquire(r, name, NULL);
    if (m)
        registry_release(m);
    return m != NULL;
}

/* Everything is as it was or as it shall be, and what is in both is served without a break. */
static void check_between(struct registry *r, const struct served states[2], const char *what)
{
    static const char *const lasting[] = {"swap", "step", "conf", "same", "lenet5"};
    struct served now = {0};
    registry_each(r, describe_and_ask, &now);
    for (size_t i = 0; i < now.count; i++)
        cr_assert(is_served(&states[0], now.text[i]) || is_served(&states[1], now.text[i]),
                  "%s: neither old nor new: %s", what, now.text[i]);
    for (size_t i = 0; i < sizeof lasting / sizeof *lasting; i++)
        cr_assert(has_model(r, lasting[i]), "%s: %s is not served any more", what, lasting[i]);
    served_free(&now);
}

static void check_state(struct registry *r, const struct served *state, const char *what)
{
    struct served now = {0};
    registry_each(r, describe_and_ask, &now);
    cr_assert_eq(now.count, state->count, "%s: %zu models", what, now.count);
    for (size_t i = 0; i < now.count; i++)
        cr_assert(is_served(state, now.text[i]), "%s: %s", what, now.text[i]);
    served_free(&now);
}

Test(load, again_without_memory, .timeout = 600)
{
    if (!ALLOC_HOOK_LINKED)
        cr_skip_test("ThreadSanitizer must see allocations first");
    fill_states();
    show_state(0);
    const struct config config = {.models = data_printf("%s/now", folder),
                                  .max_batch = 4,
                                  .max_queue = 8,
                                  .max_queue_bytes = 1 << 20};
    const struct cvd_settings settings = {.threads = 1};
    struct cvd_error err;
    struct cvd_engine *engine;
    cr_assert_eq(cvd_engine_create(&settings, &engine, &err), CVD_STATUS_OK);
    struct metrics *metrics = metrics_create("c");
    struct log *lines = log_create(LOG_ERROR, LOG_TEXT);
    struct registry *r = registry_create(engine, &config, metrics, lines);
    struct served states[2] = {{0}, {0}};
    for (int state = 0; state < 2; state++) {
        show_state(state);
        cr_assert_eq(registry_load(r, &err), CVD_STATUS_OK, "%s", err.message);
        registry_each(r, describe_and_ask, &states[state]);
        cr_assert_eq(states[state].count, 6);
    }
    for (int forever = 0; forever < 2; forever++) {
        bool failed = true;
        int state = 1;
        long n = 1;
        for (; failed; n++) {
            const char *what = data_printf("allocation %ld%s", n, forever ? " and all after" : "");
            state = !state;
            show_state(state);
            begin_failing(n, forever);
            (void)registry_load(r, &err);
            failed = end_failing();
            check_between(r, states, what);
            cr_assert_eq(registry_load(r, &err), CVD_STATUS_OK, "%s: %s", what, err.message);
            check_state(r, &states[state], what);
        }
        cr_assert_gt(n, 100);
    }
    served_free(&states[0]);
    served_free(&states[1]);
    registry_destroy(r);
    metrics_destroy(metrics);
    log_destroy(lines);
    cvd_engine_destroy(engine);
}
