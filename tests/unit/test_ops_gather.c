/* Expand, Tile, Gather, DepthToSpace and SpaceToDepth: where each element goes. */
#include "tests/support/data.h"
#include "tests/support/op_harness.h"

#include <criterion/criterion.h>
#include <string.h>

static const float cells[24] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23};

#define INT_INPUT(...)                                                                             \
    {                                                                                              \
        CVD_DTYPE_INT64, OP_SHAPE(OP_COUNT(int64_t, __VA_ARGS__)), (const int64_t[]){__VA_ARGS__}, \
            false                                                                                  \
    }

static const enum cvd_dtype sizes[] = {CVD_DTYPE_UINT8, CVD_DTYPE_BFLOAT16, CVD_DTYPE_INT32,
                                       CVD_DTYPE_FLOAT64};

/* Bytes that all differ, for elements of any type. */
static const char *pattern(size_t bytes)
{
    unsigned char *p = data_alloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        p[i] = (unsigned char)(i * 37 + i / 251 + 11);
    return (const char *)p;
}

/* ---- Expand and Tile ---- */

Test(ops_gather, expand)
{
    const struct op_arg column = FLOAT_INPUT(OP_SHAPE(3, 1), cells);
    const struct {
        struct op_arg shape;
        struct cvd_shape out;
        float want[12];
    } cases[] = {
        {INT_LIST(3, 4), OP_SHAPE(3, 4), {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2}},
        {INT_LIST(2, 1, 2), OP_SHAPE(2, 3, 2), {0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2}},
        {INT_LIST(1), OP_SHAPE(3, 1), {0, 1, 2}}, /* the input may be the larger one */
        {INT_LIST(0), OP_SHAPE(3, 0), {0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct op_arg in[] = {column, cases[i].shape};
        const struct op_case c = {.op = "Expand", .opset = 13, .in = in, .in_count = 2};
        op_expect_floats(&c, cases[i].out, cases[i].want, 0);
    }
    const struct op_case scalar = {
        .op = "Expand",
        .opset = 8,
        OP_INPUTS(FLOAT_INPUT(OP_SCALAR, cells + 7), {CVD_DTYPE_INT64, OP_SHAPE(0), cells, true})};
    op_expect_floats(&scalar, OP_SCALAR, cells + 7, 0);
}

Test(ops_gather, tile)
{
    for (size_t t = 0; t < 4; t++) {
        const size_t bytes = cvd_dtype_bytes(sizes[t]);
        const char *x = pattern(6 * bytes);
        char want[24 * 8];
        for (size_t i = 0; i < 24; i++) /* [2, 3] twice and twice: [4, 6] */
            memcpy(want + i * bytes, x + (i / 6 % 2 * 3 + i % 3) * bytes, bytes);
        const struct op_case c = {.op = "Tile",
                                  .opset = 13,
                                  OP_INPUTS({sizes[t], OP_SHAPE(2, 3), x, false}, INT_LIST(2, 2))};
        op_expect_exact(&c, 0, sizes[t], OP_SHAPE(4, 6), want);
        cr_expect(op_case_run(&c).prepared.mixes_images);
    }
    const struct op_case nothing = {
        .op = "Tile", .opset = 6, OP_INPUTS(FLOAT_INPUT(OP_SHAPE(2, 3), cells), INT_LIST(1, 0))};
    op_expect_floats(&nothing, OP_SHAPE(2, 0), cells, 0);
    const struct op_case wide = {
        .op = "Tile",
        .opset = 13,
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 100, 7), op_random(2100, 1)), INT_LIST(1, 3, 11))};
    op_expect_same_for_any_batch(&wide);
}

/* ---- Gather ---- */

/* Along every dimension of [2, 3, 4], with indices of each rank, against the definition. */
Test(ops_gather, gather)
{
    const int64_t indices[] = {1, -1, 0, -2};
    const int32_t narrow[] = {1, -1, 0, -2};
    const struct cvd_shape data = OP_SHAPE(2, 3, 4),
                           ranks[] = {OP_SCALAR, OP_SHAPE(4), OP_SHAPE(2, 2)};
    for (unsigned axis = 0; axis < 3; axis++) {
        for (size_t k = 0; k < 3; k++) {
            struct cvd_shape shape = {0};
            size_t outer = 1, inner = 1, count = k == 0 ? 1 : 4;
            for (unsigned d = 0; d < 3; d++) {
                const int64_t extent = data.dims[d];
                if (d != axis) {
                    shape.dims[shape.rank++] = extent;
                    *(d < axis ? &outer : &inner) *= (size_t)extent;
                    continue;
                }
                for (unsigned j = 0; j < ranks[k].rank; j++)
                    shape.dims[shape.rank++] = ranks[k].dims[j];
            }
            const int64_t extent = data.dims[axis];
            float want[24 * 4];
            for (size_t o = 0; o < outer; o++)
                for (size_t i = 0; i < count; i++)
                    for (size_t j = 0; j < inner; j++) {
                        const size_t at =
                            (size_t)(indices[i] < 0 ? indices[i] + extent : indices[i]);
                        want[(o * count + i) * inner + j] =
                            cells[(o * (size_t)extent + at) * inner + j];
                    }
            for (int wide = 0; wide < 2; wide++) {
                const struct op_case c = {
                    .op = "Gather",
                    .opset = 13,
                    OP_ATTRS(ATTR_INT("axis", (int64_t)axis - 3 * wide)),
                    OP_INPUTS(FLOAT_INPUT(data, cells),
                              {wide ? CVD_DTYPE_INT64 : CVD_DTYPE_INT32, ranks[k],
                               wide ? (const void *)indices : narrow, wide != 0})};
                op_expect_floats(&c, shape, want, 0);
            }
        }
    }
}

Test(ops_gather, gather_at_run_time)
{
    /* What points outside picks zeros: a run cannot fail. */
    const struct op_case outside = {.op = "Gather",
                                    .opset = 1,
                                    OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 2), cells + 1),
                                              INT_INPUT(2, 3, -3, -4, INT64_MAX, INT64_MIN))};
    op_expect_floats(&outside, OP_SHAPE(6, 2), OP_FLOATS_OF(5, 6, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0), 0);
    cr_expect(op_case_run(&outside).prepared.mixes_images);
    const struct op_case table = {.op = "Gather",
                                  .opset = 13,
                                  OP_INPUTS(FLOAT_WEIGHTS(OP_SHAPE(3, 2), cells), INT_INPUT(2, 0))};
    op_expect_floats(&table, OP_SHAPE(2, 2), OP_FLOATS_OF(4, 5, 0, 1), 0);
    cr_expect_not(op_case_run(&table).prepared.mixes_images, "a table is no batch");
    const struct op_case columns = {
        .op = "Gather",
        .opset = 13,
        OP_ATTRS(ATTR_INT("axis", 1)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 9, 1001), op_random(3 * 9 * 1001, 2)),
                  INT_LIST(8, 0, 8, 3))};
    op_expect_same_for_any_batch(&columns);
}

/* ---- DepthToSpace and SpaceToDepth ---- */

/* Out [n, c, h * b + i, w * b + j] against the definition, and back. */
Test(ops_gather, depth_to_space)
{
    enum { N = 2, C = 3, H = 2, W = 4, B = 2, TOTAL = N * C * H * W * B * B };
    const float *x = op_random(TOTAL, 3);
    for (int crd = 0; crd < 2; crd++) {
        float want[TOTAL];
        for (size_t i = 0; i < TOTAL; i++) {
            const size_t w = i % (W * B), h = i / (W * B) % (H * B), c = i / (W * B * H * B) % C;
            const size_t n = i / (W * B * H * B * C), block = h % B * B + w % B;
            const size_t channel = crd ? c * B * B + block : block * C + c;
            want[i] = x[((n * C * B * B + channel) * H + h / B) * W + w / B];
        }
        const struct op_case c = {
            .op = "DepthToSpace",
            .opset = 13,
            OP_ATTRS(ATTR_INT("blocksize", B), ATTR_STRING("mode", crd ? "CRD" : "DCR")),
            OP_INPUTS(FLOAT_INPUT(OP_SHAPE(N, C * B * B, H, W), x))};
        op_expect_floats(&c, OP_SHAPE(N, C, H * B, W * B), want, 0);
        if (crd)
            continue;
        const struct op_case back = {.op = "SpaceToDepth",
                                     .opset = 13,
                                     OP_ATTRS(ATTR_INT("blocksize", B)),
                                     OP_INPUTS(FLOAT_INPUT(OP_SHAPE(N, C, H * B, W * B), want))};
        op_expect_floats(&back, OP_SHAPE(N, C * B * B, H, W), x, 0);
    }
    const struct op_case c = {
        .op = "DepthToSpace",
        .opset = 1,
        OP_ATTRS(ATTR_INT("blocksize", 3)),
        OP_INPUTS(FLOAT_INPUT(OP_SHAPE(3, 18, 17, 19), op_random(3 * 18 * 17 * 19, 4)))};
    op_expect_same_for_any_batch(&c);
}

/* ---- errors ---- */

Test(ops_gather, refuses_expand)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct op_arg huge = FLOAT_INPUT(OP_SHAPE(INT64_C(1) << 40, 1), NULL);
    OP_REFUSES(UNSUPPORTED, "input 1 must be constant", .op = "Expand", .opset = 13,
               OP_INPUTS(x, INT_INPUT(1)));
    OP_REFUSES(INVALID_MODEL, "[2,3] does not broadcast with shape [2,2]", .op = "Expand",
               .opset = 13, OP_INPUTS(x, INT_LIST(2, 2)));
    OP_REFUSES(INVALID_MODEL, "shape[0] is -1", .op = "Expand", .opset = 13,
               OP_INPUTS(x, INT_LIST(-1, 3)));
    OP_REFUSES(UNSUPPORTED, "at most 8", .op = "Expand", .opset = 13,
               OP_INPUTS(x, INT_LIST(1, 1, 1, 1, 1, 1, 1, 1, 1)));
    OP_REFUSES(UNSUPPORTED, "does not fit in memory", .op = "Expand", .opset = 13,
               OP_INPUTS(huge, INT_LIST(1, INT64_C(1) << 40)));
}

Test(ops_gather, refuses_tile)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct op_arg huge = FLOAT_INPUT(OP_SHAPE(INT64_C(1) << 40, 1), NULL);
    OP_REFUSES(INVALID_MODEL, "repeats has 1 numbers; the input has 2 dimensions", .op = "Tile",
               .opset = 13, OP_INPUTS(x, INT_LIST(2)));
    OP_REFUSES(INVALID_MODEL, "repeats[1] is -1", .op = "Tile", .opset = 13,
               OP_INPUTS(x, INT_LIST(2, -1)));
    OP_REFUSES(UNSUPPORTED, "does not fit in memory", .op = "Tile", .opset = 13,
               OP_INPUTS(x, INT_LIST(INT64_MAX, 1)));
    OP_REFUSES(UNSUPPORTED, "does not fit in memory", .op = "Tile", .opset = 13,
               OP_INPUTS(huge, INT_LIST(1, INT64_C(1) << 40)));
    OP_REFUSES(UNSUPPORTED, "input 1 must be constant", .op = "Tile", .opset = 13,
               OP_INPUTS(x, INT_INPUT(1, 1)));
}

Test(ops_gather, refuses_gather)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct op_attr axis1 = ATTR_INT("axis", 1);
    OP_REFUSES(INVALID_MODEL, "index 3 is outside dimension 1, whose extent is 3", .op = "Gather",
               .opset = 13, OP_ATTRS(axis1), OP_INPUTS(x, INT_LIST(0, 3)));
    OP_REFUSES(INVALID_MODEL, "index -4 is outside", .op = "Gather", .opset = 13, OP_ATTRS(axis1),
               OP_INPUTS(x, INT_LIST(-4)));
    OP_REFUSES(INVALID_MODEL, "axis -3 is outside", .op = "Gather", .opset = 13,
               OP_ATTRS(ATTR_INT("axis", -3)), OP_INPUTS(x, INT_LIST(0)));
    OP_REFUSES(INVALID_MODEL, "input 1 has type float32", .op = "Gather", .opset = 13,
               OP_ATTRS(axis1), OP_INPUTS(x, x));
    OP_REFUSES(UNSUPPORTED, "the output would have 9 dimensions; at most 8", .op = "Gather",
               .opset = 13, OP_ATTRS(axis1),
               OP_INPUTS(x, {CVD_DTYPE_INT64, OP_SHAPE(1, 1, 1, 1, 1, 1, 1, 1), NULL, false}));
}

Test(ops_gather, refuses_depthtospace)
{
    const struct op_arg x = FLOAT_INPUT(OP_SHAPE(2, 3), NULL);
    const struct op_arg image = FLOAT_INPUT(OP_SHAPE(1, 6, 4, 3), NULL);
    OP_REFUSES(INVALID_MODEL, "attribute blocksize is missing", .op = "DepthToSpace", .opset = 13,
               OP_INPUTS(image));
    OP_REFUSES(INVALID_MODEL, "6 channels cannot be made into blocks of 2 x 2",
               .op = "DepthToSpace", .opset = 13, OP_ATTRS(ATTR_INT("blocksize", 2)),
               OP_INPUTS(image));
    OP_REFUSES(INVALID_MODEL, "6 channels cannot", .op = "DepthToSpace", .opset = 13,
               OP_ATTRS(ATTR_INT("blocksize", INT64_MAX)), OP_INPUTS(image));
    OP_REFUSES(INVALID_MODEL, "blocksize is 0", .op = "DepthToSpace", .opset = 13,
               OP_ATTRS(ATTR_INT("blocksize", 0)), OP_INPUTS(image));
    OP_REFUSES(INVALID_MODEL, "the input has 2 dimensions; it must have 4", .op = "DepthToSpace",
               .opset = 13, OP_ATTRS(ATTR_INT("blocksize", 1)), OP_INPUTS(x));
    const struct op_case mode = {.op = "DepthToSpace",
                                 .opset = 11,
                                 OP_ATTRS(ATTR_INT("blocksize", 1), ATTR_STRING("mode", "RCD")),
                                 OP_INPUTS(image)};
    op_expect_failure(&mode, CVD_STATUS_INVALID_MODEL, "mode is 'RCD'; it must be DCR or CRD");
}

Test(ops_gather, refuses_spacetodepth)
{
    const struct op_arg image = FLOAT_INPUT(OP_SHAPE(1, 6, 4, 3), NULL);
    OP_REFUSES(INVALID_MODEL, "4 x 3 pixels cannot be cut into blocks of 2 x 2",
               .op = "SpaceToDepth", .opset = 13, OP_ATTRS(ATTR_INT("blocksize", 2)),
               OP_INPUTS(image));
}
