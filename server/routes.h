/*
 * The static route table: path patterns, methods and handlers. A pattern is a list of literal
 * segments and * (one segment, captured); paths are matched exactly as received, and a single
 * trailing '/' is tolerated.
 */
#ifndef CONVD_SERVER_ROUTES_H
#define CONVD_SERVER_ROUTES_H

#include "server/request.h"

struct route {
    const char *pattern; /* "/classify/" followed by "*" segments */
    const char *label;   /* the value of the metrics' and the log's "route" */
    unsigned methods;    /* METHOD_* bits; HEAD is allowed wherever GET is */
    const char *allow;   /* the Allow header for them */
    bool takes_body;     /* false: a body is refused before it is read */
    bool admin;          /* on admin-listen too */
    /* Or NULL: asked before a body is read that is long, or that the client has not sent yet. True
     * with the reply filled when there is no room for the request; all else is for the handler. */
    bool (*is_busy)(struct request *rq);
    enum request_result (*handler)(struct request *rq);
};

/* Rows, for the metrics' labels; the row after the last stands for unknown paths. */
extern const struct route routes[];
extern const size_t routes_count;

/* The route for a path, or NULL. Captures point into *scratch, which is cut up (it must hold
 * strlen(path) + 1 bytes). Returns false when the path is malformed (bad %-escape, %00, a control
 * character): a 400. */
bool routes_match(const char *path, char *scratch, const struct route **route,
                  const char *captures[REQUEST_MAX_CAPTURES]);

/* Handlers, one file per API. */
enum request_result api_classify(struct request *rq);
bool api_classify_is_busy(struct request *rq);
enum request_result api_models(struct request *rq);
enum request_result api_model(struct request *rq);
enum request_result api_livez(struct request *rq);
enum request_result api_readyz(struct request *rq);
enum request_result api_ping(struct request *rq);
enum request_result api_metrics(struct request *rq);
enum request_result api_index(struct request *rq);

#endif
