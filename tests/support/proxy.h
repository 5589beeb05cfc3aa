/*
 * A reverse proxy in front of daemons: nginx or HAProxy, with a configuration of the test's own in
 * a temporary folder, on a free port. A proxy is a struct server as far as clients are concerned.
 */
#ifndef CONVD_TESTS_SUPPORT_PROXY_H
#define CONVD_TESTS_SUPPORT_PROXY_H

#include "tests/support/client.h"

enum proxy_kind {
    PROXY_NGINX,            /* reads a request's body before it passes the request on */
    PROXY_NGINX_UNBUFFERED, /* passes bodies on as they come */
    PROXY_HAPROXY,
    PROXY_HAPROXY_LAX, /* with option accept-invalid-http-request */
    PROXY_KINDS
};
const char *proxy_name(enum proxy_kind kind);

struct proxy_options {
    enum proxy_kind kind;
    unsigned ports[2]; /* of the daemons behind it; 0: there is no second */
    unsigned idle_s;   /* how long it keeps idle connections to them; 0: 60 */
    /* Goes round daemons that are leaving: HAProxy asks them every 50 ms for /readyz and tries each
     * request once; nginx has nothing like it and tries the other one after each failure. */
    bool fails_over;
};

/* Skips the test when the program is not installed. */
struct server *proxy_start(const struct proxy_options *options);
void proxy_stop(struct server *proxy);

/* How many requests with this text in their first line it has taken so far. */
unsigned proxy_requests(const struct server *proxy, const char *text);

/* TCP connections to a port of the loopback interface: open ones, and those that were closed within
 * the last minute. */
unsigned proxy_connections(unsigned port);

#endif
