/* Strict JSON documents: what is refused, and where their memory comes from. */
#include "server/strict_json.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(strict_json, reads_objects_and_arrays)
{
    struct strict_json doc;
    static const char text[] = "{\"a\":[1,2.5,\"x\"],\"b\":null} ";
    cr_assert(strict_json_read(&doc, text, sizeof text - 1));
    cr_expect_eq(json_object_size(doc.root), 2);
    json_t *array = json_object_get(doc.root, "a");
    cr_expect_eq(json_integer_value(json_array_get(array, 0)), 1);
    cr_expect_float_eq(json_real_value(json_array_get(array, 1)), 2.5, 0);
    cr_expect_str_eq(json_string_value(json_array_get(array, 2)), "x");
    strict_json_free(&doc);
    strict_json_free(&doc);
}

Test(strict_json, refuses)
{
    static const char *const texts[] = {"",
                                        "1",
                                        "\"a\"",
                                        "{\"a\":1,\"a\":2}",
                                        "[1]x",
                                        "[1,]",
                                        "{\"a\":NaN}",
                                        "[1e400]",
                                        "[01]",
                                        "{1:2}",
                                        "[\"\\u0000\"]",
                                        "\xEF\xBB\xBF[1]",
                                        "[\"\xC0\x80\"]"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct strict_json doc;
        cr_expect_not(strict_json_read(&doc, texts[i], strlen(texts[i])), "%s", texts[i]);
        cr_expect_not(doc.no_memory);
        cr_expect_null(doc.root);
        cr_expect_neq(doc.fault.text[0], '\0');
        strict_json_free(&doc);
    }
}

/* Far more than the document holds within itself, in large pieces and in many small ones. */
Test(strict_json, documents_of_any_size)
{
    enum { STRING = 300000, NUMBERS = 50000 };
    char *text = malloc(STRING + 2 * NUMBERS + 10);
    struct strict_json doc;
    cr_assert_not_null(text);
    memcpy(text, "[\"", 2);
    memset(text + 2, 's', STRING);
    size_t len = 2 + STRING;
    text[len++] = '"';
    for (int i = 0; i < NUMBERS; i++) {
        text[len++] = ',';
        text[len++] = (char)('0' + i % 10);
    }
    text[len++] = ']';
    cr_assert(strict_json_read(&doc, text, len));
    cr_expect_eq(json_array_size(doc.root), 1 + NUMBERS);
    cr_expect_eq(json_string_length(json_array_get(doc.root, 0)), STRING);
    for (size_t i = 0; i < NUMBERS; i++)
        cr_assert_eq(json_integer_value(json_array_get(doc.root, 1 + i)), (json_int_t)(i % 10));
    strict_json_free(&doc);
    free(text);
}

/* The rest of the program may use jansson beside it. */
Test(strict_json, leaves_jansson_usable)
{
    struct strict_json doc;
    json_t *before = json_pack("{s:i}", "a", 1);
    cr_assert(strict_json_read(&doc, "{\"b\":[1,2]}", 11));
    json_t *after = json_array();
    json_array_append(after, before);
    char *text = json_dumps(after, JSON_COMPACT), *own = json_dumps(doc.root, JSON_COMPACT);
    strict_json_free(&doc);
    cr_expect_str_eq(text, "[{\"a\":1}]");
    cr_expect_str_eq(own, "{\"b\":[1,2]}");
    free(text);
    free(own);
    json_decref(before);
    json_decref(after);
}
