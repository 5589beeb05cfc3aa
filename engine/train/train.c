/* cvd_train_lenet5(): checks what it is given, runs the epochs, keeps the best one and has it
 * written. */
#include <convd/train.h>

#include "engine/runtime/model.h"
#include "engine/runtime/tpool.h"
#include "engine/train/trainer.h"

#include <math.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

/* Held out by default: 5,000 of MNIST's 60,000, as is the custom, and the same share elsewhere. */
#define VALIDATION_SHARE 12
#define VALIDATION_MAX   5000

/* A data set is light on dark when at most one image in this many is not. */
#define LIGHT_BORDER_SHARE 100

void cvd_train_options_default(struct cvd_train_options *options)
{
    *options = (struct cvd_train_options){
        .epochs = 50,
        .batch = 64,
        .momentum = 0.9,
        .weight_decay = -1,
        .activation = CVD_ACTIVATION_RELU,
        .optimizer = CVD_OPTIMIZER_ADAM,
        .augment = true,
        .seed = 1,
    };
}

/* All four were chosen on MNIST. Adam's decay is the larger because its steps are the smaller. */
double cvd_train_default_rate(enum cvd_optimizer optimizer)
{
    return optimizer == CVD_OPTIMIZER_ADAM ? 0.005 : 0.05;
}

double cvd_train_default_decay(enum cvd_optimizer optimizer)
{
    return optimizer == CVD_OPTIMIZER_ADAM ? 0.15 : 0.005;
}

size_t cvd_train_default_validation(size_t count)
{
    const size_t share = count / VALIDATION_SHARE;
    return share > VALIDATION_MAX ? VALIDATION_MAX : share < 1 ? 1 : share;
}

static enum cvd_status out_of_range(struct cvd_error *err, const char *name, double value,
                                    const char *range)
{
    return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT, "%s is %g; it should be %s", name, value,
                         range);
}

static enum cvd_status check_options(const struct cvd_train_options *o, struct cvd_error *err)
{
    if (o->epochs < 1 || o->epochs > 10000)
        return out_of_range(err, "epochs", o->epochs, "1 to 10000");
    if (o->batch < 1 || o->batch > 4096)
        return out_of_range(err, "batch", o->batch, "1 to 4096");
    /* Written so that NaN fails. */
    if (!(o->learning_rate >= 0 && o->learning_rate <= 100))
        return out_of_range(err, "learning_rate", o->learning_rate, "0 (the default) to 100");
    if (!(o->momentum >= 0 && o->momentum < 1))
        return out_of_range(err, "momentum", o->momentum, "at least 0 and below 1");
    if (!(o->weight_decay <= 1))
        return out_of_range(err, "weight_decay", o->weight_decay, "0 to 1");
    if (!(o->dropout >= 0 && o->dropout <= 0.9))
        return out_of_range(err, "dropout", o->dropout, "0 to 0.9");
    if ((unsigned)o->activation > CVD_ACTIVATION_SIGMOID)
        return out_of_range(err, "activation", o->activation, "relu, tanh or sigmoid");
    if ((unsigned)o->optimizer > CVD_OPTIMIZER_SGD)
        return out_of_range(err, "optimizer", o->optimizer, "adam or sgd");
    return CVD_STATUS_OK;
}

static enum cvd_status check_data(const struct cvd_dataset *d, size_t validation,
                                  struct cvd_error *err)
{
    if (d->height < LENET5_MIN_SIDE || d->height > LENET5_MAX_SIDE || d->width < LENET5_MIN_SIDE ||
        d->width > LENET5_MAX_SIDE)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "images are %ux%u; LeNet-5 takes sides from %d to %d", d->width,
                             d->height, LENET5_MIN_SIDE, LENET5_MAX_SIDE);
    if (d->classes < 2 || d->classes > LENET5_MAX_CLASSES)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "the data set has %u classes; it should have 2 to %d", d->classes,
                             LENET5_MAX_CLASSES);
    if (d->count < 2 || d->count > UINT32_MAX)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "the data set has %zu images; it should have 2 or more", d->count);
    if (validation >= d->count)
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                             "validation is %zu; it should be below the number of images, %zu",
                             validation, d->count);
    for (size_t i = 0; i < d->count; i++)
        if (d->labels[i] >= d->classes)
            return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                                 "label of image %zu is %u; there are %u classes", i, d->labels[i],
                                 d->classes);
    return CVD_STATUS_OK;
}

/* Whether an image's border is nearer to its lightest pixel than to its darkest. */
static bool is_border_light(const uint8_t *pixels, unsigned height, unsigned width)
{
    unsigned least = 255, most = 0;
    size_t sum = 0, count = 0;
    for (unsigned y = 0; y < height; y++) {
        for (unsigned x = 0; x < width; x++, pixels++) {
            const bool border = y == 0 || x == 0 || y == height - 1 || x == width - 1;
            least = *pixels < least ? *pixels : least;
            most = *pixels > most ? *pixels : most;
            sum += border ? *pixels : 0;
            count += border;
        }
    }
    return 2 * sum > (least + most) * count;
}

/* Whether pictures of this data set are light on dark, so that one that is not is best turned into
 * its negative ("invert": "auto" in the metadata). */
static bool is_light_on_dark(const struct cvd_dataset *d)
{
    size_t light = 0;
    for (size_t i = 0; i < d->count; i++)
        light += is_border_light(d->pixels + i * d->height * d->width, d->height, d->width);
    return light <= d->count / LIGHT_BORDER_SHARE;
}

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct run {
    struct trainer *t;
    const struct cvd_train_options *options;
    struct cvd_train_progress state;
    struct cvd_train_result result;
    size_t batches; /* of an epoch */
    float peak_rate;
    double start_seconds, best_loss;
};

static void report(struct run *r)
{
    r->state.seconds = now_seconds() - r->start_seconds;
    if (r->options->progress)
        r->options->progress(r->options->cookie, &r->state);
}

static enum cvd_status diverged(const struct run *r, struct cvd_error *err)
{
    return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                         "training diverged in epoch %u: the loss is not finite; learning_rate %g "
                         "is too high",
                         r->state.epoch, (double)r->peak_rate);
}

/* All mini-batches of an epoch, or as many as come before the stop. */
static enum cvd_status run_batches(struct run *r, struct cvd_error *err)
{
    struct trainer *t = r->t;
    const uint64_t steps = (uint64_t)r->options->epochs * r->batches;
    double loss = 0;
    for (size_t i = 0; i < r->batches && !r->result.stopped; i++) {
        /* Sizes differ by one at most: no batch of a handful is left over. */
        const size_t begin = i * t->training / r->batches;
        const size_t end = (i + 1) * t->training / r->batches;
        const float rate = optim_rate(r->peak_rate, t->optim.steps, steps);
        loss += trainer_step(t, begin, end, rate);
        if (!isfinite(loss))
            return diverged(r, err);
        r->state.images_done = end;
        r->state.loss = loss / (double)end;
        r->state.learning_rate = (double)rate;
        report(r);
        r->result.stopped = t->optim.steps < steps && r->options->stop &&
                            atomic_load_explicit(r->options->stop, memory_order_relaxed);
    }
    return CVD_STATUS_OK;
}

/* Measures the epoch and keeps it if it is the best. */
static enum cvd_status end_epoch(struct run *r, struct cvd_error *err)
{
    struct trainer *t = r->t;
    struct cvd_train_result *best = &r->result;
    double loss, accuracy;
    trainer_validate(t, &loss, &accuracy);
    if (!isfinite(loss))
        return diverged(r, err);
    if (best->best_epoch == 0 || accuracy > best->validation_accuracy ||
        (accuracy >= best->validation_accuracy && loss < r->best_loss)) {
        best->best_epoch = r->state.epoch;
        best->validation_accuracy = accuracy;
        r->best_loss = loss;
        memcpy(t->best, t->optim.average, t->optim.count * sizeof *t->best);
    }
    best->epochs_run = r->state.epoch;
    r->state.epoch_end = true;
    r->state.validation_loss = loss;
    r->state.validation_accuracy = accuracy;
    r->state.best_accuracy = best->validation_accuracy;
    report(r);
    r->state.epoch_end = false;
    return CVD_STATUS_OK;
}

/* Trains all epochs, or as many as it gets to; t->best holds the best one's parameters. */
static enum cvd_status run_epochs(struct run *r, struct cvd_error *err)
{
    enum cvd_status status = CVD_STATUS_OK;
    r->start_seconds = now_seconds();
    for (unsigned epoch = 1; epoch <= r->options->epochs && !r->result.stopped && !status;
         epoch++) {
        r->state.epoch = epoch;
        trainer_begin_epoch(r->t, epoch);
        status = run_batches(r, err);
        if (!status && r->state.images_done == r->state.images_total)
            status = end_epoch(r, err);
    }
    r->result.seconds = now_seconds() - r->start_seconds;
    if (!status && r->result.best_epoch == 0)
        status = cvd_error_set(err, CVD_STATUS_CANCELLED,
                               "training was stopped before its first epoch was complete");
    return status;
}

static enum cvd_status train(struct cvd_engine *engine, const struct cvd_dataset *data,
                             const struct cvd_train_options *options, size_t validation,
                             struct cvd_train_result *out, struct cvd_error *err)
{
    struct trainer *t = NULL;
    enum cvd_status status =
        trainer_create(data, options, validation, &engine->kernels, engine->pool, &t, err);
    if (status)
        return status;
    struct run r = {
        .t = t,
        .options = options,
        .state = {.epochs = options->epochs, .images_total = t->training},
        .batches = (t->training + options->batch - 1) / options->batch,
        .peak_rate =
            (float)(options->learning_rate > 0 ? options->learning_rate
                                               : cvd_train_default_rate(options->optimizer)),
    };
    status = run_epochs(&r, err);
    if (!status)
        status = lenet5_export(&t->net, t->best, data->class_names, is_light_on_dark(data),
                               &r.result.onnx, &r.result.onnx_len, err);
    if (!status)
        *out = r.result;
    trainer_destroy(t);
    return status;
}

/* Training is a job of the pool: then every thread that computes is a worker, with a worker's
 * floating-point mode (denormals), which the bit-for-bit promise needs. */
struct train_job {
    struct cvd_job job;
    struct cvd_engine *engine;
    const struct cvd_dataset *data;
    const struct cvd_train_options *options;
    size_t validation;
    struct cvd_train_result *out;
    struct cvd_error *err;
    enum cvd_status status;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool is_over;
};

static void run_job(struct cvd_job *job)
{
    struct train_job *j = (struct train_job *)job;
    j->status = train(j->engine, j->data, j->options, j->validation, j->out, j->err);
    pthread_mutex_lock(&j->lock);
    j->is_over = true;
    pthread_cond_signal(&j->ended);
    pthread_mutex_unlock(&j->lock);
}

enum cvd_status cvd_train_lenet5(struct cvd_engine *engine, const struct cvd_dataset *data,
                                 const struct cvd_train_options *options,
                                 struct cvd_train_result *out, struct cvd_error *err)
{
    const size_t validation =
        options->validation > 0 ? options->validation : cvd_train_default_validation(data->count);
    enum cvd_status status = check_options(options, err);
    if (!status)
        status = check_data(data, validation, err);
    if (status)
        return status;

    struct train_job j = {
        .job = {.run = run_job},
        .engine = engine,
        .data = data,
        .options = options,
        .validation = validation,
        .out = out,
        .err = err,
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .ended = PTHREAD_COND_INITIALIZER,
    };
    cvd_engine_submit(engine, &j.job);
    pthread_mutex_lock(&j.lock);
    while (!j.is_over)
        pthread_cond_wait(&j.ended, &j.lock);
    pthread_mutex_unlock(&j.lock);
    pthread_cond_destroy(&j.ended);
    pthread_mutex_destroy(&j.lock);
    return j.status;
}
