/*
 * BatchNormalization with the stored statistics (inference):
 * y = (x - mean) / sqrt(variance + epsilon) * scale + bias, for each channel or, with the old
 * attribute spatial = 0, for each element of an image.
 */
#include "engine/ops/norm.h"

#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <math.h>

struct batchnorm_state {
    float epsilon;
    bool spatial;
};

static enum cvd_status read_node(const struct op_node *node, struct batchnorm_state *s)
{
    enum cvd_status status = CVD_STATUS_OK;
    for (size_t i = 0; i < 5 && status == CVD_STATUS_OK; i++)
        status = op_check_type(node, i, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS);
    int64_t spatial = 1, training = 0;
    if (status == CVD_STATUS_OK)
        status = op_attr_float(node, "epsilon", 1e-5f, &s->epsilon);
    if (status == CVD_STATUS_OK && node->def->until == 8)
        status = op_attr_int(node, "spatial", 1, &spatial);
    if (status == CVD_STATUS_OK && node->def->since >= 14)
        status = op_attr_int(node, "training_mode", 0, &training);
    if (status != CVD_STATUS_OK)
        return status;
    /* Before operator set 14 the further outputs are what asks for training; is_test of set 6,
     * whose default is "training", is left out by too many exporters to mean anything. */
    if (training || node->out_count > 1)
        return op_fail(node, CVD_STATUS_UNSUPPORTED,
                       "training mode (%zu outputs, training_mode %" PRId64 ") is not implemented",
                       node->out_count, training);
    s->spatial = spatial != 0;

    const struct cvd_shape *x = &node->in[0]->shape;
    if (x->rank == 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "input is a scalar");
    /* One dimension means that there is one channel. */
    const size_t want =
        s->spatial ? (x->rank > 1 ? (size_t)x->dims[1] : 1) : op_extent(x, 1, x->rank);
    for (size_t i = 1; i < 5; i++) {
        const size_t have = op_elements(&node->in[i]->shape);
        if (have != want)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "input %zu has %zu elements; it must have %zu like the input's %s", i,
                           have, want, s->spatial ? "channels" : "images");
    }
    return CVD_STATUS_OK;
}

enum cvd_status batchnorm_infer(const struct op_node *node, struct op_value *out)
{
    struct batchnorm_state s;
    enum cvd_status status = read_node(node, &s);
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

static enum cvd_status batchnorm_prepare(const struct op_node *node, const struct op_value *out,
                                         const struct kernels *kernels,
                                         struct op_prepared *prepared)
{
    (void)kernels;
    struct batchnorm_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = "batchnorm_ref";
    prepared->macs = op_elements(&out[0].shape);
    for (size_t i = 1; i < node->in_count; i++)
        prepared->parameters += op_parameters(node, i);
    return status == CVD_STATUS_OK ? read_node(node, s) : status;
}

struct batchnorm_run {
    float epsilon;
    const float *x, *scale, *bias, *mean, *variance;
    float *y;
    size_t channels, plane; /* elements that share one set of statistics */
};

static void batchnorm_range(void *ctx, size_t begin, size_t end)
{
    const struct batchnorm_run *b = ctx;
    for (size_t p = begin; p < end; p++) {
        const size_t c = p % b->channels;
        const double deviation = sqrt((double)b->variance[c] + (double)b->epsilon);
        const float factor = (float)((double)b->scale[c] / deviation);
        const float mean = b->mean[c], bias = b->bias[c];
        const float *x = b->x + p * b->plane;
        float *y = b->y + p * b->plane;
        for (size_t i = 0; i < b->plane; i++)
            y[i] = (x[i] - mean) * factor + bias;
    }
}

static void batchnorm_run(const struct op_run *r)
{
    const struct batchnorm_state *s = r->state;
    const struct cvd_shape *shape = &r->in[0]->shape;
    struct batchnorm_run b = {
        .epsilon = s->epsilon,
        .x = r->in[0]->data,
        .scale = r->in[1]->data,
        .bias = r->in[2]->data,
        .mean = r->in[3]->data,
        .variance = r->in[4]->data,
        .y = r->out[0].data,
        .channels = op_elements(&r->in[1]->shape),
        .plane = s->spatial && shape->rank > 2 ? op_extent(shape, 2, shape->rank) : 1,
    };
    if (op_elements(shape) == 0)
        return;
    const size_t piece = OP_RANGE_CHEAP / b.plane;
    op_for_range(r->pool, op_elements(shape) / b.plane, piece ? piece : 1, batchnorm_range, &b);
}

/* clang-format off */
#define BATCH_NORMALIZATION(first_opset, last_opset)                                               \
    {.name = "BatchNormalization", .domain = "", .since = first_opset, .until = last_opset,        \
     .flags = OP_BATCHWISE | OP_INPLACE,                                                           \
     .min_inputs = 5, .max_inputs = 5, .min_outputs = 1, .max_outputs = 5,                         \
     .infer = batchnorm_infer, .prepare = batchnorm_prepare, .run = batchnorm_run}

const struct op_def ops_norm[] = {
    BATCH_NORMALIZATION(1, 8), /* attribute spatial */
    BATCH_NORMALIZATION(9, 13),
    BATCH_NORMALIZATION(14, 0), /* attribute training_mode */
    {.name = NULL},
};
/* clang-format on */
