/* Layout assignment (layout.h): the walk over the nodes. */
#include "engine/graph/layout.h"

#include <string.h>

/* ---- appending nodes ---- */

static bool copy_numbers(const struct layout *l, const uint32_t **numbers, size_t count)
{
    uint32_t *copy = mem_arena_alloc(l->p->g->arena, count * sizeof(*copy));
    if (copy == NULL)
        return false;
    for (size_t i = 0; i < count; i++)
        copy[i] = (*numbers)[i];
    *numbers = copy;
    return true;
}

enum cvd_status layout_emit(struct layout *l, const struct layout_node *node)
{
    if (l->count == l->room) {
        uint32_t room = l->room > 0 ? 2 * l->room : 64;
        struct layout_node *nodes = mem_alloc(room * sizeof(*nodes));
        if (nodes == NULL)
            return pass_no_memory(l->p);
        if (l->count > 0)
            memcpy(nodes, l->nodes, l->count * sizeof(*nodes));
        mem_free(l->nodes);
        l->nodes = nodes;
        l->room = room;
    }
    struct layout_node *copy = &l->nodes[l->count++];
    *copy = *node;
    return copy_numbers(l, &copy->node.in, copy->node.in_count) &&
                   copy_numbers(l, &copy->node.out, copy->node.out_count)
               ? CVD_STATUS_OK
               : pass_no_memory(l->p);
}

/* A new value that holds what v does. */
static enum cvd_status add_value(struct layout *l, uint32_t v, bool map, uint32_t *out)
{
    struct graph *g = l->p->g;
    enum cvd_status status = graph_add_value(g, g->values[v].name, out, l->p->err);
    if (status == CVD_STATUS_OK && map)
        g->values[*out].layout.lanes = l->lanes;
    return status;
}

static enum cvd_status reorder(struct layout *l, uint32_t from, uint32_t to)
{
    const struct graph_node node = {.op = "Reorder",
                                    .domain = BLOCKED_DOMAIN,
                                    .name = "",
                                    .in = &from,
                                    .in_count = 1,
                                    .out = &to,
                                    .out_count = 1};
    return layout_emit(l, &(struct layout_node){.node = node});
}

enum cvd_status layout_want(struct layout *l, uint32_t v, bool map, uint32_t *out)
{
    uint32_t *has = map ? &l->maps[v] : &l->plains[v];
    enum cvd_status status = CVD_STATUS_OK;
    if (*has == GRAPH_NONE) {
        uint32_t made;
        status = add_value(l, v, map, &made);
        if (status == CVD_STATUS_OK)
            status = reorder(l, map ? l->plains[v] : l->maps[v], made);
        *has = made;
    }
    *out = *has;
    return status;
}

enum cvd_status layout_emit_map(struct layout *l, const struct layout_node *node, uint32_t v)
{
    struct layout_node copy = *node;
    enum cvd_status status = CVD_STATUS_OK;
    uint32_t out = v;
    if (l->is_output[v]) /* which is plain */
        status = add_value(l, v, true, &out);
    else
        l->p->g->values[v].layout.lanes = l->lanes;
    copy.node.out = &out;
    copy.node.out_count = 1;
    if (status == CVD_STATUS_OK)
        status = layout_emit(l, &copy);
    l->maps[v] = out;
    l->makers[v] = l->count - 1;
    if (status == CVD_STATUS_OK && out != v) {
        l->plains[v] = v;
        status = reorder(l, out, v);
    }
    return status;
}

/* ---- nodes ---- */

/* A node that knows plain values only. */
static enum cvd_status keep(struct layout *l, const struct graph_node *node)
{
    uint32_t *in = mem_arena_alloc(l->p->g->arena, node->in_count * sizeof(*in));
    if (in == NULL)
        return pass_no_memory(l->p);
    enum cvd_status status = CVD_STATUS_OK;
    for (size_t i = 0; i < node->in_count && status == CVD_STATUS_OK; i++) {
        in[i] = GRAPH_NONE;
        if (node->in[i] != GRAPH_NONE)
            status = layout_want(l, node->in[i], false, &in[i]);
    }
    struct layout_node copy = {.node = *node};
    copy.node.in = in;
    for (size_t i = 0; i < node->out_count; i++) {
        if (node->out[i] != GRAPH_NONE)
            l->plains[node->out[i]] = node->out[i];
    }
    return status == CVD_STATUS_OK ? layout_emit(l, &copy) : status;
}

static enum cvd_status convert(struct layout *l, const struct graph_node *node,
                               const struct layout_choice *c)
{
    uint32_t in[5];
    enum cvd_status status = pass_use_domain(l->p, BLOCKED_DOMAIN, BLOCKED_VERSION);
    for (size_t i = 0; i < c->in_count && status == CVD_STATUS_OK; i++) {
        in[i] = c->in[i];
        if (in[i] != GRAPH_NONE)
            status = layout_want(l, c->in[i], c->maps >> i & 1, &in[i]);
    }
    if (status != CVD_STATUS_OK)
        return status;
    struct layout_node made = {.node = *node, .gap = c->gap, .residual = c->residual};
    made.node.op = c->op;
    made.node.domain = BLOCKED_DOMAIN;
    made.node.label = node->label != NULL ? node->label : node->op;
    made.node.in = in;
    made.node.in_count = c->in_count;
    made.node.attrs = c->attrs;
    made.node.attr_count = c->attr_count;
    made.node.out_count = 1; /* nobody reads others (layout_choose) */
    if (c->map_out)
        return layout_emit_map(l, &made, node->out[0]);
    l->plains[node->out[0]] = node->out[0];
    return layout_emit(l, &made);
}

/* Lets an operator that knows activations, and whose result nothing else reads, apply that of
 * node n. */
static enum cvd_status fuse_activation(struct layout *l, uint32_t n, bool *done)
{
    static const char *const able[] = {"BatchNormalization", "MaxPool", "AveragePool", "Add",
                                       "Mul"};
    const struct graph_node *node = &l->p->g->nodes[n];
    uint32_t x = node->in_count > 0 ? node->in[0] : GRAPH_NONE;
    struct activation a;
    *done = false;
    if (x == GRAPH_NONE || l->maps[x] != x || l->p->uses[x] != 1 || l->makers[x] == GRAPH_NONE ||
        !pass_read_activation(l->p, n, &a))
        return CVD_STATUS_OK;
    struct layout_node *maker = &l->nodes[l->makers[x]];
    for (size_t i = 0; i < sizeof(able) / sizeof(*able) && !*done; i++)
        *done = strcmp(maker->node.op, able[i]) == 0;
    *done = *done && pass_attr(&maker->node, "activation") == NULL;
    if (!*done)
        return CVD_STATUS_OK;
    const struct op_attr attrs[] = {
        {.name = "activation", .type = OP_ATTR_STRING, .s = activation_name(a.kind)},
        {.name = "activation_alpha", .type = OP_ATTR_FLOAT, .f = a.alpha},
        {.name = "activation_beta", .type = OP_ATTR_FLOAT, .f = a.beta}};
    struct layout_node fused = *maker;
    fused.node.attrs = pass_attrs(l->p, &maker->node, attrs, 3, &fused.node.attr_count);
    fused.node.label = pass_label(l->p, &maker->node, activation_label(a.kind));
    if (fused.node.attrs == NULL || fused.node.label == NULL)
        return pass_no_memory(l->p);
    /* What made x makes nothing now: it is dropped, and this node stands where n did. */
    maker->node.out_count = 0;
    maker->node.in_count = 0;
    return layout_emit_map(l, &fused, node->out[0]);
}

static enum cvd_status take(struct layout *l, uint32_t n)
{
    const struct graph_node *node = &l->p->g->nodes[n];
    struct layout_choice choice;
    bool done = false;
    enum cvd_status status = fuse_activation(l, n, &done);
    if (status == CVD_STATUS_OK && !done)
        status = layout_rearrange(l, n, &done);
    if (status == CVD_STATUS_OK && !done)
        status = layout_scale(l, n, &done);
    if (status != CVD_STATUS_OK || done)
        return status;
    return layout_choose(l, n, &choice) ? convert(l, node, &choice) : keep(l, node);
}

/* ---- the pass ---- */

/* Drops the nodes whose outputs nobody reads. */
static enum cvd_status drop_dead(struct layout *l)
{
    struct graph *g = l->p->g;
    bool *needed = mem_alloc(g->value_count * sizeof(*needed));
    if (needed == NULL)
        return pass_no_memory(l->p);
    memset(needed, 0, g->value_count * sizeof(*needed));
    for (uint32_t i = 0; i < g->output_count; i++)
        needed[g->outputs[i]] = true;
    uint32_t kept = l->count;
    for (uint32_t n = l->count; n-- > 0;) {
        const struct layout_node node = l->nodes[n];
        bool wanted = false;
        for (size_t i = 0; i < node.node.out_count; i++)
            wanted |= node.node.out[i] != GRAPH_NONE && needed[node.node.out[i]];
        if (!wanted)
            continue;
        for (size_t i = 0; i < node.node.in_count; i++) {
            if (node.node.in[i] != GRAPH_NONE)
                needed[node.node.in[i]] = true;
        }
        l->nodes[--kept] = node;
    }
    l->count -= kept;
    if (l->count > 0)
        memmove(l->nodes, l->nodes + kept, l->count * sizeof(*l->nodes));
    mem_free(needed);
    return CVD_STATUS_OK;
}

/* The new nodes take the old ones' place. */
static enum cvd_status adopt(struct layout *l)
{
    struct graph *g = l->p->g;
    g->node_count = 0;
    enum cvd_status status = CVD_STATUS_OK;
    for (uint32_t n = 0; n < l->count && status == CVD_STATUS_OK; n++)
        status = graph_adopt_node(g, &l->nodes[n].node, l->p->err);
    return status;
}

static bool make_room(struct layout *l)
{
    const struct graph *g = l->p->g;
    uint32_t count = l->p->count;
    l->maps = mem_alloc(count * sizeof(*l->maps));
    l->plains = mem_alloc(count * sizeof(*l->plains));
    l->makers = mem_alloc(count * sizeof(*l->makers));
    l->channels = mem_alloc(count * sizeof(*l->channels));
    l->is_output = mem_alloc(count * sizeof(*l->is_output));
    l->places = mem_alloc(count * sizeof(*l->places));
    if (l->maps == NULL || l->plains == NULL || l->makers == NULL || l->channels == NULL ||
        l->is_output == NULL || l->places == NULL)
        return false;
    for (uint32_t v = 0; v < count; v++) {
        l->maps[v] = l->makers[v] = GRAPH_NONE;
        l->plains[v] = g->values[v].data != NULL ? v : GRAPH_NONE;
        l->channels[v] = NULL;
        l->is_output[v] = false;
        l->places[v] = 0;
    }
    for (uint32_t i = 0; i < g->input_count; i++)
        l->plains[g->inputs[i]] = g->inputs[i];
    for (uint32_t i = 0; i < g->output_count; i++)
        l->is_output[g->outputs[i]] = true;
    return true;
}

enum cvd_status pass_layout(struct pass *p)
{
    struct layout l = {.p = p, .lanes = p->kernels->lanes};
    enum cvd_status status = make_room(&l) ? CVD_STATUS_OK : pass_no_memory(p);
    for (uint32_t n = 0; n < p->g->node_count && status == CVD_STATUS_OK; n++)
        status = take(&l, n);
    if (status == CVD_STATUS_OK)
        status = drop_dead(&l);
    if (status == CVD_STATUS_OK)
        status = layout_set_maps(&l);
    if (status == CVD_STATUS_OK)
        status = adopt(&l);
    mem_free(l.nodes);
    mem_free(l.maps);
    mem_free(l.plains);
    mem_free(l.makers);
    mem_free(l.channels);
    mem_free(l.is_output);
    mem_free(l.places);
    return status;
}
