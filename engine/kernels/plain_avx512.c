/* Plain maps of few channels and changes of layout, AVX-512. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_avx512.h"
#include "engine/kernels/vmath.inc"

#define PLAIN_NAME(x)        cvd_f32_##x##__avx512
#define PLANES_VECTORS(maps) ((maps) <= 6 ? 4 : 3)
#include "engine/kernels/plain.inc"

void kernels_init_plain_avx512(struct kernels *k)
{
    k->planes.fn = PLAIN_NAME(planes);
    k->planes.name = "cvd_f32_planes__avx512";
    k->planes.pool = PLAIN_NAME(planes_pool);
    k->planes.pool_name = "cvd_f32_planes_pool__avx512";
    k->reorder.block = PLAIN_NAME(block);
    k->reorder.unblock = PLAIN_NAME(unblock);
    k->reorder.name = "cvd_f32_reorder__avx512";
}
