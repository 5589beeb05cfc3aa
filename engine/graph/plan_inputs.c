/* The graph's inputs: constants given by the caller, and the shapes that a batch size gives them.
 */
#include "engine/graph/build.h"

#include <string.h>

/* ---- constants ---- */

static bool shape_allows(const struct cvd_shape *declared, const struct cvd_shape *given)
{
    if (declared->rank != given->rank)
        return false;
    for (unsigned i = 0; i < given->rank; i++) {
        if (declared->dims[i] != CVD_DIM_BATCH && declared->dims[i] != given->dims[i])
            return false;
    }
    return true;
}

static enum cvd_status bind_constant(struct build *b, const struct cvd_constant *constant)
{
    struct graph *g = b->g;
    uint32_t i = 0;
    while (i < g->input_count && strcmp(infer_value_name(g, g->inputs[i]), constant->name) != 0)
        i++;
    if (i == g->input_count)
        return cvd_error_set(b->err, CVD_STATUS_INVALID_ARGUMENT,
                             "constant '%.96s': the model has no input of that name",
                             constant->name);
    struct graph_value *value = &g->values[g->inputs[i]];
    if (value->dtype != CVD_DTYPE_NONE && value->dtype != constant->dtype)
        return cvd_error_set(b->err, CVD_STATUS_INVALID_ARGUMENT,
                             "constant '%.96s' is %s; the model's input is %s", constant->name,
                             cvd_dtype_name(constant->dtype), cvd_dtype_name(value->dtype));
    if (value->has_shape && !shape_allows(&value->shape, &constant->shape)) {
        char given[CVD_SHAPE_TEXT_BYTES], declared[CVD_SHAPE_TEXT_BYTES];
        return cvd_error_set(b->err, CVD_STATUS_INVALID_ARGUMENT,
                             "constant '%.64s' is %s; the model's input is %s", constant->name,
                             cvd_shape_text(&constant->shape, given),
                             cvd_shape_text(&value->shape, declared));
    }
    size_t elements, bytes;
    if (cvd_dtype_bytes(constant->dtype) == 0 || !cvd_shape_elements(&constant->shape, &elements) ||
        !mem_mul(elements, cvd_dtype_bytes(constant->dtype), &bytes))
        return cvd_error_set(b->err, CVD_STATUS_INVALID_ARGUMENT,
                             "constant '%.96s' has no valid type and shape", constant->name);
    void *data = mem_alloc(bytes);
    if (data == NULL)
        return build_no_memory(b);
    if (bytes > 0)
        memcpy(data, constant->data, bytes);
    value->dtype = constant->dtype;
    value->shape = constant->shape;
    value->has_shape = true;
    value->data = data;
    value->bytes = bytes;
    g->input_count--;
    memmove(&g->inputs[i], &g->inputs[i + 1], (g->input_count - i) * sizeof(*g->inputs));
    return CVD_STATUS_OK;
}

enum cvd_status build_bind_constants(struct build *b, const struct cvd_load_options *options)
{
    enum cvd_status status = CVD_STATUS_OK;
    for (size_t i = 0; options != NULL && i < options->constant_count && status == CVD_STATUS_OK;
         i++)
        status = bind_constant(b, &options->constants[i]);
    return status;
}

/* ---- shapes ---- */

static enum cvd_status check_input(const struct build *b, uint32_t v)
{
    const struct graph_value *value = &b->g->values[v];
    const char *name = infer_value_name(b->g, v);
    if (cvd_dtype_bytes(value->dtype) == 0)
        return cvd_error_set(b->err, CVD_STATUS_INVALID_MODEL, "input '%.96s' has no element type",
                             name);
    if (!value->has_shape)
        return cvd_error_set(b->err, CVD_STATUS_UNSUPPORTED, "input '%.96s' has no declared shape",
                             name);
    char text[CVD_SHAPE_TEXT_BYTES];
    for (unsigned d = 0; d < value->shape.rank; d++) {
        if (d > 0 && value->shape.dims[d] == CVD_DIM_BATCH)
            return cvd_error_set(b->err, CVD_STATUS_UNSUPPORTED,
                                 "input '%.64s' %s: dimension %u is free; only the batch, "
                                 "dimension 0, may be",
                                 name, cvd_shape_text(&value->shape, text), d);
        if (value->shape.dims[d] < 1 && value->shape.dims[d] != CVD_DIM_BATCH)
            return cvd_error_set(b->err, CVD_STATUS_UNSUPPORTED,
                                 "input '%.64s' %s: dimension %u is empty", name,
                                 cvd_shape_text(&value->shape, text), d);
    }
    struct cvd_shape one = value->shape;
    if (one.rank > 0 && one.dims[0] == CVD_DIM_BATCH)
        one.dims[0] = 1;
    size_t elements, bytes;
    if (!cvd_shape_elements(&one, &elements) ||
        !mem_mul(elements, cvd_dtype_bytes(value->dtype), &bytes) || bytes > PLAN_MAX_BYTES)
        return cvd_error_set(b->err, CVD_STATUS_UNSUPPORTED,
                             "input '%.64s' %s is larger than the %zu MiB that are supported", name,
                             cvd_shape_text(&value->shape, text), PLAN_MAX_BYTES >> 20);
    return CVD_STATUS_OK;
}

enum cvd_status build_check_inputs(struct build *b, int64_t *fixed_batch)
{
    const struct graph *g = b->g;
    int64_t first = 1;
    b->free_batch = false;
    for (uint32_t i = g->input_count; i-- > 0;) {
        enum cvd_status status = check_input(b, g->inputs[i]);
        if (status != CVD_STATUS_OK)
            return status;
        const struct cvd_shape *shape = &g->values[g->inputs[i]].shape;
        if (shape->rank > 0 && shape->dims[0] == CVD_DIM_BATCH)
            b->free_batch = true;
        else if (shape->rank > 0)
            first = shape->dims[0];
    }
    *fixed_batch = b->free_batch ? 0 : first;
    return CVD_STATUS_OK;
}

void build_input_shapes(const struct build *b, int64_t batch, struct cvd_shape *shapes)
{
    for (uint32_t i = 0; i < b->g->input_count; i++) {
        shapes[i] = b->g->values[b->g->inputs[i]].shape;
        if (shapes[i].rank > 0 && shapes[i].dims[0] == CVD_DIM_BATCH)
            shapes[i].dims[0] = batch;
    }
}
