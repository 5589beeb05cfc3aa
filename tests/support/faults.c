/* The real program with alloc_hook.so in front of its allocations. */
#include "tests/support/faults.h"

#include "tests/support/data.h"

#include <criterion/criterion.h>

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* $ALLOC_HOOK, else beside the program. */
static const char *hook_library(void)
{
    const char *path = getenv("ALLOC_HOOK");
    if (path == NULL || path[0] == '\0')
        path = "build/gcc/tests/support/alloc_hook.so";
    char *whole = realpath(path, NULL);
    cr_assert(whole != NULL, "%s is not there (see ALLOC_HOOK)", path);
    const char *copy = data_printf("%s", whole);
    free(whole);
    return copy;
}

struct server *faults_server_start(const char *const *options, struct alloc_hook **hook)
{
    const char *sanitizer = getenv("SANITIZER"), *asan = getenv("ASAN_OPTIONS");
    if (sanitizer != NULL && strcmp(sanitizer, "thread") == 0)
        cr_skip_test("ThreadSanitizer must see allocations first");
    int fd = memfd_create("allocations", 0); /* the server inherits it */
    cr_assert(fd >= 0 && ftruncate(fd, sizeof **hook) == 0);
    *hook = mmap(NULL, sizeof **hook, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    cr_assert(*hook != MAP_FAILED);
    setenv(ALLOC_HOOK_FD, data_printf("%d", fd), 1);
    setenv("LD_PRELOAD", hook_library(), 1);
    setenv("ASAN_OPTIONS", data_printf("%s:verify_asan_link_order=0", asan ? asan : ""), 1);
    struct server *s = server_start(options);
    unsetenv("LD_PRELOAD");
    unsetenv(ALLOC_HOOK_FD);
    close(fd);
    if (atomic_load(&(*hook)->calls) == 0) {
        server_stop(s);
        cr_skip_test("the program's sanitizer does not let allocations be hooked");
    }
    return s;
}

void faults_begin(struct alloc_hook *hook, long n, bool forever)
{
    atomic_store(&hook->failed, 0);
    atomic_store(&hook->forever, forever);
    atomic_store(&hook->countdown, n);
}

unsigned long faults_end(struct alloc_hook *hook)
{
    atomic_store(&hook->countdown, 0);
    return atomic_load(&hook->failed);
}
