/*
 * Reductions over dimensions: sums, means, products, norms, extremes and logarithms of sums.
 *
 * The sum for an output is taken in double precision in eight interleaved parts: that vectorises,
 * and its order depends on the reduced extents alone, so an image's result does not depend on its
 * batch. Over no elements a sum is 0, a product 1, and an extreme the one that every other number
 * beats.
 */
#include "engine/ops/convert.h"
#include "engine/ops/list.h"
#include "engine/ops/op_util.h"

#include <math.h>
#include <string.h>

enum reduce {
    REDUCE_SUM,
    REDUCE_MEAN,
    REDUCE_PROD,
    REDUCE_MAX,
    REDUCE_MIN,
    REDUCE_L1,
    REDUCE_L2,
    REDUCE_SUM_SQUARE,
    REDUCE_LOG_SUM,
    REDUCE_LOG_SUM_EXP
};

static const char *const names[] = {
    [REDUCE_SUM] = "ReduceSum",        [REDUCE_MEAN] = "ReduceMean",
    [REDUCE_PROD] = "ReduceProd",      [REDUCE_MAX] = "ReduceMax",
    [REDUCE_MIN] = "ReduceMin",        [REDUCE_L1] = "ReduceL1",
    [REDUCE_L2] = "ReduceL2",          [REDUCE_SUM_SQUARE] = "ReduceSumSquare",
    [REDUCE_LOG_SUM] = "ReduceLogSum", [REDUCE_LOG_SUM_EXP] = "ReduceLogSumExp",
};

struct reduce_state {
    enum reduce op;
    bool reduced[CVD_MAX_RANK];
};

static enum cvd_status read_axes(const struct op_node *node, struct reduce_state *s)
{
    const unsigned rank = node->in[0]->shape.rank;
    struct list list;
    unsigned axes[CVD_MAX_RANK];
    int64_t noop = 0;
    enum cvd_status status = list_read(node, "axes", 1, CVD_MAX_RANK, &list);
    if (status == CVD_STATUS_OK)
        status = list_axes(node, &list, rank, axes);
    if (status == CVD_STATUS_OK && node->def->max_inputs == 2)
        status = op_attr_int(node, "noop_with_empty_axes", 0, &noop);
    if (status != CVD_STATUS_OK)
        return status;
    for (unsigned d = 0; d < CVD_MAX_RANK; d++)
        s->reduced[d] = list.count == 0 && !noop;
    for (size_t i = 0; i < list.count; i++)
        s->reduced[axes[i]] = true;
    return CVD_STATUS_OK;
}

static enum cvd_status read_node(const struct op_node *node, struct reduce_state *s,
                                 struct cvd_shape *shape)
{
    s->op = REDUCE_SUM;
    while (strcmp(names[s->op], node->def->name) != 0)
        s->op++;
    unsigned types =
        OP_TYPE(CVD_DTYPE_FLOAT32) | OP_TYPE(CVD_DTYPE_INT32) | OP_TYPE(CVD_DTYPE_INT64);
    if (s->op == REDUCE_MAX || s->op == REDUCE_MIN) {
        types |= node->def->since >= 12 ? OP_INTS : 0;
        types |= node->def->since >= 20 ? OP_TYPE(CVD_DTYPE_BOOL) : 0;
    }
    int64_t keep;
    enum cvd_status status = op_check_type(node, 0, types, types | OP_FLOATS);
    if (status == CVD_STATUS_OK)
        status = read_axes(node, s);
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "keepdims", 1, &keep);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *x = &node->in[0]->shape;
    *shape = (struct cvd_shape){0};
    for (unsigned d = 0; d < x->rank; d++)
        if (!s->reduced[d] || keep)
            shape->dims[shape->rank++] = s->reduced[d] ? 1 : x->dims[d];
    return CVD_STATUS_OK;
}

static enum cvd_status reduce_infer(const struct op_node *node, struct op_value *out)
{
    struct reduce_state s;
    struct cvd_shape shape;
    enum cvd_status status = read_node(node, &s, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], node->in[0]->dtype, &shape)
                                   : status;
}

static enum cvd_status reduce_prepare(const struct op_node *node, const struct op_value *out,
                                      const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct reduce_state *s;
    struct cvd_shape shape;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = read_node(node, s, &shape);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "reduce_ref";
    prepared->inputs_consumed = 2;
    prepared->mixes_images = s->reduced[0];
    return CVD_STATUS_OK;
}

/* Dimensions of the input, outermost first, with their strides in elements. */
struct axis_walk {
    unsigned rank;
    size_t extent[CVD_MAX_RANK], stride[CVD_MAX_RANK];
};

struct reduce_run {
    enum reduce op;
    enum cvd_dtype dtype;
    struct axis_walk kept, reduced; /* reduced has at least one dimension */
    size_t count;                   /* elements under one output */
    const char *x;
    char *y;
};

/* Element `index` of those that the walk passes. */
static size_t offset_of(const struct axis_walk *w, unsigned rank, size_t index)
{
    size_t offset = 0;
    for (unsigned d = rank; d-- > 0;) {
        offset += index % w->extent[d] * w->stride[d];
        index /= w->extent[d];
    }
    return offset;
}

static double total_of(const double part[8])
{
    return ((part[0] + part[1]) + (part[2] + part[3])) +
           ((part[4] + part[5]) + (part[6] + part[7]));
}

/* part[i % 8] takes the term of element i; v is the element. */
#define PARTS(combine, term)                                \
    do {                                                    \
        size_t i = 0;                                       \
        for (; i + 8 <= n; i += 8)                          \
            for (size_t j = 0; j < 8; j++) {                \
                const double v = (double)x[(i + j) * step]; \
                part[j] = combine(part[j], term);           \
            }                                               \
        for (; i < n; i++) {                                \
            const double v = (double)x[i * step];           \
            part[i % 8] = combine(part[i % 8], term);       \
        }                                                   \
    } while (0)
#define PLUS(a, b)  ((a) + (b))
#define TIMES(a, b) ((a) * (b))

/* One run of elements `step` apart. */
static void add_run(enum reduce op, const float *x, size_t step, size_t n, double shift,
                    double part[8])
{
    switch (op) {
    case REDUCE_PROD:
        PARTS(TIMES, v);
        break;
    case REDUCE_L1:
        PARTS(PLUS, fabs(v));
        break;
    case REDUCE_L2:
    case REDUCE_SUM_SQUARE:
        PARTS(PLUS, v * v);
        break;
    case REDUCE_LOG_SUM_EXP:
        PARTS(PLUS, exp(v - shift));
        break;
    default:
        PARTS(PLUS, v);
        break;
    }
}

/* The largest or smallest of all elements; a NaN wins over everything. */
static float extreme(const struct reduce_run *r, const float *x, bool smallest)
{
    float best = smallest ? INFINITY : -INFINITY;
    const unsigned last = r->reduced.rank - 1;
    const size_t n = r->reduced.extent[last], step = r->reduced.stride[last];
    for (size_t at = 0; at < r->count; at += n) {
        const float *run = x + offset_of(&r->reduced, last, at / n);
        for (size_t i = 0; i < n; i++) {
            const float v = run[i * step];
            if ((smallest ? v < best : v > best) || v != v)
                best = v;
        }
    }
    return best;
}

static double reduce_float(const struct reduce_run *r, const float *x)
{
    if (r->op == REDUCE_MAX || r->op == REDUCE_MIN)
        return (double)extreme(r, x, r->op == REDUCE_MIN);
    double part[8] = {0}, shift = 0;
    if (r->op == REDUCE_PROD)
        for (size_t i = 0; i < 8; i++)
            part[i] = 1;
    if (r->op == REDUCE_LOG_SUM_EXP) {
        shift = (double)extreme(r, x, false);
        if (isinf(shift)) /* nothing to shift by, nor needed */
            return shift;
    }
    const unsigned last = r->reduced.rank - 1;
    const size_t n = r->reduced.extent[last];
    for (size_t at = 0; at < r->count; at += n)
        add_run(r->op, x + offset_of(&r->reduced, last, at / n), r->reduced.stride[last], n, shift,
                part);
    if (r->op == REDUCE_PROD)
        return ((part[0] * part[1]) * (part[2] * part[3])) *
               ((part[4] * part[5]) * (part[6] * part[7]));
    const double total = total_of(part);
    switch (r->op) {
    case REDUCE_MEAN:
        return total / (double)r->count;
    case REDUCE_L2:
        return sqrt(total);
    case REDUCE_LOG_SUM:
        return log(total);
    case REDUCE_LOG_SUM_EXP:
        return log(total) + shift;
    default:
        return total;
    }
}

static int64_t integer_at(enum cvd_dtype dtype, const char *x, size_t i)
{
    switch (dtype) {
    case CVD_DTYPE_INT64:
        return ((const int64_t *)(const void *)x)[i];
    case CVD_DTYPE_INT32:
        return ((const int32_t *)(const void *)x)[i];
    case CVD_DTYPE_INT8:
        return ((const int8_t *)x)[i];
    default:
        return ((const uint8_t *)x)[i];
    }
}

static int64_t integer_step(enum reduce op, int64_t so_far, int64_t v)
{
    const uint64_t a = (uint64_t)so_far, b = (uint64_t)v;
    switch (op) {
    case REDUCE_PROD:
        return (int64_t)(a * b);
    case REDUCE_MAX:
        return v > so_far ? v : so_far;
    case REDUCE_MIN:
        return v < so_far ? v : so_far;
    case REDUCE_L1:
        return (int64_t)(v < 0 ? a - b : a + b);
    case REDUCE_L2:
    case REDUCE_SUM_SQUARE:
        return (int64_t)(a + b * b);
    default:
        return (int64_t)(a + b);
    }
}

static int64_t lowest(enum cvd_dtype dtype)
{
    return dtype == CVD_DTYPE_INT64   ? INT64_MIN
           : dtype == CVD_DTYPE_INT32 ? INT32_MIN
           : dtype == CVD_DTYPE_INT8  ? INT8_MIN
                                      : 0;
}

static int64_t highest(enum cvd_dtype dtype)
{
    return dtype == CVD_DTYPE_INT64   ? INT64_MAX
           : dtype == CVD_DTYPE_INT32 ? INT32_MAX
           : dtype == CVD_DTYPE_INT8  ? INT8_MAX
           : dtype == CVD_DTYPE_BOOL  ? 1
                                      : UINT8_MAX;
}

/* Integers wrap around; what is no integer is cut towards zero. Writes one output. */
static void reduce_integers(const struct reduce_run *r, size_t base, void *y)
{
    int64_t so_far = r->op == REDUCE_PROD  ? 1
                     : r->op == REDUCE_MAX ? lowest(r->dtype)
                     : r->op == REDUCE_MIN ? highest(r->dtype)
                                           : 0;
    double exponentials = 0;
    for (size_t i = 0; i < r->count; i++) {
        const int64_t v =
            integer_at(r->dtype, r->x, base + offset_of(&r->reduced, r->reduced.rank, i));
        so_far = integer_step(r->op, so_far, v);
        if (r->op == REDUCE_LOG_SUM_EXP)
            exponentials += exp((double)v);
    }
    double fraction;
    switch (r->op) {
    case REDUCE_L2:
        fraction = sqrt((double)so_far);
        break;
    case REDUCE_LOG_SUM:
        fraction = log((double)so_far);
        break;
    case REDUCE_LOG_SUM_EXP:
        fraction = log(exponentials);
        break;
    default:
        if (r->op == REDUCE_MEAN)
            so_far = r->count > 0 ? so_far / (int64_t)r->count : 0;
        convert_elements(CVD_DTYPE_INT64, &so_far, r->dtype, y, 1);
        return;
    }
    convert_elements(CVD_DTYPE_FLOAT64, &fraction, r->dtype, y, 1);
}

static void reduce_range(void *ctx, size_t begin, size_t end)
{
    const struct reduce_run *r = ctx;
    for (size_t i = begin; i < end; i++) {
        const size_t base = offset_of(&r->kept, r->kept.rank, i);
        if (r->dtype == CVD_DTYPE_FLOAT32)
            ((float *)(void *)r->y)[i] =
                (float)reduce_float(r, (const float *)(const void *)r->x + base);
        else
            reduce_integers(r, base, r->y + i * cvd_dtype_bytes(r->dtype));
    }
}

/* Dimensions that stand side by side and are both reduced, or both kept, are walked as one. None
 * is left out: the order of a sum must not change when the batch, wherever it stands, is one. */
static void add_dim(struct axis_walk *w, size_t extent, size_t stride, bool beside)
{
    if (beside)
        w->extent[w->rank - 1] *= extent;
    else
        w->extent[w->rank++] = extent;
    w->stride[w->rank - 1] = stride;
}

static void reduce_run(const struct op_run *op)
{
    const struct reduce_state *s = op->state;
    const struct cvd_shape *in = &op->in[0]->shape;
    struct reduce_run r = {.op = s->op,
                           .dtype = op->in[0]->dtype,
                           .count = 1,
                           .x = op->in[0]->data,
                           .y = op->out[0].data};
    const size_t outputs = op_elements(&op->out[0].shape);
    if (outputs == 0)
        return;
    for (unsigned d = 0; d < in->rank; d++) {
        const size_t extent = (size_t)in->dims[d], stride = op_extent(in, d + 1, in->rank);
        const bool beside = d > 0 && s->reduced[d] == s->reduced[d - 1];
        add_dim(s->reduced[d] ? &r.reduced : &r.kept, extent, stride, beside);
        if (s->reduced[d])
            r.count *= extent;
    }
    if (r.reduced.rank == 0) /* each element by itself */
        add_dim(&r.reduced, 1, 1, false);
    const size_t piece = r.count < OP_RANGE_CHEAP ? OP_RANGE_CHEAP / (r.count + 1) : 1;
    op_for_range(op->pool, outputs, piece ? piece : 1, reduce_range, &r);
}

/* clang-format off */
#define REDUCE(op, first_opset, last_opset, inputs_most)                                           \
    {.name = op, .domain = "", .since = first_opset, .until = last_opset, .flags = OP_BATCHWISE,   \
     .min_inputs = 1, .max_inputs = inputs_most, .min_outputs = 1, .max_outputs = 1,               \
     .infer = reduce_infer, .prepare = reduce_prepare, .run = reduce_run}
/* The axes are an attribute, then an input. */
#define REDUCE_SINCE_18(op) REDUCE(op, 1, 17, 1), REDUCE(op, 18, 0, 2)
/* From operator set 12 on for 8-bit integers, from 20 on for booleans. */
#define REDUCE_EXTREME(op) \
    REDUCE(op, 1, 11, 1), REDUCE(op, 12, 17, 1), REDUCE(op, 18, 19, 2), REDUCE(op, 20, 0, 2)

const struct op_def ops_reduce[] = {
    REDUCE("ReduceSum", 1, 12, 1),
    REDUCE("ReduceSum", 13, 0, 2),
    REDUCE_SINCE_18("ReduceMean"),
    REDUCE_EXTREME("ReduceMax"),
    REDUCE_EXTREME("ReduceMin"),
    REDUCE_SINCE_18("ReduceProd"),
    REDUCE_SINCE_18("ReduceL1"),
    REDUCE_SINCE_18("ReduceL2"),
    REDUCE_SINCE_18("ReduceSumSquare"),
    REDUCE_SINCE_18("ReduceLogSum"),
    REDUCE_SINCE_18("ReduceLogSumExp"),
    {.name = NULL},
};
/* clang-format on */
