/*
 * Whether a network computes the same as it is written and as convd runs it: rewritten, laid out
 * for a CPU level, on one thread and on two, each image alone and in batches.
 */
#ifndef CONVD_TESTS_SUPPORT_SAME_ANSWERS_H
#define CONVD_TESTS_SUPPORT_SAME_ANSWERS_H

#include "engine/graph/graph.h"

#include <convd/engine.h>

#include <stdbool.h>

#define SAME_ANSWERS_BATCH 3

typedef void (*same_answers_make_fn)(void *ctx, struct graph *g);

struct same_answers {
    enum cvd_cpu level;
    struct cvd_engine *reference;  /* portable C, one thread */
    struct cvd_engine *engines[2]; /* of the level, with one thread and with two */
    bool verbose;                  /* prints the layers that are run */
};

/* Whether this machine has the level, and CONVD_CPU does not ask for a lower one. */
bool same_answers_can(enum cvd_cpu level);

void same_answers_begin(struct same_answers *s, enum cvd_cpu level);
void same_answers_end(struct same_answers *s);

/* make() makes the same graph again and again. Fails the test, naming the network `what`, unless
 * - the network, rewritten, can be loaded, for any batch where it can as it is written;
 * - all outputs are near to those of the network as it is written, within 1e-4 of the largest;
 * - they have the same bits on both engines;
 * - and, where no operator mixes images, an image's have the same bits in any batch. */
void same_answers_check(struct same_answers *s, same_answers_make_fn make, void *ctx,
                        const char *what);

#endif
