/* Request bodies for /classify and what their answers must look like. */
#ifndef CONVD_TESTS_SUPPORT_REQUESTS_H
#define CONVD_TESTS_SUPPORT_REQUESTS_H

#include "tests/support/client.h"
#include "tests/support/data.h"

#include <stdint.h>

/* The body being put together; starts as all zeros. */
struct body {
    char *bytes;
    size_t len, room;
};
void body_add(struct body *b, const void *bytes, size_t len);
void body_printf(struct body *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A JSON array of 8-bit pixels with these extents, nested as deep as there are extents. */
void body_pixels(struct body *b, const uint8_t *pixels, const unsigned *extents, unsigned rank);

void body_base64(struct body *b, const void *bytes, size_t len);

/* One part of multipart/form-data with the boundary "cut"; body_end_parts() closes it. */
#define BODY_MULTIPART "multipart/form-data; boundary=cut"
void body_part(struct body *b, const char *name, const char *file_name, const void *bytes,
               size_t len);
void body_end_parts(struct body *b);

/* A PNG file of 8-bit samples (grey 1, grey and alpha 2, RGB 3, RGBA 4), rows unfiltered. */
struct data make_png(const uint8_t *samples, unsigned width, unsigned height, unsigned channels);

/* A PNG file put together from its parts: raw scan lines with their filter bytes. */
struct png_parts {
    unsigned width, height, depth, color, interlace;
    const void *palette; /* PLTE, or NULL */
    size_t palette_len;
    const void *scan_lines;
    size_t scan_lines_len;
};
struct data make_png_from(const struct png_parts *parts);

/* 28x28 pixels of digit-N.raw. */
const uint8_t *digit_pixels(int digit);

/* Checks a whole answer of /classify for one image: status 200, every field, the classes in order
 * and their number, and the label. Returns the document. */
json_t *expect_digit(const struct response *r, int digit, unsigned classes, const char *what);

/* The same for the entry of one of several images. */
void expect_result(json_t *result, int digit, unsigned classes, const char *what);

#endif
