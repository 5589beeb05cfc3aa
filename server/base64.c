/* Base64 (RFC 4648 section 4) and the base64 form of data: URLs (RFC 2397) -> bytes. */
#include "server/pixels.h"
#include "server/pool.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

enum { SPACE = 64, PAD = 65, WRONG = 66 };

/* A digit's value, or one of the above. */
static unsigned digit(unsigned char c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26u;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52u;
    }
    switch (c) {
    case '+':
        return 62;
    case '/':
        return 63;
    case '=':
        return PAD;
    case ' ':
    case '\t':
    case '\n':
    case '\r':
        return SPACE;
    default:
        return WRONG;
    }
}

static bool skip_data_url(const char **text, size_t *len)
{
    static const char marker[] = ";base64";
    const size_t marker_len = sizeof marker - 1;
    if (*len < 5 || strncasecmp(*text, "data:", 5) != 0) {
        return true;
    }
    const char *comma = memchr(*text, ',', *len);
    if (comma == NULL || (size_t)(comma - *text) < 5 + marker_len ||
        strncasecmp(comma - marker_len, marker, marker_len) != 0) {
        return false;
    }
    *len -= (size_t)(comma + 1 - *text);
    *text = comma + 1;
    return true;
}

bool pixels_base64(const char *text, size_t len, uint8_t **out, size_t *out_len)
{
    errno = 0;
    if (!skip_data_url(&text, &len)) {
        return false;
    }
    uint8_t table[256];
    for (int i = 0; i < 256; i++) {
        table[i] = (uint8_t)digit((unsigned char)i);
    }
    uint8_t *bytes = pool_alloc(len / 4 * 3 + 3);
    if (bytes == NULL) {
        errno = ENOMEM;
        return false;
    }
    const unsigned char *at = (const unsigned char *)text, *end = at + len;
    uint8_t *to = bytes;
    uint32_t group = 0;
    unsigned digits = 0, pads = 0; /* of the group that is being read */
    while (at < end) {
        /* Whole groups without white space. */
        while (digits == 0 && pads == 0 && end - at >= 4) {
            uint32_t a = table[at[0]], b = table[at[1]], c = table[at[2]], d = table[at[3]];
            if ((a | b | c | d) >= 64) {
                break;
            }
            group = a << 18 | b << 12 | c << 6 | d;
            *to++ = (uint8_t)(group >> 16);
            *to++ = (uint8_t)(group >> 8);
            *to++ = (uint8_t)group;
            at += 4;
        }
        if (at == end) {
            break;
        }
        unsigned value = table[*at++];
        if (value < 64 && pads == 0) {
            group = group << 6 | value;
            if (++digits == 4) {
                *to++ = (uint8_t)(group >> 16);
                *to++ = (uint8_t)(group >> 8);
                *to++ = (uint8_t)group;
                digits = 0;
            }
        } else if (value == PAD && digits + pads >= 2 && digits + pads < 4) {
            pads++;
        } else if (value != SPACE) {
            pool_free(bytes);
            return false;
        }
    }
    /* What the last, padded group leaves over must be zero: one text for one value. */
    unsigned spare = digits == 3 ? 2 : 4;
    if ((digits + pads) % 4 != 0 || (digits != 0 && (group & ((1u << spare) - 1)) != 0)) {
        pool_free(bytes);
        return false;
    }
    if (digits == 3) {
        *to++ = (uint8_t)(group >> 10);
        *to++ = (uint8_t)(group >> 2);
    } else if (digits == 2) {
        *to++ = (uint8_t)(group >> 4);
    }
    *out = bytes;
    *out_len = (size_t)(to - bytes);
    return true;
}
