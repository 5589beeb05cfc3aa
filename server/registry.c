/*
 * The models being served: a list sorted by name and version, each entry with a count of the
 * requests that hold it.
 *
 * An entry is built completely (loaded, warmed up, its batcher made) before it joins the list, so
 * whoever finds one can use it, and a request is computed by the one it found to its end. Whoever
 * takes one off the list waits for its count to reach zero before the batcher goes: a request
 * releases from inside the batcher's own callback, where ending the batcher would wait for itself.
 */
#include "server/registry_list.h"

#include <stdlib.h>
#include <string.h>

struct registry *registry_create(struct cvd_engine *engine, const struct config *config,
                                 struct metrics *metrics, struct log *log)
{
    struct registry *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->engine = engine;
    r->config = config;
    r->metrics = metrics;
    r->log = log;
    r->budget.max_bytes = config->max_queue_bytes;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->released, NULL);
    pthread_cond_init(&r->wanted, NULL);
    return r;
}

void registry_destroy(struct registry *r)
{
    if (!r)
        return;
    registry_stop_reloading(r);
    while (r->count > 0)
        registry_withdraw(r, r->entries[r->count - 1]);
    free(r->entries);
    pthread_cond_destroy(&r->wanted);
    pthread_cond_destroy(&r->released);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* ---- the list ---- */

void entry_destroy(struct entry *e)
{
    batcher_destroy(e->model.batcher);
    source_close(&e->model);
    free(e->identity);
    free(e);
}

static int compare(const struct registry_model *m, const char *name, const char *version)
{
    int order = strcmp(m->name, name);
    if (order != 0)
        return order;
    size_t a = strlen(m->version), b = strlen(version); /* decimal, without leading zeros */
    return a != b ? (a < b ? -1 : 1) : strcmp(m->version, version);
}

struct entry *registry_find(const struct registry *r, const char *name, const char *version)
{
    for (size_t i = 0; i < r->count; i++) {
        struct entry *e = r->entries[i];
        if (strcmp(e->model.name, name) == 0 &&
            (!version || strcmp(e->model.version, version) == 0))
            return e;
    }
    return NULL;
}

void registry_end(struct registry *r, struct entry *e)
{
    if (!e)
        return;
    pthread_mutex_lock(&r->lock);
    while (e->holders > 0)
        pthread_cond_wait(&r->released, &r->lock);
    pthread_mutex_unlock(&r->lock);
    log_event(r->log, atomic_load(&r->closing) ? LOG_DEBUG : LOG_INFO, "model freed",
              (const struct log_field[]){{"model", e->model.name},
                                         {"version", e->model.version},
                                         {"source", e->model.source},
                                         {NULL, NULL}});
    entry_destroy(e);
}

enum cvd_status registry_publish(struct registry *r, struct entry *e, struct entry **replaced,
                                 struct cvd_error *err)
{
    enum cvd_status status = CVD_STATUS_OK;
    const struct registry_model *m = &e->model;
    size_t at = 0;
    *replaced = NULL;
    pthread_mutex_lock(&r->lock);
    while (at < r->count && compare(&r->entries[at]->model, m->name, m->version) < 0)
        at++;
    if (at < r->count && compare(&r->entries[at]->model, m->name, m->version) == 0) {
        *replaced = r->entries[at];
        r->entries[at] = e;
    } else {
        struct entry **more = realloc(r->entries, (r->count + 1) * sizeof *more);
        if (more) {
            memmove(more + at + 1, more + at, (r->count - at) * sizeof *more);
            more[at] = e;
            r->entries = more;
            r->count++;
        } else {
            status = cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a list of models");
        }
    }
    pthread_mutex_unlock(&r->lock);
    return status;
}

void registry_withdraw(struct registry *r, struct entry *e)
{
    size_t at = 0;
    pthread_mutex_lock(&r->lock);
    while (r->entries[at] != e)
        at++;
    r->count--;
    memmove(r->entries + at, r->entries + at + 1, (r->count - at) * sizeof *r->entries);
    pthread_mutex_unlock(&r->lock);
    metrics_model_loaded(e->model.metrics, false, 0);
    registry_end(r, e);
}

/* ---- use ---- */

struct registry_model *registry_acquire(struct registry *r, const char *name, const char *version)
{
    struct entry *found = NULL;
    pthread_mutex_lock(&r->lock);
    if (!name)
        name = r->default_name;
    /* From the end: versions ascend, so the first match is the newest. */
    for (size_t i = r->count; i-- > 0 && !found;) {
        struct entry *e = r->entries[i];
        if (strcmp(e->model.name, name) == 0 &&
            (!version || strcmp(e->model.version, version) == 0))
            found = e;
    }
    if (found)
        found->holders++;
    pthread_mutex_unlock(&r->lock);
    return found ? &found->model : NULL;
}

void registry_release(struct registry_model *m)
{
    struct entry *e = (struct entry *)m;
    struct registry *r = e->owner;
    pthread_mutex_lock(&r->lock);
    if (--e->holders == 0)
        pthread_cond_broadcast(&r->released);
    pthread_mutex_unlock(&r->lock);
}

void registry_each(struct registry *r, void (*fn)(const struct registry_model *m, void *cookie),
                   void *cookie)
{
    pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < r->count; i++)
        fn(&r->entries[i]->model, cookie);
    pthread_mutex_unlock(&r->lock);
}
