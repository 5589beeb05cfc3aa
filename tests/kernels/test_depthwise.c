/*
 * Depthwise convolution and pooling of every CPU level against naive loops in double precision:
 * every awkward window, inputs between pages that cannot be touched, outputs in poison, of which
 * whatever is no output pixel must be left. The last tests show that wrong kernels are caught.
 */
#include "engine/kernels/kernels.h"
#include "tests/support/guarded.h"
#include "tests/support/mutants.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum what { DEPTHWISE, MAXIMUM, AVERAGE, AVERAGE_PADDED };
static const char *const names[] = {"depthwise", "max", "average", "padded average"};

struct window_case {
    size_t height, width, kernel_h, kernel_w, stride_y, stride_x, dilation_y, dilation_x;
    size_t top, left, bottom, right;
    bool ceil; /* windows that begin on the map may reach beyond the padding */
};

static const struct window_case cases[] = {
    /* the usual ones, at widths around those of the tiles */
    {1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, false},
    {2, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, false},
    {3, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, false},
    {4, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, false},
    {5, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, false},
    {9, 17, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, false},
    {14, 14, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, false},
    {7, 7, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, false},
    {8, 8, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, false},
    {15, 29, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, false},
    {8, 8, 3, 3, 2, 2, 1, 1, 0, 0, 1, 1, false},
    {7, 7, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2, false},
    {6, 15, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2, false},
    {9, 12, 5, 5, 2, 2, 1, 1, 2, 2, 2, 2, false},
    {8, 9, 5, 5, 2, 2, 1, 1, 1, 1, 2, 2, false},
    {7, 7, 7, 7, 1, 1, 1, 1, 3, 3, 3, 3, false},
    {11, 16, 7, 7, 1, 1, 1, 1, 3, 3, 3, 3, false},
    {12, 13, 7, 7, 2, 2, 1, 1, 3, 3, 3, 3, false},
    /* windows higher than the map, and outputs that see nothing of it */
    {2, 9, 7, 7, 1, 1, 1, 1, 3, 3, 3, 3, false},
    {1, 9, 5, 3, 1, 1, 1, 1, 4, 1, 4, 1, false},
    {2, 3, 3, 3, 1, 1, 1, 1, 5, 2, 5, 2, false},
    /* no padding; lopsided padding; windows that are not square */
    {9, 9, 3, 3, 1, 1, 1, 1, 0, 0, 0, 0, false},
    {9, 9, 2, 2, 2, 2, 1, 1, 0, 0, 0, 0, false},
    {9, 8, 2, 2, 2, 2, 1, 1, 0, 0, 1, 1, false},
    {7, 9, 1, 7, 1, 1, 1, 1, 0, 3, 0, 3, false},
    {9, 7, 7, 1, 1, 1, 1, 1, 3, 0, 3, 0, false},
    {9, 10, 3, 5, 2, 1, 1, 1, 1, 2, 0, 1, false},
    {10, 11, 4, 4, 1, 1, 1, 1, 1, 1, 2, 2, false},
    {12, 12, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, false},
    {13, 12, 3, 3, 1, 2, 1, 1, 1, 1, 1, 1, false},
    {13, 12, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, false},
    /* dilation */
    {9, 9, 3, 3, 1, 1, 2, 2, 2, 2, 2, 2, false},
    {11, 9, 3, 3, 1, 1, 2, 1, 2, 1, 2, 1, false},
    {9, 11, 3, 3, 2, 2, 1, 3, 1, 3, 1, 3, false},
    /* beyond the padding */
    {8, 10, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, true},
    {9, 7, 4, 2, 3, 2, 1, 1, 0, 0, 1, 0, true},
};

static const struct kernel_act acts[] = {
    {KERNEL_ACT_NONE, 0, 0},
    {KERNEL_ACT_CLIP, 0, 0.75f},
    {KERNEL_ACT_HARD_SWISH, 1.0f / 6, 0.5f},
};

static double apply(const struct kernel_act *a, double x)
{
    switch (a->kind) {
    case KERNEL_ACT_CLIP:
        return fmin(fmax(x, (double)a->alpha), (double)a->beta);
    case KERNEL_ACT_HARD_SWISH:
        return x * fmin(fmax((double)a->alpha * x + (double)a->beta, 0), 1);
    default:
        return x;
    }
}

static size_t out_extent(size_t in, size_t before, size_t after, size_t kernel, size_t stride,
                         size_t dilation, bool ceil)
{
    return (in + before + after - (kernel - 1) * dilation - 1 + (ceil ? stride - 1 : 0)) / stride +
           1;
}

/* One call's memory. */
struct bench {
    const struct window_case *c;
    size_t lanes, gap, out_gap, out_h, out_w, in_row, out_row;
    struct guarded in, weights, bias, residual, out;
};

static void fill(struct guarded *g, uint32_t *state)
{
    for (size_t i = 0; i < g->count; i++)
        g->data[i] = guarded_random(state);
}

static struct bench bench_create(const struct window_case *c, size_t lanes, bool gaps, bool at_end)
{
    struct bench b = {.c = c, .lanes = lanes, .out_gap = 2};
    b.out_h =
        out_extent(c->height, c->top, c->bottom, c->kernel_h, c->stride_y, c->dilation_y, c->ceil);
    b.out_w =
        out_extent(c->width, c->left, c->right, c->kernel_w, c->stride_x, c->dilation_x, c->ceil);
    const size_t reach = (b.out_w - 1) * c->stride_x + (c->kernel_w - 1) * c->dilation_x + 1;
    const size_t over = reach > c->left + c->width ? reach - c->left - c->width : 0;
    b.gap = !gaps ? 0 : c->left > over ? c->left : over;
    b.in_row = (c->width + b.gap) * lanes;
    b.out_row = (b.out_w + b.out_gap) * lanes;
    uint32_t state = 7;
    b.in = guarded_floats(b.gap * lanes + c->height * b.in_row, at_end);
    b.weights = guarded_floats(c->kernel_h * c->kernel_w * lanes, at_end);
    b.bias = guarded_floats(lanes, at_end);
    b.out = guarded_floats(b.out_h * b.out_row - b.out_gap * lanes, at_end);
    b.residual = guarded_floats(b.out.count, at_end);
    fill(&b.in, &state);
    fill(&b.weights, &state);
    fill(&b.bias, &state);
    fill(&b.residual, &state);
    for (size_t y = 0; y < c->height; y++)
        for (size_t i = c->width * lanes; i < b.in_row; i++)
            b.in.data[b.gap * lanes + y * b.in_row + i] = 0;
    for (size_t i = 0; i < b.gap * lanes; i++)
        b.in.data[i] = 0;
    return b;
}

static void bench_free(struct bench *b)
{
    guarded_free(&b->in);
    guarded_free(&b->weights);
    guarded_free(&b->bias);
    guarded_free(&b->residual);
    guarded_free(&b->out);
}

static struct kernel_window window_of(const struct bench *b, size_t first, size_t rows)
{
    const struct window_case *c = b->c;
    return (struct kernel_window){
        .in = b->in.data + b->gap * b->lanes,
        .height = c->height,
        .width = c->width,
        .in_row = b->in_row,
        .kernel_height = c->kernel_h,
        .kernel_width = c->kernel_w,
        .stride_y = c->stride_y,
        .stride_x = c->stride_x,
        .dilation_y = c->dilation_y,
        .dilation_x = c->dilation_x,
        .pad_top = c->top,
        .pad_left = c->left,
        .out_width = b->out_w,
        .out_row = b->out_row,
        .first_row = first,
        .rows = rows,
        .out = b->out.data,
    };
}

/* The value of output (y, x), lane l, and how far from it a float32 sum may be. */
static double expected(const struct bench *b, enum what what, size_t y, size_t x, size_t l,
                       double *bound)
{
    const struct window_case *c = b->c;
    const float *in = b->in.data + b->gap * b->lanes;
    double sum = what == DEPTHWISE ? (double)b->bias.data[l] : what == MAXIMUM ? -HUGE_VAL : 0;
    double size = what == DEPTHWISE ? fabs(sum) : 0, counted = 0, padded = 0;
    for (size_t ky = 0; ky < c->kernel_h; ky++) {
        for (size_t kx = 0; kx < c->kernel_w; kx++) {
            const ptrdiff_t iy = (ptrdiff_t)(y * c->stride_y + ky * c->dilation_y - c->top);
            const ptrdiff_t ix = (ptrdiff_t)(x * c->stride_x + kx * c->dilation_x - c->left);
            padded +=
                iy < (ptrdiff_t)(c->height + c->bottom) && ix < (ptrdiff_t)(c->width + c->right);
            if (iy < 0 || ix < 0 || iy >= (ptrdiff_t)c->height || ix >= (ptrdiff_t)c->width)
                continue;
            double v = (double)in[(size_t)iy * b->in_row + (size_t)ix * b->lanes + l];
            counted++;
            if (what == DEPTHWISE)
                v *= (double)b->weights.data[(ky * c->kernel_w + kx) * b->lanes + l];
            sum = what == MAXIMUM ? fmax(sum, v) : sum + v;
            size += fabs(v);
        }
    }
    *bound = what == MAXIMUM ? 0 : (double)FLT_EPSILON * (size + 1) * (counted + 4);
    if (what == AVERAGE)
        return counted > 0 ? sum / counted : 0;
    return what == AVERAGE_PADDED ? sum / padded : sum;
}

static void run(const struct kernels *k, enum what what, const struct bench *b, size_t first,
                size_t rows, bool residual, const struct kernel_act *act)
{
    if (what == DEPTHWISE) {
        const struct kernel_depthwise d = {
            .window = window_of(b, first, rows),
            .blocks = 1,
            .weights = b->weights.data,
            .bias = b->bias.data,
            .residual = residual ? b->residual.data : NULL,
            .act = *act,
        };
        k->depthwise.fn(&d);
    } else {
        const struct kernel_pool p = {
            .window = window_of(b, first, rows),
            .pad_bottom = b->c->bottom,
            .pad_right = b->c->right,
            .average = what != MAXIMUM,
            .include_pad = what == AVERAGE_PADDED,
        };
        k->pool.fn(&p);
    }
}

/* Returns NULL, or what is wrong. */
static const char *check(const struct kernels *k, enum what what, const struct window_case *c,
                         bool at_end, bool residual, const struct kernel_act *act)
{
    static char message[200];
    const char *wrong = NULL;
    struct bench b = bench_create(c, k->lanes, what == DEPTHWISE, at_end);
    /* In two calls, as threads would. */
    run(k, what, &b, 0, b.out_h / 2, residual, act);
    run(k, what, &b, b.out_h / 2, b.out_h - b.out_h / 2, residual, act);
    for (size_t i = 0; i < b.out.count && !wrong; i++) {
        const size_t y = i / b.out_row, x = i % b.out_row / b.lanes, l = i % b.lanes;
        const float got = b.out.data[i];
        double bound = 0, want = 0;
        if (x >= b.out_w) {
            if (!guarded_is_poison(got))
                wrong = "wrote into a gap";
        } else {
            want = expected(&b, what, y, x, l, &bound);
            if (what == DEPTHWISE)
                want = apply(act, want + (residual ? (double)b.residual.data[i] : 0));
            if (!(fabs((double)got - want) <= bound || (double)got == want))
                wrong = "wrong value";
        }
        if (wrong)
            snprintf(message, sizeof message,
                     "%s %s, case %zu, at row %zu, pixel %zu, lane %zu (%s guarded, act %d): %.9g, "
                     "not %.9g",
                     names[what], wrong, (size_t)(c - cases), y, x, l, at_end ? "end" : "start",
                     (int)act->kind, (double)got, want);
    }
    bench_free(&b);
    return wrong ? message : NULL;
}

static const char *check_all(const struct kernels *k, enum what what)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (unsigned variant = 0; variant < (what == DEPTHWISE ? 12u : 2u); variant++) {
            const char *wrong =
                check(k, what, &cases[i], variant & 1, variant & 2, &acts[variant / 4]);
            if (wrong)
                return wrong;
        }
    }
    return NULL;
}

/* ---- every level ---- */

static void init_or_skip(struct kernels *kernels, enum cvd_cpu level)
{
    if (!cvd_cpu_supported(level))
        cr_skip_test("this CPU has no %s", cvd_cpu_name(level));
    mutants_kernels_init(kernels, level);
}

#define LEVELS(suite, name)                                                                     \
    ParameterizedTestParameters(suite, name)                                                    \
    {                                                                                           \
        static enum cvd_cpu levels[] = {CVD_CPU_C, CVD_CPU_NEON, CVD_CPU_AVX2, CVD_CPU_AVX512}; \
        return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);       \
    }                                                                                           \
    ParameterizedTest(enum cvd_cpu *level, suite, name)

LEVELS(depthwise, windows)
{
    struct kernels kernels;
    init_or_skip(&kernels, *level);
    const char *wrong = check_all(&kernels, DEPTHWISE);
    cr_assert_null(wrong, "%s: %s", kernels.depthwise.name, wrong);
}

LEVELS(pool, windows)
{
    struct kernels kernels;
    init_or_skip(&kernels, *level);
    for (enum what what = MAXIMUM; what <= AVERAGE_PADDED; what++) {
        const char *wrong = check_all(&kernels, what);
        cr_expect_null(wrong, "%s: %s", kernels.pool.name, wrong);
    }
}

/* Which rows a call computes changes no bit, nor does where a tile begins: a row of a wide map that
 * repeats gives outputs that repeat. */
static void check_bits(const struct kernels *k, const struct window_case *c)
{
    struct bench b = bench_create(c, k->lanes, true, true);
    const struct kernel_act none = {KERNEL_ACT_NONE, 0, 0};
    run(k, DEPTHWISE, &b, 0, b.out_h, false, &none);
    struct guarded whole = guarded_floats(b.out.count, true);
    memcpy(whole.data, b.out.data, b.out.count * sizeof(float));
    for (size_t y = 0; y < b.out_h; y++) {
        run(k, DEPTHWISE, &b, y, 1, false, &none);
        cr_assert_arr_eq(b.out.data + y * b.out_row, whole.data + y * b.out_row,
                         b.out_w * b.lanes * sizeof(float), "row %zu", y);
    }
    float *in = b.in.data + b.gap * b.lanes;
    for (size_t y = 0; y < c->height; y++)
        for (size_t i = b.lanes; i < c->width * b.lanes; i++)
            in[y * b.in_row + i] = in[y * b.in_row + i % b.lanes];
    run(k, DEPTHWISE, &b, 0, b.out_h, false, &none);
    const size_t edge = c->kernel_w / 2 + 1; /* outputs there may see padding */
    for (size_t x = edge; x + edge < b.out_w; x++)
        for (size_t y = 0; y < b.out_h; y++)
            cr_assert_arr_eq(b.out.data + y * b.out_row + x * b.lanes,
                             b.out.data + y * b.out_row + edge * b.lanes, b.lanes * sizeof(float),
                             "row %zu, pixel %zu", y, x);
    guarded_free(&whole);
    bench_free(&b);
}

LEVELS(depthwise, same_bits)
{
    struct kernels kernels;
    init_or_skip(&kernels, *level);
    static const struct window_case wide[] = {{9, 43, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, false},
                                              {9, 61, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, false},
                                              {8, 43, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2, false},
                                              {9, 43, 7, 7, 1, 1, 1, 1, 3, 3, 3, 3, false},
                                              {6, 43, 3, 3, 1, 1, 2, 2, 2, 2, 2, 2, false}};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        check_bits(&kernels, &wide[i]);
}

/* Several blocks in one call are as each in its own. */
LEVELS(depthwise, blocks)
{
    enum { BLOCKS = 3 };
    struct kernels k;
    init_or_skip(&k, *level);
    const struct window_case c = {7, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, false};
    struct bench b = bench_create(&c, k.lanes, true, false);
    const size_t in_block = c.height * b.in_row, out_block = b.out_h * b.out_row;
    const size_t taps = 9 * k.lanes;
    struct guarded in = guarded_floats(b.gap * k.lanes + BLOCKS * in_block, true);
    struct guarded weights = guarded_floats(BLOCKS * taps, true);
    struct guarded bias = guarded_floats(BLOCKS * k.lanes, true);
    struct guarded residual = guarded_floats(BLOCKS * out_block - b.out_gap * k.lanes, true);
    struct guarded out = guarded_floats(residual.count, true);
    uint32_t state = 5;
    fill(&in, &state);
    fill(&weights, &state);
    fill(&bias, &state);
    fill(&residual, &state);
    struct kernel_depthwise d = {.window = window_of(&b, 0, b.out_h),
                                 .blocks = BLOCKS,
                                 .in_block = in_block,
                                 .out_block = out_block,
                                 .weights = weights.data,
                                 .bias = bias.data,
                                 .residual = residual.data,
                                 .act = {KERNEL_ACT_SWISH, 1, 0}};
    d.window.in = in.data + b.gap * k.lanes;
    d.window.out = out.data;
    k.depthwise.fn(&d);
    for (size_t i = 0; i < BLOCKS; i++) {
        d.window.in = in.data + b.gap * k.lanes + i * in_block;
        d.window.out = b.out.data;
        d.blocks = 1;
        d.weights = weights.data + i * taps;
        d.bias = bias.data + i * k.lanes;
        d.residual = residual.data + i * out_block;
        k.depthwise.fn(&d);
        for (size_t y = 0; y < b.out_h; y++)
            cr_assert_arr_eq(out.data + i * out_block + y * b.out_row, b.out.data + y * b.out_row,
                             b.out_w * k.lanes * sizeof(float), "block %zu, row %zu", i, y);
    }
    guarded_free(&in);
    guarded_free(&weights);
    guarded_free(&bias);
    guarded_free(&residual);
    guarded_free(&out);
    bench_free(&b);
}

/* A NaN anywhere under the window is the maximum, first or last. */
LEVELS(pool, nan_wins)
{
    struct kernels kernels;
    init_or_skip(&kernels, *level);
    const struct kernel_act none = {KERNEL_ACT_NONE, 0, 0};
    for (size_t at = 0; at < 64; at++) {
        const struct window_case c = {8, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, false};
        struct bench b = bench_create(&c, kernels.lanes, false, true);
        const size_t y = at / 8, x = at % 8;
        b.in.data[y * b.in_row + x * b.lanes + 1] = NAN;
        run(&kernels, MAXIMUM, &b, 0, b.out_h, false, &none);
        for (size_t oy = 0; oy < 8; oy++)
            for (size_t ox = 0; ox < 8; ox++) {
                const float v = b.out.data[oy * b.out_row + ox * b.lanes + 1];
                const bool under = oy + 1 >= y && oy <= y + 1 && ox + 1 >= x && ox <= x + 1;
                cr_assert_eq(isnan(v) != 0, under, "NaN at %zu, output %zu %zu: %g", at, oy, ox,
                             (double)v);
            }
        bench_free(&b);
    }
}

LEVELS(pool, whole_map)
{
    struct kernels kernels;
    init_or_skip(&kernels, *level);
    const size_t sizes[][2] = {{1, 1}, {1, 2}, {2, 3}, {7, 7}, {5, 4}, {3, 9}, {14, 14}};
    const size_t lanes = kernels.lanes, gap = 1, blocks = 2;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int average = 0; average < 2; average++) {
            const size_t h = sizes[i][0], w = sizes[i][1], row = (w + gap) * lanes;
            struct guarded in = guarded_floats(blocks * h * row - gap * lanes, i & 1);
            struct guarded out = guarded_floats(blocks * lanes, i & 1);
            uint32_t state = 3;
            for (size_t j = 0; j < in.count; j++)
                if (j % row < w * lanes) /* a gap stays poison: it must not be read */
                    in.data[j] = guarded_random(&state) - 2;
            const struct kernel_global_pool p = {.in = in.data,
                                                 .height = h,
                                                 .width = w,
                                                 .in_row = row,
                                                 .in_block = h * row,
                                                 .blocks = blocks,
                                                 .out = out.data,
                                                 .average = average};
            kernels.global_pool.fn(&p);
            for (size_t l = 0; l < blocks * lanes; l++) {
                double want = average ? 0 : -HUGE_VAL;
                for (size_t j = 0; j < h * w; j++) {
                    const double v =
                        (double)
                            in.data[l / lanes * h * row + j / w * row + j % w * lanes + l % lanes];
                    want = average ? want + v / (double)(h * w) : fmax(want, v);
                }
                cr_assert_float_eq((double)out.data[l], want, average ? 2e-6 : 0,
                                   "%zux%zu lane %zu: %g, not %g", h, w, l, (double)out.data[l],
                                   want);
            }
            guarded_free(&in);
            guarded_free(&out);
        }
    }
}

/* ---- wrong kernels are caught ---- */

enum fault { NO_FAULT, DEAF_TO_BIAS, SHIFTED, FORGETS_LAST_ROW, WIDE_STORE, WRAPS, OVER_READ };
static enum fault fault;
static kernel_depthwise_fn honest;

static void fake_depthwise(const struct kernel_depthwise *d)
{
    struct kernel_depthwise e = *d;
    float zeros[16] = {0};
    if (fault == DEAF_TO_BIAS)
        e.bias = zeros;
    if (fault == SHIFTED)
        e.window.pad_left = 0;
    if (fault == FORGETS_LAST_ROW && e.window.rows > 0)
        e.window.rows--;
    if (fault == WRAPS)
        e.window.pad_top += e.window.height > 2;
    honest(&e);
    if (fault == WIDE_STORE && e.window.rows > 1)
        e.window.out[e.window.out_row - 1] = 0;
    if (fault == OVER_READ)
        *e.window.out +=
            0 * *(const volatile float *)(e.window.in + e.window.height * e.window.in_row);
}

Test(depthwise, catches_wrong_kernels)
{
    struct kernels kernels;
    mutants_kernels_init(&kernels, CVD_CPU_C);
    honest = kernels.depthwise.fn;
    kernels.depthwise.fn = fake_depthwise;
    fault = NO_FAULT;
    const char *wrong = check_all(&kernels, DEPTHWISE);
    cr_assert_null(wrong, "%s", wrong);
    for (fault = DEAF_TO_BIAS; fault < OVER_READ; fault++)
        cr_expect_not_null(check_all(&kernels, DEPTHWISE), "fault %d was not noticed", (int)fault);
}

/* In a child, which must not come to its end. */
Test(depthwise, catches_reading_beyond)
{
    const pid_t child = fork();
    int status;
    cr_assert_geq(child, 0);
    if (child == 0) {
        struct kernels kernels;
        mutants_kernels_init(&kernels, CVD_CPU_C);
        honest = kernels.depthwise.fn;
        kernels.depthwise.fn = fake_depthwise;
        fault = OVER_READ;
        fclose(stderr); /* a sanitizer's report */
        check_all(&kernels, DEPTHWISE);
        _exit(0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect_not(WIFEXITED(status) && WEXITSTATUS(status) == 0, "reading beyond went unnoticed");
}
