/* Tuning (tune.h): times the ways to compute a convolution. */
#include "engine/graph/tune.h"

#include "engine/ops/blocked_maps.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* The best of so many runs counts, and of more when all together take less than so long; with fewer
 * than MIN_ROUNDS there is no choice. */
#define ROUNDS     5
#define MAX_ROUNDS 20
#define ROUNDS_NS  60000000u
#define MIN_ROUNDS 2
/* More than second-level caches hold. */
#define FLUSH_BYTES ((size_t)8 << 20)
#define LINE_BYTES  64
/* What timing one convolution may take. */
#define MAX_BYTES ((size_t)256 << 20)

#define INPUTS   4
#define RESIDUAL 3

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What budgets are kept by. */
static uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* What runs are timed by: it stands still while somebody else has the CPU. */
static uint64_t used_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* ---- what is known ---- */

void tune_init(struct tune *t, const struct kernels *kernels, uint64_t budget_ns)
{
    *t = (struct tune){.kernels = kernels, .budget_ns = budget_ns};
}

void tune_release(struct tune *t)
{
    mem_free(t->choices);
    t->choices = NULL;
    t->count = t->room = 0;
}

static struct tune_choice *find(const struct tune *t, const char *key)
{
    for (size_t i = 0; i < t->count; i++) {
        if (strcmp(t->choices[i].key, key) == 0)
            return &t->choices[i];
    }
    return NULL;
}

static bool is_key(const char *key)
{
    size_t len = 0;
    while (key[len] > ' ' && key[len] <= '~')
        len++;
    return len > 0 && len < TUNE_KEY_BYTES && key[len] == '\0';
}

static bool grow(struct tune *t)
{
    const size_t room = t->room > 0 ? 2 * t->room : 32;
    struct tune_choice *choices =
        room <= TUNE_MAX_CHOICES ? mem_alloc(room * sizeof(*choices)) : NULL;
    if (choices == NULL)
        return false;
    if (t->count > 0)
        memcpy(choices, t->choices, t->count * sizeof(*choices));
    mem_free(t->choices);
    t->choices = choices;
    t->room = room;
    return true;
}

bool tune_put(struct tune *t, const char *key, unsigned tile)
{
    if (!is_key(key) || (tile != 0 && tile != 2 && tile != 4))
        return false;
    struct tune_choice *choice = find(t, key);
    if (choice == NULL) {
        if (t->count == t->room && !grow(t))
            return false;
        choice = &t->choices[t->count++];
        *choice = (struct tune_choice){.used = false};
        memcpy(choice->key, key, strlen(key));
    }
    choice->tile = tile;
    return true;
}

/* "256x14x14:256x14x14:Relu:residual": the CPU and its level are the same for all of a table. */
static bool make_key(const struct op_node *node, const struct cvd_shape *y, char *key)
{
    const struct cvd_shape *x = &node->in[0]->shape;
    struct activation activation;
    struct cvd_error err;
    struct op_node quiet = *node;
    quiet.err = &err;
    if (activation_read(&quiet, &activation) != CVD_STATUS_OK)
        return false;
    const char *name =
        activation.kind == ACTIVATION_NONE ? "none" : activation_name(activation.kind);
    const bool residual = node->in_count > RESIDUAL && node->in[RESIDUAL] != NULL;
    const int len =
        snprintf(key, TUNE_KEY_BYTES, "%lldx%lldx%lld:%lldx%lldx%lld:%s%s", (long long)x->dims[1],
                 (long long)x->dims[2], (long long)x->dims[3], (long long)y->dims[1],
                 (long long)y->dims[2], (long long)y->dims[3], name, residual ? ":residual" : "");
    return len > 0 && len < TUNE_KEY_BYTES;
}

/* ---- a convolution on its own ---- */

struct way {
    struct op_prepared prepared;
    const struct op_def *def;
    uint64_t ns; /* the shortest run */
};

struct bench {
    const struct kernels *kernels;
    struct cvd_error err;
    struct op_node node;
    struct op_value values[INPUTS], out;
    const struct op_value *in[INPUTS];
    struct op_attr *attrs; /* the node's, after one of our own */
    struct mem_arena *states;
    struct way ways[TUNE_MAX_WAYS];
    size_t count;
    struct op_tensor tensors[INPUTS];
    const struct op_tensor *run_in[INPUTS];
    struct op_output run_out;
    char *memory, *scratch, *flush;
    size_t x_bytes, residual_bytes, out_bytes, scratch_bytes, memory_bytes;
};

static size_t map_bytes(const struct op_value *v, bool *fits)
{
    size_t bytes = 0;
    *fits = *fits && blocked_elements(&v->shape, v->layout, &bytes) &&
            mem_mul(bytes, sizeof(float), &bytes) && mem_round_up(bytes, &bytes) &&
            bytes <= MAX_BYTES;
    return *fits ? bytes : 0;
}

/* Values for one image, laid out as the layout pass would. */
static bool describe(struct bench *b, const struct op_node *node, const struct cvd_shape *out)
{
    unsigned direct, winograd;
    (void)blocked_conv_forms(node, b->kernels->lanes, &direct);
    if (node->in_count > INPUTS || !blocked_winograd_fits(node, &winograd))
        return false;
    const struct op_layout layout = {.lanes = b->kernels->lanes,
                                     .gap = direct > winograd ? direct : winograd};
    for (size_t i = 0; i < node->in_count; i++) {
        if (node->in[i] == NULL)
            continue;
        b->values[i] = *node->in[i];
        b->in[i] = &b->values[i];
        if (i == 0 || i == RESIDUAL) {
            b->values[i].shape.dims[0] = 1;
            b->values[i].layout = layout;
        }
    }
    b->out = (struct op_value){.dtype = CVD_DTYPE_FLOAT32, .shape = *out, .layout = layout};
    b->out.shape.dims[0] = 1;
    bool fits = true;
    b->x_bytes = map_bytes(&b->values[0], &fits);
    b->residual_bytes = b->in[RESIDUAL] != NULL ? map_bytes(&b->values[RESIDUAL], &fits) : 0;
    b->out_bytes = map_bytes(&b->out, &fits);
    b->node = *node;
    b->node.in = b->in;
    b->node.err = &b->err;
    return fits;
}

/* Whether the packed weights of all ways stay within bounds. */
static bool is_small(const struct bench *b, const unsigned *tiles)
{
    const struct cvd_shape *w = &b->values[1].shape;
    const size_t lanes = b->kernels->lanes;
    size_t total = 0;
    for (size_t i = 0; i < b->count; i++) {
        const size_t side = tiles[i] + 2, elements = tiles[i] == 0 ? 9 : side * side;
        size_t bytes;
        if (!mem_add((size_t)w->dims[0], lanes, &bytes) ||
            !mem_mul(bytes, (size_t)w->dims[1], &bytes) ||
            !mem_mul(bytes, elements * sizeof(float), &bytes) || !mem_add(total, bytes, &total))
            return false;
    }
    return total <= MAX_BYTES;
}

/* Prepares each way as a load does, with the weights that it has. */
static bool prepare(struct bench *b, const unsigned *tiles)
{
    bool known;
    const size_t old = b->node.attr_count;
    b->attrs = mem_alloc((old + 1) * sizeof(*b->attrs));
    b->states = mem_arena_create_large();
    if (b->attrs == NULL || b->states == NULL)
        return false;
    if (old > 0)
        memcpy(b->attrs + 1, b->node.attrs, old * sizeof(*b->attrs));
    b->node.attrs = b->attrs;
    b->node.attr_count = old + 1;
    b->node.opset = BLOCKED_VERSION;
    for (size_t i = 0; i < b->count; i++) {
        struct way *way = &b->ways[i];
        const char *op = tiles[i] == 0 ? "Conv" : "WinogradConv";
        b->attrs[0] = (struct op_attr){.name = "tile", .type = OP_ATTR_INT, .i = tiles[i]};
        way->def = op_find(BLOCKED_DOMAIN, op, BLOCKED_VERSION, &known);
        b->node.def = way->def;
        way->prepared.memory = b->states;
        if (way->def->prepare(&b->node, &b->out, b->kernels, &way->prepared) != CVD_STATUS_OK)
            return false;
        if (way->prepared.scratch_bytes > b->scratch_bytes)
            b->scratch_bytes = way->prepared.scratch_bytes;
    }
    return true;
}

/* Ordinary numbers: no CPU takes longer for them than for what images give. */
static void fill(float *to, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (float)(i * 37 % 256) / 128 - 1;
}

/* Memory for the maps, scratch, and what drives weights out of the cache. */
static bool place(struct bench *b)
{
    size_t bytes;
    if (!mem_round_up(b->scratch_bytes, &b->scratch_bytes) ||
        !mem_add(b->scratch_bytes, FLUSH_BYTES, &bytes) ||
        !mem_add(bytes, b->x_bytes + b->residual_bytes + b->out_bytes, &bytes))
        return false;
    b->memory = mem_map(bytes);
    if (b->memory == NULL)
        return false;
    b->memory_bytes = bytes;
    for (size_t i = 0; i < b->node.in_count; i++) {
        if (b->in[i] == NULL)
            continue;
        const struct op_value *v = &b->values[i];
        b->tensors[i] = (struct op_tensor){
            .dtype = v->dtype, .shape = v->shape, .data = v->data, .layout = v->layout};
        b->run_in[i] = &b->tensors[i];
    }
    char *at = b->memory;
    b->tensors[0].data = at;
    b->tensors[RESIDUAL].data = at + b->x_bytes;
    fill((float *)(void *)at, (b->x_bytes + b->residual_bytes) / sizeof(float));
    at += b->x_bytes + b->residual_bytes;
    b->run_out = (struct op_output){
        .dtype = CVD_DTYPE_FLOAT32, .shape = b->out.shape, .data = at, .layout = b->out.layout};
    b->scratch = at + b->out_bytes;
    b->flush = b->scratch + b->scratch_bytes;
    memset(b->flush, 1, FLUSH_BYTES); /* pages of their own instead of the one of zeros */
    return true;
}

static void bench_release(struct bench *b)
{
    if (b->memory != NULL)
        mem_unmap(b->memory, b->memory_bytes);
    mem_arena_destroy(b->states);
    mem_free(b->attrs);
}

/* ---- timing ---- */

static void read_lines(const char *from, size_t bytes)
{
    const volatile char *p = from;
    for (size_t i = 0; i < bytes; i += LINE_BYTES)
        (void)p[i];
}

/* One run as inside a network: other layers' weights have passed by since the last, and the layer
 * before has just written the input. */
static uint64_t run_cold(const struct bench *b, const struct way *way)
{
    struct op_output out = b->run_out;
    const struct op_run run = {.state = way->prepared.state,
                               .kernels = b->kernels,
                               .in = b->run_in,
                               .in_count = b->node.in_count,
                               .out = &out,
                               .out_count = 1,
                               .scratch = b->scratch,
                               .scratch_stride = b->scratch_bytes};
    read_lines(b->flush, FLUSH_BYTES);
    read_lines(b->memory, b->x_bytes + b->residual_bytes);
    const uint64_t begin = used_ns();
    way->def->run(&run);
    return used_ns() - begin;
}

/* Runs the ways by turns, so that whatever slows the machine down meets them all. False when the
 * time is up too early. */
static bool measure(struct bench *b, uint64_t deadline)
{
    for (size_t i = 0; i < b->count; i++)
        b->ways[i].ns = UINT64_MAX;
    const uint64_t begin = now_ns();
    for (unsigned round = 0; round < MAX_ROUNDS; round++) {
        if (round >= ROUNDS && now_ns() - begin >= ROUNDS_NS)
            break;
        for (size_t i = 0; i < b->count; i++) {
            struct way *way = &b->ways[i];
            if (now_ns() >= deadline)
                return round >= MIN_ROUNDS;
            const uint64_t ns = run_cold(b, way);
            way->ns = ns < way->ns ? ns : way->ns;
        }
    }
    return true;
}

static bool time_ways(const struct tune *t, const struct op_node *node, const struct cvd_shape *out,
                      const unsigned *tiles, size_t count, uint64_t deadline, uint64_t *ns)
{
    struct bench b = {.kernels = t->kernels, .count = count};
    const bool timed = describe(&b, node, out) && is_small(&b, tiles) && prepare(&b, tiles) &&
                       place(&b) && measure(&b, deadline);
    for (size_t i = 0; i < count; i++)
        ns[i] = b.ways[i].ns;
    bench_release(&b);
    return timed;
}

/* ---- choosing ---- */

size_t tune_pick(const uint64_t *ns, size_t count)
{
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        best = ns[i] < ns[best] ? i : best;
    /* By less than a twentieth it may be chance. */
    return ns[0] - ns[best] > ns[0] / 20 ? best : 0;
}

static bool is_among(unsigned tile, const unsigned *tiles, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (tiles[i] == tile)
            return true;
    }
    return false;
}

static void mark_used(struct tune *t, struct tune_choice *choice)
{
    if (!choice->used)
        t->recalled++;
    choice->used = true;
}

unsigned tune_tile(struct tune *t, const struct op_node *node, const struct cvd_shape *out,
                   const unsigned *tiles, size_t count)
{
    char key[TUNE_KEY_BYTES];
    uint64_t ns[TUNE_MAX_WAYS];
    if (count < 2 || count > TUNE_MAX_WAYS || !make_key(node, out, key))
        return tiles[0];
    struct tune_choice *known = find(t, key);
    if (known != NULL && is_among(known->tile, tiles, count)) {
        mark_used(t, known);
        return known->tile;
    }
    if (t->spent_ns >= t->budget_ns)
        return tiles[0];
    const uint64_t begin = now_ns(), left = t->budget_ns - t->spent_ns;
    const uint64_t deadline = left < UINT64_MAX - begin ? begin + left : UINT64_MAX;
    const bool timed = time_ways(t, node, out, tiles, count, deadline, ns);
    t->spent_ns += now_ns() - begin;
    if (!timed)
        return tiles[0];
    const unsigned tile = tiles[tune_pick(ns, count)];
    t->timed++;
    if (tune_put(t, key, tile))
        find(t, key)->used = true;
    return tile;
}
