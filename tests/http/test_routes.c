/* Everything but /classify: models, probes, metrics, the page. */
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <stdio.h>
#include <time.h>
#include <unistd.h>

static void expect_status(const struct response *r, const char *word)
{
    cr_assert(r->status == 200, "%s%s", r->head, r->body);
    cr_assert_str_eq(json_string_value(json_object_get(response_json(r), "status")), word);
}

Test(routes, probes)
{
    static const char *const probes[] = {"/livez", "/readyz", "/healthz"};
    struct server *s = server_start(NULL);
    for (size_t i = 0; i < 3; i++) {
        expect_status(http_get(s, probes[i]), "ok");
        const struct response *r = http_get(s, data_printf("%s?verbose", probes[i]));
        cr_assert(r->status == 200);
        cr_assert(strncmp(response_header(r, "Content-Type"), "text/plain", 10) == 0);
        cr_assert(strncmp(r->body, "[+]", 3) == 0 && strstr(r->body, "check passed\n") != NULL,
                  "%s: %s", probes[i], r->body);
    }
    expect_status(http_get(s, "/ping"), "Healthy");
    server_stop(s);
}

/* HEAD is GET without the body: the same headers, the length included. */
Test(routes, head)
{
    static const char *const targets[] = {"/",       "/livez",         "/readyz?verbose", "/ping",
                                          "/models", "/models/lenet5", "/nothing"};
    struct server *s = server_start(NULL);
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        const struct response *get = http_get(s, targets[i]);
        struct client *c = client_connect(s);
        client_printf(c, "HEAD %s HTTP/1.1\r\nHost: x\r\n\r\n", targets[i]);
        const struct response *head = client_read(c, true);
        cr_assert(head != NULL && head->status == get->status, "%s", targets[i]);
        cr_assert_str_eq(response_header(head, "Content-Type"),
                         response_header(get, "Content-Type"));
        if (get->status == 200)
            cr_assert_str_eq(response_header(head, "Content-Length"),
                             response_header(get, "Content-Length"), "%s", targets[i]);
        /* No body follows: the next answer on the connection is intact. */
        client_printf(c, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
        cr_assert(client_read(c, false)->status == 200);
        client_close(c);
    }
    server_stop(s);
}

Test(routes, page)
{
    struct server *s = server_start(NULL);
    expect_status(http_get(s, "/"), "alive");
    const struct response *r =
        http_request(s, "GET", "/", "Accept: text/html,*/*;q=0.8\r\n", NULL, 0);
    cr_assert(r->status == 200 && strncmp(r->body, "<!DOCTYPE html>", 15) == 0);
    cr_assert_str_eq(response_header(r, "Content-Type"), "text/html; charset=utf-8");
    /* It is one file: nothing is fetched from elsewhere. */
    static const char *const foreign[] = {"src=\"http", "href=\"http", "url(http", "@import"};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        cr_assert(strstr(r->body, foreign[i]) == NULL);
    cr_assert(r->body_len < 30000);
    server_stop(s);
}

Test(routes, models)
{
    struct server *s = server_start(NULL);
    json_t *models = json_object_get(response_json(http_get(s, "/models")), "models");
    cr_assert_eq(json_array_size(models), 1);
    json_t *first = json_array_get(models, 0);
    cr_assert_str_eq(json_string_value(json_object_get(first, "name")), "lenet5");
    cr_assert_str_eq(json_string_value(json_object_get(first, "version")), "1");
    cr_assert(json_is_true(json_object_get(first, "default")));
    server_stop(s);
}

/* The classic figures of LeNet-5's layers, worked out by hand. */
Test(routes, model)
{
    struct server *s = server_start(NULL);
    json_t *model = response_json(http_get(s, "/models/lenet5"));
    cr_assert_str_eq(json_string_value(json_object_get(model, "name")), "lenet5");
    json_t *labels = json_object_get(model, "labels");
    cr_assert_eq(json_array_size(labels), 10);
    for (size_t i = 0; i < 10; i++)
        cr_assert_str_eq(json_string_value(json_array_get(labels, i)), data_printf("%d", (int)i));
    /* C1 6@5x5 on 1 channel, C3 16@5x5 on 6, 400 x 120, 120 x 84, 84 x 10, with biases. */
    json_int_t parameters =
        (25 + 1) * 6 + (6 * 25 + 1) * 16 + (400 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10;
    json_int_t macs = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10;
    json_int_t got_parameters = 0, got_macs = 0;
    size_t i;
    json_t *layer, *layers = json_object_get(model, "layers");
    cr_assert(json_array_size(layers) >= 5);
    json_array_foreach(layers, i, layer)
    {
        got_parameters += json_integer_value(json_object_get(layer, "parameters"));
        got_macs += json_integer_value(json_object_get(layer, "macs"));
    }
    cr_expect_eq(got_parameters, parameters, "%lld parameters instead of %lld",
                 (long long)got_parameters, (long long)parameters);
    cr_expect_eq(got_macs, macs, "%lld multiply-adds instead of %lld", (long long)got_macs,
                 (long long)macs);
    response_expect_error(http_get(s, "/models/lenet6"), 404, "model_not_found", "lenet6");
    response_expect_error(http_get(s, "/models/lenet5?version=2"), 404, "model_not_found",
                          "version 2");
    server_stop(s);
}

static const char *const families[] = {
    "convd_http_requests_total",
    "convd_http_request_duration_seconds",
    "convd_inference_requests_total",
    "convd_inference_images_total",
    "convd_batches_total",
    "convd_batch_size",
    "convd_queue_wait_seconds",
    "convd_decode_seconds",
    "convd_compute_seconds",
    "convd_queue_depth",
    "convd_queue_bytes",
    "convd_inflight_requests",
    "convd_rejected_total",
    "convd_client_disconnects_total",
    "convd_model_loaded",
    "convd_model_load_seconds",
    "convd_build_info",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_start_time_seconds",
};

/* Every family is there from the start, with its help, its type and at least one sample. */
Test(routes, metrics_exist_from_the_start)
{
    struct server *s = server_start(NULL);
    const struct response *r = http_get(s, "/metrics");
    cr_assert(r->status == 200);
    cr_assert_str_eq(response_header(r, "Content-Type"),
                     "text/plain; version=0.0.4; charset=utf-8");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        cr_expect(strstr(r->body, data_printf("# HELP %s ", families[i])) != NULL, "%s: no help",
                  families[i]);
        cr_expect(strstr(r->body, data_printf("# TYPE %s ", families[i])) != NULL, "%s: no type",
                  families[i]);
        bool sample = strstr(r->body, data_printf("\n%s ", families[i])) != NULL ||
                      strstr(r->body, data_printf("\n%s{", families[i])) != NULL ||
                      strstr(r->body, data_printf("\n%s_count{", families[i])) != NULL;
        cr_expect(sample, "%s: no sample", families[i]);
    }
    static const char *const at_zero[] = {
        "convd_inference_requests_total{model=\"lenet5\",version=\"1\",outcome=\"success\"}",
        "convd_inference_images_total{model=\"lenet5\",version=\"1\"}",
        "convd_queue_depth{model=\"lenet5\"}",
        "convd_queue_bytes",
        "convd_rejected_total{reason=\"queue_full\"}",
        "convd_client_disconnects_total",
        "convd_http_requests_total{route=\"/classify\",method=\"POST\",code=\"200\"}",
        "convd_batch_size_count{model=\"lenet5\"}",
    };
    for (size_t i = 0; i < sizeof at_zero / sizeof *at_zero; i++)
        cr_expect_eq(http_metric(s, at_zero[i]), 0, "%s is %g", at_zero[i],
                     http_metric(s, at_zero[i]));
    cr_expect_eq(http_metric(s, "convd_model_loaded{model=\"lenet5\",version=\"1\"}"), 1);
    server_stop(s);
}

Test(routes, metrics_count)
{
    struct server *s = server_start(NULL);
    struct data png = data_read("digit-7.png");
    for (int i = 0; i < 3; i++)
        expect_digit(http_post(s, "/classify", NULL, png.bytes, png.len), 7, 5, "PNG");
    http_post(s, "/classify", NULL, "x", 1);
    http_get(s, "/nothing");
    static const struct {
        const char *series;
        double value;
    } rows[] = {
        {"convd_http_requests_total{route=\"/classify\",method=\"POST\",code=\"200\"}", 3},
        {"convd_http_requests_total{route=\"/classify\",method=\"POST\",code=\"415\"}", 1},
        {"convd_http_request_duration_seconds_count{route=\"/classify\"}", 4},
        {"convd_inference_requests_total{model=\"lenet5\",version=\"1\",outcome=\"success\"}", 3},
        {"convd_inference_images_total{model=\"lenet5\",version=\"1\"}", 3},
        {"convd_batch_size_sum{model=\"lenet5\"}", 3},
        {"convd_decode_seconds_count{format=\"png\"}", 3},
        {"convd_queue_wait_seconds_count{model=\"lenet5\"}", 3},
        {"convd_inflight_requests", 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double value = http_metric(s, rows[i].series);
        cr_expect_eq(value, rows[i].value, "%s is %g instead of %g", rows[i].series, value,
                     rows[i].value);
    }
    server_stop(s);
}

Test(routes, metrics_parse)
{
    if (system("command -v promtool >/dev/null") != 0)
        cr_skip_test("promtool is not installed (Debian package prometheus)");
    struct server *s = server_start(NULL);
    struct data png = data_read("digit-7.png");
    expect_digit(http_post(s, "/classify", NULL, png.bytes, png.len), 7, 5, "PNG");
    http_get(s, "/nothing");
    const struct response *r = http_get(s, "/metrics");
    char path[] = "/tmp/convd-metrics-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, r->body, r->body_len) == (ssize_t)r->body_len);
    close(fd);
    int status = system(data_printf("promtool check metrics <%s >&2", path));
    unlink(path);
    cr_assert_eq(status, 0, "promtool finds fault with the metrics");
    server_stop(s);
}

/* One line for each request, with what an operator looks for. */
Test(routes, requests_are_logged)
{
    struct server *s = server_start(NULL);
    struct data png = data_read("digit-7.png");
    const struct response *r =
        http_request(s, "POST", "/classify", "X-Request-Id: find-me\r\n", png.bytes, png.len);
    expect_digit(r, 7, 5, "PNG");
    cr_assert_str_eq(response_header(r, "X-Request-Id"), "find-me");
    cr_assert(server_log_wait(s, "request_id=find-me", 20), "%s", server_log(s));
    const char *log = server_log(s), *line = strstr(log, "request_id=find-me");
    while (line > log && line[-1] != '\n')
        line--;
    line = data_printf("%.*s", (int)strcspn(line, "\n"), line);
    static const char *const fields[] = {
        "method=POST", "route=/classify", "status=200",  "model=lenet5", "batch=1",
        "decode_ms=",  "queue_ms=",       "compute_ms=", "total_ms="};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        cr_expect(strstr(line, fields[i]) != NULL, "no %s: %s", fields[i], line);
    cr_expect(strstr(line, data_printf("bytes_in=%zu", png.len)) != NULL, "%s", line);
    server_stop(s);
}

Test(routes, log_as_json)
{
    struct server *s = server_start_with("--log-format", "json");
    http_request(s, "GET", "/livez?a=%22%5C", "X-Request-Id: find-me\r\n", NULL, 0);
    http_request(s, "GET", "/\"\\\xff<x>", NULL, NULL, 0);
    cr_assert(server_log_wait(s, "find-me", 20) && server_log_wait(s, "<x>", 20), "%s",
              server_log(s));
    for (const char *line = server_log(s); *line != '\0'; line += strcspn(line, "\n") + 1) {
        json_t *json = json_loadb(line, strcspn(line, "\n"), JSON_REJECT_DUPLICATES, NULL);
        cr_assert(json_is_object(json) && json_is_string(json_object_get(json, "time")) &&
                      json_is_string(json_object_get(json, "level")) &&
                      json_is_string(json_object_get(json, "msg")),
                  "%.*s", (int)strcspn(line, "\n"), line);
        json_decref(json);
    }
    server_stop(s);
}

Test(routes, access_log_can_be_off)
{
    struct server *s = server_start_with("--access-log", "off");
    http_get(s, "/livez");
    nanosleep(&(struct timespec){0, 100000000}, NULL);
    cr_assert(strstr(server_log(s), "\"request\"") == NULL, "%s", server_log(s));
    server_stop(s);
}
