/* The image gate's front: recognises a file and hands it to the walker of its format. */
#include "server/gate.h"

#include "server/gate_image.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *gate_format_name(enum gate_format format)
{
    switch (format) {
    case GATE_JPEG:
        return "jpeg";
    case GATE_PNG:
        return "png";
    case GATE_BMP:
        return "bmp";
    case GATE_UNKNOWN:
        break;
    }
    return "unknown";
}

/* Two letters are a weak signature, and raw pixels are accepted as well: a bitmap must also carry
 * the size of one of the headers that exist (Windows 3 to 5, OS/2 1 and 2, Adobe's two). */
static bool looks_like_bmp(const uint8_t *p, size_t len)
{
    static const uint8_t header_bytes[] = {12, 16, 40, 52, 56, 64, 108, 124};
    if (len < 18 || p[0] != 'B' || p[1] != 'M') {
        return false;
    }
    uint32_t size = gate_le32(p + 14);
    for (size_t i = 0; i < sizeof header_bytes; i++) {
        if (size == header_bytes[i]) {
            return true;
        }
    }
    return false;
}

enum gate_format gate_sniff(const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    if (len >= 3 && p[0] == 0xFF && p[1] == 0xD8 && p[2] == 0xFF) {
        return GATE_JPEG;
    }
    if (len >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0) {
        return GATE_PNG;
    }
    return looks_like_bmp(p, len) ? GATE_BMP : GATE_UNKNOWN;
}

enum gate_verdict gate_refuse(struct gate_reason *why, enum gate_verdict verdict,
                              const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why->text, sizeof why->text, format, args);
    va_end(args);
    return verdict;
}

enum gate_verdict gate_size(const struct gate_limits *limits, const struct gate_info *info,
                            struct gate_reason *why)
{
    unsigned w = info->width, h = info->height;
    if (w == 0 || h == 0) {
        return gate_refuse(why, GATE_ZERO_SIZE, "the image is %ux%u pixels", w, h);
    }
    if (w > GATE_MAX_SIDE || h > GATE_MAX_SIDE) {
        return gate_refuse(why, GATE_TOO_LARGE,
                           "the image is %ux%u pixels; a side may have at most %u", w, h,
                           GATE_MAX_SIDE);
    }
    if ((uint64_t)w * h > limits->max_pixels) {
        return gate_refuse(why, GATE_TOO_LARGE,
                           "the image is %ux%u = %" PRIu64 " pixels; at most %" PRIu64
                           " are accepted",
                           w, h, (uint64_t)w * h, limits->max_pixels);
    }
    return GATE_OK;
}

enum gate_verdict gate_cost(const struct gate_limits *limits, const struct gate_info *info,
                            struct gate_reason *why)
{
    uint64_t limit = limits->max_cost_ns ? limits->max_cost_ns : GATE_DEFAULT_COST_NS;
    if (info->cost_ns > limit) {
        return gate_refuse(why, GATE_TOO_COMPLEX,
                           "decoding would take about %" PRIu64 " ms; at most %" PRIu64
                           " ms are allowed",
                           info->cost_ns / 1000000, limit / 1000000);
    }
    return GATE_OK;
}

enum gate_verdict gate_image(const void *bytes, size_t len, const struct gate_limits *limits,
                             struct gate_info *info, struct gate_reason *why)
{
    *info = (struct gate_info){.format = gate_sniff(bytes, len)};
    why->text[0] = '\0';
    /* The decoder counts bytes in an int. */
    if (len > INT_MAX) {
        return gate_refuse(why, GATE_TOO_LARGE, "the file has %zu bytes; at most %d are accepted",
                           len, INT_MAX);
    }
    switch (info->format) {
    case GATE_JPEG:
        return gate_jpeg(bytes, len, limits, info, why);
    case GATE_PNG:
        return gate_png(bytes, len, limits, info, why);
    case GATE_BMP:
        return gate_bmp(bytes, len, limits, info, why);
    case GATE_UNKNOWN:
        break;
    }
    return gate_refuse(why, GATE_NOT_AN_IMAGE, "not a JPEG, PNG or BMP file");
}
