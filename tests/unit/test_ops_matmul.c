/* Gemm and MatMul: a naive double-precision product over awkward sizes, every form of C, batches.
 */
#include "tests/support/data.h"
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <string.h>

/* ---- Gemm ---- */

struct gemm_case {
    int64_t m, n, k;
    bool trans_a, trans_b, constant;
    float alpha, beta;
    struct cvd_shape c; /* rank 3: no C */
};

static void compare(const struct gemm_case *g)
{
    const size_t m = (size_t)g->m, n = (size_t)g->n, k = (size_t)g->k;
    const float *a = op_random(m * k, 1), *b = op_random(n * k, 2), *c = op_random(m * n, 3);
    float *want = data_alloc(m * n * sizeof *want);
    const bool with_c = g->c.rank != 3;
    const int64_t c_columns = g->c.rank >= 1 ? g->c.dims[g->c.rank - 1] : 1;
    const int64_t c_rows = g->c.rank == 2 ? g->c.dims[0] : 1;
    double largest = 0;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0, size = 0;
            for (size_t l = 0; l < k; l++) {
                const double p = (double)a[g->trans_a ? l * m + i : i * k + l] *
                                 (double)b[g->trans_b ? j * k + l : l * n + j];
                sum += p;
                size += fabs(p);
            }
            const size_t at = (c_rows > 1 ? i * (size_t)c_columns : 0) + (c_columns > 1 ? j : 0);
            sum = (double)g->alpha * sum + (with_c ? (double)g->beta * (double)c[at] : 0);
            largest = size > largest ? size : largest;
            want[i * n + j] = (float)sum;
        }
    const struct op_arg in[] = {
        FLOAT_INPUT(g->trans_a ? OP_SHAPE(g->k, g->m) : OP_SHAPE(g->m, g->k), a),
        {CVD_DTYPE_FLOAT32, g->trans_b ? OP_SHAPE(g->n, g->k) : OP_SHAPE(g->k, g->n), b,
         g->constant},
        FLOAT_INPUT(g->c, c),
    };
    for (int level = CVD_CPU_C; level < CVD_CPU_COUNT; level++) {
        if (!cvd_cpu_supported((enum cvd_cpu)level))
            continue;
        const struct op_case one = {
            .op = "Gemm",
            .opset = 13,
            OP_ATTRS(ATTR_INT("transA", g->trans_a), ATTR_INT("transB", g->trans_b),
                     ATTR_FLOAT("alpha", g->alpha), ATTR_FLOAT("beta", g->beta)),
            .in = in,
            .in_count = with_c ? 3 : 2,
            .level = (enum cvd_cpu)level,
        };
        op_expect_floats(&one, OP_SHAPE(g->m, g->n), want,
                         (largest * (double)fabsf(g->alpha) + 1) * ((double)k + 3) *
                             (double)FLT_EPSILON);
    }
}

Test(ops_matmul, gemm)
{
    const struct cvd_shape none = OP_SHAPE(1, 1, 1);
    const struct gemm_case cases[] = {
        {1, 1, 1, false, false, true, 1, 1, none},
        {1, 10, 84, false, true, true, 1, 1, OP_SHAPE(10)},
        {3, 10, 84, false, true, false, 1, 1, OP_SHAPE(10)},
        {17, 65, 300, false, false, true, 1, 1, OP_SHAPE(17, 65)}, /* more than a block of k */
        {17, 65, 513, true, true, false, 1.5f, 0.5f, OP_SHAPE(1, 65)},
        {5, 33, 7, true, false, true, -1, 2, OP_SHAPE(5, 1)},
        {5, 33, 7, false, false, false, 0, 1, OP_SCALAR},
        {16, 64, 16, false, true, true, 2, 0, OP_SHAPE(64)},
        {31, 200, 3, true, true, true, 1, 1, OP_SHAPE(1, 1)},
        {2, 3, 4, false, false, true, 1, 1, OP_SHAPE(1)},
        {1, 4, 3, false, false, true, 1, 1, OP_SHAPE(1, 4)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        compare(&cases[i]);
}

Test(ops_matmul, gemm_without_sums)
{
    const struct op_case c = {
        .op = "Gemm",
        .opset = 13,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 0), op_random(1, 1)),
                  FLOAT_INPUT(OP_SHAPE(0, 3), op_random(1, 1)),
                  FLOAT_INPUT(OP_SHAPE(3), OP_FLOATS_OF(1, 2, 3))),
    };
    op_expect_floats(&c, OP_SHAPE(2, 3), OP_FLOATS_OF(1, 2, 3, 1, 2, 3), 0);
}

Test(ops_matmul, books)
{
    const struct op_case c = {
        .op = "Gemm",
        .opset = 13,
        OP_ATTRS(ATTR_INT("transB", 1)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 400), op_random(400, 1)),
                  FLOAT_WEIGHTS(OP_SHAPE(120, 400), op_random(48000, 2)),
                  FLOAT_WEIGHTS(OP_SHAPE(120), op_random(120, 3))),
    };
    const struct op_result r = op_case_run(&c);
    cr_assert_eq(r.status, CVD_STATUS_OK);
    cr_expect_eq(r.prepared.parameters, 48120);
    cr_expect_eq(r.prepared.macs, 48000);
    cr_expect_eq(r.prepared.inputs_consumed, 2);
    cr_expect_geq(r.prepared.state_bytes, 48000 * sizeof(float));
    cr_expect_not(r.prepared.mixes_images);
}

/* ---- MatMul ---- */

/* Both factors count 1, 2, 3, ...; shapes as in NumPy. */
Test(ops_matmul, ranks)
{
    static const float ab[24] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                                 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24};
    const struct {
        struct cvd_shape a, b, y;
        float want[12];
    } cases[] = {
        {OP_SHAPE(3), OP_SHAPE(3), OP_SCALAR, {14}},
        {OP_SHAPE(2, 3), OP_SHAPE(3), OP_SHAPE(2), {14, 32}},
        {OP_SHAPE(2), OP_SHAPE(2, 3), OP_SHAPE(3), {9, 12, 15}},
        {OP_SHAPE(2, 3), OP_SHAPE(3, 2), OP_SHAPE(2, 2), {22, 28, 49, 64}},
        {OP_SHAPE(2, 1, 3), OP_SHAPE(3, 2), OP_SHAPE(2, 1, 2), {22, 28, 49, 64}},
        {OP_SHAPE(1, 3), OP_SHAPE(2, 3, 1), OP_SHAPE(2, 1, 1), {14, 32}},
        {OP_SHAPE(2, 1, 2), OP_SHAPE(2, 2, 1), OP_SHAPE(2, 1, 1), {5, 25}},
        {OP_SHAPE(2, 1, 1, 2), OP_SHAPE(3, 2, 1), OP_SHAPE(2, 3, 1, 1), {5, 11, 17, 11, 25, 39}},
        {OP_SHAPE(2), OP_SHAPE(3, 2, 2), OP_SHAPE(3, 2), {7, 10, 19, 22, 31, 34}},
        {OP_SHAPE(2, 1, 2), OP_SHAPE(2), OP_SHAPE(2, 1), {5, 11}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int constant = 0; constant < 2; constant++) {
            const struct op_case c = {
                .op = "MatMul",
                .opset = 13,
                OP_INPUTS(FLOAT_INPUT(cases[i].a, ab),
                          {CVD_DTYPE_FLOAT32, cases[i].b, ab, constant == 1}),
            };
            op_expect_floats(&c, cases[i].y, cases[i].want, 0);
        }
}

Test(ops_matmul, same_for_any_batch)
{
    const struct op_arg b = FLOAT_WEIGHTS(OP_SHAPE(700, 90), op_random(63000, 2));
    for (int level = CVD_CPU_C; level < CVD_CPU_COUNT; level++) {
        if (!cvd_cpu_supported((enum cvd_cpu)level))
            continue;
        const struct op_case dense = {
            .op = "Gemm",
            .opset = 13,
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(37, 700), op_random(37 * 700, 1)), b,
                      FLOAT_WEIGHTS(OP_SHAPE(90), op_random(90, 3))),
            .level = (enum cvd_cpu)level,
        };
        op_expect_same_for_any_batch(&dense);
        const struct op_case sequence = {
            .op = "MatMul",
            .opset = 13,
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(5, 7, 700), op_random(35 * 700, 1)), b),
            .level = (enum cvd_cpu)level,
        };
        op_expect_same_for_any_batch(&sequence);
    }
}

/* ---- refusals ---- */

Test(ops_matmul, refusals)
{
    const struct {
        const char *op;
        int opset;
        struct op_arg in[3];
        enum cvd_status status;
        const char *fragment;
    } cases[] = {
        {"Gemm",
         11,
         {FLOAT_INPUT(OP_SHAPE(2, 3, 4), NULL), FLOAT_INPUT(OP_SHAPE(4, 5), NULL), ABSENT_INPUT},
         CVD_STATUS_INVALID_MODEL,
         "A has 3 dimensions and B has 2"},
        {"Gemm",
         11,
         {FLOAT_INPUT(OP_SHAPE(2, 3), NULL), FLOAT_INPUT(OP_SHAPE(4, 5), NULL), ABSENT_INPUT},
         CVD_STATUS_INVALID_MODEL,
         "A has 3 columns but B has 4 rows"},
        {"Gemm",
         11,
         {FLOAT_INPUT(OP_SHAPE(2, 4), NULL), FLOAT_INPUT(OP_SHAPE(4, 5), NULL),
          FLOAT_INPUT(OP_SHAPE(2), NULL)},
         CVD_STATUS_INVALID_MODEL,
         "C is [2], which does not broadcast to the product's [2,5]"},
        {"Gemm",
         11,
         {FLOAT_INPUT(OP_SHAPE(1, 4), NULL), FLOAT_INPUT(OP_SHAPE(4, 5), NULL),
          FLOAT_INPUT(OP_SHAPE(3, 5), NULL)},
         CVD_STATUS_INVALID_MODEL,
         "C is [3,5]"},
        {"Gemm",
         6,
         {FLOAT_INPUT(OP_SHAPE(2, 4), NULL), FLOAT_INPUT(OP_SHAPE(4, 5), NULL),
          FLOAT_INPUT(OP_SHAPE(5), NULL)},
         CVD_STATUS_INVALID_MODEL,
         "C is [5], which does not have"},
        {"Gemm",
         11,
         {{CVD_DTYPE_INT32, OP_SHAPE(2, 4), NULL, false},
          FLOAT_INPUT(OP_SHAPE(4, 5), NULL),
          ABSENT_INPUT},
         CVD_STATUS_UNSUPPORTED,
         "int32, which is not implemented"},
        {"MatMul",
         13,
         {FLOAT_INPUT(OP_SHAPE(2, 3), NULL), FLOAT_INPUT(OP_SHAPE(4, 5), NULL), ABSENT_INPUT},
         CVD_STATUS_INVALID_MODEL,
         "[2,3] and [4,5] cannot be multiplied"},
        {"MatMul",
         13,
         {FLOAT_INPUT(OP_SHAPE(2, 2, 3), NULL), FLOAT_INPUT(OP_SHAPE(3, 3, 5), NULL), ABSENT_INPUT},
         CVD_STATUS_INVALID_MODEL,
         "cannot be multiplied"},
        {"MatMul",
         13,
         {FLOAT_INPUT(OP_SHAPE(2, 2), NULL), FLOAT_INPUT(OP_SCALAR, NULL), ABSENT_INPUT},
         CVD_STATUS_INVALID_MODEL,
         "input 1 is a scalar"},
        {"MatMul",
         13,
         {FLOAT_INPUT(OP_SHAPE(1ll << 31, 1), NULL), FLOAT_INPUT(OP_SHAPE(1, 1ll << 32), NULL),
          ABSENT_INPUT},
         CVD_STATUS_UNSUPPORTED,
         "does not fit in memory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {.op = cases[i].op,
                                  .opset = cases[i].opset,
                                  .in = cases[i].in,
                                  .in_count = cases[i].in[2].dtype == CVD_DTYPE_NONE ? 2 : 3};
        op_expect_failure(&c, cases[i].status, cases[i].fragment);
    }
}

/* Operator set 6 wants to be told that C broadcasts. */
Test(ops_matmul, old_gemm)
{
    const struct op_case c = {
        .op = "Gemm",
        .opset = 6,
        OP_ATTRS(ATTR_INT("broadcast", 1)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 2), OP_FLOATS_OF(1, 2)),
                  FLOAT_INPUT(OP_SHAPE(2, 2), OP_FLOATS_OF(1, 2, 3, 4)),
                  FLOAT_INPUT(OP_SHAPE(2), OP_FLOATS_OF(10, 20))),
    };
    op_expect_floats(&c, OP_SHAPE(1, 2), OP_FLOATS_OF(17, 30), 0);
}

/* Packing pads B to whole panels; it must not multiply a matrix of few columns. */
Test(ops_matmul, narrow_weights_stay_as_they_are)
{
    enum { K = 3000 };
    const float *a = op_random(4 * K, 1), *b = op_random(K, 2);
    const struct op_case c = {
        .op = "MatMul",
        .opset = 13,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(4, K), a), FLOAT_WEIGHTS(OP_SHAPE(K, 1), b)),
    };
    const struct op_result r = op_case_run(&c);
    cr_assert_eq(r.status, CVD_STATUS_OK, "%s", r.error.message);
    cr_assert_lt(r.prepared.state_bytes, 1000);
    cr_assert_eq(r.prepared.inputs_consumed, 0);
    cr_assert_not(r.prepared.mixes_images);
    for (size_t i = 0; i < 4; i++) {
        double sum = 0;
        for (size_t k = 0; k < K; k++)
            sum += (double)a[i * K + k] * (double)b[k];
        cr_assert_float_eq(((const float *)r.out[0].data)[i], sum, 1e-3);
    }
}
