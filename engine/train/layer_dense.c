/* Dense layers, activations, dropout and the loss (see layer.h). */
#include "engine/train/layer.h"

#include <math.h>
#include <string.h>

/* Blocks of the matrix product: terms of a sum, and columns (whole tiles) packed at a time. */
#define BLOCK_TERMS   128
#define BLOCK_COLUMNS (LAYER_B_FLOATS / BLOCK_TERMS)

/* An operand: element (i, j) is at data[i * row + j * column]. */
struct operand {
    const float *data;
    size_t row, column;
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void pack_tile(float *to, size_t tile, const float *from, size_t count, size_t step,
                      size_t terms, size_t term_step)
{
    if (step == 1) {
        for (size_t t = 0; t < terms; t++)
            memcpy(to + t * tile, from + t * term_step, count * sizeof *to);
        return;
    }
    for (size_t i = 0; i < count; i++)
        for (size_t t = 0; t < terms; t++)
            to[t * tile + i] = from[i * step + t * term_step];
}

/* c[m][n] = or += a * b, sums of `terms` products. */
static void product(struct layer_scratch *s, size_t m, size_t n, size_t terms, struct operand a,
                    struct operand b, float *c, bool accumulate)
{
    const size_t mr = s->kernels->gemm.mr, nr = s->kernels->gemm.nr;
    const size_t columns_max = BLOCK_COLUMNS / nr * nr;
    for (size_t t = 0; t < terms; t += BLOCK_TERMS) {
        const size_t block = min_size(BLOCK_TERMS, terms - t);
        for (size_t j0 = 0; j0 < n; j0 += columns_max) {
            const size_t columns = min_size(columns_max, n - j0);
            for (size_t j = 0; j < columns; j += nr)
                pack_tile(s->b + j * block, nr, b.data + t * b.row + (j0 + j) * b.column,
                          min_size(nr, columns - j), b.column, block, b.row);
            for (size_t i = 0; i < m; i += mr) {
                const size_t rows = min_size(mr, m - i);
                pack_tile(s->a, mr, a.data + i * a.row + t * a.column, rows, a.row, block,
                          a.column);
                for (size_t j = 0; j < columns; j += nr)
                    s->kernels->gemm.fn(block, s->a, s->b + j * block, c + i * n + j0 + j, n, rows,
                                        min_size(nr, columns - j), accumulate || t > 0);
            }
        }
    }
}

void layer_dense_forward(struct layer_scratch *s, const struct layer_dense *d, const float *w,
                         const float *bias, size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        memcpy(y + i * d->out, bias, d->out * sizeof *y);
    product(s, n, d->out, d->in, (struct operand){x, d->in, 1}, (struct operand){w, d->out, 1}, y,
            true);
}

void layer_dense_backward_weights(struct layer_scratch *s, const struct layer_dense *d, size_t n,
                                  const float *x, const float *dy, float *dw, float *db)
{
    product(s, d->in, d->out, n, (struct operand){x, 1, d->in}, (struct operand){dy, d->out, 1}, dw,
            true);
    for (size_t i = 0; i < n; i++)
        for (size_t o = 0; o < d->out; o++)
            db[o] += dy[i * d->out + o];
}

void layer_dense_backward_data(struct layer_scratch *s, const struct layer_dense *d, const float *w,
                               size_t n, const float *dy, float *dx)
{
    product(s, n, d->in, d->out, (struct operand){dy, d->out, 1}, (struct operand){w, 1, d->out},
            dx, false);
}

void layer_activation(enum cvd_activation act, size_t count, float *x)
{
    switch (act) {
    case CVD_ACTIVATION_RELU:
        for (size_t i = 0; i < count; i++)
            x[i] = x[i] > 0 ? x[i] : 0;
        break;
    case CVD_ACTIVATION_TANH:
        for (size_t i = 0; i < count; i++)
            x[i] = tanhf(x[i]);
        break;
    case CVD_ACTIVATION_SIGMOID:
        for (size_t i = 0; i < count; i++)
            x[i] = 1 / (1 + expf(-x[i]));
        break;
    }
}

void layer_bias_activation(enum cvd_activation act, size_t channels, size_t count,
                           const float *bias, float *x)
{
    for (size_t c = 0; c < channels; c++)
        for (size_t i = 0; i < count; i++)
            x[c * count + i] += bias[c];
    layer_activation(act, channels * count, x);
}

void layer_activation_backward(enum cvd_activation act, size_t count, const float *y, float *dx)
{
    switch (act) {
    case CVD_ACTIVATION_RELU:
        for (size_t i = 0; i < count; i++)
            dx[i] = y[i] > 0 ? dx[i] : 0;
        break;
    case CVD_ACTIVATION_TANH:
        for (size_t i = 0; i < count; i++)
            dx[i] *= 1 - y[i] * y[i];
        break;
    case CVD_ACTIVATION_SIGMOID:
        for (size_t i = 0; i < count; i++)
            dx[i] *= y[i] * (1 - y[i]);
        break;
    }
}

void layer_bias_backward(size_t channels, size_t count, const float *dx, float *db)
{
    for (size_t c = 0; c < channels; c++) {
        float sum = 0;
        for (size_t i = 0; i < count; i++)
            sum += dx[c * count + i];
        db[c] += sum;
    }
}

void layer_dropout_draw(struct rng *r, float p, size_t count, float *factors)
{
    const float keep = 1 / (1 - p);
    for (size_t i = 0; i < count; i++)
        factors[i] = rng_unit(r) < p ? 0 : keep;
}

void layer_dropout_apply(size_t count, const float *factors, const float *x, float *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = x[i] * factors[i];
}

double layer_softmax_loss(size_t n, size_t classes, const float *logits, const uint16_t *labels,
                          float scale, float *dlogits, size_t *correct)
{
    double loss = 0;
    for (size_t i = 0; i < n; i++) {
        const float *z = logits + i * classes;
        size_t best = 0;
        for (size_t c = 1; c < classes; c++)
            if (z[c] > z[best])
                best = c;
        *correct += best == labels[i];
        const float top = z[best]; /* subtracted, so that no exponential overflows */
        double sum = 0;
        for (size_t c = 0; c < classes; c++)
            sum += exp((double)z[c] - (double)top);
        loss += log(sum) - ((double)z[labels[i]] - (double)top);
        if (!dlogits)
            continue;
        for (size_t c = 0; c < classes; c++) {
            const double probability = exp((double)z[c] - (double)top) / sum;
            const double target = c == labels[i] ? 1 : 0;
            dlogits[i * classes + c] = (float)((probability - target) * (double)scale);
        }
    }
    return loss;
}
