/*
 * Lists of integers that shape an output: attributes in the older versions of an operator, inputs
 * that must be known at load in the later ones.
 */
#ifndef CONVD_OPS_LIST_H
#define CONVD_OPS_LIST_H

#include "engine/ops/op.h"

#define LIST_MAX ((size_t)2 * CVD_MAX_RANK) /* pads have two numbers for each dimension */

struct list {
    bool given;
    size_t count;
    int64_t values[LIST_MAX];
};

/* Reads input `input` when the node's version of the operator has so many, else attribute `name`
 * (NULL: there is none). A list of more than `max` numbers, at most LIST_MAX, is an error; an
 * absent one is not. */
enum cvd_status list_read(const struct op_node *node, const char *name, size_t input, size_t max,
                          struct list *out);

/* The same for a list that must be there. */
enum cvd_status list_require(const struct op_node *node, const char *name, size_t input, size_t max,
                             struct list *out);

/* The dimensions that the numbers of `list` name, counted from the end when negative, each below
 * `rank` and no two the same. */
enum cvd_status list_axes(const struct op_node *node, const struct list *list, unsigned rank,
                          unsigned axes[CVD_MAX_RANK]);

/* Attribute `axis`, counted from the end when negative, of an input 0 that is no scalar. */
enum cvd_status list_axis(const struct op_node *node, int64_t fallback, unsigned *out);

#endif
