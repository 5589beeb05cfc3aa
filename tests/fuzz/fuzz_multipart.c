/* Fuzz target: the first line is a Content-Type, the rest a multipart body. Parts lie in the body,
 * one after the other, each followed by a delimiter. */
#include "tests/fuzz/fuzz.h"

#include "server/multipart.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct multipart_part parts[MOST];
    const char *why = NULL;
    const uint8_t *line_end = len ? memchr(data, '\n', len) : NULL;
    size_t type_len = line_end ? (size_t)(line_end - data) : len;
    size_t body_len = line_end ? len - type_len - 1 : 0;
    char *type = calloc(1, type_len + 1);
    /* A copy of exactly that size, so that reading past the end is noticed. */
    char *body = calloc(1, body_len ? body_len : 1);
    if (type && body) {
        if (type_len > 0)
            memcpy(type, data, type_len);
        if (body_len > 0)
            memcpy(body, data + type_len + 1, body_len);
        multipart_is(type);
        int count = multipart_split(type, body, body_len, parts, MOST, &why);
        require(count >= -1 && count <= MOST && (count >= 0 || why));
        const char *at = body;
        for (int i = 0; i < count; i++) {
            require(parts[i].data >= at &&
                    parts[i].len <= (size_t)(body + body_len - parts[i].data));
            at = parts[i].data + parts[i].len;
            require(body + body_len - at >= 5 && memcmp(at, "\r\n--", 4) == 0);
        }
    }
    free(type);
    free(body);
    return 0;
}
