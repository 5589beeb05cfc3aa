/* The pool: what is freed serves again, within bounds, and goes back to the system when idle. */
#include "server/pool.h"

#include <criterion/criterion.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { IDLE_CALLS = 11 };

/* Under the address sanitizer nothing is kept. */
static bool keeps(void)
{
    void *a = pool_alloc(700);
    pool_free(a);
    void *b = pool_alloc(700);
    pool_free(b);
    return a == b;
}

static size_t heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

Test(pool, blocks_hold_what_was_asked_for)
{
    for (size_t bytes = 0; bytes < (size_t)9 << 20; bytes = bytes * 5 / 3 + 1) {
        char *block = pool_alloc(bytes);
        cr_assert_not_null(block);
        cr_expect_geq(pool_room(block), bytes);
        cr_expect_eq((uintptr_t)block % 16, 0);
        memset(block, 0xA5, pool_room(block));
        pool_free(block);
        char *zeroed = pool_alloc_zeroed(bytes);
        for (size_t i = 0; i < bytes; i += i < 5000 ? 1 : 997)
            cr_assert_eq(zeroed[i], 0, "byte %zu of %zu", i, bytes);
        pool_free(zeroed);
    }
    pool_free(NULL);
    cr_expect_null(pool_alloc(SIZE_MAX));
}

Test(pool, growing_keeps_the_content)
{
    size_t bytes = 10, used = 0;
    unsigned char *block = pool_grow(NULL, 0, bytes);
    for (; bytes < (size_t)9 << 20; bytes = bytes * 2 + 3) {
        block = pool_grow(block, used, bytes);
        cr_assert_not_null(block);
        cr_assert_geq(pool_room(block), bytes);
        for (size_t i = 0; i < used; i += i < 5000 ? 1 : 997)
            cr_assert_eq(block[i], (unsigned char)(i * 7), "byte %zu of %zu", i, bytes);
        for (used = 0; used < bytes; used++)
            block[used] = (unsigned char)(used * 7);
    }
    cr_expect_eq(pool_grow(block, used, 100), block);
    cr_expect_null(pool_grow(block, used, SIZE_MAX - 4));
    cr_expect_eq(block[99], (unsigned char)(99 * 7));
    pool_free(block);
}

Test(pool, what_is_freed_serves_again)
{
    if (!keeps())
        cr_skip_test("this sanitizer's build keeps nothing");
    char *a = pool_alloc(3000), *b = pool_alloc(4000);
    cr_expect_neq(a, b);
    pool_free(a);
    cr_expect_eq(pool_alloc(2500), a, "a block of the same class was not used");
    cr_expect_neq(pool_alloc(2500), a, "one block was given away twice");
}

Test(pool, keeps_a_bounded_number_and_lets_idle_blocks_go)
{
    enum { COUNT = 100, BYTES = 1 << 20 };
    void *blocks[COUNT];
    if (!keeps())
        cr_skip_test("this sanitizer's build keeps nothing");
    size_t before = heap_bytes();
    for (int i = 0; i < COUNT; i++)
        cr_assert_not_null(blocks[i] = pool_alloc(BYTES - 64));
    if (heap_bytes() - before < COUNT * (size_t)BYTES)
        cr_skip_test("a sanitizer's heap, which cannot be measured");
    for (int i = 0; i < COUNT; i++)
        pool_free(blocks[i]);
    size_t held = heap_bytes() - before;
    cr_expect(held > POOL_MAX_BYTES / 2 && held < POOL_MAX_BYTES + BYTES, "%zu bytes", held);
    /* One is in use again and again: it stays, the others go. */
    void *used = NULL;
    for (int i = 0; i < 3 * IDLE_CALLS; i++) {
        void *block = pool_alloc(BYTES - 64);
        cr_assert(i < IDLE_CALLS || !used || block == used);
        used = block;
        pool_free(block);
        pool_age();
    }
    held = heap_bytes() - before;
    cr_expect_lt(held, 2 * BYTES, "%zu bytes after being idle", held);
    for (int i = 0; i < IDLE_CALLS; i++)
        pool_age();
    cr_expect_lt(heap_bytes(), before + BYTES / 2);
}

/* Threads that pass blocks around: no block is ever in two hands. */
static void *juggle(void *arg)
{
    uint32_t state = (uint32_t)(uintptr_t)arg;
    unsigned char *held[8] = {NULL};
    size_t bytes[8] = {0};
    for (int i = 0; i < 20000; i++) {
        state = state * 1664525u + 1013904223u;
        unsigned slot = state >> 29;
        unsigned char mark = (unsigned char)(uintptr_t)arg;
        for (size_t k = 0; held[slot] && k < bytes[slot]; k += 61)
            if (held[slot][k] != mark)
                return (void *)1;
        pool_free(held[slot]);
        bytes[slot] = state >> 8 & 0x1FFF;
        held[slot] = pool_alloc(bytes[slot]);
        if (!held[slot])
            return (void *)2;
        memset(held[slot], mark, bytes[slot]);
        if (i % 1000 == 0)
            pool_age();
    }
    for (int i = 0; i < 8; i++)
        pool_free(held[i]);
    return NULL;
}

Test(pool, threads)
{
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, juggle, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        cr_expect_null(wrong);
    }
}

Test(pool, serves_zlib)
{
    z_stream z = {.zalloc = pool_zalloc, .zfree = pool_zfree};
    cr_assert_eq(inflateInit(&z), Z_OK);
    cr_expect_eq(inflateEnd(&z), Z_OK);
}
