/* The guard: one thread that ends slow connections and notices clients that leave. */
#include "server/http_conn.h"

#include "server/clock.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/pool.h"

#include <errno.h>
#include <linux/tcp.h> /* the C library's struct tcp_info ends before tcpi_bytes_received */
#include <malloc.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define SWEEP_MS     1000u
#define SWEEP_LOCKED 64 /* connections looked at in one go, before others get the lock */
#define WAKE_UP      UINT64_MAX
/* TCP_CLOSE_WAIT of netinet/tcp.h, which does not go together with linux/tcp.h. */
#define STATE_CLOSE_WAIT 8
#define NUDGE_MS         20u
#define TRIM_BYTES       ((size_t)2 << 20)

void guard_last_word(int fd, int status, const char *code, const char *message)
{
    char body[256], head[512];
    int body_len = snprintf(body, sizeof body, "{\"error\":{\"code\":\"%s\",\"message\":\"%s\"}}\n",
                            code, message);
    int len = snprintf(head, sizeof head,
                       "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                       "Connection: close\r\nCache-Control: no-store\r\n"
                       "X-Content-Type-Options: nosniff\r\n%s\r\n%s",
                       status, MHD_get_reason_phrase_for((unsigned)status), body_len,
                       status == 503 ? "Retry-After: 1\r\n" : "", body);

    if (len > 0 && (size_t)len < sizeof head)
        (void)!send(fd, head, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Ends a connection, unless it has moved on since `word` was read. The table is locked. */
static void end(struct conn *c, uint64_t word, int status, const char *code, const char *message)
{
    struct http *h = c->http;

    if (!atomic_compare_exchange_strong(&c->phase_word, &word,
                                        (word >> CONN_PHASE_BITS) << CONN_PHASE_BITS | CONN_ENDED))
        return;
    if (status)
        guard_last_word(c->fd, status, code, message);
    shutdown(c->fd, SHUT_RDWR);
    metrics_rejected(h->app->metrics, c->surplus ? REJECT_CONNECTIONS : REJECT_SLOW_CLIENT);
}

static uint64_t bytes_received(int fd, bool *peer_closed)
{
    struct tcp_info info;
    socklen_t len = sizeof info;

    memset(&info, 0, sizeof info);
    *peer_closed = false;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0)
        return 0;
    *peer_closed = info.tcpi_state == STATE_CLOSE_WAIT;
    return info.tcpi_bytes_received;
}

/*
 * For how long a client has kept the server waiting. When the guard itself was held up, by a stop
 * of the process or of the whole machine, then so were the I/O threads, and what the client has
 * sent meanwhile is still unread: its time begins anew.
 */
static uint64_t waited_ms(const struct conn *c, uint64_t since_ms, uint64_t now_ms)
{
    if (since_ms < c->http->attentive_ms)
        since_ms = c->http->attentive_ms;
    return now_ms > since_ms ? now_ms - since_ms : 0;
}

/*
 * libmicrohttpd 0.9.75 overlooks an end of stream that arrives together with bytes: one edge of its
 * epoll stands for both, and it stops reading after the bytes. Shutting down the receiving side,
 * which the peer has ended anyway, loses nothing that is queued and makes another edge.
 */
static void nudge(const struct conn *c)
{
    shutdown(c->fd, SHUT_RD);
}

/*
 * An idle connection is one whose request header is not complete. The library tells nothing about
 * the bytes of a header before its end; the kernel does. A connection may be silent for the idle
 * timeout, but once a byte has come the rest has to follow soon; and from a client that has closed
 * its side nothing will.
 */
static void check_idle(struct conn *c, uint64_t word, uint64_t now_ms)
{
    bool peer_closed;
    uint64_t bytes = bytes_received(c->fd, &peer_closed);

    if (peer_closed)
        nudge(c);
    if (c->idle_word != word) {
        c->idle_word = word;
        c->idle_bytes = bytes;
        c->header_ms = 0;
    }
    if (!c->header_ms && bytes > c->idle_bytes)
        c->header_ms = now_ms;
    if (c->header_ms && waited_ms(c, c->header_ms, now_ms) >= HEADER_LIMIT_MS)
        end(c, word, 408, "request_timeout", "the request header took too long");
    else if (c->surplus && waited_ms(c, conn_word_ms(word), now_ms) >= SURPLUS_IDLE_MS)
        end(c, word, 503, "too_many_connections", "too many connections");
}

static void check(struct conn *c, uint64_t now_ms)
{
    uint64_t word = atomic_load(&c->phase_word), ms = waited_ms(c, conn_word_ms(word), now_ms);

    switch (conn_word_phase(word)) {
    case CONN_IDLE:
        check_idle(c, word, now_ms);
        break;
    case CONN_BODY:
        if (ms >= BODY_LIMIT_MS ||
            (ms >= BODY_GRACE_MS && atomic_load(&c->received) * 1000 < BODY_BYTES_PER_S * ms))
            end(c, word, 408, "request_timeout", "the request body took too long");
        break;
    case CONN_DRAIN:
        if (ms >= DRAIN_LIMIT_MS)
            end(c, word, c->rq.reply.status, c->rq.reply.error_code, "the body took too long");
        break;
    case CONN_WRITE:
        /* Part of a reply may be out already: no last word. */
        if (ms >= WRITE_LIMIT_MS)
            end(c, word, 0, NULL, NULL);
        break;
    case CONN_WORK:
    case CONN_ENDED:
        break;
    }
}

static bool is_receiving(enum conn_phase phase)
{
    return phase == CONN_BODY || phase == CONN_DRAIN;
}

static void sweep(struct http *h, uint64_t now_ms)
{
    unsigned i = 0;
    bool more = true;

    while (more) {
        pthread_mutex_lock(&h->lock);
        for (unsigned n = 0; n < SWEEP_LOCKED && i < h->used; n++, i++)
            if (h->conns[i].live)
                check(&h->conns[i], now_ms);
        more = i < h->used;
        pthread_mutex_unlock(&h->lock);
    }
}

/* When a storm is over, the system gets back what it has taken: the connections' memory, to all of
 * which the library has written once it has served a request, and the bodies. */
static void return_memory(const struct http *h, size_t *most)
{
    size_t held = atomic_load(&h->live) * (size_t)CONNECTION_MEMORY_BYTES;

    held += atomic_load(&h->body_bytes);
    if (held > *most) {
        *most = held;
    } else if (held < *most / 2 && *most - held >= TRIM_BYTES) {
        malloc_trim(0);
        *most = held;
    }
}

/* A client has closed its side. True when the body that it was sending should end now. */
static bool peer_left(struct http *h, uint64_t tag)
{
    struct conn *c = &h->conns[(uint32_t)tag];
    bool sending = false;

    pthread_mutex_lock(&h->lock);
    if (c->live && c->generation == (uint32_t)(tag >> 32)) {
        atomic_store(&c->peer_gone, true);
        atomic_store(&c->gone, true);
        sending = is_receiving(conn_word_phase(atomic_load(&c->phase_word)));
    }
    pthread_mutex_unlock(&h->lock);
    return sending;
}

/* Bodies whose clients have left. */
static void nudge_bodies(struct http *h)
{
    pthread_mutex_lock(&h->lock);
    for (unsigned i = 0; i < h->used; i++) {
        struct conn *c = &h->conns[i];
        if (c->live && atomic_load(&c->peer_gone) &&
            is_receiving(conn_word_phase(atomic_load(&c->phase_word))))
            nudge(c);
    }
    pthread_mutex_unlock(&h->lock);
}

static void *guard(void *arg)
{
    struct http *h = arg;
    struct epoll_event events[64];
    uint64_t sweep_ms = clock_ns() / 1000000u + SWEEP_MS, nudge_ms = UINT64_MAX;
    size_t most = 0; /* bytes held at one time, since some were returned last */

    for (;;) {
        uint64_t now_ms = clock_ns() / 1000000u;
        if (now_ms >= sweep_ms) {
            if (now_ms - sweep_ms >= SWEEP_MS)
                h->attentive_ms = now_ms;
            sweep(h, now_ms);
            pool_age();
            return_memory(h, &most);
            sweep_ms = now_ms + SWEEP_MS;
        }
        if (now_ms >= nudge_ms) {
            nudge_bodies(h);
            nudge_ms = UINT64_MAX;
        }
        uint64_t next_ms = nudge_ms < sweep_ms ? nudge_ms : sweep_ms;
        int n = epoll_wait(h->guard_epoll, events, 64, (int)(next_ms - now_ms));
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == WAKE_UP)
                return NULL;
            /* Not at once: the library may not have read the bytes before the end yet. */
            if (peer_left(h, events[i].data.u64) && nudge_ms == UINT64_MAX)
                nudge_ms = clock_ns() / 1000000u + NUDGE_MS;
        }
    }
}

enum cvd_status guard_start(struct http *h, struct cvd_error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = WAKE_UP};

    h->guard_epoll = epoll_create1(EPOLL_CLOEXEC);
    h->guard_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->guard_epoll < 0 || h->guard_wake < 0 ||
        epoll_ctl(h->guard_epoll, EPOLL_CTL_ADD, h->guard_wake, &event) != 0)
        return cvd_error_set(err, CVD_STATUS_IO, "cannot watch connections: %s", strerror(errno));
    int rc = pthread_create(&h->guard, NULL, guard, h);
    if (rc != 0)
        return cvd_error_set(err, CVD_STATUS_IO, "cannot start a thread: %s", strerror(rc));
    h->guard_running = true;
    return CVD_STATUS_OK;
}

void guard_stop(struct http *h)
{
    if (h->guard_running) {
        uint64_t one = 1;
        (void)!write(h->guard_wake, &one, sizeof one);
        pthread_join(h->guard, NULL);
    }
    h->guard_running = false;
    if (h->guard_wake >= 0)
        close(h->guard_wake);
    if (h->guard_epoll >= 0)
        close(h->guard_epoll);
    h->guard_wake = h->guard_epoll = -1;
}
