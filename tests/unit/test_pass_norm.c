/* Layer norms, ONNX's and those that are spelt out. */
#include "tests/unit/pass_fixture.h"

#define ROUNDING 5e-6

/* A spelling of the norm of [N,4,6,6] along a dimension. */
static struct {
    int64_t axis;    /* 1 or -1 */
    bool axes_input; /* from operator set 18 on */
    bool product;    /* d * d, not d ^ 2 */
    bool two_sums;   /* d is computed twice */
    bool odd;        /* summands and factors the other way round */
    int affine;      /* 0: neither scale nor bias, 1: scale, 2: both */
    float power;
} spelling;

static uint32_t mean_of(struct graph *g, uint32_t x)
{
    const struct op_attr attrs[] = {PASS_INT("keepdims", 1), PASS_INTS("axes", spelling.axis)};
    if (!spelling.axes_input)
        return NET_OP_ATTRS(g, "ReduceMean", "mean", attrs, x);
    return NET_OP(g, "ReduceMean", "mean", x, net_ints(g, "axes", 1, &spelling.axis));
}

static uint32_t op_of(struct graph *g, const char *op, uint32_t a, uint32_t b)
{
    return spelling.odd ? NET_OP(g, op, op, b, a) : NET_OP(g, op, op, a, b);
}

static uint32_t spell_at(struct graph *g, uint32_t x)
{
    const struct cvd_shape shape = spelling.axis == 1 ? NET_SHAPE(4, 1, 1) : NET_SHAPE(6);
    uint32_t mean = mean_of(g, x), d = NET_OP(g, "Sub", "d", x, mean);
    uint32_t again = spelling.two_sums ? NET_OP(g, "Sub", "d2", x, mean) : d;
    uint32_t square = spelling.product
                          ? NET_OP(g, "Mul", "square", again, again)
                          : NET_OP(g, "Pow", "square", again, pass_scalar(g, spelling.power));
    uint32_t sum = op_of(g, "Add", mean_of(g, square), pass_scalar(g, 0.01f));
    uint32_t y = NET_OP(g, "Div", "y", d, NET_OP(g, "Sqrt", "root", sum));
    if (spelling.affine > 0)
        y = op_of(g, "Mul", y, net_weights(g, "scale", shape, 1, 3));
    if (spelling.affine > 1)
        y = op_of(g, "Add", y, net_weights(g, "bias", shape, 1, 4));
    return y;
}

static void spelt(struct graph *g)
{
    uint32_t x = pass_image(g);
    if (spelling.axes_input)
        g->opsets[0].version = 18;
    net_output(g, spell_at(g, x));
}

Test(pass_norm, all_spellings)
{
    for (unsigned bits = 0; bits < 32; bits++) {
        for (int affine = 0; affine < 3; affine++) {
            spelling.axis = bits & 1 ? 1 : -1;
            spelling.axes_input = bits & 2;
            spelling.product = bits & 4;
            spelling.two_sums = bits & 8;
            spelling.odd = bits & 16;
            spelling.affine = affine;
            spelling.power = 2;
            pass_check(spelt, pass_norm, "convd.LayerNorm", ROUNDING);
        }
    }
}

/* ---- what must stay ---- */

static void two_dimensions(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_INTS("axes", 2, 3)};
    uint32_t x = pass_image(g),
             d = NET_OP(g, "Sub", "d", x, NET_OP_ATTRS(g, "ReduceMean", "m", attrs, x));
    uint32_t square = NET_OP(g, "Mul", "square", d, d);
    uint32_t sum = NET_OP(g, "Add", "sum", NET_OP_ATTRS(g, "ReduceMean", "v", attrs, square),
                          pass_scalar(g, 0.01f));
    net_output(g, NET_OP(g, "Div", "y", d, NET_OP(g, "Sqrt", "root", sum)));
}

/* The mean of one thing and the variance of another. */
static void other_mean(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_INTS("axes", -1)};
    uint32_t x = pass_image(g), z = NET_OP(g, "Abs", "abs", x);
    uint32_t d = NET_OP(g, "Sub", "d", x, NET_OP_ATTRS(g, "ReduceMean", "m", attrs, z));
    uint32_t square = NET_OP(g, "Mul", "square", d, d);
    uint32_t sum = NET_OP(g, "Add", "sum", NET_OP_ATTRS(g, "ReduceMean", "v", attrs, square),
                          pass_scalar(g, 0.01f));
    net_output(g, NET_OP(g, "Div", "y", d, NET_OP(g, "Sqrt", "root", sum)));
}

/* The scale belongs to another dimension. */
static void crosswise(struct graph *g)
{
    uint32_t x = pass_image(g);
    spelling.affine = 0;
    net_output(g,
               NET_OP(g, "Mul", "y", spell_at(g, x), net_weights(g, "s", NET_SHAPE(6, 1), 1, 3)));
}

/* The dimension is as long as the batch is large. */
static void over_the_images(struct graph *g)
{
    const struct op_attr perm[] = {PASS_INTS("perm", 1, 2, 3, 0)};
    uint32_t x = NET_OP_ATTRS(g, "Transpose", "t", perm, pass_image(g));
    spelling.affine = 0;
    net_output(g, spell_at(g, x));
}

Test(pass_norm, what_must_stay)
{
    memset(&spelling, 0, sizeof(spelling));
    spelling.axis = -1;
    spelling.power = 3;
    pass_check(spelt, pass_norm, "ReduceMean Sub Pow ReduceMean Add Sqrt Div", 0);
    spelling.power = 2;
    pass_check(two_dimensions, pass_norm, "ReduceMean Sub Mul ReduceMean Add Sqrt Div", 0);
    pass_check(other_mean, pass_norm, "Abs ReduceMean Sub Mul ReduceMean Add Sqrt Div", 0);
    pass_check(crosswise, pass_norm, "convd.LayerNorm Mul", ROUNDING);
    struct graph g; /* x of pass_run() has the images first */
    over_the_images(&g);
    pass_apply(&g, pass_norm);
    cr_assert_str_eq(pass_ops(&g), "Transpose ReduceMean Sub Pow ReduceMean Add Sqrt Div");
    graph_release(&g);
}

/* What the norm is made of is wanted, too. */
static void also_read(struct graph *g)
{
    spelt(g);
    net_output(g, g->nodes[1].out[0]);
}

Test(pass_norm, parts_that_others_read_stay)
{
    memset(&spelling, 0, sizeof(spelling));
    spelling.axis = 1;
    spelling.power = 2;
    spelling.affine = 2;
    pass_check(also_read, pass_norm, "ReduceMean Sub convd.LayerNorm", ROUNDING);
}

/* ---- ONNX's operator ---- */

static int64_t axis;
static struct cvd_shape scale_shape;
static bool biased;

static void layer_normalization(struct graph *g)
{
    const struct op_attr attrs[] = {PASS_INT("axis", axis), PASS_FLOAT("epsilon", 0.01f)};
    uint32_t x = pass_image(g), scale = net_weights(g, "scale", scale_shape, 1, 3);
    g->opsets[0].version = 17;
    net_output(g, biased ? NET_OP_ATTRS(g, "LayerNormalization", "y", attrs, x, scale,
                                        net_weights(g, "bias", scale_shape, 1, 4))
                         : NET_OP_ATTRS(g, "LayerNormalization", "y", attrs, x, scale));
}

Test(pass_norm, operator)
{
    for (int i = 0; i < 2; i++) {
        biased = i == 0;
        axis = -1;
        scale_shape = NET_SHAPE(6);
        pass_check(layer_normalization, pass_norm, "convd.LayerNorm", ROUNDING);
        axis = 3;
        scale_shape = NET_SHAPE(1, 1, 6);
        pass_check(layer_normalization, pass_norm, "convd.LayerNorm", ROUNDING);
        scale_shape = NET_SHAPE(1);
        pass_check(layer_normalization, pass_norm, "LayerNormalization", 0);
        axis = 2;
        scale_shape = NET_SHAPE(6, 6);
        pass_check(layer_normalization, pass_norm, "LayerNormalization", 0);
    }
}

static void with_mean(struct graph *g)
{
    axis = -1;
    scale_shape = NET_SHAPE(6);
    layer_normalization(g);
    uint32_t *out = mem_arena_alloc(g->arena, 2 * sizeof(*out));
    out[0] = g->nodes[0].out[0];
    out[1] = net_value(g, "mean");
    g->nodes[0].out = out;
    g->nodes[0].out_count = 2;
    net_output(g, out[1]);
}

Test(pass_norm, operator_that_gives_the_mean)
{
    pass_check(with_mean, pass_norm, "LayerNormalization", 0);
}
