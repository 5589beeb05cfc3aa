/* Arrays made of copies of an array: Expand, by broadcasting, and Tile, side by side. */
#include "engine/ops/list.h"
#include "engine/ops/move.h"
#include "engine/ops/op_util.h"

#include <inttypes.h>

/* The run of both follows from the shapes alone; there is no state. */
static enum cvd_status prepare(const struct op_node *node, const struct op_value *out,
                               const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)kernels;
    const struct cvd_shape *x = &node->in[0]->shape, *y = &out[0].shape;
    prepared->kernel = "move_ref";
    prepared->inputs_consumed = 2;
    prepared->mixes_images = x->rank > 0 && x->rank == y->rank && x->dims[0] != y->dims[0];
    return CVD_STATUS_OK;
}

/* ---- Expand ---- */

static enum cvd_status expand_infer(const struct op_node *node, struct op_value *out)
{
    struct list want;
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status == CVD_STATUS_OK)
        status = list_require(node, NULL, 1, CVD_MAX_RANK, &want);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_shape target = {.rank = (unsigned)want.count}, shape;
    for (unsigned i = 0; i < target.rank; i++) {
        target.dims[i] = want.values[i];
        if (target.dims[i] < 0)
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "shape[%u] is %" PRId64, i,
                           target.dims[i]);
    }
    const struct cvd_shape *x = &node->in[0]->shape;
    char text_a[CVD_SHAPE_TEXT_BYTES], text_b[CVD_SHAPE_TEXT_BYTES];
    if (!op_broadcast(x, &target, &shape))
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "%s does not broadcast with shape %s",
                       cvd_shape_text(x, text_a), cvd_shape_text(&target, text_b));
    return op_set_output(node, &out[0], node->in[0]->dtype, &shape);
}

static void expand_run(const struct op_run *r)
{
    const struct cvd_shape *in = &r->in[0]->shape, *out = &r->out[0].shape;
    struct move m = {
        .bytes = cvd_dtype_bytes(r->in[0]->dtype), .in = r->in[0]->data, .out = r->out[0].data};
    const unsigned added = out->rank - in->rank;
    for (unsigned d = 0; d < out->rank; d++) {
        const bool repeated = d < added || in->dims[d - added] == 1;
        move_add(&m, (size_t)out->dims[d],
                 repeated ? 0 : (ptrdiff_t)op_extent(in, d - added + 1, in->rank));
    }
    move_run(&m, r->pool);
}

/* ---- Tile ---- */

static enum cvd_status tile_infer(const struct op_node *node, struct op_value *out)
{
    struct list repeats;
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status == CVD_STATUS_OK)
        status = list_require(node, NULL, 1, CVD_MAX_RANK, &repeats);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_shape shape = node->in[0]->shape;
    if (repeats.count != shape.rank)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "repeats has %zu numbers; the input has %u dimensions", repeats.count,
                       shape.rank);
    for (unsigned d = 0; d < shape.rank; d++) {
        if (repeats.values[d] < 0)
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "repeats[%u] is %" PRId64, d,
                           repeats.values[d]);
        if (__builtin_mul_overflow(shape.dims[d], repeats.values[d], &shape.dims[d]))
            return op_fail(node, CVD_STATUS_UNSUPPORTED, "output does not fit in memory");
    }
    return op_set_output(node, &out[0], node->in[0]->dtype, &shape);
}

static void tile_run(const struct op_run *r)
{
    const struct cvd_shape *in = &r->in[0]->shape, *out = &r->out[0].shape;
    struct move m = {
        .bytes = cvd_dtype_bytes(r->in[0]->dtype), .in = r->in[0]->data, .out = r->out[0].data};
    if (op_elements(out) == 0)
        return;
    for (unsigned d = 0; d < in->rank; d++) {
        move_add(&m, (size_t)(out->dims[d] / in->dims[d]), 0);
        move_add(&m, (size_t)in->dims[d], (ptrdiff_t)op_extent(in, d + 1, in->rank));
    }
    move_run(&m, r->pool);
}

/* clang-format off */
#define REPEAT(op, first_opset, op_infer, op_run)                                                  \
    {.name = op, .domain = "", .since = first_opset, .flags = OP_BATCHWISE,                        \
     .min_inputs = 2, .max_inputs = 2, .min_outputs = 1, .max_outputs = 1,                         \
     .infer = op_infer, .prepare = prepare, .run = op_run}

const struct op_def ops_repeat[] = {
    REPEAT("Expand", 8, expand_infer, expand_run),
    REPEAT("Tile", 6, tile_infer, tile_run), /* other inputs before */
    {.name = NULL},
};
/* clang-format on */
