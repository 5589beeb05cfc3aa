/*
 * The HTTP daemon: libmicrohttpd with epoll, I/O threads that only move bytes, suspended
 * connections while others work. Turns connections into struct request and replies into bytes;
 * guards framing, sizes and time on the way.
 */
#ifndef CONVD_SERVER_HTTP_H
#define CONVD_SERVER_HTTP_H

#include "server/app.h"

#include <convd/status.h>

struct http;

/* Whom a daemon is for. The two share nothing but the app: threads, connections and their limits
 * are each one's own. */
enum http_role {
    HTTP_DATA, /* everybody, on `listen`: all routes */
    HTTP_ADMIN /* operators and their machines, on `admin-listen`: what can be asked without work */
};

/* Listens and answers. The address really bound (port 0 resolved) is in http_address(). */
enum cvd_status http_start(struct app *app, enum http_role role, struct http **out,
                           struct cvd_error *err);
const char *http_address(const struct http *h);

/* Requests for work that were accepted and not yet answered. */
unsigned http_inflight(const struct http *h);

/* Ends connections and threads. Requests that are still with others are marked as gone and waited
 * for: the batchers must still be running. NULL is allowed. */
void http_stop(struct http *h);

#endif
