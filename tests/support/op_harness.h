/*
 * Runs one operator the way a plan does: infer, prepare, run, release. Outputs and scratch stand
 * between guard bytes, and constants that prepare has packed are spoilt before the run, so that an
 * operator that writes too far or reads what it gave up is caught.
 */
#ifndef CONVD_TESTS_SUPPORT_OP_HARNESS_H
#define CONVD_TESTS_SUPPORT_OP_HARNESS_H

#include "engine/ops/op.h"

#define OP_HARNESS_OUTPUTS 4

struct op_arg {
    enum cvd_dtype dtype; /* NONE: this optional input is absent */
    struct cvd_shape shape;
    const void *data;
    bool constant; /* known at load */
};

struct op_case {
    const char *op;
    int opset;
    const struct op_attr *attrs;
    size_t attr_count;
    const struct op_arg *in;
    size_t in_count;
    size_t out_count;   /* 0 means 1 */
    enum cvd_cpu level; /* 0 (AUTO) means C */
    struct tpool *pool;
};

/* The outputs live as long as the test. */
struct op_result {
    enum cvd_status status;
    struct cvd_error error;
    struct op_tensor out[OP_HARNESS_OUTPUTS];
    struct op_prepared prepared; /* its numbers; the state is gone */
};

struct op_result op_case_infer(const struct op_case *c);
struct op_result op_case_run(const struct op_case *c);

/* The case runs and output 0 is `want` to within tolerance (absolute); NaN equals NaN. */
void op_expect_floats(const struct op_case *c, struct cvd_shape shape, const float *want,
                      double tolerance);

/* The case runs and output `index` has this type, shape and bytes. */
void op_expect_exact(const struct op_case *c, size_t index, enum cvd_dtype dtype,
                     struct cvd_shape shape, const void *want);

/* infer fails with this status and a message that names the operator and holds `fragment`. */
void op_expect_failure(const struct op_case *c, enum cvd_status status, const char *fragment);

/* The images of input 0 (dimension 0, at least 3) give the same bytes together and one by one, on
 * one thread and on four. Other inputs must not depend on the batch. */
void op_expect_same_for_any_batch(const struct op_case *c);

/* Uniform in [-1, 1), the same for the same seed. Lives as long as the test. */
float *op_random(size_t count, uint32_t seed);

#define OP_COUNT(type, ...) (sizeof((const type[]){__VA_ARGS__}) / sizeof(type))
#define OP_SHAPE(...)       ((struct cvd_shape){OP_COUNT(int64_t, __VA_ARGS__), {__VA_ARGS__}})
#define OP_SCALAR           ((struct cvd_shape){0})
#define OP_FLOATS_OF(...)   ((const float[]){__VA_ARGS__})

/* Members of struct op_case. */
#define OP_INPUTS(...) \
    .in = (const struct op_arg[]){__VA_ARGS__}, .in_count = OP_COUNT(struct op_arg, __VA_ARGS__)
#define OP_ATTRS(...)                               \
    .attrs = (const struct op_attr[]){__VA_ARGS__}, \
    .attr_count = OP_COUNT(struct op_attr, __VA_ARGS__)

/* The case with these members is refused by infer: OP_REFUSES(UNSUPPORTED, "must be constant",
 * .op = "Tile", …). */
#define OP_REFUSES(status, fragment, ...) \
    op_expect_failure(&(const struct op_case){__VA_ARGS__}, CVD_STATUS_##status, fragment)

#define ATTR_INT(n, v)                         \
    {                                          \
        .name = n, .type = OP_ATTR_INT, .i = v \
    }
#define ATTR_FLOAT(n, v)                         \
    {                                            \
        .name = n, .type = OP_ATTR_FLOAT, .f = v \
    }
#define ATTR_STRING(n, v)                         \
    {                                             \
        .name = n, .type = OP_ATTR_STRING, .s = v \
    }
#define ATTR_INTS(n, ...)                                                         \
    {                                                                             \
        .name = n, .type = OP_ATTR_INTS, .count = OP_COUNT(int64_t, __VA_ARGS__), \
        .ints = (const int64_t[])                                                 \
        {                                                                         \
            __VA_ARGS__                                                           \
        }                                                                         \
    }

#define FLOAT_INPUT(shape, data)              \
    {                                         \
        CVD_DTYPE_FLOAT32, shape, data, false \
    }
#define FLOAT_WEIGHTS(shape, data)           \
    {                                        \
        CVD_DTYPE_FLOAT32, shape, data, true \
    }
#define ABSENT_INPUT                           \
    {                                          \
        CVD_DTYPE_NONE, OP_SCALAR, NULL, false \
    }
/* A constant list of int64, such as a shape. */
#define INT_LIST(...)                                                                              \
    {                                                                                              \
        CVD_DTYPE_INT64, OP_SHAPE(OP_COUNT(int64_t, __VA_ARGS__)), (const int64_t[]){__VA_ARGS__}, \
            true                                                                                   \
    }

#endif
