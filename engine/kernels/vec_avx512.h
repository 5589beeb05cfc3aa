/* Sixteen floats in a zmm register, with fused multiply-add. The names are those of vec_c.h. */
#ifndef CONVD_KERNELS_VEC_AVX512_H
#define CONVD_KERNELS_VEC_AVX512_H

#include <immintrin.h>
#include <stddef.h>

#define VL 16

typedef __m512 vf;

/* Makes the compiler hold a value in a register: left to themselves, compilers fold a load into
 * each of its uses. */
#define V_KEEP(v) __asm__("" : "+v"(v))

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

static inline vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

static inline vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

static inline vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
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

/* a0 b0 a1 b1 ... of the lower halves, and of the upper ones. */
static inline vf v_zip_low(vf a, vf b)
{
    const __m512i index = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a, index, b);
}

static inline vf v_zip_high(vf a, vf b)
{
    const __m512i index =
        _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_permutex2var_ps(a, index, b);
}

/* The lanes with even numbers of a, then those of b; and those with odd ones. */
static inline vf v_even(vf a, vf b)
{
    const __m512i index =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, index, b);
}

static inline vf v_odd(vf a, vf b)
{
    const __m512i index =
        _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, index, b);
}

/* Lane numbers for v_permute(), whose lane i is lane index[i] of v. */
typedef __m512i v_index;

static inline v_index v_load_index(const int *p)
{
    return _mm512_loadu_si512(p);
}

static inline vf v_permute(vf v, v_index index)
{
    return _mm512_permutexvar_ps(index, v);
}

/* The lanes of v_pick() in which an index is not negative. */
typedef __mmask16 v_lanes;

static inline v_lanes v_not_negative(v_index index)
{
    return _mm512_cmpge_epi32_mask(index, _mm512_setzero_si512());
}

/* In these lanes lane index[i] of v, otherwise lane i of base. */
static inline vf v_pick(vf base, vf v, v_index index, v_lanes lanes)
{
    return _mm512_mask_permutexvar_ps(base, lanes, index, v);
}

#endif
