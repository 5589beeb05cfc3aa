/*
 * What this machine can do: CPU levels (CPUID and XGETBV) and the CPUs a process may use.
 * The public part is in convd/engine.h (cvd_cpu_*).
 */
#ifndef CONVD_RUNTIME_CPU_H
#define CONVD_RUNTIME_CPU_H

#include <convd/engine.h>

/* The highest level that is supported and not above `limit` (AUTO = no limit). */
enum cvd_cpu cpu_best(enum cvd_cpu limit);

/* CPUs from the text of a cgroup v2 "cpu.max" file ("max 100000", "150000 100000"), rounded up;
 * 0 when it sets no limit or cannot be read as one. */
unsigned cpu_quota_parse(const char *text);

/* The smallest CPU quota of the cgroup that `self` (a file like /proc/self/cgroup) names and of its
 * parents, looked for in the cgroup hierarchies mounted under `mount` (like /sys/fs/cgroup);
 * 0 when there is none. */
unsigned cpu_cgroup_quota(const char *self, const char *mount);

/* What tells this model of CPU from others, in letters, digits, '.', '_' and '-'. */
#define CPU_MODEL_BYTES 80
void cpu_model(char out[CPU_MODEL_BYTES]);

/* Makes this thread treat denormal numbers as zero, in and out, where the CPU can; returns the
 * former mode for cpu_denormals_restore(). Every thread that computes runs in this mode, or the
 * same sum would differ from thread to thread (and denormals cost ten times the time). */
uint64_t cpu_denormals_flush(void);
void cpu_denormals_restore(uint64_t mode);

#endif
