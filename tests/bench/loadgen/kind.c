/* The requests of the mix: their bytes, and what is a right answer to them. */
#include "tests/bench/loadgen/load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The whole file; NULL when it cannot be read. */
static char *read_file(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    char *bytes = NULL;
    long size = -1;

    *len = 0;
    if (!file)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0 &&
        (bytes = malloc((size_t)size + 1)) != NULL) {
        rewind(file);
        *len = fread(bytes, 1, (size_t)size, file);
    }
    fclose(file);
    if (bytes && *len != (size_t)size) {
        free(bytes);
        bytes = NULL;
    }
    return bytes;
}

bool load_kind_build(struct load_kind *kind, const char *host)
{
    size_t body_len = 0;
    char *body = NULL, *head = NULL, length[48] = "";
    bool ok = false;

    if (!kind->method)
        kind->method = kind->body_file ? "POST" : "GET";
    if (kind->body_file) {
        body = read_file(kind->body_file, &body_len);
        if (!body) {
            fprintf(stderr, "loadgen: cannot read %s: %s\n", kind->body_file, strerror(errno));
            return false;
        }
        snprintf(length, sizeof length, "Content-Length: %zu\r\n", body_len);
    }
    if (kind->abort_after >= body_len) /* whoever sends all of it has not left in its middle */
        kind->abort_after = body_len ? body_len - 1 : 0;
    if (asprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n", kind->method, kind->path, host,
                 length, kind->headers ? kind->headers : "") >= 0) {
        kind->head_len = strlen(head);
        kind->len = kind->head_len + body_len;
        kind->bytes = realloc(head, kind->len + 1);
        ok = kind->bytes != NULL;
        if (ok && body_len > 0)
            memcpy(kind->bytes + kind->head_len, body, body_len);
    }
    free(body);
    return ok;
}

static bool status_in(const char *list, int status)
{
    for (char *end; *list; list = *end == ',' ? end + 1 : end) {
        if (strtol(list, &end, 10) == status)
            return true;
        if (end == list)
            return false;
    }
    return false;
}

bool load_kind_accepts(const struct load_kind *kind, int status, const char *body, size_t len)
{
    if (kind->expect && !status_in(kind->expect, status))
        return false;
    return !kind->text || status >= 300 || memmem(body, len, kind->text, strlen(kind->text));
}
