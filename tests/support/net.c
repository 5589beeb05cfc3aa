/* Small graphs for tests. */
#include "tests/support/net.h"

#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(enum cvd_status status, const struct cvd_error *err)
{
    cr_assert_eq(status, CVD_STATUS_OK, "%s", err->message);
}

void net_init(struct graph *g)
{
    struct cvd_error err = {0};
    must(graph_init(g, &err), &err);
    must(graph_add_opset(g, "", 13, &err), &err);
}

uint32_t net_value(struct graph *g, const char *name)
{
    struct cvd_error err = {0};
    uint32_t value;
    must(graph_add_value(g, name, &value, &err), &err);
    return value;
}

uint32_t net_input(struct graph *g, const char *name, struct cvd_shape shape)
{
    struct cvd_error err = {0};
    uint32_t value = net_value(g, name);
    g->values[value].dtype = CVD_DTYPE_FLOAT32;
    g->values[value].has_shape = true;
    g->values[value].shape = shape;
    must(graph_add_input(g, value, &err), &err);
    return value;
}

uint32_t net_floats(struct graph *g, const char *name, struct cvd_shape shape, const float *data)
{
    struct cvd_error err = {0};
    uint32_t value;
    must(graph_add_initializer(g, name, CVD_DTYPE_FLOAT32, &shape, data, &value, &err), &err);
    return value;
}

uint32_t net_ints(struct graph *g, const char *name, size_t count, const int64_t *data)
{
    struct cvd_error err = {0};
    struct cvd_shape shape = NET_SHAPE((int64_t)count);
    uint32_t value;
    must(graph_add_initializer(g, name, CVD_DTYPE_INT64, &shape, data, &value, &err), &err);
    return value;
}

void net_fill(float *data, size_t count, uint32_t seed)
{
    uint32_t x = seed * 2654435761u + 1;
    for (size_t i = 0; i < count; i++) {
        x = x * 1664525u + 1013904223u;
        data[i] = (float)(x >> 8) / (float)(1 << 23) - 1;
    }
}

uint32_t net_weights(struct graph *g, const char *name, struct cvd_shape shape, float scale,
                     uint32_t seed)
{
    uint32_t value = net_floats(g, name, shape, NULL);
    float *data = g->values[value].data;
    size_t count = g->values[value].bytes / sizeof(float);
    net_fill(data, count, seed);
    for (size_t i = 0; i < count; i++)
        data[i] *= scale;
    return value;
}

uint32_t net_node(struct graph *g, const char *op, const char *name, const struct op_attr *attrs,
                  size_t attr_count, const uint32_t *in)
{
    struct cvd_error err = {0};
    uint32_t out = net_value(g, name);
    size_t in_count = 0;
    while (in[in_count] != NET_END)
        in_count++;
    struct graph_node node = {.op = op,
                              .domain = "",
                              .name = name != NULL ? name : "",
                              .attrs = attrs,
                              .attr_count = attr_count,
                              .in = in,
                              .in_count = in_count,
                              .out = &out,
                              .out_count = 1};
    must(graph_add_node(g, &node, &err), &err);
    return out;
}

void net_output(struct graph *g, uint32_t value)
{
    struct cvd_error err = {0};
    must(graph_add_output(g, value, &err), &err);
}

/* ---- LeNet-5 ---- */

struct lenet {
    struct graph *g;
    uint32_t seed;
    bool all_outputs;
};

static uint32_t then(const struct lenet *l, uint32_t value)
{
    if (l->all_outputs)
        net_output(l->g, value);
    return value;
}

static uint32_t dense(struct lenet *l, uint32_t x, const char *name, int64_t in, int64_t out)
{
    const struct op_attr attrs[] = {{.name = "transB", .type = OP_ATTR_INT, .i = 1}};
    uint32_t w = net_weights(l->g, NULL, NET_SHAPE(out, in), 2.0f / 16, l->seed++);
    uint32_t b = net_weights(l->g, NULL, NET_SHAPE(out), 0.1f, l->seed++);
    return then(l, NET_OP_ATTRS(l->g, "Gemm", name, attrs, x, w, b));
}

static uint32_t convolution(struct lenet *l, uint32_t x, const char *name, int64_t in, int64_t out,
                            int64_t pad)
{
    const int64_t pads[] = {pad, pad, pad, pad};
    const struct op_attr attrs[] = {
        {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = pads}};
    uint32_t w = net_weights(l->g, NULL, NET_SHAPE(out, in, 5, 5), 0.2f, l->seed++);
    uint32_t b = net_weights(l->g, NULL, NET_SHAPE(out), 0.1f, l->seed++);
    return then(l, NET_OP_ATTRS(l->g, "Conv", name, attrs, x, w, b));
}

static uint32_t pool(struct lenet *l, uint32_t x, const char *name)
{
    static const int64_t two[] = {2, 2};
    const struct op_attr attrs[] = {
        {.name = "kernel_shape", .type = OP_ATTR_INTS, .count = 2, .ints = two},
        {.name = "strides", .type = OP_ATTR_INTS, .count = 2, .ints = two}};
    return then(l, NET_OP_ATTRS(l->g, "MaxPool", name, attrs, x));
}

void net_lenet(struct graph *g, uint32_t seed, bool all_outputs)
{
    net_init(g);
    struct lenet l = {g, seed, all_outputs};
    uint32_t x = net_input(g, "image", NET_SHAPE(CVD_DIM_BATCH, 1, 28, 28));
    x = convolution(&l, x, "c1", 1, 6, 2);
    x = then(&l, NET_OP(g, "Relu", "c1/relu", x));
    x = pool(&l, x, "s2");
    x = convolution(&l, x, "c3", 6, 16, 0);
    x = then(&l, NET_OP(g, "Relu", "c3/relu", x));
    x = pool(&l, x, "s4");
    x = then(&l, NET_OP(g, "Flatten", "flat", x));
    x = dense(&l, x, "f5", 400, 120);
    x = then(&l, NET_OP(g, "Relu", "f5/relu", x));
    x = dense(&l, x, "f6", 120, 84);
    x = then(&l, NET_OP(g, "Relu", "f6/relu", x));
    x = then(&l, NET_OP(g, "Dropout", "drop", x));
    x = dense(&l, x, "f7", 84, 10);
    net_output(g, NET_OP(g, "Softmax", "probabilities", x));
}

/* ---- models ---- */

struct cvd_engine *net_engine(unsigned threads)
{
    struct cvd_error err = {0};
    struct cvd_settings settings;
    struct cvd_engine *engine = NULL;
    const char *level = getenv("CONVD_CPU");
    cvd_settings_default(&settings);
    settings.threads = threads;
    if (level != NULL && level[0] != '\0')
        cr_assert(cvd_cpu_parse(level, &settings.cpu), "CONVD_CPU is %s", level);
    must(cvd_engine_create(&settings, &engine, &err), &err);
    return engine;
}

enum cvd_status net_try(struct cvd_engine *engine, struct graph *g,
                        const struct cvd_load_options *options, struct cvd_model **out,
                        struct cvd_error *err)
{
    struct plan *plan = NULL;
    enum cvd_status status = graph_check(g, err);
    if (status == CVD_STATUS_OK)
        status = plan_build(g, &engine->kernels, options, NULL, &plan, err);
    graph_release(g);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_model *model = mem_alloc(sizeof(*model));
    if (model == NULL) {
        plan_destroy(plan);
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a model");
    }
    *model = (struct cvd_model){.engine = engine, .plan = plan};
    *out = model;
    return CVD_STATUS_OK;
}

struct cvd_model *net_model(struct cvd_engine *engine, struct graph *g)
{
    struct cvd_error err = {0};
    struct cvd_model *model = NULL;
    must(net_try(engine, g, NULL, &model, &err), &err);
    return model;
}
