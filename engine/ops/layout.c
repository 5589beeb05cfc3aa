/* Operators that move elements without looking at them: Transpose and Concat, of any type. */
#include "engine/ops/move.h"
#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <string.h>

/* ---- Transpose ---- */

struct transpose_state {
    unsigned rank;
    unsigned perm[CVD_MAX_RANK]; /* output dimension i is input dimension perm[i] */
};

static enum cvd_status read_transpose(const struct op_node *node, struct transpose_state *s)
{
    const int64_t *perm;
    size_t count;
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status == CVD_STATUS_OK)
        status = op_attr_ints(node, "perm", &perm, &count);
    if (status != CVD_STATUS_OK)
        return status;
    s->rank = node->in[0]->shape.rank;
    if (perm && count != s->rank)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "perm has %zu numbers; the input has %u dimensions", count, s->rank);
    bool used[CVD_MAX_RANK] = {false};
    for (unsigned i = 0; i < s->rank; i++) {
        const int64_t from = perm ? perm[i] : (int64_t)(s->rank - 1 - i);
        if (from < 0 || from >= (int64_t)s->rank || used[from])
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "perm[%u] is %" PRId64 "; perm must hold each of 0 ... %u once", i, from,
                           s->rank - 1);
        used[from] = true;
        s->perm[i] = (unsigned)from;
    }
    return CVD_STATUS_OK;
}

static enum cvd_status transpose_infer(const struct op_node *node, struct op_value *out)
{
    struct transpose_state s;
    enum cvd_status status = read_transpose(node, &s);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_shape shape = {.rank = s.rank};
    for (unsigned i = 0; i < s.rank; i++)
        shape.dims[i] = node->in[0]->shape.dims[s.perm[i]];
    return op_set_output(node, &out[0], node->in[0]->dtype, &shape);
}

static enum cvd_status transpose_prepare(const struct op_node *node, const struct op_value *out,
                                         const struct kernels *kernels,
                                         struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct transpose_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = read_transpose(node, s);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "move_ref";
    prepared->mixes_images = s->rank > 0 && s->perm[0] != 0;
    return CVD_STATUS_OK;
}

static void transpose_run(const struct op_run *r)
{
    const struct transpose_state *s = r->state;
    const struct cvd_shape *in = &r->in[0]->shape;
    struct move m = {
        .bytes = cvd_dtype_bytes(r->in[0]->dtype), .in = r->in[0]->data, .out = r->out[0].data};
    for (unsigned i = 0; i < s->rank; i++)
        move_add(&m, (size_t)in->dims[s->perm[i]],
                 (ptrdiff_t)op_extent(in, s->perm[i] + 1, in->rank));
    move_run(&m, r->pool);
}

/* ---- Concat ---- */

struct concat_state {
    unsigned axis;
};

static enum cvd_status read_concat(const struct op_node *node, struct concat_state *s,
                                   struct cvd_shape *shape)
{
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    int64_t axis = 1;
    if (status == CVD_STATUS_OK && node->def->since >= 4 && !op_attr_find(node, "axis"))
        status = op_fail(node, CVD_STATUS_INVALID_MODEL, "attribute axis is missing");
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "axis", 1, &axis);
    if (status != CVD_STATUS_OK)
        return status;
    *shape = node->in[0]->shape;
    if (!op_axis(axis, shape->rank, &s->axis))
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "axis %" PRId64 " is outside inputs of %u dimensions", axis, shape->rank);
    for (size_t i = 1; i < node->in_count; i++) {
        status = op_check_same_type(node, i);
        if (status != CVD_STATUS_OK)
            return status;
        const struct cvd_shape *x = &node->in[i]->shape;
        bool fits = x->rank == shape->rank;
        for (unsigned d = 0; fits && d < x->rank; d++)
            fits = d == s->axis || x->dims[d] == shape->dims[d];
        if (!fits) {
            char text_a[CVD_SHAPE_TEXT_BYTES], text_b[CVD_SHAPE_TEXT_BYTES];
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "input %zu, %s, does not continue %s along dimension %u", i,
                           cvd_shape_text(x, text_b), cvd_shape_text(shape, text_a), s->axis);
        }
        if (__builtin_add_overflow(shape->dims[s->axis], x->dims[s->axis], &shape->dims[s->axis]))
            return op_fail(node, CVD_STATUS_UNSUPPORTED, "output does not fit in memory");
    }
    return CVD_STATUS_OK;
}

static enum cvd_status concat_infer(const struct op_node *node, struct op_value *out)
{
    struct concat_state s;
    struct cvd_shape shape;
    enum cvd_status status = read_concat(node, &s, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], node->in[0]->dtype, &shape)
                                   : status;
}

static enum cvd_status concat_prepare(const struct op_node *node, const struct op_value *out,
                                      const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct concat_state *s;
    struct cvd_shape shape;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = read_concat(node, s, &shape);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "concat_ref";
    prepared->mixes_images = s->axis == 0;
    return CVD_STATUS_OK;
}

static void concat_run(const struct op_run *r)
{
    const struct concat_state *s = r->state;
    const struct cvd_shape *out = &r->out[0].shape;
    const size_t bytes = cvd_dtype_bytes(r->out[0].dtype);
    const size_t outer = op_extent(out, 0, s->axis);
    const size_t row = op_extent(out, s->axis, out->rank) * bytes;
    char *y = r->out[0].data;
    for (size_t i = 0; i < r->in_count; i++) {
        const struct cvd_shape *in = &r->in[i]->shape;
        const size_t part = op_extent(in, s->axis, in->rank) * bytes;
        const char *x = r->in[i]->data;
        for (size_t j = 0; part > 0 && j < outer; j++)
            memcpy(y + j * row, x + j * part, part);
        y += part;
    }
}

/* clang-format off */
const struct op_def ops_layout[] = {
    {.name = "Transpose", .domain = "", .since = 1, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = transpose_infer, .prepare = transpose_prepare, .run = transpose_run},
    {.name = "Concat", .domain = "", .since = 1, .until = 3, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = OP_MAX_INPUTS, .min_outputs = 1, .max_outputs = 1,
     .infer = concat_infer, .prepare = concat_prepare, .run = concat_run},
    {.name = "Concat", .domain = "", .since = 4, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = OP_MAX_INPUTS, .min_outputs = 1, .max_outputs = 1,
     .infer = concat_infer, .prepare = concat_prepare, .run = concat_run},
    {.name = NULL},
};
/* clang-format on */
