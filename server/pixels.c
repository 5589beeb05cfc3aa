/*
 * JSON bodies of /classify: pixel arrays and base64 files are taken from the text directly, and
 * what is left, a few bytes, is jansson's to judge.
 *
 * The text is copied to a small envelope as it is read. Where the value of a known key begins, the
 * value is consumed by its own reader and "" or [] stands for it in the envelope: tokens that end
 * by themselves, so that the envelope is valid exactly when the text around the value is.
 */
#include "server/pixels.h"

#include "server/gate.h"
#include "server/pixels_scan.h"
#include "server/pool.h"
#include "server/strict_json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { ENVELOPE_BYTES = 64 * 1024, MAX_DEPTH = 32, KEYS = 3 };

struct reader {
    struct pixels_cursor c;
    unsigned height, width, channels, max_images;
    uint64_t max_pixels;
    struct pixels_document *out;
    struct pixels_reason *why;
    bool has_image, has_images;
    char *envelope;
    size_t envelope_len;
    /* A value was cut out; from envelope byte cut_at on, body byte = envelope byte + cut_shift. */
    bool cut;
    size_t cut_at, cut_shift;
};

static size_t offset_of(const struct reader *r)
{
    return (size_t)(r->c.at - r->c.begin);
}

static enum pixels_verdict bad_json(const struct reader *r, size_t offset)
{
    return pixels_refuse(r->why, PIXELS_BAD_JSON, "byte %zu: not valid JSON", offset);
}

/* ---------------------------------------------------------------- pixels */

static size_t flat_count(const struct reader *r)
{
    return (size_t)r->height * r->width * r->channels;
}

/* Puts what is accepted behind what is wrong with an array's form. */
static enum pixels_verdict name_shapes(const struct reader *r)
{
    size_t len = strlen(r->why->text);
    snprintf(r->why->text + len, sizeof r->why->text - len,
             "; [H][W], [H][W][C], [N][H][W][C] with 1 or 3 channels, or %zu numbers are accepted",
             flat_count(r));
    return PIXELS_SHAPE;
}

/* What a pixel array's extents mean, for a model's input. */
static enum pixels_verdict interpret(const struct reader *r, const struct pixels_numbers *n)
{
    struct pixels_array *p = &r->out->pixels;
    const size_t *e = n->extent;
    size_t flat = flat_count(r);
    size_t shape[4] = {1, 0, 0, 1}; /* N H W C */
    switch (n->rank) {
    case 1:
        if (e[0] != flat) {
            return pixels_refuse(r->why, PIXELS_SHAPE,
                                 "a flat array of %zu numbers; the model takes %zu (%u x %u x %u)",
                                 e[0], flat, r->height, r->width, r->channels);
        }
        shape[1] = r->height, shape[2] = r->width, shape[3] = r->channels;
        break;
    case 2:
        shape[1] = e[0], shape[2] = e[1];
        break;
    case 3:
        shape[1] = e[0], shape[2] = e[1], shape[3] = e[2];
        break;
    default:
        memcpy(shape, e, sizeof shape);
        break;
    }
    if (shape[3] != 1 && shape[3] != 3) {
        pixels_refuse(r->why, PIXELS_SHAPE, "an array of %zu x %zu pixels with %zu channels",
                      shape[1], shape[2], shape[3]);
        return name_shapes(r);
    }
    if (shape[0] > r->max_images) {
        return pixels_refuse(r->why, PIXELS_SHAPE,
                             "%zu images in one request; at most %u are "
                             "accepted",
                             shape[0], r->max_images);
    }
    if (shape[1] > GATE_MAX_SIDE || shape[2] > GATE_MAX_SIDE ||
        shape[1] * shape[2] > r->max_pixels) {
        return pixels_refuse(r->why, PIXELS_SHAPE,
                             "an image of %zu x %zu pixels; at most %llu with sides of up to %u "
                             "are accepted",
                             shape[1], shape[2], (unsigned long long)r->max_pixels, GATE_MAX_SIDE);
    }
    *p = (struct pixels_array){(unsigned)shape[0], (unsigned)shape[1], (unsigned)shape[2],
                               (unsigned)shape[3], n->values};
    return PIXELS_OK;
}

static enum pixels_verdict read_pixels(struct reader *r)
{
    uint64_t most;
    if (__builtin_mul_overflow(r->max_pixels * 3, (uint64_t)r->max_images, &most) ||
        most > SIZE_MAX / sizeof(float)) {
        most = SIZE_MAX / sizeof(float);
    }
    struct pixels_numbers numbers;
    enum pixels_verdict verdict = pixels_scan_array(&r->c, (size_t)most, &numbers, r->why);
    if (verdict != PIXELS_OK) {
        return verdict == PIXELS_SHAPE ? name_shapes(r) : verdict;
    }
    verdict = interpret(r, &numbers);
    if (verdict != PIXELS_OK) {
        pool_free(numbers.values);
        return verdict;
    }
    return PIXELS_OK;
}

/* ---------------------------------------------------------------- base64 strings */

/* Finds the end of the string whose first quote is at the cursor, and passes it. */
static enum pixels_verdict find_string(struct reader *r, const char **text, size_t *len,
                                       bool *escaped)
{
    const char *at = r->c.at + 1;
    *text = at;
    *escaped = false;
    for (; at < r->c.end && *at != '"'; at++) {
        if ((unsigned char)*at < 0x20) {
            return bad_json(r, (size_t)(at - r->c.begin));
        }
        if (*at == '\\') {
            *escaped = true;
            at++; /* whatever is escaped, it is not the end */
            if (at == r->c.end) {
                break;
            }
        }
    }
    if (at == r->c.end) {
        return bad_json(r, (size_t)(at - r->c.begin));
    }
    *len = (size_t)(at - *text);
    r->c.at = at + 1;
    return PIXELS_OK;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One escape sequence, from behind its backslash; returns the byte it stands for, 0x80 for what
 * base64 cannot contain, or -1 when it is not JSON. Some writers escape '/', '+' and '='. */
static int unescape_one(const char **at, const char *end)
{
    static const char plain[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    char c = *(*at)++;
    const char *found = memchr(plain, c, sizeof plain - 1);
    if (found) {
        return meaning[found - plain];
    }
    if (c != 'u' || end - *at < 4) {
        return -1;
    }
    int code = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(*(*at)++);
        if (digit < 0) {
            return -1;
        }
        code = code * 16 + digit;
    }
    return code > 0 && code < 0x80 ? code : 0x80;
}

/* Text with its escapes resolved, from the pool; NULL with errno 0 when it is not JSON. */
static char *unescape(const char *text, size_t len, size_t *out_len)
{
    char *out = pool_alloc(len + 1);
    const char *at = text, *end = text + len;
    size_t n = 0;
    errno = out ? 0 : ENOMEM;
    while (out && at < end) {
        if (*at != '\\') {
            out[n++] = *at++;
            continue;
        }
        at++;
        int byte = unescape_one(&at, end);
        if (byte < 0) {
            pool_free(out);
            return NULL;
        }
        out[n++] = (char)byte;
    }
    *out_len = n;
    return out;
}

/* The base64 string at the cursor becomes one more file. */
static enum pixels_verdict read_file(struct reader *r)
{
    size_t offset = offset_of(r), len = 0;
    const char *text = NULL;
    bool escaped = false;
    enum pixels_verdict verdict = find_string(r, &text, &len, &escaped);
    if (verdict != PIXELS_OK) {
        return verdict;
    }
    char *resolved = NULL;
    if (escaped) {
        resolved = unescape(text, len, &len);
        if (resolved == NULL) {
            return errno == ENOMEM ? PIXELS_NO_MEMORY : bad_json(r, offset);
        }
        text = resolved;
    }
    struct pixels_document *out = r->out;
    struct pixels_file file;
    bool ok = pixels_base64(text, len, &file.bytes, &file.len);
    pool_free(resolved);
    if (!ok) {
        return errno == ENOMEM ? PIXELS_NO_MEMORY
                               : pixels_refuse(r->why, PIXELS_BAD_REQUEST,
                                               "byte %zu: a string that is not base64", offset);
    }
    /* Room grows in powers of two. */
    if ((out->file_count & (out->file_count - 1)) == 0) {
        size_t room = out->file_count ? out->file_count * 2 : 1;
        struct pixels_file *files =
            pool_grow(out->files, out->file_count * sizeof *files, room * sizeof *files);
        if (files == NULL) {
            pool_free(file.bytes);
            return PIXELS_NO_MEMORY;
        }
        out->files = files;
    }
    out->files[out->file_count++] = file;
    return PIXELS_OK;
}

/* The list of base64 strings that begins at the cursor's '['. */
static enum pixels_verdict read_files(struct reader *r)
{
    r->c.at++;
    for (;;) {
        int byte = pixels_skip_space(&r->c);
        if (byte != '"') {
            bool value = byte > 0 && strchr("[{-0123456789tfn", byte) != NULL;
            if (byte == ']' && r->out->file_count == 0) {
                return pixels_refuse(r->why, PIXELS_SHAPE, "byte %zu: an empty list of images",
                                     offset_of(r));
            }
            return value ? pixels_refuse(r->why, PIXELS_BAD_REQUEST,
                                         "byte %zu: \"images\" must be a list of base64 strings",
                                         offset_of(r))
                         : bad_json(r, offset_of(r));
        }
        if (r->out->file_count == r->max_images) {
            return pixels_refuse(r->why, PIXELS_SHAPE, "more than %u images in one request",
                                 r->max_images);
        }
        enum pixels_verdict verdict = read_file(r);
        if (verdict != PIXELS_OK) {
            return verdict;
        }
        byte = pixels_skip_space(&r->c);
        if (byte != ',' && byte != ']') {
            return bad_json(r, offset_of(r));
        }
        r->c.at++;
        if (byte == ']') {
            return PIXELS_OK;
        }
    }
}

/* ---------------------------------------------------------------- the envelope */

static enum pixels_verdict keep(struct reader *r, const char *text, size_t len)
{
    if (len > ENVELOPE_BYTES - r->envelope_len) {
        return pixels_refuse(r->why, PIXELS_BAD_JSON,
                             "byte %zu: more than %d bytes beside pixels and images", offset_of(r),
                             ENVELOPE_BYTES);
    }
    memcpy(r->envelope + r->envelope_len, text, len);
    r->envelope_len += len;
    return PIXELS_OK;
}

/* Reads the value behind the cursor when its key is known and it has the key's type. */
static enum pixels_verdict read_value(struct reader *r, const char *key, size_t key_len)
{
    const struct {
        const char *name;
        char first;
        bool *seen;
        enum pixels_verdict (*read)(struct reader *r);
        const char *placeholder;
    } keys[KEYS] = {{"pixels", '[', &r->out->has_pixels, read_pixels, "[]"},
                    {"image", '"', &r->has_image, read_file, "\"\""},
                    {"images", '[', &r->has_images, read_files, "[]"}};
    const char *begin = r->c.at;
    int first = pixels_skip_space(&r->c);
    for (int i = 0; i < KEYS; i++) {
        if (key_len != strlen(keys[i].name) || memcmp(key, keys[i].name, key_len) != 0 ||
            first != keys[i].first) {
            continue;
        }
        if (r->cut) {
            return *keys[i].seen
                       ? pixels_refuse(r->why, PIXELS_BAD_JSON,
                                       "byte %zu: a key for the second time", offset_of(r))
                       : pixels_refuse(r->why, PIXELS_BAD_REQUEST,
                                       "one of \"pixels\", \"image\" and \"images\" is needed, not "
                                       "several");
        }
        enum pixels_verdict verdict = keys[i].read(r);
        if (verdict == PIXELS_OK) {
            *keys[i].seen = true;
            verdict = keep(r, keys[i].placeholder, 2);
            r->cut = true;
            r->cut_at = r->envelope_len;
            r->cut_shift = offset_of(r) - r->envelope_len;
        }
        return verdict;
    }
    r->c.at = begin;
    return PIXELS_OK;
}

/* Copies a string to the envelope; *text and *len are what is between its quotes. */
static enum pixels_verdict keep_string(struct reader *r, const char **text, size_t *len)
{
    const char *from = r->c.at;
    bool escaped;
    enum pixels_verdict verdict = find_string(r, text, len, &escaped);
    return verdict == PIXELS_OK ? keep(r, from, (size_t)(r->c.at - from)) : verdict;
}

/* Copies the body to the envelope up to its end, reading the values of known keys on the way. Only
 * strings and brackets are told apart: jansson sees the rest. */
static enum pixels_verdict read_body(struct reader *r)
{
    unsigned depth = 0;
    const char *key = NULL; /* the last string, while a ':' may follow */
    size_t key_len = 0;
    enum pixels_verdict verdict = PIXELS_OK;
    while (verdict == PIXELS_OK && r->c.at < r->c.end) {
        char byte = *r->c.at;
        if (byte == '"') {
            verdict = keep_string(r, &key, &key_len);
            continue;
        }
        depth += byte == '{' || byte == '[';
        depth -= (byte == '}' || byte == ']') && depth > 0;
        if (depth > MAX_DEPTH) {
            return pixels_refuse(r->why, PIXELS_BAD_JSON, "byte %zu: nested deeper than %d",
                                 offset_of(r), MAX_DEPTH);
        }
        verdict = keep(r, r->c.at, 1);
        r->c.at++;
        if (verdict == PIXELS_OK && byte == ':' && key && depth == 1) {
            verdict = read_value(r, key, key_len);
        }
        if (byte != ' ' && byte != '\t' && byte != '\r' && byte != '\n') {
            key = NULL;
        }
    }
    return verdict;
}

/* A key as a message may show it: short and printable. */
static void show_key(const char *key, char out[40])
{
    size_t n = 0;
    for (; key[n] && n < 36; n++) {
        out[n] = key[n] >= 0x20 && key[n] < 0x7F ? key[n] : '?';
    }
    memcpy(out + n, key[n] ? "..." : "", key[n] ? 4 : 1);
}

/* What the document around the values that were cut out comes to. */
static enum pixels_verdict judge_object(const struct reader *r, json_t *root)
{
    enum pixels_verdict verdict = PIXELS_OK;
    if (!json_is_object(root)) {
        verdict = pixels_refuse(r->why, PIXELS_BAD_JSON, "the body must be a JSON object");
    }
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        bool known =
            strcmp(key, "pixels") == 0 || strcmp(key, "image") == 0 || strcmp(key, "images") == 0;
        char shown[40];
        show_key(key, shown);
        if (!known) {
            verdict =
                pixels_refuse(r->why, PIXELS_BAD_REQUEST,
                              "unknown key \"%s\"; there are pixels, image and images", shown);
            break;
        }
        if (!r->cut) { /* not of the type that is read, or spelt with escapes */
            verdict = pixels_refuse(r->why, PIXELS_BAD_REQUEST, "\"%s\" must be %s", shown,
                                    strcmp(key, "pixels") == 0  ? "an array of numbers"
                                    : strcmp(key, "image") == 0 ? "a base64 string"
                                                                : "a list of base64 strings");
        }
    }
    if (verdict == PIXELS_OK && !r->cut) {
        verdict = pixels_refuse(r->why, PIXELS_BAD_REQUEST,
                                "one of \"pixels\", \"image\" and \"images\" is needed");
    }
    if (verdict == PIXELS_OK && json_object_size(root) != 1) {
        verdict =
            pixels_refuse(r->why, PIXELS_BAD_REQUEST,
                          "one of \"pixels\", \"image\" and \"images\" is needed, not several");
    }
    return verdict;
}

static enum pixels_verdict judge(const struct reader *r)
{
    struct strict_json doc;
    enum pixels_verdict verdict = PIXELS_NO_MEMORY;
    if (strict_json_read(&doc, r->envelope, r->envelope_len)) {
        verdict = judge_object(r, doc.root);
    } else if (!doc.no_memory) {
        size_t at = doc.fault.position > 0 ? (size_t)doc.fault.position : 0;
        verdict = bad_json(r, r->cut && at >= r->cut_at ? at + r->cut_shift : at);
    }
    strict_json_free(&doc);
    return verdict;
}

enum pixels_verdict pixels_parse(const char *body, size_t len, unsigned height, unsigned width,
                                 unsigned channels, unsigned max_images, uint64_t max_pixels,
                                 struct pixels_document *out, struct pixels_reason *why)
{
    why->text[0] = '\0';
    *out = (struct pixels_document){0};
    struct reader r = {.c = {body, body, body + len},
                       .height = height,
                       .width = width,
                       .channels = channels,
                       .max_images = max_images,
                       .max_pixels = max_pixels,
                       .out = out,
                       .why = why,
                       .envelope = pool_alloc(ENVELOPE_BYTES)};
    enum pixels_verdict verdict = PIXELS_NO_MEMORY;
    if (r.envelope) {
        verdict = read_body(&r);
    }
    if (verdict == PIXELS_OK) {
        verdict = judge(&r);
    }
    pool_free(r.envelope);
    if (verdict == PIXELS_NO_MEMORY) {
        pixels_refuse(why, verdict, "no memory for this request");
    }
    if (verdict != PIXELS_OK) {
        pixels_free(out);
    }
    return verdict;
}

void pixels_free(struct pixels_document *document)
{
    pool_free(document->pixels.values);
    for (size_t i = 0; i < document->file_count; i++) {
        pool_free(document->files[i].bytes);
    }
    pool_free(document->files);
    *document = (struct pixels_document){0};
}
