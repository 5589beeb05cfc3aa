/*
 * The page: Prometheus text format 0.0.4, family by family.
 *
 * A scrape reads while others write, so a page is not one instant; but the count of a histogram is
 * the sum of the buckets that were read, never a number that contradicts them.
 *
 * Series of requests stand at 0 before the first one for every route's own methods with code 200
 * (404 for unknown paths), so that rate() sees the first request; a combination with an error code
 * appears with its first use, because route x method x code is a thousand lines that stay 0 for
 * ever in most installations, and an alert on errors sums over codes.
 */
#include "server/metrics_series.h"

#include <convd/version.h>

#include <inttypes.h>
#include <stdio.h>

static uint64_t get(const atomic_uint_least64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static int64_t get_signed(const atomic_int_least64_t *gauge)
{
    return atomic_load_explicit(gauge, memory_order_relaxed);
}

void metrics_family(struct text *t, const char *name, const char *type, const char *help)
{
    text_printf(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label pair; the value is escaped as the format asks. */
static void label(struct text *t, const char *key, const char *value)
{
    text_printf(t, "%s=\"", key);
    for (const char *c = value; *c; c++) {
        if (*c == '\n')
            text_puts(t, "\\n");
        else if (*c == '\\' || *c == '"')
            text_printf(t, "\\%c", *c);
        else
            text_append(t, c, 1);
    }
    text_puts(t, "\"");
}

/* "name{key="value"} number" */
static void sample(struct text *t, const char *name, const char *key, const char *value, int64_t n)
{
    text_printf(t, "%s{", name);
    label(t, key, value);
    text_printf(t, "} %" PRId64 "\n", n);
}

static void bucket(struct text *t, const char *name, const char *key, const char *value,
                   const char *bound, uint64_t count)
{
    text_printf(t, "%s_bucket{", name);
    label(t, key, value);
    text_printf(t, ",le=\"%s\"} %" PRIu64 "\n", bound, count);
}

static void histogram_end(struct text *t, const char *name, const char *key, const char *value,
                          uint64_t count, const char *sum)
{
    bucket(t, name, key, value, "+Inf", count);
    text_printf(t, "%s_sum{", name);
    label(t, key, value);
    text_printf(t, "} %s\n%s_count{", sum, name);
    label(t, key, value);
    text_printf(t, "} %" PRIu64 "\n", count);
}

static void duration(struct text *t, const char *name, const char *key, const char *value,
                     const struct metrics_duration *d)
{
    char sum[40];
    uint64_t count = 0, ns = get(&d->sum_ns);
    for (size_t i = 0; i < METRICS_DURATION_BUCKETS; i++) {
        count += get(&d->buckets[i]);
        bucket(t, name, key, value, metrics_bounds[i].text, count);
    }
    count += get(&d->buckets[METRICS_DURATION_BUCKETS]);
    snprintf(sum, sizeof sum, "%" PRIu64 ".%09" PRIu64, ns / 1000000000u, ns % 1000000000u);
    histogram_end(t, name, key, value, count, sum);
}

static void sizes(struct text *t, const char *name, const char *key, const char *value,
                  const struct metrics_sizes *s)
{
    char number[24];
    uint64_t count = 0;
    for (size_t i = 0; i < METRICS_SIZE_BUCKETS; i++) {
        count += get(&s->buckets[i]);
        snprintf(number, sizeof number, "%u", 1u << i);
        bucket(t, name, key, value, number, count);
    }
    count += get(&s->buckets[METRICS_SIZE_BUCKETS]);
    snprintf(number, sizeof number, "%" PRIu64, get(&s->sum));
    histogram_end(t, name, key, value, count, number);
}

static void http_families(struct text *t, struct metrics *m)
{
    static const char *const methods[METRICS_METHODS] = {"GET", "HEAD",    "POST",
                                                         "PUT", "OPTIONS", "other"};
    metrics_family(t, "convd_http_requests_total", "counter", "Requests answered.");
    for (size_t r = 0; r < m->route_count; r++) {
        const struct metrics_route *mr = &m->routes[r];
        bool unknown = r == m->route_count - 1;
        for (unsigned method = 0; method < METRICS_METHODS; method++) {
            for (size_t code = 0; code < METRICS_CODES; code++) {
                bool always = unknown ? method == 0 && metrics_codes[code] == 404
                                      : mr->methods & 1u << method && metrics_codes[code] == 200;
                uint64_t n = get(&mr->requests[method][code]);
                if (n == 0 && !always)
                    continue;
                text_puts(t, "convd_http_requests_total{");
                label(t, "route", mr->label);
                text_printf(t, ",method=\"%s\",code=\"", methods[method]);
                if (metrics_codes[code])
                    text_printf(t, "%d", metrics_codes[code]);
                else
                    text_puts(t, "other");
                text_printf(t, "\"} %" PRIu64 "\n", n);
            }
        }
    }
    metrics_family(t, "convd_http_request_duration_seconds", "histogram",
                   "Time from a request's headers to its complete reply.");
    for (size_t r = 0; r < m->route_count; r++)
        duration(t, "convd_http_request_duration_seconds", "route", m->routes[r].label,
                 &m->routes[r].duration);
    metrics_family(t, "convd_inflight_requests", "gauge",
                   "Requests accepted and not yet answered.");
    text_printf(t, "convd_inflight_requests %" PRId64 "\n", get_signed(&m->inflight));

    static const char *const reasons[REJECT_COUNT] = {
        [REJECT_QUEUE_FULL] = "queue_full", [REJECT_DEADLINE] = "deadline",
        [REJECT_TOO_LARGE] = "too_large",   [REJECT_DRAINING] = "draining",
        [REJECT_NOT_READY] = "not_ready",   [REJECT_CONNECTIONS] = "connections",
        [REJECT_MEMORY] = "memory",         [REJECT_SLOW_CLIENT] = "slow_client",
        [REJECT_MALFORMED] = "malformed"};
    metrics_family(t, "convd_rejected_total", "counter", "Requests and connections turned away.");
    for (size_t i = 0; i < REJECT_COUNT; i++)
        sample(t, "convd_rejected_total", "reason", reasons[i], (int64_t)get(&m->rejected[i]));
    metrics_family(t, "convd_client_disconnects_total", "counter",
                   "Clients that left before their answer.");
    text_printf(t, "convd_client_disconnects_total %" PRIu64 "\n", get(&m->disconnects));

    /* What is not an image file is a JSON array of pixels or raw octets. */
    static const char *const formats[] = {
        [GATE_UNKNOWN] = "pixels", [GATE_JPEG] = "jpeg", [GATE_PNG] = "png", [GATE_BMP] = "bmp"};
    metrics_family(t, "convd_decode_seconds", "histogram",
                   "Time to turn a request's images into the model's input.");
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        duration(t, "convd_decode_seconds", "format", formats[i], &m->decode[i]);
}

/* "name{model="…",version="…"" without the closing brace */
static void model_labels(struct text *t, const char *name, const struct metrics_model *mm)
{
    text_printf(t, "%s{", name);
    label(t, "model", mm->of->name);
    text_puts(t, ",");
    label(t, "version", mm->version);
}

static void version_families(struct text *t, struct metrics *m)
{
    static const char *const outcomes[OUTCOME_COUNT] = {
        [OUTCOME_SUCCESS] = "success",     [OUTCOME_BAD_INPUT] = "bad_input",
        [OUTCOME_REJECTED] = "rejected",   [OUTCOME_EXPIRED] = "expired",
        [OUTCOME_CANCELLED] = "cancelled", [OUTCOME_ERROR] = "error"};
    metrics_family(t, "convd_inference_requests_total", "counter",
                   "Inference requests by how they ended.");
    for (const struct metrics_model *mm = m->models; mm; mm = mm->next)
        for (size_t i = 0; i < OUTCOME_COUNT; i++) {
            model_labels(t, "convd_inference_requests_total", mm);
            text_printf(t, ",outcome=\"%s\"} %" PRIu64 "\n", outcomes[i], get(&mm->outcomes[i]));
        }
    metrics_family(t, "convd_inference_images_total", "counter", "Images classified.");
    for (const struct metrics_model *mm = m->models; mm; mm = mm->next) {
        model_labels(t, "convd_inference_images_total", mm);
        text_printf(t, "} %" PRIu64 "\n", get(&mm->images));
    }
    metrics_family(t, "convd_model_loaded", "gauge", "1 while the version is served, else 0.");
    for (const struct metrics_model *mm = m->models; mm; mm = mm->next) {
        model_labels(t, "convd_model_loaded", mm);
        text_printf(t, "} %d\n", atomic_load_explicit(&mm->loaded, memory_order_relaxed));
    }
}

static void model_families(struct text *t, struct metrics *m)
{
    static const char *const closes[CLOSE_COUNT] = {
        [CLOSE_FULL] = "full", [CLOSE_DELAY] = "delay", [CLOSE_IDLE] = "idle"};
    metrics_family(t, "convd_model_load_seconds", "gauge",
                   "Time the latest load of the model took, warm-up included.");
    for (const struct metrics_name *mn = m->names; mn; mn = mn->next) {
        text_puts(t, "convd_model_load_seconds{");
        label(t, "model", mn->name);
        text_printf(t, "} %.6f\n", (double)get(&mn->load_ns) * 1e-9);
    }
    metrics_family(t, "convd_batches_total", "counter",
                   "Batches run, by why no more images were awaited.");
    for (const struct metrics_name *mn = m->names; mn; mn = mn->next)
        for (size_t i = 0; i < CLOSE_COUNT; i++) {
            text_puts(t, "convd_batches_total{");
            label(t, "model", mn->name);
            text_printf(t, ",reason=\"%s\"} %" PRIu64 "\n", closes[i], get(&mn->batches[i]));
        }
    metrics_family(t, "convd_batch_size", "histogram", "Images of a batch.");
    for (const struct metrics_name *mn = m->names; mn; mn = mn->next)
        sizes(t, "convd_batch_size", "model", mn->name, &mn->sizes);
    metrics_family(t, "convd_queue_wait_seconds", "histogram",
                   "Time a request waited for its batch to be formed.");
    for (const struct metrics_name *mn = m->names; mn; mn = mn->next)
        duration(t, "convd_queue_wait_seconds", "model", mn->name, &mn->queue_wait);
    metrics_family(t, "convd_compute_seconds", "histogram", "Time to compute a batch.");
    for (const struct metrics_name *mn = m->names; mn; mn = mn->next)
        duration(t, "convd_compute_seconds", "model", mn->name, &mn->compute);
    metrics_family(t, "convd_queue_depth", "gauge", "Images let in and not yet computed.");
    for (const struct metrics_name *mn = m->names; mn; mn = mn->next)
        sample(t, "convd_queue_depth", "model", mn->name, get_signed(&mn->queue_depth));
    metrics_family(t, "convd_queue_bytes", "gauge",
                   "Bytes of the images let in and not yet computed, over all models.");
    text_printf(t, "convd_queue_bytes %" PRId64 "\n", get_signed(&m->queue_bytes));
}

char *metrics_text(struct metrics *m, size_t *len)
{
    struct text t = {0};
    metrics_family(&t, "convd_build_info", "gauge", "Always 1; the labels say what runs.");
    text_puts(&t, "convd_build_info{version=\"" CVD_VERSION "\",");
    label(&t, "cpu", m->cpu_level);
    text_puts(&t, "} 1\n");
    http_families(&t, m);
    version_families(&t, m);
    model_families(&t, m);
    metrics_process(&t, m->start_time);
    if (t.failed) {
        text_free(&t);
        return NULL;
    }
    *len = t.len;
    return t.data;
}
