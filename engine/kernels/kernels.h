/*
 * The kernel table: the few pure loops that take the time, one implementation per CPU level.
 *
 * A kernel works on raw pointers: it allocates nothing, starts no thread, validates nothing and
 * calls no other project function. The plain-C kernels (suffix __c) are the specification; every
 * other level is an alternative spelling of them, compared with them by tests/kernels. Tile sizes
 * travel with the pointers, so packing and planning never hard-code them.
 *
 * The table is a value: each engine holds its own, and a test can build any level's.
 */
#ifndef CONVD_KERNELS_KERNELS_H
#define CONVD_KERNELS_KERNELS_H

#include <convd/engine.h>

#include <stddef.h>

/*
 * C[mr][nr] (row stride ldc floats) = or += A * B over k steps. A is packed [k][mr], B is packed
 * [k][nr]; both are padded to whole tiles, with zeros or with anything else: padding meets no
 * element that is stored. 1 <= rows <= mr and 1 <= cols <= nr say how much of the tile is stored;
 * nothing else of C is touched, nothing beyond A and B is read, and no alignment is asked for. Sums
 * run over k in ascending order in float32; with `accumulate` each starts from what C holds, so
 * cutting k into pieces changes no bit.
 */
typedef void (*kernel_gemm_fn)(size_t k, const float *a, const float *b, float *c, size_t ldc,
                               size_t rows, size_t cols, int accumulate);

/* chain = chain * 1/2 + 1/2 for KERNEL_PEAK_CHAINS vectors; chain i begins with values[i] in every
 * lane and ends there. The peak that the other kernels are measured against. */
typedef void (*kernel_peak_fn)(size_t rounds, float *values);

struct kernels {
    enum cvd_cpu level;
    struct {
        kernel_peak_fn fn;
        unsigned flops; /* operations of a round */
    } peak;
    struct {
        kernel_gemm_fn fn;
        unsigned mr, nr; /* at most KERNEL_GEMM_MAX_MR, KERNEL_GEMM_MAX_NR */
        const char *name;
    } gemm;
};

#define KERNEL_GEMM_MAX_MR 16
#define KERNEL_GEMM_MAX_NR 64
#define KERNEL_PEAK_CHAINS 12

/* Fills the table for `level`, which must be supported by this machine (not AUTO). */
void kernels_init(struct kernels *k, enum cvd_cpu level);

/* One function per level that this build holds; each overwrites what it does better. */
void kernels_init_c(struct kernels *k);
void kernels_init_peak_c(struct kernels *k);
#if defined(__x86_64__)
void kernels_init_avx2(struct kernels *k);
void kernels_init_avx512(struct kernels *k);
void kernels_init_peak_avx2(struct kernels *k);
void kernels_init_peak_avx512(struct kernels *k);
#endif

#endif
