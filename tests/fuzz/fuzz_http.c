/*
 * Fuzz target: what a client writes to its connection, to a daemon of the real parts in this
 * process. Whatever it is, the answers are well-formed, nothing follows one that closes the
 * connection, the connection ends after the client's side has, and another client is served. The
 * end may take the guard a second, which is waited for with one length in 32 only.
 *
 * Bytes FF FE FF stand for a pause: what is before and after them is sent apart.
 */
#include "tests/fuzz/fuzz.h"

#include "server/app.h"
#include "server/config.h"
#include "server/http.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/registry.h"

#include <convd/engine.h>

#include <errno.h>
#include <jansson.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_MS = 2, END_MS = 30, PATIENCE_S = 30, TEXT_BYTES = 1 << 20 };

static struct app app;
static struct config config;
static struct http *http;
static uint16_t port;
static char text[TEXT_BYTES + 1]; /* all that one connection was answered */

/* ---------------------------------------------------------------- the daemon */

static void stop(void)
{
    atomic_store(&app.phase, APP_STOPPING);
    http_stop(http);
    registry_destroy(app.registry);
    metrics_destroy(app.metrics);
    cvd_engine_destroy(app.engine);
    log_destroy(app.log);
    config_free(&config);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct cvd_settings settings;
    (void)argc;
    (void)argv;
    signal(SIGPIPE, SIG_IGN);
    require(config_load(&config, 0, NULL, stderr) == 0);
    free(config.listen);
    config.listen = strdup("127.0.0.1:0");
    config.threads = config.io_threads = 1;
    config.max_body = 4096;
    config.log_level = LOG_ERROR;
    config.access_log = false;
    cvd_settings_default(&settings);
    settings.threads = config.threads;
    require(cvd_engine_create(&settings, &app.engine, NULL) == CVD_STATUS_OK);
    app.config = &config;
    app.log = log_create(config.log_level, config.log_format);
    app.metrics = metrics_create("any");
    app.registry = registry_create(app.engine, &config, app.metrics, app.log);
    require(registry_load(app.registry, NULL) == CVD_STATUS_OK);
    require(http_start(&app, HTTP_DATA, &http, NULL) == CVD_STATUS_OK);
    atomic_store(&app.phase, APP_READY);
    port = (uint16_t)strtoul(strrchr(http_address(http), ':') + 1, NULL, 10);
    atexit(stop);
    return 0;
}

/* ---------------------------------------------------------------- a client */

static int enter(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {PATIENCE_S, 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    require(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

/* Receives once; false at the end of the connection, which must come in time. */
static bool more(int fd, size_t *len)
{
    require(*len < TEXT_BYTES);
    ssize_t n;
    do /* stopped and continued, a wait with a time limit is interrupted */
        n = recv(fd, text + *len, TEXT_BYTES - *len, 0);
    while (n < 0 && errno == EINTR);
    require(n >= 0 || errno == ECONNRESET);
    *len += n > 0 ? (size_t)n : 0;
    text[*len] = '\0';
    return n > 0;
}

static void send_all(int fd, const uint8_t *data, size_t len)
{
    while (len > 0) {
        const uint8_t *mark = memmem(data, len, "\xFF\xFE\xFF", 3);
        size_t piece = mark ? (size_t)(mark - data) : len;
        if (piece > 0 && send(fd, data, piece, MSG_NOSIGNAL) != (ssize_t)piece)
            return;
        if (mark)
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        data += piece + (mark ? 3 : 0);
        len -= piece + (mark ? 3 : 0);
    }
}

/* ---------------------------------------------------------------- what it is answered */

/* A header's value up to its line's end, or NULL. */
static const char *header(const char *head, const char *end, const char *name)
{
    size_t len = strlen(name);
    const char *found = NULL;
    for (const char *line = strstr(head, "\r\n") + 2; line < end; line = strstr(line, "\r\n") + 2) {
        size_t name_len = strcspn(line, ":\r\n \t");
        require(name_len > 0 && line[name_len] == ':');
        if (name_len != len || strncasecmp(line, name, len) != 0)
            continue;
        require(!found);
        found = line + len + 1 + strspn(line + len + 1, " ");
    }
    return found;
}

/* An error of convd's own, as opposed to one of the HTTP library. */
static void check_error(const char *body, size_t len)
{
    json_t *root = json_loadb(body, len, JSON_REJECT_DUPLICATES, NULL);
    const json_t *error = json_object_get(root, "error");
    require(json_is_string(json_object_get(error, "code")));
    require(json_is_string(json_object_get(error, "message")));
    json_decref(root);
}

/* Checks one response and returns what follows it; NULL when nothing may. */
static const char *check_response(const char *at, const char *end)
{
    require(strncmp(at, "HTTP/1.1 ", 9) == 0);
    const char *head_end = memmem(at, (size_t)(end - at), "\r\n\r\n", 4);
    require(head_end != NULL && strlen(at) >= (size_t)(head_end - at));
    int status = atoi(at + 9);
    require(status >= 100 && status < 600);
    const char *body = head_end + 4;
    if (status < 200)
        return body;
    const char *length = header(at, head_end, "Content-Length");
    const char *connection = header(at, head_end, "Connection");
    require(length && !header(at, head_end, "Transfer-Encoding"));
    size_t len = strtoul(length, NULL, 10);
    /* The answer to HEAD has no body. */
    bool absent = body == end || strncmp(body, "HTTP/1.1 ", 9) == 0;
    bool closes = connection && strncasecmp(connection, "close", 5) == 0;
    bool own = header(at, head_end, "X-Request-Id") != NULL;
    if (!absent) {
        require((size_t)(end - body) >= len);
        if (own && status >= 400)
            check_error(body, len);
        body += len;
    }
    /* The library writes the header of some errors twice, and closes. */
    if (closes || !own)
        require(!strstr(body, "HTTP/1.1 2"));
    return closes ? NULL : body;
}

static void serve_another(void)
{
    static const char request[] = "GET /models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    size_t len = 0;
    int fd = enter();
    require(send(fd, request, sizeof request - 1, MSG_NOSIGNAL) == sizeof request - 1);
    while (more(fd, &len))
        continue;
    close(fd);
    require(strncmp(text, "HTTP/1.1 200 ", 13) == 0 && strstr(text, "\"lenet5\""));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    size_t got = 0;
    int fd = enter();
    text[0] = '\0';
    send_all(fd, data, len);
    /* An answer may be on its way; there need not be one to what is no whole request. */
    while (poll(&(struct pollfd){fd, POLLIN, 0}, 1, ANSWER_MS) > 0 && more(fd, &got))
        continue;
    shutdown(fd, SHUT_WR);
    bool open = true, in_time = true;
    while (open && in_time) {
        in_time = len % 32 == 0 || poll(&(struct pollfd){fd, POLLIN, 0}, 1, END_MS) > 0;
        open = !in_time || more(fd, &got);
    }
    close(fd);
    const char *end = text + got;
    for (const char *at = open ? NULL : text; at && at < end;)
        at = check_response(at, end);
    serve_another();
    return 0;
}
