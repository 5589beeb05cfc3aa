/*
 * Real models give every image the same answer, to the last bit, whatever the batch, the image's
 * place in it, the number of threads, and whenever they are loaded; and nearly the one that the
 * file gives as it is written.
 */
#include "tests/support/data.h"
#include "tests/support/net.h"

#include <convd/session.h>

#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#define IMAGES 8

struct subject {
    const char *path;
    size_t in, out;     /* floats of an image */
    const float *input; /* IMAGES of them */
    float *alone;       /* the answers to each by itself */
};

static struct cvd_model *load(const struct subject *s, struct cvd_engine *engine, bool as_written)
{
    const struct cvd_load_options options = {.as_written = as_written, .float32_edges = true};
    struct cvd_error err = {.message = ""};
    struct cvd_model *model = NULL;
    const enum cvd_status status = cvd_model_load_file(engine, s->path, &options, &model, &err);
    cr_assert_eq(status, CVD_STATUS_OK, "%s", err.message);
    return model;
}

/* What a model answers to images picked[0 ... count - 1], in batches of so many. */
static float *answers(const struct subject *s, const struct cvd_model *model, int64_t batch,
                      const size_t *picked, size_t count)
{
    struct cvd_session *session = NULL;
    struct cvd_error err = {.message = ""};
    float *in = data_alloc(count * s->in * sizeof(float));
    float *out = data_alloc(count * s->out * sizeof(float));
    for (size_t i = 0; i < count; i++)
        memcpy(in + i * s->in, s->input + picked[i] * s->in, s->in * sizeof(float));
    cr_assert_eq(cvd_session_create(model, batch, &session, &err), CVD_STATUS_OK, "%s",
                 err.message);
    for (size_t done = 0; done < count; done += (size_t)batch) {
        const int64_t left = (int64_t)(count - done), now = left < batch ? left : batch;
        cr_assert_eq(cvd_session_run(session, now, (const void *[]){in + done * s->in},
                                     (void *[]){out + done * s->out}, &err),
                     CVD_STATUS_OK);
    }
    cvd_session_destroy(session);
    return out;
}

static void check_bits(const struct subject *s, const struct cvd_model *model, int64_t batch,
                       const size_t *picked, size_t count, const char *what)
{
    const float *got = answers(s, model, batch, picked, count);
    for (size_t i = 0; i < count; i++)
        cr_assert_eq(
            memcmp(got + i * s->out, s->alone + picked[i] * s->out, s->out * sizeof(float)), 0,
            "%s: image %zu at place %zu of batches of %lld", what, picked[i], i, (long long)batch);
}

static void check_engine(const struct subject *s, struct cvd_engine *engine, const char *what)
{
    static const size_t forward[] = {0, 1, 2, 3, 4, 5, 6, 7}, mixed[] = {7, 3, 5, 3, 0, 6, 1, 2};
    struct cvd_model *model = load(s, engine, false);
    if (cvd_model_fixed_batch(model) != 0) {
        check_bits(s, model, 1, forward, IMAGES, what);
    } else {
        for (int64_t batch = 1; batch <= 3; batch++)
            check_bits(s, model, batch, forward, batch == 1 ? IMAGES : 4, what);
        check_bits(s, model, IMAGES, forward, IMAGES, what);
        check_bits(s, model, IMAGES, mixed, IMAGES, what);
    }
    cvd_model_destroy(model);
}

static void measure(struct subject *s, const struct cvd_model *model)
{
    struct cvd_shape shape;
    cr_assert_eq(cvd_model_input_count(model), 1);
    cr_assert_leq(cvd_model_fixed_batch(model), 1);
    cvd_model_input_shape(model, 0, 1, &shape);
    cr_assert(cvd_shape_elements(&shape, &s->in));
    cvd_model_output_shape(model, 0, 1, &shape);
    cr_assert(cvd_shape_elements(&shape, &s->out));
    float *input = data_alloc(IMAGES * s->in * sizeof(float));
    net_fill(input, IMAGES * s->in, 17);
    s->input = input;
}

static void check_model(const char *path)
{
    static const size_t all[] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct subject s = {.path = path};
    struct cvd_engine *one = net_engine(1), *two = net_engine(2);
    struct cvd_model *first = load(&s, one, false);
    measure(&s, first);
    s.alone = answers(&s, first, 1, all, IMAGES);
    cvd_model_destroy(first);
    check_engine(&s, one, "loaded again, one thread");
    check_engine(&s, two, "two threads");

    struct cvd_model *written = load(&s, one, true);
    const float *want = answers(&s, written, 1, all, 1);
    double signal = 0, noise = 0;
    for (size_t i = 0; i < s.out; i++) {
        const double difference = (double)want[i] - (double)s.alone[i];
        signal += (double)want[i] * (double)want[i];
        noise += difference * difference;
    }
    cr_assert_gt(signal, 0);
    cr_assert_leq(noise, 1e-8 * signal, "as it is written it answers something else");
    cvd_model_destroy(written);
    cvd_engine_destroy(one);
    cvd_engine_destroy(two);
}

Test(models, lenet5, .timeout = 600)
{
    check_model("engine/models/lenet5.onnx"); /* which is built in */
}

Test(models, mnist, .timeout = 600)
{
    check_model(data_shared("models/mnist-cntk.onnx"));
}

Test(models, cifar10, .timeout = 600)
{
    check_model(data_shared("models/cifar10-pytorch.onnx"));
}

Test(models, squeezenet, .timeout = 600)
{
    check_model(data_shared("models/squeezenet1.0-imagenet.onnx"));
}

Test(models, squeezenet_in_float16, .timeout = 600)
{
    check_model(data_shared("models/squeezenet1.0-imagenet-fp16.onnx"));
}
