/*
 * The list of what is served, for the registry's own files: registry.c keeps it, registry_load.c
 * brings it in line with the model folder, registry_reload.c does so again when told to.
 */
#ifndef CONVD_SERVER_REGISTRY_LIST_H
#define CONVD_SERVER_REGISTRY_LIST_H

#include "server/registry_source.h"

#include <pthread.h>
#include <stdatomic.h>

struct entry {
    struct registry_model model; /* first: a model's address is its entry's */
    struct registry *owner;
    unsigned holders; /* under the lock */
    bool builtin;
    char *identity; /* source_identity() of what it was made from */
    bool wanted;    /* found by the pass over the folder that is under way */
};

struct registry {
    struct cvd_engine *engine;
    const struct config *config;
    struct metrics *metrics;
    struct log *log;
    struct batch_budget budget;

    /* The list, ascending by name and version. One thread at a time loads; it alone changes the
     * list and may read it without the lock. All others take the lock, for moments. */
    pthread_mutex_t lock;
    pthread_cond_t released; /* an entry's count has reached zero */
    struct entry **entries;
    size_t count;
    char default_name[REGISTRY_NAME_BYTES]; /* or "" */

    /* The thread that reloads; it exists from the first request for that. */
    pthread_cond_t wanted;
    pthread_t reloader;
    bool has_reloader, reload_wanted; /* under the lock */
    atomic_bool closing;
};

/* ---- registry.c; all but the first for the thread that loads ---- */

void entry_destroy(struct entry *e);

/* Any version (NULL) or one of that name, or NULL. */
struct entry *registry_find(const struct registry *r, const char *name, const char *version);

/* Puts a complete entry into the list, from where requests find it. *replaced is the one of the
 * same name and version that gave way, for registry_end(), or NULL. */
enum cvd_status registry_publish(struct registry *r, struct entry *e, struct entry **replaced,
                                 struct cvd_error *err);

/* Waits until the last request that holds it is done, and frees it. NULL is allowed. */
void registry_end(struct registry *r, struct entry *e);

/* Takes an entry off the list and ends it. */
void registry_withdraw(struct registry *r, struct entry *e);

/* ---- registry_reload.c ---- */

/* Ends the thread, if there is one; a pass under way stops after the model it is busy with. */
void registry_stop_reloading(struct registry *r);

#endif
