/* Shapes, types and known elements of a graph's values, node by node, for one batch size. */
#include "engine/graph/infer.h"

#include "engine/ops/blocked.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Folding may produce so much more than the initializers it starts from (int8 weights become
 * float32 ones), and touch each of their bytes so often, which takes about a second for the least
 * of models; what is beyond it is left to be computed when the model runs. */
#define FOLD_GROWTH    4
#define FOLD_MIN_BYTES ((size_t)64 << 20)
#define FOLD_EFFORT    4
#define FOLD_MIN_WORK  ((uint64_t)1 << 28)

/* What is as small as a shape is always folded: without it many a model could not be planned. */
#define FOLD_FREE_BYTES (CVD_MAX_RANK * sizeof(int64_t))

/* Versions tried to tell a reader which ones an operator is implemented for. */
#define OPSET_PROBES 64

const char *infer_value_name(const struct graph *g, uint32_t value)
{
    const char *name = g->values[value].name;
    return name != NULL ? name : "";
}

const char *infer_node_name(const struct graph *g, uint32_t node)
{
    const struct graph_node *n = &g->nodes[node];
    if (n->name[0] != '\0')
        return n->name;
    for (size_t i = 0; i < n->out_count; i++) {
        if (n->out[i] != GRAPH_NONE)
            return infer_value_name(g, n->out[i]);
    }
    return "";
}

static enum cvd_status no_memory(struct cvd_error *err)
{
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory to examine the model");
}

/* A zeroed array of count items; NULL when there is no memory. */
static void *zeroed(size_t count, size_t item_bytes)
{
    size_t bytes;
    void *block = mem_mul(count, item_bytes, &bytes) ? mem_alloc(bytes) : NULL;
    if (block != NULL)
        memset(block, 0, bytes);
    return block;
}

/* ---- operators ---- */

/* The operator exists, but not in the version that the model asks for: says which ones there are.
 */
static enum cvd_status wrong_opset(const struct graph_node *node, int opset, struct cvd_error *err)
{
    int first = 0, last = 0;
    bool known;
    for (int v = 1; v <= OPSET_PROBES; v++) {
        if (op_find(node->domain, node->op, v, &known) != NULL) {
            first = first != 0 ? first : v;
            last = v;
        }
    }
    char range[40];
    if (last == OPSET_PROBES)
        snprintf(range, sizeof(range), "%d and later", first);
    else
        snprintf(range, sizeof(range), "%d to %d", first, last);
    return cvd_error_set(err, CVD_STATUS_UNSUPPORTED,
                         "operator '%.64s' (domain '%.64s', opset %d) is not implemented in that "
                         "version; implemented are opsets %s",
                         node->op, node->domain, opset, range);
}

static enum cvd_status find_operator(struct infer *inf, uint32_t n, struct cvd_error *err)
{
    const struct graph_node *node = &inf->g->nodes[n];
    int64_t opset = graph_opset(inf->g, node->domain);
    if (opset <= 0)
        return cvd_error_set(err, CVD_STATUS_INVALID_MODEL,
                             "%.64s '%.96s' belongs to operator set '%.64s', which the model does "
                             "not import",
                             node->op, infer_node_name(inf->g, n), node->domain);
    bool known = false;
    inf->opsets[n] = opset < INT32_MAX ? (int)opset : INT32_MAX;
    inf->defs[n] = op_find(node->domain, node->op, inf->opsets[n], &known);
    if (inf->defs[n] != NULL)
        return CVD_STATUS_OK;
    if (known)
        return wrong_opset(node, inf->opsets[n], err);
    return cvd_error_set(err, CVD_STATUS_UNSUPPORTED,
                         "operator '%.64s' (domain '%.64s', opset %d) is not implemented", node->op,
                         node->domain, inf->opsets[n]);
}

static enum cvd_status check_count(const struct infer *inf, uint32_t n, const char *what,
                                   size_t count, size_t min, size_t max, struct cvd_error *err)
{
    if (count >= min && count <= max)
        return CVD_STATUS_OK;
    return cvd_error_set(err, CVD_STATUS_INVALID_MODEL,
                         "%.64s '%.96s' has %zu %s; it must have %zu to %zu", inf->g->nodes[n].op,
                         infer_node_name(inf->g, n), count, what, min, max);
}

static enum cvd_status check_connections(const struct infer *inf, uint32_t n, struct cvd_error *err)
{
    const struct graph_node *node = &inf->g->nodes[n];
    const struct op_def *def = inf->defs[n];
    enum cvd_status status =
        check_count(inf, n, "inputs", node->in_count, def->min_inputs, def->max_inputs, err);
    if (status == CVD_STATUS_OK)
        status = check_count(inf, n, "outputs", node->out_count, def->min_outputs, def->max_outputs,
                             err);
    for (size_t i = 0; i < def->min_inputs && status == CVD_STATUS_OK; i++) {
        if (node->in[i] == GRAPH_NONE)
            status = cvd_error_set(err, CVD_STATUS_INVALID_MODEL,
                                   "%.64s '%.96s': input %zu is required and has no name", node->op,
                                   infer_node_name(inf->g, n), i);
    }
    return status;
}

/* Walks back from the outputs: only nodes that they need are looked at. */
static enum cvd_status find_operators(struct infer *inf, bool *needed, struct cvd_error *err)
{
    const struct graph *g = inf->g;
    for (uint32_t i = 0; i < g->output_count; i++)
        needed[g->outputs[i]] = true;
    for (uint32_t n = g->node_count; n-- > 0;) {
        const struct graph_node *node = &g->nodes[n];
        bool wanted = false;
        for (size_t i = 0; i < node->out_count; i++)
            wanted |= node->out[i] != GRAPH_NONE && needed[node->out[i]];
        if (!wanted)
            continue;
        enum cvd_status status = find_operator(inf, n, err);
        if (status == CVD_STATUS_OK)
            status = check_connections(inf, n, err);
        if (status != CVD_STATUS_OK)
            return status;
        for (size_t i = 0; i < node->in_count; i++) {
            if (node->in[i] != GRAPH_NONE)
                needed[node->in[i]] = true;
        }
    }
    return CVD_STATUS_OK;
}

/* ---- blocks ---- */

/* Takes over `data`; on failure it stays the caller's. */
static bool add_block(struct infer *inf, void *data, size_t bytes, uint32_t *out)
{
    if (inf->block_count == inf->block_room) {
        uint32_t room = inf->block_room > 0 ? 2 * inf->block_room : 64;
        struct infer_block *blocks = zeroed(room, sizeof(*blocks));
        if (blocks == NULL)
            return false;
        if (inf->block_count > 0)
            memcpy(blocks, inf->blocks, inf->block_count * sizeof(*blocks));
        mem_free(inf->blocks);
        inf->blocks = blocks;
        inf->block_room = room;
    }
    *out = inf->block_count++;
    inf->blocks[*out] = (struct infer_block){.data = data, .bytes = bytes};
    return true;
}

/* Lowers the budget to what initializers of so many bytes justify. */
static void limit_budget(struct infer *inf, size_t initializer_bytes)
{
    size_t bytes;
    uint64_t work;
    if (mem_mul(initializer_bytes, FOLD_GROWTH, &bytes) && mem_add(bytes, FOLD_MIN_BYTES, &bytes) &&
        bytes < inf->budget.bytes)
        inf->budget.bytes = bytes;
    if (!__builtin_mul_overflow(initializer_bytes, FOLD_EFFORT, &work) &&
        !__builtin_add_overflow(work, FOLD_MIN_WORK, &work) && work < inf->budget.work)
        inf->budget.work = work;
}

/* Moves the initializers that are needed into blocks, numbered in the order of the values, and
 * frees the others. */
static enum cvd_status take_initializers(struct infer *inf, struct graph *g, const bool *needed,
                                         struct cvd_error *err)
{
    size_t total = 0;
    for (uint32_t v = 0; v < g->value_count; v++) {
        struct graph_value *value = &g->values[v];
        if (value->data == NULL)
            continue;
        if (!needed[v]) {
            mem_free(value->data);
            value->data = NULL;
            continue;
        }
        uint32_t block;
        if (!add_block(inf, value->data, value->bytes, &block))
            return no_memory(err);
        value->data = NULL;
        inf->fixed[v] = true;
        if (!mem_add(total, value->bytes, &total))
            total = SIZE_MAX;
    }
    limit_budget(inf, total);
    return CVD_STATUS_OK;
}

/* Room for the node with the most inputs and the one with the most outputs. */
static bool make_room(struct infer *inf)
{
    size_t ins = 1, outs = 1;
    for (uint32_t n = 0; n < inf->g->node_count; n++) {
        const struct graph_node *node = &inf->g->nodes[n];
        if (inf->defs[n] != NULL && node->in_count > ins)
            ins = node->in_count;
        if (inf->defs[n] != NULL && node->out_count > outs)
            outs = node->out_count;
    }
    inf->in = zeroed(ins, sizeof(*inf->in));
    inf->out = zeroed(outs, sizeof(*inf->out));
    inf->run_in = zeroed(ins, sizeof(*inf->run_in));
    inf->run_in_list = zeroed(ins, sizeof(*inf->run_in_list));
    inf->run_out = zeroed(outs, sizeof(*inf->run_out));
    return inf->in != NULL && inf->out != NULL && inf->run_in != NULL && inf->run_in_list != NULL &&
           inf->run_out != NULL;
}

enum cvd_status infer_init(struct infer *inf, struct graph *g, const struct kernels *kernels,
                           const struct infer_budget *budget, struct cvd_error *err)
{
    *inf = (struct infer){.g = g, .kernels = kernels, .budget = *budget};
    enum cvd_status status = CVD_STATUS_OK;
    bool *needed = zeroed(g->value_count, sizeof(*needed));
    inf->fixed = zeroed(g->value_count, sizeof(*inf->fixed));
    inf->defs = zeroed(g->node_count, sizeof(*inf->defs));
    inf->opsets = zeroed(g->node_count, sizeof(*inf->opsets));
    if (needed == NULL || inf->fixed == NULL || inf->defs == NULL || inf->opsets == NULL)
        status = no_memory(err);
    if (status == CVD_STATUS_OK)
        status = find_operators(inf, needed, err);
    if (status == CVD_STATUS_OK && !make_room(inf))
        status = no_memory(err);
    if (status == CVD_STATUS_OK)
        status = take_initializers(inf, g, needed, err);
    mem_free(needed);
    return status;
}

void infer_release(struct infer *inf)
{
    for (uint32_t b = 0; b < inf->block_count; b++)
        mem_free(inf->blocks[b].data);
    mem_free(inf->blocks);
    mem_free(inf->fixed);
    mem_free(inf->defs);
    mem_free(inf->opsets);
    mem_free(inf->in);
    mem_free(inf->out);
    mem_free(inf->run_in);
    mem_free(inf->run_in_list);
    mem_free(inf->run_out);
    *inf = (struct infer){0};
}

/* ---- folding ---- */

static size_t value_bytes(const struct op_value *v)
{
    size_t elements = 0, bytes = 0;
    bool fits = blocked_elements(&v->shape, v->layout, &elements) &&
                mem_mul(elements, cvd_dtype_bytes(v->dtype), &bytes);
    assert(fits); /* infer has checked it */
    (void)fits;
    return bytes;
}

/* Sets up the run of a node whose inputs are known. */
static bool fold_outputs(struct infer *inf, const struct op_node *node, struct infer_pass *pass,
                         const uint32_t *out)
{
    for (size_t i = 0; i < node->out_count; i++) {
        inf->run_out[i] = (struct op_output){0};
        if (out[i] == GRAPH_NONE)
            continue;
        size_t bytes = value_bytes(&inf->out[i]);
        void *data = mem_alloc(bytes);
        uint32_t block;
        if (data == NULL || !add_block(inf, data, bytes, &block)) {
            mem_free(data);
            return false;
        }
        inf->run_out[i] = (struct op_output){.dtype = inf->out[i].dtype,
                                             .shape = inf->out[i].shape,
                                             .data = data,
                                             .layout = inf->out[i].layout};
        inf->out[i].data = data;
        pass->blocks[out[i]] = block;
    }
    return true;
}

/* Computes the outputs of a node now. Blocks of a failed run are freed with all the others. */
static enum cvd_status fold_run(struct infer *inf, const struct op_node *node,
                                struct infer_pass *pass, const uint32_t *out)
{
    struct op_prepared prepared = {0};
    enum cvd_status status = CVD_STATUS_OK;
    if (node->def->prepare != NULL)
        status = node->def->prepare(node, inf->out, inf->kernels, &prepared);
    if (status != CVD_STATUS_OK)
        return status;
    void *scratch = mem_alloc(prepared.scratch_bytes);
    if (scratch == NULL || !fold_outputs(inf, node, pass, out)) {
        status = no_memory(node->err);
    } else {
        for (size_t i = 0; i < node->in_count; i++) {
            const struct op_value *v = node->in[i];
            inf->run_in_list[i] = v != NULL ? &inf->run_in[i] : NULL;
            if (v != NULL)
                inf->run_in[i] = (struct op_tensor){
                    .dtype = v->dtype, .shape = v->shape, .data = v->data, .layout = v->layout};
        }
        struct op_run run = {.state = prepared.state,
                             .kernels = inf->kernels,
                             .in = inf->run_in_list,
                             .in_count = node->in_count,
                             .out = inf->run_out,
                             .out_count = node->out_count,
                             .scratch = scratch,
                             .scratch_stride = prepared.scratch_bytes};
        node->def->run(&run);
    }
    mem_free(scratch);
    mem_free(prepared.state);
    return status;
}

static uint64_t elements_of(const struct op_value *v)
{
    size_t elements = 0;
    return v != NULL && cvd_shape_elements(&v->shape, &elements) ? elements : 0;
}

/* An upper limit of the elements of an input that one element of the result depends on, for the
 * operators of which that is more than a few; else 0. */
static uint64_t reach_of(const struct op_node *node)
{
    const char *name = node->def->name;
    if (strcmp(name, "Gemm") == 0 || strcmp(name, "MatMul") == 0) {
        int64_t longest = 1; /* the sum runs over some dimension of A */
        for (unsigned d = 0; d < node->in[0]->shape.rank; d++)
            longest = node->in[0]->shape.dims[d] > longest ? node->in[0]->shape.dims[d] : longest;
        return (uint64_t)longest;
    }
    static const char *const convolutions[] = {"Conv", "DepthwiseConv", "WinogradConv"};
    for (size_t i = 0; i < sizeof(convolutions) / sizeof(*convolutions); i++) {
        if (strcmp(name, convolutions[i]) == 0) /* infer has checked that there are channels */
            return elements_of(node->in[1]) / (uint64_t)node->in[1]->shape.dims[0];
    }
    static const char *const pools[] = {"MaxPool", "AveragePool", "LpPool", "LRN"};
    for (size_t i = 0; i < sizeof(pools) / sizeof(*pools); i++) {
        if (strcmp(name, pools[i]) == 0)
            return elements_of(node->in[0]);
    }
    return 0;
}

/* What it takes to compute so many elements of the node's outputs, at most. */
static uint64_t work_of(const struct op_node *node, uint64_t written)
{
    uint64_t work;
    if (node->def->flags & OP_SHAPE_ONLY)
        return 1;
    if (__builtin_mul_overflow(reach_of(node), written, &work))
        return UINT64_MAX;
    for (size_t i = 0; i < node->in_count; i++) {
        if (__builtin_add_overflow(work, elements_of(node->in[i]), &work))
            return UINT64_MAX;
    }
    return __builtin_add_overflow(work, written, &work) ? UINT64_MAX : work;
}

/* Takes what folding the node costs out of the budget; false when that is too much. */
static bool afford(struct infer *inf, const struct op_node *node, const struct graph_node *gn)
{
    size_t bytes = 0;
    uint64_t written = 0;
    for (size_t i = 0; i < node->out_count; i++) {
        if (gn->out[i] == GRAPH_NONE)
            continue;
        written += elements_of(&inf->out[i]);
        if (!mem_add(bytes, value_bytes(&inf->out[i]), &bytes))
            return false;
    }
    uint64_t work = work_of(node, written);
    if (bytes <= FOLD_FREE_BYTES)
        bytes = 0;
    if (bytes > inf->budget.bytes || work > inf->budget.work)
        return false;
    inf->budget.bytes -= bytes;
    inf->budget.work -= work;
    return true;
}

/* Folds the node when that is possible. */
static enum cvd_status fold(struct infer *inf, const struct op_node *node,
                            const struct graph_node *gn, struct infer_pass *pass, bool fixed)
{
    bool known = true;
    for (size_t i = 0; i < node->in_count && !(node->def->flags & OP_SHAPE_ONLY); i++)
        known = known && (node->in[i] == NULL || node->in[i]->data != NULL);
    if (!known)
        return CVD_STATUS_OK;
    if (node->def->flags & OP_VIEW) {
        uint32_t value = gn->out[0];
        if (value == GRAPH_NONE)
            return CVD_STATUS_OK;
        inf->out[0].data = node->in[0]->data;
        pass->blocks[value] = pass->blocks[gn->in[0]];
        inf->fixed[value] |= fixed;
        return CVD_STATUS_OK;
    }
    if (!afford(inf, node, gn))
        return CVD_STATUS_OK;
    enum cvd_status status = fold_run(inf, node, pass, gn->out);
    for (size_t i = 0; i < node->out_count && status == CVD_STATUS_OK; i++) {
        if (gn->out[i] != GRAPH_NONE)
            inf->fixed[gn->out[i]] |= fixed;
    }
    return status;
}

/* ---- one pass ---- */

static bool outputs_fixed(const struct infer *inf, const struct graph_node *node)
{
    for (size_t i = 0; i < node->out_count; i++) {
        if (node->out[i] != GRAPH_NONE && !inf->fixed[node->out[i]])
            return false;
    }
    return true;
}

static enum cvd_status infer_node(struct infer *inf, uint32_t n, struct infer_pass *pass,
                                  struct cvd_error *err)
{
    const struct graph_node *gn = &inf->g->nodes[n];
    bool fixed = true;
    for (size_t i = 0; i < gn->in_count; i++) {
        uint32_t v = gn->in[i];
        inf->in[i] = v != GRAPH_NONE ? &pass->values[v] : NULL;
        fixed = fixed && (v == GRAPH_NONE || inf->fixed[v]);
    }
    struct op_node node = {.def = inf->defs[n],
                           .name = infer_node_name(inf->g, n),
                           .opset = inf->opsets[n],
                           .attrs = gn->attrs,
                           .attr_count = gn->attr_count,
                           .in = inf->in,
                           .in_count = gn->in_count,
                           .out_count = gn->out_count,
                           .err = err};
    memset(inf->out, 0, gn->out_count * sizeof(*inf->out));
    enum cvd_status status = node.def->infer(&node, inf->out);
    for (size_t i = 0; i < gn->out_count && status == CVD_STATUS_OK; i++) {
        if (gn->out[i] != GRAPH_NONE && cvd_dtype_bytes(inf->out[i].dtype) == 0)
            status = op_fail(&node, CVD_STATUS_UNSUPPORTED, "output %zu is not implemented", i);
        if (gn->out[i] != GRAPH_NONE)
            inf->out[i].layout = inf->g->values[gn->out[i]].layout;
    }
    if (status == CVD_STATUS_OK)
        status = fold(inf, &node, gn, pass, fixed);
    for (size_t i = 0; i < gn->out_count && status == CVD_STATUS_OK; i++) {
        if (gn->out[i] != GRAPH_NONE)
            pass->values[gn->out[i]] = inf->out[i];
    }
    return status;
}

/* Says for which batch it went wrong, when it was right for the first one. */
static enum cvd_status name_batch(struct cvd_error *err, enum cvd_status status, int64_t batch)
{
    if (err == NULL)
        return status;
    struct cvd_error inner = *err;
    return cvd_error_set(err, status, "with a batch of %lld: %s", (long long)batch, inner.message);
}

enum cvd_status infer_run(struct infer *inf, int64_t batch, const struct cvd_shape *inputs,
                          const struct infer_pass *first, struct infer_pass *pass,
                          struct cvd_error *err)
{
    const struct graph *g = inf->g;
    *pass = (struct infer_pass){.batch = batch,
                                .values = zeroed(g->value_count, sizeof(*pass->values)),
                                .blocks = zeroed(g->value_count, sizeof(*pass->blocks))};
    if (pass->values == NULL || pass->blocks == NULL)
        return no_memory(err);
    /* Initializers are the first blocks, in order. */
    uint32_t block = 0;
    for (uint32_t v = 0; v < g->value_count; v++) {
        pass->blocks[v] = INFER_NO_BLOCK;
        if (!inf->fixed[v])
            continue;
        if (first != NULL) {
            pass->values[v] = first->values[v];
            pass->blocks[v] = first->blocks[v];
        } else {
            pass->blocks[v] = block;
            pass->values[v] = (struct op_value){.dtype = g->values[v].dtype,
                                                .shape = g->values[v].shape,
                                                .data = inf->blocks[block++].data};
        }
    }
    for (uint32_t i = 0; i < g->input_count; i++)
        pass->values[g->inputs[i]] =
            (struct op_value){.dtype = g->values[g->inputs[i]].dtype, .shape = inputs[i]};
    for (uint32_t n = 0; n < g->node_count; n++) {
        if (inf->defs[n] == NULL || (first != NULL && outputs_fixed(inf, &g->nodes[n])))
            continue;
        enum cvd_status status = infer_node(inf, n, pass, err);
        if (status != CVD_STATUS_OK)
            return first != NULL ? name_batch(err, status, batch) : status;
    }
    return CVD_STATUS_OK;
}

void infer_pass_release(struct infer_pass *pass)
{
    mem_free(pass->values);
    mem_free(pass->blocks);
    *pass = (struct infer_pass){0};
}
