/* The real program as a child process. */
#include "tests/support/server.h"
#include "tests/support/data.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_ARGS 64

extern char **environ;

int server_slowness(void)
{
    const char *sanitizer = getenv("SANITIZER");
    return sanitizer != NULL && sanitizer[0] != '\0' ? 10 : 1;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* The environment without variables that would configure the program. */
static char **clean_environment(void)
{
    size_t count = 0;
    while (environ[count] != NULL)
        count++;
    char **clean = data_alloc((count + 1) * sizeof *clean);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (strncmp(environ[i], "CONVD_", 6) != 0 || strncmp(environ[i], "CONVD_CPU=", 10) == 0)
            clean[kept++] = environ[i];
    return clean;
}

/* Starts the program with these files as its standard streams. */
static pid_t spawn(const char *const *args, int in, int out, int err)
{
    const char *path = getenv("CONVD_BIN");
    if (path == NULL || path[0] == '\0')
        path = "build/convd";
    cr_assert(access(path, X_OK) == 0, "%s: %s (see CONVD_BIN)", path, strerror(errno));
    char *argv[MAX_ARGS + 2] = {data_printf("%s", path)};
    size_t count = 0;
    for (; args[count] != NULL; count++) {
        cr_assert(count < MAX_ARGS);
        argv[count + 1] = data_printf("%s", args[count]);
    }
    char **envp = clean_environment();
    pid_t parent = getpid();
    pid_t pid = fork();
    cr_assert(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(127);
        if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
            _exit(127);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execve(argv[0], argv, envp);
        _exit(127);
    }
    return pid;
}

/* A file in memory: unlike a pipe, nobody has to read it for the writer to go on. */
static int memory_file(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    cr_assert(fd >= 0 && fcntl(fd, F_SETFL, O_APPEND) == 0, "memfd_create: %s", strerror(errno));
    return fd;
}

static const char *memory_text(int fd)
{
    struct stat st;
    cr_assert(fstat(fd, &st) == 0);
    size_t len = (size_t)st.st_size;
    char *text = data_alloc(len + 1);
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, text + done, len - done, (off_t)done);
        cr_assert(n > 0);
        done += (size_t)n;
    }
    return text;
}

static int exit_code(int status)
{
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---------------------------------------------------------------- the daemon */

/* The port of the log line that says where the daemon listens; 0 when it is not there yet. */
static unsigned listening_port(const char *log)
{
    static const char mark[] = "127.0.0.1:";
    const char *line = strstr(log, "\"listening\"");
    const char *address = line == NULL ? NULL : strstr(line, mark);
    return address == NULL ? 0 : (unsigned)strtoul(address + sizeof mark - 1, NULL, 10);
}

struct server *server_start(const char *const *options)
{
    const char *args[MAX_ARGS] = {"serve", "--listen", "127.0.0.1:0"};
    size_t count = 3;
    bool delay_given = false;
    for (; options != NULL && *options != NULL; options++) {
        cr_assert(count + 3 < MAX_ARGS);
        delay_given |= strcmp(*options, "--drain-delay") == 0;
        args[count++] = *options;
    }
    if (!delay_given) {
        args[count++] = "--drain-delay";
        args[count++] = "0";
    }
    struct server *s = data_alloc(sizeof *s);
    s->log_fd = memory_file("server log");
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    cr_assert(null >= 0);
    s->pid = spawn(args, null, null, s->log_fd);
    close(null);
    double deadline = now_s() + 10.0 * server_slowness();
    for (;;) {
        const char *log = server_log(s);
        s->port = listening_port(log);
        if (s->port != 0 && strstr(log, "\"ready\"") != NULL)
            return s;
        int status;
        cr_assert(waitpid(s->pid, &status, WNOHANG) == 0, "the server ended with status %d:\n%s",
                  exit_code(status), log);
        cr_assert(now_s() < deadline, "the server is not ready in time:\n%s", log);
        pause_ms(1);
    }
}

void server_signal(const struct server *s, int signal_number)
{
    cr_assert(s->pid > 0 && kill(s->pid, signal_number) == 0);
}

int server_wait(struct server *s, double timeout_s)
{
    double deadline = now_s() + timeout_s;
    for (;;) {
        int status;
        pid_t pid = waitpid(s->pid, &status, WNOHANG);
        cr_assert(pid >= 0, "waitpid: %s", strerror(errno));
        if (pid > 0) {
            s->pid = 0;
            return exit_code(status);
        }
        if (now_s() > deadline)
            return -1000;
        pause_ms(1);
    }
}

void server_stop(struct server *s)
{
    server_signal(s, SIGTERM);
    int status = server_wait(s, 15.0 * server_slowness());
    const char *log = server_log(s);
    cr_assert(status != -1000, "the server does not end:\n%s", log);
    cr_assert(status == 0, "the server ended with status %d:\n%s", status, log);
    cr_assert(strstr(log, "Sanitizer") == NULL && strstr(log, "runtime error:") == NULL, "%s", log);
    close(s->log_fd);
}

const char *server_log(const struct server *s)
{
    return memory_text(s->log_fd);
}

const char *server_log_tail(const struct server *s)
{
    const size_t most = 6000;
    const char *log = server_log(s);
    size_t len = strlen(log);
    return len > most ? log + len - most : log;
}

bool server_log_wait(const struct server *s, const char *text, double timeout_s)
{
    double deadline = now_s() + timeout_s * server_slowness();
    while (strstr(server_log(s), text) == NULL) {
        if (now_s() > deadline)
            return false;
        pause_ms(2);
    }
    return true;
}

size_t server_rss(const struct server *s)
{
    FILE *file = fopen(data_printf("/proc/%d/statm", (int)s->pid), "r");
    cr_assert(file != NULL);
    unsigned long size, resident;
    cr_assert(fscanf(file, "%lu %lu", &size, &resident) == 2);
    fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* ---------------------------------------------------------------- command-line tools */

struct program program_run_args(const void *input, size_t input_len, const char *const *args)
{
    int in = memory_file("input"), out = memory_file("output"), err = memory_file("errors");
    cr_assert(input_len == 0 || write(in, input, input_len) == (ssize_t)input_len);
    cr_assert(lseek(in, 0, SEEK_SET) == 0);
    pid_t pid = spawn(args, in, out, err);
    double deadline = now_s() + 30.0 * server_slowness();
    int status;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (now_s() > deadline) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            cr_assert_fail("convd %s does not end:\n%s", args[0], memory_text(err));
        }
        pause_ms(1);
    }
    struct program result = {exit_code(status), memory_text(out), memory_text(err)};
    close(in);
    close(out);
    close(err);
    return result;
}
