/*
 * Separable antialiased resizing: a triangle filter whose support grows with the reduction, so
 * that every source pixel counts.
 *
 * Weights are integers of WEIGHT_BITS bits: a sum of 8-bit pixels under weights that add up to one
 * fits an int32 with room for a weight's rounding. The intermediate rows are rounded to 8 bits.
 * Both choices are Pillow's, which models are mostly trained with; only the window that is asked
 * for, and the source rows that it depends on, are computed.
 */
#include "server/resize.h"

#include "server/pool.h"

#include <math.h>
#include <string.h>

enum { WEIGHT_BITS = 22, WEIGHT_HALF = 1 << (WEIGHT_BITS - 1) };

/* What each position of the window takes from the source along one axis. */
struct axis {
    unsigned taps; /* room per position */
    struct span {
        unsigned begin, count;
    } * spans;
    int32_t *weights; /* [position][taps] */
};

static void axis_free(struct axis *a)
{
    pool_free(a->spans);
    pool_free(a->weights);
}

/* Weights of one position, a triangle around `center`; they are scaled to add up to one. */
static struct span place(double center, double scale, unsigned source, double *weights,
                         int32_t *fixed)
{
    double from = center - scale + 0.5, to = center + scale + 0.5;
    unsigned begin = from < 0 ? 0 : (unsigned)from;
    unsigned end = to > source ? source : (unsigned)to;
    double sum = 0;
    for (unsigned i = begin; i < end; i++) {
        double distance = fabs((i - center + 0.5) / scale);
        weights[i - begin] = distance < 1 ? 1 - distance : 0;
        sum += weights[i - begin];
    }
    for (unsigned i = begin; i < end; i++) {
        fixed[i - begin] = (int32_t)lround(weights[i - begin] / sum * (1 << WEIGHT_BITS));
    }
    return (struct span){begin, end - begin};
}

static bool axis_init(struct axis *a, unsigned source, unsigned resized, unsigned offset,
                      unsigned count)
{
    double ratio = (double)source / resized;
    double scale = ratio < 1 ? 1 : ratio; /* half the width of the triangle */
    a->taps = 2 * (unsigned)ceil(scale) + 1;
    a->spans = pool_alloc_zeroed(count * sizeof *a->spans);
    a->weights = pool_alloc_zeroed((size_t)count * a->taps * sizeof *a->weights);
    double *weights = pool_alloc_zeroed(a->taps * sizeof *weights);
    bool ok = a->spans && a->weights && weights;
    for (unsigned i = 0; ok && i < count; i++) {
        a->spans[i] = place((offset + i + 0.5) * ratio, scale, source, weights,
                            a->weights + (size_t)i * a->taps);
    }
    pool_free(weights);
    return ok;
}

static uint8_t to_byte(int32_t sum)
{
    int32_t value = sum >> WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* One row, source pixels to window columns. */
static void resize_row(const struct axis *a, unsigned columns, unsigned channels, const uint8_t *in,
                       uint8_t *out)
{
    for (unsigned x = 0; x < columns; x++) {
        const int32_t *weight = a->weights + (size_t)x * a->taps;
        const uint8_t *p = in + (size_t)a->spans[x].begin * channels;
        unsigned count = a->spans[x].count;
        if (channels == 1) {
            int32_t sum = WEIGHT_HALF;
            for (unsigned i = 0; i < count; i++) {
                sum += p[i] * weight[i];
            }
            *out++ = to_byte(sum);
            continue;
        }
        int32_t red = WEIGHT_HALF, green = WEIGHT_HALF, blue = WEIGHT_HALF;
        for (unsigned i = 0; i < count; i++, p += 3) {
            red += p[0] * weight[i];
            green += p[1] * weight[i];
            blue += p[2] * weight[i];
        }
        *out++ = to_byte(red);
        *out++ = to_byte(green);
        *out++ = to_byte(blue);
    }
}

/* One row of the window from `count` rows of it that are only as wide as they should be. */
static void blend_rows(const uint8_t *rows, size_t row_bytes, const int32_t *weight, unsigned count,
                       int32_t *sums, uint8_t *out)
{
    for (size_t x = 0; x < row_bytes; x++) {
        sums[x] = WEIGHT_HALF;
    }
    for (unsigned i = 0; i < count; i++, rows += row_bytes) {
        for (size_t x = 0; x < row_bytes; x++) {
            sums[x] += rows[x] * weight[i];
        }
    }
    for (size_t x = 0; x < row_bytes; x++) {
        out[x] = to_byte(sums[x]);
    }
}

bool resize_bilinear(const struct image *image, unsigned width, unsigned height,
                     const struct resize_window *window, uint8_t *out)
{
    size_t row_bytes = (size_t)window->width * image->channels;
    size_t source_row = (size_t)image->width * image->channels;
    struct axis across = {0}, down = {0};
    uint8_t *rows = NULL;
    int32_t *sums = pool_alloc(row_bytes * sizeof *sums);
    bool ok = sums && axis_init(&across, image->width, width, window->x, window->width) &&
              axis_init(&down, image->height, height, window->y, window->height);
    if (ok) {
        const struct span *last = &down.spans[window->height - 1];
        unsigned first_row = down.spans[0].begin, end_row = last->begin + last->count;
        rows = pool_alloc(row_bytes * (end_row - first_row));
        ok = rows != NULL;
        for (unsigned y = first_row; ok && y < end_row; y++) {
            const uint8_t *in = image->pixels + y * source_row;
            uint8_t *row = rows + (y - first_row) * row_bytes;
            if (width == image->width) {
                memcpy(row, in + (size_t)window->x * image->channels, row_bytes);
            } else {
                resize_row(&across, window->width, image->channels, in, row);
            }
        }
        for (unsigned y = 0; ok && y < window->height; y++) {
            const struct span *span = &down.spans[y];
            blend_rows(rows + (span->begin - first_row) * row_bytes, row_bytes,
                       down.weights + (size_t)y * down.taps, span->count, sums,
                       out + y * row_bytes);
        }
    }
    axis_free(&across);
    axis_free(&down);
    pool_free(rows);
    pool_free(sums);
    return ok;
}
