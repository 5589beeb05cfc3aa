/* Pooling over whole planes: GlobalAveragePool, GlobalMaxPool and GlobalLpPool. */
#include "engine/ops/op_util.h"
#include "engine/ops/pool.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

struct global_state {
    enum { GLOBAL_AVERAGE, GLOBAL_MAX, GLOBAL_LP } kind;
    int64_t p;
};

enum cvd_status global_pool_infer(const struct op_node *node, struct op_value *out)
{
    enum cvd_status status = op_check_type(node, 0, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS);
    int64_t p = 2;
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "p", 2, &p);
    if (status != CVD_STATUS_OK)
        return status;
    if (p < 1)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "p is %" PRId64 "; it must be at least 1",
                       p);
    struct cvd_shape shape = node->in[0]->shape;
    if (shape.rank < 2)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "input has %u dimensions; it must be [N, C, D1, ...]", shape.rank);
    for (unsigned i = 2; i < shape.rank; i++) {
        if (shape.dims[i] < 1)
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "input extent %u is %" PRId64, i,
                           shape.dims[i]);
        shape.dims[i] = 1;
    }
    return op_set_output(node, &out[0], CVD_DTYPE_FLOAT32, &shape);
}

static enum cvd_status global_prepare(const struct op_node *node, const struct op_value *out,
                                      const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct global_state *s;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status != CVD_STATUS_OK)
        return status;
    const char *name = node->def->name;
    s->kind = strcmp(name, "GlobalMaxPool") == 0       ? GLOBAL_MAX
              : strcmp(name, "GlobalAveragePool") == 0 ? GLOBAL_AVERAGE
                                                       : GLOBAL_LP;
    prepared->kernel = "global_pool_ref";
    return op_attr_int(node, "p", 2, &s->p);
}

struct global_run {
    const struct global_state *state;
    const float *x;
    float *y;
    size_t plane;
};

static double reduce(const struct global_state *s, const float *x, size_t n)
{
    double value = s->kind == GLOBAL_MAX ? -HUGE_VAL : 0;
    switch (s->kind) {
    case GLOBAL_MAX:
        for (size_t i = 0; i < n; i++)
            if ((double)x[i] > value || x[i] != x[i])
                value = (double)x[i];
        return value;
    case GLOBAL_AVERAGE:
        for (size_t i = 0; i < n; i++)
            value += (double)x[i];
        return value / (double)n;
    case GLOBAL_LP:
        break;
    }
    for (size_t i = 0; i < n; i++)
        value += pow(fabs((double)x[i]), (double)s->p);
    return pow(value, 1.0 / (double)s->p);
}

static void global_range(void *ctx, size_t begin, size_t end)
{
    const struct global_run *g = ctx;
    for (size_t i = begin; i < end; i++)
        g->y[i] = (float)reduce(g->state, g->x + i * g->plane, g->plane);
}

static void global_run(const struct op_run *r)
{
    const struct op_tensor *x = r->in[0];
    struct global_run g = {
        .state = r->state,
        .x = x->data,
        .y = r->out[0].data,
        .plane = op_extent(&x->shape, 2, x->shape.rank),
    };
    const size_t piece = OP_RANGE_CHEAP / g.plane;
    op_for_range(r->pool, op_extent(&x->shape, 0, 2), piece ? piece : 1, global_range, &g);
}

/* clang-format off */
const struct op_def ops_global_pool[] = {
    {.name = "GlobalAveragePool", .domain = "", .since = 1, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = global_pool_infer, .prepare = global_prepare, .run = global_run},
    {.name = "GlobalMaxPool", .domain = "", .since = 1, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = global_pool_infer, .prepare = global_prepare, .run = global_run},
    {.name = "GlobalLpPool", .domain = "", .since = 2, .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = global_pool_infer, .prepare = global_prepare, .run = global_run},
    {.name = NULL},
};
/* clang-format on */
