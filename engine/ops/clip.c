/* Clip: limits as attributes (before operator set 11) or as inputs that may come at run time. */
#include "engine/ops/op_util.h"

#include <float.h>
#include <math.h>

struct clip_state {
    bool by_inputs;
    float low, high; /* when not by_inputs */
};

#define CLIP_TYPES (OP_TYPE(CVD_DTYPE_FLOAT32) | OP_INTS)

static enum cvd_status read_node(const struct op_node *node, struct clip_state *s)
{
    *s = (struct clip_state){.by_inputs = node->def->since >= 11};
    if (!s->by_inputs) {
        enum cvd_status status = op_check_type(node, 0, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS);
        if (status == CVD_STATUS_OK)
            status = op_attr_float(node, "min", -FLT_MAX, &s->low);
        if (status == CVD_STATUS_OK)
            status = op_attr_float(node, "max", FLT_MAX, &s->high);
        return status;
    }
    enum cvd_status status = op_check_type(node, 0, CLIP_TYPES, CLIP_TYPES | OP_FLOATS);
    for (size_t i = 1; i <= 2 && status == CVD_STATUS_OK; i++) {
        const struct op_value *limit = op_input(node, i);
        if (!limit)
            continue;
        status = op_check_same_type(node, i);
        if (status == CVD_STATUS_OK && op_elements(&limit->shape) != 1)
            status = op_fail(node, CVD_STATUS_INVALID_MODEL,
                             "input %zu has %zu elements; it must be a scalar", i,
                             op_elements(&limit->shape));
    }
    return status;
}

static enum cvd_status clip_infer(const struct op_node *node, struct op_value *out)
{
    struct clip_state s;
    enum cvd_status status = read_node(node, &s);
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

static enum cvd_status clip_prepare(const struct op_node *node, const struct op_value *out,
                                    const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct clip_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = "pointwise_ref";
    return status == CVD_STATUS_OK ? read_node(node, s) : status;
}

struct clip_run {
    const struct clip_state *state;
    enum cvd_dtype dtype;
    const void *x, *low, *high; /* limits may be NULL */
    void *y;
};

/* The upper limit is applied last, so it wins when the two are crossed. */
#define CLIP_RANGE(type, lowest, highest)                               \
    do {                                                                \
        const type low = c->low ? *(const type *)c->low : (lowest);     \
        const type high = c->high ? *(const type *)c->high : (highest); \
        const type *x = c->x;                                           \
        type *y = c->y;                                                 \
        for (size_t i = begin; i < end; i++) {                          \
            const type v = x[i] < low ? low : x[i];                     \
            y[i] = v > high ? high : v;                                 \
        }                                                               \
    } while (0)

static void clip_range(void *ctx, size_t begin, size_t end)
{
    const struct clip_run *c = ctx;
    switch (c->dtype) {
    case CVD_DTYPE_INT32:
        CLIP_RANGE(int32_t, INT32_MIN, INT32_MAX);
        break;
    case CVD_DTYPE_INT64:
        CLIP_RANGE(int64_t, INT64_MIN, INT64_MAX);
        break;
    case CVD_DTYPE_INT8:
        CLIP_RANGE(int8_t, INT8_MIN, INT8_MAX);
        break;
    case CVD_DTYPE_UINT8:
        CLIP_RANGE(uint8_t, 0, UINT8_MAX);
        break;
    default:
        CLIP_RANGE(float, -INFINITY, INFINITY);
        break;
    }
}

static void clip_run(const struct op_run *r)
{
    const struct clip_state *s = r->state;
    struct clip_run c = {s, r->in[0]->dtype, r->in[0]->data, NULL, NULL, r->out[0].data};
    if (s->by_inputs) {
        const struct op_tensor *low = op_run_input(r, 1), *high = op_run_input(r, 2);
        c.low = low ? low->data : NULL;
        c.high = high ? high->data : NULL;
    } else {
        c.low = &s->low;
        c.high = &s->high;
    }
    op_for_range(r->pool, op_elements(&r->in[0]->shape), OP_RANGE_CHEAP, clip_range, &c);
}

/* clang-format off */
const struct op_def ops_clip[] = {
    {.name = "Clip", .domain = "", .since = 1, .until = 10, .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = clip_infer, .prepare = clip_prepare, .run = clip_run},
    {.name = "Clip", .domain = "", .since = 11, .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 1, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = clip_infer, .prepare = clip_prepare, .run = clip_run},
    {.name = NULL},
};
/* clang-format on */
