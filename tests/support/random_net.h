/*
 * Random small networks: convolutions of all kinds, pools, sums, products, concatenations, splits,
 * slices, channel shuffles, normalisations, activations, heads, and what stands between them in
 * files, connected in any way that is legal, with channel counts that are awkward to keep in
 * blocks.
 *
 * The same seed makes the same network. Numbers stay near 1, so that results of two ways to compute
 * it can be compared.
 */
#ifndef CONVD_TESTS_SUPPORT_RANDOM_NET_H
#define CONVD_TESTS_SUPPORT_RANDOM_NET_H

#include "tests/support/net.h"

/* At most 2 inputs and 5 outputs. */
void random_net_make(struct graph *g, uint32_t seed);

#endif
