/* Matrix product, AVX2 and FMA: 6 x 16 keeps 12 sums in 16 registers, more than the 8 to 10 that
 * two fused multiply-adds a cycle with a latency of 4 or 5 need. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_avx2.h"

#define GEMM_MR   6
#define GEMM_NV   2
#define GEMM_NAME cvd_f32_gemm_6x16__avx2
#define GEMM_ROW(X, r) \
    X(r, 1)            \
    X(r, 2)
#define GEMM_SHAPES(X) \
    GEMM_ROW(X, 1)     \
    GEMM_ROW(X, 2)     \
    GEMM_ROW(X, 3)     \
    GEMM_ROW(X, 4)     \
    GEMM_ROW(X, 5)     \
    GEMM_ROW(X, 6)
#include "engine/kernels/gemm.inc"

void kernels_init_avx2(struct kernels *k)
{
    k->gemm.fn = cvd_f32_gemm_6x16__avx2;
    k->gemm.mr = GEMM_MR;
    k->gemm.nr = GEMM_NV * VL;
    k->gemm.name = "cvd_f32_gemm_6x16__avx2";
}
