/* Decoding: exact pixels of files whose pixels are known, and damaged data behind an intact frame.
 */
#include "server/image.h"

#include "tests/unit/jpeg_build.h"

#include <criterion/criterion.h>
#include <sys/resource.h>

static const struct gate_limits limits = {.max_pixels = 1 << 24};

static enum gate_verdict decode(struct file f, unsigned channels, struct image *out)
{
    struct gate_info info;
    struct gate_reason why;
    struct file copy = exactly(&f, f.len);
    enum gate_verdict verdict = gate_image(copy.p, copy.len, &limits, &info, &why);
    cr_expect_eq(verdict, GATE_OK, "the gate: %s", why.text);
    if (verdict == GATE_OK)
        verdict = image_decode(copy.p, copy.len, &info, channels, out, &why);
    free(copy.p);
    return verdict;
}

static void expect_pixels(struct file f, unsigned channels, unsigned w, unsigned h,
                          const uint8_t *pixels, const char *what)
{
    struct image image = {0};
    enum gate_verdict verdict = decode(f, channels, &image);
    cr_assert_eq(verdict, GATE_OK, "%s: verdict %d", what, verdict);
    cr_expect(image.width == w && image.height == h && image.channels == channels,
              "%s: %ux%u, %u channels", what, image.width, image.height, image.channels);
    for (size_t i = 0; i < (size_t)w * h * channels; i++)
        cr_expect(image.pixels[i] == pixels[i], "%s: byte %zu is %u, not %u", what, i,
                  image.pixels[i], pixels[i]);
    image_free(&image);
}

/* L = (19595 R + 38470 G + 7471 B + 32768) / 65536, by hand: 76.24 + .5, 149.7 + .5, 29.07 + .5,
 * and 200, 100, 50 -> 59.80 + 58.70 + 5.70 + .5 = 124.7. */
static const uint8_t rgb[] = {255, 0, 0, 0, 255, 0, 0, 0, 255, 200, 100, 50};
static const uint8_t luma[] = {76, 150, 29, 124};
static const uint8_t gray[] = {0, 1, 127, 255};
static const uint8_t gray_as_rgb[] = {0, 0, 0, 1, 1, 1, 127, 127, 127, 255, 255, 255};

Test(image, png_color_and_gray)
{
    static const uint8_t rgba[] = {255, 0, 0, 0, 0, 255, 0, 1, 0, 0, 255, 128, 200, 100, 50, 255};
    static const uint8_t gray_alpha[] = {0, 0, 1, 255, 127, 3, 255, 0};
    expect_pixels(png_of(rgb, 2, 2, 2), 3, 2, 2, rgb, "RGB");
    expect_pixels(png_of(rgb, 2, 2, 2), 1, 2, 2, luma, "RGB to grey");
    expect_pixels(png_of(gray, 2, 2, 0), 1, 2, 2, gray, "grey");
    expect_pixels(png_of(gray, 2, 2, 0), 3, 2, 2, gray_as_rgb, "grey to RGB");
    expect_pixels(png_of(rgba, 2, 2, 6), 3, 2, 2, rgb, "RGBA: alpha is dropped");
    expect_pixels(png_of(rgba, 2, 2, 6), 1, 2, 2, luma, "RGBA to grey");
    expect_pixels(png_of(gray_alpha, 2, 2, 4), 1, 2, 2, gray, "grey with alpha");
    expect_pixels(png_of(gray_alpha, 2, 2, 4), 3, 2, 2, gray_as_rgb, "grey with alpha to RGB");
}

Test(image, png_depths)
{
    /* 0, 1, 2, 3 of 3 and 0, 5, 10, 15 of 15 are 0, 85, 170, 255 of 255. */
    static const uint8_t thirds[] = {0, 85, 170, 255}, ends[] = {0, 255, 255, 0};
    struct png p = {.width = 4, .height = 1, .raw_len = 2};
    p.depth = 1, p.raw = "\0\x60";
    expect_pixels(png_file(&p), 1, 4, 1, ends, "1 bit");
    p.depth = 2, p.raw = "\0\x1B";
    expect_pixels(png_file(&p), 1, 4, 1, thirds, "2 bits");
    p.depth = 4, p.raw = "\0\x05\xAF", p.raw_len = 3;
    expect_pixels(png_file(&p), 1, 4, 1, thirds, "4 bits");
    p.depth = 16, p.raw = "\0\0\xFF\x55\xFF\xAA\0\xFF\xFF", p.raw_len = 9;
    expect_pixels(png_file(&p), 1, 4, 1, thirds, "16 bits: the high byte");
    p = (struct png){2,
                     2,
                     16,
                     2,
                     .raw = "\0\xFF\1\0\2\0\3\0\4\xFF\5\0\6\0\0\7\0\x08\xFF\x09\xC8\0\x64\0\x32\0",
                     .raw_len = 26};
    expect_pixels(png_file(&p), 3, 2, 2, rgb, "RGB of 16 bits");
    expect_pixels(png_file(&p), 1, 2, 2, luma, "RGB of 16 bits to grey");
}

Test(image, png_palettes_and_transparency)
{
    struct png p = {2,           2, 8, 3, .palette = rgb, .palette_len = 12, .raw = "\0\0\1\0\2\3",
                    .raw_len = 6};
    expect_pixels(png_file(&p), 3, 2, 2, rgb, "a palette");
    expect_pixels(png_file(&p), 1, 2, 2, luma, "a palette to grey");
    p.transparency = "\0\x80", p.transparency_len = 2;
    expect_pixels(png_file(&p), 3, 2, 2, rgb, "a transparent palette");
    p = (struct png){4, 1, 2, 3, .palette = rgb, .palette_len = 12, .raw = "\0\x1B", .raw_len = 2};
    expect_pixels(png_file(&p), 3, 4, 1, rgb, "a palette of 2 bits");
    p = (struct png){2,
                     2,
                     8,
                     0,
                     .transparency = "\0\x7F",
                     .transparency_len = 2,
                     .raw = "\0\0\1\0\x7F\xFF",
                     .raw_len = 6};
    expect_pixels(png_file(&p), 1, 2, 2, gray, "one transparent grey");
    expect_pixels(png_file(&p), 3, 2, 2, gray_as_rgb, "one transparent grey to RGB");
}

/* Filters worked out by hand on rows of 10 20 30 40: the second row is the same picture again. */
Test(image, png_filters)
{
    static const uint8_t rows[] = {10, 20, 30, 40, 10, 20, 30, 40};
    static const struct {
        const char *what;
        uint8_t second[5];
    } filters[] = {{"none", {0, 10, 20, 30, 40}},
                   {"sub", {1, 10, 10, 10, 10}},
                   {"up", {2, 0, 0, 0, 0}},
                   {"average", {3, 5, 5, 5, 5}}, /* 20 - (10 + 20) / 2 and so on; 10 - 10 / 2 */
                   {"paeth", {4, 0, 0, 0, 0}}};
    for (size_t i = 0; i < 5; i++) {
        uint8_t raw[10] = {1, 10, 10, 10, 10};
        memcpy(raw + 5, filters[i].second, 5);
        expect_pixels(png_file(&(struct png){4, 2, 8, 0, .raw = raw, .raw_len = 10}), 1, 4, 2, rows,
                      filters[i].what);
    }
    uint8_t raw[10] = {0, 10, 20, 30, 40, 5, 10, 20, 30, 40};
    struct image image;
    cr_expect_eq(decode(png_file(&(struct png){4, 2, 8, 0, .raw = raw, .raw_len = 10}), 1, &image),
                 GATE_CORRUPT, "filter 5");
}

/* The 8x8 pixels 0 … 63, written pass by pass. */
Test(image, png_interlaced)
{
    static const uint8_t adam7[7][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                        {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
    uint8_t pixels[64];
    struct file raw = {0};
    for (unsigned i = 0; i < 64; i++)
        pixels[i] = (uint8_t)i;
    for (int p = 0; p < 7; p++) {
        for (unsigned y = adam7[p][1]; y < 8; y += adam7[p][3]) {
            put8(&raw, 0);
            for (unsigned x = adam7[p][0]; x < 8; x += adam7[p][2])
                put8(&raw, pixels[8 * y + x]);
        }
    }
    struct png p = {8, 8, 8, 0, 1, .raw = raw.p, .raw_len = raw.len};
    expect_pixels(png_file(&p), 1, 8, 8, pixels, "interlaced");
}

Test(image, png_data_must_inflate_to_its_size_exactly)
{
    static const uint8_t zeros[4096];
    struct image image;
    for (size_t len = 0; len < 20; len++) {
        struct png p = {4, 3, 8, 0, .raw = zeros, .raw_len = len};
        enum gate_verdict verdict = decode(png_file(&p), 1, &image);
        cr_expect_eq(verdict, len == 15 ? GATE_OK : GATE_CORRUPT, "%zu bytes", len);
        if (verdict == GATE_OK)
            image_free(&image);
    }
    struct file f = {0}, idat = deflated(zeros, 15);
    idat.p[idat.len - 1] ^= 1;
    png_signature(&f);
    png_header(&f, 4, 3, 8, 0, 0);
    png_chunk(&f, "IDAT", idat.p, idat.len);
    png_chunk(&f, "IEND", NULL, 0);
    cr_expect_eq(decode(f, 1, &image), GATE_CORRUPT, "a wrong Adler-32 sum");
}

/* 64 MB of zeros in 64 KB: the decoder may not take memory for them. */
Test(image, png_bomb)
{
    size_t len = 64 << 20;
    void *zeros = calloc(1, len);
    struct png p = {16, 16, 8, 0, .raw = zeros, .raw_len = len};
    struct file f = png_file(&p);
    struct image image;
    struct rusage before, after;
    free(zeros);
    getrusage(RUSAGE_SELF, &before);
    cr_expect_eq(decode(f, 1, &image), GATE_CORRUPT);
    getrusage(RUSAGE_SELF, &after);
    cr_expect_leq(after.ru_maxrss - before.ru_maxrss, 4096, "kB taken");
}

/* Empty deflate blocks before the data of a large picture: 10 bits each for nothing. */
Test(image, png_of_empty_blocks)
{
    unsigned side = 700;
    size_t len = (size_t)side * (side + 1), blocks = 400000;
    struct file tail = deflated(data_alloc(len), len), idat = {0}, f = {0};
    put(&idat, tail.p, 2);
    uint8_t *bits = data_alloc(blocks * 10 / 8);
    for (size_t b = 0; b < blocks; b++) /* not the last, fixed codes: 0, 1, 0; end: seven zeros */
        bits[(b * 10 + 1) / 8] |= (uint8_t)(1u << (b * 10 + 1) % 8);
    put(&idat, bits, blocks * 10 / 8);
    put(&idat, tail.p + 2, tail.len - 2);
    png_signature(&f);
    png_header(&f, side, side, 8, 0, 0);
    png_chunk(&f, "IDAT", idat.p, idat.len);
    png_chunk(&f, "IEND", NULL, 0);
    struct image image;
    cr_expect_eq(decode(f, 1, &image), GATE_CORRUPT);
}

Test(image, bmp)
{
    /* Bottom row first, blue green red, rows of 6 bytes filled to 8. */
    static const uint8_t rows[] = {255, 0, 0, 50, 100, 200, 9, 9, 0, 0, 255, 0, 255, 0, 9, 9};
    static const uint8_t turned[] = {0, 0, 255, 0, 255, 0, 9, 9, 255, 0, 0, 50, 100, 200, 9, 9};
    static const uint8_t wide[] = {255, 0, 0, 7, 50, 100, 200, 7, 0, 0, 255, 7, 0, 255, 0, 7};
    static const uint8_t masked[] = {7, 0, 0, 255, 7, 200, 100, 50, 7, 255, 0, 0, 7, 0, 255, 0};
    static const uint8_t palette[] = {0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0, 50, 100, 200, 0};
    static const uint8_t indices[] = {2, 3, 0, 0, 0, 1, 0, 0};
    static const uint32_t masks[] = {0xFF00, 0xFF0000, 0xFF000000, 0};
    struct bmp_spec b = {.width = 2, .height = 2, .bits = 24, .rows = rows, .rows_len = 16};
    expect_pixels(bmp_file(&b), 3, 2, 2, rgb, "24 bits");
    expect_pixels(bmp_file(&b), 1, 2, 2, luma, "24 bits to grey");
    b.header = 124;
    expect_pixels(bmp_file(&b), 3, 2, 2, rgb, "24 bits, header 124");
    b.header = 0, b.height = (uint32_t)-2, b.rows = turned;
    expect_pixels(bmp_file(&b), 3, 2, 2, rgb, "top-down");
    b = (struct bmp_spec){.width = 2, .height = 2, .bits = 32, .rows = wide, .rows_len = 16};
    expect_pixels(bmp_file(&b), 3, 2, 2, rgb, "32 bits");
    b = (struct bmp_spec){.width = 2,
                          .height = 2,
                          .bits = 32,
                          .compression = 3,
                          .masks = masks,
                          .rows = masked,
                          .rows_len = 16};
    expect_pixels(bmp_file(&b), 3, 2, 2, rgb, "masks");
    b.header = 108;
    expect_pixels(bmp_file(&b), 3, 2, 2, rgb, "masks, header 108");
    b = (struct bmp_spec){.width = 2,
                          .height = 2,
                          .bits = 8,
                          .colors = 4,
                          .palette = palette,
                          .rows = indices,
                          .rows_len = 8};
    expect_pixels(bmp_file(&b), 3, 2, 2, rgb, "a palette");
}

Test(image, jpeg)
{
    uint8_t flat[16 * 8 * 3];
    memset(flat, 168, sizeof flat);
    expect_pixels(jpeg_gray(0xC0), 1, 16, 8, flat, "baseline");
    expect_pixels(jpeg_gray(0xC0), 3, 16, 8, flat, "baseline to RGB");
    expect_pixels(jpeg_gray(0xC1), 1, 16, 8, flat, "extended");
    expect_pixels(jpeg_gray(0xC2), 1, 16, 8, flat, "progressive");
}

/* Luma 168 in both blocks, chroma 128 (none) in the one that covers both, 2:1 sampling. */
Test(image, jpeg_color)
{
    uint8_t flat[16 * 8 * 3];
    struct file f = {0}, bits = jpeg_bits(JPEG_BASELINE_BITS "0"
                                                             "0"
                                                             "0"
                                                             "0");
    memset(flat, 168, sizeof flat);
    put_be16(&f, 0xFFD8);
    jpeg_quantizers(&f);
    jpeg_tables(&f);
    jpeg_frame(&f, 0xC0, 16, 8, 3, (const uint8_t[]){0x21, 0x11, 0x11});
    jpeg_scan(&f, 1, 3, 0, 63, 0, bits.p, bits.len);
    put_be16(&f, 0xFFD9);
    expect_pixels(f, 3, 16, 8, flat, "YCbCr");
    expect_pixels(f, 1, 16, 8, flat, "YCbCr to grey");
}

/* Adobe's CMYK is inverted: 168 of each with a K of 168 is 168 * 168 / 255 = 110.7. */
Test(image, jpeg_cmyk)
{
    uint8_t flat[8 * 8 * 3];
    struct file f = {0}, bits = jpeg_bits("10"
                                          "101000"
                                          "0"
                                          "10"
                                          "101000"
                                          "0"
                                          "10"
                                          "101000"
                                          "0"
                                          "10"
                                          "101000"
                                          "0");
    memset(flat, 111, sizeof flat);
    put_be16(&f, 0xFFD8);
    jpeg_segment(&f, 0xEE, "Adobe\0\144\0\0\0\0\0", 12);
    jpeg_quantizers(&f);
    jpeg_tables(&f);
    jpeg_frame(&f, 0xC0, 8, 8, 4, (const uint8_t[]){0x11, 0x11, 0x11, 0x11});
    jpeg_scan(&f, 1, 4, 0, 63, 0, bits.p, bits.len);
    put_be16(&f, 0xFFD9);
    expect_pixels(f, 3, 8, 8, flat, "CMYK");
}

/* The differences of many blocks add up beyond an int, times a quantiser of 65535. Builds with the
 * decoder's own checks call that damaged; what others make of it does not matter. */
#define SUM_BITS "01111111111111110"
Test(image, jpeg_with_sums_that_run_over)
{
    static const uint8_t dc[] = {0x00, 1, [17] = 15}, ac[] = {0x10, 1, [17] = 0};
    uint8_t quantizers[129] = {0x10};
    memset(quantizers + 1, 0xFF, 128);
    struct file f = {0}, bits = {0};
    /* Eight blocks of 17 bits: category 15, fifteen ones for +32767, end of block. */
    struct file eight =
        jpeg_bits(SUM_BITS SUM_BITS SUM_BITS SUM_BITS SUM_BITS SUM_BITS SUM_BITS SUM_BITS);
    put_be16(&f, 0xFFD8);
    jpeg_segment(&f, 0xDB, quantizers, sizeof quantizers);
    jpeg_segment(&f, 0xC4, dc, 18);
    jpeg_segment(&f, 0xC4, ac, 18);
    jpeg_frame(&f, 0xC0, 2400, 2400, 1, (const uint8_t[]){0x11});
    for (unsigned i = 0; i < 300 * 300 / 8; i++)
        put(&bits, eight.p, eight.len);
    jpeg_scan(&f, 1, 1, 0, 63, 0, bits.p, bits.len);
    put_be16(&f, 0xFFD9);
    struct image image = {0};
    enum gate_verdict verdict = decode(f, 1, &image);
    cr_expect(verdict == GATE_OK || verdict == GATE_CORRUPT);
    image_free(&image);
}

/* Entropy-coded data cannot be checked by the gate. Whatever it is, there is an answer. */
Test(image, damaged_jpeg_data_is_survived)
{
    static const char *const names[] = {"paper-8.jpg", "paper-9.jpg"};
    uint32_t random = 1;
    for (int n = 0; n < 2; n++) {
        struct data d = data_read(names[n]);
        struct file f = {d.bytes, d.len, d.len};
        for (int i = 0; i < 400; i++) {
            struct file bad = exactly(&f, f.len);
            for (int k = 0; k < 3; k++) {
                random = random * 1664525 + 1013904223;
                bad.p[(random >> 8) % bad.len] = (uint8_t)(random >> 24);
            }
            struct gate_info info;
            struct gate_reason why;
            struct image image = {0};
            if (gate_image(bad.p, bad.len, &limits, &info, &why) == GATE_OK) {
                enum gate_verdict verdict = image_decode(bad.p, bad.len, &info, 3, &image, &why);
                cr_expect(verdict == GATE_OK || verdict == GATE_CORRUPT);
                cr_expect((verdict == GATE_OK) == (image.pixels != NULL));
            }
            image_free(&image);
            free(bad.p);
        }
    }
}

/* With intact checksums, the compressed data of a PNG says anything. */
Test(image, damaged_png_data_is_survived)
{
    struct file raw = {0};
    for (unsigned y = 0; y < 40; y++) {
        put8(&raw, y % 5);
        for (unsigned x = 0; x < 40 * 3; x++)
            put8(&raw, (x * x + 7 * y) >> 2);
    }
    struct file good = deflated(raw.p, raw.len);
    uint32_t random = 7;
    for (int i = 0; i < 2000; i++) {
        struct file idat = {0}, f = {0};
        put(&idat, good.p, good.len);
        random = random * 1664525 + 1013904223;
        idat.p[(random >> 8) % idat.len] ^= (uint8_t)(1u << (random >> 29));
        png_signature(&f);
        png_header(&f, 40, 40, 8, 2, 0);
        png_chunk(&f, "IDAT", idat.p, idat.len);
        png_chunk(&f, "IEND", NULL, 0);
        struct image image = {0};
        cr_expect_eq(decode(f, 3, &image), GATE_CORRUPT, "byte %zu", (random >> 8) % idat.len);
    }
}

Test(image, drawn_digits_are_what_was_drawn)
{
    for (int digit = 0; digit < 10; digit++) {
        struct data png = data_read(data_printf("digit-%d.png", digit));
        struct data raw = data_read(data_printf("digit-%d.raw", digit));
        cr_assert_eq(raw.len, 784u);
        expect_pixels((struct file){png.bytes, png.len, png.len}, 1, 28, 28, raw.bytes, "a digit");
    }
}
