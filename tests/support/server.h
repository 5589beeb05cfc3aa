/*
 * The real program as a child process: the daemon on a free port of the loopback interface, and the
 * command-line tools. $CONVD_BIN names the program (default build/convd).
 *
 * Children die with the test. CONVD_* variables of the caller do not reach them, except CONVD_CPU.
 * Start servers from the thread that runs the test.
 */
#ifndef CONVD_TESTS_SUPPORT_SERVER_H
#define CONVD_TESTS_SUPPORT_SERVER_H

#include "tests/support/process.h"

#include <stddef.h>

/* How many times slower than usual things may be: more than 1 under a sanitizer. Multiply time
 * limits by it. */
int server_slowness(void);

struct server {
    pid_t pid; /* 0 once it has ended */
    unsigned port;
    int log_fd; /* its standard error, a file in memory; -1: it is somewhere else */
};

/* Starts `convd serve --listen 127.0.0.1:0` with more options (NULL: none) and waits until it is
 * ready. --drain-delay is 0 unless it is among them. Fails the test when it is not ready within
 * 30 s. */
#define server_start_with(...) server_start((const char *const[]){__VA_ARGS__, NULL})
struct server *server_start(const char *const *options);

/* The same under unusual circumstances. server_launch() does not wait; server_await() does, by what
 * the log says. */
struct server_setup {
    const char *const *options;
    unsigned port;                /* 0: any free one */
    struct process_setup process; /* err 0: the log */
};
struct server *server_launch(const struct server_setup *setup);
void server_await(struct server *s);

/* A port that nobody listens on, and that only who asks for it by its number gets. */
unsigned server_free_port(void);

/* The path of the program. */
const char *server_program(void);

/* Sends SIGTERM and fails the test unless the daemon ends with status 0 within 60 s and without a
 * sanitizer's report. */
void server_stop(struct server *s);

void server_signal(const struct server *s, int signal_number);

/* Waits for the end; the exit status, or -N for signal N, or PROCESS_RUNNING after timeout_s. */
int server_wait(struct server *s, double timeout_s);

/* What it has written to standard error so far. */
const char *server_log(const struct server *s);

/* The end of that, for the message of a failed assertion. */
const char *server_log_tail(const struct server *s);

/* Waits up to timeout_s for `text` to appear in the log. */
bool server_log_wait(const struct server *s, const char *text, double timeout_s);

/* Resident memory in bytes. */
size_t server_rss(const struct server *s);

/* Processor time it has used so far. */
double server_cpu_s(const struct server *s);

/* Runs the program to its end (at most 30 s); program_run_args() with bytes on standard input. */
struct program {
    int status; /* exit status, or -N for signal N */
    const char *output, *errors;
};
#define program_run(...) program_run_args(NULL, 0, (const char *const[]){__VA_ARGS__, NULL})
struct program program_run_args(const void *input, size_t input_len, const char *const *args);

#endif
