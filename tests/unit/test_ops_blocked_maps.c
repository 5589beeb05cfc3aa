/*
 * The operators that keep a map a map (blocked_maps.h) against the reference operators on plain
 * values, at every CPU level; the harness looks at gaps, threads and batches.
 */
#include "engine/ops/blocked_maps.h"
#include "tests/support/blocked_harness.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const enum cvd_cpu levels[] = {CVD_CPU_C, CVD_CPU_NEON, CVD_CPU_AVX2, CVD_CPU_AVX512};
#define LEVELS (sizeof levels / sizeof levels[0])

#define FLOATS(...) OP_SHAPE(__VA_ARGS__)
#define VALUE(shape_, seed)                                           \
    {                                                                 \
        CVD_DTYPE_FLOAT32, shape_, random_values(shape_, seed), false \
    }
#define CONSTANT(shape_, seed)                                       \
    {                                                                \
        CVD_DTYPE_FLOAT32, shape_, random_values(shape_, seed), true \
    }
#define ABSENT                  \
    {                           \
        .dtype = CVD_DTYPE_NONE \
    }

static const float *random_values(struct cvd_shape shape, uint32_t seed)
{
    return op_random(blocked_case_elements(&shape), seed);
}

/* `blocked` gives what `plain` gives, to within `bound` times (1 + its absolute value). */
static void expect_same(const struct blocked_case *blocked, const struct blocked_case *plain,
                        double bound)
{
    struct kernels kernels;
    struct cvd_shape shape;
    kernels_init(&kernels, CVD_CPU_C);
    const float *reference = blocked_case_run(plain, &kernels, NULL, &shape);
    const size_t count = blocked_case_elements(&shape);
    double *want = (double *)(void *)op_random(2 * count, 1);
    double *size = (double *)(void *)op_random(2 * count, 1);
    for (size_t i = 0; i < count; i++) {
        want[i] = (double)reference[i];
        size[i] = 1 + fabs(want[i]);
    }
    for (size_t l = 0; l < LEVELS; l++) {
        struct blocked_case c = *blocked;
        if (!cvd_cpu_supported(levels[l]))
            continue;
        kernels_init(&kernels, levels[l]);
        for (size_t i = 0; i < c.in_count; i++)
            c.layout[i].lanes = c.layout[i].lanes ? kernels.lanes : 0;
        c.out_layout.lanes = c.out_layout.lanes ? kernels.lanes : 0;
        blocked_case_expect(&c, levels[l], want, size, bound);
    }
}

/* The plain side of a case. */
static struct blocked_case plain_case(const struct blocked_case *blocked, const char *domain,
                                      int opset, const char *op)
{
    struct blocked_case plain = *blocked;
    plain.domain = domain;
    plain.opset = opset;
    plain.op = op;
    memset(plain.layout, 0, sizeof plain.layout);
    plain.out_layout = (struct op_layout){0};
    return plain;
}

/* In a layout, of lanes that expect_same() sets. */
#define BLOCKED(gap_)                       \
    {                                       \
        .lanes = 1, .gap = (unsigned)(gap_) \
    }

/* ---- convolutions ---- */

struct conv_case {
    int n, c, h, w, out, kernel[2], stride[2], dilation[2], pads[4];
    bool bias, residual;
    const char *activation;
    unsigned in_gap, out_gap;
};

static void check_conv(const char *op, const struct conv_case *t, int groups, int tile,
                       double bound)
{
    const int64_t strides[] = {t->stride[0], t->stride[1]};
    const int64_t dilations[] = {t->dilation[0], t->dilation[1]};
    const int64_t pads[] = {t->pads[0], t->pads[1], t->pads[2], t->pads[3]};
    const struct op_attr attrs[] = {
        {.name = "strides", .type = OP_ATTR_INTS, .count = 2, .ints = strides},
        {.name = "dilations", .type = OP_ATTR_INTS, .count = 2, .ints = dilations},
        {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = pads},
        {.name = "group", .type = OP_ATTR_INT, .i = groups},
        {.name = "activation", .type = OP_ATTR_STRING, .s = t->activation},
        {.name = "activation_alpha", .type = OP_ATTR_FLOAT, .f = 1},
        {.name = "tile", .type = OP_ATTR_INT, .i = tile},
    };
    const int extent_h = (t->kernel[0] - 1) * t->dilation[0],
              extent_w = (t->kernel[1] - 1) * t->dilation[1];
    const int oh = (t->h + t->pads[0] + t->pads[2] - extent_h - 1) / t->stride[0] + 1;
    const int ow = (t->w + t->pads[1] + t->pads[3] - extent_w - 1) / t->stride[1] + 1;
    char what[200];
    snprintf(what, sizeof what, "%s tile %d, %dx%dx%dx%d to %d, %dx%d stride %d,%d %s", op, tile,
             t->n, t->c, t->h, t->w, t->out, t->kernel[0], t->kernel[1], t->stride[0], t->stride[1],
             t->activation);
    struct blocked_case c = {
        .op = op,
        .what = what,
        .attrs = attrs,
        .attr_count = sizeof attrs / sizeof attrs[0],
        .in = {VALUE(FLOATS(t->n, t->c, t->h, t->w), 3),
               CONSTANT(FLOATS(t->out, t->c / groups, t->kernel[0], t->kernel[1]), 5), ABSENT,
               ABSENT},
        .layout = {BLOCKED(t->in_gap)},
        .in_count = 4,
        .out_layout = BLOCKED(t->out_gap),
    };
    if (t->bias)
        c.in[2] = (struct op_arg)CONSTANT(FLOATS(t->out), 7);
    if (t->residual) {
        c.in[3] = (struct op_arg)VALUE(FLOATS(t->n, t->out, oh, ow), 9);
        c.layout[3] = c.out_layout;
    }
    const struct blocked_case plain = plain_case(&c, FUSED_DOMAIN, FUSED_VERSION, "Conv");
    expect_same(&c, &plain, bound);
}

Test(blocked_maps, winograd)
{
    static const struct conv_case cases[] = {
        {2, 16, 8, 8, 16, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, true, false, "Relu", 1, 1},
        {3, 19, 7, 9, 50, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, true, true, "Relu", 1, 0},
        {2, 40, 14, 13, 35, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, true, true, "Swish", 2, 2},
        {2, 5, 6, 10, 9, {3, 3}, {1, 1}, {1, 1}, {0, 0, 0, 0}, false, false, "", 0, 1},
        {2, 5, 6, 10, 9, {3, 3}, {1, 1}, {1, 1}, {2, 1, 0, 2}, true, false, "Sigmoid", 2, 1},
        {2, 8, 1, 1, 8, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, true, false, "Relu", 0, 0},
        {2, 70, 28, 28, 64, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, true, false, "Relu", 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int tile = 2; tile <= 4; tile += 2)
            check_conv("WinogradConv", &cases[i], 1, tile, 2e-7 * (9 * cases[i].c + 20));
}

Test(blocked_maps, depthwise)
{
    static const struct conv_case cases[] = {
        {2, 16, 8, 8, 16, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, true, false, "Relu", 1, 1},
        {3, 35, 15, 17, 35, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, true, true, "Relu", 1, 0},
        {2, 9, 14, 14, 9, {5, 5}, {1, 1}, {1, 1}, {2, 2, 2, 2}, true, false, "HardSwish", 3, 2},
        {2, 20, 9, 9, 20, {5, 5}, {2, 2}, {1, 1}, {1, 1, 2, 2}, false, false, "Swish", 2, 1},
        {2, 33, 7, 7, 33, {7, 7}, {1, 1}, {1, 1}, {3, 3, 3, 3}, true, false, "", 3, 0},
        {2, 12, 9, 11, 12, {3, 3}, {1, 1}, {2, 2}, {2, 2, 2, 2}, true, false, "Gelu", 2, 0},
        {2, 12, 64, 70, 12, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, true, true, "Relu", 1, 1},
        {2, 12, 6, 6, 12, {4, 2}, {3, 1}, {1, 1}, {0, 0, 1, 0}, true, false, "Tanh", 0, 1},
        {2, 12, 6, 6, 12, {1, 1}, {1, 1}, {1, 1}, {0, 0, 0, 0}, true, false, "Relu", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_conv("DepthwiseConv", &cases[i], cases[i].c, 0, 1e-5);
}

/* ---- pooling ---- */

Test(blocked_maps, pools)
{
    static const int64_t windows[][10] = {
        /* kernel, strides, pads, dilations */
        {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}, {2, 2, 2, 2, 0, 0, 0, 0, 1, 1},
        {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, {3, 3, 2, 2, 0, 0, 0, 0, 1, 1},
        {5, 3, 1, 2, 2, 1, 2, 0, 1, 1}, {2, 3, 3, 1, 0, 1, 1, 2, 1, 1},
        {7, 7, 1, 1, 0, 0, 0, 0, 1, 1}, {3, 2, 1, 1, 1, 1, 1, 1, 2, 2},
    };
    static const int sizes[][4] = {{2, 16, 8, 8}, {3, 19, 15, 23}, {2, 5, 7, 7}, {2, 40, 33, 14}};
    static const char *const ops[] = {"MaxPool", "AveragePool"};
    for (size_t i = 0; i < 4 * 8 * 8; i++) {
        const int64_t *w = windows[i % 8];
        const int *s = sizes[i / 8 % 4];
        const bool average = i & 32, ceil_mode = i & 64, include_pad = i & 128;
        const struct op_attr attrs[] = {
            {.name = "kernel_shape", .type = OP_ATTR_INTS, .count = 2, .ints = w},
            {.name = "strides", .type = OP_ATTR_INTS, .count = 2, .ints = w + 2},
            {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = w + 4},
            {.name = "dilations", .type = OP_ATTR_INTS, .count = 2, .ints = w + 8},
            {.name = "ceil_mode", .type = OP_ATTR_INT, .i = ceil_mode},
            {.name = "count_include_pad", .type = OP_ATTR_INT, .i = include_pad},
        };
        char what[120];
        snprintf(what, sizeof what, "%s %zu, window %zu, map %dx%d", ops[average], i, i % 8, s[2],
                 s[3]);
        const struct blocked_case c = {
            .op = ops[average],
            .what = what,
            .attrs = attrs,
            .attr_count = sizeof attrs / sizeof attrs[0],
            .in = {VALUE(FLOATS(s[0], s[1], s[2], s[3]), 13)},
            .layout = {BLOCKED(i / 8 % 3)},
            .in_count = 1,
            .out_layout = BLOCKED(i / 16 % 2),
        };
        const struct blocked_case plain = plain_case(&c, "", 19, ops[average]);
        expect_same(&c, &plain, average ? 1e-6 : 0);
    }
}

Test(blocked_maps, global_pools)
{
    static const int sizes[][4] = {{2, 16, 7, 7}, {3, 19, 5, 9}, {2, 70, 1, 1}, {2, 33, 14, 14}};
    static const char *const ops[] = {"GlobalMaxPool", "GlobalAveragePool"};
    for (size_t i = 0; i < 16; i++) {
        const int *s = sizes[i / 4];
        const bool average = i & 1, plain_out = i & 2;
        struct blocked_case c = {
            .op = ops[average],
            .what = ops[average],
            .in = {VALUE(FLOATS(s[0], s[1], s[2], s[3]), 13)},
            .layout = {BLOCKED(i / 4)},
            .in_count = 1,
            .out_layout = BLOCKED(i / 8),
        };
        if (plain_out)
            c.out_layout = (struct op_layout){0};
        const struct blocked_case plain = plain_case(&c, "", 19, ops[average]);
        expect_same(&c, &plain, average ? 1e-6 : 0);
    }
}

/* ---- element-wise ---- */

#define SHAPE FLOATS(3, 19, 6, 11)

static const struct op_attr swish[] = {
    {.name = "activation", .type = OP_ATTR_STRING, .s = "x*Sigmoid(x)"},
};
static const struct op_attr relu[] = {
    {.name = "activation", .type = OP_ATTR_STRING, .s = "Relu"},
};

Test(blocked_maps, add)
{
    static const unsigned gaps[][3] = {{0, 0, 0}, {1, 1, 1}, {2, 0, 1}, {0, 1, 0}};
    for (size_t i = 0; i < 8; i++) {
        const struct blocked_case c = {
            .op = "Add",
            .what = "Add",
            .attrs = i & 1 ? relu : swish,
            .attr_count = 1,
            .in = {VALUE(SHAPE, 3), VALUE(SHAPE, 5)},
            .layout = {BLOCKED(gaps[i / 2][0]), BLOCKED(gaps[i / 2][1])},
            .in_count = 2,
            .out_layout = BLOCKED(gaps[i / 2][2]),
        };
        const struct blocked_case plain = plain_case(&c, FUSED_DOMAIN, FUSED_VERSION, "Add");
        expect_same(&c, &plain, 1e-6);
    }
}

Test(blocked_maps, activations)
{
    static const struct {
        const char *name;
        float alpha, beta;
    } all[] = {
        {"", 0, 0},
        {"Relu", 0, 0},
        {"LeakyRelu", 0.1f, 0},
        {"Clip", -0.5f, 0.5f},
        {"Sigmoid", 0, 0},
        {"Tanh", 0, 0},
        {"HardSigmoid", 0.2f, 0.5f},
        {"HardSwish", 0, 0},
        {"Swish", 1.5f, 0},
        {"Mish", 0, 0},
        {"Gelu", 0, 0},
        {"x*Sigmoid(x)", 0, 0},
        {"x*HardSigmoid(x)", 1.0f / 6, 0.5f},
        {"x*Tanh(Softplus(x))", 0, 0},
        {"x*(Erf(x)+1)/2", 1, 1.41421356f},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const struct op_attr attrs[] = {
            {.name = "activation", .type = OP_ATTR_STRING, .s = all[i].name},
            {.name = "activation_alpha", .type = OP_ATTR_FLOAT, .f = all[i].alpha},
            {.name = "activation_beta", .type = OP_ATTR_FLOAT, .f = all[i].beta},
        };
        const struct blocked_case c = {
            .op = "Activation",
            .what = all[i].name,
            .attrs = attrs,
            .attr_count = 3,
            .in = {VALUE(SHAPE, 3)},
            .layout = {BLOCKED(i % 3)},
            .in_count = 1,
            .out_layout = BLOCKED(i % 2),
        };
        const struct blocked_case plain = plain_case(&c, FUSED_DOMAIN, FUSED_VERSION, "Activation");
        expect_same(&c, &plain, 1e-6);
    }
}

Test(blocked_maps, mul)
{
    const struct cvd_shape channels[] = {SHAPE, FLOATS(3, 19, 1, 1), FLOATS(1, 19, 1, 1)};
    for (size_t i = 0; i < 12; i++) {
        struct blocked_case c = {
            .op = "Mul",
            .what = "Mul",
            .in = {VALUE(SHAPE, 3), VALUE(channels[i % 3], 5)},
            .layout = {BLOCKED(i / 3 % 2), BLOCKED(i / 6)},
            .in_count = 2,
            .out_layout = BLOCKED(i / 3 % 2),
        };
        if (i % 3 == 2)
            c.in[1].constant = true; /* the same for each image */
        if (i % 3 > 0 && i / 6)
            c.layout[1] = (struct op_layout){0};
        const struct blocked_case plain = plain_case(&c, "", 14, "Mul");
        expect_same(&c, &plain, 1e-6);
    }
}

/* Squeeze and excitation. */
Test(blocked_maps, mul_relu)
{
    float *x = op_random(3 * 19 * 6 * 11, 3), *s = op_random(3 * 19, 5);
    struct blocked_case c = {
        .op = "Mul",
        .what = "Mul+Relu",
        .attrs = relu,
        .attr_count = 1,
        .in = {VALUE(SHAPE, 3), VALUE(FLOATS(3, 19, 1, 1), 5)},
        .layout = {BLOCKED(1), BLOCKED(0)},
        .in_count = 2,
        .out_layout = BLOCKED(1),
    };
    struct blocked_case plain = plain_case(&c, "", 14, "Mul");
    plain.attr_count = 0;
    for (size_t i = 0; i < 3 * 19; i++)
        s[i] = fabsf(s[i]);
    for (size_t i = 0; i < 3 * 19 * 6 * 11; i++) /* Relu commutes with a positive factor */
        x[i] = fmaxf(x[i], 0);
    c.in[1].data = plain.in[1].data = s;
    plain.in[0].data = x;
    expect_same(&c, &plain, 1e-6);
}

Test(blocked_maps, batch_normalization)
{
    for (unsigned gap = 0; gap < 3; gap++) {
        struct blocked_case c = {
            .op = "BatchNormalization",
            .what = "BatchNormalization",
            .attrs = relu,
            .attr_count = 1,
            .in = {VALUE(SHAPE, 3), CONSTANT(FLOATS(19), 5), CONSTANT(FLOATS(19), 7),
                   CONSTANT(FLOATS(19), 9), CONSTANT(FLOATS(19), 11)},
            .layout = {BLOCKED(gap)},
            .in_count = 5,
            .out_layout = BLOCKED(gap / 2),
        };
        float *variance = op_random(19, 11);
        for (size_t i = 0; i < 19; i++)
            variance[i] = fabsf(variance[i]) + 0.1f;
        c.in[4].data = variance;
        struct blocked_case plain = plain_case(&c, "", 9, "BatchNormalization");
        plain.attr_count = 0;
        struct kernels kernels;
        struct cvd_shape shape;
        kernels_init(&kernels, CVD_CPU_C);
        float *y = blocked_case_run(&plain, &kernels, NULL, &shape);
        const struct blocked_case then = {
            .op = "Activation",
            .what = "Relu",
            .domain = FUSED_DOMAIN,
            .opset = FUSED_VERSION,
            .attrs = relu,
            .attr_count = 1,
            .in = {{CVD_DTYPE_FLOAT32, SHAPE, y, false}},
            .in_count = 1,
        };
        expect_same(&c, &then, 2e-6);
    }
}

/* ---- over channels ---- */

/* Layer norm of `count` numbers at distance `step`. */
static void naive_norm(const float *x, size_t count, size_t step, const float *gamma,
                       const float *beta, float *y)
{
    double mean = 0, variance = 0;
    for (size_t i = 0; i < count; i++)
        mean += (double)x[i * step] / (double)count;
    for (size_t i = 0; i < count; i++)
        variance += pow((double)x[i * step] - mean, 2) / (double)count;
    for (size_t i = 0; i < count; i++)
        y[i * step] =
            (float)(((double)x[i * step] - mean) / sqrt(variance + 1e-3) * (double)gamma[i] +
                    (beta ? (double)beta[i] : 0));
}

Test(blocked_maps, layer_norm)
{
    const struct op_attr epsilon[] = {{.name = "epsilon", .type = OP_ATTR_FLOAT, .f = 1e-3f}};
    for (size_t i = 0; i < 8; i++) {
        const bool plain = i & 4;
        const size_t channels = i & 1 ? 32 : 19, plane = plain ? 1 : 15, images = plain ? 30 : 2;
        struct blocked_case c = {
            .op = "LayerNorm",
            .what = "LayerNorm",
            .attrs = epsilon,
            .attr_count = 1,
            .in = {VALUE(FLOATS(2, (int64_t)channels, 3, 5), 3),
                   CONSTANT(FLOATS((int64_t)channels), 5), ABSENT},
            .layout = {BLOCKED(i / 2 % 2)},
            .in_count = 3,
            .out_layout = BLOCKED(1),
        };
        if (i & 2)
            c.in[2] = (struct op_arg)CONSTANT(FLOATS((int64_t)channels), 7);
        if (plain) {
            c.in[0].shape = FLOATS(6, 5, (int64_t)channels);
            c.layout[0] = c.out_layout = (struct op_layout){0};
        }
        float *y = op_random(blocked_case_elements(&c.in[0].shape), 1);
        for (size_t p = 0; p < images * plane; p++) {
            const size_t at = p / plane * plane * channels + p % plane;
            naive_norm((const float *)c.in[0].data + at, channels, plane, c.in[1].data,
                       c.in[2].data, y + at);
        }
        const struct blocked_case given = {
            .op = "Activation", /* none: what was worked out above */
            .what = "LayerNorm",
            .domain = FUSED_DOMAIN,
            .opset = FUSED_VERSION,
            .in = {{CVD_DTYPE_FLOAT32, c.in[0].shape, y, false}},
            .in_count = 1,
        };
        expect_same(&c, &given, 3e-6);
    }
}

Test(blocked_maps, softmax)
{
    const struct op_attr attrs[] = {{.name = "axis", .type = OP_ATTR_INT, .i = -1}};
    const struct blocked_case c = {
        .op = "Softmax",
        .what = "Softmax",
        .attrs = attrs,
        .attr_count = 1,
        .in = {VALUE(FLOATS(3, 1000), 3)},
        .in_count = 1,
    };
    const struct blocked_case plain = plain_case(&c, "", 13, "Softmax");
    expect_same(&c, &plain, 1e-6);
}

/* ---- what the layout pass asks ---- */

static struct op_node conv_node(const struct op_value *values, const struct op_value **in,
                                const struct op_attr *attrs, size_t attr_count,
                                struct cvd_error *err)
{
    bool known;
    in[0] = &values[0];
    in[1] = &values[1];
    return (struct op_node){.def = op_find("", "Conv", 11, &known),
                            .name = "n1",
                            .opset = 11,
                            .attrs = attrs,
                            .attr_count = attr_count,
                            .in = in,
                            .in_count = 2,
                            .out_count = 1,
                            .err = err};
}

Test(blocked_maps, fitting)
{
    static const int64_t one[] = {1, 1, 1, 1}, two[] = {2, 2};
    struct op_attr attrs[] = {
        {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = one},
        {.name = "group", .type = OP_ATTR_INT, .i = 1},
        {.name = "strides", .type = OP_ATTR_INTS, .count = 2, .ints = two},
    };
    struct op_value values[2] = {
        {.dtype = CVD_DTYPE_FLOAT32, .shape = FLOATS(1, 24, 9, 9)},
        {.dtype = CVD_DTYPE_FLOAT32,
         .shape = FLOATS(32, 24, 3, 3),
         .data = random_values(FLOATS(32, 24, 3, 3), 1)},
    };
    const struct op_value *in[2];
    struct cvd_error err;
    unsigned gap = 99;
    struct op_node node = conv_node(values, in, attrs, 2, &err);
    cr_expect(blocked_winograd_fits(&node, &gap));
    cr_expect_eq(gap, 1);
    cr_expect_not(blocked_depthwise_fits(&node, &gap));
    node.attr_count = 3; /* strides */
    cr_expect_not(blocked_winograd_fits(&node, &gap));

    attrs[1].i = 24;
    values[1].shape = FLOATS(24, 1, 3, 3);
    cr_expect(blocked_depthwise_fits(&node, &gap));
    cr_expect_eq(gap, 1);
    values[1].shape = FLOATS(48, 1, 3, 3);
    cr_expect_not(blocked_depthwise_fits(&node, &gap), "two filters a channel");
    values[1].shape = FLOATS(24, 1, 3, 3);
    values[1].data = NULL;
    cr_expect_not(blocked_depthwise_fits(&node, &gap), "weights are not constant");
}
