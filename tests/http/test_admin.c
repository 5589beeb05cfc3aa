/* --admin-listen: probes and metrics on a daemon of their own, out of reach of data traffic. */
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <signal.h>
#include <stdio.h>
#include <time.h>

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* The same process, by its other port. */
static struct server admin_of(const struct server *s)
{
    struct server admin = *s;
    const char *line = strstr(server_log(s), "admin listening");
    cr_assert_not_null(line, "%s", server_log(s));
    const char *port = strstr(line, "127.0.0.1:");
    cr_assert_not_null(port, "%s", line);
    admin.port = (unsigned)strtoul(port + strlen("127.0.0.1:"), NULL, 10);
    cr_assert(admin.port != 0 && admin.port != s->port, "%s", line);
    return admin;
}

Test(admin, what_is_there_and_what_is_not)
{
    static const char *const there[] = {"/livez",  "/readyz",        "/healthz", "/ping",
                                        "/models", "/models/lenet5", "/metrics"};
    struct server *s = server_start_with("--admin-listen", "127.0.0.1:0");
    struct server admin = admin_of(s);
    for (size_t i = 0; i < sizeof there / sizeof *there; i++) {
        cr_expect_eq(http_get(&admin, there[i])->status, 200, "%s", there[i]);
        cr_expect_eq(http_get(s, there[i])->status, 200, "%s, among the data", there[i]);
    }
    response_expect_error(http_get(&admin, "/"), 404, "not_found", "/");
    response_expect_error(
        http_post(&admin, "/classify", "application/octet-stream", digit_pixels(3), 784), 404,
        "not_found", "/classify");
    response_expect_error(http_post(&admin, "/livez", NULL, "x", 1), 405, "method_not_allowed",
                          "POST");
    expect_digit(http_post(s, "/classify", "application/octet-stream", digit_pixels(3), 784), 3, 5,
                 "data");
    server_stop(s);
}

Test(admin, it_is_off_unless_asked_for)
{
    struct server *s = server_start(NULL);
    cr_expect_null(strstr(server_log(s), "admin"));
    server_stop(s);
}

Test(admin, an_address_in_use_is_an_error)
{
    struct server *s = server_start(NULL);
    const char *address = data_printf("127.0.0.1:%u", s->port);
    struct program p = program_run("serve", "--listen", "127.0.0.1:0", "--admin-listen", address);
    cr_expect_eq(p.status, 1);
    cr_expect_not_null(strstr(p.errors, data_printf("cannot listen on %s", address)), "%s",
                       p.errors);
    server_stop(s);
}

/* A connection that has begun a request and does not go on. */
static struct client *stalled(const struct server *s)
{
    struct client *c = client_connect(s);
    client_printf(c, "GET /livez HTTP/1.1\r\nHost: x\r\n");
    return c;
}

static bool answers(const struct server *s, long within_ms)
{
    struct client *c = client_connect(s);
    client_printf(c, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    for (long ms = 0; ms < within_ms && !client_readable(c); ms += 5)
        pause_ms(5);
    bool answered = client_readable(c) && client_read(c, false)->status == 200;
    client_close(c);
    return answered;
}

Test(admin, it_answers_when_data_connections_are_exhausted)
{
    enum { CLIENTS = 100 }; /* more than the eight, and what is kept to turn more away */
    struct client *clients[CLIENTS];
    struct server *s = server_start_with("--admin-listen", "127.0.0.1:0", "--max-connections", "8",
                                         "--max-connections-per-ip", "0");
    struct server admin = admin_of(s);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = stalled(s);
    cr_assert_not(answers(s, 300), "the data connections are not exhausted");
    for (int i = 0; i < 20; i++)
        cr_assert(answers(&admin, 20000), "no answer in %d", i);
    cr_expect(http_metric(&admin, "convd_model_loaded{model=\"lenet5\",version=\"1\"}") == 1);
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
    server_stop(s);
}

Test(admin, limits_of_data_are_not_its_own)
{
    struct client *clients[6];
    struct server *s = server_start_with("--admin-listen", "127.0.0.1:0",
                                         "--max-connections-per-ip", "1", "--max-body", "1K");
    struct server admin = admin_of(s);
    for (int i = 0; i < 6; i++)
        clients[i] = stalled(&admin);
    for (int i = 0; i < 6; i++) {
        client_printf(clients[i], "\r\n");
        const struct response *r = client_read(clients[i], false);
        cr_assert(r != NULL && r->status == 200);
        client_close(clients[i]);
    }
    server_stop(s);
}

Test(admin, exhausting_it_does_not_touch_data)
{
    enum { CLIENTS = 120 };
    struct client *clients[CLIENTS];
    struct server *s = server_start_with("--admin-listen", "127.0.0.1:0");
    struct server admin = admin_of(s);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = stalled(&admin);
    cr_assert_not(answers(&admin, 300), "it takes any number of connections");
    for (int i = 0; i < 5; i++)
        expect_digit(http_post(s, "/classify", "application/octet-stream", digit_pixels(3), 784), 3,
                     5, "data");
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
    server_stop(s);
}

Test(admin, it_tells_of_draining_until_the_end)
{
    struct server *s = server_start_with("--admin-listen", "127.0.0.1:0", "--drain-timeout", "60s");
    struct server admin = admin_of(s);
    struct client *idle = client_connect(&admin), *last = client_connect(s);
    cr_assert_eq(http_get(&admin, "/readyz")->status, 200);
    client_printf(last, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: "
                        "application/octet-stream\r\nContent-Length: 784\r\n\r\n");
    cr_assert(http_metric_wait(s, "convd_inflight_requests", 2, 2, 20));
    server_signal(s, SIGTERM);
    cr_assert(server_log_wait(s, "draining", 20));
    response_expect_error(http_get(&admin, "/readyz"), 503, "draining", "/readyz");
    cr_expect_eq(http_get(&admin, "/livez")->status, 200);
    client_send(last, digit_pixels(3), 784); /* which it has waited for */
    expect_digit(client_read(last, false), 3, 5, "the last request");
    cr_assert_eq(server_wait(s, 30.0 * server_slowness()), 0, "%s", server_log(s));
    cr_expect(client_at_end(idle, 20));
    cr_expect_null(strstr(server_log(s), "Sanitizer"), "%s", server_log(s));
}
