/*
 * convd classify: names what image files show, exactly as the daemon would.
 *
 * A file that cannot be classified is reported on standard error and the others go on; the exit
 * code then is 1.
 */
#include "server/cli.h"
#include "server/clock.h"
#include "server/commands.h"
#include "server/file.h"
#include "server/registry.h"
#include "server/reply.h"
#include "server/table.h"

#include <convd/session.h>

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The user's own files on the user's own machine: only what the decoder cannot hold is refused. */
#define MAX_FILE_BYTES ((size_t)1 << 30)
#define MAX_COST_NS    60000000000u

struct classifier {
    struct registry_model *m;
    struct cvd_session *session;
    int64_t batch; /* 1, unless the model insists on more; images beyond the first are black */
    float *input, *output;
    void **outputs; /* of the model; all but the first are not wanted */
    uint32_t *best;
    size_t top;
    bool json;
    uint64_t decode_ns, compute_ns;
};

static enum cvd_status open_classifier(struct classifier *c, struct cvd_engine *engine,
                                       const char *model, const struct cvd_load_options *load,
                                       unsigned top, struct cvd_error *err)
{
    enum cvd_status status = registry_open(engine, model, load, &c->m, err);
    if (status != CVD_STATUS_OK)
        return status;
    if (c->m->not_images)
        return cvd_error_set(err, CVD_STATUS_UNSUPPORTED, "%s cannot classify images: %s", model,
                             c->m->not_images);
    c->batch = cvd_model_fixed_batch(c->m->model);
    if (c->batch == 0)
        c->batch = 1;
    c->top = top == 0 || top > c->m->classes ? c->m->classes : top;
    c->input = calloc((size_t)c->batch, c->m->input_elements * sizeof *c->input);
    c->output = calloc((size_t)c->batch, c->m->classes * sizeof *c->output);
    c->outputs = calloc(cvd_model_output_count(c->m->model), sizeof *c->outputs);
    c->best = calloc(c->top, sizeof *c->best);
    if (!c->input || !c->output || !c->outputs || !c->best)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a batch of %" PRId64,
                             c->batch);
    c->outputs[0] = c->output;
    return cvd_session_create(c->m->model, c->batch, &c->session, err);
}

static void close_classifier(struct classifier *c)
{
    cvd_session_destroy(c->session);
    registry_close(c->m);
    free(c->input);
    free(c->output);
    free(c->outputs);
    free(c->best);
}

/* Image bytes -> the classifier's input. */
static enum cvd_status decode(struct classifier *c, const char *bytes, size_t len,
                              struct cvd_error *err)
{
    const struct preprocess *p = &c->m->preprocess;
    const struct gate_limits limits = {.max_pixels = (uint64_t)GATE_MAX_SIDE * GATE_MAX_SIDE,
                                       .max_cost_ns = MAX_COST_NS};
    struct gate_info info = {0};
    struct gate_reason why = {0};
    struct image image = {0};
    enum gate_verdict verdict = gate_image(bytes, len, &limits, &info, &why);
    if (verdict == GATE_OK)
        verdict = image_decode(bytes, len, &info, p->channels, &image, &why);
    if (verdict != GATE_OK)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s", why.text);
    bool good = preprocess_run(p, &image, c->input);
    enum cvd_status status = CVD_STATUS_OK;
    if (!good && p->resize == IMAGE_NO_RESIZE)
        status = cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                               "it is %u x %u; the model takes %u x %u and does not resize",
                               image.width, image.height, p->width, p->height);
    else if (!good)
        status = cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory to resize it");
    image_free(&image);
    return status;
}

/* Input -> probabilities in c->output, the best classes in c->best. */
static enum cvd_status compute(struct classifier *c, struct cvd_error *err)
{
    const void *inputs[] = {c->input};
    enum cvd_status status = cvd_session_run(c->session, c->batch, inputs, c->outputs, err);
    if (status != CVD_STATUS_OK)
        return status;
    for (size_t i = 0; i < c->m->classes; i++)
        if (!isfinite(c->output[i]))
            return cvd_error_set(err, CVD_STATUS_INVALID_MODEL,
                                 "the model's answer is not finite: class %zu is %g", i,
                                 (double)c->output[i]);
    if (c->m->apply_softmax)
        registry_softmax(c->output, c->m->classes);
    registry_top(c->output, c->m->classes, c->top, c->best);
    return CVD_STATUS_OK;
}

/* "digit.png: 7  99.9 %", further classes below; those of nothing at all are left out. */
static void print_list(const struct classifier *c, const char *file)
{
    const double least = 0.00005;
    char number[24];
    size_t widest = 0;
    for (size_t i = 0; i < c->top; i++) {
        size_t len = strlen(registry_label(c->m, c->best[i], number));
        if (len > widest)
            widest = len;
    }
    for (size_t i = 0; i < c->top; i++) {
        double probability = (double)c->output[c->best[i]];
        if (i > 0 && probability < least)
            break;
        if (i == 0) {
            table_puts(file, stdout);
            printf(": ");
        } else {
            printf("%*s", (int)strlen(file) + 2, "");
        }
        const char *label = registry_label(c->m, c->best[i], number);
        table_puts(label, stdout);
        printf("%*s %6.2f %%\n", (int)(widest - strlen(label)) + 1, "", probability * 100);
    }
}

/* One line: the daemon's answer with the file's name before it. */
static bool print_json(const struct classifier *c, const char *file)
{
    struct text t = {0};
    char number[24];
    text_puts(&t, "{\"file\":");
    text_json_string(&t, file);
    text_puts(&t, ",\"model\":");
    text_json_string(&t, c->m->name);
    text_puts(&t, ",\"version\":");
    text_json_string(&t, c->m->version);
    text_puts(&t, ",\"label\":");
    text_json_string(&t, registry_label(c->m, c->best[0], number));
    text_puts(&t, ",\"probability\":");
    text_json_number(&t, (double)c->output[c->best[0]]);
    text_puts(&t, ",\"classes\":[");
    for (size_t i = 0; i < c->top; i++) {
        text_printf(&t, "%s{\"index\":%" PRIu32 ",\"label\":", i ? "," : "", c->best[i]);
        text_json_string(&t, registry_label(c->m, c->best[i], number));
        text_puts(&t, ",\"probability\":");
        text_json_number(&t, (double)c->output[c->best[i]]);
        text_puts(&t, "}");
    }
    text_printf(&t, "],\"timing_ms\":{\"decode\":%.3f,\"queue\":0,\"compute\":%.3f}}\n",
                (double)c->decode_ns * 1e-6, (double)c->compute_ns * 1e-6);
    bool good = !t.failed;
    if (good)
        fwrite(t.data, 1, t.len, stdout);
    text_free(&t);
    return good;
}

static bool classify(struct classifier *c, const char *file)
{
    struct cvd_error err;
    const char *name = strcmp(file, "-") == 0 ? "standard input" : file;
    char *bytes = NULL;
    size_t len;
    if (file_read(file, true, MAX_FILE_BYTES, &bytes, &len, &err) != CVD_STATUS_OK) {
        cli_fail("classify", err.message);
        return false;
    }
    uint64_t begin = clock_ns();
    enum cvd_status status = decode(c, bytes, len, &err);
    uint64_t decoded = clock_ns();
    free(bytes);
    if (status == CVD_STATUS_OK)
        status = compute(c, &err);
    c->decode_ns = decoded - begin;
    c->compute_ns = clock_ns() - decoded;
    bool good = status == CVD_STATUS_OK;
    if (!good)
        fprintf(stderr, "convd classify: %s: %s\n", name, err.message);
    else if (!c->json)
        print_list(c, name);
    else if (!(good = print_json(c, name)))
        cli_fail("classify", "out of memory");
    return good;
}

int cmd_classify(int argc, char **argv)
{
    static const char *const inverts[] = {
        [IMAGE_INVERT_NEVER] = "never", [IMAGE_INVERT_AUTO] = "auto", NULL};
    const unsigned as_the_model_says = UINT_MAX;
    struct classifier c = {0};
    struct cvd_settings settings;
    const char *model = "lenet5";
    unsigned top = 5, invert = as_the_model_says;
    struct cvd_load_options load = {0};
    cvd_settings_default(&settings);
    const struct cli_option options[] = {
        {.name = "model",
         .kind = CLI_TEXT,
         .target = &model,
         .value = "NAME|FILE",
         .help = "lenet5 (default, built in) or an ONNX file"},
        {.name = "top",
         .kind = CLI_COUNT,
         .target = &top,
         .value = "K",
         .help = "classes to show for each image, 0 = all (default 5)",
         .max = 1000000},
        {.name = "invert",
         .kind = CLI_CHOICE,
         .target = &invert,
         .value = "never|auto",
         .help = "auto: light images become their negatives (default: as the model says)",
         .choices = inverts},
        {.name = "json", .kind = CLI_FLAG, .target = &c.json, .help = "one JSON object a line"},
        CLI_ENGINE_OPTIONS(settings),
        CLI_TUNE_OPTIONS(load),
        {0}};
    const struct cli cli = {.command = "classify",
                            .operands = "IMAGE...",
                            .about = "Prints the most likely classes of JPEG, PNG and BMP files; "
                                     "\"-\" is standard input.",
                            .min_operands = 1,
                            .max_operands = INT_MAX,
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
    struct cvd_error err;
    int code = 0;
    if (cvd_engine_create(&settings, &engine, &err) != CVD_STATUS_OK ||
        open_classifier(&c, engine, model, &load, top, &err) != CVD_STATUS_OK) {
        code = cli_fail(cli.command, err.message);
    } else {
        if (invert != as_the_model_says)
            c.m->preprocess.invert = (enum image_invert)invert;
        for (int i = 0; i < operands; i++)
            if (!classify(&c, argv[i]))
                code = 1;
    }
    close_classifier(&c);
    cvd_engine_destroy(engine);
    return cli_end(cli.command, code);
}
