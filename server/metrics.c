/*
 * Counting: every update is a few relaxed atomic additions, without locks and without a search.
 * The page that shows the sums is in metrics_text.c.
 *
 * Series are laid out before the first request: a dense table of route x method x code, so that a
 * request costs an index and an addition, and one block for each model.
 */
#include "server/metrics_series.h"

#include <stdlib.h>
#include <string.h>

const struct metrics_bound metrics_bounds[METRICS_DURATION_BUCKETS] = {
    {50000u, "5e-05"},    {100000u, "0.0001"},  {250000u, "0.00025"}, {500000u, "0.0005"},
    {1000000u, "0.001"},  {2500000u, "0.0025"}, {5000000u, "0.005"},  {10000000u, "0.01"},
    {25000000u, "0.025"}, {50000000u, "0.05"},  {100000000u, "0.1"},  {250000000u, "0.25"},
    {500000000u, "0.5"},  {1000000000u, "1"},   {2500000000u, "2.5"}, {5000000000u, "5"},
    {10000000000u, "10"},
};

const short metrics_codes[METRICS_CODES] = {200, 204, 304, 400, 401, 403, 404, 405,
                                            408, 411, 413, 414, 415, 417, 422, 429,
                                            431, 499, 500, 501, 503, 504, 505, 0};

/* Zeroed memory whose address suits the cache-line alignment of the series. */
static void *series_alloc(size_t count, size_t bytes)
{
    void *block;
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total) ||
        posix_memalign(&block, METRICS_LINE, total) != 0)
        return NULL;
    memset(block, 0, total);
    return block;
}

static void add(atomic_uint_least64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static void observe_ns(struct metrics_duration *d, uint64_t ns)
{
    size_t i = 0;
    while (i < METRICS_DURATION_BUCKETS && ns > metrics_bounds[i].ns)
        i++;
    add(&d->buckets[i], 1);
    add(&d->sum_ns, ns);
}

/* Rows with one label share its series: two series with the same labels would not be a page that
 * Prometheus accepts. */
static bool routes_init(struct metrics *m)
{
    m->routes = series_alloc(routes_count + 1, sizeof *m->routes);
    m->row_route = calloc(routes_count + 1, sizeof *m->row_route);
    if (!m->routes || !m->row_route)
        return false;
    for (size_t row = 0; row < routes_count; row++) {
        size_t i = 0;
        while (i < m->route_count && strcmp(m->routes[i].label, routes[row].label) != 0)
            i++;
        if (i == m->route_count)
            m->routes[m->route_count++].label = routes[row].label;
        m->routes[i].methods |= routes[row].methods;
        m->row_route[row] = (uint16_t)i;
    }
    m->row_route[routes_count] = (uint16_t)m->route_count;
    m->routes[m->route_count++].label = "other";
    return true;
}

struct metrics *metrics_create(const char *cpu_level)
{
    struct metrics *m = series_alloc(1, sizeof *m);
    if (!m)
        return NULL;
    pthread_mutex_init(&m->lock, NULL);
    m->start_time = metrics_process_start();
    m->cpu_level = strdup(cpu_level);
    if (!m->cpu_level || !routes_init(m)) {
        metrics_destroy(m);
        return NULL;
    }
    return m;
}

void metrics_destroy(struct metrics *m)
{
    if (!m)
        return;
    for (struct metrics_model *mm = m->models, *next; mm; mm = next) {
        next = mm->next;
        free(mm->version);
        free(mm);
    }
    for (struct metrics_name *mn = m->names, *next; mn; mn = next) {
        next = mn->next;
        free(mn->name);
        free(mn);
    }
    pthread_mutex_destroy(&m->lock);
    free(m->row_route);
    free(m->routes);
    free(m->cpu_level);
    free(m);
}

static struct metrics_name *name_series(struct metrics *m, const char *name)
{
    struct metrics_name *_Atomic *end = &m->names;
    for (struct metrics_name *mn; (mn = *end) != NULL; end = &mn->next)
        if (strcmp(mn->name, name) == 0)
            return mn;
    struct metrics_name *mn = series_alloc(1, sizeof *mn);
    if (!mn || !(mn->name = strdup(name))) {
        free(mn);
        return NULL;
    }
    mn->owner = m;
    *end = mn;
    return mn;
}

static struct metrics_model *model_series(struct metrics *m, struct metrics_name *of,
                                          const char *version)
{
    struct metrics_model *_Atomic *end = &m->models;
    for (struct metrics_model *mm; (mm = *end) != NULL; end = &mm->next)
        if (mm->of == of && strcmp(mm->version, version) == 0)
            return mm;
    struct metrics_model *mm = series_alloc(1, sizeof *mm);
    if (!mm || !(mm->version = strdup(version))) {
        free(mm);
        return NULL;
    }
    mm->of = of;
    *end = mm;
    return mm;
}

struct metrics_model *metrics_model(struct metrics *m, const char *name, const char *version)
{
    pthread_mutex_lock(&m->lock);
    struct metrics_name *of = name_series(m, name);
    struct metrics_model *mm = of ? model_series(m, of, version) : NULL;
    pthread_mutex_unlock(&m->lock);
    return mm;
}

void metrics_model_loaded(struct metrics_model *mm, bool loaded, double load_seconds)
{
    atomic_store_explicit(&mm->loaded, loaded, memory_order_relaxed);
    if (loaded)
        atomic_store_explicit(&mm->of->load_ns, (uint64_t)(load_seconds * 1e9),
                              memory_order_relaxed);
}

void metrics_http(struct metrics *m, const struct route *route, enum request_method method,
                  int status, uint64_t duration_ns)
{
    size_t row = route ? (size_t)(route - routes) : routes_count;
    struct metrics_route *mr = &m->routes[m->row_route[row]];
    size_t code = 0;
    while (code < METRICS_CODES - 1 && metrics_codes[code] != status)
        code++;
    add(&mr->requests[__builtin_ctz((unsigned)method)][code], 1);
    observe_ns(&mr->duration, duration_ns);
}

void metrics_inflight(struct metrics *m, int delta)
{
    atomic_fetch_add_explicit(&m->inflight, delta, memory_order_relaxed);
}

void metrics_disconnect(struct metrics *m)
{
    add(&m->disconnects, 1);
}

void metrics_rejected(struct metrics *m, enum metrics_reason reason)
{
    add(&m->rejected[reason], 1);
}

void metrics_decode(struct metrics *m, enum gate_format format, uint64_t duration_ns)
{
    observe_ns(&m->decode[format], duration_ns);
}

void metrics_inference(struct metrics_model *mm, enum metrics_outcome outcome, unsigned images)
{
    add(&mm->outcomes[outcome], 1);
    if (outcome == OUTCOME_SUCCESS)
        add(&mm->images, images);
}

void metrics_batch(struct metrics_model *mm, enum metrics_close reason, unsigned images,
                   uint64_t compute_ns)
{
    struct metrics_name *of = mm->of;
    size_t i = 0;
    while (i < METRICS_SIZE_BUCKETS && images > 1u << i)
        i++;
    add(&of->batches[reason], 1);
    add(&of->sizes.buckets[i], 1);
    add(&of->sizes.sum, images);
    observe_ns(&of->compute, compute_ns);
}

void metrics_queue_wait(struct metrics_model *mm, uint64_t wait_ns)
{
    observe_ns(&mm->of->queue_wait, wait_ns);
}

void metrics_queue_depth(struct metrics_model *mm, int delta_images)
{
    atomic_fetch_add_explicit(&mm->of->queue_depth, delta_images, memory_order_relaxed);
}

void metrics_queue_bytes(struct metrics *m, ptrdiff_t delta)
{
    atomic_fetch_add_explicit(&m->queue_bytes, delta, memory_order_relaxed);
}

struct metrics *metrics_of(struct metrics_model *mm)
{
    return mm->of->owner;
}
