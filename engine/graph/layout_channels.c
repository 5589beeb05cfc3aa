/*
 * Layout assignment (layout.h): nodes that only rearrange channels (Concat, Split, Slice, and the
 * Reshape, Transpose, Reshape of a channel shuffle).
 *
 * A concatenation of whole blocks is done by computing its inputs in their places. Anything else
 * becomes one Channels node, which copies; and rearrangements of rearrangements are followed back
 * to where the channels come from, so that of a chain of them only what others read is ever copied.
 * A file may ask for many channels again and again: what listing them takes comes out of the budget
 * of folding, and beyond it nodes stay what they are.
 */
#include "engine/graph/layout.h"

#include <string.h>

/* float32 [N, C, H, W]; its channels, or 0. */
static int64_t channels_of(const struct layout *l, uint32_t v)
{
    const struct cvd_shape *shape = v != GRAPH_NONE ? pass_shape(l->p, v) : NULL;
    return shape != NULL && shape->rank == 4 && pass_is_float(l->p, v) && shape->dims[0] > 0 &&
                   shape->dims[2] > 0 && shape->dims[3] > 0 && shape->dims[1] < INT32_MAX
               ? shape->dims[1]
               : 0;
}

/* Whether v is a map, or a rearrangement of maps. */
static bool is_map(const struct layout *l, uint32_t v)
{
    return l->maps[v] != GRAPH_NONE;
}

/* Where channel c of v comes from. */
static struct layout_channel source_of(const struct layout *l, uint32_t v, uint32_t c)
{
    return l->channels[v] != NULL ? l->channels[v][c] : (struct layout_channel){v, c};
}

static struct layout_channel *new_list(const struct layout *l, size_t count)
{
    return mem_arena_alloc(l->p->g->arena, count * sizeof(struct layout_channel));
}

/* ---- emitting ---- */

/* The place of `value` among the inputs, which it is appended to. */
static size_t input_of(const struct layout *l, uint32_t *in, size_t *count, uint32_t value)
{
    uint32_t *place = &l->places[value]; /* or that among another node's */
    if (*place >= *count || in[*place] != value) {
        *place = (uint32_t)*count;
        in[(*count)++] = value;
    }
    return *place;
}

/* Emits the node that computes v, whose channels are known. */
static enum cvd_status emit(struct layout *l, const struct graph_node *node, uint32_t v,
                            const struct layout_channel *channels, size_t count, bool joins)
{
    struct mem_arena *arena = l->p->g->arena;
    uint32_t *in = mem_arena_alloc(arena, count * sizeof(*in));
    int64_t *pairs = mem_arena_alloc(arena, 2 * count * sizeof(*pairs));
    struct op_attr *attr = mem_arena_alloc(arena, sizeof(*attr));
    if (in == NULL || pairs == NULL || attr == NULL)
        return pass_no_memory(l->p);
    size_t in_count = 0;
    for (size_t c = 0; c < count; c++) {
        pairs[2 * c] = (int64_t)input_of(l, in, &in_count, channels[c].value);
        pairs[2 * c + 1] = channels[c].channel;
    }
    enum cvd_status status = pass_use_domain(l->p, BLOCKED_DOMAIN, BLOCKED_VERSION);
    for (size_t i = 0; i < in_count && status == CVD_STATUS_OK; i++)
        status = layout_want(l, in[i], true, &in[i]);
    *attr = (struct op_attr){
        .name = "channels", .type = OP_ATTR_INTS, .count = 2 * count, .ints = pairs};
    const struct graph_node made = {.op = "Channels",
                                    .domain = BLOCKED_DOMAIN,
                                    .name = node->name,
                                    .attrs = attr,
                                    .attr_count = 1,
                                    .in = in,
                                    .in_count = in_count,
                                    .label = node->label != NULL ? node->label : node->op};
    if (!joins)
        l->channels[v] = channels;
    joins = joins && in_count == node->in_count; /* none of them twice */
    return status == CVD_STATUS_OK
               ? layout_emit_map(l, &(struct layout_node){.node = made, .joins = joins}, v)
               : status;
}

/* ---- Concat ---- */

/* How many values v's channels come from. */
static size_t count_sources(const struct layout *l, uint32_t v)
{
    return l->channels[v] != NULL ? l->nodes[l->makers[v]].node.in_count : 1;
}

static enum cvd_status take_concat(struct layout *l, const struct graph_node *node, bool *taken)
{
    const uint32_t out = node->out[0];
    const int64_t axis = pass_int(node, "axis", 1);
    size_t count = 0, sources = 0;
    bool any = false, whole = true;
    if ((axis != 1 && axis != -3) || channels_of(l, out) == 0)
        return CVD_STATUS_OK;
    for (size_t i = 0; i < node->in_count; i++) {
        const int64_t channels = channels_of(l, node->in[i]);
        if (channels == 0)
            return CVD_STATUS_OK;
        any |= is_map(l, node->in[i]);
        whole &= channels % l->lanes == 0 || i + 1 == node->in_count;
        count += (size_t)channels;
        sources += count_sources(l, node->in[i]);
    }
    if (!any)
        return CVD_STATUS_OK;
    const bool follow = !whole && sources <= OP_MAX_INPUTS;
    struct layout_channel *list = new_list(l, count), *next = list;
    if (list == NULL)
        return pass_no_memory(l->p);
    for (size_t i = 0; i < node->in_count; i++) {
        const uint32_t v = node->in[i], channels = (uint32_t)channels_of(l, v);
        for (uint32_t c = 0; c < channels; c++)
            *next++ = follow ? source_of(l, v, c) : (struct layout_channel){v, c};
    }
    *taken = true;
    return emit(l, node, out, list, count, whole);
}

/* ---- parts ---- */

/* Emits `count` channels of v, from `first` on in steps, as `out`. */
static enum cvd_status emit_range(struct layout *l, const struct graph_node *node, uint32_t v,
                                  int64_t first, int64_t step, uint32_t out)
{
    const size_t count = (size_t)channels_of(l, out);
    struct layout_channel *list = new_list(l, count);
    if (list == NULL)
        return pass_no_memory(l->p);
    for (size_t c = 0; c < count; c++)
        list[c] = source_of(l, v, (uint32_t)(first + (int64_t)c * step));
    return emit(l, node, out, list, count, false);
}

static enum cvd_status take_split(struct layout *l, const struct graph_node *node, bool *taken)
{
    const uint32_t v = node->in[0];
    const int64_t axis = pass_int(node, "axis", 0);
    int64_t total = 0;
    if ((axis != 1 && axis != -3) || channels_of(l, v) == 0 || !is_map(l, v))
        return CVD_STATUS_OK;
    for (size_t i = 0; i < node->out_count; i++) {
        if (node->out[i] == GRAPH_NONE || channels_of(l, node->out[i]) == 0)
            return CVD_STATUS_OK;
        total += channels_of(l, node->out[i]);
    }
    if (total != channels_of(l, v))
        return CVD_STATUS_OK;
    enum cvd_status status = CVD_STATUS_OK;
    int64_t first = 0;
    for (size_t i = 0; i < node->out_count && status == CVD_STATUS_OK; i++) {
        status = emit_range(l, node, v, first, 1, node->out[i]);
        first += channels_of(l, node->out[i]);
    }
    *taken = true;
    return status;
}

/* One number of a list that is an attribute before operator set 10, then an input. */
static bool read_one(const struct layout *l, const struct graph_node *node, const char *name,
                     size_t input, int64_t *out)
{
    size_t count = 0;
    const struct op_attr *attr = pass_attr(node, name);
    if (attr != NULL && attr->type == OP_ATTR_INTS && attr->count == 1) {
        *out = attr->ints[0];
        return true;
    }
    return pass_ints(l->p, pass_input(node, input), out, 1, &count) && count == 1;
}

static enum cvd_status take_slice(struct layout *l, const struct graph_node *node, bool *taken)
{
    const uint32_t v = node->in[0], out = node->out[0];
    int64_t start, axis, step = 1;
    const int64_t channels = channels_of(l, v), sliced = channels_of(l, out);
    if (channels == 0 || sliced == 0 || !is_map(l, v) || !read_one(l, node, "starts", 1, &start) ||
        !read_one(l, node, "axes", 3, &axis) || (axis != 1 && axis != -3) ||
        (pass_input(node, 4) != GRAPH_NONE && !read_one(l, node, "steps", 4, &step)) || step < 1 ||
        step > channels || start < -channels || start >= channels)
        return CVD_STATUS_OK;
    start += start < 0 ? channels : 0;
    if (start + (sliced - 1) * step >= channels)
        return CVD_STATUS_OK;
    *taken = true;
    return emit_range(l, node, v, start, step, out);
}

/* ---- channel shuffle ---- */

static bool is_groups_transpose(const struct graph_node *node)
{
    static const int64_t order[] = {0, 2, 1, 3, 4};
    const struct op_attr *perm = pass_attr(node, "perm");
    return perm != NULL && perm->type == OP_ATTR_INTS && perm->count == 5 &&
           memcmp(perm->ints, order, sizeof(order)) == 0;
}

/* [N, C, H, W] -> [N, groups, C / groups, H, W] -> the two exchanged -> [N, C, H, W]. */
static enum cvd_status take_shuffle(struct layout *l, const struct graph_node *node, bool *taken)
{
    const struct pass *p = l->p;
    const uint32_t out = node->out[0];
    const struct graph_node *transpose = pass_node(p, p->makers[node->in[0]], "Transpose");
    if (transpose == NULL || channels_of(l, out) == 0 || !is_groups_transpose(transpose))
        return CVD_STATUS_OK;
    const struct graph_node *split = pass_node(p, p->makers[transpose->in[0]], "Reshape");
    if (split == NULL || channels_of(l, split->in[0]) == 0 || !is_map(l, split->in[0]))
        return CVD_STATUS_OK;
    const uint32_t v = split->in[0];
    const struct cvd_shape *from = pass_shape(p, v), *to = pass_shape(p, out);
    const struct cvd_shape *parts = pass_shape(p, split->out[0]);
    if (parts == NULL || parts->rank != 5 || !cvd_shape_equal(from, to) ||
        parts->dims[0] != from->dims[0] || parts->dims[1] * parts->dims[2] != from->dims[1] ||
        parts->dims[3] != from->dims[2])
        return CVD_STATUS_OK;
    if (p->two != NULL && (p->two[split->out[0]].shape.dims[0] != p->two[v].shape.dims[0] ||
                           !cvd_shape_equal(&p->two[v].shape, &p->two[out].shape)))
        return CVD_STATUS_OK; /* the images do not stay in dimension 0 */
    const uint32_t groups = (uint32_t)parts->dims[1], size = (uint32_t)parts->dims[2];
    struct layout_channel *list = new_list(l, (size_t)groups * size);
    if (list == NULL)
        return pass_no_memory(p);
    for (uint32_t c = 0; c < groups * size; c++)
        list[c] = source_of(l, v, c % groups * size + c / groups);
    *taken = true;
    return emit(l, node, out, list, (size_t)groups * size, false);
}

/* ---- all ---- */

/* Bytes that it takes to list the channels of a node's outputs. */
static size_t list_bytes(const struct layout *l, const struct graph_node *node)
{
    size_t channels = 0;
    for (size_t i = 0; i < node->out_count; i++)
        channels += (size_t)channels_of(l, node->out[i]);
    return channels * (sizeof(struct layout_channel) + sizeof(uint32_t) + 2 * sizeof(int64_t));
}

enum cvd_status layout_rearrange(struct layout *l, uint32_t n, bool *taken)
{
    static const struct {
        const char *op;
        enum cvd_status (*take)(struct layout *l, const struct graph_node *node, bool *taken);
    } rules[] = {
        {"Concat", take_concat},
        {"Split", take_split},
        {"Slice", take_slice},
        {"Reshape", take_shuffle},
    };
    const struct graph_node *node = &l->p->g->nodes[n];
    *taken = false;
    for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++) {
        if (pass_node(l->p, n, rules[i].op) == NULL || node->in_count == 0 ||
            node->out_count == 0 || node->in[0] == GRAPH_NONE || node->out[0] == GRAPH_NONE)
            continue;
        const size_t bytes = list_bytes(l, node);
        if (bytes > l->p->budget->bytes)
            return CVD_STATUS_OK;
        enum cvd_status status = rules[i].take(l, node, taken);
        if (*taken)
            l->p->budget->bytes -= bytes;
        return status;
    }
    return CVD_STATUS_OK;
}
