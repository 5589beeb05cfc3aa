/*
 * A small HTTP/1.1 client over a raw socket that knows what it sends and is strict about what it
 * gets: a response that is not exactly well-formed fails the test.
 *
 * A connection may be used by one thread at a time. What is returned lives as long as the test.
 */
#ifndef CONVD_TESTS_SUPPORT_CLIENT_H
#define CONVD_TESTS_SUPPORT_CLIENT_H

#include "tests/support/server.h"

#include <jansson.h>

struct response {
    int status;
    const char *head; /* status line and headers as received */
    const char *body; /* followed by a zero that body_len does not count */
    size_t body_len;
};

struct client;

struct client *client_connect(const struct server *s);
/* NULL when the connection is refused or reset. */
struct client *client_try_connect(const struct server *s);
void client_close(struct client *c);
void client_reset(struct client *c); /* closes with a RST */
void client_half_close(struct client *c);

/* False when the server has closed the connection. */
bool client_send(struct client *c, const void *bytes, size_t len);
bool client_printf(struct client *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* In pieces of `piece` bytes with a pause between. */
bool client_send_slowly(struct client *c, const void *bytes, size_t len, size_t piece,
                        unsigned pause_us);

/* Reads one response, interim ones (1xx) included; NULL when the connection ends before its first
 * byte. `no_body` for the answer to HEAD. */
const struct response *client_read(struct client *c, bool no_body);

/* Everything up to the end of the connection, unchecked; fails the test when it does not end. For
 * what a strict reader would not take. */
const char *client_read_all(struct client *c);

/* Whether something, be it the end, can be read just now. */
bool client_readable(struct client *c);

/* Whether the connection ends within timeout_s without another byte. */
bool client_at_end(struct client *c, double timeout_s);

/* A header's value, or NULL; more than one of the name fails the test. */
const char *response_header(const struct response *r, const char *name);

/* The body as JSON; fails the test when it is not, or not announced as application/json. The
 * reference is borrowed. */
json_t *response_json(const struct response *r);

/* Checks an error reply of convd's own: its status, form and code (NULL: any). */
void response_expect_error(const struct response *r, int status, const char *code,
                           const char *what);

/* One request on a connection of its own. `headers` are lines ended by CRLF, or NULL; Host and, for
 * a body, Content-Length are added. */
const struct response *http_request(const struct server *s, const char *method, const char *target,
                                    const char *headers, const void *body, size_t body_len);
const struct response *http_get(const struct server *s, const char *target);
const struct response *http_post(const struct server *s, const char *target,
                                 const char *content_type, const void *body, size_t body_len);

/* Value of one series of the metrics page, such as `convd_queue_bytes` or `name{label="x"}`; -1
 * when it is not there. */
double http_metric(const struct server *s, const char *series);

/* Waits up to timeout_s for a series to be within `least` and `most`. */
bool http_metric_wait(const struct server *s, const char *series, double least, double most,
                      double timeout_s);

#endif
