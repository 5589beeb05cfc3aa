/* The peak rate of multiply-adds, AVX2 and FMA. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_avx2.h"

#define PEAK_NAME cvd_f32_peak__avx2
#include "engine/kernels/peak.inc"

void kernels_init_peak_avx2(struct kernels *k)
{
    k->peak.fn = PEAK_NAME;
    k->peak.flops = PEAK_FLOPS;
}
