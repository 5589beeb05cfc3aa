/* Whole files in memory, with a limit on their size. */
#ifndef CONVD_SERVER_FILE_H
#define CONVD_SERVER_FILE_H

#include <convd/status.h>

#include <stdbool.h>
#include <stddef.h>

/* Reads a regular file of at most max_bytes. Where `streams` are allowed, because a person names
 * the file, "-" is standard input, and a pipe or device is read to its end. *bytes is malloc'ed and
 * followed by a NUL that *len does not count. IO with the path and the reason. */
enum cvd_status file_read(const char *path, bool streams, size_t max_bytes, char **bytes,
                          size_t *len, struct cvd_error *err);

/* Whether anything has that name, be it a link to nowhere or out of our sight: what is there and
 * cannot be read is an error, not as good as absent. */
bool file_exists(const char *path);

#endif
