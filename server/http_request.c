/*
 * One request, from its header to its handler, in the steps that libmicrohttpd calls us in:
 *
 *   http_uri_seen    the request line, as received (the library decodes it in place afterwards)
 *   http_access      first call: the header is complete. Framing gate, early verdicts.
 *                    further calls: pieces of the body
 *                    a call without bytes: the body is complete. The handler runs; it replies, or
 *                    defers, and then http_loop.c sees to it
 *                    after a deferred request is complete: once more, to send the reply
 *
 * A verdict that is known before the body has arrived waits until the body has been read and thrown
 * away: proxies turn a reply that comes while they are still sending into a 502. Exceptions are
 * malformed framing, where nobody knows what the body is, clients that wait for "100 Continue", and
 * bodies beyond DRAIN_LIMIT_BYTES. In each of these cases the connection is closed.
 */
#include "server/http_conn.h"

#include "server/clock.h"
#include "server/config.h"
#include "server/gate.h"
#include "server/metrics.h"
#include "server/pool.h"
#include "server/reply.h"
#include "server/routes.h"
#include "server/uri.h"

#include <string.h>
#include <strings.h>

#define SHORT_BODY         (32u << 10)
#define FIELD_BYTES        64u /* the library's note of a header field or a query argument */
#define REPLY_HEADER_BYTES 1024u

static struct conn *conn_of(struct request *rq)
{
    return (struct conn *)(void *)((char *)rq - offsetof(struct conn, rq));
}

void *http_uri_seen(void *cls, const char *uri, struct MHD_Connection *con)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(con, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct conn *c = info ? info->socket_context : NULL;
    size_t len = strlen(uri);

    (void)cls;
    if (!c)
        return NULL;
    loop_clear_now(c);
    c->con = con;
    c->stage = STAGE_NONE;
    c->uri = 2 * (len + 1) <= sizeof c->uri_inline ? c->uri_inline : pool_alloc(2 * (len + 1));
    if (c->uri) {
        memcpy(c->uri, uri, len + 1);
        c->scratch = c->uri + len + 1;
    }
    return c;
}

/* ---- the header ---- */

struct head {
    struct gate_framing framing;
    int status; /* of the gate, 0 = well-formed so far */
    const char *why;
    struct conn *c;
    const char *encoding, *timeout, *id;
    unsigned encodings;
};

static bool is(const char *name, size_t len, const char *word, size_t word_len)
{
    return len == word_len && strncasecmp(name, word, word_len) == 0;
}
#define IS(word) is(name, name_len, word, sizeof word - 1)

static enum MHD_Result header_seen(void *cls, enum MHD_ValueKind kind, const char *name,
                                   size_t name_len, const char *value, size_t value_len)
{
    struct head *head = cls;
    struct request *rq = &head->c->rq;

    (void)kind;
    if (!value)
        value = "";
    head->status =
        gate_framing_header(&head->framing, name, name_len, value, value_len, &head->why);
    if (head->status)
        return MHD_NO;
    if (IS("content-type"))
        rq->content_type = value;
    else if (IS("accept"))
        rq->accept = value;
    else if (IS("x-request-id"))
        head->id = value;
    else if (IS("x-request-timeout-ms"))
        head->timeout = value;
    else if (IS("content-encoding") && *value && strcasecmp(value, "identity") != 0 &&
             ++head->encodings)
        head->encoding = value;
    return MHD_YES;
}

/* The client's id when it is harmless in logs and headers, else one of our own: a bijective mix
 * (splitmix64) of a counter, so unique in this process and unlikely to meet another's. */
static void request_id(struct conn *c, const char *given)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789._-";
    static const char digits[] = "0123456789abcdef";
    size_t len = given ? strlen(given) : 0;
    char *id = c->rq.id;

    if (len > 0 && len < REQUEST_ID_BYTES && strspn(given, allowed) == len) {
        memcpy(id, given, len + 1);
        return;
    }
    uint64_t x = c->http->id_seed + atomic_fetch_add(&c->http->id_count, 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    for (int i = 0; i < 16; i++, x <<= 4)
        id[i] = digits[x >> 60];
    id[16] = '\0';
}

static enum request_method method_of(const char *name)
{
    static const struct {
        const char *name;
        enum request_method method;
    } table[] = {
        {"GET", METHOD_GET},     {"HEAD", METHOD_HEAD},       {"POST", METHOD_POST},
        {"PUT", METHOD_PUT},     {"OPTIONS", METHOD_OPTIONS}, {"DELETE", METHOD_OTHER},
        {"PATCH", METHOD_OTHER},
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(name, table[i].name) == 0)
            return table[i].method;
    return 0;
}

/* Milliseconds as text -> nanoseconds, at most max_ns; 0 when it is not a whole number above 0. */
static uint64_t parse_timeout(const char *text, uint64_t max_ns)
{
    uint64_t ms = 0;

    if (!*text || strspn(text, "0123456789") != strlen(text))
        return 0;
    for (; *text && ms <= max_ns; text++)
        ms = ms * 10 + (uint64_t)(*text - '0');
    return ms > max_ns / 1000000u ? max_ns : ms * 1000000u;
}

static const char *framing_code(int status)
{
    switch (status) {
    case 411:
        return "length_required";
    case 413:
        return "body_too_large";
    case 417:
        return "expectation_failed";
    case 431:
        return "too_many_headers";
    case 501:
        return "not_implemented";
    case 505:
        return "http_version_not_supported";
    default:
        return "bad_request";
    }
}

/* ---- early verdicts: each fills the reply and returns true when the request is refused ---- */

static bool refuse_target(struct request *rq, struct conn *c)
{
    c->query = strchr(c->uri, '?');
    if (c->query)
        *c->query++ = '\0';
    rq->path = c->uri;
    if (!routes_match(c->uri, c->scratch, &rq->route, rq->captures)) {
        reply_error(rq, 400, "bad_path", "the path has a malformed or forbidden %%-escape");
        return true;
    }
    if (c->query && !uri_query(c->query, rq->query, REQUEST_MAX_QUERY, &rq->query_count)) {
        reply_error(rq, 400, "bad_query",
                    "the query has a malformed %%-escape or more than %d arguments",
                    REQUEST_MAX_QUERY);
        return true;
    }
    if (rq->route && !rq->route->admin && c->http->role == HTTP_ADMIN)
        rq->route = NULL;
    if (!rq->route) {
        reply_error(rq, 404, "not_found", "there is nothing at this path");
        return true;
    }
    if (!(rq->route->methods & rq->method)) {
        rq->reply.allow = rq->route->allow;
        reply_error(rq, 405, "method_not_allowed", "this path takes %s", rq->route->allow);
        return true;
    }
    return false;
}

/* Work that there is no room or time for. Probes, metrics and the like are always answered. */
static bool refuse_work(struct request *rq, const struct conn *c)
{
    struct metrics *metrics = rq->app->metrics;
    enum app_phase phase = atomic_load(&rq->app->phase);

    if (!rq->route->takes_body)
        return false;
    if (c->surplus) {
        metrics_rejected(metrics, REJECT_CONNECTIONS);
        reply_busy(rq, "too_many_connections", "too many connections");
    } else if (phase == APP_LOADING) {
        metrics_rejected(metrics, REJECT_NOT_READY);
        reply_busy(rq, "loading", "models are being loaded");
    } else if (phase == APP_STOPPING) {
        metrics_rejected(metrics, REJECT_DRAINING);
        reply_busy(rq, "draining", "the server is shutting down");
    } else {
        return false;
    }
    return true;
}

static void too_large(struct request *rq)
{
    metrics_rejected(rq->app->metrics, REJECT_TOO_LARGE);
    reply_error(rq, 413, "body_too_large", "the body is larger than %zu bytes",
                rq->app->config->max_body);
}

static void no_memory(struct request *rq)
{
    metrics_rejected(rq->app->metrics, REJECT_MEMORY);
    reply_busy(rq, "out_of_memory", "no memory for this request");
}

static bool refuse_body(struct request *rq, struct conn *c, const struct head *head)
{
    enum inflate_coding coding = INFLATE_GZIP;

    if (head->timeout &&
        (c->timeout_ns = parse_timeout(head->timeout, rq->app->config->request_timeout_ns)) == 0) {
        reply_error(rq, 400, "bad_timeout",
                    "X-Request-Timeout-Ms must be a whole number of milliseconds, 1 or more");
        return true;
    }
    if (head->framing.content_length > rq->app->config->max_body) {
        too_large(rq);
        return true;
    }
    if (!head->encoding)
        return false;
    if (strcasecmp(head->encoding, "deflate") == 0)
        coding = INFLATE_DEFLATE;
    else if (strcasecmp(head->encoding, "gzip") != 0 && strcasecmp(head->encoding, "x-gzip") != 0)
        head = NULL;
    if (!head || head->encodings > 1) {
        reply_error(rq, 415, "unsupported_encoding",
                    "a request body may be encoded in gzip or deflate, once");
        return true;
    }
    c->body.inflater = inflate_create(coding);
    if (!c->body.inflater)
        no_memory(rq);
    return !c->body.inflater;
}

/* Whether the request's own handler has no room for it. That is asked before the body is read when
 * there is something to save: a short body has mostly come with the header. */
static bool refuse_busy(struct request *rq, struct conn *c, const struct gate_framing *framing)
{
    if (!rq->route->is_busy ||
        !(framing->chunked || framing->expects_continue || framing->content_length > SHORT_BODY))
        return false;
    rq->deadline_ns = rq->start_ns + c->timeout_ns;
    return rq->route->is_busy(rq);
}

static void reset(struct conn *c)
{
    struct request *rq = &c->rq;

    *rq = (struct request){.app = c->http->app, .content_type = "", .accept = "", .gone = &c->gone};
    rq->path = c->uri ? c->uri : "";
    rq->start_ns = clock_ns();
    c->close = c->client_left = c->is_work = false;
    c->query = NULL;
    c->reply_len = 0;
    c->composed = false;
    c->timeout_ns = rq->app->config->request_timeout_ns;
    atomic_store(&c->received, 0);
}

/* Whether the header has left too little of the connection's memory for the library to make a
 * reply's header in: it would close the connection without a word. */
static bool leaves_no_room(const struct conn *c)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c->con, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    int fields =
        MHD_get_connection_values_n(c->con, MHD_HEADER_KIND | MHD_GET_ARGUMENT_KIND, NULL, NULL);

    return info && info->header_size + (size_t)fields * FIELD_BYTES + REPLY_HEADER_BYTES >
                       CONNECTION_MEMORY_BYTES;
}

/* The first call for a request. */
static enum MHD_Result begin(struct conn *c, const char *method, const char *version)
{
    struct request *rq = &c->rq;
    struct head head = {.c = c};

    if (!conn_enter(c, CONN_BODY))
        return MHD_NO;
    reset(c);
    atomic_fetch_add(&c->http->open, 1);
    metrics_inflight(rq->app->metrics, 1);
    c->stage = STAGE_DRAINING;
    MHD_get_connection_values_n(c->con, MHD_HEADER_KIND, header_seen, &head);
    request_id(c, head.id);
    rq->method = method_of(method);
    if (!c->uri) {
        no_memory(rq);
        c->close = true;
        return http_send(c);
    }
    if (leaves_no_room(c)) {
        reply_error(rq, 431, "header_too_large", "the request header is too large");
        conn_cut(c, "the request header is too large");
        return MHD_NO;
    }
    if (head.status == 0 && !rq->method) {
        head.status = 501;
        head.why = "this method is not known here";
    }
    if (head.status == 0)
        head.status = gate_framing_end(&head.framing, method, version, c->uri, &head.why);
    if (head.status) {
        rq->method = rq->method ? rq->method : METHOD_OTHER;
        metrics_rejected(rq->app->metrics, REJECT_MALFORMED);
        reply_error(rq, head.status, framing_code(head.status), "%s", head.why);
        c->close = true;
        return http_send(c);
    }
    bool has_body = head.framing.chunked || head.framing.content_length > 0;
    if (has_body)
        conn_monitor(c);
    bool refused = refuse_target(rq, c) || refuse_work(rq, c) || refuse_body(rq, c, &head);
    bool busy = !refused && refuse_busy(rq, c, &head.framing);
    if (!refused && !busy) {
        c->stage = STAGE_RECEIVING;
        c->is_work = rq->route->takes_body;
        atomic_fetch_add(&c->http->work, c->is_work);
        body_begin(c, head.framing.content_length);
        return MHD_YES;
    }
    if (!has_body)
        return MHD_YES; /* the next call is the last: it sends the verdict */
    bool at_once = head.framing.expects_continue || head.framing.content_length > DRAIN_LIMIT_BYTES;
    c->close = at_once || !busy; /* who is to come again keeps his connection */
    if (at_once)
        return http_send(c);
    return conn_enter(c, CONN_DRAIN) ? MHD_YES : MHD_NO;
}

/* ---- the body ---- */

static enum MHD_Result receive(struct conn *c, const char *data, size_t len)
{
    struct request *rq = &c->rq;
    size_t received = atomic_fetch_add(&c->received, len) + len;

    loop_more(c);
    if (c->stage == STAGE_DRAINING) {
        if (received <= DRAIN_LIMIT_BYTES)
            return MHD_YES;
        conn_cut(c, "the body is too long");
        return MHD_NO;
    }
    switch (body_add(c, data, len)) {
    case BODY_OK:
        return MHD_YES;
    case BODY_TOO_LARGE:
        too_large(rq);
        break;
    case BODY_CORRUPT:
        reply_error(rq, 400, "corrupt_encoding", "the body is not valid in its Content-Encoding");
        break;
    case BODY_NO_MEMORY:
        no_memory(rq);
        break;
    }
    body_free(c);
    c->stage = STAGE_DRAINING;
    c->close = true;
    return conn_enter(c, CONN_DRAIN) ? MHD_YES : MHD_NO;
}

/* The request is complete: runs its handler. */
static enum MHD_Result dispatch(struct conn *c)
{
    struct request *rq = &c->rq;
    struct http *h = c->http;

    loop_no_more(c);
    if (!conn_enter(c, CONN_WORK))
        return MHD_NO;
    if (c->stage == STAGE_DRAINING)
        return http_send(c);
    if (c->body.inflater && atomic_load(&c->received) > 0 && !inflate_complete(c->body.inflater)) {
        reply_error(rq, 400, "corrupt_encoding", "the body ends before its Content-Encoding does");
        return http_send(c);
    }
    rq->body = c->body.data ? c->body.data : "";
    rq->body_len = c->body.len;
    rq->deadline_ns = clock_ns() + c->timeout_ns;
    /* Announced before `stopping` is read: http_stop() either sees it or has stopped it. */
    atomic_fetch_add(&h->busy, 1);
    if (atomic_load(&h->stopping)) {
        atomic_fetch_sub(&h->busy, 1);
        metrics_rejected(rq->app->metrics, REJECT_DRAINING);
        reply_busy(rq, "draining", "the server is shutting down");
        return http_send(c);
    }
    if (rq->route->handler(rq) == REQUEST_DEFERRED)
        return MHD_YES;
    atomic_fetch_sub(&h->busy, 1);
    return http_send(c);
}

enum MHD_Result http_access(void *cls, struct MHD_Connection *con, const char *url,
                            const char *method, const char *version, const char *upload_data,
                            size_t *upload_data_size, void **con_cls)
{
    struct conn *c = *con_cls;
    size_t len = *upload_data_size;

    (void)cls;
    (void)con;
    (void)url;
    *upload_data_size = 0;
    if (!c)
        return MHD_NO;
    switch (c->stage) {
    case STAGE_NONE:
        return begin(c, method, version);
    case STAGE_RECEIVING:
    case STAGE_DRAINING:
        return len > 0 ? receive(c, upload_data, len) : dispatch(c);
    case STAGE_DEFERRED:
        return loop_has_answer(c) ? http_send(c) : MHD_YES;
    case STAGE_REPLIED:
        break;
    }
    return MHD_YES;
}

/* ---- deferring ---- */

void request_defer(struct request *rq, request_go_fn *go, bool for_long)
{
    struct conn *c = conn_of(rq);

    c->stage = STAGE_DEFERRED;
    rq->go = go;
    conn_monitor(c);
    loop_defer(c, for_long);
}

void request_complete(struct request *rq, struct request *next)
{
    struct conn *c = conn_of(rq);
    struct http *h = c->http;

    loop_finish(c, next ? conn_of(next) : NULL);
    atomic_fetch_sub(&h->busy, 1);
}
