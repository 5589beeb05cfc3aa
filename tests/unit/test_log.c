/* The log: both formats, escaping, levels, the limiter, and a stderr that does not cooperate. */
#include "server/clock.h"
#include "server/log.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int capture = -1, saved = -1;

/* Standard error goes to a file in memory. */
static void begin(void)
{
    capture = memfd_create("log", 0);
    cr_assert_geq(capture, 0);
    saved = dup(STDERR_FILENO);
    dup2(capture, STDERR_FILENO);
}

/* What was written; standard error is as before. */
static const char *end(struct log *log)
{
    static char text[1 << 20];

    log_destroy(log);
    dup2(saved, STDERR_FILENO);
    ssize_t n = pread(capture, text, sizeof text - 1, 0);
    cr_assert_geq(n, 0);
    text[n] = '\0';
    return text;
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;

    for (const char *p = text; (p = strstr(p, what)) != NULL; p += strlen(what))
        n++;
    return n;
}

#define FIELDS(...)            \
    (const struct log_field[]) \
    {                          \
        __VA_ARGS__,           \
        {                      \
            NULL, NULL         \
        }                      \
    }

Test(log, text_lines)
{
    begin();
    struct log *log = log_create(LOG_INFO, LOG_TEXT);
    log_event(log, LOG_INFO, "listening",
              FIELDS({"address", "127.0.0.1:80"}, {"#n", "5"}, {"empty", ""}, {"absent", NULL},
                     {"quoted", "a \"b\"\n\x7f"}, {"equals", "a=b"}));
    const char *text = end(log);
    cr_expect_eq(strncmp(text, "time=20", 7), 0, "%s", text);
    cr_expect_eq(text[5 + 10], 'T');
    cr_expect_eq(text[5 + 23], 'Z');
    cr_expect_str_eq(strstr(text, " level="),
                     " level=info msg=\"listening\" address=127.0.0.1:80 n=5 empty=\"\" "
                     "quoted=\"a \\\"b\\\"\\u000a\\u007f\" equals=\"a=b\"\n");
}

Test(log, json_lines_are_json)
{
    begin();
    struct log *log = log_create(LOG_DEBUG, LOG_JSON);
    log_event(log, LOG_WARN, "a \"message\"\n",
              FIELDS({"#status", "200"}, {"path", "/\\\x01\"\xff\xc3\xa9"}, {"none", NULL}));
    const char *text = end(log);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    cr_assert_not_null(root, "%s", text);
    cr_expect_str_eq(json_string_value(json_object_get(root, "level")), "warn");
    cr_expect_str_eq(json_string_value(json_object_get(root, "msg")), "a \"message\"\n");
    cr_expect_eq(json_integer_value(json_object_get(root, "status")), 200);
    cr_expect_str_eq(json_string_value(json_object_get(root, "path")),
                     "/\\\x01\"\xEF\xBF\xBD\xc3\xa9");
    cr_expect_null(json_object_get(root, "none"));
    cr_expect_eq(count(text, "\n"), 1);
    json_decref(root);
}

Test(log, huge_values_leave_a_whole_line)
{
    static char big[20000];

    memset(big, '"', sizeof big - 1);
    begin();
    struct log *log = log_create(LOG_INFO, LOG_JSON);
    log_event(log, LOG_INFO, big,
              FIELDS({"a", big}, {"b", big}, {"c", big}, {"d", big}, {"#e", big}, {"f", "end"}));
    const char *text = end(log);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    cr_assert_not_null(root, "%s", text);
    cr_expect_gt(json_string_length(json_object_get(root, "a")), 100u);
    json_decref(root);
}

Test(log, levels)
{
    begin();
    struct log *log = log_create(LOG_WARN, LOG_TEXT);
    log_printf(log, LOG_ERROR, "one %d", 1);
    log_printf(log, LOG_WARN, "two");
    log_printf(log, LOG_INFO, "three");
    log_event(log, LOG_DEBUG, "four", NULL);
    log_limited(log, LOG_INFO, "five");
    const char *text = end(log);
    cr_expect_not_null(strstr(text, "level=error msg=\"one 1\""));
    cr_expect_not_null(strstr(text, "level=warn msg=\"two\""));
    cr_expect_eq(count(text, "\n"), 2, "%s", text);
}

Test(log, order_and_completeness)
{
    begin();
    struct log *log = log_create(LOG_INFO, LOG_TEXT);
    for (int i = 0; i < 2000; i++)
        log_printf(log, LOG_INFO, "line %d.", i);
    const char *text = end(log), *at = text;
    for (int i = 0; i < 2000; i++) {
        char what[32];
        snprintf(what, sizeof what, "line %d.", i);
        at = strstr(at, what);
        cr_assert_not_null(at, "%s is missing or out of order", what);
    }
}

static bool within_a_second(uint64_t begin_ns)
{
    return clock_ns() - begin_ns < 1000000000u;
}

Test(log, ten_a_second_of_each_format)
{
    const char *text;
    bool in_time;
    do { /* or more may pass, on a machine that stalls */
        begin();
        struct log *log = log_create(LOG_INFO, LOG_TEXT);
        uint64_t begin_ns = clock_ns();
        for (int i = 0; i < 1000; i++) {
            log_limited(log, LOG_INFO, "flood %d\n", i);
            if (i % 100 == 0)
                log_limited(log, LOG_INFO, "drops %d", i);
        }
        in_time = within_a_second(begin_ns);
        usleep(1050000);
        log_limited(log, LOG_INFO, "flood %d\n", -1);
        text = end(log);
    } while (!in_time);
    cr_expect_eq(count(text, "flood"), 11, "%s", text);
    cr_expect_eq(count(text, "drops"), 10);
    cr_expect_not_null(strstr(text, "msg=\"flood -1\" held_back=990"), "%s", text);
}

Test(log, many_formats_share_the_last_entry)
{
    static char formats[100][8];

    const char *text;
    bool in_time;
    do {
        begin();
        struct log *log = log_create(LOG_INFO, LOG_TEXT);
        uint64_t begin_ns = clock_ns();
        for (int i = 0; i < 100; i++) {
            snprintf(formats[i], sizeof formats[i], "f%d", i);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
            log_limited(log, LOG_INFO, formats[i]);
#pragma GCC diagnostic pop
        }
        in_time = within_a_second(begin_ns);
        text = end(log);
    } while (!in_time);
    cr_expect_eq(count(text, "\n"), 63 + 10, "%s", text);
}

Test(log, a_full_pipe_blocks_nobody, .timeout = 600)
{
    int ends[2];

    cr_assert_eq(pipe(ends), 0);
    saved = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    struct log *log = log_create(LOG_INFO, LOG_TEXT);
    for (int i = 0; i < 20000; i++)
        log_printf(log, LOG_INFO, "a line that nobody will ever read, number %d", i);
    log_destroy(log);
    dup2(saved, STDERR_FILENO);
}

static size_t lost_lines(const char *text)
{
    size_t lost = 0;
    for (const char *p = text; (p = strstr(p, " lines=")) != NULL; p++)
        lost += strtoul(p + 7, NULL, 10);
    return lost;
}

Test(log, lost_lines_are_counted)
{
    enum { LINES = 20000 };
    static char text[1 << 20];
    int ends[2];
    size_t len = 0, kept = 0, lost = 0;

    cr_assert_eq(pipe(ends), 0);
    saved = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    struct log *log = log_create(LOG_INFO, LOG_TEXT);
    for (int i = 0; i < LINES; i++)
        log_printf(log, LOG_INFO, "line %d", i);
    /* Somebody reads at last: what was kept comes, and the number of what was not. */
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    for (int idle = 0; idle < 400 && kept + lost < LINES;) {
        ssize_t n = read(ends[0], text + len, sizeof text - 1 - len);
        len += n > 0 ? (size_t)n : 0;
        if (n > 0)
            continue;
        kept = count(text, "msg=\"line ");
        lost = lost_lines(text);
        idle++;
        usleep(50000);
    }
    log_destroy(log);
    dup2(saved, STDERR_FILENO);
    cr_expect_gt(kept, 1000u);
    cr_expect_gt(lost, 1000u);
    cr_expect_eq(kept + lost, LINES);
}

Test(log, a_closed_stderr_is_no_harm)
{
    int ends[2];

    saved = dup(STDERR_FILENO);
    close(STDERR_FILENO);
    struct log *log = log_create(LOG_INFO, LOG_TEXT);
    log_printf(log, LOG_INFO, "nobody hears");
    log_destroy(log);
    cr_assert_eq(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]); /* a reader that went away: EPIPE, and SIGPIPE must not end us */
    log = log_create(LOG_INFO, LOG_TEXT);
    for (int i = 0; i < 100; i++)
        log_printf(log, LOG_INFO, "nobody hears");
    log_destroy(log);
    dup2(saved, STDERR_FILENO);
    log_destroy(NULL);
}
