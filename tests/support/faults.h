/* The real program with alloc_hook.so in front of its allocations. */
#ifndef CONVD_TESTS_SUPPORT_FAULTS_H
#define CONVD_TESTS_SUPPORT_FAULTS_H

#include "tests/support/alloc_hook.h"
#include "tests/support/server.h"

/* As server_start(). *hook is shared with the server. Skips the test where allocations cannot be
 * hooked: under ThreadSanitizer, and where a sanitizer is part of the program itself. */
struct server *faults_server_start(const char *const *options, struct alloc_hook **hook);

/* From now on the n-th allocation fails and, when `forever`, every later one; 0: none does.
 * faults_end() ends this and returns how many were made to fail. */
void faults_begin(struct alloc_hook *hook, long n, bool forever);
unsigned long faults_end(struct alloc_hook *hook);

#endif
