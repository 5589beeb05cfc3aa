/* Gemm and MatMul on packed tiles, alone and with what follows them. */
#include "engine/ops/fused.h"
#include "engine/ops/op_util.h"
#include "engine/ops/product.h"
#include "engine/runtime/mem.h"

#include <inttypes.h>
#include <string.h>

/* The state of both; a constant B follows it, packed. */
struct matmul_state {
    bool trans_a, trans_b; /* Gemm */
    float alpha, beta;
    struct activation activation;
    const float *packed; /* NULL: B comes at run time */
};

/* A narrow matrix is padded to a whole panel. Where that would multiply a large one it stays as it
 * is and is packed piece by piece as it is read. */
#define PACK_MAX_GROWTH       2
#define PACK_MAX_GROWTH_SMALL 5
#define PACK_SMALL_BYTES      ((size_t)1 << 20)

static bool worth_packing(size_t packed_bytes, size_t elements)
{
    const size_t growth = packed_bytes / sizeof(float) / elements;
    return growth < PACK_MAX_GROWTH ||
           (growth < PACK_MAX_GROWTH_SMALL && packed_bytes <= PACK_SMALL_BYTES);
}

/* Allocates the state, with room for `matrices` packed matrices when B is constant and is to be
 * packed; else *packed is NULL. */
static enum cvd_status make_state(const struct op_node *node, const struct kernels *kernels,
                                  size_t k, size_t n, size_t matrices, struct op_prepared *prepared,
                                  struct matmul_state **out, float **packed)
{
    size_t elements = 0, bytes = 0, room;
    const size_t head = (sizeof **out + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    bool constant = node->in[1]->data != NULL && op_elements(&node->in[1]->shape) > 0;
    if (constant && (!product_packed_elements(kernels, k, n, &elements) ||
                     !mem_mul(elements, matrices, &elements) ||
                     !mem_mul(elements, sizeof(float), &bytes) || !mem_add(bytes, head, &room)))
        return op_fail(node, CVD_STATUS_OUT_OF_MEMORY, "weights do not fit in memory");
    constant = constant && worth_packing(bytes, op_elements(&node->in[1]->shape));
    enum cvd_status status = op_state(node, constant ? room : head, prepared, out);
    if (status != CVD_STATUS_OK)
        return status;
    *packed = constant ? (float *)(void *)((char *)*out + head) : NULL;
    **out = (struct matmul_state){.packed = *packed};
    prepared->inputs_consumed = constant ? 2 : 0;
    prepared->kernel = kernels->gemm.name;
    prepared->scratch_bytes = product_scratch_bytes(kernels);
    for (size_t i = 0; i < node->in_count; i++)
        prepared->parameters += op_parameters(node, i);
    return CVD_STATUS_OK;
}

/* ---- Gemm ---- */

struct gemm_sizes {
    size_t m, n, k;
};

static enum cvd_status gemm_read(const struct op_node *node, struct matmul_state *s,
                                 struct gemm_sizes *g)
{
    enum cvd_status status = CVD_STATUS_OK;
    const unsigned integers = OP_TYPE(CVD_DTYPE_INT32) | OP_TYPE(CVD_DTYPE_INT64);
    for (size_t i = 0; i < 3 && status == CVD_STATUS_OK; i++)
        if (i < 2 || op_input(node, i))
            status = op_check_type(node, i, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS | integers);
    int64_t trans_a = 0, trans_b = 0, broadcast = 1;
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "transA", 0, &trans_a);
    if (status == CVD_STATUS_OK)
        status = op_attr_int(node, "transB", 0, &trans_b);
    if (status == CVD_STATUS_OK)
        status = op_attr_float(node, "alpha", 1, &s->alpha);
    if (status == CVD_STATUS_OK)
        status = op_attr_float(node, "beta", 1, &s->beta);
    if (status == CVD_STATUS_OK && node->def->until == 6)
        status = op_attr_int(node, "broadcast", 0, &broadcast);
    if (status == CVD_STATUS_OK)
        status = activation_read(node, &s->activation);
    if (status != CVD_STATUS_OK)
        return status;
    s->trans_a = trans_a != 0;
    s->trans_b = trans_b != 0;

    const struct cvd_shape *a = &node->in[0]->shape, *b = &node->in[1]->shape;
    if (a->rank != 2 || b->rank != 2)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "A has %u dimensions and B has %u; both must have 2", a->rank, b->rank);
    g->m = (size_t)a->dims[s->trans_a];
    g->k = (size_t)a->dims[!s->trans_a];
    g->n = (size_t)b->dims[!s->trans_b];
    if ((size_t)b->dims[s->trans_b] != g->k)
        return op_fail(node, CVD_STATUS_INVALID_MODEL,
                       "A has %zu columns but B has %" PRId64 " rows", g->k, b->dims[s->trans_b]);
    const struct op_value *c = op_input(node, 2);
    if (!c)
        return CVD_STATUS_OK;
    const struct cvd_shape y = {2, {(int64_t)g->m, (int64_t)g->n}};
    struct cvd_shape both;
    if (!(broadcast ? op_broadcast(&y, &c->shape, &both) && cvd_shape_equal(&y, &both)
                    : cvd_shape_equal(&y, &c->shape))) {
        char text[CVD_SHAPE_TEXT_BYTES];
        return op_fail(
            node, CVD_STATUS_INVALID_MODEL, "C is %s, which does not %s the product's [%zu,%zu]",
            cvd_shape_text(&c->shape, text), broadcast ? "broadcast to" : "have", g->m, g->n);
    }
    return CVD_STATUS_OK;
}

enum cvd_status gemm_infer(const struct op_node *node, struct op_value *out)
{
    struct matmul_state s;
    struct gemm_sizes g = {0};
    enum cvd_status status = gemm_read(node, &s, &g);
    const struct cvd_shape shape = {2, {(int64_t)g.m, (int64_t)g.n}};
    return status == CVD_STATUS_OK ? op_set_output(node, &out[0], CVD_DTYPE_FLOAT32, &shape)
                                   : status;
}

static struct product_matrix gemm_b(const struct matmul_state *s, const float *data,
                                    const struct gemm_sizes *g)
{
    return (struct product_matrix){data, s->trans_b ? 1 : g->n, s->trans_b ? g->k : 1};
}

enum cvd_status gemm_prepare(const struct op_node *node, const struct op_value *out,
                             const struct kernels *kernels, struct op_prepared *prepared)
{
    (void)out;
    struct matmul_state read = {0}, *s;
    struct gemm_sizes g;
    enum cvd_status status = gemm_read(node, &read, &g);
    if (status != CVD_STATUS_OK)
        return status;
    float *packed;
    status = make_state(node, kernels, g.k, g.n, 1, prepared, &s, &packed);
    if (status != CVD_STATUS_OK)
        return status;
    read.packed = packed;
    *s = read;
    if (packed) {
        const struct product_matrix b = gemm_b(s, node->in[1]->data, &g);
        product_pack(kernels, &b, g.k, g.n, packed);
    }
    prepared->macs = (uint64_t)g.m * g.n * g.k;
    prepared->mixes_images = /* sums over dimension 0 of A or of B */
        s->trans_a || !node->in[1]->data;
    return CVD_STATUS_OK;
}

struct gemm_finish {
    float alpha, beta;
    const float *c; /* the operator's C; NULL: none */
    size_t c_row, c_column;
    const struct activation *activation;
    size_t n;
};

static void gemm_add_c(const struct gemm_finish *f, const float *c, float *y, size_t columns)
{
    if (f->beta == 1)
        for (size_t j = 0; j < columns; j++)
            y[j] += c[j * f->c_column];
    else
        for (size_t j = 0; j < columns; j++)
            y[j] += f->beta * c[j * f->c_column];
}

static void gemm_finish(const void *ctx, float *y, size_t row, size_t rows, size_t column,
                        size_t columns)
{
    const struct gemm_finish *f = ctx;
    for (size_t i = 0; i < rows; i++, y += f->n) {
        if (f->alpha != 1)
            for (size_t j = 0; j < columns; j++)
                y[j] *= f->alpha;
        if (f->c)
            gemm_add_c(f, f->c + (row + i) * f->c_row + column * f->c_column, y, columns);
        activation_apply(f->activation, y, columns);
    }
}

/* Whether there is anything to do. */
static bool gemm_finishes(const struct gemm_finish *f)
{
    return f->c || f->alpha != 1 || f->activation->kind != ACTIVATION_NONE;
}

void gemm_run(const struct op_run *r)
{
    const struct matmul_state *s = r->state;
    const struct cvd_shape *a = &r->in[0]->shape, *y = &r->out[0].shape;
    const struct op_tensor *c = op_run_input(r, 2);
    const struct gemm_sizes g = {(size_t)y->dims[0], (size_t)y->dims[1],
                                 (size_t)a->dims[!s->trans_a]};
    struct gemm_finish finish = {
        .alpha = s->alpha, .beta = s->beta, .activation = &s->activation, .n = g.n};
    if (c && s->beta != 0) {
        const struct cvd_shape *shape = &c->shape;
        const int64_t columns = shape->rank >= 1 ? shape->dims[shape->rank - 1] : 1;
        const int64_t rows = shape->rank == 2 ? shape->dims[0] : 1;
        finish.c = c->data;
        finish.c_column = columns > 1;
        finish.c_row = rows > 1 ? (size_t)columns : 0;
    }
    const struct product p = {
        .m = g.m,
        .n = g.n,
        .k = g.k,
        .a = {r->in[0]->data, s->trans_a ? 1 : g.k, s->trans_a ? g.m : 1},
        .b = s->packed ? (struct product_matrix){0} : gemm_b(s, r->in[1]->data, &g),
        .b_packed = s->packed,
        .c = r->out[0].data,
        .batches = 1,
        .finish = gemm_finishes(&finish) ? gemm_finish : NULL,
        .finish_ctx = &finish,
    };
    product_run(&p, r);
}

/* ---- MatMul ---- */

/* Shapes of a product in NumPy's sense: a vector is a row on the left, a column on the right. */
struct matmul_sizes {
    size_t m, n, k;
    struct cvd_shape batch;            /* broadcast leading dimensions */
    struct cvd_shape a_batch, b_batch; /* those of each factor */
};

static struct cvd_shape leading(const struct cvd_shape *s)
{
    struct cvd_shape out = {.rank = s->rank > 2 ? s->rank - 2 : 0};
    memcpy(out.dims, s->dims, out.rank * sizeof out.dims[0]);
    return out;
}

static bool matmul_sizes(const struct cvd_shape *a, const struct cvd_shape *b,
                         struct matmul_sizes *out)
{
    out->m = a->rank > 1 ? (size_t)a->dims[a->rank - 2] : 1;
    out->k = (size_t)a->dims[a->rank - 1];
    out->n = b->rank > 1 ? (size_t)b->dims[b->rank - 1] : 1;
    const size_t b_rows = (size_t)b->dims[b->rank > 1 ? b->rank - 2 : 0];
    out->a_batch = leading(a);
    out->b_batch = leading(b);
    return b_rows == out->k && op_broadcast(&out->a_batch, &out->b_batch, &out->batch);
}

/* The bias of convd's own MatMul: one number for each column. */
static enum cvd_status matmul_check_bias(const struct op_node *node, size_t columns)
{
    const struct op_value *bias = op_input(node, 2);
    if (!bias)
        return CVD_STATUS_OK;
    enum cvd_status status =
        op_check_type(node, 2, OP_TYPE(CVD_DTYPE_FLOAT32), OP_TYPE(CVD_DTYPE_FLOAT32));
    char text[CVD_SHAPE_TEXT_BYTES];
    if (status == CVD_STATUS_OK && op_elements(&bias->shape) != columns)
        status = op_fail(node, CVD_STATUS_INVALID_MODEL,
                         "bias is %s; it must have one element for each of %zu columns",
                         cvd_shape_text(&bias->shape, text), columns);
    return status;
}

static enum cvd_status matmul_read(const struct op_node *node, struct matmul_sizes *sizes)
{
    enum cvd_status status = CVD_STATUS_OK;
    const unsigned integers = OP_TYPE(CVD_DTYPE_INT32) | OP_TYPE(CVD_DTYPE_INT64);
    for (size_t i = 0; i < 2 && status == CVD_STATUS_OK; i++)
        status = op_check_type(node, i, OP_TYPE(CVD_DTYPE_FLOAT32), OP_FLOATS | integers);
    if (status != CVD_STATUS_OK)
        return status;
    const struct cvd_shape *a = &node->in[0]->shape, *b = &node->in[1]->shape;
    if (a->rank == 0 || b->rank == 0)
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "input %d is a scalar", a->rank != 0);
    if (!matmul_sizes(a, b, sizes)) {
        char text_a[CVD_SHAPE_TEXT_BYTES], text_b[CVD_SHAPE_TEXT_BYTES];
        return op_fail(node, CVD_STATUS_INVALID_MODEL, "%s and %s cannot be multiplied",
                       cvd_shape_text(a, text_a), cvd_shape_text(b, text_b));
    }
    return matmul_check_bias(node, sizes->n);
}

enum cvd_status matmul_infer(const struct op_node *node, struct op_value *out)
{
    struct matmul_sizes sizes;
    enum cvd_status status = matmul_read(node, &sizes);
    if (status != CVD_STATUS_OK)
        return status;
    struct cvd_shape shape = sizes.batch;
    if (node->in[0]->shape.rank > 1)
        shape.dims[shape.rank++] = (int64_t)sizes.m;
    if (node->in[1]->shape.rank > 1)
        shape.dims[shape.rank++] = (int64_t)sizes.n;
    return op_set_output(node, &out[0], CVD_DTYPE_FLOAT32, &shape);
}

enum cvd_status matmul_prepare(const struct op_node *node, const struct op_value *out,
                               const struct kernels *kernels, struct op_prepared *prepared)
{
    struct matmul_state *s;
    struct matmul_sizes sizes;
    enum cvd_status status = matmul_read(node, &sizes);
    if (status != CVD_STATUS_OK)
        return status;
    float *packed;
    const size_t matrices = op_elements(&sizes.b_batch);
    status = make_state(node, kernels, sizes.k, sizes.n, matrices, prepared, &s, &packed);
    if (status == CVD_STATUS_OK)
        status = activation_read(node, &s->activation);
    if (status != CVD_STATUS_OK)
        return status;
    size_t elements;
    product_packed_elements(kernels, sizes.k, sizes.n, &elements);
    for (size_t i = 0; packed && i < matrices; i++) {
        const struct product_matrix b = {(const float *)node->in[1]->data + i * sizes.k * sizes.n,
                                         sizes.n, 1};
        product_pack(kernels, &b, sizes.k, sizes.n, packed + i * elements);
    }
    prepared->macs = (uint64_t)op_elements(&out[0].shape) * sizes.k;
    /* A vector on the left or a matrix on the right is summed over its dimension 0. */
    prepared->mixes_images =
        node->in[0]->shape.rank == 1 || (!node->in[1]->data && node->in[1]->shape.rank <= 2);
    return CVD_STATUS_OK;
}

struct matmul_batches {
    const struct matmul_sizes *sizes;
    size_t a_matrix, b_matrix; /* elements (or, packed, matrices) from one to the next */
};

/* Number of the matrix of a factor that stands under matrix `index` of the product. */
static size_t batch_index(const struct cvd_shape *batch, const struct cvd_shape *own, size_t index)
{
    size_t number = 0, scale = 1;
    for (unsigned i = 0; i < own->rank; i++) { /* from the innermost outwards */
        const size_t extent = (size_t)batch->dims[batch->rank - 1 - i];
        const size_t own_extent = (size_t)own->dims[own->rank - 1 - i];
        if (own_extent != 1)
            number += index % extent * scale;
        scale *= own_extent;
        index /= extent;
    }
    return number;
}

static void matmul_locate(const void *ctx, size_t batch, size_t *a_offset, size_t *b_offset)
{
    const struct matmul_batches *m = ctx;
    *a_offset = batch_index(&m->sizes->batch, &m->sizes->a_batch, batch) * m->a_matrix;
    *b_offset = batch_index(&m->sizes->batch, &m->sizes->b_batch, batch) * m->b_matrix;
}

struct matmul_finish {
    const float *bias; /* may be NULL */
    const struct activation *activation;
    size_t n;
};

static void matmul_finish(const void *ctx, float *y, size_t row, size_t rows, size_t column,
                          size_t columns)
{
    const struct matmul_finish *f = ctx;
    (void)row;
    for (size_t i = 0; i < rows; i++, y += f->n) {
        if (f->bias)
            for (size_t j = 0; j < columns; j++)
                y[j] += f->bias[column + j];
        activation_apply(f->activation, y, columns);
    }
}

void matmul_run(const struct op_run *r)
{
    const struct matmul_state *s = r->state;
    struct matmul_sizes sizes;
    if (!matmul_sizes(&r->in[0]->shape, &r->in[1]->shape, &sizes))
        return;
    const size_t k = sizes.k, n = sizes.n;
    const struct op_tensor *bias = op_run_input(r, 2);
    const struct matmul_finish finish = {bias ? bias->data : NULL, &s->activation, n};
    const struct matmul_batches batches = {&sizes, sizes.m * k, s->packed ? 1 : k * n};
    struct product p = {
        .m = sizes.m,
        .n = n,
        .k = k,
        .a = {r->in[0]->data, k, 1},
        .b_packed = s->packed,
        .c = r->out[0].data,
        .batches = op_elements(&sizes.batch),
        .locate = sizes.batch.rank > 0 ? matmul_locate : NULL,
        .locate_ctx = &batches,
        .finish = finish.bias || finish.activation->kind != ACTIVATION_NONE ? matmul_finish : NULL,
        .finish_ctx = &finish,
    };
    if (!s->packed)
        p.b = (struct product_matrix){r->in[1]->data, n, 1};
    /* The same matrix B for all: one tall product, so that small batches fill whole tiles. */
    if (op_elements(&sizes.b_batch) == 1) {
        p.m *= p.batches;
        p.batches = 1;
        p.locate = NULL;
    }
    product_run(&p, r);
}

/* clang-format off */
const struct op_def ops_matmul[] = {
    {.name = "Gemm", .domain = "", .since = 1, .until = 6, .flags = OP_BATCHWISE,
     .min_inputs = 3, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = gemm_infer, .prepare = gemm_prepare, .run = gemm_run},
    {.name = "Gemm", .domain = "", .since = 7, .until = 10, .flags = OP_BATCHWISE,
     .min_inputs = 3, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = gemm_infer, .prepare = gemm_prepare, .run = gemm_run},
    {.name = "Gemm", .domain = "", .since = 11, .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 3, .min_outputs = 1, .max_outputs = 1,
     .infer = gemm_infer, .prepare = gemm_prepare, .run = gemm_run},
    {.name = "MatMul", .domain = "", .since = 1, .flags = OP_BATCHWISE,
     .min_inputs = 2, .max_inputs = 2, .min_outputs = 1, .max_outputs = 1,
     .infer = matmul_infer, .prepare = matmul_prepare, .run = matmul_run},
    {.name = NULL},
};
/* clang-format on */
