/*
 * Functions of one element, shared by the operators that are one and by those that end in one
 * (fused.h).
 */
#ifndef CONVD_OPS_FUNCTION_H
#define CONVD_OPS_FUNCTION_H

#include <stddef.h>

enum function {
    FN_RELU,
    FN_LEAKY_RELU,
    FN_ELU,
    FN_SELU,
    FN_CELU,
    FN_THRESHOLDED_RELU,
    FN_SIGMOID,
    FN_HARD_SIGMOID,
    FN_HARD_SWISH,
    FN_SWISH,
    FN_TANH,
    FN_SOFTPLUS,
    FN_SOFTSIGN,
    FN_MISH,
    FN_GELU,
    FN_GELU_TANH,
    FN_SQRT,
    FN_EXP,
    FN_LOG,
    FN_ERF,
    FN_ABS,
    FN_NEG,
    FN_RECIPROCAL,
    FN_FLOOR,
    FN_CEIL,
    FN_ROUND,
    FN_SIGN,
    FN_SIN,
    FN_COS
};

struct function_state {
    enum function fn;
    float alpha, beta; /* what the operator of that name calls so, in its order */
};

/* y = fn(x) for n elements; x and y may be the same. */
void function_map(const struct function_state *s, const float *x, float *y, size_t n);

#endif
