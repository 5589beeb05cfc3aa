/* Building and destroying plans; the stages are in the other plan_*.c. */
#include "engine/graph/plan.h"

#include "engine/graph/build.h"
#include "engine/graph/passes.h"
#include "engine/ops/blocked.h"
#include "engine/runtime/cpu.h"

#include <assert.h>
#include <string.h>

/* Shapes are worked out for one image, for two, and for so many, which must lie on the line through
 * the first two. Far enough to notice what only looks linear for a few images (a slice of the first
 * four of them). */
#define MANY_IMAGES 67

const struct infer_budget build_budget = {.bytes = SIZE_MAX, .work = UINT64_MAX};

enum cvd_status build_no_memory(const struct build *b)
{
    return cvd_error_set(b->err, CVD_STATUS_OUT_OF_MEMORY, "no memory to plan the model");
}

void build_forget(struct build *b)
{
    b->budget = b->inf.budget;
    infer_release(&b->inf);
    infer_pass_release(&b->one);
    infer_pass_release(&b->two);
    infer_pass_release(&b->many);
}

static void build_release(struct build *b)
{
    build_forget(b);
    mem_free(b->kinds);
    mem_free(b->needed);
    mem_free(b->is_live);
    mem_free(b->plan_values);
    mem_free(b->roots);
    mem_free(b->step_nodes);
}

/* ---- what the end of the graph says ---- */

/* Extent over which a Softmax node sums, per image; 0 when it does not say, or sums over images.
 * Before opset 13 it took everything from `axis` on as one dimension. */
static int64_t softmax_extent(const struct build *b, uint32_t n)
{
    const struct graph_node *node = &b->g->nodes[n];
    const struct cvd_shape *shape = &b->one.values[node->in[0]].shape;
    bool flattens = b->inf.opsets[n] < 13;
    int64_t axis = flattens ? 1 : -1;
    for (size_t i = 0; i < node->attr_count; i++) {
        if (strcmp(node->attrs[i].name, "axis") == 0)
            axis = node->attrs[i].i;
    }
    unsigned first;
    if (!op_axis(axis, shape->rank, &first) || (first == 0 && shape->rank > 1))
        return 0;
    int64_t extent = 1;
    for (unsigned d = first; d < (flattens ? shape->rank : first + 1); d++)
        extent *= shape->dims[d];
    return extent;
}

bool build_ends_in_softmax(const struct build *b)
{
    const struct graph *g = b->g;
    uint32_t v = g->outputs[0];
    int64_t images = b->plan->fixed_batch != 0 ? b->plan->fixed_batch : 1;
    size_t elements;
    if (!cvd_shape_elements(&b->one.values[v].shape, &elements))
        return false;
    /* Nodes are in topological order: the one that makes v stands before all that read it. */
    for (uint32_t n = g->node_count; n-- > 0;) {
        const struct graph_node *node = &g->nodes[n];
        if (b->inf.defs[n] == NULL || node->out[0] != v)
            continue;
        if ((b->inf.defs[n]->flags & OP_VIEW) || strcmp(b->inf.defs[n]->name, "Cast") == 0)
            v = node->in[0];
        else
            return strcmp(b->inf.defs[n]->name, "Softmax") == 0 &&
                   (b->inf.defs[n]->domain[0] == '\0' ||
                    strcmp(b->inf.defs[n]->domain, BLOCKED_DOMAIN) == 0) &&
                   (size_t)(softmax_extent(b, n) * images) == elements;
    }
    return false;
}

/* ---- stages ---- */

static enum cvd_status infer_batch(struct build *b, int64_t batch, const struct infer_pass *first,
                                   struct infer_pass *pass)
{
    size_t count = b->g->input_count;
    struct cvd_shape *shapes = mem_alloc(count * sizeof(*shapes));
    if (shapes == NULL)
        return build_no_memory(b);
    build_input_shapes(b, batch, shapes);
    enum cvd_status status = infer_run(&b->inf, batch, shapes, first, pass, b->err);
    mem_free(shapes);
    return status;
}

static enum cvd_status infer_first(struct build *b)
{
    enum cvd_status status = infer_init(&b->inf, b->g, b->kernels, &b->budget, b->err);
    return status == CVD_STATUS_OK ? infer_batch(b, 1, NULL, &b->one) : status;
}

static enum cvd_status infer_others(struct build *b)
{
    if (!b->free_batch)
        return CVD_STATUS_OK;
    enum cvd_status status = infer_batch(b, 2, &b->one, &b->two);
    return status == CVD_STATUS_OK ? infer_batch(b, MANY_IMAGES, &b->one, &b->many) : status;
}

enum cvd_status build_infer(struct build *b)
{
    enum cvd_status status = infer_first(b);
    return status == CVD_STATUS_OK ? infer_others(b) : status;
}

/* An array of `count` zeros; NULL when there is no memory. */
static void *zeroed(size_t count, size_t item_bytes)
{
    void *block = mem_alloc(count * item_bytes);
    return block != NULL ? memset(block, 0, count * item_bytes) : NULL;
}

static enum cvd_status make_room(struct build *b)
{
    b->plan = zeroed(1, sizeof(*b->plan));
    if (b->plan != NULL) {
        b->plan->arena = mem_arena_create();
        b->plan->states = mem_arena_create_large();
    }
    b->kinds = zeroed(b->g->value_count, sizeof(*b->kinds));
    b->needed = zeroed(b->g->value_count, sizeof(*b->needed));
    b->plan_values = zeroed(b->g->value_count, sizeof(*b->plan_values));
    b->is_live = zeroed(b->g->node_count, sizeof(*b->is_live));
    if (b->plan == NULL || b->plan->arena == NULL || b->plan->states == NULL || b->kinds == NULL ||
        b->needed == NULL || b->plan_values == NULL || b->is_live == NULL)
        return build_no_memory(b);
    return CVD_STATUS_OK;
}

/* Whether some input's batch is free. */
static bool has_free_batch(const struct graph *g)
{
    for (uint32_t i = 0; i < g->input_count; i++) {
        const struct cvd_shape *shape = &g->values[g->inputs[i]].shape;
        if (shape->rank > 0 && shape->dims[0] == CVD_DIM_BATCH)
            return true;
    }
    return false;
}

/* Gives up a batch that was freed on trial. */
static void fix_batch(struct build *b)
{
    infer_pass_release(&b->two);
    infer_pass_release(&b->many);
    for (uint32_t i = 0; i < b->g->input_count; i++) {
        struct cvd_shape *shape = &b->g->values[b->g->inputs[i]].shape;
        if (shape->rank > 0 && shape->dims[0] == CVD_DIM_BATCH)
            shape->dims[0] = 1;
    }
    memset(b->kinds, 0, b->g->value_count * sizeof(*b->kinds));
    memset(b->needed, 0, b->g->value_count * sizeof(*b->needed));
    memset(b->is_live, 0, b->g->node_count * sizeof(*b->is_live));
    b->free_batch = b->freed = false;
}

/* Infers all values and selects what is to run. */
static enum cvd_status examine(struct build *b)
{
    struct cvd_error *err = b->err;
    enum cvd_status status = infer_first(b);
    if (status != CVD_STATUS_OK)
        return status;
    b->err = b->freed ? NULL : err; /* what speaks against a trial is no error */
    status = infer_others(b);
    if (status == CVD_STATUS_OK)
        status = build_select(b);
    b->err = err;
    if (status == CVD_STATUS_OK || !b->freed)
        return status;
    if (status == CVD_STATUS_OUT_OF_MEMORY)
        return build_no_memory(b);
    fix_batch(b);
    return build_select(b);
}

/* A plan that was made for any batch, for a batch of one. */
static void fix_plan(struct plan *plan)
{
    plan->fixed_batch = 1;
    for (uint32_t v = 0; v < plan->value_count; v++)
        plan->values[v].shape2 = plan->values[v].shape1;
    for (uint32_t i = 0; i < plan->buffer_count; i++)
        plan->buffers[i].bytes_more = 0;
}

static enum cvd_status build_plan(struct build *b, const struct cvd_load_options *options)
{
    int64_t fixed_batch;
    enum cvd_status status;
    if ((status = build_bind_constants(b, options)) ||
        (status = build_check_inputs(b, &fixed_batch)) ||
        (status = build_widen(b, options != NULL && options->float32_edges)))
        return status;
    if (options == NULL || !options->as_written) {
        if ((status = passes_apply(b, passes_all)))
            return status;
        b->freed = !b->free_batch && has_free_batch(b->g);
        b->free_batch |= b->freed;
    }
    if ((status = make_room(b)) || (status = examine(b)) || (status = build_emit(b)) ||
        (status = build_prepare(b)) || (status = build_place(b)))
        return status;
    b->plan->fixed_batch = b->free_batch ? 0 : fixed_batch;
    b->plan->batchwise = build_is_batchwise(b->plan);
    b->plan->ends_in_softmax = build_ends_in_softmax(b);
    if (b->freed && !b->plan->batchwise)
        fix_plan(b->plan);
    size_t *offsets = mem_alloc(b->plan->buffer_count * sizeof(*offsets));
    const struct plan_batch one = {.images = 1, .part = 1};
    status = offsets != NULL ? plan_layout(b->plan, &one, offsets, &b->plan->arena_bytes, b->err)
                             : build_no_memory(b);
    mem_free(offsets);
    if (status == CVD_STATUS_OK && b->plan->arena_bytes > PLAN_MAX_BYTES)
        status = cvd_error_set(b->err, CVD_STATUS_UNSUPPORTED,
                               "intermediate results take %zu MiB; at most %zu are supported",
                               b->plan->arena_bytes >> 20, PLAN_MAX_BYTES >> 20);
    return status;
}

enum cvd_status plan_build(struct graph *g, const struct kernels *kernels,
                           const struct cvd_load_options *options, struct tune *tune,
                           struct plan **out, struct cvd_error *err)
{
    struct build b = {.g = g,
                      .kernels = kernels,
                      .tune = tune,
                      .budget = build_budget,
                      .allow_nonfinite = options != NULL && options->allow_nonfinite,
                      .err = err};
    /* Folding must round as running does. */
    uint64_t mode = cpu_denormals_flush();
    enum cvd_status status = build_plan(&b, options);
    cpu_denormals_restore(mode);
    if (status == CVD_STATUS_OK)
        *out = b.plan;
    else
        plan_destroy(b.plan);
    build_release(&b);
    return status;
}

void plan_destroy(struct plan *plan)
{
    if (plan == NULL)
        return;
    for (uint32_t i = 0; i < plan->block_count; i++)
        mem_free(plan->blocks[i]);
    mem_arena_destroy(plan->states);
    mem_arena_destroy(plan->arena);
    mem_free(plan);
}

/* ---- shapes ---- */

void plan_shape(const struct plan_value *v, int64_t batch, struct cvd_shape *out)
{
    *out = v->shape1;
    for (unsigned d = 0; d < out->rank; d++) {
        int64_t more;
        /* Sessions have checked that their sizes fit; for any other batch this is only shown. */
        if (__builtin_mul_overflow(v->shape2.dims[d] - v->shape1.dims[d], batch - 1, &more) ||
            __builtin_add_overflow(out->dims[d], more, &out->dims[d]))
            out->dims[d] = INT64_MAX;
    }
}

static size_t shape_bytes(const struct plan_value *v, const struct cvd_shape *shape)
{
    size_t elements = 0, bytes = 0;
    bool fits = blocked_elements(shape, v->layout, &elements) &&
                mem_mul(elements, cvd_dtype_bytes(v->dtype), &bytes);
    assert(fits); /* or it would not have been built */
    (void)fits;
    return bytes;
}

void plan_bytes(const struct plan_value *v, size_t *bytes1, size_t *bytes_more)
{
    *bytes1 = shape_bytes(v, &v->shape1);
    *bytes_more = shape_bytes(v, &v->shape2) - *bytes1;
}
