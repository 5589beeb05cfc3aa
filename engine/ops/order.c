/*
 * Order along one dimension: ArgMax and ArgMin, and TopK.
 *
 * Of equal elements the one with the lower index comes first (ArgMax and ArgMin can be asked for
 * the last one). A NaN is beyond every other number: ArgMax, ArgMin and TopK of the largest find it
 * first, TopK of the smallest last.
 */
#include "engine/ops/list.h"
#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define ORDER_TYPES (OP_TYPE(CVD_DTYPE_FLOAT32) | OP_INTS)

/* A line of elements along the dimension, and how they are to be ordered. */
struct line {
    enum cvd_dtype dtype;
    const char *x;
    size_t step; /* bytes */
    bool smallest, nan_first;
};

#define PRECEDES(type, nan_decides)               \
    do {                                          \
        type u, v;                                \
        memcpy(&u, l->x + i * l->step, sizeof u); \
        memcpy(&v, l->x + j * l->step, sizeof v); \
        if (nan_decides)                          \
            return (u != u) == l->nan_first;      \
        return l->smallest ? u < v : u > v;       \
    } while (0)

/* Whether element i stands before element j; false when they are equal. */
static bool precedes(const struct line *l, size_t i, size_t j)
{
    switch (l->dtype) {
    case CVD_DTYPE_INT64:
        PRECEDES(int64_t, false);
    case CVD_DTYPE_INT32:
        PRECEDES(int32_t, false);
    case CVD_DTYPE_INT8:
        PRECEDES(int8_t, false);
    case CVD_DTYPE_UINT8:
        PRECEDES(uint8_t, false);
    default:
        PRECEDES(float, isnan(u) != isnan(v));
    }
}

/* How an array is cut into lines. */
struct lines {
    size_t count, length;
    size_t stride; /* elements between neighbours on a line */
};

static struct lines lines_of(const struct cvd_shape *shape, unsigned axis)
{
    const size_t inner = op_extent(shape, axis + 1, shape->rank);
    return (struct lines){op_extent(shape, 0, axis) * inner, (size_t)shape->dims[axis], inner};
}

/* The first element of line i of an array that has `length` elements on a line. */
static size_t line_start(const struct lines *lines, size_t length, size_t i)
{
    return i / lines->stride * lines->stride * length + i % lines->stride;
}

/* Lines worth a piece of a parallel loop. */
static size_t lines_piece(const struct lines *lines)
{
    const size_t piece = OP_RANGE_CHEAP / 4 / (lines->length + 1);
    return piece ? piece : 1;
}

/* ---- ArgMax and ArgMin ---- */

struct arg_state {
    unsigned axis;
    bool smallest, last;
};

static enum cvd_status arg_read(const struct op_node *node, struct arg_state *s,
                                struct cvd_shape *shape)
{
    int64_t keep = 1, last = 0;
    s->smallest = strcmp(node->def->name, "ArgMin") == 0;
    enum cvd_status status = op_check_type(node, 0, ORDER_TYPES, ORDER_TYPES | OP_FLOATS);
    if (status == CVD_STATUS_OK)
        status = list_axis(node, 0, &s->axis);
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "keepdims", 1, &keep);
    if (status == CVD_STATUS_OK && node->def->since >= 12)
        status = op_attr_int(node, "select_last_index", 0, &last);
    if (status != CVD_STATUS_OK)
        return status;
    s->last = last != 0;
    *shape = node->in[0]->shape;
    if (shape->dims[s->axis] == 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "dimension %u is empty", s->axis);
    shape->dims[s->axis] = 1;
    if (!keep) {
        shape->rank--;
        for (unsigned d = s->axis; d < shape->rank; d++)
            shape->dims[d] = shape->dims[d + 1];
    }
    return CVD_STATUS_OK;
}

static enum cvd_status arg_infer(const struct op_node *node, struct op_value *out)
{
    struct arg_state s;
    struct cvd_shape shape;
    enum cvd_status status = arg_read(node, &s, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], CVD_DTYPE_INT64, &shape) : status;
}

static enum cvd_status arg_prepare(const struct op_node *node, const struct op_value *out,
                                   const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct arg_state *s;
    struct cvd_shape shape;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = arg_read(node, s, &shape);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "order_ref";
    prepared->mixes_images = s->axis == 0;
    return CVD_STATUS_OK;
}

struct arg_run {
    const struct arg_state *state;
    const struct op_tensor *x;
    struct lines lines;
    int64_t *y;
};

static void arg_range(void *ctx, size_t begin, size_t end)
{
    const struct arg_run *a = ctx;
    const size_t bytes = cvd_dtype_bytes(a->x->dtype);
    for (size_t i = begin; i < end; i++) {
        const size_t start = line_start(&a->lines, a->lines.length, i);
        const struct line l = {.dtype = a->x->dtype,
                               .x = (const char *)a->x->data + start * bytes,
                               .step = a->lines.stride * bytes,
                               .smallest = a->state->smallest,
                               .nan_first = true};
        size_t best = 0;
        for (size_t j = 1; j < a->lines.length; j++)
            if (a->state->last ? !precedes(&l, best, j) : precedes(&l, j, best))
                best = j;
        a->y[i] = (int64_t)best;
    }
}

static void arg_run(const struct op_run *r)
{
    const struct arg_state *s = r->state;
    struct arg_run a = {s, r->in[0], lines_of(&r->in[0]->shape, s->axis), r->out[0].data};
    op_for_range(r->pool, a.lines.count, lines_piece(&a.lines), arg_range, &a);
}

/* ---- TopK ---- */

struct topk_state {
    unsigned axis;
    bool smallest;
    size_t k;
};

/* k is an attribute, from operator set 10 on an input. */
static enum cvd_status topk_read(const struct op_node *node, struct topk_state *s)
{
    int64_t k, largest = 1, sorted;
    enum cvd_status status = op_check_type(node, 0, ORDER_TYPES, ORDER_TYPES | OP_FLOATS);
    if (status == CVD_STATUS_OK)
        status = list_axis(node, -1, &s->axis);
    if (status == CVD_STATUS_OK && node->def->since >= 10) {
        size_t count;
        status = op_value_ints(node, 1, &k, 1, &count);
        if (status == CVD_STATUS_OK && count != 1)
            status = op_fail(node, CVD_STATUS_INVALID_MODEL, "k has %zu elements; it must have one",
                             count);
    } else if (status == CVD_STATUS_OK) {
        status = op_attr_find(node, "k")
                     ? op_attr_int(node, "k", 0, &k)
                     : op_fail(node, CVD_STATUS_INVALID_MODEL, "attribute k is missing");
    }
    if (status == CVD_STATUS_OK && node->def->since >= 11)
        status = op_attr_int(node, "largest", 1, &largest);
    /* Asking for no order leaves it open: what is sorted will do. */
    if (status == CVD_STATUS_OK && node->def->since >= 11)
        status = op_attr_int(node, "sorted", 1, &sorted);
    if (status != CVD_STATUS_OK)
        return status;
    const int64_t extent = node->in[0]->shape.dims[s->axis];
    if (k < 0 || k > extent)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "k is %" PRId64 "; dimension %u has %" PRId64 " elements", k, s->axis,
                       extent);
    s->smallest = !largest;
    s->k = (size_t)k;
    return CVD_STATUS_OK;
}

static enum cvd_status topk_infer(const struct op_node *node, struct op_value *out)
{
    struct topk_state s;
    enum cvd_status status = topk_read(node, &s);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_shape shape = node->in[0]->shape;
    shape.dims[s.axis] = (int64_t)s.k;
    status = op_set_output(node, &out[0], node->in[0]->dtype, &shape);
    if (status == CVD_STATUS_OK && node->out_count > 1)
        status = op_set_output(node, &out[1], CVD_DTYPE_INT64, &shape);
    return status;
}

static enum cvd_status topk_prepare(const struct op_node *node, const struct op_value *out,
                                    const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct topk_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = topk_read(node, s);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "order_ref";
    prepared->inputs_consumed = 2;
    prepared->scratch_bytes = s->k * sizeof(size_t); /* no more than the indices, which fit */
    prepared->mixes_images = s->axis == 0;
    return CVD_STATUS_OK;
}

struct topk_run {
    const struct topk_state *state;
    const struct op_run *r;
    struct lines lines;
    size_t piece;
};

/* The same for elements of two indices that differ: equal ones stand in the order of those. */
static bool before(const struct line *l, size_t i, size_t j)
{
    return precedes(l, i, j) || (i < j && !precedes(l, j, i));
}

/* Restores the heap, in which every element comes after its children, from its root `at`. */
static void sift_down(const struct line *l, size_t *heap, size_t count, size_t at)
{
    const size_t moved = heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && before(l, heap[child], heap[child + 1]))
            child++;
        if (!before(l, moved, heap[child]))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

/* The indices of the first k in `heap`, in order: a heap of the best so far, with the last of them
 * at its root, and then heap sort. */
static void select_line(const struct line *l, size_t length, size_t k, size_t *heap)
{
    for (size_t i = 0; i < k; i++)
        heap[i] = i;
    for (size_t at = k / 2; at-- > 0;)
        sift_down(l, heap, k, at);
    for (size_t i = k; i < length; i++)
        if (before(l, i, heap[0])) {
            heap[0] = i;
            sift_down(l, heap, k, 0);
        }
    for (size_t count = k; count-- > 1;) {
        const size_t last = heap[0];
        heap[0] = heap[count];
        heap[count] = last;
        sift_down(l, heap, count, 0);
    }
}

static void topk_part(void *ctx, size_t part, unsigned slot)
{
    const struct topk_run *t = ctx;
    const struct topk_state *s = t->state;
    const struct op_run *r = t->r;
    const size_t bytes = cvd_dtype_bytes(r->in[0]->dtype), stride = t->lines.stride;
    size_t *heap = (size_t *)(void *)((char *)r->scratch + slot * r->scratch_stride);
    char *values = r->out[0].data;
    int64_t *indices = r->out_count > 1 ? r->out[1].data : NULL;
    const size_t first = part * t->piece;
    const size_t end = t->lines.count - first < t->piece ? t->lines.count : first + t->piece;
    for (size_t i = first; i < end; i++) {
        const size_t from = line_start(&t->lines, t->lines.length, i);
        const size_t to = line_start(&t->lines, s->k, i);
        const struct line l = {.dtype = r->in[0]->dtype,
                               .x = (const char *)r->in[0]->data + from * bytes,
                               .step = stride * bytes,
                               .smallest = s->smallest,
                               .nan_first = !s->smallest};
        select_line(&l, t->lines.length, s->k, heap);
        for (size_t j = 0; j < s->k; j++) {
            if (values)
                memcpy(values + (to + j * stride) * bytes, l.x + heap[j] * l.step, bytes);
            if (indices)
                indices[to + j * stride] = (int64_t)heap[j];
        }
    }
}

static void topk_run(const struct op_run *r)
{
    const struct topk_state *s = r->state;
    struct topk_run t = {.state = s, .r = r, .lines = lines_of(&r->in[0]->shape, s->axis)};
    t.piece = lines_piece(&t.lines);
    if (t.lines.count > 0 && s->k > 0)
        tpool_for(r->pool, (t.lines.count - 1) / t.piece + 1, topk_part, &t);
}

/* clang-format off */
#define ARG(op, first_opset, last_opset)                                                           \
    {.name = op, .domain = "", .since = first_opset, .until = last_opset, .flags = OP_BATCHWISE,   \
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,                         \
     .infer = arg_infer, .prepare = arg_prepare, .run = arg_run}
#define TOPK(first_opset, last_opset, inputs)                                                      \
    {.name = "TopK", .domain = "", .since = first_opset, .until = last_opset,                      \
     .flags = OP_BATCHWISE, .min_inputs = inputs, .max_inputs = inputs,                            \
     .min_outputs = 1, .max_outputs = 2,                                                           \
     .infer = topk_infer, .prepare = topk_prepare, .run = topk_run}

const struct op_def ops_order[] = {
    ARG("ArgMax", 1, 11),
    ARG("ArgMax", 12, 0), /* select_last_index */
    ARG("ArgMin", 1, 11),
    ARG("ArgMin", 12, 0),
    TOPK(1, 9, 1),
    TOPK(10, 10, 2), /* k is an input */
    TOPK(11, 0, 2),  /* largest and sorted */
    {.name = NULL},
};
/* clang-format on */
