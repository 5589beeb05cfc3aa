/* The sum of a Conv and something of the same shape: the Conv adds it as it stores its output. Of
 * two convolutions it is the later one, whose other summand has been computed by then. */
#include "engine/graph/passes.h"

/* The Conv that computes v for this sum only. */
static uint32_t conv_of(const struct pass *p, uint32_t v)
{
    uint32_t n = pass_sole_maker(p, v);
    return pass_node(p, n, "Conv") != NULL ? n : GRAPH_NONE;
}

static enum cvd_status rewrite(struct pass *p, uint32_t n, uint32_t conv, uint32_t residual)
{
    struct graph_node node = p->g->nodes[conv];
    const uint32_t in[] = {node.in[0], node.in[1], pass_input(&node, 2), residual};
    node.domain = FUSED_DOMAIN;
    node.in = in;
    node.in_count = 4;
    node.out = p->g->nodes[n].out;
    node.label = pass_label(p, &node, "Add");
    if (node.label == NULL)
        return pass_no_memory(p);
    enum cvd_status status = pass_use_domain(p, FUSED_DOMAIN, FUSED_VERSION);
    if (status == CVD_STATUS_OK)
        status = pass_replace(p, n, &node);
    if (status == CVD_STATUS_OK)
        pass_remove(p, conv);
    return status;
}

enum cvd_status pass_residual(struct pass *p)
{
    enum cvd_status status = CVD_STATUS_OK;
    for (uint32_t n = 0; n < p->g->node_count && status == CVD_STATUS_OK; n++) {
        const struct graph_node *node = pass_node(p, n, "Add");
        if (node == NULL)
            node = pass_node(p, n, "Sum");
        if (node == NULL || node->in_count != 2 || !pass_alike(p, node->in[0], node->in[1]))
            continue;
        uint32_t first = conv_of(p, node->in[0]), second = conv_of(p, node->in[1]);
        bool swap = first == GRAPH_NONE || (second != GRAPH_NONE && second > first);
        uint32_t conv = swap ? second : first;
        if (conv != GRAPH_NONE)
            status = rewrite(p, n, conv, node->in[swap ? 0 : 1]);
    }
    return status;
}
