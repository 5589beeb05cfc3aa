/* The end of a request: its reply as libmicrohttpd wants it, its metrics and its log line. */
#include "server/http_conn.h"

#include "server/clock.h"
#include "server/config.h"
#include "server/digits.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/pool.h"
#include "server/reply.h"
#include "server/routes.h"

#include <arpa/inet.h>

static bool must_close(const struct conn *c)
{
    return c->close || atomic_load(&c->http->app->phase) >= APP_DRAINING ||
           atomic_load(&c->http->live) > c->http->max_connections;
}

static bool add(struct MHD_Response *response, const char *name, const char *value)
{
    return MHD_add_response_header(response, name, value) == MHD_YES;
}

/* All of them or false: without its "Connection: close" a reply to malformed framing would have
 * what follows taken for a request. */
static bool add_headers(struct MHD_Response *response, const struct conn *c)
{
    const struct reply *r = &c->rq.reply;
    char retry_after[DIGITS_BYTES];

    digits_integer(retry_after, r->retry_after);
    return add(response, "Content-Type", r->content_type) &&
           add(response, "X-Request-Id", c->rq.id) &&
           (r->status < 400 || (add(response, "Cache-Control", "no-store") &&
                                add(response, "X-Content-Type-Options", "nosniff"))) &&
           (!r->allow || add(response, "Allow", r->allow)) &&
           (!r->retry_after || add(response, "Retry-After", retry_after)) &&
           (!must_close(c) || add(response, "Connection", "close"));
}

static void discard_response(struct conn *c)
{
    if (c->response)
        MHD_destroy_response(c->response);
    c->response = NULL;
}

/* There is no memory for a reply of the library's. What came before on this connection is sent. */
static enum MHD_Result send_last_word(struct conn *c)
{
    struct request *rq = &c->rq;

    metrics_rejected(rq->app->metrics, REJECT_MEMORY);
    rq->reply.status = 503;
    rq->reply.error_code = "out_of_memory";
    c->stage = STAGE_DRAINING; /* as any request that ends with a last word */
    conn_cut(c, "no memory for a reply");
    return MHD_NO;
}

void http_compose(struct conn *c)
{
    struct reply *r = &c->rq.reply;

    if (r->status == 0)
        reply_error(&c->rq, 500, "internal", "the request was not answered");
    body_free(c);
    c->reply_len = c->rq.method == METHOD_HEAD ? 0 : r->body_len;
    c->composed = true;
    c->response =
        r->body_is_static
            ? MHD_create_response_from_buffer(r->body_len, r->body, MHD_RESPMEM_PERSISTENT)
            : MHD_create_response_from_buffer_with_free_callback(r->body_len, r->body, pool_free);
    if (!c->response)
        return;
    if (!r->body_is_static)
        r->body = NULL; /* the response's now */
    if (!add_headers(c->response, c))
        discard_response(c);
}

enum MHD_Result http_send(struct conn *c)
{
    c->client_left = atomic_load(&c->peer_gone);
    if (c->rq.backlog_ns)
        loop_overloaded(c->loop, c->rq.backlog_ns);
    if (!c->composed)
        http_compose(c);
    if (!c->response)
        return send_last_word(c);
    enum MHD_Result rc = conn_enter(c, CONN_WRITE)
                             ? MHD_queue_response(c->con, (unsigned)c->rq.reply.status, c->response)
                             : MHD_NO;
    discard_response(c);
    if (rc == MHD_YES)
        c->stage = STAGE_REPLIED;
    return rc;
}

/* ---- afterwards ---- */

static void print_client(struct conn *c)
{
    if (IN6_IS_ADDR_V4MAPPED(&c->address))
        inet_ntop(AF_INET, c->address.s6_addr + 12, c->client, sizeof c->client);
    else if (!IN6_IS_ADDR_UNSPECIFIED(&c->address))
        inet_ntop(AF_INET6, &c->address, c->client, sizeof c->client);
}

static const char *method_name(enum request_method method)
{
    switch (method) {
    case METHOD_GET:
        return "GET";
    case METHOD_HEAD:
        return "HEAD";
    case METHOD_POST:
        return "POST";
    case METHOD_PUT:
        return "PUT";
    case METHOD_OPTIONS:
        return "OPTIONS";
    case METHOD_OTHER:
        break;
    }
    return "other";
}

static void access_line(struct conn *c, int status, const char *code, uint64_t total_ns)
{
    const struct request *rq = &c->rq;
    bool inference = rq->images > 0;
    struct {
        char status[DIGITS_BYTES], in[DIGITS_BYTES], out[DIGITS_BYTES], images[DIGITS_BYTES],
            batch[DIGITS_BYTES], decode[DIGITS_BYTES], queue[DIGITS_BYTES], compute[DIGITS_BYTES],
            total[DIGITS_BYTES];
    } n;

    digits_integer(n.status, (unsigned)status);
    digits_integer(n.in, atomic_load(&c->received));
    digits_integer(n.out, c->reply_len);
    digits_integer(n.images, rq->images);
    digits_integer(n.batch, rq->batch_size);
    digits_ms(n.decode, rq->decode_ns);
    digits_ms(n.queue, rq->queue_ns);
    digits_ms(n.compute, rq->compute_ns);
    digits_ms(n.total, total_ns);
    if (!c->client[0])
        print_client(c);
    log_event(rq->app->log, status ? LOG_INFO : LOG_DEBUG, "request",
              (const struct log_field[]){
                  {"method", method_name(rq->method)},
                  {"route", rq->route ? rq->route->label : NULL},
                  {"path", rq->path},
                  {"#status", status ? n.status : NULL},
                  {"#bytes_in", n.in},
                  {"#bytes_out", n.out},
                  {"model", rq->model[0] ? rq->model : NULL},
                  {"version", rq->version[0] ? rq->version : NULL},
                  {"#images", inference ? n.images : NULL},
                  {"#batch", inference ? n.batch : NULL},
                  {"#decode_ms", inference ? n.decode : NULL},
                  {"#queue_ms", inference ? n.queue : NULL},
                  {"#compute_ms", inference ? n.compute : NULL},
                  {"#total_ms", n.total},
                  {"client", c->client[0] ? c->client : NULL},
                  {"request_id", rq->id},
                  {"error", code},
                  {NULL, NULL},
              });
}

/* What the request came to: the status that was sent, 0 when nobody was there to hear it. */
static int outcome(const struct conn *c, enum MHD_RequestTerminationCode how, const char **code)
{
    bool ended = conn_word_phase(atomic_load(&c->phase_word)) == CONN_ENDED;
    bool receiving = c->stage == STAGE_RECEIVING || c->stage == STAGE_DRAINING;

    *code = c->rq.reply.error_code;
    if (ended && c->stage == STAGE_DRAINING)
        return c->rq.reply.status; /* as the guard's last word */
    if (ended) {
        *code = "slow_client";
        return c->stage == STAGE_REPLIED ? c->rq.reply.status : 408;
    }
    if (c->stage == STAGE_REPLIED && !c->client_left)
        return c->rq.reply.status;
    if (receiving && how == MHD_REQUEST_TERMINATED_WITH_ERROR) {
        *code = "bad_chunk"; /* the library refused the body, and answered */
        return 400;
    }
    *code = how == MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN ? "shutdown" : "client_gone";
    return 0;
}

void http_finish(struct conn *c, enum MHD_RequestTerminationCode how)
{
    /* A request that the library itself refused has had no handler call. */
    if (c->stage != STAGE_NONE) {
        struct metrics *metrics = c->rq.app->metrics;
        c->total_ns = clock_ns() - c->rq.start_ns;
        c->outcome = outcome(c, how, &c->outcome_code);
        if (c->outcome)
            metrics_http(metrics, c->rq.route, c->rq.method, c->outcome, c->total_ns);
        else if (how != MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN)
            metrics_disconnect(metrics);
    }
    conn_enter(c, CONN_IDLE);
    loop_clear_later(c);
}

void http_clear(struct conn *c)
{
    struct request *rq = &c->rq;

    if (c->stage != STAGE_NONE) {
        if (rq->app->config->access_log)
            access_line(c, c->outcome, c->outcome_code, c->total_ns);
        if (rq->state_free)
            rq->state_free(rq->state);
        if (!rq->reply.body_is_static)
            pool_free(rq->reply.body);
        rq->state = NULL;
        rq->state_free = NULL;
        rq->reply = (struct reply){0};
        discard_response(c);
        body_free(c);
        metrics_inflight(rq->app->metrics, -1);
        atomic_fetch_sub(&c->http->work, c->is_work);
        atomic_fetch_sub(&c->http->open, 1);
    }
    if (c->uri != c->uri_inline)
        pool_free(c->uri);
    c->uri = NULL;
    c->stage = STAGE_NONE;
}
