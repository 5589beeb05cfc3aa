/* SIGTERM: nothing that was accepted is lost, and the daemon ends when it should. */
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#define RAW "Content-Type: application/octet-stream\r\n"

/* What is not to be waited for would take a minute or more. */
static void expect_end(struct server *s, int status, double at_least_s, double since)
{
    int got = server_wait(s, 30.0 * server_slowness());
    double took = process_now_s() - since;
    cr_assert_eq(got, status, "status %d instead of %d:\n%s", got, status, server_log(s));
    cr_assert(took >= at_least_s, "ended after %.2f s already", took);
    cr_assert(strstr(server_log(s), "Sanitizer") == NULL, "%s", server_log(s));
}

static void post_raw(struct client *c)
{
    client_printf(c, "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "Content-Length: 784\r\n\r\n");
    client_send(c, digit_pixels(3), 784);
}

/* ---------------------------------------------------------------- under load */

struct user {
    pthread_t thread;
    struct server *server;
    atomic_bool *stopping; /* the signal has been sent */
    unsigned answered, answered_late, lost, odd;
};

/* Sends one request after the other, on one connection while the server lets it, and goes away when
 * told that the server is leaving. */
static void *use(void *arg)
{
    struct user *u = arg;
    struct client *c = NULL;
    for (;;) {
        if (c == NULL && (c = client_try_connect(u->server)) == NULL)
            return NULL;
        bool late = atomic_load(u->stopping);
        post_raw(c);
        const struct response *r = client_read(c, false);
        if (r == NULL) {
            u->lost++;
            client_close(c);
            return NULL;
        }
        if (r->status == 200 && strstr(r->body, "\"label\":\"3\"") != NULL) {
            u->answered++;
            u->answered_late += late;
        } else if (r->status == 503 && response_header(r, "Retry-After") != NULL) {
            client_close(c);
            return NULL;
        } else {
            u->odd++;
        }
        const char *connection = response_header(r, "Connection");
        if (connection != NULL && strcmp(connection, "close") == 0) {
            client_close(c);
            c = NULL;
        }
    }
}

/* Returns how many were answered after the signal. */
static unsigned drain_under_load(unsigned delay_s)
{
    enum { USERS = 8 };
    struct server *s = server_start_with("--drain-delay", data_printf("%us", delay_s),
                                         "--io-threads", "2", "--access-log", "off");
    atomic_bool stopping = false;
    struct user users[USERS];
    for (int i = 0; i < USERS; i++) {
        users[i] = (struct user){.server = s, .stopping = &stopping};
        cr_assert(pthread_create(&users[i].thread, NULL, use, &users[i]) == 0);
    }
    process_pause_ms(300);
    atomic_store(&stopping, true);
    double begin = process_now_s();
    server_signal(s, SIGTERM);
    unsigned answered = 0, late = 0, lost = 0, odd = 0;
    for (int i = 0; i < USERS; i++) {
        pthread_join(users[i].thread, NULL);
        answered += users[i].answered;
        late += users[i].answered_late;
        lost += users[i].lost;
        odd += users[i].odd;
    }
    expect_end(s, 0, delay_s, begin);
    cr_expect_eq(lost, 0, "%u of %u requests were lost", lost, answered + lost);
    cr_expect_eq(odd, 0, "%u odd answers", odd);
    return late;
}

Test(drain, no_request_is_lost_under_load)
{
    unsigned delay_s = 1, late;
    while ((late = drain_under_load(delay_s)) < 20 && delay_s < 16)
        delay_s *= 2; /* a machine that stalls answers few in a second */
    cr_expect_geq(late, 20, "only %u requests were answered after the signal", late);
}

/* ---------------------------------------------------------------- the phases */

Test(drain, readiness_ends_at_once_and_service_later)
{
    struct server *s = server_start_with("--drain-delay", "60s");
    cr_assert_eq(http_get(s, "/readyz")->status, 200);
    double begin = process_now_s();
    server_signal(s, SIGTERM);
    cr_assert(server_log_wait(s, "\"draining\"", 20));
    const struct response *r = http_get(s, "/readyz");
    response_expect_error(r, 503, "draining", "/readyz");
    cr_assert(response_header(r, "Retry-After") != NULL);
    r = http_get(s, "/readyz?verbose");
    cr_assert(r->status == 503 && strstr(r->body, "[-]") != NULL, "%s", r->body);
    cr_assert_eq(http_get(s, "/livez")->status, 200);
    cr_assert_eq(http_get(s, "/ping")->status, 503);
    r = http_post(s, "/classify", "application/octet-stream", digit_pixels(3), 784);
    expect_digit(r, 3, 5, "while draining");
    cr_assert_str_eq(response_header(r, "Connection"), "close");
    server_signal(s, SIGTERM); /* a second one: enough of that */
    expect_end(s, 1, 0, begin);
}

/* With no delay: what waits in the queue is still answered. */
Test(drain, queued_work_is_finished)
{
    enum { CLIENTS = 5 };
    bool queued = false;
    for (int i = 0; i < 10 && !queued;
         i++) { /* a machine that stalls may not see all of them wait */
        struct server *s = server_start_with("--max-delay-us", "1000000", "--threads", "1");
        struct client *clients[CLIENTS];
        for (int n = 0; n < CLIENTS; n++) {
            clients[n] = client_connect(s);
            post_raw(clients[n]);
        }
        queued = http_metric_wait(s, "convd_queue_depth{model=\"lenet5\"}", CLIENTS, CLIENTS, 1);
        double begin = process_now_s();
        server_signal(s, SIGTERM);
        for (int n = 0; n < CLIENTS; n++) {
            const struct response *r = client_read(clients[n], false);
            if (queued)
                expect_digit(r, 3, 5, "queued");
        }
        expect_end(s, 0, 0, begin);
    }
    cr_expect(queued);
}

Test(drain, idle_connections_hold_nothing_up)
{
    struct server *s = server_start(NULL);
    struct client *idle = client_connect(s), *used = client_connect(s);
    client_printf(used, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    cr_assert_eq(client_read(used, false)->status, 200);
    double begin = process_now_s();
    server_signal(s, SIGTERM);
    expect_end(s, 0, 0, begin);
    cr_expect(client_at_end(idle, 20));
    cr_expect(client_at_end(used, 20));
}

/* A client that never finishes its body is waited for as long as drain-timeout says. */
Test(drain, the_timeout_ends_the_wait)
{
    struct server *s = server_start_with("--drain-timeout", "1s");
    struct client *c = client_connect(s);
    client_printf(c, "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "Content-Length: 784\r\n\r\n");
    client_send(c, digit_pixels(3), 100);
    cr_assert(http_metric_wait(s, "convd_inflight_requests", 2, 2, 20));
    double begin = process_now_s();
    server_signal(s, SIGTERM);
    expect_end(s, 0, 0.9, begin);
    cr_expect(client_at_end(c, 20));
}

/* Work that the timeout does not leave time for is refused; the client has not gone anywhere. */
Test(drain, clients_that_are_given_up_are_told)
{
    const struct response *r = NULL;
    for (int i = 0; i < 10 && (r == NULL || r->status == 200); i++) { /* when it did not wait */
        struct server *s = server_start_with("--threads", "1", "--max-delay-us", "1000000",
                                             "--drain-timeout", "100ms");
        struct client *c = client_connect(s);
        post_raw(c);
        http_metric_wait(s, "convd_queue_depth{model=\"lenet5\"}", 1, 1, 1);
        double begin = process_now_s();
        server_signal(s, SIGTERM);
        r = client_read(c, false);
        cr_assert(r != NULL);
        expect_end(s, 0, 0, begin);
        cr_assert(strstr(server_log(s), "client_gone") == NULL, "%s", server_log(s));
    }
    response_expect_error(r, 503, "draining", "given up");
    cr_assert(response_header(r, "Retry-After") != NULL);
}

Test(drain, a_second_signal_ends_it_at_once)
{
    struct server *s = server_start_with("--drain-delay", "60s");
    server_signal(s, SIGTERM);
    cr_assert(server_log_wait(s, "\"draining\"", 20));
    double begin = process_now_s();
    server_signal(s, SIGTERM);
    expect_end(s, 1, 0, begin);
}

Test(drain, interrupt_is_the_same)
{
    struct server *s = server_start(NULL);
    double begin = process_now_s();
    server_signal(s, SIGINT);
    expect_end(s, 0, 0, begin);
}

/* Signals that terminals and supervisors send for other reasons. */
Test(drain, other_signals_do_not_end_it)
{
    struct server *s = server_start(NULL);
    server_signal(s, SIGHUP);
    server_signal(s, SIGPIPE);
    process_pause_ms(50);
    cr_assert_eq(http_get(s, "/livez")->status, 200);
    server_stop(s);
}

/* Start and stop again and again, a request or none in between. */
Test(drain, twenty_short_lives)
{
    for (int i = 0; i < 20; i++) {
        struct server *s = server_start(NULL);
        if (i % 2 == 0)
            expect_digit(
                http_post(s, "/classify", "application/octet-stream", digit_pixels(5), 784), 5, 5,
                "short life");
        server_stop(s);
    }
}
