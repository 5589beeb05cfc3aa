/* An activation that is all that reads a Conv, Gemm, MatMul or a sum goes into that node. */
#include "engine/graph/passes.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Clip has attributes before operator set 11, then inputs. */
static bool read_clip(const struct pass *p, const struct graph_node *node, struct activation *a)
{
    bool by_inputs = graph_opset(p->g, "") >= 11;
    a->alpha = by_inputs ? -INFINITY : pass_float(node, "min", -FLT_MAX);
    a->beta = by_inputs ? INFINITY : pass_float(node, "max", FLT_MAX);
    return (pass_input(node, 1) == GRAPH_NONE || pass_number(p, node->in[1], &a->alpha)) &&
           (pass_input(node, 2) == GRAPH_NONE || pass_number(p, node->in[2], &a->beta)) &&
           !isnan(a->alpha) && !isnan(a->beta);
}

static bool is_exact_gelu(const struct graph_node *node)
{
    const struct op_attr *attr = pass_attr(node, "approximate");
    return attr == NULL || (attr->type == OP_ATTR_STRING && strcmp(attr->s, "none") == 0);
}

/* One of convd's own, made by pass_function(). */
static bool read_own(const struct graph_node *node, struct activation *a)
{
    const struct op_attr *name = pass_attr(node, "activation");
    if (strcmp(node->domain, FUSED_DOMAIN) != 0 || strcmp(node->op, "Activation") != 0 ||
        name == NULL)
        return false;
    for (a->kind = ACTIVATION_NONE; strcmp(activation_name(a->kind), name->s) != 0;)
        a->kind++;
    a->alpha = pass_float(node, "activation_alpha", 0);
    a->beta = pass_float(node, "activation_beta", 0);
    return true;
}

bool pass_read_activation(const struct pass *p, uint32_t n, struct activation *a)
{
    static const struct {
        const char *op;
        struct activation defaults;
    } known[] = {
        {"Relu", {ACTIVATION_RELU, 0, 0}},
        {"LeakyRelu", {ACTIVATION_LEAKY_RELU, 0.01f, 0}},
        {"Clip", {ACTIVATION_CLIP, 0, 0}},
        {"Sigmoid", {ACTIVATION_SIGMOID, 0, 0}},
        {"Tanh", {ACTIVATION_TANH, 0, 0}},
        {"HardSigmoid", {ACTIVATION_HARD_SIGMOID, 0.2f, 0.5f}},
        {"HardSwish", {ACTIVATION_HARD_SWISH, 0, 0}},
        {"Swish", {ACTIVATION_SWISH, 1, 0}},
        {"Mish", {ACTIVATION_MISH, 0, 0}},
        {"Gelu", {ACTIVATION_GELU, 0, 0}},
    };
    const struct graph_node *node = &p->g->nodes[n];
    size_t i = 0, count = sizeof(known) / sizeof(*known);
    while (i < count && pass_node(p, n, known[i].op) == NULL)
        i++;
    if (i == count)
        return read_own(node, a);
    *a = known[i].defaults;
    if (a->kind == ACTIVATION_CLIP)
        return read_clip(p, node, a);
    if (a->kind == ACTIVATION_GELU)
        return is_exact_gelu(node);
    a->alpha = pass_float(node, "alpha", a->alpha);
    a->beta = pass_float(node, "beta", a->beta);
    return true;
}

/* What convd's operator for node n with an activation is called; NULL when there is none. */
static const char *fused_op(const struct pass *p, uint32_t n)
{
    static const char *const products[] = {"Conv", "Gemm", "MatMul"};
    const struct graph_node *node = &p->g->nodes[n];
    bool own = strcmp(node->domain, FUSED_DOMAIN) == 0;
    if (own && pass_attr(node, "activation") != NULL)
        return NULL;
    for (size_t i = 0; i < 3; i++) {
        if (pass_node(p, n, products[i]) != NULL || (own && strcmp(node->op, products[i]) == 0))
            return products[i];
    }
    bool sum = pass_node(p, n, "Add") != NULL || pass_node(p, n, "Sum") != NULL;
    return sum && node->in_count == 2 && pass_alike(p, node->in[0], node->in[1]) ? "Add" : NULL;
}

static enum cvd_status rewrite(struct pass *p, uint32_t n, uint32_t maker, const char *op,
                               const struct activation *a)
{
    const struct op_attr attrs[] = {
        {.name = "activation", .type = OP_ATTR_STRING, .s = activation_name(a->kind)},
        {.name = "activation_alpha", .type = OP_ATTR_FLOAT, .f = a->alpha},
        {.name = "activation_beta", .type = OP_ATTR_FLOAT, .f = a->beta}};
    struct graph_node node = p->g->nodes[maker];
    node.label = pass_label(p, &node, activation_label(a->kind));
    node.attrs = pass_attrs(p, &node, attrs, 3, &node.attr_count);
    if (node.label == NULL || node.attrs == NULL)
        return pass_no_memory(p);
    node.op = op;
    node.domain = FUSED_DOMAIN;
    node.out = p->g->nodes[n].out;
    enum cvd_status status = pass_use_domain(p, FUSED_DOMAIN, FUSED_VERSION);
    if (status == CVD_STATUS_OK)
        status = pass_replace(p, n, &node);
    if (status == CVD_STATUS_OK)
        pass_remove(p, maker);
    return status;
}

enum cvd_status pass_activation(struct pass *p)
{
    enum cvd_status status = CVD_STATUS_OK;
    for (uint32_t n = 0; n < p->g->node_count && status == CVD_STATUS_OK; n++) {
        const struct graph_node *node = &p->g->nodes[n];
        struct activation a;
        uint32_t maker = node->in_count > 0 ? pass_sole_maker(p, node->in[0]) : GRAPH_NONE;
        const char *op = maker != GRAPH_NONE ? fused_op(p, maker) : NULL;
        if (op != NULL && pass_is_float(p, node->out[0]) && pass_read_activation(p, n, &a))
            status = rewrite(p, n, maker, op, &a);
    }
    return status;
}
