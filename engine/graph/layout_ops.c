/* Layout assignment (layout.h): the operator on blocked maps for each kind of node. */
#include "engine/graph/layout.h"

#include "engine/graph/plan.h"
#include "engine/graph/tune.h"

#include <string.h>

#define MAX_INPUTS 5

/* Channels into a convolution up to which plain rows are read as they are. */
#define STEM_CHANNELS 8
/* Channels out up to which a convolution of plain rows is computed row by row as well. */
#define PLANES_CHANNELS 8

/* ---- looking ---- */

/* Whether the value is float32 [N, C, H, W] of a size that may be blocked. */
static bool is_image(const struct layout *l, uint32_t v)
{
    const struct cvd_shape *shape = v != GRAPH_NONE ? pass_shape(l->p, v) : NULL;
    size_t elements;
    return shape != NULL && shape->rank == 4 && pass_is_float(l->p, v) &&
           cvd_shape_elements(shape, &elements) && elements > 0 &&
           elements <= PLAN_MAX_BYTES / sizeof(float);
}

static bool is_map(const struct layout *l, uint32_t v)
{
    return v != GRAPH_NONE && l->maps[v] != GRAPH_NONE;
}

static bool is_constant(const struct layout *l, uint32_t v)
{
    return v != GRAPH_NONE && l->p->g->values[v].data != NULL;
}

/* A node as operators see it. */
struct view {
    struct op_value values[MAX_INPUTS];
    const struct op_value *in[MAX_INPUTS];
    struct op_node node;
};

static bool view_node(const struct layout *l, const struct graph_node *node, struct view *view)
{
    bool known;
    const int64_t opset = graph_opset(l->p->g, node->domain);
    *view = (struct view){.node = {.name = node->name,
                                   .opset = opset < INT32_MAX ? (int)opset : INT32_MAX,
                                   .attrs = node->attrs,
                                   .attr_count = node->attr_count,
                                   .in = view->in,
                                   .in_count = node->in_count,
                                   .out_count = node->out_count}};
    view->node.def = op_find(node->domain, node->op, view->node.opset, &known);
    if (view->node.def == NULL || node->in_count > MAX_INPUTS)
        return false;
    for (size_t i = 0; i < node->in_count; i++) {
        uint32_t v = node->in[i];
        if (v == GRAPH_NONE)
            continue;
        if (!pass_is_float(l->p, v) || pass_shape(l->p, v) == NULL)
            return false;
        view->values[i] = (struct op_value){.dtype = CVD_DTYPE_FLOAT32,
                                            .shape = *pass_shape(l->p, v),
                                            .data = l->p->g->values[v].data};
        view->in[i] = &view->values[i];
    }
    return true;
}

/* ---- convolutions ---- */

/* Cycles of a 3 x 3 convolution of one image: direct (tile 0) or Winograd's way, which has fewer
 * multiplications but transforms its maps and passes over more weights. Of two vectors of
 * multiply-adds a cycle nine tenths are reached; meanwhile weights come from beyond the
 * second-level cache, out of which other layers have driven them, at some 7.5 bytes a cycle. */
static double conv_cycles(const struct layout *l, const struct cvd_shape *w,
                          const struct cvd_shape *y, unsigned tile)
{
    const int64_t lanes = l->lanes, side = tile != 0 ? tile : 1;
    const double in = (double)w->dims[1], in_blocks = (double)((w->dims[1] + lanes - 1) / lanes);
    const double out_blocks = (double)((w->dims[0] + lanes - 1) / lanes);
    const double places =
        (double)((y->dims[2] + side - 1) / side) * (double)((y->dims[3] + side - 1) / side);
    const double elements = tile != 0 ? (tile + 2) * (tile + 2) : 9;
    const double compute = elements * places * in * out_blocks / (2 * 0.9);
    const double weights = elements * in * out_blocks * (double)lanes * sizeof(float) / 7.5;
    const double transforms = tile != 0 ? 3 * elements * places * (in_blocks + out_blocks) : 0;
    return (compute > weights ? compute : weights) + transforms;
}

/* The way that takes the least time: by that model, or, among those that need less than twice as
 * long by it, as measured. */
static unsigned conv_tile(const struct layout *l, const struct graph_node *node,
                          const struct op_node *op)
{
    static const unsigned all[TUNE_MAX_WAYS] = {0, 2, 4};
    unsigned tiles[TUNE_MAX_WAYS], gap;
    double cycles[TUNE_MAX_WAYS];
    size_t best = 0, count = 1;
    const struct cvd_shape *w = pass_shape(l->p, node->in[1]);
    const struct cvd_shape *y = pass_shape(l->p, node->out[0]);
    if (y == NULL || !blocked_winograd_fits(op, &gap) || w->dims[0] < 16 || w->dims[1] < 16)
        return 0;
    for (size_t i = 0; i < TUNE_MAX_WAYS; i++) {
        cycles[i] = conv_cycles(l, w, y, all[i]);
        best = cycles[i] < cycles[best] ? i : best;
    }
    tiles[0] = all[best];
    for (size_t i = 0; i < TUNE_MAX_WAYS; i++) {
        if (i != best && cycles[i] < 2 * cycles[best])
            tiles[count++] = all[i];
    }
    return l->p->tune != NULL ? tune_tile(l->p->tune, op, y, tiles, count) : tiles[0];
}

static bool choose_conv(const struct layout *l, const struct graph_node *node,
                        struct layout_choice *c)
{
    struct view view;
    const uint32_t x = node->in[0];
    if (!is_image(l, x) || !is_image(l, node->out[0]) || !view_node(l, node, &view))
        return false;
    c->op = "Conv";
    if (blocked_depthwise_fits(&view.node, &c->gap)) {
        c->op = "DepthwiseConv";
        c->maps = 1u << 0;
        c->map_out = true;
        return true;
    }
    const unsigned forms = blocked_conv_forms(&view.node, l->lanes, &c->gap);
    const int64_t in = view.values[0].shape.dims[1], out = view.values[1].shape.dims[0];
    if (!is_map(l, x) && in <= STEM_CHANNELS) {
        c->gap = 0;
        c->map_out = !((forms & BLOCKED_CONV_PLANES) && out <= PLANES_CHANNELS);
        if (!c->map_out || (forms & BLOCKED_CONV_STEM))
            return true;
        c->map_out = false;
        (void)blocked_conv_forms(&view.node, l->lanes, &c->gap);
    }
    if (!(forms & BLOCKED_CONV_BLOCKED))
        return false;
    c->maps = 1u << 0;
    c->map_out = true;
    const unsigned tile = conv_tile(l, node, &view.node);
    if (tile != 0) {
        const struct op_attr attr = {.name = "tile", .type = OP_ATTR_INT, .i = tile};
        c->attrs = pass_attrs(l->p, node, &attr, 1, &c->attr_count);
        if (c->attrs == NULL)
            return false; /* without memory the convolution stays what it is */
        c->op = "WinogradConv";
        (void)blocked_winograd_fits(&view.node, &c->gap);
    }
    return true;
}

/* ---- pooling ---- */

static bool choose_pool(const struct layout *l, const struct graph_node *node,
                        struct layout_choice *c)
{
    struct view view;
    if (!is_image(l, node->in[0]) || !is_image(l, node->out[0]))
        return false;
    c->op = node->op;
    c->maps = 1u << 0;
    c->map_out = true;
    if (is_map(l, node->in[0]))
        return true;
    c->op = "PlanesMaxPool";
    c->maps = 0;
    c->map_out = false;
    return strcmp(node->op, "MaxPool") == 0 && view_node(l, node, &view) &&
           blocked_planes_pool(&view.node);
}

static bool choose_global_pool(const struct layout *l, const struct graph_node *node,
                               struct layout_choice *c)
{
    c->op = node->op;
    c->maps = 1u << 0;
    c->map_out = true;
    return is_map(l, node->in[0]) && is_image(l, node->out[0]);
}

/* ---- element by element ---- */

static bool choose_add(const struct layout *l, const struct graph_node *node,
                       struct layout_choice *c)
{
    c->op = "Add";
    c->maps = 1u << 0 | 1u << 1;
    c->map_out = true;
    return node->in_count == 2 && is_image(l, node->in[0]) && is_image(l, node->in[1]) &&
           pass_alike(l->p, node->in[0], node->in[1]) &&
           (is_map(l, node->in[0]) || is_map(l, node->in[1]));
}

/* Whether b has as many images as a, or one, for every batch. */
static bool has_images_of(const struct layout *l, uint32_t a, uint32_t b)
{
    const struct pass *p = l->p;
    const int64_t images = pass_shape(p, b)->dims[0];
    if (p->two == NULL || a >= p->known || b >= p->known)
        return images == 1 || images == pass_shape(p, a)->dims[0];
    return p->two[b].shape.dims[0] == 1 || (images == pass_shape(p, a)->dims[0] &&
                                            p->two[b].shape.dims[0] == p->two[a].shape.dims[0]);
}

/* [N, C, 1, 1] or [1, C, 1, 1] beside [N, C, H, W] of more than one pixel. */
static bool scales_channels(const struct layout *l, uint32_t a, uint32_t b)
{
    const struct cvd_shape *x = pass_shape(l->p, a), *y = pass_shape(l->p, b);
    return is_map(l, a) && y->dims[1] == x->dims[1] && y->dims[2] == 1 && y->dims[3] == 1 &&
           x->dims[2] * x->dims[3] > 1 && has_images_of(l, a, b);
}

static bool choose_mul(const struct layout *l, const struct graph_node *node,
                       struct layout_choice *c)
{
    const uint32_t a = node->in[0], b = node->in[1];
    if (!is_image(l, a) || !is_image(l, b) || !is_image(l, node->out[0]))
        return false;
    c->op = "Mul";
    c->map_out = true;
    c->maps = 1u << 0 | 1u << 1;
    if (pass_alike(l->p, a, b))
        return is_map(l, a) || is_map(l, b);
    const bool swap = !scales_channels(l, a, b);
    if (swap && !scales_channels(l, b, a))
        return false;
    c->in[0] = swap ? b : a;
    c->in[1] = swap ? a : b;
    if (!is_map(l, c->in[1]))
        c->maps = 1u << 0;
    return true;
}

static bool choose_norm(const struct layout *l, const struct graph_node *node,
                        struct layout_choice *c)
{
    for (size_t i = 1; i < 5; i++) {
        if (!is_constant(l, pass_input(node, i)))
            return false;
    }
    c->op = "BatchNormalization";
    c->maps = 1u << 0;
    c->map_out = true;
    return is_map(l, node->in[0]) && pass_int(node, "spatial", 1) != 0;
}

/* Over the channels of a map, or over the last dimension of a plain value. */
static bool choose_layer_norm(const struct layout *l, const struct graph_node *node,
                              struct layout_choice *c)
{
    const struct cvd_shape *shape = pass_shape(l->p, node->in[0]);
    const int64_t axis = pass_int(node, "axis", -1);
    c->op = "LayerNorm";
    if (axis == 1 && is_image(l, node->in[0])) {
        c->maps = 1u << 0;
        c->map_out = true;
        return true;
    }
    return shape != NULL && shape->rank > 1 && axis == shape->rank - 1;
}

static bool choose_activation(const struct layout *l, uint32_t n, struct layout_choice *c)
{
    const struct graph_node *node = &l->p->g->nodes[n];
    struct activation a;
    if (node->in_count == 0 || !is_map(l, node->in[0]) || !pass_read_activation(l->p, n, &a))
        return false;
    const struct op_attr attrs[] = {
        {.name = "activation", .type = OP_ATTR_STRING, .s = activation_name(a.kind)},
        {.name = "activation_alpha", .type = OP_ATTR_FLOAT, .f = a.alpha},
        {.name = "activation_beta", .type = OP_ATTR_FLOAT, .f = a.beta}};
    c->op = "Activation";
    c->attrs = pass_attrs(l->p, node, attrs, 3, &c->attr_count);
    c->in_count = 1;
    c->maps = 1u << 0;
    c->map_out = true;
    return c->attrs != NULL;
}

/* ---- on plain values ---- */

/* Whether v, which has the elements of the map x, holds each image's in one row. */
static bool has_rows_of(const struct layout *l, uint32_t v, uint32_t x)
{
    const struct pass *p = l->p;
    const struct cvd_shape *rows = pass_shape(p, v);
    const int64_t images = pass_shape(p, x)->dims[0];
    if (rows->rank != 2 || rows->dims[0] != images)
        return false;
    if (p->two == NULL)
        return true;
    if (x >= p->known) /* of pass_mean(), which flattens what it has averaged image by image */
        return pass_node(p, p->makers[v], "Flatten") != NULL;
    return v < p->known && p->two[v].shape.dims[0] == p->two[x].shape.dims[0];
}

/* The map that v is the Flatten of: all of an image's elements in a row. */
static uint32_t flattened_map(const struct layout *l, uint32_t v)
{
    static const char *const flat[] = {"Flatten", "Reshape", "Squeeze"};
    const struct graph_node *node = NULL;
    for (size_t i = 0; i < 3 && node == NULL; i++)
        node = pass_node(l->p, l->p->makers[v], flat[i]);
    if (node == NULL || !is_map(l, node->in[0]) || !is_image(l, node->in[0]))
        return GRAPH_NONE;
    return has_rows_of(l, v, node->in[0]) ? node->in[0] : GRAPH_NONE;
}

static bool is_row(const struct layout *l, uint32_t v, int64_t columns)
{
    size_t elements;
    if (v == GRAPH_NONE)
        return true;
    const struct cvd_shape *shape = pass_shape(l->p, v);
    return is_constant(l, v) && cvd_shape_elements(shape, &elements) &&
           (elements == (size_t)columns || elements == 1) &&
           !(shape->rank == 2 && shape->dims[0] != 1) && shape->rank <= 2;
}

static bool choose_product(const struct layout *l, const struct graph_node *node,
                           struct layout_choice *c)
{
    const struct cvd_shape *a = pass_shape(l->p, node->in[0]);
    const struct cvd_shape *b = pass_shape(l->p, node->in[1]);
    const bool gemm = strcmp(node->op, "Gemm") == 0;
    if (a == NULL || a->rank < 2 || b == NULL || b->rank != 2 || !is_constant(l, node->in[1]) ||
        !pass_is_float(l->p, node->in[0]) || !pass_is_float(l->p, node->in[1]) ||
        (gemm && pass_int(node, "transA", 0) != 0))
        return false;
    const int64_t columns = b->dims[gemm && pass_int(node, "transB", 0) != 0 ? 0 : 1];
    if (columns == 0 || b->dims[0] == 0 || b->dims[1] == 0 ||
        !is_row(l, pass_input(node, 2), columns))
        return false;
    c->op = node->op;
    const uint32_t map = flattened_map(l, node->in[0]);
    if (map != GRAPH_NONE) {
        c->op = "Gemm"; /* which a MatMul of two dimensions is */
        c->in[0] = map;
        c->maps = 1u << 0;
    }
    return true;
}

static bool choose_softmax(const struct layout *l, const struct graph_node *node,
                           struct layout_choice *c)
{
    const struct cvd_shape *shape = pass_shape(l->p, node->in[0]);
    const int64_t axis = pass_int(node, "axis", graph_opset(l->p->g, "") < 13 ? 1 : -1);
    unsigned first;
    if (shape == NULL || shape->rank < 2 || !pass_is_float(l->p, node->in[0]) ||
        !op_axis(axis, shape->rank, &first) || first != shape->rank - 1)
        return false; /* over the last dimension the old and the new meaning of axis agree */
    const struct op_attr attr = {.name = "axis", .type = OP_ATTR_INT, .i = first};
    c->op = "Softmax";
    c->attrs = pass_attrs(l->p, node, &attr, 1, &c->attr_count);
    return c->attrs != NULL;
}

/* ---- all ---- */

/* Whether only the first output is read. */
static bool has_one_output(const struct layout *l, const struct graph_node *node)
{
    for (size_t i = 1; i < node->out_count; i++) {
        if (node->out[i] != GRAPH_NONE && l->p->uses[node->out[i]] > 0)
            return false;
    }
    return node->out_count > 0 && node->out[0] != GRAPH_NONE;
}

bool layout_choose(const struct layout *l, uint32_t n, struct layout_choice *c)
{
    static const struct {
        const char *op;
        bool (*choose)(const struct layout *l, const struct graph_node *node,
                       struct layout_choice *c);
    } rules[] = {
        {"Conv", choose_conv},
        {"MaxPool", choose_pool},
        {"AveragePool", choose_pool},
        {"GlobalMaxPool", choose_global_pool},
        {"GlobalAveragePool", choose_global_pool},
        {"Add", choose_add},
        {"Sum", choose_add},
        {"Mul", choose_mul},
        {"BatchNormalization", choose_norm},
        {"LayerNorm", choose_layer_norm},
        {"Gemm", choose_product},
        {"MatMul", choose_product},
        {"Softmax", choose_softmax},
    };
    const struct graph_node *node = &l->p->g->nodes[n];
    *c = (struct layout_choice){
        .attrs = node->attrs, .attr_count = node->attr_count, .in_count = node->in_count};
    if (!has_one_output(l, node) || node->in_count == 0 || node->in_count > MAX_INPUTS)
        return false;
    for (size_t i = 0; i < node->in_count; i++)
        c->in[i] = node->in[i];
    const bool own = strcmp(node->domain, FUSED_DOMAIN) == 0;
    for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++) {
        const bool same =
            pass_node(l->p, n, rules[i].op) != NULL || (own && strcmp(node->op, rules[i].op) == 0);
        if (!same)
            continue;
        if (!rules[i].choose(l, node, c))
            return false;
        if (strcmp(rules[i].op, "Conv") == 0 && pass_input(node, 3) != GRAPH_NONE) {
            c->maps |= 1u << 3;
            c->residual = true;
        }
        return true;
    }
    return choose_activation(l, n, c);
}
