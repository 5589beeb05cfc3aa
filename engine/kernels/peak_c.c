/* The peak rate of multiply-adds, portable C: a multiplication and an addition. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_c.h"

#define PEAK_NAME cvd_f32_peak__c
#include "engine/kernels/peak.inc"

void kernels_init_peak_c(struct kernels *k)
{
    k->peak.fn = PEAK_NAME;
    k->peak.flops = PEAK_FLOPS;
}
