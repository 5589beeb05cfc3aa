/*
 * Pow: base and exponent may have different types, and the result has the base's. Integers to the
 * power of integers are exact (they wrap around like products); all else goes through double.
 */
#include "engine/ops/broadcast.h"
#include "engine/ops/convert.h"
#include "engine/ops/op_util.h"

#include <math.h>

#define POW_TYPES (OP_TYPE(CVD_DTYPE_FLOAT32) | OP_TYPE(CVD_DTYPE_INT32) | OP_TYPE(CVD_DTYPE_INT64))

static enum cvd_status read_node(const struct op_node *node, struct broadcast_align *align,
                                 struct cvd_shape *shape)
{
    const unsigned supported =
        node->def->since >= 12 ? (unsigned)POW_TYPES : OP_TYPE(CVD_DTYPE_FLOAT32);
    *align = (struct broadcast_align){0};
    enum cvd_status status = op_check_type(node, 0, supported, supported | OP_FLOATS);
    if (status == CVD_STATUS_OK)
        status = node->def->since >= 12
                     ? op_check_type(node, 1, supported, supported | OP_FLOATS | OP_INTS)
                     : op_check_same_type(node, 1);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *a = &node->in[0]->shape, *b = &node->in[1]->shape;
    *shape = *a;
    if (node->def->until == 6)
        return broadcast_read_legacy(node, align);
    if (!op_broadcast(a, b, shape)) {
        char text_a[CVD_SHAPE_TEXT_BYTES], text_b[CVD_SHAPE_TEXT_BYTES];
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "input 1, %s, does not broadcast with %s",
                       cvd_shape_text(b, text_b), cvd_shape_text(a, text_a));
    }
    return CVD_STATUS_OK;
}

static enum cvd_status pow_infer(const struct op_node *node, struct op_value *out)
{
    struct broadcast_align align;
    struct cvd_shape shape;
    enum cvd_status status = read_node(node, &align, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], node->in[0]->dtype, &shape)
                                   : status;
}

/* The state is the alignment. */
static enum cvd_status pow_prepare(const struct op_node *node, const struct op_value *out,
                                   const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct broadcast_align *align;
    struct cvd_shape shape;
    enum cvd_status status = op_state(node, sizeof *align, prepared, &align);
    prepared->kernel = "arith_ref";
    return status == CVD_STATUS_OK ? read_node(node, align, &shape) : status;
}

static int64_t integer_at(enum cvd_dtype dtype, const void *data, size_t i)
{
    return dtype == CVD_DTYPE_INT64 ? ((const int64_t *)data)[i] : ((const int32_t *)data)[i];
}

static double number_at(enum cvd_dtype dtype, const void *data, size_t i)
{
    return dtype == CVD_DTYPE_FLOAT32 ? (double)((const float *)data)[i]
                                      : (double)integer_at(dtype, data, i);
}

/* base ^ exponent modulo 2^64; a fraction (negative exponent) is cut towards zero. */
static int64_t integer_power(int64_t base, int64_t exponent)
{
    if (exponent < 0)
        return base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
    uint64_t result = 1, square = (uint64_t)base;
    for (; exponent > 0; exponent >>= 1, square *= square)
        if (exponent & 1)
            result *= square;
    return (int64_t)result;
}

static void pow_piece(void *ctx, const struct broadcast_piece *p)
{
    const struct op_run *r = ctx;
    const struct op_tensor *a = r->in[0], *b = r->in[1];
    const bool exact = a->dtype != CVD_DTYPE_FLOAT32 && b->dtype != CVD_DTYPE_FLOAT32;
    char *y = (char *)r->out[0].data + p->out * cvd_dtype_bytes(a->dtype);
    for (size_t i = 0; i < p->n; i++, y += cvd_dtype_bytes(a->dtype)) {
        const size_t ai = p->in[0] + i * p->step[0], bi = p->in[1] + i * p->step[1];
        if (exact) {
            const int64_t result =
                integer_power(integer_at(a->dtype, a->data, ai), integer_at(b->dtype, b->data, bi));
            convert_elements(CVD_DTYPE_INT64, &result, a->dtype, y, 1);
        } else {
            const double result =
                pow(number_at(a->dtype, a->data, ai), number_at(b->dtype, b->data, bi));
            convert_elements(CVD_DTYPE_FLOAT64, &result, a->dtype, y, 1);
        }
    }
}

static void pow_run(const struct op_run *r)
{
    struct op_run copy = *r;
    struct broadcast walk;
    const struct cvd_shape *a = &r->in[0]->shape;
    const struct cvd_shape b = broadcast_aligned(r->state, a, &r->in[1]->shape);
    broadcast_init(&walk, &r->out[0].shape, (const struct cvd_shape *const[]){a, &b}, 2);
    broadcast_for(&walk, r->pool, pow_piece, &copy);
}

/* clang-format off */
const struct op_def ops_pow[] = {
    {.name = "Pow", .domain = "", .since = 1, .until = 6, .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 2, .max_inputs = 2, .min_outputs = 1, .max_outputs = 1,
     .infer = pow_infer, .prepare = pow_prepare, .run = pow_run},
    {.name = "Pow", .domain = "", .since = 7, .until = 11, .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 2, .max_inputs = 2, .min_outputs = 1, .max_outputs = 1,
     .infer = pow_infer, .prepare = pow_prepare, .run = pow_run},
    {.name = "Pow", .domain = "", .since = 12, .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 2, .max_inputs = 2, .min_outputs = 1, .max_outputs = 1,
     .infer = pow_infer, .prepare = pow_prepare, .run = pow_run},
    {.name = NULL},
};
/* clang-format on */
