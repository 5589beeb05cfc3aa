/*
 * The protocol-buffer wire format (protobuf.dev, "Encoding"): a bounded reader and a writer.
 *
 * The reader walks the fields of one message in place and copies nothing. Whatever is wrong is put
 * in wire.error once and ends the walk, so a message is read as
 *
 *     while (wire_next(&w, &f))
 *         ... wire_int(&w, &f) ... wire_bytes(&w, &f) ...
 *     if (w.error) ...
 *
 * with no check in between. Groups are refused: ONNX has none, and they are the one construct that
 * cannot be skipped without recursion.
 *
 * The writer runs the same calls twice. The first pass only counts, and notes the length of every
 * nested message in the order in which they begin; the second writes into a buffer of exactly the
 * right size. So a length never has to be patched and no byte is moved.
 */
#ifndef CONVD_ONNX_WIRE_H
#define CONVD_ONNX_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_MAX_DEPTH    16u
#define WIRE_VARINT_BYTES 10

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_LEN = 2, WIRE_FIXED32 = 5 };

/* ---- reading ---- */

struct wire_bytes {
    const uint8_t *data;
    size_t len;
};

struct wire {
    const uint8_t *pos, *end;
    const uint8_t *file; /* first byte of the outermost message */
    unsigned depth;      /* 0 for the outermost message */
    const char *error;   /* NULL while all is well; pos then stays where the trouble is */
};

struct wire_field {
    uint32_t number;
    enum wire_type type;
    uint64_t value;          /* WIRE_VARINT */
    struct wire_bytes bytes; /* WIRE_LEN: the payload; else the value as it is encoded */
};

/* The outermost message. */
struct wire wire_open(const void *buf, size_t len);

/* The next field; false at the end of the message or on an error. */
bool wire_next(struct wire *w, struct wire_field *f);

/* The field as int64, bytes, 32-bit float or nested message; an error when it has another type. */
int64_t wire_int(struct wire *w, const struct wire_field *f);
float wire_float(struct wire *w, const struct wire_field *f);
struct wire_bytes wire_bytes(struct wire *w, const struct wire_field *f);
struct wire wire_message(struct wire *w, const struct wire_field *f);

/* The encoded elements of a repeated number, packed or not; *count is how many there are. */
struct wire_bytes wire_scalars(struct wire *w, const struct wire_field *f, enum wire_type element,
                               size_t *count);

/* Takes one varint off elements that wire_scalars() has counted. */
uint64_t wire_take_varint(struct wire_bytes *elements);

/* ---- writing ---- */

struct wire_writer {
    uint8_t *out;    /* NULL in the counting pass */
    size_t pos;      /* bytes so far */
    size_t *lengths; /* of nested messages, in the order of wire_begin() */
    size_t length_count, length_room, length_next;
    bool failed; /* no memory, or the size overflowed; the rest is then of no value */
};

/* A nested message that has begun. */
struct wire_mark {
    size_t start, index;
};

void wire_put_int(struct wire_writer *w, uint32_t field, int64_t value);
void wire_put_float(struct wire_writer *w, uint32_t field, float value);
void wire_put_bytes(struct wire_writer *w, uint32_t field, const void *data, size_t len);
void wire_put_text(struct wire_writer *w, uint32_t field, const char *text);
struct wire_mark wire_begin(struct wire_writer *w, uint32_t field);
void wire_end(struct wire_writer *w, struct wire_mark mark);

/* Between the passes: `out` has room for the w->pos bytes that were counted. */
void wire_second_pass(struct wire_writer *w, uint8_t *out);
void wire_writer_release(struct wire_writer *w);

#endif
