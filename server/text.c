/* Growing text: the buffer that replies, metrics and reports are composed in. */
#include "server/reply.h"

#include "server/pool.h"
#include "server/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void text_fail(struct text *t)
{
    pool_free(t->data);
    *t = (struct text){.failed = true};
}

/* Room for `more` bytes and a final NUL. */
static bool text_reserve(struct text *t, size_t more)
{
    size_t need, room = t->room ? t->room : 256;

    if (t->failed)
        return false;
    if (__builtin_add_overflow(t->len, more, &need) || __builtin_add_overflow(need, 1, &need)) {
        text_fail(t);
        return false;
    }
    if (need <= t->room)
        return true;
    while (room < need) {
        if (__builtin_mul_overflow(room, 2, &room)) {
            text_fail(t);
            return false;
        }
    }
    char *data = pool_grow(t->data, t->len, room);
    if (!data) {
        text_fail(t);
        return false;
    }
    t->data = data;
    t->room = pool_room(data);
    return true;
}

void text_append(struct text *t, const char *data, size_t len)
{
    if (!text_reserve(t, len))
        return;
    if (len)
        memcpy(t->data + t->len, data, len);
    t->len += len;
    t->data[t->len] = '\0';
}

void text_puts(struct text *t, const char *string)
{
    text_append(t, string, strlen(string));
}

void text_printf(struct text *t, const char *format, ...)
{
    va_list args;

    if (!text_reserve(t, 64))
        return;
    va_start(args, format);
    int n = vsnprintf(t->data + t->len, t->room - t->len, format, args);
    va_end(args);
    if (n < 0) {
        text_fail(t);
        return;
    }
    if ((size_t)n >= t->room - t->len) {
        if (!text_reserve(t, (size_t)n))
            return;
        va_start(args, format);
        vsnprintf(t->data + t->len, t->room - t->len, format, args);
        va_end(args);
    }
    t->len += (size_t)n;
}

void text_json_string(struct text *t, const char *s)
{
    text_append(t, "\"", 1);
    while (*s) {
        const char *start = s;
        size_t len = 0;
        /* A run that needs no change goes in one piece. */
        while ((unsigned char)*s >= 0x20 && *s != '"' && *s != '\\' && *s != 0x7F &&
               (len = utf8_length(s)) > 0)
            s += len;
        text_append(t, start, (size_t)(s - start));
        if (!*s)
            break;
        if (*s == '"' || *s == '\\')
            text_printf(t, "\\%c", *s);
        else if (*s == '\n')
            text_puts(t, "\\n");
        else if (*s == '\r')
            text_puts(t, "\\r");
        else if (*s == '\t')
            text_puts(t, "\\t");
        else if ((unsigned char)*s <= 0x7F)
            text_printf(t, "\\u%04x", (unsigned char)*s);
        else
            text_puts(t, UTF8_REPLACEMENT); /* one for each byte of what is not UTF-8 */
        s++;
    }
    text_append(t, "\"", 1);
}

/* ---- numbers ---- */

/* Values come from floats, which nine digits determine; fewer often do. */
enum { LEAST_DIGITS = 6, MOST_DIGITS = 9 };

/* The shortest of six to nine digits that give the float back. The specification, and what takes
 * the cases that format_fast() does not decide. */
static void format_exact(char out[32], double value)
{
    for (int digits = LEAST_DIGITS; digits <= MOST_DIGITS; digits++) {
        snprintf(out, 32, "%.*g", digits, value);
        if (strtof(out, NULL) == (float)value)
            break;
    }
}

/* All the powers of ten that a double holds exactly. */
static const double ten_to[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
#define EXACT_POWERS 22

/* value * 10^power, and value / 10^power, for -22 <= power <= 44, with at most two roundings. */
static double times_ten_to(double value, int power)
{
    if (power < 0)
        return value / ten_to[-power];
    if (power > EXACT_POWERS)
        return value * ten_to[EXACT_POWERS] * ten_to[power - EXACT_POWERS];
    return value * ten_to[power];
}

static double over_ten_to(double value, int power)
{
    if (power < 0)
        return value * ten_to[-power];
    if (power > EXACT_POWERS)
        return value / ten_to[EXACT_POWERS] / ten_to[power - EXACT_POWERS];
    return value / ten_to[power];
}

/* Whether the float next to `value` may be another one for a number so near that a few roundings
 * of doubles lie between: it is almost half-way between two floats. */
static bool is_between_floats(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint64_t half = 1u << 28; /* of the 29 bits that a float does not have */
    uint64_t rest = bits & (2 * half - 1);
    return rest > half - 16 && rest < half + 16;
}

/* As "%.*g" does: `digits` of them without zeros at the end, the first one times 10^exponent. */
static void write_digits(char *out, bool negative, uint64_t n, int digits, int exponent)
{
    int precision = digits;
    char text[MOST_DIGITS];

    for (; digits > 1 && n % 10 == 0; n /= 10)
        digits--;
    for (int i = digits; i-- > 0; n /= 10)
        text[i] = (char)('0' + n % 10);
    if (negative)
        *out++ = '-';
    bool scientific = exponent < -4 || exponent >= precision;
    int whole = scientific ? 1 : exponent + 1; /* digits before the point */
    for (int i = 0; i < whole; i++)
        *out++ = i < digits ? text[i] : '0';
    if (whole <= 0)
        *out++ = '0';
    if (digits > whole)
        *out++ = '.';
    for (int i = whole; i < 0; i++)
        *out++ = '0';
    for (int i = whole > 0 ? whole : 0; i < digits; i++)
        *out++ = text[i];
    if (scientific) { /* below 10^15 and not below 10^-36: two digits */
        unsigned size = (unsigned)(exponent < 0 ? -exponent : exponent);
        *out++ = 'e';
        *out++ = exponent < 0 ? '-' : '+';
        *out++ = (char)('0' + size / 10);
        *out++ = (char)('0' + size % 10);
    }
    *out = '\0';
}

/* What format_exact() writes, many times faster: snprintf() and strtof() compute with long
 * integers, and a reply has a number for every class. Every step here is off by three roundings of
 * a double at most; where that could matter it returns false. */
static bool format_fast(char out[32], double value)
{
    double size = fabs(value);

    if (!(size >= 1e-35 && size < 1e14))
        return false;
    const int guess = (int)floor(log10(size));
    for (int digits = LEAST_DIGITS, exponent = guess; digits <= MOST_DIGITS;) {
        double scaled = times_ten_to(size, digits - 1 - exponent), n = floor(scaled + 0.5);
        if (fabs(scaled - floor(scaled) - 0.5) < 1e-5)
            return false;
        /* Rounded up to one digit more, or the logarithm was: "%g" counts after rounding as well.
         */
        if (n >= ten_to[digits] || n < ten_to[digits - 1]) {
            exponent += n >= ten_to[digits] ? 1 : -1;
            continue;
        }
        double back = over_ten_to(n, digits - 1 - exponent);
        if (is_between_floats(back))
            return false;
        if ((float)back == (float)size || digits == MOST_DIGITS) {
            write_digits(out, value < 0, (uint64_t)n, digits, exponent);
            return true;
        }
        digits++;
        exponent = guess;
    }
    return false;
}

void text_json_number(struct text *t, double value)
{
    char buf[32];

    if (!isfinite(value)) {
        text_puts(t, "null");
        return;
    }
    if (!format_fast(buf, value))
        format_exact(buf, value);
    text_puts(t, buf);
}

void text_free(struct text *t)
{
    pool_free(t->data);
    *t = (struct text){0};
}
