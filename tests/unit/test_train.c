/* Training as a whole, on a data set made here: bars in three directions. */
#include <convd/session.h>
#include <convd/train.h>

#include "engine/runtime/mem.h"
#include "engine/train/augment.h"
#include "engine/train/lenet5.h"
#include "tests/support/data.h"

#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 12, CLASSES = 3 };

static struct cvd_engine *make_engine(unsigned threads)
{
    struct cvd_settings settings;
    struct cvd_engine *engine = NULL;
    struct cvd_error err;
    cvd_settings_default(&settings);
    settings.threads = threads;
    cr_assert_eq(cvd_engine_create(&settings, &engine, &err), CVD_STATUS_OK, "%s", err.message);
    return engine;
}

/* Noisy bars: horizontal, vertical, diagonal; `ground` 0 = light on dark, 255 = dark on light. */
static struct cvd_dataset make_bars(size_t count, uint8_t ground)
{
    static char names[CLASSES][12] = {"lying \"-\"", "standing", "slanted"};
    struct cvd_dataset d = {.count = count, .height = SIDE, .width = SIDE, .classes = CLASSES};
    struct rng r = rng_stream(1, 2, 3);
    d.pixels = data_alloc(count * SIDE * SIDE);
    d.labels = data_alloc(count * sizeof *d.labels);
    d.class_names = data_alloc(CLASSES * sizeof *d.class_names);
    for (unsigned c = 0; c < CLASSES; c++)
        d.class_names[c] = names[c];
    for (size_t i = 0; i < count; i++) {
        const unsigned label = rng_below(&r, CLASSES), at = 4 + rng_below(&r, 4);
        d.labels[i] = (uint16_t)label;
        for (unsigned y = 0; y < SIDE; y++) {
            for (unsigned x = 0; x < SIDE; x++) {
                const unsigned along = label == 1 ? y : x;
                const unsigned across = label == 0   ? y
                                        : label == 1 ? x
                                                     : (y + SIDE - x + at) % SIDE;
                const bool on = across == at && along >= 2 && along < SIDE - 2;
                const unsigned value = on ? 200 + rng_below(&r, 50) : rng_below(&r, 30);
                d.pixels[(i * SIDE + y) * SIDE + x] = (uint8_t)(value ^ ground);
            }
        }
    }
    return d;
}

static struct cvd_train_options quick_options(void)
{
    struct cvd_train_options o;
    cvd_train_options_default(&o);
    o.epochs = 6;
    o.batch = 16;
    o.validation = 60;
    o.augment = false;
    return o;
}

static struct cvd_train_result train(struct cvd_engine *engine, const struct cvd_dataset *data,
                                     const struct cvd_train_options *options)
{
    struct cvd_train_result result;
    struct cvd_error err;
    cr_assert_eq(cvd_train_lenet5(engine, data, options, &result, &err), CVD_STATUS_OK, "%s",
                 err.message);
    return result;
}

static void expect_learns(const struct cvd_train_options *options)
{
    struct cvd_engine *engine = make_engine(2);
    const struct cvd_dataset bars = make_bars(300, 0);
    struct cvd_train_result r = train(engine, &bars, options);
    cr_expect_eq(r.validation_accuracy, 1, "accuracy %g", r.validation_accuracy);
    cr_expect_eq(r.epochs_run, options->epochs);
    cr_expect(r.best_epoch >= 1 && r.best_epoch <= r.epochs_run);
    cr_expect_not(r.stopped);
    free(r.onnx);
    cvd_engine_destroy(engine);
}

Test(train, learns_with_adam)
{
    const struct cvd_train_options o = quick_options();
    expect_learns(&o);
}

Test(train, learns_with_sgd)
{
    struct cvd_train_options o = quick_options();
    o.optimizer = CVD_OPTIMIZER_SGD;
    expect_learns(&o);
}

Test(train, learns_with_tanh)
{
    struct cvd_train_options o = quick_options();
    o.activation = CVD_ACTIVATION_TANH;
    expect_learns(&o);
}

Test(train, learns_with_sigmoid)
{
    struct cvd_train_options o = quick_options();
    o.activation = CVD_ACTIVATION_SIGMOID;
    o.learning_rate = 0.02;
    o.epochs = 15;
    expect_learns(&o);
}

Test(train, learns_with_everything_on)
{
    struct cvd_train_options o = quick_options();
    o.augment = true;
    o.dropout = 0.2;
    o.epochs = 10;
    expect_learns(&o);
}

/* ---- repeatable ---- */

Test(train, same_bytes_for_any_number_of_threads)
{
    const struct cvd_dataset bars = make_bars(300, 0);
    struct cvd_train_options o = quick_options();
    struct cvd_train_result first = {0};
    o.epochs = 2;
    o.batch = 50;
    o.augment = true;
    o.dropout = 0.3;
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct cvd_engine *engine = make_engine(threads);
        struct cvd_train_result r = train(engine, &bars, &o);
        if (threads == 1) {
            first = r;
        } else {
            cr_assert_eq(r.onnx_len, first.onnx_len);
            cr_assert_arr_eq(r.onnx, first.onnx, r.onnx_len, "%u threads", threads);
            free(r.onnx);
        }
        cvd_engine_destroy(engine);
    }
    free(first.onnx);
}

Test(train, another_seed_gives_another_file)
{
    const struct cvd_dataset bars = make_bars(100, 0);
    struct cvd_engine *engine = make_engine(1);
    struct cvd_train_options o = quick_options();
    o.epochs = 1;
    struct cvd_train_result a = train(engine, &bars, &o);
    o.seed++;
    struct cvd_train_result b = train(engine, &bars, &o);
    cr_assert_eq(a.onnx_len, b.onnx_len);
    cr_assert_arr_neq(a.onnx, b.onnx, a.onnx_len);
    free(a.onnx);
    free(b.onnx);
    cvd_engine_destroy(engine);
}

/* ---- progress and stopping ---- */

struct watcher {
    atomic_bool stop;
    unsigned stop_epoch; /* stop in the middle of this epoch, 0 = never */
    unsigned batches, epoch_ends;
    double best, last_seconds;
};

static void watch(void *cookie, const struct cvd_train_progress *s)
{
    struct watcher *w = cookie;
    cr_expect_leq(s->images_done, s->images_total);
    cr_expect_geq(s->seconds, w->last_seconds);
    cr_expect(isfinite(s->loss) && s->learning_rate > 0);
    w->last_seconds = s->seconds;
    if (s->epoch_end) {
        w->epoch_ends++;
        w->best = fmax(w->best, s->validation_accuracy);
        cr_expect_eq(s->images_done, s->images_total);
        cr_expect_eq(s->best_accuracy, w->best);
    } else {
        w->batches++;
        if (s->epoch == w->stop_epoch && s->images_done > s->images_total / 2)
            atomic_store(&w->stop, true);
    }
}

Test(train, reports_every_batch_and_epoch)
{
    const struct cvd_dataset bars = make_bars(110, 0);
    struct cvd_engine *engine = make_engine(2);
    struct watcher w = {.stop_epoch = 0};
    struct cvd_train_options o = quick_options();
    o.validation = 10;
    o.epochs = 3;
    o.batch = 30; /* 100 images in 4 batches of 25 */
    o.progress = watch;
    o.cookie = &w;
    struct cvd_train_result r = train(engine, &bars, &o);
    cr_expect_eq(w.batches, 12);
    cr_expect_eq(w.epoch_ends, 3);
    cr_expect_eq(r.validation_accuracy, w.best);
    free(r.onnx);
    cvd_engine_destroy(engine);
}

Test(train, stopping_keeps_the_best)
{
    const struct cvd_dataset bars = make_bars(300, 0);
    struct cvd_engine *engine = make_engine(2);
    struct watcher w = {.stop_epoch = 3};
    struct cvd_train_options o = quick_options();
    o.epochs = 1000;
    o.progress = watch;
    o.cookie = &w;
    o.stop = &w.stop;
    struct cvd_train_result r = train(engine, &bars, &o);
    cr_expect(r.stopped);
    cr_expect_eq(r.epochs_run, 2);
    cr_expect_eq(w.epoch_ends, 2);
    cr_expect_eq(r.validation_accuracy, w.best);
    struct cvd_model *model = NULL;
    cr_assert_eq(cvd_model_load(engine, r.onnx, r.onnx_len, NULL, &model, NULL), CVD_STATUS_OK);
    cvd_model_destroy(model);
    free(r.onnx);
    cvd_engine_destroy(engine);
}

Test(train, stopping_before_the_first_model)
{
    const struct cvd_dataset bars = make_bars(300, 0);
    struct cvd_engine *engine = make_engine(2);
    struct watcher w = {.stop_epoch = 1};
    struct cvd_train_options o = quick_options();
    struct cvd_train_result r = {.best_epoch = 77};
    struct cvd_error err;
    o.progress = watch;
    o.cookie = &w;
    o.stop = &w.stop;
    cr_assert_eq(cvd_train_lenet5(engine, &bars, &o, &r, &err), CVD_STATUS_CANCELLED);
    cr_expect_eq(r.best_epoch, 77, "the result was touched");
    cvd_engine_destroy(engine);
}

/* ---- the file ---- */

/* Logits of a model for `count` images of the data set from `first` on. */
static float *run_model(struct cvd_engine *engine, const struct cvd_train_result *r,
                        const struct cvd_dataset *d, size_t first, size_t count)
{
    struct cvd_model *model = NULL;
    struct cvd_session *session = NULL;
    struct cvd_error err;
    const size_t pixels = d->height * d->width;
    float *x = data_alloc(count * pixels * sizeof *x), *y = data_alloc(count * d->classes * 4);
    for (size_t i = 0; i < count * pixels; i++)
        x[i] = (float)d->pixels[first * pixels + i] * LENET5_PIXEL_SCALE;
    cr_assert_eq(cvd_model_load(engine, r->onnx, r->onnx_len, NULL, &model, &err), CVD_STATUS_OK,
                 "%s", err.message);
    cr_assert_eq(cvd_session_create(model, (int64_t)count, &session, &err), CVD_STATUS_OK, "%s",
                 err.message);
    cr_assert_eq(cvd_session_run(session, (int64_t)count, (const void *[]){x}, (void *[]){y}, &err),
                 CVD_STATUS_OK, "%s", err.message);
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    return y;
}

/* Held-out accuracy is measured without dropout and on the very parameters that are written. */
static void check_validation(enum cvd_activation activation)
{
    struct cvd_engine *engine = make_engine(2);
    const struct cvd_dataset bars = make_bars(300, 0);
    struct cvd_train_options o = quick_options();
    o.activation = activation;
    o.epochs = 1;
    o.dropout = 0.6;
    o.learning_rate = 0.003;
    o.validation = 200;
    struct cvd_train_result r = train(engine, &bars, &o);
    const float *y = run_model(engine, &r, &bars, 100, 200);
    unsigned right = 0;
    for (size_t i = 0; i < 200; i++) {
        size_t best = 0;
        for (size_t c = 1; c < CLASSES; c++)
            best = y[i * CLASSES + c] > y[i * CLASSES + best] ? c : best;
        right += best == bars.labels[100 + i];
    }
    cr_expect_eq(right / 200.0, r.validation_accuracy, "%u of 200, not %g", right,
                 r.validation_accuracy);
    cr_expect_lt(right, 200, "too easy: this proves nothing");
    free(r.onnx);
    cvd_engine_destroy(engine);
}

Test(train, validation_is_what_a_session_measures)
{
    check_validation(CVD_ACTIVATION_RELU);
    check_validation(CVD_ACTIVATION_TANH);
    check_validation(CVD_ACTIVATION_SIGMOID);
}

/* The exported file computes what training computes, for every activation and odd sizes. */
Test(train, file_agrees_with_the_training_forward_pass)
{
    static char first[] = "a", second[] = "b";
    struct cvd_engine *engine = make_engine(1);
    for (unsigned activation = 0; activation <= CVD_ACTIVATION_SIGMOID; activation++) {
        struct kernels kernels;
        struct lenet5 net;
        struct cvd_train_result r;
        struct rng rng = rng_stream(4, 5, 6);
        const unsigned height = 17, width = 22;
        enum { N = 5 };
        kernels_init(&kernels, cvd_engine_cpu(engine));
        lenet5_init(&net, height, width, 2, (enum cvd_activation)activation);
        float *parameters = data_alloc(lenet5_parameters(&net) * sizeof *parameters);
        lenet5_initial(&net, 1, parameters);
        for (size_t part = LENET5_B1; part < LENET5_PARTS; part += 2)
            for (size_t i = net.begin[part]; i < net.begin[part + 1]; i++)
                parameters[i] = rng_within(&rng, 0.5f);
        cr_assert_eq(lenet5_export(&net, parameters, (char *[]){first, second}, true, &r.onnx,
                                   &r.onnx_len, NULL),
                     CVD_STATUS_OK);

        struct cvd_dataset d = {.count = N, .height = height, .width = width, .classes = 2};
        d.pixels = data_alloc(N * height * width);
        const size_t bytes = lenet5_work_bytes(&net);
        struct lenet5_work *work = lenet5_work_init(&net, &kernels, mem_map(bytes));
        for (size_t i = 0; i < N; i++) {
            size_t stride;
            float *x = lenet5_input(work, i, &stride);
            for (size_t p = 0; p < height * width; p++) {
                const uint8_t pixel = (uint8_t)rng_below(&rng, 256);
                d.pixels[i * height * width + p] = pixel;
                x[p / width * stride + p % width] = (float)pixel * LENET5_PIXEL_SCALE;
            }
        }
        lenet5_work_pack(work, parameters);
        const float *mine = lenet5_forward(work, parameters, N, NULL);
        const float *theirs = run_model(engine, &r, &d, 0, N);
        for (size_t i = 0; i < N * 2; i++)
            cr_assert_float_eq(mine[i], theirs[i], 1e-5, "logit %zu: %g, file %g", i,
                               (double)mine[i], (double)theirs[i]);
        mem_unmap(work, bytes);
        free(r.onnx);
    }
    cvd_engine_destroy(engine);
}

static void expect_metadata(uint8_t ground, const char *invert)
{
    struct cvd_engine *engine = make_engine(1);
    const struct cvd_dataset bars = make_bars(60, ground);
    struct cvd_train_options o = quick_options();
    struct cvd_model *model = NULL;
    o.epochs = 1;
    o.validation = 5;
    struct cvd_train_result r = train(engine, &bars, &o);
    cr_assert_eq(cvd_model_load(engine, r.onnx, r.onnx_len, NULL, &model, NULL), CVD_STATUS_OK);
    cr_expect_str_eq(cvd_model_metadata(model, "convd.labels"),
                     "[\"lying \\\"-\\\"\", \"standing\", \"slanted\"]");
    const char *input = cvd_model_metadata(model, "convd.input");
    cr_assert_not_null(input);
    cr_expect(strstr(input, invert), "%s", input);
    cr_expect(strstr(input, "\"scale\": 0.00392156886,"), "%s", input);
    cvd_model_destroy(model);
    free(r.onnx);
    cvd_engine_destroy(engine);
}

/* Only a data set that is light on dark throughout may ask for uploads to be made so. */
Test(train, metadata_names_labels_and_preprocessing)
{
    expect_metadata(0, "\"invert\": \"auto\"");
    expect_metadata(255, "\"invert\": \"never\"");
}

/* ---- dropout and augmentation ---- */

Test(train, dropout_keeps_the_expected_sum)
{
    enum { N = 20000 };
    float *factors = data_alloc(N * sizeof *factors);
    struct rng r = rng_stream(1, 1, 1);
    double sum = 0;
    unsigned zeros = 0;
    layer_dropout_draw(&r, 0.25f, N, factors);
    for (size_t i = 0; i < N; i++) {
        cr_assert(factors[i] == 0 || fabs((double)factors[i] - 4.0 / 3) < 1e-6);
        zeros += factors[i] == 0;
        sum += (double)factors[i];
    }
    cr_expect_float_eq((double)zeros / N, 0.25, 0.02);
    cr_expect_float_eq(sum / N, 1, 0.03);
}

Test(train, augmentation_moves_but_keeps_the_picture)
{
    const struct cvd_dataset bars = make_bars(1, 0);
    struct augment *a = NULL;
    cr_assert_eq(augment_create(SIDE, SIDE, &a, NULL), CVD_STATUS_OK);
    float *scratch = data_alloc(augment_scratch_floats(a) * sizeof *scratch);
    float first[SIDE * SIDE], again[SIDE * SIDE], other[SIDE * (SIDE + 3)];
    for (size_t i = 0; i < SIDE * (SIDE + 3); i++)
        other[i] = -1;
    struct rng r = rng_stream(1, 2, 3), same = r;
    augment_image(a, bars.pixels, &r, scratch, first, SIDE);
    augment_image(a, bars.pixels, &same, scratch, again, SIDE);
    augment_image(a, bars.pixels, &r, scratch, other, SIDE + 3);
    cr_expect_arr_eq(first, again, sizeof first, "the same stream gives the same picture");
    double before = 0, after = 0, change = 0;
    for (size_t i = 0; i < SIDE * SIDE; i++) {
        const float there = other[i / SIDE * (SIDE + 3) + i % SIDE];
        before += bars.pixels[i];
        after += (double)first[i];
        change += fabs((double)first[i] - (double)there);
        cr_assert(first[i] >= 0 && first[i] <= 255, "%g", (double)first[i]);
        cr_assert(there >= 0 && there <= 255, "%g", (double)there);
    }
    for (size_t i = 0; i < SIDE * (SIDE + 3); i++)
        if (i % (SIDE + 3) >= SIDE)
            cr_assert_eq(other[i], -1, "wrote beyond a row");
    cr_expect_gt(change, before / 20, "two draws should differ");
    cr_expect(after > before / 3 && after < before * 3);
    augment_destroy(a);
}

/* ---- errors ---- */

static void expect_error(const struct cvd_dataset *data, const struct cvd_train_options *options,
                         enum cvd_status status, const char *words)
{
    struct cvd_engine *engine = make_engine(1);
    struct cvd_train_result r;
    struct cvd_error err = {.message = ""};
    cr_expect_eq(cvd_train_lenet5(engine, data, options, &r, &err), status, "%s", err.message);
    cr_expect(strstr(err.message, words), "'%s' does not say '%s'", err.message, words);
    cvd_engine_destroy(engine);
}

#define EXPECT_BAD_OPTION(field, value, words)                         \
    do {                                                               \
        struct cvd_train_options bad = quick_options();                \
        bad.field = (value);                                           \
        expect_error(&bars, &bad, CVD_STATUS_INVALID_ARGUMENT, words); \
    } while (0)

Test(train, options_out_of_range)
{
    const struct cvd_dataset bars = make_bars(100, 0);
    EXPECT_BAD_OPTION(epochs, 0, "epochs is 0");
    EXPECT_BAD_OPTION(epochs, 10001, "epochs is 10001");
    EXPECT_BAD_OPTION(batch, 0, "batch is 0");
    EXPECT_BAD_OPTION(batch, 4097, "batch is 4097");
    EXPECT_BAD_OPTION(learning_rate, -1, "learning_rate is -1");
    EXPECT_BAD_OPTION(learning_rate, (double)NAN, "learning_rate");
    EXPECT_BAD_OPTION(momentum, 1, "momentum is 1");
    EXPECT_BAD_OPTION(weight_decay, 2, "weight_decay is 2");
    EXPECT_BAD_OPTION(dropout, 0.95, "dropout is 0.95");
    EXPECT_BAD_OPTION(dropout, (double)NAN, "dropout");
    EXPECT_BAD_OPTION(validation, 100, "validation is 100");
    EXPECT_BAD_OPTION(activation, (enum cvd_activation)3, "activation is 3");
    EXPECT_BAD_OPTION(optimizer, (enum cvd_optimizer)2, "optimizer is 2");
}

Test(train, data_that_cannot_be_learnt)
{
    const struct cvd_dataset bars = make_bars(100, 0);
    const struct cvd_train_options o = quick_options();
    struct cvd_dataset bad = bars;
    bad.width = 11;
    expect_error(&bad, &o, CVD_STATUS_INVALID_DATA, "11x12");
    bad = bars;
    bad.height = 257;
    expect_error(&bad, &o, CVD_STATUS_INVALID_DATA, "12x257");
    bad = bars;
    bad.classes = 1;
    expect_error(&bad, &o, CVD_STATUS_INVALID_DATA, "1 classes");
    bad = bars;
    bad.count = 1;
    expect_error(&bad, &o, CVD_STATUS_INVALID_DATA, "1 images");
    bars.labels[42] = 3;
    expect_error(&bars, &o, CVD_STATUS_INVALID_DATA, "image 42 is 3");
}

Test(train, divergence_is_an_error)
{
    const struct cvd_dataset bars = make_bars(300, 0);
    struct cvd_train_options o = quick_options();
    o.optimizer = CVD_OPTIMIZER_SGD;
    o.learning_rate = 100;
    o.weight_decay = 1; /* each step multiplies the weights by -99 */
    expect_error(&bars, &o, CVD_STATUS_INVALID_ARGUMENT, "diverged");
}

Test(train, want_of_memory)
{
    struct cvd_engine *engine = make_engine(1);
    const struct cvd_dataset bars = make_bars(40, 0);
    struct cvd_train_options o = quick_options();
    struct cvd_train_result r;
    struct cvd_error err;
    enum cvd_status status;
    size_t n = 0;
    o.epochs = 1;
    o.validation = 5;
    do {
        mem_fail_after(++n, false);
        status = cvd_train_lenet5(engine, &bars, &o, &r, &err);
        mem_fail_after(0, false);
        if (status)
            cr_assert_eq(status, CVD_STATUS_OUT_OF_MEMORY, "allocation %zu: %s", n, err.message);
    } while (status);
    cr_expect_gt(n, 12, "the allocations were not seen");
    free(r.onnx);
    cvd_engine_destroy(engine);
}
