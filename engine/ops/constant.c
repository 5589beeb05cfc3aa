/* Constant: a value that stands in the node itself. */
#include "engine/ops/op_util.h"
#include "engine/runtime/mem.h"

#include <string.h>

/* The attribute that holds the value, as a tensor. */
static enum cvd_status read_node(const struct op_node *node, struct op_tensor *value)
{
    static const char *const unsupported[] = {"sparse_value", "value_string", "value_strings"};
    static const struct {
        const char *name;
        enum op_attr_type type;
    } kinds[] = {{"value", OP_ATTR_TENSOR},
                 {"value_float", OP_ATTR_FLOAT},
                 {"value_floats", OP_ATTR_FLOATS},
                 {"value_int", OP_ATTR_INT},
                 {"value_ints", OP_ATTR_INTS}};
    for (size_t i = 0; i < sizeof unsupported / sizeof unsupported[0]; i++)
        if (op_attr_find(node, unsupported[i]))
            return op_fail(node, CVD_STATUS_UNSUPPORTED, "attribute %s is not implemented",
                           unsupported[i]);
    const struct op_attr *found = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const struct op_attr *attr = op_attr_find(node, kinds[i].name);
        if (attr && found)
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "has both %s and %s", found->name,
                           attr->name);
        if (attr && attr->type != kinds[i].type)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "attribute %s has type %d; it must be %d", attr->name, (int)attr->type,
                           (int)kinds[i].type);
        found = attr ? attr : found;
    }
    if (!found)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "has no value");
    const struct cvd_shape scalar = {0}, list = {1, {(int64_t)found->count}};
    switch (found->type) {
    case OP_ATTR_FLOAT:
        *value = (struct op_tensor){.dtype = CVD_DTYPE_FLOAT32, .shape = scalar, .data = &found->f};
        break;
    case OP_ATTR_INT:
        *value = (struct op_tensor){.dtype = CVD_DTYPE_INT64, .shape = scalar, .data = &found->i};
        break;
    case OP_ATTR_FLOATS:
        *value =
            (struct op_tensor){.dtype = CVD_DTYPE_FLOAT32, .shape = list, .data = found->floats};
        break;
    case OP_ATTR_INTS:
        *value = (struct op_tensor){.dtype = CVD_DTYPE_INT64, .shape = list, .data = found->ints};
        break;
    default:
        *value = found->tensor;
        break;
    }
    return CVD_STATUS_OK;
}

static enum cvd_status constant_infer(const struct op_node *node, struct op_value *out)
{
    struct op_tensor value;
    enum cvd_status status = read_node(node, &value);
    if (status != CVD_STATUS_OK)
        return status;
    if (cvd_dtype_bytes(value.dtype) == 0)
        return op_fail(node, CVD_STATUS_UNSUPPORTED, "element type %d is not implemented",
                       (int)value.dtype);
    return op_set_output(node, &out[0], value.dtype, &value.shape);
}

/* The state is a copy of the elements: attributes do not outlive loading. */
static enum cvd_status constant_prepare(const struct op_node *node, const struct op_value *out,
                                        const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct op_tensor value;
    void *copy;
    enum cvd_status status = read_node(node, &value);
    if (status != CVD_STATUS_OK)
        return status;
    const size_t bytes = op_elements(&value.shape) * cvd_dtype_bytes(value.dtype);
    status = op_state(node, bytes, prepared, &copy);
    if (status == CVD_STATUS_OK && bytes > 0)
        memcpy(copy, value.data, bytes);
    prepared->kernel = "-";
    return status;
}

static void constant_run(const struct op_run *r)
{
    const size_t bytes = op_elements(&r->out[0].shape) * cvd_dtype_bytes(r->out[0].dtype);
    if (bytes > 0)
        memcpy(r->out[0].data, r->state, bytes);
}

/* clang-format off */
const struct op_def ops_constant[] = {
    {.name = "Constant", .domain = "", .since = 1,
     .min_inputs = 0, .max_inputs = 0, .min_outputs = 1, .max_outputs = 1,
     .infer = constant_infer, .prepare = constant_prepare, .run = constant_run},
    {.name = NULL},
};
/* clang-format on */
