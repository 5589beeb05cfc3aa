/*
 * Convolution on blocked maps, and everything that is the same loop: rows of outputs, each the sum
 * of products of inputs (one number, broadcast) with weights (vectors of output channels).
 *
 * A blocked map has `lanes` channels side by side: pixel (y, x) of block b is the `lanes` floats at
 * ((b * height + y) * (width + gap) + x) * lanes. The `gap` pixels behind each row, and those
 * before the first, are zero.
 */
#ifndef CONVD_KERNELS_CONV_H
#define CONVD_KERNELS_CONV_H

#include "engine/kernels/act.h"

#include <stddef.h>

#define KERNEL_CONV_MAX_VECTORS 4
#define KERNEL_CONV_MAX_PIXELS  16

/*
 * One call computes `pixels` outputs, one after another along a row, of vectors * lanes channels.
 * Output p, channel o:
 *
 *   sum = bias[o]                                    (or what `out` holds, when bias is NULL)
 *   for each block b, row r < rows, column c < columns, i < inner, while b * inner + i < total:
 *       sum += in[p * in_pixel + b * in_block + r * in_row + c * in_column + i * in_inner]
 *              * w[...][o]
 *   sum += residual (when there is one), then the activation
 *
 * in that order and in float32, with fused multiply-adds where the level has them, whatever the
 * tiles. So cutting a row into several calls changes no bit, and neither does cutting a sum by
 * blocks: bias in the first call only, residual and activation in the last.
 *
 * Weights stand in the order in which they are used: a block has weight_rows * columns *
 * min(inner, what is left of total) steps of vectors * lanes floats, of which the call uses rows
 * first_row ... first_row + rows - 1. `in` is the input under row first_row. With rows = 0 there is
 * nothing to sum.
 *
 * All strides are in floats. Nothing but the named elements is read or written, and no alignment is
 * asked for (aligned to whole vectors is faster). A blocked map's convolution has inner = lanes,
 * in_inner = 1, in_pixel = stride * lanes; a plain map's inner = kernel width and a block for each
 * channel; a dense layer inner = total and an image for each pixel.
 */
struct kernel_conv {
    const float *in, *weights;
    const float *bias;     /* vectors * lanes; NULL: continue from out */
    const float *residual; /* laid out like out; NULL: none */
    float *out;
    size_t pixels;  /* at least 1 */
    size_t vectors; /* 1 ... KERNEL_CONV_MAX_VECTORS */
    size_t in_pixel, in_inner, in_column, in_row, in_block;
    size_t total, inner, columns, rows, first_row, weight_rows;
    size_t out_pixel, out_vector; /* between neighbours along the row; between vectors */
    /* Where the row of outputs is bent: the first output is number out_x of a row of `width`, after
     * which out_skip floats are left out. No bends: width = SIZE_MAX. */
    size_t out_x, width, out_skip;
    size_t last_lanes; /* of the last vector that exist in out and residual: 1 ... lanes */
    struct kernel_act act;
    /* Memory that will be needed soon, such as the next weights, is brought into the second-level
     * cache on the way: `prefetches` times after each column of a whole block, at `prefetch`, which
     * then advances by prefetch_step bytes. */
    const char *prefetch;
    size_t prefetches, prefetch_step;
};

typedef void (*kernel_conv_fn)(const struct kernel_conv *c);

/*
 * A block of outputs of a convolution in groups, each lane with inputs of its own: `blocks` blocks
 * of inputs, of which outputs see those lanes that share their group of `group` lanes (a divisor of
 * `lanes`). A call computes out_rows rows of `pixels` outputs that see equally many rows of inputs.
 * Output (y, p), lane o, with first = o / group * group:
 *
 *   sum = bias[o]
 *   for each block b, step s = 1 ... group, with lane i = first + (o + s) % group:
 *       for each row r < rows, column c < columns:
 *           sum += in[y * in_step + p * in_pixel + b * in_block + r * in_row + c * in_column + i]
 *                  * w[...][i]
 *   sum += residual (when there is one), then the activation
 *
 * so that its own lane comes last. Weights are [blocks][group][weight_rows][columns][lanes], those
 * to output o in lane i; the call uses rows first_row ... first_row + rows - 1, and `in` is the
 * input under row first_row of the first output. Otherwise like kernel_conv.
 */
struct kernel_grouped {
    const float *in, *weights;
    const float *bias;     /* lanes */
    const float *residual; /* laid out like out; NULL: none */
    float *out;
    size_t pixels, out_rows, out_row; /* pixels of a row, rows, floats from one to the next */
    size_t group, blocks;
    size_t in_step, in_pixel, in_column, in_row, in_block;
    size_t columns, rows, first_row, weight_rows;
    struct kernel_act act;
};

typedef void (*kernel_grouped_fn)(const struct kernel_grouped *c);

#endif
