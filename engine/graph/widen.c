/*
 * Number types at the edges: inside a plan every floating-point number is float32. Weights of
 * another type are converted here, a Cast to one becomes a Cast to float32, and graph inputs and
 * outputs that keep their type get a Cast of their own.
 *
 * float64 is converted like the half-precision types: what classifiers compute with it (a scale, an
 * epsilon) loses nothing that matters.
 */
#include "engine/graph/build.h"
#include "engine/ops/convert.h"

#include <string.h>

static bool is_other(enum cvd_dtype dtype)
{
    return dtype == CVD_DTYPE_FLOAT16 || dtype == CVD_DTYPE_BFLOAT16 || dtype == CVD_DTYPE_FLOAT64;
}

/* ---- weights and attributes ---- */

static enum cvd_status widen_initializer(const struct build *b, struct graph_value *value)
{
    size_t count = value->bytes / cvd_dtype_bytes(value->dtype), bytes;
    float *data = mem_mul(count, sizeof(*data), &bytes) ? mem_alloc(bytes) : NULL;
    if (data == NULL)
        return build_no_memory(b);
    convert_elements(value->dtype, value->data, CVD_DTYPE_FLOAT32, data, count);
    mem_free(value->data);
    value->dtype = CVD_DTYPE_FLOAT32;
    value->data = data;
    value->bytes = bytes;
    return CVD_STATUS_OK;
}

static enum cvd_status widen_tensor(const struct build *b, struct op_tensor *tensor)
{
    size_t count = 0, bytes;
    float *data = NULL;
    if (cvd_shape_elements(&tensor->shape, &count) && mem_mul(count, sizeof(*data), &bytes))
        data = mem_arena_alloc_aligned(b->g->arena, bytes);
    if (data == NULL)
        return build_no_memory(b);
    convert_elements(tensor->dtype, tensor->data, CVD_DTYPE_FLOAT32, data, count);
    tensor->dtype = CVD_DTYPE_FLOAT32;
    tensor->data = data;
    return CVD_STATUS_OK;
}

/* Whether the attribute is a tensor of another type, or says that a Cast makes one. */
static bool names_other(const struct graph_node *node, const struct op_attr *attr)
{
    if (attr->type == OP_ATTR_TENSOR)
        return is_other(attr->tensor.dtype);
    return attr->type == OP_ATTR_INT && strcmp(node->op, "Cast") == 0 &&
           strcmp(attr->name, "to") == 0 && attr->i > 0 && attr->i <= CVD_DTYPE_BFLOAT16 &&
           is_other((enum cvd_dtype)attr->i);
}

static enum cvd_status widen_attrs(const struct build *b, struct graph_node *node)
{
    bool any = false;
    for (size_t i = 0; i < node->attr_count; i++)
        any |= names_other(node, &node->attrs[i]);
    if (!any)
        return CVD_STATUS_OK;
    struct op_attr *attrs = mem_arena_alloc(b->g->arena, node->attr_count * sizeof(*attrs));
    if (attrs == NULL)
        return build_no_memory(b);
    enum cvd_status status = CVD_STATUS_OK;
    for (size_t i = 0; i < node->attr_count && status == CVD_STATUS_OK; i++) {
        attrs[i] = node->attrs[i];
        if (!names_other(node, &attrs[i]))
            continue;
        if (attrs[i].type == OP_ATTR_TENSOR)
            status = widen_tensor(b, &attrs[i].tensor);
        else
            attrs[i].i = CVD_DTYPE_FLOAT32;
    }
    node->attrs = attrs;
    return status;
}

/* ---- edges ---- */

/* A new value that is `from` as `dtype`, of the same name. */
static enum cvd_status add_cast(struct build *b, uint32_t from, enum cvd_dtype dtype, uint32_t *to)
{
    const struct op_attr attr = {.name = "to", .type = OP_ATTR_INT, .i = dtype};
    enum cvd_status status = graph_add_value(b->g, b->g->values[from].name, to, b->err);
    struct graph_node node = {.op = "Cast",
                              .domain = "",
                              .name = "",
                              .attrs = &attr,
                              .attr_count = 1,
                              .in = &from,
                              .in_count = 1,
                              .out = to,
                              .out_count = 1};
    return status == CVD_STATUS_OK ? graph_add_node(b->g, &node, b->err) : status;
}

/* Lets the first `nodes` nodes read other values instead: to[v] where that is not GRAPH_NONE. */
static enum cvd_status rewire(const struct build *b, uint32_t nodes, const uint32_t *to)
{
    for (uint32_t n = 0; n < nodes; n++) {
        struct graph_node *node = &b->g->nodes[n];
        bool any = false;
        for (size_t i = 0; i < node->in_count; i++)
            any |= node->in[i] != GRAPH_NONE && to[node->in[i]] != GRAPH_NONE;
        if (!any)
            continue;
        uint32_t *in = mem_arena_alloc(b->g->arena, node->in_count * sizeof(*in));
        if (in == NULL)
            return build_no_memory(b);
        for (size_t i = 0; i < node->in_count; i++) {
            uint32_t v = node->in[i];
            in[i] = v != GRAPH_NONE && to[v] != GRAPH_NONE ? to[v] : v;
        }
        node->in = in;
    }
    return CVD_STATUS_OK;
}

static enum cvd_status widen_inputs(struct build *b)
{
    struct graph *g = b->g;
    uint32_t nodes = g->node_count, count = g->value_count;
    uint32_t *to = mem_alloc(count * sizeof(*to));
    if (to == NULL)
        return build_no_memory(b);
    for (uint32_t v = 0; v < count; v++)
        to[v] = GRAPH_NONE;
    enum cvd_status status = CVD_STATUS_OK;
    for (uint32_t i = 0; i < g->input_count && status == CVD_STATUS_OK; i++) {
        if (is_other(g->values[g->inputs[i]].dtype))
            status = add_cast(b, g->inputs[i], CVD_DTYPE_FLOAT32, &to[g->inputs[i]]);
    }
    if (status == CVD_STATUS_OK)
        status = rewire(b, nodes, to);
    for (uint32_t i = 0; i < g->output_count && status == CVD_STATUS_OK; i++) {
        if (to[g->outputs[i]] != GRAPH_NONE)
            g->outputs[i] = to[g->outputs[i]];
    }
    mem_free(to);
    return status;
}

/* Casts to what the file declares, which `declared` holds by output. */
static enum cvd_status widen_outputs(struct build *b, const enum cvd_dtype *declared)
{
    struct graph *g = b->g;
    enum cvd_status status = CVD_STATUS_OK;
    for (uint32_t i = 0; i < g->output_count && status == CVD_STATUS_OK; i++) {
        if (is_other(declared[i]))
            status = add_cast(b, g->outputs[i], declared[i], &g->outputs[i]);
    }
    return status;
}

/* ---- all of it ---- */

enum cvd_status build_widen(struct build *b, bool float32_edges)
{
    struct graph *g = b->g;
    uint32_t nodes = g->node_count;
    enum cvd_status status = CVD_STATUS_OK;
    enum cvd_dtype *declared = mem_alloc(g->output_count * sizeof(*declared));
    if (declared == NULL)
        return build_no_memory(b);
    for (uint32_t i = 0; i < g->output_count; i++)
        declared[i] = g->values[g->outputs[i]].dtype;
    for (uint32_t n = 0; n < nodes && status == CVD_STATUS_OK; n++)
        status = widen_attrs(b, &g->nodes[n]);
    if (status == CVD_STATUS_OK && !float32_edges)
        status = widen_inputs(b);
    for (uint32_t v = 0; v < g->value_count && status == CVD_STATUS_OK; v++) {
        if (g->values[v].data != NULL && is_other(g->values[v].dtype))
            status = widen_initializer(b, &g->values[v]);
    }
    for (uint32_t i = 0; i < g->input_count && float32_edges; i++) {
        struct graph_value *input = &g->values[g->inputs[i]];
        input->dtype = is_other(input->dtype) ? CVD_DTYPE_FLOAT32 : input->dtype;
    }
    if (status == CVD_STATUS_OK && !float32_edges)
        status = widen_outputs(b, declared);
    mem_free(declared);
    return status == CVD_STATUS_OK && g->node_count > nodes ? graph_check(g, b->err) : status;
}
