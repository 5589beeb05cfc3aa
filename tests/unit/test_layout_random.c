/*
 * Random networks, rewritten and laid out for every CPU level, compute what they should.
 *
 * CHECK_SEED=n checks that network alone and prints its layers; CHECK_COUNT=n so many, from seed 1
 * on.
 */
#include "tests/support/data.h"
#include "tests/support/random_net.h"
#include "tests/support/same_answers.h"

#include <criterion/criterion.h>

#include <stdlib.h>

#define NETWORKS 120

static void make(void *ctx, struct graph *g)
{
    const uint32_t *seed = ctx;
    random_net_make(g, *seed);
}

static uint32_t setting(const char *name, uint32_t fallback)
{
    const char *text = getenv(name);
    return text != NULL ? (uint32_t)strtoul(text, NULL, 10) : fallback;
}

static void check_all(enum cvd_cpu level)
{
    struct same_answers s;
    const uint32_t alone = setting("CHECK_SEED", 0);
    const uint32_t first = alone != 0 ? alone : 1;
    const uint32_t count = alone != 0 ? 1 : setting("CHECK_COUNT", NETWORKS);
    if (!same_answers_can(level))
        cr_skip_test("%s is not to be run here", cvd_cpu_name(level));
    same_answers_begin(&s, level);
    s.verbose = alone != 0;
    for (uint32_t seed = first; seed < first + count; seed++)
        same_answers_check(&s, make, &seed, data_printf("CHECK_SEED=%u", seed));
    same_answers_end(&s);
}

Test(layout_random, c, .timeout = 600)
{
    check_all(CVD_CPU_C);
}

Test(layout_random, avx2, .timeout = 600)
{
    check_all(CVD_CPU_AVX2);
}

Test(layout_random, avx512, .timeout = 600)
{
    check_all(CVD_CPU_AVX512);
}
