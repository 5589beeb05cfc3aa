/*
 * Leak detection for tests under AddressSanitizer. Criterion ends its test processes with _exit(),
 * which leaves out the sanitizer's own check; here a test whose body has run to its end is checked
 * before its fixtures are undone. Stands in front of libcriterion's function of the same name and
 * calls it. Linked with SANITIZER=address only.
 */
#include <criterion/criterion.h>

#include <dlfcn.h>
#include <sanitizer/lsan_interface.h>
#include <stdint.h>

static struct {
    void (*body)(void *param);
    bool checking;
} now;

/* Criterion's own leaks, in the process that runs no test, are not ours. */
int __lsan_is_turned_off(void)
{
    return !now.checking;
}

static void run_body(void *param)
{
    now.body(param);
    now.checking = true;
    int leaked = __lsan_do_recoverable_leak_check();
    now.checking = false;
    cr_assert(leaked == 0, "memory was leaked");
}

void criterion_internal_test_main(void (*fn)(void))
{
    void (*original)(void (*)(void));
    void *symbol = dlsym(RTLD_NEXT, "criterion_internal_test_main");
    memcpy(&original, &symbol, sizeof original);
    /* The body of a parameterised test takes a pointer; that of any other ignores it. */
    now.body = (void (*)(void *))(uintptr_t)fn;
    original((void (*)(void))(uintptr_t)run_body);
}
