/* Clients that are slow on purpose: each kind is ended in its time, and disturbs nobody. */
#include "tests/support/proxy.h"
#include "tests/support/requests.h"

#include <criterion/criterion.h>
#include <signal.h>

struct drip {
    const char *what;
    const char *begin; /* sent at once */
    const char *piece; /* then this, every 200 ms; NULL: nothing */
    double earliest_s; /* when it may have ended */
    int status;        /* of the last word; 0: none, -1: any */
    struct client *client;
    double ended_s;
};

Test(slow, every_kind_is_ended_in_its_time)
{
    struct drip drips[] = {
        {"a header of one byte after the other", "GET /livez HTTP/1.1\r\nHost: x\r\nX: ", "y", 9.5,
         408, NULL, 0},
        {"empty lines before a request", "\r\n", "\r\n", 9.5, 408, NULL, 0},
        {"a body of five bytes a second",
         "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 784\r\n\r\n", "z", 4.5, 408, NULL,
         0},
        {"a body that stops",
         "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 784\r\n\r\nabc", NULL, 1.5, -1,
         NULL, 0},
        {"a refused body of five bytes a second",
         "POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 784\r\n\r\n", "z", 4.5, 404, NULL,
         0},
        {"a chunk of one byte after the other",
         "POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nz\r\n",
         4.5, 408, NULL, 0},
        {"silence", "", NULL, 4.5, 0, NULL, 0},
    };
    enum { COUNT = sizeof drips / sizeof *drips };
    struct server *s = server_start_with("--idle-timeout", "5s");
    double begin = process_now_s();
    unsigned left = COUNT, asked = 0, waited = 0;
    for (size_t i = 0; i < COUNT; i++) {
        drips[i].client = client_connect(s);
        client_send(drips[i].client, drips[i].begin, strlen(drips[i].begin));
    }
    while (left > 0) {
        cr_assert(process_now_s() - begin < 60, "%u slow clients are still there", left);
        process_pause_ms(200);
        for (size_t i = 0; i < COUNT; i++) {
            struct drip *d = &drips[i];
            if (d->client == NULL)
                continue;
            if (client_readable(d->client)) {
                d->ended_s = process_now_s() - begin;
                const char *last = client_read_all(d->client);
                cr_expect(d->status <= 0 ||
                              (strncmp(last, "HTTP/1.1 ", 9) == 0 && atoi(last + 9) == d->status),
                          "%s: %s", d->what, last);
                cr_expect(d->status != 0 || last[0] == '\0', "%s: %s", d->what, last);
                client_close(d->client);
                d->client = NULL;
                left--;
            } else if (d->piece != NULL) {
                client_send(d->client, d->piece, strlen(d->piece));
            }
        }
        double asking = process_now_s();
        expect_digit(http_post(s, "/classify", "application/octet-stream", digit_pixels(4), 784), 4,
                     5, "beside slow clients");
        asked++;
        waited += process_now_s() - asking > 0.5 * server_slowness();
    }
    /* A machine may stall now and then, and slow clients may not make it so. */
    cr_expect_leq(2 * waited, asked, "%u of %u had to wait", waited, asked);
    for (size_t i = 0; i < COUNT; i++)
        cr_expect_geq(drips[i].ended_s, drips[i].earliest_s, "%s: ended after %.1f s",
                      drips[i].what, drips[i].ended_s);
    cr_expect(http_metric(s, "convd_rejected_total{reason=\"slow_client\"}") >= 3);
    server_stop(s);
}

/* Who was slow is the server, when it has been stopped: nobody pays for that. */
Test(slow, the_server_was_stopped)
{
    struct server *s = server_start(NULL);
    struct client *header = client_connect(s), *body = client_connect(s);
    client_printf(header, "POST /classify HTTP/1.1\r\nHo");
    client_printf(body, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: "
                        "application/octet-stream\r\nContent-Length: 784\r\n\r\n");
    process_pause_ms(1500); /* long enough for the guard to note when they began */
    server_signal(s, SIGSTOP);
    process_pause_ms(10000);
    server_signal(s, SIGCONT);
    process_pause_ms(1500);
    client_printf(header, "st: x\r\nContent-Type: application/octet-stream\r\n"
                          "Content-Length: 784\r\n\r\n");
    client_send(header, digit_pixels(3), 784);
    client_send(body, digit_pixels(5), 784);
    expect_digit(client_read(header, false), 3, 5, "in its header");
    expect_digit(client_read(body, false), 5, 5, "in its body");
    client_close(header);
    client_close(body);
    server_stop(s);
}

/* The library has no room for the rest of such a line and tries again and again without reading. */
Test(slow, a_chunk_size_line_without_end)
{
    enum { LINE_BYTES = 60000 };
    static char line[LINE_BYTES];
    struct server *s = server_start(NULL);
    struct client *c = client_connect(s);
    client_printf(c, "POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;");
    client_send(c, memset(line, 'x', sizeof line), sizeof line);
    process_pause_ms(200);
    double begin = process_now_s(), cpu_s = server_cpu_s(s);
    process_pause_ms(1500);
    cpu_s = server_cpu_s(s) - cpu_s;
    cr_expect(cpu_s < 0.05 * server_slowness() * (process_now_s() - begin),
              "%.2f s of CPU time for nothing", cpu_s);
    expect_digit(http_post(s, "/classify", "application/octet-stream", digit_pixels(4), 784), 4, 5,
                 "beside it");
    const char *last = client_read_all(c);
    cr_expect(strncmp(last, "HTTP/1.1 408 ", 13) == 0, "%s", last);
    cr_expect(http_metric_wait(s, "convd_inflight_requests", 1, 1, 20), "it is still there");
    client_close(c);
    server_stop(s);
}

/* Answers pile up in front of a client that does not read; it goes the way of the silent ones. */
Test(slow, a_client_that_does_not_read)
{
    enum { REQUESTS = 2000 };
    struct server *s = server_start_with("--idle-timeout", "2s");
    struct body b = {0};
    for (int i = 0; i < REQUESTS; i++)
        body_printf(&b, "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n\r\n");
    struct client *c = client_connect(s);
    double begin = process_now_s();
    client_send(c, b.bytes, b.len);
    cr_assert(http_metric_wait(s, "convd_inflight_requests", 2, 2, 20), "nothing piles up");
    cr_assert(http_metric_wait(s, "convd_inflight_requests", 1, 1, 20), "it is still there");
    cr_expect(process_now_s() - begin > 1);
    expect_digit(http_post(s, "/classify", "application/octet-stream", digit_pixels(4), 784), 4, 5,
                 "afterwards");
    client_close(c);
    server_stop(s);
}

/* A proxy that passes bodies on as they come passes on as well what we say about a slow one. */
static void behind(enum proxy_kind kind)
{
    struct server *s = server_start(NULL);
    struct server *proxy = proxy_start(&(struct proxy_options){.kind = kind, .ports = {s->port}});
    struct client *c = client_connect(proxy);
    double begin = process_now_s();
    client_printf(c, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 784\r\n\r\n");
    while (!client_readable(c)) {
        cr_assert(process_now_s() - begin < 60 * server_slowness(), "it is still there");
        client_send(c, "z", 1);
        process_pause_ms(200);
    }
    response_expect_error(client_read(c, false), 408, "request_timeout", proxy_name(kind));
    client_close(c);
    proxy_stop(proxy);
    server_stop(s);
}

Test(slow, behind_nginx)
{
    behind(PROXY_NGINX_UNBUFFERED);
}

Test(slow, behind_haproxy)
{
    behind(PROXY_HAPROXY);
}

/* Whose client has closed its side does not live on as an idle connection, whatever was sent with
 * that end: libmicrohttpd does not see an end that comes together with bytes. */
Test(slow, ends_with_its_client)
{
    static const char *const texts[] = {
        "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /liv",
        "GET / HTTP/1.1\r\nHo",
        "\x16\x03\x01",
        "",
    };
    enum { TEXTS = sizeof texts / sizeof *texts, EACH = 5 };
    struct server *s = server_start(NULL);
    struct client *clients[TEXTS * EACH];
    for (size_t i = 0; i < TEXTS * EACH; i++) {
        clients[i] = client_connect(s);
        client_send(clients[i], texts[i % TEXTS], strlen(texts[i % TEXTS]));
        client_half_close(clients[i]);
    }
    for (size_t i = 0; i < TEXTS * EACH; i++)
        client_read_all(clients[i]); /* fails when there is no end */
    server_stop(s);
}
