/* Attributes that only the passes' own operators know mean nothing on the nodes of a file; but they
 * would, once a pass turned such a node into one of its own. */
#include "engine/graph/passes.h"

#include <string.h>

static bool is_private(const char *name)
{
    static const char *const names[] = {"activation", "activation_alpha", "activation_beta", "tile",
                                        "channels"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

static bool is_own(const struct graph_node *node)
{
    return strncmp(node->domain, FUSED_DOMAIN, strlen(FUSED_DOMAIN)) == 0;
}

enum cvd_status pass_attributes(struct pass *p)
{
    for (uint32_t n = 0; n < p->g->node_count; n++) {
        struct graph_node *node = &p->g->nodes[n];
        size_t kept = 0;
        for (size_t i = 0; i < node->attr_count; i++)
            kept += !is_private(node->attrs[i].name);
        if (kept == node->attr_count || is_own(node))
            continue;
        struct op_attr *attrs = mem_arena_alloc(p->g->arena, kept * sizeof(*attrs));
        if (attrs == NULL)
            return pass_no_memory(p);
        size_t next = 0;
        for (size_t i = 0; i < node->attr_count; i++) {
            if (!is_private(node->attrs[i].name))
                attrs[next++] = node->attrs[i];
        }
        node->attrs = attrs;
        node->attr_count = kept;
    }
    return CVD_STATUS_OK;
}
