/*
 * A batch that the file fixes to one is set free, where it is only the exporter who wrote it down:
 * inputs [1,C,H,W] become [N,C,H,W], and a Reshape to [1,K] becomes one to [0,K], which takes the
 * batch from its input. With one image all of that means what it meant before. Whether it means the
 * same for each of several images is for the plan to find out.
 */
#include "engine/graph/passes.h"

#include <string.h>

/* Whether the batch is fixed, to one. */
static bool is_fixed_to_one(const struct pass *p)
{
    bool found = false;
    for (uint32_t i = 0; i < p->g->input_count; i++) {
        const struct cvd_shape *shape = &p->g->values[p->g->inputs[i]].shape;
        if (shape->rank == 0)
            continue;
        if (shape->dims[0] == CVD_DIM_BATCH || (!found && shape->dims[0] != 1))
            return false;
        found = true;
    }
    return found;
}

/* Whether the wanted extents begin with a 1 that may as well be a 0. */
static bool leads_with_one(const int64_t *want, size_t count, int64_t allow_zero)
{
    if (count == 0 || want[0] != 1)
        return false;
    for (size_t i = 1; i < count; i++) {
        if (want[i] == 0 && allow_zero != 0)
            return false;
    }
    return true;
}

/* The wanted extents of a Reshape: an attribute before operator set 5, then an input. */
static bool read_target(const struct pass *p, const struct graph_node *node, int64_t *want,
                        size_t *count)
{
    const struct op_attr *attr = pass_attr(node, "shape");
    if (node->in_count > 1)
        return pass_ints(p, node->in[1], want, CVD_MAX_RANK, count);
    if (attr == NULL || attr->type != OP_ATTR_INTS || attr->count > CVD_MAX_RANK)
        return false;
    *count = attr->count;
    memcpy(want, attr->ints, attr->count * sizeof(*want));
    return true;
}

/* Gives the Reshape at n another target. */
static enum cvd_status write_target(struct pass *p, uint32_t n, const int64_t *want, size_t count)
{
    struct graph_node node = p->g->nodes[n];
    uint32_t in[2] = {node.in[0], GRAPH_NONE};
    struct op_attr attr = {.name = "allowzero", .type = OP_ATTR_INT, .i = 0};
    if (node.in_count > 1) {
        const struct cvd_shape vector = {.rank = 1, .dims = {(int64_t)count}};
        enum cvd_status status =
            graph_add_initializer(p->g, NULL, CVD_DTYPE_INT64, &vector, want, &in[1], p->err);
        if (status != CVD_STATUS_OK)
            return status;
        node.in = in;
    } else {
        int64_t *ints = mem_arena_alloc(p->g->arena, count * sizeof(*ints));
        if (ints == NULL)
            return pass_no_memory(p);
        memcpy(ints, want, count * sizeof(*ints));
        attr =
            (struct op_attr){.name = "shape", .type = OP_ATTR_INTS, .count = count, .ints = ints};
    }
    node.attrs = pass_attrs(p, &node, &attr, 1, &node.attr_count);
    return node.attrs != NULL ? pass_replace(p, n, &node) : pass_no_memory(p);
}

enum cvd_status pass_batch(struct pass *p)
{
    struct graph *g = p->g;
    if (!is_fixed_to_one(p))
        return CVD_STATUS_OK;
    for (uint32_t n = 0; n < g->node_count; n++) {
        const struct graph_node *node = pass_node(p, n, "Reshape");
        const struct cvd_shape *from = node != NULL ? pass_shape(p, node->in[0]) : NULL;
        int64_t want[CVD_MAX_RANK];
        size_t count;
        if (from == NULL || from->rank == 0 || from->dims[0] != 1 ||
            !read_target(p, node, want, &count) ||
            !leads_with_one(want, count, pass_int(node, "allowzero", 0)))
            continue;
        want[0] = 0;
        enum cvd_status status = write_target(p, n, want, count);
        if (status != CVD_STATUS_OK)
            return status;
    }
    /* An input of one dimension is a parameter rather than one number for each image. */
    for (uint32_t i = 0; i < g->input_count; i++) {
        struct cvd_shape *shape = &g->values[g->inputs[i]].shape;
        if (shape->rank > 1 && shape->dims[0] == 1)
            shape->dims[0] = CVD_DIM_BATCH;
    }
    return CVD_STATUS_OK;
}
