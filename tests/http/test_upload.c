/* How bodies arrive: whole, chunked, slowly, pipelined, compressed, too large, not at all. */
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <zlib.h>

#define RAW "Content-Type: application/octet-stream\r\n"

static void send_head(struct client *c, const char *headers)
{
    client_printf(c, "POST /classify HTTP/1.1\r\nHost: x\r\n%s\r\n", headers);
}

Test(upload, many_requests_on_one_connection)
{
    struct server *s = server_start(NULL);
    struct client *c = client_connect(s);
    for (int i = 0; i < 50; i++) {
        send_head(c, RAW "Content-Length: 784\r\n");
        client_send(c, digit_pixels(i % 10), 784);
        expect_digit(client_read(c, false), i % 10, 5, "keep-alive");
    }
    client_close(c);
    server_stop(s);
}

Test(upload, pipelined_requests_are_answered_in_order)
{
    struct server *s = server_start(NULL);
    struct client *c = client_connect(s);
    struct body all = {0};
    for (int i = 0; i < 10; i++) {
        body_printf(&all,
                    "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "Content-Length: 784\r\n\r\n");
        body_add(&all, digit_pixels(9 - i), 784);
        body_printf(&all, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    client_send(c, all.bytes, all.len);
    for (int i = 0; i < 10; i++) {
        expect_digit(client_read(c, false), 9 - i, 5, "pipelined");
        const struct response *r = client_read(c, false);
        cr_assert(r != NULL && r->status == 200);
    }
    client_close(c);
    server_stop(s);
}

static void chunk(struct body *b, const void *bytes, size_t len, size_t piece,
                  const char *extension)
{
    for (size_t done = 0; done < len; done += piece) {
        size_t n = len - done < piece ? len - done : piece;
        body_printf(b, "%zx%s\r\n", n, extension);
        body_add(b, (const char *)bytes + done, n);
        body_printf(b, "\r\n");
    }
    body_printf(b, "0\r\n\r\n");
}

Test(upload, chunked)
{
    struct server *s = server_start(NULL);
    struct client *c = client_connect(s);
    static const size_t pieces[] = {1, 7, 100, 784, 4096};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct body b = {0};
        chunk(&b, digit_pixels(5), 784, pieces[i], i % 2 ? ";name=value" : "");
        send_head(c, RAW "Transfer-Encoding: chunked\r\n");
        client_send(c, b.bytes, b.len);
        expect_digit(client_read(c, false), 5, 5, data_printf("chunks of %zu", pieces[i]));
    }
    client_close(c);
    server_stop(s);
}

/* A megabyte in chunks of one byte: linear time, and no memory for each chunk. */
Test(upload, a_million_chunks)
{
    struct server *s = server_start(NULL);
    struct body b = {0};
    size_t len = 1000000;
    char *spaces = data_alloc(len);
    memset(spaces, ' ', len);
    spaces[0] = '{';
    chunk(&b, spaces, len, 1, "");
    size_t before = server_rss(s);
    struct client *c = client_connect(s);
    send_head(c, "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n");
    client_send(c, b.bytes, b.len);
    response_expect_error(client_read(c, false), 400, "bad_json", "a million chunks");
    size_t after = server_rss(s);
    cr_expect(server_slowness() > 1 || after < before + 4 * len, "%zu bytes more", after - before);
    client_close(c);
    server_stop(s);
}

/* Its last chunk is its first. */
Test(upload, empty_and_chunked)
{
    struct server *s = server_start(NULL);
    struct client *c = client_connect(s);
    send_head(c, "Transfer-Encoding: chunked\r\n");
    client_printf(c, "0\r\n\r\n");
    response_expect_error(client_read(c, false), 400, "empty_body", "no chunk");
    send_head(c, "Content-Encoding: gzip\r\nContent-Length: 0\r\n");
    response_expect_error(client_read(c, false), 400, "empty_body", "gzip of nothing");
    client_close(c);
    server_stop(s);
}

Test(upload, byte_by_byte)
{
    struct server *s = server_start(NULL);
    struct client *c = client_connect(s);
    struct data png = data_read("digit-8.png");
    struct body b = {0};
    body_printf(&b, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", png.len);
    body_add(&b, png.bytes, png.len);
    client_send_slowly(c, b.bytes, b.len, 1, 100);
    expect_digit(client_read(c, false), 8, 5, "byte by byte");
    client_close(c);
    server_stop(s);
}

Test(upload, expect_continue)
{
    struct server *s = server_start_with("--max-body", "1M");
    struct client *c = client_connect(s);
    send_head(c, RAW "Content-Length: 784\r\nExpect: 100-continue\r\n");
    const struct response *r = client_read(c, false);
    cr_assert(r != NULL && r->status == 100);
    client_send(c, digit_pixels(0), 784);
    expect_digit(client_read(c, false), 0, 5, "100-continue");

    /* What would be refused anyway is refused before it is sent. */
    send_head(c, RAW "Content-Length: 2000000\r\nExpect: 100-continue\r\n");
    response_expect_error(client_read(c, false), 413, "body_too_large", "100-continue");
    cr_expect(client_at_end(c, 20));
    client_close(c);
    server_stop(s);
}

/* The body is read to its end before the 413, so that proxies pass it on. */
Test(upload, too_large_is_answered_after_the_body)
{
    struct server *s = server_start_with("--max-body", "64K");
    size_t len = 5000000;
    char *bytes = data_alloc(len);
    const struct response *r = http_post(s, "/classify", NULL, bytes, len);
    response_expect_error(r, 413, "body_too_large", "Content-Length");
    cr_assert_str_eq(response_header(r, "Connection"), "close");

    struct client *c = client_connect(s);
    struct body b = {0};
    chunk(&b, bytes, len, 50000, "");
    send_head(c, "Transfer-Encoding: chunked\r\n");
    cr_assert(client_send(c, b.bytes, b.len));
    response_expect_error(client_read(c, false), 413, "body_too_large", "chunked");
    cr_expect(client_at_end(c, 20));
    client_close(c);
    cr_expect(http_metric(s, "convd_rejected_total{reason=\"too_large\"}") == 2);
    server_stop(s);
}

Test(upload, far_too_large_is_cut)
{
    struct server *s = server_start(NULL);
    struct client *c = client_connect(s);
    send_head(c, "Content-Length: 9000000000\r\n");
    response_expect_error(client_read(c, false), 413, "body_too_large", "9 GB");
    cr_expect(client_at_end(c, 20));
    client_close(c);

    /* Chunks do not announce their sum: they are read up to 64 MiB. */
    size_t len = 1 << 20;
    int sent = 0;
    struct body b = {0};
    body_printf(&b, "%zx\r\n", len);
    body_add(&b, data_alloc(len), len);
    body_printf(&b, "\r\n");
    c = client_connect(s);
    send_head(c, "Transfer-Encoding: chunked\r\n");
    while (sent < 200 && client_send(c, b.bytes, b.len))
        sent++;
    cr_expect(sent >= 60 && sent < 100, "%d MiB were taken", sent);
    response_expect_error(client_read(c, false), 413, "body_too_large", "too many chunks");
    cr_expect(client_at_end(c, 20));
    client_close(c);
    server_stop(s);
}

/* What is beyond the limit is thrown away, and what had come until then as well: it does not keep
 * others from sending theirs. */
Test(upload, a_body_that_grows_too_large_gives_its_memory_back)
{
    struct server *s = server_start_with("--max-body", "900K", "--max-queue-bytes", "1M");
    size_t len = 1000000, part = 300000;
    char *bytes = data_alloc(len);
    struct client *c = client_connect(s);
    send_head(c, "Transfer-Encoding: chunked\r\n");
    client_printf(c, "%zx\r\n", 2 * len);
    client_send(c, bytes, len);
    cr_assert(http_metric_wait(s, "convd_rejected_total{reason=\"too_large\"}", 1, 1, 20));
    response_expect_error(http_post(s, "/classify", NULL, bytes, part), 415, NULL, "beside it");
    client_send(c, bytes, len);
    client_printf(c, "\r\n0\r\n\r\n");
    response_expect_error(client_read(c, false), 413, "body_too_large", "afterwards");
    client_close(c);
    server_stop(s);
}

/* Packs as gzip (window bits 31), zlib (15) or raw deflate (-15). */
static struct data pack(const void *bytes, size_t len, int window_bits)
{
    z_stream z = {0};
    cr_assert(deflateInit2(&z, 9, Z_DEFLATED, window_bits, 9, Z_DEFAULT_STRATEGY) == Z_OK);
    size_t room = deflateBound(&z, len);
    struct data out = {data_alloc(room + 1), 0};
    z.next_in = (Bytef *)(uintptr_t)bytes;
    z.avail_in = (uInt)len;
    z.next_out = out.bytes;
    z.avail_out = (uInt)room;
    cr_assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
    out.len = z.total_out;
    deflateEnd(&z);
    return out;
}

static const struct response *post_packed(struct server *s, const char *encoding, const char *type,
                                          struct data body)
{
    const char *headers = data_printf("Content-Type: %s\r\n%s", type, encoding);
    return http_request(s, "POST", "/classify", headers, body.bytes, body.len);
}

Test(upload, compressed_bodies)
{
    struct server *s = server_start_with("--max-body", "1M");
    const uint8_t *pixels = digit_pixels(2);
    struct data gzip = pack(pixels, 784, 31), zlib = pack(pixels, 784, 15);
    expect_digit(post_packed(s, "Content-Encoding: gzip\r\n", "application/octet-stream", gzip), 2,
                 5, "gzip");
    expect_digit(post_packed(s, "Content-Encoding: x-gzip\r\n", "application/octet-stream", gzip),
                 2, 5, "x-gzip");
    expect_digit(post_packed(s, "Content-Encoding: deflate\r\n", "application/octet-stream", zlib),
                 2, 5, "deflate");
    expect_digit(post_packed(s, "Content-Encoding: identity\r\n", "application/octet-stream",
                             (struct data){(unsigned char *)(uintptr_t)pixels, 784}),
                 2, 5, "identity");

    struct data corrupt = pack(pixels, 784, 31), checksum = pack(pixels, 784, 31);
    corrupt.bytes[20] ^= 0x55;
    checksum.bytes[checksum.len - 6] ^= 1;
    struct data cut = {gzip.bytes, gzip.len / 2}, more = {data_alloc(gzip.len + 4), gzip.len + 4};
    memcpy(more.bytes, gzip.bytes, gzip.len);
    size_t bomb_len = 30000000;
    struct data bomb = pack(data_alloc(bomb_len), bomb_len, 31);
    cr_assert(bomb.len < 100000);
    const struct {
        const char *what, *encoding;
        struct data body;
        int status;
        const char *code;
    } rows[] = {
        {"corrupt gzip", "Content-Encoding: gzip\r\n", corrupt, 400, "corrupt_encoding"},
        {"wrong checksum", "Content-Encoding: gzip\r\n", checksum, 400, "corrupt_encoding"},
        {"gzip and more", "Content-Encoding: gzip\r\n", more, 400, "corrupt_encoding"},
        {"half a gzip", "Content-Encoding: gzip\r\n", cut, 400, "corrupt_encoding"},
        {"not gzip", "Content-Encoding: gzip\r\n", zlib, 400, "corrupt_encoding"},
        {"a bomb", "Content-Encoding: gzip\r\n", bomb, 413, "body_too_large"},
        {"brotli", "Content-Encoding: br\r\n", gzip, 415, "unsupported_encoding"},
        {"twice", "Content-Encoding: gzip, gzip\r\n", gzip, 415, "unsupported_encoding"},
        {"two headers", "Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n", gzip, 415,
         "unsupported_encoding"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        response_expect_error(
            post_packed(s, rows[i].encoding, "application/octet-stream", rows[i].body),
            rows[i].status, rows[i].code, rows[i].what);
    server_stop(s);
}

/* Clients that leave at any point cost nothing that stays. */
Test(upload, clients_that_leave)
{
    struct server *s = server_start(NULL);
    struct data png = data_read("digit-8.png");
    struct body b = {0};
    body_printf(&b, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", png.len);
    body_add(&b, png.bytes, png.len);
    for (size_t cut = 0; cut <= b.len; cut += 7) {
        struct client *c = client_connect(s);
        client_send(c, b.bytes, cut);
        if (cut % 2)
            client_reset(c);
        else
            client_close(c);
    }
    struct client *whole = client_connect(s);
    client_send(whole, b.bytes, b.len);
    expect_digit(client_read(whole, false), 8, 5, "after those that left");
    client_close(whole);
    /* Only the question itself is in flight; unfinished bodies have a time limit. */
    cr_expect(http_metric_wait(s, "convd_inflight_requests", 1, 1, 20));
    cr_expect_eq(http_metric(s, "convd_queue_bytes"), 0);
    cr_expect(http_metric(s, "convd_client_disconnects_total") > 0);
    server_stop(s);
}
