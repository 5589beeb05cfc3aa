/* multipart/form-data (RFC 7578) over a complete body: finds the files, copies nothing. */
#ifndef CONVD_SERVER_MULTIPART_H
#define CONVD_SERVER_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

struct multipart_part {
    const char *data; /* into the body */
    size_t len;
    bool is_file; /* its Content-Disposition has a filename, or its Content-Type is an image */
};

/* Whether a Content-Type header announces multipart/form-data. */
bool multipart_is(const char *content_type);

/* Splits the body; returns the number of parts, or -1 with *why set to a fixed text. Refused:
 * no or over-long boundary (1 … 70), no closing boundary, more than max_parts, a part header over
 * 4 KiB, nested multipart. */
int multipart_split(const char *content_type, const char *body, size_t len,
                    struct multipart_part *parts, int max_parts, const char **why);

#endif
