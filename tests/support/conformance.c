/*
 * One case of ONNX's backend tests at a time: read, load, run, compare.
 *
 * Shapes that come at run time are not implemented, but many of these cases have them as graph
 * inputs. So a model that does not load is tried again with its small integer inputs bound to their
 * values as constants, and then with all of them.
 */
#include "tests/support/conformance.h"

#include "engine/onnx/onnx.h"
#include "engine/ops/convert.h"

#include <convd/session.h>

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE_BYTES    ((size_t)1 << 30)
#define MAX_ARRAYS        4096
#define MAX_DEPTH         8  /* of folders that are looked into for cases */
#define SMALL_ELEMENTS    64 /* a shape, a list of axes, an index */
#define MAX_PATH_BYTES    4096
#define DATA_SET          "test_data_set_"
#define DEFAULT_RTOL      1e-3 /* of ONNX's own runner */
#define DEFAULT_ATOL      1e-7
#define CONVERTED_AT_ONCE ((size_t)256)

/* A case, and what is being done with it. */
struct work {
    struct cvd_engine *engine;
    const char *folder;
    double rtol, atol;
    struct graph graph; /* for the names of its inputs */
    char reason[CONFORMANCE_REASON_BYTES];
    bool unsupported; /* the failure is what is not implemented */
    /* One data set: */
    struct op_tensor *inputs; /* by graph input; data owned */
    struct cvd_model *model;
    struct cvd_session *session;
    const void **run_inputs; /* by model input; not owned */
    void **outputs;          /* by model output; owned */
    size_t output_count;
};

__attribute__((format(printf, 2, 3))) static bool fail(struct work *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(w->reason, sizeof w->reason, format, args);
    va_end(args);
    return false;
}

static bool fail_status(struct work *w, const char *what, enum cvd_status status,
                        const struct cvd_error *err)
{
    w->unsupported = status == CVD_STATUS_UNSUPPORTED;
    return fail(w, "%s: %s: %s", what, cvd_status_name(status), err->message);
}

__attribute__((format(printf, 2, 3))) static bool make_path(char path[MAX_PATH_BYTES],
                                                            const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int len = vsnprintf(path, MAX_PATH_BYTES, format, args);
    va_end(args);
    return len >= 0 && len < MAX_PATH_BYTES;
}

/* ---- files ---- */

/* The whole of a regular file, malloc'ed; NULL when it cannot be read. */
static void *read_whole(const char *path, size_t *len)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    char *bytes = NULL;
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (size_t)st.st_size <= MAX_FILE_BYTES)
        bytes = malloc((size_t)st.st_size + 1);
    size_t done = 0;
    while (bytes && done < (size_t)st.st_size) {
        const ssize_t n = read(fd, bytes + done, (size_t)st.st_size - done);
        if (n <= 0) {
            free(bytes);
            bytes = NULL;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    *len = done;
    return bytes;
}

/* Reads `set`/`kind`_`index`.pb; *out is to be mem_free()d. */
static bool read_array(struct work *w, const char *set, const char *kind, size_t index,
                       struct op_tensor *out)
{
    char path[MAX_PATH_BYTES], what[64];
    size_t len;
    snprintf(what, sizeof what, "%s_%zu.pb", kind, index);
    void *bytes = make_path(path, "%s/%s/%s", w->folder, set, what) ? read_whole(path, &len) : NULL;
    if (!bytes)
        return fail(w, "%.64s/%s cannot be read", set, what);
    struct cvd_error err = {0};
    const char *name;
    const enum cvd_status status = onnx_read_tensor(bytes, len, w->graph.arena, &name, out, &err);
    free(bytes);
    return status == CVD_STATUS_OK || fail_status(w, what, status, &err);
}

static bool has_file(const struct work *w, const char *set, const char *kind, size_t index)
{
    char path[MAX_PATH_BYTES];
    return make_path(path, "%s/%s/%s_%zu.pb", w->folder, set, kind, index) &&
           access(path, F_OK) == 0;
}

/* The names of the graph's inputs, which a model that does not load cannot tell. */
static bool read_graph(struct work *w)
{
    char path[MAX_PATH_BYTES];
    size_t len;
    void *bytes = make_path(path, "%s/model.onnx", w->folder) ? read_whole(path, &len) : NULL;
    if (!bytes)
        return fail(w, "model.onnx cannot be read");
    const struct onnx_source source = {.file_name = "model.onnx", .folder = w->folder};
    struct cvd_error err = {0};
    enum cvd_status status = graph_init(&w->graph, &err);
    if (status == CVD_STATUS_OK)
        status = onnx_read(bytes, len, &source, &w->graph, &err);
    free(bytes);
    if (status != CVD_STATUS_OK)
        return fail_status(w, "load", status, &err);
    if (w->graph.input_count > MAX_ARRAYS)
        return fail(w, "the graph has %u inputs", w->graph.input_count);
    return true;
}

/* Tolerances that the case states for itself, as those of whole models do. */
static bool read_tolerances(struct work *w)
{
    char path[MAX_PATH_BYTES];
    json_error_t error;
    w->rtol = DEFAULT_RTOL;
    w->atol = DEFAULT_ATOL;
    if (!make_path(path, "%s/data.json", w->folder) || access(path, F_OK) != 0)
        return true;
    json_t *root = json_load_file(path, 0, &error);
    if (!root)
        return fail(w, "data.json: %s", error.text);
    const json_t *rtol = json_object_get(root, "rtol"), *atol = json_object_get(root, "atol");
    if (json_is_number(rtol))
        w->rtol = json_number_value(rtol);
    if (json_is_number(atol))
        w->atol = json_number_value(atol);
    json_decref(root);
    return true;
}

/* ---- loading ---- */

static bool is_shaping(const struct op_tensor *t)
{
    size_t elements;
    return (t->dtype == CVD_DTYPE_INT64 || t->dtype == CVD_DTYPE_INT32 ||
            t->dtype == CVD_DTYPE_BOOL) &&
           cvd_shape_elements(&t->shape, &elements) && elements <= SMALL_ELEMENTS;
}

enum bind { BIND_NONE, BIND_SMALL, BIND_ALL };

static enum cvd_status load(struct work *w, enum bind bind, struct cvd_error *err)
{
    char path[MAX_PATH_BYTES];
    struct cvd_constant *constants = calloc(w->graph.input_count + 1, sizeof *constants);
    if (!constants || !make_path(path, "%s/model.onnx", w->folder)) {
        free(constants);
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory to load the model");
    }
    struct cvd_load_options options = {.constants = constants, .allow_nonfinite = true};
    for (uint32_t i = 0; i < w->graph.input_count; i++) {
        const struct op_tensor *t = &w->inputs[i];
        if (bind == BIND_ALL || (bind == BIND_SMALL && is_shaping(t)))
            constants[options.constant_count++] =
                (struct cvd_constant){.name = w->graph.values[w->graph.inputs[i]].name,
                                      .dtype = t->dtype,
                                      .shape = t->shape,
                                      .data = t->data};
    }
    const enum cvd_status status = cvd_model_load_file(w->engine, path, &options, &w->model, err);
    free(constants);
    return status;
}

static bool load_model(struct work *w)
{
    struct cvd_error err = {0};
    enum cvd_status status = CVD_STATUS_UNSUPPORTED;
    for (enum bind bind = BIND_NONE; bind <= BIND_ALL && status == CVD_STATUS_UNSUPPORTED; bind++)
        status = load(w, bind, &err);
    return status == CVD_STATUS_OK || fail_status(w, "load", status, &err);
}

/* ---- running ---- */

static const struct op_tensor *input_named(const struct work *w, const char *name)
{
    for (uint32_t i = 0; i < w->graph.input_count; i++)
        if (strcmp(w->graph.values[w->graph.inputs[i]].name, name) == 0)
            return &w->inputs[i];
    return NULL;
}

/* Images in a batch of the data set's inputs. */
static int64_t batch_of(const struct work *w)
{
    int64_t batch = cvd_model_fixed_batch(w->model);
    for (size_t i = 0; batch == 0 && i < cvd_model_input_count(w->model); i++) {
        struct cvd_value_info info;
        cvd_model_input(w->model, i, &info);
        const struct op_tensor *t = input_named(w, info.name);
        if (t && t->shape.rank > 0 && info.shape.rank > 0 && info.shape.dims[0] == CVD_DIM_BATCH)
            batch = t->shape.dims[0];
    }
    return batch > 0 ? batch : 1;
}

static bool check_input(struct work *w, size_t index, int64_t batch)
{
    struct cvd_value_info info;
    struct cvd_shape shape;
    cvd_model_input(w->model, index, &info);
    cvd_model_input_shape(w->model, index, batch, &shape);
    const struct op_tensor *t = input_named(w, info.name);
    if (!t)
        return fail(w, "the model's input '%.64s' is none of the graph's", info.name);
    char have[CVD_SHAPE_TEXT_BYTES], want[CVD_SHAPE_TEXT_BYTES];
    if (t->dtype != info.dtype || !cvd_shape_equal(&t->shape, &shape))
        return fail(w, "input '%.64s' is %s %s in the data; the model wants %s %s", info.name,
                    cvd_dtype_name(t->dtype), cvd_shape_text(&t->shape, have),
                    cvd_dtype_name(info.dtype), cvd_shape_text(&shape, want));
    w->run_inputs[index] = t->data;
    return true;
}

static bool make_outputs(struct work *w, int64_t batch)
{
    for (size_t i = 0; i < w->output_count; i++) {
        struct cvd_value_info info;
        struct cvd_shape shape;
        size_t elements, bytes;
        cvd_model_output(w->model, i, &info);
        cvd_model_output_shape(w->model, i, batch, &shape);
        if (!cvd_shape_elements(&shape, &elements) ||
            !mem_mul(elements, cvd_dtype_bytes(info.dtype), &bytes) ||
            !(w->outputs[i] = malloc(bytes + 1)))
            return fail(w, "no memory for output '%.64s'", info.name);
    }
    return true;
}

static bool run(struct work *w, int64_t batch)
{
    struct cvd_error err = {0};
    const size_t inputs = cvd_model_input_count(w->model);
    w->output_count = cvd_model_output_count(w->model);
    w->run_inputs = calloc(inputs + 1, sizeof *w->run_inputs);
    w->outputs = calloc(w->output_count + 1, sizeof *w->outputs);
    if (!w->run_inputs || !w->outputs)
        return fail(w, "no memory to run the model");
    for (size_t i = 0; i < inputs; i++)
        if (!check_input(w, i, batch))
            return false;
    enum cvd_status status = cvd_session_create(w->model, batch, &w->session, &err);
    if (status != CVD_STATUS_OK)
        return fail_status(w, "session", status, &err);
    if (!make_outputs(w, batch))
        return false;
    status = cvd_session_run(w->session, batch, w->run_inputs, w->outputs, &err);
    return status == CVD_STATUS_OK || fail_status(w, "run", status, &err);
}

/* ---- comparing ---- */

static bool is_float(enum cvd_dtype dtype)
{
    return dtype == CVD_DTYPE_FLOAT32 || dtype == CVD_DTYPE_FLOAT64 || dtype == CVD_DTYPE_FLOAT16 ||
           dtype == CVD_DTYPE_BFLOAT16;
}

static bool close_enough(const struct work *w, double got, double want)
{
    if (isnan(want) || isnan(got))
        return isnan(want) && isnan(got);
    return got == want || fabs(got - want) <= w->atol + w->rtol * fabs(want);
}

static bool compare_floats(struct work *w, const char *name, const void *got,
                           const struct op_tensor *want, size_t elements)
{
    const size_t bytes = cvd_dtype_bytes(want->dtype);
    double a[CONVERTED_AT_ONCE], b[CONVERTED_AT_ONCE];
    for (size_t done = 0; done < elements; done += CONVERTED_AT_ONCE) {
        const size_t left = elements - done,
                     n = left < CONVERTED_AT_ONCE ? left : CONVERTED_AT_ONCE;
        convert_elements(want->dtype, (const char *)got + done * bytes, CVD_DTYPE_FLOAT64, a, n);
        convert_elements(want->dtype, (const char *)want->data + done * bytes, CVD_DTYPE_FLOAT64, b,
                         n);
        for (size_t i = 0; i < n; i++)
            if (!close_enough(w, a[i], b[i]))
                return fail(w, "output '%.64s': element %zu is %.9g, not %.9g", name, done + i,
                            a[i], b[i]);
    }
    return true;
}

static bool compare_integers(struct work *w, const char *name, const void *got,
                             const struct op_tensor *want, size_t elements)
{
    const size_t bytes = cvd_dtype_bytes(want->dtype);
    for (size_t i = 0; i < elements; i++) {
        const char *a = (const char *)got + i * bytes, *b = (const char *)want->data + i * bytes;
        int64_t x, y;
        if (memcmp(a, b, bytes) == 0)
            continue;
        convert_elements(want->dtype, a, CVD_DTYPE_INT64, &x, 1);
        convert_elements(want->dtype, b, CVD_DTYPE_INT64, &y, 1);
        return fail(w, "output '%.64s': element %zu is %lld, not %lld", name, i, (long long)x,
                    (long long)y);
    }
    return true;
}

static bool compare_output(struct work *w, const char *set, size_t index, int64_t batch)
{
    struct cvd_value_info info;
    struct cvd_shape shape;
    struct op_tensor want;
    cvd_model_output(w->model, index, &info);
    cvd_model_output_shape(w->model, index, batch, &shape);
    if (!read_array(w, set, "output", index, &want))
        return false;
    char have[CVD_SHAPE_TEXT_BYTES], due[CVD_SHAPE_TEXT_BYTES];
    size_t elements;
    bool same;
    if (want.dtype != info.dtype || !cvd_shape_equal(&want.shape, &shape))
        same = fail(w, "output '%.64s' is %s %s, not %s %s", info.name, cvd_dtype_name(info.dtype),
                    cvd_shape_text(&shape, have), cvd_dtype_name(want.dtype),
                    cvd_shape_text(&want.shape, due));
    else if (!cvd_shape_elements(&shape, &elements))
        same = fail(w, "output '%.64s' is too large", info.name);
    else if (is_float(want.dtype))
        same = compare_floats(w, info.name, w->outputs[index], &want, elements);
    else
        same = compare_integers(w, info.name, w->outputs[index], &want, elements);
    mem_free((void *)want.data);
    return same;
}

/* ---- a case ---- */

static bool run_set(struct work *w, const char *set)
{
    for (uint32_t i = 0; i < w->graph.input_count; i++)
        if (!read_array(w, set, "input", i, &w->inputs[i]))
            return false;
    if (!load_model(w))
        return false;
    const int64_t batch = batch_of(w);
    if (!run(w, batch))
        return false;
    for (size_t i = 0; i < w->output_count; i++)
        if (!compare_output(w, set, i, batch))
            return false;
    if (has_file(w, set, "output", w->output_count))
        return fail(w, "the model has %zu outputs, the data more", w->output_count);
    return true;
}

static void release_set(struct work *w)
{
    cvd_session_destroy(w->session);
    cvd_model_destroy(w->model);
    for (uint32_t i = 0; i < w->graph.input_count; i++) {
        mem_free((void *)w->inputs[i].data);
        w->inputs[i].data = NULL;
    }
    for (size_t i = 0; i < w->output_count && w->outputs; i++)
        free(w->outputs[i]);
    free(w->outputs);
    free(w->run_inputs);
    w->session = NULL;
    w->model = NULL;
    w->outputs = NULL;
    w->run_inputs = NULL;
    w->output_count = 0;
}

static int is_data_set(const struct dirent *entry)
{
    return strncmp(entry->d_name, DATA_SET, strlen(DATA_SET)) == 0;
}

static bool run_sets(struct work *w)
{
    struct dirent **sets;
    const int count = scandir(w->folder, &sets, is_data_set, versionsort);
    if (count < 0)
        return fail(w, "the folder cannot be read");
    bool passes = count > 0 || fail(w, "there is no " DATA_SET "*");
    for (int i = 0; i < count; i++) {
        if (passes) {
            passes = run_set(w, sets[i]->d_name);
            release_set(w);
        }
        free(sets[i]);
    }
    free(sets);
    return passes;
}

static void run_case(struct cvd_engine *engine, const char *folder, bool skip_unsupported,
                     conformance_fn report, void *ctx)
{
    struct work w = {.engine = engine, .folder = folder};
    bool passes = read_graph(&w) && read_tolerances(&w);
    if (passes) {
        w.inputs = calloc(w.graph.input_count + 1, sizeof *w.inputs);
        passes = w.inputs ? run_sets(&w) : fail(&w, "no memory for the inputs");
    }
    free(w.inputs);
    graph_release(&w.graph);
    const char *slash = strrchr(folder, '/');
    const enum conformance_verdict verdict = passes                              ? CONFORMANCE_PASS
                                             : w.unsupported && skip_unsupported ? CONFORMANCE_SKIP
                                                                                 : CONFORMANCE_FAIL;
    report(ctx, slash ? slash + 1 : folder, verdict, w.reason);
}

/* ---- folders ---- */

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool run_below(struct cvd_engine *engine, const char *path, bool skip_unsupported,
                      conformance_fn report, void *ctx, unsigned depth)
{
    char inner[MAX_PATH_BYTES];
    if (make_path(inner, "%s/model.onnx", path) && access(inner, F_OK) == 0) {
        run_case(engine, path, skip_unsupported, report, ctx);
        return true;
    }
    struct dirent **entries;
    const int count = scandir(path, &entries, is_visible, versionsort);
    if (count < 0)
        return false;
    for (int i = 0; i < count; i++) {
        if (depth > 0 && make_path(inner, "%s/%s", path, entries[i]->d_name) && is_folder(inner))
            run_below(engine, inner, skip_unsupported, report, ctx, depth - 1);
        free(entries[i]);
    }
    free(entries);
    return true;
}

bool conformance_run(struct cvd_engine *engine, const char *path, bool skip_unsupported,
                     conformance_fn report, void *ctx)
{
    char folder[MAX_PATH_BYTES];
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    return make_path(folder, "%.*s", (int)(len < MAX_PATH_BYTES ? len : MAX_PATH_BYTES), path) &&
           run_below(engine, folder, skip_unsupported, report, ctx, MAX_DEPTH);
}
