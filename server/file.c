/* Whole files in memory. */
#include "server/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Reads to the end, whatever fstat() said: pipes have no size and files may grow. */
static enum cvd_status read_all(int fd, const char *name, size_t room, size_t max_bytes,
                                char **bytes, size_t *len, struct cvd_error *err)
{
    char *buf = malloc(room + 1);
    size_t have = 0;
    for (;;) {
        if (!buf)
            return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "%s: no memory to read it", name);
        ssize_t n = read(fd, buf + have, room - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int code = errno;
            free(buf);
            return cvd_error_set(err, CVD_STATUS_IO, "%s: %s", name, strerror(code));
        }
        if (n == 0)
            break;
        have += (size_t)n;
        if (have > max_bytes) {
            free(buf);
            return cvd_error_set(err, CVD_STATUS_IO, "%s: larger than %zu bytes", name, max_bytes);
        }
        if (have == room) {
            room = room * 2;
            char *more = realloc(buf, room + 1);
            if (!more)
                free(buf);
            buf = more;
        }
    }
    buf[have] = '\0';
    *bytes = buf;
    *len = have;
    return CVD_STATUS_OK;
}

enum cvd_status file_read(const char *path, bool streams, size_t max_bytes, char **bytes,
                          size_t *len, struct cvd_error *err)
{
    if (streams && strcmp(path, "-") == 0)
        return read_all(STDIN_FILENO, "standard input", 65536, max_bytes, bytes, len, err);
    /* O_NONBLOCK: opening a pipe nobody writes to would wait for ever. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | (streams ? 0 : O_NONBLOCK));
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        int code = errno;
        if (fd >= 0)
            close(fd);
        return cvd_error_set(err, CVD_STATUS_IO, "%s: %s", path, strerror(code));
    }
    const bool regular = S_ISREG(st.st_mode);
    enum cvd_status status;
    if (!regular && !streams)
        status = cvd_error_set(err, CVD_STATUS_IO, "%s: %s", path,
                               S_ISDIR(st.st_mode) ? strerror(EISDIR) : "not a regular file");
    else if (regular && (uint64_t)st.st_size > max_bytes)
        status = cvd_error_set(err, CVD_STATUS_IO, "%s: larger than %zu bytes", path, max_bytes);
    else /* one byte more than the size, so that the end is seen without growing */
        status = read_all(fd, path, regular ? (size_t)st.st_size + 1 : 65536, max_bytes, bytes, len,
                          err);
    close(fd);
    return status;
}

bool file_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 || (errno != ENOENT && errno != ENOTDIR);
}
