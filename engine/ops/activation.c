/*
 * Functions of one element: activations and elementary mathematics.
 *
 * Each is written as its formula in double precision and rounded once, which is right to the last
 * bit or nearly so; faster spellings are measured against these. A NaN goes through all of them.
 */
#include "engine/ops/function.h"
#include "engine/ops/op_util.h"

#include <math.h>
#include <string.h>

/* A function, the defaults of its two parameters and the attributes that change them. */
struct function_info {
    const char *name;
    enum function fn;
    const char *alpha_name, *beta_name; /* NULL: no such attribute */
    float alpha, beta;
    unsigned types; /* besides float32 */
};

static const unsigned signed_types =
    OP_TYPE(CVD_DTYPE_INT32) | OP_TYPE(CVD_DTYPE_INT64) | OP_TYPE(CVD_DTYPE_INT8);

static const struct function_info functions[] = {
    {"Relu", FN_RELU, NULL, NULL, 0, 0, signed_types},
    {"LeakyRelu", FN_LEAKY_RELU, "alpha", NULL, 0.01f, 0, 0},
    {"Elu", FN_ELU, "alpha", NULL, 1, 0, 0},
    {"Selu", FN_SELU, "alpha", "gamma", 1.67326319217681884765625f, 1.05070102214813232421875f, 0},
    {"Celu", FN_CELU, "alpha", NULL, 1, 0, 0},
    {"ThresholdedRelu", FN_THRESHOLDED_RELU, "alpha", NULL, 1, 0, 0},
    {"Sigmoid", FN_SIGMOID, NULL, NULL, 0, 0, 0},
    {"HardSigmoid", FN_HARD_SIGMOID, "alpha", "beta", 0.2f, 0.5f, 0},
    {"HardSwish", FN_HARD_SWISH, NULL, NULL, 0, 0, 0},
    {"Swish", FN_SWISH, "alpha", NULL, 1, 0, 0},
    {"Tanh", FN_TANH, NULL, NULL, 0, 0, 0},
    {"Softplus", FN_SOFTPLUS, NULL, NULL, 0, 0, 0},
    {"Softsign", FN_SOFTSIGN, NULL, NULL, 0, 0, 0},
    {"Mish", FN_MISH, NULL, NULL, 0, 0, 0},
    {"Gelu", FN_GELU, NULL, NULL, 0, 0, 0},
    {"Sqrt", FN_SQRT, NULL, NULL, 0, 0, 0},
    {"Exp", FN_EXP, NULL, NULL, 0, 0, 0},
    {"Log", FN_LOG, NULL, NULL, 0, 0, 0},
    {"Erf", FN_ERF, NULL, NULL, 0, 0, 0},
    {"Abs", FN_ABS, NULL, NULL, 0, 0, OP_INTS},
    {"Neg", FN_NEG, NULL, NULL, 0, 0, signed_types},
    {"Reciprocal", FN_RECIPROCAL, NULL, NULL, 0, 0, 0},
    {"Floor", FN_FLOOR, NULL, NULL, 0, 0, 0},
    {"Ceil", FN_CEIL, NULL, NULL, 0, 0, 0},
    {"Round", FN_ROUND, NULL, NULL, 0, 0, 0},
    {"Sign", FN_SIGN, NULL, NULL, 0, 0, OP_INTS},
    {"Sin", FN_SIN, NULL, NULL, 0, 0, 0},
    {"Cos", FN_COS, NULL, NULL, 0, 0, 0},
};

static const struct function_info *info_of(const struct op_node *node)
{
    const struct function_info *info = functions;
    while (strcmp(info->name, node->def->name) != 0)
        info++;
    return info;
}

static enum cvd_status read_node(const struct op_node *node, struct function_state *s)
{
    const struct function_info *info = info_of(node);
    *s = (struct function_state){info->fn, info->alpha, info->beta};
    const unsigned supported = OP_TYPE(CVD_DTYPE_FLOAT32) | info->types;
    enum cvd_status status = op_check_type(node, 0, supported, supported | OP_FLOATS);
    if (status == CVD_STATUS_OK && info->alpha_name)
        status = op_attr_float(node, info->alpha_name, info->alpha, &s->alpha);
    if (status == CVD_STATUS_OK && info->beta_name)
        status = op_attr_float(node, info->beta_name, info->beta, &s->beta);
    if (status != CVD_STATUS_OK)
        return status;
    if (info->fn == FN_CELU && s->alpha == 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "alpha is 0; Celu divides by it");
    if (info->fn == FN_GELU) {
        const char *approximate;
        status = op_attr_string(node, "approximate", "none", &approximate);
        if (status != CVD_STATUS_OK)
            return status;
        if (strcmp(approximate, "tanh") == 0)
            s->fn = FN_GELU_TANH;
        else if (strcmp(approximate, "none") != 0)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "approximate is '%.32s'; it must be none or tanh", approximate);
    }
    return CVD_STATUS_OK;
}

static enum cvd_status function_infer(const struct op_node *node, struct op_value *out)
{
    struct function_state s;
    enum cvd_status status = read_node(node, &s);
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

static enum cvd_status function_prepare(const struct op_node *node, const struct op_value *out,
                                        const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct function_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = "pointwise_ref";
    return status == CVD_STATUS_OK ? read_node(node, s) : status;
}

struct function_run {
    const struct function_state *state;
    enum cvd_dtype dtype;
    const void *x;
    void *y;
};

/* log(1 + e^v) without overflow. */
static inline double softplus(double v)
{
    return v > 0 ? v + log1p(exp(-v)) : log1p(exp(v));
}

static inline double sigmoid(double v)
{
    return 1.0 / (1.0 + exp(-v));
}

static inline double clamp01(double v)
{
    return v < 0 ? 0 : v > 1 ? 1 : v;
}

static inline double gelu_tanh(double v)
{
    const double sqrt_2_over_pi = 0.79788456080286535588;
    return 0.5 * v * (1 + tanh(sqrt_2_over_pi * (v + 0.044715 * v * v * v)));
}

/* y = formula(v) over the piece; the exact ones stay in float32 so that they vectorise. */
#define MAP_FLOAT(formula)           \
    for (size_t i = 0; i < n; i++) { \
        const float v = x[i];        \
        y[i] = (formula);            \
    }                                \
    break
#define MAP(formula)                   \
    for (size_t i = 0; i < n; i++) {   \
        const double v = (double)x[i]; \
        y[i] = (float)(formula);       \
    }                                  \
    break

void function_map(const struct function_state *s, const float *x, float *y, size_t n)
{
    const double alpha = (double)s->alpha, beta = (double)s->beta;
    const float alpha_float = s->alpha;
    switch (s->fn) {
    case FN_RELU:
        MAP_FLOAT(v < 0 ? 0 : v);
    case FN_LEAKY_RELU:
        MAP_FLOAT(v < 0 ? alpha_float * v : v);
    case FN_THRESHOLDED_RELU:
        MAP_FLOAT(v <= alpha_float ? 0 : v);
    case FN_ELU:
        MAP(v < 0 ? alpha * expm1(v) : v);
    case FN_SELU:
        MAP(v > 0 ? beta * v : beta * alpha * expm1(v));
    case FN_CELU:
        MAP(v < 0 ? alpha * expm1(v / alpha) : v);
    case FN_SIGMOID:
        MAP(sigmoid(v));
    case FN_HARD_SIGMOID:
        MAP(clamp01(alpha * v + beta));
    case FN_HARD_SWISH:
        MAP(v * clamp01(v / 6 + 0.5));
    case FN_SWISH:
        MAP(v * sigmoid(alpha * v));
    case FN_TANH:
        MAP(tanh(v));
    case FN_SOFTPLUS:
        MAP(softplus(v));
    case FN_SOFTSIGN:
        MAP(v / (1 + fabs(v)));
    case FN_MISH:
        MAP(v * tanh(softplus(v)));
    case FN_GELU:
        MAP(0.5 * v * erfc(-v * M_SQRT1_2)); /* 1 + erf(v) without cancellation */
    case FN_GELU_TANH:
        MAP(gelu_tanh(v));
    case FN_SQRT:
        MAP_FLOAT(sqrtf(v));
    case FN_EXP:
        MAP(exp(v));
    case FN_LOG:
        MAP(log(v));
    case FN_ERF:
        MAP(erf(v));
    case FN_ABS:
        MAP_FLOAT(fabsf(v));
    case FN_NEG:
        MAP_FLOAT(-v);
    case FN_RECIPROCAL:
        MAP_FLOAT(1 / v);
    case FN_FLOOR:
        MAP_FLOAT(floorf(v));
    case FN_CEIL:
        MAP_FLOAT(ceilf(v));
    case FN_ROUND: /* halves go to the even neighbour */
        MAP_FLOAT(rintf(v));
    case FN_SIGN:
        MAP_FLOAT(v > 0 ? 1 : v < 0 ? -1 : v); /* NaN stays NaN */
    case FN_SIN:
        MAP(sin(v));
    case FN_COS:
        MAP(cos(v));
    }
}

/* Integers know Relu, Abs, Neg and Sign; the smallest value is its own negative, as two's
 * complement has it. */
#define MAP_INTEGER(type, unsigned_type)                                           \
    do {                                                                           \
        const type *in = (const type *)f->x + begin;                               \
        type *out = (type *)f->y + begin;                                          \
        for (size_t i = 0; i < n; i++) {                                           \
            const type minus = (type)(unsigned_type)(0u - (unsigned_type)in[i]);   \
            out[i] = f->state->fn == FN_SIGN   ? (type)((in[i] > 0) - (in[i] < 0)) \
                     : f->state->fn == FN_NEG  ? minus                             \
                     : in[i] >= 0              ? in[i]                             \
                     : f->state->fn == FN_RELU ? 0                                 \
                                               : minus;                            \
        }                                                                          \
    } while (0)

static void function_range(void *ctx, size_t begin, size_t end)
{
    const struct function_run *f = ctx;
    const size_t n = end - begin;
    switch (f->dtype) {
    case CVD_DTYPE_INT32:
        MAP_INTEGER(int32_t, uint32_t);
        break;
    case CVD_DTYPE_INT64:
        MAP_INTEGER(int64_t, uint64_t);
        break;
    case CVD_DTYPE_INT8:
        MAP_INTEGER(int8_t, uint8_t);
        break;
    case CVD_DTYPE_UINT8: /* Abs and Sign */
        for (size_t i = begin; i < end; i++) {
            const uint8_t v = ((const uint8_t *)f->x)[i];
            ((uint8_t *)f->y)[i] = f->state->fn == FN_SIGN ? v != 0 : v;
        }
        break;
    default:
        function_map(f->state, (const float *)f->x + begin, (float *)f->y + begin, n);
        break;
    }
}

static void function_run(const struct op_run *r)
{
    struct function_run f = {r->state, r->in[0]->dtype, r->in[0]->data, r->out[0].data};
    op_for_range(r->pool, op_elements(&r->in[0]->shape), OP_RANGE_CHEAP, function_range, &f);
}

/* clang-format off */
#define FUNCTION(op, first_opset)                                                                  \
    {.name = op, .domain = "", .since = first_opset, .flags = OP_BATCHWISE | OP_INPLACE,           \
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,                         \
     .infer = function_infer, .prepare = function_prepare, .run = function_run}

const struct op_def ops_activation[] = {
    FUNCTION("Relu", 1),
    FUNCTION("LeakyRelu", 1),
    FUNCTION("Elu", 1),
    FUNCTION("Selu", 6), /* other constants before */
    FUNCTION("Celu", 12),
    FUNCTION("ThresholdedRelu", 10),
    FUNCTION("Sigmoid", 1),
    FUNCTION("HardSigmoid", 1),
    FUNCTION("HardSwish", 14),
    FUNCTION("Swish", 24),
    FUNCTION("Tanh", 1),
    FUNCTION("Softplus", 1),
    FUNCTION("Softsign", 1),
    FUNCTION("Mish", 18),
    FUNCTION("Gelu", 20),
    FUNCTION("Sqrt", 1),
    FUNCTION("Exp", 1),
    FUNCTION("Log", 1),
    FUNCTION("Erf", 9),
    FUNCTION("Abs", 1),
    FUNCTION("Neg", 1),
    FUNCTION("Reciprocal", 1),
    FUNCTION("Floor", 1),
    FUNCTION("Ceil", 1),
    FUNCTION("Round", 11),
    FUNCTION("Sign", 9),
    FUNCTION("Sin", 7),
    FUNCTION("Cos", 7),
    {.name = NULL},
};
/* clang-format on */
