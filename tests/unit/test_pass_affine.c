/* Batch norm, scales and shifts that go into weights. */
#include "tests/unit/pass_fixture.h"

#define ROUNDING 2e-5

/* y = BatchNormalization(x) of so many channels. */
static uint32_t batch_norm(struct graph *g, const char *name, uint32_t x, int64_t channels)
{
    const struct op_attr attrs[] = {PASS_FLOAT("epsilon", 0.01f)};
    uint32_t scale = net_weights(g, "scale", NET_SHAPE(channels), 1, 11);
    uint32_t bias = net_weights(g, "bias", NET_SHAPE(channels), 1, 12);
    uint32_t mean = net_weights(g, "mean", NET_SHAPE(channels), 1, 13);
    uint32_t variance = net_weights(g, "variance", NET_SHAPE(channels), 1, 14);
    float *data = g->values[variance].data;
    for (int64_t i = 0; i < channels; i++)
        data[i] = data[i] * data[i] + 0.5f;
    return NET_OP_ATTRS(g, "BatchNormalization", name, attrs, x, scale, bias, mean, variance);
}

static void conv_batch_norm(struct graph *g)
{
    uint32_t x = pass_image(g);
    net_output(g, batch_norm(g, "bn", pass_conv(g, "conv", x, 5, false), 5));
}

static void conv_bias_batch_norm(struct graph *g)
{
    uint32_t x = pass_image(g);
    net_output(g, batch_norm(g, "bn", pass_conv(g, "conv", x, 5, true), 5));
}

static void grouped(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_INT("group", 2)};
    uint32_t x = pass_image(g);
    uint32_t w = net_weights(g, "w", NET_SHAPE(6, 2, 3, 3), 0.5f, 3);
    net_output(g, batch_norm(g, "bn", NET_OP_ATTRS(g, "Conv", "conv", attrs, x, w), 6));
}

static void conv_scale_shift(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 5, true);
    uint32_t scale = net_weights(g, "scale", NET_SHAPE(5, 1, 1), 1, 11);
    uint32_t shift = net_weights(g, "shift", NET_SHAPE(1, 5, 1, 1), 1, 12);
    c = NET_OP(g, "Mul", "mul", scale, c);
    c = NET_OP(g, "Add", "add", c, shift);
    c = NET_OP(g, "Sub", "sub", c, pass_scalar(g, 0.25f));
    net_output(g, NET_OP(g, "Div", "div", c, pass_scalar(g, 3)));
}

static void gemm(struct graph *g, int64_t turned, float beta)
{
    const struct op_attr attrs[] = {PASS_INT("transB", turned), PASS_FLOAT("alpha", 0.5f),
                                    PASS_FLOAT("beta", beta)};
    net_init(g);
    uint32_t x = net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, 7));
    uint32_t w = net_weights(g, "w", turned ? NET_SHAPE(5, 7) : NET_SHAPE(7, 5), 1, 1);
    uint32_t c = net_weights(g, "c", NET_SHAPE(1, 5), 1, 2);
    uint32_t y = NET_OP_ATTRS(g, "Gemm", "gemm", attrs, x, w, c);
    y = batch_norm(g, "bn", y, 5);
    net_output(g, NET_OP(g, "Mul", "mul", y, net_weights(g, "m", NET_SHAPE(5), 1, 3)));
}

static void gemm_plain(struct graph *g)
{
    gemm(g, 0, 1);
}

static void gemm_turned(struct graph *g)
{
    gemm(g, 1, 2);
}

static void matmul(struct graph *g, struct cvd_shape bias)
{
    net_init(g);
    uint32_t x = net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, 3, 7));
    uint32_t y = NET_OP(g, "MatMul", "product", x, net_weights(g, "w", NET_SHAPE(7, 5), 1, 1));
    net_output(g, NET_OP(g, "Add", "sum", net_weights(g, "b", bias, 1, 2), y));
}

static void matmul_add(struct graph *g)
{
    matmul(g, NET_SHAPE(5));
}

static void matmul_add_scalar(struct graph *g)
{
    matmul(g, NET_SHAPE(1, 1));
}

static void matmul_add_rows(struct graph *g)
{
    matmul(g, NET_SHAPE(3, 1));
}

static void matmul_add_higher_rank(struct graph *g)
{
    matmul(g, NET_SHAPE(1, 1, 1, 5));
}

Test(pass_affine, batch_norm_goes_into_the_convolution)
{
    pass_check(conv_batch_norm, pass_affine, "Conv", ROUNDING);
    pass_check(conv_bias_batch_norm, pass_affine, "Conv", ROUNDING);
    pass_check(grouped, pass_affine, "Conv", ROUNDING);
}

Test(pass_affine, folded_weights_are_what_the_formula_says)
{
    struct graph g;
    conv_bias_batch_norm(&g);
    float w[5 * 36], b[5], scale[5], bias[5], mean[5], variance[5];
    const struct graph_node conv = g.nodes[0], bn = g.nodes[1];
    float *const to[] = {scale, bias, mean, variance};
    memcpy(w, g.values[conv.in[1]].data, sizeof(w));
    memcpy(b, g.values[conv.in[2]].data, sizeof(b));
    for (size_t i = 0; i < 4; i++)
        memcpy(to[i], g.values[bn.in[i + 1]].data, sizeof(scale));
    pass_apply(&g, pass_affine);
    cr_assert_eq(g.node_count, 1);
    cr_assert_str_eq(g.nodes[0].name, "conv");
    cr_assert_eq(g.nodes[0].out[0], bn.out[0]);
    const float *new_w = g.values[g.nodes[0].in[1]].data, *new_b = g.values[g.nodes[0].in[2]].data;
    for (size_t c = 0; c < 5; c++) {
        double f = (double)scale[c] / sqrt((double)variance[c] + (double)0.01f);
        cr_assert_float_eq(new_b[c], ((double)b[c] - (double)mean[c]) * f + (double)bias[c], 1e-6);
        for (size_t i = 0; i < 36; i++)
            cr_assert_float_eq(new_w[c * 36 + i], (double)w[c * 36 + i] * f, 1e-7);
    }
    /* The old numbers are gone: only the new weights and bias are left. */
    size_t left = 0;
    for (uint32_t v = 0; v < g.value_count; v++)
        left += g.values[v].data != NULL;
    cr_assert_eq(left, 2);
    graph_release(&g);
}

Test(pass_affine, scales_and_shifts_go_into_the_convolution)
{
    pass_check(conv_scale_shift, pass_affine, "Conv", ROUNDING);
}

Test(pass_affine, products)
{
    pass_check(gemm_plain, pass_affine, "Gemm", ROUNDING);
    pass_check(gemm_turned, pass_affine, "Gemm", ROUNDING);
    pass_check(matmul_add, pass_affine, "convd.MatMul", 0);
    pass_check(matmul_add_scalar, pass_affine, "convd.MatMul", 0);
    pass_check(matmul_add_rows, pass_affine, "MatMul Add", 0);
    pass_check(matmul_add_higher_rank, pass_affine, "MatMul Add", 0);
    struct graph g;
    matmul_add(&g);
    pass_apply(&g, pass_affine);
    cr_assert_str_eq(g.nodes[0].label, "MatMul+Add");
    graph_release(&g);
}

/* ---- what has to stay ---- */

static void read_twice(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 4, false);
    net_output(g, NET_OP(g, "Add", "sum", batch_norm(g, "bn", c, 4), c));
}

static void output_itself(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 4, false);
    net_output(g, batch_norm(g, "bn", c, 4));
    net_output(g, c);
}

static void shared_weights(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t w = net_weights(g, "w", NET_SHAPE(4, 4, 1, 1), 1, 1);
    uint32_t a = batch_norm(g, "a", NET_OP(g, "Conv", "first", x, w), 4);
    uint32_t b = NET_OP(g, "Conv", "second", a, w);
    net_output(g, NET_OP(g, "Add", "shift", b, pass_scalar(g, 1)));
}

static void along_the_width(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 4, false);
    net_output(g, NET_OP(g, "Mul", "mul", c, net_weights(g, "m", NET_SHAPE(6), 1, 1)));
}

static void not_finite(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t c = pass_conv(g, "conv", x, 4, false);
    net_output(g, NET_OP(g, "Div", "div", c, pass_scalar(g, 0)));
}

Test(pass_affine, what_must_stay)
{
    pass_check(read_twice, pass_affine, "Conv BatchNormalization Add", 0);
    pass_check(output_itself, pass_affine, "Conv BatchNormalization", 0);
    /* A shift leaves weights alone, so it may go where a scale may not. */
    pass_check(shared_weights, pass_affine, "Conv BatchNormalization Conv", ROUNDING);
    pass_check(along_the_width, pass_affine, "Conv Mul", 0);
    struct graph g;
    not_finite(&g);
    pass_apply(&g, pass_affine);
    cr_assert_str_eq(pass_ops(&g), "Conv Div");
    graph_release(&g);
}
