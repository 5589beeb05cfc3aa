/* Eight floats in a ymm register, with fused multiply-add. The names are those of vec_c.h. */
#ifndef CONVD_KERNELS_VEC_AVX2_H
#define CONVD_KERNELS_VEC_AVX2_H

#include <immintrin.h>
#include <stddef.h>

#define VL 8

typedef __m256 vf;

static inline vf v_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void v_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}

static inline vf v_bcast(const float *p)
{
    return _mm256_broadcast_ss(p);
}

static inline vf v_fma(vf a, vf b, vf sum)
{
    return _mm256_fmadd_ps(a, b, sum);
}

/* All ones in the first n lanes. Masked-out lanes of a maskload or maskstore never fault. */
static inline __m256i v_mask(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vf v_load_part(const float *p, size_t n)
{
    return _mm256_maskload_ps(p, v_mask(n));
}

static inline void v_store_part(float *p, vf v, size_t n)
{
    _mm256_maskstore_ps(p, v_mask(n), v);
}

#endif
