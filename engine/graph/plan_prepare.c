/* Packing: every step's operator gets its constants, which are freed as soon as none needs them. */
#include "engine/graph/build.h"

#include <math.h>

/* ---- finite numbers ---- */

/* The first of count float32 elements whose exponent is all ones, or count. Blocks are looked at as
 * a whole first, which compilers vectorise. */
static size_t first_nonfinite(const uint32_t *x, size_t count)
{
    const uint32_t mask = 0x7f800000u;
    for (size_t begin = 0; begin < count; begin += 1024) {
        size_t end = count - begin < 1024 ? count : begin + 1024;
        unsigned found = 0;
        for (size_t i = begin; i < end; i++)
            found |= (x[i] & mask) == mask;
        for (size_t i = begin; found != 0 && i < end; i++) {
            if ((x[i] & mask) == mask)
                return i;
        }
    }
    return count;
}

/* A lone infinity is no weight but a limit (of a Clip) or what padding holds; NaN is never meant.
 */
static enum cvd_status check_finite(const struct build *b, uint32_t v)
{
    struct infer_block *block = &b->inf.blocks[b->one.blocks[v]];
    const struct op_value *value = &b->one.values[v];
    size_t count;
    if (block->checked || b->allow_nonfinite || value->dtype != CVD_DTYPE_FLOAT32 ||
        !cvd_shape_elements(&value->shape, &count))
        return CVD_STATUS_OK;
    block->checked = true;
    size_t index = first_nonfinite(value->data, count);
    if (index == count || (count == 1 && isinf(*(const float *)value->data)))
        return CVD_STATUS_OK;
    return cvd_error_set(b->err, CVD_STATUS_INVALID_MODEL,
                         "weights '%.96s': element %zu is not a finite number",
                         infer_value_name(b->g, v), index);
}

/* ---- steps ---- */

static void free_block(struct infer_block *block)
{
    mem_free(block->data);
    block->data = NULL;
}

/* Books one use of the constant v as done. */
static void done_with(struct build *b, uint32_t v, bool consumed)
{
    struct infer_block *block = &b->inf.blocks[b->one.blocks[v]];
    block->kept |= !consumed;
    if (--block->uses == 0 && !block->kept)
        free_block(block);
}

static enum cvd_status prepare_step(struct build *b, struct plan_step *step, uint32_t n)
{
    const struct graph_node *gn = &b->g->nodes[n];
    struct infer *inf = &b->inf;
    for (size_t i = 0; i < gn->in_count; i++) {
        uint32_t v = gn->in[i];
        inf->in[i] = v != GRAPH_NONE ? &b->one.values[v] : NULL;
        if (v != GRAPH_NONE && b->kinds[v] == BUILD_CONSTANT) {
            enum cvd_status status = check_finite(b, v);
            if (status != CVD_STATUS_OK)
                return status;
        }
    }
    for (size_t i = 0; i < gn->out_count; i++)
        inf->out[i] = gn->out[i] != GRAPH_NONE ? b->one.values[gn->out[i]] : (struct op_value){0};
    struct op_node node = {.def = step->def,
                           .name = step->name,
                           .opset = inf->opsets[n],
                           .attrs = gn->attrs,
                           .attr_count = gn->attr_count,
                           .in = inf->in,
                           .in_count = gn->in_count,
                           .out_count = gn->out_count,
                           .err = b->err};
    enum cvd_status status = CVD_STATUS_OK;
    step->prepared.memory = b->plan->states;
    if (step->def->prepare != NULL)
        status = step->def->prepare(&node, inf->out, b->kernels, &step->prepared);
    if (status != CVD_STATUS_OK)
        return status;
    if (step->prepared.kernel == NULL)
        step->prepared.kernel = "-";
    if (step->prepared.scratch_bytes > b->plan->scratch_bytes)
        b->plan->scratch_bytes = step->prepared.scratch_bytes;
    for (size_t i = 0; i < gn->in_count; i++) {
        uint32_t v = gn->in[i];
        if (v != GRAPH_NONE && b->kinds[v] == BUILD_CONSTANT)
            done_with(b, v, i < 64 && (step->prepared.inputs_consumed >> i & 1));
    }
    return CVD_STATUS_OK;
}

/* ---- what is left of the constants ---- */

static enum cvd_status keep_blocks(struct build *b)
{
    struct plan *plan = b->plan;
    struct infer *inf = &b->inf;
    size_t kept = 0;
    for (uint32_t i = 0; i < inf->block_count; i++)
        kept += inf->blocks[i].data != NULL;
    plan->blocks = mem_arena_alloc(plan->arena, kept * sizeof(*plan->blocks));
    if (plan->blocks == NULL)
        return build_no_memory(b);
    for (uint32_t v = 0; v < b->g->value_count; v++) {
        uint32_t number = b->plan_values[v];
        if (number != GRAPH_NONE && plan->values[number].place == PLAN_CONSTANT)
            plan->values[number].data = inf->blocks[b->one.blocks[v]].data;
    }
    for (uint32_t i = 0; i < inf->block_count; i++) {
        if (inf->blocks[i].data == NULL)
            continue;
        plan->blocks[plan->block_count++] = inf->blocks[i].data;
        plan->block_bytes += inf->blocks[i].bytes;
        inf->blocks[i].data = NULL;
    }
    return CVD_STATUS_OK;
}

enum cvd_status build_prepare(struct build *b)
{
    for (uint32_t i = 0; i < b->inf.block_count; i++) {
        if (b->inf.blocks[i].uses == 0) /* folding has used it up */
            free_block(&b->inf.blocks[i]);
    }
    for (uint32_t s = 0; s < b->plan->step_count; s++) {
        if (b->step_nodes[s] == GRAPH_NONE)
            continue;
        enum cvd_status status = prepare_step(b, &b->plan->steps[s], b->step_nodes[s]);
        if (status != CVD_STATUS_OK)
            return status;
    }
    return keep_blocks(b);
}
