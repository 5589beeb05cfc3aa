/*
 * One pass on a small graph: what the graph looks like afterwards, and that it still computes the
 * same.
 */
#ifndef CONVD_TESTS_UNIT_PASS_FIXTURE_H
#define CONVD_TESTS_UNIT_PASS_FIXTURE_H

#include "engine/graph/build.h"
#include "engine/graph/passes.h"
#include "tests/support/net.h"

#include <convd/session.h>

#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PASS_BATCH 3

/* Shape inference, folding and then the passes of the list. */
static inline void pass_apply_list(struct graph *g, const pass_fn *list)
{
    struct cvd_error err = {.message = ""};
    struct kernels kernels;
    kernels_init(&kernels, CVD_CPU_C);
    struct build b = {.g = g, .kernels = &kernels, .budget = build_budget, .err = &err};
    int64_t fixed;
    cr_assert_eq(graph_check(g, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(build_check_inputs(&b, &fixed), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(passes_apply(&b, list), CVD_STATUS_OK, "%s", err.message);
}

static inline void pass_apply(struct graph *g, pass_fn pass)
{
    pass_apply_list(g, (const pass_fn[]){pass, NULL});
}

/* The nodes in their order: "Conv convd.Add Relu". */
static inline const char *pass_ops(const struct graph *g)
{
    static char text[1000];
    size_t len = 0;
    text[0] = '\0';
    for (uint32_t n = 0; n < g->node_count && len < sizeof(text) - 100; n++)
        len +=
            (size_t)snprintf(text + len, sizeof(text) - len, "%s%s%s%s", n > 0 ? " " : "",
                             g->nodes[n].domain, g->nodes[n].domain[0] ? "." : "", g->nodes[n].op);
    return text;
}

/* The first output of a graph, which is released, for some images of random numbers. */
static inline float *pass_run(struct graph *g, int64_t batch, size_t *count)
{
    const struct cvd_load_options options = {.as_written = true};
    struct cvd_error err = {.message = ""};
    struct cvd_engine *engine = net_engine(2);
    struct cvd_model *model = NULL;
    struct cvd_session *session = NULL;
    struct cvd_shape shape;
    const void *inputs[4];
    void *outputs[4] = {NULL};
    size_t in_count;
    cr_assert_eq(net_try(engine, g, &options, &model, &err), CVD_STATUS_OK, "%s", err.message);
    for (size_t i = 0; i < cvd_model_input_count(model); i++) {
        cvd_model_input_shape(model, i, batch, &shape);
        cr_assert(cvd_shape_elements(&shape, &in_count));
        float *in = malloc(in_count * sizeof(*in));
        net_fill(in, in_count, 100 + (uint32_t)i);
        for (size_t j = 0; j < in_count; j++)
            in[j] *= 4;
        inputs[i] = in;
    }
    cvd_model_output_shape(model, 0, batch, &shape);
    cr_assert(cvd_shape_elements(&shape, count));
    float *out = calloc(*count, sizeof(*out));
    outputs[0] = out;
    cr_assert_eq(cvd_session_create(model, batch, &session, &err), CVD_STATUS_OK, "%s",
                 err.message);
    cr_assert_eq(cvd_session_run(session, batch, inputs, outputs, &err), CVD_STATUS_OK);
    for (size_t i = 0; i < cvd_model_input_count(model); i++)
        free((void *)(uintptr_t)inputs[i]);
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
    return out;
}

/* Builds the same graph twice, applies the pass to one of them, which then has to be the nodes
 * `ops`, and compares what both compute; to the last bit when tolerance is 0. */
static inline void pass_check_list(void (*make)(struct graph *g), const pass_fn *list,
                                   const char *ops, double tolerance)
{
    struct graph plain, rewritten;
    size_t count, same;
    make(&plain);
    make(&rewritten);
    int64_t batch = plain.values[plain.inputs[0]].shape.dims[0] == CVD_DIM_BATCH ? PASS_BATCH : 1;
    pass_apply_list(&rewritten, list);
    cr_assert_str_eq(pass_ops(&rewritten), ops);
    float *want = pass_run(&plain, batch, &count), *got = pass_run(&rewritten, batch, &same);
    cr_assert_eq(count, same);
    for (size_t i = 0; i < count; i++) {
        bool equal = memcmp(&want[i], &got[i], sizeof(float)) == 0;
        cr_assert(equal || fabs((double)want[i] - (double)got[i]) <= tolerance,
                  "%s: element %zu is %.9g, was %.9g", ops, i, (double)got[i], (double)want[i]);
    }
    free(want);
    free(got);
}

static inline void pass_check(void (*make)(struct graph *g), pass_fn pass, const char *ops,
                              double tolerance)
{
    pass_check_list(make, (const pass_fn[]){pass, NULL}, ops, tolerance);
}

/* ---- pieces of graphs ---- */

#define PASS_INT(n, v)                         \
    {                                          \
        .name = n, .type = OP_ATTR_INT, .i = v \
    }
#define PASS_FLOAT(n, v)                         \
    {                                            \
        .name = n, .type = OP_ATTR_FLOAT, .f = v \
    }
#define PASS_INTS(n, ...)                                                               \
    {                                                                                   \
        .name = n, .type = OP_ATTR_INTS, .count = sizeof((int64_t[]){__VA_ARGS__}) / 8, \
        .ints = (const int64_t[])                                                       \
        {                                                                               \
            __VA_ARGS__                                                                 \
        }                                                                               \
    }

/* A graph with the input x, [N,4,6,6]. */
static inline uint32_t pass_image(struct graph *g)
{
    net_init(g);
    return net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, 4, 6, 6));
}

/* A convolution of 3 x 3 with padding, from 4 channels to `out`. */
static inline uint32_t pass_conv(struct graph *g, const char *name, uint32_t x, int64_t out,
                                 bool bias)
{
    const struct op_attr attrs[] = {PASS_INTS("pads", 1, 1, 1, 1)};
    uint32_t w = net_weights(g, "w", NET_SHAPE(out, 4, 3, 3), 0.5f, 7 + (uint32_t)name[0]);
    if (!bias)
        return NET_OP_ATTRS(g, "Conv", name, attrs, x, w);
    uint32_t b = net_weights(g, "b", NET_SHAPE(out), 0.5f, 8);
    return NET_OP_ATTRS(g, "Conv", name, attrs, x, w, b);
}

static inline uint32_t pass_scalar(struct graph *g, float value)
{
    return net_floats(g, "scalar", (struct cvd_shape){0}, &value);
}

#endif
