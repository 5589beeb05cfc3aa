/*
 * Clients that do at random what clients do: ask, wait, leave in the middle of a body or of the
 * wait for an answer, read slowly, give little time; and a server that is told to load its models
 * anew and to stop while they do. Every answer must be the right one or an honest refusal, and the
 * server must end with status 0. It is under ThreadSanitizer and AddressSanitizer that this finds
 * most: a daemon of its own, no thread of which is known to be after another because of a client.
 *
 * $SEED is the seed of the first round (default 1).
 */
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 6, CLIENTS = 8, IMAGES = 40, RESPONSE_BYTES = 65536 };

/* What all clients of a round share. */
struct round {
    unsigned port;
    atomic_bool stop;
    atomic_uint answers[6]; /* by the first digit of the status; 0: the connection ended */
    atomic_bool failed;
    char failure[512];
    const char *raw[10], *json[10], *multipart; /* complete requests */
    size_t raw_len[10], json_len[10], multipart_len;
};

struct visitor {
    struct round *round;
    uint64_t state;
    int fd;
    char text[RESPONSE_BYTES + 1]; /* received and not yet used */
    size_t len;
};

static uint64_t splitmix(uint64_t *state)
{
    uint64_t x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static unsigned roll(struct visitor *v, unsigned sides)
{
    return (unsigned)(splitmix(&v->state) % sides);
}

static void pause_us(unsigned us)
{
    nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000L}, NULL);
}

static void fail(struct visitor *v, const char *what)
{
    struct round *r = v->round;
    if (!atomic_exchange(&r->failed, true))
        snprintf(r->failure, sizeof r->failure, "%.200s: %.300s", what, v->text);
}

/* ---------------------------------------------------------------- connections */

/* Nothing here is an assertion: servers that stop refuse and cut connections. */
static bool enter(struct visitor *v)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)v->round->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {30 * server_slowness(), 0};
    v->len = 0;
    v->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(v->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(v->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(v->fd, (struct sockaddr *)&address, sizeof address) == 0)
        return true;
    close(v->fd);
    return false;
}

static void leave(struct visitor *v, bool reset)
{
    struct linger linger = {1, 0};
    if (reset)
        setsockopt(v->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(v->fd);
}

static bool put(struct visitor *v, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(v->fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

static bool put_text(struct visitor *v, const char *text)
{
    return put(v, text, strlen(text));
}

/* Receives more; false at the end of the connection. */
static bool more(struct visitor *v)
{
    if (v->len == RESPONSE_BYTES) {
        fail(v, "a response without end");
        return false;
    }
    ssize_t n = recv(v->fd, v->text + v->len, RESPONSE_BYTES - v->len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        fail(v, "no answer");
    if (n <= 0)
        return false;
    v->len += (size_t)n;
    v->text[v->len] = '\0';
    return true;
}

/* One response: its status, with the body in `body`; 0 when the connection ends before. */
static int get(struct visitor *v, char *body)
{
    const char *end;
    v->text[v->len] = '\0';
    while ((end = strstr(v->text, "\r\n\r\n")) == NULL)
        if (!more(v))
            return 0;
    const char *length = strstr(v->text, "Content-Length: ");
    int status = atoi(v->text + 9);
    if (strncmp(v->text, "HTTP/1.1 ", 9) != 0 || status < 200 || length == NULL || length > end) {
        fail(v, "not a response");
        return 0;
    }
    size_t head = (size_t)(end + 4 - v->text), body_len = strtoul(length + 16, NULL, 10);
    while (v->len < head + body_len)
        if (!more(v))
            return 0;
    memcpy(body, v->text + head, body_len);
    body[body_len] = '\0';
    v->len -= head + body_len;
    memmove(v->text, v->text + head + body_len, v->len);
    atomic_fetch_add(&v->round->answers[status / 100], 1);
    return status;
}

/* Reads the answer to a classification of `images` times this digit. */
static bool get_digit(struct visitor *v, int digit, unsigned images)
{
    static _Thread_local char body[RESPONSE_BYTES + 1];
    char label[24];
    unsigned count = 0;
    int status = get(v, body);
    if (status == 200) {
        snprintf(label, sizeof label, images > 1 ? "{\"label\":\"%d\"" : ",\"label\":\"%d\"",
                 digit);
        for (const char *at = body; (at = strstr(at, label)) != NULL; at++)
            count++;
        if (images > 1 ? count != images : count == 0)
            fail(v, body);
    } else if (status != 0 && status != 503 && status != 504) {
        fail(v, body);
    }
    return status == 200;
}

/* ---------------------------------------------------------------- what they do */

static void ask(struct visitor *v)
{
    for (unsigned n = 1 + roll(v, 5); n > 0; n--) {
        unsigned d = roll(v, 10), many = roll(v, 2);
        if (!put(v, many ? v->round->json[d] : v->round->raw[d],
                 many ? v->round->json_len[d] : v->round->raw_len[d]) ||
            !get_digit(v, (int)d, many ? IMAGES : 1))
            break;
    }
}

static void pipeline(struct visitor *v)
{
    unsigned first = roll(v, 10), count = 2 + roll(v, 4);
    for (unsigned i = 0; i < count; i++)
        put(v, v->round->raw[(first + i) % 10], v->round->raw_len[(first + i) % 10]);
    for (unsigned i = 0; i < count && get_digit(v, (int)((first + i) % 10), 1); i++)
        continue;
}

static void leave_in_the_body(struct visitor *v)
{
    const struct round *r = v->round;
    put(v, r->multipart, 1 + roll(v, (unsigned)r->multipart_len - 1));
    pause_us(roll(v, 2000));
}

static void leave_while_it_waits(struct visitor *v)
{
    unsigned d = roll(v, 10);
    put(v, v->round->json[d], v->round->json_len[d]);
    if (roll(v, 2))
        shutdown(v->fd, SHUT_WR);
    pause_us(roll(v, 3000));
}

static void be_in_a_hurry(struct visitor *v)
{
    char head[160];
    for (unsigned n = 1 + roll(v, 8); n > 0; n--) {
        unsigned d = roll(v, 10);
        const char *body = strstr(v->round->raw[d], "\r\n\r\n") + 4;
        snprintf(head, sizeof head,
                 "POST /classify HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: %u\r\nContent-Type: "
                 "application/octet-stream\r\nContent-Length: 784\r\n\r\n",
                 1 + roll(v, 4));
        if (!put_text(v, head) || !put(v, body, 784))
            break;
        get_digit(v, (int)d, 1);
    }
}

static void dribble(struct visitor *v)
{
    const char *body = strstr(v->round->raw[6], "\r\n\r\n") + 4;
    put_text(v, "PUT /classify/lenet5/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                "Content-Type: application/octet-stream\r\n\r\n");
    for (unsigned i = 0; i < 8; i++) {
        put_text(v, "62\r\n");
        put(v, body + i * 98, 98);
        put_text(v, "\r\n");
        pause_us(roll(v, 1000));
    }
    if (put_text(v, "0\r\n\r\n"))
        get_digit(v, 6, 1);
}

/* Pages are long; a reader who takes a little now and then keeps them in the server's hands. */
static void read_slowly(struct visitor *v)
{
    int room = 4096;
    setsockopt(v->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    for (unsigned i = 0; i < 6; i++)
        put_text(v, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    for (unsigned n = roll(v, 30); n > 0; n--) {
        if (recv(v->fd, v->text, 1 + roll(v, 4000), MSG_DONTWAIT) == 0)
            break;
        pause_us(roll(v, 500));
    }
}

static void look_around(struct visitor *v)
{
    static const char *const targets[] = {
        "/metrics", "/models", "/models/lenet5", "/readyz?verbose", "/livez", "/", "/none", "/%zz"};
    static _Thread_local char body[RESPONSE_BYTES + 1];
    char line[80];
    for (unsigned n = 1 + roll(v, 6); n > 0; n--) {
        snprintf(line, sizeof line, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", targets[roll(v, 8)]);
        if (!put_text(v, line) || get(v, body) == 0)
            break;
    }
}

static void talk_nonsense(struct visitor *v)
{
    static const char *const nonsense[] = {
        "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\nabc",
        "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        "POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\nabc",
        ("POST /classify HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: "
         "5\r\n\r\n12345"),
        "POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "GET / HTTP/1.1\r\nHo",
        "\x16\x03\x01",
    };
    put_text(v, nonsense[roll(v, 8)]);
    pause_us(roll(v, 1000));
    recv(v->fd, v->text, RESPONSE_BYTES, MSG_DONTWAIT);
}

static void *visit(void *arg)
{
    static void (*const things[])(struct visitor *) = {
        ask,           ask,     pipeline,    leave_in_the_body, leave_while_it_waits,
        be_in_a_hurry, dribble, read_slowly, look_around,       talk_nonsense,
    };
    struct visitor *v = arg;
    while (!atomic_load(&v->round->stop)) {
        if (!enter(v)) {
            pause_us(1000);
            continue;
        }
        things[roll(v, sizeof things / sizeof *things)](v);
        leave(v, roll(v, 2));
    }
    return NULL;
}

/* ---------------------------------------------------------------- rounds */

static void prepare(struct round *r)
{
    for (int d = 0; d < 10; d++) {
        struct body raw = {0}, pixels = {0}, json = {0};
        uint8_t *copies = data_alloc((size_t)IMAGES * 784);
        for (size_t i = 0; i < IMAGES; i++)
            memcpy(copies + i * 784, digit_pixels(d), 784);
        body_printf(&raw, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: "
                          "application/octet-stream\r\nContent-Length: 784\r\n\r\n");
        body_add(&raw, copies, 784);
        body_printf(&pixels, "{\"pixels\":");
        body_pixels(&pixels, copies, (const unsigned[]){IMAGES, 28, 28, 1}, 4);
        body_printf(&pixels, "}");
        body_printf(&json,
                    "POST /classify?top_k=1 HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                    pixels.len);
        body_add(&json, pixels.bytes, pixels.len);
        r->raw[d] = raw.bytes;
        r->raw_len[d] = raw.len;
        r->json[d] = json.bytes;
        r->json_len[d] = json.len;
    }
    struct body parts = {0}, whole = {0};
    struct data png = data_read("paper-3.png");
    for (int i = 0; i < 8; i++)
        body_part(&parts, "file", "3.png", png.bytes, png.len);
    body_end_parts(&parts);
    body_printf(&whole,
                "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: " BODY_MULTIPART
                "\r\nContent-Length: %zu\r\n\r\n",
                parts.len);
    body_add(&whole, parts.bytes, parts.len);
    r->multipart = whole.bytes;
    r->multipart_len = whole.len;
}

static struct server *start(struct visitor *dice)
{
    static const char *const threads[] = {"1", "2", "3"}, *const delays[] = {"0", "0", "3000"};
    static const char *const batches[] = {"1", "8", "32"}, *const queues[] = {"64", "256", "4096"};
    static const char *const connections[] = {"4", "64"}, *const drains[] = {"0ms", "50ms", "5s"};
    return server_start_with("--threads", threads[roll(dice, 3)], "--io-threads",
                             threads[roll(dice, 2)], "--max-delay-us", delays[roll(dice, 3)],
                             "--max-batch", batches[roll(dice, 3)], "--max-queue",
                             queues[roll(dice, 3)], "--max-connections", connections[roll(dice, 2)],
                             "--drain-timeout", drains[roll(dice, 3)], "--drain-delay",
                             drains[roll(dice, 2)], "--max-body", "256K");
}

Test(random, clients_and_a_server_that_stops, .timeout = 600)
{
    const char *given = getenv("SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : 1;
    struct round r = {.port = 0};
    unsigned served = 0;
    prepare(&r);
    for (uint64_t end = seed + ROUNDS; seed < end; seed++) {
        struct visitor *visitors = data_alloc((CLIENTS + 1) * sizeof *visitors);
        struct visitor *dice = &visitors[CLIENTS];
        pthread_t threads[CLIENTS];
        dice->state = seed;
        struct server *s = start(dice);
        r.port = s->port;
        atomic_store(&r.stop, false);
        for (int i = 0; i < CLIENTS; i++) {
            visitors[i].round = &r;
            visitors[i].state = splitmix(&dice->state);
            cr_assert(pthread_create(&threads[i], NULL, visit, &visitors[i]) == 0);
        }
        for (unsigned i = roll(dice, 4); i < 5; i++) {
            pause_us((20000 + roll(dice, 100000)) * (server_slowness() > 1 ? 3 : 1));
            server_signal(s, SIGHUP);
        }
        server_signal(s, SIGTERM);
        int status = server_wait(s, 30.0 * server_slowness());
        atomic_store(&r.stop, true);
        for (int i = 0; i < CLIENTS; i++)
            pthread_join(threads[i], NULL);
        const char *log = server_log(s);
        cr_assert(status == 0, "seed %llu: ended with status %d:\n%s", (unsigned long long)seed,
                  status, server_log_tail(s));
        cr_assert(strstr(log, "Sanitizer") == NULL && strstr(log, "runtime error:") == NULL,
                  "seed %llu:\n%s", (unsigned long long)seed, log);
        cr_assert(!atomic_load(&r.failed), "seed %llu: %s", (unsigned long long)seed, r.failure);
        served += atomic_exchange(&r.answers[2], 0);
    }
    cr_assert_gt(served, 20, "hardly anyone was served");
}
