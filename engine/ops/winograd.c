/* Winograd's convolution: packing its weights and leading maps through its three steps. */
#include "engine/ops/winograd.h"

#include "engine/runtime/mem.h"

#include <math.h>
#include <string.h>

/* Of the second-level cache, for a block's transformed inputs and one group's products. Caches have
 * 1 to 2 MiB; the rest is for weights passing by. */
#define BLOCK_BYTES ((size_t)800 << 10)
/* A block of at least so many tiles keeps the multiply-adds busy for as long as it takes to fetch
 * its weights from the third-level cache. */
#define BLOCK_MIN_TILES ((size_t)48)
/* Weights beyond this do not stay in the second-level cache from block to block. */
#define NEAR_BYTES      ((size_t)512 << 10)
#define MAX_BLOCK_BYTES ((size_t)4 << 20)
/* Multiply-adds worth giving to other threads: some 20 microseconds. */
#define SHARED_MACS ((size_t)2000000)

static size_t elements_of(unsigned tile)
{
    return (size_t)(tile + 2) * (tile + 2);
}

static size_t round_up_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

bool winograd_bytes(const struct kernels *kernels, unsigned tile, size_t in_channels,
                    size_t out_channels, size_t *bytes)
{
    const size_t lanes = kernels->lanes, blocks = round_up_div(out_channels, lanes);
    size_t floats;
    return mem_mul(blocks, lanes, &floats) && mem_mul(floats, in_channels, &floats) &&
           mem_mul(floats, elements_of(tile), &floats) &&
           mem_add(floats, blocks * lanes, &floats) && mem_mul(floats, sizeof(float), bytes);
}

/* u = G g G' in double precision, [element]. */
static void transform_filter(unsigned tile, const float *g, double *u)
{
    const double half = 0.5, a = M_SQRT1_2, b = M_SQRT2;
    const double g4[6][3] = {{1, 0, 0},
                             {-1 / 1.5, -a / 1.5, -half / 1.5},
                             {-1 / 1.5, a / 1.5, -half / 1.5},
                             {1 / 6.0, b / 6, 2 / 6.0},
                             {1 / 6.0, -b / 6, 2 / 6.0},
                             {0, 0, 1}};
    const double g2[4][3] = {{-1, 0, 0}, {half, half, half}, {half, -half, half}, {0, 0, 1}};
    const double(*G)[3] = tile == 4 ? g4 : g2;
    const size_t e = tile + 2;
    for (size_t i = 0; i < e; i++) {
        double row[3] = {0};
        for (size_t x = 0; x < 3; x++)
            for (size_t y = 0; y < 3; y++)
                row[x] += G[i][y] * (double)g[y * 3 + x];
        for (size_t j = 0; j < e; j++)
            u[i * e + j] = row[0] * G[j][0] + row[1] * G[j][1] + row[2] * G[j][2];
    }
}

/* Groups are of nearly equal size. */
static size_t group_first(const struct winograd *w, size_t group)
{
    return group * w->out_blocks / w->groups;
}

static size_t group_vectors(const struct winograd *w, size_t group)
{
    return group_first(w, group + 1) - group_first(w, group);
}

/* Transforms the filters of output channel `o`, whose weights stand `width` floats apart. */
static void pack_filters(const struct winograd *w, const float *weights, size_t o, float *to,
                         size_t width)
{
    for (size_t i = 0; i < w->in_channels; i++) {
        double u[KERNEL_WINOGRAD_MAX_ELEMENTS] = {0};
        if (o < w->out_channels)
            transform_filter(w->tile, weights + (o * w->in_channels + i) * 9, u);
        for (size_t x = 0; x < elements_of(w->tile); x++)
            to[(x * w->in_channels + i) * width] = (float)u[x];
    }
}

void winograd_init(struct winograd *w, const struct kernels *kernels, unsigned tile,
                   size_t in_channels, size_t out_channels, const float *weights, const float *bias,
                   void *memory)
{
    const size_t lanes = kernels->lanes, elements = elements_of(tile);
    const size_t out_blocks = round_up_div(out_channels, lanes);
    *w = (struct winograd){
        .tile = tile,
        .lanes = (unsigned)lanes,
        .groups = round_up_div(out_blocks, kernels->winograd.vectors),
        .in_channels = in_channels,
        .out_channels = out_channels,
        .in_blocks = round_up_div(in_channels, lanes),
        .out_blocks = out_blocks,
        .weights = memory,
    };
    const size_t floats = out_blocks * lanes * in_channels * elements;
    w->bias = w->weights + floats;
    memset(w->bias, 0, out_blocks * lanes * sizeof(float));
    if (bias)
        memcpy(w->bias, bias, out_channels * sizeof(float));
    for (size_t g = 0; g < w->groups; g++) {
        const size_t first = group_first(w, g) * lanes, width = group_vectors(w, g) * lanes;
        float *to = w->weights + first * in_channels * elements;
        for (size_t o = 0; o < width; o++)
            pack_filters(w, weights, first + o, to + o, width);
    }
}

/* ---- geometry of a block ---- */

/* Floats between elements: an odd number of cache lines, so that the streams of a transform do not
 * fall on one another in the first-level cache. */
static size_t element_stride(const struct winograd *w, size_t blocks, size_t tiles)
{
    const size_t line = 16, floats = blocks * tiles * w->lanes;
    return ((floats + line - 1) / line | 1) * line;
}

static size_t input_floats(const struct winograd *w, size_t tiles)
{
    return elements_of(w->tile) * element_stride(w, w->in_blocks, tiles);
}

static size_t product_floats(const struct winograd *w, size_t tiles)
{
    return elements_of(w->tile) * element_stride(w, KERNEL_WINOGRAD_MAX_VECTORS, tiles);
}

/* The most tiles of a block. */
static size_t block_tiles(const struct winograd *w)
{
    const size_t tile_bytes = elements_of(w->tile) * (w->in_blocks + KERNEL_WINOGRAD_MAX_VECTORS) *
                              w->lanes * sizeof(float);
    size_t tiles = BLOCK_BYTES / tile_bytes;
    if (tiles < BLOCK_MIN_TILES)
        tiles = BLOCK_MIN_TILES;
    if (tiles * tile_bytes > MAX_BLOCK_BYTES)
        tiles = MAX_BLOCK_BYTES / tile_bytes;
    return tiles > 0 ? tiles : 1;
}

bool winograd_scratch(const struct winograd *w, size_t *bytes)
{
    const size_t tiles = block_tiles(w);
    return mem_mul(input_floats(w, tiles) + product_floats(w, tiles), sizeof(float), bytes);
}

/* ---- a run ---- */

struct winograd_loop {
    const struct winograd_job *job;
    size_t tiles_across, image_tiles, total; /* tiles */
    size_t block;                            /* tiles of a block */
    size_t in_element, product_element;
    /* Of the block that all threads work on. */
    size_t first, count;
    size_t pieces; /* of its input transform */
    float *shared;
};

/* Calls for the part of each image that lies in tiles first … first + count - 1. */
struct winograd_span {
    size_t image, first, count, at; /* first: in the image; at: in the block */
};

static bool next_span(const struct winograd_loop *l, size_t first, size_t count,
                      struct winograd_span *s)
{
    s->at += s->count;
    if (s->at == count)
        return false;
    s->image = (first + s->at) / l->image_tiles;
    s->first = (first + s->at) % l->image_tiles;
    s->count = l->image_tiles - s->first;
    if (s->count > count - s->at)
        s->count = count - s->at;
    return true;
}

static float *scratch_of(const struct winograd_job *job, unsigned slot)
{
    return (float *)(void *)(job->scratch + slot * job->scratch_stride);
}

/* The input transform of blocks of channels first_block … + blocks - 1. */
static void transform_input(const struct winograd_loop *l, size_t first, size_t count,
                            size_t first_block, size_t blocks, float *to)
{
    const struct winograd_job *job = l->job;
    const struct winograd *w = job->w;
    const struct blocked_map *m = &job->in_map;
    struct winograd_span s = {0};
    while (next_span(l, first, count, &s)) {
        const struct kernel_winograd_input input = {
            .in = job->in + s.image * m->image + first_block * m->block,
            .height = m->height,
            .width = m->width,
            .gap = m->gap,
            .in_row = m->row,
            .in_block = m->block,
            .pad_top = job->pad_top,
            .pad_left = job->pad_left,
            .tiles_across = l->tiles_across,
            .first_tile = s.first,
            .tiles = s.count,
            .blocks = blocks,
            .out = to + (first_block * count + s.at) * w->lanes,
            .out_element = l->in_element,
            .out_block = count * w->lanes,
        };
        (w->tile == 4 ? job->kernels->winograd.by_4 : job->kernels->winograd.by_2).input(&input);
    }
}

/* The gaps of the rows of tiles that end in the span. */
static void clear_gaps(const struct winograd_loop *l, const struct winograd_span *s, float *image,
                       size_t block, size_t blocks)
{
    const struct blocked_map *m = &l->job->out_map;
    const size_t tile = l->job->w->tile, begin = s->first / l->tiles_across * tile;
    const size_t end = (s->first + s->count) / l->tiles_across * tile;
    if (begin < end)
        blocked_clear_gaps(m, image, block, blocks, begin, end < m->height ? end : m->height);
    if (block == 0 && s->first == 0)
        blocked_clear_lead(m, image);
}

/* Products and output of one group of output channels. */
static void compute_group(const struct winograd_loop *l, size_t first, size_t count, size_t group,
                          const float *in, float *products)
{
    const struct winograd_job *job = l->job;
    const struct winograd *w = job->w;
    const struct blocked_map *m = &job->out_map;
    const size_t elements = elements_of(w->tile), block = group_first(w, group);
    const size_t vectors = group_vectors(w, group);
    const struct kernel_winograd_product product = {
        .in = in,
        .in_element = l->in_element,
        .in_block = count * w->lanes,
        .weights = w->weights + block * w->lanes * w->in_channels * elements,
        .out = products,
        .out_element = l->product_element,
        .out_block = count * w->lanes,
        .elements = elements,
        .channels = w->in_channels,
        .tiles = count,
        .vectors = vectors,
    };
    job->kernels->winograd.product(&product);
    struct winograd_span s = {0};
    while (next_span(l, first, count, &s)) {
        const size_t at = block * m->block;
        float *image = job->out + s.image * m->image;
        const struct kernel_winograd_output output = {
            .in = products + s.at * w->lanes,
            .in_element = l->product_element,
            .in_block = count * w->lanes,
            .bias = w->bias + block * w->lanes,
            .residual = job->residual ? job->residual + s.image * job->residual_image + at : NULL,
            .out = image + at,
            .height = m->height,
            .width = m->width,
            .out_row = m->row,
            .out_block = m->block,
            .tiles_across = l->tiles_across,
            .first_tile = s.first,
            .tiles = s.count,
            .blocks = vectors,
            .act = job->act,
        };
        (w->tile == 4 ? job->kernels->winograd.by_4 : job->kernels->winograd.by_2).output(&output);
        clear_gaps(l, &s, image, block, vectors);
    }
}

/* A whole block by one thread. */
static void block_part(void *ctx, size_t part, unsigned slot)
{
    const struct winograd_loop *l = ctx;
    const struct winograd *w = l->job->w;
    const size_t first = part * l->block;
    const size_t count = l->total - first < l->block ? l->total - first : l->block;
    float *in = scratch_of(l->job, slot);
    transform_input(l, first, count, 0, w->in_blocks, in);
    for (size_t g = 0; g < w->groups; g++)
        compute_group(l, first, count, g, in, in + input_floats(w, l->block));
}

static void input_part(void *ctx, size_t part, unsigned slot)
{
    const struct winograd_loop *l = ctx;
    const size_t blocks = l->job->w->in_blocks;
    const size_t first = part * blocks / l->pieces, end = (part + 1) * blocks / l->pieces;
    (void)slot;
    transform_input(l, l->first, l->count, first, end - first, l->shared);
}

static void group_part(void *ctx, size_t part, unsigned slot)
{
    const struct winograd_loop *l = ctx;
    float *products = scratch_of(l->job, slot) + input_floats(l->job->w, l->block);
    compute_group(l, l->first, l->count, part, l->shared, products);
}

void winograd_run(const struct winograd_job *job, struct tpool *pool)
{
    const struct winograd *w = job->w;
    const struct blocked_map *m = &job->out_map;
    struct winograd_loop l = {.job = job, .tiles_across = round_up_div(m->width, w->tile)};
    l.image_tiles = round_up_div(m->height, w->tile) * l.tiles_across;
    l.total = m->images * l.image_tiles;
    if (l.total == 0)
        return;
    const size_t macs = elements_of(w->tile) * l.total * w->in_channels * w->out_channels;
    const size_t threads = pool && macs >= SHARED_MACS ? tpool_threads(pool) : 1;
    if (threads == 1)
        pool = NULL;
    /* Blocks of nearly equal size, as many for each thread. */
    size_t blocks = round_up_div(l.total, block_tiles(w));
    if (blocks > 1)
        blocks = round_up_div(blocks, threads) * threads;
    l.block = round_up_div(l.total, blocks);
    blocks = round_up_div(l.total, l.block);
    l.in_element = element_stride(w, w->in_blocks, l.block);
    l.product_element = element_stride(w, KERNEL_WINOGRAD_MAX_VECTORS, l.block);
    if (threads == 1 || blocks >= threads) {
        tpool_for(pool, blocks, block_part, &l);
        return;
    }
    l.shared = scratch_of(job, 0);
    l.pieces = w->in_blocks < 2 * threads ? w->in_blocks : 2 * threads;
    for (l.first = 0; l.first < l.total; l.first += l.count) {
        l.count = l.total - l.first < l.block ? l.total - l.first : l.block;
        tpool_for(pool, l.pieces, input_part, &l);
        tpool_for(pool, w->groups, group_part, &l);
    }
}
