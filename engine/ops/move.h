/*
 * Moving elements of any size without looking at them: a dense output whose element at (i0, i1, …)
 * is the input's at i0 * stride0 + i1 * stride1 + …. Strides may be 0 (repeat) and negative
 * (backwards). Transposing, slicing, repeating and cutting into blocks are all of this form.
 */
#ifndef CONVD_OPS_MOVE_H
#define CONVD_OPS_MOVE_H

#include "engine/ops/op.h"

#define MOVE_MAX_RANK (2 * CVD_MAX_RANK)

struct move {
    size_t bytes;   /* of an element: 1, 2, 4 or 8 */
    const void *in; /* the element that output 0 comes from */
    void *out;
    unsigned rank;
    size_t extent[MOVE_MAX_RANK]; /* of the output */
    ptrdiff_t stride[MOVE_MAX_RANK];
};

/* Adds a dimension inside those there are. */
void move_add(struct move *m, size_t extent, ptrdiff_t stride);

/* Moves everything, in parallel. */
void move_run(const struct move *m, struct tpool *pool);

/* n copies of one element. */
void move_fill(void *out, const void *element, size_t bytes, size_t n);

#endif
