/* Random distortions of training images (see augment.h). */
#include "engine/train/augment.h"

#include "engine/runtime/mem.h"

#include <math.h>
#include <string.h>

/*
 * Limits of the distortions, each drawn uniformly. Lengths are parts of the image's side, so that
 * they mean the same for any size. Chosen on MNIST by the validation accuracy of plain digits and
 * of digits drawn differently (thicker, thinner, smaller, larger, off centre).
 */
static const float limit_angle = 0.18f;      /* radians */
static const float limit_log_scale = 0.16f;  /* of both sides together … */
static const float limit_log_aspect = 0.09f; /* … and against each other */
static const float limit_shear = 0.18f;
static const float limit_shift = 0.08f;
static const float limit_bend = 0.068f; /* of a grid vector's components */
static const float stroke_share = 0.4f; /* images whose strokes are changed */
static const float limit_stroke = 0.7f;
static const float limit_fade = 0.25f;

#define GRID_CELLS  4
#define GRID_POINTS (GRID_CELLS + 3) /* a cubic B-spline reaches over four points */
#define SPLINE_TAPS 4

struct augment {
    unsigned height, width;
    float *row_weights;    /* [height][GRID_POINTS]: influence of each grid row on an image row */
    float *column_weights; /* [GRID_POINTS][width] */
};

/* Cubic B-spline weights of the four points around t in [0, 1]. */
static void spline(float t, float w[SPLINE_TAPS])
{
    const float u = 1 - t;
    w[0] = u * u * u / 6;
    w[1] = (3 * t * t * t - 6 * t * t + 4) / 6;
    w[2] = (3 * u * u * u - 6 * u * u + 4) / 6;
    w[3] = t * t * t / 6;
}

/* Influence of every grid point on pixel i of n; spread is the distance between points. */
static void grid_weights(unsigned i, unsigned n, float *to, size_t spread)
{
    const float at = ((float)i + 0.5f) * GRID_CELLS / (float)n;
    const unsigned cell = (unsigned)at;
    float w[SPLINE_TAPS];
    spline(at - (float)cell, w);
    for (unsigned p = 0; p < GRID_POINTS; p++)
        to[p * spread] = p >= cell && p < cell + SPLINE_TAPS ? w[p - cell] : 0;
}

enum cvd_status augment_create(unsigned height, unsigned width, struct augment **out,
                               struct cvd_error *err)
{
    struct augment *a = mem_alloc(sizeof *a);
    if (!a)
        goto fail;
    *a = (struct augment){.height = height, .width = width};
    a->row_weights = mem_alloc((size_t)height * GRID_POINTS * sizeof *a->row_weights);
    a->column_weights = mem_alloc((size_t)width * GRID_POINTS * sizeof *a->column_weights);
    if (!a->row_weights || !a->column_weights)
        goto fail;
    for (unsigned y = 0; y < height; y++)
        grid_weights(y, height, a->row_weights + (size_t)y * GRID_POINTS, 1);
    for (unsigned x = 0; x < width; x++)
        grid_weights(x, width, a->column_weights + x, width);
    *out = a;
    return CVD_STATUS_OK;
fail:
    augment_destroy(a);
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for augmentation tables");
}

void augment_destroy(struct augment *a)
{
    if (!a)
        return;
    mem_free(a->row_weights);
    mem_free(a->column_weights);
    mem_free(a);
}

size_t augment_scratch_floats(const struct augment *a)
{
    /* the source with a border of one pixel all round, and a line of both displacements */
    return (size_t)(a->height + 2) * (a->width + 2) + 2 * (size_t)a->width;
}

/* Copies the image into a frame that repeats its edge pixels. */
static void frame_source(const struct augment *a, const uint8_t *pixels, float gain, float *to)
{
    const size_t width = a->width, line = width + 2;
    for (size_t y = 0; y < a->height; y++) {
        float *row = to + (y + 1) * line;
        for (size_t x = 0; x < width; x++)
            row[x + 1] = gain * (float)pixels[y * width + x];
        row[0] = row[1];
        row[width + 1] = row[width];
    }
    memcpy(to, to + line, line * sizeof *to);
    memcpy(to + (a->height + 1) * line, to + a->height * line, line * sizeof *to);
}

static float larger(float a, float b)
{
    return a > b ? a : b;
}

/* Mixes each pixel with the largest (amount > 0: thicker strokes on a dark ground) or smallest of
 * itself and its four neighbours, in place. */
static void change_strokes(const struct augment *a, float amount, float *framed, float *line_above)
{
    const size_t width = a->width, line = width + 2;
    const float sign = amount < 0 ? -1 : 1;
    const float share = amount * sign;
    memcpy(line_above, framed + 1, width * sizeof *line_above);
    for (size_t y = 1; y <= a->height; y++) {
        float *row = framed + y * line;
        float left = row[0];
        for (size_t x = 1; x <= width; x++) {
            const float own = row[x];
            const float beside = larger(sign * left, sign * row[x + 1]);
            const float above_below = larger(sign * line_above[x - 1], sign * row[x + line]);
            const float most = larger(sign * own, larger(beside, above_below));
            line_above[x - 1] = left = own;
            row[x] = own + share * (sign * most - own);
        }
    }
}

/* One line of the displacement field: the grid under the splines. */
static void bend_line(const struct augment *a, size_t y, const float grid[GRID_POINTS][GRID_POINTS],
                      float *to)
{
    memset(to, 0, a->width * sizeof *to);
    for (size_t column = 0; column < GRID_POINTS; column++) {
        float at_row = 0;
        for (size_t row = 0; row < GRID_POINTS; row++)
            at_row += a->row_weights[y * GRID_POINTS + row] * grid[row][column];
        const float *weights = a->column_weights + column * a->width;
        for (size_t x = 0; x < a->width; x++)
            to[x] += at_row * weights[x];
    }
}

static float clamp(float value, float most)
{
    value = value > 0 ? value : 0;
    return value < most ? value : most;
}

void augment_image(const struct augment *a, const uint8_t *pixels, struct rng *r, float *scratch,
                   float *out, size_t stride)
{
    const size_t width = a->width, line = width + 2;
    float *framed = scratch, *du = framed + (a->height + 2) * line, *dv = du + width;
    const float side = (float)(a->height < a->width ? a->height : a->width);

    frame_source(a, pixels, 1 - limit_fade * rng_unit(r), framed);
    if (rng_unit(r) < stroke_share)
        change_strokes(a, rng_within(r, limit_stroke), framed, du);

    /* out(x, y) = source(m * (x, y) + t): the inverse of what happens to the picture. */
    const float angle = rng_within(r, limit_angle), shear = rng_within(r, limit_shear);
    const float scale = rng_within(r, limit_log_scale), aspect = rng_within(r, limit_log_aspect);
    const float sx = expf(scale + aspect), sy = expf(scale - aspect);
    const float cosine = cosf(angle), sine = sinf(angle);
    const float m[2][2] = {{cosine * sx, (shear * cosine - sine) * sy},
                           {sine * sx, (shear * sine + cosine) * sy}};
    const float centre_x = 0.5f * ((float)a->width - 1), centre_y = 0.5f * ((float)a->height - 1);
    /* + 1: the frame */
    const float tx = centre_x + 1 + rng_within(r, limit_shift) * side;
    const float ty = centre_y + 1 + rng_within(r, limit_shift) * side;
    float grid[2][GRID_POINTS][GRID_POINTS];
    for (size_t i = 0; i < GRID_POINTS; i++) {
        for (size_t j = 0; j < GRID_POINTS; j++) {
            grid[0][i][j] = rng_within(r, limit_bend) * side;
            grid[1][i][j] = rng_within(r, limit_bend) * side;
        }
    }

    /* Not quite the last row and column, so that the pixel to the right and below always exists. */
    const float most_u = (float)a->width + 0.999f, most_v = (float)a->height + 0.999f;
    for (size_t y = 0; y < a->height; y++) {
        const float dy = (float)y - centre_y;
        bend_line(a, y, (const float(*)[GRID_POINTS])grid[0], du);
        bend_line(a, y, (const float(*)[GRID_POINTS])grid[1], dv);
        for (size_t x = 0; x < width; x++) {
            const float dx = (float)x - centre_x;
            du[x] = clamp(m[0][0] * dx + m[0][1] * dy + tx + du[x], most_u);
            dv[x] = clamp(m[1][0] * dx + m[1][1] * dy + ty + dv[x], most_v);
        }
        for (size_t x = 0; x < width; x++) {
            const int u = (int)du[x], v = (int)dv[x];
            const float fu = du[x] - (float)u, fv = dv[x] - (float)v;
            const float *p = framed + (size_t)v * line + (size_t)u;
            const float top = p[0] + fu * (p[1] - p[0]);
            const float bottom = p[line] + fu * (p[line + 1] - p[line]);
            out[y * stride + x] = top + fv * (bottom - top);
        }
    }
}
