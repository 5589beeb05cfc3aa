/*
 * Operators that look at an array differently but leave its elements alone: Identity, Dropout,
 * Flatten, Reshape, Squeeze, Unsqueeze; and Shape and Size, which tell the extents and their
 * product.
 */
#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <string.h>

/* Views have no state and no run; prepare only says that they cost nothing. */
static enum cvd_status view_prepare(const struct op_node *node, const struct op_value *out,
                                    const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)node;
    (void)out;
    (void)kernels;
    prepared->kernel = "-";
    return CVD_STATUS_OK;
}

static enum cvd_status identity_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

/* ---- Dropout ---- */

static enum cvd_status dropout_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status = op_check_type(node, 0, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS);
    if (status != CVD_STATUS_OK)
        return status;
    const struct op_value *training = op_input(node, 2);
    if (training) {
        status = op_check_type(node, 2, OP_TYPE(CVD_DTYPE_BOOL), OP_TYPE(CVD_DTYPE_BOOL));
        if (status != CVD_STATUS_OK)
            return status;
        if (!training->data)
            return op_fail(node, CVD_STATUS_UNSUPPORTED, "training_mode must be constant");
        if (op_elements(&training->shape) != 1)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "training_mode has %zu elements; it must be a scalar",
                           op_elements(&training->shape));
        /* In training nothing is dropped either when the ratio is 0. */
        const struct op_value *ratio = op_input(node, 1);
        const bool drops = !ratio || ratio->dtype != CVD_DTYPE_FLOAT32 || !ratio->data ||
                           op_elements(&ratio->shape) != 1 || *(const float *)ratio->data != 0;
        if (*(const uint8_t *)training->data && drops)
            return op_fail(node, CVD_STATUS_UNSUPPORTED, "training mode is not implemented");
    }
    status = op_infer_same(node, out);
    if (status == CVD_STATUS_OK && node->out_count > 1)
        status = op_set_output(node, &out[1],
                               node->def->since >= 10 ? CVD_DTYPE_BOOL : CVD_DTYPE_FLOAT32,
                               &node->in[0]->shape);
    return status;
}

/* Nothing is dropped: output 0 is a view, and the mask is all true (all 1 before set 10). */
static void dropout_run(const struct op_run *r)
{
    if (r->out_count < 2 || !r->out[1].data)
        return;
    const size_t n = op_elements(&r->out[1].shape);
    if (r->out[1].dtype == CVD_DTYPE_BOOL)
        memset(r->out[1].data, 1, n);
    else
        for (size_t i = 0; i < n; i++)
            ((float *)r->out[1].data)[i] = 1;
}

/* ---- Flatten and Reshape ---- */

static enum cvd_status flatten_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    int64_t at = 1;
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "axis", 1, &at);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *x = &node->in[0]->shape;
    unsigned axis = x->rank;
    if (at != (int64_t)x->rank && !op_axis(at, x->rank, &axis))
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "axis %" PRId64 " is outside an input of %u dimensions", at, x->rank);
    const struct cvd_shape shape = {
        2, {(int64_t)op_extent(x, 0, axis), (int64_t)op_extent(x, axis, x->rank)}};
    return op_set_output(node, &out[0], node->in[0]->dtype, &shape);
}

/* The wanted extents with 0 (take the input's) and -1 (what remains) resolved. */
static enum cvd_status resolve_reshape(const struct op_node *node, const int64_t *want,
                                       size_t count, bool allow_zero, struct cvd_shape *shape)
{
    const struct cvd_shape *x = &node->in[0]->shape;
    const size_t total = op_elements(x);
    size_t known = 1, unknown = SIZE_MAX;
    *shape = (struct cvd_shape){.rank = (unsigned)count};
    for (size_t i = 0; i < count; i++) {
        int64_t extent = want[i];
        if (extent == 0 && !allow_zero) {
            if (i >= x->rank)
                return op_fail(node, CVD_STATUS_INVALID_MODEL,
                               "shape[%zu] is 0 but the input has %u dimensions", i, x->rank);
            extent = x->dims[i];
        }
        if (extent == -1) {
            if (unknown != SIZE_MAX)
                return op_fail(node, CVD_STATUS_INVALID_MODEL,
                               "shape[%zu] and shape[%zu] are both -1", unknown, i);
            unknown = i;
            continue;
        }
        if (extent < 0)
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "shape[%zu] is %" PRId64, i, extent);
        shape->dims[i] = extent;
        if (__builtin_mul_overflow(known, (size_t)extent, &known))
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "the shape has too many elements");
    }
    if (unknown != SIZE_MAX) {
        if (known == 0 || total % known != 0)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "%zu elements cannot be divided by the %zu of the other dimensions",
                           total, known);
        shape->dims[unknown] = (int64_t)(total / known);
        known = total;
    }
    char text[CVD_SHAPE_TEXT_BYTES];
    if (known != total)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "shape %s does not hold %zu elements",
                       cvd_shape_text(shape, text), total);
    return CVD_STATUS_OK;
}

static enum cvd_status reshape_infer(const struct op_node *node, struct op_value *out)
{
    int64_t want[CVD_MAX_RANK], allow_zero = 0;
    size_t count;
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status != CVD_STATUS_OK)
        return status;
    if (node->def->since < 5) {
        const int64_t *ints;
        status = op_attr_ints(node, "shape", &ints, &count);
        if (status == CVD_STATUS_OK && !ints)
            status = op_fail(node, CVD_STATUS_INVALID_MODEL, "attribute shape is missing");
        if (status == CVD_STATUS_OK && count > CVD_MAX_RANK)
            status = op_fail(node, CVD_STATUS_UNSUPPORTED, "shape has %zu dimensions; at most %d",
                             count, CVD_MAX_RANK);
        if (status == CVD_STATUS_OK)
            memcpy(want, ints, count * sizeof *ints);
    } else {
        status = op_value_ints(node, 1, want, CVD_MAX_RANK, &count);
        if (status == CVD_STATUS_OK && node->def->since >= 14)
            status = op_attr_int(node, "allowzero", 0, &allow_zero);
    }
    struct cvd_shape shape;
    if (status == CVD_STATUS_OK)
        status = resolve_reshape(node, want, count, allow_zero != 0, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], node->in[0]->dtype, &shape)
                                   : status;
}

/* ---- Squeeze and Unsqueeze ---- */

/* Reads axes, an attribute before operator set 13 and then an input, as a set of dimensions below
 * `rank`. *given is false when there are none. */
static enum cvd_status read_axes(const struct op_node *node, unsigned rank, bool set[CVD_MAX_RANK],
                                 size_t *count, bool *given)
{
    int64_t values[CVD_MAX_RANK];
    const int64_t *axes = values;
    *count = 0;
    *given = false;
    memset(set, 0, CVD_MAX_RANK * sizeof set[0]);
    if (node->def->since >= 13) {
        if (!op_input(node, 1))
            return CVD_STATUS_OK;
        enum cvd_status status = op_value_ints(node, 1, values, CVD_MAX_RANK, count);
        if (status != CVD_STATUS_OK)
            return status;
    } else {
        enum cvd_status status = op_attr_ints(node, "axes", &axes, count);
        if (status != CVD_STATUS_OK || !axes)
            return status;
    }
    *given = true;
    for (size_t i = 0; i < *count; i++) {
        unsigned axis;
        if (!op_axis(axes[i], rank, &axis))
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "axes[%zu] is %" PRId64 ", outside %u dimensions", i, axes[i], rank);
        if (set[axis])
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "axes names dimension %u twice", axis);
        set[axis] = true;
    }
    return CVD_STATUS_OK;
}

static enum cvd_status squeeze_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *x = &node->in[0]->shape;
    bool drop[CVD_MAX_RANK], given;
    size_t count;
    status = read_axes(node, x->rank, drop, &count, &given);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_shape shape = {0};
    for (unsigned i = 0; i < x->rank; i++) {
        if (given && drop[i] && x->dims[i] != 1)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "dimension %u has extent %" PRId64 "; only 1 can be dropped", i,
                           x->dims[i]);
        if (given ? !drop[i] : x->dims[i] != 1)
            shape.dims[shape.rank++] = x->dims[i];
    }
    return op_set_output(node, &out[0], node->in[0]->dtype, &shape);
}

static enum cvd_status unsqueeze_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *x = &node->in[0]->shape;
    /* The axes count in the output, whose rank follows from how many there are. */
    size_t count = 0;
    int64_t values[CVD_MAX_RANK];
    const int64_t *axes;
    if (node->def->since >= 13)
        status = op_value_ints(node, 1, values, CVD_MAX_RANK, &count);
    else
        status = op_attr_ints(node, "axes", &axes, &count);
    if (status != CVD_STATUS_OK)
        return status;
    if (node->def->since < 13 && !axes)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "attribute axes is missing");
    if (count > CVD_MAX_RANK - x->rank)
        return op_fail(node, CVD_STATUS_UNSUPPORTED,
                       "the output would have %zu dimensions; at most %d", count + x->rank,
                       CVD_MAX_RANK);
    struct cvd_shape shape = {.rank = x->rank + (unsigned)count};
    bool add[CVD_MAX_RANK], given;
    status = read_axes(node, shape.rank, add, &count, &given);
    if (status != CVD_STATUS_OK)
        return status;
    for (unsigned i = 0, from = 0; i < shape.rank; i++)
        shape.dims[i] = add[i] ? 1 : x->dims[from++];
    return op_set_output(node, &out[0], node->in[0]->dtype, &shape);
}

/* ---- Shape ---- */

struct shape_state {
    int64_t start, end;
};

/* Dimensions first … last - 1 of an array of `rank`: start and end as Python slices them. */
static void slice_dimensions(const struct shape_state *s, unsigned rank, unsigned *first,
                             unsigned *last)
{
    const int64_t limit = rank;
    int64_t start = s->start < 0 ? s->start + limit : s->start;
    int64_t end = s->end < 0 ? s->end + limit : s->end;
    start = start < 0 ? 0 : start > limit ? limit : start;
    end = end < start ? start : end > limit ? limit : end;
    *first = (unsigned)start;
    *last = (unsigned)end;
}

static enum cvd_status read_shape(const struct op_node *node, struct shape_state *s)
{
    *s = (struct shape_state){0, INT64_MAX};
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status == CVD_STATUS_OK && node->def->since >= 15)
        status = op_attr_int(node, "start", 0, &s->start);
    if (status == CVD_STATUS_OK && node->def->since >= 15)
        status = op_attr_int(node, "end", INT64_MAX, &s->end);
    return status;
}

static enum cvd_status shape_infer(const struct op_node *node, struct op_value *out)
{
    struct shape_state s;
    enum cvd_status status = read_shape(node, &s);
    if (status != CVD_STATUS_OK)
        return status;
    unsigned first, last;
    slice_dimensions(&s, node->in[0]->shape.rank, &first, &last);
    const struct cvd_shape shape = {1, {(int64_t)last - first}};
    return op_set_output(node, &out[0], CVD_DTYPE_INT64, &shape);
}

static enum cvd_status shape_prepare(const struct op_node *node, const struct op_value *out,
                                     const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct shape_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = "-";
    return status == CVD_STATUS_OK ? read_shape(node, s) : status;
}

static void shape_run(const struct op_run *r)
{
    const struct cvd_shape *x = &r->in[0]->shape;
    unsigned first, last;
    slice_dimensions(r->state, x->rank, &first, &last);
    memcpy(r->out[0].data, x->dims + first, (last - first) * sizeof x->dims[0]);
}

/* ---- Size ---- */

static enum cvd_status size_infer(const struct op_node *node, struct op_value *out)
{
    const struct cvd_shape scalar = {0};
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], CVD_DTYPE_INT64, &scalar)
                                   : status;
}

static void size_run(const struct op_run *r)
{
    *(int64_t *)r->out[0].data = (int64_t)op_elements(&r->in[0]->shape);
}

/* clang-format off */
#define VIEW(op, first_opset, last_opset, inputs_least, inputs_most, infer_fn)                     \
    {.name = op, .domain = "", .since = first_opset, .until = last_opset,                          \
     .flags = OP_VIEW | OP_BATCHWISE,                                                              \
     .min_inputs = inputs_least, .max_inputs = inputs_most, .min_outputs = 1, .max_outputs = 1,    \
     .infer = infer_fn, .prepare = view_prepare}
/* A view with a run: there may be a mask to write. */
#define DROPOUT(first_opset, last_opset, inputs_most)                                              \
    {.name = "Dropout", .domain = "", .since = first_opset, .until = last_opset,                   \
     .flags = OP_VIEW | OP_BATCHWISE,                                                              \
     .min_inputs = 1, .max_inputs = inputs_most, .min_outputs = 1, .max_outputs = 2,               \
     .infer = dropout_infer, .prepare = view_prepare, .run = dropout_run}
#define SHAPE(first_opset, last_opset)                                                             \
    {.name = "Shape", .domain = "", .since = first_opset, .until = last_opset,                     \
     .flags = OP_SHAPE_ONLY,                                                                       \
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,                         \
     .infer = shape_infer, .prepare = shape_prepare, .run = shape_run}

const struct op_def ops_shape[] = {
    VIEW("Identity", 1, 0, 1, 1, identity_infer),
    DROPOUT(1, 9, 1),
    DROPOUT(10, 11, 1), /* the mask is boolean */
    DROPOUT(12, 0, 3),
    VIEW("Flatten", 1, 0, 1, 1, flatten_infer),
    VIEW("Reshape", 1, 4, 1, 1, reshape_infer),
    VIEW("Reshape", 5, 13, 2, 2, reshape_infer),
    VIEW("Reshape", 14, 0, 2, 2, reshape_infer), /* allowzero */
    VIEW("Squeeze", 1, 12, 1, 1, squeeze_infer),
    VIEW("Squeeze", 13, 0, 1, 2, squeeze_infer),
    VIEW("Unsqueeze", 1, 12, 1, 1, unsqueeze_infer),
    VIEW("Unsqueeze", 13, 0, 2, 2, unsqueeze_infer),
    SHAPE(1, 14),
    SHAPE(15, 0), /* start and end */
    {.name = "Size", .domain = "", .since = 1, .flags = OP_SHAPE_ONLY,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = size_infer, .prepare = view_prepare, .run = size_run},
    {.name = NULL},
};
/* clang-format on */
