/* Depthwise convolution, pooling and element-wise functions, portable C. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_c.h"
#include "engine/kernels/vmath.inc"

#define DEPTHWISE_NAME cvd_f32_depthwise__c
#define DEPTHWISE_ROWS 1
#include "engine/kernels/depthwise.inc"

#define POOL_NAME        cvd_f32_pool__c
#define GLOBAL_POOL_NAME cvd_f32_global_pool__c
#include "engine/kernels/pool.inc"

#define CHANNELS_NAME cvd_f32_channels__c
#include "engine/kernels/channels.inc"

#define POINTWISE_NAME(x) cvd_f32_##x##__c
#include "engine/kernels/pointwise.inc"

void kernels_init_map_c(struct kernels *k)
{
    k->depthwise.fn = DEPTHWISE_NAME;
    k->depthwise.name = "cvd_f32_depthwise__c";
    k->pool.fn = POOL_NAME;
    k->pool.name = "cvd_f32_pool__c";
    k->global_pool.fn = GLOBAL_POOL_NAME;
    k->global_pool.name = "cvd_f32_global_pool__c";
    k->pointwise.fn = POINTWISE_NAME(map);
    k->pointwise.name = "cvd_f32_map__c";
    k->channels.fn = CHANNELS_NAME;
    k->channels.name = "cvd_f32_channels__c";
    k->softmax.fn = POINTWISE_NAME(softmax);
    k->softmax.name = "cvd_f32_softmax__c";
    k->layer_norm.fn = POINTWISE_NAME(layer_norm);
    k->layer_norm.name = "cvd_f32_layer_norm__c";
    k->act = vmath_act;
}
