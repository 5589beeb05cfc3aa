/*
 * ONNX files: bytes <-> graph.
 *
 * The format is protocol buffers with the messages of onnx.proto (ONNX IR versions 3 and up). The
 * reader is a bounded walker: every length is checked against its parent, nesting is limited,
 * varints are at most 10 bytes, counts are capped, unknown fields are skipped. It decides what is
 * malformed; which operators exist is decided later, by the operator table.
 */
#ifndef CONVD_ONNX_ONNX_H
#define CONVD_ONNX_ONNX_H

#include "engine/graph/graph.h"

/* Where a model comes from. External data are read only from regular files at or below `folder`,
 * reached without "..", symbolic links or hard links; `folder` NULL forbids them. */
struct onnx_source {
    const char *file_name; /* for messages, may be NULL */
    const char *folder;
    size_t max_external_bytes; /* for all tensors together; 0 = 2 GiB */
};

/* Builds the graph of a ModelProto; graph_check() is to follow. *g must be initialised and empty;
 * on failure it is to be released by the caller all the same. buf is not used after the call;
 * source may be NULL. Names are valid UTF-8 without zero bytes. */
enum cvd_status onnx_read(const void *buf, size_t len, const struct onnx_source *source,
                          struct graph *g, struct cvd_error *err);

/* One TensorProto (as in ONNX's test data). out->data is mem_alloc()ed and the caller's; *name is a
 * copy in the arena. */
enum cvd_status onnx_read_tensor(const void *buf, size_t len, struct mem_arena *arena,
                                 const char **name, struct op_tensor *out, struct cvd_error *err);

/* Serialises a graph as a ModelProto: *buf is malloc'ed, the caller frees it. The bytes depend on
 * the graph alone. Values without a name get one ("#17"). A graph whose
 * ir_version is below 4, which would want every initializer listed as an input, is written as
 * version 8. */
enum cvd_status onnx_write(const struct graph *g, void **buf, size_t *len, struct cvd_error *err);

#endif
