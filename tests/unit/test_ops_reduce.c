/* Reductions, ArgMax, ArgMin and TopK. */
#include "tests/support/data.h"
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static const float cells[24] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23};

static const char *const reductions[] = {
    "ReduceSum", "ReduceMean", "ReduceProd",      "ReduceMax",    "ReduceMin",
    "ReduceL1",  "ReduceL2",   "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"};
enum { SUM, MEAN, PROD, MAX, MIN, L1, L2, SUM_SQUARE, LOG_SUM, LOG_SUM_EXP, REDUCTIONS };

/* Straight from the definitions, over n numbers. */
static double naive(int op, const double *v, size_t n)
{
    double sum = 0, product = 1, max = -HUGE_VAL, min = HUGE_VAL, norm = 0, squares = 0, exps = 0;
    for (size_t i = 0; i < n; i++) {
        sum += v[i];
        product *= v[i];
        max = fmax(max, v[i]);
        min = fmin(min, v[i]);
        norm += fabs(v[i]);
        squares += v[i] * v[i];
        exps += exp(v[i]);
    }
    const double results[REDUCTIONS] = {[SUM] = sum,          [MEAN] = sum / (double)n,
                                        [PROD] = product,     [MAX] = max,
                                        [MIN] = min,          [L1] = norm,
                                        [L2] = sqrt(squares), [SUM_SQUARE] = squares,
                                        [LOG_SUM] = log(sum), [LOG_SUM_EXP] = log(exps)};
    return results[op];
}

/* Every reduction over every set of the dimensions of [2, 3, 4, 5]. */
Test(ops_reduce, all_axes)
{
    const int64_t extents[] = {2, 3, 4, 5};
    float *x = op_random(120, 5);
    for (size_t i = 0; i < 120; i++)
        x[i] = x[i] * 0.5f + 1; /* positive, for the logarithm */
    for (int op = 0; op < REDUCTIONS; op++)
        for (unsigned set = 1; set < 16; set++) {
            struct cvd_shape kept = {.rank = 4}, dropped = {0};
            int64_t axes[4], count = 0;
            for (unsigned d = 0; d < 4; d++) {
                if (set >> d & 1)
                    axes[count++] = d % 2 ? (int64_t)d - 4 : d;
                else
                    dropped.dims[dropped.rank++] = extents[d];
                kept.dims[d] = set >> d & 1 ? 1 : extents[d];
            }
            double parts[120][120];
            size_t filled[120] = {0};
            for (size_t i = 0; i < 120; i++) {
                const size_t at[] = {i / 60, i / 20 % 3, i / 5 % 4, i % 5};
                size_t to = 0;
                for (unsigned d = 0; d < 4; d++)
                    to = set >> d & 1 ? to : to * (size_t)extents[d] + at[d];
                parts[to][filled[to]++] = (double)x[i];
            }
            float want[120];
            for (size_t i = 0; i < 120 && filled[i] > 0; i++)
                want[i] = (float)naive(op, parts[i], filled[i]);
            const struct op_attr attrs[] = {
                {.name = "axes", .type = OP_ATTR_INTS, .ints = axes, .count = (size_t)count},
                ATTR_INT("keepdims", 0)};
            const struct op_case old = {.op = reductions[op],
                                        .opset = 11,
                                        .attrs = attrs,
                                        .attr_count = 2,
                                        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3, 4, 5), x))};
            op_expect_floats(&old, dropped, want, fabs((double)want[0]) * 1e-5);
            const struct op_case new = {.op = reductions[op],
                                        .opset = 20,
                                        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3, 4, 5), x),
                                                  {CVD_DTYPE_INT64, OP_SHAPE(count), axes, true})};
            op_expect_floats(&new, kept, want, fabs((double)want[0]) * 1e-5);
            cr_expect_eq(op_case_run(&new).prepared.mixes_images, set & 1);
        }
}

/* No axes: all dimensions or, when asked for, none: each element is then reduced by itself. */
Test(ops_reduce, no_axes)
{
    const float x[] = {-1, 2, -3};
    const struct op_arg empty = {CVD_DTYPE_INT64, OP_SHAPE(0), x, true};
    for (int form = 0; form < 3; form++) {
        const struct op_arg in[] = {FLOAT_INPUT(OP_SHAPE(3, 1), x), empty};
        const struct op_attr noop = ATTR_INT("noop_with_empty_axes", form == 2);
        const struct op_case c = {.op = "ReduceL1",
                                  .opset = 18,
                                  .attrs = &noop,
                                  .attr_count = 1,
                                  .in = in,
                                  .in_count = form == 0 ? 1 : 2};
        if (form == 2)
            op_expect_floats(&c, OP_SHAPE(3, 1), OP_FLOATS_OF(1, 2, 3), 0);
        else
            op_expect_floats(&c, OP_SHAPE(1, 1), OP_FLOATS_OF(6), 0);
    }
    const struct op_case scalar = {
        .op = "ReduceSum", .opset = 13, OP_INPUTS(FLOAT_INPUT(OP_SCALAR, x))};
    op_expect_floats(&scalar, OP_SCALAR, x, 0);
    /* Before there was an input the attribute's name meant nothing. */
    const struct op_case old = {.op = "ReduceMean",
                                .opset = 13,
                                OP_ATTRS(ATTR_INT("noop_with_empty_axes", 1)),
                                OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3), x))};
    op_expect_floats(&old, OP_SHAPE(1), OP_FLOATS_OF(-2 / 3.0f), 1e-7);
}

Test(ops_reduce, nothing_to_reduce)
{
    const float want[REDUCTIONS] = {[SUM] = 0,
                                    [MEAN] = NAN,
                                    [PROD] = 1,
                                    [MAX] = -INFINITY,
                                    [MIN] = INFINITY,
                                    [L1] = 0,
                                    [L2] = 0,
                                    [SUM_SQUARE] = 0,
                                    [LOG_SUM] = -INFINITY,
                                    [LOG_SUM_EXP] = -INFINITY};
    for (int op = 0; op < REDUCTIONS; op++) {
        const float twice[] = {want[op], want[op]};
        const struct op_case c = {.op = reductions[op],
                                  .opset = 20,
                                  OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 0, 4), cells), INT_LIST(1, 2))};
        op_expect_floats(&c, OP_SHAPE(2, 1, 1), twice, 0);
        const struct op_case other = {
            .op = reductions[op],
            .opset = 20,
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 0, 4), cells), INT_LIST(2))};
        op_expect_floats(&other, OP_SHAPE(2, 0, 1), twice, 0);
    }
    const struct op_case least = {
        .op = "ReduceMax",
        .opset = 20,
        OP_INPUTS({CVD_DTYPE_INT32, OP_SHAPE(0), cells, false}, INT_LIST(0))};
    op_expect_exact(&least, 0, CVD_DTYPE_INT32, OP_SHAPE(1), (const int32_t[]){INT32_MIN});
    const struct op_case all = {
        .op = "ReduceMin",
        .opset = 20,
        OP_INPUTS({CVD_DTYPE_BOOL, OP_SHAPE(0), cells, false}, INT_LIST(0))};
    op_expect_exact(&all, 0, CVD_DTYPE_BOOL, OP_SHAPE(1), (const uint8_t[]){1});
}

Test(ops_reduce, integers)
{
    const int32_t x[] = {3, -4, 2, -1};
    const int32_t want[REDUCTIONS] = {[SUM] = 0,        [MEAN] = 0,        [PROD] = 24,
                                      [MAX] = 3,        [MIN] = -4,        [L1] = 10,
                                      [L2] = 5,         [SUM_SQUARE] = 30, [LOG_SUM] = INT32_MIN,
                                      [LOG_SUM_EXP] = 3};
    for (int op = 0; op < REDUCTIONS; op++) {
        const struct op_case c = {
            .op = reductions[op], .opset = 18, OP_INPUTS({CVD_DTYPE_INT32, OP_SHAPE(4), x, false})};
        op_expect_exact(&c, 0, CVD_DTYPE_INT32, OP_SHAPE(1), &want[op]);
    }
    /* Means are cut towards zero, sums wrap around. */
    const int64_t y[] = {-3, -4, INT64_MAX, 1};
    const struct op_case mean = {
        .op = "ReduceMean", .opset = 18, OP_INPUTS({CVD_DTYPE_INT64, OP_SHAPE(2), y, false})};
    op_expect_exact(&mean, 0, CVD_DTYPE_INT64, OP_SHAPE(1), (const int64_t[]){-3});
    const struct op_case sum = {
        .op = "ReduceSum", .opset = 13, OP_INPUTS({CVD_DTYPE_INT64, OP_SHAPE(2), y + 2, false})};
    op_expect_exact(&sum, 0, CVD_DTYPE_INT64, OP_SHAPE(1), (const int64_t[]){INT64_MIN});
    const uint8_t bytes[] = {200, 7, 13, 1};
    const struct op_case small = {.op = "ReduceMax",
                                  .opset = 12,
                                  OP_ATTRS(ATTR_INTS("axes", 1)),
                                  OP_INPUTS({CVD_DTYPE_UINT8, OP_SHAPE(2, 2), bytes, false})};
    op_expect_exact(&small, 0, CVD_DTYPE_UINT8, OP_SHAPE(2, 1), (const uint8_t[]){200, 13});
    const uint8_t truths[] = {0, 1, 0, 0};
    const struct op_case any = {
        .op = "ReduceMax",
        .opset = 20,
        OP_INPUTS({CVD_DTYPE_BOOL, OP_SHAPE(2, 2), truths, false}, INT_LIST(1))};
    op_expect_exact(&any, 0, CVD_DTYPE_BOOL, OP_SHAPE(2, 1), (const uint8_t[]){1, 0});
}

Test(ops_reduce, extremes)
{
    const float x[] = {1, NAN, 3, INFINITY, -INFINITY, 1};
    const struct op_case max = {
        .op = "ReduceMax", .opset = 18, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3), x), INT_LIST(1))};
    op_expect_floats(&max, OP_SHAPE(2, 1), OP_FLOATS_OF(NAN, INFINITY), 0);
    const struct op_case min = {
        .op = "ReduceMin", .opset = 18, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3), x), INT_LIST(1))};
    op_expect_floats(&min, OP_SHAPE(2, 1), OP_FLOATS_OF(NAN, -INFINITY), 0);
    /* The exponentials of these would overflow or vanish. */
    const float wide[] = {1000, 1000, -1000, -1000};
    const struct op_case sum = {.op = "ReduceLogSumExp",
                                .opset = 18,
                                OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 2), wide), INT_LIST(1))};
    op_expect_floats(&sum, OP_SHAPE(2, 1), OP_FLOATS_OF(1000 + 0.69314718f, -1000 + 0.69314718f),
                     1e-4);
}

/* Bit for bit, also where the images are not the outermost dimension of what is summed. */
Test(ops_reduce, same_for_any_batch)
{
    for (int op = 0; op < REDUCTIONS; op++)
        for (int64_t axis = 1; axis < 4; axis++) {
            float *x = op_random(3 * 13 * 17 * 29, 6);
            const struct op_case c = {
                .op = reductions[op],
                .opset = 18,
                OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 13, 17, 29), x), INT_LIST(axis))};
            op_expect_same_for_any_batch(&c);
        }
    const float *x = op_random(7 * 3 * 11, 7);
    const struct op_case three = {.op = "ReduceSum",
                                  .opset = 13,
                                  OP_INPUTS(FLOAT_INPUT(OP_SHAPE(7, 3, 11), x), INT_LIST(0, 2))};
    const float *together = op_case_run(&three).out[0].data;
    for (size_t n = 0; n < 3; n++) {
        float alone[7 * 11];
        for (size_t i = 0; i < 7; i++)
            memcpy(alone + i * 11, x + (i * 3 + n) * 11, 11 * sizeof *x);
        const struct op_case one = {
            .op = "ReduceSum",
            .opset = 13,
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(7, 1, 11), alone), INT_LIST(0, 2))};
        op_expect_exact(&one, 0, CVD_DTYPE_FLOAT32, OP_SHAPE(1, 1, 1), together + n);
    }
}

/* ---- ArgMax and ArgMin ---- */

Test(ops_reduce, arg)
{
    const float x[] = {1, 3, 3, 2, 0, 0};
    const struct {
        const char *op;
        int64_t axis, last;
        struct cvd_shape shape;
        int64_t want[3];
    } cases[] = {
        {"ArgMax", 0, 0, OP_SHAPE(1, 3), {1, 0, 0}}, {"ArgMax", -1, 0, OP_SHAPE(2, 1), {1, 0}},
        {"ArgMax", 1, 1, OP_SHAPE(2, 1), {2, 0}},    {"ArgMin", 1, 0, OP_SHAPE(2, 1), {0, 1}},
        {"ArgMin", 1, 1, OP_SHAPE(2, 1), {0, 2}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct op_case c = {
            .op = cases[i].op,
            .opset = 13,
            OP_ATTRS(ATTR_INT("axis", cases[i].axis), ATTR_INT("select_last_index", cases[i].last)),
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3), x))};
        op_expect_exact(&c, 0, CVD_DTYPE_INT64, cases[i].shape, cases[i].want);
        cr_expect_eq(op_case_run(&c).prepared.mixes_images, cases[i].axis == 0);
    }
    const struct op_case dropped = {.op = "ArgMax",
                                    .opset = 11,
                                    OP_ATTRS(ATTR_INT("axis", 1), ATTR_INT("keepdims", 0)),
                                    OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 3, 2), x))};
    op_expect_exact(&dropped, 0, CVD_DTYPE_INT64, OP_SHAPE(1, 2), (const int64_t[]){1, 0});
    const float odd[] = {1, NAN, NAN, 5};
    for (int smallest = 0; smallest < 2; smallest++) {
        const struct op_case nan = {.op = smallest ? "ArgMin" : "ArgMax",
                                    .opset = 13,
                                    OP_INPUTS(FLOAT_INPUT(OP_SHAPE(4), odd))};
        op_expect_exact(&nan, 0, CVD_DTYPE_INT64, OP_SHAPE(1), (const int64_t[]){1});
    }
    const int8_t bytes[] = {-128, 127, 0};
    const struct op_case small = {
        .op = "ArgMin", .opset = 13, OP_INPUTS({CVD_DTYPE_INT8, OP_SHAPE(3), bytes, false})};
    op_expect_exact(&small, 0, CVD_DTYPE_INT64, OP_SHAPE(1), (const int64_t[]){0});
}

/* ---- TopK ---- */

/* Insertion sort of the indices along one dimension, for every k; few values, so many are equal. */
Test(ops_reduce, top_k)
{
    enum { OUTER = 3, N = 11, INNER = 4, TOTAL = OUTER * N * INNER };
    const float *random = op_random(TOTAL, 8);
    for (int kind = 0; kind < 4; kind++) {
        const bool smallest = kind & 1, whole = kind & 2;
        float x[TOTAL];
        int64_t integers[TOTAL];
        for (size_t i = 0; i < TOTAL; i++) {
            x[i] = floorf(random[i] * 4);
            integers[i] = (int64_t)x[i];
        }
        for (int64_t k = 0; k <= N; k++) {
            float values[TOTAL];
            int64_t picks[TOTAL], whole_values[TOTAL];
            for (size_t line = 0; line < OUTER * INNER; line++) {
                const float *start = x + line / INNER * N * INNER + line % INNER;
                size_t order[N];
                for (size_t i = 0; i < N; i++) {
                    size_t at = i;
                    for (; at > 0; at--) {
                        const float u = start[i * INNER], v = start[order[at - 1] * INNER];
                        if (smallest ? u >= v : u <= v)
                            break;
                        order[at] = order[at - 1];
                    }
                    order[at] = i;
                }
                for (size_t i = 0; i < (size_t)k; i++) {
                    const size_t to = (line / INNER * (size_t)k + i) * INNER + line % INNER;
                    values[to] = start[order[i] * INNER];
                    whole_values[to] = (int64_t)values[to];
                    picks[to] = (int64_t)order[i];
                }
            }
            const struct op_case c = {
                .op = "TopK",
                .opset = 11,
                .out_count = 2,
                OP_ATTRS(ATTR_INT("axis", 1), ATTR_INT("largest", !smallest)),
                OP_INPUTS({whole ? CVD_DTYPE_INT64 : CVD_DTYPE_FLOAT32, OP_SHAPE(OUTER, N, INNER),
                           whole ? (const void *)integers : x, false},
                          INT_LIST(k))};
            const struct cvd_shape shape = OP_SHAPE(OUTER, k, INNER);
            op_expect_exact(&c, 0, whole ? CVD_DTYPE_INT64 : CVD_DTYPE_FLOAT32, shape,
                            whole ? (const void *)whole_values : values);
            op_expect_exact(&c, 1, CVD_DTYPE_INT64, shape, picks);
        }
    }
}

Test(ops_reduce, top_k_versions)
{
    const float x[] = {2, NAN, 5, 1};
    const struct op_case attribute = {.op = "TopK",
                                      .opset = 9,
                                      .out_count = 2,
                                      OP_ATTRS(ATTR_INT("k", 2)),
                                      OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 4), x))};
    op_expect_floats(&attribute, OP_SHAPE(1, 2), OP_FLOATS_OF(NAN, 5), 0);
    op_expect_exact(&attribute, 1, CVD_DTYPE_INT64, OP_SHAPE(1, 2), (const int64_t[]){1, 2});
    const struct op_case smallest = {.op = "TopK",
                                     .opset = 11,
                                     OP_ATTRS(ATTR_INT("largest", 0), ATTR_INT("sorted", 0)),
                                     OP_INPUTS(FLOAT_INPUT(OP_SHAPE(1, 4), x), INT_LIST(4))};
    op_expect_floats(&smallest, OP_SHAPE(1, 4), OP_FLOATS_OF(1, 2, 5, NAN), 0);
    const struct op_case classes = {
        .op = "TopK",
        .opset = 10,
        .out_count = 2,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(7, 1000), op_random(7000, 9)), INT_LIST(5))};
    op_expect_same_for_any_batch(&classes);
}

/* ---- errors ---- */

Test(ops_reduce, refuses_reducesum)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct op_arg later = {CVD_DTYPE_INT64, OP_SHAPE(1), cells, false};
    OP_REFUSES(UNSUPPORTED, "input 1 must be constant", .op = "ReduceSum", .opset = 13,
               OP_INPUTS(x, later));
    OP_REFUSES(INVALID_MODEL, "axes[0] is 2, outside 2 dimensions", .op = "ReduceSum", .opset = 13,
               OP_INPUTS(x, INT_LIST(2)));
}

Test(ops_reduce, refuses_reducemean)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    OP_REFUSES(INVALID_MODEL, "axes names dimension 0 twice", .op = "ReduceMean", .opset = 17,
               OP_ATTRS(ATTR_INTS("axes", 0, -2)), OP_INPUTS(x));
    OP_REFUSES(UNSUPPORTED, "axes has 9 numbers; at most 8", .op = "ReduceMean", .opset = 17,
               OP_ATTRS(ATTR_INTS("axes", 0, 1, 2, 3, 4, 5, 6, 7, 8)), OP_INPUTS(x));
    OP_REFUSES(INVALID_MODEL, "attribute keepdims has type", .op = "ReduceMean", .opset = 17,
               OP_ATTRS(ATTR_FLOAT("keepdims", 1)), OP_INPUTS(x));
}

Test(ops_reduce, refuses_reducemax)
{
    const struct op_arg narrow = {CVD_DTYPE_UINT8, OP_SHAPE(2, 3), NULL, false};
    OP_REFUSES(INVALID_MODEL, "input 0 has type uint8", .op = "ReduceMax", .opset = 11,
               OP_INPUTS(narrow));
    OP_REFUSES(INVALID_MODEL, "input 0 has type bool", .op = "ReduceMax", .opset = 18,
               OP_INPUTS({CVD_DTYPE_BOOL, OP_SHAPE(2), NULL, false}));
}

Test(ops_reduce, refuses_reducel2)
{
    const struct op_arg wide = {CVD_DTYPE_FLOAT64, OP_SHAPE(2, 3), NULL, false};
    OP_REFUSES(UNSUPPORTED, "float64, which is not", .op = "ReduceL2", .opset = 18,
               OP_INPUTS(wide));
}

Test(ops_reduce, refuses_argmax)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct op_arg wide = {CVD_DTYPE_FLOAT64, OP_SHAPE(2, 3), NULL, false};
    const struct op_arg empty = FLOAT_INPUT(OP_SHAPE(0, 3), NULL);
    OP_REFUSES(INVALID_MODEL, "axis 2 is outside", .op = "ArgMax", .opset = 13,
               OP_ATTRS(ATTR_INT("axis", 2)), OP_INPUTS(x));
    OP_REFUSES(INVALID_MODEL, "dimension 0 is empty", .op = "ArgMax", .opset = 13,
               OP_INPUTS(empty));
    OP_REFUSES(UNSUPPORTED, "float64, which is not", .op = "ArgMax", .opset = 13, OP_INPUTS(wide));
}

Test(ops_reduce, refuses_topk)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct op_arg later = {CVD_DTYPE_INT64, OP_SHAPE(1), cells, false};
    OP_REFUSES(INVALID_MODEL, "k is 4; dimension 1 has 3 elements", .op = "TopK", .opset = 11,
               OP_INPUTS(x, INT_LIST(4)));
    OP_REFUSES(INVALID_MODEL, "k is -1", .op = "TopK", .opset = 11, OP_INPUTS(x, INT_LIST(-1)));
    OP_REFUSES(UNSUPPORTED, "at most 1", .op = "TopK", .opset = 11, OP_INPUTS(x, INT_LIST(1, 1)));
    OP_REFUSES(INVALID_MODEL, "k has 0 elements", .op = "TopK", .opset = 11,
               OP_INPUTS(x, {CVD_DTYPE_INT64, OP_SHAPE(0), cells, true}));
    OP_REFUSES(UNSUPPORTED, "input 1 must be constant", .op = "TopK", .opset = 11,
               OP_INPUTS(x, later));
    OP_REFUSES(INVALID_MODEL, "attribute k is missing", .op = "TopK", .opset = 9, OP_INPUTS(x));
    OP_REFUSES(INVALID_MODEL, "axis -3 is outside", .op = "TopK", .opset = 9,
               OP_ATTRS(ATTR_INT("axis", -3)), OP_INPUTS(x));
}
