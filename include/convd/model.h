/*
 * A model: an ONNX file turned into a checked graph, rewritten, and prepared for one engine.
 *
 * Everything that can be wrong with a file is found here: a model that loads can run. Shapes are
 * checked for a batch of one and of two, so every shape of every batch size is known; the batch
 * dimension is free when the file leaves it free, and also when the file fixes it to one but
 * nothing in the graph depends on that.
 *
 * All floating-point numbers inside are float32. Weights in float16, bfloat16 and float64 are
 * converted when they are loaded, inputs and outputs of these types on their way in and out; a Cast
 * to one of them inside the graph does not round.
 *
 * Thread-safety: a model is immutable and may be shared by any number of threads and sessions. It
 * must not outlive its engine.
 */
#ifndef CONVD_MODEL_H
#define CONVD_MODEL_H

#include <convd/engine.h>
#include <convd/status.h>
#include <convd/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cvd_model;

/* A graph input whose value is fixed when the model is loaded (a shape, an axis), by name. */
struct cvd_constant {
    const char *name;
    enum cvd_dtype dtype;
    struct cvd_shape shape;
    const void *data; /* copied */
};

struct cvd_load_options {
    const struct cvd_constant *constants;
    size_t constant_count;
    bool allow_nonfinite; /* accept weights that are NaN or infinite */
    bool float32_edges;   /* inputs and outputs that the file has in another floating-point type are
                             float32: the caller is spared the conversion */
    bool as_written;      /* run the graph as it stands in the file, without rewriting it: for
                             comparison */
    uint64_t tune_ns;     /* most time for timing layers that can be computed in several ways, which
                             round differently; 0: all choices come from a model of the machine, so
                             that two loads agree bit for bit */
    const char *tune_cache; /* folder that keeps such choices from one load to the next, or NULL;
                               not looked at when tune_ns is 0 */
};

/* Loads an ONNX file held in memory; buf is not used after the call. options may be NULL. */
enum cvd_status cvd_model_load(struct cvd_engine *engine, const void *buf, size_t len,
                               const struct cvd_load_options *options, struct cvd_model **out,
                               struct cvd_error *err);

/* Loads an ONNX file. External data is read from inside the file's own folder only. */
enum cvd_status cvd_model_load_file(struct cvd_engine *engine, const char *path,
                                    const struct cvd_load_options *options, struct cvd_model **out,
                                    struct cvd_error *err);

/* Loads the digit classifier that is compiled into the library. */
enum cvd_status cvd_model_load_builtin(struct cvd_engine *engine, struct cvd_model **out,
                                       struct cvd_error *err);

/* Its sessions must be gone. NULL is allowed. */
void cvd_model_destroy(struct cvd_model *model);

/* An input or output. dims[0] is CVD_DIM_BATCH where the batch is free. The strings live as long
 * as the model. */
struct cvd_value_info {
    const char *name;
    enum cvd_dtype dtype;
    struct cvd_shape shape;
};

size_t cvd_model_input_count(const struct cvd_model *model);
size_t cvd_model_output_count(const struct cvd_model *model);
void cvd_model_input(const struct cvd_model *model, size_t index, struct cvd_value_info *out);
void cvd_model_output(const struct cvd_model *model, size_t index, struct cvd_value_info *out);

/* The same shape with the batch extent filled in. */
void cvd_model_input_shape(const struct cvd_model *model, size_t index, int64_t batch,
                           struct cvd_shape *out);
void cvd_model_output_shape(const struct cvd_model *model, size_t index, int64_t batch,
                            struct cvd_shape *out);

/* 0 when any batch size can be run, else the only one. */
int64_t cvd_model_fixed_batch(const struct cvd_model *model);

/* Whether the first output comes straight out of a Softmax over the classes. */
bool cvd_model_ends_in_softmax(const struct cvd_model *model);

/* Value of a metadata_props entry ("convd.labels", "convd.input", …) or NULL. */
const char *cvd_model_metadata(const struct cvd_model *model, const char *key);

/* One executed layer, for one image. Strings live as long as the model. */
struct cvd_layer_info {
    const char *name;          /* the node's name, or its output's */
    const char *op;            /* ONNX operator, with what was fused into it: "Conv+Relu" */
    const char *kernel;        /* chosen kernel, "-" for a layer that costs nothing */
    struct cvd_shape shape;    /* of the first output, batch free */
    uint64_t parameters;       /* weights and biases */
    uint64_t macs;             /* multiply-adds */
    uint64_t output_bytes;     /* of all outputs */
    uint64_t dense_parameters; /* convolutions: a dense layer from the same input to the same
                                  output; 0 for everything else */
};
size_t cvd_model_layer_count(const struct cvd_model *model);
void cvd_model_layer(const struct cvd_model *model, size_t index, struct cvd_layer_info *out);

/* Totals, for one image. */
struct cvd_model_stats {
    uint64_t parameters;
    uint64_t macs;
    uint64_t weight_bytes;     /* held by the model, packed */
    uint64_t activation_bytes; /* arena of a session for one image */
    uint64_t unshared_bytes;   /* what the arena would be if no buffer were reused */
    int64_t opset;             /* of the default domain */
    double load_seconds;
};
void cvd_model_stats(const struct cvd_model *model, struct cvd_model_stats *out);

/* What timing layers (tune_ns) came to when the model was loaded. */
struct cvd_tuning_info {
    unsigned timed;      /* kinds of layers whose choice was made by timing */
    unsigned recalled;   /* by what the cache knew */
    double seconds;      /* that timing took */
    const char *problem; /* why the cache could not be read or written, or NULL; lives as long as
                            the model */
};
void cvd_model_tuning(const struct cvd_model *model, struct cvd_tuning_info *out);

#ifdef __cplusplus
}
#endif
#endif
