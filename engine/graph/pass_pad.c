/*
 * A Pad with a constant goes into the operator that reads its output, where that pads with the same
 * number: zeros into Conv and into AveragePool that counts padding, minus infinity into MaxPool.
 */
#include "engine/graph/passes.h"

#include <math.h>
#include <string.h>

#define SPATIAL_MAX (CVD_MAX_RANK - 2)

/* Pads of the spatial dimensions: all begins, then all ends, as an operator's attribute has them.
 */
struct pads {
    unsigned rank; /* spatial dimensions */
    int64_t at[2 * SPATIAL_MAX];
};

static bool is_constant_mode(const struct graph_node *node)
{
    const struct op_attr *mode = pass_attr(node, "mode");
    return mode == NULL || (mode->type == OP_ATTR_STRING && strcmp(mode->s, "constant") == 0);
}

/* The pads of a node, attributes before operator set 11 and then inputs, by dimension. */
static bool read_all(const struct pass *p, const struct graph_node *node, unsigned rank,
                     int64_t begin[CVD_MAX_RANK], int64_t end[CVD_MAX_RANK])
{
    int64_t pads[2 * CVD_MAX_RANK], axes[CVD_MAX_RANK];
    size_t count = 0, axis_count = rank;
    const struct op_attr *attr = pass_attr(node, "pads");
    if (node->in_count > 1) {
        if (!pass_ints(p, node->in[1], pads, 2 * CVD_MAX_RANK, &count))
            return false;
    } else if (attr != NULL && attr->type == OP_ATTR_INTS && attr->count <= 2 * CVD_MAX_RANK) {
        count = attr->count;
        memcpy(pads, attr->ints, count * sizeof(*pads));
    }
    for (unsigned d = 0; d < rank; d++) {
        axes[d] = d;
        begin[d] = end[d] = 0;
    }
    if (pass_input(node, 3) != GRAPH_NONE &&
        !pass_ints(p, node->in[3], axes, CVD_MAX_RANK, &axis_count))
        return false;
    if (count != 2 * axis_count)
        return false;
    for (size_t i = 0; i < axis_count; i++) {
        int64_t axis = axes[i] < 0 ? axes[i] + rank : axes[i];
        if (axis < 0 || axis >= rank)
            return false;
        begin[axis] = pads[i];
        end[axis] = pads[axis_count + i];
    }
    return true;
}

/* The number that fills the padding. */
static bool read_value(const struct pass *p, const struct graph_node *node, float *value)
{
    *value = pass_float(node, "value", 0);
    return pass_input(node, 2) == GRAPH_NONE || pass_number(p, node->in[2], value);
}

/* What a Pad does, when it adds to spatial dimensions only. */
static bool read_pad(const struct pass *p, const struct graph_node *node, struct pads *pads,
                     float *value)
{
    const struct cvd_shape *shape = pass_shape(p, node->in[0]);
    int64_t begin[CVD_MAX_RANK], end[CVD_MAX_RANK];
    if (shape == NULL || shape->rank < 3 || !pass_is_float(p, node->in[0]) ||
        !is_constant_mode(node) || !read_all(p, node, shape->rank, begin, end) ||
        !read_value(p, node, value))
        return false;
    pads->rank = shape->rank - 2;
    for (unsigned d = 0; d < shape->rank; d++) {
        if (begin[d] < 0 || end[d] < 0 || (d < 2 && (begin[d] > 0 || end[d] > 0)))
            return false;
        if (d >= 2) {
            pads->at[d - 2] = begin[d];
            pads->at[pads->rank + d - 2] = end[d];
        }
    }
    return true;
}

/* The operator's own pads added to *pads; *own says whether there are any. False when they are not
 * plain numbers. */
static bool add_own(const struct graph_node *node, struct pads *pads, bool *own)
{
    const struct op_attr *mode = pass_attr(node, "auto_pad"), *attr = pass_attr(node, "pads");
    bool valid = mode != NULL && mode->type == OP_ATTR_STRING && strcmp(mode->s, "VALID") == 0;
    *own = false;
    if (mode != NULL && !valid && (mode->type != OP_ATTR_STRING || strcmp(mode->s, "NOTSET") != 0))
        return false;
    if (attr == NULL || valid)
        return true;
    if (attr->type != OP_ATTR_INTS || attr->count != 2 * (size_t)pads->rank)
        return false;
    for (size_t i = 0; i < attr->count; i++) {
        *own |= attr->ints[i] != 0;
        if (__builtin_add_overflow(pads->at[i], attr->ints[i], &pads->at[i]) ||
            pads->at[i] > INT32_MAX)
            return false;
    }
    return true;
}

/* Whether a window of a MaxPool is larger than the padding at either end, as it has to be so that
 * no window holds nothing else. */
static bool window_exceeds(const struct graph_node *node, const struct pads *pads)
{
    const struct op_attr *kernel = pass_attr(node, "kernel_shape");
    if (kernel == NULL || kernel->type != OP_ATTR_INTS || kernel->count != pads->rank ||
        pass_attr(node, "dilations") != NULL)
        return false;
    for (unsigned d = 0; d < pads->rank; d++) {
        if (pads->at[d] >= kernel->ints[d] || pads->at[pads->rank + d] >= kernel->ints[d])
            return false;
    }
    return true;
}

/* Whether a node can do the padding itself. `own`: it pads already. *counts says that an
 * AveragePool has to be told to count padding. */
static bool can_pad(const struct pass *p, uint32_t n, const struct pads *pads, bool own,
                    float value, bool *counts)
{
    const struct graph_node *node = &p->g->nodes[n];
    *counts = false;
    if (pass_node(p, n, "Conv") != NULL)
        return value == 0;
    /* A last window that hangs over is another one when the input's end is elsewhere. */
    if (pass_int(node, "ceil_mode", 0) != 0)
        return false;
    if (pass_node(p, n, "AveragePool") != NULL) {
        *counts = true;
        return value == 0 && graph_opset(p->g, "") >= 7 &&
               (!own || pass_int(node, "count_include_pad", 0) != 0);
    }
    return pass_node(p, n, "MaxPool") != NULL && node->out_count == 1 && value == -INFINITY &&
           window_exceeds(node, pads);
}

static enum cvd_status merge(struct pass *p, uint32_t n, uint32_t pad)
{
    struct graph_node node = p->g->nodes[n];
    const struct graph_node *from = &p->g->nodes[pad];
    struct pads pads;
    float value;
    bool own, counts;
    if (!read_pad(p, from, &pads, &value) || !add_own(&node, &pads, &own) ||
        !can_pad(p, n, &pads, own, value, &counts))
        return CVD_STATUS_OK;
    uint32_t *in = mem_arena_alloc(p->g->arena, node.in_count * sizeof(*in));
    int64_t *ints = mem_arena_alloc(p->g->arena, 2 * pads.rank * sizeof(*ints));
    if (in == NULL || ints == NULL)
        return pass_no_memory(p);
    memcpy(in, node.in, node.in_count * sizeof(*in));
    memcpy(ints, pads.at, 2 * pads.rank * sizeof(*ints));
    in[0] = from->in[0];
    node.in = in;
    const struct op_attr set[] = {
        {.name = "pads", .type = OP_ATTR_INTS, .count = 2 * (size_t)pads.rank, .ints = ints},
        {.name = "auto_pad", .type = OP_ATTR_STRING, .s = "NOTSET"},
        {.name = "count_include_pad", .type = OP_ATTR_INT, .i = 1}};
    node.attrs = pass_attrs(p, &node, set, counts ? 3 : 2, &node.attr_count);
    if (node.attrs == NULL)
        return pass_no_memory(p);
    enum cvd_status status = pass_replace(p, n, &node);
    if (status == CVD_STATUS_OK)
        pass_remove(p, pad);
    return status;
}

enum cvd_status pass_pad(struct pass *p)
{
    enum cvd_status status = CVD_STATUS_OK;
    for (uint32_t n = 0; n < p->g->node_count && status == CVD_STATUS_OK; n++) {
        if (p->g->nodes[n].in_count == 0)
            continue;
        uint32_t pad = pass_sole_maker(p, p->g->nodes[n].in[0]);
        if (pass_node(p, pad, "Pad") != NULL)
            status = merge(p, n, pad);
    }
    return status;
}
