/*
 * Prometheus metrics (DESIGN.md section 8): counters, gauges and histograms with fixed label sets,
 * updated without locks, written out as text format 0.0.4. Every series exists from the start.
 */
#ifndef CONVD_SERVER_METRICS_H
#define CONVD_SERVER_METRICS_H

#include "server/gate.h"
#include "server/request.h"

struct metrics;
struct metrics_model; /* the series of one model and version */

struct metrics *metrics_create(const char *cpu_level);
void metrics_destroy(struct metrics *m);

/* Series of a model; the same object for the same name and version. NULL when there is no memory.
 */
struct metrics_model *metrics_model(struct metrics *m, const char *name, const char *version);
void metrics_model_loaded(struct metrics_model *mm, bool loaded, double load_seconds);

/* ---- HTTP ---- */
void metrics_http(struct metrics *m, const struct route *route, enum request_method method,
                  int status, uint64_t duration_ns);
void metrics_inflight(struct metrics *m, int delta);
void metrics_disconnect(struct metrics *m);

enum metrics_reason {
    REJECT_QUEUE_FULL,
    REJECT_DEADLINE,
    REJECT_TOO_LARGE,
    REJECT_DRAINING,
    REJECT_NOT_READY,
    REJECT_CONNECTIONS,
    REJECT_MEMORY,
    REJECT_SLOW_CLIENT,
    REJECT_MALFORMED,
    REJECT_COUNT
};
void metrics_rejected(struct metrics *m, enum metrics_reason reason);

void metrics_decode(struct metrics *m, enum gate_format format, uint64_t duration_ns);

/* ---- batches ---- */
enum metrics_outcome {
    OUTCOME_SUCCESS,
    OUTCOME_BAD_INPUT,
    OUTCOME_REJECTED,
    OUTCOME_EXPIRED,
    OUTCOME_CANCELLED,
    OUTCOME_ERROR,
    OUTCOME_COUNT
};
void metrics_inference(struct metrics_model *mm, enum metrics_outcome outcome, unsigned images);

enum metrics_close {
    CLOSE_FULL,
    CLOSE_DELAY,
    CLOSE_IDLE,
    CLOSE_COUNT
}; /* why a batch was formed */
void metrics_batch(struct metrics_model *mm, enum metrics_close reason, unsigned images,
                   uint64_t compute_ns);
void metrics_queue_wait(struct metrics_model *mm, uint64_t wait_ns);
void metrics_queue_depth(struct metrics_model *mm, int delta_images);
void metrics_queue_bytes(struct metrics *m, ptrdiff_t delta);
struct metrics *metrics_of(struct metrics_model *mm);

/* The page: the data of a struct text, NULL when there is no memory. */
char *metrics_text(struct metrics *m, size_t *len);

#endif
