/*
 * External data: the one place where a model names files.
 *
 * The path comes from the model and is not to be trusted. It must stay below the model's folder in
 * every sense: no absolute path, no "..", no symbolic link on the way (it could point anywhere), no
 * hard link (it could be another user's file), no device or pipe (opening one may block for ever).
 */
#include "engine/onnx/external.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* O_NONBLOCK: a pipe is opened without waiting for a writer, and refused afterwards. */
#define FILE_FLAGS   (O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
#define FOLDER_FLAGS (O_PATH | O_DIRECTORY | O_CLOEXEC)

/* A terminated copy of the path in `path`, provided that it is relative and never goes up. */
static enum cvd_status check_path(struct wire_bytes location, char path[PATH_MAX],
                                  struct cvd_error *err)
{
    if (location.len == 0 || location.len >= PATH_MAX || memchr(location.data, '\0', location.len))
        return cvd_error_set(err, CVD_STATUS_INVALID_MODEL,
                             "the location of external data is not a path");
    memcpy(path, location.data, location.len);
    path[location.len] = '\0';
    bool up = path[0] == '/';
    for (const char *part = path; part; part = strchr(part, '/')) {
        part += *part == '/';
        up = up || (part[0] == '.' && part[1] == '.' && (part[2] == '/' || part[2] == '\0'));
    }
    if (up)
        return cvd_error_set(err, CVD_STATUS_INVALID_MODEL,
                             "external data '%.100s' lie outside the model's folder", path);
    return CVD_STATUS_OK;
}

/* Linux 5.6 and up: the kernel itself keeps the walk below `folder`. */
static int open_beneath(int folder, const char *path)
{
    struct open_how how = {.flags = FILE_FLAGS,
                           .resolve =
                               RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    return (int)syscall(SYS_openat2, folder, path, &how, sizeof(how));
}

/* The same by hand, one part of the path after the other; cuts `path` up. */
static int open_by_parts(int folder, char *path)
{
    int at = dup(folder);
    for (char *part = path; at >= 0;) {
        char *slash = strchr(part, '/');
        if (slash)
            *slash = '\0';
        if (*part == '\0' && slash) { /* "a//b" */
            part = slash + 1;
            continue;
        }
        int next = openat(at, part, slash ? FOLDER_FLAGS | O_NOFOLLOW : FILE_FLAGS);
        int error = errno;
        close(at);
        errno = error;
        if (!slash)
            return next;
        at = next;
        part = slash + 1;
    }
    return -1;
}

static enum cvd_status open_failed(const char *path, struct cvd_error *err)
{
    int error = errno;
    if (error == ELOOP || error == EXDEV)
        return cvd_error_set(err, CVD_STATUS_INVALID_MODEL,
                             "external data '%.100s' are reached through a symbolic link", path);
    return cvd_error_set(err, CVD_STATUS_IO, "cannot open external data '%.100s': %s", path,
                         strerror(error));
}

static enum cvd_status check_file(int fd, const char *path, uint64_t offset, size_t bytes,
                                  struct cvd_error *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return cvd_error_set(err, CVD_STATUS_IO, "cannot inspect external data '%.100s': %s", path,
                             strerror(errno));
    if (!S_ISREG(st.st_mode))
        return cvd_error_set(err, CVD_STATUS_INVALID_MODEL,
                             "external data '%.100s' are not a regular file", path);
    if (st.st_nlink != 1)
        return cvd_error_set(err, CVD_STATUS_INVALID_MODEL,
                             "external data '%.100s' are a file with %lu hard links, not 1", path,
                             (unsigned long)st.st_nlink);
    uint64_t size = (uint64_t)st.st_size;
    if (offset > size || bytes > size - offset)
        return cvd_error_set(err, CVD_STATUS_INVALID_MODEL,
                             "external data '%.100s' have %llu bytes, too few for %zu from byte "
                             "%llu on",
                             path, (unsigned long long)size, bytes, (unsigned long long)offset);
    return CVD_STATUS_OK;
}

enum cvd_status external_open(const char *folder, struct wire_bytes location, uint64_t offset,
                              size_t bytes, bool portable, int *fd, struct cvd_error *err)
{
    char path[PATH_MAX], parts[PATH_MAX];
    enum cvd_status status = check_path(location, path, err);
    if (status)
        return status;
    int dir = open(folder, FOLDER_FLAGS);
    if (dir < 0)
        return cvd_error_set(err, CVD_STATUS_IO, "cannot open the model's folder '%.100s': %s",
                             folder, strerror(errno));
    int file = -1;
    if (!portable)
        file = open_beneath(dir, path);
    /* ENOSYS: an older kernel. EPERM: a system-call filter that does not know openat2. */
    if (portable || (file < 0 && (errno == ENOSYS || errno == EPERM)))
        file = open_by_parts(dir, strcpy(parts, path));
    status = file < 0 ? open_failed(path, err) : check_file(file, path, offset, bytes, err);
    close(dir);
    if (status) {
        if (file >= 0)
            close(file);
        return status;
    }
    *fd = file;
    return CVD_STATUS_OK;
}

enum cvd_status external_read(int fd, uint64_t offset, void *data, size_t bytes,
                              struct cvd_error *err)
{
    char *at = data;
    while (bytes > 0) {
        ssize_t got = pread(fd, at, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return cvd_error_set(err, CVD_STATUS_IO, "cannot read external data: %s",
                                 got < 0 ? strerror(errno) : "the file became shorter meanwhile");
        at += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return CVD_STATUS_OK;
}
