/* The entry points that libFuzzer, or replay_main.c in its place, calls in a fuzz target. */
#ifndef CONVD_TESTS_FUZZ_FUZZ_H
#define CONVD_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* One input; returns 0. Whatever must not happen ends the process. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Called once before, where a target has it. */
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

#endif
