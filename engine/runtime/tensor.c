/* Element types and shapes. */
#include <convd/tensor.h>

#include <stdio.h>
#include <string.h>

size_t cvd_dtype_bytes(enum cvd_dtype dtype)
{
    switch (dtype) {
    case CVD_DTYPE_UINT8:
    case CVD_DTYPE_INT8:
    case CVD_DTYPE_BOOL:
        return 1;
    case CVD_DTYPE_FLOAT16:
    case CVD_DTYPE_BFLOAT16:
        return 2;
    case CVD_DTYPE_FLOAT32:
    case CVD_DTYPE_INT32:
        return 4;
    case CVD_DTYPE_INT64:
    case CVD_DTYPE_FLOAT64:
        return 8;
    case CVD_DTYPE_NONE:
        break;
    }
    return 0;
}

const char *cvd_dtype_name(enum cvd_dtype dtype)
{
    switch (dtype) {
    case CVD_DTYPE_NONE:
        return "none";
    case CVD_DTYPE_FLOAT32:
        return "float32";
    case CVD_DTYPE_UINT8:
        return "uint8";
    case CVD_DTYPE_INT8:
        return "int8";
    case CVD_DTYPE_INT32:
        return "int32";
    case CVD_DTYPE_INT64:
        return "int64";
    case CVD_DTYPE_BOOL:
        return "bool";
    case CVD_DTYPE_FLOAT16:
        return "float16";
    case CVD_DTYPE_FLOAT64:
        return "float64";
    case CVD_DTYPE_BFLOAT16:
        return "bfloat16";
    }
    return "unknown";
}

bool cvd_shape_elements(const struct cvd_shape *shape, size_t *count)
{
    _Static_assert(INT64_MAX == PTRDIFF_MAX, "the product is bounded by its own type");
    /* The product of the non-zero extents must fit as well, and in the signed type: strides and
     * offsets computed from a shape that passed cannot overflow. */
    int64_t product = 1;
    bool empty = false;
    if (shape->rank > CVD_MAX_RANK)
        return false;
    for (unsigned i = 0; i < shape->rank; i++) {
        if (shape->dims[i] < 0)
            return false;
        if (shape->dims[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(product, shape->dims[i], &product))
            return false;
    }
    *count = empty ? 0 : (size_t)product;
    return true;
}

bool cvd_shape_equal(const struct cvd_shape *a, const struct cvd_shape *b)
{
    if (a->rank != b->rank)
        return false;
    for (unsigned i = 0; i < a->rank; i++)
        if (a->dims[i] != b->dims[i])
            return false;
    return true;
}

char *cvd_shape_text(const struct cvd_shape *shape, char text[CVD_SHAPE_TEXT_BYTES])
{
    /* Longest: 8 extents of 20 characters, 7 commas, 2 brackets. */
    size_t at = 0;
    text[at++] = '[';
    for (unsigned i = 0; i < shape->rank && i < CVD_MAX_RANK; i++) {
        if (i > 0)
            text[at++] = ',';
        if (shape->dims[i] == CVD_DIM_BATCH)
            text[at++] = 'N';
        else
            at += (size_t)snprintf(text + at, CVD_SHAPE_TEXT_BYTES - at, "%lld",
                                   (long long)shape->dims[i]);
    }
    memcpy(text + at, "]", 2);
    return text;
}
