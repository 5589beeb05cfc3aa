/* Reading a BatchNormalization, for the operators of that name. */
#ifndef CONVD_OPS_NORM_H
#define CONVD_OPS_NORM_H

#include "engine/ops/op.h"

enum cvd_status batchnorm_infer(const struct op_node *node, struct op_value *out);

#endif
