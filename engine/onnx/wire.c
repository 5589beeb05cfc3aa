/* The protocol-buffer wire format, read within bounds and written in two passes. */
#include "engine/onnx/wire.h"

#include "engine/runtime/mem.h"

#include <assert.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "fixed-width fields and raw tensor data are copied as they stand");

static bool fail(struct wire *w, const char *error)
{
    if (!w->error)
        w->error = error;
    return false;
}

/* Reads a varint at *pos and moves *pos behind it. */
static bool read_varint(struct wire *w, const uint8_t **pos, uint64_t *out)
{
    const uint8_t *p = *pos;
    uint64_t value = 0;
    for (unsigned i = 0; i < WIRE_VARINT_BYTES; i++) {
        if (p == w->end)
            return fail(w, "it ends in the middle of a number");
        uint8_t byte = *p++;
        if (i == WIRE_VARINT_BYTES - 1 && byte > 1)
            break; /* more than 64 bits */
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            *pos = p;
            *out = value;
            return true;
        }
    }
    return fail(w, "a number of more than 64 bits");
}

struct wire wire_open(const void *buf, size_t len)
{
    const uint8_t *bytes = buf;
    return (struct wire){.pos = bytes, .end = len ? bytes + len : bytes, .file = bytes};
}

bool wire_next(struct wire *w, struct wire_field *f)
{
    if (w->error || w->pos == w->end)
        return false;
    const uint8_t *p = w->pos;
    uint64_t tag, len;
    if (!read_varint(w, &p, &tag))
        return false;
    if (tag >> 3 == 0 || tag > UINT32_MAX)
        return fail(w, "a field number out of range");
    f->number = (uint32_t)(tag >> 3);
    f->type = (enum wire_type)(tag & 7);
    f->value = 0;
    const uint8_t *first = p;
    switch (f->type) {
    case WIRE_VARINT:
        if (!read_varint(w, &p, &f->value))
            return false;
        len = (uint64_t)(p - first);
        break;
    case WIRE_FIXED64:
        len = 8;
        break;
    case WIRE_FIXED32:
        len = 4;
        break;
    case WIRE_LEN:
        if (!read_varint(w, &p, &len))
            return false;
        first = p;
        break;
    default:
        return fail(w, (tag & 7) > 4 ? "a field type that does not exist"
                                     : "a field group, which ONNX does not have");
    }
    if (len > (uint64_t)(w->end - first))
        return fail(w, "a field is longer than what holds it");
    f->bytes = (struct wire_bytes){first, (size_t)len};
    w->pos = first + len;
    return true;
}

static bool expect(struct wire *w, const struct wire_field *f, enum wire_type type)
{
    return f->type == type || fail(w, "a field has the wrong type");
}

int64_t wire_int(struct wire *w, const struct wire_field *f)
{
    return expect(w, f, WIRE_VARINT) ? (int64_t)f->value : 0;
}

float wire_float(struct wire *w, const struct wire_field *f)
{
    float value = 0;
    if (expect(w, f, WIRE_FIXED32))
        memcpy(&value, f->bytes.data, sizeof(value));
    return value;
}

struct wire_bytes wire_bytes(struct wire *w, const struct wire_field *f)
{
    return expect(w, f, WIRE_LEN) ? f->bytes : (struct wire_bytes){w->end, 0};
}

struct wire wire_message(struct wire *w, const struct wire_field *f)
{
    struct wire_bytes bytes = wire_bytes(w, f);
    if (w->depth == WIRE_MAX_DEPTH) {
        fail(w, "messages are nested too deeply");
        bytes.len = 0;
    }
    return (struct wire){bytes.data, bytes.data + bytes.len, w->file, w->depth + 1, NULL};
}

struct wire_bytes wire_scalars(struct wire *w, const struct wire_field *f, enum wire_type element,
                               size_t *count)
{
    *count = 1;
    if (f->type == element)
        return f->bytes;
    *count = 0;
    struct wire_bytes packed = wire_bytes(w, f);
    if (element != WIRE_VARINT) {
        size_t size = element == WIRE_FIXED32 ? 4 : 8;
        if (packed.len % size == 0)
            *count = packed.len / size;
        else
            fail(w, "a packed field that does not hold a whole number of elements");
        return packed;
    }
    struct wire elements = {packed.data, packed.data + packed.len, w->file, w->depth, NULL};
    uint64_t value;
    while (elements.pos < elements.end && read_varint(&elements, &elements.pos, &value))
        ++*count;
    if (elements.error)
        fail(w, elements.error);
    return packed;
}

uint64_t wire_take_varint(struct wire_bytes *elements)
{
    uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
        assert(elements->len > 0 && shift < 64);
        uint8_t byte = *elements->data++;
        elements->len--;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return value;
    }
}

/* ---- writing ---- */

static void put_raw(struct wire_writer *w, const void *data, size_t len)
{
    if (w->failed)
        return;
    if (w->out && len > 0)
        memcpy(w->out + w->pos, data, len);
    if (!mem_add(w->pos, len, &w->pos))
        w->failed = true;
}

static void put_varint(struct wire_writer *w, uint64_t value)
{
    uint8_t bytes[WIRE_VARINT_BYTES];
    size_t n = 0;
    for (; value >= 0x80; value >>= 7)
        bytes[n++] = (uint8_t)(value | 0x80);
    bytes[n++] = (uint8_t)value;
    put_raw(w, bytes, n);
}

static void put_tag(struct wire_writer *w, uint32_t field, enum wire_type type)
{
    put_varint(w, (uint64_t)field << 3 | type);
}

void wire_put_int(struct wire_writer *w, uint32_t field, int64_t value)
{
    put_tag(w, field, WIRE_VARINT);
    put_varint(w, (uint64_t)value);
}

void wire_put_float(struct wire_writer *w, uint32_t field, float value)
{
    put_tag(w, field, WIRE_FIXED32);
    put_raw(w, &value, sizeof(value));
}

void wire_put_bytes(struct wire_writer *w, uint32_t field, const void *data, size_t len)
{
    put_tag(w, field, WIRE_LEN);
    put_varint(w, len);
    put_raw(w, data, len);
}

void wire_put_text(struct wire_writer *w, uint32_t field, const char *text)
{
    wire_put_bytes(w, field, text, strlen(text));
}

static bool add_length(struct wire_writer *w)
{
    if (w->length_count == w->length_room) {
        size_t room = w->length_room ? w->length_room * 2 : 256, bytes;
        size_t *grown = mem_mul(room, sizeof(*grown), &bytes) ? mem_alloc(bytes) : NULL;
        if (!grown)
            return false;
        if (w->length_count > 0)
            memcpy(grown, w->lengths, w->length_count * sizeof(*grown));
        mem_free(w->lengths);
        w->lengths = grown;
        w->length_room = room;
    }
    w->lengths[w->length_count++] = 0;
    return true;
}

struct wire_mark wire_begin(struct wire_writer *w, uint32_t field)
{
    put_tag(w, field, WIRE_LEN);
    size_t index = w->length_next++;
    if (w->out)
        put_varint(w, w->lengths[index]);
    else if (!w->failed && !add_length(w))
        w->failed = true;
    return (struct wire_mark){w->pos, index};
}

void wire_end(struct wire_writer *w, struct wire_mark mark)
{
    if (w->failed)
        return;
    size_t len = w->pos - mark.start;
    if (w->out) {
        assert(len == w->lengths[mark.index]);
        return;
    }
    w->lengths[mark.index] = len;
    put_varint(w, len); /* stands for the one in front of the message: only its size counts here */
}

void wire_second_pass(struct wire_writer *w, uint8_t *out)
{
    w->out = out;
    w->pos = 0;
    w->length_next = 0;
}

void wire_writer_release(struct wire_writer *w)
{
    mem_free(w->lengths);
    *w = (struct wire_writer){0};
}
