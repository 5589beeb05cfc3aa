/*
 * convd inspect: what a model is made of, layer by layer.
 *
 * Beside each convolution stands the number of weights that a dense layer from the same input to
 * the same output would have: what sharing one small filter over the whole picture saves.
 */
#include "server/cli.h"
#include "server/commands.h"
#include "server/layer_cells.h"
#include "server/registry_json.h"
#include "server/table.h"

#include <inttypes.h>

struct sums {
    uint64_t convolutions, dense; /* parameters of the layers that have a dense counterpart */
};

static void add_layer(struct table *t, size_t i, const struct cvd_layer_info *l, bool one_image)
{
    char buf[TABLE_NUMBER_BYTES];
    layer_cells(t, i, l, one_image);
    table_add(t, "%s", l->parameters ? table_count(l->parameters, buf) : "");
    table_add(t, "%s", l->macs ? table_rough(l->macs, buf) : "");
    table_add(t, "%s", table_bytes(l->output_bytes, buf));
    table_add(t, "%s", l->dense_parameters ? table_rough(l->dense_parameters, buf) : "");
}

static bool print_layers(const struct cvd_model *model, const struct cvd_model_stats *stats,
                         struct sums *sums)
{
    static const struct table_column columns[] = {LAYER_COLUMNS,
                                                  {"parameters", true, 0},
                                                  {"mult-adds", true, 0},
                                                  {"memory", true, 0},
                                                  {"if dense", true, 0}};
    struct table t;
    char buf[TABLE_NUMBER_BYTES];
    uint64_t bytes = 0;
    bool one_image = cvd_model_fixed_batch(model) == 1;
    table_init(&t, columns, sizeof columns / sizeof *columns);
    for (size_t i = 0; i < cvd_model_layer_count(model); i++) {
        struct cvd_layer_info layer;
        cvd_model_layer(model, i, &layer);
        add_layer(&t, i, &layer, one_image);
        bytes += layer.output_bytes;
        if (layer.dense_parameters) {
            sums->convolutions += layer.parameters;
            sums->dense += layer.dense_parameters;
        }
    }
    table_rule(&t);
    layer_total_cells(&t);
    table_add(&t, "%s", table_count(stats->parameters, buf));
    table_add(&t, "%s", table_rough(stats->macs, buf));
    table_add(&t, "%s", table_bytes(bytes, buf));
    table_add(&t, "%s", "");
    bool good = table_print(&t, stdout);
    table_free(&t);
    return good;
}

static void print_value(const char *title, const struct cvd_value_info *v)
{
    char shape[CVD_SHAPE_TEXT_BYTES];
    printf("%-12s", title);
    table_puts(v->name, stdout);
    printf(": %s %s", cvd_dtype_name(v->dtype), cvd_shape_text(&v->shape, shape));
}

/* "[0.485, 0.456, 0.406]"; one number stands alone. */
static void print_floats(const float *values, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        printf("%s%.4g", i ? ", " : count > 1 ? "[" : "", (double)values[i]);
    printf("%s", count > 1 ? "]" : "");
}

static void print_preprocessing(const struct preprocess *p)
{
    static const char *const colors[] = {
        [IMAGE_RGB] = "RGB", [IMAGE_BGR] = "BGR", [IMAGE_GRAY] = "grey"};
    bool shifted = false;
    for (unsigned i = 0; i < p->channels; i++)
        shifted |= p->mean[i] != 0 || p->stddev[i] != 1;
    printf("%-12s%s, ", "image", colors[p->color]);
    if (p->resize == IMAGE_SHORTEST_SIDE)
        printf("shortest side to %u, centre %u x %u", p->resize_to, p->width, p->height);
    else if (p->resize == IMAGE_STRETCH)
        printf("stretched to %u x %u", p->width, p->height);
    else
        printf("exactly %u x %u", p->width, p->height);
    printf("%s\n", p->invert == IMAGE_INVERT_AUTO ? ", light ones inverted" : "");
    printf("%-12s%sx * %.4g", "pixel x", shifted ? "(" : "", (double)p->scale);
    if (shifted) {
        printf(" - ");
        print_floats(p->mean, p->channels);
        printf(") / ");
        print_floats(p->stddev, p->channels);
    }
    printf("\n");
}

static void print_labels(const struct registry_model *m)
{
    const size_t most = 10;
    char buf[TABLE_NUMBER_BYTES], number[24];
    printf("%-12s%s: ", "classes", table_count(m->classes, buf));
    size_t shown = m->classes <= most ? m->classes : 3;
    for (size_t i = 0; i < shown; i++) {
        printf("%s", i ? ", " : "");
        table_puts(registry_label(m, i, number), stdout);
    }
    if (shown < m->classes) {
        printf(" ... ");
        table_puts(registry_label(m, m->classes - 1, number), stdout);
    }
    printf("\n");
}

static void print_head(const struct registry_model *m, const struct cvd_model_stats *stats,
                       enum cvd_cpu cpu)
{
    struct cvd_value_info v;
    int64_t batch = cvd_model_fixed_batch(m->model);
    printf("%-12s", "model");
    table_puts(m->name, stdout);
    printf(" (");
    table_puts(m->source, stdout);
    printf("), opset %" PRId64, stats->opset);
    if (batch)
        printf(", batch fixed to %" PRId64, batch);
    printf("\n");
    printf("%-12s%s\n", "cpu level", cvd_cpu_name(cpu));
    for (size_t i = 0; i < cvd_model_input_count(m->model); i++) {
        cvd_model_input(m->model, i, &v);
        print_value("input", &v);
        printf("\n");
    }
    for (size_t i = 0; i < cvd_model_output_count(m->model); i++) {
        cvd_model_output(m->model, i, &v);
        print_value("output", &v);
        printf("%s\n", i == 0 && m->apply_softmax ? ", softmax to be applied" : "");
    }
    if (m->not_images) {
        printf("%-12sno: ", "for images");
        table_puts(m->not_images, stdout);
        printf("\n");
    } else {
        print_preprocessing(&m->preprocess);
        print_labels(m);
    }
    printf("\n");
}

/* Nothing where there was nothing to choose. */
static void print_tuning(const struct cvd_model *model)
{
    struct cvd_tuning_info t;
    cvd_model_tuning(model, &t);
    if (t.timed || t.recalled)
        printf("%-13s%u kinds of convolutions timed in %.0f ms, %u known from the cache\n",
               "tuning", t.timed, t.seconds * 1e3, t.recalled);
    if (t.problem) {
        printf("%-13s", "");
        table_puts(t.problem, stdout);
        printf("\n");
    }
}

static bool print_report(const struct registry_model *m, enum cvd_cpu cpu)
{
    struct cvd_model_stats stats;
    struct sums sums = {0};
    char a[TABLE_NUMBER_BYTES], b[TABLE_NUMBER_BYTES], c[TABLE_NUMBER_BYTES];
    cvd_model_stats(m->model, &stats);
    print_head(m, &stats, cpu);
    if (!print_layers(m->model, &stats, &sums))
        return false;
    printf("\n%-13s%s, packed for this machine\n", "weights", table_bytes(stats.weight_bytes, a));
    printf("%-13s%s for one image; %s if buffers were not shared\n", "activations",
           table_bytes(stats.activation_bytes, a), table_bytes(stats.unshared_bytes, b));
    if (sums.convolutions)
        printf("%-13s%s parameters; dense layers of the same sizes: %s (%s times as many)\n",
               "convolutions", table_count(sums.convolutions, a), table_count(sums.dense, b),
               table_count((sums.dense + sums.convolutions / 2) / sums.convolutions, c));
    print_tuning(m->model);
    return true;
}

static bool print_json(const struct registry_model *m)
{
    struct text t = {0};
    text_puts(&t, "{");
    registry_json(&t, m);
    text_puts(&t, "}\n");
    if (!t.failed)
        fwrite(t.data, 1, t.len, stdout);
    bool good = !t.failed;
    text_free(&t);
    return good;
}

int cmd_inspect(int argc, char **argv)
{
    struct cvd_settings settings;
    bool json = false;
    struct cvd_load_options load = {0};
    cvd_settings_default(&settings);
    const struct cli_option options[] = {
        {.name = "json", .kind = CLI_FLAG, .target = &json, .help = "one JSON object"},
        {.name = "cpu",
         .kind = CLI_CPU,
         .target = &settings.cpu,
         .value = "LEVEL",
         .help = "show the kernels for this level: auto, c, neon, avx2, avx512"},
        CLI_TUNE_OPTIONS(load),
        {0}};
    const struct cli cli = {
        .command = "inspect",
        .operands = "[MODEL|FILE]",
        .about =
            "Shows a model's layers: kernel, output shape, parameters, multiply-adds, memory,\n"
            "and beside each convolution the parameters of a dense layer of the same sizes.",
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
    struct registry_model *m = NULL;
    struct cvd_error err;
    int code = 0;
    settings.threads = 1; /* nothing is computed */
    if (cvd_engine_create(&settings, &engine, &err) != CVD_STATUS_OK ||
        registry_open(engine, operands ? argv[0] : "lenet5", &load, &m, &err) != CVD_STATUS_OK)
        code = cli_fail(cli.command, err.message);
    else if (!(json ? print_json(m) : print_report(m, cvd_engine_cpu(engine))))
        code = cli_fail(cli.command, "out of memory");
    registry_close(m);
    cvd_engine_destroy(engine);
    return cli_end(cli.command, code);
}
