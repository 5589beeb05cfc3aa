/* Pooling: worked examples, a naive loop over awkward windows, the corner cases of ceil_mode. */
#include "tests/support/data.h"
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <string.h>

static const float grid[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13,
                             14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25};

Test(ops_pool, worked_examples)
{
    const struct op_case largest = {
        .op = "MaxPool",
        .opset = 12,
        OP_ATTRS(ATTR_INTS("kernel_shape", 2, 2), ATTR_INTS("strides", 2, 2)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), grid)),
    };
    op_expect_floats(&largest, OP_SHAPE(1, 1, 2, 2), OP_FLOATS_OF(7, 9, 17, 19), 0);
    const struct op_case ceiling = {
        .op = "MaxPool",
        .opset = 12,
        OP_ATTRS(ATTR_INTS("kernel_shape", 2, 2), ATTR_INTS("strides", 2, 2),
                 ATTR_INT("ceil_mode", 1)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), grid)),
    };
    op_expect_floats(&ceiling, OP_SHAPE(1, 1, 3, 3), OP_FLOATS_OF(7, 9, 10, 17, 19, 20, 22, 24, 25),
                     0);
    const struct op_case mean = {
        .op = "AveragePool",
        .opset = 11,
        OP_ATTRS(ATTR_INTS("kernel_shape", 2, 2), ATTR_INTS("strides", 2, 2)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), grid)),
    };
    op_expect_floats(&mean, OP_SHAPE(1, 1, 2, 2), OP_FLOATS_OF(4, 6, 14, 16), 0);
}

/* One row of 1 ... 6 under kernels of 3 with a padding of 1: what each division is by. */
Test(ops_pool, what_an_average_divides_by)
{
    const float row[] = {1, 2, 3, 4, 5, 6};
    const struct {
        int64_t include_pad, ceil_mode, stride, dilation, outputs;
        float want[4];
    } cases[] = {
        {0, 0, 2, 1, 3, {3 / 2.0f, 9 / 3.0f, 15 / 3.0f}},
        {1, 0, 2, 1, 3, {3 / 3.0f, 9 / 3.0f, 15 / 3.0f}},
        /* The last window is 6, the padding, and a cell beyond it, which never counts. */
        {0, 1, 2, 1, 4, {3 / 2.0f, 9 / 3.0f, 15 / 3.0f, 6 / 1.0f}},
        {1, 1, 2, 1, 4, {3 / 3.0f, 9 / 3.0f, 15 / 3.0f, 6 / 2.0f}},
        /* Taps two apart from -1: 2 4; from 2: 3 5 and one in the padding. */
        {0, 0, 3, 2, 2, {6 / 2.0f, 8 / 2.0f}},
        {1, 0, 3, 2, 2, {6 / 3.0f, 8 / 3.0f}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = "AveragePool",
            .opset = 19,
            OP_ATTRS(ATTR_INTS("kernel_shape", 3), ATTR_INTS("pads", 1, 1),
                     ATTR_INTS("strides", cases[i].stride),
                     ATTR_INTS("dilations", cases[i].dilation),
                     ATTR_INT("count_include_pad", cases[i].include_pad),
                     ATTR_INT("ceil_mode", cases[i].ceil_mode)),
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 6), row)),
        };
        op_expect_floats(&c, OP_SHAPE(1, 1, cases[i].outputs), cases[i].want, 1e-6);
    }
}

/* A window that would start beyond the input and its leading padding is none. */
Test(ops_pool, ceil_mode_drops_windows_that_start_in_the_end_padding)
{
    const float cells[] = {1, 2, 3, 5};
    const struct op_case c = {
        .op = "AveragePool",
        .opset = 19,
        OP_ATTRS(ATTR_INTS("kernel_shape", 3, 3), ATTR_INTS("strides", 3, 3),
                 ATTR_INTS("pads", 1, 1, 1, 1), ATTR_INT("ceil_mode", 1),
                 ATTR_INT("count_include_pad", 1)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 2, 2), cells)),
    };
    op_expect_floats(&c, OP_SHAPE(1, 1, 1, 1), OP_FLOATS_OF(11 / 9.0f), 1e-6);
}

/* ---- against a naive loop ---- */

struct pool_shape {
    int64_t planes, height, width;
    int64_t kernel[2], stride[2], dilation[2], pad[4]; /* pad: top, left, bottom, right */
};

static const struct pool_shape shapes[] = {
    {1, 1, 1, {1, 1}, {1, 1}, {1, 1}, {0}},
    {3, 5, 7, {2, 2}, {2, 2}, {1, 1}, {0}},
    {2, 8, 9, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}},
    {2, 9, 11, {3, 2}, {1, 3}, {2, 1}, {2, 0, 1, 1}},
    {1, 4, 600, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}}, /* several pieces of a row */
    {1, 13, 6, {5, 6}, {4, 1}, {1, 1}, {4, 5, 4, 5}},
    {2, 7, 7, {7, 7}, {1, 1}, {1, 1}, {0}},
    {1, 10, 10, {2, 3}, {3, 3}, {4, 3}, {3, 4, 2, 1}},
};

static int64_t outputs(const struct pool_shape *s, int i)
{
    const int64_t in = i ? s->width : s->height;
    return (in + s->pad[i] + s->pad[i + 2] - ((s->kernel[i] - 1) * s->dilation[i] + 1)) /
               s->stride[i] +
           1;
}

enum kind { MAX, AVERAGE, AVERAGE_WITH_PAD, LP3 };

static float naive_cell(const struct pool_shape *s, enum kind kind, const float *plane, int64_t oy,
                        int64_t ox)
{
    double sum = 0, most = -HUGE_VAL;
    int64_t count = 0;
    for (int64_t k = 0; k < s->kernel[0] * s->kernel[1]; k++) {
        const int64_t iy = oy * s->stride[0] - s->pad[0] + k / s->kernel[1] * s->dilation[0];
        const int64_t ix = ox * s->stride[1] - s->pad[1] + k % s->kernel[1] * s->dilation[1];
        if (iy < 0 || iy >= s->height || ix < 0 || ix >= s->width)
            continue;
        const double v = (double)plane[iy * s->width + ix];
        count++;
        most = v > most ? v : most;
        sum += kind == LP3 ? fabs(v * v * v) : v;
    }
    if (kind == MAX)
        return (float)most;
    if (kind == LP3)
        return (float)cbrt(sum);
    return (float)(sum / (double)(kind == AVERAGE ? count : s->kernel[0] * s->kernel[1]));
}

static void compare(const struct pool_shape *s, enum kind kind)
{
    const int64_t oh = outputs(s, 0), ow = outputs(s, 1), plane = s->height * s->width;
    const float *x = op_random((size_t)(s->planes * plane), 11);
    float *want = data_alloc((size_t)(s->planes * oh * ow) * sizeof *want);
    for (int64_t i = 0; i < s->planes * oh * ow; i++)
        want[i] = naive_cell(s, kind, x + i / (oh * ow) * plane, i / ow % oh, i % ow);
    const struct op_case c = {
        .op = kind == MAX   ? "MaxPool"
              : kind == LP3 ? "LpPool"
                            : "AveragePool",
        .opset = 19,
        OP_ATTRS(ATTR_INTS("kernel_shape", s->kernel[0], s->kernel[1]),
                 ATTR_INTS("strides", s->stride[0], s->stride[1]),
                 ATTR_INTS("dilations", s->dilation[0], s->dilation[1]),
                 ATTR_INTS("pads", s->pad[0], s->pad[1], s->pad[2], s->pad[3]),
                 ATTR_INT("count_include_pad", kind == AVERAGE_WITH_PAD), ATTR_INT("p", 3)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, s->planes, s->height, s->width), x)),
    };
    op_expect_floats(&c, OP_SHAPE(1, s->planes, oh, ow), want, kind == MAX ? 0 : 1e-6);
}

Test(ops_pool, awkward_shapes)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int kind = MAX; kind <= LP3; kind++)
            compare(&shapes[i], (enum kind)kind);
}

/* The same cells as a line, and as a block of 2x3x4 whose maxima are its far corners. */
Test(ops_pool, other_ranks)
{
    const struct op_case line = {
        .op = "MaxPool",
        .opset = 12,
        OP_ATTRS(ATTR_INTS("kernel_shape", 3), ATTR_INTS("strides", 2), ATTR_INTS("pads", 1, 0)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 2, 6), grid)),
    };
    op_expect_floats(&line, OP_SHAPE(1, 2, 3), OP_FLOATS_OF(2, 4, 6, 8, 10, 12), 0);
    const struct op_case block = {
        .op = "AveragePool",
        .opset = 12,
        OP_ATTRS(ATTR_INTS("kernel_shape", 2, 2, 2), ATTR_INTS("strides", 1, 1, 2)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 2, 3, 4), grid)),
    };
    /* The mean of a box is that of its opposite corners: (1 + 18) / 2 and so on. */
    op_expect_floats(&block, OP_SHAPE(1, 1, 1, 2, 2), OP_FLOATS_OF(9.5f, 11.5f, 13.5f, 15.5f), 0);
}

Test(ops_pool, indices)
{
    const struct op_case rows = {
        .op = "MaxPool",
        .opset = 12,
        OP_ATTRS(ATTR_INTS("kernel_shape", 3, 3), ATTR_INTS("pads", 1, 1, 1, 1),
                 ATTR_INTS("strides", 2, 2)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), grid)),
        .out_count = 2,
    };
    const int64_t by_rows[] = {6, 8, 9, 16, 18, 19, 21, 23, 24};
    op_expect_exact(&rows, 1, CVD_DTYPE_INT64, OP_SHAPE(1, 1, 3, 3), by_rows);
    const struct op_case columns = {
        .op = "MaxPool",
        .opset = 12,
        OP_ATTRS(ATTR_INTS("kernel_shape", 2, 2), ATTR_INTS("strides", 2, 2),
                 ATTR_INT("storage_order", 1)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), grid)),
        .out_count = 2,
    };
    const int64_t by_columns[] = {6, 16, 8, 18};
    op_expect_exact(&columns, 1, CVD_DTYPE_INT64, OP_SHAPE(1, 1, 2, 2), by_columns);

    /* Equal cells: the first. Planes count on. */
    const float equal[] = {4, 4, 4, 4, 1, 2, 2, 1};
    const struct op_case ties = {
        .op = "MaxPool",
        .opset = 12,
        OP_ATTRS(ATTR_INTS("kernel_shape", 2, 2)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 2, 2, 2), equal)),
        .out_count = 2,
    };
    const int64_t first[] = {0, 5};
    op_expect_exact(&ties, 1, CVD_DTYPE_INT64, OP_SHAPE(1, 2, 1, 1), first);

    /* In three dimensions, 2x3x4, with the maximum at (1, 0, 2): 1 + 0 * 2 + 2 * 6 by columns. */
    float cells[24] = {0};
    cells[14] = 1;
    const struct op_case deep = {
        .op = "MaxPool",
        .opset = 12,
        OP_ATTRS(ATTR_INTS("kernel_shape", 2, 3, 4), ATTR_INT("storage_order", 1)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 2, 3, 4), cells)),
        .out_count = 2,
    };
    const int64_t at[] = {13};
    op_expect_exact(&deep, 1, CVD_DTYPE_INT64, OP_SHAPE(1, 1, 1, 1, 1), at);
}

Test(ops_pool, bytes_and_signs)
{
    const uint8_t unsigned_bytes[] = {3, 200, 7, 0};
    const int8_t negative[] = {-3, -100, -7, -128};
    const struct op_arg in[] = {{CVD_DTYPE_UINT8, OP_SHAPE(1, 1, 4), unsigned_bytes, false},
                                {CVD_DTYPE_INT8, OP_SHAPE(1, 1, 4), negative, false}};
    const struct op_attr attrs[] = {ATTR_INTS("kernel_shape", 2), ATTR_INTS("pads", 0, 1)};
    const struct op_case u = {"MaxPool", 12, attrs, 2, &in[0], 1, 1, CVD_CPU_C, NULL};
    const struct op_case s = {"MaxPool", 12, attrs, 2, &in[1], 1, 1, CVD_CPU_C, NULL};
    const uint8_t largest[] = {200, 200, 7, 0};
    op_expect_exact(&u, 0, CVD_DTYPE_UINT8, OP_SHAPE(1, 1, 4), largest);
    const int8_t want[] = {-3, -7, -7, -128};
    op_expect_exact(&s, 0, CVD_DTYPE_INT8, OP_SHAPE(1, 1, 4), want);
}

/* The padding never wins, -infinity may be the maximum, a NaN shows. */
Test(ops_pool, special_numbers)
{
    const float x[] = {-INFINITY, -INFINITY, -1e30f, NAN, 5, 6};
    const struct op_case c = {
        .op = "MaxPool",
        .opset = 12,
        OP_ATTRS(ATTR_INTS("kernel_shape", 2), ATTR_INTS("pads", 1, 0)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 6), x)),
    };
    op_expect_floats(&c, OP_SHAPE(1, 1, 6), OP_FLOATS_OF(-INFINITY, -INFINITY, -1e30f, NAN, NAN, 6),
                     0);
}

Test(ops_pool, global)
{
    const struct {
        const char *op;
        float want[2];
    } cases[] = {
        {"GlobalAveragePool", {3.5f, 0.5f}},
        {"GlobalMaxPool", {6, 3}},
        {"GlobalLpPool", {9.539392f, 4.358899f}}, /* sqrt 91, sqrt 19 */
    };
    const float x[] = {1, 2, 3, 4, 5, 6, -2, 3, -1, 2, 0, 1};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = cases[i].op,
            .opset = 13,
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 2, 2, 3), x)),
        };
        op_expect_floats(&c, OP_SHAPE(1, 2, 1, 1), cases[i].want, 1e-6);
        const struct op_case line = {
            .op = cases[i].op,
            .opset = 13,
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 1, 6), x)),
        };
        op_expect_floats(&line, OP_SHAPE(2, 1, 1), cases[i].want, 1e-6);
    }
    /* A plane of equal numbers whose float sum would drift. */
    const size_t n = 1000 * 1000;
    float *even = data_alloc(n * sizeof *even);
    for (size_t i = 0; i < n; i++)
        even[i] = 0.1f;
    const struct op_case large = {
        .op = "GlobalAveragePool",
        .opset = 13,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 1, 1000, 1000), even)),
    };
    op_expect_floats(&large, OP_SHAPE(1, 1, 1, 1), OP_FLOATS_OF(0.1f), 0);
}

Test(ops_pool, same_for_any_batch)
{
    const char *const ops[] = {"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool",
                               "GlobalLpPool"};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        const struct op_case c = {
            .op = ops[i],
            .opset = 13,
            OP_ATTRS(ATTR_INTS("kernel_shape", 3, 3), ATTR_INTS("pads", 1, 1, 1, 1)),
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(5, 3, 14, 11), op_random(5 * 3 * 14 * 11, 12))),
        };
        op_expect_same_for_any_batch(&c);
    }
}

Test(ops_pool, refusals)
{
    const struct {
        const char *op;
        struct op_attr attrs[2];
        struct op_arg x;
        enum cvd_status status;
        const char *fragment;
    } cases[] = {
        {"MaxPool",
         {ATTR_INT("ceil_mode", 0)},
         FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), NULL),
         CVD_STATUS_INVALID_MODEL,
         "kernel_shape is missing"},
        {"MaxPool",
         {ATTR_INTS("kernel_shape", 2)},
         FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), NULL),
         CVD_STATUS_INVALID_MODEL,
         "kernel_shape has 1 numbers"},
        {"MaxPool",
         {ATTR_INTS("kernel_shape", 2, 0)},
         FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), NULL),
         CVD_STATUS_INVALID_MODEL,
         "kernel_shape[1] is 0"},
        {"AveragePool",
         {ATTR_INTS("kernel_shape", 6, 1)},
         FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), NULL),
         CVD_STATUS_INVALID_MODEL,
         "kernel 6 with dilation 1 does not fit extent 5"},
        {"AveragePool",
         {ATTR_INTS("kernel_shape", 2, 2), ATTR_INTS("strides", 0, 1)},
         FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), NULL),
         CVD_STATUS_INVALID_MODEL,
         "strides[0] is 0"},
        {"AveragePool",
         {ATTR_INTS("kernel_shape", 2, 2), ATTR_INTS("pads", 0, 0, 0, -3)},
         FLOAT_INPUT(OP_SHAPE(1, 1, 5, 5), NULL),
         CVD_STATUS_INVALID_MODEL,
         "pads[3] is -3"},
        {"AveragePool",
         {ATTR_INTS("kernel_shape", 2)},
         {CVD_DTYPE_UINT8, OP_SHAPE(1, 1, 5), NULL, false},
         CVD_STATUS_INVALID_MODEL,
         "uint8, which is not allowed"},
        {"MaxPool",
         {ATTR_INTS("kernel_shape", 2)},
         {CVD_DTYPE_FLOAT64, OP_SHAPE(1, 1, 5), NULL, false},
         CVD_STATUS_UNSUPPORTED,
         "float64, which is not implemented"},
        {"MaxPool",
         {ATTR_INTS("kernel_shape", 2), ATTR_INT("storage_order", 2)},
         FLOAT_INPUT(OP_SHAPE(1, 1, 5), NULL),
         CVD_STATUS_INVALID_MODEL,
         "storage_order is 2"},
        {"LpPool",
         {ATTR_INTS("kernel_shape", 2), ATTR_INT("p", 0)},
         FLOAT_INPUT(OP_SHAPE(1, 1, 5), NULL),
         CVD_STATUS_INVALID_MODEL,
         "p is 0"},
        {"GlobalLpPool",
         {ATTR_INT("p", -1)},
         FLOAT_INPUT(OP_SHAPE(1, 1, 5), NULL),
         CVD_STATUS_INVALID_MODEL,
         "p is -1"},
        {"GlobalAveragePool",
         {{0}},
         FLOAT_INPUT(OP_SHAPE(1, 1, 0), NULL),
         CVD_STATUS_INVALID_MODEL,
         "extent 2 is 0"},
        {"GlobalMaxPool",
         {{0}},
         FLOAT_INPUT(OP_SHAPE(7), NULL),
         CVD_STATUS_INVALID_MODEL,
         "1 dimensions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = cases[i].op,
            .opset = 13,
            .attrs = cases[i].attrs,
            .attr_count = cases[i].attrs[1].name   ? 2
                          : cases[i].attrs[0].name ? 1
                                                   : 0,
            .in = &cases[i].x,
            .in_count = 1,
        };
        op_expect_failure(&c, cases[i].status, cases[i].fragment);
    }
}
