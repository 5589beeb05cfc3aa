/* InstanceNormalization GroupNormalization LayerNormalization, LRN and LpNormalization. */
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <math.h>

/* (x[i] - mean) / sqrt(variance + epsilon) of n numbers, in double precision. */
static void naive_normalize(const float *x, size_t n, double epsilon, double *y, double *mean,
                            double *deviation)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i];
    *mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += ((double)x[i] - *mean) * ((double)x[i] - *mean);
    *deviation = 1 / sqrt(squares / (double)n + epsilon);
    for (size_t i = 0; i < n; i++)
        y[i] = ((double)x[i] - *mean) * *deviation;
}

enum { N = 3, C = 6, H = 5, W = 7, PLANE = H * W, TOTAL = N * C * PLANE };

/* groups = C is InstanceNormalization. */
static void expect_groups(const struct op_case *c, size_t groups, bool by_group, double epsilon,
                          const float *x, const float *scale, const float *bias)
{
    float want[TOTAL];
    const size_t length = C / groups * PLANE;
    for (size_t row = 0; row < N * groups; row++) {
        double y[C * PLANE], mean, deviation;
        naive_normalize(x + row * length, length, epsilon, y, &mean, &deviation);
        for (size_t i = 0; i < length; i++) {
            const size_t group = row % groups, channel = group * (C / groups) + i / PLANE;
            const size_t k = by_group ? group : channel;
            want[row * length + i] = (float)(y[i] * (double)scale[k] + (double)bias[k]);
        }
    }
    op_expect_floats(c, OP_SHAPE(N, C, H, W), want, 2e-6);
    op_expect_same_for_any_batch(c);
}

Test(ops_normalize, channels)
{
    const float *x = op_random(TOTAL, 1), *scale = op_random(C, 2), *bias = op_random(C, 3);
    const struct op_arg in[] = {FLOAT_INPUT(OP_SHAPE(N, C, H, W), x),
                                FLOAT_WEIGHTS(OP_SHAPE(C), scale),
                                FLOAT_WEIGHTS(OP_SHAPE(C), bias)};
    const struct op_case instance = {.op = "InstanceNormalization",
                                     .opset = 6,
                                     OP_ATTRS(ATTR_FLOAT("epsilon", 1e-2f)),
                                     .in = in,
                                     .in_count = 3};
    expect_groups(&instance, C, false, (double)1e-2f, x, scale, bias);
    cr_expect_eq(op_case_run(&instance).prepared.parameters, 2 * C);
    for (int64_t groups = 1; groups <= 3; groups++) {
        const struct op_case channel = {.op = "GroupNormalization",
                                        .opset = 21,
                                        OP_ATTRS(ATTR_INT("num_groups", groups)),
                                        .in = in,
                                        .in_count = 3};
        expect_groups(&channel, (size_t)groups, false, (double)1e-5f, x, scale, bias);
        const struct op_case group = {.op = "GroupNormalization",
                                      .opset = 18,
                                      OP_ATTRS(ATTR_INT("num_groups", groups)),
                                      OP_INPUTS(FLOAT_INPUT(OP_SHAPE(N, C, H, W), x),
                                                FLOAT_INPUT(OP_SHAPE(groups), scale),
                                                FLOAT_INPUT(OP_SHAPE(groups), bias))};
        expect_groups(&group, (size_t)groups, true, (double)1e-5f, x, scale, bias);
    }
}

/* A constant far from zero has no variance; what is left must not be noise. */
Test(ops_normalize, large_means)
{
    float x[64];
    for (size_t i = 0; i < 64; i++)
        x[i] = 16777216 + (i % 2 ? 2.0f : 0);
    const struct op_case c = {
        .op = "LayerNormalization",
        .opset = 17,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 64), x), FLOAT_INPUT(OP_SHAPE(1), OP_FLOATS_OF(1)))};
    float want[64];
    for (size_t i = 0; i < 64; i++)
        want[i] = i % 2 ? 1 : -1;
    op_expect_floats(&c, OP_SHAPE(1, 64), want, 1e-5);
}

/* Every axis of [3, 4, 5] with the scales that may go with it, and the two further outputs. */
Test(ops_normalize, layer)
{
    const float *x = op_random(60, 4), *scale = op_random(60, 5), *bias = op_random(60, 6);
    const struct cvd_shape shapes[] = {OP_SHAPE(3, 4, 5), OP_SHAPE(4, 5), OP_SHAPE(5),
                                       OP_SHAPE(1, 4, 5), OP_SHAPE(4, 1), OP_SHAPE(3, 1, 1),
                                       OP_SHAPE(1),       OP_SCALAR};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (unsigned axis = 0; axis < 3; axis++)
            for (size_t inputs = 2; inputs <= 3; inputs++) {
                const size_t length = axis == 0 ? 60 : axis == 1 ? 20 : 5;
                float want[60], mean[12], deviation[12];
                for (size_t row = 0; row < 60 / length; row++) {
                    double y[60], m, d;
                    naive_normalize(x + row * length, length, (double)1e-3f, y, &m, &d);
                    mean[row] = (float)m;
                    deviation[row] = (float)d;
                    for (size_t i = 0; i < length; i++) {
                        size_t at = row * length + i, from = 0;
                        const size_t index[] = {at / 20, at / 5 % 4, at % 5};
                        for (unsigned s = 0; s < shapes[k].rank; s++) {
                            const size_t extent = (size_t)shapes[k].dims[s];
                            from = from * extent + index[3 - shapes[k].rank + s] % extent;
                        }
                        want[at] = (float)(y[i] * (double)scale[from] +
                                           (inputs == 3 ? (double)bias[from] : 0));
                    }
                }
                const struct op_arg in[] = {FLOAT_INPUT(OP_SHAPE(3, 4, 5), x),
                                            FLOAT_INPUT(shapes[k], scale),
                                            FLOAT_INPUT(shapes[k], bias)};
                const struct op_case c = {.op = "LayerNormalization",
                                          .opset = 17,
                                          .out_count = 3,
                                          OP_ATTRS(ATTR_INT("axis", axis == 2 ? -1 : (int64_t)axis),
                                                   ATTR_FLOAT("epsilon", 1e-3f)),
                                          .in = in,
                                          .in_count = inputs};
                op_expect_floats(&c, OP_SHAPE(3, 4, 5), want, 2e-6);
                const struct op_result r = op_case_run(&c);
                struct cvd_shape rows = OP_SHAPE(3, 4, 5);
                for (unsigned d = axis; d < 3; d++)
                    rows.dims[d] = 1;
                cr_assert(cvd_shape_equal(&r.out[1].shape, &rows));
                cr_assert(cvd_shape_equal(&r.out[2].shape, &rows));
                for (size_t row = 0; row < 60 / length; row++) {
                    cr_expect_float_eq(((const float *)r.out[1].data)[row], mean[row], 1e-6f);
                    cr_expect_float_eq(((const float *)r.out[2].data)[row], deviation[row], 1e-5f);
                }
                cr_expect_eq(r.prepared.mixes_images, axis == 0);
            }
    const struct op_case wide = {
        .op = "LayerNormalization",
        .opset = 17,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 197, 96), op_random(3 * 197 * 96, 7)),
                  FLOAT_WEIGHTS(OP_SHAPE(96), op_random(96, 8)),
                  FLOAT_WEIGHTS(OP_SHAPE(96), op_random(96, 9)))};
    op_expect_same_for_any_batch(&wide);
}

/* ---- LRN ---- */

Test(ops_normalize, lrn)
{
    const float *x = op_random(TOTAL, 10);
    const struct {
        int64_t size;
        float alpha, beta, bias;
    } cases[] = {{1, 1e-4f, 0.75f, 1},
                 {3, 0.5f, 0.5f, 2},
                 {5, 2, 0.75f, 1},
                 {4, 1, 1.5f, 1},
                 {64, 1, 0.75f, 0.5f}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        float want[TOTAL];
        for (int64_t i = 0; i < TOTAL; i++) {
            const int64_t c = i / PLANE % C, size = cases[k].size;
            double sum = 0;
            /* floor((size - 1) / 2) channels before, ceil((size - 1) / 2) after */
            for (int64_t j = c - (size - 1) / 2; j <= c + size / 2; j++)
                if (j >= 0 && j < C)
                    sum += pow((double)x[i + (j - c) * PLANE], 2);
            want[i] = (float)((double)x[i] / pow((double)cases[k].bias +
                                                     (double)cases[k].alpha / (double)size * sum,
                                                 (double)cases[k].beta));
        }
        const struct op_case c = {
            .op = "LRN",
            .opset = 13,
            OP_ATTRS(ATTR_INT("size", cases[k].size), ATTR_FLOAT("alpha", cases[k].alpha),
                     ATTR_FLOAT("beta", cases[k].beta), ATTR_FLOAT("bias", cases[k].bias)),
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(N, C, H, W), x))};
        op_expect_floats(&c, OP_SHAPE(N, C, H, W), want, 1e-6);
        op_expect_same_for_any_batch(&c);
    }
    /* The defaults: alpha 0.0001, beta 0.75, bias 1; more pixels than a chunk. */
    float *big = op_random(3 * 2 * 700, 11), *want = op_random(3 * 2 * 700, 11);
    for (size_t i = 0; i < (size_t)3 * 2 * 700; i++) {
        const size_t other = i / 700 % 2 ? i - 700 : i + 700;
        const double a = (double)big[i] * 100, b = (double)big[other] * 100;
        want[i] = (float)(a / pow(1 + 1e-4 / 3 * (a * a + b * b), 0.75));
    }
    for (size_t i = 0; i < (size_t)3 * 2 * 700; i++)
        big[i] *= 100;
    const struct op_case defaults = {.op = "LRN",
                                     .opset = 6,
                                     OP_ATTRS(ATTR_INT("size", 3)),
                                     OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 2, 700), big))};
    op_expect_floats(&defaults, OP_SHAPE(3, 2, 700), want, 1e-4);
}

/* ---- LpNormalization ---- */

Test(ops_normalize, lp)
{
    const float x[] = {3, 4, 0, -8, 0, 0};
    const struct op_case euclid = {
        .op = "LpNormalization", .opset = 1, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 2), x))};
    op_expect_floats(&euclid, OP_SHAPE(3, 2), OP_FLOATS_OF(0.6f, 0.8f, 0, -1, 0, 0), 1e-7);
    const struct op_case sums = {.op = "LpNormalization",
                                 .opset = 22,
                                 OP_ATTRS(ATTR_INT("axis", 0), ATTR_INT("p", 1)),
                                 OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 2), x))};
    op_expect_floats(&sums, OP_SHAPE(3, 2), OP_FLOATS_OF(1, 1 / 3.0f, 0, -2 / 3.0f, 0, 0), 1e-7);
    cr_expect(op_case_run(&sums).prepared.mixes_images);
    const struct op_case wide = {
        .op = "LpNormalization",
        .opset = 22,
        OP_ATTRS(ATTR_INT("axis", 1)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 31, 701), op_random(3 * 31 * 701, 12)))};
    op_expect_same_for_any_batch(&wide);
}

Test(ops_normalize, refuses_instancenormalization)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 6, 4), NULL);
    const struct op_arg flat = FLOAT_INPUT(OP_SHAPE(6), NULL);
    const struct op_arg four = FLOAT_INPUT(OP_SHAPE(4), NULL);
    const struct op_arg ints = {CVD_DTYPE_INT64, OP_SHAPE(6), NULL, false};
    const struct op_arg half = {CVD_DTYPE_FLOAT16, OP_SHAPE(2, 6, 4), NULL, false};
    OP_REFUSES(INVALID_MODEL, "input 2 is [4]; it must be [6], one for each channel",
               .op = "InstanceNormalization", .opset = 6, OP_INPUTS(x, flat, four));
    OP_REFUSES(INVALID_MODEL, "the input has 1 dimensions", .op = "InstanceNormalization",
               .opset = 6, OP_INPUTS(flat, flat, flat));
    OP_REFUSES(INVALID_MODEL, "input 1 has type int64", .op = "InstanceNormalization", .opset = 6,
               OP_INPUTS(x, ints, flat));
    OP_REFUSES(UNSUPPORTED, "float16, which is not implemented", .op = "InstanceNormalization",
               .opset = 6, OP_INPUTS(half, flat, flat));
}

Test(ops_normalize, refuses_groupnormalization)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 6, 4), NULL);
    const struct op_arg flat = FLOAT_INPUT(OP_SHAPE(6), NULL);
    const struct op_attr three = ATTR_INT("num_groups", 3);
    OP_REFUSES(INVALID_MODEL, "attribute num_groups is missing", .op = "GroupNormalization",
               .opset = 21, OP_INPUTS(x, flat, flat));
    OP_REFUSES(INVALID_MODEL, "num_groups 4 does not divide 6 channels", .op = "GroupNormalization",
               .opset = 21, OP_ATTRS(ATTR_INT("num_groups", 4)), OP_INPUTS(x, flat, flat));
    OP_REFUSES(INVALID_MODEL, "num_groups 0", .op = "GroupNormalization", .opset = 21,
               OP_ATTRS(ATTR_INT("num_groups", 0)), OP_INPUTS(x, flat, flat));
    OP_REFUSES(INVALID_MODEL, "input 1 is [6]; it must be [3], one for each group",
               .op = "GroupNormalization", .opset = 18, OP_ATTRS(three), OP_INPUTS(x, flat, flat));
}

Test(ops_normalize, refuses_layernormalization)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 6, 4), NULL);
    const struct op_arg flat = FLOAT_INPUT(OP_SHAPE(6), NULL);
    const struct op_arg four = FLOAT_INPUT(OP_SHAPE(4), NULL);
    OP_REFUSES(INVALID_MODEL, "input 1, [6], does not broadcast to the input's [2,6,4]",
               .op = "LayerNormalization", .opset = 17, OP_INPUTS(x, flat));
    OP_REFUSES(INVALID_MODEL, "input 1, [2,4], does not broadcast to the input's [4]",
               .op = "LayerNormalization", .opset = 17,
               OP_INPUTS(four, FLOAT_INPUT(OP_SHAPE(2, 4), NULL)));
    OP_REFUSES(INVALID_MODEL, "axis 3 is outside", .op = "LayerNormalization", .opset = 17,
               OP_ATTRS(ATTR_INT("axis", 3)), OP_INPUTS(x, four));
    OP_REFUSES(UNSUPPORTED, "stash_type 11 is not implemented", .op = "LayerNormalization",
               .opset = 17, OP_ATTRS(ATTR_INT("stash_type", 11)), OP_INPUTS(x, four));
}

Test(ops_normalize, refuses_lrn)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 6, 4), NULL);
    const struct op_arg flat = FLOAT_INPUT(OP_SHAPE(6), NULL);
    OP_REFUSES(INVALID_MODEL, "attribute size is missing", .op = "LRN", .opset = 13, OP_INPUTS(x));
    OP_REFUSES(INVALID_MODEL, "size is 0", .op = "LRN", .opset = 13, OP_ATTRS(ATTR_INT("size", 0)),
               OP_INPUTS(x));
    OP_REFUSES(INVALID_MODEL, "the input has 1 dimensions", .op = "LRN", .opset = 13,
               OP_ATTRS(ATTR_INT("size", 3)), OP_INPUTS(flat));
}

Test(ops_normalize, refuses_lpnormalization)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 6, 4), NULL);
    OP_REFUSES(INVALID_MODEL, "p is 3; it must be 1 or 2", .op = "LpNormalization", .opset = 1,
               OP_ATTRS(ATTR_INT("p", 3)), OP_INPUTS(x));
    OP_REFUSES(INVALID_MODEL, "axis 3 is outside", .op = "LpNormalization", .opset = 1,
               OP_ATTRS(ATTR_INT("axis", 3)), OP_INPUTS(x));
}
