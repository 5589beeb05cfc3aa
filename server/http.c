/*
 * The HTTP daemon's beginning and end: options, the library's callbacks for connections, its
 * messages, and stopping. What happens to a request is in http_request.c.
 *
 * Facts about libmicrohttpd 0.9.75 that shape this: MHD_quiesce_daemon() can abort the process in
 * epoll mode, so draining is a flag of ours; MHD_stop_daemon() does abort it while a connection is
 * suspended, so all are resumed first; at its connection limit it leaves new clients hanging in the
 * backlog, so the limit we announce is lower and answered with 503.
 */
#include "server/http.h"

#include "server/clock.h"
#include "server/config.h"
#include "server/http_conn.h"
#include "server/log.h"
#include "server/pool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTION_MEMORY_BYTES 32768  /* also the limit of a request header */
#define THREAD_STACK_BYTES      524288 /* jansson takes 164 KB at its depth limit */
#define LAST_REPLIES_NS         500000000u
#define LAST_QUIET_NS           20000000u

/* Clients cause most messages, by going away; those of our own troubles are rare and matter. */
__attribute__((format(printf, 2, 0))) static void library_message(void *cls, const char *format,
                                                                  va_list args)
{
    struct http *h = cls;
    bool trouble = strncmp(format, "Error accepting", 15) == 0 ||
                   strncmp(format, "Server reached", 14) == 0 ||
                   (strncmp(format, "Failed to", 9) == 0 && strncmp(format + 10, "send", 4) != 0 &&
                    strncmp(format + 10, "parse", 5) != 0);

    if (!atomic_load(&h->stopping))
        log_limitedv(h->app->log, trouble ? LOG_WARN : LOG_DEBUG, format, args);
}

/* The library is about to abort(): leave a line that does not depend on the log thread. */
static void library_panic(void *cls, const char *file, unsigned line, const char *reason)
{
    (void)cls;
    dprintf(STDERR_FILENO, "convd: libmicrohttpd panic at %s:%u: %s\n", file, line,
            reason ? reason : "");
    abort();
}

static void connection_changed(void *cls, struct MHD_Connection *con, void **socket_context,
                               enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(con, MHD_CONNECTION_INFO_CONNECTION_FD);
        *socket_context = info ? conn_opened(cls, info->connect_fd) : NULL;
    } else if (*socket_context) {
        conn_closed(*socket_context);
        *socket_context = NULL;
    }
}

static void request_completed(void *cls, struct MHD_Connection *con, void **con_cls,
                              enum MHD_RequestTerminationCode code)
{
    struct conn *c = *con_cls;

    (void)cls;
    (void)con;
    if (!c)
        return;
    /* A request that the library itself refused has had no handler call. */
    if (c->stage != STAGE_NONE)
        http_finish(c, code);
    if (c->uri != c->uri_inline)
        pool_free(c->uri);
    c->uri = NULL;
    c->stage = STAGE_NONE;
    conn_enter(c, CONN_IDLE);
    *con_cls = NULL;
}

static enum cvd_status daemon_start(struct http *h, struct cvd_error *err)
{
    const struct config *config = h->app->config;
    bool data = h->role == HTTP_DATA;
    unsigned per_ip = data ? config->max_connections_per_ip : 0;
    unsigned io_threads = data ? config->io_threads : 1;
    intptr_t idle_s = (intptr_t)((config->idle_timeout_ns + 999999999u) / 1000000000u);
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)library_message, h}, /* first: it logs the others */
        {MHD_OPTION_LISTEN_SOCKET, h->listen_fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)h->table_size, NULL},
        {MHD_OPTION_PER_IP_CONNECTION_LIMIT, (intptr_t)per_ip, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, idle_s, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY_BYTES, NULL},
        {MHD_OPTION_THREAD_STACK_SIZE, THREAD_STACK_BYTES, NULL},
        {MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL},
        {MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, NULL},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)http_uri_seen, h},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)connection_changed, h},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)request_completed, h},
        /* A pool of one thread would only be a warning. */
        {io_threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, (intptr_t)io_threads, NULL},
        {MHD_OPTION_END, 0, NULL},
    };

    MHD_set_panic_func(library_panic, NULL);
    errno = 0;
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG,
        0, NULL, NULL, http_access, h, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    if (!h->daemon)
        return cvd_error_set(err, CVD_STATUS_IO, "cannot start the HTTP daemon: %s",
                             errno ? strerror(errno) : "see the log");
    return CVD_STATUS_OK;
}

enum cvd_status http_start(struct app *app, enum http_role role, struct http **out,
                           struct cvd_error *err)
{
    struct http *h = calloc(1, sizeof *h);
    enum cvd_status rc;

    if (!h)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "out of memory");
    h->app = app;
    h->role = role;
    h->listen_fd = h->guard_epoll = h->guard_wake = -1;
    pthread_mutex_init(&h->lock, NULL);
    if (getrandom(&h->id_seed, sizeof h->id_seed, GRND_NONBLOCK) != (ssize_t)sizeof h->id_seed)
        h->id_seed = clock_ns() ^ (uint64_t)getpid() << 32;
    rc = listen_limits(h, err);
    if (rc != CVD_STATUS_OK)
        goto fail;
    h->conns = calloc(h->table_size, sizeof *h->conns);
    if (!h->conns) {
        rc = cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for %u connections",
                           h->table_size);
        goto fail;
    }
    rc = listen_open(h, role == HTTP_DATA ? app->config->listen : app->config->admin_listen, err);
    if (rc == CVD_STATUS_OK)
        rc = guard_start(h, err);
    if (rc == CVD_STATUS_OK)
        rc = daemon_start(h, err);
    if (rc != CVD_STATUS_OK)
        goto fail;
    *out = h;
    return CVD_STATUS_OK;
fail:
    http_stop(h);
    return rc;
}

const char *http_address(const struct http *h)
{
    return h->address;
}

unsigned http_inflight(const struct http *h)
{
    return atomic_load(&h->work);
}

static void sleep_1ms(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Gets every suspended connection resumed: new work is refused, waiting work is given up. */
static void recall_requests(struct http *h)
{
    atomic_store(&h->stopping, true);
    while (atomic_load(&h->busy) > 0) {
        pthread_mutex_lock(&h->lock);
        for (unsigned i = 0; i < h->used; i++)
            if (h->conns[i].live)
                atomic_store(&h->conns[i].gone, true);
        pthread_mutex_unlock(&h->lock);
        sleep_1ms();
    }
}

/*
 * From here on clients are refused at once rather than accepted and then cut off. The library is
 * not told; until it is stopped it finds an error on the socket again and again, which is not for
 * long: those who came in before get their answer.
 */
static void close_doors(struct http *h)
{
    uint64_t start_ns = clock_ns(), quiet_ns = start_ns, now_ns = start_ns;

    shutdown(h->listen_fd, SHUT_RD);
    while (now_ns - quiet_ns < LAST_QUIET_NS && now_ns - start_ns < LAST_REPLIES_NS) {
        sleep_1ms();
        now_ns = clock_ns();
        if (atomic_load(&h->open) > 0)
            quiet_ns = now_ns;
    }
}

void http_stop(struct http *h)
{
    if (!h)
        return;
    if (h->daemon) {
        recall_requests(h);
        close_doors(h);
        guard_stop(h);
        MHD_stop_daemon(h->daemon);
    }
    guard_stop(h);
    if (!h->daemon && h->listen_fd >= 0)
        close(h->listen_fd);
    pthread_mutex_destroy(&h->lock);
    free(h->conns);
    free(h);
}
