/* The load generator of the benchmarks, against the real server: what it counts has to be true. */
#include "tests/bench/loadgen/histogram.h"
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define RAW      "--path /classify --header 'Content-Type: application/octet-stream' "
#define DIGIT(n) RAW "--body tests/data/digit-" #n ".raw --expect 200 "
/* The label of the image, not of one of its classes. */
#define LABEL(n) "--text '\"1\",\"label\":\"" #n "\"' "

/* ---------------------------------------------------------------- running it */

static FILE *begin_load(unsigned port, const char *arguments)
{
    const char *convd = getenv("CONVD_BIN");
    char path[PATH_MAX], *command;
    cr_assert(realpath(convd && convd[0] ? convd : "build/convd", path) != NULL);
    *strrchr(path, '/') = '\0';
    cr_assert(asprintf(&command, "'%s/loadgen' %s 127.0.0.1:%u 2>&1", path, arguments, port) > 0);
    FILE *out = popen(command, "r");
    cr_assert(out != NULL, "%s", command);
    free(command);
    return out;
}

/* The report; what was written to standard error may stand before it. */
static json_t *end_load(FILE *out)
{
    static char text[65536];
    size_t len = fread(text, 1, sizeof text - 1, out);
    text[len] = '\0';
    cr_assert_eq(pclose(out), 0, "%s", text);
    char *report = strstr(text, "{\"rate\"");
    cr_assert(report != NULL, "%s", text);
    json_error_t error;
    json_t *json = json_loads(report, 0, &error);
    cr_assert(json != NULL, "%s: %s", error.text, report);
    return json;
}

static double get(json_t *report, const char *key)
{
    json_t *value = json_object_get(report, key);
    cr_assert(json_is_number(value), "%s", key);
    return json_number_value(value);
}

static double get_in(json_t *report, const char *object, const char *key)
{
    return get(json_object_get(report, object), key);
}

static void expect_sums(json_t *report)
{
    double of_statuses = 0, of_seconds = 0;
    const char *status;
    json_t *value;
    size_t i;
    json_object_foreach(json_object_get(report, "statuses"), status, value) of_statuses +=
        json_number_value(value);
    json_array_foreach(json_object_get(report, "ok_per_second"), i, value) of_seconds +=
        json_number_value(value);
    cr_expect_eq(of_statuses, get(report, "answered"));
    cr_expect_eq(of_seconds, get(report, "ok"));
    cr_expect_eq(get(report, "scheduled"), get(report, "sent") + get(report, "unsent"));
    cr_expect_eq(get(report, "sent"), get(report, "answered") + get(report, "timed_out") +
                                          get(report, "refused") + get(report, "broken") +
                                          get(report, "aborted"));
    cr_expect(get_in(report, "ok_ms", "p50") <= get_in(report, "ok_ms", "p99"));
    cr_expect(get_in(report, "ok_ms", "p99") <= get_in(report, "ok_ms", "max"));
}

/* ---------------------------------------------------------------- its counts */

Test(loadgen, every_request_ends_in_one_count)
{
    struct server *s = server_start(NULL);
    json_t *r = end_load(begin_load(
        s->port,
        "--rate 200 --seconds 2 " DIGIT(7) LABEL(
            7) "--share 5 --next --expect 404 "
               "--path /nowhere --next --path /classify --body tests/data/draw.py --expect 415 "
               "--next " DIGIT(3) "--abort 100"));
    expect_sums(r);
    cr_expect_eq(get(r, "scheduled"), 400);
    cr_expect_eq(get(r, "ok"), 250, "%s", json_dumps(r, 0));
    cr_expect_eq(get_in(r, "statuses", "404"), 50);
    cr_expect_eq(get_in(r, "statuses", "415"), 50);
    cr_expect_eq(get(r, "aborted"), 50);
    cr_expect_eq(get(r, "wrong"), 0);
    cr_expect(get_in(r, "ok_ms", "p50") > 0.01);
    cr_expect_gt(get(r, "took_s"), 1.9);
    cr_expect_eq(http_metric(s, "convd_http_requests_total{route=\"/classify\",method=\"POST\","
                                "code=\"200\"}"),
                 250);
    json_decref(r);
    server_stop(s);
}

Test(loadgen, a_closed_loop_keeps_its_connections_busy)
{
    struct server *s = server_start(NULL);
    json_t *r = end_load(begin_load(s->port, "--seconds 1 --connections 4 " DIGIT(5) LABEL(5)));
    expect_sums(r);
    cr_expect_eq(get_in(r, "connections", "opened"), 4);
    cr_expect_gt(get(r, "ok"), 4);
    cr_expect_eq(get(r, "ok"), get(r, "scheduled"));
    cr_expect_eq(get(r, "wrong"), 0);
    json_decref(r);
    server_stop(s);
}

Test(loadgen, wrong_answers_are_counted)
{
    struct server *s = server_start(NULL);
    json_t *r = end_load(begin_load(s->port, "--rate 50 --seconds 1 " DIGIT(3)
                                                 LABEL(8) "--next "
                                                          "--path /livez --expect 404,500"));
    expect_sums(r);
    cr_expect_eq(get(r, "ok"), 50);
    cr_expect_eq(get(r, "wrong"), 50);
    json_decref(r);
    server_stop(s);
}

Test(loadgen, nobody_there)
{
    json_t *r = end_load(
        begin_load(server_free_port(), "--rate 100 --seconds 0.5 --timeout 200 --path /livez"));
    expect_sums(r);
    cr_expect_eq(get(r, "scheduled"), 50);
    cr_expect_eq(get(r, "refused") + get(r, "unsent"), 50);
    cr_expect(get(r, "refused") > 0);
    json_decref(r);
}

/* ---------------------------------------------------------------- its clock */

/* 40 of 150 requests are due while the server stands still. Timed from when they were sent, only
 * as many as there are connections would seem slow. */
static json_t *load_with_a_stop(struct server *s)
{
    static const char answers[] =
        "convd_http_requests_total{route=\"/classify\",method=\"POST\",code=\"200\"}";
    double before = http_metric(s, answers);
    FILE *load = begin_load(s->port, "--rate 100 --seconds 1.5 --connections 4 " DIGIT(7) LABEL(7));
    cr_assert(http_metric_wait(s, answers, before + 10, before + 150, 20));
    server_signal(s, SIGSTOP);
    process_pause_ms(400);
    server_signal(s, SIGCONT);
    json_t *r = end_load(load);
    expect_sums(r);
    cr_expect_eq(get(r, "ok"), 150);
    cr_expect(get_in(r, "connections", "most") <= 4);
    return r;
}

Test(loadgen, latency_counts_from_the_intended_moment)
{
    struct server *s = server_start(NULL);
    json_t *r = load_with_a_stop(s);
    for (int i = 0; i < 5 && get_in(r, "ok_ms", "p90") <= 200; i++) { /* it was over by then */
        json_decref(r);
        r = load_with_a_stop(s);
    }
    double p90 = get_in(r, "ok_ms", "p90"), max = get_in(r, "ok_ms", "max");
    cr_expect(p90 > 200, "p90 is %.1f ms", p90);
    cr_expect(max > 350, "the longest took %.1f ms", max);
    /* That is not the server's alone: there was no connection to begin most of them on. */
    double begun = get_in(r, "begun_ms", "max"), served = get_in(r, "served_ms", "p90");
    cr_expect(begun > 250, "the last to begin waited for %.1f ms", begun);
    cr_expect(served < p90, "90 %% were served in %.1f ms", served);
    cr_expect(get_in(r, "served_ms", "max") > 350);
    json_decref(r);
    server_stop(s);
}

/* Four images wait up to 200 ms for a fuller batch; who comes meanwhile is refused at once. */
Test(loadgen, accepted_and_rejected_are_timed_apart)
{
    struct server *s =
        server_start_with("--max-delay-us", "200000", "--max-batch", "8", "--max-queue", "4");
    json_t *r = end_load(begin_load(s->port, "--rate 200 --seconds 2 " RAW
                                             "--body tests/data/digit-7.raw --expect 200,503"));
    expect_sums(r);
    cr_expect_eq(get(r, "ok") + get(r, "rejected"), 400);
    double batches = get(r, "took_s") / 0.2 + 1;
    cr_expect(get(r, "ok") >= 4 && get(r, "ok") <= 4 * batches, "%.0f", get(r, "ok"));
    cr_expect(get_in(r, "ok_ms", "p50") > 150);
    cr_expect(get_in(r, "served_ms", "p50") > 150);
    cr_expect(get_in(r, "rejected_ms", "p50") < get_in(r, "ok_ms", "p50"));
    cr_expect(get_in(r, "turned_away_ms", "p50") < get_in(r, "served_ms", "p50"));
    cr_expect(get_in(r, "turned_away_ms", "p50") > 0);
    json_decref(r);
    server_stop(s);
}

/* ---------------------------------------------------------------- its percentiles */

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

Test(loadgen, percentiles_are_those_of_the_sorted_values)
{
    enum { COUNT = 20000 };
    static struct histogram h;
    static uint64_t values[COUNT];
    static const double shares[] = {0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1};
    cr_expect_eq(histogram_quantile(&h, 0.5), 0);
    uint64_t random = 7;
    for (size_t i = 0; i < COUNT; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        values[i] = (random >> 24) >> (random % 40); /* all magnitudes */
        histogram_add(&h, values[i]);
        cr_assert(histogram_cell(values[i]) < HISTOGRAM_CELLS);
    }
    qsort(values, COUNT, sizeof *values, by_value);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        double wanted = (double)values[(size_t)(shares[i] * COUNT) - 1];
        double got = (double)histogram_quantile(&h, shares[i]);
        cr_expect(got >= wanted && got <= wanted * (1 + 1.0 / 128) + 1, "%f: %f, not %f", shares[i],
                  got, wanted);
    }
    for (unsigned cell = 0; cell + 1 < HISTOGRAM_CELLS; cell++) {
        cr_assert_eq(histogram_cell(histogram_cell_end(cell)), cell);
        cr_assert_eq(histogram_cell(histogram_cell_end(cell) + 1), cell + 1);
    }
    histogram_add(&h, UINT64_MAX);
    cr_expect_eq(histogram_quantile(&h, 1), histogram_cell_end(HISTOGRAM_CELLS - 1));
}
