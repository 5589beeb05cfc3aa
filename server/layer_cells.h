/* The first columns of every table of layers: number, name, operator, kernel, output. */
#ifndef CONVD_SERVER_LAYER_CELLS_H
#define CONVD_SERVER_LAYER_CELLS_H

#include "server/table.h"

#include <convd/model.h>

/* As many columns as layer_cells() and layer_total_cells() fill. */
#define LAYER_COLUMNS                                                                    \
    {"#", true, 0}, {"layer", false, 14}, {"operator", false, 0}, {"kernel", false, 12}, \
    {                                                                                    \
        "output", false, 0                                                               \
    }

/* one_image: the model's batch is fixed to one, and its shapes say so. */
void layer_cells(struct table *t, size_t index, const struct cvd_layer_info *layer, bool one_image);

void layer_total_cells(struct table *t);

#endif
