/* Softmax and LogSoftmax: known values, the meaning of axis, extremes. */
#include "tests/support/data.h"
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <math.h>

static void expect_row(const char *op, size_t n, const float *x, const float *want,
                       double tolerance)
{
    const struct op_arg in = FLOAT_INPUT(OP_SHAPE(1, (int64_t)n), x);
    for (int opset = 11; opset <= 13; opset += 2) {
        const struct op_case c = {.op = op, .opset = opset, .in = &in, .in_count = 1};
        op_expect_floats(&c, OP_SHAPE(1, (int64_t)n), want, tolerance);
    }
}

/* e^-1, e^0 and e^1 over their sum, 4.0861613, and the logarithms. */
Test(ops_softmax, known_values)
{
    expect_row("Softmax", 3, OP_FLOATS_OF(-1, 0, 1),
               OP_FLOATS_OF(0.09003057f, 0.24472847f, 0.66524096f), 1e-7);
    expect_row("LogSoftmax", 3, OP_FLOATS_OF(-1, 0, 1),
               OP_FLOATS_OF(-2.4076059f, -1.4076059f, -0.4076059f), 5e-7);
}

Test(ops_softmax, extremes)
{
    expect_row("Softmax", 3, OP_FLOATS_OF(1e4f, -1e4f, 0), OP_FLOATS_OF(1, 0, 0), 0);
    expect_row("LogSoftmax", 3, OP_FLOATS_OF(1e4f, -1e4f, 0), OP_FLOATS_OF(0, -2e4f, -1e4f), 0);
    expect_row("Softmax", 2, OP_FLOATS_OF(-1e4f, -1e4f), OP_FLOATS_OF(0.5f, 0.5f), 0);
    expect_row("LogSoftmax", 2, OP_FLOATS_OF(1e30f, 1e30f), OP_FLOATS_OF(-0.6931472f, -0.6931472f),
               1e-7);
    expect_row("Softmax", 1, OP_FLOATS_OF(-3e38f), OP_FLOATS_OF(1), 0);
    expect_row("LogSoftmax", 1, OP_FLOATS_OF(12), OP_FLOATS_OF(0), 0);
    expect_row("Softmax", 3, OP_FLOATS_OF(2, -INFINITY, 2), OP_FLOATS_OF(0.5f, 0, 0.5f), 0);
    expect_row("LogSoftmax", 2, OP_FLOATS_OF(2, -INFINITY), OP_FLOATS_OF(0, -INFINITY), 0);
    expect_row("Softmax", 2, OP_FLOATS_OF(1, NAN), OP_FLOATS_OF(NAN, NAN), 0);

    /* A million equal classes: nothing is lost in the sum. */
    const size_t n = 1000 * 1000;
    float *x = data_alloc(n * sizeof *x), *want = data_alloc(n * sizeof *want);
    for (size_t i = 0; i < n; i++) {
        x[i] = 7;
        want[i] = 1e-6f;
    }
    expect_row("Softmax", n, x, want, 0);
}

/* The whole of 2x2x2 cells, of which all are equal, so each row gives 1 / its length. */
Test(ops_softmax, axis)
{
    const float x[8] = {3, 3, 3, 3, 3, 3, 3, 3};
    const struct {
        int opset;
        int64_t axis;
        float want;
    } cases[] = {
        {12, 0, 1 / 8.0f}, {12, 1, 1 / 4.0f},  {12, 2, 1 / 2.0f},
        {12, 3, 1},        {11, -1, 1 / 2.0f}, {13, 0, 1 / 2.0f},
        {13, 1, 1 / 2.0f}, {13, 2, 1 / 2.0f},  {13, -3, 1 / 2.0f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = "Softmax",
            .opset = cases[i].opset,
            OP_ATTRS(ATTR_INT("axis", cases[i].axis)),
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 2, 2), x)),
        };
        float want[8];
        for (size_t j = 0; j < 8; j++)
            want[j] = cases[i].want;
        op_expect_floats(&c, OP_SHAPE(2, 2, 2), want, 0);
    }
}

/* Over the middle of three dimensions: the pairs are 0 and 2, 1 and 3, and so on; log 3 apart. */
Test(ops_softmax, inner_dimension)
{
    const float l = 1.0986123f;
    const float x[] = {0, l, l, 0, 5, 5, 5 + l, 5 + l};
    const float want[] = {0.25f, 0.75f, 0.75f, 0.25f, 0.25f, 0.25f, 0.75f, 0.75f};
    const struct op_case c = {
        .op = "Softmax",
        .opset = 13,
        OP_ATTRS(ATTR_INT("axis", 1)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 2, 2), x)),
    };
    op_expect_floats(&c, OP_SHAPE(2, 2, 2), want, 1e-6);
}

/* The default is the last dimension now and all but the first before. */
Test(ops_softmax, default_axis)
{
    const float x[4] = {1, 1, 1, 1};
    const struct op_arg in = FLOAT_INPUT(OP_SHAPE(1, 2, 2), x);
    const struct op_case then = {.op = "Softmax", .opset = 12, .in = &in, .in_count = 1};
    op_expect_floats(&then, OP_SHAPE(1, 2, 2), OP_FLOATS_OF(0.25f, 0.25f, 0.25f, 0.25f), 0);
    const struct op_case now = {.op = "Softmax", .opset = 13, .in = &in, .in_count = 1};
    op_expect_floats(&now, OP_SHAPE(1, 2, 2), OP_FLOATS_OF(0.5f, 0.5f, 0.5f, 0.5f), 0);
}

Test(ops_softmax, batches)
{
    const struct op_case c = {
        .op = "LogSoftmax",
        .opset = 13,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(5, 7, 1000), op_random(35000, 5))),
    };
    op_expect_same_for_any_batch(&c);

    struct op_case mixing = {
        .op = "Softmax",
        .opset = 13,
        OP_ATTRS(ATTR_INT("axis", 0)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 2), op_random(4, 5))),
    };
    cr_expect(op_case_run(&mixing).prepared.mixes_images);
    mixing.attr_count = 0;
    cr_expect_not(op_case_run(&mixing).prepared.mixes_images);
}

Test(ops_softmax, refusals)
{
    const struct op_case axis = {
        .op = "Softmax",
        .opset = 13,
        OP_ATTRS(ATTR_INT("axis", 2)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 10), NULL)),
    };
    op_expect_failure(&axis, CVD_STATUS_INVALID_MODEL,
                      "axis 2 is outside an input of 2 dimensions");
    const struct op_case old_axis = {
        .op = "LogSoftmax",
        .opset = 9,
        OP_ATTRS(ATTR_INT("axis", 3)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 10), NULL)),
    };
    op_expect_failure(&old_axis, CVD_STATUS_INVALID_MODEL, "axis 3");
    const struct op_case type = {
        .op = "Softmax",
        .opset = 13,
        OP_INPUTS({CVD_DTYPE_INT64, OP_SHAPE(1, 10), NULL, false}),
    };
    op_expect_failure(&type, CVD_STATUS_INVALID_MODEL, "int64, which is not allowed");
}
