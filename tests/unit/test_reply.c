/* Replies and the text they are composed in: valid JSON whatever goes in, one owner of each body.
 */
#include "server/reply.h"

#include "server/pool.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *parse(const char *text, size_t len)
{
    json_error_t error;
    json_t *root = json_loadb(text, len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);

    cr_assert_not_null(root, "'%.*s': %s", (int)len, text, error.text);
    return root;
}

static char *pooled(const char *text)
{
    char *copy = pool_alloc(strlen(text) + 1);
    cr_assert_not_null(copy);
    return strcpy(copy, text);
}

static void drop(struct request *rq)
{
    if (!rq->reply.body_is_static)
        pool_free(rq->reply.body);
    rq->reply = (struct reply){0};
}

/* ---- replies ---- */

Test(reply, error_has_code_message_and_request_id)
{
    struct request rq = {.id = "abc-1"};

    cr_expect_eq(reply_error(&rq, 422, "bad_thing", "%s is \"%d\"\n", "x\x01", 7), REQUEST_DONE);
    cr_expect_eq(rq.reply.status, 422);
    cr_expect_str_eq(rq.reply.content_type, "application/json");
    cr_expect_str_eq(rq.reply.error_code, "bad_thing");
    json_t *root = parse(rq.reply.body, rq.reply.body_len);
    json_t *error = json_object_get(root, "error");
    cr_expect_str_eq(json_string_value(json_object_get(error, "code")), "bad_thing");
    cr_expect_str_eq(json_string_value(json_object_get(error, "message")), "x\x01 is \"7\"\n");
    cr_expect_str_eq(json_string_value(json_object_get(error, "request_id")), "abc-1");
    json_decref(root);
    drop(&rq);
}

Test(reply, a_long_message_is_cut_not_spoilt)
{
    struct request rq = {0};
    char text[2000];

    memset(text, '"', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    reply_error(&rq, 400, "x", "%s", text);
    json_decref(parse(rq.reply.body, rq.reply.body_len));
    cr_expect_lt(rq.reply.body_len, 1200u);
    drop(&rq);
}

Test(reply, a_second_reply_replaces_the_first)
{
    static const char page[] = "hello";
    struct request rq = {.id = "1"};

    reply_json_take(&rq, 200, pooled("{}"), 2);
    cr_expect_eq(rq.reply.status, 200);
    cr_expect_not(rq.reply.body_is_static);
    reply_take(&rq, 200, "text/plain", pooled("abc"), 3); /* leak checkers watch the first */
    cr_expect_str_eq(rq.reply.content_type, "text/plain");
    reply_static(&rq, 404, "text/html", page, 5);
    cr_expect(rq.reply.body_is_static);
    cr_expect_eq(rq.reply.body, page);
    reply_error(&rq, 500, "internal", "x");
    cr_expect_not(rq.reply.body_is_static);
    drop(&rq);
}

Test(reply, no_memory_is_answered_too)
{
    struct request rq = {0};

    cr_expect_eq(reply_json_take(&rq, 200, NULL, 0), REQUEST_DONE);
    cr_expect_eq(rq.reply.status, 503);
    cr_expect_str_eq(rq.reply.error_code, "out_of_memory");
    cr_expect_gt(rq.reply.retry_after, 0);
    cr_expect(rq.reply.body_is_static);
    json_decref(parse(rq.reply.body, rq.reply.body_len));
}

Test(reply, busy_spreads_its_clients)
{
    unsigned seen[4] = {0};

    for (int i = 0; i < 300; i++) {
        struct request rq = {0};
        snprintf(rq.id, sizeof rq.id, "request-%d", i);
        reply_busy(&rq, "queue_full", "the queue is full");
        cr_assert_eq(rq.reply.status, 503);
        cr_assert(rq.reply.retry_after >= 1 && rq.reply.retry_after <= 3);
        seen[rq.reply.retry_after]++;
        drop(&rq);
    }
    for (int i = 1; i <= 3; i++)
        cr_expect_gt(seen[i], 60u, "Retry-After %d: %u of 300", i, seen[i]);
}

/* ---- text ---- */

Test(text, grows)
{
    struct text t = {0};
    char expected[60000] = "";
    size_t len = 0;

    for (int i = 0; i < 5000; i++) {
        text_printf(&t, "%d,", i);
        len += (size_t)snprintf(expected + len, sizeof expected - len, "%d,", i);
    }
    cr_expect_eq(t.len, len);
    cr_expect_str_eq(t.data, expected);
    text_free(&t);
    cr_expect_null(t.data);

    char big[3000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    text_printf(&t, "<%s>", big); /* more than the room that is made on trial */
    cr_expect_eq(t.len, 3001);
    cr_expect_eq(t.data[3000], '>');
    text_append(&t, NULL, 0);
    cr_expect_eq(t.len, 3001);
    text_free(&t);
}

Test(text, fails_for_good)
{
    struct text t = {0};

    text_puts(&t, "x");
    text_append(&t, "y", SIZE_MAX - 1);
    cr_expect(t.failed);
    cr_expect_null(t.data);
    text_puts(&t, "x");
    text_printf(&t, "%d", 1);
    text_json_string(&t, "x");
    cr_expect_eq(t.len, 0);
    text_free(&t);
}

static void expect_string(const char *in, const char *out)
{
    struct text t = {0};

    text_json_string(&t, in);
    json_t *value = parse(t.data, t.len);
    cr_expect_str_eq(json_string_value(value), out);
    json_decref(value);
    text_free(&t);
}

#define FFFD "\xEF\xBF\xBD"

Test(text, json_strings_are_always_valid)
{
    expect_string("", "");
    expect_string("plain", "plain");
    expect_string("\"\\/\b\f\n\r\t\x01\x1f\x7f", "\"\\/\b\f\n\r\t\x01\x1f\x7f");
    expect_string("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf",
                  "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf");
    expect_string("a\xff", "a" FFFD);
    expect_string("\x80z", FFFD "z");
    expect_string("\xc0\xaf", FFFD FFFD);                   /* overlong */
    expect_string("\xe0\x9f\xbf", FFFD FFFD FFFD);          /* overlong */
    expect_string("\xed\xa0\x80", FFFD FFFD FFFD);          /* surrogate */
    expect_string("\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD); /* beyond U+10FFFF */
    expect_string("\xe2\x82", FFFD FFFD);                   /* cut */
    expect_string("\xe2\x82\"", FFFD FFFD "\"");
}

static const char *number(double value)
{
    static char buf[64];
    struct text t = {0};

    text_json_number(&t, value);
    snprintf(buf, sizeof buf, "%s", t.data);
    text_free(&t);
    return buf;
}

Test(text, json_numbers)
{
    cr_expect_str_eq(number(0), "0");
    cr_expect_str_eq(number(0.5), "0.5");
    cr_expect_str_eq(number(-3), "-3");
    cr_expect_str_eq(number((double)0.1f), "0.1");
    cr_expect_str_eq(number((double)0.998f), "0.998");
    cr_expect_str_eq(number((double)16777216.0f), "16777216");
    cr_expect_str_eq(number((double)NAN), "null");
    cr_expect_str_eq(number((double)INFINITY), "null");
    cr_expect_str_eq(number(-(double)INFINITY), "null");
}

Test(text, json_numbers_give_the_same_float_back)
{
    unsigned x = 7;

    for (int i = 0; i < 20000; i++) {
        union {
            unsigned bits;
            float value;
        } u;
        x = x * 1664525u + 1013904223u;
        u.bits = x;
        if (!isfinite(u.value))
            continue;
        const char *text = number((double)u.value);
        cr_assert_eq(strtof(text, NULL), u.value, "%a as %s", (double)u.value, text);
        cr_assert_lt(strlen(text), 16u);
    }
}

/* As it was written before it was made fast: the shortest of the printf() forms that give the float
 * back. */
static void expect_number(double value)
{
    char wanted[64];

    if (!isfinite(value))
        return;
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(wanted, sizeof wanted, "%.*g", digits, value);
        if (strtof(wanted, NULL) == (float)value)
            break;
    }
    cr_assert_str_eq(number(value), wanted, "%a", value);
}

Test(text, json_numbers_are_those_of_printf)
{
    static const double odd[] = {
        -0.0,    9.99999951, 9.9999995, 0.99999994, 999999.5, 999999.4, 1e5,       1e6,       1e9,
        1e10,    123456789,  0.0001,    0.00009999, 1e-5,     1e13,     9.9999e13, 1e14,      1e15,
        1e-34,   1e-35,      1e-36,     1e-38,      1e-40,    1.4e-45,  3.4e38,    8388608.5, 0.3,
        1.0 / 3, 2.5e-7,     65504,     16777217,   1e300,    4.9e-324, 12345.65,  0.1234565,
    };
    uint64_t x = 1;

    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        expect_number(odd[i]);
        expect_number(-odd[i]);
        expect_number((double)(float)odd[i]);
        expect_number((double)nextafterf((float)odd[i], 0));
        expect_number((double)nextafterf((float)odd[i], INFINITY));
    }
    for (int i = 0; i < 200000; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint32_t bits = (uint32_t)(x >> 32);
        float any;
        memcpy(&any, &bits, sizeof any);
        expect_number((double)any);
        /* A probability, a decimal fraction, and a double that is no float. */
        expect_number((double)(float)exp(-(double)(bits >> 8) / (1 << 18)));
        expect_number((double)((float)(bits % 100000) / 1000));
        expect_number((double)bits / 4294967296.0);
    }
}
