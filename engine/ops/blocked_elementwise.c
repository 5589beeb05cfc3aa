/*
 * Add, Mul, Activation and BatchNormalization of the domain "convd.blocked" (see blocked_maps.h).
 *
 * All are one kernel over rows. An image of maps without gaps is one long row; the two that have a
 * number for each channel take its blocks one by one.
 */
#include "engine/ops/blocked_maps.h"
#include "engine/ops/norm.h"
#include "engine/ops/op_util.h"
#include "engine/runtime/mem.h"

#include <math.h>
#include <string.h>

/* Floats of a piece of work: some 5 to 20 microseconds. */
#define PIECE_FLOATS ((size_t)65536)
#define MAX_LANES    64

struct pointwise_state {
    enum kernel_pointwise_kind kind;
    struct kernel_act act;
    bool channels;              /* Mul: B is a number for each channel */
    const float *scale, *shift; /* BatchNormalization: [block][lane] */
};

/* ---- infer ---- */

static enum cvd_status check_float(const struct op_node *node, size_t i)
{
    return op_check_type(node, i, OP_TYPE(CVD_DTYPE_FLOAT32), OP_TYPE(CVD_DTYPE_FLOAT32));
}

/* [N, C, 1, 1] or [1, C, 1, 1] beside a of [N, C, H, W] with more than one pixel. */
static bool is_channels(const struct cvd_shape *a, const struct cvd_shape *b)
{
    return a->rank == 4 && b->rank == 4 && b->dims[1] == a->dims[1] && b->dims[2] == 1 &&
           b->dims[3] == 1 && (b->dims[0] == 1 || b->dims[0] == a->dims[0]) &&
           !cvd_shape_equal(a, b);
}

static enum cvd_status pointwise_infer(const struct op_node *node, struct op_value *out)
{
    struct activation a;
    enum cvd_status status = activation_read(node, &a);
    for (size_t i = 0; i < node->in_count && status == CVD_STATUS_OK; i++)
        status = check_float(node, i);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *x = &node->in[0]->shape;
    if (node->in_count > 1 && !cvd_shape_equal(x, &node->in[1]->shape) &&
        (strcmp(node->def->name, "Mul") != 0 || !is_channels(x, &node->in[1]->shape))) {
        char first[CVD_SHAPE_TEXT_BYTES], second[CVD_SHAPE_TEXT_BYTES];
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "inputs are %s and %s",
                       cvd_shape_text(x, first), cvd_shape_text(&node->in[1]->shape, second));
    }
    return op_infer_same(node, out);
}

/* ---- prepare ---- */

static bool is_blocked(const struct op_value *v, const struct kernels *kernels)
{
    return v->shape.rank == 4 && v->layout.lanes == kernels->lanes;
}

static enum cvd_status fail_layouts(const struct op_node *node)
{
    return op_fail(node, CVD_STATUS_INTERNAL, "no kernel for these layouts");
}

static enum cvd_status pointwise_prepare(const struct op_node *node, const struct op_value *out,
                                         const struct kernels *kernels,
                                         struct op_prepared *prepared)
{
    struct pointwise_state read = {.kind = KERNEL_POINTWISE_COPY}, *s;
    struct activation activation;
    const struct op_value *b = op_input(node, 1);
    enum cvd_status status = activation_read(node, &activation);
    if (status != CVD_STATUS_OK)
        return status;
    read.act = blocked_act(&activation);
    if (!is_blocked(node->in[0], kernels) || !is_blocked(out, kernels))
        return fail_layouts(node);
    if (b) {
        read.kind =
            strcmp(node->def->name, "Mul") == 0 ? KERNEL_POINTWISE_MUL : KERNEL_POINTWISE_ADD;
        read.channels = is_channels(&node->in[0]->shape, &b->shape);
        if (!is_blocked(b, kernels) && !(read.channels && b->layout.lanes == 0))
            return fail_layouts(node);
        if (read.channels)
            read.kind = KERNEL_POINTWISE_SCALE;
    }
    status = op_state(node, sizeof *s, prepared, &s);
    if (status != CVD_STATUS_OK)
        return status;
    *s = read;
    prepared->kernel = kernels->pointwise.name;
    for (size_t i = 0; i < node->in_count; i++)
        prepared->parameters += op_parameters(node, i);
    return CVD_STATUS_OK;
}

static enum cvd_status batchnorm_prepare(const struct op_node *node, const struct op_value *out,
                                         const struct kernels *kernels,
                                         struct op_prepared *prepared)
{
    struct activation activation;
    float epsilon;
    enum cvd_status status = activation_read(node, &activation);
    if (status == CVD_STATUS_OK)
        status = op_attr_float(node, "epsilon", 1e-5f, &epsilon);
    if (status != CVD_STATUS_OK)
        return status;
    if (!is_blocked(node->in[0], kernels) || !is_blocked(out, kernels))
        return fail_layouts(node);
    const float *numbers[5] = {0};
    for (size_t i = 1; i < 5; i++) {
        numbers[i] = node->in[i]->data;
        if (!numbers[i])
            return op_fail(node, CVD_STATUS_INTERNAL, "input %zu is not constant", i);
        prepared->parameters += op_parameters(node, i);
        prepared->inputs_consumed |= (uint64_t)1 << i;
    }
    const size_t channels = (size_t)out->shape.dims[1], lanes = kernels->lanes;
    const size_t padded = (channels + lanes - 1) / lanes * lanes;
    size_t offset, bytes;
    struct pointwise_state *s;
    if (!mem_round_up(sizeof *s, &offset) || !mem_mul(padded, 2 * sizeof(float), &bytes) ||
        !mem_add(offset, bytes, &bytes))
        return op_fail(node, CVD_STATUS_OUT_OF_MEMORY, "numbers do not fit in memory");
    status = op_state(node, bytes, prepared, &s);
    if (status != CVD_STATUS_OK)
        return status;
    float *scale = (float *)(void *)((char *)s + offset), *shift = scale + padded;
    memset(scale, 0, 2 * padded * sizeof *scale);
    for (size_t c = 0; c < channels; c++) {
        const double factor = (double)numbers[1][c] / sqrt((double)numbers[4][c] + (double)epsilon);
        scale[c] = (float)factor;
        shift[c] = (float)((double)numbers[2][c] - (double)numbers[3][c] * factor);
    }
    *s = (struct pointwise_state){.kind = KERNEL_POINTWISE_SCALE,
                                  .act = blocked_act(&activation),
                                  .scale = scale,
                                  .shift = shift};
    prepared->kernel = kernels->pointwise.name;
    prepared->macs = op_extent(&out->shape, 1, out->shape.rank);
    return CVD_STATUS_OK;
}

/* ---- run ---- */

struct pointwise_job {
    const struct pointwise_state *s;
    const struct kernels *kernels;
    struct blocked_map a, b, out;
    const float *x, *z; /* A, B */
    float *y;
    size_t z_image, z_block; /* of the numbers for each channel */
    size_t z_channels;       /* that B holds in a row */
    size_t rows;        /* of an image or, with numbers for each channel or zones, of a block */
    size_t zones, zone; /* of rows; rows of one */
};

/* The numbers of a block of channels. */
static const float *channel_numbers(const struct pointwise_job *j, size_t image, size_t block,
                                    float numbers[MAX_LANES])
{
    const size_t lanes = j->out.lanes;
    if (j->s->scale)
        return j->s->scale + block * lanes;
    const size_t left = j->z_channels - block * lanes;
    memset(numbers, 0, lanes * sizeof *numbers);
    memcpy(numbers, j->z + image * j->z_image + block * j->z_block,
           (left < lanes ? left : lanes) * sizeof *numbers);
    return numbers;
}

/* Rows first … first + rows - 1 of an image, counted through its blocks; with numbers for each
 * channel they are of one block. */
static void run_rows(const struct pointwise_job *j, size_t image, size_t first, size_t rows)
{
    const struct pointwise_state *s = j->s;
    const struct blocked_map *out = &j->out;
    float numbers[MAX_LANES], *base = j->y + image * out->image;
    const size_t block = first / out->height;
    const bool flat = j->a.gap == 0 && out->gap == 0 && (!j->z || s->channels || j->b.gap == 0);
    struct kernel_pointwise p = {
        .kind = s->kind,
        .a = j->x + image * j->a.image + first * j->a.row,
        .y = base + first * out->row,
        .rows = flat ? 1 : rows,
        .columns = flat ? rows * out->width : out->width,
        .a_row = j->a.row,
        .y_row = out->row,
        .act = s->act,
    };
    if (s->kind == KERNEL_POINTWISE_SCALE) {
        p.scale = channel_numbers(j, image, block, numbers);
        p.shift = s->shift ? s->shift + block * out->lanes : NULL;
    } else if (j->z) {
        p.b = j->z + image * j->b.image + first * j->b.row;
        p.b_row = j->b.row;
    }
    j->kernels->pointwise.fn(&p);
    /* To the gaps all rows of an image are alike: rows of a single, high block. */
    blocked_clear_gaps(out, base, 0, 1, first, first + rows);
    if (first == 0)
        blocked_clear_lead(out, base);
}

/* With zones of a single image: through zones, then blocks. */
static void run_zones(void *ctx, size_t begin, size_t end)
{
    const struct pointwise_job *j = ctx;
    while (begin < end) {
        const size_t in_zone = begin % j->zone, block = begin / j->zone % j->out.blocks;
        const size_t first = begin / j->zone / j->out.blocks * j->zone + in_zone;
        size_t rows = j->zone - in_zone;
        rows = rows < end - begin ? rows : end - begin;
        begin += rows;
        if (first >= j->out.height)
            continue;
        rows = rows < j->out.height - first ? rows : j->out.height - first;
        run_rows(j, 0, block * j->out.height + first, rows);
    }
}

static void run_range(void *ctx, size_t begin, size_t end)
{
    const struct pointwise_job *j = ctx;
    const size_t image_rows = j->out.blocks * j->out.height;
    while (begin < end) {
        const size_t first = begin % image_rows;
        size_t rows = j->rows - first % j->rows;
        rows = rows < end - begin ? rows : end - begin;
        run_rows(j, begin / image_rows, first, rows);
        begin += rows;
    }
}

static void pointwise_run(const struct op_run *r)
{
    const struct pointwise_state *s = r->state;
    const struct op_tensor *a = r->in[0], *b = s->scale ? NULL : op_run_input(r, 1);
    struct pointwise_job j = {.s = s, .kernels = r->kernels};
    if (!r->out[0].data || !blocked_map(&a->shape, a->layout, &j.a) ||
        !blocked_map(&r->out[0].shape, r->out[0].layout, &j.out))
        return;
    j.x = (const float *)a->data + j.a.first;
    j.y = (float *)r->out[0].data + j.out.first;
    if (b) {
        const bool blocked = blocked_map(&b->shape, b->layout, &j.b);
        j.z = (const float *)b->data + (blocked ? j.b.first : 0);
        j.z_channels = blocked ? j.b.blocks * j.b.lanes : j.out.channels;
        j.z_block = blocked ? j.b.block : j.out.lanes;
        j.z_image = b->shape.dims[0] == 1 ? 0 : blocked ? j.b.image : j.out.channels;
    }
    const size_t row_floats = j.out.width * j.out.lanes;
    j.rows = j.out.height * (s->kind == KERNEL_POINTWISE_SCALE ? 1 : j.out.blocks);
    j.zones = blocked_zones(&j.out, r->pool);
    j.zone = (j.out.height + j.zones - 1) / j.zones;
    const size_t piece = PIECE_FLOATS / row_floats + 1;
    if (j.zones > 1)
        op_for_range(r->pool, j.zones * j.out.blocks * j.zone, piece, run_zones, &j);
    else
        op_for_range(r->pool, j.out.images * j.out.blocks * j.out.height, piece, run_range, &j);
}

/* clang-format off */
#define POINTWISE(op, inputs, infer_fn, prepare_fn)                                                \
    {.name = op, .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION,                               \
     .flags = OP_BATCHWISE | OP_INPLACE,                                                           \
     .min_inputs = inputs, .max_inputs = inputs, .min_outputs = 1, .max_outputs = 1,               \
     .infer = infer_fn, .prepare = prepare_fn, .run = pointwise_run}

const struct op_def ops_blocked_elementwise[] = {
    POINTWISE("Add", 2, pointwise_infer, pointwise_prepare),
    POINTWISE("Mul", 2, pointwise_infer, pointwise_prepare),
    POINTWISE("Activation", 1, pointwise_infer, pointwise_prepare),
    POINTWISE("BatchNormalization", 5, batchnorm_infer, batchnorm_prepare),
    {.name = NULL},
};
/* clang-format on */
