/*
 * Probes. /livez is about the process: it answers while the event loop turns, whatever the load.
 * /readyz (and the older name /healthz) is about traffic: not while models are being loaded, not
 * once told to stop. /ping is the same question in another server's words.
 */
#include "server/reply.h"
#include "server/routes.h"

#include <string.h>

struct check {
    const char *name;
    bool ok;
};

/* The "?verbose" answer: one line a check, then the verdict. */
static enum request_result list(struct request *rq, const char *name, const struct check *checks,
                                size_t count)
{
    struct text text = {0};
    bool ok = true;

    for (size_t i = 0; i < count; i++) {
        ok &= checks[i].ok;
        text_printf(&text, "[%c]%s %s\n", checks[i].ok ? '+' : '-', checks[i].name,
                    checks[i].ok ? "ok" : "failed");
    }
    text_printf(&text, "%s check %s\n", name, ok ? "passed" : "failed");
    return reply_take(rq, ok ? 200 : 503, "text/plain; charset=utf-8", text.data, text.len);
}

static enum request_result ok(struct request *rq)
{
    static const char body[] = "{\"status\":\"ok\"}\n";

    return reply_static(rq, 200, "application/json", body, sizeof body - 1);
}

enum request_result api_livez(struct request *rq)
{
    static const struct check checks[] = {{"event-loop", true}};

    if (request_query(rq, "verbose"))
        return list(rq, "livez", checks, 1);
    return ok(rq);
}

/* Fills the checks that readiness consists of. */
static bool readiness(const struct request *rq, struct check checks[2])
{
    enum app_phase phase = atomic_load(&rq->app->phase);

    checks[0] = (struct check){"models", phase != APP_LOADING};
    checks[1] = (struct check){"not-draining", phase <= APP_READY};
    return phase == APP_READY;
}

enum request_result api_readyz(struct request *rq)
{
    struct check checks[2];
    bool ready = readiness(rq, checks);

    if (request_query(rq, "verbose"))
        return list(rq, "readyz", checks, 2);
    if (ready)
        return ok(rq);
    return checks[0].ok ? reply_busy(rq, "draining", "the server is shutting down")
                        : reply_busy(rq, "loading", "models are being loaded");
}

enum request_result api_ping(struct request *rq)
{
    static const char healthy[] = "{\"status\":\"Healthy\"}\n";
    static const char unhealthy[] = "{\"status\":\"Unhealthy\"}\n";
    struct check checks[2];
    bool ready = readiness(rq, checks);

    if (request_query(rq, "verbose"))
        return list(rq, "ping", checks, 2);
    if (ready)
        return reply_static(rq, 200, "application/json", healthy, sizeof healthy - 1);
    return reply_static(rq, 503, "application/json", unhealthy, sizeof unhealthy - 1);
}
