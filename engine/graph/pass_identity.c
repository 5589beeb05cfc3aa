/* Nodes that hand on what they get: Identity, Dropout, a Cast to the same type, a Reshape to the
 * same shape, … Whoever reads their output reads their input instead. So does arithmetic with what
 * an Expand has made, which it would expand itself. */
#include "engine/graph/passes.h"

/* Operators whose output 0 has the elements of input 0, in that order; with the same shape and
 * type it is the same value. */
static bool keeps_elements(const struct pass *p, uint32_t n)
{
    static const char *const names[] = {"Identity", "Dropout", "Cast",    "CastLike",
                                        "Reshape",  "Flatten", "Squeeze", "Unsqueeze"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (pass_node(p, n, names[i]) != NULL)
            return true;
    }
    return false;
}

/* Whether node n can be passed by. The caller's memory for a graph output has to be written. */
static bool changes_nothing(const struct pass *p, uint32_t n, const bool *is_output)
{
    const struct graph_node *node = &p->g->nodes[n];
    if (node->out[0] == GRAPH_NONE || is_output[node->out[0]] || !keeps_elements(p, n))
        return false;
    for (size_t i = 1; i < node->out_count; i++) {
        if (node->out[i] != GRAPH_NONE && p->uses[node->out[i]] > 0)
            return false;
    }
    return pass_alike(p, node->in[0], node->out[0]);
}

/* The input of node n that is expanded to the shape of the other one; in_count when there is none.
 * Of two only one can be read as it was. */
static size_t find_expanded(const struct pass *p, uint32_t n)
{
    static const char *const names[] = {"Add", "Sub", "Mul", "Div"};
    const struct graph_node *node = &p->g->nodes[n];
    bool known = false;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        known = known || pass_node(p, n, names[i]) != NULL;
    if (!known || !pass_alike(p, node->in[0], node->in[1])) /* Expand is younger than set 7 */
        return node->in_count;
    size_t i = 0;
    while (i < 2 && pass_node(p, p->makers[node->in[i]], "Expand") == NULL)
        i++;
    return i;
}

static enum cvd_status rewire(struct pass *p, uint32_t n, const uint32_t *same)
{
    const struct graph_node *node = &p->g->nodes[n];
    const size_t expanded = find_expanded(p, n);
    bool any = expanded < node->in_count;
    for (size_t i = 0; i < node->in_count; i++)
        any |= node->in[i] != GRAPH_NONE && same[node->in[i]] != node->in[i];
    if (!any)
        return CVD_STATUS_OK;
    struct graph_node copy = *node;
    uint32_t *in = mem_arena_alloc(p->g->arena, node->in_count * sizeof(*in));
    if (in == NULL)
        return pass_no_memory(p);
    for (size_t i = 0; i < node->in_count; i++)
        in[i] = node->in[i] != GRAPH_NONE ? same[node->in[i]] : GRAPH_NONE;
    if (expanded < node->in_count) /* which has been rewired itself */
        in[expanded] = p->g->nodes[p->makers[node->in[expanded]]].in[0];
    copy.in = in;
    return pass_replace(p, n, &copy);
}

/* `same` holds, by value, the one that it is another name for, often itself. */
static enum cvd_status pass_by(struct pass *p, uint32_t *same, bool *is_output)
{
    const struct graph *g = p->g;
    for (uint32_t v = 0; v < p->count; v++) {
        same[v] = v;
        is_output[v] = false;
    }
    for (uint32_t i = 0; i < g->output_count; i++)
        is_output[g->outputs[i]] = true;
    for (uint32_t n = 0; n < g->node_count; n++) {
        enum cvd_status status = rewire(p, n, same);
        if (status != CVD_STATUS_OK)
            return status;
        if (changes_nothing(p, n, is_output))
            same[g->nodes[n].out[0]] = g->nodes[n].in[0];
    }
    return CVD_STATUS_OK;
}

enum cvd_status pass_identity(struct pass *p)
{
    uint32_t *same = mem_alloc(p->count * sizeof(*same));
    bool *is_output = mem_alloc(p->count * sizeof(*is_output));
    enum cvd_status status =
        same != NULL && is_output != NULL ? pass_by(p, same, is_output) : pass_no_memory(p);
    mem_free(same);
    mem_free(is_output);
    return status;
}
