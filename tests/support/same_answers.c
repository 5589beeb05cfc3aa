/* One network, computed in several ways (same_answers.h). */
#include "tests/support/same_answers.h"

#include "tests/support/data.h"
#include "tests/support/net.h"

#include <convd/session.h>

#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 8 /* inputs, outputs */

/* Everything that a run gives. */
struct answer {
    size_t outputs;
    size_t image[MOST]; /* floats of one image */
    size_t count[MOST];
    float *data[MOST];
};

struct check {
    const struct same_answers *s;
    same_answers_make_fn make;
    void *ctx;
    const char *what;
    size_t inputs;
    float *input[MOST]; /* of all images */
    size_t image[MOST]; /* floats of one image; 0 where all images share them */
};

static const char *where(const struct check *c)
{
    return data_printf("%s, %s", c->what, cvd_cpu_name(c->s->level));
}

/* ---- engines ---- */

static struct cvd_engine *make_engine(enum cvd_cpu cpu, unsigned threads)
{
    struct cvd_settings settings;
    struct cvd_engine *engine = NULL;
    struct cvd_error err = {.message = ""};
    cvd_settings_default(&settings);
    settings.threads = threads;
    settings.cpu = cpu;
    cr_assert_eq(cvd_engine_create(&settings, &engine, &err), CVD_STATUS_OK, "%s", err.message);
    return engine;
}

bool same_answers_can(enum cvd_cpu level)
{
    const char *most = getenv("CONVD_CPU");
    enum cvd_cpu cap;
    return cvd_cpu_supported(level) &&
           (most == NULL || !cvd_cpu_parse(most, &cap) || cap == CVD_CPU_AUTO || level <= cap);
}

void same_answers_begin(struct same_answers *s, enum cvd_cpu level)
{
    *s = (struct same_answers){.level = level,
                               .reference = make_engine(CVD_CPU_C, 1),
                               .engines = {make_engine(level, 1), make_engine(level, 2)}};
}

void same_answers_end(struct same_answers *s)
{
    cvd_engine_destroy(s->reference);
    cvd_engine_destroy(s->engines[0]);
    cvd_engine_destroy(s->engines[1]);
}

/* ---- models ---- */

static struct cvd_model *make_model(const struct check *c, struct cvd_engine *engine,
                                    bool as_written)
{
    const struct cvd_load_options options = {.as_written = as_written, .float32_edges = true};
    struct cvd_error err = {.message = ""};
    struct cvd_model *model = NULL;
    struct graph g;
    c->make(c->ctx, &g);
    const enum cvd_status status = net_try(engine, &g, &options, &model, &err);
    cr_assert_eq(status, CVD_STATUS_OK, "%s, %s: %s", where(c),
                 as_written ? "as it is written" : "rewritten", err.message);
    return model;
}

static void print_layers(const struct check *c, const struct cvd_model *model)
{
    for (size_t i = 0; i < cvd_model_layer_count(model); i++) {
        struct cvd_layer_info layer;
        char text[CVD_SHAPE_TEXT_BYTES];
        cvd_model_layer(model, i, &layer);
        fprintf(stderr, "%s: %-24s %-28s %-20s %s\n", where(c), layer.op, layer.kernel, layer.name,
                cvd_shape_text(&layer.shape, text));
    }
}

/* ---- running ---- */

/* Makes up the inputs of so many images. */
static void fill_inputs(struct check *c, const struct cvd_model *model, int64_t batch)
{
    c->inputs = cvd_model_input_count(model);
    cr_assert_leq(c->inputs, MOST);
    for (size_t i = 0; i < c->inputs; i++) {
        struct cvd_shape shape;
        size_t count, one;
        cvd_model_input_shape(model, i, batch, &shape);
        cr_assert(cvd_shape_elements(&shape, &count));
        cvd_model_input_shape(model, i, 1, &shape);
        cr_assert(cvd_shape_elements(&shape, &one));
        c->image[i] = count == one ? 0 : one;
        c->input[i] = malloc(count * sizeof(float));
        cr_assert_not_null(c->input[i]);
        net_fill(c->input[i], count, 1000 + (uint32_t)i);
        for (size_t j = 0; j < count; j++)
            c->input[i][j] *= 2;
    }
}

/* `batch` images from `first` on. */
static struct answer run(const struct check *c, const struct cvd_model *model, int64_t first,
                         int64_t batch)
{
    struct answer a = {.outputs = cvd_model_output_count(model)};
    const void *inputs[MOST];
    void *outputs[MOST];
    struct cvd_session *session = NULL;
    struct cvd_error err = {.message = ""};
    cr_assert_leq(a.outputs, MOST);
    for (size_t i = 0; i < c->inputs; i++)
        inputs[i] = c->input[i] + (size_t)first * c->image[i];
    for (size_t i = 0; i < a.outputs; i++) {
        struct cvd_shape shape;
        cvd_model_output_shape(model, i, batch, &shape);
        cr_assert(cvd_shape_elements(&shape, &a.count[i]));
        a.image[i] = a.count[i] / (size_t)batch;
        a.data[i] = calloc(a.count[i] + 1, sizeof(float));
        cr_assert_not_null(a.data[i]);
        outputs[i] = a.data[i];
    }
    cr_assert_eq(cvd_session_create(model, batch, &session, &err), CVD_STATUS_OK, "%s: %s",
                 where(c), err.message);
    cr_assert_eq(cvd_session_run(session, batch, inputs, outputs, &err), CVD_STATUS_OK);
    cvd_session_destroy(session);
    return a;
}

static void release(struct answer *a)
{
    for (size_t i = 0; i < a->outputs; i++)
        free(a->data[i]);
}

/* ---- comparing ---- */

/* Sums are taken in another order; what follows does not make much more of the difference. */
static void expect_near(const struct check *c, const struct answer *want, const struct answer *got)
{
    cr_assert_eq(want->outputs, got->outputs);
    for (size_t i = 0; i < want->outputs; i++) {
        double largest = 1e-3;
        cr_assert_eq(want->count[i], got->count[i], "%s: output %zu", where(c), i);
        for (size_t j = 0; j < want->count[i]; j++)
            largest = fmax(largest, fabs((double)want->data[i][j]));
        for (size_t j = 0; j < want->count[i]; j++) {
            const double a = (double)want->data[i][j], b = (double)got->data[i][j];
            cr_assert(fabs(a - b) <= 1e-4 * largest,
                      "%s: element %zu of %zu of output %zu is %.9g instead of %.9g", where(c), j,
                      want->count[i], i, b, a);
        }
    }
}

/* `part` is what images `first` ... gave. */
static void expect_same_bits(const struct check *c, const struct answer *whole,
                             const struct answer *part, int64_t first, const char *how)
{
    for (size_t i = 0; i < whole->outputs; i++) {
        const float *from = whole->data[i] + (size_t)first * whole->image[i];
        for (size_t j = 0; j < part->count[i]; j++)
            cr_assert_eq(memcmp(&from[j], &part->data[i][j], sizeof(float)), 0,
                         "%s: %s: element %zu of output %zu is %.9g, then %.9g", where(c), how, j,
                         i, (double)from[j], (double)part->data[i][j]);
    }
}

static void check_parts(const struct check *c, struct cvd_model *const models[2],
                        const struct answer *whole, int64_t batch)
{
    for (int64_t first = 0; first < batch; first++) {
        for (int64_t count = 1; first + count <= batch && count < batch; count++) {
            struct answer part = run(c, models[first % 2], first, count);
            expect_same_bits(c, whole, &part, first, "a part of the batch");
            release(&part);
        }
    }
}

void same_answers_check(struct same_answers *s, same_answers_make_fn make, void *ctx,
                        const char *what)
{
    struct check c = {.s = s, .make = make, .ctx = ctx, .what = what};
    struct cvd_model *written = make_model(&c, s->reference, true), *models[2];
    struct answer wholes[2];
    for (size_t i = 0; i < 2; i++)
        models[i] = make_model(&c, s->engines[i], false);
    if (s->verbose)
        print_layers(&c, models[0]);
    const int64_t fixed = cvd_model_fixed_batch(written), now = cvd_model_fixed_batch(models[0]);
    const int64_t batch = now == 0 ? SAME_ANSWERS_BATCH : now;
    cr_assert(now == 0 || now == fixed, "%s: the batch is fixed to %lld", where(&c),
              (long long)now);
    fill_inputs(&c, models[0], batch);
    struct answer want = run(&c, written, 0, fixed == 0 ? batch : fixed);
    for (size_t i = 0; i < 2; i++) {
        struct answer got = run(&c, models[i], 0, fixed == 0 ? batch : fixed);
        expect_near(&c, &want, &got);
        release(&got);
        wholes[i] = run(&c, models[i], 0, batch);
    }
    expect_same_bits(&c, &wholes[0], &wholes[1], 0, "two threads");
    cr_assert(models[0]->plan->batchwise || !written->plan->batchwise, "%s: images are mixed",
              where(&c));
    if (models[0]->plan->batchwise)
        check_parts(&c, models, &wholes[0], batch);
    release(&want);
    cvd_model_destroy(written);
    for (size_t i = 0; i < 2; i++) {
        release(&wholes[i]);
        cvd_model_destroy(models[i]);
    }
    for (size_t i = 0; i < c.inputs; i++)
        free(c.input[i]);
}
