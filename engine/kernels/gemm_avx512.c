/* Matrix product, AVX-512: 8 x 48 keeps 24 sums in 32 registers; a step of k is 11 loads for 24
 * multiply-adds, and 8 rows divide the usual channel counts. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_avx512.h"

#define GEMM_MR   8
#define GEMM_NV   3
#define GEMM_NAME cvd_f32_gemm_8x48__avx512
#define GEMM_ROW(X, r) \
    X(r, 1)            \
    X(r, 2)            \
    X(r, 3)
#define GEMM_SHAPES(X) \
    GEMM_ROW(X, 1)     \
    GEMM_ROW(X, 2)     \
    GEMM_ROW(X, 3)     \
    GEMM_ROW(X, 4)     \
    GEMM_ROW(X, 5)     \
    GEMM_ROW(X, 6)     \
    GEMM_ROW(X, 7)     \
    GEMM_ROW(X, 8)
#include "engine/kernels/gemm.inc"

void kernels_init_avx512(struct kernels *k)
{
    k->gemm.fn = cvd_f32_gemm_8x48__avx512;
    k->gemm.mr = GEMM_MR;
    k->gemm.nr = GEMM_NV * VL;
    k->gemm.name = "cvd_f32_gemm_8x48__avx512";
}
