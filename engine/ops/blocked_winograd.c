/* WinogradConv of the domain "convd.blocked" (see blocked_maps.h). */
#include "engine/ops/blocked_conv.h"
#include "engine/ops/blocked_maps.h"
#include "engine/ops/op_util.h"
#include "engine/ops/winograd.h"
#include "engine/runtime/mem.h"

struct winograd_state {
    struct winograd w;
    struct window window;
    struct kernel_act act;
};

/* Reads a Conv quietly: false when it is wrong, or not constant, or not two-dimensional. */
static bool read_quietly(const struct op_node *node, struct blocked_conv *s)
{
    const struct op_value *x = op_input(node, 0), *w = op_input(node, 1), *b = op_input(node, 2);
    struct cvd_error err;
    struct op_node quiet = *node;
    quiet.err = &err;
    return x->shape.rank == 4 && w->data && (!b || b->data) &&
           blocked_conv_read(&quiet, s) == CVD_STATUS_OK && s->in_channels > 0;
}

static bool is_winograd(const struct blocked_conv *s)
{
    const struct window *w = &s->window;
    for (unsigned i = 0; i < 2; i++)
        if (w->kernel[i] != 3 || w->stride[i] != 1 || w->dilation[i] != 1 || w->pad[i] > 2 ||
            w->pad_end[i] > 2)
            return false;
    return s->groups == 1;
}

bool blocked_winograd_fits(const struct op_node *node, unsigned *gap)
{
    struct blocked_conv s;
    if (!read_quietly(node, &s) || !is_winograd(&s))
        return false;
    *gap =
        (unsigned)(s.window.pad[1] > s.window.pad_end[1] ? s.window.pad[1] : s.window.pad_end[1]);
    return true;
}

static enum cvd_status winograd_prepare(const struct op_node *node, const struct op_value *out,
                                        const struct kernels *kernels, struct op_prepared *prepared)
{
    struct blocked_conv read = {.lanes = kernels->lanes};
    const struct op_value *x = node->in[0], *bias = op_input(node, 2);
    const struct op_value *residual = op_input(node, RESIDUAL);
    int64_t tile;
    enum cvd_status status = op_attr_int(node, "tile", 4, &tile);
    if (status == CVD_STATUS_OK)
        status = blocked_conv_read(node, &read);
    if (status != CVD_STATUS_OK)
        return status;
    if ((tile != 4 && tile != 2) || !read_quietly(node, &read) || !is_winograd(&read) ||
        x->layout.lanes != kernels->lanes || out->layout.lanes != kernels->lanes ||
        (residual &&
         (residual->layout.lanes != out->layout.lanes || residual->layout.gap != out->layout.gap)))
        return op_fail(node, CVD_STATUS_INTERNAL, "this is no convolution for Winograd's way");

    size_t offset, bytes, packed;
    if (!mem_round_up(sizeof(struct winograd_state), &offset) ||
        !winograd_bytes(kernels, (unsigned)tile, read.in_channels, read.out_channels, &packed) ||
        !mem_add(offset, packed, &bytes))
        return op_fail(node, CVD_STATUS_OUT_OF_MEMORY, "weights do not fit in memory");
    struct winograd_state *s;
    status = op_state(node, bytes, prepared, &s);
    if (status != CVD_STATUS_OK)
        return status;
    s->window = read.window;
    s->act = read.act;
    winograd_init(&s->w, kernels, (unsigned)tile, read.in_channels, read.out_channels,
                  node->in[1]->data, bias ? bias->data : NULL, (char *)s + offset);
    if (!winograd_scratch(&s->w, &prepared->scratch_bytes))
        return op_fail(node, CVD_STATUS_OUT_OF_MEMORY, "scratch does not fit in memory");
    blocked_conv_count(node, out, prepared);
    prepared->kernel = tile == 4 ? kernels->winograd.by_4.name : kernels->winograd.by_2.name;
    return CVD_STATUS_OK;
}

static void winograd_op_run(const struct op_run *r)
{
    const struct winograd_state *s = r->state;
    const struct op_tensor *x = r->in[0], *residual = op_run_input(r, RESIDUAL);
    struct window window = s->window;
    unsigned bad;
    struct winograd_job job = {
        .w = &s->w,
        .kernels = r->kernels,
        .act = s->act,
        .scratch = r->scratch,
        .scratch_stride = r->scratch_stride,
    };
    if (!r->out[0].data || !window_fit(&window, &x->shape, &bad) ||
        !blocked_map(&x->shape, x->layout, &job.in_map) ||
        !blocked_map(&r->out[0].shape, r->out[0].layout, &job.out_map))
        return;
    job.pad_top = (size_t)window.pad[0];
    job.pad_left = (size_t)window.pad[1];
    job.in = (const float *)x->data + job.in_map.first;
    job.out = (float *)r->out[0].data + job.out_map.first;
    struct blocked_map map;
    if (residual && blocked_map(&residual->shape, residual->layout, &map)) {
        job.residual = (const float *)residual->data + map.first;
        job.residual_image = map.image;
    }
    winograd_run(&job, r->pool);
}

/* clang-format off */
const struct op_def ops_blocked_winograd[] = {
    {.name = "WinogradConv", .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION,
     .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 4, .min_outputs = 1, .max_outputs = 1,
     .infer = conv_infer, .prepare = winograd_prepare, .run = winograd_op_run},
    {.name = NULL},
};
/* clang-format on */
