/*
 * The log: producers copy finished lines into one of two buffers, a thread writes the other one
 * out. The buffers swap when the writer is done, so that a burst of lines costs one wake-up and few
 * system calls, and a stderr that does not move costs lines, never a waiting producer.
 */
#include "server/log.h"

#include "server/clock.h"
#include "server/utf8.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES  (256 * 1024)
#define LINE_BYTES    4096
#define VALUE_BYTES   512 /* longer values are cut */
#define MESSAGE_BYTES 1024
#define GATHER_NS     10000000u   /* lines of these 10 ms are written together */
#define LAST_WORDS_NS 1000000000u /* log_destroy() waits this long for stderr */
#define LIMIT_FORMATS 64
#define LIMIT_PER_S   10

struct limit {
    const char *format;
    uint64_t since_ns;
    unsigned passed, held;
};

struct log {
    enum config_log_level level;
    enum config_log_format format;
    pthread_t thread;
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t wake;
    char *fill, *drain; /* BUFFER_BYTES each; drain is the writer's alone */
    size_t fill_len;
    unsigned long lost;
    bool idle, stopping;
    uint64_t give_up_ns;
    /* The last entry serves every format that found no entry of its own. */
    struct limit limits[LIMIT_FORMATS];
};

/* ---- lines ---- */

struct line {
    enum config_log_format format;
    char data[LINE_BYTES];
    size_t len;
};
#define LINE_RESERVE 16 /* for closing quotes, braces and the newline */

static bool line_room(const struct line *l, size_t n)
{
    return l->len + n + LINE_RESERVE <= sizeof l->data;
}

static void line_puts(struct line *l, const char *s)
{
    size_t n = strlen(s);

    if (line_room(l, n)) {
        memcpy(l->data + l->len, s, n);
        l->len += n;
    }
}

/* A quoted string in JSON's escapes, in both formats: a line stays one line of valid UTF-8 whatever
 * a client sent. */
static void line_quoted(struct line *l, const char *s, size_t max)
{
    const char *end = s + strnlen(s, max);

    l->data[l->len++] = '"';
    while (s < end && line_room(l, 6)) {
        size_t n = utf8_length(s);
        if (*s == '"' || *s == '\\') {
            l->data[l->len++] = '\\';
            l->data[l->len++] = *s;
        } else if (n == 1 && ((unsigned char)*s < 0x20 || *s == 0x7F)) {
            l->len += (size_t)snprintf(l->data + l->len, 7, "\\u%04x", (unsigned char)*s);
        } else if (n == 0) {
            line_puts(l, UTF8_REPLACEMENT);
            n = 1;
        } else {
            memcpy(l->data + l->len, s, n);
            l->len += n;
        }
        s += n;
    }
    l->data[l->len++] = '"';
}

static bool needs_quotes(const char *value)
{
    if (!*value)
        return true;
    for (; *value; value++)
        if ((unsigned char)*value <= 0x20 || (unsigned char)*value >= 0x7F || *value == '"' ||
            *value == '\\' || *value == '=')
            return true;
    return false;
}

static void line_field(struct line *l, const char *key, const char *value)
{
    bool number = *key == '#';

    if (!value || !line_room(l, strlen(key) + 8))
        return;
    key += number;
    if (l->format == LOG_JSON) {
        line_puts(l, ",\"");
        line_puts(l, key);
        line_puts(l, "\":");
    } else {
        line_puts(l, " ");
        line_puts(l, key);
        line_puts(l, "=");
    }
    if (l->format == LOG_JSON ? !number : needs_quotes(value))
        line_quoted(l, value, VALUE_BYTES);
    else
        line_puts(l, value);
}

/* "2026-01-31T23:59:59.999Z". The part before the milliseconds is made once a second and thread. */
#define STAMP_BYTES sizeof "2026-01-31T23:59:59.999Z"
static void stamp_now(char out[STAMP_BYTES])
{
    static _Thread_local struct {
        time_t second;
        char text[STAMP_BYTES];
    } last;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (!last.text[0] || last.second != now.tv_sec) {
        struct tm tm;
        gmtime_r(&now.tv_sec, &tm);
        strftime(last.text, sizeof last.text, "%Y-%m-%dT%H:%M:%S.000Z", &tm);
        last.second = now.tv_sec;
    }
    memcpy(out, last.text, STAMP_BYTES);
    for (long ms = now.tv_nsec / 1000000, at = STAMP_BYTES - 3; ms > 0; ms /= 10, at--)
        out[at] = (char)('0' + ms % 10);
}

static void line_begin(struct line *l, enum config_log_format format, enum config_log_level level,
                       const char *message)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    char stamp[STAMP_BYTES];

    stamp_now(stamp);
    l->format = format;
    l->len = 0;
    if (format == LOG_JSON) {
        line_puts(l, "{\"time\":\"");
        line_puts(l, stamp);
        line_puts(l, "\",\"level\":\"");
        line_puts(l, names[level]);
        line_puts(l, "\",\"msg\":");
    } else {
        line_puts(l, "time=");
        line_puts(l, stamp);
        line_puts(l, " level=");
        line_puts(l, names[level]);
        line_puts(l, " msg=");
    }
    line_quoted(l, message, MESSAGE_BYTES);
}

static void line_end(struct line *l)
{
    if (l->format == LOG_JSON)
        l->data[l->len++] = '}';
    l->data[l->len++] = '\n';
}

static void line_store(struct log *log, const struct line *l)
{
    pthread_mutex_lock(&log->lock);
    bool wake = log->idle;
    if (l->len <= BUFFER_BYTES - log->fill_len) {
        memcpy(log->fill + log->fill_len, l->data, l->len);
        log->fill_len += l->len;
        wake |= log->fill_len > BUFFER_BYTES / 2;
    } else {
        log->lost++;
    }
    if (wake)
        pthread_cond_signal(&log->wake);
    pthread_mutex_unlock(&log->lock);
}

/* ---- the writer ---- */

/*
 * Writes to stderr without ever being stuck in it: poll() first, then at most what a pipe that
 * polls writable takes at once. The descriptor's flags are left alone; other processes share them.
 */
static void write_out(struct log *log, const char *data, size_t len)
{
    while (len > 0) {
        struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
        int ready = poll(&p, 1, 50);
        if (ready > 0) {
            ssize_t n = write(STDERR_FILENO, data, len < PIPE_BUF ? len : PIPE_BUF);
            if (n < 0 && errno != EINTR && errno != EAGAIN)
                return; /* closed: these lines are gone, the next ones are tried again */
            if (n > 0) {
                data += n;
                len -= (size_t)n;
            }
        }
        pthread_mutex_lock(&log->lock);
        bool give_up = log->stopping && clock_ns() >= log->give_up_ns;
        pthread_mutex_unlock(&log->lock);
        if (give_up)
            return;
    }
}

static void wait_until(struct log *log, uint64_t when_ns)
{
    struct timespec t = {.tv_sec = (time_t)(when_ns / 1000000000u),
                         .tv_nsec = (long)(when_ns % 1000000000u)};

    while (!log->stopping && log->fill_len <= BUFFER_BYTES / 2)
        if (pthread_cond_timedwait(&log->wake, &log->lock, &t) != 0)
            return;
}

static void *writer(void *arg)
{
    struct log *log = arg;

    pthread_mutex_lock(&log->lock);
    for (;;) {
        while (log->fill_len == 0 && log->lost == 0 && !log->stopping) {
            log->idle = true;
            pthread_cond_wait(&log->wake, &log->lock);
        }
        log->idle = false;
        if (log->fill_len == 0 && log->lost == 0)
            break;
        char *data = log->fill;
        size_t len = log->fill_len;
        unsigned long lost = log->lost;
        log->fill = log->drain;
        log->drain = data;
        log->fill_len = 0;
        log->lost = 0;
        pthread_mutex_unlock(&log->lock);

        write_out(log, data, len);
        if (lost) {
            struct line l;
            char count[24];
            snprintf(count, sizeof count, "%lu", lost);
            line_begin(&l, log->format, LOG_WARN, "log lines lost: stderr is too slow");
            line_field(&l, "#lines", count);
            line_end(&l);
            write_out(log, l.data, l.len);
        }

        pthread_mutex_lock(&log->lock);
        wait_until(log, clock_ns() + GATHER_NS);
    }
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

struct log *log_create(enum config_log_level level, enum config_log_format format)
{
    struct log *log = calloc(1, sizeof *log);
    pthread_condattr_t attr;
    sigset_t all, old;

    if (!log)
        return NULL;
    log->level = level;
    log->format = format;
    log->fill = malloc(BUFFER_BYTES);
    log->drain = malloc(BUFFER_BYTES);
    pthread_mutex_init(&log->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&log->wake, &attr);
    pthread_condattr_destroy(&attr);
    /* Signals are for the main thread; and SIGPIPE must not end the process. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = log->fill && log->drain ? pthread_create(&log->thread, NULL, writer, log) : ENOMEM;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        goto fail;
    return log;
fail:
    pthread_cond_destroy(&log->wake);
    pthread_mutex_destroy(&log->lock);
    free(log->fill);
    free(log->drain);
    free(log);
    return NULL;
}

void log_destroy(struct log *log)
{
    if (!log)
        return;
    pthread_mutex_lock(&log->lock);
    log->stopping = true;
    log->give_up_ns = clock_ns() + LAST_WORDS_NS;
    pthread_cond_signal(&log->wake);
    pthread_mutex_unlock(&log->lock);
    pthread_join(log->thread, NULL);
    pthread_cond_destroy(&log->wake);
    pthread_mutex_destroy(&log->lock);
    free(log->fill);
    free(log->drain);
    free(log);
}

/* ---- events ---- */

void log_event(struct log *log, enum config_log_level level, const char *message,
               const struct log_field *fields)
{
    struct line l;

    if (level > log->level)
        return;
    line_begin(&l, log->format, level, message);
    for (; fields && fields->key; fields++)
        line_field(&l, fields->key, fields->value);
    line_end(&l);
    line_store(log, &l);
}

void log_printf(struct log *log, enum config_log_level level, const char *format, ...)
{
    char message[MESSAGE_BYTES];
    va_list args;

    if (level > log->level)
        return;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    log_event(log, level, message, NULL);
}

/* Whether a line of this format may pass now; *held is how many did not since the last one. */
static bool pass(struct log *log, const char *format, unsigned *held)
{
    struct limit *e = log->limits;
    uint64_t now_ns = clock_ns();

    pthread_mutex_lock(&log->lock);
    while (e < &log->limits[LIMIT_FORMATS - 1] && e->format && e->format != format)
        e++;
    if (!e->format || now_ns - e->since_ns >= 1000000000u) {
        e->format = format;
        e->since_ns = now_ns;
        e->passed = 0;
    }
    bool ok = e->passed < LIMIT_PER_S;
    if (ok) {
        e->passed++;
        *held = e->held;
        e->held = 0;
    } else {
        e->held++;
    }
    pthread_mutex_unlock(&log->lock);
    return ok;
}

void log_limitedv(struct log *log, enum config_log_level level, const char *format, va_list args)
{
    char message[MESSAGE_BYTES], count[16];
    unsigned held;

    if (level > log->level || !pass(log, format, &held))
        return;
    vsnprintf(message, sizeof message, format, args);
    message[strcspn(message, "\n")] = '\0';
    snprintf(count, sizeof count, "%u", held);
    log_event(log, level, message,
              (const struct log_field[]){{"#held_back", held ? count : NULL}, {NULL, NULL}});
}

void log_limited(struct log *log, enum config_log_level level, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_limitedv(log, level, format, args);
    va_end(args);
}
