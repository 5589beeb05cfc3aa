/* Child processes with their standard streams in memory. */
#include "tests/support/process.h"

#include "tests/support/data.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

double process_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void process_pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

int process_file(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    cr_assert(fd >= 0 && fcntl(fd, F_SETFL, O_APPEND) == 0, "memfd_create: %s", strerror(errno));
    return fd;
}

const char *process_text(int fd)
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

/* As fork(), in new namespaces where flags say so. The C library's own has no flags; what it does
 * besides is for children that go on, and these do not. */
static pid_t split(unsigned flags)
{
    if (flags == 0)
        return fork();
    return (pid_t)syscall(SYS_clone, (unsigned long)flags | SIGCHLD, NULL, NULL, NULL, NULL);
}

/* In the child: streams, signals and whatever the test asks for. */
static bool prepare(const struct process_setup *setup, pid_t parent)
{
    const int streams[3] = {setup->in, setup->out, setup->err};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* In a namespace of its own a child does not see its parent. */
    if (getppid() != parent && !(setup->clone_flags & CLONE_NEWPID))
        return false;
    for (int i = 0; i < 3; i++)
        if (streams[i] >= 0 ? dup2(streams[i], i) < 0 : close(i) != 0 && errno != EBADF)
            return false;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    return setup->prepare == NULL || setup->prepare(setup->cookie);
}

pid_t process_start(char *const *argv, const struct process_setup *setup)
{
    pid_t parent = getpid(), pid = split(setup->clone_flags);

    cr_assert(pid >= 0, "no child process: %s", strerror(errno));
    if (pid > 0)
        return pid;
    if (!prepare(setup, parent))
        _exit(PROCESS_UNPREPARED);
    /* Lost by setuid(). */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execve(argv[0], argv, setup->envp != NULL ? setup->envp : environ);
    _exit(127);
}

bool process_permitted(const struct process_setup *setup)
{
    pid_t parent = getpid(), pid = split(setup->clone_flags);

    if (pid < 0)
        return false;
    if (pid == 0)
        _exit(prepare(setup, parent) ? 0 : PROCESS_UNPREPARED);
    return process_wait(pid, 10) == 0;
}

int process_wait(pid_t pid, double timeout_s)
{
    double deadline = process_now_s() + timeout_s;
    for (;;) {
        int status;
        pid_t ended = waitpid(pid, &status, WNOHANG);
        cr_assert(ended >= 0, "waitpid: %s", strerror(errno));
        if (ended > 0)
            return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
        if (process_now_s() > deadline)
            return PROCESS_RUNNING;
        process_pause_ms(1);
    }
}
