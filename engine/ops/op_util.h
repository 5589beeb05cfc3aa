/*
 * Small tools that every operator family shares: type sets, checked outputs, element counts and
 * splitting a flat range over the thread pool. Private to engine/ops.
 */
#ifndef CONVD_OPS_OP_UTIL_H
#define CONVD_OPS_OP_UTIL_H

#include "engine/ops/op.h"

/* Sets of element types. */
#define OP_TYPE(dtype) (1u << (dtype))
#define OP_FLOATS                                                                           \
    (OP_TYPE(CVD_DTYPE_FLOAT32) | OP_TYPE(CVD_DTYPE_FLOAT16) | OP_TYPE(CVD_DTYPE_FLOAT64) | \
     OP_TYPE(CVD_DTYPE_BFLOAT16))
#define OP_INTS                                                                      \
    (OP_TYPE(CVD_DTYPE_INT32) | OP_TYPE(CVD_DTYPE_INT64) | OP_TYPE(CVD_DTYPE_INT8) | \
     OP_TYPE(CVD_DTYPE_UINT8))
#define OP_ALL_TYPES (OP_FLOATS | OP_INTS | OP_TYPE(CVD_DTYPE_BOOL))

/* Value i of a node, NULL when it is absent. */
static inline const struct op_value *op_input(const struct op_node *node, size_t i)
{
    return i < node->in_count ? node->in[i] : NULL;
}

static inline const struct op_tensor *op_run_input(const struct op_run *r, size_t i)
{
    return i < r->in_count ? r->in[i] : NULL;
}

/* Input i must be there and its type in `supported`. UNSUPPORTED when the type is only in `legal`,
 * which is what ONNX allows; INVALID_MODEL otherwise. */
enum cvd_status op_check_type(const struct op_node *node, size_t i, unsigned supported,
                              unsigned legal);

/* Inputs i and 0 must have one type. */
enum cvd_status op_check_same_type(const struct op_node *node, size_t i);

/* Sets an output; fails when its size in bytes overflows. */
enum cvd_status op_set_output(const struct op_node *node, struct op_value *out,
                              enum cvd_dtype dtype, const struct cvd_shape *shape);

/* infer for operators whose only output looks like input 0. */
enum cvd_status op_infer_same(const struct op_node *node, struct op_value *out);

/* Elements of dims first … last - 1 of a shape that infer has seen. */
static inline size_t op_extent(const struct cvd_shape *shape, unsigned first, unsigned last)
{
    size_t n = 1;
    for (unsigned i = first; i < last; i++)
        n *= (size_t)shape->dims[i];
    return n;
}

static inline size_t op_elements(const struct cvd_shape *shape)
{
    return op_extent(shape, 0, shape->rank);
}

/* Elements of input i when it is a constant, else 0: what counts as a parameter. */
uint64_t op_parameters(const struct op_node *node, size_t i);

/* Allocates a state of `bytes` for prepare, not cleared; OUT_OF_MEMORY names the node. */
enum cvd_status op_state(const struct op_node *node, size_t bytes, struct op_prepared *prepared,
                         void *state_out);

/* Calls fn(ctx, begin, end) for ranges that cover 0 … count - 1 in order, in parallel: ranges of at
 * most `piece` items, which is work worth giving away, as many for each thread. */
typedef void (*op_range_fn)(void *ctx, size_t begin, size_t end);
void op_for_range(struct tpool *pool, size_t count, size_t piece, op_range_fn fn, void *ctx);

/* Elements of a piece where an element costs a few nanoseconds. */
#define OP_RANGE_CHEAP ((size_t)16384)

#endif
