/* Resizing: Pillow's values, a naive filter in doubles, windows, and the edges of sizes. */
#include "server/resize.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct image make(unsigned w, unsigned h, unsigned channels, uint8_t *pixels)
{
    return (struct image){.width = w, .height = h, .channels = channels, .pixels = pixels};
}

static uint8_t *resized(const struct image *image, unsigned w, unsigned h,
                        struct resize_window window)
{
    uint8_t *out = malloc((size_t)window.width * window.height * image->channels);
    cr_assert(resize_bilinear(image, w, h, &window, out));
    return out;
}

static void expect(const struct image *image, unsigned w, unsigned h, const uint8_t *expected)
{
    uint8_t *out = resized(image, w, h, (struct resize_window){0, 0, w, h});
    for (size_t i = 0; i < (size_t)w * h * image->channels; i++)
        cr_expect(out[i] == expected[i], "%ux%u, byte %zu: %u, not %u", w, h, i, out[i],
                  expected[i]);
    free(out);
}

/* What Image.resize(size, BILINEAR) of Pillow 9.4 gives. */
Test(resize, gives_what_pillow_gives)
{
    static const uint8_t reduced[] = {47, 112, 167, 149, 146, 155, 127, 134, 176, 135, 126, 122};
    static const uint8_t enlarged[] = {
        0,   20,  46,  72,  98,  124, 150, 176, 202, 222, 20,  42,  70,  99,  127, 156, 180, 149,
        156, 178, 52,  78,  111, 144, 176, 209, 231, 104, 80,  106, 85,  114, 151, 189, 151, 149,
        179, 116, 118, 147, 118, 150, 192, 233, 108, 60,  101, 142, 184, 216, 151, 186, 197, 142,
        107, 113, 152, 98,  108, 143, 184, 207, 188, 78,  117, 156, 176, 67,  60,  99,  216, 165,
        121, 115, 166, 160, 99,  93,  126, 168, 236, 140, 81,  138, 195, 162, 52,  109, 165, 210};
    static const uint8_t mixed[] = {32,  111, 190, 62,  145, 153, 104, 183, 109, 147, 137, 146,
                                    173, 119, 138, 181, 130, 85,  159, 141, 114, 141, 148, 141};
    static const uint8_t colors[] = {47,  144, 145, 98,  171, 90,  147, 146, 92,  128, 78,  143,
                                     147, 131, 90,  156, 122, 136, 117, 124, 151, 106, 168, 123,
                                     147, 113, 145, 116, 160, 100, 146, 139, 125, 115, 123, 123,
                                     111, 176, 85,  165, 129, 138, 121, 141, 120, 147, 116, 104};
    uint8_t gray[7 * 5], rgb[9 * 6 * 3];
    for (unsigned y = 0; y < 5; y++)
        for (unsigned x = 0; x < 7; x++)
            gray[y * 7 + x] = (uint8_t)(x * 37 + y * 59 + x * y * 11);
    for (unsigned y = 0; y < 6; y++)
        for (unsigned x = 0; x < 9; x++)
            for (unsigned c = 0; c < 3; c++)
                rgb[(y * 9 + x) * 3 + c] = (uint8_t)(x * 23 + y * 71 + c * 97 + x * y * 5);
    struct image image = make(7, 5, 1, gray), color = make(9, 6, 3, rgb);
    expect(&image, 4, 3, reduced);
    expect(&image, 10, 9, enlarged);
    expect(&image, 3, 8, mixed);
    expect(&image, 1, 1, (const uint8_t[]){136});
    expect(&image, 7, 5, gray);
    expect(&color, 4, 4, colors);
}

/* The definition: every output pixel is the mean of the source under a triangle of the reduction's
 * half width, in both directions at once, in doubles. */
static double naive(const struct image *m, unsigned w, unsigned h, unsigned x, unsigned y,
                    unsigned c)
{
    double rx = (double)m->width / w, ry = (double)m->height / h;
    double sx = fmax(rx, 1), sy = fmax(ry, 1), sum = 0, weights = 0;
    for (unsigned v = 0; v < m->height; v++) {
        for (unsigned u = 0; u < m->width; u++) {
            double dx = fabs(u + 0.5 - (x + 0.5) * rx) / sx;
            double dy = fabs(v + 0.5 - (y + 0.5) * ry) / sy;
            double weight = fmax(0, 1 - dx) * fmax(0, 1 - dy);
            sum += weight * m->pixels[(v * m->width + u) * m->channels + c];
            weights += weight;
        }
    }
    return sum / weights;
}

Test(resize, is_the_antialiased_triangle_filter)
{
    static const unsigned sizes[][4] = {{31, 17, 8, 8},   {8, 8, 31, 17},  {40, 3, 5, 9},
                                        {64, 64, 28, 28}, {1, 1, 5, 4},    {5, 1, 1, 3},
                                        {2, 50, 2, 1},    {17, 23, 16, 22}};
    uint32_t random = 5;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (unsigned channels = 1; channels <= 3; channels += 2) {
            unsigned w = sizes[s][2], h = sizes[s][3];
            struct image m = make(sizes[s][0], sizes[s][1], channels,
                                  malloc((size_t)sizes[s][0] * sizes[s][1] * channels));
            for (size_t i = 0; i < (size_t)m.width * m.height * channels; i++) {
                random = random * 1664525 + 1013904223;
                m.pixels[i] = (uint8_t)(random >> 24);
            }
            uint8_t *out = resized(&m, w, h, (struct resize_window){0, 0, w, h});
            for (unsigned i = 0; i < w * h * channels; i++) {
                double exact = naive(&m, w, h, i / channels % w, i / channels / w, i % channels);
                cr_expect(fabs(out[i] - exact) <= 1.01, "%ux%u to %ux%u, byte %u: %u, not %g",
                          m.width, m.height, w, h, i, out[i], exact);
            }
            free(out);
            free(m.pixels);
        }
    }
}

Test(resize, keeps_flat_pictures_flat)
{
    static const uint8_t levels[] = {0, 1, 127, 128, 254, 255};
    uint8_t pixels[100 * 37];
    struct image m = make(100, 37, 1, pixels);
    for (size_t l = 0; l < sizeof levels; l++) {
        memset(pixels, levels[l], sizeof pixels);
        uint8_t *out = resized(&m, 13, 51, (struct resize_window){0, 0, 13, 51});
        for (int i = 0; i < 13 * 51; i++)
            cr_expect_eq(out[i], levels[l]);
        free(out);
    }
}

Test(resize, window_is_a_part_of_the_whole)
{
    uint8_t pixels[50 * 40 * 3];
    for (size_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)(i * i >> 3);
    struct image m = make(50, 40, 3, pixels);
    uint8_t *whole = resized(&m, 33, 61, (struct resize_window){0, 0, 33, 61});
    uint8_t *part = resized(&m, 33, 61, (struct resize_window){7, 20, 11, 5});
    for (unsigned y = 0; y < 5; y++)
        cr_expect_arr_eq(part + y * 33, whole + ((20 + y) * 33 + 7) * 3, 33);
    free(whole);
    free(part);
}

/* A strip of 16384 pixels to a square would be a row of a quarter of a milliard pixels; only what
 * is asked for is computed. */
Test(resize, extreme_shapes)
{
    uint8_t *pixels = calloc(16384, 1);
    pixels[8191] = pixels[8192] = 255;
    struct image m = make(16384, 1, 1, pixels);
    uint8_t *out =
        resized(&m, 16384 * 256, 256, (struct resize_window){8192 * 256 - 2, 16, 4, 224});
    for (int i = 0; i < 4 * 224; i++)
        cr_expect_eq(out[i], 255);
    free(out);
    free(pixels);
}
