/* Fuzz target: base64. What is accepted is, but for white space and a data: URL's beginning, what
 * its bytes are written as. */
#include "tests/fuzz/fuzz.h"

#include "server/pixels.h"
#include "server/pool.h"

#include <stdlib.h>
#include <string.h>

/* The four characters for up to three bytes. */
static void write_group(const uint8_t *bytes, size_t len, char group[4])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t v = (uint32_t)bytes[0] << 16;
    v |= len > 1 ? (uint32_t)bytes[1] << 8 : 0;
    v |= len > 2 ? bytes[2] : 0;
    group[0] = digits[v >> 18];
    group[1] = digits[v >> 12 & 63];
    group[2] = len > 1 ? digits[v >> 6 & 63] : '=';
    group[3] = len > 2 ? digits[v & 63] : '=';
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint8_t *bytes;
    size_t count, at = 0;
    /* A copy of exactly that size, so that reading past the end is noticed. */
    char *exact = calloc(1, len ? len : 1);
    if (!exact)
        return 0;
    if (len > 0)
        memcpy(exact, data, len);
    if (pixels_base64(exact, len, &bytes, &count)) {
        if (memchr(exact, ',', len)) /* no digit of base64: the end of "data:…;base64," */
            at = (size_t)((char *)memchr(exact, ',', len) - exact) + 1;
        for (size_t i = 0; i < count; i += 3) {
            char group[4];
            write_group(bytes + i, count - i, group);
            for (int k = 0; k < 4; k++) {
                while (at < len && strchr(" \t\r\n", exact[at]) && exact[at])
                    at++;
                require(at < len && exact[at++] == group[k]);
            }
        }
        for (; at < len; at++)
            require(strchr(" \t\r\n", exact[at]) && exact[at]);
        pool_free(bytes);
    }
    free(exact);
    return 0;
}
