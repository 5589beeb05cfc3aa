/* Depthwise convolution, pooling and element-wise functions, AVX-512. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_avx512.h"
#include "engine/kernels/vmath.inc"

#define DEPTHWISE_NAME cvd_f32_depthwise__avx512
#define DEPTHWISE_ROWS 3
#include "engine/kernels/depthwise.inc"

#define POOL_NAME        cvd_f32_pool__avx512
#define GLOBAL_POOL_NAME cvd_f32_global_pool__avx512
#include "engine/kernels/pool.inc"

#define CHANNELS_NAME cvd_f32_channels__avx512
#include "engine/kernels/channels.inc"

#define POINTWISE_NAME(x) cvd_f32_##x##__avx512
#include "engine/kernels/pointwise.inc"

void kernels_init_map_avx512(struct kernels *k)
{
    k->depthwise.fn = DEPTHWISE_NAME;
    k->depthwise.name = "cvd_f32_depthwise__avx512";
    k->pool.fn = POOL_NAME;
    k->pool.name = "cvd_f32_pool__avx512";
    k->global_pool.fn = GLOBAL_POOL_NAME;
    k->global_pool.name = "cvd_f32_global_pool__avx512";
    k->pointwise.fn = POINTWISE_NAME(map);
    k->pointwise.name = "cvd_f32_map__avx512";
    k->channels.fn = CHANNELS_NAME;
    k->channels.name = "cvd_f32_channels__avx512";
    k->softmax.fn = POINTWISE_NAME(softmax);
    k->softmax.name = "cvd_f32_softmax__avx512";
    k->layer_norm.fn = POINTWISE_NAME(layer_norm);
    k->layer_norm.name = "cvd_f32_layer_norm__avx512";
    k->act = vmath_act;
}
