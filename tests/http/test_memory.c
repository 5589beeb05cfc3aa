/*
 * Memory that runs out. Each allocation that serving a request makes, in convd and in the libraries
 * under it, fails in turn, once and from then on. The client gets the right answer, an error that
 * says so or the end of the connection, and the next request is served as if nothing had been.
 */
#include "tests/support/faults.h"
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <zlib.h>

#define RAW "Content-Type: application/octet-stream\r\n"

/* A request as it is sent, and its answer when there is memory. */
struct kind {
    const char *name;
    struct body bytes;
    int status;
    const char *code; /* of the error, or NULL */
    int digit;        /* of the answer; -1: any text */
};

static struct kind request(const char *name, const char *line, const char *headers,
                           const void *body, size_t len)
{
    struct kind k = {.name = name, .status = 200, .digit = -1};
    body_printf(&k.bytes, "%s HTTP/1.1\r\nHost: x\r\n%s", line, headers);
    if (body != NULL)
        body_printf(&k.bytes, "Content-Length: %zu\r\n", len);
    body_printf(&k.bytes, "\r\n");
    body_add(&k.bytes, body, len);
    return k;
}

static struct kind digit(const char *name, const char *headers, const void *body, size_t len,
                         int digit)
{
    struct kind k = request(name, "POST /classify", headers, body, len);
    k.digit = digit;
    return k;
}

static struct kind failure(struct kind k, int status, const char *code)
{
    k.status = status;
    k.code = code;
    return k;
}

/* Whether the connection can be used for another request after this answer. */
static bool check(const struct kind *k, const struct response *r, unsigned long failed,
                  const char *what)
{
    if (r == NULL) {
        cr_assert(failed > 0, "%s: no answer", what);
        return false;
    }
    /* Without memory there may be no more than a last word past the HTTP library. */
    if (failed > 0 && r->status == 503)
        response_expect_error(r, 503, "out_of_memory", what);
    else if (k->code != NULL)
        response_expect_error(r, k->status, k->code, what);
    else if (k->digit >= 0)
        expect_digit(r, k->digit, 5, what);
    else
        cr_assert(r->status == k->status && r->body_len > 0, "%s: %s", what, r->head);
    cr_assert(r->status == 503 || response_header(r, "X-Request-Id") != NULL, "%s: %s", what,
              r->head);
    const char *connection = response_header(r, "Connection");
    return connection == NULL || strcasecmp(connection, "close") != 0;
}

/* A request without failures, on this connection or, when it has ended, on another. */
static void ask_again(struct server *s, struct client *c, bool open, const char *what)
{
    const struct kind good = digit("the next one", RAW, digit_pixels(6), 784, 6);
    if (!open) {
        client_close(c);
        c = client_try_connect(s);
        cr_assert(c != NULL, "%s ended the server:\n%s", what, server_log_tail(s));
    }
    client_send(c, good.bytes.bytes, good.bytes.len);
    expect_digit(client_read(c, false), 6, 5, data_printf("after %s", what));
    client_close(c);
}

static void fail_each(struct server *s, struct alloc_hook *hook, const struct kind *k)
{
    const long most = 2000;
    for (int forever = 0; forever < 2; forever++) {
        unsigned long failed = 1;
        long n = 1;
        for (; failed > 0 && n <= most; n++) {
            const char *what =
                data_printf("%s, allocation %ld%s", k->name, n, forever ? " and all after it" : "");
            faults_begin(hook, n, forever);
            struct client *c = client_connect(s);
            client_send(c, k->bytes.bytes, k->bytes.len);
            const struct response *r = client_read(c, false);
            failed = faults_end(hook);
            ask_again(s, c, check(k, r, failed, what), what);
        }
        cr_assert(n > 4 && n <= most, "%s: %ld allocations", k->name, n);
    }
}

static struct server *start(struct alloc_hook **hook)
{
    return faults_server_start((const char *const[]){"--threads", "2", "--io-threads", "1", NULL},
                               hook);
}

static void finish(struct server *s)
{
    cr_expect(http_metric_wait(s, "convd_inflight_requests", 1, 1, 20), "requests were lost");
    cr_expect(http_metric(s, "convd_queue_bytes") == 0);
    server_stop(s);
}

Test(memory, raw_octets)
{
    struct alloc_hook *hook;
    struct server *s = start(&hook);
    struct kind k = digit("octets", RAW, digit_pixels(3), 784, 3);
    fail_each(s, hook, &k);
    finish(s);
}

Test(memory, image_files)
{
    static const struct {
        const char *file;
        int digit;
    } files[] = {{"digit-7.png", 7}, {"paper-3.png", 3}, {"paper-8.jpg", 8}, {"paper-2.bmp", 2}};
    struct alloc_hook *hook;
    struct server *s = start(&hook);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct data file = data_read(files[i].file);
        struct kind k = digit(files[i].file, "", file.bytes, file.len, files[i].digit);
        fail_each(s, hook, &k);
    }
    finish(s);
}

/* Decoded by a worker, and resized from a large picture. */
Test(memory, large_image)
{
    struct alloc_hook *hook;
    struct server *s = start(&hook);
    const unsigned scale = 20, side = 28 * scale;
    uint8_t *rgb = data_alloc((size_t)side * side * 3);
    const uint8_t *four = digit_pixels(4);
    for (size_t i = 0; i < (size_t)side * side * 3; i++)
        rgb[i] = four[i / 3 / side / scale * 28 + i / 3 % side / scale];
    struct data png = make_png(rgb, side, side, 3);
    struct kind k = digit("large PNG", "", png.bytes, png.len, 4);
    fail_each(s, hook, &k);
    finish(s);
}

Test(memory, json)
{
    struct alloc_hook *hook;
    struct server *s = start(&hook);
    struct body pixels = {0}, file = {0}, escaped = {0};
    struct data png = data_read("digit-5.png");
    body_printf(&pixels, "{\"pixels\":");
    body_pixels(&pixels, digit_pixels(9), (const unsigned[]){28, 28}, 2);
    body_printf(&pixels, "}");
    body_printf(&file, "{\"image\": \"data:image/png;base64,");
    body_base64(&file, png.bytes, png.len);
    body_printf(&file, "\"}");
    body_printf(&escaped, "{\"images\": [\"data:image\\/png;base64,");
    body_base64(&escaped, png.bytes, png.len);
    body_printf(&escaped, "\"]}");
    const struct kind kinds[] = {
        digit("pixels", "", pixels.bytes, pixels.len, 9),
        digit("base64", "", file.bytes, file.len, 5),
        digit("escaped base64", "", escaped.bytes, escaped.len, 5),
        /* A token that outgrows the parser's first buffer. */
        failure(request("a key", "POST /classify", "", "{\"a\":0.25000000000000000000}", 28), 400,
                "bad_request"),
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        fail_each(s, hook, &kinds[i]);
    finish(s);
}

Test(memory, multipart_and_compressed)
{
    struct alloc_hook *hook;
    struct server *s = start(&hook);
    struct data png = data_read("digit-1.png");
    struct body parts = {0};
    body_part(&parts, "file", "one.png", png.bytes, png.len);
    body_end_parts(&parts);
    z_stream z = {0};
    Bytef packed[2048];
    cr_assert(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    z.next_in = (z_const Bytef *)(uintptr_t)digit_pixels(2);
    z.avail_in = 784;
    z.next_out = packed;
    z.avail_out = sizeof packed;
    cr_assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
    const struct kind kinds[] = {
        digit("multipart", "Content-Type: " BODY_MULTIPART "\r\n", parts.bytes, parts.len, 1),
        digit("gzip", RAW "Content-Encoding: gzip\r\n", packed, z.total_out, 2),
    };
    deflateEnd(&z);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        fail_each(s, hook, &kinds[i]);
    finish(s);
}

Test(memory, pages)
{
    struct alloc_hook *hook;
    struct server *s = start(&hook);
    char query[512];
    memset(query, 'x', sizeof query - 1);
    query[sizeof query - 1] = '\0';
    const struct kind kinds[] = {
        request("models", "GET /models", "", NULL, 0),
        request("model", "GET /models/lenet5", "", NULL, 0),
        request("metrics", "GET /metrics", "", NULL, 0),
        request("page", "GET /", "Accept: text/html\r\n", NULL, 0),
        request("probe", "GET /readyz?verbose", "", NULL, 0),
        request("long target", data_printf("GET /livez?%s", query), "", NULL, 0),
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        fail_each(s, hook, &kinds[i]);
    finish(s);
}

Test(memory, error_replies)
{
    struct alloc_hook *hook;
    struct server *s = start(&hook);
    const struct kind kinds[] = {
        failure(request("no path", "GET /none", "", NULL, 0), 404, "not_found"),
        failure(request("no method", "GET /classify", "", NULL, 0), 405, "method_not_allowed"),
        failure(request("no image", "POST /classify", "", "GIF89a", 6), 415,
                "unsupported_image_format"),
        failure(request("bad JSON", "POST /classify", "", "{\"image\":}", 10), 400, "bad_json"),
        failure(request("bad framing", "POST /classify", "Content-Length: 4\r\n", "GIF8", 4), 400,
                "bad_request"),
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        fail_each(s, hook, &kinds[i]);
    finish(s);
}
