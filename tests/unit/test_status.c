/* Status names and error messages. */
#include <convd/status.h>

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

Test(status, every_value_has_a_name_of_its_own)
{
    for (int i = 0; i < CVD_STATUS_COUNT; i++) {
        const char *name = cvd_status_name((enum cvd_status)i);
        cr_assert_neq(name, NULL);
        cr_assert_str_neq(name, "unknown");
        for (int j = 0; j < i; j++)
            cr_assert_str_neq(name, cvd_status_name((enum cvd_status)j));
    }
    cr_assert_str_eq(cvd_status_name(CVD_STATUS_INVALID_MODEL), "invalid_model");
    cr_assert_str_eq(cvd_status_name(CVD_STATUS_COUNT), "unknown");
    cr_assert_str_eq(cvd_status_name((enum cvd_status) - 1), "unknown");
}

Test(status, set_formats_and_returns)
{
    struct cvd_error err;
    cr_assert_eq(cvd_error_set(&err, CVD_STATUS_IO, "%s: %d", "file", 3), CVD_STATUS_IO);
    cr_assert_eq(err.status, CVD_STATUS_IO);
    cr_assert_str_eq(err.message, "file: 3");
    cr_assert_eq(cvd_error_set(NULL, CVD_STATUS_STATE, "x"), CVD_STATUS_STATE);
}

Test(status, arguments_may_be_the_message_itself)
{
    struct cvd_error err;
    cvd_error_set(&err, CVD_STATUS_IO, "short read");
    cvd_error_set(&err, CVD_STATUS_IO, "%s: %s", "a.onnx", err.message);
    cr_assert_str_eq(err.message, "a.onnx: short read");
}

Test(status, long_messages_are_cut_and_terminated)
{
    char text[2 * CVD_ERROR_MESSAGE_BYTES];
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    struct cvd_error err;
    cvd_error_set(&err, CVD_STATUS_IO, "%s", text);
    cr_assert_eq(strlen(err.message), CVD_ERROR_MESSAGE_BYTES - 1);

    /* A cut inside a character takes the whole character away. */
    for (size_t i = 0; i < sizeof(text) - 3; i += 3)
        memcpy(text + i, "\xe2\x82\xac", 3);
    for (size_t shift = 0; shift < 3; shift++) {
        cvd_error_set(&err, CVD_STATUS_IO, "%.*s%s", (int)shift, "xx", text);
        size_t len = strlen(err.message);
        cr_assert_eq((len - shift) % 3, 0);
        cr_assert_geq(len, CVD_ERROR_MESSAGE_BYTES - 3);
        cr_assert_eq(strchr(err.message, '?'), NULL);
    }
}

Test(status, hostile_bytes_are_replaced)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"a\nb\tc\x1b[31m\x7f", "a?b?c?[31m?"},
        {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"\xc2\x9b"
         "31m",
         "??31m"},                      /* CSI as a C1 control */
        {"\xc2\xa0|", "\xc2\xa0|"},     /* the first character after C1 */
        {"\xff\xfe|", "??|"},           /* never in UTF-8 */
        {"\xc0\xaf|", "??|"},           /* overlong '/' */
        {"\xe0\x80\xaf|", "???|"},      /* overlong '/' in three bytes */
        {"\xed\xa0\x80|", "???|"},      /* a surrogate */
        {"\xf4\x90\x80\x80|", "????|"}, /* above U+10FFFF */
        {"\xf0\x80\x80\x80|", "????|"}, /* overlong */
        {"\xed\x9f\xbf|\xf4\x8f\xbf\xbf|", "\xed\x9f\xbf|\xf4\x8f\xbf\xbf|"},
        {"\xc3|", "?|"},      /* cut by another character */
        {"x\xe2\x82", "x??"}, /* cut by the end of the text */
        {"\x80", "?"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct cvd_error err;
        cvd_error_set(&err, CVD_STATUS_IO, "%s", cases[i].in);
        cr_expect_str_eq(err.message, cases[i].out, "case %zu: got '%s'", i, err.message);
    }
}
