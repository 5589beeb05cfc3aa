/*
 * What the body of a /classify request holds, and how it becomes a model's input. Knows nothing of
 * connections, queues or replies.
 */
#ifndef CONVD_SERVER_CLASSIFY_H
#define CONVD_SERVER_CLASSIFY_H

#include "server/image.h"
#include "server/multipart.h"
#include "server/pixels.h"

#include <stdatomic.h>

#define CLASSIFY_MAX_PARTS  8    /* of a multipart body */
#define CLASSIFY_MAX_IMAGES 1024 /* of one request */

/* Why a request is refused: the status, error code and message of its reply. */
struct classify_fault {
    int status;
    const char *code;
    char message[256];
};

struct classify_limits {
    unsigned max_images;
    uint64_t max_pixels;    /* of an image */
    size_t max_input_bytes; /* of the tensors of all images */
};

/* A body told apart into images. It points into the request's body, which must outlive it. */
struct classify_body {
    enum classify_kind {
        CLASSIFY_FILES, /* encoded images */
        CLASSIFY_ARRAY, /* JSON numbers */
        CLASSIFY_OCTETS /* 8-bit pixels of the model's size */
    } kind;
    unsigned images;
    const void *octets;
    struct multipart_part files[CLASSIFY_MAX_PARTS]; /* unless they are in the document */
    struct pixels_document document;
};

/*
 * Finds out by its bytes, and where those do not tell by its Content-Type, what a body is, and
 * takes it apart. Images are not decoded yet, but JSON is parsed. False with *fault filled; then
 * nothing is left to free.
 */
bool classify_read(struct classify_body *b, const char *content_type, const char *bytes, size_t len,
                   const struct preprocess *p, const struct classify_limits *limits,
                   struct classify_fault *fault);
void classify_free(struct classify_body *b);

/* A guess in nanoseconds of what classify_decode() will take. */
uint64_t classify_cost_ns(const struct classify_body *b, const struct preprocess *p,
                          const struct classify_limits *limits);

/*
 * Writes the model's input for image `index`; *format and *fault tell what it was and why it
 * could not be decoded.
 */
bool classify_decode(const struct classify_body *b, unsigned index, const struct preprocess *p,
                     const struct classify_limits *limits, float *out, enum gate_format *format,
                     struct classify_fault *fault);

#endif
