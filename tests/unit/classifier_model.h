/*
 * A small classifier for tests of the server: x [N,1,4,4] -> flatten -> times w (16 x 5), plus b
 * -> y [N,5], with weights that are whole numbers of 1/64 so that some sums are exact.
 */
#ifndef CONVD_TESTS_UNIT_CLASSIFIER_MODEL_H
#define CONVD_TESTS_UNIT_CLASSIFIER_MODEL_H

#include "tests/unit/onnx_build.h"

#include <stdbool.h>

#define CLASSIFIER_PIXELS  16
#define CLASSIFIER_CLASSES 5

struct classifier_options {
    int64_t batch;      /* 0: free; 1: fixed for good, nothing could free it */
    float bias;         /* of every class, twice: 3e38 makes the answer infinite */
    const char *labels; /* metadata "convd.labels" or NULL */
    const char *input;  /* metadata "convd.input" or NULL */
    bool two_outputs;   /* also "m", before the bias */
};

static inline void classifier_metadata(struct pb *model, const char *key, const char *value)
{
    struct pb entry = {0};
    if (!value)
        return;
    pb_text(&entry, 1, key);
    pb_text(&entry, 2, value);
    pb_message(model, 14, entry);
}

/* The bytes of the ONNX file; pb_free() them. */
static inline struct pb classifier_model(const struct classifier_options *o)
{
    const int64_t batch = o->batch ? o->batch : -1;
    const int64_t x[] = {batch, 1, 4, 4}, y[] = {batch, CLASSIFIER_CLASSES};
    const int64_t w[] = {CLASSIFIER_PIXELS, CLASSIFIER_CLASSES}, b[] = {CLASSIFIER_CLASSES};
    float weights[CLASSIFIER_PIXELS * CLASSIFIER_CLASSES], bias[CLASSIFIER_CLASSES];
    for (int i = 0; i < CLASSIFIER_PIXELS * CLASSIFIER_CLASSES; i++)
        weights[i] = (float)((i * 37 + 11) % 64 - 32) / 64;
    for (int i = 0; i < CLASSIFIER_CLASSES; i++)
        bias[i] = o->bias != 0 ? o->bias : (float)i / 8;
    struct pb graph = {0};
    struct pb flatten = pb_node("Flatten", "flat", "x", NULL, "f");
    if (o->batch == 1) { /* all in one row: with more images there would be no matrix to match */
        struct pb axis = {0};
        pb_text(&axis, 1, "axis");
        pb_int(&axis, 3, 0);
        pb_int(&axis, 20, 2);
        pb_message(&flatten, 5, axis);
    }
    pb_message(&graph, 1, flatten);
    pb_message(&graph, 1, pb_node("MatMul", "dense", "f", "w", "m"));
    pb_message(&graph, 1, pb_node("Add", "bias1", "m", "b", "a"));
    pb_message(&graph, 1, pb_node("Add", "bias2", "a", "b", "y"));
    pb_text(&graph, 2, "classifier");
    pb_message(&graph, 5, pb_tensor("w", 1, 2, w, weights, sizeof weights));
    pb_message(&graph, 5, pb_tensor("b", 1, 1, b, bias, sizeof bias));
    pb_message(&graph, 11, pb_value("x", 1, 4, x));
    pb_message(&graph, 12, pb_value("y", 1, 2, y));
    if (o->two_outputs)
        pb_message(&graph, 12, pb_value("m", 1, 2, y));
    struct pb model = pb_model(graph);
    classifier_metadata(&model, "convd.labels", o->labels);
    classifier_metadata(&model, "convd.input", o->input);
    return model;
}

#endif
