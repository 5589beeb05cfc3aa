/*
 * The dynamic batcher: a bounded queue of tickets in front of one model.
 *
 * Runners do the work: as many as the engine has workers, each with a session and buffers of its
 * own, made when the batcher is made. A runner is idle, starting (handed to the engine, no batch
 * yet) or running. Whenever the queue changes, activate() starts idle runners until there are as
 * many starting ones as the queue has work for; a runner that begins takes its share, and one that
 * ends goes back to the idle list and calls activate() in turn. So no thread ever waits for work
 * here, and a runner returns to the engine's queue after every batch: other models and decoding get
 * their turn.
 *
 * The share: the images waiting divided by the runners that could run now. Two images that came
 * together use two cores, and a burst is not swallowed by one worker while others stand idle. Where
 * a delay is configured, or the model's batch is fixed, large batches are what is asked for, and
 * a runner takes all it can. In no case is a batch so large that a ticket in it would have to wait
 * for the others beyond its deadline.
 *
 * Of a delay a ticket may lose at most half of the time that it has: the oldest, or one in a hurry,
 * sets the batch off. Tickets that expire are ended by the timer, also while all workers are busy
 * with something that takes longer than their deadline; for those that a worker is computing, and
 * whose memory it uses, the timer can only tell their owners.
 *
 * A batch is closed as "full" when it holds max_batch images, else as "delay" where a delay is
 * configured, else as "idle": a worker was free.
 *
 * The lock guards everything that changes, and the clock is read under it, so that tickets stand in
 * the order of their arrival and none arrived later than "now"; it is held for list work alone,
 * never while the engine, a session or a ticket's done() is called. Who is let in is decided
 * without it, by the door, whose account of the queue is kept under it.
 */
#include "server/batch.h"

#include "server/clock.h"
#include "server/door.h"
#include "server/metrics.h"

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Images first … first + count - 1 of a ticket, in a runner's batch. */
struct segment {
    struct batch_ticket *ticket;
    unsigned first, count;
    enum batch_outcome outcome;
};

/* Tickets to be ended, in the order of their arrival. */
struct ended {
    struct batch_ticket *first, *last;
};

struct runner {
    struct cvd_job job; /* first: a job's address is its runner's */
    struct batcher *b;
    struct runner *next; /* of the idle ones, or of those to be handed to the engine */
    struct cvd_session *session;
    float *input, *output; /* for batches of several tickets; NULL when there are none */
    void **outputs;        /* of the model: all but the first stay NULL, they are not wanted */
    struct segment *segments;
    unsigned segment_count;
    unsigned images;
    bool decoded; /* started for images that workers have decoded */
    enum metrics_close close;
};

struct batcher {
    struct cvd_engine *engine;
    struct metrics_model *metrics;
    unsigned max_batch;
    unsigned fixed_batch; /* 0 = any size can be run */
    uint64_t max_delay_ns;
    bool shares;
    size_t input_elements, output_elements; /* of one image */
    struct runner *runners;
    unsigned runner_count;
    struct door door;

    pthread_mutex_t lock;
    pthread_cond_t drained; /* closing, nothing waits and every runner is idle */
    pthread_cond_t timing;  /* the timer has something earlier to wait for, or less to wait for */
    struct batch_ticket *head, *tail;
    struct runner *idle;
    unsigned starting;
    bool closing;

    /* What the timer looks after, on the clock of deadlines. All of them may be too early, as after
     * a ticket has left; then the timer wakes up for nothing. */
    uint64_t hurry_ns;  /* when the first ticket that cannot wait for the whole delay is due */
    uint64_t expiry_ns; /* the first deadline */
    bool has_timer;
    pthread_t timer;
};

#define NEVER UINT64_MAX

/* ---- the queue; all under the lock ---- */

static size_t image_bytes(const struct batcher *b)
{
    return b->input_elements * sizeof(float);
}

/* Accounts for images that no longer wait. */
static void leave_queue(struct batcher *b, unsigned images)
{
    b->door.queued -= images;
    door_leave(&b->door, images);
}

static void append(struct ended *list, struct batch_ticket *t)
{
    t->next = NULL;
    if (list->last)
        list->last->next = t;
    else
        list->first = t;
    list->last = t;
}

static void pop_head(struct batcher *b)
{
    b->head = b->head->next;
    if (!b->head)
        b->tail = NULL;
}

static bool is_dead(const struct batch_ticket *t, uint64_t now)
{
    return (t->deadline_ns && now >= t->deadline_ns) ||
           (t->gone && atomic_load_explicit(t->gone, memory_order_relaxed));
}

/* What remains of a ticket that has just left the queue is not computed. Of one that is partly
 * computed, whoever computes that part ends it. */
static void give_up(struct batcher *b, struct batch_ticket *t, uint64_t now, struct ended *ended)
{
    bool gone = t->gone && atomic_load_explicit(t->gone, memory_order_relaxed);
    unsigned rest = t->images - t->taken;
    leave_queue(b, rest);
    if (t->taken == 0)
        t->queue_ns = now - t->arrival_ns;
    t->outcome = gone ? BATCH_CANCELLED : BATCH_EXPIRED;
    t->taken = t->images;
    t->finished += rest;
    if (t->finished == t->images)
        append(ended, t);
}

/* Drops tickets at the head whose answer nobody waits for. */
static void drop_dead(struct batcher *b, uint64_t now, struct ended *ended)
{
    struct batch_ticket *t;
    while ((t = b->head) != NULL && is_dead(t, now)) {
        pop_head(b);
        give_up(b, t, now, ended);
    }
}

/* When the batch with this ticket in it has to begin. */
static uint64_t ticket_due(const struct batcher *b, const struct batch_ticket *t)
{
    uint64_t half = t->deadline_ns ? (t->deadline_ns - t->arrival_ns) / 2 : NEVER;
    return t->arrival_ns + (half < b->max_delay_ns ? half : b->max_delay_ns);
}

/* Takes a ticket's times into account; true when the timer has to be told. */
static bool note_times(struct batcher *b, const struct batch_ticket *t)
{
    uint64_t hurry_ns = b->hurry_ns, expiry_ns = b->expiry_ns, due = ticket_due(b, t);
    if (due < b->hurry_ns && due < t->arrival_ns + b->max_delay_ns)
        b->hurry_ns = due;
    if (t->deadline_ns && t->deadline_ns < b->expiry_ns)
        b->expiry_ns = t->deadline_ns;
    return b->hurry_ns < hurry_ns || b->expiry_ns < expiry_ns;
}

/* Tickets that are being computed: the first of their deadlines is to come. Those whose deadline
 * has passed are put on `late`, when there is one, and held until they have been told. */
static void look_at_running(struct batcher *b, uint64_t now, struct ended *late)
{
    for (unsigned i = 0; i < b->runner_count; i++) {
        const struct runner *r = &b->runners[i];
        for (unsigned n = 0; n < r->segment_count; n++) {
            struct batch_ticket *t = r->segments[n].ticket;
            if (!t->late || t->told || !t->deadline_ns)
                continue;
            if (late && now >= t->deadline_ns) {
                t->told = t->held = true;
                t->outcome = BATCH_EXPIRED;
                append(late, t);
            } else if (t->deadline_ns < b->expiry_ns) {
                b->expiry_ns = t->deadline_ns;
            }
        }
    }
}

/* Drops every dead ticket, wherever it stands, and looks at what the others wait for. */
static void drop_all_dead(struct batcher *b, uint64_t now, struct ended *ended, struct ended *late)
{
    struct batch_ticket **link = &b->head, *t;
    b->tail = NULL;
    b->hurry_ns = b->expiry_ns = NEVER;
    while ((t = *link) != NULL) {
        if (is_dead(t, now)) {
            *link = t->next;
            give_up(b, t, now, ended);
        } else {
            note_times(b, t);
            b->tail = t;
            link = &t->next;
        }
    }
    look_at_running(b, now, late);
}

/* How many runners the queue has work for just now. */
static unsigned wanted(const struct batcher *b, uint64_t now)
{
    if (b->door.queued == 0)
        return 0;
    if (b->shares)
        return b->door.queued;
    unsigned batches = b->door.queued / b->max_batch;
    bool rest_may_run =
        b->closing || now >= b->hurry_ns || now - b->head->arrival_ns >= b->max_delay_ns;
    return batches + (b->door.queued % b->max_batch && rest_may_run);
}

/* Takes runners off the idle list; the caller hands them to the engine once it holds no lock. */
static struct runner *activate(struct batcher *b, uint64_t now)
{
    struct runner *list = NULL;
    unsigned target = wanted(b, now);
    while (b->idle && b->starting < target) {
        struct runner *r = b->idle;
        b->idle = r->next;
        b->door.idle--;
        b->starting++;
        r->decoded = b->head && b->head->decode_ns > 0;
        r->next = list;
        list = r;
    }
    return list;
}

/* How many images a batch that begins now may have for a ticket in it to be answered in time. */
static unsigned in_time(const struct batcher *b, const struct batch_ticket *t, uint64_t now)
{
    uint64_t ns = b->door.ns_per_image;
    if (!t->deadline_ns || ns == 0 || b->fixed_batch)
        return UINT_MAX;
    uint64_t images = t->deadline_ns > now ? (t->deadline_ns - now) / ns : 0;
    if (images > UINT_MAX)
        return UINT_MAX;
    return images > 0 ? (unsigned)images : 1; /* who is late already holds nobody else up */
}

/* Moves images from the queue into the runner's batch, dropping dead tickets on the way. */
static void form(struct runner *r, struct ended *ended)
{
    struct batcher *b = r->b;
    uint64_t now = clock_ns();
    unsigned ready = b->starting--; /* this runner among them */
    drop_dead(b, now, ended);
    unsigned limit = 0;
    if (wanted(b, now) > 0) {
        limit = b->max_batch;
        unsigned share = b->door.queued / ready + (b->door.queued % ready != 0);
        if (b->shares && share < limit)
            limit = share;
    }
    r->segment_count = 0;
    r->images = 0;
    while (r->images < limit && b->head) {
        struct batch_ticket *t = b->head;
        unsigned most = in_time(b, t, now), count = t->images - t->taken;
        if (most < limit)
            limit = most;
        if (r->images >= limit)
            break;
        if (count > limit - r->images)
            count = limit - r->images;
        if (t->taken == 0)
            t->queue_ns = now - t->arrival_ns;
        r->segments[r->segment_count++] = (struct segment){t, t->taken, count, BATCH_DONE};
        r->images += count;
        t->taken += count;
        leave_queue(b, count);
        if (t->taken == t->images)
            pop_head(b);
        drop_dead(b, now, ended);
    }
    r->close = r->images == b->max_batch ? CLOSE_FULL : b->max_delay_ns ? CLOSE_DELAY : CLOSE_IDLE;
    b->door.running += r->images;
    if (b->max_delay_ns) {
        if (b->hurry_ns != NEVER) /* perhaps of a ticket that is in this batch */
            drop_all_dead(b, now, ended, NULL);
        pthread_cond_signal(&b->timing);
    }
}

/* Books a batch's results in its tickets; those that are complete are to be ended. */
static void finish(struct runner *r, uint64_t begin, uint64_t end, struct ended *ended)
{
    struct batcher *b = r->b;
    for (unsigned i = 0; i < r->segment_count; i++) {
        struct segment *s = &r->segments[i];
        struct batch_ticket *t = s->ticket;
        if (t->outcome == BATCH_DONE)
            t->outcome = t->deadline_ns && end >= t->deadline_ns ? BATCH_EXPIRED : s->outcome;
        t->batch_size = r->images;
        t->finished += s->count;
        if (t->finished == t->images) {
            t->compute_ns = end - t->arrival_ns - t->queue_ns;
            if (!t->held)
                append(ended, t);
        }
    }
    r->segment_count = 0;
    b->door.running -= r->images;
    door_note_computed(&b->door, r->images, end - begin);
}

/* ---- without the lock ---- */

/* Calls done(), the last touch of each ticket. */
static void end_tickets(const struct ended *ended)
{
    for (struct batch_ticket *t = ended->first, *next; t; t = next) {
        next = t->next;
        t->done(t);
    }
}

/* The same for those that were given up. */
static void end_dropped(struct batcher *b, const struct ended *dropped)
{
    for (const struct batch_ticket *t = dropped->first; t; t = t->next)
        if (t->batch_size == 0) /* else counted when its first images were taken */
            metrics_queue_wait(b->metrics, t->queue_ns);
    end_tickets(dropped);
}

/* Tells the owners of late tickets, and ends those that were finished meanwhile. */
static void tell(struct batcher *b, const struct ended *late)
{
    struct ended complete = {0};
    for (struct batch_ticket *t = late->first; t; t = t->next)
        t->late(t);
    pthread_mutex_lock(&b->lock);
    for (struct batch_ticket *t = late->first, *next; t; t = next) {
        next = t->next;
        t->held = false;
        if (t->finished == t->images)
            append(&complete, t);
    }
    pthread_mutex_unlock(&b->lock);
    end_tickets(&complete);
}

/* Hands runners to the engine, before jobs that were submitted earlier. After the last of them the
 * batcher may be gone: it waits only while a runner is not idle. */
static void start_next(struct cvd_engine *engine, struct runner *list)
{
    while (list) {
        struct runner *next = list->next;
        cvd_engine_submit_next(engine, &list->job);
        list = next;
    }
}

/* The same behind them, for what waited in the queue; but what workers have decoded takes turns
 * with decoding: behind it, the first of many photos would wait for all the others to be decoded,
 * and where there are deadlines, for nothing. */
static void start(struct cvd_engine *engine, struct runner *list)
{
    while (list) {
        struct runner *next = list->next;
        if (list->decoded)
            cvd_engine_submit_next(engine, &list->job);
        else
            cvd_engine_submit(engine, &list->job);
        list = next;
    }
}

static bool all_finite(const float *values, size_t count)
{
    /* All ones in the exponent means infinite or NaN. No early exit: the loop vectorises. */
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

static void gather(struct runner *r)
{
    const struct batcher *b = r->b;
    float *to = r->input;
    for (unsigned i = 0; i < r->segment_count; i++) {
        const struct segment *s = &r->segments[i];
        size_t elements = s->count * b->input_elements;
        memcpy(to, s->ticket->input + s->first * b->input_elements, elements * sizeof *to);
        to += elements;
    }
    /* A model with a fixed batch computes all of it: what nobody sent is black. */
    if (b->fixed_batch)
        memset(to, 0, (b->fixed_batch - r->images) * image_bytes(b));
}

/* Computes the runner's batch. One ticket's images are used where they lie; the images of several
 * are brought together and the answers taken apart. A NaN or infinity among the answers is the
 * fault of its own image alone, since the engine never mixes images. */
static void compute(struct runner *r)
{
    const struct batcher *b = r->b;
    const struct segment *only = r->segments;
    bool direct = r->segment_count == 1 && (!b->fixed_batch || r->images == b->fixed_batch);
    const void *input = r->input;
    float *output = r->output;
    if (direct) {
        input = only->ticket->input + only->first * b->input_elements;
        output = only->ticket->output + only->first * b->output_elements;
    } else {
        gather(r);
    }
    int64_t batch = b->fixed_batch ? b->fixed_batch : r->images;
    r->outputs[0] = output;
    enum cvd_status status = cvd_session_run(r->session, batch, &input, r->outputs, NULL);
    for (unsigned i = 0; i < r->segment_count; i++) {
        struct segment *s = &r->segments[i];
        size_t elements = s->count * b->output_elements;
        if (status != CVD_STATUS_OK)
            s->outcome = BATCH_FAILED;
        else if (!all_finite(output, elements))
            s->outcome = BATCH_NONFINITE;
        if (!direct)
            memcpy(s->ticket->output + s->first * b->output_elements, output,
                   elements * sizeof *output);
        output += elements;
    }
}

static void run_job(struct cvd_job *job)
{
    struct runner *r = (struct runner *)job;
    struct batcher *b = r->b;
    struct cvd_engine *engine = b->engine;
    struct ended dropped = {0}, complete = {0};

    pthread_mutex_lock(&b->lock);
    form(r, &dropped);
    pthread_mutex_unlock(&b->lock);
    end_dropped(b, &dropped);

    if (r->images > 0) {
        for (unsigned i = 0; i < r->segment_count; i++)
            if (r->segments[i].first == 0)
                metrics_queue_wait(b->metrics, r->segments[i].ticket->queue_ns);
        uint64_t begin = clock_ns();
        compute(r);
        uint64_t end = clock_ns();
        metrics_batch(b->metrics, r->close, r->images, end - begin);
        pthread_mutex_lock(&b->lock);
        finish(r, begin, end, &complete);
        pthread_mutex_unlock(&b->lock);
        end_tickets(&complete);
    }

    pthread_mutex_lock(&b->lock);
    r->next = b->idle;
    b->idle = r;
    b->door.idle++;
    struct runner *list = activate(b, clock_ns());
    if (b->closing && b->door.idle == b->runner_count && !b->head)
        pthread_cond_broadcast(&b->drained);
    pthread_mutex_unlock(&b->lock);
    start(engine, list);
}

/* When the timer has something to do: tickets expire, or a batch is to begin. */
static uint64_t next_event(const struct batcher *b, bool batches)
{
    uint64_t event = b->expiry_ns;
    if (batches && b->max_delay_ns && b->head) {
        uint64_t due = ticket_due(b, b->head);
        due = b->hurry_ns < due ? b->hurry_ns : due;
        event = due < event ? due : event;
    }
    return event;
}

static void wait_until(struct batcher *b, uint64_t when)
{
    struct timespec at = {.tv_sec = (time_t)(when / 1000000000u),
                          .tv_nsec = (long)(when % 1000000000u)};
    if (when == NEVER)
        pthread_cond_wait(&b->timing, &b->lock);
    else
        pthread_cond_timedwait(&b->timing, &b->lock, &at);
}

/* Ends tickets that have expired and, with a delay, starts runners when somebody has waited long
 * enough. A worker must not wait for time to pass, so this thread does. */
static void *timer_main(void *cookie)
{
    struct batcher *b = cookie;
    bool batches = true; /* false: enough runners are starting, or all are busy and look at the
                            queue when they end */
    pthread_mutex_lock(&b->lock);
    while (!b->closing) {
        uint64_t now = clock_ns();
        struct ended expired = {0}, late = {0};
        struct runner *list = NULL;
        if (now < next_event(b, batches)) {
            wait_until(b, next_event(b, batches));
            batches = true;
            continue;
        }
        if (now >= b->expiry_ns) {
            drop_all_dead(b, now, &expired, &late);
        } else {
            list = activate(b, now);
            batches = list != NULL;
        }
        pthread_mutex_unlock(&b->lock);
        end_dropped(b, &expired);
        if (late.first)
            tell(b, &late);
        start(b->engine, list);
        pthread_mutex_lock(&b->lock);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

/* ---- submitting ---- */

enum batch_admission batch_reserve(struct batcher *b, unsigned images, uint64_t deadline_ns)
{
    return door_enter(&b->door, images, deadline_ns);
}

enum batch_admission batch_look(const struct batcher *b, unsigned images, uint64_t deadline_ns)
{
    return door_look(&b->door, images, deadline_ns);
}

void batch_give_back(struct batcher *b, unsigned images)
{
    door_leave(&b->door, images);
}

bool batch_is_hopeless(const struct batcher *b, unsigned images, uint64_t deadline_ns)
{
    return door_is_hopeless(&b->door, images, deadline_ns);
}

unsigned batch_depth(const struct batcher *b)
{
    return (unsigned)b->door.places; /* at most max_queue */
}

uint64_t batch_estimate_ns(const struct batcher *b)
{
    return door_wait_ns(&b->door);
}

static void submit(struct batcher *b, struct batch_ticket *t, bool more)
{
    struct cvd_engine *engine = b->engine;
    assert(t->images >= 1);
    t->outcome = BATCH_DONE;
    t->queue_ns = t->compute_ns = 0;
    t->batch_size = t->taken = t->finished = 0;
    t->told = t->held = false;
    t->next = NULL;
    if (t->decode_ns > 0)
        door_note_decoded(&b->door, t->images, t->decode_ns);

    pthread_mutex_lock(&b->lock);
    assert(!b->closing);
    t->arrival_ns = clock_ns();
    bool first = !b->tail;
    if (first)
        b->head = t;
    else
        b->tail->next = t;
    b->tail = t;
    if (note_times(b, t) || (first && b->max_delay_ns))
        pthread_cond_signal(&b->timing);
    b->door.queued += t->images;
    struct runner *list = more ? NULL : activate(b, t->arrival_ns);
    pthread_mutex_unlock(&b->lock);
    start_next(engine, list);
}

void batch_submit(struct batcher *b, struct batch_ticket *t)
{
    submit(b, t, false);
}

void batch_submit_more(struct batcher *b, struct batch_ticket *t)
{
    submit(b, t, true);
}

/* ---- making and ending ---- */

/* Elements of one image in a value that has this shape for `batch` images; false when dimension 0
 * is not the batch. */
static bool elements_per_image(const struct cvd_shape *shape, int64_t batch, size_t *elements)
{
    if (shape->rank == 0 || shape->dims[0] != batch || !cvd_shape_elements(shape, elements))
        return false;
    *elements /= (size_t)batch;
    return *elements > 0;
}

/* Checks that the model can be batched and takes its sizes. */
static enum cvd_status measure_model(struct batcher *b, const struct cvd_model *model,
                                     struct cvd_error *err)
{
    struct cvd_value_info in, out;
    struct cvd_shape in_shape, out_shape;
    int64_t fixed = cvd_model_fixed_batch(model);
    int64_t batch = fixed ? fixed : 2; /* 2: tells N from a constant 1 */
    if (fixed > INT_MAX)
        return cvd_error_set(err, CVD_STATUS_UNSUPPORTED,
                             "the model's batch is fixed to %" PRId64 "; it can be at most %d",
                             fixed, INT_MAX);
    if (cvd_model_input_count(model) != 1 || cvd_model_output_count(model) < 1)
        return cvd_error_set(err, CVD_STATUS_UNSUPPORTED,
                             "the model has %zu inputs and %zu outputs; batching needs one input "
                             "and an output",
                             cvd_model_input_count(model), cvd_model_output_count(model));
    cvd_model_input(model, 0, &in);
    cvd_model_output(model, 0, &out);
    if (in.dtype != CVD_DTYPE_FLOAT32 || out.dtype != CVD_DTYPE_FLOAT32)
        return cvd_error_set(err, CVD_STATUS_UNSUPPORTED,
                             "the model maps %s to %s; batching needs float32 on both sides",
                             cvd_dtype_name(in.dtype), cvd_dtype_name(out.dtype));
    cvd_model_input_shape(model, 0, batch, &in_shape);
    cvd_model_output_shape(model, 0, batch, &out_shape);
    if (!elements_per_image(&in_shape, batch, &b->input_elements) ||
        !elements_per_image(&out_shape, batch, &b->output_elements))
        return cvd_error_set(err, CVD_STATUS_UNSUPPORTED,
                             "input '%s' and output '%s' must have the images in dimension 0",
                             in.name, out.name);
    b->door.image_bytes = image_bytes(b);
    if (fixed)
        b->fixed_batch = b->max_batch = (unsigned)fixed;
    b->shares = !fixed && !b->max_delay_ns;
    return CVD_STATUS_OK;
}

static enum cvd_status runner_init(struct batcher *b, struct runner *r,
                                   const struct cvd_model *model, struct cvd_error *err)
{
    r->job.run = run_job;
    r->b = b;
    r->next = b->idle; /* first of all, so that batcher_destroy() finds every runner idle */
    b->idle = r;
    b->door.idle++;
    enum cvd_status status = cvd_session_create(model, b->max_batch, &r->session, err);
    if (status != CVD_STATUS_OK)
        return status;
    r->segments = calloc(b->max_batch, sizeof *r->segments);
    r->outputs = calloc(cvd_model_output_count(model), sizeof *r->outputs);
    if (!r->segments || !r->outputs)
        goto no_memory;
    if (b->max_batch > 1) { /* touched, and so resident, only where batches get that large */
        r->input = calloc(b->max_batch, image_bytes(b));
        r->output = calloc(b->max_batch, b->output_elements * sizeof *r->output);
        if (!r->input || !r->output)
            goto no_memory;
    }
    return CVD_STATUS_OK;
no_memory:
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for batches of %u images",
                         b->max_batch);
}

static enum cvd_status timer_start(struct batcher *b, struct cvd_error *err)
{
    sigset_t all, before; /* signals are for the main thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    b->has_timer = pthread_create(&b->timer, NULL, timer_main, b) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!b->has_timer)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "cannot start a thread for deadlines");
    return CVD_STATUS_OK;
}

enum cvd_status batcher_create(struct cvd_engine *engine, const struct cvd_model *model,
                               const struct batch_options *options, struct batcher **out,
                               struct cvd_error *err)
{
    if (options->max_batch < 1 || options->max_queue < 1)
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                             "max_batch is %u and max_queue is %u; both must be at least 1",
                             options->max_batch, options->max_queue);
    struct batcher *b = calloc(1, sizeof *b);
    if (!b)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a batcher");
    b->engine = engine;
    b->metrics = options->metrics;
    b->max_batch = options->max_batch;
    b->max_delay_ns = options->max_delay_ns;
    b->hurry_ns = b->expiry_ns = NEVER;
    b->door = (struct door){.budget = options->budget,
                            .metrics = options->metrics,
                            .max_queue = options->max_queue,
                            .workers = cvd_engine_threads(engine)};
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&b->timing, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&b->drained, NULL);
    pthread_mutex_init(&b->lock, NULL);

    enum cvd_status status = measure_model(b, model, err);
    if (status != CVD_STATUS_OK)
        goto fail;
    b->runners = calloc(b->door.workers, sizeof *b->runners);
    if (!b->runners) {
        status = cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a batcher");
        goto fail;
    }
    while (b->runner_count < b->door.workers) {
        status = runner_init(b, &b->runners[b->runner_count++], model, err);
        if (status != CVD_STATUS_OK)
            goto fail;
    }
    status = timer_start(b, err);
    if (status != CVD_STATUS_OK)
        goto fail;
    *out = b;
    return CVD_STATUS_OK;
fail:
    batcher_destroy(b);
    return status;
}

void batcher_destroy(struct batcher *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    b->closing = true;
    pthread_cond_signal(&b->timing);
    struct runner *list = activate(b, clock_ns());
    pthread_mutex_unlock(&b->lock);
    start(b->engine, list);
    pthread_mutex_lock(&b->lock);
    while (b->head || b->door.idle < b->runner_count)
        pthread_cond_wait(&b->drained, &b->lock);
    pthread_mutex_unlock(&b->lock);
    if (b->has_timer)
        pthread_join(b->timer, NULL);
    for (unsigned i = 0; i < b->runner_count; i++) {
        cvd_session_destroy(b->runners[i].session);
        free(b->runners[i].input);
        free(b->runners[i].output);
        free(b->runners[i].outputs);
        free(b->runners[i].segments);
    }
    free(b->runners);
    pthread_cond_destroy(&b->drained);
    pthread_cond_destroy(&b->timing);
    pthread_mutex_destroy(&b->lock);
    free(b);
}
