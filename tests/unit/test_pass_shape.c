/* Passes that drop or replace nodes around the computation: identity, padding, means, the batch. */
#include "tests/unit/pass_fixture.h"

/* ---- identity ---- */

static void nothing_changes(struct graph *g)
{
    static const int64_t shape[] = {0, 4, -1, 6};
    const struct op_attr to_float[] = {PASS_INT("to", CVD_DTYPE_FLOAT32)};
    uint32_t x = pass_image(g);
    uint32_t y = NET_OP(g, "Dropout", "dropout", NET_OP(g, "Identity", "same", x));
    y = NET_OP_ATTRS(g, "Cast", "cast", to_float, NET_OP(g, "Relu", "relu", y));
    y = NET_OP(g, "Reshape", "reshape", y, net_ints(g, "shape", 4, shape));
    uint32_t w = net_weights(g, "w", NET_SHAPE(4, 1, 1), 1, 1);
    net_output(g, NET_OP(g, "Mul", "mul", y, NET_OP(g, "Identity", "w again", w)));
}

static void something_changes(struct graph *g)
{
    static const int64_t shape[] = {0, 2, 2, 36};
    uint32_t x = pass_image(g);
    uint32_t y = NET_OP(g, "Reshape", "reshape", x, net_ints(g, "shape", 4, shape));
    net_output(g, NET_OP(g, "Identity", "output", NET_OP(g, "Relu", "relu", y)));
}

Test(pass_identity, nodes_that_change_nothing_are_passed_by)
{
    pass_check(nothing_changes, pass_identity, "Relu Mul", 0);
    pass_check(something_changes, pass_identity, "Reshape Relu Identity", 0);
}

Test(pass_identity, a_mask_that_is_read_keeps_its_dropout)
{
    struct graph g;
    uint32_t x = pass_image(&g);
    uint32_t out[2] = {net_value(&g, "y"), net_value(&g, "mask")};
    struct graph_node node = {.op = "Dropout",
                              .domain = "",
                              .name = "drop",
                              .in = &x,
                              .in_count = 1,
                              .out = out,
                              .out_count = 2};
    cr_assert_eq(graph_add_node(&g, &node, NULL), CVD_STATUS_OK);
    net_output(&g, NET_OP(&g, "Relu", "z", out[0]));
    net_output(&g, out[1]);
    pass_apply(&g, pass_identity);
    cr_assert_str_eq(pass_ops(&g), "Dropout Relu");
    graph_release(&g);
}

/* x * y.expand_as(x) of PyTorch; a shape that depends on the batch is not implemented. */
static bool expand_as;

static void squeeze(struct graph *g)
{
    static const int64_t shape[] = {1, 4, 6, 6};
    uint32_t x = pass_image(g), y = NET_OP(g, "GlobalAveragePool", "pool", x);
    uint32_t as = expand_as ? NET_OP(g, "Shape", "s", x) : net_ints(g, "s", 4, shape);
    y = NET_OP(g, "Expand", "expand", NET_OP(g, "Identity", "same", y), as);
    net_output(g, NET_OP(g, "Mul", "y", y, x));
}

/* Both are expanded, to a shape that neither has. */
static void two_expanded(struct graph *g)
{
    static const int64_t row[] = {1, 4, 1, 6}, column[] = {1, 4, 6, 6};
    uint32_t x = pass_image(g), y = NET_OP(g, "GlobalAveragePool", "pool", x);
    y = NET_OP(g, "Expand", "row", y, net_ints(g, "r", 4, row));
    uint32_t z = NET_OP(g, "Expand", "again", y, net_ints(g, "c", 4, column));
    uint32_t all = NET_OP(g, "Expand", "all", y, net_ints(g, "c", 4, column));
    net_output(g, NET_OP(g, "Sub", "y", z, all));
}

/* The product is larger than the other factor. */
static void larger(struct graph *g)
{
    static const int64_t six[] = {1, 1, 6, 6};
    uint32_t x = pass_image(g), y = NET_OP(g, "GlobalAveragePool", "pool", x);
    net_output(
        g, NET_OP(g, "Mul", "y", y, NET_OP(g, "Expand", "expand", y, net_ints(g, "s", 4, six))));
}

Test(pass_identity, arithmetic_expands_by_itself)
{
    struct graph g;
    expand_as = true;
    squeeze(&g);
    pass_apply(&g, pass_identity);
    cr_assert_str_eq(pass_ops(&g), "GlobalAveragePool Mul");
    graph_release(&g);
    expand_as = false;
    pass_check(squeeze, pass_identity, "GlobalAveragePool Mul", 0);
    pass_check(two_expanded, pass_identity, "GlobalAveragePool Expand Expand Sub", 0);
    pass_check(larger, pass_identity, "GlobalAveragePool Expand Mul", 0);
}

/* ---- folding ---- */

/* x.view(x.size(0), -1) of PyTorch, and constants with arithmetic of their own. */
static void chains(struct graph *g)
{
    static const int64_t zero[] = {0}, minus_one[] = {-1};
    const struct op_attr axis[] = {PASS_INT("axis", 0)};
    uint32_t x = pass_image(g);
    g->opsets[0].version = 11;
    uint32_t n =
        NET_OP(g, "Gather", "n", NET_OP(g, "Shape", "shape", x), net_ints(g, "0", 1, zero));
    uint32_t to = NET_OP_ATTRS(g, "Concat", "to", axis, n, net_ints(g, "rest", 1, minus_one));
    uint32_t flat = NET_OP(g, "Reshape", "flat", x, to);
    uint32_t w = net_weights(g, "w", NET_SHAPE(144), 1, 1);
    net_output(g, NET_OP(g, "Mul", "y", flat, NET_OP(g, "Exp", "e", NET_OP(g, "Abs", "a", w))));
}

Test(pass_fold, constants_become_initializers)
{
    pass_check_list(chains, (const pass_fn[]){NULL}, "Shape Gather Concat Reshape Mul", 0);
    struct graph g;
    chains(&g);
    pass_apply_list(&g, (const pass_fn[]){NULL});
    const struct graph_node *mul = &g.nodes[4];
    cr_assert_not_null(g.values[mul->in[1]].data);
    cr_assert(cvd_shape_equal(&g.values[mul->in[1]].shape, &NET_SHAPE(144)));
    graph_release(&g);
}

/* Views of one constant, all of which are needed, get memory of their own. */
Test(pass_fold, views_of_one_constant)
{
    static const int64_t row[] = {1, 4, 1, 1}, column[] = {4, 1, 1};
    struct graph g;
    uint32_t x = pass_image(&g);
    uint32_t w = net_weights(&g, "w", NET_SHAPE(4), 1, 1);
    uint32_t a = NET_OP(&g, "Reshape", "a", w, net_ints(&g, "row", 4, row));
    uint32_t b = NET_OP(&g, "Reshape", "b", w, net_ints(&g, "column", 3, column));
    net_output(&g, NET_OP(&g, "Mul", "y", NET_OP(&g, "Add", "sum", x, a), b));
    net_output(&g, w);
    pass_apply_list(&g, (const pass_fn[]){NULL});
    cr_assert_str_eq(pass_ops(&g), "Add Mul");
    const float *data = g.values[w].data;
    cr_assert_not_null(data);
    cr_assert_arr_eq(g.values[a].data, data, 4 * sizeof(float));
    cr_assert_arr_eq(g.values[b].data, data, 4 * sizeof(float));
    cr_assert(cvd_shape_equal(&g.values[b].shape, &NET_SHAPE(4, 1, 1)));
    graph_release(&g);
}

/* ---- means ---- */

static int mean_variant;

static void mean(struct graph *g)
{
    static const int64_t planes[] = {2, -1};
    const struct op_attr attrs[] = {PASS_INTS("axes", -1, 2),
                                    PASS_INT("keepdims", mean_variant % 2)};
    const struct op_attr keep[] = {PASS_INT("keepdims", mean_variant % 2)};
    uint32_t x = NET_OP(g, "Relu", "relu", pass_image(g)), y;
    if (mean_variant < 2) {
        y = NET_OP_ATTRS(g, "ReduceMean", "mean", attrs, x);
    } else {
        g->opsets[0].version = 18;
        y = NET_OP_ATTRS(g, "ReduceMean", "mean", keep, x, net_ints(g, "axes", 2, planes));
    }
    net_output(g, NET_OP(g, "Abs", "abs", y));
}

static void mean_of_channels(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_INTS("axes", 1, 2)};
    uint32_t x = pass_image(g);
    net_output(g, NET_OP_ATTRS(g, "ReduceMean", "mean", attrs, x));
}

Test(pass_mean, means_over_planes_are_pooling)
{
    for (mean_variant = 0; mean_variant < 4; mean_variant++)
        pass_check(mean, pass_mean,
                   mean_variant % 2 ? "Relu GlobalAveragePool Abs"
                                    : "Relu GlobalAveragePool Flatten Abs",
                   1e-6);
    pass_check(mean_of_channels, pass_mean, "ReduceMean", 0);
}

/* ---- padding ---- */

static int64_t pad_pads[8];
static float pad_value;
static struct op_attr pool_attrs[4];
static size_t pool_attr_count;
static const char *pool;

static uint32_t pad(struct graph *g, uint32_t x)
{
    return NET_OP(g, "Pad", "pad", x, net_ints(g, "pads", 8, pad_pads), pass_scalar(g, pad_value));
}

static void pad_pool(struct graph *g)
{
    uint32_t in[] = {pad(g, pass_image(g)), NET_END};
    net_output(g, net_node(g, pool, "pool", pool_attrs, pool_attr_count, in));
}

static void pad_conv(struct graph *g)
{
    net_output(g, pass_conv(g, "conv", pad(g, pass_image(g)), 5, true));
}

static void pad_by_attributes(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_INTS("pads", 0, 0, 0, 1, 0, 0, 2, 3),
                                    PASS_FLOAT("value", 0)};
    uint32_t x = pass_image(g);
    g->opsets[0].version = 10;
    net_output(g, pass_conv(g, "conv", NET_OP_ATTRS(g, "Pad", "pad", attrs, x), 5, true));
}

static void pad_with_axes(struct graph *g)
{
    static const int64_t pads[] = {1, 2, 3, 0}, axes[] = {-1, 2};
    uint32_t x = pass_image(g);
    g->opsets[0].version = 18;
    uint32_t y = NET_OP(g, "Pad", "pad", x, net_ints(g, "pads", 4, pads), GRAPH_NONE,
                        net_ints(g, "axes", 2, axes));
    net_output(g, pass_conv(g, "conv", y, 5, true));
}

static void set_pads(int64_t channels, int64_t top, int64_t left, int64_t bottom, int64_t right)
{
    const int64_t pads[] = {0, channels, top, left, 0, 0, bottom, right};
    memcpy(pad_pads, pads, sizeof(pads));
}

Test(pass_pad, zeros_go_into_the_convolution)
{
    pad_value = 0;
    set_pads(0, 0, 1, 2, 3);
    pass_check(pad_conv, pass_pad, "Conv", 0);
    struct graph g;
    pad_conv(&g);
    pass_apply(&g, pass_pad);
    const struct op_attr *pads = pass_attr(&g.nodes[0], "pads");
    static const int64_t want[] = {1, 2, 3, 4}; /* with the convolution's own */
    cr_assert_eq(pads->count, 4);
    cr_assert_arr_eq(pads->ints, want, sizeof(want));
    graph_release(&g);
    pass_check(pad_by_attributes, pass_pad, "Conv", 0);
    pass_check(pad_with_axes, pass_pad, "Conv", 0);
}

Test(pass_pad, what_is_no_padding_of_a_convolution)
{
    pad_value = 1;
    set_pads(0, 0, 1, 2, 3);
    pass_check(pad_conv, pass_pad, "Pad Conv", 0);
    pad_value = 0;
    set_pads(0, -1, 1, 2, 3);
    pass_check(pad_conv, pass_pad, "Pad Conv", 0);
}

Test(pass_pad, pooling)
{
    const struct op_attr kernel = PASS_INTS("kernel_shape", 3, 3),
                         strides = PASS_INTS("strides", 2, 2),
                         counts = PASS_INT("count_include_pad", 1), ceil = PASS_INT("ceil_mode", 1),
                         own = PASS_INTS("pads", 1, 0, 0, 1);
    set_pads(0, 1, 0, 1, 2);
    pool = "AveragePool";
    pad_value = 0;
    pool_attrs[0] = kernel;
    pool_attrs[1] = strides;
    pool_attr_count = 2; /* no pads of its own: the cells of Pad count in any case */
    pass_check(pad_pool, pass_pad, "AveragePool", 1e-6);
    pool_attrs[2] = counts;
    pool_attrs[3] = own;
    pool_attr_count = 4;
    pass_check(pad_pool, pass_pad, "AveragePool", 1e-6);
    pool_attrs[2] = own; /* which do not count, while those of Pad do */
    pool_attr_count = 3;
    pass_check(pad_pool, pass_pad, "Pad AveragePool", 0);
    pool_attrs[2] = ceil;
    pass_check(pad_pool, pass_pad, "Pad AveragePool", 0);

    pool = "MaxPool";
    pool_attr_count = 2;
    pass_check(pad_pool, pass_pad, "Pad MaxPool", 0); /* a zero may win */
    pad_value = -INFINITY;
    pass_check(pad_pool, pass_pad, "MaxPool", 0);
    set_pads(0, 3, 0, 1, 2); /* a window of nothing but padding */
    pass_check(pad_pool, pass_pad, "Pad MaxPool", 0);
}

/* ---- the batch ---- */

static void fixed_to_one(struct graph *g)
{
    static const int64_t flat[] = {1, 144}, weights[] = {144, 5};
    net_init(g);
    uint32_t x = net_input(g, "x", NET_SHAPE(1, 4, 6, 6));
    uint32_t y = NET_OP(g, "Reshape", "flat", NET_OP(g, "Relu", "r", x), net_ints(g, "s", 2, flat));
    uint32_t w = net_weights(g, "w", NET_SHAPE(4, 36, 5), 1, 1);
    w = NET_OP(g, "Reshape", "w2", w, net_ints(g, "s2", 2, weights));
    y = NET_OP(g, "MatMul", "product", y, w);
    net_output(g, NET_OP(g, "Add", "sum", y, net_weights(g, "b", NET_SHAPE(1, 5), 1, 2)));
}

Test(pass_batch, a_batch_that_is_only_written_down_is_freed)
{
    pass_check(fixed_to_one, pass_batch, "Relu Reshape MatMul Add", 0);
    struct graph g;
    fixed_to_one(&g);
    pass_apply(&g, pass_batch);
    cr_assert_eq(g.values[g.inputs[0]].shape.dims[0], CVD_DIM_BATCH);
    const int64_t *target = g.values[g.nodes[1].in[1]].data;
    cr_assert_eq(target[0], 0);
    cr_assert_eq(target[1], 144);
    graph_release(&g);
}

/* The whole way: a model of this graph runs any batch, image by image as before. */
Test(pass_batch, a_freed_model_computes_the_same_for_each_image)
{
    struct graph g;
    struct cvd_error err = {.message = ""};
    struct cvd_engine *engine = net_engine(2);
    float x[5 * 144], y[5 * 5], one[5];
    fixed_to_one(&g);
    struct cvd_model *model = net_model(engine, &g);
    cr_assert_eq(cvd_model_fixed_batch(model), 0);
    struct cvd_session *session = NULL;
    cr_assert_eq(cvd_session_create(model, 5, &session, &err), CVD_STATUS_OK);
    net_fill(x, 5 * 144, 9);
    cr_assert_eq(cvd_session_run(session, 5, (const void *[]){x}, (void *[]){y}, &err),
                 CVD_STATUS_OK);
    for (size_t i = 0; i < 5; i++) {
        cr_assert_eq(
            cvd_session_run(session, 1, (const void *[]){x + i * 144}, (void *[]){one}, &err),
            CVD_STATUS_OK);
        cr_assert_arr_eq(one, y + i * 5, sizeof(one));
    }
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

/* ---- where the batch has to stay fixed ---- */

static int64_t fixed_batch_of(struct graph *g)
{
    struct cvd_engine *engine = net_engine(1);
    struct cvd_model *model = net_model(engine, g);
    struct cvd_value_info out;
    int64_t batch = cvd_model_fixed_batch(model);
    cvd_model_output(model, 0, &out);
    cr_assert_eq(out.shape.dims[0], batch ? 1 : CVD_DIM_BATCH);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
    return batch;
}

Test(pass_batch, what_depends_on_it_keeps_it_fixed)
{
    struct graph g;
    static const int64_t first[] = {0}, all[] = {1, 2, 2}, axes[] = {0};
    const struct op_attr over_images[] = {PASS_INT("axis", 0)};

    net_init(&g); /* a sum over the images; keeping the dimension it is still [1,4] for two */
    uint32_t x = net_input(&g, "x", NET_SHAPE(1, 4));
    net_output(&g, NET_OP(&g, "ReduceSum", "sum", x, net_ints(&g, "axes", 1, axes)));
    cr_expect_eq(fixed_batch_of(&g), 1);

    net_init(&g); /* images mixed, in the right shape */
    x = net_input(&g, "x", NET_SHAPE(1, 4));
    net_output(&g, NET_OP_ATTRS(&g, "Softmax", "softmax", over_images, x));
    cr_expect_eq(fixed_batch_of(&g), 1);

    net_init(&g); /* an operator that fails for two images */
    x = net_input(&g, "x", NET_SHAPE(1, 4));
    uint32_t y = NET_OP(&g, "Squeeze", "squeeze", x, net_ints(&g, "axes", 1, axes));
    net_output(&g, NET_OP(&g, "Unsqueeze", "y", y, net_ints(&g, "axes", 1, axes)));
    cr_expect_eq(fixed_batch_of(&g), 1);

    net_init(&g); /* a Reshape that is not led by the batch */
    x = net_input(&g, "x", NET_SHAPE(1, 4));
    y = NET_OP(&g, "Unsqueeze", "lead", x, net_ints(&g, "axes", 1, axes));
    net_output(&g,
               NET_OP(&g, "Relu", "y", NET_OP(&g, "Reshape", "r", y, net_ints(&g, "s", 3, all))));
    cr_expect_eq(fixed_batch_of(&g), 1);

    net_init(&g); /* one image picked */
    x = net_input(&g, "x", NET_SHAPE(1, 4));
    net_output(&g, NET_OP_ATTRS(&g, "Gather", "pick", over_images, x, net_ints(&g, "i", 1, first)));
    cr_expect_eq(fixed_batch_of(&g), 1);

    net_init(&g); /* a value that is the batch size */
    const struct op_attr to_float[] = {PASS_INT("to", CVD_DTYPE_FLOAT32)};
    x = net_input(&g, "x", NET_SHAPE(1, 2));
    y = NET_OP_ATTRS(&g, "Cast", "extents", to_float, NET_OP(&g, "Shape", "shape", x));
    net_output(&g, NET_OP(&g, "Mul", "y", x, y));
    cr_expect_eq(fixed_batch_of(&g), 0); /* was folded while the batch was one: [1,2], as then */

    net_init(&g);
    x = net_input(&g, "x", NET_SHAPE(2, 4));
    net_output(&g, NET_OP(&g, "Relu", "y", x));
    struct cvd_engine *engine = net_engine(1);
    struct cvd_model *model = net_model(engine, &g);
    cr_expect_eq(cvd_model_fixed_batch(model), 2);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}
