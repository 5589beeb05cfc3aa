/* Plans: what is folded, dropped, shared and refused. */
#include "engine/graph/plan.h"

#include "engine/graph/build.h"
#include "tests/support/net.h"

#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

static const struct kernels *kernels(void)
{
    static struct kernels k;
    kernels_init(&k, CVD_CPU_C);
    return &k;
}

static enum cvd_status build_with(struct graph *g, const struct cvd_load_options *options,
                                  struct plan **out, struct cvd_error *err)
{
    enum cvd_status status = graph_check(g, err);
    if (status == CVD_STATUS_OK)
        status = plan_build(g, kernels(), options, NULL, out, err);
    graph_release(g);
    return status;
}

static struct plan *build(struct graph *g)
{
    struct plan *plan = NULL;
    struct cvd_error err = {0};
    cr_assert_eq(build_with(g, NULL, &plan, &err), CVD_STATUS_OK, "%s", err.message);
    return plan;
}

/* Without passes: one step for each node that runs. */
static struct plan *build_as_written(struct graph *g)
{
    const struct cvd_load_options options = {.as_written = true};
    struct plan *plan = NULL;
    struct cvd_error err = {0};
    cr_assert_eq(build_with(g, &options, &plan, &err), CVD_STATUS_OK, "%s", err.message);
    return plan;
}

/* The graph is refused, with a message that contains `part`. */
static void refused(struct graph *g, enum cvd_status expected, const char *part)
{
    struct plan *plan = NULL;
    struct cvd_error err = {0};
    enum cvd_status status = build_with(g, NULL, &plan, &err);
    cr_assert_eq(status, expected, "status %s: %s", cvd_status_name(status), err.message);
    cr_assert_eq(err.status, expected);
    cr_assert_not_null(strstr(err.message, part), "message: %s", err.message);
    cr_assert_null(plan);
}

static const struct plan_value *output(const struct plan *plan, uint32_t i)
{
    return &plan->values[plan->outputs[i]];
}

/* ---- what becomes of nodes ---- */

Test(plan, lenet)
{
    struct graph g;
    net_lenet(&g, 1, false);
    struct plan *plan = build(&g);
    static const char *const labels[] = {"Conv+Relu", "MaxPool",   "Conv+Relu", "MaxPool",
                                         "Gemm+Relu", "Gemm+Relu", "Gemm",      "Softmax"};
    cr_assert_eq(plan->step_count, 8); /* Flatten and Dropout are gone */
    for (uint32_t i = 0; i < 8; i++)
        cr_expect_str_eq(plan->steps[i].label, labels[i]);
    cr_assert_eq(plan->fixed_batch, 0);
    cr_assert(plan->batchwise);
    cr_assert(plan->ends_in_softmax);
    struct cvd_shape shape;
    plan_shape(output(plan, 0), 1000, &shape);
    cr_assert(cvd_shape_equal(&shape, &NET_SHAPE(1000, 10)));
    plan_shape(&plan->values[plan->steps[2].out[0]], 5, &shape);
    cr_assert(cvd_shape_equal(&shape, &NET_SHAPE(5, 16, 10, 10)));
    /* 6 * 25 + 6, 16 * 150 + 16, 400 * 120 + 120, 120 * 84 + 84, 84 * 10 + 10 */
    static const uint64_t parameters[] = {156, 0, 2416, 0, 48120, 10164, 850, 0};
    uint64_t macs = 0;
    for (uint32_t i = 0; i < 8; i++) {
        cr_expect_eq(plan->steps[i].prepared.parameters, parameters[i]);
        macs += plan->steps[i].prepared.macs;
    }
    cr_assert_eq(macs, 117600 + 240000 + 48000 + 10080 + 840);
    plan_destroy(plan);
}

Test(plan, in_place_where_the_input_dies)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 8));
    uint32_t a = NET_OP(&g, "Sigmoid", "a", x); /* not over the caller's input */
    uint32_t b = NET_OP(&g, "Relu", "b", a);    /* a is still needed: not in place */
    uint32_t c = NET_OP(&g, "Tanh", "c", b);    /* in place */
    uint32_t d = NET_OP(&g, "Add", "d", c, c);  /* both inputs lie in one place: not in place */
    uint32_t e = NET_OP(&g, "Add", "e", d, a);  /* in place */
    uint32_t f = NET_OP(&g, "Relu", "f", e);    /* in place, and the output */
    net_output(&g, f);
    struct plan *plan = build_as_written(&g);
    cr_assert_eq(plan->step_count, 6);
    const struct plan_value *v[6];
    for (uint32_t i = 0; i < 6; i++)
        v[i] = &plan->values[plan->steps[i].out[0]];
    cr_assert_eq(v[0]->place, PLAN_ARENA);
    cr_assert_eq(v[1]->place, PLAN_ARENA);
    cr_assert_neq(v[1]->buffer, v[0]->buffer);
    cr_assert_eq(v[2]->buffer, v[1]->buffer);
    cr_assert_eq(v[3]->place, PLAN_OUTPUT); /* written into the caller's output all the way */
    cr_assert_eq(v[4]->place, PLAN_OUTPUT);
    cr_assert_eq(v[5]->place, PLAN_OUTPUT);
    cr_assert_eq(plan->buffer_count, 3);
    plan_destroy(plan);
}

Test(plan, a_view_keeps_its_source_alive)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2, 4));
    uint32_t a = NET_OP(&g, "Sigmoid", "a", x);
    uint32_t flat = NET_OP(&g, "Flatten", "flat", a);
    uint32_t b = NET_OP(&g, "Relu", "b", a); /* may not overwrite what flat shows */
    uint32_t c = NET_OP(&g, "Relu", "c", flat);
    net_output(&g, b);
    net_output(&g, c);
    struct plan *plan = build(&g);
    cr_assert_eq(plan->step_count, 3);
    const struct plan_step *last = &plan->steps[2];
    const struct plan_value *source = &plan->values[plan->steps[0].out[0]];
    const struct plan_value *view = &plan->values[last->in[0]];
    cr_assert_eq(view->shape1.rank, 2);
    cr_assert_eq(source->shape1.rank, 3);
    cr_assert_eq(view->place, source->place);
    cr_assert_eq(view->place == PLAN_OUTPUT ? view->index : view->buffer,
                 source->place == PLAN_OUTPUT ? source->index : source->buffer);
    const struct plan_value *vb = &plan->values[plan->steps[1].out[0]];
    cr_assert(vb->place != source->place || vb->index != source->index);
    plan_destroy(plan);
}

Test(plan, outputs_that_no_step_can_write_are_copied)
{
    struct graph g;
    net_init(&g);
    static const float two[] = {1, 2};
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
    uint32_t constant = net_floats(&g, "constant", NET_SHAPE(2), two);
    uint32_t a = NET_OP(&g, "Relu", "a", x);
    uint32_t same = NET_OP(&g, "Identity", "same", a);
    net_output(&g, x);
    net_output(&g, a);
    net_output(&g, same);
    net_output(&g, constant);
    net_output(&g, NET_OP(&g, "Identity", "input again", x));
    struct plan *plan = build(&g);
    cr_assert_eq(plan->step_count, 5); /* Relu and copies of x, same, constant, input again */
    cr_assert_str_eq(plan->steps[0].label, "Relu");
    for (uint32_t i = 1; i < 5; i++)
        cr_assert_str_eq(plan->steps[i].label, "Copy");
    for (uint32_t i = 0; i < 5; i++) {
        cr_assert_eq(output(plan, i)->place, PLAN_OUTPUT);
        cr_assert_eq(output(plan, i)->index, i);
    }
    cr_assert_eq(plan->block_count, 1);
    cr_assert_not(plan->batchwise); /* the constant does not come once for each image */
    plan_destroy(plan);
}

Test(plan, dead_code_is_not_even_looked_at)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
    uint32_t dead = NET_OP(&g, "NoSuchOperator", "dead", x);
    NET_OP(&g, "Relu", "dead too", dead);
    net_weights(&g, "dead weights", NET_SHAPE(1000), 1, 1);
    net_input(&g, "unused", NET_SHAPE(CVD_DIM_BATCH, 3));
    net_output(&g, NET_OP(&g, "Relu", "y", x));
    struct plan *plan = build(&g);
    cr_assert_eq(plan->step_count, 1);
    cr_assert_eq(plan->block_count, 0);
    cr_assert_eq(plan->input_count, 2); /* the caller still passes it */
    plan_destroy(plan);
}

Test(plan, packed_weights_are_freed_and_read_ones_kept)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 8));
    uint32_t w = net_weights(&g, "w", NET_SHAPE(8, 8), 1, 1);
    uint32_t b = net_weights(&g, "b", NET_SHAPE(8), 1, 2);
    uint32_t y = NET_OP(&g, "Gemm", "gemm", x, w);
    net_output(&g, NET_OP(&g, "Add", "add", y, b));
    struct plan *plan = build(&g);
    size_t kept = 0;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const struct plan_step *step = &plan->steps[s];
        for (size_t i = 0; i < step->in_count; i++) {
            const struct plan_value *v = &plan->values[step->in[i]];
            if (v->place != PLAN_CONSTANT)
                continue;
            bool consumed = step->prepared.inputs_consumed >> i & 1;
            cr_assert_eq(v->data == NULL, consumed);
            kept += !consumed;
        }
    }
    cr_assert_eq(plan->block_count, kept);
    plan_destroy(plan);
}

Test(plan, a_constant_shared_by_two_steps_outlives_the_first)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 8));
    uint32_t w = net_weights(&g, "w", NET_SHAPE(8, 8), 1, 1);
    uint32_t same = NET_OP(&g, "Identity", "w again", w); /* another name for the same memory */
    uint32_t y = NET_OP(&g, "Gemm", "first", x, w);
    y = NET_OP(&g, "Gemm", "second", y, same);
    net_output(&g, y);
    net_output(&g, same); /* and the caller wants it too */
    struct plan *plan = build(&g);
    cr_assert_eq(plan->step_count, 3);
    cr_assert_eq(plan->block_count, 1);
    cr_assert_eq(plan->block_bytes, 64 * sizeof(float));
    cr_assert_not_null(plan->values[plan->steps[2].in[0]].data);
    plan_destroy(plan);
}

/* ---- known values ---- */

Test(plan, constants_are_folded)
{
    struct graph g;
    net_init(&g);
    static const float a[] = {1, -2, 3}, b[] = {10, 20, 30};
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 3));
    uint32_t sum = NET_OP(&g, "Add", "sum", net_floats(&g, "a", NET_SHAPE(3), a),
                          net_floats(&g, "b", NET_SHAPE(3), b));
    uint32_t scale = NET_OP(&g, "Relu", "relu", NET_OP(&g, "Mul", "product", sum, sum));
    net_output(&g, NET_OP(&g, "Mul", "y", x, scale));
    struct plan *plan = build(&g);
    cr_assert_eq(plan->step_count, 1);
    const float *folded = plan->values[plan->steps[0].in[1]].data;
    cr_assert_not_null(folded);
    cr_assert_eq(folded[0], 121);
    cr_assert_eq(folded[1], 324);
    cr_assert_eq(folded[2], 1089);
    cr_assert_eq(plan->block_count, 1); /* a, b, sum and product are gone */
    plan_destroy(plan);
}

/* What PyTorch exports for x.view(x.size(0), -1): the batch size goes through a chain of nodes. */
Test(plan, shape_chains_vanish)
{
    struct graph g;
    net_init(&g);
    g.opsets[0].version = 15;
    static const int64_t minus_one[] = {-1};
    const struct op_attr axis[] = {{.name = "axis", .type = OP_ATTR_INT, .i = 0}};
    const struct op_attr end[] = {{.name = "end", .type = OP_ATTR_INT, .i = 1}};
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2, 3, 4));
    uint32_t relu = NET_OP(&g, "Relu", "relu", x);
    uint32_t batch = NET_OP_ATTRS(&g, "Shape", "batch", end, relu);
    uint32_t wanted =
        NET_OP_ATTRS(&g, "Concat", "wanted", axis, batch, net_ints(&g, "rest", 1, minus_one));
    net_output(&g, NET_OP(&g, "Reshape", "y", relu, wanted));
    struct plan *plan = build(&g);
    cr_assert_eq(plan->step_count, 1);
    cr_assert_eq(plan->block_count, 0);
    struct cvd_shape got;
    plan_shape(output(plan, 0), 7, &got);
    cr_assert(cvd_shape_equal(&got, &NET_SHAPE(7, 24)));
    cr_assert(plan->batchwise);
    plan_destroy(plan);
}

/* Extents that are the same for every batch are ordinary constants. */
Test(plan, extents_that_do_not_vary_can_be_computed_with)
{
    struct graph g;
    net_init(&g);
    g.opsets[0].version = 15;
    const struct op_attr to_float[] = {{.name = "to", .type = OP_ATTR_INT, .i = CVD_DTYPE_FLOAT32}};
    const struct op_attr start[] = {{.name = "start", .type = OP_ATTR_INT, .i = 1}};
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 5, 2));
    uint32_t extents = NET_OP_ATTRS(&g, "Shape", "extents", start, x);
    uint32_t scale = NET_OP_ATTRS(&g, "Cast", "scale", to_float, extents);
    net_output(&g, NET_OP(&g, "Mul", "y", x, scale));
    struct plan *plan = build(&g);
    cr_assert_eq(plan->step_count, 1);
    const float *data = plan->values[plan->steps[0].in[1]].data;
    cr_assert_eq(data[0], 5);
    cr_assert_eq(data[1], 2);
    plan_destroy(plan);
}

/* Dropout's mask, when somebody reads it, is computed; the rest of the node stays a view. */
Test(plan, a_view_with_a_second_output)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 3));
    uint32_t r = NET_OP(&g, "Relu", "r", x);
    uint32_t out[2] = {net_value(&g, "y"), net_value(&g, "mask")};
    struct graph_node node = {.op = "Dropout",
                              .domain = "",
                              .name = "drop",
                              .in = &r,
                              .in_count = 1,
                              .out = out,
                              .out_count = 2};
    cr_assert_eq(graph_add_node(&g, &node, NULL), CVD_STATUS_OK);
    net_output(&g, NET_OP(&g, "Relu", "z", out[0]));
    net_output(&g, out[1]);
    struct plan *plan = build(&g);
    cr_assert_eq(plan->step_count, 3);
    cr_assert_str_eq(plan->steps[1].label, "Dropout");
    cr_assert_eq(plan->steps[1].out[0], GRAPH_NONE);
    cr_assert_eq(output(plan, 1)->dtype, CVD_DTYPE_BOOL);
    plan_destroy(plan);
}

Test(plan, a_value_that_is_the_batch_size_cannot_be_computed_with)
{
    struct graph g;
    net_init(&g);
    const struct op_attr to_float[] = {{.name = "to", .type = OP_ATTR_INT, .i = CVD_DTYPE_FLOAT32}};
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
    uint32_t extents =
        NET_OP_ATTRS(&g, "Cast", "extents", to_float, NET_OP(&g, "Shape", "shape", x));
    net_output(&g, NET_OP(&g, "Mul", "product", x, extents));
    refused(&g, CVD_STATUS_UNSUPPORTED, "Mul 'product' computes with 'extents'");

    net_init(&g);
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
    net_output(&g, NET_OP(&g, "Shape", "shape", x));
    refused(&g, CVD_STATUS_UNSUPPORTED, "output 'shape' depends on the batch size");
}

/* What is known for a batch of one only must not be packed as if it were a constant. */
Test(plan, weights_that_are_the_batch_size_are_refused)
{
    const struct op_attr to_float[] = {{.name = "to", .type = OP_ATTR_INT, .i = CVD_DTYPE_FLOAT32}};
    static const int64_t column[] = {2, 1};
    for (int variant = 0; variant < 4; variant++) {
        struct graph g;
        struct plan *plan = NULL;
        struct cvd_error err = {0};
        const struct cvd_load_options options = {.as_written = variant % 2};
        net_init(&g);
        uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
        uint32_t b = NET_OP_ATTRS(&g, "Cast", "float", to_float, NET_OP(&g, "Shape", "shape", x));
        b = NET_OP(&g, "Reshape", "weights", b, net_ints(&g, "column", 2, column)); /* a view */
        net_output(&g, NET_OP(&g, variant < 2 ? "MatMul" : "Gemm", "y", x, b));
        cr_assert_eq(build_with(&g, &options, &plan, &err), CVD_STATUS_UNSUPPORTED);
        cr_assert_not_null(strstr(err.message, "'y' computes with 'weights'"), "%s", err.message);
    }
}

Test(plan, folding_is_bounded)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 1, 1));
    /* 16 KB of weights that are 16 MB when folded, a hundred times over. */
    uint32_t row = net_weights(&g, "row", NET_SHAPE(1, 2048), 1, 1);
    uint32_t column = net_weights(&g, "column", NET_SHAPE(2048, 1), 1, 2);
    uint32_t sum = x;
    for (int i = 0; i < 100; i++) {
        uint32_t big = NET_OP(&g, "Add", NULL, row, column);
        sum = NET_OP(&g, "Add", NULL, sum, big);
    }
    net_output(&g, sum);
    for (uint32_t n = 0; n < g.node_count; n++)
        cr_assert_str_eq(g.nodes[n].op, "Add");
    struct plan *plan = build(&g);
    cr_assert_leq(plan->block_bytes, (size_t)80 << 20);
    cr_assert_gt(plan->step_count, 100); /* what was not folded runs */
    plan_destroy(plan);
}

/* ---- the batch ---- */

Test(plan, fixed_batch)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(4, 3));
    net_output(&g, NET_OP(&g, "Softmax", "y", x));
    struct plan *plan = build(&g);
    cr_assert_eq(plan->fixed_batch, 4);
    cr_assert_not(plan->batchwise);
    cr_assert(plan->ends_in_softmax);
    struct cvd_shape shape;
    plan_shape(output(plan, 0), 4, &shape);
    cr_assert(cvd_shape_equal(&shape, &NET_SHAPE(4, 3)));
    plan_destroy(plan);
}

Test(plan, extents_that_grow_unevenly_are_refused)
{
    struct graph g;
    net_init(&g);
    static const int64_t swapped[] = {1, 0};
    const struct op_attr perm[] = {
        {.name = "perm", .type = OP_ATTR_INTS, .count = 2, .ints = swapped}};
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    uint32_t t = NET_OP_ATTRS(&g, "Transpose", "turned", perm, x);
    net_output(&g, NET_OP(&g, "MatMul", "all pairs", x, t)); /* [N,N] */
    refused(&g, CVD_STATUS_UNSUPPORTED, "'all pairs' is [1,1] for one image, [2,2] for two");
}

Test(plan, an_error_at_another_batch_names_it)
{
    struct graph g;
    net_init(&g);
    static const int64_t four[] = {4};
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    net_output(&g, NET_OP(&g, "Reshape", "y", x, net_ints(&g, "four", 1, four)));
    refused(&g, CVD_STATUS_INVALID_MODEL, "with a batch of 2: Reshape 'y'");
}

Test(plan, steps_that_mix_images_are_noticed)
{
    struct graph g;
    const struct op_attr axis[] = {{.name = "axis", .type = OP_ATTR_INT, .i = 0}};
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    net_output(&g, NET_OP_ATTRS(&g, "Softmax", "over the batch", axis, x));
    struct plan *plan = build(&g);
    cr_assert_not(plan->batchwise);
    cr_assert_not(plan->ends_in_softmax);
    plan_destroy(plan);

    net_init(&g); /* [N,4] as one row: images no longer stand in dimension 0 */
    static const int64_t row[] = {1, -1};
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    uint32_t flat = NET_OP(&g, "Reshape", "row", x, net_ints(&g, "shape", 2, row));
    net_output(&g, NET_OP(&g, "Softmax", "y", flat));
    plan = build(&g);
    cr_assert_not(plan->batchwise);
    plan_destroy(plan);

    net_init(&g); /* [N,4] as [2N,2] and back: still one image after the other */
    static const int64_t halves[] = {-1, 2}, whole[] = {-1, 4};
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    uint32_t h = NET_OP(&g, "Reshape", "halves", x, net_ints(&g, "shape", 2, halves));
    uint32_t s = NET_OP(&g, "Softmax", "s", h);
    net_output(&g, NET_OP(&g, "Reshape", "y", s, net_ints(&g, "shape 2", 2, whole)));
    plan = build(&g);
    cr_assert(plan->batchwise);
    cr_assert_not(plan->ends_in_softmax); /* two of them, over half of the classes each */
    plan_destroy(plan);
}

/* One step from `in` to `out`, shapes for one image and for two; the operator claims that it treats
 * images alone. */
static bool batchwise(struct cvd_shape in1, struct cvd_shape in2, struct cvd_shape out1,
                      struct cvd_shape out2, bool mixes)
{
    static const struct op_def def = {.name = "Made up", .flags = OP_BATCHWISE};
    struct plan_value values[] = {{.dtype = CVD_DTYPE_FLOAT32, .shape1 = in1, .shape2 = in2},
                                  {.dtype = CVD_DTYPE_FLOAT32, .shape1 = out1, .shape2 = out2}};
    const uint32_t in = 0, out = 1;
    uint32_t outputs[] = {0};
    struct plan_step step = {.def = &def,
                             .prepared.mixes_images = mixes,
                             .in = &in,
                             .in_count = 1,
                             .out = &out,
                             .out_count = 1};
    struct plan plan = {.values = values,
                        .value_count = 2,
                        .steps = &step,
                        .step_count = 1,
                        .outputs = outputs,
                        .output_count = 1};
    return build_is_batchwise(&plan);
}

Test(plan, shapes_tell_whether_images_stay_apart)
{
    struct cvd_shape a = NET_SHAPE(1, 4), b = NET_SHAPE(2, 4);
    cr_assert(batchwise(a, b, a, b, false));
    cr_assert_not(batchwise(a, b, a, b, true));
    cr_assert_not(batchwise(a, b, NET_SHAPE(4), NET_SHAPE(4), false)); /* a sum over the images */
    cr_assert_not(batchwise(a, b, NET_SHAPE(4, 1), NET_SHAPE(4, 2), false)); /* transposed */
    cr_assert_not(batchwise(a, b, NET_SHAPE(2, 4), NET_SHAPE(4, 4), false)); /* two times over */
    cr_assert_not(batchwise(a, b, NET_SHAPE(2, 4), NET_SHAPE(3, 4), false)); /* and one more row */
    cr_assert(batchwise(NET_SHAPE(3, 4), NET_SHAPE(6, 4), NET_SHAPE(3, 1), NET_SHAPE(6, 1), false));
}

Test(plan, softmax_is_recognised_through_views)
{
    static const int64_t flat[] = {0, -1};
    for (int variant = 0; variant < 4; variant++) {
        struct graph g;
        net_init(&g);
        const struct op_attr axis[] = {
            {.name = "axis", .type = OP_ATTR_INT, .i = variant < 2 ? 1 : 2}};
        uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 5, 1, variant == 1 ? 2 : 1));
        uint32_t s = NET_OP_ATTRS(&g, "Softmax", "s", axis, x);
        if (variant == 3)
            s = NET_OP(&g, "Relu", "r", s);
        uint32_t y = NET_OP(&g, "Reshape", "y", s, net_ints(&g, "shape", 2, flat));
        net_output(&g, NET_OP(&g, "Identity", "z", y));
        struct plan *plan = build(&g);
        cr_expect_eq(plan->ends_in_softmax, variant == 0, "variant %d", variant);
        plan_destroy(plan);
    }
}

/* ---- constants given by the caller ---- */

Test(plan, constants_replace_inputs)
{
    struct graph g;
    struct plan *plan = NULL;
    struct cvd_error err = {0};
    const float three = 3;
    struct cvd_constant constant = {
        .name = "k", .dtype = CVD_DTYPE_FLOAT32, .shape = NET_SHAPE(1), .data = &three};
    struct cvd_load_options options = {.constants = &constant, .constant_count = 1};
    for (int variant = 0; variant < 4; variant++) {
        net_init(&g);
        uint32_t k = net_input(&g, "k", NET_SHAPE(1));
        uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
        net_output(&g, NET_OP(&g, "Mul", "y", x, NET_OP(&g, "Mul", "square", k, k)));
        constant.name = variant == 1 ? "nobody" : "k";
        constant.dtype = variant == 2 ? CVD_DTYPE_INT64 : CVD_DTYPE_FLOAT32;
        constant.shape = variant == 3 ? NET_SHAPE(2) : NET_SHAPE(1);
        enum cvd_status status = build_with(&g, &options, &plan, &err);
        if (variant > 0) {
            cr_assert_eq(status, CVD_STATUS_INVALID_ARGUMENT);
            cr_assert_not_null(strstr(err.message, constant.name), "%s", err.message);
            continue;
        }
        cr_assert_eq(status, CVD_STATUS_OK, "%s", err.message);
        cr_assert_eq(plan->input_count, 1);
        cr_assert_str_eq(plan->values[plan->inputs[0]].name, "x");
        cr_assert_eq(plan->step_count, 1);
        cr_assert_eq(*(const float *)plan->values[plan->steps[0].in[1]].data, 9);
        plan_destroy(plan);
    }
}

/* ---- refusals ---- */

Test(plan, operators_that_are_not_there)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
    net_output(&g, NET_OP(&g, "Foo", "f", x));
    refused(&g, CVD_STATUS_UNSUPPORTED, "operator 'Foo' (domain '', opset 13) is not implemented");

    net_init(&g);
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
    net_output(&g, NET_OP(&g, "Relu", "r", x));
    g.nodes[0].domain = "com.example";
    refused(&g, CVD_STATUS_INVALID_MODEL, "'com.example', which the model does not import");

    net_init(&g); /* GlobalLpPool changed in set 2; its first version is long gone */
    g.opsets[0].version = 1;
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2, 3, 3));
    net_output(&g, NET_OP(&g, "GlobalLpPool", "p", x));
    refused(&g, CVD_STATUS_UNSUPPORTED,
            "operator 'GlobalLpPool' (domain '', opset 1) is not implemented in that version; "
            "implemented are opsets 2 and later");
}

Test(plan, wrong_numbers_of_inputs_and_outputs)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
    net_output(&g, NET_OP(&g, "Relu", "r", x, x));
    refused(&g, CVD_STATUS_INVALID_MODEL, "Relu 'r' has 2 inputs; it must have 1");

    net_init(&g);
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
    net_output(&g, NET_OP(&g, "Add", "a", x, GRAPH_NONE));
    refused(&g, CVD_STATUS_INVALID_MODEL, "Add 'a': input 1 is required");

    net_init(&g);
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
    uint32_t out[2] = {net_value(&g, "y"), net_value(&g, "z")};
    struct graph_node node = {.op = "Relu",
                              .domain = "",
                              .name = "r",
                              .in = &x,
                              .in_count = 1,
                              .out = out,
                              .out_count = 2};
    cr_assert_eq(graph_add_node(&g, &node, NULL), CVD_STATUS_OK);
    net_output(&g, out[0]);
    refused(&g, CVD_STATUS_INVALID_MODEL, "Relu 'r' has 2 outputs; it must have 1");
}

Test(plan, inputs_that_cannot_be_run)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "pixels", NET_SHAPE(CVD_DIM_BATCH, 3, CVD_DIM_BATCH, 8));
    net_output(&g, NET_OP(&g, "Relu", "r", x));
    refused(&g, CVD_STATUS_UNSUPPORTED, "input 'pixels' [N,3,N,8]: dimension 2 is free");

    net_init(&g);
    x = net_input(&g, "pixels", NET_SHAPE(CVD_DIM_BATCH, 3));
    g.values[x].has_shape = false;
    net_output(&g, NET_OP(&g, "Relu", "r", x));
    refused(&g, CVD_STATUS_UNSUPPORTED, "input 'pixels' has no declared shape");

    net_init(&g);
    x = net_input(&g, "pixels", NET_SHAPE(CVD_DIM_BATCH, 3));
    g.values[x].dtype = CVD_DTYPE_NONE;
    net_output(&g, NET_OP(&g, "Relu", "r", x));
    refused(&g, CVD_STATUS_INVALID_MODEL, "input 'pixels' has no element type");

    net_init(&g);
    x = net_input(&g, "pixels", NET_SHAPE(CVD_DIM_BATCH, 0));
    net_output(&g, NET_OP(&g, "Relu", "r", x));
    refused(&g, CVD_STATUS_UNSUPPORTED, "input 'pixels' [N,0]: dimension 1 is empty");

    net_init(&g);
    x = net_input(&g, "pixels", NET_SHAPE(1, INT64_MAX / 2, 16));
    net_output(&g, NET_OP(&g, "Relu", "r", x));
    refused(&g, CVD_STATUS_UNSUPPORTED, "is larger than the 4096 MiB");
}

/* A lone infinity is a limit. */
Test(plan, limits_may_be_infinite)
{
    for (int variant = 0; variant < 2; variant++) {
        struct graph g;
        const float limit = variant ? NAN : INFINITY;
        net_init(&g);
        uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 3));
        uint32_t max = net_floats(&g, "max", (struct cvd_shape){0}, &limit);
        uint32_t y = NET_OP(&g, "Add", "sum", x, x);
        net_output(&g, NET_OP(&g, "Clip", "y", y, GRAPH_NONE, max));
        if (variant)
            refused(&g, CVD_STATUS_INVALID_MODEL, "'max'");
        else
            plan_destroy(build(&g));
    }
}

Test(plan, weights_must_be_finite)
{
    for (int variant = 0; variant < 4; variant++) {
        struct graph g;
        struct plan *plan = NULL;
        struct cvd_error err = {0};
        static float w[3000];
        net_fill(w, 3000, 1);
        w[2345] = variant == 0 ? NAN : variant == 1 ? -INFINITY : INFINITY;
        w[2999] = NAN;
        net_init(&g);
        uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 3000));
        uint32_t weights = net_floats(&g, "bad", NET_SHAPE(3000), w);
        if (variant == 2)
            weights = NET_OP(&g, "Identity", "bad again", weights);
        net_output(&g, NET_OP(&g, "Add", "y", x, weights));
        struct cvd_load_options options = {.allow_nonfinite = variant == 3};
        enum cvd_status status = build_with(&g, &options, &plan, &err);
        cr_assert_eq(status, variant == 3 ? CVD_STATUS_OK : CVD_STATUS_INVALID_MODEL);
        if (variant == 3) {
            plan_destroy(plan);
            continue;
        }
        cr_assert_not_null(strstr(err.message, "'bad"), "%s", err.message);
        cr_assert_not_null(strstr(err.message, "element 2345"), "%s", err.message);
    }
}

/* ---- memory ---- */

Test(plan, every_failing_allocation_is_survived, .timeout = 600)
{
    size_t failures = 0;
    for (size_t n = 1;; n++) {
        struct graph g;
        struct plan *plan = NULL;
        struct cvd_error err = {0};
        net_lenet(&g, 1, false);
        cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OK);
        mem_fail_after(n, n % 2 == 0);
        enum cvd_status status = plan_build(&g, kernels(), NULL, NULL, &plan, &err);
        mem_fail_after(0, false);
        graph_release(&g);
        plan_destroy(plan);
        if (status == CVD_STATUS_OK)
            break;
        cr_assert_eq(status, CVD_STATUS_OUT_OF_MEMORY, "allocation %zu: %s", n, err.message);
        cr_assert_neq(err.message[0], '\0');
        failures++;
    }
    cr_assert_gt(failures, 30);
}
