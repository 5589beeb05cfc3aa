/* One UTF-8 sequence at a time, for text that comes from files and goes into messages and JSON. */
#ifndef CONVD_RUNTIME_UTF8_H
#define CONVD_RUNTIME_UTF8_H

#include <stddef.h>

/* Bytes of the well-formed sequence that text (of len >= 1 bytes) begins with: 1 … 4, or 0 when it
 * is malformed or cut short. The ranges are those of table 3-7 of the Unicode standard: they leave
 * out overlong forms, surrogates and everything above U+10FFFF. */
static inline size_t utf8_sequence(const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned low = 0x80, high = 0xbf;
    size_t n;
    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xc2 && s[0] <= 0xdf)
        n = 2;
    else if (s[0] >= 0xe0 && s[0] <= 0xef)
        n = 3;
    else if (s[0] >= 0xf0 && s[0] <= 0xf4)
        n = 4;
    else
        return 0;
    if (s[0] == 0xe0)
        low = 0xa0;
    else if (s[0] == 0xed)
        high = 0x9f;
    else if (s[0] == 0xf0)
        low = 0x90;
    else if (s[0] == 0xf4)
        high = 0x8f;
    if (n > len || s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

#endif
