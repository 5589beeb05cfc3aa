/* A model described in JSON, for GET /models/NAME and for `convd inspect --json`. */
#ifndef CONVD_SERVER_REGISTRY_JSON_H
#define CONVD_SERVER_REGISTRY_JSON_H

#include "server/registry.h"
#include "server/reply.h"

/* Appends the members of an object (without its braces): name, version, input, output, labels,
 * preprocessing (of a model that is not for images: inputs and outputs), layers, totals, opset. */
void registry_json(struct text *t, const struct registry_model *m);

/* Appends the members of a layer's object: name, op, kernel, shape, parameters, macs, output_bytes,
 * and of a convolution dense_parameters. */
void registry_layer_json(struct text *t, const struct cvd_layer_info *layer);

#endif
