/*
 * The matrix product's tile kernel of every CPU level against a naive loop in double precision.
 *
 * Operands lie flush against pages that cannot be touched, once at their end and once at their
 * start; padding and everything around the output is poison. The last tests show that wrong kernels
 * are caught.
 */
#include "engine/kernels/kernels.h"
#include "tests/support/mutants.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define POISON   0x7fc0dead /* a NaN that no arithmetic makes */
#define MAX_SIDE (2 * KERNEL_GEMM_MAX_NR + 3)

/* ---- memory between guard pages ---- */

struct guarded {
    char *map;
    size_t map_bytes;
    float *data;
};

static struct guarded guarded_floats(size_t count, bool at_end)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = count * sizeof(float);
    const size_t inner = (bytes + page - 1) / page * page;
    struct guarded g = {.map_bytes = inner + 2 * page};
    g.map = mmap(NULL, g.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(g.map != MAP_FAILED);
    if (inner > 0)
        cr_assert_eq(mprotect(g.map + page, inner, PROT_READ | PROT_WRITE), 0);
    g.data = (float *)(void *)(g.map + page + (at_end ? inner - bytes : 0));
    return g;
}

static void guarded_free(struct guarded *g)
{
    munmap(g->map, g->map_bytes);
}

/* ---- one product ---- */

enum input_kind { INPUT_UNIFORM, INPUT_CANCELLING, INPUT_TINY, INPUT_KINDS };

static float random_float(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state * 0x1p-31f;
}

static float input_value(enum input_kind kind, size_t index, uint32_t *state)
{
    const float x = random_float(state);
    switch (kind) {
    case INPUT_CANCELLING:
        return (index & 1 ? -1e4f : 1e4f) + x;
    case INPUT_TINY:
        return x * 1e-18f; /* products are near the smallest normal number */
    default:
        return index % 7 == 3 ? 0 : x;
    }
}

static float poison(void)
{
    const uint32_t bits = POISON;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static bool is_poison(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits == POISON;
}

/* Packs count rows of `terms` values into tiles [terms][tile], padding poisoned. */
static void pack(const float *rows, size_t count, size_t terms, size_t tile, float *to)
{
    for (size_t i = 0; i < (count + tile - 1) / tile * tile; i++)
        for (size_t t = 0; t < terms; t++)
            to[i / tile * tile * terms + t * tile + i % tile] =
                i < count ? rows[i * terms + t] : poison();
}

struct product {
    size_t m, n, k;
    bool accumulate, at_end;
    enum input_kind kind;
};

/* Runs one product through the kernel; returns NULL, or what is wrong. */
static const char *check_product(const struct kernels *kernels, const struct product *p)
{
    static char message[200];
    static float a[MAX_SIDE * MAX_SIDE], b[MAX_SIDE * MAX_SIDE], before[MAX_SIDE * MAX_SIDE];
    const size_t mr = kernels->gemm.mr, nr = kernels->gemm.nr;
    const size_t m_tiles = (p->m + mr - 1) / mr, n_tiles = (p->n + nr - 1) / nr;
    const size_t ldc = p->n + 5, c_count = (p->m - 1) * ldc + p->n;
    uint32_t state = 12345;
    struct guarded pa = guarded_floats(m_tiles * mr * p->k, p->at_end);
    struct guarded pb = guarded_floats(n_tiles * nr * p->k, p->at_end);
    struct guarded c = guarded_floats(c_count, p->at_end);
    const char *wrong = NULL;

    for (size_t i = 0; i < p->m * p->k; i++)
        a[i] = input_value(p->kind, i % p->k, &state);
    for (size_t i = 0; i < p->n * p->k; i++)
        b[i] = fabsf(input_value(p->kind, i, &state));
    pack(a, p->m, p->k, mr, pa.data);
    pack(b, p->n, p->k, nr, pb.data);
    for (size_t i = 0; i < c_count; i++) {
        before[i] = i % ldc >= p->n || !p->accumulate ? poison() : random_float(&state);
        c.data[i] = before[i];
    }

    for (size_t i = 0; i < m_tiles; i++)
        for (size_t j = 0; j < n_tiles; j++)
            kernels->gemm.fn(p->k, pa.data + i * mr * p->k, pb.data + j * nr * p->k,
                             c.data + i * mr * ldc + j * nr, ldc,
                             i + 1 < m_tiles ? mr : p->m - i * mr,
                             j + 1 < n_tiles ? nr : p->n - j * nr, p->accumulate);

    for (size_t i = 0; i < c_count && !wrong; i++) {
        const size_t row = i / ldc, column = i % ldc;
        if (column >= p->n) {
            if (!is_poison(c.data[i]))
                wrong = "wrote beyond the tile";
        } else {
            double sum = p->accumulate ? (double)before[i] : 0, size = fabs(sum);
            for (size_t t = 0; t < p->k; t++) {
                const double x = (double)a[row * p->k + t] * (double)b[column * p->k + t];
                sum += x;
                size += fabs(x);
            }
            /* Rounding of a sum of k + 1 terms, and of products that become subnormal. */
            const double bound =
                (double)(p->k + 1) * ((double)FLT_EPSILON * size + (double)FLT_MIN * 1e-6);
            if (!(fabs((double)c.data[i] - sum) <= bound))
                wrong = "wrong sum";
        }
        if (wrong)
            snprintf(message, sizeof message,
                     "%s: %s at row %zu, column %zu of a %zux%zu product of %zu terms (%s, "
                     "inputs %d, %s guarded): %.9g",
                     kernels->gemm.name, wrong, row, column, p->m, p->n, p->k,
                     p->accumulate ? "accumulating" : "overwriting", (int)p->kind,
                     p->at_end ? "end" : "start", (double)c.data[i]);
    }
    guarded_free(&pa);
    guarded_free(&pb);
    guarded_free(&c);
    return wrong ? message : NULL;
}

/* All awkward sizes; returns NULL or the first failure. */
static const char *check_kernel(const struct kernels *kernels)
{
    const size_t mr = kernels->gemm.mr, nr = kernels->gemm.nr;
    const size_t ms[] = {1, mr - 1, mr, mr + 1, 2 * mr + 3};
    const size_t ns[] = {1, nr - 1, nr, nr + 1, 2 * nr + 3};
    const size_t ks[] = {1, 2, 7, 8, 9, 33};
    const size_t sizes = sizeof ms / sizeof *ms, lengths = sizeof ks / sizeof *ks;
    for (size_t i = 0; i < sizes * sizes * lengths * INPUT_KINDS * 4; i++) {
        const struct product p = {.m = ms[i % sizes],
                                  .n = ns[i / sizes % sizes],
                                  .k = ks[i / sizes / sizes % lengths],
                                  .kind = i / sizes / sizes / lengths % INPUT_KINDS,
                                  .accumulate = i / sizes / sizes / lengths / INPUT_KINDS % 2,
                                  .at_end = i / sizes / sizes / lengths / INPUT_KINDS / 2};
        const char *wrong = check_product(kernels, &p);
        if (wrong)
            return wrong;
    }
    return NULL;
}

/* ---- every level ---- */

static void init_or_skip(struct kernels *kernels, enum cvd_cpu level)
{
    if (!cvd_cpu_supported(level))
        cr_skip_test("this CPU has no %s", cvd_cpu_name(level));
    mutants_kernels_init(kernels, level);
    cr_assert_leq(kernels->gemm.mr, KERNEL_GEMM_MAX_MR);
    cr_assert_leq(kernels->gemm.nr, KERNEL_GEMM_MAX_NR);
    cr_assert_eq(kernels->level, level);
}

ParameterizedTestParameters(gemm, sizes)
{
    static enum cvd_cpu levels[] = {CVD_CPU_C, CVD_CPU_NEON, CVD_CPU_AVX2, CVD_CPU_AVX512};
    return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);
}

ParameterizedTest(enum cvd_cpu *level, gemm, sizes)
{
    struct kernels kernels;
    init_or_skip(&kernels, *level);
    const char *wrong = check_kernel(&kernels);
    cr_assert_null(wrong, "%s", wrong);
}

ParameterizedTestParameters(gemm, same_bits)
{
    static enum cvd_cpu levels[] = {CVD_CPU_C, CVD_CPU_NEON, CVD_CPU_AVX2, CVD_CPU_AVX512};
    return cr_make_param_array(enum cvd_cpu, levels, sizeof levels / sizeof *levels);
}

/* An element's bits depend neither on which part of a tile is asked for nor on where k is cut. */
ParameterizedTest(enum cvd_cpu *level, gemm, same_bits)
{
    enum { K = 37 };
    struct kernels kernels;
    init_or_skip(&kernels, *level);
    const size_t mr = kernels.gemm.mr, nr = kernels.gemm.nr, bytes = mr * nr * sizeof(float);
    float a[K * KERNEL_GEMM_MAX_MR], b[K * KERNEL_GEMM_MAX_NR];
    float full[KERNEL_GEMM_MAX_MR * KERNEL_GEMM_MAX_NR];
    float part[KERNEL_GEMM_MAX_MR * KERNEL_GEMM_MAX_NR];
    uint32_t state = 99;
    for (size_t i = 0; i < K * mr; i++)
        a[i] = random_float(&state);
    for (size_t i = 0; i < K * nr; i++)
        b[i] = random_float(&state);
    kernels.gemm.fn(K, a, b, full, nr, mr, nr, 0);
    for (size_t rows = 1; rows <= mr; rows++) {
        for (size_t cols = 1; cols <= nr; cols++) {
            memset(part, 0, bytes);
            kernels.gemm.fn(K, a, b, part, nr, rows, cols, 0);
            for (size_t i = 0; i < rows; i++)
                cr_assert_arr_eq(part + i * nr, full + i * nr, cols * sizeof *part,
                                 "row %zu of %zux%zu", i, rows, cols);
        }
    }
    for (size_t cut = 0; cut <= K; cut++) {
        kernels.gemm.fn(cut, a, b, part, nr, mr, nr, 0);
        kernels.gemm.fn(K - cut, a + cut * mr, b + cut * nr, part, nr, mr, nr, 1);
        cr_assert_arr_eq(part, full, bytes, "cut at %zu", cut);
    }
}

/* ---- wrong kernels are caught ---- */

enum { FAKE_MR = 3, FAKE_NR = 4 };
enum fault { NO_FAULT, SHORT_SUM, SHIFTED_ROW, WIDE_STORE, DEAF, OVER_READ };
static enum fault fault;

static void fake_kernel(size_t k, const float *a, const float *b, float *c, size_t ldc, size_t rows,
                        size_t cols, int accumulate)
{
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            float sum = accumulate && fault != DEAF ? c[i * ldc + j] : 0;
            const size_t row = fault == SHIFTED_ROW && i == 1 ? 0 : i;
            for (size_t t = 0; t + (fault == SHORT_SUM) < k; t++)
                sum += a[t * FAKE_MR + row] * b[t * FAKE_NR + j];
            c[i * ldc + j] = sum;
        }
    }
    if (fault == WIDE_STORE && rows > 1)
        c[cols] = 0;
    if (fault == OVER_READ)
        c[0] += 0 * *(const volatile float *)(b + k * FAKE_NR);
}

static struct kernels fake(enum fault f)
{
    struct kernels kernels = {.level = CVD_CPU_C};
    kernels.gemm.fn = fake_kernel;
    kernels.gemm.mr = FAKE_MR;
    kernels.gemm.nr = FAKE_NR;
    kernels.gemm.name = "fake";
    fault = f;
    return kernels;
}

Test(gemm, catches_wrong_sums_and_stores)
{
    struct kernels kernels = fake(NO_FAULT);
    const char *wrong = check_kernel(&kernels);
    cr_assert_null(wrong, "%s", wrong);
    for (enum fault f = SHORT_SUM; f <= DEAF; f++) {
        kernels = fake(f);
        cr_expect_not_null(check_kernel(&kernels), "fault %d was not noticed", (int)f);
    }
}

/* In a child, which must not come to its end. */
Test(gemm, catches_reading_beyond)
{
    const pid_t child = fork();
    int status;
    cr_assert_geq(child, 0);
    if (child == 0) {
        struct kernels kernels = fake(OVER_READ);
        fclose(stderr); /* a sanitizer's report */
        check_kernel(&kernels);
        _exit(0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect_not(WIFEXITED(status) && WEXITSTATUS(status) == 0, "reading beyond went unnoticed");
}
