/* LeNet-5's parameters, forward and backward pass (see lenet5.h). */
#include "engine/train/lenet5.h"

#include "engine/runtime/mem.h"

#include <math.h>
#include <string.h>

/* Arrays of a thread. Values that the backward pass needs are kept for every image of the batch,
 * full-size convolution outputs and their gradients only for one image at a time. */
struct lenet5_work {
    const struct lenet5 *net;
    float *packed1, *packed2, *packed2_back;
    float *x;       /* [batch][padded image] */
    float *conv;    /* one image: output of C1 or C3, then its gradient */
    float *s2, *s4; /* [batch][maps][pooled], activated */
    uint8_t *which1, *which2;
    float *y5, *y6, *y7;        /* [batch][out] */
    float *factors5, *factors6; /* of dropout */
    float *kept5, *kept6;       /* y5 and y6 after dropout */
    bool dropout;               /* of the last forward pass */
    float *ds2, *ds4, *d5, *d6;
    struct layer_scratch *scratch;
};

void lenet5_init(struct lenet5 *net, unsigned height, unsigned width, unsigned classes,
                 enum cvd_activation activation)
{
    const unsigned h1 = height + 2 * LENET5_PAD, w1 = width + 2 * LENET5_PAD;
    const unsigned h2 = height / LAYER_POOL, w2 = width / LAYER_POOL;
    const unsigned h4 = (h2 - LAYER_KERNEL + 1) / LAYER_POOL;
    const unsigned w4 = (w2 - LAYER_KERNEL + 1) / LAYER_POOL;
    const size_t window = LAYER_KERNEL * LAYER_KERNEL;
    *net = (struct lenet5){
        .height = height,
        .width = width,
        .classes = classes,
        .activation = activation,
        .conv1 = {1, h1, w1, LENET5_MAPS1},
        .conv2 = {LENET5_MAPS1, h2, w2, LENET5_MAPS2},
        .pooled1 = (size_t)h2 * w2,
        .pooled2 = (size_t)h4 * w4,
    };
    net->dense5 = (struct layer_dense){LENET5_MAPS2 * net->pooled2, LENET5_F5};
    net->dense6 = (struct layer_dense){LENET5_F5, LENET5_F6};
    net->dense7 = (struct layer_dense){LENET5_F6, classes};
    const size_t sizes[LENET5_PARTS] = {
        [LENET5_W1] = LENET5_MAPS1 * window,
        [LENET5_B1] = LENET5_MAPS1,
        [LENET5_W2] = LENET5_MAPS2 * LENET5_MAPS1 * window,
        [LENET5_B2] = LENET5_MAPS2,
        [LENET5_W5] = net->dense5.in * net->dense5.out,
        [LENET5_B5] = net->dense5.out,
        [LENET5_W6] = net->dense6.in * net->dense6.out,
        [LENET5_B6] = net->dense6.out,
        [LENET5_W7] = net->dense7.in * net->dense7.out,
        [LENET5_B7] = net->dense7.out,
    };
    for (size_t i = 0; i < LENET5_PARTS; i++)
        net->begin[i + 1] = net->begin[i] + sizes[i];
}

void lenet5_initial(const struct lenet5 *net, uint64_t seed, float *parameters)
{
    const size_t window = LAYER_KERNEL * LAYER_KERNEL;
    const size_t fan_in[LENET5_PARTS] = {
        [LENET5_W1] = window,         [LENET5_W2] = LENET5_MAPS1 * window,
        [LENET5_W5] = net->dense5.in, [LENET5_W6] = net->dense6.in,
        [LENET5_W7] = net->dense7.in,
    };
    const size_t fan_out[LENET5_PARTS] = {
        [LENET5_W1] = LENET5_MAPS1 * window, [LENET5_W2] = LENET5_MAPS2 * window,
        [LENET5_W5] = net->dense5.out,       [LENET5_W6] = net->dense6.out,
        [LENET5_W7] = net->dense7.out,
    };
    for (size_t part = 0; part < LENET5_PARTS; part++) {
        float *to = parameters + net->begin[part];
        const size_t count = net->begin[part + 1] - net->begin[part];
        if (!fan_in[part]) {
            memset(to, 0, count * sizeof *to);
            continue;
        }
        /* A uniform distribution over [-l, l] has variance l^2 / 3. */
        double variance = 2.0 / (double)(fan_in[part] + fan_out[part]);
        if (net->activation == CVD_ACTIVATION_RELU)
            variance = 2.0 / (double)fan_in[part];
        else if (net->activation == CVD_ACTIVATION_SIGMOID)
            variance *= 4 * 4; /* its slope at 0 is 1/4 */
        const float limit = (float)sqrt(3 * variance);
        struct rng r = rng_stream(seed, 0, part);
        for (size_t i = 0; i < count; i++)
            to[i] = rng_within(&r, limit);
    }
}

static size_t plane(const struct layer_conv *c)
{
    return (size_t)c->in_h * c->in_w;
}

/* Output of a convolution with the extra columns, for one image. */
static size_t conv_output(const struct layer_conv *c)
{
    return (size_t)c->out_c * (c->in_h - LAYER_KERNEL + 1) * c->in_w;
}

/* Hands out the arrays of a block one after the other; with base NULL it only counts. Sizes cannot
 * overflow: sides are at most LENET5_MAX_SIDE and classes at most LENET5_MAX_CLASSES. */
struct carver {
    char *base;
    size_t used;
};

static void *carve(struct carver *c, size_t bytes)
{
    char *piece = c->base ? c->base + c->used : NULL;
    c->used += (bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    return piece;
}

static float *carve_floats(struct carver *c, size_t count)
{
    return carve(c, count * sizeof(float));
}

static void carve_work(const struct lenet5 *net, struct carver *c, struct lenet5_work *plan)
{
    const size_t n = LAYER_MAX_BATCH, s2 = LENET5_MAPS1 * net->pooled1, s4 = net->dense5.in;
    const size_t conv1 = conv_output(&net->conv1), conv2 = conv_output(&net->conv2);
    plan->packed1 = carve_floats(c, LAYER_A_FLOATS);
    plan->packed2 = carve_floats(c, LAYER_A_FLOATS);
    plan->packed2_back = carve_floats(c, LAYER_A_FLOATS);
    plan->x = carve_floats(c, n * plane(&net->conv1) + LAYER_SLACK);
    plan->conv = carve_floats(c, (conv1 > conv2 ? conv1 : conv2) + LAYER_SLACK);
    plan->s2 = carve_floats(c, n * s2 + LAYER_SLACK);
    plan->s4 = carve_floats(c, n * s4);
    plan->which1 = carve(c, n * s2);
    plan->which2 = carve(c, n * s4);
    plan->y5 = carve_floats(c, n * LENET5_F5);
    plan->y6 = carve_floats(c, n * LENET5_F6);
    plan->y7 = carve_floats(c, n * net->classes);
    plan->factors5 = carve_floats(c, n * LENET5_F5);
    plan->factors6 = carve_floats(c, n * LENET5_F6);
    plan->kept5 = carve_floats(c, n * LENET5_F5);
    plan->kept6 = carve_floats(c, n * LENET5_F6);
    plan->ds2 = carve_floats(c, s2);
    plan->ds4 = carve_floats(c, n * s4);
    plan->d5 = carve_floats(c, n * LENET5_F5);
    plan->d6 = carve_floats(c, n * LENET5_F6);
    plan->scratch = carve(c, sizeof *plan->scratch);
}

size_t lenet5_work_bytes(const struct lenet5 *net)
{
    struct lenet5_work plan;
    struct carver c = {NULL, 0};
    carve(&c, sizeof plan);
    carve_work(net, &c, &plan);
    return c.used;
}

struct lenet5_work *lenet5_work_init(const struct lenet5 *net, const struct kernels *kernels,
                                     void *block)
{
    struct carver c = {block, 0};
    struct lenet5_work *w = carve(&c, sizeof *w);
    carve_work(net, &c, w);
    w->net = net;
    w->scratch->kernels = kernels;
    return w;
}

void lenet5_work_pack(struct lenet5_work *w, const float *parameters)
{
    const struct lenet5 *net = w->net;
    const struct kernels *k = w->scratch->kernels;
    layer_conv_pack(k, &net->conv1, parameters + net->begin[LENET5_W1], w->packed1);
    layer_conv_pack(k, &net->conv2, parameters + net->begin[LENET5_W2], w->packed2);
    layer_conv_pack_back(k, &net->conv2, parameters + net->begin[LENET5_W2], w->packed2_back);
}

float *lenet5_input(struct lenet5_work *w, size_t i, size_t *stride)
{
    const struct layer_conv *c = &w->net->conv1;
    *stride = c->in_w;
    return w->x + i * plane(c) + (size_t)LENET5_PAD * c->in_w + LENET5_PAD;
}

/* One image through both convolutions, up to S4. */
static void convolve_forward(struct lenet5_work *w, const float *parameters, size_t i)
{
    const struct lenet5 *net = w->net;
    const size_t s2 = LENET5_MAPS1 * net->pooled1, s4 = LENET5_MAPS2 * net->pooled2;
    const float *x = w->x + i * plane(&net->conv1);
    float *y2 = w->s2 + i * s2, *y4 = w->s4 + i * s4;
    layer_conv_forward(w->scratch, &net->conv1, w->packed1, x, w->conv);
    layer_pool_forward(&net->conv1, w->conv, y2, w->which1 + i * s2);
    layer_bias_activation(net->activation, LENET5_MAPS1, net->pooled1,
                          parameters + net->begin[LENET5_B1], y2);
    layer_conv_forward(w->scratch, &net->conv2, w->packed2, y2, w->conv);
    layer_pool_forward(&net->conv2, w->conv, y4, w->which2 + i * s4);
    layer_bias_activation(net->activation, LENET5_MAPS2, net->pooled2,
                          parameters + net->begin[LENET5_B2], y4);
}

/* The way back from S4's gradient. */
static void convolve_backward(struct lenet5_work *w, size_t i, float *gradient)
{
    const struct lenet5 *net = w->net;
    const size_t s2 = LENET5_MAPS1 * net->pooled1, s4 = LENET5_MAPS2 * net->pooled2;
    const float *x = w->x + i * plane(&net->conv1), *y2 = w->s2 + i * s2;
    float *d4 = w->ds4 + i * s4, *d2 = w->ds2, *dconv = w->conv;
    layer_activation_backward(net->activation, s4, w->s4 + i * s4, d4);
    layer_bias_backward(LENET5_MAPS2, net->pooled2, d4, gradient + net->begin[LENET5_B2]);
    layer_pool_backward(&net->conv2, d4, w->which2 + i * s4, dconv);
    layer_conv_backward_weights(w->scratch, &net->conv2, y2, dconv,
                                gradient + net->begin[LENET5_W2]);
    layer_conv_backward_data(w->scratch, &net->conv2, w->packed2_back, dconv, d2);
    layer_activation_backward(net->activation, s2, y2, d2);
    layer_bias_backward(LENET5_MAPS1, net->pooled1, d2, gradient + net->begin[LENET5_B1]);
    layer_pool_backward(&net->conv1, d2, w->which1 + i * s2, dconv);
    layer_conv_backward_weights(w->scratch, &net->conv1, x, dconv,
                                gradient + net->begin[LENET5_W1]);
}

static void dense_forward(struct lenet5_work *w, const float *parameters,
                          const struct layer_dense *d, enum lenet5_part weights, size_t n,
                          const float *x, float *y)
{
    const float *bias = parameters + w->net->begin[weights + 1];
    layer_dense_forward(w->scratch, d, parameters + w->net->begin[weights], bias, n, x, y);
}

float *lenet5_forward(struct lenet5_work *w, const float *parameters, size_t n,
                      const struct lenet5_dropout *dropout)
{
    const struct lenet5 *net = w->net;
    for (size_t i = 0; i < n; i++)
        convolve_forward(w, parameters, i);
    w->dropout = dropout && dropout->p > 0;
    for (size_t i = 0; w->dropout && i < n; i++) {
        struct rng r = rng_stream(dropout->seed, dropout->a, dropout->ids[i]);
        layer_dropout_draw(&r, dropout->p, LENET5_F5, w->factors5 + i * LENET5_F5);
        layer_dropout_draw(&r, dropout->p, LENET5_F6, w->factors6 + i * LENET5_F6);
    }
    dense_forward(w, parameters, &net->dense5, LENET5_W5, n, w->s4, w->y5);
    layer_activation(net->activation, n * LENET5_F5, w->y5);
    if (w->dropout)
        layer_dropout_apply(n * LENET5_F5, w->factors5, w->y5, w->kept5);
    dense_forward(w, parameters, &net->dense6, LENET5_W6, n, w->dropout ? w->kept5 : w->y5, w->y6);
    layer_activation(net->activation, n * LENET5_F6, w->y6);
    if (w->dropout)
        layer_dropout_apply(n * LENET5_F6, w->factors6, w->y6, w->kept6);
    dense_forward(w, parameters, &net->dense7, LENET5_W7, n, w->dropout ? w->kept6 : w->y6, w->y7);
    return w->y7;
}

/* Adds a dense layer's gradients and gives that of its input. */
static void dense_backward(struct lenet5_work *w, const float *parameters,
                           const struct layer_dense *d, enum lenet5_part weights, size_t n,
                           const float *x, const float *dy, float *dx, float *gradient)
{
    const size_t *begin = w->net->begin;
    layer_dense_backward_weights(w->scratch, d, n, x, dy, gradient + begin[weights],
                                 gradient + begin[weights + 1]);
    layer_dense_backward_data(w->scratch, d, parameters + begin[weights], n, dy, dx);
}

void lenet5_backward(struct lenet5_work *w, const float *parameters, size_t n, const float *dlogits,
                     float *gradient)
{
    const struct lenet5 *net = w->net;
    dense_backward(w, parameters, &net->dense7, LENET5_W7, n, w->dropout ? w->kept6 : w->y6,
                   dlogits, w->d6, gradient);
    if (w->dropout)
        layer_dropout_apply(n * LENET5_F6, w->factors6, w->d6, w->d6);
    layer_activation_backward(net->activation, n * LENET5_F6, w->y6, w->d6);
    dense_backward(w, parameters, &net->dense6, LENET5_W6, n, w->dropout ? w->kept5 : w->y5, w->d6,
                   w->d5, gradient);
    if (w->dropout)
        layer_dropout_apply(n * LENET5_F5, w->factors5, w->d5, w->d5);
    layer_activation_backward(net->activation, n * LENET5_F5, w->y5, w->d5);
    dense_backward(w, parameters, &net->dense5, LENET5_W5, n, w->s4, w->d5, w->ds4, gradient);
    for (size_t i = 0; i < n; i++)
        convolve_backward(w, i, gradient);
}
