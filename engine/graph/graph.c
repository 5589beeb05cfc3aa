/* The graph's arrays: growing them, copying into them, and checking what they say. */
#include "engine/graph/graph.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static enum cvd_status no_memory(struct cvd_error *err)
{
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "out of memory while building the graph");
}

static enum cvd_status too_many(struct cvd_error *err, const char *what, size_t limit)
{
    return cvd_error_set(err, CVD_STATUS_UNSUPPORTED, "the model has more than %zu %s", limit,
                         what);
}

enum cvd_status graph_init(struct graph *g, struct cvd_error *err)
{
    *g = (struct graph){.arena = mem_arena_create(), .name = "", .producer = ""};
    return g->arena ? CVD_STATUS_OK : no_memory(err);
}

void graph_release(struct graph *g)
{
    for (uint32_t i = 0; i < g->value_count; i++)
        mem_free(g->values[i].data);
    mem_free(g->values);
    mem_free(g->nodes);
    mem_free(g->inputs);
    mem_free(g->outputs);
    mem_free(g->opsets);
    mem_free(g->metadata);
    mem_arena_destroy(g->arena);
    *g = (struct graph){0};
}

/* ---- growing ---- */

/* A block of `room` items that begins with the `count` items of `old`, which it replaces; NULL (and
 * old stays) when there is no memory. */
static void *regrown(void *old, size_t count, size_t room, size_t item_bytes)
{
    size_t bytes;
    void *block = mem_mul(room, item_bytes, &bytes) ? mem_alloc(bytes) : NULL;
    if (!block)
        return NULL;
    if (count > 0)
        memcpy(block, old, count * item_bytes);
    mem_free(old);
    return block;
}

/* Arrays without a room of their own grow when their count is 0, 4, 8, 16, …: to twice that. */
static bool is_full(uint32_t count)
{
    return count == 0 || (count >= 4 && (count & (count - 1)) == 0);
}

static uint32_t doubled(uint32_t count)
{
    return count ? count * 2 : 4;
}

enum cvd_status graph_add_value(struct graph *g, const char *name, uint32_t *out,
                                struct cvd_error *err)
{
    if (g->value_count == GRAPH_MAX_VALUES)
        return too_many(err, "values", GRAPH_MAX_VALUES);
    if (g->value_count == g->value_room) {
        uint32_t room = doubled(g->value_room);
        struct graph_value *values = regrown(g->values, g->value_count, room, sizeof(*g->values));
        if (!values)
            return no_memory(err);
        g->values = values;
        g->value_room = room;
    }
    char *copy = NULL;
    if (name && !(copy = mem_arena_strndup(g->arena, name, strlen(name))))
        return no_memory(err);
    g->values[g->value_count] = (struct graph_value){.name = copy, .whole = GRAPH_NONE};
    *out = g->value_count++;
    return CVD_STATUS_OK;
}

enum cvd_status graph_add_initializer(struct graph *g, const char *name, enum cvd_dtype dtype,
                                      const struct cvd_shape *shape, const void *data,
                                      uint32_t *out, struct cvd_error *err)
{
    size_t elements, bytes;
    if (cvd_dtype_bytes(dtype) == 0 || !cvd_shape_elements(shape, &elements) ||
        !mem_mul(elements, cvd_dtype_bytes(dtype), &bytes)) {
        char text[CVD_SHAPE_TEXT_BYTES];
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                             "initializer '%.64s' cannot be %s %s", name ? name : "",
                             cvd_dtype_name(dtype), cvd_shape_text(shape, text));
    }
    void *block = mem_alloc(bytes);
    if (!block)
        return no_memory(err);
    uint32_t value;
    enum cvd_status status = graph_add_value(g, name, &value, err);
    if (status) {
        mem_free(block);
        return status;
    }
    if (data && bytes > 0)
        memcpy(block, data, bytes);
    struct graph_value *v = &g->values[value];
    v->dtype = dtype;
    v->has_shape = true;
    v->shape = *shape;
    v->data = block;
    v->bytes = bytes;
    *out = value;
    return CVD_STATUS_OK;
}

/* ---- nodes ---- */

/* A copy of count items in the arena; *ok becomes false when there is no memory. */
static void *copied(struct graph *g, const void *items, size_t count, size_t item_bytes, bool *ok)
{
    size_t bytes;
    void *copy = NULL;
    if (mem_mul(count, item_bytes, &bytes))
        copy = mem_arena_alloc_aligned(g->arena, bytes);
    if (!copy)
        *ok = false;
    else if (bytes > 0)
        memcpy(copy, items, bytes);
    return copy;
}

static const char *copied_text(struct graph *g, const char *text, bool *ok)
{
    const char *copy = mem_arena_strndup(g->arena, text, strlen(text));
    if (!copy)
        *ok = false;
    return copy;
}

static void copy_attr(struct graph *g, const struct op_attr *from, struct op_attr *to, bool *ok)
{
    *to = (struct op_attr){.type = from->type, .i = from->i, .f = from->f, .count = from->count};
    to->name = copied_text(g, from->name, ok);
    switch (from->type) {
    case OP_ATTR_FLOAT:
    case OP_ATTR_INT:
        break;
    case OP_ATTR_STRING:
        to->s = copied_text(g, from->s, ok);
        break;
    case OP_ATTR_FLOATS:
        to->floats = copied(g, from->floats, from->count, sizeof(*from->floats), ok);
        break;
    case OP_ATTR_INTS:
        to->ints = copied(g, from->ints, from->count, sizeof(*from->ints), ok);
        break;
    case OP_ATTR_STRINGS: {
        const char **strings = mem_arena_alloc(g->arena, from->count * sizeof(*strings));
        if (!strings)
            *ok = false;
        for (size_t i = 0; strings && i < from->count; i++)
            strings[i] = copied_text(g, from->strings[i], ok);
        to->strings = strings;
        break;
    }
    case OP_ATTR_TENSOR: {
        size_t elements = 0;
        bool fits = cvd_shape_elements(&from->tensor.shape, &elements);
        assert(fits);
        (void)fits;
        to->tensor = from->tensor;
        to->tensor.data =
            copied(g, from->tensor.data, elements, cvd_dtype_bytes(from->tensor.dtype), ok);
        break;
    }
    }
}

enum cvd_status graph_add_node(struct graph *g, const struct graph_node *node,
                               struct cvd_error *err)
{
    bool ok = true;
    struct graph_node copy = *node;
    struct op_attr *attrs = mem_arena_alloc(g->arena, node->attr_count * sizeof(*attrs));
    if (!attrs)
        return no_memory(err);
    for (size_t i = 0; i < node->attr_count; i++)
        copy_attr(g, &node->attrs[i], &attrs[i], &ok);
    copy.attrs = attrs;
    copy.op = copied_text(g, node->op, &ok);
    copy.domain = copied_text(g, node->domain, &ok);
    copy.name = copied_text(g, node->name, &ok);
    copy.in = copied(g, node->in, node->in_count, sizeof(*node->in), &ok);
    copy.out = copied(g, node->out, node->out_count, sizeof(*node->out), &ok);
    return ok ? graph_adopt_node(g, &copy, err) : no_memory(err);
}

enum cvd_status graph_adopt_node(struct graph *g, const struct graph_node *node,
                                 struct cvd_error *err)
{
    for (size_t i = 0; i < node->in_count; i++)
        assert(node->in[i] == GRAPH_NONE || node->in[i] < g->value_count);
    for (size_t i = 0; i < node->out_count; i++)
        assert(node->out[i] == GRAPH_NONE || node->out[i] < g->value_count);
    if (g->node_count == GRAPH_MAX_NODES)
        return too_many(err, "nodes", GRAPH_MAX_NODES);
    if (g->node_count == g->node_room) {
        uint32_t room = doubled(g->node_room);
        struct graph_node *nodes = regrown(g->nodes, g->node_count, room, sizeof(*g->nodes));
        if (!nodes)
            return no_memory(err);
        g->nodes = nodes;
        g->node_room = room;
    }
    g->nodes[g->node_count++] = *node;
    return CVD_STATUS_OK;
}

char *graph_node_text(const struct graph_node *node, uint32_t index,
                      char text[GRAPH_NODE_TEXT_BYTES])
{
    if (node->name && node->name[0])
        snprintf(text, GRAPH_NODE_TEXT_BYTES, "%.48s '%.96s'", node->op, node->name);
    else
        snprintf(text, GRAPH_NODE_TEXT_BYTES, "%.48s (node %u)", node->op, index);
    return text;
}

/* ---- inputs, outputs, opsets, metadata ---- */

static enum cvd_status add_number(uint32_t **array, uint32_t *count, uint32_t number,
                                  struct cvd_error *err)
{
    if (is_full(*count)) {
        uint32_t *grown = regrown(*array, *count, doubled(*count), sizeof(**array));
        if (!grown)
            return no_memory(err);
        *array = grown;
    }
    (*array)[(*count)++] = number;
    return CVD_STATUS_OK;
}

enum cvd_status graph_add_input(struct graph *g, uint32_t value, struct cvd_error *err)
{
    assert(value < g->value_count);
    return add_number(&g->inputs, &g->input_count, value, err);
}

enum cvd_status graph_add_output(struct graph *g, uint32_t value, struct cvd_error *err)
{
    assert(value < g->value_count);
    if (g->output_count == GRAPH_MAX_VALUES) /* a hostile list may name one value for ever */
        return too_many(err, "outputs", GRAPH_MAX_VALUES);
    return add_number(&g->outputs, &g->output_count, value, err);
}

enum cvd_status graph_add_opset(struct graph *g, const char *domain, int64_t version,
                                struct cvd_error *err)
{
    if (g->opset_count == GRAPH_MAX_OPSETS)
        return too_many(err, "operator sets", GRAPH_MAX_OPSETS);
    if (is_full(g->opset_count)) {
        struct graph_opset *grown =
            regrown(g->opsets, g->opset_count, doubled(g->opset_count), sizeof(*grown));
        if (!grown)
            return no_memory(err);
        g->opsets = grown;
    }
    bool ok = true;
    struct graph_opset opset = {copied_text(g, domain, &ok), version};
    if (!ok)
        return no_memory(err);
    g->opsets[g->opset_count++] = opset;
    return CVD_STATUS_OK;
}

int64_t graph_opset(const struct graph *g, const char *domain)
{
    for (uint32_t i = 0; i < g->opset_count; i++)
        if (strcmp(g->opsets[i].domain, domain) == 0)
            return g->opsets[i].version;
    return 0;
}

enum cvd_status graph_add_metadata(struct graph *g, const char *key, const char *value,
                                   struct cvd_error *err)
{
    if (g->metadata_count == GRAPH_MAX_METADATA)
        return too_many(err, "metadata entries", GRAPH_MAX_METADATA);
    if (is_full(g->metadata_count)) {
        struct graph_property *grown =
            regrown(g->metadata, g->metadata_count, doubled(g->metadata_count), sizeof(*grown));
        if (!grown)
            return no_memory(err);
        g->metadata = grown;
    }
    bool ok = true;
    struct graph_property property = {copied_text(g, key, &ok), copied_text(g, value, &ok)};
    if (!ok)
        return no_memory(err);
    g->metadata[g->metadata_count++] = property;
    return CVD_STATUS_OK;
}
