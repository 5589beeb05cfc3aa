/* Base64: RFC 4648's vectors, white space, data: URLs, and all that is refused. */
#include "server/pixels.h"
#include "server/pool.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* Decodes a copy of exactly that size. */
static bool decode(const char *text, size_t len, uint8_t **out, size_t *out_len)
{
    char *copy = malloc(len ? len : 1);
    memcpy(copy, text, len);
    bool ok = pixels_base64(copy, len, out, out_len);
    free(copy);
    return ok;
}

Test(base64, vectors)
{
    static const struct {
        const char *text, *bytes;
    } rows[] = {{"", ""},
                {"Zg==", "f"},
                {"Zm8=", "fo"},
                {"Zm9v", "foo"},
                {"Zm9vYg==", "foob"},
                {"Zm9vYmE=", "fooba"},
                {"Zm9vYmFy", "foobar"},
                {" Z m\t9\r\nv Y m F y\n", "foobar"},
                {"Zm9v\nYg=\n=\n", "foob"},
                {"+/+/", "\xFB\xFF\xBF"},
                {"data:image/png;base64,Zm9v", "foo"},
                {"DATA:;BASE64,Zm9v", "foo"},
                {"data:image/png;name=a;base64,Zg==", "f"},
                {"data:;base64,", ""}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t *bytes;
        size_t len;
        cr_assert(decode(rows[i].text, strlen(rows[i].text), &bytes, &len), "%s", rows[i].text);
        cr_expect(len == strlen(rows[i].bytes) && memcmp(bytes, rows[i].bytes, len) == 0, "%s",
                  rows[i].text);
        pool_free(bytes);
    }
}

Test(base64, refusals)
{
    static const char *const texts[] = {"Z",
                                        "Zg",
                                        "Zg=",
                                        "Zm8",
                                        "Zm9vY",
                                        "Zm9vYg",
                                        "=",
                                        "==",
                                        "===",
                                        "====",
                                        "Z===",
                                        "Zg===",
                                        "Zg==Zg==",
                                        "Zm8=Zm8=",
                                        "Zm8=v",
                                        "Zg=g",
                                        "=Zg=",
                                        "Zm9v=",
                                        "Zm9v====",
                                        "Zm9*",
                                        "Zm9\x80",
                                        "Zm-_",
                                        "Zh==",
                                        "Zm9=",
                                        "Zm9v\v",
                                        "data:",
                                        "data:image/png,Zm9v",
                                        "data:image/png;base64Zm9v",
                                        "data;base64,Zm9v",
                                        "base64,Zm9v",
                                        "data:;base6,Zm9v",
                                        "data:base64,Zm9v"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        uint8_t *bytes;
        size_t len;
        cr_expect_not(decode(texts[i], strlen(texts[i]), &bytes, &len), "%s", texts[i]);
    }
    uint8_t *bytes;
    size_t len;
    cr_expect_not(decode("Zm9v\0Zm9", 8, &bytes, &len), "a zero byte");
}

/* Every text of up to four characters of a small alphabet decodes exactly when writing the result
 * as base64 gives it back. */
Test(base64, one_text_for_one_value)
{
    static const char alphabet[] = "AQgw/=", digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                        "abcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned accepted = 0;
    for (unsigned n = 0; n < 6 * 6 * 6 * 6; n++) {
        char text[5] = {alphabet[n % 6], alphabet[n / 6 % 6], alphabet[n / 36 % 6],
                        alphabet[n / 216], 0};
        uint8_t *b;
        size_t len;
        if (!decode(text, 4, &b, &len))
            continue;
        accepted++;
        unsigned v =
            (unsigned)b[0] << 16 | (len > 1 ? (unsigned)b[1] << 8 : 0) | (len > 2 ? b[2] : 0);
        char again[5] = {digits[v >> 18], digits[v >> 12 & 63], len > 1 ? digits[v >> 6 & 63] : '=',
                         len > 2 ? digits[v & 63] : '=', 0};
        cr_expect_str_eq(again, text);
        pool_free(b);
    }
    /* 5^4 full groups, 25 of one byte's first characters with a zero tail, 125 of two bytes'. */
    unsigned whole = 5 * 5 * 5 * 5, one = 0, two = 0;
    static const unsigned values[] = {0, 16, 32, 48, 63};
    for (unsigned i = 0; i < 5; i++) {
        one += values[i] % 16 == 0 ? 5 : 0;
        two += values[i] % 4 == 0 ? 25 : 0;
    }
    cr_expect_eq(accepted, whole + one + two);
}
