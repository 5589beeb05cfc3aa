/* BatchNormalization: worked values, the old per-element form, training refused. */
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>

/* (x - mean) / sqrt(variance + epsilon) * scale + bias with variances that make it easy. */
static const float scale[] = {2, -1}, bias[] = {1, 0.5f}, mean[] = {3, -1},
                   variance[] = {3.75f, 0.75f};
static const float x[] = {3, 5, 1, -1, 0, 1};
static const float want[] = {1, 3, -1, 0.5f, -0.5f, -1.5f};

#define STATISTICS(shape)                                                                \
    FLOAT_WEIGHTS(shape, scale), FLOAT_WEIGHTS(shape, bias), FLOAT_WEIGHTS(shape, mean), \
        FLOAT_WEIGHTS(shape, variance)

Test(ops_norm, channels)
{
    const struct cvd_shape shapes[] = {OP_SHAPE(1, 2, 3), OP_SHAPE(1, 2, 3, 1),
                                       OP_SHAPE(1, 2, 1, 3, 1)};
    const int opsets[] = {6, 7, 9, 14, 15};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t j = 0; j < sizeof opsets / sizeof *opsets; j++) {
            const struct op_case c = {
                .op = "BatchNormalization",
                .opset = opsets[j],
                OP_ATTRS(ATTR_FLOAT("epsilon", 0.25f)),
                OP_INPUTS(FLOAT_INPUT(shapes[i], x), STATISTICS(OP_SHAPE(2))),
            };
            op_expect_floats(&c, shapes[i], want, 0);
        }
}

Test(ops_norm, rows)
{
    const float rows[] = {3, -1, 5, 0};
    const struct op_case c = {
        .op = "BatchNormalization",
        .opset = 14,
        OP_ATTRS(ATTR_FLOAT("epsilon", 0.25f)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 2), rows), STATISTICS(OP_SHAPE(2))),
    };
    op_expect_floats(&c, OP_SHAPE(2, 2), OP_FLOATS_OF(1, 0.5f, 3, -0.5f), 0);
}

/* spatial = 0: statistics for each of the two elements of an image. */
Test(ops_norm, elements)
{
    const float rows[] = {3, -1, 5, 0};
    const struct op_case c = {
        .op = "BatchNormalization",
        .opset = 7,
        OP_ATTRS(ATTR_FLOAT("epsilon", 0.25f), ATTR_INT("spatial", 0)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 1, 2), rows), STATISTICS(OP_SHAPE(1, 2))),
    };
    op_expect_floats(&c, OP_SHAPE(2, 1, 2), OP_FLOATS_OF(1, 0.5f, 3, -0.5f), 0);
}

Test(ops_norm, same_for_any_batch)
{
    const struct op_case c = {
        .op = "BatchNormalization",
        .opset = 15,
        OP_ATTRS(ATTR_FLOAT("epsilon", 2)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(5, 2, 99), op_random(990, 1)), STATISTICS(OP_SHAPE(2))),
    };
    op_expect_same_for_any_batch(&c);
}

Test(ops_norm, refusals)
{
    const struct {
        int opset;
        struct op_attr attr;
        size_t outputs;
        struct cvd_shape x;
        enum cvd_status status;
        const char *fragment;
    } cases[] = {
        {14, ATTR_INT("training_mode", 1), 1, OP_SHAPE(1, 2, 3), CVD_STATUS_UNSUPPORTED,
         "training_mode 1"},
        {9, ATTR_FLOAT("epsilon", 0), 3, OP_SHAPE(1, 2, 3), CVD_STATUS_UNSUPPORTED, "3 outputs"},
        {9, ATTR_FLOAT("epsilon", 0), 1, OP_SHAPE(1, 3, 3), CVD_STATUS_INVALID_MODEL,
         "input 1 has 2 elements; it must have 3"},
        {7, ATTR_INT("spatial", 0), 1, OP_SHAPE(1, 2, 3), CVD_STATUS_INVALID_MODEL,
         "it must have 6"},
        {9, ATTR_FLOAT("epsilon", 0), 1, OP_SCALAR, CVD_STATUS_INVALID_MODEL, "scalar"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_case c = {
            .op = "BatchNormalization",
            .opset = cases[i].opset,
            .attrs = &cases[i].attr,
            .attr_count = 1,
            OP_INPUTS(FLOAT_INPUT(cases[i].x, NULL), STATISTICS(OP_SHAPE(2))),
            .out_count = cases[i].outputs,
        };
        op_expect_failure(&c, cases[i].status, cases[i].fragment);
    }
}
