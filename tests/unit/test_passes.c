/* All passes together, on a network that has work for each of them. */
#include "tests/unit/pass_fixture.h"

/* A fixed batch, a Pad, batch norm, activations in one node and in several, a residual, a mean, a
 * linear layer in two nodes, Identity, and shape arithmetic. */
static void everything(struct graph *g)
{
    static const int64_t pads[] = {0, 0, 1, 1, 0, 0, 1, 1}, flat[] = {1, -1};
    const struct op_attr axes[] = {PASS_INTS("axes", 2, 3)};
    net_init(g);
    uint32_t x = net_input(g, "x", NET_SHAPE(1, 4, 6, 6));
    uint32_t y = NET_OP(g, "Pad", "pad", x, net_ints(g, "pads", 8, pads));
    y = NET_OP(g, "Conv", "stem", y, net_weights(g, "w", NET_SHAPE(4, 4, 3, 3), 0.5f, 1));
    uint32_t n[4];
    for (uint32_t i = 0; i < 4; i++)
        n[i] = net_weights(g, NULL, NET_SHAPE(4), 0.5f, 2 + i);
    for (size_t i = 0; i < 4; i++)
        ((float *)g->values[n[3]].data)[i] += 1;
    y = NET_OP(g, "BatchNormalization", "bn", y, n[0], n[1], n[2], n[3]);
    uint32_t skip = NET_OP(g, "Mul", "swish", y, NET_OP(g, "Sigmoid", "gate", y));
    y = NET_OP(g, "Identity", "same", pass_conv(g, "branch", skip, 4, true));
    y = NET_OP(g, "Relu", "relu", NET_OP(g, "Add", "sum", y, skip));
    y = NET_OP_ATTRS(g, "ReduceMean", "mean", axes, y);
    y = NET_OP(g, "Reshape", "flat", y, net_ints(g, "s", 2, flat));
    y = NET_OP(g, "MatMul", "fc", y, net_weights(g, "m", NET_SHAPE(4, 5), 1, 9));
    y = NET_OP(g, "Add", "bias", y, net_weights(g, "b", NET_SHAPE(5), 1, 10));
    uint32_t t = NET_OP(g, "Div", "t", y, pass_scalar(g, 1.41421354f));
    t = NET_OP(g, "Add", "one more", NET_OP(g, "Erf", "erf", t), pass_scalar(g, 1));
    t = NET_OP(g, "Mul", "half", NET_OP(g, "Mul", "gated", y, t), pass_scalar(g, 0.5f));
    net_output(g, NET_OP(g, "Softmax", "y", t));
}

/* Attributes that mean something to convd's own operators mean nothing in a file. */
Test(passes, a_file_cannot_speak_to_our_operators)
{
    static const struct op_attr relu = {.name = "activation", .type = OP_ATTR_STRING, .s = "Relu"};
    static const char *const ops[] = {"Conv", "MaxPool", "Add", "Mul"};
    struct cvd_engine *engine = net_engine(1);
    float x[4 * 36], y[2][4 * 36];
    net_fill(x, 4 * 36, 7);
    for (size_t i = 0; i < 4 * 2; i++) {
        struct graph g;
        struct cvd_error err = {.message = ""};
        struct cvd_model *model = NULL;
        struct cvd_session *session = NULL;
        const struct cvd_load_options options = {.as_written = i % 2};
        net_init(&g);
        uint32_t in = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4, 6, 6));
        uint32_t map =
            NET_OP(&g, "Conv", "c", in, net_weights(&g, "w", NET_SHAPE(16, 4, 1, 1), 1, 1));
        const char *op = ops[i / 2];
        if (strcmp(op, "Conv") == 0) {
            const struct op_attr attrs[] = {relu};
            map = NET_OP_ATTRS(&g, op, "n", attrs, map,
                               net_weights(&g, "v", NET_SHAPE(4, 16, 1, 1), 1, 2));
        } else if (strcmp(op, "MaxPool") == 0) {
            const struct op_attr attrs[] = {relu, PASS_INTS("kernel_shape", 1, 1)};
            map = NET_OP_ATTRS(&g, op, "n", attrs, map);
        } else {
            const struct op_attr attrs[] = {relu};
            map = NET_OP_ATTRS(&g, op, "n", attrs, map, map);
        }
        if (strcmp(op, "Conv") != 0)
            map = NET_OP(&g, "Conv", "d", map, net_weights(&g, "u", NET_SHAPE(4, 16, 1, 1), 1, 3));
        net_output(&g, map);
        cr_assert_eq(net_try(engine, &g, &options, &model, &err), CVD_STATUS_OK, "%s", err.message);
        cr_assert_eq(cvd_session_create(model, 1, &session, &err), CVD_STATUS_OK);
        cr_assert_eq(cvd_session_run(session, 1, (const void *[]){x}, (void *[]){y[i % 2]}, &err),
                     CVD_STATUS_OK);
        cvd_session_destroy(session);
        cvd_model_destroy(model);
        for (size_t j = 0; i % 2 && j < 4 * 36; j++)
            cr_assert_float_eq(y[0][j], y[1][j], 1e-4, "%s", op);
    }
    cvd_engine_destroy(engine);
}

Test(passes, everything_is_rewritten)
{
    struct graph g;
    struct plan *plan = NULL;
    struct cvd_error err = {.message = ""};
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    everything(&g);
    cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OK);
    cr_assert_eq(plan_build(&g, &kernels, NULL, NULL, &plan, &err), CVD_STATUS_OK, "%s",
                 err.message);
    graph_release(&g);
    static const char *const labels[] = {"Conv+Swish",        "Reorder",         "Conv+Add+Relu",
                                         "GlobalAveragePool", "MatMul+Add+Gelu", "Softmax"};
    static const char *const names[] = {"stem", "swish", "branch", "mean", "fc", "y"};
    static const uint64_t parameters[] = {148, 0, 148, 0, 25, 0}; /* weights and folded biases */
    static const uint64_t macs[] = {36 * 144, 0, 36 * 144, 0, 20, 0};
    cr_assert_eq(plan->step_count, 6);
    for (uint32_t i = 0; i < 6; i++) {
        cr_expect_str_eq(plan->steps[i].label, labels[i]);
        cr_expect_str_eq(plan->steps[i].name, names[i]);
        cr_expect_eq(plan->steps[i].prepared.parameters, parameters[i]);
        cr_expect_eq(plan->steps[i].prepared.macs, macs[i]);
    }
    cr_assert_eq(plan->fixed_batch, 0);
    cr_assert(plan->batchwise);
    cr_assert(plan->ends_in_softmax);
    plan_destroy(plan);
}

/* The input of that many images through the graph as it is written and rewritten. */
Test(passes, the_answer_stays)
{
    struct cvd_engine *engine = net_engine(2);
    struct cvd_error err = {.message = ""};
    float x[3 * 144], y[2][3 * 5];
    net_fill(x, 3 * 144, 5);
    for (int rewritten = 0; rewritten < 2; rewritten++) {
        const struct cvd_load_options options = {.as_written = !rewritten};
        struct cvd_model *model = NULL;
        struct cvd_session *session = NULL;
        struct graph g;
        everything(&g);
        cr_assert_eq(net_try(engine, &g, &options, &model, &err), CVD_STATUS_OK, "%s", err.message);
        cr_assert_eq(cvd_model_fixed_batch(model), rewritten ? 0 : 1);
        int64_t batch = rewritten ? 3 : 1;
        cr_assert_eq(cvd_session_create(model, batch, &session, &err), CVD_STATUS_OK);
        for (int64_t i = 0; i < 3; i += batch)
            cr_assert_eq(cvd_session_run(session, batch, (const void *[]){x + i * 144},
                                         (void *[]){y[rewritten] + i * 5}, &err),
                         CVD_STATUS_OK);
        cvd_session_destroy(session);
        cvd_model_destroy(model);
    }
    for (size_t i = 0; i < 15; i++)
        cr_assert_float_eq(y[0][i], y[1][i], 1e-6);
    cvd_engine_destroy(engine);
}

/* Rewriting what has been rewritten changes nothing. */
Test(passes, twice_is_as_good_as_once)
{
    struct graph g;
    char once[1000];
    everything(&g);
    pass_apply_list(&g, passes_rewrite);
    snprintf(once, sizeof(once), "%s", pass_ops(&g));
    cr_assert_str_eq(once, "convd.Conv convd.Conv GlobalAveragePool Reshape convd.MatMul Softmax");
    pass_apply_list(&g, passes_rewrite);
    cr_assert_str_eq(pass_ops(&g), once);
    graph_release(&g);
}

/* What a pass adds the passes after it know as well as what was there: the mean's Flatten is the
 * product's own. */
Test(passes, a_product_reads_the_means_of_a_map)
{
    static const char *const labels[] = {"Conv", "GlobalAveragePool", "Gemm"};
    const struct op_attr axes[] = {PASS_INTS("axes", 2, 3), PASS_INT("keepdims", 0)};
    struct graph g;
    struct plan *plan = NULL;
    struct cvd_error err = {.message = ""};
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    uint32_t x = pass_image(&g);
    x = NET_OP_ATTRS(&g, "ReduceMean", "mean", axes, pass_conv(&g, "conv", x, 20, true));
    net_output(&g, NET_OP(&g, "Gemm", "fc", x, net_weights(&g, "w", NET_SHAPE(20, 5), 1, 1)));
    cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OK);
    cr_assert_eq(plan_build(&g, &kernels, NULL, NULL, &plan, &err), CVD_STATUS_OK, "%s",
                 err.message);
    graph_release(&g);
    cr_assert_eq(plan->step_count, 3);
    for (uint32_t i = 0; i < 3; i++)
        cr_expect_str_eq(plan->steps[i].label, labels[i]);
    plan_destroy(plan);
}

Test(passes, every_failing_allocation_is_survived, .timeout = 600)
{
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    size_t failures = 0;
    for (size_t n = 1;; n++) {
        struct graph g;
        struct plan *plan = NULL;
        struct cvd_error err = {.message = ""};
        everything(&g);
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
    cr_assert_gt(failures, 60);
}
