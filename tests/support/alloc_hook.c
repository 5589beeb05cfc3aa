/* Stands in front of malloc() and its kin, for tests of what happens when memory runs out. */
#include "tests/support/alloc_hook.h"

#include "server/pool.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct alloc_hook own;
struct alloc_hook *alloc_hook = &own;

/* What comes after this in the order of symbols: the C library's or a sanitizer's functions. */
static struct {
    void *(*malloc)(size_t bytes);
    void *(*calloc)(size_t count, size_t bytes);
    void *(*realloc)(void *p, size_t bytes);
    void *(*aligned_alloc)(size_t align, size_t bytes);
    int (*posix_memalign)(void **out, size_t align, size_t bytes);
    int (*pthread_getattr_np)(pthread_t thread, pthread_attr_t *attr);
    void *(*mmap)(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
    bool found, searching;
} next;

/* This thread's allocations are left alone. */
static _Thread_local bool exempt __attribute__((tls_model("initial-exec")));

static void find(void *function, const char *name)
{
    void *symbol = dlsym(RTLD_NEXT, name);
    memcpy(function, &symbol, sizeof symbol);
}

/* False while the search itself allocates, which does without. The first call comes before there
 * are threads. */
static bool found_next(void)
{
    if (next.found)
        return true;
    if (next.searching)
        return false;
    next.searching = true;
    find(&next.malloc, "malloc");
    find(&next.calloc, "calloc");
    find(&next.realloc, "realloc");
    find(&next.aligned_alloc, "aligned_alloc");
    find(&next.posix_memalign, "posix_memalign");
    find(&next.pthread_getattr_np, "pthread_getattr_np");
    find(&next.mmap, "mmap");
    next.found = true;
    return true;
}

__attribute__((constructor)) static void adopt(void)
{
    const char *fd = getenv(ALLOC_HOOK_FD);
    if (!fd || !found_next())
        return;
    void *page = next.mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED,
                           (int)strtol(fd, NULL, 10), 0);
    if (page != MAP_FAILED)
        alloc_hook = page;
}

/* What the server keeps for the next request would hide places that allocate. */
bool pool_is_bypassed(void)
{
    return atomic_load_explicit(&alloc_hook->countdown, memory_order_relaxed) != 0;
}

static void count(uintptr_t address)
{
    for (size_t i = 0; i < ALLOC_HOOK_SITES; i++) {
        struct alloc_site *s = &alloc_hook->sites[i];
        uintptr_t seen = 0;
        if (atomic_compare_exchange_strong(&s->address, &seen, address)) {
            Dl_info info;
            if (dladdr((const void *)address, &info) != 0) { /* NOLINT: an address of code */
                const char *slash = strrchr(info.dli_fname, '/');
                strncpy(s->object, slash ? slash + 1 : info.dli_fname, sizeof s->object - 1);
                s->offset = address - (uintptr_t)info.dli_fbase;
            }
            seen = address;
        }
        if (seen == address) {
            atomic_fetch_add(&s->count, 1);
            return;
        }
    }
    atomic_fetch_add(&alloc_hook->unplaced, 1);
}

/* Whether the allocation that is asked for at `caller` must fail. */
static bool must_fail(const void *caller)
{
    if (exempt)
        return false;
    atomic_fetch_add_explicit(&alloc_hook->calls, 1, memory_order_relaxed);
    if (atomic_load_explicit(&alloc_hook->counting, memory_order_relaxed))
        count((uintptr_t)caller);
    long left = atomic_load_explicit(&alloc_hook->countdown, memory_order_relaxed);
    while (left > 0) {
        bool last = left == 1;
        if (!(last && atomic_load(&alloc_hook->forever)) &&
            !atomic_compare_exchange_weak(&alloc_hook->countdown, &left, left - 1))
            continue;
        if (last)
            atomic_fetch_add(&alloc_hook->failed, 1);
        return last;
    }
    return false;
}

/* NULL when this call must fail. */
#define CHECK()                                                        \
    do {                                                               \
        if (!found_next() || must_fail(__builtin_return_address(0))) { \
            errno = ENOMEM;                                            \
            return NULL;                                               \
        }                                                              \
    } while (0)

void *malloc(size_t bytes)
{
    CHECK();
    return next.malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    CHECK();
    return next.calloc(n, bytes);
}

void *realloc(void *p, size_t bytes)
{
    CHECK();
    return next.realloc(p, bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
    CHECK();
    return next.aligned_alloc(align, bytes);
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
    if (!found_next() || must_fail(__builtin_return_address(0)))
        return ENOMEM;
    return next.posix_memalign(out, align, bytes);
}

/* Here rather than in the C library, so that its caller is seen. */
char *strdup(const char *text)
{
    CHECK();
    size_t bytes = strlen(text) + 1;
    char *copy = next.malloc(bytes);
    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}

/* Called by sanitizers where a thread begins; they do not survive its failure. */
int pthread_getattr_np(pthread_t thread, pthread_attr_t *attr)
{
    exempt = true;
    int code = found_next() ? next.pthread_getattr_np(thread, attr) : ENOMEM;
    exempt = false;
    return code;
}

/* Memory only; files are mapped as ever. */
void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (!found_next() || ((flags & MAP_ANONYMOUS) && must_fail(__builtin_return_address(0)))) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return next.mmap(at, bytes, protection, flags, fd, offset);
}
