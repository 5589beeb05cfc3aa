/* Files that tests read, and memory that tests need not free. */
#include "tests/support/data.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

/* Every block is in this list, so that a leak checker finds it in use. */
struct block {
    struct block *next;
    max_align_t bytes[];
};
static struct block *blocks;
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;

void *data_alloc(size_t len)
{
    struct block *block = calloc(1, sizeof *block + len);
    cr_assert(block != NULL, "no memory for %zu bytes", len);
    pthread_mutex_lock(&blocks_lock);
    block->next = blocks;
    blocks = block;
    pthread_mutex_unlock(&blocks_lock);
    return block->bytes;
}

char *data_printf(const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    cr_assert(len >= 0);
    char *text = data_alloc((size_t)len + 1);
    vsnprintf(text, (size_t)len + 1, format, again);
    va_end(again);
    va_end(args);
    return text;
}

struct data data_read(const char *name)
{
    const char *path = data_printf("tests/data/%s", name);
    FILE *file = fopen(path, "rb");
    cr_assert(file != NULL, "%s: %s (tests run from the top folder)", path, strerror(errno));
    cr_assert(fseek(file, 0, SEEK_END) == 0);
    long len = ftell(file);
    cr_assert(len >= 0);
    rewind(file);
    struct data data = {data_alloc((size_t)len + 1), (size_t)len};
    cr_assert(fread(data.bytes, 1, data.len, file) == data.len, "%s: short read", path);
    fclose(file);
    return data;
}

const char *data_shared(const char *name)
{
    const char *folder = getenv("CONVD_SHARED");
    if (folder == NULL || folder[0] == '\0')
        folder = "../shared";
    const char *path = data_printf("%s/%s", folder, name);
    if (access(path, R_OK) != 0)
        cr_skip_test("%s is not there (see CONVD_SHARED)", path);
    return path;
}
