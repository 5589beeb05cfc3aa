/*
 * Conv on blocked maps, at run time.
 *
 * Output channels are cut into groups of a few vectors, rows into chunks whose inputs stay in the
 * second-level cache; a unit of work is one group's part of one chunk of one image. Units follow
 * each other so that little has to come into that cache, and while one is computed the weights of
 * the next are fetched. Sums never depend on how work is cut.
 */
#include "engine/ops/blocked_conv.h"

#include "engine/ops/op_util.h"
#include "engine/runtime/mem.h"

#include <string.h>

/* Of the first-level cache, for weights that stay there while the tiles of a chunk pass by. */
#define PIECE_BYTES ((size_t)24 << 10)
/* For each column of a block, some 200 cycles: costs a hundredth of them, and a line for each is
 * what comes in that time at most. */
#define PREFETCHES ((size_t)8)
/* How far ahead of their use weights are fetched where they pass by once. More than comes while
 * memory is waited for, and little beside what else is in the second-level cache. */
#define AHEAD_BYTES ((size_t)128 << 10)
/* Multiply-adds of a part worth giving to another thread: some 10 microseconds. */
#define PART_MACS ((size_t)500000)

struct conv_job {
    const struct blocked_conv *s;
    const struct kernels *kernels;
    struct blocked_map in, out; /* where blocked */
    size_t residual_image;      /* from one image to the next */
    const float *x, *residual;  /* first pixels; residual may be NULL */
    float *y;
    size_t images, groups; /* groups: those that are units of their own */
    /* Rows, or pixels of FORM_FLAT: of a map, a zone and a chunk; zones, and chunks of one. */
    size_t rows, zone, zones, chunk, chunks;
    size_t items, together; /* chunks of a zone of all images; how many meet a group in turn */
    size_t zone_units, zone_parts;
    char *scratch;
    size_t scratch_stride;
};

/* Where an image's first pixels are. */
struct conv_image {
    const float *x, *residual; /* residual may be NULL */
    const float *gathered;     /* the unit's pixels as [block][pixel][lanes]; NULL: as they lie */
    float *y;
};

/* Rows of the kernel that lie on the map for output row y. */
static void rows_inside(const struct window *w, size_t y, size_t *first, size_t *count)
{
    const int64_t top = (int64_t)y * w->stride[0] - w->pad[0], step = w->dilation[0];
    const int64_t begin = top < 0 ? (-top + step - 1) / step : 0;
    int64_t end = top < w->in[0] ? (w->in[0] - 1 - top) / step + 1 : 0;
    if (end > w->kernel[0])
        end = w->kernel[0];
    *first = end > begin ? (size_t)begin : 0;
    *count = end > begin ? (size_t)(end - begin) : 0;
}

/* The row of the map under kernel row `row` of output row y. */
static int64_t input_row(const struct window *w, size_t y, size_t row)
{
    return (int64_t)y * w->stride[0] - w->pad[0] + (int64_t)row * w->dilation[0];
}

/* The row of outputs after the last that sees all rows of the kernel. */
static size_t rows_end(const struct window *w)
{
    const int64_t room = w->in[0] + w->pad[0] - (w->kernel[0] - 1) * w->dilation[0];
    return room > 0 ? (size_t)((room - 1) / w->stride[0] + 1) : 0;
}

/* The input under kernel row `row`, column 0 of output (y, 0); it may be in a gap. */
static const float *input_at(const struct conv_job *j, const float *image, size_t y, size_t row)
{
    const struct window *w = &j->s->window;
    return image + input_row(w, y, row) * (int64_t)j->in.row - w->pad[1] * (int64_t)j->in.lanes;
}

/* Weights that will be needed after those at hand, and how many calls have time to fetch them. */
struct coming {
    const char *weights;
    size_t bytes;
};

/* Lets a call fetch its share, one of `calls` equal ones, of what is coming. */
static void prefetch_share(const struct conv_job *j, const struct coming *coming, size_t call,
                           size_t calls, struct kernel_conv *c)
{
    const size_t tiles = round_up_div(c->pixels, j->kernels->conv.max_pixels[c->vectors]);
    const size_t steps = tiles * (c->total / c->inner) * c->rows * c->columns;
    const size_t share = coming->bytes / calls;
    c->prefetches = 0;
    if (share == 0 || steps == 0)
        return;
    c->prefetch = coming->weights + call * share;
    c->prefetches = PREFETCHES;
    c->prefetch_step = min_size(round_up_div(share, steps * PREFETCHES), 64);
}

/*
 * A group's sums are cut into pieces, whole blocks of input channels, whose weights stay in the
 * first-level cache while all tiles of a chunk pass by; otherwise each tile would bring all weights
 * of the group from the second-level one, which takes longer than its multiply-adds. The sums wait
 * in the output meanwhile.
 */
struct pieces {
    size_t blocks, count; /* of input channels in a piece; pieces */
};

static struct pieces cut_sums(const struct conv_job *j, const struct conv_group *g)
{
    const struct blocked_conv *s = j->s;
    const size_t blocks = round_up_div(g->total, s->lanes);
    const size_t bytes = s->lanes * window_taps(&s->window) * g->vectors * s->lanes * sizeof(float);
    const size_t fit = PIECE_BYTES / bytes ? PIECE_BYTES / bytes : 1;
    const size_t count = round_up_div(blocks, fit);
    return (struct pieces){round_up_div(blocks, count), count};
}

/* Sets what a call for piece i has of the whole sum. */
static void take_piece(const struct conv_job *j, const struct conv_group *g,
                       const struct pieces *pieces, size_t i, struct kernel_conv *c)
{
    const struct blocked_conv *s = j->s;
    const size_t first = i * pieces->blocks * s->lanes;
    const bool last = i + 1 == pieces->count;
    c->weights = s->weights + g->weights + first * window_taps(&s->window) * g->vectors * s->lanes;
    c->total = last ? g->total - first : pieces->blocks * s->lanes;
    c->bias = i == 0 ? s->bias + g->first : NULL;
    c->act = last ? s->act : (struct kernel_act){0};
}

static void run_rows(const struct conv_job *j, const struct conv_group *g,
                     const struct conv_image *image, size_t first, size_t end,
                     const struct coming *coming)
{
    const struct blocked_conv *s = j->s;
    const struct window *w = &s->window;
    const size_t block = g->first / s->lanes;
    const float *in = image->x + g->from / s->lanes * j->in.block;
    const struct pieces pieces = cut_sums(j, g);
    struct kernel_conv c = {
        .pixels = OUT(w, 1),
        .vectors = g->vectors,
        .in_pixel = STRIDE(w, 1) * s->lanes,
        .in_inner = 1,
        .in_column = DILATION(w, 1) * s->lanes,
        .in_row = DILATION(w, 0) * j->in.row,
        .in_block = j->in.block,
        .inner = s->lanes,
        .columns = KERNEL(w, 1),
        .weight_rows = KERNEL(w, 0),
        .out_pixel = s->lanes,
        .out_vector = j->out.block,
        .width = SIZE_MAX,
        .last_lanes = s->lanes,
    };
    for (size_t i = 0; i < pieces.count; i++) {
        take_piece(j, g, &pieces, i, &c);
        for (size_t y = first; y < end; y++) {
            const size_t at = block * j->out.block + y * j->out.row;
            rows_inside(w, y, &c.first_row, &c.rows);
            c.in = c.rows ? input_at(j, in, y, c.first_row) + i * pieces.blocks * j->in.block : in;
            c.out = image->y + at;
            c.residual = image->residual && i + 1 == pieces.count ? image->residual + at : NULL;
            prefetch_share(j, coming, i * (end - first) + y - first, pieces.count * (end - first),
                           &c);
            j->kernels->conv.fn(&c);
        }
    }
    blocked_clear_gaps(&j->out, image->y, block, g->vectors, first, end);
    if (block == 0 && first == 0)
        blocked_clear_lead(&j->out, image->y);
}

/* Brings what output rows first ... end - 1 of a block see into scratch; returns its first row. */
static int64_t pick_rows(const struct conv_job *j, const float *image, size_t block, size_t first,
                         size_t end, float *scratch)
{
    const struct window *w = &j->s->window;
    int64_t top = input_row(w, first, 0), bottom = input_row(w, end - 1, KERNEL(w, 0) - 1) + 1;
    top = top < 0 ? 0 : top;
    bottom = bottom > w->in[0] ? w->in[0] : bottom;
    if (top < bottom)
        blocked_conv_pick(j->s, j->kernels, &j->in, image, block, (size_t)top,
                          (size_t)(bottom - top), scratch);
    return top;
}

static void run_grouped(const struct conv_job *j, const struct conv_group *g,
                        const struct conv_image *image, size_t first, size_t end, float *scratch)
{
    const struct blocked_conv *s = j->s;
    const struct window *w = &s->window;
    const size_t block = g->first / s->lanes;
    const size_t in_row = s->picks ? s->copy_width * s->lanes : j->in.row;
    const float *in = s->picks ? scratch + j->in.first : image->x + block * j->in.block;
    const int64_t top = s->picks ? pick_rows(j, image->x, block, first, end, scratch) : 0;
    struct kernel_grouped c = {
        .weights = s->weights + g->weights,
        .bias = s->bias + g->first,
        .pixels = OUT(w, 1),
        .group = s->unit,
        .blocks = s->unit_blocks,
        .out_row = j->out.row,
        .in_step = STRIDE(w, 0) * in_row,
        .in_pixel = STRIDE(w, 1) * s->lanes,
        .in_column = DILATION(w, 1) * s->lanes,
        .in_row = DILATION(w, 0) * in_row,
        .in_block = s->copy_rows * in_row,
        .columns = KERNEL(w, 1),
        .weight_rows = KERNEL(w, 0),
        .act = s->act,
    };
    for (size_t y = first; y < end; y += c.out_rows) {
        const size_t at = block * j->out.block + y * j->out.row;
        rows_inside(w, y, &c.first_row, &c.rows);
        c.out_rows = c.rows == KERNEL(w, 0) ? min_size(end, rows_end(w)) - y : 1;
        c.in = in;
        if (c.rows)
            c.in += (input_row(w, y, c.first_row) - top) * (int64_t)in_row -
                    w->pad[1] * (int64_t)s->lanes;
        c.out = image->y + at;
        c.residual = image->residual ? image->residual + at : NULL;
        j->kernels->grouped.fn(&c);
    }
    blocked_clear_gaps(&j->out, image->y, block, 1, first, end);
    if (block == 0 && first == 0)
        blocked_clear_lead(&j->out, image->y);
}

/* Brings the inputs of outputs first ... end - 1 into scratch, as [block][pixel][lanes]. */
static void gather(const struct conv_job *j, const float *image, size_t first, size_t end,
                   float *to)
{
    const struct window *w = &j->s->window;
    const size_t lanes = j->s->lanes, width = j->out.width, pixel = STRIDE(w, 1) * lanes;
    for (size_t b = 0; b < j->in.blocks; b++, image += j->in.block) {
        size_t x = first % width;
        const float *row = image + first / width * STRIDE(w, 0) * j->in.row;
        for (size_t p = first; p < end; p++, to += lanes) {
            const float *from = row + x * pixel;
            if (lanes == 16) /* sizes that are known take no call */
                memcpy(to, from, 16 * sizeof *to);
            else if (lanes == 8)
                memcpy(to, from, 8 * sizeof *to);
            else
                memcpy(to, from, lanes * sizeof *to);
            if (++x == width) {
                x = 0;
                row += STRIDE(w, 0) * j->in.row;
            }
        }
    }
}

/* Pixels first ... end - 1 of a map that is one row. */
static void run_flat(const struct conv_job *j, const struct conv_group *g,
                     const struct conv_image *image, size_t first, size_t end,
                     const struct coming *coming)
{
    const struct blocked_conv *s = j->s;
    const size_t block = g->first / s->lanes, width = j->out.width;
    const size_t at = block * j->out.block + first / width * j->out.row + first % width * s->lanes;
    const size_t in_block = image->gathered ? (end - first) * s->lanes : j->in.block;
    const float *in = image->gathered ? image->gathered : image->x + first * s->lanes;
    in += g->from / s->lanes * in_block;
    const struct pieces pieces = cut_sums(j, g);
    struct kernel_conv c = {
        .out = image->y + at,
        .pixels = end - first,
        .vectors = g->vectors,
        .in_pixel = s->lanes,
        .in_inner = 1,
        .in_block = in_block,
        .inner = s->lanes,
        .columns = 1,
        .rows = 1,
        .weight_rows = 1,
        .out_pixel = s->lanes,
        .out_vector = j->out.block,
        .out_x = first % width,
        .width = j->out.gap ? width : SIZE_MAX,
        .out_skip = j->out.first,
        .last_lanes = s->lanes,
    };
    for (size_t i = 0; i < pieces.count; i++) {
        take_piece(j, g, &pieces, i, &c);
        c.in = in + i * pieces.blocks * in_block;
        c.residual = image->residual && i + 1 == pieces.count ? image->residual + at : NULL;
        prefetch_share(j, coming, i, pieces.count, &c);
        j->kernels->conv.fn(&c);
    }
    /* The rows that end here. */
    blocked_clear_gaps(&j->out, image->y, block, g->vectors, first / width, end / width);
    if (block == 0 && first == 0)
        blocked_clear_lead(&j->out, image->y);
}

/* Copies the input rows under output rows first ... end - 1, with their padding. */
static void copy_rows(const struct blocked_conv *s, const float *image, size_t first, size_t end,
                      float *to)
{
    const struct window *w = &s->window;
    const size_t width = IN(w, 1), left = min_size((size_t)w->pad[1], s->copy_width);
    const size_t copied = min_size(width, s->copy_width - left);
    const size_t right = s->copy_width - left - copied;
    const size_t rows = (end - first - 1) * STRIDE(w, 0) + (KERNEL(w, 0) - 1) * DILATION(w, 0) + 1;
    const int64_t top = (int64_t)(first * STRIDE(w, 0)) - w->pad[0];
    const float edge[COPY_EDGE] = {0};
    for (size_t i = 0; i < s->in_channels; i++) {
        float *row = to + i * s->copy_rows * s->copy_width;
        for (size_t r = 0; r < rows; r++, row += s->copy_width) {
            const int64_t y = top + (int64_t)r;
            if (y < 0 || y >= w->in[0]) {
                memset(row, 0, s->copy_width * sizeof *row);
                continue;
            }
            /* Edges of a fixed size cost no call. They may reach into the next row, which is
             * written later, or behind the last one, where kernels that look at whole vectors want
             * to read something anyway. */
            memcpy(row, edge, sizeof edge);
            if (left > COPY_EDGE)
                memset(row, 0, left * sizeof *row);
            memcpy(row + left, image + (i * IN(w, 0) + (size_t)y) * width, copied * sizeof *row);
            memcpy(row + left + copied, edge, sizeof edge);
            if (right > COPY_EDGE)
                memset(row + left + copied, 0, right * sizeof *row);
        }
        memcpy(row, edge, sizeof edge);
    }
}

static void run_stem(const struct conv_job *j, const struct conv_image *image, size_t first,
                     size_t end, float *scratch)
{
    const struct blocked_conv *s = j->s;
    const struct window *w = &s->window;
    const size_t in_row = s->copies ? s->copy_width : IN(w, 1);
    const float *in = s->copies ? scratch : image->x + first * STRIDE(w, 0) * in_row;
    if (s->copies)
        copy_rows(s, image->x, first, end, scratch);
    struct kernel_conv c = {
        .pixels = OUT(w, 1),
        .in_pixel = STRIDE(w, 1),
        .in_inner = DILATION(w, 1),
        .in_row = DILATION(w, 0) * in_row,
        .in_block = s->copies ? s->copy_rows * in_row : IN(w, 0) * in_row,
        .total = s->in_channels * KERNEL(w, 1),
        .inner = KERNEL(w, 1),
        .columns = 1,
        .rows = KERNEL(w, 0),
        .weight_rows = KERNEL(w, 0),
        .out_pixel = s->lanes,
        .out_vector = j->out.block,
        .width = SIZE_MAX,
        .last_lanes = s->lanes,
        .act = s->act,
    };
    for (size_t i = 0; i < s->group_count; i++) {
        const struct conv_group *g = &s->group[i];
        const size_t block = g->first / s->lanes;
        c.weights = s->weights + g->weights;
        c.bias = s->bias + g->first;
        c.vectors = g->vectors;
        for (size_t y = first; y < end; y++) {
            const size_t at = block * j->out.block + y * j->out.row;
            c.in = in + (y - first) * STRIDE(w, 0) * in_row;
            c.out = image->y + at;
            c.residual = image->residual ? image->residual + at : NULL;
            j->kernels->conv.fn(&c);
        }
        blocked_clear_gaps(&j->out, image->y, block, g->vectors, first, end);
        if (block == 0 && first == 0)
            blocked_clear_lead(&j->out, image->y);
    }
}

static void run_planes(const struct conv_job *j, const float *image, float *out, size_t first,
                       size_t end, float *scratch)
{
    const struct blocked_conv *s = j->s;
    const struct window *w = &s->window;
    copy_rows(s, image, first, end, scratch);
    const size_t plane = OUT(w, 0) * OUT(w, 1);
    struct kernel_planes p = {
        .in = scratch,
        .rows = end - first,
        .columns = OUT(w, 1),
        .channels = s->in_channels,
        .window_rows = KERNEL(w, 0),
        .window_columns = KERNEL(w, 1),
        .in_row = STRIDE(w, 0) * s->copy_width,
        .in_channel = s->copy_rows * s->copy_width,
        .in_tap_row = DILATION(w, 0) * s->copy_width,
        .in_tap_column = DILATION(w, 1),
        .out_row = OUT(w, 1),
        .out_map = plane,
        .act = s->act,
    };
    for (size_t i = 0; i < s->group_count; i++) {
        const struct conv_group *g = &s->group[i];
        p.weights = s->weights + g->weights;
        p.bias = s->bias + g->first;
        p.maps = g->vectors;
        p.out = out + g->first * plane + first * OUT(w, 1);
        j->kernels->planes.fn(&p);
    }
}

struct place {
    size_t group, image;
    size_t item, turn; /* chunk of all images; its number among those that meet a group in turn */
    size_t first, end; /* rows, or pixels of FORM_FLAT */
};

/* Units are numbered zone by zone, and in a zone so that `together` neighbouring items, chunks of
 * images, meet the first group, then the second ..., then the next items do. */
static struct place place_of(const struct conv_job *j, size_t unit)
{
    const size_t zone = unit / j->zone_units, at = unit % j->zone_units;
    const size_t first = at / (j->together * j->groups) * j->together;
    const size_t size = min_size(j->together, j->items - first);
    const size_t rest = at - first * j->groups, item = first + rest % size;
    const size_t begin = zone * j->zone + item % j->chunks * j->chunk;
    const size_t end = min_size((zone + 1) * j->zone, j->rows);
    return (struct place){
        .group = rest / size,
        .image = item / j->chunks,
        .item = zone * j->items + item,
        .turn = rest % size,
        .first = min_size(begin, end),
        .end = min_size(begin + j->chunk, end),
    };
}

static size_t group_bytes(const struct blocked_conv *s, size_t group)
{
    const size_t end = group + 1 < s->group_count ? s->group[group + 1].weights : s->weight_floats;
    return (end - s->group[group].weights) * sizeof(float);
}

/*
 * The weights that are needed after those of `unit`, as far as the unit should fetch them. Where
 * each group meets one unit, weights pass by in the order in which they stand, and what is fetched
 * is some way ahead; at the end that is behind them, where as a rule the next layer's are. Of many
 * units with the same group each takes a share of the next group. Groups that pass again and again
 * stay in the cache after the first time.
 */
static struct coming coming_after(const struct conv_job *j, size_t unit)
{
    const struct blocked_conv *s = j->s;
    const size_t round = j->together * j->groups, at = unit % j->zone_units;
    const size_t same = min_size(j->together, j->items - at / round * j->together);
    const bool stay = s->weight_floats * sizeof(float) <= WEIGHTS_BYTES;
    const size_t group = place_of(j, unit).group;
    const char *weights = (const char *)(s->weights + s->group[group].weights);
    if (stay && at >= round)
        return (struct coming){NULL, 0};
    if (same == 1)
        return (struct coming){weights + AHEAD_BYTES, group_bytes(s, group)};
    if (at + same >= j->zone_units)
        return (struct coming){NULL, 0};
    const size_t next = place_of(j, unit + same).group;
    if (next == group)
        return (struct coming){NULL, 0};
    const size_t share = group_bytes(s, next) / same;
    weights = (const char *)(s->weights + s->group[next].weights);
    return (struct coming){weights + at % round % same * share, share};
}

/* The pixels of a unit in scratch, gathered unless they are there already; held: which chunks are,
 * plus one. */
static const float *gather_unit(const struct conv_job *j, const struct place *at,
                                const float *image, float *scratch, size_t *held)
{
    float *to = scratch + at->turn * j->s->chunk * j->in.blocks * j->s->lanes;
    if (held[at->turn] != at->item + 1)
        gather(j, image, at->first, at->end, to);
    held[at->turn] = at->item + 1;
    return to;
}

static void run_unit(const struct conv_job *j, size_t unit, unsigned slot, size_t *held)
{
    const struct blocked_conv *s = j->s;
    const struct window *w = &s->window;
    const struct place at = place_of(j, unit);
    const struct conv_group *group = &s->group[at.group];
    const size_t first = at.first, end = at.end;
    const size_t plain = s->in_channels * IN(w, 0) * IN(w, 1);
    struct conv_image image = {
        .x = j->x + at.image * (s->form < FORM_STEM ? j->in.image : plain),
        .residual = j->residual ? j->residual + at.image * j->residual_image : NULL,
        .y = j->y + at.image * (s->form == FORM_PLANES ? s->out_channels * OUT(w, 0) * OUT(w, 1)
                                                       : j->out.image),
    };
    if (first == end)
        return;
    const struct coming coming = coming_after(j, unit);
    float *scratch = (float *)(void *)(j->scratch + slot * j->scratch_stride);
    switch (s->form) {
    case FORM_ROWS:
        run_rows(j, group, &image, first, end, &coming);
        break;
    case FORM_FLAT:
        if (s->held)
            image.gathered = gather_unit(j, &at, image.x, scratch, held);
        run_flat(j, group, &image, first, end, &coming);
        break;
    case FORM_GROUPED:
        run_grouped(j, group, &image, first, end, scratch);
        break;
    case FORM_STEM:
        run_stem(j, &image, first, end, scratch);
        break;
    case FORM_PLANES:
        run_planes(j, image.x, image.y, first, end, scratch);
        break;
    }
}

static void conv_part(void *ctx, size_t part, unsigned slot)
{
    const struct conv_job *j = ctx;
    const size_t zone = part / j->zone_parts, piece = part % j->zone_parts;
    const size_t first = zone * j->zone_units;
    const size_t end = first + (piece + 1) * j->zone_units / j->zone_parts;
    size_t held[MAX_HELD] = {0};
    for (size_t unit = first + piece * j->zone_units / j->zone_parts; unit < end; unit++)
        run_unit(j, unit, slot, held);
}

/* Bytes of a chunk's inputs. */
static size_t chunk_bytes(const struct conv_job *j)
{
    const struct blocked_conv *s = j->s;
    const size_t pixels =
        s->form == FORM_FLAT ? j->chunk : j->chunk * STRIDE(&s->window, 0) * IN(&s->window, 1);
    return pixels * s->in_channels * sizeof(float);
}

/*
 * How many chunks a group's weights should meet in turn: as many as stay in the cache meanwhile, or
 * all of them, whichever brings less into the cache. The first way the weights come once for each
 * so many chunks, the second way all chunks come once for each group.
 */
static size_t choose_together(const struct conv_job *j)
{
    const struct blocked_conv *s = j->s;
    const size_t weights = s->weight_floats * sizeof(float), chunk = chunk_bytes(j);
    if (weights <= WEIGHTS_BYTES)
        return 1;
    const size_t fit = INPUT_BYTES / (chunk + 1) ? INPUT_BYTES / (chunk + 1) : 1;
    if (fit >= j->items)
        return j->items;
    const double often = (double)round_up_div(j->items, fit) * (double)weights;
    const double inputs = (double)chunk * (double)j->items;
    return often + inputs < (double)weights + inputs * (double)j->groups ? fit : j->items;
}

/* Cuts the work for the pool's threads; returns the number of parts. */
static size_t cut_work(struct conv_job *j, const struct tpool *pool)
{
    const struct blocked_conv *s = j->s;
    const struct window *w = &s->window;
    const bool plain = s->form == FORM_STEM || s->form == FORM_PLANES;
    const size_t threads = pool ? tpool_threads(pool) : 1;
    const size_t row = s->form == FORM_FLAT ? j->out.width : 1;
    const size_t least = s->form == FORM_FLAT ? 28 : 1;
    size_t work;
    if (!mem_mul(s->macs, j->images, &work))
        work = SIZE_MAX;
    const size_t parts = threads > 1 ? min_size(8 * threads, work / PART_MACS + 1) : 1;
    j->groups = plain ? 1 : s->group_count;
    j->rows = OUT(w, 0) * row;
    j->zones = plain ? 1 : blocked_zones(&j->out, pool);
    j->zone = round_up_div(OUT(w, 0), j->zones) * row;
    j->zone_parts = round_up_div(parts, j->zones);
    j->chunks = round_up_div(j->zone, s->chunk);
    j->chunk = round_up_div(j->zone, j->chunks);
    while (j->images * j->groups * j->chunks < j->zone_parts && j->chunk >= 2 * least) {
        j->chunk = round_up_div(j->chunk, 2);
        j->chunks = round_up_div(j->zone, j->chunk);
    }
    j->items = j->images * j->chunks;
    j->together = choose_together(j);
    if (s->held)
        j->together = min_size(j->together, s->held);
    j->zone_units = j->items * j->groups;
    j->zone_parts = min_size(j->zone_parts, j->zone_units);
    return j->zones * j->zone_parts;
}

void blocked_conv_run(const struct op_run *r)
{
    const struct op_tensor *x = r->in[0], *residual = op_run_input(r, RESIDUAL);
    struct conv_job j = {
        .s = r->state,
        .kernels = r->kernels,
        .x = x->data,
        .residual = residual ? residual->data : NULL,
        .y = r->out[0].data,
        .images = (size_t)x->shape.dims[0],
        .scratch = r->scratch,
        .scratch_stride = r->scratch_stride,
    };
    if (!j.y || j.images == 0)
        return;
    if (blocked_map(&x->shape, x->layout, &j.in))
        j.x += j.in.first;
    if (blocked_map(&r->out[0].shape, r->out[0].layout, &j.out)) {
        j.y += j.out.first;
        struct blocked_map map;
        if (residual && blocked_map(&residual->shape, residual->layout, &map)) {
            j.residual += map.first;
            j.residual_image = map.image;
        }
    }
    const size_t parts = cut_work(&j, r->pool);
    tpool_for(r->pool, parts, conv_part, &j);
}
