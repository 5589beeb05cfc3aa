/*
 * convd bench: how fast a model runs on this machine.
 *
 * Batches of noise are run one after another and timed one by one; the median and the 10th and 99th
 * percentiles say what to expect and how steady it is, where a mean would hide both. The peak is
 * what the engine's own instruction set reaches with multiply-adds on registers, on as many
 * threads: the share of it is what is left to gain. Layers are timed in runs of their own, so that
 * reading the clock between them adds nothing to the totals.
 */
#include "server/cli.h"
#include "server/clock.h"
#include "server/commands.h"
#include "server/layer_cells.h"
#include "server/registry_json.h"

#include <convd/session.h>

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RUNS       1000000u
#define MAX_LAYER_RUNS 1000u
#define MIN_RUNS       3u
#define WARM_UP_NS     200000000u

struct bench {
    struct registry_model *m;
    struct cvd_session *session;
    void **inputs, **outputs;
    size_t input_count, output_count;
    int64_t batch;
    uint64_t *times_ns;
    size_t runs;
    size_t layer_count;
    uint64_t *layer_ns;       /* of the last run, by layer */
    uint64_t *layer_times_ns; /* MAX_LAYER_RUNS for each layer */
    size_t layer_runs;        /* 0: layers are not timed */
};

/* Fills a model's input with noise of its type; small numbers, so that nothing overflows. */
static void fill(void *data, enum cvd_dtype dtype, size_t count)
{
    uint32_t state = 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u; /* Numerical Recipes' generator */
        float unit = (float)(state >> 8) * 0x1p-24f;
        if (dtype == CVD_DTYPE_FLOAT32)
            ((float *)data)[i] = 2 * unit - 1;
        else if (dtype == CVD_DTYPE_FLOAT64)
            ((double *)data)[i] = 2 * (double)unit - 1;
        else if (dtype == CVD_DTYPE_UINT8 || dtype == CVD_DTYPE_INT8)
            ((uint8_t *)data)[i] = (uint8_t)(state >> 25);
    }
}

/* Room for one input or output of the batch; zeroed. */
static void *value_alloc(const struct cvd_shape *shape, enum cvd_dtype dtype, size_t *elements)
{
    if (!cvd_shape_elements(shape, elements))
        return NULL;
    return calloc(*elements ? *elements : 1, cvd_dtype_bytes(dtype));
}

static enum cvd_status make_values(struct bench *b, struct cvd_error *err)
{
    const struct cvd_model *model = b->m->model;
    struct cvd_value_info v;
    struct cvd_shape shape;
    size_t elements;
    bool good = true;
    b->input_count = cvd_model_input_count(model);
    b->output_count = cvd_model_output_count(model);
    b->inputs = calloc(b->input_count + 1, sizeof *b->inputs);
    b->outputs = calloc(b->output_count + 1, sizeof *b->outputs);
    b->times_ns = calloc(MAX_RUNS, sizeof *b->times_ns);
    good = b->inputs && b->outputs && b->times_ns;
    for (size_t i = 0; good && i < b->input_count; i++) {
        cvd_model_input(model, i, &v);
        cvd_model_input_shape(model, i, b->batch, &shape);
        b->inputs[i] = value_alloc(&shape, v.dtype, &elements);
        good = b->inputs[i] != NULL;
        if (good)
            fill(b->inputs[i], v.dtype, elements);
    }
    for (size_t i = 0; good && i < b->output_count; i++) {
        cvd_model_output(model, i, &v);
        cvd_model_output_shape(model, i, b->batch, &shape);
        b->outputs[i] = value_alloc(&shape, v.dtype, &elements);
        good = b->outputs[i] != NULL;
    }
    if (!good)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a batch of %" PRId64,
                             b->batch);
    return CVD_STATUS_OK;
}

static enum cvd_status open_bench(struct bench *b, struct cvd_engine *engine, const char *model,
                                  const struct cvd_load_options *load, unsigned batch,
                                  struct cvd_error *err)
{
    enum cvd_status status = registry_open(engine, model, load, &b->m, err);
    if (status != CVD_STATUS_OK)
        return status;
    int64_t fixed = cvd_model_fixed_batch(b->m->model);
    b->batch = batch ? batch : fixed ? fixed : 1;
    status = cvd_session_create(b->m->model, b->batch, &b->session, err);
    return status == CVD_STATUS_OK ? make_values(b, err) : status;
}

static void close_bench(struct bench *b)
{
    for (size_t i = 0; b->inputs && i < b->input_count; i++)
        free(b->inputs[i]);
    for (size_t i = 0; b->outputs && i < b->output_count; i++)
        free(b->outputs[i]);
    free(b->inputs);
    free(b->outputs);
    free(b->times_ns);
    free(b->layer_ns);
    free(b->layer_times_ns);
    cvd_session_destroy(b->session);
    registry_close(b->m);
}

static enum cvd_status run_once(struct bench *b, uint64_t *ns, struct cvd_error *err)
{
    uint64_t begin = clock_ns();
    enum cvd_status status = cvd_session_run(b->session, b->batch, (const void *const *)b->inputs,
                                             (void *const *)b->outputs, err);
    *ns = clock_ns() - begin;
    return status;
}

static int by_time(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Caches, page tables and clock frequency settle first; then runs until the time is over. */
static enum cvd_status measure(struct bench *b, double seconds, struct cvd_error *err)
{
    enum cvd_status status = CVD_STATUS_OK;
    uint64_t begin = clock_ns(), ns;
    do
        status = run_once(b, &ns, err);
    while (status == CVD_STATUS_OK && clock_ns() - begin < WARM_UP_NS);
    uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9);
    while (status == CVD_STATUS_OK && b->runs < MAX_RUNS &&
           (b->runs < MIN_RUNS || clock_ns() < end))
        status = run_once(b, &b->times_ns[b->runs++], err);
    qsort(b->times_ns, b->runs, sizeof *b->times_ns, by_time);
    return status;
}

/* Runs again with the layers timed. */
static enum cvd_status measure_layers(struct bench *b, double seconds, struct cvd_error *err)
{
    b->layer_count = cvd_model_layer_count(b->m->model);
    b->layer_ns = calloc(b->layer_count + 1, sizeof *b->layer_ns);
    b->layer_times_ns = calloc(b->layer_count + 1, MAX_LAYER_RUNS * sizeof *b->layer_times_ns);
    if (!b->layer_ns || !b->layer_times_ns)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory to time %zu layers",
                             b->layer_count);
    enum cvd_status status = CVD_STATUS_OK;
    uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9), ns;
    cvd_session_time_layers(b->session, b->layer_ns);
    while (status == CVD_STATUS_OK && b->layer_runs < MAX_LAYER_RUNS &&
           (b->layer_runs < MIN_RUNS || clock_ns() < end)) {
        status = run_once(b, &ns, err);
        for (size_t i = 0; i < b->layer_count; i++)
            b->layer_times_ns[i * MAX_LAYER_RUNS + b->layer_runs] = b->layer_ns[i];
        b->layer_runs++;
    }
    cvd_session_time_layers(b->session, NULL);
    for (size_t i = 0; i < b->layer_count; i++)
        qsort(b->layer_times_ns + i * MAX_LAYER_RUNS, b->layer_runs, sizeof *b->layer_times_ns,
              by_time);
    return status;
}

/* The q-quantile of sorted times by nearest rank, in milliseconds. */
static double quantile_ms(const uint64_t *times_ns, size_t count, double q)
{
    size_t rank = (size_t)(q * (double)count);
    return (double)times_ns[rank < count ? rank : count - 1] * 1e-6;
}

struct figures {
    unsigned threads;
    const char *cpu;
    double median_ms, p10_ms, p99_ms, images_per_s, gflops, peak_gflops, percent;
};

static void evaluate(const struct bench *b, const struct cvd_engine *engine, struct figures *f)
{
    struct cvd_model_stats stats;
    cvd_model_stats(b->m->model, &stats);
    f->threads = cvd_engine_threads(engine);
    f->cpu = cvd_cpu_name(cvd_engine_cpu(engine));
    f->median_ms = quantile_ms(b->times_ns, b->runs, 0.5);
    f->p10_ms = quantile_ms(b->times_ns, b->runs, 0.1);
    f->p99_ms = quantile_ms(b->times_ns, b->runs, 0.99);
    f->images_per_s = (double)b->batch * 1e3 / f->median_ms;
    f->gflops = 2 * (double)stats.macs * f->images_per_s * 1e-9;
    f->peak_gflops = cvd_engine_peak_gflops(engine);
    f->percent = 100 * f->gflops / f->peak_gflops;
}

/* What a layer's time says. */
struct layer_figures {
    struct cvd_layer_info info;
    double median_ms, percent_of_total, gflops, percent_of_peak;
};

static double layer_median_ms(const struct bench *b, size_t i)
{
    return quantile_ms(b->layer_times_ns + i * MAX_LAYER_RUNS, b->layer_runs, 0.5);
}

static double layers_total_ms(const struct bench *b)
{
    double total = 0;
    for (size_t i = 0; i < b->layer_count; i++)
        total += layer_median_ms(b, i);
    return total;
}

static double share(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

static void evaluate_layer(const struct bench *b, size_t i, double total_ms, double peak_gflops,
                           struct layer_figures *f)
{
    cvd_model_layer(b->m->model, i, &f->info);
    f->median_ms = layer_median_ms(b, i);
    f->percent_of_total = 100 * share(f->median_ms, total_ms);
    f->gflops = 2e-6 * share((double)f->info.macs * (double)b->batch, f->median_ms);
    f->percent_of_peak = 100 * f->gflops / peak_gflops;
}

/* Nothing for a layer that multiplies nothing. */
static void add_rates(struct table *t, uint64_t macs, double gflops, double percent_of_peak)
{
    char rate[TABLE_NUMBER_BYTES] = "", percent[TABLE_NUMBER_BYTES] = "";
    if (macs) {
        snprintf(rate, sizeof rate, "%.1f", gflops);
        snprintf(percent, sizeof percent, "%.0f", percent_of_peak);
    }
    table_add(t, "%s", rate);
    table_add(t, "%s", percent);
}

static bool print_layers(const struct bench *b, const struct figures *f)
{
    static const struct table_column columns[] = {LAYER_COLUMNS,        {"mult-adds", true, 0},
                                                  {"ms", true, 0},      {"% of time", true, 0},
                                                  {"GFLOP/s", true, 0}, {"% of peak", true, 0}};
    struct table t;
    char buf[TABLE_NUMBER_BYTES];
    bool one_image = cvd_model_fixed_batch(b->m->model) == 1;
    double total_ms = layers_total_ms(b);
    int places = total_ms < 1 ? 5 : 3;
    uint64_t macs = 0;
    table_init(&t, columns, sizeof columns / sizeof *columns);
    for (size_t i = 0; i < b->layer_count; i++) {
        struct layer_figures l;
        evaluate_layer(b, i, total_ms, f->peak_gflops, &l);
        macs += l.info.macs;
        layer_cells(&t, i, &l.info, one_image);
        table_add(&t, "%s", l.info.macs ? table_rough(l.info.macs, buf) : "");
        table_add(&t, "%.*f", places, l.median_ms);
        table_add(&t, "%.1f", l.percent_of_total);
        add_rates(&t, l.info.macs, l.gflops, l.percent_of_peak);
    }
    table_rule(&t);
    layer_total_cells(&t);
    table_add(&t, "%s", table_rough(macs, buf));
    table_add(&t, "%.*f", places, total_ms);
    table_add(&t, "%.1f", 100.0);
    double gflops = 2e-6 * share((double)macs * (double)b->batch, total_ms);
    add_rates(&t, macs, gflops, 100 * gflops / f->peak_gflops);
    printf("\n");
    bool good = table_print(&t, stdout);
    table_free(&t);
    printf(
        "\nmult-adds and output are of one image; ms are for the batch, the median of %s runs%s.\n",
        table_count(b->layer_runs, buf),
        b->batch > 1 && f->threads > 1
            ? ";\nwhere threads run images of their own side by side, the mean over the threads"
            : "");
    return good;
}

static bool print_text(const struct bench *b, const struct figures *f)
{
    char buf[TABLE_NUMBER_BYTES];
    double images = (double)b->batch;
    table_puts(b->m->name, stdout);
    printf(", %" PRId64 " image%s a batch, %u thread%s, %s, %s runs\n", b->batch,
           b->batch == 1 ? "" : "s", f->threads, f->threads == 1 ? "" : "s", f->cpu,
           table_count(b->runs, buf));
    if (b->batch > 1)
        printf("  %-10s median %.4g ms, p10 %.4g ms, p99 %.4g ms\n", "a batch", f->median_ms,
               f->p10_ms, f->p99_ms);
    printf("  %-10s median %.4g ms, p10 %.4g ms, p99 %.4g ms\n", "an image", f->median_ms / images,
           f->p10_ms / images, f->p99_ms / images);
    printf("  %-10s %s images/s\n", "rate", table_count((uint64_t)(f->images_per_s + 0.5), buf));
    printf("  %-10s %.1f GFLOP/s, %.0f %% of the %.1f that multiply-adds on registers reach\n",
           "arithmetic", f->gflops, f->percent, f->peak_gflops);
    return b->layer_runs == 0 || print_layers(b, f);
}

struct number {
    const char *key;
    double value;
};

static void json_numbers(struct text *t, const struct number *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        text_printf(t, ",\"%s\":", numbers[i].key);
        text_json_number(t, numbers[i].value);
    }
}

static void json_layers(struct text *t, const struct bench *b, const struct figures *f)
{
    double total_ms = layers_total_ms(b);
    text_printf(t, ",\"layer_runs\":%zu,\"layers\":[", b->layer_runs);
    for (size_t i = 0; i < b->layer_count; i++) {
        struct layer_figures l;
        evaluate_layer(b, i, total_ms, f->peak_gflops, &l);
        const struct number numbers[] = {{"median_ms", l.median_ms},
                                         {"percent_of_total", l.percent_of_total},
                                         {"gflops", l.gflops},
                                         {"percent_of_peak", l.percent_of_peak}};
        text_puts(t, i ? ",{" : "{");
        registry_layer_json(t, &l.info);
        json_numbers(t, numbers, sizeof numbers / sizeof *numbers);
        text_puts(t, "}");
    }
    text_puts(t, "]");
}

static bool print_json(const struct bench *b, const struct figures *f)
{
    struct text t = {0};
    const struct number numbers[] = {
        {"median_ms", f->median_ms},       {"p10_ms", f->p10_ms}, {"p99_ms", f->p99_ms},
        {"images_per_s", f->images_per_s}, {"gflops", f->gflops}, {"peak_gflops", f->peak_gflops},
        {"percent_of_peak", f->percent}};
    text_puts(&t, "{\"model\":");
    text_json_string(&t, b->m->name);
    text_printf(&t, ",\"threads\":%u,\"batch\":%" PRId64 ",\"runs\":%zu", f->threads, b->batch,
                b->runs);
    json_numbers(&t, numbers, sizeof numbers / sizeof *numbers);
    text_printf(&t, ",\"cpu\":\"%s\"", f->cpu);
    if (b->layer_runs)
        json_layers(&t, b, f);
    text_puts(&t, "}\n");
    bool good = !t.failed;
    if (good)
        fwrite(t.data, 1, t.len, stdout);
    text_free(&t);
    return good;
}

int cmd_bench(int argc, char **argv)
{
    struct bench b = {0};
    struct cvd_settings settings;
    unsigned batch = 0;
    double seconds = 2;
    bool json = false, per_layer = false;
    struct cvd_load_options load = {0};
    cvd_settings_default(&settings);
    const struct cli_option options[] = {
        {.name = "batch",
         .kind = CLI_COUNT,
         .target = &batch,
         .value = "N",
         .help = "images of a batch (default 1, or what the model is fixed to)",
         .min = 1,
         .max = 65536},
        {.name = "seconds",
         .kind = CLI_SECONDS,
         .target = &seconds,
         .value = "S",
         .help = "how long to measure (default 2)",
         .max = 3600},
        {.name = "per-layer",
         .kind = CLI_FLAG,
         .target = &per_layer,
         .help = "then measure as long again, layer by layer, and show a table"},
        {.name = "json", .kind = CLI_FLAG, .target = &json, .help = "one JSON object"},
        CLI_ENGINE_OPTIONS(settings),
        CLI_TUNE_OPTIONS(load),
        {0}};
    const struct cli cli = {.command = "bench",
                            .operands = "[MODEL|FILE]",
                            .about = "Times a model on this machine.",
                            .max_operands = 1,
                            .options = options};
    int operands;
    enum cli_result parsed = cli_environment(cli.command, &settings);
    if (parsed == CLI_RUN)
        parsed = cli_tuning(cli.command, &load);
    if (parsed == CLI_RUN)
        parsed = cli_parse(&cli, argc, argv, &operands);
    if (parsed != CLI_RUN)
        return parsed == CLI_HELP ? cli_end(cli.command, 0) : 2;

    struct cvd_engine *engine = NULL;
    struct figures figures;
    struct cvd_error err;
    int code = 0;
    if (cvd_engine_create(&settings, &engine, &err) != CVD_STATUS_OK ||
        open_bench(&b, engine, operands ? argv[0] : "lenet5", &load, batch, &err) !=
            CVD_STATUS_OK ||
        measure(&b, seconds, &err) != CVD_STATUS_OK ||
        (per_layer && measure_layers(&b, seconds, &err) != CVD_STATUS_OK)) {
        code = cli_fail(cli.command, err.message);
    } else {
        evaluate(&b, engine, &figures);
        if (!(json ? print_json(&b, &figures) : print_text(&b, &figures)))
            code = cli_fail(cli.command, "out of memory");
    }
    close_bench(&b);
    cvd_engine_destroy(engine);
    return cli_end(cli.command, code);
}
