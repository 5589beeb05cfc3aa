/*
 * Compressed request bodies: gzip and deflate, piece by piece as they arrive, into a buffer that
 * has a limit. An inflater is used by one thread at a time.
 */
#ifndef CONVD_SERVER_INFLATE_H
#define CONVD_SERVER_INFLATE_H

#include <stdbool.h>
#include <stddef.h>

struct inflater;

enum inflate_coding { INFLATE_GZIP, INFLATE_DEFLATE };

enum inflate_result {
    INFLATE_OK,
    INFLATE_CORRUPT,
    INFLATE_NO_MEMORY,
    INFLATE_STOPPED /* the sink refused */
};

/* Receives inflated bytes; false ends the inflation. */
typedef bool (*inflate_sink_fn)(void *cookie, const void *bytes, size_t len);

/* NULL when there is no memory. */
struct inflater *inflate_create(enum inflate_coding coding);
void inflate_destroy(struct inflater *z);

enum inflate_result inflate_add(struct inflater *z, const void *bytes, size_t len,
                                inflate_sink_fn sink, void *cookie);

/* Whether what was added is complete, checksums included. */
bool inflate_complete(const struct inflater *z);

#endif
