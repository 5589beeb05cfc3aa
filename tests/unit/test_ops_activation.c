/* Functions of one element: values worked out in another language, special numbers, Clip. */
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <string.h>

#define POINTS 10
static const float points[POINTS] = {-20, -3, -1, -0.25f, 0, 0.5f, 1, 2, 6.5f, 30};

static const struct {
    const char *op;
    int opset;
    float want[POINTS];
} functions[] = {
    {"Relu", 6, {0, 0, 0, 0, 0, 0.5f, 1, 2, 6.5f, 30}},
    {"LeakyRelu", 6, {-0.2f, -0.03f, -0.01f, -0.0025f, 0, 0.5f, 1, 2, 6.5f, 30}},
    {"Elu",
     6,
     {-0.999999998f, -0.950212932f, -0.632120559f, -0.221199217f, 0, 0.5f, 1, 2, 6.5f, 30}},
    {"Selu",
     6,
     {-1.75809934f, -1.67056873f, -1.11133074f, -0.388890197f, 0, 0.525350494f, 1.05070099f,
      2.10140197f, 6.82955642f, 31.5210296f}},
    {"Celu",
     12,
     {-0.999999998f, -0.950212932f, -0.632120559f, -0.221199217f, 0, 0.5f, 1, 2, 6.5f, 30}},
    {"ThresholdedRelu", 10, {0, 0, 0, 0, 0, 0, 0, 2, 6.5f, 30}},
    {"Sigmoid",
     6,
     {2.06115362e-09f, 0.0474258732f, 0.268941421f, 0.437823499f, 0.5f, 0.622459331f, 0.731058579f,
      0.880797078f, 0.998498818f, 1}},
    {"HardSigmoid", 6, {0, 0, 0.3f, 0.45f, 0.5f, 0.6f, 0.7f, 0.9f, 1, 1}},
    {"HardSwish",
     14,
     {0, 0, -0.333333333f, -0.114583333f, 0, 0.291666667f, 0.666666667f, 1.66666667f, 6.5f, 30}},
    {"Swish",
     24,
     {-4.12230724e-08f, -0.14227762f, -0.268941421f, -0.109455875f, 0, 0.311229666f, 0.731058579f,
      1.76159416f, 6.49024232f, 30}},
    {"Tanh",
     6,
     {-1, -0.995054754f, -0.761594156f, -0.244918662f, 0, 0.462117157f, 0.761594156f, 0.96402758f,
      0.999995479f, 1}},
    {"Softplus",
     6,
     {2.06115362e-09f, 0.0485873516f, 0.313261688f, 0.57593942f, 0.693147181f, 0.974076984f,
      1.31326169f, 2.12692801f, 6.50150231f, 30}},
    {"Softsign",
     6,
     {-0.952380952f, -0.75f, -0.5f, -0.2f, 0, 0.333333333f, 0.5f, 0.666666667f, 0.866666667f,
      0.967741935f}},
    {"Mish",
     18,
     {-4.12230724e-08f, -0.145647461f, -0.303401461f, -0.129926964f, 0, 0.375245211f, 0.865098388f,
      1.94395896f, 6.4999707f, 30}},
    {"Gelu",
     20,
     {0, -0.00404969409f, -0.158655254f, -0.100323419f, 0, 0.345731231f, 0.841344746f, 1.95449974f,
      6.5f, 30}},
    {"Erf",
     9,
     {-1, -0.99997791f, -0.842700793f, -0.27632639f, 0, 0.520499878f, 0.842700793f, 0.995322265f, 1,
      1}},
    {"Exp",
     6,
     {2.06115362e-09f, 0.0497870684f, 0.367879441f, 0.778800783f, 1, 1.64872127f, 2.71828183f,
      7.3890561f, 665.141633f, 1.06864746e+13f}},
    {"Floor", 6, {-20, -3, -1, -1, 0, 0, 1, 2, 6, 30}},
    {"Ceil", 6, {-20, -3, -1, 0, 0, 1, 1, 2, 7, 30}},
    {"Round", 11, {-20, -3, -1, 0, 0, 0, 1, 2, 6, 30}},
    {"Sign", 9, {-1, -1, -1, -1, 0, 1, 1, 1, 1, 1}},
    {"Sin",
     7,
     {-0.912945251f, -0.141120008f, -0.841470985f, -0.247403959f, 0, 0.479425539f, 0.841470985f,
      0.909297427f, 0.215119988f, -0.988031624f}},
    {"Cos",
     7,
     {0.408082062f, -0.989992497f, 0.540302306f, 0.968912422f, 1, 0.877582562f, 0.540302306f,
      -0.416146837f, 0.976587626f, 0.15425145f}},
    {"Abs", 6, {20, 3, 1, 0.25f, 0, 0.5f, 1, 2, 6.5f, 30}},
    {"Neg", 6, {20, 3, 1, 0.25f, 0, -0.5f, -1, -2, -6.5f, -30}},
};
#define FUNCTIONS (sizeof functions / sizeof *functions)

/* Right to two units in the last place: one for the function, one for the constants above. */
static void expect_close(const struct op_case *c, size_t n, const float *want)
{
    const struct op_result r = op_case_run(c);
    cr_assert_eq(r.status, CVD_STATUS_OK, "%s: %s", c->op, r.error.message);
    for (size_t i = 0; i < n; i++) {
        const float have = ((const float *)r.out[0].data)[i];
        cr_expect(fabsf(have - want[i]) <= 2 * FLT_EPSILON * fabsf(want[i]),
                  "%s: element %zu is %.9g, not %.9g", c->op, i, (double)have, (double)want[i]);
    }
}

Test(ops_activation, known_values)
{
    const struct op_arg in = FLOAT_INPUT(OP_SHAPE(2, 5), points);
    for (size_t i = 0; i < FUNCTIONS; i++) {
        const struct op_case c = {
            .op = functions[i].op, .opset = functions[i].opset, .in = &in, .in_count = 1};
        expect_close(&c, POINTS, functions[i].want);
    }
}

Test(ops_activation, positive_numbers_only)
{
    const float x[] = {0.25f, 1, 2, 10, 1e-20f};
    const struct {
        const char *op;
        float want[5];
    } cases[] = {
        {"Sqrt", {0.5f, 1, 1.41421356f, 3.16227766f, 1e-10f}},
        {"Log", {-1.38629436f, 0, 0.693147181f, 2.30258509f, -46.0517019f}},
        {"Reciprocal", {4, 1, 0.5f, 0.1f, 1e20f}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = cases[i].op, .opset = 13, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(5), x))};
        expect_close(&c, 5, cases[i].want);
    }
}

Test(ops_activation, parameters)
{
    const float x[] = {-2, 0.5f, 3};
    const struct {
        const char *op;
        int opset;
        struct op_attr attrs[2];
        float want[3];
    } cases[] = {
        {"LeakyRelu", 16, {ATTR_FLOAT("alpha", 0.25f), {0}}, {-0.5f, 0.5f, 3}},
        {"Elu", 6, {ATTR_FLOAT("alpha", 2), {0}}, {-1.72932943f, 0.5f, 3}},
        {"Selu", 6, {ATTR_FLOAT("alpha", 1), ATTR_FLOAT("gamma", 2)}, {-1.72932943f, 1, 6}},
        {"Celu", 12, {ATTR_FLOAT("alpha", 2), {0}}, {-1.26424112f, 0.5f, 3}},
        {"ThresholdedRelu", 10, {ATTR_FLOAT("alpha", 0.25f), {0}}, {0, 0.5f, 3}},
        {"HardSigmoid", 6, {ATTR_FLOAT("alpha", 0.5f), ATTR_FLOAT("beta", 0.25f)}, {0, 0.5f, 1}},
        {"Swish", 24, {ATTR_FLOAT("alpha", 2), {0}}, {-0.0359724199f, 0.365529289f, 2.99258213f}},
        {"Gelu",
         20,
         {ATTR_STRING("approximate", "tanh"), {0}},
         {-0.0454023059f, 0.34571401f, 2.99636261f}},
        {"Gelu",
         20,
         {ATTR_STRING("approximate", "none"), {0}},
         {-0.0455002639f, 0.345731231f, 2.99595031f}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = cases[i].op,
            .opset = cases[i].opset,
            .attrs = cases[i].attrs,
            .attr_count = cases[i].attrs[1].name ? 2 : 1,
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3), x)),
        };
        expect_close(&c, 3, cases[i].want);
    }
}

/* What saturates does so without overflow, and a NaN is never lost. */
Test(ops_activation, special_numbers)
{
    const float x[] = {-INFINITY, -1e4f, 1e4f, INFINITY, NAN};
    const struct {
        const char *op;
        float want[5];
    } cases[] = {
        {"Relu", {0, 0, 1e4f, INFINITY, NAN}},  {"Sigmoid", {0, 0, 1, 1, NAN}},
        {"Tanh", {-1, -1, 1, 1, NAN}},          {"Softplus", {0, 0, 1e4f, INFINITY, NAN}},
        {"Elu", {-1, -1, 1e4f, INFINITY, NAN}}, {"HardSigmoid", {0, 0, 1, 1, NAN}},
        {"Erf", {-1, -1, 1, 1, NAN}},           {"Exp", {0, 0, INFINITY, INFINITY, NAN}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = cases[i].op, .opset = 13, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(5), x))};
        op_expect_floats(&c, OP_SHAPE(5), cases[i].want, 0);
    }
    const struct op_arg in = FLOAT_INPUT(OP_SHAPE(1), &x[4]);
    for (size_t i = 0; i < FUNCTIONS; i++) {
        const struct op_case c = {
            .op = functions[i].op, .opset = functions[i].opset, .in = &in, .in_count = 1};
        op_expect_floats(&c, OP_SHAPE(1), OP_FLOATS_OF(NAN), 0);
    }
}

Test(ops_activation, integers)
{
    const int32_t x[] = {-5, 0, 7, INT32_MIN};
    const struct {
        const char *op;
        int32_t want[4];
    } cases[] = {{"Relu", {0, 0, 7, 0}},
                 {"Abs", {5, 0, 7, INT32_MIN}},
                 {"Neg", {5, 0, -7, INT32_MIN}},
                 {"Sign", {-1, 0, 1, -1}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = cases[i].op, .opset = 14, OP_INPUTS({CVD_DTYPE_INT32, OP_SHAPE(4), x, false})};
        op_expect_exact(&c, 0, CVD_DTYPE_INT32, OP_SHAPE(4), cases[i].want);
    }
    const int8_t small[] = {-128, -1, 127};
    const struct op_case c = {
        .op = "Abs", .opset = 13, OP_INPUTS({CVD_DTYPE_INT8, OP_SHAPE(3), small, false})};
    op_expect_exact(&c, 0, CVD_DTYPE_INT8, OP_SHAPE(3), (const int8_t[]){-128, 1, 127});
}

Test(ops_activation, clip)
{
    const float x[] = {-9, -1, 0.5f, 8, NAN}, low = -2, high = 3;
    const struct op_arg in = FLOAT_INPUT(OP_SHAPE(5), x);
    const struct op_case attributes = {.op = "Clip",
                                       .opset = 6,
                                       OP_ATTRS(ATTR_FLOAT("min", -2), ATTR_FLOAT("max", 3)),
                                       .in = &in,
                                       .in_count = 1};
    op_expect_floats(&attributes, OP_SHAPE(5), OP_FLOATS_OF(-2, -1, 0.5f, 3, NAN), 0);
    const struct op_case at_run_time = {.op = "Clip",
                                        .opset = 11,
                                        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(5), x),
                                                  FLOAT_INPUT(OP_SCALAR, &low),
                                                  FLOAT_INPUT(OP_SCALAR, &high))};
    op_expect_floats(&at_run_time, OP_SHAPE(5), OP_FLOATS_OF(-2, -1, 0.5f, 3, NAN), 0);
    const struct op_case upper = {
        .op = "Clip",
        .opset = 13,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(5), x), ABSENT_INPUT, FLOAT_WEIGHTS(OP_SHAPE(1), &high))};
    op_expect_floats(&upper, OP_SHAPE(5), OP_FLOATS_OF(-9, -1, 0.5f, 3, NAN), 0);
    const struct op_case crossed = {.op = "Clip",
                                    .opset = 13,
                                    OP_INPUTS(FLOAT_INPUT(OP_SHAPE(5), x),
                                              FLOAT_INPUT(OP_SCALAR, &high),
                                              FLOAT_INPUT(OP_SCALAR, &low))};
    op_expect_floats(&crossed, OP_SHAPE(5), OP_FLOATS_OF(-2, -2, -2, -2, NAN), 0);
    const uint8_t bytes[] = {0, 9, 200}, most = 100;
    const struct op_case u = {.op = "Clip",
                              .opset = 12,
                              OP_INPUTS({CVD_DTYPE_UINT8, OP_SHAPE(3), bytes, false}, ABSENT_INPUT,
                                        {CVD_DTYPE_UINT8, OP_SCALAR, &most, true})};
    op_expect_exact(&u, 0, CVD_DTYPE_UINT8, OP_SHAPE(3), (const uint8_t[]){0, 9, 100});
}

Test(ops_activation, same_for_any_batch)
{
    const struct op_arg in = FLOAT_INPUT(OP_SHAPE(3, 23456), op_random(3 * 23456, 3));
    for (size_t i = 0; i < FUNCTIONS; i++) {
        const struct op_case c = {
            .op = functions[i].op, .opset = functions[i].opset, .in = &in, .in_count = 1};
        op_expect_same_for_any_batch(&c);
    }
}

Test(ops_activation, refusals)
{
    const struct op_arg in = FLOAT_INPUT(OP_SHAPE(3), NULL);
    const struct {
        const char *op;
        struct op_attr attr;
        struct op_arg in[2];
        enum cvd_status status;
        const char *fragment;
    } cases[] = {
        {"Sigmoid",
         {0},
         {{CVD_DTYPE_FLOAT16, OP_SHAPE(3), NULL, false}, ABSENT_INPUT},
         CVD_STATUS_UNSUPPORTED,
         "float16, which is not implemented"},
        {"Sigmoid",
         {0},
         {{CVD_DTYPE_BOOL, OP_SHAPE(3), NULL, false}, ABSENT_INPUT},
         CVD_STATUS_INVALID_MODEL,
         "bool, which is not allowed"},
        {"LeakyRelu",
         ATTR_INT("alpha", 1),
         {in, ABSENT_INPUT},
         CVD_STATUS_INVALID_MODEL,
         "attribute alpha has type 2"},
        {"Celu",
         ATTR_FLOAT("alpha", 0),
         {in, ABSENT_INPUT},
         CVD_STATUS_INVALID_MODEL,
         "alpha is 0"},
        {"Gelu",
         ATTR_STRING("approximate", "erf"),
         {in, ABSENT_INPUT},
         CVD_STATUS_INVALID_MODEL,
         "approximate is 'erf'"},
        {"Clip",
         {0},
         {in, {CVD_DTYPE_INT64, OP_SCALAR, NULL, false}},
         CVD_STATUS_INVALID_MODEL,
         "int64; it must be float32 like input 0"},
        {"Clip",
         {0},
         {in, FLOAT_INPUT(OP_SHAPE(3), NULL)},
         CVD_STATUS_INVALID_MODEL,
         "input 1 has 3 elements; it must be a scalar"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = cases[i].op,
            .opset = 20,
            .attrs = &cases[i].attr,
            .attr_count = cases[i].attr.name ? 1 : 0,
            .in = cases[i].in,
            .in_count = 2,
        };
        op_expect_failure(&c, cases[i].status, cases[i].fragment);
    }
}
