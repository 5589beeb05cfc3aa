/*
 * The pthread pool: one worker per CPU, a queue of jobs, and fork-join loops inside jobs.
 *
 * Workers take jobs first come first served. A thread that runs a loop with tpool_for() offers its
 * parts to workers that are idle at that moment and works through them itself; so a loop costs
 * nothing extra when everybody is busy, and a lone image spreads over the machine. An idle worker
 * spins for a few microseconds before it parks: waking a parked one costs more than a small layer.
 * Who is going to run one loop after another says so, and then workers that take part stay awake.
 */
#ifndef CONVD_RUNTIME_TPOOL_H
#define CONVD_RUNTIME_TPOOL_H

#include <convd/engine.h>

struct tpool;

/* Starts `threads` workers (1 … CVD_MAX_THREADS); all signals are blocked in them, denormals are
 * flushed to zero where the CPU can. Fails with OUT_OF_MEMORY when a thread cannot be started. */
enum cvd_status tpool_create(unsigned threads, struct tpool **out, struct cvd_error *err);

/* Waits until the queue is empty and ends the workers. NULL is allowed. */
void tpool_destroy(struct tpool *pool);

unsigned tpool_threads(const struct tpool *pool);
/* Workers that neither run nor are about to run a job or a part; a hint. */
unsigned tpool_idle(const struct tpool *pool);

/* See cvd_engine_submit() and cvd_engine_submit_next(). */
void tpool_submit(struct tpool *pool, struct cvd_job *job);
void tpool_submit_next(struct tpool *pool, struct cvd_job *job);

/*
 * Calls fn(ctx, part, slot) once for every part in 0 … parts - 1, in any order, on this thread and
 * on idle workers, and returns when all are done. Each thread begins with neighbouring parts of its
 * own, the caller with the first ones, and then helps the others: loops whose parts lie alike find
 * their data in the caches where earlier ones left them. `slot` is in 0 … tpool_threads(pool) - 1
 * and no two calls that run at the same time within this loop share one: use it to index scratch
 * memory. pool may be NULL: all parts then run here, in order, in slot 0. Any thread may call it,
 * also from inside a part (the inner loop then runs on the calling thread alone).
 */
typedef void (*tpool_part_fn)(void *ctx, size_t part, unsigned slot);
void tpool_for(struct tpool *pool, size_t parts, tpool_part_fn fn, void *ctx);

/* Between these two calls, on the same thread, loops are going to follow each other: workers wait
 * for the next one awake rather than sleep, for far longer than otherwise. */
void tpool_begin_loops(struct tpool *pool);
void tpool_end_loops(struct tpool *pool);

#endif
