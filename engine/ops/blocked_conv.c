/* Conv on blocked maps and from plain maps with few channels (see blocked.h): what is decided and
 * packed at load. */
#include "engine/ops/blocked_conv.h"

#include "engine/kernels/conv_pack.h"
#include "engine/ops/op_util.h"
#include "engine/runtime/mem.h"

#include <string.h>

/* Of the second-level cache, for the inputs of a chunk where weights stay there beside it. Caches
 * have 1 to 2 MiB. */
#define CHUNK_BYTES ((size_t)384 << 10)
/* The same for a padded copy of plain rows, and for picked ones. */
#define COPY_BYTES ((size_t)64 << 10)
#define PICK_BYTES ((size_t)128 << 10)
/* Gathering takes as long as the multiply-adds of some 16 outputs. */
#define GATHER_MIN_OUTPUTS ((size_t)128)
/* Output maps of a group of FORM_PLANES: what fills the registers together with a row's vectors. */
#define MAX_PLANES 6

/* ---- which form ---- */

/* Pixels right of the map that the last output looks at. */
static int64_t overhang(const struct window *w)
{
    return (w->out[1] - 1) * w->stride[1] + (w->kernel[1] - 1) * w->dilation[1] - w->pad[1] -
           (w->in[1] - 1);
}

enum cvd_status blocked_conv_read(const struct op_node *node, struct blocked_conv *s)
{
    const struct cvd_shape *x = &node->in[0]->shape, *w = &node->in[1]->shape;
    struct cvd_shape shape;
    int64_t groups = 1;
    struct activation activation;
    enum cvd_status status = op_attr_int(node, "group", 1, &groups);
    if (status == CVD_STATUS_OK)
        status = window_read(node, &w->dims[2], &s->window);
    if (status == CVD_STATUS_OK) {
        s->window.ceil_mode = false;
        status = window_shape(node, &s->window, w->dims[0], &shape);
    }
    if (status == CVD_STATUS_OK)
        status = activation_read(node, &activation);
    if (status != CVD_STATUS_OK)
        return status;
    s->act = blocked_act(&activation);
    s->groups = (size_t)groups;
    s->in_channels = (size_t)x->dims[1];
    s->out_channels = (size_t)w->dims[0];
    s->group_in = s->in_channels / s->groups;
    s->group_out = s->out_channels / s->groups;
    return CVD_STATUS_OK;
}

unsigned blocked_conv_forms(const struct op_node *node, unsigned lanes, unsigned *gap)
{
    struct blocked_conv s;
    const struct op_value *weights = op_input(node, 1), *bias = op_input(node, 2);
    struct cvd_error err;
    struct op_node quiet = *node;
    quiet.err = &err;
    *gap = 0;
    if (node->in[0]->shape.rank != 4 || !weights->data || (bias && !bias->data) || lanes == 0 ||
        blocked_conv_read(&quiet, &s) != CVD_STATUS_OK || s.in_channels == 0)
        return 0;
    const int64_t right = overhang(&s.window);
    int64_t pad = s.window.pad[1] > right ? s.window.pad[1] : right;
    if (pad < 0)
        pad = 0;
    unsigned forms = 0;
    /* A gap costs memory traffic; padding wider than a map is no real network's. */
    if (pad <= s.window.in[1] && pad <= 64) {
        forms = BLOCKED_CONV_BLOCKED;
        *gap = (unsigned)pad;
    }
    if (s.groups == 1 && s.in_channels <= 16)
        forms |= BLOCKED_CONV_STEM;
    if (s.groups == 1 && s.in_channels <= 16 && s.window.stride[1] == 1 &&
        !op_input(node, RESIDUAL))
        forms |= BLOCKED_CONV_PLANES;
    return forms;
}

/* Whether 1 x 1 outputs see pixels some steps apart, all of them on the map, and enough outputs see
 * each to make up for gathering them. */
static bool is_sparse(const struct blocked_conv *s)
{
    const struct window *w = &s->window;
    return KERNEL(w, 0) * KERNEL(w, 1) == 1 && STRIDE(w, 0) * STRIDE(w, 1) > 1 && w->pad[0] == 0 &&
           w->pad[1] == 0 && (OUT(w, 0) - 1) * STRIDE(w, 0) < IN(w, 0) &&
           (OUT(w, 1) - 1) * STRIDE(w, 1) < IN(w, 1) && s->group_out >= GATHER_MIN_OUTPUTS;
}

/* Sets form, and what follows from the layouts. */
static bool choose_form(const struct op_node *node, const struct op_value *out, size_t lanes,
                        struct blocked_conv *s)
{
    unsigned gap;
    const struct op_layout x = node->in[0]->layout, y = out->layout;
    const struct op_value *residual = op_input(node, RESIDUAL);
    const unsigned forms = blocked_conv_forms(node, (unsigned)lanes, &gap);
    const struct window *w = &s->window;
    if (residual && (residual->layout.lanes != y.lanes || residual->layout.gap != y.gap))
        return false;
    if (x.lanes == lanes && y.lanes == lanes && x.gap >= gap && (forms & BLOCKED_CONV_BLOCKED)) {
        const bool pointwise = KERNEL(w, 0) * KERNEL(w, 1) == 1 &&
                               STRIDE(w, 0) * STRIDE(w, 1) == 1 && w->out[0] == w->in[0] &&
                               w->out[1] == w->in[1] && x.gap == 0;
        s->held = is_sparse(s);
        s->form = pointwise || s->held ? FORM_FLAT : FORM_ROWS;
        return true;
    }
    s->form = y.lanes == lanes ? FORM_STEM : FORM_PLANES;
    return x.lanes == 0 && (y.lanes == lanes ? (forms & BLOCKED_CONV_STEM) != 0
                                             : y.lanes == 0 && (forms & BLOCKED_CONV_PLANES));
}

/* ---- how to cut it ---- */

/*
 * Cycles of one step (one input of one tap) of a tile of m pixels and v vectors: two multiply-adds
 * a cycle, as many loads at best and five in three cycles as measured, a latency of four cycles;
 * and instructions, of which no more than some 2.8 a cycle begin while the core has a second thread
 * to serve, as it mostly does where machines are shared (a loop of nothing was measured).
 */
static double step_cost(size_t m, size_t v)
{
    const double work = (double)(m * v) / 2, loads = (double)(m + v) * 0.6;
    const double begun = (double)(m * v + m + v + 1) / 2.8;
    double cost = work > loads ? work : loads;
    if (cost < begun)
        cost = begun;
    return cost < 4 ? 4 : cost;
}

/* Cycles of a row of `pixels` outputs cut as the kernel cuts it, plus what begins and ends a tile.
 */
static double row_cost(const struct kernels *k, size_t pixels, size_t v, size_t steps)
{
    const size_t tiles = round_up_div(pixels, k->conv.max_pixels[v]);
    const size_t m = pixels / tiles, wider = pixels % tiles;
    return (double)steps *
               ((double)wider * step_cost(m + 1, v) + (double)(tiles - wider) * step_cost(m, v)) +
           (double)(tiles * 24 + pixels * v * 2);
}

/* Input channels that outputs first ... first + count - 1 see, from a whole block on. */
static void seen_channels(const struct blocked_conv *s, size_t first, size_t count, size_t *from,
                          size_t *total)
{
    const size_t last = min_size(first + count, s->out_channels) - 1;
    const size_t begin = first / s->group_out * s->group_in;
    const size_t end = (last / s->group_out + 1) * s->group_in;
    *from = begin / s->lanes * s->lanes;
    *total = end - *from;
}

/* Inputs for which a group has weights. */
static size_t group_inputs(const struct blocked_conv *s, const struct conv_group *g)
{
    return s->form == FORM_GROUPED ? s->unit_blocks * s->unit : g->total;
}

/* Cuts the output channels into groups of at most `most` vectors; groups of the operator that are
 * whole vectors are cut one by one. Returns how many there are; fills `to` unless it is NULL. */
static size_t cut_groups(const struct blocked_conv *s, size_t most, struct conv_group *to)
{
    const size_t size = s->form == FORM_PLANES ? 1 : s->lanes;
    const size_t runs = s->group_out % size == 0 ? s->groups : 1;
    const size_t vectors = round_up_div(s->out_channels / runs, size);
    const size_t pieces = round_up_div(vectors, most), taps = window_taps(&s->window);
    size_t first = 0, weights = 0;
    for (size_t i = 0; to && i < runs * pieces; i++) {
        struct conv_group *g = &to[i];
        g->first = first;
        g->vectors = vectors / pieces + (i % pieces < vectors % pieces);
        g->weights = weights;
        g->from = 0;
        g->total = s->in_channels;
        if (s->form != FORM_PLANES && s->form != FORM_STEM)
            seen_channels(s, first, g->vectors * size, &g->from, &g->total);
        first += g->vectors * size;
        weights += group_inputs(s, g) * taps * g->vectors * size;
    }
    return runs * pieces;
}

/* Outputs of a call. */
static size_t row_pixels(const struct blocked_conv *s)
{
    return s->form == FORM_FLAT ? s->chunk : OUT(&s->window, 1);
}

/* The most vectors of a group that give the least time, and the cycles of a row then. */
static size_t choose_vectors(const struct blocked_conv *s, const struct kernels *k,
                             struct conv_group *room, double *least)
{
    const size_t pixels = row_pixels(s);
    const size_t taps = window_taps(&s->window);
    size_t best = 1;
    *least = 0;
    for (size_t v = 1; v <= KERNEL_CONV_MAX_VECTORS; v++) {
        double cost = 0;
        const size_t count = cut_groups(s, v, room);
        for (size_t i = 0; i < count; i++)
            cost += row_cost(k, pixels, room[i].vectors, room[i].total * taps);
        if (v == 1 || cost < *least) {
            *least = cost;
            best = v;
        }
    }
    return best;
}

/* Rows of outputs whose inputs fit into `bytes`, in nearly equal chunks. */
static size_t choose_rows(const struct window *w, size_t row_floats, size_t bytes)
{
    const size_t fit = bytes / (row_floats * STRIDE(w, 0) * sizeof(float) + 1);
    const size_t chunks = round_up_div(OUT(w, 0), fit ? fit : 1);
    return round_up_div(OUT(w, 0), chunks);
}

/* Rows of the map that `rows` rows of outputs see. */
static size_t rows_under(const struct window *w, size_t rows)
{
    return (rows - 1) * STRIDE(w, 0) + (KERNEL(w, 0) - 1) * DILATION(w, 0) + 1;
}

static void choose_chunk(struct blocked_conv *s)
{
    const struct window *w = &s->window;
    const size_t weights = s->group_in * s->out_channels * window_taps(w) * sizeof(float);
    const size_t room = weights > WEIGHTS_BYTES ? INPUT_BYTES : CHUNK_BYTES;
    const size_t pixels = OUT(w, 0) * OUT(w, 1);
    if (s->form == FORM_FLAT) {
        const size_t fit = room / (s->in_channels * sizeof(float));
        const size_t chunks = round_up_div(pixels, fit > 96 ? fit : 96);
        s->chunk = round_up_div(pixels, chunks);
        if (s->held) {
            const size_t bytes = s->chunk * s->in_channels * sizeof(float);
            s->held = min_size(INPUT_BYTES / (bytes + 1) + 1, MAX_HELD);
        }
        return;
    }
    if (s->form == FORM_GROUPED) { /* a block at a time, all rows unless they are picked */
        s->copies = s->picks;
        s->copy_width = IN(w, 1) + s->in_gap;
        s->chunk = s->picks ? choose_rows(w, s->unit_blocks * s->lanes * s->copy_width, PICK_BYTES)
                            : OUT(w, 0);
        s->copy_rows = rows_under(w, s->chunk) + 1; /* that for the gap before them */
        return;
    }
    s->copies = s->form == FORM_PLANES ||
                (s->form == FORM_STEM &&
                 (w->pad[0] > 0 || w->pad[1] > 0 || w->pad_end[0] > 0 || w->pad_end[1] > 0));
    s->copy_width = (OUT(w, 1) - 1) * STRIDE(w, 1) + (KERNEL(w, 1) - 1) * DILATION(w, 1) + 1;
    s->chunk = choose_rows(w, s->in_channels * (s->copies ? s->copy_width : IN(w, 1)),
                           s->copies ? COPY_BYTES : room);
    s->copy_rows = rows_under(w, s->chunk);
}

/* Chooses FORM_GROUPED where it takes less time. */
static void choose_units(struct blocked_conv *s, const struct kernels *k, struct conv_group *room)
{
    double cost;
    if ((s->form != FORM_ROWS && s->form != FORM_FLAT) || !blocked_conv_units(s))
        return;
    choose_vectors(s, k, room, &cost);
    if (blocked_conv_unit_cost(s, row_pixels(s)) < cost) {
        s->form = FORM_GROUPED;
        s->held = 0;
        choose_chunk(s);
    }
}

/* ---- prepare ---- */

static void pack(const struct op_node *node, struct blocked_conv *s, float *weights, float *bias)
{
    const struct op_value *w = node->in[1], *b = op_input(node, 2);
    const size_t taps = window_taps(&s->window);
    const struct kernel_weights from = {
        .data = w->data,
        .output = s->group_in * taps,
        .input = taps,
        .outputs = s->out_channels,
        .group_outputs = s->group_out,
        .group_inputs = s->group_in,
        .taps = taps,
        .tap = 1,
    };
    const bool plain = s->form == FORM_STEM || s->form == FORM_PLANES;
    const size_t size = s->form == FORM_PLANES ? 1 : s->lanes;
    for (size_t i = 0; i < s->group_count; i++) {
        const struct conv_group *g = &s->group[i];
        if (s->form == FORM_GROUPED)
            kernel_pack_grouped(&from, g->first, s->lanes, s->unit, weights + g->weights);
        else
            kernel_pack_conv(&from, g->first, g->vectors * size, g->from, g->total,
                             plain ? 1 : s->lanes, weights + g->weights);
    }
    const size_t padded = round_up_div(s->out_channels, s->lanes) * s->lanes;
    memset(bias, 0, padded * sizeof *bias);
    if (b)
        memcpy(bias, b->data, s->out_channels * sizeof *bias);
}

/* Bytes of the state's parts; false when they overflow. */
static bool state_bytes(const struct blocked_conv *s, const struct conv_group *last,
                        size_t offsets[3], size_t *weight_floats, size_t *total)
{
    const size_t size = s->form == FORM_PLANES ? 1 : s->lanes;
    const size_t padded = round_up_div(s->out_channels, s->lanes) * s->lanes;
    size_t groups, bytes;
    return mem_mul(group_inputs(s, last), window_taps(&s->window), weight_floats) &&
           mem_mul(*weight_floats, last->vectors * size, weight_floats) &&
           mem_add(*weight_floats, last->weights, weight_floats) &&
           mem_mul(s->group_count, sizeof *s->group, &groups) &&
           mem_round_up(sizeof *s, &offsets[0]) && mem_add(offsets[0], groups, &bytes) &&
           mem_round_up(bytes, &offsets[1]) &&
           mem_add(offsets[1], padded * sizeof(float), &bytes) &&
           mem_round_up(bytes, &offsets[2]) && mem_mul(*weight_floats, sizeof(float), &bytes) &&
           mem_add(bytes, offsets[2], total);
}

static const char *kernel_name(const struct blocked_conv *s, const struct kernels *kernels)
{
    switch (s->form) {
    case FORM_GROUPED:
        return kernels->grouped.name;
    case FORM_PLANES:
        return kernels->planes.name;
    case FORM_ROWS:
    case FORM_FLAT:
    case FORM_STEM:
        break;
    }
    return kernels->conv.name;
}

static uint64_t saturating_mul(uint64_t a, uint64_t b)
{
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

void blocked_conv_count(const struct op_node *node, const struct op_value *out,
                        struct op_prepared *prepared)
{
    const struct cvd_shape *x = &node->in[0]->shape, *w = &node->in[1]->shape;
    const uint64_t in_elements = op_extent(x, 1, x->rank);
    const uint64_t out_elements = op_extent(&out->shape, 1, out->shape.rank);
    prepared->parameters = op_parameters(node, 1) + op_parameters(node, 2);
    prepared->macs = saturating_mul(out_elements, op_extent(w, 1, w->rank));
    prepared->dense_parameters = saturating_mul(in_elements + 1, out_elements);
    prepared->inputs_consumed = 1u << 1 | 1u << 2;
}

static enum cvd_status finish_prepare(const struct op_node *node, struct blocked_conv *read,
                                      struct conv_group *room, const struct kernels *kernels,
                                      struct op_prepared *prepared)
{
    size_t offsets[3], bytes, scratch = 0;
    double cost;
    const size_t most = read->form == FORM_PLANES    ? MAX_PLANES
                        : read->form == FORM_GROUPED ? 1
                                                     : choose_vectors(read, kernels, room, &cost);
    read->group_count = cut_groups(read, most, room);
    bool fits =
        state_bytes(read, &room[read->group_count - 1], offsets, &read->weight_floats, &bytes);
    if (read->copies)
        fits = fits && mem_mul(read->copy_rows, read->copy_width, &scratch) &&
               mem_mul(scratch, read->picks ? read->unit_blocks * read->lanes : read->in_channels,
                       &scratch) &&
               mem_add(scratch, COPY_EDGE, &scratch) &&
               mem_mul(scratch, sizeof(float), &prepared->scratch_bytes);
    if (read->held)
        fits = fits &&
               mem_mul(round_up_div(read->in_channels, read->lanes) * read->lanes, read->chunk,
                       &scratch) &&
               mem_mul(scratch, read->held * sizeof(float), &prepared->scratch_bytes);
    if (!fits)
        return op_fail(node, CVD_STATUS_OUT_OF_MEMORY, "weights do not fit in memory");
    char *state;
    enum cvd_status status = op_state(node, bytes, prepared, &state);
    if (status != CVD_STATUS_OK)
        return status;
    float *bias = (float *)(void *)(state + offsets[1]);
    float *weights = (float *)(void *)(state + offsets[2]);
    memcpy(state + offsets[0], room, read->group_count * sizeof *room);
    read->group = (const struct conv_group *)(void *)(state + offsets[0]);
    read->bias = bias;
    read->weights = weights;
    pack(node, read, weights, bias);
    memcpy(state, read, sizeof *read);
    return CVD_STATUS_OK;
}

static enum cvd_status blocked_conv_prepare(const struct op_node *node, const struct op_value *out,
                                            const struct kernels *kernels,
                                            struct op_prepared *prepared)
{
    struct blocked_conv s = {.lanes = kernels->lanes};
    enum cvd_status status = blocked_conv_read(node, &s);
    if (status != CVD_STATUS_OK)
        return status;
    if (!choose_form(node, out, kernels->lanes, &s))
        return op_fail(node, CVD_STATUS_INTERNAL,
                       "no kernel for layouts of %u and %u lanes with a gap of %u",
                       node->in[0]->layout.lanes, out->layout.lanes, node->in[0]->layout.gap);
    s.in_gap = node->in[0]->layout.gap;
    choose_chunk(&s);
    blocked_conv_count(node, out, prepared);
    s.macs = (size_t)prepared->macs;
    /* Groups of one vector are the most there can be. */
    const size_t most = round_up_div(s.out_channels, s.form == FORM_PLANES ? 1 : s.lanes);
    size_t bytes;
    struct conv_group *room = mem_mul(most, sizeof *room, &bytes) ? mem_alloc(bytes) : NULL;
    if (!room)
        return op_fail(node, CVD_STATUS_OUT_OF_MEMORY, "no memory for %zu groups", most);
    choose_units(&s, kernels, room);
    prepared->kernel = kernel_name(&s, kernels);
    status = finish_prepare(node, &s, room, kernels, prepared);
    mem_free(room);
    return status;
}

/* clang-format off */
const struct op_def ops_blocked_conv[] = {
    {.name = "Conv", .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION, .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 4, .min_outputs = 1, .max_outputs = 1,
     .infer = conv_infer, .prepare = blocked_conv_prepare, .run = blocked_conv_run},
    {.name = NULL},
};
/* clang-format on */
