/*
 * What tests of kernels need: memory that ends or begins at a page that cannot be touched, poison
 * that shows whether something was written, and numbers that are the same for the same seed.
 */
#ifndef CONVD_TESTS_SUPPORT_GUARDED_H
#define CONVD_TESTS_SUPPORT_GUARDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct guarded {
    char *map;
    size_t map_bytes, count;
    float *data;
};

/* count floats of poison, flush against the page behind them (at_end) or before them. */
struct guarded guarded_floats(size_t count, bool at_end);
void guarded_free(struct guarded *g);

/* A NaN that no arithmetic makes. */
float guarded_poison(void);
bool guarded_is_poison(float f);

/* Uniform in [-1, 1). */
float guarded_random(uint32_t *state);

#endif
