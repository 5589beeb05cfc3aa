/* Image files -> 8-bit pixels: the decoder's output brought to one or three channels. */
#include "server/image.h"

#include "server/pool.h"
#include "server/stb.h"

#include <stdio.h>

/* ITU-R 601 luma in 16-bit fixed point, the weights and the rounding of Pillow's mode "L". */
void image_luma(const uint8_t *rgb, size_t count, uint8_t *gray)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *p = rgb + 3 * i;
        gray[i] = (uint8_t)((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000u) >> 16);
    }
}

enum gate_verdict image_decode(const void *bytes, size_t len, const struct gate_info *info,
                               unsigned channels, struct image *out, struct gate_reason *why)
{
    /* Asked for grey, the decoder would take JPEG's luma as it is and weigh colors its own way. */
    unsigned decoded = channels == 1 && info->channels <= 2 ? 1 : 3;
    struct stb_limits limits = {info->decode_bytes, info->inflated_bytes};
    struct image image = {.channels = channels};
    switch (
        stb_decode(bytes, len, &limits, (int)decoded, &image.width, &image.height, &image.pixels)) {
    case STB_OK:
        break;
    case STB_CORRUPT:
        snprintf(why->text, sizeof why->text, "the %s file's compressed data is damaged",
                 gate_format_name(info->format));
        return GATE_CORRUPT;
    case STB_NO_MEMORY:
        snprintf(why->text, sizeof why->text, "no memory to decode %ux%u pixels", info->width,
                 info->height);
        return GATE_NO_MEMORY;
    }
    if (image.width != info->width || image.height != info->height) {
        image_free(&image);
        snprintf(why->text, sizeof why->text, "the %s file contradicts its own size",
                 gate_format_name(info->format));
        return GATE_CORRUPT;
    }
    if (decoded != channels) {
        size_t count = (size_t)image.width * image.height;
        image_luma(image.pixels, count, image.pixels);
    }
    *out = image;
    return GATE_OK;
}

void image_free(struct image *image)
{
    pool_free(image->pixels);
    image->pixels = NULL;
}
