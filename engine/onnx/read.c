/*
 * ModelProto and GraphProto -> graph.
 *
 * The fields of a message may come in any order, and files do list nodes before the initializers
 * they use. So a message is walked once for every kind of field, in the order in which convd wants
 * to meet them; skipping over the others costs next to nothing.
 */
#include "engine/onnx/reader.h"

#include "engine/onnx/proto.h"
#include "engine/runtime/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define EXTERNAL_DEFAULT_BYTES ((size_t)2 << 30)
#define NAME_MAX_BYTES         65535u

/* ---- what all readers use ---- */

enum cvd_status reader_fail(struct reader *r, enum cvd_status status, const char *format, ...)
{
    char text[CVD_ERROR_MESSAGE_BYTES], node[GRAPH_NODE_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (!r->node)
        return cvd_error_set(r->err, status, "%s", text);
    return cvd_error_set(r->err, status, "%s: %s", graph_node_text(r->node, r->g->node_count, node),
                         text);
}

enum cvd_status reader_no_memory(struct reader *r)
{
    return reader_fail(r, CVD_STATUS_OUT_OF_MEMORY, "out of memory while reading the model");
}

enum cvd_status reader_damaged(struct reader *r, const struct wire *w)
{
    const char *kind = r->g ? "file" : "tensor";
    size_t at = (size_t)(w->pos - w->file);
    if (w->depth == 0)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL,
                           "not an ONNX %s, or one cut short: %s (at byte %zu)", kind, w->error,
                           at);
    return reader_fail(r, CVD_STATUS_INVALID_MODEL, "damaged ONNX %s: %s (at byte %zu)", kind,
                       w->error, at);
}

static enum cvd_status check_text(struct reader *r, struct wire_bytes text, const char *what)
{
    const char *chars = (const char *)text.data;
    for (size_t i = 0, n; i < text.len; i += n) {
        n = utf8_sequence(chars + i, text.len - i);
        if (n == 0 || chars[i] == '\0')
            return reader_fail(r, CVD_STATUS_INVALID_MODEL, "%s, '%.*s', is not UTF-8 text", what,
                               READER_TEXT(text));
    }
    return CVD_STATUS_OK;
}

enum cvd_status reader_text(struct reader *r, struct wire_bytes text, const char *what,
                            const char **out)
{
    enum cvd_status status = check_text(r, text, what);
    if (status)
        return status;
    *out = mem_arena_strndup(r->arena, (const char *)text.data, text.len);
    return *out ? CVD_STATUS_OK : reader_no_memory(r);
}

enum cvd_status reader_value(struct reader *r, struct wire_bytes name, uint32_t *out)
{
    enum cvd_status status = check_text(r, name, "a value's name");
    if (status)
        return status;
    if (name.len > NAME_MAX_BYTES)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED,
                           "a value's name has %zu bytes, at most %u are supported", name.len,
                           NAME_MAX_BYTES);
    uint32_t value = names_find(&r->names, r->g, (const char *)name.data, name.len);
    if (value == GRAPH_NONE) {
        const char *copy = mem_arena_strndup(r->arena, (const char *)name.data, name.len);
        if (!copy)
            return reader_no_memory(r);
        if ((status = graph_add_value(r->g, NULL, &value, r->err)))
            return status;
        r->g->values[value].name = copy;
        if (!names_add(&r->names, r->g, value))
            return reader_no_memory(r);
    }
    *out = value;
    return CVD_STATUS_OK;
}

/* ---- types of inputs, outputs and values between ---- */

struct declaration {
    struct wire_bytes name;
    const char *other_kind; /* a kind of value that is no tensor, or NULL */
    int64_t type;           /* 0 when not stated */
    bool has_shape;
    size_t dims; /* may exceed what fits in shape */
    struct cvd_shape shape;
};

static enum cvd_status read_dim(struct reader *r, struct wire w, struct declaration *d)
{
    struct wire_field f;
    int64_t dim = CVD_DIM_BATCH;
    while (wire_next(&w, &f)) {
        if (f.number == ONNX_DIM_VALUE)
            dim = wire_int(&w, &f);
        else if (f.number == ONNX_DIM_PARAM)
            dim = CVD_DIM_BATCH;
    }
    if (w.error)
        return reader_damaged(r, &w);
    /* Some exporters write -1 for an extent that is not known. */
    if (dim < CVD_DIM_BATCH)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL, "value '%.*s' has a negative extent, %lld",
                           READER_TEXT(d->name), (long long)dim);
    if (d->dims++ < CVD_MAX_RANK)
        d->shape.dims[d->shape.rank++] = dim;
    return CVD_STATUS_OK;
}

static enum cvd_status read_tensor_type(struct reader *r, struct wire w, struct declaration *d)
{
    struct wire_field f, dim;
    enum cvd_status status = CVD_STATUS_OK;
    while (!status && wire_next(&w, &f)) {
        if (f.number == ONNX_TENSOR_TYPE_ELEM_TYPE) {
            d->type = wire_int(&w, &f);
        } else if (f.number == ONNX_TENSOR_TYPE_SHAPE) {
            struct wire shape = wire_message(&w, &f);
            d->has_shape = true;
            while (!status && wire_next(&shape, &dim)) {
                if (dim.number == ONNX_SHAPE_DIM) {
                    struct wire child = wire_message(&shape, &dim);
                    status = read_dim(r, child, d);
                }
            }
            if (shape.error)
                return reader_damaged(r, &shape);
        }
    }
    return w.error ? reader_damaged(r, &w) : status;
}

static enum cvd_status read_type(struct reader *r, struct wire w, struct declaration *d)
{
    struct wire_field f;
    enum cvd_status status = CVD_STATUS_OK;
    while (!status && wire_next(&w, &f)) {
        switch (f.number) {
        case ONNX_TYPE_TENSOR: {
            struct wire child = wire_message(&w, &f);
            status = read_tensor_type(r, child, d);
            break;
        }
        case ONNX_TYPE_SEQUENCE:
            d->other_kind = "a sequence";
            break;
        case ONNX_TYPE_MAP:
            d->other_kind = "a map";
            break;
        case ONNX_TYPE_OPAQUE:
            d->other_kind = "opaque";
            break;
        case ONNX_TYPE_SPARSE_TENSOR:
            d->other_kind = "a sparse tensor";
            break;
        case ONNX_TYPE_OPTIONAL:
            d->other_kind = "optional";
            break;
        default:
            break;
        }
    }
    return w.error ? reader_damaged(r, &w) : status;
}

static enum cvd_status read_declaration(struct reader *r, struct wire w, struct declaration *d)
{
    struct wire_field f;
    struct wire type = wire_open(NULL, 0);
    while (wire_next(&w, &f)) {
        if (f.number == ONNX_VALUE_INFO_NAME)
            d->name = wire_bytes(&w, &f);
        else if (f.number == ONNX_VALUE_INFO_TYPE)
            type = wire_message(&w, &f);
    }
    if (w.error)
        return reader_damaged(r, &w);
    if (d->name.len == 0)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL, "an input, output or value has no name");
    enum cvd_status status = read_type(r, type, d);
    if (status)
        return status;
    if (d->other_kind)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED, "value '%.*s' is %s, not a tensor",
                           READER_TEXT(d->name), d->other_kind);
    if (d->dims > CVD_MAX_RANK)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED,
                           "value '%.*s' has %zu dimensions, at most %d are supported",
                           READER_TEXT(d->name), d->dims, CVD_MAX_RANK);
    return CVD_STATUS_OK;
}

/* Whether a shape agrees with a declared one, which may leave extents free. */
static bool shape_agrees(const struct cvd_shape *shape, const struct cvd_shape *declared)
{
    bool agrees = shape->rank == declared->rank;
    for (unsigned i = 0; agrees && i < shape->rank; i++)
        agrees = declared->dims[i] == CVD_DIM_BATCH || declared->dims[i] == shape->dims[i];
    return agrees;
}

/* Notes what the file declares about a value; it may not contradict an initializer or itself. */
static enum cvd_status declare(struct reader *r, uint32_t value, const struct declaration *d)
{
    struct graph_value *v = &r->g->values[value];
    char has[CVD_SHAPE_TEXT_BYTES], says[CVD_SHAPE_TEXT_BYTES];
    if (d->type != 0) {
        enum cvd_dtype dtype;
        enum cvd_status status = reader_dtype(r, d->type, "value", d->name, &dtype);
        if (status)
            return status;
        if (v->dtype != CVD_DTYPE_NONE && v->dtype != dtype)
            return reader_fail(
                r, CVD_STATUS_INVALID_MODEL, "value '%.*s' is %s in one place and %s in another",
                READER_TEXT(d->name), cvd_dtype_name(v->dtype), cvd_dtype_name(dtype));
        v->dtype = dtype;
    }
    if (!d->has_shape)
        return CVD_STATUS_OK;
    if (v->data && !shape_agrees(&v->shape, &d->shape))
        return reader_fail(
            r, CVD_STATUS_INVALID_MODEL, "initializer '%.*s' has shape %s but is declared as %s",
            READER_TEXT(d->name), cvd_shape_text(&v->shape, has), cvd_shape_text(&d->shape, says));
    if (!v->has_shape) {
        v->has_shape = true;
        v->shape = d->shape;
    }
    return CVD_STATUS_OK;
}

/* ---- parts of the graph ---- */

static enum cvd_status read_initializer(struct reader *r, struct wire w)
{
    struct reader_tensor t;
    uint32_t value;
    enum cvd_status status = reader_tensor(r, w, "initializer", (struct wire_bytes){0}, false, &t);
    if (status)
        return status;
    if (t.name.len == 0)
        status = reader_fail(r, CVD_STATUS_INVALID_MODEL, "an initializer has no name");
    else if (!(status = reader_value(r, t.name, &value)) && r->g->values[value].data)
        status = reader_fail(r, CVD_STATUS_INVALID_MODEL, "initializer '%.*s' is given twice",
                             READER_TEXT(t.name));
    if (status) {
        mem_free(t.data);
        return status;
    }
    struct graph_value *v = &r->g->values[value];
    v->dtype = t.dtype;
    v->has_shape = true;
    v->shape = t.shape;
    v->data = t.data;
    v->bytes = t.bytes;
    return CVD_STATUS_OK;
}

/* Initializers have been read; one that is listed as an input (IR version 3 demanded it) is a
 * default value that nobody replaces. */
static enum cvd_status read_input(struct reader *r, struct wire w)
{
    struct declaration d = {0};
    uint32_t value, known = r->g->value_count;
    enum cvd_status status = read_declaration(r, w, &d);
    if (status || (status = reader_value(r, d.name, &value)) || (status = declare(r, value, &d)))
        return status;
    if (r->g->values[value].data)
        return CVD_STATUS_OK;
    if (value < known)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL, "graph input '%.*s' is listed twice",
                           READER_TEXT(d.name));
    if (d.type == 0)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL, "graph input '%.*s' has no element type",
                           READER_TEXT(d.name));
    return graph_add_input(r->g, value, r->err);
}

static enum cvd_status read_output(struct reader *r, struct wire w)
{
    struct declaration d = {0};
    uint32_t value;
    enum cvd_status status = read_declaration(r, w, &d);
    if (status || (status = reader_value(r, d.name, &value)) || (status = declare(r, value, &d)))
        return status;
    return graph_add_output(r->g, value, r->err);
}

static enum cvd_status read_value_info(struct reader *r, struct wire w)
{
    struct declaration d = {0};
    enum cvd_status status = read_declaration(r, w, &d);
    if (status || (status = check_text(r, d.name, "a value's name")))
        return status;
    uint32_t value = names_find(&r->names, r->g, (const char *)d.name.data, d.name.len);
    return value == GRAPH_NONE ? CVD_STATUS_OK : declare(r, value, &d); /* or left by a rewrite */
}

static enum cvd_status refuse_sparse(struct reader *r, struct wire w)
{
    (void)w;
    return reader_fail(r, CVD_STATUS_UNSUPPORTED, "sparse initializers are not supported");
}

/* ---- parts of the model ---- */

static enum cvd_status read_opset(struct reader *r, struct wire w)
{
    struct wire_field f;
    struct wire_bytes text = {0};
    int64_t version = 0;
    while (wire_next(&w, &f)) {
        if (f.number == ONNX_OPSET_DOMAIN)
            text = wire_bytes(&w, &f);
        else if (f.number == ONNX_OPSET_VERSION)
            version = wire_int(&w, &f);
    }
    if (w.error)
        return reader_damaged(r, &w);
    const char *domain;
    enum cvd_status status = reader_text(r, text, "an operator set's domain", &domain);
    if (status)
        return status;
    if (strcmp(domain, "ai.onnx") == 0)
        domain = "";
    int64_t known = graph_opset(r->g, domain);
    if (version < 1 || (known != 0 && known != version))
        return reader_fail(r, CVD_STATUS_INVALID_MODEL,
                           "operator set '%.64s' is imported as version %lld%s", domain,
                           (long long)version, known ? " after another version" : "");
    return known ? CVD_STATUS_OK : graph_add_opset(r->g, domain, version, r->err);
}

static enum cvd_status read_metadata(struct reader *r, struct wire w)
{
    struct wire_field f;
    struct wire_bytes texts[2] = {{0}, {0}};
    while (wire_next(&w, &f)) {
        if (f.number == ONNX_ENTRY_KEY || f.number == ONNX_ENTRY_VALUE)
            texts[f.number == ONNX_ENTRY_VALUE] = wire_bytes(&w, &f);
    }
    if (w.error)
        return reader_damaged(r, &w);
    const char *key, *value;
    enum cvd_status status = reader_text(r, texts[0], "a metadata key", &key);
    if (status || (status = reader_text(r, texts[1], "a metadata value", &value)))
        return status;
    return graph_add_metadata(r->g, key, value, r->err);
}

static enum cvd_status refuse_function(struct reader *r, struct wire w)
{
    (void)w;
    return reader_fail(r, CVD_STATUS_UNSUPPORTED, "model-local functions are not supported");
}

/* ---- all of it ---- */

/* Hands every message in fields of that number to `read`. */
static enum cvd_status for_each(struct reader *r, struct wire w, uint32_t number,
                                enum cvd_status (*read)(struct reader *r, struct wire w))
{
    struct wire_field f;
    enum cvd_status status = CVD_STATUS_OK;
    while (!status && wire_next(&w, &f)) {
        if (f.number == number) {
            struct wire child = wire_message(&w, &f);
            if (!w.error)
                status = read(r, child);
        }
    }
    return w.error ? reader_damaged(r, &w) : status;
}

static enum cvd_status read_graph(struct reader *r, struct wire w)
{
    struct wire_field f;
    struct wire_bytes name = {0};
    struct wire walk = w;
    while (wire_next(&walk, &f))
        if (f.number == ONNX_GRAPH_NAME)
            name = wire_bytes(&walk, &f);
    if (walk.error)
        return reader_damaged(r, &walk);
    enum cvd_status status;
    if ((status = reader_text(r, name, "the graph's name", &r->g->name)) ||
        (status = for_each(r, w, ONNX_GRAPH_SPARSE_INITIALIZER, refuse_sparse)) ||
        (status = for_each(r, w, ONNX_GRAPH_INITIALIZER, read_initializer)) ||
        (status = for_each(r, w, ONNX_GRAPH_INPUT, read_input)) ||
        (status = for_each(r, w, ONNX_GRAPH_NODE, reader_node)) ||
        (status = for_each(r, w, ONNX_GRAPH_OUTPUT, read_output)))
        return status;
    return for_each(r, w, ONNX_GRAPH_VALUE_INFO, read_value_info);
}

static enum cvd_status read_model(struct reader *r, struct wire w)
{
    struct wire_field f;
    struct wire walk = w;
    struct wire_bytes producer = {0};
    unsigned graphs = 0;
    while (wire_next(&walk, &f)) {
        if (f.number == ONNX_MODEL_IR_VERSION)
            r->g->ir_version = wire_int(&walk, &f);
        else if (f.number == ONNX_MODEL_PRODUCER_NAME)
            producer = wire_bytes(&walk, &f);
        else if (f.number == ONNX_MODEL_GRAPH && graphs < 2)
            graphs++;
    }
    if (walk.error)
        return reader_damaged(r, &walk);
    if (r->g->ir_version < 1 || graphs != 1)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL, "not an ONNX file: it has %s",
                           r->g->ir_version < 1 ? "no ir_version"
                           : graphs == 0        ? "no graph"
                                                : "more than one graph");
    enum cvd_status status;
    if ((status = reader_text(r, producer, "the producer's name", &r->g->producer)) ||
        (status = for_each(r, w, ONNX_MODEL_OPSET_IMPORT, read_opset)) ||
        (status = for_each(r, w, ONNX_MODEL_METADATA_PROPS, read_metadata)) ||
        (status = for_each(r, w, ONNX_MODEL_FUNCTIONS, refuse_function)))
        return status;
    if (r->g->opset_count == 0) {
        /* Files of IR versions 1 and 2 were written before there were operator sets. */
        if (r->g->ir_version >= 3)
            return reader_fail(r, CVD_STATUS_INVALID_MODEL, "the model imports no operator set");
        if ((status = graph_add_opset(r->g, "", 1, r->err)))
            return status;
    }
    return for_each(r, w, ONNX_MODEL_GRAPH, read_graph);
}

enum cvd_status onnx_read(const void *buf, size_t len, const struct onnx_source *source,
                          struct graph *g, struct cvd_error *err)
{
    struct reader r = {.source = source,
                       .g = g,
                       .arena = g->arena,
                       .err = err,
                       .external_left = EXTERNAL_DEFAULT_BYTES};
    if (source && source->max_external_bytes)
        r.external_left = source->max_external_bytes;
    names_init(&r.names);
    enum cvd_status status =
        len == 0 ? reader_fail(&r, CVD_STATUS_INVALID_MODEL, "not an ONNX file: it is empty")
                 : read_model(&r, wire_open(buf, len));
    names_release(&r.names);
    if (status && err && source && source->file_name)
        cvd_error_set(err, status, "%.100s: %s", source->file_name, err->message);
    return status;
}
