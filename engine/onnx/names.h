/*
 * Value numbers by name: a crit-bit tree over the names of a graph's values.
 *
 * A lookup costs at most one step for every bit of the name, whatever the other names are, so the
 * time to read a file is linear in its length even when its names were chosen to hurt. A hash table
 * cannot promise that without a secret key.
 *
 * Source of the idea: D. J. Bernstein, "Crit-bit trees".
 */
#ifndef CONVD_ONNX_NAMES_H
#define CONVD_ONNX_NAMES_H

#include "engine/graph/graph.h"

struct names_fork;

struct names {
    struct names_fork *forks;
    uint32_t fork_count, fork_room;
    uint32_t root;
};

void names_init(struct names *names);
void names_release(struct names *names);

/* The value of that name (len bytes, none of them 0) or GRAPH_NONE. */
uint32_t names_find(const struct names *names, const struct graph *g, const char *name, size_t len);

/* Adds a value under its own name, which must not be there yet; false when there is no memory. */
bool names_add(struct names *names, const struct graph *g, uint32_t value);

#endif
