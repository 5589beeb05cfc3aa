/* From logits to an answer: softmax at its extremes, and which classes come first. */
#include "server/registry.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void expect_softmax(float *values, size_t n, const double *expected)
{
    registry_softmax(values, n);
    for (size_t i = 0; i < n; i++)
        cr_expect(fabs((double)values[i] - expected[i]) < 1e-7, "[%zu] is %.9g, not %.9g", i,
                  (double)values[i], expected[i]);
}

Test(softmax, known_values)
{
    /* exp(1), exp(2), exp(3) over their sum, worked out by hand. */
    float v[] = {1, 2, 3};
    expect_softmax(v, 3, (const double[]){0.0900305732, 0.2447284711, 0.6652409558});
}

Test(softmax, one_class_is_certain)
{
    float v[] = {-1234.5f};
    expect_softmax(v, 1, (const double[]){1});
}

Test(softmax, no_class_is_harmless)
{
    registry_softmax(NULL, 0);
}

Test(softmax, extremes_neither_overflow_nor_vanish)
{
    float large[] = {3e38f, 3e38f, -3e38f};
    expect_softmax(large, 3, (const double[]){0.5, 0.5, 0});
    float small[] = {-1000, -1001};
    expect_softmax(small, 2, (const double[]){0.7310585786, 0.2689414214});
    float far_apart[] = {0, 200};
    expect_softmax(far_apart, 2, (const double[]){0, 1});
}

Test(softmax, sums_to_one_over_many_classes)
{
    enum { N = 21841 };
    float *v = calloc(N, sizeof *v);
    double sum = 0;
    for (int i = 0; i < N; i++)
        v[i] = (float)(i % 97) / 13;
    registry_softmax(v, N);
    for (int i = 0; i < N; i++)
        sum += (double)v[i];
    cr_expect(fabs(sum - 1) < 1e-4, "the sum is %.9g", sum);
    free(v);
}

static void expect_top(const float *values, size_t n, size_t k, const uint32_t *expected)
{
    uint32_t best[16];
    memset(best, 0xff, sizeof best);
    registry_top(values, n, k, best);
    for (size_t i = 0; i < k; i++)
        cr_expect_eq(best[i], expected[i], "place %zu of %zu is %u, not %u", i, k, best[i],
                     expected[i]);
    cr_expect_eq(best[k], UINT32_MAX, "more than %zu places were written", k);
}

Test(top, largest_first)
{
    const float v[] = {0.1f, 0.7f, 0.05f, 0.15f};
    const uint32_t order[] = {1, 3, 0, 2};
    for (size_t k = 0; k <= 4; k++)
        expect_top(v, 4, k, order);
}

Test(top, ties_go_to_the_lower_index)
{
    const float v[] = {1, 2, 1, 2, 1, 2};
    const uint32_t order[] = {1, 3, 5, 0, 2, 4};
    for (size_t k = 0; k <= 6; k++)
        expect_top(v, 6, k, order);
}

static const float *sorted_by;
static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (sorted_by[x] != sorted_by[y])
        return sorted_by[x] > sorted_by[y] ? -1 : 1;
    return (x > y) - (x < y);
}

Test(top, agrees_with_sorting_for_every_k)
{
    enum { N = 300 };
    float v[N];
    uint32_t order[N], best[N];
    unsigned state = 7;
    for (int i = 0; i < N; i++) {
        state = state * 1103515245u + 12345u;
        v[i] = (float)(state >> 16 & 63) - 20; /* few values, many ties */
        order[i] = (uint32_t)i;
    }
    sorted_by = v;
    qsort(order, N, sizeof *order, by_value);
    for (size_t k = 0; k <= N; k++) {
        registry_top(v, N, k, best);
        cr_assert(memcmp(best, order, k * sizeof *best) == 0, "k = %zu", k);
    }
}

Test(label, falls_back_to_the_index)
{
    char buf[24], cat[] = "cat", dog[] = "dog", *names[] = {cat, dog};
    struct registry_model m = {.labels = names, .classes = 2};
    cr_expect_str_eq(registry_label(&m, 1, buf), "dog");
    m.labels = NULL;
    cr_expect_str_eq(registry_label(&m, 1, buf), "1");
}
