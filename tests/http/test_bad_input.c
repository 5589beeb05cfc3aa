/*
 * /classify with bodies that are wrong: the right status and code for each, and a server that goes
 * on as if nothing had happened.
 *
 * What clients get wrong, by mistake or on purpose, and where it is tested. SUITE.name is in
 * test_SUITE.c of this folder, unit is the folder beside it.
 *
 *   bytes that are not HTTP; versions; Host
 *       framing.request_line_and_headers
 *   headers without a colon, with spaces, controls, folds, zeros
 *       framing.request_line_and_headers, .length_and_encoding, .what_the_library_hides;
 *       unit/test_gate_framing.c
 *   Content-Length and Transfer-Encoding
 *       framing.length_and_encoding; proxy.smuggling_*
 *   bodies that are too large, announced or not
 *       upload.too_large_*, .far_too_large_is_cut, .expect_continue; proxy.early_errors_*,
 *       .chunked_bodies_*
 *   chunks: malformed, a million, dripping
 *       framing.length_and_encoding; upload.a_million_chunks; slow.every_kind_*
 *   a target or header that is too long, too many headers
 *       framing.too_much_of_everything
 *   paths and queries with escapes and controls
 *       framing.paths_have_one_spelling; unit/test_routes.c
 *   unknown paths and methods, with a body or without
 *       framing.wrong_methods_*, .a_refused_body_*
 *   no length, GET with a body, unknown expectations
 *       framing.length_and_encoding, .request_line_and_headers
 *   Content-Encoding: unknown, corrupt, a bomb
 *       upload.compressed_bodies; unit/test_inflate.c
 *   Content-Type: wrong or missing
 *       classify.answers_the_same_for_every_form_of_a_picture
 *   no body, files of other formats
 *       bad_input.not_an_image
 *   JPEG, PNG, BMP: corrupt, bombs, too large
 *       bad_input.jpeg, .png, .bmp, .max_pixels; unit/test_gate_image.c, test_image.c
 *   the same: odd and allowed
 *       bad_input.variants_are_accepted; classify.reads_every_variant_of_png
 *   multipart; names of files
 *       bad_input.multipart, .names_of_files; unit/test_multipart.c
 *   JSON, numbers, shapes, base64
 *       bad_input.json; unit/test_pixels.c, test_base64.c
 *   too many images
 *       bad_input.too_many_images
 *   unknown models, versions, arguments
 *       bad_input.options; classify.model_and_version_can_be_named
 *   X-Request-Timeout-Ms
 *       bad_input.options; batching.deadlines, .a_delay_leaves_*; unit/test_batch_limits.c
 *   no room: queue, bytes, connections
 *       batching.a_full_queue_refuses, .too_many_*; proxy.a_full_queue_*
 *   loading, draining
 *       lifecycle.loading; drain.*; proxy.draining_*
 *   slow headers, bodies and readers; silence
 *       slow.*
 *   gone in the middle of a body, in the queue, half-closed
 *       upload.clients_that_leave; batching.requests_of_clients_*
 *   an answer that is not finite
 *       batching.poison_spoils_its_own_answer_alone
 *   keep-alive, pipelining, the proxy's idle time
 *       upload.many_*, .pipelined_*; proxy.connections_are_reused_*, .idle_connections_*
 *   few descriptors, no log, stopped, replaced, confined
 *       lifecycle.*
 *   floods of log lines
 *       framing.garbage_does_not_flood_the_log; unit/test_log.c
 *   the end while requests are in every state
 *       drain.*; lifecycle.ended_while_computing
 */
#include "tests/support/requests.h"
#include "tests/unit/jpeg_build.h"

#include <criterion/criterion.h>

#include <zlib.h>

struct bad {
    const char *what, *type;
    struct data body;
    int status;
    const char *code; /* NULL: any */
};

/* What an error's message must tell for the client to know what to do. */
static void expect_helpful(const struct response *r, const char *what)
{
    static const struct {
        const char *code, *word, * or ;
    } rows[] = {
        {"bad_json", "byte ", " object"},
        {"bad_number", "byte ", "byte "},
        {"shape_mismatch", "784", "images"},
        {"unsupported_image_format", "JPEG, PNG or BMP", "JPEG, PNG and BMP"},
        {"value_out_of_range", "255", "255"},
    };
    json_t *error = json_object_get(response_json(r), "error");
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *message = json_string_value(json_object_get(error, "message"));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        cr_expect(strcmp(code, rows[i].code) != 0 || strstr(message, rows[i].word) != NULL ||
                      strstr(message, rows[i].or) != NULL,
                  "%s: nothing about %s: %s", what, rows[i].word, message);
}

static void run(struct server *s, const struct bad *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct response *r =
            http_post(s, "/classify", rows[i].type, rows[i].body.bytes, rows[i].body.len);
        response_expect_error(r, rows[i].status, rows[i].code, rows[i].what);
        expect_helpful(r, rows[i].what);
    }
    struct data png = data_read("digit-0.png");
    expect_digit(http_post(s, "/classify", NULL, png.bytes, png.len), 0, 5, "afterwards");
}
#define RUN(s, rows) run(s, rows, sizeof(rows) / sizeof *(rows))

static struct data text(const char *string)
{
    return (struct data){(unsigned char *)(uintptr_t)string, strlen(string)};
}

static struct data copy(struct data file)
{
    struct data c = {data_alloc(file.len + 1), file.len};
    memcpy(c.bytes, file.bytes, file.len);
    return c;
}

/* The file with `len` bytes at `offset` replaced. */
static struct data spoilt(struct data file, size_t offset, const char *bytes, size_t len)
{
    struct data c = copy(file);
    cr_assert(offset + len <= c.len);
    memcpy(c.bytes + offset, bytes, len);
    return c;
}

static struct data cut(struct data file, size_t len)
{
    cr_assert(len <= file.len);
    return (struct data){file.bytes, len};
}

Test(bad_input, not_an_image)
{
    const struct bad rows[] = {
        {"nothing", NULL, {(unsigned char *)"", 0}, 400, "empty_body"},
        {"nothing as JSON", "application/json", {(unsigned char *)"", 0}, 400, "empty_body"},
        {"text", "text/plain", text("seven"), 415, "unsupported_image_format"},
        {"a GIF", "image/gif", text("GIF89a\1\1\1\1\1\1\1;"), 415, "unsupported_image_format"},
        {"a WebP", "image/webp", text("RIFF\1\1\1\1WEBPVP8 "), 415, "unsupported_image_format"},
        {"a TIFF", "image/tiff", text("II*\1\10\1\1\1"), 415, "unsupported_image_format"},
        {"a PSD", NULL, text("8BPS\1\1\1\1"), 415, "unsupported_image_format"},
        {"an SVG", "image/svg+xml", text("<svg xmlns='x'/>"), 415, "unsupported_image_format"},
        {"a PDF announced as PNG", "image/png", text("%PDF-1.4"), 415, "unsupported_image_format"},
        {"a ZIP", NULL, text("PK\3\4\24"), 415, "unsupported_image_format"},
        {"a HEIC",
         NULL,
         {(unsigned char *)"\0\0\0\30ftypheic\0\0\0\0", 16},
         415,
         "unsupported_image_format"},
        {"an AVIF",
         NULL,
         {(unsigned char *)"\0\0\0\30ftypavif\0\0\0\0", 16},
         415,
         "unsupported_image_format"},
        {"783 octets",
         "application/octet-stream",
         {digit_pixels(1) ? data_alloc(783) : NULL, 783},
         422,
         "shape_mismatch"},
        {"785 octets", "application/octet-stream", {data_alloc(785), 785}, 422, "shape_mismatch"},
    };
    struct server *s = server_start(NULL);
    RUN(s, rows);
    server_stop(s);
}

Test(bad_input, png)
{
    struct data good = data_read("digit-3.png");
    uint8_t lines[29 * 28] = {0};
    size_t bomb_len = 40000000;
    const struct png_parts bomb = {16, 16, 8, 0, 0, NULL, 0, data_alloc(bomb_len), bomb_len};
    const struct png_parts huge = {50000, 50000, 8, 0, 0, NULL, 0, lines, sizeof lines};
    const struct png_parts many = {10000, 10000, 8, 0, 0, NULL, 0, lines, sizeof lines};
    const struct png_parts flat = {28, 0, 8, 0, 0, NULL, 0, lines, sizeof lines};
    const struct png_parts thin = {0, 28, 8, 0, 0, NULL, 0, lines, sizeof lines};
    const struct png_parts depth = {28, 28, 3, 0, 0, NULL, 0, lines, sizeof lines};
    const struct png_parts color = {28, 28, 8, 5, 0, NULL, 0, lines, sizeof lines};
    const struct png_parts bare = {28, 28, 8, 3, 0, NULL, 0, lines, sizeof lines};
    const struct png_parts wide = {16385, 1, 8, 0, 0, NULL, 0, lines, sizeof lines};
    const struct png_parts tall = {1, 16385, 8, 0, 0, NULL, 0, lines, sizeof lines};
    const struct png_parts brief = {28, 28, 8, 0, 0, NULL, 0, lines, sizeof lines / 2};
    const struct bad rows[] = {
        {"the signature alone", NULL, cut(good, 8), 422, "corrupt_image"},
        {"half a file", NULL, cut(good, good.len / 2), 422, "corrupt_image"},
        {"no IEND", NULL, cut(good, good.len - 12), 422, "corrupt_image"},
        {"a flipped bit in IDAT", NULL, spoilt(good, 50, "\xAA", 1), 422, "corrupt_image"},
        {"a wrong CRC of IHDR", NULL, spoilt(good, 29, "\1\2\3\4", 4), 422, "corrupt_image"},
        {"IHDR is not first", NULL, spoilt(good, 12, "tEXt", 4), 422, "corrupt_image"},
        {"a chunk beyond the end", NULL, spoilt(good, 33, "\x7F\xFF\xFF\xFF", 4), 422,
         "corrupt_image"},
        {"no height", NULL, make_png_from(&flat), 422, "zero_size_image"},
        {"no width", NULL, make_png_from(&thin), 422, "zero_size_image"},
        {"2.5 gigapixels", NULL, make_png_from(&huge), 422, "image_too_large"},
        {"100 megapixels", NULL, make_png_from(&many), 422, "image_too_large"},
        {"a width of 16385", NULL, make_png_from(&wide), 422, "image_too_large"},
        {"a height of 16385", NULL, make_png_from(&tall), 422, "image_too_large"},
        {"an IHDR of 12 bytes", NULL, spoilt(good, 8, "\0\0\0\14", 4), 422, "corrupt_image"},
        {"3 bits a sample", NULL, make_png_from(&depth), 422, "corrupt_image"},
        {"colour type 5", NULL, make_png_from(&color), 422, "corrupt_image"},
        {"a palette image without palette", NULL, make_png_from(&bare), 422, "corrupt_image"},
        {"too few scan lines", NULL, make_png_from(&brief), 422, "corrupt_image"},
        {"a bomb: 40 MB in a 16x16 image", NULL, make_png_from(&bomb), 422, "corrupt_image"},
    };
    struct server *s = server_start(NULL);
    size_t before = server_rss(s);
    RUN(s, rows);
    size_t after = server_rss(s);
    cr_expect(server_slowness() > 1 || after < before + 8000000, "%zu bytes more", after - before);
    server_stop(s);
}

/* Offset of the first segment with this marker in a JPEG file. */
static size_t segment(struct data jpeg, unsigned marker)
{
    size_t at = 2;
    while (jpeg.bytes[at + 1] != marker) {
        at += 2u + (size_t)jpeg.bytes[at + 2] * 256 + jpeg.bytes[at + 3];
        cr_assert(at + 4 <= jpeg.len && jpeg.bytes[at] == 0xFF, "no segment %02x", marker);
    }
    return at;
}

/* A frame of so many components, sampled 1:1 where nothing else is said, and its end. */
static struct data components(unsigned count, const char *sampling)
{
    static const uint8_t plain[] = {0x11, 0x11, 0x11, 0x11, 0x11};
    struct file f = {0};
    put_be16(&f, 0xFFD8);
    jpeg_quantizers(&f);
    jpeg_tables(&f);
    jpeg_frame(&f, 0xC0, 16, 16, count, sampling ? (const uint8_t *)sampling : plain);
    put_be16(&f, 0xFFD9);
    return (struct data){f.p, f.len};
}

/* A progressive picture of side x side with so many scans of next to nothing. */
static struct data progressive(unsigned side, int scans)
{
    struct file f = {0};
    put_be16(&f, 0xFFD8);
    jpeg_quantizers(&f);
    jpeg_tables(&f);
    jpeg_frame(&f, 0xC2, side, side, 1, (const uint8_t[]){0x11});
    size_t blocks = (size_t)side * side / 64;
    jpeg_scan(&f, 1, 1, 0, 0, 0, data_alloc(blocks / 8 + 1), blocks / 8 + 1);
    for (int i = 1; i < scans; i++)
        jpeg_scan(&f, 1, 1, 1, 63, 0, "\0", 1);
    put_be16(&f, 0xFFD9);
    return (struct data){f.p, f.len};
}

Test(bad_input, jpeg)
{
    struct data good = data_read("paper-8.jpg");
    size_t dht = segment(good, 0xC4), sof = segment(good, 0xC0), sos = segment(good, 0xDA);
    struct data overfull = copy(good);
    memset(overfull.bytes + dht + 5, 0xFF, 16);
    struct body scans = {0};
    body_add(&scans, good.bytes, good.len - 2);
    for (int i = 0; i < 2000; i++)
        body_add(&scans, good.bytes + sos, 10);
    body_add(&scans, "\xFF\xD9", 2);
    struct body frames = {0};
    body_add(&frames, good.bytes, sof + 2u + good.bytes[sof + 3]);
    body_add(&frames, good.bytes + sof, good.len - sof);
    const struct bad rows[] = {
        {"three bytes", NULL, cut(good, 3), 422, "corrupt_image"},
        {"half a file", NULL, cut(good, good.len / 2), 422, "corrupt_image"},
        {"no EOI", NULL, cut(good, good.len - 2), 422, "corrupt_image"},
        {"an over-full Huffman table", NULL, overfull, 422, "corrupt_image"},
        {"two frame headers",
         NULL,
         {(unsigned char *)frames.bytes, frames.len},
         422,
         "corrupt_image"},
        {"Huffman class 2", NULL, spoilt(good, dht + 4, "\x20", 1), 422, "corrupt_image"},
        {"Huffman table 9", NULL, spoilt(good, dht + 4, "\x09", 1), 422, "corrupt_image"},
        {"12 bits", NULL, spoilt(good, sof + 4, "\x0C", 1), 422, "unsupported_image_variant"},
        {"arithmetic coding", NULL, spoilt(good, sof + 1, "\xC9", 1), 422,
         "unsupported_image_variant"},
        {"lossless", NULL, spoilt(good, sof + 1, "\xC3", 1), 422, "unsupported_image_variant"},
        {"no height", NULL, spoilt(good, sof + 5, "\0\0", 2), 422, "zero_size_image"},
        {"no width", NULL, spoilt(good, sof + 7, "\0\0", 2), 422, "zero_size_image"},
        {"65535x65535", NULL, spoilt(good, sof + 5, "\xFF\xFF\xFF\xFF", 4), 422, "image_too_large"},
        {"16385x1", NULL, spoilt(good, sof + 5, "\0\1\x40\1", 4), 422, "image_too_large"},
        {"two components", NULL, components(2, NULL), 422, "unsupported_image_variant"},
        {"five components", NULL, components(5, NULL), 422, "unsupported_image_variant"},
        {"sampling 3:2", NULL, components(3, "\x32\x22\x11"), 422, "unsupported_image_variant"},
        {"sampling 0", NULL, spoilt(good, sof + 11, "\0", 1), 422, "corrupt_image"},
        {"a segment beyond the end", NULL, spoilt(good, dht + 2, "\xFF\xFF", 2), 422,
         "corrupt_image"},
        {"2000 scans", NULL, {(unsigned char *)scans.bytes, scans.len}, 422, "corrupt_image"},
        {"100 progressive scans too many", NULL, progressive(8, 101), 422, "image_too_complex"},
        {"40 scans of 4 megapixels", NULL, progressive(2048, 40), 422, "image_too_complex"},
    };
    struct server *s = server_start(NULL);
    RUN(s, rows);
    server_stop(s);
}

Test(bad_input, bmp)
{
    struct data good = data_read("digit-4.bmp");
    const struct bad rows[] = {
        {"the header alone", NULL, cut(good, 54), 422, "corrupt_image"},
        {"short by a row", NULL, cut(good, good.len - 84), 422, "corrupt_image"},
        {"data beyond the end", NULL, spoilt(good, 10, "\xFF\xFF\xFF\x0F", 4), 422,
         "corrupt_image"},
        {"an OS/2 header", NULL, spoilt(good, 14, "\x0C", 1), 422, "unsupported_image_variant"},
        {"4 bits a pixel", NULL, spoilt(good, 28, "\4", 1), 422, "unsupported_image_variant"},
        {"1 bit a pixel", NULL, spoilt(good, 28, "\1", 1), 422, "unsupported_image_variant"},
        {"run-length coding", NULL, spoilt(good, 30, "\1", 1), 422, "unsupported_image_variant"},
        {"no width", NULL, spoilt(good, 18, "\0\0\0\0", 4), 422, "zero_size_image"},
        {"no height", NULL, spoilt(good, 22, "\0\0\0\0", 4), 422, "zero_size_image"},
        {"10000x10000", NULL, spoilt(good, 18, "\x10\x27\0\0\x10\x27\0\0", 8), 422,
         "image_too_large"},
        {"16385x1", NULL, spoilt(good, 18, "\1\x40\0\0\1\0\0\0", 8), 422, "image_too_large"},
        {"the height INT_MIN", NULL, spoilt(good, 22, "\0\0\0\x80", 4), 422, "image_too_large"},
        {"a negative width", NULL, spoilt(good, 18, "\xE4\xFF\xFF\xFF", 4), 422, "image_too_large"},
    };
    struct server *s = server_start(NULL);
    RUN(s, rows);
    /* A negative height is legal: the rows stand from the top. */
    struct data flipped = spoilt(good, 22, "\xE4\xFF\xFF\xFF", 4);
    for (size_t y = 0; y < 28; y++)
        memcpy(flipped.bytes + 54 + y * 84, good.bytes + 54 + (27 - y) * 84, 84);
    expect_digit(http_post(s, "/classify", NULL, flipped.bytes, flipped.len), 4, 5, "top-down");
    server_stop(s);
}

/* The limit is the operator's. */
Test(bad_input, max_pixels)
{
    struct data small = data_read("digit-3.png"), large = data_read("paper-3.png");
    struct server *s = server_start_with("--max-pixels", "4096");
    expect_digit(http_post(s, "/classify", NULL, small.bytes, small.len), 3, 5, "28x28");
    response_expect_error(http_post(s, "/classify", NULL, large.bytes, large.len), 422,
                          "image_too_large", "200x150");
    server_stop(s);
}

static struct data deep(unsigned depth)
{
    struct body b = {0};
    body_printf(&b, "{\"pixels\":");
    for (unsigned i = 0; i < depth; i++)
        body_add(&b, "[", 1);
    body_add(&b, "1", 1);
    for (unsigned i = 0; i < depth; i++)
        body_add(&b, "]", 1);
    body_add(&b, "}", 1);
    return (struct data){(unsigned char *)b.bytes, b.len};
}

/* 784 numbers, the first one as given. */
static struct data pixels_with(const char *first)
{
    struct body b = {0};
    body_printf(&b, "{\"pixels\":[%s", first);
    for (int i = 1; i < 784; i++)
        body_add(&b, ",0", 2);
    body_add(&b, "]}", 2);
    return (struct data){(unsigned char *)b.bytes, b.len};
}

Test(bad_input, json)
{
#define JSON "application/json"
    const struct bad rows[] = {
        {"white space", JSON, text(" \n"), 400, "bad_json"},
        {"a number", JSON, text("7"), 400, "bad_json"},
        {"a string", "application/vnd.x+json; charset=utf-8", text("\"x\""), 400, "bad_json"},
        {"null", JSON, text("null"), 400, "bad_json"},
        {"words", JSON, text("pixels: [1]"), 400, "bad_json"},
        {"UTF-16", JSON, {(unsigned char *)"\xFF\xFE{\0", 4}, 400, "bad_json"},
        {"a GIF, announced as JSON", JSON, text("GIF89a"), 415, "unsupported_image_format"},
        {"an open brace", JSON, text("{"), 400, "bad_json"},
        {"cut short", JSON, cut(pixels_with("0"), 500), 400, "bad_json"},
        {"trailing bytes", JSON, text("{\"image\":\"aGVsbG8=\"} x"), 400, "bad_json"},
        {"a byte order mark", JSON, text("\xEF\xBB\xBF{\"pixels\":[1]}"), 400, "bad_json"},
        {"not UTF-8", JSON, text("{\"\xFF\xFE\":1}"), 400, "bad_json"},
        {"a single quote", JSON, text("{'pixels':[1]}"), 400, "bad_json"},
        {"a top-level list", JSON, text("[[1,2],[3,4]]"), 400, "bad_json"},
        {"a key twice", JSON, text("{\"image\":\"aGVsbG8=\",\"image\":\"aGVsbG8=\"}"), 400,
         "bad_json"},
        {"an empty object", JSON, text("{}"), 400, "bad_request"},
        {"an unknown key", JSON, text("{\"picture\":\"aGVsbG8=\"}"), 400, "bad_request"},
        {"an unknown key besides", JSON, text("{\"image\":\"aGVsbG8=\",\"x\":1}"), 400,
         "bad_request"},
        {"two keys", JSON, text("{\"image\":\"aGVsbG8=\",\"pixels\":[[1]]}"), 400, "bad_request"},
        {"pixels is a string", JSON, text("{\"pixels\":\"1,2\"}"), 400, "bad_request"},
        {"pixels is a number", JSON, text("{\"pixels\":1}"), 400, "bad_request"},
        {"pixels is null", JSON, text("{\"pixels\":null}"), 400, "bad_request"},
        {"image is a list", JSON, text("{\"image\":[1]}"), 400, "bad_request"},
        {"images is empty", JSON, text("{\"images\": [ ]}"), 422, "shape_mismatch"},
        {"images of numbers", JSON, text("{\"images\":[1,2]}"), 400, "bad_request"},
        {"a string among pixels", JSON, pixels_with("\"0\""), 400, "bad_request"},
        {"an object among pixels", JSON, pixels_with("{}"), 400, "bad_request"},
        {"true among pixels", JSON, pixels_with("true"), 400, NULL},
        {"NaN", JSON, pixels_with("NaN"), 400, "bad_number"},
        {"Infinity", JSON, pixels_with("Infinity"), 400, "bad_number"},
        {"-Infinity", JSON, pixels_with("-Infinity"), 400, "bad_number"},
        {"1e400", JSON, pixels_with("1e400"), 400, "bad_number"},
        {"+1", JSON, pixels_with("+1"), 400, "bad_number"},
        {"01", JSON, pixels_with("01"), 400, "bad_number"},
        {".5", JSON, pixels_with(".5"), 400, "bad_number"},
        {"1.", JSON, pixels_with("1."), 400, "bad_number"},
        {"0x1", JSON, pixels_with("0x1"), 400, NULL},
        {"an empty element", JSON, pixels_with(""), 400, NULL},
        {"256", JSON, pixels_with("256"), 422, "value_out_of_range"},
        {"-1", JSON, pixels_with("-1"), 422, "value_out_of_range"},
        {"1e30", JSON, pixels_with("1e30"), 422, "value_out_of_range"},
        {"785 numbers", JSON, pixels_with("0,0"), 422, "shape_mismatch"},
        {"one number", JSON, text("{\"pixels\":[1]}"), 422, "shape_mismatch"},
        {"no number", JSON, text("{\"pixels\":[]}"), 422, "shape_mismatch"},
        {"no rows", JSON, text("{\"pixels\":[[]]}"), 422, "shape_mismatch"},
        {"ragged rows", JSON, text("{\"pixels\":[[1,2],[3]]}"), 422, "shape_mismatch"},
        {"numbers beside rows", JSON, text("{\"pixels\":[[1,2],3]}"), 422, "shape_mismatch"},
        {"two channels", JSON, text("{\"pixels\":[[[1,2],[3,4]]]}"), 422, "shape_mismatch"},
        {"five deep", JSON, deep(5), 422, "shape_mismatch"},
        {"thousands deep", JSON, deep(100000), 422, "shape_mismatch"},
        {"thousands deep elsewhere", JSON,
         text(data_printf("{\"x\":%s", (char *)deep(5000).bytes + 10)), 400, "bad_json"},
        {"33 deep", JSON, text(data_printf("{\"x\":%s", (char *)deep(32).bytes + 10)), 400,
         "bad_json"},
        {"32 deep", JSON, text(data_printf("{\"x\":%s", (char *)deep(31).bytes + 10)), 400,
         "bad_request"},
        {"64 KB besides the pixels", JSON, text(data_printf("{\"x\":\"%070000d\"}", 0)), 400,
         "bad_json"},
        {"a zero in a string", JSON, text("{\"image\":\"\\u0000\"}"), 400, "bad_request"},
        {"a number for an image", JSON, text("{\"image\":7}"), 400, "bad_request"},
        {"base64 of text on two lines", JSON, text("{\"image\":\"aGVs\\nbG8=\"}"), 415,
         "unsupported_image_format"},
        {"base64 that goes on after its end", JSON, text("{\"image\":\"aGVsbG8=aGVs\"}"), 400,
         "bad_request"},
        {"a data URL of text", JSON, text("{\"image\":\"data:text/plain,seven\"}"), 400, NULL},
        {"bad base64", JSON, text("{\"image\":\"a*b=\"}"), 400, "bad_request"},
        {"base64 without padding", JSON, text("{\"image\":\"aGVsbG8\"}"), 400, "bad_request"},
        {"base64 of text", JSON, text("{\"image\":\"aGVsbG8=\"}"), 415, "unsupported_image_format"},
        {"nothing in base64", JSON, text("{\"image\":\"\"}"), 415, NULL},
        {"one bad image of two", JSON, text("{\"images\":[\"aGVsbG8=\",\"aGVsbG8=\"]}"), 415,
         "unsupported_image_format"},
    };
    struct server *s = server_start(NULL);
    RUN(s, rows);
    /* Where it is wrong is told, not what stands there. */
    static const char *const secrets[] = {"{\"pixels\":[needle]}", "{\"x\":needle}",
                                          "{\"image\":\"needle?\"}", "needle",
                                          "{\"pixels\":[0needle]}"};
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++) {
        const struct response *r = http_post(s, "/classify", JSON, secrets[i], strlen(secrets[i]));
        response_expect_error(r, 400, NULL, secrets[i]);
        cr_expect(strstr(r->body, "needle") == NULL, "%s", r->body);
    }
    /* What is unusual and right. */
    struct data good[] = {pixels_with("-0"), pixels_with("0.5e0"), pixels_with(" \n\t0 "),
                          pixels_with("255"), pixels_with("1e-400")};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        const struct response *r = http_post(s, "/classify", JSON, good[i].bytes, good[i].len);
        cr_expect(r->status == 200, "%.30s: %s", (char *)good[i].bytes, r->body);
    }
    server_stop(s);
#undef JSON
}

static struct data parts_of(struct body *b)
{
    return (struct data){(unsigned char *)b->bytes, b->len};
}

Test(bad_input, multipart)
{
    struct data png = data_read("digit-0.png");
    struct body open = {0}, many = {0}, nested = {0}, long_head = {0}, text_only = {0},
                text_file = {0}, empty_file = {0};
    body_part(&open, "a", "a.png", png.bytes, png.len);
    for (int i = 0; i < 3000; i++)
        body_part(&many, "a", "a.png", "", 0);
    body_end_parts(&many);
    body_printf(&nested, "--cut\r\nContent-Type: multipart/mixed; boundary=in\r\n\r\nx\r\n");
    body_end_parts(&nested);
    body_printf(&long_head, "--cut\r\nX: %05000d\r\n\r\nx\r\n", 0);
    body_end_parts(&long_head);
    body_part(&text_only, "a", NULL, "seven", 5);
    body_end_parts(&text_only);
    body_part(&text_file, "a", "a.txt", "seven", 5);
    body_end_parts(&text_file);
    body_part(&empty_file, "a", "a.png", "", 0);
    body_end_parts(&empty_file);
    struct body eight = {0}, nine = {0}, long_name = {0};
    for (int i = 0; i < 9; i++) {
        body_part(&nine, "a", "a.png", png.bytes, png.len);
        if (i < 8)
            body_part(&eight, data_printf("any\xFF%d", i), "a.png", png.bytes, png.len);
    }
    body_end_parts(&eight);
    body_end_parts(&nine);
    const char *named = data_printf("--cut\r\nContent-Disposition: form-data; "
                                    "filename=\"%010000d\"\r\n\r\nx\r\n",
                                    0);
    body_add(&long_name, named, strlen(named));
    body_end_parts(&long_name);
    struct body broken_name = {0}, encoded = {0};
    body_part(&broken_name, "a", "a\r\nb.png", png.bytes, png.len);
    body_end_parts(&broken_name);
    body_printf(&encoded, "--cut\r\nContent-Type: image/png\r\n"
                          "Content-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n");
    body_end_parts(&encoded);
    struct body whole = {0};
    body_part(&whole, "a", "a.png", png.bytes, png.len);
    body_end_parts(&whole);
    const char *longest = data_printf("multipart/form-data; boundary=%070d", 0);
    const char *too_long = data_printf("multipart/form-data; boundary=%071d", 0);
    const struct bad rows[] = {
        {"no boundary", "multipart/form-data", parts_of(&whole), 400, "bad_multipart"},
        {"an empty boundary", "multipart/form-data; boundary=", parts_of(&whole), 400,
         "bad_multipart"},
        {"a boundary of 71", too_long, parts_of(&whole), 400, "bad_multipart"},
        {"another boundary of 70", longest, parts_of(&whole), 400, "bad_multipart"},
        {"no closing boundary", BODY_MULTIPART, parts_of(&open), 400, "bad_multipart"},
        {"9 parts", BODY_MULTIPART, parts_of(&nine), 400, "bad_multipart"},
        {"3000 parts", BODY_MULTIPART, parts_of(&many), 400, "bad_multipart"},
        {"multipart in multipart", BODY_MULTIPART, parts_of(&nested), 400, "bad_multipart"},
        {"5 KB of part header", BODY_MULTIPART, parts_of(&long_head), 400, "bad_multipart"},
        {"10 KB of a file's name", BODY_MULTIPART, parts_of(&long_name), 400, "bad_multipart"},
        {"a line end in a file's name", BODY_MULTIPART, parts_of(&broken_name), 400,
         "bad_multipart"},
        {"a part in base64", BODY_MULTIPART, parts_of(&encoded), 400, "bad_multipart"},
        {"no file", BODY_MULTIPART, parts_of(&text_only), 400, "bad_multipart"},
        {"only the end", BODY_MULTIPART, text("--cut--\r\n"), 400, "bad_multipart"},
        {"nothing", BODY_MULTIPART, {(unsigned char *)"", 0}, 400, "empty_body"},
        {"a text file", BODY_MULTIPART, parts_of(&text_file), 415, "unsupported_image_format"},
        {"an empty file", BODY_MULTIPART, parts_of(&empty_file), 415, "unsupported_image_format"},
    };
    struct server *s = server_start(NULL);
    RUN(s, rows);
    const struct response *r = http_post(s, "/classify", BODY_MULTIPART, eight.bytes, eight.len);
    cr_expect_eq(r->status, 200, "eight files under names of their own: %s", r->body);
    server_stop(s);
}

/* A file's name is of no concern, whatever it is, and appears nowhere. */
Test(bad_input, names_of_files)
{
    const char *names[] = {"../../../../needle",
                           "C:\\needle",
                           "needle\xFF\xFE",
                           "%00%0d%0aX: needle",
                           "<script>needle</script>",
                           data_printf("needle%03000d", 0),
                           "needle@"};
    enum { COUNT = sizeof names / sizeof *names };
    struct data png = data_read("digit-0.png");
    struct server *s = server_start_with("--log-level", "debug");
    for (size_t i = 0; i < COUNT; i++) {
        struct body b = {0};
        body_part(&b, "needle", names[i], png.bytes, png.len);
        body_end_parts(&b);
        if (i == COUNT - 1)
            *(char *)memchr(b.bytes, '@', b.len) = '\0';
        const struct response *r = http_post(s, "/classify", BODY_MULTIPART, b.bytes, b.len);
        expect_digit(r, 0, 5, names[i]);
        cr_expect(strstr(r->body, "needle") == NULL, "%s", r->body);
    }
    cr_expect(strstr(server_log(s), "needle") == NULL, "%s", server_log(s));
    server_stop(s);
}

/* What is odd and allowed. */
Test(bad_input, variants_are_accepted)
{
    struct data photo = data_read("paper-8.jpg"), png = data_read("digit-3.png");
    struct file cmyk = {0}, chunks = {0}, clear = {0};
    struct file bits = jpeg_bits("10"
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
    put_be16(&cmyk, 0xFFD8);
    jpeg_segment(&cmyk, 0xEE, "Adobe\0\144\0\0\0\0\0", 12);
    jpeg_quantizers(&cmyk);
    jpeg_tables(&cmyk);
    jpeg_frame(&cmyk, 0xC0, 8, 8, 4, (const uint8_t[]){0x11, 0x11, 0x11, 0x11});
    jpeg_scan(&cmyk, 1, 4, 0, 63, 0, bits.p, bits.len);
    put_be16(&cmyk, 0xFFD9);
    struct file simple = jpeg_gray(0xC2);
    /* Turned by 180 degrees, says the Exif tag; it is not looked at. */
    static const char exif[] = "Exif\0\0MM\0*\0\0\0\10\0\1\1\22\0\3\0\0\0\1\0\3\0\0\0\0\0\0";
    struct file turned = {0};
    put(&turned, photo.bytes, 2);
    jpeg_segment(&turned, 0xE1, exif, sizeof exif - 1);
    put(&turned, photo.bytes + 2, photo.len - 2);
    put(&turned, "and more after its end", 22);
    /* An animation's chunks around the picture. */
    put(&chunks, png.bytes, 33);
    png_chunk(&chunks, "acTL", "\0\0\0\2\0\0\0\0", 8);
    put(&chunks, png.bytes + 33, png.len - 33 - 12);
    png_chunk(&chunks, "fdAT", "\0\0\0\1abc", 7);
    put(&chunks, png.bytes + png.len - 12, 12);
    /* One shade of grey that is transparent. */
    put(&clear, png.bytes, 33);
    png_chunk(&clear, "tRNS", "\0\1", 2);
    put(&clear, png.bytes + 33, png.len - 33);
    struct server *s = server_start(NULL);
    expect_digit(http_post(s, "/classify", NULL, clear.p, clear.len), 3, 5, "tRNS");
    cr_expect_eq(http_post(s, "/classify", NULL, cmyk.p, cmyk.len)->status, 200, "CMYK");
    cr_expect_eq(http_post(s, "/classify", NULL, simple.p, simple.len)->status, 200, "progressive");
    expect_digit(http_post(s, "/classify", NULL, turned.p, turned.len), 8, 5, "Exif");
    expect_digit(http_post(s, "/classify", NULL, chunks.p, chunks.len), 3, 5, "animated PNG");
    server_stop(s);
}

static const struct response *post_images(const struct server *s, unsigned count)
{
    struct body b = {0};
    body_printf(&b, "{\"pixels\":");
    body_pixels(&b, data_alloc(count * 784), (const unsigned[]){count, 28, 28, 1}, 4);
    body_printf(&b, "}");
    return http_post(s, "/classify", NULL, b.bytes, b.len);
}

/* A request may hold as many images as the queue, in images and in bytes. All or none. */
Test(bad_input, too_many_images)
{
    struct server *s = server_start_with("--max-queue", "4");
    cr_expect_eq(post_images(s, 4)->status, 200);
    response_expect_error(post_images(s, 5), 422, "shape_mismatch", "5 images for a queue of 4");
    server_stop(s);

    /* Of 28 x 28 x 4 bytes, 334 are just under 1 MiB. */
    static const char computed[] = "convd_inference_images_total{model=\"lenet5\",version=\"1\"}";
    s = server_start_with("--max-queue-bytes", "1M");
    cr_expect_eq(post_images(s, 334)->status, 200);
    response_expect_error(post_images(s, 335), 413, "too_many_images", "335 images");
    cr_expect_eq(http_metric(s, computed), 334);
    server_stop(s);
}

Test(bad_input, options)
{
    static const struct {
        const char *target, *headers;
        int status;
        const char *code;
    } rows[] = {
        {"/classify?top_k=-1", "", 400, NULL},
        {"/classify?top_k=x", "", 400, NULL},
        {"/classify?top_k=", "", 400, NULL},
        {"/classify?top_k=1e3", "", 400, NULL},
        {"/classify?top_k=99999999999999999999", "", 400, NULL},
        {"/classify?topk=3", "", 400, NULL},
        {"/classify", "X-Request-Timeout-Ms: x\r\n", 400, "bad_timeout"},
        {"/classify", "X-Request-Timeout-Ms: -5\r\n", 400, "bad_timeout"},
        {"/classify", "X-Request-Timeout-Ms: 0\r\n", 400, "bad_timeout"},
        {"/classify", "X-Request-Timeout-Ms: 1.5\r\n", 400, "bad_timeout"},
        {"/classify", "X-Request-Timeout-Ms: 99999999999999999999x\r\n", 400, "bad_timeout"},
        {"/classify", "X-Request-Timeout-Ms:\r\n", 400, "bad_timeout"},
        {"/classify", "X-Request-Timeout-Ms: +5\r\n", 400, "bad_timeout"},
        {"/classify/nothing", "", 404, "model_not_found"},
        {"/classify/lenet5/7", "", 404, "model_not_found"},
    };
    struct server *s = server_start(NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *headers =
            data_printf("Content-Type: application/octet-stream\r\n%s", rows[i].headers);
        response_expect_error(
            http_request(s, "POST", rows[i].target, headers, digit_pixels(1), 784), rows[i].status,
            rows[i].code, data_printf("%s %s", rows[i].target, rows[i].headers));
    }
    /* Longer than the server's own limit is cut down to it. */
    expect_digit(http_request(s, "POST", "/classify",
                              "Content-Type: application/octet-stream\r\n"
                              "X-Request-Timeout-Ms: 3600000\r\n",
                              digit_pixels(1), 784),
                 1, 5, "an hour");
    server_stop(s);
}
