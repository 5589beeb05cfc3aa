/* Memory, mini-batches and validation of a training run (see trainer.h). */
#include "engine/train/trainer.h"

#include "engine/runtime/mem.h"

#include <string.h>

/* Parts of a validation run, summed in order. */
#define VALIDATION_PARTS 64

static float *floats(size_t count, size_t times, bool *ok)
{
    size_t bytes;
    float *block = NULL;
    if (mem_mul(count, times, &bytes) && mem_mul(bytes, sizeof *block, &bytes))
        block = mem_alloc(bytes);
    if (!block)
        *ok = false;
    else
        memset(block, 0, bytes);
    return block;
}

static size_t shard_count(unsigned batch)
{
    const size_t shards = (batch + LAYER_MAX_BATCH - 1) / LAYER_MAX_BATCH;
    return shards < TRAINER_MAX_SHARDS ? shards : TRAINER_MAX_SHARDS;
}

/* Weight decay is for weights; biases are left alone. */
static void mark_decays(const struct lenet5 *net, float *decays)
{
    for (size_t part = 0; part < LENET5_PARTS; part += 2)
        for (size_t i = net->begin[part]; i < net->begin[part + 1]; i++)
            decays[i] = 1;
}

enum cvd_status trainer_create(const struct cvd_dataset *data,
                               const struct cvd_train_options *options, size_t validation,
                               const struct kernels *kernels, struct tpool *pool,
                               struct trainer **out, struct cvd_error *err)
{
    bool ok = true;
    float *decays = NULL;
    struct trainer *t = mem_alloc(sizeof *t);
    if (!t)
        goto fail;
    *t = (struct trainer){.data = data,
                          .options = options,
                          .kernels = kernels,
                          .pool = pool,
                          .validation = validation,
                          .training = data->count - validation,
                          .shards = shard_count(options->batch),
                          .slot_count = tpool_threads(pool)};
    lenet5_init(&t->net, data->height, data->width, data->classes, options->activation);
    const size_t count = lenet5_parameters(&t->net);
    t->optim.parameters = floats(count, 1, &ok);
    t->optim.average = floats(count, 1, &ok);
    t->optim.m = floats(count, 1, &ok);
    t->optim.v = floats(count, 1, &ok);
    t->optim.decays = decays = floats(count, 1, &ok);
    t->best = floats(count, 1, &ok);
    t->gradients = floats(count, t->shards, &ok);
    t->order = mem_alloc(t->training * sizeof *t->order); /* data->pixels is larger than that */
    if (!ok || !t->order ||
        augment_create(data->height, data->width, &t->augment, NULL) != CVD_STATUS_OK)
        goto fail;
    t->work_bytes = lenet5_work_bytes(&t->net);
    if (!mem_round_up(t->work_bytes + augment_scratch_floats(t->augment) * sizeof(float),
                      &t->slot_bytes) ||
        !mem_mul(t->slot_bytes, t->slot_count, &(size_t){0}))
        goto fail;
    t->slots = mem_map(t->slot_bytes * t->slot_count);
    if (!t->slots)
        goto fail;
    for (size_t i = 0; i < t->slot_count; i++)
        lenet5_work_init(&t->net, kernels, t->slots + i * t->slot_bytes);

    mark_decays(&t->net, decays);
    t->optim.type = options->optimizer;
    t->optim.momentum = (float)options->momentum;
    t->optim.weight_decay =
        (float)(options->weight_decay < 0 ? cvd_train_default_decay(options->optimizer)
                                          : options->weight_decay);
    t->optim.count = count;
    lenet5_initial(&t->net, options->seed, t->optim.parameters);
    *out = t;
    return CVD_STATUS_OK;
fail:
    trainer_destroy(t);
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for training on %ux%u images",
                         data->width, data->height);
}

void trainer_destroy(struct trainer *t)
{
    if (!t)
        return;
    mem_free(t->optim.parameters);
    mem_free(t->optim.average);
    mem_free(t->optim.m);
    mem_free(t->optim.v);
    mem_free((void *)t->optim.decays);
    mem_free(t->best);
    mem_free(t->gradients);
    mem_free(t->order);
    augment_destroy(t->augment);
    mem_unmap(t->slots, t->slot_bytes * t->slot_count);
    mem_free(t);
}

void trainer_begin_epoch(struct trainer *t, unsigned epoch)
{
    struct rng r = rng_stream(t->options->seed, TRAINER_STREAM_ORDER, epoch);
    t->epoch = epoch;
    for (size_t i = 0; i < t->training; i++)
        t->order[i] = (uint32_t)i;
    for (size_t i = t->training - 1; i > 0; i--) {
        const uint32_t j = rng_below(&r, (uint32_t)i + 1), swap = t->order[i];
        t->order[i] = t->order[j];
        t->order[j] = swap;
    }
}

static struct lenet5_work *slot_work(const struct trainer *t, unsigned slot)
{
    return (struct lenet5_work *)(void *)(t->slots + slot * t->slot_bytes);
}

static const uint8_t *image(const struct trainer *t, size_t index)
{
    return t->data->pixels + index * t->data->height * t->data->width;
}

/* Puts an image of the data set into place i of the batch. */
static void load_plain(const struct trainer *t, size_t index, struct lenet5_work *w, size_t i)
{
    size_t stride;
    float *to = lenet5_input(w, i, &stride);
    const uint8_t *from = image(t, index);
    for (size_t y = 0; y < t->data->height; y++, from += t->data->width)
        for (size_t x = 0; x < t->data->width; x++)
            to[y * stride + x] = (float)from[x] * LENET5_PIXEL_SCALE;
}

/* The same, distorted; the distortion depends on seed, epoch and image alone. */
static void load_augmented(const struct trainer *t, size_t index, struct lenet5_work *w, size_t i)
{
    size_t stride;
    float *to = lenet5_input(w, i, &stride);
    float *scratch = (float *)(void *)((char *)w + t->work_bytes);
    struct rng r =
        rng_stream(t->options->seed, TRAINER_STREAM_EPOCHS + 2 * (uint64_t)t->epoch, index);
    augment_image(t->augment, image(t, index), &r, scratch, to, stride);
    for (size_t y = 0; y < t->data->height; y++)
        for (size_t x = 0; x < t->data->width; x++)
            to[y * stride + x] *= LENET5_PIXEL_SCALE;
}

struct step {
    struct trainer *t;
    size_t begin, end;
    double loss[TRAINER_MAX_SHARDS];
};

/* One shard: loss and gradient of its images, LAYER_MAX_BATCH at a time. */
static void step_shard(void *ctx, size_t shard, unsigned slot)
{
    struct step *s = ctx;
    struct trainer *t = s->t;
    struct lenet5_work *w = slot_work(t, slot);
    const size_t count = lenet5_parameters(&t->net), images = s->end - s->begin;
    const size_t begin = s->begin + shard * images / t->shards;
    const size_t end = s->begin + (shard + 1) * images / t->shards;
    float *gradient = t->gradients + shard * count;
    memset(gradient, 0, count * sizeof *gradient);
    s->loss[shard] = 0;
    lenet5_work_pack(w, t->optim.parameters);
    for (size_t at = begin; at < end; at += LAYER_MAX_BATCH) {
        const size_t n = end - at < LAYER_MAX_BATCH ? end - at : LAYER_MAX_BATCH;
        uint16_t labels[LAYER_MAX_BATCH];
        size_t correct = 0;
        for (size_t i = 0; i < n; i++) {
            const uint32_t index = t->order[at + i];
            labels[i] = t->data->labels[index];
            if (t->options->augment)
                load_augmented(t, index, w, i);
            else
                load_plain(t, index, w, i);
        }
        const struct lenet5_dropout dropout = {
            .p = (float)t->options->dropout,
            .seed = t->options->seed,
            .a = TRAINER_STREAM_EPOCHS + 2 * (uint64_t)t->epoch + 1,
            .ids = t->order + at,
        };
        float *logits = lenet5_forward(w, t->optim.parameters, n, &dropout);
        s->loss[shard] += layer_softmax_loss(n, t->net.classes, logits, labels, 1 / (float)images,
                                             logits, &correct);
        lenet5_backward(w, t->optim.parameters, n, logits, gradient);
    }
}

double trainer_step(struct trainer *t, size_t begin, size_t end, float rate)
{
    struct step s = {.t = t, .begin = begin, .end = end};
    double loss = 0;
    tpool_for(t->pool, t->shards, step_shard, &s);
    for (size_t i = 0; i < t->shards; i++)
        loss += s.loss[i];
    optim_step(&t->optim, t->pool, t->gradients, t->shards, rate);
    return loss;
}

struct validation {
    struct trainer *t;
    double loss[VALIDATION_PARTS];
    size_t correct[VALIDATION_PARTS];
};

static void validate_part(void *ctx, size_t part, unsigned slot)
{
    struct validation *v = ctx;
    struct trainer *t = v->t;
    struct lenet5_work *w = slot_work(t, slot);
    const size_t begin = t->training + part * t->validation / VALIDATION_PARTS;
    const size_t end = t->training + (part + 1) * t->validation / VALIDATION_PARTS;
    lenet5_work_pack(w, t->optim.average);
    for (size_t at = begin; at < end; at += LAYER_MAX_BATCH) {
        const size_t n = end - at < LAYER_MAX_BATCH ? end - at : LAYER_MAX_BATCH;
        for (size_t i = 0; i < n; i++)
            load_plain(t, at + i, w, i);
        const float *logits = lenet5_forward(w, t->optim.average, n, NULL);
        v->loss[part] += layer_softmax_loss(n, t->net.classes, logits, t->data->labels + at, 1,
                                            NULL, &v->correct[part]);
    }
}

void trainer_validate(struct trainer *t, double *loss, double *accuracy)
{
    struct validation v = {.t = t};
    size_t correct = 0;
    *loss = 0;
    tpool_for(t->pool, VALIDATION_PARTS, validate_part, &v);
    for (size_t i = 0; i < VALIDATION_PARTS; i++) {
        *loss += v.loss[i];
        correct += v.correct[i];
    }
    *loss /= (double)t->validation;
    *accuracy = (double)correct / (double)t->validation;
}
