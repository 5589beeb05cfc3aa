/*
 * Kernels on blocked maps (conv.h) that are no matrix products: depthwise convolution, pooling,
 * element-wise functions, picking channels, and softmax and layer norm over channels.
 *
 * All strides are in floats. Nothing but the named elements is read or written and no alignment is
 * asked for (aligned to whole vectors is faster). None of them writes a gap.
 */
#ifndef CONVD_KERNELS_MAP_H
#define CONVD_KERNELS_MAP_H

#include "engine/kernels/act.h"

#include <stddef.h>

/* A window sliding over one block of channels. Rows of the window outside the map are left out;
 * columns outside are read where the kernel says so, and must then be in the gap. */
struct kernel_window {
    const float *in; /* pixel (0, 0) */
    size_t height, width, in_row;
    size_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x;
    size_t pad_top, pad_left;
    size_t out_width, out_row; /* pixels; floats from a row to the next */
    size_t first_row, rows;    /* of the output that this call computes */
    float *out;                /* pixel (0, 0), not that of first_row */
};

/*
 * Each channel with a filter of its own, `blocks` blocks of channels:
 *
 *   sum = bias
 *   for each row and column of the window: sum += in * weights[row][column]
 *   sum += residual, then the activation
 *
 * in that order. Columns in the padding are read: a gap of max(pad_left, the rightmost column read
 * - width + 1) zeros is needed.
 */
struct kernel_depthwise {
    struct kernel_window window; /* of the first block */
    size_t blocks, in_block, out_block;
    const float *weights;  /* [blocks][kernel_height][kernel_width][lanes] */
    const float *bias;     /* [blocks][lanes] */
    const float *residual; /* laid out like out; NULL: none */
    struct kernel_act act;
};
typedef void (*kernel_depthwise_fn)(const struct kernel_depthwise *d);

/*
 * The maximum (-infinity where the window covers nothing; a NaN anywhere in the window gives a NaN)
 * or the average over what the window covers of the map. With include_pad the average is over what
 * it covers of the map with its padding, pad_bottom and pad_right included. No gap is needed.
 */
struct kernel_pool {
    struct kernel_window window;
    size_t pad_bottom, pad_right; /* used with include_pad */
    int average, include_pad;
};
typedef void (*kernel_pool_fn)(const struct kernel_pool *p);

/* One vector for each of `blocks` blocks: the maximum or the average of height x width pixels. */
struct kernel_global_pool {
    const float *in;
    size_t height, width, in_row, in_block;
    size_t blocks;
    float *out;
    int average;
};
typedef void (*kernel_global_pool_fn)(const struct kernel_global_pool *p);

/* y = act(a), act(a + b), act(a * b) or act(a * scale + shift) for `rows` rows of `columns` pixels.
 * y may be a or b. */
enum kernel_pointwise_kind {
    KERNEL_POINTWISE_COPY,
    KERNEL_POINTWISE_ADD,
    KERNEL_POINTWISE_MUL,
    KERNEL_POINTWISE_SCALE
};

struct kernel_pointwise {
    enum kernel_pointwise_kind kind;
    const float *a, *b;         /* b: ADD and MUL */
    const float *scale, *shift; /* SCALE: lanes; shift may be NULL */
    float *y;
    size_t rows, columns;
    size_t a_row, b_row, y_row;
    struct kernel_act act;
};
typedef void (*kernel_pointwise_fn)(const struct kernel_pointwise *p);

/*
 * One block of channels picked from blocks of other maps, `rows` rows of `columns` pixels. Lane l
 * of y is lane lane[l] of the source for which that is not negative (at most one), or 0 without
 * such a source. y overlaps no source.
 */
struct kernel_channels_source {
    const float *in;
    size_t row;      /* from one row to the next */
    const int *lane; /* lanes */
};

struct kernel_channels {
    const struct kernel_channels_source *sources;
    size_t count; /* at least 1 */
    float *y;
    size_t rows, columns, y_row;
};
typedef void (*kernel_channels_fn)(const struct kernel_channels *c);

/* y = exp(x - max) / sum of that, for `rows` rows of `count` floats that stand at distance x_row
 * and y_row. x and y may be the same. A row of which the maximum is infinite or a NaN gives NaNs.
 */
struct kernel_softmax {
    const float *x;
    float *y;
    size_t rows, count, x_row, y_row;
};
typedef void (*kernel_softmax_fn)(const struct kernel_softmax *s);

/*
 * y = (x - mean) / sqrt(variance + epsilon) * gamma + beta over the `channels` channels of each of
 * `pixels` pixels; block b of pixel p is at p * pixel + b * block. Only the channels that exist are
 * read and written, so that pixel = channels, block = lanes describes plain rows too. x and y may
 * be the same.
 */
struct kernel_layer_norm {
    const float *x;
    const float *gamma, *beta; /* channels; beta may be NULL */
    float *y;
    size_t channels, pixels;
    size_t x_pixel, x_block, y_pixel, y_block;
    float epsilon;
};
typedef void (*kernel_layer_norm_fn)(const struct kernel_layer_norm *n);

#endif
