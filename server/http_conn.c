/* The table of connections: one slot each, never freed, so that a late look at one is harmless. */
#include "server/http_conn.h"

#include "server/clock.h"

#include <string.h>
#include <sys/epoll.h>

static uint64_t next_word(uint64_t old, enum conn_phase phase)
{
    const uint64_t steps = (1u << CONN_STEP_BITS) - 1;
    uint64_t step = ((old >> CONN_PHASE_BITS) + 1) & steps, ms = clock_coarse_ns() / 1000000u;

    return (ms << CONN_STEP_BITS | step) << CONN_PHASE_BITS | phase;
}

static struct in6_addr plain_address(const struct sockaddr *address)
{
    struct in6_addr out = IN6ADDR_ANY_INIT;

    if (address && address->sa_family == AF_INET6) {
        out = ((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
    } else if (address && address->sa_family == AF_INET) {
        out.s6_addr[10] = out.s6_addr[11] = 0xFF;
        memcpy(out.s6_addr + 12, &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
    }
    return out;
}

unsigned conn_count_from(struct http *h, const struct sockaddr *address)
{
    const struct in6_addr wanted = plain_address(address);
    unsigned count = 0;

    pthread_mutex_lock(&h->lock);
    for (unsigned i = 0; i < h->used; i++)
        count += h->conns[i].live && memcmp(&h->conns[i].address, &wanted, sizeof wanted) == 0;
    pthread_mutex_unlock(&h->lock);
    return count;
}

struct conn *conn_opened(struct http_loop *l, int fd, const struct sockaddr *address)
{
    struct http *h = l->http;
    unsigned live = atomic_fetch_add(&h->live, 1) + 1;

    pthread_mutex_lock(&h->lock);
    struct conn *c = h->free_conns;
    if (c) {
        h->free_conns = c->next_free;
    } else if (h->used < h->table_size) {
        c = &h->conns[h->used];
        c->http = h;
        c->index = h->used++;
    } else {
        atomic_fetch_sub(&h->live, 1);
        pthread_mutex_unlock(&h->lock);
        return NULL;
    }
    c->generation++;
    c->loop = l;
    c->fd = fd;
    c->address = plain_address(address);
    c->monitored = c->orphan = false;
    c->client[0] = '\0';
    c->surplus = live > h->max_connections;
    atomic_store(&c->peer_gone, false);
    atomic_store(&c->gone, false);
    c->idle_word = next_word(atomic_load(&c->phase_word), CONN_IDLE);
    c->idle_bytes = 0;
    c->header_ms = 0;
    atomic_store(&c->phase_word, c->idle_word);
    c->live = true;
    pthread_mutex_unlock(&h->lock);
    return c;
}

static void release(struct conn *c)
{
    struct http *h = c->http;

    c->next_free = h->free_conns;
    h->free_conns = c;
    atomic_fetch_sub(&h->live, 1);
}

void conn_closed(struct conn *c)
{
    struct http *h = c->http;

    loop_clear_now(c);
    pthread_mutex_lock(&h->lock);
    c->live = false;
    if (!c->orphan)
        release(c);
    pthread_mutex_unlock(&h->lock);
}

void conn_buried(struct conn *c)
{
    struct http *h = c->http;

    pthread_mutex_lock(&h->lock);
    c->orphan = false;
    if (!c->live)
        release(c);
    pthread_mutex_unlock(&h->lock);
}

bool conn_enter(struct conn *c, enum conn_phase phase)
{
    uint64_t old = atomic_load(&c->phase_word);

    do {
        if (conn_word_phase(old) == CONN_ENDED)
            return false;
    } while (!atomic_compare_exchange_weak(&c->phase_word, &old, next_word(old, phase)));
    return true;
}

/*
 * Interest in EPOLLRDHUP alone, edge-triggered: arriving data does not wake the guard, so one
 * registration serves all requests of the connection. It ends when the library closes the socket.
 */
void conn_monitor(struct conn *c)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET,
                                .data.u64 = (uint64_t)c->generation << 32 | c->index};

    if (!c->monitored)
        c->monitored = epoll_ctl(c->http->guard_epoll, EPOLL_CTL_ADD, c->fd, &event) == 0;
}

void conn_cut(struct conn *c, const char *message)
{
    if (conn_enter(c, CONN_ENDED))
        guard_last_word(c->fd, c->rq.reply.status, c->rq.reply.error_code, message);
}
