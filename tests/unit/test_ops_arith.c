/* Arithmetic: broadcasting against a naive walk, types, old alignment, Pow and PRelu. */
#include "tests/support/data.h"
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

/* Element of an array of this shape under element `index` of an output of shape `out`. */
static size_t under(const struct cvd_shape *shape, const struct cvd_shape *out, size_t index)
{
    size_t at = 0, scale = 1;
    for (unsigned i = 0; i < out->rank; i++) {
        const size_t extent = (size_t)out->dims[out->rank - 1 - i], position = index % extent;
        index /= extent;
        if (i >= shape->rank)
            continue;
        const size_t own = (size_t)shape->dims[shape->rank - 1 - i];
        at += (own == 1 ? 0 : position) * scale;
        scale *= own;
    }
    return at;
}

static size_t elements(const struct cvd_shape *shape)
{
    size_t n;
    cr_assert(cvd_shape_elements(shape, &n));
    return n;
}

static float apply(const char *op, float a, float b)
{
    if (strcmp(op, "Add") == 0)
        return a + b;
    if (strcmp(op, "Sub") == 0)
        return a - b;
    return strcmp(op, "Mul") == 0 ? a * b : a / b;
}

Test(ops_arith, broadcasting)
{
    const struct {
        struct cvd_shape a, b, y;
    } broadcasts[] = {
        {{0}, {0}, {0}},
        {OP_SHAPE(7), {0}, OP_SHAPE(7)},
        {{0}, OP_SHAPE(2, 3), OP_SHAPE(2, 3)},
        {OP_SHAPE(2, 3, 4), OP_SHAPE(2, 3, 4), OP_SHAPE(2, 3, 4)},
        {OP_SHAPE(2, 3, 4), OP_SHAPE(4), OP_SHAPE(2, 3, 4)},
        {OP_SHAPE(2, 3, 4, 5), OP_SHAPE(3, 1, 1), OP_SHAPE(2, 3, 4, 5)},
        {OP_SHAPE(2, 3, 4, 5), OP_SHAPE(3, 1, 5), OP_SHAPE(2, 3, 4, 5)},
        {OP_SHAPE(3, 1), OP_SHAPE(1, 4), OP_SHAPE(3, 4)},
        {OP_SHAPE(1, 1, 4), OP_SHAPE(2, 3, 1), OP_SHAPE(2, 3, 4)},
        {OP_SHAPE(1, 2, 1, 2, 1, 2, 1, 2), OP_SHAPE(2, 1, 2, 1, 2, 1, 2, 1),
         OP_SHAPE(2, 2, 2, 2, 2, 2, 2, 2)},
        {OP_SHAPE(3, 50000), OP_SHAPE(3, 1), OP_SHAPE(3, 50000)}, /* several pieces of a row */
        {OP_SHAPE(2, 0, 3), OP_SHAPE(3), OP_SHAPE(2, 0, 3)},
    };
    const char *const ops[] = {"Add", "Sub", "Mul", "Div"};
    for (size_t i = 0; i < sizeof broadcasts / sizeof *broadcasts; i++)
        for (size_t j = 0; j < 4; j++) {
            const struct cvd_shape *a = &broadcasts[i].a, *b = &broadcasts[i].b,
                                   *y = &broadcasts[i].y;
            const float *u = op_random(elements(a), 1), *v = op_random(elements(b), 2);
            float *want = data_alloc(elements(y) * sizeof *want + 1);
            for (size_t k = 0; k < elements(y); k++)
                want[k] = apply(ops[j], u[under(a, y, k)], v[under(b, y, k)]);
            const struct op_case c = {
                .op = ops[j], .opset = 14, OP_INPUTS(FLOAT_INPUT(*a, u), FLOAT_INPUT(*b, v))};
            op_expect_floats(&c, *y, want, 0);
        }
}

/* Integers wrap around and a division by zero is no trap. */
Test(ops_arith, integers)
{
    const int32_t a[] = {7, -7, INT32_MIN, INT32_MAX, 5}, b[] = {2, 2, -1, 1, 0};
    const struct {
        const char *op;
        int32_t want[5];
    } cases[] = {
        {"Add", {9, -5, INT32_MAX, INT32_MIN, 5}},
        {"Sub", {5, -9, INT32_MIN + 1, INT32_MAX - 1, 5}},
        {"Mul", {14, -14, INT32_MIN, INT32_MAX, 0}},
        {"Div", {3, -3, INT32_MIN, INT32_MAX, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {.op = cases[i].op,
                                  .opset = 14,
                                  OP_INPUTS({CVD_DTYPE_INT32, OP_SHAPE(5), a, false},
                                            {CVD_DTYPE_INT32, OP_SHAPE(5), b, false})};
        op_expect_exact(&c, 0, CVD_DTYPE_INT32, OP_SHAPE(5), cases[i].want);
    }
    const int64_t wide[] = {INT64_MIN, 6}, divisor[] = {-1};
    const struct op_case w = {.op = "Div",
                              .opset = 14,
                              OP_INPUTS({CVD_DTYPE_INT64, OP_SHAPE(2), wide, false},
                                        {CVD_DTYPE_INT64, OP_SHAPE(1), divisor, false})};
    op_expect_exact(&w, 0, CVD_DTYPE_INT64, OP_SHAPE(2), (const int64_t[]){INT64_MIN, -6});
    const uint8_t bytes[] = {200, 3}, more[] = {100, 5};
    const struct op_case u = {.op = "Sub",
                              .opset = 14,
                              OP_INPUTS({CVD_DTYPE_UINT8, OP_SHAPE(2), bytes, false},
                                        {CVD_DTYPE_UINT8, OP_SHAPE(2), more, false})};
    op_expect_exact(&u, 0, CVD_DTYPE_UINT8, OP_SHAPE(2), (const uint8_t[]){100, 254});
}

/* Before operator set 7 the second input stands at an axis of the first. */
Test(ops_arith, old_alignment)
{
    const float a[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, b[] = {100, 200};
    const struct {
        struct op_attr attrs[2];
        struct cvd_shape b;
        float want[12];
    } cases[] = {
        {{ATTR_INT("broadcast", 1), ATTR_INT("axis", 1)},
         OP_SHAPE(2),
         {100, 101, 102, 203, 204, 205, 106, 107, 108, 209, 210, 211}},
        {{ATTR_INT("broadcast", 1), ATTR_INT("axis", 0)},
         OP_SHAPE(2),
         {100, 101, 102, 103, 104, 105, 206, 207, 208, 209, 210, 211}},
        {{ATTR_INT("broadcast", 1), {0}},
         OP_SHAPE(2, 1),
         {100, 101, 102, 203, 204, 205, 106, 107, 108, 209, 210, 211}},
        {{ATTR_INT("broadcast", 1), {0}},
         OP_SHAPE(1, 1, 1, 1),
         {100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = "Add",
            .opset = 6,
            .attrs = cases[i].attrs,
            .attr_count = cases[i].attrs[1].name ? 2 : 1,
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 2, 3), a), FLOAT_INPUT(cases[i].b, b)),
        };
        op_expect_floats(&c, OP_SHAPE(2, 2, 3), cases[i].want, 0);
    }
    const struct op_case pow = {
        .op = "Pow",
        .opset = 6,
        OP_ATTRS(ATTR_INT("broadcast", 1), ATTR_INT("axis", 0)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 2), OP_FLOATS_OF(3, 4, 3, 4)),
                  FLOAT_INPUT(OP_SHAPE(2), OP_FLOATS_OF(1, 2))),
    };
    op_expect_floats(&pow, OP_SHAPE(2, 2), OP_FLOATS_OF(3, 4, 9, 16), 0);
}

Test(ops_arith, variadic)
{
    const struct {
        const char *op;
        float want[4];
    } cases[] = {{"Sum", {12, 9, 18, 15}},
                 {"Mean", {4, 3, 6, 5}},
                 {"Max", {10, 7, 10, 7}},
                 {"Min", {1, 1, 1, 1}}};
    for (size_t i = 0; i < 4; i++) {
        const struct op_case c = {
            .op = cases[i].op,
            .opset = 13,
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2), OP_FLOATS_OF(10, 7)),
                      FLOAT_INPUT(OP_SCALAR, OP_FLOATS_OF(1)),
                      FLOAT_INPUT(OP_SHAPE(2, 1), OP_FLOATS_OF(1, 7))),
        };
        op_expect_floats(&c, OP_SHAPE(2, 2), cases[i].want, 0);
        const struct op_case alone = {.op = cases[i].op,
                                      .opset = 13,
                                      OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2), OP_FLOATS_OF(10, 7)))};
        op_expect_floats(&alone, OP_SHAPE(2), OP_FLOATS_OF(10, 7), 0);
    }
    const struct op_case nan = {.op = "Max",
                                .opset = 13,
                                OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3), OP_FLOATS_OF(NAN, 1, 2)),
                                          FLOAT_INPUT(OP_SHAPE(3), OP_FLOATS_OF(1, NAN, 3)))};
    op_expect_floats(&nan, OP_SHAPE(3), OP_FLOATS_OF(NAN, NAN, 3), 0);
    const int64_t a[] = {1, -5}, b[] = {0, 4};
    const struct op_case whole = {.op = "Min",
                                  .opset = 13,
                                  OP_INPUTS({CVD_DTYPE_INT64, OP_SHAPE(2), a, false},
                                            {CVD_DTYPE_INT64, OP_SHAPE(2), b, false})};
    op_expect_exact(&whole, 0, CVD_DTYPE_INT64, OP_SHAPE(2), (const int64_t[]){0, -5});
}

Test(ops_arith, pow)
{
    const struct op_case floats = {
        .op = "Pow",
        .opset = 13,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(4), OP_FLOATS_OF(2, -3, 4, 0)),
                  FLOAT_INPUT(OP_SHAPE(4), OP_FLOATS_OF(10, 3, -0.5f, 0)))};
    op_expect_floats(&floats, OP_SHAPE(4), OP_FLOATS_OF(1024, -27, 0.5f, 1), 0);
    const int64_t base[] = {3, -2, -1, 5}, exponent[] = {39, 63, -3, -1};
    const struct op_case whole = {.op = "Pow",
                                  .opset = 13,
                                  OP_INPUTS({CVD_DTYPE_INT64, OP_SHAPE(4), base, false},
                                            {CVD_DTYPE_INT64, OP_SHAPE(4), exponent, false})};
    op_expect_exact(&whole, 0, CVD_DTYPE_INT64, OP_SHAPE(4),
                    (const int64_t[]){4052555153018976267, INT64_MIN, -1, 0});
    const int32_t small[] = {9, 10}, up[] = {2};
    const struct op_case root = {.op = "Pow",
                                 .opset = 13,
                                 OP_INPUTS({CVD_DTYPE_INT32, OP_SHAPE(2), small, false},
                                           FLOAT_INPUT(OP_SHAPE(2), OP_FLOATS_OF(0.5f, 30)))};
    op_expect_exact(&root, 0, CVD_DTYPE_INT32, OP_SHAPE(2), (const int32_t[]){3, INT32_MAX});
    const struct op_case mixed = {.op = "Pow",
                                  .opset = 13,
                                  OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2), OP_FLOATS_OF(1.5f, -2)),
                                            {CVD_DTYPE_INT32, OP_SHAPE(1), up, false})};
    op_expect_floats(&mixed, OP_SHAPE(2), OP_FLOATS_OF(2.25f, 4), 0);
}

Test(ops_arith, prelu)
{
    const float x[] = {-1, 2, -3, -4, 5, -6};
    const struct op_case shared = {.op = "PRelu",
                                   .opset = 16,
                                   OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 2, 3), x),
                                             FLOAT_WEIGHTS(OP_SHAPE(1), OP_FLOATS_OF(0.5f)))};
    op_expect_floats(&shared, OP_SHAPE(1, 2, 3), OP_FLOATS_OF(-0.5f, 2, -1.5f, -2, 5, -3), 0);
    const struct op_case channels = {
        .op = "PRelu",
        .opset = 9,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 2, 3), x),
                  FLOAT_WEIGHTS(OP_SHAPE(2, 1), OP_FLOATS_OF(0.5f, 2)))};
    op_expect_floats(&channels, OP_SHAPE(1, 2, 3), OP_FLOATS_OF(-0.5f, 2, -1.5f, -8, 5, -12), 0);
    const struct op_case old = {.op = "PRelu",
                                .opset = 6,
                                OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 2, 3), x),
                                          FLOAT_WEIGHTS(OP_SHAPE(2), OP_FLOATS_OF(0.5f, 2)))};
    op_expect_floats(&old, OP_SHAPE(1, 2, 3), OP_FLOATS_OF(-0.5f, 2, -1.5f, -8, 5, -12), 0);
    const int64_t whole[] = {-3, 4}, slope = 2;
    struct op_case integers = {.op = "PRelu",
                               .opset = 9,
                               OP_INPUTS({CVD_DTYPE_INT64, OP_SHAPE(2), whole, false},
                                         {CVD_DTYPE_INT64, OP_SHAPE(1), &slope, true})};
    op_expect_exact(&integers, 0, CVD_DTYPE_INT64, OP_SHAPE(2), (const int64_t[]){-6, 4});
    integers.opset = 8;
    op_expect_failure(&integers, CVD_STATUS_INVALID_MODEL, "input 0 has type int64");
}

Test(ops_arith, same_for_any_batch)
{
    const char *const ops[] = {"Add", "Div", "PRelu", "Mean", "Pow"};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        const struct op_case c = {
            .op = ops[i],
            .opset = 14,
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(5, 7, 33, 31), op_random(5 * 7 * 33 * 31, 1)),
                      FLOAT_WEIGHTS(OP_SHAPE(7, 1, 1), op_random(7, 2)))};
        op_expect_same_for_any_batch(&c);
    }
}

Test(ops_arith, refusals)
{
    const struct op_arg a = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct {
        const char *op;
        int opset;
        struct op_attr attrs[2];
        struct op_arg b;
        enum cvd_status status;
        const char *fragment;
    } cases[] = {
        {"Add",
         7,
         {{0}},
         FLOAT_INPUT(OP_SHAPE(2), NULL),
         CVD_STATUS_INVALID_MODEL,
         "input 1, [2], does not broadcast with [2,3]"},
        {"Add",
         7,
         {{0}},
         {CVD_DTYPE_INT64, OP_SHAPE(3), NULL, false},
         CVD_STATUS_INVALID_MODEL,
         "input 1 has type int64; it must be float32"},
        {"Add",
         6,
         {{0}},
         FLOAT_INPUT(OP_SHAPE(3), NULL),
         CVD_STATUS_INVALID_MODEL,
         "shapes [2,3] and [3] differ and broadcast is not set"},
        {"Mul",
         6,
         {ATTR_INT("broadcast", 1), ATTR_INT("axis", 1)},
         FLOAT_INPUT(OP_SHAPE(2), NULL),
         CVD_STATUS_INVALID_MODEL,
         "[2] at axis 1 does not broadcast to [2,3]"},
        {"Mul",
         6,
         {ATTR_INT("broadcast", 1), ATTR_INT("axis", INT64_MAX)},
         FLOAT_INPUT(OP_SHAPE(2), NULL),
         CVD_STATUS_INVALID_MODEL,
         "does not broadcast"},
        {"PRelu",
         9,
         {{0}},
         FLOAT_INPUT(OP_SHAPE(4, 2, 3), NULL),
         CVD_STATUS_INVALID_MODEL,
         "does not broadcast"},
        {"Sum",
         8,
         {{0}},
         FLOAT_INPUT(OP_SHAPE(4), NULL),
         CVD_STATUS_INVALID_MODEL,
         "input 1, [4], does not broadcast with [2,3]"},
        {"Max", 7, {{0}}, FLOAT_INPUT(OP_SHAPE(3), NULL), CVD_STATUS_INVALID_MODEL, "[3]"},
        {"Pow",
         11,
         {{0}},
         {CVD_DTYPE_INT32, OP_SHAPE(3), NULL, false},
         CVD_STATUS_INVALID_MODEL,
         "int32"},
        {"Pow",
         13,
         {{0}},
         FLOAT_INPUT(OP_SHAPE(4), NULL),
         CVD_STATUS_INVALID_MODEL,
         "does not broadcast"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_arg in[] = {a, cases[i].b};
        const struct op_case c = {
            .op = cases[i].op,
            .opset = cases[i].opset,
            .attrs = cases[i].attrs,
            .attr_count = cases[i].attrs[1].name   ? 2
                          : cases[i].attrs[0].name ? 1
                                                   : 0,
            .in = in,
            .in_count = 2,
        };
        op_expect_failure(&c, cases[i].status, cases[i].fragment);
    }
    const struct op_case type = {.op = "Add",
                                 .opset = 14,
                                 OP_INPUTS({CVD_DTYPE_FLOAT64, OP_SHAPE(3), NULL, false},
                                           {CVD_DTYPE_FLOAT64, OP_SHAPE(3), NULL, false})};
    op_expect_failure(&type, CVD_STATUS_UNSUPPORTED, "float64, which is not implemented");
}
