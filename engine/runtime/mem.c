/* Aligned blocks, address space for runs, bump arenas, and the hook that makes any of them fail. */
#include "engine/runtime/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ARENA_ALIGN     ((size_t)16) /* what malloc guarantees on 64-bit machines */
#define HUGE_PAGE_BYTES ((size_t)2 << 20)

/* How an arena's chunks grow; pieces from own_bytes on get a chunk of their own. */
struct growth {
    size_t first_bytes, max_bytes, own_bytes;
};
static const struct growth small_growth = {(size_t)4 << 10, (size_t)1 << 20, (size_t)32 << 10};
/* What is not touched of a mapped chunk costs nothing. */
static const struct growth large_growth = {(size_t)64 << 10, (size_t)32 << 20, (size_t)16 << 20};

/* The engine's only mutable state outside its objects. Allocation failure has to be provoked at
 * every call site, most of which know no engine that could carry the counter; it is atomic because
 * workers allocate too, and it is 0 except in tests. */
static atomic_size_t fail_countdown;
static atomic_bool fail_forever;

void mem_fail_after(size_t n, bool forever)
{
    atomic_store(&fail_forever, forever);
    atomic_store(&fail_countdown, n);
}

/* Whether this allocation is one that mem_fail_after() asked to fail. */
static bool must_fail(void)
{
    size_t left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (left != 0) {
        if (left == 1 && atomic_load(&fail_forever))
            return true;
        if (atomic_compare_exchange_weak(&fail_countdown, &left, left - 1))
            return left == 1;
    }
    return false;
}

void *mem_alloc(size_t bytes)
{
    size_t rounded;
    if (must_fail() || !mem_round_up(bytes ? bytes : 1, &rounded))
        return NULL;
    return aligned_alloc(MEM_ALIGN, rounded);
}

void mem_free(void *block)
{
    free(block);
}

static void *map_pages(size_t bytes)
{
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return block != MAP_FAILED ? block : NULL;
}

/* A mapping that begins at a huge page: of one that is longer by that much, the ends are given
 * back.
 */
static void *map_huge_pages(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t longer;
    char *block = mem_add(bytes, HUGE_PAGE_BYTES, &longer) ? map_pages(longer) : NULL;
    if (block == NULL)
        return NULL;
    const size_t before = -(uintptr_t)block & (HUGE_PAGE_BYTES - 1);
    if (before > 0)
        (void)munmap(block, before);
    block += before;
    const size_t used = (bytes + page - 1) / page * page;
    if (longer - before > used)
        (void)munmap(block + used, longer - before - used);
    /* Only advice: a kernel without huge pages refuses it and the mapping is as good. */
    (void)madvise(block, bytes, MADV_HUGEPAGE);
    return block;
}

void *mem_map(size_t bytes)
{
    if (must_fail())
        return NULL;
    return bytes < HUGE_PAGE_BYTES ? map_pages(bytes ? bytes : 1) : map_huge_pages(bytes);
}

void mem_unmap(void *block, size_t bytes)
{
    if (block)
        (void)munmap(block, bytes ? bytes : 1);
}

struct chunk {
    struct chunk *next;
    size_t bytes; /* with this header */
};
_Static_assert(sizeof(struct chunk) % ARENA_ALIGN == 0, "pieces begin after the chunk's header");

struct mem_arena {
    struct chunk *chunks;
    char *pos; /* free part of the chunk that is being filled */
    size_t left;
    size_t next_chunk_bytes;
    const struct growth *growth;
};

static struct mem_arena *create_arena(const struct growth *growth)
{
    struct mem_arena *arena = must_fail() ? NULL : calloc(1, sizeof(*arena));
    if (arena)
        *arena = (struct mem_arena){.next_chunk_bytes = growth->first_bytes, .growth = growth};
    return arena;
}

struct mem_arena *mem_arena_create(void)
{
    return create_arena(&small_growth);
}

struct mem_arena *mem_arena_create_large(void)
{
    return create_arena(&large_growth);
}

void mem_arena_destroy(struct mem_arena *arena)
{
    if (!arena)
        return;
    for (struct chunk *c = arena->chunks, *next; c; c = next) {
        next = c->next;
        if (arena->growth == &large_growth)
            mem_unmap(c, c->bytes);
        else
            free(c);
    }
    free(arena);
}

/* A zeroed chunk, linked into the arena; returns its first usable byte. */
static char *add_chunk(struct mem_arena *arena, size_t usable_bytes)
{
    size_t total;
    if (!mem_add(usable_bytes, sizeof(struct chunk), &total))
        return NULL;
    struct chunk *c = arena->growth == &large_growth ? mem_map(total)
                      : must_fail()                  ? NULL
                                                     : calloc(1, total);
    if (!c)
        return NULL;
    c->bytes = total;
    c->next = arena->chunks;
    arena->chunks = c;
    return (char *)(c + 1);
}

void *mem_arena_alloc(struct mem_arena *arena, size_t bytes)
{
    size_t rounded;
    if (!mem_add(bytes ? bytes : 1, ARENA_ALIGN - 1, &rounded))
        return NULL;
    rounded &= ~(ARENA_ALIGN - 1);
    if (rounded > arena->left) {
        if (rounded >= arena->growth->own_bytes)
            return add_chunk(arena, rounded);
        size_t room = arena->next_chunk_bytes;
        while (room < rounded)
            room *= 2;
        char *first = add_chunk(arena, room);
        if (!first)
            return NULL;
        arena->pos = first;
        arena->left = room;
        if (room < arena->growth->max_bytes)
            arena->next_chunk_bytes = room * 2;
    }
    void *piece = arena->pos;
    arena->pos += rounded;
    arena->left -= rounded;
    return piece;
}

void *mem_arena_alloc_aligned(struct mem_arena *arena, size_t bytes)
{
    size_t padded;
    if (!mem_add(bytes, MEM_ALIGN - ARENA_ALIGN, &padded))
        return NULL;
    char *piece = mem_arena_alloc(arena, padded);
    if (!piece)
        return NULL;
    return piece + (-(uintptr_t)piece & (MEM_ALIGN - 1));
}

char *mem_arena_strndup(struct mem_arena *arena, const char *text, size_t len)
{
    size_t bytes;
    if (!mem_add(len, 1, &bytes))
        return NULL;
    char *copy = mem_arena_alloc(arena, bytes);
    if (copy && len > 0)
        memcpy(copy, text, len);
    return copy;
}
