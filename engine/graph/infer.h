/*
 * What is known of a graph's values at load: types and shapes for one batch size, and the elements
 * of those that do not depend on the images. A node all of whose inputs are known is run at once
 * ("folded"), so that chains such as Shape, Gather, Concat, Reshape leave nothing behind.
 *
 * Private to engine/graph.
 */
#ifndef CONVD_GRAPH_INFER_H
#define CONVD_GRAPH_INFER_H

#include "engine/graph/graph.h"

#define INFER_NO_BLOCK UINT32_MAX

/* Memory that holds known elements: an initializer's, or the result of folding. Views share one. */
struct infer_block {
    void *data;
    size_t bytes;
    uint32_t uses; /* the plan's books: steps that are still to be prepared with it … */
    bool kept;     /* … and whether one of those before reads it when it runs */
    bool checked;  /* its numbers are finite */
};

/* What folding may still cost. A file can ask for any amount of memory and arithmetic; what goes
 * beyond is left to be computed when the model runs. */
struct infer_budget {
    size_t bytes;  /* of results */
    uint64_t work; /* elements read and written, and multiply-adds */
};

/* All values, for one batch size. */
struct infer_pass {
    int64_t batch;
    struct op_value *values; /* by graph value; dtype NONE where nobody needs it */
    uint32_t *blocks;        /* by graph value: what holds its elements, or INFER_NO_BLOCK */
};

struct infer {
    const struct graph *g;
    const struct kernels *kernels;
    const struct op_def **defs; /* by node; NULL: no graph output needs the node */
    int *opsets;                /* by node */
    bool *fixed;                /* by graph value: known, and the same for every batch */
    struct infer_block *blocks;
    uint32_t block_count, block_room;
    struct infer_budget budget;
    /* Room for the inputs and outputs of one node. */
    const struct op_value **in;
    struct op_value *out;
    struct op_tensor *run_in;
    const struct op_tensor **run_in_list;
    struct op_output *run_out;
};

/* Finds the operators of all nodes that the graph's outputs need and checks how they are connected.
 * The graph's initializers become blocks. Folding may take as much memory as they suggest and no
 * more than the budget. *inf may be released even when this fails. */
enum cvd_status infer_init(struct infer *inf, struct graph *g, const struct kernels *kernels,
                           const struct infer_budget *budget, struct cvd_error *err);
void infer_release(struct infer *inf);

/* Fills *pass, given the shapes of the graph's inputs for that batch size. `first` is an earlier
 * pass whose results are shared where they are the same for every batch; NULL in the first one. */
enum cvd_status infer_run(struct infer *inf, int64_t batch, const struct cvd_shape *inputs,
                          const struct infer_pass *first, struct infer_pass *pass,
                          struct cvd_error *err);
void infer_pass_release(struct infer_pass *pass);

/* The name of a value or of a node for people: never NULL, "" when there is none. */
const char *infer_value_name(const struct graph *g, uint32_t value);
const char *infer_node_name(const struct graph *g, uint32_t node);

#endif
