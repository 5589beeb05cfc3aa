/*
 * One sub-folder of images for each class -> a data set (see dataset.h).
 *
 * Three passes: list the files, look at every image's size, decode. So only the small pictures are
 * kept, however large the files are.
 */
#include "server/dataset_folder.h"

#include "server/file.h"
#include "server/image.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_IMAGE_BYTES ((size_t)256 << 20)
#define MAX_PIXELS      ((uint64_t)GATE_MAX_SIDE * GATE_MAX_SIDE)
#define MAX_CLASSES     65535u

/* What training takes (see cvd_train_lenet5()). */
#define SIDE_MIN 12u
#define SIDE_MAX 256u

struct entry {
    char *path;
    unsigned label;
    size_t index, of; /* its place among the images of its class */
};

struct listing {
    struct entry *entries;
    size_t count, room;
    char **names;
    unsigned classes;
};

static enum cvd_status no_memory(const char *folder, struct cvd_error *err)
{
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "%s: no memory for its images", folder);
}

static void listing_free(struct listing *l)
{
    for (size_t i = 0; i < l->count; i++)
        free(l->entries[i].path);
    for (unsigned i = 0; i < l->classes; i++)
        free(l->names[i]);
    free(l->entries);
    free(l->names);
    *l = (struct listing){0};
}

/* "folder/name"; NULL when there is no memory. */
static char *joined(const char *folder, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static int is_visible(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

/* The visible names in a folder in natural order. */
static enum cvd_status list_names(const char *folder, struct dirent ***names, int *count,
                                  struct cvd_error *err)
{
    *count = scandir(folder, names, is_visible, versionsort);
    if (*count < 0)
        return cvd_error_set(err, CVD_STATUS_IO, "%s: %s", folder, strerror(errno));
    return CVD_STATUS_OK;
}

static void free_names(struct dirent **names, int count)
{
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

static bool add_entry(struct listing *l, char *path)
{
    if (l->count == l->room) {
        const size_t room = l->room ? 2 * l->room : 256;
        struct entry *entries = reallocarray(l->entries, room, sizeof *entries);
        if (!entries)
            return false;
        l->entries = entries;
        l->room = room;
    }
    l->entries[l->count++] = (struct entry){.path = path, .label = l->classes - 1};
    return true;
}

static bool add_class(struct listing *l, const char *name)
{
    char **names = reallocarray(l->names, l->classes + 1, sizeof *names);
    if (!names)
        return false;
    l->names = names;
    names[l->classes] = strdup(name);
    if (!names[l->classes])
        return false;
    l->classes++;
    return true;
}

/* Adds the files of one class. */
static enum cvd_status list_class(const char *folder, struct listing *l, struct cvd_error *err)
{
    struct dirent **names;
    int count;
    enum cvd_status status = list_names(folder, &names, &count, err);
    if (status)
        return status;
    const size_t first = l->count;
    for (int i = 0; i < count && !status; i++) {
        char *path = joined(folder, names[i]->d_name);
        if (!path || !add_entry(l, path)) {
            free(path);
            status = no_memory(folder, err);
        }
    }
    free_names(names, count);
    if (!status && l->count == first)
        status = cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s: holds no images", folder);
    for (size_t i = first; i < l->count; i++) {
        l->entries[i].index = i - first;
        l->entries[i].of = l->count - first;
    }
    return status;
}

static enum cvd_status list_folder(const char *folder, struct listing *l, struct cvd_error *err)
{
    struct dirent **names;
    int count;
    enum cvd_status status = list_names(folder, &names, &count, err);
    if (status)
        return status;
    for (int i = 0; i < count && !status; i++) {
        struct stat st;
        char *path = joined(folder, names[i]->d_name);
        if (path && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
            if (l->classes == MAX_CLASSES)
                status = cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s: more than %u sub-folders",
                                       folder, MAX_CLASSES);
            else if (!add_class(l, names[i]->d_name))
                status = no_memory(folder, err);
            else
                status = list_class(path, l, err);
        } else if (!path) {
            status = no_memory(folder, err);
        }
        free(path);
    }
    free_names(names, count);
    if (!status && l->classes < 2)
        status =
            cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                          "%s: holds neither train-images-idx3-ubyte (or .gz) nor a sub-folder "
                          "of images for each of two or more classes",
                          folder);
    return status;
}

/* Image i of n of a class belongs (i + 1/2) / n of the way through the data set. */
static int by_place(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    const uint64_t left = (2 * (uint64_t)x->index + 1) * y->of;
    const uint64_t right = (2 * (uint64_t)y->index + 1) * x->of;
    if (left != right)
        return left < right ? -1 : 1;
    return x->label < y->label ? -1 : x->label > y->label;
}

/* Reads a file and checks it; the bytes are the caller's to free. */
static enum cvd_status read_image(const char *path, char **bytes, size_t *len,
                                  struct gate_info *info, struct cvd_error *err)
{
    const struct gate_limits limits = {.max_pixels = MAX_PIXELS, .max_cost_ns = UINT64_MAX};
    struct gate_reason why = {""};
    enum cvd_status status = file_read(path, false, MAX_IMAGE_BYTES, bytes, len, err);
    if (status)
        return status;
    const enum gate_verdict verdict = gate_image(*bytes, *len, &limits, info, &why);
    if (verdict == GATE_OK)
        return CVD_STATUS_OK;
    free(*bytes);
    if (verdict == GATE_NO_MEMORY)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "%s: %s", path, why.text);
    return cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s: %s", path, why.text);
}

/* The size of all images, if it is one and suits; else DATASET_SIDE. */
static enum cvd_status choose_size(const struct listing *l, unsigned *height, unsigned *width,
                                   struct cvd_error *err)
{
    bool same = true;
    for (size_t i = 0; i < l->count; i++) {
        char *bytes;
        size_t len;
        struct gate_info info;
        enum cvd_status status = read_image(l->entries[i].path, &bytes, &len, &info, err);
        if (status)
            return status;
        free(bytes);
        if (i == 0) {
            *height = info.height;
            *width = info.width;
        }
        same = same && info.height == *height && info.width == *width;
    }
    if (!same || *height < SIDE_MIN || *height > SIDE_MAX || *width < SIDE_MIN || *width > SIDE_MAX)
        *height = *width = DATASET_SIDE;
    return CVD_STATUS_OK;
}

/* Decodes one image into pixels[p->height][p->width]; values is room for as many floats. */
static enum cvd_status decode(const char *path, const struct preprocess *p, float *values,
                              uint8_t *pixels, struct cvd_error *err)
{
    char *bytes;
    size_t len;
    struct gate_info info;
    struct gate_reason why = {""};
    struct image image;
    enum cvd_status status = read_image(path, &bytes, &len, &info, err);
    if (status)
        return status;
    const enum gate_verdict verdict = image_decode(bytes, len, &info, 1, &image, &why);
    free(bytes);
    if (verdict != GATE_OK)
        return cvd_error_set(
            err, verdict == GATE_NO_MEMORY ? CVD_STATUS_OUT_OF_MEMORY : CVD_STATUS_INVALID_DATA,
            "%s: %s", path, why.text);
    const bool ok = preprocess_run(p, &image, values);
    image_free(&image);
    if (!ok)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "%s: no memory to resize it", path);
    for (size_t i = 0; i < (size_t)p->height * p->width; i++)
        pixels[i] = (uint8_t)(values[i] + 0.5f);
    return CVD_STATUS_OK;
}

/* What the server will do to an upload, but for the scale: grey levels 0 … 255 stay what they are.
 */
static void training_preprocess(struct preprocess *p, unsigned height, unsigned width)
{
    preprocess_default(p, 1, height, width);
    p->resize = IMAGE_STRETCH;
    p->invert = IMAGE_INVERT_AUTO;
    p->scale = 1;
    p->mean[0] = 0;
    p->stddev[0] = 1;
}

static enum cvd_status decode_all(const struct listing *l, FILE *out, struct cvd_dataset *d,
                                  struct cvd_error *err)
{
    const size_t pixels = (size_t)d->height * d->width;
    struct preprocess p;
    struct progress progress;
    enum cvd_status status = CVD_STATUS_OK;
    float *values = malloc(pixels * sizeof *values);
    if (!values)
        return no_memory("data set", err);
    training_preprocess(&p, d->height, d->width);
    if (out)
        progress_begin(&progress, out, "images", l->count);
    for (size_t i = 0; i < l->count && !status; i++) {
        d->labels[i] = (uint16_t)l->entries[i].label;
        status = decode(l->entries[i].path, &p, values, d->pixels + i * pixels, err);
        if (out)
            progress_update(&progress, "reading", i + 1);
    }
    if (out)
        progress_clear(&progress);
    free(values);
    return status;
}

enum cvd_status dataset_folder_load(const char *folder, FILE *progress, struct cvd_dataset *out,
                                    struct cvd_error *err)
{
    struct listing l = {0};
    struct cvd_dataset d = {0};
    size_t bytes;
    enum cvd_status status = list_folder(folder, &l, err);
    if (!status)
        status = choose_size(&l, &d.height, &d.width, err);
    if (status)
        goto fail;
    qsort(l.entries, l.count, sizeof *l.entries, by_place);
    d.count = l.count;
    d.classes = l.classes;
    d.class_names = l.names; /* moved */
    l.names = NULL;
    l.classes = 0;
    if (__builtin_mul_overflow(d.count, (size_t)d.height * d.width, &bytes)) {
        status = no_memory(folder, err);
        goto fail;
    }
    d.pixels = malloc(bytes);
    d.labels = reallocarray(NULL, d.count, sizeof *d.labels);
    if (!d.pixels || !d.labels) {
        status = no_memory(folder, err);
        goto fail;
    }
    status = decode_all(&l, progress, &d, err);
    if (status)
        goto fail;
    listing_free(&l);
    *out = d;
    return CVD_STATUS_OK;
fail:
    listing_free(&l);
    cvd_dataset_free(&d);
    return status;
}
