/* Floating-point types other than float32, at the edges of a model. */
#include "engine/ops/convert.h"
#include "tests/support/net.h"

#include <convd/session.h>

#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

enum { IMAGES = 3, IN = 6, OUT = 4 };

static const enum cvd_dtype others[] = {CVD_DTYPE_FLOAT16, CVD_DTYPE_BFLOAT16, CVD_DTYPE_FLOAT64};
#define OTHERS (sizeof(others) / sizeof(*others))

/* An initializer of that type. */
static uint32_t weights(struct graph *g, const char *name, enum cvd_dtype dtype,
                        struct cvd_shape shape, const float *data)
{
    struct cvd_error err = {0};
    uint32_t value;
    size_t count;
    cr_assert(cvd_shape_elements(&shape, &count));
    cr_assert_eq(graph_add_initializer(g, name, dtype, &shape, NULL, &value, &err), CVD_STATUS_OK);
    convert_elements(CVD_DTYPE_FLOAT32, data, dtype, g->values[value].data, count);
    return value;
}

static uint32_t input(struct graph *g, const char *name, enum cvd_dtype dtype)
{
    uint32_t x = net_input(g, name, NET_SHAPE(CVD_DIM_BATCH, IN));
    g->values[x].dtype = dtype;
    return x;
}

static void output(struct graph *g, uint32_t y, enum cvd_dtype dtype)
{
    g->values[y].dtype = dtype;
    net_output(g, y);
}

/* What the file would declare; then a model, or the reason why there is none. */
static struct cvd_model *model_of(struct cvd_engine *engine, struct graph *g, bool float32_edges)
{
    const struct cvd_load_options options = {.float32_edges = float32_edges};
    struct cvd_error err = {.message = ""};
    struct cvd_model *model = NULL;
    cr_assert_eq(net_try(engine, g, &options, &model, &err), CVD_STATUS_OK, "%s", err.message);
    return model;
}

static void run(const struct cvd_model *model, const void *in, void *out)
{
    struct cvd_session *session = NULL;
    struct cvd_error err = {.message = ""};
    cr_assert_eq(cvd_session_create(model, IMAGES, &session, &err), CVD_STATUS_OK, "%s",
                 err.message);
    cr_assert_eq(cvd_session_run(session, IMAGES, &in, &out, &err), CVD_STATUS_OK);
    cvd_session_destroy(session);
}

static void check_types(const struct cvd_model *model, enum cvd_dtype in, enum cvd_dtype out)
{
    struct cvd_value_info info;
    cvd_model_input(model, 0, &info);
    cr_assert_eq(info.dtype, in);
    cr_assert_str_eq(info.name, "x");
    cvd_model_output(model, 0, &info);
    cr_assert_eq(info.dtype, out);
    cr_assert_str_eq(info.name, "y");
}

/* y = Relu(x * w + c), all of that type. */
static void dense(struct graph *g, enum cvd_dtype dtype)
{
    float w[IN * OUT], c[OUT];
    net_fill(w, IN * OUT, 1);
    net_fill(c, OUT, 2);
    net_init(g);
    uint32_t y = NET_OP(g, "Gemm", "gemm", input(g, "x", dtype),
                        weights(g, "w", dtype, NET_SHAPE(IN, OUT), w),
                        weights(g, "c", dtype, NET_SHAPE(OUT), c));
    output(g, NET_OP(g, "Relu", "y", y), dtype);
}

/* The same sums with the numbers rounded to that type on their way in. */
static void dense_by_hand(enum cvd_dtype dtype, const float *x, float *y)
{
    float w[IN * OUT], c[OUT], rounded_x[IMAGES * IN];
    double wide[IN * OUT]; /* room for any type */
    net_fill(w, IN * OUT, 1);
    net_fill(c, OUT, 2);
    convert_elements(CVD_DTYPE_FLOAT32, w, dtype, wide, IN * OUT);
    convert_elements(dtype, wide, CVD_DTYPE_FLOAT32, w, IN * OUT);
    convert_elements(CVD_DTYPE_FLOAT32, c, dtype, wide, OUT);
    convert_elements(dtype, wide, CVD_DTYPE_FLOAT32, c, OUT);
    convert_elements(CVD_DTYPE_FLOAT32, x, dtype, wide, IMAGES * IN);
    convert_elements(dtype, wide, CVD_DTYPE_FLOAT32, rounded_x, IMAGES * IN);
    for (int n = 0; n < IMAGES; n++) {
        for (int o = 0; o < OUT; o++) {
            double sum = (double)c[o];
            for (int i = 0; i < IN; i++)
                sum += (double)rounded_x[n * IN + i] * (double)w[i * OUT + o];
            y[n * OUT + o] = sum > 0 ? (float)sum : 0;
        }
    }
}

Test(widen, inputs_weights_and_outputs)
{
    struct cvd_engine *engine = net_engine(2);
    float x[IMAGES * IN], want[IMAGES * OUT];
    net_fill(x, IMAGES * IN, 3);
    for (size_t t = 0; t < OTHERS; t++) {
        struct graph g;
        double in[IMAGES * IN], out[IMAGES * OUT]; /* room for any type */
        float got[IMAGES * OUT];
        dense_by_hand(others[t], x, want);

        dense(&g, others[t]);
        struct cvd_model *model = model_of(engine, &g, false);
        check_types(model, others[t], others[t]);
        cr_assert_eq(cvd_model_layer_count(model), 3); /* Cast, Gemm+Relu, Cast */
        convert_elements(CVD_DTYPE_FLOAT32, x, others[t], in, IMAGES * IN);
        run(model, in, out);
        convert_elements(others[t], out, CVD_DTYPE_FLOAT32, got, IMAGES * OUT);
        double unit = t == 0 ? 0x1p-11 : t == 1 ? 0x1p-8 : 0x1p-22;
        for (int i = 0; i < IMAGES * OUT; i++)
            cr_expect_float_eq(got[i], want[i], unit * fabs((double)want[i]) + 1e-6);
        cvd_model_destroy(model);

        dense(&g, others[t]);
        model = model_of(engine, &g, true);
        check_types(model, CVD_DTYPE_FLOAT32, CVD_DTYPE_FLOAT32);
        cr_assert_eq(cvd_model_layer_count(model), 1);
        convert_elements(others[t], in, CVD_DTYPE_FLOAT32, x, IMAGES * IN);
        run(model, x, got);
        for (int i = 0; i < IMAGES * OUT; i++)
            cr_expect_float_eq(got[i], want[i], 1e-6);
        cvd_model_destroy(model);
    }
    cvd_engine_destroy(engine);
}

/* One Cast from type to type. */
static void cast(struct graph *g, enum cvd_dtype from, enum cvd_dtype to)
{
    const struct op_attr attrs[] = {{.name = "to", .type = OP_ATTR_INT, .i = to}};
    net_init(g);
    output(g, NET_OP_ATTRS(g, "Cast", "y", attrs, input(g, "x", from)), to);
}

Test(widen, an_output_is_rounded_to_its_type)
{
    struct cvd_engine *engine = net_engine(1);
    struct graph g;
    float x[IMAGES * IN];
    uint16_t half[IMAGES * IN];
    net_fill(x, IMAGES * IN, 3);
    cast(&g, CVD_DTYPE_FLOAT32, CVD_DTYPE_FLOAT16);
    struct cvd_model *model = model_of(engine, &g, false);
    check_types(model, CVD_DTYPE_FLOAT32, CVD_DTYPE_FLOAT16);
    run(model, x, half);
    for (int i = 0; i < IMAGES * IN; i++)
        cr_expect_eq(half[i], convert_to_f16((double)x[i]));
    cvd_model_destroy(model);

    cast(&g, CVD_DTYPE_FLOAT16, CVD_DTYPE_FLOAT32);
    model = model_of(engine, &g, false);
    run(model, half, x);
    for (int i = 0; i < IMAGES * IN; i++)
        cr_expect_eq(x[i], convert_from_f16(half[i]));
    cvd_model_destroy(model);

    int64_t integers[IMAGES * IN];
    for (int i = 0; i < IMAGES * IN; i++)
        integers[i] = 1000 * i - 5001;
    cast(&g, CVD_DTYPE_INT64, CVD_DTYPE_BFLOAT16);
    model = model_of(engine, &g, false);
    run(model, integers, half);
    for (int i = 0; i < IMAGES * IN; i++)
        cr_expect_eq(half[i], convert_to_bf16((double)integers[i]));
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

/* What is documented: inside a model nothing is rounded to half precision. */
Test(widen, a_cast_inside_does_not_round)
{
    struct cvd_engine *engine = net_engine(1);
    struct graph g;
    const struct op_attr to_half[] = {{.name = "to", .type = OP_ATTR_INT, .i = CVD_DTYPE_FLOAT16}},
                         to_float[] = {{.name = "to", .type = OP_ATTR_INT, .i = CVD_DTYPE_FLOAT32}};
    float x[IMAGES * IN], y[IMAGES * IN];
    net_fill(x, IMAGES * IN, 3);
    net_init(&g);
    uint32_t h = NET_OP_ATTRS(&g, "Cast", "h", to_half, input(&g, "x", CVD_DTYPE_FLOAT32));
    uint32_t f = NET_OP_ATTRS(&g, "Cast", "f", to_float, NET_OP(&g, "Neg", "minus", h));
    output(&g, NET_OP(&g, "Neg", "y", f), CVD_DTYPE_FLOAT32);
    struct cvd_model *model = model_of(engine, &g, false);
    cr_assert_eq(cvd_model_layer_count(model), 2); /* the Casts are gone */
    run(model, x, y);
    cr_assert_arr_eq(x, y, sizeof(x));
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

Test(widen, tensors_among_the_attributes)
{
    struct cvd_engine *engine = net_engine(1);
    struct graph g;
    const uint16_t half = convert_to_f16(0.75);
    static const int64_t extents[] = {IN};
    const struct op_attr value[] = {{.name = "value",
                                     .type = OP_ATTR_TENSOR,
                                     .tensor = {CVD_DTYPE_FLOAT16, {1, {1}}, &half, {0}}}};
    float x[IMAGES * IN], y[IMAGES * IN];
    net_fill(x, IMAGES * IN, 3);
    net_init(&g);
    uint32_t none[] = {NET_END};
    uint32_t c = net_node(&g, "Constant", "c", value, 1, none);
    uint32_t many =
        NET_OP_ATTRS(&g, "ConstantOfShape", "many", value, net_ints(&g, "extents", 1, extents));
    uint32_t scaled = NET_OP(&g, "Mul", "scaled", input(&g, "x", CVD_DTYPE_FLOAT16), c);
    output(&g, NET_OP(&g, "Add", "y", scaled, many), CVD_DTYPE_FLOAT16);
    struct cvd_model *model = model_of(engine, &g, true);
    run(model, x, y);
    for (int i = 0; i < IMAGES * IN; i++)
        cr_expect_float_eq(y[i], (double)x[i] * 0.75 + 0.75, 1e-6);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

/* Outputs that are the input, a constant, and a Softmax. */
Test(widen, outputs_of_every_origin)
{
    struct cvd_engine *engine = net_engine(1);
    struct graph g;
    const float c[OUT] = {1, 2.5f, -3, 0};
    net_init(&g);
    uint32_t x = input(&g, "x", CVD_DTYPE_FLOAT16);
    output(&g, NET_OP(&g, "Softmax", "y", x), CVD_DTYPE_FLOAT16);
    net_output(&g, x);
    net_output(&g, weights(&g, "c", CVD_DTYPE_FLOAT16, NET_SHAPE(OUT), c));
    struct cvd_model *model = model_of(engine, &g, false);
    cr_assert(cvd_model_ends_in_softmax(model));
    for (size_t i = 0; i < 3; i++) {
        struct cvd_value_info info;
        cvd_model_output(model, i, &info);
        cr_assert_eq(info.dtype, CVD_DTYPE_FLOAT16);
    }
    struct cvd_session *session = NULL;
    uint16_t in[IN], y[IN], same[IN], constant[OUT];
    for (int i = 0; i < IN; i++)
        in[i] = convert_to_f16(0.125 * i - 0.3);
    cr_assert_eq(cvd_session_create(model, 1, &session, NULL), CVD_STATUS_OK);
    cr_assert_eq(
        cvd_session_run(session, 1, (const void *[]){in}, (void *[]){y, same, constant}, NULL),
        CVD_STATUS_OK);
    cr_assert_arr_eq(in, same, sizeof(in));
    for (int i = 0; i < OUT; i++)
        cr_assert_eq(constant[i], convert_to_f16((double)c[i]));
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

Test(widen, every_failing_allocation_is_survived, .timeout = 600)
{
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    size_t failures = 0;
    for (size_t n = 1;; n++) {
        struct graph g;
        struct plan *plan = NULL;
        struct cvd_error err = {0};
        dense(&g, CVD_DTYPE_FLOAT16);
        cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OK);
        mem_fail_after(n, n % 2 == 0);
        enum cvd_status status = plan_build(&g, &kernels, NULL, NULL, &plan, &err);
        mem_fail_after(0, false);
        graph_release(&g);
        plan_destroy(plan);
        if (status == CVD_STATUS_OK)
            break;
        cr_assert_eq(status, CVD_STATUS_OUT_OF_MEMORY, "allocation %zu: %s", n, err.message);
        cr_assert_neq(err.message[0], '\0');
        failures++;
    }
    cr_assert_gt(failures, 30);
}
