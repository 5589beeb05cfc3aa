/* The framing gate: each header block that two parsers could read differently is refused. */
#include "server/gate.h"

#include <criterion/criterion.h>
#include <string.h>

/* Headers as "Name: value" lines, the name ending at the first ':', nothing trimmed. */
static int framing(const char *method, const char *version, const char *uri,
                   const char *const *lines, const char **why)
{
    struct gate_framing f = {0};

    *why = NULL;
    for (; *lines; lines++) {
        const char *colon = strchr(*lines, ':'), *value = colon + 2;
        int status =
            gate_framing_header(&f, *lines, (size_t)(colon - *lines), value, strlen(value), why);
        if (status)
            return status;
    }
    return gate_framing_end(&f, method, version, uri, why);
}

static void expect(int status, const char *method, const char *version, const char *uri,
                   const char *const *lines)
{
    const char *why;
    int got = framing(method, version, uri, lines, &why);

    cr_expect_eq(got, status, "%s %s %s, first header '%s': %d instead of %d (%s)", method, uri,
                 version, lines[0] ? lines[0] : "-", got, status, why ? why : "no reason");
    cr_expect_eq(why == NULL, status == 0, "a refusal, and only a refusal, has a reason");
}
#define EXPECT(status, method, version, uri, ...) \
    expect(status, method, version, uri, (const char *const[]){__VA_ARGS__, NULL})
#define EXPECT_POST(status, ...) EXPECT(status, "POST", "HTTP/1.1", "/", "Host: x", __VA_ARGS__)

Test(gate_framing, ordinary_requests_pass)
{
    EXPECT(0, "GET", "HTTP/1.1", "/models/a%20b?x=%2F", "Host: x");
    EXPECT(0, "GET", "HTTP/1.1", "/models?top_k=5", "Host: x:8080", "Accept: */*");
    EXPECT(0, "GET", "HTTP/1.1", "/", "Host: [::1]:8080", "User-Agent: a\tb");
    EXPECT(0, "GET", "HTTP/1.0", "/", "Connection: keep-alive");
    EXPECT(0, "GET", "HTTP/1.1", "/", "Host: x", "Content-Length: 0");
    EXPECT_POST(0, "Content-Length: 18446744073709551615");
    EXPECT_POST(0, "content-LENGTH: 10");
    EXPECT_POST(0, "Transfer-Encoding: chunked");
    EXPECT_POST(0, "Transfer-Encoding: Chunked");
    EXPECT_POST(0, "Content-Length: 1", "Expect: 100-Continue");
    EXPECT(0, "DELETE", "HTTP/1.1", "/", "Host: x");
}

Test(gate_framing, what_it_learnt_is_reported)
{
    struct gate_framing f = {0};
    const char *why;

    cr_assert_eq(gate_framing_header(&f, "Content-Length", 14, "1234", 4, &why), 0);
    cr_assert_eq(gate_framing_header(&f, "Expect", 6, "100-continue", 12, &why), 0);
    cr_expect(f.has_length);
    cr_expect_eq(f.content_length, 1234);
    cr_expect(f.expects_continue);
    cr_expect_not(f.chunked);
    f = (struct gate_framing){0};
    cr_assert_eq(gate_framing_header(&f, "Transfer-Encoding", 17, "chunked", 7, &why), 0);
    cr_expect(f.chunked);
}

Test(gate_framing, two_lengths_of_one_body)
{
    EXPECT_POST(400, "Content-Length: 4", "Content-Length: 5");
    EXPECT_POST(400, "Content-Length: 4", "Content-Length: 4");
    EXPECT_POST(400, "Content-Length: 4", "Transfer-Encoding: chunked");
    EXPECT_POST(400, "Transfer-Encoding: chunked", "Content-Length: 4");
    EXPECT_POST(400, "Transfer-Encoding: chunked", "Content-Length: 0");
    EXPECT_POST(400, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked");
    EXPECT(400, "POST", "HTTP/1.0", "/", "Transfer-Encoding: chunked");
}

Test(gate_framing, content_length_is_a_plain_number)
{
    EXPECT_POST(400, "Content-Length: ");
    EXPECT_POST(400, "Content-Length: +5");
    EXPECT_POST(400, "Content-Length: -1");
    EXPECT_POST(400, "Content-Length: 5,5");
    EXPECT_POST(400, "Content-Length: 0x5");
    EXPECT_POST(400, "Content-Length: 5 ");
    EXPECT_POST(413, "Content-Length: 18446744073709551616");
    EXPECT_POST(413, "Content-Length: 99999999999999999999");
}

Test(gate_framing, only_one_transfer_encoding_is_known)
{
    EXPECT_POST(501, "Transfer-Encoding: xchunked");
    EXPECT_POST(501, "Transfer-Encoding: gzip, chunked");
    EXPECT_POST(501, "Transfer-Encoding: identity");
    EXPECT_POST(501, "Transfer-Encoding: chunked ");
    EXPECT_POST(501, "Transfer-Encoding: ");
}

Test(gate_framing, names_that_look_like_framing)
{
    EXPECT_POST(400, "Content-Length : 4");
    EXPECT_POST(400, "Content-Length\t: 4");
    EXPECT_POST(400, " Content-Length: 4");
    EXPECT_POST(400, "Content-Length35: 4"); /* a folded line, glued to the name */
    EXPECT_POST(400, "Transfer-Encodingchunked: ");
    EXPECT_POST(400, "Content_Length: 4");
    EXPECT_POST(400, "TRANSFER_ENCODING: chunked");
    EXPECT_POST(0, "Content-Length: 4", "Content-Language: de", "Content-Type: image/png");
}

Test(gate_framing, characters)
{
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: x", "X(y): a");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: x", "X y: a");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: x", ": a");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: x", "X\x80: a");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: x", "X: a\x01");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: x", "X: a\rb");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: x", "X: a\x7f");
    EXPECT(0, "GET", "HTTP/1.1", "/", "Host: x", "X: \xc3\xa9\t!");
    struct gate_framing f = {0};
    const char *why;
    cr_expect_eq(gate_framing_header(&f, "X\0Y", 3, "a", 1, &why), 400, "NUL in a name");
    cr_expect_eq(gate_framing_header(&f, "X", 1, "a\0b", 3, &why), 400, "NUL in a value");
}

Test(gate_framing, host)
{
    EXPECT(400, "GET", "HTTP/1.1", "/", "Accept: */*");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: a", "Host: a");
    EXPECT(400, "GET", "HTTP/1.0", "/", "Host: a", "Host: b");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: ");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: a b");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: a, b");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: user@a");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: a/b");
}

Test(gate_framing, request_line)
{
    EXPECT(505, "GET", "HTTP/1.2", "/", "Host: x");
    EXPECT(505, "GET", "HTTP/2.0", "/", "Host: x");
    EXPECT(505, "GET", "", "/", "Host: x");
    EXPECT(400, "GET", "HTTP/1.1", "http://x/", "Host: x");
    EXPECT(400, "GET", "HTTP/1.1", "*", "Host: x");
    EXPECT(400, "GET", "HTTP/1.1", "", "Host: x");
    EXPECT(400, "GET", "HTTP/1.1", "/a%00b", "Host: x");
    EXPECT(400, "GET", "HTTP/1.1", "/a b", "Host: x");
    EXPECT(400, "GET", "HTTP/1.1", "/a\tb", "Host: x");
    EXPECT(400, "GET", "HTTP/1.1", "/a\x7f", "Host: x");
}

Test(gate_framing, bodies_where_they_belong)
{
    EXPECT(411, "POST", "HTTP/1.1", "/", "Host: x");
    EXPECT(411, "PUT", "HTTP/1.1", "/", "Host: x");
    EXPECT(411, "POST", "HTTP/1.0", "/", "Host: x");
    EXPECT(400, "GET", "HTTP/1.1", "/", "Host: x", "Content-Length: 1");
    EXPECT(400, "HEAD", "HTTP/1.1", "/", "Host: x", "Transfer-Encoding: chunked");
    EXPECT_POST(417, "Content-Length: 1", "Expect: 200-ok");
    EXPECT_POST(417, "Content-Length: 1", "Expect: ");
}

Test(gate_framing, at_most_a_hundred_headers)
{
    struct gate_framing f = {0};
    const char *why = NULL;

    for (int i = 0; i < 100; i++)
        cr_assert_eq(gate_framing_header(&f, "X", 1, "a", 1, &why), 0);
    cr_expect_eq(gate_framing_header(&f, "X", 1, "a", 1, &why), 431);
    cr_expect_not_null(why);
}
