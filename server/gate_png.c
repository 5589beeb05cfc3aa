/*
 * The gate for PNG (ISO/IEC 15948): every chunk's length, type, order and CRC, the header's
 * combinations, the palette, and the exact number of bytes that the compressed data must inflate
 * to. Nothing is inflated here: the decoder is given a buffer of that size and no more.
 */
#include "server/gate_image.h"

#include <limits.h>
#include <string.h>
#include <zlib.h>

enum { CHUNK_OVERHEAD = 12, SIGNATURE_BYTES = 8 };

struct png {
    const uint8_t *bytes;
    size_t len, at;
    unsigned depth, color, interlace;
    unsigned channels; /* in the compressed data */
    unsigned palette;  /* colors */
    bool transparency, idat_ended;
    unsigned chunks;
    uint64_t idat_bytes;
    bool has_idat;
};

struct chunk {
    uint32_t len;
    const uint8_t *type, *data;
};

static bool chunk_is(const struct chunk *c, const char type[5])
{
    return memcmp(c->type, type, 4) == 0;
}

static enum gate_verdict next_chunk(struct png *p, struct chunk *c, struct gate_reason *why)
{
    if (p->len - p->at < CHUNK_OVERHEAD) {
        return gate_refuse(why, GATE_CORRUPT, "the PNG is cut short: no IEND chunk after %zu bytes",
                           p->len);
    }
    const uint8_t *at = p->bytes + p->at;
    *c = (struct chunk){.len = gate_be32(at), .type = at + 4, .data = at + 8};
    for (int i = 0; i < 4; i++) {
        uint8_t letter = c->type[i] | 0x20;
        if (letter < 'a' || letter > 'z') {
            return gate_refuse(why, GATE_CORRUPT, "the PNG has a malformed chunk type at byte %zu",
                               p->at + 4);
        }
    }
    if (c->len > p->len - p->at - CHUNK_OVERHEAD) {
        return gate_refuse(why, GATE_CORRUPT,
                           "the PNG is cut short: a chunk at byte %zu claims %u bytes of the %zu "
                           "that follow",
                           p->at, c->len, p->len - p->at - CHUNK_OVERHEAD);
    }
    if (crc32(0, c->type, c->len + 4) != gate_be32(c->data + c->len)) {
        return gate_refuse(why, GATE_CORRUPT, "the PNG's %.4s chunk at byte %zu has a wrong CRC",
                           (const char *)c->type, p->at);
    }
    p->at += CHUNK_OVERHEAD + (size_t)c->len;
    return GATE_OK;
}

/* Bytes of a picture of w x h: each row has a filter byte and is padded to whole bytes. */
static uint64_t pass_bytes(const struct png *p, uint64_t w, uint64_t h)
{
    return w && h ? h * (1 + (w * p->channels * p->depth + 7) / 8) : 0;
}

static uint64_t inflated_bytes(const struct png *p, const struct gate_info *info)
{
    /* Adam7: where each pass begins and how far apart its pixels are. */
    static const struct {
        uint8_t x, y, step_x, step_y;
    } pass[7] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                 {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
    if (!p->interlace) {
        return pass_bytes(p, info->width, info->height);
    }
    uint64_t sum = 0;
    for (int i = 0; i < 7; i++) {
        sum += pass_bytes(p, (info->width + pass[i].step_x - 1u - pass[i].x) / pass[i].step_x,
                          (info->height + pass[i].step_y - 1u - pass[i].y) / pass[i].step_y);
    }
    return sum;
}

static enum gate_verdict read_header(struct png *p, const struct chunk *c,
                                     const struct gate_limits *limits, struct gate_info *info,
                                     struct gate_reason *why)
{
    if (c->len != 13) {
        return gate_refuse(why, GATE_CORRUPT, "the PNG's IHDR has %u bytes; it must be 13", c->len);
    }
    info->width = gate_be32(c->data);
    info->height = gate_be32(c->data + 4);
    p->depth = c->data[8];
    p->color = c->data[9];
    p->interlace = c->data[12];

    /* Bit d - 1 stands for depth d, by color type. */
    static const uint16_t depths[7] = {
        [0] = 0x808B, [2] = 0x8080, [3] = 0x008B, [4] = 0x8080, [6] = 0x8080};
    static const uint8_t channels[7] = {[0] = 1, [2] = 3, [3] = 1, [4] = 2, [6] = 4};
    if (p->color > 6 || p->depth < 1 || p->depth > 16 ||
        !(depths[p->color] >> (p->depth - 1) & 1)) {
        return gate_refuse(why, GATE_CORRUPT,
                           "the PNG combines color type %u with a bit depth of %u", p->color,
                           p->depth);
    }
    if (c->data[10] != 0 || c->data[11] != 0 || p->interlace > 1) {
        return gate_refuse(why, GATE_CORRUPT,
                           "the PNG has compression %u, filter %u, interlace %u; 0, 0 and 0 or 1 "
                           "exist",
                           c->data[10], c->data[11], p->interlace);
    }
    p->channels = channels[p->color];
    info->channels = p->color == 3 ? 3 : p->channels;
    return gate_size(limits, info, why);
}

static enum gate_verdict read_palette(struct png *p, const struct chunk *c, struct gate_reason *why)
{
    unsigned most = p->color == 3 ? 1u << p->depth : 256;
    if (p->palette || p->has_idat || p->transparency || !(p->color & 2)) {
        return gate_refuse(why, GATE_CORRUPT, "the PNG has a PLTE chunk where none may be");
    }
    if (c->len == 0 || c->len % 3 != 0 || c->len / 3 > most) {
        return gate_refuse(why, GATE_CORRUPT,
                           "the PNG's palette has %u bytes; 3 for each of 1 to %u colors", c->len,
                           most);
    }
    p->palette = c->len / 3;
    return GATE_OK;
}

static enum gate_verdict read_transparency(struct png *p, const struct chunk *c,
                                           struct gate_reason *why)
{
    if (p->transparency || p->has_idat || (p->color & 4) || (p->color == 3 && !p->palette)) {
        return gate_refuse(why, GATE_CORRUPT, "the PNG has a tRNS chunk where none may be");
    }
    bool fits = p->color == 3 ? c->len >= 1 && c->len <= p->palette : c->len == 2 * p->channels;
    if (!fits) {
        return gate_refuse(why, GATE_CORRUPT, "the PNG's tRNS chunk has %u bytes", c->len);
    }
    p->transparency = true;
    return GATE_OK;
}

static enum gate_verdict read_chunk(struct png *p, const struct chunk *c, struct gate_reason *why)
{
    if (chunk_is(c, "IDAT")) {
        if (p->idat_ended || (p->color == 3 && !p->palette)) {
            return gate_refuse(why, GATE_CORRUPT,
                               p->idat_ended ? "the PNG's IDAT chunks are not together"
                                             : "the PNG has no palette before its IDAT chunks");
        }
        p->has_idat = true;
        p->idat_bytes += c->len;
        return GATE_OK;
    }
    p->idat_ended = p->has_idat;
    if (chunk_is(c, "PLTE")) {
        return read_palette(p, c, why);
    }
    if (chunk_is(c, "tRNS")) {
        return read_transparency(p, c, why);
    }
    if (chunk_is(c, "IHDR")) {
        return gate_refuse(why, GATE_CORRUPT, "the PNG has a second IHDR chunk");
    }
    if (!(c->type[0] & 0x20)) {
        return gate_refuse(why, GATE_VARIANT, "the PNG needs a %.4s chunk to be understood",
                           (const char *)c->type);
    }
    return GATE_OK;
}

/* Most that is allocated at once: the compressed data (its buffer is doubled as chunks come in)
 * beside the inflated; then that beside one or two pictures, with an alpha channel and two bytes a
 * sample at worst; and zlib's state. */
static void estimate(const struct png *p, struct gate_info *info)
{
    uint64_t pixels = (uint64_t)info->width * info->height;
    uint64_t picture = pixels * (p->channels + 1) * (p->depth == 16 ? 2 : 1);
    uint64_t converted = pixels * 3 * (p->depth == 16 ? 3 : 1);
    if (p->color == 3) {
        converted = pixels * 4;
    }
    uint64_t first = 2 * p->idat_bytes + info->inflated_bytes;
    uint64_t second = info->inflated_bytes + 2 * picture;
    uint64_t third = info->inflated_bytes + picture + converted;
    uint64_t most = first > second ? first : second;
    most = most > third ? most : third;
    info->decode_bytes = (size_t)(most + 64 * 1024);
    /* Measured on photographs: unfiltering, inflating, converting. */
    info->cost_ns = info->inflated_bytes * 4 + p->idat_bytes * 20 + pixels * 4;
}

enum gate_verdict gate_png(const uint8_t *bytes, size_t len, const struct gate_limits *limits,
                           struct gate_info *info, struct gate_reason *why)
{
    struct png p = {.bytes = bytes, .len = len, .at = SIGNATURE_BYTES};
    struct chunk c;
    enum gate_verdict verdict = next_chunk(&p, &c, why);
    if (verdict != GATE_OK) {
        return verdict;
    }
    if (!chunk_is(&c, "IHDR")) {
        return gate_refuse(why, GATE_CORRUPT, "the PNG's first chunk is not IHDR");
    }
    verdict = read_header(&p, &c, limits, info, why);
    if (verdict != GATE_OK) {
        return verdict;
    }
    uint64_t inflated = inflated_bytes(&p, info);
    info->inflated_bytes = (size_t)inflated;
    if (inflated > INT_MAX) { /* the decoder counts in an int */
        return gate_refuse(why, GATE_TOO_LARGE, "the PNG has %llu bytes of pixels; at most %d",
                           (unsigned long long)inflated, INT_MAX);
    }
    for (;;) {
        verdict = next_chunk(&p, &c, why);
        if (verdict != GATE_OK) {
            return verdict;
        }
        if (chunk_is(&c, "IEND")) {
            break;
        }
        verdict = read_chunk(&p, &c, why);
        if (verdict != GATE_OK) {
            return verdict;
        }
    }
    if (c.len != 0 || p.idat_bytes == 0) {
        return gate_refuse(why, GATE_CORRUPT,
                           c.len ? "the PNG's IEND chunk is not empty"
                                 : "the PNG has no IDAT data");
    }
    /* Compression never makes much more of it: deflate stores what it cannot shrink. The rest
     * would be empty blocks, which take time and give nothing. */
    if (p.idat_bytes > inflated + inflated / 8 + 64 * 1024) {
        return gate_refuse(why, GATE_CORRUPT,
                           "the PNG has %llu bytes of compressed data for %llu bytes of pixels",
                           (unsigned long long)p.idat_bytes, (unsigned long long)inflated);
    }
    estimate(&p, info);
    return gate_cost(limits, info, why);
}
