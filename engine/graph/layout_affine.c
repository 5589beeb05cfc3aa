/*
 * Layout assignment (layout.h): Add, Sub, Mul and Div of a map and a constant, one number for each
 * channel or one for all. What no convolution has taken into its weights (pass_affine.c) becomes a
 * BatchNormalization of maps.
 */
#include "engine/graph/layout.h"

#include <float.h>
#include <math.h>

/* The constant's numbers by channel, for one that stands beside [N,C,H,W]; NULL when it is none. */
static const float *by_channel(const struct layout *l, uint32_t v, int64_t channels, size_t *step)
{
    size_t count;
    const float *data = pass_floats(l->p, v, &count);
    if (data == NULL || (count != 1 && (int64_t)count != channels))
        return NULL;
    const struct cvd_shape *shape = &l->p->g->values[v].shape;
    if (shape->rank > 4 ||
        (count > 1 && (shape->rank < 3 || shape->dims[shape->rank - 3] != channels)))
        return NULL;
    *step = count > 1;
    return data;
}

static const struct graph_node *find_node(const struct layout *l, uint32_t n)
{
    static const char *const names[] = {"Add", "Sub", "Mul", "Div"};
    const struct graph_node *node = NULL;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names) && node == NULL; i++)
        node = pass_node(l->p, n, names[i]);
    return node;
}

/* What the node does to channel c of the map, its input `map`, with that number. */
static void read_number(const struct graph_node *node, size_t map, double number, double *scale,
                        double *shift)
{
    switch (node->op[0]) {
    case 'M':
        *scale = number;
        break;
    case 'D':
        *scale = 1 / number;
        break;
    case 'S':
        *scale = map == 0 ? 1 : -1;
        *shift = map == 0 ? -number : number;
        break;
    default:
        *shift = number;
    }
}

/* Fills scale and shift; false when they are no numbers. */
static bool fill(const struct graph_node *node, size_t map, const float *numbers, size_t step,
                 int64_t channels, float *scale, float *shift)
{
    for (int64_t c = 0; c < channels; c++) {
        double factor = 1, summand = 0;
        read_number(node, map, (double)numbers[(size_t)c * step], &factor, &summand);
        if (!(fabs(factor) <= (double)FLT_MAX && fabs(summand) <= (double)FLT_MAX))
            return false;
        scale[c] = (float)factor;
        shift[c] = (float)summand;
    }
    return true;
}

static enum cvd_status rewrite(struct layout *l, const struct graph_node *node, size_t map,
                               const float *numbers, size_t step, bool *taken)
{
    const struct cvd_shape vector = {.rank = 1, .dims = {pass_shape(l->p, node->in[map])->dims[1]}};
    const int64_t channels = vector.dims[0];
    struct graph *g = l->p->g;
    uint32_t in[5]; /* map, scale, shift, mean, variance */
    enum cvd_status status = pass_use_domain(l->p, BLOCKED_DOMAIN, BLOCKED_VERSION);
    for (size_t i = 1; i < 5 && status == CVD_STATUS_OK; i++)
        status =
            graph_add_initializer(g, NULL, CVD_DTYPE_FLOAT32, &vector, NULL, &in[i], l->p->err);
    if (status != CVD_STATUS_OK ||
        !fill(node, map, numbers, step, channels, g->values[in[1]].data, g->values[in[2]].data))
        return status;
    for (int64_t c = 0; c < channels; c++) {
        ((float *)g->values[in[3]].data)[c] = 0;
        ((float *)g->values[in[4]].data)[c] = 1;
    }
    const struct op_attr epsilon = {.name = "epsilon", .type = OP_ATTR_FLOAT, .f = 0};
    struct layout_node made = {.node = *node};
    made.node.attrs = pass_attrs(l->p, &made.node, &epsilon, 1, &made.node.attr_count);
    if (made.node.attrs == NULL)
        return pass_no_memory(l->p);
    status = layout_want(l, node->in[map], true, &in[0]);
    made.node.op = "BatchNormalization";
    made.node.domain = BLOCKED_DOMAIN;
    made.node.label = node->label != NULL ? node->label : node->op;
    made.node.in = in;
    made.node.in_count = 5;
    *taken = true;
    return status == CVD_STATUS_OK ? layout_emit_map(l, &made, node->out[0]) : status;
}

enum cvd_status layout_scale(struct layout *l, uint32_t n, bool *taken)
{
    const struct pass *p = l->p;
    const struct graph_node *node = find_node(l, n);
    *taken = false;
    if (node == NULL || graph_opset(p->g, "") < 7) /* which had another idea of broadcasting */
        return CVD_STATUS_OK;
    for (size_t map = 0; map < (node->op[0] == 'D' ? 1 : 2); map++) {
        const uint32_t x = node->in[map];
        size_t step;
        if (l->maps[x] == GRAPH_NONE || !pass_alike(p, x, node->out[0]))
            continue;
        const int64_t channels = pass_shape(p, x)->dims[1];
        const float *numbers = by_channel(l, node->in[1 - map], channels, &step);
        const size_t bytes = 4 * (size_t)channels * sizeof(float);
        if (numbers == NULL || bytes > p->budget->bytes)
            continue;
        p->budget->bytes -= bytes;
        return rewrite(l, node, map, numbers, step, taken);
    }
    return CVD_STATUS_OK;
}
