/*
 * The plan: a checked graph turned into a flat program for one engine.
 *
 * plan_build() makes all floating-point numbers float32 (widen.c), infers every value's shape for a
 * batch of one and of two (so any batch size is known by linear extension), folds what is constant,
 * rewrites the graph (passes.h), infers again, drops what does nothing, prepares every remaining
 * node (weights are packed, the originals freed) and assigns buffers so that values which are not
 * alive together share memory. The result is immutable and shared by all sessions.
 */
#ifndef CONVD_GRAPH_PLAN_H
#define CONVD_GRAPH_PLAN_H

#include "engine/graph/graph.h"

#include <convd/model.h>

/* Most bytes that the intermediate results of one image, or of a fixed batch, may take. Far more
 * than any classifier needs; a file of a few bytes can ask for anything. */
#define PLAN_MAX_BYTES ((size_t)4 << 30)

struct tune;

/* Where a value's elements are while a program runs. */
enum plan_place {
    PLAN_ABSENT,  /* nowhere: an output that nobody reads */
    PLAN_ARENA,   /* in the session's arena, in `buffer` (see plan_layout) */
    PLAN_INPUT,   /* in the caller's input `index` */
    PLAN_OUTPUT,  /* in the caller's output `index`, or in the arena when that is not wanted */
    PLAN_CONSTANT /* in the plan */
};

struct plan_value {
    const char *name;
    enum cvd_dtype dtype;
    struct cvd_shape shape1; /* for a batch of one … */
    struct cvd_shape shape2; /* … and of two */
    enum plan_place place;
    uint32_t index;   /* PLAN_INPUT, PLAN_OUTPUT */
    uint32_t buffer;  /* PLAN_ARENA, PLAN_OUTPUT: which buffer; views share one */
    const void *data; /* PLAN_CONSTANT; NULL once every step has packed it */
    struct op_layout layout;
    size_t offset; /* bytes from the start of the buffer, for a map that is a part of another */
};

struct plan_step {
    const struct op_def *def;
    const char *name;  /* for people */
    const char *label; /* operator with what was fused into it */
    struct op_prepared prepared;
    const uint32_t *in; /* plan values or GRAPH_NONE */
    size_t in_count;
    const uint32_t *out;
    size_t out_count;
};

/* One shared buffer of the arena. Sizes for one image and for each further one, in bytes. */
struct plan_buffer {
    size_t bytes1, bytes_more;
    uint32_t first, last; /* steps between which it is alive */
};

struct plan {
    struct mem_arena *arena;  /* strings and arrays */
    struct mem_arena *states; /* of the steps: packed weights above all */
    struct plan_value *values;
    uint32_t value_count;
    struct plan_step *steps;
    uint32_t step_count;
    struct plan_buffer *buffers;
    uint32_t buffer_count;
    uint32_t *inputs, *outputs; /* plan values */
    uint32_t input_count, output_count;
    int64_t fixed_batch;  /* 0 = free */
    size_t scratch_bytes; /* largest of the steps, per slot, for a batch of one */
    size_t arena_bytes;   /* of plan_layout() for one image */
    bool batchwise;       /* a batch may be run in parts: every step treats each image alone */
    bool ends_in_softmax;
    void **blocks; /* what the PLAN_CONSTANT values point to */
    uint32_t block_count;
    size_t block_bytes;
};

/* Consumes the graph's initializers (they are moved or freed); the caller still releases *g. With
 * `tune`, convolutions are timed where more than one way to compute them looks good; NULL: none. */
enum cvd_status plan_build(struct graph *g, const struct kernels *kernels,
                           const struct cvd_load_options *options, struct tune *tune,
                           struct plan **out, struct cvd_error *err);
void plan_destroy(struct plan *plan); /* NULL is allowed */

/* Shape of a value for a batch; exact for every batch >= 1. */
void plan_shape(const struct plan_value *v, int64_t batch, struct cvd_shape *out);

/* Bytes of a value for one image, and how many more for each further one. */
void plan_bytes(const struct plan_value *v, size_t *bytes1, size_t *bytes_more);

/* How a session runs its images: steps before `split` on `part` of them at a time, one part after
 * the other, then the others on all `images` at once. */
struct plan_batch {
    int64_t images, part;
    uint32_t split;
};

/* Whether a buffer holds all images, or those of a part only. */
bool plan_is_wide(const struct plan_buffer *buffer, const struct plan_batch *batch);

/* Places every buffer for such a session: offsets[buffer_count] and the total, in bytes. Offsets
 * are multiples of MEM_ALIGN. Fails with OUT_OF_MEMORY when sizes overflow. (Greedy by size:
 * Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020.)
 */
enum cvd_status plan_layout(const struct plan *plan, const struct plan_batch *batch,
                            size_t *offsets, size_t *total, struct cvd_error *err);

#endif
