/* Whether a graph's nodes and values fit together, and the order in which its nodes can run. */
#include "engine/graph/graph.h"

#include <stdio.h>
#include <string.h>

/* Who defines a value: a node's index, or one of these. */
#define BY_NOBODY UINT32_MAX
#define BY_SOURCE (UINT32_MAX - 1) /* a graph input or an initializer */
#define BY_OUTPUT (UINT32_MAX - 2) /* defined, and met in the list of graph outputs */

/* How far the sort is with a node: the next input to look at, or one of these. */
#define NOT_BEGUN UINT32_MAX
#define PLACED    (UINT32_MAX - 1)

struct check {
    struct graph *g;
    struct cvd_error *err;
    uint32_t *definer;  /* of each value */
    uint32_t *progress; /* of each node */
    uint32_t *stack;    /* nodes begun and not placed, each waiting for the one above it */
    uint32_t *order;    /* the result: nodes in the order they can run */
};

static const char *value_text(const struct graph *g, uint32_t value, char text[80])
{
    const char *name = g->values[value].name;
    if (name)
        snprintf(text, 80, "'%.70s'", name);
    else
        snprintf(text, 80, "value %u", value);
    return text;
}

static enum cvd_status find_definers(struct check *c)
{
    const struct graph *g = c->g;
    char who[80], node[GRAPH_NODE_TEXT_BYTES];
    for (uint32_t v = 0; v < g->value_count; v++)
        c->definer[v] = g->values[v].data ? BY_SOURCE : BY_NOBODY;
    for (uint32_t i = 0; i < g->input_count; i++) {
        uint32_t v = g->inputs[i];
        if (c->definer[v] != BY_NOBODY)
            return cvd_error_set(c->err, CVD_STATUS_INVALID_MODEL,
                                 "graph input %s is defined twice", value_text(g, v, who));
        c->definer[v] = BY_SOURCE;
    }
    for (uint32_t n = 0; n < g->node_count; n++)
        for (size_t i = 0; i < g->nodes[n].out_count; i++) {
            uint32_t v = g->nodes[n].out[i];
            if (v == GRAPH_NONE)
                continue;
            if (c->definer[v] != BY_NOBODY)
                return cvd_error_set(c->err, CVD_STATUS_INVALID_MODEL,
                                     "%s: output %s is defined elsewhere already",
                                     graph_node_text(&g->nodes[n], n, node), value_text(g, v, who));
            c->definer[v] = n;
        }
    return CVD_STATUS_OK;
}

static enum cvd_status check_inputs(const struct check *c)
{
    const struct graph *g = c->g;
    char who[80], node[GRAPH_NODE_TEXT_BYTES];
    for (uint32_t n = 0; n < g->node_count; n++)
        for (size_t i = 0; i < g->nodes[n].in_count; i++) {
            uint32_t v = g->nodes[n].in[i];
            if (v != GRAPH_NONE && c->definer[v] == BY_NOBODY)
                return cvd_error_set(
                    c->err, CVD_STATUS_INVALID_MODEL,
                    "%s: input %zu, %s, is no graph input, no initializer and no node's output",
                    graph_node_text(&g->nodes[n], n, node), i, value_text(g, v, who));
        }
    return CVD_STATUS_OK;
}

/* Depth first, from each node in the file's order: a node is placed right after the last node it
 * needs. Nodes in a legal order are therefore placed in that order. */
static enum cvd_status sort(struct check *c)
{
    const struct graph *g = c->g;
    uint32_t placed = 0;
    for (uint32_t n = 0; n < g->node_count; n++)
        c->progress[n] = NOT_BEGUN;
    for (uint32_t root = 0; root < g->node_count; root++) {
        if (c->progress[root] != NOT_BEGUN)
            continue;
        uint32_t depth = 0;
        c->progress[root] = 0;
        c->stack[depth++] = root;
        while (depth > 0) {
            uint32_t n = c->stack[depth - 1];
            if (c->progress[n] == g->nodes[n].in_count) {
                c->progress[n] = PLACED;
                c->order[placed++] = n;
                depth--;
                continue;
            }
            uint32_t v = g->nodes[n].in[c->progress[n]++];
            if (v == GRAPH_NONE || c->definer[v] == BY_SOURCE)
                continue;
            uint32_t needed = c->definer[v];
            if (c->progress[needed] == NOT_BEGUN) {
                c->progress[needed] = 0;
                c->stack[depth++] = needed;
            } else if (c->progress[needed] != PLACED) {
                char who[80], node[GRAPH_NODE_TEXT_BYTES];
                return cvd_error_set(c->err, CVD_STATUS_INVALID_MODEL,
                                     "the graph has a cycle: %s reads %s, which is computed from "
                                     "that node's own output",
                                     graph_node_text(&g->nodes[n], n, node), value_text(g, v, who));
            }
        }
    }
    return CVD_STATUS_OK;
}

static enum cvd_status check_outputs(struct check *c)
{
    const struct graph *g = c->g;
    char who[80];
    if (g->output_count == 0)
        return cvd_error_set(c->err, CVD_STATUS_INVALID_MODEL, "the graph has no outputs");
    for (uint32_t i = 0; i < g->output_count; i++) {
        uint32_t v = g->outputs[i];
        if (c->definer[v] == BY_NOBODY)
            return cvd_error_set(c->err, CVD_STATUS_INVALID_MODEL,
                                 "graph output %s is not the output of any node",
                                 value_text(g, v, who));
        if (c->definer[v] == BY_OUTPUT)
            return cvd_error_set(c->err, CVD_STATUS_INVALID_MODEL,
                                 "graph output %s is listed twice", value_text(g, v, who));
        c->definer[v] = BY_OUTPUT;
    }
    return CVD_STATUS_OK;
}

/* Puts the nodes in the order found; `moved` has room for all of them. */
static void reorder(struct check *c, struct graph_node *moved)
{
    for (uint32_t i = 0; i < c->g->node_count; i++)
        moved[i] = c->g->nodes[c->order[i]];
    memcpy(c->g->nodes, moved, c->g->node_count * sizeof(*moved));
}

enum cvd_status graph_check(struct graph *g, struct cvd_error *err)
{
    /* Both counts are capped far below where these sizes could overflow. */
    size_t nodes = g->node_count, values = g->value_count;
    uint32_t *numbers = mem_alloc((values + 3 * nodes) * sizeof(*numbers));
    struct graph_node *moved = mem_alloc(nodes * sizeof(*moved));
    enum cvd_status status;
    if (!numbers || !moved) {
        status =
            cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "out of memory while checking the graph");
        goto done;
    }
    struct check c = {.g = g,
                      .err = err,
                      .definer = numbers,
                      .progress = numbers + values,
                      .stack = numbers + values + nodes,
                      .order = numbers + values + 2 * nodes};
    if ((status = find_definers(&c)) || (status = check_inputs(&c)) || (status = sort(&c)) ||
        (status = check_outputs(&c)))
        goto done;
    if (nodes > 0)
        reorder(&c, moved);
done:
    mem_free(numbers);
    mem_free(moved);
    return status;
}
