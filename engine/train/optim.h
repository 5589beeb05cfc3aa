/*
 * The optimiser: turns the gradients of a mini-batch into a step of the parameters.
 *
 * Gradients come as shards, one for each fixed part of the mini-batch, and are summed in shard
 * order; all other work is per element. So the result does not depend on how the work is cut up.
 */
#ifndef CONVD_TRAIN_OPTIM_H
#define CONVD_TRAIN_OPTIM_H

#include <convd/train.h>

#include "engine/runtime/tpool.h"

struct optim {
    enum cvd_optimizer type;
    float momentum, weight_decay;
    size_t count; /* parameters */
    float *parameters;
    float *average;      /* exponential moving average of the parameters, what is kept at the end */
    float *m, *v;        /* first and second moment (SGD: velocity in m, no v) */
    const float *decays; /* 1 where weight decay applies (weights), 0 where not (biases) */
    uint64_t steps;      /* done */
};

/* Learning rate of step (0 … steps - 1): a linear rise over the first twentieth, then half a cosine
 * down to zero (Loshchilov and Hutter, 2017). */
float optim_rate(float peak, uint64_t step, uint64_t steps);

/* One step with the sum of `shards` arrays of `count` gradients, which lie one behind another.
 * (Adam: Kingma and Ba, 2015, with decoupled weight decay: Loshchilov and Hutter, 2019.) */
void optim_step(struct optim *o, struct tpool *pool, const float *gradients, size_t shards,
                float rate);

#endif
