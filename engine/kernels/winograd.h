/*
 * Winograd's minimal filtering of 3 x 3 convolutions with stride 1 on blocked maps (conv.h): the
 * steps before and after the matrix products.
 *
 * An output map is cut into tiles of m x m pixels, m = 4 or 2; each is computed from the
 * e = m + 2 squared inputs around it. With the one-dimensional transforms B (e x e), G (e x 3) and
 * A (m x e) of winograd.inc, a tile d and a filter g
 *
 *     output = A ((G g G') * (B d B')) A'
 *
 * where * multiplies e * e elements one by one and is summed over input channels: for each of the
 * e * e elements a matrix product of inputs (tile x channel) and filters (channel x filter), laid
 * out like a 1 x 1 convolution on a blocked map whose pixels are tiles. F(4x4, 3x3) needs 4 times,
 * F(2x2, 3x3) 2.25 times fewer multiplications than the direct sum. Its rounding errors are larger:
 * about 5e-7 of the largest output for m = 2, 2e-6 for m = 4 (root mean square, 512 channels).
 *
 * Tiles are numbered row by row; an image's height and width are those of the output.
 */
#ifndef CONVD_KERNELS_WINOGRAD_H
#define CONVD_KERNELS_WINOGRAD_H

#include "engine/kernels/act.h"

#include <stddef.h>

#define KERNEL_WINOGRAD_MAX_ELEMENTS 36
#define KERNEL_WINOGRAD_MAX_VECTORS  4

/*
 * Element i * e + j of B d B' of tile t (counted from first_tile), block b goes to
 * out + (i * e + j) * out_element + b * out_block + t * lanes. Inputs outside the map are zeros and
 * are not read, but for at most `gap` pixels on either side of a row.
 */
struct kernel_winograd_input {
    const float *in; /* pixel (0, 0) of block 0 */
    size_t height, width, gap;
    size_t in_row, in_block;
    size_t pad_top, pad_left;
    size_t tiles_across, first_tile, tiles;
    size_t blocks;
    float *out;
    size_t out_element, out_block;
};

/*
 * The products of one group of output channels: for each element x and tile t
 *
 *   out[x * out_element + v * out_block + t * lanes + lane]
 *       = sum over channels i of in[x * in_element + i / lanes * in_block + t * lanes + i % lanes]
 *                                * weights[((x * channels + i) * vectors + v) * lanes + lane]
 *
 * with channels in ascending order. With `prefetch`, weights are brought into the second-level
 * cache one element ahead, up to one element beyond the last.
 */
struct kernel_winograd_product {
    const float *in;
    size_t in_element, in_block;
    const float *weights;
    float *out;
    size_t out_element, out_block;
    size_t elements, channels, tiles;
    size_t vectors; /* 1 … KERNEL_WINOGRAD_MAX_VECTORS */
};

/*
 * The way back for blocks of output channels: `in` is laid out like the `out` above; the part of a
 * tile that lies in the map gets + bias, + residual, then the activation.
 */
struct kernel_winograd_output {
    const float *in;
    size_t in_element, in_block;
    const float *bias;     /* blocks * lanes */
    const float *residual; /* laid out like out; NULL: none */
    float *out;            /* pixel (0, 0) of block 0 */
    size_t height, width;
    size_t out_row, out_block;
    size_t tiles_across, first_tile, tiles;
    size_t blocks;
    struct kernel_act act;
};

typedef void (*kernel_winograd_input_fn)(const struct kernel_winograd_input *w);
typedef void (*kernel_winograd_product_fn)(const struct kernel_winograd_product *w);
typedef void (*kernel_winograd_output_fn)(const struct kernel_winograd_output *w);

#endif
