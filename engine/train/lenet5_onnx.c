/* Writes a trained LeNet-5 as an ONNX file, labels and preprocessing in its metadata. */
#include "engine/train/lenet5.h"

#include "engine/onnx/onnx.h"
#include "engine/runtime/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPSET      13
#define IR_VERSION 8

struct builder {
    struct graph graph;
    const struct lenet5 *net;
    const float *parameters;
    enum cvd_status status;
    struct cvd_error *err;
};

static uint32_t add_value(struct builder *b, const char *name)
{
    uint32_t value = GRAPH_NONE;
    if (!b->status)
        b->status = graph_add_value(&b->graph, name, &value, b->err);
    return value;
}

static uint32_t add_part(struct builder *b, enum lenet5_part part, const char *name, unsigned rank,
                         const int64_t dims[4])
{
    uint32_t value = GRAPH_NONE;
    struct cvd_shape shape = {.rank = rank};
    memcpy(shape.dims, dims, rank * sizeof *dims);
    if (!b->status)
        b->status = graph_add_initializer(&b->graph, name, CVD_DTYPE_FLOAT32, &shape,
                                          b->parameters + b->net->begin[part], &value, b->err);
    return value;
}

/* A node with one output; returns the output. */
static uint32_t add_node(struct builder *b, const char *op, const char *name, const char *output,
                         const uint32_t *in, size_t in_count, const struct op_attr *attrs,
                         size_t attr_count)
{
    const uint32_t out = add_value(b, output);
    const struct graph_node node = {.op = op,
                                    .domain = "",
                                    .name = name,
                                    .attrs = attrs,
                                    .attr_count = attr_count,
                                    .in = in,
                                    .in_count = in_count,
                                    .out = &out,
                                    .out_count = 1};
    if (!b->status)
        b->status = graph_add_node(&b->graph, &node, b->err);
    return out;
}

static const char *activation_op(enum cvd_activation activation)
{
    switch (activation) {
    case CVD_ACTIVATION_TANH:
        return "Tanh";
    case CVD_ACTIVATION_SIGMOID:
        return "Sigmoid";
    default:
        return "Relu";
    }
}

static const char *suffixed(char text[32], const char *name, const char *suffix)
{
    snprintf(text, 32, "%s%s", name, suffix);
    return text;
}

static uint32_t add_activation(struct builder *b, const char *layer, uint32_t x)
{
    char name[32], output[32];
    return add_node(b, activation_op(b->net->activation), suffixed(name, layer, "/activation"),
                    suffixed(output, layer, ".active"), &x, 1, NULL, 0);
}

/* Convolution, activation and pooling. */
static uint32_t add_conv(struct builder *b, const char *layer, const char *pool,
                         const struct layer_conv *c, int64_t pad, enum lenet5_part weights,
                         uint32_t x)
{
    char name[32];
    const int64_t w_dims[4] = {c->out_c, c->in_c, LAYER_KERNEL, LAYER_KERNEL};
    const int64_t b_dims[4] = {c->out_c};
    const int64_t kernel[2] = {LAYER_KERNEL, LAYER_KERNEL}, pads[4] = {pad, pad, pad, pad};
    const int64_t window[2] = {LAYER_POOL, LAYER_POOL};
    const uint32_t w = add_part(b, weights, suffixed(name, layer, ".weight"), 4, w_dims);
    const uint32_t bias = add_part(b, weights + 1, suffixed(name, layer, ".bias"), 1, b_dims);
    const uint32_t in[3] = {x, w, bias};
    const struct op_attr conv_attrs[2] = {
        {.name = "kernel_shape", .type = OP_ATTR_INTS, .count = 2, .ints = kernel},
        {.name = "pads", .type = OP_ATTR_INTS, .count = 4, .ints = pads},
    };
    const struct op_attr pool_attrs[2] = {
        {.name = "kernel_shape", .type = OP_ATTR_INTS, .count = 2, .ints = window},
        {.name = "strides", .type = OP_ATTR_INTS, .count = 2, .ints = window},
    };
    uint32_t y = add_node(b, "Conv", layer, suffixed(name, layer, ".out"), in, 3, conv_attrs, 2);
    y = add_activation(b, layer, y);
    return add_node(b, "MaxPool", pool, suffixed(name, pool, ".out"), &y, 1, pool_attrs, 2);
}

static uint32_t add_dense(struct builder *b, const char *layer, const struct layer_dense *d,
                          enum lenet5_part weights, const char *output, uint32_t x)
{
    char name[32];
    const int64_t w_dims[4] = {(int64_t)d->in, (int64_t)d->out}, b_dims[4] = {(int64_t)d->out};
    const uint32_t w = add_part(b, weights, suffixed(name, layer, ".weight"), 2, w_dims);
    const uint32_t bias = add_part(b, weights + 1, suffixed(name, layer, ".bias"), 1, b_dims);
    const uint32_t in[3] = {x, w, bias};
    return add_node(b, "Gemm", layer, output, in, 3, NULL, 0);
}

/* Labels as a JSON array: quotes, backslashes and control characters are escaped, bytes that are
 * not UTF-8 become U+FFFD. The result is malloc'ed; NULL when there is no memory. */
static char *labels_json(char *const *names, unsigned count)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return NULL;
    fputc('[', out);
    for (unsigned i = 0; i < count; i++) {
        fputs(i ? ", \"" : "\"", out);
        const char *end = names[i] + strlen(names[i]);
        for (const char *s = names[i]; s < end;) {
            const size_t n = utf8_sequence(s, (size_t)(end - s));
            if (n == 0)
                fputs("\xef\xbf\xbd", out);
            else if (*s == '"' || *s == '\\')
                fprintf(out, "\\%c", *s);
            else if ((unsigned char)*s < 0x20)
                fprintf(out, "\\u%04x", (unsigned)*s);
            else
                fwrite(s, 1, n, out);
            s += n ? n : 1;
        }
        fputc('"', out);
    }
    fputc(']', out);
    const bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}

static void add_metadata(struct builder *b, char *const *class_names, bool invert_auto)
{
    char input[160];
    char *labels = labels_json(class_names, b->net->classes);
    if (!labels && !b->status)
        b->status = cvd_error_set(b->err, CVD_STATUS_OUT_OF_MEMORY, "no memory for the labels");
    /* "stretch" shows the network all of a picture: a digit that fills a tall one loses no part. */
    snprintf(input, sizeof input,
             "{\"color\": \"gray\", \"resize\": \"stretch\", \"scale\": %.9g, \"mean\": [0], "
             "\"std\": [1], \"invert\": \"%s\"}",
             (double)LENET5_PIXEL_SCALE, invert_auto ? "auto" : "never");
    if (!b->status)
        b->status = graph_add_metadata(&b->graph, "convd.labels", labels, b->err);
    if (!b->status)
        b->status = graph_add_metadata(&b->graph, "convd.input", input, b->err);
    free(labels);
}

static void set_shape(struct builder *b, uint32_t value, unsigned rank, const int64_t dims[4])
{
    if (b->status)
        return;
    struct graph_value *v = &b->graph.values[value];
    v->dtype = CVD_DTYPE_FLOAT32;
    v->has_shape = true;
    v->shape.rank = rank;
    memcpy(v->shape.dims, dims, rank * sizeof *dims);
}

static void build(struct builder *b)
{
    const struct lenet5 *net = b->net;
    const struct op_attr axis = {.name = "axis", .type = OP_ATTR_INT, .i = 1};
    const int64_t image_dims[4] = {CVD_DIM_BATCH, 1, net->height, net->width};
    const int64_t logits_dims[4] = {CVD_DIM_BATCH, net->classes};

    const uint32_t image = add_value(b, "image");
    set_shape(b, image, 4, image_dims);
    if (!b->status)
        b->status = graph_add_input(&b->graph, image, b->err);
    uint32_t x = add_conv(b, "c1", "s2", &net->conv1, LENET5_PAD, LENET5_W1, image);
    x = add_conv(b, "c3", "s4", &net->conv2, 0, LENET5_W2, x);
    x = add_node(b, "Flatten", "flatten", "flat", &x, 1, &axis, 1);
    x = add_activation(b, "f5", add_dense(b, "f5", &net->dense5, LENET5_W5, "f5.out", x));
    x = add_activation(b, "f6", add_dense(b, "f6", &net->dense6, LENET5_W6, "f6.out", x));
    x = add_dense(b, "out", &net->dense7, LENET5_W7, "logits", x);
    set_shape(b, x, 2, logits_dims);
    if (!b->status)
        b->status = graph_add_output(&b->graph, x, b->err);
    if (!b->status)
        b->status = graph_add_opset(&b->graph, "", OPSET, b->err);
}

enum cvd_status lenet5_export(const struct lenet5 *net, const float *parameters,
                              char *const *class_names, bool invert_auto, void **onnx, size_t *len,
                              struct cvd_error *err)
{
    struct builder b = {.net = net, .parameters = parameters, .err = err};
    b.status = graph_init(&b.graph, err);
    if (!b.status) {
        b.graph.ir_version = IR_VERSION;
        b.graph.name = "lenet5";
        b.graph.producer = "convd";
        build(&b);
    }
    if (!b.status)
        add_metadata(&b, class_names, invert_auto);
    if (!b.status)
        b.status = onnx_write(&b.graph, onnx, len, err);
    graph_release(&b.graph);
    return b.status;
}
