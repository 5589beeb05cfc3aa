/* Small graphs for tests, and models made of them without an ONNX file. */
#ifndef CONVD_TESTS_SUPPORT_NET_H
#define CONVD_TESTS_SUPPORT_NET_H

#include "engine/graph/graph.h"
#include "engine/runtime/model.h"

#define NET_SHAPE(...)                                                              \
    ((struct cvd_shape){.rank = sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), \
                        .dims = {__VA_ARGS__}})

/* Every function fails the test when anything does. Graphs import opset 13 of ONNX's own domain. */
void net_init(struct graph *g);

uint32_t net_input(struct graph *g, const char *name, struct cvd_shape shape);
uint32_t net_value(struct graph *g, const char *name);
uint32_t net_floats(struct graph *g, const char *name, struct cvd_shape shape, const float *data);
uint32_t net_ints(struct graph *g, const char *name, size_t count, const int64_t *data);

/* Weights uniform in -scale … scale; the same seed gives the same ones. */
uint32_t net_weights(struct graph *g, const char *name, struct cvd_shape shape, float scale,
                     uint32_t seed);

/* Numbers uniform in -1 … 1. */
void net_fill(float *data, size_t count, uint32_t seed);

/* A node with one output of the same name, which is returned. Inputs end with NET_END. */
#define NET_END (UINT32_MAX - 1)
#define NET_OP(g, op, name, ...) \
    net_node(g, op, name, NULL, 0, (const uint32_t[]){__VA_ARGS__, NET_END})
#define NET_OP_ATTRS(g, op, name, attrs, ...)                      \
    net_node(g, op, name, attrs, sizeof(attrs) / sizeof(*(attrs)), \
             (const uint32_t[]){__VA_ARGS__, NET_END})
uint32_t net_node(struct graph *g, const char *op, const char *name, const struct op_attr *attrs,
                  size_t attr_count, const uint32_t *in);

void net_output(struct graph *g, uint32_t value);

/* LeNet-5 for [N,1,28,28], weights from `seed`: Conv, Relu, MaxPool twice, Flatten, three Gemm with
 * Relu and a Dropout between them, Softmax. With `all_outputs`, every intermediate value is an
 * output as well, which keeps values from sharing memory. */
void net_lenet(struct graph *g, uint32_t seed, bool all_outputs);

/* An engine with so many threads, of the level that CONVD_CPU says. */
struct cvd_engine *net_engine(unsigned threads);

/* Checks the graph and makes a model of it; releases the graph. */
struct cvd_model *net_model(struct cvd_engine *engine, struct graph *g);

/* The same without failing the test. */
enum cvd_status net_try(struct cvd_engine *engine, struct graph *g,
                        const struct cvd_load_options *options, struct cvd_model **out,
                        struct cvd_error *err);

#endif
