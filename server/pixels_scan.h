/* The scanner of JSON pixel arrays, straight from bytes to floats; private to pixels*.c. */
#ifndef CONVD_SERVER_PIXELS_SCAN_H
#define CONVD_SERVER_PIXELS_SCAN_H

#include "server/pixels.h"

/* Where the scanner stands. */
struct pixels_cursor {
    const char *begin, *at, *end;
};

enum { PIXELS_MAX_RANK = 4 };

/* A nested array of numbers: extents, outermost first, and the numbers in order. */
struct pixels_numbers {
    unsigned rank;
    size_t extent[PIXELS_MAX_RANK];
    float *values; /* malloc'ed */
    size_t count;
};

/* Reads the array that begins at the cursor's '[' and leaves the cursor behind its ']'. More than
 * max_count numbers are PIXELS_SHAPE. On failure nothing is left to free. */
enum pixels_verdict pixels_scan_array(struct pixels_cursor *c, size_t max_count,
                                      struct pixels_numbers *out, struct pixels_reason *why);

/* Skips JSON's white space; returns the byte there, or -1 at the end. */
int pixels_skip_space(struct pixels_cursor *c);

/* Fills *why in printf style and returns the verdict. */
enum pixels_verdict pixels_refuse(struct pixels_reason *why, enum pixels_verdict verdict,
                                  const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
