/*
 * Memory for the engine: overflow-checked sizes, aligned blocks and bump arenas.
 *
 * Blocks are aligned to MEM_ALIGN bytes so that any vector load may be aligned. An arena hands out
 * small pieces that live and die together (the strings and nodes of a graph).
 */
#ifndef CONVD_RUNTIME_MEM_H
#define CONVD_RUNTIME_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEM_ALIGN 64

/* *out = a * b, or a + b; false when it overflows. */
static inline bool mem_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool mem_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* bytes rounded up to a multiple of MEM_ALIGN; false when it overflows. */
static inline bool mem_round_up(size_t bytes, size_t *out)
{
    if (!mem_add(bytes, MEM_ALIGN - 1, out))
        return false;
    *out &= ~(size_t)(MEM_ALIGN - 1);
    return true;
}

/* A block aligned to MEM_ALIGN, not cleared; NULL when there is no memory. Free with mem_free(). */
void *mem_alloc(size_t bytes);
void mem_free(void *block);

/* Address space for a run's buffers: zeroed, page-aligned, resident only where it was touched, in
 * huge pages where the system offers them. NULL when there is no memory. */
void *mem_map(size_t bytes);
void mem_unmap(void *block, size_t bytes);

/* Tests only: makes the n-th allocation from now on (1 = the next) and, when `forever`, every later
 * one fail, in any thread of the process; 0 turns it off. */
void mem_fail_after(size_t n, bool forever);

struct mem_arena;
struct mem_arena *mem_arena_create(void);
/* For large pieces, packed weights: in huge pages where the system offers them. A network reads all
 * its weights once for each batch, more than a processor knows small pages. */
struct mem_arena *mem_arena_create_large(void);
void mem_arena_destroy(struct mem_arena *arena); /* NULL is allowed */

/* Zeroed, aligned to 16 bytes, alive as long as the arena; NULL when there is no memory. */
void *mem_arena_alloc(struct mem_arena *arena, size_t bytes);

/* The same, aligned to MEM_ALIGN. */
void *mem_arena_alloc_aligned(struct mem_arena *arena, size_t bytes);

/* A terminated copy of len bytes. */
char *mem_arena_strndup(struct mem_arena *arena, const char *text, size_t len);

#endif
