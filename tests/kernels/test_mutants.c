/*
 * The tests of the kernels notice kernels that are wrong: each test program is run with each kernel
 * that it is about leaving out its last row, writing one float too many, using another bound, and
 * reading one float before and behind its operands. Such a run must fail, and one without a fault
 * must not.
 */
#include "tests/support/data.h"
#include "tests/support/mutants.h"

#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Beside this program. */
static const char *path_of(const char *program)
{
    char self[4096];
    const ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    cr_assert_gt(len, 0);
    self[len] = '\0';
    char *name = strrchr(self, '/');
    cr_assert_not_null(name);
    *name = '\0';
    return data_printf("%s/%s", self, program);
}

/* Whether the tests all pass with that mutant (NULL: with none). */
static bool passes(const struct mutants_kernel *m, const char *mutant)
{
    const char *path = path_of(m->program);
    if (access(path, X_OK) != 0)
        cr_skip_test("%s is not built", path);
    const pid_t child = fork();
    int status;
    cr_assert_geq(child, 0);
    if (child == 0) {
        const int null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        dup2(null, 2);
        unsetenv("BXFI_MAP"); /* by which Criterion knows its own children */
        if (mutant != NULL)
            setenv("CHECK_MUTANT", mutant, 1);
        execl(path, path, "--filter", m->suite, "-j1", "--fail-fast", (char *)NULL);
        _exit(0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void check(const char *name)
{
    const struct mutants_kernel *m = mutants_all;
    while (m->name != NULL && strcmp(m->name, name) != 0)
        m++;
    cr_assert_not_null(m->name);
    cr_assert(passes(m, NULL), "%s fails", m->suite);
    for (unsigned f = 1; f < MUTANTS_FAULTS; f++) {
        if (m->faults >> f & 1)
            cr_expect_not(passes(m, data_printf("%s %s", name, mutants_faults[f])),
                          "nobody notices '%s %s'", name, mutants_faults[f]);
    }
}

#define CAUGHT(name)                    \
    Test(mutants, name, .timeout = 600) \
    {                                   \
        check(#name);                   \
    }
CAUGHT(gemm)
CAUGHT(conv)
CAUGHT(grouped)
CAUGHT(planes)
CAUGHT(planes_pool)
CAUGHT(block)
CAUGHT(unblock)
CAUGHT(channels)
CAUGHT(input_4)
CAUGHT(input_2)
CAUGHT(product)
CAUGHT(output_4)
CAUGHT(output_2)
CAUGHT(depthwise)
CAUGHT(pool)
CAUGHT(global_pool)
CAUGHT(pointwise)
CAUGHT(softmax)
CAUGHT(layer_norm)
CAUGHT(act)
