/* Element types: half precision by hand, everything else through double or int64. */
#include "engine/ops/convert.h"

#include <math.h>
#include <string.h>

/* Elements converted at a time; the intermediate values live on the stack. */
#define CHUNK 256

float convert_from_bf16(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

float convert_from_f16(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    const uint32_t exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
    uint32_t wide;
    if (exponent == 0) { /* fraction * 2^-24, exact; integers become floats without flushing */
        const float magnitude = (float)fraction * 0x1p-24f;
        memcpy(&wide, &magnitude, sizeof wide);
    } else if (exponent == 31) {
        wide = 0x7f800000u | fraction << 13;
    } else {
        wide = (exponent + 127 - 15) << 23 | fraction << 13;
    }
    wide |= sign;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

/*
 * A double as a small binary float with `bits` significant bits (one of them implied), whose least
 * quantum is 2^least. Within a binade all numbers are multiples of one quantum, so rounding is
 * rint(x / quantum), which is exact but for the rounding itself; adding the implied bit back in
 * carries into the exponent where rounding reaches the next binade.
 */
static uint16_t to_small_float(double x, int bits, int least, uint16_t infinity)
{
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x))
        return (uint16_t)(sign | infinity | 1u << (bits - 2));
    if (isinf(x))
        return sign | infinity;
    int exponent;
    frexp(x, &exponent); /* |x| = m * 2^exponent, 1/2 <= m < 1 */
    const int quantum = x == 0 || exponent - bits < least ? least : exponent - bits;
    const double multiple = rint(ldexp(fabs(x), -quantum)); /* at most 2^bits */
    const int implied = 1 << (bits - 1);
    long code = (long)multiple;
    if (quantum > least)
        code += (long)(quantum - least) * implied;
    return code >= infinity ? sign | infinity : (uint16_t)(sign | code);
}

uint16_t convert_to_f16(double x)
{
    return to_small_float(x, 11, -24, 0x7c00);
}

uint16_t convert_to_bf16(double x)
{
    return to_small_float(x, 8, -133, 0x7f80);
}

static bool is_integer(enum cvd_dtype dtype)
{
    return dtype == CVD_DTYPE_INT64 || dtype == CVD_DTYPE_INT32 || dtype == CVD_DTYPE_INT8 ||
           dtype == CVD_DTYPE_UINT8 || dtype == CVD_DTYPE_BOOL;
}

#define LOAD(type, expression)                \
    for (size_t i = 0; i < n; i++) {          \
        const type v = ((const type *)in)[i]; \
        out[i] = (expression);                \
    }                                         \
    break

static void load_integers(enum cvd_dtype from, const void *in, int64_t *out, size_t n)
{
    switch (from) {
    case CVD_DTYPE_INT64:
        LOAD(int64_t, v);
    case CVD_DTYPE_INT32:
        LOAD(int32_t, v);
    case CVD_DTYPE_INT8:
        LOAD(int8_t, v);
    case CVD_DTYPE_BOOL:
        LOAD(uint8_t, v != 0);
    default:
        LOAD(uint8_t, v);
    }
}

static void load_floats(enum cvd_dtype from, const void *in, double *out, size_t n)
{
    switch (from) {
    case CVD_DTYPE_FLOAT16:
        LOAD(uint16_t, (double)convert_from_f16(v));
    case CVD_DTYPE_BFLOAT16:
        LOAD(uint16_t, (double)convert_from_bf16(v));
    case CVD_DTYPE_FLOAT64:
        LOAD(double, v);
    default:
        LOAD(float, (double)v);
    }
}

#define STORE(type, expression)                \
    for (size_t i = 0; i < n; i++)             \
        ((type *)out)[i] = (type)(expression); \
    break

static void store_integers(const int64_t *in, enum cvd_dtype to, void *out, size_t n)
{
    switch (to) {
    case CVD_DTYPE_INT64:
        STORE(int64_t, in[i]);
    case CVD_DTYPE_INT32:
        STORE(int32_t, in[i]);
    case CVD_DTYPE_INT8:
        STORE(int8_t, in[i]);
    case CVD_DTYPE_UINT8:
        STORE(uint8_t, in[i]);
    case CVD_DTYPE_BOOL:
        STORE(uint8_t, in[i] != 0);
    case CVD_DTYPE_FLOAT16: /* beyond 2^53 all are infinite */
        STORE(uint16_t, convert_to_f16((double)in[i]));
    case CVD_DTYPE_BFLOAT16:
        STORE(uint16_t, convert_to_bf16((double)in[i]));
    case CVD_DTYPE_FLOAT64:
        STORE(double, in[i]);
    default:
        STORE(float, in[i]);
    }
}

static int64_t clamped(double x, int64_t low, int64_t high)
{
    if (x != x)
        return 0;
    if (x <= (double)low)
        return low;
    return x >= (double)high ? high : (int64_t)x;
}

static void store_floats(const double *in, enum cvd_dtype to, void *out, size_t n)
{
    switch (to) {
    case CVD_DTYPE_INT64:
        STORE(int64_t, clamped(in[i], INT64_MIN, INT64_MAX));
    case CVD_DTYPE_INT32:
        STORE(int32_t, clamped(in[i], INT32_MIN, INT32_MAX));
    case CVD_DTYPE_INT8:
        STORE(int8_t, clamped(in[i], INT8_MIN, INT8_MAX));
    case CVD_DTYPE_UINT8:
        STORE(uint8_t, clamped(in[i], 0, UINT8_MAX));
    case CVD_DTYPE_BOOL:
        STORE(uint8_t, in[i] != 0);
    case CVD_DTYPE_FLOAT16:
        STORE(uint16_t, convert_to_f16(in[i]));
    case CVD_DTYPE_BFLOAT16:
        STORE(uint16_t, convert_to_bf16(in[i]));
    case CVD_DTYPE_FLOAT64:
        STORE(double, in[i]);
    default:
        STORE(float, in[i]);
    }
}

void convert_elements(enum cvd_dtype from, const void *in, enum cvd_dtype to, void *out, size_t n)
{
    const size_t in_bytes = cvd_dtype_bytes(from), out_bytes = cvd_dtype_bytes(to);
    if (from == to) {
        memcpy(out, in, n * in_bytes);
        return;
    }
    for (size_t done = 0; done < n; done += CHUNK) {
        const size_t count = n - done < CHUNK ? n - done : CHUNK;
        const char *source = (const char *)in + done * in_bytes;
        char *target = (char *)out + done * out_bytes;
        if (is_integer(from)) {
            int64_t values[CHUNK];
            load_integers(from, source, values, count);
            store_integers(values, to, target, count);
        } else {
            double values[CHUNK];
            load_floats(from, source, values, count);
            store_floats(values, to, target, count);
        }
    }
}
