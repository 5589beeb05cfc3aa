/* Eight floats in a ymm register, with fused multiply-add. The names are those of vec_c.h. */
#ifndef CONVD_KERNELS_VEC_AVX2_H
#define CONVD_KERNELS_VEC_AVX2_H

#include <immintrin.h>
#include <stddef.h>

#define VL 8

typedef __m256 vf;

/* Makes the compiler hold a value in a register: left to themselves, compilers fold a load into
 * each of its uses. */
#define V_KEEP(v) __asm__("" : "+x"(v))

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

static inline vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

static inline vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

static inline vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
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

/* a0 b0 a1 b1 ... of the lower halves, and of the upper ones. */
static inline vf v_zip_low(vf a, vf b)
{
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}

static inline vf v_zip_high(vf a, vf b)
{
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}

/* The lanes with even numbers of a, then those of b; and those with odd ones. */
static inline vf v_even(vf a, vf b)
{
    const __m256d x = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(x, 0xd8));
}

static inline vf v_odd(vf a, vf b)
{
    const __m256d x = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(x, 0xd8));
}

/* Lane numbers for v_permute(), whose lane i is lane index[i] of v. */
typedef __m256i v_index;

static inline v_index v_load_index(const int *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

static inline vf v_permute(vf v, v_index index)
{
    return _mm256_permutevar8x32_ps(v, index);
}

/* The lanes of v_pick() in which an index is not negative. */
typedef __m256 v_lanes;

static inline v_lanes v_not_negative(v_index index)
{
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(index, _mm256_set1_epi32(-1)));
}

/* In these lanes lane index[i] of v, otherwise lane i of base. */
static inline vf v_pick(vf base, vf v, v_index index, v_lanes lanes)
{
    return _mm256_blendv_ps(base, _mm256_permutevar8x32_ps(v, index), lanes);
}

#endif
