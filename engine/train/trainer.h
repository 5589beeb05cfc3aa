/* A training run in progress: memory, mini-batches and validation. train.c drives it. */
#ifndef CONVD_TRAIN_TRAINER_H
#define CONVD_TRAIN_TRAINER_H

#include "engine/train/augment.h"
#include "engine/train/lenet5.h"
#include "engine/train/optim.h"

/* Independent streams of random numbers: the second number of rng_stream(). */
enum trainer_stream {
    TRAINER_STREAM_INITIAL,
    TRAINER_STREAM_ORDER,
    TRAINER_STREAM_EPOCHS /* + 2 * epoch: augmentation, + 1: dropout */
};

/*
 * A mini-batch is cut into `shards` parts whatever the number of threads. Each part sums its
 * gradients by itself, in order, and the parts are summed in order too: so every number of threads
 * gives the same bits.
 */
#define TRAINER_MAX_SHARDS 16

struct trainer {
    const struct cvd_dataset *data;
    const struct cvd_train_options *options;
    const struct kernels *kernels;
    struct tpool *pool;
    struct lenet5 net;
    struct augment *augment;
    struct optim optim;
    size_t training, validation; /* images; validation ones follow the others */
    size_t shards;
    float *gradients; /* [shards][parameters] */
    float *best;      /* parameters of the best epoch */
    uint32_t *order;  /* [training], of this epoch */
    char *slots;      /* per thread: a lenet5_work and scratch for augmentation */
    size_t slot_bytes, work_bytes, slot_count;
    unsigned epoch; /* from 1 */
};

/* OUT_OF_MEMORY is the only failure. validation is options->validation with its default resolved.
 */
enum cvd_status trainer_create(const struct cvd_dataset *data,
                               const struct cvd_train_options *options, size_t validation,
                               const struct kernels *kernels, struct tpool *pool,
                               struct trainer **out, struct cvd_error *err);
void trainer_destroy(struct trainer *t); /* NULL is allowed */

/* Begins epoch `epoch`: a new order of the training images. */
void trainer_begin_epoch(struct trainer *t, unsigned epoch);

/* Trains on the images order[begin … end - 1]; returns the sum of their losses. */
double trainer_step(struct trainer *t, size_t begin, size_t end, float rate);

/* Mean loss over the validation images and the share that is classified right, of the averaged
 * parameters. */
void trainer_validate(struct trainer *t, double *loss, double *accuracy);

#endif
