/* Equal Less Greater LessOrEqual GreaterOrEqual, And Or Xor, Not, and Where. */
#include "tests/support/data.h"
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

/* The pairs (1, 2), (2, 2), (2, 1) and, for floats, (NaN, NaN), in every type. */
Test(ops_compare, comparisons)
{
    const struct {
        const char *op;
        uint8_t want[4];
    } ops[] = {{"Equal", {0, 1, 0, 0}},
               {"Less", {1, 0, 0, 0}},
               {"LessOrEqual", {1, 1, 0, 0}},
               {"Greater", {0, 0, 1, 0}},
               {"GreaterOrEqual", {0, 1, 1, 0}}};
    const float fa[] = {1, 2, 2, NAN}, fb[] = {2, 2, 1, NAN};
    const int64_t la[] = {1, 2, INT64_MAX}, lb[] = {2, 2, INT64_MAX - 1}; /* not equal as doubles */
    const int32_t ia[] = {1, 2, 2}, ib[] = {2, 2, 1};
    const int8_t sa[] = {-1, 2, 2}, sb[] = {1, 2, -2};
    const uint8_t ua[] = {1, 2, 200}, ub[] = {2, 2, 100};
    const struct {
        enum cvd_dtype dtype;
        const void *a, *b;
        int64_t count;
    } types[] = {{CVD_DTYPE_FLOAT32, fa, fb, 4},
                 {CVD_DTYPE_INT64, la, lb, 3},
                 {CVD_DTYPE_INT32, ia, ib, 3},
                 {CVD_DTYPE_INT8, sa, sb, 3},
                 {CVD_DTYPE_UINT8, ua, ub, 3}};
    for (size_t i = 0; i < 5; i++)
        for (size_t t = 0; t < 5; t++) {
            const struct op_case c = {
                .op = ops[i].op,
                .opset = 13,
                OP_INPUTS({types[t].dtype, OP_SHAPE(types[t].count), types[t].a, false},
                          {types[t].dtype, OP_SHAPE(types[t].count), types[t].b, false})};
            op_expect_exact(&c, 0, CVD_DTYPE_BOOL, OP_SHAPE(types[t].count), ops[i].want);
        }
}

Test(ops_compare, logic)
{
    const uint8_t a[] = {0, 1}, b[] = {0, 1};
    const struct {
        const char *op;
        uint8_t want[4];
    } ops[] = {{"And", {0, 0, 0, 1}},
               {"Or", {0, 1, 1, 1}},
               {"Xor", {0, 1, 1, 0}},
               {"Equal", {1, 0, 0, 1}}};
    for (size_t i = 0; i < 4; i++) {
        const struct op_case c = {.op = ops[i].op,
                                  .opset = 11,
                                  OP_INPUTS({CVD_DTYPE_BOOL, OP_SHAPE(2, 1), a, false},
                                            {CVD_DTYPE_BOOL, OP_SHAPE(2), b, false})};
        op_expect_exact(&c, 0, CVD_DTYPE_BOOL, OP_SHAPE(2, 2), ops[i].want);
    }
    const struct op_case not = {
        .op = "Not", .opset = 1, OP_INPUTS({CVD_DTYPE_BOOL, OP_SHAPE(2), a, false})};
    op_expect_exact(&not, 0, CVD_DTYPE_BOOL, OP_SHAPE(2), (const uint8_t[]){1, 0});
}

/* Before operator set 7 input 1 stands at a dimension of input 0. */
Test(ops_compare, legacy_broadcast)
{
    const float a[] = {1, 2, 3, 4}, b[] = {2, 3};
    const struct op_case c = {
        .op = "Greater",
        .opset = 6,
        OP_ATTRS(ATTR_INT("broadcast", 1), ATTR_INT("axis", 0)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 2), a), FLOAT_INPUT(OP_SHAPE(2), b))};
    op_expect_exact(&c, 0, CVD_DTYPE_BOOL, OP_SHAPE(2, 2), (const uint8_t[]){0, 0, 0, 1});
    struct op_case no_attribute = c;
    no_attribute.attr_count = 0;
    op_expect_failure(&no_attribute, CVD_STATUS_INVALID_MODEL, "broadcast is not set");
}

/* Three arrays that broadcast, for elements of each size. */
Test(ops_compare, where)
{
    const enum cvd_dtype types[] = {CVD_DTYPE_BOOL, CVD_DTYPE_FLOAT16, CVD_DTYPE_FLOAT32,
                                    CVD_DTYPE_INT64};
    const uint8_t choice[] = {1, 0, 0, 1};
    for (size_t t = 0; t < 4; t++) {
        const size_t bytes = cvd_dtype_bytes(types[t]);
        char x[3 * 8], y[2 * 3 * 8], want[2 * 2 * 3 * 8];
        for (size_t i = 0; i < sizeof x; i++)
            x[i] = (char)(i + 1);
        for (size_t i = 0; i < sizeof y; i++)
            y[i] = (char)(i + 101);
        for (size_t i = 0; i < 12; i++) /* [2, 2, 1], [3] and [2, 1, 3] */
            memcpy(want + i * bytes,
                   choice[i / 3] ? x + i % 3 * bytes : y + (i / 6 * 3 + i % 3) * bytes, bytes);
        const struct op_case c = {.op = "Where",
                                  .opset = 9,
                                  OP_INPUTS({CVD_DTYPE_BOOL, OP_SHAPE(2, 2, 1), choice, false},
                                            {types[t], OP_SHAPE(3), x, false},
                                            {types[t], OP_SHAPE(2, 1, 3), y, false})};
        op_expect_exact(&c, 0, types[t], OP_SHAPE(2, 2, 3), want);
    }
}

Test(ops_compare, same_for_any_batch)
{
    const float *x = op_random(3 * 10007, 1);
    uint8_t *choice = data_alloc(10007);
    for (size_t i = 0; i < 10007; i++)
        choice[i] = i % 3 == 0;
    const struct op_case less = {
        .op = "Less",
        .opset = 13,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 10007), x), FLOAT_INPUT(OP_SHAPE(10007), x))};
    op_expect_same_for_any_batch(&less);
    uint8_t *truths = data_alloc(3 * 10007);
    for (size_t i = 0; i < (size_t)3 * 10007; i++)
        truths[i] = i % 7 == 0;
    const struct op_case where = {.op = "Where",
                                  .opset = 16,
                                  OP_INPUTS({CVD_DTYPE_BOOL, OP_SHAPE(3, 10007), truths, false},
                                            FLOAT_INPUT(OP_SHAPE(10007), x),
                                            FLOAT_INPUT(OP_SHAPE(1), x))};
    op_expect_same_for_any_batch(&where);
}

Test(ops_compare, refuses_less)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct op_arg y = FLOAT_INPUT(OP_SHAPE(2), NULL);
    const struct op_arg ints = {CVD_DTYPE_INT64, OP_SHAPE(2, 3), NULL, false};
    const struct op_arg truth = {CVD_DTYPE_BOOL, OP_SHAPE(2, 3), NULL, false};
    const struct op_arg wide = {CVD_DTYPE_FLOAT64, OP_SHAPE(2, 3), NULL, false};
    const struct op_arg huge = FLOAT_INPUT(OP_SHAPE(INT64_C(1) << 40, 1), NULL);
    const struct op_arg row = FLOAT_INPUT(OP_SHAPE(INT64_C(1) << 40), NULL);
    OP_REFUSES(INVALID_MODEL, "input 1, [2], does not broadcast with [2,3]", .op = "Less",
               .opset = 13, OP_INPUTS(x, y));
    OP_REFUSES(INVALID_MODEL, "input 1 has type int64", .op = "Less", .opset = 13,
               OP_INPUTS(x, ints));
    OP_REFUSES(INVALID_MODEL, "input 0 has type int64", .op = "Less", .opset = 8,
               OP_INPUTS(ints, ints));
    OP_REFUSES(INVALID_MODEL, "input 0 has type bool", .op = "Less", .opset = 13,
               OP_INPUTS(truth, truth));
    OP_REFUSES(UNSUPPORTED, "float64, which is not implemented", .op = "Less", .opset = 13,
               OP_INPUTS(wide, wide));
    OP_REFUSES(UNSUPPORTED, "does not fit in memory", .op = "Less", .opset = 13,
               OP_INPUTS(huge, row));
}

Test(ops_compare, refuses_equal)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    OP_REFUSES(INVALID_MODEL, "input 0 has type float32", .op = "Equal", .opset = 7,
               OP_INPUTS(x, x));
}

Test(ops_compare, refuses_and)
{
    const struct op_arg ints = {CVD_DTYPE_INT64, OP_SHAPE(2, 3), NULL, false};
    OP_REFUSES(INVALID_MODEL, "input 0 has type int64", .op = "And", .opset = 7,
               OP_INPUTS(ints, ints));
}

Test(ops_compare, refuses_not)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    OP_REFUSES(INVALID_MODEL, "input 0 has type float32", .op = "Not", .opset = 1, OP_INPUTS(x));
}

Test(ops_compare, refuses_where)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct op_arg y = FLOAT_INPUT(OP_SHAPE(2), NULL);
    const struct op_arg ints = {CVD_DTYPE_INT64, OP_SHAPE(2, 3), NULL, false};
    const struct op_arg truth = {CVD_DTYPE_BOOL, OP_SHAPE(2, 3), NULL, false};
    OP_REFUSES(INVALID_MODEL, "input 0 has type float32", .op = "Where", .opset = 9,
               OP_INPUTS(x, x, x));
    OP_REFUSES(INVALID_MODEL, "input 2 has type int64; it must be float32 like input 1",
               .op = "Where", .opset = 9, OP_INPUTS(truth, x, ints));
    OP_REFUSES(INVALID_MODEL, "input 2, [2], does not broadcast with [2,3]", .op = "Where",
               .opset = 9, OP_INPUTS(truth, x, y));
}
