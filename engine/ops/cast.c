/* Cast and CastLike: one element type to another. */
#include "engine/ops/convert.h"
#include "engine/ops/op_util.h"

#include <inttypes.h>

static enum cvd_status cast_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    int64_t to = 0;
    if (status == CVD_STATUS_OK && !op_attr_find(node, "to"))
        status = op_fail(node, CVD_STATUS_INVALID_MODEL, "attribute to is missing");
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "to", 0, &to);
    if (status != CVD_STATUS_OK)
        return status;
    if (to <= 0 || to > 64) /* far beyond the types that ONNX knows */
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "to is %" PRId64 ", which is no type", to);
    if (cvd_dtype_bytes((enum cvd_dtype)to) == 0)
        return op_fail(node, CVD_STATUS_UNSUPPORTED, "element type %" PRId64 " is not implemented",
                       to);
    return op_set_output(node, &out[0], (enum cvd_dtype)to, &node->in[0]->shape);
}

static enum cvd_status cast_like_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status == CVD_STATUS_OK)
        status = op_check_type(node, 1, OP_ALL_TYPES, OP_ALL_TYPES);
    return status == CVD_STATUS_OK
               ? op_set_output(node, &out[0], node->in[1]->dtype, &node->in[0]->shape)
               : status;
}

static enum cvd_status cast_prepare(const struct op_node *node, const struct op_value *out,
                                    const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)node;
    (void)out;
    (void)kernels;
    prepared->kernel = "cast_ref";
    prepared->inputs_consumed = 2; /* of CastLike: only its type counts */
    return CVD_STATUS_OK;
}

static void cast_range(void *ctx, size_t begin, size_t end)
{
    const struct op_run *r = ctx;
    const enum cvd_dtype from = r->in[0]->dtype, to = r->out[0].dtype;
    convert_elements(from, (const char *)r->in[0]->data + begin * cvd_dtype_bytes(from), to,
                     (char *)r->out[0].data + begin * cvd_dtype_bytes(to), end - begin);
}

static void cast_run(const struct op_run *r)
{
    struct op_run copy = *r;
    op_for_range(r->pool, op_elements(&r->in[0]->shape), OP_RANGE_CHEAP, cast_range, &copy);
}

/* clang-format off */
const struct op_def ops_cast[] = {
    {.name = "Cast", .domain = "", .since = 6, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = cast_infer, .prepare = cast_prepare, .run = cast_run},
    {.name = "CastLike", .domain = "", .since = 15, .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 2, .min_outputs = 1, .max_outputs = 1,
     .infer = cast_like_infer, .prepare = cast_prepare, .run = cast_run},
    {.name = NULL},
};
/* clang-format on */
