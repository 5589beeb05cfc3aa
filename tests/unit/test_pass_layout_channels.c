/* Layout assignment: concatenations in place, and channels that are only rearranged. */
#include "tests/unit/layout_fixture.h"

#include <sys/resource.h>

/* ---- concatenations in place ---- */

static void two_parts(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t a = layout_conv(g, "a", x, 3, 12, 3), b = layout_conv(g, "b", x, 3, 10, 3);
    net_output(g, layout_conv(g, "c", CONCAT(g, "all", a, b), 22, 5, 1));
}

/* DenseNet: each layer reads all that were there before. */
static void dense(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t a = layout_conv(g, "a", x, 3, 12, 3), b = layout_conv(g, "b", a, 12, 8, 3);
    const uint32_t ab = CONCAT(g, "ab", a, b), c = layout_conv(g, "c", ab, 20, 8, 3);
    const uint32_t abc = CONCAT(g, "abc", a, b, c), d = layout_conv(g, "d", abc, 28, 6, 3);
    net_output(g, layout_conv(g, "e", CONCAT(g, "abcd", a, b, c, d), 34, 5, 1));
}

/* The same, where each concatenation has the one before for an input. */
static void nested(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t a = layout_conv(g, "a", x, 3, 12, 3), b = layout_conv(g, "b", a, 12, 8, 3);
    const uint32_t ab = CONCAT(g, "ab", a, b), c = layout_conv(g, "c", ab, 20, 8, 3);
    const uint32_t abc = CONCAT(g, "abc", ab, c), d = layout_conv(g, "d", abc, 28, 6, 3);
    net_output(g, layout_conv(g, "e", CONCAT(g, "abcd", abc, d), 34, 5, 1));
}

Test(pass_layout_channels, concatenations_are_computed_in_place)
{
    struct graph g;
    CHECK_ANSWERS(two_parts);
    LAY_OUT(&g, two_parts, B "Conv " B "Conv " B "Channels " B "Conv " B "Reorder");
    layout_expect_part(&g, "a", "all", 0);
    layout_expect_part(&g, "b", "all", 3);
    layout_expect_part(&g, "all", NULL, 0);
    cr_assert_eq(layout_map(&g, "a")->layout.blocks, 6);
    graph_release(&g);
    const struct layout_make_list {
        layout_make_fn fn;
        const char *name;
    } both[] = {{dense, "dense"}, {nested, "nested"}};
    for (size_t i = 0; i < 2; i++) {
        layout_check_answers(both[i].fn, both[i].name);
        layout_lay_out(&g, both[i].fn, both[i].name,
                       B "Conv " B "Conv " B "Channels " B "Conv " B "Channels " B "Conv " B
                         "Channels " B "Conv " B "Reorder");
        layout_expect_part(&g, "a", "abcd", 0);
        layout_expect_part(&g, "b", "abcd", 3);
        layout_expect_part(&g, "ab", "abcd", 0);
        layout_expect_part(&g, "c", "abcd", 5);
        layout_expect_part(&g, "abc", "abcd", 0);
        layout_expect_part(&g, "d", "abcd", 7);
        layout_expect_part(&g, "abcd", NULL, 0);
        layout_expect_gap(&g, "d", 1); /* as all of them, for those before are read with it */
        graph_release(&g);
    }
}

/* Each of a network's parts is computed in one place; the others are copied. */
static void read_by_two(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t a = layout_conv(g, "a", x, 3, 12, 3), b = layout_conv(g, "b", x, 3, 12, 1);
    const uint32_t ab = CONCAT(g, "ab", a, b), ba = CONCAT(g, "ba", b, a);
    net_output(g, NET_OP(g, "Mul", "mul", ab, ba));
}

static void twice_the_same(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t a = layout_conv(g, "a", x, 3, 12, 3), b = layout_conv(g, "b", x, 3, 12, 1);
    net_output(g, layout_conv(g, "c", CONCAT(g, "aba", a, b, a), 36, 5, 1));
}

/* Five channels do not fill two blocks: what follows them begins within a block. */
static void not_whole_blocks(struct graph *g)
{
    const uint32_t x = layout_input(g, 12, 5);
    const uint32_t a = layout_conv(g, "a", x, 12, 5, 3), b = layout_conv(g, "b", x, 12, 12, 1);
    net_output(g, layout_conv(g, "c", CONCAT(g, "ab", a, b), 17, 5, 1));
}

static void part_is_output(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t a = layout_conv(g, "a", x, 3, 12, 3), b = layout_conv(g, "b", x, 3, 12, 1);
    const uint32_t ab = CONCAT(g, "ab", a, b);
    net_output(g, a);
    net_output(g, ab);
    net_output(g, layout_conv(g, "c", ab, 24, 5, 1));
}

static void part_is_input(struct graph *g)
{
    const uint32_t x = layout_input(g, 8, 5);
    const uint32_t a = layout_conv(g, "a", x, 8, 12, 3);
    net_output(g, layout_conv(g, "c", CONCAT(g, "ab", a, x), 20, 5, 3));
}

/* Two images, for which a constant is no image of its own. */
static void part_is_constant(struct graph *g)
{
    net_init(g);
    const uint32_t x = net_input(g, "x", NET_SHAPE(2, 12, 5, 5));
    const uint32_t w = net_weights(g, "w", NET_SHAPE(2, 16, 5, 5), 1, 1);
    const uint32_t a = layout_conv(g, "a", x, 12, 16, 3);
    const uint32_t all = CONCAT(g, "all", w, a);
    net_output(g, layout_conv(g, "c", all, 32, 5, 3));
    net_output(g, layout_conv(g, "d", CONCAT(g, "turned", a, w), 32, 5, 3));
}

/* What a sum adds to lies as the sum does, so it is nowhere else. */
static void part_is_residual(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t a = layout_conv(g, "a", x, 3, 12, 3);
    const uint32_t b = layout_conv(g, "b", NET_OP(g, "Relu", "r", a), 12, 12, 1);
    const uint32_t sum = NET_OP(g, "Add", "sum", b, a);
    net_output(g, layout_conv(g, "c", CONCAT(g, "all", a, sum), 24, 5, 1));
}

/* A part that could have been computed over its input, and a whole that is. */
static void part_in_place(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t a = layout_conv(g, "a", x, 3, 12, 3), b = layout_conv(g, "b", x, 3, 12, 1);
    const uint32_t e = NET_OP(g, "Tanh", "e", NET_OP(g, "Mul", "d", a, b));
    const uint32_t f = NET_OP(g, "Sigmoid", "f", a);
    const uint32_t all = CONCAT(g, "all", e, f);
    net_output(g, layout_conv(g, "c", NET_OP(g, "Tanh", "over", all), 24, 5, 1));
}

Test(pass_layout_channels, concatenations_that_are_copied)
{
    struct graph g;
    CHECK_ANSWERS(read_by_two);
    LAY_OUT(&g, read_by_two, B "Conv " B "Conv " B "Channels " B "Channels " B "Mul " B "Reorder");
    layout_expect_part(&g, "a", "ba", 3); /* the last one that wants it */
    layout_expect_part(&g, "b", "ba", 0);
    layout_expect_part(&g, "ab", NULL, 0);
    graph_release(&g);

    CHECK_ANSWERS(twice_the_same);
    LAY_OUT(&g, twice_the_same, B "Conv " B "Conv " B "Channels " B "Conv " B "Reorder");
    layout_expect_part(&g, "a", NULL, 0);
    layout_expect_part(&g, "b", NULL, 0);
    graph_release(&g);

    CHECK_ANSWERS(not_whole_blocks);
    LAY_OUT(&g, not_whole_blocks,
            B "Reorder " B "Conv " B "Conv " B "Channels " B "Conv " B "Reorder");
    layout_expect_part(&g, "a", NULL, 0);
    layout_expect_part(&g, "b", NULL, 0);
    graph_release(&g);

    CHECK_ANSWERS(part_is_residual);
    LAY_OUT(&g, part_is_residual,
            B "Conv " B "Activation " B "Conv " B "Channels " B "Conv " B "Reorder");
    layout_expect_part(&g, "a", NULL, 0);
    layout_expect_part(&g, "sum", NULL, 0);
    graph_release(&g);
}

Test(pass_layout_channels, parts_of_all_kinds)
{
    struct graph g;
    CHECK_ANSWERS(part_is_output);
    LAY_OUT(&g, part_is_output,
            B "Conv " B "Reorder " B "Conv " B "Channels " B "Reorder " B "Conv " B "Reorder");
    layout_expect_part(&g, "a", "ab", 0);
    layout_expect_part(&g, "b", "ab", 3);
    graph_release(&g);

    CHECK_ANSWERS(part_is_input);
    LAY_OUT(&g, part_is_input, B "Conv " B "Reorder " B "Channels " B "Conv " B "Reorder");
    layout_expect_part(&g, "x", "ab", 3);
    layout_expect_part(&g, "a", "ab", 0);
    graph_release(&g);

    CHECK_ANSWERS(part_is_constant);
    LAY_OUT(&g, part_is_constant,
            B "Reorder " B "Conv " B "Reorder " B "Channels " B "Conv " B "Reorder " B "Channels " B
              "Conv " B "Reorder");
    layout_expect_part(&g, "w", NULL, 0);
    layout_expect_part(&g, "a", "turned", 0);
    graph_release(&g);

    CHECK_ANSWERS(part_in_place);
    LAY_OUT(&g, part_in_place,
            B "Conv " B "Conv " B "Mul " B "Activation " B "Channels " B "Activation " B "Conv " B
              "Reorder");
    layout_expect_part(&g, "e", "all", 0);
    layout_expect_part(&g, "f", "all", 3);
    layout_expect_part(&g, "over", NULL, 0);
    graph_release(&g);
}

/* ---- rearrangements ---- */

/* With the attributes of an operator set before 13, or the inputs of a later one. */
static bool old;

static void use_set(struct graph *g)
{
    g->opsets[0].version = old ? 9 : 13;
}

static void split_at(struct graph *g, const char *name, uint32_t x, int64_t first, int64_t second,
                     uint32_t out[2])
{
    const struct op_attr attrs[] = {PASS_INT("axis", 1), PASS_INTS("split", first, second)};
    const uint32_t sizes = net_ints(g, "sizes", 2, (int64_t[]){first, second});
    const uint32_t in[] = {x, old ? NET_END : sizes, NET_END};
    out[0] = net_node(g, "Split", name, attrs, old ? 2 : 1, in);
    out[1] = layout_more_output(g, name);
}

static uint32_t slice(struct graph *g, const char *name, uint32_t x, int64_t axis, int64_t start,
                      int64_t end, int64_t step)
{
    const struct op_attr attrs[] = {PASS_INTS("axes", axis), PASS_INTS("starts", start),
                                    PASS_INTS("ends", end)};
    if (old)
        return NET_OP_ATTRS(g, "Slice", name, attrs, x);
    return NET_OP(g, "Slice", name, x, net_ints(g, "start", 1, &start), net_ints(g, "end", 1, &end),
                  net_ints(g, "axis", 1, &axis), net_ints(g, "step", 1, &step));
}

static uint32_t shuffle(struct graph *g, const char *name, uint32_t x, int64_t channels,
                        int64_t groups, int64_t size)
{
    const struct op_attr perm[] = {PASS_INTS("perm", 0, 2, 1, 3, 4)};
    const int64_t parts[] = {-1, groups, channels / groups, size, size};
    const int64_t whole[] = {0, channels, size, size};
    x = NET_OP(g, "Reshape", "parts", x, net_ints(g, "p", 5, parts));
    x = NET_OP_ATTRS(g, "Transpose", "turned", perm, x);
    return NET_OP(g, "Reshape", name, x, net_ints(g, "s", 4, whole));
}

static void splits(struct graph *g)
{
    uint32_t halves[2], odd[2];
    const uint32_t x = layout_input(g, 3, 5);
    use_set(g);
    split_at(g, "halves", layout_conv(g, "stem", x, 3, 24, 3), 12, 12, halves);
    split_at(g, "odd", halves[1], 5, 7, odd);
    net_output(g, layout_conv(g, "a", halves[0], 12, 9, 3));
    net_output(g, layout_conv(g, "b", odd[0], 5, 9, 1));
    net_output(g, layout_conv(g, "c", odd[1], 7, 9, 3));
}

static void slices(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5);
    use_set(g);
    const uint32_t y = layout_conv(g, "stem", x, 3, 24, 3);
    const int64_t step = old ? 1 : 3;
    const uint32_t a = slice(g, "a", y, 1, 2, INT64_MAX, step);
    const uint32_t b = slice(g, "b", a, 1, -3, 1000, 1), c = slice(g, "c", y, 1, -24, -1, step);
    net_output(g, NET_OP(g, "Relu", "ra", a));
    net_output(g, NET_OP(g, "Relu", "rb", b));
    net_output(g, NET_OP(g, "Relu", "rc", c));
}

static void slices_that_stay(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5);
    use_set(g);
    const uint32_t y = layout_conv(g, "stem", x, 3, 24, 3);
    net_output(g, slice(g, "rows", y, 2, 1, 3, 1));
    net_output(g, slice(g, "all", y, 1, -100, 100, 1));
    if (!old)
        net_output(g, slice(g, "back", y, 1, 10, -100, -1));
}

static void shuffled(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 5);
    use_set(g);
    const uint32_t y = layout_conv(g, "stem", x, 3, 18, 3);
    net_output(g, layout_conv(g, "c", shuffle(g, "shuffle", y, 18, 3, 5), 18, 5, 3));
}

Test(pass_layout_channels, splits_slices_and_shuffles)
{
    for (int i = 0; i < 2; i++) {
        old = i;
        CHECK(splits, B "Conv " B "Channels " B "Channels " B "Channels " B "Conv " B "Reorder " B
                        "Conv " B "Reorder " B "Conv " B "Reorder");
        CHECK(slices, B "Conv " B "Channels " B "Channels " B "Channels " B "Activation " B
                        "Reorder " B "Activation " B "Reorder " B "Activation " B "Reorder");
        CHECK(slices_that_stay,
              old ? B "Conv " B "Reorder Slice Slice" : B "Conv " B "Reorder Slice Slice Slice");
        CHECK(shuffled, B "Conv " B "Channels " B "Conv " B "Reorder");
    }
}

/* ShuffleNet's block: what is put together and shuffled is split again. Only what is read is made:
 * the second halves. */
static void shuffle_net(struct graph *g)
{
    uint32_t halves[2], next[2];
    const uint32_t x = layout_input(g, 3, 5);
    old = false;
    const uint32_t y = layout_conv(g, "stem", x, 3, 18, 3);
    split_at(g, "first", y, 9, 9, halves);
    const uint32_t a = layout_conv(g, "a", halves[1], 9, 9, 3);
    const uint32_t all = shuffle(g, "shuffle", CONCAT(g, "all", halves[0], a), 18, 2, 5);
    split_at(g, "second", all, 9, 9, next);
    const uint32_t b = layout_conv(g, "b", next[1], 9, 9, 1);
    net_output(g, layout_conv(g, "c", CONCAT(g, "end", next[0], b), 18, 5, 3));
}

/* The same channel several times, from several values, of which one is plain. */
static void put_together(struct graph *g)
{
    uint32_t halves[2];
    const uint32_t x = layout_input(g, 5, 5);
    old = false;
    const uint32_t a = layout_conv(g, "a", x, 5, 11, 3), b = layout_conv(g, "b", a, 11, 3, 1);
    const uint32_t c = CONCAT(g, "c", b, x, b, a);
    const uint32_t d = slice(g, "d", c, 1, 1, 21, 2);
    split_at(g, "halves", CONCAT(g, "e", d, slice(g, "f", a, 1, 4, 6, 1), d), 13, 9, halves);
    net_output(g, layout_conv(g, "g", halves[0], 13, 5, 3));
    net_output(g, NET_OP(g, "Relu", "relu", halves[1]));
}

Test(pass_layout_channels, rearrangements_of_rearrangements)
{
    struct graph g;
    CHECK(shuffle_net, B "Conv " B "Channels " B "Conv " B "Channels " B "Conv " B "Channels " B
                         "Conv " B "Reorder");
    CHECK_ANSWERS(put_together);
    LAY_OUT(&g, put_together,
            B "Conv " B "Conv " B "Reorder " B "Channels " B "Channels " B "Conv " B "Reorder " B
              "Activation " B "Reorder");
    graph_release(&g);
}

/* Groups that are not made of channels, or not of one image's. */
static void not_shuffled(struct graph *g)
{
    static const int64_t columns[] = {0, 12, 5, 5, 2}, whole[] = {0, 12, 5, 10};
    const struct op_attr perm[] = {PASS_INTS("perm", 0, 2, 1, 3, 4)};
    net_init(g);
    uint32_t x = net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, 3, 5, 10));
    x = layout_conv(g, "stem", x, 3, 12, 3);
    uint32_t y = NET_OP(g, "Reshape", "parts", x, net_ints(g, "p", 5, columns));
    y = NET_OP_ATTRS(g, "Transpose", "turned", perm, y);
    y = NET_OP(g, "Reshape", "whole", y, net_ints(g, "s", 4, whole));
    net_output(g, y);
    net_output(g, NET_OP(g, "Relu", "relu", x));
}

static void images_shuffled(struct graph *g)
{
    static const int64_t parts[] = {1, 2, 12, 5, 5}, whole[] = {2, 12, 5, 5};
    const struct op_attr perm[] = {PASS_INTS("perm", 0, 2, 1, 3, 4)};
    net_init(g);
    uint32_t x = net_input(g, "x", NET_SHAPE(2, 3, 5, 5));
    x = layout_conv(g, "stem", x, 3, 12, 3);
    uint32_t y = NET_OP(g, "Reshape", "parts", x, net_ints(g, "p", 5, parts));
    y = NET_OP_ATTRS(g, "Transpose", "turned", perm, y);
    net_output(g, NET_OP(g, "Reshape", "whole", y, net_ints(g, "s", 4, whole)));
}

static void other_axes(struct graph *g)
{
    const struct op_attr images[] = {PASS_INT("axis", 0)}, rows[] = {PASS_INT("axis", -2)},
                         columns[] = {PASS_INT("axis", 3)};
    const uint32_t x = layout_input(g, 3, 5);
    const uint32_t y = layout_conv(g, "stem", x, 3, 12, 3);
    net_output(g, NET_OP_ATTRS(g, "Concat", "rows", rows, y, y));
    net_output(g, NET_OP_ATTRS(g, "Concat", "columns", columns, y, y));
    net_output(g, NET_OP_ATTRS(g, "Concat", "images", images, y, y));
}

Test(pass_layout_channels, what_is_no_rearrangement)
{
    CHECK(not_shuffled,
          B "Conv " B "Reorder Reshape Transpose Reshape " B "Activation " B "Reorder");
    CHECK(images_shuffled, B "Conv " B "Reorder Reshape Transpose Reshape");
    CHECK(other_axes, B "Conv " B "Reorder Concat Concat Concat");
}

/* ---- limits ---- */

#define WIDE 40000
#define LONG 3000

/* A file of 200 KB whose channels, listed for each node, would take gigabytes. */
static void wide_and_long(struct graph *g)
{
    const uint32_t x = layout_input(g, 1, 1);
    uint32_t y = layout_conv(g, "stem", x, 1, WIDE, 1);
    old = false;
    for (int64_t i = 0; i < LONG; i++)
        y = slice(g, "slice", y, 1, 1, INT64_MAX, 1);
    net_output(g, NET_OP(g, "GlobalAveragePool", "end", y));
}

#define INPUTS 4000

static uint32_t many(struct graph *g, const char *name, uint32_t x)
{
    uint32_t in[INPUTS + 2] = {layout_conv(g, name, x, 3, 12, 1)};
    for (size_t i = 1; i <= INPUTS; i++)
        in[i] = NET_OP(g, i % 2 ? "Abs" : "Neg", NULL, x);
    in[INPUTS + 1] = NET_END;
    return layout_concat(g, name, in);
}

/* Two values that are put together from as many as a node may have. */
static void many_inputs(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 1);
    const uint32_t a = slice(g, "odd", many(g, "a", x), 1, 1, INT64_MAX, 2), b = many(g, "b", x);
    net_output(g, CONCAT(g, "all", a, layout_conv(g, "c", x, 3, 9, 1), b));
}

Test(pass_layout_channels, what_would_take_too_much_stays, .timeout = 600)
{
    struct graph g;
    struct rusage usage;
    wide_and_long(&g);
    pass_apply_list(&g, passes_all);
    cr_assert_str_eq(g.nodes[0].op, "Conv");
    cr_assert_str_eq(g.nodes[1].op, "Channels"); /* what many slices have left */
    cr_assert_str_eq(g.nodes[2].op, "Reorder");
    cr_assert_str_eq(g.nodes[g.node_count - 2].op, "Slice");
    graph_release(&g);
    getrusage(RUSAGE_SELF, &usage);
    cr_assert_lt(usage.ru_maxrss, 1024 * 1024); /* KiB */
}

Test(pass_layout_channels, no_node_gets_more_inputs_than_it_may_have, .timeout = 600)
{
    CHECK_ANSWERS(many_inputs);
}

/* ---- neighbours ---- */

/* Threads that compute a part meanwhile read the one beside it, with the gap between them: before
 * the part that is computed, and behind it. */
static void beside_its_input(struct graph *g)
{
    const uint32_t x = layout_input(g, 3, 20);
    const uint32_t a = layout_conv(g, "a", x, 3, 12, 3);
    const uint32_t b = layout_conv(g, "b", a, 12, 32, 3), c = layout_conv(g, "c", a, 12, 32, 3);
    net_output(g, layout_conv(g, "d", CONCAT(g, "all", b, a, c), 76, 5, 3));
}

Test(pass_layout_channels, parts_beside_each_other)
{
    struct graph g;
    for (int i = 0; i < 4; i++)
        CHECK_ANSWERS(beside_its_input);
    LAY_OUT(&g, beside_its_input,
            B "Conv " B "Conv " B "Conv " B "Channels " B "Conv " B "Reorder");
    layout_expect_part(&g, "b", "all", 0);
    layout_expect_part(&g, "a", "all", 8);
    layout_expect_part(&g, "c", "all", 11);
    layout_expect_gap(&g, "a", 1);
    graph_release(&g);
}
