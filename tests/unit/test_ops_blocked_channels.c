/*
 * Channels of the domain "convd.blocked" against its definition on plain values, at every CPU
 * level; the harness looks at gaps, threads, batches and parts of maps. Inputs that are parts of
 * the output already must be left alone.
 */
#include "engine/ops/blocked.h"
#include "engine/runtime/mem.h"
#include "tests/support/blocked_harness.h"
#include "tests/support/guarded.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const enum cvd_cpu levels[] = {CVD_CPU_C, CVD_CPU_NEON, CVD_CPU_AVX2, CVD_CPU_AVX512};
#define LEVELS (sizeof levels / sizeof levels[0])

#define MAX_CHANNELS 256
#define IMAGES       2

struct channel_case {
    const char *what;
    int channels[BLOCKED_CASE_INPUTS]; /* of the inputs; 0: no more */
    int height, width;
    size_t count;                    /* of the output */
    int64_t pairs[2 * MAX_CHANNELS]; /* as the attribute has them */
};

static void add_channel(struct channel_case *t, int64_t input, int64_t channel)
{
    t->pairs[2 * t->count] = input;
    t->pairs[2 * t->count + 1] = channel;
    t->count++;
}

/* Channels first ... end - 1 of an input. */
static void add_channels(struct channel_case *t, int64_t input, int64_t first, int64_t end)
{
    for (int64_t c = first; c < end; c++)
        add_channel(t, input, c);
}

static void check(const struct channel_case *t)
{
    static const unsigned gaps[][3] = {{0, 0, 0}, {1, 1, 1}, {0, 2, 1}, {2, 0, 0}};
    const size_t plane = (size_t)(t->height * t->width);
    const struct op_attr attr = {
        .name = "channels", .type = OP_ATTR_INTS, .count = 2 * t->count, .ints = t->pairs};
    struct blocked_case c = {.op = "Channels", .what = t->what, .attrs = &attr, .attr_count = 1};
    for (; c.in_count < BLOCKED_CASE_INPUTS && t->channels[c.in_count] > 0; c.in_count++) {
        const size_t i = c.in_count, count = IMAGES * plane * (size_t)t->channels[i];
        c.in[i] = (struct op_arg)FLOAT_INPUT(OP_SHAPE(IMAGES, t->channels[i], t->height, t->width),
                                             op_random(count, (uint32_t)i + 3));
    }
    double *want = (double *)(void *)op_random(2 * IMAGES * t->count * plane, 1);
    for (size_t n = 0; n < IMAGES; n++)
        for (size_t o = 0; o < t->count; o++) {
            const size_t input = (size_t)t->pairs[2 * o], channel = (size_t)t->pairs[2 * o + 1];
            const float *x = c.in[input].data;
            for (size_t p = 0; p < plane; p++)
                want[(n * t->count + o) * plane + p] =
                    (double)x[(n * (size_t)t->channels[input] + channel) * plane + p];
        }
    for (size_t i = 0; i < LEVELS * 4; i++) {
        struct kernels kernels;
        if (!cvd_cpu_supported(levels[i / 4]))
            continue;
        kernels_init(&kernels, levels[i / 4]);
        for (size_t in = 0; in < c.in_count; in++)
            c.layout[in] = (struct op_layout){.lanes = kernels.lanes, .gap = gaps[i % 4][in % 2]};
        c.out_layout = (struct op_layout){.lanes = kernels.lanes, .gap = gaps[i % 4][2]};
        blocked_case_expect(&c, levels[i / 4], want, want, 0);
    }
}

Test(blocked_channels, concatenation)
{
    static const int parts[][BLOCKED_CASE_INPUTS] = {
        {16, 32, 16}, {19, 7, 33}, {32, 5}, {5, 32}, {1, 1, 1, 1, 1}, {48, 58}, {3},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        struct channel_case t = {.what = "concatenation", .height = 5, .width = 9};
        memcpy(t.channels, parts[i], sizeof t.channels);
        for (int in = 0; in < BLOCKED_CASE_INPUTS; in++)
            add_channels(&t, in, 0, t.channels[in]);
        check(&t);
    }
}

Test(blocked_channels, slice)
{
    static const int ranges[][2] = {{0, 16}, {16, 48}, {16, 58}, {29, 58},
                                    {1, 2},  {3, 37},  {0, 20}};
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        struct channel_case t = {
            .what = "slice", .channels = {58}, .height = 7, .width = 7 + (int)i};
        add_channels(&t, 0, ranges[i][0], ranges[i][1]);
        check(&t);
    }
}

/* As ShuffleNet has it: two halves interleaved, then one half of that. */
Test(blocked_channels, shuffle)
{
    static const int halves[] = {58, 29, 16, 116};
    for (size_t i = 0; i < sizeof halves / sizeof halves[0]; i++) {
        struct channel_case whole = {
            .what = "shuffle", .channels = {halves[i], halves[i]}, .height = 7, .width = 7};
        for (int c = 0; c < 2 * halves[i]; c++)
            add_channel(&whole, c % 2, c / 2);
        check(&whole);
        struct channel_case half = whole;
        half.what = "half of a shuffle";
        half.count = 0;
        for (int c = halves[i]; c < 2 * halves[i]; c++)
            add_channel(&half, c % 2, c / 2);
        check(&half);
    }
}

/* Up to as many sources for a block as it has lanes. */
Test(blocked_channels, any_order)
{
    struct channel_case t = {
        .what = "any order", .channels = {130, 7, 64}, .height = 3, .width = 11};
    uint32_t state = 5;
    for (int i = 0; i < 101; i++) {
        state = state * 1664525u + 1013904223u;
        const int input = (int)(state >> 24) % 3;
        add_channel(&t, input, (int)(state >> 8 & 0xffff) % t.channels[input]);
    }
    check(&t);
    struct channel_case reversed = {.what = "reversed", .channels = {90}, .height = 1, .width = 1};
    for (int i = 0; i < 90; i++)
        add_channel(&reversed, 0, 89 - i);
    check(&reversed);
}

/* Work for more than one piece and chunks of several rows. */
Test(blocked_channels, large)
{
    struct channel_case t = {.what = "large", .channels = {58, 58}, .height = 57, .width = 31};
    for (int c = 0; c < 100; c++)
        add_channel(&t, c % 2, c / 2 + 3);
    check(&t);
}

/* ---- inputs that are parts of the output ---- */

struct parts {
    struct kernels kernels;
    struct guarded y;
    struct op_layout layout, part, own;
    struct cvd_shape out_shape, shapes[3];
    struct op_tensor in[3];
};

enum { FIRST = 32, SECOND = 16, THIRD = 5, CHANNELS = FIRST + SECOND + THIRD };

/* Pixel (0, 0) of channel c of image n of the output, lane included. */
static float *channel_at(const struct parts *p, size_t n, size_t c)
{
    struct blocked_map m;
    blocked_map(&p->out_shape, p->layout, &m);
    return p->y.data + m.first + n * m.image + c / m.lanes * m.block + c % m.lanes;
}

static void run_concatenation(const struct parts *p)
{
    bool known;
    int64_t pairs[2 * CHANNELS];
    const int ends[] = {FIRST, FIRST + SECOND, CHANNELS};
    for (int c = 0, input = 0; c < CHANNELS; c++) {
        input += c == ends[input];
        pairs[2 * c] = input;
        pairs[2 * c + 1] = c - (input ? ends[input - 1] : 0);
    }
    const struct op_attr attr = {
        .name = "channels", .type = OP_ATTR_INTS, .count = 2 * CHANNELS, .ints = pairs};
    struct op_value values[3], out;
    const struct op_value *in[3];
    const struct op_tensor *tensors[3];
    for (size_t i = 0; i < 3; i++) {
        values[i] = (struct op_value){
            .dtype = CVD_DTYPE_FLOAT32, .shape = p->shapes[i], .layout = p->in[i].layout};
        in[i] = &values[i];
        tensors[i] = &p->in[i];
    }
    struct cvd_error err;
    const struct op_def *def = op_find(BLOCKED_DOMAIN, "Channels", BLOCKED_VERSION, &known);
    const struct op_node node = {.def = def,
                                 .name = "n1",
                                 .attrs = &attr,
                                 .attr_count = 1,
                                 .in = in,
                                 .in_count = 3,
                                 .out_count = 1,
                                 .err = &err};
    struct op_prepared prepared = {0};
    cr_assert_eq(def->infer(&node, &out), CVD_STATUS_OK);
    cr_assert(cvd_shape_equal(&out.shape, &p->out_shape));
    out.layout = p->layout;
    cr_assert_eq(def->prepare(&node, &out, &p->kernels, &prepared), CVD_STATUS_OK);
    struct op_output output = {
        .dtype = out.dtype, .shape = out.shape, .layout = out.layout, .data = p->y.data};
    const struct op_run run = {.state = prepared.state,
                               .kernels = &p->kernels,
                               .in = tensors,
                               .in_count = 3,
                               .out = &output,
                               .out_count = 1};
    def->run(&run);
    mem_free(prepared.state);
}

/* An output of IMAGES images between pages, with the first two inputs in it, and, when `all`, the
 * third one too. Numbers tell where they belong. */
static void set_up(struct parts *p, enum cvd_cpu level, unsigned gap, bool all, float *third)
{
    *p = (struct parts){.out_shape = OP_SHAPE(IMAGES, CHANNELS, 4, 6),
                        .shapes = {OP_SHAPE(IMAGES, FIRST, 4, 6), OP_SHAPE(IMAGES, SECOND, 4, 6),
                                   OP_SHAPE(IMAGES, THIRD, 4, 6)}};
    kernels_init(&p->kernels, level);
    p->own = p->part = p->layout = (struct op_layout){.lanes = p->kernels.lanes, .gap = gap};
    struct blocked_map m, own;
    size_t count;
    cr_assert(blocked_map(&p->out_shape, p->layout, &m));
    cr_assert(blocked_map(&p->shapes[2], p->own, &own));
    cr_assert(blocked_elements(&p->out_shape, p->layout, &count));
    p->part.blocks = (unsigned)m.blocks;
    p->y = guarded_floats(count, true);
    for (size_t n = 0; n < IMAGES; n++) {
        float *image = p->y.data + m.first + n * m.image;
        for (size_t c = 0; c < m.blocks * m.lanes; c++)
            for (size_t i = 0; i < 24; i++) {
                float *at = c < CHANNELS && !all && c >= FIRST + SECOND
                                ? third + own.first + n * own.image +
                                      (c - FIRST - SECOND) / m.lanes * m.block + c % m.lanes
                                : channel_at(p, n, c);
                at[i / 6 * m.row + i % 6 * m.lanes] = (float)(n * 10000 + c * 100 + i);
            }
        blocked_clear_gaps(&m, image, 0, all ? m.blocks : (FIRST + SECOND) / m.lanes, 0, 4);
        blocked_clear_lead(&m, image);
    }
    const size_t first[] = {0, FIRST, FIRST + SECOND};
    for (size_t i = 0; i < 3; i++)
        p->in[i] = (struct op_tensor){
            .dtype = CVD_DTYPE_FLOAT32,
            .shape = p->shapes[i],
            .data = i < 2 || all ? p->y.data + first[i] / m.lanes * m.block : third,
            .layout = i < 2 || all ? p->part : p->own};
}

static void expect_numbers(const struct parts *p)
{
    struct blocked_map m;
    blocked_map(&p->out_shape, p->layout, &m);
    for (size_t n = 0; n < IMAGES; n++)
        for (size_t c = 0; c < CHANNELS; c++)
            for (size_t i = 0; i < 24; i++)
                cr_assert_eq(channel_at(p, n, c)[i / 6 * m.row + i % 6 * m.lanes],
                             (float)(n * 10000 + c * 100 + i), "image %zu, channel %zu", n, c);
    for (size_t i = 0; i < m.images * m.image; i++)
        if (i % m.image < m.first || (i % m.image - m.first) % m.row >= m.width * m.lanes)
            cr_assert_eq(p->y.data[i], 0, "float %zu is in a gap", i);
}

/* Where all inputs are in place nothing is written: the output's pages are read-only. */
Test(blocked_channels, all_in_place)
{
    for (size_t i = 0; i < LEVELS * 3; i++) {
        struct parts p;
        if (!cvd_cpu_supported(levels[i / 3]))
            continue;
        set_up(&p, levels[i / 3], (unsigned)(i % 3), true, NULL);
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        cr_assert_eq(mprotect(p.y.map + page, p.y.map_bytes - 2 * page, PROT_READ), 0);
        run_concatenation(&p);
        expect_numbers(&p);
        guarded_free(&p.y);
    }
}

Test(blocked_channels, some_in_place)
{
    for (size_t i = 0; i < LEVELS * 3; i++) {
        struct parts p;
        if (!cvd_cpu_supported(levels[i / 3]))
            continue;
        /* Room for a third input in any of these layouts; its gaps are zeros. */
        float third[4096] = {0};
        set_up(&p, levels[i / 3], (unsigned)(i % 3), false, third);
        run_concatenation(&p);
        expect_numbers(&p);
        guarded_free(&p.y);
    }
}

/* ---- what is refused ---- */

static void expect_refusal(const char *fragment, const struct cvd_shape *shapes, size_t inputs,
                           const int64_t *pairs, size_t count)
{
    bool known;
    struct op_value values[3], out;
    const struct op_value *in[3];
    for (size_t i = 0; i < inputs; i++) {
        values[i] = (struct op_value){.dtype = CVD_DTYPE_FLOAT32, .shape = shapes[i]};
        in[i] = &values[i];
    }
    const struct op_attr attr = {
        .name = "channels", .type = OP_ATTR_INTS, .count = count, .ints = pairs};
    struct cvd_error err = {0};
    const struct op_node node = {.def =
                                     op_find(BLOCKED_DOMAIN, "Channels", BLOCKED_VERSION, &known),
                                 .name = "n1",
                                 .attrs = &attr,
                                 .attr_count = pairs ? 1 : 0,
                                 .in = in,
                                 .in_count = inputs,
                                 .out_count = 1,
                                 .err = &err};
    cr_assert_eq(node.def->infer(&node, &out), CVD_STATUS_INVALID_MODEL, "no '%s'", fragment);
    cr_assert(strstr(err.message, fragment), "'%s' does not say '%s'", err.message, fragment);
}

Test(blocked_channels, refusals)
{
    const struct cvd_shape good[] = {OP_SHAPE(2, 3, 4, 5), OP_SHAPE(2, 7, 4, 5)};
    const struct cvd_shape batch[] = {OP_SHAPE(2, 3, 4, 5), OP_SHAPE(1, 7, 4, 5)};
    const struct cvd_shape width[] = {OP_SHAPE(2, 3, 4, 5), OP_SHAPE(2, 7, 4, 6)};
    const struct cvd_shape rank[] = {OP_SHAPE(2, 3, 4), OP_SHAPE(2, 3, 4)};
    static const int64_t fine[] = {0, 2, 1, 6}, input[] = {0, 0, 2, 0}, minus[] = {-1, 0};
    static const int64_t channel[] = {1, 3, 0, 3}, negative[] = {1, -1};
    expect_refusal("channels has 0 numbers", good, 2, NULL, 0);
    expect_refusal("channels has 3 numbers", good, 2, fine, 3);
    expect_refusal("channels[2] is 2; there are 2 inputs", good, 2, input, 4);
    expect_refusal("channels[0] is -1", good, 2, minus, 2);
    expect_refusal("channels[3] is 3; input 0 has 3 channels", good, 2, channel, 4);
    expect_refusal("channels[1] is -1", good, 2, negative, 2);
    expect_refusal("must be maps alike", batch, 2, fine, 4);
    expect_refusal("must be maps alike", width, 2, fine, 4);
    expect_refusal("must be maps alike", rank, 2, fine, 4);
}
