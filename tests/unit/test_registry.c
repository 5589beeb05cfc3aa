/* The model repository: opening one model, reading its settings, loading a folder of them. */
#include "server/clock.h"
#include "server/pool.h"
#include "server/registry.h"
#include "server/registry_source.h"

#include "tests/unit/classifier_model.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct cvd_engine *engine;
static struct cvd_error err;
static char folder[64];

static void setup(void)
{
    const struct cvd_settings settings = {.threads = 2};
    cr_assert_eq(cvd_engine_create(&settings, &engine, &err), CVD_STATUS_OK, "%s", err.message);
    snprintf(folder, sizeof folder, "/tmp/convd-registry-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void teardown(void)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    cvd_engine_destroy(engine);
}

TestSuite(registry, .init = setup, .fini = teardown);

/* Path below the folder; the last eight results stay good. */
static const char *at(const char *name)
{
    static char paths[8][256];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void put(const char *name, const void *bytes, size_t len)
{
    const char *path = at(name);
    for (char *slash = (char *)(uintptr_t)path + strlen(folder) + 1;
         (slash = strchr(slash, '/'));) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash++ = '/';
    }
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f, "%s", path);
    cr_assert_eq(fwrite(bytes, 1, len, f), len);
    fclose(f);
}

static void put_text(const char *name, const char *text)
{
    put(name, text, strlen(text));
}

static void put_model(const char *name, const struct classifier_options *options)
{
    static const struct classifier_options plain = {0};
    struct pb file = classifier_model(options ? options : &plain);
    put(name, file.data, file.len);
    pb_free(&file);
}

static const struct cvd_load_options load;

static struct registry_model *open_model(const char *name)
{
    struct registry_model *m = NULL;
    cr_assert_eq(registry_open(engine, name, &load, &m, &err), CVD_STATUS_OK, "%s", err.message);
    return m;
}

/* Opening must fail with `status` and a message that holds every one of the words. */
static void expect_failure(const char *name, enum cvd_status status, const char *const *words)
{
    struct registry_model *m = NULL;
    enum cvd_status got = registry_open(engine, name, &load, &m, &err);
    cr_expect_eq(got, status, "%s: %s, not %s", name, cvd_status_name(got),
                 cvd_status_name(status));
    cr_expect_null(m);
    for (; *words && got != CVD_STATUS_OK; words++)
        cr_expect_not_null(strstr(err.message, *words), "no '%s' in: %s", *words, err.message);
}
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* ---- one model ---- */

Test(registry, the_built_in_model)
{
    struct registry_model *m = open_model("lenet5");
    char buf[24];
    cr_expect_str_eq(m->name, "lenet5");
    cr_expect_str_eq(m->version, "1");
    cr_expect_str_eq(m->source, "built in");
    cr_expect_null(m->not_images);
    cr_expect_eq(m->classes, 10);
    cr_expect_eq(m->input_elements, m->preprocess.height * m->preprocess.width);
    cr_expect_eq(m->preprocess.channels, 1);
    for (unsigned i = 0; i < 10; i++)
        cr_expect(registry_label(m, i, buf)[0] == (char)('0' + i) &&
                  registry_label(m, i, buf)[1] == 0);
    registry_close(m);
    registry_close(NULL);
}

Test(registry, a_file_with_metadata)
{
    put_model("digits.onnx",
              &(struct classifier_options){.labels = "[\"a\",\"b\",\"c\",\"d\",\"e\"]",
                                           .input = "{\"mean\":[0.5],\"invert\":\"auto\"}"});
    struct registry_model *m = open_model(at("digits.onnx"));
    cr_expect_str_eq(m->name, "digits");
    cr_expect_eq(m->classes, 5);
    cr_expect_eq(m->input_elements, 16);
    cr_expect_str_eq(m->labels[4], "e");
    cr_expect_float_eq(m->preprocess.mean[0], 0.5f, 1e-9f);
    cr_expect_eq(m->preprocess.invert, IMAGE_INVERT_AUTO);
    cr_expect(m->apply_softmax, "the model ends in an addition");
    registry_close(m);
}

Test(registry, names_without_a_slash_are_built_in_or_end_in_onnx)
{
    expect_failure("vgg", CVD_STATUS_INVALID_ARGUMENT, WORDS("'vgg'", "lenet5"));
    expect_failure("missing.onnx", CVD_STATUS_IO, WORDS("missing.onnx"));
    expect_failure("./missing", CVD_STATUS_IO, WORDS("./missing"));
}

Test(registry, labels_must_match_the_classes)
{
    put_model("few.onnx", &(struct classifier_options){.labels = "[\"a\",\"b\"]"});
    expect_failure(at("few.onnx"), CVD_STATUS_INVALID_DATA,
                   WORDS("few.onnx", "2 labels", "5 classes", "convd.labels"));
    put_model("odd.onnx", &(struct classifier_options){.labels = "[\"a\",\"b\",\"c\",\"d\",5]"});
    expect_failure(at("odd.onnx"), CVD_STATUS_INVALID_DATA, WORDS("label 4", "string"));
    put_model("bad.onnx", &(struct classifier_options){.labels = "a,b,c,d,e"});
    expect_failure(at("bad.onnx"), CVD_STATUS_INVALID_DATA, WORDS("convd.labels", "JSON"));
    put_model("input.onnx", &(struct classifier_options){.input = "{\"colour\":\"gray\"}"});
    expect_failure(at("input.onnx"), CVD_STATUS_INVALID_ARGUMENT, WORDS("convd.input", "colour"));
}

Test(registry, a_model_that_is_not_for_images_opens_and_says_so)
{
    static const int64_t dims[] = {-1, 4};
    struct pb graph = {0};
    pb_message(&graph, 1, pb_node("Relu", "r", "x", NULL, "y"));
    pb_message(&graph, 11, pb_value("x", 1, 2, dims));
    pb_message(&graph, 12, pb_value("y", 1, 2, dims));
    struct pb file = pb_model(graph);
    put("vector.onnx", file.data, file.len);
    pb_free(&file);
    struct registry_model *m = open_model(at("vector.onnx"));
    cr_assert_not_null(m->not_images);
    cr_expect_not_null(strstr(m->not_images, "'x'"), "%s", m->not_images);
    cr_expect_not_null(strstr(m->not_images, "[N,4]"), "%s", m->not_images);
    cr_expect_null(m->labels);
    registry_close(m);
}

Test(registry, a_file_of_a_folder_brings_its_settings)
{
    put_model("net/3/model.onnx", NULL);
    put_text("net/names.txt", "v\nw\nx\ny\nz\n");
    put_text("net/config.json", "{\"labels\":\"names.txt\",\"output\":{\"softmax\":\"never\"},"
                                "\"batching\":{\"max_batch_size\":7,\"max_delay_us\":250}}");
    struct registry_model *m = open_model(at("net/3/model.onnx"));
    cr_expect_str_eq(m->labels[4], "z");
    cr_expect_not(m->apply_softmax);
    cr_expect_eq(m->max_batch, 7);
    cr_expect_eq(m->max_delay_ns, 250000);
    registry_close(m);
}

/* ---- settings ---- */

static void expect_bad_settings(const char *json, const char *const *words)
{
    struct settings s;
    enum cvd_status status = settings_parse(json, strlen(json), "x/config.json", &s, &err);
    cr_assert_eq(status, CVD_STATUS_INVALID_DATA, "%s: %s", json, cvd_status_name(status));
    cr_expect_not_null(strstr(err.message, "x/config.json"), "%s", err.message);
    for (; *words; words++)
        cr_expect_not_null(strstr(err.message, *words), "no '%s' in: %s", *words, err.message);
}

Test(settings, everything_can_be_left_out)
{
    struct settings s;
    cr_assert_eq(settings_parse("{}", 2, "c", &s, &err), CVD_STATUS_OK);
    cr_expect_null(s.labels);
    cr_expect_null(s.input);
    cr_expect_eq(s.softmax, SOFTMAX_AUTO);
    cr_expect_eq(s.max_batch, 0);
    cr_expect_eq(s.max_delay_ns, REGISTRY_NO_DELAY);
    cr_expect_eq(s.versions, VERSIONS_LATEST);
    settings_free(&s);
}

Test(settings, everything_is_read)
{
    static const char json[] =
        "{\"labels\":\"l.txt\",\"input\":{\"scale\":0.5},\"output\":{\"softmax\":\"always\"},"
        "\"batching\":{\"max_batch_size\":1024,\"max_delay_us\":0},\"versions\":[3,1]}";
    struct settings s;
    cr_assert_eq(settings_parse(json, strlen(json), "c", &s, &err), CVD_STATUS_OK, "%s",
                 err.message);
    cr_expect_str_eq(s.labels, "l.txt");
    cr_expect_not_null(strstr(s.input, "scale"));
    cr_expect_eq(s.softmax, SOFTMAX_ALWAYS);
    cr_expect_eq(s.max_batch, 1024);
    cr_expect_eq(s.max_delay_ns, 0);
    cr_expect_eq(s.versions, VERSIONS_LISTED);
    cr_expect_eq(s.listed_count, 2);
    cr_expect(s.listed[0] == 3 && s.listed[1] == 1);
    settings_free(&s);
}

Test(settings, what_is_not_understood_is_an_error)
{
    expect_bad_settings("", WORDS("line"));
    expect_bad_settings("{\"labels\":\"a\",\n\"labels\":\"b\"}", WORDS("line 2"));
    expect_bad_settings("[]", WORDS("object"));
    expect_bad_settings("{\"label\":\"a\"}", WORDS("\"label\"", "labels, input"));
    expect_bad_settings("{\"\":1}", WORDS("\"\""));
    expect_bad_settings("{\"labels\":1}", WORDS("\"labels\""));
    expect_bad_settings("{\"labels\":\"../secret\"}", WORDS("same folder"));
    expect_bad_settings("{\"labels\":\"..\"}", WORDS("same folder"));
    expect_bad_settings("{\"output\":{\"soft\":1}}", WORDS("\"output.soft\""));
    expect_bad_settings("{\"output\":{\"softmax\":true}}", WORDS("always"));
    expect_bad_settings("{\"output\":{\"softmax\":\"Auto\"}}", WORDS("always"));
    expect_bad_settings("{\"batching\":[]}", WORDS("batching", "object"));
    expect_bad_settings("{\"batching\":{\"max_batch_size\":0}}", WORDS("max_batch_size", "1024"));
    expect_bad_settings("{\"batching\":{\"max_batch_size\":1025}}", WORDS("max_batch_size"));
    expect_bad_settings("{\"batching\":{\"max_batch_size\":8.0}}", WORDS("whole number"));
    expect_bad_settings("{\"batching\":{\"max_delay_us\":-1}}", WORDS("max_delay_us"));
    expect_bad_settings("{\"versions\":\"newest\"}", WORDS("latest"));
    expect_bad_settings("{\"versions\":[]}", WORDS("latest"));
    expect_bad_settings("{\"versions\":[0]}", WORDS("latest"));
    expect_bad_settings("{\"versions\":[1,\"2\"]}", WORDS("latest"));
}

Test(settings, label_files)
{
    static const char text[] = "\xEF\xBB\xBF"
                               "tabby cat\r\n\ndog, hound\nlast";
    char **labels;
    size_t count;
    cr_assert_eq(labels_parse_lines(text, strlen(text), "l", &labels, &count, &err), CVD_STATUS_OK);
    cr_assert_eq(count, 4);
    cr_expect_str_eq(labels[0], "tabby cat");
    cr_expect_str_eq(labels[1], "");
    cr_expect_str_eq(labels[2], "dog, hound");
    cr_expect_str_eq(labels[3], "last");
    labels_free(labels, count);
    cr_assert_eq(labels_parse_lines("a\nb\n", 4, "l", &labels, &count, &err), CVD_STATUS_OK);
    cr_expect_eq(count, 2, "the final line end counts as a label");
    labels_free(labels, count);
    cr_expect_eq(labels_parse_lines("", 0, "l", &labels, &count, &err), CVD_STATUS_INVALID_DATA);
    cr_expect_eq(labels_parse_lines("a\0b", 3, "l", &labels, &count, &err),
                 CVD_STATUS_INVALID_DATA);
}

/* ---- serving ---- */

static struct config config;
static struct metrics *metrics;
static struct log *lines;

static struct registry *serve(void)
{
    config = (struct config){.models = folder,
                             .default_model = config.default_model,
                             .max_batch = 4,
                             .max_queue = 100,
                             .max_queue_bytes = 1 << 20};
    metrics = metrics_create("c");
    lines = log_create(LOG_ERROR, LOG_TEXT);
    cr_assert(metrics && lines);
    struct registry *r = registry_create(engine, &config, metrics, lines);
    cr_assert_not_null(r);
    return r;
}

static void end(struct registry *r)
{
    registry_destroy(r);
    metrics_destroy(metrics);
    log_destroy(lines);
}

#define LIST_BYTES 1024
static void list(const struct registry_model *m, void *cookie)
{
    char *text = cookie;
    size_t len = strlen(text);
    snprintf(text + len, LIST_BYTES - len, "%s:%s ", m->name, m->version);
}

static void expect_models(struct registry *r, const char *expected)
{
    char text[LIST_BYTES] = "";
    registry_each(r, list, text);
    cr_expect_str_eq(text, expected);
}

static void expect_acquired(struct registry *r, const char *name, const char *version,
                            const char *found_name, const char *found_version)
{
    struct registry_model *m = registry_acquire(r, name, version);
    cr_assert_not_null(m, "%s:%s", name ? name : "-", version ? version : "-");
    cr_expect_str_eq(m->name, found_name);
    cr_expect_str_eq(m->version, found_version);
    registry_release(m);
}

Test(registry, all_layouts_of_a_folder)
{
    put_model("plain.onnx", NULL);
    put_model("foldered/model.onnx", &(struct classifier_options){.two_outputs = true});
    put_model("versions/2/model.onnx", NULL);
    put_model("versions/10/model.onnx", NULL);
    put_model("versions/03/model.onnx", NULL); /* not a version */
    put_model("versions/old/model.onnx", NULL);
    put_text("versions/config.json", "{\"versions\":\"all\"}");
    put_model("latest/9/model.onnx", NULL);
    put_model("latest/10/model.onnx", NULL);
    put_model("listed/1/model.onnx", NULL);
    put_model("listed/2/model.onnx", NULL);
    put_model("listed/3/model.onnx", NULL);
    put_text("listed/config.json", "{\"versions\":[3,1]}");
    put_model("..data/model.onnx", NULL);
    put_text("README", "not a model");
    struct registry *r = serve();
    cr_expect_null(registry_acquire(r, "plain", NULL), "nothing is served before it is loaded");
    cr_assert_eq(registry_load(r, &err), CVD_STATUS_OK, "%s", err.message);
    expect_models(r, "foldered:1 latest:10 lenet5:1 listed:1 listed:3 plain:1 versions:2 "
                     "versions:10 ");
    expect_acquired(r, NULL, NULL, "lenet5", "1");
    expect_acquired(r, "versions", NULL, "versions", "10");
    expect_acquired(r, "versions", "2", "versions", "2");
    cr_expect_null(registry_acquire(r, "versions", "3"));
    cr_expect_null(registry_acquire(r, "Plain", NULL));
    cr_expect_null(registry_acquire(r, NULL, "2"));
    end(r);
}

Test(registry, broken_models_are_left_out)
{
    put_model("good.onnx", NULL);
    put_text("garbage.onnx", "this is not a model");
    put_text("empty/notes.txt", "");
    put_model("config/model.onnx", NULL);
    put_text("config/config.json", "{\"lables\":\"a\"}");
    put_model("labels/model.onnx", NULL);
    put_text("labels/labels.txt", "one\ntwo\n");
    put_model("nolabels/model.onnx", NULL);
    put_text("nolabels/config.json", "{\"labels\":\"missing.txt\"}");
    put_model("unlisted/1/model.onnx", NULL);
    put_text("unlisted/config.json", "{\"versions\":[1,7]}");
    put_model("infinite.onnx", &(struct classifier_options){.bias = 3e38f});
    put_model("bad name.onnx", NULL);
    put_model("half/1/model.onnx", NULL);
    put_text("half/2/model.onnx", "broken");
    put_text("half/config.json", "{\"versions\":\"all\"}");
    struct registry *r = serve();
    cr_assert_eq(registry_load(r, &err), CVD_STATUS_OK, "%s", err.message);
    expect_models(r, "good:1 half:1 lenet5:1 ");
    end(r);
}

Test(registry, the_only_model_of_the_folder_is_the_default)
{
    put_model("mine/1/model.onnx", NULL);
    put_model("mine/2/model.onnx", NULL);
    put_text("mine/config.json", "{\"versions\":\"all\",\"batching\":{\"max_batch_size\":9}}");
    struct registry *r = serve();
    cr_assert_eq(registry_load(r, &err), CVD_STATUS_OK, "%s", err.message);
    expect_models(r, "lenet5:1 mine:1 mine:2 ");
    expect_acquired(r, NULL, NULL, "mine", "2");
    expect_acquired(r, NULL, "1", "mine", "1");
    struct registry_model *m = registry_acquire(r, "mine", "1"),
                          *l = registry_acquire(r, "lenet5", NULL);
    cr_expect_eq(m->max_batch, 9, "its config.json wins");
    cr_expect_eq(l->max_batch, 4, "the option holds for the others");
    registry_release(m);
    registry_release(l);
    end(r);
}

Test(registry, the_default_can_be_chosen)
{
    put_model("a.onnx", NULL);
    put_model("b.onnx", NULL);
    config.default_model = (char *)(uintptr_t) "b";
    struct registry *r = serve();
    cr_assert_eq(registry_load(r, &err), CVD_STATUS_OK, "%s", err.message);
    expect_acquired(r, NULL, NULL, "b", "1");
    end(r);
    config.default_model = (char *)(uintptr_t) "c";
    r = serve();
    cr_expect_eq(registry_load(r, &err), CVD_STATUS_INVALID_ARGUMENT);
    cr_expect_not_null(strstr(err.message, "default-model: 'c'"), "%s", err.message);
    end(r);
}

Test(registry, a_model_named_like_the_built_in_one_replaces_it)
{
    put_model("lenet5/7/model.onnx", NULL);
    struct registry *r = serve();
    cr_assert_eq(registry_load(r, &err), CVD_STATUS_OK, "%s", err.message);
    expect_models(r, "lenet5:7 ");
    end(r);
    put_text("lenet5/7/model.onnx", "broken"); /* and is not replaced in turn without a word */
    put_model("other.onnx", NULL);
    r = serve();
    cr_assert_eq(registry_load(r, &err), CVD_STATUS_OK, "%s", err.message);
    expect_models(r, "other:1 ");
    end(r);
}

Test(registry, nothing_to_serve_is_an_error)
{
    put_text("lenet5.onnx", "broken");
    struct registry *r = serve();
    cr_expect_eq(registry_load(r, &err), CVD_STATUS_INVALID_DATA);
    end(r);
    r = serve();
    config.models = (char *)(uintptr_t) "/nonexistent/models";
    cr_expect_eq(registry_load(r, &err), CVD_STATUS_IO);
    cr_expect_not_null(strstr(err.message, "/nonexistent/models"), "%s", err.message);
    end(r);
}

/* ---- requests and the end ---- */

static atomic_bool answered;
static struct registry_model *held;

static void release_held(struct batch_ticket *t)
{
    cr_expect_eq(t->outcome, BATCH_DONE);
    answered = true;
    registry_release(held); /* from inside the batcher, as a request does */
}

static void *submit_late(void *cookie)
{
    usleep(20000);
    cr_assert_eq(batch_reserve(held->batcher, 1, 0), BATCH_ACCEPTED);
    batch_submit(held->batcher, cookie);
    return NULL;
}

Test(registry, destroying_waits_for_requests)
{
    static float input[16], output[5];
    struct batch_ticket ticket = {
        .input = input, .output = output, .images = 1, .done = release_held};
    pthread_t thread;
    put_model("mine.onnx", NULL);
    struct registry *r = serve();
    cr_assert_eq(registry_load(r, &err), CVD_STATUS_OK, "%s", err.message);
    held = registry_acquire(r, "mine", NULL);
    cr_assert_eq(pthread_create(&thread, NULL, submit_late, &ticket), 0);
    registry_destroy(r);
    cr_expect(answered, "the model went while a request held it");
    pthread_join(thread, NULL);
    for (int i = 0; i < 5; i++) /* the bias, twice */
        cr_expect_float_eq(output[i], (float)i / 4, 1e-6f);
    size_t len;
    char *page = metrics_text(metrics, &len);
    cr_expect_not_null(strstr(page, "convd_model_loaded{model=\"mine\",version=\"1\"} 0\n"));
    pool_free(page);
    metrics_destroy(metrics);
    log_destroy(lines);
}

/* ---- loading again ---- */

static void load_again(struct registry *r)
{
    cr_assert_eq(registry_load(r, &err), CVD_STATUS_OK, "%s", err.message);
}

/* Replaces a model in one step, as a deployment should. `label` is that of its first class. */
static void replace_model(const char *name, const char *label)
{
    char labels[64];
    snprintf(labels, sizeof labels, "[\"%s\",\"b\",\"c\",\"d\",\"e\"]", label);
    put_model(".new", &(struct classifier_options){.labels = labels});
    cr_assert_eq(rename(at(".new"), at(name)), 0);
}

static void expect_label(struct registry *r, const char *name, const char *label)
{
    struct registry_model *m = registry_acquire(r, name, NULL);
    cr_assert_not_null(m, "%s", name);
    cr_expect_str_eq(m->labels ? m->labels[0] : "none", label, "%s", name);
    registry_release(m);
}

static void expect_loaded(const char *name, const char *version, int loaded)
{
    char series[128];
    size_t len;
    char *page = metrics_text(metrics, &len);
    snprintf(series, sizeof series, "convd_model_loaded{model=\"%s\",version=\"%s\"} %d\n", name,
             version, loaded);
    cr_expect_not_null(strstr(page, series), "%s", series);
    pool_free(page);
}

Test(registry, loading_again_changes_what_has_changed, .timeout = 600)
{
    put_model("same.onnx", NULL);
    put_model("changed/1/model.onnx", NULL);
    put_model("gone/1/model.onnx", NULL);
    put_model("gone/2/model.onnx", NULL);
    put_text("gone/config.json", "{\"versions\":\"all\"}");
    put_model("newer/9/model.onnx", NULL);
    put_model("settings/model.onnx", NULL);
    put_model("labels/model.onnx", NULL);
    struct registry *r = serve();
    load_again(r);
    expect_models(r, "changed:1 gone:1 gone:2 labels:1 lenet5:1 newer:9 same:1 settings:1 ");
    /* A model that is held cannot be replaced: that would wait for ever here. */
    struct registry_model *same = registry_acquire(r, "same", NULL),
                          *builtin = registry_acquire(r, "lenet5", NULL);
    replace_model("changed/1/model.onnx", "A");
    cr_assert_eq(remove(at("gone/1/model.onnx")), 0);
    put_text("gone/config.json", "{}");
    put_model("newer/10/model.onnx", NULL);
    put_model("added.onnx", NULL);
    put_text("settings/config.json", "{\"batching\":{\"max_batch_size\":3}}");
    put_text("labels/labels.txt", "one\ntwo\nthree\nfour\nfive\n");
    load_again(r);
    expect_models(r, "added:1 changed:1 gone:2 labels:1 lenet5:1 newer:10 same:1 settings:1 ");
    expect_label(r, "changed", "A");
    expect_label(r, "labels", "one");
    struct registry_model *settings = registry_acquire(r, "settings", NULL);
    cr_expect_eq(settings->max_batch, 3);
    registry_release(settings);
    expect_loaded("changed", "1", 1);
    expect_loaded("newer", "9", 0);
    expect_loaded("newer", "10", 1);
    expect_loaded("gone", "1", 0);
    expect_loaded("gone", "2", 1);
    registry_release(same);

    cr_assert_eq(nftw(at("gone"), remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    cr_assert_eq(remove(at("same.onnx")), 0);
    load_again(r);
    expect_models(r, "added:1 changed:1 labels:1 lenet5:1 newer:10 settings:1 ");
    registry_release(builtin);
    end(r);
}

/* A file with the old size and times, and data beside the model. */
Test(registry, changes_that_are_easy_to_overlook)
{
    put_model("flat.onnx", NULL);
    put_model("model/1/model.onnx", NULL);
    put_text("model/1/weights.bin", "1");
    const struct settings settings = {.max_delay_ns = REGISTRY_NO_DELAY};
    const char *files[] = {at("flat.onnx"), at("model/1/model.onnx")};
    char *before[2], *after[2];
    for (int i = 0; i < 2; i++) {
        struct source source = {.file = (char *)(uintptr_t)files[i]};
        before[i] = source_identity(&source, &settings);
        after[i] = source_identity(&source, &settings);
        cr_assert(before[i] && after[i]);
        cr_expect_str_eq(before[i], after[i]);
        free(after[i]);
    }
    struct stat st;
    cr_assert_eq(stat(files[0], &st), 0);
    put_model("flat.onnx", &(struct classifier_options){.bias = 2});
    cr_assert_eq(utimensat(AT_FDCWD, files[0], (struct timespec[]){st.st_atim, st.st_mtim}, 0), 0);
    put_text("model/1/weights.bin", "22");
    for (int i = 0; i < 2; i++) {
        struct source source = {.file = (char *)(uintptr_t)files[i]};
        after[i] = source_identity(&source, &settings);
        cr_expect_str_neq(before[i], after[i]);
        free(before[i]);
        free(after[i]);
    }
}

Test(registry, what_fails_to_load_again_stays_as_it_was)
{
    put_model("corrupt/1/model.onnx", NULL);
    replace_model("corrupt/1/model.onnx", "A");
    put_model("infinite.onnx", NULL);
    put_model("newer/1/model.onnx", NULL);
    put_model("config/model.onnx", NULL);
    put_model("emptied/model.onnx", NULL);
    put_model("all/1/model.onnx", NULL);
    put_model("all/2/model.onnx", NULL);
    put_text("all/config.json", "{\"versions\":\"all\"}");
    struct registry *r = serve();
    load_again(r);
    static const char served[] =
        "all:1 all:2 config:1 corrupt:1 emptied:1 infinite:1 lenet5:1 newer:1 ";
    expect_models(r, served);
    put_text("corrupt/1/model.onnx", "broken");
    put_model("infinite.onnx", &(struct classifier_options){.bias = 3e38f});
    put_text("newer/2/model.onnx", "broken");
    put_text("config/config.json", "{");
    cr_assert_eq(remove(at("emptied/model.onnx")), 0);
    cr_assert_eq(remove(at("all/1/model.onnx")), 0);
    put_text("all/2/model.onnx", "broken");
    put_text("lenet5.onnx", "broken");
    for (int i = 0; i < 3; i++) {
        load_again(r);
        expect_models(r, served);
        expect_label(r, "corrupt", "A");
    }
    expect_loaded("corrupt", "1", 1);
    expect_loaded("infinite", "1", 1);
    /* A folder that cannot be read is no empty folder. */
    config.models = (char *)(uintptr_t) "/nonexistent/models";
    cr_expect_eq(registry_load(r, &err), CVD_STATUS_IO);
    expect_models(r, served);
    config.models = folder;
    replace_model("corrupt/1/model.onnx", "B");
    load_again(r);
    expect_models(r, served);
    expect_label(r, "corrupt", "B");
    end(r);
}

Test(registry, the_default_follows_the_folder)
{
    put_model("mine.onnx", NULL);
    struct registry *r = serve();
    load_again(r);
    expect_acquired(r, NULL, NULL, "mine", "1");
    put_text("mine.onnx", "broken");
    put_text("lenet5.onnx", "broken");
    load_again(r);
    expect_acquired(r, NULL, NULL, "mine", "1");
    cr_assert_eq(remove(at("mine.onnx")), 0);
    cr_assert_eq(remove(at("lenet5.onnx")), 0);
    put_model("yours.onnx", NULL);
    load_again(r);
    expect_models(r, "lenet5:1 yours:1 ");
    expect_acquired(r, NULL, NULL, "yours", "1");
    put_model("third.onnx", NULL);
    load_again(r);
    expect_acquired(r, NULL, NULL, "lenet5", "1");
    put_model("lenet5/8/model.onnx", NULL);
    load_again(r);
    expect_models(r, "lenet5:8 third:1 yours:1 ");
    expect_acquired(r, NULL, NULL, "lenet5", "8");
    cr_assert_eq(nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    cr_assert_eq(mkdir(folder, 0700), 0);
    load_again(r);
    expect_models(r, "lenet5:1 ");
    end(r);
}

static bool label_becomes(struct registry *r, const char *label)
{
    for (int ms = 0; ms < 20000; ms++) {
        struct registry_model *m = registry_acquire(r, "mine", NULL);
        bool good = strcmp(m->labels[0], label) == 0;
        registry_release(m);
        if (good)
            return true;
        usleep(1000);
    }
    return false;
}

/* The new model is served while a request still holds the old one, which works to the end. */
Test(registry, a_reload_happens_beside_requests, .timeout = 600)
{
    static float input[16], output[5];
    struct batch_ticket ticket = {
        .input = input, .output = output, .images = 1, .done = release_held};
    replace_model("mine.onnx", "A");
    struct registry *r = serve();
    load_again(r);
    held = registry_acquire(r, "mine", NULL);
    replace_model("mine.onnx", "B");
    for (int i = 0; i < 100; i++)
        registry_reload(r);
    cr_assert(label_becomes(r, "B"));
    replace_model("mine.onnx", "C");
    registry_reload(r);
    usleep(20000);
    expect_label(r, "mine", "B"); /* the next pass begins when the first one is over */
    cr_expect_str_eq(held->labels[0], "A");
    cr_assert_eq(batch_reserve(held->batcher, 1, 0), BATCH_ACCEPTED);
    batch_submit(held->batcher, &ticket);
    cr_assert(label_becomes(r, "C"));
    cr_expect(answered);
    for (int i = 0; i < 10; i++)
        registry_reload(r);
    end(r);
}
