/*
 * Child processes whose standard streams are files in memory: unlike a pipe, nobody has to read one
 * for its writer to go on. They die with the test.
 */
#ifndef CONVD_TESTS_SUPPORT_PROCESS_H
#define CONVD_TESTS_SUPPORT_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

struct process_setup {
    int in, out, err;     /* its standard streams; -1: closed */
    char *const *envp;    /* NULL: the test's */
    unsigned clone_flags; /* CLONE_NEWPID and the like */
    /* Called in the child just before the program starts, or NULL; when it returns false the child
     * ends with status PROCESS_UNPREPARED instead. */
    bool (*prepare)(void *cookie);
    void *cookie;
};

#define PROCESS_UNPREPARED 126
#define PROCESS_RUNNING    (-1000)

/* argv[0] is the program's path. Start processes from the thread that runs the test. */
pid_t process_start(char *const *argv, const struct process_setup *setup);

/* Waits for the end: the exit status, or -N for signal N, or PROCESS_RUNNING after timeout_s. */
int process_wait(pid_t pid, double timeout_s);

/* A child like that which only prepares itself: whether it may. */
bool process_permitted(const struct process_setup *setup);

/* A file in memory, opened to append, and the text in it. */
int process_file(const char *name);
const char *process_text(int fd);

/* Seconds of a clock that only goes forward. */
double process_now_s(void);
void process_pause_ms(long ms);

#endif
