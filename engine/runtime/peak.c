/* How fast this machine multiplies and adds on an engine's workers: the yardstick of benchmarks. */
#include "engine/runtime/model.h"

#include <time.h>

/* A repeat takes some 20 ms at 100 GFLOP/s a thread: long enough for a clock that ramps up, in
 * parts small enough that the workers end together. The best of several is the one least disturbed.
 */
#define PEAK_REPEATS 8
#define PEAK_PARTS   64u /* a worker */
#define PEAK_FLOPS   3e7 /* a part */

struct peak {
    kernel_peak_fn fn;
    size_t rounds;
};

static void peak_part(void *ctx, size_t part, unsigned slot)
{
    const struct peak *peak = ctx;
    float values[KERNEL_PEAK_CHAINS];
    (void)part;
    (void)slot;
    for (int i = 0; i < KERNEL_PEAK_CHAINS; i++)
        values[i] = (float)i;
    peak->fn(peak->rounds, values);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double cvd_engine_peak_gflops(const struct cvd_engine *engine)
{
    double flops = engine->kernels.peak.flops, best = 0;
    size_t parts = PEAK_PARTS * (size_t)tpool_threads(engine->pool);
    struct peak peak = {engine->kernels.peak.fn, (size_t)(PEAK_FLOPS / flops)};
    double total = flops * (double)peak.rounds * (double)parts;
    for (int i = 0; i < PEAK_REPEATS; i++) {
        double begin = now();
        tpool_for(engine->pool, parts, peak_part, &peak);
        double rate = total / (now() - begin) * 1e-9;
        if (rate > best)
            best = rate;
    }
    return best;
}
