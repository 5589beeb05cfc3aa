/*
 * Pad: adds to the ends of dimensions, or takes away where a pad is negative.
 *
 * What is taken away goes first; what is added is a constant or is made from what remains:
 * mirrored without repeating the edge (reflect), the edge itself, or the other end (wrap). A pad
 * may be longer than the array: it is then mirrored or wrapped around again.
 */
#include "engine/ops/list.h"
#include "engine/ops/move.h"
#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <string.h>

enum pad_mode { PAD_CONSTANT, PAD_REFLECT, PAD_EDGE, PAD_WRAP };

struct pad_state {
    enum pad_mode mode;
    float value;                                    /* before operator set 11 */
    int64_t begin[CVD_MAX_RANK], end[CVD_MAX_RANK]; /* negative: taken away */
};

static enum cvd_status read_mode(const struct op_node *node, enum pad_mode *out)
{
    static const char *const names[] = {"constant", "reflect", "edge", "wrap"};
    const char *mode;
    enum cvd_status status = op_attr_string(node, "mode", "constant", &mode);
    if (status != CVD_STATUS_OK)
        return status;
    const size_t known = node->def->since >= 19 ? 4 : 3;
    for (size_t i = 0; i < known; i++)
        if (strcmp(mode, names[i]) == 0) {
            *out = (enum pad_mode)i;
            return CVD_STATUS_OK;
        }
    return op_fail(node, CVD_STATUS_INVALID_MODEL, "mode is '%.32s'; it must be constant, %s", mode,
                   known == 4 ? "reflect, edge or wrap" : "reflect or edge");
}

/* The pads of each dimension; those that `axes` leaves out have none. */
static enum cvd_status read_pads(const struct op_node *node, struct pad_state *s)
{
    const unsigned rank = node->in[0]->shape.rank;
    struct list pads, axes;
    enum cvd_status status = list_require(node, "pads", 1, LIST_MAX, &pads);
    if (status == CVD_STATUS_OK)
        status = list_read(node, NULL, 3, CVD_MAX_RANK, &axes);
    if (status != CVD_STATUS_OK)
        return status;
    if (!axes.given) {
        axes.count = rank;
        for (unsigned d = 0; d < rank; d++)
            axes.values[d] = d;
    }
    unsigned dims[CVD_MAX_RANK];
    status = list_axes(node, &axes, rank, dims);
    if (status != CVD_STATUS_OK)
        return status;
    if (pads.count != 2 * axes.count)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "pads has %zu numbers; there must be two for each of %zu dimensions",
                       pads.count, axes.count);
    for (size_t i = 0; i < axes.count; i++) {
        s->begin[dims[i]] = pads.values[i];
        s->end[dims[i]] = pads.values[axes.count + i];
    }
    return CVD_STATUS_OK;
}

static enum cvd_status padded(const struct op_node *node, const struct pad_state *s,
                              struct cvd_shape *shape)
{
    *shape = node->in[0]->shape;
    for (unsigned d = 0; d < shape->rank; d++) {
        const int64_t extent = shape->dims[d], begin = s->begin[d], end = s->end[d];
        int64_t left = extent, wide;
        if ((begin < 0 && __builtin_add_overflow(left, begin, &left)) ||
            (end < 0 && __builtin_add_overflow(left, end, &left)) || left < 0)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "pads %" PRId64 " and %" PRId64 " take away more than the %" PRId64
                           " of dimension %u",
                           begin, end, extent, d);
        if (__builtin_add_overflow(left, begin > 0 ? begin : 0, &wide) ||
            __builtin_add_overflow(wide, end > 0 ? end : 0, &wide))
            return op_fail(node, CVD_STATUS_UNSUPPORTED, "output does not fit in memory");
        if (left == 0 && wide > 0 && s->mode != PAD_CONSTANT)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "dimension %u is empty: there is nothing to repeat", d);
        shape->dims[d] = wide;
    }
    return CVD_STATUS_OK;
}

static enum cvd_status read_node(const struct op_node *node, struct pad_state *s,
                                 struct cvd_shape *shape)
{
    *s = (struct pad_state){0};
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status == CVD_STATUS_OK)
        status = read_mode(node, &s->mode);
    if (status == CVD_STATUS_OK)
        status = read_pads(node, s);
    if (status == CVD_STATUS_OK && node->def->since < 11)
        status = op_attr_float(node, "value", 0, &s->value);
    if (status == CVD_STATUS_OK && node->def->since < 11 && s->value != 0)
        status = op_check_type(node, 0, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS);
    const struct op_value *value = op_input(node, 2);
    if (status == CVD_STATUS_OK && value) {
        status = op_check_same_type(node, 2);
        if (status == CVD_STATUS_OK && op_elements(&value->shape) != 1)
            status = op_fail(node, CVD_STATUS_INVALID_MODEL,
                             "constant_value has %zu elements; it must be a scalar",
                             op_elements(&value->shape));
    }
    return status == CVD_STATUS_OK ? padded(node, s, shape) : status;
}

static enum cvd_status pad_infer(const struct op_node *node, struct op_value *out)
{
    struct pad_state s;
    struct cvd_shape shape;
    enum cvd_status status = read_node(node, &s, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], node->in[0]->dtype, &shape)
                                   : status;
}

static enum cvd_status pad_prepare(const struct op_node *node, const struct op_value *out,
                                   const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct pad_state *s;
    struct cvd_shape shape;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = read_node(node, s, &shape);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "pad_ref";
    prepared->inputs_consumed = 0xa; /* the constant value may come at run time */
    prepared->mixes_images = shape.rank > 0 && (s->begin[0] != 0 || s->end[0] != 0);
    return CVD_STATUS_OK;
}

/* One dimension: where its elements come from. */
struct pad_dim {
    int64_t begin;  /* added in front */
    int64_t extent; /* of what remains of the input … */
    size_t skip;    /* … after so much that was taken away in front */
    size_t stride;  /* elements of the input */
    size_t out;     /* extent of the output */
};

struct pad_run {
    enum pad_mode mode;
    unsigned rank; /* at least 1 */
    struct pad_dim dims[CVD_MAX_RANK];
    size_t bytes;
    const char *x, *value;
    char *y;
};

/* The element that output i is a copy of; -1: of none. */
static int64_t source(enum pad_mode mode, const struct pad_dim *d, size_t i)
{
    const int64_t n = d->extent;
    int64_t at = (int64_t)i - d->begin;
    if (at < 0 || at >= n) {
        if (mode == PAD_CONSTANT)
            return -1;
        if (mode == PAD_EDGE || n == 1)
            return (int64_t)d->skip + (at < 0 ? 0 : n - 1);
        const int64_t period = mode == PAD_WRAP ? n : 2 * (n - 1);
        at %= period;
        at = at < 0 ? at + period : at;
        at = at < n ? at : period - at;
    }
    return (int64_t)d->skip + at;
}

static void pad_row(const struct pad_run *p, const char *x, char *y)
{
    const struct pad_dim *d = &p->dims[p->rank - 1];
    const size_t begin = (size_t)d->begin, n = (size_t)d->extent;
    memcpy(y + begin * p->bytes, x + d->skip * p->bytes, n * p->bytes);
    if (p->mode == PAD_CONSTANT) {
        move_fill(y, p->value, p->bytes, begin);
        move_fill(y + (begin + n) * p->bytes, p->value, p->bytes, d->out - begin - n);
        return;
    }
    for (size_t i = 0; i < d->out; i++) {
        if (i == begin)
            i += n;
        if (i < d->out)
            move_fill(y + i * p->bytes, x + source(p->mode, d, i) * (int64_t)p->bytes, p->bytes, 1);
    }
}

/* Rows of the output, along its last dimension. */
static void pad_rows(void *ctx, size_t begin, size_t end)
{
    const struct pad_run *p = ctx;
    const size_t n = p->dims[p->rank - 1].out;
    for (size_t row = begin; row < end; row++) {
        char *y = p->y + row * n * p->bytes;
        size_t rest = row, from = 0;
        bool inside = true;
        for (unsigned d = p->rank - 1; d-- > 0;) {
            const int64_t at = source(p->mode, &p->dims[d], rest % p->dims[d].out);
            rest /= p->dims[d].out;
            inside = inside && at >= 0;
            from += (size_t)at * p->dims[d].stride;
        }
        if (inside)
            pad_row(p, p->x + from * p->bytes, y);
        else
            move_fill(y, p->value, p->bytes, n);
    }
}

static void pad_run(const struct op_run *r)
{
    static const char zero[8];
    const struct pad_state *s = r->state;
    const struct cvd_shape *in = &r->in[0]->shape, *out = &r->out[0].shape;
    const struct op_tensor *value = op_run_input(r, 2);
    const size_t elements = op_elements(out);
    struct pad_run p = {.mode = s->mode,
                        .rank = in->rank,
                        .bytes = cvd_dtype_bytes(r->in[0]->dtype),
                        .x = r->in[0]->data,
                        .value = value ? value->data : zero,
                        .y = r->out[0].data};
    if (elements == 0)
        return;
    if (s->value != 0)
        p.value = (const char *)&s->value;
    for (unsigned d = 0; d < in->rank; d++) {
        const int64_t begin = s->begin[d], end = s->end[d];
        p.dims[d] = (struct pad_dim){
            .begin = begin > 0 ? begin : 0,
            .extent = in->dims[d] + (begin < 0 ? begin : 0) + (end < 0 ? end : 0),
            .skip = begin < 0 ? (size_t)-begin : 0,
            .stride = op_extent(in, d + 1, in->rank),
            .out = (size_t)out->dims[d],
        };
    }
    if (p.rank == 0) { /* a scalar is a row of one */
        p.rank = 1;
        p.dims[0] = (struct pad_dim){.extent = 1, .stride = 1, .out = 1};
    }
    const size_t n = p.dims[p.rank - 1].out, piece = OP_RANGE_CHEAP / n;
    op_for_range(r->pool, elements / n, piece ? piece : 1, pad_rows, &p);
}

/* clang-format off */
#define PAD(first_opset, last_opset, inputs_least, inputs_most)                                    \
    {.name = "Pad", .domain = "", .since = first_opset, .until = last_opset,                       \
     .flags = OP_BATCHWISE, .min_inputs = inputs_least, .max_inputs = inputs_most,                 \
     .min_outputs = 1, .max_outputs = 1,                                                           \
     .infer = pad_infer, .prepare = pad_prepare, .run = pad_run}

const struct op_def ops_pad[] = {
    PAD(2, 10, 1, 1),
    PAD(11, 17, 2, 3), /* pads and the value are inputs */
    PAD(18, 18, 2, 4), /* axes */
    PAD(19, 0, 2, 4),  /* mode wrap */
    {.name = NULL},
};
/* clang-format on */
