/* How the metrics are stored; for metrics*.c alone. */
#ifndef CONVD_SERVER_METRICS_SERIES_H
#define CONVD_SERVER_METRICS_SERIES_H

#include "server/metrics.h"
#include "server/reply.h"
#include "server/routes.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>

/* Series that different threads write at the same time stand on cache lines of their own. */
#define METRICS_LINE 64

/* Upper bounds of the histograms of durations; +Inf is the bucket after the last. */
#define METRICS_DURATION_BUCKETS 17
struct metrics_bound {
    uint64_t ns;
    const char *text; /* in seconds, the value of "le" */
};
extern const struct metrics_bound metrics_bounds[METRICS_DURATION_BUCKETS];

struct metrics_duration {
    alignas(METRICS_LINE) atomic_uint_least64_t buckets[METRICS_DURATION_BUCKETS + 1];
    atomic_uint_least64_t sum_ns;
};

/* Batch sizes: 1, 2, 4, … 1024 images, then +Inf. */
#define METRICS_SIZE_BUCKETS 11
struct metrics_sizes {
    alignas(METRICS_LINE) atomic_uint_least64_t buckets[METRICS_SIZE_BUCKETS + 1];
    atomic_uint_least64_t sum;
};

/* What convd answers; another status would be counted as "other". */
#define METRICS_METHODS 6
#define METRICS_CODES   24
extern const short metrics_codes[METRICS_CODES]; /* the last is 0: "other" */

/* One value of the label "route"; rows of the route table may share one. */
struct metrics_route {
    alignas(METRICS_LINE) const char *label;
    unsigned methods; /* METHOD_* bits whose 200 is shown before the first request */
    atomic_uint_least64_t requests[METRICS_METHODS][METRICS_CODES];
    struct metrics_duration duration;
};

/* What all versions of a model share. */
struct metrics_name {
    struct metrics_name *_Atomic next;
    struct metrics *owner;
    char *name;
    atomic_uint_least64_t load_ns;
    alignas(METRICS_LINE) atomic_int_least64_t queue_depth;
    alignas(METRICS_LINE) atomic_uint_least64_t batches[CLOSE_COUNT];
    struct metrics_sizes sizes;
    struct metrics_duration queue_wait, compute;
};

struct metrics_model {
    struct metrics_model *_Atomic next;
    struct metrics_name *of;
    char *version;
    atomic_bool loaded;
    alignas(METRICS_LINE) atomic_uint_least64_t outcomes[OUTCOME_COUNT];
    atomic_uint_least64_t images;
};

struct metrics {
    char *cpu_level;
    double start_time;  /* of the process, seconds since 1970 */
    size_t route_count; /* labels; the last stands for unknown paths */
    struct metrics_route *routes;
    uint16_t *row_route; /* row of the route table -> label */
    /* Lists grow at the end, under the lock, and never shrink: readers need no lock. */
    pthread_mutex_t lock;
    struct metrics_name *_Atomic names;
    struct metrics_model *_Atomic models;
    alignas(METRICS_LINE) atomic_int_least64_t inflight;
    alignas(METRICS_LINE) atomic_int_least64_t queue_bytes;
    alignas(METRICS_LINE) atomic_uint_least64_t rejected[REJECT_COUNT];
    atomic_uint_least64_t disconnects;
    struct metrics_duration decode[GATE_BMP + 1];
};

/* The HELP and TYPE lines before a family's samples. */
void metrics_family(struct text *t, const char *name, const char *type, const char *help);

/* The process_* families, read from /proc at the moment of asking. */
double metrics_process_start(void);
void metrics_process(struct text *t, double start_time);

#endif
