/*
 * Softmax and LogSoftmax over one dimension, or (before operator set 13) over all dimensions from
 * `axis` on, taken as one. The maximum is subtracted first and sums are in double precision.
 */
#include "engine/ops/softmax.h"

#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum cvd_status softmax_read(const struct op_node *node, struct softmax_state *s)
{
    enum cvd_status status = op_check_type(node, 0, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS);
    if (status != CVD_STATUS_OK)
        return status;
    s->log = strcmp(node->def->name, "LogSoftmax") == 0;
    s->flatten = node->def->since < 13;
    const unsigned rank = node->in[0]->shape.rank;
    int64_t axis;
    status = op_attr_int(node, "axis", s->flatten ? 1 : -1, &axis);
    if (status != CVD_STATUS_OK)
        return status;
    if (s->flatten && axis == (int64_t)rank) /* rows of one element each; legal then */
        s->axis = rank;
    else if (!op_axis(axis, rank, &s->axis))
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "axis %" PRId64 " is outside an input of %u dimensions", axis, rank);
    return CVD_STATUS_OK;
}

enum cvd_status softmax_infer(const struct op_node *node, struct op_value *out)
{
    struct softmax_state s;
    enum cvd_status status = softmax_read(node, &s);
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

static enum cvd_status softmax_prepare(const struct op_node *node, const struct op_value *out,
                                       const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct softmax_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = softmax_read(node, s);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "softmax_ref";
    prepared->mixes_images = s->axis == 0;
    return CVD_STATUS_OK;
}

struct softmax_run {
    bool log;
    const float *x;
    float *y;
    size_t length, stride; /* of a row: its elements and the step between them */
};

static void softmax_row(const struct softmax_run *s, const float *x, float *y)
{
    const size_t end = s->length * s->stride;
    float max = x[0];
    for (size_t i = 0; i < end; i += s->stride)
        if (x[i] > max || x[i] != x[i])
            max = x[i];
    double sum = 0;
    for (size_t i = 0; i < end; i += s->stride)
        sum += exp((double)x[i] - (double)max);
    if (s->log) {
        const double log_sum = log(sum);
        for (size_t i = 0; i < end; i += s->stride)
            y[i] = (float)((double)x[i] - (double)max - log_sum);
    } else {
        for (size_t i = 0; i < end; i += s->stride)
            y[i] = (float)(exp((double)x[i] - (double)max) / sum);
    }
}

static void softmax_range(void *ctx, size_t begin, size_t end)
{
    const struct softmax_run *s = ctx;
    for (size_t row = begin; row < end; row++) {
        const size_t first = row / s->stride * s->stride * s->length + row % s->stride;
        softmax_row(s, s->x + first, s->y + first);
    }
}

static void softmax_run(const struct op_run *r)
{
    const struct softmax_state *state = r->state;
    const struct cvd_shape *shape = &r->in[0]->shape;
    struct softmax_run s = {.log = state->log, .x = r->in[0]->data, .y = r->out[0].data};
    if (state->flatten) {
        s.length = op_extent(shape, state->axis, shape->rank);
        s.stride = 1;
    } else {
        s.length = (size_t)shape->dims[state->axis];
        s.stride = op_extent(shape, state->axis + 1, shape->rank);
    }
    const size_t elements = op_elements(shape);
    if (elements == 0)
        return;
    const size_t piece = OP_RANGE_CHEAP / 8 / s.length;
    op_for_range(r->pool, elements / s.length, piece ? piece : 1, softmax_range, &s);
}

/* clang-format off */
#define SOFTMAX(op, first_opset, last_opset)                                                       \
    {.name = op, .domain = "", .since = first_opset, .until = last_opset,                          \
     .flags = OP_BATCHWISE | OP_INPLACE,                                                           \
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,                         \
     .infer = softmax_infer, .prepare = softmax_prepare, .run = softmax_run}

const struct op_def ops_softmax[] = {
    SOFTMAX("Softmax", 1, 12),
    SOFTMAX("Softmax", 13, 0),
    SOFTMAX("LogSoftmax", 1, 12),
    SOFTMAX("LogSoftmax", 13, 0),
    {.name = NULL},
};
/* clang-format on */
