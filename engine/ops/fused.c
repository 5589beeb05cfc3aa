/* The domain "convd": its table, activations, and the operators that nothing else has. */
#include "engine/ops/fused.h"

#include "engine/ops/function.h"
#include "engine/ops/op_util.h"

#include <string.h>

/* Elements whose intermediate results stay on the stack. */
#define CHUNK 256

/* ---- activations ---- */

struct activation_info {
    const char *name, *label;
    enum function fn; /* the whole of it, or the first part of a sequence */
};

static const struct activation_info infos[ACTIVATION_COUNT] = {
    [ACTIVATION_NONE] = {"", "", FN_RELU},
    [ACTIVATION_RELU] = {"Relu", "Relu", FN_RELU},
    [ACTIVATION_LEAKY_RELU] = {"LeakyRelu", "LeakyRelu", FN_LEAKY_RELU},
    [ACTIVATION_CLIP] = {"Clip", "Clip", FN_RELU},
    [ACTIVATION_SIGMOID] = {"Sigmoid", "Sigmoid", FN_SIGMOID},
    [ACTIVATION_TANH] = {"Tanh", "Tanh", FN_TANH},
    [ACTIVATION_HARD_SIGMOID] = {"HardSigmoid", "HardSigmoid", FN_HARD_SIGMOID},
    [ACTIVATION_HARD_SWISH] = {"HardSwish", "HardSwish", FN_HARD_SWISH},
    [ACTIVATION_SWISH] = {"Swish", "Swish", FN_SWISH},
    [ACTIVATION_MISH] = {"Mish", "Mish", FN_MISH},
    [ACTIVATION_GELU] = {"Gelu", "Gelu", FN_GELU},
    [ACTIVATION_MUL_SIGMOID] = {"x*Sigmoid(x)", "Swish", FN_SIGMOID},
    [ACTIVATION_MUL_HARD_SIGMOID] = {"x*HardSigmoid(x)", "HardSwish", FN_HARD_SIGMOID},
    [ACTIVATION_MUL_TANH_SOFTPLUS] = {"x*Tanh(Softplus(x))", "Mish", FN_SOFTPLUS},
    [ACTIVATION_MUL_ERF] = {"x*(Erf(x)+1)/2", "Gelu", FN_ERF},
};

const char *activation_name(enum activation_kind kind)
{
    return infos[kind].name;
}

const char *activation_label(enum activation_kind kind)
{
    return infos[kind].label;
}

enum cvd_status activation_read(const struct op_node *node, struct activation *out)
{
    *out = (struct activation){0};
    if (node->def->domain[0] == '\0') /* ONNX's own */
        return CVD_STATUS_OK;
    const char *name;
    enum cvd_status status = op_attr_string(node, "activation", "", &name);
    if (status == CVD_STATUS_OK)
        status = op_attr_float(node, "activation_alpha", 0, &out->alpha);
    if (status == CVD_STATUS_OK)
        status = op_attr_float(node, "activation_beta", 0, &out->beta);
    if (status != CVD_STATUS_OK)
        return status;
    unsigned kind = 0;
    while (kind < ACTIVATION_COUNT && strcmp(infos[kind].name, name) != 0)
        kind++;
    if (kind == ACTIVATION_COUNT)
        return op_fail(node, CVD_STATUS_INTERNAL, "there is no activation '%.32s'", name);
    out->kind = (enum activation_kind)kind;
    return CVD_STATUS_OK;
}

static void apply_clip(const struct activation *a, float *y, size_t n)
{
    const float low = a->alpha, high = a->beta;
    for (size_t i = 0; i < n; i++) {
        const float v = y[i] < low ? low : y[i];
        y[i] = v > high ? high : v;
    }
}

/* The last operators of a sequence, which began with t = fn(y). */
static void finish_sequence(enum activation_kind kind, float *t, float *y, size_t n)
{
    if (kind == ACTIVATION_MUL_TANH_SOFTPLUS)
        function_map(&(struct function_state){.fn = FN_TANH}, t, t, n);
    if (kind == ACTIVATION_MUL_ERF)
        for (size_t i = 0; i < n; i++)
            t[i] += 1;
    for (size_t i = 0; i < n; i++)
        y[i] *= t[i];
    if (kind == ACTIVATION_MUL_ERF)
        for (size_t i = 0; i < n; i++)
            y[i] *= 0.5f;
}

static void apply_sequence(const struct activation *a, float *y, size_t n)
{
    const struct function_state first = {infos[a->kind].fn, a->alpha, a->beta};
    float t[CHUNK];
    for (size_t done = 0; done < n; done += CHUNK, y += CHUNK) {
        const size_t count = n - done < CHUNK ? n - done : CHUNK;
        const float *x = y;
        if (a->kind == ACTIVATION_MUL_ERF) {
            for (size_t i = 0; i < count; i++)
                t[i] = y[i] * a->alpha / a->beta;
            x = t;
        }
        function_map(&first, x, t, count);
        finish_sequence(a->kind, t, y, count);
    }
}

void activation_apply(const struct activation *a, float *y, size_t n)
{
    if (a->kind == ACTIVATION_NONE)
        return;
    if (a->kind == ACTIVATION_CLIP)
        apply_clip(a, y, n);
    else if (a->kind >= ACTIVATION_MUL_SIGMOID)
        apply_sequence(a, y, n);
    else
        function_map(&(struct function_state){infos[a->kind].fn, a->alpha, a->beta}, y, y, n);
}

/* ---- Add and Activation ---- */

static enum cvd_status pointwise_infer(const struct op_node *node, struct op_value *out)
{
    struct activation a;
    enum cvd_status status = activation_read(node, &a);
    for (size_t i = 0; i < node->in_count && status == CVD_STATUS_OK; i++) {
        status = op_check_type(node, i, OP_TYPE(CVD_DTYPE_FLOAT32), OP_TYPE(CVD_DTYPE_FLOAT32));
        if (status == CVD_STATUS_OK && !cvd_shape_equal(&node->in[i]->shape, &node->in[0]->shape)) {
            char text[CVD_SHAPE_TEXT_BYTES], first[CVD_SHAPE_TEXT_BYTES];
            status = op_fail(node, CVD_STATUS_INVALID_MODEL, "input %zu is %s; it must be %s", i,
                             cvd_shape_text(&node->in[i]->shape, text),
                             cvd_shape_text(&node->in[0]->shape, first));
        }
    }
    return status == CVD_STATUS_OK ? op_infer_same(node, out) : status;
}

static enum cvd_status pointwise_prepare(const struct op_node *node, const struct op_value *out,
                                         const struct kernels *kernels,
                                         struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct activation *a;
    enum cvd_status status = op_state(node, sizeof *a, prepared, &a);
    prepared->kernel = "pointwise_ref";
    for (size_t i = 0; i < node->in_count; i++)
        prepared->parameters += op_parameters(node, i);
    return status == CVD_STATUS_OK ? activation_read(node, a) : status;
}

struct pointwise_run {
    const struct activation *activation;
    const float *a, *b; /* b may be NULL */
    float *y;
};

static void pointwise_range(void *ctx, size_t begin, size_t end)
{
    const struct pointwise_run *p = ctx;
    const float *a = p->a, *b = p->b;
    float *y = p->y;
    if (b)
        for (size_t i = begin; i < end; i++)
            y[i] = a[i] + b[i];
    else if (y != a)
        memcpy(y + begin, a + begin, (end - begin) * sizeof *y);
    activation_apply(p->activation, y + begin, end - begin);
}

static void pointwise_run(const struct op_run *r)
{
    const struct op_tensor *b = op_run_input(r, 1);
    struct pointwise_run p = {r->state, r->in[0]->data, b ? b->data : NULL, r->out[0].data};
    op_for_range(r->pool, op_elements(&r->in[0]->shape), OP_RANGE_CHEAP, pointwise_range, &p);
}

/* clang-format off */
const struct op_def ops_fused[] = {
    {.name = "Conv", .domain = FUSED_DOMAIN, .since = FUSED_VERSION, .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 4, .min_outputs = 1, .max_outputs = 1,
     .infer = conv_infer, .prepare = conv_prepare, .run = conv_run},
    {.name = "Gemm", .domain = FUSED_DOMAIN, .since = FUSED_VERSION, .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = gemm_infer, .prepare = gemm_prepare, .run = gemm_run},
    {.name = "MatMul", .domain = FUSED_DOMAIN, .since = FUSED_VERSION, .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = matmul_infer, .prepare = matmul_prepare, .run = matmul_run},
    {.name = "Add", .domain = FUSED_DOMAIN, .since = FUSED_VERSION,
     .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 2, .max_inputs = 2, .min_outputs = 1, .max_outputs = 1,
     .infer = pointwise_infer, .prepare = pointwise_prepare, .run = pointwise_run},
    {.name = "Activation", .domain = FUSED_DOMAIN, .since = FUSED_VERSION,
     .flags = OP_BATCHWISE | OP_INPLACE,
     .min_inputs = 1, .max_inputs = 1, .min_outputs = 1, .max_outputs = 1,
     .infer = pointwise_infer, .prepare = pointwise_prepare, .run = pointwise_run},
    {.name = NULL},
};
/* clang-format on */
