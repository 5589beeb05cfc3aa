/* Parts of a network that compute with the channels last. */
#include "tests/unit/pass_fixture.h"

#define ROUNDING 1e-5

static uint32_t last(struct graph *g, uint32_t x)
{
    const struct op_attr perm[] = {PASS_INTS("perm", 0, 2, 3, 1)};
    return NET_OP_ATTRS(g, "Transpose", "last", perm, x);
}

static uint32_t first(struct graph *g, uint32_t x)
{
    const struct op_attr perm[] = {PASS_INTS("perm", 0, 3, 1, 2)};
    return NET_OP_ATTRS(g, "Transpose", "first", perm, x);
}

static uint32_t norm(struct graph *g, uint32_t x, int64_t channels)
{
    const struct op_attr attrs[] = {PASS_FLOAT("epsilon", 0.01f)};
    g->opsets[0].version = 17;
    return NET_OP_ATTRS(g, "LayerNormalization", "norm", attrs, x,
                        net_weights(g, "scale", NET_SHAPE(channels), 1, 21),
                        net_weights(g, "bias", NET_SHAPE(channels), 1, 22));
}

static uint32_t dense(struct graph *g, uint32_t x, int64_t in, int64_t out)
{
    uint32_t y = NET_OP(g, "MatMul", "dense", x, net_weights(g, "w", NET_SHAPE(in, out), 0.5f, 23));
    return NET_OP(g, "Add", "bias", net_weights(g, "b", NET_SHAPE(out), 0.5f, 24), y);
}

static uint32_t gelu(struct graph *g, uint32_t x)
{
    uint32_t t = NET_OP(g, "Erf", "erf", NET_OP(g, "Div", "t", x, pass_scalar(g, 1.41421354f)));
    t = NET_OP(g, "Mul", "m", x, NET_OP(g, "Add", "one more", t, pass_scalar(g, 1)));
    return NET_OP(g, "Mul", "gelu", t, pass_scalar(g, 0.5f));
}

/* A block of a ConvNeXt with so many channels. */
static uint32_t block(struct graph *g, uint32_t x, int64_t channels)
{
    const struct op_attr attrs[] = {PASS_INT("group", channels), PASS_INTS("pads", 3, 3, 3, 3)};
    uint32_t y = NET_OP_ATTRS(g, "Conv", "depthwise", attrs, x,
                              net_weights(g, "k", NET_SHAPE(channels, 1, 7, 7), 0.2f, 31));
    y = norm(g, last(g, y), channels);
    y = first(g, dense(g, gelu(g, dense(g, y, channels, 3 * channels)), 3 * channels, channels));
    y = NET_OP(g, "Mul", "scale", net_weights(g, "layer", NET_SHAPE(channels, 1, 1), 1, 32), y);
    return NET_OP(g, "Add", "sum", y, x);
}

static void lone_block(struct graph *g)
{
    net_output(g, block(g, pass_image(g), 4));
}

static const pass_fn transposing[] = {pass_norm, pass_function, pass_transpose, NULL};

Test(pass_transpose, a_block_computes_with_the_channels_first)
{
    pass_check_list(lone_block, transposing,
                    "Conv convd.LayerNorm Conv Add convd.Activation Conv Add Mul Add", ROUNDING);
    pass_check_list(lone_block, passes_rewrite, "Conv convd.LayerNorm convd.Conv convd.Conv",
                    ROUNDING);
}

/* Every operator that is known with the channels last, constants of all shapes. */
static void everything(struct graph *g)
{
    const struct op_attr slope[] = {PASS_FLOAT("alpha", 0.3f)};
    uint32_t x = last(g, pass_image(g));
    uint32_t y = NET_OP(g, "Add", "add", x, net_weights(g, "c", NET_SHAPE(4), 1, 1));
    y = NET_OP(g, "Sub", "sub", net_weights(g, "c", NET_SHAPE(1, 1, 1, 4), 1, 2), y);
    y = NET_OP(g, "Mul", "mul", net_weights(g, "c", NET_SHAPE(1, 4), 1, 3), y);
    y = NET_OP(g, "Div", "div", y, pass_scalar(g, 3));
    y = NET_OP(g, "Clip", "clip", y, pass_scalar(g, -0.5f));
    y = NET_OP_ATTRS(g, "LeakyRelu", "leaky", slope, y);
    y = NET_OP(g, "Mul", "product", y, x);
    net_output(g, first(g, NET_OP(g, "Add", "sum", y, norm(g, x, 4))));
}

Test(pass_transpose, every_operator)
{
    pass_check_list(everything, transposing,
                    "Add Sub Mul Div Clip LeakyRelu Mul convd.LayerNorm Add", ROUNDING);
}

/* ---- readers ---- */

/* Others may read what goes in … */
static void read_before(struct graph *g)
{
    uint32_t x = last(g, pass_image(g));
    uint32_t y = first(g, NET_OP(g, "Relu", "relu", x));
    uint32_t z = NET_OP(g, "Softmax", "softmax", x);
    net_output(g, NET_OP(g, "Add", "sum", y, first(g, z)));
}

/* … but not what is computed, nor anything that belongs to it. */
static void read_between(struct graph *g)
{
    uint32_t x = last(g, pass_image(g));
    uint32_t y = NET_OP(g, "Relu", "relu", x), z = NET_OP(g, "Tanh", "tanh", y);
    net_output(g, first(g, z));
    net_output(g, NET_OP(g, "Softmax", "softmax", y));
}

static void wanted(struct graph *g)
{
    uint32_t x = last(g, pass_image(g));
    uint32_t y = NET_OP(g, "Relu", "relu", x), z = NET_OP(g, "Tanh", "tanh", x);
    net_output(g, first(g, NET_OP(g, "Add", "sum", y, z)));
    net_output(g, z);
}

static void two_ways_back(struct graph *g)
{
    uint32_t y = NET_OP(g, "Relu", "relu", last(g, pass_image(g)));
    net_output(g, first(g, y));
    net_output(g, first(g, y));
}

/* Two parts: one can be changed. */
static void two_parts(struct graph *g)
{
    uint32_t x = pass_image(g);
    uint32_t y = first(g, NET_OP(g, "Relu", "relu", last(g, x)));
    uint32_t z = NET_OP(g, "Tanh", "tanh", last(g, x));
    net_output(g, NET_OP(g, "Mul", "y", y, first(g, z)));
    net_output(g, z);
}

Test(pass_transpose, readers)
{
    pass_check(read_before, pass_transpose, "Transpose Relu Softmax Transpose Add", 0);
    pass_check(read_between, pass_transpose, "Transpose Relu Tanh Transpose Softmax", 0);
    pass_check(wanted, pass_transpose, "Transpose Relu Tanh Add Transpose", 0);
    pass_check(two_ways_back, pass_transpose, "Relu Identity", 0);
    pass_check(two_parts, pass_transpose, "Relu Transpose Tanh Transpose Mul", 0);
}

/* ---- what must stay ---- */

static void other_order(struct graph *g)
{
    const struct op_attr perm[] = {PASS_INTS("perm", 0, 3, 2, 1)};
    uint32_t x = NET_OP_ATTRS(g, "Transpose", "t", perm, pass_image(g));
    net_output(g, NET_OP_ATTRS(g, "Transpose", "u", perm, NET_OP(g, "Relu", "relu", x)));
}

static void along_a_row(struct graph *g)
{
    uint32_t x = last(g, pass_image(g)), c = net_weights(g, "c", NET_SHAPE(6, 1), 1, 1);
    net_output(g, first(g, NET_OP(g, "Mul", "mul", x, c)));
}

static void matrices(struct graph *g)
{
    uint32_t x = last(g, pass_image(g)), m = net_weights(g, "m", NET_SHAPE(6, 4, 5), 1, 1);
    net_output(g, first(g, NET_OP(g, "MatMul", "product", x, m)));
}

static void matrix_from_the_left(struct graph *g)
{
    uint32_t x = last(g, pass_image(g)), m = net_weights(g, "m", NET_SHAPE(5, 6), 1, 1);
    net_output(g, first(g, NET_OP(g, "MatMul", "product", m, x)));
}

static void norm_of_two_dimensions(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_INT("axis", 2)};
    uint32_t x = last(g, pass_image(g));
    g->opsets[0].version = 17;
    net_output(g, first(g, NET_OP_ATTRS(g, "LayerNormalization", "norm", attrs, x,
                                        net_weights(g, "s", NET_SHAPE(6, 4), 1, 1))));
}

Test(pass_transpose, what_must_stay)
{
    pass_check_list(other_order, transposing, "Transpose Relu Transpose", 0);
    pass_check_list(along_a_row, transposing, "Transpose Mul Transpose", 0);
    pass_check_list(matrices, transposing, "Transpose MatMul Transpose", 0);
    pass_check_list(matrix_from_the_left, transposing, "Transpose MatMul Transpose", 0);
    pass_check_list(norm_of_two_dimensions, transposing, "Transpose LayerNormalization Transpose",
                    0);
}

/* Two products with the same weights, which become the same convolution twice. */
static void shared_weights(struct graph *g)
{
    uint32_t x = last(g, pass_image(g)), w = net_weights(g, "w", NET_SHAPE(4, 4), 1, 1);
    uint32_t y = NET_OP(g, "MatMul", "a", x, w);
    net_output(g, first(g, NET_OP(g, "MatMul", "b", y, w)));
}

Test(pass_transpose, shared_weights)
{
    pass_check(shared_weights, pass_transpose, "Conv Conv", ROUNDING);
}

/* ---- all the way ---- */

/* A small ConvNeXt: stem, norm, block, norm and downsampling, block, head. */
static void network(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_INTS("strides", 2, 2)}, flat[] = {PASS_INT("axis", 1)},
                         turned[] = {PASS_INT("transB", 1)};
    net_init(g);
    uint32_t x = net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, 3, 16, 20));
    x = NET_OP_ATTRS(g, "Conv", "stem", attrs, x,
                     net_weights(g, "w", NET_SHAPE(20, 3, 2, 2), 1, 1));
    x = block(g, first(g, norm(g, last(g, x), 20)), 20);
    x = first(g, norm(g, last(g, x), 20));
    x = NET_OP_ATTRS(g, "Conv", "down", attrs, x,
                     net_weights(g, "w", NET_SHAPE(24, 20, 2, 2), 0.2f, 2));
    x = NET_OP(g, "GlobalAveragePool", "pool", block(g, x, 24));
    x = NET_OP_ATTRS(g, "Flatten", "flat", flat, first(g, norm(g, last(g, x), 24)));
    net_output(
        g, NET_OP_ATTRS(g, "Gemm", "fc", turned, x, net_weights(g, "m", NET_SHAPE(10, 24), 1, 3)));
}

Test(pass_transpose, a_network_stays_in_its_layout)
{
    static const char *const labels[] = {"Conv",
                                         "LayerNorm",
                                         "Conv",
                                         "LayerNorm",
                                         "MatMul+Gelu",
                                         "MatMul+Add",
                                         "LayerNorm",
                                         "Conv",
                                         "Conv",
                                         "LayerNorm",
                                         "MatMul+Gelu",
                                         "MatMul+Add",
                                         "GlobalAveragePool",
                                         "LayerNorm",
                                         "Gemm"};
    struct graph g;
    struct plan *plan = NULL;
    struct cvd_error err = {.message = ""};
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    network(&g);
    cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OK);
    cr_assert_eq(plan_build(&g, &kernels, NULL, NULL, &plan, &err), CVD_STATUS_OK, "%s",
                 err.message);
    graph_release(&g);
    cr_assert_eq(plan->step_count, sizeof(labels) / sizeof(*labels));
    for (uint32_t i = 0; i < plan->step_count; i++)
        cr_expect_str_eq(plan->steps[i].label, labels[i]);
    cr_assert_eq(plan->fixed_batch, 0);
    cr_assert(plan->batchwise);
    plan_destroy(plan);
}

Test(pass_transpose, the_answer_stays)
{
    static const enum cvd_cpu levels[] = {CVD_CPU_C, CVD_CPU_AUTO};
    float x[3 * 3 * 16 * 20], y[2][3 * 10];
    struct cvd_error err = {.message = ""};
    net_fill(x, sizeof(x) / sizeof(*x), 5);
    for (size_t level = 0; level < 2; level++) {
        const struct cvd_settings how = {.threads = 2, .cpu = levels[level]};
        struct cvd_engine *engine = NULL;
        cr_assert_eq(cvd_engine_create(&how, &engine, &err), CVD_STATUS_OK, "%s", err.message);
        for (int rewritten = 0; rewritten < 2; rewritten++) {
            const struct cvd_load_options options = {.as_written = !rewritten};
            struct cvd_model *model = NULL;
            struct cvd_session *session = NULL;
            struct graph g;
            network(&g);
            cr_assert_eq(net_try(engine, &g, &options, &model, &err), CVD_STATUS_OK, "%s",
                         err.message);
            cr_assert_eq(cvd_session_create(model, 3, &session, &err), CVD_STATUS_OK);
            cr_assert_eq(
                cvd_session_run(session, 3, (const void *[]){x}, (void *[]){y[rewritten]}, &err),
                CVD_STATUS_OK);
            cvd_session_destroy(session);
            cvd_model_destroy(model);
        }
        for (size_t i = 0; i < 3 * 10; i++)
            cr_assert_float_eq(y[0][i], y[1][i], 2e-5, "%zu: %g %g", i, (double)y[0][i],
                               (double)y[1][i]);
        cvd_engine_destroy(engine);
    }
}

Test(pass_transpose, every_failing_allocation_is_survived, .timeout = 600)
{
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    size_t failures = 0;
    for (size_t n = 1;; n++) {
        struct graph g;
        struct plan *plan = NULL;
        struct cvd_error err = {.message = ""};
        network(&g);
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
    cr_assert_gt(failures, 100);
}
