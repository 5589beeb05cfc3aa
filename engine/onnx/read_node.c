/* NodeProto and AttributeProto. Lists are counted first, so that each is allocated once. */
#include "engine/onnx/reader.h"

#include "engine/onnx/proto.h"

#include <string.h>

/* AttributeProto.AttributeType, for messages; the kinds without a number in enum op_attr_type are
 * those that convd does not support. */
static const char *const type_names[] = {
    [0] = "undefined",       [1] = "float",   [2] = "int",     [3] = "string",
    [4] = "tensor",          [5] = "graph",   [6] = "floats",  [7] = "ints",
    [8] = "strings",         [9] = "tensors", [10] = "graphs", [11] = "sparse tensor",
    [12] = "sparse tensors", [13] = "type",   [14] = "types",
};
#define TYPE_COUNT ((int64_t)(sizeof(type_names) / sizeof(*type_names)))
#define TYPE_GRAPH 5

/* The attribute type whose value is in that field; 0 for other fields. */
static unsigned type_of_field(uint32_t number)
{
    switch (number) {
    case ONNX_ATTR_F:
        return OP_ATTR_FLOAT;
    case ONNX_ATTR_I:
        return OP_ATTR_INT;
    case ONNX_ATTR_S:
        return OP_ATTR_STRING;
    case ONNX_ATTR_T:
        return OP_ATTR_TENSOR;
    case ONNX_ATTR_G:
        return TYPE_GRAPH;
    case ONNX_ATTR_FLOATS:
        return OP_ATTR_FLOATS;
    case ONNX_ATTR_INTS:
        return OP_ATTR_INTS;
    case ONNX_ATTR_STRINGS:
        return OP_ATTR_STRINGS;
    case ONNX_ATTR_TENSORS:
        return 9;
    case ONNX_ATTR_GRAPHS:
        return 10;
    case ONNX_ATTR_SPARSE_TENSOR:
        return 11;
    case ONNX_ATTR_SPARSE_TENSORS:
        return 12;
    case ONNX_ATTR_TP:
        return 13;
    case ONNX_ATTR_TYPE_PROTOS:
        return 14;
    default:
        return 0;
    }
}

/* What an AttributeProto says, before its lists are copied. */
struct scan {
    struct wire_bytes name, s, ref;
    struct wire tensor;
    int64_t type, i;
    float f;
    unsigned present; /* bit t: there is a value of type t */
    size_t floats, ints, strings;
};

static enum cvd_status scan_attr(struct reader *r, struct wire w, struct scan *s)
{
    struct wire_field f;
    size_t count;
    while (wire_next(&w, &f)) {
        unsigned type = type_of_field(f.number);
        if (type)
            s->present |= 1u << type;
        switch (f.number) {
        case ONNX_ATTR_NAME:
            s->name = wire_bytes(&w, &f);
            break;
        case ONNX_ATTR_REF_ATTR_NAME:
            s->ref = wire_bytes(&w, &f);
            break;
        case ONNX_ATTR_TYPE:
            s->type = wire_int(&w, &f);
            break;
        case ONNX_ATTR_F:
            s->f = wire_float(&w, &f);
            break;
        case ONNX_ATTR_I:
            s->i = wire_int(&w, &f);
            break;
        case ONNX_ATTR_S:
            s->s = wire_bytes(&w, &f);
            break;
        case ONNX_ATTR_T:
            s->tensor = wire_message(&w, &f);
            break;
        case ONNX_ATTR_FLOATS:
            (void)wire_scalars(&w, &f, WIRE_FIXED32, &count);
            s->floats += count;
            break;
        case ONNX_ATTR_INTS:
            (void)wire_scalars(&w, &f, WIRE_VARINT, &count);
            s->ints += count;
            break;
        case ONNX_ATTR_STRINGS:
            (void)wire_bytes(&w, &f);
            s->strings++;
            break;
        default:
            break;
        }
    }
    return w.error ? reader_damaged(r, &w) : CVD_STATUS_OK;
}

/* The attribute's type, stated or (IR version 1 did not state it) deduced. */
static enum cvd_status check_type(struct reader *r, const struct scan *s, enum op_attr_type *out)
{
    int64_t type = s->type;
    if (s->ref.len > 0)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED,
                           "attribute '%.*s' refers to a function's attribute '%.*s'",
                           READER_TEXT(s->name), READER_TEXT(s->ref));
    if (type == 0 && __builtin_popcount(s->present) == 1)
        type = __builtin_ctz(s->present);
    if (type <= 0)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL,
                           "attribute '%.*s' has neither a type nor exactly one value",
                           READER_TEXT(s->name));
    if (type >= TYPE_COUNT)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED, "attribute '%.*s' has unknown type %lld",
                           READER_TEXT(s->name), (long long)type);
    if (s->present & ~(1u << type))
        return reader_fail(r, CVD_STATUS_INVALID_MODEL,
                           "attribute '%.*s' is of type %s but has a value of another type",
                           READER_TEXT(s->name), type_names[type]);
    if (type == TYPE_GRAPH || type > OP_ATTR_STRINGS)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED,
                           "attribute '%.*s' is of type %s, which is not supported",
                           READER_TEXT(s->name), type_names[type]);
    if (type == OP_ATTR_TENSOR && !s->present)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL, "attribute '%.*s' has no value",
                           READER_TEXT(s->name));
    *out = (enum op_attr_type)type;
    return CVD_STATUS_OK;
}

/* Attribute strings are bytes to ONNX; here they are C strings, so a zero byte cannot be had. */
static enum cvd_status copy_string(struct reader *r, const struct scan *s, struct wire_bytes text,
                                   const char **out)
{
    if (text.len > 0 && memchr(text.data, '\0', text.len))
        return reader_fail(r, CVD_STATUS_UNSUPPORTED, "attribute '%.*s' contains a zero byte",
                           READER_TEXT(s->name));
    *out = mem_arena_strndup(r->arena, (const char *)text.data, text.len);
    return *out ? CVD_STATUS_OK : reader_no_memory(r);
}

static enum cvd_status copy_lists(struct reader *r, struct wire w, const struct scan *s,
                                  struct op_attr *attr)
{
    /* The counts are bounded by the file's length, so these products cannot overflow. */
    float *floats = mem_arena_alloc(r->arena, s->floats * sizeof(*floats));
    int64_t *ints = mem_arena_alloc(r->arena, s->ints * sizeof(*ints));
    const char **strings = mem_arena_alloc(r->arena, s->strings * sizeof(*strings));
    if (!floats || !ints || !strings)
        return reader_no_memory(r);
    attr->floats = floats;
    attr->ints = ints;
    attr->strings = strings;
    attr->count = s->floats + s->ints + s->strings; /* two of them are 0 */

    struct wire_field f;
    size_t count;
    enum cvd_status status;
    while (wire_next(&w, &f)) {
        if (f.number == ONNX_ATTR_FLOATS) {
            struct wire_bytes from = wire_scalars(&w, &f, WIRE_FIXED32, &count);
            memcpy(floats, from.data, count * sizeof(*floats));
            floats += count;
        } else if (f.number == ONNX_ATTR_INTS) {
            struct wire_bytes from = wire_scalars(&w, &f, WIRE_VARINT, &count);
            for (; count > 0; count--)
                *ints++ = (int64_t)wire_take_varint(&from);
        } else if (f.number == ONNX_ATTR_STRINGS) {
            if ((status = copy_string(r, s, f.bytes, strings++)))
                return status;
        }
    }
    return CVD_STATUS_OK;
}

static enum cvd_status read_attr(struct reader *r, struct wire w, struct op_attr *attr)
{
    struct scan s = {0};
    enum cvd_status status = scan_attr(r, w, &s);
    if (status || (status = reader_text(r, s.name, "an attribute's name", &attr->name)))
        return status;
    if (s.name.len == 0)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL, "an attribute has no name");
    if ((status = check_type(r, &s, &attr->type)))
        return status;
    switch (attr->type) {
    case OP_ATTR_FLOAT:
        attr->f = s.f;
        return CVD_STATUS_OK;
    case OP_ATTR_INT:
        attr->i = s.i;
        return CVD_STATUS_OK;
    case OP_ATTR_STRING:
        return copy_string(r, &s, s.s, &attr->s);
    case OP_ATTR_TENSOR: {
        struct reader_tensor t;
        status = reader_tensor(r, s.tensor, "attribute", s.name, true, &t);
        if (!status)
            attr->tensor = (struct op_tensor){.dtype = t.dtype, .shape = t.shape, .data = t.data};
        return status;
    }
    case OP_ATTR_FLOATS:
    case OP_ATTR_INTS:
    case OP_ATTR_STRINGS:
        return copy_lists(r, w, &s, attr);
    }
    return CVD_STATUS_INTERNAL;
}

/* ---- nodes ---- */

struct node_scan {
    struct wire_bytes op, domain, name;
    size_t inputs, outputs, attrs;
};

static enum cvd_status scan_node(struct reader *r, struct wire w, struct node_scan *s)
{
    struct wire_field f;
    while (wire_next(&w, &f)) {
        switch (f.number) {
        case ONNX_NODE_INPUT:
            s->inputs++;
            break;
        case ONNX_NODE_OUTPUT:
            s->outputs++;
            break;
        case ONNX_NODE_ATTRIBUTE:
            s->attrs++;
            break;
        case ONNX_NODE_NAME:
            s->name = wire_bytes(&w, &f);
            break;
        case ONNX_NODE_OP_TYPE:
            s->op = wire_bytes(&w, &f);
            break;
        case ONNX_NODE_DOMAIN:
            s->domain = wire_bytes(&w, &f);
            break;
        default:
            break;
        }
    }
    return w.error ? reader_damaged(r, &w) : CVD_STATUS_OK;
}

/* One name in a node's list of inputs or outputs; an empty one stands for an absent value. */
static enum cvd_status read_place(struct reader *r, struct wire *w, const struct wire_field *f,
                                  uint32_t *out)
{
    struct wire_bytes name = wire_bytes(w, f);
    if (w->error)
        return reader_damaged(r, w);
    *out = GRAPH_NONE;
    return name.len > 0 ? reader_value(r, name, out) : CVD_STATUS_OK;
}

static enum cvd_status read_lists(struct reader *r, struct wire w, uint32_t *in, uint32_t *out,
                                  struct op_attr *attrs)
{
    struct wire_field f;
    const struct op_attr *first = attrs;
    enum cvd_status status = CVD_STATUS_OK;
    while (!status && wire_next(&w, &f)) {
        if (f.number == ONNX_NODE_INPUT) {
            status = read_place(r, &w, &f, in++);
        } else if (f.number == ONNX_NODE_OUTPUT) {
            status = read_place(r, &w, &f, out++);
        } else if (f.number == ONNX_NODE_ATTRIBUTE) {
            struct wire child = wire_message(&w, &f);
            if (w.error || (status = read_attr(r, child, attrs)))
                break;
            for (const struct op_attr *other = first; other < attrs; other++)
                if (strcmp(other->name, attrs->name) == 0)
                    return reader_fail(r, CVD_STATUS_INVALID_MODEL,
                                       "attribute '%.64s' is given twice", attrs->name);
            attrs++;
        }
    }
    return w.error ? reader_damaged(r, &w) : status;
}

static enum cvd_status check_counts(struct reader *r, const struct node_scan *s)
{
    static const char format[] = "%zu %s, at most %u are supported";
    if (s->op.len == 0)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL, "a node names no operator");
    if (s->inputs > OP_MAX_INPUTS)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED, format, s->inputs, "inputs", OP_MAX_INPUTS);
    if (s->outputs > OP_MAX_OUTPUTS)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED, format, s->outputs, "outputs",
                           OP_MAX_OUTPUTS);
    if (s->attrs > GRAPH_MAX_ATTRS)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED, format, s->attrs, "attributes",
                           GRAPH_MAX_ATTRS);
    return CVD_STATUS_OK;
}

enum cvd_status reader_node(struct reader *r, struct wire w)
{
    struct node_scan s = {0};
    struct graph_node node = {.op = "", .domain = "", .name = ""};
    enum cvd_status status;
    if ((status = scan_node(r, w, &s)) ||
        (status = reader_text(r, s.op, "an operator's name", &node.op)) ||
        (status = reader_text(r, s.domain, "an operator's domain", &node.domain)) ||
        (status = reader_text(r, s.name, "a node's name", &node.name)))
        return status;
    if (strcmp(node.domain, "ai.onnx") == 0)
        node.domain = "";

    r->node = &node;
    if ((status = check_counts(r, &s)))
        goto done;
    node.in_count = s.inputs;
    node.out_count = s.outputs;
    node.attr_count = s.attrs;
    uint32_t *in = mem_arena_alloc(r->arena, s.inputs * sizeof(*in));
    uint32_t *out = mem_arena_alloc(r->arena, s.outputs * sizeof(*out));
    struct op_attr *attrs = mem_arena_alloc(r->arena, s.attrs * sizeof(*attrs));
    if (!in || !out || !attrs) {
        status = reader_no_memory(r);
        goto done;
    }
    node.in = in;
    node.out = out;
    node.attrs = attrs;
    if (!(status = read_lists(r, w, in, out, attrs)))
        status = graph_adopt_node(r->g, &node, r->err);
done:
    r->node = NULL;
    return status;
}
