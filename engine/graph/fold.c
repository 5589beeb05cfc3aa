/* Constant folding, the second half: what inference has found constant becomes initializers. */
#include "engine/graph/build.h"

#include <string.h>

/* Whether the node can go because all of its outputs that are read are constants. A view shares its
 * memory with another constant, which may be needed beside it; so it must be affordable twice. */
static bool can_go(struct build *b, uint32_t n, const bool *needed)
{
    const struct graph_node *node = &b->g->nodes[n];
    for (size_t i = 0; i < node->out_count; i++) {
        uint32_t v = node->out[i];
        if (v == GRAPH_NONE || !needed[v])
            continue;
        if (build_kind_of(b, v) != BUILD_CONSTANT)
            return false;
        size_t bytes = b->inf.blocks[b->one.blocks[v]].bytes;
        if (!(b->inf.defs[n]->flags & OP_VIEW))
            continue;
        if (bytes > b->inf.budget.bytes)
            return false;
        b->inf.budget.bytes -= bytes;
    }
    return true;
}

/* Finds the values that are needed, back from the outputs; a node that can go loses its outputs,
 * and what it needed alone is not needed. */
static void find_needed(struct build *b, bool *needed)
{
    struct graph *g = b->g;
    for (uint32_t i = 0; i < g->output_count; i++)
        needed[g->outputs[i]] = true;
    for (uint32_t n = g->node_count; n-- > 0;) {
        struct graph_node *node = &g->nodes[n];
        bool wanted = false;
        for (size_t i = 0; i < node->out_count; i++)
            wanted |= node->out[i] != GRAPH_NONE && needed[node->out[i]];
        if (!wanted)
            continue;
        if (can_go(b, n, needed)) {
            node->out_count = 0;
            continue;
        }
        for (size_t i = 0; i < node->in_count; i++) {
            if (node->in[i] != GRAPH_NONE)
                needed[node->in[i]] = true;
        }
    }
}

/* Values that a node still computes have no memory of their own. */
static void forget_computed(const struct graph *g, bool *needed)
{
    for (uint32_t n = 0; n < g->node_count; n++) {
        for (size_t i = 0; i < g->nodes[n].out_count; i++) {
            if (g->nodes[n].out[i] != GRAPH_NONE)
                needed[g->nodes[n].out[i]] = false;
        }
    }
    for (uint32_t i = 0; i < g->input_count; i++)
        needed[g->inputs[i]] = false;
}

/* Gives v its elements: the block, when nobody else needs it, or a copy. */
static bool take_block(struct build *b, uint32_t v)
{
    struct graph_value *value = &b->g->values[v];
    struct infer_block *block = &b->inf.blocks[b->one.blocks[v]];
    void *data = block->data;
    if (--block->uses > 0) {
        data = mem_alloc(block->bytes);
        if (data == NULL)
            return false;
        memcpy(data, block->data, block->bytes);
    } else {
        block->data = NULL;
    }
    value->dtype = b->one.values[v].dtype;
    value->has_shape = true;
    value->shape = b->one.values[v].shape;
    value->data = data;
    value->bytes = block->bytes;
    return true;
}

enum cvd_status build_fold(struct build *b)
{
    uint32_t count = b->g->value_count;
    bool *needed = mem_alloc(count * sizeof(*needed));
    if (needed == NULL)
        return build_no_memory(b);
    memset(needed, 0, count * sizeof(*needed));
    find_needed(b, needed);
    forget_computed(b->g, needed);
    for (uint32_t v = 0; v < count; v++) {
        if (needed[v])
            b->inf.blocks[b->one.blocks[v]].uses++;
    }
    bool done = true;
    for (uint32_t v = 0; v < count && done; v++) {
        if (needed[v])
            done = take_block(b, v);
    }
    mem_free(needed);
    return done ? CVD_STATUS_OK : build_no_memory(b);
}
