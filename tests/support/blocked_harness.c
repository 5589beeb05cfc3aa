/* Running an operator of the domain "convd.blocked" the way a plan does. */
#include "tests/support/blocked_harness.h"

#include "engine/runtime/mem.h"
#include "tests/support/guarded.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#define GUARD_FLOATS 64

/* ---- values in memory ---- */

/* Room for a value in its layout, between guards; all of it poison. */
static float *room_for(const struct cvd_shape *shape, struct op_layout layout)
{
    size_t count;
    cr_assert(blocked_elements(shape, layout, &count));
    float *room = mem_alloc((count + 2 * GUARD_FLOATS) * sizeof *room);
    cr_assert_not_null(room);
    for (size_t i = 0; i < count + 2 * GUARD_FLOATS; i++)
        room[i] = guarded_poison();
    return room + GUARD_FLOATS;
}

static void free_room(float *room)
{
    mem_free(room - GUARD_FLOATS);
}

/* From the room to the value's data. */
static size_t part_begin(const struct cvd_shape *shape, struct op_layout layout)
{
    struct blocked_map m;
    return layout.blocks && blocked_map(shape, layout, &m) ? m.block : 0;
}

static void check_guards(const char *what, const float *room, const struct cvd_shape *shape,
                         struct op_layout layout)
{
    size_t count;
    blocked_elements(shape, layout, &count);
    for (size_t i = 0; i < GUARD_FLOATS; i++) {
        cr_assert(guarded_is_poison(room[-1 - (ptrdiff_t)i]), "%s: wrote before its output", what);
        cr_assert(guarded_is_poison(room[count + i]), "%s: wrote behind its output", what);
    }
    struct blocked_map m;
    if (!layout.blocks || !blocked_map(shape, layout, &m))
        return;
    const size_t begin = part_begin(shape, layout), end = begin + m.first + m.blocks * m.block;
    for (size_t i = 0; i < count; i++)
        if (i % m.image < begin || i % m.image >= end)
            cr_assert(guarded_is_poison(room[i]), "%s: wrote float %zu of another part", what, i);
}

/* Where element i of plain order lies in a blocked value. */
static size_t place_of(const struct blocked_map *m, size_t i)
{
    const size_t x = i % m->width, y = i / m->width % m->height;
    const size_t c = i / m->width / m->height % m->channels;
    const size_t n = i / m->width / m->height / m->channels;
    return m->first + n * m->image + c / m->lanes * m->block + y * m->row + x * m->lanes +
           c % m->lanes;
}

size_t blocked_case_elements(const struct cvd_shape *shape)
{
    size_t count;
    cr_assert(cvd_shape_elements(shape, &count));
    return count;
}

/* A value in its layout with what `plain` holds; lanes beyond the channels are large numbers, other
 * parts are poison. Returns its room. */
static float *laid_out(const float *plain, const struct cvd_shape *shape, struct op_layout layout)
{
    float *room = room_for(shape, layout);
    const size_t count = blocked_case_elements(shape);
    struct blocked_map m;
    if (!blocked_map(shape, layout, &m)) {
        memcpy(room, plain, count * sizeof *room);
        return room;
    }
    float *data = room + part_begin(shape, layout);
    for (size_t n = 0; n < m.images; n++) {
        float *image = data + m.first + n * m.image;
        for (size_t i = 0; i < m.blocks * m.block; i++)
            image[i] = 1e30f;
        blocked_clear_gaps(&m, image, 0, m.blocks, 0, m.height);
        blocked_clear_lead(&m, image);
    }
    for (size_t i = 0; i < count; i++)
        data[place_of(&m, i)] = plain[i];
    return room;
}

/* ---- one case ---- */

/* Runs it; the output in plain order lives as long as the test. */
float *blocked_case_run(const struct blocked_case *c, const struct kernels *kernels,
                        struct tpool *pool, struct cvd_shape *shape)
{
    bool known;
    const int opset = c->domain ? c->opset : BLOCKED_VERSION;
    const struct op_def *def =
        op_find(c->domain ? c->domain : BLOCKED_DOMAIN, c->op, opset, &known);
    cr_assert(def, "no %s", c->op);
    struct cvd_error err = {0};
    struct op_value values[BLOCKED_CASE_INPUTS] = {0}, out = {0};
    const struct op_value *in[BLOCKED_CASE_INPUTS] = {0};
    for (size_t i = 0; i < c->in_count; i++) {
        if (c->in[i].dtype == CVD_DTYPE_NONE)
            continue;
        values[i] = (struct op_value){.dtype = c->in[i].dtype,
                                      .shape = c->in[i].shape,
                                      .data = c->in[i].constant ? c->in[i].data : NULL,
                                      .layout = c->layout[i]};
        in[i] = &values[i];
    }
    const struct op_node node = {.def = def,
                                 .name = "n1",
                                 .opset = opset,
                                 .attrs = c->attrs,
                                 .attr_count = c->attr_count,
                                 .in = in,
                                 .in_count = c->in_count,
                                 .out_count = 1,
                                 .err = &err};
    cr_assert_eq(def->infer(&node, &out), CVD_STATUS_OK, "%s: %s", c->what, err.message);
    out.layout = c->out_layout;
    *shape = out.shape;
    struct op_prepared prepared = {0};
    cr_assert_eq(def->prepare(&node, &out, kernels, &prepared), CVD_STATUS_OK, "%s: %s", c->what,
                 err.message);

    struct op_tensor tensors[BLOCKED_CASE_INPUTS] = {0};
    const struct op_tensor *run_in[BLOCKED_CASE_INPUTS] = {0};
    float *rooms[BLOCKED_CASE_INPUTS] = {0};
    for (size_t i = 0; i < c->in_count; i++) {
        if (!in[i])
            continue;
        tensors[i] = (struct op_tensor){
            .dtype = in[i]->dtype, .shape = in[i]->shape, .layout = in[i]->layout};
        if (!(prepared.inputs_consumed >> i & 1)) {
            rooms[i] = laid_out(c->in[i].data, &in[i]->shape, c->layout[i]);
            tensors[i].data = rooms[i] + part_begin(&in[i]->shape, c->layout[i]);
        }
        run_in[i] = &tensors[i];
    }
    float *room = room_for(&out.shape, out.layout);
    float *data = room + part_begin(&out.shape, out.layout);
    struct op_output output = {
        .dtype = out.dtype, .shape = out.shape, .data = data, .layout = out.layout};
    size_t stride;
    cr_assert(mem_round_up(prepared.scratch_bytes, &stride));
    const unsigned slots = pool ? tpool_threads(pool) : 1;
    char *scratch = mem_alloc(slots * stride + MEM_ALIGN);
    memset(scratch, 0xA5, slots * stride + MEM_ALIGN);
    const struct op_run run = {.state = prepared.state,
                               .kernels = kernels,
                               .pool = pool,
                               .in = run_in,
                               .in_count = c->in_count,
                               .out = &output,
                               .out_count = 1,
                               .scratch = scratch,
                               .scratch_stride = stride};
    def->run(&run);
    for (size_t i = 0; i < MEM_ALIGN; i++)
        cr_assert_eq((unsigned char)scratch[slots * stride + i], 0xA5,
                     "%s: wrote behind its scratch", c->what);
    check_guards(c->what, room, &out.shape, out.layout);

    const size_t count = blocked_case_elements(&out.shape);
    float *plain = op_random(count, 1);
    struct blocked_map m;
    if (blocked_map(&out.shape, out.layout, &m)) {
        for (size_t i = 0; i < count; i++)
            plain[i] = data[place_of(&m, i)];
        for (size_t n = 0; n < m.images; n++) {
            const float *image = data + n * m.image;
            for (size_t i = 0; i < m.first + m.blocks * m.block; i++) {
                const bool gap = i < m.first || (i - m.first) % m.row >= m.width * m.lanes;
                cr_assert(!gap || image[i] == 0, "%s: %s: float %zu of a gap is %g", c->what,
                          prepared.kernel, i, (double)image[i]);
                cr_assert(isfinite(image[i]) || fabsf(image[i]) > 1e20f, "%s: %s: float %zu is %g",
                          c->what, prepared.kernel, i, (double)image[i]);
            }
        }
    } else {
        memcpy(plain, room, count * sizeof *plain);
    }
    for (size_t i = 0; i < c->in_count; i++)
        if (rooms[i])
            free_room(rooms[i]);
    free_room(room);
    mem_free(scratch);
    mem_free(prepared.state);
    return plain;
}

static void make_part(struct op_layout *layout, const struct cvd_shape *shape)
{
    struct blocked_map m;
    if (blocked_map(shape, *layout, &m))
        layout->blocks = (unsigned)m.blocks + 2;
}

/* The case with its inputs, its output, and both as parts of other maps gives the same. */
static void expect_same_of_parts(const struct blocked_case *c, const struct kernels *kernels,
                                 const struct cvd_shape *out, const float *have)
{
    for (unsigned which = 1; which < 4; which++) {
        struct blocked_case parts = *c;
        struct cvd_shape shape;
        for (size_t i = 0; i < c->in_count && (which & 1); i++)
            make_part(&parts.layout[i], &c->in[i].shape);
        if (which & 2)
            make_part(&parts.out_layout, out);
        const float *again = blocked_case_run(&parts, kernels, NULL, &shape);
        cr_assert_eq(memcmp(have, again, blocked_case_elements(out) * sizeof *have), 0,
                     "%s differs on parts of maps", c->what);
    }
}

/* The case gives `want` within `bound` times `size` (the sums of the terms' absolute values), the
 * same bits on four threads, for its last image alone, and where its inputs or its output are parts
 * of other maps. */
void blocked_case_expect(const struct blocked_case *c, enum cvd_cpu level, const double *want,
                         const double *size, double bound)
{
    struct kernels kernels;
    kernels_init(&kernels, level);
    struct cvd_shape shape, again;
    const float *have = blocked_case_run(c, &kernels, NULL, &shape);
    const size_t count = blocked_case_elements(&shape);
    for (size_t i = 0; i < count; i++)
        cr_assert(fabs((double)have[i] - want[i]) <= bound * size[i],
                  "%s at %s: element %zu is %.9g, not %.9g", c->what, cvd_cpu_name(level), i,
                  (double)have[i], want[i]);

    struct tpool *pool;
    cr_assert_eq(tpool_create(4, &pool, NULL), CVD_STATUS_OK);
    const float *spread = blocked_case_run(c, &kernels, pool, &again);
    tpool_destroy(pool);
    cr_assert_eq(memcmp(have, spread, count * sizeof *have), 0, "%s differs on four threads",
                 c->what);
    expect_same_of_parts(c, &kernels, &shape, have);

    const int64_t batch = c->in[0].shape.dims[0];
    struct blocked_case alone = *c;
    for (size_t i = 0; i < c->in_count; i++) {
        struct op_arg *a = &alone.in[i];
        if (a->dtype == CVD_DTYPE_NONE || a->constant)
            continue;
        a->data = (const float *)a->data +
                  blocked_case_elements(&a->shape) / (size_t)batch * (size_t)(batch - 1);
        a->shape.dims[0] = 1;
    }
    const float *single = blocked_case_run(&alone, &kernels, NULL, &again);
    const size_t image = count / (size_t)batch;
    cr_assert_eq(memcmp(single, have + image * (size_t)(batch - 1), image * sizeof *have), 0,
                 "%s differs in a batch", c->what);
}
