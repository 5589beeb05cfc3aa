/* Antialiased bilinear resizing of 8-bit images. */
#ifndef CONVD_SERVER_RESIZE_H
#define CONVD_SERVER_RESIZE_H

#include "server/image.h"

/* The part of the resized image that is wanted. */
struct resize_window {
    unsigned x, y, width, height;
};

/*
 * Resizes `image` to width x height and writes the window of the result, [height][width][channels]
 * of the window, to `out`. The filter is a triangle over the support scaled by the reduction, rows
 * and columns one after the other with 8-bit values in between, as Pillow's BILINEAR does. False
 * when there is no memory.
 */
bool resize_bilinear(const struct image *image, unsigned width, unsigned height,
                     const struct resize_window *window, uint8_t *out);

#endif
