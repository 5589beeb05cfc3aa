/*
 * Runs one operator on values in blocked layouts: infer, prepare, run, release, with poison around
 * all values, and looks at what it left in the gaps and around its output.
 */
#ifndef CONVD_TESTS_SUPPORT_BLOCKED_HARNESS_H
#define CONVD_TESTS_SUPPORT_BLOCKED_HARNESS_H

#include "engine/ops/blocked.h"
#include "tests/support/op_harness.h"

#define BLOCKED_CASE_INPUTS 5

struct blocked_case {
    const char *op;
    const char *domain; /* NULL: "convd.blocked" */
    int opset;          /* of another domain */
    const char *what;   /* for messages */
    const struct op_attr *attrs;
    size_t attr_count;
    struct op_arg in[BLOCKED_CASE_INPUTS];
    struct op_layout layout[BLOCKED_CASE_INPUTS]; /* a part begins at block 1 of its map */
    size_t in_count;
    struct op_layout out_layout;
};

/* Runs it; the output in plain order lives as long as the test. */
float *blocked_case_run(const struct blocked_case *c, const struct kernels *kernels,
                        struct tpool *pool, struct cvd_shape *shape);

/* The case gives `want` within `bound` times `size` (such as the sums of the terms' absolute
 * values), the same bits on four threads, for its last image alone, and where its inputs or its
 * output are parts of other maps. */
void blocked_case_expect(const struct blocked_case *c, enum cvd_cpu level, const double *want,
                         const double *size, double bound);

size_t blocked_case_elements(const struct cvd_shape *shape);

#endif
