/*
 * LRN and LpNormalization: every element divided by a power of a sum over its neighbours, across
 * the channels beside it (LRN) or along a whole dimension (LpNormalization).
 */
#include "engine/ops/list.h"
#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <math.h>

/* ---- LRN ---- */

struct lrn_state {
    double alpha, beta, bias; /* alpha as a share of each of `size` squares */
    size_t before, after;     /* channels on either side */
};

static enum cvd_status lrn_read(const struct op_node *node, struct lrn_state *s)
{
    int64_t size = 0;
    float alpha = 0, beta = 0, bias = 0;
    enum cvd_status status = op_check_type(node, 0, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS);
    if (status == CVD_STATUS_OK && !op_attr_find(node, "size"))
        status = op_fail(node, CVD_STATUS_INVALID_MODEL, "attribute size is missing");
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "size", 0, &size);
    if (status == CVD_STATUS_OK)
        status = op_attr_float(node, "alpha", 1e-4f, &alpha);
    if (status == CVD_STATUS_OK)
        status = op_attr_float(node, "beta", 0.75f, &beta);
    if (status == CVD_STATUS_OK)
        status = op_attr_float(node, "bias", 1, &bias);
    if (status != CVD_STATUS_OK)
        return status;
    if (size < 1)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "size is %" PRId64 "; it must be at least 1",
                       size);
    if (node->in[0]->shape.rank < 2)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "the input has %u dimensions; it must have images and channels",
                       node->in[0]->shape.rank);
    *s = (struct lrn_state){
        .alpha = (double)alpha / (double)size,
        .beta = (double)beta,
        .bias = (double)bias,
        .before = (size_t)(size - 1) / 2,
        .after = (size_t)size / 2,
    };
    return CVD_STATUS_OK;
}

static enum cvd_status lrn_infer(const struct op_node *node, struct op_value *out)
{
    struct lrn_state s;
    enum cvd_status status = lrn_read(node, &s);
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

static enum cvd_status lrn_prepare(const struct op_node *node, const struct op_value *out,
                                   const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct lrn_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = "lrn_ref";
    return status == CVD_STATUS_OK ? lrn_read(node, s) : status;
}

struct lrn_run {
    const struct lrn_state *state;
    const float *x;
    float *y;
    size_t channels, plane;
};

/* 1 / base ^ beta. The exponent 3/4, the default, is nearly the only one in use, and two square
 * roots are several times faster than pow(). */
static double inverse_power(double base, double beta)
{
    const double root = sqrt(base);
    return beta == 0.75 ? 1 / (root * sqrt(root)) : pow(base, -beta);
}

/* Pieces of a plane, whose sums of squares lie on the stack. */
#define LRN_CHUNK ((size_t)256)

static void lrn_planes(void *ctx, size_t begin, size_t end)
{
    const struct lrn_run *l = ctx;
    const struct lrn_state *s = l->state;
    for (size_t p = begin; p < end; p++) {
        const size_t c = p % l->channels;
        const size_t first = p - (c < s->before ? c : s->before);
        const size_t left = l->channels - 1 - c;
        const size_t last = p + (left < s->after ? left : s->after);
        for (size_t done = 0; done < l->plane; done += LRN_CHUNK) {
            const size_t n = l->plane - done < LRN_CHUNK ? l->plane - done : LRN_CHUNK;
            double sum[LRN_CHUNK] = {0};
            for (size_t q = first; q <= last; q++) {
                const float *x = l->x + q * l->plane + done;
                for (size_t i = 0; i < n; i++)
                    sum[i] += (double)x[i] * (double)x[i];
            }
            const float *x = l->x + p * l->plane + done;
            float *y = l->y + p * l->plane + done;
            for (size_t i = 0; i < n; i++)
                y[i] = (float)((double)x[i] * inverse_power(s->bias + s->alpha * sum[i], s->beta));
        }
    }
}

static void lrn_run(const struct op_run *r)
{
    const struct cvd_shape *shape = &r->in[0]->shape;
    struct lrn_run l = {r->state, r->in[0]->data, r->out[0].data, (size_t)shape->dims[1],
                        op_extent(shape, 2, shape->rank)};
    const size_t elements = op_elements(shape);
    if (elements == 0)
        return;
    const size_t piece = OP_RANGE_CHEAP / 8 / l.plane;
    op_for_range(r->pool, elements / l.plane, piece ? piece : 1, lrn_planes, &l);
}

/* ---- LpNormalization ---- */

struct lp_state {
    unsigned axis;
    int64_t p; /* 1 or 2 */
};

static enum cvd_status lp_read(const struct op_node *node, struct lp_state *s)
{
    enum cvd_status status = op_check_type(node, 0, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS);
    if (status == CVD_STATUS_OK)
        status = list_axis(node, -1, &s->axis);
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "p", 2, &s->p);
    if (status == CVD_STATUS_OK && s->p != 1 && s->p != 2)
        status =
            op_fail(node, CVD_STATUS_INVALID_MODEL, "p is %" PRId64 "; it must be 1 or 2", s->p);
    return status;
}

static enum cvd_status lp_infer(const struct op_node *node, struct op_value *out)
{
    struct lp_state s;
    enum cvd_status status = lp_read(node, &s);
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

static enum cvd_status lp_prepare(const struct op_node *node, const struct op_value *out,
                                  const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct lp_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = lp_read(node, s);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "lp_normalize_ref";
    prepared->mixes_images = s->axis == 0;
    return CVD_STATUS_OK;
}

struct lp_run {
    int64_t p;
    const float *x;
    float *y;
    size_t length, stride; /* of a line: its elements and the step between them */
};

static void lp_lines(void *ctx, size_t begin, size_t end)
{
    const struct lp_run *l = ctx;
    const size_t span = l->length * l->stride;
    for (size_t line = begin; line < end; line++) {
        const size_t first = line / l->stride * span + line % l->stride;
        const float *x = l->x + first;
        float *y = l->y + first;
        double norm = 0;
        for (size_t i = 0; i < span; i += l->stride)
            norm += l->p == 1 ? fabs((double)x[i]) : (double)x[i] * (double)x[i];
        norm = l->p == 1 ? norm : sqrt(norm);
        if (norm == 0) /* a line of zeros stays one */
            norm = 1;
        for (size_t i = 0; i < span; i += l->stride)
            y[i] = (float)((double)x[i] / norm);
    }
}

static void lp_run(const struct op_run *r)
{
    const struct lp_state *s = r->state;
    const struct cvd_shape *shape = &r->in[0]->shape;
    struct lp_run l = {s->p, r->in[0]->data, r->out[0].data, (size_t)shape->dims[s->axis],
                       op_extent(shape, s->axis + 1, shape->rank)};
    const size_t elements = op_elements(shape);
    if (elements == 0)
        return;
    const size_t piece = OP_RANGE_CHEAP / 4 / l.length;
    op_for_range(r->pool, elements / l.length, piece ? piece : 1, lp_lines, &l);
}

/* clang-format off */
const struct op_def ops_lrn[] = {
    {.name = "LRN", .domain = "", .since = 1, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = lrn_infer, .prepare = lrn_prepare, .run = lrn_run},
    {.name = "LpNormalization", .domain = "", .since = 1, .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = lp_infer, .prepare = lp_prepare, .run = lp_run},
    {.name = NULL},
};
/* clang-format on */
