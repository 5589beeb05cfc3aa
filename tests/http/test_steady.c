/*
 * The steady state: once warm, a request on an open connection allocates nothing but what
 * libmicrohttpd does by itself; and what a storm has taken is returned.
 */
#include "tests/support/faults.h"
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <stdlib.h>

enum { WARM = 30, COUNTED = 100 };

static void classify(struct client *c, const void *body, size_t len, int digit)
{
    client_printf(c,
                  "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
                  "Content-Length: %zu\r\n\r\n",
                  len);
    client_send(c, body, len);
    expect_digit(client_read(c, false), digit, 5, "steady");
}

static void expect_no_allocations(const void *body, size_t len, int digit)
{
    const char *sanitizer = getenv("SANITIZER");
    if (sanitizer != NULL && strcmp(sanitizer, "address") == 0)
        cr_skip_test("nothing is kept for reuse under this sanitizer");
    struct alloc_hook *hook;
    struct server *s = faults_server_start(
        (const char *const[]){"--threads", "2", "--access-log", "false", NULL}, &hook);
    struct client *c = client_connect(s);
    for (int i = 0; i < WARM; i++)
        classify(c, body, len, digit);
    atomic_store(&hook->counting, true);
    for (int i = 0; i < COUNTED; i++)
        classify(c, body, len, digit);
    atomic_store(&hook->counting, false);
    unsigned long library = 0, own = 0;
    const char *places = "";
    for (int i = 0; i < ALLOC_HOOK_SITES; i++) {
        const struct alloc_site *site = &hook->sites[i];
        unsigned long count = atomic_load(&site->count);
        if (strncmp(site->object, "libmicrohttpd.", 14) == 0) {
            library += count;
        } else if (count > 0) {
            own += count;
            places = data_printf("%s%s+0x%lx: %lu\n", places, site->object,
                                 (unsigned long)site->offset, count);
        }
    }
    cr_expect_gt(library, 0, "the library's own allocations were not seen");
    cr_expect_eq(atomic_load(&hook->unplaced), 0);
    /* The first time that blocks are in two hands at once, there is one more. */
    cr_expect_lt(own, COUNTED / 10, "%lu allocations in %d requests, of the library %lu:\n%s", own,
                 COUNTED, library, places);
    client_close(c);
    server_stop(s);
}

Test(steady, raw_octets)
{
    expect_no_allocations(digit_pixels(3), 784, 3);
}

Test(steady, png)
{
    struct data png = data_read("digit-7.png");
    expect_no_allocations(png.bytes, png.len, 7);
}

Test(steady, jpeg)
{
    struct data jpeg = data_read("paper-8.jpg");
    expect_no_allocations(jpeg.bytes, jpeg.len, 8);
}

Test(steady, json)
{
    struct data png = data_read("digit-5.png");
    struct body pixels = {0}, file = {0};
    body_printf(&pixels, "{\"pixels\":");
    body_pixels(&pixels, digit_pixels(9), (const unsigned[]){28, 28}, 2);
    body_printf(&pixels, "}");
    expect_no_allocations(pixels.bytes, pixels.len, 9);
    body_printf(&file, "{\"image\": \"");
    body_base64(&file, png.bytes, png.len);
    body_printf(&file, "\"}");
    expect_no_allocations(file.bytes, file.len, 5);
}

static double resident_mb(const struct server *s)
{
    return http_metric(s, "process_resident_memory_bytes") / (1 << 20);
}

/* Many connections take memory of the library's, and long bodies some of ours; when they have gone
 * the system gets it back, and the next storm needs no more than the first. */
Test(steady, memory_is_returned_after_a_storm)
{
    enum { CLIENTS = 450, LENGTH = 60000 };
    const char *sanitizer = getenv("SANITIZER");
    if (sanitizer != NULL && *sanitizer != '\0')
        cr_skip_test("sanitizers keep what is freed");
    struct server *s = server_start_with("--access-log", "false");
    char *bytes = data_alloc(LENGTH);
    double calm = 0, most = 0, after = 0, full = 0;
    for (int storm = 0; storm < 3; storm++) {
        struct client *clients[CLIENTS];
        for (int i = 0; i < CLIENTS; i++) {
            clients[i] = client_connect(s);
            classify(clients[i], digit_pixels(3), 784, 3);
        }
        for (int i = 0; i < CLIENTS; i++) {
            client_printf(clients[i],
                          "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
                          LENGTH);
            client_send(clients[i], bytes, LENGTH - 1);
        }
        for (int i = 0; i < 200 && (full = resident_mb(s)) <= 40; i++)
            process_pause_ms(100);
        process_pause_ms(2500); /* who looks once a second has to see it */
        most = full > most ? full : most;
        for (int i = 0; i < CLIENTS; i++)
            client_close(clients[i]);
        cr_assert(http_metric_wait(s, "convd_inflight_requests", 1, 1, 20));
        double enough = storm == 0 ? most / 2 : calm + 4;
        for (int i = 0; i < 200 && (after = resident_mb(s)) >= enough; i++)
            process_pause_ms(100);
        if (storm == 0)
            calm = after;
    }
    cr_expect_gt(most, 40, "only %.1f MB were in use", most);
    cr_expect_lt(calm, most / 2, "%.1f MB of %.1f MB are kept", calm, most);
    cr_expect_lt(after, calm + 4, "%.1f MB after the third storm, %.1f MB after the first", after,
                 calm);
    server_stop(s);
}
