/* A small strict HTTP/1.1 client over a raw socket. */
#include "tests/support/client.h"
#include "tests/support/data.h"

#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_HEAD 16384

struct client {
    int fd;
    /* received and not yet used */
    char *data;
    size_t start, end, room;
};

/* ---------------------------------------------------------------- connections */

struct client *client_try_connect(const struct server *s)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(fd >= 0, "socket: %s", strerror(errno));
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct timeval patience = {20 * server_slowness(), 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)s->port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return NULL;
    }
    struct client *c = data_alloc(sizeof *c);
    c->fd = fd;
    c->room = MAX_HEAD;
    c->data = data_alloc(c->room);
    return c;
}

struct client *client_connect(const struct server *s)
{
    struct client *c = client_try_connect(s);
    cr_assert(c != NULL, "connect: %s", strerror(errno));
    return c;
}

void client_close(struct client *c)
{
    close(c->fd);
    c->fd = -1;
}

void client_reset(struct client *c)
{
    struct linger linger = {1, 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    client_close(c);
}

void client_half_close(struct client *c)
{
    shutdown(c->fd, SHUT_WR);
}

bool client_send(struct client *c, const void *bytes, size_t len)
{
    const char *p = bytes;
    while (len > 0) {
        ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

bool client_printf(struct client *c, const char *format, ...)
{
    char text[4096];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cr_assert(len >= 0 && (size_t)len < sizeof text);
    return client_send(c, text, (size_t)len);
}

bool client_send_slowly(struct client *c, const void *bytes, size_t len, size_t piece,
                        unsigned pause_us)
{
    for (size_t done = 0; done < len; done += piece) {
        size_t n = len - done < piece ? len - done : piece;
        if (!client_send(c, (const char *)bytes + done, n))
            return false;
        nanosleep(&(struct timespec){pause_us / 1000000, pause_us % 1000000 * 1000L}, NULL);
    }
    return true;
}

/* ---------------------------------------------------------------- reading */

/* Receives more; false at the end of the connection. */
static bool fill(struct client *c)
{
    if (c->end == c->room) {
        char *larger = data_alloc(2 * c->room);
        memcpy(larger, c->data + c->start, c->end - c->start);
        c->data = larger;
        c->end -= c->start;
        c->start = 0;
        c->room *= 2;
    }
    ssize_t n;
    do {
        n = recv(c->fd, c->data + c->end, c->room - c->end, 0);
    } while (n < 0 && errno == EINTR);
    cr_assert(n >= 0 || errno == ECONNRESET || errno == EPIPE, "no response: %s", strerror(errno));
    if (n <= 0)
        return false;
    c->end += (size_t)n;
    return true;
}

/* The status line and headers, with the empty line; NULL at the end of the connection. */
static char *read_head(struct client *c)
{
    for (;;) {
        const char *begin = c->data + c->start;
        const char *stop = memmem(begin, c->end - c->start, "\r\n\r\n", 4);
        if (stop != NULL) {
            size_t len = (size_t)(stop - begin) + 4;
            char *head = data_alloc(len + 1);
            memcpy(head, begin, len);
            cr_assert(strlen(head) == len, "a zero byte in a response's headers");
            c->start += len;
            return head;
        }
        cr_assert(c->end - c->start < MAX_HEAD, "response headers without end");
        if (!fill(c)) {
            cr_assert(c->end == c->start, "connection closed within response headers:\n%.*s",
                      (int)(c->end - c->start), c->data + c->start);
            return NULL;
        }
    }
}

/* Checks the form of a head and returns the status. */
static int check_head(const char *head)
{
    cr_assert((strncmp(head, "HTTP/1.1 ", 9) == 0 || strncmp(head, "HTTP/1.0 ", 9) == 0) &&
                  isdigit((unsigned char)head[9]) && isdigit((unsigned char)head[10]) &&
                  isdigit((unsigned char)head[11]) && head[12] == ' ',
              "bad status line: %s", head);
    for (const char *line = strstr(head, "\r\n") + 2; *line != '\r';
         line = strstr(line, "\r\n") + 2) {
        size_t name = strcspn(line, ":\r\n \t");
        cr_assert(name > 0 && line[name] == ':', "bad header line: %s", line);
    }
    return atoi(head + 9);
}

const char *response_header(const struct response *r, const char *name)
{
    const char *value = NULL;
    size_t len = strlen(name);
    for (const char *line = strstr(r->head, "\r\n") + 2; *line != '\r';
         line = strstr(line, "\r\n") + 2) {
        if (strncasecmp(line, name, len) != 0 || line[len] != ':')
            continue;
        cr_assert(value == NULL, "two %s headers:\n%s", name, r->head);
        const char *text = line + len + 1;
        text += strspn(text, " \t");
        value = data_printf("%.*s", (int)strcspn(text, "\r"), text);
    }
    return value;
}

const struct response *client_read(struct client *c, bool no_body)
{
    const char *head = read_head(c);
    if (head == NULL)
        return NULL;
    struct response *r = data_alloc(sizeof *r);
    r->head = head;
    r->body = "";
    r->status = check_head(head);
    if (no_body || r->status < 200 || r->status == 204 || r->status == 304)
        return r;
    const char *length = response_header(r, "Content-Length");
    cr_assert(length != NULL && isdigit((unsigned char)length[0]), "no Content-Length:\n%s", head);
    cr_assert(response_header(r, "Transfer-Encoding") == NULL, "%s", head);
    r->body_len = strtoul(length, NULL, 10);
    while (c->end - c->start < r->body_len)
        cr_assert(fill(c), "connection closed after %zu of %zu bytes of a body", c->end - c->start,
                  r->body_len);
    char *body = data_alloc(r->body_len + 1);
    memcpy(body, c->data + c->start, r->body_len);
    c->start += r->body_len;
    if (c->start == c->end)
        c->start = c->end = 0;
    r->body = body;
    return r;
}

const char *client_read_all(struct client *c)
{
    while (fill(c))
        ;
    char *text = data_alloc(c->end - c->start + 1);
    memcpy(text, c->data + c->start, c->end - c->start);
    return text;
}

bool client_readable(struct client *c)
{
    struct pollfd p = {c->fd, POLLIN, 0};
    return c->start != c->end || poll(&p, 1, 0) > 0;
}

bool client_at_end(struct client *c, double timeout_s)
{
    if (c->start != c->end)
        return false;
    struct pollfd p = {c->fd, POLLIN, 0};
    if (poll(&p, 1, (int)(timeout_s * 1000 * server_slowness())) <= 0)
        return false;
    char byte;
    ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK);
    return n == 0 || (n < 0 && errno == ECONNRESET);
}

/* ---------------------------------------------------------------- replies of convd */

json_t *response_json(const struct response *r)
{
    const char *type = response_header(r, "Content-Type");
    cr_assert(type != NULL && strcmp(type, "application/json") == 0, "not JSON:\n%s%s", r->head,
              r->body);
    json_error_t error;
    json_t *json = json_loadb(r->body, r->body_len, JSON_REJECT_DUPLICATES, &error);
    cr_assert(json != NULL, "bad JSON: %s:\n%s", error.text, r->body);
    /* Remembered where a leak checker looks. */
    *(json_t **)data_alloc(sizeof json) = json;
    return json;
}

void response_expect_error(const struct response *r, int status, const char *code, const char *what)
{
    cr_assert(r != NULL, "%s: no response", what);
    cr_assert(r->status == status, "%s: status %d instead of %d: %s", what, r->status, status,
              r->body);
    json_t *error = json_object_get(response_json(r), "error");
    const char *got = json_string_value(json_object_get(error, "code"));
    const char *message = json_string_value(json_object_get(error, "message"));
    cr_assert(got != NULL && message != NULL && message[0] != '\0', "%s: %s", what, r->body);
    cr_assert(code == NULL || strcmp(got, code) == 0, "%s: code %s instead of %s: %s", what, got,
              code, message);
    cr_assert(strchr(message, '\n') == NULL, "%s: %s", what, message);
}

const struct response *http_request(const struct server *s, const char *method, const char *target,
                                    const char *headers, const void *body, size_t body_len)
{
    struct client *c = client_connect(s);
    client_printf(c, "%s %s HTTP/1.1\r\nHost: test\r\n", method, target);
    if (headers != NULL)
        client_send(c, headers, strlen(headers));
    if (body != NULL)
        client_printf(c, "Content-Length: %zu\r\n", body_len);
    client_send(c, "\r\n", 2);
    client_send(c, body, body_len);
    const struct response *r = client_read(c, strcmp(method, "HEAD") == 0);
    cr_assert(r != NULL, "%s %s: no response\n%s", method, target, server_log_tail(s));
    client_close(c);
    return r;
}

const struct response *http_get(const struct server *s, const char *target)
{
    return http_request(s, "GET", target, NULL, NULL, 0);
}

const struct response *http_post(const struct server *s, const char *target,
                                 const char *content_type, const void *body, size_t body_len)
{
    const char *headers = NULL;
    if (content_type != NULL)
        headers = data_printf("Content-Type: %s\r\n", content_type);
    return http_request(s, "POST", target, headers, body, body_len);
}

double http_metric(const struct server *s, const char *series)
{
    const struct response *r = http_get(s, "/metrics");
    cr_assert(r->status == 200);
    size_t len = strlen(series);
    for (const char *line = r->body; line != NULL && *line != '\0';) {
        if (strncmp(line, series, len) == 0 && line[len] == ' ')
            return strtod(line + len + 1, NULL);
        line = strchr(line, '\n');
        if (line != NULL)
            line++;
    }
    return -1;
}

bool http_metric_wait(const struct server *s, const char *series, double least, double most,
                      double timeout_s)
{
    for (double waited_s = 0;; waited_s += 0.005) {
        double value = http_metric(s, series);
        if (value >= least && value <= most)
            return true;
        if (waited_s > timeout_s * server_slowness())
            return false;
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
}
