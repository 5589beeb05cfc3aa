/*
 * Small graphs, laid out for portable C, whose vectors have 4 lanes: what they become; and that
 * they compute the same as they are written, at every CPU level.
 */
#ifndef CONVD_TESTS_UNIT_LAYOUT_FIXTURE_H
#define CONVD_TESTS_UNIT_LAYOUT_FIXTURE_H

#include "tests/support/same_answers.h"
#include "tests/unit/pass_fixture.h"

#define LANES 4
#define B     "convd.blocked." /* what operators on maps are called */

typedef void (*layout_make_fn)(struct graph *g);

static inline void layout_make(void *ctx, struct graph *g)
{
    (*(layout_make_fn *)ctx)(g);
}

/* Makes the graph and lays it out; it has to become the operators `ops`. */
static inline void layout_lay_out(struct graph *g, layout_make_fn fn, const char *what,
                                  const char *ops)
{
    fn(g);
    pass_apply_list(g, passes_all);
    cr_assert_str_eq(pass_ops(g), ops, "%s becomes %s", what, pass_ops(g));
}

/* It computes what it should. */
static inline void layout_check_answers(layout_make_fn fn, const char *what)
{
    for (enum cvd_cpu level = CVD_CPU_C; level < CVD_CPU_COUNT; level++) {
        struct same_answers s;
        if (!same_answers_can(level))
            continue;
        same_answers_begin(&s, level);
        same_answers_check(&s, layout_make, &fn, what);
        same_answers_end(&s);
    }
}

static inline void layout_check(layout_make_fn fn, const char *what, const char *ops)
{
    struct graph g;
    layout_lay_out(&g, fn, what, ops);
    graph_release(&g);
    layout_check_answers(fn, what);
}

#define LAY_OUT(g, fn, ops) layout_lay_out(g, fn, #fn, ops)
#define CHECK_ANSWERS(fn)   layout_check_answers(fn, #fn)
#define CHECK(fn, ops)      layout_check(fn, #fn, ops)

/* The map that a node computes; the test fails where there is none, or several. */
static inline const struct graph_value *layout_map(const struct graph *g, const char *name)
{
    const struct graph_value *found = NULL;
    for (uint32_t n = 0; n < g->node_count; n++) {
        const struct graph_value *v = &g->values[g->nodes[n].out[0]];
        if (v->layout.lanes == 0 || v->name == NULL || strcmp(v->name, name) != 0)
            continue;
        cr_assert_null(found, "there are two maps of %s", name);
        found = v;
    }
    cr_assert_not_null(found, "there is no map of %s", name);
    return found;
}

static inline void layout_expect_gap(const struct graph *g, const char *name, unsigned gap)
{
    const struct graph_value *v = layout_map(g, name);
    cr_assert_eq(v->layout.gap, gap, "the gap of %s is %u, not %u", name, v->layout.gap, gap);
}

/* `name` begins at that block of the map `whole`; NULL: it is a map of its own. */
static inline void layout_expect_part(const struct graph *g, const char *name, const char *whole,
                                      uint32_t first_block)
{
    const struct graph_value *v = layout_map(g, name);
    if (whole == NULL) {
        cr_assert_eq(v->whole, GRAPH_NONE, "%s is a part of %s", name, g->values[v->whole].name);
        cr_assert_eq(v->layout.blocks, 0);
        return;
    }
    cr_assert_neq(v->whole, GRAPH_NONE, "%s is no part", name);
    cr_assert_str_eq(g->values[v->whole].name, whole);
    cr_assert_eq(v->first_block, first_block, "%s begins at block %u", name, v->first_block);
    cr_assert_eq(v->layout.gap, g->values[v->whole].layout.gap);
    cr_assert_eq(g->values[v->whole].whole, GRAPH_NONE);
}

/* ---- pieces of graphs ---- */

/* An empty graph with the input x, [N, channels, size, size]. */
static inline uint32_t layout_input(struct graph *g, int64_t channels, int64_t size)
{
    net_init(g);
    return net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, channels, size, size));
}

/* A convolution that keeps the size, with a kernel of k x k; the seed is in its name. */
static inline uint32_t layout_conv(struct graph *g, const char *name, uint32_t x, int64_t in,
                                   int64_t out, int64_t k)
{
    const int64_t p = k / 2;
    const struct op_attr attrs[] = {PASS_INTS("pads", p, p, p, p)};
    const float scale = sqrtf(3 / (float)(in * k * k));
    const uint32_t w = net_weights(g, NULL, NET_SHAPE(out, in, k, k), scale, 7 + (uint32_t)name[0]);
    const uint32_t b = net_weights(g, NULL, NET_SHAPE(out), 0.5f, 8 + (uint32_t)name[0]);
    return NET_OP_ATTRS(g, "Conv", name, attrs, x, w, b);
}

/* One of as many groups as channels, or of fewer. */
static inline uint32_t layout_conv_groups(struct graph *g, const char *name, uint32_t x, int64_t in,
                                          int64_t out, int64_t groups)
{
    const struct op_attr attrs[] = {PASS_INTS("pads", 1, 1, 1, 1), PASS_INT("group", groups)};
    const uint32_t w = net_weights(g, NULL, NET_SHAPE(out, in / groups, 3, 3), 0.5f, 9);
    return NET_OP_ATTRS(g, "Conv", name, attrs, x, w);
}

static inline uint32_t layout_concat(struct graph *g, const char *name, const uint32_t *in)
{
    const struct op_attr axis[] = {PASS_INT("axis", 1)};
    return net_node(g, "Concat", name, axis, 1, in);
}

#define CONCAT(g, name, ...) layout_concat(g, name, (const uint32_t[]){__VA_ARGS__, NET_END})

/* The node that was added last gets another output. */
static inline uint32_t layout_more_output(struct graph *g, const char *name)
{
    struct graph_node *node = &g->nodes[g->node_count - 1];
    uint32_t *out = mem_arena_alloc(g->arena, (node->out_count + 1) * sizeof(*out));
    cr_assert_not_null(out);
    memcpy(out, node->out, node->out_count * sizeof(*out));
    const uint32_t more = out[node->out_count] = net_value(g, name);
    node->out = out;
    node->out_count++;
    return more;
}

/* MaxPool or AveragePool with 2 x 2 windows, stride 2. */
static inline uint32_t layout_half(struct graph *g, const char *op, const char *name, uint32_t x)
{
    const struct op_attr attrs[] = {PASS_INTS("kernel_shape", 2, 2), PASS_INTS("strides", 2, 2)};
    return NET_OP_ATTRS(g, op, name, attrs, x);
}

#endif
