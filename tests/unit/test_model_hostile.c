/* Whole models that are damaged, absurd or huge: each is refused in one line, or loads and runs. */
#include "engine/onnx/onnx.h"
#include "tests/support/net.h"

#include <convd/session.h>

#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Of this process alone: what else the machine does is no fault of a loader on one thread. */
static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The bytes of a graph, which is released; to be freed. */
static void *bytes_of(struct graph *g, size_t *len)
{
    struct cvd_error err = {.message = ""};
    void *bytes = NULL;
    cr_assert_eq(onnx_write(g, &bytes, len, &err), CVD_STATUS_OK, "%s", err.message);
    graph_release(g);
    return bytes;
}

/* Loads and, when that works, runs one image of zeros. */
static enum cvd_status load_and_run(struct cvd_engine *engine, const void *bytes, size_t len,
                                    struct cvd_error *err)
{
    static float zeros[1 << 16];
    struct cvd_model *model = NULL;
    struct cvd_session *session = NULL;
    enum cvd_status status = cvd_model_load(engine, bytes, len, NULL, &model, err);
    if (status != CVD_STATUS_OK)
        return status;
    int64_t batch = cvd_model_fixed_batch(model) ? cvd_model_fixed_batch(model) : 1;
    const void *inputs[64];
    void *outputs[64] = {NULL};
    bool small = cvd_model_output_count(model) <= 64 && cvd_model_input_count(model) <= 64;
    for (size_t i = 0; i < cvd_model_input_count(model) && small; i++) {
        struct cvd_shape shape;
        struct cvd_value_info info;
        size_t count;
        cvd_model_input_shape(model, i, batch, &shape);
        cvd_model_input(model, i, &info);
        inputs[i] = zeros;
        small = cvd_shape_elements(&shape, &count) &&
                count <= sizeof(zeros) / cvd_dtype_bytes(info.dtype);
    }
    if (small && cvd_session_create(model, batch, &session, err) == CVD_STATUS_OK) {
        struct cvd_model_stats stats;
        cvd_model_stats(model, &stats);
        if (stats.macs < 100000000)
            cr_assert_eq(cvd_session_run(session, batch, inputs, outputs, err), CVD_STATUS_OK);
    }
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    return CVD_STATUS_OK;
}

static bool is_one_line(const struct cvd_error *err)
{
    return err->message[0] != '\0' && strchr(err->message, '\n') == NULL;
}

/* ---- damage ---- */

/* A small network with something of everything: convolutions, batch norm, shape arithmetic. */
static void *small_file(size_t *len)
{
    struct graph g;
    static const int64_t zero[] = {0}, rest[] = {-1}, two[] = {2, 2};
    const struct op_attr axis[] = {{.name = "axis", .type = OP_ATTR_INT, .i = 0}};
    const struct op_attr kernel[] = {
        {.name = "kernel_shape", .type = OP_ATTR_INTS, .count = 2, .ints = two}};
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 1, 6, 6));
    uint32_t w = net_weights(&g, "w", NET_SHAPE(2, 1, 3, 3), 1, 1);
    uint32_t y = NET_OP(&g, "Conv", "conv", x, w);
    uint32_t v[4];
    for (uint32_t i = 0; i < 4; i++)
        v[i] = net_weights(&g, NULL, NET_SHAPE(2), 1, 2);
    ((float *)g.values[v[3]].data)[0] = ((float *)g.values[v[3]].data)[1] = 1;
    y = NET_OP(&g, "BatchNormalization", "bn", y, v[0], v[1], v[2], v[3]);
    y = NET_OP_ATTRS(&g, "MaxPool", "pool", kernel, NET_OP(&g, "Relu", "relu", y));
    uint32_t n =
        NET_OP(&g, "Gather", "n", NET_OP(&g, "Shape", "shape", y), net_ints(&g, "zero", 1, zero));
    y = NET_OP(&g, "Reshape", "flat", y,
               NET_OP_ATTRS(&g, "Concat", "to", axis, n, net_ints(&g, "rest", 1, rest)));
    y = NET_OP(&g, "MatMul", "product", y, net_weights(&g, "m", NET_SHAPE(18, 3), 1, 3));
    net_output(&g, NET_OP(&g, "Add", "sum", y, net_weights(&g, "c", NET_SHAPE(3), 1, 4)));
    return bytes_of(&g, len);
}

Test(model_hostile, cut_at_every_byte, .timeout = 600)
{
    size_t len;
    char *bytes = small_file(&len);
    struct cvd_engine *engine = net_engine(1);
    struct cvd_error err = {.message = ""};
    cr_assert_eq(load_and_run(engine, bytes, len, &err), CVD_STATUS_OK, "%s", err.message);
    for (size_t cut = 0; cut < len; cut++) {
        char *part = malloc(cut + 1); /* so that reading beyond is noticed */
        memcpy(part, bytes, cut);
        if (load_and_run(engine, part, cut, &err) != CVD_STATUS_OK)
            cr_assert(is_one_line(&err), "cut at %zu", cut);
        free(part);
    }
    free(bytes);
    cvd_engine_destroy(engine);
}

Test(model_hostile, every_bit_flipped, .timeout = 600)
{
    size_t len;
    char *bytes = small_file(&len);
    struct cvd_engine *engine = net_engine(1);
    struct cvd_error err = {.message = ""};
    size_t refused = 0;
    for (size_t bit = 0; bit < 8 * len; bit++) {
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
        if (load_and_run(engine, bytes, len, &err) != CVD_STATUS_OK) {
            cr_assert(is_one_line(&err), "bit %zu", bit);
            cr_assert(err.status == CVD_STATUS_INVALID_MODEL ||
                          err.status == CVD_STATUS_UNSUPPORTED,
                      "bit %zu: %s", bit, err.message);
            refused++;
        }
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
    }
    cr_assert_gt(refused, len);
    free(bytes);
    cvd_engine_destroy(engine);
}

/* ---- absurdities ---- */

static void refused(struct graph *g, enum cvd_status expected, const char *part)
{
    size_t len;
    void *bytes = bytes_of(g, &len);
    struct cvd_engine *engine = net_engine(1);
    struct cvd_error err = {.message = ""};
    double start = seconds();
    enum cvd_status status = load_and_run(engine, bytes, len, &err);
    cr_expect_eq(status, expected, "%s: %s", cvd_status_name(status), err.message);
    cr_expect_not_null(strstr(err.message, part), "'%s' is not in: %s", part, err.message);
    cr_expect(is_one_line(&err));
    cr_expect_lt(seconds() - start, 5.0);
    free(bytes);
    cvd_engine_destroy(engine);
}

#define INTS(n, ...)                                                                    \
    {                                                                                   \
        .name = n, .type = OP_ATTR_INTS, .count = sizeof((int64_t[]){__VA_ARGS__}) / 8, \
        .ints = (const int64_t[])                                                       \
        {                                                                               \
            __VA_ARGS__                                                                 \
        }                                                                               \
    }

/* A convolution of 3 x 3 called "c" on 8 x 8 with one more attribute. */
static void conv(struct graph *g, struct op_attr attr)
{
    net_init(g);
    uint32_t x = net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, 1, 8, 8));
    uint32_t w = net_weights(g, "w", NET_SHAPE(2, 1, 3, 3), 1, 1);
    const struct op_attr attrs[] = {attr};
    net_output(g, NET_OP_ATTRS(g, "Conv", "c", attrs, x, w));
}

Test(model_hostile, windows, .timeout = 600)
{
    const struct {
        struct op_attr attr;
        enum cvd_status status;
        const char *part;
    } cases[] = {
        {INTS("pads", -1, 0, 0, 0), CVD_STATUS_INVALID_MODEL, "Conv 'c': pads[0] is -1"},
        {INTS("pads", INT64_MAX, 0, 0, 0), CVD_STATUS_UNSUPPORTED, "9223372036854775807"},
        {INTS("pads", INT32_MAX, 0, INT32_MAX, 0), CVD_STATUS_UNSUPPORTED, "Conv 'c'"},
        {INTS("pads", 1, 1), CVD_STATUS_INVALID_MODEL, "pads has 2 numbers"},
        {INTS("strides", 0, 1), CVD_STATUS_INVALID_MODEL, "Conv 'c': strides[0] is 0"},
        {INTS("strides", 1, -1), CVD_STATUS_INVALID_MODEL, "strides[1] is -1"},
        {INTS("dilations", 0, 0), CVD_STATUS_INVALID_MODEL, "dilations[0] is 0"},
        {INTS("dilations", 1, 4), CVD_STATUS_INVALID_MODEL, "kernel 3 with dilation 4"},
        {INTS("kernel_shape", 3, 2), CVD_STATUS_INVALID_MODEL, "kernel_shape[1] is 2"},
        {{.name = "group", .type = OP_ATTR_INT, .i = 0}, CVD_STATUS_INVALID_MODEL, "group is 0"},
        {{.name = "group", .type = OP_ATTR_INT, .i = 3}, CVD_STATUS_INVALID_MODEL, "group 3"},
        {{.name = "group", .type = OP_ATTR_FLOAT, .f = 1}, CVD_STATUS_INVALID_MODEL, "group"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct graph g;
        conv(&g, cases[i].attr);
        refused(&g, cases[i].status, cases[i].part);
    }
}

Test(model_hostile, shapes_that_overflow, .timeout = 600)
{
    struct graph g;
    static const int64_t huge[] = {INT64_MAX, INT64_MAX, 2}, many[] = {1 << 30, 1 << 30};
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    net_output(&g, NET_OP(&g, "Reshape", "r", x, net_ints(&g, "huge", 3, huge)));
    refused(&g, CVD_STATUS_INVALID_MODEL, "Reshape 'r'");

    net_init(&g);
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 1));
    net_output(&g, NET_OP(&g, "Expand", "e", x, net_ints(&g, "huge", 3, huge)));
    refused(&g, CVD_STATUS_UNSUPPORTED, "Expand 'e'");

    net_init(&g); /* 4 EiB out of two numbers */
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 1));
    uint32_t y = NET_OP(&g, "ConstantOfShape", "ones", net_ints(&g, "many", 2, many));
    net_output(&g, NET_OP(&g, "Add", "sum", x, NET_OP(&g, "Relu", "relu", y)));
    struct cvd_engine *engine = net_engine(1);
    struct cvd_error err = {.message = ""};
    size_t len;
    void *bytes = bytes_of(&g, &len);
    cr_expect_neq(load_and_run(engine, bytes, len, &err), CVD_STATUS_INTERNAL);
    free(bytes);
    cvd_engine_destroy(engine);
}

Test(model_hostile, weights_of_the_wrong_size)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    net_output(&g, NET_OP(&g, "MatMul", "m", x, net_weights(&g, "w", NET_SHAPE(5, 3), 1, 1)));
    refused(&g, CVD_STATUS_INVALID_MODEL, "MatMul 'm': [1,4] and [5,3]");

    net_init(&g);
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2, 8, 8));
    net_output(&g, NET_OP(&g, "Conv", "c", x, net_weights(&g, "w", NET_SHAPE(2, 3, 3, 3), 1, 1)));
    refused(&g, CVD_STATUS_INVALID_MODEL, "Conv 'c': weights take 3 channels; they must take 2");

    net_init(&g);
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 1, 8, 8));
    net_output(&g, NET_OP(&g, "Conv", "c", x, net_weights(&g, "w", NET_SHAPE(2, 1, 9, 9), 1, 1)));
    refused(&g, CVD_STATUS_INVALID_MODEL, "Conv 'c': kernel 9");
}

Test(model_hostile, numbers_that_are_none)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 1, 8, 8));
    uint32_t w = net_weights(&g, "w", NET_SHAPE(2, 1, 3, 3), 1, 1);
    ((float *)g.values[w].data)[7] = NAN;
    uint32_t y = NET_OP(&g, "Conv", "c", x, w);
    net_output(&g, NET_OP(&g, "Mul", "m", y, net_weights(&g, "s", NET_SHAPE(2, 1, 1), 1, 1)));
    refused(&g, CVD_STATUS_INVALID_MODEL, "weights 'w': element 7 is not a finite number");

    /* And where folding would have to multiply with them. */
    net_init(&g);
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 1, 8, 8));
    y = NET_OP(&g, "Conv", "c", x, net_weights(&g, "w", NET_SHAPE(2, 1, 3, 3), 1, 1));
    uint32_t s = net_weights(&g, "s", NET_SHAPE(2, 1, 1), 1, 1);
    ((float *)g.values[s].data)[1] = NAN;
    net_output(&g, NET_OP(&g, "Mul", "m", y, s));
    refused(&g, CVD_STATUS_INVALID_MODEL, "weights 's': element 1");
}

Test(model_hostile, operators_and_domains)
{
    struct graph g;
    struct cvd_error err = {.message = ""};
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    net_output(&g, NET_OP(&g, "Frobnicate", "f", x));
    refused(&g, CVD_STATUS_UNSUPPORTED, "operator 'Frobnicate' (domain '', opset 13)");

    net_init(&g);
    cr_assert_eq(graph_add_opset(&g, "com.example", 3, &err), CVD_STATUS_OK);
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    net_output(&g, NET_OP(&g, "Relu", "r", x));
    g.nodes[0].domain = "com.example";
    refused(&g, CVD_STATUS_UNSUPPORTED, "operator 'Relu' (domain 'com.example', opset 3)");

    net_init(&g); /* what passes use among themselves is no way in */
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    net_output(&g, NET_OP(&g, "Activation", "a", x));
    g.nodes[0].domain = "convd";
    refused(&g, CVD_STATUS_INVALID_MODEL, "'convd', which the model does not import");

    net_init(&g);
    cr_assert_eq(graph_add_opset(&g, "convd", 1, &err), CVD_STATUS_OK);
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    net_output(&g, NET_OP(&g, "Relu", "r", x));
    refused(&g, CVD_STATUS_UNSUPPORTED, "'convd', which no file may use");

    net_init(&g);
    cr_assert_eq(graph_add_opset(&g, "convd.blocked", 1, &err), CVD_STATUS_OK);
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 4));
    net_output(&g, NET_OP(&g, "Relu", "r", x));
    refused(&g, CVD_STATUS_UNSUPPORTED, "'convd.blocked', which no file may use");
}

/* ---- size ---- */

enum { MANY = 100000 };

static const char *chain_op;

/* A hundred thousand nodes; each reads the one before. */
static void chain(struct graph *g)
{
    net_init(g);
    uint32_t x = net_input(g, "x", NET_SHAPE(CVD_DIM_BATCH, 2, 4, 4));
    uint32_t w = net_weights(g, "w", NET_SHAPE(2, 2, 1, 1), 1, 1),
             one = net_weights(g, "1", NET_SHAPE(1), 1, 1);
    uint32_t y = strcmp(chain_op, "Mul") == 0 ? NET_OP(g, "Conv", NULL, x, w) : x;
    for (int i = 0; i < MANY; i++) {
        if (strcmp(chain_op, "Mul") == 0)
            y = NET_OP(g, "Mul", NULL, y, one);
        else if (strcmp(chain_op, "Conv") == 0)
            y = NET_OP(g, i % 2 ? "Relu" : "Conv", NULL, y, i % 2 ? NET_END : w);
        else if (strcmp(chain_op, "Add") == 0)
            y = NET_OP(g, "Add", NULL, y, y);
        else
            y = NET_OP(g, chain_op, NULL, y);
    }
    net_output(g, y);
}

Test(model_hostile, a_hundred_thousand_nodes, .timeout = 600)
{
    static const char *const ops[] = {"Relu", "Identity", "Add", "Conv", "Mul", "Sigmoid"};
    struct cvd_engine *engine = net_engine(1);
    for (size_t i = 0; i < sizeof(ops) / sizeof(*ops); i++) {
        struct graph g;
        struct cvd_error err = {.message = ""};
        struct cvd_model *model = NULL;
        size_t len;
        chain_op = ops[i];
        chain(&g);
        void *bytes = bytes_of(&g, &len);
        double start = seconds();
        enum cvd_status status = cvd_model_load(engine, bytes, len, NULL, &model, &err);
        double took = seconds() - start;
        cr_expect_eq(status, CVD_STATUS_OK, "%s: %s", ops[i], err.message);
        cr_expect_lt(took, 10.0, "%s took %.1f s", ops[i], took);
        cvd_model_destroy(model);
        free(bytes);
    }
    cvd_engine_destroy(engine);
}

/* Constants whose folding would take hours, and those that would not fit in memory. */
Test(model_hostile, arithmetic_without_end, .timeout = 600)
{
    struct cvd_engine *engine = net_engine(1);
    struct cvd_error err = {.message = ""};
    struct cvd_model *model = NULL;
    struct graph g;
    size_t len;
    net_init(&g); /* 10^12 multiply-adds in a file of 5 MB */
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 1));
    uint32_t plane = net_weights(&g, "plane", NET_SHAPE(1, 1, 1000, 1000), 1, 1);
    uint32_t w = net_weights(&g, "w", NET_SHAPE(1, 1, 500, 500), 1, 1);
    uint32_t mean = NET_OP(&g, "GlobalAveragePool", "mean", NET_OP(&g, "Conv", "c", plane, w));
    net_output(&g, NET_OP(&g, "Mul", "y", x, NET_OP(&g, "Flatten", "flat", mean)));
    void *bytes = bytes_of(&g, &len);
    double start = seconds();
    enum cvd_status status = cvd_model_load(engine, bytes, len, NULL, &model, &err);
    cr_expect_eq(status, CVD_STATUS_OK, "%s", err.message);
    cr_expect_lt(seconds() - start, 10.0);
    cvd_model_destroy(model);
    free(bytes);

    net_init(&g); /* ten thousand sums of the same million numbers */
    model = NULL;
    x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 1, 1, 1));
    uint32_t y = x;
    plane = net_weights(&g, "plane", NET_SHAPE(1, 1, 1000, 1000), 1, 1);
    for (int i = 0; i < 10000; i++)
        y = NET_OP(&g, "Add", NULL, y, NET_OP(&g, "GlobalAveragePool", NULL, plane));
    net_output(&g, y);
    bytes = bytes_of(&g, &len);
    start = seconds();
    status = cvd_model_load(engine, bytes, len, NULL, &model, &err);
    cr_expect_eq(status, CVD_STATUS_OK, "%s", err.message);
    cr_expect_lt(seconds() - start, 15.0);
    cvd_model_destroy(model);
    free(bytes);
    cvd_engine_destroy(engine);
}
