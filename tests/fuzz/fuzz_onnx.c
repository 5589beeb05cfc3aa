/*
 * Fuzz target: an ONNX file, all the way. What is read must pass or fail graph_check(), and what
 * passes must be written and read again to the same bytes. What can be loaded as a model must be
 * ready to run, as it is and without rewriting; the smallest do run.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/onnx/onnx.h"

#include <convd/session.h>

#include <stdlib.h>
#include <string.h>

/* Models that need more are not run: what runs is the operators, which do not look at the size. */
#define RUN_MAX_BYTES ((size_t)1 << 16)
#define RUN_MAX_MACS  1000000
#define RUN_MAX_EDGES 64

static struct cvd_engine *engine;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct cvd_settings settings;
    (void)argc;
    (void)argv;
    cvd_settings_default(&settings);
    settings.threads = 1;
    require(cvd_engine_create(&settings, &engine, NULL) == CVD_STATUS_OK);
    return 0;
}

/* ---- reading and writing ---- */

static void write_and_compare(const struct graph *g)
{
    struct graph back;
    struct cvd_error err;
    void *once, *twice;
    size_t once_len, twice_len;
    enum cvd_status status = onnx_write(g, &once, &once_len, &err);
    require(status == CVD_STATUS_OK);
    require(graph_init(&back, &err) == CVD_STATUS_OK);
    require(onnx_read(once, once_len, NULL, &back, &err) == CVD_STATUS_OK);
    require(graph_check(&back, &err) == CVD_STATUS_OK);
    require(onnx_write(&back, &twice, &twice_len, &err) == CVD_STATUS_OK);
    require(once_len == twice_len && memcmp(once, twice, once_len) == 0);
    free(once);
    free(twice);
    graph_release(&back);
}

/* A refusal says why, in one line. */
static void require_reason(enum cvd_status status, const struct cvd_error *err)
{
    require(status == CVD_STATUS_INVALID_MODEL || status == CVD_STATUS_UNSUPPORTED ||
            status == CVD_STATUS_OUT_OF_MEMORY);
    require(err->status == status && err->message[0] != '\0' && !strchr(err->message, '\n'));
}

static void read_graph(const uint8_t *data, size_t len)
{
    struct graph g;
    struct cvd_error err = {.message = ""};
    enum cvd_status status = graph_init(&g, &err);
    if (!status)
        status = onnx_read(data, len, NULL, &g, &err);
    if (!status)
        status = graph_check(&g, &err);
    if (!status)
        write_and_compare(&g);
    else
        require_reason(status, &err);
    graph_release(&g);
}

/* ---- models ---- */

/* Bytes of an input or output of one batch; false when it is too much to be run. */
static bool edge_bytes(const struct cvd_value_info *info, const struct cvd_shape *shape,
                       size_t *bytes)
{
    size_t elements;
    if (!cvd_shape_elements(shape, &elements) || elements > RUN_MAX_BYTES)
        return false;
    *bytes = elements * cvd_dtype_bytes(info->dtype);
    return true;
}

static void run(const struct cvd_model *model, int64_t batch)
{
    void *inputs[RUN_MAX_EDGES] = {NULL}, *outputs[RUN_MAX_EDGES] = {NULL};
    struct cvd_session *session = NULL;
    struct cvd_value_info info;
    struct cvd_shape shape;
    size_t bytes = 0;
    bool small = true;
    for (size_t i = 0; i < cvd_model_input_count(model) && small; i++) {
        cvd_model_input(model, i, &info);
        cvd_model_input_shape(model, i, batch, &shape);
        small = edge_bytes(&info, &shape, &bytes);
        inputs[i] = calloc(1, bytes ? bytes : 1);
    }
    for (size_t i = 0; i < cvd_model_output_count(model) && small; i++) {
        cvd_model_output(model, i, &info);
        cvd_model_output_shape(model, i, batch, &shape);
        small = edge_bytes(&info, &shape, &bytes);
        outputs[i] = malloc(bytes ? bytes : 1);
    }
    if (small && cvd_session_create(model, batch, &session, NULL) == CVD_STATUS_OK)
        require(cvd_session_run(session, batch, (const void *const *)inputs, outputs, NULL) ==
                CVD_STATUS_OK);
    cvd_session_destroy(session);
    for (size_t i = 0; i < RUN_MAX_EDGES; i++) {
        free(inputs[i]);
        free(outputs[i]);
    }
}

static void load(const uint8_t *data, size_t len, bool as_written)
{
    const struct cvd_load_options options = {.as_written = as_written};
    struct cvd_error err = {.message = ""};
    struct cvd_model *model = NULL;
    enum cvd_status status = cvd_model_load(engine, data, len, &options, &model, &err);
    if (status != CVD_STATUS_OK) {
        require_reason(status, &err);
        return;
    }
    struct cvd_model_stats stats;
    cvd_model_stats(model, &stats);
    for (size_t i = 0; i < cvd_model_layer_count(model); i++) {
        struct cvd_layer_info layer;
        cvd_model_layer(model, i, &layer);
        require(layer.name && layer.op && layer.kernel);
    }
    int64_t fixed = cvd_model_fixed_batch(model);
    if (stats.activation_bytes <= RUN_MAX_BYTES && stats.macs <= RUN_MAX_MACS &&
        cvd_model_input_count(model) <= RUN_MAX_EDGES &&
        cvd_model_output_count(model) <= RUN_MAX_EDGES) {
        run(model, fixed ? fixed : 1);
        if (!fixed)
            run(model, 2);
    }
    cvd_model_destroy(model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    /* A copy of exactly that size, so that reading past the end is noticed. */
    uint8_t *exact = calloc(1, len ? len : 1);
    if (!exact)
        return 0;
    if (len > 0)
        memcpy(exact, data, len);
    read_graph(exact, len);
    if (len > 0) {
        load(exact, len, false);
        load(exact, len, true);
    }
    free(exact);
    return 0;
}
