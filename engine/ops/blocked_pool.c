/* MaxPool, AveragePool, GlobalMaxPool and GlobalAveragePool of the domain "convd.blocked" (see
 * blocked_maps.h). */
#include "engine/ops/blocked_maps.h"
#include "engine/ops/op_util.h"
#include "engine/ops/pool.h"

#include <string.h>

/* Input pixels (vectors) of a piece of work: some 10 microseconds. */
#define PIECE_PIXELS ((size_t)8192)

struct blocked_pool {
    struct pool_state pool;
    struct kernel_act act;
};

static enum cvd_status check_layouts(const struct op_node *node, const struct op_value *out,
                                     const struct kernels *kernels, bool plain_out)
{
    const struct op_layout x = node->in[0]->layout, y = out->layout;
    if (node->in[0]->shape.rank == 4 && x.lanes == kernels->lanes && node->out_count == 1 &&
        node->in[0]->dtype == CVD_DTYPE_FLOAT32 &&
        (y.lanes == kernels->lanes || (plain_out && y.lanes == 0)))
        return CVD_STATUS_OK;
    return op_fail(node, CVD_STATUS_INTERNAL, "no kernel for layouts of %u and %u lanes", x.lanes,
                   y.lanes);
}

static enum cvd_status blocked_pool_prepare(const struct op_node *node, const struct op_value *out,
                                            const struct kernels *kernels,
                                            struct op_prepared *prepared)
{
    struct blocked_pool *s;
    struct cvd_shape shape;
    struct activation activation;
    enum cvd_status status = check_layouts(node, out, kernels, false);
    if (status == CVD_STATUS_OK)
        status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = pool_read(node, &s->pool, &shape);
    if (status == CVD_STATUS_OK)
        status = activation_read(node, &activation);
    if (status != CVD_STATUS_OK)
        return status;
    s->act = blocked_act(&activation);
    prepared->kernel = kernels->pool.name;
    return CVD_STATUS_OK;
}

struct pool_job {
    const struct blocked_pool *s;
    const struct kernels *kernels;
    struct window window;
    struct blocked_map in, out;
    const float *x;
    float *y;
    size_t zones, zone; /* of rows; rows of one */
};

/* Units are rows of outputs, numbered through images, zones and blocks. */
static void pool_rows(void *ctx, size_t begin, size_t end)
{
    const struct pool_job *j = ctx;
    const struct window *w = &j->window;
    size_t next;
    for (size_t unit = begin; unit < end; unit = next) {
        const size_t in_zone = unit % j->zone, block = unit / j->zone % j->out.blocks;
        const size_t zone = unit / j->zone / j->out.blocks % j->zones;
        const size_t image = unit / j->zone / j->out.blocks / j->zones;
        const size_t first = zone * j->zone + in_zone;
        size_t rows = j->zone - in_zone;
        rows = rows < end - unit ? rows : end - unit;
        next = unit + rows;
        if (first >= j->out.height)
            continue;
        if (rows > j->out.height - first)
            rows = j->out.height - first;
        float *out = j->y + image * j->out.image;
        const struct kernel_pool p = {
            .window =
                {
                    .in = j->x + image * j->in.image + block * j->in.block,
                    .height = j->in.height,
                    .width = j->in.width,
                    .in_row = j->in.row,
                    .kernel_height = (size_t)w->kernel[0],
                    .kernel_width = (size_t)w->kernel[1],
                    .stride_y = (size_t)w->stride[0],
                    .stride_x = (size_t)w->stride[1],
                    .dilation_y = (size_t)w->dilation[0],
                    .dilation_x = (size_t)w->dilation[1],
                    .pad_top = (size_t)w->pad[0],
                    .pad_left = (size_t)w->pad[1],
                    .out_width = j->out.width,
                    .out_row = j->out.row,
                    .first_row = first,
                    .rows = rows,
                    .out = out + block * j->out.block,
                },
            .pad_bottom = (size_t)w->pad_end[0],
            .pad_right = (size_t)w->pad_end[1],
            .average = j->s->pool.kind == POOL_AVERAGE,
            .include_pad = j->s->pool.include_pad,
        };
        j->kernels->pool.fn(&p);
        if (j->s->act.kind != KERNEL_ACT_NONE)
            for (size_t y = first; y < first + rows; y++)
                j->kernels->act(&j->s->act, p.window.out + y * j->out.row,
                                j->out.width * j->out.lanes);
        blocked_clear_gaps(&j->out, out, block, 1, first, first + rows);
        if (block == 0 && first == 0)
            blocked_clear_lead(&j->out, out);
    }
}

static void blocked_pool_run(const struct op_run *r)
{
    const struct blocked_pool *s = r->state;
    const struct op_tensor *x = r->in[0];
    struct pool_job j = {.s = s, .kernels = r->kernels, .window = s->pool.window};
    unsigned bad;
    if (!r->out[0].data || !window_fit(&j.window, &x->shape, &bad) ||
        !blocked_map(&x->shape, x->layout, &j.in) ||
        !blocked_map(&r->out[0].shape, r->out[0].layout, &j.out))
        return;
    j.x = (const float *)x->data + j.in.first;
    j.y = (float *)r->out[0].data + j.out.first;
    j.zones = blocked_zones(&j.out, r->pool);
    j.zone = (j.out.height + j.zones - 1) / j.zones;
    const size_t row_pixels = j.out.width * window_taps(&j.window);
    op_for_range(r->pool, j.out.images * j.zones * j.out.blocks * j.zone,
                 PIECE_PIXELS / row_pixels + 1, pool_rows, &j);
}

/* ---- whole maps ---- */

static enum cvd_status global_prepare(const struct op_node *node, const struct op_value *out,
                                      const struct kernels *kernels, struct op_prepared *prepared)
{
    int *average;
    enum cvd_status status = check_layouts(node, out, kernels, true);
    if (status == CVD_STATUS_OK)
        status = op_state(node, sizeof *average, prepared, &average);
    if (status != CVD_STATUS_OK)
        return status;
    *average = strcmp(node->def->name, "GlobalAveragePool") == 0;
    prepared->kernel = kernels->global_pool.name;
    return CVD_STATUS_OK;
}

struct global_job {
    const struct kernels *kernels;
    struct blocked_map in, out;
    const float *x;
    float *y;
    bool plain;
    int average;
};

/* Units are blocks, numbered through the images. */
static void global_blocks(void *ctx, size_t begin, size_t end)
{
    enum { MAX_LANES = 64 };
    const struct global_job *j = ctx;
    const struct blocked_map *in = &j->in;
    for (size_t unit = begin; unit < end; unit++) {
        const size_t block = unit % in->blocks, image = unit / in->blocks;
        float sums[MAX_LANES];
        struct kernel_global_pool p = {
            .in = j->x + image * in->image + block * in->block,
            .height = in->height,
            .width = in->width,
            .in_row = in->row,
            .in_block = in->block,
            .blocks = 1,
            .out = sums,
            .average = j->average,
        };
        j->kernels->global_pool.fn(&p);
        if (j->plain) {
            const size_t left = in->channels - block * in->lanes;
            memcpy(j->y + image * in->channels + block * in->lanes, sums,
                   (left < in->lanes ? left : in->lanes) * sizeof *sums);
            continue;
        }
        float *out = j->y + image * j->out.image;
        memcpy(out + block * j->out.block, sums, in->lanes * sizeof *sums);
        blocked_clear_gaps(&j->out, out, block, 1, 0, 1);
        if (block == 0)
            blocked_clear_lead(&j->out, out);
    }
}

static void global_run(const struct op_run *r)
{
    const int *average = r->state;
    const struct op_tensor *x = r->in[0];
    struct global_job j = {.kernels = r->kernels, .y = r->out[0].data, .average = *average};
    if (!j.y || !blocked_map(&x->shape, x->layout, &j.in))
        return;
    j.plain = !blocked_map(&r->out[0].shape, r->out[0].layout, &j.out);
    j.x = (const float *)x->data + j.in.first;
    if (!j.plain)
        j.y += j.out.first;
    op_for_range(r->pool, j.in.images * j.in.blocks, PIECE_PIXELS / (j.in.height * j.in.width) + 1,
                 global_blocks, &j);
}

/* clang-format off */
#define POOL(op, infer_fn, prepare_fn, run_fn)                                                     \
    {.name = op, .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION, .flags = OP_BATCHWISE,        \
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,                         \
     .infer = infer_fn, .prepare = prepare_fn, .run = run_fn}

const struct op_def ops_blocked_pool[] = {
    POOL("MaxPool", pool_infer, blocked_pool_prepare, blocked_pool_run),
    POOL("AveragePool", pool_infer, blocked_pool_prepare, blocked_pool_run),
    POOL("GlobalMaxPool", global_pool_infer, global_prepare, global_run),
    POOL("GlobalAveragePool", global_pool_infer, global_prepare, global_run),
    {.name = NULL},
};
/* clang-format on */
