/*
 * What the batcher's tests share: an engine with a small model, tickets with images of their own,
 * and a way to know which batches are formed: first every worker of the engine is occupied with a
 * job that waits for a word; what is submitted then is still queued when the word comes.
 */
#ifndef CONVD_TESTS_UNIT_BATCH_FIXTURE_H
#define CONVD_TESTS_UNIT_BATCH_FIXTURE_H

#include "server/batch.h"
#include "server/clock.h"
#include "server/metrics.h"
#include "server/pool.h"

#include "tests/unit/classifier_model.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define IN  CLASSIFIER_PIXELS
#define OUT CLASSIFIER_CLASSES

static struct cvd_engine *engine;
static struct cvd_model *model;
static struct metrics *metrics;
static struct metrics_model *series;
static struct batch_budget budget;
static struct cvd_error err;

static inline void start(unsigned threads, int64_t fixed_batch)
{
    const struct cvd_settings settings = {.threads = threads};
    struct pb file =
        classifier_model(&(struct classifier_options){.batch = fixed_batch, .two_outputs = true});
    cr_assert_eq(cvd_engine_create(&settings, &engine, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(cvd_model_load(engine, file.data, file.len, NULL, &model, &err), CVD_STATUS_OK,
                 "%s", err.message);
    pb_free(&file);
    metrics = metrics_create("c");
    series = metrics_model(metrics, "m", "1");
    cr_assert_not_null(series);
    budget = (struct batch_budget){.max_bytes = 1 << 30};
}

static inline void stop(struct batcher *b)
{
    batcher_destroy(b);
    cr_expect_eq(budget.bytes, 0, "%zu bytes are still booked", budget.bytes);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
    metrics_destroy(metrics);
}

static inline struct batcher *batcher(unsigned max_batch, uint64_t delay_ns, unsigned max_queue)
{
    struct batcher *b;
    const struct batch_options options = {.max_batch = max_batch,
                                          .max_delay_ns = delay_ns,
                                          .max_queue = max_queue,
                                          .budget = &budget,
                                          .metrics = series};
    cr_assert_eq(batcher_create(engine, model, &options, &b, &err), CVD_STATUS_OK, "%s",
                 err.message);
    return b;
}

/* ---- an upload: a ticket and what it points to ---- */

struct upload {
    struct batch_ticket ticket; /* first */
    atomic_bool gone;
    sem_t *done;
    atomic_int done_calls, late_calls;
    float *input, *output;
};

static inline void on_done(struct batch_ticket *t)
{
    struct upload *up = (struct upload *)t;
    sem_t *done = up->done;
    up->done_calls++;
    sem_post(done);
}

/* Images that differ from those of every other seed. */
static inline void upload_init(struct upload *up, unsigned images, unsigned seed, sem_t *done)
{
    memset(up, 0, sizeof *up);
    up->done = done;
    up->input = malloc(images * IN * sizeof(float));
    up->output = malloc(images * OUT * sizeof(float));
    for (unsigned i = 0; i < images * IN; i++)
        up->input[i] = (float)((i * 7 + seed * 2654435761u) % 1009) / 1009;
    for (unsigned i = 0; i < images * OUT; i++)
        up->output[i] = -12345; /* what no answer is */
    up->ticket = (struct batch_ticket){.input = up->input,
                                       .output = up->output,
                                       .images = images,
                                       .gone = &up->gone,
                                       .done = on_done};
}

static inline void upload_free(struct upload *up)
{
    free(up->input);
    free(up->output);
}

/* Whether every image got exactly the answer that a session of its own gives it. */
static inline void expect_own_answer(const struct upload *up)
{
    struct cvd_session *session;
    int64_t fixed = cvd_model_fixed_batch(model), batch = fixed ? fixed : 1;
    float *in = calloc((size_t)batch, IN * sizeof *in),
          *out = calloc((size_t)batch, OUT * sizeof *out);
    cr_assert_eq(cvd_session_create(model, batch, &session, &err), CVD_STATUS_OK, "%s",
                 err.message);
    cr_expect_eq(up->done_calls, 1, "done() came %d times", up->done_calls);
    cr_expect_eq(up->ticket.outcome, BATCH_DONE, "outcome %d", up->ticket.outcome);
    for (unsigned i = 0; i < up->ticket.images; i++) {
        const void *inputs[] = {in};
        void *outputs[] = {out, NULL};
        memcpy(in, up->input + i * IN, IN * sizeof *in);
        cr_assert_eq(cvd_session_run(session, batch, inputs, outputs, &err), CVD_STATUS_OK);
        cr_expect(memcmp(out, up->output + i * OUT, OUT * sizeof *out) == 0,
                  "image %u of %u has another's answer", i, up->ticket.images);
    }
    cvd_session_destroy(session);
    free(in);
    free(out);
}

static inline void expect_untouched(const struct upload *up, unsigned from)
{
    for (unsigned i = from * OUT; i < up->ticket.images * OUT; i++)
        cr_assert(up->output[i] == -12345);
}

static inline void wait_for(sem_t *done, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct timespec limit;
        clock_gettime(CLOCK_REALTIME, &limit);
        limit.tv_sec += 60;
        while (sem_timedwait(done, &limit) != 0)
            cr_assert(errno == EINTR, "only %u of %u tickets were ended", i, count);
    }
}

/* ---- occupied workers ---- */

struct blocker {
    struct cvd_job job; /* first */
    sem_t running, go, ended;
};

static inline void block(struct cvd_job *job)
{
    struct blocker *b = (struct blocker *)job;
    sem_post(&b->running);
    sem_wait(&b->go);
    sem_post(&b->ended);
}

static struct blocker blockers[2];

static inline void occupy(unsigned workers)
{
    for (unsigned i = 0; i < workers; i++) {
        blockers[i].job.run = block;
        sem_init(&blockers[i].running, 0, 0);
        sem_init(&blockers[i].go, 0, 0);
        sem_init(&blockers[i].ended, 0, 0);
        cvd_engine_submit(engine, &blockers[i].job);
        sem_wait(&blockers[i].running);
    }
}

static inline void release(unsigned workers)
{
    for (unsigned i = 0; i < workers; i++)
        sem_post(&blockers[i].go);
    for (unsigned i = 0; i < workers; i++)
        sem_wait(&blockers[i].ended);
}

/* Value of a series of the metrics page. */
static inline double metric(const char *name)
{
    size_t len;
    char *text = metrics_text(metrics, &len), *at = text;
    while ((at = strstr(at, name)) != NULL && at != text && at[-1] != '\n')
        at++;
    double value = at ? strtod(at + strlen(name), NULL) : -1;
    pool_free(text);
    return value;
}

static inline void expect_batches(double full, double delay, double idle, double images)
{
    cr_expect_float_eq(metric("convd_batches_total{model=\"m\",reason=\"full\"}"), full, 0.1);
    cr_expect_float_eq(metric("convd_batches_total{model=\"m\",reason=\"delay\"}"), delay, 0.1);
    cr_expect_float_eq(metric("convd_batches_total{model=\"m\",reason=\"idle\"}"), idle, 0.1);
    cr_expect_float_eq(metric("convd_batch_size_sum{model=\"m\"}"), images, 0.1);
    cr_expect_float_eq(metric("convd_queue_depth{model=\"m\"}"), 0, 0.1);
    cr_expect_float_eq(metric("convd_queue_bytes"), 0, 0.1);
}

static inline enum batch_admission reserve(struct batcher *b, const struct upload *up)
{
    return batch_reserve(b, up->ticket.images, up->ticket.deadline_ns);
}

/* With a deadline so long after now. False when it passed before it was looked at: the machine has
 * stalled. */
static inline bool submit_within(struct batcher *b, struct upload *up, uint64_t ns)
{
    up->ticket.deadline_ns = clock_ns() + ns;
    if (reserve(b, up) != BATCH_ACCEPTED)
        return false;
    batch_submit(b, &up->ticket);
    return true;
}

static inline void submit(struct batcher *b, struct upload *up)
{
    cr_assert_eq(reserve(b, up), BATCH_ACCEPTED);
    batch_submit(b, &up->ticket);
}

#endif
