/*
 * The thread pool.
 *
 * One lock guards the job queue, the list of open loops and who is parked; it is held for a few
 * instructions only. What is hot stays outside it: the parts of a loop are claimed from an atomic
 * counter, the caller learns from another that its helpers have left, and idle workers watch
 * `epoch`, which changes whenever there is something new to look at.
 *
 * A loop lives on its caller's stack. A worker may touch it only between joining, which happens
 * under the lock while the loop is listed, and its decrement of `helpers`.
 */
#include "engine/runtime/tpool.h"

#include "engine/runtime/cpu.h"
#include "engine/runtime/mem.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

/* Waking a parked thread takes 20 us and more: spinning much longer than that costs more than it
 * saves, unless work is sure to come. */
#define SPIN_NS 15000u
/* The same while loops follow each other: longer than the steps of a network that are not shared
 * out, so that a worker who had a part in the last loop is there for the next. */
#define LOOPS_SPIN_NS 1000000u
/* A caller's for helpers to end the parts that they are busy with. */
#define WAIT_SPIN_NS 1000000u
/* Spinning threads yield the CPU after so much, in case that whom they wait for needs it. A yield
 * takes as long as it takes to begin a loop, so not before. */
#define YIELD_NS         5000u
#define WORKER_STACK     (1u << 20)
#define CACHE_LINE_BYTES 64
/* Looks between two at the clock. */
#define SPINS 16
/* Of a loop at most; further threads share them. */
#define LOOP_RANGES 16

#define CALLER_PARKED                                                          \
    (1u << 31) /* in loop.helpers: the caller sleeps until the last one leaves \
                */

/* Neighbouring parts, which one thread works through before it helps others with theirs: so a
 * thread meets again, loop after loop, what is in its own caches. */
struct range {
    _Alignas(CACHE_LINE_BYTES) atomic_size_t next; /* first part that nobody has claimed */
    size_t end;
};

struct loop {
    tpool_part_fn fn;
    void *ctx;
    size_t parts;
    unsigned range_count;
    struct loop *before, *after; /* in the list of open loops; pool.lock */
    unsigned joined;             /* slots given out besides the caller's; pool.lock */
    _Alignas(CACHE_LINE_BYTES) atomic_uint helpers;
    struct range ranges[LOOP_RANGES];
};

struct tpool {
    pthread_mutex_t lock;
    pthread_cond_t work; /* parked workers */
    pthread_cond_t done; /* parked callers of loops */
    struct jobs {
        struct cvd_job *first, *last;
    } jobs, next_jobs; /* the latter go before, but not twice in a row */
    bool was_next;     /* the job taken last was one of next_jobs */
    struct loop *loops, *loops_last;
    unsigned parked; /* workers that sleep and have not been called */
    unsigned called; /* wake-ups not yet answered */
    bool stop;
    unsigned threads;
    _Alignas(CACHE_LINE_BYTES) atomic_uint epoch; /* written under the lock */
    _Alignas(CACHE_LINE_BYTES) atomic_uint busy;  /* workers in a job or a loop */
    atomic_size_t queued;                         /* jobs; written under the lock */
    atomic_uint loop_runs;                        /* tpool_begin_loops() without their end */
    atomic_uint others;                           /* of these: not on workers */
    pthread_t workers[];
};

/* Whether this thread is inside a part of some loop: loops within loops run alone. It belongs to
 * the thread, not to a pool, so that no lookup is needed. */
static _Thread_local bool inside_part;
static _Thread_local bool is_worker; /* of some pool */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- loops ---- */

/* Cuts the parts into a range for each thread. */
static void loop_cut(struct loop *loop, unsigned threads)
{
    size_t count = threads < LOOP_RANGES ? threads : LOOP_RANGES;
    count = count < loop->parts ? count : loop->parts;
    const size_t size = loop->parts / count, larger = loop->parts % count;
    size_t next = 0;
    for (size_t i = 0; i < count; i++) {
        atomic_init(&loop->ranges[i].next, next);
        next += size + (i < larger);
        loop->ranges[i].end = next;
    }
    loop->range_count = (unsigned)count;
}

static void loop_work(struct loop *loop, unsigned slot)
{
    inside_part = true;
    for (unsigned i = 0; i < loop->range_count; i++) {
        struct range *range = &loop->ranges[(slot + i) % loop->range_count];
        for (;;) {
            size_t part = atomic_fetch_add_explicit(&range->next, 1, memory_order_relaxed);
            if (part >= range->end)
                break;
            loop->fn(loop->ctx, part, slot);
        }
    }
    inside_part = false;
}

static bool loop_has_work(struct loop *loop)
{
    for (unsigned i = 0; i < loop->range_count; i++) {
        if (atomic_load_explicit(&loop->ranges[i].next, memory_order_relaxed) < loop->ranges[i].end)
            return true;
    }
    return false;
}

/* The oldest loop that still has work to give away and a slot left; pool.lock is held. */
static struct loop *loop_to_join(const struct tpool *pool)
{
    for (struct loop *loop = pool->loops; loop != NULL; loop = loop->after) {
        if (loop->joined + 1 < pool->threads && loop_has_work(loop))
            return loop;
    }
    return NULL;
}

/* After this the loop may be gone. */
static void loop_leave(struct tpool *pool, struct loop *loop)
{
    if (atomic_fetch_sub_explicit(&loop->helpers, 1, memory_order_acq_rel) == (CALLER_PARKED | 1)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->done);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* Returns when every helper has left; nobody can join any more. */
static void loop_wait(struct tpool *pool, struct loop *loop)
{
    if (atomic_load_explicit(&loop->helpers, memory_order_acquire) == 0)
        return;
    const uint64_t begin = now_ns();
    uint64_t time = begin;
    do {
        for (int i = 0; i < SPINS; i++) {
            if (atomic_load_explicit(&loop->helpers, memory_order_acquire) == 0)
                return;
            cpu_pause();
        }
        if (time - begin > YIELD_NS)
            sched_yield();
        time = now_ns();
    } while (time - begin < WAIT_SPIN_NS);

    pthread_mutex_lock(&pool->lock);
    atomic_fetch_or_explicit(&loop->helpers, CALLER_PARKED, memory_order_acq_rel);
    while (atomic_load_explicit(&loop->helpers, memory_order_acquire) != CALLER_PARKED)
        pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

/* ---- workers ---- */

/* There is something new for `wanted` workers to do: calls as many parked ones as those that are
 * awake and idle cannot serve. pool.lock is held: were a worker called after it was released, a
 * job's end could already have led to the pool's destruction. */
static void announce(struct tpool *pool, size_t wanted)
{
    atomic_fetch_add_explicit(&pool->epoch, 1, memory_order_relaxed);
    unsigned busy = atomic_load_explicit(&pool->busy, memory_order_relaxed);
    size_t awake = pool->threads - busy - pool->parked;
    if (wanted <= awake || pool->parked == 0)
        return;
    size_t calls = wanted - awake < pool->parked ? wanted - awake : pool->parked;
    pool->parked -= (unsigned)calls;
    pool->called += (unsigned)calls;
    for (size_t i = 0; i < calls; i++)
        pthread_cond_signal(&pool->work);
}

/* Looks for news until a worker that has had nothing to do since `begin` has been awake for so
 * long; with `looping` only while loops are to come. */
static bool spin(const struct tpool *pool, unsigned seen, uint64_t begin, uint64_t limit_ns,
                 bool looping)
{
    uint64_t idle_ns = 0;
    do {
        for (int i = 0; i < SPINS; i++) {
            if (atomic_load_explicit(&pool->epoch, memory_order_relaxed) != seen)
                return true;
            cpu_pause();
        }
        if (idle_ns > YIELD_NS)
            sched_yield();
        idle_ns = now_ns() - begin;
    } while (idle_ns < limit_ns &&
             (!looping || atomic_load_explicit(&pool->loop_runs, memory_order_relaxed) > 0));
    return false;
}

/* Whether those who are awake are as many as the pool has workers at most, with callers from
 * outside: more would be in each other's way. pool.lock is held. */
static bool may_stay_awake(const struct tpool *pool)
{
    return pool->parked >= atomic_load_explicit(&pool->others, memory_order_relaxed);
}

/* Waits for news, for a while since `begin` awake, then asleep. pool.lock is held on entry and on
 * return. Returns whether the worker has slept. */
static bool await_work(struct tpool *pool, uint64_t begin)
{
    unsigned seen = atomic_load_explicit(&pool->epoch, memory_order_relaxed);
    pthread_mutex_unlock(&pool->lock);
    bool news = spin(pool, seen, begin, SPIN_NS, false);
    pthread_mutex_lock(&pool->lock);
    if (!news && may_stay_awake(pool)) {
        pthread_mutex_unlock(&pool->lock);
        news = spin(pool, seen, begin, LOOPS_SPIN_NS, true);
        pthread_mutex_lock(&pool->lock);
    }
    if (news || atomic_load_explicit(&pool->epoch, memory_order_relaxed) != seen)
        return false;
    pool->parked++;
    do
        pthread_cond_wait(&pool->work, &pool->lock);
    while (pool->called == 0);
    pool->called--;
    return true;
}

static void jobs_add(struct jobs *jobs, struct cvd_job *job)
{
    job->next = NULL;
    if (jobs->first == NULL)
        jobs->first = job;
    else
        jobs->last->next = job;
    jobs->last = job;
}

/* The job whose turn it is, or NULL; pool.lock is held. */
static struct cvd_job *take_job(struct tpool *pool)
{
    bool is_next = pool->next_jobs.first != NULL && (!pool->was_next || pool->jobs.first == NULL);
    struct jobs *jobs = is_next ? &pool->next_jobs : &pool->jobs;
    struct cvd_job *job = jobs->first;
    if (job == NULL)
        return NULL;
    jobs->first = job->next;
    pool->was_next = is_next;
    atomic_fetch_sub_explicit(&pool->queued, 1, memory_order_relaxed);
    return job;
}

/* Runs the oldest job, or helps a loop. pool.lock is held on entry and on return. Returns false
 * when there is nothing to do. */
static bool do_work(struct tpool *pool)
{
    struct cvd_job *job = take_job(pool);
    struct loop *loop = job == NULL ? loop_to_join(pool) : NULL;
    unsigned slot = 0;
    if (loop != NULL) {
        slot = ++loop->joined;
        atomic_fetch_add_explicit(&loop->helpers, 1, memory_order_relaxed);
    } else if (job == NULL) {
        return false;
    }
    atomic_fetch_add_explicit(&pool->busy, 1, memory_order_relaxed);
    pthread_mutex_unlock(&pool->lock);

    if (job != NULL)
        job->run(job);
    else
        loop_work(loop, slot);
    /* Before leaving: the caller's next loop must find this worker idle. */
    atomic_fetch_sub_explicit(&pool->busy, 1, memory_order_relaxed);
    if (loop != NULL)
        loop_leave(pool, loop);

    pthread_mutex_lock(&pool->lock);
    return true;
}

static void *worker_main(void *arg)
{
    struct tpool *pool = arg;
    is_worker = true;
    cpu_denormals_flush();
    uint64_t idle_since = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        /* News that others were faster to take do not prolong the spinning. */
        if (do_work(pool))
            idle_since = 0;
        else if (pool->stop)
            break;
        else {
            if (idle_since == 0)
                idle_since = now_ns();
            if (await_work(pool, idle_since))
                idle_since = 0;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* ---- the pool ---- */

/* Ends the first `started` workers once the queue is empty, and frees the pool. */
static void stop_workers(struct tpool *pool, unsigned started)
{
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    announce(pool, pool->threads);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < started; i++)
        pthread_join(pool->workers[i], NULL);
    assert(pool->jobs.first == NULL && pool->next_jobs.first == NULL && pool->loops == NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    mem_free(pool);
}

/* Starts as many workers as it can and returns 0, or the error that stopped it. */
static int start_workers(struct tpool *pool, unsigned *started)
{
    pthread_attr_t attr;
    int error = pthread_attr_init(&attr);
    if (error != 0)
        return error;
    pthread_attr_setstacksize(&attr, WORKER_STACK);
    /* A new thread inherits the mask: no signal meant for the program ends up in a worker. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (*started < pool->threads && error == 0) {
        error = pthread_create(&pool->workers[*started], &attr, worker_main, pool);
        if (error == 0)
            pthread_setname_np(pool->workers[(*started)++], "convd-worker");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return error;
}

enum cvd_status tpool_create(unsigned threads, struct tpool **out, struct cvd_error *err)
{
    assert(threads >= 1 && threads <= CVD_MAX_THREADS);
    size_t bytes = sizeof(struct tpool) + threads * sizeof(pthread_t);
    struct tpool *pool = mem_alloc(bytes);
    if (pool == NULL)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for a pool of %u threads",
                             threads);
    memset(pool, 0, bytes);
    pool->threads = threads;
    atomic_init(&pool->epoch, 0);
    atomic_init(&pool->busy, 0);
    atomic_init(&pool->queued, 0);
    atomic_init(&pool->loop_runs, 0);
    atomic_init(&pool->others, 0);
    /* Adaptive: the lock is held so briefly that sleeping for it is never worth while. */
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
#endif
    pthread_mutex_init(&pool->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);

    unsigned started = 0;
    int error = start_workers(pool, &started);
    if (error != 0) {
        stop_workers(pool, started);
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY,
                             "cannot start worker thread %u of %u: %s", started + 1, threads,
                             strerror(error));
    }
    *out = pool;
    return CVD_STATUS_OK;
}

void tpool_destroy(struct tpool *pool)
{
    if (pool != NULL)
        stop_workers(pool, pool->threads);
}

unsigned tpool_threads(const struct tpool *pool)
{
    return pool->threads;
}

unsigned tpool_idle(const struct tpool *pool)
{
    size_t queued = atomic_load_explicit(&pool->queued, memory_order_relaxed);
    unsigned idle = pool->threads - atomic_load_explicit(&pool->busy, memory_order_relaxed);
    return queued < idle ? idle - (unsigned)queued : 0;
}

static void submit(struct tpool *pool, struct jobs *jobs, struct cvd_job *job)
{
    pthread_mutex_lock(&pool->lock);
    jobs_add(jobs, job);
    announce(pool, atomic_fetch_add_explicit(&pool->queued, 1, memory_order_relaxed) + 1);
    pthread_mutex_unlock(&pool->lock);
}

void tpool_submit(struct tpool *pool, struct cvd_job *job)
{
    submit(pool, &pool->jobs, job);
}

void tpool_submit_next(struct tpool *pool, struct cvd_job *job)
{
    submit(pool, &pool->next_jobs, job);
}

static void loop_open(struct tpool *pool, struct loop *loop)
{
    pthread_mutex_lock(&pool->lock);
    loop->before = pool->loops_last;
    if (pool->loops_last == NULL)
        pool->loops = loop;
    else
        pool->loops_last->after = loop;
    pool->loops_last = loop;
    size_t helpers = loop->parts < pool->threads ? loop->parts - 1 : pool->threads - 1;
    announce(pool, atomic_load_explicit(&pool->queued, memory_order_relaxed) + helpers);
    pthread_mutex_unlock(&pool->lock);
}

static void loop_close(struct tpool *pool, struct loop *loop)
{
    pthread_mutex_lock(&pool->lock);
    if (loop->before == NULL)
        pool->loops = loop->after;
    else
        loop->before->after = loop->after;
    if (loop->after == NULL)
        pool->loops_last = loop->before;
    else
        loop->after->before = loop->before;
    pthread_mutex_unlock(&pool->lock);
}

void tpool_begin_loops(struct tpool *pool)
{
    if (!is_worker)
        atomic_fetch_add_explicit(&pool->others, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool->loop_runs, 1, memory_order_relaxed);
}

void tpool_end_loops(struct tpool *pool)
{
    atomic_fetch_sub_explicit(&pool->loop_runs, 1, memory_order_relaxed);
    if (!is_worker)
        atomic_fetch_sub_explicit(&pool->others, 1, memory_order_relaxed);
}

void tpool_for(struct tpool *pool, size_t parts, tpool_part_fn fn, void *ctx)
{
    if (parts == 0)
        return;
    uint64_t mode = cpu_denormals_flush();
    if (parts == 1 || inside_part || pool == NULL || pool->threads == 1 || tpool_idle(pool) == 0) {
        bool outer = inside_part;
        inside_part = true;
        for (size_t part = 0; part < parts; part++)
            fn(ctx, part, 0);
        inside_part = outer;
    } else {
        struct loop loop;
        loop.fn = fn;
        loop.ctx = ctx;
        loop.parts = parts;
        loop.before = loop.after = NULL;
        loop.joined = 0;
        atomic_init(&loop.helpers, 0);
        loop_cut(&loop, pool->threads);
        loop_open(pool, &loop);
        loop_work(&loop, 0);
        loop_close(pool, &loop);
        loop_wait(pool, &loop);
    }
    cpu_denormals_restore(mode);
}
