/* Parts of an array: Slice, by starts, ends and steps; Split, along one dimension into several. */
#include "engine/ops/list.h"
#include "engine/ops/move.h"
#include "engine/ops/op_util.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

/* ---- Slice ---- */

/* What the node says for each dimension; the extents, which may vary with the batch, come later. */
struct slice_state {
    int64_t start[CVD_MAX_RANK], end[CVD_MAX_RANK], step[CVD_MAX_RANK];
};

static int64_t clamped(int64_t v, int64_t low, int64_t high)
{
    return v < low ? low : v > high ? high : v;
}

/* Python's rules for x[start:end:step] on n elements, but for one: going backwards, a start before
 * the first element means the first element. Returns how many there are. */
static int64_t resolve(const struct slice_state *s, unsigned d, int64_t n, int64_t *first)
{
    const int64_t step = s->step[d];
    int64_t start = s->start[d] < 0 ? s->start[d] + n : s->start[d];
    int64_t end = s->end[d] < 0 ? s->end[d] + n : s->end[d];
    if (step > 0) {
        *first = start = clamped(start, 0, n);
        end = clamped(end, 0, n);
        return end > start ? (end - start - 1) / step + 1 : 0;
    }
    *first = start = n > 0 ? clamped(start, 0, n - 1) : -1;
    end = clamped(end, -1, n - 1);
    const uint64_t size = 0 - (uint64_t)step;
    return start > end ? (int64_t)((uint64_t)(start - end - 1) / size) + 1 : 0;
}

static enum cvd_status check_length(const struct op_node *node, const char *what,
                                    const struct list *list, const struct list *starts)
{
    if (!list->given || list->count == starts->count)
        return CVD_STATUS_OK;
    return op_fail(node, CVD_STATUS_INVALID_MODEL, "%s has %zu numbers but starts has %zu", what,
                   list->count, starts->count);
}

static enum cvd_status slice_read(const struct op_node *node, struct slice_state *s,
                                  struct cvd_shape *shape)
{
    struct list starts, ends, axes, steps;
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status != CVD_STATUS_OK ||
        (status = list_require(node, "starts", 1, CVD_MAX_RANK, &starts)) ||
        (status = list_require(node, "ends", 2, CVD_MAX_RANK, &ends)) ||
        (status = list_read(node, "axes", 3, CVD_MAX_RANK, &axes)) ||
        (status = list_read(node, NULL, 4, CVD_MAX_RANK, &steps)) ||
        (status = check_length(node, "ends", &ends, &starts)) ||
        (status = check_length(node, "axes", &axes, &starts)) ||
        (status = check_length(node, "steps", &steps, &starts)))
        return status;
    if (!axes.given) { /* the first dimensions */
        axes.count = starts.count;
        for (size_t i = 0; i < axes.count; i++)
            axes.values[i] = (int64_t)i;
    }
    *shape = node->in[0]->shape;
    unsigned dims[CVD_MAX_RANK];
    status = list_axes(node, &axes, shape->rank, dims);
    if (status != CVD_STATUS_OK)
        return status;
    for (unsigned d = 0; d < CVD_MAX_RANK; d++) {
        s->start[d] = 0;
        s->end[d] = INT64_MAX;
        s->step[d] = 1;
    }
    for (size_t i = 0; i < axes.count; i++) {
        const unsigned d = dims[i];
        s->start[d] = starts.values[i];
        s->end[d] = ends.values[i];
        s->step[d] = steps.given ? steps.values[i] : 1;
        if (s->step[d] == 0)
            return op_fail(node, CVD_STATUS_INVALID_MODEL, "steps[%zu] is 0", i);
        int64_t first;
        shape->dims[d] = resolve(s, d, shape->dims[d], &first);
    }
    return CVD_STATUS_OK;
}

static enum cvd_status slice_infer(const struct op_node *node, struct op_value *out)
{
    struct slice_state s;
    struct cvd_shape shape;
    enum cvd_status status = slice_read(node, &s, &shape);
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], node->in[0]->dtype, &shape)
                                   : status;
}

static enum cvd_status slice_prepare(const struct op_node *node, const struct op_value *out,
                                     const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct slice_state *s;
    struct cvd_shape shape;
    enum cvd_status status = op_state(node, sizeof *s, prepared, &s);
    if (status == CVD_STATUS_OK)
        status = slice_read(node, s, &shape);
    if (status != CVD_STATUS_OK)
        return status;
    prepared->kernel = "move_ref";
    prepared->inputs_consumed = 0x1e;
    prepared->mixes_images = s->start[0] != 0 || s->end[0] < INT32_MAX || s->step[0] != 1;
    return CVD_STATUS_OK;
}

static void slice_run(const struct op_run *r)
{
    const struct slice_state *s = r->state;
    const struct cvd_shape *in = &r->in[0]->shape, *out = &r->out[0].shape;
    struct move m = {.bytes = cvd_dtype_bytes(r->in[0]->dtype), .out = r->out[0].data};
    if (op_elements(out) == 0)
        return;
    int64_t at = 0;
    for (unsigned d = 0; d < in->rank; d++) {
        const int64_t stride = (int64_t)op_extent(in, d + 1, in->rank);
        int64_t first;
        const int64_t count = resolve(s, d, in->dims[d], &first);
        at += first * stride;
        /* A step may be enormous when there is nothing to step to. And what a slice of images gives
         * was inferred from small batches: should more of them end it earlier, it stays inside. */
        const bool steps = count > 1 && count == out->dims[d];
        move_add(&m, (size_t)out->dims[d], steps ? s->step[d] * stride : 0);
    }
    m.in = (const char *)r->in[0]->data + at * (int64_t)m.bytes;
    move_run(&m, r->pool);
}

/* ---- Split ---- */

struct split_state {
    unsigned axis;
    bool equal; /* all parts are ceil(extent / parts) long, as far as that reaches */
    size_t parts;
    int64_t sizes[OP_MAX_OUTPUTS]; /* when not equal; a state holds `parts` of them */
};

static int64_t part_size(const struct split_state *s, size_t part, int64_t extent)
{
    if (!s->equal)
        return s->sizes[part];
    const int64_t size = extent / (int64_t)s->parts + (extent % (int64_t)s->parts != 0);
    const int64_t before = size * (int64_t)part;
    return before >= extent ? 0 : extent - before < size ? extent - before : size;
}

/* Sizes as an attribute or, from operator set 13 on, an input. */
static enum cvd_status split_sizes(const struct op_node *node, struct split_state *s)
{
    size_t count;
    if (node->def->max_inputs > 1) {
        s->equal = !op_input(node, 1);
        if (s->equal)
            return CVD_STATUS_OK;
        enum cvd_status status = op_value_ints(node, 1, s->sizes, OP_MAX_OUTPUTS, &count);
        if (status != CVD_STATUS_OK)
            return status;
    } else {
        const int64_t *values;
        enum cvd_status status = op_attr_ints(node, "split", &values, &count);
        if (status != CVD_STATUS_OK)
            return status;
        s->equal = !op_attr_find(node, "split");
        if (s->equal)
            return CVD_STATUS_OK;
        for (size_t i = 0; i < count && i < OP_MAX_OUTPUTS; i++)
            s->sizes[i] = values[i];
    }
    if (count != s->parts)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "split has %zu numbers; there are %zu outputs", count, s->parts);
    return CVD_STATUS_OK;
}

static enum cvd_status split_read(const struct op_node *node, struct split_state *s)
{
    s->parts = node->out_count;
    enum cvd_status status = op_check_type(node, 0, OP_ALL_TYPES, OP_ALL_TYPES);
    if (status != CVD_STATUS_OK || (status = list_axis(node, 0, &s->axis)) ||
        (status = split_sizes(node, s)))
        return status;
    const int64_t extent = node->in[0]->shape.dims[s->axis];
    if (s->equal && node->def->since < 18 && extent % (int64_t)s->parts != 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "extent %" PRId64 " of dimension %u cannot be split into %zu equal parts",
                       extent, s->axis, s->parts);
    if (s->equal && node->def->since >= 18) {
        int64_t parts;
        status = op_attr_int(node, "num_outputs", (int64_t)s->parts, &parts);
        if (status == CVD_STATUS_OK && parts != (int64_t)s->parts)
            status = op_fail(node, CVD_STATUS_INVALID_MODEL,
                             "num_outputs is %" PRId64 "; there are %zu outputs", parts, s->parts);
        return status;
    }
    int64_t total = 0;
    for (size_t i = 0; !s->equal && i < s->parts; i++) {
        if (s->sizes[i] < 0 || s->sizes[i] > extent - total)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "split[%zu] is %" PRId64 "; there are %" PRId64 " of %" PRId64 " left",
                           i, s->sizes[i], extent - total, extent);
        total += s->sizes[i];
    }
    if (!s->equal && total != extent)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "the sizes in split sum up to %" PRId64 "; dimension %u has %" PRId64, total,
                       s->axis, extent);
    return CVD_STATUS_OK;
}

static enum cvd_status split_infer(const struct op_node *node, struct op_value *out)
{
    struct split_state s;
    enum cvd_status status = split_read(node, &s);
    struct cvd_shape shape = node->in[0]->shape;
    for (size_t i = 0; i < node->out_count && status == CVD_STATUS_OK; i++) {
        shape.dims[s.axis] = part_size(&s, i, node->in[0]->shape.dims[s.axis]);
        status = op_set_output(node, &out[i], node->in[0]->dtype, &shape);
    }
    return status;
}

static enum cvd_status split_prepare(const struct op_node *node, const struct op_value *out,
                                     const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    (void)kernels;
    struct split_state read, *s;
    enum cvd_status status = split_read(node, &read);
    if (status != CVD_STATUS_OK)
        return status;
    const size_t bytes = offsetof(struct split_state, sizes) + read.parts * sizeof read.sizes[0];
    status = op_state(node, bytes, prepared, &s);
    if (status != CVD_STATUS_OK)
        return status;
    memcpy(s, &read, bytes);
    prepared->kernel = "move_ref";
    prepared->inputs_consumed = 2;
    prepared->mixes_images = s->axis == 0;
    return CVD_STATUS_OK;
}

static void split_run(const struct op_run *r)
{
    const struct split_state *s = r->state;
    const struct cvd_shape *in = &r->in[0]->shape;
    const size_t bytes = cvd_dtype_bytes(r->in[0]->dtype);
    const size_t outer = op_extent(in, 0, s->axis);
    const size_t inner = op_extent(in, s->axis + 1, in->rank);
    const int64_t extent = in->dims[s->axis];
    const char *x = r->in[0]->data;
    for (size_t i = 0; i < r->out_count; i++) {
        const size_t part = (size_t)part_size(s, i, extent) * inner;
        struct move m = {.bytes = bytes, .in = x, .out = r->out[i].data};
        move_add(&m, outer, (ptrdiff_t)((size_t)extent * inner));
        move_add(&m, part, 1);
        if (m.out)
            move_run(&m, r->pool);
        x += part * bytes;
    }
}

/* clang-format off */
#define SLICE(first_opset, last_opset, inputs_least, inputs_most)                                  \
    {.name = "Slice", .domain = "", .since = first_opset, .until = last_opset,                     \
     .flags = OP_BATCHWISE, .min_inputs = inputs_least, .max_inputs = inputs_most,                 \
     .min_outputs = 1, .max_outputs = 1,                                                           \
     .infer = slice_infer, .prepare = slice_prepare, .run = slice_run}
#define SPLIT(first_opset, last_opset, inputs_most)                                                \
    {.name = "Split", .domain = "", .since = first_opset, .until = last_opset,                     \
     .flags = OP_BATCHWISE, .min_inputs = 1, .max_inputs = inputs_most,                            \
     .min_outputs = 1, .max_outputs = OP_MAX_OUTPUTS,                                              \
     .infer = split_infer, .prepare = split_prepare, .run = split_run}

const struct op_def ops_slice[] = {
    SLICE(1, 9, 1, 1),
    SLICE(10, 0, 3, 5), /* starts, ends, axes and steps are inputs */
    SPLIT(2, 12, 1),
    SPLIT(13, 17, 2), /* the sizes are an input */
    SPLIT(18, 0, 2),  /* num_outputs; the last part may be shorter */
    {.name = NULL},
};
/* clang-format on */
