/*
 * Conv on blocked maps in groups that are no whole blocks: which inputs the lanes of a block of
 * outputs see.
 *
 * Groups that lie in a block side by side, as many inputs as outputs, find their inputs in the
 * input's block of the same number. Otherwise a block of outputs may see two or more groups whose
 * inputs begin anywhere. Those are picked: the lanes are cut into units that lie in one group each,
 * and block b that is picked has in each unit inputs b * unit ... of its group. That costs a
 * permutation or two for a pixel and block, which then serves unit * taps multiply-adds, where a
 * convolution of all inputs with zeros between the weights would take as many as there are groups.
 */
#include "engine/ops/blocked_conv.h"

#include <string.h>

/* Of blocks of inputs that a picked block comes from: at most one for each lane. */
#define MAX_SOURCES 16
#define MAX_LANES   16

bool blocked_conv_units(struct blocked_conv *s)
{
    if (s->groups == 1 || s->group_out == 0 || s->group_in == 0 || s->lanes > MAX_LANES)
        return false;
    s->picks = s->group_in != s->group_out || s->lanes % s->group_in != 0;
    if (s->picks && s->group_out % s->lanes == 0)
        return false;
    s->unit = s->lanes;
    while (s->group_out % s->unit != 0)
        s->unit /= 2;
    s->unit_blocks = round_up_div(s->group_in, s->unit);
    return true;
}

double blocked_conv_unit_cost(const struct blocked_conv *s, size_t pixels)
{
    const struct window *w = &s->window;
    const size_t blocks = round_up_div(s->out_channels, s->lanes) * s->unit_blocks;
    /* Two multiply-adds a cycle, a permutation of each sum now and then. */
    const double sums = (double)s->unit * ((double)window_taps(w) + 0.5) / 2;
    /* Picking reads two blocks as a rule, permutes and stores. */
    const double picks = s->picks ? 2.5 * (double)(STRIDE(w, 0) * STRIDE(w, 1)) : 0;
    return (double)(blocks * pixels) * (sums + picks);
}

void blocked_conv_pick(const struct blocked_conv *s, const struct kernels *kernels,
                       const struct blocked_map *in, const float *image, size_t block,
                       size_t first_row, size_t rows, float *to)
{
    const size_t lanes = s->lanes, first = block * lanes;
    const size_t end = min_size(first + lanes, s->out_channels);
    size_t group_first[MAX_LANES]; /* input channel of the group of each unit */
    for (size_t output = first; output < end; output += s->unit)
        group_first[(output - first) / s->unit] = output / s->group_out * s->group_in;
    int lane[MAX_SOURCES][MAX_LANES];
    struct kernel_channels_source sources[MAX_SOURCES];
    for (size_t b = 0; b < s->unit_blocks; b++) {
        const size_t inputs = min_size(s->unit, s->group_in - b * s->unit);
        struct kernel_channels c = {
            .sources = sources,
            .y = to + b * s->copy_rows * s->copy_width * lanes,
            .rows = 1,
            .columns = rows * s->copy_width + in->gap,
        };
        size_t last = SIZE_MAX;
        for (size_t output = first; output < end; output += s->unit)
            for (size_t i = 0; i < inputs; i++) {
                const size_t channel = group_first[(output - first) / s->unit] + b * s->unit + i;
                if (channel / lanes != last) {
                    last = channel / lanes;
                    memset(lane[c.count], -1, sizeof lane[c.count]);
                    sources[c.count] = (struct kernel_channels_source){
                        .in = image + last * in->block + first_row * in->row - in->first,
                        .lane = lane[c.count]};
                    c.count++;
                }
                lane[c.count - 1][output - first + i] = (int)(channel % lanes);
            }
        kernels->channels.fn(&c);
    }
}
