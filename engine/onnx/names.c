/* Value numbers by name, in time that hostile names cannot stretch. */
#include "engine/onnx/names.h"

#include <assert.h>
#include <string.h>

/* A place where names part: at bit `mask` of byte `byte`. A reference with LEAF set is a value
 * number, without it an index of forks. Names are taken to be followed by zero bytes, which they do
 * not contain, so a name and a longer one that begins with it part as well. */
struct names_fork {
    uint32_t child[2];
    uint32_t byte;
    uint8_t mask;
};
#define LEAF  0x80000000u
#define EMPTY UINT32_MAX
_Static_assert(GRAPH_MAX_VALUES < LEAF, "a value number must leave the LEAF bit free");

static unsigned side(const struct names_fork *fork, const char *name, size_t len)
{
    return fork->byte < len && ((uint8_t)name[fork->byte] & fork->mask) != 0;
}

void names_init(struct names *names)
{
    *names = (struct names){.root = EMPTY};
}

void names_release(struct names *names)
{
    mem_free(names->forks);
    names_init(names);
}

/* The only value whose name can be equal to this one. */
static uint32_t candidate(const struct names *names, const char *name, size_t len)
{
    uint32_t at = names->root;
    while (!(at & LEAF))
        at = names->forks[at].child[side(&names->forks[at], name, len)];
    return at & ~LEAF;
}

uint32_t names_find(const struct names *names, const struct graph *g, const char *name, size_t len)
{
    if (names->root == EMPTY)
        return GRAPH_NONE;
    uint32_t value = candidate(names, name, len);
    const char *found = g->values[value].name;
    return strncmp(found, name, len) == 0 && found[len] == '\0' ? value : GRAPH_NONE;
}

static bool grow(struct names *names)
{
    if (names->fork_count < names->fork_room)
        return true;
    uint32_t room = names->fork_room ? names->fork_room * 2 : 64;
    struct names_fork *grown = mem_alloc(room * sizeof(*grown));
    if (!grown)
        return false;
    if (names->fork_count > 0)
        memcpy(grown, names->forks, names->fork_count * sizeof(*grown));
    mem_free(names->forks);
    names->forks = grown;
    names->fork_room = room;
    return true;
}

bool names_add(struct names *names, const struct graph *g, uint32_t value)
{
    const char *name = g->values[value].name;
    size_t len = strlen(name);
    if (names->root == EMPTY) {
        names->root = value | LEAF;
        return true;
    }
    if (!grow(names))
        return false;

    const char *other = g->values[candidate(names, name, len)].name;
    size_t byte = 0;
    while (name[byte] == other[byte]) {
        assert(name[byte] != '\0'); /* else the name is there already */
        byte++;
    }
    unsigned differ = (unsigned)(uint8_t)(name[byte] ^ other[byte]);
    struct names_fork fork = {.byte = (uint32_t)byte,
                              .mask = (uint8_t)(1u << (31 - __builtin_clz(differ)))};

    /* Forks are met in the order of (byte, bit from the highest): insert where that order puts it.
     */
    uint32_t *link = &names->root;
    while (!(*link & LEAF)) {
        struct names_fork *next = &names->forks[*link];
        if (next->byte > fork.byte || (next->byte == fork.byte && next->mask < fork.mask))
            break;
        link = &next->child[side(next, name, len)];
    }
    unsigned new_side = side(&fork, name, len);
    fork.child[new_side] = value | LEAF;
    fork.child[!new_side] = *link;
    names->forks[names->fork_count] = fork;
    *link = names->fork_count++;
    return true;
}
