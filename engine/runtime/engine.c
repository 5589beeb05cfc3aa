/* The engine: settings checked, kernels chosen, workers started. */
#include "engine/runtime/cpu.h"
#include "engine/runtime/model.h"

#define DEFAULT_MAX_MODEL_BYTES ((size_t)2 << 30)

void cvd_settings_default(struct cvd_settings *settings)
{
    *settings = (struct cvd_settings){
        .threads = 0, .cpu = CVD_CPU_AUTO, .max_model_bytes = DEFAULT_MAX_MODEL_BYTES};
}

enum cvd_status cvd_engine_create(const struct cvd_settings *settings, struct cvd_engine **out,
                                  struct cvd_error *err)
{
    struct cvd_settings s;
    cvd_settings_default(&s);
    if (settings != NULL)
        s = *settings;
    if (s.threads > CVD_MAX_THREADS)
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT, "threads is %u; at most %u are",
                             s.threads, CVD_MAX_THREADS);
    if ((unsigned)s.cpu >= CVD_CPU_COUNT)
        return cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT, "cpu is %u, which is no CPU level",
                             (unsigned)s.cpu);
    if (!cvd_cpu_supported(s.cpu))
        return cvd_error_set(err, CVD_STATUS_UNSUPPORTED_HARDWARE,
                             "this machine cannot run CPU level '%s'; the highest it can is '%s'",
                             cvd_cpu_name(s.cpu), cvd_cpu_name(cpu_best(CVD_CPU_AUTO)));
    if (s.threads == 0) {
        unsigned cpus = cvd_cpu_count();
        s.threads = cpus < CVD_MAX_THREADS ? cpus : CVD_MAX_THREADS;
    }

    struct cvd_engine *engine = mem_alloc(sizeof(*engine));
    if (engine == NULL)
        return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "no memory for an engine");
    *engine = (struct cvd_engine){
        .max_model_bytes = s.max_model_bytes != 0 ? s.max_model_bytes : DEFAULT_MAX_MODEL_BYTES};
    kernels_init(&engine->kernels, cpu_best(s.cpu));
    enum cvd_status status = tpool_create(s.threads, &engine->pool, err);
    if (status != CVD_STATUS_OK) {
        cvd_engine_destroy(engine);
        return status;
    }
    *out = engine;
    return CVD_STATUS_OK;
}

void cvd_engine_destroy(struct cvd_engine *engine)
{
    if (engine == NULL)
        return;
    tpool_destroy(engine->pool);
    mem_free(engine);
}

unsigned cvd_engine_threads(const struct cvd_engine *engine)
{
    return tpool_threads(engine->pool);
}

enum cvd_cpu cvd_engine_cpu(const struct cvd_engine *engine)
{
    return engine->kernels.level;
}

void cvd_engine_submit(struct cvd_engine *engine, struct cvd_job *job)
{
    tpool_submit(engine->pool, job);
}

void cvd_engine_submit_next(struct cvd_engine *engine, struct cvd_job *job)
{
    tpool_submit_next(engine->pool, job);
}

unsigned cvd_engine_idle(const struct cvd_engine *engine)
{
    return tpool_idle(engine->pool);
}
