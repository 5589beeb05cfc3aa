/*
 * The model repository: which models and versions are served, each with its preprocessing, labels
 * and batcher. Entries are reference-counted: a request keeps the model it began with alive, also
 * when a reload puts another one in its place.
 */
#ifndef CONVD_SERVER_REGISTRY_H
#define CONVD_SERVER_REGISTRY_H

#include "server/batch.h"
#include "server/config.h"
#include "server/image.h"
#include "server/log.h"
#include "server/metrics.h"

#include <convd/model.h>

struct registry;

#define REGISTRY_NO_DELAY UINT64_MAX

/* One loaded version; immutable while anyone holds it. */
struct registry_model {
    char *name, *version;
    struct cvd_model *model;
    struct batcher *batcher;
    struct metrics_model *metrics;
    struct preprocess preprocess;
    bool apply_softmax;    /* the server's part: the graph ends in logits */
    size_t input_elements; /* of one image */
    size_t classes;
    char **labels;         /* classes strings, or NULL: labels are the indices */
    unsigned max_batch;    /* from config.json; 0 = as the daemon's options say */
    uint64_t max_delay_ns; /* the same; REGISTRY_NO_DELAY = as the daemon's options say */
    char *not_images;      /* why images cannot be classified with it (then the fields about
                              images are empty; the daemon refuses such a model), or NULL */
    char *source;          /* "built in" or the file, for the log */
};

/* What a model is loaded from and with, shared by the daemon and the command-line tools; of `load`
 * it is the tuning that counts. */
enum cvd_status registry_open(struct cvd_engine *engine, const char *name_or_file,
                              const struct cvd_load_options *load, struct registry_model **out,
                              struct cvd_error *err);
void registry_close(struct registry_model *m); /* no batcher, no references: for the tools */

struct registry *registry_create(struct cvd_engine *engine, const struct config *config,
                                 struct metrics *metrics, struct log *log);

/* Loads the embedded model (and later the model folder), warms each up. A model that does not load
 * is reported and skipped; an error only when nothing can be served. */
enum cvd_status registry_load(struct registry *r, struct cvd_error *err);

/*
 * Has the model folder read again, by a thread of the registry's own; returns at once. What is new
 * or has changed is loaded and warmed up and then takes the place of what was there, which is freed
 * when its last request is done; what is gone from the folder is no longer served. A model that
 * cannot be loaded is reported and stays as it was. What is asked for during a reload becomes one
 * more reload. After registry_load() has succeeded.
 */
void registry_reload(struct registry *r);

/* Drops every model once its requests are done. NULL is allowed. */
void registry_destroy(struct registry *r);

/* The model to use; name NULL = the default, version NULL = the newest. NULL when there is none.
 * Release it with registry_release(). */
struct registry_model *registry_acquire(struct registry *r, const char *name, const char *version);
void registry_release(struct registry_model *m);

/* Calls fn for every loaded version in a fixed order. */
void registry_each(struct registry *r, void (*fn)(const struct registry_model *m, void *cookie),
                   void *cookie);

/* Softmax over one image's `classes` values, in place, in double precision. */
void registry_softmax(float *values, size_t classes);

/* Indices of the k largest values, largest first, lower index first among equals. */
void registry_top(const float *values, size_t classes, size_t k, uint32_t *indices);

/* Label of a class: the text, or the index written into buf. */
const char *registry_label(const struct registry_model *m, size_t index, char buf[24]);

#endif
