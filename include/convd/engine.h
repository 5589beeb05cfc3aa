/*
 * The engine: a CPU level, its kernel table and a pool of worker threads.
 *
 * Create one per process (tests create several), load models into it, run sessions on it. The pool
 * is the only one: the server's decode and batch jobs run on the same workers as the layers, so a
 * machine is never over-subscribed.
 *
 * Thread-safety: an engine is immutable after creation and may be used by any thread.
 */
#ifndef CONVD_ENGINE_H
#define CONVD_ENGINE_H

#include <convd/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cvd_engine;

/* CPU levels, lowest first. A level names a set of instructions that kernels are compiled for. */
enum cvd_cpu {
    CVD_CPU_AUTO = 0, /* the highest this machine and its operating system support */
    CVD_CPU_C,        /* portable C, the reference */
    CVD_CPU_NEON,     /* arm64 */
    CVD_CPU_AVX2,     /* x86-64: AVX2 and FMA */
    CVD_CPU_AVX512,   /* x86-64: AVX-512 F, BW, DQ, VL */
    CVD_CPU_COUNT
};

/* "auto", "c", "neon", "avx2", "avx512". */
const char *cvd_cpu_name(enum cvd_cpu cpu);

/* The level of that name in *cpu; false when there is none. */
bool cvd_cpu_parse(const char *name, enum cvd_cpu *cpu);

/* Whether this machine (CPUID and, for the vector state, the operating system) can run it. */
bool cvd_cpu_supported(enum cvd_cpu cpu);

/* CPUs this process may use: its affinity mask and its cgroup's CPU quota, at least 1. */
unsigned cvd_cpu_count(void);

struct cvd_settings {
    unsigned threads;       /* workers; 0 = cvd_cpu_count(); at most CVD_MAX_THREADS */
    enum cvd_cpu cpu;       /* can only lower the level */
    size_t max_model_bytes; /* a larger model file is refused; 0 = 2 GiB */
};
#define CVD_MAX_THREADS 256

/* Fills every field with its default. */
void cvd_settings_default(struct cvd_settings *settings);

/* Starts the workers. INVALID_ARGUMENT for a field out of range, UNSUPPORTED_HARDWARE for a level
 * this machine lacks. settings may be NULL for the defaults. */
enum cvd_status cvd_engine_create(const struct cvd_settings *settings, struct cvd_engine **out,
                                  struct cvd_error *err);

/* Ends the workers. Every job must have run and every model and session must be gone. NULL is
 * allowed. */
void cvd_engine_destroy(struct cvd_engine *engine);

unsigned cvd_engine_threads(const struct cvd_engine *engine);
enum cvd_cpu cvd_engine_cpu(const struct cvd_engine *engine);

/*
 * Jobs: work of the caller's own that runs once on some worker, first come first served. The job
 * struct belongs to the caller, must stay alive until run() is entered and may be reused or freed
 * from inside run(); submitting allocates nothing and cannot fail. A job may submit others, and
 * may run sessions: layers of a session are split over workers that are idle at that moment.
 */
struct cvd_job {
    void (*run)(struct cvd_job *job);
    struct cvd_job *next; /* the engine's */
};
void cvd_engine_submit(struct cvd_engine *engine, struct cvd_job *job);

/* For a job that ends what others have begun: it goes before the jobs of cvd_engine_submit(), but
 * of two jobs that a worker takes one is of those, when there are any. */
void cvd_engine_submit_next(struct cvd_engine *engine, struct cvd_job *job);

/* Measures, in about a quarter of a second, how many 10^9 multiplications and additions a second
 * the workers reach on registers alone, with the engine's CPU level: what no model can pass. */
double cvd_engine_peak_gflops(const struct cvd_engine *engine);

/* Workers with nothing to do just now; a hint. */
unsigned cvd_engine_idle(const struct cvd_engine *engine);

#ifdef __cplusplus
}
#endif
#endif
