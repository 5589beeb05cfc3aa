/*
 * From the model folder to the list of what is served, at the start and whenever the folder is read
 * again.
 *
 * A pass goes through the folder model by model. A version whose files are as they were stays as it
 * is. One that is new or has changed is built beside what is served and then takes its place. What
 * the folder no longer holds goes last of all, when everything that replaces it is there. A model
 * of which anything cannot be loaded loses nothing. So at no moment is there less to serve than
 * before and after, and there is one model in memory that is not served, not a second set of all.
 */
#include "server/registry_list.h"

#include "server/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- one version ---- */

/* Everything between an opened model and a served one. */
static enum cvd_status prepare(struct registry *r, struct registry_model *m, struct cvd_error *err)
{
    if (m->not_images)
        return cvd_error_set(err, CVD_STATUS_UNSUPPORTED, "%s: %s", m->source, m->not_images);
    if (m->max_batch == 0)
        m->max_batch = r->config->max_batch;
    if (m->max_delay_ns == REGISTRY_NO_DELAY)
        m->max_delay_ns = r->config->max_delay_ns;
    enum cvd_status status = source_warm_up(m, err);
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

static void report_loaded(struct registry *r, const struct registry_model *m, uint64_t ns)
{
    struct cvd_tuning_info tuning;
    char ms[32], tuning_ms[32];
    cvd_model_tuning(m->model, &tuning);
    snprintf(ms, sizeof ms, "%.1f", (double)ns * 1e-6);
    snprintf(tuning_ms, sizeof tuning_ms, "%.1f", tuning.seconds * 1e3);
    log_event(r->log, LOG_INFO, "model loaded",
              (const struct log_field[]){{"model", m->name},
                                         {"version", m->version},
                                         {"source", m->source},
                                         {"#ms", ms},
                                         {"#tuning_ms", tuning_ms},
                                         {NULL, NULL}});
    if (tuning.problem)
        log_event(r->log, LOG_WARN, "tuning cache not used",
                  (const struct log_field[]){
                      {"model", m->name}, {"error", tuning.problem}, {NULL, NULL}});
}

/* Takes over `identity`, also when it fails. */
static enum cvd_status load(struct registry *r, const struct source *source,
                            const struct settings *settings, char *identity, struct cvd_error *err)
{
    uint64_t begin = clock_ns();
    struct entry *e = calloc(1, sizeof *e), *replaced;
    if (!e) {
        free(identity);
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a model");
    }
    e->owner = r;
    e->builtin = !source->file;
    e->identity = identity;
    e->wanted = true;
    const struct cvd_load_options options = {.tune_ns = r->config->tune_budget_ns,
                                             .tune_cache = r->config->tune_cache};
    enum cvd_status status = source_open(r->engine, source, settings, &options, &e->model, err);
    if (status == CVD_STATUS_OK)
        status = prepare(r, &e->model, err);
    uint64_t ns = clock_ns() - begin;
    if (status == CVD_STATUS_OK)
        status = registry_publish(r, e, &replaced, err);
    if (status != CVD_STATUS_OK) {
        entry_destroy(e);
        return status;
    }
    metrics_model_loaded(e->model.metrics, true, (double)ns * 1e-9);
    report_loaded(r, &e->model, ns);
    registry_end(r, replaced);
    return CVD_STATUS_OK;
}

/* ---- a pass ---- */

struct pass {
    struct registry *r;
    unsigned loaded, unchanged, failed, removed;
    bool builtin_replaced; /* the folder has a model of that name, good or not: it is never replaced
                              by another one without a word */
};

/* Says what could not be loaded; what there is of the model stays. */
static void failed(struct pass *p, const char *name, const char *version, const char *message)
{
    struct registry *r = p->r;
    const char *served = NULL; /* the newest */
    for (size_t i = 0; i < r->count; i++) {
        struct entry *e = r->entries[i];
        if (strcmp(e->model.name, name) != 0)
            continue;
        e->wanted = true;
        served = e->model.version;
    }
    if (strcmp(name, REGISTRY_BUILTIN) == 0)
        p->builtin_replaced = true;
    p->failed++;
    log_event(r->log, LOG_ERROR, "model not loaded",
              (const struct log_field[]){{"model", name},
                                         {"version", version},
                                         {"still_served", served},
                                         {"error", message},
                                         {NULL, NULL}});
}

static void complain(const char *name, const char *message, void *cookie)
{
    failed(cookie, name, "-", message);
}

/* Ends what this pass has not found: of one model, or (NULL) of all. */
static void remove_unwanted(struct pass *p, const char *name)
{
    struct registry *r = p->r;
    for (size_t i = r->count; i-- > 0;) {
        struct entry *e = r->entries[i];
        if (e->wanted || (name && strcmp(e->model.name, name) != 0))
            continue;
        registry_withdraw(r, e);
        p->removed++;
    }
}

/* Brings one version up to date; false when that failed. */
static bool update(struct pass *p, const struct source *source, const struct settings *settings)
{
    struct registry *r = p->r;
    struct entry *old = registry_find(r, source->name, source->version);
    char *identity = source_identity(source, settings);
    struct cvd_error err;
    enum cvd_status status;
    if (!identity) {
        status = cvd_error_set(&err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a model");
    } else if (old && strcmp(old->identity, identity) == 0) {
        free(identity);
        old->wanted = true;
        p->unchanged++;
        return true;
    } else {
        status = load(r, source, settings, identity, &err);
    }
    if (status == CVD_STATUS_OK)
        p->loaded++;
    else
        failed(p, source->name, source->version, err.message);
    return status == CVD_STATUS_OK;
}

static void update_model(const struct folder_model *fm, void *cookie)
{
    struct pass *p = cookie;
    const char *name = fm->sources[0].name;
    bool complete = true;
    for (size_t i = 0; i < fm->count; i++)
        complete &= !atomic_load(&p->r->closing) && update(p, &fm->sources[i], &fm->settings);
    if (strcmp(name, REGISTRY_BUILTIN) == 0)
        p->builtin_replaced = true;
    if (complete)
        remove_unwanted(p, name);
}

/* --default-model, else the only model of the folder, else the built-in one; none when it is left
 * open by a folder of several that replaces the built-in model by one that does not load. */
static enum cvd_status choose_default(struct registry *r, struct cvd_error *err)
{
    const char *wish = r->config->default_model, *only = NULL;
    size_t models = 0;
    for (size_t i = 0; i < r->count; i++) {
        const struct entry *e = r->entries[i];
        if (!e->wanted || e->builtin)
            continue;
        models += !only || strcmp(only, e->model.name) != 0;
        only = e->model.name;
    }
    const char *name = wish ? wish : models == 1 ? only : REGISTRY_BUILTIN;
    bool found = false;
    for (size_t i = 0; i < r->count; i++)
        found |= r->entries[i]->wanted && strcmp(r->entries[i]->model.name, name) == 0;
    pthread_mutex_lock(&r->lock);
    snprintf(r->default_name, sizeof r->default_name, "%s", found ? name : "");
    pthread_mutex_unlock(&r->lock);
    if (wish && !found)
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                             "default-model: '%s' is not among the models that were loaded", wish);
    return CVD_STATUS_OK;
}

static void report(const struct pass *p, uint64_t ns)
{
    char loaded[16], unchanged[16], failures[16], removed[16], ms[32];
    snprintf(loaded, sizeof loaded, "%u", p->loaded);
    snprintf(unchanged, sizeof unchanged, "%u", p->unchanged);
    snprintf(failures, sizeof failures, "%u", p->failed);
    snprintf(removed, sizeof removed, "%u", p->removed);
    snprintf(ms, sizeof ms, "%.1f", (double)ns * 1e-6);
    log_event(p->r->log, LOG_INFO, "model folder read",
              (const struct log_field[]){{"#loaded", loaded},
                                         {"#unchanged", unchanged},
                                         {"#failed", failures},
                                         {"#removed", removed},
                                         {"#ms", ms},
                                         {NULL, NULL}});
}

enum cvd_status registry_load(struct registry *r, struct cvd_error *err)
{
    struct pass p = {.r = r};
    uint64_t begin = clock_ns();
    for (size_t i = 0; i < r->count; i++)
        r->entries[i]->wanted = false;
    if (r->config->models) {
        const struct folder_visitor visitor = {update_model, complain, &p};
        enum cvd_status status = folder_scan(r->config->models, &visitor, err);
        if (status != CVD_STATUS_OK)
            return status;
    }
    if (!p.builtin_replaced) {
        struct source builtin = {.name = REGISTRY_BUILTIN, .version = "1"};
        const struct folder_model fm = {
            .settings = {.max_delay_ns = REGISTRY_NO_DELAY}, .sources = &builtin, .count = 1};
        update_model(&fm, &p);
    }
    if (atomic_load(&r->closing)) /* not all of the folder has been looked at */
        return CVD_STATUS_OK;
    if (r->count == 0)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "no model could be loaded; the log says why");
    enum cvd_status status = choose_default(r, err);
    remove_unwanted(&p, NULL);
    report(&p, clock_ns() - begin);
    return status;
}
