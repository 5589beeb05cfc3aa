/* Full unrolling of the loop that follows; its trip count must be a constant after inlining. Arrays
 * of vectors live in registers only when every loop over them is unrolled. Clang ignores GCC's
 * pragma without a word, hence the two spellings; GCC unrolls no loop with more steps than the
 * pragma says: a tile of 14 pixels under a window of 5 has 18. */
#ifndef CONVD_KERNELS_UNROLL_H
#define CONVD_KERNELS_UNROLL_H

#if defined(__clang__)
#define KERNEL_UNROLL _Pragma("clang loop unroll(full)")
#else
#define KERNEL_UNROLL _Pragma("GCC unroll 32")
#endif

#endif
