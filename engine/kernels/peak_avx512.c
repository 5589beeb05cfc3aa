/* The peak rate of multiply-adds, AVX-512. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_avx512.h"

#define PEAK_NAME cvd_f32_peak__avx512
#include "engine/kernels/peak.inc"

void kernels_init_peak_avx512(struct kernels *k)
{
    k->peak.fn = PEAK_NAME;
    k->peak.flops = PEAK_FLOPS;
}
