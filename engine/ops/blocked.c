/* Geometry of blocked maps, and what their operators share. */
#include "engine/ops/blocked.h"

#include "engine/ops/op_util.h"
#include "engine/runtime/mem.h"

#include <math.h>
#include <string.h>

/* Of a zone at least: with fewer the rows that neighbours share, and weights that all threads read,
 * cost more than maps that move from core to core. */
#define ZONE_ROWS ((size_t)6)

bool blocked_map(const struct cvd_shape *shape, struct op_layout layout, struct blocked_map *map)
{
    if (shape->rank != 4 || layout.lanes == 0)
        return false;
    *map = (struct blocked_map){
        .images = (size_t)shape->dims[0],
        .channels = (size_t)shape->dims[1],
        .height = (size_t)shape->dims[2],
        .width = (size_t)shape->dims[3],
        .lanes = layout.lanes,
        .gap = layout.gap,
    };
    map->blocks = (map->channels + map->lanes - 1) / map->lanes;
    map->row = (map->width + map->gap) * map->lanes;
    map->block = map->height * map->row;
    map->first = map->gap * map->lanes;
    map->image = map->first + (layout.blocks ? layout.blocks : map->blocks) * map->block;
    return true;
}

bool blocked_elements(const struct cvd_shape *shape, struct op_layout layout, size_t *out)
{
    size_t elements, row, image;
    if (!cvd_shape_elements(shape, &elements))
        return false;
    *out = elements;
    if (layout.lanes == 0)
        return true;
    struct blocked_map map;
    if (!blocked_map(shape, layout, &map))
        return false;
    return mem_add(map.width, map.gap, &row) && mem_mul(row, map.lanes, &row) &&
           mem_mul(row, map.height, &image) &&
           mem_mul(image, layout.blocks ? layout.blocks : map.blocks, &image) &&
           mem_add(image, map.first, &image) && mem_mul(image, map.images, out);
}

size_t blocked_zones(const struct blocked_map *map, const struct tpool *pool)
{
    const size_t threads = pool ? tpool_threads(pool) : 1;
    return map->images == 1 && map->height >= ZONE_ROWS * threads ? threads : 1;
}

/* The gap where two parts of a map meet, which both write. While one is computed from the other,
 * threads may read it there, as the zeros that it then holds already: these are left alone. */
static void clear_shared(float *gap, size_t floats)
{
    for (size_t i = 0; i < floats; i++) {
        uint32_t bits;
        memcpy(&bits, &gap[i], sizeof bits);
        if (bits != 0) {
            memset(gap, 0, floats * sizeof *gap);
            return;
        }
    }
}

static bool is_part(const struct blocked_map *map)
{
    return map->image != map->first + map->blocks * map->block;
}

void blocked_clear_gaps(const struct blocked_map *map, float *image, size_t block, size_t blocks,
                        size_t first, size_t end)
{
    const size_t rows = map->blocks * map->height;
    if (map->first == 0)
        return;
    for (size_t b = block; b < block + blocks; b++)
        for (size_t y = first; y < end; y++) {
            float *gap = image + b * map->block + (y + 1) * map->row - map->first;
            if (b * map->height + y + 1 == rows && is_part(map))
                clear_shared(gap, map->first);
            else
                memset(gap, 0, map->first * sizeof *gap);
        }
}

void blocked_clear_lead(const struct blocked_map *map, float *image)
{
    if (is_part(map))
        clear_shared(image - map->first, map->first);
    else
        memset(image - map->first, 0, map->first * sizeof *image);
}

struct kernel_act blocked_act(const struct activation *a)
{
    switch (a->kind) {
    case ACTIVATION_RELU:
        return (struct kernel_act){KERNEL_ACT_CLIP, 0, INFINITY};
    case ACTIVATION_LEAKY_RELU:
        return (struct kernel_act){KERNEL_ACT_LEAKY, a->alpha, 0};
    case ACTIVATION_CLIP:
        return (struct kernel_act){KERNEL_ACT_CLIP, a->alpha, a->beta};
    case ACTIVATION_SIGMOID:
        return (struct kernel_act){KERNEL_ACT_SIGMOID, 0, 0};
    case ACTIVATION_TANH:
        return (struct kernel_act){KERNEL_ACT_TANH, 0, 0};
    case ACTIVATION_HARD_SIGMOID:
        return (struct kernel_act){KERNEL_ACT_HARD_SIGMOID, a->alpha, a->beta};
    case ACTIVATION_HARD_SWISH:
        return (struct kernel_act){KERNEL_ACT_HARD_SWISH, 1.0f / 6, 0.5f};
    case ACTIVATION_MUL_HARD_SIGMOID:
        return (struct kernel_act){KERNEL_ACT_HARD_SWISH, a->alpha, a->beta};
    case ACTIVATION_SWISH:
        return (struct kernel_act){KERNEL_ACT_SWISH, a->alpha, 0};
    case ACTIVATION_MUL_SIGMOID:
        return (struct kernel_act){KERNEL_ACT_SWISH, 1, 0};
    case ACTIVATION_MISH:
    case ACTIVATION_MUL_TANH_SOFTPLUS:
        return (struct kernel_act){KERNEL_ACT_MISH, 0, 0};
    case ACTIVATION_GELU:
        return (struct kernel_act){KERNEL_ACT_GELU, (float)M_SQRT1_2, 0};
    case ACTIVATION_MUL_ERF:
        return (struct kernel_act){KERNEL_ACT_GELU, a->alpha / a->beta, 0};
    case ACTIVATION_NONE:
    case ACTIVATION_COUNT:
        break;
    }
    return (struct kernel_act){KERNEL_ACT_NONE, 0, 0};
}
