/*
 * What happens to a value on its way to memory: the activations that kernels know, as the last step
 * of a convolution, a sum or a pooling, and on their own.
 *
 * The cheap ones are exact to a rounding or two. Those that need an exponential have the relative
 * errors given here, measured against double precision over all of float32's range; an
 * exponential or sigmoid below 1e-37 may come out as zero. A NaN stays a NaN.
 */
#ifndef CONVD_KERNELS_ACT_H
#define CONVD_KERNELS_ACT_H

#include <stddef.h>

enum kernel_act_kind {
    KERNEL_ACT_NONE,
    KERNEL_ACT_CLIP,         /* to alpha … beta; Relu is 0 … infinity */
    KERNEL_ACT_LEAKY,        /* x < 0 ? alpha * x : x */
    KERNEL_ACT_HARD_SIGMOID, /* alpha * x + beta clipped to 0 … 1 */
    KERNEL_ACT_HARD_SWISH,   /* x * (alpha * x + beta clipped to 0 … 1) */
    KERNEL_ACT_SIGMOID,      /* 1 / (1 + exp(-x)): 3e-7, + 1.2e-7 * |x| where x < 0 */
    KERNEL_ACT_TANH,         /* 5e-7 */
    KERNEL_ACT_SWISH,        /* x / (1 + exp(-alpha * x)): 3e-7 + 1.2e-7 * |alpha * x| */
    KERNEL_ACT_GELU,         /* x * (1 + erf(alpha * x)) / 2, alpha = sqrt(1/2): 1e-6, and where
                                x < 0 an absolute error of 1.5e-7 * min(|x|, 1) besides */
    KERNEL_ACT_MISH,         /* x * tanh(log(1 + exp(x))): 4e-7, + 1.2e-7 * |x| where x < 0 */
    KERNEL_ACT_EXP,          /* 4e-7 */
    KERNEL_ACT_KINDS
};

struct kernel_act {
    enum kernel_act_kind kind;
    float alpha, beta;
};

/* y = act(y) for n floats in place; what is beyond the last whole vector is left alone. */
typedef void (*kernel_act_fn)(const struct kernel_act *act, float *y, size_t n);

#endif
