/* Kernels that are wrong on purpose (mutants.h). */
#include "tests/support/mutants.h"

#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

/* What the wrong ones call, and what they do besides; a process has one table at a time. */
static struct kernels honest;
static enum mutants_fault fault;

static bool is(enum mutants_fault f)
{
    return fault == f;
}

static void read_at(const float *p)
{
    (void)*(const volatile float *)p;
}

/* The neighbour of the first or last element of an operand of `count` floats. */
static void look_around(const float *operand, size_t count)
{
    if (is(MUTANTS_BEFORE))
        read_at(operand - 1);
    if (is(MUTANTS_BEHIND))
        read_at(operand + count);
}

static struct kernel_act other_act(const struct kernel_act *act)
{
    if (!is(MUTANTS_BOUND))
        return *act;
    return act->kind == KERNEL_ACT_NONE ? (struct kernel_act){KERNEL_ACT_CLIP, -0.125f, 0.125f}
                                        : (struct kernel_act){KERNEL_ACT_NONE, 0, 0};
}

/* ---- products ---- */

static void wrong_gemm(size_t k, const float *a, const float *b, float *c, size_t ldc, size_t rows,
                       size_t cols, int accumulate)
{
    look_around(a, k * honest.gemm.mr);
    if (is(MUTANTS_BOUND))
        accumulate = !accumulate;
    if (!is(MUTANTS_SHORT) || cols > 1)
        honest.gemm.fn(k, a, b, c, ldc, rows, cols - is(MUTANTS_SHORT), accumulate);
    if (is(MUTANTS_BEYOND))
        c[(rows - 1) * ldc + cols] = 0;
}

static void wrong_conv(const struct kernel_conv *c)
{
    struct kernel_conv bad = *c;
    look_around(c->weights, c->total * c->columns * c->weight_rows * c->vectors * honest.lanes);
    bad.pixels -= is(MUTANTS_SHORT);
    bad.act = other_act(&c->act);
    if (bad.pixels > 0)
        honest.conv.fn(&bad);
    if (is(MUTANTS_BEYOND) && c->width == SIZE_MAX)
        c->out[(c->pixels - 1) * c->out_pixel + (c->vectors - 1) * c->out_vector + c->last_lanes] =
            0;
}

static void wrong_grouped(const struct kernel_grouped *c)
{
    struct kernel_grouped bad = *c;
    look_around(c->bias, honest.lanes);
    bad.pixels -= is(MUTANTS_SHORT);
    bad.act = other_act(&c->act);
    if (bad.pixels > 0)
        honest.grouped.fn(&bad);
    if (is(MUTANTS_BEYOND))
        c->out[c->pixels * honest.lanes] = 0;
}

static void wrong_planes(const struct kernel_planes *p)
{
    struct kernel_planes bad = *p;
    look_around(p->weights, p->channels * p->window_rows * p->window_columns * p->maps);
    bad.columns -= is(MUTANTS_SHORT);
    bad.act = other_act(&p->act);
    if (bad.columns > 0)
        honest.planes.fn(&bad);
    if (is(MUTANTS_BEYOND))
        p->out[(p->maps - 1) * p->out_map + (p->rows - 1) * p->out_row + p->columns] = 0;
}

static void wrong_planes_pool(const float *in, size_t in_row, float *out, size_t rows,
                              size_t columns)
{
    look_around(in, (2 * rows - 1) * in_row + 2 * columns);
    honest.planes.pool(in, in_row, out, rows - is(MUTANTS_SHORT), columns);
    if (is(MUTANTS_BEYOND))
        out[rows * columns] = 0;
}

/* ---- layouts ---- */

static void wrong_block(const float *in, size_t in_channel, size_t channels, size_t pixels,
                        float *out)
{
    look_around(in, (channels - 1) * in_channel + pixels);
    honest.reorder.block(in, in_channel, channels - is(MUTANTS_SHORT), pixels, out);
    if (is(MUTANTS_BEYOND))
        out[pixels * honest.lanes] = 0;
}

static void wrong_unblock(const float *in, size_t out_channel, size_t channels, size_t pixels,
                          float *out)
{
    look_around(in, pixels * honest.lanes);
    if (!is(MUTANTS_SHORT) || pixels > 1)
        honest.reorder.unblock(in, out_channel, channels, pixels - is(MUTANTS_SHORT), out);
    if (is(MUTANTS_BEYOND))
        out[(channels - 1) * out_channel + pixels] = 0;
}

static void wrong_channels(const struct kernel_channels *c)
{
    struct kernel_channels bad = *c;
    look_around(c->sources[0].in, (c->rows - 1) * c->sources[0].row + c->columns * honest.lanes);
    bad.columns -= is(MUTANTS_SHORT);
    if (bad.columns > 0)
        honest.channels.fn(&bad);
    if (is(MUTANTS_BEYOND))
        c->y[(c->rows - 1) * c->y_row + c->columns * honest.lanes] = 0;
}

/* ---- Winograd ---- */

static void shorten_input(const struct kernel_winograd_input *w, kernel_winograd_input_fn fn)
{
    struct kernel_winograd_input bad = *w;
    if (is(MUTANTS_BEFORE))
        read_at(w->in - w->gap * honest.lanes - 1);
    bad.pad_left += is(MUTANTS_BOUND);
    bad.tiles -= is(MUTANTS_SHORT);
    if (bad.tiles > 0)
        fn(&bad);
}

static void wrong_input_4(const struct kernel_winograd_input *w)
{
    shorten_input(w, honest.winograd.by_4.input);
}

static void wrong_input_2(const struct kernel_winograd_input *w)
{
    shorten_input(w, honest.winograd.by_2.input);
}

static void wrong_product(const struct kernel_winograd_product *p)
{
    struct kernel_winograd_product bad = *p;
    look_around(p->weights, p->elements * p->channels * p->vectors * honest.lanes);
    bad.tiles -= is(MUTANTS_SHORT);
    bad.channels -= is(MUTANTS_BOUND) && p->channels > 1;
    if (bad.tiles > 0)
        honest.winograd.product(&bad);
    if (is(MUTANTS_BEYOND))
        p->out[(p->elements - 1) * p->out_element + (p->vectors - 1) * p->out_block +
               p->tiles * honest.lanes] = 0;
}

static void shorten_output(const struct kernel_winograd_output *w, kernel_winograd_output_fn fn)
{
    struct kernel_winograd_output bad = *w;
    bad.tiles -= is(MUTANTS_SHORT);
    bad.act = other_act(&w->act);
    if (bad.tiles > 0)
        fn(&bad);
    if (is(MUTANTS_BEYOND))
        w->out[(w->height - 1) * w->out_row + w->width * honest.lanes] = 1;
}

static void wrong_output_4(const struct kernel_winograd_output *w)
{
    shorten_output(w, honest.winograd.by_4.output);
}

static void wrong_output_2(const struct kernel_winograd_output *w)
{
    shorten_output(w, honest.winograd.by_2.output);
}

/* ---- windows ---- */

static void write_beyond(const struct kernel_window *w)
{
    if (is(MUTANTS_BEYOND) && w->rows > 0)
        w->out[(w->first_row + w->rows - 1) * w->out_row + w->out_width * honest.lanes] = 0;
}

static void wrong_depthwise(const struct kernel_depthwise *d)
{
    struct kernel_depthwise bad = *d;
    look_around(d->weights, d->window.kernel_height * d->window.kernel_width * honest.lanes);
    bad.window.out_width -= is(MUTANTS_SHORT);
    bad.act = other_act(&d->act);
    if (bad.window.out_width > 0)
        honest.depthwise.fn(&bad);
    write_beyond(&d->window);
}

static void wrong_pool(const struct kernel_pool *p)
{
    struct kernel_pool bad = *p;
    look_around(p->window.in, p->window.height * p->window.in_row);
    bad.window.out_width -= is(MUTANTS_SHORT);
    bad.pad_bottom += is(MUTANTS_BOUND);
    if (bad.window.out_width > 0)
        honest.pool.fn(&bad);
    write_beyond(&p->window);
}

static void wrong_global_pool(const struct kernel_global_pool *p)
{
    struct kernel_global_pool bad = *p;
    look_around(p->in, (p->blocks - 1) * p->in_block + (p->height - 1) * p->in_row +
                           p->width * honest.lanes);
    bad.height -= is(MUTANTS_SHORT) && p->height > 1;
    honest.global_pool.fn(&bad);
    if (is(MUTANTS_BEYOND))
        p->out[p->blocks * honest.lanes] = 0;
}

/* ---- element by element, and over channels ---- */

static void wrong_pointwise(const struct kernel_pointwise *p)
{
    struct kernel_pointwise bad = *p;
    look_around(p->a, (p->rows - 1) * p->a_row + p->columns * honest.lanes);
    bad.columns -= is(MUTANTS_SHORT);
    bad.act = other_act(&p->act);
    if (bad.columns > 0)
        honest.pointwise.fn(&bad);
    if (is(MUTANTS_BEYOND))
        p->y[(p->rows - 1) * p->y_row + p->columns * honest.lanes] = 0;
}

static void wrong_softmax(const struct kernel_softmax *s)
{
    struct kernel_softmax bad = *s;
    look_around(s->x, (s->rows - 1) * s->x_row + s->count);
    bad.count -= is(MUTANTS_SHORT) && s->count > 1;
    honest.softmax.fn(&bad);
    if (is(MUTANTS_BEYOND))
        s->y[(s->rows - 1) * s->y_row + s->count] = 0;
}

static void wrong_layer_norm(const struct kernel_layer_norm *n)
{
    struct kernel_layer_norm bad = *n;
    look_around(n->gamma, n->channels);
    bad.pixels -= is(MUTANTS_SHORT);
    bad.epsilon += is(MUTANTS_BOUND) ? 0.01f : 0;
    if (bad.pixels > 0)
        honest.layer_norm.fn(&bad);
    if (is(MUTANTS_BEYOND))
        n->y[(n->pixels - 1) * n->y_pixel + (n->channels - 1) / honest.lanes * n->y_block +
             (n->channels - 1) % honest.lanes + 1] = 0;
}

static void wrong_act(const struct kernel_act *act, float *y, size_t n)
{
    struct kernel_act bad = *act;
    if (is(MUTANTS_BOUND) && bad.kind == KERNEL_ACT_CLIP)
        bad.beta += 0.5f;
    honest.act(&bad, y, n - is(MUTANTS_SHORT));
    if (is(MUTANTS_BEYOND))
        y[n] = 0;
}

/* ---- which ---- */

#define INSTALL(name, member)                     \
    static void install_##name(struct kernels *k) \
    {                                             \
        k->member = wrong_##name;                 \
    }
INSTALL(gemm, gemm.fn)
INSTALL(conv, conv.fn)
INSTALL(grouped, grouped.fn)
INSTALL(planes, planes.fn)
INSTALL(planes_pool, planes.pool)
INSTALL(block, reorder.block)
INSTALL(unblock, reorder.unblock)
INSTALL(channels, channels.fn)
INSTALL(input_4, winograd.by_4.input)
INSTALL(input_2, winograd.by_2.input)
INSTALL(product, winograd.product)
INSTALL(output_4, winograd.by_4.output)
INSTALL(output_2, winograd.by_2.output)
INSTALL(depthwise, depthwise.fn)
INSTALL(pool, pool.fn)
INSTALL(global_pool, global_pool.fn)
INSTALL(pointwise, pointwise.fn)
INSTALL(softmax, softmax.fn)
INSTALL(layer_norm, layer_norm.fn)
INSTALL(act, act)

#define S (1u << MUTANTS_SHORT)
#define Y (1u << MUTANTS_BEYOND)
#define A (1u << MUTANTS_BOUND)
#define X (1u << MUTANTS_BEFORE | 1u << MUTANTS_BEHIND)

/* The scratch memory between Winograd's steps has no end that could be touched. */
const struct mutants_kernel mutants_all[] = {
    {"gemm", "test_gemm", "gemm/*", S | Y | A | X, install_gemm},
    {"conv", "test_conv", "conv/all_tiles", S | Y | A | X, install_conv},
    {"grouped", "test_conv", "grouped/*", S | Y | A | X, install_grouped},
    {"planes", "test_conv", "planes/all", S | Y | A | X, install_planes},
    {"planes_pool", "test_conv", "planes/pool", S | Y | X, install_planes_pool},
    {"block", "test_conv", "reorder/*", S | Y | X, install_block},
    {"unblock", "test_conv", "reorder/*", S | Y | X, install_unblock},
    {"channels", "test_channels", "channels/*", S | Y | X, install_channels},
    {"input_4", "test_winograd", "winograd/convolutions", S | A | 1u << MUTANTS_BEFORE,
     install_input_4},
    {"input_2", "test_winograd", "winograd/convolutions", S | A | 1u << MUTANTS_BEFORE,
     install_input_2},
    {"product", "test_winograd", "winograd/products", S | Y | A | X, install_product},
    {"output_4", "test_winograd", "winograd/convolutions", S | Y | A, install_output_4},
    {"output_2", "test_winograd", "winograd/convolutions", S | Y | A, install_output_2},
    {"depthwise", "test_depthwise", "depthwise/windows", S | Y | A | X, install_depthwise},
    {"pool", "test_depthwise", "pool/windows", S | Y | A | X, install_pool},
    {"global_pool", "test_depthwise", "pool/whole_map", S | Y | X, install_global_pool},
    {"pointwise", "test_pointwise", "pointwise/maps", S | Y | A | X, install_pointwise},
    {"softmax", "test_pointwise", "pointwise/softmax", S | Y | X, install_softmax},
    {"layer_norm", "test_pointwise", "pointwise/layer_norm", S | Y | A | X, install_layer_norm},
    {"act", "test_pointwise", "activation/*", S | Y | A, install_act},
    {NULL, NULL, NULL, 0, NULL},
};

const char *const mutants_faults[MUTANTS_FAULTS] = {
    [MUTANTS_NONE] = "none",   [MUTANTS_SHORT] = "short",   [MUTANTS_BEYOND] = "beyond",
    [MUTANTS_BOUND] = "bound", [MUTANTS_BEFORE] = "before", [MUTANTS_BEHIND] = "behind",
};

void mutants_kernels_init(struct kernels *k, enum cvd_cpu level)
{
    const char *wanted = getenv("CHECK_MUTANT");
    kernels_init(k, level);
    if (wanted == NULL)
        return;
    honest = *k;
    fault = MUTANTS_NONE;
    for (const struct mutants_kernel *m = mutants_all; m->name != NULL; m++) {
        const size_t len = strlen(m->name);
        for (unsigned f = 1; f < MUTANTS_FAULTS; f++) {
            if (strncmp(wanted, m->name, len) == 0 && wanted[len] == ' ' &&
                strcmp(wanted + len + 1, mutants_faults[f]) == 0) {
                fault = (enum mutants_fault)f;
                m->install(k);
            }
        }
    }
    cr_assert_neq(fault, MUTANTS_NONE, "there is no mutant '%s'", wanted);
}
