/*
 * Channels of the domain "convd.blocked" (see blocked_maps.h): concatenations, splits, shuffles and
 * whatever they make together.
 *
 * At load each block of the output gets a list of the input blocks that it has channels of. A block
 * that is one input block as it stands is copied row by row, or left alone when the plan has put
 * that input there already; the others are the kernel's. A piece of work is some rows of all
 * blocks: neighbouring blocks tend to have their channels from the same input blocks.
 */
#include "engine/ops/blocked_maps.h"
#include "engine/ops/op_util.h"
#include "engine/runtime/mem.h"

#include <string.h>

/* Floats of a piece of work: some 5 microseconds, and little enough that its inputs are still in
 * the second-level cache when the next block needs them. */
#define PIECE_FLOATS ((size_t)32768)
#define MAX_LANES    64

/* An input block; distances in floats. */
struct source {
    size_t input;
    size_t first, row, image; /* to pixel (0, 0) of image 0; from one row, image to the next */
    const int *lane;          /* see struct kernel_channels_source */
};

struct out_block {
    size_t first, count; /* sources */
    bool whole;          /* a copy of the only one */
    bool flat;           /* all rows are one: no map has a gap */
};

struct channels_state {
    const struct out_block *block;
    const struct source *source;
    size_t blocks;
};

/* ---- infer ---- */

static enum cvd_status check_input(const struct op_node *node, size_t i)
{
    enum cvd_status status =
        op_check_type(node, i, OP_TYPE(CVD_DTYPE_FLOAT32), OP_TYPE(CVD_DTYPE_FLOAT32));
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *x = &node->in[0]->shape, *other = &node->in[i]->shape;
    bool agree = other->rank == 4 && x->rank == 4;
    for (unsigned d = 0; d < 4 && agree; d++)
        agree = d == 1 || other->dims[d] == x->dims[d];
    if (agree)
        return CVD_STATUS_OK;
    char first[CVD_SHAPE_TEXT_BYTES], text[CVD_SHAPE_TEXT_BYTES];
    return op_fail(node, CVD_STATUS_INVALID_MODEL, "inputs are %s and %s; they must be maps alike",
                   cvd_shape_text(x, first), cvd_shape_text(other, text));
}

static enum cvd_status channels_infer(const struct op_node *node, struct op_value *out)
{
    const int64_t *pairs;
    size_t count;
    enum cvd_status status = op_attr_ints(node, "channels", &pairs, &count);
    for (size_t i = 0; i < node->in_count && status == CVD_STATUS_OK; i++)
        status = check_input(node, i);
    if (status != CVD_STATUS_OK)
        return status;
    if (count == 0 || count % 2 != 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "channels has %zu numbers; it must have two for each channel", count);
    for (size_t i = 0; i < count; i += 2) {
        const int64_t input = pairs[i], channel = pairs[i + 1];
        if (input < 0 || (uint64_t)input >= node->in_count)
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "channels[%zu] is %lld; there are %zu inputs", i, (long long)input,
                           node->in_count);
        if (channel < 0 || channel >= node->in[input]->shape.dims[1])
            return op_fail(node, CVD_STATUS_INVALID_MODEL,
                           "channels[%zu] is %lld; input %lld has %lld channels", i + 1,
                           (long long)channel, (long long)input,
                           (long long)node->in[input]->shape.dims[1]);
    }
    struct cvd_shape shape = node->in[0]->shape;
    shape.dims[1] = (int64_t)(count / 2);
    return op_set_output(node, &out[0], CVD_DTYPE_FLOAT32, &shape);
}

/* ---- prepare ---- */

/* What an output block is cut from: its channels' pairs of input and channel. */
struct cut {
    const int64_t *pairs;
    size_t channels, lanes;
};

static size_t channel_of(const struct cut *c, size_t lane)
{
    return (size_t)c->pairs[2 * lane + 1];
}

static bool same_source(const struct cut *c, size_t a, size_t b)
{
    return c->pairs[2 * a] == c->pairs[2 * b] &&
           channel_of(c, a) / c->lanes == channel_of(c, b) / c->lanes;
}

/* Whether no lane before this one has its source. */
static bool is_first(const struct cut *c, size_t lane)
{
    size_t before = 0;
    while (!same_source(c, before, lane))
        before++;
    return before == lane;
}

static struct cut cut_of(const int64_t *pairs, size_t channels, size_t lanes, size_t block)
{
    const size_t left = channels - block * lanes;
    return (struct cut){pairs + 2 * block * lanes, left < lanes ? left : lanes, lanes};
}

static size_t count_sources(const int64_t *pairs, size_t channels, size_t lanes)
{
    size_t count = 0;
    for (size_t block = 0; block * lanes < channels; block++) {
        const struct cut c = cut_of(pairs, channels, lanes, block);
        for (size_t l = 0; l < c.channels; l++)
            count += is_first(&c, l);
    }
    return count;
}

/* The source of one of the lanes; `lane` becomes the source's. */
static struct source make_source(const struct op_node *node, const struct cut *c, size_t of,
                                 int *lane)
{
    const size_t input = (size_t)c->pairs[2 * of];
    const struct op_value *x = node->in[input];
    struct blocked_map map;
    blocked_map(&x->shape, x->layout, &map);
    for (size_t l = 0; l < c->lanes; l++)
        lane[l] =
            l < c->channels && same_source(c, l, of) ? (int)(channel_of(c, l) % c->lanes) : -1;
    return (struct source){
        .input = input,
        .first = map.first + channel_of(c, of) / c->lanes * map.block,
        .row = map.row,
        .image = map.image,
        .lane = lane,
    };
}

/* Whether the block is its source as it stands. Lanes without a channel may hold what any others
 * hold that have none: it is finite. */
static bool is_whole(const struct op_node *node, const struct cut *c, const struct source *s)
{
    const size_t begin = channel_of(c, 0) / c->lanes * c->lanes;
    for (size_t l = 0; l < c->lanes; l++)
        if (l < c->channels ? s->lane[l] != (int)l
                            : begin + l < (size_t)node->in[s->input]->shape.dims[1])
            return false;
    return true;
}

/* Returns how many blocks are copies. */
static size_t cut_blocks(const struct op_node *node, const int64_t *pairs,
                         const struct blocked_map *out, struct out_block *block,
                         struct source *source, int *lane)
{
    size_t sources = 0, copies = 0;
    for (size_t i = 0; i < out->blocks; i++) {
        const struct cut c = cut_of(pairs, out->channels, out->lanes, i);
        struct out_block b = {.first = sources, .flat = out->gap == 0};
        for (size_t l = 0; l < c.channels; l++) {
            if (!is_first(&c, l))
                continue;
            source[sources] = make_source(node, &c, l, lane + sources * out->lanes);
            b.flat = b.flat && source[sources].row == out->row;
            sources++;
        }
        b.count = sources - b.first;
        b.whole = b.count == 1 && is_whole(node, &c, &source[b.first]);
        block[i] = b;
        copies += b.whole;
    }
    return copies;
}

static bool layouts_fit(const struct op_node *node, const struct op_value *out,
                        const struct kernels *kernels)
{
    bool fit = out->layout.lanes == kernels->lanes && kernels->lanes <= MAX_LANES;
    for (size_t i = 0; i < node->in_count; i++)
        fit = fit && node->in[i]->layout.lanes == kernels->lanes;
    return fit;
}

/* Offsets of the blocks, the sources and the lanes in the state, and its end. */
static bool state_bytes(size_t blocks, size_t sources, size_t lanes, size_t offsets[4])
{
    const size_t sizes[] = {sizeof(struct out_block), sizeof(struct source), lanes * sizeof(int)};
    const size_t counts[] = {blocks, sources, sources};
    if (!mem_round_up(sizeof(struct channels_state), &offsets[0]))
        return false;
    for (size_t i = 0; i < 3; i++) {
        size_t bytes;
        if (!mem_mul(sizes[i], counts[i], &bytes) || !mem_add(offsets[i], bytes, &bytes) ||
            !mem_round_up(bytes, &offsets[i + 1]))
            return false;
    }
    return true;
}

static enum cvd_status channels_prepare(const struct op_node *node, const struct op_value *out,
                                        const struct kernels *kernels, struct op_prepared *prepared)
{
    const int64_t *pairs;
    size_t count, offsets[4];
    struct blocked_map map;
    char *state;
    enum cvd_status status = op_attr_ints(node, "channels", &pairs, &count);
    if (status != CVD_STATUS_OK)
        return status;
    if (!layouts_fit(node, out, kernels) || !blocked_map(&out->shape, out->layout, &map))
        return op_fail(node, CVD_STATUS_INTERNAL, "no kernel for these layouts");
    if (!state_bytes(map.blocks, count_sources(pairs, map.channels, map.lanes), map.lanes, offsets))
        return op_fail(node, CVD_STATUS_OUT_OF_MEMORY, "channels do not fit in memory");
    status = op_state(node, offsets[3], prepared, &state);
    if (status != CVD_STATUS_OK)
        return status;
    struct out_block *block = (struct out_block *)(void *)(state + offsets[0]);
    struct source *source = (struct source *)(void *)(state + offsets[1]);
    int *lane = (int *)(void *)(state + offsets[2]);
    const size_t copies = cut_blocks(node, pairs, &map, block, source, lane);
    *(struct channels_state *)(void *)state =
        (struct channels_state){.block = block, .source = source, .blocks = map.blocks};
    prepared->kernel = copies == map.blocks ? "memcpy" : kernels->channels.name;
    return CVD_STATUS_OK;
}

/* ---- run ---- */

struct channels_job {
    const struct channels_state *s;
    const struct kernels *kernels;
    const struct op_tensor *const *in;
    struct blocked_map out;
    float *y; /* first pixel */
};

static const float *source_at(const struct channels_job *j, const struct source *s, size_t image,
                              size_t row)
{
    return (const float *)j->in[s->input]->data + s->first + image * s->image + row * s->row;
}

/* Whether the block is where it should be already: its input is a part of the output. */
static bool is_there(const struct channels_job *j, size_t block)
{
    const struct out_block *b = &j->s->block[block];
    const struct source *s = &j->s->source[b->first];
    return b->whole && source_at(j, s, 0, 0) == j->y + block * j->out.block &&
           s->row == j->out.row && (s->image == j->out.image || j->out.images == 1);
}

static void copy_rows(const struct channels_job *j, size_t image, size_t block, size_t first,
                      size_t end)
{
    const struct source *s = &j->s->source[j->s->block[block].first];
    const struct blocked_map *out = &j->out;
    float *base = j->y + image * out->image, *to = base + block * out->block + first * out->row;
    const float *from = source_at(j, s, image, first);
    if (s->row == out->row) { /* with the gaps behind the rows */
        memcpy(to, from, (end - first) * out->row * sizeof *to);
        return;
    }
    for (size_t y = first; y < end; y++, to += out->row, from += s->row)
        memcpy(to, from, out->width * out->lanes * sizeof *to);
    blocked_clear_gaps(out, base, block, 1, first, end);
}

static void pick_rows(const struct channels_job *j, size_t image, size_t block, size_t first,
                      size_t end)
{
    const struct out_block *b = &j->s->block[block];
    const struct blocked_map *out = &j->out;
    struct kernel_channels_source sources[MAX_LANES];
    float *base = j->y + image * out->image;
    for (size_t i = 0; i < b->count; i++) {
        const struct source *s = &j->s->source[b->first + i];
        sources[i] = (struct kernel_channels_source){
            .in = source_at(j, s, image, first), .row = s->row, .lane = s->lane};
    }
    const struct kernel_channels c = {
        .sources = sources,
        .count = b->count,
        .y = base + block * out->block + first * out->row,
        .rows = b->flat ? 1 : end - first,
        .columns = b->flat ? (end - first) * out->width : out->width,
        .y_row = out->row,
    };
    j->kernels->channels.fn(&c);
    blocked_clear_gaps(out, base, block, 1, first, end);
}

static void run_rows(const struct channels_job *j, size_t image, size_t first, size_t end)
{
    for (size_t block = 0; block < j->s->blocks; block++) {
        if (!j->s->block[block].whole)
            pick_rows(j, image, block, first, end);
        else if (!is_there(j, block))
            copy_rows(j, image, block, first, end);
    }
    if (first == 0)
        blocked_clear_lead(&j->out, j->y + image * j->out.image);
}

/* Rows are numbered through the images. */
static void run_range(void *ctx, size_t begin, size_t end)
{
    const struct channels_job *j = ctx;
    const size_t height = j->out.height;
    while (begin < end) {
        const size_t first = begin % height;
        const size_t rows = end - begin < height - first ? end - begin : height - first;
        run_rows(j, begin / height, first, first + rows);
        begin += rows;
    }
}

static void channels_run(const struct op_run *r)
{
    struct channels_job j = {.s = r->state, .kernels = r->kernels, .in = r->in};
    const struct blocked_map *out = &j.out;
    if (!r->out[0].data || !blocked_map(&r->out[0].shape, r->out[0].layout, &j.out) ||
        out->images * out->height * out->width == 0)
        return;
    j.y = (float *)r->out[0].data + out->first;
    size_t blocks = 0;
    for (size_t block = 0; block < out->blocks; block++)
        blocks += !is_there(&j, block);
    if (blocks == 0)
        return;
    const size_t rows = out->images * out->height;
    const size_t pieces = rows * blocks * out->width * out->lanes / PIECE_FLOATS + 1;
    op_for_range(r->pool, rows, (rows - 1) / pieces + 1, run_range, &j);
}

/* clang-format off */
const struct op_def ops_blocked_channels[] = {
    {.name = "Channels", .domain = BLOCKED_DOMAIN, .since = BLOCKED_VERSION,
     .flags = OP_BATCHWISE,
     .min_inputs = 1, .max_inputs = OP_MAX_INPUTS, .min_outputs = 1, .max_outputs = 1,
     .infer = channels_infer, .prepare = channels_prepare, .run = channels_run},
    {.name = NULL},
};
/* clang-format on */
