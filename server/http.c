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
#include "server/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define LAST_REPLIES_NS 500000000u
#define LAST_QUIET_NS   20000000u

/* Clients cause most messages, by going away; those of our own troubles are rare and matter. One is
 * the only word of a request that the library refuses before it calls any handler. */
__attribute__((format(printf, 2, 0))) static void library_message(void *cls, const char *format,
                                                                  va_list args)
{
    const struct http *h = cls;
    bool trouble = strncmp(format, "Error accepting", 15) == 0 ||
                   strncmp(format, "Server reached", 14) == 0 ||
                   (strncmp(format, "Failed to", 9) == 0 && strncmp(format + 10, "send", 4) != 0 &&
                    strncmp(format + 10, "parse", 5) != 0);

    if (strncmp(format, "Error processing request", 24) == 0)
        metrics_rejected(h->app->metrics, REJECT_MALFORMED);
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
        const union MHD_ConnectionInfo *peer =
            MHD_get_connection_info(con, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
        *socket_context =
            info ? conn_opened(cls, info->connect_fd, peer ? peer->client_addr : NULL) : NULL;
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
    if (c && !loop_abandon(c)) {
        loop_no_more(c);
        http_finish(c, code);
    }
    *con_cls = NULL;
}

/* The library's own limit for each address would be one for each daemon. */
static enum MHD_Result accept_policy(void *cls, const struct sockaddr *address, socklen_t len)
{
    struct http *h = cls;
    unsigned limit = h->role == HTTP_DATA ? h->app->config->max_connections_per_ip : 0;

    (void)len;
    return limit == 0 || conn_count_from(h, address) < limit ? MHD_YES : MHD_NO;
}

static enum cvd_status daemon_start(struct http_loop *l, struct cvd_error *err)
{
    struct http *h = l->http;
    const struct config *config = h->app->config;
    intptr_t idle_s = (intptr_t)((config->idle_timeout_ns + 999999999u) / 1000000000u);
    unsigned limit = (h->table_size + h->loop_count - 1) / h->loop_count;
    /* The library closes its listening socket. */
    int listen_fd = fcntl(h->listen_fd, F_DUPFD_CLOEXEC, 0);

    if (listen_fd < 0)
        return cvd_error_set(err, CVD_STATUS_IO, "cannot listen: %s", strerror(errno));
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)library_message, h}, /* first: it logs the others */
        {MHD_OPTION_LISTEN_SOCKET, listen_fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)limit, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, idle_s, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY_BYTES, NULL},
        {MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL},
        {MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, NULL},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)http_uri_seen, h},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)connection_changed, l},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)request_completed, h},
        {MHD_OPTION_END, 0, NULL},
    };

    MHD_set_panic_func(library_panic, NULL);
    errno = 0;
    /* Connections are resumed by the thread that runs the daemon: it need not be woken for it. */
    l->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | (MHD_ALLOW_SUSPEND_RESUME & ~MHD_USE_ITC) | MHD_USE_ERROR_LOG, 0,
        accept_policy, h, http_access, h, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    if (!l->daemon) {
        int error = errno;
        close(listen_fd);
        return cvd_error_set(err, CVD_STATUS_IO, "cannot start the HTTP daemon: %s",
                             error ? strerror(error) : "see the log");
    }
    return loop_start(l, err);
}

static enum cvd_status loops_start(struct http *h, struct cvd_error *err)
{
    unsigned count = h->role == HTTP_DATA ? h->app->config->io_threads : 1;
    enum cvd_status rc = CVD_STATUS_OK;

    h->loops = calloc(count, sizeof *h->loops);
    if (!h->loops)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for %u threads", count);
    h->loop_count = count;
    for (unsigned i = 0; i < count; i++) {
        h->loops[i].http = h;
        h->loops[i].epoll = h->loops[i].wake = -1;
    }
    for (unsigned i = 0; i < count && rc == CVD_STATUS_OK; i++)
        rc = daemon_start(&h->loops[i], err);
    return rc;
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
        rc = loops_start(h, err);
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
    if (h->loops) {
        recall_requests(h);
        close_doors(h);
        guard_stop(h);
        for (unsigned i = 0; i < h->loop_count; i++)
            loop_stop(&h->loops[i]);
        free(h->loops);
    }
    guard_stop(h);
    if (h->listen_fd >= 0)
        close(h->listen_fd);
    pthread_mutex_destroy(&h->lock);
    free(h->conns);
    free(h);
}
