/*
 * JSON request bodies of /classify -> pictures.
 *
 * Pixel arrays are scanned straight from the body into numbers; everything else of the document
 * goes through jansson, with the array cut out. The scanner's verdict on what is valid JSON is
 * jansson's.
 */
#ifndef CONVD_SERVER_PIXELS_H
#define CONVD_SERVER_PIXELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pixels_verdict {
    PIXELS_OK,
    PIXELS_BAD_JSON,    /* 400 bad_json */
    PIXELS_BAD_NUMBER,  /* 400 bad_number */
    PIXELS_SHAPE,       /* 422 shape_mismatch: ragged, wrong rank or length */
    PIXELS_RANGE,       /* 422 value_out_of_range: not within 0 … 255 */
    PIXELS_BAD_REQUEST, /* 400 bad_request: unknown or missing key, wrong type */
    PIXELS_NO_MEMORY
};

struct pixels_reason {
    char text[200];
};

/* One picture of a JSON document: pixels (0 … 255 as float, interleaved) or an encoded file. */
struct pixels_array {
    unsigned count, height, width, channels; /* count pictures of one size */
    float *values;                           /* pool.h's, [count][height][width][channels] */
};

struct pixels_document {
    bool has_pixels;
    struct pixels_array pixels;
    /* "image" or "images": decoded base64, each from pool.h. */
    struct pixels_file {
        uint8_t *bytes;
        size_t len;
    } * files;
    size_t file_count;
};

/*
 * Parses a body. height, width and channels are the model's: a flat array must hold
 * channels * height * width numbers; a nested one may have any height and width. At most max_images
 * pictures and max_pixels pixels each. On failure nothing is left to free.
 */
enum pixels_verdict pixels_parse(const char *body, size_t len, unsigned height, unsigned width,
                                 unsigned channels, unsigned max_images, uint64_t max_pixels,
                                 struct pixels_document *out, struct pixels_reason *why);
void pixels_free(struct pixels_document *document);

/* Strict base64 (RFC 4648, padding required, ASCII white space ignored); *out is pool.h's. The
 * prefix "data:…;base64," is skipped. False for a bad alphabet, padding or length, and, with errno
 * ENOMEM, when there is no memory. */
bool pixels_base64(const char *text, size_t len, uint8_t **out, size_t *out_len);

#endif
