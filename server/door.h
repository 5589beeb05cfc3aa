/*
 * The door to a model's queue: who is let in. A request takes a place for each of its images when
 * it is let in, before it is decoded, and leaves it when the image is taken to be computed or will
 * not be; so whoever is in is never refused for want of room. Places are bounded in images, and in
 * bytes over all models. No locks: every number here may be read while others change it.
 */
#ifndef CONVD_SERVER_DOOR_H
#define CONVD_SERVER_DOOR_H

#include "server/batch.h"

struct door {
    /* set once */
    struct batch_budget *budget;
    struct metrics_model *metrics;
    size_t image_bytes;
    unsigned max_queue; /* images */
    unsigned workers;
    /* the batcher's account of what goes on behind the door */
    atomic_uint queued;  /* images in the queue */
    atomic_uint running; /* images being computed */
    atomic_uint idle;    /* workers that could compute */
    /* the door's own */
    atomic_size_t places;               /* images let in and not yet computed: those in the queue
                                           and those that are being decoded for it */
    atomic_uint_least64_t ns_per_image; /* of computing, on one worker; moving average, 0 until the
                                           first batch */
    atomic_uint_least64_t ns_to_decode; /* of one image; moving average */
};

/* Takes places, or says why not; looking takes none. */
enum batch_admission door_look(const struct door *d, unsigned images, uint64_t deadline_ns);
enum batch_admission door_enter(struct door *d, unsigned images, uint64_t deadline_ns);
void door_leave(struct door *d, unsigned images);

/* Whether images that are in, and whose turn to be decoded it is, would be computed too late. The
 * same chance as at the door: not where nobody else waits for the workers' time. */
bool door_is_hopeless(const struct door *d, unsigned images, uint64_t deadline_ns);

/* Until an image that came now would be computed. */
uint64_t door_wait_ns(const struct door *d);

/* What it took a worker. */
void door_note_decoded(struct door *d, unsigned images, uint64_t took_ns);
void door_note_computed(struct door *d, unsigned images, uint64_t took_ns);

#endif
