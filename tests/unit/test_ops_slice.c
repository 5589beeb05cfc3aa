/* Slice and Split: where each element goes. */
#include "tests/support/data.h"
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <string.h>

static const float cells[24] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23};

#define INT_INPUT(...)                                                                             \
    {                                                                                              \
        CVD_DTYPE_INT64, OP_SHAPE(OP_COUNT(int64_t, __VA_ARGS__)), (const int64_t[]){__VA_ARGS__}, \
            false                                                                                  \
    }

static const enum cvd_dtype sizes[] = {CVD_DTYPE_UINT8, CVD_DTYPE_BFLOAT16, CVD_DTYPE_INT32,
                                       CVD_DTYPE_FLOAT64};

/* Bytes that all differ, for elements of any type. */
static const char *pattern(size_t bytes)
{
    unsigned char *p = data_alloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        p[i] = (unsigned char)(i * 37 + i / 251 + 11);
    return (const char *)p;
}

/* ---- Slice ---- */

/* Each case on the eight numbers 0 … 7. */
Test(ops_slice, python_rules)
{
    const struct {
        int64_t start, end, step;
        size_t count;
        float want[8];
    } cases[] = {
        {0, 8, 1, 8, {0, 1, 2, 3, 4, 5, 6, 7}},
        {2, 5, 1, 3, {2, 3, 4}},
        {-3, INT64_MAX, 1, 3, {5, 6, 7}},
        {-100, 2, 1, 2, {0, 1}},
        {1, -1, 3, 2, {1, 4}},
        {1, 8, 3, 3, {1, 4, 7}},
        {0, 8, INT64_MAX, 1, {0}},
        {5, 5, 1, 0, {0}},
        {6, 2, 1, 0, {0}},
        {100, 200, 1, 0, {0}},
        {7, 0, -1, 7, {7, 6, 5, 4, 3, 2, 1}},
        {INT64_MAX, INT64_MIN, -1, 8, {7, 6, 5, 4, 3, 2, 1, 0}},
        {-1, -9, -3, 3, {7, 4, 1}},
        {6, 1, -2, 3, {6, 4, 2}},
        {6, 1, INT64_MIN, 1, {6}},
        {2, 6, -1, 0, {0}},
        {-20, INT64_MIN, -2, 1, {0}}, /* not Python's rule, which finds nothing: ONNX's */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {.op = "Slice",
                                  .opset = 13,
                                  OP_INPUTS(FLOAT_INPUT(OP_SHAPE(8), cells),
                                            INT_LIST(cases[i].start), INT_LIST(cases[i].end),
                                            ABSENT_INPUT, INT_LIST(cases[i].step))};
        op_expect_floats(&c, OP_SHAPE((int64_t)cases[i].count), cases[i].want, 0);
    }
}

Test(ops_slice, axes)
{
    const struct op_case negative = {.op = "Slice",
                                     .opset = 11,
                                     OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3, 4), cells),
                                               INT_LIST(1, 3), INT_LIST(2, -5), INT_LIST(-2, -1),
                                               INT_LIST(1, -2))};
    op_expect_floats(&negative, OP_SHAPE(2, 1, 2), OP_FLOATS_OF(7, 5, 19, 17), 0);
    /* Without axes: the first dimensions. int32 is as good as int64. */
    const int32_t one = 1, two = 2;
    const struct op_case first = {.op = "Slice",
                                  .opset = 10,
                                  OP_INPUTS(FLOAT_INPUT(OP_SHAPE(4, 3), cells),
                                            {CVD_DTYPE_INT32, OP_SHAPE(1), &one, true},
                                            {CVD_DTYPE_INT32, OP_SHAPE(1), &two, true})};
    op_expect_floats(&first, OP_SHAPE(1, 3), cells + 3, 0);
    const struct op_case attributes = {
        .op = "Slice",
        .opset = 9,
        OP_ATTRS(ATTR_INTS("starts", 0, 1), ATTR_INTS("ends", -1, 1000), ATTR_INTS("axes", 1, 0)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3), cells))};
    op_expect_floats(&attributes, OP_SHAPE(1, 2), cells + 3, 0);
    const struct op_case empty = {.op = "Slice",
                                  .opset = 13,
                                  OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 0), cells), INT_LIST(0),
                                            INT_LIST(INT64_MIN), INT_LIST(1), INT_LIST(-1))};
    op_expect_floats(&empty, OP_SHAPE(2, 0), cells, 0);
}

Test(ops_slice, any_element_size)
{
    for (size_t t = 0; t < 4; t++) {
        const size_t bytes = cvd_dtype_bytes(sizes[t]);
        const char *x = pattern(12 * bytes);
        char want[4 * 8];
        for (size_t i = 0; i < 4; i++)
            memcpy(want + i * bytes, x + (1 + 4 * (i / 2) + 2 * (i % 2)) * bytes, bytes);
        const struct op_case c = {.op = "Slice",
                                  .opset = 13,
                                  OP_INPUTS({sizes[t], OP_SHAPE(3, 4), x, false}, INT_LIST(0, 1),
                                            INT_LIST(2, 4), INT_LIST(0, 1), INT_LIST(1, 2))};
        op_expect_exact(&c, 0, sizes[t], OP_SHAPE(2, 2), want);
    }
}

static bool slice_mixes(int64_t start, int64_t end, int64_t axis)
{
    const struct op_case c = {.op = "Slice",
                              .opset = 13,
                              OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3), cells), INT_LIST(start),
                                        INT_LIST(end), INT_LIST(axis))};
    return op_case_run(&c).prepared.mixes_images;
}

/* Parts of a batch may be run by themselves only when every image stays where it is. */
Test(ops_slice, images)
{
    cr_expect_not(slice_mixes(1, 2, 1));
    cr_expect_not(slice_mixes(0, INT32_MAX, 0));
    cr_expect(slice_mixes(1, INT64_MAX, 0));
    cr_expect(slice_mixes(0, 1, 0));
    const struct op_case c = {
        .op = "Slice",
        .opset = 13,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 50, 333), op_random(3 * 50 * 333, 1)), INT_LIST(40, 330),
                  INT_LIST(0, 3), INT_LIST(1, 2), INT_LIST(-3, -2))};
    op_expect_same_for_any_batch(&c);
}

/* ---- Split ---- */

static void expect_split(const struct op_case *c, size_t parts, const struct cvd_shape *shapes,
                         const float *const *want)
{
    const struct op_result r = op_case_run(c);
    cr_assert_eq(r.status, CVD_STATUS_OK, "%s", r.error.message);
    for (size_t i = 0; i < parts; i++)
        op_expect_exact(c, i, CVD_DTYPE_FLOAT32, shapes[i], want[i]);
}

Test(ops_slice, split)
{
    const struct op_case attribute = {.op = "Split",
                                      .opset = 11,
                                      .out_count = 3,
                                      OP_ATTRS(ATTR_INTS("split", 1, 0, 2), ATTR_INT("axis", -1)),
                                      OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3), cells))};
    const struct cvd_shape uneven[] = {OP_SHAPE(2, 1), OP_SHAPE(2, 0), OP_SHAPE(2, 2)};
    const float *const uneven_want[] = {OP_FLOATS_OF(0, 3), cells, OP_FLOATS_OF(1, 2, 4, 5)};
    expect_split(&attribute, 3, uneven, uneven_want);

    const struct op_case input = {.op = "Split",
                                  .opset = 13,
                                  .out_count = 3,
                                  OP_ATTRS(ATTR_INT("axis", 1)),
                                  OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3), cells), INT_LIST(1, 0, 2))};
    expect_split(&input, 3, uneven, uneven_want);

    const struct op_case equal = {
        .op = "Split", .opset = 2, .out_count = 2, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(4, 3), cells))};
    const struct cvd_shape halves[] = {OP_SHAPE(2, 3), OP_SHAPE(2, 3)};
    const float *const halves_want[] = {cells, cells + 6};
    expect_split(&equal, 2, halves, halves_want);
    cr_expect(op_case_run(&equal).prepared.mixes_images);

    /* Seven in four parts: 2, 2, 2, 1; five in four: 2, 2, 1 and nothing. */
    struct op_case shorter = {.op = "Split",
                              .opset = 18,
                              .out_count = 4,
                              OP_ATTRS(ATTR_INT("num_outputs", 4)),
                              OP_INPUTS(FLOAT_INPUT(OP_SHAPE(7), cells))};
    const struct cvd_shape seven[] = {OP_SHAPE(2), OP_SHAPE(2), OP_SHAPE(2), OP_SHAPE(1)};
    const float *const places[] = {cells, cells + 2, cells + 4, cells + 6};
    expect_split(&shorter, 4, seven, places);
    const struct op_arg five_in = FLOAT_INPUT(OP_SHAPE(5), cells);
    const struct cvd_shape five[] = {OP_SHAPE(2), OP_SHAPE(2), OP_SHAPE(1), OP_SHAPE(0)};
    shorter.in = &five_in;
    expect_split(&shorter, 4, five, places);
}

/* ---- errors ---- */

Test(ops_slice, refuses_slice)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL), none = ABSENT_INPUT;
    OP_REFUSES(UNSUPPORTED, "input 2 must be constant", .op = "Slice", .opset = 13,
               OP_INPUTS(x, INT_LIST(0), INT_INPUT(1)));
    OP_REFUSES(INVALID_MODEL, "ends has 2 numbers but starts has 1", .op = "Slice", .opset = 13,
               OP_INPUTS(x, INT_LIST(0), INT_LIST(1, 2)));
    OP_REFUSES(INVALID_MODEL, "axes has 2 numbers but starts has 1", .op = "Slice", .opset = 13,
               OP_INPUTS(x, INT_LIST(0), INT_LIST(1), INT_LIST(0, 1)));
    OP_REFUSES(INVALID_MODEL, "steps has 2 numbers but starts has 1", .op = "Slice", .opset = 13,
               OP_INPUTS(x, INT_LIST(0), INT_LIST(1), none, INT_LIST(1, 1)));
    OP_REFUSES(INVALID_MODEL, "steps[0] is 0", .op = "Slice", .opset = 13,
               OP_INPUTS(x, INT_LIST(0), INT_LIST(1), none, INT_LIST(0)));
    OP_REFUSES(INVALID_MODEL, "axes[0] is 2, outside 2 dimensions", .op = "Slice", .opset = 13,
               OP_INPUTS(x, INT_LIST(0), INT_LIST(1), INT_LIST(2)));
    OP_REFUSES(INVALID_MODEL, "axes names dimension 1 twice", .op = "Slice", .opset = 13,
               OP_INPUTS(x, INT_LIST(0, 0), INT_LIST(1, 1), INT_LIST(1, -1)));
    OP_REFUSES(INVALID_MODEL, "axes[2] is 2", .op = "Slice", .opset = 13,
               OP_INPUTS(x, INT_LIST(0, 0, 0), INT_LIST(1, 1, 1)));
    OP_REFUSES(INVALID_MODEL, "attribute starts is missing", .op = "Slice", .opset = 9,
               OP_INPUTS(x));
    OP_REFUSES(INVALID_MODEL, "attribute ends is missing", .op = "Slice", .opset = 9,
               OP_ATTRS(ATTR_INTS("starts", 0)), OP_INPUTS(x));
}

Test(ops_slice, refuses_split)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct op_attr axis1 = ATTR_INT("axis", 1);
    OP_REFUSES(INVALID_MODEL, "extent 3 of dimension 1 cannot be split into 2 equal parts",
               .op = "Split", .opset = 13, .out_count = 2, OP_ATTRS(axis1), OP_INPUTS(x));
    OP_REFUSES(INVALID_MODEL, "axis 2 is outside", .op = "Split", .opset = 13, .out_count = 2,
               OP_ATTRS(ATTR_INT("axis", 2)), OP_INPUTS(x));
    OP_REFUSES(INVALID_MODEL, "the sizes in split sum up to 2; dimension 1 has 3", .op = "Split",
               .opset = 13, .out_count = 2, OP_ATTRS(axis1), OP_INPUTS(x, INT_LIST(1, 1)));
    OP_REFUSES(INVALID_MODEL, "split[1] is 3; there are 2 of 3 left", .op = "Split", .opset = 13,
               .out_count = 2, OP_ATTRS(axis1), OP_INPUTS(x, INT_LIST(1, 3)));
    OP_REFUSES(INVALID_MODEL, "split[0] is 9223372036854775807", .op = "Split", .opset = 13,
               .out_count = 2, OP_ATTRS(axis1), OP_INPUTS(x, INT_LIST(INT64_MAX, INT64_MAX)));
    OP_REFUSES(INVALID_MODEL, "split[0] is -1", .op = "Split", .opset = 13, .out_count = 2,
               OP_ATTRS(axis1), OP_INPUTS(x, INT_LIST(-1, 4)));
    OP_REFUSES(INVALID_MODEL, "split has 3 numbers; there are 2 outputs", .op = "Split",
               .opset = 13, .out_count = 2, OP_ATTRS(axis1), OP_INPUTS(x, INT_LIST(1, 1, 1)));
    OP_REFUSES(UNSUPPORTED, "input 1 must be constant", .op = "Split", .opset = 13, .out_count = 2,
               OP_ATTRS(axis1), OP_INPUTS(x, INT_INPUT(1, 1)));
    OP_REFUSES(INVALID_MODEL, "split has 1 numbers", .op = "Split", .opset = 11, .out_count = 2,
               OP_ATTRS(ATTR_INTS("split", 2)), OP_INPUTS(x));
    OP_REFUSES(INVALID_MODEL, "num_outputs is 3; there are 2 outputs", .op = "Split", .opset = 18,
               .out_count = 2, OP_ATTRS(ATTR_INT("num_outputs", 3)), OP_INPUTS(x));
}
