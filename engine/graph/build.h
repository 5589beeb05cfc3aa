/*
 * The state of plan_build() while it turns a graph into a plan, and its stages in their order.
 *
 * Private to engine/graph.
 */
#ifndef CONVD_GRAPH_BUILD_H
#define CONVD_GRAPH_BUILD_H

#include "engine/graph/infer.h"
#include "engine/graph/plan.h"

/* What a graph's value is to the plan. */
enum build_kind {
    BUILD_UNDECIDED = 0,
    BUILD_RUNTIME,  /* computed for every batch */
    BUILD_CONSTANT, /* known, and the same for every batch */
    BUILD_VARYING   /* known, but depends on the batch size: fit only to have shaped other values */
};

struct build {
    struct graph *g;
    const struct kernels *kernels;
    struct tune *tune; /* NULL: nothing is timed */
    bool allow_nonfinite;
    struct cvd_error *err;
    struct infer inf;
    struct infer_pass one; /* for a batch of one, or for the only batch there is */
    struct infer_pass two, many;
    struct infer_budget budget; /* of folding, in all */
    bool free_batch;
    bool freed;            /* by pass_batch(); to be given up where the graph does not allow it */
    uint8_t *kinds;        /* by graph value: enum build_kind */
    bool *needed;          /* by graph value: read when the model runs */
    bool *is_live;         /* by node: neither folded nor dead */
    uint32_t *plan_values; /* by graph value: its number in the plan, or GRAPH_NONE */
    uint32_t *roots;       /* by plan value: the one whose memory it shares, often itself */
    uint32_t *step_nodes;  /* by step: its node, GRAPH_NONE for a copy */
    struct plan *plan;
};

/* Inputs: turns the caller's constants into initializers, and finds out whether the batch is free.
 * Then the shapes of all graph inputs for a batch. */
enum cvd_status build_bind_constants(struct build *b, const struct cvd_load_options *options);
enum cvd_status build_check_inputs(struct build *b, int64_t *fixed_batch);
void build_input_shapes(const struct build *b, int64_t batch, struct cvd_shape *shapes);

/* Turns the element types that convd does not compute with into float32, all over the graph; its
 * inputs and outputs keep theirs and get Casts, unless float32_edges says that they change too. */
enum cvd_status build_widen(struct build *b, bool float32_edges);

/* What is known of all values, for the batches that are looked at; and forgetting it again. */
enum cvd_status build_infer(struct build *b);
void build_forget(struct build *b);

/* Makes initializers of the constants that were found, which leave what was inferred. */
enum cvd_status build_fold(struct build *b);

/* Of a value that was inferred. */
enum build_kind build_kind_of(const struct build *b, uint32_t v);

/* Decides which nodes are live, and refuses what cannot run at every batch size. */
enum cvd_status build_select(struct build *b);

/* Whether a live node becomes a step; otherwise it is a view. */
bool build_runs(const struct build *b, uint32_t node);

/* Makes the plan's values and steps; graph outputs that no step can write in place get a copy. */
enum cvd_status build_emit(struct build *b);

/* Prepares every step and frees each constant as soon as nobody needs it any more. */
enum cvd_status build_prepare(struct build *b);

/* Gives every value its place; only buffers' offsets, which depend on the batch, are left open. */
enum cvd_status build_place(struct build *b);

/* Whether every step treats each image alone. */
bool build_is_batchwise(const struct plan *plan);

/* Whether output 0 comes out of a Softmax over the classes. */
bool build_ends_in_softmax(const struct build *b);

enum cvd_status build_no_memory(const struct build *b);

/* What folding may cost before the file's own size limits it. */
extern const struct infer_budget build_budget;

/* The step that build_emit() puts where an output has no step of its own. */
extern const struct op_def build_copy;

#endif
