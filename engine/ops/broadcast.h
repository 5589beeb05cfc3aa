/*
 * NumPy broadcasting at run time: walks an output in row-major order in pieces that are contiguous
 * in the output and advance by a constant step (0 or more) in every input.
 */
#ifndef CONVD_OPS_BROADCAST_H
#define CONVD_OPS_BROADCAST_H

#include "engine/ops/op.h"

#define BROADCAST_MAX_INPUTS 3

struct broadcast {
    unsigned rank; /* at least 1; dimensions that can be walked as one are merged */
    unsigned inputs;
    size_t elements;
    size_t extent[CVD_MAX_RANK];
    size_t stride[BROADCAST_MAX_INPUTS][CVD_MAX_RANK]; /* in elements; 0 where repeated */
};

/* The inputs' shapes must be broadcastable to `out`. */
void broadcast_init(struct broadcast *b, const struct cvd_shape *out,
                    const struct cvd_shape *const *in, unsigned inputs);

/* One piece: n outputs from element `out` on; input i begins at element in[i], step[i] apart. */
struct broadcast_piece {
    size_t n, out;
    size_t in[BROADCAST_MAX_INPUTS], step[BROADCAST_MAX_INPUTS];
};
typedef void (*broadcast_fn)(void *ctx, const struct broadcast_piece *piece);

/* Calls fn for pieces that cover the output, in parallel. */
void broadcast_for(const struct broadcast *b, struct tpool *pool, broadcast_fn fn, void *ctx);

/* Before operator set 7, input 1 of a binary operator stands at a dimension of input 0. */
struct broadcast_align {
    bool aligned;
    unsigned axis; /* input 0's dimension under input 1's first one */
};

/* Reads the attributes `broadcast` and `axis` of those operator sets: input 1 must look like input
 * 0, unless broadcast is set; then it may be one element or a run of input 0's dimensions, from
 * axis on or at the end. */
enum cvd_status broadcast_read_legacy(const struct op_node *node, struct broadcast_align *out);

/* b as NumPy has to see it under a. */
struct cvd_shape broadcast_aligned(const struct broadcast_align *align, const struct cvd_shape *a,
                                   const struct cvd_shape *b);

#endif
