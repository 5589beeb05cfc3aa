/* Sessions: right answers whatever shares memory, the same ones for every batch, place and number
 * of threads, and nothing allocated while running. */
#include <convd/session.h>

#include "engine/runtime/mem.h"
#include "tests/support/net.h"

#include <criterion/criterion.h>

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define IMAGE   784
#define CLASSES 10

static struct cvd_session *make_session(const struct cvd_model *model, int64_t max_batch)
{
    struct cvd_session *session = NULL;
    struct cvd_error err = {0};
    cr_assert_eq(cvd_session_create(model, max_batch, &session, &err), CVD_STATUS_OK, "%s",
                 err.message);
    return session;
}

static void run(struct cvd_session *session, int64_t batch, const void *const *inputs,
                void *const *outputs)
{
    struct cvd_error err = {0};
    cr_assert_eq(cvd_session_run(session, batch, inputs, outputs, &err), CVD_STATUS_OK, "%s",
                 err.message);
}

static void run1(struct cvd_session *session, int64_t batch, const float *in, float *out)
{
    run(session, batch, (const void *[]){in}, (void *[]){out});
}

static struct cvd_model *lenet(struct cvd_engine *engine)
{
    struct graph g;
    net_lenet(&g, 7, false);
    return net_model(engine, &g);
}

/* ---- the same bits ---- */

#define IMAGES 67

Test(session, lenet_is_bit_identical_for_every_batch_place_and_thread_count, .timeout = 600)
{
    static float images[IMAGES * IMAGE], alone[IMAGES * CLASSES], out[IMAGES * CLASSES];
    static const int64_t batches[] = {2, 3, 5, 8, 16, 33, 64, IMAGES, 1};
    net_fill(images, IMAGES * IMAGE, 99);
    for (unsigned threads = 1; threads <= 4; threads++) {
        struct cvd_engine *engine = net_engine(threads);
        struct cvd_model *model = lenet(engine);
        struct cvd_session *session = make_session(model, IMAGES);
        struct cvd_session *single = make_session(model, 1);
        for (int64_t i = 0; i < IMAGES; i++) {
            run1(single, 1, images + i * IMAGE, out + i * CLASSES);
            run1(session, 1, images + i * IMAGE, threads == 1 ? alone + i * CLASSES : out);
        }
        for (size_t b = 0; b < sizeof(batches) / sizeof(*batches); b++) {
            memset(out, 0, sizeof(out));
            int64_t done = 0;
            while (done < IMAGES) { /* the last batch is a smaller one */
                int64_t n = IMAGES - done < batches[b] ? IMAGES - done : batches[b];
                run1(session, n, images + done * IMAGE, out + done * CLASSES);
                done += n;
            }
            cr_assert_eq(memcmp(out, alone, sizeof(out)), 0, "threads %u, batch %lld", threads,
                         (long long)batches[b]);
        }
        cvd_session_destroy(single);
        cvd_session_destroy(session);
        cvd_model_destroy(model);
        cvd_engine_destroy(engine);
    }
}

Test(session, sharing_memory_changes_nothing)
{
    static float images[5 * IMAGE], out[5 * CLASSES], kept[5 * CLASSES];
    net_fill(images, 5 * IMAGE, 3);
    struct cvd_engine *engine = net_engine(2);
    struct graph g;
    net_lenet(&g, 7, true);
    struct cvd_model *model = lenet(engine), *all = net_model(engine, &g);
    struct cvd_session *session = make_session(model, 5), *unshared = make_session(all, 5);
    size_t outputs = cvd_model_output_count(all);
    cr_assert_eq(outputs, 14);
    float *values[14];
    for (size_t i = 0; i < outputs; i++) {
        struct cvd_shape shape;
        size_t elements;
        cvd_model_output_shape(all, i, 5, &shape);
        cr_assert(cvd_shape_elements(&shape, &elements));
        values[i] = malloc(elements * sizeof(float));
    }
    run1(session, 5, images, out);
    run(unshared, 5, (const void *[]){images}, (void *const *)values);
    cr_assert_eq(memcmp(out, values[13], sizeof(out)), 0);
    /* A view and a value of its own show the same elements, and Relu has not changed its input. */
    cr_assert_eq(memcmp(values[5], values[6], 5 * 400 * sizeof(float)), 0);
    bool negative = false;
    for (int i = 0; i < 5 * 120; i++) {
        negative |= values[7][i] < 0;
        cr_assert_eq(values[8][i], values[7][i] > 0 ? values[7][i] : 0);
    }
    cr_assert(negative);
    /* Outputs that nobody wants are computed somewhere else. */
    void *wanted[14] = {0};
    wanted[13] = kept;
    run(unshared, 5, (const void *[]){images}, wanted);
    cr_assert_eq(memcmp(out, kept, sizeof(out)), 0);
    for (size_t i = 0; i < outputs; i++)
        free(values[i]);
    cvd_session_destroy(session);
    cvd_session_destroy(unshared);
    cvd_model_destroy(model);
    cvd_model_destroy(all);
    cvd_engine_destroy(engine);
}

/* ---- LeNet-5 again, in double precision and plain loops ---- */

static const float *weights(const struct graph *g, uint32_t node, size_t input)
{
    return g->values[g->nodes[node].in[input]].data;
}

static void naive_conv(const double *x, int in, int size, int pad, const float *w, const float *b,
                       int out, double *y)
{
    int side = size + 2 * pad - 4;
    for (int o = 0; o < out; o++) {
        for (int r = 0; r < side; r++) {
            for (int c = 0; c < side; c++) {
                double sum = (double)b[o];
                for (int i = 0; i < in; i++) {
                    for (int k = 0; k < 25; k++) {
                        int xr = r + k / 5 - pad, xc = c + k % 5 - pad;
                        if (xr >= 0 && xr < size && xc >= 0 && xc < size)
                            sum +=
                                x[(i * size + xr) * size + xc] * (double)w[(o * in + i) * 25 + k];
                    }
                }
                y[(o * side + r) * side + c] = fmax(sum, 0);
            }
        }
    }
}

static void naive_pool(const double *x, int planes, int size, double *y)
{
    for (int i = 0; i < planes * size / 2 * size / 2; i++) {
        int plane = i / (size / 2 * (size / 2)), at = i % (size / 2 * (size / 2));
        const double *p = x + (plane * size + at / (size / 2) * 2) * size + at % (size / 2) * 2;
        y[i] = fmax(fmax(p[0], p[1]), fmax(p[size], p[size + 1]));
    }
}

static void naive_dense(const double *x, int in, const float *w, const float *b, int out, bool relu,
                        double *y)
{
    for (int o = 0; o < out; o++) {
        y[o] = (double)b[o];
        for (int i = 0; i < in; i++)
            y[o] += x[i] * (double)w[o * in + i];
        y[o] = relu ? fmax(y[o], 0) : y[o];
    }
}

static void naive_lenet(const struct graph *g, const float *image, double *y)
{
    static double a[6 * 784], b[6 * 784];
    for (int i = 0; i < IMAGE; i++)
        a[i] = (double)image[i];
    naive_conv(a, 1, 28, 2, weights(g, 0, 1), weights(g, 0, 2), 6, b);
    naive_pool(b, 6, 28, a);
    naive_conv(a, 6, 14, 0, weights(g, 3, 1), weights(g, 3, 2), 16, b);
    naive_pool(b, 16, 10, a);
    naive_dense(a, 400, weights(g, 7, 1), weights(g, 7, 2), 120, true, b);
    naive_dense(b, 120, weights(g, 9, 1), weights(g, 9, 2), 84, true, a);
    naive_dense(a, 84, weights(g, 12, 1), weights(g, 12, 2), 10, false, y);
    double max = y[0], sum = 0;
    for (int i = 0; i < CLASSES; i++)
        max = fmax(max, y[i]);
    for (int i = 0; i < CLASSES; i++)
        sum += y[i] = exp(y[i] - max);
    for (int i = 0; i < CLASSES; i++)
        y[i] /= sum;
}

Test(session, lenet_agrees_with_plain_loops)
{
    static float images[4 * IMAGE], out[4 * CLASSES];
    net_fill(images, 4 * IMAGE, 5);
    struct cvd_engine *engine = net_engine(2);
    struct graph g;
    net_lenet(&g, 7, false); /* weights before they are packed */
    struct cvd_model *model = lenet(engine);
    struct cvd_session *session = make_session(model, 4);
    run1(session, 4, images, out);
    double spread = 0;
    for (int i = 0; i < 4; i++) {
        double expected[CLASSES];
        naive_lenet(&g, images + i * IMAGE, expected);
        for (int c = 0; c < CLASSES; c++) {
            cr_assert_float_eq((double)out[i * CLASSES + c], expected[c], 1e-6);
            spread = fmax(spread, fabs(expected[c] - 0.1));
        }
    }
    cr_assert_gt(spread, 0.01); /* the weights make a difference */
    graph_release(&g);
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

/* ---- random graphs ---- */

/* Values have 12 elements, as [N,12] or as [N,3,2,2]. Each is computed once more here. */
#define SIZE      12
#define MAX_NODES 60
#define BATCH     5

struct random_graph {
    struct graph g;
    uint32_t x; /* state of the generator */
    uint32_t count;
    uint32_t number[MAX_NODES + 8]; /* graph values, by order of making */
    bool cube[MAX_NODES + 8];
    float data[MAX_NODES + 8][BATCH][SIZE];
    uint32_t outputs[16], output_count;
};

static uint32_t dice(struct random_graph *r, uint32_t sides)
{
    r->x = r->x * 1664525u + 1013904223u;
    return (r->x >> 16) % sides;
}

/* Makes value `count` from a (and b) with `op`. */
static void compute(struct random_graph *r, char op, uint32_t a, uint32_t b)
{
    for (int n = 0; n < BATCH; n++) {
        for (int i = 0; i < SIZE; i++) {
            float p = r->data[a][n][i], q = r->data[b][n][i];
            r->data[r->count][n][i] = op == 'r'   ? (p > 0 ? p : 0)
                                      : op == '+' ? p + q
                                      : op == '-' ? p - q
                                      : op == 'h' ? p * 0.5f
                                                  : p;
        }
    }
}

static void add_node(struct random_graph *r, uint32_t half, uint32_t to_cube)
{
    uint32_t a = dice(r, r->count), b = dice(r, r->count), kind = dice(r, 8);
    char name[16];
    snprintf(name, sizeof(name), "v%u", r->count);
    /* A second operand of the same shape; often one of the latest values, so that memory dies. */
    if (dice(r, 2) == 0)
        a = r->count - 1;
    while (r->cube[b] != r->cube[a])
        b = dice(r, r->count);
    uint32_t x = r->number[a], y = r->number[b], made;
    r->cube[r->count] = r->cube[a];
    if (kind < 2) {
        compute(r, 'r', a, a);
        made = NET_OP(&r->g, "Relu", name, x);
    } else if (kind < 4) {
        compute(r, '+', a, b);
        made = NET_OP(&r->g, "Add", name, x, y);
    } else if (kind == 4) {
        compute(r, '-', a, b);
        made = NET_OP(&r->g, "Sub", name, x, y);
    } else if (kind == 5) {
        compute(r, 'h', a, a);
        made = NET_OP(&r->g, "Mul", name, x, half);
    } else if (kind == 6) {
        compute(r, '=', a, a);
        made = NET_OP(&r->g, "Identity", name, x);
    } else {
        compute(r, '=', a, a);
        r->cube[r->count] = !r->cube[a];
        made = r->cube[a] ? NET_OP(&r->g, "Flatten", name, x)
                          : NET_OP(&r->g, "Reshape", name, x, to_cube);
    }
    r->number[r->count++] = made;
}

static void make_random(struct random_graph *r, uint32_t seed)
{
    static const float one_half[] = {0.5f};
    static const int64_t cube[] = {-1, 3, 2, 2};
    memset(r, 0, sizeof(*r));
    r->x = seed * 7919u;
    net_init(&r->g);
    for (uint32_t i = 0; i < 2; i++) {
        r->cube[i] = i == 1;
        r->number[i] =
            net_input(&r->g, i == 0 ? "flat" : "cube",
                      i == 0 ? NET_SHAPE(CVD_DIM_BATCH, SIZE) : NET_SHAPE(CVD_DIM_BATCH, 3, 2, 2));
        net_fill(&r->data[i][0][0], BATCH * SIZE, seed + i);
    }
    r->count = 2;
    uint32_t half = net_floats(&r->g, "half", NET_SHAPE(1), one_half);
    uint32_t to_cube = net_ints(&r->g, "to cube", 4, cube);
    uint32_t nodes = 5 + dice(r, MAX_NODES - 5);
    for (uint32_t i = 0; i < nodes; i++)
        add_node(r, half, to_cube);
    bool taken[MAX_NODES + 8] = {false};
    uint32_t outputs = 1 + dice(r, 5);
    while (r->output_count < outputs) {
        uint32_t v = r->output_count == 0 ? r->count - 1 : dice(r, r->count);
        if (taken[v]) {
            outputs--;
            continue;
        }
        taken[v] = true;
        r->outputs[r->output_count++] = v;
        net_output(&r->g, r->number[v]);
    }
}

static void check_random(const struct random_graph *r, struct cvd_session *session,
                         const float *flat, const float *cube, int64_t batch, uint32_t seed)
{
    static float out[16][BATCH * SIZE];
    void *outputs[16] = {0};
    for (uint32_t o = 0; o < r->output_count; o++) {
        memset(out[o], 0xff, sizeof(out[o]));
        outputs[o] = (seed + o) % 4 == 3 ? NULL : out[o]; /* some are not wanted */
    }
    run(session, batch, (const void *[]){flat, cube}, outputs);
    for (uint32_t o = 0; o < r->output_count; o++) {
        const float *expected = &r->data[r->outputs[o]][0][0];
        for (int64_t i = 0; i < batch * SIZE && outputs[o] != NULL; i++)
            cr_assert_eq(out[o][i], expected[i], "seed %u, batch %d, output %u, element %d", seed,
                         (int)batch, o, (int)i);
        for (int64_t i = batch * SIZE; i < BATCH * SIZE; i++)
            cr_assert(isnan(out[o][i]), "seed %u: output %u is too long", seed, o);
    }
}

Test(session, random_graphs_compute_what_they_say, .timeout = 600)
{
    static struct random_graph r;
    struct cvd_engine *engines[] = {net_engine(1), net_engine(3)};
    for (uint32_t seed = 1; seed <= 400; seed++) {
        make_random(&r, seed);
        struct cvd_model *model = net_model(engines[seed % 2], &r.g);
        struct cvd_session *session = make_session(model, BATCH);
        /* Copies, so that a step that writes to its inputs is noticed. */
        float flat[BATCH * SIZE], cube[BATCH * SIZE];
        memcpy(flat, r.data[0], sizeof(flat));
        memcpy(cube, r.data[1], sizeof(cube));
        static const int64_t batches[] = {1, BATCH, 3};
        for (int i = 0; i < 3; i++)
            check_random(&r, session, flat, cube, batches[i], seed);
        cr_assert_eq(memcmp(flat, r.data[0], sizeof(flat)), 0);
        cr_assert_eq(memcmp(cube, r.data[1], sizeof(cube)), 0);
        cvd_session_destroy(session);
        cvd_model_destroy(model);
    }
    cvd_engine_destroy(engines[0]);
    cvd_engine_destroy(engines[1]);
}

/* ---- outputs of every kind ---- */

Test(session, inputs_constants_and_twins_as_outputs)
{
    struct graph g;
    net_init(&g);
    static const float two[] = {-1, 2};
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
    uint32_t k = net_floats(&g, "k", NET_SHAPE(2), two);
    uint32_t a = NET_OP(&g, "Relu", "a", x);
    net_output(&g, x);
    net_output(&g, a);
    net_output(&g, NET_OP(&g, "Identity", "twin", a));
    net_output(&g, NET_OP(&g, "Add", "sum", a, k));
    net_output(&g, k);
    struct cvd_engine *engine = net_engine(2);
    struct cvd_model *model = net_model(engine, &g);
    struct cvd_session *session = make_session(model, 2);
    const float in[] = {-3, 4, 5, -6};
    float out[5][4];
    run(session, 2, (const void *[]){in}, (void *[]){out[0], out[1], out[2], out[3], out[4]});
    static const float expected[5][4] = {
        {-3, 4, 5, -6}, {0, 4, 5, 0}, {0, 4, 5, 0}, {-1, 6, 4, 2}, {-1, 2, 0, 0}};
    for (int o = 0; o < 5; o++) {
        for (int i = 0; i < (o == 4 ? 2 : 4); i++)
            cr_assert_eq(out[o][i], expected[o][i], "output %d[%d] is %f", o, i, (double)out[o][i]);
    }
    /* The twin is copied from the first output's place, also when the caller has none for it. */
    memset(out, 0, sizeof(out));
    run(session, 2, (const void *[]){in}, (void *[]){NULL, NULL, out[2], NULL, NULL});
    cr_assert_eq(memcmp(out[2], expected[2], sizeof(out[2])), 0);
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

Test(session, steps_that_mix_images_see_the_whole_batch)
{
    struct graph g;
    net_init(&g);
    const struct op_attr axis[] = {{.name = "axis", .type = OP_ATTR_INT, .i = 0}};
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 2));
    net_output(&g, NET_OP_ATTRS(&g, "Softmax", "y", axis, x));
    struct cvd_engine *engine = net_engine(2);
    struct cvd_model *model = net_model(engine, &g);
    struct cvd_session *session = make_session(model, 8);
    float in[16] = {0}, out[16];
    for (int64_t batch = 8; batch >= 1; batch /= 2) {
        run1(session, batch, in, out);
        for (int64_t i = 0; i < batch * 2; i++)
            cr_assert_float_eq((double)out[i], 1.0 / (double)batch, 1e-6);
    }
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

Test(session, a_value_without_images_beside_the_batch)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 3));
    uint32_t bias = net_input(&g, "bias", NET_SHAPE(3)); /* the same for all images */
    uint32_t relu = NET_OP(&g, "Relu", "relu", bias);
    net_output(&g, NET_OP(&g, "Add", "y", x, relu));
    struct cvd_engine *engine = net_engine(2);
    struct cvd_model *model = net_model(engine, &g);
    cr_assert(model->plan->batchwise);
    struct cvd_session *session = make_session(model, 4);
    float in[12], out[12];
    const float b[] = {10, -20, 30};
    for (int i = 0; i < 12; i++)
        in[i] = (float)i;
    run(session, 4, (const void *[]){in, b}, (void *[]){out});
    for (int i = 0; i < 12; i++)
        cr_assert_eq(out[i], (float)(i + (i % 3 == 0 ? 10 : i % 3 == 2 ? 30 : 0)));
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

/* The first Gemm packs the weights; the second one must still find them. */
Test(session, weights_that_two_steps_share)
{
    struct cvd_engine *engine = net_engine(1);
    float in[64], out[2][64];
    net_fill(in, 64, 1);
    for (int copies = 0; copies < 2; copies++) {
        struct graph g;
        net_init(&g);
        uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 64));
        uint32_t w = net_weights(&g, "w", NET_SHAPE(64, 64), 1, 2);
        uint32_t other = copies == 1 ? net_weights(&g, "w 2", NET_SHAPE(64, 64), 1, 2) : w;
        uint32_t y = NET_OP(&g, "Gemm", "first", x, w);
        net_output(&g, NET_OP(&g, "Gemm", "second", y, other));
        struct cvd_model *model = net_model(engine, &g);
        struct cvd_session *session = make_session(model, 1);
        run1(session, 1, in, out[copies]);
        cvd_session_destroy(session);
        cvd_model_destroy(model);
    }
    cr_assert_eq(memcmp(out[0], out[1], sizeof(out[0])), 0);
    cvd_engine_destroy(engine);
}

Test(session, memory_of_any_alignment)
{
    static float images[3 * IMAGE + 16], aligned[3 * CLASSES];
    static char room[3 * IMAGE * sizeof(float) + 64], results[3 * CLASSES * sizeof(float) + 64];
    net_fill(images, 3 * IMAGE, 4);
    struct cvd_engine *engine = net_engine(2);
    struct cvd_model *model = lenet(engine);
    struct cvd_session *session = make_session(model, 3);
    run1(session, 3, images, aligned);
    for (size_t shift = sizeof(float); shift < 64; shift += 12) {
        memcpy(room + shift, images, 3 * IMAGE * sizeof(float));
        run1(session, 3, (const float *)(void *)(room + shift), (float *)(void *)(results + shift));
        cr_assert_eq(memcmp(results + shift, aligned, sizeof(aligned)), 0);
    }
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

/* ---- times of layers ---- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Whoever runs what, a worker's layers fit into the time of the run, and so does their mean. */
static void check_times(struct cvd_session *session, int64_t batch, const float *in, float *out,
                        uint64_t *layer_ns, size_t layers)
{
    uint64_t begin = now_ns(), sum = 0;
    run1(session, batch, in, out);
    uint64_t elapsed = now_ns() - begin;
    for (size_t i = 0; i < layers; i++) {
        cr_assert_gt(layer_ns[i], 0, "layer %zu, batch %d", i, (int)batch);
        sum += layer_ns[i];
    }
    cr_assert_leq(sum, elapsed, "batch %d", (int)batch);
}

Test(session, layers_are_timed_when_asked_for)
{
    static float images[8 * IMAGE], expected[8 * CLASSES], out[8 * CLASSES];
    static const int64_t batches[] = {8, 1, 3, 2, 8};
    const uint64_t untouched = 12345;
    net_fill(images, 8 * IMAGE, 12);
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct cvd_engine *engine = net_engine(threads);
        struct cvd_model *model = lenet(engine);
        struct cvd_session *session = make_session(model, 8);
        uint64_t layer_ns[32];
        size_t layers = cvd_model_layer_count(model);
        cr_assert(layers > 5 && layers < 32);
        for (size_t i = 0; i < 32; i++)
            layer_ns[i] = untouched;
        run1(session, 8, images, expected);

        cvd_session_time_layers(session, layer_ns);
        mem_fail_after(1, true); /* timing allocates nothing */
        for (size_t b = 0; b < sizeof(batches) / sizeof(*batches); b++)
            check_times(session, batches[b], images, out, layer_ns, layers);
        mem_fail_after(0, false);
        cr_assert_eq(memcmp(out, expected, sizeof(out)), 0);
        cr_assert_eq(layer_ns[layers], untouched);

        cvd_session_time_layers(session, NULL);
        layer_ns[0] = untouched;
        run1(session, 8, images, out);
        run1(session, 1, images, out);
        cr_assert_eq(layer_ns[0], untouched);
        cvd_session_destroy(session);
        cvd_model_destroy(model);
        cvd_engine_destroy(engine);
    }
}

/* ---- limits and failures ---- */

Test(session, batches_it_was_not_made_for)
{
    struct cvd_engine *engine = net_engine(1);
    struct cvd_model *model = lenet(engine);
    struct cvd_session *session = NULL;
    struct cvd_error err = {0};
    float in[IMAGE] = {0}, out[CLASSES];
    cr_assert_eq(cvd_session_create(model, 0, &session, &err), CVD_STATUS_INVALID_ARGUMENT);
    cr_assert_eq(cvd_session_create(model, -5, &session, &err), CVD_STATUS_INVALID_ARGUMENT);
    cr_assert_eq(cvd_session_create(model, INT64_MAX, &session, &err), CVD_STATUS_OUT_OF_MEMORY);
    cr_assert_null(session);
    session = make_session(model, 4);
    static const int64_t wrong[] = {0, -1, 5, INT64_MIN, INT64_MAX};
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(
            cvd_session_run(session, wrong[i], (const void *[]){in}, (void *[]){out}, &err),
            CVD_STATUS_INVALID_ARGUMENT);
        cr_assert_not_null(strstr(err.message, "this session runs 1 to 4"), "%s", err.message);
    }
    cr_assert_eq(cvd_session_run(session, 1, (const void *[]){NULL}, (void *[]){out}, &err),
                 CVD_STATUS_INVALID_ARGUMENT);
    cr_assert_not_null(strstr(err.message, "'image'"), "%s", err.message);
    cvd_session_destroy(session);
    cvd_session_destroy(NULL);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

Test(session, a_fixed_batch_is_the_only_one)
{
    struct graph g;
    net_init(&g);
    uint32_t x = net_input(&g, "x", NET_SHAPE(3, 2));
    net_output(&g, NET_OP(&g, "Softmax", "y", x));
    struct cvd_engine *engine = net_engine(2);
    struct cvd_model *model = net_model(engine, &g);
    struct cvd_session *session = NULL;
    struct cvd_error err = {0};
    cr_assert_eq(cvd_session_create(model, 4, &session, &err), CVD_STATUS_INVALID_ARGUMENT);
    cr_assert_not_null(strstr(err.message, "always 3"), "%s", err.message);
    session = make_session(model, 3);
    float in[6] = {0}, out[6] = {0};
    cr_assert_eq(cvd_session_run(session, 2, (const void *[]){in}, (void *[]){out}, &err),
                 CVD_STATUS_INVALID_ARGUMENT);
    run1(session, 3, in, out);
    for (int i = 0; i < 6; i++)
        cr_assert_float_eq((double)out[i], 0.5, 1e-6);
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

Test(session, running_allocates_nothing_and_creation_survives_failures)
{
    static float images[8 * IMAGE], expected[8 * CLASSES], out[8 * CLASSES];
    net_fill(images, 8 * IMAGE, 2);
    struct cvd_engine *engine = net_engine(2);
    struct cvd_model *model = lenet(engine);
    struct cvd_session *session = NULL;
    struct cvd_error err = {0};
    size_t failures = 0;
    for (size_t n = 1;; n++) {
        mem_fail_after(n, n % 2 == 0);
        enum cvd_status status = cvd_session_create(model, 8, &session, &err);
        mem_fail_after(0, false);
        if (status == CVD_STATUS_OK)
            break;
        cr_assert_eq(status, CVD_STATUS_OUT_OF_MEMORY);
        cr_assert_null(session);
        failures++;
    }
    cr_assert_gt(failures, 5);
    mem_fail_after(1, true);
    run1(session, 8, images, expected); /* the very first run as well */
    run1(session, 1, images, out);
    run1(session, 3, images, out);
    mem_fail_after(0, false);
    cr_assert_eq(memcmp(out, expected, 3 * CLASSES * sizeof(float)), 0);
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

static size_t resident_kib(void)
{
    size_t pages = 0, total = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    cr_assert_not_null(f);
    cr_assert_eq(fscanf(f, "%zu %zu", &total, &pages), 2);
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE) / 1024;
}

Test(session, what_is_not_used_costs_nothing)
{
    struct graph g;
    net_init(&g); /* 12 MiB for each image, at once, because Softmax over axis 0 mixes them */
    const struct op_attr axis[] = {{.name = "axis", .type = OP_ATTR_INT, .i = 0}};
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 1024, 1024));
    uint32_t a = NET_OP_ATTRS(&g, "Softmax", "a", axis, x);
    uint32_t b = NET_OP(&g, "Sigmoid", "b", x);
    net_output(&g, NET_OP(&g, "MatMul", "y", a, NET_OP(&g, "Add", "c", a, b)));
    struct cvd_engine *engine = net_engine(1);
    struct cvd_model *model = net_model(engine, &g);
    size_t before = resident_kib();
    struct cvd_session *session = make_session(model, 64);
    cr_assert_lt(resident_kib(), before + 4096);
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

/* ---- many at once ---- */

#define USERS 5

struct user {
    struct cvd_job job;
    const struct cvd_model *model;
    const float *images, *expected;
    unsigned number;
    atomic_uint *done, *wrong;
};

/* Runs batches of many sizes and compares. */
static void use_model(struct user *u)
{
    struct cvd_session *session = NULL;
    float out[8 * CLASSES];
    if (cvd_session_create(u->model, 8, &session, NULL) != CVD_STATUS_OK) {
        atomic_fetch_add(u->wrong, 1);
        return;
    }
    for (unsigned i = 0; i < 40; i++) {
        int64_t batch = 1 + (i + u->number) % 8, first = 8 - batch;
        enum cvd_status status = cvd_session_run(
            session, batch, (const void *[]){u->images + first * IMAGE}, (void *[]){out}, NULL);
        bool same = memcmp(out, u->expected + first * CLASSES,
                           (size_t)batch * CLASSES * sizeof(float)) == 0;
        atomic_fetch_add(u->wrong, status != CVD_STATUS_OK || !same);
    }
    cvd_session_destroy(session);
}

static void *user_thread(void *arg)
{
    use_model(arg);
    return NULL;
}

static void user_job(struct cvd_job *job)
{
    struct user *u = (struct user *)job;
    use_model(u);
    atomic_fetch_add(u->done, 1);
}

Test(session, many_sessions_from_threads_and_jobs, .timeout = 600)
{
    static float images[8 * IMAGE], expected[8 * CLASSES];
    net_fill(images, 8 * IMAGE, 6);
    struct cvd_engine *engine = net_engine(3);
    struct cvd_model *model = lenet(engine);
    struct cvd_session *session = make_session(model, 8);
    run1(session, 8, images, expected);
    cvd_session_destroy(session);

    atomic_uint done = 0, wrong = 0;
    struct user threads[USERS], jobs[USERS];
    pthread_t ids[USERS];
    for (unsigned i = 0; i < USERS; i++) {
        threads[i] = (struct user){.job.run = user_job,
                                   .model = model,
                                   .images = images,
                                   .expected = expected,
                                   .number = i,
                                   .done = &done,
                                   .wrong = &wrong};
        jobs[i] = threads[i];
        cvd_engine_submit(engine, &jobs[i].job);
        cr_assert_eq(pthread_create(&ids[i], NULL, user_thread, &threads[i]), 0);
    }
    for (unsigned i = 0; i < USERS; i++)
        pthread_join(ids[i], NULL);
    while (atomic_load(&done) < USERS)
        usleep(1000);
    cr_assert_eq(wrong, 0);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

/* Denormal inputs count as zero on every thread, the caller's included. */
Test(session, denormals_are_zero_everywhere)
{
    struct graph g;
    net_init(&g);
    static const float big[] = {1e30f};
    uint32_t x = net_input(&g, "x", NET_SHAPE(CVD_DIM_BATCH, 64));
    net_output(&g, NET_OP(&g, "Mul", "y", x, net_floats(&g, "big", NET_SHAPE(1), big)));
    struct cvd_engine *engine = net_engine(2);
    struct cvd_model *model = net_model(engine, &g);
    struct cvd_session *session = make_session(model, 16);
    float in[16 * 64], out[16 * 64];
    for (int i = 0; i < 16 * 64; i++)
        in[i] = 1e-40f;
    for (int64_t batch = 1; batch <= 16; batch += 15) {
        memset(out, 0xff, sizeof(out));
        run1(session, batch, in, out);
        for (int64_t i = 0; i < batch * 64; i++)
            cr_assert_eq(out[i], 0.0f);
    }
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}
