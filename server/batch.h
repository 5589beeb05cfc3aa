/*
 * The dynamic batcher of one model (DESIGN.md section 6).
 *
 * Tickets wait in a bounded first-come-first-served queue. As soon as a worker is free it takes its
 * share of what is waiting, up to max_batch images, and runs it; max_delay_ns (0) is counted from
 * the arrival of the oldest. A ticket larger than a batch is split; nothing is padded. Tickets that
 * expire are ended at their deadline; those that nobody waits for any more are dropped when a batch
 * is formed, never computed.
 */
#ifndef CONVD_SERVER_BATCH_H
#define CONVD_SERVER_BATCH_H

#include <convd/session.h>

#include <stdatomic.h>

struct batcher;
struct metrics_model;

/* Images waiting and their bytes over all models, and the limit on the bytes. */
struct batch_budget {
    atomic_size_t bytes;
    size_t max_bytes;
};

struct batch_options {
    unsigned max_batch;
    uint64_t max_delay_ns;
    unsigned max_queue; /* images */
    struct batch_budget *budget;
    struct metrics_model *metrics;
};

enum batch_outcome {
    BATCH_DONE,
    BATCH_EXPIRED,   /* deadline passed in the queue */
    BATCH_CANCELLED, /* *gone was set */
    BATCH_NONFINITE, /* the model's answer for it is NaN or infinite */
    BATCH_FAILED     /* a fault of ours */
};

/* One request's images. The caller owns it and keeps it alive until done() is entered. */
struct batch_ticket {
    /* set by the caller */
    const float *input;                        /* images * input elements, contiguous */
    float *output;                             /* images * output elements */
    unsigned images;                           /* at least 1 */
    uint64_t deadline_ns;                      /* 0 = none */
    const atomic_bool *gone;                   /* or NULL */
    void (*done)(struct batch_ticket *ticket); /* once for every accepted ticket, on some thread */
    void *cookie;
    /* set by the batcher before done() */
    enum batch_outcome outcome;
    uint64_t queue_ns, compute_ns;
    unsigned batch_size;       /* images of the (last) batch it was part of */
    struct batch_ticket *next; /* its done() is called directly after this one's, or NULL */
    /* the batcher's own */
    unsigned taken, finished;
    uint64_t arrival_ns;
};

enum batch_admission {
    BATCH_ACCEPTED,
    BATCH_FULL,     /* max_queue or max_queue_bytes: 503 queue_full */
    BATCH_TOO_LATE, /* it would be answered after its deadline: 503 deadline */
    BATCH_CLOSED    /* the batcher is being closed */
};

/* The model's first input must be float32 with the images in dimension 0. */
enum cvd_status batcher_create(struct cvd_engine *engine, const struct cvd_model *model,
                               const struct batch_options *options, struct batcher **out,
                               struct cvd_error *err);

/* Waits until everything accepted is done. NULL is allowed. */
void batcher_destroy(struct batcher *b);

/* Never blocks. Any thread. */
enum batch_admission batch_submit(struct batcher *b, struct batch_ticket *ticket);

/* The same for a ticket that others follow at once, the last of them through batch_submit(), which
 * calls workers for all of them: what came together is computed together. */
enum batch_admission batch_submit_more(struct batcher *b, struct batch_ticket *ticket);

/* Images waiting or announced now, and a guess in nanoseconds of how long one more would wait. */
unsigned batch_depth(const struct batcher *b);
uint64_t batch_estimate_ns(const struct batcher *b);

/*
 * A request that has to be decoded by a worker first is announced when it is let in, and arrives
 * when it is about to be submitted, or will not be; took_ns is what its decoding took, 0 when it
 * did not get that far. Without this, more requests would be let in, and decoded, than the queue
 * then has room and time for.
 */
void batch_announce(struct batcher *b, unsigned images);
void batch_arrive(struct batcher *b, unsigned images, uint64_t took_ns);

#endif
