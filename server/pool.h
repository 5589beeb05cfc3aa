/*
 * Memory that one request after another uses: blocks are kept when they are freed, by size, up to
 * POOL_MAX_BYTES in all, and returned to the system when they have lain idle for some seconds. Any
 * thread may free what another one allocated. Nothing ever waits here.
 */
#ifndef CONVD_SERVER_POOL_H
#define CONVD_SERVER_POOL_H

#include <stdbool.h>
#include <stddef.h>

#define POOL_MAX_BYTES ((size_t)32 << 20)

/* Aligned like malloc()'s, and as malloc() NULL when there is no memory; the second is zeroed. */
void *pool_alloc(size_t bytes);
void *pool_alloc_zeroed(size_t bytes);
void pool_free(void *block); /* NULL is allowed */

/* The block, or a larger one with its first `used` bytes, for `bytes` bytes; NULL, and the block is
 * as it was, when there is no memory. A block of NULL is none. */
void *pool_grow(void *block, size_t used, size_t bytes);

/* Bytes that may be used, at least what was asked for. */
size_t pool_room(const void *block);

/* To be called about once a second. */
void pool_age(void);

/* zlib's hooks. */
void *pool_zalloc(void *opaque, unsigned items, unsigned bytes);
void pool_zfree(void *opaque, void *block);

/* Tests that make allocations fail define this: while it is true, nothing kept is used. */
bool pool_is_bypassed(void) __attribute__((weak));

#endif
