/* multipart/form-data over a complete body. Everything is found with memmem() on the delimiter. */
#include "server/multipart.h"

#include <string.h>
#include <strings.h>

enum { MAX_BOUNDARY = 70, MAX_PART_HEADER = 4096, DELIMITER_BYTES = 4 + MAX_BOUNDARY };

/* A piece of text with its length. */
struct span {
    const char *p;
    size_t len;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static struct span trim(struct span s)
{
    while (s.len > 0 && is_space(s.p[0])) {
        s.p++;
        s.len--;
    }
    while (s.len > 0 && is_space(s.p[s.len - 1])) {
        s.len--;
    }
    return s;
}

static bool begins_with(struct span s, const char *word)
{
    size_t len = strlen(word);
    return s.len >= len && strncasecmp(s.p, word, len) == 0;
}

bool multipart_is(const char *content_type)
{
    static const char name[] = "multipart/form-data";
    struct span s = trim((struct span){content_type, strlen(content_type)});
    if (!begins_with(s, name)) {
        return false;
    }
    s.p += sizeof name - 1;
    s.len -= sizeof name - 1;
    s = trim(s);
    return s.len == 0 || s.p[0] == ';';
}

/* The next "; name=value" of a header's parameters, values quoted or not. False when there is no
 * further one or it is malformed. */
static bool next_parameter(struct span *rest, struct span *name, struct span *value)
{
    *rest = trim(*rest);
    if (rest->len == 0 || rest->p[0] != ';') {
        return false;
    }
    const char *at = rest->p + 1, *end = rest->p + rest->len;
    const char *begin = at;
    while (at < end && *at != '=' && *at != ';') {
        at++;
    }
    *name = trim((struct span){begin, (size_t)(at - begin)});
    *value = (struct span){at, 0};
    if (at < end && *at == '=') {
        at++;
        while (at < end && is_space(*at)) {
            at++;
        }
        bool quoted = at < end && *at == '"';
        begin = at += quoted;
        while (at < end && *at != (quoted ? '"' : ';')) {
            at += quoted && *at == '\\' && at + 1 < end ? 2 : 1;
        }
        *value = (struct span){begin, (size_t)(at - begin)};
        if (quoted && at == end) {
            return false;
        }
        if (quoted) {
            at++;
        } else {
            *value = trim(*value);
        }
    }
    *rest = (struct span){at, (size_t)(end - at)};
    return true;
}

/* Whether a parameter of that name is there; its value in *value. */
static bool find_parameter(struct span header, const char *wanted, struct span *value)
{
    const char *semicolon = memchr(header.p, ';', header.len);
    if (semicolon == NULL) {
        return false;
    }
    struct span rest = {semicolon, (size_t)(header.p + header.len - semicolon)}, name;
    while (next_parameter(&rest, &name, value)) {
        if (name.len == strlen(wanted) && strncasecmp(name.p, wanted, name.len) == 0) {
            return true;
        }
    }
    return false;
}

/* RFC 2046 section 5.1.1: 1 to 70 of these, the last not a space. */
static bool boundary_is_legal(struct span b)
{
    static const char others[] = "'()+_,-./:=? ";
    if (b.len < 1 || b.len > MAX_BOUNDARY || b.p[b.len - 1] == ' ') {
        return false;
    }
    for (size_t i = 0; i < b.len; i++) {
        char c = b.p[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && (c == '\0' || strchr(others, c) == NULL)) {
            return false;
        }
    }
    return true;
}

/* One header line of a part. */
static bool read_line(struct span line, struct multipart_part *part, const char **why)
{
    const char *colon = memchr(line.p, ':', line.len);
    if (colon == NULL || colon == line.p) {
        *why = "a part has a malformed header line";
        return false;
    }
    struct span name = {line.p, (size_t)(colon - line.p)};
    struct span value = trim((struct span){colon + 1, (size_t)(line.p + line.len - colon - 1)});
    struct span ignored;
    if (name.len == 19 && begins_with(name, "Content-Disposition")) {
        part->is_file |= find_parameter(value, "filename", &ignored) ||
                         find_parameter(value, "filename*", &ignored);
    } else if (name.len == 12 && begins_with(name, "Content-Type")) {
        if (begins_with(value, "multipart/")) {
            *why = "a part is itself multipart";
            return false;
        }
        part->is_file |= begins_with(value, "image/");
    } else if (name.len == 25 && begins_with(name, "Content-Transfer-Encoding")) {
        if (!begins_with(value, "binary") && !begins_with(value, "8bit") &&
            !begins_with(value, "7bit")) {
            *why = "a part has a Content-Transfer-Encoding other than binary";
            return false;
        }
    }
    return true;
}

/* A part's header lines and the empty line after them; sets part->data. */
static bool read_part(struct span text, struct multipart_part *part, const char **why)
{
    *part = (struct multipart_part){0};
    const char *at = text.p, *end = text.p + text.len;
    for (;;) {
        const char *line_end = memmem(at, (size_t)(end - at), "\r\n", 2);
        const char *limit = line_end ? line_end : end;
        if (limit - text.p > MAX_PART_HEADER) {
            *why = "a part has more than 4 KiB of headers";
            return false;
        }
        if (line_end == NULL) {
            *why = "a part's headers do not end";
            return false;
        }
        struct span line = {at, (size_t)(line_end - at)};
        at = line_end + 2;
        if (line.len == 0) {
            part->data = at;
            part->len = (size_t)(end - at);
            return true;
        }
        if (!read_line(line, part, why)) {
            return false;
        }
    }
}

/* What follows a boundary on its line: nothing or spaces, then the line's end; "--" in *last.
 * Returns where the next part begins, or NULL. */
static const char *after_boundary(const char *at, const char *end, bool *last)
{
    *last = end - at >= 2 && at[0] == '-' && at[1] == '-';
    at += *last ? 2 : 0;
    while (at < end && is_space(*at)) {
        at++;
    }
    if (*last && at == end) {
        return at;
    }
    return end - at >= 2 && at[0] == '\r' && at[1] == '\n' ? at + 2 : NULL;
}

int multipart_split(const char *content_type, const char *body, size_t len,
                    struct multipart_part *parts, int max_parts, const char **why)
{
    struct span boundary;
    if (!find_parameter((struct span){content_type, strlen(content_type)}, "boundary", &boundary) ||
        !boundary_is_legal(boundary)) {
        *why = "Content-Type has no boundary of 1 to 70 legal characters";
        return -1;
    }
    char delimiter[DELIMITER_BYTES];
    size_t delimiter_len = boundary.len + 4;
    memcpy(delimiter, "\r\n--", 4);
    memcpy(delimiter + 4, boundary.p, boundary.len);

    /* The first delimiter may stand at the very beginning, without its line end. */
    const char *end = body + len;
    const char *at = body;
    if (len >= delimiter_len - 2 && memcmp(body, delimiter + 2, delimiter_len - 2) == 0) {
        at += delimiter_len - 2;
    } else {
        at = memmem(body, len, delimiter, delimiter_len);
        at = at ? at + delimiter_len : NULL;
    }
    for (int count = 0;; count++) {
        bool last = false;
        at = at ? after_boundary(at, end, &last) : NULL;
        if (at == NULL) {
            *why = "the body does not contain the boundary where a part must begin or end";
            return -1;
        }
        if (last) {
            return count;
        }
        const char *next = memmem(at, (size_t)(end - at), delimiter, delimiter_len);
        if (next == NULL) {
            *why = "the closing boundary is missing: the body is cut short";
            return -1;
        }
        if (count == max_parts) {
            *why = "too many parts";
            return -1;
        }
        if (!read_part((struct span){at, (size_t)(next - at)}, &parts[count], why)) {
            return -1;
        }
        at = next + delimiter_len;
    }
}
