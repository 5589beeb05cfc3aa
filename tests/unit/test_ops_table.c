/* The operator table: versions, well-formed rows, attributes, broadcasting and axes. */
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <string.h>

static const struct op_def *const families[] = {
    ops_conv,  ops_pool,    ops_global_pool, ops_activation, ops_clip,     ops_softmax, ops_matmul,
    ops_arith, ops_pow,     ops_norm,        ops_shape,      ops_constant, ops_layout,  ops_cast,
    ops_slice, ops_repeat,  ops_depth,       ops_pad,        ops_gather,   ops_fill,    ops_reduce,
    ops_order, ops_compare, ops_where,       ops_normalize,  ops_lrn,
};
#define FAMILIES (sizeof families / sizeof *families)

Test(ops_table, rows_are_complete)
{
    for (size_t f = 0; f < FAMILIES; f++)
        for (const struct op_def *d = families[f]; d->name; d++) {
            cr_expect_not_null(d->domain, "%s", d->name);
            cr_expect_not_null(d->infer, "%s", d->name);
            cr_expect_not_null(d->prepare, "%s", d->name);
            cr_expect(d->run || (d->flags & OP_VIEW), "%s", d->name);
            cr_expect(d->since >= 1 && (d->until == 0 || d->until >= d->since), "%s", d->name);
            cr_expect(d->min_inputs <= d->max_inputs && d->max_inputs <= OP_MAX_INPUTS, "%s",
                      d->name);
            cr_expect(d->min_outputs == 1 && d->max_outputs >= 1, "%s", d->name);
        }
}

/* No opset finds two rows, and the rows of a name leave no gap. */
Test(ops_table, versions_do_not_overlap)
{
    for (size_t f = 0; f < FAMILIES; f++)
        for (const struct op_def *d = families[f]; d->name; d++) {
            bool known;
            cr_expect_eq(op_find("", d->name, d->since, &known), d, "%s %d", d->name, d->since);
            const int last = d->until ? d->until : 1000;
            cr_expect_eq(op_find("", d->name, last, &known), d, "%s %d", d->name, last);
            if (d->until)
                cr_expect_not_null(op_find("", d->name, d->until + 1, &known), "%s", d->name);
        }
}

Test(ops_table, finding)
{
    bool known;
    cr_expect_not_null(op_find("", "Conv", 6, &known));
    cr_expect(known);
    cr_expect_eq(op_find("ai.onnx", "Conv", 22, &known), op_find("", "Conv", 6, &known));
    cr_expect_null(op_find("", "Gelu", 19, &known));
    cr_expect(known, "Gelu exists from 20 on");
    cr_expect_null(op_find("", "Convolve", 13, &known));
    cr_expect_not(known);
    cr_expect_null(op_find("com.example", "Conv", 13, &known));
    cr_expect_not(known);
    cr_expect_neq(op_find("", "Softmax", 12, &known), op_find("", "Softmax", 13, &known));
}

Test(ops_table, messages_name_the_node)
{
    struct cvd_error err;
    const struct op_def def = {.name = "Conv"};
    const struct op_node node = {.def = &def, .name = "layer3/conv1", .err = &err};
    cr_expect_eq(op_fail(&node, CVD_STATUS_UNSUPPORTED, "group %d does not divide %d", 3, 64),
                 CVD_STATUS_UNSUPPORTED);
    cr_expect_str_eq(err.message, "Conv 'layer3/conv1': group 3 does not divide 64");
    cr_expect_eq(err.status, CVD_STATUS_UNSUPPORTED);
}

Test(ops_table, attributes)
{
    struct cvd_error err;
    const struct op_def def = {.name = "Op"};
    const struct op_attr attrs[] = {ATTR_INT("i", 7), ATTR_FLOAT("f", 0.5f),
                                    ATTR_STRING("s", "text"), ATTR_INTS("list", 1, 2, 3)};
    const struct op_node node = {
        .def = &def, .name = "", .attrs = attrs, .attr_count = 4, .err = &err};
    int64_t i;
    float f;
    const char *s;
    const int64_t *list;
    size_t count;
    cr_assert_eq(op_attr_int(&node, "i", 1, &i), CVD_STATUS_OK);
    cr_expect_eq(i, 7);
    cr_assert_eq(op_attr_int(&node, "absent", 1, &i), CVD_STATUS_OK);
    cr_expect_eq(i, 1);
    cr_assert_eq(op_attr_float(&node, "f", 1, &f), CVD_STATUS_OK);
    cr_expect_eq(f, 0.5f);
    cr_assert_eq(op_attr_float(&node, "absent", 2, &f), CVD_STATUS_OK);
    cr_expect_eq(f, 2);
    cr_assert_eq(op_attr_string(&node, "s", "no", &s), CVD_STATUS_OK);
    cr_expect_str_eq(s, "text");
    cr_assert_eq(op_attr_ints(&node, "list", &list, &count), CVD_STATUS_OK);
    cr_expect(count == 3 && list[2] == 3);
    cr_assert_eq(op_attr_ints(&node, "absent", &list, &count), CVD_STATUS_OK);
    cr_expect(count == 0 && list == NULL);
    cr_expect_eq(op_attr_int(&node, "f", 1, &i), CVD_STATUS_INVALID_MODEL);
    cr_expect_eq(op_attr_float(&node, "i", 1, &f), CVD_STATUS_INVALID_MODEL);
    cr_expect_eq(op_attr_string(&node, "list", "", &s), CVD_STATUS_INVALID_MODEL);
    cr_expect_eq(op_attr_ints(&node, "s", &list, &count), CVD_STATUS_INVALID_MODEL);
}

Test(ops_table, broadcasting)
{
    const struct {
        struct cvd_shape a, b, y;
        bool fits;
    } cases[] = {
        {OP_SCALAR, OP_SCALAR, OP_SCALAR, true},
        {OP_SHAPE(2, 3), OP_SCALAR, OP_SHAPE(2, 3), true},
        {OP_SHAPE(2, 1), OP_SHAPE(3), OP_SHAPE(2, 3), true},
        {OP_SHAPE(1, 0), OP_SHAPE(5, 1), OP_SHAPE(5, 0), true},
        {OP_SHAPE(2, 3), OP_SHAPE(2), OP_SCALAR, false},
        {OP_SHAPE(2, 0), OP_SHAPE(2, 2), OP_SCALAR, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cvd_shape y;
        cr_assert_eq(op_broadcast(&cases[i].a, &cases[i].b, &y), cases[i].fits);
        cr_expect(!cases[i].fits || cvd_shape_equal(&y, &cases[i].y));
        cr_assert_eq(op_broadcast(&cases[i].b, &cases[i].a, &y), cases[i].fits);
        cr_expect(!cases[i].fits || cvd_shape_equal(&y, &cases[i].y));
    }
}

Test(ops_table, axes)
{
    unsigned axis;
    cr_expect(op_axis(-3, 3, &axis) && axis == 0);
    cr_expect(op_axis(2, 3, &axis) && axis == 2);
    cr_expect_not(op_axis(3, 3, &axis));
    cr_expect_not(op_axis(-4, 3, &axis));
    cr_expect_not(op_axis(0, 0, &axis));
    cr_expect_not(op_axis(INT64_MIN, 3, &axis));
}
