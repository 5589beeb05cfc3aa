/* The plan's values and steps, made from the nodes that were selected. */
#include "engine/graph/build.h"

#include "engine/ops/blocked.h"

#include <string.h>

/* ---- the copy step ---- */

static void copy_run(const struct op_run *r)
{
    size_t elements;
    if (r->out[0].data != NULL && cvd_shape_elements(&r->out[0].shape, &elements) && elements > 0)
        memcpy(r->out[0].data, r->in[0]->data, elements * cvd_dtype_bytes(r->out[0].dtype));
}

const struct op_def build_copy = {
    .domain = "convd",
    .name = "Copy",
    .flags = OP_BATCHWISE,
    .min_inputs = 1,
    .max_inputs = 1,
    .min_outputs = 1,
    .max_outputs = 1,
    .run = copy_run,
};

/* ---- values ---- */

static char *copied(const struct build *b, const char *text)
{
    return mem_arena_strndup(b->plan->arena, text, strlen(text));
}

/* A new plan value that looks like graph value v; false when there is no memory. */
static bool new_value(struct build *b, uint32_t v, uint32_t *out)
{
    struct plan *plan = b->plan;
    uint32_t number = plan->value_count++;
    struct plan_value *value = &plan->values[number];
    const struct op_value *one = &b->one.values[v];
    value->name = copied(b, infer_value_name(b->g, v));
    value->dtype = one->dtype;
    value->shape1 = one->shape;
    /* A constant may have been examined in the first pass only. */
    value->shape2 =
        b->free_batch && b->kinds[v] != BUILD_CONSTANT ? b->two.values[v].shape : one->shape;
    value->place = PLAN_ABSENT;
    value->layout = one->layout;
    b->roots[number] = number;
    *out = number;
    return value->name != NULL;
}

static bool value_of(struct build *b, uint32_t v, uint32_t *out);

/* Gives a map that is a part of another its place there. */
static bool join_whole(struct build *b, uint32_t v)
{
    const struct graph_value *from = &b->g->values[v];
    uint32_t part = b->plan_values[v], whole;
    struct blocked_map map;
    if (!value_of(b, from->whole, &whole))
        return false;
    if (blocked_map(&b->plan->values[part].shape1, from->layout, &map))
        b->plan->values[part].offset = from->first_block * map.block * sizeof(float);
    b->roots[part] = whole;
    return true;
}

/* The plan value of v, which is new when v is a constant that no step has used yet, or a map that
 * so far only parts of have been met. */
static bool value_of(struct build *b, uint32_t v, uint32_t *out)
{
    if (b->plan_values[v] == GRAPH_NONE) {
        if (!new_value(b, v, &b->plan_values[v]) ||
            (b->g->values[v].whole != GRAPH_NONE && !join_whole(b, v)))
            return false;
        if (b->kinds[v] == BUILD_CONSTANT)
            b->plan->values[b->plan_values[v]].place = PLAN_CONSTANT;
    }
    *out = b->plan_values[v];
    return true;
}

/* ---- steps ---- */

/* The output of a view: other shape, same memory. */
static bool emit_view(struct build *b, const struct graph_node *node)
{
    uint32_t from, to;
    if (node->out[0] == GRAPH_NONE || !b->needed[node->out[0]] ||
        b->kinds[node->out[0]] != BUILD_RUNTIME)
        return true; /* the view is there for its other outputs */
    if (!value_of(b, node->in[0], &from) || !value_of(b, node->out[0], &to))
        return false;
    b->roots[to] = b->roots[from];
    return true;
}

static bool emit_step(struct build *b, uint32_t n)
{
    const struct graph_node *node = &b->g->nodes[n];
    struct plan *plan = b->plan;
    struct plan_step *step = &plan->steps[plan->step_count];
    uint32_t *in = mem_arena_alloc(plan->arena, node->in_count * sizeof(*in));
    uint32_t *out = mem_arena_alloc(plan->arena, node->out_count * sizeof(*out));
    step->name = copied(b, infer_node_name(b->g, n));
    if (in == NULL || out == NULL || step->name == NULL)
        return false;
    for (size_t i = 0; i < node->in_count; i++) {
        uint32_t v = node->in[i];
        in[i] = GRAPH_NONE;
        if (v == GRAPH_NONE)
            continue;
        if (!value_of(b, v, &in[i]))
            return false;
        if (b->kinds[v] == BUILD_CONSTANT)
            b->inf.blocks[b->one.blocks[v]].uses++;
    }
    bool view = b->inf.defs[n]->flags & OP_VIEW;
    for (size_t i = 0; i < node->out_count; i++) {
        out[i] = GRAPH_NONE;
        if (node->out[i] != GRAPH_NONE && !(view && i == 0) && !value_of(b, node->out[i], &out[i]))
            return false;
    }
    step->def = b->inf.defs[n];
    step->label = node->label != NULL ? copied(b, node->label) : step->def->name;
    if (step->label == NULL)
        return false;
    step->in = in;
    step->in_count = node->in_count;
    step->out = out;
    step->out_count = node->out_count;
    b->step_nodes[plan->step_count++] = n;
    return true;
}

/* A step that brings graph output v, plan value `from`, to the caller's memory as `to`. */
static bool emit_copy(struct build *b, uint32_t v, uint32_t from, uint32_t *to)
{
    struct plan *plan = b->plan;
    struct plan_step *step = &plan->steps[plan->step_count];
    uint32_t *ends = mem_arena_alloc(plan->arena, 2 * sizeof(*ends));
    if (ends == NULL || !new_value(b, v, to))
        return false;
    ends[0] = from;
    ends[1] = *to;
    *step = (struct plan_step){.def = &build_copy,
                               .name = plan->values[*to].name,
                               .label = build_copy.name,
                               .prepared = {.kernel = "memcpy"},
                               .in = &ends[0],
                               .in_count = 1,
                               .out = &ends[1],
                               .out_count = 1};
    if (b->kinds[v] == BUILD_CONSTANT) {
        struct infer_block *block = &b->inf.blocks[b->one.blocks[v]];
        block->uses++;
        block->kept = true;
    }
    b->step_nodes[plan->step_count++] = GRAPH_NONE;
    return true;
}

/* Graph output i: some step's result, written to the caller's memory at once, unless that memory
 * cannot be the value's: it is an input, a constant, or part of another output already. */
static bool emit_output(struct build *b, uint32_t i, bool *taken)
{
    uint32_t v = b->g->outputs[i], value;
    if (!value_of(b, v, &value))
        return false;
    uint32_t root = b->roots[value];
    if (b->plan->values[root].place != PLAN_ABSENT || taken[root]) {
        if (!emit_copy(b, v, value, &value))
            return false;
        root = value;
    }
    taken[root] = true;
    b->plan->outputs[i] = value;
    return true;
}

/* ---- all of it ---- */

/* Rooms for the most that can be emitted. */
static bool make_room(struct build *b)
{
    const struct graph *g = b->g;
    struct plan *plan = b->plan;
    size_t values = (size_t)g->input_count + g->output_count, steps = g->output_count;
    for (uint32_t v = 0; v < g->value_count; v++)
        values += b->needed[v];
    for (uint32_t n = 0; n < g->node_count; n++) {
        if (b->is_live[n]) {
            values += g->nodes[n].out_count;
            steps++;
        }
    }
    plan->values = mem_arena_alloc(plan->arena, values * sizeof(*plan->values));
    plan->steps = mem_arena_alloc(plan->arena, steps * sizeof(*plan->steps));
    plan->inputs = mem_arena_alloc(plan->arena, g->input_count * sizeof(*plan->inputs));
    plan->outputs = mem_arena_alloc(plan->arena, g->output_count * sizeof(*plan->outputs));
    b->roots = mem_alloc(values * sizeof(*b->roots));
    b->step_nodes = mem_alloc(steps * sizeof(*b->step_nodes));
    return plan->values != NULL && plan->steps != NULL && plan->inputs != NULL &&
           plan->outputs != NULL && b->roots != NULL && b->step_nodes != NULL;
}

static bool emit_all(struct build *b, bool *taken)
{
    const struct graph *g = b->g;
    struct plan *plan = b->plan;
    plan->input_count = g->input_count;
    plan->output_count = g->output_count;
    for (uint32_t i = 0; i < g->input_count; i++) {
        uint32_t value;
        if (!value_of(b, g->inputs[i], &value))
            return false;
        plan->values[value].place = PLAN_INPUT;
        plan->values[value].index = i;
        plan->inputs[i] = value;
    }
    for (uint32_t n = 0; n < g->node_count; n++) {
        if (!b->is_live[n])
            continue;
        if (((b->inf.defs[n]->flags & OP_VIEW) && !emit_view(b, &g->nodes[n])) ||
            (build_runs(b, n) && !emit_step(b, n)))
            return false;
    }
    for (uint32_t i = 0; i < g->output_count; i++) {
        if (!emit_output(b, i, taken))
            return false;
    }
    return true;
}

enum cvd_status build_emit(struct build *b)
{
    if (!make_room(b))
        return build_no_memory(b);
    size_t values = (size_t)b->g->value_count + b->g->output_count;
    bool *taken = mem_alloc(values * sizeof(*taken)); /* by root */
    if (taken == NULL)
        return build_no_memory(b);
    memset(taken, 0, values * sizeof(*taken));
    for (uint32_t v = 0; v < b->g->value_count; v++)
        b->plan_values[v] = GRAPH_NONE;
    bool done = emit_all(b, taken);
    mem_free(taken);
    return done ? CVD_STATUS_OK : build_no_memory(b);
}
