/*
 * Opening one version of a model: the ONNX file, what it must look like to classify images, its
 * labels and its preprocessing. Shared by the daemon and the command-line tools.
 */
#include "server/file.h"
#include "server/registry_source.h"

#include <convd/session.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LABELS_MAX_BYTES 16777216u
#define MAX_SIDE         65536

/* Why images cannot be classified with a model, in words; false when they can. */
static bool explain_not_images(const struct registry_model *m, const struct cvd_value_info *in,
                               const struct cvd_value_info *out, char *text, size_t room)
{
    char shape[CVD_SHAPE_TEXT_BYTES];
    const struct cvd_shape *s = &in->shape, *o = &out->shape;
    int64_t batch = cvd_model_fixed_batch(m->model);
    if (batch == 0)
        batch = CVD_DIM_BATCH;
    if (cvd_model_input_count(m->model) != 1) {
        snprintf(text, room, "it has %zu inputs; an image classifier has one",
                 cvd_model_input_count(m->model));
    } else if (in->dtype != CVD_DTYPE_FLOAT32 || s->rank != 4 || s->dims[0] != batch ||
               (s->dims[1] != 1 && s->dims[1] != 3) || s->dims[2] < 1 || s->dims[2] > MAX_SIDE ||
               s->dims[3] < 1 || s->dims[3] > MAX_SIDE) {
        snprintf(text, room,
                 "its input '%s' is %s %s; images need float32 [N,C,H,W] with C = 1 or 3", in->name,
                 cvd_dtype_name(in->dtype), cvd_shape_text(s, shape));
    } else if (out->dtype != CVD_DTYPE_FLOAT32 || o->rank < 2 || o->dims[0] != batch ||
               m->classes < 1 || (uint64_t)o->dims[1] != m->classes) {
        snprintf(text, room, "its output '%s' is %s %s; a classifier's is float32 [N,classes]",
                 out->name, cvd_dtype_name(out->dtype), cvd_shape_text(o, shape));
    } else {
        return false;
    }
    return true;
}

/* Fills the fields about images, or not_images. */
static enum cvd_status describe_images(struct registry_model *m, struct cvd_error *err)
{
    struct cvd_value_info in = {0}, out = {0};
    char text[CVD_ERROR_MESSAGE_BYTES];
    if (cvd_model_input_count(m->model) > 0)
        cvd_model_input(m->model, 0, &in);
    cvd_model_output(m->model, 0, &out);
    /* All extents but the batch: so [N,1000,1,1] has 1000 classes, and [N,100,10] is told apart by
     * its dims[1]. */
    m->classes = out.shape.rank >= 2;
    for (unsigned i = 1; i < out.shape.rank; i++)
        m->classes *= (size_t)out.shape.dims[i];
    if (explain_not_images(m, &in, &out, text, sizeof text)) {
        m->classes = 0;
        m->not_images = strdup(text);
        if (!m->not_images)
            return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory");
        return CVD_STATUS_OK;
    }
    const int64_t *dims = in.shape.dims;
    m->input_elements = (size_t)(dims[1] * dims[2] * dims[3]);
    preprocess_default(&m->preprocess, (unsigned)dims[1], (unsigned)dims[2], (unsigned)dims[3]);
    return CVD_STATUS_OK;
}

/* config.json names the file, else labels.txt if it is there, else the model's own metadata. */
static enum cvd_status read_labels(struct registry_model *m, const struct source *source,
                                   const struct settings *settings, struct cvd_error *err)
{
    enum cvd_status status = CVD_STATUS_OK;
    const char *json = cvd_model_metadata(m->model, "convd.labels");
    const char *name = settings->labels ? settings->labels : "labels.txt";
    char *path = NULL, *text = NULL, *where = NULL;
    char **labels = NULL;
    size_t len, count = 0;
    if (source->folder && asprintf(&path, "%s/%s", source->folder, name) < 0)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory");
    if (path && (settings->labels || file_exists(path))) {
        status = file_read(path, false, LABELS_MAX_BYTES, &text, &len, err);
        if (status == CVD_STATUS_OK)
            status = labels_parse_lines(text, len, path, &labels, &count, err);
    } else if (json) {
        if (asprintf(&where, "%s: metadata \"convd.labels\"", m->source) < 0) {
            where = NULL;
            status = cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory");
        } else {
            status = labels_parse_json(json, strlen(json), where, &labels, &count, err);
        }
    }
    if (status == CVD_STATUS_OK && labels && count != m->classes) {
        status = cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                               "%s has %zu labels, but the model has %zu classes",
                               where ? where : path, count, m->classes);
        labels_free(labels, count);
    } else if (status == CVD_STATUS_OK) {
        m->labels = labels;
    }
    free(text);
    free(where);
    free(path);
    return status;
}

/* The metadata first, config.json over it. */
static enum cvd_status read_preprocess(struct registry_model *m, const struct settings *settings,
                                       struct cvd_error *err)
{
    enum cvd_status status = CVD_STATUS_OK;
    const char *json = cvd_model_metadata(m->model, "convd.input");
    char *where = NULL;
    if (json) {
        if (asprintf(&where, "%s: metadata \"convd.input\"", m->source) < 0)
            return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory");
        status = preprocess_parse(&m->preprocess, json, strlen(json), where, err);
        free(where);
    }
    if (status == CVD_STATUS_OK && settings->input)
        status = preprocess_parse(&m->preprocess, settings->input, strlen(settings->input),
                                  settings->path, err);
    return status;
}

enum cvd_status source_open(struct cvd_engine *engine, const struct source *source,
                            const struct settings *settings, const struct cvd_load_options *load,
                            struct registry_model *m, struct cvd_error *err)
{
    *m = (struct registry_model){
        .name = strdup(source->name),
        .version = strdup(source->version),
        .source = strdup(source->file ? source->file : "built in"),
        .max_batch = settings->max_batch,
        .max_delay_ns = settings->max_delay_ns,
    };
    enum cvd_status status;
    if (!m->name || !m->version || !m->source) {
        status = cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory");
        goto fail;
    }
    /* Pictures are float32 here, whatever the model's own floating-point type is. */
    const struct cvd_load_options options = {
        .float32_edges = true, .tune_ns = load->tune_ns, .tune_cache = load->tune_cache};
    if (source->file)
        status = cvd_model_load_file(engine, source->file, &options, &m->model, err);
    else
        status = cvd_model_load_builtin(engine, &m->model, err);
    if (status == CVD_STATUS_OK)
        status = describe_images(m, err);
    if (status == CVD_STATUS_OK && !m->not_images) {
        m->apply_softmax =
            settings->softmax == SOFTMAX_ALWAYS ||
            (settings->softmax == SOFTMAX_AUTO && !cvd_model_ends_in_softmax(m->model));
        status = read_labels(m, source, settings, err);
        if (status == CVD_STATUS_OK)
            status = read_preprocess(m, settings, err);
    }
    if (status == CVD_STATUS_OK)
        return CVD_STATUS_OK;
fail:
    source_close(m);
    return status;
}

void source_close(struct registry_model *m)
{
    labels_free(m->labels, m->classes);
    cvd_model_destroy(m->model);
    free(m->not_images);
    free(m->source);
    free(m->version);
    free(m->name);
    *m = (struct registry_model){0};
}

enum cvd_status source_warm_up(const struct registry_model *m, struct cvd_error *err)
{
    int64_t fixed = cvd_model_fixed_batch(m->model), batch = fixed ? fixed : 1;
    struct cvd_session *session = NULL;
    float *input = calloc((size_t)batch, m->input_elements * sizeof *input);
    float *output = calloc((size_t)batch, m->classes * sizeof *output);
    void **outputs = calloc(cvd_model_output_count(m->model), sizeof *outputs);
    enum cvd_status status;
    if (!input || !output || !outputs)
        status = cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY,
                               "no memory for a batch of %lld images", (long long)batch);
    else
        status = cvd_session_create(m->model, batch, &session, err);
    if (status == CVD_STATUS_OK) {
        outputs[0] = output; /* the others are not wanted */
        status = cvd_session_run(session, batch, (const void *[]){input}, outputs, err);
    }
    for (size_t i = 0; status == CVD_STATUS_OK && i < (size_t)batch * m->classes; i++)
        if (!isfinite(output[i]))
            status = cvd_error_set(err, CVD_STATUS_INVALID_MODEL,
                                   "%s: the answer for an image of zeros is not finite: class %zu "
                                   "is %g",
                                   m->source, i % m->classes, (double)output[i]);
    cvd_session_destroy(session);
    free(outputs);
    free(output);
    free(input);
    return status;
}

/* ---- for the tools ---- */

static bool exists_in(const char *folder, const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        return false;
    bool found = file_exists(path);
    free(path);
    return found;
}

/* A file of a model folder (NAME/model.onnx, NAME/VERSION/model.onnx) brings the settings in NAME
 * with it, so that the tools treat it as the daemon does. NULL when there are none. */
static char *settings_folder(const char *file)
{
    static const char *const up[] = {"", "/.."};
    const char *slash = strrchr(file, '/');
    const char *parent = slash ? file : ".";
    int len = slash ? (int)(slash - file) : 1;
    if (strcmp(slash ? slash + 1 : file, "model.onnx") != 0)
        return NULL;
    for (size_t i = 0; i < sizeof up / sizeof *up; i++) {
        char *folder;
        if (asprintf(&folder, "%.*s%s", len, parent, up[i]) < 0)
            return NULL;
        if (exists_in(folder, "config.json") || exists_in(folder, "labels.txt"))
            return folder;
        free(folder);
    }
    return NULL;
}

static bool is_file(const char *name)
{
    size_t len = strlen(name);
    return strchr(name, '/') || (len > 5 && strcmp(name + len - 5, ".onnx") == 0);
}

enum cvd_status registry_open(struct cvd_engine *engine, const char *name_or_file,
                              const struct cvd_load_options *load, struct registry_model **out,
                              struct cvd_error *err)
{
    struct source source = {.name = REGISTRY_BUILTIN, .version = "1"};
    struct settings settings;
    if (is_file(name_or_file)) {
        const char *base = strrchr(name_or_file, '/');
        base = base ? base + 1 : name_or_file;
        const char *dot = strrchr(base, '.');
        snprintf(source.name, sizeof source.name, "%.*s",
                 dot && dot > base ? (int)(dot - base) : (int)strlen(base), base);
        source.file = strdup(name_or_file);
        if (!source.file)
            return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory");
        source.folder = settings_folder(name_or_file);
    } else if (strcmp(name_or_file, REGISTRY_BUILTIN) != 0) {
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                             "no model '%s': built in is " REGISTRY_BUILTIN
                             "; the name of a file holds a '/' or ends in .onnx",
                             name_or_file);
    }
    struct registry_model *m = malloc(sizeof *m);
    enum cvd_status status =
        m ? settings_read(source.folder, &settings, err)
          : cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a model");
    if (status == CVD_STATUS_OK) {
        status = source_open(engine, &source, &settings, load, m, err);
        settings_free(&settings);
    }
    if (status == CVD_STATUS_OK)
        *out = m;
    else
        free(m);
    free(source.file);
    free(source.folder);
    return status;
}

void registry_close(struct registry_model *m)
{
    if (m)
        source_close(m);
    free(m);
}
