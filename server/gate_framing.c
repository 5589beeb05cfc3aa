/*
 * The framing part of the gate: header blocks that two HTTP parsers could read differently.
 *
 * libmicrohttpd 0.9.75 uses the first of two Content-Length headers, prefers one of
 * Content-Length and Transfer-Encoding, takes white space before a colon into the name and glues a
 * folded line to the header's name. A proxy in front may decide otherwise, and then the bytes that
 * one takes for a body are the next request for the other. Whatever has two readings is refused,
 * and the connection is closed.
 */
#include "server/gate.h"

#include <string.h>
#include <strings.h>

#define MAX_HEADERS 100

/* RFC 9110, 5.6.2: tchar. */
static bool is_token(const char *s, size_t len)
{
    static const char others[] = "!#$%&'*+-.^_`|~";

    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!alnum && (c == '\0' || !strchr(others, c)))
            return false;
    }
    return len > 0;
}

static bool has_control(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (((unsigned char)s[i] < 0x20 && s[i] != '\t') || s[i] == 0x7F)
            return true;
    return false;
}

static bool same(const char *s, size_t len, const char *word)
{
    return len == strlen(word) && strncasecmp(s, word, len) == 0;
}

/* Names that some parser takes for a framing header although they are not spelt like one:
 * underscores for dashes, or a folded line glued to the name. */
static bool is_lookalike(const char *name, size_t len)
{
    static const char *const words[] = {"content-length", "content_length", "transfer-encoding",
                                        "transfer_encoding"};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = strlen(words[i]);
        if (len >= n && strncasecmp(name, words[i], n) == 0)
            return len > n || strchr(words[i], '_') != NULL;
    }
    return false;
}

static int content_length(struct gate_framing *f, const char *value, size_t len, const char **why)
{
    f->content_length = 0;
    f->has_length = true;
    if (++f->content_lengths > 1 || len == 0) {
        *why = "there must be one Content-Length, a decimal number";
        return 400;
    }
    for (size_t i = 0; i < len; i++) {
        if (value[i] < '0' || value[i] > '9') {
            *why = "Content-Length must be a decimal number";
            return 400;
        }
        if (__builtin_mul_overflow(f->content_length, 10u, &f->content_length) ||
            __builtin_add_overflow(f->content_length, (unsigned)(value[i] - '0'),
                                   &f->content_length)) {
            *why = "Content-Length does not fit in 64 bits";
            return 413;
        }
    }
    return 0;
}

static int transfer_encoding(struct gate_framing *f, const char *value, size_t len,
                             const char **why)
{
    if (++f->transfer_encodings > 1) {
        *why = "there must be at most one Transfer-Encoding";
        return 400;
    }
    if (!same(value, len, "chunked")) {
        *why = "the only transfer encoding here is chunked";
        return 501;
    }
    f->chunked = true;
    return 0;
}

static int host(struct gate_framing *f, const char *value, size_t len, const char **why)
{
    f->hosts++;
    for (size_t i = 0; i < len; i++) {
        if (strchr(" \t,/\\@?#", value[i])) {
            *why = "the Host header is not a host name";
            return 400;
        }
    }
    if (f->hosts > 1 || len == 0) {
        *why = "there must be one Host header, not empty";
        return 400;
    }
    return 0;
}

int gate_framing_header(struct gate_framing *f, const char *name, size_t name_len,
                        const char *value, size_t value_len, const char **why)
{
    if (++f->headers > MAX_HEADERS) {
        *why = "more than 100 headers";
        return 431;
    }
    if (!is_token(name, name_len)) {
        *why = "a header name has a character that is not allowed";
        return 400;
    }
    if (has_control(value, value_len)) {
        *why = "a header value has a control character";
        return 400;
    }
    if (is_lookalike(name, name_len)) {
        *why = "a header name resembles Content-Length or Transfer-Encoding";
        return 400;
    }
    if (same(name, name_len, "content-length"))
        return content_length(f, value, value_len, why);
    if (same(name, name_len, "transfer-encoding"))
        return transfer_encoding(f, value, value_len, why);
    if (same(name, name_len, "host"))
        return host(f, value, value_len, why);
    if (same(name, name_len, "expect")) {
        if (!same(value, value_len, "100-continue")) {
            *why = "the only expectation here is 100-continue";
            return 417;
        }
        f->expects_continue = true;
    }
    return 0;
}

/* Origin form only (RFC 9112, 3.2.1), nothing that ends a string or a line early. */
static bool uri_is_clean(const char *uri)
{
    if (*uri != '/')
        return false;
    for (; *uri; uri++)
        if ((unsigned char)*uri <= 0x20 || *uri == 0x7F || strncmp(uri, "%00", 3) == 0)
            return false;
    return true;
}

int gate_framing_end(const struct gate_framing *f, const char *method, const char *version,
                     const char *raw_uri, const char **why)
{
    bool v10 = strcmp(version, "HTTP/1.0") == 0;
    bool has_body = f->chunked || f->content_length > 0;

    if (!v10 && strcmp(version, "HTTP/1.1") != 0) {
        *why = "the protocol must be HTTP/1.0 or HTTP/1.1";
        return 505;
    }
    if (!uri_is_clean(raw_uri)) {
        *why = "the request target must be a path without control characters";
        return 400;
    }
    if (!v10 && f->hosts != 1) {
        *why = "there must be one Host header";
        return 400;
    }
    if (f->chunked && f->has_length) {
        *why = "Content-Length and Transfer-Encoding exclude each other";
        return 400;
    }
    if (f->chunked && v10) {
        *why = "HTTP/1.0 has no Transfer-Encoding";
        return 400;
    }
    if (has_body && (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0)) {
        *why = "GET and HEAD take no body";
        return 400;
    }
    if (!f->chunked && !f->has_length &&
        (strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0)) {
        *why = "the length of the body must be given: Content-Length or chunked";
        return 411;
    }
    return 0;
}
