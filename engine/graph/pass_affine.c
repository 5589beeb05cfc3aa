/*
 * What scales and shifts the channels of a Conv's, Gemm's or MatMul's output by constants goes into
 * its weights and bias: BatchNormalization, and Mul, Div, Add and Sub.
 *
 * Scaled weights are rounded once more than a scaled result would be; a bias alone changes nothing
 * but the order in which a convolution adds it.
 */
#include "engine/graph/passes.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* A node whose output is linear in constant weights. */
struct linear {
    uint32_t node;
    uint32_t weights, bias; /* bias may be GRAPH_NONE */
    float bias_factor;      /* Gemm's beta */
    size_t channels;
    size_t outer, inner; /* the weights are [outer][channels][inner] */
    unsigned axis;       /* of the output, where the channels are */
};

/* y * scale + shift, by channel. */
struct affine {
    double *scale, *shift;
    bool scales; /* some scale is not 1 */
};

/* ---- the linear node ---- */

static bool find_weights(const struct pass *p, uint32_t v, struct linear *l)
{
    size_t count;
    if (pass_floats(p, v, &count) == NULL || count == 0)
        return false;
    l->weights = v;
    return true;
}

static bool find_conv(const struct pass *p, const struct graph_node *node, struct linear *l)
{
    size_t count;
    l->bias = pass_input(node, 2);
    if (!find_weights(p, node->in[1], l) ||
        (l->bias != GRAPH_NONE && pass_floats(p, l->bias, &count) == NULL))
        return false;
    const struct graph_value *w = &p->g->values[l->weights];
    l->channels = (size_t)w->shape.dims[0];
    l->outer = 1;
    l->inner = w->bytes / sizeof(float) / l->channels;
    l->axis = 1;
    return true;
}

/* Whether c, the third input of a Gemm, is one number for each column, or one for all. */
static bool is_row(const struct pass *p, uint32_t c, size_t channels)
{
    size_t count;
    const struct cvd_shape *shape = &p->g->values[c].shape;
    if (pass_floats(p, c, &count) == NULL)
        return false;
    return count == 1 || (count == channels && (size_t)shape->dims[shape->rank - 1] == channels);
}

/* Gemm or MatMul; before operator set 7 a Gemm asks for its broadcasting. */
static bool find_product(const struct pass *p, const struct graph_node *node, bool gemm,
                         struct linear *l)
{
    if (!find_weights(p, node->in[1], l) || graph_opset(p->g, "") < 7)
        return false;
    const struct graph_value *w = &p->g->values[l->weights];
    const struct cvd_shape *out = pass_shape(p, node->out[0]);
    if (w->shape.rank != 2 || out == NULL || out->rank == 0)
        return false;
    bool turned = gemm && pass_int(node, "transB", 0) != 0;
    l->channels = (size_t)w->shape.dims[!turned];
    l->outer = turned ? 1 : (size_t)w->shape.dims[0];
    l->inner = turned ? (size_t)w->shape.dims[1] : 1;
    l->axis = out->rank - 1;
    l->bias = pass_input(node, 2);
    l->bias_factor = gemm ? pass_float(node, "beta", 1) : 1;
    return l->bias == GRAPH_NONE || is_row(p, l->bias, l->channels);
}

/* The linear node that computes v for its only reader. */
static bool find_linear(const struct pass *p, uint32_t v, struct linear *l)
{
    uint32_t n = pass_sole_maker(p, v);
    if (n == GRAPH_NONE)
        return false;
    const struct graph_node *node = &p->g->nodes[n];
    *l = (struct linear){.node = n, .bias_factor = 1};
    if (pass_node(p, n, "Conv") != NULL)
        return find_conv(p, node, l);
    if (pass_node(p, n, "Gemm") != NULL)
        return find_product(p, node, true, l);
    /* A MatMul that has been given a bias is one of convd's own. */
    return strcmp(node->op, "MatMul") == 0 && pass_attr(node, "activation") == NULL &&
           find_product(p, node, false, l);
}

/* ---- what is to be done to its channels ---- */

/* The elements of c, one for each channel or one for all; NULL when it is no such constant. */
static const float *by_channel(const struct pass *p, const struct linear *l, uint32_t c,
                               const struct cvd_shape *out, size_t *step)
{
    size_t count;
    const float *data = pass_floats(p, c, &count);
    if (data == NULL || (count != 1 && count != l->channels))
        return NULL;
    const struct cvd_shape *shape = &p->g->values[c].shape;
    for (unsigned i = 0; i < shape->rank; i++) { /* the last dimensions stand under each other */
        bool is_axis = out->rank - shape->rank + i == l->axis;
        if (shape->rank > out->rank || (shape->dims[i] != 1 && !is_axis))
            return NULL;
    }
    *step = count > 1;
    return data;
}

static bool read_arithmetic(const struct pass *p, const struct linear *l, uint32_t n,
                            uint32_t constant, struct affine *a)
{
    const struct graph_node *node = &p->g->nodes[n];
    const struct cvd_shape *out = pass_shape(p, node->out[0]);
    size_t step;
    const float *c = out != NULL ? by_channel(p, l, constant, out, &step) : NULL;
    if (c == NULL || graph_opset(p->g, "") < 7) /* which had another idea of broadcasting */
        return false;
    bool mul = strcmp(node->op, "Mul") == 0, div = strcmp(node->op, "Div") == 0;
    for (size_t i = 0; i < l->channels; i++) {
        double x = (double)c[i * step];
        a->scale[i] = mul ? x : div ? 1 / x : 1;
        a->shift[i] = mul || div ? 0 : strcmp(node->op, "Sub") == 0 ? -x : x;
    }
    a->scales = mul || div;
    return true;
}

static bool read_batch_norm(const struct pass *p, const struct linear *l, uint32_t n,
                            struct affine *a)
{
    const struct graph_node *node = &p->g->nodes[n];
    const float *in[5]; /* scale, bias, mean, variance from 1 on */
    if (l->axis != 1 || node->in_count != 5 || node->out_count != 1 ||
        pass_int(node, "spatial", 1) == 0)
        return false;
    for (size_t i = 1; i < 5; i++) {
        size_t count;
        in[i] = pass_floats(p, node->in[i], &count);
        if (in[i] == NULL || count != l->channels)
            return false;
    }
    double epsilon = (double)pass_float(node, "epsilon", 1e-5f);
    for (size_t i = 0; i < l->channels; i++) {
        a->scale[i] = (double)in[1][i] / sqrt((double)in[4][i] + epsilon);
        a->shift[i] = (double)in[2][i] - (double)in[3][i] * a->scale[i];
    }
    a->scales = true;
    return true;
}

/* Whether node n scales or shifts what a linear node computes. */
static bool find_affine(const struct pass *p, uint32_t n, struct linear *l, uint32_t *constant)
{
    const struct graph_node *node = &p->g->nodes[n];
    *constant = GRAPH_NONE;
    if (pass_node(p, n, "BatchNormalization") != NULL)
        return find_linear(p, node->in[0], l);
    bool swaps = pass_node(p, n, "Mul") != NULL || pass_node(p, n, "Add") != NULL;
    if (!swaps && pass_node(p, n, "Div") == NULL && pass_node(p, n, "Sub") == NULL)
        return false;
    for (size_t i = 0; i < (swaps ? 2 : 1); i++) {
        *constant = node->in[1 - i];
        if (p->g->values[*constant].data != NULL && pass_alike(p, node->in[i], node->out[0]) &&
            find_linear(p, node->in[i], l))
            return true;
    }
    return false;
}

/* ---- doing it ---- */

static bool is_float(double x)
{
    return fabs(x) <= (double)FLT_MAX; /* false for NaN */
}

/* The new bias; false when it would not be finite. */
static bool shift_bias(const struct pass *p, const struct linear *l, const struct affine *a,
                       float *bias)
{
    size_t count = 0;
    const float *old = pass_floats(p, l->bias, &count);
    for (size_t c = 0; c < l->channels; c++) {
        double x = old != NULL ? (double)old[count > 1 ? c : 0] * (double)l->bias_factor : 0;
        double y = x * a->scale[c] + a->shift[c];
        if (!is_float(y) || !is_float(a->scale[c]))
            return false;
        bias[c] = (float)y;
    }
    return true;
}

/* Calls for every run of weights of one channel: whether they can be scaled, or does it. */
static bool scale_weights(float *w, const struct linear *l, const double *scale, bool test)
{
    for (size_t o = 0; o < l->outer; o++) {
        for (size_t c = 0; c < l->channels; c++, w += l->inner) {
            const double s = scale[c];
            bool fits = true;
            for (size_t i = 0; i < l->inner && test; i++)
                fits &= is_float((double)w[i] * s);
            for (size_t i = 0; i < l->inner && !test; i++)
                w[i] = (float)((double)w[i] * s);
            if (!fits)
                return false;
        }
    }
    return true;
}

/* A new value that has v's elements, which are about to be changed. */
static enum cvd_status take_over(struct pass *p, uint32_t v, uint32_t *out)
{
    enum cvd_status status = graph_add_value(p->g, p->g->values[v].name, out, p->err);
    if (status != CVD_STATUS_OK)
        return status;
    struct graph_value *to = &p->g->values[*out], *from = &p->g->values[v];
    const char *name = to->name;
    *to = *from;
    to->name = name;
    from->data = NULL;
    return CVD_STATUS_OK;
}

static enum cvd_status rewrite(struct pass *p, uint32_t n, const struct linear *l,
                               const struct affine *a)
{
    const struct cvd_shape vector = {.rank = 1, .dims = {(int64_t)l->channels}};
    uint32_t weights = l->weights, bias;
    const char *name = l->bias != GRAPH_NONE ? p->g->values[l->bias].name : NULL;
    enum cvd_status status =
        graph_add_initializer(p->g, name, CVD_DTYPE_FLOAT32, &vector, NULL, &bias, p->err);
    if (status != CVD_STATUS_OK)
        return status;
    if (!shift_bias(p, l, a, p->g->values[bias].data) ||
        (a->scales && !scale_weights(p->g->values[weights].data, l, a->scale, true)))
        return CVD_STATUS_OK;
    if (a->scales) {
        status = take_over(p, l->weights, &weights);
        if (status != CVD_STATUS_OK)
            return status;
        scale_weights(p->g->values[weights].data, l, a->scale, false);
    }
    struct graph_node node = p->g->nodes[l->node];
    const uint32_t in[] = {node.in[0], weights, bias};
    const struct op_attr beta = {.name = "beta", .type = OP_ATTR_FLOAT, .f = 1};
    node.in = in;
    node.in_count = 3;
    node.out = p->g->nodes[n].out;
    if (pass_attr(&node, "beta") != NULL)
        node.attrs = pass_attrs(p, &node, &beta, 1, &node.attr_count);
    if (strcmp(node.op, "MatMul") == 0 && node.label == NULL) {
        node.domain = FUSED_DOMAIN;
        node.label = pass_label(p, &node, "Add");
        status = node.label != NULL ? pass_use_domain(p, FUSED_DOMAIN, FUSED_VERSION)
                                    : pass_no_memory(p);
    }
    if (status == CVD_STATUS_OK)
        status = node.attrs != NULL || node.attr_count == 0 ? pass_replace(p, n, &node)
                                                            : pass_no_memory(p);
    if (status == CVD_STATUS_OK)
        pass_remove(p, l->node);
    return status;
}

/* Whether there is time and memory for it: a file may ask for new biases of the same weights, and
 * to scale them, again and again. */
static bool afford(const struct pass *p, const struct linear *l)
{
    uint64_t work = 2 * p->g->values[l->weights].bytes / sizeof(float) + 4 * l->channels;
    size_t bytes = l->channels * sizeof(float);
    if (work > p->budget->work || bytes > p->budget->bytes)
        return false;
    p->budget->work -= work;
    p->budget->bytes -= bytes;
    return true;
}

static enum cvd_status fold(struct pass *p, uint32_t n, const struct linear *l, uint32_t constant)
{
    if (!afford(p, l))
        return CVD_STATUS_OK;
    double *numbers = mem_alloc(2 * l->channels * sizeof(*numbers));
    if (numbers == NULL)
        return pass_no_memory(p);
    struct affine a = {.scale = numbers, .shift = numbers + l->channels};
    bool found = constant == GRAPH_NONE ? read_batch_norm(p, l, n, &a)
                                        : read_arithmetic(p, l, n, constant, &a);
    enum cvd_status status = CVD_STATUS_OK;
    /* Weights that other nodes read as well stay as they are. */
    if (found && (!a.scales || l->weights >= p->count || p->uses[l->weights] == 1))
        status = rewrite(p, n, l, &a);
    mem_free(numbers);
    return status;
}

enum cvd_status pass_affine(struct pass *p)
{
    enum cvd_status status = CVD_STATUS_OK;
    for (uint32_t n = 0; n < p->g->node_count && status == CVD_STATUS_OK; n++) {
        struct linear l;
        uint32_t constant;
        if (find_affine(p, n, &l, &constant))
            status = fold(p, n, &l, constant);
    }
    return status;
}
