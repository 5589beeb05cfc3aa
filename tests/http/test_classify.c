/* /classify: every accepted form of a picture, and that the same picture has the same answer. */
#include "tests/support/requests.h"

#include <criterion/criterion.h>

static const unsigned flat[] = {784}, plane[] = {28, 28}, colored[] = {28, 28, 1};

static struct data json_document(const char *prefix, const uint8_t *pixels, const unsigned *extents,
                                 unsigned rank)
{
    struct body b = {0};
    body_printf(&b, "%s{\"pixels\": ", prefix);
    body_pixels(&b, pixels, extents, rank);
    body_printf(&b, "}");
    return (struct data){(unsigned char *)b.bytes, b.len};
}

Test(classify, names_every_drawn_digit)
{
    struct server *s = server_start(NULL);
    for (int digit = 0; digit < 10; digit++) {
        const char *name = data_printf("digit-%d.png", digit);
        struct data png = data_read(name);
        expect_digit(http_post(s, "/classify", "image/png", png.bytes, png.len), digit, 5, name);
    }
    server_stop(s);
}

Test(classify, names_digits_on_paper)
{
    static const struct {
        const char *name;
        int digit;
    } files[] = {{"paper-2.bmp", 2},
                 {"paper-3.png", 3},
                 {"paper-5.png", 5},
                 {"paper-8.jpg", 8},
                 {"paper-9.jpg", 9}};
    struct server *s = server_start(NULL);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct data file = data_read(files[i].name);
        expect_digit(http_post(s, "/classify", NULL, file.bytes, file.len), files[i].digit, 5,
                     files[i].name);
    }
    server_stop(s);
}

/* The classes of an answer as text, to compare answers by. */
static const char *classes_of(json_t *reply)
{
    char *text = json_dumps(json_object_get(reply, "classes"), JSON_COMPACT);
    const char *kept = data_printf("%s", text);
    free(text);
    return kept;
}

Test(classify, answers_the_same_for_every_form_of_a_picture)
{
    struct server *s = server_start(NULL);
    const uint8_t *pixels = digit_pixels(4);
    struct data png = data_read("digit-4.png"), bmp = data_read("digit-4.bmp");
    const char *expected =
        classes_of(expect_digit(http_post(s, "/classify", NULL, png.bytes, png.len), 4, 5, "PNG"));

    struct data nested = json_document("", pixels, plane, 2);
    struct data deep = json_document(" \n\t", pixels, colored, 3);
    struct data list = json_document("", pixels, flat, 1);
    struct body multipart = {0}, base64 = {0}, url = {0};
    body_part(&multipart, "anything", "../../etc/passwd", png.bytes, png.len);
    body_end_parts(&multipart);
    body_printf(&base64, "{\"image\": \"");
    body_base64(&base64, png.bytes, png.len);
    body_printf(&base64, "\"}");
    body_printf(&url, "{\"image\": \"data:image/png;base64,");
    body_base64(&url, bmp.bytes, bmp.len);
    body_printf(&url, "\"}");

    const struct {
        const char *what, *method, *type;
        const void *body;
        size_t len;
    } forms[] = {
        {"PNG by PUT, as curl -T does", "PUT", NULL, png.bytes, png.len},
        {"PNG with another Content-Type", "POST", "text/plain", png.bytes, png.len},
        {"PNG as curl --data-binary sends it", "POST", "application/x-www-form-urlencoded",
         png.bytes, png.len},
        {"PNG announced as raw octets", "POST", "application/octet-stream", png.bytes, png.len},
        {"BMP", "POST", "image/bmp", bmp.bytes, bmp.len},
        {"raw octets", "POST", "application/octet-stream", pixels, 784},
        {"JSON [H][W]", "POST", "application/json", nested.bytes, nested.len},
        {"JSON [H][W] without a Content-Type", "POST", NULL, nested.bytes, nested.len},
        {"JSON [H][W][C]", "POST", "application/json", deep.bytes, deep.len},
        {"JSON flat", "POST", "application/json; charset=utf-8", list.bytes, list.len},
        {"base64", "POST", "application/json", base64.bytes, base64.len},
        {"data URL of a BMP", "POST", "application/json", url.bytes, url.len},
        {"multipart with one file", "POST", BODY_MULTIPART, multipart.bytes, multipart.len},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        const char *headers =
            forms[i].type == NULL ? NULL : data_printf("Content-Type: %s\r\n", forms[i].type);
        json_t *reply = expect_digit(
            http_request(s, forms[i].method, "/classify", headers, forms[i].body, forms[i].len), 4,
            5, forms[i].what);
        cr_expect_str_eq(classes_of(reply), expected, "%s", forms[i].what);
    }
    server_stop(s);
}

/* Variants of PNG that have documented conversions, made from the same grey pixels. */
Test(classify, reads_every_variant_of_png)
{
    struct server *s = server_start(NULL);
    const uint8_t *pixels = digit_pixels(6);
    struct data grey = make_png(pixels, 28, 28, 1);
    const char *expected = classes_of(
        expect_digit(http_post(s, "/classify", NULL, grey.bytes, grey.len), 6, 5, "grey"));

    struct data files[6];
    const char *names[6] = {"grey and alpha", "RGB", "RGBA", "16 bits", "a palette", "interlaced"};
    for (unsigned channels = 2; channels <= 4; channels++) {
        uint8_t *samples = data_alloc(784 * channels);
        for (size_t i = 0; i < 784; i++)
            for (unsigned c = 0; c < channels; c++)
                samples[i * channels + c] =
                    channels % 2 == 0 && c == channels - 1 ? 255 : pixels[i];
        files[channels - 2] = make_png(samples, 28, 28, channels);
    }
    struct body wide = {0}, indexed = {0}, passes = {0};
    for (unsigned y = 0; y < 28; y++) {
        body_add(&wide, "", 1);
        for (unsigned x = 0; x < 28; x++) {
            body_add(&wide, &pixels[y * 28 + x], 1);
            body_add(&wide, &pixels[y * 28 + x], 1);
        }
        body_add(&indexed, "", 1);
        body_add(&indexed, pixels + y * 28, 28);
    }
    uint8_t palette[768];
    for (unsigned i = 0; i < 768; i++)
        palette[i] = (uint8_t)(i / 3);
    static const unsigned adam7[7][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                         {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
    for (unsigned p = 0; p < 7; p++) {
        for (unsigned y = adam7[p][1]; y < 28; y += adam7[p][3]) {
            body_add(&passes, "", 1);
            for (unsigned x = adam7[p][0]; x < 28; x += adam7[p][2])
                body_add(&passes, &pixels[y * 28 + x], 1);
        }
    }
    files[3] = make_png_from(&(struct png_parts){28, 28, 16, 0, 0, NULL, 0, wide.bytes, wide.len});
    files[4] = make_png_from(
        &(struct png_parts){28, 28, 8, 3, 0, palette, sizeof palette, indexed.bytes, indexed.len});
    files[5] =
        make_png_from(&(struct png_parts){28, 28, 8, 0, 1, NULL, 0, passes.bytes, passes.len});
    for (size_t i = 0; i < 6; i++) {
        json_t *reply = expect_digit(http_post(s, "/classify", NULL, files[i].bytes, files[i].len),
                                     6, 5, names[i]);
        cr_expect_str_eq(classes_of(reply), expected, "%s", names[i]);
    }
    server_stop(s);
}

Test(classify, top_k_sets_the_number_of_classes)
{
    static const struct {
        const char *target;
        unsigned classes;
    } rows[] = {{"/classify?top_k=1", 1},   {"/classify?top_k=10", 10}, {"/classify?top_k=0", 10},
                {"/classify?top_k=99", 10}, {"/classify?top_k=3", 3},   {"/classify/", 5}};
    struct server *s = server_start(NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_digit(http_post(s, rows[i].target, "application/octet-stream", digit_pixels(7), 784),
                     7, rows[i].classes, rows[i].target);
    server_stop(s);
}

Test(classify, model_and_version_can_be_named)
{
    static const char *const good[] = {
        "/classify/lenet5",       "/classify/lenet5/1",
        "/classify?model=lenet5", "/classify?model=lenet5&version=1&top_k=5",
        "/classify/lene%745",     "/classify/lenet5?version=1",
    };
    static const char *const bad[] = {"/classify/lenet6", "/classify/lenet5/2",
                                      "/classify?model=lenet", "/classify/lenet5?version=latest",
                                      "/classify/..%2flenet5"};
    struct server *s = server_start(NULL);
    const uint8_t *pixels = digit_pixels(1);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        expect_digit(http_post(s, good[i], "application/octet-stream", pixels, 784), 1, 5, good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        response_expect_error(http_post(s, bad[i], "application/octet-stream", pixels, 784), 404,
                              "model_not_found", bad[i]);
    server_stop(s);
}

/* Checks the answer for several images: one result for each, in the order sent. */
static void expect_digits(const struct response *r, const int *digits, size_t count,
                          const char *what)
{
    cr_assert(r->status == 200, "%s: status %d: %s", what, r->status, r->body);
    json_t *reply = response_json(r);
    json_t *results = json_object_get(reply, "results");
    cr_assert(json_array_size(results) == count, "%s: %s", what, r->body);
    cr_assert(json_is_object(json_object_get(reply, "timing_ms")), "%s: %s", what, r->body);
    for (size_t i = 0; i < count; i++)
        expect_result(json_array_get(results, i), digits[i], 5, what);
}

Test(classify, several_images_are_answered_in_order)
{
    static const int digits[] = {3, 1, 4, 1, 5, 9, 2, 6};
    enum { COUNT = sizeof digits / sizeof *digits };
    struct server *s = server_start(NULL);
    struct body multipart = {0}, base64 = {0}, batch = {0};
    body_printf(&base64, "{\"images\": [");
    uint8_t pixels[COUNT * 784];
    for (size_t i = 0; i < COUNT; i++) {
        struct data png = data_read(data_printf("digit-%d.png", digits[i]));
        body_part(&multipart, "file", "x.png", png.bytes, png.len);
        body_printf(&base64, "%s\"", i > 0 ? "," : "");
        body_base64(&base64, png.bytes, png.len);
        body_printf(&base64, "\"");
        memcpy(pixels + i * 784, digit_pixels(digits[i]), 784);
    }
    body_end_parts(&multipart);
    body_printf(&base64, "]}");
    body_printf(&batch, "{\"pixels\":");
    body_pixels(&batch, pixels, (const unsigned[]){COUNT, 28, 28, 1}, 4);
    body_printf(&batch, "}");
    expect_digits(http_post(s, "/classify", BODY_MULTIPART, multipart.bytes, multipart.len), digits,
                  COUNT, "multipart");
    expect_digits(http_post(s, "/classify", "application/json", base64.bytes, base64.len), digits,
                  COUNT, "base64");
    expect_digits(http_post(s, "/classify", "application/json", batch.bytes, batch.len), digits,
                  COUNT, "pixels");
    server_stop(s);
}

/* More images than a batch holds: the request is split, the answer is not. */
Test(classify, more_images_than_a_batch)
{
    enum { COUNT = 75 };
    struct server *s = server_start_with("--max-batch", "4");
    uint8_t *pixels = data_alloc(COUNT * 784);
    int digits[COUNT];
    for (int i = 0; i < COUNT; i++) {
        digits[i] = i * 7 % 10;
        memcpy(pixels + i * 784, digit_pixels(digits[i]), 784);
    }
    struct body batch = {0};
    body_printf(&batch, "{\"pixels\":");
    body_pixels(&batch, pixels, (const unsigned[]){COUNT, 28, 28, 1}, 4);
    body_printf(&batch, "}");
    expect_digits(http_post(s, "/classify", NULL, batch.bytes, batch.len), digits, COUNT, "75");
    cr_assert(http_metric(s, "convd_batch_size_bucket{model=\"lenet5\",le=\"4\"}") >= COUNT / 4);
    cr_assert(http_metric(s, "convd_inference_images_total{model=\"lenet5\",version=\"1\"}") ==
              COUNT);
    server_stop(s);
}

/* A multipart text field beside the file is not a picture. */
Test(classify, multipart_fields_without_a_file_are_ignored)
{
    struct server *s = server_start(NULL);
    struct data png = data_read("digit-3.png");
    struct body b = {0};
    body_part(&b, "comment", NULL, "a three", 7);
    body_part(&b, "image", "three.png", png.bytes, png.len);
    body_end_parts(&b);
    expect_digit(http_post(s, "/classify", BODY_MULTIPART, b.bytes, b.len), 3, 5, "multipart");
    server_stop(s);
}
