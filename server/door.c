/* Admission to a model's queue: places in images and bytes, and a guess of the wait. */
#include "server/door.h"

#include "server/clock.h"
#include "server/metrics.h"

uint64_t door_wait_ns(const struct door *d)
{
    uint64_t places = d->places, queued = d->queued;
    uint64_t decoding = places > queued ? places - queued : 0, ahead = queued;
    if (d->idle == 0)
        ahead += d->running / 2; /* half done, on average */
    return (ahead * d->ns_per_image + decoding * (d->ns_per_image + d->ns_to_decode)) / d->workers;
}

/* Of these images alone: one worker decodes them, all compute them. */
static uint64_t work_ns(const struct door *d, unsigned images)
{
    unsigned workers = d->workers;
    return images * d->ns_to_decode + (images + workers - 1) / workers * d->ns_per_image;
}

/* Whether images that come now would be computed before their deadline. Where nothing is in their
 * way they are given the chance, whatever the estimate says: they may be what corrects it. */
static bool may_be_in_time(const struct door *d, unsigned images, uint64_t deadline_ns)
{
    uint64_t now = clock_ns(), wait = door_wait_ns(d);
    return now + wait + (wait > 0 ? work_ns(d, images) : 0) < deadline_ns;
}

/* Of `most` there are. */
static bool has_room(size_t taken, size_t more, size_t most)
{
    return more <= most && taken <= most - more;
}

static bool take(atomic_size_t *taken, size_t more, size_t most)
{
    size_t before = *taken;
    do {
        if (!has_room(before, more, most))
            return false;
    } while (!atomic_compare_exchange_weak_explicit(taken, &before, before + more,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

enum batch_admission door_look(const struct door *d, unsigned images, uint64_t deadline_ns)
{
    size_t bytes;
    if (deadline_ns && !may_be_in_time(d, images, deadline_ns))
        return BATCH_TOO_LATE;
    return !__builtin_mul_overflow(d->image_bytes, images, &bytes) &&
                   has_room(d->places, images, d->max_queue) &&
                   has_room(d->budget->bytes, bytes, d->budget->max_bytes)
               ? BATCH_ACCEPTED
               : BATCH_FULL;
}

enum batch_admission door_enter(struct door *d, unsigned images, uint64_t deadline_ns)
{
    size_t bytes;
    if (__builtin_mul_overflow(d->image_bytes, images, &bytes))
        return BATCH_FULL;
    if (deadline_ns && !may_be_in_time(d, images, deadline_ns))
        return BATCH_TOO_LATE;
    if (!take(&d->places, images, d->max_queue))
        return BATCH_FULL;
    if (!take(&d->budget->bytes, bytes, d->budget->max_bytes)) {
        atomic_fetch_sub_explicit(&d->places, images, memory_order_relaxed);
        return BATCH_FULL;
    }
    metrics_queue_depth(d->metrics, (int)images);
    metrics_queue_bytes(metrics_of(d->metrics), (ptrdiff_t)bytes);
    return BATCH_ACCEPTED;
}

bool door_is_hopeless(const struct door *d, unsigned images, uint64_t deadline_ns)
{
    return deadline_ns && d->places > images && clock_ns() + work_ns(d, images) >= deadline_ns;
}

void door_leave(struct door *d, unsigned images)
{
    size_t bytes = images * d->image_bytes;
    atomic_fetch_sub_explicit(&d->places, images, memory_order_relaxed);
    atomic_fetch_sub_explicit(&d->budget->bytes, bytes, memory_order_relaxed);
    metrics_queue_depth(d->metrics, -(int)images);
    metrics_queue_bytes(metrics_of(d->metrics), -(ptrdiff_t)bytes);
}

/* Two workers at once may lose one of two readings, which does no harm to an average. */
static void note(atomic_uint_least64_t *average, uint64_t ns)
{
    uint64_t before = *average;
    *average = before ? before - before / 8 + ns / 8 : ns;
}

void door_note_decoded(struct door *d, unsigned images, uint64_t took_ns)
{
    note(&d->ns_to_decode, took_ns / images);
}

void door_note_computed(struct door *d, unsigned images, uint64_t took_ns)
{
    note(&d->ns_per_image, took_ns / images);
}
