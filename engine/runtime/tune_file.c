/* The folder of tuned choices (tune_file.h). */
#include "engine/runtime/tune_file.h"

#include <convd/version.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void tune_file_name(const struct kernels *kernels, char name[TUNE_FILE_NAME_BYTES])
{
    char model[CPU_MODEL_BYTES];
    cpu_model(model);
    (void)snprintf(name, TUNE_FILE_NAME_BYTES, "convd-%s-%s-%s.tune", CVD_VERSION,
                   cvd_cpu_name(kernels->level), model);
}

/* "FOLDER/NAME", or a name beside it that mkostemp() completes, in a new block; NULL when there is
 * no memory. */
static char *make_path(const char *folder, const char *name, const char *more)
{
    const size_t bytes = strlen(folder) + strlen(name) + strlen(more) + 2;
    char *path = mem_alloc(bytes);
    if (path != NULL)
        (void)snprintf(path, bytes, "%s/%s%s", folder, name, more);
    return path;
}

static enum cvd_status no_memory(struct cvd_error *err)
{
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for the tuning cache");
}

static enum cvd_status io_error(struct cvd_error *err, const char *path, const char *what)
{
    return cvd_error_set(err, CVD_STATUS_IO, "%.240s: %s: %s", path, what, strerror(errno));
}

/* ---- reading ---- */

/* Opens a regular file; NULL with errno when there is none. */
static FILE *open_file(const char *path)
{
    struct stat info;
    /* O_NONBLOCK: opening a pipe nobody writes to would wait for ever. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return NULL;
    FILE *file = NULL;
    if (fstat(fd, &info) == 0) {
        errno = EINVAL;
        file = S_ISREG(info.st_mode) ? fdopen(fd, "r") : NULL;
    }
    if (file == NULL)
        close(fd);
    return file;
}

/* "KEY TILE\n" */
static bool put_line(struct tune *t, char *line)
{
    char *space = strchr(line, ' ');
    if (space == NULL || space[1] < '0' || space[1] > '9' || strcmp(space + 2, "\n") != 0)
        return false;
    *space = '\0';
    return tune_put(t, line, (unsigned)(space[1] - '0'));
}

/* The number of the first line that is wrong; 0: none is. */
static unsigned read_lines(struct tune *t, const char *name, FILE *file)
{
    char line[TUNE_FILE_NAME_BYTES + TUNE_KEY_BYTES];
    const size_t len = strlen(name);
    if (!fgets(line, sizeof(line), file) || strncmp(line, name, len) != 0 ||
        strcmp(line + len, "\n") != 0)
        return 1;
    unsigned number = 2;
    while (fgets(line, sizeof(line), file)) {
        if (number > TUNE_MAX_CHOICES + 1 || !put_line(t, line))
            return number;
        number++;
    }
    return 0;
}

enum cvd_status tune_file_read(struct tune *t, const char *folder, struct cvd_error *err)
{
    char name[TUNE_FILE_NAME_BYTES];
    enum cvd_status status = CVD_STATUS_OK;
    tune_file_name(t->kernels, name);
    char *path = make_path(folder, name, "");
    if (path == NULL)
        return no_memory(err);
    FILE *file = open_file(path);
    if (file != NULL) {
        const unsigned wrong = read_lines(t, name, file);
        if (ferror(file))
            status = io_error(err, path, "cannot be read");
        else if (wrong != 0)
            status = cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                                   "%.240s: line %u is not as it should be", path, wrong);
        fclose(file);
    } else if (errno != ENOENT) {
        status = io_error(err, path, "cannot be opened");
    }
    if (status != CVD_STATUS_OK)
        tune_release(t);
    mem_free(path);
    return status;
}

/* ---- writing ---- */

static bool write_lines(const struct tune *t, const char *name, int fd)
{
    FILE *file = fdopen(fd, "w");
    if (file == NULL) {
        close(fd);
        return false;
    }
    fprintf(file, "%s\n", name);
    for (size_t i = 0; i < t->count; i++)
        fprintf(file, "%s %u\n", t->choices[i].key, t->choices[i].tile);
    const bool good = !ferror(file);
    return fclose(file) == 0 && good;
}

enum cvd_status tune_file_write(const struct tune *t, const char *folder, struct cvd_error *err)
{
    char name[TUNE_FILE_NAME_BYTES];
    enum cvd_status status = CVD_STATUS_OK;
    tune_file_name(t->kernels, name);
    char *path = make_path(folder, name, ""), *aside = make_path(folder, name, ".XXXXXX");
    if (path == NULL || aside == NULL) {
        status = no_memory(err);
        goto done;
    }
    /* Written aside and renamed: nobody ever reads half a file. */
    const int fd = mkostemp(aside, O_CLOEXEC);
    if (fd < 0) {
        status = io_error(err, path, "cannot be written");
        goto done;
    }
    /* Nothing in it is secret, and another user's process may share the folder. */
    (void)fchmod(fd, 0644);
    if (!write_lines(t, name, fd) || rename(aside, path) != 0) {
        status = io_error(err, path, "cannot be written");
        (void)unlink(aside);
    }
done:
    mem_free(path);
    mem_free(aside);
    return status;
}
