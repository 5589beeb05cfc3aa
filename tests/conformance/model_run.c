/*
 * Runs a model on raw numbers, for comparison with another runtime.
 *
 *   model-run [--as-written] MODEL.onnx
 *       prints the model's inputs and outputs
 *   model-run [--as-written] MODEL.onnx IN.f32 OUT.f32 BATCH...
 *       runs the first BATCH images of IN.f32, for each BATCH in turn, and writes the first output
 *       of all runs to OUT.f32
 *
 * Both print one JSON object. Numbers are float32 in the machine's byte order, whatever the model's
 * own floating-point type. A model whose batch is fixed is run as often as it takes.
 */
#include <convd/session.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what)
{
    fprintf(stderr, "model-run: %s\n", what);
    return 1;
}

/* ---- what the model is ---- */

static void print_value(const char *key, const struct cvd_value_info *v)
{
    printf("\"%s\": {\"name\": \"%s\", \"type\": \"%s\", \"shape\": [", key, v->name,
           cvd_dtype_name(v->dtype));
    for (unsigned d = 0; d < v->shape.rank; d++)
        printf("%s%" PRId64, d > 0 ? ", " : "", v->shape.dims[d]);
    printf("]}, ");
}

static void print_model(const struct cvd_model *model)
{
    struct cvd_value_info in, out;
    struct cvd_model_stats stats;
    cvd_model_input(model, 0, &in);
    cvd_model_output(model, 0, &out);
    cvd_model_stats(model, &stats);
    printf("{");
    print_value("input", &in);
    print_value("output", &out);
    printf("\"opset\": %" PRId64 ", \"fixed_batch\": %" PRId64 ", \"layers\": %zu}\n", stats.opset,
           cvd_model_fixed_batch(model), cvd_model_layer_count(model));
}

/* ---- running it ---- */

/* Elements of one image. */
static size_t elements(const struct cvd_shape *shape, int64_t images)
{
    size_t count = 0;
    return cvd_shape_elements(shape, &count) ? count / (size_t)images : 0;
}

/* A file of whole images, in a new block; NULL when it cannot be read. */
static float *read_images(const char *path, size_t image, size_t *count)
{
    FILE *f = fopen(path, "rb");
    float *data = NULL;
    long bytes;
    if (f && fseek(f, 0, SEEK_END) == 0 && (bytes = ftell(f)) > 0 && fseek(f, 0, SEEK_SET) == 0 &&
        (data = malloc((size_t)bytes)) != NULL) {
        *count = (size_t)bytes / sizeof *data / image;
        if (fread(data, 1, (size_t)bytes, f) != (size_t)bytes) {
            free(data);
            data = NULL;
        }
    }
    if (f)
        fclose(f);
    return data;
}

/* `batch` images, in runs of what the model allows. */
static enum cvd_status run_batch(const struct cvd_model *model, int64_t batch, const float *in,
                                 size_t in_image, float *out, size_t out_image,
                                 struct cvd_error *err)
{
    int64_t fixed = cvd_model_fixed_batch(model), step = fixed ? fixed : batch;
    void **outputs = calloc(cvd_model_output_count(model), sizeof *outputs);
    struct cvd_session *session = NULL;
    enum cvd_status status =
        outputs ? cvd_session_create(model, step, &session, err)
                : cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for outputs");
    for (int64_t done = 0; status == CVD_STATUS_OK && done + step <= batch; done += step) {
        const void *inputs[] = {in + (size_t)done * in_image};
        outputs[0] = out + (size_t)done * out_image; /* the others are not wanted */
        status = cvd_session_run(session, step, inputs, outputs, err);
    }
    cvd_session_destroy(session);
    free(outputs);
    return status;
}

static int run(const struct cvd_model *model, int argc, char **argv)
{
    struct cvd_value_info value;
    struct cvd_shape in_shape, out_shape;
    struct cvd_error err = {.message = ""};
    int64_t unit = cvd_model_fixed_batch(model) ? cvd_model_fixed_batch(model) : 1;
    cvd_model_input(model, 0, &value);
    if (cvd_model_input_count(model) != 1 || value.dtype != CVD_DTYPE_FLOAT32)
        return fail("the model must have one input of floating-point numbers");
    cvd_model_output(model, 0, &value);
    if (value.dtype != CVD_DTYPE_FLOAT32)
        return fail("the first output must be floating-point numbers");
    cvd_model_input_shape(model, 0, unit, &in_shape);
    cvd_model_output_shape(model, 0, unit, &out_shape);
    size_t in_image = elements(&in_shape, unit), out_image = elements(&out_shape, unit), images = 0;
    float *in = in_image ? read_images(argv[0], in_image, &images) : NULL;
    FILE *f = in ? fopen(argv[1], "wb") : NULL;
    int code = f ? 0 : fail("a file cannot be opened");
    for (int i = 2; i < argc && code == 0; i++) {
        int64_t batch = atoll(argv[i]);
        float *out = batch > 0 && (size_t)batch <= images && batch % unit == 0
                         ? calloc((size_t)batch * out_image, sizeof *out)
                         : NULL;
        if (!out)
            code = fail("a batch is more than the images, or not what the model allows");
        else if (run_batch(model, batch, in, in_image, out, out_image, &err) != CVD_STATUS_OK)
            code = fail(err.message);
        else if (fwrite(out, sizeof *out, (size_t)batch * out_image, f) !=
                 (size_t)batch * out_image)
            code = fail("the output cannot be written");
        free(out);
    }
    if (f && fclose(f) != 0)
        code = fail("the output cannot be written");
    free(in);
    return code;
}

int main(int argc, char **argv)
{
    struct cvd_load_options options = {.float32_edges = true};
    if (argc > 1 && strcmp(argv[1], "--as-written") == 0) {
        options.as_written = true;
        argc--;
        argv++;
    }
    if (argc != 2 && argc < 5) {
        fprintf(stderr, "usage: model-run [--as-written] MODEL.onnx [IN.f32 OUT.f32 BATCH...]\n");
        return 2;
    }
    struct cvd_engine *engine = NULL;
    struct cvd_model *model = NULL;
    struct cvd_error err = {.message = ""};
    int code = 0;
    if (cvd_engine_create(NULL, &engine, &err) != CVD_STATUS_OK ||
        cvd_model_load_file(engine, argv[1], &options, &model, &err) != CVD_STATUS_OK)
        code = fail(err.message);
    else if (argc > 2)
        code = run(model, argc - 2, argv + 2);
    if (code == 0)
        print_model(model);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
    return code;
}
