/*
 * One HTTP request as the handlers see it, from its complete body to its reply. Knows nothing of
 * libmicrohttpd: http.c fills it, routes.c finds the handler, the handler fills the reply.
 *
 * A handler runs on an I/O thread and must not take long. It either fills the reply and returns
 * REQUEST_DONE, or it calls request_defer() and returns REQUEST_DEFERRED: then go() is called on
 * the same thread and hands the work to others; whoever finishes fills the reply and calls
 * request_complete() exactly once, as the last thing it does with the request.
 */
#ifndef CONVD_SERVER_REQUEST_H
#define CONVD_SERVER_REQUEST_H

#include "server/app.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum request_method {
    METHOD_GET = 1,
    METHOD_HEAD = 2,
    METHOD_POST = 4,
    METHOD_PUT = 8,
    METHOD_OPTIONS = 16,
    METHOD_OTHER = 32
};

enum request_result { REQUEST_DONE, REQUEST_DEFERRED };

#define REQUEST_ID_BYTES     65
#define REQUEST_MAX_CAPTURES 3
#define REQUEST_MAX_QUERY    16

/* The reply. body is pool.h's (freed by http_reply.c) unless body_is_static. */
struct reply {
    int status;
    const char *content_type;
    char *body;
    size_t body_len;
    bool body_is_static;
    const char *allow;      /* Allow header of a 405, or NULL */
    unsigned retry_after;   /* seconds, 0 = no header */
    const char *error_code; /* what the log shows for a failure, or NULL */
};

struct route;
struct request;

/* Called when all connections that were ready have been looked at, for the requests among them that
 * were deferred, in order; `next` is the one whose turn is next, or NULL. */
typedef void request_go_fn(struct request *rq, const struct request *next);

struct request {
    struct app *app;
    enum request_method method;
    const char *path;          /* as received, undecoded, without the query */
    const struct route *route; /* NULL: no such path */
    /* Path segments that stood for * in the route's pattern, percent-decoded. */
    const char *captures[REQUEST_MAX_CAPTURES];
    /* Query arguments, percent-decoded; a key without '=' has value "". */
    struct request_arg {
        const char *key, *value;
    } query[REQUEST_MAX_QUERY];
    unsigned query_count;
    const char *content_type;  /* header or "" */
    const char *accept;        /* header or "" */
    char id[REQUEST_ID_BYTES]; /* X-Request-Id, the client's if it is well-formed, else our own */

    const char *body; /* complete, inflated */
    size_t body_len;

    uint64_t start_ns;       /* when its headers were complete */
    uint64_t deadline_ns;    /* end of the body + the smaller of X-Request-Timeout-Ms and
                                --request-timeout */
    const atomic_bool *gone; /* the client has closed or reset the connection */

    struct reply reply;

    /* For the log and the metrics; a handler sets what it knows. */
    char model[64], version[24]; /* names the reply was computed with */
    unsigned images, batch_size;
    uint64_t decode_ns, queue_ns, compute_ns;

    uint64_t backlog_ns; /* refused for it: until the work that was let in before is done */

    /* The handler's own; freed by http.c through state_free when the request ends. */
    void *state;
    void (*state_free)(void *state);

    request_go_fn *go; /* of a deferred request */
};

/* See above; both are implemented by http_request.c. `for_long`: nobody expects an answer within a
 * millisecond, or it needs content_type or accept after this call. `next`: another request that
 * this thread completes directly after this one, or NULL: they then share a wake-up. */
void request_defer(struct request *rq, request_go_fn *go, bool for_long);
void request_complete(struct request *rq, struct request *next);

/* Value of a query argument or NULL. */
const char *request_query(const struct request *rq, const char *key);

#endif
