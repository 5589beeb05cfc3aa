/*
 * The graph: what an ONNX file says, as flat arrays. Values are numbered, nodes name their inputs
 * and outputs by value number, and after graph_check() nodes stand in topological order.
 *
 * Strings, attributes and node arrays live in the graph's arena; tensors among the attributes are
 * aligned to MEM_ALIGN there. The data of initializers are separate aligned blocks, so that each
 * can be freed as soon as it has been packed.
 *
 * A graph may be used by one thread at a time.
 */
#ifndef CONVD_GRAPH_GRAPH_H
#define CONVD_GRAPH_GRAPH_H

#include "engine/ops/op.h"
#include "engine/runtime/mem.h"

#define GRAPH_NONE         UINT32_MAX /* an absent optional input or output */
#define GRAPH_MAX_NODES    200000u
#define GRAPH_MAX_VALUES   1000000u
#define GRAPH_MAX_OPSETS   64u
#define GRAPH_MAX_METADATA 4096u
#define GRAPH_MAX_ATTRS    64u /* of one node */

struct graph_value {
    const char *name;
    enum cvd_dtype dtype; /* NONE until known */
    bool has_shape;
    struct cvd_shape shape; /* as the file declares it; CVD_DIM_BATCH for a free extent */
    void *data;             /* initializers: mem_alloc()ed, owned by the graph, never NULL even when
                               there are no elements; else NULL */
    size_t bytes;
    /* Set by pass_layout(). */
    struct op_layout layout;
    uint32_t whole; /* the map that this one is a part of; GRAPH_NONE: it is a map of its own */
    uint32_t first_block; /* of the whole */
};

struct graph_node {
    const char *op, *domain, *name; /* name may be "" */
    const struct op_attr *attrs;
    size_t attr_count;
    const uint32_t *in; /* value numbers or GRAPH_NONE */
    size_t in_count;
    const uint32_t *out;
    size_t out_count;
    const char *label; /* for people, what was fused into it: "Conv+Relu"; NULL: just `op` */
};

struct graph_opset {
    const char *domain;
    int64_t version;
};

struct graph_property {
    const char *key, *value;
};

struct graph {
    struct mem_arena *arena;
    struct graph_value *values;
    uint32_t value_count, value_room;
    struct graph_node *nodes;
    uint32_t node_count, node_room;
    uint32_t *inputs; /* graph inputs that are not initializers */
    uint32_t input_count;
    uint32_t *outputs;
    uint32_t output_count;
    struct graph_opset *opsets;
    uint32_t opset_count;
    struct graph_property *metadata;
    uint32_t metadata_count;
    int64_t ir_version;
    const char *name, *producer;
};

/* An empty graph in *g; OUT_OF_MEMORY is the only failure. */
enum cvd_status graph_init(struct graph *g, struct cvd_error *err);
void graph_release(struct graph *g); /* frees everything the graph owns; *g may be zeroed memory */

/* Appends. The value's name is copied; it may be NULL for a value nobody refers to by name. */
enum cvd_status graph_add_value(struct graph *g, const char *name, uint32_t *out,
                                struct cvd_error *err);

/* Appends a value that holds a copy of `data` (NULL: uninitialised, to be filled by the caller). */
enum cvd_status graph_add_initializer(struct graph *g, const char *name, enum cvd_dtype dtype,
                                      const struct cvd_shape *shape, const void *data,
                                      uint32_t *out, struct cvd_error *err);

/* Appends a node; strings, attributes (deeply) and value numbers are copied into the arena. */
enum cvd_status graph_add_node(struct graph *g, const struct graph_node *node,
                               struct cvd_error *err);

/* Appends a node everything of which is in the graph's arena already. */
enum cvd_status graph_adopt_node(struct graph *g, const struct graph_node *node,
                                 struct cvd_error *err);

enum cvd_status graph_add_input(struct graph *g, uint32_t value, struct cvd_error *err);
enum cvd_status graph_add_output(struct graph *g, uint32_t value, struct cvd_error *err);
enum cvd_status graph_add_opset(struct graph *g, const char *domain, int64_t version,
                                struct cvd_error *err);
enum cvd_status graph_add_metadata(struct graph *g, const char *key, const char *value,
                                   struct cvd_error *err);

/* Checks the structure: every value is defined at most once, as a graph input, an initializer or
 * the output of one node; what nodes and graph outputs refer to is defined; no cycle; at least one
 * output, none twice. Sorts nodes topologically, in linear time; those that stand in a legal order
 * stay where they are. */
enum cvd_status graph_check(struct graph *g, struct cvd_error *err);

/* The imported version of a domain; 0 when it is not imported. */
int64_t graph_opset(const struct graph *g, const char *domain);

/* A node for people, "Conv 'stem'" or "Conv (node 12)" when it has no name; returns text. */
#define GRAPH_NODE_TEXT_BYTES 160
char *graph_node_text(const struct graph_node *node, uint32_t index,
                      char text[GRAPH_NODE_TEXT_BYTES]);

#endif
