/* Transpose, Concat and Cast. */
#include "engine/ops/convert.h"
#include "tests/support/data.h"
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static const float cells[24] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23};

Test(ops_layout, transpose_examples)
{
    const struct op_case turned = {
        .op = "Transpose", .opset = 13, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3), cells))};
    op_expect_floats(&turned, OP_SHAPE(3, 2), OP_FLOATS_OF(0, 3, 1, 4, 2, 5), 0);
    const struct op_case channels_last = {.op = "Transpose",
                                          .opset = 6,
                                          OP_ATTRS(ATTR_INTS("perm", 0, 2, 3, 1)),
                                          OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 2, 2, 2), cells))};
    op_expect_floats(&channels_last, OP_SHAPE(1, 2, 2, 2), OP_FLOATS_OF(0, 4, 1, 5, 2, 6, 3, 7), 0);
    const struct op_case scalar = {
        .op = "Transpose", .opset = 13, OP_INPUTS(FLOAT_INPUT(OP_SCALAR, cells + 5))};
    op_expect_floats(&scalar, OP_SCALAR, cells + 5, 0);
}

/* Every order of four dimensions, for elements of each size. */
Test(ops_layout, transpose_all_orders)
{
    const int64_t extents[4] = {2, 3, 1, 4};
    const enum cvd_dtype types[] = {CVD_DTYPE_UINT8, CVD_DTYPE_FLOAT16, CVD_DTYPE_INT32,
                                    CVD_DTYPE_INT64};
    for (int order = 0; order < 256; order++) {
        const int64_t perm[4] = {order & 3, order >> 2 & 3, order >> 4 & 3, order >> 6};
        unsigned seen = 0;
        for (int i = 0; i < 4; i++)
            seen |= 1u << perm[i];
        if (seen != 15)
            continue;
        struct cvd_shape shape = {.rank = 4};
        for (int i = 0; i < 4; i++)
            shape.dims[i] = extents[perm[i]];
        for (size_t t = 0; t < 4; t++) {
            const size_t bytes = cvd_dtype_bytes(types[t]);
            char x[24 * 8], want[24 * 8];
            for (size_t i = 0; i < sizeof x; i++)
                x[i] = (char)(i * 37 + 11);
            for (size_t i = 0; i < 24; i++) {
                size_t rest = i, at[4], from = 0;
                for (int d = 3; d >= 0; d--) {
                    at[perm[d]] = rest % (size_t)shape.dims[d];
                    rest /= (size_t)shape.dims[d];
                }
                for (int d = 0; d < 4; d++)
                    from = from * (size_t)extents[d] + at[d];
                memcpy(want + i * bytes, x + from * bytes, bytes);
            }
            const struct op_case c = {
                .op = "Transpose",
                .opset = 13,
                OP_ATTRS(ATTR_INTS("perm", perm[0], perm[1], perm[2], perm[3])),
                OP_INPUTS({types[t], OP_SHAPE(2, 3, 1, 4), x, false})};
            op_expect_exact(&c, 0, types[t], shape, want);
        }
    }
}

Test(ops_layout, concat)
{
    const struct op_arg in[] = {FLOAT_INPUT(OP_SHAPE(2, 1, 2), cells),
                                FLOAT_INPUT(OP_SHAPE(2, 2, 2), cells + 10),
                                FLOAT_INPUT(OP_SHAPE(2, 0, 2), cells)};
    const float want[] = {0, 1, 10, 11, 12, 13, 2, 3, 14, 15, 16, 17};
    for (int64_t axis = -2; axis <= 1; axis += 3) {
        const struct op_case c = {
            .op = "Concat", .opset = 13, OP_ATTRS(ATTR_INT("axis", axis)), .in = in, .in_count = 3};
        op_expect_floats(&c, OP_SHAPE(2, 3, 2), want, 0);
    }
    const int64_t a[] = {1, 2}, b[] = {3};
    const struct op_case lists = {.op = "Concat",
                                  .opset = 4,
                                  OP_ATTRS(ATTR_INT("axis", 0)),
                                  OP_INPUTS({CVD_DTYPE_INT64, OP_SHAPE(2), a, false},
                                            {CVD_DTYPE_INT64, OP_SHAPE(1), b, false})};
    op_expect_exact(&lists, 0, CVD_DTYPE_INT64, OP_SHAPE(3), (const int64_t[]){1, 2, 3});
    cr_expect(op_case_run(&lists).prepared.mixes_images);
}

Test(ops_layout, refusals)
{
    const struct op_arg a = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct {
        const char *op;
        struct op_attr attr;
        struct op_arg b;
        enum cvd_status status;
        const char *fragment;
    } cases[] = {
        {"Transpose", ATTR_INTS("perm", 0), ABSENT_INPUT, CVD_STATUS_INVALID_MODEL,
         "perm has 1 numbers; the input has 2 dimensions"},
        {"Transpose", ATTR_INTS("perm", 0, 0), ABSENT_INPUT, CVD_STATUS_INVALID_MODEL,
         "perm[1] is 0"},
        {"Transpose", ATTR_INTS("perm", 2, 0), ABSENT_INPUT, CVD_STATUS_INVALID_MODEL,
         "perm[0] is 2"},
        {"Concat", ATTR_INT("axis", 2), a, CVD_STATUS_INVALID_MODEL, "axis 2 is outside"},
        {"Concat", ATTR_INT("other", 2), a, CVD_STATUS_INVALID_MODEL, "attribute axis is missing"},
        {"Concat", ATTR_INT("axis", 0), FLOAT_INPUT(OP_SHAPE(2, 4), NULL), CVD_STATUS_INVALID_MODEL,
         "input 1, [2,4], does not continue [2,3] along dimension 0"},
        {"Concat",
         ATTR_INT("axis", 0),
         {CVD_DTYPE_INT64, OP_SHAPE(2, 3), NULL, false},
         CVD_STATUS_INVALID_MODEL,
         "input 1 has type int64"},
        {"Concat", ATTR_INT("axis", 0), FLOAT_INPUT(OP_SHAPE(INT64_MAX, 3), NULL),
         CVD_STATUS_UNSUPPORTED, "does not fit in memory"},
        {"Cast", ATTR_INT("to", 0), ABSENT_INPUT, CVD_STATUS_INVALID_MODEL, "to is 0"},
        {"Cast", ATTR_INT("to", 8), ABSENT_INPUT, CVD_STATUS_UNSUPPORTED,
         "element type 8 is not implemented"},
        {"Cast", ATTR_INT("other", 8), ABSENT_INPUT, CVD_STATUS_INVALID_MODEL,
         "attribute to is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_arg in[] = {a, cases[i].b};
        const struct op_case c = {.op = cases[i].op,
                                  .opset = 13,
                                  .attrs = &cases[i].attr,
                                  .attr_count = 1,
                                  .in = in,
                                  .in_count = cases[i].b.dtype == CVD_DTYPE_NONE ? 1 : 2};
        op_expect_failure(&c, cases[i].status, cases[i].fragment);
    }
}

/* ---- Cast ---- */

static void expect_cast(enum cvd_dtype from, const void *x, enum cvd_dtype to, const void *want,
                        int64_t n)
{
    const struct op_case c = {.op = "Cast",
                              .opset = 13,
                              OP_ATTRS(ATTR_INT("to", to)),
                              OP_INPUTS({from, OP_SHAPE(n), x, false})};
    op_expect_exact(&c, 0, to, OP_SHAPE(n), want);
}

Test(ops_layout, cast_to_integers)
{
    const float x[] = {-1.9f, 2.9f, 300, -1e30f, 1e30f, NAN, INFINITY};
    expect_cast(CVD_DTYPE_FLOAT32, x, CVD_DTYPE_INT32,
                (const int32_t[]){-1, 2, 300, INT32_MIN, INT32_MAX, 0, INT32_MAX}, 7);
    expect_cast(CVD_DTYPE_FLOAT32, x, CVD_DTYPE_INT64,
                (const int64_t[]){-1, 2, 300, INT64_MIN, INT64_MAX, 0, INT64_MAX}, 7);
    expect_cast(CVD_DTYPE_FLOAT32, x, CVD_DTYPE_UINT8, (const uint8_t[]){0, 2, 255, 0, 255, 0, 255},
                7);
    expect_cast(CVD_DTYPE_FLOAT32, x, CVD_DTYPE_BOOL, (const uint8_t[]){1, 1, 1, 1, 1, 1, 1}, 7);
    const int64_t whole[] = {-1, 0, 257, INT64_MAX};
    expect_cast(CVD_DTYPE_INT64, whole, CVD_DTYPE_INT8, (const int8_t[]){-1, 0, 1, -1}, 4);
    expect_cast(CVD_DTYPE_INT64, whole, CVD_DTYPE_BOOL, (const uint8_t[]){1, 0, 1, 1}, 4);
    expect_cast(CVD_DTYPE_INT64, whole, CVD_DTYPE_FLOAT64,
                (const double[]){-1, 0, 257, 9223372036854775808.0}, 4);
    expect_cast(CVD_DTYPE_BOOL, (const uint8_t[]){0, 1, 7}, CVD_DTYPE_FLOAT32,
                OP_FLOATS_OF(0, 1, 1), 3);
}

/* Bit patterns from IEEE 754: largest, smallest normal, subnormals, ties to even, overflow. */
Test(ops_layout, half_precision)
{
    const struct {
        double value;
        uint16_t f16, bf16;
    } cases[] = {
        {0, 0, 0},
        {-0.0, 0x8000, 0x8000},
        {1, 0x3c00, 0x3f80},
        {-2, 0xc000, 0xc000},
        {65504, 0x7bff, 0x4780},    /* the largest float16 */
        {65519.99, 0x7bff, 0x4780}, /* still rounds down */
        {65520, 0x7c00, 0x4780},    /* the tie goes to infinity */
        {0x1p-14, 0x0400, 0x3880},  /* the smallest normal float16 */
        {0x1p-24, 0x0001, 0x3380},  /* the smallest subnormal one */
        {0x1p-25, 0x0000, 0x3300},  /* half of it: a tie to zero */
        {0x1.8p-25, 0x0001, 0x3340},
        {0x1.ffcp-15, 0x0400, 0x3880}, /* a subnormal that rounds to the smallest normal */
        {1 + 0x1p-11, 0x3c00, 0x3f80}, /* ties to even ... */
        {1 + 0x3p-11, 0x3c02, 0x3f80}, /* ... either way */
        {1 + 0x1p-8, 0x3c04, 0x3f80},
        {1 + 0x3p-8, 0x3c0c, 0x3f82},
        {1e38, 0x7c00, 0x7e96},
        {3.4e38, 0x7c00, 0x7f80},
        {0x1p-133, 0x0000, 0x0001}, /* the smallest subnormal bfloat16 */
        {1e300, 0x7c00, 0x7f80},
        {-HUGE_VAL, 0xfc00, 0xff80},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect_eq(convert_to_f16(cases[i].value), cases[i].f16, "%a gives float16 %04x",
                     cases[i].value, convert_to_f16(cases[i].value));
        cr_expect_eq(convert_to_bf16(cases[i].value), cases[i].bf16, "%a gives bfloat16 %04x",
                     cases[i].value, convert_to_bf16(cases[i].value));
    }
    cr_expect(isnan(convert_from_f16(convert_to_f16((double)NAN))));
    cr_expect(isnan(convert_from_bf16(convert_to_bf16((double)NAN))));
}

/* Each of the 65536 patterns survives the way to float and back. */
Test(ops_layout, half_precision_round_trip)
{
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const float f = convert_from_f16((uint16_t)bits), b = convert_from_bf16((uint16_t)bits);
        if (!isnan(f))
            cr_assert_eq(convert_to_f16((double)f), bits);
        if (!isnan(b))
            cr_assert_eq(convert_to_bf16((double)b), bits);
    }
    const uint16_t half[] = {0x3555, 0xfc00, 0x0001};
    expect_cast(CVD_DTYPE_FLOAT16, half, CVD_DTYPE_FLOAT32,
                OP_FLOATS_OF(0.333251953125f, -INFINITY, 0x1p-24f), 3);
    expect_cast(CVD_DTYPE_FLOAT32, OP_FLOATS_OF(1 / 3.0f, -1e6f, 6e-8f), CVD_DTYPE_FLOAT16, half,
                3);
    /* From double at once: by way of float it would round twice, up. */
    expect_cast(CVD_DTYPE_FLOAT64, (const double[]){1 + 0x1p-11 + 0x1p-40}, CVD_DTYPE_FLOAT16,
                (const uint16_t[]){0x3c01}, 1);
}

Test(ops_layout, same_for_any_batch)
{
    const struct op_case turned = {
        .op = "Transpose",
        .opset = 13,
        OP_ATTRS(ATTR_INTS("perm", 0, 3, 1, 2)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 7, 41, 43), op_random(3 * 7 * 41 * 43, 1)))};
    op_expect_same_for_any_batch(&turned);
    const struct op_case halved = {.op = "Cast",
                                   .opset = 13,
                                   OP_ATTRS(ATTR_INT("to", CVD_DTYPE_FLOAT16)),
                                   OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 12347), op_random(37041, 1)))};
    op_expect_same_for_any_batch(&halved);
}
