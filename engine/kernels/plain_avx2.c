/* Plain maps of few channels and changes of layout, AVX2 and FMA. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_avx2.h"
#include "engine/kernels/vmath.inc"

#define PLAIN_NAME(x)        cvd_f32_##x##__avx2
#define PLANES_VECTORS(maps) ((maps) <= 3 ? 3 : (maps) <= 6 ? 2 : 1)
#include "engine/kernels/plain.inc"

void kernels_init_plain_avx2(struct kernels *k)
{
    k->planes.fn = PLAIN_NAME(planes);
    k->planes.name = "cvd_f32_planes__avx2";
    k->planes.pool = PLAIN_NAME(planes_pool);
    k->planes.pool_name = "cvd_f32_planes_pool__avx2";
    k->reorder.block = PLAIN_NAME(block);
    k->reorder.unblock = PLAIN_NAME(unblock);
    k->reorder.name = "cvd_f32_reorder__avx2";
}
