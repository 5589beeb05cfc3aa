/*
 * Files that were damaged or made to hurt: whatever the bytes, the reader ends with a graph or with
 * one line of explanation, in time and memory that the file's length bounds. Run under
 * AddressSanitizer, these tests also show that nothing is read out of bounds or leaked.
 */
#include "engine/onnx/onnx.h"
#include "tests/support/data.h"
#include "tests/unit/onnx_build.h"

#include <criterion/criterion.h>
#include <glob.h>
#include <stdio.h>
#include <time.h>

/* Reads the first len bytes from a block of exactly that size. */
static enum cvd_status read_exact(const void *bytes, size_t len, struct cvd_error *err)
{
    void *exact = malloc(len ? len : 1);
    cr_assert_neq(exact, NULL);
    if (len > 0)
        memcpy(exact, bytes, len);
    struct graph g;
    enum cvd_status status = graph_init(&g, err);
    if (!status)
        status = onnx_read(exact, len, NULL, &g, err);
    free(exact);
    if (!status)
        status = graph_check(&g, err);
    graph_release(&g);
    return status;
}

/* The same, and the verdict must be one that a file can earn, in a single line. */
static enum cvd_status survive(const void *bytes, size_t len)
{
    struct cvd_error err = {0};
    enum cvd_status status = read_exact(bytes, len, &err);
    cr_assert(!status || status == CVD_STATUS_INVALID_MODEL || status == CVD_STATUS_UNSUPPORTED,
              "%s: %s", cvd_status_name(status), err.message);
    cr_assert(!status || (strlen(err.message) > 10 && !strchr(err.message, '\n')));
    return status;
}

/* A graph with a bit of everything: nodes, attributes, raw and typed tensors. */
static struct pb sample_graph(void)
{
    static const int64_t w_dims[] = {2, 4}, dims[] = {-1, 2};
    static const float weights[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct pb graph = {0}, gemm = pb_node("Gemm", "dense", "x", "w", "h"), alpha = {0}, perm = {0},
              value = {0}, typed = {0};
    pb_text(&gemm, 1, "b");
    pb_text(&alpha, 1, "alpha");
    pb_float(&alpha, 2, 1);
    pb_int(&alpha, 20, 1);
    pb_message(&gemm, 5, alpha);
    pb_text(&perm, 1, "perm");
    pb_bytes(&perm, 8, "\x01\x96\x01\x00", 4);
    pb_int(&perm, 20, 7);
    pb_message(&gemm, 5, perm);
    pb_text(&value, 1, "value");
    pb_message(&value, 5, pb_tensor("", 1, 2, w_dims, weights, sizeof(weights)));
    pb_int(&value, 20, 4);
    pb_message(&gemm, 5, value);
    pb_message(&graph, 1, gemm);
    pb_message(&graph, 1, pb_node("Relu", "act", "h", NULL, "y"));
    pb_text(&graph, 2, "sample");
    pb_message(&graph, 5, pb_tensor("w", 1, 2, w_dims, weights, sizeof(weights)));
    pb_int(&typed, 1, 2);
    pb_int(&typed, 2, 7);
    pb_bytes(&typed, 7, "\x05\xac\x02", 3);
    pb_text(&typed, 8, "b");
    pb_message(&graph, 5, typed);
    pb_ends(&graph);
    pb_message(&graph, 13, pb_value("h", 1, 2, dims));
    return graph;
}

static struct pb sample_model(void)
{
    struct pb model = pb_model(sample_graph()), entry = {0};
    pb_text(&entry, 1, "convd.labels");
    pb_text(&entry, 2, "[]");
    pb_message(&model, 14, entry);
    return model;
}

Test(onnx_hostile, cut_at_every_byte)
{
    struct pb model = sample_model();
    size_t accepted = 0;
    cr_assert_eq(survive(model.data, model.len), CVD_STATUS_OK);
    for (size_t len = 0; len < model.len; len++)
        accepted += survive(model.data, len) == CVD_STATUS_OK;
    /* Only a cut between the operator set and the metadata leaves a whole model. */
    cr_assert_eq(accepted, 1);
    pb_free(&model);
}

/* The lengths around the cut are right, so it is found where it is and not at the top. */
Test(onnx_hostile, cut_inside)
{
    struct pb whole = sample_graph();
    for (size_t len = 0; len < whole.len; len++) {
        struct pb cut = {0};
        pb_raw(&cut, whole.data, len);
        struct pb model = pb_model(cut);
        survive(model.data, model.len);
        pb_free(&model);
    }
    pb_free(&whole);
}

Test(onnx_hostile, every_byte_replaced)
{
    static const unsigned char bytes[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    struct pb model = sample_model();
    for (size_t i = 0; i < model.len; i++) {
        unsigned char kept = model.data[i];
        for (size_t j = 0; j < sizeof(bytes); j++) {
            model.data[i] = bytes[j];
            survive(model.data, model.len);
        }
        model.data[i] = kept;
    }
    pb_free(&model);
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

Test(onnx_hostile, flipped_bits)
{
    struct pb model = sample_model();
    unsigned char *copy = malloc(model.len);
    uint64_t seed = 42;
    for (int round = 0; round < 20000; round++) {
        memcpy(copy, model.data, model.len);
        for (uint64_t flips = 1 + next_random(&seed) % 8; flips > 0; flips--) {
            uint64_t bit = next_random(&seed) % (8 * model.len);
            copy[bit / 8] = (unsigned char)(copy[bit / 8] ^ 1u << bit % 8);
        }
        survive(copy, model.len);
    }
    free(copy);
    pb_free(&model);
}

/* ---- deep, long and large ---- */

/* `levels` messages, each in that field of the one around it. Built from the inside, back to front,
 * because a length stands before what it counts. */
static struct pb nest(int levels, unsigned field)
{
    size_t room = (size_t)levels * 12;
    struct pb m = {.data = malloc(room), .room = room};
    unsigned char *at = m.data + room;
    cr_assert_neq(m.data, NULL);
    for (int i = 0; i < levels; i++) {
        struct pb head = {0};
        pb_tag(&head, field, 2);
        pb_varint(&head, (uint64_t)(m.data + room - at));
        at -= head.len;
        memcpy(at, head.data, head.len);
        pb_free(&head);
    }
    m.len = (size_t)(m.data + room - at);
    memmove(m.data, at, m.len);
    return m;
}

Test(onnx_hostile, deep_nesting)
{
    /* Ten thousand levels of one field, wherever a message may stand, and in one nobody knows. */
    for (unsigned field = 1; field <= 30; field++) {
        struct pb graph = nest(10000, field);
        survive(graph.data, graph.len);
        struct pb model = pb_model(graph);
        survive(model.data, model.len);
        pb_free(&model);
    }
    /* The branch of an If is as far as the reader goes. */
    struct pb attr = {0}, node = {0}, graph = {0}, inner = nest(10000, 1);
    pb_text(&attr, 1, "then_branch");
    pb_int(&attr, 20, 5);
    pb_message(&attr, 6, inner);
    pb_text(&node, 4, "If");
    pb_message(&node, 5, attr);
    pb_message(&graph, 1, node);
    struct pb model = pb_model(graph);
    cr_assert_eq(survive(model.data, model.len), CVD_STATUS_UNSUPPORTED);
    pb_free(&model);

    model = sample_model();
    pb_message(&model, 99, nest(10000, 99));
    cr_assert_eq(survive(model.data, model.len), CVD_STATUS_OK);
    pb_free(&model);
}

Test(onnx_hostile, lengths_beyond_the_file)
{
    static const uint64_t lengths[] = {
        1, UINT32_MAX, UINT64_C(1) << 32, INT64_MAX, UINT64_C(1) << 63, UINT64_MAX - 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++)
        for (unsigned field = 1; field < 30; field++) {
            struct pb model = sample_model();
            pb_tag(&model, field, 2);
            pb_varint(&model, lengths[i]);
            cr_assert_eq(survive(model.data, model.len), CVD_STATUS_INVALID_MODEL);
            pb_free(&model);
        }
}

/* What a tensor claims to be is never allocated before the bytes are seen to be there. */
Test(onnx_hostile, sizes_that_are_only_claimed)
{
    static const int64_t dims[] = {INT64_C(1) << 36};
    struct pb graph = {0};
    pb_message(&graph, 5, pb_tensor("w", 1, 1, dims, "1234", 4));
    pb_ends(&graph);
    struct pb model = pb_model(graph);
    struct cvd_error err;
    cr_assert_eq(read_exact(model.data, model.len, &err), CVD_STATUS_INVALID_MODEL);
    cr_assert_neq(strstr(err.message, "has 4 bytes of data"), NULL, "%s", err.message);
    pb_free(&model);
}

/* x -> n0 -> n1 -> … -> y with names that begin with `prefix`; listed backwards when asked. */
static struct pb chain(int nodes, const char *prefix, bool reversed)
{
    struct pb graph = {0};
    char in[128], out[128];
    static const int64_t dims[] = {-1, 4};
    pb_message(&graph, 11, pb_value("x", 1, 2, dims));
    for (int k = 0; k < nodes; k++) {
        int i = reversed ? nodes - 1 - k : k;
        snprintf(in, sizeof(in), "%s%d", prefix, i - 1);
        snprintf(out, sizeof(out), "%s%d", prefix, i);
        pb_message(&graph, 1,
                   pb_node("Relu", out, i == 0 ? "x" : in, NULL, i == nodes - 1 ? "y" : out));
    }
    pb_message(&graph, 12, pb_value("y", 1, 2, dims));
    return pb_model(graph);
}

/* A second of processor time is ten times what it takes; anything quadratic needs minutes. */
static void read_in_a_second(struct pb model, enum cvd_status expected)
{
    const char *sanitizer = getenv("SANITIZER"); /* they slow things down tenfold */
    double limit = sanitizer && sanitizer[0] ? 10 : 1;
    clock_t begin = clock();
    cr_assert_eq(survive(model.data, model.len), expected);
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    cr_assert_lt(seconds, limit, "took %.2f s", seconds);
    pb_free(&model);
}

Test(onnx_hostile, long_chains)
{
    read_in_a_second(chain(100000, "", false), CVD_STATUS_OK);
    read_in_a_second(chain(100000, "", true), CVD_STATUS_OK);
    read_in_a_second(chain(100000, "a/common/prefix/that/is/the/same/for/all/of/them/", true),
                     CVD_STATUS_OK);
    read_in_a_second(chain((int)GRAPH_MAX_NODES + 1, "", false), CVD_STATUS_UNSUPPORTED);
}

/* Names that all fall into one bucket of the usual multiplicative string hashes: "Aa" and "BB"
 * collide with factor 31, and any sequence of them collides with any other of that length. */
Test(onnx_hostile, names_that_collide)
{
    enum { BITS = 16 };
    struct pb graph = {0}, node = {0};
    char name[2 * BITS + 1] = "";
    pb_ends(&graph);
    for (unsigned i = 0; i < 1u << BITS; i++) {
        for (unsigned bit = 0; bit < BITS; bit++)
            memcpy(name + 2 * bit, i >> bit & 1 ? "Aa" : "BB", 2);
        pb_message(&graph, 1, pb_node("Relu", "", "x", NULL, name));
    }
    pb_text(&node, 4, "Relu");
    pb_text(&node, 1, "x");
    pb_text(&node, 2, "y");
    pb_message(&graph, 1, node);
    read_in_a_second(pb_model(graph), CVD_STATUS_OK);
}

/* ---- want of memory ---- */

/* A model whose names and lists are so long that each takes an allocation of its own. */
static struct pb large_model(void)
{
    static char text[40001], ints[20000];
    struct pb graph = {0}, attr = {0}, node;
    memset(text, 't', sizeof(text) - 1);
    node = pb_node(text, text, "x", text, "y");
    pb_text(&node, 7, text);
    pb_text(&attr, 1, text);
    pb_bytes(&attr, 8, ints, sizeof(ints));
    pb_message(&node, 5, attr);
    attr = (struct pb){0};
    pb_text(&attr, 1, "s");
    pb_text(&attr, 4, text);
    pb_message(&node, 5, attr);
    for (int i = 0; i < 4000; i++)
        pb_text(&node, 1, "x");
    pb_message(&graph, 1, node);
    pb_message(&graph, 1, pb_node("Relu", "r", "x", NULL, text));
    pb_text(&graph, 2, text);
    pb_ends(&graph);
    struct pb model = pb_model(graph), entry = {0};
    pb_text(&entry, 1, text);
    pb_text(&entry, 2, text);
    pb_message(&model, 14, entry);
    return model;
}

/* Every allocation fails once, and then all of them from there on. */
static void starve(struct pb model)
{
    for (int forever = 0; forever < 2; forever++) {
        size_t n = 0;
        enum cvd_status status;
        do {
            struct cvd_error err = {0};
            mem_fail_after(++n, forever);
            status = read_exact(model.data, model.len, &err);
            mem_fail_after(0, false);
            cr_assert(!status || status == CVD_STATUS_OUT_OF_MEMORY, "%zu: %s", n, err.message);
            cr_assert_lt(n, 1000);
        } while (status);
        cr_assert_gt(n, 10);
    }
    pb_free(&model);
}

Test(onnx_hostile, no_memory)
{
    starve(sample_model());
    starve(large_model());
}

Test(onnx_hostile, no_memory_for_a_lone_tensor)
{
    static const int64_t dims[] = {1};
    struct pb t = pb_tensor("t", 1, 1, dims, "1234", 4);
    struct mem_arena *arena = mem_arena_create();
    struct op_tensor out;
    struct cvd_error err;
    const char *name;
    for (size_t n = 1; n <= 2; n++) {
        mem_fail_after(n, false);
        cr_assert_eq(onnx_read_tensor(t.data, t.len, arena, &name, &out, &err),
                     CVD_STATUS_OUT_OF_MEMORY);
    }
    mem_fail_after(0, false);
    mem_arena_destroy(arena);
    pb_free(&t);
}

/* ---- models of the world ---- */

/* Models that use element types which convd does not have. */
static const char *const refused[] = {
    "test_dequantizelinear_e4m3fn",
    "test_dequantizelinear_e4m3fn_float16",
    "test_dequantizelinear_e5m2",
    "test_dequantizelinear_int16",
    "test_dequantizelinear_int2",
    "test_dequantizelinear_uint2",
    "test_quantizelinear_blocked_symmetric",
    "test_quantizelinear_e4m3fn",
    "test_quantizelinear_int2",
    "test_quantizelinear_int4",
    "test_quantizelinear_uint16",
    "test_quantizelinear_uint2",
    "test_quantizelinear_uint4",
};

static struct pb load(const char *path)
{
    struct pb file = {0};
    char block[65536];
    FILE *f = fopen(path, "rb");
    cr_assert_neq(f, NULL, "%s", path);
    for (size_t got; (got = fread(block, 1, sizeof(block), f)) > 0;)
        pb_raw(&file, block, got);
    cr_assert_not(ferror(f), "%s", path);
    fclose(f);
    return file;
}

/* Hands each file that matches to `use`; at least `least` must be there. */
static void each_shared(const char *below, const char *pattern, size_t least,
                        void (*use)(const char *path, struct pb file))
{
    char full[512];
    glob_t found;
    snprintf(full, sizeof(full), "%s/%s", data_shared(below), pattern);
    cr_assert_eq(glob(full, 0, NULL, &found), 0, "nothing matches %s", full);
    cr_assert_geq(found.gl_pathc, least, "%zu match %s", found.gl_pathc, full);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        struct pb file = load(found.gl_pathv[i]);
        use(found.gl_pathv[i], file);
        pb_free(&file);
    }
    globfree(&found);
}

static void is_read_or_refused(const char *path, struct pb file)
{
    struct cvd_error err = {0};
    enum cvd_status expected = CVD_STATUS_OK;
    for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
        char folder[128];
        snprintf(folder, sizeof(folder), "/%s/", refused[i]);
        if (strstr(path, folder))
            expected = CVD_STATUS_UNSUPPORTED;
    }
    cr_expect_eq(read_exact(file.data, file.len, &err), expected, "%s: %s", path, err.message);
}

static void comes_back(const char *path, struct pb file)
{
    struct graph g, back;
    struct cvd_error err;
    void *once, *twice;
    size_t once_len, twice_len;
    cr_assert_eq(graph_init(&g, &err), CVD_STATUS_OK);
    cr_assert_eq(graph_init(&back, &err), CVD_STATUS_OK);
    cr_assert_eq(onnx_read(file.data, file.len, NULL, &g, &err), CVD_STATUS_OK);
    cr_assert_eq(onnx_write(&g, &once, &once_len, &err), CVD_STATUS_OK);
    cr_assert_eq(onnx_read(once, once_len, NULL, &back, &err), CVD_STATUS_OK, "%s: %s", path,
                 err.message);
    cr_assert_eq(back.node_count, g.node_count);
    cr_assert_eq(back.value_count, g.value_count);
    cr_assert_eq(onnx_write(&back, &twice, &twice_len, &err), CVD_STATUS_OK);
    cr_assert(once_len == twice_len && memcmp(once, twice, once_len) == 0, "%s", path);
    free(once);
    free(twice);
    graph_release(&g);
    graph_release(&back);
}

/* Every 97th length; of the large files, whose bulk is weights, every so many that a thousand are
 * tried. */
static void is_survived_cut(const char *path, struct pb file)
{
    (void)path;
    size_t step = file.len / 1000 / 97 * 97 + 97;
    for (size_t len = 0; len < file.len; len += step)
        survive(file.data, len);
}

static void is_a_tensor(const char *path, struct pb file)
{
    struct mem_arena *arena = mem_arena_create();
    struct op_tensor out = {0};
    struct cvd_error err = {0};
    const char *name;
    enum cvd_status status = onnx_read_tensor(file.data, file.len, arena, &name, &out, &err);
    cr_expect_eq(status, CVD_STATUS_OK, "%s: %s", path, err.message);
    mem_free((void *)(uintptr_t)out.data);
    mem_arena_destroy(arena);
}

Test(onnx_shared, models)
{
    each_shared("models", "*.onnx", 4, is_read_or_refused);
    each_shared("models", "*.onnx", 4, comes_back);
}

Test(onnx_shared, conformance_models)
{
    each_shared("conformance/onnx/float", "*/model.onnx", 200, is_read_or_refused);
    each_shared("conformance/onnx/float", "*/model.onnx", 200, comes_back);
    each_shared("conformance/onnx/quantized", "*/model.onnx", 20, is_read_or_refused);
}

Test(onnx_shared, conformance_tensors)
{
    each_shared("conformance/onnx/float", "*/test_data_set_0/*.pb", 400, is_a_tensor);
}

Test(onnx_shared, cut_models)
{
    each_shared("models", "*.onnx", 4, is_survived_cut);
    each_shared("conformance/onnx/float", "test_*conv*/model.onnx", 2, is_survived_cut);
}
