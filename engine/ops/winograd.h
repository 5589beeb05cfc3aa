/*
 * A 3 x 3 convolution with stride 1 by Winograd's algorithm on blocked maps: what the operator and
 * its measurements share (kernels/winograd.h says how it works).
 *
 * Work is cut into blocks of tiles and groups of output channels. While a block's transformed
 * inputs and a group's products stay in the second-level cache, the transformed weights pass by
 * once for each block. With enough blocks each thread takes whole blocks; with few (small maps with
 * many channels, where reading the weights is what takes the time) the threads first share the
 * input transform of one block, then its groups. Neither changes any output bit.
 */
#ifndef CONVD_OPS_WINOGRAD_H
#define CONVD_OPS_WINOGRAD_H

#include "engine/ops/blocked.h"

/* What is known at load. */
struct winograd {
    unsigned tile; /* 4 or 2 outputs on a side */
    unsigned lanes;
    size_t in_channels, out_channels;
    size_t in_blocks, out_blocks, groups;
    float *weights; /* [group][element][in_channels][vectors of the group * lanes] */
    float *bias;    /* out_blocks * lanes */
};

/* Bytes of `weights` and `bias` together; false when they overflow. */
bool winograd_bytes(const struct kernels *kernels, unsigned tile, size_t in_channels,
                    size_t out_channels, size_t *bytes);

/* Sets up *w in `memory` of winograd_bytes(), aligned to MEM_ALIGN. weights: [out][in][3][3]; bias
 * may be NULL. */
void winograd_init(struct winograd *w, const struct kernels *kernels, unsigned tile,
                   size_t in_channels, size_t out_channels, const float *weights, const float *bias,
                   void *memory);

/* Bytes of scratch a slot, enough for maps of any size and number; false when they overflow. */
bool winograd_scratch(const struct winograd *w, size_t *bytes);

struct winograd_job {
    const struct winograd *w;
    const struct kernels *kernels;
    struct blocked_map in_map, out_map;
    size_t pad_top, pad_left;
    const float *in;       /* pixel (0, 0) of block 0 of image 0 */
    const float *residual; /* laid out like out, but for residual_image; NULL: none */
    size_t residual_image; /* from one to the next */
    float *out;
    struct kernel_act act;
    char *scratch; /* of slot 0 */
    size_t scratch_stride;
};

void winograd_run(const struct winograd_job *job, struct tpool *pool);

#endif
