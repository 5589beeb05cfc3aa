/* Axes, pads, starts, repeats: small lists of integers, from an attribute or from an input. */
#include "engine/ops/list.h"

#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <string.h>

enum cvd_status list_read(const struct op_node *node, const char *name, size_t input, size_t max,
                          struct list *out)
{
    out->given = false;
    out->count = 0;
    if (node->def->max_inputs > input) {
        if (!op_input(node, input))
            return CVD_STATUS_OK;
        out->given = true;
        return op_value_ints(node, input, out->values, max, &out->count);
    }
    if (!name)
        return CVD_STATUS_OK;
    const int64_t *values;
    enum cvd_status status = op_attr_ints(node, name, &values, &out->count);
    if (status != CVD_STATUS_OK || !op_attr_find(node, name))
        return status;
    if (out->count > max)
        return op_fail(node, CVD_STATUS_UNSUPPORTED, "%s has %zu numbers; at most %zu", name,
                       out->count, max);
    out->given = true;
    if (out->count > 0)
        memcpy(out->values, values, out->count * sizeof *values);
    return CVD_STATUS_OK;
}

enum cvd_status list_require(const struct op_node *node, const char *name, size_t input, size_t max,
                             struct list *out)
{
    enum cvd_status status = list_read(node, name, input, max, out);
    if (status != CVD_STATUS_OK || out->given)
        return status;
    if (node->def->max_inputs > input)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "input %zu is missing", input);
    return op_fail(node, CVD_STATUS_INVALID_MODEL, "attribute %s is missing", name);
}

enum cvd_status list_axes(const struct op_node *node, const struct list *list, unsigned rank,
                          unsigned axes[CVD_MAX_RANK])
{
    bool named[CVD_MAX_RANK] = {false};
    for (size_t i = 0; i < list->count; i++) {
        unsigned axis;
        if (!op_axis(list->values[i], rank, &axis))
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "axes[%zu] is %" PRId64 ", outside %u dimensions", i, list->values[i],
                           rank);
        if (named[axis])
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "axes names dimension %u twice", axis);
        named[axis] = true;
        axes[i] = axis;
    }
    return CVD_STATUS_OK;
}

enum cvd_status list_axis(const struct op_node *node, int64_t fallback, unsigned *out)
{
    int64_t axis;
    enum cvd_status status = op_attr_int(node, "axis", fallback, &axis);
    const unsigned rank = node->in[0]->shape.rank;
    if (status == CVD_STATUS_OK && !op_axis(axis, rank, out))
        status = op_fail(node, CVD_STATUS_INVALID_MODEL,
                         "axis %" PRId64 " is outside an input of %u dimensions", axis, rank);
    return status;
}
