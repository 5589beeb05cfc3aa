/* Views, Shape, Dropout and Constant. */
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static const float cells[24] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                                13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24};

/* The operator only changes the shape, to `want`. */
static void expect_view(const struct op_case *c, struct cvd_shape want)
{
    op_expect_floats(c, want, cells, 0);
    const struct op_result r = op_case_run(c);
    cr_expect_str_eq(r.prepared.kernel, "-");
    bool known;
    cr_expect(op_find("", c->op, c->opset, &known)->flags & OP_VIEW);
}

Test(ops_shape, identity)
{
    const struct op_case c = {
        .op = "Identity", .opset = 16, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3), cells))};
    expect_view(&c, OP_SHAPE(2, 3));
}

Test(ops_shape, flatten)
{
    const struct {
        int64_t axis;
        struct cvd_shape want;
    } cases[] = {{0, OP_SHAPE(1, 24)}, {1, OP_SHAPE(2, 12)}, {2, OP_SHAPE(6, 4)},
                 {3, OP_SHAPE(24, 1)}, {-1, OP_SHAPE(6, 4)}, {-3, OP_SHAPE(1, 24)}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {.op = "Flatten",
                                  .opset = 11,
                                  OP_ATTRS(ATTR_INT("axis", cases[i].axis)),
                                  OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3, 4), cells))};
        expect_view(&c, cases[i].want);
    }
    const struct op_case by_default = {
        .op = "Flatten", .opset = 6, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3, 4), cells))};
    expect_view(&by_default, OP_SHAPE(2, 12));
    const struct op_case outside = {.op = "Flatten",
                                    .opset = 11,
                                    OP_ATTRS(ATTR_INT("axis", 4)),
                                    OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3, 4), NULL))};
    op_expect_failure(&outside, CVD_STATUS_INVALID_MODEL, "axis 4 is outside");
}

Test(ops_shape, reshape)
{
    const struct {
        struct op_arg shape;
        struct cvd_shape want;
    } cases[] = {
        {INT_LIST(24), OP_SHAPE(24)},
        {INT_LIST(4, 6), OP_SHAPE(4, 6)},
        {INT_LIST(-1, 8), OP_SHAPE(3, 8)},
        {INT_LIST(0, -1), OP_SHAPE(2, 12)},
        {INT_LIST(0, 0, 2, -1), OP_SHAPE(2, 3, 2, 2)},
        {INT_LIST(1, 1, 1, 1, 1, 1, 4, 6), OP_SHAPE(1, 1, 1, 1, 1, 1, 4, 6)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_arg in[] = {FLOAT_INPUT(OP_SHAPE(2, 3, 4), cells), cases[i].shape};
        const struct op_case c = {.op = "Reshape", .opset = 13, .in = in, .in_count = 2};
        expect_view(&c, cases[i].want);
    }
    const struct op_case by_attribute = {.op = "Reshape",
                                         .opset = 4,
                                         OP_ATTRS(ATTR_INTS("shape", -1, 4)),
                                         OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3, 4), cells))};
    expect_view(&by_attribute, OP_SHAPE(6, 4));
    const struct op_case empty = {.op = "Reshape",
                                  .opset = 14,
                                  OP_ATTRS(ATTR_INT("allowzero", 1)),
                                  OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 0, 3), cells), INT_LIST(3, 0))};
    expect_view(&empty, OP_SHAPE(3, 0));
}

Test(ops_shape, reshape_refusals)
{
    const int64_t numbers[] = {2, 12};
    const struct {
        struct op_arg shape;
        enum cvd_status status;
        const char *fragment;
    } cases[] = {
        {INT_LIST(5, 5), CVD_STATUS_INVALID_MODEL, "shape [5,5] does not hold 24 elements"},
        {INT_LIST(-1, -1), CVD_STATUS_INVALID_MODEL, "shape[0] and shape[1] are both -1"},
        {INT_LIST(-1, 5), CVD_STATUS_INVALID_MODEL, "24 elements cannot be divided by the 5"},
        {INT_LIST(2, 3, 4, 0), CVD_STATUS_INVALID_MODEL, "shape[3] is 0 but"},
        {INT_LIST(-2, 12), CVD_STATUS_INVALID_MODEL, "shape[0] is -2"},
        {INT_LIST(INT64_MAX, INT64_MAX), CVD_STATUS_INVALID_MODEL, "too many elements"},
        {INT_LIST(24, 1, 1, 1, 1, 1, 1, 1, 1), CVD_STATUS_UNSUPPORTED, "9 elements; at most 8"},
        {{CVD_DTYPE_INT64, OP_SHAPE(2), numbers, false},
         CVD_STATUS_UNSUPPORTED,
         "input 1 must be constant"},
        {FLOAT_WEIGHTS(OP_SHAPE(2), cells), CVD_STATUS_INVALID_MODEL, "it must be int64"},
        {{CVD_DTYPE_INT64, OP_SHAPE(1, 2), numbers, true},
         CVD_STATUS_INVALID_MODEL,
         "2 dimensions; it must have one"},
        {ABSENT_INPUT, CVD_STATUS_INVALID_MODEL, "input 1 is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_arg in[] = {FLOAT_INPUT(OP_SHAPE(2, 3, 4), NULL), cases[i].shape};
        const struct op_case c = {.op = "Reshape", .opset = 13, .in = in, .in_count = 2};
        op_expect_failure(&c, cases[i].status, cases[i].fragment);
    }
}

Test(ops_shape, squeeze_and_unsqueeze)
{
    const struct op_attr drop = ATTR_INTS("axes", 0, -1), add = ATTR_INTS("axes", 3, 0);
    const struct op_arg narrow[] = {FLOAT_INPUT(OP_SHAPE(1, 4, 1, 6, 1), cells), INT_LIST(0, -1)};
    const struct op_arg wide[] = {FLOAT_INPUT(OP_SHAPE(4, 6), cells), INT_LIST(3, 0)};
    const struct {
        struct op_case c;
        struct cvd_shape want;
    } cases[] = {
        {{"Squeeze", 11, &drop, 1, narrow, 1, 1, CVD_CPU_C, NULL}, OP_SHAPE(4, 1, 6)},
        {{"Squeeze", 13, NULL, 0, narrow, 2, 1, CVD_CPU_C, NULL}, OP_SHAPE(4, 1, 6)},
        {{"Squeeze", 11, NULL, 0, narrow, 1, 1, CVD_CPU_C, NULL}, OP_SHAPE(4, 6)},
        {{"Squeeze", 13, NULL, 0, narrow, 1, 1, CVD_CPU_C, NULL}, OP_SHAPE(4, 6)},
        {{"Unsqueeze", 6, &add, 1, wide, 1, 1, CVD_CPU_C, NULL}, OP_SHAPE(1, 4, 6, 1)},
        {{"Unsqueeze", 13, NULL, 0, wide, 2, 1, CVD_CPU_C, NULL}, OP_SHAPE(1, 4, 6, 1)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_view(&cases[i].c, cases[i].want);
}

Test(ops_shape, squeeze_and_unsqueeze_refusals)
{
    const struct {
        const char *op;
        struct cvd_shape x;
        struct op_arg axes;
        enum cvd_status status;
        const char *fragment;
    } cases[] = {
        {"Squeeze", OP_SHAPE(1, 3), INT_LIST(1), CVD_STATUS_INVALID_MODEL,
         "dimension 1 has extent 3"},
        {"Squeeze", OP_SHAPE(1, 3), INT_LIST(2), CVD_STATUS_INVALID_MODEL,
         "axes[0] is 2, outside 2 dimensions"},
        {"Unsqueeze", OP_SHAPE(3), INT_LIST(0, -3), CVD_STATUS_INVALID_MODEL,
         "axes names dimension 0 twice"},
        {"Unsqueeze", OP_SHAPE(3), INT_LIST(4), CVD_STATUS_INVALID_MODEL, "axes[0] is 4"},
        {"Unsqueeze", OP_SHAPE(1, 1, 1, 1, 1, 1, 1), INT_LIST(0, 1), CVD_STATUS_UNSUPPORTED,
         "would have 9 dimensions"},
        {"Unsqueeze",
         OP_SHAPE(3),
         {CVD_DTYPE_INT64, OP_SHAPE(1), NULL, false},
         CVD_STATUS_UNSUPPORTED,
         "input 1 must be constant"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_arg in[] = {FLOAT_INPUT(cases[i].x, NULL), cases[i].axes};
        const struct op_case c = {.op = cases[i].op, .opset = 13, .in = in, .in_count = 2};
        op_expect_failure(&c, cases[i].status, cases[i].fragment);
    }
    const struct op_case none = {
        .op = "Unsqueeze", .opset = 11, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3), NULL))};
    op_expect_failure(&none, CVD_STATUS_INVALID_MODEL, "attribute axes is missing");
}

Test(ops_shape, shape)
{
    const struct {
        int64_t start, end;
        size_t count;
        int64_t want[3];
    } cases[] = {
        {0, 3, 3, {2, 3, 4}},
        {1, 3, 2, {3, 4}},
        {-1, 99, 1, {4}},
        {0, -1, 2, {2, 3}},
        {-99, 1, 1, {2}},
        {2, 1, 0, {0}},
        {INT64_MIN, INT64_MAX, 3, {2, 3, 4}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = "Shape",
            .opset = 15,
            OP_ATTRS(ATTR_INT("start", cases[i].start), ATTR_INT("end", cases[i].end)),
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3, 4), NULL))};
        op_expect_exact(&c, 0, CVD_DTYPE_INT64, OP_SHAPE((int64_t)cases[i].count), cases[i].want);
    }
    const struct op_case old = {
        .op = "Shape", .opset = 6, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3, 4), NULL))};
    op_expect_exact(&old, 0, CVD_DTYPE_INT64, OP_SHAPE(3), (const int64_t[]){2, 3, 4});
}

Test(ops_shape, dropout)
{
    const uint8_t off = 0, on = 1;
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 2), cells);
    const struct op_arg with[] = {
        x, FLOAT_INPUT(OP_SCALAR, cells), {CVD_DTYPE_BOOL, OP_SCALAR, &off, true}};
    const struct op_case now = {
        .op = "Dropout", .opset = 13, .in = with, .in_count = 3, .out_count = 2};
    op_expect_floats(&now, OP_SHAPE(2, 2), cells, 0);
    op_expect_exact(&now, 1, CVD_DTYPE_BOOL, OP_SHAPE(2, 2), (const uint8_t[]){1, 1, 1, 1});
    const float never = 0, half = 0.5f;
    struct op_arg trained[] = {
        x, {CVD_DTYPE_FLOAT32, OP_SCALAR, &never, true}, {CVD_DTYPE_BOOL, OP_SCALAR, &on, true}};
    const struct op_case training = {.op = "Dropout", .opset = 13, .in = trained, .in_count = 3};
    op_expect_floats(&training, OP_SHAPE(2, 2), cells, 0);
    trained[1].data = &half;
    op_expect_failure(&training, CVD_STATUS_UNSUPPORTED, "training mode");
    const struct op_case old = {
        .op = "Dropout", .opset = 7, .in = &x, .in_count = 1, .out_count = 2};
    op_expect_floats(&old, OP_SHAPE(2, 2), cells, 0);
    op_expect_exact(&old, 1, CVD_DTYPE_FLOAT32, OP_SHAPE(2, 2), OP_FLOATS_OF(1, 1, 1, 1));

    const struct {
        struct op_arg training;
        enum cvd_status status;
        const char *fragment;
    } cases[] = {
        {{CVD_DTYPE_BOOL, OP_SCALAR, &on, true}, CVD_STATUS_UNSUPPORTED, "training mode"},
        {{CVD_DTYPE_BOOL, OP_SCALAR, &on, false}, CVD_STATUS_UNSUPPORTED, "must be constant"},
        {{CVD_DTYPE_BOOL, OP_SHAPE(2), &on, true}, CVD_STATUS_INVALID_MODEL, "2 elements"},
        {{CVD_DTYPE_INT64, OP_SCALAR, &on, true}, CVD_STATUS_INVALID_MODEL, "int64"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_arg in[] = {x, ABSENT_INPUT, cases[i].training};
        const struct op_case c = {.op = "Dropout", .opset = 13, .in = in, .in_count = 3};
        op_expect_failure(&c, cases[i].status, cases[i].fragment);
    }
}

Test(ops_shape, constant)
{
    const struct op_attr tensor = {.name = "value",
                                   .type = OP_ATTR_TENSOR,
                                   .tensor = {CVD_DTYPE_FLOAT32, OP_SHAPE(2, 2), cells, {0}}};
    const struct op_attr floats = {
        .name = "value_floats", .type = OP_ATTR_FLOATS, .count = 3, .floats = cells};
    const struct op_attr attrs[] = {tensor, floats, ATTR_FLOAT("value_float", 5),
                                    ATTR_INT("value_int", -7), ATTR_INTS("value_ints", 8, 9)};
    const struct op_attr *a = attrs;
    const struct op_case c[] = {
        {.op = "Constant", .opset = 13, .attrs = &a[0], .attr_count = 1},
        {.op = "Constant", .opset = 13, .attrs = &a[1], .attr_count = 1},
        {.op = "Constant", .opset = 13, .attrs = &a[2], .attr_count = 1},
        {.op = "Constant", .opset = 13, .attrs = &a[3], .attr_count = 1},
        {.op = "Constant", .opset = 13, .attrs = &a[4], .attr_count = 1},
    };
    op_expect_floats(&c[0], OP_SHAPE(2, 2), cells, 0);
    op_expect_floats(&c[1], OP_SHAPE(3), cells, 0);
    op_expect_floats(&c[2], OP_SCALAR, &cells[4], 0);
    op_expect_exact(&c[3], 0, CVD_DTYPE_INT64, OP_SCALAR, (const int64_t[]){-7});
    op_expect_exact(&c[4], 0, CVD_DTYPE_INT64, OP_SHAPE(2), (const int64_t[]){8, 9});

    const struct op_case both = {.op = "Constant", .opset = 13, .attrs = attrs, .attr_count = 2};
    op_expect_failure(&both, CVD_STATUS_INVALID_MODEL, "has both value and value_floats");
    const struct op_case nothing = {.op = "Constant", .opset = 13};
    op_expect_failure(&nothing, CVD_STATUS_INVALID_MODEL, "has no value");
    const struct op_case text = {
        .op = "Constant", .opset = 13, OP_ATTRS(ATTR_STRING("value_string", "x"))};
    op_expect_failure(&text, CVD_STATUS_UNSUPPORTED, "value_string is not implemented");
    const struct op_case wrong = {.op = "Constant", .opset = 13, OP_ATTRS(ATTR_INT("value", 1))};
    op_expect_failure(&wrong, CVD_STATUS_INVALID_MODEL, "attribute value has type 2");
}
