/* What a layer is, in a few narrow columns. */
#include "server/layer_cells.h"

#include <inttypes.h>
#include <string.h>

/* How much of a layer's name to show: exporters end it in the operator ("/layer1/conv1/Conv"),
 * which has a column of its own. */
static int name_length(const struct cvd_layer_info *l)
{
    const char *slash = strrchr(l->name, '/');
    if (slash && slash > l->name && strncmp(l->op, slash + 1, strlen(slash + 1)) == 0)
        return (int)(slash - l->name);
    return (int)strlen(l->name);
}

/* "cvd_f32_gemm_8x48__avx512" -> "gemm_8x48": the type is always the same, and the head says which
 * CPU level it is. */
static const char *kernel_name(const char *kernel, char *buf, size_t room)
{
    static const char prefix[] = "cvd_f32_";
    if (strncmp(kernel, prefix, sizeof prefix - 1) == 0)
        kernel += sizeof prefix - 1;
    const char *level = strstr(kernel, "__");
    snprintf(buf, room, "%.*s", level ? (int)(level - kernel) : (int)strlen(kernel), kernel);
    return buf;
}

/* "6x28x28": what one image makes. A shape without the batch in front is shown as it is. */
static const char *image_shape(const struct cvd_shape *s, bool one_image,
                               char text[CVD_SHAPE_TEXT_BYTES])
{
    size_t len = 0;
    if (s->rank < 2 || s->dims[0] != (one_image ? 1 : CVD_DIM_BATCH))
        return cvd_shape_text(s, text);
    for (unsigned i = 1; i < s->rank; i++)
        len += (size_t)snprintf(text + len, CVD_SHAPE_TEXT_BYTES - len, "%s%" PRId64,
                                i > 1 ? "x" : "", s->dims[i]);
    return text;
}

void layer_cells(struct table *t, size_t index, const struct cvd_layer_info *layer, bool one_image)
{
    char shape[CVD_SHAPE_TEXT_BYTES], kernel[64];
    table_add(t, "%zu", index + 1);
    table_add(t, "%.*s", name_length(layer), layer->name);
    table_add(t, "%s", layer->op);
    table_add(t, "%s", kernel_name(layer->kernel, kernel, sizeof kernel));
    table_add(t, "%s", image_shape(&layer->shape, one_image, shape));
}

void layer_total_cells(struct table *t)
{
    table_add(t, "%s", "");
    table_add(t, "total");
    for (int i = 0; i < 3; i++)
        table_add(t, "%s", "");
}
