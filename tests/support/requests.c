/* Request bodies for /classify and what their answers must look like. */
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <zlib.h>

/* ---------------------------------------------------------------- bodies */

void body_add(struct body *b, const void *bytes, size_t len)
{
    if (b->room - b->len < len) {
        size_t room = 2 * (b->len + len);
        char *larger = data_alloc(room);
        if (b->len > 0)
            memcpy(larger, b->bytes, b->len);
        b->bytes = larger;
        b->room = room;
    }
    if (len > 0)
        memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
}

void body_printf(struct body *b, const char *format, ...)
{
    char text[8192];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cr_assert(len >= 0 && (size_t)len < sizeof text);
    body_add(b, text, (size_t)len);
}

void body_pixels(struct body *b, const uint8_t *pixels, const unsigned *extents, unsigned rank)
{
    if (rank == 0) {
        body_printf(b, "%u", *pixels);
        return;
    }
    size_t stride = 1;
    for (unsigned i = 1; i < rank; i++)
        stride *= extents[i];
    for (unsigned i = 0; i < extents[0]; i++) {
        body_add(b, i == 0 ? "[" : ",", 1);
        body_pixels(b, pixels + i * stride, extents + 1, rank - 1);
    }
    body_add(b, "]", 1);
}

void body_base64(struct body *b, const void *bytes, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = bytes;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t bits = (uint32_t)p[i] << 16;
        bits |= i + 1 < len ? (uint32_t)p[i + 1] << 8 : 0;
        bits |= i + 2 < len ? (uint32_t)p[i + 2] : 0;
        char four[4] = {digits[bits >> 18], digits[bits >> 12 & 63], digits[bits >> 6 & 63],
                        digits[bits & 63]};
        if (i + 1 >= len)
            four[2] = '=';
        if (i + 2 >= len)
            four[3] = '=';
        body_add(b, four, 4);
    }
}

void body_part(struct body *b, const char *name, const char *file_name, const void *bytes,
               size_t len)
{
    body_printf(b, "--cut\r\nContent-Disposition: form-data; name=\"%s\"", name);
    if (file_name != NULL)
        body_printf(b, "; filename=\"%s\"\r\nContent-Type: application/octet-stream", file_name);
    body_printf(b, "\r\n\r\n");
    body_add(b, bytes, len);
    body_printf(b, "\r\n");
}

void body_end_parts(struct body *b)
{
    body_printf(b, "--cut--\r\n");
}

/* ---------------------------------------------------------------- PNG files */

static void add_u32(struct body *b, uint32_t value)
{
    uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8),
                        (uint8_t)value};
    body_add(b, bytes, sizeof bytes);
}

static void add_chunk(struct body *b, const char *type, const void *bytes, size_t len)
{
    add_u32(b, (uint32_t)len);
    size_t start = b->len;
    body_add(b, type, 4);
    body_add(b, bytes, len);
    add_u32(b, (uint32_t)crc32(0, (const Bytef *)b->bytes + start, (uInt)(b->len - start)));
}

struct data make_png_from(const struct png_parts *parts)
{
    struct body png = {0}, header = {0};
    body_add(&png, "\x89PNG\r\n\x1a\n", 8);
    add_u32(&header, parts->width);
    add_u32(&header, parts->height);
    uint8_t rest[5] = {(uint8_t)parts->depth, (uint8_t)parts->color, 0, 0,
                       (uint8_t)parts->interlace};
    body_add(&header, rest, sizeof rest);
    add_chunk(&png, "IHDR", header.bytes, header.len);
    if (parts->palette != NULL)
        add_chunk(&png, "PLTE", parts->palette, parts->palette_len);
    uLongf packed_len = compressBound(parts->scan_lines_len);
    void *packed = data_alloc(packed_len);
    cr_assert(compress(packed, &packed_len, parts->scan_lines, parts->scan_lines_len) == Z_OK);
    add_chunk(&png, "IDAT", packed, packed_len);
    add_chunk(&png, "IEND", NULL, 0);
    return (struct data){(unsigned char *)png.bytes, png.len};
}

struct data make_png(const uint8_t *samples, unsigned width, unsigned height, unsigned channels)
{
    static const uint8_t colors[] = {0, 0, 4, 2, 6};
    struct body lines = {0};
    for (unsigned y = 0; y < height; y++) {
        body_add(&lines, "", 1);
        body_add(&lines, samples + (size_t)y * width * channels, (size_t)width * channels);
    }
    return make_png_from(&(struct png_parts){.width = width,
                                             .height = height,
                                             .depth = 8,
                                             .color = colors[channels],
                                             .scan_lines = lines.bytes,
                                             .scan_lines_len = lines.len});
}

/* ---------------------------------------------------------------- answers */

const uint8_t *digit_pixels(int digit)
{
    struct data raw = data_read(data_printf("digit-%d.raw", digit));
    cr_assert(raw.len == 784);
    return raw.bytes;
}

void expect_result(json_t *result, int digit, unsigned classes, const char *what)
{
    const char *text = json_dumps(result, JSON_COMPACT);
    const char *label = json_string_value(json_object_get(result, "label"));
    double probability = json_number_value(json_object_get(result, "probability"));
    json_t *list = json_object_get(result, "classes");
    cr_assert(label != NULL && json_array_size(list) == classes, "%s: %u classes: %s", what,
              (unsigned)json_array_size(list), text);
    cr_assert(strcmp(label, data_printf("%d", digit)) == 0, "%s: not a %d: %s", what, digit, text);
    double before = 1, sum = 0;
    for (size_t i = 0; i < classes; i++) {
        json_t *entry = json_array_get(list, i);
        json_t *index = json_object_get(entry, "index");
        double p = json_number_value(json_object_get(entry, "probability"));
        const char *name = json_string_value(json_object_get(entry, "label"));
        cr_assert(json_is_integer(index) && name != NULL, "%s: %s", what, text);
        cr_assert(strcmp(name, data_printf("%d", (int)json_integer_value(index))) == 0, "%s: %s",
                  what, text);
        cr_assert(p >= 0 && p <= before, "%s: classes out of order: %s", what, text);
        cr_assert(i > 0 || (p == probability && strcmp(name, label) == 0), "%s: %s", what, text);
        before = p;
        sum += p;
    }
    cr_assert(sum < 1 + 1e-5 && (classes < 10 || fabs(sum - 1) < 1e-5), "%s: sum %g: %s", what, sum,
              text);
    free((void *)(uintptr_t)text);
}

static void expect_timing(json_t *reply, const char *what)
{
    static const char *const names[] = {"decode", "queue", "compute"};
    json_t *timing = json_object_get(reply, "timing_ms");
    for (size_t i = 0; i < 3; i++) {
        json_t *ms = json_object_get(timing, names[i]);
        cr_assert(json_is_number(ms) && json_number_value(ms) >= 0, "%s: timing_ms.%s", what,
                  names[i]);
    }
}

json_t *expect_digit(const struct response *r, int digit, unsigned classes, const char *what)
{
    cr_assert(r != NULL, "%s: no response", what);
    cr_assert(r->status == 200, "%s: status %d: %s", what, r->status, r->body);
    json_t *reply = response_json(r);
    const char *model = json_string_value(json_object_get(reply, "model"));
    const char *version = json_string_value(json_object_get(reply, "version"));
    cr_assert(model != NULL && strcmp(model, "lenet5") == 0, "%s: %s", what, r->body);
    cr_assert(version != NULL && strcmp(version, "1") == 0, "%s: %s", what, r->body);
    expect_result(reply, digit, classes, what);
    expect_timing(reply, what);
    return reply;
}
