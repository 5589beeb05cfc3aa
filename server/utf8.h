/* UTF-8, as much as writing JSON and log lines needs. */
#ifndef CONVD_SERVER_UTF8_H
#define CONVD_SERVER_UTF8_H

#include <stddef.h>

/* Length of the well-formed sequence at s, or 0 (RFC 3629: no overlong forms, no surrogates,
 * nothing above U+10FFFF). The final NUL of the string ends a truncated sequence. */
static inline size_t utf8_length(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned char low = 0x80, high = 0xBF; /* bounds of the second byte */
    size_t len;

    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xC2 && s[0] <= 0xDF)
        len = 2;
    else if (s[0] >= 0xE0 && s[0] <= 0xEF)
        len = 3;
    else if (s[0] >= 0xF0 && s[0] <= 0xF4)
        len = 4;
    else
        return 0;
    if (s[0] == 0xE0)
        low = 0xA0;
    else if (s[0] == 0xED)
        high = 0x9F;
    else if (s[0] == 0xF0)
        low = 0x90;
    else if (s[0] == 0xF4)
        high = 0x8F;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    return len;
}

#define UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

#endif
