/*
 * Conv: the reference convolution for any number of dimensions, alone and with what follows it.
 *
 * Every output element is its bias plus one product for each kernel position (outer dimensions
 * first, then the last one), and for each of these one for each input channel of the group, added
 * in that order in float32. Work is cut along outputs only, so the order never changes.
 *
 * The loops run over tiles of at most TILE outputs of MAPS output maps, which stay in the first
 * cache while the taps and channels pass by; the innermost loop adds a multiple of an input row to
 * an output row.
 */
#include "engine/ops/fused.h"
#include "engine/ops/op_util.h"
#include "engine/ops/window.h"

#include <inttypes.h>

#define MAPS          4
#define TILE          1024
#define TILE_MAX_ROWS 64

struct conv_state {
    struct window window;
    size_t groups;
    struct activation activation;
};

#define RESIDUAL 3 /* that input */

static enum cvd_status check_residual(const struct op_node *node, const struct cvd_shape *shape)
{
    const struct op_value *residual = op_input(node, RESIDUAL);
    if (!residual)
        return CVD_STATUS_OK;
    enum cvd_status status =
        op_check_type(node, RESIDUAL, OP_TYPE(CVD_DTYPE_FLOAT32), OP_TYPE(CVD_DTYPE_FLOAT32));
    char has[CVD_SHAPE_TEXT_BYTES], needs[CVD_SHAPE_TEXT_BYTES];
    if (status == CVD_STATUS_OK && !cvd_shape_equal(&residual->shape, shape))
        status = op_fail(node, CVD_STATUS_INVALID_MODEL, "residual is %s; it must be %s",
                         cvd_shape_text(&residual->shape, has), cvd_shape_text(shape, needs));
    return status;
}

static enum cvd_status read_node(const struct op_node *node, struct conv_state *s,
                                 struct cvd_shape *shape)
{
    enum cvd_status status = CVD_STATUS_OK;
    for (size_t i = 0; i < 3 && status == CVD_STATUS_OK; i++)
        if (i < 2 || op_input(node, i))
            status = op_check_type(node, i, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS);
    int64_t groups = 1;
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "group", 1, &groups);
    if (status != CVD_STATUS_OK)
        return status;

    const struct cvd_shape *x = &node->in[0]->shape, *w = &node->in[1]->shape;
    if (x->rank < 3)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "input has %u dimensions; it must be [N, C, D1, ...]", x->rank);
    if (w->rank != x->rank)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "weights have %u dimensions; they must have %u like the input", w->rank,
                       x->rank);
    if (groups < 1)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "group is %" PRId64 "; it must be at least 1", groups);
    if (x->dims[1] % groups != 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "group %" PRId64 " does not divide %" PRId64 " input channels", groups,
                       x->dims[1]);
    if (w->dims[0] % groups != 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "group %" PRId64 " does not divide %" PRId64 " output channels", groups,
                       w->dims[0]);
    if (w->dims[1] != x->dims[1] / groups)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "weights take %" PRId64 " channels; they must take %" PRId64 " (%" PRId64
                       " input channels in %" PRId64 " groups)",
                       w->dims[1], x->dims[1] / groups, x->dims[1], groups);
    for (unsigned i = 0; i < w->rank; i++)
        if (w->dims[i] < 1)
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "weight extent %u is %" PRId64, i,
                           w->dims[i]);
    const struct op_value *bias = op_input(node, 2);
    if (bias && (bias->shape.rank != 1 || bias->shape.dims[0] != w->dims[0])) {
        char text[CVD_SHAPE_TEXT_BYTES];
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "bias is %s; it must be [%" PRId64 "]",
                       cvd_shape_text(&bias->shape, text), w->dims[0]);
    }
    s->groups = (size_t)groups;
    status = window_read(node, &w->dims[2], &s->window);
    if (status == CVD_STATUS_OK)
        s->window.ceil_mode = false; /* not an attribute of Conv */
    if (status == CVD_STATUS_OK)
        status = window_shape(node, &s->window, w->dims[0], shape);
    if (status == CVD_STATUS_OK)
        status = activation_read(node, &s->activation);
    return status == CVD_STATUS_OK ? check_residual(node, shape) : status;
}

enum cvd_status conv_infer(const struct op_node *node, struct op_value *out)
{
    struct conv_state s;
    struct cvd_shape shape;
    enum cvd_status status = read_node(node, &s, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], CVD_DTYPE_FLOAT32, &shape)
                                   : status;
}

static uint64_t saturating_mul(uint64_t a, uint64_t b)
{
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static uint64_t saturating_add(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

enum cvd_status conv_prepare(const struct op_node *node, const struct op_value *out,
                             const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)kernels;
    struct conv_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_shape shape;
    status = read_node(node, s, &shape);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *x = &node->in[0]->shape, *w = &node->in[1]->shape;
    uint64_t in_elements = op_extent(x, 1, x->rank);
    uint64_t out_elements = op_extent(&out[0].shape, 1, out[0].shape.rank);
    prepared->kernel = "conv_ref";
    prepared->parameters = op_parameters(node, 1) + op_parameters(node, 2);
    prepared->macs = saturating_mul(out_elements, op_extent(w, 1, w->rank));
    prepared->dense_parameters =
        saturating_add(saturating_mul(in_elements, out_elements), out_elements);
    return CVD_STATUS_OK;
}

/* Everything a tile needs to know, the same for all tiles of a run. */
struct conv_run {
    struct window window;
    const float *x, *w, *bias, *residual; /* bias and residual may be NULL */
    float *y;
    const struct activation *activation;
    size_t groups, group_in, group_out; /* maps of a group */
    size_t in_plane, out_plane;
    size_t taps, row_taps;
    size_t blocks; /* blocks of MAPS maps in a group */
    size_t tile_rows, tile_columns;
    size_t tiles_down, tiles_across; /* tiles of a plane */
};

/* y[j] += w[j] * x for up to MAPS rows of n elements; x advances by `stride`. */
static inline void add_rows_4(size_t n, const float w[MAPS], const float *restrict x,
                              float *restrict y0, float *restrict y1, float *restrict y2,
                              float *restrict y3)
{
    const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
    for (size_t i = 0; i < n; i++) {
        const float v = x[i];
        y0[i] += w0 * v;
        y1[i] += w1 * v;
        y2[i] += w2 * v;
        y3[i] += w3 * v;
    }
}

static inline void add_rows_4_strided(size_t n, const float w[MAPS], const float *restrict x,
                                      size_t stride, float *restrict y0, float *restrict y1,
                                      float *restrict y2, float *restrict y3)
{
    const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
    for (size_t i = 0; i < n; i++) {
        const float v = x[i * stride];
        y0[i] += w0 * v;
        y1[i] += w1 * v;
        y2[i] += w2 * v;
        y3[i] += w3 * v;
    }
}

static inline void add_row(size_t n, float w, const float *restrict x, size_t stride,
                           float *restrict y)
{
    if (stride == 1)
        for (size_t i = 0; i < n; i++)
            y[i] += w * x[i];
    else
        for (size_t i = 0; i < n; i++)
            y[i] += w * x[i * stride];
}

static void add_rows(size_t n, size_t maps, const float w[MAPS], const float *x, size_t stride,
                     float *y, size_t plane)
{
    if (maps == MAPS && stride == 1)
        add_rows_4(n, w, x, y, y + plane, y + 2 * plane, y + 3 * plane);
    else if (maps == MAPS)
        add_rows_4_strided(n, w, x, stride, y, y + plane, y + 2 * plane, y + 3 * plane);
    else
        for (size_t j = 0; j < maps; j++)
            add_row(n, w[j], x, stride, y + j * plane);
}

/* What follows the sum, on `maps` times `rows` pieces of output rows. */
static void finish_tile(const struct conv_run *c, float *y, size_t maps, size_t rows,
                        size_t columns, size_t out_width)
{
    for (size_t j = 0; j < maps; j++) {
        for (size_t r = 0; r < rows; r++) {
            float *row = y + j * c->out_plane + r * out_width;
            if (c->residual) {
                const float *residual = c->residual + (row - c->y);
                for (size_t i = 0; i < columns; i++)
                    row[i] += residual[i];
            }
            activation_apply(c->activation, row, columns);
        }
    }
}

/* Adds one tap of the last dimension, for all input channels of the group, to the tile whose
 * output rows start at y; in_rows are their input rows. */
static void add_tap(const struct conv_run *c, const float *x, const float *w, float *y, size_t maps,
                    size_t rows, const int64_t *in_rows, size_t column, size_t columns, int64_t kx)
{
    const unsigned last = c->window.rank - 1;
    const size_t stride = (size_t)c->window.stride[last];
    const size_t in_width = (size_t)c->window.in[last], out_width = (size_t)c->window.out[last];
    struct window_span span = window_span(&c->window, kx);
    if (span.first < (int64_t)column)
        span.first = (int64_t)column;
    if (span.last > (int64_t)(column + columns))
        span.last = (int64_t)(column + columns);
    if (span.first >= span.last)
        return;
    const size_t n = (size_t)(span.last - span.first);
    const size_t from = (size_t)(span.first * (int64_t)stride + span.offset);
    for (size_t ci = 0; ci < c->group_in; ci++) {
        float weights[MAPS];
        for (size_t j = 0; j < maps; j++)
            weights[j] = w[(j * c->group_in + ci) * c->taps];
        const float *plane = x + ci * c->in_plane;
        for (size_t r = 0; r < rows; r++)
            if (in_rows[r] >= 0)
                add_rows(n, maps, weights, plane + (size_t)in_rows[r] * in_width + from, stride,
                         y + r * out_width + ((size_t)span.first - column), c->out_plane);
    }
}

static void conv_part(void *ctx, size_t part, unsigned slot)
{
    const struct conv_run *c = ctx;
    (void)slot;
    const size_t across = part % c->tiles_across;
    part /= c->tiles_across;
    const size_t down = part % c->tiles_down;
    part /= c->tiles_down;
    const size_t block = part % c->blocks;
    part /= c->blocks;
    const size_t group = part % c->groups, image = part / c->groups;

    const unsigned last = c->window.rank - 1;
    const size_t out_width = (size_t)c->window.out[last];
    const size_t out_rows = c->out_plane / out_width;
    const size_t row = down * c->tile_rows, column = across * c->tile_columns;
    const size_t rows = out_rows - row < c->tile_rows ? out_rows - row : c->tile_rows;
    const size_t columns =
        out_width - column < c->tile_columns ? out_width - column : c->tile_columns;
    const size_t in_map = block * MAPS; /* within the group */
    const size_t maps = c->group_out - in_map < MAPS ? c->group_out - in_map : MAPS;
    const size_t map = group * c->group_out + in_map;

    const float *x = c->x + (image * c->groups + group) * c->group_in * c->in_plane;
    const float *w = c->w + map * c->group_in * c->taps;
    float *y =
        c->y + (image * c->groups * c->group_out + map) * c->out_plane + row * out_width + column;
    for (size_t j = 0; j < maps; j++)
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < columns; i++)
                y[j * c->out_plane + r * out_width + i] = c->bias ? c->bias[map + j] : 0.0f;

    const size_t width = (size_t)c->window.kernel[last];
    for (size_t tap = 0; tap < c->row_taps; tap++) {
        int64_t in_rows[TILE_MAX_ROWS];
        for (size_t r = 0; r < rows; r++)
            in_rows[r] = window_input_row(&c->window, row + r, tap);
        for (size_t kx = 0; kx < width; kx++)
            add_tap(c, x, w + tap * width + kx, y, maps, rows, in_rows, column, columns,
                    (int64_t)kx);
    }
    if (c->residual || c->activation->kind != ACTIVATION_NONE)
        finish_tile(c, y, maps, rows, columns, out_width);
}

/* A kernel of one cell without padding and strides sees a plane as one long row. */
static void flatten_pointwise(struct window *w)
{
    int64_t cells = 1;
    for (unsigned i = 0; i < w->rank; i++) {
        if (w->kernel[i] != 1 || w->stride[i] != 1 || w->pad[i] != 0 || w->pad_end[i] != 0)
            return;
        cells *= w->in[i];
    }
    w->rank = 1;
    w->in[0] = w->out[0] = cells;
}

void conv_run(const struct op_run *r)
{
    const struct conv_state *s = r->state;
    const struct op_tensor *x = r->in[0], *w = r->in[1], *bias = op_run_input(r, 2);
    const struct op_tensor *residual = op_run_input(r, RESIDUAL);
    const struct cvd_shape *out = &r->out[0].shape;
    struct conv_run c = {
        .window = s->window,
        .x = x->data,
        .w = w->data,
        .bias = bias ? bias->data : NULL,
        .residual = residual ? residual->data : NULL,
        .y = r->out[0].data,
        .activation = &s->activation,
        .groups = s->groups,
        .group_in = (size_t)w->shape.dims[1],
        .group_out = (size_t)w->shape.dims[0] / s->groups,
        .in_plane = op_extent(&x->shape, 2, x->shape.rank),
        .out_plane = op_extent(out, 2, out->rank),
    };
    unsigned bad;
    if (!c.y || !window_fit(&c.window, &x->shape, &bad))
        return;
    flatten_pointwise(&c.window);
    c.taps = window_taps(&c.window);
    c.row_taps = window_rows(c.window.kernel, c.window.rank);
    c.blocks = (c.group_out - 1) / MAPS + 1;
    const size_t width = (size_t)c.window.out[c.window.rank - 1], rows = c.out_plane / width;
    c.tile_columns = width < TILE ? width : TILE;
    c.tile_rows = TILE / c.tile_columns < TILE_MAX_ROWS ? TILE / c.tile_columns : TILE_MAX_ROWS;
    c.tiles_across = (width - 1) / c.tile_columns + 1;
    c.tiles_down = (rows - 1) / c.tile_rows + 1;
    tpool_for(r->pool, (size_t)out->dims[0] * c.groups * c.blocks * c.tiles_down * c.tiles_across,
              conv_part, &c);
}

/* clang-format off */
const struct op_def ops_conv[] = {
    {.name = "Conv", .domain = "", .since = 1, .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = conv_infer, .prepare = conv_prepare, .run = conv_run},
    {.name = NULL},
};
/* clang-format on */
