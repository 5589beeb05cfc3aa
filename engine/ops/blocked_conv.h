/*
 * What Conv on blocked maps decides at load (blocked_conv.c) and does at run time
 * (blocked_conv_run.c).
 */
#ifndef CONVD_OPS_BLOCKED_CONV_H
#define CONVD_OPS_BLOCKED_CONV_H

#include "engine/ops/blocked.h"
#include "engine/ops/window.h"

enum form {
    FORM_ROWS,    /* blocked to blocked, row by row */
    FORM_FLAT,    /* the same where a map is one long row: 1 x 1 without strides and gap */
    FORM_GROUPED, /* blocked to blocked, groups narrower than a block */
    FORM_STEM,    /* plain to blocked */
    FORM_PLANES   /* plain to plain */
};

/* Output channels computed together. */
struct conv_group {
    size_t first;       /* channel */
    size_t vectors;     /* FORM_PLANES: channels */
    size_t from, total; /* input channels: the first, of a whole block; how many */
    size_t weights;     /* offset of the first */
};

struct blocked_conv {
    enum form form;
    struct window window;
    struct kernel_act act;
    size_t groups; /* that the operator has */
    size_t in_channels, out_channels, group_in, group_out;
    size_t lanes;
    size_t chunk; /* rows, or pixels of FORM_FLAT */
    bool copies;  /* plain rows are padded in scratch */
    size_t copy_rows, copy_width;
    size_t weight_floats, macs; /* of an image */
    size_t group_count;
    const struct conv_group *group;
    const float *weights, *bias;
};

static inline size_t round_up_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static inline size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t window_size(const int64_t *list, unsigned i)
{
    return (size_t)list[i];
}

#define IN(w, i)       window_size((w)->in, i)
#define OUT(w, i)      window_size((w)->out, i)
#define KERNEL(w, i)   window_size((w)->kernel, i)
#define STRIDE(w, i)   window_size((w)->stride, i)
#define DILATION(w, i) window_size((w)->dilation, i)

#define RESIDUAL 3 /* that input */
/* Floats of room behind a padded copy: at least a vector of any level. */
#define COPY_EDGE ((size_t)16)

void blocked_conv_run(const struct op_run *r);

/* For the other operators that are a Conv: sets window, act and the numbers of channels and groups;
 * and the books of prepare. */
enum cvd_status blocked_conv_read(const struct op_node *node, struct blocked_conv *s);
void blocked_conv_count(const struct op_node *node, const struct op_value *out,
                        struct op_prepared *prepared);

#endif
