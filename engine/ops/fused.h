/*
 * Operators with what follows them fused in: the domain "convd", which no file may use.
 *
 *   Conv        X, W, B or nothing, residual or nothing
 *   Gemm        A, B, C or nothing
 *   MatMul      A, B, bias or nothing (one number for each column of the product)
 *   Add         A, B of one shape
 *   Activation  X
 *   LayerNorm   X, scale, B or nothing (of as many elements as dimension `axis` of X has): over
 * that dimension alone; attributes `axis`, by default the last, and `epsilon`
 *
 * The attributes are those of ONNX's operator of that name (Gemm: of set 7 and later) and, but for
 * LayerNorm, `activation`, a name of the list below, with `activation_alpha` and `activation_beta`.
 * What is computed is the same, bit for bit, as by the separate operators: first the operator and
 * its bias, then the residual is added to the rounded sum, then the activation is applied to that.
 */
#ifndef CONVD_OPS_FUSED_H
#define CONVD_OPS_FUSED_H

#include "engine/ops/op.h"

#define FUSED_DOMAIN  "convd"
#define FUSED_VERSION 1

enum activation_kind {
    ACTIVATION_NONE,
    /* ONNX's operators of these names */
    ACTIVATION_RELU,
    ACTIVATION_LEAKY_RELU, /* alpha */
    ACTIVATION_CLIP,       /* alpha: lower limit, beta: upper limit */
    ACTIVATION_SIGMOID,
    ACTIVATION_TANH,
    ACTIVATION_HARD_SIGMOID, /* alpha, beta */
    ACTIVATION_HARD_SWISH,
    ACTIVATION_SWISH, /* alpha */
    ACTIVATION_MISH,
    ACTIVATION_GELU,
    /* The same functions as exporters spell them out: rounded after each of their operators. */
    ACTIVATION_MUL_SIGMOID,       /* x * Sigmoid(x) */
    ACTIVATION_MUL_HARD_SIGMOID,  /* x * HardSigmoid(x), with alpha and beta */
    ACTIVATION_MUL_TANH_SOFTPLUS, /* x * Tanh(Softplus(x)) */
    ACTIVATION_MUL_ERF,           /* x * (Erf(x * alpha / beta) + 1) * 0.5 */
    ACTIVATION_COUNT
};

struct activation {
    enum activation_kind kind;
    float alpha, beta;
};

/* Value of the attribute `activation`; and for people: the sequences are called what they make. */
const char *activation_name(enum activation_kind kind);
const char *activation_label(enum activation_kind kind);

/* The activation of a node of the domain "convd"; none for one of another domain. */
enum cvd_status activation_read(const struct op_node *node, struct activation *out);

/* Applies it to n elements in place. */
void activation_apply(const struct activation *a, float *y, size_t n);

/* What the operators of both domains have in common: conv.c and matmul.c. */
enum cvd_status conv_infer(const struct op_node *node, struct op_value *out);
enum cvd_status conv_prepare(const struct op_node *node, const struct op_value *out,
                             const struct kernels *kernels, struct op_prepared *prepared);
void conv_run(const struct op_run *r);
enum cvd_status gemm_infer(const struct op_node *node, struct op_value *out);
enum cvd_status gemm_prepare(const struct op_node *node, const struct op_value *out,
                             const struct kernels *kernels, struct op_prepared *prepared);
void gemm_run(const struct op_run *r);
enum cvd_status matmul_infer(const struct op_node *node, struct op_value *out);
enum cvd_status matmul_prepare(const struct op_node *node, const struct op_value *out,
                               const struct kernels *kernels, struct op_prepared *prepared);
void matmul_run(const struct op_run *r);

#endif
