/*
 * Shapes and element types of the arrays that go in and out of a model.
 *
 * Arrays are dense, row-major, in the machine's byte order (little-endian on every supported
 * machine). An image batch is [N, C, H, W].
 */
#ifndef CONVD_TENSOR_H
#define CONVD_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CVD_MAX_RANK 8

/* Element types; the numbers are those of ONNX TensorProto.DataType. */
enum cvd_dtype {
    CVD_DTYPE_NONE = 0,
    CVD_DTYPE_FLOAT32 = 1,
    CVD_DTYPE_UINT8 = 2,
    CVD_DTYPE_INT8 = 3,
    CVD_DTYPE_INT32 = 6,
    CVD_DTYPE_INT64 = 7,
    CVD_DTYPE_BOOL = 9,
    CVD_DTYPE_FLOAT16 = 10,
    CVD_DTYPE_FLOAT64 = 11,
    CVD_DTYPE_BFLOAT16 = 16
};

/* Bytes of one element; 0 for a type that is not in the enum. */
size_t cvd_dtype_bytes(enum cvd_dtype dtype);

/* ONNX's name, such as "float32"; "unknown" for a type that is not in the enum. */
const char *cvd_dtype_name(enum cvd_dtype dtype);

/* Extents, outermost first. rank 0 is a scalar. CVD_DIM_BATCH stands for the free batch extent. */
#define CVD_DIM_BATCH (-1)
struct cvd_shape {
    unsigned rank;
    int64_t dims[CVD_MAX_RANK];
};

/* Number of elements in *count; false when an extent is negative or the product of the extents (of
 * those that are not 0, when some are) exceeds PTRDIFF_MAX. */
bool cvd_shape_elements(const struct cvd_shape *shape, size_t *count);

bool cvd_shape_equal(const struct cvd_shape *a, const struct cvd_shape *b);

/* Writes "[N,3,224,224]" (N for the free batch) into text, always terminated; returns text. */
#define CVD_SHAPE_TEXT_BYTES 192
char *cvd_shape_text(const struct cvd_shape *shape, char text[CVD_SHAPE_TEXT_BYTES]);

#ifdef __cplusplus
}
#endif
#endif
