/* Weights in the order in which the kernels of conv.h and plain.h use them. */
#ifndef CONVD_KERNELS_CONV_PACK_H
#define CONVD_KERNELS_CONV_PACK_H

#include <stddef.h>

/* Weights as a model has them: that of output o, input i of its group and tap t (row by row) is
 * data[o * output + i * input + t * tap]. Output o belongs to group o / group_outputs. */
struct kernel_weights {
    const float *data;
    size_t output, input, tap; /* distances */
    size_t outputs, group_outputs, group_inputs, taps;
};

/*
 * Outputs first ... first + count - 1 with inputs from ... from + total - 1 of the whole layer, in
 * blocks of `block` inputs:
 *
 *     to[block][tap][input of the block][output]
 *
 * The last block may be shorter. Weights that do not exist, because the output is beyond the last
 * or does not see that input, become zero.
 */
void kernel_pack_conv(const struct kernel_weights *w, size_t first, size_t count, size_t from,
                      size_t total, size_t block, float *to);

/* For kernel_grouped: outputs first ... first + lanes - 1, `group` of which always see the same
 * inputs, as to[block][step][tap][lane]; blocks of `group` inputs. */
void kernel_pack_grouped(const struct kernel_weights *w, size_t first, size_t lanes, size_t group,
                         float *to);

#endif
