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
    FORM_FLAT,    /* the same where a map is one long row: 1 x 1 without strides and gap; or with
                     strides, where what is seen is gathered in scratch first */
    FORM_GROUPED, /* blocked to blocked, each lane with inputs of its own */
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
    size_t lanes, in_gap;
    /* FORM_GROUPED: so many neighbouring lanes always see the same inputs, which come in so many
     * blocks; they are those of the map, or picked from it into scratch. */
    size_t unit, unit_blocks;
    bool picks;
    size_t chunk; /* rows, or pixels of FORM_FLAT */
    size_t held;  /* FORM_FLAT: so many gathered chunks find room in scratch; 0: as they lie */
    bool copies;  /* rows are brought into scratch: padded plain ones, or picked blocks */
    size_t copy_rows, copy_width; /* of a channel or a picked block */
    size_t weight_floats, macs;   /* of an image */
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

/* Of the second-level cache, for weights that stay there while chunks pass by. */
#define WEIGHTS_BYTES ((size_t)512 << 10)
/* The same for inputs that stay there while groups pass by. */
#define INPUT_BYTES ((size_t)896 << 10)
/* Of gathered chunks. */
#define MAX_HELD ((size_t)8)

void blocked_conv_run(const struct op_run *r);

/* FORM_GROUPED (blocked_conv_group.c). Sets unit, unit_blocks and picks; false when groups are
 * whole blocks or there is one. */
bool blocked_conv_units(struct blocked_conv *s);
/* Cycles of a row of so many outputs. */
double blocked_conv_unit_cost(const struct blocked_conv *s, size_t pixels);
/* Writes the inputs that output block `block` sees in `rows` rows from `first_row` on, as
 * [unit_blocks][copy_rows][copy_width][lanes], in each of them a gap and then the rows with their
 * gaps. */
void blocked_conv_pick(const struct blocked_conv *s, const struct kernels *kernels,
                       const struct blocked_map *in, const float *image, size_t block,
                       size_t first_row, size_t rows, float *to);

/* For the other operators that are a Conv: sets window, act and the numbers of channels and groups;
 * and the books of prepare. */
enum cvd_status blocked_conv_read(const struct op_node *node, struct blocked_conv *s);
void blocked_conv_count(const struct op_node *node, const struct op_value *out,
                        struct op_prepared *prepared);

#endif
