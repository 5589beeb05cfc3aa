/*
 * The steady state: once warm, a request on an open connection allocates nothing but what
 * libmicrohttpd does by itself.
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
