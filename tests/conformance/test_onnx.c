/*
 * ONNX's own backend tests, all that are at hand, and the runner itself: what it must call a
 * failure it has to be shown once.
 */
#include "tests/support/conformance.h"
#include "tests/support/data.h"
#include "tests/unit/onnx_build.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define FLOATS(...) ((const float[]){__VA_ARGS__})

struct outcome {
    size_t passed, failed, skipped;
    char text[16384]; /* the failures and skips, a line each */
};

static void note(void *ctx, const char *name, enum conformance_verdict verdict, const char *reason)
{
    struct outcome *o = ctx;
    const size_t used = strlen(o->text);
    o->passed += verdict == CONFORMANCE_PASS;
    o->failed += verdict == CONFORMANCE_FAIL;
    o->skipped += verdict == CONFORMANCE_SKIP;
    if (verdict != CONFORMANCE_PASS)
        snprintf(o->text + used, sizeof o->text - used, "  %s: %s\n", name, reason);
}

static struct cvd_engine *engine_for(unsigned threads)
{
    const char *level = getenv("CONVD_CPU");
    struct cvd_settings settings;
    struct cvd_engine *engine;
    struct cvd_error err;
    cvd_settings_default(&settings);
    settings.threads = threads;
    if (level && level[0] != '\0')
        cr_assert(cvd_cpu_parse(level, &settings.cpu), "CONVD_CPU is %s", level);
    cr_assert_eq(cvd_engine_create(&settings, &engine, &err), CVD_STATUS_OK, "%s", err.message);
    return engine;
}

/* ---- the cases of ONNX ---- */

static void run_shared(unsigned threads)
{
    const char *path = data_shared("conformance/onnx/float");
    struct outcome o = {0};
    struct cvd_engine *engine = engine_for(threads);
    cr_assert(conformance_run(engine, path, false, note, &o));
    cvd_engine_destroy(engine);
    cr_expect_eq(o.failed, 0, "%zu cases fail:\n%s", o.failed, o.text);
    cr_expect_geq(o.passed, 266, "only %zu cases passed", o.passed);
}

Test(onnx, shared_cases)
{
    run_shared(1);
}

Test(onnx, shared_cases_on_threads)
{
    run_shared(3);
}

/* ---- the runner ---- */

static char folder[] = "/tmp/convd-conformance-XXXXXX";

static void make_folder(void)
{
    cr_assert_not_null(mkdtemp(folder));
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static void remove_folder(void)
{
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void write_file(const char *name, struct pb content)
{
    FILE *file = fopen(data_printf("%s/%s", folder, name), "wb");
    cr_assert_not_null(file);
    if (content.len > 0)
        cr_assert_eq(fwrite(content.data, 1, content.len, file), content.len);
    fclose(file);
    pb_free(&content);
}

/* A model of one operator: "x" and "s" to "y". Types and extents are those of a case. */
struct tiny {
    const char *op;
    int64_t x_type, s_type;
    int64_t x_extent, s_extent; /* s_extent 0: there is no second input */
};

static void write_model(const char *name, const struct tiny *t)
{
    struct pb graph = {0};
    pb_message(&graph, 1, pb_node(t->op, "n", "x", t->s_extent ? "s" : NULL, "y"));
    pb_text(&graph, 2, "g");
    pb_message(&graph, 11, pb_value("x", t->x_type, 1, &t->x_extent));
    if (t->s_extent)
        pb_message(&graph, 11, pb_value("s", t->s_type, 1, &t->s_extent));
    pb_message(&graph, 12, pb_value("y", t->x_type, 1, (const int64_t[]){-1}));
    cr_assert_eq(mkdir(data_printf("%s/%s", folder, name), 0700), 0);
    cr_assert_eq(mkdir(data_printf("%s/%s/test_data_set_0", folder, name), 0700), 0);
    write_file(data_printf("%s/model.onnx", name), pb_model(graph));
}

static void write_floats(const char *name, const char *file, const float *values, int64_t count)
{
    write_file(data_printf("%s/test_data_set_0/%s.pb", name, file),
               pb_tensor("t", 1, 1, &count, values, (size_t)count * sizeof *values));
}

static struct outcome run_folder(const char *name, bool skip_unsupported)
{
    struct outcome o = {0};
    struct cvd_engine *engine = engine_for(1);
    cr_assert(
        conformance_run(engine, data_printf("%s%s", folder, name), skip_unsupported, note, &o));
    cvd_engine_destroy(engine);
    return o;
}

static void expect_failure(const char *name, const char *fragment)
{
    const struct outcome o = run_folder(name, false);
    cr_expect(o.failed == 1 && o.passed == 0, "%s: %zu passed", name, o.passed);
    cr_expect_not_null(strstr(o.text, fragment), "'%s' is not in \"%s\"", fragment, o.text);
}

Test(onnx, judges, .init = make_folder, .fini = remove_folder)
{
    const struct tiny negate = {.op = "Neg", .x_type = 1, .x_extent = 3};
    const float x[] = {1, -2000, 0}, right[] = {-1, 2001.9f, 0x1p-24f};
    write_model("right", &negate);
    write_floats("right", "input_0", x, 3);
    write_floats("right", "output_0", right, 3); /* just within 0.001 and 0.0000001 */
    const struct outcome o = run_folder("/right", false);
    cr_expect(o.passed == 1 && o.failed == 0, "%s", o.text);

    write_floats("right", "output_0", FLOATS(-1, 2002.1f, 0), 3);
    expect_failure("/right", "right: output 'y': element 1 is 2000, not 2002");
    write_floats("right", "output_0", FLOATS(-1, 2000, 0x1p-23f), 3);
    expect_failure("/right/", "element 2 is -0, not 1.19");
    write_floats("right", "output_0", right, 2);
    expect_failure("/right", "output 'y' is float32 [3], not float32 [2]");
    write_file("right/test_data_set_0/output_0.pb",
               pb_tensor("t", 7, 1, (const int64_t[]){3}, (const int64_t[]){-1, 2000, 0}, 24));
    expect_failure("/right", "output 'y' is float32 [3], not int64 [3]");
    write_file("right/test_data_set_0/output_0.pb", (struct pb){0});
    expect_failure("/right", "output_0.pb: ");
    write_floats("right", "input_0", x, 2);
    expect_failure("/right", "input 'x' is float32 [2] in the data; the model wants float32 [3]");
}

Test(onnx, numbers_that_are_none, .init = make_folder, .fini = remove_folder)
{
    const struct tiny root = {.op = "Sqrt", .x_type = 1, .x_extent = 3};
    write_model("root", &root);
    write_floats("root", "input_0", FLOATS(-1, INFINITY, 4), 3);
    write_floats("root", "output_0", FLOATS(NAN, INFINITY, 2), 3);
    cr_expect_eq(run_folder("", false).passed, 1);
    write_floats("root", "output_0", FLOATS(0, INFINITY, 2), 3);
    expect_failure("", "nan, not 0");
    write_floats("root", "output_0", FLOATS(NAN, 1e38f, 2), 3);
    expect_failure("", "element 1 is inf, not ");
    write_floats("root", "output_0", FLOATS(NAN, INFINITY, NAN), 3);
    expect_failure("", "element 2 is 2, not nan");
}

/* Integers must be equal, and one too many or too few is found out. */
Test(onnx, integers, .init = make_folder, .fini = remove_folder)
{
    const struct tiny absolute = {.op = "Abs", .x_type = 7, .x_extent = 1};
    const int64_t big = -1000000, near = 1000001;
    write_model("abs", &absolute);
    write_file("abs/test_data_set_0/input_0.pb",
               pb_tensor("t", 7, 1, (const int64_t[]){1}, &big, sizeof big));
    write_file("abs/test_data_set_0/output_0.pb",
               pb_tensor("t", 7, 1, (const int64_t[]){1}, &near, sizeof near));
    expect_failure("", "element 0 is 1000000, not 1000001");
    const int64_t right = 1000000;
    write_file("abs/test_data_set_0/output_0.pb",
               pb_tensor("t", 7, 1, (const int64_t[]){1}, &right, sizeof right));
    cr_expect_eq(run_folder("", false).passed, 1);
    write_file("abs/test_data_set_0/output_1.pb",
               pb_tensor("t", 7, 1, (const int64_t[]){1}, &right, sizeof right));
    expect_failure("", "the model has 1 outputs, the data more");
}

/* A shape that is a graph input is bound to its value. */
Test(onnx, shapes_as_inputs, .init = make_folder, .fini = remove_folder)
{
    const struct tiny expand = {
        .op = "Expand", .x_type = 1, .s_type = 7, .x_extent = 1, .s_extent = 1};
    const int64_t three = 3;
    write_model("expand", &expand);
    write_floats("expand", "input_0", FLOATS(5), 1);
    write_file("expand/test_data_set_0/input_1.pb",
               pb_tensor("s", 7, 1, (const int64_t[]){1}, &three, sizeof three));
    write_floats("expand", "output_0", FLOATS(5, 5, 5), 3);
    const struct outcome o = run_folder("", false);
    cr_expect_eq(o.passed, 1, "%s", o.text);
}

Test(onnx, what_is_not_there, .init = make_folder, .fini = remove_folder)
{
    const struct tiny strange = {.op = "Frobnicate", .x_type = 1, .x_extent = 1};
    cr_expect_eq(run_folder("", false).failed, 0, "an empty folder holds no case");
    write_model("strange", &strange);
    expect_failure("", "test_data_set_0/input_0.pb cannot be read");
    write_floats("strange", "input_0", FLOATS(5), 1);
    expect_failure("", "operator 'Frobnicate' (domain '', opset 13) is not implemented");
    const struct outcome o = run_folder("", true);
    cr_expect(o.skipped == 1 && o.failed == 0, "%s", o.text);
    write_file("strange/model.onnx", (struct pb){0});
    expect_failure("/strange", "strange: load: invalid_model: ");
    cr_expect_eq(run_folder("", true).skipped, 0, "a broken model is not skipped");
    remove(data_printf("%s/strange/test_data_set_0/input_0.pb", folder));
    rmdir(data_printf("%s/strange/test_data_set_0", folder));
    const struct tiny negate = {.op = "Neg", .x_type = 1, .x_extent = 1};
    remove(data_printf("%s/strange/model.onnx", folder));
    rmdir(data_printf("%s/strange", folder));
    write_model("strange", &negate);
    rmdir(data_printf("%s/strange/test_data_set_0", folder));
    expect_failure("", "there is no test_data_set_*");
    struct cvd_engine *engine = engine_for(1);
    struct outcome none = {0};
    cr_expect_not(conformance_run(engine, data_printf("%s/absent", folder), false, note, &none));
    cvd_engine_destroy(engine);
}

/* The case's own tolerances. */
Test(onnx, tolerances, .init = make_folder, .fini = remove_folder)
{
    const struct tiny negate = {.op = "Neg", .x_type = 1, .x_extent = 1};
    const char loose[] = "{\"rtol\": 0, \"atol\": 0.25}", broken[] = "{";
    struct pb text = {0};
    write_model("loose", &negate);
    write_floats("loose", "input_0", FLOATS(100), 1);
    write_floats("loose", "output_0", FLOATS(-100.125f), 1);
    expect_failure("", "element 0 is -100, not -100.125");
    pb_raw(&text, loose, strlen(loose));
    write_file("loose/data.json", text);
    cr_expect_eq(run_folder("", false).passed, 1);
    write_floats("loose", "output_0", FLOATS(-100.5f), 1);
    expect_failure("", "element 0 is -100, not -100.5");
    text = (struct pb){0};
    pb_raw(&text, broken, strlen(broken));
    write_file("loose/data.json", text);
    expect_failure("", "data.json: ");
}
