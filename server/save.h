/* Output files that appear whole or not at all. */
#ifndef CONVD_SERVER_SAVE_H
#define CONVD_SERVER_SAVE_H

#include <convd/status.h>

#include <stddef.h>

/* Whether save_file() will be able to write there, found out by trying: before long work. Leaves
 * nothing behind and an existing file as it is. */
enum cvd_status save_check(const char *path, struct cvd_error *err);

/* Writes a temporary file in the same folder, flushes it to the disk and renames it to `path`, so
 * that nobody ever sees half a file. What is there and not a regular file is never replaced. */
enum cvd_status save_file(const char *path, const void *bytes, size_t len, struct cvd_error *err);

#endif
