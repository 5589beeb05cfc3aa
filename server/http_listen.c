/* The listening socket, and how many connections the process can afford. */
#include "server/http_conn.h"

#include "server/config.h"
#include "server/log.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG           4096
#define SPARE_DESCRIPTORS 32 /* for everything that is not a connection or an I/O thread */
#define ADMIN_TABLE       (ADMIN_CONNECTIONS + ADMIN_CONNECTIONS / 4)
#define ADMIN_DESCRIPTORS (ADMIN_TABLE + 8)

/* Accepted sockets inherit these. A peer that vanished without a word is found within a minute,
 * whether we wait for its bytes (keep-alive probes) or it for ours (user timeout). */
static void set_options(int fd)
{
    static const struct {
        int level, name, value;
    } table[] = {
        {SOL_SOCKET, SO_REUSEADDR, 1},   {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 30}, {IPPROTO_TCP, TCP_KEEPINTVL, 10},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},   {IPPROTO_TCP, TCP_USER_TIMEOUT, 30000},
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        (void)setsockopt(fd, table[i].level, table[i].name, &table[i].value, sizeof table[i].value);
}

/* A listening socket, or -1 with errno set. */
static int listen_on(const struct addrinfo *ai)
{
    int off = 0;
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);

    if (fd < 0)
        return -1;
    set_options(fd);
    if (ai->ai_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static void print_address(int fd, char *out, size_t size)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    char host[64] = "?", port[8] = "?";

    if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
        getnameinfo((struct sockaddr *)&ss, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(out, size, ss.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

enum cvd_status listen_open(struct http *h, const char *address, struct cvd_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list;
    char host[CONFIG_HOST_BYTES], port[CONFIG_PORT_BYTES];

    if (!config_address(address, host, port))
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT, "'%s' is not ADDR:PORT", address);
    int rc = getaddrinfo(*host ? host : NULL, port, &hints, &list);
    if (rc != 0)
        return cvd_error_set(err, CVD_STATUS_IO, "cannot listen on %s: %s", address,
                             rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
    /* No host: IPv6 with IPv4 inside it, where there is IPv6. A name such as localhost: IPv4
     * first, which is what people type into a client. */
    int first = *host ? AF_INET : AF_INET6, fd = -1, error = 0;
    for (int pass = 0; pass < 2 && fd < 0; pass++) {
        for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
            if ((ai->ai_family == first) != (pass == 0))
                continue;
            fd = listen_on(ai);
            if (fd < 0 && error != EADDRINUSE && error != EACCES)
                error = errno;
        }
    }
    freeaddrinfo(list);
    if (fd < 0)
        return cvd_error_set(err, CVD_STATUS_IO, "cannot listen on %s: %s", address,
                             strerror(error));
    h->listen_fd = fd;
    print_address(fd, h->address, sizeof h->address);
    return CVD_STATUS_OK;
}

enum cvd_status listen_limits(struct http *h, struct cvd_error *err)
{
    const struct config *config = h->app->config;
    unsigned wanted = config->max_connections, spare = SPARE_DESCRIPTORS + 3 * config->io_threads;
    unsigned table = wanted + wanted / 4 + 64;
    struct rlimit limit;

    if (h->role == HTTP_ADMIN) { /* what the other daemon has left for this one */
        h->max_connections = ADMIN_CONNECTIONS;
        h->table_size = ADMIN_TABLE;
        return CVD_STATUS_OK;
    }
    if (config->admin_listen)
        spare += ADMIN_DESCRIPTORS;
    h->max_connections = wanted;
    h->table_size = table;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return CVD_STATUS_OK;
    if (limit.rlim_cur < table + spare) {
        rlim_t old = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max < table + spare ? limit.rlim_max : table + spare;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            limit.rlim_cur = old;
    }
    if (limit.rlim_cur >= table + spare)
        return CVD_STATUS_OK;
    /* Running out of descriptors makes the library spin in accept(): rather fewer connections. */
    if (limit.rlim_cur < spare + 8)
        return cvd_error_set(err, CVD_STATUS_IO,
                             "only %lu file descriptors are allowed (ulimit -n); at least %u are "
                             "needed",
                             (unsigned long)limit.rlim_cur, spare + 8);
    h->table_size = (unsigned)limit.rlim_cur - spare;
    unsigned affordable = h->table_size - h->table_size / 5;
    if (affordable < wanted) {
        h->max_connections = affordable;
        log_printf(h->app->log, LOG_WARN,
                   "max-connections lowered from %u to %u: only %lu file descriptors are allowed "
                   "(ulimit -n)",
                   wanted, affordable, (unsigned long)limit.rlim_cur);
    }
    return CVD_STATUS_OK;
}
