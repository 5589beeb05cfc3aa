/* The operator table: all families and the search for the definition that covers an opset. */
#include "engine/ops/op.h"

#include <string.h>

static const struct op_def *const families[] = {
    ops_conv,
    ops_pool,
    ops_global_pool,
    ops_activation,
    ops_clip,
    ops_softmax,
    ops_matmul,
    ops_arith,
    ops_pow,
    ops_norm,
    ops_shape,
    ops_constant,
    ops_layout,
    ops_cast,
    ops_fused,
    ops_slice,
    ops_repeat,
    ops_depth,
    ops_pad,
    ops_gather,
    ops_fill,
    ops_reduce,
    ops_order,
    ops_compare,
    ops_where,
    ops_normalize,
    ops_lrn,
    ops_layer_norm,
    ops_blocked_conv,
    ops_blocked_winograd,
    ops_blocked_depthwise,
    ops_blocked_pool,
    ops_blocked_elementwise,
    ops_blocked_channels,
    ops_blocked_norm,
    ops_blocked_dense,
    ops_blocked_reorder,
};

const struct op_def *op_find(const char *domain, const char *name, int opset, bool *known)
{
    *known = false;
    if (strcmp(domain, "ai.onnx") == 0) /* ONNX's own domain may be spelt out */
        domain = "";
    for (size_t f = 0; f < sizeof families / sizeof families[0]; f++) {
        for (const struct op_def *def = families[f]; def->name; def++) {
            if (strcmp(def->name, name) != 0 || strcmp(def->domain, domain) != 0)
                continue;
            if (def->since <= opset && (def->until == 0 || opset <= def->until)) {
                *known = true;
                return def;
            }
            *known = true;
        }
    }
    return NULL;
}
