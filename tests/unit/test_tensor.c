/* Element types and shapes. */
#include <convd/tensor.h>

#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

static const struct {
    enum cvd_dtype dtype;
    size_t bytes;
    const char *name;
} types[] = {
    {CVD_DTYPE_FLOAT32, 4, "float32"},   {CVD_DTYPE_UINT8, 1, "uint8"},
    {CVD_DTYPE_INT8, 1, "int8"},         {CVD_DTYPE_INT32, 4, "int32"},
    {CVD_DTYPE_INT64, 8, "int64"},       {CVD_DTYPE_BOOL, 1, "bool"},
    {CVD_DTYPE_FLOAT16, 2, "float16"},   {CVD_DTYPE_FLOAT64, 8, "float64"},
    {CVD_DTYPE_BFLOAT16, 2, "bfloat16"}, {CVD_DTYPE_NONE, 0, "none"},
};
#define TYPE_COUNT (sizeof(types) / sizeof(*types))

Test(tensor, sizes_and_names)
{
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        cr_expect_eq(cvd_dtype_bytes(types[i].dtype), types[i].bytes);
        cr_expect_str_eq(cvd_dtype_name(types[i].dtype), types[i].name);
    }
}

Test(tensor, other_numbers_are_no_types)
{
    for (int n = -2; n < 40; n++) {
        bool known = false;
        for (size_t i = 0; i < TYPE_COUNT; i++)
            known = known || (int)types[i].dtype == n;
        if (!known) {
            cr_expect_eq(cvd_dtype_bytes((enum cvd_dtype)n), 0, "%d", n);
            cr_expect_str_eq(cvd_dtype_name((enum cvd_dtype)n), "unknown");
        }
    }
}

Test(tensor, elements)
{
    const int64_t big = INT64_C(1) << 32;
    const struct {
        struct cvd_shape shape;
        bool ok;
        size_t count;
    } cases[] = {
        {{0, {0}}, true, 1},
        {{1, {7}}, true, 7},
        {{4, {2, 3, 5, 7}}, true, 210},
        {{3, {2, 0, 5}}, true, 0},
        {{2, {-1, 3}}, false, 0},
        {{2, {0, -1}}, false, 0},
        {{1, {INT64_MAX}}, true, (size_t)INT64_MAX},
        {{2, {big, big / 2 - 1}}, true, (size_t)big * (size_t)(big / 2 - 1)},
        {{2, {big, big / 2}}, false, 0},           /* 2^63: fits size_t, not the signed type */
        {{2, {big, big}}, false, 0},               /* 2^64 = 0 when it wraps */
        {{3, {0, big, big}}, false, 0},            /* strides of it would overflow */
        {{4, {3, INT64_MAX / 3, 2, 1}}, false, 0}, /* only the last factor is too much */
        {{CVD_MAX_RANK + 1, {1}}, false, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        size_t count = 12345;
        cr_expect_eq(cvd_shape_elements(&cases[i].shape, &count), cases[i].ok, "case %zu", i);
        cr_expect_eq(count, cases[i].ok ? cases[i].count : 12345, "case %zu", i);
    }
}

Test(tensor, equality)
{
    struct cvd_shape a = {2, {3, 4, 9}}, b = {2, {3, 4, 8}}, c = {2, {3, 5}}, d = {3, {3, 4, 9}};
    cr_assert(cvd_shape_equal(&a, &b)); /* extents beyond the rank do not count */
    cr_assert_not(cvd_shape_equal(&a, &c));
    cr_assert_not(cvd_shape_equal(&a, &d));
}

Test(tensor, text)
{
    char text[CVD_SHAPE_TEXT_BYTES];
    struct cvd_shape scalar = {0, {0}}, image = {4, {CVD_DIM_BATCH, 3, 224, 0}}, longest = {8, {0}};
    cr_assert_str_eq(cvd_shape_text(&scalar, text), "[]");
    cr_assert_str_eq(cvd_shape_text(&image, text), "[N,3,224,0]");
    for (unsigned i = 0; i < longest.rank; i++)
        longest.dims[i] = INT64_MIN;
    cvd_shape_text(&longest, text);
    cr_assert_eq(strlen(text), 8 * 20 + 7 + 2);
    cr_assert_eq(text[strlen(text) - 1], ']');
}
