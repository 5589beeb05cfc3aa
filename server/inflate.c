/* Compressed request bodies, inflated while they arrive; the only user of zlib's inflate(). */
#include "server/inflate.h"

#include "server/pool.h"

#include <limits.h>
#include <zlib.h>

/* Output is handed over in pieces, so that a bomb is stopped at the sink's limit, not after it. */
#define PIECE_BYTES 16384

struct inflater {
    z_stream stream;
    enum inflate_coding coding;
    bool started;  /* zlib's state exists */
    bool complete; /* at the end of a member, nothing after it */
};

struct inflater *inflate_create(enum inflate_coding coding)
{
    struct inflater *z = pool_alloc_zeroed(sizeof *z);

    if (!z)
        return NULL;
    z->coding = coding;
    z->stream.zalloc = pool_zalloc;
    z->stream.zfree = pool_zfree;
    return z;
}

void inflate_destroy(struct inflater *z)
{
    if (!z)
        return;
    if (z->started)
        inflateEnd(&z->stream);
    pool_free(z);
}

/*
 * "deflate" means the zlib format (RFC 9110, 8.4.1.2), but some clients send the bare stream. The
 * zlib header's first byte is method 8 with a window of at most 7; a bare stream begins with that
 * only if its first block is stored with padding bits set, which compressors do not produce.
 */
static enum inflate_result start(struct inflater *z, unsigned char first)
{
    int window = 15 + 16; /* gzip */

    if (z->coding == INFLATE_DEFLATE)
        window = (first & 15) == 8 && first >> 4 <= 7 ? 15 : -15;
    int rc = inflateInit2(&z->stream, window);
    z->started = rc == Z_OK;
    return rc == Z_MEM_ERROR ? INFLATE_NO_MEMORY : rc == Z_OK ? INFLATE_OK : INFLATE_CORRUPT;
}

enum inflate_result inflate_add(struct inflater *z, const void *bytes, size_t len,
                                inflate_sink_fn sink, void *cookie)
{
    unsigned char piece[PIECE_BYTES];

    if (len == 0)
        return INFLATE_OK;
    if (len > UINT_MAX)
        return INFLATE_CORRUPT;
    if (!z->started) {
        enum inflate_result result = start(z, *(const unsigned char *)bytes);
        if (result != INFLATE_OK)
            return result;
    }
    z->stream.next_in = (z_const Bytef *)(size_t)bytes;
    z->stream.avail_in = (uInt)len;
    do {
        if (z->complete) {
            /* More after the end: another gzip member (RFC 1952, 2.2), nothing else. */
            if (z->coding != INFLATE_GZIP || inflateReset(&z->stream) != Z_OK)
                return INFLATE_CORRUPT;
            z->complete = false;
        }
        z->stream.next_out = piece;
        z->stream.avail_out = sizeof piece;
        int rc = inflate(&z->stream, Z_NO_FLUSH);
        if (rc == Z_MEM_ERROR) /* its window is not there from the start */
            return INFLATE_NO_MEMORY;
        if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
            return INFLATE_CORRUPT;
        size_t produced = sizeof piece - z->stream.avail_out;
        if (produced && !sink(cookie, piece, produced))
            return INFLATE_STOPPED;
        z->complete = rc == Z_STREAM_END;
    } while (z->stream.avail_in > 0 || (z->stream.avail_out == 0 && !z->complete));
    return INFLATE_OK;
}

bool inflate_complete(const struct inflater *z)
{
    return z->complete;
}
