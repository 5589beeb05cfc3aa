/* Random small networks (random_net.h). */
#include "tests/support/random_net.h"

#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_IMAGES  64
#define MAX_OUTPUTS 5

/* A value [N, channels, height, width]. */
struct image {
    uint32_t value;
    int64_t channels, height, width;
};

struct maker {
    struct graph *g;
    int64_t opset, batch; /* batch: of the inputs, CVD_DIM_BATCH or what the file fixes it to */
    uint32_t state, names, inputs;
    struct image images[MAX_IMAGES];
    size_t count;
};

static const int64_t some_channels[] = {1, 2, 3, 4, 5, 6, 8, 12, 16, 16, 17, 24, 32, 32, 33, 48};

/* ---- chance ---- */

static uint32_t below(struct maker *m, uint32_t end)
{
    m->state = m->state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(m->state >> 8) * end >> 24);
}

static bool chance(struct maker *m, uint32_t percent)
{
    return below(m, 100) < percent;
}

static int64_t channels(struct maker *m)
{
    return some_channels[below(m, sizeof(some_channels) / sizeof(*some_channels))];
}

/* Recent ones more often than old ones. */
static struct image any(struct maker *m)
{
    const uint32_t count = (uint32_t)m->count;
    const uint32_t back = chance(m, 60) ? below(m, count < 3 ? count : 3) : below(m, count);
    return m->images[count - 1 - back];
}

/* An image of that height and width, by any chance. */
static struct image any_like(struct maker *m, const struct image *x, bool same_channels)
{
    for (int tries = 0; tries < 12; tries++) {
        const struct image other = any(m);
        if (other.height == x->height && other.width == x->width &&
            (!same_channels || other.channels == x->channels))
            return other;
    }
    return *x;
}

/* ---- nodes ---- */

static const char *name(struct maker *m, const char *op)
{
    static char text[32];
    snprintf(text, sizeof(text), "%s%u", op, m->names++);
    return text;
}

#define OP(m, op, ...)              NET_OP((m)->g, op, name(m, op), __VA_ARGS__)
#define OP_ATTRS(m, op, attrs, ...) NET_OP_ATTRS((m)->g, op, name(m, op), attrs, __VA_ARGS__)

static struct op_attr ints(const char *what, size_t count, const int64_t *numbers)
{
    return (struct op_attr){.name = what, .type = OP_ATTR_INTS, .count = count, .ints = numbers};
}

static struct op_attr integer(const char *what, int64_t number)
{
    return (struct op_attr){.name = what, .type = OP_ATTR_INT, .i = number};
}

static struct op_attr number(const char *what, float x)
{
    return (struct op_attr){.name = what, .type = OP_ATTR_FLOAT, .f = x};
}

static uint32_t weights(struct maker *m, struct cvd_shape shape, double scale)
{
    return net_weights(m->g, name(m, "w"), shape, (float)scale, below(m, 1u << 24));
}

static uint32_t shape_of(struct maker *m, size_t count, const int64_t *extents)
{
    return net_ints(m->g, name(m, "shape"), count, extents);
}

static void add(struct maker *m, uint32_t value, int64_t depth, int64_t height, int64_t width)
{
    if (m->count < MAX_IMAGES)
        m->images[m->count++] = (struct image){value, depth, height, width};
}

static void add_like(struct maker *m, uint32_t value, const struct image *x)
{
    add(m, value, x->channels, x->height, x->width);
}

/* ---- convolutions and pools ---- */

struct sides {
    int64_t kernel[2], stride[2], dilation[2], pads[4], out[2];
};

/* A window that fits into the image at least once. */
static void choose_window(struct maker *m, const struct image *x, bool pool, struct sides *s)
{
    static const int64_t kernels[] = {1, 1, 3, 3, 3, 2, 5};
    const int64_t extent[] = {x->height, x->width};
    const bool square = chance(m, 80), same = chance(m, 60);
    const int64_t kernel = kernels[below(m, 7)], stride = chance(m, 70) ? 1 : 2;
    const int64_t dilation = pool || chance(m, 85) ? 1 : 2;
    for (unsigned i = 0; i < 2; i++) {
        s->kernel[i] = square ? kernel : kernels[below(m, 7)];
        s->stride[i] = stride;
        s->dilation[i] = dilation;
        int64_t reach = (s->kernel[i] - 1) * dilation + 1;
        s->pads[i] = same ? (reach - 1) / 2 : (int64_t)below(m, (uint32_t)s->kernel[i]);
        s->pads[2 + i] = same ? (reach - 1) / 2 : (int64_t)below(m, (uint32_t)s->kernel[i]);
        if (pool && s->pads[i] >= s->kernel[i])
            s->pads[i] = 0;
        if (extent[i] + s->pads[i] + s->pads[2 + i] < reach) {
            s->kernel[i] = 1;
            s->pads[i] = s->pads[2 + i] = 0;
            reach = 1;
        }
        s->out[i] = (extent[i] + s->pads[i] + s->pads[2 + i] - reach) / s->stride[i] + 1;
    }
}

/* A convolution from x to `out` channels in groups. */
static uint32_t conv(struct maker *m, const struct image *x, int64_t out, int64_t groups,
                     const struct sides *s)
{
    const int64_t in = x->channels / groups;
    const struct op_attr attrs[] = {ints("kernel_shape", 2, s->kernel), ints("pads", 4, s->pads),
                                    ints("strides", 2, s->stride),
                                    ints("dilations", 2, s->dilation), integer("group", groups)};
    const double terms = (double)(in * s->kernel[0] * s->kernel[1]);
    const uint32_t w = weights(m, NET_SHAPE(out, in, s->kernel[0], s->kernel[1]), sqrt(3 / terms));
    if (chance(m, 40))
        return OP_ATTRS(m, "Conv", attrs, x->value, w);
    return OP_ATTRS(m, "Conv", attrs, x->value, w, weights(m, NET_SHAPE(out), 0.5));
}

static void add_conv(struct maker *m)
{
    const struct image x = any(m);
    struct sides s;
    int64_t out = channels(m), groups = 1;
    choose_window(m, &x, false, &s);
    if (chance(m, 25)) {
        groups = x.channels;
        out = groups * (chance(m, 85) ? 1 : 2);
    } else if (chance(m, 30)) {
        static const int64_t some_groups[] = {2, 3, 4, 8};
        groups = some_groups[below(m, 4)];
        groups = x.channels % groups == 0 ? groups : 1;
        out = groups == 1 ? out : chance(m, 60) ? x.channels : groups * (1 + below(m, 9));
    }
    add(m, conv(m, &x, out, groups, &s), out, s.out[0], s.out[1]);
}

static const struct sides pointwise = {{1, 1}, {1, 1}, {1, 1}, {0}, {0}};

/* The branch of a residual block, and the sum. */
static void add_residual(struct maker *m)
{
    static const struct sides three = {{3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, {0}};
    const struct image x = any(m);
    const uint32_t y = conv(m, &x, x.channels, 1, chance(m, 50) ? &three : &pointwise);
    const uint32_t sum = chance(m, 50) ? OP(m, "Add", x.value, y) : OP(m, "Add", y, x.value);
    add_like(m, chance(m, 60) ? OP(m, "Relu", sum) : sum, &x);
}

static void add_pool(struct maker *m)
{
    const struct image x = any(m);
    struct sides s;
    const bool max = chance(m, 50);
    choose_window(m, &x, true, &s);
    struct op_attr attrs[] = {ints("kernel_shape", 2, s.kernel), ints("pads", 4, s.pads),
                              ints("strides", 2, s.stride),
                              integer("count_include_pad", chance(m, 50))};
    const uint32_t in[] = {x.value, NET_END};
    const uint32_t y = max ? net_node(m->g, "MaxPool", name(m, "MaxPool"), attrs, 3, in)
                           : net_node(m->g, "AveragePool", name(m, "AveragePool"), attrs, 4, in);
    add(m, y, x.channels, s.out[0], s.out[1]);
}

/* Half the size, as most networks do it; sometimes with an output for indices that nobody reads. */
static void add_half(struct maker *m)
{
    static const int64_t two[] = {2, 2};
    const struct image x = any(m);
    const struct op_attr attrs[] = {ints("kernel_shape", 2, two), ints("strides", 2, two)};
    if (x.height < 2 || x.width < 2)
        return;
    const uint32_t y = OP_ATTRS(m, "MaxPool", attrs, x.value);
    if (chance(m, 20)) {
        uint32_t *out = mem_arena_alloc(m->g->arena, 2 * sizeof(*out));
        cr_assert_not_null(out);
        out[0] = y;
        out[1] = net_value(m->g, "indices");
        m->g->nodes[m->g->node_count - 1].out = out;
        m->g->nodes[m->g->node_count - 1].out_count = 2;
    }
    add(m, y, x.channels, x.height / 2, x.width / 2);
}

static uint32_t global_pool(struct maker *m, const struct image *x)
{
    static const int64_t plane[] = {2, 3};
    const struct op_attr axes[] = {ints("axes", 2, plane)};
    if (chance(m, 30))
        return OP_ATTRS(m, "ReduceMean", axes, x->value);
    return chance(m, 80) ? OP(m, "GlobalAveragePool", x->value) : OP(m, "GlobalMaxPool", x->value);
}

static void add_global_pool(struct maker *m)
{
    const struct image x = any(m);
    add(m, global_pool(m, &x), x.channels, 1, 1);
}

/* ---- element by element ---- */

static uint32_t activation(struct maker *m, uint32_t x)
{
    const struct op_attr alpha[] = {number("alpha", 0.3f)};
    const float ends[] = {-0.25f, 0.75f};
    switch (below(m, 9)) {
    case 0:
        return OP(m, "Sigmoid", x);
    case 1:
        return OP_ATTRS(m, "LeakyRelu", alpha, x);
    case 2:
        return OP_ATTRS(m, "HardSigmoid", alpha, x);
    case 3:
        return OP(m, "Mul", x, OP(m, "Sigmoid", x));
    case 4:
        return OP(m, "Tanh", x);
    case 5:
        if (m->opset < 11) {
            const struct op_attr range[] = {number("min", ends[0]), number("max", ends[1])};
            return OP_ATTRS(m, "Clip", range, x);
        }
        return OP(m, "Clip", x, net_floats(m->g, name(m, "min"), (struct cvd_shape){0}, &ends[0]),
                  net_floats(m->g, name(m, "max"), (struct cvd_shape){0}, &ends[1]));
    case 6:
        return OP_ATTRS(m, "Elu", alpha, x);
    default:
        return OP(m, "Relu", x);
    }
}

static void add_activation(struct maker *m)
{
    const struct image x = any(m);
    add_like(m, activation(m, x.value), &x);
}

static void add_norm(struct maker *m)
{
    const struct image x = any(m);
    uint32_t in[4];
    for (size_t i = 0; i < 4; i++)
        in[i] = weights(m, NET_SHAPE(x.channels), 0.5);
    for (int64_t c = 0; c < x.channels; c++) {
        ((float *)m->g->values[in[0]].data)[c] += 1;
        ((float *)m->g->values[in[3]].data)[c] += 1;
    }
    add_like(m, OP(m, "BatchNormalization", x.value, in[0], in[1], in[2], in[3]), &x);
}

static void add_arithmetic(struct maker *m)
{
    static const char *const ops[] = {"Add", "Add", "Mul", "Sub", "Sum"};
    const struct image x = any(m), y = any_like(m, &x, true);
    const char *op = ops[below(m, 5)];
    uint32_t other = y.value;
    if (strcmp(op, "Sum") != 0 && chance(m, 35)) {
        const bool rows = chance(m, 40), columns = chance(m, 40), depth = chance(m, 80);
        other = weights(
            m, NET_SHAPE(1, depth ? x.channels : 1, rows ? x.height : 1, columns ? x.width : 1), 1);
    }
    add_like(m, chance(m, 50) ? OP(m, op, x.value, other) : OP(m, op, other, x.value), &x);
}

/* A product with what does not grow with the batch, or the average over it. */
static void add_across(struct maker *m)
{
    static const int64_t images[] = {0};
    const struct op_attr axes[] = {ints("axes", 1, images)};
    const struct image x = any(m);
    const uint32_t mean = OP_ATTRS(m, "ReduceMean", axes, x.value);
    add_like(m, chance(m, 50) ? OP(m, "Add", x.value, mean) : OP(m, "Mul", mean, x.value), &x);
}

/* Squeeze and excitation. */
static void add_gate(struct maker *m)
{
    const struct image x = any(m), small = {global_pool(m, &x), x.channels, 1, 1};
    const struct image inner = {conv(m, &small, channels(m), 1, &pointwise), 0, 1, 1};
    struct image act = inner;
    act.channels = (int64_t)m->g->values[m->g->nodes[m->g->node_count - 1].in[1]].shape.dims[0];
    act.value = activation(m, inner.value);
    const uint32_t last = conv(m, &act, x.channels, 1, &pointwise);
    const uint32_t gate = chance(m, 50) ? OP(m, "Sigmoid", last) : OP(m, "HardSigmoid", last);
    add_like(m, chance(m, 50) ? OP(m, "Mul", x.value, gate) : OP(m, "Mul", gate, x.value), &x);
}

/* ---- channels ---- */

static void add_concat(struct maker *m)
{
    const struct image x = any(m);
    const size_t count = 1 + below(m, 4);
    uint32_t in[6];
    int64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        struct image next = i == 0 ? x : any_like(m, &x, false);
        if (m->batch != CVD_DIM_BATCH && chance(m, 10)) {
            next.channels = channels(m);
            next.value = weights(m, NET_SHAPE(m->batch, next.channels, x.height, x.width), 1);
        }
        in[i] = next.value;
        total += next.channels;
    }
    in[count] = NET_END;
    if (total > 160)
        return;
    const struct op_attr axis[] = {integer("axis", m->opset >= 11 && chance(m, 30) ? -3 : 1)};
    const uint32_t y = net_node(m->g, "Concat", name(m, "Concat"), axis, 1, in);
    add(m, y, total, x.height, x.width);
}

/* DenseNet: every layer adds a few channels to all that were there. */
static void add_dense_block(struct maker *m)
{
    static const struct sides three = {{3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, {0}};
    const struct op_attr axis[] = {integer("axis", 1)};
    const int64_t growth = channels(m);
    uint32_t in[6];
    struct image x = any(m);
    in[0] = x.value;
    for (size_t i = 1; i < 4 && x.channels + growth <= 160; i++) {
        const struct image y = {conv(m, &x, growth, 1, chance(m, 60) ? &three : &pointwise), growth,
                                x.height, x.width};
        in[i] = chance(m, 50) ? OP(m, "Relu", y.value) : y.value;
        in[i + 1] = NET_END;
        if (chance(m, 50)) { /* all that were there before, or what they were put together to */
            in[0] = net_node(m->g, "Concat", name(m, "Concat"), axis, 1,
                             (const uint32_t[]){x.value, in[i], NET_END});
            x.value = in[0];
            in[1] = NET_END;
            x.channels += growth;
            add_like(m, x.value, &x);
            i = 0;
            if (chance(m, 40))
                return;
            continue;
        }
        x.value = net_node(m->g, "Concat", name(m, "Concat"), axis, 1, in);
        x.channels += growth;
        add_like(m, x.value, &x);
    }
}

static void add_split(struct maker *m)
{
    const struct image x = any(m);
    if (x.channels < 2)
        return;
    const int64_t first = chance(m, 60) && x.channels % 2 == 0
                              ? x.channels / 2
                              : 1 + (int64_t)below(m, (uint32_t)x.channels - 1);
    const int64_t sizes[] = {first, x.channels - first};
    const struct op_attr attrs[] = {integer("axis", m->opset >= 11 && chance(m, 30) ? -3 : 1),
                                    ints("split", 2, sizes)};
    if (m->opset < 13)
        net_node(m->g, "Split", name(m, "Split"), attrs, 2, (const uint32_t[]){x.value, NET_END});
    else
        net_node(m->g, "Split", name(m, "Split"), attrs, 1,
                 (const uint32_t[]){x.value, shape_of(m, 2, sizes), NET_END});
    struct graph_node *node = &m->g->nodes[m->g->node_count - 1];
    uint32_t *out = mem_arena_alloc(m->g->arena, 2 * sizeof(*out));
    cr_assert_not_null(out);
    out[0] = node->out[0];
    out[1] = net_value(m->g, name(m, "Split"));
    node->out = out;
    node->out_count = 2;
    add(m, out[0], sizes[0], x.height, x.width);
    add(m, out[1], sizes[1], x.height, x.width);
}

static void add_slice(struct maker *m)
{
    const struct image x = any(m);
    const bool rows = chance(m, 15);
    const int64_t extent = rows ? x.height : x.channels, axis = rows ? 2 : chance(m, 70) ? 1 : -3;
    const int64_t start = below(m, (uint32_t)extent), step = m->opset >= 10 ? 1 + below(m, 3) : 1;
    const int64_t end = start + 1 + (int64_t)below(m, (uint32_t)(extent - start));
    const int64_t from = chance(m, 30) ? start - extent : start,
                  size = (end - start - 1) / step + 1;
    const int64_t to = end == extent && chance(m, 50) ? INT64_MAX : end;
    uint32_t y;
    if (m->opset < 10) {
        const struct op_attr attrs[] = {ints("starts", 1, &from), ints("ends", 1, &to),
                                        ints("axes", 1, &axis)};
        y = OP_ATTRS(m, "Slice", attrs, x.value);
    } else {
        y = OP(m, "Slice", x.value, shape_of(m, 1, &from), shape_of(m, 1, &to),
               shape_of(m, 1, &axis), shape_of(m, 1, &step));
    }
    add(m, y, rows ? x.channels : size, rows ? size : x.height, x.width);
}

static void add_shuffle(struct maker *m)
{
    static const int64_t swapped[] = {0, 2, 1, 3, 4};
    const struct op_attr perm[] = {ints("perm", 5, swapped)};
    const struct image x = any(m);
    int64_t groups = 2 + below(m, 3);
    if (x.channels % groups != 0)
        groups = x.channels;
    const int64_t images = m->batch == CVD_DIM_BATCH ? chance(m, 50) ? 0 : -1 : m->batch;
    const int64_t parts[] = {images, groups, x.channels / groups, x.height, x.width};
    const int64_t whole[] = {images, chance(m, 50) && images >= 0 ? -1 : x.channels, x.height,
                             x.width};
    const uint32_t split = OP(m, "Reshape", x.value, shape_of(m, 5, parts));
    const uint32_t turned = OP_ATTRS(m, "Transpose", perm, split);
    add_like(m, OP(m, "Reshape", turned, shape_of(m, 4, whole)), &x);
}

/* ---- what no map survives ---- */

static void add_plain(struct maker *m)
{
    static const int64_t there[] = {0, 2, 3, 1}, back[] = {0, 3, 1, 2};
    const struct op_attr last[] = {ints("perm", 4, there)}, first[] = {ints("perm", 4, back)};
    const struct image x = any(m);
    switch (below(m, 4)) {
    case 0: {
        const uint32_t y = OP_ATTRS(m, "Transpose", last, x.value);
        add_like(m, OP_ATTRS(m, "Transpose", first, activation(m, y)), &x);
        return;
    }
    case 1:
        add(m, OP_ATTRS(m, "Transpose", last, x.value), x.height, x.width, x.channels);
        return;
    case 2:
        add_like(m, OP(m, "Identity", x.value), &x);
        return;
    default:
        add_like(m, OP(m, "Abs", x.value), &x);
    }
}

/* From an image to [N, classes]. */
static uint32_t head(struct maker *m)
{
    static const int64_t plane[] = {2, 3};
    const struct op_attr axes[] = {ints("axes", 2, plane)},
                         mean[] = {ints("axes", 2, plane), integer("keepdims", 0)},
                         turned[] = {integer("transB", 1)}, rows[] = {integer("axis", 1)};
    struct image x = any(m);
    const int64_t classes = channels(m);
    uint32_t flat;
    if (chance(m, 30)) {
        flat = OP_ATTRS(m, "ReduceMean", mean, x.value);
        x.height = x.width = 1;
    } else if (chance(m, 30)) {
        const uint32_t pooled = global_pool(m, &x);
        flat = m->opset < 13 ? OP_ATTRS(m, "Squeeze", axes, pooled)
                             : OP(m, "Squeeze", pooled, shape_of(m, 2, plane));
        x.height = x.width = 1;
    } else if (chance(m, 50)) {
        flat = OP_ATTRS(m, "Flatten", rows, x.value);
    } else {
        const int64_t images = m->batch == CVD_DIM_BATCH ? 0 : m->batch;
        const int64_t to[] = {images, -1};
        flat = OP(m, "Reshape", x.value, shape_of(m, 2, to));
    }
    const int64_t terms = x.channels * x.height * x.width;
    const double scale = sqrt(3.0 / (double)terms);
    uint32_t y;
    if (chance(m, 50))
        y = OP_ATTRS(m, "Gemm", turned, flat, weights(m, NET_SHAPE(classes, terms), scale),
                     weights(m, NET_SHAPE(classes), 0.5));
    else
        y = OP(m, "Add", OP(m, "MatMul", flat, weights(m, NET_SHAPE(terms, classes), scale)),
               weights(m, NET_SHAPE(classes), 0.5));
    if (chance(m, 50))
        y = activation(m, y);
    return chance(m, 50) ? OP_ATTRS(m, "Softmax", rows, y) : y;
}

/* ---- all ---- */

static void add_input(struct maker *m)
{
    static const int64_t sizes[] = {1, 2, 5, 7, 8, 12, 13, 14};
    static const char *const names[] = {"x", "z"};
    struct image x = {.channels = channels(m), .height = sizes[below(m, 8)]};
    x.width = chance(m, 70) ? x.height : sizes[below(m, 8)];
    if (m->count > 0 && chance(m, 70)) {
        x.height = m->images[0].height;
        x.width = m->images[0].width;
    }
    x.value =
        net_input(m->g, names[m->inputs++], NET_SHAPE(m->batch, x.channels, x.height, x.width));
    m->images[m->count++] = x;
}

/* Puts together what nobody has read: the averages of all planes. */
static void gather(struct maker *m)
{
    uint32_t in[MAX_IMAGES + 1];
    size_t count = 0;
    int64_t total = 0;
    const struct op_attr axis[] = {integer("axis", 1)};
    for (size_t i = 0; i < m->count; i++) {
        bool read = false;
        for (uint32_t n = 0; n < m->g->node_count; n++) {
            const struct graph_node *node = &m->g->nodes[n];
            for (size_t j = 0; j < node->in_count; j++)
                read |= node->in[j] == m->images[i].value;
        }
        if (read)
            continue;
        in[count++] = OP(m, "GlobalAveragePool", m->images[i].value);
        total += m->images[i].channels;
    }
    in[count] = NET_END;
    if (count > 0)
        add(m, net_node(m->g, "Concat", name(m, "Concat"), axis, 1, in), total, 1, 1);
}

static void add_outputs(struct maker *m)
{
    uint32_t outputs[MAX_OUTPUTS];
    size_t count = 1 + (chance(m, 40) ? below(m, MAX_OUTPUTS - 1) : 0);
    if (chance(m, 70))
        gather(m);
    outputs[0] = m->images[m->count - 1].value;
    for (size_t i = 1; i < count; i++)
        outputs[i] = any(m).value;
    if (chance(m, 40))
        outputs[count++] = head(m);
    for (size_t i = 0; i < count; i++) {
        bool again = false;
        for (size_t j = 0; j < i; j++)
            again |= outputs[j] == outputs[i];
        if (!again)
            net_output(m->g, outputs[i]);
    }
}

void random_net_make(struct graph *g, uint32_t seed)
{
    static const struct {
        void (*add)(struct maker *m);
        uint32_t weight;
    } kinds[] = {
        {add_conv, 26},      {add_residual, 8},    {add_pool, 6},    {add_half, 5},
        {add_activation, 9}, {add_norm, 6},        {add_concat, 10}, {add_dense_block, 4},
        {add_split, 6},      {add_slice, 6},       {add_shuffle, 6}, {add_gate, 5},
        {add_arithmetic, 9}, {add_global_pool, 2}, {add_plain, 4},   {add_across, 1},
    };
    static const int64_t opsets[] = {9, 11, 13}, batches[] = {CVD_DIM_BATCH, CVD_DIM_BATCH, 1, 2};
    struct maker m = {.g = g, .state = seed * 2654435761u + 12345};
    net_init(g);
    m.opset = opsets[below(&m, 3)];
    g->opsets[0].version = m.opset;
    m.batch = batches[below(&m, 4)];
    add_input(&m);
    if (chance(&m, 30))
        add_input(&m);
    if (chance(&m, 60))
        add_conv(&m);
    const uint32_t steps = 2 + below(&m, 14);
    for (uint32_t i = 0; i < steps; i++) {
        uint32_t at = below(&m, 113), kind = 0;
        while (at >= kinds[kind].weight)
            at -= kinds[kind++].weight;
        kinds[kind].add(&m);
    }
    add_outputs(&m);
}
