/* The wire format and the index of names. */
#include "engine/onnx/names.h"
#include "engine/onnx/wire.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- reading ---- */

/* The fields of `bytes` up to the end or an error; returns how many there were. */
static int walk(const void *bytes, size_t len, const char **error)
{
    struct wire w = wire_open(bytes, len);
    struct wire_field f;
    int count = 0;
    while (wire_next(&w, &f))
        count++;
    *error = w.error;
    return count;
}

Test(wire, every_type)
{
    static const uint8_t bytes[] = {
        0x08, 0x96, 0x01,                                  /* 1: varint 150 */
        0x15, 0x00, 0x00, 0xc0, 0x3f,                      /* 2: fixed32 1.5f */
        0x19, 1,    2,    3,    4,    5,    6,    7,    8, /* 3: fixed64 */
        0x22, 0x02, 'h',  'i',                             /* 4: two bytes */
        0x80, 0x80, 0x80, 0x80, 0x01, 0x05,                /* 2^25: varint 5 */
        0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,    /* 5: varint -1, ten bytes */
        0xff, 0xff, 0x01,
    };
    struct wire w = wire_open(bytes, sizeof(bytes));
    struct wire_field f;
    cr_assert(wire_next(&w, &f) && f.number == 1 && wire_int(&w, &f) == 150);
    cr_assert(wire_next(&w, &f) && f.number == 2 && wire_float(&w, &f) == 1.5f);
    cr_assert(wire_next(&w, &f) && f.number == 3 && f.type == WIRE_FIXED64);
    cr_assert_eq(f.bytes.len, 8);
    cr_assert_eq(f.bytes.data[7], 8);
    cr_assert(wire_next(&w, &f) && f.number == 4);
    cr_assert_eq(memcmp(wire_bytes(&w, &f).data, "hi", 2), 0);
    cr_assert(wire_next(&w, &f) && f.number == 1u << 25 && wire_int(&w, &f) == 5);
    cr_assert(wire_next(&w, &f) && f.number == 5 && wire_int(&w, &f) == -1);
    cr_assert_not(wire_next(&w, &f));
    cr_assert_eq(w.error, NULL);
}

Test(wire, what_is_refused)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *part;
    } cases[] = {
        {"\x08", 1, "middle of a number"},
        {"\x80", 1, "middle of a number"},
        {"\x08\xff\xff", 3, "middle of a number"},
        {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11, "more than 64 bits"},
        {"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 12, "more than 64 bits"},
        {"\x00\x00", 2, "field number"},
        {"\x80\x80\x80\x80\x10\x00", 6, "field number"},
        {"\x0b\x0c", 2, "group"},
        {"\x0c", 1, "group"},
        {"\x0e", 1, "type that does not exist"},
        {"\x0f", 1, "type that does not exist"},
        {"\x0d\x01\x02\x03", 4, "longer than what holds it"},
        {"\x09\x01\x02\x03\x04\x05\x06\x07", 8, "longer than what holds it"},
        {"\x0a\x01", 2, "longer than what holds it"},
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, "longer than what holds it"},
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 10, "longer than what holds it"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const char *error;
        /* Behind a good field, in a block of exactly that size. */
        uint8_t *bytes = malloc(cases[i].len + 2);
        memcpy(bytes, "\x10\x07", 2);
        memcpy(bytes + 2, cases[i].bytes, cases[i].len);
        cr_expect_eq(walk(bytes, cases[i].len + 2, &error), 1, "case %zu", i);
        cr_expect(error && strstr(error, cases[i].part), "case %zu: %s", i, error);
        free(bytes);
    }
}

Test(wire, an_empty_message_is_fine)
{
    const char *error;
    cr_assert_eq(walk(NULL, 0, &error), 0);
    cr_assert_eq(error, NULL);
}

Test(wire, errors_stay_and_say_where)
{
    static const uint8_t bytes[] = {0x08, 0x01, 0x12, 0x7f, 0x00};
    struct wire w = wire_open(bytes, sizeof(bytes));
    struct wire_field f;
    cr_assert(wire_next(&w, &f));
    cr_assert_not(wire_next(&w, &f));
    cr_assert_eq(w.pos - w.file, 2);
    cr_assert_not(wire_next(&w, &f));
}

Test(wire, types_must_match)
{
    static const uint8_t bytes[] = {0x08, 0x01};
    for (int i = 0; i < 3; i++) {
        struct wire w = wire_open(bytes, sizeof(bytes));
        struct wire_field f;
        size_t count;
        cr_assert(wire_next(&w, &f));
        if (i == 0)
            cr_assert_eq(wire_bytes(&w, &f).len, 0);
        else if (i == 1)
            cr_assert_eq(wire_float(&w, &f), 0);
        else
            cr_assert(wire_scalars(&w, &f, WIRE_FIXED32, &count).len == 0 && count == 0);
        cr_assert(w.error && strstr(w.error, "wrong type"));
    }
}

Test(wire, nesting_is_limited)
{
    /* 40 messages, each in field 1 of the one around it. */
    uint8_t bytes[80];
    for (size_t i = 0; i < 40; i++) {
        bytes[2 * i] = 0x0a;
        bytes[2 * i + 1] = (uint8_t)(80 - 2 * (i + 1));
    }
    struct wire w = wire_open(bytes, sizeof(bytes));
    struct wire_field f;
    unsigned depth = 0;
    while (wire_next(&w, &f)) {
        struct wire child = wire_message(&w, &f);
        if (w.error)
            break;
        w = child;
        depth++;
    }
    cr_assert_eq(depth, WIRE_MAX_DEPTH);
    cr_assert(strstr(w.error, "nested"));
}

Test(wire, repeated_numbers_packed_or_not)
{
    static const uint8_t bytes[] = {
        0x0a, 0x05, 0x01, 0x96, 0x01, 0xac, 0x02,          /* packed 1, 150, 300 */
        0x08, 0x96, 0x01,                                  /* 150 */
        0x0a, 0x00,                                        /* packed, none */
        0x12, 0x08, 0,    0,    0xc0, 0x3f, 0,    0, 0, 0, /* packed floats 1.5, 0 */
        0x15, 0x00, 0x00, 0xc0, 0x3f,                      /* 1.5 */
    };
    static const size_t counts[] = {3, 1, 0, 2, 1};
    static const uint64_t values[] = {1, 150, 300, 150};
    struct wire w = wire_open(bytes, sizeof(bytes));
    struct wire_field f;
    size_t at = 0;
    for (int i = 0; i < 5; i++) {
        size_t count;
        cr_assert(wire_next(&w, &f));
        struct wire_bytes e =
            wire_scalars(&w, &f, f.number == 1 ? WIRE_VARINT : WIRE_FIXED32, &count);
        cr_assert_eq(count, counts[i], "field %d has %zu", i, count);
        for (; f.number == 1 && count > 0; count--)
            cr_assert_eq(wire_take_varint(&e), values[at++]);
    }
    cr_assert_not(wire_next(&w, &f));
    cr_assert_eq(w.error, NULL);
}

Test(wire, damaged_packed_fields)
{
    static const struct {
        const char *bytes;
        size_t len;
        enum wire_type element;
    } cases[] = {
        {"\x0a\x02\x01\x80", 4, WIRE_VARINT}, /* the last one has no end */
        {"\x0a\x03\x01\x02\x03", 5, WIRE_FIXED32},
        {"\x0a\x04\x01\x02\x03\x04", 6, WIRE_FIXED64},
    };
    for (size_t i = 0; i < 3; i++) {
        struct wire w = wire_open(cases[i].bytes, cases[i].len);
        struct wire_field f;
        size_t count;
        cr_assert(wire_next(&w, &f));
        (void)wire_scalars(&w, &f, cases[i].element, &count);
        cr_assert_neq(w.error, NULL, "case %zu", i);
    }
}

/* ---- writing ---- */

static void put(struct wire_writer *w)
{
    wire_put_int(w, 1, 150);
    struct wire_mark outer = wire_begin(w, 2);
    struct wire_mark empty = wire_begin(w, 3);
    wire_end(w, empty);
    struct wire_mark inner = wire_begin(w, 4);
    for (int i = 0; i < 64; i++)
        wire_put_text(w, 5, "abc"); /* 320 bytes: a length of two bytes */
    wire_end(w, inner);
    wire_put_float(w, 6, 1.5f);
    wire_end(w, outer);
    wire_put_int(w, 7, -1);
}

Test(wire, two_passes_agree_with_bytes_worked_out_by_hand)
{
    struct wire_writer w = {0};
    put(&w);
    cr_assert_not(w.failed);
    /* 3; 1 + 2 around 2 + (1 + 2 + 320) + 5 = 330; 11 */
    cr_assert_eq(w.pos, 3 + 3 + 330 + 11);
    uint8_t *out = malloc(w.pos);
    wire_second_pass(&w, out);
    put(&w);
    cr_assert_eq(w.pos, 347);
    cr_assert_eq(memcmp(out,
                        "\x08\x96\x01\x12\xca\x02\x1a\x00\x22\xc0\x02\x2a\x03"
                        "abc\x2a\x03",
                        18),
                 0);
    cr_assert_eq(
        memcmp(out + 331, "\x35\x00\x00\xc0\x3f\x38\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 16),
        0);
    wire_writer_release(&w);
    free(out);
}

Test(wire, writer_survives_want_of_memory)
{
    struct wire_writer w = {0};
    mem_fail_after(1, true);
    put(&w);
    mem_fail_after(0, false);
    cr_assert(w.failed);
    wire_writer_release(&w);
}

Test(wire, writer_notices_sizes_that_overflow)
{
    struct wire_writer w = {0};
    wire_put_bytes(&w, 1, NULL, SIZE_MAX / 2);
    wire_put_bytes(&w, 1, NULL, SIZE_MAX / 2 + 2);
    cr_assert(w.failed);
    wire_writer_release(&w);
}

/* ---- names ---- */

static struct graph g;
static struct names names;

static void setup(void)
{
    cr_assert_eq(graph_init(&g, NULL), CVD_STATUS_OK);
    names_init(&names);
}

static void teardown(void)
{
    names_release(&names);
    graph_release(&g);
}

static bool add(const char *name)
{
    uint32_t v;
    cr_assert_eq(graph_add_value(&g, name, &v, NULL), CVD_STATUS_OK);
    return names_add(&names, &g, v);
}

static uint32_t find(const char *name)
{
    return names_find(&names, &g, name, strlen(name));
}

Test(names, each_finds_itself_and_no_other, .init = setup, .fini = teardown)
{
    static const char *const texts[] = {
        "b",   "a",     "ab", "abc",          "",           "\x01",         "\xff",
        "abd", "b\x80", "aa", "conv1.weight", "conv1.bias", "conv10.weight"};
    static const char *const others[] = {"c", "abcd", "conv1.", "conv1", "\x02", "ac", "\x7f"};
    enum { COUNT = sizeof(texts) / sizeof(*texts) };
    cr_assert_eq(find("a"), GRAPH_NONE);
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert_eq(find(texts[i]), GRAPH_NONE);
        cr_assert(add(texts[i]));
        for (uint32_t j = 0; j <= i; j++)
            cr_assert_eq(find(texts[j]), j, "'%s' after %u", texts[j], i);
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        cr_assert_eq(find(others[i]), GRAPH_NONE, "'%s'", others[i]);
    cr_assert_eq(names_find(&names, &g, "abcdef", 3), find("abc")); /* need not be terminated */
}

Test(names, many, .init = setup, .fini = teardown)
{
    char text[32];
    enum { N = 200000 };
    clock_t begin = clock();
    for (uint32_t i = 0; i < N; i++) {
        snprintf(text, sizeof(text), "%x/node_%u", i * 2654435761u, i);
        cr_assert(add(text));
    }
    for (uint32_t i = 0; i < N; i++) {
        snprintf(text, sizeof(text), "%x/node_%u", i * 2654435761u, i);
        cr_assert_eq(find(text), i);
    }
    cr_assert_lt(clock() - begin, 3 * CLOCKS_PER_SEC);
}

/* Each name begins with all the shorter ones, the deepest tree there can be. */
Test(names, a_degenerate_tree, .init = setup, .fini = teardown)
{
    enum { N = 2000 };
    char text[N + 1];
    memset(text, 'a', N);
    text[N] = '\0';
    clock_t begin = clock();
    for (uint32_t i = N; i > 0; i--)
        cr_assert(add(text + N - i));
    for (uint32_t i = N; i > 0; i--)
        cr_assert_eq(find(text + N - i), N - i);
    cr_assert_lt(clock() - begin, CLOCKS_PER_SEC);
}

Test(names, adding_survives_want_of_memory, .init = setup, .fini = teardown)
{
    cr_assert(add("a"));
    uint32_t v;
    cr_assert_eq(graph_add_value(&g, "b", &v, NULL), CVD_STATUS_OK);
    mem_fail_after(1, false);
    cr_assert_not(names_add(&names, &g, v));
    cr_assert_eq(find("b"), GRAPH_NONE);
    cr_assert(names_add(&names, &g, v));
    cr_assert_eq(find("b"), v);
}
