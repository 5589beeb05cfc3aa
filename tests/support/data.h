/* Files that tests read, and memory that tests need not free. */
#ifndef CONVD_TESTS_SUPPORT_DATA_H
#define CONVD_TESTS_SUPPORT_DATA_H

#include <stddef.h>

/* Zeroed memory that lives as long as the test, which is a process of its own. Fails the test when
 * there is none. Any thread. */
void *data_alloc(size_t len);

/* Formatted text in such memory. */
char *data_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct data {
    unsigned char *bytes; /* followed by a zero that len does not count */
    size_t len;
};

/* tests/data/NAME; fails the test when it cannot be read. */
struct data data_read(const char *name);

/* The path of a file or folder below $CONVD_SHARED (default ../shared); skips the test, naming the
 * path, when it is not there. */
const char *data_shared(const char *name);

#endif
