/* Checked sizes, blocks, mappings, arenas and the failure hook. */
#include "engine/runtime/mem.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

Test(mem, checked_arithmetic)
{
    size_t out;
    cr_assert(mem_mul(6, 7, &out) && out == 42);
    cr_assert(mem_mul(SIZE_MAX, 1, &out) && out == SIZE_MAX);
    cr_assert_not(mem_mul(SIZE_MAX / 2 + 1, 2, &out));
    cr_assert(mem_add(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
    cr_assert_not(mem_add(SIZE_MAX, 1, &out));
    cr_assert(mem_round_up(0, &out) && out == 0);
    cr_assert(mem_round_up(1, &out) && out == MEM_ALIGN);
    cr_assert(mem_round_up(MEM_ALIGN, &out) && out == MEM_ALIGN);
    cr_assert(mem_round_up(SIZE_MAX - MEM_ALIGN + 1, &out) && out == SIZE_MAX - MEM_ALIGN + 1);
    cr_assert_not(mem_round_up(SIZE_MAX - MEM_ALIGN + 2, &out));
}

Test(mem, blocks_are_aligned_and_writable)
{
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 1000003};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        unsigned char *block = mem_alloc(sizes[i]);
        cr_assert_neq(block, NULL);
        cr_assert_eq((uintptr_t)block % MEM_ALIGN, 0);
        memset(block, 0xa5, sizes[i]);
        mem_free(block);
    }
    cr_assert_eq(mem_alloc(SIZE_MAX), NULL);
    mem_free(NULL);
}

Test(mem, mappings_are_zeroed)
{
    static const size_t sizes[] = {0, 1, 4097, ((size_t)4 << 20) + 5};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        unsigned char *block = mem_map(sizes[i]);
        cr_assert_neq(block, NULL);
        cr_assert_eq((uintptr_t)block % 4096, 0);
        for (size_t at = 0; at < sizes[i]; at += 997)
            cr_assert_eq(block[at], 0);
        if (sizes[i] > 0)
            block[sizes[i] - 1] = 1;
        mem_unmap(block, sizes[i]);
    }
    cr_assert_eq(mem_map(SIZE_MAX), NULL);
    mem_unmap(NULL, 1);
}

Test(mem, arena_pieces_are_zeroed_aligned_and_apart)
{
    struct mem_arena *arena = mem_arena_create();
    cr_assert_neq(arena, NULL);
    enum { PIECES = 3000 };
    static unsigned char *pieces[PIECES];
    static size_t sizes[PIECES];
    for (unsigned i = 0; i < PIECES; i++) {
        /* Mostly small; now and then one that needs a chunk of its own, early on one that is larger
         * than the first chunk. */
        sizes[i] = i % 97 == 0 ? 40000 + i : i == 1 ? 20000 : i % 61;
        bool aligned = i % 5 == 0;
        pieces[i] =
            aligned ? mem_arena_alloc_aligned(arena, sizes[i]) : mem_arena_alloc(arena, sizes[i]);
        cr_assert_neq(pieces[i], NULL);
        cr_assert_eq((uintptr_t)pieces[i] % (aligned ? MEM_ALIGN : 16), 0);
        for (size_t at = 0; at < sizes[i]; at++)
            cr_assert_eq(pieces[i][at], 0);
        memset(pieces[i], (int)(i % 255 + 1), sizes[i]);
    }
    for (unsigned i = 0; i < PIECES; i++)
        for (size_t at = 0; at < sizes[i]; at++)
            cr_assert_eq(pieces[i][at], i % 255 + 1, "piece %u was overwritten", i);
    cr_assert_eq(mem_arena_alloc(arena, SIZE_MAX), NULL);
    cr_assert_eq(mem_arena_alloc(arena, SIZE_MAX - 15), NULL);
    cr_assert_eq(mem_arena_alloc_aligned(arena, SIZE_MAX - 20), NULL);
    mem_arena_destroy(arena);
    mem_arena_destroy(NULL);
}

Test(mem, arena_strndup)
{
    struct mem_arena *arena = mem_arena_create();
    char *copy = mem_arena_strndup(arena, "hello world", 5);
    cr_assert_str_eq(copy, "hello");
    cr_assert_str_eq(mem_arena_strndup(arena, NULL, 0), "");
    cr_assert_eq(mem_arena_strndup(arena, "x", SIZE_MAX), NULL);
    mem_arena_destroy(arena);
}

static bool allocates(void)
{
    void *block = mem_alloc(1);
    mem_free(block);
    return block != NULL;
}

Test(mem, failure_of_one_allocation)
{
    mem_fail_after(3, false);
    cr_assert(allocates());
    cr_assert(allocates());
    cr_assert_not(allocates());
    cr_assert(allocates());
    cr_assert(allocates());
}

Test(mem, failure_for_ever_and_its_end)
{
    mem_fail_after(2, true);
    cr_assert(allocates());
    for (int i = 0; i < 5; i++)
        cr_assert_not(allocates());
    cr_assert_eq(mem_map(1), NULL);
    cr_assert_eq(mem_arena_create(), NULL);
    mem_fail_after(0, false);
    cr_assert(allocates());
}

Test(mem, failure_inside_an_arena)
{
    struct mem_arena *arena = mem_arena_create();
    mem_fail_after(1, false);
    cr_assert_eq(mem_arena_alloc(arena, 16), NULL);
    cr_assert_neq(mem_arena_alloc(arena, 16), NULL);
    mem_fail_after(1, false);
    cr_assert_neq(mem_arena_alloc(arena, 16), NULL); /* from the chunk that is there */
    cr_assert_eq(mem_arena_alloc(arena, 100000), NULL);
    mem_arena_destroy(arena);
}

static void *count_failures(void *arg)
{
    int *failures = arg;
    for (int i = 0; i < 1000; i++)
        *failures += !allocates();
    return NULL;
}

Test(mem, exactly_one_thread_sees_the_failure)
{
    mem_fail_after(1500, false);
    pthread_t threads[2];
    int failures[2] = {0, 0};
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, count_failures, &failures[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(failures[0] + failures[1], 1);
}
