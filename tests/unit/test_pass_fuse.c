/* Activations and sums that go into the operator before them, to the last bit. */
#include "tests/unit/pass_fixture.h"

static const pass_fn fusing[] = {pass_function, pass_residual, pass_activation, NULL};

/* ---- activations ---- */

static const char *activation;
static struct op_attr activation_attrs[2];
static size_t activation_attr_count;

static uint32_t activate(struct graph *g, uint32_t x)
{
    uint32_t in[] = {x, NET_END};
    return net_node(g, activation, "act", activation_attrs, activation_attr_count, in);
}

static void conv_activation(struct graph *g)
{
    uint32_t x = pass_image(g);
    g->opsets[0].version = 24;
    net_output(g, activate(g, pass_conv(g, "conv", x, 5, true)));
}

static void sum_activation(struct graph *g)
{
    uint32_t x = pass_image(g);
    g->opsets[0].version = 24;
    net_output(g, activate(g, NET_OP(g, "Add", "sum", x, NET_OP(g, "Abs", "abs", x))));
}

static void gemm_activation(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_FLOAT("alpha", 0.5f), PASS_FLOAT("beta", 2)};
    net_init(g);
    g->opsets[0].version = 24;
    uint32_t x = net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, 70));
    uint32_t w = net_weights(g, "w", NET_SHAPE(70, 50), 1, 1);
    uint32_t c = net_weights(g, "c", NET_SHAPE(50), 1, 2);
    net_output(g, activate(g, NET_OP_ATTRS(g, "Gemm", "gemm", attrs, x, w, c)));
}

static void matmul_activation(struct graph *g)
{
    net_init(g);
    g->opsets[0].version = 24;
    uint32_t x = net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, 3, 70));
    uint32_t w = net_weights(g, "w", NET_SHAPE(70, 50), 1, 1);
    net_output(g, activate(g, NET_OP(g, "MatMul", "product", x, w)));
}

Test(pass_activation, every_activation_after_every_operator)
{
    static const struct {
        const char *op;
        struct op_attr attrs[2];
        size_t attr_count;
    } all[] = {
        {"Relu", {{0}}, 0},
        {"LeakyRelu", {PASS_FLOAT("alpha", 0.3f)}, 1},
        {"LeakyRelu", {{0}}, 0},
        {"Sigmoid", {{0}}, 0},
        {"Tanh", {{0}}, 0},
        {"HardSigmoid", {PASS_FLOAT("alpha", 0.3f), PASS_FLOAT("beta", 0.4f)}, 2},
        {"HardSigmoid", {{0}}, 0},
        {"HardSwish", {{0}}, 0},
        {"Swish", {PASS_FLOAT("alpha", 1.5f)}, 1},
        {"Mish", {{0}}, 0},
        {"Gelu", {{0}}, 0},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        activation = all[i].op;
        memcpy(activation_attrs, all[i].attrs, sizeof(activation_attrs));
        activation_attr_count = all[i].attr_count;
        pass_check_list(conv_activation, fusing, "convd.Conv", 0);
        pass_check_list(sum_activation, fusing, "Abs convd.Add", 0);
        pass_check_list(gemm_activation, fusing, "convd.Gemm", 0);
        pass_check_list(matmul_activation, fusing, "convd.MatMul", 0);
    }
    activation = "Elu"; /* not among them */
    activation_attr_count = 0;
    pass_check_list(conv_activation, fusing, "Conv Elu", 0);
}

static void clip_by_attributes(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_FLOAT("min", -0.5f), PASS_FLOAT("max", 1)};
    uint32_t x = pass_image(g);
    g->opsets[0].version = 10;
    net_output(g, NET_OP_ATTRS(g, "Clip", "clip", attrs, pass_conv(g, "conv", x, 5, true)));
}

static void clip_by_inputs(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 5, true);
    net_output(g, NET_OP(g, "Clip", "clip", c, pass_scalar(g, 0), pass_scalar(g, 0.75f)));
}

static void clip_on_one_side(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 5, true);
    net_output(g, NET_OP(g, "Clip", "clip", c, GRAPH_NONE, pass_scalar(g, 0.75f)));
}

static void clip_at_run_time(struct graph *g)
{
    uint32_t x = pass_image(g), limit = net_input(g, "limit", (struct cvd_shape){0});
    net_output(g, NET_OP(g, "Clip", "clip", pass_conv(g, "conv", x, 5, true), limit));
}

Test(pass_activation, clip)
{
    pass_check_list(clip_by_attributes, fusing, "convd.Conv", 0);
    pass_check_list(clip_by_inputs, fusing, "convd.Conv", 0);
    pass_check_list(clip_on_one_side, fusing, "convd.Conv", 0);
    pass_check_list(clip_at_run_time, fusing, "Conv Clip", 0);
}

static void two_activations(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 5, true);
    net_output(g, NET_OP(g, "Relu", "outer", NET_OP(g, "Tanh", "inner", c)));
}

static void read_by_two(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 5, true);
    net_output(g, NET_OP(g, "Mul", "y", NET_OP(g, "Relu", "relu", c), c));
}

static void broadcast_sum(struct graph *g)
{
    uint32_t x = pass_image(g), row = net_input(g, "row", NET_SHAPE(CVD_DIM_BATCH, 1, 1, 6));
    net_output(g, NET_OP(g, "Relu", "relu", NET_OP(g, "Add", "sum", x, row)));
}

static void integers(struct graph *g)
{
    const struct op_attr to_int[] = {PASS_INT("to", CVD_DTYPE_INT32)},
                         to_float[] = {PASS_INT("to", CVD_DTYPE_FLOAT32)};
    uint32_t x = pass_image(g);
    g->opsets[0].version = 14; /* from which on Relu knows integers */
    uint32_t i = NET_OP_ATTRS(g, "Cast", "i", to_int, x);
    uint32_t sum = NET_OP(g, "Relu", "relu", NET_OP(g, "Add", "sum", i, i));
    net_output(g, NET_OP_ATTRS(g, "Cast", "f", to_float, sum));
}

Test(pass_activation, what_must_stay)
{
    pass_check_list(two_activations, fusing, "convd.Conv Relu", 0);
    pass_check_list(read_by_two, fusing, "Conv Relu Mul", 0);
    pass_check_list(broadcast_sum, fusing, "Add Relu", 0);
    pass_check_list(integers, fusing, "Cast Add Relu Cast", 0);
}

/* ---- functions that are spelt out ---- */

static int spelling;

/* The function as exporters write it; an odd spelling has the factors the other way round. */
static uint32_t spell(struct graph *g, uint32_t x)
{
    const bool odd = spelling % 2;
    uint32_t gate, t;
    switch (spelling / 2) {
    case 0:
        gate = NET_OP(g, "Sigmoid", "gate", x);
        break;
    case 1: {
        const struct op_attr attrs[] = {PASS_FLOAT("alpha", 1.0f / 6)};
        gate = NET_OP_ATTRS(g, "HardSigmoid", "gate", attrs, x);
        break;
    }
    case 2:
        gate = NET_OP(g, "Tanh", "gate", NET_OP(g, "Softplus", "softplus", x));
        break;
    default:
        t = spelling / 2 == 3 ? NET_OP(g, "Div", "t", x, pass_scalar(g, 1.41421354f))
                              : NET_OP(g, "Mul", "t", x, pass_scalar(g, 0.707106769f));
        t = NET_OP(g, "Add", "one more", NET_OP(g, "Erf", "erf", t), pass_scalar(g, 1));
        if (spelling / 2 < 5) /* (x * t) / 2 */
            return NET_OP(g, "Mul", "y",
                          odd ? NET_OP(g, "Mul", "m", t, x) : NET_OP(g, "Mul", "m", x, t),
                          pass_scalar(g, 0.5f));
        if (spelling / 2 == 5) { /* (x / 2) * t */
            uint32_t half = NET_OP(g, "Mul", "half", pass_scalar(g, 0.5f), x);
            return odd ? NET_OP(g, "Mul", "y", t, half) : NET_OP(g, "Mul", "y", half, t);
        }
        gate = NET_OP(g, "Mul", "gate", t, pass_scalar(g, 0.5f)); /* x * (t / 2) */
    }
    return odd ? NET_OP(g, "Mul", "y", gate, x) : NET_OP(g, "Mul", "y", x, gate);
}

static void conv_function(struct graph *g)
{
    uint32_t x = pass_image(g);
    net_output(g, spell(g, pass_conv(g, "conv", x, 5, true)));
}

static void lone_function(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t pooled = NET_OP(g, "Abs", "abs", x);
    net_output(g, NET_OP(g, "Add", "y", spell(g, pooled), pooled));
}

Test(pass_function, all_spellings)
{
    static const char *const labels[] = {"Conv+Swish", "Conv+HardSwish", "Conv+Mish", "Conv+Gelu"};
    for (spelling = 0; spelling < 14; spelling++) {
        pass_check(conv_function, pass_function, "Conv convd.Activation", 0);
        pass_check_list(conv_function, fusing, "convd.Conv", 0);
        pass_check_list(lone_function, fusing, "Abs convd.Activation Add", 0);
        struct graph g;
        conv_function(&g);
        pass_apply_list(&g, fusing);
        cr_assert_str_eq(g.nodes[0].label, labels[spelling / 2 < 3 ? spelling / 2 : 3]);
        graph_release(&g);
    }
}

/* Squeeze and excitation: the gate is of something else. */
static void other_gate(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 4, true);
    net_output(g, NET_OP(g, "Mul", "y", c, NET_OP(g, "Sigmoid", "gate", x)));
}

static void gate_read_twice(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t gate = NET_OP(g, "Sigmoid", "gate", x);
    net_output(g, NET_OP(g, "Sub", "z", NET_OP(g, "Mul", "y", x, gate), gate));
}

static void wrong_number(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t t = NET_OP(g, "Erf", "erf", NET_OP(g, "Div", "t", x, pass_scalar(g, 1.5f)));
    t = NET_OP(g, "Add", "two more", t, pass_scalar(g, 2));
    net_output(g, NET_OP(g, "Mul", "y", NET_OP(g, "Mul", "m", x, t), pass_scalar(g, 0.5f)));
}

Test(pass_function, what_must_stay)
{
    pass_check(other_gate, pass_function, "Conv Sigmoid Mul", 0);
    pass_check(gate_read_twice, pass_function, "Sigmoid Mul Sub", 0);
    pass_check(wrong_number, pass_function, "Div Erf Add Mul Mul", 0);
}

/* ---- hard functions that are spelt out ---- */

static struct {
    bool swish, odd;
    int order; /* of the factors of x * Clip(x + 3, 0, 6) / 6: 0: x * (… / 6), 1: (x * …) / 6 */
    bool multiplies;
    float top, divisor;
    bool read_twice;
} hard;

static uint32_t product(struct graph *g, uint32_t a, uint32_t b)
{
    return hard.odd ? NET_OP(g, "Mul", "m", b, a) : NET_OP(g, "Mul", "m", a, b);
}

static uint32_t divide(struct graph *g, uint32_t x)
{
    return hard.multiplies ? product(g, x, pass_scalar(g, 1 / hard.divisor))
                           : NET_OP(g, "Div", "d", x, pass_scalar(g, hard.divisor));
}

static void hard_function(struct graph *g)
{
    uint32_t x = pass_image(g), c = pass_conv(g, "conv", x, 5, true), three = pass_scalar(g, 3);
    uint32_t t = hard.odd ? NET_OP(g, "Add", "t", three, c) : NET_OP(g, "Add", "t", c, three);
    t = NET_OP(g, "Clip", "clip", t, pass_scalar(g, 0), pass_scalar(g, hard.top));
    uint32_t y = !hard.swish       ? divide(g, t)
                 : hard.order == 0 ? product(g, c, divide(g, t))
                                   : divide(g, product(g, c, t));
    net_output(g, hard.read_twice ? NET_OP(g, "Mul", "y", y, t) : y);
}

Test(pass_function, hard_functions)
{
    for (unsigned bits = 0; bits < 16; bits++) {
        hard.swish = bits & 1;
        hard.odd = bits & 2;
        hard.order = bits & 4 ? 1 : 0;
        hard.multiplies = bits & 8;
        hard.top = hard.divisor = 6;
        hard.read_twice = false;
        pass_check(hard_function, pass_function, "Conv convd.Activation", 2e-6);
        pass_check_list(hard_function, fusing, "convd.Conv", 2e-6);
        struct graph g;
        hard_function(&g);
        pass_apply_list(&g, fusing);
        cr_assert_str_eq(g.nodes[0].label, hard.swish ? "Conv+HardSwish" : "Conv+HardSigmoid");
        graph_release(&g);
    }
}

Test(pass_function, hard_functions_that_must_stay)
{
    memset(&hard, 0, sizeof(hard));
    hard.top = 6;
    hard.divisor = 5;
    pass_check(hard_function, pass_function, "Conv Add Clip Div", 0);
    hard.swish = true;
    hard.order = 1;
    pass_check(hard_function, pass_function, "Conv Add Clip Mul Div", 0);
    hard.top = hard.divisor = INFINITY;
    pass_check(hard_function, pass_function, "Conv Add Clip Mul Div", 0);
    hard.top = hard.divisor = 6;
    hard.read_twice = true;
    pass_check(hard_function, pass_function, "Conv Add Clip Mul Div Mul", 0);
}

/* ---- residuals ---- */

static void residual(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 4, true);
    net_output(g, NET_OP(g, "Relu", "relu", NET_OP(g, "Add", "sum", x, c)));
}

static void residual_without_bias(struct graph *g)
{
    uint32_t x = pass_image(g);
    net_output(g, NET_OP(g, "Sum", "sum", pass_conv(g, "conv", x, 4, false), x));
}

/* ResNet's downsampling: both summands are convolutions. */
static void two_convolutions(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t a = pass_conv(g, "a", x, 4, true), b = pass_conv(g, "b", x, 4, true);
    net_output(g, NET_OP(g, "Relu", "relu", NET_OP(g, "Add", "sum", b, a)));
}

static void activation_before_the_sum(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = NET_OP(g, "Relu", "relu", pass_conv(g, "conv", x, 4, true));
    net_output(g, NET_OP(g, "Tanh", "tanh", NET_OP(g, "Add", "sum", c, x)));
}

static void twice_itself(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 4, true);
    net_output(g, NET_OP(g, "Add", "sum", c, c));
}

static void broadcast_residual(struct graph *g)
{
    uint32_t x = pass_image(g), one = net_input(g, "one", NET_SHAPE(CVD_DIM_BATCH, 1, 6, 6));
    net_output(g, NET_OP(g, "Add", "sum", pass_conv(g, "conv", x, 4, true), one));
}

Test(pass_residual, sums_go_into_the_convolution)
{
    pass_check_list(residual, fusing, "convd.Conv", 0);
    pass_check_list(residual_without_bias, fusing, "convd.Conv", 0);
    pass_check_list(two_convolutions, fusing, "Conv convd.Conv", 0);
    pass_check_list(activation_before_the_sum, fusing, "convd.Conv convd.Add", 0);
    pass_check_list(twice_itself, fusing, "Conv Add", 0);
    pass_check_list(broadcast_residual, fusing, "Conv Add", 0);
}

Test(pass_residual, the_later_convolution_takes_the_sum)
{
    struct graph g;
    two_convolutions(&g);
    uint32_t a = g.nodes[0].out[0];
    pass_apply_list(&g, fusing);
    cr_assert_str_eq(g.nodes[0].name, "a");
    cr_assert_str_eq(g.nodes[1].name, "b");
    cr_assert_str_eq(g.nodes[1].label, "Conv+Add+Relu");
    cr_assert_eq(g.nodes[1].in_count, 4);
    cr_assert_eq(g.nodes[1].in[3], a);
    graph_release(&g);
}
