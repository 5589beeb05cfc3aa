/*
 * Operators that answer yes or no, element by element with broadcasting: Equal Less Greater
 * LessOrEqual GreaterOrEqual, And Or Xor, and Not.
 *
 * Each is a small table: what it says when a is less than, equal to and greater than b. And, Or and
 * Xor are tables of the two truth values. Nothing is equal to, less or greater than NaN.
 */
#include "engine/ops/broadcast.h"
#include "engine/ops/op_util.h"

#include <string.h>

struct compare_info {
    const char *name;
    bool logical;
    /* Comparison: less, equal, greater. Logic: none, one, both are true. */
    bool says[3];
    unsigned types; /* that the first version takes */
};

#define COMPARE_TYPES (OP_TYPE(CVD_DTYPE_FLOAT32) | OP_INTS)
#define BOOL          OP_TYPE(CVD_DTYPE_BOOL)
#define EQUAL_TYPES   (BOOL | OP_TYPE(CVD_DTYPE_INT32) | OP_TYPE(CVD_DTYPE_INT64))

static const struct compare_info infos[] = {
    {"Equal", false, {0, 1, 0}, EQUAL_TYPES},
    {"Less", false, {1, 0, 0}, OP_TYPE(CVD_DTYPE_FLOAT32)},
    {"LessOrEqual", false, {1, 1, 0}, COMPARE_TYPES},
    {"Greater", false, {0, 0, 1}, OP_TYPE(CVD_DTYPE_FLOAT32)},
    {"GreaterOrEqual", false, {0, 1, 1}, COMPARE_TYPES},
    {"And", true, {0, 0, 1}, BOOL},
    {"Or", true, {0, 1, 1}, BOOL},
    {"Xor", true, {0, 1, 0}, BOOL},
};

struct compare_state {
    const struct compare_info *info;
    struct broadcast_align align;
};

static unsigned types_of(const struct op_node *node, const struct compare_info *info)
{
    if (info->logical)
        return BOOL;
    if (strcmp(info->name, "Equal") == 0)
        return node->def->since >= 11 ? COMPARE_TYPES | BOOL : info->types;
    return node->def->since >= 9 ? COMPARE_TYPES : info->types;
}

static enum cvd_status read_node(const struct op_node *node, struct compare_state *s,
                                 struct cvd_shape *shape)
{
    const struct compare_info *info = infos;
    while (strcmp(info->name, node->def->name) != 0)
        info++;
    *s = (struct compare_state){.info = info};
    const unsigned types = types_of(node, info);
    const bool floats = types & OP_TYPE(CVD_DTYPE_FLOAT32);
    enum cvd_status status = op_check_type(node, 0, types, floats ? types | OP_FLOATS : types);
    if (status == CVD_STATUS_OK)
        status = op_check_same_type(node, 1);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *a = &node->in[0]->shape, *b = &node->in[1]->shape;
    *shape = *a;
    if (node->def->until == 6)
        return broadcast_read_legacy(node, &s->align);
    char text_a[CVD_SHAPE_TEXT_BYTES], text_b[CVD_SHAPE_TEXT_BYTES];
    if (!op_broadcast(a, b, shape))
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "input 1, %s, does not broadcast with %s",
                       cvd_shape_text(b, text_b), cvd_shape_text(a, text_a));
    return CVD_STATUS_OK;
}

static enum cvd_status compare_infer(const struct op_node *node, struct op_value *out)
{
    struct compare_state s;
    struct cvd_shape shape;
    enum cvd_status status = read_node(node, &s, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], CVD_DTYPE_BOOL, &shape) : status;
}

static enum cvd_status compare_prepare(const struct op_node *node, const struct op_value *out,
                                       const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct compare_state *s;
    struct cvd_shape shape;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    prepared->kernel = "compare_ref";
    return status == CVD_STATUS_OK ? read_node(node, s, &shape) : status;
}

struct compare_run {
    const struct compare_info *info;
    enum cvd_dtype dtype;
    const void *a, *b;
    uint8_t *y;
};

#define COMPARE(type)                                                                      \
    do {                                                                                   \
        const type *a = (const type *)c->a + p->in[0], *b = (const type *)c->b + p->in[1]; \
        for (size_t i = 0; i < p->n; i++) {                                                \
            const type u = a[i * p->step[0]], v = b[i * p->step[1]];                       \
            y[i] = (uint8_t)((less & (u < v)) | (equal & (u == v)) | (greater & (u > v))); \
        }                                                                                  \
    } while (0)

static void logic_piece(const struct compare_run *c, const struct broadcast_piece *p)
{
    const uint8_t *a = (const uint8_t *)c->a + p->in[0], *b = (const uint8_t *)c->b + p->in[1];
    for (size_t i = 0; i < p->n; i++)
        c->y[p->out + i] = c->info->says[(a[i * p->step[0]] != 0) + (b[i * p->step[1]] != 0)];
}

static void compare_piece(void *ctx, const struct broadcast_piece *p)
{
    const struct compare_run *c = ctx;
    const int less = c->info->says[0], equal = c->info->says[1], greater = c->info->says[2];
    uint8_t *y = c->y + p->out;
    if (c->info->logical) {
        logic_piece(c, p);
        return;
    }
    switch (c->dtype) {
    case CVD_DTYPE_INT64:
        COMPARE(int64_t);
        break;
    case CVD_DTYPE_INT32:
        COMPARE(int32_t);
        break;
    case CVD_DTYPE_INT8:
        COMPARE(int8_t);
        break;
    case CVD_DTYPE_UINT8:
    case CVD_DTYPE_BOOL:
        COMPARE(uint8_t);
        break;
    default:
        COMPARE(float);
        break;
    }
}

static void compare_run(const struct op_run *r)
{
    const struct compare_state *s = r->state;
    const struct op_tensor *a = r->in[0], *b = r->in[1];
    const struct cvd_shape b_shape = broadcast_aligned(&s->align, &a->shape, &b->shape);
    struct compare_run c = {s->info, a->dtype, a->data, b->data, r->out[0].data};
    struct broadcast walk;
    broadcast_init(&walk, &r->out[0].shape, (const struct cvd_shape *const[]){&a->shape, &b_shape},
                   2);
    broadcast_for(&walk, r->pool, compare_piece, &c);
}

/* ---- Not ---- */

static enum cvd_status not_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status = op_check_type(node, 0, BOOL, BOOL);
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

static enum cvd_status not_prepare(const struct op_node *node, const struct op_value *out,
                                   const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)node;
    (void)out;
    (void)kernels;
    prepared->kernel = "compare_ref";
    return CVD_STATUS_OK;
}

static void not_run(const struct op_run *r)
{
    const uint8_t *x = r->in[0]->data;
    uint8_t *y = r->out[0].data;
    const size_t n = op_elements(&r->in[0]->shape);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] == 0;
}

/* clang-format off */
#define COMPARISON(op, first_opset, last_opset)                                                    \
    {.name = op, .domain = "", .since = first_opset, .until = last_opset, .flags = OP_BATCHWISE,   \
     .min_inputs = 2, .max_inputs = 2, .min_outputs = 1, .max_outputs = 1,                         \
     .infer = compare_infer, .prepare = compare_prepare, .run = compare_run}

const struct op_def ops_compare[] = {
    COMPARISON("Equal", 1, 6),
    COMPARISON("Equal", 7, 10),
    COMPARISON("Equal", 11, 0), /* all numbers */
    COMPARISON("Less", 1, 6),
    COMPARISON("Less", 7, 8),
    COMPARISON("Less", 9, 0), /* all numbers */
    COMPARISON("Greater", 1, 6),
    COMPARISON("Greater", 7, 8),
    COMPARISON("Greater", 9, 0), /* all numbers */
    COMPARISON("LessOrEqual", 12, 0),
    COMPARISON("GreaterOrEqual", 12, 0),
    COMPARISON("And", 1, 6),
    COMPARISON("And", 7, 0),
    COMPARISON("Or", 1, 6),
    COMPARISON("Or", 7, 0),
    COMPARISON("Xor", 1, 6),
    COMPARISON("Xor", 7, 0),
    {.name = "Not", .domain = "", .since = 1, .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = not_infer, .prepare = not_prepare, .run = not_run},
    {.name = NULL},
};
/* clang-format on */
