/* Broadcasting: merging of dimensions and the walk over the output. */
#include "engine/ops/broadcast.h"

#include "engine/ops/op_util.h"

#include <inttypes.h>

/* Stride of `shape` along dimension d of an output of `rank` dimensions; 0 where it repeats. */
static size_t stride_of(const struct cvd_shape *shape, unsigned rank, unsigned d)
{
    if (d + shape->rank < rank)
        return 0;
    const unsigned own = d + shape->rank - rank;
    return shape->dims[own] == 1 ? 0 : op_extent(shape, own + 1, shape->rank);
}

void broadcast_init(struct broadcast *b, const struct cvd_shape *out,
                    const struct cvd_shape *const *in, unsigned inputs)
{
    *b = (struct broadcast){.inputs = inputs, .elements = op_elements(out)};
    for (unsigned d = 0; d < out->rank; d++) {
        const size_t extent = (size_t)out->dims[d];
        if (extent == 1)
            continue;
        size_t stride[BROADCAST_MAX_INPUTS];
        bool merge = b->rank > 0;
        for (unsigned i = 0; i < inputs; i++) {
            stride[i] = stride_of(in[i], out->rank, d);
            merge = merge && b->stride[i][b->rank - 1] == stride[i] * extent;
        }
        const unsigned at = merge ? b->rank - 1 : b->rank++;
        b->extent[at] = merge ? b->extent[at] * extent : extent;
        for (unsigned i = 0; i < inputs; i++)
            b->stride[i][at] = stride[i];
    }
    if (b->rank == 0) { /* a single element */
        b->rank = 1;
        b->extent[0] = 1;
    }
}

struct broadcast_loop {
    const struct broadcast *b;
    broadcast_fn fn;
    void *ctx;
};

static void walk(void *ctx, size_t begin, size_t end)
{
    const struct broadcast_loop *loop = ctx;
    const struct broadcast *b = loop->b;
    const unsigned last = b->rank - 1;
    while (begin < end) {
        struct broadcast_piece piece = {.out = begin};
        size_t rest = begin;
        const size_t column = rest % b->extent[last];
        for (unsigned d = b->rank; d-- > 0;) {
            const size_t index = rest % b->extent[d];
            rest /= b->extent[d];
            for (unsigned i = 0; i < b->inputs; i++)
                piece.in[i] += index * b->stride[i][d];
        }
        for (unsigned i = 0; i < b->inputs; i++)
            piece.step[i] = b->stride[i][last];
        piece.n = b->extent[last] - column;
        if (piece.n > end - begin)
            piece.n = end - begin;
        loop->fn(loop->ctx, &piece);
        begin += piece.n;
    }
}

void broadcast_for(const struct broadcast *b, struct tpool *pool, broadcast_fn fn, void *ctx)
{
    struct broadcast_loop loop = {b, fn, ctx};
    op_for_range(pool, b->elements, OP_RANGE_CHEAP, walk, &loop);
}

enum cvd_status broadcast_read_legacy(const struct op_node *node, struct broadcast_align *out)
{
    const struct cvd_shape *a = &node->in[0]->shape, *b = &node->in[1]->shape;
    int64_t broadcast, axis;
    *out = (struct broadcast_align){0};
    enum cvd_status status = op_attr_int(node, "broadcast", 0, &broadcast);
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "axis", (int64_t)a->rank - b->rank, &axis);
    if (status != CVD_STATUS_OK)
        return status;
    char text_a[CVD_SHAPE_TEXT_BYTES], text_b[CVD_SHAPE_TEXT_BYTES];
    if (!broadcast) {
        if (cvd_shape_equal(a, b))
            return CVD_STATUS_OK;
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "shapes %s and %s differ and broadcast is not set",
                       cvd_shape_text(a, text_a), cvd_shape_text(b, text_b));
    }
    out->aligned = true;
    out->axis = a->rank;
    if (op_elements(b) == 1) /* of any rank, in any place */
        return CVD_STATUS_OK;
    if (axis < 0 && op_attr_find(node, "axis"))
        axis += a->rank;
    bool fits = axis >= 0 && axis <= (int64_t)a->rank - (int64_t)b->rank;
    for (unsigned i = 0; fits && i < b->rank; i++)
        fits = b->dims[i] == a->dims[axis + i] || b->dims[i] == 1;
    if (!fits)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "%s at axis %" PRId64 " does not broadcast to %s", cvd_shape_text(b, text_b),
                       axis, cvd_shape_text(a, text_a));
    out->axis = (unsigned)axis;
    return CVD_STATUS_OK;
}

struct cvd_shape broadcast_aligned(const struct broadcast_align *align, const struct cvd_shape *a,
                                   const struct cvd_shape *b)
{
    if (!align->aligned)
        return *b;
    struct cvd_shape shape = {.rank = a->rank - align->axis};
    for (unsigned i = 0; i < shape.rank; i++)
        shape.dims[i] = i < b->rank ? b->dims[i] : 1;
    return shape;
}
