/* Applying passes, and what they have in common. */
#include "engine/graph/passes.h"

#include "engine/graph/build.h"

#include <stdio.h>
#include <string.h>

#define REWRITES                                                                               \
    pass_attributes, pass_batch, pass_identity, pass_norm, pass_mean, pass_pad, pass_function, \
        pass_transpose, pass_affine, pass_residual, pass_activation
const pass_fn passes_rewrite[] = {REWRITES, NULL};
const pass_fn passes_all[] = {REWRITES, pass_layout, NULL};

enum cvd_status pass_no_memory(const struct pass *p)
{
    return cvd_error_set(p->err, CVD_STATUS_OUT_OF_MEMORY, "no memory to rewrite the model");
}

/* ---- looking ---- */

const struct graph_node *pass_node(const struct pass *p, uint32_t n, const char *op)
{
    if (n == GRAPH_NONE)
        return NULL;
    const struct graph_node *node = &p->g->nodes[n];
    bool own = node->domain[0] == '\0' || strcmp(node->domain, "ai.onnx") == 0;
    return own && strcmp(node->op, op) == 0 ? node : NULL;
}

uint32_t pass_sole_maker(const struct pass *p, uint32_t v)
{
    return v != GRAPH_NONE && v < p->count && p->uses[v] == 1 ? p->makers[v] : GRAPH_NONE;
}

uint32_t pass_input(const struct graph_node *node, size_t i)
{
    return i < node->in_count ? node->in[i] : GRAPH_NONE;
}

const struct op_attr *pass_attr(const struct graph_node *node, const char *name)
{
    for (size_t i = 0; i < node->attr_count; i++) {
        if (strcmp(node->attrs[i].name, name) == 0)
            return &node->attrs[i];
    }
    return NULL;
}

int64_t pass_int(const struct graph_node *node, const char *name, int64_t fallback)
{
    const struct op_attr *attr = pass_attr(node, name);
    return attr != NULL && attr->type == OP_ATTR_INT ? attr->i : fallback;
}

float pass_float(const struct graph_node *node, const char *name, float fallback)
{
    const struct op_attr *attr = pass_attr(node, name);
    return attr != NULL && attr->type == OP_ATTR_FLOAT ? attr->f : fallback;
}

const float *pass_floats(const struct pass *p, uint32_t v, size_t *count)
{
    if (v == GRAPH_NONE || p->g->values[v].data == NULL ||
        p->g->values[v].dtype != CVD_DTYPE_FLOAT32)
        return NULL;
    *count = p->g->values[v].bytes / sizeof(float);
    return p->g->values[v].data;
}

bool pass_number(const struct pass *p, uint32_t v, float *out)
{
    size_t count;
    const float *data = pass_floats(p, v, &count);
    if (data == NULL || count != 1)
        return false;
    *out = *data;
    return true;
}

bool pass_ints(const struct pass *p, uint32_t v, int64_t *out, size_t max, size_t *count)
{
    if (v == GRAPH_NONE)
        return false;
    const struct graph_value *value = &p->g->values[v];
    bool wide = value->dtype == CVD_DTYPE_INT64;
    if (value->data == NULL || value->shape.rank > 1 || (!wide && value->dtype != CVD_DTYPE_INT32))
        return false;
    *count = value->bytes / cvd_dtype_bytes(value->dtype);
    if (*count > max)
        return false;
    for (size_t i = 0; i < *count; i++)
        out[i] = wide ? ((const int64_t *)value->data)[i] : ((const int32_t *)value->data)[i];
    return true;
}

/* An attribute before operator set 18 (13 for ReduceSum), then an input. */
bool pass_axes(const struct pass *p, const struct graph_node *node, int64_t axes[CVD_MAX_RANK],
               size_t *count)
{
    const struct op_attr *attr = pass_attr(node, "axes");
    if (node->in_count > 1)
        return pass_ints(p, node->in[1], axes, CVD_MAX_RANK, count);
    if (attr == NULL || attr->type != OP_ATTR_INTS || attr->count > CVD_MAX_RANK)
        return false;
    *count = attr->count;
    for (size_t i = 0; i < attr->count; i++)
        axes[i] = attr->ints[i];
    return true;
}

const struct cvd_shape *pass_shape(const struct pass *p, uint32_t v)
{
    const struct graph_value *value = &p->g->values[v];
    if (value->data != NULL)
        return &value->shape;
    return v < p->known && p->one[v].dtype != CVD_DTYPE_NONE ? &p->one[v].shape : NULL;
}

bool pass_is_float(const struct pass *p, uint32_t v)
{
    if (v == GRAPH_NONE)
        return false;
    if (p->g->values[v].data != NULL)
        return p->g->values[v].dtype == CVD_DTYPE_FLOAT32;
    return v < p->known && p->one[v].dtype == CVD_DTYPE_FLOAT32;
}

bool pass_alike(const struct pass *p, uint32_t a, uint32_t b)
{
    if (a >= p->known || b >= p->known || p->one[a].dtype == CVD_DTYPE_NONE ||
        p->one[a].dtype != p->one[b].dtype || !cvd_shape_equal(&p->one[a].shape, &p->one[b].shape))
        return false;
    /* Where the batch may still be set free, constants of one image are known not to grow. */
    if (p->two == NULL && (p->g->values[a].data == NULL) != (p->g->values[b].data == NULL) &&
        p->one[a].shape.rank > 0 && p->one[a].shape.dims[0] == 1)
        return false;
    const struct op_value *a2 = p->two != NULL ? &p->two[a] : &p->one[a];
    const struct op_value *b2 = p->two != NULL ? &p->two[b] : &p->one[b];
    return a2->dtype != CVD_DTYPE_NONE && b2->dtype != CVD_DTYPE_NONE &&
           cvd_shape_equal(&a2->shape, &b2->shape);
}

/* ---- changing ---- */

const struct op_attr *pass_attrs(const struct pass *p, const struct graph_node *node,
                                 const struct op_attr *set, size_t set_count, size_t *count)
{
    size_t kept = 0, old = node->attr_count; /* which may be what is to be set */
    struct op_attr *attrs = mem_arena_alloc(p->g->arena, (old + set_count) * sizeof(*attrs));
    if (attrs == NULL)
        return NULL;
    for (size_t i = 0; i < old; i++) {
        bool replaced = false;
        for (size_t j = 0; j < set_count && !replaced; j++)
            replaced = strcmp(set[j].name, node->attrs[i].name) == 0;
        if (!replaced)
            attrs[kept++] = node->attrs[i];
    }
    for (size_t j = 0; j < set_count; j++)
        attrs[kept++] = set[j];
    *count = kept;
    return attrs;
}

const char *pass_label(const struct pass *p, const struct graph_node *node, const char *more)
{
    char text[96];
    int len =
        snprintf(text, sizeof(text), "%.64s+%.24s", node->label ? node->label : node->op, more);
    return mem_arena_strndup(p->g->arena, text, (size_t)len);
}

static void count_uses(struct pass *p, const struct graph_node *node, bool more)
{
    for (size_t i = 0; i < node->in_count; i++) {
        if (node->in[i] != GRAPH_NONE && node->in[i] < p->count)
            p->uses[node->in[i]] += more ? 1 : UINT32_MAX;
    }
}

static bool copy_numbers(const struct pass *p, const uint32_t **numbers, size_t count)
{
    uint32_t *copy = mem_arena_alloc(p->g->arena, count * sizeof(*copy));
    if (copy == NULL)
        return false;
    for (size_t i = 0; i < count; i++)
        copy[i] = (*numbers)[i];
    *numbers = copy;
    return true;
}

enum cvd_status pass_replace(struct pass *p, uint32_t n, const struct graph_node *node)
{
    struct graph_node copy = *node;
    if (!copy_numbers(p, &copy.in, copy.in_count) || !copy_numbers(p, &copy.out, copy.out_count))
        return pass_no_memory(p);
    count_uses(p, &p->g->nodes[n], false);
    count_uses(p, &copy, true);
    for (size_t i = 0; i < copy.out_count; i++) {
        if (copy.out[i] != GRAPH_NONE && copy.out[i] < p->count)
            p->makers[copy.out[i]] = n;
    }
    p->g->nodes[n] = copy;
    return CVD_STATUS_OK;
}

void pass_remove(struct pass *p, uint32_t n)
{
    struct graph_node *node = &p->g->nodes[n];
    count_uses(p, node, false);
    node->in_count = 0;
    node->out_count = 0; /* so that it defines what another node may define now */
}

enum cvd_status pass_use_domain(struct pass *p, const char *domain, int64_t version)
{
    return graph_opset(p->g, domain) != 0 ? CVD_STATUS_OK
                                          : graph_add_opset(p->g, domain, version, p->err);
}

/* ---- applying ---- */

/* Drops the nodes and initializers that no output needs. */
static enum cvd_status sweep(const struct pass *p)
{
    struct graph *g = p->g;
    bool *needed = mem_alloc(g->value_count * sizeof(*needed));
    if (needed == NULL)
        return pass_no_memory(p);
    memset(needed, 0, g->value_count * sizeof(*needed));
    for (uint32_t i = 0; i < g->output_count; i++)
        needed[g->outputs[i]] = true;
    uint32_t kept = g->node_count;
    for (uint32_t n = g->node_count; n-- > 0;) {
        struct graph_node node = g->nodes[n];
        bool wanted = false;
        for (size_t i = 0; i < node.out_count; i++)
            wanted |= node.out[i] != GRAPH_NONE && needed[node.out[i]];
        if (!wanted)
            continue;
        for (size_t i = 0; i < node.in_count; i++) {
            if (node.in[i] != GRAPH_NONE)
                needed[node.in[i]] = true;
        }
        g->nodes[--kept] = node;
    }
    g->node_count -= kept;
    if (g->node_count > 0)
        memmove(g->nodes, g->nodes + kept, g->node_count * sizeof(*g->nodes));
    for (uint32_t v = 0; v < g->value_count; v++) {
        if (!needed[v]) {
            mem_free(g->values[v].data);
            g->values[v].data = NULL;
        }
    }
    mem_free(needed);
    return CVD_STATUS_OK;
}

/* Who makes and how many read each value. */
static void make_index(struct pass *p)
{
    const struct graph *g = p->g;
    for (uint32_t v = 0; v < p->count; v++) {
        p->makers[v] = GRAPH_NONE;
        p->uses[v] = 0;
    }
    for (uint32_t n = 0; n < g->node_count; n++) {
        count_uses(p, &g->nodes[n], true);
        for (size_t i = 0; i < g->nodes[n].out_count; i++) {
            if (g->nodes[n].out[i] != GRAPH_NONE)
                p->makers[g->nodes[n].out[i]] = n;
        }
    }
    for (uint32_t i = 0; i < g->output_count; i++)
        p->uses[g->outputs[i]]++;
}

static enum cvd_status apply(struct pass *p, pass_fn pass)
{
    size_t count = p->g->value_count;
    uint32_t *numbers = mem_alloc(2 * count * sizeof(*numbers));
    if (numbers == NULL)
        return pass_no_memory(p);
    p->count = p->g->value_count;
    p->makers = numbers;
    p->uses = numbers + count;
    p->unsorted = false;
    make_index(p);
    enum cvd_status status = pass(p);
    mem_free(numbers);
    if (status == CVD_STATUS_OK && p->unsorted)
        status = graph_check(p->g, p->err);
    return status == CVD_STATUS_OK ? sweep(p) : status;
}

/* Infers shapes and folds constants, and again after passes that have added values. */
static enum cvd_status examine(struct build *b, struct pass *p)
{
    enum cvd_status status = build_infer(b);
    if (status == CVD_STATUS_OK)
        status = build_fold(b);
    p->one = b->one.values;
    p->two = b->free_batch ? b->two.values : NULL;
    p->known = b->g->value_count;
    p->stale = false;
    return status == CVD_STATUS_OK ? sweep(p) : status;
}

enum cvd_status passes_apply(struct build *b, const pass_fn *list)
{
    struct pass p = {
        .g = b->g, .kernels = b->kernels, .tune = b->tune, .budget = &b->inf.budget, .err = b->err};
    enum cvd_status status = examine(b, &p);
    for (size_t i = 0; list[i] != NULL && status == CVD_STATUS_OK; i++) {
        status = apply(&p, list[i]);
        if (status != CVD_STATUS_OK || !p.stale)
            continue;
        build_forget(b);
        status = examine(b, &p);
    }
    build_forget(b);
    return status;
}
