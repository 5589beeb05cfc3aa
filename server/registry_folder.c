/*
 * The model folder: DIR/NAME/VERSION/model.onnx, DIR/NAME/model.onnx and DIR/NAME.onnx (the last
 * two are version 1), with config.json and labels.txt in DIR/NAME.
 *
 * Entries whose name begins with a dot are not ours: a mounted Kubernetes volume keeps its data in
 * "..data" and shows it through links.
 */
#include "server/file.h"
#include "server/registry_source.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A name that is safe in a path, a URL and a log line. */
static bool name_is_good(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return len > 0 && name[len] == '\0' && len < REGISTRY_NAME_BYTES && name[0] != '.';
}

/* "1", "42"; not "01", which would be a second spelling of "1". */
static bool version_is_good(const char *name)
{
    size_t len = strspn(name, "0123456789");
    return len > 0 && name[len] == '\0' && len < REGISTRY_VERSION_BYTES && name[0] != '0';
}

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int visible(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static int by_version(const void *a, const void *b)
{
    const char *x = ((const struct source *)a)->version, *y = ((const struct source *)b)->version;
    size_t x_len = strlen(x), y_len = strlen(y);
    return x_len != y_len ? (x_len < y_len ? -1 : 1) : strcmp(x, y);
}

static void folder_model_free(struct folder_model *fm)
{
    settings_free(&fm->settings);
    for (size_t i = 0; i < fm->count; i++) {
        free(fm->sources[i].file);
        free(fm->sources[i].folder);
    }
    free(fm->sources);
}

/* Takes over `file`, also when it fails; the folder, where labels may be, is copied unless NULL. */
static bool add_source(struct folder_model *fm, const char *name, const char *version, char *file,
                       const char *folder_path)
{
    char *folder = folder_path ? strdup(folder_path) : NULL;
    struct source *more = realloc(fm->sources, (fm->count + 1) * sizeof *more);
    if (more)
        fm->sources = more;
    if (!more || !file || (folder_path && !folder)) {
        free(file);
        free(folder);
        return false;
    }
    struct source *s = &fm->sources[fm->count++];
    *s = (struct source){.file = file, .folder = folder};
    snprintf(s->name, sizeof s->name, "%s", name);
    snprintf(s->version, sizeof s->version, "%s", version);
    return true;
}

static char *join(const char *folder, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

/* Every version in DIR/NAME, oldest first. False when there is no memory. */
static bool find_versions(struct folder_model *fm, const char *path, const char *name)
{
    struct dirent **entries;
    int n = scandir(path, &entries, visible, alphasort);
    bool good = n >= 0;
    for (int i = 0; i < n; i++) {
        char *file;
        if (good && version_is_good(entries[i]->d_name)) {
            if (asprintf(&file, "%s/%s/model.onnx", path, entries[i]->d_name) < 0)
                good = false;
            else if (file_exists(file))
                good = add_source(fm, name, entries[i]->d_name, file, path);
            else
                free(file);
        }
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    if (good && fm->count == 0) {
        char *file = join(path, "model.onnx");
        if (file && file_exists(file))
            good = add_source(fm, name, "1", file, path);
        else
            free(file);
    }
    if (fm->count > 1)
        qsort(fm->sources, fm->count, sizeof *fm->sources, by_version);
    return good;
}

/* Keeps the versions that config.json asks for. The listed ones must all exist. */
static enum cvd_status choose_versions(struct folder_model *fm, struct cvd_error *err)
{
    const struct settings *s = &fm->settings;
    size_t kept = 0;
    for (size_t i = 0; i < fm->count; i++) {
        struct source *source = &fm->sources[i];
        bool keep =
            s->versions == VERSIONS_ALL || (s->versions == VERSIONS_LATEST && i == fm->count - 1);
        uint64_t version = strtoull(source->version, NULL, 10);
        for (size_t j = 0; j < s->listed_count; j++)
            keep |= s->listed[j] == version;
        if (keep) {
            struct source moved = fm->sources[kept];
            fm->sources[kept++] = *source;
            *source = moved;
        }
    }
    for (size_t j = 0; j < s->listed_count; j++) {
        bool found = false;
        for (size_t i = 0; i < kept; i++)
            found |= strtoull(fm->sources[i].version, NULL, 10) == s->listed[j];
        if (!found)
            return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                                 "%s: \"versions\" lists %llu, but there is no %llu/model.onnx",
                                 s->path, (unsigned long long)s->listed[j],
                                 (unsigned long long)s->listed[j]);
    }
    for (size_t i = kept; i < fm->count; i++) {
        free(fm->sources[i].file);
        free(fm->sources[i].folder);
    }
    fm->count = kept;
    return CVD_STATUS_OK;
}

static void visit_folder(const char *path, const char *name, const struct folder_visitor *v)
{
    struct folder_model fm = {0};
    struct cvd_error err;
    enum cvd_status status = settings_read(path, &fm.settings, &err);
    if (status == CVD_STATUS_OK && !find_versions(&fm, path, name))
        status =
            cvd_error_set(&err, CVD_STATUS_IO, "%s: cannot be read: %s", path, strerror(errno));
    if (status == CVD_STATUS_OK && fm.count == 0)
        status = cvd_error_set(&err, CVD_STATUS_INVALID_DATA,
                               "%s: holds neither model.onnx nor VERSION/model.onnx", path);
    if (status == CVD_STATUS_OK)
        status = choose_versions(&fm, &err);
    if (status == CVD_STATUS_OK)
        v->model(&fm, v->cookie);
    else
        v->complain(name, err.message, v->cookie);
    folder_model_free(&fm);
}

/* DIR/NAME.onnx; a folder of that name comes first. */
static void visit_file(const char *folder, const char *path, const char *name,
                       const struct folder_visitor *v)
{
    struct folder_model fm = {.settings = {.max_delay_ns = REGISTRY_NO_DELAY}};
    char *sibling = join(folder, name);
    if (sibling && is_folder(sibling))
        v->complain(name, "there is a folder of the same name; the file is left out", v->cookie);
    else if (!sibling || !add_source(&fm, name, "1", strdup(path), NULL))
        v->complain(name, "no memory", v->cookie);
    else
        v->model(&fm, v->cookie);
    free(sibling);
    folder_model_free(&fm);
}

/* One entry of the model folder. */
static void visit(const char *folder, const char *entry, const struct folder_visitor *v)
{
    struct stat st;
    struct cvd_error err;
    char name[sizeof((struct dirent *)NULL)->d_name];
    char path[PATH_MAX + sizeof name]; /* not malloc'ed: without it the model would have no name */
    snprintf(name, sizeof name, "%s", entry);
    snprintf(path, sizeof path, "%.*s/%s", PATH_MAX, folder, entry);
    const size_t len = strlen(name);
    const bool known = stat(path, &st) == 0;
    const int why = errno;
    const bool is_dir = known && S_ISDIR(st.st_mode);
    const bool is_model = !is_dir && len > 5 && strcmp(name + len - 5, ".onnx") == 0;
    if (is_model)
        name[len - 5] = '\0';
    if (known ? !is_dir && !is_model : !file_exists(path))
        return; /* a README, a checksum; gone meanwhile */
    if (!known) {
        cvd_error_set(&err, CVD_STATUS_IO, "%s: %s", path, strerror(why));
        v->complain(name, err.message, v->cookie);
    } else if (!name_is_good(name)) {
        v->complain(name, "not a name for a model: up to 63 letters, digits, '.', '_' and '-'",
                    v->cookie);
    } else if (is_model) {
        visit_file(folder, path, name, v);
    } else {
        visit_folder(path, name, v);
    }
}

enum cvd_status folder_scan(const char *folder, const struct folder_visitor *v,
                            struct cvd_error *err)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, visible, alphasort);
    if (n < 0)
        return cvd_error_set(err, CVD_STATUS_IO, "models: %s: %s", folder, strerror(errno));
    for (int i = 0; i < n; i++) {
        visit(folder, entries[i]->d_name, v);
        free(entries[i]);
    }
    free(entries);
    return CVD_STATUS_OK;
}

/* ---- what has changed ---- */

/* What of a model's own folder its answers may depend on, other than the model file itself. */
static int beside_model(const struct dirent *e)
{
    size_t len = strlen(e->d_name);
    return visible(e) && (len < 5 || strcmp(e->d_name + len - 5, ".onnx") != 0);
}

/* The time of the last change of status as well: a file that was renamed into the place of another
 * may have that one's old inode, and `cp -p` and `rsync -t` set the other time. */
static void print_file(FILE *out, const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
        fprintf(out, "%s: %ju:%ju, %jd bytes, %jd.%09ld, %jd.%09ld\n", path, (uintmax_t)st.st_dev,
                (uintmax_t)st.st_ino, (intmax_t)st.st_size, (intmax_t)st.st_mtim.tv_sec,
                st.st_mtim.tv_nsec, (intmax_t)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
}

static void print_files(FILE *out, const char *file)
{
    struct dirent **entries;
    int folder_len = (int)(strrchr(file, '/') - file);
    char *folder, *path;
    print_file(out, file);
    if (asprintf(&folder, "%.*s", folder_len, file) < 0)
        return;
    int n = scandir(folder, &entries, beside_model, alphasort);
    for (int i = 0; i < n; i++) {
        path = join(folder, entries[i]->d_name);
        if (path)
            print_file(out, path);
        free(path);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    free(folder);
}

char *source_identity(const struct source *source, const struct settings *s)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return NULL;
    fprintf(out, "labels %s, input %s, softmax %d, batches %u, %ju ns\n",
            s->labels ? s->labels : "", s->input ? s->input : "", (int)s->softmax, s->max_batch,
            (uintmax_t)s->max_delay_ns);
    if (source->file)
        print_files(out, source->file);
    if (source->folder) {
        char *labels = join(source->folder, s->labels ? s->labels : "labels.txt");
        if (labels)
            print_file(out, labels);
        free(labels);
    }
    if (fclose(out) == 0)
        return text;
    free(text);
    return NULL;
}
