/* Bodies of /classify -> images -> a model's input. */
#include "server/classify.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ns for a value that is read to be resized, or resized and normalised, for the cost estimate. */
enum { PIXEL_NS = 4 };

static bool __attribute__((format(printf, 4, 5)))
refuse(struct classify_fault *fault, int status, const char *code, const char *format, ...)
{
    fault->status = status;
    fault->code = code;
    va_list args;
    va_start(args, format);
    vsnprintf(fault->message, sizeof fault->message, format, args);
    va_end(args);
    return false;
}

static size_t input_elements(const struct preprocess *p)
{
    return (size_t)p->channels * p->height * p->width;
}

/* ---------------------------------------------------------------- what a body is */

/* Image files that people send and convd does not read, for a message that says so. */
static const char *foreign_format(const char *bytes, size_t len)
{
    static const struct {
        const char *name;
        unsigned at, len;
        const char *magic;
    } formats[] = {
        {"GIF", 0, 4, "GIF8"},      {"WebP", 8, 4, "WEBP"},        {"HEIC or AVIF", 4, 4, "ftyp"},
        {"TIFF", 0, 4, "II*\0"},    {"TIFF", 0, 4, "MM\0*"},       {"Photoshop", 0, 4, "8BPS"},
        {"PDF", 0, 4, "%PDF"},      {"ZIP", 0, 4, "PK\x03\x04"},   {"SVG", 0, 4, "<svg"},
        {"XML", 0, 5, "<?xml"},     {"JPEG XL", 0, 2, "\xFF\x0A"}, {"JPEG 2000", 4, 4, "jP  "},
        {"gzip", 0, 2, "\x1F\x8B"}, {"NumPy", 0, 6, "\x93NUMPY"},
    };
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        if (len >= formats[i].at + formats[i].len &&
            memcmp(bytes + formats[i].at, formats[i].magic, formats[i].len) == 0) {
            return formats[i].name;
        }
    }
    return NULL;
}

static bool refuse_type(struct classify_fault *fault, const char *bytes, size_t len)
{
    const char *name = foreign_format(bytes, len);
    return refuse(fault, 415, "unsupported_image_format",
                  "%s%snot accepted; send a JPEG, PNG or BMP image, JSON, multipart/form-data or "
                  "application/octet-stream",
                  name ? name : "the body is of a type that is", name ? " is " : " ");
}

/* "application/octet-stream", also what RFC 9110 lets a missing type mean. */
static bool is_octets(const char *content_type)
{
    static const char name[] = "application/octet-stream";
    size_t len = strcspn(content_type, " ;\t");
    return len == 0 || (len == sizeof name - 1 && strncasecmp(content_type, name, len) == 0);
}

/* "application/json" and the types that end in "+json". */
static bool is_json(const char *content_type)
{
    static const char name[] = "application/json", suffix[] = "+json";
    size_t len = strcspn(content_type, " ;\t"), end = sizeof suffix - 1;
    return (len == sizeof name - 1 && strncasecmp(content_type, name, len) == 0) ||
           (len > end && strncasecmp(content_type + len - end, suffix, end) == 0);
}

static char first_visible(const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (strchr(" \t\r\n", bytes[i]) == NULL || bytes[i] == '\0') {
            return bytes[i];
        }
    }
    return '\0';
}

static bool read_multipart(struct classify_body *b, const char *content_type, const char *bytes,
                           size_t len, struct classify_fault *fault)
{
    const char *why = "";
    int parts = multipart_split(content_type, bytes, len, b->files, CLASSIFY_MAX_PARTS, &why);
    if (parts < 0) {
        return refuse(fault, 400, "bad_multipart", "%s", why);
    }
    /* A text field is an image as well when it looks like one: some clients send no file name. */
    for (int i = 0; i < parts; i++) {
        const struct multipart_part *part = &b->files[i];
        if (part->is_file || gate_sniff(part->data, part->len) != GATE_UNKNOWN) {
            b->files[b->images++] = *part;
        }
    }
    if (b->images == 0) {
        return refuse(fault, 400, "bad_multipart", "none of the %d parts is a file", parts);
    }
    return true;
}

static bool read_json(struct classify_body *b, const char *bytes, size_t len,
                      const struct preprocess *p, const struct classify_limits *limits,
                      struct classify_fault *fault)
{
    struct pixels_reason why;
    switch (pixels_parse(bytes, len, p->height, p->width, p->channels, limits->max_images,
                         limits->max_pixels, &b->document, &why)) {
    case PIXELS_OK:
        b->kind = b->document.has_pixels ? CLASSIFY_ARRAY : CLASSIFY_FILES;
        b->images =
            b->document.has_pixels ? b->document.pixels.count : (unsigned)b->document.file_count;
        return true;
    case PIXELS_BAD_JSON:
        return refuse(fault, 400, "bad_json", "%s", why.text);
    case PIXELS_BAD_NUMBER:
        return refuse(fault, 400, "bad_number", "%s", why.text);
    case PIXELS_SHAPE:
        return refuse(fault, 422, "shape_mismatch", "%s", why.text);
    case PIXELS_RANGE:
        return refuse(fault, 422, "value_out_of_range", "%s", why.text);
    case PIXELS_BAD_REQUEST:
        return refuse(fault, 400, "bad_request", "%s", why.text);
    case PIXELS_NO_MEMORY:
        break;
    }
    return refuse(fault, 503, "out_of_memory", "%s", why.text);
}

static bool take_apart(struct classify_body *b, const char *content_type, const char *bytes,
                       size_t len, const struct preprocess *p, const struct classify_limits *limits,
                       struct classify_fault *fault)
{
    if (len == 0) {
        return refuse(fault, 400, "empty_body", "the request has no body");
    }
    if (gate_sniff(bytes, len) != GATE_UNKNOWN) {
        b->files[0] = (struct multipart_part){bytes, len, true};
        b->images = 1;
        return true;
    }
    if (multipart_is(content_type)) {
        return read_multipart(b, content_type, bytes, len, fault);
    }
    bool octets = is_octets(content_type);
    size_t expected = input_elements(p);
    char first = first_visible(bytes, len);
    if (octets && len == expected && (content_type[0] != '\0' || first != '{')) {
        b->kind = CLASSIFY_OCTETS;
        b->octets = bytes;
        b->images = 1;
        return true;
    }
    if (first == '{') {
        return read_json(b, bytes, len, p, limits, fault);
    }
    if (len >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0) {
        return refuse(fault, 400, "bad_json", "byte 0: JSON does not begin with a byte order mark");
    }
    if (first == '[') {
        return refuse(fault, 400, "bad_json",
                      "the JSON must be an object such as {\"pixels\": [...]}, not an array");
    }
    if (foreign_format(bytes, len) == NULL && is_json(content_type)) {
        return refuse(fault, 400, "bad_json", "the body is not a JSON object");
    }
    if (octets && content_type[0] != '\0' && foreign_format(bytes, len) == NULL) {
        return refuse(fault, 422, "shape_mismatch",
                      "%zu octets that are not a JPEG, PNG or BMP file; raw pixels of the model "
                      "are %zu octets (%u x %u x %u)",
                      len, expected, p->height, p->width, p->channels);
    }
    return refuse_type(fault, bytes, len);
}

bool classify_read(struct classify_body *b, const char *content_type, const char *bytes, size_t len,
                   const struct preprocess *p, const struct classify_limits *limits,
                   struct classify_fault *fault)
{
    *b = (struct classify_body){.kind = CLASSIFY_FILES};
    if (!take_apart(b, content_type, bytes, len, p, limits, fault)) {
        return false;
    }
    size_t most = limits->max_input_bytes / (input_elements(p) * sizeof(float));
    if (b->images > most) {
        refuse(fault, 413, "too_many_images",
               "%u images in one request; at most %zu of this "
               "model's size are accepted",
               b->images, most);
        classify_free(b);
        return false;
    }
    return true;
}

void classify_free(struct classify_body *b)
{
    pixels_free(&b->document);
    b->images = 0;
}

/* ---------------------------------------------------------------- images */

static const void *file_bytes(const struct classify_body *b, unsigned index, size_t *len)
{
    if (b->document.files) {
        *len = b->document.files[index].len;
        return b->document.files[index].bytes;
    }
    *len = b->files[index].len;
    return b->files[index].data;
}

uint64_t classify_cost_ns(const struct classify_body *b, const struct preprocess *p,
                          const struct classify_limits *limits)
{
    const struct pixels_array *array = &b->document.pixels;
    /* What one image becomes: the larger part where a large model is sent small images. */
    uint64_t tensor = input_elements(p), sum = 0;
    switch (b->kind) {
    case CLASSIFY_OCTETS:
        return tensor * PIXEL_NS;
    case CLASSIFY_ARRAY:
        return array->count * ((uint64_t)array->height * array->width * array->channels + tensor) *
               PIXEL_NS;
    case CLASSIFY_FILES:
        break;
    }
    const struct gate_limits gate = {.max_pixels = limits->max_pixels};
    for (unsigned i = 0; i < b->images; i++) {
        struct gate_info info;
        struct gate_reason why;
        size_t len;
        const void *bytes = file_bytes(b, i, &len);
        if (gate_image(bytes, len, &gate, &info, &why) == GATE_OK) {
            sum += info.cost_ns + ((uint64_t)info.width * info.height + tensor) * PIXEL_NS;
        }
    }
    return sum;
}

static bool refuse_file(struct classify_fault *fault, enum gate_verdict verdict, const char *where,
                        const char *why)
{
    static const struct {
        int status;
        const char *code;
    } replies[] = {
        [GATE_OK] = {500, "internal_error"},
        [GATE_NOT_AN_IMAGE] = {415, "unsupported_image_format"},
        [GATE_CORRUPT] = {422, "corrupt_image"},
        [GATE_VARIANT] = {422, "unsupported_image_variant"},
        [GATE_ZERO_SIZE] = {422, "zero_size_image"},
        [GATE_TOO_LARGE] = {422, "image_too_large"},
        [GATE_TOO_COMPLEX] = {422, "image_too_complex"},
        [GATE_NO_MEMORY] = {503, "out_of_memory"},
    };
    return refuse(fault, replies[verdict].status, replies[verdict].code, "%s%s", where, why);
}

/* preprocess_run() and preprocess_values() fail for want of memory or because they must not
 * resize. */
static bool refuse_size(struct classify_fault *fault, const struct preprocess *p, const char *where,
                        unsigned height, unsigned width)
{
    if (p->resize == IMAGE_NO_RESIZE && (height != p->height || width != p->width)) {
        return refuse(fault, 422, "shape_mismatch",
                      "%san image of %ux%u pixels; the model takes %ux%u and does not resize",
                      where, width, height, p->width, p->height);
    }
    return refuse(fault, 503, "out_of_memory", "no memory for this request");
}

static bool decode_file(const struct classify_body *b, unsigned index, const struct preprocess *p,
                        const struct classify_limits *limits, const char *where, float *out,
                        enum gate_format *format, struct classify_fault *fault)
{
    const struct gate_limits gate = {.max_pixels = limits->max_pixels};
    struct gate_info info;
    struct gate_reason why;
    struct image image;
    size_t len;
    const void *bytes = file_bytes(b, index, &len);
    enum gate_verdict verdict = gate_image(bytes, len, &gate, &info, &why);
    *format = info.format;
    if (verdict == GATE_NOT_AN_IMAGE) {
        const char *name = foreign_format(bytes, len);
        snprintf(why.text, sizeof why.text, "%s is not accepted; JPEG, PNG and BMP are",
                 name ? name : "a file of an unknown type");
    } else if (verdict == GATE_OK) {
        verdict = image_decode(bytes, len, &info, p->channels, &image, &why);
    }
    if (verdict != GATE_OK) {
        return refuse_file(fault, verdict, where, why.text);
    }
    bool ok = preprocess_run(p, &image, out);
    image_free(&image);
    return ok || refuse_size(fault, p, where, image.height, image.width);
}

bool classify_decode(const struct classify_body *b, unsigned index, const struct preprocess *p,
                     const struct classify_limits *limits, float *out, enum gate_format *format,
                     struct classify_fault *fault)
{
    char where[32] = "";
    if (b->images > 1) {
        snprintf(where, sizeof where, "image %u: ", index + 1);
    }
    *format = GATE_UNKNOWN;
    if (b->kind == CLASSIFY_ARRAY) {
        const struct pixels_array *a = &b->document.pixels;
        size_t elements = (size_t)a->height * a->width * a->channels;
        return preprocess_values(p, a->values + index * elements, a->height, a->width, a->channels,
                                 out) ||
               refuse_size(fault, p, where, a->height, a->width);
    }
    if (b->kind == CLASSIFY_OCTETS) {
        /* preprocess_run() only reads the pixels. */
        const struct image image = {p->width, p->height, p->channels,
                                    (uint8_t *)(uintptr_t)b->octets};
        return preprocess_run(p, &image, out) || refuse_size(fault, p, where, p->height, p->width);
    }
    return decode_file(b, index, p, limits, where, out, format, fault);
}
