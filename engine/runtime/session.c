/*
 * Running a plan.
 *
 * A session has one slot for each worker: an arena and the tensors that point into it. A batch is
 * cut into shares of whole images, each of which runs through all steps in one slot, on one thread,
 * without ever waiting for the others. Where that is not possible (one image, or a step that mixes
 * images) the steps run one after the other in slot 0 and their operators split the work.
 *
 * The early steps of a network have large maps and few weights, the late ones small maps and many
 * weights. So a share runs through the early ones a few images at a time, as many as stay in a
 * core's cache, and then through the late ones all at once, which reads their weights once.
 *
 * Slots and scratch are one reservation of address space: what no run touches costs nothing, so a
 * slot builds its tables when it is first used.
 */
#include <convd/session.h>

#include "engine/runtime/cpu.h"
#include "engine/runtime/model.h"

#include <string.h>
#include <time.h>

/* What should stay in a core's own cache, which has 1 MiB or more in servers of today. */
#define CACHE_BYTES ((size_t)1 << 20)
/* Most bytes that a step of a share may read and write beyond that. */
#define SHARE_BYTES ((size_t)64 << 20)

/* Multiply-adds of an image, some 50 microseconds, that make it worth keeping other workers awake
 * for: of smaller ones no operator shares its work. */
#define SHARED_MACS 5000000u

/* Slots begin on pages of their own. */
#define PAGE_BYTES ((size_t)4096)

/* A tensor that lies in the caller's memory, and where its address has to be filled in. */
struct external {
    uint32_t value;
    uint32_t out; /* its place among all steps' outputs, or GRAPH_NONE */
};

/* One worker's view of the plan; the tables follow it in its slot. */
struct slot {
    int64_t images;               /* that the tables are set up for; 0 at first */
    int64_t at;                   /* the first of them, in the share */
    struct op_tensor *tensors;    /* by plan value */
    const struct op_tensor **ins; /* all steps' inputs, one after the other */
    struct op_output *outs;       /* all steps' outputs */
    char *arena;
};

struct cvd_session {
    const struct cvd_model *model;
    const struct plan *plan;
    int64_t max_batch;
    bool shares;             /* whether batches may be cut */
    bool large;              /* whether operators share their work */
    struct plan_batch share; /* the largest */
    unsigned slots;
    size_t ins, outs;                       /* of all steps */
    size_t *offsets;                        /* by buffer */
    size_t *input_strides, *output_strides; /* bytes between images; 0 where images share it */
    struct external *externals;
    size_t external_count;
    uint64_t *layer_ns; /* the caller's, or NULL: steps are not timed */
    char *memory;       /* slots, then scratch */
    size_t memory_bytes, slot_bytes, arena_offset, scratch_stride;
};

/* ---- creation ---- */

static enum cvd_status no_memory(struct cvd_error *err, int64_t batch)
{
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory to run batches of %lld images",
                         (long long)batch);
}

/* What a step of one image takes out of the caches: its weights, and what it reads and writes. */
struct traffic {
    size_t weights, maps;
};

static size_t image_bytes(const struct plan *plan, uint32_t v)
{
    size_t one, more = 0;
    if (v != GRAPH_NONE)
        plan_bytes(&plan->values[v], &one, &more);
    return more;
}

static struct traffic step_traffic(const struct plan *plan, uint32_t i)
{
    const struct plan_step *step = &plan->steps[i];
    struct traffic t = {.weights = step->prepared.state_bytes};
    for (size_t j = 0; j < step->in_count; j++)
        t.maps += image_bytes(plan, step->in[j]);
    for (size_t j = 0; j < step->out_count; j++)
        t.maps += image_bytes(plan, step->out[j]);
    return t;
}

/* Images of a part that stay in the cache in steps whose maps have so many bytes. */
static int64_t part_of(size_t maps, int64_t images)
{
    const size_t fit = maps > 0 ? CACHE_BYTES / maps : (size_t)images;
    return fit < 1 ? 1 : fit < (size_t)images ? (int64_t)fit : images;
}

/* Chooses where to split and how large parts are: so that the least has to come from beyond the
 * cache, for each image. */
static void choose_split(const struct plan *plan, struct plan_batch *share)
{
    const double images = (double)share->images;
    double weights = 0, late = 0; /* of the steps from the split on */
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const struct traffic t = step_traffic(plan, i);
        weights += (double)t.weights;
        late += images * (double)t.maps > (double)CACHE_BYTES ? (double)t.maps : 0;
    }
    const bool stay = weights <= (double)CACHE_BYTES; /* all of the weights do */
    double early = 0, least = late + (stay ? 0 : weights / images);
    size_t maps = 0;
    share->split = 0;
    share->part = share->images;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const struct traffic t = step_traffic(plan, i);
        maps = t.maps > maps ? t.maps : maps;
        late -= images * (double)t.maps > (double)CACHE_BYTES ? (double)t.maps : 0;
        early += (double)t.weights;
        weights -= (double)t.weights;
        const int64_t part = part_of(maps, share->images);
        const double cost = late + (stay ? 0 : early / (double)part + weights / images);
        if (cost < least) {
            least = cost;
            share->split = i + 1;
            share->part = part;
        }
    }
}

/* Fewer images of a share where the steps that take all at once would use too much memory. */
static void choose_share(struct cvd_session *s)
{
    size_t maps = 1;
    s->share.images = (s->max_batch - 1) / (int64_t)s->slots + 1;
    choose_split(s->plan, &s->share);
    for (uint32_t i = s->share.split; i < s->plan->step_count; i++) {
        const struct traffic t = step_traffic(s->plan, i);
        maps = t.maps > maps ? t.maps : maps;
    }
    const size_t fit = SHARE_BYTES / maps ? SHARE_BYTES / maps : 1;
    if (fit < (size_t)s->share.images) {
        s->share.images = (int64_t)fit;
        choose_split(s->plan, &s->share);
    }
}

/* Bytes of input or output v for the largest batch must be countable; *stride is 0 for a value that
 * the batch does not change. */
static bool check_external(const struct cvd_session *s, const struct plan_value *v, size_t *stride)
{
    size_t one, total;
    plan_bytes(v, &one, stride);
    return mem_mul(*stride, (size_t)s->max_batch - 1, &total) && mem_add(total, one, &total) &&
           total <= PTRDIFF_MAX;
}

static bool set_strides(struct cvd_session *s)
{
    const struct plan *plan = s->plan;
    s->input_strides = mem_alloc(plan->input_count * sizeof(*s->input_strides));
    s->output_strides = mem_alloc(plan->output_count * sizeof(*s->output_strides));
    bool fits = s->input_strides != NULL && s->output_strides != NULL;
    for (uint32_t i = 0; i < plan->input_count && fits; i++)
        fits = check_external(s, &plan->values[plan->inputs[i]], &s->input_strides[i]);
    for (uint32_t i = 0; i < plan->output_count && fits; i++)
        fits = check_external(s, &plan->values[plan->outputs[i]], &s->output_strides[i]);
    return fits;
}

static bool is_external(const struct plan_value *v)
{
    return v->place == PLAN_INPUT || v->place == PLAN_OUTPUT;
}

static bool list_externals(struct cvd_session *s)
{
    const struct plan *plan = s->plan;
    size_t count = 0;
    for (uint32_t v = 0; v < plan->value_count; v++)
        count += is_external(&plan->values[v]);
    uint32_t *places = mem_alloc(plan->value_count * sizeof(*places)); /* by value */
    s->externals = mem_alloc(count * sizeof(*s->externals));
    if (places == NULL || s->externals == NULL) {
        mem_free(places);
        return false;
    }
    for (uint32_t v = 0; v < plan->value_count; v++)
        places[v] = GRAPH_NONE;
    uint32_t next = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        for (size_t o = 0; o < plan->steps[i].out_count; o++, next++) {
            if (plan->steps[i].out[o] != GRAPH_NONE)
                places[plan->steps[i].out[o]] = next;
        }
    }
    for (uint32_t v = 0; v < plan->value_count; v++) {
        if (is_external(&plan->values[v]))
            s->externals[s->external_count++] = (struct external){.value = v, .out = places[v]};
    }
    mem_free(places);
    return true;
}

/* Adds room for `count` items to *offset, which stays a multiple of MEM_ALIGN. */
static bool reserve(size_t *offset, size_t count, size_t item_bytes)
{
    size_t bytes;
    return mem_mul(count, item_bytes, &bytes) && mem_add(*offset, bytes, offset) &&
           mem_round_up(*offset, offset);
}

static bool map_memory(struct cvd_session *s, size_t arena_bytes)
{
    size_t slot = 0, total, scratch;
    if (!reserve(&slot, 1, sizeof(struct slot)) ||
        !reserve(&slot, s->plan->value_count, sizeof(struct op_tensor)) ||
        !reserve(&slot, s->ins, sizeof(struct op_tensor *)) ||
        !reserve(&slot, s->outs, sizeof(struct op_output)))
        return false;
    s->arena_offset = slot;
    if (!mem_add(slot, arena_bytes, &slot) || !mem_add(slot, PAGE_BYTES - 1, &slot))
        return false;
    s->slot_bytes = slot & ~(PAGE_BYTES - 1);
    unsigned threads = tpool_threads(s->model->engine->pool);
    if (!mem_round_up(s->plan->scratch_bytes, &s->scratch_stride) ||
        !mem_mul(s->slot_bytes, s->slots, &total) ||
        !mem_mul(s->scratch_stride, threads, &scratch) || !mem_add(total, scratch, &total))
        return false;
    s->memory_bytes = total;
    s->memory = mem_map(total);
    return s->memory != NULL;
}

static enum cvd_status check_batch(const struct plan *plan, int64_t max_batch,
                                   struct cvd_error *err)
{
    if (max_batch < 1)
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                             "a session for batches of %lld images; it must be at least 1",
                             (long long)max_batch);
    if (plan->fixed_batch != 0 && max_batch != plan->fixed_batch)
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                             "a session for batches of %lld images; the model's batch is always "
                             "%lld",
                             (long long)max_batch, (long long)plan->fixed_batch);
    return CVD_STATUS_OK;
}

/* Chooses the mode and the slots, and sizes everything. */
static enum cvd_status set_up(struct cvd_session *s, struct cvd_error *err)
{
    const struct plan *plan = s->plan;
    uint64_t macs = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        s->ins += plan->steps[i].in_count;
        s->outs += plan->steps[i].out_count;
        macs +=
            plan->steps[i].prepared.macs < SHARED_MACS ? plan->steps[i].prepared.macs : SHARED_MACS;
    }
    s->large = macs >= SHARED_MACS;
    s->offsets = mem_alloc(plan->buffer_count * sizeof(*s->offsets));
    if (s->offsets == NULL)
        return no_memory(err, s->max_batch);
    s->shares = plan->batchwise && s->max_batch > 1;
    s->slots = s->shares ? tpool_threads(s->model->engine->pool) : 1;
    s->share = (struct plan_batch){.images = s->max_batch, .part = s->max_batch};
    if (s->shares)
        choose_share(s);
    size_t arena_bytes;
    enum cvd_status status = plan_layout(plan, &s->share, s->offsets, &arena_bytes, err);
    if (status != CVD_STATUS_OK)
        return status;
    if (!set_strides(s) || !list_externals(s) || !map_memory(s, arena_bytes))
        return no_memory(err, s->max_batch);
    return CVD_STATUS_OK;
}

enum cvd_status cvd_session_create(const struct cvd_model *model, int64_t max_batch,
                                   struct cvd_session **out, struct cvd_error *err)
{
    enum cvd_status status = check_batch(model->plan, max_batch, err);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_session *s = mem_alloc(sizeof(*s));
    if (s == NULL)
        return no_memory(err, max_batch);
    *s = (struct cvd_session){.model = model, .plan = model->plan, .max_batch = max_batch};
    status = set_up(s, err);
    if (status != CVD_STATUS_OK)
        cvd_session_destroy(s);
    else
        *out = s;
    return status;
}

void cvd_session_destroy(struct cvd_session *session)
{
    if (session == NULL)
        return;
    mem_unmap(session->memory, session->memory_bytes);
    mem_free(session->externals);
    mem_free(session->output_strides);
    mem_free(session->input_strides);
    mem_free(session->offsets);
    mem_free(session);
}

/* ---- slots ---- */

/* Lays out the tables and connects the steps' inputs; once for each slot. */
static void slot_connect(const struct cvd_session *s, struct slot *slot)
{
    const struct plan *plan = s->plan;
    char *base = (char *)slot;
    size_t offset = 0;
    reserve(&offset, 1, sizeof(struct slot)); /* sizes that map_memory() has found to fit */
    slot->tensors = (void *)(base + offset);
    reserve(&offset, plan->value_count, sizeof(struct op_tensor));
    slot->ins = (void *)(base + offset);
    reserve(&offset, s->ins, sizeof(struct op_tensor *));
    slot->outs = (void *)(base + offset);
    slot->arena = base + s->arena_offset;

    const struct op_tensor **in = slot->ins;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        for (size_t j = 0; j < plan->steps[i].in_count; j++) {
            uint32_t v = plan->steps[i].in[j];
            *in++ = v != GRAPH_NONE ? &slot->tensors[v] : NULL;
        }
    }
}

/* Of a value in the arena; of a wide one from image `at` of the share on. */
static char *arena_data(const struct cvd_session *s, const struct slot *slot,
                        const struct plan_value *value)
{
    char *data = slot->arena + s->offsets[value->buffer] + value->offset;
    size_t one, more;
    if (slot->at == 0 || !plan_is_wide(&s->plan->buffers[value->buffer], &s->share))
        return data;
    plan_bytes(value, &one, &more);
    return data + (size_t)slot->at * more;
}

/* Sets all shapes for so many images from `at` on, and the addresses that no caller can change. */
static void slot_shape(const struct cvd_session *s, struct slot *slot, int64_t at, int64_t images)
{
    const struct plan *plan = s->plan;
    slot->at = at;
    slot->images = images;
    for (uint32_t v = 0; v < plan->value_count; v++) {
        const struct plan_value *value = &plan->values[v];
        struct op_tensor *tensor = &slot->tensors[v];
        tensor->dtype = value->dtype;
        tensor->layout = value->layout;
        plan_shape(value, images, &tensor->shape);
        tensor->data = value->place == PLAN_ARENA ? arena_data(s, slot, value) : value->data;
    }
    struct op_output *out = slot->outs;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        for (size_t j = 0; j < plan->steps[i].out_count; j++, out++) {
            uint32_t v = plan->steps[i].out[j];
            if (v == GRAPH_NONE)
                continue;
            out->dtype = plan->values[v].dtype;
            out->layout = plan->values[v].layout;
            out->shape = slot->tensors[v].shape;
            if (plan->values[v].place == PLAN_ARENA)
                out->data = arena_data(s, slot, &plan->values[v]);
        }
    }
}

/* One call of cvd_session_run(). */
struct run {
    struct cvd_session *session;
    int64_t batch;
    size_t shares;
    const void *const *inputs;
    void *const *outputs;
};

/* Points the slot's outer tensors at the caller's memory, from image `first` on. */
static void slot_attach(const struct run *run, struct slot *slot, int64_t first)
{
    const struct cvd_session *s = run->session;
    for (size_t i = 0; i < s->external_count; i++) {
        const struct external *e = &s->externals[i];
        const struct plan_value *value = &s->plan->values[e->value];
        if (value->place == PLAN_INPUT) {
            slot->tensors[e->value].data = (const char *)run->inputs[value->index] +
                                           (size_t)first * s->input_strides[value->index];
            continue;
        }
        char *data = arena_data(s, slot, value);
        if (run->outputs[value->index] != NULL)
            data = (char *)run->outputs[value->index] +
                   (size_t)first * s->output_strides[value->index];
        slot->tensors[e->value].data = data;
        if (e->out != GRAPH_NONE)
            slot->outs[e->out].data = data;
    }
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Adds the time since `begin` to a step's; returns the time now. Shares on other workers add to
 * the same numbers. */
static uint64_t add_time(uint64_t *step_ns, uint64_t begin)
{
    uint64_t end = now_ns();
    __atomic_fetch_add(step_ns, end - begin, __ATOMIC_RELAXED);
    return end;
}

/* A share, in the slot where it runs. */
struct task {
    const struct run *run;
    struct slot *slot;
    char *scratch;
    struct tpool *pool;                /* NULL: operators do not split their work */
    int64_t first;                     /* of its images in the batch */
    const struct op_tensor *const *in; /* of the next step */
    struct op_output *out;
};

/* Runs steps begin … end - 1 on images at … at + images - 1 of the share. */
static void run_steps(struct task *t, uint32_t begin, uint32_t end, int64_t at, int64_t images)
{
    const struct cvd_session *s = t->run->session;
    if (t->slot->images != images || t->slot->at != at)
        slot_shape(s, t->slot, at, images);
    slot_attach(t->run, t->slot, t->first + at);
    uint64_t time = s->layer_ns != NULL ? now_ns() : 0;
    for (uint32_t i = begin; i < end; i++) {
        const struct plan_step *step = &s->plan->steps[i];
        struct op_run op = {.state = step->prepared.state,
                            .kernels = &s->model->engine->kernels,
                            .pool = t->pool,
                            .in = t->in,
                            .in_count = step->in_count,
                            .out = t->out,
                            .out_count = step->out_count,
                            .scratch = t->scratch,
                            .scratch_stride = s->scratch_stride};
        step->def->run(&op);
        if (s->layer_ns != NULL)
            time = add_time(&s->layer_ns[i], time);
        t->in += step->in_count;
        t->out += step->out_count;
    }
}

/* Runs images first … first + images - 1 in a slot. With a pool, operators split their work. */
static void slot_run(const struct run *run, unsigned number, struct tpool *pool, int64_t first,
                     int64_t images)
{
    const struct cvd_session *s = run->session;
    struct slot *slot = (void *)(s->memory + number * s->slot_bytes);
    if (slot->images == 0)
        slot_connect(s, slot);
    struct task task = {.run = run,
                        .slot = slot,
                        .scratch = s->memory + s->slots * s->slot_bytes +
                                   (pool == NULL ? number * s->scratch_stride : 0),
                        .pool = pool,
                        .first = first,
                        .in = slot->ins,
                        .out = slot->outs};
    const int64_t parts = s->share.split > 0 ? (images - 1) / s->share.part + 1 : 0;
    for (int64_t p = 0, at = 0; p < parts; p++) {
        const int64_t part = (images - at) / (parts - p); /* parts differ by one image at most */
        task.in = slot->ins;
        task.out = slot->outs;
        run_steps(&task, 0, s->share.split, at, part);
        at += part;
    }
    if (s->share.split < s->plan->step_count)
        run_steps(&task, s->share.split, s->plan->step_count, 0, images);
}

/* ---- running ---- */

static void run_share(void *ctx, size_t share, unsigned slot)
{
    const struct run *run = ctx;
    /* Shares differ by one image at most. */
    int64_t size = run->batch / (int64_t)run->shares, larger = run->batch % (int64_t)run->shares;
    int64_t p = (int64_t)share;
    int64_t first = p * size + (p < larger ? p : larger);
    slot_run(run, slot, NULL, first, size + (p < larger));
}

/* As few shares as keep all slots equally busy and none of which is too large. */
static size_t count_shares(const struct cvd_session *s, int64_t batch)
{
    int64_t shares = (batch - 1) / s->share.images + 1;
    int64_t rounds = (shares - 1) / (int64_t)s->slots + 1;
    shares = rounds * (int64_t)s->slots;
    return (size_t)(shares < batch ? shares : batch);
}

void cvd_session_time_layers(struct cvd_session *session, uint64_t *layer_ns)
{
    session->layer_ns = layer_ns;
}

static void clear_times(const struct cvd_session *s)
{
    if (s->layer_ns != NULL)
        memset(s->layer_ns, 0, s->plan->step_count * sizeof(*s->layer_ns));
}

/* From all shares' time together to that of a worker. */
static void share_times(const struct cvd_session *s, size_t shares)
{
    uint64_t workers = shares < s->slots ? shares : s->slots;
    for (uint32_t i = 0; i < s->plan->step_count && s->layer_ns != NULL; i++)
        s->layer_ns[i] /= workers;
}

enum cvd_status cvd_session_run(struct cvd_session *session, int64_t batch,
                                const void *const *inputs, void *const *outputs,
                                struct cvd_error *err)
{
    const struct plan *plan = session->plan;
    if (batch < 1 || batch > session->max_batch ||
        (plan->fixed_batch != 0 && batch != plan->fixed_batch))
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                             "a batch of %lld images; this session runs %s%lld", (long long)batch,
                             plan->fixed_batch != 0 ? "exactly " : "1 to ",
                             (long long)session->max_batch);
    for (uint32_t i = 0; i < plan->input_count; i++) {
        if (inputs[i] == NULL)
            return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT, "input '%.96s' is missing",
                                 plan->values[plan->inputs[i]].name);
    }
    struct run run = {.session = session, .batch = batch, .inputs = inputs, .outputs = outputs};
    struct tpool *pool = session->model->engine->pool;
    clear_times(session);
    if (batch > 1 && session->shares) {
        run.shares = count_shares(session, batch);
        tpool_for(pool, run.shares, run_share, &run);
        share_times(session, run.shares);
    } else {
        uint64_t mode = cpu_denormals_flush();
        if (session->large)
            tpool_begin_loops(pool);
        slot_run(&run, 0, pool, 0, batch);
        if (session->large)
            tpool_end_loops(pool);
        cpu_denormals_restore(mode);
    }
    return CVD_STATUS_OK;
}
