/*
 * LayerNorm of the domain "convd" (see fused.h): every run of elements along one dimension is
 * brought to mean 0 and variance 1, then scaled and shifted.
 *
 * Everything is computed in double precision, means and variances in two passes.
 */
#include "engine/ops/fused.h"
#include "engine/ops/list.h"
#include "engine/ops/op_util.h"

#include <math.h>

struct layer_norm_state {
    float epsilon;
    unsigned axis;
};

static enum cvd_status read(const struct op_node *node, struct layer_norm_state *s)
{
    enum cvd_status status = op_attr_float(node, "epsilon", 1e-5f, &s->epsilon);
    for (size_t i = 0; i < node->in_count && status == CVD_STATUS_OK; i++)
        if (node->in[i])
            status = op_check_type(node, i, OP_TYPE(CVD_DTYPE_FLOAT32), OP_TYPE(CVD_DTYPE_FLOAT32));
    if (status == CVD_STATUS_OK)
        status = list_axis(node, -1, &s->axis);
    if (status != CVD_STATUS_OK)
        return status;
    const size_t channels = (size_t)node->in[0]->shape.dims[s->axis];
    for (size_t i = 1; i < node->in_count; i++)
        if (node->in[i] && op_elements(&node->in[i]->shape) != channels)
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "input %zu has %zu elements, not %zu", i,
                           op_elements(&node->in[i]->shape), channels);
    return CVD_STATUS_OK;
}

static enum cvd_status infer(const struct op_node *node, struct op_value *out)
{
    struct layer_norm_state s;
    enum cvd_status status = read(node, &s);
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

static enum cvd_status prepare(const struct op_node *node, const struct op_value *out,
                               const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct layer_norm_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = read(node, s);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "layer_norm_ref";
    prepared->parameters = op_parameters(node, 1) + op_parameters(node, 2);
    prepared->mixes_images = s->axis == 0;
    return CVD_STATUS_OK;
}

struct layer_norm_run {
    double epsilon;
    size_t channels, step;         /* of a run, and from one to the next */
    const float *x, *scale, *bias; /* bias may be NULL */
    float *y;
};

/* Runs begin … end - 1: the `step` that begin side by side, then those behind them. */
static void run_range(void *ctx, size_t begin, size_t end)
{
    const struct layer_norm_run *r = ctx;
    const size_t n = r->channels, step = r->step;
    for (size_t run = begin; run < end; run++) {
        const size_t first = run / step * n * step + run % step;
        const float *x = r->x + first;
        float *y = r->y + first;
        double mean = 0, variance = 0;
        for (size_t c = 0; c < n; c++)
            mean += (double)x[c * step];
        mean /= (double)n;
        for (size_t c = 0; c < n; c++) {
            const double d = (double)x[c * step] - mean;
            variance += d * d;
        }
        const double factor = 1 / sqrt(variance / (double)n + r->epsilon);
        for (size_t c = 0; c < n; c++) {
            const double d = (double)x[c * step] - mean;
            y[c * step] =
                (float)(d * factor * (double)r->scale[c] + (r->bias ? (double)r->bias[c] : 0));
        }
    }
}

static void run(const struct op_run *op)
{
    const struct layer_norm_state *s = op->state;
    const struct cvd_shape *shape = &op->in[0]->shape;
    const struct op_tensor *bias = op_run_input(op, 2);
    struct layer_norm_run r = {.epsilon = (double)s->epsilon,
                               .channels = (size_t)shape->dims[s->axis],
                               .step = op_extent(shape, s->axis + 1, shape->rank),
                               .x = op->in[0]->data,
                               .scale = op->in[1]->data,
                               .bias = bias ? bias->data : NULL,
                               .y = op->out[0].data};
    const size_t elements = op_elements(shape);
    if (!r.y || elements == 0)
        return;
    op_for_range(op->pool, elements / r.channels, OP_RANGE_CHEAP / r.channels + 1, run_range, &r);
}

/* clang-format off */
const struct op_def ops_layer_norm[] = {
    {.name = "LayerNorm", .domain = FUSED_DOMAIN, .since = FUSED_VERSION,
     .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 2, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = infer, .prepare = prepare, .run = run},
    {.name = NULL},
};
/* clang-format on */
