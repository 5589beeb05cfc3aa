/*
 * The process_* families that every Prometheus dashboard knows, from /proc and the clock. What
 * /proc does not tell (it may be hidden in a sandbox) is left out of the page.
 */
#include "server/metrics_series.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* The fields of /proc/self/stat that are of use, see proc(5). */
struct process_stat {
    unsigned long long cpu_ticks, start_ticks, virtual_bytes;
    long threads, resident_pages;
};

static bool stat_read(struct process_stat *s)
{
    char line[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t len = read(fd, line, sizeof line - 1);
    close(fd);
    if (len <= 0)
        return false;
    line[len] = '\0';
    /* The second field is the program's name in parentheses and may hold anything: start behind
     * its end. */
    const char *fields = strrchr(line, ')');
    unsigned long long user, system;
    if (!fields || sscanf(fields + 1,
                          " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d "
                          "%*d %ld %*d %llu %llu %ld",
                          &user, &system, &s->threads, &s->start_ticks, &s->virtual_bytes,
                          &s->resident_pages) != 6)
        return false;
    s->cpu_ticks = user + system;
    return true;
}

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double metrics_process_start(void)
{
    struct process_stat s;
    double now = seconds(CLOCK_REALTIME);
    if (!stat_read(&s))
        return now;
    /* The start is given in ticks since the machine booted. */
    return now - seconds(CLOCK_BOOTTIME) + (double)s.start_ticks / (double)sysconf(_SC_CLK_TCK);
}

static unsigned open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return 0;
    unsigned count = 0;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        count += e->d_name[0] != '.';
    closedir(dir);
    return count - 1; /* the folder itself was open */
}

void metrics_process(struct text *t, double start_time)
{
    struct process_stat s;
    if (stat_read(&s)) {
        metrics_family(t, "process_cpu_seconds_total", "counter",
                       "Total user and system CPU time spent in seconds.");
        text_printf(t, "process_cpu_seconds_total %.2f\n",
                    (double)s.cpu_ticks / (double)sysconf(_SC_CLK_TCK));
        metrics_family(t, "process_resident_memory_bytes", "gauge",
                       "Resident memory size in bytes.");
        text_printf(t, "process_resident_memory_bytes %lld\n",
                    (long long)s.resident_pages * sysconf(_SC_PAGESIZE));
        metrics_family(t, "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.");
        text_printf(t, "process_virtual_memory_bytes %llu\n", s.virtual_bytes);
        metrics_family(t, "process_threads", "gauge", "Number of threads of the process.");
        text_printf(t, "process_threads %ld\n", s.threads);
    }
    unsigned fds = open_fds();
    if (fds) {
        metrics_family(t, "process_open_fds", "gauge", "Number of open file descriptors.");
        text_printf(t, "process_open_fds %u\n", fds);
    }
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        metrics_family(t, "process_max_fds", "gauge", "Maximum number of open file descriptors.");
        text_printf(t, "process_max_fds %" PRIu64 "\n", (uint64_t)limit.rlim_cur);
    }
    metrics_family(t, "process_start_time_seconds", "gauge",
                   "Start time of the process since unix epoch in seconds.");
    text_printf(t, "process_start_time_seconds %.2f\n", start_time);
}
