/*
 * LeNet-5 as one function of a flat array of parameters: where each weight lies, and the forward
 * and backward pass of a batch. Knows nothing of data sets, epochs or files.
 *
 *   image [1][H][W], 2 zeros all round
 *   C1  6 @ 5x5, S2 2x2     F5  120
 *   C3 16 @ 5x5, S4 2x2     F6   84     out  classes
 *
 * C3 sees all six maps: the paper's table of connections saved memory and does not pay today.
 */
#ifndef CONVD_TRAIN_LENET5_H
#define CONVD_TRAIN_LENET5_H

#include "engine/train/layer.h"

#define LENET5_PAD   2
#define LENET5_MAPS1 6
#define LENET5_MAPS2 16
#define LENET5_F5    120
#define LENET5_F6    84

/* Grey level -> input value; a dark ground is 0, like the zeros around the image. */
#define LENET5_PIXEL_SCALE (1.0f / 255)

#define LENET5_MIN_SIDE    12
#define LENET5_MAX_SIDE    256
#define LENET5_MAX_CLASSES 65535

/* The ten parameter arrays, in file order. */
enum lenet5_part {
    LENET5_W1, /* [6][1][5][5] */
    LENET5_B1,
    LENET5_W2, /* [16][6][5][5] */
    LENET5_B2,
    LENET5_W5, /* [S4][120] */
    LENET5_B5,
    LENET5_W6, /* [120][84] */
    LENET5_B6,
    LENET5_W7, /* [84][classes] */
    LENET5_B7,
    LENET5_PARTS
};

struct lenet5 {
    unsigned height, width, classes;
    enum cvd_activation activation;
    struct layer_conv conv1, conv2;
    size_t pooled1, pooled2; /* pixels of one map of S2 and S4 */
    struct layer_dense dense5, dense6, dense7;
    size_t begin[LENET5_PARTS + 1]; /* begin[i] … begin[i + 1] is part i; the last is the total */
};

/* Sizes within the limits above. */
void lenet5_init(struct lenet5 *net, unsigned height, unsigned width, unsigned classes,
                 enum cvd_activation activation);

static inline size_t lenet5_parameters(const struct lenet5 *net)
{
    return net->begin[LENET5_PARTS];
}

/* Initial values: weights uniform with the variance of He et al. for ReLU, of Glorot and Bengio,
 * 2010, otherwise; biases zero. */
void lenet5_initial(const struct lenet5 *net, uint64_t seed, float *parameters);

/* What one thread needs to run batches of up to LAYER_MAX_BATCH images: arrays inside one block of
 * lenet5_work_bytes(), aligned to MEM_ALIGN and zeroed. */
struct lenet5_work;
size_t lenet5_work_bytes(const struct lenet5 *net);
struct lenet5_work *lenet5_work_init(const struct lenet5 *net, const struct kernels *kernels,
                                     void *block);

/* Packs the convolutions' weights; to be called again whenever `parameters` have changed. */
void lenet5_work_pack(struct lenet5_work *w, const float *parameters);

/* Where to write image i before a forward pass: rows *stride floats apart, the halo stays zero. */
float *lenet5_input(struct lenet5_work *w, size_t i, size_t *stride);

/* Dropout of the outputs of F5 and F6: image i draws from the stream (seed, a, ids[i]). */
struct lenet5_dropout {
    float p;
    uint64_t seed, a;
    const uint32_t *ids;
};

/* Logits [n][classes] of the n input images, valid until the next call. dropout NULL: none. */
float *lenet5_forward(struct lenet5_work *w, const float *parameters, size_t n,
                      const struct lenet5_dropout *dropout);

/* The backward pass of the last lenet5_forward(): adds to `gradient`, which is laid out like the
 * parameters, what follows from the gradient of the logits. */
void lenet5_backward(struct lenet5_work *w, const float *parameters, size_t n, const float *dlogits,
                     float *gradient);

/* The trained network as an ONNX file; class_names has net->classes strings. `invert_auto`: at
 * inference an image with a light border is to be turned into its negative. */
enum cvd_status lenet5_export(const struct lenet5 *net, const float *parameters,
                              char *const *class_names, bool invert_auto, void **onnx, size_t *len,
                              struct cvd_error *err);

#endif
