/* Memory between pages that cannot be touched. */
#include "tests/support/guarded.h"

#include <criterion/criterion.h>

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define POISON 0x7fc0dead

struct guarded guarded_floats(size_t count, bool at_end)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = count * sizeof(float);
    const size_t inner = (bytes + page - 1) / page * page;
    struct guarded g = {.map_bytes = inner + 2 * page, .count = count};
    g.map = mmap(NULL, g.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(g.map != MAP_FAILED);
    if (inner > 0)
        cr_assert_eq(mprotect(g.map + page, inner, PROT_READ | PROT_WRITE), 0);
    g.data = (float *)(void *)(g.map + page + (at_end ? inner - bytes : 0));
    for (size_t i = 0; i < count; i++)
        g.data[i] = guarded_poison();
    return g;
}

void guarded_free(struct guarded *g)
{
    munmap(g->map, g->map_bytes);
}

float guarded_poison(void)
{
    const uint32_t bits = POISON;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

bool guarded_is_poison(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits == POISON;
}

float guarded_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state * 0x1p-31f;
}
