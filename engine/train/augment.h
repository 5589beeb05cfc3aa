/*
 * Data augmentation: a training image, moved, turned, scaled, sheared and bent a little, its
 * strokes a little thicker or thinner and paler, as another hand might have drawn it.
 *
 * The bending is a displacement field as in Simard, Steinkraus, Platt, 2003; a coarse grid of
 * random vectors under cubic B-splines takes the place of smoothed noise, which gives fields of the
 * same smoothness at a fraction of the cost.
 */
#ifndef CONVD_TRAIN_AUGMENT_H
#define CONVD_TRAIN_AUGMENT_H

#include <convd/status.h>

#include "engine/train/rng.h"

#include <stddef.h>
#include <stdint.h>

/* Tables for one image size; immutable, shared by all threads. */
struct augment;

enum cvd_status augment_create(unsigned height, unsigned width, struct augment **out,
                               struct cvd_error *err);
void augment_destroy(struct augment *a); /* NULL is allowed */

/* Floats of scratch that augment_image() needs. */
size_t augment_scratch_floats(const struct augment *a);

/* Writes a distorted copy of pixels[height][width] to out, in the same units (0 … 255), with rows
 * `stride` floats apart. All randomness comes from *r. */
void augment_image(const struct augment *a, const uint8_t *pixels, struct rng *r, float *scratch,
                   float *out, size_t stride);

#endif
