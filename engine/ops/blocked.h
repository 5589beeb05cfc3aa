/*
 * Operators on blocked maps: the domain "convd.blocked", which no file may use. The layout pass
 * turns operators of ONNX's domain and of "convd" into these where a fast kernel exists.
 *
 * A [N, C, H, W] value of float32 in a layout of `lanes` and `gap` consists of N images of
 *
 *     gap zero pixels, then for each block of `lanes` channels: H rows of W pixels and gap zero
 * pixels
 *
 * where a pixel is `lanes` floats, one for each channel of the block. So the `gap` pixels on either
 * side of a row are zero, and horizontal padding costs no code: the gap behind one row is the gap
 * before the next. The value's data is the first of these pixels. Whoever writes a value writes its
 * gaps; lanes beyond the last channel hold finite numbers that nobody relies on.
 *
 * A map may be a part of another, some neighbouring blocks of every image. Its images are then as
 * far apart as the whole's, and the gap before an image is the one behind the block before, which
 * both write.
 *
 *   Conv      X, W, B or nothing, residual or nothing: as in the domain "convd"
 *             X blocked -> Y blocked (the residual with its gap);
 *             X plain -> Y blocked (few channels in);
 *             X plain -> Y plain (few channels in and out)
 *   Gemm      A, B, C or nothing: as in "convd" with transA 0, a constant B, and C a constant row
 *             A plain, or blocked [N, C, H, W], which stands for Flatten(axis = 1); Y plain
 *   MatMul    A plain, B constant with two dimensions, bias or nothing; Y plain
 *   PlanesMaxPool  X plain -> Y plain: MaxPool with 2 x 2 windows, stride 2 and no padding
 *   Reorder   X to Y from any of these layouts to any other
 *
 * Those that keep a map a map are in blocked_maps.h.
 */
#ifndef CONVD_OPS_BLOCKED_H
#define CONVD_OPS_BLOCKED_H

#include "engine/ops/fused.h"
#include "engine/ops/op.h"

#define BLOCKED_DOMAIN  "convd.blocked"
#define BLOCKED_VERSION 1

/* A blocked value; strides in floats. */
struct blocked_map {
    size_t images, channels, height, width;
    size_t lanes, gap, blocks;
    size_t row, block, image; /* from one to the next */
    size_t first;             /* from the value's data to pixel (0, 0) of block 0 of image 0 */
};

/* False when the shape is not [N, C, H, W] or the layout is plain; sizes must fit, see below. */
bool blocked_map(const struct cvd_shape *shape, struct op_layout layout, struct blocked_map *map);

/* Floats that a value takes in its layout, plain ones included (for a part: those of the whole
 * map); false when they overflow or a blocked value is not [N, C, H, W]. */
bool blocked_elements(const struct cvd_shape *shape, struct op_layout layout, size_t *out);

/*
 * Into how many zones of rows a map is cut to share its work out, in order, over the pool's
 * threads: one for each thread, which then reads what it has written itself in the operator before.
 * 1 where there are few rows, or several images: there threads share channels.
 */
size_t blocked_zones(const struct blocked_map *map, const struct tpool *pool);

/* Writes the gaps behind rows first ... end - 1 of blocks `block` ... block + blocks - 1 of an
 * image, whose pixel (0, 0) of block 0 `image` is. */
void blocked_clear_gaps(const struct blocked_map *map, float *image, size_t block, size_t blocks,
                        size_t first, size_t end);
/* Writes the gap before the first row of an image. */
void blocked_clear_lead(const struct blocked_map *map, float *image);

/* The kernels' name for an activation. */
struct kernel_act blocked_act(const struct activation *a);

/*
 * What the layout pass needs to know of a Conv (of any domain) that infer has accepted: which forms
 * of the operator above compute it. 0 when none does. *gap is what a blocked X has to have.
 */
enum blocked_conv_forms {
    BLOCKED_CONV_BLOCKED = 1, /* X blocked -> Y blocked */
    BLOCKED_CONV_STEM = 2,    /* X plain -> Y blocked; best up to 4 channels, possible up to 16 */
    BLOCKED_CONV_PLANES = 4   /* X plain -> Y plain; best up to 8 channels out */
};
unsigned blocked_conv_forms(const struct op_node *node, unsigned lanes, unsigned *gap);

/* Whether a MaxPool that infer has accepted is PlanesMaxPool's. */
bool blocked_planes_pool(const struct op_node *node);

#endif
