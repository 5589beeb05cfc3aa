/*
 * The operators that keep a map a map, layer by layer, on one thread: Winograd's convolutions
 * beside the direct one, depthwise ones beside the multiply-adds' peak, the rest beside memory.
 * Times are the best of many runs; shares of the peak are medians, each beside a run of the peak
 * kernel just before it, so that both meet the same machine.
 *
 *   kernels_maps [c|avx2|avx512] [TEXT]    lines that hold TEXT; default: the highest level, all
 *
 * "cold" goes round as many copies of weights as no cache holds, as a network does; maps are warm
 * where they fit into a cache.
 */
#include "engine/ops/blocked.h"
#include "engine/runtime/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS     150
#define COLD_BYTES ((size_t)96 << 20)
#define MAX_COPIES 48
#define MAX_IN     5

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

static float *numbers(size_t count)
{
    float *x = mem_map((count + 64) * sizeof *x);
    if (!x)
        exit(1);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(i % 17) * 0.125f - 1;
    return x;
}

/* ---- one operator ---- */

struct input {
    struct cvd_shape shape;
    struct op_layout layout;
    bool constant;
};

struct bench {
    const struct op_def *def;
    struct op_run run;
    struct op_tensor tensors[MAX_IN];
    const struct op_tensor *ins[MAX_IN];
    struct op_output out;
    struct op_prepared copies[MAX_COPIES];
    size_t copy_count;
    double bytes; /* of the values that vary */
};

static float *value(const struct input *in)
{
    size_t count;
    blocked_elements(&in->shape, in->layout, &count);
    float *x = numbers(count);
    struct blocked_map map;
    if (blocked_map(&in->shape, in->layout, &map))
        for (size_t n = 0; n < map.images; n++) {
            blocked_clear_gaps(&map, x + map.first + n * map.image, 0, map.blocks, 0, map.height);
            blocked_clear_lead(&map, x + map.first + n * map.image);
        }
    return x;
}

static void set_up(struct bench *b, const char *op, const struct op_attr *attrs, size_t attr_count,
                   const struct input *inputs, size_t count, struct op_layout out_layout)
{
    bool known;
    struct op_value values[MAX_IN] = {0}, out = {0};
    const struct op_value *in[MAX_IN];
    struct cvd_error err = {0};
    *b = (struct bench){.def = op_find(BLOCKED_DOMAIN, op, BLOCKED_VERSION, &known)};
    for (size_t i = 0; i < count; i++) {
        float *x = value(&inputs[i]);
        values[i] = (struct op_value){.dtype = CVD_DTYPE_FLOAT32,
                                      .shape = inputs[i].shape,
                                      .data = inputs[i].constant ? x : NULL,
                                      .layout = inputs[i].layout};
        b->tensors[i] = (struct op_tensor){.dtype = CVD_DTYPE_FLOAT32,
                                           .shape = inputs[i].shape,
                                           .data = x,
                                           .layout = inputs[i].layout};
        in[i] = &values[i];
        b->ins[i] = &b->tensors[i];
        size_t elements;
        blocked_elements(&inputs[i].shape, inputs[i].layout, &elements);
        b->bytes += inputs[i].constant ? 0 : (double)(elements * sizeof(float));
    }
    const struct op_node node = {.def = b->def,
                                 .name = "bench",
                                 .opset = BLOCKED_VERSION,
                                 .attrs = attrs,
                                 .attr_count = attr_count,
                                 .in = in,
                                 .in_count = count,
                                 .out_count = 1,
                                 .err = &err};
    enum cvd_status status = b->def->infer(&node, &out);
    out.layout = out_layout;
    do {
        if (status == CVD_STATUS_OK)
            status = b->def->prepare(&node, &out, &kernels, &b->copies[b->copy_count]);
        if (status != CVD_STATUS_OK) {
            fprintf(stderr, "%s\n", err.message);
            exit(1);
        }
        b->copy_count++;
    } while (b->copy_count < MAX_COPIES && b->copy_count * b->copies[0].state_bytes < COLD_BYTES);
    const struct input output = {out.shape, out.layout, false};
    size_t elements;
    blocked_elements(&out.shape, out.layout, &elements);
    b->bytes += (double)(elements * sizeof(float));
    b->out = (struct op_output){.dtype = CVD_DTYPE_FLOAT32,
                                .shape = out.shape,
                                .data = value(&output),
                                .layout = out.layout};
    b->run = (struct op_run){.kernels = &kernels,
                             .in = b->ins,
                             .in_count = count,
                             .out = &b->out,
                             .out_count = 1,
                             .scratch = mem_map(b->copies[0].scratch_bytes + 64),
                             .scratch_stride = b->copies[0].scratch_bytes};
}

static double time_once(struct bench *b, size_t copy, int repeats)
{
    b->run.state = b->copies[copy].state;
    const double begin = now();
    for (int i = 0; i < repeats; i++)
        b->def->run(&b->run);
    return (now() - begin) / repeats;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of one operator among those that are run in turns. */
struct timing {
    double best;  /* time */
    double share; /* median part of the peak, measured just before each run; without `flops`: 0 */
};

/* Times `count` operators, with cold weights when asked to. */
static void measure(struct bench *b, size_t count, bool cold, double flops, struct timing *to)
{
    for (size_t i = 0; i < count; i++) {
        const double first = time_once(&b[i], 0, 1);
        const int repeats = cold || first > 1e-4 ? 1 : (int)(1e-4 / first) + 1;
        double shares[ROUNDS], best = 1e9;
        for (int r = 0; r < ROUNDS; r++) {
            const double peak = peak_rate() * 1e9;
            const double t = time_once(&b[i], cold ? (size_t)r % b[i].copy_count : 0, repeats);
            shares[r] = flops / t / peak;
            best = fmin(best, t);
        }
        qsort(shares, ROUNDS, sizeof *shares, ascending);
        to[i] = (struct timing){best, shares[ROUNDS / 2]};
    }
}

static void release(struct bench *b)
{
    for (size_t i = 0; i < b->copy_count; i++)
        mem_free(b->copies[i].state);
}

/* ---- convolutions ---- */

struct conv {
    const char *name;
    int n, c, size, out, kernel, stride, pad;
    const char *activation;
};

static void set_up_conv(struct bench *b, const char *op, const struct conv *c, int groups, int tile)
{
    const int64_t strides[] = {c->stride, c->stride}, pads[] = {c->pad, c->pad, c->pad, c->pad};
    const struct op_attr attrs[] = {
        {.name = "strides", .type = OP_ATTR_INTS, .count = 2, .ints = strides},
        {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = pads},
        {.name = "activation", .type = OP_ATTR_STRING, .s = c->activation},
        {.name = "activation_alpha", .type = OP_ATTR_FLOAT, .f = 1},
        {.name = "group", .type = OP_ATTR_INT, .i = groups},
        {.name = "tile", .type = OP_ATTR_INT, .i = tile},
    };
    const struct input inputs[] = {
        {{4, {c->n, c->c, c->size, c->size}},
         {.lanes = kernels.lanes, .gap = (unsigned)c->pad},
         false},
        {{4, {c->out, c->c / groups, c->kernel, c->kernel}}, {0}, true},
        {{1, {c->out}}, {0}, true},
    };
    set_up(b, op, attrs, 6, inputs, 3, (struct op_layout){.lanes = kernels.lanes, .gap = 0});
}

static const struct conv winograds[] = {
    {"64-64 @56", 1, 64, 56, 64, 3, 1, 1, "Relu"},
    {"128-128 @28", 1, 128, 28, 128, 3, 1, 1, "Relu"},
    {"256-256 @14", 1, 256, 14, 256, 3, 1, 1, "Relu"},
    {"512-512 @7", 1, 512, 7, 512, 3, 1, 1, "Relu"},
    {"256-256 @14 batch 4", 4, 256, 14, 256, 3, 1, 1, "Relu"},
    {"512-512 @7 batch 8", 8, 512, 7, 512, 3, 1, 1, "Relu"},
    {"64-64 @224 (vgg)", 1, 64, 224, 64, 3, 1, 1, "Relu"},
    {"256-256 @56 (vgg)", 1, 256, 56, 256, 3, 1, 1, "Relu"},
    {"512-512 @28 (vgg)", 1, 512, 28, 512, 3, 1, 1, "Relu"},
    {"512-512 @14 (vgg)", 1, 512, 14, 512, 3, 1, 1, "Relu"},
    {"128-32 @56 (densenet)", 1, 128, 56, 32, 3, 1, 1, "Relu"},
    {"128-32 @14 (densenet)", 1, 128, 14, 32, 3, 1, 1, "Relu"},
    {"16-64 @55 (squeezenet)", 1, 16, 55, 64, 3, 1, 1, "Relu"},
    {"64-256 @13 (squeezenet)", 1, 64, 13, 256, 3, 1, 1, "Relu"},
    {"96-208 @14 (googlenet)", 1, 96, 14, 208, 3, 1, 1, "Relu"},
};

static void run_winograd(const struct conv *c)
{
    static struct bench b[3];
    struct timing warm[3], cold[3];
    set_up_conv(&b[0], "Conv", c, 1, 0);
    set_up_conv(&b[1], "WinogradConv", c, 1, 4);
    set_up_conv(&b[2], "WinogradConv", c, 1, 2);
    const double flops = 2 * (double)b[0].copies[0].macs * c->n;
    measure(b, 3, false, flops, warm);
    measure(b, 3, true, flops, cold);
    printf("3x3 %-24s direct %8.1f us %4.0f %%", c->name, warm[0].best * 1e6, 100 * warm[0].share);
    for (int i = 1; i < 3; i++)
        printf("   F(%d) %8.1f us %4.0f %% x%.2f, cold x%.2f", i == 1 ? 4 : 2, warm[i].best * 1e6,
               100 * warm[i].share, warm[0].best / warm[i].best, cold[0].best / cold[i].best);
    printf("\n");
    fflush(stdout);
    for (int i = 0; i < 3; i++)
        release(&b[i]);
}

static const struct conv depthwises[] = {
    {"3x3 32 @112", 1, 32, 112, 32, 3, 1, 1, "Relu"},
    {"3x3 144 @56", 1, 144, 56, 144, 3, 1, 1, "Relu"},
    {"3x3 192 @28", 1, 192, 28, 192, 3, 1, 1, "Relu"},
    {"3x3 192 @28 swish", 1, 192, 28, 192, 3, 1, 1, "Swish"},
    {"3x3 384 @14", 1, 384, 14, 384, 3, 1, 1, "Relu"},
    {"3x3 960 @7", 1, 960, 7, 960, 3, 1, 1, "Relu"},
    {"5x5 240 @28", 1, 240, 28, 240, 5, 1, 2, "Relu"},
    {"5x5 480 @14", 1, 480, 14, 480, 5, 1, 2, "Relu"},
    {"5x5 1152 @7", 1, 1152, 7, 1152, 5, 1, 2, "Relu"},
    {"7x7 96 @56", 1, 96, 56, 96, 7, 1, 3, ""},
    {"7x7 384 @14", 1, 384, 14, 384, 7, 1, 3, ""},
    {"3x3 s2 96 @112", 1, 96, 112, 96, 3, 2, 1, "Relu"},
    {"3x3 s2 144 @56", 1, 144, 56, 144, 3, 2, 1, "Relu"},
    {"3x3 s2 576 @14", 1, 576, 14, 576, 3, 2, 1, "Relu"},
    {"5x5 s2 672 @14", 1, 672, 14, 672, 5, 2, 2, "Relu"},
};

static void report(const char *what, const char *name, struct bench *b, double flops)
{
    struct timing t;
    measure(b, 1, false, flops, &t);
    printf("%-10s %-26s %8.1f us %6.1f GB/s", what, name, t.best * 1e6, b->bytes / t.best * 1e-9);
    if (flops > 0)
        printf(" %6.1f GFLOP/s %3.0f %%", flops / t.best * 1e-9, 100 * t.share);
    printf("\n");
    fflush(stdout);
    release(b);
}

/* ---- the rest ---- */

struct map_case {
    const char *name, *op;
    int c, size, inputs, channels; /* channels: input 1 is a number for each */
    int kernel, stride, pad;
    const char *activation;
};

static const struct map_case maps[] = {
    {"max 3x3 s2 64 @112", "MaxPool", 64, 112, 1, 0, 3, 2, 1, ""},
    {"max 2x2 s2 64 @224", "MaxPool", 64, 224, 1, 0, 2, 2, 0, ""},
    {"max 3x3 s1 512 @14", "MaxPool", 512, 14, 1, 0, 3, 1, 1, ""},
    {"average 2x2 s2 128 @28", "AveragePool", 128, 28, 1, 0, 2, 2, 0, ""},
    {"average 3x3 s1 192 @28", "AveragePool", 192, 28, 1, 0, 3, 1, 1, ""},
    {"global average 1280 @7", "GlobalAveragePool", 1280, 7, 1, 0, 0, 0, 0, ""},
    {"global average 96 @56", "GlobalAveragePool", 96, 56, 1, 0, 0, 0, 0, ""},
    {"add relu 256 @14", "Add", 256, 14, 2, 0, 0, 0, 0, "Relu"},
    {"add relu 256 @56", "Add", 256, 56, 2, 0, 0, 0, 0, "Relu"},
    {"scale 672 @14", "Mul", 672, 14, 2, 1, 0, 0, 0, ""},
    {"relu 256 @14", "Activation", 256, 14, 1, 0, 0, 0, 0, "Relu"},
    {"hardswish 240 @14", "Activation", 240, 14, 1, 0, 0, 0, 0, "HardSwish"},
    {"sigmoid 240 @14", "Activation", 240, 14, 1, 0, 0, 0, 0, "Sigmoid"},
    {"swish 240 @14", "Activation", 240, 14, 1, 0, 0, 0, 0, "x*Sigmoid(x)"},
    {"tanh 240 @14", "Activation", 240, 14, 1, 0, 0, 0, 0, "Tanh"},
    {"gelu 240 @14", "Activation", 240, 14, 1, 0, 0, 0, 0, "Gelu"},
    {"mish 240 @14", "Activation", 240, 14, 1, 0, 0, 0, 0, "Mish"},
    {"layer norm 96 @56", "LayerNorm", 96, 56, 2, 2, 0, 0, 0, ""},
    {"layer norm 768 @7", "LayerNorm", 768, 7, 2, 2, 0, 0, 0, ""},
};

static void run_map(const struct map_case *m)
{
    static struct bench b;
    const int64_t kernel[] = {m->kernel, m->kernel}, strides[] = {m->stride, m->stride};
    const int64_t pads[] = {m->pad, m->pad, m->pad, m->pad};
    const struct op_attr attrs[] = {
        {.name = "activation", .type = OP_ATTR_STRING, .s = m->activation},
        {.name = "kernel_shape", .type = OP_ATTR_INTS, .count = 2, .ints = kernel},
        {.name = "strides", .type = OP_ATTR_INTS, .count = 2, .ints = strides},
        {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = pads},
    };
    const struct op_layout layout = {.lanes = kernels.lanes};
    struct input inputs[] = {
        {{4, {1, m->c, m->size, m->size}}, layout, false},
        {{4, {1, m->c, m->size, m->size}}, layout, false},
    };
    if (m->channels)
        inputs[1].shape = (struct cvd_shape){4, {1, m->c, 1, 1}};
    if (m->channels == 2)
        inputs[1] = (struct input){{1, {m->c}}, {0}, true};
    set_up(&b, m->op, attrs, m->kernel ? 4 : 1, inputs, (size_t)m->inputs, layout);
    report("", m->name, &b, 0);
}

static void run_softmax(const char *name, int rows, int count)
{
    static struct bench b;
    const struct op_attr attrs[] = {{.name = "axis", .type = OP_ATTR_INT, .i = -1}};
    const struct input input = {{2, {rows, count}}, {0}, false};
    set_up(&b, "Softmax", attrs, 1, &input, 1, (struct op_layout){0});
    report("", name, &b, 0);
}

/* Two inputs of `half` channels: side by side or interleaved; of that the channels from `first` on.
 */
static const struct channels_case {
    const char *name;
    int half, size, first;
    bool interleaved;
} channel_cases[] = {
    {"concatenation 2 x 64 @28", 64, 28, 0, false},
    {"concatenation 2 x 58 @28", 58, 28, 0, false},
    {"half of 116 @28", 58, 28, 58, false},
    {"shuffle 2 x 58 @28", 58, 28, 0, true},
    {"shuffle 2 x 116 @14", 116, 14, 0, true},
    {"shuffle 2 x 232 @7", 232, 7, 0, true},
    {"half of shuffle 2 x 58 @28", 58, 28, 58, true},
    {"half of shuffle 2 x 116 @14", 116, 14, 116, true},
    {"half of shuffle 2 x 232 @7", 232, 7, 232, true},
};

static void run_channels(const struct channels_case *c)
{
    enum { MAX_CHANNELS = 512 };
    static struct bench b;
    const int count = 2 * c->half - c->first;
    int64_t pairs[2 * MAX_CHANNELS];
    for (int i = 0; i < count; i++) {
        const int channel = c->first + i;
        pairs[2 * i] = c->interleaved ? channel % 2 : channel / c->half;
        pairs[2 * i + 1] = c->interleaved ? channel / 2 : channel % c->half;
    }
    const struct op_attr attr = {
        .name = "channels", .type = OP_ATTR_INTS, .count = (size_t)(2 * count), .ints = pairs};
    const struct op_layout layout = {.lanes = kernels.lanes};
    const struct input input = {{4, {1, c->half, c->size, c->size}}, layout, false};
    const struct input inputs[] = {input, input};
    set_up(&b, "Channels", &attr, 1, inputs, 2, layout);
    size_t written;
    blocked_elements(&b.out.shape, layout, &written);
    b.bytes = 2 * (double)(written * sizeof(float)); /* as much is read, of all inputs together */
    report("", c->name, &b, 0);
}

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

    for (size_t i = 0; i < sizeof winograds / sizeof *winograds; i++)
        if (strstr(winograds[i].name, text))
            run_winograd(&winograds[i]);
    for (size_t i = 0; i < sizeof depthwises / sizeof *depthwises; i++) {
        static struct bench b;
        if (!strstr(depthwises[i].name, text))
            continue;
        set_up_conv(&b, "DepthwiseConv", &depthwises[i], depthwises[i].c, 0);
        report("depthwise", depthwises[i].name, &b, 2 * (double)b.copies[0].macs);
    }
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++)
        if (strstr(maps[i].name, text))
            run_map(&maps[i]);
    for (size_t i = 0; i < sizeof channel_cases / sizeof *channel_cases; i++)
        if (strstr(channel_cases[i].name, text))
            run_channels(&channel_cases[i]);
    if (strstr("softmax 1000", text))
        run_softmax("softmax 1000", 1, 1000);
    if (strstr("softmax 64 of 10", text))
        run_softmax("softmax 64 of 10", 64, 10);
    return 0;
}
