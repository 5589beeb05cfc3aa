/*
 * DepthToSpace and SpaceToDepth: blocks of b x b pixels become b * b channels and back.
 *
 * Seen with each dimension that is cut as two, both are a transposition of six dimensions.
 */
#include "engine/ops/move.h"
#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <string.h>

struct depth_state {
    int64_t block;
    bool column_row; /* mode CRD: a channel's block stands in neighbouring channels */
};

static enum cvd_status read_node(const struct op_node *node, struct depth_state *s)
{
    const char *mode = "DCR";
    *s = (struct depth_state){0};
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status == CVD_STATUS_OK && !op_attr_find(node, "blocksize"))
        status = op_fail(node, CVD_STATUS_INVALID_MODEL, "attribute blocksize is missing");
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "blocksize", 0, &s->block);
    if (status == CVD_STATUS_OK && node->def->since >= 11)
        status = op_attr_string(node, "mode", "DCR", &mode);
    if (status != CVD_STATUS_OK)
        return status;
    if (s->block < 1)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "blocksize is %" PRId64 "; it must be at least 1", s->block);
    s->column_row = strcmp(mode, "CRD") == 0;
    if (!s->column_row && strcmp(mode, "DCR") != 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "mode is '%.32s'; it must be DCR or CRD",
                       mode);
    if (node->in[0]->shape.rank != 4)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "the input has %u dimensions; it must have 4", node->in[0]->shape.rank);
    return CVD_STATUS_OK;
}

static enum cvd_status prepare(const struct op_node *node, const struct op_value *out,
                               const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct depth_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = "move_ref";
    return status == CVD_STATUS_OK ? read_node(node, s) : status;
}

/* ---- DepthToSpace ---- */

static enum cvd_status to_space_infer(const struct op_node *node, struct op_value *out)
{
    struct depth_state s;
    enum cvd_status status = read_node(node, &s);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_shape shape = node->in[0]->shape;
    int64_t area;
    if (__builtin_mul_overflow(s.block, s.block, &area) || shape.dims[1] % area != 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "%" PRId64 " channels cannot be made into blocks of %" PRId64 " x %" PRId64,
                       shape.dims[1], s.block, s.block);
    shape.dims[1] /= area;
    if (__builtin_mul_overflow(shape.dims[2], s.block, &shape.dims[2]) ||
        __builtin_mul_overflow(shape.dims[3], s.block, &shape.dims[3]))
        return op_fail(node, CVD_STATUS_UNSUPPORTED, "output does not fit in memory");
    return op_set_output(node, &out[0], node->in[0]->dtype, &shape);
}

static void to_space_run(const struct op_run *r)
{
    const struct depth_state *s = r->state;
    const struct cvd_shape *in = &r->in[0]->shape;
    const size_t block = (size_t)s->block, width = (size_t)in->dims[3];
    const size_t channels = (size_t)in->dims[1] / (block * block);
    const size_t plane = (size_t)in->dims[2] * width;
    /* Input channel of block row i, block column j, output channel c. */
    const size_t channel = (s->column_row ? block * block : 1) * plane;
    const size_t column = (s->column_row ? 1 : channels) * plane;
    struct move m = {
        .bytes = cvd_dtype_bytes(r->in[0]->dtype), .in = r->in[0]->data, .out = r->out[0].data};
    move_add(&m, (size_t)in->dims[0], (ptrdiff_t)((size_t)in->dims[1] * plane));
    move_add(&m, channels, (ptrdiff_t)channel);
    move_add(&m, (size_t)in->dims[2], (ptrdiff_t)width);
    move_add(&m, block, (ptrdiff_t)(block * column));
    move_add(&m, width, 1);
    move_add(&m, block, (ptrdiff_t)column);
    move_run(&m, r->pool);
}

/* ---- SpaceToDepth ---- */

static enum cvd_status to_depth_infer(const struct op_node *node, struct op_value *out)
{
    struct depth_state s;
    enum cvd_status status = read_node(node, &s);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_shape shape = node->in[0]->shape;
    if (shape.dims[2] % s.block != 0 || shape.dims[3] % s.block != 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "%" PRId64 " x %" PRId64 " pixels cannot be cut into blocks of %" PRId64
                       " x %" PRId64,
                       shape.dims[2], shape.dims[3], s.block, s.block);
    shape.dims[2] /= s.block;
    shape.dims[3] /= s.block;
    if (__builtin_mul_overflow(shape.dims[1], s.block, &shape.dims[1]) ||
        __builtin_mul_overflow(shape.dims[1], s.block, &shape.dims[1]))
        return op_fail(node, CVD_STATUS_UNSUPPORTED, "output does not fit in memory");
    return op_set_output(node, &out[0], node->in[0]->dtype, &shape);
}

static void to_depth_run(const struct op_run *r)
{
    const struct depth_state *s = r->state;
    const struct cvd_shape *in = &r->in[0]->shape, *out = &r->out[0].shape;
    const size_t block = (size_t)s->block, width = (size_t)in->dims[3];
    const size_t plane = (size_t)in->dims[2] * width;
    struct move m = {
        .bytes = cvd_dtype_bytes(r->in[0]->dtype), .in = r->in[0]->data, .out = r->out[0].data};
    if (op_elements(out) == 0)
        return;
    move_add(&m, (size_t)in->dims[0], (ptrdiff_t)((size_t)in->dims[1] * plane));
    move_add(&m, block, (ptrdiff_t)width);
    move_add(&m, block, 1);
    move_add(&m, (size_t)in->dims[1], (ptrdiff_t)plane);
    move_add(&m, (size_t)out->dims[2], (ptrdiff_t)(block * width));
    move_add(&m, (size_t)out->dims[3], (ptrdiff_t)block);
    move_run(&m, r->pool);
}

/* clang-format off */
#define DEPTH(op, first_opset, last_opset, op_infer, op_run)                                       \
    {.name = op, .domain = "", .since = first_opset, .until = last_opset, .flags = OP_BATCHWISE,   \
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,                         \
     .infer = op_infer, .prepare = prepare, .run = op_run}

const struct op_def ops_depth[] = {
    DEPTH("DepthToSpace", 1, 10, to_space_infer, to_space_run),
    DEPTH("DepthToSpace", 11, 0, to_space_infer, to_space_run), /* mode */
    DEPTH("SpaceToDepth", 1, 0, to_depth_infer, to_depth_run),
    {.name = NULL},
};
/* clang-format on */
