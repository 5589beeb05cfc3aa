/*
 * Four floats with the compiler's generic vectors: SSE2 on x86-64, NEON on arm64, scalar code
 * elsewhere. No fused multiply-add: the product is rounded before the sum.
 *
 * Every vec_*.h offers the same names: VL lanes, vf, v_zero, v_load, v_store, v_bcast, v_fma,
 * v_add, v_max (a > b ? a : b) and v_min (a < b ? a : b; both give b when one is a NaN),
 * v_load_part and v_store_part, which touch only the first n lanes (1 <= n <= VL) and load zeros
 * into the others, and the permutations at the end.
 */
#ifndef CONVD_KERNELS_VEC_C_H
#define CONVD_KERNELS_VEC_C_H

#include <stddef.h>
#include <string.h>

#define VL 4

typedef float vf __attribute__((vector_size(16)));
typedef int vi __attribute__((vector_size(16)));

#define KERNEL_SELECT(mask, a, b) ((vf)(((vi)(a) & (mask)) | ((vi)(b) & ~(mask))))

/* For what other levels need: see there. */
#define V_KEEP(v) ((void)0)

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

static inline vf v_add(vf a, vf b)
{
    return a + b;
}

static inline vf v_max(vf a, vf b)
{
    return KERNEL_SELECT(a > b, a, b);
}

static inline vf v_min(vf a, vf b)
{
    return KERNEL_SELECT(a < b, a, b);
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

/* a0 b0 a1 b1 ... of the lower halves, and of the upper ones. */
static inline vf v_zip_low(vf a, vf b)
{
    return (vf){a[0], b[0], a[1], b[1]};
}

static inline vf v_zip_high(vf a, vf b)
{
    return (vf){a[2], b[2], a[3], b[3]};
}

/* The lanes with even numbers of a, then those of b; and those with odd ones. */
static inline vf v_even(vf a, vf b)
{
    return (vf){a[0], a[2], b[0], b[2]};
}

static inline vf v_odd(vf a, vf b)
{
    return (vf){a[1], a[3], b[1], b[3]};
}

/* Lane numbers for v_permute(), whose lane i is lane index[i] of v. */
typedef vi v_index;

static inline v_index v_load_index(const int *p)
{
    v_index index;
    memcpy(&index, p, sizeof index);
    return index;
}

static inline vf v_permute(vf v, v_index index)
{
    return (vf){v[index[0]], v[index[1]], v[index[2]], v[index[3]]};
}

/* The lanes of v_pick() in which an index is not negative. */
typedef vi v_lanes;

static inline v_lanes v_not_negative(v_index index)
{
    return index >= 0;
}

/* In these lanes lane index[i] of v, otherwise lane i of base. */
static inline vf v_pick(vf base, vf v, v_index index, v_lanes lanes)
{
    return KERNEL_SELECT(lanes, v_permute(v, index & (VL - 1)), base);
}

#endif
