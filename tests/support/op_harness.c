/* One operator at a time, between guard bytes. */
#include "tests/support/op_harness.h"

#include "engine/runtime/mem.h"
#include "tests/support/data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#define GUARD_BYTES 64
#define GUARD       0xA5
#define MAX_INPUTS  16

/* A node set up for the operator, and what it points to. */
struct bench {
    struct op_node node;
    struct op_value values[MAX_INPUTS];
    const struct op_value *in[MAX_INPUTS];
    struct op_tensor tensors[MAX_INPUTS];
    const struct op_tensor *run_in[MAX_INPUTS];
    struct op_value out[OP_HARNESS_OUTPUTS];
};

static size_t bytes_of(const struct cvd_shape *shape, enum cvd_dtype dtype)
{
    size_t elements;
    cr_assert(cvd_shape_elements(shape, &elements));
    return elements * cvd_dtype_bytes(dtype);
}

static unsigned char *guarded(size_t bytes)
{
    unsigned char *block = data_alloc(bytes + 2 * GUARD_BYTES);
    memset(block, GUARD, bytes + 2 * GUARD_BYTES);
    return block + GUARD_BYTES;
}

static void check_guards(const struct op_case *c, const unsigned char *data, size_t bytes)
{
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        cr_assert(data[-1 - (ptrdiff_t)i] == GUARD, "%s writes before its output", c->op);
        cr_assert(data[bytes + i] == GUARD, "%s writes beyond its output", c->op);
    }
}

static void set_up(const struct op_case *c, struct bench *b, struct op_result *result)
{
    *b = (struct bench){0};
    *result = (struct op_result){0};
    bool known;
    const struct op_def *def = op_find("", c->op, c->opset, &known);
    cr_assert(def, "no operator %s for opset %d", c->op, c->opset);
    cr_assert(c->in_count <= MAX_INPUTS);
    for (size_t i = 0; i < c->in_count; i++) {
        const struct op_arg *arg = &c->in[i];
        if (arg->dtype == CVD_DTYPE_NONE)
            continue;
        b->values[i] = (struct op_value){
            .dtype = arg->dtype, .shape = arg->shape, .data = arg->constant ? arg->data : NULL};
        b->in[i] = &b->values[i];
        b->tensors[i] =
            (struct op_tensor){.dtype = arg->dtype, .shape = arg->shape, .data = arg->data};
        b->run_in[i] = &b->tensors[i];
    }
    b->node = (struct op_node){
        .def = def,
        .name = "n1",
        .opset = c->opset,
        .attrs = c->attrs,
        .attr_count = c->attr_count,
        .in = b->in,
        .in_count = c->in_count,
        .out_count = c->out_count ? c->out_count : 1,
        .err = &result->error,
    };
}

struct op_result op_case_infer(const struct op_case *c)
{
    struct bench b;
    struct op_result result;
    set_up(c, &b, &result);
    result.status = b.node.def->infer(&b.node, b.out);
    for (size_t i = 0; result.status == CVD_STATUS_OK && i < b.node.out_count; i++)
        result.out[i] = (struct op_tensor){.dtype = b.out[i].dtype, .shape = b.out[i].shape};
    return result;
}

static void run_prepared(const struct op_case *c, struct bench *b, const struct kernels *kernels,
                         struct op_result *result)
{
    const struct op_prepared *prepared = &result->prepared;
    struct op_output out[OP_HARNESS_OUTPUTS] = {0};
    for (size_t i = 0; i < b->node.out_count; i++)
        out[i] = (struct op_output){.dtype = b->out[i].dtype,
                                    .shape = b->out[i].shape,
                                    .data = guarded(bytes_of(&b->out[i].shape, b->out[i].dtype))};
    void *const first = out[0].data;
    if (b->node.def->flags & OP_VIEW) {
        memcpy(first, b->tensors[0].data, bytes_of(&out[0].shape, out[0].dtype));
        out[0].data = NULL;
    }
    if (b->node.def->run) {
        const unsigned slots = c->pool ? tpool_threads(c->pool) : 1;
        size_t stride;
        cr_assert(mem_round_up(prepared->scratch_bytes, &stride));
        unsigned char *scratch = mem_alloc(slots * stride + MEM_ALIGN);
        cr_assert_not_null(scratch);
        memset(scratch, GUARD, slots * stride + MEM_ALIGN);
        for (size_t i = 0; i < c->in_count; i++)
            if (prepared->inputs_consumed >> i & 1)
                b->tensors[i].data = NULL;
        const struct op_run run = {
            .state = prepared->state,
            .kernels = kernels,
            .pool = c->pool,
            .in = b->run_in,
            .in_count = c->in_count,
            .out = out,
            .out_count = b->node.out_count,
            .scratch = scratch,
            .scratch_stride = stride,
        };
        b->node.def->run(&run);
        for (size_t i = 0; i < MEM_ALIGN; i++)
            cr_assert(scratch[slots * stride + i] == GUARD, "%s writes beyond its scratch", c->op);
        mem_free(scratch);
    }
    out[0].data = first;
    for (size_t i = 0; i < b->node.out_count; i++) {
        check_guards(c, out[i].data, bytes_of(&out[i].shape, out[i].dtype));
        result->out[i] =
            (struct op_tensor){.dtype = out[i].dtype, .shape = out[i].shape, .data = out[i].data};
    }
}

struct op_result op_case_run(const struct op_case *c)
{
    struct bench b;
    struct op_result result;
    set_up(c, &b, &result);
    result.status = b.node.def->infer(&b.node, b.out);
    if (result.status != CVD_STATUS_OK)
        return result;
    struct kernels kernels;
    kernels_init(&kernels, c->level == CVD_CPU_AUTO ? CVD_CPU_C : c->level);
    result.status = b.node.def->prepare(&b.node, b.out, &kernels, &result.prepared);
    if (result.status == CVD_STATUS_OK)
        run_prepared(c, &b, &kernels, &result);
    mem_free(result.prepared.state);
    result.prepared.state = NULL;
    return result;
}

static struct op_result run_well(const struct op_case *c)
{
    const struct op_result r = op_case_run(c);
    cr_assert_eq(r.status, CVD_STATUS_OK, "%s fails: %s", c->op, r.error.message);
    return r;
}

static void expect_shape(const struct op_case *c, const struct cvd_shape *have,
                         const struct cvd_shape *want)
{
    char a[CVD_SHAPE_TEXT_BYTES], b[CVD_SHAPE_TEXT_BYTES];
    cr_assert(cvd_shape_equal(have, want), "%s gives %s, not %s", c->op, cvd_shape_text(have, a),
              cvd_shape_text(want, b));
}

void op_expect_floats(const struct op_case *c, struct cvd_shape shape, const float *want,
                      double tolerance)
{
    const struct op_result r = run_well(c);
    cr_assert_eq(r.out[0].dtype, CVD_DTYPE_FLOAT32);
    expect_shape(c, &r.out[0].shape, &shape);
    const float *have = r.out[0].data;
    const size_t count = bytes_of(&shape, CVD_DTYPE_FLOAT32) / sizeof(float);
    for (size_t i = 0; i < count; i++) {
        const double a = (double)have[i], b = (double)want[i];
        const bool same = (isnan(a) && isnan(b)) || a == b || fabs(a - b) <= tolerance;
        cr_assert(same, "%s: element %zu is %.9g, not %.9g (tolerance %g)", c->op, i, a, b,
                  tolerance);
    }
}

void op_expect_exact(const struct op_case *c, size_t index, enum cvd_dtype dtype,
                     struct cvd_shape shape, const void *want)
{
    const struct op_result r = run_well(c);
    cr_assert_eq(r.out[index].dtype, dtype, "%s: output %zu has type %s", c->op, index,
                 cvd_dtype_name(r.out[index].dtype));
    expect_shape(c, &r.out[index].shape, &shape);
    const unsigned char *have = r.out[index].data, *expected = want;
    const size_t bytes = bytes_of(&shape, dtype);
    for (size_t i = 0; i < bytes; i++)
        cr_assert_eq(have[i], expected[i], "%s: element %zu of output %zu differs", c->op,
                     i / cvd_dtype_bytes(dtype), index);
}

void op_expect_failure(const struct op_case *c, enum cvd_status status, const char *fragment)
{
    const struct op_result r = op_case_infer(c);
    cr_assert_eq(r.status, status, "%s gives %s (%s) where %s with '%s' is due", c->op,
                 cvd_status_name(r.status), r.error.message, cvd_status_name(status), fragment);
    cr_assert_not_null(strstr(r.error.message, fragment), "'%s' is not in \"%s\"", fragment,
                       r.error.message);
    cr_assert_eq(strncmp(r.error.message, c->op, strlen(c->op)), 0);
    cr_assert_not_null(strstr(r.error.message, "'n1': "));
}

void op_expect_same_for_any_batch(const struct op_case *c)
{
    const int64_t batch = c->in[0].shape.dims[0];
    cr_assert_geq(batch, 3);
    const struct op_result together = run_well(c);
    const size_t bytes = bytes_of(&together.out[0].shape, together.out[0].dtype);

    struct op_case threaded = *c;
    cr_assert_eq(tpool_create(4, &threaded.pool, NULL), CVD_STATUS_OK);
    const struct op_result spread = run_well(&threaded);
    tpool_destroy(threaded.pool);
    cr_assert_eq(memcmp(spread.out[0].data, together.out[0].data, bytes), 0,
                 "%s differs with the number of threads", c->op);

    struct op_arg args[MAX_INPUTS];
    memcpy(args, c->in, c->in_count * sizeof *args);
    struct op_case single = *c;
    single.in = args;
    const size_t in_bytes = bytes_of(&c->in[0].shape, c->in[0].dtype) / (size_t)batch;
    const size_t out_bytes = bytes / (size_t)batch;
    for (int64_t n = 0; n < batch; n++) {
        args[0].shape.dims[0] = 1;
        args[0].data = (const char *)c->in[0].data + (size_t)n * in_bytes;
        const struct op_result alone = run_well(&single);
        cr_assert_eq(memcmp(alone.out[0].data,
                            (const char *)together.out[0].data + (size_t)n * out_bytes, out_bytes),
                     0, "%s: image %d differs when it runs alone", c->op, (int)n);
    }
}

float *op_random(size_t count, uint32_t seed)
{
    float *values = data_alloc(count * sizeof *values);
    uint32_t x = seed * 2654435761u + 1;
    for (size_t i = 0; i < count; i++) {
        x ^= x << 13; /* Marsaglia's xorshift32 */
        x ^= x >> 17;
        x ^= x << 5;
        values[i] = (float)(x >> 8) * 0x1p-23f - 1;
    }
    return values;
}
