/* Engines and models through the public interface: settings, loading from memory and files, and
 * what a model tells about itself. */
#include <convd/session.h>

#include "engine/onnx/onnx.h"
#include "tests/support/net.h"

#include <criterion/criterion.h>

#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- engines ---- */

Test(engine, defaults)
{
    struct cvd_settings settings;
    memset(&settings, 0xff, sizeof(settings));
    cvd_settings_default(&settings);
    cr_assert_eq(settings.threads, 0);
    cr_assert_eq(settings.cpu, CVD_CPU_AUTO);
    cr_assert_eq(settings.max_model_bytes, (size_t)2 << 30);
    struct cvd_engine *engine = NULL;
    struct cvd_error err = {0};
    cr_assert_eq(cvd_engine_create(NULL, &engine, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(cvd_engine_threads(engine), cvd_cpu_count());
    cr_assert_neq(cvd_engine_cpu(engine), CVD_CPU_AUTO);
    cr_assert(cvd_cpu_supported(cvd_engine_cpu(engine)));
    cvd_engine_destroy(engine);
    cvd_engine_destroy(NULL);
}

Test(engine, settings_out_of_range)
{
    struct cvd_engine *engine = NULL;
    struct cvd_error err = {0};
    struct cvd_settings settings;
    cvd_settings_default(&settings);
    settings.threads = CVD_MAX_THREADS + 1;
    cr_assert_eq(cvd_engine_create(&settings, &engine, &err), CVD_STATUS_INVALID_ARGUMENT);
    cr_assert_not_null(strstr(err.message, "threads is 257"), "%s", err.message);
    cvd_settings_default(&settings);
    settings.cpu = (enum cvd_cpu)77;
    cr_assert_eq(cvd_engine_create(&settings, &engine, &err), CVD_STATUS_INVALID_ARGUMENT);
    cr_assert_not_null(strstr(err.message, "77"), "%s", err.message);
    for (unsigned level = CVD_CPU_C; level < CVD_CPU_COUNT; level++) {
        settings.cpu = (enum cvd_cpu)level;
        settings.threads = 1;
        enum cvd_status status = cvd_engine_create(&settings, &engine, &err);
        if (!cvd_cpu_supported((enum cvd_cpu)level)) {
            cr_assert_eq(status, CVD_STATUS_UNSUPPORTED_HARDWARE);
            cr_assert_not_null(strstr(err.message, cvd_cpu_name((enum cvd_cpu)level)), "%s",
                               err.message);
            continue;
        }
        cr_assert_eq(status, CVD_STATUS_OK, "%s", err.message);
        cr_assert_eq((unsigned)cvd_engine_cpu(engine), level);
        cvd_engine_destroy(engine);
        engine = NULL;
    }
    cr_assert_null(engine);
    for (size_t n = 1; n <= 2; n++) {
        mem_fail_after(n, false);
        cr_assert_eq(cvd_engine_create(NULL, &engine, &err), CVD_STATUS_OUT_OF_MEMORY);
        mem_fail_after(0, false);
    }
    cr_assert_null(engine);
}

struct post {
    struct cvd_job job;
    sem_t ran;
};

static void post_run(struct cvd_job *job)
{
    sem_post(&((struct post *)job)->ran);
}

Test(engine, runs_jobs, .timeout = 600)
{
    struct cvd_engine *engine = net_engine(2);
    struct post post = {.job.run = post_run};
    sem_init(&post.ran, 0, 0);
    for (int i = 0; i < 3; i++) {
        cvd_engine_submit(engine, &post.job);
        sem_wait(&post.ran);
    }
    while (cvd_engine_idle(engine) != 2)
        usleep(1000);
    cvd_engine_destroy(engine);
}

/* ---- files in memory ---- */

struct file {
    void *bytes;
    size_t len;
};

/* The graph as an ONNX file; releases the graph. */
static struct file write_onnx(struct graph *g)
{
    struct file f = {0};
    struct cvd_error err = {0};
    cr_assert_eq(graph_check(g, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(onnx_write(g, &f.bytes, &f.len, &err), CVD_STATUS_OK, "%s", err.message);
    graph_release(g);
    return f;
}

static struct file lenet_file(void)
{
    struct graph g;
    net_lenet(&g, 7, false);
    g.ir_version = 8;
    for (uint32_t i = 0; i < g.value_count; i++) { /* files need names and types everywhere */
        char name[16];
        snprintf(name, sizeof(name), "v%u", i);
        if (g.values[i].name == NULL)
            g.values[i].name = mem_arena_strndup(g.arena, name, strlen(name));
    }
    uint32_t out = g.outputs[0];
    g.values[out].dtype = CVD_DTYPE_FLOAT32;
    g.values[out].has_shape = true;
    g.values[out].shape = NET_SHAPE(CVD_DIM_BATCH, 10);
    cr_assert_eq(graph_add_metadata(&g, "convd.labels", "a\nb", NULL), CVD_STATUS_OK);
    cr_assert_eq(graph_add_metadata(&g, "other", "", NULL), CVD_STATUS_OK);
    return write_onnx(&g);
}

static struct cvd_model *load(struct cvd_engine *engine, const struct file *f)
{
    struct cvd_model *model = NULL;
    struct cvd_error err = {0};
    cr_assert_eq(cvd_model_load(engine, f->bytes, f->len, NULL, &model, &err), CVD_STATUS_OK, "%s",
                 err.message);
    return model;
}

static void classify(const struct cvd_model *model, float out[10])
{
    static float image[784];
    struct cvd_session *session = NULL;
    net_fill(image, 784, 1);
    cr_assert_eq(cvd_session_create(model, 1, &session, NULL), CVD_STATUS_OK);
    cr_assert_eq(cvd_session_run(session, 1, (const void *[]){image}, (void *[]){out}, NULL),
                 CVD_STATUS_OK);
    cvd_session_destroy(session);
}

Test(model, tells_about_itself)
{
    struct cvd_engine *engine = net_engine(2);
    struct file f = lenet_file();
    struct cvd_model *model = load(engine, &f);
    free(f.bytes); /* not used after loading */

    cr_assert_eq(cvd_model_input_count(model), 1);
    cr_assert_eq(cvd_model_output_count(model), 1);
    struct cvd_value_info info;
    cvd_model_input(model, 0, &info);
    cr_assert_str_eq(info.name, "image");
    cr_assert_eq(info.dtype, CVD_DTYPE_FLOAT32);
    cr_assert(cvd_shape_equal(&info.shape, &NET_SHAPE(CVD_DIM_BATCH, 1, 28, 28)));
    cvd_model_output(model, 0, &info);
    cr_assert_str_eq(info.name, "probabilities");
    cr_assert(cvd_shape_equal(&info.shape, &NET_SHAPE(CVD_DIM_BATCH, 10)));
    struct cvd_shape shape;
    cvd_model_input_shape(model, 0, 9, &shape);
    cr_assert(cvd_shape_equal(&shape, &NET_SHAPE(9, 1, 28, 28)));
    cvd_model_output_shape(model, 0, 9, &shape);
    cr_assert(cvd_shape_equal(&shape, &NET_SHAPE(9, 10)));
    cr_assert_eq(cvd_model_fixed_batch(model), 0);
    cr_assert(cvd_model_ends_in_softmax(model));
    cr_assert_str_eq(cvd_model_metadata(model, "convd.labels"), "a\nb");
    cr_assert_str_eq(cvd_model_metadata(model, "other"), "");
    cr_assert_null(cvd_model_metadata(model, "convd.input"));
    cvd_model_destroy(model);
    cvd_model_destroy(NULL);
    cvd_engine_destroy(engine);
}

Test(model, layers_and_totals)
{
    struct cvd_engine *engine = net_engine(1);
    struct file f = lenet_file();
    struct cvd_model *model = load(engine, &f);
    free(f.bytes);
    cr_assert_eq(cvd_model_layer_count(model), 8); /* fused */
    struct cvd_layer_info conv, gemm;
    cvd_model_layer(model, 0, &conv);
    cr_assert_str_eq(conv.name, "c1");
    cr_assert_str_eq(conv.op, "Conv+Relu");
    cr_assert_neq(conv.kernel[0], '\0');
    cr_assert(cvd_shape_equal(&conv.shape, &NET_SHAPE(CVD_DIM_BATCH, 6, 28, 28)));
    cr_assert_eq(conv.parameters, 156);
    cr_assert_eq(conv.macs, 117600);
    cr_assert_eq(conv.output_bytes, 6 * 784 * 4);
    cr_assert_eq(conv.dense_parameters, 784 * 4704 + 4704);
    cvd_model_layer(model, 4, &gemm);
    cr_assert_str_eq(gemm.op, "Gemm+Relu");
    cr_assert_eq(gemm.parameters, 48120);
    cr_assert_eq(gemm.dense_parameters, 0);
    uint64_t unshared = 0, parameters = 0;
    for (size_t i = 0; i < 8; i++) {
        struct cvd_layer_info layer;
        cvd_model_layer(model, i, &layer);
        unshared += layer.output_bytes;
        parameters += layer.parameters;
    }
    struct cvd_model_stats stats;
    cvd_model_stats(model, &stats);
    cr_assert_eq(stats.parameters, 61706);
    cr_assert_eq(parameters, 61706);
    cr_assert_eq(stats.macs, 416520);
    cr_assert_geq(stats.weight_bytes, 61706 * 4);
    cr_assert_lt(stats.weight_bytes, 61706 * 4 * 2);
    cr_assert_eq(stats.activation_bytes, 18816 + 4736);
    cr_assert_eq(stats.unshared_bytes, unshared);
    cr_assert_gt(stats.unshared_bytes, stats.activation_bytes);
    cr_assert_eq(stats.opset, 13);
    cr_assert_gt(stats.load_seconds, 0);
    cr_assert_lt(stats.load_seconds, 10);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

Test(model, figures_are_for_one_image_of_a_fixed_batch)
{
    struct cvd_engine *engine = net_engine(1);
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(4, 8));
    uint32_t w = net_weights(&g, "w", NET_SHAPE(8, 5), 1, 1);
    net_output(&g, NET_OP(&g, "Gemm", "y", x, w));
    struct cvd_model *model = net_model(engine, &g);
    struct cvd_layer_info layer;
    struct cvd_model_stats stats;
    cvd_model_layer(model, 0, &layer);
    cvd_model_stats(model, &stats);
    cr_assert_eq(cvd_model_fixed_batch(model), 4);
    cr_assert_eq(layer.macs, 40);
    cr_assert_eq(layer.output_bytes, 20);
    cr_assert_eq(stats.macs, 40);
    cr_assert(cvd_shape_equal(&layer.shape, &NET_SHAPE(4, 5)));
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

Test(model, two_loads_agree)
{
    struct cvd_engine *engine = net_engine(2);
    struct file f = lenet_file();
    struct cvd_model *a = load(engine, &f), *b = load(engine, &f);
    float x[10], y[10];
    classify(a, x);
    classify(b, y);
    cr_assert_eq(memcmp(x, y, sizeof(x)), 0);
    free(f.bytes);
    cvd_model_destroy(a);
    cvd_model_destroy(b);
    cvd_engine_destroy(engine);
}

Test(model, the_one_in_the_library)
{
    struct cvd_engine *engine = net_engine(2);
    struct cvd_model *model = NULL;
    struct cvd_error err = {0};
    cr_assert_eq(cvd_model_load_builtin(engine, &model, &err), CVD_STATUS_OK, "%s", err.message);
    struct cvd_shape shape;
    cvd_model_input_shape(model, 0, 1, &shape);
    cr_assert(cvd_shape_equal(&shape, &NET_SHAPE(1, 1, 28, 28)));
    cvd_model_output_shape(model, 0, 1, &shape);
    cr_assert(cvd_shape_equal(&shape, &NET_SHAPE(1, 10)));
    cr_assert_eq(cvd_model_fixed_batch(model), 0);
    float out[10];
    classify(model, out);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

Test(model, cut_and_oversized_files_are_refused)
{
    struct cvd_settings settings;
    struct cvd_engine *engine = NULL;
    struct cvd_model *model = NULL;
    struct cvd_error err = {0};
    struct file f = lenet_file();
    cvd_settings_default(&settings);
    settings.max_model_bytes = f.len;
    cr_assert_eq(cvd_engine_create(&settings, &engine, &err), CVD_STATUS_OK);
    cr_assert_eq(cvd_model_load(engine, f.bytes, 0, NULL, &model, &err), CVD_STATUS_INVALID_MODEL);
    cr_assert_not_null(strstr(err.message, "empty"), "%s", err.message);
    char *longer = calloc(1, f.len + 1);
    memcpy(longer, f.bytes, f.len);
    cr_assert_eq(cvd_model_load(engine, longer, f.len + 1, NULL, &model, &err),
                 CVD_STATUS_UNSUPPORTED);
    cr_assert_not_null(strstr(err.message, "models may have up to"), "%s", err.message);
    free(longer);
    for (size_t len = 1; len < f.len; len += 1 + f.len / 300) {
        void *cut = malloc(len); /* exactly, so that reading beyond it is noticed */
        memcpy(cut, f.bytes, len);
        enum cvd_status status = cvd_model_load(engine, cut, len, NULL, &model, &err);
        cr_assert_eq(status, CVD_STATUS_INVALID_MODEL, "%zu bytes: %s", len, err.message);
        cr_assert_null(model);
        free(cut);
    }
    free(f.bytes);
    cvd_engine_destroy(engine);
}

Test(model, every_failing_allocation_is_survived, .timeout = 600)
{
    struct cvd_engine *engine = net_engine(1);
    struct cvd_model *model = NULL;
    struct cvd_error err = {0};
    struct file f = lenet_file();
    size_t n = 1;
    for (;; n++) {
        mem_fail_after(n, n % 2 == 0);
        enum cvd_status status = cvd_model_load(engine, f.bytes, f.len, NULL, &model, &err);
        mem_fail_after(0, false);
        if (status == CVD_STATUS_OK)
            break;
        cr_assert_eq(status, CVD_STATUS_OUT_OF_MEMORY, "allocation %zu: %s", n, err.message);
        cr_assert_null(model);
    }
    cr_assert_gt(n, 50);
    free(f.bytes);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

/* ---- files on disk ---- */

static char folder[64];

static void make_folder(void)
{
    snprintf(folder, sizeof(folder), "/tmp/convd-model-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
}

static const char *put(const char *name, const void *bytes, size_t len)
{
    static char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(bytes, 1, len, f), len);
    fclose(f);
    return path;
}

static void file_refused(struct cvd_engine *engine, const char *path, enum cvd_status expected,
                         const char *part)
{
    struct cvd_model *model = NULL;
    struct cvd_error err = {0};
    enum cvd_status status = cvd_model_load_file(engine, path, NULL, &model, &err);
    cr_assert_eq(status, expected, "%s: %s", path, err.message);
    cr_assert_not_null(strstr(err.message, part), "%s", err.message);
    cr_assert_null(model);
}

TestSuite(model_file, .init = make_folder, .fini = remove_folder);

Test(model_file, loads_like_memory)
{
    struct cvd_engine *engine = net_engine(1);
    struct file f = lenet_file();
    struct cvd_model *a = load(engine, &f), *b = NULL;
    struct cvd_error err = {0};
    const char *path = put("lenet.onnx", f.bytes, f.len);
    cr_assert_eq(cvd_model_load_file(engine, path, NULL, &b, &err), CVD_STATUS_OK, "%s",
                 err.message);
    float x[10], y[10];
    classify(a, x);
    classify(b, y);
    cr_assert_eq(memcmp(x, y, sizeof(x)), 0);
    cvd_model_destroy(b);
    cr_assert_eq(chdir(folder), 0); /* a bare name, whose folder is "." */
    cr_assert_eq(cvd_model_load_file(engine, "lenet.onnx", NULL, &b, &err), CVD_STATUS_OK, "%s",
                 err.message);
    cvd_model_destroy(b);
    cvd_model_destroy(a);
    free(f.bytes);
    cvd_engine_destroy(engine);
}

Test(model_file, what_is_no_model_file, .timeout = 600)
{
    struct cvd_engine *engine = net_engine(1);
    char path[128];
    file_refused(engine, "/nonexistent/x.onnx", CVD_STATUS_IO, "/nonexistent/x.onnx");
    file_refused(engine, folder, CVD_STATUS_IO, "not a regular file");
    snprintf(path, sizeof(path), "%s/pipe", folder);
    cr_assert_eq(mkfifo(path, 0600), 0);
    file_refused(engine, path, CVD_STATUS_IO, "not a regular file");
    file_refused(engine, "/dev/zero", CVD_STATUS_IO, "not a regular file");
    file_refused(engine, put("empty", "", 0), CVD_STATUS_INVALID_MODEL, "empty");
    file_refused(engine, put("text", "Hello, world\n", 13), CVD_STATUS_INVALID_MODEL, "");

    const char *large = put("large", "", 0);
    cr_assert_eq(truncate(large, ((off_t)2 << 30) + 1), 0); /* a hole: takes no disk */
    file_refused(engine, large, CVD_STATUS_UNSUPPORTED, "models may have up to 2147483648");
    cvd_engine_destroy(engine);
}

Test(model_file, every_failing_allocation_is_survived, .timeout = 600)
{
    struct cvd_engine *engine = net_engine(1);
    struct cvd_model *model = NULL;
    struct cvd_error err = {0};
    struct file f = lenet_file();
    const char *path = put("lenet.onnx", f.bytes, f.len);
    for (size_t n = 1;; n++) {
        mem_fail_after(n, true);
        enum cvd_status status = cvd_model_load_file(engine, path, NULL, &model, &err);
        mem_fail_after(0, false);
        if (status == CVD_STATUS_OK)
            break;
        cr_assert_eq(status, CVD_STATUS_OUT_OF_MEMORY, "allocation %zu: %s", n, err.message);
    }
    free(f.bytes);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}
