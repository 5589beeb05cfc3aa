/*
 * stb_image behind a wall: only its JPEG, PNG and BMP decoders, within a byte budget, with every
 * failed check of its own an ordinary error. For files that gate_image() accepted; private to
 * image.c.
 */
#ifndef CONVD_SERVER_STB_H
#define CONVD_SERVER_STB_H

#include <stddef.h>
#include <stdint.h>

enum stb_result {
    STB_OK,
    STB_CORRUPT,  /* damaged data, or one that needs more memory than its header promised */
    STB_NO_MEMORY /* there was none within the budget */
};

struct stb_limits {
    size_t bytes;          /* most that may be allocated at a time */
    size_t inflated_bytes; /* PNG: exact size of the inflated data */
};

/* Decodes to `channels` (1 or 3) interleaved 8-bit channels; *pixels is pool.h's. */
enum stb_result stb_decode(const uint8_t *bytes, size_t len, const struct stb_limits *limits,
                           int channels, unsigned *width, unsigned *height, uint8_t **pixels);

#endif
