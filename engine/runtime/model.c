/* Models: loading them from memory, from files and from the library itself, and what they tell. */
#include "engine/runtime/model.h"

#include "engine/graph/tune.h"
#include "engine/onnx/onnx.h"
#include "engine/ops/blocked.h"
#include "engine/runtime/tune_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The digit classifier: engine/models/builtin.S. */
extern const unsigned char model_builtin_bytes[], model_builtin_end[];

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- from a graph ---- */

static bool copy_metadata(struct cvd_model *model, const struct graph *g)
{
    struct graph_property *copies =
        mem_arena_alloc(model->arena, g->metadata_count * sizeof(*copies));
    if (copies == NULL)
        return false;
    for (uint32_t i = 0; i < g->metadata_count; i++) {
        const struct graph_property *from = &g->metadata[i];
        copies[i].key = mem_arena_strndup(model->arena, from->key, strlen(from->key));
        copies[i].value = mem_arena_strndup(model->arena, from->value, strlen(from->value));
        if (copies[i].key == NULL || copies[i].value == NULL)
            return false;
    }
    model->metadata = copies;
    model->metadata_count = g->metadata_count;
    return true;
}

/* Builds the plan, with layers timed as the options say. */
static enum cvd_status build_tuned(struct cvd_model *model, struct graph *g,
                                   const struct cvd_load_options *options, struct cvd_error *err)
{
    const struct kernels *kernels = &model->engine->kernels;
    const char *folder = options->tune_cache;
    struct tune tune;
    /* A cache is worth having and not worth failing for. */
    enum cvd_status cache = CVD_STATUS_OK;
    tune_init(&tune, kernels, options->tune_ns);
    if (folder != NULL)
        cache = tune_file_read(&tune, folder, &model->tune_error);
    enum cvd_status status = plan_build(g, kernels, options, &tune, &model->plan, err);
    if (status == CVD_STATUS_OK && folder != NULL && tune.timed > 0 && cache != CVD_STATUS_IO)
        cache = tune_file_write(&tune, folder, &model->tune_error);
    model->tuning = (struct cvd_tuning_info){
        .timed = tune.timed,
        .recalled = tune.recalled,
        .seconds = 1e-9 * (double)tune.spent_ns,
        .problem = cache != CVD_STATUS_OK ? model->tune_error.message : NULL};
    tune_release(&tune);
    return status;
}

/* Releases the graph in any case. */
static enum cvd_status build_model(struct cvd_engine *engine, struct graph *g, double start,
                                   const struct cvd_load_options *options, struct cvd_model **out,
                                   struct cvd_error *err)
{
    enum cvd_status status = CVD_STATUS_OUT_OF_MEMORY;
    struct cvd_model *model = mem_alloc(sizeof(*model));
    if (model != NULL)
        *model = (struct cvd_model){.engine = engine, .arena = mem_arena_create()};
    if (model == NULL || model->arena == NULL || !copy_metadata(model, g)) {
        cvd_error_set(err, status, "no memory for the model");
        goto fail;
    }
    model->opset = graph_opset(g, "");
    if (options != NULL && options->tune_ns > 0)
        status = build_tuned(model, g, options, err);
    else
        status = plan_build(g, &engine->kernels, options, NULL, &model->plan, err);
    if (status != CVD_STATUS_OK)
        goto fail;
    graph_release(g);
    model->load_seconds = now_seconds() - start;
    *out = model;
    return CVD_STATUS_OK;

fail:
    graph_release(g);
    cvd_model_destroy(model);
    return status;
}

/* The domains of the passes' own operators, which trust those who made them. */
static enum cvd_status check_domains(const struct graph *g, struct cvd_error *err)
{
    static const char *const own[] = {FUSED_DOMAIN, BLOCKED_DOMAIN};
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        if (graph_opset(g, own[i]) != 0)
            return cvd_error_set(err, CVD_STATUS_UNSUPPORTED,
                                 "the model imports operator set '%s', which no file may use",
                                 own[i]);
    }
    return CVD_STATUS_OK;
}

/* Bytes to a checked graph; on failure the graph is released. */
static enum cvd_status read_graph(const void *buf, size_t len, const struct onnx_source *source,
                                  struct graph *g, struct cvd_error *err)
{
    *g = (struct graph){0};
    enum cvd_status status = graph_init(g, err);
    if (status == CVD_STATUS_OK)
        status = onnx_read(buf, len, source, g, err);
    if (status == CVD_STATUS_OK)
        status = check_domains(g, err);
    if (status == CVD_STATUS_OK)
        status = graph_check(g, err);
    if (status != CVD_STATUS_OK)
        graph_release(g);
    return status;
}

static enum cvd_status check_size(const struct cvd_engine *engine, const char *what,
                                  unsigned long long bytes, struct cvd_error *err)
{
    if (bytes == 0)
        return cvd_error_set(err, CVD_STATUS_INVALID_MODEL, "%.200s is empty", what);
    if (bytes > engine->max_model_bytes)
        return cvd_error_set(err, CVD_STATUS_UNSUPPORTED,
                             "%.200s has %llu bytes; models may have up to %zu", what, bytes,
                             engine->max_model_bytes);
    return CVD_STATUS_OK;
}

static enum cvd_status load_bytes(struct cvd_engine *engine, const void *buf, size_t len,
                                  const struct cvd_load_options *options, struct cvd_model **out,
                                  struct cvd_error *err)
{
    double start = now_seconds();
    struct onnx_source source = {.file_name = NULL, .folder = NULL};
    struct graph g;
    enum cvd_status status = read_graph(buf, len, &source, &g, err);
    if (status == CVD_STATUS_OK)
        status = build_model(engine, &g, start, options, out, err);
    return status;
}

enum cvd_status cvd_model_load(struct cvd_engine *engine, const void *buf, size_t len,
                               const struct cvd_load_options *options, struct cvd_model **out,
                               struct cvd_error *err)
{
    enum cvd_status status = check_size(engine, "the model", len, err);
    return status == CVD_STATUS_OK ? load_bytes(engine, buf, len, options, out, err) : status;
}

enum cvd_status cvd_model_load_builtin(struct cvd_engine *engine, struct cvd_model **out,
                                       struct cvd_error *err)
{
    return load_bytes(engine, model_builtin_bytes,
                      (size_t)(model_builtin_end - model_builtin_bytes), NULL, out, err);
}

/* ---- files ---- */

static enum cvd_status io_error(struct cvd_error *err, const char *path, const char *what)
{
    return cvd_error_set(err, CVD_STATUS_IO, "%.200s: %s: %s", path, what, strerror(errno));
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* The whole of an open file in a new block. It is read, not mapped: a file that shrinks later would
 * otherwise end the process. */
static enum cvd_status read_file(const struct cvd_engine *engine, int fd, const char *path,
                                 void **out, size_t *len, struct cvd_error *err)
{
    struct stat before, after;
    if (fstat(fd, &before) != 0)
        return io_error(err, path, "cannot be examined");
    if (!S_ISREG(before.st_mode))
        return cvd_error_set(err, CVD_STATUS_IO, "%.200s: not a regular file", path);
    enum cvd_status status = check_size(engine, path, (unsigned long long)before.st_size, err);
    if (status != CVD_STATUS_OK)
        return status;
    size_t size = (size_t)before.st_size, done = 0;
    char *bytes = mem_alloc(size);
    if (bytes == NULL)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory to read %.200s (%zu bytes)",
                             path, size);
    while (done < size) {
        ssize_t n = read(fd, bytes + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            status = io_error(err, path, "cannot be read");
            goto fail;
        }
        if (n == 0)
            break;
        done += (size_t)n;
    }
    if (fstat(fd, &after) != 0 || done != size || !same_file(&before, &after)) {
        status = cvd_error_set(err, CVD_STATUS_IO, "%.200s changed while it was read", path);
        goto fail;
    }
    *out = bytes;
    *len = size;
    return CVD_STATUS_OK;

fail:
    mem_free(bytes);
    return status;
}

/* The folder that `path` lies in, in a new block; NULL when there is no memory. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *folder = slash == NULL ? "." : path;
    size_t len = slash == NULL || slash == path ? 1 : (size_t)(slash - path);
    char *copy = mem_alloc(len + 1);
    if (copy != NULL) {
        memcpy(copy, folder, len);
        copy[len] = '\0';
    }
    return copy;
}

enum cvd_status cvd_model_load_file(struct cvd_engine *engine, const char *path,
                                    const struct cvd_load_options *options, struct cvd_model **out,
                                    struct cvd_error *err)
{
    double start = now_seconds();
    /* O_NONBLOCK: opening a pipe nobody writes to would wait for ever. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return io_error(err, path, "cannot be opened");
    void *bytes = NULL;
    size_t len = 0;
    enum cvd_status status = read_file(engine, fd, path, &bytes, &len, err);
    close(fd);
    if (status != CVD_STATUS_OK)
        return status;

    struct graph g;
    char *folder = folder_of(path);
    struct onnx_source source = {.file_name = path, .folder = folder};
    if (folder == NULL)
        status = cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory to load %.200s", path);
    else
        status = read_graph(bytes, len, &source, &g, err);
    /* Before packing, which needs as much again. */
    mem_free(bytes);
    mem_free(folder);
    if (status != CVD_STATUS_OK)
        return status;
    return build_model(engine, &g, start, options, out, err);
}

void cvd_model_destroy(struct cvd_model *model)
{
    if (model == NULL)
        return;
    plan_destroy(model->plan);
    mem_arena_destroy(model->arena);
    mem_free(model);
}

/* ---- inputs and outputs ---- */

/* The shape with CVD_DIM_BATCH where there is one entry for each image; a value that grows in any
 * other way is shown for one image. */
static void free_shape(const struct plan_value *v, struct cvd_shape *out)
{
    *out = v->shape1;
    if (out->rank > 0 && v->shape1.dims[0] == 1 && v->shape2.dims[0] == 2)
        out->dims[0] = CVD_DIM_BATCH;
}

static void value_info(const struct plan_value *v, struct cvd_value_info *out)
{
    out->name = v->name;
    out->dtype = v->dtype;
    free_shape(v, &out->shape);
}

static const struct plan_value *input_of(const struct cvd_model *model, size_t index)
{
    return &model->plan->values[model->plan->inputs[index]];
}

static const struct plan_value *output_of(const struct cvd_model *model, size_t index)
{
    return &model->plan->values[model->plan->outputs[index]];
}

size_t cvd_model_input_count(const struct cvd_model *model)
{
    return model->plan->input_count;
}

size_t cvd_model_output_count(const struct cvd_model *model)
{
    return model->plan->output_count;
}

void cvd_model_input(const struct cvd_model *model, size_t index, struct cvd_value_info *out)
{
    value_info(input_of(model, index), out);
}

void cvd_model_output(const struct cvd_model *model, size_t index, struct cvd_value_info *out)
{
    value_info(output_of(model, index), out);
}

void cvd_model_input_shape(const struct cvd_model *model, size_t index, int64_t batch,
                           struct cvd_shape *out)
{
    plan_shape(input_of(model, index), batch, out);
}

void cvd_model_output_shape(const struct cvd_model *model, size_t index, int64_t batch,
                            struct cvd_shape *out)
{
    plan_shape(output_of(model, index), batch, out);
}

int64_t cvd_model_fixed_batch(const struct cvd_model *model)
{
    return model->plan->fixed_batch;
}

bool cvd_model_ends_in_softmax(const struct cvd_model *model)
{
    return model->plan->ends_in_softmax;
}

const char *cvd_model_metadata(const struct cvd_model *model, const char *key)
{
    for (uint32_t i = 0; i < model->metadata_count; i++) {
        if (strcmp(model->metadata[i].key, key) == 0)
            return model->metadata[i].value;
    }
    return NULL;
}

/* ---- layers ---- */

/* Images that the sizes in the plan are for: one, unless the model's batch is fixed. */
static uint64_t planned_images(const struct plan *plan)
{
    return plan->fixed_batch != 0 ? (uint64_t)plan->fixed_batch : 1;
}

static uint64_t output_bytes(const struct plan *plan, const struct plan_step *step)
{
    uint64_t total = 0;
    for (size_t i = 0; i < step->out_count; i++) {
        size_t one, more;
        if (step->out[i] == GRAPH_NONE)
            continue;
        plan_bytes(&plan->values[step->out[i]], &one, &more);
        total += one;
    }
    return total;
}

size_t cvd_model_layer_count(const struct cvd_model *model)
{
    return model->plan->step_count;
}

void cvd_model_layer(const struct cvd_model *model, size_t index, struct cvd_layer_info *out)
{
    const struct plan *plan = model->plan;
    const struct plan_step *step = &plan->steps[index];
    *out = (struct cvd_layer_info){
        .name = step->name,
        .op = step->label,
        .kernel = step->prepared.kernel,
        .parameters = step->prepared.parameters,
        .macs = step->prepared.macs / planned_images(plan),
        .output_bytes = output_bytes(plan, step) / planned_images(plan),
        .dense_parameters = step->prepared.dense_parameters,
    };
    if (step->out[0] != GRAPH_NONE)
        free_shape(&plan->values[step->out[0]], &out->shape);
}

void cvd_model_stats(const struct cvd_model *model, struct cvd_model_stats *out)
{
    const struct plan *plan = model->plan;
    *out = (struct cvd_model_stats){.weight_bytes = plan->block_bytes,
                                    .activation_bytes = plan->arena_bytes,
                                    .opset = model->opset,
                                    .load_seconds = model->load_seconds};
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const struct plan_step *step = &plan->steps[i];
        out->parameters += step->prepared.parameters;
        out->macs += step->prepared.macs / planned_images(plan);
        out->weight_bytes += step->prepared.state_bytes;
        out->unshared_bytes += output_bytes(plan, step);
    }
}

void cvd_model_tuning(const struct cvd_model *model, struct cvd_tuning_info *out)
{
    *out = model->tuning;
}
