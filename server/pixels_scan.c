/*
 * JSON pixel arrays -> floats, in one pass over the bytes.
 *
 * The verdict on a number is jansson's: RFC 8259's grammar, integers within 64 bits, reals within
 * a double; its value is the nearest double rounded to float. Numbers of up to 19 digits and small
 * exponents, that is all that clients write, take a few nanoseconds; the rest goes to strtod().
 */
#include "server/pixels_scan.h"

#include "server/pool.h"
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Powers of ten that a double holds exactly. */
static const double power_of_ten[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                      1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                      1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
enum { MAX_EXACT_POWER = 22, MAX_DIGITS = 19 };

enum pixels_verdict pixels_refuse(struct pixels_reason *why, enum pixels_verdict verdict,
                                  const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why->text, sizeof why->text, format, args);
    va_end(args);
    return verdict;
}

int pixels_skip_space(struct pixels_cursor *c)
{
    while (c->at < c->end &&
           (*c->at == ' ' || *c->at == '\n' || *c->at == '\r' || *c->at == '\t')) {
        c->at++;
    }
    return c->at < c->end ? (unsigned char)*c->at : -1;
}

static bool is_digit(const char *at, const char *end)
{
    return at < end && *at >= '0' && *at <= '9';
}

/* A number's parts: (-1)^negative * digits * 10^exponent, as far as they fit. */
struct decimal {
    uint64_t digits;
    unsigned digit_count; /* significant ones; above MAX_DIGITS they do not fit */
    int exponent;
    bool negative, real;
};

/* Splits the number at `at`; returns its end, or NULL when it is not JSON. */
static const char *split_number(const char *at, const char *end, struct decimal *d)
{
    *d = (struct decimal){0};
    if (at < end && *at == '-') {
        d->negative = true;
        at++;
    }
    if (!is_digit(at, end) || (*at == '0' && is_digit(at + 1, end))) {
        return NULL;
    }
    for (; is_digit(at, end); at++) {
        d->digits = d->digits * 10 + (uint64_t)(*at - '0');
        d->digit_count += d->digits != 0;
    }
    if (at < end && *at == '.') {
        const char *point = at++;
        for (; is_digit(at, end); at++) {
            d->digits = d->digits * 10 + (uint64_t)(*at - '0');
            d->digit_count += d->digits != 0;
        }
        if (at == point + 1) {
            return NULL;
        }
        d->real = true;
        /* Longer fractions have more digits than the fast path takes, or are zeros to it. */
        ptrdiff_t fraction = at - point - 1;
        d->exponent = fraction < 10000 ? -(int)fraction : -10000;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        bool down = at < end && *at == '-';
        at += at < end && (*at == '-' || *at == '+');
        if (!is_digit(at, end)) {
            return NULL;
        }
        int power = 0;
        for (; is_digit(at, end); at++) {
            power = power < 100000 ? power * 10 + (*at - '0') : power;
        }
        d->real = true;
        d->exponent += down ? -power : power;
    }
    return at;
}

/*
 * The value when two roundings of a double cannot change the float: digits of up to 2^53 and an
 * exact power of ten give the nearest double outright (Clinger, "How to Read Floating Point Numbers
 * Accurately", 1990). With more digits the product or quotient is within two units of it, which
 * matters only beside the midpoint of two floats.
 */
static bool convert_fast(const struct decimal *d, float *out)
{
    if (d->digit_count > MAX_DIGITS || d->exponent > MAX_EXACT_POWER ||
        d->exponent < -MAX_EXACT_POWER) {
        return false;
    }
    double value = (double)d->digits;
    value =
        d->exponent < 0 ? value / power_of_ten[-d->exponent] : value * power_of_ten[d->exponent];
    if (d->digits > 1ull << 53) {
        uint64_t bits;
        memcpy(&bits, &value, sizeof bits);
        /* A double has 29 bits more than a float; 10^-22 * 2^53 is far above float's denormals. */
        uint32_t below = (uint32_t)bits & 0x1FFFFFFF;
        if (below - (0x10000000 - 4) <= 8) {
            return false;
        }
    }
    *out = (float)(d->negative ? -value : value);
    return true;
}

/* Anything else: the text through strtod(), which is exact (the program stays in the C locale). */
static enum pixels_verdict convert_slowly(const char *at, const char *end, bool real, float *out)
{
    char room[64];
    size_t len = (size_t)(end - at);
    char *text = len < sizeof room ? room : malloc(len + 1);
    if (text == NULL) {
        return PIXELS_NO_MEMORY;
    }
    memcpy(text, at, len);
    text[len] = '\0';
    enum pixels_verdict verdict = PIXELS_OK;
    errno = 0;
    if (real) {
        double value = strtod(text, NULL);
        *out = (float)value;
        verdict = isinf(value) ? PIXELS_BAD_NUMBER : PIXELS_OK;
    } else {
        *out = (float)(double)strtoll(text, NULL, 10);
        verdict = errno == ERANGE ? PIXELS_BAD_NUMBER : PIXELS_OK;
    }
    if (text != room) {
        free(text);
    }
    return verdict;
}

/* One to three digits, then ',' or ']': what image arrays are made of. Returns the end or NULL. */
static inline const char *scan_small(const char *at, const char *end, unsigned *value)
{
    if (end - at < 4) {
        return NULL;
    }
    unsigned first = (unsigned)(*at - '0'), n = first;
    if (n > 9) {
        return NULL;
    }
    const char *p = at + 1;
    for (; p < at + 3 && (unsigned)(*p - '0') <= 9; p++) {
        n = n * 10 + (unsigned)(*p - '0');
    }
    *value = n;
    return (*p == ',' || *p == ']') && (first != 0 || p == at + 1) ? p : NULL;
}

/* The number at the cursor, which is on a digit or a sign. */
static enum pixels_verdict scan_number(struct pixels_cursor *c, float *out,
                                       struct pixels_reason *why)
{
    size_t offset = (size_t)(c->at - c->begin);
    unsigned small;
    const char *after = scan_small(c->at, c->end, &small);
    if (after) {
        c->at = after;
        *out = (float)small;
    } else {
        struct decimal d;
        const char *end = split_number(c->at, c->end, &d);
        enum pixels_verdict verdict = PIXELS_BAD_NUMBER;
        if (end && (d.real || d.digit_count < MAX_DIGITS) && convert_fast(&d, out)) {
            verdict = PIXELS_OK;
        } else if (end) {
            verdict = convert_slowly(c->at, end, d.real, out);
        }
        if (verdict == PIXELS_NO_MEMORY) {
            return verdict;
        }
        if (verdict != PIXELS_OK) {
            return pixels_refuse(why, verdict, "byte %zu: not a number that JSON allows", offset);
        }
        c->at = end;
    }
    if (!(*out >= 0 && *out <= 255)) {
        return pixels_refuse(why, PIXELS_RANGE, "byte %zu: a pixel must be within 0 and 255",
                             offset);
    }
    return PIXELS_OK;
}

/* ---------------------------------------------------------------- arrays */

struct scan {
    struct pixels_cursor *c;
    struct pixels_numbers *out;
    struct pixels_reason *why;
    size_t room, max_count;
    unsigned depth;                     /* of open brackets */
    size_t length[PIXELS_MAX_RANK + 1]; /* items so far in the open array of each depth */
};

static size_t offset_of(const struct scan *s)
{
    return (size_t)(s->c->at - s->c->begin);
}

static enum pixels_verdict ragged(const struct scan *s)
{
    return pixels_refuse(s->why, PIXELS_SHAPE, "byte %zu: the arrays are not of one shape",
                         offset_of(s));
}

static enum pixels_verdict add_number(struct scan *s)
{
    struct pixels_numbers *out = s->out;
    if (out->rank == 0) {
        out->rank = s->depth;
    }
    if (s->depth != out->rank) {
        return ragged(s);
    }
    if (out->count == s->room) {
        if (out->count >= s->max_count) {
            return pixels_refuse(s->why, PIXELS_SHAPE,
                                 "byte %zu: more than %zu numbers; the request takes no more",
                                 offset_of(s), s->max_count);
        }
        size_t room = s->room ? s->room * 2 : 4096;
        room = room < s->max_count ? room : s->max_count;
        float *more = pool_grow(out->values, out->count * sizeof *more, room * sizeof *more);
        if (more == NULL) {
            return PIXELS_NO_MEMORY;
        }
        out->values = more;
        s->room = room;
    }
    return scan_number(s->c, &out->values[out->count++], s->why);
}

/*
 * The plain case, in one loop: small numbers without white space, and rows or pixels of the extent
 * that the first one had. Stops, between two values, in front of everything else, which the
 * functions around it then read or refuse.
 */
static void scan_run(struct scan *s)
{
    struct pixels_numbers *out = s->out;
    const char *at = s->c->at, *end = s->c->end;
    size_t length = s->length[s->depth], closed = 0, count = out->count;
    size_t extent = s->depth > 1 ? out->extent[s->depth - 1] : 0; /* 0: not known, or no parent */
    unsigned value;
    while (count < s->room) {
        const char *next = scan_small(at, end, &value);
        if (next == NULL || value > 255) {
            break;
        }
        if (*next == ',') {
            length++;
            at = next + 1;
        } else if (length + 1 == extent && end - next > 2 && next[1] == ',' && next[2] == '[') {
            length = 0;
            closed++;
            at = next + 3;
        } else {
            break;
        }
        out->values[count++] = (float)value;
    }
    s->c->at = at;
    s->length[s->depth] = length;
    s->length[s->depth - 1] += closed;
    out->count = count;
}

static enum pixels_verdict open_array(struct scan *s)
{
    if (s->depth == PIXELS_MAX_RANK || (s->out->rank && s->depth == s->out->rank)) {
        return s->out->rank ? ragged(s)
                            : pixels_refuse(s->why, PIXELS_SHAPE,
                                            "byte %zu: arrays nested deeper than [N][H][W][C]",
                                            offset_of(s));
    }
    s->depth++;
    s->length[s->depth] = 0;
    s->c->at++;
    return PIXELS_OK;
}

static enum pixels_verdict close_array(struct scan *s)
{
    size_t *extent = &s->out->extent[s->depth - 1];
    size_t length = s->length[s->depth];
    if (length == 0) {
        return pixels_refuse(s->why, PIXELS_SHAPE, "byte %zu: an empty array", offset_of(s));
    }
    if (*extent == 0) {
        *extent = length;
    }
    if (*extent != length) {
        return ragged(s);
    }
    s->depth--;
    s->c->at++;
    return PIXELS_OK;
}

/* What stands where a value must be, and is neither a number nor an array. */
static enum pixels_verdict wrong_value(const struct scan *s, int byte)
{
    size_t left = (size_t)(s->c->end - s->c->at);
    bool other =
        byte == '"' || byte == '{' ||
        (left >= 4 && (memcmp(s->c->at, "true", 4) == 0 || memcmp(s->c->at, "null", 4) == 0)) ||
        (left >= 5 && memcmp(s->c->at, "false", 5) == 0);
    if (other) {
        return pixels_refuse(s->why, PIXELS_BAD_REQUEST,
                             "byte %zu: \"pixels\" holds something other than numbers",
                             offset_of(s));
    }
    bool number =
        byte == '+' || byte == '.' || byte == 'N' || byte == 'I' || byte == 'n' || byte == 'i';
    return pixels_refuse(s->why, number ? PIXELS_BAD_NUMBER : PIXELS_BAD_JSON,
                         number ? "byte %zu: not a number that JSON allows"
                                : "byte %zu: not valid JSON",
                         offset_of(s));
}

/* One value: a number is read, an array is opened. */
static enum pixels_verdict scan_value(struct scan *s, bool *opened)
{
    if (s->depth > 0 && s->depth == s->out->rank) {
        scan_run(s);
    }
    int byte = pixels_skip_space(s->c);
    *opened = byte == '[';
    if (byte == '[') {
        return open_array(s);
    }
    if (byte == '-' || (byte >= '0' && byte <= '9')) {
        return add_number(s);
    }
    if (byte == ']' && s->length[s->depth] == 0) {
        return close_array(s); /* empty: refused */
    }
    return wrong_value(s, byte);
}

/* What follows a value: commas and closing brackets, up to the next value or the end. */
static enum pixels_verdict scan_separator(struct scan *s)
{
    for (;;) {
        s->length[s->depth]++;
        int byte = pixels_skip_space(s->c);
        if (byte == ',') {
            s->c->at++;
            return PIXELS_OK;
        }
        if (byte != ']') {
            return pixels_refuse(s->why, PIXELS_BAD_JSON, "byte %zu: not valid JSON", offset_of(s));
        }
        enum pixels_verdict verdict = close_array(s);
        if (verdict != PIXELS_OK || s->depth == 0) {
            return verdict;
        }
    }
}

enum pixels_verdict pixels_scan_array(struct pixels_cursor *c, size_t max_count,
                                      struct pixels_numbers *out, struct pixels_reason *why)
{
    *out = (struct pixels_numbers){0};
    struct scan s = {.c = c, .out = out, .why = why, .max_count = max_count};
    enum pixels_verdict verdict = PIXELS_OK;
    do {
        bool opened = false;
        verdict = scan_value(&s, &opened);
        if (verdict != PIXELS_OK) {
            break;
        }
        if (!opened) {
            verdict = scan_separator(&s);
        }
    } while (verdict == PIXELS_OK && s.depth > 0);
    if (verdict != PIXELS_OK) {
        pool_free(out->values);
        out->values = NULL;
    }
    return verdict;
}
