/*
 * Image files -> pixels: recognise, check, decode, resize, normalise.
 *
 * An upload is never given to the decoder before gate_image() (gate.h) has walked its structure:
 * the decoder's own checks are known to be incomplete. Decoding runs within a byte budget derived
 * from the header.
 */
#ifndef CONVD_SERVER_IMAGE_H
#define CONVD_SERVER_IMAGE_H

#include "server/gate.h"

#include <convd/status.h>

#include <stdbool.h>

/* Interleaved 8-bit pixels [height][width][channels], 1 (grey) or 3 (RGB) channels. */
struct image {
    unsigned width, height, channels;
    uint8_t *pixels; /* pool.h's */
};

/* Decodes what gate_image() accepted, to 1 or 3 channels (grey: the ITU-R 601 luma that Pillow's
 * "L" uses). The alpha channel is dropped. GATE_OK, or GATE_CORRUPT / GATE_NO_MEMORY. */
enum gate_verdict image_decode(const void *bytes, size_t len, const struct gate_info *info,
                               unsigned channels, struct image *out, struct gate_reason *why);
void image_free(struct image *image);

/* Interleaved RGB -> that luma, one byte a pixel; `gray` may be the same memory as `rgb`. */
void image_luma(const uint8_t *rgb, size_t count, uint8_t *gray);

enum image_color { IMAGE_RGB, IMAGE_BGR, IMAGE_GRAY };
enum image_resize { IMAGE_SHORTEST_SIDE, IMAGE_STRETCH, IMAGE_NO_RESIZE };
enum image_invert { IMAGE_INVERT_NEVER, IMAGE_INVERT_AUTO };

/* How pixels become a model's input (DESIGN.md section 5). */
struct preprocess {
    unsigned channels, height, width; /* of the model's input, [channels][height][width] */
    enum image_color color;
    enum image_resize resize;
    unsigned resize_to; /* length of the shortest side before the centre crop */
    float scale;
    float mean[3], stddev[3];
    enum image_invert invert; /* AUTO: an image whose border is nearer to its lightest pixel than to
                                 its darkest is turned into its negative (ink on paper) */
};

/* The defaults for a model with this input: grey 1/255, resize_to = its shorter side; RGB also
 * ImageNet's mean and std, resize_to = that * 256 / 224. */
void preprocess_default(struct preprocess *p, unsigned channels, unsigned height, unsigned width);

/* Overrides *p from JSON text such as a config.json "input" object. Unknown keys and values out of
 * range are errors that name `where` and the key. */
enum cvd_status preprocess_parse(struct preprocess *p, const char *json, size_t len,
                                 const char *where, struct cvd_error *err);

/*
 * Writes the model's input for one image: convert to `color`, resize (antialiased triangle filter
 * over the scaled support, as Pillow's BILINEAR does), centre-crop, invert, (x * scale - mean) /
 * std, planar. `out` holds channels * height * width floats. An image of exactly the model's size
 * is neither resized nor cropped. False when there is no memory or, with IMAGE_NO_RESIZE, when the
 * size is wrong.
 */
bool preprocess_run(const struct preprocess *p, const struct image *image, float *out);

/* The same for pixels given as numbers 0 … 255, interleaved [height][width][channels]. Whole
 * numbers give exactly what an image of these pixels gives; fractions are kept where no pixel is
 * mixed with another (a picture of the model's size and channels) and rounded to whole numbers
 * elsewhere. */
bool preprocess_values(const struct preprocess *p, const float *values, unsigned height,
                       unsigned width, unsigned channels, float *out);

#endif
