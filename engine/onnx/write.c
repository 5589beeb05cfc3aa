/*
 * Graph -> ModelProto. The same code runs twice, first to count and then to write (see wire.h).
 *
 * Repeated numbers are not packed, as onnx.proto declares them; other readers insist on that less
 * than we could know.
 */
#include "engine/onnx/names.h"
#include "engine/onnx/onnx.h"
#include "engine/onnx/proto.h"
#include "engine/onnx/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_MAX_BYTES   ((size_t)INT32_MAX) /* protocol buffers end at 2 GiB */
#define IR_VERSION        8
#define IR_VERSION_OLDEST 4 /* earlier ones want initializers among the inputs */

struct writer {
    const struct graph *g;
    struct wire_writer w;
    const char **value_names; /* of each value: its own, or one made for it */
};

static void put_tensor(struct wire_writer *w, uint32_t field, const char *name,
                       enum cvd_dtype dtype, const struct cvd_shape *shape, const void *data,
                       size_t bytes)
{
    struct wire_mark tensor = wire_begin(w, field);
    for (unsigned i = 0; i < shape->rank; i++)
        wire_put_int(w, ONNX_TENSOR_DIMS, shape->dims[i]);
    wire_put_int(w, ONNX_TENSOR_DATA_TYPE, (int64_t)dtype);
    if (name)
        wire_put_text(w, ONNX_TENSOR_NAME, name);
    wire_put_bytes(w, ONNX_TENSOR_RAW_DATA, data, bytes);
    wire_end(w, tensor);
}

static void put_attr(struct wire_writer *w, const struct op_attr *a)
{
    struct wire_mark attr = wire_begin(w, ONNX_NODE_ATTRIBUTE);
    wire_put_text(w, ONNX_ATTR_NAME, a->name);
    switch (a->type) {
    case OP_ATTR_FLOAT:
        wire_put_float(w, ONNX_ATTR_F, a->f);
        break;
    case OP_ATTR_INT:
        wire_put_int(w, ONNX_ATTR_I, a->i);
        break;
    case OP_ATTR_STRING:
        wire_put_text(w, ONNX_ATTR_S, a->s);
        break;
    case OP_ATTR_TENSOR: {
        size_t elements = 0;
        (void)cvd_shape_elements(&a->tensor.shape, &elements); /* it is in memory, so it fits */
        put_tensor(w, ONNX_ATTR_T, NULL, a->tensor.dtype, &a->tensor.shape, a->tensor.data,
                   elements * cvd_dtype_bytes(a->tensor.dtype));
        break;
    }
    case OP_ATTR_FLOATS:
        for (size_t i = 0; i < a->count; i++)
            wire_put_float(w, ONNX_ATTR_FLOATS, a->floats[i]);
        break;
    case OP_ATTR_INTS:
        for (size_t i = 0; i < a->count; i++)
            wire_put_int(w, ONNX_ATTR_INTS, a->ints[i]);
        break;
    case OP_ATTR_STRINGS:
        for (size_t i = 0; i < a->count; i++)
            wire_put_text(w, ONNX_ATTR_STRINGS, a->strings[i]);
        break;
    }
    wire_put_int(w, ONNX_ATTR_TYPE, (int64_t)a->type);
    wire_end(w, attr);
}

static void put_node(struct writer *wr, const struct graph_node *n)
{
    struct wire_writer *w = &wr->w;
    struct wire_mark node = wire_begin(w, ONNX_GRAPH_NODE);
    for (size_t i = 0; i < n->in_count; i++)
        wire_put_text(w, ONNX_NODE_INPUT, n->in[i] == GRAPH_NONE ? "" : wr->value_names[n->in[i]]);
    for (size_t i = 0; i < n->out_count; i++)
        wire_put_text(w, ONNX_NODE_OUTPUT,
                      n->out[i] == GRAPH_NONE ? "" : wr->value_names[n->out[i]]);
    if (n->name[0])
        wire_put_text(w, ONNX_NODE_NAME, n->name);
    wire_put_text(w, ONNX_NODE_OP_TYPE, n->op);
    for (size_t i = 0; i < n->attr_count; i++)
        put_attr(w, &n->attrs[i]);
    if (n->domain[0])
        wire_put_text(w, ONNX_NODE_DOMAIN, n->domain);
    wire_end(w, node);
}

/* The batch is named "N"; another extent that is not known has neither name nor value, for a shared
 * name would claim that it equals the batch. */
static void put_shape(struct wire_writer *w, const struct cvd_shape *s)
{
    struct wire_mark shape = wire_begin(w, ONNX_TENSOR_TYPE_SHAPE);
    for (unsigned i = 0; i < s->rank; i++) {
        struct wire_mark dim = wire_begin(w, ONNX_SHAPE_DIM);
        if (s->dims[i] != CVD_DIM_BATCH)
            wire_put_int(w, ONNX_DIM_VALUE, s->dims[i]);
        else if (i == 0)
            wire_put_text(w, ONNX_DIM_PARAM, "N");
        wire_end(w, dim);
    }
    wire_end(w, shape);
}

static void put_declaration(struct writer *wr, uint32_t field, uint32_t value)
{
    const struct graph_value *v = &wr->g->values[value];
    struct wire_writer *w = &wr->w;
    struct wire_mark info = wire_begin(w, field);
    wire_put_text(w, ONNX_VALUE_INFO_NAME, wr->value_names[value]);
    if (v->dtype != CVD_DTYPE_NONE) {
        struct wire_mark type = wire_begin(w, ONNX_VALUE_INFO_TYPE);
        struct wire_mark tensor = wire_begin(w, ONNX_TYPE_TENSOR);
        wire_put_int(w, ONNX_TENSOR_TYPE_ELEM_TYPE, (int64_t)v->dtype);
        if (v->has_shape)
            put_shape(w, &v->shape);
        wire_end(w, tensor);
        wire_end(w, type);
    }
    wire_end(w, info);
}

static void put_graph(struct writer *wr, const bool *declared)
{
    const struct graph *g = wr->g;
    struct wire_mark graph = wire_begin(&wr->w, ONNX_MODEL_GRAPH);
    for (uint32_t i = 0; i < g->node_count; i++)
        put_node(wr, &g->nodes[i]);
    wire_put_text(&wr->w, ONNX_GRAPH_NAME, g->name && g->name[0] ? g->name : "graph");
    for (uint32_t i = 0; i < g->value_count; i++) {
        const struct graph_value *v = &g->values[i];
        if (v->data)
            put_tensor(&wr->w, ONNX_GRAPH_INITIALIZER, wr->value_names[i], v->dtype, &v->shape,
                       v->data, v->bytes);
    }
    for (uint32_t i = 0; i < g->input_count; i++)
        put_declaration(wr, ONNX_GRAPH_INPUT, g->inputs[i]);
    for (uint32_t i = 0; i < g->output_count; i++)
        put_declaration(wr, ONNX_GRAPH_OUTPUT, g->outputs[i]);
    for (uint32_t i = 0; i < g->value_count; i++)
        if (!declared[i] && g->values[i].dtype != CVD_DTYPE_NONE)
            put_declaration(wr, ONNX_GRAPH_VALUE_INFO, i);
    wire_end(&wr->w, graph);
}

static void put_model(struct writer *wr, const bool *declared)
{
    const struct graph *g = wr->g;
    struct wire_writer *w = &wr->w;
    wire_put_int(w, ONNX_MODEL_IR_VERSION,
                 g->ir_version < IR_VERSION_OLDEST ? IR_VERSION : g->ir_version);
    wire_put_text(w, ONNX_MODEL_PRODUCER_NAME, "convd");
    put_graph(wr, declared);
    for (uint32_t i = 0; i < g->opset_count; i++) {
        struct wire_mark opset = wire_begin(w, ONNX_MODEL_OPSET_IMPORT);
        wire_put_text(w, ONNX_OPSET_DOMAIN, g->opsets[i].domain);
        wire_put_int(w, ONNX_OPSET_VERSION, g->opsets[i].version);
        wire_end(w, opset);
    }
    for (uint32_t i = 0; i < g->metadata_count; i++) {
        struct wire_mark entry = wire_begin(w, ONNX_MODEL_METADATA_PROPS);
        wire_put_text(w, ONNX_ENTRY_KEY, g->metadata[i].key);
        wire_put_text(w, ONNX_ENTRY_VALUE, g->metadata[i].value);
        wire_end(w, entry);
    }
}

/* ---- preparation ---- */

static enum cvd_status no_memory(struct cvd_error *err)
{
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "out of memory while writing the model");
}

/* Fills value_names: given names as they are, made ones ("#17") in the arena. A name that occurs
 * twice would make a different graph of the file. */
static enum cvd_status name_values(struct writer *wr, struct mem_arena *arena,
                                   struct cvd_error *err)
{
    const struct graph *g = wr->g;
    struct names names;
    enum cvd_status status = CVD_STATUS_OK;
    names_init(&names);
    for (uint32_t i = 0; i < g->value_count && !status; i++) {
        const char *name = wr->value_names[i] = g->values[i].name;
        if (!name)
            continue;
        if (names_find(&names, g, name, strlen(name)) != GRAPH_NONE)
            status = cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                                   "two values of the graph are named '%.64s'", name);
        else if (!names_add(&names, g, i))
            status = no_memory(err);
    }
    for (uint32_t i = 0; i < g->value_count && !status; i++) {
        if (wr->value_names[i])
            continue;
        char made[16];
        int len = snprintf(made, sizeof(made), "#%u", i);
        if (names_find(&names, g, made, (size_t)len) != GRAPH_NONE)
            status = cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                                   "a value of the graph has the reserved name '%s'", made);
        else if (!(wr->value_names[i] = mem_arena_strndup(arena, made, (size_t)len)))
            status = no_memory(err);
    }
    names_release(&names);
    return status;
}

/* Which values need no entry among the value_info: those that say elsewhere what they are. */
static void find_declared(const struct graph *g, bool *declared)
{
    for (uint32_t i = 0; i < g->value_count; i++)
        declared[i] = g->values[i].data != NULL;
    for (uint32_t i = 0; i < g->input_count; i++)
        declared[g->inputs[i]] = true;
    for (uint32_t i = 0; i < g->output_count; i++)
        declared[g->outputs[i]] = true;
}

enum cvd_status onnx_write(const struct graph *g, void **buf, size_t *len, struct cvd_error *err)
{
    struct writer wr = {.g = g};
    enum cvd_status status;
    struct mem_arena *arena = mem_arena_create();
    bool *declared = mem_alloc(g->value_count * sizeof(*declared));
    wr.value_names = mem_alloc(g->value_count * sizeof(*wr.value_names));
    if (!arena || !declared || !wr.value_names) {
        status = no_memory(err);
        goto done;
    }
    if ((status = name_values(&wr, arena, err)))
        goto done;
    find_declared(g, declared);

    put_model(&wr, declared);
    if (wr.w.failed) {
        status = no_memory(err);
        goto done;
    }
    size_t total = wr.w.pos;
    if (total > MODEL_MAX_BYTES) {
        status = cvd_error_set(err, CVD_STATUS_UNSUPPORTED,
                               "the model takes %zu bytes, an ONNX file holds at most %zu", total,
                               MODEL_MAX_BYTES);
        goto done;
    }
    uint8_t *out = malloc(total);
    if (!out) {
        status = no_memory(err);
        goto done;
    }
    wire_second_pass(&wr.w, out);
    put_model(&wr, declared);
    *buf = out;
    *len = total;
done:
    wire_writer_release(&wr.w);
    mem_free(wr.value_names);
    mem_free(declared);
    mem_arena_destroy(arena);
    return status;
}
