/* Plain maps of few channels and changes of layout, portable C. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_c.h"
#include "engine/kernels/vmath.inc"

#define PLAIN_NAME(x)        cvd_f32_##x##__c
#define PLANES_VECTORS(maps) ((maps) <= 2 ? 2 : 1)
#include "engine/kernels/plain.inc"

void kernels_init_plain_c(struct kernels *k)
{
    k->planes.fn = PLAIN_NAME(planes);
    k->planes.name = "cvd_f32_planes__c";
    k->planes.pool = PLAIN_NAME(planes_pool);
    k->planes.pool_name = "cvd_f32_planes_pool__c";
    k->reorder.block = PLAIN_NAME(block);
    k->reorder.unblock = PLAIN_NAME(unblock);
    k->reorder.name = "cvd_f32_reorder__c";
}
