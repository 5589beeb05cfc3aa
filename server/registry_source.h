/* From a model folder or a name to loaded versions; for registry*.c. */
#ifndef CONVD_SERVER_REGISTRY_SOURCE_H
#define CONVD_SERVER_REGISTRY_SOURCE_H

#include "server/registry.h"
#include "server/registry_settings.h"

#define REGISTRY_BUILTIN "lenet5"

/* Names and versions appear in paths, labels and struct request. */
#define REGISTRY_NAME_BYTES    64
#define REGISTRY_VERSION_BYTES 20

/* One version of a model: the embedded one when file is NULL. */
struct source {
    char name[REGISTRY_NAME_BYTES];
    char version[REGISTRY_VERSION_BYTES];
    char *file;
    char *folder; /* where config.json and labels.txt may be, or NULL */
};

/*
 * What tells one state of a version's files from another: path, inode, size and times of the ONNX
 * file, of what lies beside it (external data) and of the settings. Malloc'ed; NULL when there is
 * no memory. To be taken before the files are read: a change during that shows the next time.
 */
char *source_identity(const struct source *source, const struct settings *settings);

/* Fills *m, which is cleared first: the model, its labels and preprocessing; no batcher. Of `load`
 * it is the tuning that counts. */
enum cvd_status source_open(struct cvd_engine *engine, const struct source *source,
                            const struct settings *settings, const struct cvd_load_options *load,
                            struct registry_model *m, struct cvd_error *err);

/* Frees what *m points to, except its batcher and metrics. */
void source_close(struct registry_model *m);

/* Runs an image of zeros: one, because an answer does not depend on the batch, and a large batch
 * would keep the workers from requests. INVALID_MODEL when the answer is not finite. */
enum cvd_status source_warm_up(const struct registry_model *m, struct cvd_error *err);

/* One model of a folder: its settings and the versions to load, oldest first. */
struct folder_model {
    struct settings settings;
    struct source *sources;
    size_t count;
};

/*
 * Calls fn for every model found in the folder, in the order of their names. What is there but
 * cannot be used is handed to `complain`, one call each. IO when the folder itself cannot be read.
 */
struct folder_visitor {
    void (*model)(const struct folder_model *model, void *cookie);
    void (*complain)(const char *name, const char *message, void *cookie);
    void *cookie;
};
enum cvd_status folder_scan(const char *folder, const struct folder_visitor *visitor,
                            struct cvd_error *err);

#endif
