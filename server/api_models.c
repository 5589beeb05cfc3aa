/* GET /models and GET /models/NAME: what is served, and one model in detail. */
#include "server/registry_json.h"
#include "server/routes.h"

#include <inttypes.h>
#include <string.h>

struct listing {
    struct text text;
    struct registry_model *best; /* what /classify uses, or NULL */
    bool first;
};

static void list_one(const struct registry_model *m, void *cookie)
{
    struct listing *l = cookie;
    text_puts(&l->text, l->first ? "{\"name\":" : ",{\"name\":");
    text_json_string(&l->text, m->name);
    text_puts(&l->text, ",\"version\":");
    text_json_string(&l->text, m->version);
    text_printf(&l->text, ",\"default\":%s,\"state\":\"ready\"}", m == l->best ? "true" : "false");
    l->first = false;
}

enum request_result api_models(struct request *rq)
{
    struct registry *r = rq->app->registry;
    struct listing l = {.best = registry_acquire(r, NULL, NULL), .first = true};
    text_puts(&l.text, "{\"models\":[");
    registry_each(r, list_one, &l);
    text_puts(&l.text, "]}\n");
    if (l.best)
        registry_release(l.best);
    return reply_json_take(rq, 200, l.text.data, l.text.len);
}

enum request_result api_model(struct request *rq)
{
    struct registry *r = rq->app->registry;
    const char *name = rq->captures[0], *version = request_query(rq, "version");
    struct registry_model *m = registry_acquire(r, name, version);
    if (!m && atomic_load(&rq->app->phase) == APP_LOADING)
        return reply_busy(rq, "loading", "models are being loaded");
    if (!m)
        return reply_error(rq, 404, "model_not_found", "no model '%s'%s%s; GET /models lists them",
                           name, version ? " of version " : "", version ? version : "");
    struct registry_model *best = registry_acquire(r, NULL, NULL);
    struct text t = {0};
    text_puts(&t, "{");
    registry_json(&t, m);
    text_printf(&t,
                ",\"batching\":{\"max_batch_size\":%u,\"max_delay_us\":%" PRIu64
                "},\"default\":%s,\"state\":\"ready\"}\n",
                m->max_batch, m->max_delay_ns / 1000, m == best ? "true" : "false");
    if (best)
        registry_release(best);
    registry_release(m);
    return reply_json_take(rq, 200, t.data, t.len);
}
