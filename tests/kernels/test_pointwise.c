/*
 * Element-wise functions, softmax and layer norm of every CPU level against double precision: the
 * activations over all of float32's range with the errors that act.h states, the rest on awkward
 * sizes between pages that cannot be touched.
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

/* ---- activations ---- */

static double clamp01(double x)
{
    return fmin(fmax(x, 0), 1);
}

static double exact(const struct kernel_act *a, double x)
{
    const double alpha = (double)a->alpha, beta = (double)a->beta;
    switch (a->kind) {
    case KERNEL_ACT_CLIP:
        return fmin(fmax(x, alpha), beta);
    case KERNEL_ACT_LEAKY:
        return x < 0 ? alpha * x : x;
    case KERNEL_ACT_HARD_SIGMOID:
        return clamp01(alpha * x + beta);
    case KERNEL_ACT_HARD_SWISH:
        return x * clamp01(alpha * x + beta);
    case KERNEL_ACT_SIGMOID:
        return 1 / (1 + exp(-x));
    case KERNEL_ACT_TANH:
        return tanh(x);
    case KERNEL_ACT_SWISH:
        return x / (1 + exp(-alpha * x));
    case KERNEL_ACT_GELU:
        return 0.5 * x * erfc(-alpha * x);
    case KERNEL_ACT_MISH:
        return x * tanh(log1p(exp(x)));
    case KERNEL_ACT_EXP:
        return exp(x);
    default:
        return x;
    }
}

/* The relative error that act.h allows. The two hard ones round a sum, which may cancel: that is
 * an absolute error, as is one of Gelu's. */
static double allowed(const struct kernel_act *a, double x)
{
    switch (a->kind) {
    case KERNEL_ACT_NONE:
    case KERNEL_ACT_CLIP:
        return 0;
    case KERNEL_ACT_SIGMOID:
        return 3e-7 + 1.2e-7 * fmax(-x, 0);
    case KERNEL_ACT_SWISH:
        return 3e-7 + 1.2e-7 * fabs((double)a->alpha * x);
    case KERNEL_ACT_GELU:
        return 1e-6;
    case KERNEL_ACT_TANH:
        return 5e-7;
    case KERNEL_ACT_MISH:
        return 4e-7 + 1.2e-7 * fmax(-x, 0);
    case KERNEL_ACT_EXP:
        return 4e-7;
    default:
        return 2e-7;
    }
}

static double slack(const struct kernel_act *a, double x)
{
    switch (a->kind) {
    case KERNEL_ACT_HARD_SIGMOID:
        return 1.2e-7;
    case KERNEL_ACT_HARD_SWISH:
        return 1.2e-7 * fabs(x);
    case KERNEL_ACT_GELU:
        return x < 0 ? 1.5e-7 * fmin(-x, 1) : 1e-37;
    default:
        return a->kind >= KERNEL_ACT_SIGMOID ? 1e-37 * (1 + fmin(fabs(x), 100)) : 0;
    }
}

static const struct kernel_act acts[] = {
    {KERNEL_ACT_NONE, 0, 0},
    {KERNEL_ACT_CLIP, 0, INFINITY},
    {KERNEL_ACT_CLIP, -1, 6},
    {KERNEL_ACT_LEAKY, 0.1f, 0},
    {KERNEL_ACT_HARD_SIGMOID, 0.2f, 0.5f},
    {KERNEL_ACT_HARD_SWISH, 1.0f / 6, 0.5f},
    {KERNEL_ACT_SIGMOID, 0, 0},
    {KERNEL_ACT_TANH, 0, 0},
    {KERNEL_ACT_SWISH, 1, 0},
    {KERNEL_ACT_SWISH, 1.702f, 0},
    {KERNEL_ACT_GELU, 0.70710678f, 0},
    {KERNEL_ACT_MISH, 0, 0},
    {KERNEL_ACT_EXP, 0, 0},
};

/* All exponents and signs, with mantissas that wander; then a fine comb where the functions bend.
 */
static float sample(size_t i, size_t count)
{
    if (i % 2 == 0) {
        const uint32_t bits = (uint32_t)((uint64_t)i * 0xffffffffu / count);
        float f;
        memcpy(&f, &bits, sizeof f);
        return f;
    }
    return ((float)i / (float)count - 0.5f) * 220;
}

LEVELS(activation, errors)
{
    enum { COUNT = 1 << 21, CHUNK = 1 << 12 };
    struct kernels k;
    init_or_skip(&k, *level);
    static float x[CHUNK], y[CHUNK];
    for (size_t a = 0; a < sizeof acts / sizeof *acts; a++) {
        const struct kernel_act *act = &acts[a];
        double worst = 0;
        for (size_t done = 0; done < COUNT; done += CHUNK) {
            for (size_t i = 0; i < CHUNK; i++)
                x[i] = y[i] = sample(done + i, COUNT);
            k.act(act, y, CHUNK);
            for (size_t i = 0; i < CHUNK; i++) {
                if (isnan(x[i])) {
                    cr_assert(isnan(y[i]), "act %d of a NaN is %g", act->kind, (double)y[i]);
                    continue;
                }
                const double v = (double)x[i], got = (double)y[i];
                /* Beyond float32 the reference is infinite too. */
                const double want = (double)(float)exact(act, v), full = exact(act, v);
                if (got == want || (fabs(v) > 1e38 && act->kind == KERNEL_ACT_LEAKY))
                    continue;
                if (isinf(x[i]) && act->kind >= KERNEL_ACT_SWISH && x[i] < 0)
                    continue; /* -infinity times 0 */
                const double error = fabs(got - full), limit = slack(act, v);
                cr_assert(error <= limit + allowed(act, v) * fabs(full),
                          "act %d (%g, %g) of %.9g is %.9g, not %.9g: relative error %.3g",
                          act->kind, (double)act->alpha, (double)act->beta, v, got, full,
                          error / fabs(full));
                if (error > limit && error / fabs(full) > worst)
                    worst = error / fabs(full);
            }
        }
        if (act->kind >= KERNEL_ACT_SIGMOID)
            cr_log_info("%s: act %d, worst relative error %.2e", cvd_cpu_name(*level), act->kind,
                        worst);
    }
}

LEVELS(activation, whole_vectors_only)
{
    struct kernels k;
    init_or_skip(&k, *level);
    for (size_t n = 0; n <= (size_t)3 * k.lanes; n++) {
        for (int at_end = 0; at_end < 2; at_end++) {
            struct guarded y = guarded_floats(n, at_end);
            for (size_t i = 0; i < n; i++)
                y.data[i] = -1;
            k.act(&acts[1], y.data, n);
            for (size_t i = 0; i < n; i++)
                cr_assert_eq(y.data[i], i < n / k.lanes * k.lanes ? 0 : -1);
            guarded_free(&y);
        }
    }
}

/* ---- element-wise ---- */

static void check_map(const struct kernels *k, enum kernel_pointwise_kind kind, size_t rows,
                      size_t columns, const struct kernel_act *act, bool at_end, bool in_place)
{
    const size_t lanes = k->lanes, length = columns * lanes;
    const size_t a_row = length + 3, b_row = length + 7, y_row = in_place ? a_row : length + lanes;
    struct guarded a = guarded_floats((rows - 1) * a_row + length, at_end);
    struct guarded b = guarded_floats((rows - 1) * b_row + length, at_end);
    struct guarded y = guarded_floats((rows - 1) * y_row + length, at_end);
    struct guarded scale = guarded_floats(lanes, at_end), shift = guarded_floats(lanes, at_end);
    uint32_t state = 21;
    for (size_t i = 0; i < a.count; i++)
        if (i % a_row < length)
            a.data[i] = 4 * guarded_random(&state);
    for (size_t i = 0; i < b.count; i++)
        if (i % b_row < length)
            b.data[i] = guarded_random(&state);
    for (size_t i = 0; i < lanes; i++) {
        scale.data[i] = guarded_random(&state);
        shift.data[i] = guarded_random(&state);
    }
    float *const out = in_place ? y.data : NULL;
    if (in_place)
        memcpy(y.data, a.data, a.count * sizeof(float));
    const bool shifted = rows % 2;
    const struct kernel_pointwise p = {
        .kind = kind,
        .a = in_place ? out : a.data,
        .b = b.data,
        .scale = scale.data,
        .shift = shifted ? shift.data : NULL,
        .y = y.data,
        .rows = rows,
        .columns = columns,
        .a_row = a_row,
        .b_row = b_row,
        .y_row = y_row,
        .act = *act,
    };
    k->pointwise.fn(&p);
    for (size_t i = 0; i < y.count; i++) {
        const size_t row = i / y_row, at = i % y_row;
        if (at >= length) {
            cr_assert(guarded_is_poison(y.data[i]), "wrote beyond a row");
            continue;
        }
        const double u = (double)a.data[row * a_row + at], v = (double)b.data[row * b_row + at];
        double want = u;
        if (kind == KERNEL_POINTWISE_ADD)
            want = u + v;
        if (kind == KERNEL_POINTWISE_MUL)
            want = u * v;
        if (kind == KERNEL_POINTWISE_SCALE)
            want =
                u * (double)scale.data[at % lanes] + (shifted ? (double)shift.data[at % lanes] : 0);
        want = exact(act, want);
        cr_assert(fabs((double)y.data[i] - want) <= 1e-6 * (1 + fabs(want)),
                  "kind %d, %zux%zu, act %d: element %zu is %g, not %g", (int)kind, rows, columns,
                  (int)act->kind, i, (double)y.data[i], want);
    }
    guarded_free(&a);
    guarded_free(&b);
    guarded_free(&y);
    guarded_free(&scale);
    guarded_free(&shift);
}

LEVELS(pointwise, maps)
{
    struct kernels k;
    init_or_skip(&k, *level);
    const size_t columns[] = {1, 2, 7, 63, 64, 65, 150};
    for (enum kernel_pointwise_kind kind = KERNEL_POINTWISE_COPY; kind <= KERNEL_POINTWISE_SCALE;
         kind++)
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
            for (size_t rows = 1; rows <= 3; rows++)
                for (size_t a = 0; a < sizeof acts / sizeof *acts - 1; a++)
                    check_map(&k, kind, rows, columns[c], &acts[a], a & 1, rows == 2);
}

/* ---- softmax and layer norm ---- */

LEVELS(pointwise, softmax)
{
    struct kernels k;
    init_or_skip(&k, *level);
    const size_t lanes = k.lanes;
    const size_t counts[] = {1,         2,         lanes - 1, lanes,         lanes + 1,
                             2 * lanes, 4 * lanes, 1000,      5 * lanes + 3, 10};
    const float spreads[] = {0, 1, 30, 1000};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        for (size_t s = 0; s < 2 * sizeof spreads / sizeof *spreads; s++) {
            const size_t n = counts[c], rows = 3, x_row = n + 2, y_row = n + 5;
            struct guarded x = guarded_floats((rows - 1) * x_row + n, s & 1);
            struct guarded y = guarded_floats((rows - 1) * y_row + n, s & 1);
            uint32_t state = 31;
            for (size_t i = 0; i < x.count; i++)
                if (i % x_row < n)
                    x.data[i] = 500 + spreads[s / 2] * guarded_random(&state);
            const struct kernel_softmax soft = {x.data, y.data, rows, n, x_row, y_row};
            k.softmax.fn(&soft);
            for (size_t row = 0; row < rows; row++) {
                double max = -HUGE_VAL, sum = 0;
                for (size_t i = 0; i < n; i++)
                    max = fmax(max, (double)x.data[row * x_row + i]);
                for (size_t i = 0; i < n; i++)
                    sum += exp((double)x.data[row * x_row + i] - max);
                for (size_t i = 0; i < n; i++) {
                    const double want = exp((double)x.data[row * x_row + i] - max) / sum;
                    const double got = (double)y.data[row * y_row + i];
                    cr_assert(fabs(got - want) <= 2e-6 * want + 1e-37,
                              "%zu elements, spread %g: %g, not %g", n, (double)spreads[s / 2], got,
                              want);
                }
            }
            for (size_t i = 0; i < y.count; i++)
                cr_assert(i % y_row < n || guarded_is_poison(y.data[i]), "wrote beyond a row");
            /* In place, the same bits. */
            const struct kernel_softmax here = {x.data, x.data, rows, n, x_row, x_row};
            k.softmax.fn(&here);
            for (size_t row = 0; row < rows; row++)
                cr_assert_arr_eq(x.data + row * x_row, y.data + row * y_row, n * sizeof(float));
            guarded_free(&x);
            guarded_free(&y);
        }
    }
}

static void check_layer_norm(const struct kernels *k, size_t channels, size_t pixels, bool blocked,
                             bool at_end, float mean, float spread)
{
    const size_t lanes = k->lanes, blocks = (channels + lanes - 1) / lanes;
    const size_t pixel = blocked ? lanes : channels, block = blocked ? (pixels + 1) * lanes : lanes;
    const size_t count =
        blocked ? (blocks - 1) * block + (pixels - 1) * lanes + (channels - 1) % lanes + 1
                : channels * pixels;
    struct guarded x = guarded_floats(count, at_end), y = guarded_floats(count, at_end);
    struct guarded gamma = guarded_floats(channels, at_end),
                   beta = guarded_floats(channels, at_end);
    uint32_t state = 41;
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < channels; c++)
            x.data[p * pixel + c / lanes * block + c % lanes] =
                mean + spread * guarded_random(&state);
    for (size_t c = 0; c < channels; c++) {
        gamma.data[c] = guarded_random(&state);
        beta.data[c] = guarded_random(&state);
    }
    const bool with_beta = channels % 2;
    const struct kernel_layer_norm n = {
        .x = x.data,
        .gamma = gamma.data,
        .beta = with_beta ? beta.data : NULL,
        .y = y.data,
        .channels = channels,
        .pixels = pixels,
        .x_pixel = pixel,
        .x_block = block,
        .y_pixel = pixel,
        .y_block = block,
        .epsilon = 1e-6f,
    };
    k->layer_norm.fn(&n);
    size_t written = 0;
    for (size_t p = 0; p < pixels; p++) {
        double average = 0, variance = 0;
        for (size_t c = 0; c < channels; c++)
            average += (double)x.data[p * pixel + c / lanes * block + c % lanes] / (double)channels;
        for (size_t c = 0; c < channels; c++) {
            const double d = (double)x.data[p * pixel + c / lanes * block + c % lanes] - average;
            variance += d * d / (double)channels;
        }
        for (size_t c = 0; c < channels; c++) {
            const size_t at = p * pixel + c / lanes * block + c % lanes;
            const double factor = 1 / sqrt(variance + 1e-6);
            const double want = ((double)x.data[at] - average) * factor * (double)gamma.data[c] +
                                (with_beta ? (double)beta.data[c] : 0);
            /* The mean is rounded as numbers of its size are. */
            const double bound = 4e-6 + (double)fabsf(mean) * 3e-7 * factor;
            cr_assert(fabs((double)y.data[at] - want) <= bound,
                      "%zu channels, pixel %zu, channel %zu: %g, not %g", channels, p, c,
                      (double)y.data[at], want);
            written++;
        }
    }
    for (size_t i = 0; i < count; i++)
        written += guarded_is_poison(y.data[i]);
    cr_assert_eq(written, count, "wrote beyond the channels");
    guarded_free(&x);
    guarded_free(&y);
    guarded_free(&gamma);
    guarded_free(&beta);
}

LEVELS(pointwise, layer_norm)
{
    struct kernels k;
    init_or_skip(&k, *level);
    const size_t channels[] = {1, 3, k.lanes - 1, k.lanes, k.lanes + 1, 2 * k.lanes + 3, 96, 768};
    for (size_t c = 0; c < sizeof channels / sizeof *channels; c++)
        for (unsigned variant = 0; variant < 8; variant++)
            check_layer_norm(&k, channels[c], c % 2 ? 3 : 19, variant & 1, variant & 2,
                             variant & 4 ? 100 : 0, variant & 4 ? 1 : 3);
}
