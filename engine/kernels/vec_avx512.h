/* Sixteen floats in a zmm register, with fused multiply-add. The names are those of vec_c.h. */
#ifndef CONVD_KERNELS_VEC_AVX512_H
#define CONVD_KERNELS_VEC_AVX512_H

#include <immintrin.h>
#include <stddef.h>

#define VL 16

typedef __m512 vf;

static inline vf v_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void v_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}

static inline vf v_bcast(const float *p)
{
    return _mm512_set1_ps(*p);
}

static inline vf v_fma(vf a, vf b, vf sum)
{
    return _mm512_fmadd_ps(a, b, sum);
}

static inline __mmask16 v_mask(size_t n)
{
    return (__mmask16)((1u << n) - 1u);
}

/* Masked-out lanes never fault. */
static inline vf v_load_part(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(v_mask(n), p);
}

static inline void v_store_part(float *p, vf v, size_t n)
{
    _mm512_mask_storeu_ps(p, v_mask(n), v);
}

#endif
