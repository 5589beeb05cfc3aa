/* Matrix products: packing, cutting into tiles and the loop over k. */
#include "engine/ops/product.h"

#include "engine/runtime/mem.h"

/* Steps of k packed at a time: a block of A and a panel of B then stay in the second cache. */
#define K_BLOCK 256
/* Panels of B that share one packed block of A. */
#define PANELS 4

static size_t panels_of(const struct kernels *kernels, size_t n)
{
    return (n + kernels->gemm.nr - 1) / kernels->gemm.nr;
}

/* Rows k0 … k0 + k - 1 of columns j … of b as one panel [k][nr], zero beyond column n. */
static void pack_panel(const struct product_matrix *b, size_t k0, size_t k, size_t j, size_t n,
                       size_t nr, float *out)
{
    const size_t columns = n - j < nr ? n - j : nr;
    for (size_t i = 0; i < k; i++, out += nr) {
        const float *from = b->data + (k0 + i) * b->row + j * b->column;
        for (size_t c = 0; c < columns; c++)
            out[c] = from[c * b->column];
        for (size_t c = columns; c < nr; c++)
            out[c] = 0;
    }
}

/* Columns k0 … of rows i … of a as one block [k][mr], zero beyond row m. */
static void pack_block(const struct product_matrix *a, size_t k0, size_t k, size_t i, size_t m,
                       size_t mr, float *out)
{
    const struct product_matrix transposed = {a->data, a->column, a->row};
    pack_panel(&transposed, k0, k, i, m, mr, out);
}

bool product_packed_elements(const struct kernels *kernels, size_t k, size_t n, size_t *out)
{
    size_t columns;
    return mem_mul(panels_of(kernels, n), kernels->gemm.nr, &columns) && mem_mul(columns, k, out);
}

void product_pack(const struct kernels *kernels, const struct product_matrix *b, size_t k, size_t n,
                  float *packed)
{
    const size_t nr = kernels->gemm.nr;
    for (size_t j = 0; j < n; j += nr, packed += k * nr)
        pack_panel(b, 0, k, j, n, nr, packed);
}

size_t product_scratch_bytes(const struct kernels *kernels)
{
    return K_BLOCK * (kernels->gemm.mr + kernels->gemm.nr) * sizeof(float);
}

struct product_loop {
    const struct product *p;
    const struct kernels *kernels;
    char *scratch;
    size_t scratch_stride;
    size_t row_blocks, column_groups; /* parts of one matrix */
    size_t packed_elements;           /* of one matrix B */
};

static void product_part(void *ctx, size_t part, unsigned slot)
{
    const struct product_loop *loop = ctx;
    const struct product *p = loop->p;
    const size_t mr = loop->kernels->gemm.mr, nr = loop->kernels->gemm.nr;
    const size_t group = part % loop->column_groups;
    part /= loop->column_groups;
    const size_t row = part % loop->row_blocks * mr, batch = part / loop->row_blocks;
    const size_t rows = p->m - row < mr ? p->m - row : mr;
    const size_t first = group * PANELS * nr;
    const size_t end = p->n - first < PANELS * nr ? p->n : first + PANELS * nr;

    struct product_matrix a = p->a, b = p->b;
    const float *packed = p->b_packed;
    if (p->locate) {
        size_t a_offset, b_offset;
        p->locate(p->locate_ctx, batch, &a_offset, &b_offset);
        a.data += a_offset;
        if (packed)
            packed += b_offset * loop->packed_elements;
        else
            b.data += b_offset;
    }
    float *c = p->c + (batch * p->m + row) * p->n;
    float *a_block = (float *)(void *)(loop->scratch + slot * loop->scratch_stride);
    float *b_panel = a_block + K_BLOCK * mr;

    for (size_t k0 = 0; k0 < p->k; k0 += K_BLOCK) {
        const size_t k = p->k - k0 < K_BLOCK ? p->k - k0 : K_BLOCK;
        pack_block(&a, k0, k, row, p->m, mr, a_block);
        for (size_t j = first; j < end; j += nr) {
            const float *panel = b_panel;
            if (packed)
                panel = packed + j * p->k + k0 * nr;
            else
                pack_panel(&b, k0, k, j, p->n, nr, b_panel);
            loop->kernels->gemm.fn(k, a_block, panel, c + j, p->n, rows,
                                   p->n - j < nr ? p->n - j : nr, k0 > 0);
        }
    }
    if (p->k == 0) /* an empty sum */
        for (size_t i = 0; i < rows; i++)
            for (size_t j = first; j < end; j++)
                c[i * p->n + j] = 0;
    if (p->finish)
        p->finish(p->finish_ctx, c + first, row, rows, first, end - first);
}

void product_run(const struct product *p, const struct op_run *r)
{
    struct product_loop loop = {
        .p = p,
        .kernels = r->kernels,
        .scratch = r->scratch,
        .scratch_stride = r->scratch_stride,
        .row_blocks = (p->m + r->kernels->gemm.mr - 1) / r->kernels->gemm.mr,
        .column_groups = (panels_of(r->kernels, p->n) + PANELS - 1) / PANELS,
    };
    product_packed_elements(r->kernels, p->k, p->n, &loop.packed_elements);
    tpool_for(r->pool, p->batches * loop.row_blocks * loop.column_groups, product_part, &loop);
}
