/* Packing of weights: loops that copy. */
#include "engine/kernels/conv_pack.h"

/* The weights of one tap from input `input` of the layer to outputs first ... */
static void pack_outputs(const struct kernel_weights *w, size_t first, size_t count, size_t input,
                         size_t tap, float *to)
{
    const size_t exist = first >= w->outputs          ? 0
                         : w->outputs - first < count ? w->outputs - first
                                                      : count;
    if (w->group_outputs == w->outputs) { /* one group: no divisions */
        const float *from = w->data + first * w->output + input * w->input + tap * w->tap;
        for (size_t o = 0; o < exist; o++)
            to[o] = input < w->group_inputs ? from[o * w->output] : 0;
    } else {
        for (size_t o = 0; o < exist; o++) {
            const size_t before = (first + o) / w->group_outputs * w->group_inputs;
            const int sees = input >= before && input - before < w->group_inputs;
            to[o] =
                sees ? w->data[(first + o) * w->output + (input - before) * w->input + tap * w->tap]
                     : 0;
        }
    }
    for (size_t o = exist; o < count; o++)
        to[o] = 0;
}

void kernel_pack_conv(const struct kernel_weights *w, size_t first, size_t count, size_t from,
                      size_t total, size_t block, float *to)
{
    for (size_t b = 0; b < total; b += block) {
        const size_t inputs = total - b < block ? total - b : block;
        for (size_t tap = 0; tap < w->taps; tap++)
            for (size_t i = 0; i < inputs; i++, to += count)
                pack_outputs(w, first, count, from + b + i, tap, to);
    }
}

void kernel_pack_grouped(const struct kernel_weights *w, size_t first, size_t lanes, size_t group,
                         float *to)
{
    for (size_t block = 0; block < w->group_inputs; block += group)
        for (size_t step = 1; step <= group; step++)
            for (size_t tap = 0; tap < w->taps; tap++)
                for (size_t lane = 0; lane < lanes; lane++) {
                    const size_t input = block + lane % group;
                    const size_t o = first + lane - lane % group + (lane + group - step) % group;
                    *to++ = o < w->outputs && input < w->group_inputs
                                ? w->data[o * w->output + input * w->input + tap * w->tap]
                                : 0;
                }
}
