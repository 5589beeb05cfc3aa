/*
 * A naive protocol-buffer encoder for tests: it shares nothing with the writer under test, and it
 * can write what that one never would.
 *
 * Messages are built inside out; pb_message() consumes the inner one. Running out of memory ends
 * the test.
 */
#ifndef CONVD_TESTS_UNIT_ONNX_BUILD_H
#define CONVD_TESTS_UNIT_ONNX_BUILD_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct pb {
    unsigned char *data;
    size_t len, room;
};

static inline void pb_raw(struct pb *m, const void *data, size_t len)
{
    while (m->len + len > m->room) {
        m->room = m->room ? m->room * 2 : 256;
        m->data = realloc(m->data, m->room);
        if (!m->data)
            abort();
    }
    if (len > 0)
        memcpy(m->data + m->len, data, len);
    m->len += len;
}

static inline void pb_varint(struct pb *m, uint64_t value)
{
    unsigned char byte;
    do {
        byte = (unsigned char)(value % 128);
        value /= 128;
        if (value > 0)
            byte = (unsigned char)(byte + 128);
        pb_raw(m, &byte, 1);
    } while (value > 0);
}

static inline void pb_tag(struct pb *m, unsigned field, unsigned type)
{
    pb_varint(m, field * 8 + type);
}

static inline void pb_int(struct pb *m, unsigned field, int64_t value)
{
    pb_tag(m, field, 0);
    pb_varint(m, (uint64_t)value);
}

static inline void pb_float(struct pb *m, unsigned field, float value)
{
    pb_tag(m, field, 5);
    pb_raw(m, &value, 4);
}

static inline void pb_bytes(struct pb *m, unsigned field, const void *data, size_t len)
{
    pb_tag(m, field, 2);
    pb_varint(m, len);
    pb_raw(m, data, len);
}

static inline void pb_text(struct pb *m, unsigned field, const char *text)
{
    pb_bytes(m, field, text, strlen(text));
}

static inline void pb_free(struct pb *m)
{
    free(m->data);
    *m = (struct pb){0};
}

static inline void pb_message(struct pb *m, unsigned field, struct pb inner)
{
    pb_bytes(m, field, inner.data, inner.len);
    pb_free(&inner);
}

/* ---- ONNX messages; field numbers written out, as in onnx.proto ---- */

/* ValueInfoProto of a tensor; an extent of -1 becomes the parameter "N". */
static inline struct pb pb_value(const char *name, int64_t type, unsigned rank, const int64_t *dims)
{
    struct pb shape = {0}, tensor = {0}, proto = {0}, info = {0};
    for (unsigned i = 0; i < rank; i++) {
        struct pb dim = {0};
        if (dims[i] == -1)
            pb_text(&dim, 2, "N");
        else
            pb_int(&dim, 1, dims[i]);
        pb_message(&shape, 1, dim);
    }
    pb_int(&tensor, 1, type);
    pb_message(&tensor, 2, shape);
    pb_message(&proto, 1, tensor);
    pb_text(&info, 1, name);
    pb_message(&info, 2, proto);
    return info;
}

/* TensorProto with raw data. */
static inline struct pb pb_tensor(const char *name, int64_t type, unsigned rank,
                                  const int64_t *dims, const void *raw, size_t raw_len)
{
    struct pb tensor = {0};
    for (unsigned i = 0; i < rank; i++)
        pb_int(&tensor, 1, dims[i]);
    pb_int(&tensor, 2, type);
    pb_text(&tensor, 8, name);
    pb_bytes(&tensor, 9, raw, raw_len);
    return tensor;
}

/* NodeProto; NULL for no such input or output. */
static inline struct pb pb_node(const char *op, const char *name, const char *in1, const char *in2,
                                const char *out)
{
    struct pb node = {0};
    if (in1)
        pb_text(&node, 1, in1);
    if (in2)
        pb_text(&node, 1, in2);
    if (out)
        pb_text(&node, 2, out);
    if (name)
        pb_text(&node, 3, name);
    pb_text(&node, 4, op);
    return node;
}

/* ModelProto around a graph: IR version 8, operator set 13. */
static inline struct pb pb_model(struct pb graph)
{
    struct pb model = {0}, opset = {0};
    pb_int(&model, 1, 8);
    pb_text(&model, 2, "hand");
    pb_message(&model, 7, graph);
    pb_text(&opset, 1, "");
    pb_int(&opset, 2, 13);
    pb_message(&model, 8, opset);
    return model;
}

/* Adds float32 input "x" and output "y", both [N,4]. */
static inline void pb_ends(struct pb *graph)
{
    static const int64_t dims[] = {-1, 4};
    pb_message(graph, 11, pb_value("x", 1, 2, dims));
    pb_message(graph, 12, pb_value("y", 1, 2, dims));
}

#endif
