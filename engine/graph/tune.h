/*
 * Tuning: which of the ways to compute a convolution takes the least time on this machine.
 *
 * The ways are told apart by their tile: 0 is the direct one, 2 and 4 are Winograd's. They round
 * differently, so what is chosen here holds for as long as the model is loaded.
 *
 * A struct tune belongs to one load. It knows a choice for every convolution that was timed, by a
 * key of all that matters to its time, so equal ones are timed once; what another load has found
 * out can be put in beforehand (runtime/tune_file.h). Whatever goes wrong, for want of memory or of
 * time, the first way that the caller names is taken.
 *
 * Private to the engine; no thread-safety.
 */
#ifndef CONVD_GRAPH_TUNE_H
#define CONVD_GRAPH_TUNE_H

#include "engine/ops/op.h"

#define TUNE_KEY_BYTES   112
#define TUNE_MAX_WAYS    3
#define TUNE_MAX_CHOICES 1024

struct tune_choice {
    char key[TUNE_KEY_BYTES]; /* printable, no spaces */
    unsigned tile;
    bool used; /* by this load */
};

struct tune {
    const struct kernels *kernels;
    uint64_t budget_ns, spent_ns;
    struct tune_choice *choices;
    size_t count, room;
    unsigned timed;    /* choices made by timing */
    unsigned recalled; /* choices used that were put in beforehand */
};

void tune_init(struct tune *t, const struct kernels *kernels, uint64_t budget_ns);
void tune_release(struct tune *t);

/* Puts a choice in, in place of an earlier one of that key; false when it is none or there is no
 * room for it. */
bool tune_put(struct tune *t, const char *key, unsigned tile);

/* The tile for a 3 x 3 Conv, with its residual and activation, that infer has accepted and whose
 * weights are constant: one of tiles[0 … count - 1], each of which fits. `out` is its output's
 * shape. */
unsigned tune_tile(struct tune *t, const struct op_node *node, const struct cvd_shape *out,
                   const unsigned *tiles, size_t count);

/* Which of the times wins: the shortest, but only when it is clearly shorter than the first. */
size_t tune_pick(const uint64_t *ns, size_t count);

#endif
