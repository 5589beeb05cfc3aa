/* The event loop: when the next request is due, on which connection, and what came back. */
#include "tests/bench/loadgen/load.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS          256
#define FIRST_ROOM      2048
#define MAX_ANSWER      (64u << 20)
#define RECONNECT_NS    10000000u /* after a connection was refused */
#define SHOWN_WRONG     5u
#define SHOWN_BODY      200
#define LONGEST_WAIT_NS 100000000u
#define GRAIN_NS        500000u /* where more than one request is due in it: of the generator's time */
#define NEVER           UINT64_MAX

struct conn {
    int fd;
    const struct load_kind *kind; /* of the request in flight; NULL: idle */
    uint64_t intended_ns, begun_ns;
    size_t sent;
    char *in;
    size_t in_len, in_room;
    struct conn *next, *prev; /* those in flight, oldest first; or those idle, by `next` */
};

struct load {
    const struct load_plan *plan;
    struct load_tally *tally;
    int epoll;
    uint64_t start_ns, end_ns;
    uint64_t total, next;           /* requests of the schedule, and the first not yet begun */
    const struct load_kind **order; /* the mix, shuffled */
    unsigned order_len;
    struct conn *slots, *unopened; /* room for all connections; those without a socket */
    struct conn *idle;
    struct conn *oldest, *newest; /* in flight */
    unsigned open;
    uint64_t connect_after_ns;
};

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- connections ---- */

static void begin_flight(struct load *l, struct conn *c)
{
    c->next = NULL;
    c->prev = l->newest;
    if (l->newest)
        l->newest->next = c;
    else
        l->oldest = c;
    l->newest = c;
}

static void end_flight(struct load *l, struct conn *c)
{
    if (c->prev)
        c->prev->next = c->next;
    else
        l->oldest = c->next;
    if (c->next)
        c->next->prev = c->prev;
    else
        l->newest = c->prev;
    c->kind = NULL;
}

/* Closes a connection that is not on the idle list. */
static void drop(struct load *l, struct conn *c, bool reset)
{
    if (reset)
        (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1},
                         sizeof(struct linger));
    if (c->kind)
        end_flight(l, c);
    close(c->fd);
    c->fd = -1;
    c->next = l->unopened;
    l->unopened = c;
    l->open--;
}

/* An idle connection was closed by the server. */
static void drop_idle(struct load *l, struct conn *c)
{
    struct conn **place = &l->idle;

    while (*place && *place != c)
        place = &(*place)->next;
    if (*place)
        *place = c->next;
    drop(l, c, false);
}

/* No new attempt for a while: a server that is not there would be asked without end. */
static void pause_connecting(struct load *l)
{
    l->connect_after_ns = now_ns() + RECONNECT_NS;
}

static struct conn *open_conn(struct load *l)
{
    const struct addrinfo *to = l->plan->address;
    struct conn *c = l->unopened;
    int one = 1;

    if (!c || (l->connect_after_ns && now_ns() < l->connect_after_ns))
        return NULL;
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        pause_connecting(l);
        return NULL;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if ((connect(fd, to->ai_addr, to->ai_addrlen) != 0 && errno != EINPROGRESS) ||
        epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        close(fd);
        pause_connecting(l);
        return NULL;
    }
    l->unopened = c->next;
    c->fd = fd;
    c->kind = NULL;
    l->open++;
    l->tally->connections_opened++;
    if (l->open > l->tally->connections_most)
        l->tally->connections_most = l->open;
    return c;
}

/* The most recently used first: the others may be closed by the server when they are not needed. */
static struct conn *take_conn(struct load *l)
{
    struct conn *c = l->idle;

    if (!c)
        return open_conn(l);
    l->idle = c->next;
    return c;
}

/* ---- requests ---- */

static void broken(struct load *l, struct conn *c)
{
    l->tally->broken++;
    drop(l, c, false);
}

static void refused(struct load *l, struct conn *c)
{
    l->tally->refused++;
    drop(l, c, false);
    pause_connecting(l);
}

/* Sends what the socket takes. */
static void push(struct load *l, struct conn *c)
{
    const struct load_kind *kind = c->kind;
    size_t len = kind->aborts ? kind->head_len + kind->abort_after : kind->len;

    while (c->sent < len) {
        ssize_t n = send(c->fd, kind->bytes + c->sent, len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == ECONNREFUSED) {
            refused(l, c);
            return;
        }
        if (n < 0)
            return; /* full; or an error: reading meets it, after an answer that came first */
        c->sent += (size_t)n;
    }
    if (kind->aborts) {
        l->tally->aborted++;
        drop(l, c, l->tally->aborted % 2 == 0);
    }
}

static void begin_request(struct load *l, struct conn *c, uint64_t intended_ns)
{
    c->kind = l->order[l->next++ % l->order_len];
    l->tally->scheduled++;
    c->intended_ns = intended_ns;
    c->begun_ns = now_ns();
    histogram_add(&l->tally->begun, c->begun_ns - intended_ns);
    c->sent = c->in_len = 0;
    begin_flight(l, c);
    push(l, c);
}

static uint64_t intended_at(const struct load *l, uint64_t i)
{
    return l->start_ns + (uint64_t)((double)i * 1e9 / l->plan->rate);
}

/* Begins what is due; returns when the next one is, or NEVER when that depends on an event. */
static uint64_t begin_due(struct load *l)
{
    uint64_t now = now_ns();

    for (;;) {
        uint64_t due = now;
        if (l->plan->rate > 0) {
            if (l->next >= l->total)
                return NEVER;
            due = intended_at(l, l->next);
            if (due > now && due > (now = now_ns()))
                return due;
        } else if (now >= l->end_ns) {
            return NEVER;
        }
        if (now - due > l->plan->timeout_ns) {
            l->next++;
            l->tally->scheduled++;
            l->tally->unsent++;
            continue;
        }
        struct conn *c = take_conn(l);
        if (!c)
            return l->unopened ? l->connect_after_ns : NEVER;
        begin_request(l, c, due);
    }
}

/* Requests are begun in the order of their moments, so the oldest one comes first. */
static void end_late(struct load *l)
{
    uint64_t now = now_ns();

    while (l->oldest && now > l->oldest->intended_ns &&
           now - l->oldest->intended_ns > l->plan->timeout_ns) {
        l->tally->timed_out++;
        drop(l, l->oldest, true);
    }
}

/* ---- answers ---- */

struct answer {
    int status;
    size_t head_len, body_len;
    bool close;
};

/* Looks for a whole answer at the beginning of what was received: 1 yes, 0 not yet, -1 not HTTP.
 * An answer without a length is not one: convd always gives it. */
static int parse_answer(const struct conn *c, struct answer *a)
{
    char *head_end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    bool has_length = false;

    if (!head_end)
        return c->in_len < 64 * 1024 ? 0 : -1;
    *a = (struct answer){.head_len = (size_t)(head_end - c->in) + 4};
    if (a->head_len < 16 || memcmp(c->in, "HTTP/1.", 7) != 0)
        return -1;
    a->status = atoi(c->in + 9);
    if (a->status < 200 || a->status >= LOAD_MAX_STATUS)
        return -1;
    for (const char *line = c->in, *end = head_end + 2;
         (line = memchr(line, '\n', (size_t)(end - line))) != NULL;) {
        line++;
        if (strncasecmp(line, "Content-Length:", 15) == 0) {
            a->body_len = strtoul(line + 15, NULL, 10);
            has_length = true;
        } else if (strncasecmp(line, "Connection: close", 17) == 0) {
            a->close = true;
        }
    }
    if (strcmp(c->kind->method, "HEAD") == 0 || a->status == 204 || a->status == 304)
        a->body_len = 0;
    else if (!has_length || a->body_len > MAX_ANSWER)
        return -1;
    return c->in_len >= a->head_len + a->body_len;
}

static void count_second(struct load *l, uint64_t now)
{
    uint64_t second = now > l->start_ns ? (now - l->start_ns) / 1000000000u : 0;

    if (second < l->tally->per_second_room)
        l->tally->per_second[second]++;
}

static void show_wrong(const struct load_kind *kind, const struct answer *a, const char *body)
{
    int shown = a->body_len < SHOWN_BODY ? (int)a->body_len : SHOWN_BODY;

    fprintf(stderr, "loadgen: wrong answer: %s %s (%s): %d %.*s\n", kind->method, kind->path,
            kind->body_file ? kind->body_file : "no body", a->status, shown, body);
}

static void answered(struct load *l, struct conn *c, const struct answer *a)
{
    const struct load_kind *kind = c->kind;
    const char *body = c->in + a->head_len;
    uint64_t now = now_ns(), took = now > c->intended_ns ? now - c->intended_ns : 0;
    uint64_t since_begun = now - c->begun_ns;
    struct load_tally *t = l->tally;

    t->answered++;
    t->statuses[a->status]++;
    if (a->status < 300) {
        histogram_add(&t->accepted, took);
        histogram_add(&t->served, since_begun);
        count_second(l, now);
    } else if (a->status == 503) {
        histogram_add(&t->rejected, took);
        histogram_add(&t->turned_away, since_begun);
    }
    if (!load_kind_accepts(kind, a->status, body, a->body_len) && t->wrong++ < SHOWN_WRONG)
        show_wrong(kind, a, body);
    /* A connection whose request was answered before all of it was sent is of no more use. */
    if (a->close || c->sent < kind->len) {
        drop(l, c, false);
        return;
    }
    end_flight(l, c);
    c->next = l->idle;
    l->idle = c;
}

/* Reads all there is. The connection may be idle, or dropped, afterwards. */
static void pull(struct load *l, struct conn *c)
{
    for (;;) {
        if (c->in_len == c->in_room) {
            size_t room = c->in_room ? 2 * c->in_room : FIRST_ROOM;
            char *in = room > MAX_ANSWER ? NULL : realloc(c->in, room + 1);
            if (!in) {
                broken(l, c);
                return;
            }
            c->in = in;
            c->in_room = room;
        }
        ssize_t n = recv(c->fd, c->in + c->in_len, c->in_room - c->in_len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0 && errno == ECONNREFUSED) {
            refused(l, c);
            return;
        }
        if (n <= 0) {
            broken(l, c);
            return;
        }
        c->in_len += (size_t)n;
        c->in[c->in_len] = '\0'; /* numbers are read as those of a string */
        struct answer a;
        int whole = parse_answer(c, &a);
        if (whole < 0 || (whole && c->in_len > a.head_len + a.body_len)) {
            broken(l, c); /* more than one answer to one request is as bad as none */
            return;
        }
        if (whole) {
            answered(l, c, &a);
            return;
        }
    }
}

static void on_event(struct load *l, struct conn *c, uint32_t events)
{
    if (c->fd < 0)
        return; /* dropped since */
    if (!c->kind) {
        if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            drop_idle(l, c);
        return;
    }
    if ((events & EPOLLOUT) && c->sent < c->kind->len)
        push(l, c);
    if (c->kind && (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
        pull(l, c);
    /* The end of the stream may have come together with the answer. */
    if (c->fd >= 0 && !c->kind && (events & EPOLLRDHUP))
        drop_idle(l, c);
}

/* ---- the run ---- */

/* The kinds as often as their shares say, in an order that is mixed but the same every time. */
static bool shuffle(struct load *l)
{
    const struct load_plan *plan = l->plan;
    uint32_t random = 1;

    for (unsigned i = 0; i < plan->kind_count; i++)
        l->order_len += plan->kinds[i].share;
    l->order = calloc(l->order_len, sizeof *l->order);
    if (!l->order)
        return false;
    for (unsigned i = 0, at = 0; i < plan->kind_count; i++)
        for (unsigned n = 0; n < plan->kinds[i].share; n++)
            l->order[at++] = &plan->kinds[i];
    for (unsigned i = l->order_len; i > 1; i--) {
        random = random * 1664525u + 1013904223u;
        unsigned j = (unsigned)(((uint64_t)random * i) >> 32);
        const struct load_kind *swap = l->order[i - 1];
        l->order[i - 1] = l->order[j];
        l->order[j] = swap;
    }
    return true;
}

static bool prepare(struct load *l)
{
    const struct load_plan *plan = l->plan;
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    (void)prctl(PR_SET_TIMERSLACK, 1);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->slots = calloc(plan->connections, sizeof *l->slots);
    l->tally->per_second_room =
        (size_t)plan->seconds + (size_t)(plan->timeout_ns / 1000000000u) + 2;
    l->tally->per_second = calloc(l->tally->per_second_room, sizeof *l->tally->per_second);
    if (l->epoll < 0 || !l->slots || !l->tally->per_second || !shuffle(l)) {
        fprintf(stderr, "loadgen: cannot prepare the run: %s\n", strerror(errno));
        return false;
    }
    for (unsigned i = plan->connections; i-- > 0;) {
        l->slots[i].fd = -1;
        l->slots[i].next = l->unopened;
        l->unopened = &l->slots[i];
    }
    return true;
}

static bool is_over(const struct load *l)
{
    bool all_begun = l->plan->rate > 0 ? l->next >= l->total : now_ns() >= l->end_ns;

    return all_begun && !l->oldest;
}

/* A generator that wakes up for every request and every answer takes the CPU time that it is to
 * measure from a server on the same machine. At high rates it looks twice a millisecond, at both;
 * latencies count from the intended moments, so what that adds is in them. */
static void wait_for_events(struct load *l, uint64_t due_ns)
{
    struct epoll_event events[EVENTS];
    uint64_t now = now_ns(), wait = due_ns > now ? due_ns - now : 0;

    if (wait > LONGEST_WAIT_NS)
        wait = LONGEST_WAIT_NS;
    if (l->plan->rate * GRAIN_NS > 1e9) {
        (void)nanosleep(&(struct timespec){.tv_nsec = GRAIN_NS}, NULL);
        wait = 0;
        now = now_ns();
    }
    struct timespec timeout = {.tv_nsec = (long)wait};
    int n = epoll_pwait2(l->epoll, events, EVENTS, &timeout, NULL);
    uint64_t late = now_ns() - now;
    if (late > wait && late - wait > l->tally->late_ns)
        l->tally->late_ns = late - wait;
    for (int i = 0; i < n; i++)
        on_event(l, events[i].data.ptr, events[i].events);
}

bool load_run(const struct load_plan *plan, struct load_tally *tally)
{
    struct load l = {.plan = plan, .tally = tally, .epoll = -1};
    bool ready = prepare(&l);

    l.start_ns = now_ns();
    l.end_ns = l.start_ns + (uint64_t)(plan->seconds * 1e9);
    l.total = (uint64_t)(plan->rate * plan->seconds);
    while (ready && !is_over(&l)) {
        uint64_t due_ns = begin_due(&l);
        end_late(&l);
        wait_for_events(&l, due_ns);
    }
    tally->took_s = (double)(now_ns() - l.start_ns) * 1e-9;
    tally->cpu_s = (double)clock() / CLOCKS_PER_SEC;
    for (unsigned i = 0; l.slots && i < plan->connections; i++) {
        if (l.slots[i].fd >= 0)
            close(l.slots[i].fd);
        free(l.slots[i].in);
    }
    if (l.epoll >= 0)
        close(l.epoll);
    free(l.slots);
    free(l.order);
    return ready;
}
