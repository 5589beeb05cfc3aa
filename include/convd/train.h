/*
 * Training of LeNet-5 classifiers for small images, and the data sets it learns from.
 *
 * The result is an ONNX file in memory, labels and preprocessing in its metadata, ready for
 * cvd_model_load() or for any other ONNX runtime.
 *
 * Sources: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
 * recognition", 1998 (the network, IDX files); Kingma and Ba, "Adam", 2015; Srivastava et al.,
 * "Dropout", 2014; Simard, Steinkraus, Platt, "Best practices for convolutional neural networks",
 * 2003 (elastic distortion); He et al., 2015 (initial weights).
 */
#ifndef CONVD_TRAIN_H
#define CONVD_TRAIN_H

#include <convd/engine.h>
#include <convd/status.h>

#ifdef __cplusplus
#include <atomic>
using std::atomic_bool;
extern "C" {
#else
#include <stdatomic.h>
#endif

/* Images of one size with their classes. Pixels are 8-bit grey, [count][height][width]. */
struct cvd_dataset {
    size_t count;
    unsigned height, width;
    unsigned classes;
    uint8_t *pixels;    /* count * height * width */
    uint16_t *labels;   /* count, each below classes */
    char **class_names; /* classes strings */
};

/* Builds a data set from the bytes of two (uncompressed) IDX files: images of type 0x08 with three
 * dimensions and labels of type 0x08 with one. Class names become "0", "1", …. `images_name` and
 * `labels_name` stand in error messages. INVALID_DATA for a bad magic number, a size that does not
 * match the header, counts that differ, or no image at all. */
enum cvd_status cvd_dataset_from_idx(const void *images, size_t images_len, const char *images_name,
                                     const void *labels, size_t labels_len, const char *labels_name,
                                     struct cvd_dataset *out, struct cvd_error *err);

/* Frees what the data set points to and clears it. */
void cvd_dataset_free(struct cvd_dataset *data);

enum cvd_activation { CVD_ACTIVATION_RELU, CVD_ACTIVATION_TANH, CVD_ACTIVATION_SIGMOID };
enum cvd_optimizer { CVD_OPTIMIZER_ADAM, CVD_OPTIMIZER_SGD };

/* State of a run, handed to the progress callback after every mini-batch and every epoch. */
struct cvd_train_progress {
    unsigned epoch, epochs;           /* epoch counts from 1 */
    size_t images_done, images_total; /* in this epoch */
    bool epoch_end;
    double loss;                /* mean over the epoch so far */
    double validation_loss;     /* valid when epoch_end */
    double validation_accuracy; /* 0 … 1, valid when epoch_end */
    double best_accuracy;
    double learning_rate;
    double seconds; /* since training began */
};

struct cvd_train_options {
    unsigned epochs;      /* 1 … 10000 */
    unsigned batch;       /* images of a mini-batch, 1 … 4096 */
    double learning_rate; /* peak; 0 = cvd_train_default_rate() */
    double momentum;      /* SGD only */
    double weight_decay;  /* decoupled; negative = cvd_train_default_decay() */
    double dropout;       /* probability of dropping a unit of the dense layers, 0 … 0.9 */
    enum cvd_activation activation;
    enum cvd_optimizer optimizer;
    bool augment;      /* small shifts, rotations, scales and elastic distortion */
    size_t validation; /* the last so many images are held out; 0 =
                          cvd_train_default_validation() */
    uint64_t seed;     /* same seed, data, options and CPU level: same file, bit for bit,
                          whatever the number of threads */
    void (*progress)(void *cookie, const struct cvd_train_progress *state); /* or NULL */
    void *cookie;
    const atomic_bool *stop; /* or NULL; when it becomes true, training ends after the current
                                mini-batch and the best model so far is the result */
};
void cvd_train_options_default(struct cvd_train_options *options);

/* An optimiser's default learning rate and weight decay. */
double cvd_train_default_rate(enum cvd_optimizer optimizer);
double cvd_train_default_decay(enum cvd_optimizer optimizer);

/* What is held out of `count` images by default: a twelfth, not more than 5,000, at least one. */
size_t cvd_train_default_validation(size_t count);

struct cvd_train_result {
    void *onnx; /* malloc'ed; the caller frees it */
    size_t onnx_len;
    unsigned best_epoch, epochs_run;
    double validation_accuracy; /* of the model in `onnx` */
    double seconds;
    bool stopped; /* ended early by `stop` */
};

/* Trains LeNet-5 (C1 6@5x5 with 2 zeros all round, as the paper pads 28x28 to 32x32; S2, C3 16@5x5,
 * S4, 120, 84, classes) on data of any image size from 12x12 to 256x256. What is measured on the
 * held-out images, and kept, is a moving average of the parameters. Blocks until done; `progress`
 * is called from another thread. CANCELLED when stopped before the first model existed. */
enum cvd_status cvd_train_lenet5(struct cvd_engine *engine, const struct cvd_dataset *data,
                                 const struct cvd_train_options *options,
                                 struct cvd_train_result *out, struct cvd_error *err);

#ifdef __cplusplus
}
#endif
#endif
