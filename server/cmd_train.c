/* convd train: trains a LeNet-5 on a data set and writes it as an ONNX file. */
#include "server/cli.h"
#include "server/commands.h"
#include "server/dataset.h"
#include "server/progress.h"
#include "server/save.h"

#include <convd/train.h>

#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char command[] = "train";

/* In the order of the enums. */
static const char *const activations[] = {"relu", "tanh", "sigmoid", NULL};
static const char *const optimizers[] = {"adam", "sgd", NULL};

/* Set by the signal handler, which can be told nothing else. */
static atomic_bool stop_wanted;

/* The first signal asks training to end, the next one kills as usual. */
static void on_signal(int signal_number)
{
    (void)signal_number;
    atomic_store(&stop_wanted, true);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

struct arguments {
    const char *data, *output;
    bool no_augment;
    unsigned activation, optimizer, validation, seed;
    struct cvd_train_options train;
    struct cvd_settings engine;
};

static enum cli_result parse_arguments(int argc, char **argv, struct arguments *a)
{
    char epochs[64], batch[64];
    snprintf(epochs, sizeof epochs, "passes over the images (%u)", a->train.epochs);
    snprintf(batch, sizeof batch, "images of a mini-batch (%u)", a->train.batch);
    const struct cli_option options[] = {
        {.name = "data",
         .kind = CLI_TEXT,
         .target = &a->data,
         .value = "DIR",
         .help = "MNIST-format IDX files (plain or .gz), or one sub-folder of images per class"},
        {.name = "output",
         .kind = CLI_TEXT,
         .target = &a->output,
         .value = "FILE",
         .help = "the ONNX file to write"},
        {.name = "epochs",
         .kind = CLI_COUNT,
         .target = &a->train.epochs,
         .value = "N",
         .help = epochs,
         .min = 1,
         .max = 10000},
        {.name = "batch",
         .kind = CLI_COUNT,
         .target = &a->train.batch,
         .value = "N",
         .help = batch,
         .min = 1,
         .max = 4096},
        {.name = "learning-rate",
         .kind = CLI_NUMBER,
         .target = &a->train.learning_rate,
         .value = "X",
         .help = "highest learning rate; 0 (default) = one that suits the optimizer",
         .max = 100},
        {.name = "optimizer",
         .kind = CLI_CHOICE,
         .target = &a->optimizer,
         .value = "NAME",
         .help = "adam (default) or sgd",
         .choices = optimizers},
        {.name = "momentum",
         .kind = CLI_NUMBER,
         .target = &a->train.momentum,
         .value = "X",
         .help = "of sgd (0.9)",
         .max = 1},
        {.name = "weight-decay",
         .kind = CLI_NUMBER,
         .target = &a->train.weight_decay,
         .value = "X",
         .help = "pull of the weights to zero; by default one that suits the optimizer",
         .max = 1},
        {.name = "dropout",
         .kind = CLI_NUMBER,
         .target = &a->train.dropout,
         .value = "P",
         .help = "share of dense units left out in each step, 0 (default) to 0.9",
         .max = 1},
        {.name = "activation",
         .kind = CLI_CHOICE,
         .target = &a->activation,
         .value = "NAME",
         .help = "relu (default), tanh or sigmoid",
         .choices = activations},
        {.name = "no-augment",
         .kind = CLI_FLAG,
         .target = &a->no_augment,
         .help = "train on the images as they are, without small distortions"},
        {.name = "validation",
         .kind = CLI_COUNT,
         .target = &a->validation,
         .value = "N",
         .help = "images held out, the last ones; 0 (default) = a twelfth, at most 5000",
         .max = UINT_MAX},
        {.name = "seed",
         .kind = CLI_COUNT,
         .target = &a->seed,
         .value = "S",
         .help = "the same seed gives the same file (1)",
         .max = UINT_MAX},
        CLI_ENGINE_OPTIONS(a->engine),
        {.name = NULL}};
    const struct cli cli = {
        .command = command,
        .operands = "--data DIR --output FILE",
        .about =
            "Trains a LeNet-5 and writes the epoch that does best on held-out images. Images\n"
            "from 12x12 to 256x256 are taken as they are; a folder of images of other or\n"
            "different sizes is resized to 28x28. Ctrl-C ends early and keeps the best so far.",
        .options = options,
    };
    int operands;
    enum cli_result result = cli_parse(&cli, argc, argv, &operands);
    if (result == CLI_RUN && (!a->data || !a->output)) {
        fprintf(stderr, "convd train: --%s is missing; see 'convd train --help'\n",
                a->data ? "output" : "data");
        result = CLI_WRONG;
    }
    return result;
}

static void print_header(const struct arguments *a, const struct cvd_dataset *d,
                         const struct cvd_engine *engine)
{
    const struct cvd_train_options *o = &a->train;
    const unsigned threads = cvd_engine_threads(engine);
    printf("data     %s: %zu images of %ux%u, %u classes; %zu held out\n", a->data, d->count,
           d->width, d->height, d->classes, o->validation);
    printf("network  LeNet-5, %s, dropout %g\n", activations[o->activation], o->dropout);
    printf(
        "training %u epochs, batches of %u, %s, learning rate %g, weight decay %g, %s, seed %u\n",
        o->epochs, o->batch, optimizers[o->optimizer], o->learning_rate, o->weight_decay,
        o->augment ? "augmented" : "not augmented", a->seed);
    printf("engine   %s, %u thread%s\n", cvd_cpu_name(cvd_engine_cpu(engine)), threads,
           threads == 1 ? "" : "s");
    fflush(stdout);
}

/* Bar within an epoch, a line at its end. */
static void show(void *cookie, const struct cvd_train_progress *s)
{
    struct progress *bar = cookie;
    char label[48];
    if (!s->epoch_end) {
        if (bar->total == 0)
            progress_begin(bar, stderr, "images", (uint64_t)s->epochs * s->images_total);
        snprintf(label, sizeof label, "epoch %u/%u loss %.4f", s->epoch, s->epochs, s->loss);
        progress_update(bar, label, (uint64_t)(s->epoch - 1) * s->images_total + s->images_done);
        return;
    }
    progress_clear(bar);
    const int width = snprintf(label, sizeof label, "%u", s->epochs);
    printf("epoch %*u/%u  loss %.4f  validation loss %.4f  accuracy %6.2f %%  %.1f s\n", width,
           s->epoch, s->epochs, s->loss, s->validation_loss, 100 * s->validation_accuracy,
           s->seconds);
    fflush(stdout);
}

static int exit_code(enum cvd_status status)
{
    return status == CVD_STATUS_INVALID_ARGUMENT || status == CVD_STATUS_UNSUPPORTED_HARDWARE ? 2
                                                                                              : 1;
}

static enum cvd_status train_and_save(const struct arguments *a, struct cvd_engine *engine,
                                      const struct cvd_dataset *data, struct cvd_error *err)
{
    struct cvd_train_options options = a->train;
    struct progress bar = {0};
    struct cvd_train_result result;
    options.progress = show;
    options.cookie = &bar;
    options.stop = &stop_wanted;
    catch_signals();
    enum cvd_status status = cvd_train_lenet5(engine, data, &options, &result, err);
    progress_clear(&bar);
    if (status)
        return status;
    status = save_file(a->output, result.onnx, result.onnx_len, err);
    free(result.onnx);
    if (!status)
        printf("%s%s: accuracy %.2f %% (epoch %u), %zu bytes, %.1f s\n",
               result.stopped ? "stopped; " : "", a->output, 100 * result.validation_accuracy,
               result.best_epoch, result.onnx_len, result.seconds);
    return status;
}

/* What does not depend on the command line alone. */
static enum cvd_status run(struct arguments *a, struct cvd_error *err)
{
    struct cvd_engine *engine = NULL;
    struct cvd_dataset data = {0};
    enum cvd_status status = save_check(a->output, err);
    if (!status)
        status = cvd_engine_create(&a->engine, &engine, err);
    if (!status)
        status = dataset_load(a->data, stderr, &data, err);
    if (!status) {
        if (a->train.validation == 0)
            a->train.validation = cvd_train_default_validation(data.count);
        print_header(a, &data, engine);
        status = train_and_save(a, engine, &data, err);
    }
    cvd_dataset_free(&data);
    cvd_engine_destroy(engine);
    return status;
}

int cmd_train(int argc, char **argv)
{
    struct arguments a = {.seed = 1};
    cvd_train_options_default(&a.train);
    cvd_settings_default(&a.engine);
    enum cli_result parsed = cli_environment(command, &a.engine);
    if (parsed == CLI_RUN)
        parsed = parse_arguments(argc, argv, &a);
    if (parsed != CLI_RUN)
        return parsed == CLI_HELP ? 0 : 2;
    a.train.activation = (enum cvd_activation)a.activation;
    a.train.optimizer = (enum cvd_optimizer)a.optimizer;
    a.train.augment = !a.no_augment;
    a.train.validation = a.validation;
    a.train.seed = a.seed;
    if (a.train.learning_rate <= 0)
        a.train.learning_rate = cvd_train_default_rate(a.train.optimizer);
    if (a.train.weight_decay < 0)
        a.train.weight_decay = cvd_train_default_decay(a.train.optimizer);

    struct cvd_error err;
    enum cvd_status status = run(&a, &err);
    if (!status)
        return cli_end(command, 0);
    fflush(stdout);
    cli_fail(command, err.message);
    return exit_code(status);
}
