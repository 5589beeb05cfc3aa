/* A ReduceMean over all spatial dimensions is a GlobalAveragePool, which has kernels of its own. */
#include "engine/graph/passes.h"

/* Whether the node averages over dimensions 2 and up, and over nothing else. */
static bool averages_planes(const struct pass *p, const struct graph_node *node)
{
    int64_t axes[CVD_MAX_RANK];
    size_t count;
    const struct cvd_shape *shape = pass_shape(p, node->in[0]);
    if (shape == NULL || shape->rank < 3 || !pass_is_float(p, node->in[0]) ||
        !pass_axes(p, node, axes, &count) || count != shape->rank - 2)
        return false;
    for (unsigned d = 2; d < shape->rank; d++) {
        bool found = false;
        for (size_t i = 0; i < count; i++)
            found |= axes[i] == d || axes[i] == (int64_t)d - shape->rank;
        if (!found || shape->dims[d] == 0)
            return false;
    }
    return true;
}

static enum cvd_status rewrite(struct pass *p, uint32_t n)
{
    struct graph_node pool = p->g->nodes[n];
    const uint32_t out = pool.out[0];
    uint32_t pooled = out;
    enum cvd_status status = CVD_STATUS_OK;
    bool keep = pass_int(&pool, "keepdims", 1) != 0;
    if (!keep)
        status = graph_add_value(p->g, p->g->values[out].name, &pooled, p->err);
    pool.op = "GlobalAveragePool";
    pool.attrs = NULL;
    pool.attr_count = 0;
    pool.in_count = 1;
    pool.out = &pooled;
    if (status != CVD_STATUS_OK || keep)
        return status != CVD_STATUS_OK ? status : pass_replace(p, n, &pool);
    /* [N,C,1,1] to [N,C] */
    const struct graph_node flat = {.op = "Flatten",
                                    .domain = "",
                                    .name = "",
                                    .in = &pooled,
                                    .in_count = 1,
                                    .out = &out,
                                    .out_count = 1};
    p->unsorted = p->stale = true;
    status = graph_add_node(p->g, &pool, p->err);
    return status == CVD_STATUS_OK ? pass_replace(p, n, &flat) : status;
}

enum cvd_status pass_mean(struct pass *p)
{
    enum cvd_status status = CVD_STATUS_OK;
    uint32_t count = p->g->node_count;
    for (uint32_t n = 0; n < count && status == CVD_STATUS_OK; n++) {
        const struct graph_node *node = pass_node(p, n, "ReduceMean");
        if (node != NULL && averages_planes(p, node))
            status = rewrite(p, n);
    }
    return status;
}
