/*
 * Layout assignment: which values of a graph are kept in blocks of channels (ops/blocked.h), and
 * the operators of "convd.blocked" that compute them.
 *
 * Nodes are taken in their topological order. One that has a form on blocked maps gets it as soon
 * as its input is a map already, or when it is a convolution, which is worth making one. A value is
 * reordered only where a node needs it in a layout that it does not have, and then once. Afterwards
 * (layout_maps.c) every map gets the gap that its readers need, and maps that a concatenation puts
 * together are computed where they belong.
 *
 * Private to engine/graph.
 */
#ifndef CONVD_GRAPH_LAYOUT_H
#define CONVD_GRAPH_LAYOUT_H

#include "engine/graph/passes.h"
#include "engine/ops/blocked_maps.h"

/* A node of the new graph. */
struct layout_node {
    struct graph_node node;
    unsigned gap;  /* that input 0 has to have at least */
    bool residual; /* input 3 lies like output 0 */
    bool joins;    /* its inputs follow one another in whole blocks of output 0 */
};

/* Where channels of a value come from. */
struct layout_channel {
    uint32_t value, channel;
};

struct layout {
    struct pass *p;
    unsigned lanes;
    struct layout_node *nodes;
    uint32_t count, room;
    /* By value of the old graph: */
    uint32_t *maps;                         /* the value that holds it as a map, or GRAPH_NONE */
    uint32_t *plains;                       /* the one that holds it plainly, or GRAPH_NONE */
    uint32_t *makers;                       /* the new node that computes the map, or GRAPH_NONE */
    const struct layout_channel **channels; /* of a value that only rearranges others; else NULL */
    bool *is_output;                        /* of the graph */
    uint32_t *places;                       /* for layout_channels.c alone */
};

/* What a node becomes. */
struct layout_choice {
    const char *op;
    const struct op_attr *attrs;
    size_t attr_count;
    uint32_t in[5]; /* the old values */
    size_t in_count;
    unsigned maps; /* bit i: input i is to be a map; the others that are not constant plain */
    bool map_out;
    unsigned gap;
    bool residual;
};

/* layout_ops.c: the operator for node n; false when there is none. */
bool layout_choose(const struct layout *l, uint32_t n, struct layout_choice *c);

/* layout_channels.c: takes node n when it rearranges channels. */
enum cvd_status layout_rearrange(struct layout *l, uint32_t n, bool *taken);

/* layout_affine.c: takes node n when it scales or shifts a map by constants. */
enum cvd_status layout_scale(struct layout *l, uint32_t n, bool *taken);

/* layout_maps.c: gaps, and parts of other maps. */
enum cvd_status layout_set_maps(struct layout *l);

/* ---- for these (pass_layout.c) ---- */

/* The old value v as a map or plainly; reorders it where necessary. */
enum cvd_status layout_want(struct layout *l, uint32_t v, bool map, uint32_t *out);

/* Appends a node; its number lists are copied. */
enum cvd_status layout_emit(struct layout *l, const struct layout_node *node);

/* Appends a node that computes the old value v, its only output, as a map. */
enum cvd_status layout_emit_map(struct layout *l, const struct layout_node *node, uint32_t v);

#endif
