/* The engine and the model as the runtime's own files see them; the public view is opaque. */
#ifndef CONVD_RUNTIME_MODEL_H
#define CONVD_RUNTIME_MODEL_H

#include <convd/model.h>

#include "engine/graph/plan.h"

struct cvd_engine {
    struct kernels kernels;
    struct tpool *pool;
    size_t max_model_bytes;
};

struct cvd_model {
    struct cvd_engine *engine;
    struct plan *plan;
    struct mem_arena *arena; /* metadata */
    const struct graph_property *metadata;
    uint32_t metadata_count;
    int64_t opset;
    double load_seconds;
    struct cvd_tuning_info tuning;
    struct cvd_error tune_error;
};

#endif
