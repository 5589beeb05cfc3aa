/*
 * Every allocation of a process, of libraries as well, made to fail or counted from outside.
 *
 * alloc_hook.c stands in front of malloc() and its kin. Built as alloc_hook.so it is preloaded into
 * the real program, which finds the structure below in the file of descriptor $ALLOC_HOOK_FD;
 * linked into a test program, it is the test's own.
 */
#ifndef CONVD_TESTS_SUPPORT_ALLOC_HOOK_H
#define CONVD_TESTS_SUPPORT_ALLOC_HOOK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define ALLOC_HOOK_FD    "ALLOC_HOOK_FD"
#define ALLOC_HOOK_SITES 64

struct alloc_hook {
    /* Set by the test. */
    atomic_long countdown; /* allocations up to and with the one that fails; 0 = none does */
    atomic_bool forever;   /* so do all after it */
    atomic_bool counting;
    /* Set by the hook. */
    atomic_ulong failed; /* allocations that were made to fail */
    atomic_ulong calls;  /* since the start of the process: 0 = the hook is not in use */
    /* While `counting`: how often which place allocated. */
    struct alloc_site {
        _Atomic uintptr_t address;
        atomic_ulong count;
        char object[64]; /* file that holds the code, and */
        uintptr_t offset;
    } sites[ALLOC_HOOK_SITES];
    atomic_ulong unplaced; /* had no room among the sites */
};

/* The hook that is linked into this program. There is none under ThreadSanitizer, which must see
 * allocations first. */
extern struct alloc_hook *alloc_hook __attribute__((weak));
#define ALLOC_HOOK_LINKED (&alloc_hook != NULL)

#endif
