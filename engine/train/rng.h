/*
 * Random numbers for training: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
 * generators", 2014). Small, and any stream can be reached at once: every image of every epoch has
 * its own, so what happens to it does not depend on which thread comes to it, or when.
 */
#ifndef CONVD_TRAIN_RNG_H
#define CONVD_TRAIN_RNG_H

#include <stdint.h>

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The stream of (seed, a, b); different triples give unrelated streams. */
static inline struct rng rng_stream(uint64_t seed, uint64_t a, uint64_t b)
{
    struct rng r = {seed};
    r.state = rng_next(&r) ^ a;
    r.state = rng_next(&r) ^ b;
    r.state = rng_next(&r);
    return r;
}

/* Uniform in [0, 1): 24 bits, so every value is exact in float. */
static inline float rng_unit(struct rng *r)
{
    return (float)(rng_next(r) >> 40) * 0x1p-24f;
}

/* Uniform in [-limit, limit). */
static inline float rng_within(struct rng *r, float limit)
{
    return (2 * rng_unit(r) - 1) * limit;
}

/* Uniform in 0 … n - 1, n >= 1 (the bias is below n / 2^32). */
static inline uint32_t rng_below(struct rng *r, uint32_t n)
{
    return (uint32_t)(((rng_next(r) >> 32) * n) >> 32);
}

#endif
