/*
 * Behind the proxies that people put in front: errors arrive as they were sent, connections are
 * reused, and no two readings of one byte stream let a second request through.
 */
#include "tests/support/proxy.h"
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <pthread.h>
#include <signal.h>

#define RAW "Content-Type: application/octet-stream\r\n"

/* One test for each proxy. */
#define BEHIND_BOTH(what)       \
    Test(proxy, what##_nginx)   \
    {                           \
        what(PROXY_NGINX);      \
    }                           \
    Test(proxy, what##_haproxy) \
    {                           \
        what(PROXY_HAPROXY);    \
    }
/* And where it matters how bodies are passed on. */
#define BEHIND_EACH(what)                \
    BEHIND_BOTH(what)                    \
    Test(proxy, what##_nginx_unbuffered) \
    {                                    \
        what(PROXY_NGINX_UNBUFFERED);    \
    }

static struct server *behind(enum proxy_kind kind, const struct server *s)
{
    return proxy_start(&(struct proxy_options){.kind = kind, .ports = {s->port}});
}

/* ---------------------------------------------------------------- errors */

struct early {
    const char *method, *target, *headers;
    const char *begin; /* of the body, the rest is zeros */
    size_t len;
    int status;
    const char *code;
};

static void expect_early(const struct server *proxy, const struct early *e)
{
    char *body = data_alloc(e->len);
    memcpy(body, e->begin, strlen(e->begin));
    const char *what = data_printf("%s %s, %s%zu bytes", e->method, e->target, e->headers, e->len);
    struct client *c = client_connect(proxy);
    client_printf(c, "%s %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n", e->method,
                  e->target, e->headers, e->len);
    /* Who asks to be told before the body is sent waits for it: what is sent to a connection that
     * is closed after the answer may take the answer with it. */
    bool waits = strstr(e->headers, "100-continue") != NULL;
    if (!waits)
        client_send(c, body, e->len);
    const struct response *r = client_read(c, false);
    if (r != NULL && r->status == 100) { /* the proxy's own */
        if (waits)
            client_send(c, body, e->len);
        r = client_read(c, false);
    }
    response_expect_error(r, e->status, e->code, what);
    /* On a machine that stalls the reading of the body may end before it does, with a last word. */
    if (strstr(r->body, "the body took too long") == NULL) {
        cr_expect(response_header(r, "X-Request-Id") != NULL, "%s: %s", what, r->head);
        cr_expect(e->status != 405 || response_header(r, "Allow") != NULL, "%s: %s", what, r->head);
    }
    client_close(c);
}

/* Errors that are certain before the body has come are the ones that a proxy may turn into 502: it
 * is still sending when the answer and the end of the connection arrive. */
static void early_errors(enum proxy_kind kind)
{
    static const struct early rows[] = {
        {"POST", "/classify", "", "", 65537, 413, "body_too_large"},
        {"POST", "/classify", "", "", 1000000, 413, "body_too_large"},
        {"PUT", "/classify", "", "", 12000000, 413, "body_too_large"},
        {"POST", "/classify", "Expect: 100-continue\r\n", "", 70000, 413, "body_too_large"},
        {"POST", "/classify", "", "GIF89a", 40000, 415, "unsupported_image_format"},
        {"POST", "/classify", "Content-Encoding: br\r\n", "", 3000000, 413, "body_too_large"},
        {"POST", "/classify", "Content-Encoding: br\r\n", "", 60000, 415, "unsupported_encoding"},
        {"POST", "/classify", "", "\x89PNG\r\n\x1a\n", 60000, 422, "corrupt_image"},
        {"POST", "/classify", "X-Request-Timeout-Ms: x\r\n", "", 60000, 400, "bad_timeout"},
        {"POST", "/nothing", "", "", 1000000, 404, "not_found"},
        {"POST", "/classify/nothing", "", "", 60000, 404, "model_not_found"},
        {"POST", "/livez", "", "", 1000000, 405, "method_not_allowed"},
        {"PUT", "/metrics", "", "", 12000000, 405, "method_not_allowed"},
        {"DELETE", "/classify", "", "", 100, 405, "method_not_allowed"},
    };
    struct server *s = server_start_with("--max-body", "64K");
    struct server *proxy = behind(kind, s);
    for (int turn = 0; turn < 4; turn++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            expect_early(proxy, &rows[i]);
    expect_digit(http_post(proxy, "/classify", "application/octet-stream", digit_pixels(4), 784), 4,
                 5, "afterwards");
    proxy_stop(proxy);
    server_stop(s);
}
BEHIND_EACH(early_errors)

/* The same body in chunks: that it is too large shows on the way. */
static void chunked_bodies(enum proxy_kind kind)
{
    struct server *s = server_start_with("--max-body", "64K");
    struct server *proxy = behind(kind, s);
    char *zeros = data_alloc(50000);
    for (int turn = 0; turn < 8; turn++) {
        int pieces = turn % 2 ? 40 : 1;
        struct client *c = client_connect(proxy);
        client_printf(c, "POST /classify HTTP/1.1\r\nHost: x\r\n"
                         "Transfer-Encoding: chunked\r\n\r\n");
        for (int i = 0; i < pieces; i++) {
            client_printf(c, "c350\r\n");
            client_send(c, zeros, 50000);
            client_printf(c, "\r\n");
        }
        client_printf(c, "0\r\n\r\n");
        if (pieces == 1)
            response_expect_error(client_read(c, false), 415, "unsupported_image_format", "50 KB");
        else
            response_expect_error(client_read(c, false), 413, "body_too_large", "2 MB");
        client_close(c);
    }
    proxy_stop(proxy);
    server_stop(s);
}
BEHIND_EACH(chunked_bodies)

/* No room: 503 with the time to come back, the server's own, with bodies large and small. False
 * when the queue was not full for so long. */
static bool refused_by_a_full_queue(enum proxy_kind kind)
{
    enum { IMAGES = 16, ASKS = 6 };
    struct server *s = server_start_with("--max-queue", "16", "--max-delay-us", "1000000",
                                         "--max-batch", "1024", "--threads", "1");
    struct server *proxy = behind(kind, s);
    struct body b = {0};
    const struct response *answers[ASKS];
    body_printf(&b, "{\"pixels\":");
    body_pixels(&b, data_alloc(IMAGES * 784), (const unsigned[]){IMAGES, 28, 28, 1}, 4);
    body_printf(&b, "}");
    struct client *first = client_connect(proxy);
    client_printf(first, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                  b.len);
    client_send(first, b.bytes, b.len);
    bool full = http_metric_wait(s, "convd_queue_depth{model=\"lenet5\"}", IMAGES, IMAGES, 1);
    for (int i = 0; i < ASKS; i++)
        answers[i] =
            i % 2 ? http_post(proxy, "/classify", "application/octet-stream", digit_pixels(1), 784)
                  : http_post(proxy, "/classify", "application/json", b.bytes, b.len);
    full = full && !client_readable(first);
    for (int i = 0; full && i < ASKS; i++) {
        response_expect_error(answers[i], 503, "queue_full", "a full queue");
        cr_expect(response_header(answers[i], "Retry-After") != NULL, "%s", answers[i]->head);
    }
    const struct response *r = client_read(first, false);
    cr_assert(r != NULL && r->status == 200, "%s", r == NULL ? "no answer" : r->body);
    client_close(first);
    proxy_stop(proxy);
    server_stop(s);
    return full;
}

static void a_full_queue(enum proxy_kind kind)
{
    unsigned left = 10;
    while (!refused_by_a_full_queue(kind))
        cr_assert(--left > 0, "the queue was never full for long");
}
BEHIND_BOTH(a_full_queue)

/* A server that only waits for its last request refuses the others in so many words. */
static void draining(enum proxy_kind kind)
{
    struct server *s = server_start_with("--drain-timeout", "60s");
    struct server *proxy = behind(kind, s);
    struct client *last = client_connect(s);
    struct body b = {0};
    /* So much of it comes at once that the rest has half a minute. */
    body_printf(&b, "{%*s\"pixels\":", 8000, "");
    for (int i = 0; i < 4; i++)
        body_printf(&b, "%*s", 8000, "");
    size_t begun = b.len;
    body_pixels(&b, digit_pixels(3), (const unsigned[]){28, 28}, 2);
    body_printf(&b, "}");
    client_printf(last, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", b.len);
    client_send(last, b.bytes, begun);
    cr_assert(http_metric_wait(s, "convd_inflight_requests", 2, 2, 20));
    server_signal(s, SIGTERM);
    cr_assert(server_log_wait(s, "\"draining\"", 20));
    /* It refuses soon after. */
    for (int i = 0; http_post(s, "/classify", NULL, "", 0)->status != 503; i++)
        cr_assert(i < 1000, "%s", server_log_tail(s));
    for (int turn = 0; turn < 4; turn++) {
        static const struct early rows[] = {
            {"POST", "/classify", "", "", 784, 503, "draining"},
            {"POST", "/classify", "", "", 1000000, 503, "draining"},
            {"PUT", "/classify", "", "", 12000000, 503, "draining"},
        };
        for (size_t i = 0; i < 3; i++)
            expect_early(proxy, &rows[i]);
        response_expect_error(http_get(proxy, "/readyz"), 503, "draining", "/readyz");
    }
    client_send(last, b.bytes + begun, b.len - begun);
    expect_digit(client_read(last, false), 3, 5, "the last request");
    cr_assert_eq(server_wait(s, 30.0 * server_slowness()), 0, "%s", server_log_tail(s));
    proxy_stop(proxy);
}
BEHIND_EACH(draining)

/* ---------------------------------------------------------------- connections */

/* Answers, errors among them, do not cost the proxy its connection. */
static void connections_are_reused(enum proxy_kind kind)
{
    struct server *s = server_start(NULL);
    struct server *proxy = behind(kind, s);
    struct client *c = client_connect(proxy);
    for (int i = 0; i < 200; i++) {
        const struct response *r;
        if (i % 4 == 3) {
            client_printf(c, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n");
            response_expect_error(r = client_read(c, false), 404, "not_found", "404");
        } else if (i % 4 == 2) {
            client_printf(c,
                          "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
            response_expect_error(r = client_read(c, false), 415, NULL, "415");
        } else {
            client_printf(c, "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW
                             "Content-Length: 784\r\n\r\n");
            client_send(c, digit_pixels(i % 10), 784);
            expect_digit(r = client_read(c, false), i % 10, 5, "keep-alive");
        }
        const char *connection = response_header(r, "Connection");
        cr_assert(connection == NULL || strcasecmp(connection, "keep-alive") == 0, "%s", r->head);
    }
    unsigned connections = proxy_connections(s->port);
    cr_expect(connections <= 4, "200 requests took %u connections", connections);
    client_close(c);
    proxy_stop(proxy);
    server_stop(s);
}
BEHIND_BOTH(connections_are_reused)

struct visitor {
    pthread_t thread;
    const struct server *proxy;
    long pause_ms;
    unsigned requests, failures;
};

static void *visit(void *arg)
{
    struct visitor *v = arg;
    struct client *c = client_connect(v->proxy);
    while (v->requests < 3) {
        client_printf(c,
                      "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "Content-Length: 784\r\n\r\n");
        client_send(c, digit_pixels(7), 784);
        const struct response *r = client_read(c, false);
        v->requests++;
        v->failures += r == NULL || r->status != 200;
        if (r == NULL)
            break;
        process_pause_ms(v->pause_ms);
    }
    client_close(c);
    return NULL;
}

/* Requests that come just when the proxy's idle time ends: since ours is longer, it is the proxy
 * that closes, and none of them meets a connection that we are closing. */
static void idle_connections(enum proxy_kind kind)
{
    enum { VISITORS = 12 };
    struct server *s = server_start_with("--idle-timeout", "10s", "--access-log", "off");
    struct server *proxy =
        proxy_start(&(struct proxy_options){.kind = kind, .ports = {s->port}, .idle_s = 1});
    struct visitor visitors[VISITORS];
    for (int i = 0; i < VISITORS; i++) {
        visitors[i] = (struct visitor){.proxy = proxy, .pause_ms = 970 + 5 * i};
        cr_assert(pthread_create(&visitors[i].thread, NULL, visit, &visitors[i]) == 0);
    }
    unsigned requests = 0, failures = 0;
    for (int i = 0; i < VISITORS; i++) {
        pthread_join(visitors[i].thread, NULL);
        requests += visitors[i].requests;
        failures += visitors[i].failures;
    }
    cr_expect_eq(failures, 0, "%u of %u requests failed", failures, requests);
    proxy_stop(proxy);
    server_stop(s);
}
BEHIND_BOTH(idle_connections)

/* ---------------------------------------------------------------- smuggling */

/* What is to get through, in 38 bytes (26 in hexadecimal); the number is the vector's. */
#define SECOND       "GET /second-00 HTTP/1.1\r\nHost: xyz\r\n\r\n"
#define SECOND_CHUNK "26\r\n" SECOND "\r\n0\r\n\r\n"
#define POST         "POST /classify HTTP/1.1\r\nHost: x\r\n"
#define CHUNKED      "Transfer-Encoding: chunked\r\n"
_Static_assert(sizeof SECOND - 1 == 38, "the lengths below are of this");

/* Two requests by any reading: what follows the chunks are headers without a meaning. */
static const char trailer[] = POST CHUNKED "\r\n0\r\nContent-Length: 38\r\n\r\n" SECOND;

static const char *const vectors[] = {
    /* Content-Length and Transfer-Encoding, in both orders and for both readings */
    POST "Content-Length: 43\r\n" CHUNKED "\r\n0\r\n\r\n" SECOND,
    POST CHUNKED "Content-Length: 43\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 4\r\n" CHUNKED "\r\n" SECOND_CHUNK,
    POST CHUNKED "Content-Length: 4\r\n\r\n" SECOND_CHUNK,
    /* Transfer-Encoding that only one side knows */
    POST "Content-Length: 43\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\nTransfer-Encoding:\x0b"
         "chunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\nX: y\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\nTransfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Content-Length: 43\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SECOND,
    POST "Transfer-Encoding: identity\r\nContent-Length: 38\r\n\r\n" SECOND,
    POST "Transfer-Encoding: chunked, identity\r\n\r\n" SECOND_CHUNK,
    POST "Transfer-Encoding: gzip, chunked\r\n\r\n" SECOND_CHUNK,
    POST CHUNKED "Transfer-Encoding: identity\r\n\r\n" SECOND_CHUNK,
    POST CHUNKED CHUNKED "\r\n" SECOND_CHUNK,
    "POST /classify HTTP/1.0\r\nHost: x\r\n" CHUNKED "Connection: keep-alive\r\n\r\n" SECOND_CHUNK,
    /* Content-Length that only one side knows */
    POST "Content-Length: 0\r\nContent-Length: 38\r\n\r\n" SECOND,
    POST "Content-Length: 38\r\nContent-Length: 0\r\n\r\n" SECOND,
    POST "Content-Length: 38\r\nContent-Length: 38\r\n\r\n" SECOND,
    POST "Content-Length: 0, 38\r\n\r\n" SECOND,
    POST "Content-Length: +38\r\n\r\n" SECOND,
    POST "Content-Length: 0x26\r\n\r\n" SECOND,
    POST "Content-Length: 38 0\r\n\r\n" SECOND,
    POST "Content-Length : 38\r\n\r\n" SECOND,
    POST "Content-Length : 38\r\nContent-Length: 0\r\n\r\n" SECOND,
    POST "Content-Length: 38\r\nContent-Length\t: 0\r\n\r\n" SECOND,
    POST "Content_Length: 38\r\nContent-Length: 0\r\n\r\n" SECOND,
    POST "Content-Length:\r\n 38\r\n\r\n" SECOND,
    POST "X: y\r\n Content-Length: 38\r\n\r\n" SECOND,
    POST " Content-Length: 38\r\n\r\n" SECOND,
    POST "Connection: Content-Length\r\nContent-Length: 38\r\n\r\n" SECOND,
    "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 38\r\n\r\n" SECOND,
    "HEAD /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 38\r\n\r\n" SECOND,
    "GET /livez HTTP/1.1\r\nHost: x\r\n" CHUNKED "\r\n" SECOND_CHUNK,
    "OPTIONS /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 38\r\n\r\n" SECOND,
    /* lines that end in other ways */
    "POST /classify HTTP/1.1\nHost: x\nContent-Length: 38\n\n" SECOND,
    "POST /classify HTTP/1.1\rHost: x\rContent-Length: 38\r\r" SECOND,
    POST CHUNKED "\r\n26\n" SECOND "\r\n0\r\n\r\n",
    POST CHUNKED "\r\n26\r\n" SECOND "\n0\n\n",
    POST CHUNKED "\r\n26\r\n" SECOND "0\r\n\r\n",
    /* chunks */
    POST CHUNKED "\r\n26;a=b\r\n" SECOND "\r\n0\r\n\r\n",
    POST CHUNKED "\r\n26;a=\"\r\n" SECOND "\r\n0\r\n\r\n",
    POST CHUNKED "\r\n2;\nxx\r\n26\r\n" SECOND "\r\n0\r\n\r\n",
    POST CHUNKED "\r\n26 \r\n" SECOND "\r\n0\r\n\r\n",
    POST CHUNKED "\r\n 26\r\n" SECOND "\r\n0\r\n\r\n",
    POST CHUNKED "\r\n0x26\r\n" SECOND "\r\n0\r\n\r\n",
    POST CHUNKED "\r\n+26\r\n" SECOND "\r\n0\r\n\r\n",
    POST CHUNKED "\r\n-26\r\n" SECOND "\r\n0\r\n\r\n",
    POST CHUNKED "\r\n10000000000000026\r\n" SECOND "\r\n0\r\n\r\n",
    POST CHUNKED "\r\n0000000000000000000026\r\n" SECOND "\r\n0\r\n\r\n",
    POST CHUNKED "\r\n\r\n26\r\n" SECOND "\r\n0\r\n\r\n",
    trailer,
    POST CHUNKED "\r\n0\r\n" SECOND,
    /* answers that come before the body */
    POST "Expect: 100-continue\r\nContent-Length: 38\r\n\r\n" SECOND,
    "POST /nothing HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
    "38\r\n\r\n" SECOND,
    POST "Expect: x 100-continue\r\nContent-Length: 38\r\n\r\n" SECOND,
    /* other protocols, other targets */
    POST "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
         "Content-Length: 38\r\n\r\n" SECOND,
    "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\nContent-Length: 38\r\n\r\n" SECOND,
    "POST /classify HTTP/1.2\r\nHost: x\r\nContent-Length: 38\r\n\r\n" SECOND,
    "POST http://x/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 38\r\n\r\n" SECOND,
    "POST /classify HTTP/1.1 HTTP/1.1\r\nHost: x\r\nContent-Length: 38\r\n\r\n" SECOND,
    "POST /classify%0d%0aContent-Length:%200%0d%0aHost:%20x%0d%0a%0d%0a HTTP/1.1\r\nHost: x\r\n"
    "Content-Length: 38\r\n\r\n" SECOND,
};

/* Sends one, then asks twice for something else: whoever got out of step answers that wrongly. */
static void try_vector(const struct server *proxy, unsigned number)
{
    char *bytes = data_printf("%s", vectors[number]), *digits = strstr(bytes, "/second-") + 8;
    digits[0] = (char)('0' + number / 10);
    digits[1] = (char)('0' + number % 10);
    struct client *c = client_connect(proxy);
    client_send(c, bytes, strlen(bytes));
    process_pause_ms(4);
    for (int i = 0; i < 2; i++) {
        const char *id = data_printf("after-%u-%d", number, i);
        const struct response *r =
            http_request(proxy, "GET", "/livez", data_printf("X-Request-Id: %s\r\n", id), NULL, 0);
        const char *got = response_header(r, "X-Request-Id");
        cr_expect(r->status == 200 && got != NULL && strcmp(got, id) == 0,
                  "the answer after vector %u is another's:\n%s%s", number, r->head, r->body);
    }
    client_close(c);
}

static unsigned count_of(const char *text, const char *word)
{
    unsigned n = 0;
    for (const char *p = text; (p = strstr(p, word)) != NULL; p++)
        n++;
    return n;
}

/* Sends every vector to `front`: the server sees the requests that a proxy has seen, and no other.
 */
static void send_vectors(const struct server *front, const struct server *s, bool is_proxy)
{
    enum { COUNT = sizeof vectors / sizeof *vectors };
    for (unsigned i = 0; i < COUNT; i++)
        try_vector(front, i);
    cr_assert(server_log_wait(s, data_printf("after-%u-1", COUNT - 1), 20));
    process_pause_ms(100);
    const char *log = server_log(s);
    for (unsigned i = 0; i < COUNT; i++) {
        const char *path = data_printf("/second-%02u", i);
        unsigned seen = count_of(log, path), taken = vectors[i] == trailer;
        /* It notes a request when it is over, which may be later than here. */
        for (int n = 0; is_proxy && (taken = proxy_requests(front, path)) < seen && n < 500; n++)
            process_pause_ms(10);
        cr_expect(seen <= taken, "vector %u: %u requests became %u:\n%s", i, taken, seen,
                  vectors[i]);
    }
}

static void smuggling(enum proxy_kind kind)
{
    struct server *s = server_start(NULL);
    struct server *proxy = behind(kind, s);
    send_vectors(proxy, s, true);
    proxy_stop(proxy);
    server_stop(s);
}
BEHIND_EACH(smuggling)
Test(proxy, smuggling_haproxy_lax)
{
    smuggling(PROXY_HAPROXY_LAX);
}

Test(proxy, smuggling_past_none)
{
    struct server *s = server_start(NULL);
    send_vectors(s, s, false);
    server_stop(s);
}
