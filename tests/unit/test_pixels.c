/* JSON bodies: every form, every refusal, and jansson's verdict and values on random documents. */
#include "server/pixels.h"

#include "tests/support/data.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Parses a copy of exactly that size, for a model of 2 x 3 pixels (or 2 x 3 x 3). */
static enum pixels_verdict parse(const char *text, size_t len, unsigned channels,
                                 struct pixels_document *out, struct pixels_reason *why)
{
    char *copy = malloc(len ? len : 1);
    memcpy(copy, text, len);
    enum pixels_verdict verdict = pixels_parse(copy, len, 2, 3, channels, 4, 1000, out, why);
    free(copy);
    cr_expect((verdict == PIXELS_OK) == (why->text[0] == '\0'), "a reason, and only for a refusal");
    return verdict;
}

static struct pixels_document accept(const char *text, unsigned channels)
{
    struct pixels_document d;
    struct pixels_reason why;
    enum pixels_verdict verdict = parse(text, strlen(text), channels, &d, &why);
    cr_assert_eq(verdict, PIXELS_OK, "%s: %d: %s", text, verdict, why.text);
    return d;
}

static void refuse(const char *text, enum pixels_verdict expected)
{
    struct pixels_document d;
    struct pixels_reason why;
    enum pixels_verdict verdict = parse(text, strlen(text), 1, &d, &why);
    cr_expect_eq(verdict, expected, "%.80s: verdict %d, not %d: %s", text, verdict, expected,
                 why.text);
}

/* ---------------------------------------------------------------- forms */

Test(pixels, every_form_of_an_array)
{
    static const struct {
        const char *text;
        unsigned model_channels, count, height, width, channels;
    } rows[] = {
        {"{\"pixels\":[1,2,3,4,5,6]}", 1, 1, 2, 3, 1},
        {"{\"pixels\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18]}", 3, 1, 2, 3, 3},
        {"{\"pixels\":[[1,2,3],[4,5,6]]}", 1, 1, 2, 3, 1},
        {"{\"pixels\":[[1],[2],[3],[4],[5],[6]]}", 3, 1, 6, 1, 1},
        {"{\"pixels\":[[[1],[2],[3]],[[4],[5],[6]]]}", 1, 1, 2, 3, 1},
        {"{\"pixels\":[[[1,2,3]],[[4,5,6]]]}", 1, 1, 2, 1, 3},
        {"{\"pixels\":[[[[1],[2],[3]]],[[[4],[5],[6]]]]}", 1, 2, 1, 3, 1},
        {"{\"pixels\":[[[[1,2,3],[4,5,6]]]]}", 1, 1, 1, 2, 3},
        {" \t\r\n{ \"pixels\" : [ [ 1 , 2\n, 3 ] ,\t[4,5,6 ] ] } \n", 1, 1, 2, 3, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pixels_document d = accept(rows[i].text, rows[i].model_channels);
        const struct pixels_array *p = &d.pixels;
        cr_expect(d.has_pixels && d.file_count == 0);
        cr_expect(p->count == rows[i].count && p->height == rows[i].height &&
                      p->width == rows[i].width && p->channels == rows[i].channels,
                  "%s: %u %u %u %u", rows[i].text, p->count, p->height, p->width, p->channels);
        for (unsigned k = 0; k < p->count * p->height * p->width * p->channels; k++)
            cr_expect(p->values[k] == (float)(k + 1));
        pixels_free(&d);
    }
}

Test(pixels, base64_files)
{
    struct pixels_document d = accept("{\"image\": \"Rm9v\"}", 1);
    cr_assert(!d.has_pixels && d.file_count == 1 && d.files[0].len == 3);
    cr_expect_eq(memcmp(d.files[0].bytes, "Foo", 3), 0);
    pixels_free(&d);

    d = accept("{\"images\": [\"Rm9v\", \"\" ,\"data:image/png;base64,QmE=\"]}", 1);
    cr_assert_eq(d.file_count, 3u);
    cr_expect(d.files[0].len == 3 && d.files[1].len == 0 && d.files[2].len == 2);
    cr_expect_eq(memcmp(d.files[2].bytes, "Ba", 2), 0);
    pixels_free(&d);

    /* How PHP, Gson and line-wrapping encoders write "/+==" and a line end. */
    d = accept("{\"image\": \"\\/\\u002b\\u002B\\/\\r\\n\\u002fw\\u003d\\u003D\"}", 1);
    cr_assert(d.file_count == 1 && d.files[0].len == 4);
    cr_expect_eq(memcmp(d.files[0].bytes, "\xFF\xEF\xBF\xFF", 4), 0);
    pixels_free(&d);
}

/* ---------------------------------------------------------------- refusals */

Test(pixels, malformed_json)
{
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "}",
        "nonsense",
        "1",
        "\"pixels\"",
        "null",
        "[1,2,3,4,5,6]",
        "{\"pixels\"}",
        "{\"pixels\":}",
        "{\"pixels\":[1,2,3,4,5,6}",
        "{\"pixels\":[1,2,3,4,5,6]",
        "{\"pixels\":[1,2,3,4,5,6]]",
        "{\"pixels\":[1,2,3,4,5,6]}}",
        "{\"pixels\":[1,2,3,4,5,6]} x",
        "{\"pixels\":[1,2,3,4,5,6],}",
        "{\"pixels\":[1,2,3,4,5,6,]}",
        "{\"pixels\":[,1,2,3,4,5,6]}",
        "{\"pixels\":[1 2,3,4,5,6]}",
        "{\"pixels\":[1,,2,3,4,5,6]}",
        "{\"pixels\" [1,2,3,4,5,6]}",
        "{pixels:[1,2,3,4,5,6]}",
        "{'pixels':[1,2,3,4,5,6]}",
        "\xEF\xBB\xBF{\"pixels\":[1,2,3,4,5,6]}",
        "{\"pixels\":[1,2,3,4,5,6],\"pixels\":[1,2,3,4,5,6]}",
        "{\"pixels\":[1,2,3,4,5,6].5}",
        "{\"pixels\":[1,2,3,4,5,6]\"\"}",
        "{\"pixels\":[1,2,3,4,5,6],\"pixels\":1}",
        "{\"pixels\":1,\"pixels\":2}",
        "{\"a\":tru e}",
        "{\"a\":1 2}",
        "{\"a\":\"\xFF\"}",
        "{\"a\":\"\x01\"}",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"unended}",
        "{\"image\":\"Rm9v}",
        "{\"image\":\"Rm9v\\\"}",
        "{\"image\":\"Rm\n9v\"}",
        "{\"image\":\"Rm9v\"\"\"}",
        "{\"image\":\"Rm\\x9v\"}",
        "{\"image\":\"Rm\\u00g09v\"}",
        "{\"images\":[\"Rm9v\",]}",
        "{\"images\":[\"Rm9v\"",
        "{\"images\":[\"Rm9v\" \"Rm9v\"]}",
        "{\"images\":[",
        "{\"images\":[,\"Rm9v\"]}",
        "[\"pixels\":[1,2,3,4,5,6]]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        refuse(texts[i], PIXELS_BAD_JSON);
}

Test(pixels, wrong_requests)
{
    static const char *const texts[] = {
        "{}",
        "{\"pixel\":[1,2,3,4,5,6]}",
        "{\"pixels\":[1,2,3,4,5,6],\"top_k\":3}",
        "{\"top_k\":3,\"pixels\":[1,2,3,4,5,6]}",
        "{\"pixels\":1}",
        "{\"pixels\":\"[1]\"}",
        "{\"pixels\":{}}",
        "{\"pixels\":null}",
        "{\"image\":[\"Rm9v\"]}",
        "{\"image\":1}",
        "{\"images\":\"Rm9v\"}",
        "{\"images\":[1]}",
        "{\"images\":[\"Rm9v\",null]}",
        "{\"images\":[[\"Rm9v\"]]}",
        "{\"image\":\"Rm9\"}",
        "{\"image\":\"Rm9*\"}",
        "{\"image\":\"Rm9\\u0100\"}",
        "{\"images\":[\"Rm9v\",\"?\"]}",
        "{\"pixels\":[1,2,3,4,5,6],\"image\":\"Rm9v\"}",
        "{\"image\":\"Rm9v\",\"images\":[\"Rm9v\"]}",
        "{\"image\":\"Rm9v\",\"pixels\":0}",
        "{\"pixels\":[1,2,\"3\",4,5,6]}",
        "{\"pixels\":[true,2,3,4,5,6]}",
        "{\"pixels\":[null]}",
        "{\"pixels\":[{}]}",
        "{\"pi\\u0078els\":[1,2,3,4,5,6]}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        refuse(texts[i], PIXELS_BAD_REQUEST);
}

Test(pixels, numbers_that_json_does_not_know)
{
    static const char *const numbers[] = {
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "inf",
        "+1",
        ".5",
        "1.",
        "-",
        "-.5",
        "01",
        "00",
        "-01",
        "1e",
        "1e+",
        "1E-",
        "1.e1",
        "1e400",
        "-1e400",
        "1e99999999999999999999",
        "9223372036854775808",
        "-9223372036854775809",
        "100000000000000000000000000",
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        refuse(data_printf("{\"pixels\":[%s,2,3,4,5,6]}", numbers[i]), PIXELS_BAD_NUMBER);
        refuse(data_printf("{\"pixels\":[1,2,3,4,5,%s]}", numbers[i]), PIXELS_BAD_NUMBER);
    }
    static const char *const outside[] = {"256",
                                          "255.0001",
                                          "-1",
                                          "-0.5",
                                          "1e3",
                                          "1e38",
                                          "1e39",
                                          "1e300",
                                          "9223372036854775807",
                                          "-9223372036854775808",
                                          "255.00001525878907"};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        refuse(data_printf("{\"pixels\":[1,2,3,4,5,%s]}", outside[i]), PIXELS_RANGE);
}

Test(pixels, values_are_the_nearest_floats)
{
    static const struct {
        const char *text;
        float value;
    } rows[] = {
        {"0", 0},
        {"-0", 0},
        {"-0.0", 0},
        {"255", 255},
        {"255.0", 255},
        {"2.55e2", 255},
        {"2550e-1", 255},
        {"1E+2", 100},
        {"0.1", 0.1f},
        {"1e-400", 0},
        {"0e400", 0},
        {"0.000000000000000000000000000000000000001", 1e-39f}, /* a denormal */
        {"127.50196078431372", 127.50196078431372f},
        {"16.000000000000000000000000000000000000000000000000001", 16},
        {"0.50000000000000000000000000000000000000000000000000000000000000000000000000000", 0.5f},
        /* 1 + 2^-24, between two floats: to even; and the nearest doubles on either side. */
        {"1.000000059604644775390625", 1.0f},
        {"1.00000005960464499743", 0x1.000002p0f},
        {"1.000000059604644553345", 1.0f},
        {"254.99999237060547", 255},
        /* By way of double: the nearest is the midpoint of two floats, and rounds to even. */
        {"126.89912796020507812", (float)126.89912796020507812},
        {"107.40825271606445312", (float)107.40825271606445312},
        {"3.612034678459167480", (float)3.612034678459167480},
        {"3.317265391349792480", (float)3.317265391349792480},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pixels_document d =
            accept(data_printf("{\"pixels\":[[%s , %s]]}", rows[i].text, rows[i].text), 1);
        cr_expect(d.pixels.values[0] == rows[i].value && d.pixels.values[1] == rows[i].value,
                  "%s: %.9g, not %.9g", rows[i].text, (double)d.pixels.values[0],
                  (double)rows[i].value);
        pixels_free(&d);
    }
    char *zeros = data_alloc(20001);
    memset(zeros, '0', 20000);
    struct pixels_document d =
        accept(data_printf("{\"pixels\":[[0.%s1, 1%.300se-300]]}", zeros, zeros), 1);
    cr_expect(d.pixels.values[0] == 0 && d.pixels.values[1] == 1);
    pixels_free(&d);
}

Test(pixels, shapes_that_do_not_fit)
{
    static const char *const arrays[] = {
        "[]",
        "[[]]",
        "[[],[]]",
        "[1,2,3,4,5]",
        "[1,2,3,4,5,6,7]",
        "[[1,2],[3]]",
        "[[1],[2,3]]",
        "[[1,2],3]",
        "[1,[2,3]]",
        "[[1],[[2]]]",
        "[[[1]],[2]]",
        "[[[1,2]]]",
        "[[[1,2,3,4]]]",
        "[[[[1,2]]]]",
        "[[[[[1]]]]]",
        "[[[[1]]],[[[1]]],[[[1]]],[[[1]]],[[[1]]]]",
        "[[[[1]],[[2]]],[[[3]]]]",
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        refuse(data_printf("{\"pixels\":%s}", arrays[i]), PIXELS_SHAPE);
    refuse("{\"images\":[]}", PIXELS_SHAPE);
    refuse("{\"images\":[\"\",\"\",\"\",\"\",\"\"]}", PIXELS_SHAPE);

    /* 1000 pixels are the most. */
    char *row = data_alloc(4096);
    for (int i = 0; i < 1001; i++)
        strcat(row, i ? ",0" : "0");
    refuse(data_printf("{\"pixels\":[[%s]]}", row), PIXELS_SHAPE);
    row[strlen(row) - 2] = '\0';
    struct pixels_document d = accept(data_printf("{\"pixels\":[[%s]]}", row), 1);
    pixels_free(&d);
}

Test(pixels, depth_and_size_of_the_rest_are_bounded)
{
    char *deep = data_alloc(100001);
    memset(deep, '[', 100000);
    refuse(data_printf("{\"x\":%s", deep), PIXELS_BAD_JSON);
    refuse(data_printf("{\"pixels\":%s", deep), PIXELS_SHAPE);
    refuse(data_printf("{\"x\":%.31s0%.31s}", deep, (char *)memset(data_alloc(40), ']', 32)),
           PIXELS_BAD_REQUEST);
    refuse(data_printf("{\"x\":%.32s0%.32s}", deep, (char *)memset(data_alloc(40), ']', 32)),
           PIXELS_BAD_JSON);
    refuse(data_printf("{\"%.65000s\":1}", deep), PIXELS_BAD_REQUEST);
    refuse(data_printf("{\"%.66000s\":1}", deep), PIXELS_BAD_JSON);
}

Test(pixels, messages_carry_offsets_and_no_control_characters)
{
    struct pixels_document d;
    struct pixels_reason why;
    static const char number[] = "{\"pixels\":[1,2,NaN]}";
    parse(number, sizeof number - 1, 1, &d, &why);
    cr_expect(strstr(why.text, "byte 15"), "%s", why.text);
    static const char behind[] = "{\"pixels\":[1,2,3,4,5,6]} x";
    parse(behind, sizeof behind - 1, 1, &d, &why);
    cr_expect(strstr(why.text, "byte 26"), "%s", why.text);
    static const char key[] = "{\"a\\n\\u001b[31m\xC3\xA9"
                              "bcdefghijklmnopqrstuvwxyzabcdefgh\":1}";
    parse(key, sizeof key - 1, 1, &d, &why);
    cr_expect(strstr(why.text, "\"a??[31m??bcdef"), "%s", why.text);
    for (const char *c = why.text; *c; c++)
        cr_expect(*c >= 0x20 && *c < 0x7F);
}

/* A body that ends anywhere is refused, without a byte read beyond it. */
Test(pixels, cut_short_anywhere)
{
    static const char *const texts[] = {"{\"pixels\":[[1.5e0,-0],[3,255]]}",
                                        "{\"image\":\"R\\/9\\u0076\"}",
                                        "{\"images\":[\"Rm9v\",\"Rm9v\"]}"};
    for (size_t i = 0; i < 3; i++) {
        struct pixels_document d = accept(texts[i], 1);
        pixels_free(&d);
        for (size_t len = 0; len < strlen(texts[i]); len++) {
            struct pixels_reason why;
            enum pixels_verdict verdict = parse(texts[i], len, 1, &d, &why);
            cr_expect(verdict == PIXELS_BAD_JSON || verdict == PIXELS_BAD_NUMBER, "%.*s: %d",
                      (int)len, texts[i], verdict);
        }
    }
}

/* ---------------------------------------------------------------- beside jansson */

static uint32_t random_state = 20240607;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)(((uint64_t)(random_state >> 4) * n) >> 28);
}

/* Mostly a number, sometimes something like one. */
static void random_number(char *to)
{
    static const char *const odd[] = {"NaN",
                                      "+1",
                                      ".5",
                                      "1.",
                                      "01",
                                      "1e400",
                                      "1e-400",
                                      "-0",
                                      "-0.0",
                                      "255.0e0",
                                      "1E1",
                                      "9223372036854775807",
                                      "9223372036854775808",
                                      "--1",
                                      "1e5",
                                      "0x1",
                                      "1 1",
                                      "",
                                      "255.5",
                                      "-1"};
    switch (random_below(40)) {
    case 0:
        strcpy(to, odd[random_below(sizeof odd / sizeof *odd)]);
        break;
    case 1:
    case 2:
    case 3:
        sprintf(to, "%.*e", (int)random_below(25), random_below(25500) / 100.0);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
        sprintf(to, "%.*g", 1 + (int)random_below(20), random_below(1 << 28) / 1052689.0 / 1.0);
        break;
    case 8: /* beside the midpoint of two floats */
        sprintf(to, "%.*f", 12 + (int)random_below(12),
                128 + random_below(1 << 23) * 0x1p-16 + 0x1p-17 +
                    ((int)random_below(5) - 2) * 0x1p-46);
        break;
    case 9: /* many digits */
        sprintf(to, "%u.%u%u%u%u", random_below(256), random_below(1 << 28), random_below(1 << 28),
                random_below(1 << 28), random_below(1 << 28));
        break;
    default:
        sprintf(to, "%u", random_below(256));
        break;
    }
}

static void random_document(char text[4096])
{
    static const char *const spaces[] = {"", "", "", " ", "\n", "\t", "\r\n", "\v"};
    char number[256];
    unsigned rows = 1 + random_below(3), columns = 1 + random_below(4);
    strcpy(text, "{\"pixels\":");
    strcat(text, "[");
    for (unsigned r = 0; r < rows; r++) {
        strcat(text, r ? ",[" : "[");
        for (unsigned c = 0; c < columns; c++) {
            random_number(number);
            strcat(text, c ? "," : "");
            strcat(text, spaces[random_below(random_below(20) ? 7 : 8)]);
            strcat(text, number);
            strcat(text, spaces[random_below(7)]);
        }
        strcat(text, "]");
    }
    strcat(text, "]}");
    if (random_below(10) == 0) { /* one byte more, fewer or other */
        size_t at = random_below((uint32_t)strlen(text));
        static const char bytes[] = "[]{},:\"0-.eE+ \\x";
        char byte = bytes[random_below(sizeof bytes - 1)];
        if (random_below(2))
            memmove(text + at + 1, text + at, strlen(text + at) + 1);
        text[at] = byte;
    }
}

/* Whether jansson's array has the shape and the range, and the same numbers as ours. */
static bool same_numbers(const json_t *array, const struct pixels_array *p)
{
    if (json_array_size(array) != p->height)
        return false;
    for (unsigned y = 0; y < p->height; y++) {
        const json_t *row = json_array_get(array, y);
        if (json_array_size(row) != p->width)
            return false;
        for (unsigned x = 0; x < p->width; x++) {
            float value = (float)json_number_value(json_array_get(row, x));
            if (!json_is_number(json_array_get(row, x)) || p->values[y * p->width + x] != value)
                return false;
        }
    }
    return true;
}

/* Whether something in a valid document is not a number of 0 … 255 in rows of one length. */
static bool acceptable(const json_t *root)
{
    const json_t *array = json_object_get(root, "pixels");
    size_t width = json_array_size(json_array_get(array, 0));
    bool good = json_object_size(root) == 1 && json_array_size(array) > 0 && width > 0;
    for (size_t y = 0; y < json_array_size(array); y++) {
        const json_t *row = json_array_get(array, y);
        good = good && json_array_size(row) == width;
        for (size_t x = 0; x < json_array_size(row); x++) {
            const json_t *item = json_array_get(row, x);
            float value = (float)json_number_value(item);
            good = good && json_is_number(item) && value >= 0 && value <= 255;
        }
    }
    return good;
}

Test(pixels, agrees_with_jansson)
{
    unsigned accepted = 0, refused = 0, malformed = 0;
    for (int i = 0; i < 30000; i++) {
        char text[4096];
        random_document(text);
        struct pixels_document d;
        struct pixels_reason why;
        enum pixels_verdict verdict = parse(text, strlen(text), 1, &d, &why);
        json_t *root = json_loadb(text, strlen(text), JSON_REJECT_DUPLICATES, NULL);
        if (verdict == PIXELS_OK) {
            accepted++;
            cr_expect(root && acceptable(root), "accepted: %s", text);
            cr_expect(root && same_numbers(json_object_get(root, "pixels"), &d.pixels),
                      "other numbers: %s", text);
            pixels_free(&d);
        } else if (verdict == PIXELS_BAD_JSON || verdict == PIXELS_BAD_NUMBER) {
            malformed++;
            cr_expect_null(root, "not malformed: %s: %s", text, why.text);
        } else {
            refused++;
            cr_expect(root == NULL || !acceptable(root), "refused: %s: %s", text, why.text);
        }
        json_decref(root);
    }
    cr_expect(accepted > 10000 && malformed > 2000 && refused > 1000,
              "%u accepted, %u malformed, %u refused", accepted, malformed, refused);
}
