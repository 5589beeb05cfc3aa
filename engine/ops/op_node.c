/* What infer and prepare of every family use: attributes, failure messages, types and shapes. */
#include "engine/ops/op_util.h"
#include "engine/runtime/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum cvd_status op_fail(const struct op_node *node, enum cvd_status status, const char *format, ...)
{
    char text[CVD_ERROR_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return cvd_error_set(node->err, status, "%s '%s': %s", node->def->name,
                         node->name ? node->name : "", text);
}

const struct op_attr *op_attr_find(const struct op_node *node, const char *name)
{
    for (size_t i = 0; i < node->attr_count; i++)
        if (strcmp(node->attrs[i].name, name) == 0)
            return &node->attrs[i];
    return NULL;
}

static enum cvd_status find_typed(const struct op_node *node, const char *name,
                                  enum op_attr_type type, const struct op_attr **out)
{
    static const char *const type_names[] = {
        [OP_ATTR_FLOAT] = "float",     [OP_ATTR_INT] = "int",       [OP_ATTR_STRING] = "string",
        [OP_ATTR_TENSOR] = "tensor",   [OP_ATTR_FLOATS] = "floats", [OP_ATTR_INTS] = "ints",
        [OP_ATTR_STRINGS] = "strings",
    };
    const struct op_attr *attr = op_attr_find(node, name);
    *out = attr;
    if (attr && attr->type != type)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "attribute %s has type %d; it must be of type %s (%d)", name,
                       (int)attr->type, type_names[type], (int)type);
    return CVD_STATUS_OK;
}

enum cvd_status op_attr_int(const struct op_node *node, const char *name, int64_t fallback,
                            int64_t *out)
{
    const struct op_attr *attr;
    enum cvd_status status = find_typed(node, name, OP_ATTR_INT, &attr);
    if (status == CVD_STATUS_OK)
        *out = attr ? attr->i : fallback;
    return status;
}

enum cvd_status op_attr_float(const struct op_node *node, const char *name, float fallback,
                              float *out)
{
    const struct op_attr *attr;
    enum cvd_status status = find_typed(node, name, OP_ATTR_FLOAT, &attr);
    if (status == CVD_STATUS_OK)
        *out = attr ? attr->f : fallback;
    return status;
}

enum cvd_status op_attr_string(const struct op_node *node, const char *name, const char *fallback,
                               const char **out)
{
    const struct op_attr *attr;
    enum cvd_status status = find_typed(node, name, OP_ATTR_STRING, &attr);
    if (status == CVD_STATUS_OK)
        *out = attr ? attr->s : fallback;
    return status;
}

enum cvd_status op_attr_ints(const struct op_node *node, const char *name, const int64_t **ints,
                             size_t *count)
{
    const struct op_attr *attr;
    enum cvd_status status = find_typed(node, name, OP_ATTR_INTS, &attr);
    if (status == CVD_STATUS_OK) {
        *ints = attr ? attr->ints : NULL;
        *count = attr ? attr->count : 0;
    }
    return status;
}

bool op_broadcast(const struct cvd_shape *a, const struct cvd_shape *b, struct cvd_shape *out)
{
    struct cvd_shape result = {.rank = a->rank > b->rank ? a->rank : b->rank};
    for (unsigned i = 0; i < result.rank; i++) { /* i counts from the innermost dimension */
        int64_t x = i < a->rank ? a->dims[a->rank - 1 - i] : 1;
        int64_t y = i < b->rank ? b->dims[b->rank - 1 - i] : 1;
        if (x != y && x != 1 && y != 1)
            return false;
        result.dims[result.rank - 1 - i] = x == 1 ? y : x;
    }
    *out = result;
    return true;
}

bool op_axis(int64_t axis, unsigned rank, unsigned *out)
{
    if (axis < -(int64_t)rank || axis >= (int64_t)rank)
        return false;
    *out = (unsigned)(axis < 0 ? axis + (int64_t)rank : axis);
    return true;
}

enum cvd_status op_value_ints(const struct op_node *node, size_t input, int64_t *out, size_t max,
                              size_t *count)
{
    const struct op_value *v = op_input(node, input);
    if (!v)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "input %zu is missing", input);
    if (v->dtype != CVD_DTYPE_INT64 && v->dtype != CVD_DTYPE_INT32)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "input %zu has type %s; it must be int64",
                       input, cvd_dtype_name(v->dtype));
    /* A scalar where ONNX asks for one dimension is common in old exports and unambiguous. */
    if (v->shape.rank > 1)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "input %zu has %u dimensions; it must have one", input, v->shape.rank);
    if (!v->data)
        return op_fail(node, CVD_STATUS_UNSUPPORTED, "input %zu must be constant", input);
    size_t n = op_elements(&v->shape);
    if (n > max)
        return op_fail(node, CVD_STATUS_UNSUPPORTED, "input %zu has %zu elements; at most %zu",
                       input, n, max);
    for (size_t i = 0; i < n; i++)
        out[i] = v->dtype == CVD_DTYPE_INT64 ? ((const int64_t *)v->data)[i]
                                             : ((const int32_t *)v->data)[i];
    *count = n;
    return CVD_STATUS_OK;
}

enum cvd_status op_check_type(const struct op_node *node, size_t i, unsigned supported,
                              unsigned legal)
{
    const struct op_value *v = op_input(node, i);
    if (!v)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "input %zu is missing", i);
    if ((unsigned)v->dtype < 32 && (supported & OP_TYPE(v->dtype)))
        return CVD_STATUS_OK;
    bool is_legal = (unsigned)v->dtype < 32 && (legal & OP_TYPE(v->dtype));
    return op_fail(node, is_legal ? CVD_STATUS_UNSUPPORTED : CVD_STATUS_INVALID_MODEL,
                   "input %zu has type %s, which is not %s", i, cvd_dtype_name(v->dtype),
                   is_legal ? "implemented" : "allowed");
}

enum cvd_status op_check_same_type(const struct op_node *node, size_t i)
{
    const struct op_value *v = op_input(node, i), *first = op_input(node, 0);
    if (!v || !first)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "input %zu is missing", v ? 0 : i);
    if (v->dtype != first->dtype)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "input %zu has type %s; it must be %s like input 0", i,
                       cvd_dtype_name(v->dtype), cvd_dtype_name(first->dtype));
    return CVD_STATUS_OK;
}

enum cvd_status op_set_output(const struct op_node *node, struct op_value *out,
                              enum cvd_dtype dtype, const struct cvd_shape *shape)
{
    size_t elements, bytes;
    if (!cvd_shape_elements(shape, &elements) ||
        !mem_mul(elements, cvd_dtype_bytes(dtype), &bytes) || bytes > PTRDIFF_MAX) {
        char text[CVD_SHAPE_TEXT_BYTES];
        return op_fail(node, CVD_STATUS_UNSUPPORTED, "output %s does not fit in memory",
                       cvd_shape_text(shape, text));
    }
    *out = (struct op_value){.dtype = dtype, .shape = *shape};
    return CVD_STATUS_OK;
}

enum cvd_status op_infer_same(const struct op_node *node, struct op_value *out)
{
    const struct op_value *x = op_input(node, 0);
    if (!x)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "input 0 is missing");
    return op_set_output(node, &out[0], x->dtype, &x->shape);
}

uint64_t op_parameters(const struct op_node *node, size_t i)
{
    const struct op_value *v = op_input(node, i);
    return v && v->data ? op_elements(&v->shape) : 0;
}

enum cvd_status op_state(const struct op_node *node, size_t bytes, struct op_prepared *prepared,
                         void *state_out)
{
    void *state =
        prepared->memory ? mem_arena_alloc_aligned(prepared->memory, bytes) : mem_alloc(bytes);
    if (!state)
        return op_fail(node, CVD_STATUS_OUT_OF_MEMORY, "no memory for %zu bytes of state", bytes);
    prepared->state = state;
    prepared->state_bytes = bytes;
    memcpy(state_out, &state, sizeof state);
    return CVD_STATUS_OK;
}

/* Even less than a piece is shared, evenly: what other threads hold in their caches costs more to
 * fetch than it takes to meet. A share of a piece so small that this is no longer so: */
#define SHARED_PIECE 8

struct range_loop {
    size_t count, parts;
    op_range_fn fn;
    void *ctx;
};

static void range_part(void *ctx, size_t part, unsigned slot)
{
    const struct range_loop *loop = ctx;
    (void)slot;
    /* Parts differ by one at most. */
    const size_t size = loop->count / loop->parts, larger = loop->count % loop->parts;
    const size_t begin = part * size + (part < larger ? part : larger);
    loop->fn(loop->ctx, begin, begin + size + (part < larger));
}

void op_for_range(struct tpool *pool, size_t count, size_t piece, op_range_fn fn, void *ctx)
{
    if (count == 0)
        return;
    size_t parts = (count - 1) / piece + 1;
    const size_t threads = pool ? tpool_threads(pool) : 1;
    if (count >= piece / SHARED_PIECE)
        parts = (parts + threads - 1) / threads * threads;
    struct range_loop loop = {count, parts < count ? parts : count, fn, ctx};
    tpool_for(pool, loop.parts, range_part, &loop);
}
