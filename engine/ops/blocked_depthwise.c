/*
 * DepthwiseConv of the domain "convd.blocked" (see blocked_maps.h). A unit of work is a few rows of
 * one block of channels.
 */
#include "engine/ops/blocked_conv.h"
#include "engine/ops/blocked_maps.h"
#include "engine/ops/op_util.h"
#include "engine/runtime/mem.h"

#include <string.h>

/* Multiply-adds of a unit: some 20 microseconds. */
#define UNIT_MACS ((size_t)1000000)

struct depthwise_state {
    struct window window;
    struct kernel_act act;
    size_t taps;
    const float *weights; /* [block][tap][lane] */
    const float *bias;    /* [block][lane] */
};

/* Pixels beyond either end of a row that outputs look at. */
static int64_t reach(const struct window *w)
{
    const int64_t right = (w->out[1] - 1) * w->stride[1] + (w->kernel[1] - 1) * w->dilation[1] -
                          w->pad[1] - (w->in[1] - 1);
    const int64_t most = w->pad[1] > right ? w->pad[1] : right;
    return most > 0 ? most : 0;
}

bool blocked_depthwise_fits(const struct op_node *node, unsigned *gap)
{
    const struct op_value *x = op_input(node, 0), *w = op_input(node, 1), *b = op_input(node, 2);
    struct blocked_conv s;
    struct cvd_error err;
    struct op_node quiet = *node;
    quiet.err = &err;
    if (x->shape.rank != 4 || !w->data || (b && !b->data) ||
        blocked_conv_read(&quiet, &s) != CVD_STATUS_OK || s.groups == 0 ||
        s.groups != s.in_channels || s.groups != s.out_channels)
        return false;
    const int64_t most = reach(&s.window);
    *gap = (unsigned)most;
    return most <= s.window.in[1] && most <= 64; /* a wider one is no real network's */
}

static void pack(const struct op_node *node, size_t lanes, size_t taps, float *weights, float *bias)
{
    const float *w = node->in[1]->data;
    const struct op_value *b = op_input(node, 2);
    const size_t channels = (size_t)node->in[1]->shape.dims[0];
    for (size_t c = 0; c < channels; c++) {
        for (size_t t = 0; t < taps; t++)
            weights[c / lanes * lanes * taps + t * lanes + c % lanes] = w[c * taps + t];
        bias[c] = b ? ((const float *)b->data)[c] : 0;
    }
}

static enum cvd_status depthwise_prepare(const struct op_node *node, const struct op_value *out,
                                         const struct kernels *kernels,
                                         struct op_prepared *prepared)
{
    struct blocked_conv read = {.lanes = kernels->lanes};
    const struct op_value *x = node->in[0], *residual = op_input(node, RESIDUAL);
    enum cvd_status status = blocked_conv_read(node, &read);
    if (status != CVD_STATUS_OK)
        return status;
    unsigned gap;
    if (!blocked_depthwise_fits(node, &gap) || x->layout.gap < gap ||
        x->layout.lanes != kernels->lanes || out->layout.lanes != kernels->lanes ||
        (residual &&
         (residual->layout.lanes != out->layout.lanes || residual->layout.gap != out->layout.gap)))
        return op_fail(node, CVD_STATUS_INTERNAL,
                       "this is no depthwise convolution of a map with a gap of %u", x->layout.gap);
    const size_t lanes = kernels->lanes, taps = window_taps(&read.window);
    size_t offset, bytes, floats, padded = round_up_div(read.out_channels, lanes) * lanes;
    if (!mem_round_up(sizeof(struct depthwise_state), &offset) ||
        !mem_mul(padded, taps + 1, &floats) || !mem_mul(floats, sizeof(float), &bytes) ||
        !mem_add(offset, bytes, &bytes))
        return op_fail(node, CVD_STATUS_OUT_OF_MEMORY, "weights do not fit in memory");
    struct depthwise_state *s;
    status = op_state(node, bytes, prepared, &s);
    if (status != CVD_STATUS_OK)
        return status;
    float *weights = (float *)(void *)((char *)s + offset), *bias = weights + padded * taps;
    memset(weights, 0, floats * sizeof *weights);
    pack(node, lanes, taps, weights, bias);
    *s = (struct depthwise_state){
        .window = read.window, .act = read.act, .taps = taps, .weights = weights, .bias = bias};
    blocked_conv_count(node, out, prepared);
    prepared->kernel = kernels->depthwise.name;
    return CVD_STATUS_OK;
}

struct depthwise_job {
    const struct depthwise_state *s;
    const struct kernels *kernels;
    struct window window;
    struct blocked_map in, out, residual_map;
    const float *x, *residual;
    float *y;
    size_t zones, zone;  /* of rows; rows of one */
    size_t rows, chunks; /* of a unit; units of a block in a zone */
};

/* Chunk `chunk` of a zone of rows in blocks `block` ... block + blocks - 1 of an image. */
static void run_blocks(const struct depthwise_job *j, size_t image, size_t zone, size_t block,
                       size_t blocks, size_t chunk)
{
    const struct depthwise_state *s = j->s;
    const struct window *w = &j->window;
    const size_t lanes = j->in.lanes, last = min_size((zone + 1) * j->zone, j->out.height);
    const size_t first = zone * j->zone + chunk * j->rows, end = min_size(first + j->rows, last);
    if (first >= end)
        return;
    float *out = j->y + image * j->out.image;
    const size_t at = block * j->out.block;
    const struct kernel_depthwise d = {
        .window =
            {
                .in = j->x + image * j->in.image + block * j->in.block,
                .height = j->in.height,
                .width = j->in.width,
                .in_row = j->in.row,
                .kernel_height = KERNEL(w, 0),
                .kernel_width = KERNEL(w, 1),
                .stride_y = STRIDE(w, 0),
                .stride_x = STRIDE(w, 1),
                .dilation_y = DILATION(w, 0),
                .dilation_x = DILATION(w, 1),
                .pad_top = (size_t)w->pad[0],
                .pad_left = (size_t)w->pad[1],
                .out_width = j->out.width,
                .out_row = j->out.row,
                .first_row = first,
                .rows = end - first,
                .out = out + at,
            },
        .blocks = blocks,
        .in_block = j->in.block,
        .out_block = j->out.block,
        .weights = s->weights + block * s->taps * lanes,
        .bias = s->bias + block * lanes,
        .residual = j->residual ? j->residual + image * j->residual_map.image + at : NULL,
        .act = s->act,
    };
    j->kernels->depthwise.fn(&d);
    blocked_clear_gaps(&j->out, out, block, blocks, first, end);
    if (block == 0 && first == 0)
        blocked_clear_lead(&j->out, out);
}

static void run_units(void *ctx, size_t begin, size_t end)
{
    const struct depthwise_job *j = ctx;
    size_t blocks;
    for (size_t unit = begin; unit < end; unit += blocks) {
        const size_t block = unit / j->chunks % j->out.blocks;
        const size_t rest = unit / j->chunks / j->out.blocks;
        blocks = j->chunks == 1 ? min_size(j->out.blocks - block, end - unit) : 1;
        run_blocks(j, rest / j->zones, rest % j->zones, block, blocks, unit % j->chunks);
    }
}

static void depthwise_run(const struct op_run *r)
{
    const struct depthwise_state *s = r->state;
    const struct op_tensor *x = r->in[0], *residual = op_run_input(r, RESIDUAL);
    struct depthwise_job j = {.s = s, .kernels = r->kernels, .window = s->window};
    unsigned bad;
    if (!r->out[0].data || !window_fit(&j.window, &x->shape, &bad) ||
        !blocked_map(&x->shape, x->layout, &j.in) ||
        !blocked_map(&r->out[0].shape, r->out[0].layout, &j.out))
        return;
    j.x = (const float *)x->data + j.in.first;
    j.y = (float *)r->out[0].data + j.out.first;
    if (residual && blocked_map(&residual->shape, residual->layout, &j.residual_map))
        j.residual = (const float *)residual->data + j.residual_map.first;
    /* An even number of rows: the kernel computes two together. */
    const size_t row_macs = j.out.width * j.out.lanes * s->taps;
    j.zones = blocked_zones(&j.out, r->pool);
    j.zone = round_up_div(j.out.height, j.zones);
    j.rows = min_size((UNIT_MACS / row_macs + 2) / 2 * 2, j.zone);
    j.chunks = round_up_div(j.zone, j.rows);
    const size_t unit_macs = j.rows * row_macs;
    op_for_range(r->pool, j.out.images * j.zones * j.out.blocks * j.chunks,
                 UNIT_MACS / unit_macs + 1, run_units, &j);
}

/* clang-format off */
const struct op_def ops_blocked_depthwise[] = {
    {.name = "DepthwiseConv", .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION,
     .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 4, .min_outputs = 1, .max_outputs = 1,
     .infer = conv_infer, .prepare = depthwise_prepare, .run = depthwise_run},
    {.name = NULL},
};
/* clang-format on */
