/* Adam and SGD over gradient shards (see optim.h). */
#include "engine/train/optim.h"

#include <math.h>
#include <string.h>

#define ADAM_BETA1   0.9f
#define ADAM_BETA2   0.999f
#define ADAM_EPSILON 1e-8f

/* The moving average forgets with a time constant of 1,000 steps, and faster at the beginning. */
#define AVERAGE_DECAY 0.999f

/* Parameters handled at a time: sums of gradients stay in the L1 cache. */
#define BLOCK 1024

float optim_rate(float peak, uint64_t step, uint64_t steps)
{
    const double pi = 3.14159265358979323846;
    const uint64_t rise = steps / 20 + 1;
    if (step < rise)
        return (float)((double)peak * (double)(step + 1) / (double)rise);
    const double done = (double)(step - rise) / (double)(steps - rise);
    return (float)((double)peak * 0.5 * (1 + cos(pi * done)));
}

struct step {
    struct optim *o;
    const float *gradients;
    size_t shards;
    float rate, keep;               /* keep: what the average keeps of its past */
    float correction1, correction2; /* Adam: the moments start at zero */
};

static void adam(const struct step *s, size_t at, size_t n, const float *restrict g)
{
    float *restrict p = s->o->parameters + at, *restrict m = s->o->m + at;
    float *restrict v = s->o->v + at;
    const float *restrict decays = s->o->decays + at;
    const float shrink = s->rate * s->o->weight_decay;
    for (size_t i = 0; i < n; i++) {
        m[i] = ADAM_BETA1 * m[i] + (1 - ADAM_BETA1) * g[i];
        v[i] = ADAM_BETA2 * v[i] + (1 - ADAM_BETA2) * g[i] * g[i];
        const float step = m[i] * s->correction1 / (sqrtf(v[i] * s->correction2) + ADAM_EPSILON);
        p[i] -= s->rate * step + shrink * decays[i] * p[i];
    }
}

static void sgd(const struct step *s, size_t at, size_t n, const float *restrict g)
{
    float *restrict p = s->o->parameters + at, *restrict velocity = s->o->m + at;
    const float *restrict decays = s->o->decays + at;
    const float shrink = s->rate * s->o->weight_decay;
    for (size_t i = 0; i < n; i++) {
        velocity[i] = s->o->momentum * velocity[i] + g[i];
        p[i] -= s->rate * velocity[i] + shrink * decays[i] * p[i];
    }
}

static void step_block(void *ctx, size_t block, unsigned slot)
{
    const struct step *s = ctx;
    const struct optim *o = s->o;
    const size_t at = block * BLOCK, n = o->count - at < BLOCK ? o->count - at : BLOCK;
    float sum[BLOCK];
    (void)slot;
    memcpy(sum, s->gradients + at, n * sizeof *sum);
    for (size_t shard = 1; shard < s->shards; shard++) {
        const float *from = s->gradients + shard * o->count + at;
        for (size_t i = 0; i < n; i++)
            sum[i] += from[i];
    }
    if (o->type == CVD_OPTIMIZER_ADAM)
        adam(s, at, n, sum);
    else
        sgd(s, at, n, sum);
    float *restrict average = o->average + at;
    const float *restrict p = o->parameters + at;
    for (size_t i = 0; i < n; i++)
        average[i] = s->keep * average[i] + (1 - s->keep) * p[i];
}

void optim_step(struct optim *o, struct tpool *pool, const float *gradients, size_t shards,
                float rate)
{
    const double t = (double)++o->steps;
    const float keep = (float)(t / (t + 9)); /* 0.1, 0.18, …: the average of what is new */
    struct step s = {
        .o = o,
        .gradients = gradients,
        .shards = shards,
        .rate = rate,
        .keep = keep < AVERAGE_DECAY ? keep : AVERAGE_DECAY,
        .correction1 = (float)(1 / (1 - pow((double)ADAM_BETA1, t))),
        .correction2 = (float)(1 / (1 - pow((double)ADAM_BETA2, t))),
    };
    tpool_for(pool, (o->count + BLOCK - 1) / BLOCK, step_block, &s);
}
