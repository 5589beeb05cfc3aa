/* Pad, and what makes arrays from a few numbers: ConstantOfShape, Range, Size, CastLike. */
#include "tests/support/data.h"
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static const float cells[24] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23};

#define SCALAR_OF(type, value)                        \
    {                                                 \
        type, OP_SCALAR, (const void *)&(value), true \
    }

/* ---- Pad ---- */

/* Each mode on the four numbers 1 2 3 4, in front and behind. */
Test(ops_pad, modes)
{
    const float x[] = {1, 2, 3, 4};
    const struct {
        const char *mode;
        int64_t begin, end;
        size_t count;
        float want[16];
    } cases[] = {
        {"constant", 1, 2, 7, {0, 1, 2, 3, 4, 0, 0}},
        {"constant", -1, 2, 5, {2, 3, 4, 0, 0}},
        {"constant", -1, -3, 0, {0}},
        {"constant", 2, -1, 5, {0, 0, 1, 2, 3}},
        {"edge", 2, 3, 9, {1, 1, 1, 2, 3, 4, 4, 4, 4}},
        {"edge", -2, 1, 3, {3, 4, 4}},
        {"reflect", 2, 3, 9, {3, 2, 1, 2, 3, 4, 3, 2, 1}},
        {"reflect", 0, 8, 12, {1, 2, 3, 4, 3, 2, 1, 2, 3, 4, 3, 2}}, /* there and back again */
        {"reflect", 7, 0, 11, {2, 1, 2, 3, 4, 3, 2, 1, 2, 3, 4}},
        {"reflect", 2, -1, 5, {3, 2, 1, 2, 3}},
        {"reflect", 2, -3, 3, {1, 1, 1}}, /* of one element nothing else can come */
        {"wrap", 2, 3, 9, {3, 4, 1, 2, 3, 4, 1, 2, 3}},
        {"wrap", 5, 5, 14, {4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1}},
        {"wrap", -1, 2, 5, {2, 3, 4, 2, 3}}, /* what is taken away does not come back */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = "Pad",
            .opset = 19,
            OP_ATTRS(ATTR_STRING("mode", cases[i].mode)),
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(4), x), INT_LIST(cases[i].begin, cases[i].end))};
        op_expect_floats(&c, OP_SHAPE((int64_t)cases[i].count), cases[i].want, 0);
    }
}

/* Several dimensions at once, against the definition: dimensions are padded independently. */
Test(ops_pad, dimensions)
{
    static const char *const modes[] = {"constant", "reflect", "edge", "wrap"};
    const enum cvd_dtype types[] = {CVD_DTYPE_BOOL, CVD_DTYPE_FLOAT16, CVD_DTYPE_INT32,
                                    CVD_DTYPE_INT64};
    const int64_t in[] = {2, 3, 4}, pads[] = {1, -1, 2, 0, 3, -1}, out[] = {3, 5, 5};
    for (int mode = 0; mode < 4; mode++) {
        const size_t bytes = cvd_dtype_bytes(types[mode]);
        char x[24 * 8], want[75 * 8], value[8] = "abcdefg";
        for (size_t i = 0; i < sizeof x; i++)
            x[i] = (char)(i * 31 + 5);
        for (int64_t i = 0; i < 75; i++) {
            int64_t at[] = {i / 25, i / 5 % 5, i % 5}, from = 0;
            bool inside = true;
            for (int d = 0; d < 3; d++) {
                const int64_t begin = pads[d], skip = begin < 0 ? -begin : 0;
                const int64_t n = in[d] - skip - (pads[3 + d] < 0 ? -pads[3 + d] : 0);
                int64_t k = at[d] - (begin > 0 ? begin : 0);
                inside = inside && k >= 0 && k < n;
                while (mode == 1 && (k < 0 || k >= n)) /* reflect */
                    k = k < 0 ? -k : 2 * (n - 1) - k;
                if (mode == 2)
                    k = k < 0 ? 0 : k >= n ? n - 1 : k;
                if (mode == 3)
                    k = (k + 10 * n) % n;
                from = from * in[d] + skip + k;
            }
            memcpy(want + (size_t)i * bytes,
                   mode == 0 && !inside ? value : x + (size_t)from * bytes, bytes);
        }
        const struct op_case c = {.op = "Pad",
                                  .opset = 21,
                                  OP_ATTRS(ATTR_STRING("mode", modes[mode])),
                                  OP_INPUTS({types[mode], OP_SHAPE(2, 3, 4), x, false},
                                            INT_LIST(1, -1, 2, 0, 3, -1),
                                            {types[mode], OP_SHAPE(1), value, false})};
        op_expect_exact(&c, 0, types[mode], OP_SHAPE(out[0], out[1], out[2]), want);
    }
}

Test(ops_pad, versions)
{
    const struct op_case attributes = {
        .op = "Pad",
        .opset = 2,
        OP_ATTRS(ATTR_INTS("pads", 0, 1, 1, 0), ATTR_FLOAT("value", 9)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 2), cells + 1))};
    op_expect_floats(&attributes, OP_SHAPE(2, 3), OP_FLOATS_OF(9, 1, 2, 9, 9, 9), 0);
    cr_expect(op_case_run(&attributes).prepared.mixes_images);
    const struct op_case axes = {.op = "Pad",
                                 .opset = 18,
                                 OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 2, 1), cells + 1),
                                           INT_LIST(1, 0, 0, 2), ABSENT_INPUT, INT_LIST(-1, 1))};
    op_expect_floats(&axes, OP_SHAPE(1, 4, 2), OP_FLOATS_OF(0, 1, 0, 2, 0, 0, 0, 0), 0);
    cr_expect_not(op_case_run(&axes).prepared.mixes_images);
    const struct op_case scalar = {
        .op = "Pad",
        .opset = 11,
        OP_INPUTS(FLOAT_INPUT(OP_SCALAR, cells + 3), {CVD_DTYPE_INT64, OP_SHAPE(0), cells, true})};
    op_expect_floats(&scalar, OP_SCALAR, cells + 3, 0);
    const struct op_case wide = {
        .op = "Pad",
        .opset = 13,
        OP_ATTRS(ATTR_STRING("mode", "reflect")),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 5, 61, 67), op_random(3 * 5 * 61 * 67, 1)),
                  INT_LIST(0, 1, 2, 3, 0, 2, 3, 4))};
    op_expect_same_for_any_batch(&wide);
}

Test(ops_pad, refuses_pad)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct op_arg empty = FLOAT_INPUT(OP_SHAPE(2, 0), NULL);
    const struct op_arg run_time = {CVD_DTYPE_INT64, OP_SHAPE(4), cells, false};
    const struct op_attr reflect = ATTR_STRING("mode", "reflect");
    const int64_t whole = 1;
    OP_REFUSES(UNSUPPORTED, "input 1 must be constant", .op = "Pad", .opset = 13,
               OP_INPUTS(x, run_time));
    OP_REFUSES(INVALID_MODEL, "pads has 2 numbers; there must be two for each of 2 dimensions",
               .op = "Pad", .opset = 13, OP_INPUTS(x, INT_LIST(1, 1)));
    OP_REFUSES(INVALID_MODEL, "two for each of 1 dimensions", .op = "Pad", .opset = 18,
               OP_INPUTS(x, INT_LIST(1, 1, 1, 1), ABSENT_INPUT, INT_LIST(0)));
    OP_REFUSES(INVALID_MODEL, "axes[0] is 2, outside 2 dimensions", .op = "Pad", .opset = 18,
               OP_INPUTS(x, INT_LIST(1, 1), ABSENT_INPUT, INT_LIST(2)));
    OP_REFUSES(INVALID_MODEL, "pads -2 and -2 take away more than the 3 of dimension 1",
               .op = "Pad", .opset = 13, OP_INPUTS(x, INT_LIST(0, -2, 0, -2)));
    OP_REFUSES(INVALID_MODEL, "take away more", .op = "Pad", .opset = 13,
               OP_INPUTS(x, INT_LIST(0, INT64_MIN, 0, INT64_MAX)));
    OP_REFUSES(UNSUPPORTED, "does not fit in memory", .op = "Pad", .opset = 13,
               OP_INPUTS(x, INT_LIST(0, INT64_MAX, 0, 0)));
    OP_REFUSES(UNSUPPORTED, "does not fit in memory", .op = "Pad", .opset = 13,
               OP_INPUTS(x, INT_LIST(0, INT64_C(1) << 61, 0, 0)));
    OP_REFUSES(INVALID_MODEL, "dimension 1 is empty: there is nothing to repeat", .op = "Pad",
               .opset = 13, OP_ATTRS(reflect), OP_INPUTS(empty, INT_LIST(0, 1, 0, 0)));
    OP_REFUSES(INVALID_MODEL, "dimension 1 is empty", .op = "Pad", .opset = 13, OP_ATTRS(reflect),
               OP_INPUTS(x, INT_LIST(0, -3, 0, 1)));
    OP_REFUSES(INVALID_MODEL, "mode is 'wrap'; it must be constant, reflect or edge", .op = "Pad",
               .opset = 18, OP_ATTRS(ATTR_STRING("mode", "wrap")),
               OP_INPUTS(x, INT_LIST(0, 0, 0, 0)));
    OP_REFUSES(INVALID_MODEL, "mode is 'symmetric'; it must be constant, reflect, edge or wrap",
               .op = "Pad", .opset = 19, OP_ATTRS(ATTR_STRING("mode", "symmetric")),
               OP_INPUTS(x, INT_LIST(0, 0, 0, 0)));
    OP_REFUSES(INVALID_MODEL, "input 2 has type int64; it must be float32", .op = "Pad",
               .opset = 13, OP_INPUTS(x, INT_LIST(0, 0, 0, 0), SCALAR_OF(CVD_DTYPE_INT64, whole)));
    OP_REFUSES(INVALID_MODEL, "constant_value has 2 elements; it must be a scalar", .op = "Pad",
               .opset = 13, OP_INPUTS(x, INT_LIST(0, 0, 0, 0), FLOAT_INPUT(OP_SHAPE(2), NULL)));
    OP_REFUSES(INVALID_MODEL, "attribute pads is missing", .op = "Pad", .opset = 2, OP_INPUTS(x));
}

/* ---- ConstantOfShape ---- */

static struct op_attr value_attr(enum cvd_dtype dtype, const void *data, int64_t count)
{
    return (struct op_attr){
        .name = "value", .type = OP_ATTR_TENSOR, .tensor = {dtype, OP_SHAPE(count), data, {0}}};
}

Test(ops_pad, constant_of_shape)
{
    const struct op_case zeros = {.op = "ConstantOfShape", .opset = 9, OP_INPUTS(INT_LIST(2, 2))};
    op_expect_floats(&zeros, OP_SHAPE(2, 2), OP_FLOATS_OF(0, 0, 0, 0), 0);
    const int32_t seven = 7;
    const struct op_attr attr = value_attr(CVD_DTYPE_INT32, &seven, 1);
    const struct op_case sevens = {.op = "ConstantOfShape",
                                   .opset = 20,
                                   .attrs = &attr,
                                   .attr_count = 1,
                                   OP_INPUTS(INT_LIST(3))};
    op_expect_exact(&sevens, 0, CVD_DTYPE_INT32, OP_SHAPE(3), (const int32_t[]){7, 7, 7});
    struct op_case scalar = sevens;
    const struct op_arg no_extents = {CVD_DTYPE_INT64, OP_SHAPE(0), cells, true};
    scalar.in = &no_extents;
    op_expect_exact(&scalar, 0, CVD_DTYPE_INT32, OP_SCALAR, &seven);
}

Test(ops_pad, constant_of_shape_refusals)
{
    const float two[] = {1, 2};
    const struct op_attr both = value_attr(CVD_DTYPE_FLOAT32, two, 2);
    const struct op_attr strange = value_attr((enum cvd_dtype)8, two, 1);
    const struct op_attr number = ATTR_INT("value", 1);
    const struct op_attr *const attrs[] = {&both, &strange, &number, NULL, NULL, NULL};
    const struct op_arg in[] = {INT_LIST(2),
                                INT_LIST(2),
                                INT_LIST(2),
                                INT_LIST(-1),
                                INT_LIST(INT64_MAX, 2),
                                {CVD_DTYPE_INT64, OP_SHAPE(1), cells, false}};
    const char *const fragments[] = {"value has 2 elements",   "element type 8 is not implemented",
                                     "must be of type tensor", "shape[0] is -1",
                                     "does not fit in memory", "input 0 must be constant"};
    const enum cvd_status statuses[] = {CVD_STATUS_INVALID_MODEL, CVD_STATUS_UNSUPPORTED,
                                        CVD_STATUS_INVALID_MODEL, CVD_STATUS_INVALID_MODEL,
                                        CVD_STATUS_UNSUPPORTED,   CVD_STATUS_UNSUPPORTED};
    for (size_t i = 0; i < 6; i++) {
        const struct op_case c = {.op = "ConstantOfShape",
                                  .opset = 9,
                                  .attrs = attrs[i],
                                  .attr_count = attrs[i] ? 1 : 0,
                                  .in = &in[i],
                                  .in_count = 1};
        op_expect_failure(&c, statuses[i], fragments[i]);
    }
}

/* ---- Range ---- */

Test(ops_pad, range)
{
    const int64_t whole[] = {10, 4, -2, 3, INT64_MIN, INT64_MAX, 1};
    const struct op_case down = {.op = "Range",
                                 .opset = 11,
                                 OP_INPUTS(SCALAR_OF(CVD_DTYPE_INT64, whole[0]),
                                           SCALAR_OF(CVD_DTYPE_INT64, whole[3]),
                                           SCALAR_OF(CVD_DTYPE_INT64, whole[2]))};
    op_expect_exact(&down, 0, CVD_DTYPE_INT64, OP_SHAPE(4), (const int64_t[]){10, 8, 6, 4});
    const struct op_case none = {.op = "Range",
                                 .opset = 11,
                                 OP_INPUTS(SCALAR_OF(CVD_DTYPE_INT64, whole[3]),
                                           SCALAR_OF(CVD_DTYPE_INT64, whole[0]),
                                           SCALAR_OF(CVD_DTYPE_INT64, whole[2]))};
    op_expect_exact(&none, 0, CVD_DTYPE_INT64, OP_SHAPE(0), whole);
    const int32_t narrow[] = {-1, 2, 1};
    const struct op_case up = {.op = "Range",
                               .opset = 11,
                               OP_INPUTS(SCALAR_OF(CVD_DTYPE_INT32, narrow[0]),
                                         SCALAR_OF(CVD_DTYPE_INT32, narrow[1]),
                                         SCALAR_OF(CVD_DTYPE_INT32, narrow[2]))};
    op_expect_exact(&up, 0, CVD_DTYPE_INT32, OP_SHAPE(3), (const int32_t[]){-1, 0, 1});
    const float fraction[] = {1, 2.1f, 0.5f};
    const struct op_case floats = {.op = "Range",
                                   .opset = 11,
                                   OP_INPUTS(SCALAR_OF(CVD_DTYPE_FLOAT32, fraction[0]),
                                             SCALAR_OF(CVD_DTYPE_FLOAT32, fraction[1]),
                                             SCALAR_OF(CVD_DTYPE_FLOAT32, fraction[2]))};
    op_expect_floats(&floats, OP_SHAPE(3), OP_FLOATS_OF(1, 1.5f, 2), 0);
    const struct op_case everything = {.op = "Range",
                                       .opset = 11,
                                       OP_INPUTS(SCALAR_OF(CVD_DTYPE_INT64, whole[4]),
                                                 SCALAR_OF(CVD_DTYPE_INT64, whole[5]),
                                                 SCALAR_OF(CVD_DTYPE_INT64, whole[6]))};
    op_expect_failure(&everything, CVD_STATUS_UNSUPPORTED, "does not fit in memory");
}

Test(ops_pad, range_refusals)
{
    const int64_t one = 1, zero = 0, pair[] = {1, 2};
    const float nan = NAN, x = 1, large = 1e38f, tiny = 1e-38f;
    const struct op_arg int_one = SCALAR_OF(CVD_DTYPE_INT64, one);
    const struct op_arg int_zero = SCALAR_OF(CVD_DTYPE_INT64, zero);
    const struct op_arg two = {CVD_DTYPE_INT64, OP_SHAPE(2), pair, true};
    const struct op_arg later = {CVD_DTYPE_INT64, OP_SCALAR, &one, false};
    const struct op_arg a = SCALAR_OF(CVD_DTYPE_FLOAT32, x), b = SCALAR_OF(CVD_DTYPE_FLOAT32, nan);
    const struct op_arg far = SCALAR_OF(CVD_DTYPE_FLOAT32, large);
    const struct op_arg step = SCALAR_OF(CVD_DTYPE_FLOAT32, tiny);
    const struct {
        struct op_arg in[3];
        enum cvd_status status;
        const char *fragment;
    } cases[] = {
        {{int_one, int_one, int_zero}, CVD_STATUS_INVALID_MODEL, "delta is 0"},
        {{int_one, later, int_one}, CVD_STATUS_UNSUPPORTED, "input 1 (limit) must be constant"},
        {{two, int_one, int_one}, CVD_STATUS_INVALID_MODEL, "input 0 (start) has 2 elements"},
        {{int_one, a, int_one}, CVD_STATUS_INVALID_MODEL, "input 1 has type float32"},
        {{a, b, a}, CVD_STATUS_INVALID_MODEL, "is no range"},
        {{a, far, step}, CVD_STATUS_UNSUPPORTED, "does not fit in memory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {.op = "Range", .opset = 11, .in = cases[i].in, .in_count = 3};
        op_expect_failure(&c, cases[i].status, cases[i].fragment);
    }
}

/* ---- Size and CastLike ---- */

Test(ops_pad, size)
{
    const int64_t twenty_four = 24, one = 1;
    const struct op_case array = {
        .op = "Size", .opset = 13, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3, 4), cells))};
    op_expect_exact(&array, 0, CVD_DTYPE_INT64, OP_SCALAR, &twenty_four);
    const struct op_case scalar = {
        .op = "Size", .opset = 1, OP_INPUTS(FLOAT_INPUT(OP_SCALAR, cells))};
    op_expect_exact(&scalar, 0, CVD_DTYPE_INT64, OP_SCALAR, &one);
}

Test(ops_pad, cast_like)
{
    const float x[] = {-1.5f, 2.5f};
    const int32_t like = 0;
    const struct op_case c = {
        .op = "CastLike",
        .opset = 15,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2), x), {CVD_DTYPE_INT32, OP_SHAPE(1), &like, true})};
    op_expect_exact(&c, 0, CVD_DTYPE_INT32, OP_SHAPE(2), (const int32_t[]){-1, 2});
}
