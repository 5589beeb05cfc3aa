/* Which nodes of a graph are left to run, and whether they can at every batch size. */
#include "engine/graph/build.h"

#include "engine/ops/blocked.h"

#include <string.h>

/* ---- kinds ---- */

static bool same_elements(const struct build *b, uint32_t v, const struct infer_pass *other)
{
    const struct op_value *x = &b->one.values[v], *y = &other->values[v];
    size_t elements;
    if (x->dtype != y->dtype || !cvd_shape_equal(&x->shape, &y->shape) ||
        !cvd_shape_elements(&x->shape, &elements))
        return false;
    size_t bytes = elements * cvd_dtype_bytes(x->dtype); /* in memory, so it fits */
    return x->data == y->data || bytes == 0 || memcmp(x->data, y->data, bytes) == 0;
}

enum build_kind build_kind_of(const struct build *b, uint32_t v)
{
    if (b->one.blocks[v] == INFER_NO_BLOCK)
        return BUILD_RUNTIME;
    if (!b->free_batch || b->inf.fixed[v])
        return BUILD_CONSTANT;
    if (b->two.blocks[v] == INFER_NO_BLOCK || b->many.blocks[v] == INFER_NO_BLOCK)
        return BUILD_RUNTIME;
    return same_elements(b, v, &b->two) && same_elements(b, v, &b->many) ? BUILD_CONSTANT
                                                                         : BUILD_VARYING;
}

static enum build_kind kind_of(struct build *b, uint32_t v)
{
    if (b->kinds[v] == BUILD_UNDECIDED) {
        b->kinds[v] = (uint8_t)build_kind_of(b, v);
        /* What is computed for every batch must not look like a constant to prepare. */
        if (b->kinds[v] == BUILD_RUNTIME) {
            b->one.values[v].data = NULL;
            b->one.blocks[v] = INFER_NO_BLOCK;
        }
    }
    return (enum build_kind)b->kinds[v];
}

/* ---- checks ---- */

static enum cvd_status check_reads(struct build *b, uint32_t n, uint32_t v)
{
    if (v == GRAPH_NONE || kind_of(b, v) != BUILD_VARYING)
        return CVD_STATUS_OK;
    return cvd_error_set(b->err, CVD_STATUS_UNSUPPORTED,
                         "%.64s '%.96s' computes with '%.64s', whose value depends on the batch "
                         "size; that is not implemented",
                         b->g->nodes[n].op, infer_node_name(b->g, n), infer_value_name(b->g, v));
}

/* Every extent must be fixed or grow by the same amount with each image, and one at most may grow:
 * only then do the shapes for one and two images say what every other batch needs. */
static bool grows_evenly(const struct build *b, uint32_t v)
{
    const struct op_value *one = &b->one.values[v], *two = &b->two.values[v],
                          *many = &b->many.values[v];
    unsigned rank = one->shape.rank, growing = 0;
    if (two->dtype != one->dtype || many->dtype != one->dtype || two->shape.rank != rank ||
        many->shape.rank != rank)
        return false;
    for (unsigned d = 0; d < rank; d++) {
        int64_t more = two->shape.dims[d] - one->shape.dims[d], grown;
        if (more < 0 || __builtin_mul_overflow(more, b->many.batch - 1, &grown) ||
            __builtin_add_overflow(grown, one->shape.dims[d], &grown) ||
            grown != many->shape.dims[d])
            return false;
        growing += more > 0;
    }
    return growing <= 1;
}

static enum cvd_status check_growth(const struct build *b, uint32_t n, uint32_t v)
{
    if (!b->free_batch || v == GRAPH_NONE || grows_evenly(b, v))
        return CVD_STATUS_OK;
    char one[CVD_SHAPE_TEXT_BYTES], two[CVD_SHAPE_TEXT_BYTES], many[CVD_SHAPE_TEXT_BYTES];
    return cvd_error_set(b->err, CVD_STATUS_UNSUPPORTED,
                         "%.32s '%.64s': '%.48s' is %.40s for one image, %.40s for two, %.40s for "
                         "%d; one extent may grow, in proportion",
                         b->g->nodes[n].op, infer_node_name(b->g, n), infer_value_name(b->g, v),
                         cvd_shape_text(&b->one.values[v].shape, one),
                         cvd_shape_text(&b->two.values[v].shape, two),
                         cvd_shape_text(&b->many.values[v].shape, many), (int)b->many.batch);
}

static enum cvd_status check_bytes(const struct build *b, uint32_t n, uint32_t v)
{
    if (v == GRAPH_NONE)
        return CVD_STATUS_OK;
    const struct op_value *value = &b->one.values[v];
    size_t elements, bytes;
    char text[CVD_SHAPE_TEXT_BYTES];
    if (blocked_elements(&value->shape, value->layout, &elements) &&
        mem_mul(elements, cvd_dtype_bytes(value->dtype), &bytes) && bytes <= PLAN_MAX_BYTES)
        return CVD_STATUS_OK;
    return cvd_error_set(b->err, CVD_STATUS_UNSUPPORTED,
                         "%.64s '%.96s': its output, %s %.80s, is larger than the %zu MiB that are "
                         "supported",
                         b->g->nodes[n].op, infer_node_name(b->g, n), cvd_dtype_name(value->dtype),
                         cvd_shape_text(&value->shape, text), PLAN_MAX_BYTES >> 20);
}

/* Whether a node has to run: a view only does when another output than its first is read. */
bool build_runs(const struct build *b, uint32_t n)
{
    const struct graph_node *node = &b->g->nodes[n];
    bool runs = !(b->inf.defs[n]->flags & OP_VIEW);
    for (size_t i = 1; i < node->out_count && !runs; i++)
        runs = node->out[i] != GRAPH_NONE && b->needed[node->out[i]];
    return runs;
}

/* ---- selection ---- */

/* Marks what a node reads when the model runs; of a view that is its first input only. */
static enum cvd_status need_inputs(struct build *b, uint32_t n)
{
    const struct graph_node *node = &b->g->nodes[n];
    enum cvd_status status = CVD_STATUS_OK;
    bool runs = build_runs(b, n);
    if (runs && b->inf.defs[n]->run == NULL)
        return cvd_error_set(b->err, CVD_STATUS_UNSUPPORTED,
                             "%.64s '%.96s': an output after the first is used; that is not "
                             "implemented",
                             node->op, infer_node_name(b->g, n));
    for (size_t i = 0; i < (runs ? node->in_count : 1) && status == CVD_STATUS_OK; i++) {
        status = check_reads(b, n, node->in[i]);
        if (node->in[i] != GRAPH_NONE)
            b->needed[node->in[i]] = true;
    }
    for (size_t i = 0; i < node->out_count && status == CVD_STATUS_OK; i++)
        status = check_growth(b, n, node->out[i]);
    for (size_t i = 0; i < node->out_count && status == CVD_STATUS_OK; i++)
        status = check_bytes(b, n, node->out[i]);
    return status;
}

enum cvd_status build_select(struct build *b)
{
    const struct graph *g = b->g;
    for (uint32_t i = 0; i < g->output_count; i++) {
        uint32_t v = g->outputs[i];
        b->needed[v] = true;
        if (kind_of(b, v) == BUILD_VARYING)
            return cvd_error_set(b->err, CVD_STATUS_UNSUPPORTED,
                                 "output '%.96s' depends on the batch size alone; that is not "
                                 "implemented",
                                 infer_value_name(g, v));
    }
    for (uint32_t n = g->node_count; n-- > 0;) {
        const struct graph_node *node = &g->nodes[n];
        if (b->inf.defs[n] == NULL)
            continue;
        for (size_t i = 0; i < node->out_count; i++) {
            uint32_t v = node->out[i];
            if (v != GRAPH_NONE && b->needed[v] && kind_of(b, v) == BUILD_RUNTIME)
                b->is_live[n] = true;
        }
        enum cvd_status status = b->is_live[n] ? need_inputs(b, n) : CVD_STATUS_OK;
        if (status != CVD_STATUS_OK)
            return status;
    }
    return CVD_STATUS_OK;
}
