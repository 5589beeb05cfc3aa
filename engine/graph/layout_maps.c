/*
 * Layout assignment (layout.h): the gaps of maps, and maps that are parts of others.
 *
 * Maps that must lie alike (a convolution's residual and its output, a concatenation's inputs and
 * its output) form a class with one gap: the largest that a reader of one of them needs.
 */
#include "engine/graph/layout.h"

#include <string.h>

struct maps {
    struct layout *l;
    uint32_t *parents; /* by value: towards the one that stands for its class */
    unsigned *gaps;    /* by value that stands for a class */
    bool *movable;     /* by value: a node computes it when the model runs, and can anywhere */
};

static uint32_t class_of(const struct maps *m, uint32_t v)
{
    while (m->parents[v] != v) {
        m->parents[v] = m->parents[m->parents[v]];
        v = m->parents[v];
    }
    return v;
}

static void unite(const struct maps *m, uint32_t a, uint32_t b)
{
    m->parents[class_of(m, a)] = class_of(m, b);
}

static struct graph_value *value_at(const struct maps *m, uint32_t v)
{
    return &m->l->p->g->values[v];
}

/* Makes v a part of `whole`, unless it has its place there already or cannot have it. */
static void join(const struct maps *m, uint32_t v, uint32_t whole, uint32_t first_block)
{
    struct graph_value *part = value_at(m, v);
    if (part->whole != GRAPH_NONE || v == whole || !m->movable[v] || part->layout.lanes == 0)
        return;
    part->whole = whole;
    part->first_block = first_block;
    unite(m, v, whole);
}

/* Where the output of a concatenation lies when all its inputs already follow one another in some
 * other map (a longer concatenation of the same). */
static void find_whole(const struct maps *m, const struct layout_node *node, const uint32_t *blocks)
{
    const uint32_t out = node->node.out[0];
    const struct graph_value *first = value_at(m, node->node.in[0]);
    uint32_t next = first->first_block;
    if (first->whole == GRAPH_NONE || value_at(m, out)->whole != GRAPH_NONE)
        return;
    for (size_t i = 0; i < node->node.in_count; i++) {
        const struct graph_value *in = value_at(m, node->node.in[i]);
        if (in->whole != first->whole || in->first_block != next)
            return;
        next += blocks[node->node.in[i]];
    }
    join(m, out, first->whole, first->first_block);
}

/* Blocks of channels of the old value that v is the map of. */
static void count_blocks(const struct maps *m, uint32_t *blocks)
{
    const struct layout *l = m->l;
    for (uint32_t v = 0; v < l->p->count; v++) {
        const struct cvd_shape *shape = l->maps[v] != GRAPH_NONE ? pass_shape(l->p, v) : NULL;
        if (shape != NULL)
            blocks[l->maps[v]] = (uint32_t)((shape->dims[1] + l->lanes - 1) / l->lanes);
    }
}

/* The last concatenations come first, so that the longest of nested ones becomes the whole. */
static void join_parts(const struct maps *m, const uint32_t *blocks)
{
    const struct layout *l = m->l;
    for (uint32_t n = l->count; n-- > 0;) {
        const struct layout_node *node = &l->nodes[n];
        if (!node->joins)
            continue;
        find_whole(m, node, blocks);
        const uint32_t out = node->node.out[0];
        const struct graph_value *value = value_at(m, out);
        const uint32_t whole = value->whole != GRAPH_NONE ? value->whole : out;
        uint32_t next = value->whole != GRAPH_NONE ? value->first_block : 0;
        for (size_t i = 0; i < node->node.in_count; i++) {
            join(m, node->node.in[i], whole, next);
            next += blocks[node->node.in[i]];
        }
    }
}

/* What depends on constants alone is computed once, at load, and a constant is no part of what is
 * not. A residual and its output lie alike, from image to image as well. */
static void find_movable(const struct maps *m)
{
    const struct layout *l = m->l;
    for (uint32_t i = 0; i < l->p->g->input_count; i++)
        m->movable[l->p->g->inputs[i]] = true; /* or would be, if it were no plain one */
    for (uint32_t n = 0; n < l->count; n++) {
        const struct graph_node *node = &l->nodes[n].node;
        bool runs = false;
        for (size_t i = 0; i < node->in_count; i++)
            runs |= node->in[i] != GRAPH_NONE && m->movable[node->in[i]];
        for (size_t i = 0; i < node->out_count; i++) {
            if (node->out[i] != GRAPH_NONE)
                m->movable[node->out[i]] = runs;
        }
    }
    for (uint32_t n = 0; n < l->count; n++) {
        if (l->nodes[n].residual)
            m->movable[l->nodes[n].node.in[3]] = m->movable[l->nodes[n].node.out[0]] = false;
    }
}

static void set_gaps(const struct maps *m)
{
    const struct layout *l = m->l;
    for (uint32_t n = 0; n < l->count; n++) {
        const struct layout_node *node = &l->nodes[n];
        if (node->residual)
            unite(m, node->node.in[3], node->node.out[0]);
    }
    for (uint32_t n = 0; n < l->count; n++) {
        const struct layout_node *node = &l->nodes[n];
        if (node->gap == 0)
            continue;
        unsigned *gap = &m->gaps[class_of(m, node->node.in[0])];
        *gap = node->gap > *gap ? node->gap : *gap;
    }
}

enum cvd_status layout_set_maps(struct layout *l)
{
    const uint32_t count = l->p->g->value_count;
    struct maps m = {.l = l,
                     .parents = mem_alloc(count * sizeof(*m.parents)),
                     .gaps = mem_alloc(count * sizeof(*m.gaps)),
                     .movable = mem_alloc(count * sizeof(*m.movable))};
    uint32_t *blocks = mem_alloc(count * sizeof(*blocks)); /* of channels, by map */
    const bool done = m.parents != NULL && m.gaps != NULL && m.movable != NULL && blocks != NULL;
    for (uint32_t v = 0; v < count && done; v++) {
        m.parents[v] = v;
        m.gaps[v] = 0;
        m.movable[v] = false;
        blocks[v] = 0;
    }
    if (done) {
        find_movable(&m);
        count_blocks(&m, blocks);
        join_parts(&m, blocks);
        set_gaps(&m);
    }
    for (uint32_t v = 0; v < count && done; v++) {
        struct graph_value *value = value_at(&m, v);
        if (value->layout.lanes != 0)
            value->layout.gap = m.gaps[class_of(&m, v)];
        if (value->whole != GRAPH_NONE)
            value->layout.blocks = blocks[value->whole];
    }
    mem_free(m.parents);
    mem_free(m.gaps);
    mem_free(m.movable);
    mem_free(blocks);
    return done ? CVD_STATUS_OK : pass_no_memory(l->p);
}
