/*
 * The models being served: a list sorted by name and version, each entry with a count of the
 * requests that hold it.
 *
 * An entry is built completely (loaded, warmed up, its batcher made) before it joins the list, so
 * whoever finds one can use it. Whoever takes one off the list waits for its count to reach zero
 * before the batcher goes: a request releases from inside the batcher's own callback, where ending
 * the batcher would wait for itself.
 */
#include "server/registry.h"

#include "server/clock.h"
#include "server/registry_source.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    struct registry_model model; /* first: a model's address is its entry's */
    struct registry *owner;
    unsigned holders; /* under the lock */
};

struct registry {
    struct cvd_engine *engine;
    const struct config *config;
    struct metrics *metrics;
    struct log *log;
    struct batch_budget budget;
    pthread_mutex_t lock; /* the list and the counts; held for moments */
    pthread_cond_t released;
    struct entry **entries;
    size_t count;
    const char *default_name; /* an entry's; set once, when loading ends */
};

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
    return r;
}

static void entry_destroy(struct entry *e)
{
    batcher_destroy(e->model.batcher);
    if (e->model.metrics)
        metrics_model_loaded(e->model.metrics, false, 0);
    source_close(&e->model);
    free(e);
}

void registry_destroy(struct registry *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->default_name = NULL;
    while (r->count > 0) {
        struct entry *e = r->entries[--r->count];
        while (e->holders > 0)
            pthread_cond_wait(&r->released, &r->lock);
        pthread_mutex_unlock(&r->lock);
        entry_destroy(e);
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    free(r->entries);
    pthread_cond_destroy(&r->released);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* ---- loading ---- */

static int compare(const struct registry_model *m, const char *name, const char *version)
{
    int order = strcmp(m->name, name);
    if (order != 0)
        return order;
    size_t a = strlen(m->version), b = strlen(version); /* decimal, without leading zeros */
    return a != b ? (a < b ? -1 : 1) : strcmp(m->version, version);
}

static enum cvd_status insert(struct registry *r, struct entry *e, struct cvd_error *err)
{
    enum cvd_status status = CVD_STATUS_OK;
    pthread_mutex_lock(&r->lock);
    struct entry **more = realloc(r->entries, (r->count + 1) * sizeof *more);
    if (more) {
        r->entries = more;
        size_t at = r->count++;
        for (; at > 0 && compare(&more[at - 1]->model, e->model.name, e->model.version) > 0; at--)
            more[at] = more[at - 1];
        more[at] = e;
    } else {
        status = cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a list of models");
    }
    pthread_mutex_unlock(&r->lock);
    return status;
}

/* Everything between an opened model and a served one. */
static enum cvd_status prepare(struct registry *r, struct registry_model *m, struct cvd_error *err)
{
    if (m->not_images)
        return cvd_error_set(err, CVD_STATUS_UNSUPPORTED, "%s: %s", m->source, m->not_images);
    if (m->max_batch == 0)
        m->max_batch = r->config->max_batch;
    if (m->max_delay_ns == REGISTRY_NO_DELAY)
        m->max_delay_ns = r->config->max_delay_ns;
    enum cvd_status status = source_warm_up(m, m->max_batch, err);
    if (status != CVD_STATUS_OK)
        return status;
    m->metrics = metrics_model(r->metrics, m->name, m->version);
    if (!m->metrics)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for metrics");
    const struct batch_options options = {.max_batch = m->max_batch,
                                          .max_delay_ns = m->max_delay_ns,
                                          .max_queue = r->config->max_queue,
                                          .budget = &r->budget,
                                          .metrics = m->metrics};
    return batcher_create(r->engine, m->model, &options, &m->batcher, err);
}

static enum cvd_status load(struct registry *r, const struct source *source,
                            const struct settings *settings, struct cvd_error *err)
{
    uint64_t begin = clock_ns();
    struct entry *e = calloc(1, sizeof *e);
    if (!e)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a model");
    e->owner = r;
    enum cvd_status status = source_open(r->engine, source, settings, &e->model, err);
    if (status == CVD_STATUS_OK)
        status = prepare(r, &e->model, err);
    if (status == CVD_STATUS_OK)
        status = insert(r, e, err);
    if (status != CVD_STATUS_OK) {
        entry_destroy(e);
        return status;
    }
    uint64_t ns = clock_ns() - begin;
    char ms[32];
    snprintf(ms, sizeof ms, "%.1f", (double)ns * 1e-6);
    metrics_model_loaded(e->model.metrics, true, (double)ns * 1e-9);
    log_event(r->log, LOG_INFO, "model loaded",
              (const struct log_field[]){{"model", e->model.name},
                                         {"version", e->model.version},
                                         {"source", e->model.source},
                                         {"ms", ms},
                                         {NULL, NULL}});
    return CVD_STATUS_OK;
}

/* One pass over the model folder. */
struct loading {
    struct registry *r;
    size_t models;                  /* with at least one version loaded */
    char name[REGISTRY_NAME_BYTES]; /* of the last of them */
    bool builtin_replaced;          /* the folder has a model of that name, good or not: it is never
                                       replaced by another one without a word */
};

static void skipped(struct loading *l, const char *name, const char *version, const char *message)
{
    if (strcmp(name, REGISTRY_BUILTIN) == 0)
        l->builtin_replaced = true;
    log_event(l->r->log, LOG_ERROR, "model not loaded",
              (const struct log_field[]){
                  {"model", name}, {"version", version}, {"error", message}, {NULL, NULL}});
}

static void complain(const char *name, const char *message, void *cookie)
{
    skipped(cookie, name, "-", message);
}

static void load_model(const struct folder_model *fm, void *cookie)
{
    struct loading *l = cookie;
    bool loaded = false;
    for (size_t i = 0; i < fm->count; i++) {
        const struct source *s = &fm->sources[i];
        struct cvd_error err;
        if (load(l->r, s, &fm->settings, &err) == CVD_STATUS_OK)
            loaded = true;
        else
            skipped(l, s->name, s->version, err.message);
    }
    if (!loaded)
        return;
    const char *name = fm->sources[0].name;
    if (strcmp(name, REGISTRY_BUILTIN) == 0)
        l->builtin_replaced = true;
    l->models++;
    snprintf(l->name, sizeof l->name, "%s", name);
}

static const struct entry *find_name(const struct registry *r, const char *name)
{
    for (size_t i = 0; i < r->count; i++)
        if (strcmp(r->entries[i]->model.name, name) == 0)
            return r->entries[i];
    return NULL;
}

/* --default-model, else the only model of the folder, else the built-in one; NULL when it is left
 * open by a folder of several that replaces the built-in model by one that does not load. */
static enum cvd_status choose_default(struct registry *r, const struct loading *l,
                                      struct cvd_error *err)
{
    const char *wish = r->config->default_model;
    const char *name = wish ? wish : l->models == 1 ? l->name : REGISTRY_BUILTIN;
    const struct entry *e = find_name(r, name);
    if (wish && !e)
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                             "default-model: '%s' is not among the models that were loaded", wish);
    pthread_mutex_lock(&r->lock);
    r->default_name = e ? e->model.name : NULL;
    pthread_mutex_unlock(&r->lock);
    return CVD_STATUS_OK;
}

enum cvd_status registry_load(struct registry *r, struct cvd_error *err)
{
    struct loading l = {.r = r};
    if (r->config->models) {
        const struct folder_visitor visitor = {load_model, complain, &l};
        enum cvd_status status = folder_scan(r->config->models, &visitor, err);
        if (status != CVD_STATUS_OK)
            return status;
    }
    if (!l.builtin_replaced) {
        const struct source builtin = {.name = REGISTRY_BUILTIN, .version = "1"};
        const struct settings settings = {.max_delay_ns = REGISTRY_NO_DELAY};
        struct cvd_error reason;
        if (load(r, &builtin, &settings, &reason) != CVD_STATUS_OK)
            skipped(&l, builtin.name, builtin.version, reason.message);
    }
    if (r->count == 0)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "no model could be loaded; the log says why");
    return choose_default(r, &l, err);
}

/* ---- use ---- */

struct registry_model *registry_acquire(struct registry *r, const char *name, const char *version)
{
    struct entry *found = NULL;
    pthread_mutex_lock(&r->lock);
    if (!name)
        name = r->default_name;
    /* From the end: versions ascend, so the first match is the newest. */
    for (size_t i = r->count; name && i-- > 0 && !found;) {
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

const char *registry_default(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    const char *name = r->default_name;
    pthread_mutex_unlock(&r->lock);
    return name;
}
