/*
 * InstanceNormalization, GroupNormalization and LayerNormalization: every row of elements (a
 * channel, a group of channels, the last dimensions) is brought to mean 0 and variance 1, then
 * scaled and shifted.
 *
 * Everything is computed in double precision, means and variances in two passes and in an order
 * that depends on the length of the row alone.
 */
#include "engine/ops/broadcast.h"
#include "engine/ops/list.h"
#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

struct normalize_state {
    float epsilon;
    unsigned axis;     /* LayerNormalization: a row is all dimensions from here on */
    size_t groups;     /* GroupNormalization: of an image; 0: every channel is one */
    bool by_group;     /* GroupNormalization 18: scale and bias have a number for each group */
    bool by_broadcast; /* LayerNormalization: scale and bias do not simply repeat with the rows */
};

static enum cvd_status check_floats(const struct op_node *node, size_t inputs)
{
    enum cvd_status status = CVD_STATUS_OK;
    for (size_t i = 0; i < inputs && status == CVD_STATUS_OK; i++)
        status = op_check_type(node, i, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS);
    return status;
}

/* ---- InstanceNormalization and GroupNormalization ---- */

static enum cvd_status channels_read(const struct op_node *node, struct normalize_state *s)
{
    const bool group = strcmp(node->def->name, "GroupNormalization") == 0;
    int64_t groups = 0;
    *s = (struct normalize_state){0};
    enum cvd_status status = check_floats(node, 3);
    if (status == CVD_STATUS_OK)
        status = op_attr_float(node, "epsilon", 1e-5f, &s->epsilon);
    if (status == CVD_STATUS_OK && group && !op_attr_find(node, "num_groups"))
        status = op_fail(node, CVD_STATUS_INVALID_MODEL, "attribute num_groups is missing");
    if (status == CVD_STATUS_OK && group)
        status = op_attr_int(node, "num_groups", 0, &groups);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *x = &node->in[0]->shape;
    if (x->rank < 2)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "the input has %u dimensions; it must have images and channels", x->rank);
    if (group && (groups < 1 || x->dims[1] % groups != 0))
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "num_groups %" PRId64 " does not divide %" PRId64 " channels", groups,
                       x->dims[1]);
    s->groups = (size_t)groups;
    s->by_group = group && node->def->since < 21;
    const int64_t want = s->by_group ? groups : x->dims[1];
    for (size_t i = 1; i < 3; i++) {
        const struct cvd_shape *shape = &node->in[i]->shape;
        char text[CVD_SHAPE_TEXT_BYTES];
        if (shape->rank != 1 || shape->dims[0] != want)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "input %zu is %s; it must be [%" PRId64 "], one for each %s", i,
                           cvd_shape_text(shape, text), want, s->by_group ? "group" : "channel");
    }
    return CVD_STATUS_OK;
}

static enum cvd_status channels_infer(const struct op_node *node, struct op_value *out)
{
    struct normalize_state s;
    enum cvd_status status = channels_read(node, &s);
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

/* ---- LayerNormalization ---- */

/* Whether the elements of `part` stand one to one beside those of the dimensions from axis on. */
static bool covers_row(const struct cvd_shape *x, unsigned axis, const struct cvd_shape *part)
{
    const unsigned rank = x->rank - axis;
    if (part->rank < rank)
        return false;
    for (unsigned i = 0; i < part->rank; i++)
        if (part->dims[part->rank - 1 - i] != (i < rank ? x->dims[x->rank - 1 - i] : 1))
            return false;
    return true;
}

static enum cvd_status layer_read(const struct op_node *node, struct normalize_state *s)
{
    int64_t stash;
    *s = (struct normalize_state){0};
    enum cvd_status status = check_floats(node, op_input(node, 2) ? 3 : 2);
    if (status == CVD_STATUS_OK)
        status = op_attr_float(node, "epsilon", 1e-5f, &s->epsilon);
    if (status == CVD_STATUS_OK)
        status = list_axis(node, -1, &s->axis);
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "stash_type", CVD_DTYPE_FLOAT32, &stash);
    if (status != CVD_STATUS_OK)
        return status;
    if (stash != CVD_DTYPE_FLOAT32)
        return op_fail(node, CVD_STATUS_UNSUPPORTED, "stash_type %" PRId64 " is not implemented",
                       stash);
    const struct cvd_shape *x = &node->in[0]->shape;
    for (size_t i = 1; i < 3 && op_input(node, i); i++) {
        const struct cvd_shape *part = &node->in[i]->shape;
        struct cvd_shape both;
        char text_a[CVD_SHAPE_TEXT_BYTES], text_b[CVD_SHAPE_TEXT_BYTES];
        if (!op_broadcast(x, part, &both) || !cvd_shape_equal(x, &both))
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "input %zu, %s, does not broadcast to the input's %s", i,
                           cvd_shape_text(part, text_b), cvd_shape_text(x, text_a));
        s->by_broadcast = s->by_broadcast || !covers_row(x, s->axis, part);
    }
    return CVD_STATUS_OK;
}

static enum cvd_status layer_infer(const struct op_node *node, struct op_value *out)
{
    struct normalize_state s;
    enum cvd_status status = layer_read(node, &s);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_shape shape = node->in[0]->shape;
    for (unsigned d = s.axis; d < shape.rank; d++)
        shape.dims[d] = 1;
    status = op_infer_same(node, out);
    for (size_t i = 1; i < node->out_count && status == CVD_STATUS_OK; i++)
        status = op_set_output(node, &out[i], CVD_DTYPE_FLOAT32, &shape);
    return status;
}

/* ---- both ---- */

static enum cvd_status prepare(const struct op_node *node, const struct op_value *out,
                               const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)kernels;
    struct normalize_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    const bool layer = strcmp(node->def->name, "LayerNormalization") == 0;
    if (status == CVD_STATUS_OK)
        status = layer ? layer_read(node, s) : channels_read(node, s);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "normalize_ref";
    prepared->macs = op_elements(&out[0].shape);
    for (size_t i = 1; i < node->in_count; i++)
        prepared->parameters += op_parameters(node, i);
    prepared->mixes_images = layer && s->axis == 0;
    return CVD_STATUS_OK;
}

/* A row is `parts` times `plane` elements, and each part has a scale and a bias, which are those of
 * part (row % period) * parts + part in their arrays. */
struct normalize_run {
    float epsilon;
    size_t parts, plane, period;
    const float *x, *scale, *bias; /* scale and bias may be NULL: 1 and 0 */
    float *y;
    float *mean, *deviation; /* by row; NULL: not wanted. deviation is 1 / sqrt(variance) */
};

/* Sums of (x - shift) and of its square, in eight interleaved parts. */
static double sum_of(const float *x, size_t n, double shift, bool squares)
{
    double part[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t j = 0; j < 8; j++) {
            const double v = (double)x[i + j] - shift;
            part[j] += squares ? v * v : v;
        }
    for (; i < n; i++) {
        const double v = (double)x[i] - shift;
        part[i % 8] += squares ? v * v : v;
    }
    return ((part[0] + part[1]) + (part[2] + part[3])) +
           ((part[4] + part[5]) + (part[6] + part[7]));
}

static void scale_row(const struct normalize_run *r, size_t row, double mean, double factor)
{
    const size_t first = row % r->period * r->parts;
    const float *x = r->x + row * r->parts * r->plane;
    float *y = r->y + row * r->parts * r->plane;
    if (!r->scale) {
        for (size_t i = 0; i < r->parts * r->plane; i++)
            y[i] = (float)(((double)x[i] - mean) * factor);
        return;
    }
    const float *scale = r->scale + first, *bias = r->bias ? r->bias + first : NULL;
    for (size_t p = 0; p < r->parts; p++, x += r->plane, y += r->plane) {
        const double s = factor * (double)scale[p], b = bias ? (double)bias[p] : 0;
        for (size_t i = 0; i < r->plane; i++)
            y[i] = (float)(((double)x[i] - mean) * s + b);
    }
}

static void normalize_range(void *ctx, size_t begin, size_t end)
{
    const struct normalize_run *r = ctx;
    const size_t length = r->parts * r->plane;
    for (size_t row = begin; row < end; row++) {
        const float *x = r->x + row * length;
        const double mean = sum_of(x, length, 0, false) / (double)length;
        const double variance = sum_of(x, length, mean, true) / (double)length;
        const double factor = 1 / sqrt(variance + (double)r->epsilon);
        if (r->y) /* or only the statistics are wanted */
            scale_row(r, row, mean, factor);
        if (r->mean)
            r->mean[row] = (float)mean;
        if (r->deviation)
            r->deviation[row] = (float)factor;
    }
}

static void run_rows(struct normalize_run *r, size_t elements, struct tpool *pool)
{
    const size_t length = r->parts * r->plane;
    if (elements == 0)
        return;
    const size_t piece = OP_RANGE_CHEAP / length;
    op_for_range(pool, elements / length, piece ? piece : 1, normalize_range, r);
}

static void channels_run(const struct op_run *op)
{
    const struct normalize_state *s = op->state;
    const struct cvd_shape *shape = &op->in[0]->shape;
    const size_t channels = (size_t)shape->dims[1], plane = op_extent(shape, 2, shape->rank);
    const size_t groups = s->groups ? s->groups : channels;
    struct normalize_run r = {.epsilon = s->epsilon,
                              .period = groups,
                              .x = op->in[0]->data,
                              .scale = op->in[1]->data,
                              .bias = op->in[2]->data,
                              .y = op->out[0].data};
    if (op_elements(shape) == 0)
        return;
    r.parts = s->by_group ? 1 : channels / groups;
    r.plane = channels / groups * plane / r.parts;
    run_rows(&r, op_elements(shape), op->pool);
}

struct affine_run {
    float *y;
    const float *scale, *bias; /* bias may be NULL */
};

static void affine_piece(void *ctx, const struct broadcast_piece *p)
{
    const struct affine_run *a = ctx;
    for (size_t i = 0; i < p->n; i++)
        a->y[p->out + i] = a->y[p->out + i] * a->scale[p->in[0] + i * p->step[0]] +
                           (a->bias ? a->bias[p->in[1] + i * p->step[1]] : 0);
}

static void layer_run(const struct op_run *op)
{
    const struct normalize_state *s = op->state;
    const struct cvd_shape *shape = &op->in[0]->shape;
    const struct op_tensor *scale = op->in[1], *bias = op_run_input(op, 2);
    struct normalize_run r = {.epsilon = s->epsilon,
                              .parts = op_extent(shape, s->axis, shape->rank),
                              .plane = 1,
                              .period = 1,
                              .x = op->in[0]->data,
                              .y = op->out[0].data,
                              .mean = op->out_count > 1 ? op->out[1].data : NULL,
                              .deviation = op->out_count > 2 ? op->out[2].data : NULL};
    if (!s->by_broadcast) {
        r.scale = scale->data;
        r.bias = bias ? bias->data : NULL;
    }
    run_rows(&r, op_elements(shape), op->pool);
    if (!s->by_broadcast || !r.y)
        return;
    struct affine_run a = {op->out[0].data, scale->data, bias ? bias->data : NULL};
    struct broadcast walk;
    broadcast_init(
        &walk, shape,
        (const struct cvd_shape *const[]){&scale->shape, bias ? &bias->shape : &scale->shape}, 2);
    broadcast_for(&walk, op->pool, affine_piece, &a);
}

/* clang-format off */
#define CHANNELS(op, first_opset, last_opset)                                                      \
    {.name = op, .domain = "", .since = first_opset, .until = last_opset,                          \
     .flags = OP_BATCHWISE | OP_INPLACE,                                                           \
     .min_inputs = 3, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,                         \
     .infer = channels_infer, .prepare = prepare, .run = channels_run}

const struct op_def ops_normalize[] = {
    CHANNELS("InstanceNormalization", 1, 0),
    CHANNELS("GroupNormalization", 18, 20), /* scale and bias by group */
    CHANNELS("GroupNormalization", 21, 0),  /* by channel */
    {.name = "LayerNormalization", .domain = "", .since = 17, .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 2, .max_inputs = 3, .min_outputs = 1, .max_outputs = 3,
     .infer = layer_infer, .prepare = prepare, .run = layer_run},
    {.name = NULL},
};
/* clang-format on */
