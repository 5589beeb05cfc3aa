/*
 * A model folder loaded while memory runs out: each allocation of the engine, the server and their
 * libraries fails in turn, once and from then on. What is served all the same is what the files
 * say, nothing is lost, and with memory again everything loads.
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

enum { MODELS = 3 };

static char folder[] = "/tmp/convd-memory-XXXXXX";

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
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
    cr_assert_not_null(mkdtemp(folder));
    cr_assert_eq(mkdir(data_printf("%s/lenet5", folder), 0700), 0);
    cr_assert_eq(mkdir(data_printf("%s/lenet5/1", folder), 0700), 0);
    cr_assert_eq(mkdir(data_printf("%s/lenet5/12", folder), 0700), 0);
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
    atomic_store(&alloc_hook->failed, 0);
    atomic_store(&alloc_hook->forever, forever);
    atomic_store(&alloc_hook->countdown, n);
    if (cvd_engine_create(&settings, &engine, &err) == CVD_STATUS_OK)
        metrics = metrics_create("c");
    if (metrics)
        r = registry_create(engine, &config, metrics, lines);
    if (r)
        status = registry_load(r, &err);
    atomic_store(&alloc_hook->countdown, 0);
    served->count = 0;
    if (status == CVD_STATUS_OK)
        registry_each(r, describe, served);
    registry_destroy(r);
    metrics_destroy(metrics);
    cvd_engine_destroy(engine);
    return atomic_load(&alloc_hook->failed) > 0;
}

Test(load, without_memory, .timeout = 60)
{
    if (!alloc_hook)
        cr_skip_test("ThreadSanitizer must see allocations first");
    fill_folder();
    struct log *lines = log_create(LOG_ERROR, LOG_TEXT);
    struct served all, some;
    cr_assert(!load(lines, 0, false, &all));
    cr_assert_eq(all.count, MODELS);
    for (int forever = 0; forever < 2; forever++) {
        long n = 1;
        while (load(lines, n, forever, &some)) {
            for (size_t i = 0, j = 0; i < some.count; i++, j++) {
                while (j < MODELS && strcmp(some.text[i], all.text[j]) != 0)
                    j++;
                cr_assert(j < MODELS, "allocation %ld: a model is not as its files say: %s", n,
                          some.text[i]);
            }
            served_free(&some);
            n++;
        }
        cr_assert_gt(n, 100);
        cr_expect_eq(some.count, MODELS, "not all models load again");
        served_free(&some);
    }
    served_free(&all);
    log_destroy(lines);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
