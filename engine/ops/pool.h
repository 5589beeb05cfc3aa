/* What the operators that pool have in common: reading a node of that name. */
#ifndef CONVD_OPS_POOL_H
#define CONVD_OPS_POOL_H

#include "engine/ops/window.h"

enum pool_kind { POOL_MAX, POOL_AVERAGE, POOL_LP };

struct pool_state {
    struct window window;
    enum pool_kind kind;
    bool include_pad;
    bool column_major; /* how Indices number the cells of a plane */
    int64_t p;
};

/* Reads and checks a MaxPool, AveragePool or LpPool; *shape is that of its output. */
enum cvd_status pool_read(const struct op_node *node, struct pool_state *s,
                          struct cvd_shape *shape);
enum cvd_status pool_infer(const struct op_node *node, struct op_value *out);

/* The same for GlobalMaxPool, GlobalAveragePool and GlobalLpPool. */
enum cvd_status global_pool_infer(const struct op_node *node, struct op_value *out);

#endif
