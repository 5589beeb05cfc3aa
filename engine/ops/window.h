/*
 * The sliding window of convolution and pooling: kernel, strides, dilations and padding over any
 * number of spatial dimensions, as ONNX's operators describe it.
 *
 * window_read() takes what the attributes say; window_fit() adds the extents of one input. A run
 * fits again (it costs nothing), so that it depends on the shapes it gets and on nothing else.
 */
#ifndef CONVD_OPS_WINDOW_H
#define CONVD_OPS_WINDOW_H

#include "engine/ops/op.h"

#define WINDOW_MAX_RANK (CVD_MAX_RANK - 2)

enum window_auto_pad { WINDOW_PAD_NOTSET, WINDOW_PAD_VALID, WINDOW_PAD_UPPER, WINDOW_PAD_LOWER };

struct window {
    unsigned rank; /* spatial dimensions, outermost first */
    enum window_auto_pad auto_pad;
    bool ceil_mode;
    int64_t kernel[WINDOW_MAX_RANK], stride[WINDOW_MAX_RANK], dilation[WINDOW_MAX_RANK];
    int64_t pad[WINDOW_MAX_RANK], pad_end[WINDOW_MAX_RANK];
    int64_t in[WINDOW_MAX_RANK], out[WINDOW_MAX_RANK]; /* set by window_fit() */
};

/* Reads kernel_shape, strides, dilations, pads, auto_pad and ceil_mode of a node whose input 0 is
 * [N, C, spatial...]. `kernel` gives the kernel's extents where the attribute is optional (from the
 * weights; it must agree), NULL where it is required. */
enum cvd_status window_read(const struct op_node *node, const int64_t *kernel, struct window *w);

/* Sets in and out (and pad for SAME) for an input of shape x; false when some dimension is smaller
 * than the kernel: *bad then is its number. */
bool window_fit(struct window *w, const struct cvd_shape *x, unsigned *bad);

/* window_fit() that fails with a message, and the output shape [N, channels, out...]. */
enum cvd_status window_shape(const struct op_node *node, struct window *w, int64_t channels,
                             struct cvd_shape *out);

/* Product of the kernel's extents. */
size_t window_taps(const struct window *w);

/*
 * Rows: all spatial dimensions but the last are numbered together, row by row. For kernel position
 * `tap` of those dimensions (0 … window_row_taps() - 1) and output row `row`,
 * window_input_row() is the number of the input row under it, or -1 in the padding.
 */
size_t window_rows(const int64_t *extent, unsigned rank);
int64_t window_input_row(const struct window *w, size_t row, size_t tap);

/* Outputs first <= x < last of the last dimension whose input, at *offset + x * stride, is not
 * padding for kernel position `kx`. */
struct window_span {
    int64_t first, last;
    int64_t offset;
};
struct window_span window_span(const struct window *w, int64_t kx);

#endif
