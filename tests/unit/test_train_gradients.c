/*
 * Every backward pass against finite differences of its forward pass.
 *
 * A layer's output is turned into one number with fixed random weights r: f(x) = sum of r * y(x).
 * The backward pass, given dy = r, must return df/dx, which is also (f(x + h) - f(x - h)) / 2h.
 * Layers that are linear in what is varied allow a large h, so that rounding hardly shows.
 */
#include "engine/train/lenet5.h"

#include "engine/runtime/mem.h"
#include "tests/support/data.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <math.h>
#include <string.h>

static float *random_floats(struct rng *r, size_t count)
{
    float *x = data_alloc(count * sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = rng_within(r, 1);
    return x;
}

static double weighted(const float *y, const float *r, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)y[i] * (double)r[i];
    return sum;
}

static struct layer_scratch *make_scratch(const struct kernels *kernels)
{
    struct layer_scratch *s = data_alloc(sizeof *s);
    s->kernels = kernels;
    return s;
}

/* Number of every step-th i whose gradient[i] differs from the finite difference of f along x[i];
 * *first gets the first of them. */
static size_t count_wrong(double (*f)(void *ctx), void *ctx, float *x, const float *gradient,
                          size_t count, size_t step, float h, double tolerance, size_t *first)
{
    double largest = 0;
    size_t wrong = 0;
    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)gradient[i]));
    cr_assert_gt(largest, 0, "the gradient is zero");
    for (size_t i = 0; i < count; i += step) {
        const float middle = x[i], right = middle + h, left = middle - h;
        x[i] = right;
        const double above = f(ctx);
        x[i] = left;
        const double below = f(ctx);
        x[i] = middle;
        const double slope = (above - below) / ((double)right - (double)left);
        if (fabs(slope - (double)gradient[i]) > tolerance * (largest + 0.1) && wrong++ == 0)
            *first = i;
    }
    return wrong;
}

static void check_gradient(const char *what, double (*f)(void *ctx), void *ctx, float *x,
                           const float *gradient, size_t count, float h, double tolerance)
{
    size_t first = 0;
    const size_t wrong = count_wrong(f, ctx, x, gradient, count, 1, h, tolerance, &first);
    cr_assert_eq(wrong, 0, "%s: %zu of %zu gradients are wrong, the first is %zu: %g", what, wrong,
                 count, first, (double)gradient[first]);
}

/* The levels whose kernels this machine can run; tiles of different shapes cut layers differently.
 */
ParameterizedTestParameters(gradients, convolution)
{
    static enum cvd_cpu levels[] = {CVD_CPU_C, CVD_CPU_NEON, CVD_CPU_AVX2, CVD_CPU_AVX512};
    return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);
}

static void init_or_skip(struct kernels *kernels, enum cvd_cpu level)
{
    if (!cvd_cpu_supported(level))
        cr_skip_test("this CPU has no %s", cvd_cpu_name(level));
    kernels_init(kernels, level);
}

/* ---- convolution and pooling ---- */

struct conv_case {
    struct layer_scratch *scratch;
    struct layer_conv conv;
    float *w, *x, *y, *r, *packed;
    size_t w_count, x_count, y_count;
};

/* A naive convolution whose extra columns are zero, for the forward pass itself. */
static void naive_conv(const struct conv_case *t, float *y)
{
    const struct layer_conv *c = &t->conv;
    const size_t oh = c->in_h - 4, ow = c->in_w - 4;
    memset(y, 0, t->y_count * sizeof *y);
    for (size_t o = 0; o < c->out_c; o++) {
        for (size_t i = 0; i < oh; i++) {
            for (size_t j = 0; j < ow; j++) {
                double sum = 0;
                for (size_t ch = 0; ch < c->in_c; ch++)
                    for (size_t ky = 0; ky < 5; ky++)
                        for (size_t kx = 0; kx < 5; kx++)
                            sum += (double)t->w[((o * c->in_c + ch) * 5 + ky) * 5 + kx] *
                                   (double)t->x[(ch * c->in_h + i + ky) * c->in_w + j + kx];
                y[(o * oh + i) * c->in_w + j] = (float)sum;
            }
        }
    }
}

static double conv_value(void *ctx)
{
    struct conv_case *t = ctx;
    layer_conv_pack(t->scratch->kernels, &t->conv, t->w, t->packed);
    layer_conv_forward(t->scratch, &t->conv, t->packed, t->x, t->y);
    const size_t w = t->conv.in_w;
    for (size_t i = 0; i < t->y_count; i++) /* what the extra columns hold does not count */
        if (i % w >= w - 4)
            t->y[i] = 0;
    return weighted(t->y, t->r, t->y_count);
}

static void check_conv(const struct kernels *kernels, struct layer_conv conv)
{
    struct rng rng = rng_stream(7, conv.in_c, conv.in_w);
    struct conv_case t = {.scratch = make_scratch(kernels), .conv = conv};
    t.w_count = (size_t)conv.out_c * conv.in_c * 25;
    t.x_count = (size_t)conv.in_c * conv.in_h * conv.in_w;
    t.y_count = (size_t)conv.out_c * (conv.in_h - 4) * conv.in_w;
    t.w = random_floats(&rng, t.w_count);
    t.x = random_floats(&rng, t.x_count + LAYER_SLACK);
    t.y = random_floats(&rng, t.y_count + LAYER_SLACK);
    t.r = random_floats(&rng, t.y_count + LAYER_SLACK);
    t.packed = random_floats(&rng, LAYER_A_FLOATS);
    float *packed_back = random_floats(&rng, LAYER_A_FLOATS);
    float *expected = random_floats(&rng, t.y_count);
    float *dw = random_floats(&rng, t.w_count), *dx = random_floats(&rng, t.x_count);

    for (size_t i = 0; i < t.y_count; i++) /* as pooling leaves them */
        if (i % conv.in_w >= conv.in_w - 4u)
            t.r[i] = 0;
    conv_value(&t);
    naive_conv(&t, expected);
    for (size_t i = 0; i < t.y_count; i++)
        cr_assert_float_eq(t.y[i], expected[i], 1e-4, "output %zu: %g, not %g", i, (double)t.y[i],
                           (double)expected[i]);

    memset(dw, 0, t.w_count * sizeof *dw);
    layer_conv_backward_weights(t.scratch, &conv, t.x, t.r, dw);
    check_gradient("convolution weights", conv_value, &t, t.w, dw, t.w_count, 0.5f, 1e-4);
    layer_conv_pack_back(kernels, &conv, t.w, packed_back);
    layer_conv_backward_data(t.scratch, &conv, packed_back, t.r, dx);
    check_gradient("convolution data", conv_value, &t, t.x, dx, t.x_count, 0.5f, 1e-4);

    /* Weight gradients are added to what is there. */
    float *twice = random_floats(&rng, t.w_count);
    memcpy(twice, dw, t.w_count * sizeof *twice);
    layer_conv_backward_weights(t.scratch, &conv, t.x, t.r, twice);
    for (size_t i = 0; i < t.w_count; i++)
        cr_assert_float_eq(twice[i], 2 * dw[i], 1e-3 * (1 + fabs((double)dw[i])));
}

ParameterizedTest(enum cvd_cpu *level, gradients, convolution)
{
    struct kernels kernels;
    init_or_skip(&kernels, *level);
    check_conv(&kernels, (struct layer_conv){1, 16, 17, 6});
    check_conv(&kernels, (struct layer_conv){6, 9, 10, 16});
    check_conv(&kernels, (struct layer_conv){2, 6, 6, 5});
    check_conv(&kernels, (struct layer_conv){1, 5, 5, 1});
}

struct pool_case {
    struct layer_conv conv;
    float *y, *p, *r;
    uint8_t *which;
    size_t p_count;
};

static double pool_value(void *ctx)
{
    struct pool_case *t = ctx;
    layer_pool_forward(&t->conv, t->y, t->p, t->which);
    return weighted(t->p, t->r, t->p_count);
}

Test(gradients, pooling)
{
    /* The pooled plane is 7 x 9 values in rows of 13: an odd row and an odd column are left out. */
    struct pool_case t = {.conv = {1, 11, 13, 3}};
    struct rng rng = rng_stream(8, 0, 0);
    const size_t y_count = 3 * 7 * 13;
    t.p_count = 3 * 3 * 4;
    t.y = random_floats(&rng, y_count);
    t.p = random_floats(&rng, t.p_count);
    t.r = random_floats(&rng, t.p_count);
    t.which = data_alloc(t.p_count);
    float *dy = random_floats(&rng, y_count);
    pool_value(&t);
    for (size_t o = 0; o < 3; o++)
        for (size_t i = 0; i < 3; i++)
            for (size_t j = 0; j < 4; j++) {
                const float *w = t.y + o * 7 * 13 + 2 * i * 13 + 2 * j;
                const float most = fmaxf(fmaxf(w[0], w[1]), fmaxf(w[13], w[14]));
                cr_assert_eq(t.p[(o * 3 + i) * 4 + j], most);
            }
    layer_pool_backward(&t.conv, t.r, t.which, dy);
    check_gradient("pooling", pool_value, &t, t.y, dy, y_count, 1e-4f, 1e-3);
}

/* ---- bias, activation, dense, loss ---- */

struct flat_case {
    struct layer_scratch *scratch;
    enum cvd_activation act;
    struct layer_dense dense;
    size_t n, count;
    float *w, *bias, *x, *y, *r;
    uint16_t *labels;
};

static double activation_value(void *ctx)
{
    struct flat_case *t = ctx;
    memcpy(t->y, t->x, t->count * sizeof *t->y);
    layer_bias_activation(t->act, 3, t->count / 3, t->bias, t->y);
    return weighted(t->y, t->r, t->count);
}

static void check_activation(enum cvd_activation act)
{
    struct rng rng = rng_stream(9, 0, act);
    struct flat_case t = {.act = act, .count = 3 * 40};
    t.x = random_floats(&rng, t.count);
    t.y = random_floats(&rng, t.count);
    t.r = random_floats(&rng, t.count);
    t.bias = random_floats(&rng, 3);
    for (size_t i = 0; i < t.count; i++)
        t.x[i] = 3 * t.x[i] + (fabsf(3 * t.x[i] + t.bias[i / 40]) < 0.05f ? 0.2f : 0);
    float *dx = random_floats(&rng, t.count), db[3] = {0};
    activation_value(&t);
    memcpy(dx, t.r, t.count * sizeof *dx);
    layer_activation_backward(act, t.count, t.y, dx);
    layer_bias_backward(3, 40, dx, db);
    check_gradient("activation", activation_value, &t, t.x, dx, t.count, 0.01f, 2e-3);
    check_gradient("bias", activation_value, &t, t.bias, db, 3, 0.003f, 2e-3);
}

Test(gradients, relu)
{
    check_activation(CVD_ACTIVATION_RELU);
}

Test(gradients, tanh)
{
    check_activation(CVD_ACTIVATION_TANH);
}

Test(gradients, sigmoid)
{
    check_activation(CVD_ACTIVATION_SIGMOID);
}

static double dense_value(void *ctx)
{
    struct flat_case *t = ctx;
    layer_dense_forward(t->scratch, &t->dense, t->w, t->bias, t->n, t->x, t->y);
    return weighted(t->y, t->r, t->n * t->dense.out);
}

static void check_dense(const struct kernels *kernels, size_t in, size_t out, size_t n)
{
    struct rng rng = rng_stream(10, in, out);
    struct flat_case t = {.scratch = make_scratch(kernels), .dense = {in, out}, .n = n};
    t.w = random_floats(&rng, in * out);
    t.bias = random_floats(&rng, out);
    t.x = random_floats(&rng, n * in);
    t.y = random_floats(&rng, n * out);
    t.r = random_floats(&rng, n * out);
    float *dw = random_floats(&rng, in * out), *dx = random_floats(&rng, n * in);
    float *db = random_floats(&rng, out);
    dense_value(&t);
    for (size_t i = 0; i < n * out; i++) {
        double sum = (double)t.bias[i % out];
        for (size_t k = 0; k < in; k++)
            sum += (double)t.x[i / out * in + k] * (double)t.w[k * out + i % out];
        cr_assert_float_eq(t.y[i], sum, 1e-4, "output %zu: %g, not %g", i, (double)t.y[i], sum);
    }
    memset(dw, 0, in * out * sizeof *dw);
    memset(db, 0, out * sizeof *db);
    layer_dense_backward_weights(t.scratch, &t.dense, n, t.x, t.r, dw, db);
    layer_dense_backward_data(t.scratch, &t.dense, t.w, n, t.r, dx);
    check_gradient("dense weights", dense_value, &t, t.w, dw, in * out, 0.5f, 1e-4);
    check_gradient("dense bias", dense_value, &t, t.bias, db, out, 0.5f, 1e-4);
    check_gradient("dense data", dense_value, &t, t.x, dx, n * in, 0.5f, 1e-4);
}

ParameterizedTestParameters(gradients, dense)
{
    static enum cvd_cpu levels[] = {CVD_CPU_C, CVD_CPU_NEON, CVD_CPU_AVX2, CVD_CPU_AVX512};
    return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);
}

ParameterizedTest(enum cvd_cpu *level, gradients, dense)
{
    struct kernels kernels;
    init_or_skip(&kernels, *level);
    check_dense(&kernels, 5, 3, 2);
    check_dense(&kernels, 60, 50, 7);
    check_dense(&kernels, 150, 10, 1); /* sums longer than one block */
    check_dense(&kernels, 3, 530, 2);  /* rows wider than one block */
}

static double loss_value(void *ctx)
{
    struct flat_case *t = ctx;
    size_t correct = 0;
    return 0.25 * layer_softmax_loss(t->n, t->dense.out, t->x, t->labels, 1, NULL, &correct);
}

Test(gradients, loss)
{
    uint16_t labels[4] = {0, 6, 3, 3};
    struct rng rng = rng_stream(11, 0, 0);
    struct flat_case t = {.n = 4, .dense = {0, 7}, .labels = labels};
    t.x = random_floats(&rng, 4 * 7);
    for (size_t i = 0; i < 4 * 7; i++)
        t.x[i] *= 3;
    float *dx = random_floats(&rng, 4 * 7);
    size_t correct = 0;
    layer_softmax_loss(4, 7, t.x, labels, 0.25f, dx, &correct);
    check_gradient("loss", loss_value, &t, t.x, dx, 4 * 7, 0.01f, 1e-3);
}

Test(gradients, loss_values)
{
    /* Two classes with logits 0 and log 3: probabilities 1/4 and 3/4. */
    const float logits[4] = {0, logf(3), 0, logf(3)};
    const uint16_t labels[2] = {0, 1};
    float d[4];
    size_t correct = 0;
    const double loss = layer_softmax_loss(2, 2, logits, labels, 1, d, &correct);
    cr_assert_float_eq(loss, log(4) + log(4.0 / 3), 1e-6);
    cr_assert_eq(correct, 1);
    cr_assert_float_eq(d[0], -0.75, 1e-6);
    cr_assert_float_eq(d[1], 0.75, 1e-6);
    cr_assert_float_eq(d[2], 0.25, 1e-6);
    cr_assert_float_eq(d[3], -0.25, 1e-6);

    /* Extremes neither overflow nor lose the loss. */
    const float extreme[2] = {-3e38f, 3e38f};
    cr_assert_float_eq(layer_softmax_loss(1, 2, extreme, labels + 1, 1, d, &correct), 0, 1e-9);
    const float apart[2] = {1000, 0};
    cr_assert_float_eq(layer_softmax_loss(1, 2, apart, labels + 1, 1, d, &correct), 1000, 1e-3);
    cr_assert_float_eq(d[0], 1, 1e-6);
}

/* ---- the whole network ---- */

struct net_case {
    struct lenet5 net;
    struct lenet5_work *work;
    float *parameters;
    const struct lenet5_dropout *dropout;
    size_t n;
    const uint16_t *labels;
};

static double net_value(void *ctx)
{
    struct net_case *t = ctx;
    size_t correct = 0;
    lenet5_work_pack(t->work, t->parameters);
    const float *logits = lenet5_forward(t->work, t->parameters, t->n, t->dropout);
    return layer_softmax_loss(t->n, t->net.classes, logits, t->labels, 1, NULL, &correct);
}

/* Where a step makes another value the maximum of its pooling window, or switches a ReLU, the slope
 * is none: a few parameters are allowed to miss. */
static void check_network(enum cvd_activation act, float dropout)
{
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    const uint16_t labels[3] = {2, 0, 1};
    const uint32_t ids[3] = {5, 6, 7};
    const struct lenet5_dropout drop = {dropout, 1, 2, ids};
    struct net_case t = {.n = 3, .labels = labels, .dropout = dropout > 0 ? &drop : NULL};
    lenet5_init(&t.net, 14, 12, 3, act);
    const size_t count = lenet5_parameters(&t.net), bytes = lenet5_work_bytes(&t.net);
    t.work = lenet5_work_init(&t.net, &kernels, mem_map(bytes));
    struct rng rng = rng_stream(12, 0, act);
    t.parameters = random_floats(&rng, count);
    float *gradient = random_floats(&rng, count);
    lenet5_initial(&t.net, 3, t.parameters);
    for (size_t part = LENET5_B1; part < LENET5_PARTS; part += 2) /* biases that matter */
        for (size_t i = t.net.begin[part]; i < t.net.begin[part + 1]; i++)
            t.parameters[i] = rng_within(&rng, 0.3f);
    for (size_t i = 0; i < t.n; i++) {
        size_t stride;
        float *x = lenet5_input(t.work, i, &stride);
        for (size_t p = 0; p < 14 * 12; p++)
            x[p / 12 * stride + p % 12] = rng_unit(&rng);
    }
    memset(gradient, 0, count * sizeof *gradient);
    size_t correct = 0;
    lenet5_work_pack(t.work, t.parameters);
    float *logits = lenet5_forward(t.work, t.parameters, t.n, t.dropout);
    layer_softmax_loss(t.n, 3, logits, labels, 1, logits, &correct);
    lenet5_backward(t.work, t.parameters, t.n, logits, gradient);
    static const char *const names[LENET5_PARTS] = {"w1", "b1", "w2", "b2", "w5",
                                                    "b5", "w6", "b6", "w7", "b7"};
    for (size_t part = 0; part < LENET5_PARTS; part++) {
        const size_t begin = t.net.begin[part];
        const size_t in_part = t.net.begin[part + 1] - begin, step = in_part / 150 + 1;
        size_t first = 0;
        const size_t wrong = count_wrong(net_value, &t, t.parameters + begin, gradient + begin,
                                         in_part, step, 5e-4f, 0.03, &first);
        cr_assert_leq(wrong, in_part / step / 10,
                      "%s: %zu of %zu gradients are wrong, the first is %zu", names[part], wrong,
                      in_part / step, first);
    }
    mem_unmap(t.work, bytes);
}

Test(gradients, network_tanh)
{
    check_network(CVD_ACTIVATION_TANH, 0);
}

Test(gradients, network_sigmoid)
{
    check_network(CVD_ACTIVATION_SIGMOID, 0);
}

Test(gradients, network_relu_with_dropout)
{
    check_network(CVD_ACTIVATION_RELU, 0.3f);
}
