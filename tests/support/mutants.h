/*
 * Kernels that are wrong on purpose, to see whether the tests of the right ones notice. A test
 * program gets its kernels here; the environment variable CHECK_MUTANT, "KERNEL FAULT", says which
 * of them is to be wrong and how (test_mutants.c runs all test programs with all of them).
 */
#ifndef CONVD_TESTS_SUPPORT_MUTANTS_H
#define CONVD_TESTS_SUPPORT_MUTANTS_H

#include "engine/kernels/kernels.h"

/* What kernels_init() does; with CHECK_MUTANT one kernel is then replaced. */
void mutants_kernels_init(struct kernels *k, enum cvd_cpu level);

enum mutants_fault {
    MUTANTS_NONE,
    MUTANTS_SHORT,  /* leaves out the last row, pixel or element */
    MUTANTS_BEYOND, /* writes one float behind what it computes */
    MUTANTS_BOUND,  /* has another activation, or for one that has none another sum */
    MUTANTS_BEFORE, /* reads one float before its input */
    MUTANTS_BEHIND, /* reads one float behind its input or its weights */
    MUTANTS_FAULTS
};

struct mutants_kernel {
    const char *name;
    const char *program, *suite; /* the test program that should notice, and the tests of it */
    unsigned faults;             /* a bit for each that the kernel can have */
    void (*install)(struct kernels *k);
};

extern const struct mutants_kernel mutants_all[]; /* ends with a name of NULL */
extern const char *const mutants_faults[MUTANTS_FAULTS];

#endif
