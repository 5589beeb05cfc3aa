/* Percent-decoding and query strings. */
#include "server/uri.h"

#include <string.h>

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool uri_decode(char *text, bool form)
{
    char *out = text;

    for (const char *in = text; *in; in++) {
        char c = *in;
        if (c == '%') {
            int high = hex(in[1]), low = high < 0 ? -1 : hex(in[2]);
            if (low < 0)
                return false;
            c = (char)(high * 16 + low);
            in += 2;
        } else if (c == '+' && form) {
            c = ' ';
        }
        if ((unsigned char)c < 0x20 || c == 0x7F)
            return false;
        *out++ = c;
    }
    *out = '\0';
    return true;
}

bool uri_query(char *query, struct request_arg *args, unsigned max, unsigned *count)
{
    char *rest = query, *pair;

    *count = 0;
    while ((pair = strsep(&rest, "&")) != NULL) {
        if (!*pair)
            continue;
        if (*count == max)
            return false;
        char *value = strchr(pair, '=');
        if (value)
            *value++ = '\0';
        if (!uri_decode(pair, true) || (value && !uri_decode(value, true)))
            return false;
        args[(*count)++] = (struct request_arg){.key = pair, .value = value ? value : ""};
    }
    return true;
}

const char *request_query(const struct request *rq, const char *key)
{
    for (unsigned i = 0; i < rq->query_count; i++)
        if (strcmp(rq->query[i].key, key) == 0)
            return rq->query[i].value;
    return NULL;
}
