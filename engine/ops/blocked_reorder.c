/* Reorder and MaxPool of the domain "convd.blocked" (see blocked.h): the ways between layouts, and
 * pooling of plain maps that are too few to be blocked. */
#include "engine/ops/blocked.h"
#include "engine/ops/op_util.h"
#include "engine/ops/window.h"
#include "engine/runtime/mem.h"

#include <string.h>

/* Floats of a part. */
#define PART_FLOATS ((size_t)32768)

/* ---- Reorder ---- */

static enum cvd_status reorder_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status =
        op_check_type(node, 0, OP_TYPE(CVD_DTYPE_FLOAT32), OP_TYPE(CVD_DTYPE_FLOAT32));
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

static enum cvd_status reorder_prepare(const struct op_node *node, const struct op_value *out,
                                       const struct kernels *kernels, struct op_prepared *prepared)
{
    struct blocked_map map;
    const struct op_layout from = node->in[0]->layout, to = out[0].layout;
    if ((from.lanes &&
         (from.lanes != kernels->lanes || !blocked_map(&node->in[0]->shape, from, &map))) ||
        (to.lanes && (to.lanes != kernels->lanes || !blocked_map(&out[0].shape, to, &map))))
        return op_fail(node, CVD_STATUS_INTERNAL, "no kernel for layouts of %u and %u lanes",
                       from.lanes, to.lanes);
    prepared->kernel = from.lanes || to.lanes ? kernels->reorder.name : "memcpy";
    return CVD_STATUS_OK;
}

struct reorder_job {
    const struct kernels *kernels;
    bool from_blocked, to_blocked;
    struct blocked_map from, to; /* both set; a plain side has the other's blocks */
    const float *x;
    float *y;
    size_t rows, row_parts; /* rows of a part */
};

/* Some rows of one block of channels of one image. */
static void reorder_part(void *ctx, size_t part, unsigned slot)
{
    const struct reorder_job *j = ctx;
    (void)slot;
    const struct blocked_map *any = j->to_blocked ? &j->to : &j->from;
    const size_t first = part % j->row_parts * j->rows;
    const size_t block = part / j->row_parts % any->blocks;
    const size_t image = part / j->row_parts / any->blocks;
    const size_t end = first + j->rows < any->height ? first + j->rows : any->height;
    const size_t channel = block * any->lanes, plane = any->height * any->width;
    const size_t left = any->channels - channel;
    const size_t channels = left < any->lanes ? left : any->lanes;
    const size_t plain = (image * any->channels + channel) * plane;
    float *out_image = j->y + image * j->to.image;
    const float *in_image = j->x + image * j->from.image;
    /* Without a gap all rows are one. */
    const size_t gap = (j->to_blocked ? j->to.gap : 0) + (j->from_blocked ? j->from.gap : 0);
    const size_t step = gap > 0 ? 1 : end - first;
    for (size_t y = first; y < end; y += step) {
        const size_t pixels = step * any->width;
        const float *x = j->from_blocked ? in_image + block * j->from.block + y * j->from.row
                                         : j->x + plain + y * any->width;
        if (j->to_blocked && j->from_blocked)
            memcpy(out_image + block * j->to.block + y * j->to.row, x,
                   pixels * any->lanes * sizeof *x);
        else if (j->to_blocked)
            j->kernels->reorder.block(x, plane, channels, pixels,
                                      out_image + block * j->to.block + y * j->to.row);
        else
            j->kernels->reorder.unblock(x, plane, channels, pixels, j->y + plain + y * any->width);
    }
    if (j->to_blocked)
        blocked_clear_gaps(&j->to, out_image, block, 1, first, end);
    if (j->to_blocked && block == 0 && first == 0)
        blocked_clear_lead(&j->to, out_image);
}

static void reorder_run(const struct op_run *r)
{
    const struct op_tensor *x = r->in[0];
    struct reorder_job j = {.kernels = r->kernels, .x = x->data, .y = r->out[0].data};
    const size_t elements = op_elements(&x->shape);
    if (!j.y || elements == 0)
        return;
    j.from_blocked = blocked_map(&x->shape, x->layout, &j.from);
    j.to_blocked = blocked_map(&r->out[0].shape, r->out[0].layout, &j.to);
    if (!j.from_blocked && !j.to_blocked) {
        memcpy(j.y, j.x, elements * sizeof *j.y);
        return;
    }
    const struct blocked_map *any = j.to_blocked ? &j.to : &j.from;
    j.x += j.from_blocked ? j.from.first : 0;
    j.y += j.to_blocked ? j.to.first : 0;
    j.rows = PART_FLOATS / (any->row + 1) + 1;
    j.row_parts = (any->height + j.rows - 1) / j.rows;
    tpool_for(r->pool, any->images * any->blocks * j.row_parts, reorder_part, &j);
}

/* ---- MaxPool ---- */

static enum cvd_status read_pool(const struct op_node *node, struct window *w,
                                 struct cvd_shape *shape)
{
    enum cvd_status status =
        op_check_type(node, 0, OP_TYPE(CVD_DTYPE_FLOAT32), OP_TYPE(CVD_DTYPE_FLOAT32));
    if (status == CVD_STATUS_OK)
        status = window_read(node, NULL, w);
    return status == CVD_STATUS_OK ? window_shape(node, w, node->in[0]->shape.dims[1], shape)
                                   : status;
}

static enum cvd_status pool_infer(const struct op_node *node, struct op_value *out)
{
    struct window w;
    struct cvd_shape shape;
    enum cvd_status status = read_pool(node, &w, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], CVD_DTYPE_FLOAT32, &shape)
                                   : status;
}

bool blocked_planes_pool(const struct op_node *node)
{
    struct window w;
    struct cvd_shape shape;
    struct cvd_error err;
    struct op_node quiet = *node;
    quiet.err = &err;
    if (node->in[0]->shape.rank != 4 || read_pool(&quiet, &w, &shape) != CVD_STATUS_OK)
        return false;
    for (unsigned i = 0; i < 2; i++)
        if (w.kernel[i] != 2 || w.stride[i] != 2 || w.dilation[i] != 1 || w.pad[i] != 0 ||
            w.out[i] * 2 > w.in[i])
            return false;
    return true;
}

static enum cvd_status pool_prepare(const struct op_node *node, const struct op_value *out,
                                    const struct kernels *kernels, struct op_prepared *prepared)
{
    if (node->in[0]->layout.lanes || out[0].layout.lanes || !blocked_planes_pool(node))
        return op_fail(node, CVD_STATUS_INTERNAL, "not a pool of 2 x 2 on plain maps");
    prepared->kernel = kernels->planes.pool_name;
    return CVD_STATUS_OK;
}

struct pool_job {
    const struct kernels *kernels;
    const float *x;
    float *y;
    size_t width, out_height, out_width, plane;
};

/* Maps begin ... end - 1 of all images. */
static void pool_maps(void *ctx, size_t begin, size_t end)
{
    const struct pool_job *j = ctx;
    const size_t out_plane = j->out_height * j->out_width;
    if (j->plane == 2 * j->out_height * j->width) { /* no row is left over: all maps are one */
        j->kernels->planes.pool(j->x + begin * j->plane, j->width, j->y + begin * out_plane,
                                (end - begin) * j->out_height, j->out_width);
        return;
    }
    for (size_t map = begin; map < end; map++)
        j->kernels->planes.pool(j->x + map * j->plane, j->width, j->y + map * out_plane,
                                j->out_height, j->out_width);
}

static void pool_run(const struct op_run *r)
{
    const struct cvd_shape *in = &r->in[0]->shape, *out = &r->out[0].shape;
    struct pool_job j = {
        .kernels = r->kernels,
        .x = r->in[0]->data,
        .y = r->out[0].data,
        .width = (size_t)in->dims[3],
        .out_height = (size_t)out->dims[2],
        .out_width = (size_t)out->dims[3],
        .plane = op_extent(in, 2, 4),
    };
    if (j.y && j.plane > 0)
        op_for_range(r->pool, op_extent(out, 0, 2), PART_FLOATS / j.plane + 1, pool_maps, &j);
}

/* clang-format off */
const struct op_def ops_blocked_reorder[] = {
    {.name = "Reorder", .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = reorder_infer, .prepare = reorder_prepare, .run = reorder_run},
    {.name = "PlanesMaxPool", .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION,
     .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = pool_infer, .prepare = pool_prepare, .run = pool_run},
    {.name = NULL},
};
/* clang-format on */
