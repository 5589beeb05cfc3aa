/* Bodies of /classify: what they are taken for, the reply to each fault, and their tensors. */
#include "server/classify.h"

#include "tests/unit/image_build.h"

#include <criterion/criterion.h>

#define MULTIPART "multipart/form-data; boundary=cut"
#define OCTETS    "application/octet-stream"

static struct preprocess p;
static struct classify_limits limits = {
    .max_images = 4, .max_pixels = 10000, .max_input_bytes = 1000};
static uint8_t pixels[16];
static struct file png;

/* A grey model of 4 x 4 that takes pixels as they are. */
static void setup(void)
{
    preprocess_default(&p, 1, 4, 4);
    p.scale = 1;
    for (unsigned i = 0; i < 16; i++)
        pixels[i] = (uint8_t)(i * 16 + 1);
    png = png_of(pixels, 4, 4, 0);
}

TestSuite(classify_body, .init = setup);

static bool read_body(struct classify_body *b, const char *type, const void *bytes, size_t len,
                      struct classify_fault *fault)
{
    return classify_read(b, type, bytes, len, &p, &limits, fault);
}

/* Reads and decodes all images, and compares each with `pixels`. */
static void expect_pictures(const char *type, const void *bytes, size_t len, unsigned images,
                            enum gate_format expected)
{
    struct classify_body b;
    struct classify_fault fault;
    cr_assert(read_body(&b, type, bytes, len, &fault), "%s: %d %s", type, fault.status,
              fault.message);
    cr_assert_eq(b.images, images);
    cr_expect(classify_cost_ns(&b, &p, &limits) > 0);
    for (unsigned i = 0; i < images; i++) {
        float out[16];
        enum gate_format format;
        cr_assert(classify_decode(&b, i, &p, &limits, out, &format, &fault), "%s", fault.message);
        cr_expect_eq(format, expected);
        for (unsigned k = 0; k < 16; k++)
            cr_expect(out[k] == (float)pixels[k], "image %u, pixel %u: %g", i, k, (double)out[k]);
    }
    classify_free(&b);
}

/* Refused when it is read, or else when its last image is decoded. */
static void refuse(const char *type, const void *bytes, size_t len, int status, const char *code,
                   const char *message)
{
    struct classify_body b;
    struct classify_fault fault;
    float out[16];
    enum gate_format format;
    bool ok = read_body(&b, type, bytes, len, &fault);
    if (ok) {
        ok = classify_decode(&b, b.images - 1, &p, &limits, out, &format, &fault);
        classify_free(&b);
    }
    cr_assert_not(ok, "%s accepted", type);
    cr_expect(fault.status == status && strcmp(fault.code, code) == 0, "%s: %d %s: %s", type,
              fault.status, fault.code, fault.message);
    cr_expect(strstr(fault.message, message), "%s, not: %s", message, fault.message);
}

static void refuse_text(const char *type, const char *text, int status, const char *code,
                        const char *message)
{
    refuse(type, text, strlen(text), status, code, message);
}

/* JSON [H][W] of the pixels, after `prefix`. */
static struct file json_array(const char *prefix)
{
    struct file f = {0};
    put_text(&f, prefix);
    for (unsigned i = 0; i < 16; i++) {
        put_text(&f, data_printf("%s%u", i % 4 ? "," : i ? "],[" : "[[", pixels[i]));
    }
    put_text(&f, "]]}");
    return f;
}

static struct file base64_of(struct file bytes)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct file out = {0};
    for (size_t i = 0; i < bytes.len; i += 3) {
        uint32_t v = (uint32_t)bytes.p[i] << 16;
        v |= i + 1 < bytes.len ? (uint32_t)bytes.p[i + 1] << 8 : 0;
        v |= i + 2 < bytes.len ? bytes.p[i + 2] : 0;
        put8(&out, (uint8_t)digits[v >> 18]);
        put8(&out, (uint8_t)digits[v >> 12 & 63]);
        put8(&out, (uint8_t)(i + 1 < bytes.len ? digits[v >> 6 & 63] : '='));
        put8(&out, (uint8_t)(i + 2 < bytes.len ? digits[v & 63] : '='));
    }
    return out;
}

static struct file json_images(unsigned count)
{
    struct file f = {0}, encoded = base64_of(png);
    put_text(&f, "{\"images\":[");
    for (unsigned i = 0; i < count; i++) {
        put_text(&f, i ? ",\"" : "\"");
        put(&f, encoded.p, encoded.len);
        put8(&f, '"');
    }
    put_text(&f, "]}");
    return f;
}

static struct file multipart(const struct file *files, unsigned count, const char *header)
{
    struct file f = {0};
    for (unsigned i = 0; i < count; i++) {
        put_text(&f, data_printf("--cut\r\n%s\r\n", header));
        put(&f, files[i].p, files[i].len);
        put_text(&f, "\r\n");
    }
    put_text(&f, "--cut--\r\n");
    return f;
}

Test(classify_body, forms)
{
    static const char *const types[] = {"",     "image/png",        "image/jpeg", "text/plain",
                                        OCTETS, "application/json", MULTIPART};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        expect_pictures(types[i], png.p, png.len, 1, GATE_PNG);

    struct file array = json_array(" {\"pixels\":");
    static const char *const json_types[] = {"", "application/json", "text/plain", OCTETS,
                                             "application/x-www-form-urlencoded"};
    for (size_t i = 0; i < sizeof json_types / sizeof *json_types; i++)
        expect_pictures(json_types[i], array.p, array.len, 1, GATE_UNKNOWN);

    expect_pictures(OCTETS, pixels, 16, 1, GATE_UNKNOWN);
    expect_pictures("Application/Octet-Stream; x=y", pixels, 16, 1, GATE_UNKNOWN);
    expect_pictures("", pixels, 16, 1, GATE_UNKNOWN);
    pixels[0] = '{';
    expect_pictures(OCTETS, pixels, 16, 1, GATE_UNKNOWN);
}

static uint64_t cost_of(unsigned channels, unsigned side, const void *bytes, size_t len)
{
    const struct classify_limits wide = {
        .max_images = 4, .max_pixels = 10000, .max_input_bytes = 1 << 20};
    struct preprocess to;
    struct classify_body b;
    struct classify_fault fault;
    preprocess_default(&to, channels, side, side);
    to.resize = IMAGE_STRETCH;
    cr_assert(classify_read(&b, "", bytes, len, &to, &wide, &fault), "%s", fault.message);
    uint64_t cost = classify_cost_ns(&b, &to, &wide);
    classify_free(&b);
    return cost;
}

/* A small image is no small matter for a large model: an I/O thread must not decode it. */
Test(classify_body, cost_counts_what_an_image_becomes)
{
    static const char json[] = "{\"pixels\":[[1,2],[3,4]]}";
    uint64_t small = cost_of(1, 4, png.p, png.len), large = cost_of(3, 224, png.p, png.len);
    cr_expect(small < 200000, "%llu", (unsigned long long)small);
    cr_expect(large >= small + 3 * 224 * 224, "%llu", (unsigned long long)large);
    small = cost_of(1, 4, json, sizeof json - 1);
    large = cost_of(1, 224, json, sizeof json - 1);
    cr_expect(large >= small + 224 * 224 - 16, "%llu", (unsigned long long)large);
    /* What is not an image is refused at once, whatever the model's size. */
    cr_expect_eq(cost_of(3, 224, png.p, 20), 0);
}

Test(classify_body, several_images)
{
    const struct file three[] = {png, png, png};
    struct file images = json_images(3);
    struct file parts = multipart(three, 3, "Content-Disposition: form-data; filename=x\r\n");
    struct file nameless = multipart(three, 2, "Content-Disposition: form-data; name=x\r\n");
    expect_pictures("", images.p, images.len, 3, GATE_PNG);
    expect_pictures(MULTIPART, parts.p, parts.len, 3, GATE_PNG);
    expect_pictures(MULTIPART, nameless.p, nameless.len, 2, GATE_PNG);
}

/* Text fields are passed over. */
Test(classify_body, files_among_fields)
{
    struct file f = {0};
    put_text(&f, "--cut\r\n\r\n5\r\n");
    put_text(&f, "--cut\r\nContent-Disposition: form-data; filename=\"\"\r\n\r\n");
    put(&f, png.p, png.len);
    put_text(&f, "\r\n--cut\r\n\r\nx\r\n--cut--");
    expect_pictures(MULTIPART, f.p, f.len, 1, GATE_PNG);
}

Test(classify_body, what_it_is_not)
{
    refuse("image/png", "", 0, 400, "empty_body", "no body");
    refuse_text("image/png", "nothing of the kind", 415, "unsupported_image_format",
                "JPEG, PNG or BMP");
    refuse_text("", "GIF89a...", 415, "unsupported_image_format", "GIF");
    refuse_text("image/webp", "RIFF1234WEBPVP8 ", 415, "unsupported_image_format", "WebP");
    refuse_text(OCTETS, "RIFF1234WEBPVP8 L", 415, "unsupported_image_format", "WebP");
    refuse_text("", "....ftypheic", 415, "unsupported_image_format", "HEIC");
    refuse("", "II*\0........", 12, 415, "unsupported_image_format", "TIFF");
    refuse_text("", "%PDF-1.4", 415, "unsupported_image_format", "PDF");
    refuse_text("", "<svg/>", 415, "unsupported_image_format", "SVG");
    refuse(OCTETS, pixels, 15, 422, "shape_mismatch", "15 octets");
    refuse(OCTETS, pixels, 15, 422, "shape_mismatch", "are 16 octets");
    refuse("text/plain", pixels, 16, 415, "unsupported_image_format", "JPEG, PNG or BMP");
    refuse_text("application/json", "[[1,2]]", 400, "bad_json", "{\"pixels\": [...]}");
    refuse_text("application/json", "\xEF\xBB\xBF{}", 400, "bad_json", "byte order mark");
    refuse_text("application/json", "{\"pixels\":[1}", 400, "bad_json", "byte 12");
    refuse_text("application/json", "{\"pixels\":[NaN]}", 400, "bad_number", "byte 11");
    refuse_text("application/json", "{\"pixels\":[300]}", 422, "value_out_of_range", "255");
    refuse_text("application/json", "{\"pixels\":[1]}", 422, "shape_mismatch", "16");
    refuse_text("application/json", "{\"pictures\":[1]}", 400, "bad_request", "\"pictures\"");
    refuse_text("application/json", "{\"image\":\"aGVsbG8=\"}", 415, "unsupported_image_format",
                "");
    refuse_text(MULTIPART, "--cut\r\n\r\ntext\r\n--cut--", 400, "bad_multipart",
                "none of the 1 parts");
    refuse_text(MULTIPART, "--cut--", 400, "bad_multipart", "none of the 0 parts");
    refuse_text(MULTIPART, "--cut", 400, "bad_multipart", "");
    struct file nine[9];
    for (int i = 0; i < 9; i++)
        nine[i] = png;
    struct file f = multipart(nine, 9, "");
    refuse(MULTIPART, f.p, f.len, 400, "bad_multipart", "too many");
}

Test(classify_body, images_that_do_not_decode)
{
    struct file bad = patched(png, png.len - 20, "\1\2\3", 3), big = {0};
    refuse("", bad.p, bad.len, 422, "corrupt_image", "CRC");
    png_signature(&big);
    png_header(&big, 200, 51, 8, 0, 0);
    refuse("", big.p, big.len, 422, "image_too_large", "10200");
    struct file empty = {0};
    png_signature(&empty);
    png_header(&empty, 200, 0, 8, 0, 0);
    refuse("", empty.p, empty.len, 422, "zero_size_image", "200x0");
    const struct file two[] = {png, bad};
    struct file f = multipart(two, 2, "Content-Type: image/png\r\n");
    refuse(MULTIPART, f.p, f.len, 422, "corrupt_image", "image 2: ");

    p.resize = IMAGE_NO_RESIZE;
    struct file other = png_of(pixels, 8, 2, 0);
    refuse("", other.p, other.len, 422, "shape_mismatch", "8x2");
    refuse_text("", "{\"pixels\":[[1,2],[3,4]]}", 422, "shape_mismatch", "2x2");
}

/* 1000 bytes of tensors are 15 images of 4 x 4. */
Test(classify_body, limits_on_images)
{
    struct file f = json_images(4);
    expect_pictures("", f.p, f.len, 4, GATE_PNG);
    f = json_images(5);
    refuse("", f.p, f.len, 422, "shape_mismatch", "4");
    limits.max_input_bytes = 3 * 64 + 63;
    f = json_images(3);
    expect_pictures("", f.p, f.len, 3, GATE_PNG);
    f = json_images(4);
    refuse("", f.p, f.len, 413, "too_many_images", "at most 3");
}
