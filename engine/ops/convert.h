/*
 * Conversion between element types, as Cast means it: to the nearest float (ties to even), towards
 * zero for integers. A number outside an integer's range becomes the nearest one that is inside,
 * NaN becomes 0; an integer too wide for another keeps its low bits; all but 0 are true.
 */
#ifndef CONVD_OPS_CONVERT_H
#define CONVD_OPS_CONVERT_H

#include <convd/tensor.h>

/* Both types must have a size (cvd_dtype_bytes). The arrays must not overlap. */
void convert_elements(enum cvd_dtype from, const void *in, enum cvd_dtype to, void *out, size_t n);

float convert_from_f16(uint16_t bits);
float convert_from_bf16(uint16_t bits);
uint16_t convert_to_f16(double x);
uint16_t convert_to_bf16(double x);

#endif
