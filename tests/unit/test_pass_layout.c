/* Layout assignment: which nodes become what, where values are reordered, and the gaps of maps. */
#include "tests/unit/layout_fixture.h"

/* ---- convolutions ---- */

static void stem(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 9);
    net_output(g, layout_conv(g, "conv", x, 3, 10, 3));
}

static void planes(struct graph *g)
{
    const uint32_t x = layout_input(g, 1, 9);
    net_output(g, layout_half(g, "MaxPool", "pool", layout_conv(g, "conv", x, 1, 6, 5)));
}

/* With more channels out than rows are worth, or a residual, a plain input makes a map. */
static void planes_with_residual(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 6);
    net_output(g, NET_OP(g, "Add", "sum", layout_conv(g, "conv", x, 3, 3, 3), x));
}

static void blocked(struct graph *g)
{
    const uint32_t x = layout_input(g, 12, 7);
    net_output(g, layout_conv(g, "conv", x, 12, 5, 3));
}

static void depthwise(struct graph *g)
{
    const uint32_t x = layout_input(g, 6, 7);
    net_output(g, layout_conv_groups(g, "conv", x, 6, 6, 6));
}

static void grouped(struct graph *g)
{
    const uint32_t x = layout_input(g, 12, 7);
    const uint32_t y = layout_conv_groups(g, "narrow", x, 12, 12, 6);
    net_output(g, layout_conv_groups(g, "wide", y, 12, 24, 3));
}

static int64_t side, depth;

static void large(struct graph *g)
{
    const uint32_t x = layout_input(g, depth, side);
    net_output(g, layout_conv(g, "conv", x, depth, depth, 3));
}

Test(pass_layout, convolutions)
{
    CHECK(stem, B "Conv " B "Reorder");
    CHECK(planes, B "Conv " B "PlanesMaxPool");
    CHECK(planes_with_residual, B "Reorder " B "Conv " B "Reorder");
    CHECK(blocked, B "Reorder " B "Conv " B "Reorder");
    CHECK(depthwise, B "Reorder " B "DepthwiseConv " B "Reorder");
    CHECK(grouped, B "Reorder " B "Conv " B "Conv " B "Reorder");
}

Test(pass_layout, winograd_where_it_pays)
{
    struct graph g;
    side = 12, depth = 16;
    LAY_OUT(&g, large, B "Reorder " B "WinogradConv " B "Reorder");
    cr_assert_eq(pass_int(&g.nodes[1], "tile", 0), 4);
    graph_release(&g);
    CHECK_ANSWERS(large);
    side = 2; /* a tile is larger */
    CHECK(large, B "Reorder " B "Conv " B "Reorder");
    side = 12, depth = 15;
    CHECK(large, B "Reorder " B "Conv " B "Reorder");
}

static void weights_at_run_time(struct graph *g)
{
    const uint32_t x = layout_input(g, 12, 5);
    net_output(g, NET_OP(g, "Conv", "conv", x, net_input(g, "w", NET_SHAPE(4, 12, 3, 3))));
}

static void one_dimension(struct graph *g)
{
    net_init(g);
    const uint32_t x = net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, 12, 7));
    net_output(g, NET_OP(g, "Conv", "conv", x, net_weights(g, "w", NET_SHAPE(4, 12, 3), 0.3f, 1)));
}

static void three_dimensions(struct graph *g)
{
    net_init(g);
    const uint32_t x = net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, 12, 4, 4, 4));
    const uint32_t w = net_weights(g, "w", NET_SHAPE(4, 12, 3, 3, 3), 0.1f, 1);
    net_output(g, NET_OP(g, "Conv", "conv", x, w));
}

Test(pass_layout, convolutions_that_stay)
{
    CHECK(weights_at_run_time, "Conv");
    CHECK(one_dimension, "Conv");
    CHECK(three_dimensions, "Conv");
}

/* ---- pools ---- */

static void pools_of_maps(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_INTS("kernel_shape", 3, 2), PASS_INT("ceil_mode", 1),
                                    PASS_INTS("pads", 1, 0, 1, 1), PASS_INTS("strides", 2, 2),
                                    PASS_INT("count_include_pad", 1)};
    const uint32_t x = layout_input(g, 3, 9);
    const uint32_t y = layout_conv(g, "conv", x, 3, 10, 3);
    uint32_t in[] = {y, NET_END};
    net_output(g, net_node(g, "MaxPool", "max", attrs, 4, in));
    in[0] = net_node(g, "AveragePool", "mean", attrs, 5, in);
    in[0] = NET_OP(g, "Add", "sum", in[0], NET_OP(g, "GlobalMaxPool", "most", in[0]));
    net_output(g, NET_OP(g, "GlobalAveragePool", "all", in[0]));
}

static void pools_of_plain_values(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_INTS("kernel_shape", 3, 3)};
    const uint32_t x = layout_input(g, 5, 8);
    net_output(g, layout_half(g, "MaxPool", "half", x));
    net_output(g, layout_half(g, "AveragePool", "mean", x));
    net_output(g, NET_OP_ATTRS(g, "MaxPool", "three", attrs, x));
    net_output(g, NET_OP(g, "GlobalAveragePool", "all", x));
}

/* An output that nobody reads is forgotten. */
static void unread_indices(struct graph *g)
{
    const uint32_t x = layout_input(g, 5, 8);
    const uint32_t y = layout_half(g, "MaxPool", "plain", x);
    layout_more_output(g, "indices of plain ones");
    const uint32_t z = layout_half(g, "MaxPool", "map", layout_conv(g, "conv", y, 5, 12, 3));
    layout_more_output(g, "indices of a map");
    net_output(g, z);
}

Test(pass_layout, pools)
{
    CHECK(pools_of_maps, B "Conv " B "MaxPool " B "Reorder " B "AveragePool " B "GlobalMaxPool " B
                           "Reorder " B "Reorder Add GlobalAveragePool");
    CHECK(pools_of_plain_values, B "PlanesMaxPool AveragePool MaxPool GlobalAveragePool");
    CHECK(unread_indices, B "PlanesMaxPool " B "Conv " B "MaxPool " B "Reorder");
}

/* ---- reorders ---- */

/* A map that is an output as well; what reads it still reads the map. */
static void output_read_further(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 6);
    const uint32_t y = layout_conv(g, "a", x, 3, 12, 3);
    net_output(g, y);
    const uint32_t z = layout_conv(g, "b", y, 12, 12, 1);
    net_output(g, z);
    net_output(g, NET_OP(g, "Abs", "abs", z));
}

static void read_both_ways(struct graph *g)
{
    const uint32_t x = layout_input(g, 12, 6);
    const uint32_t a = layout_conv(g, "a", x, 12, 12, 1), b = layout_conv(g, "b", x, 12, 12, 3);
    const uint32_t plain = NET_OP(g, "Sub", "plain", NET_OP(g, "Abs", "abs", a), x);
    const uint32_t c = layout_conv(g, "c", plain, 12, 12, 1), d = NET_OP(g, "Neg", "neg", a);
    net_output(
        g, NET_OP(g, "Mul", "abcd", NET_OP(g, "Mul", "ab", a, b), NET_OP(g, "Mul", "cd", c, d)));
}

/* What a map is as it comes in is an output too, and so is an initializer. */
static void ends_meet(struct graph *g)
{
    const uint32_t x = layout_input(g, 12, 4), w = net_weights(g, "w", NET_SHAPE(2, 3), 1, 1);
    net_output(g, x);
    net_output(g, w);
    net_output(g, NET_OP(g, "Relu", "relu", x));
    net_output(g, layout_conv(g, "conv", x, 12, 4, 1));
}

Test(pass_layout, reorders)
{
    CHECK(output_read_further, B "Conv " B "Reorder " B "Conv " B "Reorder Abs");
    CHECK(read_both_ways, B "Reorder " B "Conv " B "Conv " B "Reorder Abs Sub " B "Reorder " B
                            "Conv Neg " B "Mul " B "Reorder " B "Mul " B "Mul " B "Reorder");
    CHECK(ends_meet, "Relu " B "Reorder " B "Conv " B "Reorder");
}

/* ---- gaps ---- */

static void several_readers(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 9);
    const uint32_t y = layout_conv(g, "stem", x, 3, 12, 3);
    const uint32_t a = layout_conv(g, "a", y, 12, 12, 1), b = layout_conv(g, "b", y, 12, 12, 5),
                   c = layout_conv(g, "c", y, 12, 12, 3);
    net_output(g, CONCAT(g, "all", a, b, c));
}

/* A residual lies as the sum does, and what the sum's readers want holds for both; and for what is
 * added before. */
static void residuals(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 9);
    const uint32_t y = layout_conv(g, "stem", x, 3, 12, 3);
    const uint32_t a = layout_conv(g, "a", NET_OP(g, "Relu", "r", y), 12, 12, 1);
    const uint32_t sum = NET_OP(g, "Add", "first", a, y);
    const uint32_t b = layout_conv(g, "b", NET_OP(g, "Relu", "s", sum), 12, 12, 1);
    const uint32_t more = NET_OP(g, "Add", "second", b, sum);
    net_output(g, layout_conv(g, "c", more, 12, 12, 5));
}

static void parts(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 9);
    const uint32_t y = layout_conv(g, "stem", x, 3, 12, 3);
    const uint32_t a = layout_conv(g, "a", y, 12, 12, 1), b = layout_conv(g, "b", y, 12, 5, 1);
    net_output(g, layout_conv(g, "wide", a, 12, 5, 5));
    net_output(g, layout_conv(g, "last", CONCAT(g, "both", a, b), 17, 12, 3));
}

Test(pass_layout, gaps)
{
    struct graph g;
    CHECK_ANSWERS(several_readers);
    LAY_OUT(&g, several_readers, B "Conv " B "Conv " B "Conv " B "Conv " B "Channels " B "Reorder");
    layout_expect_gap(&g, "stem", 2);
    layout_expect_gap(&g, "a", 0);
    layout_expect_gap(&g, "all", 0);
    graph_release(&g);

    CHECK_ANSWERS(residuals);
    LAY_OUT(&g, residuals,
            B "Conv " B "Activation " B "Conv " B "Activation " B "Conv " B "Conv " B "Reorder");
    layout_expect_gap(&g, "stem", 2);
    layout_expect_gap(&g, "first", 2);
    layout_expect_gap(&g, "second", 2);
    layout_expect_gap(&g, "r", 0);
    layout_expect_gap(&g, "c", 0);
    graph_release(&g);

    CHECK_ANSWERS(parts);
    LAY_OUT(&g, parts,
            B "Conv " B "Conv " B "Conv " B "Conv " B "Reorder " B "Channels " B "Conv " B
              "Reorder");
    layout_expect_gap(&g, "stem", 0);
    layout_expect_gap(&g, "a", 2); /* of all that share the map, the widest */
    layout_expect_gap(&g, "b", 2);
    layout_expect_gap(&g, "both", 2);
    graph_release(&g);
}

/* ---- activations ---- */

static uint32_t norm(struct graph *g, const char *name, uint32_t x, int64_t channels)
{
    uint32_t in[4];
    for (uint32_t i = 0; i < 4; i++)
        in[i] = net_weights(g, NULL, NET_SHAPE(channels), 0.5f, 3 + i);
    for (int64_t c = 0; c < channels; c++)
        ((float *)g->values[in[3]].data)[c] += 1;
    return NET_OP(g, "BatchNormalization", name, x, in[0], in[1], in[2], in[3]);
}

static void fused_activations(struct graph *g)
{
    const struct op_attr slope[] = {PASS_FLOAT("alpha", 0.3f)};
    const uint32_t x = layout_input(g, 3, 8);
    const uint32_t stem = layout_conv(g, "stem", x, 3, 9, 3);
    uint32_t y = NET_OP(g, "Relu", "r1", layout_half(g, "MaxPool", "max", stem));
    y = NET_OP_ATTRS(g, "LeakyRelu", "r2", slope, norm(g, "bn", y, 9));
    uint32_t z = NET_OP(g, "HardSigmoid", "r3", layout_half(g, "AveragePool", "mean", stem));
    y = NET_OP(g, "Tanh", "r4", NET_OP(g, "Mul", "mul", y, z));
    net_output(g, NET_OP(g, "Relu", "r5", NET_OP(g, "Add", "add", y, z)));
}

/* Neither what somebody else reads, nor after an activation, nor after what knows none. */
static void activations_apart(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 8);
    const uint32_t stem = layout_conv(g, "stem", x, 3, 9, 3);
    const uint32_t bn = norm(g, "bn", layout_half(g, "MaxPool", "max", stem), 9);
    const uint32_t a = NET_OP(g, "Relu", "relu", bn);
    net_output(g, NET_OP(g, "Tanh", "tanh", NET_OP(g, "Mul", "mul", a, bn)));
    net_output(g, NET_OP(g, "Sigmoid", "s2", NET_OP(g, "Relu", "s1", norm(g, "bn2", a, 9))));
    net_output(g, NET_OP(g, "Tanh", "t", NET_OP(g, "GlobalAveragePool", "all", a)));
    const uint32_t max = layout_half(g, "MaxPool", "out", a);
    net_output(g, max);
    net_output(g, NET_OP(g, "Relu", "u", max));
}

Test(pass_layout, activations)
{
    struct graph g;
    CHECK_ANSWERS(fused_activations);
    LAY_OUT(&g, fused_activations,
            B "Conv " B "MaxPool " B "BatchNormalization " B "AveragePool " B "Mul " B "Add " B
              "Reorder");
    cr_assert_str_eq(g.nodes[2].label, "BatchNormalization+LeakyRelu");
    cr_assert_str_eq(g.nodes[4].label, "Mul+Tanh");
    graph_release(&g);
    CHECK(activations_apart,
          B "Conv " B "MaxPool " B "BatchNormalization " B "Activation " B "Mul " B "Reorder " B
            "BatchNormalization " B "Activation " B "Reorder " B "GlobalAveragePool " B
            "Activation " B "Reorder " B "MaxPool " B "Reorder " B "Activation " B "Reorder");
}

/* ---- products ---- */

static bool gate_first, gate_is_constant;

/* Squeeze and excitation. */
static void gated(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 6);
    const uint32_t y = NET_OP(g, "Relu", "relu", layout_conv(g, "stem", x, 3, 9, 3));
    const uint32_t small =
        layout_conv(g, "less", NET_OP(g, "GlobalAveragePool", "all", y), 9, 5, 1);
    uint32_t gate = NET_OP(g, "Sigmoid", "gate", layout_conv(g, "more", small, 5, 9, 1));
    if (gate_is_constant)
        gate = net_weights(g, "gate", NET_SHAPE(1, 9, 1, 1), 1, 5);
    const uint32_t z =
        gate_first ? NET_OP(g, "Mul", "mul", gate, y) : NET_OP(g, "Mul", "mul", y, gate);
    net_output(g, NET_OP(g, "Relu", "end", z));
}

/* The gate is computed from what is no map. */
static void gated_from_outside(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 6),
                   z = net_input(g, "z", NET_SHAPE(CVD_DIM_BATCH, 9, 1, 1));
    const uint32_t y = layout_conv(g, "stem", x, 3, 9, 3);
    net_output(g, NET_OP(g, "Mul", "mul", NET_OP(g, "Abs", "abs", z), y));
}

/* A number for each pixel, for each row. */
static void other_factors(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 6),
                   z = net_input(g, "z", NET_SHAPE(CVD_DIM_BATCH, 1, 6, 6));
    const uint32_t y = layout_conv(g, "stem", x, 3, 9, 3);
    const uint32_t a = NET_OP(g, "Mul", "a", y, z);
    net_output(g, NET_OP(g, "Mul", "b", a, net_weights(g, "w", NET_SHAPE(9, 6, 1), 1, 5)));
}

Test(pass_layout, gates)
{
    for (int i = 0; i < 2; i++) {
        gate_first = i;
        gate_is_constant = false;
        CHECK(gated, B "Conv " B "GlobalAveragePool " B "Conv " B "Conv " B "Mul " B "Reorder");
        gate_is_constant = true;
        CHECK(gated, B "Conv " B "BatchNormalization " B "Reorder");
    }
    CHECK(gated_from_outside, B "Conv Abs " B "Mul " B "Reorder");
    CHECK(other_factors, B "Conv " B "Reorder Mul Mul");
}

/* With one image a constant is as large as a map; with two it is not. */
static void one_constant_image(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5), w = net_weights(g, "w", NET_SHAPE(1, 9, 5, 5), 1, 5);
    const uint32_t y = NET_OP(g, "Relu", "relu", layout_conv(g, "stem", x, 3, 9, 3));
    const uint32_t a = NET_OP(g, "Add", "a", y, w);
    net_output(g,
               NET_OP(g, "Relu", "b", NET_OP(g, "Mul", "c", w, layout_conv(g, "d", a, 9, 9, 1))));
}

static void one_constant_pixel(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5), w = net_weights(g, "w", NET_SHAPE(1, 9, 1, 1), 1, 5);
    const uint32_t y = NET_OP(g, "Relu", "relu", layout_conv(g, "stem", x, 3, 9, 3));
    net_output(g, NET_OP(g, "Mul", "c", w, NET_OP(g, "GlobalMaxPool", "all", y)));
}

static void mean_of_the_batch(struct graph *g)
{
    const struct op_attr images[] = {PASS_INTS("axes", 0)};
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t y = NET_OP(g, "Relu", "relu", layout_conv(g, "stem", x, 3, 9, 3));
    const uint32_t mean = NET_OP_ATTRS(g, "ReduceMean", "mean", images, y);
    const uint32_t z = layout_conv(g, "conv", mean, 9, 9, 3);
    net_output(g, NET_OP(g, "Mul", "c", NET_OP(g, "GlobalMaxPool", "all", y), z));
    net_output(g, NET_OP(g, "Add", "d", z, NET_OP(g, "Relu", "e", y)));
}

static void (*fixed_to_one_inner)(struct graph *g);

static void fixed_to_one(struct graph *g)
{
    fixed_to_one_inner(g);
    g->values[g->inputs[0]].shape.dims[0] = 1;
}

Test(pass_layout, what_does_not_grow_with_the_batch)
{
    CHECK(one_constant_image,
          B "Conv " B "Reorder Add " B "Reorder " B "Conv " B "Reorder Mul Relu");
    CHECK(one_constant_pixel, B "Conv " B "GlobalMaxPool " B "BatchNormalization " B "Reorder");
    CHECK_ANSWERS(mean_of_the_batch);
    fixed_to_one_inner = one_constant_image;
    CHECK(fixed_to_one, B "Conv " B "Reorder Add " B "Reorder " B "Conv " B "Reorder Mul Relu");
    fixed_to_one_inner = one_constant_pixel;
    CHECK(fixed_to_one, B "Conv " B "GlobalMaxPool " B "BatchNormalization " B "Reorder");
    fixed_to_one_inner = mean_of_the_batch;
    CHECK_ANSWERS(fixed_to_one);
}

/* ---- heads ---- */

static const char *flatten_op;
static bool linear_is_gemm;

static uint32_t flatten(struct graph *g, uint32_t x)
{
    static const int64_t rows[] = {0, -1};
    const struct op_attr axis[] = {PASS_INT("axis", 1)};
    const struct op_attr plane[] = {PASS_INTS("axes", 2, 3), PASS_INT("keepdims", 0)};
    if (strcmp(flatten_op, "Flatten") == 0)
        return NET_OP_ATTRS(g, "Flatten", "flat", axis, x);
    if (strcmp(flatten_op, "Reshape") == 0)
        return NET_OP(g, "Reshape", "flat", x, net_ints(g, "s", 2, rows));
    if (strcmp(flatten_op, "Squeeze") == 0)
        return NET_OP(g, "Squeeze", "flat", NET_OP(g, "GlobalAveragePool", "all", x),
                      net_ints(g, "a", 2, plane[0].ints));
    return NET_OP_ATTRS(g, "ReduceMean", "flat", plane, x);
}

static void head(struct graph *g)
{
    const struct op_attr turned[] = {PASS_INT("transB", 1), PASS_FLOAT("alpha", 0.5f)};
    const bool pools = strcmp(flatten_op, "Squeeze") == 0 || strcmp(flatten_op, "ReduceMean") == 0;
    const int64_t terms = pools ? 10 : 10 * 25;
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t flat = flatten(g, layout_conv(g, "stem", x, 3, 10, 3));
    const uint32_t w =
        net_weights(g, "w", linear_is_gemm ? NET_SHAPE(7, terms) : NET_SHAPE(terms, 7), 0.2f, 1);
    const uint32_t b = net_weights(g, "b", NET_SHAPE(7), 1, 2);
    const uint32_t y = linear_is_gemm
                           ? NET_OP_ATTRS(g, "Gemm", "fc", turned, flat, w, b)
                           : NET_OP(g, "Add", "b", NET_OP(g, "MatMul", "fc", flat, w), b);
    net_output(g, NET_OP(g, "Softmax", "softmax", NET_OP(g, "Relu", "relu", y)));
}

Test(pass_layout, heads)
{
    static const char *const ops[] = {"Flatten", "Reshape", "Squeeze", "ReduceMean"};
    for (size_t i = 0; i < 8; i++) {
        flatten_op = ops[i / 2];
        linear_is_gemm = i % 2;
        CHECK(head, i < 4 ? B "Conv " B "Gemm " B "Softmax"
                          : B "Conv " B "GlobalAveragePool " B "Gemm " B "Softmax");
    }
}

/* What has the same elements but is no row for each image. */
static void other_rows(struct graph *g)
{
    static const int64_t halves[] = {0, 2, -1}, columns[] = {-1, 25};
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t y = layout_conv(g, "stem", x, 3, 10, 3);
    const uint32_t a = NET_OP(g, "Reshape", "halves", y, net_ints(g, "h", 3, halves));
    const uint32_t b = NET_OP(g, "Reshape", "columns", y, net_ints(g, "c", 2, columns));
    net_output(g, NET_OP(g, "MatMul", "a", a, net_weights(g, "v", NET_SHAPE(125, 3), 0.1f, 1)));
    net_output(g, NET_OP(g, "MatMul", "b", b, net_weights(g, "w", NET_SHAPE(25, 3), 0.1f, 2)));
}

static void other_products(struct graph *g)
{
    const struct op_attr turned[] = {PASS_INT("transA", 1)}, axis[] = {PASS_INT("axis", 1)};
    net_init(g);
    const uint32_t x = net_input(g, "x", NET_SHAPE(7, 6)), z = net_input(g, "z", NET_SHAPE(6, 5));
    const uint32_t w = net_weights(g, "w", NET_SHAPE(7, 5), 1, 1);
    const uint32_t c = net_weights(g, "c", NET_SHAPE(6, 1), 1, 2);
    const uint32_t a = NET_OP_ATTRS(g, "Gemm", "a", turned, x, w);
    const uint32_t b = NET_OP(g, "MatMul", "b", x, z);
    const uint32_t d = NET_OP(g, "Gemm", "d", z, net_weights(g, "v", NET_SHAPE(5, 4), 1, 3), c);
    net_output(g, NET_OP_ATTRS(g, "Softmax", "s", axis, a));
    net_output(g, b);
    net_output(g, d);
}

/* Over channels, and as it was meant before operator set 13: over all but the images. */
static void other_softmax(struct graph *g)
{
    const struct op_attr channels[] = {PASS_INT("axis", 1)};
    const uint32_t x = layout_input(g, 3, 5);
    net_output(g, NET_OP_ATTRS(g, "Softmax", "s", channels, layout_conv(g, "c", x, 3, 10, 1)));
}

static void old_softmax(struct graph *g)
{
    other_softmax(g);
    g->opsets[0].version = 11;
}

Test(pass_layout, heads_of_other_kinds)
{
    CHECK(other_rows, B "Conv " B "Reorder Reshape Reshape " B "MatMul " B "MatMul");
    CHECK(other_products, "Gemm MatMul Gemm " B "Softmax");
    CHECK(other_softmax, B "Conv " B "Reorder Softmax");
    CHECK(old_softmax, B "Conv " B "Reorder Softmax");
}

/* ---- whole models ---- */

static int64_t batch;
static enum cvd_dtype dtype;

/* Of everything something; two inputs and two outputs. */
static void model(struct graph *g)
{
    net_init(g);
    const uint32_t x = net_input(g, "x", NET_SHAPE(batch, 3, 12, 12));
    const uint32_t z = net_input(g, "z", NET_SHAPE(batch, 9, 6, 6));
    uint32_t y = NET_OP(g, "Relu", "r", layout_conv(g, "stem", x, 3, 20, 3));
    y = layout_half(g, "MaxPool", "half", y);
    y = NET_OP(g, "Add", "sum", layout_conv(g, "same", y, 20, 20, 3), y);
    y = layout_conv_groups(g, "depth", y, 20, 20, 20);
    y = layout_conv(g, "both", CONCAT(g, "all", y, z), 29, 17, 1);
    net_output(g, y);
    flatten_op = "Reshape";
    const uint32_t w = net_weights(g, "w", NET_SHAPE(17 * 36, 7), 0.1f, 1);
    net_output(g, NET_OP(g, "Softmax", "s", NET_OP(g, "MatMul", "fc", flatten(g, y), w)));
    for (uint32_t v = 0; v < g->value_count && dtype != CVD_DTYPE_FLOAT32; v++) {
        struct graph_value *value = &g->values[v];
        if (value->dtype != CVD_DTYPE_FLOAT32)
            continue;
        value->dtype = dtype;
        value->bytes /= 2;
        for (size_t i = 0; value->data != NULL && i < value->bytes / 2; i++)
            ((uint16_t *)value->data)[i] = (uint16_t)(0x2c00 + i * 7 % 1024 + i % 2 * 0x8000);
    }
}

Test(pass_layout, models)
{
    static const int64_t batches[] = {CVD_DIM_BATCH, 1, 2, 5};
    for (size_t i = 0; i < 4; i++) {
        batch = batches[i];
        dtype = CVD_DTYPE_FLOAT32;
        CHECK_ANSWERS(model);
        dtype = CVD_DTYPE_FLOAT16; /* 0x2c00 ... 0x2fff are 1/16 ... 1/8 */
        CHECK_ANSWERS(model);
    }
    struct graph g;
    batch = 2;
    dtype = CVD_DTYPE_FLOAT32;
    LAY_OUT(&g, model,
            B "Conv " B "MaxPool " B "WinogradConv " B "DepthwiseConv " B "Reorder " B "Channels " B
              "Conv " B "Reorder " B "Gemm " B "Softmax");
    cr_assert_eq(pass_int(&g.nodes[3], "group", 0), 20);
    graph_release(&g);
}

Test(pass_layout, every_failing_allocation_is_survived, .timeout = 600)
{
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    size_t failures = 0;
    batch = CVD_DIM_BATCH;
    dtype = CVD_DTYPE_FLOAT32;
    for (size_t n = 1;; n++) {
        struct graph g;
        struct plan *plan = NULL;
        struct cvd_error err = {.message = ""};
        model(&g);
        cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OK);
        mem_fail_after(n, n % 2 == 0);
        enum cvd_status status = plan_build(&g, &kernels, NULL, NULL, &plan, &err);
        mem_fail_after(0, false);
        graph_release(&g);
        plan_destroy(plan);
        if (status == CVD_STATUS_OK)
            break;
        cr_assert_eq(status, CVD_STATUS_OUT_OF_MEMORY, "allocation %zu: %s", n, err.message);
        failures++;
    }
    cr_assert_gt(failures, 60);
}
