/* Convolution, portable C: 4 x 2 is what sixteen 128-bit registers hold beside weights and input.
 * The specification of the other levels. */
#include "engine/kernels/kernels.h"
#include "engine/kernels/vec_c.h"
#include "engine/kernels/vmath.inc"

#define CONV_NAME      cvd_f32_conv_4x2__c
#define CONV_REGISTERS 16
#define CONV_MAX_PIXELS \
    {                   \
        0, 8, 4, 3, 2   \
    }
/* clang-format off */
#define CONV_TILES_1(X) X(1, 1) X(2, 1) X(3, 1) X(4, 1) X(5, 1) X(6, 1) X(7, 1) X(8, 1)
#define CONV_TILES_2(X) X(1, 2) X(2, 2) X(3, 2) X(4, 2)
#define CONV_TILES_3(X) X(1, 3) X(2, 3) X(3, 3)
#define CONV_TILES_4(X) X(1, 4) X(2, 4)
/* clang-format on */
#include "engine/kernels/conv.inc"

#define GROUPED_NAME   cvd_f32_grouped__c
#define GROUPED_PIXELS 8
/* clang-format off */
#define GROUPED_TILES(X, s) X(1, s) X(2, s) X(3, s) X(4, s) X(5, s) X(6, s) X(7, s) X(8, s)
/* clang-format on */
#include "engine/kernels/grouped.inc"

void kernels_init_conv_c(struct kernels *k)
{
    k->lanes = VL;
    k->conv.fn = CONV_NAME;
    k->conv.name = "cvd_f32_conv_4x2__c";
    for (size_t v = 0; v <= KERNEL_CONV_MAX_VECTORS; v++)
        k->conv.max_pixels[v] = conv_max_pixels[v];
    k->grouped.fn = GROUPED_NAME;
    k->grouped.name = "cvd_f32_grouped__c";
}
