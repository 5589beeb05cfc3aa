/*
 * Fuzz target: the first line is a Content-Type, the rest the body of a /classify request, taken
 * the whole way: told apart, its JSON or parts read, every image decoded and made a model's input.
 * Each ends with numbers that are finite, or with the reason why it does not.
 */
#include "tests/fuzz/fuzz.h"

#include "server/classify.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNELS = 3, HEIGHT = 3, WIDTH = 2, ELEMENTS = CHANNELS * HEIGHT * WIDTH };

static void require_reason(const struct classify_fault *fault)
{
    size_t len = strnlen(fault->message, sizeof fault->message);
    require(fault->status >= 400 && fault->status <= 503 && fault->code && fault->code[0]);
    require(len > 0 && len < sizeof fault->message && !memchr(fault->message, '\n', len));
}

static void classify(const char *type, const char *body, size_t len, const struct preprocess *p)
{
    const struct classify_limits limits = {
        .max_images = 5, .max_pixels = 4096, .max_input_bytes = 4 * ELEMENTS * sizeof(float)};
    struct classify_body b;
    struct classify_fault fault = {0};
    if (!classify_read(&b, type, body, len, p, &limits, &fault)) {
        require_reason(&fault);
        return;
    }
    require(b.images >= 1 && b.images * ELEMENTS * sizeof(float) <= limits.max_input_bytes);
    (void)classify_cost_ns(&b, p, &limits);
    for (unsigned i = 0; i < b.images; i++) {
        enum gate_format format;
        float out[ELEMENTS];
        if (!classify_decode(&b, i, p, &limits, out, &format, &fault)) {
            require_reason(&fault);
            continue;
        }
        require((format == GATE_UNKNOWN) == (b.kind != CLASSIFY_FILES));
        for (size_t k = 0; k < ELEMENTS; k++)
            require(isfinite(out[k]));
    }
    classify_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const uint8_t *line_end = len ? memchr(data, '\n', len) : NULL;
    size_t type_len = line_end ? (size_t)(line_end - data) : len;
    size_t body_len = line_end ? len - type_len - 1 : 0;
    char *type = calloc(1, type_len + 1);
    /* A copy of exactly that size, so that reading past the end is noticed. */
    char *body = calloc(1, body_len ? body_len : 1);
    if (type && body) {
        struct preprocess p;
        if (type_len > 0)
            memcpy(type, data, type_len);
        if (body_len > 0)
            memcpy(body, data + type_len + 1, body_len);
        preprocess_default(&p, CHANNELS, HEIGHT, WIDTH);
        classify(type, body, body_len, &p);
        p.resize = IMAGE_NO_RESIZE;
        p.invert = IMAGE_INVERT_AUTO;
        classify(type, body, body_len, &p);
    }
    free(type);
    free(body);
    return 0;
}
