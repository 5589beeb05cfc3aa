/*
 * What computes with the channels last, between a Transpose of [N,C,H,W] to [N,H,W,C] and one back,
 * computes with the channels first: convolutions and feature maps are made for that, and no
 * Transpose is left. A MatMul becomes a Conv of 1 x 1, LayerNorm runs over dimension 1, activations
 * and arithmetic with constants stay what they are.
 *
 * Values with the channels last are `views` of others with the channels first. Nodes that compute
 * views from views are taken together as far as views connect them, and changed only when nobody
 * but them and Transposes back reads what they compute; so Transposes can only become fewer.
 */
#include "engine/graph/passes.h"

#include <string.h>

enum kind { NO_VIEW, TRANSPOSED, COMPUTED };

/* What is known of a value. */
struct view {
    enum kind kind;
    uint32_t first;  /* the value with the channels first */
    uint32_t parent; /* COMPUTED: towards the one that stands for all that are connected with it */
    uint32_t reads;  /* by nodes that compute views, and by Transposes back */
    uint32_t back;   /* what the first of those Transposes makes; GRAPH_NONE: there is none */
    bool stays;      /* of the one that stands for the others: they stay as they are */
};

struct views {
    struct pass *p;
    struct view *of; /* by value */
};

/* ---- which nodes ---- */

static bool is_transpose(const struct pass *p, uint32_t n, const int64_t order[4])
{
    const struct graph_node *node = pass_node(p, n, "Transpose");
    const struct op_attr *perm = node != NULL ? pass_attr(node, "perm") : NULL;
    return perm != NULL && perm->type == OP_ATTR_INTS && perm->count == 4 &&
           memcmp(perm->ints, order, 4 * sizeof(*order)) == 0 && pass_is_float(p, node->in[0]);
}

static bool is_view(const struct views *s, uint32_t v)
{
    return v != GRAPH_NONE && s->of[v].kind != NO_VIEW;
}

static bool afford(const struct pass *p, size_t elements)
{
    if (elements > p->budget->work || elements > p->budget->bytes / sizeof(float))
        return false;
    p->budget->work -= elements;
    p->budget->bytes -= elements * sizeof(float);
    return true;
}

/* A MatMul with constant weights, [C,O]. */
static bool is_product(const struct views *s, const struct graph_node *node)
{
    size_t count;
    return is_view(s, node->in[0]) && pass_floats(s->p, node->in[1], &count) != NULL && count > 0 &&
           s->p->g->values[node->in[1]].shape.rank == 2 && afford(s->p, count);
}

/* A constant that is one number, or has one for each channel when they come last. */
static bool is_vector(const struct views *s, uint32_t v, int64_t channels)
{
    size_t count;
    if (pass_floats(s->p, v, &count) == NULL)
        return false;
    const struct cvd_shape *shape = &s->p->g->values[v].shape;
    return shape->rank <= 4 &&
           (count == 1 || ((int64_t)count == channels && shape->dims[shape->rank - 1] == channels &&
                           afford(s->p, count)));
}

/* Add, Sub, Mul or Div of views and constants. */
static bool is_arithmetic(const struct views *s, uint32_t n)
{
    static const char *const names[] = {"Add", "Sub", "Mul", "Div"};
    const struct graph_node *node = NULL;
    for (size_t i = 0; i < 4 && node == NULL; i++)
        node = pass_node(s->p, n, names[i]);
    if (node == NULL || graph_opset(s->p->g, "") < 7 || /* which had another idea of broadcasting */
        (!is_view(s, node->in[0]) && !is_view(s, node->in[1])))
        return false;
    for (size_t i = 0; i < 2; i++) {
        const uint32_t v = node->in[i];
        if (is_view(s, v) ? !pass_alike(s->p, v, node->out[0])
                          : !is_vector(s, v, pass_shape(s->p, node->out[0])->dims[3]))
            return false;
    }
    return true;
}

/* Whether the node computes a view from views. */
static bool computes_view(const struct views *s, uint32_t n)
{
    const struct pass *p = s->p;
    const struct graph_node *node = &p->g->nodes[n];
    const bool own = strcmp(node->domain, FUSED_DOMAIN) == 0;
    struct activation a;
    if (node->in_count == 0 || node->out_count != 1 || node->out[0] == GRAPH_NONE ||
        pass_shape(p, node->out[0]) == NULL || pass_shape(p, node->out[0])->rank != 4 ||
        !pass_is_float(p, node->out[0]))
        return false;
    if (own && strcmp(node->op, "LayerNorm") == 0)
        return is_view(s, node->in[0]) && pass_int(node, "axis", -1) == 3;
    if (pass_node(p, n, "MatMul") != NULL)
        return is_product(s, node);
    if (is_view(s, node->in[0]) && pass_read_activation(p, n, &a))
        return pass_alike(p, node->in[0], node->out[0]);
    return is_arithmetic(s, n);
}

/* ---- which of them together ---- */

static uint32_t class_of(const struct views *s, uint32_t v)
{
    while (s->of[v].parent != v) {
        s->of[v].parent = s->of[s->of[v].parent].parent;
        v = s->of[v].parent;
    }
    return v;
}

static void add_node(const struct views *s, uint32_t n)
{
    static const int64_t last[] = {0, 2, 3, 1}, back[] = {0, 3, 1, 2};
    const struct graph_node *node = &s->p->g->nodes[n];
    const uint32_t v = node->out_count > 0 ? node->out[0] : GRAPH_NONE;
    size_t elements;
    if (is_transpose(s->p, n, last)) {
        if (!cvd_shape_elements(pass_shape(s->p, v), &elements) || elements == 0)
            return;
        s->of[v].kind = TRANSPOSED;
        s->of[v].first = node->in[0];
    } else if (is_transpose(s->p, n, back)) {
        struct view *from = &s->of[node->in[0]];
        from->reads++;
        from->back = from->back == GRAPH_NONE ? v : from->back;
    } else if (computes_view(s, n)) {
        s->of[v].kind = COMPUTED;
        for (size_t i = 0; i < node->in_count; i++) {
            const uint32_t in = node->in[i];
            if (!is_view(s, in) || s->of[in].kind != COMPUTED)
                continue;
            s->of[in].reads++;
            s->of[class_of(s, in)].parent = v;
        }
    }
}

static void find_views(const struct views *s)
{
    const struct pass *p = s->p;
    for (uint32_t v = 0; v < p->count; v++)
        s->of[v] = (struct view){.first = GRAPH_NONE, .parent = v, .back = GRAPH_NONE};
    for (uint32_t n = 0; n < p->g->node_count; n++)
        add_node(s, n);
    for (uint32_t v = 0; v < p->count; v++) {
        if (s->of[v].kind == COMPUTED && s->of[v].reads != p->uses[v])
            s->of[class_of(s, v)].stays = true;
    }
}

/* ---- changing them ---- */

/* Weights [C,O] as [O,C,1,1]. */
static enum cvd_status turn_weights(const struct pass *p, uint32_t v, uint32_t *out)
{
    const struct cvd_shape from = p->g->values[v].shape;
    const struct cvd_shape shape = {.rank = 4, .dims = {from.dims[1], from.dims[0], 1, 1}};
    enum cvd_status status = graph_add_initializer(p->g, p->g->values[v].name, CVD_DTYPE_FLOAT32,
                                                   &shape, NULL, out, p->err);
    if (status != CVD_STATUS_OK)
        return status;
    const size_t rows = (size_t)from.dims[0], columns = (size_t)from.dims[1], square = 16;
    const float *x = p->g->values[v].data;
    float *y = p->g->values[*out].data;
    for (size_t r = 0; r < rows; r += square) { /* lines of both stay in the cache */
        const size_t end = r + square < rows ? r + square : rows;
        for (size_t c = 0; c < columns; c++) {
            for (size_t i = r; i < end; i++)
                y[c * rows + i] = x[i * columns + c];
        }
    }
    return CVD_STATUS_OK;
}

/* A constant as it stands beside channels that come first. */
static enum cvd_status turn_vector(const struct pass *p, uint32_t v, uint32_t *out)
{
    const struct graph_value *value = &p->g->values[v];
    const int64_t count = (int64_t)(value->bytes / sizeof(float));
    const struct cvd_shape shape = {.rank = 4, .dims = {1, count, 1, 1}};
    *out = v;
    return count == 1 ? CVD_STATUS_OK
                      : graph_add_initializer(p->g, value->name, CVD_DTYPE_FLOAT32, &shape,
                                              value->data, out, p->err);
}

static enum cvd_status turn_inputs(const struct views *s, struct graph_node *node)
{
    const struct pass *p = s->p;
    enum cvd_status status = CVD_STATUS_OK;
    const bool product = strcmp(node->op, "MatMul") == 0;
    const bool norm = strcmp(node->op, "LayerNorm") == 0;
    uint32_t *in = mem_arena_alloc(p->g->arena, node->in_count * sizeof(*in));
    if (in == NULL)
        return pass_no_memory(p);
    for (size_t i = 0; i < node->in_count && status == CVD_STATUS_OK; i++) {
        in[i] = node->in[i];
        if (is_view(s, in[i]))
            in[i] = s->of[in[i]].first;
        else if (product)
            status = turn_weights(p, node->in[i], &in[i]);
        else if (!norm && node->in_count == 2 && in[i] != GRAPH_NONE)
            status = turn_vector(p, node->in[i], &in[i]);
    }
    node->in = in;
    return status;
}

/* Puts the node that computes the value with the channels first in the place of node n. */
static enum cvd_status turn(const struct views *s, uint32_t n)
{
    struct pass *p = s->p;
    struct graph_node node = p->g->nodes[n];
    struct view *view = &s->of[node.out[0]];
    const bool product = strcmp(node.op, "MatMul") == 0;
    const uint32_t weights = pass_input(&node, 1);
    const struct op_attr axis = {.name = "axis", .type = OP_ATTR_INT, .i = 1};
    enum cvd_status status = turn_inputs(s, &node);
    view->first = view->back;
    if (status == CVD_STATUS_OK && view->first == GRAPH_NONE)
        status = graph_add_value(p->g, p->g->values[node.out[0]].name, &view->first, p->err);
    if (status != CVD_STATUS_OK)
        return status;
    if (strcmp(node.op, "LayerNorm") == 0) {
        node.attrs = pass_attrs(p, &node, &axis, 1, &node.attr_count);
        if (node.attrs == NULL)
            return pass_no_memory(p);
    }
    if (product) {
        node.op = "Conv";
        node.label = "MatMul";
    }
    node.out = &view->first;
    status = pass_replace(p, n, &node);
    if (status == CVD_STATUS_OK && product && p->uses[weights] == 0) {
        mem_free(p->g->values[weights].data); /* or all weights would be there twice for a while */
        p->g->values[weights].data = NULL;
    }
    p->stale = true;
    return status;
}

/* A Transpose back: what it makes is there already. */
static enum cvd_status turn_back(const struct views *s, uint32_t n)
{
    struct graph_node node = s->p->g->nodes[n];
    const uint32_t first = s->of[node.in[0]].first;
    if (first == node.out[0]) {
        pass_remove(s->p, n);
        return CVD_STATUS_OK;
    }
    node.op = "Identity";
    node.attrs = NULL;
    node.attr_count = 0;
    node.in = &first;
    return pass_replace(s->p, n, &node);
}

static enum cvd_status turn_views(const struct views *s)
{
    const uint32_t count = s->p->count;
    enum cvd_status status = CVD_STATUS_OK;
    for (uint32_t n = 0; n < s->p->g->node_count && status == CVD_STATUS_OK; n++) {
        const struct graph_node *node = &s->p->g->nodes[n];
        const uint32_t out = node->out_count > 0 ? node->out[0] : GRAPH_NONE;
        const uint32_t in = node->in_count > 0 ? node->in[0] : GRAPH_NONE;
        if (out != GRAPH_NONE && s->of[out].kind == COMPUTED && !s->of[class_of(s, out)].stays)
            status = turn(s, n);
        else if (in < count && s->of[in].kind == COMPUTED && !s->of[class_of(s, in)].stays)
            status = turn_back(s, n);
    }
    return status;
}

enum cvd_status pass_transpose(struct pass *p)
{
    const struct views s = {.p = p, .of = mem_alloc(p->count * sizeof(*s.of))};
    if (s.of == NULL)
        return pass_no_memory(p);
    find_views(&s);
    enum cvd_status status = turn_views(&s);
    mem_free(s.of);
    return status;
}
