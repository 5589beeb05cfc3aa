/* multipart/form-data as clients send it, and as they must not. */
#include "server/multipart.h"

#include "tests/support/data.h"

#include <criterion/criterion.h>
#include <string.h>

#define TYPE "multipart/form-data; boundary=cut"

/* Splits a copy of exactly that size, which the parts point into. */
static int split(const char *type, const char *body, size_t len, struct multipart_part *parts,
                 int max, const char **why)
{
    char *copy = data_alloc(len ? len : 1);
    memcpy(copy, body, len);
    *why = NULL;
    return multipart_split(type, copy, len, parts, max, why);
}

static void refuse(const char *type, const char *body)
{
    struct multipart_part parts[8];
    const char *why;
    cr_expect_eq(split(type, body, strlen(body), parts, 8, &why), -1, "%s: %s", type, body);
    cr_expect_not_null(why, "%s: %s", type, body);
}

Test(multipart, is_recognised_by_its_type)
{
    cr_expect(multipart_is("multipart/form-data; boundary=x"));
    cr_expect(multipart_is("Multipart/Form-Data;boundary=x"));
    cr_expect(multipart_is(" multipart/form-data "));
    cr_expect_not(multipart_is("multipart/form-database; boundary=x"));
    cr_expect_not(multipart_is("multipart/mixed; boundary=x"));
    cr_expect_not(multipart_is("application/json"));
    cr_expect_not(multipart_is(""));
}

Test(multipart, what_curl_sends)
{
    static const char body[] =
        "--------------------------d74496d66958873e\r\n"
        "Content-Disposition: form-data; name=\"top\"\r\n\r\n3\r\n"
        "--------------------------d74496d66958873e\r\n"
        "Content-Disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n"
        "Content-Type: application/octet-stream\r\n\r\n"
        "\x89PNG\r\n--\r\n\0\x1a\r\n\r\n"
        "--------------------------d74496d66958873e--\r\n";
    struct multipart_part parts[8];
    const char *why;
    int n = split("multipart/form-data; boundary=------------------------d74496d66958873e", body,
                  sizeof body - 1, parts, 8, &why);
    cr_assert_eq(n, 2, "%s", why);
    cr_expect(!parts[0].is_file && parts[0].len == 1 && parts[0].data[0] == '3');
    cr_expect(parts[1].is_file && parts[1].len == 14 &&
              memcmp(parts[1].data, "\x89PNG\r\n--\r\n\0\x1a\r\n", 14) == 0);
}

Test(multipart, forms_of_the_boundary_and_headers)
{
    static const struct {
        const char *type, *body;
        int parts;
        bool is_file;
    } rows[] = {
        {TYPE, "--cut\r\n\r\ndata\r\n--cut--", 1, false},
        {TYPE, "--cut\r\n\r\ndata\r\n--cut--\r\n", 1, false},
        {TYPE, "preamble\r\n--cut\r\n\r\ndata\r\n--cut--\r\nepilogue --cut", 1, false},
        {TYPE, "--cut \t\r\nA: b\r\n\r\ndata\r\n--cut-- \r\n", 1, false},
        {TYPE, "\r\n--cut\r\nA: b\r\n\r\ndata\r\n--cut--", 1, false},
        {"multipart/form-data; charset=utf-8; boundary=\"a b\"", "--a b\r\n\r\ndata\r\n--a b--", 1,
         false},
        {"multipart/form-data; BOUNDARY = cut ; x=y", "--cut\r\n\r\ndata\r\n--cut--", 1, false},
        {"multipart/form-data; x=\"\\\";boundary=no\"; boundary=cut",
         "--cut\r\n\r\ndata\r\n--cut--", 1, false},
        {TYPE, "--cut\r\ncontent-type: image/png\r\n\r\ndata\r\n--cut--", 1, true},
        {TYPE, "--cut\r\nCONTENT-DISPOSITION: form-data; FILENAME=x\r\n\r\ndata\r\n--cut--", 1,
         true},
        {TYPE, "--cut\r\nContent-Disposition: form-data; filename*=UTF-8''x\r\n\r\ndata\r\n--cut--",
         1, true},
        {TYPE,
         "--cut\r\nContent-Disposition: form-data; name=\"; filename=x\"\r\n\r\ndata\r\n--cut--", 1,
         false},
        {TYPE,
         "--cut\r\nContent-Disposition: form-data; filename=\"../../\\\"x\"\r\n\r\ndata\r\n--cut--",
         1, true},
        {TYPE, "--cut\r\nContent-Transfer-Encoding: BINARY\r\n\r\ndata\r\n--cut--", 1, false},
        {TYPE, "--cut--", 0, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct multipart_part parts[8];
        const char *why;
        int n = split(rows[i].type, rows[i].body, strlen(rows[i].body), parts, 8, &why);
        cr_assert_eq(n, rows[i].parts, "%s: %d: %s", rows[i].body, n, why ? why : "");
        if (n > 0)
            cr_expect(parts[0].len == 4 && memcmp(parts[0].data, "data", 4) == 0 &&
                          parts[0].is_file == rows[i].is_file,
                      "%s", rows[i].body);
    }
}

Test(multipart, empty_and_confusing_data)
{
    static const char body[] = "--cut\r\n\r\n\r\n--cut\r\n\r\n\r\n--cu\r\n-\r\n--\r\n--cut--";
    struct multipart_part parts[8];
    const char *why;
    cr_assert_eq(split(TYPE, body, sizeof body - 1, parts, 8, &why), 2);
    cr_expect_eq(parts[0].len, 0u);
    cr_expect(parts[1].len == 13 && memcmp(parts[1].data, "\r\n--cu\r\n-\r\n--", 13) == 0);
}

Test(multipart, refusals)
{
    static const char good[] = "--cut\r\n\r\ndata\r\n--cut--";
    char *long_boundary = data_alloc(72);
    memset(long_boundary, 'x', 71);
    refuse("multipart/form-data", good);
    refuse("multipart/form-data; boundary", good);
    refuse("multipart/form-data; boundary=", good);
    refuse("multipart/form-data; boundary=\"\"", good);
    refuse("multipart/form-data; boundary=\"cut", good);
    refuse("multipart/form-data; boundary=\"cut \"", good);
    refuse("multipart/form-data; boundary=c@t", good);
    refuse("multipart/form-data; boundary=other", good);
    refuse(data_printf("multipart/form-data; boundary=%s", long_boundary),
           data_printf("--%s\r\n\r\ndata\r\n--%s--", long_boundary, long_boundary));
    long_boundary[70] = '\0';
    const char *why, *type = data_printf("multipart/form-data; boundary=%s", long_boundary);
    const char *body = data_printf("--%s\r\n\r\ndata\r\n--%s--", long_boundary, long_boundary);
    struct multipart_part parts[8];
    cr_expect_eq(split(type, body, strlen(body), parts, 8, &why), 1, "a boundary of 70");

    refuse(TYPE, "");
    refuse(TYPE, "data");
    refuse(TYPE, "--cut");
    refuse(TYPE, "--cut\r\n");
    refuse(TYPE, "--cut\n\ndata\n--cut--");
    refuse(TYPE, "--cutter\r\n\r\ndata\r\n--cut--");
    refuse(TYPE, "--cut\r\n\r\ndata\r\n--cutter--");
    refuse(TYPE, "--cut\r\n\r\ndata\r\n--cut");
    refuse(TYPE, "--cut\r\n\r\ndata--cut--");
    refuse(TYPE, "--cut\r\nA: b\r\ndata\r\n--cut--");
    refuse(TYPE, "--cut\r\nno colon\r\n\r\ndata\r\n--cut--");
    refuse(TYPE, "--cut\r\n: no name\r\n\r\ndata\r\n--cut--");
    refuse(TYPE, "--cut\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\ndata\r\n--cut--");
    refuse(TYPE, "--cut\r\nContent-Transfer-Encoding: base64\r\n\r\nZGF0YQ==\r\n--cut--");
    char *name = data_alloc(5000);
    memset(name, 'n', 4200);
    refuse(TYPE, data_printf("--cut\r\nA: %s\r\n\r\ndata\r\n--cut--", name));
    refuse(TYPE,
           data_printf("--cut\r\nA: %.3000s\r\nB: %.3000s\r\n\r\ndata\r\n--cut--", name, name));
    name[3000] = '\0';
    body = data_printf("--cut\r\nA: %s\r\n\r\ndata\r\n--cut--", name);
    cr_expect_eq(split(TYPE, body, strlen(body), parts, 8, &why), 1, "3 KB of headers");

    static const char nine[] = "--cut\r\n\r\n1\r\n--cut\r\n\r\n2\r\n--cut\r\n\r\n3\r\n--cut--";
    cr_expect_eq(split(TYPE, nine, sizeof nine - 1, parts, 3, &why), 3);
    cr_expect_eq(split(TYPE, nine, sizeof nine - 1, parts, 2, &why), -1, "one part too many");
}

Test(multipart, cut_short_anywhere)
{
    static const char body[] = "--cut\r\nContent-Type: image/png\r\n\r\ndata\r\n--cut--";
    struct multipart_part parts[8];
    const char *why;
    for (size_t len = 0; len < sizeof body - 1; len++)
        cr_expect_eq(split(TYPE, body, len, parts, 8, &why), -1, "%zu bytes", len);
    cr_expect_eq(split(TYPE, body, sizeof body - 1, parts, 8, &why), 1);
}
