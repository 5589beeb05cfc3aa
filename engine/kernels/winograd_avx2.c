/* Winograd's transforms, AVX2 and FMA. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_avx2.h"
#include "engine/kernels/vmath.inc"

#define WINOGRAD_MOST(v) ((v) == 4 ? 3 : (v) == 3 ? 4 : (v) == 2 ? 6 : 8)
/* clang-format off */
#define WINOGRAD_TILES(X) \
    X(1, 1) X(2, 1) X(3, 1) X(4, 1) X(5, 1) X(6, 1) \
    X(7, 1) X(8, 1) \
    X(1, 2) X(2, 2) X(3, 2) X(4, 2) X(5, 2) X(6, 2) \
    X(1, 3) X(2, 3) X(3, 3) X(4, 3) \
    X(1, 4) X(2, 4) X(3, 4)
/* clang-format on */
#define WINOGRAD_NAME(x) cvd_f32_winograd_##x##__avx2
#include "engine/kernels/winograd.inc"

void kernels_init_winograd_avx2(struct kernels *k)
{
    k->winograd.product = WINOGRAD_NAME(product);
    k->winograd.vectors = 2;
    k->winograd.by_4.input = WINOGRAD_NAME(input_4x4);
    k->winograd.by_4.output = WINOGRAD_NAME(output_4x4);
    k->winograd.by_4.name = "cvd_f32_winograd_4x4__avx2";
    k->winograd.by_2.input = WINOGRAD_NAME(input_2x2);
    k->winograd.by_2.output = WINOGRAD_NAME(output_2x2);
    k->winograd.by_2.name = "cvd_f32_winograd_2x2__avx2";
}
