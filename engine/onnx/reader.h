/* What the reader's files share. Nothing here outlives one call of onnx_read(). */
#ifndef CONVD_ONNX_READER_H
#define CONVD_ONNX_READER_H

#include "engine/onnx/names.h"
#include "engine/onnx/onnx.h"
#include "engine/onnx/wire.h"

struct reader {
    const struct onnx_source *source;
    struct graph *g; /* NULL while a lone tensor is read */
    struct mem_arena *arena;
    struct names names;
    size_t external_left;          /* bytes that external data may still take */
    const struct graph_node *node; /* the one being read, for messages */
    struct cvd_error *err;
};

/* ---- read.c ---- */

/* Fails with the node being read, if any, in front of the text. */
enum cvd_status reader_fail(struct reader *r, enum cvd_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
enum cvd_status reader_no_memory(struct reader *r);

/* Fails because w.error is set. */
enum cvd_status reader_damaged(struct reader *r, const struct wire *w);

/* Text from the file as an argument pair for "%.*s": at most 64 bytes of it. */
#define READER_TEXT(text) \
    (int)((text).len < 64 ? (text).len : 64), (text).data ? (const char *)(text).data : ""

/* A terminated copy in the arena. INVALID_MODEL, naming `what`, unless it is UTF-8 without zero
 * bytes. */
enum cvd_status reader_text(struct reader *r, struct wire_bytes text, const char *what,
                            const char **out);

/* The value of that name, added when it is new. */
enum cvd_status reader_value(struct reader *r, struct wire_bytes name, uint32_t *out);

/* ---- read_tensor.c ---- */

struct reader_tensor {
    struct wire_bytes name; /* in the file */
    enum cvd_dtype dtype;
    struct cvd_shape shape;
    void *data;
    size_t bytes;
};

/* A TensorProto with its data: in a block of its own, or (in_arena) in the arena, aligned to
 * MEM_ALIGN either way. `what` and `name` stand in messages ("attribute", "value"); a name without
 * data means the tensor's own. */
enum cvd_status reader_tensor(struct reader *r, struct wire w, const char *what,
                              struct wire_bytes name, bool in_arena, struct reader_tensor *out);

/* The element type of that ONNX number; `what` and `name` as above. */
enum cvd_status reader_dtype(struct reader *r, int64_t number, const char *what,
                             struct wire_bytes name, enum cvd_dtype *out);

/* ---- read_node.c ---- */

/* Reads a NodeProto and appends it to the graph. */
enum cvd_status reader_node(struct reader *r, struct wire w);

#endif
