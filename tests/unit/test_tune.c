/* Choosing algorithms by timing: what is chosen is allowed and right whatever the clock says, the
 * cache is kept, believed and distrusted as it should be, and nothing of it ever fails a load. */
#include <convd/session.h>

#include "engine/onnx/onnx.h"
#include "engine/ops/blocked_maps.h"
#include "engine/runtime/tune_file.h"
#include "tests/support/data.h"
#include "tests/support/net.h"

#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LONG_NS  UINT64_C(60000000000)
#define ELEMENTS (16 * 8 * 8)
#define KEY      "16x8x8:16x8x8:Relu"

/* ---- choosing ---- */

Test(tune, only_a_clear_win_counts)
{
    cr_expect_eq(tune_pick((const uint64_t[]){100, 50, 70}, 3), 1);
    cr_expect_eq(tune_pick((const uint64_t[]){100, 70, 50}, 3), 2);
    cr_expect_eq(tune_pick((const uint64_t[]){100, 94, 120}, 3), 1);
    cr_expect_eq(tune_pick((const uint64_t[]){100, 95, 96}, 3), 0);
    cr_expect_eq(tune_pick((const uint64_t[]){100, 101, 100}, 3), 0);
    cr_expect_eq(tune_pick((const uint64_t[]){0, 0, 0}, 3), 0);
}

Test(tune, what_is_put_in)
{
    struct kernels kernels;
    struct tune t;
    char key[TUNE_KEY_BYTES + 1];
    kernels_init(&kernels, CVD_CPU_C);
    tune_init(&t, &kernels, 0);
    cr_expect(tune_put(&t, "a", 2));
    cr_expect(tune_put(&t, "b", 0));
    cr_expect(tune_put(&t, "a", 4));
    cr_expect_eq(t.count, 2);
    cr_expect_eq(t.choices[0].tile, 4);
    for (unsigned tile = 1; tile < 10; tile++)
        cr_expect_eq(tune_put(&t, "a", tile), tile == 2 || tile == 4, "tile %u", tile);
    cr_expect_not(tune_put(&t, "", 2));
    cr_expect_not(tune_put(&t, "a b", 2));
    cr_expect_not(tune_put(&t, "a\n", 2));
    cr_expect_not(tune_put(&t, "\xc3\xa4", 2));
    memset(key, 'k', TUNE_KEY_BYTES);
    key[TUNE_KEY_BYTES] = '\0';
    cr_expect_not(tune_put(&t, key, 2));
    key[TUNE_KEY_BYTES - 1] = '\0';
    cr_expect(tune_put(&t, key, 2));
    for (unsigned i = 0; i < 2 * TUNE_MAX_CHOICES; i++) {
        snprintf(key, sizeof(key), "%u", i);
        cr_assert_eq(tune_put(&t, key, 2), i + 3 < TUNE_MAX_CHOICES, "choice %u", i);
    }
    cr_expect_eq(t.count, TUNE_MAX_CHOICES);
    cr_expect(tune_put(&t, "a", 0)); /* one that is there already */
    tune_release(&t);
}

/* ---- a network with two kinds of convolutions that can be computed in several ways ---- */

static uint32_t conv(struct graph *g, const char *name, uint32_t x)
{
    static const int64_t ones[] = {1, 1, 1, 1};
    const struct op_attr attrs[] = {
        {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = ones}};
    char w[16], b[16];
    snprintf(w, sizeof(w), "%s/w", name);
    snprintf(b, sizeof(b), "%s/b", name);
    uint32_t weights = net_weights(g, w, NET_SHAPE(16, 16, 3, 3), 0.1f, (uint32_t)name[1]);
    uint32_t bias = net_weights(g, b, NET_SHAPE(16), 0.5f, 8);
    return NET_OP_ATTRS(g, "Conv", name, attrs, x, weights, bias);
}

struct file {
    void *bytes;
    size_t len;
};

static struct file make_file(void)
{
    struct graph g;
    struct file f = {0};
    struct cvd_error err = {0};
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 16, 8, 8));
    uint32_t a = NET_OP(&g, "Relu", "a1", conv(&g, "c1", x));
    uint32_t b = NET_OP(&g, "Relu", "a2", conv(&g, "c2", a));
    uint32_t c = NET_OP(&g, "Add", "sum", conv(&g, "c3", b), a);
    net_output(&g, NET_OP(&g, "Relu", "a3", c));
    g.ir_version = 8;
    for (uint32_t i = 0; i < g.value_count; i++) {
        char name[16];
        snprintf(name, sizeof(name), "v%u", i);
        g.values[i].name = mem_arena_strndup(g.arena, name, strlen(name));
        if (g.values[i].dtype == CVD_DTYPE_NONE)
            g.values[i].dtype = CVD_DTYPE_FLOAT32;
    }
    cr_assert_eq(graph_check(&g, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(onnx_write(&g, &f.bytes, &f.len, &err), CVD_STATUS_OK, "%s", err.message);
    graph_release(&g);
    return f;
}

static struct cvd_engine *engine;
static struct file file;
static char folder[64], path[64 + TUNE_FILE_NAME_BYTES + 1];

static void set_up(void)
{
    char name[TUNE_FILE_NAME_BYTES];
    engine = net_engine(1);
    file = make_file();
    snprintf(folder, sizeof(folder), "/tmp/convd-test-tune-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    tune_file_name(&engine->kernels, name);
    snprintf(path, sizeof(path), "%s/%s", folder, name);
}

static void tear_down(void)
{
    (void)remove(path);
    cr_expect_eq(rmdir(folder), 0, "files are left in %s", folder);
    mem_free(file.bytes);
    cvd_engine_destroy(engine);
}

TestSuite(tuning, .init = set_up, .fini = tear_down, .timeout = 600);

/* What a load came to: the kernels of its convolutions, and the answer to an image. */
struct loaded {
    struct cvd_tuning_info tuning;
    char problem[CVD_ERROR_MESSAGE_BYTES];
    const char *kernels[3];
    float out[ELEMENTS];
};

static void load_with(const struct cvd_load_options *options, struct loaded *l)
{
    struct cvd_model *model = NULL;
    struct cvd_session *session = NULL;
    struct cvd_error err = {0};
    struct cvd_layer_info layer;
    float in[ELEMENTS];
    size_t convs = 0;
    memset(l, 0, sizeof(*l));
    cr_assert_eq(cvd_model_load(engine, file.bytes, file.len, options, &model, &err), CVD_STATUS_OK,
                 "%s", err.message);
    cvd_model_tuning(model, &l->tuning);
    if (l->tuning.problem != NULL)
        snprintf(l->problem, sizeof(l->problem), "%s", l->tuning.problem);
    for (size_t i = 0; i < cvd_model_layer_count(model); i++) {
        cvd_model_layer(model, i, &layer);
        if (layer.dense_parameters != 0 && convs < 3)
            l->kernels[convs++] = layer.kernel; /* static text */
    }
    cr_assert_eq(convs, 3);
    net_fill(in, ELEMENTS, 5);
    cr_assert_eq(cvd_session_create(model, 1, &session, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(cvd_session_run(session, 1, (const void *[]){in}, (void *[]){l->out}, &err),
                 CVD_STATUS_OK, "%s", err.message);
    cvd_session_destroy(session);
    cvd_model_destroy(model);
}

static void load(uint64_t tune_ns, const char *cache, struct loaded *l)
{
    load_with(&(const struct cvd_load_options){.tune_ns = tune_ns, .tune_cache = cache}, l);
}

static const char *kernel_of(unsigned tile)
{
    const struct kernels *k = &engine->kernels;
    return tile == 0 ? k->conv.name : tile == 2 ? k->winograd.by_2.name : k->winograd.by_4.name;
}

static void expect_same(const struct loaded *a, const struct loaded *b)
{
    for (size_t i = 0; i < 3; i++)
        cr_expect_str_eq(a->kernels[i], b->kernels[i]);
    cr_expect_arr_eq(a->out, b->out, sizeof(a->out));
}

static void expect_right(const struct loaded *l)
{
    struct loaded written;
    load_with(&(const struct cvd_load_options){.as_written = true}, &written);
    for (size_t i = 0; i < ELEMENTS; i++)
        cr_assert_lt(fabsf(l->out[i] - written.out[i]), 1e-4f, "element %zu is %g, not %g", i,
                     (double)l->out[i], (double)written.out[i]);
}

Test(tuning, off)
{
    struct loaded a, b, plain;
    load(0, folder, &a);
    load(0, folder, &b);
    load_with(NULL, &plain);
    expect_same(&a, &b);
    expect_same(&a, &plain);
    expect_right(&a);
    cr_expect_eq(a.tuning.timed + a.tuning.recalled, 0);
    cr_expect_eq(a.tuning.seconds, 0.0);
    cr_expect_null(a.tuning.problem);
    cr_expect_neq(access(path, F_OK), 0);
}

Test(tuning, equal_layers_are_timed_once)
{
    for (unsigned level = CVD_CPU_C; level < CVD_CPU_COUNT; level++) {
        struct cvd_settings settings = {.threads = 1, .cpu = (enum cvd_cpu)level};
        struct cvd_error err = {0};
        struct loaded l;
        if (!cvd_cpu_supported(settings.cpu))
            continue;
        cvd_engine_destroy(engine);
        cr_assert_eq(cvd_engine_create(&settings, &engine, &err), CVD_STATUS_OK, "%s", err.message);
        load(LONG_NS, NULL, &l);
        cr_expect_eq(l.tuning.timed, 2);
        cr_expect_eq(l.tuning.recalled, 0);
        cr_expect_gt(l.tuning.seconds, 0.0);
        cr_expect_str_eq(l.kernels[0], l.kernels[1]);
        for (size_t i = 0; i < 3; i++)
            cr_expect(!strcmp(l.kernels[i], kernel_of(0)) || !strcmp(l.kernels[i], kernel_of(2)) ||
                          !strcmp(l.kernels[i], kernel_of(4)),
                      "%s", l.kernels[i]);
        expect_right(&l);
    }
}

Test(tuning, without_time_the_choice_is_the_usual)
{
    struct loaded none, off;
    load(1, NULL, &none);
    load(0, NULL, &off);
    expect_same(&none, &off);
    cr_expect_eq(none.tuning.timed, 0);
}

/* ---- the cache ---- */

static void write_cache(const char *text, size_t len)
{
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(text, 1, len, f), len);
    cr_assert_eq(fclose(f), 0);
}

/* The first line, then `lines`. */
static void write_choices(const char *lines)
{
    char text[1000];
    int len = snprintf(text, sizeof(text), "%s\n%s", strrchr(path, '/') + 1, lines);
    write_cache(text, (size_t)len);
}

Test(tuning, a_cache_spares_the_next_load_the_timing)
{
    struct loaded first, second;
    struct stat info;
    load(LONG_NS, folder, &first);
    cr_expect_eq(first.tuning.timed, 2);
    cr_expect_null(first.tuning.problem, "%s", first.problem);
    cr_assert_eq(stat(path, &info), 0);
    cr_expect_eq(info.st_mode & 0777, 0644);
    load(1, folder, &second);
    cr_expect_eq(second.tuning.timed, 0);
    cr_expect_eq(second.tuning.recalled, 2);
    expect_same(&first, &second);
}

Test(tuning, a_cache_is_believed)
{
    struct loaded l;
    for (unsigned tile = 0; tile <= 2; tile += 2) {
        char lines[100];
        snprintf(lines, sizeof(lines), "%s %u\n", KEY, 2 + tile);
        write_choices(lines);
        load(1, folder, &l);
        cr_expect_eq(l.tuning.recalled, 1);
        cr_expect_str_eq(l.kernels[0], kernel_of(2 + tile));
        cr_expect_str_eq(l.kernels[1], kernel_of(2 + tile));
        expect_right(&l);
    }
    /* What it does not know is added, what it knows stays. */
    write_choices("elsewhere 4\n" KEY " 2\n");
    load(LONG_NS, folder, &l);
    cr_expect_eq(l.tuning.timed, 1);
    cr_expect_eq(l.tuning.recalled, 1);
    struct tune t;
    struct cvd_error err;
    tune_init(&t, &engine->kernels, 0);
    cr_assert_eq(tune_file_read(&t, folder, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(t.count, 3);
    cr_expect_str_eq(t.choices[0].key, "elsewhere");
    cr_expect_eq(t.choices[0].tile, 4);
    cr_expect_str_eq(t.choices[1].key, KEY);
    cr_expect_eq(t.choices[1].tile, 2);
    cr_expect_str_eq(t.choices[2].key, KEY ":residual");
    tune_release(&t);
}

Test(tuning, a_damaged_cache_is_ignored_and_replaced)
{
    static const char *const lines[] = {
        KEY,    KEY "\n", KEY " 2",     KEY " 3\n",  KEY " 22\n", KEY " 2 \n",  KEY "  2\n",
        " 2\n", "\n",     KEY " 2\n\n", KEY " -2\n", KEY "\t2\n", KEY " 2\r\n", "\x80\xff 2\n"};
    struct loaded usual, l;
    load(0, NULL, &usual);
    for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
        write_choices(lines[i]);
        load(1, folder, &l);
        expect_same(&l, &usual);
        cr_expect_eq(l.tuning.recalled, 0, "case %zu", i);
        cr_expect_not_null(strstr(l.problem, "line "), "case %zu: %s", i, l.problem);
    }
    char many[50000];
    memset(many, 'x', sizeof(many));
    write_cache(many, sizeof(many));
    load(1, folder, &l);
    cr_expect_not_null(strstr(l.problem, "line 1 "), "%s", l.problem);
    write_cache("", 0);
    load(1, folder, &l);
    cr_expect_not_null(strstr(l.problem, "line 1 "), "%s", l.problem);
    write_cache("convd-0.0.0-c-other.tune\n" KEY " 2\n", 25 + sizeof(KEY " 2\n") - 1);
    load(LONG_NS, folder, &l);
    cr_expect_null(l.tuning.problem, "%s", l.problem);
    cr_expect_eq(l.tuning.timed, 2);
    load(1, folder, &usual);
    cr_expect_eq(usual.tuning.recalled, 2);
    expect_same(&usual, &l);
}

Test(tuning, more_choices_than_there_is_room_for)
{
    const size_t room = 60000;
    char *text = data_alloc(room);
    size_t len = (size_t)snprintf(text, room, "%s\n", strrchr(path, '/') + 1);
    struct loaded l;
    for (unsigned i = 0; i <= TUNE_MAX_CHOICES; i++)
        len += (size_t)snprintf(text + len, room - len, "%s 2\n", KEY);
    write_cache(text, len);
    load(1, folder, &l);
    cr_expect_eq(l.tuning.recalled, 0);
    cr_expect_not_null(strstr(l.problem, "line 1026 "), "%s", l.problem);
}

/* Also for root, whom permissions do not stop. */
Test(tuning, a_folder_that_cannot_be_used)
{
    static const char *const folders[] = {"/nonexistent/folder", "/dev/null", "/proc/self"};
    struct loaded l;
    for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++) {
        load(LONG_NS, folders[i], &l);
        cr_expect_eq(l.tuning.timed, 2, "%s", folders[i]);
        cr_expect_not_null(strstr(l.problem, folders[i]), "%s: %s", folders[i], l.problem);
        expect_right(&l);
    }
    cr_assert_eq(mkdir(path, 0755), 0); /* not a file, and no file can take its place */
    load(LONG_NS, folder, &l);
    cr_expect_eq(l.tuning.timed, 2);
    cr_expect_not_null(strstr(l.problem, path), "%s", l.problem);
    cr_assert_eq(rmdir(path), 0);
    cr_assert_eq(mkfifo(path, 0644), 0);
    load(1, folder, &l);
    cr_expect_not_null(strstr(l.problem, path), "%s", l.problem);
}

/* ---- memory ---- */

/* Every allocation of timing fails once: then the first of the ways is taken. */
Test(tuning, timing_survives_without_memory)
{
    static const unsigned tiles[] = {2, 0, 4};
    bool known;
    float *weights = data_alloc(16 * 16 * 9 * sizeof(*weights));
    const struct op_value x = {.dtype = CVD_DTYPE_FLOAT32, .shape = NET_SHAPE(1, 16, 8, 8)};
    const struct op_value w = {
        .dtype = CVD_DTYPE_FLOAT32, .shape = NET_SHAPE(16, 16, 3, 3), .data = weights};
    const struct op_attr attrs[] = {
        {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = (const int64_t[]){1, 1, 1, 1}}};
    const struct op_value *in[] = {&x, &w};
    struct cvd_error err;
    const struct op_node node = {.def = op_find(FUSED_DOMAIN, "Conv", FUSED_VERSION, &known),
                                 .name = "conv",
                                 .opset = FUSED_VERSION,
                                 .attrs = attrs,
                                 .attr_count = 1,
                                 .in = in,
                                 .in_count = 2,
                                 .out_count = 1,
                                 .err = &err};
    struct tune t;
    size_t n = 0;
    net_fill(weights, 16 * 16 * 9, 3);
    tune_init(&t, &engine->kernels, LONG_NS);
    cr_expect_eq(tune_tile(&t, &node, &x.shape, tiles, 1), 2);
    cr_expect_eq(t.timed, 0, "there was nothing to choose");
    do {
        tune_init(&t, &engine->kernels, LONG_NS);
        mem_fail_after(++n, false);
        unsigned tile = tune_tile(&t, &node, &x.shape, tiles, 3);
        mem_fail_after(0, false);
        cr_assert(tile == 2 || t.timed == 1, "allocation %zu, tile %u", n, tile);
        cr_assert_lt(n, 100);
        known = t.count == 1;
        tune_release(&t);
    } while (!known);
    cr_expect_gt(n, 4);
}

Test(tuning, the_cache_survives_without_memory)
{
    struct tune t;
    struct cvd_error err;
    enum cvd_status status;
    size_t n = 0;
    tune_init(&t, &engine->kernels, 0);
    cr_assert(tune_put(&t, KEY, 4));
    do {
        mem_fail_after(++n, false);
        status = tune_file_write(&t, folder, &err);
        mem_fail_after(0, false);
        cr_assert(status == CVD_STATUS_OK || status == CVD_STATUS_OUT_OF_MEMORY);
        cr_assert_eq(access(path, F_OK) == 0, status == CVD_STATUS_OK);
    } while (status != CVD_STATUS_OK);
    cr_expect_eq(n, 3);
    n = 0;
    do {
        tune_release(&t);
        mem_fail_after(++n, false);
        status = tune_file_read(&t, folder, &err);
        mem_fail_after(0, false);
        cr_assert_eq(t.count, status == CVD_STATUS_OK);
    } while (status != CVD_STATUS_OK);
    cr_expect_eq(n, 3);
    tune_release(&t);
    /* A load goes on without either, until none of its allocations fails. */
    unsigned whole = 0;
    for (n = 1; whole < 32; n++) {
        const struct cvd_load_options options = {.tune_ns = 1, .tune_cache = folder};
        struct cvd_tuning_info tuning;
        struct cvd_model *model = NULL;
        mem_fail_after(n, n % 2 == 0);
        status = cvd_model_load(engine, file.bytes, file.len, &options, &model, &err);
        mem_fail_after(0, false);
        cr_assert(status == CVD_STATUS_OK || status == CVD_STATUS_OUT_OF_MEMORY);
        whole = status == CVD_STATUS_OK ? whole + 1 : 0;
        if (status != CVD_STATUS_OK)
            continue;
        cvd_model_tuning(model, &tuning);
        cr_assert_eq(tuning.recalled == 1, tuning.problem == NULL);
        if (tuning.problem != NULL)
            whole = 0;
        cvd_model_destroy(model);
    }
    cr_expect_gt(n, 100);
}
