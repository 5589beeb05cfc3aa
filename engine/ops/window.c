/* Sliding windows: attributes to geometry, and the arithmetic of what lies under a kernel. */
#include "engine/ops/window.h"

#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <string.h>

/* Larger attributes are never meant; the bound keeps every sum below inside 64 bits. */
#define WINDOW_LIMIT    INT32_MAX
#define WINDOW_IN_LIMIT ((int64_t)1 << 60)

/* Copies an optional list of exactly `want` numbers, each in minimum … WINDOW_LIMIT. */
static enum cvd_status read_list(const struct op_node *node, const char *name, unsigned want,
                                 int64_t minimum, int64_t fallback, int64_t *out)
{
    const int64_t *ints;
    size_t count;
    enum cvd_status status = op_attr_ints(node, name, &ints, &count);
    if (status != CVD_STATUS_OK)
        return status;
    if (ints && count != want)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "%s has %zu numbers; it must have %u", name,
                       count, want);
    for (unsigned i = 0; i < want; i++) {
        out[i] = ints ? ints[i] : fallback;
        if (out[i] < minimum)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "%s[%u] is %" PRId64 "; it must be at least %" PRId64, name, i, out[i],
                           minimum);
        if (out[i] > WINDOW_LIMIT)
            return op_fail(node, CVD_STATUS_UNSUPPORTED,
                           "%s[%u] is %" PRId64 "; at most %d is supported", name, i, out[i],
                           WINDOW_LIMIT);
    }
    return CVD_STATUS_OK;
}

static enum cvd_status read_kernel(const struct op_node *node, const int64_t *kernel,
                                   struct window *w)
{
    const struct op_attr *attr = op_attr_find(node, "kernel_shape");
    if (!attr && !kernel)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "kernel_shape is missing");
    if (attr) {
        enum cvd_status status = read_list(node, "kernel_shape", w->rank, 1, 1, w->kernel);
        if (status != CVD_STATUS_OK)
            return status;
    } else {
        memcpy(w->kernel, kernel, w->rank * sizeof *kernel);
    }
    for (unsigned i = 0; kernel && i < w->rank; i++)
        if (w->kernel[i] != kernel[i])
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "kernel_shape[%u] is %" PRId64 " but the weights have %" PRId64, i,
                           w->kernel[i], kernel[i]);
    for (unsigned i = 0; i < w->rank; i++)
        if (w->kernel[i] > WINDOW_LIMIT)
            return op_fail(node, CVD_STATUS_UNSUPPORTED,
                           "kernel extent %" PRId64 " is too large; at most %d is supported",
                           w->kernel[i], WINDOW_LIMIT);
    return CVD_STATUS_OK;
}

static enum cvd_status read_pads(const struct op_node *node, struct window *w)
{
    static const char *const names[] = {
        [WINDOW_PAD_NOTSET] = "NOTSET",
        [WINDOW_PAD_VALID] = "VALID",
        [WINDOW_PAD_UPPER] = "SAME_UPPER",
        [WINDOW_PAD_LOWER] = "SAME_LOWER",
    };
    const char *text;
    enum cvd_status status = op_attr_string(node, "auto_pad", "NOTSET", &text);
    if (status != CVD_STATUS_OK)
        return status;
    size_t mode = 0;
    while (mode < 4 && strcmp(text, names[mode]) != 0)
        mode++;
    if (mode == 4)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "auto_pad is '%.32s'; it must be NOTSET, VALID, SAME_UPPER or SAME_LOWER",
                       text);
    w->auto_pad = (enum window_auto_pad)mode;

    int64_t pads[2 * WINDOW_MAX_RANK];
    status = read_list(node, "pads", 2 * w->rank, INT64_MIN, 0, pads);
    if (status != CVD_STATUS_OK)
        return status;
    for (unsigned i = 0; i < 2 * w->rank; i++)
        if (pads[i] < 0)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "pads[%u] is %" PRId64 "; it must not be negative", i, pads[i]);
    if (w->auto_pad == WINDOW_PAD_NOTSET) { /* otherwise pads, which old exporters write, is moot */
        memcpy(w->pad, pads, w->rank * sizeof *pads);
        memcpy(w->pad_end, pads + w->rank, w->rank * sizeof *pads);
    }
    return CVD_STATUS_OK;
}

enum cvd_status window_read(const struct op_node *node, const int64_t *kernel, struct window *w)
{
    const struct cvd_shape *x = &node->in[0]->shape;
    *w = (struct window){0};
    if (x->rank < 3)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "input has %u dimensions; it must be [N, C, D1, ...]", x->rank);
    w->rank = x->rank - 2;
    enum cvd_status status = read_kernel(node, kernel, w);
    if (status == CVD_STATUS_OK)
        status = read_list(node, "strides", w->rank, 1, 1, w->stride);
    if (status == CVD_STATUS_OK)
        status = read_list(node, "dilations", w->rank, 1, 1, w->dilation);
    if (status == CVD_STATUS_OK)
        status = read_pads(node, w);
    int64_t ceil_mode = 0;
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "ceil_mode", 0, &ceil_mode);
    w->ceil_mode = ceil_mode != 0;
    return status;
}

/* Cells that a dilated kernel spans. */
static int64_t reach(const struct window *w, unsigned i)
{
    return (w->kernel[i] - 1) * w->dilation[i] + 1;
}

bool window_fit(struct window *w, const struct cvd_shape *x, unsigned *bad)
{
    for (unsigned i = 0; i < w->rank; i++) {
        int64_t in = x->dims[i + 2], stride = w->stride[i];
        *bad = i;
        if (in < 1 || in > WINDOW_IN_LIMIT)
            return false;
        w->in[i] = in;
        if (w->auto_pad == WINDOW_PAD_UPPER || w->auto_pad == WINDOW_PAD_LOWER) {
            w->out[i] = (in - 1) / stride + 1;
            int64_t total = (w->out[i] - 1) * stride + reach(w, i) - in;
            if (total < 0)
                total = 0;
            w->pad[i] = w->auto_pad == WINDOW_PAD_UPPER ? total / 2 : total - total / 2;
            w->pad_end[i] = total - w->pad[i];
            continue;
        }
        int64_t room = in + w->pad[i] + w->pad_end[i] - reach(w, i);
        if (room < 0)
            return false;
        int64_t steps = room / stride;
        /* With ceil_mode a last window may hang over the end, but not start beyond the input and
         * its leading padding. */
        if (w->ceil_mode && room % stride != 0 && (steps + 1) * stride < in + w->pad[i])
            steps++;
        w->out[i] = steps + 1;
    }
    return true;
}

enum cvd_status window_shape(const struct op_node *node, struct window *w, int64_t channels,
                             struct cvd_shape *out)
{
    const struct cvd_shape *x = &node->in[0]->shape;
    unsigned bad;
    if (!window_fit(w, x, &bad)) {
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "kernel %" PRId64 " with dilation %" PRId64 " does not fit extent %" PRId64
                       " with pads %" PRId64 " and %" PRId64 " in spatial dimension %u",
                       w->kernel[bad], w->dilation[bad], x->dims[bad + 2], w->pad[bad],
                       w->pad_end[bad], bad);
    }
    *out = *x;
    out->dims[1] = channels;
    memcpy(&out->dims[2], w->out, w->rank * sizeof *w->out);
    return CVD_STATUS_OK;
}

size_t window_taps(const struct window *w)
{
    return window_rows(w->kernel, w->rank) * (size_t)w->kernel[w->rank - 1];
}

size_t window_rows(const int64_t *extent, unsigned rank)
{
    size_t rows = 1;
    for (unsigned i = 0; i + 1 < rank; i++)
        rows *= (size_t)extent[i];
    return rows;
}

int64_t window_input_row(const struct window *w, size_t row, size_t tap)
{
    int64_t input_row = 0, scale = 1;
    for (unsigned i = w->rank - 1; i-- > 0;) { /* from the innermost outwards */
        int64_t y = (int64_t)(row % (size_t)w->out[i]), k = (int64_t)(tap % (size_t)w->kernel[i]);
        row /= (size_t)w->out[i];
        tap /= (size_t)w->kernel[i];
        int64_t at = y * w->stride[i] - w->pad[i] + k * w->dilation[i];
        if (at < 0 || at >= w->in[i])
            return -1;
        input_row += at * scale;
        scale *= w->in[i];
    }
    return input_row;
}

struct window_span window_span(const struct window *w, int64_t kx)
{
    unsigned i = w->rank - 1;
    int64_t stride = w->stride[i], offset = kx * w->dilation[i] - w->pad[i];
    int64_t first = offset < 0 ? (-offset + stride - 1) / stride : 0;
    int64_t last = w->in[i] > offset ? (w->in[i] - 1 - offset) / stride + 1 : 0;
    if (last > w->out[i])
        last = w->out[i];
    return (struct window_span){first, last > first ? last : first, offset};
}
