/*
 * Layer norms become "convd"'s LayerNorm (ops/fused.h): LayerNormalization over the last dimension,
 * and what exporters write where the model's operator set has none,
 *
 *     d = x - ReduceMean(x), d / Sqrt(ReduceMean(d ^ 2) + epsilon) * scale + bias
 *
 * over any one dimension.
 */
#include "engine/graph/passes.h"

struct norm {
    uint32_t x, scale, bias; /* scale and bias: GRAPH_NONE when there is none */
    float epsilon;
    unsigned axis;
};

static const struct graph_node *maker_of(const struct pass *p, uint32_t v, const char *op)
{
    return pass_node(p, v != GRAPH_NONE && v < p->count ? p->makers[v] : GRAPH_NONE, op);
}

/* v = the mean of x over one dimension, which stays. */
static bool match_mean(const struct pass *p, uint32_t v, uint32_t x, unsigned *axis)
{
    const struct graph_node *node = maker_of(p, v, "ReduceMean");
    int64_t axes[CVD_MAX_RANK];
    size_t count;
    return node != NULL && node->in[0] == x && pass_int(node, "keepdims", 1) != 0 &&
           pass_axes(p, node, axes, &count) && count == 1 &&
           op_axis(axes[0], pass_shape(p, x)->rank, axis);
}

/* v = x - mean of x. */
static bool match_centred(const struct pass *p, uint32_t v, struct norm *s)
{
    const struct graph_node *node = maker_of(p, v, "Sub");
    if (node == NULL || !pass_is_float(p, v) || !pass_alike(p, v, node->in[0]))
        return false;
    s->x = node->in[0];
    return match_mean(p, node->in[1], s->x, &s->axis);
}

/* What v is the square of. */
static uint32_t match_square(const struct pass *p, uint32_t v)
{
    float two;
    const struct graph_node *node = maker_of(p, v, "Pow");
    if (node != NULL)
        return pass_number(p, node->in[1], &two) && two == 2 ? node->in[0] : GRAPH_NONE;
    node = maker_of(p, v, "Mul");
    return node != NULL && node->in[0] == node->in[1] ? node->in[0] : GRAPH_NONE;
}

/* v = the mean of the square of d, or of something that is computed as d is. */
static bool match_variance(const struct pass *p, uint32_t v, uint32_t d, const struct norm *s)
{
    const struct graph_node *node = maker_of(p, v, "ReduceMean");
    const uint32_t root = node != NULL ? match_square(p, node->in[0]) : GRAPH_NONE;
    struct norm again;
    unsigned axis;
    if (root == GRAPH_NONE || !pass_alike(p, node->in[0], s->x))
        return false;
    if (root != d && (!match_centred(p, root, &again) || again.x != s->x || again.axis != s->axis))
        return false;
    return match_mean(p, v, node->in[0], &axis) && axis == s->axis;
}

/* v = (x - mean) / deviation. */
static bool match_quotient(const struct pass *p, uint32_t v, struct norm *s)
{
    const struct graph_node *div = maker_of(p, v, "Div");
    const struct graph_node *root = div != NULL ? maker_of(p, div->in[1], "Sqrt") : NULL;
    const struct graph_node *sum = root != NULL ? maker_of(p, root->in[0], "Add") : NULL;
    if (sum == NULL || !match_centred(p, div->in[0], s) || !pass_alike(p, v, s->x))
        return false;
    s->scale = s->bias = GRAPH_NONE;
    for (size_t i = 0; i < 2; i++) {
        if (pass_number(p, sum->in[1 - i], &s->epsilon) &&
            match_variance(p, sum->in[i], div->in[0], s))
            return true;
    }
    return false;
}

/* Whether v is a constant with a number for each element along the dimension. */
static bool is_vector(const struct pass *p, uint32_t v, const struct norm *s)
{
    size_t count;
    const struct cvd_shape *x = pass_shape(p, s->x);
    if (pass_floats(p, v, &count) == NULL || (int64_t)count != x->dims[s->axis])
        return false;
    const struct cvd_shape *shape = &p->g->values[v].shape;
    for (unsigned i = 0; i < shape->rank; i++) { /* the last dimensions stand under each other */
        if (shape->rank > x->rank || (shape->dims[i] != 1 && x->rank - shape->rank + i != s->axis))
            return false;
    }
    return true;
}

/* v = that * scale. */
static bool match_scaled(const struct pass *p, uint32_t v, struct norm *s)
{
    const struct graph_node *node = maker_of(p, v, "Mul");
    for (size_t i = 0; node != NULL && i < 2; i++) {
        if (!match_quotient(p, node->in[i], s) || !is_vector(p, node->in[1 - i], s))
            continue;
        s->scale = node->in[1 - i];
        return pass_alike(p, v, s->x);
    }
    return false;
}

/* v = that + bias. */
static bool match_shifted(const struct pass *p, uint32_t v, struct norm *s)
{
    const struct graph_node *node = maker_of(p, v, "Add");
    for (size_t i = 0; node != NULL && i < 2; i++) {
        if (!match_scaled(p, node->in[i], s) || !is_vector(p, node->in[1 - i], s))
            continue;
        s->bias = node->in[1 - i];
        return pass_alike(p, v, s->x);
    }
    return false;
}

/* ONNX's operator. */
static bool match_operator(const struct pass *p, uint32_t n, struct norm *s)
{
    const struct graph_node *node = pass_node(p, n, "LayerNormalization");
    if (node == NULL || !pass_is_float(p, node->in[0]))
        return false;
    for (size_t i = 1; i < node->out_count; i++) {
        if (node->out[i] != GRAPH_NONE && p->uses[node->out[i]] > 0)
            return false;
    }
    const struct cvd_shape *shape = pass_shape(p, node->in[0]);
    *s = (struct norm){.x = node->in[0],
                       .scale = node->in[1],
                       .bias = pass_input(node, 2),
                       .epsilon = pass_float(node, "epsilon", 1e-5f)};
    return shape != NULL && op_axis(pass_int(node, "axis", -1), shape->rank, &s->axis) &&
           s->axis == shape->rank - 1 &&
           pass_int(node, "stash_type", CVD_DTYPE_FLOAT32) == CVD_DTYPE_FLOAT32 &&
           pass_alike(p, node->in[0], node->out[0]) && is_vector(p, s->scale, s) &&
           (s->bias == GRAPH_NONE || is_vector(p, s->bias, s));
}

/* Whether the dimension has the same extent for every batch. */
static bool is_fixed(const struct pass *p, const struct norm *s)
{
    const int64_t extent = p->one[s->x].shape.dims[s->axis];
    return s->axis > 0 && extent > 0 &&
           (p->two == NULL || p->two[s->x].shape.dims[s->axis] == extent);
}

/* A scale of ones. */
static enum cvd_status add_scale(struct pass *p, struct norm *s)
{
    const struct cvd_shape shape = {.rank = 1, .dims = {p->one[s->x].shape.dims[s->axis]}};
    enum cvd_status status =
        graph_add_initializer(p->g, NULL, CVD_DTYPE_FLOAT32, &shape, NULL, &s->scale, p->err);
    if (status != CVD_STATUS_OK)
        return status;
    float *ones = p->g->values[s->scale].data;
    for (int64_t i = 0; i < shape.dims[0]; i++)
        ones[i] = 1;
    return CVD_STATUS_OK;
}

static enum cvd_status rewrite(struct pass *p, uint32_t n, struct norm *s)
{
    enum cvd_status status = CVD_STATUS_OK;
    if (s->scale == GRAPH_NONE) {
        const size_t bytes = (size_t)p->one[s->x].shape.dims[s->axis] * sizeof(float);
        if (bytes > p->budget->bytes)
            return CVD_STATUS_OK;
        p->budget->bytes -= bytes;
        status = add_scale(p, s);
    }
    const uint32_t in[] = {s->x, s->scale, s->bias};
    const struct op_attr attrs[] = {{.name = "axis", .type = OP_ATTR_INT, .i = s->axis},
                                    {.name = "epsilon", .type = OP_ATTR_FLOAT, .f = s->epsilon}};
    struct graph_node node = {.op = "LayerNorm",
                              .domain = FUSED_DOMAIN,
                              .name = p->g->nodes[n].name,
                              .in = in,
                              .in_count = s->bias != GRAPH_NONE ? 3 : 2,
                              .out = p->g->nodes[n].out,
                              .out_count = 1};
    node.attrs = pass_attrs(p, &node, attrs, 2, &node.attr_count);
    if (status == CVD_STATUS_OK && node.attrs == NULL)
        status = pass_no_memory(p);
    if (status == CVD_STATUS_OK)
        status = pass_use_domain(p, FUSED_DOMAIN, FUSED_VERSION);
    return status == CVD_STATUS_OK ? pass_replace(p, n, &node) : status;
}

/* Backwards, so that the longest sequence is found first; what it leaves unread is passed over. */
enum cvd_status pass_norm(struct pass *p)
{
    enum cvd_status status = CVD_STATUS_OK;
    for (uint32_t n = p->g->node_count; n-- > 0 && status == CVD_STATUS_OK;) {
        const struct graph_node *node = &p->g->nodes[n];
        const uint32_t out = node->out_count > 0 ? node->out[0] : GRAPH_NONE;
        struct norm s;
        if (out == GRAPH_NONE)
            continue;
        if (node->out_count == 1 && p->uses[out] == 0)
            pass_remove(p, n);
        else if (graph_opset(p->g, "") >= 7 &&
                 (match_operator(p, n, &s) || match_shifted(p, out, &s) ||
                  match_scaled(p, out, &s) || match_quotient(p, out, &s)) &&
                 is_fixed(p, &s))
            status = rewrite(p, n, &s);
    }
    return status;
}
