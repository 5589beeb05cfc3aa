/* Arrays made from a few numbers: ConstantOfShape and Range. Their inputs must be known at load. */
#include "engine/ops/convert.h"
#include "engine/ops/list.h"
#include "engine/ops/move.h"
#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- ConstantOfShape ---- */

/* The state: one element. */
struct fill_state {
    char element[8];
};

static enum cvd_status fill_read(const struct op_node *node, struct fill_state *s,
                                 enum cvd_dtype *dtype)
{
    *s = (struct fill_state){{0}};
    *dtype = CVD_DTYPE_FLOAT32;
    const struct op_attr *value = op_attr_find(node, "value");
    if (!value)
        return CVD_STATUS_OK;
    if (value->type != OP_ATTR_TENSOR)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "attribute value has type %d; it must be of type tensor (%d)",
                       (int)value->type, (int)OP_ATTR_TENSOR);
    *dtype = value->tensor.dtype;
    const size_t bytes = cvd_dtype_bytes(*dtype);
    if (bytes == 0)
        return op_fail(node, CVD_STATUS_UNSUPPORTED, "element type %d is not implemented",
                       (int)*dtype);
    if (op_elements(&value->tensor.shape) != 1)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "value has %zu elements; it must have one",
                       op_elements(&value->tensor.shape));
    memcpy(s->element, value->tensor.data, bytes);
    return CVD_STATUS_OK;
}

static enum cvd_status fill_infer(const struct op_node *node, struct op_value *out)
{
    struct fill_state s;
    enum cvd_dtype dtype;
    struct list extents;
    enum cvd_status status = fill_read(node, &s, &dtype);
    if (status == CVD_STATUS_OK)
        status = list_require(node, NULL, 0, CVD_MAX_RANK, &extents);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_shape shape = {.rank = (unsigned)extents.count};
    for (unsigned d = 0; d < shape.rank; d++) {
        shape.dims[d] = extents.values[d];
        if (shape.dims[d] < 0)
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "shape[%u] is %" PRId64, d,
                           shape.dims[d]);
    }
    return op_set_output(node, &out[0], dtype, &shape);
}

static enum cvd_status fill_prepare(const struct op_node *node, const struct op_value *out,
                                    const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct fill_state *s;
    enum cvd_dtype dtype;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = "move_ref";
    prepared->inputs_consumed = 1;
    return status == CVD_STATUS_OK ? fill_read(node, s, &dtype) : status;
}

static void fill_run(const struct op_run *r)
{
    const struct fill_state *s = r->state;
    struct move m = {
        .bytes = cvd_dtype_bytes(r->out[0].dtype), .in = s->element, .out = r->out[0].data};
    move_add(&m, op_elements(&r->out[0].shape), 0);
    move_run(&m, r->pool);
}

/* ---- Range ---- */

/* Integers count in int64, everything else in double. */
struct range_state {
    int64_t start, delta;
    double float_start, float_delta;
};

#define RANGE_TYPES \
    (OP_TYPE(CVD_DTYPE_FLOAT32) | OP_TYPE(CVD_DTYPE_INT32) | OP_TYPE(CVD_DTYPE_INT64))

/* How many numbers there are from start to before limit. */
static uint64_t integer_count(int64_t start, int64_t limit, int64_t delta)
{
    if (delta > 0 ? limit <= start : limit >= start)
        return 0;
    const uint64_t way =
        delta > 0 ? (uint64_t)limit - (uint64_t)start : (uint64_t)start - (uint64_t)limit;
    const uint64_t step = delta > 0 ? (uint64_t)delta : 0 - (uint64_t)delta;
    return (way - 1) / step + 1;
}

static enum cvd_status range_read(const struct op_node *node, struct range_state *s,
                                  struct cvd_shape *shape)
{
    static const char *const names[] = {"start", "limit", "delta"};
    int64_t whole[3] = {0};
    double fraction[3] = {0};
    enum cvd_status status =
        op_check_type(node, 0, RANGE_TYPES, RANGE_TYPES | OP_TYPE(CVD_DTYPE_FLOAT64));
    for (size_t i = 0; i < 3 && status == CVD_STATUS_OK; i++) {
        status = op_check_same_type(node, i);
        if (status != CVD_STATUS_OK)
            return status;
        const struct op_value *v = node->in[i];
        if (!v->data)
            return op_fail(node, CVD_STATUS_UNSUPPORTED, "input %zu (%s) must be constant", i,
                           names[i]);
        if (op_elements(&v->shape) != 1)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "input %zu (%s) has %zu elements; it must be a scalar", i, names[i],
                           op_elements(&v->shape));
        convert_elements(v->dtype, v->data, CVD_DTYPE_INT64, &whole[i], 1);
        convert_elements(v->dtype, v->data, CVD_DTYPE_FLOAT64, &fraction[i], 1);
    }
    if (status != CVD_STATUS_OK)
        return status;
    *s = (struct range_state){whole[0], whole[2], fraction[0], fraction[2]};
    uint64_t count;
    if (fraction[2] == 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "delta is 0");
    if (node->in[0]->dtype == CVD_DTYPE_FLOAT32) {
        const double steps = ceil((fraction[1] - fraction[0]) / fraction[2]);
        if (!isfinite(steps))
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "from %g to %g by %g is no range",
                           fraction[0], fraction[1], fraction[2]);
        count = steps < 0 ? 0 : steps < 0x1p62 ? (uint64_t)steps : UINT64_MAX;
    } else {
        count = integer_count(whole[0], whole[1], whole[2]);
    }
    if (count > INT64_MAX)
        return op_fail(node, CVD_STATUS_UNSUPPORTED, "output does not fit in memory");
    *shape = (struct cvd_shape){1, {(int64_t)count}};
    return CVD_STATUS_OK;
}

static enum cvd_status range_infer(const struct op_node *node, struct op_value *out)
{
    struct range_state s;
    struct cvd_shape shape;
    enum cvd_status status = range_read(node, &s, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], node->in[0]->dtype, &shape)
                                   : status;
}

static enum cvd_status range_prepare(const struct op_node *node, const struct op_value *out,
                                     const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct range_state *s;
    struct cvd_shape shape;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = "range_ref";
    prepared->inputs_consumed = 7;
    return status == CVD_STATUS_OK ? range_read(node, s, &shape) : status;
}

static void range_run(const struct op_run *r)
{
    const struct range_state *s = r->state;
    const size_t n = op_elements(&r->out[0].shape);
    for (size_t i = 0; i < n; i++) {
        const int64_t whole = (int64_t)((uint64_t)s->start + i * (uint64_t)s->delta);
        switch (r->out[0].dtype) {
        case CVD_DTYPE_INT64:
            ((int64_t *)r->out[0].data)[i] = whole;
            break;
        case CVD_DTYPE_INT32:
            ((int32_t *)r->out[0].data)[i] = (int32_t)whole;
            break;
        default:
            ((float *)r->out[0].data)[i] = (float)(s->float_start + (double)i * s->float_delta);
            break;
        }
    }
}

/* clang-format off */
const struct op_def ops_fill[] = {
    {.name = "ConstantOfShape", .domain = "", .since = 9,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = fill_infer, .prepare = fill_prepare, .run = fill_run},
    {.name = "Range", .domain = "", .since = 11,
     .min_inputs = 3, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = range_infer, .prepare = range_prepare, .run = range_run},
    {.name = NULL},
};
/* clang-format on */
