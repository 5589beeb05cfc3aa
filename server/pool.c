/*
 * Blocks by size class in small arrays of slots. Taking one is an atomic exchange of a slot with
 * NULL, keeping one an exchange of NULL with it: no lock, and no list whose links could be stale.
 * Slots are tried in order, so that the first ones serve and the last ones are those that age.
 */
#include "server/pool.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    LEAST_BITS = 9, /* the smallest class: 512 bytes with the header */
    CLASSES = 14,   /* doubling: the largest is 4 MiB */
    SLOTS = 32,
    IDLE_AGE = 10, /* calls of pool_age() */
    TRIM_BYTES = 1 << 20
};

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KEEPS 0
#endif
#endif
#if !defined(KEEPS) && !defined(__SANITIZE_ADDRESS__)
#define KEEPS 1
#endif
#ifndef KEEPS
#define KEEPS 0 /* what is freed is out of bounds, for the sanitizer to see */
#endif

struct block {
    _Alignas(16) size_t room; /* behind the header */
    uint32_t class;           /* CLASSES: too large to be kept */
    uint32_t since;           /* kept: the age of the pool when that began */
};

static _Atomic(struct block *) kept[CLASSES][SLOTS];
static atomic_size_t kept_bytes;
static atomic_uint age;

static bool keeps(void)
{
    return KEEPS && !(pool_is_bypassed && pool_is_bypassed());
}

static size_t class_bytes(uint32_t class)
{
    return (size_t)1 << (LEAST_BITS + class);
}

static uint32_t class_of(size_t total)
{
    uint32_t class = 0;
    while (class < CLASSES && class_bytes(class) < total)
        class ++;
    return class;
}

/* The slot's block, or NULL; the loads keep empty slots from being written to. */
static struct block *take(_Atomic(struct block *) *slot)
{
    if (!atomic_load_explicit(slot, memory_order_relaxed))
        return NULL;
    struct block *b = atomic_exchange_explicit(slot, NULL, memory_order_acquire);
    if (b)
        atomic_fetch_sub_explicit(&kept_bytes, class_bytes(b->class), memory_order_relaxed);
    return b;
}

static bool keep(struct block *b)
{
    size_t bytes = class_bytes(b->class);
    size_t before = atomic_fetch_add_explicit(&kept_bytes, bytes, memory_order_relaxed);
    for (unsigned i = 0; i < SLOTS && before + bytes <= POOL_MAX_BYTES; i++) {
        struct block *none = NULL;
        if (!atomic_load_explicit(&kept[b->class][i], memory_order_relaxed) &&
            atomic_compare_exchange_strong_explicit(&kept[b->class][i], &none, b,
                                                    memory_order_release, memory_order_relaxed))
            return true;
    }
    atomic_fetch_sub_explicit(&kept_bytes, bytes, memory_order_relaxed);
    return false;
}

static void *allocate(size_t bytes, bool zeroed)
{
    size_t total;
    if (__builtin_add_overflow(bytes, sizeof(struct block), &total))
        return NULL;
    uint32_t class = class_of(total);
    struct block *b = NULL;
    for (unsigned i = 0; class < CLASSES && i < SLOTS && !b && keeps(); i++)
        b = take(&kept[class][i]);
    if (b) {
        if (zeroed)
            memset(b + 1, 0, bytes);
        return b + 1;
    }
    if (class < CLASSES && KEEPS)
        total = class_bytes(class);
    b = zeroed ? calloc(1, total) : malloc(total);
    if (!b)
        return NULL;
    b->room = total - sizeof *b;
    b->class = class;
    return b + 1;
}

void *pool_alloc(size_t bytes)
{
    return allocate(bytes, false);
}

void *pool_alloc_zeroed(size_t bytes)
{
    return allocate(bytes, true);
}

void pool_free(void *block)
{
    struct block *b = block;
    if (!b)
        return;
    b--;
    if (b->class < CLASSES && keeps()) {
        b->since = atomic_load_explicit(&age, memory_order_relaxed);
        if (keep(b))
            return;
    }
    free(b);
}

void *pool_grow(void *block, size_t used, size_t bytes)
{
    size_t total;
    if (block && pool_room(block) >= bytes)
        return block;
    struct block *b = block ? (struct block *)block - 1 : NULL;
    if (b && b->class == CLASSES) { /* the system moves large blocks without copying */
        if (__builtin_add_overflow(bytes, sizeof *b, &total))
            return NULL;
        b = realloc(b, total);
        if (!b)
            return NULL;
        b->room = bytes;
        return b + 1;
    }
    void *larger = pool_alloc(bytes);
    if (!larger)
        return NULL;
    if (used > 0)
        memcpy(larger, block, used);
    pool_free(block);
    return larger;
}

size_t pool_room(const void *block)
{
    return ((const struct block *)block - 1)->room;
}

void pool_age(void)
{
    uint32_t now = atomic_fetch_add_explicit(&age, 1, memory_order_relaxed) + 1;
    size_t freed = 0;
    for (unsigned class = 0; class < CLASSES; class ++) {
        for (unsigned i = 0; i < SLOTS; i++) {
            struct block *b = take(&kept[class][i]);
            if (b && (now - b->since >= IDLE_AGE || !keep(b))) {
                freed += class_bytes(class);
                free(b);
            }
        }
    }
    if (freed >= TRIM_BYTES)
        malloc_trim(0);
}

void *pool_zalloc(void *opaque, unsigned items, unsigned bytes)
{
    (void)opaque;
    return pool_alloc((size_t)items * bytes);
}

void pool_zfree(void *opaque, void *block)
{
    (void)opaque;
    pool_free(block);
}
