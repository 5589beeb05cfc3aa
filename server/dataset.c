/* IDX data sets from files (see dataset.h); folders of images are dataset_folder.c's. */
#include "server/dataset.h"

#include "server/dataset_folder.h"
#include "server/file.h"
#include "server/inflate.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Bytes given to the inflater at a time. */
#define INFLATE_BYTES ((size_t)1 << 20)

struct buffer {
    char *data;
    size_t len, room;
    bool no_memory;
};

/* The inflater's sink: grows up to DATASET_MAX_FILE_BYTES. */
static bool append(void *cookie, const void *bytes, size_t len)
{
    struct buffer *b = cookie;
    if (len > DATASET_MAX_FILE_BYTES - b->len)
        return false;
    if (len > b->room - b->len) {
        size_t room = b->room * 2 > b->len + len ? b->room * 2 : b->len + len;
        room = room < DATASET_MAX_FILE_BYTES ? room : DATASET_MAX_FILE_BYTES;
        char *data = realloc(b->data, room);
        if (!data) {
            b->no_memory = true;
            return false;
        }
        b->data = data;
        b->room = room;
    }
    memcpy(b->data + b->len, bytes, len);
    b->len += len;
    return true;
}

/* Replaces *bytes by what they decompress to. */
static enum cvd_status decompress(const char *path, char **bytes, size_t *len,
                                  struct cvd_error *err)
{
    struct buffer b = {NULL, 0, 0, false};
    enum inflate_result result = INFLATE_OK;
    bool complete = false;
    struct inflater *z = inflate_create(INFLATE_GZIP);
    if (z) {
        for (size_t at = 0; at < *len && result == INFLATE_OK; at += INFLATE_BYTES) {
            const size_t left = *len - at;
            result = inflate_add(z, *bytes + at, left < INFLATE_BYTES ? left : INFLATE_BYTES,
                                 append, &b);
        }
        complete = inflate_complete(z);
    }
    inflate_destroy(z);
    enum cvd_status status = CVD_STATUS_OK;
    if (!z || b.no_memory || result == INFLATE_NO_MEMORY)
        status =
            cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "%s: no memory to decompress it", path);
    else if (result == INFLATE_CORRUPT)
        status = cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s: corrupt gzip data", path);
    else if (result == INFLATE_STOPPED)
        status =
            cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s: decompresses to more than %zu bytes",
                          path, DATASET_MAX_FILE_BYTES);
    else if (!complete)
        status = cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s: truncated gzip data", path);
    if (status) {
        free(b.data);
        return status;
    }
    free(*bytes);
    *bytes = b.data;
    *len = b.len;
    return CVD_STATUS_OK;
}

/* Path of the file `stem`, with '-' or '.' before "idx" and perhaps ".gz"; false when there is
 * none. */
static bool find_idx(const char *folder, const char *stem, const char *idx, char path[PATH_MAX])
{
    static const char separators[] = "-.";
    static const char *const endings[] = {"", ".gz"};
    for (size_t e = 0; e < 2; e++)
        for (size_t s = 0; s < 2; s++) {
            const int n = snprintf(path, PATH_MAX, "%s/%s%c%s%s", folder, stem, separators[s], idx,
                                   endings[e]);
            if (n < PATH_MAX && access(path, F_OK) == 0)
                return true;
        }
    return false;
}

static enum cvd_status read_idx(const char *path, char **bytes, size_t *len, struct cvd_error *err)
{
    const size_t name_len = strlen(path);
    enum cvd_status status = file_read(path, false, DATASET_MAX_FILE_BYTES, bytes, len, err);
    if (!status && name_len > 3 && strcmp(path + name_len - 3, ".gz") == 0) {
        status = decompress(path, bytes, len, err);
        if (status)
            free(*bytes);
    }
    return status;
}

static enum cvd_status load_idx(const char *images_path, const char *labels_path,
                                struct cvd_dataset *out, struct cvd_error *err)
{
    char *images = NULL, *labels = NULL;
    size_t images_len, labels_len;
    enum cvd_status status = read_idx(images_path, &images, &images_len, err);
    if (status)
        return status;
    status = read_idx(labels_path, &labels, &labels_len, err);
    if (!status) {
        status = cvd_dataset_from_idx(images, images_len, images_path, labels, labels_len,
                                      labels_path, out, err);
        free(labels);
    }
    free(images);
    return status;
}

enum cvd_status dataset_load(const char *folder, FILE *progress, struct cvd_dataset *out,
                             struct cvd_error *err)
{
    char images[PATH_MAX], labels[PATH_MAX];
    struct stat st;
    if (stat(folder, &st) != 0)
        return cvd_error_set(err, CVD_STATUS_IO, "%s: %s", folder, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return cvd_error_set(err, CVD_STATUS_IO, "%s: is not a folder", folder);
    const bool has_images = find_idx(folder, "train-images", "idx3-ubyte", images);
    const bool has_labels = find_idx(folder, "train-labels", "idx1-ubyte", labels);
    if (has_images && has_labels)
        return load_idx(images, labels, out, err);
    if (has_images || has_labels)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s: train-%s-ubyte is missing", folder,
                             has_images ? "labels-idx1" : "images-idx3");
    return dataset_folder_load(folder, progress, out, err);
}
