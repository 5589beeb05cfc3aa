/* Growing text: the buffer that replies, metrics and reports are composed in. */
#include "server/reply.h"

#include "server/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void text_fail(struct text *t)
{
    free(t->data);
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
    char *data = realloc(t->data, room);
    if (!data) {
        text_fail(t);
        return false;
    }
    t->data = data;
    t->room = room;
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

void text_json_number(struct text *t, double value)
{
    char buf[32];

    if (!isfinite(value)) {
        text_puts(t, "null");
        return;
    }
    /* Values come from floats, which nine digits determine; fewer often do. */
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(buf, sizeof buf, "%.*g", digits, value);
        if (strtof(buf, NULL) == (float)value)
            break;
    }
    text_puts(t, buf);
}

void text_free(struct text *t)
{
    free(t->data);
    *t = (struct text){0};
}
