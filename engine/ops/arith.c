/*
 * Arithmetic on two or more arrays with broadcasting: Add Sub Mul Div PRelu, and the variadic Sum
 * Mean Max Min, which fold their inputs from left to right.
 *
 * Integers wrap around like two's complement; a division by zero gives 0 instead of a trap.
 */
#include "engine/ops/broadcast.h"
#include "engine/ops/op_util.h"

#include <string.h>

enum arith { ARITH_ADD, ARITH_SUB, ARITH_MUL, ARITH_DIV, ARITH_MAX, ARITH_MIN, ARITH_PRELU };

struct arith_state {
    enum arith op;
    bool mean;
    struct broadcast_align align;
};

#define ARITH_TYPES (OP_TYPE(CVD_DTYPE_FLOAT32) | OP_INTS)

/* y = a op b over a piece. The two common steps get loops of their own, which vectorise. */
#define EACH(formula)                                     \
    do {                                                  \
        if (as == 1 && bs == 1) {                         \
            for (size_t i = 0; i < n; i++) {              \
                const float u = a[i], v = b[i];           \
                y[i] = (formula);                         \
            }                                             \
        } else if (as == 1 && bs == 0) {                  \
            const float v = b[0];                         \
            for (size_t i = 0; i < n; i++) {              \
                const float u = a[i];                     \
                y[i] = (formula);                         \
            }                                             \
        } else {                                          \
            for (size_t i = 0; i < n; i++) {              \
                const float u = a[i * as], v = b[i * bs]; \
                y[i] = (formula);                         \
            }                                             \
        }                                                 \
    } while (0)

static void arith_float(enum arith op, size_t n, const float *a, size_t as, const float *b,
                        size_t bs, float *y)
{
    switch (op) {
    case ARITH_ADD:
        EACH(u + v);
        break;
    case ARITH_SUB:
        EACH(u - v);
        break;
    case ARITH_MUL:
        EACH((u * v));
        break;
    case ARITH_DIV:
        EACH(u / v);
        break;
    case ARITH_MAX: /* a NaN on either side wins */
        EACH(u >= v || u != u ? u : v);
        break;
    case ARITH_MIN:
        EACH(u <= v || u != u ? u : v);
        break;
    case ARITH_PRELU:
        EACH(u < 0 ? u * v : u);
        break;
    }
}

static int64_t integer_result(enum arith op, int64_t u, int64_t v)
{
    const uint64_t x = (uint64_t)u, y = (uint64_t)v;
    switch (op) {
    case ARITH_ADD:
        return (int64_t)(x + y);
    case ARITH_SUB:
        return (int64_t)(x - y);
    case ARITH_MUL:
        return (int64_t)(x * y);
    case ARITH_DIV:
        return v == 0 ? 0 : v == -1 ? (int64_t)(0 - x) : u / v;
    case ARITH_MAX:
        return u > v ? u : v;
    case ARITH_MIN:
        return u < v ? u : v;
    case ARITH_PRELU:
        break;
    }
    return u < 0 ? (int64_t)(x * y) : u;
}

struct arith_run {
    enum arith op;
    enum cvd_dtype dtype;
    const void *a, *b;
    void *y;
};

/* Integers are the small change of a graph (shapes, indices): one plain loop does for them all. */
#define EACH_INTEGER(type)                                                                 \
    do {                                                                                   \
        const type *a = (const type *)r->a + p->in[0], *b = (const type *)r->b + p->in[1]; \
        type *y = (type *)r->y + p->out;                                                   \
        for (size_t i = 0; i < p->n; i++)                                                  \
            y[i] = (type)integer_result(r->op, a[i * p->step[0]], b[i * p->step[1]]);      \
    } while (0)

static void arith_piece(void *ctx, const struct broadcast_piece *p)
{
    const struct arith_run *r = ctx;
    switch (r->dtype) {
    case CVD_DTYPE_INT32:
        EACH_INTEGER(int32_t);
        break;
    case CVD_DTYPE_INT64:
        EACH_INTEGER(int64_t);
        break;
    case CVD_DTYPE_INT8:
        EACH_INTEGER(int8_t);
        break;
    case CVD_DTYPE_UINT8:
        EACH_INTEGER(uint8_t);
        break;
    default:
        arith_float(r->op, p->n, (const float *)r->a + p->in[0], p->step[0],
                    (const float *)r->b + p->in[1], p->step[1], (float *)r->y + p->out);
        break;
    }
}

static enum cvd_status fail_shapes(const struct op_node *node, const struct cvd_shape *a,
                                   size_t input)
{
    char text_a[CVD_SHAPE_TEXT_BYTES], text_b[CVD_SHAPE_TEXT_BYTES];
    return op_fail(node, CVD_STATUS_INVALID_MODEL, "input %zu, %s, does not broadcast with %s",
                   input, cvd_shape_text(&node->in[input]->shape, text_b),
                   cvd_shape_text(a, text_a));
}

static enum cvd_status read_binary(const struct op_node *node, struct arith_state *s,
                                   struct cvd_shape *shape)
{
    static const struct {
        const char *name;
        enum arith op;
    } ops[] = {{"Add", ARITH_ADD},
               {"Sub", ARITH_SUB},
               {"Mul", ARITH_MUL},
               {"Div", ARITH_DIV},
               {"PRelu", ARITH_PRELU}};
    size_t i = 0;
    while (strcmp(ops[i].name, node->def->name) != 0)
        i++;
    *s = (struct arith_state){.op = ops[i].op};
    unsigned types = ARITH_TYPES;
    if (s->op == ARITH_PRELU) {
        types = OP_TYPE(CVD_DTYPE_FLOAT32);
        if (node->opset >= 9)
            types |= OP_TYPE(CVD_DTYPE_INT32) | OP_TYPE(CVD_DTYPE_INT64);
    }
    enum cvd_status status = op_check_type(node, 0, types, types | OP_FLOATS);
    if (status == CVD_STATUS_OK)
        status = op_check_same_type(node, 1);
    if (status != CVD_STATUS_OK)
        return status;

    const struct cvd_shape *a = &node->in[0]->shape, *b = &node->in[1]->shape;
    *shape = *a;
    if (s->op == ARITH_PRELU) {
        /* Before operator set 7 a slope of C numbers stands at the channels; later ones broadcast,
         * but only towards the input. */
        if (node->def->until == 6 && b->rank == 1 && a->rank > 1 && b->dims[0] == a->dims[1]) {
            s->align = (struct broadcast_align){true, 1};
            return CVD_STATUS_OK;
        }
        return op_broadcast(a, b, shape) && cvd_shape_equal(a, shape) ? CVD_STATUS_OK
                                                                      : fail_shapes(node, a, 1);
    }
    if (node->def->until == 6)
        return broadcast_read_legacy(node, &s->align);
    return op_broadcast(a, b, shape) ? CVD_STATUS_OK : fail_shapes(node, a, 1);
}

static enum cvd_status read_variadic(const struct op_node *node, struct arith_state *s,
                                     struct cvd_shape *shape)
{
    const char *name = node->def->name;
    *s = (struct arith_state){.mean = strcmp(name, "Mean") == 0};
    s->op = strcmp(name, "Max") == 0 ? ARITH_MAX : strcmp(name, "Min") == 0 ? ARITH_MIN : ARITH_ADD;
    const unsigned supported =
        s->op == ARITH_ADD ? OP_TYPE(CVD_DTYPE_FLOAT32) : (unsigned)ARITH_TYPES;
    enum cvd_status status = op_check_type(node, 0, supported, supported | OP_FLOATS);
    if (status != CVD_STATUS_OK)
        return status;
    *shape = node->in[0]->shape;
    for (size_t i = 1; i < node->in_count; i++) {
        status = op_check_same_type(node, i);
        if (status != CVD_STATUS_OK)
            return status;
        const struct cvd_shape before = *shape;
        const bool fits = node->def->until == 7 ? cvd_shape_equal(shape, &node->in[i]->shape)
                                                : op_broadcast(shape, &node->in[i]->shape, shape);
        if (!fits)
            return fail_shapes(node, &before, i);
    }
    return CVD_STATUS_OK;
}

static enum cvd_status read_node(const struct op_node *node, struct arith_state *s,
                                 struct cvd_shape *shape)
{
    return node->def->max_inputs == 2 ? read_binary(node, s, shape) : read_variadic(node, s, shape);
}

static enum cvd_status arith_infer(const struct op_node *node, struct op_value *out)
{
    struct arith_state s;
    struct cvd_shape shape;
    enum cvd_status status = read_node(node, &s, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], node->in[0]->dtype, &shape)
                                   : status;
}

static enum cvd_status arith_prepare(const struct op_node *node, const struct op_value *out,
                                     const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct arith_state *s;
    struct cvd_shape shape;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = "arith_ref";
    for (size_t i = 0; i < node->in_count; i++)
        prepared->parameters += op_parameters(node, i);
    return status == CVD_STATUS_OK ? read_node(node, s, &shape) : status;
}

static void binary_run(const struct op_run *r)
{
    const struct arith_state *s = r->state;
    const struct op_tensor *a = r->in[0], *b = r->in[1];
    const struct cvd_shape b_shape = broadcast_aligned(&s->align, &a->shape, &b->shape);
    struct arith_run run = {s->op, a->dtype, a->data, b->data, r->out[0].data};
    struct broadcast walk;
    broadcast_init(&walk, &r->out[0].shape, (const struct cvd_shape *const[]){&a->shape, &b_shape},
                   2);
    broadcast_for(&walk, r->pool, arith_piece, &run);
}

static void copy_piece(void *ctx, const struct broadcast_piece *p)
{
    const struct arith_run *r = ctx;
    const size_t bytes = cvd_dtype_bytes(r->dtype);
    memcpy((char *)r->y + p->out * bytes, (const char *)r->a + p->in[0] * bytes, p->n * bytes);
}

static void mean_piece(void *ctx, const struct broadcast_piece *p)
{
    const struct arith_run *r = ctx;
    const float count = *(const float *)r->b;
    float *y = (float *)r->y + p->out;
    for (size_t i = 0; i < p->n; i++)
        y[i] /= count;
}

static void variadic_run(const struct op_run *r)
{
    const struct arith_state *s = r->state;
    const struct cvd_shape *shape = &r->out[0].shape;
    struct arith_run run = {.op = s->op, .dtype = r->in[0]->dtype, .y = r->out[0].data};
    struct broadcast walk;
    run.a = r->in[0]->data;
    if (r->in_count == 1) {
        if (run.a == run.y)
            return;
        broadcast_init(&walk, shape, (const struct cvd_shape *const[]){shape}, 1);
        broadcast_for(&walk, r->pool, copy_piece, &run);
        return;
    }
    const struct cvd_shape *so_far = &r->in[0]->shape;
    for (size_t i = 1; i < r->in_count; i++) {
        run.b = r->in[i]->data;
        broadcast_init(&walk, shape, (const struct cvd_shape *const[]){so_far, &r->in[i]->shape},
                       2);
        broadcast_for(&walk, r->pool, arith_piece, &run);
        run.a = run.y;
        so_far = shape;
    }
    if (s->mean) {
        const float count = (float)r->in_count;
        run.b = &count;
        broadcast_init(&walk, shape, (const struct cvd_shape *const[]){shape}, 1);
        broadcast_for(&walk, r->pool, mean_piece, &run);
    }
}

/* clang-format off */
#define BINARY(op, first_opset, last_opset)                                                        \
    {.name = op, .domain = "", .since = first_opset, .until = last_opset,                          \
     .flags = OP_BATCHWISE | OP_INPLACE,                                                           \
     .min_inputs = 2, .max_inputs = 2, .min_outputs = 1, .max_outputs = 1,                         \
     .infer = arith_infer, .prepare = arith_prepare, .run = binary_run}
#define VARIADIC(op, first_opset, last_opset)                                                      \
    {.name = op, .domain = "", .since = first_opset, .until = last_opset,                          \
     .flags = OP_BATCHWISE | OP_INPLACE,                                                           \
     .min_inputs = 1, .max_inputs = OP_MAX_INPUTS, .min_outputs = 1, .max_outputs = 1,             \
     .infer = arith_infer, .prepare = arith_prepare, .run = variadic_run}

const struct op_def ops_arith[] = {
    BINARY("Add", 1, 6),
    BINARY("Add", 7, 0),
    BINARY("Sub", 1, 6),
    BINARY("Sub", 7, 0),
    BINARY("Mul", 1, 6),
    BINARY("Mul", 7, 0),
    BINARY("Div", 1, 6),
    BINARY("Div", 7, 0),
    BINARY("PRelu", 1, 6),
    BINARY("PRelu", 7, 0),
    VARIADIC("Sum", 1, 7),
    VARIADIC("Sum", 8, 0),
    VARIADIC("Mean", 1, 7),
    VARIADIC("Mean", 8, 0),
    VARIADIC("Max", 1, 7),
    VARIADIC("Max", 8, 0),
    VARIADIC("Min", 1, 7),
    VARIADIC("Min", 8, 0),
    {.name = NULL},
};
/* clang-format on */
