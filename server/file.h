/* Whole files in memory, with a limit on their size. */
#ifndef CONVD_SERVER_FILE_H
#define CONVD_SERVER_FILE_H

#include <convd/status.h>

#include <stdbool.h>
#include <stddef.h>

/* Reads a file of at most max_bytes; "-" is standard input where `dash` allows it. *bytes is
 * malloc'ed and followed by a NUL that *len does not count. IO with the path and the reason. */
enum cvd_status file_read(const char *path, bool dash, size_t max_bytes, char **bytes, size_t *len,
                          struct cvd_error *err);

#endif
