/* Atomic output files (see save.h). */
#include "server/save.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum cvd_status failed(const char *path, int code, struct cvd_error *err)
{
    return cvd_error_set(err, CVD_STATUS_IO, "%s: cannot be written: %s", path, strerror(code));
}

/* Opens a new file beside `path` that others may read as far as the umask allows. */
static enum cvd_status open_beside(const char *path, char temporary[PATH_MAX], int *fd,
                                   struct cvd_error *err)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return cvd_error_set(err, CVD_STATUS_IO, "%s: exists and is not a regular file", path);
    if (snprintf(temporary, PATH_MAX, "%s.XXXXXX", path) >= PATH_MAX)
        return failed(path, ENAMETOOLONG, err);
    *fd = mkstemp(temporary);
    if (*fd < 0)
        return failed(path, errno, err);
    const mode_t mask = umask(0);
    umask(mask);
    (void)fchmod(*fd, 0666 & ~mask); /* a file system without modes is no reason to fail */
    return CVD_STATUS_OK;
}

enum cvd_status save_check(const char *path, struct cvd_error *err)
{
    char temporary[PATH_MAX];
    int fd;
    enum cvd_status status = open_beside(path, temporary, &fd, err);
    if (status)
        return status;
    close(fd);
    unlink(temporary);
    return CVD_STATUS_OK;
}

static bool write_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        const ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

enum cvd_status save_file(const char *path, const void *bytes, size_t len, struct cvd_error *err)
{
    char temporary[PATH_MAX];
    int fd;
    enum cvd_status status = open_beside(path, temporary, &fd, err);
    if (status)
        return status;
    bool ok = write_all(fd, bytes, len) && fsync(fd) == 0;
    int code = errno;
    if (close(fd) != 0 && ok) {
        ok = false;
        code = errno;
    }
    if (ok && rename(temporary, path) != 0) {
        ok = false;
        code = errno;
    }
    if (ok)
        return CVD_STATUS_OK;
    unlink(temporary);
    return failed(path, code, err);
}
