/*
 * How near the convolution and dense operators come to the multiply-adds' peak, layer by layer, on
 * one thread: for each real layer the best of many runs, and the median of its shares of the peak,
 * each beside a run of the peak kernel just before it, so that both meet the same machine.
 *
 *   kernels [c|avx2|avx512] [TEXT]    layers whose line holds TEXT; default: the highest level, all
 *
 * "warm" runs one copy of the weights again and again, "cold" goes round as many copies as no cache
 * holds, as a network does. Single layers are faster than in a network all the same: their inputs
 * are warm.
 */
#include "engine/ops/blocked.h"
#include "engine/runtime/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS     120
#define COLD_BYTES ((size_t)96 << 20)
#define MAX_COPIES 64

static struct kernels kernels;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double peak_rate(void)
{
    float values[KERNEL_PEAK_CHAINS];
    for (int i = 0; i < KERNEL_PEAK_CHAINS; i++)
        values[i] = (float)i;
    const size_t rounds = 20000;
    const double begin = now();
    kernels.peak.fn(rounds, values);
    return (double)kernels.peak.flops * (double)rounds / (now() - begin) * 1e-9;
}

/* A node with one input that varies and constant weights. */
struct layer {
    const char *op, *name;
    struct cvd_shape in, weights;
    struct op_layout in_layout, out_layout;
    int stride, pad, groups;
};

static float *numbers(size_t count)
{
    float *x = mem_map((count + 64) * sizeof *x);
    if (!x)
        exit(1);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(i % 17) * 0.125f - 1;
    return x;
}

static void fail(const struct layer *l, const struct cvd_error *err)
{
    fprintf(stderr, "%s: %s\n", l->name, err->message);
    exit(1);
}

struct bench {
    struct op_run run;
    struct op_tensor in;
    const struct op_tensor *ins[3];
    struct op_output out;
    struct op_prepared copies[MAX_COPIES];
    size_t copy_count;
    double flops;
};

static void set_up(const struct layer *l, struct bench *b)
{
    bool known;
    const int64_t strides[] = {l->stride, l->stride}, pads[] = {l->pad, l->pad, l->pad, l->pad};
    const int64_t windows[] = {2, 2};
    const bool pool = strcmp(l->op, "PlanesMaxPool") == 0;
    const struct op_attr attrs[] = {
        {.name = "strides", .type = OP_ATTR_INTS, .count = 2, .ints = strides},
        {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = pads},
        {.name = "activation", .type = OP_ATTR_STRING, .s = "Relu"},
        {.name = "group", .type = OP_ATTR_INT, .i = l->groups},
        {.name = "kernel_shape", .type = OP_ATTR_INTS, .count = 2, .ints = windows},
    };
    const struct op_attr dense[] = {
        {.name = "transB", .type = OP_ATTR_INT, .i = 1},
        {.name = "activation", .type = OP_ATTR_STRING, .s = "Relu"},
    };
    const bool gemm = strcmp(l->op, "Gemm") == 0;
    size_t weights, in_floats, out_floats;
    cvd_shape_elements(&l->weights, &weights);
    const struct cvd_shape bias_shape = {1, {l->weights.dims[0]}};
    float *w = numbers(weights), *bias = numbers((size_t)l->weights.dims[0]);
    const struct op_value values[] = {
        {.dtype = CVD_DTYPE_FLOAT32, .shape = l->in, .layout = l->in_layout},
        {.dtype = CVD_DTYPE_FLOAT32, .shape = l->weights, .data = w},
        {.dtype = CVD_DTYPE_FLOAT32, .shape = bias_shape, .data = bias},
    };
    const struct op_value *in[] = {&values[0], &values[1], &values[2]};
    struct op_value out = {0};
    struct cvd_error err = {0};
    const struct op_node node = {.def = op_find(BLOCKED_DOMAIN, l->op, BLOCKED_VERSION, &known),
                                 .name = l->name,
                                 .opset = BLOCKED_VERSION,
                                 .attrs = gemm ? dense : attrs,
                                 .attr_count = gemm   ? 2
                                               : pool ? 5
                                                      : 4,
                                 .in = in,
                                 .in_count = pool ? 1 : 3,
                                 .out_count = 1,
                                 .err = &err};
    *b = (struct bench){0};
    if (node.def->infer(&node, &out) != CVD_STATUS_OK)
        fail(l, &err);
    out.layout = l->out_layout;
    do {
        if (node.def->prepare(&node, &out, &kernels, &b->copies[b->copy_count]) != CVD_STATUS_OK)
            fail(l, &err);
        b->copy_count++;
    } while (b->copy_count < MAX_COPIES && b->copy_count * b->copies[0].state_bytes < COLD_BYTES);
    blocked_elements(&l->in, l->in_layout, &in_floats);
    blocked_elements(&out.shape, out.layout, &out_floats);
    float *x = numbers(in_floats);
    struct blocked_map map;
    if (blocked_map(&l->in, l->in_layout, &map))
        for (size_t n = 0; n < map.images; n++) {
            blocked_clear_gaps(&map, x + map.first + n * map.image, 0, map.blocks, 0, map.height);
            blocked_clear_lead(&map, x + map.first + n * map.image);
        }
    b->in = (struct op_tensor){
        .dtype = CVD_DTYPE_FLOAT32, .shape = l->in, .data = x, .layout = l->in_layout};
    b->ins[0] = &b->in;
    b->out = (struct op_output){.dtype = CVD_DTYPE_FLOAT32,
                                .shape = out.shape,
                                .data = numbers(out_floats),
                                .layout = out.layout};
    b->run = (struct op_run){.kernels = &kernels,
                             .in = b->ins,
                             .in_count = 1,
                             .out = &b->out,
                             .out_count = 1,
                             .scratch = mem_map(b->copies[0].scratch_bytes + 64),
                             .scratch_stride = b->copies[0].scratch_bytes};
    b->flops = 2 * (double)b->copies[0].macs * (gemm ? 1 : (double)l->in.dims[0]);
    mem_unmap(w, (weights + 64) * sizeof *w);
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of the fastest run; *share is the median part of the peak. */
static double best_time(const struct layer *l, struct bench *b, bool cold, double *share)
{
    bool known;
    const struct op_def *def = op_find(BLOCKED_DOMAIN, l->op, BLOCKED_VERSION, &known);
    const size_t copies = cold ? b->copy_count : 1;
    const int repeats = cold ? 1 : b->flops < 2e7 ? 20 : 1;
    double best = 1e9, shares[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        const double peak = peak_rate() * 1e9;
        b->run.state = b->copies[(size_t)i % copies].state;
        const double begin = now();
        for (int r = 0; r < repeats; r++)
            def->run(&b->run);
        const double t = (now() - begin) / repeats;
        shares[i] = b->flops / t / peak;
        best = fmin(best, t);
    }
    qsort(shares, ROUNDS, sizeof *shares, ascending);
    *share = shares[ROUNDS / 2];
    return best;
}

static void run_layer(const struct layer *l)
{
    static struct bench b;
    double share, cold_share;
    set_up(l, &b);
    const double warm = best_time(l, &b, false, &share);
    const double cold = best_time(l, &b, true, &cold_share);
    printf("%-34s %-28s %9.1f us %6.1f GFLOP/s %5.1f %%   cold %9.1f us %5.1f %%\n", l->name,
           b.copies[0].kernel, warm * 1e6, b.flops / warm * 1e-9, share * 100, cold * 1e6,
           cold_share * 100);
    fflush(stdout);
    for (size_t i = 0; i < b.copy_count; i++)
        mem_free(b.copies[i].state);
}

/* ---- the layers ---- */

enum kind { BLOCKED, STEM, PLANES };

struct conv {
    const char *name;
    enum kind kind;
    int n, c, size, out, kernel, stride, pad, groups, out_gap;
};

static const struct conv convs[] = {
    {"3x3 64-64 @56", BLOCKED, 1, 64, 56, 64, 3, 1, 1, 1, 0},
    {"3x3 128-128 @28", BLOCKED, 1, 128, 28, 128, 3, 1, 1, 1, 0},
    {"3x3 256-256 @14", BLOCKED, 1, 256, 14, 256, 3, 1, 1, 1, 0},
    {"3x3 512-512 @7", BLOCKED, 1, 512, 7, 512, 3, 1, 1, 1, 0},
    {"3x3 512-512 @7 batch 8", BLOCKED, 8, 512, 7, 512, 3, 1, 1, 1, 0},
    {"3x3 s2 128-128 @56", BLOCKED, 1, 128, 56, 128, 3, 2, 1, 1, 0},
    {"3x3 s2 256-256 @28", BLOCKED, 1, 256, 28, 256, 3, 2, 1, 1, 0},
    {"3x3 s2 512-512 @14", BLOCKED, 1, 512, 14, 512, 3, 2, 1, 1, 0},
    {"3x3 128-32 @28 (densenet)", BLOCKED, 1, 128, 28, 32, 3, 1, 1, 1, 0},
    {"3x3 512-512 @28 (vgg)", BLOCKED, 1, 512, 28, 512, 3, 1, 1, 1, 0},
    {"5x5 48-64 @27", BLOCKED, 1, 48, 27, 64, 5, 1, 2, 1, 0},
    {"1x1 64-256 @56", BLOCKED, 1, 64, 56, 256, 1, 1, 0, 1, 0},
    {"1x1 256-64 @56 gap", BLOCKED, 1, 256, 56, 64, 1, 1, 0, 1, 1},
    {"1x1 128-512 @28", BLOCKED, 1, 128, 28, 512, 1, 1, 0, 1, 0},
    {"1x1 512-128 @28 gap", BLOCKED, 1, 512, 28, 128, 1, 1, 0, 1, 1},
    {"1x1 256-1024 @14", BLOCKED, 1, 256, 14, 1024, 1, 1, 0, 1, 0},
    {"1x1 1024-256 @14 gap", BLOCKED, 1, 1024, 14, 256, 1, 1, 0, 1, 1},
    {"1x1 512-2048 @7", BLOCKED, 1, 512, 7, 2048, 1, 1, 0, 1, 0},
    {"1x1 2048-512 @7 gap", BLOCKED, 1, 2048, 7, 512, 1, 1, 0, 1, 1},
    {"1x1 2048-512 @7 batch 8", BLOCKED, 8, 2048, 7, 512, 1, 1, 0, 1, 0},
    {"1x1 s2 256-512 @56", BLOCKED, 1, 256, 56, 512, 1, 2, 0, 1, 0},
    {"1x1 16-96 @112 gap", BLOCKED, 1, 16, 112, 96, 1, 1, 0, 1, 1},
    {"1x1 24-144 @56 gap", BLOCKED, 1, 24, 56, 144, 1, 1, 0, 1, 1},
    {"1x1 144-24 @56", BLOCKED, 1, 144, 56, 24, 1, 1, 0, 1, 0},
    {"1x1 96-576 @14 gap", BLOCKED, 1, 96, 14, 576, 1, 1, 0, 1, 1},
    {"1x1 576-96 @14", BLOCKED, 1, 576, 14, 96, 1, 1, 0, 1, 0},
    {"1x1 160-960 @7 gap", BLOCKED, 1, 160, 7, 960, 1, 1, 0, 1, 1},
    {"1x1 960-320 @7", BLOCKED, 1, 960, 7, 320, 1, 1, 0, 1, 0},
    {"1x1 58-58 @28", BLOCKED, 1, 58, 28, 58, 1, 1, 0, 1, 0},
    {"3x3 128 in 32 groups @56", BLOCKED, 1, 128, 56, 128, 3, 1, 1, 32, 0},
    {"3x3 256 in 32 groups @28", BLOCKED, 1, 256, 28, 256, 3, 1, 1, 32, 0},
    {"3x3 s2 256 in 32 groups @56", BLOCKED, 1, 256, 56, 256, 3, 2, 1, 32, 0},
    {"3x3 64 in 4 groups @56", BLOCKED, 1, 64, 56, 64, 3, 1, 1, 4, 0},
    {"3x3 144 in 6 groups @28", BLOCKED, 1, 144, 28, 144, 3, 1, 1, 6, 0},
    {"3x3 s2 168 in 7 groups @56", BLOCKED, 1, 168, 56, 168, 3, 2, 1, 7, 0},
    {"3x3 320 in 8 groups @14", BLOCKED, 1, 320, 14, 320, 3, 1, 1, 8, 0},
    {"3x3 432 in 9 groups @14", BLOCKED, 1, 432, 14, 432, 3, 1, 1, 9, 0},
    {"3x3 784 in 14 groups @7", BLOCKED, 1, 784, 7, 784, 3, 1, 1, 14, 0},
    {"3x3 720 in 6 groups @14", BLOCKED, 1, 720, 14, 720, 3, 1, 1, 6, 0},
    {"3x3 1024 in 32 groups @7", BLOCKED, 1, 1024, 7, 1024, 3, 1, 1, 32, 0},
    {"3x3 512 in 32 groups @14", BLOCKED, 1, 512, 14, 512, 3, 1, 1, 32, 0},
    {"stem 7x7 s2 3-64 @224", STEM, 1, 3, 224, 64, 7, 2, 3, 1, 0},
    {"stem 3x3 s2 3-32 @224", STEM, 1, 3, 224, 32, 3, 2, 1, 1, 1},
    {"stem 3x3 3-64 @224 (vgg)", STEM, 1, 3, 224, 64, 3, 1, 1, 1, 0},
    {"stem 11x11 s4 3-64 @224", STEM, 1, 3, 224, 64, 11, 4, 2, 1, 2},
    {"stem 4x4 s4 3-96 @224", STEM, 1, 3, 224, 96, 4, 4, 0, 1, 0},
    {"lenet C1 5x5 1-6 @28", PLANES, 1, 1, 28, 6, 5, 1, 2, 1, 0},
    {"lenet C1 5x5 1-6 @28 batch 64", PLANES, 64, 1, 28, 6, 5, 1, 2, 1, 0},
    {"lenet C3 5x5 6-16 @14", STEM, 1, 6, 14, 16, 5, 1, 0, 1, 0},
    {"lenet C3 5x5 6-16 @14 batch 64", STEM, 64, 6, 14, 16, 5, 1, 0, 1, 0},
};

struct dense {
    const char *name;
    int rows, inputs, outputs;
    int c, side; /* of a blocked input; c = 0: plain */
};

static const struct dense denses[] = {
    {"fc 400-120 of 16 @5", 1, 400, 120, 16, 5},
    {"fc 120-84", 1, 120, 84, 0, 0},
    {"fc 84-10", 1, 84, 10, 0, 0},
    {"fc 400-120 of 16 @5 batch 64", 64, 400, 120, 16, 5},
    {"fc 120-84 batch 64", 64, 120, 84, 0, 0},
    {"fc 84-10 batch 64", 64, 84, 10, 0, 0},
    {"fc 1280-1000", 1, 1280, 1000, 0, 0},
    {"fc 2048-1000", 1, 2048, 1000, 0, 0},
    {"fc 2048-1000 batch 8", 8, 2048, 1000, 0, 0},
    {"fc 25088-4096 of 512 @7", 1, 25088, 4096, 512, 7},
    {"fc 4096-4096", 1, 4096, 4096, 0, 0},
    {"fc 4096-4096 batch 8", 8, 4096, 4096, 0, 0},
};

int main(int argc, char **argv)
{
    enum cvd_cpu level = CVD_CPU_AVX512;
    const char *text = "";
    for (int i = 1; i < argc; i++) {
        bool is_level = false;
        for (int l = CVD_CPU_C; l < CVD_CPU_COUNT; l++)
            if (strcmp(argv[i], cvd_cpu_name((enum cvd_cpu)l)) == 0) {
                level = (enum cvd_cpu)l;
                is_level = true;
            }
        if (!is_level)
            text = argv[i];
    }
    while (!cvd_cpu_supported(level))
        level--;
    kernels_init(&kernels, level);
    double peak = 0;
    for (int i = 0; i < 200; i++)
        peak = fmax(peak, peak_rate());
    printf("%s, peak %.0f GFLOP/s\n", cvd_cpu_name(level), peak);

    const unsigned lanes = kernels.lanes;
    for (size_t i = 0; i < sizeof convs / sizeof *convs; i++) {
        const struct conv *c = &convs[i];
        if (!strstr(c->name, text))
            continue;
        struct layer l = {.op = "Conv",
                          .name = c->name,
                          .in = {4, {c->n, c->c, c->size, c->size}},
                          .weights = {4, {c->out, c->c / c->groups, c->kernel, c->kernel}},
                          .stride = c->stride,
                          .pad = c->pad,
                          .groups = c->groups};
        if (c->kind == BLOCKED)
            l.in_layout = (struct op_layout){.lanes = lanes, .gap = (unsigned)c->pad};
        if (c->kind != PLANES)
            l.out_layout = (struct op_layout){.lanes = lanes, .gap = (unsigned)c->out_gap};
        run_layer(&l);
    }
    for (size_t i = 0; i < sizeof denses / sizeof *denses; i++) {
        const struct dense *d = &denses[i];
        if (!strstr(d->name, text))
            continue;
        struct layer l = {.op = "Gemm",
                          .name = d->name,
                          .in = {2, {d->rows, d->inputs}},
                          .weights = {2, {d->outputs, d->inputs}}};
        if (d->c) {
            l.in = (struct cvd_shape){4, {d->rows, d->c, d->side, d->side}};
            l.in_layout = (struct op_layout){.lanes = lanes, .gap = 0};
        }
        run_layer(&l);
    }
    return 0;
}
