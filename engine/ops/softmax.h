/* Reading a Softmax or LogSoftmax, for the operators of that name. */
#ifndef CONVD_OPS_SOFTMAX_H
#define CONVD_OPS_SOFTMAX_H

#include "engine/ops/op.h"

struct softmax_state {
    bool log;
    bool flatten; /* the old meaning of axis: all dimensions from it on are one */
    unsigned axis;
};

enum cvd_status softmax_read(const struct op_node *node, struct softmax_state *s);
enum cvd_status softmax_infer(const struct op_node *node, struct op_value *out);

#endif
