/*
 * Rewrites of a graph on its way to a plan: each pass replaces nodes by fewer or cheaper ones that
 * compute the same.
 *
 * Before them shapes have been inferred and everything constant has become an initializer. What
 * makes passes simple is one rule: a value's number never changes its meaning. A pass may let
 * another node compute a value, or nobody when nothing reads it any more; what was inferred for it
 * stays true. New numbers (folded weights) get new values.
 *
 * A pass goes once through the nodes, which stand in topological order, and looks from each node
 * back to those that made its inputs; so all of them take linear time. Nodes that have become
 * useless are left where they are: sweeping them away is not a pass's business.
 *
 * Private to engine/graph.
 */
#ifndef CONVD_GRAPH_PASSES_H
#define CONVD_GRAPH_PASSES_H

#include "engine/graph/infer.h"
#include "engine/ops/fused.h"

struct build;
struct tune;

struct pass {
    struct graph *g;
    const struct kernels *kernels;
    struct tune *tune;                /* NULL: nothing is timed */
    const struct op_value *one, *two; /* types and shapes for one image and for two, by value; two
                                         is NULL where the batch is fixed; data mean nothing */
    uint32_t known;                   /* values that they cover */
    uint32_t count;                   /* values that these cover: */
    uint32_t *makers;                 /* the node that computes it, or GRAPH_NONE */
    uint32_t *uses;                   /* how many nodes' inputs and graph outputs it is */
    bool unsorted;                    /* nodes were added: sort them afterwards */
    bool stale;                       /* values were added that later passes want to know about */
    struct infer_budget *budget;      /* what passes may compute is what folding has left */
    struct cvd_error *err;
};

typedef enum cvd_status (*pass_fn)(struct pass *p);

enum cvd_status pass_attributes(struct pass *p); /* that a file cannot mean */
enum cvd_status pass_batch(struct pass *p);      /* frees a batch that the file fixes to one */
enum cvd_status pass_identity(struct pass *p);   /* nodes that change nothing */
enum cvd_status pass_norm(struct pass *p);       /* layer norms, also those that are spelt out */
enum cvd_status pass_mean(struct pass *p);       /* ReduceMean over a plane */
enum cvd_status pass_pad(struct pass *p);        /* Pad before Conv and pooling */
enum cvd_status pass_function(struct pass *p);   /* activations that are spelt out */
enum cvd_status pass_transpose(struct pass *p);  /* what computes with the channels last */
enum cvd_status pass_affine(struct pass *p);     /* batch norm, scales and shifts after Conv, … */
enum cvd_status pass_residual(struct pass *p);   /* Add after Conv */
enum cvd_status pass_activation(struct pass *p); /* activations after Conv, Gemm, MatMul, Add */
enum cvd_status pass_layout(struct pass *p);     /* maps in blocks of channels (layout.h) */

/* All of them, in the order in which they are applied, and all but the last, which speak of what is
 * computed and not of how; each ends with NULL. */
extern const pass_fn passes_all[], passes_rewrite[];

/* Infers shapes, folds constants and applies the passes of a list that ends with NULL. */
enum cvd_status passes_apply(struct build *b, const pass_fn *list);

/* ---- for passes ---- */

enum cvd_status pass_no_memory(const struct pass *p);

/* The node at that place, when it is ONNX's operator `op`. NULL otherwise. */
const struct graph_node *pass_node(const struct pass *p, uint32_t n, const char *op);

/* The place of the node that computes v, when nothing else reads v; else GRAPH_NONE. */
uint32_t pass_sole_maker(const struct pass *p, uint32_t v);

/* Input i of a node; GRAPH_NONE when it is absent. */
uint32_t pass_input(const struct graph_node *node, size_t i);

const struct op_attr *pass_attr(const struct graph_node *node, const char *name);
int64_t pass_int(const struct graph_node *node, const char *name, int64_t fallback);
float pass_float(const struct graph_node *node, const char *name, float fallback);

/* The value, when it is a float32 initializer; NULL otherwise. */
const float *pass_floats(const struct pass *p, uint32_t v, size_t *count);
/* Its only element. */
bool pass_number(const struct pass *p, uint32_t v, float *out);
/* The elements of an int64 or int32 initializer of one dimension or none, at most `max`. */
bool pass_ints(const struct pass *p, uint32_t v, int64_t *out, size_t max, size_t *count);

/* The dimensions that a reduction runs over, as they are given: at most CVD_MAX_RANK. */
bool pass_axes(const struct pass *p, const struct graph_node *node, int64_t axes[CVD_MAX_RANK],
               size_t *count);

/* The shape for one image; NULL when it is not known, as that of a value which the pass itself has
 * added. */
const struct cvd_shape *pass_shape(const struct pass *p, uint32_t v);
/* Whether it is known to be float32. */
bool pass_is_float(const struct pass *p, uint32_t v);
/* Whether both are known to have one type and, for every batch, one shape. */
bool pass_alike(const struct pass *p, uint32_t a, uint32_t b);

/* Attributes with some set: those of the same names are replaced. NULL without memory. */
const struct op_attr *pass_attrs(const struct pass *p, const struct graph_node *node,
                                 const struct op_attr *set, size_t set_count, size_t *count);

/* "Conv+Relu": what the node is called, and what now follows. NULL without memory. */
const char *pass_label(const struct pass *p, const struct graph_node *node, const char *more);

/* Puts a node in the place of another; number lists are copied. Both may have the same inputs. */
enum cvd_status pass_replace(struct pass *p, uint32_t n, const struct graph_node *node);

/* Removes a node whose outputs nobody reads any longer. */
void pass_remove(struct pass *p, uint32_t n);

/* The activation that node n is; false when it is none. */
bool pass_read_activation(const struct pass *p, uint32_t n, struct activation *a);

/* Lets the graph use one of convd's own domains. */
enum cvd_status pass_use_domain(struct pass *p, const char *domain, int64_t version);

#endif
