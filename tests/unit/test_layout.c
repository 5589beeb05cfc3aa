/* Where buffers lie: never two in one place at one time, close to the best that can be had, and
 * fast for graphs of any size. */
#include "engine/graph/plan.h"

#include "tests/support/net.h"

#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static struct plan *build(struct graph *g)
{
    struct plan *plan = NULL;
    struct cvd_error err = {0};
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    enum cvd_status status = graph_check(g, &err);
    if (status == CVD_STATUS_OK)
        status = plan_build(g, &kernels, NULL, NULL, &plan, &err);
    graph_release(g);
    cr_assert_eq(status, CVD_STATUS_OK, "%s", err.message);
    return plan;
}

/* The arena's size, after a check of every pair of buffers. */
static size_t arena(const struct plan *plan, int64_t batch)
{
    size_t *offsets = calloc(plan->buffer_count + 1, sizeof(*offsets)), total = 0;
    struct cvd_error err = {0};
    cr_assert_eq(plan_layout(plan, &(struct plan_batch){.images = batch, .part = batch}, offsets,
                             &total, &err),
                 CVD_STATUS_OK);
    /* No two buffers that are alive together may overlap. */
    for (uint32_t a = 0; a < plan->buffer_count; a++) {
        const struct plan_buffer *x = &plan->buffers[a];
        size_t x_bytes = x->bytes1 + (size_t)(batch - 1) * x->bytes_more;
        cr_assert_eq(offsets[a] % MEM_ALIGN, 0);
        cr_assert_leq(offsets[a] + x_bytes, total);
        for (uint32_t b = 0; b < a && plan->buffer_count < 3000; b++) {
            const struct plan_buffer *y = &plan->buffers[b];
            size_t y_bytes = y->bytes1 + (size_t)(batch - 1) * y->bytes_more;
            bool together = x->first <= y->last && y->first <= x->last;
            bool apart = offsets[a] + x_bytes <= offsets[b] || offsets[b] + y_bytes <= offsets[a];
            cr_assert(!together || apart, "buffers %u and %u", a, b);
        }
    }
    free(offsets);
    return total;
}

Test(layout, buffers_are_reused)
{
    struct graph g, all;
    net_lenet(&g, 1, false);
    net_lenet(&all, 1, true);
    struct plan *plan = build(&g), *unshared = build(&all);
    /* The first convolution and its pooling, the largest pair that lives together; the latter's
     * 4704 bytes end at a multiple of 64. */
    cr_assert_eq(arena(plan, 1), 6 * 28 * 28 * sizeof(float) + 4736);
    cr_assert_eq(plan->arena_bytes, arena(plan, 1));
    cr_assert_lt(arena(plan, 1), arena(unshared, 1));
    cr_assert_eq(arena(plan, 32), (size_t)32 * (6 * 28 * 28 + 6 * 14 * 14) * sizeof(float));
    plan_destroy(plan);
    plan_destroy(unshared);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define MANY 100000

/* Relu and Softmax by turns, each of the node before it. With `outputs`, every so many values one
 * is wanted by the caller, so that it shares its memory with none of the others. */
static struct plan *long_chain(int outputs)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 16));
    for (int i = 0; i < MANY; i++) {
        x = NET_OP(&g, i % 2 == 0 ? "Relu" : "Softmax", NULL, x);
        if (i + 1 == MANY || (outputs != 0 && i % outputs == 0))
            net_output(&g, x);
    }
    double start = seconds();
    struct plan *plan = build(&g);
    cr_assert_gt(arena(plan, 3), 0);
    double took = seconds() - start;
    cr_assert_eq(plan->step_count, MANY);
    cr_assert_lt(took, 10.0, "took %.1f s", took);
    return plan;
}

Test(layout, a_hundred_thousand_nodes, .timeout = 600)
{
    struct plan *plan = long_chain(0);
    cr_assert_eq(plan->buffer_count, 1);
    plan_destroy(plan);
    plan = long_chain(10); /* 10,000 buffers that all live to the end: 50 million pairs */
    cr_assert_geq(plan->buffer_count, MANY / 10);
    plan_destroy(plan);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    cr_assert_lt(usage.ru_maxrss, 1024 * 1024); /* KiB */
}

/* A chain of alternating sizes without any operator in place: thousands of short-lived buffers. */
Test(layout, short_lived_buffers_share_two_places, .timeout = 600)
{
    static const int64_t two[] = {3, 3}, one[] = {1, 1, 1, 1};
    const struct op_attr attrs[] = {
        {.name = "kernel_shape", .type = OP_ATTR_INTS, .count = 2, .ints = two},
        {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = one}};
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 1, 4, 4));
    for (int i = 0; i < 20000; i++)
        x = NET_OP_ATTRS(&g, "MaxPool", NULL, attrs, x);
    net_output(&g, x);
    struct plan *plan = build(&g);
    cr_assert_eq(plan->buffer_count, 20000);
    cr_assert_eq(arena(plan, 1), 2 * 64);
    plan_destroy(plan);
}

/* Buffers of random sizes and lives: none may overlap another that is alive with it (which arena()
 * checks), and the best use of memory is nearly reached. */
Test(layout, random_buffers)
{
    uint32_t x = 1;
    double used = 0, least = 0;
    for (int round = 0; round < 300; round++) {
        struct plan_buffer buffers[60];
        struct plan plan = {.buffers = buffers, .buffer_count = 1 + (uint32_t)round % 60};
        size_t live[64] = {0}, peak = 0, sum = 0;
        for (uint32_t i = 0; i < plan.buffer_count; i++) {
            x = x * 1664525u + 1013904223u;
            buffers[i].bytes1 = (x >> 8) % 5000;
            buffers[i].bytes_more = (x >> 12) % 3 * 100;
            buffers[i].first = (x >> 16) % 50;
            buffers[i].last = buffers[i].first + (x >> 24) % 12;
            size_t bytes = buffers[i].bytes1 + 2 * buffers[i].bytes_more;
            sum += (bytes + 63) / 64 * 64;
            for (uint32_t s = buffers[i].first; s <= buffers[i].last; s++)
                live[s] += (bytes + 63) / 64 * 64;
        }
        for (int s = 0; s < 64; s++)
            peak = live[s] > peak ? live[s] : peak;
        size_t total = arena(&plan, 3);
        cr_assert_geq(total, peak);
        cr_assert_leq(total, sum);
        used += (double)total;
        least += (double)peak;
    }
    cr_assert_lt(used, 1.1 * least);
}

Test(layout, sizes_that_overflow_are_refused)
{
    struct graph g;
    net_lenet(&g, 1, false);
    struct plan *plan = build(&g);
    size_t *offsets = calloc(plan->buffer_count, sizeof(*offsets)), total;
    struct cvd_error err = {0};
    cr_assert_eq(plan_layout(plan, &(struct plan_batch){.images = INT64_MAX / 4, .part = 1},
                             offsets, &total, &err),
                 CVD_STATUS_OUT_OF_MEMORY);
    cr_assert_not_null(strstr(err.message, "images"));
    free(offsets);
    plan_destroy(plan);
}
