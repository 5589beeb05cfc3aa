/* The real program as a child process. */
#include "tests/support/server.h"

#include "tests/support/data.h"
#include "tests/support/process.h"

#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGS 64

extern char **environ;

int server_slowness(void)
{
    const char *sanitizer = getenv("SANITIZER");
    return sanitizer != NULL && sanitizer[0] != '\0' ? 10 : 1;
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

const char *server_program(void)
{
    const char *path = getenv("CONVD_BIN");
    return path != NULL && path[0] != '\0' ? path : "build/convd";
}

/* Starts the program with these arguments. */
static pid_t start(const char *const *args, struct process_setup setup)
{
    const char *path = server_program();
    cr_assert(access(path, X_OK) == 0, "%s: %s (see CONVD_BIN)", path, strerror(errno));
    char *argv[MAX_ARGS + 2] = {data_printf("%s", path)};
    for (size_t count = 0; args[count] != NULL; count++) {
        cr_assert(count < MAX_ARGS);
        argv[count + 1] = data_printf("%s", args[count]);
    }
    setup.envp = clean_environment();
    return process_start(argv, &setup);
}

static int null_file(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    cr_assert(fd >= 0, "/dev/null: %s", strerror(errno));
    return fd;
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

unsigned server_free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    cr_assert(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                  bind(fd, (struct sockaddr *)&address, len) == 0 &&
                  getsockname(fd, (struct sockaddr *)&address, &len) == 0,
              "no free port: %s", strerror(errno));
    return ntohs(address.sin_port); /* and the socket stays, or the system would give it away */
}

struct server *server_launch(const struct server_setup *setup)
{
    const char *args[MAX_ARGS] = {"serve", "--listen", data_printf("127.0.0.1:%u", setup->port)};
    size_t count = 3;
    bool delay_given = false;
    for (const char *const *o = setup->options; o != NULL && *o != NULL; o++) {
        cr_assert(count + 3 < MAX_ARGS);
        delay_given |= strcmp(*o, "--drain-delay") == 0;
        args[count++] = *o;
    }
    if (!delay_given) {
        args[count++] = "--drain-delay";
        args[count++] = "0";
    }
    struct server *s = data_alloc(sizeof *s);
    struct process_setup process = setup->process;
    s->port = setup->port;
    s->log_fd = -1;
    if (process.err == 0)
        process.err = s->log_fd = process_file("server log");
    process.in = process.out = null_file();
    s->pid = start(args, process);
    close(process.in);
    return s;
}

void server_await(struct server *s)
{
    double deadline = process_now_s() + 30.0 * server_slowness();
    for (;;) {
        const char *log = server_log(s);
        s->port = listening_port(log);
        if (s->port != 0 && strstr(log, "\"ready\"") != NULL)
            return;
        int status;
        cr_assert(waitpid(s->pid, &status, WNOHANG) == 0, "the server ended with status %d:\n%s",
                  WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), log);
        cr_assert(process_now_s() < deadline, "the server is not ready in time:\n%s", log);
        process_pause_ms(1);
    }
}

struct server *server_start(const char *const *options)
{
    struct server *s = server_launch(&(struct server_setup){.options = options});
    server_await(s);
    return s;
}

void server_signal(const struct server *s, int signal_number)
{
    cr_assert(s->pid > 0 && kill(s->pid, signal_number) == 0);
}

int server_wait(struct server *s, double timeout_s)
{
    int status = process_wait(s->pid, timeout_s);
    if (status != PROCESS_RUNNING)
        s->pid = 0;
    return status;
}

void server_stop(struct server *s)
{
    server_signal(s, SIGTERM);
    int status = server_wait(s, 60.0 * server_slowness());
    const char *log = server_log(s);
    cr_assert(status != PROCESS_RUNNING, "the server does not end:\n%s", log);
    cr_assert(status == 0, "the server ended with status %d:\n%s", status, log);
    cr_assert(strstr(log, "Sanitizer") == NULL && strstr(log, "runtime error:") == NULL, "%s", log);
    if (s->log_fd >= 0)
        close(s->log_fd);
}

const char *server_log(const struct server *s)
{
    return s->log_fd < 0 ? "" : process_text(s->log_fd);
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
    double deadline = process_now_s() + timeout_s * server_slowness();
    while (strstr(server_log(s), text) == NULL) {
        if (process_now_s() > deadline)
            return false;
        process_pause_ms(2);
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

double server_cpu_s(const struct server *s)
{
    FILE *file = fopen(data_printf("/proc/%d/stat", (int)s->pid), "r");
    cr_assert(file != NULL);
    unsigned long user, system;
    int fields = fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                        &user, &system);
    fclose(file);
    cr_assert_eq(fields, 2);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* ---------------------------------------------------------------- command-line tools */

struct program program_run_args(const void *input, size_t input_len, const char *const *args)
{
    int in = process_file("input"), out = process_file("output"), err = process_file("errors");
    cr_assert(input_len == 0 || write(in, input, input_len) == (ssize_t)input_len);
    cr_assert(lseek(in, 0, SEEK_SET) == 0);
    pid_t pid = start(args, (struct process_setup){.in = in, .out = out, .err = err});
    int status = process_wait(pid, 30.0 * server_slowness());
    if (status == PROCESS_RUNNING) {
        kill(pid, SIGKILL);
        process_wait(pid, 10);
        cr_assert_fail("convd %s does not end:\n%s", args[0], process_text(err));
    }
    struct program result = {status, process_text(out), process_text(err)};
    close(in);
    close(out);
    close(err);
    return result;
}
