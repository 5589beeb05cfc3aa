/* What the writer writes: exact bytes, and graphs that come back as they were. */
#include "engine/onnx/onnx.h"
#include "tests/unit/onnx_build.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

static struct graph g, back;
static struct cvd_error err;

static void setup(void)
{
    cr_assert_eq(graph_init(&g, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_init(&back, &err), CVD_STATUS_OK);
}

static void teardown(void)
{
    graph_release(&g);
    graph_release(&back);
}

TestSuite(onnx_write, .init = setup, .fini = teardown);

static uint32_t value(const char *name, enum cvd_dtype dtype, unsigned rank, const int64_t *dims)
{
    uint32_t v;
    cr_assert_eq(graph_add_value(&g, name, &v, &err), CVD_STATUS_OK);
    g.values[v].dtype = dtype;
    g.values[v].has_shape = dtype != CVD_DTYPE_NONE;
    g.values[v].shape.rank = rank;
    if (rank > 0)
        memcpy(g.values[v].shape.dims, dims, rank * sizeof(*dims));
    return v;
}

static uint32_t initializer(const char *name, enum cvd_dtype dtype, struct cvd_shape shape,
                            const void *data)
{
    uint32_t v;
    cr_assert_eq(graph_add_initializer(&g, name, dtype, &shape, data, &v, &err), CVD_STATUS_OK);
    return v;
}

static void node(const struct graph_node *n)
{
    cr_assert_eq(graph_add_node(&g, n, &err), CVD_STATUS_OK);
}

/* ---- comparing ---- */

static void same_text(const char *a, const char *b)
{
    cr_assert_str_eq(a ? a : "", b ? b : "");
}

static void same_attr(const struct op_attr *a, const struct op_attr *b)
{
    same_text(a->name, b->name);
    cr_assert_eq(a->type, b->type);
    cr_assert_eq(a->i, b->i);
    cr_assert_eq(memcmp(&a->f, &b->f, sizeof(a->f)), 0);
    same_text(a->s, b->s);
    cr_assert_eq(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        if (a->type == OP_ATTR_INTS)
            cr_assert_eq(a->ints[i], b->ints[i]);
        else if (a->type == OP_ATTR_FLOATS)
            cr_assert_eq(memcmp(&a->floats[i], &b->floats[i], sizeof(float)), 0);
        else
            same_text(a->strings[i], b->strings[i]);
    }
    if (a->type == OP_ATTR_TENSOR) {
        size_t elements;
        cr_assert_eq(a->tensor.dtype, b->tensor.dtype);
        cr_assert(cvd_shape_equal(&a->tensor.shape, &b->tensor.shape));
        cr_assert(cvd_shape_elements(&a->tensor.shape, &elements));
        cr_assert_eq(
            memcmp(a->tensor.data, b->tensor.data, elements * cvd_dtype_bytes(a->tensor.dtype)), 0);
    }
}

/* Values may be numbered differently, so they are compared where they are used. */
static void same_value(uint32_t a, uint32_t b)
{
    cr_assert_eq(a == GRAPH_NONE, b == GRAPH_NONE);
    if (a == GRAPH_NONE)
        return;
    const struct graph_value *v = &g.values[a], *w = &back.values[b];
    if (v->name)
        same_text(v->name, w->name);
    cr_assert_eq(v->dtype, w->dtype, "%s", v->name);
    cr_assert_eq(v->has_shape, w->has_shape, "%s", v->name);
    cr_assert(!v->has_shape || cvd_shape_equal(&v->shape, &w->shape), "%s", v->name);
    cr_assert_eq(v->data != NULL, w->data != NULL);
    cr_assert_eq(v->bytes, w->bytes);
    cr_assert(!v->data || memcmp(v->data, w->data, v->bytes) == 0, "%s", v->name);
}

static void same_graph(void)
{
    cr_assert_eq(g.ir_version, back.ir_version);
    same_text(g.name, back.name);
    cr_assert_eq(g.node_count, back.node_count);
    for (uint32_t i = 0; i < g.node_count; i++) {
        const struct graph_node *a = &g.nodes[i], *b = &back.nodes[i];
        same_text(a->op, b->op);
        same_text(a->domain, b->domain);
        same_text(a->name, b->name);
        cr_assert_eq(a->attr_count, b->attr_count);
        for (size_t j = 0; j < a->attr_count; j++)
            same_attr(&a->attrs[j], &b->attrs[j]);
        cr_assert_eq(a->in_count, b->in_count);
        for (size_t j = 0; j < a->in_count; j++)
            same_value(a->in[j], b->in[j]);
        cr_assert_eq(a->out_count, b->out_count);
        for (size_t j = 0; j < a->out_count; j++)
            same_value(a->out[j], b->out[j]);
    }
    cr_assert_eq(g.value_count, back.value_count);
    cr_assert_eq(g.input_count, back.input_count);
    for (uint32_t i = 0; i < g.input_count; i++)
        same_value(g.inputs[i], back.inputs[i]);
    cr_assert_eq(g.output_count, back.output_count);
    for (uint32_t i = 0; i < g.output_count; i++)
        same_value(g.outputs[i], back.outputs[i]);
    cr_assert_eq(g.opset_count, back.opset_count);
    for (uint32_t i = 0; i < g.opset_count; i++) {
        same_text(g.opsets[i].domain, back.opsets[i].domain);
        cr_assert_eq(g.opsets[i].version, back.opsets[i].version);
    }
    cr_assert_eq(g.metadata_count, back.metadata_count);
    for (uint32_t i = 0; i < g.metadata_count; i++) {
        same_text(g.metadata[i].key, back.metadata[i].key);
        same_text(g.metadata[i].value, back.metadata[i].value);
    }
}

/* Writes g, reads it into `back` and compares; writes that again and compares the bytes. */
static void round_trip(void)
{
    void *buf = NULL, *again = NULL;
    size_t len = 0, again_len = 0;
    cr_assert_eq(onnx_write(&g, &buf, &len, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(onnx_read(buf, len, NULL, &back, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(graph_check(&back, &err), CVD_STATUS_OK, "%s", err.message);
    same_text(back.producer, "convd");
    same_graph();
    cr_assert_eq(onnx_write(&g, &again, &again_len, &err), CVD_STATUS_OK);
    cr_assert(len == again_len && memcmp(buf, again, len) == 0, "the bytes differ");
    free(buf);
    free(again);
}

/* ---- tests ---- */

/* Every kind of attribute, value and element type that there is. */
static void build_everything(void)
{
    static const int64_t image[] = {CVD_DIM_BATCH, 1, 4, 4},
                         open[] = {CVD_DIM_BATCH, CVD_DIM_BATCH},
                         ints[] = {1, -1, INT64_MAX, INT64_MIN, 300};
    static const float floats[] = {0.1f, -0.0f, INFINITY, NAN};
    static const char *const strings[] = {"one", "", "\xc3\xa9"};
    static const float weights[] = {1, 2, 3, 4, 5, 6};
    static const enum cvd_dtype types[] = {
        CVD_DTYPE_FLOAT32, CVD_DTYPE_UINT8,   CVD_DTYPE_INT8,    CVD_DTYPE_INT32,   CVD_DTYPE_INT64,
        CVD_DTYPE_BOOL,    CVD_DTYPE_FLOAT16, CVD_DTYPE_FLOAT64, CVD_DTYPE_BFLOAT16};
    static const unsigned char ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    enum { TYPES = sizeof(types) / sizeof(*types) };

    uint32_t in[TYPES + 3], x = value("x", CVD_DTYPE_FLOAT32, 4, image);
    uint32_t scale = value("scale", CVD_DTYPE_FLOAT32, 0, NULL);
    uint32_t h = value("hidden", CVD_DTYPE_FLOAT32, 2, open);
    uint32_t nameless = value(NULL, CVD_DTYPE_NONE, 0, NULL);
    uint32_t y = value("y", CVD_DTYPE_INT64, 2, open);
    for (size_t i = 0; i < TYPES; i++) {
        char name[32];
        snprintf(name, sizeof(name), "init.%s", cvd_dtype_name(types[i]));
        in[i] = initializer(name, types[i], (struct cvd_shape){1, {2}}, ones);
    }
    in[TYPES] = GRAPH_NONE;
    in[TYPES + 1] = initializer("empty", CVD_DTYPE_FLOAT32, (struct cvd_shape){2, {0, 3}}, NULL);
    in[TYPES + 2] = initializer("scalar", CVD_DTYPE_INT64, (struct cvd_shape){0, {0}}, ones);

    const struct op_attr attrs[] = {
        {.name = "f", .type = OP_ATTR_FLOAT, .f = 1e-5f},
        {.name = "i", .type = OP_ATTR_INT, .i = -3},
        {.name = "s", .type = OP_ATTR_STRING, .s = "SAME_UPPER"},
        {.name = "ints", .type = OP_ATTR_INTS, .count = 5, .ints = ints},
        {.name = "floats", .type = OP_ATTR_FLOATS, .count = 4, .floats = floats},
        {.name = "strings", .type = OP_ATTR_STRINGS, .count = 3, .strings = strings},
        {.name = "none", .type = OP_ATTR_INTS},
        {.name = "t",
         .type = OP_ATTR_TENSOR,
         .tensor = {CVD_DTYPE_FLOAT32, {2, {2, 3}}, weights, {0}}},
    };
    const uint32_t out1[] = {h, GRAPH_NONE, nameless}, in2[] = {nameless, scale};
    node(&(struct graph_node){"Everything", "com.example", "n1", attrs, 8, in, TYPES + 3, out1, 3,
                              NULL});
    node(&(struct graph_node){"Relu", "", "", NULL, 0, in2, 2, &y, 1, NULL});
    cr_assert_eq(graph_add_input(&g, x, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_input(&g, scale, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_output(&g, y, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_opset(&g, "", 13, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_opset(&g, "com.example", 2, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_metadata(&g, "convd.labels", "[\"0\",\"1\"]", &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_metadata(&g, "empty", "", &err), CVD_STATUS_OK);
    g.ir_version = 7;
    g.name = "everything";
}

Test(onnx_write, everything_comes_back)
{
    build_everything();
    round_trip();
    cr_assert_eq(back.values[back.nodes[1].in[0]].name[0], '#'); /* the name that was made */
}

/* The bytes of a small model, encoded a second time by an encoder that shares no code. */
Test(onnx_write, bytes)
{
    static const int64_t dims[] = {CVD_DIM_BATCH, 4};
    uint32_t x = value("x", CVD_DTYPE_FLOAT32, 2, dims), y = value("y", CVD_DTYPE_FLOAT32, 2, dims);
    const struct op_attr alpha = {.name = "alpha", .type = OP_ATTR_FLOAT, .f = 0.5f};
    node(&(struct graph_node){"LeakyRelu", "", "r", &alpha, 1, &x, 1, &y, 1, NULL});
    cr_assert_eq(graph_add_input(&g, x, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_output(&g, y, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_opset(&g, "", 13, &err), CVD_STATUS_OK);
    g.ir_version = 8;
    g.name = "net";

    struct pb model = {0}, graph = {0}, n = pb_node("LeakyRelu", "r", "x", NULL, "y"), a = {0},
              opset = {0};
    pb_text(&a, 1, "alpha");
    pb_float(&a, 2, 0.5f);
    pb_int(&a, 20, 1);
    pb_message(&n, 5, a);
    pb_message(&graph, 1, n);
    pb_text(&graph, 2, "net");
    pb_message(&graph, 11, pb_value("x", 1, 2, dims));
    pb_message(&graph, 12, pb_value("y", 1, 2, dims));
    pb_int(&model, 1, 8);
    pb_text(&model, 2, "convd");
    pb_message(&model, 7, graph);
    pb_text(&opset, 1, "");
    pb_int(&opset, 2, 13);
    pb_message(&model, 8, opset);

    void *buf;
    size_t len;
    cr_assert_eq(onnx_write(&g, &buf, &len, &err), CVD_STATUS_OK);
    cr_assert_eq(len, model.len);
    cr_assert_eq(memcmp(buf, model.data, len), 0);
    free(buf);
    pb_free(&model);
}

/* A file of version 3 lists its initializers as inputs; what is written need not, and says so. */
Test(onnx_write, old_versions_are_raised)
{
    uint32_t x = value("x", CVD_DTYPE_FLOAT32, 0, NULL);
    cr_assert_eq(graph_add_input(&g, x, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_output(&g, x, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_add_opset(&g, "", 7, &err), CVD_STATUS_OK);
    for (g.ir_version = 0; g.ir_version < 6; g.ir_version++) {
        void *buf;
        size_t len;
        cr_assert_eq(onnx_write(&g, &buf, &len, &err), CVD_STATUS_OK);
        cr_assert_eq(onnx_read(buf, len, NULL, &back, &err), CVD_STATUS_OK, "%s", err.message);
        cr_assert_eq(back.ir_version, g.ir_version < 4 ? 8 : g.ir_version);
        free(buf);
        graph_release(&back);
        cr_assert_eq(graph_init(&back, &err), CVD_STATUS_OK);
    }
}

Test(onnx_write, names_must_differ)
{
    void *buf = &buf;
    size_t len = 77;
    value("x", CVD_DTYPE_NONE, 0, NULL);
    value("x", CVD_DTYPE_NONE, 0, NULL);
    cr_assert_eq(onnx_write(&g, &buf, &len, &err), CVD_STATUS_INVALID_ARGUMENT);
    cr_assert_neq(strstr(err.message, "'x'"), NULL);
    graph_release(&g);
    cr_assert_eq(graph_init(&g, &err), CVD_STATUS_OK);
    value("#1", CVD_DTYPE_NONE, 0, NULL);
    value(NULL, CVD_DTYPE_NONE, 0, NULL);
    cr_assert_eq(onnx_write(&g, &buf, &len, &err), CVD_STATUS_INVALID_ARGUMENT);
    cr_assert_neq(strstr(err.message, "reserved"), NULL);
    cr_assert(buf == &buf && len == 77);
}

/* The first pass only counts, so nothing is read beyond the four bytes that are there. */
Test(onnx_write, two_gibibytes_are_the_limit)
{
    void *buf;
    size_t len;
    uint32_t w = initializer("w", CVD_DTYPE_FLOAT32, (struct cvd_shape){0, {0}}, NULL);
    g.values[w].bytes = (size_t)1 << 31;
    cr_assert_eq(onnx_write(&g, &buf, &len, &err), CVD_STATUS_UNSUPPORTED);
    g.values[w].bytes = 4;
}

Test(onnx_write, an_empty_graph)
{
    void *buf;
    size_t len;
    cr_assert_eq(onnx_write(&g, &buf, &len, &err), CVD_STATUS_OK);
    cr_assert_eq(onnx_read(buf, len, NULL, &back, &err), CVD_STATUS_INVALID_MODEL);
    cr_assert_neq(strstr(err.message, "imports no operator set"), NULL);
    free(buf);
}

/* Every allocation fails once, and then all of them from there on. */
Test(onnx_write, survives_want_of_memory)
{
    build_everything();
    for (int forever = 0; forever < 2; forever++) {
        size_t n = 1;
        for (enum cvd_status status = CVD_STATUS_OUT_OF_MEMORY; status; n++) {
            void *buf;
            size_t len;
            mem_fail_after(n, forever);
            status = onnx_write(&g, &buf, &len, &err);
            mem_fail_after(0, false);
            cr_assert(!status || status == CVD_STATUS_OUT_OF_MEMORY, "%zu: %s", n, err.message);
            if (!status)
                free(buf);
            cr_assert_lt(n, 1000);
        }
        cr_assert_gt(n, 5);
    }
}
