/* From a model's output to an answer: softmax, the best classes, their labels. Pure functions. */
#include "server/registry.h"

#include <math.h>
#include <stdio.h>

void registry_softmax(float *values, size_t classes)
{
    if (classes == 0)
        return;
    /* Subtracting the largest makes every exponent at most 0: nothing overflows, and the sum is at
     * least 1. */
    double largest = (double)values[0], sum = 0;
    for (size_t i = 1; i < classes; i++)
        if ((double)values[i] > largest)
            largest = (double)values[i];
    for (size_t i = 0; i < classes; i++)
        sum += exp((double)values[i] - largest);
    for (size_t i = 0; i < classes; i++)
        values[i] = (float)(exp((double)values[i] - largest) / sum);
}

/* Whether class a stands before class b in the answer. */
static bool before(const float *values, uint32_t a, uint32_t b)
{
    return values[a] > values[b] || (values[a] == values[b] && a < b);
}

/* Moves the entry at `i` down until both below it stand before it. */
static void sift(const float *values, uint32_t *heap, size_t len, size_t i)
{
    for (;;) {
        size_t last = i, left = 2 * i + 1, right = left + 1;
        if (left < len && before(values, heap[last], heap[left]))
            last = left;
        if (right < len && before(values, heap[last], heap[right]))
            last = right;
        if (last == i)
            return;
        uint32_t moved = heap[i];
        heap[i] = heap[last];
        heap[last] = moved;
        i = last;
    }
}

/* A heap of the k best so far with the worst of them on top; then a heap sort. O(n log k) also when
 * all of many thousand classes are wanted. */
void registry_top(const float *values, size_t classes, size_t k, uint32_t *indices)
{
    if (k == 0)
        return;
    for (size_t i = 0; i < k; i++)
        indices[i] = (uint32_t)i;
    for (size_t i = k / 2; i-- > 0;)
        sift(values, indices, k, i);
    for (size_t i = k; i < classes; i++) {
        if (before(values, (uint32_t)i, indices[0])) {
            indices[0] = (uint32_t)i;
            sift(values, indices, k, 0);
        }
    }
    for (size_t len = k; len-- > 1;) {
        uint32_t worst = indices[0];
        indices[0] = indices[len];
        indices[len] = worst;
        sift(values, indices, len, 0);
    }
}

const char *registry_label(const struct registry_model *m, size_t index, char buf[24])
{
    if (m->labels)
        return m->labels[index];
    snprintf(buf, 24, "%zu", index);
    return buf;
}
