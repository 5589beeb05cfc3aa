/*
 * Runs Criterion tests under ThreadSanitizer, where Criterion's own runner cannot start: its
 * sandbox maps an arena at addresses that the sanitizer reserves (upstream issue 274).
 *
 * Defines main() and the functions that the Test and cr_assert macros call, so that those of
 * libcriterion are not used; message formatting still is. Every test runs in a forked child. Its
 * fixtures, timeout (scaled), expected signal and exit code, parameters and skipping are honoured;
 * theories and stream redirection are not. Prints the Test Anything Protocol as Criterion's --tap
 * does. Linked with SANITIZER=thread only.
 */
#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <criterion/parameterized.h>

#include <errno.h>
#include <fnmatch.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The sanitizer makes programs 5 to 15 times slower. */
#define TIMEOUT_SCALE 10
/* Exit status of a program that had a report; the sanitizer's default. */
#define TSAN_EXIT_CODE 66

/* The linker's names for the sections in which the Test and TestSuite macros leave pointers. */
extern struct criterion_test *__start_cr_tst[] __attribute__((weak));
extern struct criterion_test *__stop_cr_tst[] __attribute__((weak));
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak));
extern struct criterion_suite *__stop_cr_sts[] __attribute__((weak));

/* What a child tells its parent, in shared memory. */
struct outcome {
    atomic_int failures;
    atomic_bool skipped;
    char skip_message[400];
};

/* The test that this child runs. */
static struct {
    const struct criterion_test *test;
    const struct criterion_test_extra_data *suite; /* or NULL */
    void *param;
    struct outcome *outcome;
    pthread_t thread;
    bool in_body; /* between the fixtures: `end` is good */
    jmp_buf end;
} now;

static const struct criterion_test_extra_data *suite_of(const struct criterion_test *test)
{
    for (struct criterion_suite **s = __start_cr_sts; s < __stop_cr_sts; s++)
        if (*s != NULL && strcmp((*s)->name, test->category) == 0)
            return (*s)->data;
    return NULL;
}

/* ---------------------------------------------------------------- called by the macros */

void criterion_internal_test_setup(void)
{
    if (now.suite != NULL && now.suite->init != NULL)
        now.suite->init();
    if (now.test->data->init != NULL)
        now.test->data->init();
}

void criterion_internal_test_main(void (*fn)(void))
{
    if (setjmp(now.end) == 0) {
        now.in_body = true;
        if (now.test->data->kind_ == CR_TEST_PARAMETERIZED)
            ((void (*)(void *))(uintptr_t)fn)(now.param);
        else
            fn();
    }
    now.in_body = false;
}

void criterion_internal_test_teardown(void)
{
    if (now.test->data->fini != NULL)
        now.test->data->fini();
    if (now.suite != NULL && now.suite->fini != NULL)
        now.suite->fini();
}

void criterion_send_assert(struct criterion_assert_stats *stats)
{
    if (stats->passed)
        return;
    atomic_fetch_add(&now.outcome->failures, 1);
    fprintf(stderr, "%s:%u: %s::%s: %s\n", stats->file, stats->line, now.test->category,
            now.test->name, stats->message);
}

/* Only the thread that runs the test can be taken back to its end. */
static _Noreturn void end_test(void)
{
    if (!pthread_equal(pthread_self(), now.thread))
        _exit(1);
    if (!now.in_body)
        exit(0);
    longjmp(now.end, 1);
}

void criterion_abort_test(void)
{
    end_test();
}

void criterion_continue_test(void)
{
}

void cri_asserts_passed_incr(void)
{
}

__attribute__((format(printf, 1, 2))) void criterion_skip_test(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(now.outcome->skip_message, sizeof now.outcome->skip_message, format, args);
    va_end(args);
    atomic_store(&now.outcome->skipped, true);
    end_test();
}

__attribute__((format(printf, 1, 2))) void criterion_test_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    atomic_fetch_add(&now.outcome->failures, 1);
    _exit(1);
}

/* As Criterion without --verbose: for errors only. */
__attribute__((format(printf, 2, 3))) void cr_log(enum criterion_severity severity,
                                                  const char *format, ...)
{
    va_list args;
    if (severity != CR_LOG_ERROR)
        return;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

/* ---------------------------------------------------------------- one test */

static _Noreturn void child_run(const sigset_t *unblocked)
{
    sigprocmask(SIG_SETMASK, unblocked, NULL);
    /* An expected signal must end the process, not the sanitizer's handler. */
    if (now.test->data->signal != 0)
        signal(now.test->data->signal, SIG_DFL);
    now.thread = pthread_self();
    now.test->test();
    exit(0);
}

/* Waits for the child; kills it when `seconds` (0 = for ever) are over and returns false. SIGCHLD
 * is blocked. */
static bool wait_child(pid_t pid, double seconds, int *status)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    double deadline = (double)end.tv_sec + (double)end.tv_nsec * 1e-9 + seconds;
    while (waitpid(pid, status, WNOHANG) == 0) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        double left = deadline - ((double)t.tv_sec + (double)t.tv_nsec * 1e-9);
        if (seconds > 0 && left <= 0) {
            kill(pid, SIGKILL);
            waitpid(pid, status, 0);
            return false;
        }
        if (seconds <= 0 || left > 1)
            left = 1;
        struct timespec wait = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
        sigset_t chld;
        sigemptyset(&chld);
        sigaddset(&chld, SIGCHLD);
        sigtimedwait(&chld, NULL, &wait);
    }
    return true;
}

/* What is wrong with how the child ended, or NULL. */
static const char *verdict(bool in_time, int status, const struct criterion_test_extra_data *want,
                           const struct outcome *outcome, char text[64])
{
    if (!in_time)
        return "timed out";
    if (WIFSIGNALED(status)) {
        if (WTERMSIG(status) == want->signal && outcome->failures == 0)
            return NULL;
        snprintf(text, 64, "ended by signal %d", WTERMSIG(status));
        return text;
    }
    if (WEXITSTATUS(status) == TSAN_EXIT_CODE)
        return "ThreadSanitizer report";
    if (outcome->failures > 0)
        return "assertion failed";
    if (outcome->skipped)
        return NULL;
    if (want->signal != 0)
        return "the expected signal was not raised";
    if (WEXITSTATUS(status) != want->exit_code) {
        snprintf(text, 64, "exit status %d", WEXITSTATUS(status));
        return text;
    }
    return NULL;
}

/* Runs the test with one parameter; false when it failed. */
static bool run_test(const struct criterion_test *test, void *param, struct outcome *outcome,
                     FILE *tap)
{
    memset(outcome, 0, sizeof *outcome);
    now.test = test;
    now.suite = suite_of(test);
    now.param = param;
    now.outcome = outcome;
    double timeout = test->data->timeout;
    if (timeout <= 0 && now.suite != NULL)
        timeout = now.suite->timeout;

    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    fflush(NULL);
    sigset_t chld, before;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, &before);
    pid_t pid = fork();
    if (pid == 0)
        child_run(&before);
    int status = 0;
    bool in_time = pid > 0 && wait_child(pid, timeout * TIMEOUT_SCALE, &status);
    sigprocmask(SIG_SETMASK, &before, NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);

    char text[64];
    const char *wrong =
        pid < 0 ? strerror(errno) : verdict(in_time, status, test->data, outcome, text);
    double seconds =
        (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9;
    if (wrong != NULL)
        fprintf(tap, "not ok - %s::%s %s (%.2fs)\n", test->category, test->name, wrong, seconds);
    else if (outcome->skipped)
        fprintf(tap, "ok - %s::%s # SKIP %s\n", test->category, test->name, outcome->skip_message);
    else
        fprintf(tap, "ok - %s::%s (%.2fs)\n", test->category, test->name, seconds);
    return wrong == NULL;
}

/* Runs a test once, or once for each of its parameters; returns the number of failures. */
static unsigned run_all_of(const struct criterion_test *test, struct outcome *outcome, FILE *tap)
{
    const struct criterion_test_extra_data *suite = suite_of(test);
    if (test->data->disabled || (suite != NULL && suite->disabled)) {
        fprintf(tap, "ok - %s::%s # SKIP disabled\n", test->category, test->name);
        return 0;
    }
    if (test->data->kind_ != CR_TEST_PARAMETERIZED)
        return !run_test(test, NULL, outcome, tap);
    struct criterion_test_params params = test->data->param_();
    unsigned failed = 0;
    for (size_t i = 0; i < params.length; i++)
        failed += !run_test(test, (char *)params.params + i * params.size, outcome, tap);
    if (params.cleanup != NULL)
        params.cleanup(&params);
    return failed;
}

int main(int argc, char **argv)
{
    const char *pattern = "*";
    FILE *tap = stdout;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--tap=", 6) == 0)
            tap = fopen(argv[i] + 6, "w");
        else if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc)
            pattern = argv[++i];
        if (tap == NULL) {
            perror(argv[i]);
            return 1;
        }
    }
    struct outcome *outcome =
        mmap(NULL, sizeof *outcome, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (outcome == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    size_t count = 0;
    for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++)
        count += *t != NULL && fnmatch(pattern, (*t)->data->identifier_, 0) == 0;
    fprintf(tap, "TAP version 13\n1..%zu\n", count);
    unsigned failed = 0;
    for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++)
        if (*t != NULL && fnmatch(pattern, (*t)->data->identifier_, 0) == 0)
            failed += run_all_of(*t, outcome, tap);
    fclose(tap);
    return failed > 0;
}
