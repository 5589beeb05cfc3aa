/* Convolution, AVX-512: with v vectors of weights and a broadcast input beside them, 32 registers
 * hold tiles of up to 6 x 4, 8 x 3, 13 x 2 and 14 x 1 sums. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_avx512.h"
#include "engine/kernels/vmath.inc"

#define CONV_NAME      cvd_f32_conv_6x4__avx512
#define CONV_REGISTERS 32
#define CONV_MAX_PIXELS \
    {                   \
        0, 14, 14, 9, 6 \
    }
/* clang-format off */
#define CONV_TILES_1(X) X(1, 1) X(2, 1) X(3, 1) X(4, 1) X(5, 1) X(6, 1) X(7, 1) X(8, 1) X(9, 1) \
    X(10, 1) X(11, 1) X(12, 1) X(13, 1) X(14, 1)
#define CONV_TILES_2(X) X(1, 2) X(2, 2) X(3, 2) X(4, 2) X(5, 2) X(6, 2) X(7, 2) X(8, 2) X(9, 2) \
    X(10, 2) X(11, 2) X(12, 2) X(13, 2) X(14, 2)
#define CONV_TILES_3(X) X(1, 3) X(2, 3) X(3, 3) X(4, 3) X(5, 3) X(6, 3) X(7, 3) X(8, 3) X(9, 3)
#define CONV_TILES_4(X) X(1, 4) X(2, 4) X(3, 4) X(4, 4) X(5, 4) X(6, 4)
/* clang-format on */
#include "engine/kernels/conv.inc"

#define GROUPED_NAME   cvd_f32_grouped__avx512
#define GROUPED_PIXELS 14
/* clang-format off */
#define GROUPED_TILES(X, s) X(1, s) X(2, s) X(3, s) X(4, s) X(5, s) X(6, s) X(7, s) X(8, s) \
    X(9, s) X(10, s) X(11, s) X(12, s) X(13, s) X(14, s)
/* clang-format on */
#include "engine/kernels/grouped.inc"

void kernels_init_conv_avx512(struct kernels *k)
{
    k->lanes = VL;
    k->conv.fn = CONV_NAME;
    k->conv.name = "cvd_f32_conv_6x4__avx512";
    for (size_t v = 0; v <= KERNEL_CONV_MAX_VECTORS; v++)
        k->conv.max_pixels[v] = conv_max_pixels[v];
    k->grouped.fn = GROUPED_NAME;
    k->grouped.name = "cvd_f32_grouped__avx512";
}
