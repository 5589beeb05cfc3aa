/*
 * TensorProto: the one way by which numbers of a model get into memory, be they initializers,
 * attributes or test data.
 *
 * A tensor is looked at twice. The first look collects what it says about itself and counts its
 * elements; type, shape and size are checked against each other before anything is allocated. The
 * second copies.
 */
#include "engine/onnx/reader.h"

#include "engine/onnx/external.h"
#include "engine/onnx/proto.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The fields that hold one number per element, in place of raw_data. */
enum typed { FLOAT_DATA, INT32_DATA, INT64_DATA, DOUBLE_DATA, UINT64_DATA, TYPED_COUNT };
static const struct {
    uint32_t number;
    enum wire_type element;
    const char *name;
} typed_fields[TYPED_COUNT] = {
    [FLOAT_DATA] = {ONNX_TENSOR_FLOAT_DATA, WIRE_FIXED32, "float_data"},
    [INT32_DATA] = {ONNX_TENSOR_INT32_DATA, WIRE_VARINT, "int32_data"},
    [INT64_DATA] = {ONNX_TENSOR_INT64_DATA, WIRE_VARINT, "int64_data"},
    [DOUBLE_DATA] = {ONNX_TENSOR_DOUBLE_DATA, WIRE_FIXED64, "double_data"},
    [UINT64_DATA] = {ONNX_TENSOR_UINT64_DATA, WIRE_VARINT, "uint64_data"},
};

/* What a TensorProto says about itself. */
struct scan {
    const char *what; /* for messages, with `label` */
    struct wire_bytes label;
    struct wire_bytes name, raw;
    struct cvd_shape shape;
    size_t dims; /* may exceed what fits in shape */
    int64_t type, location;
    bool segment;
    size_t typed[TYPED_COUNT]; /* elements in each field */
    size_t strings;
    struct wire_bytes path, offset, length; /* of external data; no data when absent */
};

/* "initializer 'w'", for messages. */
static const char *subject(const struct scan *s, char text[128])
{
    struct wire_bytes label = s->label.data ? s->label : s->name;
    snprintf(text, 128, "%s '%.*s'", s->what, READER_TEXT(label));
    return text;
}

enum cvd_status reader_dtype(struct reader *r, int64_t number, const char *what,
                             struct wire_bytes name, enum cvd_dtype *out)
{
    /* Types that ONNX has and convd lacks; NULL where convd has them. */
    static const char *const lacking[] = {
        [4] = "uint16",      [5] = "int16",           [8] = "string",
        [12] = "uint32",     [13] = "uint64",         [14] = "complex64",
        [15] = "complex128", [17] = "float8e4m3fn",   [18] = "float8e4m3fnuz",
        [19] = "float8e5m2", [20] = "float8e5m2fnuz", [21] = "uint4",
        [22] = "int4",       [23] = "float4e2m1",     [24] = "float8e8m0",
        [25] = "uint2",      [26] = "int2",
    };
    if (number > 0 && number <= CVD_DTYPE_BFLOAT16 && cvd_dtype_bytes((enum cvd_dtype)number)) {
        *out = (enum cvd_dtype)number;
        return CVD_STATUS_OK;
    }
    if (number <= 0)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL,
                           "%s '%.*s' has no valid element type (%lld)", what, READER_TEXT(name),
                           (long long)number);
    if (number >= (int64_t)(sizeof(lacking) / sizeof(*lacking)))
        return reader_fail(r, CVD_STATUS_UNSUPPORTED, "%s '%.*s' has unknown element type %lld",
                           what, READER_TEXT(name), (long long)number);
    return reader_fail(r, CVD_STATUS_UNSUPPORTED,
                       "%s '%.*s' has element type %s, which is not supported", what,
                       READER_TEXT(name), lacking[number]);
}

/* ---- the first look ---- */

static void scan_dims(struct wire *w, const struct wire_field *f, struct scan *s)
{
    size_t count;
    struct wire_bytes dims = wire_scalars(w, f, WIRE_VARINT, &count);
    for (; count > 0; count--, s->dims++) {
        int64_t dim = (int64_t)wire_take_varint(&dims);
        if (s->dims < CVD_MAX_RANK)
            s->shape.dims[s->shape.rank++] = dim;
    }
}

/* One key and value that say where external data are. */
static enum cvd_status scan_external(struct reader *r, struct wire w, struct scan *s)
{
    struct wire_field f;
    struct wire_bytes key = {0}, value = {0};
    while (wire_next(&w, &f)) {
        if (f.number == ONNX_ENTRY_KEY)
            key = wire_bytes(&w, &f);
        else if (f.number == ONNX_ENTRY_VALUE)
            value = wire_bytes(&w, &f);
    }
    if (w.error)
        return reader_damaged(r, &w);
    static const char *const keys[] = {"location", "offset", "length"};
    struct wire_bytes *const to[] = {&s->path, &s->offset, &s->length};
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        if (key.len == strlen(keys[i]) && memcmp(key.data, keys[i], key.len) == 0)
            *to[i] = value;
    return CVD_STATUS_OK;
}

static enum cvd_status scan(struct reader *r, struct wire w, struct scan *s)
{
    struct wire_field f;
    enum cvd_status status = CVD_STATUS_OK;
    while (!status && wire_next(&w, &f)) {
        switch (f.number) {
        case ONNX_TENSOR_DIMS:
            scan_dims(&w, &f, s);
            break;
        case ONNX_TENSOR_DATA_TYPE:
            s->type = wire_int(&w, &f);
            break;
        case ONNX_TENSOR_SEGMENT:
            s->segment = true;
            break;
        case ONNX_TENSOR_NAME:
            s->name = wire_bytes(&w, &f);
            break;
        case ONNX_TENSOR_RAW_DATA:
            s->raw = wire_bytes(&w, &f);
            break;
        case ONNX_TENSOR_STRING_DATA:
            s->strings++;
            break;
        case ONNX_TENSOR_DATA_LOCATION:
            s->location = wire_int(&w, &f);
            break;
        case ONNX_TENSOR_EXTERNAL_DATA: {
            struct wire entry = wire_message(&w, &f);
            status = scan_external(r, entry, s);
            break;
        }
        default:
            for (int i = 0; i < TYPED_COUNT; i++) {
                size_t count;
                if (f.number == typed_fields[i].number) {
                    (void)wire_scalars(&w, &f, typed_fields[i].element, &count);
                    s->typed[i] += count;
                }
            }
        }
    }
    return w.error ? reader_damaged(r, &w) : status;
}

/* ---- checks ---- */

static enum typed typed_field_of(enum cvd_dtype dtype)
{
    switch (dtype) {
    case CVD_DTYPE_FLOAT32:
        return FLOAT_DATA;
    case CVD_DTYPE_FLOAT64:
        return DOUBLE_DATA;
    case CVD_DTYPE_INT64:
        return INT64_DATA;
    default:
        return INT32_DATA; /* everything narrower than 32 bits is widened to that */
    }
}

/* Type, shape and size; *out gets everything but the data. */
static enum cvd_status check_header(struct reader *r, const struct scan *s,
                                    struct reader_tensor *out, size_t *elements)
{
    char who[128], shape[CVD_SHAPE_TEXT_BYTES];
    enum cvd_status status =
        reader_dtype(r, s->type, s->what, s->label.data ? s->label : s->name, &out->dtype);
    if (status)
        return status;
    if (s->segment)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED, "%s is stored in segments", subject(s, who));
    if (s->dims > CVD_MAX_RANK)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED,
                           "%s has %zu dimensions, at most %d are "
                           "supported",
                           subject(s, who), s->dims, CVD_MAX_RANK);
    for (unsigned i = 0; i < s->shape.rank; i++)
        if (s->shape.dims[i] < 0)
            return reader_fail(r, CVD_STATUS_INVALID_MODEL, "%s has a negative extent, %lld",
                               subject(s, who), (long long)s->shape.dims[i]);
    if (!cvd_shape_elements(&s->shape, elements) ||
        !mem_mul(*elements, cvd_dtype_bytes(out->dtype), &out->bytes))
        return reader_fail(r, CVD_STATUS_INVALID_MODEL, "%s of shape %s is larger than memory",
                           subject(s, who), cvd_shape_text(&s->shape, shape));
    out->name = s->name;
    out->shape = s->shape;
    return CVD_STATUS_OK;
}

static enum cvd_status wrong_size(struct reader *r, const struct scan *s,
                                  const struct reader_tensor *t, const char *unit, size_t found,
                                  size_t wanted)
{
    char who[128], shape[CVD_SHAPE_TEXT_BYTES];
    return reader_fail(r, CVD_STATUS_INVALID_MODEL, "%s has %zu %s of data, %s %s needs %zu",
                       subject(s, who), found, unit, cvd_dtype_name(t->dtype),
                       cvd_shape_text(&t->shape, shape), wanted);
}

/* That the data inside the file are of one kind, the right one, and of the right size. */
static enum cvd_status check_inline(struct reader *r, const struct scan *s,
                                    const struct reader_tensor *t, size_t elements)
{
    char who[128];
    enum typed right = typed_field_of(t->dtype);
    for (int i = 0; i < TYPED_COUNT; i++) {
        if (s->typed[i] == 0)
            continue;
        if (s->raw.len > 0)
            return reader_fail(r, CVD_STATUS_INVALID_MODEL, "%s has both raw_data and %s",
                               subject(s, who), typed_fields[i].name);
        if (i != (int)right)
            return reader_fail(r, CVD_STATUS_INVALID_MODEL, "%s is %s but its data are in %s",
                               subject(s, who), cvd_dtype_name(t->dtype), typed_fields[i].name);
    }
    if (s->strings > 0)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL, "%s is %s but its data are strings",
                           subject(s, who), cvd_dtype_name(t->dtype));
    if (s->typed[right] > 0)
        return s->typed[right] == elements
                   ? CVD_STATUS_OK
                   : wrong_size(r, s, t, "elements", s->typed[right], elements);
    return s->raw.len == t->bytes ? CVD_STATUS_OK
                                  : wrong_size(r, s, t, "bytes", s->raw.len, t->bytes);
}

/* ---- the second look ---- */

/* Stores a value of int32_data as the element it stands for; false when it is out of range. */
static bool store_int32(enum cvd_dtype dtype, int32_t value, uint8_t *to)
{
    uint16_t half = (uint16_t)value;
    switch (dtype) {
    case CVD_DTYPE_INT32:
        memcpy(to, &value, sizeof(value));
        return true;
    case CVD_DTYPE_INT8:
        *to = (uint8_t)value;
        return value >= INT8_MIN && value <= INT8_MAX;
    case CVD_DTYPE_FLOAT16:
    case CVD_DTYPE_BFLOAT16:
        memcpy(to, &half, sizeof(half));
        return value >= 0 && value <= UINT16_MAX;
    default:
        *to = (uint8_t)value;
        return value >= 0 && value <= UINT8_MAX;
    }
}

static enum cvd_status copy_typed(struct reader *r, struct wire w, const struct scan *s,
                                  const struct reader_tensor *t)
{
    enum typed field = typed_field_of(t->dtype);
    size_t element_bytes = cvd_dtype_bytes(t->dtype), count;
    uint8_t *to = t->data;
    struct wire_field f;
    while (wire_next(&w, &f)) {
        if (f.number != typed_fields[field].number)
            continue;
        struct wire_bytes from = wire_scalars(&w, &f, typed_fields[field].element, &count);
        if (field == FLOAT_DATA || field == DOUBLE_DATA) {
            memcpy(to, from.data, count * element_bytes);
            to += count * element_bytes;
            continue;
        }
        for (; count > 0; count--, to += element_bytes) {
            int64_t value = (int64_t)wire_take_varint(&from);
            if (field == INT64_DATA) {
                memcpy(to, &value, sizeof(value));
            } else if (!store_int32(t->dtype, (int32_t)value, to)) {
                char who[128];
                return reader_fail(r, CVD_STATUS_INVALID_MODEL, "%s holds %d, which is no %s",
                                   subject(s, who), (int32_t)value, cvd_dtype_name(t->dtype));
            }
        }
    }
    return CVD_STATUS_OK;
}

static enum cvd_status check_bools(struct reader *r, const struct scan *s,
                                   const struct reader_tensor *t)
{
    const uint8_t *bools = t->data;
    char who[128];
    for (size_t i = 0; i < t->bytes; i++)
        if (bools[i] > 1)
            return reader_fail(r, CVD_STATUS_INVALID_MODEL, "%s holds %u, which is no bool",
                               subject(s, who), bools[i]);
    return CVD_STATUS_OK;
}

/* ---- external data ---- */

static bool parse_number(struct wire_bytes text, uint64_t *out)
{
    uint64_t value = 0;
    for (size_t i = 0; i < text.len; i++) {
        unsigned digit = (unsigned)text.data[i] - '0';
        if (digit > 9 || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, digit, &value))
            return false;
    }
    *out = value;
    return text.len > 0;
}

static enum cvd_status open_external(struct reader *r, const struct scan *s,
                                     const struct reader_tensor *t, uint64_t *offset, int *fd)
{
    char who[128];
    const char *folder = r->source ? r->source->folder : NULL;
    uint64_t length = t->bytes;
    *offset = 0;
    if (!folder)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED,
                           "%s is external data, which can only be read from a model's folder",
                           subject(s, who));
    if (s->raw.len > 0)
        return reader_fail(r, CVD_STATUS_INVALID_MODEL, "%s has both raw_data and external data",
                           subject(s, who));
    if ((s->offset.data && !parse_number(s->offset, offset)) ||
        (s->length.data && !parse_number(s->length, &length)))
        return reader_fail(r, CVD_STATUS_INVALID_MODEL,
                           "%s: offset or length of its external data is not a number",
                           subject(s, who));
    if (length != t->bytes)
        return wrong_size(r, s, t, "bytes", (size_t)length, t->bytes);
    if (t->bytes > r->external_left)
        return reader_fail(r, CVD_STATUS_UNSUPPORTED,
                           "%s: external data larger than the limit for a model", subject(s, who));
    struct cvd_error why;
    enum cvd_status status = external_open(folder, s->path, *offset, t->bytes, false, fd, &why);
    if (status)
        return reader_fail(r, status, "%s: %s", subject(s, who), why.message);
    r->external_left -= t->bytes;
    return CVD_STATUS_OK;
}

static enum cvd_status read_external(struct reader *r, const struct scan *s,
                                     const struct reader_tensor *t, uint64_t offset, int fd)
{
    char who[128];
    struct cvd_error why;
    enum cvd_status status = external_read(fd, offset, t->data, t->bytes, &why);
    return status ? reader_fail(r, status, "%s: %s", subject(s, who), why.message) : status;
}

/* ---- all of it ---- */

enum cvd_status reader_tensor(struct reader *r, struct wire w, const char *what,
                              struct wire_bytes name, bool in_arena, struct reader_tensor *out)
{
    struct scan s = {.what = what, .label = name};
    struct reader_tensor t = {0};
    size_t elements = 0;
    uint64_t offset = 0;
    int fd = -1;
    enum cvd_status status = scan(r, w, &s);
    if (status || (status = check_header(r, &s, &t, &elements)))
        return status;
    if (s.location == ONNX_LOCATION_EXTERNAL)
        status = open_external(r, &s, &t, &offset, &fd);
    else if (s.location == ONNX_LOCATION_DEFAULT)
        status = check_inline(r, &s, &t, elements);
    else
        status =
            reader_fail(r, CVD_STATUS_INVALID_MODEL, "%s '%.*s' has unknown data_location %lld",
                        what, READER_TEXT(s.name), (long long)s.location);
    if (status)
        return status;

    t.data = in_arena ? mem_arena_alloc_aligned(r->arena, t.bytes) : mem_alloc(t.bytes);
    if (!t.data)
        status = reader_no_memory(r);
    else if (fd >= 0)
        status = read_external(r, &s, &t, offset, fd);
    else if (s.raw.len > 0)
        memcpy(t.data, s.raw.data, t.bytes);
    else
        status = copy_typed(r, w, &s, &t);
    if (!status && t.dtype == CVD_DTYPE_BOOL)
        status = check_bools(r, &s, &t);
    if (fd >= 0)
        close(fd);
    if (status) {
        if (!in_arena)
            mem_free(t.data);
        return status;
    }
    *out = t;
    return CVD_STATUS_OK;
}

enum cvd_status onnx_read_tensor(const void *buf, size_t len, struct mem_arena *arena,
                                 const char **name, struct op_tensor *out, struct cvd_error *err)
{
    struct reader r = {.arena = arena, .err = err};
    struct reader_tensor t;
    enum cvd_status status =
        reader_tensor(&r, wire_open(buf, len), "tensor", (struct wire_bytes){0}, false, &t);
    if (status)
        return status;
    const char *copy;
    status = reader_text(&r, t.name, "the tensor's name", &copy);
    if (status) {
        mem_free(t.data);
        return status;
    }
    *name = copy;
    *out = (struct op_tensor){.dtype = t.dtype, .shape = t.shape, .data = t.data};
    return CVD_STATUS_OK;
}
