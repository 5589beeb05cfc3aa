/*
 * The load generator: requests at moments fixed beforehand (open loop), or one after the other on
 * every connection (closed loop).
 *
 * In the open loop a request's latency counts from the moment it was to be sent, whether or not a
 * connection was free for it then. A generator that waits for the server before it sends, and then
 * times from there, leaves out just the requests that the server's troubles delayed.
 */
#ifndef CONVD_TESTS_BENCH_LOADGEN_LOAD_H
#define CONVD_TESTS_BENCH_LOADGEN_LOAD_H

#include "tests/bench/loadgen/histogram.h"

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define LOAD_MAX_KINDS  64
#define LOAD_MAX_STATUS 600

/* One kind of request of the mix, and what came of those that were sent. */
struct load_kind {
    const char *method, *path;
    char *headers; /* lines with CRLF, or NULL */
    const char *body_file;
    const char *text;   /* that the body of every answer has to contain, or NULL */
    const char *expect; /* statuses that are right, "200,503"; NULL: any */
    unsigned share;     /* of the mix, beside the others' */
    bool aborts;        /* the client leaves after abort_after bytes of the body */
    size_t abort_after;
    char *bytes; /* the request as it is sent */
    size_t head_len, len;
};

struct load_plan {
    struct addrinfo *address;
    double rate; /* requests a second; 0 = closed loop */
    double seconds;
    unsigned connections; /* at most; closed loop: all the time */
    uint64_t timeout_ns;
    struct load_kind kinds[LOAD_MAX_KINDS];
    unsigned kind_count;
};

struct load_tally {
    uint64_t scheduled; /* each of them ends as one of: */
    uint64_t unsent;    /* no connection was free for it within the timeout */
    uint64_t answered;  /* = the sum of statuses */
    uint64_t timed_out; /* sent, not answered within the timeout */
    uint64_t refused;   /* the connection was */
    uint64_t broken;    /* the connection ended, or what came was not HTTP */
    uint64_t aborted;   /* by ourselves, as planned */
    uint64_t statuses[LOAD_MAX_STATUS];
    uint64_t wrong; /* answers that are not what the kind expects */
    uint64_t connections_opened;
    unsigned connections_most; /* at one time */
    /* From the moment a request was due to: */
    struct histogram begun;    /* its beginning: a connection was free and we were running */
    struct histogram accepted; /* its answer, 2xx */
    struct histogram rejected; /* its answer, 503 */
    /* From its beginning to: */
    struct histogram served;      /* its answer, 2xx */
    struct histogram turned_away; /* its answer, 503 */
    uint64_t *per_second;         /* 2xx by the second in which they came */
    size_t per_second_room;
    uint64_t
        late_ns;   /* the longest that this program itself was kept from running, out of a wait */
    double took_s; /* from the first request's moment to the end of the last */
    double cpu_s;  /* of this program, in the kernel too */
};

/* Builds the bytes of a kind's request; false with a message on standard error. */
bool load_kind_build(struct load_kind *kind, const char *host);
/* Whether an answer is what the kind expects. */
bool load_kind_accepts(const struct load_kind *kind, int status, const char *body, size_t len);

/* Carries the plan out. False with a message on standard error when that is not possible. */
bool load_run(const struct load_plan *plan, struct load_tally *tally);

/* One JSON object on one line. */
void load_report(FILE *out, const struct load_plan *plan, const struct load_tally *tally);

#endif
