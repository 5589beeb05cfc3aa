/*
 * Matrix products on the kernel table's GEMM tile: C = A * B, in batches, of any strides.
 *
 * Both factors are packed into the tile's layout: B once when it is constant, else (like A) piece
 * by piece while the product is computed. Sums run over k in ascending order for every element,
 * whatever the tile, the batch and the number of threads.
 */
#ifndef CONVD_OPS_PRODUCT_H
#define CONVD_OPS_PRODUCT_H

#include "engine/ops/op.h"

/* A matrix: element (i, j) is at data[i * row + j * column]. */
struct product_matrix {
    const float *data;
    size_t row, column;
};

struct product {
    size_t m, n, k;
    struct product_matrix a, b;
    const float *b_packed; /* by product_pack(), else NULL; b is then not read */
    float *c;              /* rows of n elements, one after another */

    /* Batches: matrix of A, B (in elements, or in matrices when packed) for an index. NULL when
     * there is only one. */
    size_t batches;
    void (*locate)(const void *ctx, size_t batch, size_t *a_offset, size_t *b_offset);
    const void *locate_ctx;

    /* Called for every finished piece of C with the slot's thread; NULL: nothing. */
    void (*finish)(const void *ctx, float *c, size_t row, size_t rows, size_t column,
                   size_t columns);
    const void *finish_ctx;
};

/* Elements of one packed k x n matrix; false when it overflows. */
bool product_packed_elements(const struct kernels *kernels, size_t k, size_t n, size_t *out);
void product_pack(const struct kernels *kernels, const struct product_matrix *b, size_t k, size_t n,
                  float *packed);

/* Scratch for each slot. */
size_t product_scratch_bytes(const struct kernels *kernels);

void product_run(const struct product *p, const struct op_run *r);

#endif
