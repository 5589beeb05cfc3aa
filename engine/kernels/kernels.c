/* Fills the kernel table of a CPU level: from the lowest up, each level overwriting what it does
 * better. */
#include "engine/kernels/kernels.h"

#include <string.h>

void kernels_init(struct kernels *k, enum cvd_cpu level)
{
    memset(k, 0, sizeof *k);
    k->level = level;
    kernels_init_c(k);
    kernels_init_peak_c(k);
    kernels_init_conv_c(k);
    kernels_init_plain_c(k);
    kernels_init_winograd_c(k);
    kernels_init_map_c(k);
#if defined(__x86_64__)
    if (level < CVD_CPU_AVX2)
        return;
    kernels_init_avx2(k);
    kernels_init_peak_avx2(k);
    kernels_init_conv_avx2(k);
    kernels_init_plain_avx2(k);
    kernels_init_winograd_avx2(k);
    kernels_init_map_avx2(k);
    if (level < CVD_CPU_AVX512)
        return;
    kernels_init_avx512(k);
    kernels_init_peak_avx512(k);
    kernels_init_conv_avx512(k);
    kernels_init_plain_avx512(k);
    kernels_init_winograd_avx512(k);
    kernels_init_map_avx512(k);
#endif
}
