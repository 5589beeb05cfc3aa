/* Convolution and max pooling, forward and backward (see layer.h). */
#include "engine/train/layer.h"

#include <string.h>

/* Pixels of a block of the weight gradient's sums: packed operands stay in the L1 cache. */
#define BLOCK_PIXELS 128

/* Lines of a kernel that a tile's columns hold. */
#define LINES_MAX (KERNEL_GEMM_MAX_NR / LAYER_KERNEL)

static size_t conv_terms(const struct layer_conv *c)
{
    return (size_t)c->in_c * LAYER_KERNEL * LAYER_KERNEL;
}

static size_t conv_in_plane(const struct layer_conv *c)
{
    return (size_t)c->in_h * c->in_w;
}

static size_t conv_out_plane(const struct layer_conv *c)
{
    return (size_t)(c->in_h - LAYER_KERNEL + 1) * c->in_w;
}

/* Outputs from the first valid one to the last, in the long row. */
static size_t conv_span(const struct layer_conv *c)
{
    return conv_out_plane(c) - (LAYER_KERNEL - 1);
}

/* Distance of a term's input from the output: term = (channel * 5 + ky) * 5 + kx. */
static size_t term_offset(const struct layer_conv *c, size_t term)
{
    const size_t line = term / LAYER_KERNEL;
    return line / LAYER_KERNEL * conv_in_plane(c) + line % LAYER_KERNEL * c->in_w +
           term % LAYER_KERNEL;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

void layer_conv_pack(const struct kernels *k, const struct layer_conv *c, const float *w,
                     float *packed)
{
    const size_t terms = conv_terms(c), mr = k->gemm.mr;
    for (size_t o = 0; o < c->out_c; o++) {
        float *to = packed + o / mr * mr * terms + o % mr;
        for (size_t t = 0; t < terms; t++)
            to[t * mr] = w[o * terms + t];
    }
}

void layer_conv_pack_back(const struct kernels *k, const struct layer_conv *c, const float *w,
                          float *packed)
{
    const size_t terms = conv_terms(c), mr = k->gemm.mr;
    for (size_t t = 0; t < terms; t++) {
        float *to = packed + t / mr * mr * c->out_c + t % mr;
        for (size_t o = 0; o < c->out_c; o++)
            to[o * mr] = w[o * terms + t];
    }
}

void layer_conv_forward(struct layer_scratch *s, const struct layer_conv *c, const float *packed,
                        const float *x, float *y)
{
    const struct kernels *k = s->kernels;
    const size_t terms = conv_terms(c), span = conv_span(c), plane = conv_out_plane(c);
    const size_t mr = k->gemm.mr, nr = k->gemm.nr;
    for (size_t p = 0; p < span; p += nr) {
        for (size_t t = 0; t < terms; t++)
            memcpy(s->b + t * nr, x + p + term_offset(c, t), nr * sizeof *x);
        for (size_t o = 0; o < c->out_c; o += mr)
            k->gemm.fn(terms, packed + o * terms, s->b, y + o * plane + p, plane,
                       min_size(mr, c->out_c - o), min_size(nr, span - p), 0);
    }
}

/* dw[out_c][terms] is the product of dy[out_c][span] and the transposed columns [span][terms]. A
 * tile of B holds whole lines of five terms, which are adjacent in the input. */
void layer_conv_backward_weights(struct layer_scratch *s, const struct layer_conv *c,
                                 const float *x, const float *dy, float *dw)
{
    const struct kernels *k = s->kernels;
    const size_t terms = conv_terms(c), span = conv_span(c), plane = conv_out_plane(c);
    const size_t mr = k->gemm.mr, nr = k->gemm.nr, lines_max = nr / LAYER_KERNEL;
    const size_t all_lines = terms / LAYER_KERNEL;
    for (size_t p = 0; p < span; p += BLOCK_PIXELS) {
        const size_t pixels = min_size(BLOCK_PIXELS, span - p);
        for (size_t o = 0; o < c->out_c; o++) {
            float *to = s->a + o / mr * mr * pixels + o % mr;
            for (size_t i = 0; i < pixels; i++)
                to[i * mr] = dy[o * plane + p + i];
        }
        for (size_t line = 0; line < all_lines; line += lines_max) {
            const size_t lines = min_size(lines_max, all_lines - line);
            const float *from[LINES_MAX];
            for (size_t l = 0; l < lines; l++)
                from[l] = x + p + term_offset(c, (line + l) * LAYER_KERNEL);
            for (size_t i = 0; i < pixels; i++)
                for (size_t l = 0; l < lines; l++)
                    memcpy(s->b + i * nr + l * LAYER_KERNEL, from[l] + i, LAYER_KERNEL * sizeof *x);
            for (size_t o = 0; o < c->out_c; o += mr)
                k->gemm.fn(pixels, s->a + o * pixels, s->b, dw + o * terms + line * LAYER_KERNEL,
                           terms, min_size(mr, c->out_c - o), lines * LAYER_KERNEL, 1);
        }
    }
}

/* Each term's row of the product w^T * dy is what that term sends back to its inputs. */
void layer_conv_backward_data(struct layer_scratch *s, const struct layer_conv *c,
                              const float *packed_back, const float *dy, float *dx)
{
    const struct kernels *k = s->kernels;
    const size_t terms = conv_terms(c), span = conv_span(c), plane = conv_out_plane(c);
    const size_t mr = k->gemm.mr, nr = k->gemm.nr;
    memset(dx, 0, c->in_c * conv_in_plane(c) * sizeof *dx);
    for (size_t p = 0; p < span; p += nr) {
        const size_t cols = min_size(nr, span - p);
        for (size_t o = 0; o < c->out_c; o++)
            memcpy(s->b + o * nr, dy + o * plane + p, nr * sizeof *dy);
        for (size_t t = 0; t < terms; t += mr) {
            const size_t rows = min_size(mr, terms - t);
            k->gemm.fn(c->out_c, packed_back + t * c->out_c, s->b, s->tile, nr, rows, cols, 0);
            for (size_t r = 0; r < rows; r++) {
                const float *from = s->tile + r * nr;
                float *to = dx + p + term_offset(c, t + r);
                for (size_t i = 0; i < cols; i++)
                    to[i] += from[i];
            }
        }
    }
}

/* Written without branches: which of four values is the largest cannot be predicted. */
void layer_pool_forward(const struct layer_conv *c, const float *y, float *p, uint8_t *which)
{
    const size_t h = (c->in_h - LAYER_KERNEL + 1) / LAYER_POOL;
    const size_t w = (c->in_w - LAYER_KERNEL + 1) / LAYER_POOL;
    for (size_t o = 0; o < c->out_c; o++) {
        for (size_t i = 0; i < h; i++) {
            const float *top = y + o * conv_out_plane(c) + i * LAYER_POOL * c->in_w;
            const float *bottom = top + c->in_w;
            float *restrict to = p + (o * h + i) * w;
            uint8_t *restrict at = which + (o * h + i) * w;
            for (size_t j = 0; j < w; j++) {
                const float t0 = top[2 * j], t1 = top[2 * j + 1];
                const float b0 = bottom[2 * j], b1 = bottom[2 * j + 1];
                const float left = b0 > t0 ? b0 : t0, right = b1 > t1 ? b1 : t1;
                const int is_right = right > left, low0 = b0 > t0, low1 = b1 > t1;
                to[j] = is_right ? right : left;
                at[j] = (uint8_t)(2 * ((is_right & low1) | (~is_right & low0)) + is_right);
            }
        }
    }
}

void layer_pool_backward(const struct layer_conv *c, const float *dp, const uint8_t *which,
                         float *dy)
{
    const size_t h = (c->in_h - LAYER_KERNEL + 1) / LAYER_POOL;
    const size_t w = (c->in_w - LAYER_KERNEL + 1) / LAYER_POOL;
    const size_t place[LAYER_POOL * LAYER_POOL] = {0, 1, c->in_w, c->in_w + 1};
    memset(dy, 0, c->out_c * conv_out_plane(c) * sizeof *dy);
    for (size_t o = 0; o < c->out_c; o++) {
        for (size_t i = 0; i < h; i++) {
            float *to = dy + o * conv_out_plane(c) + i * LAYER_POOL * c->in_w;
            const size_t from = (o * h + i) * w;
            for (size_t j = 0; j < w; j++)
                to[LAYER_POOL * j + place[which[from + j]]] = dp[from + j];
        }
    }
}
