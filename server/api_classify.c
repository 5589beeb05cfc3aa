/*
 * /classify: a request's images -> the model's queue -> its answer.
 *
 * On the I/O thread: the options, and all of the decoding when it is a matter of microseconds.
 * Otherwise the request is deferred and decoded by a job on the engine's workers. Either way the
 * images then wait in the model's queue, and the worker that computed them composes the answer.
 */
#include "server/batch.h"
#include "server/classify.h"
#include "server/clock.h"
#include "server/digits.h"
#include "server/metrics.h"
#include "server/pool.h"
#include "server/registry.h"
#include "server/reply.h"
#include "server/routes.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Work below this is done where it is: handing it to a worker costs some microseconds as well. */
enum { INLINE_BODY_BYTES = 32 * 1024, INLINE_COST_NS = 200000, DEFAULT_TOP = 5 };

struct classify {
    struct cvd_job job; /* the first: run_job() is handed its address */
    atomic_uint users;  /* the request, and the batcher: after a deadline either may be the last */
    struct request *rq;
    struct registry_model *model; /* held until there is a reply: how long a client takes to read it
                                     must not keep a model in memory that was replaced */
    struct classify_limits limits;
    size_t top; /* classes to report */
    struct classify_body body;
    bool body_is_read;
    unsigned places;      /* in the model's queue, until the images are there */
    uint64_t deferred_ns; /* when it began to wait for a worker to decode it; 0: it does not */
    struct batch_ticket ticket;
    float *input, *output; /* one allocation, with: */
    uint32_t *indices;     /* room for `top` */
};

static void let_go(struct classify *c)
{
    if (atomic_fetch_sub(&c->users, 1) > 1) {
        return;
    }
    classify_free(&c->body);
    pool_free(c->input);
    pool_free(c);
}

static void classify_state_free(void *state)
{
    let_go(state);
}

/* ---------------------------------------------------------------- refusals */

static enum request_result refuse(struct request *rq, const struct classify_fault *fault)
{
    if (fault->status == 503) {
        metrics_rejected(rq->app->metrics, REJECT_MEMORY);
        return reply_busy(rq, fault->code, fault->message);
    }
    return reply_error(rq, fault->status, fault->code, "%s", fault->message);
}

static void refuse_input(struct classify *c, const struct classify_fault *fault)
{
    unsigned images = c->body.images ? c->body.images : 1;
    metrics_inference(c->model->metrics,
                      fault->status == 503 ? OUTCOME_REJECTED : OUTCOME_BAD_INPUT, images);
    refuse(c->rq, fault);
}

static void refuse_admission(struct request *rq, const struct registry_model *model,
                             unsigned images, enum batch_admission admission)
{
    metrics_inference(model->metrics, OUTCOME_REJECTED, images);
    rq->backlog_ns = batch_estimate_ns(model->batcher);
    switch (admission) {
    case BATCH_FULL:
        metrics_rejected(rq->app->metrics, REJECT_QUEUE_FULL);
        reply_busy(rq, "queue_full", "the model's queue is full");
        break;
    case BATCH_TOO_LATE:
        metrics_rejected(rq->app->metrics, REJECT_DEADLINE);
        reply_busy(rq, "queue_timeout", "the queue is longer than this request may wait");
        break;
    case BATCH_ACCEPTED:
        break;
    }
}

static void expire(struct classify *c)
{
    metrics_inference(c->model->metrics, OUTCOME_EXPIRED, c->body.images ? c->body.images : 1);
    reply_error(c->rq, 504, "deadline_exceeded", "the request's deadline cannot be met");
}

/* When the client has left, nobody reads the reply; its status is for the log, and 499 is what
 * proxies write there. A server that stops gives up the clients that are still there as well. */
static void cancel(struct classify *c)
{
    struct request *rq = c->rq;
    metrics_inference(c->model->metrics, OUTCOME_CANCELLED, c->body.images ? c->body.images : 1);
    if (atomic_load(&rq->app->phase) == APP_STOPPING) {
        metrics_rejected(rq->app->metrics, REJECT_DRAINING);
        reply_busy(rq, "draining", "the server is shutting down");
    } else {
        reply_error(rq, 499, "client_gone", "the client closed the connection");
    }
}

/* Whether the answer is still wanted; otherwise the reply is filled. */
static bool still_wanted(struct classify *c)
{
    struct request *rq = c->rq;
    if (atomic_load_explicit(rq->gone, memory_order_relaxed)) {
        cancel(c);
        return false;
    }
    if (rq->deadline_ns && clock_ns() >= rq->deadline_ns) {
        expire(c);
        return false;
    }
    return true;
}

/* ---------------------------------------------------------------- the answer */

static void write_classes(struct text *t, const struct classify *c, const float *values)
{
    const struct registry_model *m = c->model;
    char number[24], digits[DIGITS_BYTES];
    registry_top(values, m->classes, c->top, c->indices);
    text_puts(t, "\"label\":");
    text_json_string(t, registry_label(m, c->indices[0], number));
    text_puts(t, ",\"probability\":");
    text_json_number(t, (double)values[c->indices[0]]);
    text_puts(t, ",\"classes\":[");
    for (size_t i = 0; i < c->top; i++) {
        text_puts(t, i ? ",{\"index\":" : "{\"index\":");
        text_append(t, digits, digits_integer(digits, c->indices[i]));
        text_puts(t, ",\"label\":");
        text_json_string(t, registry_label(m, c->indices[i], number));
        text_puts(t, ",\"probability\":");
        text_json_number(t, (double)values[c->indices[i]]);
        text_puts(t, "}");
    }
    text_puts(t, "]");
}

static void answer(struct classify *c)
{
    struct request *rq = c->rq;
    const struct registry_model *m = c->model;
    struct text t = {0};
    char digits[DIGITS_BYTES];
    text_puts(&t, "{\"model\":");
    text_json_string(&t, m->name);
    text_puts(&t, ",\"version\":");
    text_json_string(&t, m->version);
    text_puts(&t, c->body.images == 1 ? "," : ",\"results\":[");
    for (unsigned i = 0; i < c->body.images; i++) {
        float *values = c->output + i * m->classes;
        if (m->apply_softmax) {
            registry_softmax(values, m->classes);
        }
        if (c->body.images > 1) {
            text_puts(&t, i ? ",{" : "{");
        }
        write_classes(&t, c, values);
        if (c->body.images > 1) {
            text_puts(&t, "}");
        }
    }
    text_puts(&t, c->body.images == 1 ? "" : "]");
    text_puts(&t, ",\"timing_ms\":{\"decode\":");
    text_append(&t, digits, digits_ms(digits, rq->decode_ns));
    text_puts(&t, ",\"queue\":");
    text_append(&t, digits, digits_ms(digits, rq->queue_ns));
    text_puts(&t, ",\"compute\":");
    text_append(&t, digits, digits_ms(digits, rq->compute_ns));
    text_puts(&t, "}}\n");
    reply_json_take(rq, 200, t.data, t.len);
}

/* A deferred request has its reply; it may be gone at once, and `c` with it unless the batcher has
 * it. See request_complete(). */
static void complete(struct classify *c, struct request *next)
{
    registry_release(c->model);
    request_complete(c->rq, next);
}

static void reply_with(struct classify *c, const struct batch_ticket *ticket)
{
    struct request *rq = c->rq;
    struct metrics_model *metrics = c->model->metrics;
    rq->queue_ns += ticket->queue_ns;
    rq->compute_ns = ticket->compute_ns;
    rq->batch_size = ticket->batch_size;
    switch (ticket->outcome) {
    case BATCH_DONE:
        metrics_inference(metrics, OUTCOME_SUCCESS, ticket->images);
        answer(c);
        break;
    case BATCH_EXPIRED:
        expire(c);
        break;
    case BATCH_CANCELLED:
        cancel(c);
        break;
    case BATCH_NONFINITE:
        metrics_inference(metrics, OUTCOME_ERROR, ticket->images);
        reply_error(rq, 500, "model_nonfinite_output",
                    "the model's answer for this input is not finite");
        break;
    case BATCH_FAILED:
        metrics_inference(metrics, OUTCOME_ERROR, ticket->images);
        reply_error(rq, 500, "internal_error", "the model could not be run");
        break;
    }
}

/* The deadline has passed, and the batch is still being computed. */
static void late(struct batch_ticket *ticket)
{
    struct classify *c = ticket->cookie;
    c->rq->queue_ns += ticket->queue_ns;
    expire(c);
    complete(c, NULL);
}

/* On a worker, when the images are computed or given up. */
static void computed(struct batch_ticket *ticket)
{
    struct classify *c = ticket->cookie;
    if (!ticket->told) {
        const struct batch_ticket *next = ticket->next;
        const struct classify *after = next && !next->told ? next->cookie : NULL;
        reply_with(c, ticket);
        complete(c, after ? after->rq : NULL);
    }
    let_go(c);
}

/* ---------------------------------------------------------------- decoding and queueing */

static bool read_body(struct classify *c)
{
    struct request *rq = c->rq;
    struct classify_fault fault;
    c->body_is_read = classify_read(&c->body, rq->content_type, rq->body, rq->body_len,
                                    &c->model->preprocess, &c->limits, &fault);
    if (!c->body_is_read) {
        refuse_input(c, &fault);
        return false;
    }
    rq->images = c->body.images;
    return true;
}

/* Room for the images' inputs and outputs, and for the best classes of one. */
static bool allocate(struct classify *c)
{
    const struct registry_model *m = c->model;
    size_t per_image, floats, indices = c->top, bytes;
    if (__builtin_add_overflow(m->input_elements, m->classes, &per_image) ||
        __builtin_mul_overflow(per_image, (size_t)c->body.images, &floats) ||
        __builtin_add_overflow(floats, indices, &floats) ||
        __builtin_mul_overflow(floats, sizeof(float), &bytes)) {
        return false;
    }
    c->input = pool_alloc(bytes);
    if (c->input) {
        c->output = c->input + m->input_elements * c->body.images;
        c->indices = (uint32_t *)(c->output + m->classes * c->body.images);
    }
    return c->input != NULL;
}

/* Fills the input; false with the reply filled. */
static bool decode(struct classify *c)
{
    const struct registry_model *m = c->model;
    struct classify_fault fault = {503, "out_of_memory", "no memory for this request"};
    if (!allocate(c)) {
        refuse_input(c, &fault);
        return false;
    }
    uint64_t begin = clock_ns(), last = begin;
    for (unsigned i = 0; i < c->body.images; i++) {
        enum gate_format format;
        if (i > 0 && !still_wanted(c)) {
            return false;
        }
        if (!classify_decode(&c->body, i, &m->preprocess, &c->limits,
                             c->input + i * m->input_elements, &format, &fault)) {
            refuse_input(c, &fault);
            return false;
        }
        uint64_t now = clock_ns();
        metrics_decode(c->rq->app->metrics, format, now - last);
        last = now;
    }
    c->rq->decode_ns = last - begin;
    return true;
}

/* Lets the request in with so many images; false with the reply filled. */
static bool enter(struct classify *c, unsigned images)
{
    enum batch_admission admission = batch_reserve(c->model->batcher, images, c->rq->deadline_ns);
    if (admission != BATCH_ACCEPTED) {
        refuse_admission(c->rq, c->model, images, admission);
        return false;
    }
    c->places = images;
    return true;
}

static void leave(struct classify *c)
{
    batch_give_back(c->model->batcher, c->places);
    c->places = 0;
}

/* Every request has one image at least, and a place for it before anything else is known. One that
 * turns out to have more is let in with all of them or not at all. */
static bool enter_with_all(struct classify *c)
{
    if (c->body.images == c->places) {
        return true;
    }
    leave(c);
    return enter(c, c->body.images);
}

/* Hands the decoded images of a deferred request to the model's queue. At once, another thread may
 * have completed the request. */
static void submit(struct classify *c, bool more_follow)
{
    struct request *rq = c->rq;
    c->ticket = (struct batch_ticket){.input = c->input,
                                      .output = c->output,
                                      .images = c->body.images,
                                      .deadline_ns = rq->deadline_ns,
                                      .gone = rq->gone,
                                      .done = computed,
                                      .late = late,
                                      .cookie = c,
                                      .decode_ns = c->deferred_ns ? rq->decode_ns : 0};
    atomic_fetch_add(&c->users, 1);
    (more_follow ? batch_submit_more : batch_submit)(c->model->batcher, &c->ticket);
}

/* Whether there is time left for what a worker is about to begin; otherwise the reply is filled. */
static bool has_time(struct classify *c)
{
    if (batch_is_hopeless(c->model->batcher, c->places, c->rq->deadline_ns)) {
        expire(c);
        return false;
    }
    return true;
}

static void run_job(struct cvd_job *job)
{
    struct classify *c = (struct classify *)job;
    c->rq->queue_ns = clock_ns() - c->deferred_ns;
    if (still_wanted(c) && has_time(c) &&
        (c->body_is_read || (read_body(c) && enter_with_all(c))) && decode(c)) {
        submit(c, false);
    } else {
        leave(c);
        complete(c, NULL);
    }
}

static void go_to_worker(struct request *rq, const struct request *next)
{
    struct classify *c = rq->state;
    (void)next;
    cvd_engine_submit(rq->app->engine, &c->job);
}

static void go_to_queue(struct request *rq, const struct request *next)
{
    struct classify *c = rq->state;
    const struct classify *after = next && next->go == go_to_queue ? next->state : NULL;
    submit(c, after && after->model == c->model);
}

/* ---------------------------------------------------------------- the request */

/* Query arguments; false with the reply filled. */
static bool read_options(const struct request *rq, const char **name, const char **version,
                         unsigned long *top, struct classify_fault *fault)
{
    *name = rq->captures[0];
    *version = rq->captures[0] ? rq->captures[1] : NULL;
    *top = DEFAULT_TOP;
    *fault = (struct classify_fault){.status = 400, .code = "bad_request"};
    for (unsigned i = 0; i < rq->query_count; i++) {
        const char *key = rq->query[i].key, *value = rq->query[i].value;
        bool is_name = strcmp(key, "model") == 0;
        if (is_name || strcmp(key, "version") == 0) {
            const char **place = is_name ? name : version;
            if (*place && strcmp(*place, value) != 0) {
                snprintf(fault->message, sizeof fault->message,
                         "the request names two different %ss", key);
                return false;
            }
            *place = value;
        } else if (strcmp(key, "top_k") == 0) {
            char *end;
            *top = strtoul(value, &end, 10);
            if (value[0] < '0' || value[0] > '9' || *end != '\0' || *top > UINT32_MAX) {
                snprintf(fault->message, sizeof fault->message,
                         "top_k must be a whole number, 0 for all classes");
                return false;
            }
        } else {
            snprintf(fault->message, sizeof fault->message,
                     "unknown query argument \"%.40s\"; there are top_k, model and version", key);
            return false;
        }
    }
    return true;
}

static void name_model(struct request *rq, const struct registry_model *model)
{
    snprintf(rq->model, sizeof rq->model, "%s", model->name);
    snprintf(rq->version, sizeof rq->version, "%s", model->version);
}

static struct classify *create(struct request *rq, struct registry_model *model, unsigned long top)
{
    const struct config *config = rq->app->config;
    struct classify *c = pool_alloc_zeroed(sizeof *c);
    if (c == NULL) {
        registry_release(model);
        return NULL;
    }
    atomic_init(&c->users, 1);
    c->rq = rq;
    c->model = model;
    c->top = top == 0 || top > model->classes ? model->classes : top;
    c->job.run = run_job;
    c->limits = (struct classify_limits){
        .max_images =
            config->max_queue < CLASSIFY_MAX_IMAGES ? config->max_queue : CLASSIFY_MAX_IMAGES,
        .max_pixels = config->max_pixels,
        .max_input_bytes = config->max_queue_bytes,
    };
    rq->state = c;
    rq->state_free = classify_state_free;
    name_model(rq, model);
    return c;
}

/* Reads, and decodes, what is read and decoded in no time; false with the reply filled. */
static bool begin_inline(struct classify *c, bool *decoded)
{
    *decoded = false;
    if (c->rq->body_len > INLINE_BODY_BYTES) {
        return true;
    }
    if (!read_body(c) || !enter_with_all(c)) {
        return false;
    }
    *decoded = classify_cost_ns(&c->body, &c->model->preprocess, &c->limits) <= INLINE_COST_NS;
    return !*decoded || decode(c);
}

static enum request_result begin(struct classify *c)
{
    struct request *rq = c->rq;
    bool decoded;
    if (!enter(c, 1)) {
        return REQUEST_DONE;
    }
    if (!begin_inline(c, &decoded)) {
        leave(c);
        return REQUEST_DONE;
    }
    if (decoded) {
        request_defer(rq, go_to_queue, false);
    } else {
        c->deferred_ns = clock_ns();
        request_defer(rq, go_to_worker, true);
    }
    return REQUEST_DEFERRED;
}

enum request_result api_classify(struct request *rq)
{
    struct app *app = rq->app;
    const char *name, *version;
    unsigned long top;
    struct classify_fault fault;
    if (!read_options(rq, &name, &version, &top, &fault)) {
        return refuse(rq, &fault);
    }
    struct registry_model *model = registry_acquire(app->registry, name, version);
    if (model == NULL) {
        return reply_error(rq, 404, "model_not_found", "there is no such model%s",
                           version ? " and version" : "");
    }
    if (model->not_images) {
        enum request_result result =
            reply_error(rq, 422, "not_an_image_model", "this model does not classify images: %s",
                        model->not_images);
        registry_release(model);
        return result;
    }
    struct classify *c = create(rq, model, top);
    if (c == NULL) {
        fault = (struct classify_fault){503, "out_of_memory", "no memory for this request"};
        return refuse(rq, &fault);
    }
    enum request_result result = begin(c);
    if (result == REQUEST_DONE) {
        registry_release(model);
    }
    return result;
}

/* What the queue tells before the body has come. A place is not taken for a body that a client may
 * take its time to send. */
bool api_classify_is_busy(struct request *rq)
{
    const char *name, *version;
    unsigned long top;
    struct classify_fault fault;
    struct registry_model *model = NULL;
    if (read_options(rq, &name, &version, &top, &fault)) {
        model = registry_acquire(rq->app->registry, name, version);
    }
    if (model == NULL) {
        return false;
    }
    bool busy = false;
    if (!model->not_images) {
        enum batch_admission admission = batch_look(model->batcher, 1, rq->deadline_ns);
        busy = admission != BATCH_ACCEPTED;
        if (busy) {
            name_model(rq, model);
            refuse_admission(rq, model, 1, admission);
        }
    }
    registry_release(model);
    return busy;
}
