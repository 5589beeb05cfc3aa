/*
 * What an operator is: one row of a table that says which ONNX operator and versions it implements
 * and how to check, prepare and run it. One operator family a file; op_table.c lists the families.
 *
 * Life of a node:
 *   infer    at load, once for each batch size looked at (1 and 2): checks every attribute, type
 *            and shape and gives the outputs' types and shapes. All "invalid" and "unsupported"
 *            verdicts fall here.
 *   prepare  at load, once: turns attributes and constant inputs into an immutable state (packed
 *            weights, chosen kernel). Can only fail for want of memory.
 *   run      at run time: computes the outputs. Allocates nothing, cannot fail.
 *
 * Operators see values by position; an absent optional input is NULL. They know nothing of graphs,
 * files or plans.
 */
#ifndef CONVD_OPS_OP_H
#define CONVD_OPS_OP_H

#include <convd/status.h>
#include <convd/tensor.h>

#include "engine/kernels/kernels.h"
#include "engine/runtime/mem.h"
#include "engine/runtime/tpool.h"

#define OP_MAX_INPUTS  4096
#define OP_MAX_OUTPUTS 256

/* Attribute kinds; the numbers are those of ONNX AttributeProto.AttributeType. */
enum op_attr_type {
    OP_ATTR_FLOAT = 1,
    OP_ATTR_INT = 2,
    OP_ATTR_STRING = 3,
    OP_ATTR_TENSOR = 4,
    OP_ATTR_FLOATS = 6,
    OP_ATTR_INTS = 7,
    OP_ATTR_STRINGS = 8
};

/*
 * How the elements of a [N, C, H, W] value lie in memory. Plain (lanes 0): one after the other, as
 * ONNX has it. Otherwise in blocks of `lanes` channels with `gap` zeros between rows, see
 * blocked.h; only operators of the domain "convd.blocked" know such values.
 */
struct op_layout {
    unsigned lanes;
    unsigned gap;    /* pixels */
    unsigned blocks; /* of the map that this one is a part of; 0: it is a map of its own */
};

/* A typed array. data is aligned to MEM_ALIGN when it holds weights. */
struct op_tensor {
    enum cvd_dtype dtype;
    struct cvd_shape shape;
    const void *data;
    struct op_layout layout;
};

struct op_attr {
    const char *name;
    enum op_attr_type type;
    int64_t i;
    float f;
    const char *s; /* STRING: terminated */
    size_t count;  /* FLOATS, INTS, STRINGS */
    const int64_t *ints;
    const float *floats;
    const char *const *strings;
    struct op_tensor tensor;
};

/* A value as infer and prepare see it; data is non-NULL when it is known at load. */
struct op_value {
    enum cvd_dtype dtype;
    struct cvd_shape shape; /* concrete: no free extents */
    const void *data;
    struct op_layout layout; /* infer knows nothing of it; set before prepare */
};

/* A node with its inputs, as infer and prepare see it. */
struct op_node {
    const struct op_def *def;
    const char *name; /* for messages: "Conv 'layer1/conv'" */
    int opset;        /* version of the operator's domain that the file imports */
    const struct op_attr *attrs;
    size_t attr_count;
    const struct op_value *const *in;
    size_t in_count;
    size_t out_count;
    struct cvd_error *err;
};

/* What prepare produces. `state` is the operator's own and goes to run: one block from `memory`,
 * which the caller sets, or NULL for one from mem_alloc(), which the caller frees. */
struct op_prepared {
    struct mem_arena *memory;
    void *state;
    size_t state_bytes;   /* packed weights and tables, for the books */
    size_t scratch_bytes; /* per slot, for a batch of one */
    const char *kernel;   /* name of the chosen kernel; "-" costs nothing */
    uint64_t parameters;
    uint64_t macs;             /* for a batch of one */
    uint64_t dense_parameters; /* see struct cvd_layer_info */
    uint64_t inputs_consumed;  /* bit i: input i is a constant that run does not read (it was packed
                                  into state); its data may be freed */
    bool mixes_images;         /* see OP_BATCHWISE */
};

/* What run gets. Tensors carry the concrete shapes of this batch. */
struct op_run {
    const void *state;
    const struct kernels *kernels;
    struct tpool *pool;                /* NULL: this thread only */
    const struct op_tensor *const *in; /* NULL where absent */
    size_t in_count;
    struct op_output {
        enum cvd_dtype dtype;
        struct cvd_shape shape;
        void *data; /* NULL: nobody reads it */
        struct op_layout layout;
    } * out;
    size_t out_count;
    void *scratch; /* scratch_stride bytes for each slot */
    size_t scratch_stride;
};

enum op_flags {
    OP_VIEW = 1,    /* output 0 has the elements of input 0 unchanged and shares its memory; run, if
                       there is one, is for the other outputs and sees output 0 without data */
    OP_INPLACE = 2, /* run may write output 0 over input 0 when types and shapes agree */
    OP_BATCHWISE = 4, /* with the images in dimension 0 of every input that varies with the batch
                         and of the outputs, each image's output depends on that image alone; where
                         an attribute can break that (Softmax over axis 0), prepare says so in
                         mixes_images. The plan checks the shapes. */
    OP_SHAPE_ONLY = 8 /* run reads the shapes of its inputs, not their data, which may be NULL
                         (Shape, Size): always known at load */
};

struct op_def {
    const char *domain; /* "" is ONNX's own */
    const char *name;
    int since, until; /* opset versions of the domain it covers; until 0 = no end */
    unsigned flags;
    size_t min_inputs, max_inputs;
    size_t min_outputs, max_outputs;
    /* out[0 … node->out_count - 1]: dtype and shape are to be set; data may be set to a value known
     * at load only by folding, never here. */
    enum cvd_status (*infer)(const struct op_node *node, struct op_value *out);
    enum cvd_status (*prepare)(const struct op_node *node, const struct op_value *out,
                               const struct kernels *kernels, struct op_prepared *prepared);
    void (*run)(const struct op_run *r); /* may be NULL for an OP_VIEW */
};

/* The definition that covers `opset`. NULL when there is none; *known then says whether the
 * operator exists in some other version here (for the message). */
const struct op_def *op_find(const char *domain, const char *name, int opset, bool *known);

/* Families; each array ends with a row whose name is NULL. */
extern const struct op_def ops_conv[];
extern const struct op_def ops_pool[];
extern const struct op_def ops_global_pool[];
extern const struct op_def ops_activation[];
extern const struct op_def ops_clip[];
extern const struct op_def ops_softmax[];
extern const struct op_def ops_matmul[];
extern const struct op_def ops_arith[];
extern const struct op_def ops_pow[];
extern const struct op_def ops_norm[];
extern const struct op_def ops_shape[];
extern const struct op_def ops_constant[];
extern const struct op_def ops_layout[];
extern const struct op_def ops_cast[];
extern const struct op_def ops_fused[];
extern const struct op_def ops_slice[];
extern const struct op_def ops_repeat[];
extern const struct op_def ops_depth[];
extern const struct op_def ops_pad[];
extern const struct op_def ops_gather[];
extern const struct op_def ops_fill[];
extern const struct op_def ops_reduce[];
extern const struct op_def ops_order[];
extern const struct op_def ops_compare[];
extern const struct op_def ops_where[];
extern const struct op_def ops_normalize[];
extern const struct op_def ops_lrn[];
extern const struct op_def ops_layer_norm[];
extern const struct op_def ops_blocked_conv[];
extern const struct op_def ops_blocked_winograd[];
extern const struct op_def ops_blocked_depthwise[];
extern const struct op_def ops_blocked_pool[];
extern const struct op_def ops_blocked_elementwise[];
extern const struct op_def ops_blocked_channels[];
extern const struct op_def ops_blocked_norm[];
extern const struct op_def ops_blocked_dense[];
extern const struct op_def ops_blocked_reorder[];

/* ---- attributes: each returns INVALID_MODEL for a wrong type ---- */
const struct op_attr *op_attr_find(const struct op_node *node, const char *name);
enum cvd_status op_attr_int(const struct op_node *node, const char *name, int64_t fallback,
                            int64_t *out);
enum cvd_status op_attr_float(const struct op_node *node, const char *name, float fallback,
                              float *out);
enum cvd_status op_attr_string(const struct op_node *node, const char *name, const char *fallback,
                               const char **out);
/* *ints is NULL and *count 0 when absent. */
enum cvd_status op_attr_ints(const struct op_node *node, const char *name, const int64_t **ints,
                             size_t *count);

/* Fails with `status` and "Conv 'name': " before the formatted text. */
enum cvd_status op_fail(const struct op_node *node, enum cvd_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- shapes ---- */
/* NumPy broadcasting of a and b (ONNX "Broadcasting"). */
bool op_broadcast(const struct cvd_shape *a, const struct cvd_shape *b, struct cvd_shape *out);
/* axis in -rank … rank - 1 made non-negative. */
bool op_axis(int64_t axis, unsigned rank, unsigned *out);
/* Reads a known 1-D int64 (or int32) value, such as a shape input, of at most `max` elements. */
enum cvd_status op_value_ints(const struct op_node *node, size_t input, int64_t *out, size_t max,
                              size_t *count);

#endif
