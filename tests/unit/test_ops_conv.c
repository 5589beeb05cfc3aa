/* Conv: known images, a naive double-precision loop over awkward shapes, and what it refuses. */
#include "tests/support/data.h"
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <string.h>

Test(ops_conv, ones_and_zeros)
{
    const float image[] = {1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1,
                           1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0};
    const float kernel[] = {1, 0, 1, 0, 1, 0, 1, 0, 1};
    const struct op_case c = {
        .op = "Conv",
        .opset = 13,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), image),
                  FLOAT_WEIGHTS(OP_SHAPE(1, 1, 3, 3), kernel)),
    };
    op_expect_floats(&c, OP_SHAPE(1, 1, 3, 3), OP_FLOATS_OF(4, 3, 4, 2, 4, 3, 2, 3, 4), 0);
}

/* Classical 3x3 filters with a border of zeros; the sums were worked out by a separate program in
 * another language, in whole numbers, before division. */
static const float photo[25] = {12, 200, 33,  47, 90, 5, 61, 150, 255, 8,   77, 0,  19,
                                88, 140, 230, 41, 66, 7, 3,  14,  99,  120, 54, 181};
static const struct {
    const char *name;
    float kernel[9];
    float divisor;
    float sums[25];
} filters[] = {
    {"identity", {0, 0, 0, 0, 1, 0, 0, 0, 0}, 1, {12, 200, 33, 47, 90,  5,   61,  150, 255,
                                                  8,  77,  0,  19, 88,  140, 230, 41,  66,
                                                  7,  3,   14, 99, 120, 54,  181}},
    {"edges along diagonals",
     {1, 0, -1, 0, 0, 0, -1, 0, 1},
     1,
     {61, 145, 194, -142, -255, -200, -79, 241, 64,  -41, -20, -309, -228,
      79, 248, 99,  164,  -133, -60,  34,  -41, 164, 34,  63,  7}},
    {"edges, four neighbours",
     {0, 1, 0, 1, -4, 1, 0, 1, 0},
     1,
     {157, -694, 265,  190, -305, 130, 111, -232, -727, 453,  -73, 198, 228,
      69,  -461, -788, 231, -77,  183, 316, 273,  -221, -261, 92,  -667}},
    {"edges, eight neighbours",
     {-1, -1, -1, -1, 8, -1, -1, -1, -1},
     1,
     {-170, 1339, -449, -160, 410, -310, -8,   497,  1465, -556, 279, -649, -516,
      56,   759,  1609, -297, 100, -615, -446, -258, 321,  693,  55,  1384}},
    {"sharpen", {0, -1, 0, -1, 5, -1, 0, -1, 0}, 1, {-145, 894,  -232, -143, 395,  -125, -50,
                                                     382,  982,  -445, 150,  -198, -209, 19,
                                                     601,  1018, -190, 143,  -176, -313, -259,
                                                     320,  381,  -38,  848}},
    {"box blur", {1, 1, 1, 1, 1, 1, 1, 1, 1}, 9, {278, 461, 746, 583, 400, 355, 557, 853, 830,
                                                  628, 414, 649, 687, 736, 501, 461, 666, 494,
                                                  678, 473, 384, 570, 387, 431, 245}},
    {"Gaussian blur", {1, 2, 1, 2, 4, 2, 1, 2, 1}, 16, {519,  1167, 1242, 1102, 725, 520,  1095,
                                                        1671, 1888, 1137, 880,  847, 1048, 1421,
                                                        1020, 1283, 1184, 879,  910, 810,  755,
                                                        1042, 966,  901,  845}},
    {"emboss", {-2, -1, 0, -1, 1, 1, 0, 1, 2}, 1, {339,  582, 540,  375, 51,  131,  20,
                                                   106,  368, -291, 384, 44,  -85,  -333,
                                                   -463, 406, 62,   241, 234, -139, -117,
                                                   -296, -73, -24,  110}},
};

Test(ops_conv, classical_filters)
{
    for (size_t f = 0; f < sizeof filters / sizeof *filters; f++) {
        float kernel[9], want[25];
        for (size_t i = 0; i < 9; i++)
            kernel[i] = filters[f].kernel[i] / filters[f].divisor;
        for (size_t i = 0; i < 25; i++)
            want[i] = filters[f].sums[i] / filters[f].divisor;
        const struct op_case c = {
            .op = "Conv",
            .opset = 13,
            OP_ATTRS(ATTR_INTS("pads", 1, 1, 1, 1)),
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), photo),
                      FLOAT_WEIGHTS(OP_SHAPE(1, 1, 3, 3), kernel)),
        };
        /* Ninths are not exact in binary, the others are. */
        op_expect_floats(&c, OP_SHAPE(1, 1, 5, 5), want, filters[f].divisor == 9 ? 1e-4 : 0);
    }
}

/* ---- against a naive loop ---- */

/* Two spatial dimensions; the other cases are folded into these by unit extents. */
struct conv_shape {
    int64_t batch, channels, height, width;
    int64_t maps, groups;
    int64_t kernel[2], stride[2], dilation[2], pad[4]; /* pad: top, left, bottom, right */
};

static const struct conv_shape shapes[] = {
    {1, 1, 1, 1, 1, 1, {1, 1}, {1, 1}, {1, 1}, {0}},
    {2, 3, 5, 7, 4, 1, {1, 1}, {1, 1}, {1, 1}, {0}},
    {1, 5, 33, 35, 5, 1, {1, 1}, {1, 1}, {1, 1}, {0}}, /* more than a tile of one long row */
    {1, 3, 9, 7, 4, 1, {1, 1}, {2, 3}, {1, 1}, {0}},
    {1, 2, 3, 3, 3, 1, {1, 1}, {1, 1}, {1, 1}, {1, 2, 0, 1}},
    {2, 3, 8, 9, 7, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}},
    {1, 4, 11, 13, 6, 2, {3, 2}, {2, 1}, {1, 1}, {0, 1, 2, 0}},
    {3, 6, 10, 9, 6, 6, {3, 3}, {1, 2}, {1, 1}, {1, 1, 1, 1}},  /* depthwise */
    {1, 3, 9, 9, 9, 3, {5, 5}, {2, 2}, {1, 1}, {2, 2, 2, 2}},   /* depthwise, 3 maps each */
    {1, 2, 17, 12, 5, 1, {3, 3}, {1, 1}, {4, 2}, {4, 2, 4, 2}}, /* dilated */
    {1, 2, 7, 6, 3, 1, {2, 4}, {3, 2}, {2, 1}, {3, 3, 3, 3}},   /* whole rows of padding */
    {1, 1, 3, 3, 1, 1, {3, 3}, {1, 1}, {1, 1}, {5, 5, 5, 5}},   /* windows of padding alone */
    {1, 3, 70, 20, 4, 1, {7, 7}, {2, 2}, {1, 1}, {3, 3, 3, 3}},
    {1, 2, 3, 1100, 5, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}}, /* wider than a tile */
    {1, 8, 4, 4, 9, 1, {4, 4}, {1, 1}, {1, 1}, {0}},             /* one output */
    {1, 2, 5, 1, 2, 1, {3, 1}, {1, 1}, {1, 1}, {1, 0, 1, 0}},
};

static int64_t outputs(const struct conv_shape *s, int i)
{
    const int64_t in = i ? s->width : s->height;
    return (in + s->pad[i] + s->pad[i + 2] - ((s->kernel[i] - 1) * s->dilation[i] + 1)) /
               s->stride[i] +
           1;
}

/* The definition, in double; *largest gets the sum of the magnitudes added, at most. */
static float *naive_conv(const struct conv_shape *s, const float *x, const float *w,
                         const float *bias, double *largest)
{
    const int64_t oh = outputs(s, 0), ow = outputs(s, 1), cg = s->channels / s->groups;
    float *y = data_alloc((size_t)(s->batch * s->maps * oh * ow) * sizeof *y);
    size_t at = 0;
    *largest = 0;
    for (int64_t n = 0; n < s->batch; n++)
        for (int64_t m = 0; m < s->maps; m++)
            for (int64_t oy = 0; oy < oh; oy++)
                for (int64_t ox = 0; ox < ow; ox++) {
                    double sum = bias ? (double)bias[m] : 0, size = fabs(sum);
                    for (int64_t k = 0; k < cg * s->kernel[0] * s->kernel[1]; k++) {
                        const int64_t kx = k % s->kernel[1], ky = k / s->kernel[1] % s->kernel[0];
                        const int64_t c =
                            m / (s->maps / s->groups) * cg + k / (s->kernel[0] * s->kernel[1]);
                        const int64_t iy = oy * s->stride[0] - s->pad[0] + ky * s->dilation[0];
                        const int64_t ix = ox * s->stride[1] - s->pad[1] + kx * s->dilation[1];
                        if (iy < 0 || iy >= s->height || ix < 0 || ix >= s->width)
                            continue;
                        const double p =
                            (double)x[((n * s->channels + c) * s->height + iy) * s->width + ix] *
                            (double)w[m * cg * s->kernel[0] * s->kernel[1] + k];
                        sum += p;
                        size += fabs(p);
                    }
                    *largest = size > *largest ? size : *largest;
                    y[at++] = (float)sum;
                }
    return y;
}

static void compare(const struct conv_shape *s, bool constant, bool with_bias)
{
    const int64_t cg = s->channels / s->groups, taps = cg * s->kernel[0] * s->kernel[1];
    const float *x = op_random((size_t)(s->batch * s->channels * s->height * s->width), 1);
    const float *w = op_random((size_t)(s->maps * taps), 2);
    const float *bias = op_random((size_t)s->maps, 3);
    double largest;
    const float *want = naive_conv(s, x, w, with_bias ? bias : NULL, &largest);
    const struct op_arg in[] = {
        FLOAT_INPUT(OP_SHAPE(s->batch, s->channels, s->height, s->width), x),
        {CVD_DTYPE_FLOAT32, OP_SHAPE(s->maps, cg, s->kernel[0], s->kernel[1]), w, constant},
        {CVD_DTYPE_FLOAT32, OP_SHAPE(s->maps), bias, constant},
    };
    const struct op_case c = {
        .op = "Conv",
        .opset = 11,
        OP_ATTRS(ATTR_INTS("strides", s->stride[0], s->stride[1]),
                 ATTR_INTS("dilations", s->dilation[0], s->dilation[1]),
                 ATTR_INTS("pads", s->pad[0], s->pad[1], s->pad[2], s->pad[3]),
                 ATTR_INT("group", s->groups)),
        .in = in,
        .in_count = with_bias ? 3 : 2,
    };
    op_expect_floats(&c, OP_SHAPE(s->batch, s->maps, outputs(s, 0), outputs(s, 1)), want,
                     largest * ((double)taps + 1) * (double)FLT_EPSILON);
}

Test(ops_conv, awkward_shapes)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        compare(&shapes[i], true, true);
        compare(&shapes[i], false, false);
    }
}

/* The same numbers as a 2-D convolution, seen as 1-D, 3-D and 5-D ones. */
Test(ops_conv, other_ranks)
{
    const struct conv_shape flat = {2, 3, 1, 20, 4, 1, {1, 3}, {1, 2}, {1, 2}, {0, 2, 0, 1}};
    const struct conv_shape deep = {2, 2, 6, 7, 3, 1, {3, 2}, {2, 1}, {1, 2}, {1, 0, 1, 2}};
    double largest;
    const float *x = op_random(120, 4), *w = op_random(36, 5);
    const float *want = naive_conv(&flat, x, w, NULL, &largest);
    const struct op_case one = {
        .op = "Conv",
        .opset = 11,
        OP_ATTRS(ATTR_INTS("strides", 2), ATTR_INTS("dilations", 2), ATTR_INTS("pads", 2, 1),
                 ATTR_INTS("kernel_shape", 3)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3, 20), x), FLOAT_WEIGHTS(OP_SHAPE(4, 3, 3), w)),
    };
    op_expect_floats(&one, OP_SHAPE(2, 4, outputs(&flat, 1)), want, 1e-5);

    x = op_random(168, 6);
    want = naive_conv(&deep, x, w, NULL, &largest);
    const int64_t oh = outputs(&deep, 0), ow = outputs(&deep, 1);
    const struct op_case three = {
        .op = "Conv",
        .opset = 11,
        OP_ATTRS(ATTR_INTS("strides", 2, 1, 1), ATTR_INTS("dilations", 1, 1, 2),
                 ATTR_INTS("pads", 1, 0, 0, 1, 0, 2)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 2, 6, 1, 7), x),
                  FLOAT_WEIGHTS(OP_SHAPE(3, 2, 3, 1, 2), w)),
    };
    op_expect_floats(&three, OP_SHAPE(2, 3, oh, 1, ow), want, 1e-5);
    const struct op_case five = {
        .op = "Conv",
        .opset = 11,
        OP_ATTRS(ATTR_INTS("strides", 1, 2, 1, 1, 1), ATTR_INTS("dilations", 1, 1, 1, 2, 1),
                 ATTR_INTS("pads", 0, 1, 0, 0, 0, 0, 1, 0, 2, 0)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 2, 1, 6, 1, 7, 1), x),
                  FLOAT_WEIGHTS(OP_SHAPE(3, 2, 1, 3, 1, 2, 1), w)),
    };
    op_expect_floats(&five, OP_SHAPE(2, 3, 1, oh, 1, ow, 1), want, 1e-5);
}

/* A kernel of three ones over 1 2 3 4 5: where the padding goes shows in the sums. */
Test(ops_conv, auto_pad)
{
    const float x[] = {1, 2, 3, 4, 5}, two[] = {1, 1}, three[] = {1, 1, 1};
    const struct {
        const char *mode;
        const float *w;
        int64_t kernel, stride, outputs;
        float want[5];
    } cases[] = {
        {"VALID", three, 3, 1, 3, {6, 9, 12}},
        {"SAME_UPPER", three, 3, 1, 5, {3, 6, 9, 12, 9}},
        {"SAME_LOWER", three, 3, 1, 5, {3, 6, 9, 12, 9}},
        {"SAME_UPPER", two, 2, 1, 5, {3, 5, 7, 9, 5}}, /* the odd cell comes last */
        {"SAME_LOWER", two, 2, 1, 5, {1, 3, 5, 7, 9}}, /* or first */
        {"SAME_UPPER", three, 3, 2, 3, {3, 9, 9}},
        {"SAME_UPPER", two, 2, 3, 2, {3, 9}}, /* nothing to pad */
        {"NOTSET", two, 2, 2, 2, {3, 7}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = "Conv",
            .opset = 11,
            OP_ATTRS(ATTR_STRING("auto_pad", cases[i].mode), ATTR_INTS("strides", cases[i].stride)),
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 5), x),
                      FLOAT_WEIGHTS(OP_SHAPE(1, 1, cases[i].kernel), cases[i].w)),
        };
        op_expect_floats(&c, OP_SHAPE(1, 1, cases[i].outputs), cases[i].want, 0);
    }
}

Test(ops_conv, same_for_any_batch)
{
    const struct op_case c = {
        .op = "Conv",
        .opset = 11,
        OP_ATTRS(ATTR_INTS("pads", 1, 1, 1, 1), ATTR_INT("group", 2)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(5, 6, 13, 17), op_random(5 * 6 * 13 * 17, 7)),
                  FLOAT_WEIGHTS(OP_SHAPE(10, 3, 3, 3), op_random(270, 8)),
                  FLOAT_WEIGHTS(OP_SHAPE(10), op_random(10, 9))),
    };
    op_expect_same_for_any_batch(&c);
}

/* LeNet-5's first layer: 6 maps of 28x28 from 32x32. */
Test(ops_conv, books)
{
    const struct op_case c = {
        .op = "Conv",
        .opset = 11,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 32, 32), op_random(1024, 1)),
                  FLOAT_WEIGHTS(OP_SHAPE(6, 1, 5, 5), op_random(150, 2)),
                  FLOAT_WEIGHTS(OP_SHAPE(6), op_random(6, 3))),
    };
    const struct op_result r = op_case_run(&c);
    cr_assert_eq(r.status, CVD_STATUS_OK);
    cr_expect_str_eq(r.prepared.kernel, "conv_ref");
    cr_expect_eq(r.prepared.parameters, 156);
    cr_expect_eq(r.prepared.macs, 117600);
    cr_expect_eq(r.prepared.dense_parameters, 1024u * 4704u + 4704u);
}

/* ---- refusals ---- */

struct refusal {
    struct cvd_shape x, w;
    struct op_attr attr;
    enum cvd_status status;
    const char *fragment;
};

static void expect_refusal(const struct refusal *r)
{
    const struct op_case c = {
        .op = "Conv",
        .opset = 11,
        .attrs = &r->attr,
        .attr_count = r->attr.name ? 1 : 0,
        OP_INPUTS(FLOAT_INPUT(r->x, NULL), FLOAT_INPUT(r->w, NULL)),
    };
    op_expect_failure(&c, r->status, r->fragment);
}

#define X  OP_SHAPE(1, 4, 8, 8)
#define W  OP_SHAPE(6, 4, 3, 3)
#define NO CVD_STATUS_INVALID_MODEL
Test(ops_conv, refusals)
{
    const struct refusal refusals[] = {
        {X, OP_SHAPE(6, 4, 3), {0}, NO, "weights have 3 dimensions; they must have 4"},
        {OP_SHAPE(1, 4), OP_SHAPE(6, 4), {0}, NO, "2 dimensions"},
        {X, OP_SHAPE(6, 3, 3, 3), {0}, NO, "weights take 3 channels; they must take 4"},
        {X, W, ATTR_INT("group", 3), NO, "group 3 does not divide 4 input channels"},
        {X, W, ATTR_INT("group", 4), NO, "group 4 does not divide 6 output channels"},
        {X, W, ATTR_INT("group", 0), NO, "group is 0"},
        {X, W, ATTR_INT("group", -2), NO, "group is -2"},
        {X, W, ATTR_INT("group", 2), NO, "must take 2"},
        {X, W, ATTR_INTS("strides", 1, 0), NO, "strides[1] is 0; it must be at least 1"},
        {X, W, ATTR_INTS("strides", -1, 1), NO, "strides[0] is -1"},
        {X, W, ATTR_INTS("strides", 1), NO, "strides has 1 numbers; it must have 2"},
        {X, W, ATTR_INT("strides", 1), NO, "attribute strides has type 2"},
        {X, W, ATTR_INTS("dilations", 1, 0), NO, "dilations[1] is 0"},
        {X, W, ATTR_INTS("pads", 1, 1), NO, "pads has 2 numbers; it must have 4"},
        {X, W, ATTR_INTS("pads", 0, 0, -1, 0), NO, "pads[2] is -1; it must not be negative"},
        {X, W, ATTR_INTS("kernel_shape", 3, 5), NO, "kernel_shape[1] is 5 but the weights have 3"},
        {X, W, ATTR_INTS("dilations", 1, 4), NO, "dilation 4 does not fit extent 8"},
        {X, OP_SHAPE(6, 4, 9, 3), {0}, NO, "kernel 9 with dilation 1 does not fit extent 8"},
        {X, OP_SHAPE(0, 4, 3, 3), {0}, NO, "weight extent 0 is 0"},
        {OP_SHAPE(1, 4, 0, 8), W, {0}, NO, "extent 0"},
        {X, W, ATTR_STRING("auto_pad", "SAME"), NO, "auto_pad is 'SAME'"},
        {X, W, ATTR_INTS("pads", INT64_MAX, 0, 0, 0), CVD_STATUS_UNSUPPORTED, "at most"},
        {X, W, ATTR_INTS("dilations", INT64_MAX, 1), CVD_STATUS_UNSUPPORTED, "at most"},
        {X, W, ATTR_INTS("pads", INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX),
         CVD_STATUS_UNSUPPORTED, "does not fit in memory"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
        expect_refusal(&refusals[i]);
}

Test(ops_conv, wrong_types_and_bias)
{
    const struct op_arg x = FLOAT_INPUT(X, NULL), w = FLOAT_INPUT(W, NULL);
    const struct {
        struct op_arg in[3];
        enum cvd_status status;
        const char *fragment;
    } cases[] = {
        {{x, w, FLOAT_INPUT(OP_SHAPE(5), NULL)}, NO, "bias is [5]; it must be [6]"},
        {{x, w, FLOAT_INPUT(OP_SHAPE(1, 6), NULL)}, NO, "bias is [1,6]"},
        {{{CVD_DTYPE_INT32, X, NULL, false}, w, ABSENT_INPUT}, NO, "int32, which is not allowed"},
        {{x, {CVD_DTYPE_FLOAT16, W, NULL, false}, ABSENT_INPUT},
         CVD_STATUS_UNSUPPORTED,
         "input 1 has type float16, which is not implemented"},
        {{x, ABSENT_INPUT, ABSENT_INPUT}, NO, "input 1 is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {.op = "Conv", .opset = 11, .in = cases[i].in, .in_count = 3};
        op_expect_failure(&c, cases[i].status, cases[i].fragment);
    }
}
