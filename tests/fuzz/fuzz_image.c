/* Fuzz target: an image file. What the gate lets through is decoded within the budget it announced,
 * to the size it announced, whatever it is decoded to. A PNG is also tried with its CRCs mended:
 * mutation would hardly ever find them. */
#include "tests/fuzz/fuzz.h"

#include "server/image.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void decode(const uint8_t *bytes, size_t len, const struct gate_info *info,
                   unsigned channels)
{
    struct image image;
    struct gate_reason why = {.text = ""};
    enum gate_verdict verdict = image_decode(bytes, len, info, channels, &image, &why);
    require(verdict == GATE_OK || verdict == GATE_CORRUPT || verdict == GATE_NO_MEMORY);
    require((verdict == GATE_OK) == (why.text[0] == '\0'));
    if (verdict != GATE_OK)
        return;
    require(image.width == info->width && image.height == info->height);
    require(image.channels == channels);
    struct preprocess p;
    float out[3 * 5 * 7];
    preprocess_default(&p, channels, 5, 7);
    p.invert = IMAGE_INVERT_AUTO;
    require(preprocess_run(&p, &image, out));
    image_free(&image);
}

/* Writes the right CRC behind every chunk. */
static void mend_crcs(uint8_t *png, size_t len)
{
    for (size_t at = 8; len - at >= 12;) {
        uint8_t *p = png + at;
        uint32_t chunk = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        if (chunk > len - at - 12)
            return;
        uint32_t crc = (uint32_t)crc32(0, p + 4, chunk + 4);
        for (int i = 0; i < 4; i++)
            p[8 + chunk + (unsigned)i] = (uint8_t)(crc >> (24 - 8 * i));
        at += chunk + 12;
    }
}

static void try_file(const uint8_t *bytes, size_t len)
{
    /* Small enough for many runs a second; the limits do not depend on the size. */
    const struct gate_limits limits = {.max_pixels = 1 << 18, .max_cost_ns = 50000000};
    struct gate_info info;
    struct gate_reason why = {.text = ""};
    enum gate_verdict verdict = gate_image(bytes, len, &limits, &info, &why);
    require((verdict == GATE_OK) == (why.text[0] == '\0'));
    require((verdict == GATE_NOT_AN_IMAGE) == (gate_sniff(bytes, len) == GATE_UNKNOWN));
    if (verdict != GATE_OK)
        return;
    require(info.width > 0 && info.height > 0);
    require((uint64_t)info.width * info.height <= limits.max_pixels);
    require(info.cost_ns <= limits.max_cost_ns);
    decode(bytes, len, &info, 1);
    decode(bytes, len, &info, 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    /* A copy of exactly that size, so that reading past the end is noticed. */
    uint8_t *exact = calloc(1, len ? len : 1);
    if (!exact)
        return 0;
    if (len > 0)
        memcpy(exact, data, len);
    try_file(exact, len);
    if (gate_sniff(exact, len) == GATE_PNG) {
        mend_crcs(exact, len);
        try_file(exact, len);
    }
    free(exact);
    return 0;
}
