/* The image gate: what it lets through, and one refusal for each thing it looks at. */
#include "server/gate.h"

#include "tests/unit/jpeg_build.h"

#include <criterion/criterion.h>

static struct gate_limits limits = {.max_pixels = 1 << 20};

static enum gate_verdict gate(const struct file *f, struct gate_info *info, struct gate_reason *why)
{
    struct file copy = exactly(f, f->len);
    enum gate_verdict verdict = gate_image(copy.p, copy.len, &limits, info, why);
    free(copy.p);
    cr_expect((verdict == GATE_OK) == (why->text[0] == '\0'), "a reason, and only for a refusal");
    return verdict;
}

static void expect(struct file f, enum gate_verdict verdict, const char *what)
{
    struct gate_info info;
    struct gate_reason why;
    enum gate_verdict got = gate(&f, &info, &why);
    cr_expect(got == verdict, "%s: verdict %d, not %d: %s", what, got, verdict, why.text);
}

/* A file that is cut short anywhere is refused, without a byte read beyond it. */
static void expect_refused_when_cut(struct file f, size_t whole, const char *what)
{
    for (size_t len = 0; len < whole; len++) {
        struct file cut = exactly(&f, len);
        struct gate_info info;
        struct gate_reason why;
        enum gate_verdict got = gate_image(cut.p, len, &limits, &info, &why);
        cr_expect(got == GATE_CORRUPT || got == GATE_NOT_AN_IMAGE, "%s, %zu bytes: verdict %d",
                  what, len, got);
        free(cut.p);
    }
    expect(f, GATE_OK, what);
}

Test(gate_image, recognises_formats_by_their_bytes)
{
    struct file bmp = bmp_file(
        &(struct bmp_spec){.width = 1, .height = 1, .bits = 24, .rows = "abcd", .rows_len = 4});
    cr_expect_eq(gate_sniff("\xFF\xD8\xFF", 3), GATE_JPEG);
    cr_expect_eq(gate_sniff("\xFF\xD8\xFE", 3), GATE_UNKNOWN);
    cr_expect_eq(gate_sniff("\x89PNG\r\n\x1a\n", 8), GATE_PNG);
    cr_expect_eq(gate_sniff("\x89PNG\r\n\x1a\n", 7), GATE_UNKNOWN);
    cr_expect_eq(gate_sniff("\x89PNG\n\x1a\n\n", 8), GATE_UNKNOWN, "line ends were translated");
    cr_expect_eq(gate_sniff(bmp.p, bmp.len), GATE_BMP);
    cr_expect_eq(gate_sniff("BMW is not a bitmap", 19), GATE_UNKNOWN);
    cr_expect_eq(gate_sniff("GIF89a", 6), GATE_UNKNOWN);
    cr_expect_eq(gate_sniff("", 0), GATE_UNKNOWN);
    cr_expect_str_eq(gate_format_name(GATE_JPEG), "jpeg");
    cr_expect_str_eq(gate_format_name(GATE_PNG), "png");
    cr_expect_str_eq(gate_format_name(GATE_BMP), "bmp");
    cr_expect_str_eq(gate_format_name(GATE_UNKNOWN), "unknown");
    expect((struct file){(uint8_t *)data_printf("text"), 4, 4}, GATE_NOT_AN_IMAGE, "text");
}

/* ---------------------------------------------------------------- PNG */

static const uint8_t squares[] = {0, 50, 100, 150, 200, 250, 255, 128, 64, 32, 16, 8};

static struct file good_png(void)
{
    return png_of(squares, 4, 3, 0);
}

Test(gate_image, png_is_measured)
{
    struct gate_info info;
    struct gate_reason why;
    struct file f = good_png();
    cr_assert_eq(gate(&f, &info, &why), GATE_OK, "%s", why.text);
    cr_expect(info.format == GATE_PNG && info.width == 4 && info.height == 3 && info.channels == 1);
    cr_expect_eq(info.inflated_bytes, 3 * (1 + 4));
    cr_expect(info.cost_ns > 0 && info.cost_ns < 100000);

    /* 5x5 pixels of one bit, interlaced: passes 1x1, 1x1, 2x1, 1x2, 3x1, 2x3 and 5x2, each row a
     * filter byte and a byte of pixels. */
    uint8_t raw[2 * (1 + 1 + 1 + 2 + 1 + 3 + 2)] = {0};
    f = png_file(&(struct png){5, 5, 1, 0, 1, .raw = raw, .raw_len = sizeof raw});
    cr_assert_eq(gate(&f, &info, &why), GATE_OK, "%s", why.text);
    cr_expect_eq(info.inflated_bytes, sizeof raw);
}

Test(gate_image, png_is_refused_when_cut_short)
{
    struct file f = good_png();
    expect_refused_when_cut(f, f.len, "PNG");
    put(&f, "trailing bytes are not looked at", 32);
    expect(f, GATE_OK, "a PNG with trailing bytes");
}

/* Any changed bit is noticed by the CRCs, the signature or the structure. */
Test(gate_image, png_notices_every_flipped_bit)
{
    struct file f = good_png();
    for (size_t bit = 0; bit < f.len * 8; bit++) {
        struct file bad =
            patched(f, bit / 8, &(uint8_t){(uint8_t)(f.p[bit / 8] ^ 1u << bit % 8)}, 1);
        struct gate_info info;
        struct gate_reason why;
        cr_expect_neq(gate(&bad, &info, &why), GATE_OK, "bit %zu", bit);
    }
}

Test(gate_image, png_color_types_and_depths)
{
    static const bool legal[7][17] = {
        [0] = {[1] = 1, [2] = 1, [4] = 1, [8] = 1, [16] = 1},
        [2] = {[8] = 1, [16] = 1},
        [3] = {[1] = 1, [2] = 1, [4] = 1, [8] = 1},
        [4] = {[8] = 1, [16] = 1},
        [6] = {[8] = 1, [16] = 1},
    };
    for (unsigned color = 0; color < 9; color++) {
        for (unsigned depth = 0; depth < 19; depth++) {
            uint8_t raw[1 + 8] = {0};
            struct file f =
                png_file(&(struct png){1, 1, depth, color, 0, .palette = color == 3 ? "rgb" : NULL,
                                       .palette_len = 3, .raw = raw, .raw_len = sizeof raw});
            bool ok = color < 7 && depth < 17 && legal[color][depth];
            expect(f, ok ? GATE_OK : GATE_CORRUPT,
                   data_printf("color type %u, depth %u", color, depth));
        }
    }
}

/* A PNG of the given chunks between signature and IEND. */
struct chunk_spec {
    const char *type, *bytes;
    size_t len;
};
static struct file png_with(const struct chunk_spec *chunks, size_t count)
{
    struct file f = {0}, idat = deflated("\0\0\0\0\0\0", 6);
    png_signature(&f);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(chunks[i].type, "IDAT") == 0 && chunks[i].bytes == NULL)
            png_chunk(&f, "IDAT", idat.p, idat.len);
        else
            png_chunk(&f, chunks[i].type, chunks[i].bytes, chunks[i].len);
    }
    png_chunk(&f, "IEND", NULL, 0);
    return f;
}

#define RGB_HEADER                                 \
    {                                              \
        "IHDR", "\0\0\0\1\0\0\0\1\x08\2\0\0\0", 13 \
    }
#define GRAY_HEADER                                \
    {                                              \
        "IHDR", "\0\0\0\1\0\0\0\1\x08\0\0\0\0", 13 \
    }
#define ALPHA_HEADER                               \
    {                                              \
        "IHDR", "\0\0\0\1\0\0\0\1\x08\6\0\0\0", 13 \
    }
#define PALETTE_HEADER                           \
    {                                            \
        "IHDR", "\0\0\0\1\0\0\0\1\1\3\0\0\0", 13 \
    }
#define IDAT            \
    {                   \
        "IDAT", NULL, 0 \
    }

Test(gate_image, png_chunks)
{
    static const struct {
        enum gate_verdict verdict;
        const char *what;
        struct chunk_spec chunks[5];
    } rows[] = {
        {GATE_OK, "RGB", {RGB_HEADER, IDAT}},
        {GATE_OK,
         "text and an unknown ancillary chunk",
         {RGB_HEADER, {"tEXt", "a\0b", 3}, {"quUx", "", 0}, IDAT, {"tIME", "", 0}}},
        {GATE_OK,
         "an animation's chunks",
         {RGB_HEADER, {"acTL", "12345678", 8}, IDAT, {"fdAT", "", 0}}},
        {GATE_OK, "IDAT in two pieces", {RGB_HEADER, IDAT, {"IDAT", "", 0}}},
        {GATE_OK, "a suggested palette", {RGB_HEADER, {"PLTE", "rgb", 3}, IDAT}},
        {GATE_OK, "RGB transparency", {RGB_HEADER, {"tRNS", "123456", 6}, IDAT}},
        {GATE_OK, "a palette", {PALETTE_HEADER, {"PLTE", "rgbrgb", 6}, {"tRNS", "ab", 2}, IDAT}},
        {GATE_CORRUPT, "no IHDR", {IDAT}},
        {GATE_CORRUPT, "IHDR second", {{"tEXt", "", 0}, RGB_HEADER, IDAT}},
        {GATE_CORRUPT, "Apple's variant", {{"CgBI", "1234", 4}, RGB_HEADER, IDAT}},
        {GATE_CORRUPT, "IHDR twice", {RGB_HEADER, RGB_HEADER, IDAT}},
        {GATE_CORRUPT, "IHDR of 12 bytes", {{"IHDR", "\0\0\0\1\0\0\0\1\x08\2\0\0", 12}, IDAT}},
        {GATE_CORRUPT, "compression 1", {{"IHDR", "\0\0\0\1\0\0\0\1\x08\2\1\0\0", 13}, IDAT}},
        {GATE_CORRUPT, "filter 1", {{"IHDR", "\0\0\0\1\0\0\0\1\x08\2\0\1\0", 13}, IDAT}},
        {GATE_CORRUPT, "interlace 2", {{"IHDR", "\0\0\0\1\0\0\0\1\x08\2\0\0\2", 13}, IDAT}},
        {GATE_ZERO_SIZE, "no width", {{"IHDR", "\0\0\0\0\0\0\0\1\x08\2\0\0\0", 13}, IDAT}},
        {GATE_ZERO_SIZE, "no height", {{"IHDR", "\0\0\0\1\0\0\0\0\x08\2\0\0\0", 13}, IDAT}},
        {GATE_TOO_LARGE, "a side of 16385", {{"IHDR", "\0\0\x40\1\0\0\0\1\x08\2\0\0\0", 13}, IDAT}},
        {GATE_TOO_LARGE,
         "a side of 2^32 - 1",
         {{"IHDR", "\xFF\xFF\xFF\xFF\0\0\0\1\x08\2\0\0\0", 13}, IDAT}},
        {GATE_TOO_LARGE, "2 megapixels", {{"IHDR", "\0\0\x08\0\0\0\4\0\x08\2\0\0\0", 13}, IDAT}},
        {GATE_CORRUPT, "no IDAT", {RGB_HEADER}},
        {GATE_CORRUPT, "an empty IDAT", {RGB_HEADER, {"IDAT", "", 0}}},
        {GATE_CORRUPT, "IDAT chunks apart", {RGB_HEADER, IDAT, {"tEXt", "", 0}, {"IDAT", "", 0}}},
        {GATE_CORRUPT, "no palette", {PALETTE_HEADER, IDAT}},
        {GATE_CORRUPT, "a palette after IDAT", {PALETTE_HEADER, IDAT, {"PLTE", "rgb", 3}}},
        {GATE_CORRUPT,
         "two palettes",
         {PALETTE_HEADER, {"PLTE", "rgb", 3}, {"PLTE", "rgb", 3}, IDAT}},
        {GATE_CORRUPT, "a palette of 4 bytes", {PALETTE_HEADER, {"PLTE", "rgbr", 4}, IDAT}},
        {GATE_CORRUPT, "an empty palette", {PALETTE_HEADER, {"PLTE", "", 0}, IDAT}},
        {GATE_CORRUPT, "3 colors for one bit", {PALETTE_HEADER, {"PLTE", "rgbrgbrgb", 9}, IDAT}},
        {GATE_CORRUPT, "a palette for grey", {GRAY_HEADER, {"PLTE", "rgb", 3}, IDAT}},
        {GATE_CORRUPT,
         "transparency before the palette",
         {PALETTE_HEADER, {"tRNS", "a", 1}, {"PLTE", "rgb", 3}, IDAT}},
        {GATE_CORRUPT,
         "transparency of more colors than the palette has",
         {PALETTE_HEADER, {"PLTE", "rgb", 3}, {"tRNS", "ab", 2}, IDAT}},
        {GATE_CORRUPT,
         "transparency twice",
         {GRAY_HEADER, {"tRNS", "ab", 2}, {"tRNS", "ab", 2}, IDAT}},
        {GATE_CORRUPT, "transparency of 3 bytes for grey", {GRAY_HEADER, {"tRNS", "abc", 3}, IDAT}},
        {GATE_CORRUPT, "transparency beside alpha", {ALPHA_HEADER, {"tRNS", "ab", 2}, IDAT}},
        {GATE_CORRUPT, "transparency after IDAT", {GRAY_HEADER, IDAT, {"tRNS", "ab", 2}}},
        {GATE_VARIANT, "an unknown critical chunk", {RGB_HEADER, {"QUUX", "", 0}, IDAT}},
        {GATE_CORRUPT, "a chunk type with a digit", {RGB_HEADER, {"tE3t", "", 0}, IDAT}},
        {GATE_CORRUPT, "IEND with data", {RGB_HEADER, IDAT, {"IEND", "x", 1}}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t count = 0;
        while (count < 5 && rows[i].chunks[count].type)
            count++;
        expect(png_with(rows[i].chunks, count), rows[i].verdict, rows[i].what);
    }
}

/* Deflate stores what it cannot shrink: far more of it than of pixels only costs time. */
Test(gate_image, png_with_too_much_compressed_data)
{
    struct file f = {0};
    size_t len = 80 * 1024;
    png_signature(&f);
    png_header(&f, 4, 3, 8, 0, 0);
    png_chunk(&f, "IDAT", data_alloc(len), len);
    png_chunk(&f, "IEND", NULL, 0);
    expect(f, GATE_CORRUPT, "80 KiB of IDAT for 15 bytes of pixels");
}

/* ---------------------------------------------------------------- BMP */

static const uint8_t bmp_rows[64];

Test(gate_image, bmp_is_measured_and_refused_when_cut_short)
{
    struct gate_info info;
    struct gate_reason why;
    /* 5 pixels of 3 bytes take 16 bytes a row. */
    struct file f = bmp_file(
        &(struct bmp_spec){.width = 5, .height = 3, .bits = 24, .rows = bmp_rows, .rows_len = 48});
    cr_assert_eq(gate(&f, &info, &why), GATE_OK, "%s", why.text);
    cr_expect(info.format == GATE_BMP && info.width == 5 && info.height == 3);
    expect_refused_when_cut(f, f.len, "BMP");

    f = bmp_file(&(struct bmp_spec){
        .width = 5, .height = (uint32_t)-3, .bits = 24, .rows = bmp_rows, .rows_len = 48});
    cr_assert_eq(gate(&f, &info, &why), GATE_OK, "top-down: %s", why.text);
    cr_expect_eq(info.height, 3u);
}

Test(gate_image, bmp_variants)
{
    static const uint32_t rgba[] = {0xFF0000, 0xFF00, 0xFF, 0xFF000000},
                          rgb555[] = {0x7C00, 0x3E0, 0x1F, 0},
                          wide[] = {0x3FF00000, 0xFFC00, 0x3FF, 0},
                          torn[] = {0xF0F000, 0xF0F, 0xF0, 0}, overlap[] = {0xFF, 0xFF00, 0xFF, 0},
                          none[] = {0xFF, 0xFF00, 0, 0},
                          alpha[] = {0xFF, 0xFF00, 0xFF0000, 0x5000000};
    static const uint8_t palette[1024];
    const struct {
        enum gate_verdict verdict;
        const char *what;
        struct bmp_spec b;
    } rows[] = {
        {GATE_OK, "32 bits", {.bits = 32}},
        {GATE_OK, "32 bits with masks", {.bits = 32, .compression = 3, .masks = rgba}},
        {GATE_OK, "15 of 32 bits", {.bits = 32, .compression = 3, .masks = rgb555}},
        {GATE_OK, "header 108", {.bits = 24, .header = 108}},
        {GATE_OK,
         "header 124 with masks",
         {.bits = 32, .header = 124, .compression = 3, .masks = rgba}},
        {GATE_OK, "a palette", {.bits = 8, .colors = 1, .palette = palette}},
        {GATE_OK, "a whole palette", {.bits = 8, .colors = 256, .palette = palette}},
        {GATE_VARIANT, "10-bit channels", {.bits = 32, .compression = 3, .masks = wide}},
        {GATE_VARIANT, "masks with gaps", {.bits = 32, .compression = 3, .masks = torn}},
        {GATE_VARIANT, "no blue", {.bits = 32, .compression = 3, .masks = none}},
        {GATE_VARIANT,
         "alpha with gaps",
         {.bits = 32, .header = 124, .compression = 3, .masks = alpha}},
        {GATE_CORRUPT, "masks overlap", {.bits = 32, .compression = 3, .masks = overlap}},
        {GATE_VARIANT, "OS/2", {.bits = 24, .header = 12}},
        {GATE_VARIANT, "OS/2 version 2", {.bits = 24, .header = 64}},
        {GATE_VARIANT, "header 56", {.bits = 24, .header = 56}},
        {GATE_VARIANT, "1 bit", {.bits = 1, .colors = 2, .palette = palette}},
        {GATE_VARIANT, "4 bits", {.bits = 4, .colors = 16, .palette = palette}},
        {GATE_VARIANT, "16 bits", {.bits = 16}},
        {GATE_VARIANT,
         "run-length coding",
         {.bits = 8, .compression = 1, .colors = 1, .palette = palette}},
        {GATE_VARIANT, "a JPEG inside", {.bits = 24, .compression = 4}},
        {GATE_VARIANT, "masks for 24 bits", {.bits = 24, .compression = 3}},
        {GATE_CORRUPT, "no palette", {.bits = 8}},
        {GATE_CORRUPT,
         "a palette of 257",
         {.bits = 8, .colors = 257, .palette = data_alloc(4 * 257)}},
        {GATE_CORRUPT, "data inside the header", {.bits = 24, .offset = 53}},
        {GATE_CORRUPT, "data beyond the end", {.bits = 24, .offset = 0xFFFFFFFF}},
        {GATE_VARIANT, "a gap before the data", {.bits = 24, .offset = 58, .rows_len = 64}},
        {GATE_CORRUPT, "short by one byte", {.bits = 32, .rows_len = 47}},
        {GATE_ZERO_SIZE, "no width", {.bits = 24, .height = 5}},
        {GATE_ZERO_SIZE, "no height", {.bits = 24, .width = 5}},
        {GATE_TOO_LARGE, "the height INT_MIN", {.bits = 24, .width = 1, .height = 0x80000000}},
        {GATE_TOO_LARGE, "a negative width", {.bits = 24, .width = (uint32_t)-1, .height = 1}},
        {GATE_TOO_LARGE, "10000x10000", {.bits = 24, .width = 10000, .height = 10000}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct bmp_spec b = rows[i].b;
        b.rows = bmp_rows;
        b.rows_len = b.rows_len ? b.rows_len : 48;
        if (b.width == 0 && b.height == 0)
            b.width = 4, b.height = 3;
        expect(bmp_file(&b), rows[i].verdict, rows[i].what);
    }
    struct file f = bmp_file(
        &(struct bmp_spec){.width = 4, .height = 3, .bits = 24, .rows = bmp_rows, .rows_len = 48});
    expect(patched(f, 26, "\2", 1), GATE_CORRUPT, "two planes");
}

Test(gate_image, bmp_pixels_must_be_in_the_palette)
{
    static const uint8_t palette[8], inside[] = {0, 1, 1, 9}, outside[] = {0, 1, 2, 9};
    struct bmp_spec b = {.width = 3,
                         .height = 1,
                         .bits = 8,
                         .colors = 2,
                         .palette = palette,
                         .rows = inside,
                         .rows_len = 4};
    expect(bmp_file(&b), GATE_OK, "colors 0 and 1 of two; the row's padding does not count");
    b.rows = outside;
    expect(bmp_file(&b), GATE_CORRUPT, "color 2 of two");
}

/* ---------------------------------------------------------------- JPEG */

Test(gate_image, jpeg_is_measured_and_refused_when_cut_short)
{
    static const unsigned markers[] = {0xC0, 0xC1, 0xC2};
    for (size_t i = 0; i < 3; i++) {
        struct gate_info info;
        struct gate_reason why;
        struct file f = jpeg_gray(markers[i]);
        cr_assert_eq(gate(&f, &info, &why), GATE_OK, "%s", why.text);
        cr_expect(info.format == GATE_JPEG && info.width == 16 && info.height == 8 &&
                  info.channels == 1);
        expect_refused_when_cut(f, f.len, "JPEG");
        put(&f, "trailing bytes are not looked at", 32);
        expect(f, GATE_OK, "a JPEG with trailing bytes");
    }
}

/* The parts of a grey baseline file, to be replaced one at a time. */
enum jpeg_part { QUANTIZERS, TABLES, FRAME, BEFORE_SCAN, SCAN, AFTER_SCAN, END, PARTS };

static struct file jpeg_with(enum jpeg_part replaced, struct file by)
{
    struct file f = {0}, bits = jpeg_bits(JPEG_BASELINE_BITS);
    put_be16(&f, 0xFFD8);
    for (int part = 0; part < PARTS; part++) {
        if (part == (int)replaced) {
            put(&f, by.p, by.len);
            continue;
        }
        if (part == QUANTIZERS)
            jpeg_quantizers(&f);
        else if (part == TABLES)
            jpeg_tables(&f);
        else if (part == FRAME)
            jpeg_frame(&f, 0xC0, 16, 8, 1, (const uint8_t[]){0x11});
        else if (part == SCAN)
            jpeg_scan(&f, 1, 1, 0, 63, 0, bits.p, bits.len);
        else if (part == END)
            put_be16(&f, 0xFFD9);
    }
    return f;
}

static void expect_part(enum jpeg_part part, struct file by, enum gate_verdict verdict,
                        const char *what)
{
    expect(jpeg_with(part, by), verdict, what);
}

static struct file segment(unsigned marker, const void *bytes, size_t len)
{
    struct file f = {0};
    jpeg_segment(&f, marker, bytes, len);
    return f;
}

static struct file frame(unsigned marker, unsigned w, unsigned h, unsigned n,
                         const uint8_t *sampling)
{
    struct file f = {0};
    jpeg_frame(&f, marker, w, h, n, sampling);
    return f;
}

Test(gate_image, jpeg_huffman_tables)
{
    /* 16 lengths of 255 codes: the table that writes past the end of the decoder's. */
    uint8_t bad[17 + 4080] = {0x00};
    memset(bad + 1, 255, 16);
    expect_part(TABLES, segment(0xC4, bad, sizeof bad), GATE_CORRUPT, "4080 symbols");

    static const struct {
        const char *what;
        uint8_t bytes[24];
        size_t len;
        enum gate_verdict verdict;
    } rows[] = {
        {"3 codes of 1 bit", {0x10, 3, [17] = 1, 2, 3}, 20, GATE_CORRUPT},
        {"2 codes of 1 bit and one of 2", {0x10, 2, 1, [17] = 1, 2, 3}, 20, GATE_CORRUPT},
        {"2 codes of 1 bit", {0x11, 2, [17] = 1, 2}, 19, GATE_OK},
        {"table 4", {0x14, 1, [17] = 1}, 18, GATE_CORRUPT},
        {"class 2", {0x20, 1, [17] = 1}, 18, GATE_CORRUPT},
        {"a symbol is missing", {0x10, 2, [17] = 1}, 18, GATE_CORRUPT},
        {"cut off in the counts", {0x10, 1}, 16, GATE_CORRUPT},
        {"a byte too many", {0x11, 1, [17] = 1, 9}, 19, GATE_CORRUPT},
        {"a DC symbol of 16", {0x01, 1, [17] = 16}, 18, GATE_CORRUPT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_part(BEFORE_SCAN, segment(0xC4, rows[i].bytes, rows[i].len), rows[i].verdict,
                    rows[i].what);

    struct file f = {0};
    expect_part(TABLES, f, GATE_CORRUPT, "no Huffman tables");
    expect_part(TABLES, segment(0xC4, (const uint8_t[18]){0x00, 1}, 18), GATE_CORRUPT,
                "no AC table");
    expect_part(TABLES, segment(0xC4, (const uint8_t[18]){0x10, 1}, 18), GATE_CORRUPT,
                "no DC table");
}

Test(gate_image, jpeg_segments)
{
    uint8_t table[130] = {0x10};
    struct file f = {0};
    expect_part(QUANTIZERS, f, GATE_CORRUPT, "no quantisers");
    expect_part(QUANTIZERS, segment(0xDB, table, 129), GATE_OK, "16-bit quantisers");
    expect_part(QUANTIZERS, segment(0xDB, table, 128), GATE_CORRUPT, "short 16-bit quantisers");
    expect_part(QUANTIZERS, segment(0xDB, table, 130), GATE_CORRUPT, "long 16-bit quantisers");
    table[0] = 0x20;
    expect_part(QUANTIZERS, segment(0xDB, table, 129), GATE_CORRUPT, "quantisers of precision 2");
    table[0] = 0x04;
    expect_part(QUANTIZERS, segment(0xDB, table, 65), GATE_CORRUPT, "quantiser 4");
    expect_part(BEFORE_SCAN, segment(0xE1, "Exif", 4), GATE_OK, "APP1");
    expect_part(BEFORE_SCAN, segment(0xFE, "", 0), GATE_OK, "an empty comment");
    expect_part(BEFORE_SCAN, segment(0xDD, "\0\0", 2), GATE_OK, "no restart interval");
    expect_part(BEFORE_SCAN, segment(0xDD, "\0\1\0", 3), GATE_CORRUPT, "a long restart interval");
    expect_part(BEFORE_SCAN, segment(0xCC, "", 0), GATE_VARIANT, "arithmetic conditioning");
    expect_part(BEFORE_SCAN, segment(0xF0, "", 0), GATE_CORRUPT, "an unknown marker");
    expect_part(BEFORE_SCAN, segment(0xD0, "", 0), GATE_CORRUPT, "a restart out of place");
    expect_part(BEFORE_SCAN, segment(0xD8, "", 0), GATE_CORRUPT, "a second start");
    expect_part(AFTER_SCAN, segment(0xDC, "\0\x08", 2), GATE_OK, "DNL with the same height");
    expect_part(AFTER_SCAN, segment(0xDC, "\0\x10", 2), GATE_VARIANT, "DNL with another height");
    put(&f, "\xFF\xFE\0\1", 4);
    expect_part(BEFORE_SCAN, f, GATE_CORRUPT, "a segment shorter than its length field");
    f = (struct file){0};
    put(&f, "\xFF\xFE\xFF\xFF", 4);
    expect_part(BEFORE_SCAN, f, GATE_CORRUPT, "a segment beyond the end");
    f = (struct file){0};
    put(&f, "\xFF\xFF\xFF\xFE\0\2", 6);
    expect_part(BEFORE_SCAN, f, GATE_OK, "fill bytes before a marker");
    f = (struct file){0};
    put(&f, "padding", 7);
    expect_part(TABLES, f, GATE_CORRUPT, "padding in the place of the tables");
    jpeg_tables(&f);
    expect_part(TABLES, f, GATE_OK, "padding before the frame");
    expect_part(BEFORE_SCAN, (struct file){(uint8_t *)data_printf("x"), 1, 1}, GATE_CORRUPT,
                "padding behind the frame");
}

Test(gate_image, jpeg_frames)
{
    static const uint8_t one[] = {0x11}, three[] = {0x22, 0x11, 0x11},
                         four[] = {0x11, 0x11, 0x11, 0x11}, zero[] = {0x01}, five[] = {0x51},
                         fraction[] = {0x31, 0x21, 0x11};
    static const unsigned refused[] = {0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9,
                                       0xCA, 0xCB, 0xCD, 0xCE, 0xCF};
    struct file f = {0};
    expect_part(FRAME, f, GATE_CORRUPT, "no frame");
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        expect_part(FRAME, frame(refused[i], 16, 8, 1, one), GATE_VARIANT,
                    data_printf("SOF %X", refused[i]));
    expect_part(BEFORE_SCAN, frame(0xC0, 16, 8, 1, one), GATE_CORRUPT, "a second frame");
    expect_part(FRAME, frame(0xC0, 0, 8, 1, one), GATE_ZERO_SIZE, "no width");
    expect_part(FRAME, frame(0xC0, 16, 0, 1, one), GATE_ZERO_SIZE, "no height");
    expect_part(FRAME, frame(0xC0, 16385, 8, 1, one), GATE_TOO_LARGE, "a side of 16385");
    expect_part(FRAME, frame(0xC0, 2048, 1024, 1, one), GATE_TOO_LARGE, "2 megapixels");
    expect_part(FRAME, frame(0xC0, 16, 8, 2, three), GATE_VARIANT, "two components");
    expect_part(FRAME, frame(0xC0, 16, 8, 1, zero), GATE_CORRUPT, "sampling of 0");
    expect_part(FRAME, frame(0xC0, 16, 8, 1, five), GATE_CORRUPT, "sampling of 5");
    expect_part(FRAME, frame(0xC0, 16, 8, 3, fraction), GATE_VARIANT, "sampling of 3 to 2");
    expect_part(FRAME, frame(0xC0, 16, 8, 3, three), GATE_CORRUPT, "two components without data");
    f = frame(0xC0, 16, 8, 4, four);
    f.p[4] = 12;
    expect_part(FRAME, f, GATE_VARIANT, "12 bits");
    f = frame(0xC0, 16, 8, 1, one);
    f.p[f.len - 1] = 4;
    expect_part(FRAME, f, GATE_CORRUPT, "quantiser 4");
    f = frame(0xC0, 16, 8, 1, one);
    f.p[f.len - 1] = 1;
    expect_part(FRAME, f, GATE_CORRUPT, "a quantiser that is not there");
    f = frame(0xC0, 16, 8, 3, four);
    f.p[f.len - 3] = 1;
    expect_part(FRAME, f, GATE_CORRUPT, "one component number twice");
    expect_part(FRAME, segment(0xC0, "\x08\0\x08\0\x10\1\1\x11\0\0", 10), GATE_CORRUPT,
                "a frame header of a wrong length");
}

static struct file scan(unsigned first, unsigned count, unsigned from, unsigned to,
                        unsigned high_low, const char *bits)
{
    struct file f = {0}, data = jpeg_bits(bits);
    jpeg_scan(&f, first, count, from, to, high_low, data.p, data.len);
    return f;
}

Test(gate_image, jpeg_scans)
{
    struct file f = {0};
    expect_part(SCAN, f, GATE_CORRUPT, "no scan");
    expect_part(SCAN, scan(2, 1, 0, 63, 0, "00000"), GATE_CORRUPT, "component 2");
    expect_part(SCAN, scan(1, 2, 0, 63, 0, "00000"), GATE_CORRUPT,
                "more components than the frame");
    expect_part(SCAN, scan(1, 1, 1, 63, 0, "00000"), GATE_CORRUPT, "from coefficient 1");
    expect_part(SCAN, scan(1, 1, 0, 63, 0x10, "00000"), GATE_CORRUPT, "a refinement");
    expect_part(SCAN, scan(1, 1, 0, 63, 0, ""), GATE_CORRUPT, "no data: 2 blocks need 4 bits");
    f = scan(1, 1, 0, 63, 0, "00000");
    f.p[6] = 0x40;
    expect_part(SCAN, f, GATE_CORRUPT, "DC table 4");
    f.p[6] = 0x01;
    expect_part(SCAN, f, GATE_CORRUPT, "an AC table that is not defined");
    f.p[6] = 0;
    f.p[4] = 0;
    expect_part(SCAN, f, GATE_CORRUPT, "a scan of nothing");
    expect_part(FRAME, scan(1, 1, 0, 63, 0, "00000"), GATE_CORRUPT, "a scan before the frame");
    f = jpeg_gray(0xC0);
    struct file many = {0};
    put(&many, f.p, f.len - 2);
    for (int i = 0; i < 99; i++) {
        struct file more = scan(1, 1, 0, 63, 0, JPEG_BASELINE_BITS);
        put(&many, more.p, more.len);
    }
    struct file allowed = {0};
    put(&allowed, many.p, many.len);
    put_be16(&allowed, 0xFFD9);
    expect(allowed, GATE_OK, "100 scans");
    f = scan(1, 1, 0, 63, 0, JPEG_BASELINE_BITS);
    put(&many, f.p, f.len);
    put_be16(&many, 0xFFD9);
    expect(many, GATE_TOO_COMPLEX, "101 scans");
}

/* A progressive file with one more scan after its DC scan. */
static struct file progressive_with(struct file second)
{
    struct file f = jpeg_gray(0xC2), out = {0};
    put(&out, f.p, f.len - 2);
    put(&out, second.p, second.len);
    put_be16(&out, 0xFFD9);
    return out;
}

Test(gate_image, jpeg_progressive_scans)
{
    static const struct {
        unsigned from, to, high_low;
        enum gate_verdict verdict;
    } rows[] = {
        {1, 63, 0x00, GATE_OK},     {1, 5, 0x02, GATE_OK},       {6, 63, 0x21, GATE_OK},
        {0, 0, 0x10, GATE_OK},      {5, 64, 0x00, GATE_CORRUPT}, {5, 4, 0x00, GATE_CORRUPT},
        {0, 5, 0x00, GATE_CORRUPT}, {1, 5, 0x20, GATE_CORRUPT},  {1, 5, 0x11, GATE_CORRUPT},
        {1, 5, 0xED, GATE_CORRUPT}, {1, 5, 0x0E, GATE_CORRUPT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect(progressive_with(scan(1, 1, rows[i].from, rows[i].to, rows[i].high_low, "00")),
               rows[i].verdict,
               data_printf("%u to %u, %X", rows[i].from, rows[i].to, rows[i].high_low));
    struct file f = {0}, bits = jpeg_bits("00");
    put_be16(&f, 0xFFD8);
    jpeg_quantizers(&f);
    jpeg_tables(&f);
    jpeg_frame(&f, 0xC2, 16, 8, 1, (const uint8_t[]){0x11});
    jpeg_scan(&f, 1, 1, 1, 63, 0, bits.p, bits.len);
    put_be16(&f, 0xFFD9);
    expect(f, GATE_CORRUPT, "AC coefficients alone");
}

/* 16x8 pixels are two blocks; with an interval of 1 there is one restart between them. */
Test(gate_image, jpeg_restart_markers)
{
    static const struct {
        const char *what, *data;
        size_t len;
        enum gate_verdict verdict;
    } rows[] = {
        {"one", "\xA8\x7F\xFF\xD0\xA8\x7F", 6, GATE_OK},
        {"one, and one at the end", "\xA8\x7F\xFF\xD0\xA8\x7F\xFF\xD1", 8, GATE_OK},
        {"none", "\xA8\x1F", 2, GATE_CORRUPT},
        {"two of one, and one at the end", "\xA8\x7F\xFF\xD0\xA8\x7F\xFF\xD1\xA8\xFF\xD2", 11,
         GATE_CORRUPT},
        {"one of a wrong number", "\xA8\x7F\xFF\xD1\xA8\x7F", 6, GATE_CORRUPT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct file f = segment(0xDD, "\0\1", 2);
        jpeg_scan(&f, 1, 1, 0, 63, 0, rows[i].data, rows[i].len);
        expect_part(SCAN, f, rows[i].verdict, rows[i].what);
    }
    struct file f = {0};
    jpeg_scan(&f, 1, 1, 0, 63, 0, "\xA8\x7F\xFF\xD0\xA8\x7F", 6);
    expect_part(SCAN, f, GATE_CORRUPT, "a restart without an interval");
}

/* A few bytes that claim many pixels: the data of 100 megapixels is not there. */
Test(gate_image, jpeg_of_10000x10000)
{
    struct file f = jpeg_with(FRAME, frame(0xC0, 10000, 10000, 1, (const uint8_t[]){0x11}));
    expect(f, GATE_TOO_LARGE, "with the usual limit");
    limits.max_pixels = 1 << 30;
    expect(f, GATE_CORRUPT, "with none");
}

/* Scans of 4 megapixels that hold no data cost the decoder a walk over every block each. */
Test(gate_image, jpeg_too_costly)
{
    struct file f = {0}, bits = {0};
    limits.max_pixels = 1 << 24;
    put_be16(&f, 0xFFD8);
    jpeg_quantizers(&f);
    jpeg_tables(&f);
    jpeg_frame(&f, 0xC2, 2048, 2048, 1, (const uint8_t[]){0x11});
    put(&bits, data_alloc(65536 / 8), 65536 / 8);
    jpeg_scan(&f, 1, 1, 0, 0, 0, bits.p, bits.len);
    size_t one = f.len;
    for (int i = 0; i < 60; i++)
        jpeg_scan(&f, 1, 1, 1, 63, 0, "\0", 1);
    put_be16(&f, 0xFFD9);
    expect(f, GATE_TOO_COMPLEX, "60 scans of 4 megapixels");
    limits.max_cost_ns = 60000000000u;
    expect(f, GATE_OK, "with a minute allowed");
    limits.max_cost_ns = 0;
    f.len = one;
    put_be16(&f, 0xFFD9);
    expect(f, GATE_OK, "one scan");
}
