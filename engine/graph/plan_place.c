/* Places: which values share memory, and from when to when each piece of it is in use. */
#include "engine/graph/build.h"

#include <string.h>

#define NO_OUTPUT UINT32_MAX
#define NO_BUFFER UINT32_MAX
#define NOT_YET   UINT32_MAX

/* Memory is named by the plan value that owns it, its "home": that of a view is where its root is,
 * that of an operator working in place is its input's. */
struct place {
    struct build *b;
    uint32_t *homes;   /* by root */
    uint32_t *first;   /* by home: the step that writes it */
    uint32_t *last;    /* by home: the last step that uses it; step_count: the caller does */
    uint32_t *output;  /* by home: the graph output that it is, or NO_OUTPUT */
    uint32_t *buffers; /* by home */
};

static uint32_t home_of(const struct place *p, uint32_t value)
{
    return p->homes[p->b->roots[value]];
}

/* Steps write values of the arena and of the caller's outputs from `first` on, and read them until
 * `last`. A map whose parts are computed one by one is there from the first of them on. */
static void find_last_uses(struct place *p)
{
    const struct plan *plan = p->b->plan;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const struct plan_step *step = &plan->steps[s];
        for (size_t i = 0; i < step->out_count; i++) {
            if (step->out[i] == GRAPH_NONE)
                continue;
            uint32_t root = p->b->roots[step->out[i]];
            if (p->first[root] == NOT_YET)
                p->first[root] = s;
            p->last[root] = s;
        }
        for (size_t i = 0; i < step->in_count; i++) {
            if (step->in[i] != GRAPH_NONE)
                p->last[p->b->roots[step->in[i]]] = s;
        }
    }
    for (uint32_t i = 0; i < plan->output_count; i++) {
        uint32_t root = p->b->roots[plan->outputs[i]];
        p->last[root] = plan->step_count;
        p->output[root] = i;
    }
}

/* Whether the elements of two maps that lie in one place would lie in the same places. Parts do
 * not: their whole is there for longer than they are. */
static bool same_layout(const struct plan_value *a, const struct plan_value *b)
{
    return a->layout.lanes == b->layout.lanes && a->layout.gap == b->layout.gap &&
           a->layout.blocks == 0 && b->layout.blocks == 0;
}

/* Whether step s may write its output over its first input: nobody needs that any longer, and no
 * other input lies in the same memory. */
static bool can_overwrite(const struct place *p, uint32_t s)
{
    const struct plan *plan = p->b->plan;
    const struct plan_step *step = &plan->steps[s];
    if (!(step->def->flags & OP_INPLACE) || step->in_count == 0 || step->in[0] == GRAPH_NONE ||
        step->out[0] == GRAPH_NONE)
        return false;
    const struct plan_value *in = &plan->values[step->in[0]], *out = &plan->values[step->out[0]];
    if (in->dtype != out->dtype || !cvd_shape_equal(&in->shape1, &out->shape1) ||
        !cvd_shape_equal(&in->shape2, &out->shape2) || !same_layout(in, out))
        return false;
    uint32_t root = p->b->roots[step->in[0]], home = p->homes[root];
    if (plan->values[root].place != PLAN_ABSENT || p->last[home] != s)
        return false;
    for (size_t i = 1; i < step->in_count; i++) {
        if (step->in[i] != GRAPH_NONE && home_of(p, step->in[i]) == home)
            return false;
    }
    return true;
}

/* In the order of the steps, so that an input's home is final when its output takes it over. */
static void share_in_place(struct place *p)
{
    const struct plan *plan = p->b->plan;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        if (!can_overwrite(p, s))
            continue;
        uint32_t out = plan->steps[s].out[0], home = home_of(p, plan->steps[s].in[0]);
        p->homes[out] = home;
        p->last[home] = p->last[out];
        p->output[home] = p->output[out];
    }
}

/* A value is in memory when some step or the caller reads it; an output of a step that nobody reads
 * has its first step for its last one. */
static bool is_read(const struct place *p, uint32_t home)
{
    return p->first[home] != NOT_YET && p->last[home] > p->first[home];
}

static bool add_buffers(struct place *p)
{
    struct plan *plan = p->b->plan;
    uint32_t count = 0;
    for (uint32_t v = 0; v < plan->value_count; v++) {
        p->buffers[v] = NO_BUFFER;
        if (p->b->roots[v] == v && p->homes[v] == v && plan->values[v].place == PLAN_ABSENT &&
            is_read(p, v))
            p->buffers[v] = count++;
    }
    plan->buffers = mem_arena_alloc(plan->arena, count * sizeof(*plan->buffers));
    if (plan->buffers == NULL)
        return false;
    plan->buffer_count = count;
    for (uint32_t v = 0; v < plan->value_count; v++) {
        if (p->buffers[v] == NO_BUFFER)
            continue;
        struct plan_buffer *buffer = &plan->buffers[p->buffers[v]];
        plan_bytes(&plan->values[v], &buffer->bytes1, &buffer->bytes_more);
        buffer->first = p->first[v];
        buffer->last = p->last[v];
    }
    return true;
}

/* Values that are not sources themselves take the place of their root or home. */
static void set_places(struct place *p)
{
    struct plan *plan = p->b->plan;
    for (uint32_t v = 0; v < plan->value_count; v++) {
        struct plan_value *value = &plan->values[v];
        const struct plan_value *root = &plan->values[p->b->roots[v]];
        if (root->place == PLAN_INPUT || root->place == PLAN_CONSTANT) {
            value->place = root->place;
            value->index = root->index;
            value->data = root->data;
        }
    }
    for (uint32_t v = 0; v < plan->value_count; v++) {
        struct plan_value *value = &plan->values[v];
        uint32_t home = home_of(p, v);
        if (value->place != PLAN_ABSENT || p->buffers[home] == NO_BUFFER)
            continue;
        value->buffer = p->buffers[home];
        value->place = p->output[home] == NO_OUTPUT ? PLAN_ARENA : PLAN_OUTPUT;
        value->index = p->output[home] == NO_OUTPUT ? 0 : p->output[home];
    }
}

enum cvd_status build_place(struct build *b)
{
    size_t count = b->plan->value_count;
    uint32_t *numbers = mem_alloc(5 * count * sizeof(*numbers));
    if (numbers == NULL)
        return build_no_memory(b);
    struct place p = {.b = b,
                      .homes = numbers,
                      .first = numbers + count,
                      .last = numbers + 2 * count,
                      .output = numbers + 3 * count,
                      .buffers = numbers + 4 * count};
    for (uint32_t v = 0; v < count; v++) {
        p.homes[v] = v;
        p.first[v] = NOT_YET;
        p.last[v] = 0;
        p.output[v] = NO_OUTPUT;
    }
    find_last_uses(&p);
    share_in_place(&p);
    bool done = add_buffers(&p);
    if (done)
        set_places(&p);
    mem_free(numbers);
    return done ? CVD_STATUS_OK : build_no_memory(b);
}

/* ---- whole images ---- */

static bool varies(const struct plan_value *v)
{
    return !cvd_shape_equal(&v->shape1, &v->shape2);
}

/* Extents of dimension 0 for each image, when the images stand there one after the other; 0 when
 * they do not. */
static int64_t image_rows(const struct plan_value *v)
{
    if (v->shape1.rank == 0 || v->shape2.dims[0] != 2 * v->shape1.dims[0])
        return 0;
    for (unsigned d = 1; d < v->shape1.rank; d++) {
        if (v->shape1.dims[d] != v->shape2.dims[d])
            return 0;
    }
    return v->shape1.dims[0];
}

/* Whether the step computes what belongs to an image from that image, or does not touch images. */
static bool step_is_batchwise(const struct plan *plan, const struct plan_step *step)
{
    int64_t rows = 0;
    bool images = false, plain = false;
    for (size_t i = 0; i < step->in_count + step->out_count; i++) {
        bool is_output = i >= step->in_count;
        uint32_t number = is_output ? step->out[i - step->in_count] : step->in[i];
        if (number == GRAPH_NONE)
            continue;
        const struct plan_value *v = &plan->values[number];
        if (!varies(v)) {
            plain |= is_output;
            continue;
        }
        int64_t r = image_rows(v);
        if (r == 0 || (images && r != rows))
            return false;
        rows = r;
        images = true;
    }
    return !images || (!plain && (step->def->flags & OP_BATCHWISE) && !step->prepared.mixes_images);
}

bool build_is_batchwise(const struct plan *plan)
{
    if (plan->fixed_batch != 0)
        return false;
    /* Views are not steps, but what they make is the input of one, or an output. */
    for (uint32_t s = 0; s < plan->step_count; s++) {
        if (!step_is_batchwise(plan, &plan->steps[s]))
            return false;
    }
    for (uint32_t i = 0; i < plan->output_count; i++) {
        if (image_rows(&plan->values[plan->outputs[i]]) == 0)
            return false;
    }
    return true;
}
