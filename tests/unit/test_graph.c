/* Building graphs, and what graph_check() makes of them. */
#include "engine/graph/graph.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static struct graph g;
static struct cvd_error err;

static void setup(void)
{
    cr_assert_eq(graph_init(&g, &err), CVD_STATUS_OK);
}

static void teardown(void)
{
    graph_release(&g);
}

TestSuite(graph, .init = setup, .fini = teardown);

static uint32_t value(const char *name)
{
    uint32_t v;
    cr_assert_eq(graph_add_value(&g, name, &v, &err), CVD_STATUS_OK);
    return v;
}

static void node(const char *name, uint32_t in1, uint32_t in2, uint32_t out)
{
    const uint32_t in[] = {in1, in2};
    const struct graph_node n = {.op = "Add",
                                 .domain = "",
                                 .name = name,
                                 .in = in,
                                 .in_count = 2,
                                 .out = &out,
                                 .out_count = 1};
    cr_assert_eq(graph_add_node(&g, &n, &err), CVD_STATUS_OK);
}

static void input(uint32_t v)
{
    cr_assert_eq(graph_add_input(&g, v, &err), CVD_STATUS_OK);
}

static void output(uint32_t v)
{
    cr_assert_eq(graph_add_output(&g, v, &err), CVD_STATUS_OK);
}

static void refused(const char *part1, const char *part2)
{
    cr_assert_eq(graph_check(&g, &err), CVD_STATUS_INVALID_MODEL);
    cr_assert_neq(strstr(err.message, part1), NULL, "'%s' lacks '%s'", err.message, part1);
    cr_assert_neq(strstr(err.message, part2), NULL, "'%s' lacks '%s'", err.message, part2);
}

static void ordered(const char *names)
{
    cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(g.node_count, strlen(names));
    for (uint32_t i = 0; i < g.node_count; i++)
        cr_assert_eq(g.nodes[i].name[0], names[i], "place %u has %s", i, g.nodes[i].name);
}

Test(graph, release_of_nothing, .init = NULL, .fini = NULL)
{
    struct graph zero = {0};
    graph_release(&zero);
    graph_release(&zero);
}

Test(graph, values_are_numbered_and_named)
{
    char name[] = "abc";
    cr_assert_eq(value(name), 0);
    cr_assert_eq(value(NULL), 1);
    name[0] = 'x'; /* the graph has a copy */
    for (uint32_t i = 2; i < 1000; i++)
        cr_assert_eq(value("v"), i);
    cr_assert_str_eq(g.values[0].name, "abc");
    cr_assert_eq(g.values[1].name, NULL);
    cr_assert_eq(g.values[0].dtype, CVD_DTYPE_NONE);
    cr_assert_not(g.values[0].has_shape);
}

Test(graph, initializers_hold_a_copy)
{
    float data[6] = {1, 2, 3, 4, 5, 6};
    const struct cvd_shape shape = {2, {2, 3}}, empty = {1, {0}};
    uint32_t v, w, z;
    cr_assert_eq(graph_add_initializer(&g, "w", CVD_DTYPE_FLOAT32, &shape, data, &v, &err), 0);
    cr_assert_eq(graph_add_initializer(&g, "u", CVD_DTYPE_INT64, &shape, NULL, &w, &err), 0);
    cr_assert_eq(graph_add_initializer(&g, "e", CVD_DTYPE_INT64, &empty, NULL, &z, &err), 0);
    data[0] = 9;
    cr_assert_eq(g.values[v].bytes, 24);
    cr_assert_eq(((float *)g.values[v].data)[0], 1);
    cr_assert_eq(((float *)g.values[v].data)[5], 6);
    cr_assert_eq((uintptr_t)g.values[v].data % MEM_ALIGN, 0);
    cr_assert_eq(g.values[w].bytes, 48);
    cr_assert_eq(g.values[z].bytes, 0);
    cr_assert_neq(g.values[z].data, NULL); /* it is an initializer all the same */
    cr_assert(cvd_shape_equal(&g.values[v].shape, &shape));
}

Test(graph, impossible_initializers)
{
    const struct cvd_shape huge = {2, {INT64_MAX / 4, 2}}, open = {1, {CVD_DIM_BATCH}},
                           one = {1, {1}};
    uint32_t v = 77;
    cr_assert_eq(graph_add_initializer(&g, "w", CVD_DTYPE_FLOAT64, &huge, NULL, &v, &err),
                 CVD_STATUS_INVALID_ARGUMENT);
    cr_assert_eq(graph_add_initializer(&g, NULL, CVD_DTYPE_INT8, &open, NULL, &v, &err),
                 CVD_STATUS_INVALID_ARGUMENT);
    cr_assert_eq(graph_add_initializer(&g, "w", CVD_DTYPE_NONE, &one, NULL, &v, &err),
                 CVD_STATUS_INVALID_ARGUMENT);
    cr_assert_eq(v, 77);
    cr_assert_eq(g.value_count, 0);
}

Test(graph, nodes_are_copied_deeply)
{
    uint32_t in[] = {value("a"), GRAPH_NONE}, out[] = {value("b"), GRAPH_NONE};
    char text[] = "SAME_UPPER";
    int64_t ints[] = {1, -2, 3};
    float floats[] = {0.5f}, weights[] = {7, 8};
    const char *strings[] = {text, ""};
    struct op_attr attrs[] = {
        {.name = "i", .type = OP_ATTR_INT, .i = -5},
        {.name = "f", .type = OP_ATTR_FLOAT, .f = 1.5f},
        {.name = text, .type = OP_ATTR_STRING, .s = text},
        {.name = "ints", .type = OP_ATTR_INTS, .count = 3, .ints = ints},
        {.name = "floats", .type = OP_ATTR_FLOATS, .count = 1, .floats = floats},
        {.name = "strings", .type = OP_ATTR_STRINGS, .count = 2, .strings = strings},
        {.name = "t",
         .type = OP_ATTR_TENSOR,
         .tensor = {CVD_DTYPE_FLOAT32, {1, {2}}, weights, {0}}},
        {.name = "none", .type = OP_ATTR_INTS},
    };
    const struct graph_node n = {"Conv", "", text, attrs, 8, in, 2, out, 2, NULL};
    cr_assert_eq(graph_add_node(&g, &n, &err), CVD_STATUS_OK);
    memset(in, 0xff, sizeof(in));
    memset(out, 0xff, sizeof(out));
    memset(text, '#', 3);
    memset(ints, 0, sizeof(ints));
    memset(floats, 0, sizeof(floats));
    memset(weights, 0, sizeof(weights));
    memset(attrs, 0, sizeof(attrs));

    const struct graph_node *copy = &g.nodes[0];
    cr_assert_str_eq(copy->op, "Conv");
    cr_assert_str_eq(copy->name, "SAME_UPPER");
    cr_assert_eq(copy->in[0], 0);
    cr_assert_eq(copy->in[1], GRAPH_NONE);
    cr_assert_eq(copy->out[0], 1);
    cr_assert_eq(copy->attr_count, 8);
    cr_assert_eq(copy->attrs[0].i, -5);
    cr_assert_eq(copy->attrs[1].f, 1.5f);
    cr_assert_str_eq(copy->attrs[2].name, "SAME_UPPER");
    cr_assert_str_eq(copy->attrs[2].s, "SAME_UPPER");
    cr_assert_eq(copy->attrs[3].count, 3);
    cr_assert_eq(copy->attrs[3].ints[1], -2);
    cr_assert_eq(copy->attrs[4].floats[0], 0.5f);
    cr_assert_str_eq(copy->attrs[5].strings[0], "SAME_UPPER");
    cr_assert_str_eq(copy->attrs[5].strings[1], "");
    const float *copied = copy->attrs[6].tensor.data;
    cr_assert_eq(copied[1], 8);
    cr_assert_eq((uintptr_t)copied % MEM_ALIGN, 0);
    cr_assert_eq(copy->attrs[7].count, 0);
}

Test(graph, opsets_and_metadata)
{
    for (int i = 0; i < 20; i++) {
        char domain[16];
        snprintf(domain, sizeof(domain), "d%d", i);
        cr_assert_eq(graph_add_opset(&g, domain, i + 1, &err), CVD_STATUS_OK);
        cr_assert_eq(graph_add_metadata(&g, domain, "x", &err), CVD_STATUS_OK);
    }
    cr_assert_eq(graph_opset(&g, "d0"), 1);
    cr_assert_eq(graph_opset(&g, "d19"), 20);
    cr_assert_eq(graph_opset(&g, ""), 0);
    cr_assert_eq(g.metadata_count, 20);
    cr_assert_str_eq(g.metadata[19].key, "d19");
}

Test(graph, counts_are_capped)
{
    uint32_t v;
    for (uint32_t i = 0; i < GRAPH_MAX_OPSETS; i++)
        cr_assert_eq(graph_add_opset(&g, "d", 1, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_opset(&g, "d", 1, &err), CVD_STATUS_UNSUPPORTED);
    for (uint32_t i = 0; i < GRAPH_MAX_METADATA; i++)
        cr_assert_eq(graph_add_metadata(&g, "k", "v", &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_metadata(&g, "k", "v", &err), CVD_STATUS_UNSUPPORTED);
    for (uint32_t i = 0; i < GRAPH_MAX_VALUES; i++)
        cr_assert_eq(graph_add_value(&g, NULL, &v, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_value(&g, NULL, &v, &err), CVD_STATUS_UNSUPPORTED);
    for (uint32_t i = 0; i < GRAPH_MAX_VALUES; i++)
        cr_assert_eq(graph_add_output(&g, 0, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_output(&g, 0, &err), CVD_STATUS_UNSUPPORTED);
    const struct graph_node n = {.op = "X", .domain = "", .name = ""};
    for (uint32_t i = 0; i < GRAPH_MAX_NODES; i++)
        cr_assert_eq(graph_adopt_node(&g, &n, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_adopt_node(&g, &n, &err), CVD_STATUS_UNSUPPORTED);
    cr_assert_str_eq(err.message, "the model has more than 200000 nodes");
}

Test(graph, node_text)
{
    char text[GRAPH_NODE_TEXT_BYTES], name[300];
    struct graph_node n = {.op = "Conv", .name = "stem"};
    cr_assert_str_eq(graph_node_text(&n, 3, text), "Conv 'stem'");
    n.name = "";
    cr_assert_str_eq(graph_node_text(&n, 3, text), "Conv (node 3)");
    memset(name, 'n', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    n.name = n.op = name;
    cr_assert_lt(strlen(graph_node_text(&n, 3, text)), GRAPH_NODE_TEXT_BYTES);
}

/* ---- graph_check ---- */

Test(graph, a_legal_order_is_kept)
{
    /* b and c do not depend on each other; breadth first from the end would swap them. */
    uint32_t x = value("x"), p = value("p"), q = value("q"), r = value("r"), y = value("y");
    input(x);
    node("a", x, x, p);
    node("b", x, GRAPH_NONE, q);
    node("c", p, x, r);
    node("d", r, q, y);
    output(y);
    ordered("abcd");
}

Test(graph, nodes_move_only_as_far_as_needed)
{
    uint32_t x = value("x"), p = value("p"), q = value("q"), r = value("r"), y = value("y");
    input(x);
    node("d", q, r, y); /* needs b and c, which stand behind it */
    node("a", x, x, p);
    node("b", x, x, q);
    node("c", p, x, r); /* needs a */
    output(y);
    ordered("bacd");
}

Test(graph, outputs_may_be_inputs_or_initializers)
{
    const struct cvd_shape one = {1, {1}};
    uint32_t x = value("x"), w;
    cr_assert_eq(graph_add_initializer(&g, "w", CVD_DTYPE_FLOAT32, &one, NULL, &w, &err), 0);
    input(x);
    output(x);
    output(w);
    ordered("");
}

Test(graph, no_outputs)
{
    input(value("x"));
    refused("no outputs", "");
}

Test(graph, undefined_input)
{
    uint32_t x = value("x"), w = value("weight"), y = value("y");
    input(x);
    node("first", x, w, y);
    output(y);
    refused("Add 'first'", "input 1, 'weight'");
}

Test(graph, undefined_input_without_a_name)
{
    uint32_t w = value(NULL), y = value("y");
    node("", w, w, y);
    output(y);
    refused("Add (node 0)", "value 0");
}

Test(graph, undefined_output)
{
    input(value("x"));
    output(value("y"));
    refused("'y'", "not the output of any node");
}

Test(graph, output_listed_twice)
{
    uint32_t x = value("x");
    input(x);
    output(x);
    output(x);
    refused("'x'", "twice");
}

Test(graph, input_listed_twice)
{
    uint32_t x = value("x");
    input(x);
    input(x);
    output(x);
    refused("'x'", "twice");
}

Test(graph, two_nodes_define_a_value)
{
    uint32_t x = value("x"), y = value("y");
    input(x);
    node("one", x, x, y);
    node("two", x, x, y);
    output(y);
    refused("'two'", "'y'");
}

Test(graph, a_node_defines_an_input)
{
    uint32_t x = value("x");
    input(x);
    node("one", x, x, x);
    output(x);
    refused("'one'", "'x'");
}

Test(graph, a_node_defines_an_initializer)
{
    const struct cvd_shape one = {1, {1}};
    uint32_t w;
    cr_assert_eq(graph_add_initializer(&g, "w", CVD_DTYPE_FLOAT32, &one, NULL, &w, &err), 0);
    node("one", w, w, w);
    output(w);
    refused("'one'", "'w'");
}

Test(graph, cycle_of_one)
{
    uint32_t y = value("y");
    node("self", y, y, y);
    output(y);
    refused("cycle", "'self'");
}

Test(graph, cycle_of_three)
{
    uint32_t x = value("x"), p = value("p"), q = value("q"), r = value("r"), y = value("y");
    input(x);
    node("before", x, x, y);
    node("a", x, r, p);
    node("b", x, p, q);
    node("c", x, q, r);
    output(y);                         /* does not need the cycle, which is wrong all the same */
    refused("cycle", "'b' reads 'p'"); /* found on the way back from a */
}

/* A chain in the worst order: each node needs the one behind it. */
Test(graph, a_reversed_chain_takes_linear_time)
{
    enum { N = 150000 };
    uint32_t first = value(NULL);
    for (uint32_t i = 1; i <= N; i++)
        value(NULL);
    input(first);
    for (uint32_t i = N; i > 0; i--)
        node("", first + i - 1, first, first + i);
    output(first + N);
    clock_t begin = clock();
    cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OK);
    cr_assert_lt(clock() - begin, CLOCKS_PER_SEC);
    for (uint32_t i = 0; i < N; i++)
        cr_assert_eq(g.nodes[i].out[0], first + i + 1);
}

/* Adds one of everything, with texts so long that each takes an allocation of its own. */
static enum cvd_status build_large(struct graph *to)
{
    static char text[40001];
    static float numbers[10000];
    const char *strings[] = {text};
    const struct cvd_shape shape = {1, {10000}};
    uint32_t v = 0;
    memset(text, 't', sizeof(text) - 1);
    const struct op_attr attrs[] = {
        {.name = text, .type = OP_ATTR_STRING, .s = text},
        {.name = "f", .type = OP_ATTR_FLOATS, .count = 10000, .floats = numbers},
        {.name = "s", .type = OP_ATTR_STRINGS, .count = 1, .strings = strings},
        {.name = "t", .type = OP_ATTR_TENSOR, .tensor = {CVD_DTYPE_FLOAT32, shape, numbers, {0}}},
    };
    const struct graph_node n = {text, text, text, attrs, 4, &v, 1, &v, 1, NULL};
    enum cvd_status status;
    if ((status = graph_init(to, &err)) || (status = graph_add_value(to, text, &v, &err)) ||
        (status = graph_add_initializer(to, text, CVD_DTYPE_FLOAT32, &shape, numbers, &v, &err)) ||
        (status = graph_add_node(to, &n, &err)) || (status = graph_add_input(to, v, &err)) ||
        (status = graph_add_output(to, v, &err)) || (status = graph_add_opset(to, text, 1, &err)))
        return status;
    return graph_add_metadata(to, text, text, &err);
}

/* Every allocation fails once, and then all of them from there on. */
Test(graph, building_survives_want_of_memory)
{
    for (int forever = 0; forever < 2; forever++) {
        size_t n = 0;
        enum cvd_status status;
        do {
            struct graph large;
            mem_fail_after(++n, forever);
            status = build_large(&large);
            mem_fail_after(0, false);
            cr_assert(!status || status == CVD_STATUS_OUT_OF_MEMORY, "%zu: %s", n, err.message);
            cr_assert(status || (large.value_count == 2 && large.metadata_count == 1));
            graph_release(&large);
            cr_assert_lt(n, 1000);
        } while (status);
        cr_assert_gt(n, 20);
    }
}

Test(graph, checking_survives_want_of_memory)
{
    uint32_t x = value("x"), y = value("y");
    input(x);
    node("a", x, x, y);
    output(y);
    for (size_t n = 1; n <= 2; n++) {
        mem_fail_after(n, true);
        cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OUT_OF_MEMORY);
        mem_fail_after(0, false);
    }
    ordered("a");
}
