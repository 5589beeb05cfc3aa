/*
 * Counts of durations in cells that grow with them: exact below 128 ns, within 1/128 above. So any
 * number of requests takes the same memory, and a percentile is off by less than one per cent.
 */
#ifndef CONVD_TESTS_BENCH_LOADGEN_HISTOGRAM_H
#define CONVD_TESTS_BENCH_LOADGEN_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_PART_BITS 7
#define HISTOGRAM_MAX_BITS  42 /* 73 minutes; longer ones count as that */
#define HISTOGRAM_CELLS     ((HISTOGRAM_MAX_BITS - HISTOGRAM_PART_BITS + 1) << HISTOGRAM_PART_BITS)

struct histogram {
    uint64_t count, max_ns;
    uint64_t cells[HISTOGRAM_CELLS];
};

static inline unsigned histogram_cell(uint64_t ns)
{
    const uint64_t parts = 1u << HISTOGRAM_PART_BITS, limit = 1ull << HISTOGRAM_MAX_BITS;

    if (ns >= limit)
        ns = limit - 1;
    if (ns < parts)
        return (unsigned)ns;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - HISTOGRAM_PART_BITS;
    return (unsigned)((shift << HISTOGRAM_PART_BITS) + (ns >> shift));
}

/* The longest duration that a cell counts. */
static inline uint64_t histogram_cell_end(unsigned cell)
{
    const unsigned parts = 1u << HISTOGRAM_PART_BITS;

    if (cell < 2 * parts)
        return cell;
    unsigned shift = (cell >> HISTOGRAM_PART_BITS) - 1;
    return ((uint64_t)(cell - (shift << HISTOGRAM_PART_BITS) + 1) << shift) - 1;
}

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
    h->cells[histogram_cell(ns)]++;
    h->count++;
    if (ns > h->max_ns)
        h->max_ns = ns;
}

/* The duration that `share` (0 to 1) of all do not exceed; 0 when there are none. */
static inline uint64_t histogram_quantile(const struct histogram *h, double share)
{
    double wanted = share * (double)h->count;
    uint64_t seen = 0;

    for (unsigned cell = 0; cell < HISTOGRAM_CELLS; cell++) {
        seen += h->cells[cell];
        if (h->cells[cell] && (double)seen >= wanted) {
            uint64_t end = histogram_cell_end(cell);
            return end < h->max_ns ? end : h->max_ns;
        }
    }
    return h->max_ns;
}

#endif
