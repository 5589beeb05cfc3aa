/* Matrix product, portable C: 4 x 8 is what sixteen 128-bit registers hold. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_c.h"

#define GEMM_MR   4
#define GEMM_NV   2
#define GEMM_NAME cvd_f32_gemm_4x8__c
#define GEMM_ROW(X, r) \
    X(r, 1)            \
    X(r, 2)
#define GEMM_SHAPES(X) \
    GEMM_ROW(X, 1)     \
    GEMM_ROW(X, 2)     \
    GEMM_ROW(X, 3)     \
    GEMM_ROW(X, 4)
#include "engine/kernels/gemm.inc"

void kernels_init_c(struct kernels *k)
{
    k->gemm.fn = cvd_f32_gemm_4x8__c;
    k->gemm.mr = GEMM_MR;
    k->gemm.nr = GEMM_NV * VL;
    k->gemm.name = "cvd_f32_gemm_4x8__c";
}
