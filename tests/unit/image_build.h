/* Image files for tests, byte by byte: PNG and BMP files with chosen faults. */
#ifndef CONVD_TESTS_UNIT_IMAGE_BUILD_H
#define CONVD_TESTS_UNIT_IMAGE_BUILD_H

#include "tests/support/data.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* A file under construction; the memory lives as long as the test. */
struct file {
    uint8_t *p;
    size_t len, room;
};

static inline void put(struct file *f, const void *bytes, size_t len)
{
    if (f->room - f->len < len) {
        uint8_t *old = f->p;
        f->room = 2 * (f->len + len) + 256;
        f->p = data_alloc(f->room);
        if (f->len)
            memcpy(f->p, old, f->len);
    }
    if (len)
        memcpy(f->p + f->len, bytes, len);
    f->len += len;
}

static inline void put_text(struct file *f, const char *text)
{
    put(f, text, strlen(text));
}

static inline void put8(struct file *f, unsigned v)
{
    put(f, &(uint8_t){(uint8_t)v}, 1);
}

static inline void put_be16(struct file *f, unsigned v)
{
    put8(f, v >> 8);
    put8(f, v);
}

static inline void put_be32(struct file *f, uint32_t v)
{
    put_be16(f, v >> 16);
    put_be16(f, v & 0xFFFF);
}

static inline void put_le16(struct file *f, unsigned v)
{
    put8(f, v);
    put8(f, v >> 8);
}

static inline void put_le32(struct file *f, uint32_t v)
{
    put_le16(f, v & 0xFFFF);
    put_le16(f, v >> 16);
}

/* The file with `len` bytes at `at` replaced. */
static inline struct file patched(struct file f, size_t at, const void *bytes, size_t len)
{
    struct file out = {0};
    put(&out, f.p, f.len);
    memcpy(out.p + at, bytes, len);
    return out;
}

/* The first `len` bytes, in a block of exactly that size so that a read beyond them is noticed. */
static inline struct file exactly(const struct file *f, size_t len)
{
    struct file out = {malloc(len ? len : 1), len, len};
    memcpy(out.p, f->p, len);
    return out;
}

/* ---------------------------------------------------------------- PNG */

static inline void png_signature(struct file *f)
{
    put(f, "\x89PNG\r\n\x1a\n", 8);
}

static inline void png_chunk(struct file *f, const char *type, const void *bytes, size_t len)
{
    size_t begin = f->len + 4;
    put_be32(f, (uint32_t)len);
    put(f, type, 4);
    put(f, bytes, len);
    put_be32(f, (uint32_t)crc32(0, f->p + begin, (uInt)(len + 4)));
}

static inline void png_header(struct file *f, uint32_t w, uint32_t h, unsigned depth,
                              unsigned color, unsigned interlace)
{
    struct file ihdr = {0};
    put_be32(&ihdr, w);
    put_be32(&ihdr, h);
    put8(&ihdr, depth);
    put8(&ihdr, color);
    put_be16(&ihdr, 0);
    put8(&ihdr, interlace);
    png_chunk(f, "IHDR", ihdr.p, ihdr.len);
}

/* Compressed with zlib. */
static inline struct file deflated(const void *bytes, size_t len)
{
    uLongf room = compressBound((uLong)len);
    struct file out = {.p = data_alloc(room), .room = room};
    compress2(out.p, &room, bytes, (uLong)len, 9);
    out.len = room;
    return out;
}

struct png {
    uint32_t width, height;
    unsigned depth, color, interlace;
    const void *palette, *transparency;
    size_t palette_len, transparency_len;
    const void *raw; /* filter bytes and samples */
    size_t raw_len;
};

static inline struct file png_file(const struct png *p)
{
    struct file f = {0};
    struct file idat = deflated(p->raw, p->raw_len);
    png_signature(&f);
    png_header(&f, p->width, p->height, p->depth, p->color, p->interlace);
    if (p->palette)
        png_chunk(&f, "PLTE", p->palette, p->palette_len);
    if (p->transparency)
        png_chunk(&f, "tRNS", p->transparency, p->transparency_len);
    png_chunk(&f, "IDAT", idat.p, idat.len);
    png_chunk(&f, "IEND", NULL, 0);
    return f;
}

/* 8-bit pixels, without a filter; color is PNG's color type. */
static inline struct file png_of(const uint8_t *pixels, uint32_t w, uint32_t h, unsigned color)
{
    static const unsigned channels[7] = {1, 0, 3, 1, 2, 0, 4};
    struct file raw = {0};
    for (uint32_t y = 0; y < h; y++) {
        put8(&raw, 0);
        put(&raw, pixels + (size_t)y * w * channels[color], (size_t)w * channels[color]);
    }
    return png_file(&(struct png){
        .width = w, .height = h, .depth = 8, .color = color, .raw = raw.p, .raw_len = raw.len});
}

/* ---------------------------------------------------------------- BMP */

struct bmp_spec {
    uint32_t width, height, header, compression, offset; /* 0: 40 bytes, right behind the headers */
    unsigned bits, colors;
    const uint32_t *masks;  /* four, or NULL */
    const uint8_t *palette; /* B G R 0 */
    const void *rows;
    size_t rows_len;
};

static inline struct file bmp_file(const struct bmp_spec *b)
{
    struct file f = {0};
    uint32_t header = b->header ? b->header : 40;
    uint32_t headers = 14 + header + (header == 40 && b->compression == 3 ? 12 : 0) + 4 * b->colors;
    put(&f, "BM", 2);
    put_le32(&f, headers + (uint32_t)b->rows_len);
    put_le32(&f, 0);
    put_le32(&f, b->offset ? b->offset : headers);
    put_le32(&f, header);
    put_le32(&f, b->width);
    put_le32(&f, b->height);
    put_le16(&f, 1);
    put_le16(&f, b->bits);
    put_le32(&f, b->compression);
    for (int i = 0; i < 5; i++)
        put_le32(&f, 0);
    for (int i = 0; b->masks && i < (header == 40 ? 3 : 4); i++)
        put_le32(&f, b->masks[i]);
    while (f.len < headers - 4 * b->colors)
        put8(&f, 0);
    put(&f, b->palette, 4 * b->colors);
    put(&f, b->rows, b->rows_len);
    return f;
}

#endif
