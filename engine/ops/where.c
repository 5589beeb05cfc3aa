/* Where: elements of one array or of another, of any type, as a condition says. */
#include "engine/ops/broadcast.h"
#include "engine/ops/op_util.h"

#include <string.h>

static enum cvd_status where_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status =
        op_check_type(node, 0, OP_TYPE(CVD_DTYPE_BOOL), OP_TYPE(CVD_DTYPE_BOOL));
    for (size_t i = 1; i < 3 && status == CVD_STATUS_OK; i++)
        status = op_check_type(node, i, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status != CVD_STATUS_OK)
        return status;
    const struct op_value *x = node->in[1], *y = node->in[2];
    if (x->dtype != y->dtype)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "input 2 has type %s; it must be %s like input 1", cvd_dtype_name(y->dtype),
                       cvd_dtype_name(x->dtype));
    struct cvd_shape shape = node->in[0]->shape;
    for (size_t i = 1; i < 3; i++) {
        const struct cvd_shape so_far = shape;
        char text_a[CVD_SHAPE_TEXT_BYTES], text_b[CVD_SHAPE_TEXT_BYTES];
        if (!op_broadcast(&so_far, &node->in[i]->shape, &shape))
            return op_fail(
                node, CVD_STATUS_INVALID_MODEL, "input %zu, %s, does not broadcast with %s", i,
                cvd_shape_text(&node->in[i]->shape, text_b), cvd_shape_text(&so_far, text_a));
    }
    return op_set_output(node, &out[0], x->dtype, &shape);
}

static enum cvd_status where_prepare(const struct op_node *node, const struct op_value *out,
                                     const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)node;
    (void)out;
    (void)kernels;
    prepared->kernel = "where_ref";
    return CVD_STATUS_OK;
}

/* A constant size becomes a single move. */
#define CHOOSE(bytes)                                                 \
    for (size_t i = 0; i < p->n; i++)                                 \
        memcpy(out + i * (bytes),                                     \
               choice[i * p->step[0]] ? x + i * p->step[1] * (bytes)  \
                                      : y + i * p->step[2] * (bytes), \
               bytes);                                                \
    break

static void where_piece(void *ctx, const struct broadcast_piece *p)
{
    const struct op_run *r = ctx;
    const size_t bytes = cvd_dtype_bytes(r->in[1]->dtype);
    const uint8_t *choice = (const uint8_t *)r->in[0]->data + p->in[0];
    const char *x = (const char *)r->in[1]->data + p->in[1] * bytes;
    const char *y = (const char *)r->in[2]->data + p->in[2] * bytes;
    char *out = (char *)r->out[0].data + p->out * bytes;
    switch (bytes) {
    case 1:
        CHOOSE(1);
    case 2:
        CHOOSE(2);
    case 4:
        CHOOSE(4);
    default:
        CHOOSE(8);
    }
}

static void where_run(const struct op_run *r)
{
    struct op_run copy = *r;
    struct broadcast walk;
    broadcast_init(
        &walk, &r->out[0].shape,
        (const struct cvd_shape *const[]){&r->in[0]->shape, &r->in[1]->shape, &r->in[2]->shape}, 3);
    broadcast_for(&walk, r->pool, where_piece, &copy);
}

/* clang-format off */
const struct op_def ops_where[] = {
    {.name = "Where", .domain = "", .since = 9, .flags = OP_BATCHWISE,
     .min_inputs = 3, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = where_infer, .prepare = where_prepare, .run = where_run},
    {.name = NULL},
};
/* clang-format on */
