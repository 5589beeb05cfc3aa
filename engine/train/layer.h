/*
 * The layers of LeNet-5 for training: forward and backward, one image or one small batch at a time.
 *
 * Plain functions on arrays that the caller owns; they start no thread and allocate nothing. Matrix
 * products go through the kernel table's tile. "+=" marks gradients that are added to, all other
 * outputs are overwritten. Each backward function is checked against finite differences in
 * tests/unit/test_train_gradients.c.
 *
 * A convolution takes a whole input plane for one long row: with planes of width W, output
 * p = y * W + x is the sum over k of w[k] * in[p + offset(k)], so the columns of its matrix product
 * are plain copies of the input. The price is W - out_w values at the end of each output row that
 * mean nothing: pooling skips them, and gives them a gradient of zero.
 */
#ifndef CONVD_TRAIN_LAYER_H
#define CONVD_TRAIN_LAYER_H

#include <convd/train.h>

#include "engine/kernels/kernels.h"
#include "engine/train/rng.h"

#define LAYER_KERNEL       5 /* convolutions are 5x5 … */
#define LAYER_POOL         2 /* … and poolings 2x2 with stride 2 */
#define LAYER_MAX_CHANNELS 16
#define LAYER_MAX_BATCH    16
#define LAYER_MAX_TERMS    (LAYER_MAX_CHANNELS * LAYER_KERNEL * LAYER_KERNEL)

/* Convolutions read up to this many floats beyond an input plane or an output gradient (and ignore
 * what they hold): their arrays are that much longer. */
#define LAYER_SLACK KERNEL_GEMM_MAX_NR

/* A convolution without padding (a padded one has its zeros in the input planes). Its output is
 * [out_c][in_h - 4][in_w], of each row in_w - 4 values are valid. */
struct layer_conv {
    unsigned in_c, in_h, in_w, out_c;
};

/* Room for packed operands, one per thread. */
#define LAYER_A_FLOATS ((LAYER_MAX_CHANNELS + KERNEL_GEMM_MAX_MR) * LAYER_MAX_TERMS)
#define LAYER_B_FLOATS 65536
struct layer_scratch {
    const struct kernels *kernels;
    float a[LAYER_A_FLOATS];
    float b[LAYER_B_FLOATS];
    float tile[KERNEL_GEMM_MAX_MR * KERNEL_GEMM_MAX_NR];
};

/* ---- convolution, one image ---- */

/* Weights [out_c][in_c][5][5] packed for the forward pass and for layer_conv_backward_data(), each
 * into LAYER_A_FLOATS floats at most. */
void layer_conv_pack(const struct kernels *k, const struct layer_conv *c, const float *w,
                     float *packed);
void layer_conv_pack_back(const struct kernels *k, const struct layer_conv *c, const float *w,
                          float *packed);

void layer_conv_forward(struct layer_scratch *s, const struct layer_conv *c, const float *packed,
                        const float *x, float *y);
void layer_conv_backward_weights(struct layer_scratch *s, const struct layer_conv *c,
                                 const float *x, const float *dy, float *dw /* += */);
void layer_conv_backward_data(struct layer_scratch *s, const struct layer_conv *c,
                              const float *packed_back, const float *dy, float *dx);

/* ---- 2x2 max pooling, one image ---- */

/* y has the layout of c's output; p is [out_c][h / 2][w / 2] of its valid part; which gets the
 * place of each maximum in its window: 0 and 1 above, 2 and 3 below. */
void layer_pool_forward(const struct layer_conv *c, const float *y, float *p, uint8_t *which);
void layer_pool_backward(const struct layer_conv *c, const float *dp, const uint8_t *which,
                         float *dy);

/* ---- bias and activation ---- */

/* x[channels][count] = act(x + bias[channel]), in place. After max pooling rather than before it:
 * the activations never decrease, so the result is the same for a quarter of the work. */
void layer_bias_activation(enum cvd_activation act, size_t channels, size_t count,
                           const float *bias, float *x);
/* x = act(x). */
void layer_activation(enum cvd_activation act, size_t count, float *x);
/* dx = dx * act'(…), from the activation's output y. */
void layer_activation_backward(enum cvd_activation act, size_t count, const float *y, float *dx);
/* db[channel] += sum of dx[channel][count]. */
void layer_bias_backward(size_t channels, size_t count, const float *dx, float *db);

/* ---- dense layer, n images; w is [in][out] ---- */
struct layer_dense {
    size_t in, out;
};
void layer_dense_forward(struct layer_scratch *s, const struct layer_dense *d, const float *w,
                         const float *bias, size_t n, const float *x, float *y);
void layer_dense_backward_weights(struct layer_scratch *s, const struct layer_dense *d, size_t n,
                                  const float *x, const float *dy, float *dw /* += */,
                                  float *db /* += */);
void layer_dense_backward_data(struct layer_scratch *s, const struct layer_dense *d, const float *w,
                               size_t n, const float *dy, float *dx);

/* ---- dropout, inverted: what is kept grows so that the expected sum stays ---- */

/* Draws count factors, each 0 with probability p, else 1 / (1 - p). The forward pass multiplies by
 * them, and the backward pass does the same to the gradient. */
void layer_dropout_draw(struct rng *r, float p, size_t count, float *factors);
/* out = x * factors; out may be x. */
void layer_dropout_apply(size_t count, const float *factors, const float *x, float *out);

/* ---- softmax and cross-entropy ---- */

/* Sum over n images of -log softmax(logits)[label], in double; *correct counts images whose label
 * has the largest logit (the first of equals). dlogits (may be NULL; may be logits) gets the
 * gradient of scale * loss. */
double layer_softmax_loss(size_t n, size_t classes, const float *logits, const uint16_t *labels,
                          float scale, float *dlogits, size_t *correct);

#endif
