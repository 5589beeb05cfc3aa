/* What the reader makes of models, good and bad, that are put together by hand. */
#include "engine/onnx/onnx.h"
#include "tests/unit/onnx_build.h"

#include <criterion/criterion.h>
#include <stdio.h>

static struct graph g;
static struct cvd_error err;

static void setup(void)
{
    cr_assert_eq(graph_init(&g, &err), CVD_STATUS_OK);
}

static void teardown(void)
{
    graph_release(&g);
}

TestSuite(onnx_read, .init = setup, .fini = teardown);

/* Reads and checks the model from a block of exactly its size, which is gone afterwards. */
static enum cvd_status read_bytes(struct pb model)
{
    void *exact = malloc(model.len ? model.len : 1);
    cr_assert_neq(exact, NULL);
    if (model.len > 0)
        memcpy(exact, model.data, model.len);
    const struct onnx_source source = {.file_name = "hand.onnx"};
    enum cvd_status status = onnx_read(exact, model.len, &source, &g, &err);
    free(exact);
    pb_free(&model);
    return status ? status : graph_check(&g, &err);
}

static void accepted(struct pb graph)
{
    cr_assert_eq(read_bytes(pb_model(graph)), CVD_STATUS_OK, "%s", err.message);
}

static void refused_bytes(struct pb model, enum cvd_status status, const char *part)
{
    err.message[0] = '\0';
    enum cvd_status got = read_bytes(model);
    cr_expect_eq(got, status, "%s instead of %s for '%s': %s", cvd_status_name(got),
                 cvd_status_name(status), part, err.message);
    cr_expect_neq(strstr(err.message, part), NULL, "'%s' lacks '%s'", err.message, part);
    cr_expect_eq(strchr(err.message, '\n'), NULL);
    graph_release(&g);
    setup();
}

static void invalid(struct pb graph, const char *part)
{
    refused_bytes(pb_model(graph), CVD_STATUS_INVALID_MODEL, part);
}

static void unsupported(struct pb graph, const char *part)
{
    refused_bytes(pb_model(graph), CVD_STATUS_UNSUPPORTED, part);
}

/* x -> Relu 'r' -> y, with `extra` as one more field of the graph. */
static struct pb graph_with(unsigned field, struct pb extra)
{
    struct pb graph = {0};
    pb_message(&graph, 1, pb_node("Relu", "r", "x", NULL, "y"));
    pb_ends(&graph);
    pb_message(&graph, field, extra);
    return graph;
}

static struct pb graph_with_initializer(struct pb tensor)
{
    return graph_with(5, tensor);
}

/* The same with an attribute of the node. */
static struct pb graph_with_attr(struct pb attr)
{
    struct pb graph = {0}, node = pb_node("Relu", "r", "x", NULL, "y");
    pb_message(&node, 5, attr);
    pb_message(&graph, 1, node);
    pb_ends(&graph);
    return graph;
}

static const struct graph_value *find(const char *name)
{
    for (uint32_t i = 0; i < g.value_count; i++)
        if (strcmp(g.values[i].name, name) == 0)
            return &g.values[i];
    cr_assert_fail("no value '%s'", name);
    return NULL;
}

/* ---- good models ---- */

Test(onnx_read, a_small_network)
{
    static const int64_t w_dims[] = {4, 3}, h_dims[] = {-1, 3};
    float w[12];
    for (int i = 0; i < 12; i++)
        w[i] = (float)i;
    struct pb graph = {0}, entry = {0};
    /* Nodes come first and in the wrong order; initializers last. */
    pb_text(&graph, 2, "net");
    pb_message(&graph, 1, pb_node("Relu", NULL, "h", NULL, "y"));
    pb_message(&graph, 1, pb_node("MatMul", "dense", "x", "w", "h"));
    pb_ends(&graph);
    pb_message(&graph, 13, pb_value("h", 1, 2, h_dims));
    pb_message(&graph, 13, pb_value("long gone", 1, 2, h_dims));
    pb_message(&graph, 5, pb_tensor("w", 1, 2, w_dims, w, sizeof(w)));
    struct pb model = pb_model(graph);
    pb_text(&entry, 1, "convd.labels");
    pb_text(&entry, 2, "[\"a\"]");
    pb_message(&model, 14, entry);
    pb_text(&model, 6, "a documentation string"); /* skipped, like any field not known */
    pb_int(&model, 5000, 7);
    cr_assert_eq(read_bytes(model), CVD_STATUS_OK, "%s", err.message);

    cr_assert_eq(g.ir_version, 8);
    cr_assert_str_eq(g.producer, "hand");
    cr_assert_str_eq(g.name, "net");
    cr_assert_eq(graph_opset(&g, ""), 13);
    cr_assert_eq(g.metadata_count, 1);
    cr_assert_str_eq(g.metadata[0].key, "convd.labels");
    cr_assert_str_eq(g.metadata[0].value, "[\"a\"]");
    cr_assert_eq(g.value_count, 4);
    cr_assert_eq(g.input_count, 1);
    cr_assert_eq(g.output_count, 1);
    cr_assert_str_eq(g.values[g.inputs[0]].name, "x");
    cr_assert_str_eq(g.values[g.outputs[0]].name, "y");

    const struct graph_value *x = find("x"), *weights = find("w"), *h = find("h");
    cr_assert_eq(x->dtype, CVD_DTYPE_FLOAT32);
    cr_assert(x->has_shape && x->shape.rank == 2);
    cr_assert_eq(x->shape.dims[0], CVD_DIM_BATCH);
    cr_assert_eq(x->shape.dims[1], 4);
    cr_assert_eq(h->shape.dims[1], 3);
    cr_assert_eq(weights->bytes, sizeof(w));
    cr_assert_eq((uintptr_t)weights->data % MEM_ALIGN, 0);
    cr_assert_eq(memcmp(weights->data, w, sizeof(w)), 0);

    cr_assert_eq(g.node_count, 2);
    cr_assert_str_eq(g.nodes[0].op, "MatMul"); /* sorted */
    cr_assert_str_eq(g.nodes[0].name, "dense");
    cr_assert_str_eq(g.nodes[1].name, "");
    cr_assert_eq(&g.values[g.nodes[0].in[1]], weights);
    cr_assert_eq(g.nodes[0].out[0], g.nodes[1].in[0]);
}

Test(onnx_read, initializers_listed_as_inputs_are_no_inputs)
{
    static const int64_t dims[] = {4};
    struct pb graph = {0}, model = {0}, opset = {0};
    pb_message(&graph, 11, pb_value("b", 1, 1, dims));
    pb_message(&graph, 1, pb_node("Add", "add", "x", "b", "y"));
    pb_ends(&graph);
    pb_message(&graph, 5, pb_tensor("b", 1, 1, dims, "0123456789abcdef", 16));
    pb_int(&model, 1, 3);
    pb_message(&model, 7, graph);
    pb_text(&opset, 1, "ai.onnx");
    pb_int(&opset, 2, 7);
    pb_message(&model, 8, opset);
    cr_assert_eq(read_bytes(model), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(g.input_count, 1);
    cr_assert_str_eq(g.values[g.inputs[0]].name, "x");
    cr_assert_eq(graph_opset(&g, ""), 7); /* ai.onnx is another name of it */
}

Test(onnx_read, files_older_than_operator_sets)
{
    struct pb graph = {0}, model = {0};
    pb_message(&graph, 1, pb_node("Relu", "r", "x", NULL, "y"));
    pb_ends(&graph);
    pb_int(&model, 1, 1);
    pb_message(&model, 7, graph);
    cr_assert_eq(read_bytes(model), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(graph_opset(&g, ""), 1);
}

Test(onnx_read, absent_optional_inputs)
{
    struct pb graph = {0}, node = {0};
    pb_text(&node, 4, "Clip");
    pb_text(&node, 7, "ai.onnx");
    pb_text(&node, 1, "x");
    pb_text(&node, 1, "");
    pb_text(&node, 1, "x");
    pb_text(&node, 2, "y");
    pb_text(&node, 2, "");
    pb_message(&graph, 1, node);
    pb_ends(&graph);
    accepted(graph);
    cr_assert_eq(g.nodes[0].in_count, 3);
    cr_assert_eq(g.nodes[0].in[1], GRAPH_NONE);
    cr_assert_eq(g.nodes[0].in[2], g.nodes[0].in[0]);
    cr_assert_eq(g.nodes[0].out_count, 2);
    cr_assert_eq(g.nodes[0].out[1], GRAPH_NONE);
    cr_assert_str_eq(g.nodes[0].domain, "");
}

Test(onnx_read, shapes_that_are_not_known)
{
    struct pb graph = {0}, proto = {0}, tensor = {0}, info = {0}, shape = {0}, dim = {0};
    pb_int(&tensor, 1, 1);
    pb_message(&proto, 1, tensor);
    pb_text(&info, 1, "x");
    pb_message(&info, 2, proto);
    pb_message(&graph, 11, info); /* no shape at all */
    proto = tensor = info = (struct pb){0};
    pb_message(&shape, 1, dim); /* neither value nor parameter */
    pb_int(&dim, 1, -1);        /* as some exporters write it */
    pb_message(&shape, 1, dim);
    dim = (struct pb){0};
    pb_int(&dim, 1, 0);
    pb_message(&shape, 1, dim);
    pb_int(&tensor, 1, 1);
    pb_message(&tensor, 2, shape);
    pb_message(&proto, 1, tensor);
    pb_text(&info, 1, "y");
    pb_message(&info, 2, proto);
    pb_message(&graph, 12, info);
    pb_message(&graph, 1, pb_node("Relu", "r", "x", NULL, "y"));
    accepted(graph);
    cr_assert_not(find("x")->has_shape);
    cr_assert_eq(find("y")->shape.rank, 3);
    cr_assert_eq(find("y")->shape.dims[0], CVD_DIM_BATCH);
    cr_assert_eq(find("y")->shape.dims[1], CVD_DIM_BATCH);
    cr_assert_eq(find("y")->shape.dims[2], 0);
}

Test(onnx_read, a_message_may_be_NULL)
{
    struct pb model = {0};
    pb_int(&model, 1, 8);
    cr_assert_eq(onnx_read(model.data, model.len, NULL, &g, NULL), CVD_STATUS_INVALID_MODEL);
    pb_free(&model);
}

/* ---- attributes ---- */

static struct pb attr(const char *name, int64_t type)
{
    struct pb a = {0};
    pb_text(&a, 1, name);
    if (type)
        pb_int(&a, 20, type);
    return a;
}

/* One attribute of every kind; `typed` says whether with its type. */
static struct pb graph_with_all_attrs(bool typed)
{
    static const int64_t dims[] = {2};
    static const float weights[] = {3, 4};
    struct pb graph = {0}, node = pb_node("Relu", "r", "x", NULL, "y"), a;
    a = attr("f", typed ? 1 : 0);
    pb_float(&a, 2, -0.25f);
    pb_message(&node, 5, a);
    a = attr("i", typed ? 2 : 0);
    pb_int(&a, 3, -7);
    pb_message(&node, 5, a);
    a = attr("s", typed ? 3 : 0);
    pb_text(&a, 4, "SAME_UPPER");
    pb_message(&node, 5, a);
    a = attr("t", typed ? 4 : 0);
    pb_message(&a, 5, pb_tensor("", 1, 1, dims, weights, sizeof(weights)));
    pb_message(&node, 5, a);
    a = attr("floats", typed ? 6 : 0);
    pb_float(&a, 7, 1);
    pb_bytes(&a, 7, weights, sizeof(weights)); /* packed */
    pb_message(&node, 5, a);
    a = attr("ints", typed ? 7 : 0);
    pb_int(&a, 8, -1);
    pb_bytes(&a, 8, "\x05\x96\x01", 3); /* packed */
    pb_int(&a, 8, INT64_MIN);
    pb_message(&node, 5, a);
    a = attr("strings", typed ? 8 : 0);
    pb_text(&a, 9, "one");
    pb_text(&a, 9, "");
    pb_message(&node, 5, a);
    pb_message(&graph, 1, node);
    pb_ends(&graph);
    return graph;
}

static void check_all_attrs(void)
{
    const struct op_attr *a = g.nodes[0].attrs;
    cr_assert_eq(g.nodes[0].attr_count, 7);
    cr_assert(a[0].type == OP_ATTR_FLOAT && a[0].f == -0.25f);
    cr_assert(a[1].type == OP_ATTR_INT && a[1].i == -7);
    cr_assert(a[2].type == OP_ATTR_STRING);
    cr_assert_str_eq(a[2].s, "SAME_UPPER");
    cr_assert(a[3].type == OP_ATTR_TENSOR && a[3].tensor.dtype == CVD_DTYPE_FLOAT32);
    cr_assert(a[3].tensor.shape.rank == 1 && a[3].tensor.shape.dims[0] == 2);
    cr_assert_eq(((const float *)a[3].tensor.data)[1], 4);
    cr_assert_eq((uintptr_t)a[3].tensor.data % MEM_ALIGN, 0);
    cr_assert(a[4].type == OP_ATTR_FLOATS && a[4].count == 3);
    cr_assert(a[4].floats[0] == 1 && a[4].floats[1] == 3 && a[4].floats[2] == 4);
    cr_assert(a[5].type == OP_ATTR_INTS && a[5].count == 4);
    cr_assert(a[5].ints[0] == -1 && a[5].ints[1] == 5 && a[5].ints[2] == 150);
    cr_assert_eq(a[5].ints[3], INT64_MIN);
    cr_assert(a[6].type == OP_ATTR_STRINGS && a[6].count == 2);
    cr_assert_str_eq(a[6].strings[0], "one");
    cr_assert_str_eq(a[6].strings[1], "");
}

Test(onnx_read, attributes_of_every_kind)
{
    accepted(graph_with_all_attrs(true));
    check_all_attrs();
}

Test(onnx_read, attribute_types_are_deduced)
{
    accepted(graph_with_all_attrs(false));
    check_all_attrs();
}

Test(onnx_read, default_values_may_be_left_out)
{
    struct pb graph = {0}, node = pb_node("Relu", "r", "x", NULL, "y");
    pb_message(&node, 5, attr("i", 2));
    pb_message(&node, 5, attr("s", 3));
    pb_message(&node, 5, attr("ints", 7));
    pb_message(&graph, 1, node);
    pb_ends(&graph);
    accepted(graph);
    cr_assert_eq(g.nodes[0].attrs[0].i, 0);
    cr_assert_str_eq(g.nodes[0].attrs[1].s, "");
    cr_assert_eq(g.nodes[0].attrs[2].count, 0);
}

Test(onnx_read, attributes_that_are_refused)
{
    struct pb a = attr("then_branch", 5), inner = {0};
    pb_text(&inner, 2, "branch");
    pb_message(&a, 6, inner);
    unsupported(graph_with_attr(a), "Relu 'r': attribute 'then_branch' is of type graph");
    a = attr("g", 0);
    pb_text(&a, 6, "");
    unsupported(graph_with_attr(a), "attribute 'g' is of type graph");
    static const char *const others[] = {
        [9] = "tensors",         [10] = "graphs", [11] = "sparse tensor",
        [12] = "sparse tensors", [13] = "type",   [14] = "types"};
    static const unsigned fields[] = {
        [9] = 10, [10] = 11, [11] = 22, [12] = 23, [13] = 14, [14] = 15};
    for (int type = 9; type <= 14; type++) {
        a = attr("a", type);
        pb_text(&a, fields[type], "");
        unsupported(graph_with_attr(a), others[type]);
    }
    unsupported(graph_with_attr(attr("a", 15)), "unknown type 15");
    invalid(graph_with_attr(attr("a", -1)), "neither a type nor");
    invalid(graph_with_attr(attr("a", 0)), "neither a type nor");
    invalid(graph_with_attr(attr("t", 4)), "attribute 't' has no value");

    a = attr("a", 2);
    pb_float(&a, 2, 1);
    invalid(graph_with_attr(a), "attribute 'a' is of type int but has a value of another type");
    a = attr("a", 0);
    pb_float(&a, 2, 1);
    pb_int(&a, 3, 1);
    invalid(graph_with_attr(a), "neither a type nor");
    a = attr("a", 2);
    pb_text(&a, 21, "outer");
    unsupported(graph_with_attr(a), "'outer'");
    a = (struct pb){0};
    pb_int(&a, 20, 2);
    invalid(graph_with_attr(a), "no name");
    a = attr("a", 2);
    pb_float(&a, 3, 1);
    invalid(graph_with_attr(a), "wrong type");
    a = attr("mode", 3);
    pb_bytes(&a, 4, "SAME\0X", 6);
    unsupported(graph_with_attr(a), "zero byte");
    a = attr("modes", 8);
    pb_bytes(&a, 9, "\0", 1);
    unsupported(graph_with_attr(a), "zero byte");
    a = attr("t", 4);
    pb_message(&a, 5, pb_tensor("", 1, 0, NULL, "123", 3));
    invalid(graph_with_attr(a), "Relu 'r': attribute 't' has 3 bytes of data, float32 [] needs 4");

    struct pb graph = {0}, node = pb_node("Relu", NULL, "x", NULL, "y");
    pb_message(&node, 5, attr("axis", 2));
    pb_message(&node, 5, attr("axis", 2));
    pb_message(&graph, 1, node);
    pb_ends(&graph);
    invalid(graph, "Relu (node 0): attribute 'axis' is given twice");
}

/* ---- tensors ---- */

/* A tensor whose elements are in one of the typed fields. */
static struct pb typed_tensor(int64_t type, int64_t dim, unsigned field, const void *packed,
                              size_t len)
{
    struct pb t = {0};
    pb_text(&t, 8, "w");
    pb_bytes(&t, 1, &dim, 1); /* dims may be packed too; below 128 it is its own encoding */
    pb_int(&t, 2, type);
    pb_bytes(&t, field, packed, len);
    return t;
}

static void holds(struct pb tensor, enum cvd_dtype dtype, const void *data, size_t len)
{
    accepted(graph_with_initializer(tensor));
    const struct graph_value *w = find("w");
    cr_assert_eq(w->dtype, dtype);
    cr_assert_eq(w->bytes, len);
    cr_assert_eq(memcmp(w->data, data, len), 0, "%s", cvd_dtype_name(dtype));
    graph_release(&g);
    setup();
}

Test(onnx_read, typed_data_of_every_type)
{
    static const float floats[] = {1.5f, -2};
    static const double doubles[] = {1.5, -2e300};
    static const int32_t ints[] = {-1, 300};
    static const int64_t longs[] = {-1, 300};
    static const uint16_t halves[] = {0xfc00, 0x3c00};
    static const char minus_one[] = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    char packed[12];
    memcpy(packed, minus_one, 10);
    memcpy(packed + 10, "\xac\x02", 2); /* -1, 300 */
    holds(typed_tensor(1, 2, 4, floats, 8), CVD_DTYPE_FLOAT32, floats, 8);
    holds(typed_tensor(11, 2, 10, doubles, 16), CVD_DTYPE_FLOAT64, doubles, 16);
    holds(typed_tensor(6, 2, 5, packed, 12), CVD_DTYPE_INT32, ints, 8);
    holds(typed_tensor(7, 2, 7, packed, 12), CVD_DTYPE_INT64, longs, 16);
    holds(typed_tensor(10, 2, 5, "\x80\xf8\x03\x80\x78", 5), CVD_DTYPE_FLOAT16, halves, 4);
    holds(typed_tensor(16, 2, 5, "\x80\xf8\x03\x80\x78", 5), CVD_DTYPE_BFLOAT16, halves, 4);
    holds(typed_tensor(9, 2, 5, "\x01\x00", 2), CVD_DTYPE_BOOL, "\x01\x00", 2);
    holds(typed_tensor(2, 2, 5, "\xff\x01\x00", 3), CVD_DTYPE_UINT8, "\xff\x00", 2);
    memcpy(packed + 10, "\x7f", 1);
    holds(typed_tensor(3, 2, 5, packed, 11), CVD_DTYPE_INT8, "\xff\x7f", 2);

    struct pb one_by_one = {0};
    pb_text(&one_by_one, 8, "w");
    pb_int(&one_by_one, 1, 2);
    pb_int(&one_by_one, 2, 1);
    pb_float(&one_by_one, 4, 1.5f);
    pb_float(&one_by_one, 4, -2);
    holds(one_by_one, CVD_DTYPE_FLOAT32, floats, 8);
}

Test(onnx_read, raw_data_scalars_and_empty_tensors)
{
    static const int64_t none[] = {3, 0};
    holds(pb_tensor("w", 1, 0, NULL, "\0\0\x80\x3f", 4), CVD_DTYPE_FLOAT32, "\0\0\x80\x3f", 4);
    holds(pb_tensor("w", 7, 2, none, "", 0), CVD_DTYPE_INT64, "", 0);
    holds(pb_tensor("w", 10, 0, NULL, "\x01\x02", 2), CVD_DTYPE_FLOAT16, "\x01\x02", 2);

    struct pb both = pb_tensor("w", 1, 0, NULL, "", 0); /* raw_data there, but empty */
    pb_float(&both, 4, 1);
    holds(both, CVD_DTYPE_FLOAT32, "\0\0\x80\x3f", 4);
}

Test(onnx_read, tensors_whose_size_is_wrong)
{
    static const int64_t dims[] = {6, 1, 5, 5}, big[] = {INT64_C(1) << 40, INT64_C(1) << 40},
                         wraps[] = {INT64_C(1) << 32, INT64_C(1) << 32, 0}, minus[] = {2, -3},
                         bytes[] = {INT64_MAX / 2}, nine[] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    char raw[604] = {0};
    invalid(graph_with_initializer(pb_tensor("conv1.w", 1, 4, dims, raw, 100)),
            "hand.onnx: initializer 'conv1.w' has 100 bytes of data, float32 [6,1,5,5] needs 600");
    invalid(graph_with_initializer(pb_tensor("w", 1, 4, dims, raw, 604)),
            "has 604 bytes of data, float32 [6,1,5,5] needs 600");
    invalid(graph_with_initializer(pb_tensor("w", 1, 4, dims, raw, 0)), "has 0 bytes");
    invalid(graph_with_initializer(typed_tensor(1, 3, 4, raw, 8)),
            "initializer 'w' has 2 elements of data, float32 [3] needs 3");
    invalid(graph_with_initializer(typed_tensor(1, 1, 4, raw, 8)), "has 2 elements");
    invalid(graph_with_initializer(typed_tensor(1, 0, 4, raw, 8)), "has 2 elements");
    invalid(graph_with_initializer(typed_tensor(1, 1, 4, raw, 7)), "whole number of elements");
    invalid(graph_with_initializer(pb_tensor("w", 1, 2, big, raw, 0)), "larger than memory");
    invalid(graph_with_initializer(pb_tensor("w", 1, 3, wraps, raw, 0)), "larger than memory");
    invalid(graph_with_initializer(pb_tensor("w", 11, 1, bytes, raw, 0)), "larger than memory");
    invalid(graph_with_initializer(pb_tensor("w", 1, 2, minus, raw, 0)), "negative extent, -3");
    unsupported(graph_with_initializer(pb_tensor("w", 1, 9, nine, raw, 4)), "9 dimensions");
}

Test(onnx_read, tensors_whose_data_are_of_the_wrong_kind)
{
    struct pb t = pb_tensor("w", 1, 0, NULL, "1234", 4);
    pb_float(&t, 4, 1);
    invalid(graph_with_initializer(t), "both raw_data and float_data");
    invalid(graph_with_initializer(typed_tensor(7, 1, 4, "1234", 4)),
            "initializer 'w' is int64 but its data are in float_data");
    invalid(graph_with_initializer(typed_tensor(1, 1, 5, "1", 1)), "in int32_data");
    invalid(graph_with_initializer(typed_tensor(7, 1, 11, "1", 1)), "in uint64_data");
    invalid(graph_with_initializer(typed_tensor(1, 1, 6, "text", 4)), "its data are strings");
    invalid(graph_with_initializer(typed_tensor(2, 1, 5, "\x80\x02", 2)), "holds 256");
    invalid(graph_with_initializer(typed_tensor(3, 1, 5, "\x80\x01", 2)), "holds 128");
    invalid(graph_with_initializer(typed_tensor(10, 1, 5, "\x80\x80\x04", 3)), "holds 65536");
    invalid(graph_with_initializer(typed_tensor(9, 1, 5, "\x02", 1)), "holds 2, which is no bool");
    invalid(graph_with_initializer(typed_tensor(9, 1, 9, "\xff", 1)), "holds 255");
}

Test(onnx_read, element_types_that_are_refused)
{
    static const struct {
        int64_t type;
        enum cvd_status status;
        const char *part;
    } cases[] = {
        {0, CVD_STATUS_INVALID_MODEL, "no valid element type"},
        {-1, CVD_STATUS_INVALID_MODEL, "no valid element type"},
        {4, CVD_STATUS_UNSUPPORTED, "uint16"},
        {5, CVD_STATUS_UNSUPPORTED, "int16"},
        {8, CVD_STATUS_UNSUPPORTED, "string"},
        {12, CVD_STATUS_UNSUPPORTED, "uint32"},
        {13, CVD_STATUS_UNSUPPORTED, "uint64"},
        {15, CVD_STATUS_UNSUPPORTED, "complex128"},
        {17, CVD_STATUS_UNSUPPORTED, "float8e4m3fn"},
        {22, CVD_STATUS_UNSUPPORTED, "int4"},
        {26, CVD_STATUS_UNSUPPORTED, "int2"},
        {27, CVD_STATUS_UNSUPPORTED, "unknown element type 27"},
        {INT64_MAX, CVD_STATUS_UNSUPPORTED, "unknown element type"},
        {INT64_C(1) << 32 | 1, CVD_STATUS_UNSUPPORTED, "unknown element type"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        refused_bytes(
            pb_model(graph_with_initializer(pb_tensor("w", cases[i].type, 0, NULL, "", 0))),
            cases[i].status, cases[i].part);
        if (cases[i].type != 0) /* a value may leave its type open */
            refused_bytes(pb_model(graph_with(13, pb_value("x", cases[i].type, 0, NULL))),
                          cases[i].status, cases[i].part);
    }
}

Test(onnx_read, tensors_stored_in_ways_not_supported)
{
    struct pb t = pb_tensor("w", 1, 0, NULL, "1234", 4), segment = {0}, entry = {0};
    pb_int(&segment, 1, 0);
    pb_message(&t, 3, segment);
    unsupported(graph_with_initializer(t), "segments");
    t = pb_tensor("w", 1, 0, NULL, "1234", 4);
    pb_int(&t, 14, 2);
    invalid(graph_with_initializer(t), "data_location 2");
    t = pb_tensor("w", 1, 0, NULL, "", 0);
    pb_text(&entry, 1, "location");
    pb_text(&entry, 2, "weights.bin");
    pb_message(&t, 13, entry);
    pb_int(&t, 14, 1);
    unsupported(graph_with_initializer(t), "'w' is external data"); /* no folder is known */
}

/* ---- graphs ---- */

Test(onnx_read, names_given_twice)
{
    static const int64_t dims[] = {-1, 4};
    struct pb graph = graph_with_initializer(pb_tensor("w", 1, 0, NULL, "1234", 4));
    pb_message(&graph, 5, pb_tensor("w", 1, 0, NULL, "1234", 4));
    invalid(graph, "initializer 'w' is given twice");
    invalid(graph_with(11, pb_value("x", 1, 2, dims)), "input 'x' is listed twice");
    invalid(graph_with(12, pb_value("y", 1, 2, dims)), "output 'y' is listed twice");
    invalid(graph_with(1, pb_node("Relu", "again", "x", NULL, "y")), "Relu 'again': output 'y'");
    invalid(graph_with(1, pb_node("Relu", "again", "x", NULL, "x")), "Relu 'again': output 'x'");
}

Test(onnx_read, parts_that_are_missing)
{
    static const int64_t dims[] = {-1, 4};
    struct pb untyped = {0}, nameless = {0}, no_op = {0};
    invalid(graph_with(1, pb_node("Add", "a", "x", "weight", "z")), "Add 'a': input 1, 'weight'");
    invalid(graph_with(12, pb_value("z", 1, 2, dims)), "graph output 'z'");
    invalid(graph_with(5, pb_tensor("", 1, 0, NULL, "1234", 4)), "an initializer has no name");
    pb_text(&untyped, 1, "z");
    invalid(graph_with(11, untyped), "graph input 'z' has no element type");
    pb_text(&nameless, 6, "x");
    invalid(graph_with(11, nameless), "no name");
    pb_text(&no_op, 3, "who");
    invalid(graph_with(1, no_op), "a node names no operator");
    invalid((struct pb){0}, "the graph has no outputs");
}

Test(onnx_read, declarations_that_contradict)
{
    static const int64_t dims[] = {4}, other[] = {5}, open[] = {-1}, minus[] = {-2}, nine[9] = {0};
    static const float w[4] = {0};
    struct pb graph = graph_with_initializer(pb_tensor("w", 1, 1, dims, w, 16));
    pb_message(&graph, 11, pb_value("w", 7, 1, dims));
    invalid(graph, "'w' is float32 in one place and int64 in another");
    graph = graph_with_initializer(pb_tensor("w", 1, 1, dims, w, 16));
    pb_message(&graph, 11, pb_value("w", 1, 1, other));
    invalid(graph, "initializer 'w' has shape [4] but is declared as [5]");
    graph = graph_with_initializer(pb_tensor("w", 1, 1, dims, w, 16));
    pb_message(&graph, 11, pb_value("w", 1, 1, open));
    accepted(graph);
    graph_release(&g);
    setup();
    invalid(graph_with(13, pb_value("x", 6, 0, NULL)), "'x' is float32 in one place and int32");
    invalid(graph_with(13, pb_value("x", 1, 1, minus)), "negative extent, -2");
    unsupported(graph_with(13, pb_value("x", 1, 9, nine)), "'x' has 9 dimensions");
}

Test(onnx_read, values_that_are_no_tensors)
{
    static const struct {
        unsigned field;
        const char *part;
    } kinds[] = {{4, "'z' is a sequence"},
                 {5, "a map"},
                 {7, "opaque"},
                 {8, "a sparse tensor"},
                 {9, "optional"}};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        struct pb info = {0}, proto = {0};
        pb_text(&info, 1, "z");
        pb_text(&proto, kinds[i].field, "");
        pb_message(&info, 2, proto);
        unsupported(graph_with(11, info), kinds[i].part);
    }
    struct pb sparse = {0};
    unsupported(graph_with(15, sparse), "sparse initializers");
}

Test(onnx_read, too_many_of_anything)
{
    struct pb graph = {0}, node = pb_node("Concat", "c", NULL, NULL, "y");
    for (int i = 0; i <= OP_MAX_INPUTS; i++)
        pb_text(&node, 1, "x");
    pb_message(&graph, 1, node);
    pb_ends(&graph);
    unsupported(graph, "Concat 'c': 4097 inputs, at most 4096");
    graph = (struct pb){0};
    node = pb_node("Split", "s", "x", NULL, "y");
    for (int i = 0; i < OP_MAX_OUTPUTS; i++)
        pb_text(&node, 2, "");
    pb_message(&graph, 1, node);
    unsupported(graph, "257 outputs");
    graph = (struct pb){0};
    node = pb_node("Relu", "r", "x", NULL, "y");
    for (unsigned i = 0; i <= GRAPH_MAX_ATTRS; i++)
        pb_text(&node, 5, "");
    pb_message(&graph, 1, node);
    unsupported(graph, "65 attributes");

    char *name = malloc(70001);
    memset(name, 'n', 70000);
    name[70000] = '\0';
    unsupported(graph_with(1, pb_node("Relu", "r", name, NULL, "z")), "70000 bytes");
    free(name);
}

Test(onnx_read, names_that_are_no_text)
{
    struct pb graph = {0}, node = {0};
    invalid(graph_with(1, pb_node("Relu", "a\xff", "x", NULL, "z")), "a node's name, 'a?'");
    invalid(graph_with(1, pb_node("Relu", "r", "x", NULL, "\xc0\xaf")), "a value's name");
    pb_bytes(&node, 4, "Re\0lu", 5);
    pb_message(&graph, 1, node);
    invalid(graph, "an operator's name");
    accepted(graph_with(1, pb_node("Relu", "\xc3\xa9\xe2\x82\xac", "x", NULL, "\xf0\x9f\x98\x80")));
}

/* ---- models ---- */

Test(onnx_read, files_that_are_no_models)
{
    static const char *const texts[] = {"hello, world\n", "\x89PNG\r\n\x1a\n", "PK\x03\x04", "{}",
                                        "\xff\xd8\xff\xe0"};
    struct pb model = {0};
    refused_bytes(model, CVD_STATUS_INVALID_MODEL, "hand.onnx: not an ONNX file: it is empty");
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        model = (struct pb){0};
        pb_raw(&model, texts[i], strlen(texts[i]));
        refused_bytes(model, CVD_STATUS_INVALID_MODEL, "not an ONNX file");
    }
    model = (struct pb){0};
    pb_int(&model, 1, 8);
    refused_bytes(model, CVD_STATUS_INVALID_MODEL, "it has no graph");
    model = (struct pb){0};
    pb_text(&model, 7, "");
    refused_bytes(model, CVD_STATUS_INVALID_MODEL, "it has no ir_version");
    model = pb_model((struct pb){0});
    pb_text(&model, 7, "");
    refused_bytes(model, CVD_STATUS_INVALID_MODEL, "more than one graph");
    model = (struct pb){0};
    pb_text(&model, 1, "8");
    refused_bytes(model, CVD_STATUS_INVALID_MODEL, "wrong type");
}

static struct pb opset(const char *domain, int64_t version)
{
    struct pb o = {0};
    pb_text(&o, 1, domain);
    pb_int(&o, 2, version);
    return o;
}

Test(onnx_read, operator_sets)
{
    struct pb graph = {0}, model = {0};
    pb_message(&graph, 1, pb_node("Relu", "r", "x", NULL, "y"));
    pb_ends(&graph);
    pb_int(&model, 1, 3);
    pb_message(&model, 7, graph);
    refused_bytes(model, CVD_STATUS_INVALID_MODEL, "imports no operator set");
    model = pb_model((struct pb){0});
    pb_message(&model, 8, opset("com.microsoft", 0));
    refused_bytes(model, CVD_STATUS_INVALID_MODEL, "'com.microsoft' is imported as version 0");
    model = pb_model((struct pb){0});
    pb_message(&model, 8, opset("ai.onnx", 12));
    refused_bytes(model, CVD_STATUS_INVALID_MODEL, "version 12 after another version");

    graph = (struct pb){0};
    pb_message(&graph, 1, pb_node("Relu", "r", "x", NULL, "y"));
    pb_ends(&graph);
    model = pb_model(graph);
    pb_message(&model, 8, opset("ai.onnx", 13)); /* the same again does no harm */
    pb_message(&model, 8, opset("com.microsoft", 1));
    cr_assert_eq(read_bytes(model), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(g.opset_count, 2);
    cr_assert_eq(graph_opset(&g, "com.microsoft"), 1);
}

Test(onnx_read, functions)
{
    struct pb model = pb_model((struct pb){0}), function = {0};
    pb_text(&function, 1, "f");
    pb_message(&model, 25, function);
    refused_bytes(model, CVD_STATUS_UNSUPPORTED, "functions");
}

/* ---- lone tensors ---- */

Test(onnx_read, lone_tensor)
{
    static const int64_t dims[] = {2, 2};
    static const float data[] = {1, 2, 3, 4};
    struct pb t = pb_tensor("input", 1, 2, dims, data, sizeof(data));
    const char *name = NULL;
    struct op_tensor out = {0};
    cr_assert_eq(onnx_read_tensor(t.data, t.len, g.arena, &name, &out, &err), CVD_STATUS_OK);
    cr_assert_str_eq(name, "input");
    cr_assert_eq(out.dtype, CVD_DTYPE_FLOAT32);
    cr_assert(out.shape.rank == 2 && out.shape.dims[0] == 2 && out.shape.dims[1] == 2);
    cr_assert_eq(memcmp(out.data, data, sizeof(data)), 0);
    mem_free((void *)(uintptr_t)out.data);

    for (size_t len = 0; len < t.len; len++) {
        void *exact = malloc(len ? len : 1);
        memcpy(exact, t.data, len);
        cr_assert_eq(onnx_read_tensor(exact, len, g.arena, &name, &out, &err),
                     CVD_STATUS_INVALID_MODEL, "cut to %zu bytes", len);
        free(exact);
    }
    pb_free(&t);

    t = pb_tensor("\xff", 1, 2, dims, data, sizeof(data));
    cr_assert_eq(onnx_read_tensor(t.data, t.len, g.arena, &name, &out, &err),
                 CVD_STATUS_INVALID_MODEL);
    pb_free(&t);
}
