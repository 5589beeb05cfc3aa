/*
 * The thread that reads the model folder again. Loading takes seconds and ends with a wait for the
 * requests of the model that was replaced, so it is nobody else's business. At most one pass is
 * under way and one more is due, however often it is asked for.
 */
#include "server/registry_list.h"

#include <signal.h>

static void reload(struct registry *r)
{
    struct cvd_error err;
    if (registry_load(r, &err) != CVD_STATUS_OK)
        log_printf(r->log, LOG_ERROR, "reload: %s", err.message);
}

static void *reloader_main(void *arg)
{
    struct registry *r = arg;
    pthread_mutex_lock(&r->lock);
    while (!atomic_load(&r->closing)) {
        if (!r->reload_wanted) {
            pthread_cond_wait(&r->wanted, &r->lock);
            continue;
        }
        r->reload_wanted = false;
        pthread_mutex_unlock(&r->lock);
        reload(r);
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

void registry_reload(struct registry *r)
{
    sigset_t all, before; /* signals are for the main thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&r->lock);
    r->reload_wanted = true;
    if (!r->has_reloader)
        r->has_reloader = pthread_create(&r->reloader, NULL, reloader_main, r) == 0;
    bool running = r->has_reloader;
    pthread_cond_signal(&r->wanted);
    pthread_mutex_unlock(&r->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!running)
        log_printf(r->log, LOG_ERROR, "reload: cannot start a thread");
}

void registry_stop_reloading(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    atomic_store(&r->closing, true);
    pthread_cond_signal(&r->wanted);
    bool running = r->has_reloader;
    pthread_mutex_unlock(&r->lock);
    if (running)
        pthread_join(r->reloader, NULL);
}
