/* Time for deadlines and durations: monotonic nanoseconds. Wall-clock time is for logs alone. */
#ifndef CONVD_SERVER_CLOCK_H
#define CONVD_SERVER_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The same some milliseconds late, for a fraction of the price. */
static inline uint64_t clock_coarse_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif
