/*
 * The dynamic batcher of one model (DESIGN.md section 6).
 *
 * Tickets wait in a bounded first-come-first-served queue. As soon as a worker is free it takes its
 * share of what is waiting, up to max_batch images, and runs it; max_delay_ns (0) is counted from
 * the arrival of the oldest. A ticket larger than a batch is split; nothing is padded. Tickets that
 * expire are ended at their deadline, or told so when they are being computed by then; those that
 * nobody waits for any more are dropped when a batch is formed, never computed.
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
    BATCH_EXPIRED,   /* the deadline passed before it was computed */
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
    void (*done)(struct batch_ticket *ticket); /* once, on some thread */
    /* Or NULL. At most once, before done(): the deadline has passed, the ticket is in use until the
     * batch ends. Of what the batcher sets only queue_ns may be read. */
    void (*late)(struct batch_ticket *ticket);
    void *cookie;
    uint64_t decode_ns; /* what making the input took a worker; 0: it was there at once */
    /* set by the batcher before done() */
    enum batch_outcome outcome;
    uint64_t queue_ns, compute_ns;
    unsigned batch_size;       /* images of the (last) batch it was part of */
    bool told;                 /* late() was called; the outcome is BATCH_EXPIRED */
    struct batch_ticket *next; /* its done() is called directly after this one's, or NULL */
    /* the batcher's own */
    unsigned taken, finished;
    bool held; /* late() is being called */
    uint64_t arrival_ns;
};

enum batch_admission {
    BATCH_ACCEPTED,
    BATCH_FULL,    /* max_queue or max_queue_bytes: 503 queue_full */
    BATCH_TOO_LATE /* it would be answered after its deadline: 503 queue_timeout */
};

/* The model's first input must be float32 with the images in dimension 0. */
enum cvd_status batcher_create(struct cvd_engine *engine, const struct cvd_model *model,
                               const struct batch_options *options, struct batcher **out,
                               struct cvd_error *err);

/* Waits until everything submitted is done; nothing may be reserved. NULL is allowed. */
void batcher_destroy(struct batcher *b);

/*
 * A request is let in once, before any work is put into it: BATCH_ACCEPTED is a promise of places
 * in the queue for its images, in number and bytes, to be kept by a ticket with as many images or
 * to be given back. Neither blocks nor locks. Any thread. deadline_ns may be 0.
 */
enum batch_admission batch_reserve(struct batcher *b, unsigned images, uint64_t deadline_ns);
void batch_give_back(struct batcher *b, unsigned images);

/* What batch_reserve() would say just now. */
enum batch_admission batch_look(const struct batcher *b, unsigned images, uint64_t deadline_ns);

/* Whether images with places, which a worker is about to decode, would be done after their deadline
 * while others wait: then the work is better put into those. */
bool batch_is_hopeless(const struct batcher *b, unsigned images, uint64_t deadline_ns);

/* Puts the images into the queue, on the places that were reserved for them. Any thread. */
void batch_submit(struct batcher *b, struct batch_ticket *ticket);

/* The same for a ticket that others follow at once, the last of them through batch_submit(), which
 * calls workers for all of them: what came together is computed together. */
void batch_submit_more(struct batcher *b, struct batch_ticket *ticket);

/* Images let in and not yet computed, and a guess in nanoseconds of how long one more would wait.
 */
unsigned batch_depth(const struct batcher *b);
uint64_t batch_estimate_ns(const struct batcher *b);

#endif
