/* Strided copies: rows along the innermost dimension, an odometer over the others. */
#include "engine/ops/move.h"

#include "engine/ops/op_util.h"

#include <assert.h>
#include <string.h>

/* Elements `step` apart in the input, side by side in the output; constant sizes become single
 * moves. */
#define STRIDED(size)                                                                 \
    for (size_t i = 0; i < n; i++)                                                    \
        memcpy(out + i * (size), in + (ptrdiff_t)i * step * (ptrdiff_t)(size), size); \
    break

static void copy_row(char *out, const char *in, ptrdiff_t step, size_t bytes, size_t n)
{
    if (step == 1) {
        memcpy(out, in, n * bytes);
        return;
    }
    switch (bytes) {
    case 1:
        STRIDED(1);
    case 2:
        STRIDED(2);
    case 4:
        STRIDED(4);
    default:
        STRIDED(8);
    }
}

void move_fill(void *out, const void *element, size_t bytes, size_t n)
{
    copy_row(out, element, 0, bytes, n);
}

void move_add(struct move *m, size_t extent, ptrdiff_t stride)
{
    assert(m->rank < MOVE_MAX_RANK);
    m->extent[m->rank] = extent;
    m->stride[m->rank] = stride;
    m->rank++;
}

/* Rows begin … end - 1 of the output. */
static void move_rows(void *ctx, size_t begin, size_t end)
{
    const struct move *m = ctx;
    const unsigned last = m->rank - 1;
    const size_t n = m->extent[last], row_bytes = n * m->bytes;
    size_t index[MOVE_MAX_RANK];
    ptrdiff_t at = 0; /* in elements of the input */
    size_t rest = begin;
    for (unsigned d = last; d-- > 0;) {
        index[d] = rest % m->extent[d];
        rest /= m->extent[d];
        at += (ptrdiff_t)index[d] * m->stride[d];
    }
    for (size_t row = begin; row < end; row++) {
        copy_row((char *)m->out + row * row_bytes, (const char *)m->in + at * (ptrdiff_t)m->bytes,
                 m->stride[last], m->bytes, n);
        for (unsigned d = last; d-- > 0;) {
            at += m->stride[d];
            if (++index[d] < m->extent[d])
                break;
            at -= (ptrdiff_t)index[d] * m->stride[d];
            index[d] = 0;
        }
    }
}

/* The same move with as few dimensions as will do, at least one: those of extent 1 are dropped, and
 * two that can be walked as one are merged. */
static size_t simplified(const struct move *m, struct move *out)
{
    size_t elements = 1;
    *out = (struct move){.bytes = m->bytes, .in = m->in, .out = m->out};
    for (unsigned d = 0; d < m->rank; d++) {
        elements *= m->extent[d];
        if (m->extent[d] == 1)
            continue;
        const unsigned before = out->rank - 1;
        if (out->rank > 0 && out->stride[before] == m->stride[d] * (ptrdiff_t)m->extent[d]) {
            out->extent[before] *= m->extent[d];
            out->stride[before] = m->stride[d];
        } else {
            move_add(out, m->extent[d], m->stride[d]);
        }
    }
    if (out->rank == 0)
        move_add(out, 1, 1);
    return elements;
}

void move_run(const struct move *m, struct tpool *pool)
{
    struct move simple;
    const size_t elements = simplified(m, &simple);
    if (elements == 0)
        return;
    const size_t n = simple.extent[simple.rank - 1], piece = OP_RANGE_CHEAP / n;
    op_for_range(pool, elements / n, piece ? piece : 1, move_rows, &simple);
}
