/*
 * Winograd's convolution of every CPU level: the products against a naive sum, the transforms
 * around an exact product (on inputs and filters for which they must reproduce the convolution)
 * against a naive convolution in double precision, the whole against the same. Memory lies between
 * pages that cannot be touched, outputs in poison.
 */
#include "engine/kernels/kernels.h"
#include "engine/ops/winograd.h"
#include "engine/runtime/mem.h"
#include "tests/support/guarded.h"
#include "tests/support/mutants.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

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

/* ---- products ---- */

static void check_product(const struct kernels *k, size_t channels, size_t tiles, size_t vectors,
                          bool at_end)
{
    enum { ELEMENTS = 3 };
    const size_t lanes = k->lanes, blocks = (channels + lanes - 1) / lanes, pad = 5;
    const size_t in_element = blocks * tiles * lanes + pad;
    const size_t out_element = vectors * tiles * lanes + pad;
    struct guarded in = guarded_floats(ELEMENTS * in_element - pad, at_end);
    struct guarded out = guarded_floats(ELEMENTS * out_element - pad, at_end);
    struct guarded weights = guarded_floats(ELEMENTS * channels * vectors * lanes, at_end);
    uint32_t state = 5;
    for (size_t i = 0; i < weights.count; i++)
        weights.data[i] = guarded_random(&state);
    /* Lanes beyond the last channel stay poison: they must not count. */
    for (size_t i = 0; i < in.count; i++)
        if (i % in_element < blocks * tiles * lanes &&
            i % in_element / (tiles * lanes) * lanes + i % in_element % lanes < channels)
            in.data[i] = guarded_random(&state);
    const struct kernel_winograd_product p = {
        .in = in.data,
        .in_element = in_element,
        .in_block = tiles * lanes,
        .weights = weights.data,
        .out = out.data,
        .out_element = out_element,
        .out_block = tiles * lanes,
        .elements = ELEMENTS,
        .channels = channels,
        .tiles = tiles,
        .vectors = vectors,
    };
    k->winograd.product(&p);
    for (size_t i = 0; i < out.count; i++) {
        const size_t x = i / out_element, at = i % out_element;
        if (at >= vectors * tiles * lanes) {
            cr_assert(guarded_is_poison(out.data[i]), "wrote between elements");
            continue;
        }
        const size_t v = at / (tiles * lanes), t = at / lanes % tiles, l = at % lanes;
        double sum = 0, size = 0;
        for (size_t c = 0; c < channels; c++) {
            const double y =
                (double)
                    in.data[x * in_element + c / lanes * tiles * lanes + t * lanes + c % lanes] *
                (double)weights.data[((x * channels + c) * vectors + v) * lanes + l];
            sum += y;
            size += fabs(y);
        }
        cr_assert(fabs((double)out.data[i] - sum) <=
                      (double)FLT_EPSILON * size * (double)(channels + 1),
                  "%zu channels, %zu tiles, %zu vectors: element %zu tile %zu vector %zu lane %zu "
                  "is %g, not %g",
                  channels, tiles, vectors, x, t, v, l, (double)out.data[i], sum);
    }
    guarded_free(&in);
    guarded_free(&out);
    guarded_free(&weights);
}

LEVELS(winograd, products)
{
    struct kernels k;
    init_or_skip(&k, *level);
    const size_t channels[] = {1, k.lanes - 1, k.lanes, k.lanes + 1, 2 * k.lanes + 3};
    for (size_t c = 0; c < sizeof channels / sizeof *channels; c++)
        for (size_t tiles = 1; tiles <= 27; tiles++)
            for (size_t v = 1; v <= KERNEL_WINOGRAD_MAX_VECTORS; v++)
                check_product(&k, channels[c], tiles, v, tiles & 1);
    /* sums cut into pieces */
    for (size_t tiles = 1; tiles <= 27; tiles += 13)
        for (size_t v = 1; v <= KERNEL_WINOGRAD_MAX_VECTORS; v++)
            check_product(&k, 1600 / k.lanes + 401, tiles, v, tiles & 1);
}

/* ---- the whole convolution ---- */

struct conv_case {
    size_t images, in, out, height, width, top, left, bottom, right;
    size_t gap, out_gap;
    bool residual;
    enum kernel_act_kind act;
};

/* Memory of one convolution. */
struct conv {
    const struct conv_case *c;
    struct winograd w;
    struct blocked_map in, out;
    struct guarded x, y, residual, weights, bias;
    void *packed;
};

static struct conv conv_create(const struct kernels *k, const struct conv_case *c, unsigned tile,
                               bool at_end)
{
    struct conv v = {.c = c};
    const size_t lanes = k->lanes;
    const struct cvd_shape x = {
        4, {(int64_t)c->images, (int64_t)c->in, (int64_t)c->height, (int64_t)c->width}};
    const struct cvd_shape y = {4,
                                {(int64_t)c->images, (int64_t)c->out,
                                 (int64_t)(c->height + c->top + c->bottom - 2),
                                 (int64_t)(c->width + c->left + c->right - 2)}};
    blocked_map(&x, (struct op_layout){.lanes = k->lanes, .gap = (unsigned)c->gap}, &v.in);
    blocked_map(&y, (struct op_layout){.lanes = k->lanes, .gap = (unsigned)c->out_gap}, &v.out);
    v.x = guarded_floats(c->images * v.in.image, at_end);
    v.y = guarded_floats(c->images * v.out.image, at_end);
    v.residual = guarded_floats(v.y.count, at_end);
    v.weights = guarded_floats(c->out * c->in * 9, at_end);
    v.bias = guarded_floats(c->out, at_end);
    uint32_t state = 11;
    for (size_t i = 0; i < v.weights.count; i++)
        v.weights.data[i] = guarded_random(&state);
    for (size_t i = 0; i < v.bias.count; i++)
        v.bias.data[i] = guarded_random(&state);
    for (size_t i = 0; i < v.y.count; i++)
        v.residual.data[i] = guarded_random(&state);
    for (size_t i = 0; i < v.x.count; i++) {
        /* A gap behind each row, and one before the image. */
        const size_t at = i % v.in.image + v.in.row - c->gap * lanes;
        v.x.data[i] = at % v.in.row >= c->width * lanes ? 0 : guarded_random(&state);
    }
    size_t bytes;
    cr_assert(winograd_bytes(k, tile, c->in, c->out, &bytes));
    v.packed = mem_alloc(bytes);
    cr_assert_not_null(v.packed);
    winograd_init(&v.w, k, tile, c->in, c->out, v.weights.data, v.bias.data, v.packed);
    return v;
}

static void conv_free(struct conv *v)
{
    guarded_free(&v->x);
    guarded_free(&v->y);
    guarded_free(&v->residual);
    guarded_free(&v->weights);
    guarded_free(&v->bias);
    mem_free(v->packed);
}

static void convolve(const struct kernels *k, const struct conv *v, struct tpool *pool)
{
    size_t bytes;
    cr_assert(winograd_scratch(&v->w, &bytes));
    cr_assert(mem_round_up(bytes, &bytes));
    const size_t threads = pool ? tpool_threads(pool) : 1;
    char *scratch = mem_alloc(threads * bytes);
    cr_assert_not_null(scratch);
    memset(scratch, 0xff, threads * bytes); /* NaNs */
    const struct winograd_job job = {
        .w = &v->w,
        .kernels = k,
        .in_map = v->in,
        .out_map = v->out,
        .pad_top = v->c->top,
        .pad_left = v->c->left,
        .in = v->x.data + v->c->gap * k->lanes,
        .residual = v->c->residual ? v->residual.data + v->c->out_gap * k->lanes : NULL,
        .residual_image = v->out.image,
        .out = v->y.data + v->c->out_gap * k->lanes,
        .act = {v->c->act, 0, v->c->act == KERNEL_ACT_CLIP ? INFINITY : 0},
        .scratch = scratch,
        .scratch_stride = bytes,
    };
    winograd_run(&job, pool);
    mem_free(scratch);
}

/* Output (image, channel, y, x) in double precision; *size: the sum of the terms' absolutes. */
static double naive(const struct conv *v, size_t lanes, size_t image, size_t o, size_t y, size_t x,
                    double *size)
{
    const struct conv_case *c = v->c;
    double sum = (double)v->bias.data[o];
    *size = fabs(sum);
    for (size_t i = 0; i < c->in; i++) {
        for (size_t tap = 0; tap < 9; tap++) {
            const size_t iy = y + tap / 3 - c->top, ix = x + tap % 3 - c->left;
            if (iy >= c->height || ix >= c->width) /* wraps below 0 */
                continue;
            const double term =
                (double)v->weights.data[(o * c->in + i) * 9 + tap] *
                (double)v->x.data[c->gap * lanes + image * v->in.image + i / lanes * v->in.block +
                                  iy * v->in.row + ix * lanes + i % lanes];
            sum += term;
            *size += fabs(term);
        }
    }
    return sum;
}

static void check_conv(const struct kernels *k, const struct conv_case *c, unsigned tile,
                       bool at_end)
{
    struct conv v = conv_create(k, c, tile, at_end);
    const struct blocked_map *m = &v.out;
    const size_t lanes = k->lanes;
    convolve(k, &v, NULL);
    for (size_t i = 0; i < v.y.count; i++) {
        const size_t image = i / m->image, at = i % m->image;
        const size_t in = at - m->first; /* wraps in the gap before the first row */
        const size_t x = in % m->row / lanes, y = in % m->block / m->row;
        const size_t o = in / m->block * lanes + in % lanes;
        if (at < m->first || x >= m->width) {
            cr_assert_eq(v.y.data[i], 0, "a gap is not zero");
            continue;
        }
        if (o >= c->out) {
            cr_assert(isfinite(v.y.data[i]), "lane %zu of the last block is not finite",
                      in % lanes);
            continue;
        }
        double size, want = naive(&v, lanes, image, o, y, x, &size);
        if (c->residual)
            want += (double)v.residual.data[i];
        if (c->act == KERNEL_ACT_CLIP)
            want = fmax(want, 0);
        if (c->act == KERNEL_ACT_SIGMOID)
            want = 1 / (1 + exp(-want));
        /* Elements of the transforms are up to 2.5 times larger than what they are made of, in each
         * of two dimensions; errors of different terms add like random ones. */
        const double bound = (double)FLT_EPSILON * (2 + size) * 8;
        cr_assert(fabs((double)v.y.data[i] - want) <= bound,
                  "F(%u): %zu -> %zu channels, %zux%zu: image %zu channel %zu at %zu, %zu is %.9g, "
                  "not %.9g (bound %g)",
                  tile, c->in, c->out, c->height, c->width, image, o, y, x, (double)v.y.data[i],
                  want, bound);
    }
    conv_free(&v);
}

LEVELS(winograd, convolutions)
{
    struct kernels k;
    init_or_skip(&k, *level);
    const struct conv_case cases[] = {
        {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, false, KERNEL_ACT_NONE},
        {1, 3, 5, 2, 3, 1, 1, 1, 1, 1, 1, false, KERNEL_ACT_NONE},
        {1, 4, 8, 4, 4, 1, 1, 1, 1, 1, 1, false, KERNEL_ACT_CLIP},
        {1, 16, 16, 5, 5, 1, 1, 1, 1, 1, 1, true, KERNEL_ACT_NONE},
        {1, 17, 33, 7, 7, 1, 1, 1, 1, 1, 0, true, KERNEL_ACT_CLIP},
        {2, 20, 40, 8, 6, 1, 1, 1, 1, 2, 1, false, KERNEL_ACT_SIGMOID},
        {3, 19, 50, 9, 13, 1, 1, 1, 1, 1, 2, true, KERNEL_ACT_SIGMOID},
        {1, 8, 20, 6, 6, 0, 0, 0, 0, 0, 0, false, KERNEL_ACT_NONE},
        {1, 8, 20, 9, 11, 0, 0, 0, 0, 1, 1, false, KERNEL_ACT_CLIP},
        {1, 8, 12, 7, 10, 0, 1, 1, 0, 1, 0, false, KERNEL_ACT_NONE},
        {1, 8, 12, 10, 7, 1, 0, 0, 1, 1, 0, false, KERNEL_ACT_NONE},
        {1, 8, 12, 6, 6, 1, 1, 1, 1, 0, 0, false, KERNEL_ACT_NONE}, /* no gap: edges are copied */
        {1, 70, 100, 14, 14, 1, 1, 1, 1, 1, 1, true, KERNEL_ACT_CLIP},
        {1, 24, 40, 28, 30, 1, 1, 1, 1, 1, 1, false, KERNEL_ACT_NONE},
        {5, 130, 40, 7, 7, 1, 1, 1, 1, 1, 1, false, KERNEL_ACT_NONE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (unsigned variant = 0; variant < 4; variant++)
            check_conv(&k, &cases[i], variant & 1 ? 2 : 4, variant & 2);
}

/* Neither threads nor the company of other images change a bit. */
LEVELS(winograd, same_bits)
{
    struct kernels k;
    init_or_skip(&k, *level);
    struct tpool *pool;
    struct cvd_error err;
    cr_assert_eq(tpool_create(3, &pool, &err), CVD_STATUS_OK);
    const struct conv_case cases[] = {
        {4, 36, 80, 14, 14, 1, 1, 1, 1, 1, 1, true, KERNEL_ACT_CLIP},
        {2, 40, 48, 57, 45, 1, 1, 1, 1, 1, 1, false, KERNEL_ACT_NONE},
        {1, 200, 130, 7, 7, 1, 1, 1, 1, 1, 0, false, KERNEL_ACT_NONE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (unsigned tile = 2; tile <= 4; tile += 2) {
            struct conv v = conv_create(&k, &cases[i], tile, false);
            convolve(&k, &v, NULL);
            struct guarded alone = guarded_floats(v.y.count, false);
            memcpy(alone.data, v.y.data, v.y.count * sizeof(float));
            for (size_t j = 0; j < v.y.count; j++)
                v.y.data[j] = guarded_poison();
            convolve(&k, &v, pool);
            cr_expect_arr_eq(v.y.data, alone.data, v.y.count * sizeof(float),
                             "case %zu, F(%u): threads", i, tile);
            for (size_t image = 0; image < cases[i].images; image++) {
                struct conv one = v;
                one.in.images = one.out.images = 1;
                one.x.data += image * v.in.image;
                one.residual.data += image * v.out.image;
                one.y.data += image * v.out.image;
                memset(one.y.data, 0, v.out.image * sizeof(float));
                convolve(&k, &one, image & 1 ? pool : NULL);
                for (size_t j = 0; j < v.out.image; j++) {
                    const float want = alone.data[image * v.out.image + j];
                    cr_assert(one.y.data[j] == want, "case %zu, F(%u): image %zu alone", i, tile,
                              image);
                }
            }
            guarded_free(&alone);
            conv_free(&v);
        }
    }
    tpool_destroy(pool);
}

/* The bound of these tests would notice a single wrong tap or coefficient. */
Test(winograd, catches_a_wrong_coefficient)
{
    struct kernels k;
    mutants_kernels_init(&k, CVD_CPU_C);
    const struct conv_case c = {1, 70, 4, 6, 6, 1, 1, 1, 1, 1, 0, false, KERNEL_ACT_NONE};
    struct conv v = conv_create(&k, &c, 4, true);
    float *u = v.w.weights;
    u[3] += 1e-2f;
    convolve(&k, &v, NULL);
    size_t wrong = 0;
    for (size_t y = 0; y < 6; y++) {
        for (size_t x = 0; x < 6; x++) {
            double size;
            const double want = naive(&v, k.lanes, 0, 3, y, x, &size);
            const float got = v.y.data[y * v.out.row + x * k.lanes + 3];
            wrong += !(fabs((double)got - want) <= (double)FLT_EPSILON * (2 + size) * 8);
        }
    }
    cr_expect_gt(wrong, 0);
    conv_free(&v);
}
