/*
 * Gather: parts of an array picked by their indices along one dimension.
 *
 * An index that is known at load must lie inside; one that comes at run time and does not picks
 * zeros, because a run cannot fail.
 */
#include "engine/ops/list.h"
#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <string.h>

struct gather_state {
    unsigned axis;
};

static int64_t index_at(enum cvd_dtype dtype, const void *data, size_t i)
{
    return dtype == CVD_DTYPE_INT64 ? ((const int64_t *)data)[i] : ((const int32_t *)data)[i];
}

static enum cvd_status check_indices(const struct op_node *node, unsigned axis)
{
    const struct op_value *indices = node->in[1];
    const int64_t extent = node->in[0]->shape.dims[axis];
    const size_t count = indices->data ? op_elements(&indices->shape) : 0;
    for (size_t i = 0; i < count; i++) {
        const int64_t index = index_at(indices->dtype, indices->data, i);
        if (index < -extent || index >= extent)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "index %" PRId64 " is outside dimension %u, whose extent is %" PRId64,
                           index, axis, extent);
    }
    return CVD_STATUS_OK;
}

static enum cvd_status read_node(const struct op_node *node, struct gather_state *s,
                                 struct cvd_shape *shape)
{
    const unsigned integers = OP_TYPE(CVD_DTYPE_INT32) | OP_TYPE(CVD_DTYPE_INT64);
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status == CVD_STATUS_OK)
        status = op_check_type(node, 1, integers, integers);
    if (status == CVD_STATUS_OK)
        status = list_axis(node, 0, &s->axis);
    if (status == CVD_STATUS_OK)
        status = check_indices(node, s->axis);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *data = &node->in[0]->shape, *indices = &node->in[1]->shape;
    if (data->rank - 1 + indices->rank > CVD_MAX_RANK)
        return op_fail(node, CVD_STATUS_UNSUPPORTED,
                       "the output would have %u dimensions; at most %d",
                       data->rank - 1 + indices->rank, CVD_MAX_RANK);
    *shape = (struct cvd_shape){0};
    for (unsigned d = 0; d < s->axis; d++)
        shape->dims[shape->rank++] = data->dims[d];
    for (unsigned d = 0; d < indices->rank; d++)
        shape->dims[shape->rank++] = indices->dims[d];
    for (unsigned d = s->axis + 1; d < data->rank; d++)
        shape->dims[shape->rank++] = data->dims[d];
    return CVD_STATUS_OK;
}

static enum cvd_status gather_infer(const struct op_node *node, struct op_value *out)
{
    struct gather_state s;
    struct cvd_shape shape;
    enum cvd_status status = read_node(node, &s, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], node->in[0]->dtype, &shape)
                                   : status;
}

static enum cvd_status gather_prepare(const struct op_node *node, const struct op_value *out,
                                      const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct gather_state *s;
    struct cvd_shape shape;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = read_node(node, s, &shape);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "gather_ref";
    prepared->parameters = op_parameters(node, 0);
    /* A constant table is no image, whatever stands in its dimension 0. */
    prepared->mixes_images = s->axis == 0 && !node->in[0]->data;
    return CVD_STATUS_OK;
}

struct gather_run {
    const struct op_tensor *indices;
    size_t count;   /* of them */
    int64_t extent; /* of the dimension they go along */
    size_t part;    /* bytes of what one index picks */
    const char *x;
    char *y;
};

static void gather_range(void *ctx, size_t begin, size_t end)
{
    const struct gather_run *g = ctx;
    for (size_t i = begin; i < end; i++) {
        int64_t index = index_at(g->indices->dtype, g->indices->data, i % g->count);
        index = index < 0 ? index + g->extent : index;
        if (index >= 0 && index < g->extent)
            memcpy(g->y + i * g->part,
                   g->x + (i / g->count * (size_t)g->extent + (size_t)index) * g->part, g->part);
        else
            memset(g->y + i * g->part, 0, g->part);
    }
}

static void gather_run(const struct op_run *r)
{
    const struct gather_state *s = r->state;
    const struct cvd_shape *in = &r->in[0]->shape;
    const size_t outer = op_extent(in, 0, s->axis);
    const size_t inner = op_extent(in, s->axis + 1, in->rank);
    struct gather_run g = {.indices = r->in[1],
                           .count = op_elements(&r->in[1]->shape),
                           .extent = in->dims[s->axis],
                           .part = inner * cvd_dtype_bytes(r->in[0]->dtype),
                           .x = r->in[0]->data,
                           .y = r->out[0].data};
    if (op_elements(&r->out[0].shape) == 0)
        return;
    const size_t piece = OP_RANGE_CHEAP / inner;
    op_for_range(r->pool, outer * g.count, piece ? piece : 1, gather_range, &g);
}

/* clang-format off */
const struct op_def ops_gather[] = {
    {.name = "Gather", .domain = "", .since = 1, .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 2, .min_outputs = 1, .max_outputs = 1,
     .infer = gather_infer, .prepare = gather_prepare, .run = gather_run},
    {.name = NULL},
};
/* clang-format on */
