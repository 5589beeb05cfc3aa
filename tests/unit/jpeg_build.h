/*
 * JPEG files for tests, segment by segment, of flat 8x8 blocks: with every quantiser 8, the DC
 * coefficient is how much lighter than 128 a block is.
 */
#ifndef CONVD_TESTS_UNIT_JPEG_BUILD_H
#define CONVD_TESTS_UNIT_JPEG_BUILD_H

#include "tests/unit/image_build.h"

static inline void jpeg_segment(struct file *f, unsigned marker, const void *bytes, size_t len)
{
    put_be16(f, 0xFF00 | marker);
    put_be16(f, (unsigned)len + 2);
    put(f, bytes, len);
}

/* Every quantiser 8, table 0. */
static inline void jpeg_quantizers(struct file *f)
{
    uint8_t table[65];
    memset(table, 8, sizeof table);
    table[0] = 0;
    jpeg_segment(f, 0xDB, table, sizeof table);
}

/* DC table 0: 0 -> category 0, 10 -> category 6. AC table 0: 0 -> end of block. */
static inline void jpeg_tables(struct file *f)
{
    static const uint8_t dc[19] = {0x00, 1, 1, [17] = 0, [18] = 6};
    static const uint8_t ac[18] = {0x10, 1, [17] = 0};
    jpeg_segment(f, 0xC4, dc, sizeof dc);
    jpeg_segment(f, 0xC4, ac, sizeof ac);
}

/* Frame header; sampling[i] is H << 4 | V of component i + 1. */
static inline void jpeg_frame(struct file *f, unsigned marker, unsigned w, unsigned h,
                              unsigned components, const uint8_t *sampling)
{
    struct file s = {0};
    put8(&s, 8);
    put_be16(&s, h);
    put_be16(&s, w);
    put8(&s, components);
    for (unsigned i = 0; i < components; i++) {
        put8(&s, i + 1);
        put8(&s, sampling[i]);
        put8(&s, 0);
    }
    jpeg_segment(f, marker, s.p, s.len);
}

/* Scan header of components first … first + count - 1, tables 0, and its data. */
static inline void jpeg_scan(struct file *f, unsigned first, unsigned count, unsigned from,
                             unsigned to, unsigned approximation, const void *bytes, size_t len)
{
    struct file s = {0};
    put8(&s, count);
    for (unsigned i = 0; i < count; i++) {
        put8(&s, first + i);
        put8(&s, 0);
    }
    put8(&s, from);
    put8(&s, to);
    put8(&s, approximation);
    jpeg_segment(f, 0xDA, s.p, s.len);
    put(f, bytes, len);
}

/* Bits, as text of 0 and 1, filled up with ones; zeros are stuffed. */
static inline struct file jpeg_bits(const char *bits)
{
    struct file out = {0};
    size_t len = strlen(bits);
    for (size_t i = 0; i < len; i += 8) {
        unsigned byte = 0;
        for (size_t k = i; k < i + 8; k++)
            byte = byte << 1 | (k >= len || bits[k] == '1');
        put8(&out, byte);
        if (byte == 0xFF)
            put8(&out, 0);
    }
    return out;
}

/* 16x8 grey pixels of 168: DC 40 in the first block, no difference in the second. */
#define JPEG_BASELINE_BITS \
    "10"                   \
    "101000"               \
    "0"                    \
    "0"                    \
    "0"
#define JPEG_PROGRESSIVE_BITS \
    "10"                      \
    "101000"                  \
    "0"

static inline struct file jpeg_gray(unsigned marker)
{
    bool progressive = marker == 0xC2;
    struct file f = {0}, bits = jpeg_bits(progressive ? JPEG_PROGRESSIVE_BITS : JPEG_BASELINE_BITS);
    put_be16(&f, 0xFFD8);
    jpeg_quantizers(&f);
    jpeg_tables(&f);
    jpeg_frame(&f, marker, 16, 8, 1, (const uint8_t[]){0x11});
    jpeg_scan(&f, 1, 1, 0, progressive ? 0 : 63, 0, bits.p, bits.len);
    put_be16(&f, 0xFFD9);
    return f;
}

#endif
