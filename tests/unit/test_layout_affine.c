/* Maps that are scaled and shifted by constants stay maps. */
#include "tests/unit/pass_fixture.h"

static const char *op;
static bool swapped;
static struct cvd_shape shape;
static float middle; /* a number of the constant, unless it is negative */

/* The gate reads the convolution's output as well, so that its weights cannot be scaled. */
static void scaled(struct graph *g)
{
    uint32_t x = pass_image(g), c = pass_conv(g, "conv", x, 20, true);
    uint32_t k = net_weights(g, "k", shape, 1, 5);
    float *data = g->values[k].data;
    size_t count = g->values[k].bytes / sizeof(*data);
    for (size_t i = 0; i < count; i++)
        data[i] += data[i] < 0 ? -0.5f : 0.5f;
    if (middle >= 0)
        data[count / 2] = middle;
    uint32_t y = swapped ? NET_OP(g, op, "affine", k, c) : NET_OP(g, op, "affine", c, k);
    y = NET_OP(g, "Relu", "relu", y);
    net_output(g, NET_OP(g, "Mul", "y", y, NET_OP(g, "Sigmoid", "gate", c)));
}

/* The labels of a plan's steps: "Conv Add+Relu". */
static const char *labels(void (*make)(struct graph *g))
{
    static char text[1000];
    struct graph g;
    struct plan *plan = NULL;
    struct cvd_error err = {.message = ""};
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    make(&g);
    cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OK);
    cr_assert_eq(plan_build(&g, &kernels, NULL, NULL, &plan, &err), CVD_STATUS_OK, "%s",
                 err.message);
    graph_release(&g);
    size_t len = 0;
    for (uint32_t i = 0; i < plan->step_count; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", i > 0 ? " " : "",
                                plan->steps[i].label);
    plan_destroy(plan);
    return text;
}

/* The same input through the graph as it is written and on maps. */
static void compare(void (*make)(struct graph *g), double tolerance)
{
    enum { IN = 4 * 36, OUT = 20 * 36 };
    static float x[PASS_BATCH * IN], y[2][PASS_BATCH * OUT];
    struct cvd_engine *engine = net_engine(2);
    struct cvd_error err = {.message = ""};
    net_fill(x, PASS_BATCH * IN, 5);
    for (int rewritten = 0; rewritten < 2; rewritten++) {
        const struct cvd_load_options options = {.as_written = !rewritten};
        struct cvd_model *model = NULL;
        struct cvd_session *session = NULL;
        struct graph g;
        make(&g);
        cr_assert_eq(net_try(engine, &g, &options, &model, &err), CVD_STATUS_OK, "%s", err.message);
        cr_assert_eq(cvd_session_create(model, PASS_BATCH, &session, &err), CVD_STATUS_OK);
        cr_assert_eq(cvd_session_run(session, PASS_BATCH, (const void *[]){x},
                                     (void *[]){y[rewritten]}, &err),
                     CVD_STATUS_OK);
        cvd_session_destroy(session);
        cvd_model_destroy(model);
    }
    for (size_t i = 0; i < PASS_BATCH * OUT; i++)
        cr_assert_float_eq(y[0][i], y[1][i], tolerance, "%s %zu: %g, was %g", op, i,
                           (double)y[1][i], (double)y[0][i]);
    cvd_engine_destroy(engine);
}

Test(layout_affine, every_operator_and_shape)
{
    const struct cvd_shape shapes[] = {NET_SHAPE(20, 1, 1), NET_SHAPE(1, 20, 1, 1), NET_SHAPE(1),
                                       NET_SHAPE(1, 1, 1, 1), (struct cvd_shape){0}};
    static const char *const names[] = {"Add", "Sub", "Mul", "Div"};
    middle = -1;
    for (size_t i = 0; i < 4; i++) {
        for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
            op = names[i];
            shape = shapes[s];
            for (int swap = 0; swap < 2; swap++) {
                swapped = swap == 1;
                if (swapped && i == 3) { /* constant / map */
                    cr_assert_str_eq(labels(scaled),
                                     "Conv Reorder Div Relu Sigmoid Reorder Mul Reorder");
                    continue;
                }
                char want[100];
                snprintf(want, sizeof(want), "Conv %s+Relu Sigmoid Mul Reorder", op);
                cr_assert_str_eq(labels(scaled), want);
                compare(scaled, 2e-5);
            }
        }
    }
}

Test(layout_affine, what_must_stay)
{
    op = "Mul";
    swapped = false;
    middle = -1;
    shape = NET_SHAPE(6); /* along a row */
    cr_assert_str_eq(labels(scaled), "Conv Reorder Mul Relu Sigmoid Reorder Mul Reorder");
    compare(scaled, 2e-5);
    shape = NET_SHAPE(20, 6, 6);
    cr_assert_str_eq(labels(scaled), "Conv Reorder Mul Relu Sigmoid Reorder Mul Reorder");
    compare(scaled, 2e-5);
    op = "Div";
    middle = 0; /* division by which is not multiplication by anything */
    shape = NET_SHAPE(20, 1, 1);
    cr_assert_str_eq(labels(scaled), "Conv Reorder Div Relu Sigmoid Reorder Mul Reorder");
}

Test(layout_affine, every_failing_allocation_is_survived, .timeout = 600)
{
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    op = "Sub";
    shape = NET_SHAPE(20, 1, 1);
    middle = -1;
    for (size_t n = 1;; n++) {
        struct graph g;
        struct plan *plan = NULL;
        struct cvd_error err = {.message = ""};
        scaled(&g);
        cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OK);
        mem_fail_after(n, n % 2 == 0);
        enum cvd_status status = plan_build(&g, &kernels, NULL, NULL, &plan, &err);
        mem_fail_after(0, false);
        graph_release(&g);
        plan_destroy(plan);
        if (status == CVD_STATUS_OK)
            break;
        cr_assert_eq(status, CVD_STATUS_OUT_OF_MEMORY, "allocation %zu: %s", n, err.message);
    }
}
