/* Data sets in memory: IDX files -> images with labels. The format is big-endian: two zero bytes,
 * an element type, the number of dimensions, one 32-bit extent for each, then the elements. */
#include <convd/train.h>

#include "engine/runtime/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDX_UINT8          0x08
#define IDX_MAX_DIMENSIONS 3
#define CLASS_NAME_BYTES   12 /* any unsigned number */

struct idx {
    uint32_t extents[IDX_MAX_DIMENSIONS];
    const uint8_t *elements;
};

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Checks a file of `dimensions` dimensions down to its last byte. */
static enum cvd_status parse_idx(const uint8_t *bytes, size_t len, const char *name,
                                 unsigned dimensions, struct idx *out, struct cvd_error *err)
{
    const size_t header = 4 + 4 * (size_t)dimensions;
    if (len < 4)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "%s: %zu bytes; an IDX file begins with a header of %zu bytes", name,
                             len, header);
    const uint32_t magic = big_endian(bytes), wanted = IDX_UINT8 << 8 | dimensions;
    if (magic != wanted)
        return cvd_error_set(
            err, CVD_STATUS_INVALID_DATA,
            "%s: begins with 0x%08x; an IDX file of bytes in %u dimension%s begins "
            "with 0x%08x",
            name, magic, dimensions, dimensions > 1 ? "s" : "", wanted);
    if (len < header)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "%s: truncated: %zu bytes, but its header alone takes %zu", name, len,
                             header);
    size_t elements = 1;
    bool fits = true;
    for (unsigned i = 0; i < dimensions; i++) {
        out->extents[i] = big_endian(bytes + 4 + 4 * i);
        fits = fits && mem_mul(elements, out->extents[i], &elements);
    }
    if (!fits || elements > len - header)
        return cvd_error_set(
            err, CVD_STATUS_INVALID_DATA,
            "%s: truncated: its header announces more data than the %zu bytes that "
            "follow",
            name, len - header);
    if (elements < len - header)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "%s: its header announces %zu bytes of data, but %zu follow", name,
                             elements, len - header);
    if (elements == 0)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s: holds no data", name);
    out->elements = bytes + header;
    return CVD_STATUS_OK;
}

/* "0", "1", …; false when there is no memory. */
static bool name_classes(struct cvd_dataset *d)
{
    d->class_names = calloc(d->classes, sizeof *d->class_names);
    if (!d->class_names)
        return false;
    for (unsigned i = 0; i < d->classes; i++) {
        d->class_names[i] = malloc(CLASS_NAME_BYTES);
        if (!d->class_names[i])
            return false;
        snprintf(d->class_names[i], CLASS_NAME_BYTES, "%u", i);
    }
    return true;
}

enum cvd_status cvd_dataset_from_idx(const void *images, size_t images_len, const char *images_name,
                                     const void *labels, size_t labels_len, const char *labels_name,
                                     struct cvd_dataset *out, struct cvd_error *err)
{
    struct idx i = {{0}, NULL}, l = {{0}, NULL};
    enum cvd_status status = parse_idx(images, images_len, images_name, 3, &i, err);
    if (!status)
        status = parse_idx(labels, labels_len, labels_name, 1, &l, err);
    if (status)
        return status;
    if (i.extents[0] != l.extents[0])
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s holds %u images, but %s %u labels",
                             images_name, i.extents[0], labels_name, l.extents[0]);

    struct cvd_dataset d = {.count = i.extents[0], .height = i.extents[1], .width = i.extents[2]};
    const size_t bytes = d.count * d.height * d.width; /* as many as the file has */
    d.pixels = malloc(bytes);
    d.labels = malloc(d.count * sizeof *d.labels);
    if (!d.pixels || !d.labels)
        goto fail;
    memcpy(d.pixels, i.elements, bytes);
    for (size_t n = 0; n < d.count; n++) {
        d.labels[n] = l.elements[n];
        d.classes = l.elements[n] >= d.classes ? l.elements[n] + 1u : d.classes;
    }
    if (!name_classes(&d))
        goto fail;
    *out = d;
    return CVD_STATUS_OK;
fail:
    cvd_dataset_free(&d);
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for the %zu images of %s",
                         d.count, images_name);
}

void cvd_dataset_free(struct cvd_dataset *data)
{
    for (unsigned i = 0; data->class_names && i < data->classes; i++)
        free(data->class_names[i]);
    free(data->class_names);
    free(data->pixels);
    free(data->labels);
    *data = (struct cvd_dataset){0};
}
