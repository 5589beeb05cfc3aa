/*
 * Kernels on plain maps (rows of numbers, one map a channel), for what a blocked map (conv.h) does
 * badly: layers of few channels, which are vectorised along the row instead; and the way from the
 * one layout to the other.
 */
#ifndef CONVD_KERNELS_PLAIN_H
#define CONVD_KERNELS_PLAIN_H

#include "engine/kernels/act.h"

#include <stddef.h>

#define KERNEL_PLANES_MAX_MAPS 8

/*
 * Convolution with stride 1 along the row. Output map o, row y, column x:
 *
 *   sum = bias[o]
 *   for each channel i, row r and column c of the window:
 *       sum += in[y * in_row + x + i * in_channel + r * in_tap_row + c * in_tap_column]
 *              * weights[i][r][c][o]
 *   then the activation
 *
 * in that order. Of each row of inputs up to lanes - 1 floats beyond the last one named are read.
 */
struct kernel_planes {
    const float *in, *weights, *bias;
    float *out;
    size_t maps; /* 1 ... KERNEL_PLANES_MAX_MAPS */
    size_t rows, columns;
    size_t channels, window_rows, window_columns;
    size_t in_row, in_channel, in_tap_row, in_tap_column;
    size_t out_row, out_map;
    struct kernel_act act;
};
typedef void (*kernel_planes_fn)(const struct kernel_planes *p);

/* The maximum of each 2 x 2 inputs, for `rows` rows of `columns` outputs, which follow each other;
 * the inputs' rows are in_row apart. A NaN gives a NaN. */
typedef void (*kernel_planes_pool_fn)(const float *in, size_t in_row, float *out, size_t rows,
                                      size_t columns);

/* out[p * lanes + i] = in[i * in_channel + p] for pixels p < pixels and channels i < channels <=
 * lanes; the lanes beyond them become zero. */
typedef void (*kernel_block_fn)(const float *in, size_t in_channel, size_t channels, size_t pixels,
                                float *out);
/* out[i * out_channel + p] = in[p * lanes + i] for the same. */
typedef void (*kernel_unblock_fn)(const float *in, size_t out_channel, size_t channels,
                                  size_t pixels, float *out);

#endif
