/*
 * The I/O threads: each runs a daemon of the library's over connections of its own.
 *
 * Why not the library's threads: what arrives together shall be handed on together, and what is
 * finished together be sent together. One round looks at every connection that is ready; the
 * requests that were complete are then handed over one after the other, which makes a batch of
 * them; and then the thread sleeps until sockets are ready or requests are finished. Whoever
 * finishes one makes a system call for it only when the thread sleeps.
 *
 * While a deferred request has no answer, its connection is blocked: each round, the library calls
 * its handler in vain. That costs little, once; suspending and resuming costs two changes to an
 * epoll set, some twenty times as much. So most requests for small models are answered without, and
 * a connection is suspended after so many calls, or when a millisecond passes without any event.
 *
 * Where requests are refused because others wait already, the thread pauses after the round: the
 * CPU time of a wake-up for each of them would be the workers', whose backlog it is.
 *
 * A connection that is suspended is out of the library's sight. One that is blocked may be closed
 * by it, when its client resets it: then the request becomes an orphan, which keeps its entry in
 * the table until it is finished. Its handler's memory is ours; what a request keeps in the
 * library's (content_type, accept) is gone, so whoever still needs that is suspended at once.
 */
#include "server/http_conn.h"

#include "server/clock.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define THREAD_STACK_BYTES 524288 /* jansson takes 164 KB at its depth limit */
#define LONGEST_SLEEP_MS   1000   /* the library looks at idle connections */
#define BLOCKED_SLEEP_MS   1
#define MOST_LOOKS         20 /* at a blocked connection */
#define FREE_ROUNDS        20 /* without news; then with pauses of 1 ms, so many of 2 ms, … */
#define MOST_TOGETHER      64 /* requests handed on: workers begin before a long round ends */
#define LONGEST_PAUSE_NS   1000000u
#define SLICE_NS           100000u

static void suspend(struct conn *c)
{
    MHD_suspend_connection(c->con);
    c->suspended = true;
}

static void hand_over(struct http_loop *l)
{
    for (struct conn *c = l->deferred, *next; c; c = next) {
        next = c->next_deferred;
        c->rq.go(&c->rq, next ? &next->rq : NULL);
    }
    l->deferred = l->last_deferred = NULL;
    l->deferred_count = 0;
}

void loop_defer(struct conn *c, bool for_long)
{
    struct http_loop *l = c->loop;

    c->answered = c->suspended = c->orphan = false;
    c->looks = 0;
    if (for_long)
        suspend(c);
    else
        l->blocked++;
    if (l->deferred_count >= MOST_TOGETHER)
        hand_over(l);
    c->next_deferred = NULL;
    l->deferred_count++;
    if (l->last_deferred)
        l->last_deferred->next_deferred = c;
    else
        l->deferred = c;
    l->last_deferred = c;
}

void loop_more(struct conn *c)
{
    if (c->more_round != c->loop->round)
        c->loop->more++;
    c->more_round = c->loop->round;
}

void loop_no_more(struct conn *c)
{
    if (c->more_round == c->loop->round)
        c->loop->more--;
    c->more_round = 0;
}

void loop_overloaded(struct http_loop *l, uint64_t backlog_ns)
{
    uint64_t pause_ns = backlog_ns / 8;

    if (pause_ns > l->pause_ns)
        l->pause_ns = pause_ns < LONGEST_PAUSE_NS ? pause_ns : LONGEST_PAUSE_NS;
}

/* The library writes a reply that it is given here in the next round. */
bool loop_has_answer(struct conn *c)
{
    struct http_loop *l = c->loop;

    if (c->answered) {
        loop_more(c);
    } else if (l->impatient || ++c->looks > MOST_LOOKS) {
        l->blocked--;
        suspend(c);
    }
    return c->answered;
}

bool loop_abandon(struct conn *c)
{
    if (c->stage != STAGE_DEFERRED || c->answered)
        return false;
    c->loop->blocked--;
    c->orphan = true;
    atomic_store(&c->gone, true);
    return true;
}

void loop_clear_later(struct conn *c)
{
    struct http_loop *l = c->loop;

    c->to_clear = true;
    c->next_to_clear = NULL;
    if (l->last_to_clear)
        l->last_to_clear->next_to_clear = c;
    else
        l->to_clear = c;
    l->last_to_clear = c;
}

static void clear_first(struct http_loop *l)
{
    struct conn *c = l->to_clear;

    l->to_clear = c->next_to_clear;
    if (!l->to_clear)
        l->last_to_clear = NULL;
    c->to_clear = false;
    http_clear(c);
}

/* Those before it as well: log lines stay in order. */
void loop_clear_now(struct conn *c)
{
    while (c->to_clear)
        clear_first(c->loop);
}

static void clear_all(struct http_loop *l)
{
    while (l->to_clear)
        clear_first(l);
}

/* Each round begins with the answers of others: their connections may go on. */
static void take_finished(struct http_loop *l)
{
    struct conn *newest = NULL, *oldest = NULL;

    if (atomic_load_explicit(&l->finished, memory_order_relaxed))
        newest = atomic_exchange_explicit(&l->finished, NULL, memory_order_acquire);
    for (struct conn *c = newest, *next; c; c = next) {
        next = c->next_finished;
        c->next_finished = oldest;
        oldest = c;
    }
    for (struct conn *c = oldest, *next; c; c = next) {
        next = c->next_finished;
        c->answered = true;
        if (c->orphan) {
            http_finish(c, MHD_REQUEST_TERMINATED_WITH_ERROR);
            loop_clear_now(c);
            conn_buried(c);
            continue;
        }
        http_compose(c);
        if (c->suspended)
            MHD_resume_connection(c->con);
        else
            l->blocked--;
    }
}

void loop_finish(struct conn *c, const struct conn *next)
{
    struct http_loop *l = c->loop;
    uint64_t one = 1;

    c->next_finished = atomic_load_explicit(&l->finished, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&l->finished, &c->next_finished, c))
        continue;
    /* From here on the connection may be gone. The next one's end will wake its thread. */
    if (next && next->loop == l)
        return;
    if (atomic_load(&l->asleep) && atomic_exchange(&l->asleep, false))
        (void)!write(l->wake, &one, sizeof one);
}

/*
 * The library's own opinion, that a blocked connection wants to be looked at without pause, does
 * not count; and when nothing comes of it, any other opinion of the kind counts for less and less:
 * a chunk's size line that fills all of the connection's memory has the library try in vain for as
 * long as the client stays.
 */
static int sleep_ms(struct http_loop *l)
{
    MHD_UNSIGNED_LONG_LONG ms;

    if (l->more)
        return 0;
    if (l->blocked)
        return BLOCKED_SLEEP_MS;
    if (MHD_get_timeout(l->daemon, &ms) != MHD_YES)
        ms = LONGEST_SLEEP_MS;
    l->vain = ms == 0 ? l->vain + 1 : 0;
    if (ms == 0)
        ms = l->vain / FREE_ROUNDS;
    return ms < LONGEST_SLEEP_MS ? (int)ms : LONGEST_SLEEP_MS;
}

static void sleep_until_news(struct http_loop *l)
{
    struct epoll_event events[2];
    struct timespec pause = {.tv_nsec = (long)l->pause_ns};
    int timeout = sleep_ms(l), n = 1;

    l->impatient = false;
    l->pause_ns = 0;
    if (timeout == 0)
        return;
    if (pause.tv_nsec) {
        (void)nanosleep(&pause, NULL);
        return;
    }
    atomic_store(&l->asleep, true);
    if (!atomic_load(&l->finished) && !atomic_load(&l->stop))
        n = epoll_wait(l->epoll, events, 2, timeout);
    atomic_store(&l->asleep, false);
    l->impatient = n == 0;
    if (n > 0)
        l->vain = 0;
}

/*
 * To run soon matters more to this thread than to run for long, with workers on every CPU. Linux
 * 6.12 and later let a thread that asks for short time slices in at once; others ignore that, as we
 * do a refusal. The calls (sched_setattr(2)) have no names in glibc.
 */
static void ask_for_short_slices(void)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_ns, deadline_ns, period_ns;
    } attr;

    if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) != 0 || attr.policy != SCHED_OTHER)
        return;
    attr.runtime_ns = SLICE_NS;
    (void)syscall(SYS_sched_setattr, 0, &attr, 0);
}

static void *run(void *arg)
{
    struct http_loop *l = arg;

    ask_for_short_slices();
    while (!atomic_load(&l->stop)) {
        l->round++;
        l->more = 0;
        take_finished(l);
        (void)MHD_run(l->daemon);
        hand_over(l);
        clear_all(l);
        sleep_until_news(l);
    }
    take_finished(l);
    clear_all(l);
    return NULL;
}

/* ---- beginning and end ---- */

static int start_thread(struct http_loop *l)
{
    pthread_attr_t attr;
    sigset_t all, before; /* signals are for the main thread */
    int rc = pthread_attr_init(&attr);

    if (rc != 0)
        return rc;
    pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&l->thread, &attr, run, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (rc == 0)
        pthread_setname_np(l->thread, "convd-io");
    return rc;
}

enum cvd_status loop_start(struct http_loop *l, struct cvd_error *err)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    struct epoll_event sockets = {.events = EPOLLIN};
    struct epoll_event wake = {.events = EPOLLIN | EPOLLET}; /* never read */

    l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!info || l->wake < 0 || l->epoll < 0 ||
        epoll_ctl(l->epoll, EPOLL_CTL_ADD, info->epoll_fd, &sockets) != 0 ||
        epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->wake, &wake) != 0)
        return cvd_error_set(err, CVD_STATUS_IO, "cannot watch connections: %s", strerror(errno));
    int rc = start_thread(l);
    if (rc != 0)
        return cvd_error_set(err, CVD_STATUS_IO, "cannot start a thread: %s", strerror(rc));
    l->running = true;
    return CVD_STATUS_OK;
}

void loop_stop(struct http_loop *l)
{
    uint64_t one = 1;

    if (l->running) {
        atomic_store(&l->stop, true);
        (void)!write(l->wake, &one, sizeof one);
        pthread_join(l->thread, NULL);
    }
    l->running = false;
    if (l->daemon)
        MHD_stop_daemon(l->daemon);
    clear_all(l);
    if (l->wake >= 0)
        close(l->wake);
    if (l->epoll >= 0)
        close(l->epoll);
}
