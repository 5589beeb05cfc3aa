/*
 * The convolution kernels of every CPU level (conv.h, plain.h) against naive loops in double
 * precision. Operands lie flush against pages that cannot be touched, once at their end and once at
 * their start; outputs stand in poison. The last tests show that wrong kernels are caught.
 */
#include "engine/kernels/conv_pack.h"
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

#define LEVELS(suite, name)                                                                     \
    ParameterizedTestParameters(suite, name)                                                    \
    {                                                                                           \
        static enum cvd_cpu levels[] = {CVD_CPU_C, CVD_CPU_NEON, CVD_CPU_AVX2, CVD_CPU_AVX512}; \
        return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);       \
    }                                                                                           \
    ParameterizedTest(enum cvd_cpu *level, suite, name)

static void init_or_skip(struct kernels *kernels, enum cvd_cpu level)
{
    if (!cvd_cpu_supported(level))
        cr_skip_test("this CPU has no %s", cvd_cpu_name(level));
    mutants_kernels_init(kernels, level);
}

static char message[200];

static void fill(struct guarded *g, uint32_t *state)
{
    for (size_t i = 0; i < g->count; i++)
        g->data[i] = guarded_random(state);
}

static double clip(const struct kernel_act *act, double x)
{
    if (act->kind != KERNEL_ACT_CLIP)
        return x;
    return x < (double)act->alpha  ? (double)act->alpha
           : x > (double)act->beta ? (double)act->beta
                                   : x;
}

/* ---- kernel_conv ---- */

enum start { FROM_BIAS, FROM_OUT };

struct conv_case {
    size_t pixels, vectors;
    size_t blocks, inner, short_of; /* the last block has so many inputs less */
    size_t columns, rows, first_row, weight_rows;
    size_t in_inner, in_pixel; /* in_pixel 0: several */
    size_t width, out_x;       /* 0: no bends */
    size_t missing_lanes;      /* of the last vector */
    enum start start;
    bool residual, clip, prefetch, at_end;
};

/* The case's call and its memory. */
struct conv_run {
    struct kernel_conv c;
    struct guarded in, w, bias, out, residual;
    size_t lanes, n;       /* channels of a vector, of all */
    size_t at[64];         /* offset of each output pixel */
    float before[64 * 64]; /* what stands there, for FROM_OUT */
};

static void set_up(const struct kernels *k, const struct conv_case *t, struct conv_run *r)
{
    const size_t lanes = k->lanes, n = t->vectors * lanes;
    const size_t total = t->blocks * t->inner - t->short_of, last_lanes = lanes - t->missing_lanes;
    struct kernel_conv c = {
        .pixels = t->pixels,
        .vectors = t->vectors,
        .in_pixel = t->in_pixel,
        .in_inner = t->in_inner,
        .in_column = t->in_inner + 1,
        .total = total,
        .inner = t->inner,
        .columns = t->columns,
        .rows = t->rows,
        .first_row = t->first_row,
        .weight_rows = t->weight_rows,
        .out_pixel = lanes + (t->missing_lanes ? 5 : 0),
        .out_x = t->out_x,
        .width = t->width ? t->width : SIZE_MAX,
        .out_skip = t->width ? 2 * lanes : 0,
        .last_lanes = last_lanes,
        .act = {t->clip ? KERNEL_ACT_CLIP : KERNEL_ACT_NONE, -0.5f, 0.75f},
        .prefetches = t->prefetch ? 3 : 0,
        .prefetch_step = 100,
    };
    c.in_row = t->columns * c.in_column + t->inner * t->in_inner + 3;
    c.in_block = t->rows * c.in_row + t->pixels * t->in_pixel + 1;
    size_t end = 0;
    for (size_t p = 0, o = 0, x = t->out_x; p < t->pixels; p++) {
        r->at[p] = end = o;
        o += c.out_pixel;
        if (++x == c.width) {
            x = 0;
            o += c.out_skip;
        }
    }
    c.out_vector = end + lanes + 3;
    const size_t in_count = (t->blocks - 1) * c.in_block + (t->rows ? t->rows - 1 : 0) * c.in_row +
                            (t->columns - 1) * c.in_column +
                            ((t->blocks > 1 ? t->inner : total) - 1) * t->in_inner +
                            (t->pixels - 1) * t->in_pixel + 1;
    const size_t out_count = (t->vectors - 1) * c.out_vector + end + last_lanes;
    uint32_t state = 77;
    r->in = guarded_floats(in_count, t->at_end);
    r->w = guarded_floats(total * t->columns * t->weight_rows * n, t->at_end);
    r->bias = guarded_floats(n, t->at_end);
    r->out = guarded_floats(out_count, t->at_end);
    r->residual = guarded_floats(out_count, t->at_end);
    fill(&r->in, &state);
    fill(&r->w, &state);
    fill(&r->bias, &state);
    fill(&r->residual, &state);
    c.in = r->in.data;
    c.weights = r->w.data;
    c.bias = t->start == FROM_BIAS ? r->bias.data : NULL;
    c.residual = t->residual ? r->residual.data : NULL;
    c.out = r->out.data;
    c.prefetch = (const char *)r->w.data;
    for (size_t i = 0; i < t->pixels * n; i++) {
        const size_t o = i % n;
        r->before[i] = guarded_random(&state);
        if (t->start == FROM_OUT && (o / lanes + 1 < t->vectors || o % lanes < last_lanes))
            c.out[r->at[i / n] + o / lanes * c.out_vector + o % lanes] = r->before[i];
    }
    r->c = c;
    r->lanes = lanes;
    r->n = n;
}

static void tear_down(struct conv_run *r)
{
    guarded_free(&r->in);
    guarded_free(&r->w);
    guarded_free(&r->bias);
    guarded_free(&r->out);
    guarded_free(&r->residual);
}

/* The sum of output (p, o) without its residual; *size is that of the absolute values. */
static double naive_sum(const struct conv_case *t, const struct conv_run *r, size_t p, size_t o,
                        double *size)
{
    const struct kernel_conv *c = &r->c;
    double sum = c->bias ? (double)c->bias[o] : (double)r->before[p * r->n + o];
    const float *weight = c->weights;
    *size = fabs(sum);
    for (size_t b = 0; b < t->blocks; b++) {
        const size_t inner = b + 1 < t->blocks ? t->inner : t->inner - t->short_of;
        for (size_t row = 0; row < t->weight_rows; row++)
            for (size_t column = 0; column < t->columns; column++)
                for (size_t i = 0; i < inner; i++, weight += r->n) {
                    if (row < t->first_row || row >= t->first_row + t->rows)
                        continue;
                    const size_t from = p * c->in_pixel + b * c->in_block +
                                        (row - t->first_row) * c->in_row + column * c->in_column +
                                        i * c->in_inner;
                    const double x = (double)c->in[from] * (double)weight[o];
                    sum += x;
                    *size += fabs(x);
                }
    }
    return sum;
}

/* Runs one case through the kernel; returns NULL, or what is wrong. */
static const char *check_conv(const struct kernels *k, const struct conv_case *t)
{
    static struct conv_run r;
    set_up(k, t, &r);
    const struct kernel_conv *c = &r.c;
    k->conv.fn(c);

    const char *wrong = NULL;
    size_t written = 0;
    const double terms = (double)(c->total * t->columns * t->rows + 2);
    for (size_t i = 0; i < t->pixels * r.n && !wrong; i++) {
        const size_t p = i / r.n, o = i % r.n;
        if (o / r.lanes + 1 == t->vectors && o % r.lanes >= c->last_lanes)
            continue;
        const size_t place = r.at[p] + o / r.lanes * c->out_vector + o % r.lanes;
        double size, sum = naive_sum(t, &r, p, o, &size);
        if (c->residual)
            sum += (double)c->residual[place];
        size += fabs(sum);
        const double want = clip(&c->act, sum), have = (double)c->out[place];
        if (!(fabs(have - want) <= terms * (double)FLT_EPSILON * size)) {
            snprintf(message, sizeof message,
                     "%s: pixel %zu, channel %zu of %zu x %zu is %.9g, not %.9g", k->conv.name, p,
                     o, t->pixels, t->vectors, have, want);
            wrong = message;
        }
        written++;
    }
    for (size_t i = 0; i < r.out.count; i++)
        written -= !guarded_is_poison(r.out.data[i]);
    if (!wrong && written != 0) {
        snprintf(message, sizeof message, "%s: wrote between the outputs of %zu x %zu",
                 k->conv.name, t->pixels, t->vectors);
        wrong = message;
    }
    tear_down(&r);
    return wrong;
}

/* Everything awkward, for each tile shape. */
/* clang-format off */
static const struct conv_case kinds[] = {
    {.blocks = 1, .inner = 1, .columns = 1, .rows = 1, .weight_rows = 1, .in_inner = 1},
    {.blocks = 3, .inner = 4, .short_of = 3, .columns = 1, .rows = 1, .weight_rows = 1,
     .in_inner = 1, .residual = true, .clip = true},
    {.blocks = 2, .inner = 4, .short_of = 1, .columns = 3, .rows = 3, .weight_rows = 3,
     .in_inner = 1, .width = 5, .out_x = 3, .clip = true, .prefetch = true},
    {.blocks = 2, .inner = 3, .columns = 2, .rows = 1, .first_row = 2, .weight_rows = 4,
     .in_inner = 2, .width = 1, .residual = true},
    {.blocks = 3, .inner = 5, .columns = 1, .rows = 5, .weight_rows = 5, .in_inner = 2,
     .start = FROM_OUT, .clip = true},
    {.blocks = 1, .inner = 33, .columns = 1, .rows = 1, .weight_rows = 1, .in_inner = 1,
     .missing_lanes = 1, .clip = true},
    {.blocks = 1, .inner = 7, .columns = 1, .rows = 1, .weight_rows = 1, .in_inner = 1,
     .missing_lanes = 3, .start = FROM_OUT, .residual = true, .prefetch = true},
    {.blocks = 2, .inner = 5, .columns = 1, .rows = 3, .first_row = 1, .weight_rows = 5,
     .in_inner = 1, .in_pixel = 1, .clip = true},
    {.blocks = 3, .inner = 3, .columns = 1, .rows = 3, .weight_rows = 3, .in_inner = 1,
     .in_pixel = 1, .start = FROM_OUT},
    {.blocks = 2, .inner = 5, .short_of = 2, .columns = 1, .rows = 2, .weight_rows = 2,
     .in_inner = 1, .in_pixel = 1},
    {.blocks = 3, .inner = 3, .columns = 1, .rows = 2, .first_row = 1, .weight_rows = 3,
     .in_inner = 1, .in_pixel = 2, .clip = true},
    {.blocks = 3, .inner = 7, .columns = 1, .rows = 3, .first_row = 2, .weight_rows = 7,
     .in_inner = 1, .in_pixel = 2, .residual = true},
    {.blocks = 2, .inner = 2, .columns = 1, .rows = 0, .weight_rows = 3, .in_inner = 1},
};
/* clang-format on */

/* All tile shapes with all awkward features; returns NULL or the first failure. */
static const char *check_all(const struct kernels *k)
{
    for (size_t v = 1; v <= KERNEL_CONV_MAX_VECTORS; v++) {
        const size_t most = k->conv.max_pixels[v];
        for (size_t pixels = 1; pixels <= 2 * most + 3; pixels++)
            for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
                for (int end = 0; end < 2; end++) {
                    struct conv_case t = kinds[i];
                    t.pixels = pixels;
                    t.vectors = v;
                    if (t.in_pixel == 0)
                        t.in_pixel = pixels % 2 ? 7 : 16;
                    t.at_end = end;
                    const char *wrong = check_conv(k, &t);
                    if (wrong)
                        return wrong;
                }
    }
    return NULL;
}

LEVELS(conv, all_tiles)
{
    struct kernels kernels;
    init_or_skip(&kernels, *level);
    for (size_t v = 1; v <= KERNEL_CONV_MAX_VECTORS; v++)
        cr_assert(kernels.conv.max_pixels[v] >= 1 &&
                  kernels.conv.max_pixels[v] <= KERNEL_CONV_MAX_PIXELS);
    const char *wrong = check_all(&kernels);
    cr_assert_null(wrong, "%s", wrong);
}

/* An output's bits depend neither on the tile it is in nor on where its sum is cut. */
LEVELS(conv, same_bits)
{
    enum { PIXELS = 29, INPUTS = 40 };
    struct kernels k;
    init_or_skip(&k, *level);
    static float in[PIXELS * INPUTS], w[INPUTS * 64], bias[64], whole[PIXELS * 64],
        part[PIXELS * 64];
    uint32_t state = 3;
    for (size_t i = 0; i < sizeof in / sizeof *in; i++)
        in[i] = guarded_random(&state);
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        w[i] = guarded_random(&state);
    for (size_t v = 1; v <= KERNEL_CONV_MAX_VECTORS; v++) {
        const size_t n = v * k.lanes;
        struct kernel_conv c = {.in = in,
                                .weights = w,
                                .bias = bias,
                                .out = whole,
                                .pixels = PIXELS,
                                .vectors = v,
                                .in_pixel = INPUTS,
                                .in_inner = 1,
                                .total = INPUTS,
                                .inner = INPUTS,
                                .columns = 1,
                                .rows = 1,
                                .weight_rows = 1,
                                .out_pixel = n,
                                .out_vector = k.lanes,
                                .width = SIZE_MAX,
                                .last_lanes = k.lanes,
                                .act = {KERNEL_ACT_CLIP, 0, INFINITY}};
        k.conv.fn(&c);
        for (size_t p = 0; p < PIXELS; p++) { /* one at a time, from inputs cut at p */
            c.pixels = 1;
            c.in = in + p * INPUTS;
            c.out = part + p * n;
            c.bias = bias;
            c.act.kind = KERNEL_ACT_NONE;
            c.weights = w;
            c.total = c.inner = p + 1;
            k.conv.fn(&c);
            c.in += p + 1;
            c.weights += (p + 1) * n;
            c.bias = NULL;
            c.act.kind = KERNEL_ACT_CLIP;
            c.total = c.inner = INPUTS - p - 1;
            k.conv.fn(&c);
        }
        cr_assert_arr_eq(whole, part, PIXELS * n * sizeof *part, "%zu vectors", v);
    }
}

/* Activations that go by way of memory: as kernels.act does them. */
LEVELS(conv, activations)
{
    struct kernels k;
    init_or_skip(&k, *level);
    enum { PIXELS = 17 };
    static float in[PIXELS], w[64], bias[64], plain[PIXELS * 64], acted[PIXELS * 64];
    uint32_t state = 3;
    for (size_t i = 0; i < PIXELS; i++)
        in[i] = 3 * guarded_random(&state);
    for (size_t i = 0; i < 64; i++)
        w[i] = guarded_random(&state);
    for (int kind = KERNEL_ACT_LEAKY; kind < KERNEL_ACT_KINDS; kind++) {
        struct kernel_conv c = {.in = in,
                                .weights = w,
                                .bias = bias,
                                .out = plain,
                                .pixels = PIXELS,
                                .vectors = 2,
                                .in_pixel = 1,
                                .in_inner = 1,
                                .total = 1,
                                .inner = 1,
                                .columns = 1,
                                .rows = 1,
                                .weight_rows = 1,
                                .out_pixel = 2 * k.lanes,
                                .out_vector = k.lanes,
                                .width = SIZE_MAX,
                                .last_lanes = k.lanes};
        k.conv.fn(&c);
        c.act = (struct kernel_act){(enum kernel_act_kind)kind, 0.25f, 0.5f};
        c.out = acted;
        k.conv.fn(&c);
        k.act(&c.act, plain, PIXELS * 2 * k.lanes);
        cr_assert_arr_eq(plain, acted, PIXELS * 2 * k.lanes * sizeof *plain, "activation %d", kind);
    }
}

/* ---- kernel_grouped ---- */

struct grouped_case {
    size_t columns, stride, dilation, out_rows, blocks;
};

/* What output (y, p, o) sums up, beside its bias; *size is that of the absolute values. */
static double naive_grouped(const struct kernel_grouped *c, size_t lanes, size_t y, size_t p,
                            size_t o, double *size)
{
    double sum = 0;
    *size = 1;
    for (size_t b = 0; b < c->blocks; b++)
        for (size_t step = 0; step < c->group; step++) {
            const size_t i = o / c->group * c->group + (o + step + 1) % c->group;
            for (size_t r = 0; r < c->rows; r++)
                for (size_t x = 0; x < c->columns; x++) {
                    const size_t tap = (r + c->first_row) * c->columns + x;
                    const double z =
                        (double)c->in[y * c->in_step + p * c->in_pixel + b * c->in_block +
                                      r * c->in_row + x * c->in_column + i] *
                        (double)
                            c->weights[((b * c->group + step) * c->weight_rows * c->columns + tap) *
                                           lanes +
                                       i];
                    sum += z;
                    *size += fabs(z);
                }
        }
    return sum;
}

static void check_grouped(const struct kernels *k, const struct grouped_case *t, size_t group,
                          size_t pixels, bool at_end)
{
    const size_t lanes = k->lanes;
    const size_t width = ((pixels - 1) * t->stride + (t->columns - 1) * t->dilation + 1) * lanes;
    struct kernel_grouped c = {.pixels = pixels,
                               .out_rows = t->out_rows,
                               .out_row = pixels * lanes + 5,
                               .group = group,
                               .blocks = t->blocks,
                               .in_step = 2 * width + 1,
                               .in_pixel = t->stride * lanes,
                               .in_column = t->dilation * lanes,
                               .in_row = width + 3,
                               .columns = t->columns,
                               .rows = 2,
                               .first_row = 1,
                               .weight_rows = 4,
                               .act = {KERNEL_ACT_CLIP, -0.5f, 0.75f}};
    c.in_block = c.in_row + (t->out_rows - 1) * c.in_step + width + 7;
    const size_t out_count = (t->out_rows - 1) * c.out_row + pixels * lanes;
    uint32_t state = 7;
    struct guarded in = guarded_floats(t->blocks * c.in_block - 7, at_end);
    struct guarded w =
        guarded_floats(t->blocks * group * c.weight_rows * t->columns * lanes, at_end);
    struct guarded bias = guarded_floats(lanes, at_end);
    struct guarded out = guarded_floats(out_count, at_end);
    struct guarded residual = guarded_floats(out_count, at_end);
    fill(&in, &state);
    fill(&w, &state);
    fill(&bias, &state);
    fill(&residual, &state);
    c.in = in.data;
    c.weights = w.data;
    c.bias = bias.data;
    c.residual = pixels % 2 ? residual.data : NULL;
    c.out = out.data;
    k->grouped.fn(&c);
    for (size_t i = 0; i < out_count; i++) {
        const size_t y = i / c.out_row, p = i % c.out_row / lanes, o = i % c.out_row % lanes;
        if (p >= pixels) {
            cr_assert(guarded_is_poison(out.data[i]), "wrote between rows");
            continue;
        }
        double size, sum = (double)bias.data[o] + naive_grouped(&c, lanes, y, p, o, &size);
        if (c.residual)
            sum += (double)residual.data[i];
        const double want = clip(&c.act, sum);
        cr_assert(fabs((double)out.data[i] - want) <=
                      (double)(2 * t->blocks * group * t->columns + 2) * (double)FLT_EPSILON * size,
                  "%s: groups of %zu, %zu columns, stride %zu: float %zu of %zu pixels is %.9g, "
                  "not %.9g",
                  k->grouped.name, group, t->columns, t->stride, i, pixels, (double)out.data[i],
                  want);
    }
    guarded_free(&in);
    guarded_free(&w);
    guarded_free(&bias);
    guarded_free(&out);
    guarded_free(&residual);
}

LEVELS(grouped, all)
{
    struct kernels k;
    init_or_skip(&k, *level);
    static const struct grouped_case cases[] = {{3, 1, 1, 1, 1}, {3, 2, 1, 2, 1}, {3, 1, 2, 1, 2},
                                                {1, 1, 1, 3, 1}, {5, 1, 1, 1, 3}, {2, 3, 2, 1, 1},
                                                {3, 3, 1, 2, 2}, {3, 1, 1, 3, 2}};
    for (size_t group = 1; group <= k.lanes; group *= 2)
        for (size_t pixels = 1; pixels <= 31; pixels++)
            for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
                check_grouped(&k, &cases[i], group, pixels, (pixels + i) % 2);
}

/* An output's bits do not depend on the tile it is in, and the activation is that of kernels.act.
 */
LEVELS(grouped, same_bits)
{
    enum { PIXELS = 29, GROUP = 4 };
    struct kernels k;
    init_or_skip(&k, *level);
    static float in[(PIXELS + 2) * 16], w[GROUP * 3 * 16], bias[16], whole[PIXELS * 16],
        part[PIXELS * 16];
    uint32_t state = 3;
    for (size_t i = 0; i < sizeof in / sizeof *in; i++)
        in[i] = guarded_random(&state);
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        w[i] = guarded_random(&state);
    struct kernel_grouped c = {.in = in,
                               .weights = w,
                               .bias = bias,
                               .out = whole,
                               .pixels = PIXELS,
                               .out_rows = 1,
                               .group = GROUP,
                               .blocks = 1,
                               .in_pixel = k.lanes,
                               .in_column = k.lanes,
                               .columns = 3,
                               .rows = 1,
                               .weight_rows = 1,
                               .act = {KERNEL_ACT_SWISH, 1, 0}};
    k.grouped.fn(&c);
    c.act.kind = KERNEL_ACT_NONE;
    for (size_t p = 0; p < PIXELS; p++) {
        c.pixels = 1;
        c.in = in + p * k.lanes;
        c.out = part + p * k.lanes;
        k.grouped.fn(&c);
    }
    k.act(&(struct kernel_act){KERNEL_ACT_SWISH, 1, 0}, part, PIXELS * k.lanes);
    cr_assert_arr_eq(whole, part, PIXELS * k.lanes * sizeof *part);
}

/* ---- plain maps ---- */

static void check_planes(const struct kernels *k, size_t maps, size_t rows, size_t columns,
                         bool at_end)
{
    enum { CHANNELS = 2, WINDOW_ROWS = 3, WINDOW_COLUMNS = 2 };
    const size_t lanes = k->lanes, in_row = columns + 4;
    const size_t in_channel = (rows + 2) * in_row + 1, out_map = rows * columns + 2;
    /* The documented over-read. */
    const size_t in_count =
        (CHANNELS - 1) * in_channel + (rows + 1) * in_row + columns + 1 + lanes - 1;
    uint32_t state = 7;
    struct guarded in = guarded_floats(in_count, at_end);
    struct guarded w = guarded_floats(CHANNELS * WINDOW_ROWS * WINDOW_COLUMNS * maps, at_end);
    struct guarded bias = guarded_floats(maps, at_end);
    struct guarded out = guarded_floats((maps - 1) * out_map + rows * columns, at_end);
    fill(&in, &state);
    fill(&w, &state);
    fill(&bias, &state);
    const struct kernel_planes p = {
        .in = in.data,
        .weights = w.data,
        .bias = bias.data,
        .out = out.data,
        .maps = maps,
        .rows = rows,
        .columns = columns,
        .channels = CHANNELS,
        .window_rows = WINDOW_ROWS,
        .window_columns = WINDOW_COLUMNS,
        .in_row = in_row,
        .in_channel = in_channel,
        .in_tap_row = in_row,
        .in_tap_column = 1,
        .out_row = columns,
        .out_map = out_map,
        .act = {rows % 2 ? KERNEL_ACT_CLIP : KERNEL_ACT_LEAKY, -0.5f, 0.75f}};
    k->planes.fn(&p);
    for (size_t i = 0; i < out.count; i++) {
        const size_t o = i / out_map, y = i % out_map / columns, x = i % out_map % columns;
        if (i % out_map >= rows * columns) {
            cr_assert(guarded_is_poison(out.data[i]), "wrote between maps");
            continue;
        }
        double sum = (double)bias.data[o], size = 1;
        for (size_t c = 0; c < CHANNELS; c++)
            for (size_t r = 0; r < WINDOW_ROWS; r++)
                for (size_t t = 0; t < WINDOW_COLUMNS; t++) {
                    const double z =
                        (double)in.data[c * in_channel + (y + r) * in_row + x + t] *
                        (double)w.data[((c * WINDOW_ROWS + r) * WINDOW_COLUMNS + t) * maps + o];
                    sum += z;
                    size += fabs(z);
                }
        const double want =
            p.act.kind == KERNEL_ACT_LEAKY ? sum < 0 ? -0.5 * sum : sum : clip(&p.act, sum);
        cr_assert(fabs((double)out.data[i] - want) <= 14 * (double)FLT_EPSILON * size,
                  "%s: map %zu, row %zu, column %zu of %zu x %zu x %zu is %.9g, not %.9g",
                  k->planes.name, o, y, x, maps, rows, columns, (double)out.data[i], want);
    }
    guarded_free(&in);
    guarded_free(&w);
    guarded_free(&bias);
    guarded_free(&out);
}

LEVELS(planes, all)
{
    struct kernels k;
    init_or_skip(&k, *level);
    for (size_t maps = 1; maps <= KERNEL_PLANES_MAX_MAPS; maps++)
        for (size_t columns = 1; columns <= 2 * k.lanes + 3; columns++)
            for (size_t rows = 1; rows <= 4; rows++)
                check_planes(&k, maps, rows, columns, columns % 2);
}

LEVELS(planes, pool)
{
    enum { ROWS = 3 };
    struct kernels k;
    init_or_skip(&k, *level);
    for (size_t columns = 1; columns <= 3 * k.lanes + 1; columns++)
        for (int end = 0; end < 2; end++) {
            const size_t in_row = 2 * columns + 3;
            struct guarded in = guarded_floats((2 * ROWS - 1) * in_row + 2 * columns, end);
            struct guarded out = guarded_floats(ROWS * columns, end);
            uint32_t state = 1;
            fill(&in, &state);
            in.data[columns / 2] = NAN;
            k.planes.pool(in.data, in_row, out.data, ROWS, columns);
            for (size_t i = 0; i < ROWS * columns; i++) {
                const float *p = in.data + i / columns * 2 * in_row + i % columns * 2;
                const float *q = p + in_row;
                const float most = fmaxf(fmaxf(p[0], p[1]), fmaxf(q[0], q[1]));
                if (isnan(p[0]) || isnan(p[1]) || isnan(q[0]) || isnan(q[1]))
                    cr_assert(isnan(out.data[i]), "%zu of %zu is not a NaN", i, columns);
                else
                    cr_assert(out.data[i] == most, "%zu of %zu", i, columns);
            }
            guarded_free(&in);
            guarded_free(&out);
        }
}

LEVELS(reorder, both_ways)
{
    struct kernels k;
    init_or_skip(&k, *level);
    const size_t lanes = k.lanes;
    for (size_t channels = 1; channels <= lanes; channels++)
        for (size_t pixels = 1; pixels <= 2 * lanes + 3; pixels++) {
            const bool end = (channels + pixels) % 2;
            const size_t plane = pixels + 3;
            struct guarded plain = guarded_floats((channels - 1) * plane + pixels, end);
            struct guarded blocked = guarded_floats(pixels * lanes, end);
            struct guarded back = guarded_floats((channels - 1) * plane + pixels, end);
            uint32_t state = 1;
            fill(&plain, &state);
            k.reorder.block(plain.data, plane, channels, pixels, blocked.data);
            for (size_t i = 0; i < pixels * lanes; i++) {
                const float want =
                    i % lanes < channels ? plain.data[i % lanes * plane + i / lanes] : 0;
                cr_assert(blocked.data[i] == want, "channel %zu of %zu, pixel %zu of %zu",
                          i % lanes, channels, i / lanes, pixels);
            }
            k.reorder.unblock(blocked.data, plane, channels, pixels, back.data);
            for (size_t i = 0; i < back.count; i++)
                cr_assert(i % plane < pixels ? back.data[i] == plain.data[i]
                                             : guarded_is_poison(back.data[i]),
                          "float %zu of %zu channels, %zu pixels", i, channels, pixels);
            guarded_free(&plain);
            guarded_free(&blocked);
            guarded_free(&back);
        }
}

/* ---- packing ---- */

Test(conv_pack, order_and_zeros)
{
    /* 5 outputs in one group of 3 inputs with 2 taps; outputs 3 ... 6 in blocks of 2 inputs. */
    float data[5 * 3 * 2], to[3 * 2 * 4];
    for (int i = 0; i < 30; i++)
        data[i] = (float)(i + 1);
    const struct kernel_weights w = {data, 6, 2, 1, 5, 5, 3, 2};
    kernel_pack_conv(&w, 3, 4, 0, 3, 2, to);
    static const float want[] = {
        19, 25, 0, 0, 21, 27, 0, 0, 20, 26, 0, 0, 22, 28, 0, 0, /* inputs 0, 1; taps 0, 1 */
        23, 29, 0, 0, 24, 30, 0, 0,                             /* input 2 */
    };
    cr_assert_arr_eq(to, want, sizeof want);

    /* 4 outputs in 2 groups of 1 input: outputs see their own group's input. */
    const struct kernel_weights groups = {data, 1, 1, 1, 4, 2, 1, 1};
    kernel_pack_conv(&groups, 0, 4, 0, 2, 4, to);
    static const float own[] = {1, 2, 0, 0, 0, 0, 3, 4};
    cr_assert_arr_eq(to, own, sizeof own);

    /* Units of 2 in a block of 4, groups of 2 inputs and 2 outputs, 2 taps, 3 outputs. */
    const struct kernel_weights narrow = {data, 4, 2, 1, 3, 2, 2, 2};
    kernel_pack_grouped(&narrow, 0, 4, 2, to);
    static const float lanes[] = {5, 3, 0, 11, 6, 4, 0,  12, /* to the other lane; taps 0, 1 */
                                  1, 7, 9, 0,  2, 8, 10, 0};
    cr_assert_arr_eq(to, lanes, sizeof lanes);

    /* Groups of 3 inputs and 2 outputs in units of 2: the last block of inputs is half empty. */
    const struct kernel_weights uneven = {data, 3, 1, 1, 4, 2, 3, 1};
    kernel_pack_grouped(&uneven, 0, 4, 2, to);
    static const float blocks[] = {4, 2, 10, 8, 1, 5, 7, 11, 6, 0, 12, 0, 3, 0, 9, 0};
    cr_assert_arr_eq(to, blocks, sizeof blocks);
}

/* ---- wrong kernels are caught ---- */

enum fault { NO_FAULT, SHORT_SUM, IGNORES_BEND, WIDE_STORE, NO_RESIDUAL, NO_CLIP, OVER_READ };
static enum fault fault;

static void fake_conv(const struct kernel_conv *c)
{
    enum { LANES = 8 };
    const size_t n = c->vectors * LANES;
    for (size_t p = 0, at = 0, x = c->out_x; p < c->pixels; p++) {
        for (size_t o = 0; o < n; o++) {
            if (o / LANES + 1 == c->vectors && o % LANES >= c->last_lanes && fault != WIDE_STORE)
                continue;
            const size_t place = at + o / LANES * c->out_vector + o % LANES;
            float sum = c->bias ? c->bias[o] : c->out[place];
            const float *w = c->weights;
            for (size_t left = c->total, b = 0; left > 0; b++) {
                const size_t inner = left < c->inner ? left : c->inner;
                const size_t row = c->columns * inner * n;
                for (size_t r = 0; r < c->rows; r++)
                    for (size_t k = 0; k < c->columns; k++)
                        for (size_t i = 0; i + (fault == SHORT_SUM) < inner; i++)
                            sum += c->in[p * c->in_pixel + b * c->in_block + r * c->in_row +
                                         k * c->in_column + i * c->in_inner] *
                                   w[(c->first_row + r) * row + (k * inner + i) * n + o];
                w += c->weight_rows * row;
                left -= inner;
            }
            if (c->residual && fault != NO_RESIDUAL)
                sum += c->residual[place];
            if (fault == OVER_READ)
                sum += 0 * *(const volatile float *)w;
            c->out[place] = fault == NO_CLIP ? sum : (float)clip(&c->act, (double)sum);
        }
        at += c->out_pixel;
        if (++x == c->width && fault != IGNORES_BEND) {
            x = 0;
            at += c->out_skip;
        }
    }
}

static struct kernels fake(enum fault f)
{
    struct kernels k = {.level = CVD_CPU_C, .lanes = 8};
    k.conv.fn = fake_conv;
    k.conv.name = "fake";
    for (size_t v = 1; v <= KERNEL_CONV_MAX_VECTORS; v++)
        k.conv.max_pixels[v] = 3;
    fault = f;
    return k;
}

/* In a child: a wide store may meet a guard page. True when the fault was noticed. */
static bool is_caught(enum fault f)
{
    const pid_t child = fork();
    int status;
    cr_assert_geq(child, 0);
    if (child == 0) {
        fclose(stderr); /* a sanitizer's report */
        const struct kernels k = fake(f);
        _exit(check_all(&k) ? 1 : 0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

Test(conv, catches_wrong_kernels)
{
    const struct kernels right = fake(NO_FAULT);
    const char *wrong = check_all(&right);
    cr_assert_null(wrong, "%s", wrong);
    for (enum fault f = SHORT_SUM; f <= OVER_READ; f++)
        cr_expect(is_caught(f), "fault %d was not noticed", (int)f);
}
