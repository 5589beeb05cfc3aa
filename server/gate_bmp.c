/*
 * The gate for BMP: a file header, one of three Windows headers, masks or a palette, complete rows.
 *
 * 8-bit palette, 24-bit and 32-bit pictures, bottom-up or top-down, are let through. The decoder
 * insists that pixels follow the headers without a gap unless there is a palette, takes the
 * palette's length from that gap, does not check pixels against it, and asserts that channel
 * masks are at most eight adjacent bits: all of that is decided here.
 */
#include "server/gate_image.h"

enum { FILE_HEADER_BYTES = 14, COMPRESSION_RGB = 0, COMPRESSION_BITFIELDS = 3 };

struct bmp {
    const uint8_t *bytes;
    size_t len;
    uint32_t data_at, header_bytes, compression;
    unsigned bits;
};

/* At most eight set bits, all adjacent. */
static bool mask_is_simple(uint32_t mask)
{
    if (mask == 0) {
        return false;
    }
    uint32_t low = mask >> __builtin_ctz(mask);
    return (low & (low + 1)) == 0 && low <= 0xFF;
}

static enum gate_verdict check_masks(const struct bmp *b, struct gate_reason *why)
{
    const uint8_t *p = b->bytes + FILE_HEADER_BYTES + 40;
    uint32_t red = gate_le32(p), green = gate_le32(p + 4), blue = gate_le32(p + 8);
    uint32_t alpha = b->header_bytes > 40 ? gate_le32(p + 12) : 0;
    if (!mask_is_simple(red) || !mask_is_simple(green) || !mask_is_simple(blue) ||
        (alpha != 0 && !mask_is_simple(alpha))) {
        return gate_refuse(why, GATE_VARIANT,
                           "the BMP's channel masks are not of one to eight adjacent bits");
    }
    if ((red & green) | (red & blue) | (green & blue) | (alpha & (red | green | blue))) {
        return gate_refuse(why, GATE_CORRUPT, "the BMP's channel masks overlap");
    }
    return GATE_OK;
}

/* Where the pixels must be, and that palette indices stay inside the palette. */
static enum gate_verdict check_layout(const struct bmp *b, const struct gate_info *info,
                                      size_t row_bytes, struct gate_reason *why)
{
    size_t headers = FILE_HEADER_BYTES + b->header_bytes;
    if (b->compression == COMPRESSION_BITFIELDS && b->header_bytes == 40) {
        headers += 12;
    }
    if (b->data_at < headers || b->data_at > b->len) {
        return gate_refuse(why, GATE_CORRUPT, "the BMP's pixels begin at byte %u of %zu",
                           b->data_at, b->len);
    }
    size_t need = row_bytes * info->height;
    if (b->len - b->data_at < need) {
        return gate_refuse(why, GATE_CORRUPT,
                           "the BMP is cut short: %zu of %zu bytes of pixels are there",
                           b->len - b->data_at, need);
    }
    if (b->bits != 8) {
        if (b->data_at != headers) {
            return gate_refuse(why, GATE_VARIANT,
                               "the BMP's pixels begin at byte %u; after its headers is byte %zu",
                               b->data_at, headers);
        }
        return GATE_OK;
    }
    size_t colors = (b->data_at - headers) / 4;
    if (colors == 0 || colors > 256) {
        return gate_refuse(why, GATE_CORRUPT, "the BMP's palette has room for %zu colors; 1 to 256",
                           colors);
    }
    for (unsigned y = 0; colors < 256 && y < info->height; y++) {
        const uint8_t *row = b->bytes + b->data_at + y * row_bytes;
        for (unsigned x = 0; x < info->width; x++) {
            if (row[x] >= colors) {
                return gate_refuse(why, GATE_CORRUPT,
                                   "the BMP's pixel at %u, %u has color %u of a palette of %zu", x,
                                   y, row[x], colors);
            }
        }
    }
    return GATE_OK;
}

static enum gate_verdict check_kind(const struct bmp *b, struct gate_reason *why)
{
    bool plain =
        b->compression == COMPRESSION_RGB && (b->bits == 8 || b->bits == 24 || b->bits == 32);
    bool masked = b->compression == COMPRESSION_BITFIELDS && b->bits == 32;
    if (!plain && !masked) {
        return gate_refuse(why, GATE_VARIANT,
                           "a BMP of %u bits a pixel and compression %u; 8, 24 and 32 bits without "
                           "compression are accepted",
                           b->bits, b->compression);
    }
    return GATE_OK;
}

enum gate_verdict gate_bmp(const uint8_t *bytes, size_t len, const struct gate_limits *limits,
                           struct gate_info *info, struct gate_reason *why)
{
    struct bmp b = {.bytes = bytes, .len = len};
    b.data_at = gate_le32(bytes + 10);
    b.header_bytes = gate_le32(bytes + 14);
    if (b.header_bytes != 40 && b.header_bytes != 108 && b.header_bytes != 124) {
        return gate_refuse(why, GATE_VARIANT,
                           "a BMP with a header of %u bytes; 40, 108 and 124 are accepted",
                           b.header_bytes);
    }
    if (len < FILE_HEADER_BYTES + b.header_bytes) {
        return gate_refuse(why, GATE_CORRUPT, "the BMP is cut short inside its headers: %zu bytes",
                           len);
    }
    info->width = gate_le32(bytes + 18);
    uint32_t height = gate_le32(bytes + 22);
    info->height = height >> 31 ? 0u - height : height; /* top-down: negative */
    if (gate_le16(bytes + 26) != 1) {
        return gate_refuse(why, GATE_CORRUPT, "the BMP has %u planes; it must be 1",
                           gate_le16(bytes + 26));
    }
    b.bits = gate_le16(bytes + 28);
    b.compression = gate_le32(bytes + 30);
    info->channels = 3;

    enum gate_verdict verdict = check_kind(&b, why);
    if (verdict == GATE_OK) {
        verdict = gate_size(limits, info, why);
    }
    if (verdict != GATE_OK) {
        return verdict;
    }
    /* Sides are at most GATE_MAX_SIDE now. */
    size_t row_bytes = ((size_t)info->width * (b.bits / 8) + 3) / 4 * 4;
    verdict = check_layout(&b, info, row_bytes, why);
    if (verdict == GATE_OK && b.compression == COMPRESSION_BITFIELDS) {
        verdict = check_masks(&b, why);
    }
    if (verdict != GATE_OK) {
        return verdict;
    }
    size_t pixels = (size_t)info->width * info->height;
    info->decode_bytes = pixels * 3 + 4096;
    info->cost_ns = pixels * 10; /* ns, measured */
    return gate_cost(limits, info, why);
}
