/* The entry points that libFuzzer, or replay_main.c in its place, calls in a fuzz target. */
#ifndef CONVD_TESTS_FUZZ_FUZZ_H
#define CONVD_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* What must hold for every input; says what does not, since not every such end can be had again. */
#define require(condition) fuzz_require((condition), __FILE__, __LINE__, #condition)

static inline void fuzz_require(bool holds, const char *file, int line, const char *condition)
{
    if (holds)
        return;
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, condition);
    abort();
}

/* One input; returns 0. Whatever must not happen ends the process. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Called once before, where a target has it. */
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

#endif
