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

#include "engine/kernels/conv.h"
#include "engine/kernels/map.h"
#include "engine/kernels/plain.h"
#include "engine/kernels/winograd.h"

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
    unsigned lanes; /* of a vector, and of a pixel of a blocked map */
    struct {
        kernel_peak_fn fn;
        unsigned flops; /* operations of a round */
    } peak;
    struct {
        kernel_gemm_fn fn;
        unsigned mr, nr; /* at most KERNEL_GEMM_MAX_MR, KERNEL_GEMM_MAX_NR */
        const char *name;
    } gemm;
    struct {
        kernel_conv_fn fn;
        unsigned max_pixels[KERNEL_CONV_MAX_VECTORS + 1]; /* of a tile of so many vectors */
        const char *name;
    } conv;
    struct {
        kernel_grouped_fn fn;
        const char *name;
    } grouped;
    struct {
        kernel_planes_fn fn;
        const char *name;
        kernel_planes_pool_fn pool;
        const char *pool_name;
    } planes;
    struct {
        kernel_block_fn block;
        kernel_unblock_fn unblock;
        const char *name;
    } reorder;
    struct {
        struct {
            kernel_winograd_input_fn input;
            kernel_winograd_output_fn output;
            const char *name;
        } by_4, by_2; /* F(4x4, 3x3), F(2x2, 3x3) */
        kernel_winograd_product_fn product;
        unsigned vectors; /* of a group of output channels, at most */
    } winograd;
    struct {
        kernel_depthwise_fn fn;
        const char *name;
    } depthwise;
    struct {
        kernel_pool_fn fn;
        const char *name;
    } pool;
    struct {
        kernel_global_pool_fn fn;
        const char *name;
    } global_pool;
    struct {
        kernel_pointwise_fn fn;
        const char *name;
    } pointwise;
    struct {
        kernel_channels_fn fn;
        const char *name;
    } channels;
    struct {
        kernel_softmax_fn fn;
        const char *name;
    } softmax;
    struct {
        kernel_layer_norm_fn fn;
        const char *name;
    } layer_norm;
    kernel_act_fn act;
};

#define KERNEL_GEMM_MAX_MR 16
#define KERNEL_GEMM_MAX_NR 64
#define KERNEL_PEAK_CHAINS 12

/* Fills the table for `level`, which must be supported by this machine (not AUTO). */
void kernels_init(struct kernels *k, enum cvd_cpu level);

/* One function per level that this build holds; each overwrites what it does better. */
void kernels_init_c(struct kernels *k);
void kernels_init_peak_c(struct kernels *k);
void kernels_init_conv_c(struct kernels *k);
void kernels_init_plain_c(struct kernels *k);
void kernels_init_winograd_c(struct kernels *k);
void kernels_init_map_c(struct kernels *k);
#if defined(__x86_64__)
void kernels_init_avx2(struct kernels *k);
void kernels_init_avx512(struct kernels *k);
void kernels_init_peak_avx2(struct kernels *k);
void kernels_init_peak_avx512(struct kernels *k);
void kernels_init_conv_avx2(struct kernels *k);
void kernels_init_plain_avx2(struct kernels *k);
void kernels_init_conv_avx512(struct kernels *k);
void kernels_init_plain_avx512(struct kernels *k);
void kernels_init_winograd_avx2(struct kernels *k);
void kernels_init_winograd_avx512(struct kernels *k);
void kernels_init_map_avx2(struct kernels *k);
void kernels_init_map_avx512(struct kernels *k);
#endif

#endif
