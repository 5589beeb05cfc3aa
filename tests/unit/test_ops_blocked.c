/*
 * Operators on blocked maps against naive loops in double precision, at every CPU level, alone and
 * in a batch, on one thread and on four; memory around the values is poison, and gaps are checked.
 */
#include "tests/support/blocked_harness.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- Conv ---- */

struct conv_case {
    int n, c, h, w; /* input */
    int out, kh, kw;
    int stride_y, stride_x, dilation_y, dilation_x;
    int pads[4]; /* top, left, bottom, right */
    int groups;
    bool bias, residual;
    const char *activation;
    int in_gap, out_gap; /* more than needed, in; -1: plain */
};

static double activate(const char *name, double x)
{
    if (strcmp(name, "Relu") == 0)
        return x > 0 ? x : 0;
    if (strcmp(name, "Clip") == 0)
        return x < -0.5 ? -0.5 : x > 0.75 ? 0.75 : x;
    if (strcmp(name, "Swish") == 0)
        return x / (1 + exp(-x));
    if (strcmp(name, "HardSwish") == 0)
        return x * (x < -3 ? 0 : x > 3 ? 1 : x / 6 + 0.5);
    return x;
}

static int out_extent(int in, int k, int stride, int dilation, int pads)
{
    return (in + pads - (k - 1) * dilation - 1) / stride + 1;
}

static void naive_conv(const struct conv_case *t, const float *x, const float *w, const float *b,
                       const float *r, int oh, int ow, double *want, double *size)
{
    const int gi = t->c / t->groups, go = t->out / t->groups;
    for (int n = 0, at = 0; n < t->n; n++)
        for (int o = 0; o < t->out; o++)
            for (int y = 0; y < oh; y++)
                for (int xx = 0; xx < ow; xx++, at++) {
                    double sum = b ? (double)b[o] : 0, abs = fabs(sum);
                    for (int i = 0; i < gi; i++)
                        for (int ky = 0; ky < t->kh; ky++)
                            for (int kx = 0; kx < t->kw; kx++) {
                                const int iy = y * t->stride_y - t->pads[0] + ky * t->dilation_y;
                                const int ix = xx * t->stride_x - t->pads[1] + kx * t->dilation_x;
                                if (iy < 0 || ix < 0 || iy >= t->h || ix >= t->w)
                                    continue;
                                const int c = o / go * gi + i;
                                const double p =
                                    (double)x[((n * t->c + c) * t->h + iy) * t->w + ix] *
                                    (double)w[((o * gi + i) * t->kh + ky) * t->kw + kx];
                                sum += p;
                                abs += fabs(p);
                            }
                    if (r) {
                        sum += (double)r[at];
                        abs += fabs((double)r[at]);
                    }
                    want[at] = activate(t->activation, sum);
                    size[at] = abs + 1e-3;
                }
}

static void check_conv(const struct conv_case *t, enum cvd_cpu level)
{
    struct kernels kernels;
    kernels_init(&kernels, level);
    const int oh = out_extent(t->h, t->kh, t->stride_y, t->dilation_y, t->pads[0] + t->pads[2]);
    const int ow = out_extent(t->w, t->kw, t->stride_x, t->dilation_x, t->pads[1] + t->pads[3]);
    const size_t x_count = (size_t)(t->n * t->c * t->h * t->w);
    const size_t w_count = (size_t)(t->out * t->c / t->groups * t->kh * t->kw);
    const size_t y_count = (size_t)(t->n * t->out * oh * ow);
    const float *x = op_random(x_count, 3), *w = op_random(w_count, 5);
    const float *b = op_random((size_t)t->out, 7), *r = op_random(y_count, 9);
    double *want = (double *)(void *)op_random(2 * y_count, 1);
    double *size = (double *)(void *)op_random(2 * y_count, 1);
    naive_conv(t, x, w, t->bias ? b : NULL, t->residual ? r : NULL, oh, ow, want, size);

    const int64_t strides[] = {t->stride_y, t->stride_x};
    const int64_t dilations[] = {t->dilation_y, t->dilation_x};
    const int64_t pads[] = {t->pads[0], t->pads[1], t->pads[2], t->pads[3]};
    const struct op_attr attrs[] = {
        {.name = "strides", .type = OP_ATTR_INTS, .count = 2, .ints = strides},
        {.name = "dilations", .type = OP_ATTR_INTS, .count = 2, .ints = dilations},
        {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = pads},
        {.name = "group", .type = OP_ATTR_INT, .i = t->groups},
        {.name = "activation", .type = OP_ATTR_STRING, .s = t->activation},
        {.name = "activation_alpha",
         .type = OP_ATTR_FLOAT,
         .f = strcmp(t->activation, "Clip") == 0 ? -0.5f : 1.0f},
        {.name = "activation_beta", .type = OP_ATTR_FLOAT, .f = 0.75f},
    };
    char what[200];
    snprintf(what, sizeof what,
             "%dx%dx%dx%d to %d, %dx%d stride %dx%d dilation %dx%d pads %d,%d,%d,%d groups %d %s",
             t->n, t->c, t->h, t->w, t->out, t->kh, t->kw, t->stride_y, t->stride_x, t->dilation_y,
             t->dilation_x, t->pads[0], t->pads[1], t->pads[2], t->pads[3], t->groups,
             t->activation);
    struct blocked_case c = {
        .op = "Conv",
        .what = what,
        .attrs = attrs,
        .attr_count = sizeof attrs / sizeof attrs[0],
        .in = {{CVD_DTYPE_FLOAT32, OP_SHAPE(t->n, t->c, t->h, t->w), x, false},
               {CVD_DTYPE_FLOAT32, OP_SHAPE(t->out, t->c / t->groups, t->kh, t->kw), w, true},
               {t->bias ? CVD_DTYPE_FLOAT32 : CVD_DTYPE_NONE, OP_SHAPE(t->out), b, true},
               {t->residual ? CVD_DTYPE_FLOAT32 : CVD_DTYPE_NONE, OP_SHAPE(t->n, t->out, oh, ow), r,
                false}},
        .in_count = 4,
    };
    const int right =
        (ow - 1) * t->stride_x + (t->kw - 1) * t->dilation_x - t->pads[1] - (t->w - 1);
    const int gap = t->pads[1] > right ? t->pads[1] : right > 0 ? right : 0;
    if (t->in_gap >= 0)
        c.layout[0] =
            (struct op_layout){.lanes = kernels.lanes, .gap = (unsigned)(gap + t->in_gap)};
    if (t->out_gap >= 0)
        c.out_layout = (struct op_layout){.lanes = kernels.lanes, .gap = (unsigned)t->out_gap};
    c.layout[3] = c.out_layout;
    const double terms = (double)(t->c / t->groups * t->kh * t->kw) + 4;
    blocked_case_expect(&c, level, want, size, terms * (double)FLT_EPSILON);
}

static const struct conv_case conv_cases[] = {
    /* 3 x 3 */
    {2, 16, 7, 9, 16, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 1, true, false, "Relu", 0, 0},
    {2, 19, 8, 13, 70, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 1, true, true, "Clip", 1, 1},
    {3, 64, 5, 7, 130, 3, 3, 2, 2, 1, 1, {1, 1, 1, 1}, 1, true, false, "Swish", 0, 2},
    {2, 5, 9, 6, 3, 3, 3, 1, 1, 2, 2, {2, 2, 2, 2}, 1, false, true, "", 0, 1},
    {1, 33, 1, 1, 40, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 1, true, false, "HardSwish", 0, 0},
    {2, 8, 3, 4, 16, 3, 3, 1, 1, 3, 3, {3, 3, 3, 3}, 1, true, false, "", 0, 0},
    /* other windows, asymmetric padding, none at all, more rows of it than of map */
    {2, 20, 9, 11, 24, 5, 3, 2, 1, 1, 2, {2, 0, 1, 3}, 1, true, false, "Relu", 0, 1},
    {2, 17, 6, 20, 33, 1, 7, 1, 1, 1, 1, {0, 3, 0, 3}, 1, true, false, "Relu", 0, 0},
    {2, 17, 20, 6, 33, 7, 1, 1, 1, 1, 1, {3, 0, 3, 0}, 1, true, false, "Relu", 0, 3},
    {2, 40, 4, 5, 9, 4, 5, 1, 1, 1, 1, {0, 0, 0, 0}, 1, true, false, "Relu", 0, 0},
    {1, 6, 2, 2, 7, 3, 3, 1, 1, 1, 1, {4, 1, 4, 1}, 1, true, false, "", 0, 0},
    /* 1 x 1: flat, bent around gaps, row by row, strided, gathered */
    {2, 48, 7, 7, 64, 1, 1, 1, 1, 1, 1, {0, 0, 0, 0}, 1, true, true, "Relu", 0, 0},
    {2, 35, 9, 3, 100, 1, 1, 1, 1, 1, 1, {0, 0, 0, 0}, 1, true, true, "Clip", 0, 2},
    {2, 24, 13, 17, 144, 1, 1, 1, 1, 1, 1, {0, 0, 0, 0}, 1, true, false, "Relu", 0, 1},
    {2, 24, 5, 1, 30, 1, 1, 1, 1, 1, 1, {0, 0, 0, 0}, 1, true, false, "HardSwish", 0, 1},
    {2, 16, 6, 5, 32, 1, 1, 1, 1, 1, 1, {0, 0, 0, 0}, 1, false, false, "", 1, 0},
    {2, 16, 9, 8, 32, 1, 1, 2, 2, 1, 1, {0, 0, 0, 0}, 1, true, false, "", 0, 1},
    {2, 37, 14, 13, 140, 1, 1, 2, 2, 1, 1, {0, 0, 0, 0}, 1, true, true, "Relu", 0, 2},
    {3, 20, 7, 22, 130, 1, 1, 1, 3, 1, 1, {0, 0, 0, 0}, 1, true, false, "Swish", 1, 0},
    {2, 64, 9, 9, 256, 1, 1, 2, 2, 1, 1, {0, 0, 0, 0}, 2, true, false, "Relu", 1, 1},
    {2, 16, 6, 7, 128, 1, 1, 2, 2, 1, 1, {1, 1, 1, 1}, 1, true, false, "", 0, 1},
    {2, 16, 6, 7, 128, 1, 1, 2, 2, 1, 1, {0, 0, 1, 1}, 1, true, false, "", 0, 0},
    {2, 16, 6, 8, 128, 1, 1, 2, 2, 1, 1, {0, 0, 2, 2}, 1, true, false, "", 0, 0},
    {2, 16, 3, 3, 32, 1, 1, 1, 1, 1, 1, {1, 1, 1, 1}, 1, true, false, "", 0, 1},
    /* groups: narrow, of whole blocks, and of neither */
    {2, 32, 6, 21, 32, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 8, true, false, "Relu", 0, 1},
    {2, 24, 7, 9, 24, 3, 3, 2, 2, 1, 1, {1, 1, 1, 1}, 12, true, true, "Relu", 0, 0},
    {2, 40, 5, 11, 40, 5, 5, 1, 1, 1, 1, {2, 2, 2, 2}, 10, true, false, "Swish", 0, 0},
    {2, 16, 5, 11, 16, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 16, true, false, "", 0, 0},
    {2, 48, 5, 6, 48, 3, 3, 1, 1, 2, 2, {2, 2, 2, 2}, 6, true, false, "", 0, 1},
    {2, 96, 4, 5, 96, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 3, true, false, "Relu", 0, 1},
    {2, 72, 4, 5, 72, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 3, true, false, "Relu", 0, 1},
    {2, 12, 4, 5, 96, 3, 3, 2, 2, 1, 1, {1, 1, 1, 1}, 3, true, false, "", 0, 0},
    {2, 30, 6, 5, 20, 1, 1, 1, 1, 1, 1, {0, 0, 0, 0}, 5, true, false, "", 0, 0},
    {2, 32, 5, 15, 32, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 2, true, false, "HardSwish", 0, 1},
    /* groups with picked inputs: more chunks than one, more padding than map, uneven ones */
    {2, 72, 45, 40, 72, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 3, true, true, "Relu", 1, 1},
    {1, 56, 9, 30, 56, 3, 3, 2, 2, 1, 1, {1, 1, 1, 1}, 7, true, false, "Relu", 0, 0},
    {2, 112, 4, 7, 112, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 2, true, false, "Swish", 0, 1},
    {2, 84, 9, 6, 84, 5, 5, 1, 1, 2, 2, {4, 4, 4, 4}, 7, false, false, "Relu", 1, 0},
    {2, 60, 2, 2, 24, 3, 3, 1, 1, 1, 1, {5, 1, 5, 1}, 6, true, false, "", 0, 0},
    {2, 6, 8, 9, 18, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 6, true, false, "", 0, 2},
    /* plain to blocked */
    {2, 3, 17, 23, 32, 3, 3, 2, 2, 1, 1, {1, 1, 1, 1}, 1, true, false, "Relu", -1, 1},
    {2, 3, 30, 29, 64, 7, 7, 2, 2, 1, 1, {3, 3, 3, 3}, 1, true, true, "Relu", -1, 0},
    {2, 3, 40, 35, 70, 11, 11, 4, 4, 1, 1, {2, 2, 2, 2}, 1, true, false, "", -1, 2},
    {2, 1, 12, 14, 20, 5, 5, 1, 1, 1, 1, {0, 0, 0, 0}, 1, true, false, "Relu", -1, 0},
    {2, 6, 14, 14, 16, 5, 5, 1, 1, 1, 1, {0, 0, 0, 0}, 1, true, false, "Relu", -1, 0},
    {2, 4, 9, 7, 9, 3, 3, 1, 1, 2, 2, {2, 0, 1, 3}, 1, true, false, "Swish", -1, 1},
    {2, 3, 8, 8, 24, 4, 4, 4, 4, 1, 1, {0, 0, 0, 0}, 1, true, false, "", -1, 0},
    /* plain to plain */
    {2, 1, 28, 28, 6, 5, 5, 1, 1, 1, 1, {2, 2, 2, 2}, 1, true, false, "Relu", -1, -1},
    {2, 2, 9, 70, 9, 3, 3, 2, 1, 1, 1, {1, 1, 1, 1}, 1, true, false, "Clip", -1, -1},
    {2, 3, 5, 5, 1, 3, 3, 1, 1, 1, 2, {1, 2, 0, 1}, 1, false, false, "Swish", -1, -1},
    {2, 1, 7, 16, 4, 1, 1, 1, 1, 1, 1, {0, 0, 0, 0}, 1, true, false, "", -1, -1},
    {2, 1, 7, 33, 3, 2, 2, 1, 1, 1, 1, {0, 0, 0, 0}, 1, true, false, "HardSwish", -1, -1},
};

static enum cvd_cpu levels[] = {CVD_CPU_C, CVD_CPU_AVX2, CVD_CPU_AVX512};

ParameterizedTestParameters(blocked, conv)
{
    return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);
}

ParameterizedTest(enum cvd_cpu *level, blocked, conv)
{
    if (!cvd_cpu_supported(*level))
        cr_skip_test("this CPU has no %s", cvd_cpu_name(*level));
    for (size_t i = 0; i < sizeof conv_cases / sizeof *conv_cases; i++)
        check_conv(&conv_cases[i], *level);
}

/* Large enough to be cut into chunks and groups in all ways. */
ParameterizedTestParameters(blocked, conv_in_pieces)
{
    return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);
}

ParameterizedTest(enum cvd_cpu *level, blocked, conv_in_pieces)
{
    static const struct conv_case large[] = {
        {2, 40, 60, 62, 36, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 1, true, false, "Relu", 0, 1},
        {2, 130, 14, 14, 130, 3, 3, 1, 1, 1, 1, {1, 1, 1, 1}, 1, true, true, "", 0, 0},
        {2, 200, 37, 31, 72, 1, 1, 1, 1, 1, 1, {0, 0, 0, 0}, 1, true, false, "Relu", 0, 1},
        {5, 1100, 21, 23, 136, 1, 1, 2, 2, 1, 1, {0, 0, 0, 0}, 1, true, true, "Relu", 0, 0},
        {1, 3, 112, 112, 64, 7, 7, 2, 2, 1, 1, {3, 3, 3, 3}, 1, true, false, "Relu", -1, 0},
    };
    if (!cvd_cpu_supported(*level))
        cr_skip_test("this CPU has no %s", cvd_cpu_name(*level));
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        check_conv(&large[i], *level);
}

/* ---- Gemm and MatMul ---- */

struct dense_case {
    const char *op;
    int rows, inputs, outputs;
    int c, h, w, gap; /* of a blocked A; c = 0: plain */
    bool trans_b, bias;
    float alpha, beta;
    const char *activation;
};

static void check_dense(const struct dense_case *t, enum cvd_cpu level)
{
    struct kernels kernels;
    kernels_init(&kernels, level);
    const size_t rows = (size_t)t->rows, k = (size_t)t->inputs, n = (size_t)t->outputs;
    const float *a = op_random(rows * k, 3), *b = op_random(k * n, 5), *bias = op_random(n, 7);
    double *want = (double *)(void *)op_random(2 * rows * n, 1);
    double *size = (double *)(void *)op_random(2 * rows * n, 1);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0, abs = 0;
            for (size_t l = 0; l < k; l++) {
                const double p =
                    (double)a[i * k + l] * (double)b[t->trans_b ? j * k + l : l * n + j];
                sum += p;
                abs += fabs(p);
            }
            sum *= (double)t->alpha;
            if (t->bias)
                sum += (double)t->beta * (double)bias[j];
            want[i * n + j] = activate(t->activation, sum);
            size[i * n + j] = abs * (double)t->alpha + 1;
        }
    const bool gemm = strcmp(t->op, "Gemm") == 0;
    const struct op_attr attrs[] = {
        {.name = "activation", .type = OP_ATTR_STRING, .s = t->activation},
        {.name = "activation_alpha", .type = OP_ATTR_FLOAT, .f = 1},
        {.name = "transB", .type = OP_ATTR_INT, .i = t->trans_b},
        {.name = "alpha", .type = OP_ATTR_FLOAT, .f = t->alpha},
        {.name = "beta", .type = OP_ATTR_FLOAT, .f = t->beta},
    };
    char what[120];
    snprintf(what, sizeof what, "%s %d x %d x %d, %d channels", t->op, t->rows, t->inputs,
             t->outputs, t->c);
    struct blocked_case c = {
        .op = t->op,
        .what = what,
        .attrs = attrs,
        .attr_count = gemm ? 5 : 2,
        .in = {{CVD_DTYPE_FLOAT32,
                t->c ? OP_SHAPE(t->rows, t->c, t->h, t->w) : OP_SHAPE(t->rows, t->inputs), a,
                false},
               {CVD_DTYPE_FLOAT32,
                t->trans_b ? OP_SHAPE(t->outputs, t->inputs) : OP_SHAPE(t->inputs, t->outputs), b,
                true},
               {t->bias ? CVD_DTYPE_FLOAT32 : CVD_DTYPE_NONE, OP_SHAPE(t->outputs), bias, true}},
        .in_count = 3,
    };
    if (t->c)
        c.layout[0] = (struct op_layout){.lanes = kernels.lanes, .gap = (unsigned)t->gap};
    blocked_case_expect(&c, level, want, size, (double)(k + 4) * (double)FLT_EPSILON);
}

ParameterizedTestParameters(blocked, dense)
{
    return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);
}

ParameterizedTest(enum cvd_cpu *level, blocked, dense)
{
    static const struct dense_case cases[] = {
        {"Gemm", 1, 84, 10, 0, 0, 0, 0, true, true, 1, 1, ""},
        {"Gemm", 5, 120, 84, 0, 0, 0, 0, true, true, 1, 1, "Relu"},
        {"Gemm", 64, 400, 120, 0, 0, 0, 0, true, true, 1, 1, "Relu"},
        {"Gemm", 3, 1, 1, 0, 0, 0, 0, true, true, 1, 1, ""},
        {"Gemm", 19, 2500, 70, 0, 0, 0, 0, false, true, 0.5f, 2, "Swish"},
        {"Gemm", 4, 400, 120, 16, 5, 5, 0, true, true, 1, 1, "Relu"},
        {"Gemm", 9, 1500, 33, 30, 10, 5, 2, true, false, 1, 1, ""},
        {"Gemm", 17, 3000, 130, 120, 5, 5, 1, false, true, 1, 1, "Relu"},
        {"MatMul", 6, 77, 50, 0, 0, 0, 0, false, true, 1, 1, "Relu"},
        {"MatMul", 40, 64, 256, 0, 0, 0, 0, false, false, 1, 1, ""},
    };
    if (!cvd_cpu_supported(*level))
        cr_skip_test("this CPU has no %s", cvd_cpu_name(*level));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_dense(&cases[i], *level);
}

/* ---- Reorder and PlanesMaxPool ---- */

ParameterizedTestParameters(blocked, reorder)
{
    return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);
}

ParameterizedTest(enum cvd_cpu *level, blocked, reorder)
{
    static const int sizes[][4] = {{3, 16, 5, 7}, {2, 35, 9, 16}, {2, 3, 1, 1}, {1, 20, 40, 33}};
    static const int gaps[][2] = {{-1, 0}, {0, -1}, {-1, 2}, {1, -1}, {0, 3}, {2, 2}, {-1, -1}};
    if (!cvd_cpu_supported(*level))
        cr_skip_test("this CPU has no %s", cvd_cpu_name(*level));
    struct kernels kernels;
    kernels_init(&kernels, *level);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t g = 0; g < sizeof gaps / sizeof *gaps; g++) {
            const int *s = sizes[i];
            struct blocked_case c = {.op = "Reorder", .what = "Reorder", .in_count = 1};
            c.in[0] =
                (struct op_arg){CVD_DTYPE_FLOAT32, OP_SHAPE(s[0], s[1], s[2], s[3]), NULL, false};
            const size_t count = blocked_case_elements(&c.in[0].shape);
            const float *x = op_random(count, 11);
            c.in[0].data = x;
            if (gaps[g][0] >= 0)
                c.layout[0] =
                    (struct op_layout){.lanes = kernels.lanes, .gap = (unsigned)gaps[g][0]};
            if (gaps[g][1] >= 0)
                c.out_layout =
                    (struct op_layout){.lanes = kernels.lanes, .gap = (unsigned)gaps[g][1]};
            struct cvd_shape shape;
            const float *y = blocked_case_run(&c, &kernels, NULL, &shape);
            cr_assert_eq(memcmp(x, y, count * sizeof *x), 0, "gaps %d to %d, size %zu at %s",
                         gaps[g][0], gaps[g][1], i, cvd_cpu_name(*level));
        }
}

ParameterizedTestParameters(blocked, planes_max_pool)
{
    return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);
}

ParameterizedTest(enum cvd_cpu *level, blocked, planes_max_pool)
{
    if (!cvd_cpu_supported(*level))
        cr_skip_test("this CPU has no %s", cvd_cpu_name(*level));
    struct kernels kernels;
    kernels_init(&kernels, *level);
    static const int64_t two[] = {2, 2};
    const struct op_attr attrs[] = {
        {.name = "kernel_shape", .type = OP_ATTR_INTS, .count = 2, .ints = two},
        {.name = "strides", .type = OP_ATTR_INTS, .count = 2, .ints = two},
    };
    for (int width = 2; width < 80; width += 3) {
        enum { N = 2, C = 3, H = 5 };
        float *x = op_random((size_t)(N * C * H * width), 13);
        x[width] = NAN;
        const struct blocked_case c = {
            .op = "PlanesMaxPool",
            .what = "PlanesMaxPool",
            .attrs = attrs,
            .attr_count = 2,
            .in = {{CVD_DTYPE_FLOAT32, OP_SHAPE(N, C, H, width), x, false}},
            .in_count = 1,
        };
        struct cvd_shape shape;
        const float *y = blocked_case_run(&c, &kernels, NULL, &shape);
        const int ow = width / 2;
        for (int i = 0; i < N * C * 2 * ow; i++) {
            const float *p = x + i / ow / 2 * H * width + i / ow % 2 * 2 * width + i % ow * 2;
            float most = p[0];
            for (int j = 1; j < 4; j++) {
                const float v = p[j / 2 * width + j % 2];
                if (isnan(v) || v > most)
                    most = v;
            }
            cr_assert(y[i] == most || (isnan(y[i]) && isnan(most)), "width %d, element %d", width,
                      i);
        }
        cr_assert(isnan(y[0]));
    }
}
