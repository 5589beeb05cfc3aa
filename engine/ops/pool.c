/*
 * Pooling over a sliding window: MaxPool, AveragePool and LpPool, for any number of dimensions.
 *
 * Cells in the padding never win a maximum. An average divides by the cells of the input under the
 * window or, with count_include_pad, by those of the padded input; what hangs over its end because
 * of ceil_mode never counts (ONNX operator set 19 says so, and earlier exporters meant it).
 */
#include "engine/ops/pool.h"

#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum cvd_status pool_read(const struct op_node *node, struct pool_state *s, struct cvd_shape *shape)
{
    *s = (struct pool_state){0};
    const char *name = node->def->name;
    s->kind = strcmp(name, "MaxPool") == 0       ? POOL_MAX
              : strcmp(name, "AveragePool") == 0 ? POOL_AVERAGE
                                                 : POOL_LP;
    const unsigned bytes = OP_TYPE(CVD_DTYPE_UINT8) | OP_TYPE(CVD_DTYPE_INT8);
    const unsigned supported = OP_TYPE(CVD_DTYPE_FLOAT32) | (s->kind == POOL_MAX ? bytes : 0);
    enum cvd_status status = op_check_type(node, 0, supported, supported | OP_FLOATS);
    int64_t include_pad = 0, storage_order = 0;
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "count_include_pad", 0, &include_pad);
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "storage_order", 0, &storage_order);
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "p", 2, &s->p);
    if (status == CVD_STATUS_OK)
        status = window_read(node, NULL, &s->window);
    if (status != CVD_STATUS_OK)
        return status;
    if (storage_order != 0 && storage_order != 1)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "storage_order is %" PRId64 "; it must be 0 or 1", storage_order);
    if (s->p < 1)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "p is %" PRId64 "; it must be at least 1",
                       s->p);
    s->include_pad = include_pad != 0;
    s->column_major = storage_order == 1;
    return window_shape(node, &s->window, node->in[0]->shape.dims[1], shape);
}

enum cvd_status pool_infer(const struct op_node *node, struct op_value *out)
{
    struct pool_state s;
    struct cvd_shape shape;
    enum cvd_status status = pool_read(node, &s, &shape);
    if (status == CVD_STATUS_OK)
        status = op_set_output(node, &out[0], node->in[0]->dtype, &shape);
    if (status == CVD_STATUS_OK && node->out_count > 1)
        status = op_set_output(node, &out[1], CVD_DTYPE_INT64, &shape);
    return status;
}

static enum cvd_status pool_prepare(const struct op_node *node, const struct op_value *out,
                                    const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct pool_state *s;
    struct cvd_shape shape;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = "pool_ref";
    return status == CVD_STATUS_OK ? pool_read(node, s, &shape) : status;
}

struct pool_run {
    struct window window;
    const struct pool_state *state;
    enum cvd_dtype dtype;
    size_t element_bytes;
    const char *x;
    char *y;
    int64_t *indices;
    size_t in_plane, out_plane;
    size_t out_width, out_rows, row_taps;
};

/* The rows of MaxPool: y = max(y, x). A NaN that is in stays in, and one that comes wins. */
#define MAX_ROW(type, wins)                \
    do {                                   \
        const type *in = x;                \
        type *out = y;                     \
        for (size_t i = 0; i < n; i++) {   \
            const type v = in[i * stride]; \
            out[i] = (wins) ? v : out[i];  \
        }                                  \
    } while (0)

static void max_row(enum cvd_dtype dtype, size_t n, const void *x, size_t stride, void *y)
{
    switch (dtype) {
    case CVD_DTYPE_UINT8:
        MAX_ROW(uint8_t, v > out[i]);
        break;
    case CVD_DTYPE_INT8:
        MAX_ROW(int8_t, v > out[i]);
        break;
    default:
        MAX_ROW(float, v > out[i] || v != v);
        break;
    }
}

static void fill_lowest(enum cvd_dtype dtype, size_t n, void *y)
{
    if (dtype == CVD_DTYPE_FLOAT32)
        for (size_t i = 0; i < n; i++)
            ((float *)y)[i] = -INFINITY;
    else
        memset(y, dtype == CVD_DTYPE_INT8 ? INT8_MIN & 0xff : 0, n);
}

static void max_part(void *ctx, size_t plane, unsigned slot)
{
    const struct pool_run *p = ctx;
    (void)slot;
    const struct window *w = &p->window;
    const unsigned last = w->rank - 1;
    const char *x = p->x + plane * p->in_plane * p->element_bytes;
    char *y = p->y + plane * p->out_plane * p->element_bytes;
    fill_lowest(p->dtype, p->out_plane, y);
    for (size_t row = 0; row < p->out_rows; row++) {
        for (size_t tap = 0; tap < p->row_taps; tap++) {
            const int64_t in_row = window_input_row(w, row, tap);
            for (int64_t kx = 0; in_row >= 0 && kx < w->kernel[last]; kx++) {
                const struct window_span span = window_span(w, kx);
                const int64_t from = in_row * w->in[last] + span.first * w->stride[last];
                if (span.first < span.last)
                    max_row(p->dtype, (size_t)(span.last - span.first),
                            x + (size_t)(from + span.offset) * p->element_bytes,
                            (size_t)w->stride[last],
                            y + (row * p->out_width + (size_t)span.first) * p->element_bytes);
            }
        }
    }
}

static double element(const struct pool_run *p, size_t index)
{
    switch (p->dtype) {
    case CVD_DTYPE_UINT8:
        return ((const uint8_t *)(const void *)p->x)[index];
    case CVD_DTYPE_INT8:
        return ((const int8_t *)(const void *)p->x)[index];
    default:
        return (double)((const float *)(const void *)p->x)[index];
    }
}

/* Number of a plane's cell when the first spatial dimension runs fastest. */
static int64_t column_major(const struct window *w, int64_t cell)
{
    int64_t number = 0;
    int64_t scale = 1;
    for (unsigned i = 0; i + 1 < w->rank; i++)
        scale *= w->in[i];
    for (unsigned i = w->rank; i-- > 0;) {
        number += cell % w->in[i] * scale;
        cell /= w->in[i];
        if (i > 0)
            scale /= w->in[i - 1];
    }
    return number;
}

/* Where the maximum of each window is: the first one in row-major order. */
static void index_part(void *ctx, size_t plane, unsigned slot)
{
    const struct pool_run *p = ctx;
    (void)slot;
    const struct window *w = &p->window;
    const unsigned last = w->rank - 1;
    const int64_t base = (int64_t)(plane * p->in_plane);
    for (size_t cell = 0; cell < p->out_plane; cell++) {
        const int64_t x0 = (int64_t)(cell % p->out_width) * w->stride[last] - w->pad[last];
        int64_t best = -1;
        double most = 0;
        for (size_t tap = 0; tap < p->row_taps; tap++) {
            const int64_t in_row = window_input_row(w, cell / p->out_width, tap);
            for (int64_t kx = 0; in_row >= 0 && kx < w->kernel[last]; kx++) {
                const int64_t at = x0 + kx * w->dilation[last];
                if (at < 0 || at >= w->in[last])
                    continue;
                const double v = element(p, (size_t)(base + in_row * w->in[last] + at));
                if (best < 0 || v > most || (v != v && most == most)) {
                    best = in_row * w->in[last] + at;
                    most = v;
                }
            }
        }
        if (best > 0 && p->state->column_major)
            best = column_major(w, best);
        p->indices[plane * p->out_plane + cell] = best < 0 ? -1 : base + best;
    }
}

/* Cells that count under the window along one dimension, at output `at`. */
static int64_t counted(const struct window *w, unsigned i, int64_t at, bool include_pad)
{
    const int64_t start = at * w->stride[i] - w->pad[i];
    const int64_t low = include_pad ? -w->pad[i] : 0;
    const int64_t high = w->in[i] + (include_pad ? w->pad_end[i] : 0);
    const int64_t first = start < low ? (low - start - 1) / w->dilation[i] + 1 : 0;
    const int64_t end = high > start ? (high - start - 1) / w->dilation[i] + 1 : 0;
    const int64_t last = end < w->kernel[i] ? end : w->kernel[i];
    return last > first ? last - first : 0;
}

/* Product of counted() over all dimensions but the last for an output row. */
static double counted_rows(const struct pool_run *p, size_t row)
{
    int64_t count = 1;
    for (unsigned i = p->window.rank - 1; i-- > 0;) {
        count *= counted(&p->window, i, (int64_t)(row % (size_t)p->window.out[i]),
                         p->state->include_pad);
        row /= (size_t)p->window.out[i];
    }
    return (double)count;
}

static void sum_row(const struct pool_state *s, size_t n, const float *x, size_t stride,
                    double *sum)
{
    if (s->kind == POOL_AVERAGE)
        for (size_t i = 0; i < n; i++)
            sum[i] += (double)x[i * stride];
    else if (s->p == 1)
        for (size_t i = 0; i < n; i++)
            sum[i] += fabs((double)x[i * stride]);
    else if (s->p == 2)
        for (size_t i = 0; i < n; i++)
            sum[i] += (double)x[i * stride] * (double)x[i * stride];
    else
        for (size_t i = 0; i < n; i++)
            sum[i] += pow(fabs((double)x[i * stride]), (double)s->p);
}

/* Outputs `column` … of a row, at most SUM_COLUMNS at a time. */
#define SUM_COLUMNS 256
static void sum_columns(const struct pool_run *p, const float *x, float *y, size_t row,
                        size_t column, size_t columns)
{
    const struct window *w = &p->window;
    const unsigned last = w->rank - 1;
    double sum[SUM_COLUMNS] = {0};
    for (size_t tap = 0; tap < p->row_taps; tap++) {
        const int64_t in_row = window_input_row(w, row, tap);
        for (int64_t kx = 0; in_row >= 0 && kx < w->kernel[last]; kx++) {
            struct window_span span = window_span(w, kx);
            if (span.first < (int64_t)column)
                span.first = (int64_t)column;
            if (span.last > (int64_t)(column + columns))
                span.last = (int64_t)(column + columns);
            if (span.first >= span.last)
                continue;
            sum_row(p->state, (size_t)(span.last - span.first),
                    x + in_row * w->in[last] + span.first * w->stride[last] + span.offset,
                    (size_t)w->stride[last], sum + ((size_t)span.first - column));
        }
    }
    const double rows = p->state->kind == POOL_AVERAGE ? counted_rows(p, row) : 0;
    for (size_t i = 0; i < columns; i++) {
        double value = sum[i];
        if (p->state->kind == POOL_AVERAGE) {
            const double count =
                rows * (double)counted(w, last, (int64_t)(column + i), p->state->include_pad);
            value = count > 0 ? value / count : 0; /* a window over padding alone */
        } else if (p->state->p == 2) {
            value = sqrt(value);
        } else if (p->state->p != 1) {
            value = pow(value, 1.0 / (double)p->state->p);
        }
        y[row * p->out_width + column + i] = (float)value;
    }
}

static void sum_part(void *ctx, size_t plane, unsigned slot)
{
    const struct pool_run *p = ctx;
    (void)slot;
    const float *x = (const float *)(const void *)p->x + plane * p->in_plane;
    float *y = (float *)(void *)p->y + plane * p->out_plane;
    for (size_t row = 0; row < p->out_rows; row++)
        for (size_t column = 0; column < p->out_width; column += SUM_COLUMNS)
            sum_columns(p, x, y, row, column,
                        p->out_width - column < SUM_COLUMNS ? p->out_width - column : SUM_COLUMNS);
}

static void pool_run(const struct op_run *r)
{
    const struct pool_state *s = r->state;
    const struct op_tensor *x = r->in[0];
    struct pool_run p = {
        .window = s->window,
        .state = s,
        .dtype = x->dtype,
        .element_bytes = cvd_dtype_bytes(x->dtype),
        .x = x->data,
        .y = r->out[0].data,
        .indices = r->out_count > 1 ? r->out[1].data : NULL,
        .in_plane = op_extent(&x->shape, 2, x->shape.rank),
    };
    unsigned bad;
    if (!window_fit(&p.window, &x->shape, &bad))
        return;
    p.out_width = (size_t)p.window.out[p.window.rank - 1];
    p.out_rows = window_rows(p.window.out, p.window.rank);
    p.out_plane = p.out_rows * p.out_width;
    p.row_taps = window_rows(p.window.kernel, p.window.rank);
    const size_t planes = op_extent(&x->shape, 0, 2);
    if (p.y)
        tpool_for(r->pool, planes, s->kind == POOL_MAX ? max_part : sum_part, &p);
    if (p.indices)
        tpool_for(r->pool, planes, index_part, &p);
}

/* clang-format off */
const struct op_def ops_pool[] = {
    {.name = "MaxPool", .domain = "", .since = 1, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 2,
     .infer = pool_infer, .prepare = pool_prepare, .run = pool_run},
    {.name = "AveragePool", .domain = "", .since = 1, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = pool_infer, .prepare = pool_prepare, .run = pool_run},
    {.name = "LpPool", .domain = "", .since = 2, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = pool_infer, .prepare = pool_prepare, .run = pool_run},
    {.name = NULL},
};
/* clang-format on */
