/* LayerNorm and Softmax of the domain "convd.blocked" (see blocked_maps.h). */
#include "engine/ops/blocked_maps.h"
#include "engine/ops/op_util.h"
#include "engine/ops/softmax.h"

#include <string.h>

/* Floats of a piece of work: some 10 microseconds. */
#define PIECE_FLOATS ((size_t)32768)

/* ---- LayerNorm ---- */

struct layer_norm_state {
    float epsilon;
};

static enum cvd_status layer_norm_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status = CVD_STATUS_OK;
    for (size_t i = 0; i < node->in_count && status == CVD_STATUS_OK; i++)
        if (node->in[i])
            status = op_check_type(node, i, OP_TYPE(CVD_DTYPE_FLOAT32), OP_TYPE(CVD_DTYPE_FLOAT32));
    if (status == CVD_STATUS_OK && node->in[0]->shape.rank < 2)
        status = op_fail(node, CVD_STATUS_INVALID_MODEL, "input has %u dimensions",
                         node->in[0]->shape.rank);
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

static enum cvd_status layer_norm_prepare(const struct op_node *node, const struct op_value *out,
                                          const struct kernels *kernels,
                                          struct op_prepared *prepared)
{
    const struct op_value *x = node->in[0];
    const bool plain = x->layout.lanes == 0;
    const int64_t channels = x->shape.dims[plain ? x->shape.rank - 1 : 1];
    if (out->layout.lanes != x->layout.lanes || (!plain && x->layout.lanes != kernels->lanes) ||
        (!plain && x->shape.rank != 4))
        return op_fail(node, CVD_STATUS_INTERNAL, "no kernel for layouts of %u and %u lanes",
                       x->layout.lanes, out->layout.lanes);
    for (size_t i = 1; i < node->in_count; i++)
        if (node->in[i] && op_elements(&node->in[i]->shape) != (size_t)channels)
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "input %zu has %zu elements", i,
                           op_elements(&node->in[i]->shape));
    struct layer_norm_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = kernels->layer_norm.name;
    prepared->parameters = op_parameters(node, 1) + op_parameters(node, 2);
    return status == CVD_STATUS_OK ? op_attr_float(node, "epsilon", 1e-5f, &s->epsilon) : status;
}

struct layer_norm_job {
    const struct kernels *kernels;
    struct kernel_layer_norm norm; /* of the first row of pixels */
    struct blocked_map in, out;
    size_t row_pixels;
};

/* Units are rows: of pixels of a map, numbered through the images; or single ones of a plain x. */
static void layer_norm_rows(void *ctx, size_t begin, size_t end)
{
    const struct layer_norm_job *j = ctx;
    for (size_t unit = begin; unit < end; unit++) {
        struct kernel_layer_norm n = j->norm;
        if (j->in.lanes == 0) {
            n.x += unit * n.channels;
            n.y += unit * n.channels;
            j->kernels->layer_norm.fn(&n);
            continue;
        }
        const struct blocked_map *out = &j->out;
        const size_t image = unit / out->height, row = unit % out->height;
        float *base = n.y + image * out->image, *last = base + (out->blocks - 1) * out->block;
        n.x += image * j->in.image + row * j->in.row;
        n.y = base + row * out->row;
        /* Lanes without a channel hold some number, too, unless the kernel runs in place. */
        if (n.channels % out->lanes != 0 && n.x != n.y)
            memset(last + row * out->row, 0, out->width * out->lanes * sizeof *last);
        j->kernels->layer_norm.fn(&n);
        blocked_clear_gaps(out, base, 0, out->blocks, row, row + 1);
        if (row == 0)
            blocked_clear_lead(out, base);
    }
}

static void layer_norm_run(const struct op_run *r)
{
    const struct layer_norm_state *s = r->state;
    const struct op_tensor *x = r->in[0], *beta = op_run_input(r, 2);
    struct layer_norm_job j = {.kernels = r->kernels};
    if (!r->out[0].data || op_elements(&x->shape) == 0)
        return;
    j.norm = (struct kernel_layer_norm){
        .x = x->data,
        .gamma = r->in[1]->data,
        .beta = beta ? beta->data : NULL,
        .y = r->out[0].data,
        .epsilon = s->epsilon,
    };
    size_t units, floats;
    if (blocked_map(&x->shape, x->layout, &j.in) &&
        blocked_map(&r->out[0].shape, r->out[0].layout, &j.out)) {
        j.norm.x += j.in.first;
        j.norm.y += j.out.first;
        j.norm.channels = j.in.channels;
        j.norm.pixels = j.in.width;
        j.norm.x_pixel = j.norm.y_pixel = j.in.lanes;
        j.norm.x_block = j.in.block;
        j.norm.y_block = j.out.block;
        units = j.in.images * j.in.height;
        floats = j.in.width * j.in.channels;
    } else {
        floats = (size_t)x->shape.dims[x->shape.rank - 1];
        j.norm.channels = floats;
        j.norm.pixels = 1;
        j.norm.x_block = j.norm.y_block = r->kernels->lanes;
        units = op_elements(&x->shape) / floats;
    }
    op_for_range(r->pool, units, PIECE_FLOATS / floats + 1, layer_norm_rows, &j);
}

/* ---- Softmax ---- */

static enum cvd_status blocked_softmax_prepare(const struct op_node *node,
                                               const struct op_value *out,
                                               const struct kernels *kernels,
                                               struct op_prepared *prepared)
{
    struct softmax_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = softmax_read(node, s);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *x = &node->in[0]->shape;
    if (node->in[0]->layout.lanes != 0 || out->layout.lanes != 0 || s->axis >= x->rank ||
        (!s->flatten && op_extent(x, s->axis + 1, x->rank) != 1))
        return op_fail(node, CVD_STATUS_INTERNAL, "no kernel for this layout and axis");
    prepared->kernel = kernels->softmax.name;
    prepared->mixes_images = s->axis == 0;
    return CVD_STATUS_OK;
}

struct softmax_job {
    const struct kernels *kernels;
    struct kernel_softmax softmax;
};

static void softmax_rows(void *ctx, size_t begin, size_t end)
{
    const struct softmax_job *j = ctx;
    struct kernel_softmax s = j->softmax;
    s.x += begin * s.x_row;
    s.y += begin * s.y_row;
    s.rows = end - begin;
    j->kernels->softmax.fn(&s);
}

static void blocked_softmax_run(const struct op_run *r)
{
    const struct softmax_state *s = r->state;
    const struct cvd_shape *shape = &r->in[0]->shape;
    const size_t count = op_extent(shape, s->axis, shape->rank);
    struct softmax_job j = {
        .kernels = r->kernels,
        .softmax = {.x = r->in[0]->data,
                    .y = r->out[0].data,
                    .count = count,
                    .x_row = count,
                    .y_row = count},
    };
    if (!r->out[0].data || count == 0)
        return;
    op_for_range(r->pool, op_elements(shape) / count, PIECE_FLOATS / 4 / count + 1, softmax_rows,
                 &j);
}

/* clang-format off */
const struct op_def ops_blocked_norm[] = {
    {.name = "LayerNorm", .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION,
     .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 2, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = layer_norm_infer, .prepare = layer_norm_prepare, .run = layer_norm_run},
    {.name = "Softmax", .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION,
     .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = softmax_infer, .prepare = blocked_softmax_prepare, .run = blocked_softmax_run},
    {.name = NULL},
};
/* clang-format on */
