/* Compressed bodies: all spellings of gzip and deflate, in pieces, cut short, corrupt, too big. */
#include "server/inflate.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

struct buffer {
    unsigned char *data;
    size_t len, limit;
};

static bool collect(void *cookie, const void *bytes, size_t len)
{
    struct buffer *b = cookie;

    if (len > b->limit - b->len)
        return false;
    memcpy(b->data + b->len, bytes, len);
    b->len += len;
    return true;
}

/* zlib's own compressor; windowBits: 31 gzip, 15 zlib, -15 bare. */
static size_t compress_as(int window_bits, const void *text, size_t len, unsigned char *out,
                          size_t room)
{
    z_stream z = {0};

    cr_assert_eq(deflateInit2(&z, 6, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (z_const Bytef *)(size_t)text;
    z.avail_in = (uInt)len;
    z.next_out = out;
    z.avail_out = (uInt)room;
    cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t n = room - z.avail_out;
    deflateEnd(&z);
    return n;
}

#define TEXT_BYTES 100000u
static unsigned char text[TEXT_BYTES], packed[2 * TEXT_BYTES + 1000], output[4 * TEXT_BYTES];

/* Part noise, part repetition, so that all block types occur. */
static void make_text(void)
{
    unsigned x = 1;

    for (size_t i = 0; i < TEXT_BYTES; i++) {
        x = x * 1103515245u + 12345u;
        text[i] = i % 3000 < 1500 ? (unsigned char)(x >> 16) : (unsigned char)(i / 3000);
    }
}

static enum inflate_result unpack(enum inflate_coding coding, size_t len, size_t piece,
                                  size_t limit, struct buffer *b, bool *complete)
{
    struct inflater *z = inflate_create(coding);
    enum inflate_result rc = INFLATE_OK;

    cr_assert_not_null(z);
    *b = (struct buffer){.data = output, .limit = limit};
    for (size_t at = 0; at < len && rc == INFLATE_OK; at += piece)
        rc = inflate_add(z, packed + at, len - at < piece ? len - at : piece, collect, b);
    *complete = inflate_complete(z);
    inflate_destroy(z);
    return rc;
}

Test(inflate, every_format_in_pieces_of_every_size)
{
    static const struct {
        enum inflate_coding coding;
        int window_bits;
    } formats[] = {{INFLATE_GZIP, 31}, {INFLATE_DEFLATE, 15}, {INFLATE_DEFLATE, -15}};
    static const size_t pieces[] = {1, 2, 7, 4096, sizeof packed};
    struct buffer b;
    bool complete;

    make_text();
    for (size_t f = 0; f < 3; f++) {
        size_t len = compress_as(formats[f].window_bits, text, TEXT_BYTES, packed, sizeof packed);
        for (size_t p = 0; p < 5; p++) {
            cr_expect_eq(unpack(formats[f].coding, len, pieces[p], sizeof output, &b, &complete),
                         INFLATE_OK);
            cr_expect(complete);
            cr_assert_eq(b.len, TEXT_BYTES, "format %zu, pieces of %zu: %zu bytes", f, pieces[p],
                         b.len);
            cr_expect_arr_eq(b.data, text, TEXT_BYTES);
        }
    }
}

Test(inflate, gzip_members_follow_each_other)
{
    struct buffer b;
    bool complete;

    make_text();
    size_t first = compress_as(31, text, 1000, packed, sizeof packed);
    size_t len = first + compress_as(31, text, 500, packed + first, sizeof packed - first);
    for (size_t piece = 1; piece <= len; piece += 13) {
        cr_expect_eq(unpack(INFLATE_GZIP, len, piece, sizeof output, &b, &complete), INFLATE_OK);
        cr_expect(complete);
        cr_expect_eq(b.len, 1500);
        cr_expect_arr_eq(b.data + 1000, text, 500);
    }
    /* Between the members it looks complete, and after one byte more it does not. */
    unpack(INFLATE_GZIP, first, first, sizeof output, &b, &complete);
    cr_expect(complete);
    unpack(INFLATE_GZIP, first + 1, first + 1, sizeof output, &b, &complete);
    cr_expect_not(complete);
}

Test(inflate, nothing_may_follow_deflate)
{
    struct buffer b;
    bool complete;

    make_text();
    size_t len = compress_as(15, text, 1000, packed, sizeof packed);
    packed[len] = 0;
    cr_expect_eq(unpack(INFLATE_DEFLATE, len + 1, len, sizeof output, &b, &complete),
                 INFLATE_CORRUPT);
    len = compress_as(31, text, 1000, packed, sizeof packed);
    packed[len] = 'x';
    packed[len + 1] = 'y';
    cr_expect_eq(unpack(INFLATE_GZIP, len + 2, len + 2, sizeof output, &b, &complete),
                 INFLATE_CORRUPT);
}

Test(inflate, every_truncation_is_incomplete)
{
    struct buffer b;
    bool complete;

    make_text();
    size_t len = compress_as(31, text, 2000, packed, sizeof packed);
    for (size_t n = 0; n < len; n++) {
        cr_expect_eq(unpack(INFLATE_GZIP, n, sizeof packed, sizeof output, &b, &complete),
                     INFLATE_OK);
        cr_expect_not(complete, "complete after %zu of %zu bytes", n, len);
    }
}

Test(inflate, damage_is_found)
{
    struct buffer b;
    bool complete;

    make_text();
    size_t len = compress_as(31, text, 2000, packed, sizeof packed);
    packed[len - 5] ^= 1; /* the checksum */
    cr_expect_eq(unpack(INFLATE_GZIP, len, len, sizeof output, &b, &complete), INFLATE_CORRUPT);
    memcpy(packed, "not gzip", 8);
    cr_expect_eq(unpack(INFLATE_GZIP, 8, 8, sizeof output, &b, &complete), INFLATE_CORRUPT);
    len = compress_as(15, text, 2000, packed, sizeof packed);
    cr_expect_eq(unpack(INFLATE_GZIP, len, len, sizeof output, &b, &complete), INFLATE_CORRUPT,
                 "deflate is not gzip");
}

Test(inflate, a_bomb_stops_at_the_limit)
{
    static unsigned char zeros[10 << 20];
    struct buffer b;
    bool complete;

    size_t len = compress_as(31, zeros, sizeof zeros, packed, sizeof packed);
    cr_assert_lt(len, 20000u);
    cr_expect_eq(unpack(INFLATE_GZIP, len, len, 100000, &b, &complete), INFLATE_STOPPED);
    cr_expect_leq(b.len, 100000u);
    cr_expect_not(complete);
}

Test(inflate, destroying_nothing_is_fine)
{
    inflate_destroy(NULL);
    inflate_destroy(inflate_create(INFLATE_GZIP));
}
