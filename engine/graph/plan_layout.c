/*
 * Where in a session's arena each buffer lies.
 *
 * Greedy by size: the largest buffer first, each into the smallest gap between those already placed
 * that are alive at the same time. Which are is found beforehand, by a sweep over the steps.
 */
#include "engine/graph/plan.h"

#include <stdlib.h>
#include <string.h>

/* Pairs of buffers alive together that are worth looking at. Networks have a few for each buffer; a
 * graph that exceeds this was made to, and its buffers share nothing. */
#define LAYOUT_MAX_PAIRS ((size_t)1 << 22)

struct item {
    size_t bytes, offset;
    uint32_t
        number; /* of the buffer; also breaks ties, so that a layout depends on the plan alone */
    uint32_t first, last;
    uint32_t near, near_end; /* its neighbours: those alive at the same time */
    bool placed;
};

struct layout {
    uint32_t count;
    struct item *items;   /* by number */
    struct item **order;  /* in whatever order the stage at hand needs */
    struct item **active; /* a stage's own list */
    struct item **near;   /* everybody's neighbours, one after the other */
    size_t pairs;
};

static const struct item *item_at(const void *entry)
{
    return *(const struct item *const *)entry;
}

static int compare(size_t a, size_t b, const struct item *x, const struct item *y)
{
    if (a != b)
        return a < b ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static int by_first(const void *a, const void *b)
{
    const struct item *x = item_at(a), *y = item_at(b);
    return compare(x->first, y->first, x, y);
}

static int by_size(const void *a, const void *b)
{
    const struct item *x = item_at(a), *y = item_at(b);
    return compare(y->bytes, x->bytes, x, y);
}

static int by_offset(const void *a, const void *b)
{
    const struct item *x = item_at(a), *y = item_at(b);
    return compare(x->offset, y->offset, x, y);
}

/* Visits every pair of buffers alive together, which `order` has by their first step. Without
 * `fill` counts them, for each buffer and in all, and stops early when there are too many. */
static void sweep(struct layout *l, bool fill)
{
    size_t active = 0;
    for (uint32_t i = 0; i < l->count && l->pairs <= LAYOUT_MAX_PAIRS; i++) {
        struct item *item = l->order[i];
        size_t still = 0;
        for (size_t a = 0; a < active; a++) {
            struct item *other = l->active[a];
            if (other->last < item->first)
                continue;
            l->active[still++] = other;
            if (fill) {
                l->near[item->near_end] = other;
                l->near[other->near_end] = item;
            } else {
                l->pairs++;
            }
            item->near_end++;
            other->near_end++;
        }
        l->active[still] = item;
        active = still + 1;
    }
}

/* Lists everybody's neighbours; false when there is no memory. */
static bool find_neighbours(struct layout *l)
{
    for (uint32_t i = 0; i < l->count; i++)
        l->order[i] = &l->items[i];
    qsort(l->order, l->count, sizeof(struct item *), by_first);
    sweep(l, false);
    if (l->pairs > LAYOUT_MAX_PAIRS)
        return true;
    uint32_t next = 0;
    for (uint32_t i = 0; i < l->count; i++) {
        uint32_t neighbours = l->items[i].near_end;
        l->items[i].near = l->items[i].near_end = next;
        next += neighbours;
    }
    l->near = mem_alloc(next * sizeof(struct item *));
    if (l->near == NULL)
        return false;
    sweep(l, true);
    return true;
}

/* The start of the smallest gap that fits, or of the room above all neighbours. */
static size_t best_offset(struct layout *l, const struct item *item)
{
    size_t count = 0;
    for (uint32_t i = item->near; i < item->near_end; i++) {
        if (l->near[i]->placed)
            l->active[count++] = l->near[i];
    }
    qsort(l->active, count, sizeof(struct item *), by_offset);
    size_t top = 0, best = 0, best_gap = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        const struct item *other = l->active[i];
        if (other->offset > top) {
            size_t gap = other->offset - top;
            if (gap >= item->bytes && gap < best_gap) {
                best = top;
                best_gap = gap;
            }
        }
        if (other->offset + other->bytes > top)
            top = other->offset + other->bytes;
    }
    return best_gap != SIZE_MAX ? best : top;
}

/* Sets all offsets; false when the total overflows. */
static bool place(struct layout *l, size_t *total)
{
    bool share = l->pairs <= LAYOUT_MAX_PAIRS;
    qsort(l->order, l->count, sizeof(struct item *), by_size);
    *total = 0;
    for (uint32_t i = 0; i < l->count; i++) {
        struct item *item = l->order[i];
        size_t end;
        item->offset = share ? best_offset(l, item) : *total;
        item->placed = true;
        if (!mem_add(item->offset, item->bytes, &end))
            return false;
        if (end > *total)
            *total = end;
    }
    return *total <= PTRDIFF_MAX;
}

static bool buffer_bytes(const struct plan_buffer *buffer, int64_t batch, size_t *bytes)
{
    return mem_mul(buffer->bytes_more, (size_t)(batch - 1), bytes) &&
           mem_add(*bytes, buffer->bytes1, bytes) && mem_round_up(*bytes, bytes);
}

bool plan_is_wide(const struct plan_buffer *buffer, const struct plan_batch *batch)
{
    return buffer->last >= batch->split;
}

/* A wide buffer is filled part by part: it has to stay while the steps before it run again. */
static uint32_t first_use(const struct plan_buffer *buffer, const struct plan_batch *batch)
{
    return plan_is_wide(buffer, batch) && buffer->first < batch->split ? 0 : buffer->first;
}

enum cvd_status plan_layout(const struct plan *plan, const struct plan_batch *batch,
                            size_t *offsets, size_t *total, struct cvd_error *err)
{
    uint32_t count = plan->buffer_count;
    struct layout l = {.count = count,
                       .items = mem_alloc(count * sizeof(struct item)),
                       .order = mem_alloc(count * sizeof(struct item *)),
                       .active = mem_alloc(count * sizeof(struct item *))};
    bool done = l.items != NULL && l.order != NULL && l.active != NULL;
    for (uint32_t i = 0; i < count && done; i++) {
        const struct plan_buffer *buffer = &plan->buffers[i];
        l.items[i] =
            (struct item){.number = i, .first = first_use(buffer, batch), .last = buffer->last};
        done = buffer_bytes(buffer, plan_is_wide(buffer, batch) ? batch->images : batch->part,
                            &l.items[i].bytes);
    }
    done = done && find_neighbours(&l) && place(&l, total);
    for (uint32_t i = 0; i < count && done; i++)
        offsets[i] = l.items[i].offset;
    mem_free(l.near);
    mem_free(l.active);
    mem_free(l.order);
    mem_free(l.items);
    if (done)
        return CVD_STATUS_OK;
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY,
                         "no memory for the intermediate results of %lld images",
                         (long long)batch->images);
}
