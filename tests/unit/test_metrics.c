/* The metrics page: every family, sums that add up, and Prometheus' own checker. */
#include "server/metrics.h"
#include "server/pool.h"
#include "server/routes.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct metrics *m;

static void setup(void)
{
    m = metrics_create("avx2");
    cr_assert_not_null(m);
}

static void teardown(void)
{
    metrics_destroy(m);
}

TestSuite(metrics, .init = setup, .fini = teardown);

static char *page(void)
{
    size_t len;
    char *text = metrics_text(m, &len);
    cr_assert_not_null(text);
    cr_assert_eq(strlen(text), len);
    cr_assert_eq(text[len - 1], '\n');
    return text;
}

/* The line that begins with `series` and a space; its value as text. */
static const char *find(const char *text, const char *series)
{
    size_t len = strlen(series);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, series, len) == 0 && line[len] == ' ')
            return line + len + 1;
    }
    return NULL;
}

static void expect(const char *text, const char *series, double value)
{
    const char *found = find(text, series);
    cr_assert_not_null(found, "no %s", series);
    cr_expect_float_eq(strtod(found, NULL), value, 1e-9, "%s is %.20s, not %g", series, found,
                       value);
}

static const struct route *route(const char *pattern)
{
    for (size_t i = 0; i < routes_count; i++)
        if (strcmp(routes[i].pattern, pattern) == 0)
            return &routes[i];
    cr_assert_fail("no route %s", pattern);
    return NULL;
}

Test(metrics, every_family_has_help_and_type_and_stands_at_zero)
{
    static const char *const families[][2] = {{"convd_http_requests_total", "counter"},
                                              {"convd_http_request_duration_seconds", "histogram"},
                                              {"convd_inference_requests_total", "counter"},
                                              {"convd_inference_images_total", "counter"},
                                              {"convd_batches_total", "counter"},
                                              {"convd_batch_size", "histogram"},
                                              {"convd_queue_wait_seconds", "histogram"},
                                              {"convd_decode_seconds", "histogram"},
                                              {"convd_compute_seconds", "histogram"},
                                              {"convd_queue_depth", "gauge"},
                                              {"convd_queue_bytes", "gauge"},
                                              {"convd_inflight_requests", "gauge"},
                                              {"convd_rejected_total", "counter"},
                                              {"convd_client_disconnects_total", "counter"},
                                              {"convd_model_loaded", "gauge"},
                                              {"convd_model_load_seconds", "gauge"},
                                              {"convd_build_info", "gauge"},
                                              {"process_cpu_seconds_total", "counter"},
                                              {"process_resident_memory_bytes", "gauge"},
                                              {"process_virtual_memory_bytes", "gauge"},
                                              {"process_open_fds", "gauge"},
                                              {"process_max_fds", "gauge"},
                                              {"process_start_time_seconds", "gauge"},
                                              {"process_threads", "gauge"}};
    metrics_model(m, "lenet5", "1");
    char *text = page(), line[128];
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        snprintf(line, sizeof line, "# TYPE %s %s\n", families[i][0], families[i][1]);
        const char *type = strstr(text, line);
        cr_expect_not_null(type, "no %s", line);
        cr_expect_null(type ? strstr(type + 1, line) : NULL, "twice: %s", line);
        snprintf(line, sizeof line, "# HELP %s ", families[i][0]);
        cr_expect_not_null(strstr(text, line), "no %s", line);
    }
    expect(text, "convd_http_requests_total{route=\"/classify\",method=\"POST\",code=\"200\"}", 0);
    expect(text, "convd_http_requests_total{route=\"other\",method=\"GET\",code=\"404\"}", 0);
    expect(text, "convd_http_request_duration_seconds_count{route=\"/classify\"}", 0);
    expect(text,
           "convd_inference_requests_total{model=\"lenet5\",version=\"1\",outcome=\"expired\"}", 0);
    expect(text, "convd_inference_images_total{model=\"lenet5\",version=\"1\"}", 0);
    expect(text, "convd_batches_total{model=\"lenet5\",reason=\"idle\"}", 0);
    expect(text, "convd_batch_size_bucket{model=\"lenet5\",le=\"+Inf\"}", 0);
    expect(text, "convd_decode_seconds_count{format=\"jpeg\"}", 0);
    expect(text, "convd_rejected_total{reason=\"queue_full\"}", 0);
    expect(text, "convd_client_disconnects_total", 0);
    expect(text, "convd_queue_depth{model=\"lenet5\"}", 0);
    expect(text, "convd_queue_bytes", 0);
    expect(text, "convd_model_loaded{model=\"lenet5\",version=\"1\"}", 0);
    pool_free(text);
}

static void *wait_for_byte(void *fd)
{
    char byte;
    cr_expect_eq(read(*(int *)fd, &byte, 1), 1);
    return NULL;
}

Test(metrics, values_of_this_process_are_plausible)
{
    int pipes[2];
    pthread_t waiting[2];
    cr_assert_eq(pipe(pipes), 0);
    /* A sanitizer may start a thread of its own together with the first of ours. */
    cr_assert_eq(pthread_create(&waiting[0], NULL, wait_for_byte, &pipes[0]), 0);
    char *text = page();
    double threads = strtod(find(text, "process_threads"), NULL);
    double resident = strtod(find(text, "process_resident_memory_bytes"), NULL);
    double virtual = strtod(find(text, "process_virtual_memory_bytes"), NULL);
    double start = strtod(find(text, "process_start_time_seconds"), NULL);
    double fds = strtod(find(text, "process_open_fds"), NULL);
    cr_expect(resident > 1e5 && resident < virtual, "%g resident, %g virtual", resident, virtual);
    cr_expect(start > (double)time(NULL) - 60 && start < (double)time(NULL) + 1, "%f", start);
    pool_free(text);
    cr_assert_eq(pthread_create(&waiting[1], NULL, wait_for_byte, &pipes[0]), 0);
    int copy = dup(pipes[0]);
    text = page();
    expect(text, "process_open_fds", fds + 1);
    expect(text, "process_threads", threads + 1);
    pool_free(text);
    close(copy);
    cr_assert_eq(write(pipes[1], "ab", 2), 2);
    pthread_join(waiting[0], NULL);
    pthread_join(waiting[1], NULL);
}

Test(metrics, requests_are_counted_by_route_method_and_code)
{
    metrics_http(m, route("/classify"), METHOD_POST, 200, 1000);
    metrics_http(m, route("/classify"), METHOD_POST, 200, 1000);
    metrics_http(m, route("/classify"), METHOD_PUT, 503, 1000);
    metrics_http(m, NULL, METHOD_OTHER, 404, 1000);
    metrics_http(m, route("/metrics"), METHOD_GET, 299, 1000);
    char *text = page();
    expect(text, "convd_http_requests_total{route=\"/classify\",method=\"POST\",code=\"200\"}", 2);
    expect(text, "convd_http_requests_total{route=\"/classify\",method=\"PUT\",code=\"503\"}", 1);
    expect(text, "convd_http_requests_total{route=\"other\",method=\"other\",code=\"404\"}", 1);
    expect(text, "convd_http_requests_total{route=\"/metrics\",method=\"GET\",code=\"other\"}", 1);
    expect(text, "convd_http_request_duration_seconds_count{route=\"/classify\"}", 3);
    cr_expect_null(
        find(text, "convd_http_requests_total{route=\"/classify\",method=\"POST\",code=\"503\"}"));
    pool_free(text);
}

Test(metrics, histograms_are_cumulative_and_bounds_inclusive)
{
    const struct route *r = route("/livez");
    metrics_http(m, r, METHOD_GET, 200, 0);
    metrics_http(m, r, METHOD_GET, 200, 50000);        /* 50 us: still in the first */
    metrics_http(m, r, METHOD_GET, 200, 50001);        /* not any more */
    metrics_http(m, r, METHOD_GET, 200, 10000000000u); /* 10 s */
    metrics_http(m, r, METHOD_GET, 200, 10000000001u); /* beyond the last bound */
    char *text = page();
#define BUCKET(le) "convd_http_request_duration_seconds_bucket{route=\"/livez\",le=\"" le "\"}"
    expect(text, BUCKET("5e-05"), 2);
    expect(text, BUCKET("0.0001"), 3);
    expect(text, BUCKET("5"), 3);
    expect(text, BUCKET("10"), 4);
    expect(text, BUCKET("+Inf"), 5);
    expect(text, "convd_http_request_duration_seconds_count{route=\"/livez\"}", 5);
    expect(text, "convd_http_request_duration_seconds_sum{route=\"/livez\"}", 20.000100002);
    pool_free(text);
}

Test(metrics, batches_and_queue)
{
    struct metrics_model *one = metrics_model(m, "a", "1"), *two = metrics_model(m, "a", "2");
    cr_assert_neq(one, two);
    cr_assert_eq(one, metrics_model(m, "a", "1"));
    cr_assert_eq(metrics_of(two), m);
    metrics_batch(one, CLOSE_FULL, 32, 1000000);
    metrics_batch(two, CLOSE_IDLE, 1, 1000000); /* versions share the series of their model */
    metrics_batch(two, CLOSE_DELAY, 3, 1000000);
    metrics_batch(two, CLOSE_FULL, 5000, 1000000);
    metrics_queue_wait(one, 2000000);
    metrics_queue_depth(one, 7);
    metrics_queue_depth(two, -3);
    metrics_queue_bytes(m, 100);
    metrics_queue_bytes(m, -40);
    metrics_inference(one, OUTCOME_SUCCESS, 3);
    metrics_inference(one, OUTCOME_EXPIRED, 4);
    metrics_model_loaded(one, true, 0.25);
    char *text = page();
    expect(text, "convd_batches_total{model=\"a\",reason=\"full\"}", 2);
    expect(text, "convd_batches_total{model=\"a\",reason=\"delay\"}", 1);
    expect(text, "convd_batches_total{model=\"a\",reason=\"idle\"}", 1);
    expect(text, "convd_batch_size_bucket{model=\"a\",le=\"1\"}", 1);
    expect(text, "convd_batch_size_bucket{model=\"a\",le=\"2\"}", 1);
    expect(text, "convd_batch_size_bucket{model=\"a\",le=\"4\"}", 2);
    expect(text, "convd_batch_size_bucket{model=\"a\",le=\"32\"}", 3);
    expect(text, "convd_batch_size_bucket{model=\"a\",le=\"1024\"}", 3);
    expect(text, "convd_batch_size_bucket{model=\"a\",le=\"+Inf\"}", 4);
    expect(text, "convd_batch_size_sum{model=\"a\"}", 5036);
    expect(text, "convd_compute_seconds_sum{model=\"a\"}", 0.004);
    expect(text, "convd_queue_wait_seconds_bucket{model=\"a\",le=\"0.001\"}", 0);
    expect(text, "convd_queue_wait_seconds_bucket{model=\"a\",le=\"0.0025\"}", 1);
    expect(text, "convd_queue_depth{model=\"a\"}", 4);
    expect(text, "convd_queue_bytes", 60);
    expect(text, "convd_inference_requests_total{model=\"a\",version=\"1\",outcome=\"success\"}",
           1);
    expect(text, "convd_inference_requests_total{model=\"a\",version=\"1\",outcome=\"expired\"}",
           1);
    expect(text, "convd_inference_images_total{model=\"a\",version=\"1\"}", 3);
    expect(text, "convd_model_loaded{model=\"a\",version=\"1\"}", 1);
    expect(text, "convd_model_loaded{model=\"a\",version=\"2\"}", 0);
    expect(text, "convd_model_load_seconds{model=\"a\"}", 0.25);
    metrics_model_loaded(one, false, 0);
    pool_free(text);
    text = page();
    expect(text, "convd_model_loaded{model=\"a\",version=\"1\"}", 0);
    expect(text, "convd_model_load_seconds{model=\"a\"}", 0.25);
    pool_free(text);
}

Test(metrics, the_rest)
{
    metrics_inflight(m, 3);
    metrics_inflight(m, -1);
    metrics_disconnect(m);
    metrics_rejected(m, REJECT_SLOW_CLIENT);
    metrics_decode(m, GATE_UNKNOWN, 3);
    metrics_decode(m, GATE_BMP, 3);
    char *text = page();
    expect(text, "convd_inflight_requests", 2);
    expect(text, "convd_client_disconnects_total", 1);
    expect(text, "convd_rejected_total{reason=\"slow_client\"}", 1);
    expect(text, "convd_decode_seconds_count{format=\"pixels\"}", 1);
    expect(text, "convd_decode_seconds_count{format=\"bmp\"}", 1);
    expect(text, "convd_decode_seconds_count{format=\"png\"}", 0);
    cr_expect_not_null(strstr(text, "convd_build_info{version=\""));
    cr_expect_not_null(strstr(text, "\",cpu=\"avx2\"} 1\n"));
    pool_free(text);
}

Test(metrics, label_values_are_escaped)
{
    metrics_model(m, "a\\b\"c\nd", "1");
    char *text = page();
    expect(text, "convd_queue_depth{model=\"a\\\\b\\\"c\\nd\"}", 0);
    pool_free(text);
}

#define THREADS 4
#define ROUNDS  20000
static void *count(void *cookie)
{
    struct metrics_model *mm = metrics_model(m, "shared", "1");
    for (int i = 0; i < ROUNDS; i++) {
        metrics_http(m, cookie, METHOD_GET, 200, 1000000);
        metrics_batch(mm, CLOSE_IDLE, 2, 1000000);
        metrics_inflight(m, i % 2 ? -1 : 1);
    }
    return NULL;
}

Test(metrics, no_update_is_lost_between_threads)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, count, (void *)(uintptr_t)route("/livez")),
                     0);
    pool_free(page()); /* while they write */
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    char *text = page();
    expect(text, "convd_http_requests_total{route=\"/livez\",method=\"GET\",code=\"200\"}",
           THREADS * ROUNDS);
    expect(text, "convd_http_request_duration_seconds_sum{route=\"/livez\"}",
           THREADS * ROUNDS * 0.001);
    expect(text, "convd_batch_size_sum{model=\"shared\"}", THREADS * ROUNDS * 2);
    expect(text, "convd_inflight_requests", 0);
    pool_free(text);
}

Test(metrics, promtool_has_no_complaint)
{
    if (system("command -v promtool >/dev/null 2>&1") != 0)
        cr_skip_test("promtool (Debian package prometheus) is not installed");
    metrics_http(m, route("/classify"), METHOD_POST, 415, 123456);
    metrics_http(m, NULL, METHOD_OTHER, 999, 123456);
    metrics_batch(metrics_model(m, "a\\b\"c\nd", "1"), CLOSE_FULL, 5, 99);
    metrics_model(m, "a\\b\"c\nd", "2");
    metrics_model(m, "lenet5", "1");
    char *text = page(), said[4096];
    char folder[] = "/tmp/convd-metrics-XXXXXX", path[64], command[160];
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/page", folder);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
    pool_free(text);
    snprintf(command, sizeof command, "promtool check metrics <%s 2>&1", path);
    f = popen(command, "r");
    cr_assert_not_null(f);
    said[fread(said, 1, sizeof said - 1, f)] = '\0';
    int status = pclose(f);
    unlink(path);
    rmdir(folder);
    cr_expect_eq(status, 0, "exit status %d", status);
    cr_expect_str_empty(said, "promtool says: %s", said);
}
