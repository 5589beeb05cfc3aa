/* Fuzz target: a JSON body. What is accepted is JSON to jansson as well, with the same numbers, and
 * what is called malformed is malformed to it too, but for the limits on depth and size, and for
 * zero bytes, which jansson 2.14 passes over behind a number. */
#include "tests/fuzz/fuzz.h"

#include "server/pixels.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Compares an array, however nested, with the next numbers; returns how many there were. */
static size_t compare(const json_t *array, const float *values)
{
    size_t used = 0, i;
    const json_t *item;
    json_array_foreach(array, i, item)
    {
        if (json_is_array(item)) {
            used += compare(item, values + used);
        } else {
            require(json_is_number(item));
            require((float)json_number_value(item) == values[used]);
            used++;
        }
    }
    return used;
}

static unsigned depth_of(const char *text, size_t len)
{
    unsigned depth = 0, most = 0;
    for (size_t i = 0; i < len; i++) {
        depth += text[i] == '[' || text[i] == '{';
        depth -= (text[i] == ']' || text[i] == '}') && depth > 0;
        most = depth > most ? depth : most;
    }
    return most;
}

static void check_accepted(const struct pixels_document *d, const json_t *root)
{
    require(json_is_object(root) && json_object_size(root) == 1);
    require(d->has_pixels != (d->file_count > 0));
    if (d->has_pixels) {
        const struct pixels_array *p = &d->pixels;
        size_t count = (size_t)p->count * p->height * p->width * p->channels;
        require(count > 0 && (p->channels == 1 || p->channels == 3));
        require(compare(json_object_get(root, "pixels"), p->values) == count);
        for (size_t i = 0; i < count; i++)
            require(p->values[i] >= 0 && p->values[i] <= 255);
    } else {
        const json_t *images = json_object_get(root, "images");
        require(images ? json_array_size(images) == d->file_count
                       : d->file_count == 1 && json_is_string(json_object_get(root, "image")));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct pixels_document d;
    struct pixels_reason why;
    /* A copy of exactly that size, so that reading past the end is noticed. */
    char *exact = calloc(1, len ? len : 1);
    if (!exact)
        return 0;
    if (len > 0)
        memcpy(exact, data, len);
    enum pixels_verdict verdict = pixels_parse(exact, len, 2, 3, 1, 8, 4096, &d, &why);
    json_t *root = json_loadb(exact, len, JSON_REJECT_DUPLICATES, NULL);
    if (verdict == PIXELS_OK) {
        check_accepted(&d, root);
        pixels_free(&d);
    } else if (verdict == PIXELS_BAD_JSON || verdict == PIXELS_BAD_NUMBER) {
        require(!root || !json_is_object(root) || depth_of(exact, len) > 32 || len > 65536 ||
                memchr(exact, 0, len));
    }
    require((verdict == PIXELS_OK) == (why.text[0] == '\0'));
    json_decref(root);
    free(exact);
    return 0;
}
