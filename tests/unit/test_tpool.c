/* The thread pool under load: every part and every job exactly once, slots never shared, nobody
 * left waiting. */
#include "engine/runtime/cpu.h"
#include "engine/runtime/mem.h"
#include "engine/runtime/tpool.h"

#include <criterion/criterion.h>

#include <float.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED 0
#endif

static struct tpool *make_pool(unsigned threads)
{
    struct tpool *pool = NULL;
    struct cvd_error err = {0};
    cr_assert_eq(tpool_create(threads, &pool, &err), CVD_STATUS_OK, "%s", err.message);
    return pool;
}

static void wait_ns(long ns)
{
    struct timespec t = {.tv_nsec = ns};
    nanosleep(&t, NULL);
}

/* ---- loops ---- */

#define MAX_PARTS 1000

struct count {
    struct tpool *pool;
    unsigned threads;
    atomic_uint runs[MAX_PARTS];
    atomic_bool taken[CVD_MAX_THREADS]; /* by slot */
    atomic_uint faults;
    bool slow;
};

static void count_part(void *ctx, size_t part, unsigned slot)
{
    struct count *c = ctx;
    atomic_fetch_add(&c->runs[part], 1);
    if (slot >= c->threads || atomic_exchange(&c->taken[slot], true))
        atomic_fetch_add(&c->faults, 1);
    if (c->slow)
        wait_ns(20000);
    if (slot < c->threads)
        atomic_store(&c->taken[slot], false);
}

/* Runs one loop and checks that every part ran exactly once, in a slot of its own. Returns the
 * number of faults, since only the main thread may assert. */
static unsigned run_loop(struct tpool *pool, unsigned threads, size_t parts, bool slow)
{
    struct count *c = calloc(1, sizeof(*c));
    c->threads = threads;
    c->slow = slow;
    tpool_for(pool, parts, count_part, c);
    unsigned faults = c->faults;
    for (size_t i = 0; i < MAX_PARTS; i++)
        faults += c->runs[i] != (i < parts);
    free(c);
    return faults;
}

Test(tpool, every_part_once_at_every_size, .timeout = 600)
{
    static const size_t parts[] = {0, 1, 2, 3, 7, 8, 9, 64, MAX_PARTS};
    for (unsigned threads = 1; threads <= 8; threads++) {
        struct tpool *pool = make_pool(threads);
        cr_assert_eq(tpool_threads(pool), threads);
        for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
            cr_assert_eq(run_loop(pool, threads, parts[i], false), 0);
            cr_assert_eq(run_loop(pool, threads, parts[i] < 64 ? parts[i] : 64, true), 0);
        }
        tpool_destroy(pool);
    }
}

struct order {
    size_t next;
    unsigned faults;
};

static void in_order(void *ctx, size_t part, unsigned slot)
{
    struct order *o = ctx;
    o->faults += part != o->next || slot != 0;
    o->next++;
}

Test(tpool, without_a_pool_parts_run_here_in_order)
{
    struct order o = {0};
    tpool_for(NULL, 100, in_order, &o);
    cr_assert_eq(o.next, 100);
    cr_assert_eq(o.faults, 0);
}

/* Two parts that wait for one another: they can only end when two threads run them. */
static void meet(void *ctx, size_t part, unsigned slot)
{
    atomic_uint *met = ctx;
    (void)part;
    (void)slot;
    atomic_fetch_add(met, 1);
    while (atomic_load(met) < 2)
        wait_ns(10000);
}

Test(tpool, a_loop_is_really_shared, .timeout = 600)
{
    struct tpool *pool = make_pool(2);
    for (int i = 0; i < 50; i++) {
        atomic_uint met = 0;
        tpool_for(pool, 2, meet, &met);
        cr_assert_eq(met, 2);
        if (i % 10 == 0)
            wait_ns(2000000); /* let the workers park */
    }
    tpool_destroy(pool);
}

struct nested {
    struct tpool *pool;
    atomic_uint inner, faults;
};

static void nested_inner(void *ctx, size_t part, unsigned slot)
{
    struct order *o = ctx;
    in_order(o, part, slot);
}

static void nested_outer(void *ctx, size_t part, unsigned slot)
{
    struct nested *n = ctx;
    (void)part;
    (void)slot;
    for (int i = 0; i < 2; i++) { /* the second one must run alone as well */
        struct order o = {0};
        tpool_for(n->pool, 10, nested_inner, &o);
        atomic_fetch_add(&n->inner, (unsigned)o.next);
        atomic_fetch_add(&n->faults, o.faults);
    }
}

Test(tpool, inner_loops_run_on_their_own_thread, .timeout = 600)
{
    struct nested n = {.pool = make_pool(4)};
    tpool_for(n.pool, 50, nested_outer, &n);
    cr_assert_eq(n.inner, 1000);
    cr_assert_eq(n.faults, 0);
    tpool_destroy(n.pool);
}

struct caller {
    struct tpool *pool;
    unsigned threads;
    pthread_t thread;
    unsigned faults;
};

static void *caller_main(void *arg)
{
    struct caller *c = arg;
    for (size_t i = 0; i < 300; i++)
        c->faults += run_loop(c->pool, c->threads, i % 20, i % 50 == 0);
    return NULL;
}

Test(tpool, many_callers_at_once, .timeout = 600)
{
    for (unsigned threads = 1; threads <= 4; threads += 3) {
        struct tpool *pool = make_pool(threads);
        struct caller callers[6];
        for (int i = 0; i < 6; i++) {
            callers[i] = (struct caller){.pool = pool, .threads = threads};
            cr_assert_eq(pthread_create(&callers[i].thread, NULL, caller_main, &callers[i]), 0);
        }
        for (int i = 0; i < 6; i++) {
            pthread_join(callers[i].thread, NULL);
            cr_assert_eq(callers[i].faults, 0);
        }
        tpool_destroy(pool);
    }
}

/* ---- jobs ---- */

struct chain {
    struct cvd_job job;
    struct tpool *pool;
    atomic_uint *ran;
    unsigned left;
    bool loops;
    atomic_uint *faults;
};

/* Submits itself again from inside run(), as the contract allows. */
static void chain_run(struct cvd_job *job)
{
    struct chain *c = (struct chain *)job;
    atomic_fetch_add(c->ran, 1);
    if (c->loops)
        atomic_fetch_add(c->faults, run_loop(c->pool, tpool_threads(c->pool), 5, false));
    if (c->left-- > 0)
        tpool_submit(c->pool, &c->job);
}

Test(tpool, destroy_drains_jobs_that_submit_jobs, .timeout = 600)
{
    for (unsigned threads = 1; threads <= 4; threads++) {
        struct tpool *pool = make_pool(threads);
        static struct chain chains[100];
        atomic_uint ran = 0, faults = 0;
        for (unsigned i = 0; i < 100; i++) {
            chains[i] = (struct chain){.job.run = chain_run,
                                       .pool = pool,
                                       .ran = &ran,
                                       .left = 9,
                                       .loops = i % 4 == 0,
                                       .faults = &faults};
            tpool_submit(pool, &chains[i].job);
        }
        tpool_destroy(pool);
        cr_assert_eq(ran, 1000);
        cr_assert_eq(faults, 0);
    }
}

/* The job is freed by its own run(). */
static void free_run(struct cvd_job *job)
{
    struct chain *c = (struct chain *)job;
    atomic_fetch_add(c->ran, 1);
    free(c);
}

static void *submitter_main(void *arg)
{
    struct chain *like = arg;
    for (int i = 0; i < 500; i++) {
        struct chain *c = malloc(sizeof(*c));
        *c = *like;
        tpool_submit(like->pool, &c->job);
        if (i % 100 == 0)
            wait_ns(200000);
    }
    return NULL;
}

Test(tpool, many_submitters, .timeout = 600)
{
    struct tpool *pool = make_pool(3);
    atomic_uint ran = 0;
    struct chain like = {.job.run = free_run, .pool = pool, .ran = &ran};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, submitter_main, &like), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    tpool_destroy(pool);
    cr_assert_eq(ran, 2000);
}

struct fifo {
    struct cvd_job job;
    unsigned number;
    unsigned *next, *faults;
};

static void fifo_run(struct cvd_job *job)
{
    struct fifo *f = (struct fifo *)job;
    *f->faults += f->number != (*f->next)++;
}

Test(tpool, jobs_run_first_come_first_served)
{
    static struct fifo jobs[200];
    unsigned next = 0, faults = 0;
    struct tpool *pool = make_pool(1);
    for (unsigned i = 0; i < 200; i++) {
        jobs[i] = (struct fifo){.job.run = fifo_run, .number = i, .next = &next, .faults = &faults};
        tpool_submit(pool, &jobs[i].job);
    }
    tpool_destroy(pool);
    cr_assert_eq(next, 200);
    cr_assert_eq(faults, 0);
}

struct block {
    struct cvd_job job;
    sem_t *started, *go;
};

static void block_run(struct cvd_job *job)
{
    struct block *b = (struct block *)job;
    sem_post(b->started);
    sem_wait(b->go);
}

/* Those that go next are taken in turn with the others, each kind in its own order. */
Test(tpool, next_jobs_overtake_without_starving_the_others)
{
    static struct fifo jobs[20];
    static const unsigned turns[20] = {/* 8 others, 12 that go next */
                                       1, 3, 5, 7,  9,  11, 13, 15, 0,  2,
                                       4, 6, 8, 10, 12, 14, 16, 17, 18, 19};
    unsigned next = 0, faults = 0;
    struct tpool *pool = make_pool(1);
    sem_t started, go;
    sem_init(&started, 0, 0);
    sem_init(&go, 0, 0);
    struct block block = {.job.run = block_run, .started = &started, .go = &go};
    tpool_submit(pool, &block.job);
    sem_wait(&started);
    for (unsigned i = 0; i < 20; i++) {
        jobs[i] = (struct fifo){
            .job.run = fifo_run, .number = turns[i], .next = &next, .faults = &faults};
        if (i < 8)
            tpool_submit(pool, &jobs[i].job);
        else
            tpool_submit_next(pool, &jobs[i].job);
    }
    sem_post(&go);
    tpool_destroy(pool);
    cr_assert_eq(next, 20);
    cr_assert_eq(faults, 0, "%u jobs came out of turn", faults);
}

static void wait_idle(struct tpool *pool, unsigned idle)
{
    while (tpool_idle(pool) != idle)
        wait_ns(100000);
}

Test(tpool, idle_counts_and_a_busy_pool_costs_its_caller_nothing, .timeout = 600)
{
    struct tpool *pool = make_pool(3);
    cr_assert_eq(tpool_idle(pool), 3);
    sem_t started, go;
    sem_init(&started, 0, 0);
    sem_init(&go, 0, 0);
    struct block jobs[3];
    for (unsigned i = 0; i < 3; i++) {
        jobs[i] = (struct block){.job.run = block_run, .started = &started, .go = &go};
        tpool_submit(pool, &jobs[i].job);
        sem_wait(&started);
        cr_assert_eq(tpool_idle(pool), 2 - i);
    }
    struct order o = {0}; /* no worker is free: in order, in slot 0 */
    tpool_for(pool, 20, in_order, &o);
    cr_assert_eq(o.next, 20);
    cr_assert_eq(o.faults, 0);
    for (int i = 0; i < 3; i++)
        sem_post(&go);
    wait_idle(pool, 3);
    tpool_destroy(pool);
}

/* Every job needs all the others to have begun: a wake-up that gets lost would hang. */
struct gather {
    struct cvd_job job;
    atomic_uint *begun;
    unsigned all;
    atomic_uint *ended;
};

static void gather_run(struct cvd_job *job)
{
    struct gather *g = (struct gather *)job;
    atomic_fetch_add(g->begun, 1);
    while (atomic_load(g->begun) < g->all)
        wait_ns(20000);
    atomic_fetch_add(g->ended, 1);
}

Test(tpool, no_wake_up_is_lost, .timeout = 600)
{
    struct tpool *pool = make_pool(4);
    for (int round = 0; round < 100; round++) {
        atomic_uint begun = 0, ended = 0;
        struct gather jobs[4];
        for (int i = 0; i < 4; i++) {
            jobs[i] =
                (struct gather){.job.run = gather_run, .begun = &begun, .all = 4, .ended = &ended};
            tpool_submit(pool, &jobs[i].job);
            if (round % 3 == 1)
                wait_ns(15000); /* about when spinning workers park */
        }
        while (atomic_load(&ended) < 4)
            wait_ns(20000);
        if (round % 10 == 0)
            wait_ns(500000);
    }
    tpool_destroy(pool);
}

/* ---- workers ---- */

struct probe {
    struct cvd_job job;
    sigset_t blocked;
    float product;
    size_t stack;
};

static void probe_run(struct cvd_job *job)
{
    struct probe *p = (struct probe *)job;
    pthread_sigmask(SIG_SETMASK, NULL, &p->blocked);
    volatile float small = FLT_MIN;
    p->product = small * 0.5f;
    pthread_attr_t attr;
    pthread_getattr_np(pthread_self(), &attr);
    pthread_attr_getstacksize(&attr, &p->stack);
    pthread_attr_destroy(&attr);
}

static void multiply_part(void *ctx, size_t part, unsigned slot)
{
    float *products = ctx;
    volatile float small = FLT_MIN;
    (void)slot;
    products[part] = small * 0.5f;
}

Test(tpool, workers_block_signals_and_flush_denormals)
{
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    struct tpool *pool = make_pool(2);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    struct probe p = {.job.run = probe_run, .product = 1};
    tpool_submit(pool, &p.job);
    float products[16];
    tpool_for(pool, 16, multiply_part, products);
    volatile float small = FLT_MIN;
    float outside = small * 0.5f;
    tpool_destroy(pool);
    for (int s = 1; s < 32; s++) {
        cr_assert_eq(sigismember(&before, s), sigismember(&after, s));
        if (s != SIGKILL && s != SIGSTOP)
            cr_assert(sigismember(&p.blocked, s), "signal %d", s);
    }
    cr_assert_eq(p.stack, (size_t)1 << 20);
#if defined(__x86_64__) || defined(__aarch64__)
    cr_assert_eq(p.product, 0.0f);
    for (int i = 0; i < 16; i++) /* on the caller's thread as well */
        cr_assert_eq(products[i], 0.0f);
#endif
    cr_assert_neq(outside, 0.0f); /* whose own mode comes back */
}

/* Waits until the process has used next to no processor time for a while: workers that lose their
 * processor while they still look for work are late. */
static void expect_sleep(void)
{
    for (int left = 50; left > 0; left--) {
        struct timespec a, b;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
        wait_ns(200000000);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
        if ((b.tv_sec - a.tv_sec) * 1000000000L + (b.tv_nsec - a.tv_nsec) < 5000000L)
            return;
    }
    cr_assert_fail("the workers do not sleep");
}

Test(tpool, an_idle_pool_sleeps)
{
    struct tpool *pool = make_pool(4);
    cr_assert_eq(run_loop(pool, 4, 100, false), 0);
    expect_sleep();
    tpool_destroy(pool);
}

Test(tpool, loops_to_come_keep_nobody_awake_for_ever)
{
    struct tpool *pool = make_pool(2);
    tpool_begin_loops(pool);
    cr_assert_eq(run_loop(pool, 2, 100, false), 0);
    expect_sleep();
    tpool_end_loops(pool);
    tpool_destroy(pool);
}

Test(tpool, failure_to_start_is_reported)
{
    struct tpool *pool = NULL;
    struct cvd_error err = {0};
    mem_fail_after(1, false);
    cr_assert_eq(tpool_create(2, &pool, &err), CVD_STATUS_OUT_OF_MEMORY);
    mem_fail_after(0, false);
    cr_assert_null(pool);
    cr_assert_not_null(strstr(err.message, "2 threads"), "%s", err.message);
    tpool_destroy(NULL);
#if !SANITIZED
    /* Room for some threads of a MiB each, not for all; sanitizers need the address space. */
    struct rlimit limit = {.rlim_cur = 96u << 20, .rlim_max = RLIM_INFINITY};
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    cr_assert_eq(tpool_create(CVD_MAX_THREADS, &pool, &err), CVD_STATUS_OUT_OF_MEMORY);
    cr_assert_null(pool);
    cr_assert_not_null(strstr(err.message, "of 256"), "%s", err.message);
#endif
}
