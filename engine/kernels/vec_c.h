/*
 * Four floats with the compiler's generic vectors: SSE2 on x86-64, NEON on arm64, scalar code
 * elsewhere. No fused multiply-add: the product is rounded before the sum.
 *
 * Every vec_*.h offers the same names: VL lanes, vf, v_zero, v_load, v_store, v_bcast, v_fma, and
 * v_load_part / v_store_part, which touch only the first n lanes (1 <= n <= VL).
 */
#ifndef CONVD_KERNELS_VEC_C_H
#define CONVD_KERNELS_VEC_C_H

#include <stddef.h>
#include <string.h>

#define VL 4

typedef float vf __attribute__((vector_size(16)));

static inline vf v_zero(void)
{
    return (vf){0};
}

static inline vf v_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void v_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

static inline vf v_bcast(const float *p)
{
    return (vf){*p, *p, *p, *p};
}

static inline vf v_fma(vf a, vf b, vf sum)
{
    return a * b + sum;
}

static inline vf v_load_part(const float *p, size_t n)
{
    vf v = {0};
    memcpy(&v, p, n * sizeof *p);
    return v;
}

static inline void v_store_part(float *p, vf v, size_t n)
{
    memcpy(p, &v, n * sizeof *p);
}

#endif
