/*
 * Activations that exporters spell out become one node: x * Sigmoid(x), x * HardSigmoid(x),
 * x * Tanh(Softplus(x)) and x * (Erf(x / c) + 1) / 2, which are called Swish, HardSwish, Mish and
 * Gelu; and Clip(x + 3, 0, 6) / 6, a HardSigmoid.
 */
#include "engine/graph/passes.h"

#include <math.h>

/* The node that computes v for its only reader, if it is that operator of ONNX. */
static const struct graph_node *maker_of(const struct pass *p, uint32_t v, const char *op)
{
    return pass_node(p, pass_sole_maker(p, v), op);
}

/* The other factor or summand of a node that has `number` for one; GRAPH_NONE when it has not. */
static uint32_t beside_number(const struct pass *p, const struct graph_node *node, float number)
{
    for (size_t i = 0; node != NULL && i < 2; i++) {
        float c;
        if (pass_number(p, node->in[1 - i], &c) && c == number)
            return node->in[i];
    }
    return GRAPH_NONE;
}

/* The other factor or summand of a node one of which is a number. */
static uint32_t beside_any_number(const struct pass *p, const struct graph_node *node,
                                  float *number)
{
    for (size_t i = 0; node != NULL && i < 2; i++) {
        if (pass_number(p, node->in[1 - i], number))
            return node->in[i];
    }
    return GRAPH_NONE;
}

/* What a Div or Mul by a number is a multiple of; *factor is how many times. */
static uint32_t match_multiple(const struct pass *p, const struct graph_node *node, bool divides,
                               float *factor)
{
    if (!divides)
        return beside_any_number(p, node, factor);
    if (!pass_number(p, node->in[1], factor))
        return GRAPH_NONE;
    *factor = 1 / *factor;
    return node->in[0];
}

/* v = Clip(x + shift, 0, top), read by nobody else. */
static bool match_ramp(const struct pass *p, uint32_t v, uint32_t *x, float *shift, float *top)
{
    const uint32_t n = pass_sole_maker(p, v);
    struct activation clip;
    if (pass_node(p, n, "Clip") == NULL || !pass_read_activation(p, n, &clip) || clip.alpha != 0)
        return false;
    *top = clip.beta;
    *x = beside_any_number(p, maker_of(p, p->g->nodes[n].in[0], "Add"), shift);
    return *x != GRAPH_NONE;
}

/* Node n = Clip(x + shift, 0, top) / top, or that times x. */
static bool match_hard(const struct pass *p, uint32_t n, uint32_t *x, struct activation *a)
{
    const struct graph_node *div = pass_node(p, n, "Div");
    const struct graph_node *node = div != NULL ? div : pass_node(p, n, "Mul");
    float shift, top;
    if (node == NULL)
        return false;
    const uint32_t v = match_multiple(p, node, div != NULL, &a->alpha);
    bool found = v != GRAPH_NONE && match_ramp(p, v, x, &shift, &top);
    a->kind = ACTIVATION_HARD_SIGMOID;
    const struct graph_node *product = maker_of(p, v, "Mul");
    for (size_t i = 0; product != NULL && !found && i < 2; i++) {
        a->kind = ACTIVATION_MUL_HARD_SIGMOID;
        found = match_ramp(p, product->in[1 - i], x, &shift, &top) && *x == product->in[i];
    }
    if (!found || !(fabsf(a->alpha * top - 1) <= 1e-6f)) /* rounding of 1 / top */
        return false;
    a->beta = shift * a->alpha;
    return isfinite(a->beta);
}

/* v = fn(x), read by nobody else, with fn a function that x is multiplied by. */
static bool match_gate(const struct pass *p, uint32_t v, uint32_t x, struct activation *a)
{
    const uint32_t n = pass_sole_maker(p, v);
    const struct graph_node *node;
    if ((node = maker_of(p, v, "Sigmoid")) != NULL) {
        a->kind = ACTIVATION_MUL_SIGMOID;
    } else if (n != GRAPH_NONE && pass_read_activation(p, n, a) &&
               a->kind == ACTIVATION_HARD_SIGMOID) { /* ONNX's, or one that has been found here */
        a->kind = ACTIVATION_MUL_HARD_SIGMOID;
        node = &p->g->nodes[n];
    } else if ((node = maker_of(p, v, "Tanh")) != NULL) {
        a->kind = ACTIVATION_MUL_TANH_SOFTPLUS;
        node = maker_of(p, node->in[0], "Softplus");
    }
    return node != NULL && node->in[0] == x;
}

/* v = x / beta or x * alpha, read by nobody else. */
static bool match_scaled(const struct pass *p, uint32_t v, uint32_t x, struct activation *a)
{
    const struct graph_node *node;
    *a = (struct activation){.kind = ACTIVATION_MUL_ERF, .alpha = 1, .beta = 1};
    bool found = false;
    if ((node = maker_of(p, v, "Div")) != NULL)
        found = node->in[0] == x && pass_number(p, node->in[1], &a->beta);
    else if ((node = maker_of(p, v, "Mul")) != NULL)
        found = (node->in[0] == x && pass_number(p, node->in[1], &a->alpha)) ||
                (node->in[1] == x && pass_number(p, node->in[0], &a->alpha));
    return found && isnormal(a->alpha) && isnormal(a->beta);
}

/* v = Erf(scaled x) + 1, read by nobody else. */
static bool match_erf(const struct pass *p, uint32_t v, uint32_t x, struct activation *a)
{
    uint32_t erf = beside_number(p, maker_of(p, v, "Add"), 1);
    const struct graph_node *node = maker_of(p, erf, "Erf");
    return node != NULL && match_scaled(p, node->in[0], x, a);
}

/* a * b = x * fn(x) for some x. Halves are exact wherever they stand, but for numbers so small that
 * they are taken for zero. */
static bool match_product(const struct pass *p, uint32_t a, uint32_t b, uint32_t *x,
                          struct activation *out)
{
    const struct graph_node *node;
    float half;
    *x = a;
    if (match_gate(p, b, a, out))
        return true;
    uint32_t inner = beside_number(p, maker_of(p, b, "Mul"), 0.5f);
    if (inner != GRAPH_NONE && match_erf(p, inner, a, out)) /* x * ((erf + 1) / 2) */
        return true;
    *x = beside_number(p, maker_of(p, a, "Mul"), 0.5f);
    if (*x != GRAPH_NONE && match_erf(p, b, *x, out)) /* (x / 2) * (erf + 1) */
        return true;
    if (!pass_number(p, b, &half) || half != 0.5f || (node = maker_of(p, a, "Mul")) == NULL)
        return false;
    for (size_t i = 0; i < 2; i++) { /* (x * (erf + 1)) / 2 */
        *x = node->in[i];
        if (match_erf(p, node->in[1 - i], *x, out))
            return true;
    }
    return false;
}

static enum cvd_status rewrite(struct pass *p, uint32_t n, uint32_t x, const struct activation *a)
{
    const struct op_attr attrs[] = {
        {.name = "activation", .type = OP_ATTR_STRING, .s = activation_name(a->kind)},
        {.name = "activation_alpha", .type = OP_ATTR_FLOAT, .f = a->alpha},
        {.name = "activation_beta", .type = OP_ATTR_FLOAT, .f = a->beta}};
    struct graph_node node = {.op = "Activation",
                              .domain = FUSED_DOMAIN,
                              .name = p->g->nodes[n].name,
                              .label = activation_label(a->kind),
                              .in = &x,
                              .in_count = 1,
                              .out = p->g->nodes[n].out,
                              .out_count = 1};
    node.attrs = pass_attrs(p, &node, attrs, 3, &node.attr_count);
    if (node.attrs == NULL)
        return pass_no_memory(p);
    enum cvd_status status = pass_use_domain(p, FUSED_DOMAIN, FUSED_VERSION);
    return status == CVD_STATUS_OK ? pass_replace(p, n, &node) : status;
}

static bool match(const struct pass *p, uint32_t n, uint32_t *x, struct activation *a)
{
    const struct graph_node *node = pass_node(p, n, "Mul");
    if (node != NULL && (match_product(p, node->in[0], node->in[1], x, a) ||
                         match_product(p, node->in[1], node->in[0], x, a)))
        return true;
    return match_hard(p, n, x, a);
}

enum cvd_status pass_function(struct pass *p)
{
    enum cvd_status status = CVD_STATUS_OK;
    for (uint32_t n = 0; n < p->g->node_count && status == CVD_STATUS_OK; n++) {
        struct activation a = {0};
        uint32_t x;
        if (match(p, n, &x, &a) && pass_is_float(p, x) && pass_alike(p, x, p->g->nodes[n].out[0]))
            status = rewrite(p, n, x, &a);
    }
    return status;
}
