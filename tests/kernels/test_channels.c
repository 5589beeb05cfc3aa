/*
 * Channels picked from several maps, at every CPU level, against the definition: each lane on its
 * own. Sources stand between pages that cannot be touched and their unused lanes are poison.
 */
#include "engine/kernels/kernels.h"
#include "tests/support/guarded.h"
#include "tests/support/mutants.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <stdio.h>
#include <string.h>

#define MAX_LANES 16

#define LEVELS(suite, name)                                                                     \
    ParameterizedTestParameters(suite, name)                                                    \
    {                                                                                           \
        static enum cvd_cpu levels[] = {CVD_CPU_C, CVD_CPU_NEON, CVD_CPU_AVX2, CVD_CPU_AVX512}; \
        return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);       \
    }                                                                                           \
    ParameterizedTest(enum cvd_cpu *level, suite, name)

static size_t below(uint32_t *state, size_t n)
{
    *state = *state * 1664525u + 1013904223u;
    return (size_t)(*state >> 8) % n;
}

/* Gives each lane a source and a lane of it, or (one in `empty`) nothing; each source gets one at
 * least when there are lanes enough. */
static void draw(uint32_t *state, size_t lanes, size_t count, size_t empty,
                 int table[MAX_LANES][MAX_LANES])
{
    for (size_t s = 0; s < count; s++)
        for (size_t l = 0; l < lanes; l++)
            table[s][l] = -1;
    const size_t turn = below(state, lanes);
    for (size_t l = 0; l < lanes; l++)
        if (empty == 0 || below(state, empty) != 0)
            table[(l + turn) % lanes < count ? (l + turn) % lanes : below(state, count)][l] =
                (int)below(state, lanes);
}

struct shape {
    size_t rows, columns, spare; /* floats between rows */
};

static void check(const struct kernels *k, size_t count, size_t empty, const struct shape *shape,
                  bool at_end)
{
    uint32_t state = (uint32_t)(count * 31 + empty * 7 + shape->columns);
    const size_t lanes = k->lanes, length = shape->columns * lanes;
    const size_t row = length + shape->spare, y_row = length + 2 * shape->spare;
    int table[MAX_LANES][MAX_LANES];
    struct guarded in[MAX_LANES], indices[MAX_LANES];
    struct kernel_channels_source sources[MAX_LANES];
    draw(&state, lanes, count, empty, table);
    for (size_t s = 0; s < count; s++) {
        in[s] = guarded_floats((shape->rows - 1) * (row + s) + length, at_end);
        for (size_t i = 0; i < in[s].count; i++)
            for (size_t l = 0; l < lanes && i % (row + s) < length; l++)
                if (table[s][l] == (int)(i % (row + s) % lanes))
                    in[s].data[i] = guarded_random(&state);
        indices[s] = guarded_floats(lanes, at_end);
        memcpy(indices[s].data, table[s], lanes * sizeof(int));
        sources[s] = (struct kernel_channels_source){
            .in = in[s].data, .row = row + s, .lane = (const int *)(const void *)indices[s].data};
    }
    struct guarded y = guarded_floats((shape->rows - 1) * y_row + length, at_end);
    const struct kernel_channels c = {.sources = sources,
                                      .count = count,
                                      .y = y.data,
                                      .rows = shape->rows,
                                      .columns = shape->columns,
                                      .y_row = y_row};
    k->channels.fn(&c);
    for (size_t i = 0; i < y.count; i++) {
        const size_t at = i % y_row, l = at % lanes;
        if (at >= length) {
            cr_assert(guarded_is_poison(y.data[i]), "wrote between rows");
            continue;
        }
        float want = 0;
        for (size_t s = 0; s < count; s++)
            if (table[s][l] >= 0)
                want = in[s].data[i / y_row * (row + s) + at - l + (size_t)table[s][l]];
        cr_assert(memcmp(&y.data[i], &want, sizeof want) == 0,
                  "%s, %zu sources, %zux%zu: float %zu is %g, not %g", k->channels.name, count,
                  shape->rows, shape->columns, i, (double)y.data[i], (double)want);
    }
    for (size_t s = 0; s < count; s++) {
        guarded_free(&in[s]);
        guarded_free(&indices[s]);
    }
    guarded_free(&y);
}

LEVELS(channels, any_sources)
{
    static const struct shape shapes[] = {{1, 1, 0}, {1, 49, 0}, {3, 7, 5}, {5, 2, 1}, {2, 28, 64}};
    struct kernels k;
    if (!cvd_cpu_supported(*level))
        cr_skip_test("this CPU has no %s", cvd_cpu_name(*level));
    mutants_kernels_init(&k, *level);
    for (size_t count = 1; count <= k.lanes; count++)
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
            for (size_t empty = 0; empty < 4; empty += 3) {
                check(&k, count, empty, &shapes[i], false);
                check(&k, count, empty, &shapes[i], true);
            }
}

/* Copies keep every bit: of NaNs, infinities, -0 and what is too small for arithmetic. */
LEVELS(channels, keeps_bits)
{
    static const uint32_t bits[] = {0x7f800000, 0xff800000, 0x80000000, 0x00000001,
                                    0x7fc01234, 0x807fffff, 0x7f7fffff, 0x00000000};
    struct kernels k;
    if (!cvd_cpu_supported(*level))
        cr_skip_test("this CPU has no %s", cvd_cpu_name(*level));
    mutants_kernels_init(&k, *level);
    float x[2][MAX_LANES], y[MAX_LANES];
    int lane[2][MAX_LANES];
    for (size_t i = 0; i < k.lanes; i++) {
        memcpy(&x[0][i], &bits[i % 8], sizeof(float));
        memcpy(&x[1][i], &bits[(i + 3) % 8], sizeof(float));
        lane[i % 2][i] = (int)(k.lanes - 1 - i);
        lane[1 - i % 2][i] = -1;
    }
    const struct kernel_channels_source sources[] = {{x[0], k.lanes, lane[0]},
                                                     {x[1], k.lanes, lane[1]}};
    const struct kernel_channels c = {
        .sources = sources, .count = 2, .y = y, .rows = 1, .columns = 1, .y_row = k.lanes};
    k.channels.fn(&c);
    for (size_t i = 0; i < k.lanes; i++)
        cr_assert_eq(memcmp(&y[i], &x[i % 2][k.lanes - 1 - i], sizeof(float)), 0, "lane %zu", i);
}
