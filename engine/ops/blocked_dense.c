/*
 * Gemm and MatMul with constant weights, on the convolution kernel (see blocked.h): a row of A is a
 * pixel, a column of the product an output channel.
 *
 * A blocked A is a convolution whose kernel is as large as the map. One row alone is as fast as its
 * weights come from memory; with more rows than a tile has, the sum is cut so that a piece's
 * weights stay in the cache from tile to tile.
 */
#include "engine/kernels/conv_pack.h"
#include "engine/ops/blocked.h"
#include "engine/ops/op_util.h"
#include "engine/runtime/mem.h"

#include <inttypes.h>
#include <string.h>

/* Of the second-level cache, for the weights of a piece. */
#define PIECE_BYTES ((size_t)256 << 10)
/* Multiply-adds of a part worth giving to another thread. Weights are read once, so a part costs
 * its bytes: 256 KiB take some 20 microseconds from memory. */
#define PART_MACS ((size_t)65536)
/* Rows of a tile stand a row of A apart; more would crowd each other out of the first-level cache
 * when that is a multiple of 4 KiB. */
#define MAX_ROWS ((size_t)8)

struct dense {
    struct kernel_act act;
    size_t lanes, inputs, outputs;
    struct op_layout layout;     /* of A */
    size_t group_count, vectors; /* of all groups but the last */
    size_t taps, block; /* of a blocked A: pixels and channels of a block; else 1, inputs */
    const float *weights, *bias;
};

static size_t round_up_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- infer ---- */

/* Gemm of a blocked A sees what Flatten would make of it. */
static enum cvd_status dense_infer(const struct op_node *node, struct op_value *out)
{
    const struct op_value *a = op_input(node, 0);
    if (!a || a->shape.rank != 4 || strcmp(node->def->name, "Gemm") != 0)
        return strcmp(node->def->name, "Gemm") == 0 ? gemm_infer(node, out)
                                                    : matmul_infer(node, out);
    struct op_value flat = *a;
    flat.shape = (struct cvd_shape){
        2, {a->shape.dims[0], a->shape.dims[1] * a->shape.dims[2] * a->shape.dims[3]}};
    const struct op_value *in[3] = {&flat};
    for (size_t i = 1; i < node->in_count; i++)
        in[i] = node->in[i];
    struct op_node flattened = *node;
    flattened.in = in;
    return gemm_infer(&flattened, out);
}

/* ---- prepare ---- */

/* Where B's numbers are, and what they are multiplied with. */
struct dense_factors {
    size_t output, input; /* distances of neighbours in B */
    float alpha, beta;
};

static enum cvd_status read_dense(const struct op_node *node, struct dense *s,
                                  struct dense_factors *f)
{
    const struct cvd_shape *a = &node->in[0]->shape, *b = &node->in[1]->shape;
    const bool gemm = strcmp(node->def->name, "Gemm") == 0;
    int64_t trans_a = 0, trans_b = 0;
    struct activation activation;
    *f = (struct dense_factors){.alpha = 1, .beta = 1};
    enum cvd_status status = activation_read(node, &activation);
    if (status == CVD_STATUS_OK && gemm)
        status = op_attr_int(node, "transA", 0, &trans_a);
    if (status == CVD_STATUS_OK && gemm)
        status = op_attr_int(node, "transB", 0, &trans_b);
    if (status == CVD_STATUS_OK && gemm)
        status = op_attr_float(node, "alpha", 1, &f->alpha);
    if (status == CVD_STATUS_OK && gemm)
        status = op_attr_float(node, "beta", 1, &f->beta);
    if (status != CVD_STATUS_OK)
        return status;
    s->act = blocked_act(&activation);
    s->layout = node->in[0]->layout;
    s->inputs = (size_t)b->dims[trans_b != 0];
    s->outputs = (size_t)b->dims[trans_b == 0];
    f->output = trans_b ? s->inputs : 1;
    f->input = trans_b ? 1 : s->outputs;
    const struct op_value *c = op_input(node, 2);
    const bool row =
        !c || (c->data && (op_elements(&c->shape) == s->outputs || op_elements(&c->shape) == 1));
    /* [N, 1] has as many elements as a row when N is the number of columns. */
    const bool column = c && c->shape.rank == 2 && c->shape.dims[0] != 1;
    if (trans_a || !node->in[1]->data || b->rank != 2 || !row || column || a->rank < 2)
        return op_fail(node, CVD_STATUS_INTERNAL, "not a product with a constant matrix");
    return CVD_STATUS_OK;
}

static void pack(const struct op_node *node, const struct dense *s, const struct dense_factors *f,
                 float *weights, float *bias)
{
    const struct kernel_weights from = {
        .data = node->in[1]->data,
        .output = f->output,
        /* Input i is channel i of the map when A is blocked, and its taps lie side by side. */
        .input = s->layout.lanes ? f->input * s->taps : f->input,
        .outputs = s->outputs,
        .group_outputs = s->outputs,
        .group_inputs = s->inputs / s->taps,
        .taps = s->taps,
        .tap = s->layout.lanes ? f->input : 1,
    };
    for (size_t g = 0; g < s->group_count; g++) {
        const size_t first = g * s->vectors * s->lanes;
        const size_t vectors = min_size(s->vectors, round_up_div(s->outputs - first, s->lanes));
        kernel_pack_conv(&from, first, vectors * s->lanes, 0, s->inputs / s->taps, s->block,
                         weights + first * s->inputs);
    }
    const size_t padded = round_up_div(s->outputs, s->lanes) * s->lanes;
    const struct op_value *c = op_input(node, 2);
    const float *values = c ? c->data : NULL;
    const bool one = c && op_elements(&c->shape) == 1;
    for (size_t o = 0; o < padded; o++)
        bias[o] = values && o < s->outputs ? f->beta * values[one ? 0 : o] : 0;
    if (f->alpha != 1)
        for (size_t i = 0; i < padded * s->inputs; i++)
            weights[i] *= f->alpha;
}

static enum cvd_status dense_prepare(const struct op_node *node, const struct op_value *out,
                                     const struct kernels *kernels, struct op_prepared *prepared)
{
    struct dense read = {.lanes = kernels->lanes, .taps = 1}, *s;
    struct dense_factors factors;
    enum cvd_status status = read_dense(node, &read, &factors);
    if (status != CVD_STATUS_OK)
        return status;
    read.block = read.inputs;
    if (read.layout.lanes) {
        const struct cvd_shape *a = &node->in[0]->shape;
        read.taps = (size_t)(a->dims[2] * a->dims[3]);
        read.block = read.lanes;
    }
    const size_t all = round_up_div(read.outputs, read.lanes);
    read.vectors = min_size(all, KERNEL_CONV_MAX_VECTORS);
    read.group_count = round_up_div(all, read.vectors ? read.vectors : 1);
    size_t bytes, bias_at, weights_at, padded;
    if (!mem_mul(all, read.lanes, &padded) || !mem_round_up(sizeof *s, &bias_at) ||
        !mem_mul(padded, sizeof(float), &bytes) || !mem_add(bytes, bias_at, &bytes) ||
        !mem_round_up(bytes, &weights_at) || !mem_mul(padded, sizeof(float), &bytes) ||
        !mem_mul(bytes, read.inputs, &bytes) || !mem_add(bytes, weights_at, &bytes))
        return op_fail(node, CVD_STATUS_OUT_OF_MEMORY, "weights do not fit in memory");
    char *state;
    status = op_state(node, bytes, prepared, &state);
    if (status != CVD_STATUS_OK)
        return status;
    float *bias = (float *)(void *)(state + bias_at);
    float *weights = (float *)(void *)(state + weights_at);
    read.bias = bias;
    read.weights = weights;
    pack(node, &read, &factors, weights, bias);
    memcpy(state, &read, sizeof read);
    prepared->kernel = kernels->conv.name;
    prepared->inputs_consumed = 1u << 1 | 1u << 2;
    for (size_t i = 0; i < node->in_count; i++)
        prepared->parameters += op_parameters(node, i);
    prepared->macs = (uint64_t)(op_elements(&out[0].shape) / (read.outputs ? read.outputs : 1)) *
                     read.outputs * read.inputs;
    return CVD_STATUS_OK;
}

/* ---- run ---- */

struct dense_job {
    const struct dense *s;
    const struct kernels *kernels;
    const float *x;
    float *y;
    size_t rows, x_row;
    struct blocked_map map; /* of a blocked A */
    size_t part_groups, part_rows, row_parts;
};

/* One group of columns for some rows. */
static void run_group(const struct dense_job *j, size_t group, size_t row, size_t rows)
{
    const struct dense *s = j->s;
    const bool blocked = s->layout.lanes != 0;
    const size_t first = group * s->vectors * s->lanes;
    const size_t left = s->outputs - first;
    const size_t vectors = min_size(s->vectors, round_up_div(left, s->lanes));
    const size_t step_floats = vectors * s->lanes;
    const size_t channels = s->inputs / s->taps;
    const size_t block_steps = s->block * s->taps;
    struct kernel_conv c = {
        .bias = s->bias + first,
        .vectors = vectors,
        .in_pixel = j->x_row,
        .in_inner = 1,
        .in_column = s->lanes,
        .in_row = blocked ? j->map.row : 0,
        .in_block = blocked ? j->map.block : 0,
        .columns = blocked ? j->map.width : 1,
        .rows = blocked ? j->map.height : 1,
        .weight_rows = blocked ? j->map.height : 1,
        .out_pixel = s->outputs,
        .out_vector = s->lanes,
        .width = SIZE_MAX,
        .last_lanes = min_size(left - (vectors - 1) * s->lanes, s->lanes),
    };
    /* Steps of a piece: whole blocks of a blocked A. */
    const size_t tile = min_size(j->kernels->conv.max_pixels[vectors], MAX_ROWS);
    size_t piece = channels;
    if (rows > tile) {
        piece = PIECE_BYTES / (step_floats * s->taps * sizeof(float));
        if (blocked)
            piece = piece / s->block * s->block;
        if (piece < s->lanes)
            piece = s->lanes;
    }
    const float *weights = s->weights + first * s->inputs;
    for (size_t at = 0; at < channels; at += piece) {
        const size_t end = min_size(at + piece, channels);
        c.total = end - at;
        c.inner = blocked ? s->block : end - at;
        c.weights = weights + (blocked ? at / s->block * block_steps : at) * step_floats;
        if (at > 0)
            c.bias = NULL;
        if (end == channels)
            c.act = s->act;
        const size_t from = blocked ? at / s->block * j->map.block : at;
        for (size_t r = row; r < row + rows; r += c.pixels) {
            const size_t tiles = round_up_div(row + rows - r, tile);
            c.pixels = round_up_div(row + rows - r, tiles);
            c.in = j->x + r * j->x_row + from;
            c.out = j->y + r * s->outputs + first;
            j->kernels->conv.fn(&c);
        }
    }
}

static void dense_part(void *ctx, size_t part, unsigned slot)
{
    const struct dense_job *j = ctx;
    (void)slot;
    const size_t row = part % j->row_parts * j->part_rows;
    const size_t rows = min_size(j->part_rows, j->rows - row);
    const size_t first = part / j->row_parts * j->part_groups;
    const size_t end = min_size(first + j->part_groups, j->s->group_count);
    for (size_t group = first; group < end; group++)
        run_group(j, group, row, rows);
}

static void dense_run(const struct op_run *r)
{
    const struct dense *s = r->state;
    const struct op_tensor *a = r->in[0];
    struct dense_job j = {
        .s = s,
        .kernels = r->kernels,
        .x = a->data,
        .y = r->out[0].data,
        .rows = s->outputs ? op_elements(&r->out[0].shape) / s->outputs : 0,
        .x_row = s->inputs,
    };
    if (!j.y || j.rows == 0)
        return;
    if (blocked_map(&a->shape, a->layout, &j.map)) {
        j.x += j.map.first;
        j.x_row = j.map.image;
    }
    /* Columns are shared out before rows: then each thread reads its own weights. */
    const size_t threads = r->pool ? tpool_threads(r->pool) : 1;
    const size_t work = j.rows * s->inputs * s->vectors * s->lanes; /* of a group */
    size_t parts = threads > 1 ? 4 * threads : 1;
    parts =
        min_size(parts, work / PART_MACS * s->group_count + s->group_count * work / PART_MACS + 1);
    j.part_groups = round_up_div(s->group_count, parts);
    const size_t columns = round_up_div(s->group_count, j.part_groups);
    j.part_rows = j.rows;
    if (columns < parts && work > 2 * PART_MACS)
        j.part_rows = round_up_div(j.rows, round_up_div(parts, columns));
    j.row_parts = round_up_div(j.rows, j.part_rows);
    tpool_for(r->pool, columns * j.row_parts, dense_part, &j);
}

/* clang-format off */
const struct op_def ops_blocked_dense[] = {
    {.name = "Gemm", .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION, .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = dense_infer, .prepare = dense_prepare, .run = dense_run},
    {.name = "MatMul", .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION, .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = dense_infer, .prepare = dense_prepare, .run = dense_run},
    {.name = NULL},
};
/* clang-format on */
