/* CPU levels, the number of CPUs this process may use, and the treatment of denormals. */
#include "engine/runtime/cpu.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const cpu_names[CVD_CPU_COUNT] = {
    [CVD_CPU_AUTO] = "auto", [CVD_CPU_C] = "c",           [CVD_CPU_NEON] = "neon",
    [CVD_CPU_AVX2] = "avx2", [CVD_CPU_AVX512] = "avx512",
};

const char *cvd_cpu_name(enum cvd_cpu cpu)
{
    return (unsigned)cpu < CVD_CPU_COUNT ? cpu_names[cpu] : "unknown";
}

bool cvd_cpu_parse(const char *name, enum cvd_cpu *cpu)
{
    for (unsigned i = 0; i < CVD_CPU_COUNT; i++) {
        if (strcmp(name, cpu_names[i]) == 0) {
            *cpu = (enum cvd_cpu)i;
            return true;
        }
    }
    return false;
}

/* ---- levels ---- */

#if defined(__x86_64__)

/* The register state that the operating system saves: XCR0, bits from Intel SDM volume 1, 13.3. */
#define XCR0_SSE    (1u << 1)
#define XCR0_YMM    (1u << 2)
#define XCR0_OPMASK (1u << 5)
#define XCR0_ZMM_HI (1u << 6)
#define XCR0_ZMM_16 (1u << 7)

static uint32_t xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static enum cvd_cpu cpu_highest(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return CVD_CPU_C;
    const unsigned basic = bit_FMA | bit_AVX | bit_OSXSAVE;
    if ((c & basic) != basic)
        return CVD_CPU_C;
    uint32_t state = xcr0();
    const uint32_t ymm = XCR0_SSE | XCR0_YMM;
    if ((state & ymm) != ymm || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2))
        return CVD_CPU_C;
    const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    const uint32_t zmm = XCR0_OPMASK | XCR0_ZMM_HI | XCR0_ZMM_16;
    if ((b & avx512) != avx512 || (state & zmm) != zmm)
        return CVD_CPU_AVX2;
    return CVD_CPU_AVX512;
}

#elif defined(__aarch64__)

/* Advanced SIMD is part of the architecture's base. */
static enum cvd_cpu cpu_highest(void)
{
    return CVD_CPU_NEON;
}

#else

static enum cvd_cpu cpu_highest(void)
{
    return CVD_CPU_C;
}

#endif

bool cvd_cpu_supported(enum cvd_cpu cpu)
{
    enum cvd_cpu highest = cpu_highest();
    switch (cpu) {
    case CVD_CPU_AUTO:
    case CVD_CPU_C:
        return true;
    case CVD_CPU_NEON:
        return highest == CVD_CPU_NEON;
    case CVD_CPU_AVX2:
        return highest == CVD_CPU_AVX2 || highest == CVD_CPU_AVX512;
    case CVD_CPU_AVX512:
        return highest == CVD_CPU_AVX512;
    case CVD_CPU_COUNT:
        break;
    }
    return false;
}

enum cvd_cpu cpu_best(enum cvd_cpu limit)
{
    unsigned top = limit == CVD_CPU_AUTO ? CVD_CPU_COUNT - 1 : (unsigned)limit;
    for (unsigned level = top; level > CVD_CPU_C; level--) {
        if (cvd_cpu_supported((enum cvd_cpu)level))
            return (enum cvd_cpu)level;
    }
    return CVD_CPU_C;
}

/* ---- how many CPUs ---- */

/* A decimal number, then a blank or the end; false for anything else. */
static bool read_number(const char **text, uint64_t *out)
{
    const char *p = *text;
    if (!isdigit((unsigned char)*p))
        return false;
    uint64_t n = 0;
    for (; isdigit((unsigned char)*p); p++) {
        if (__builtin_mul_overflow(n, 10u, &n) ||
            __builtin_add_overflow(n, (unsigned)(*p - '0'), &n))
            return false;
    }
    if (*p != '\0' && !isspace((unsigned char)*p))
        return false;
    while (isspace((unsigned char)*p))
        p++;
    *text = p;
    *out = n;
    return true;
}

/* A part of a CPU counts as one: a quota of 1.5 CPUs keeps two threads busy. */
static unsigned quota_cpus(uint64_t quota, uint64_t period)
{
    if (quota == 0 || period == 0)
        return 0;
    uint64_t cpus = quota / period + (quota % period != 0);
    return cpus > UINT32_MAX ? UINT32_MAX : (unsigned)cpus;
}

unsigned cpu_quota_parse(const char *text)
{
    uint64_t quota, period;
    if (!read_number(&text, &quota) || !read_number(&text, &period) || *text != '\0')
        return 0;
    return quota_cpus(quota, period);
}

/* The beginning of a small file as a string; false when it cannot be read. */
static bool read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t len = 0;
    while (len < size - 1) {
        ssize_t n = read(fd, text + len, size - 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    close(fd);
    text[len] = '\0';
    return len > 0;
}

#define CGROUP_PATH_BYTES 4096

/* Reads `file` of one cgroup; false when the path is too long or there is no such file. */
static bool read_cgroup(const char *mount, const char *group, const char *file, char text[64])
{
    char path[CGROUP_PATH_BYTES + 256];
    int n = snprintf(path, sizeof(path), "%s%s/%s", mount, group, file);
    return n > 0 && (size_t)n < sizeof(path) && read_text(path, text, 64);
}

static unsigned cgroup_v2_cpus(const char *mount, const char *group)
{
    char text[64];
    return read_cgroup(mount, group, "cpu.max", text) ? cpu_quota_parse(text) : 0;
}

static unsigned cgroup_v1_cpus(const char *mount, const char *group)
{
    char text[64];
    const char *p = text;
    uint64_t quota, period;
    /* No limit is the text "-1", which is not a number here. */
    if (!read_cgroup(mount, group, "cpu.cfs_quota_us", text) || !read_number(&p, &quota))
        return 0;
    p = text;
    if (!read_cgroup(mount, group, "cpu.cfs_period_us", text) || !read_number(&p, &period))
        return 0;
    return quota_cpus(quota, period);
}

static unsigned smaller_quota(unsigned a, unsigned b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/*
 * The smallest quota of `group` and its parents below `mount`. A container without a cgroup
 * namespace sees its host's path but only its own subtree mounted: most of the folders tried do not
 * exist then, and the root of the mount is the container's own group.
 */
static unsigned hierarchy_cpus(const char *mount, const char *group,
                               unsigned (*cpus)(const char *mount, const char *group))
{
    char path[CGROUP_PATH_BYTES];
    size_t len = strlen(group);
    /* "/.." stands for a group outside of this namespace, which cannot be looked at. */
    if (len >= sizeof(path) || strstr(group, "/..") != NULL)
        len = 0;
    memcpy(path, group, len);
    path[len] = '\0';
    unsigned least = 0;
    for (;;) {
        while (len > 0 && path[len - 1] == '/')
            path[--len] = '\0';
        least = smaller_quota(least, cpus(mount, path));
        if (len == 0)
            return least;
        while (len > 0 && path[len - 1] != '/')
            path[--len] = '\0';
    }
}

/* Whether a comma-separated list names the cpu controller. */
static bool has_cpu_controller(const char *list)
{
    for (;;) {
        size_t len = strcspn(list, ",");
        if (len == 3 && memcmp(list, "cpu", 3) == 0)
            return true;
        if (list[len] == '\0')
            return false;
        list += len + 1;
    }
}

/* One line of /proc/self/cgroup: "0::PATH" for version 2, "N:CONTROLLERS:PATH" for version 1. */
static unsigned line_cpus(char *line, const char *mount)
{
    line[strcspn(line, "\n")] = '\0';
    char *list = strchr(line, ':');
    char *group = list != NULL ? strchr(list + 1, ':') : NULL;
    if (group == NULL)
        return 0;
    *list++ = '\0';
    *group++ = '\0';
    char folder[CGROUP_PATH_BYTES];
    if (*list == '\0') {
        unsigned least = hierarchy_cpus(mount, group, cgroup_v2_cpus);
        /* Beside version 1 hierarchies, version 2 is mounted one level down. */
        if (snprintf(folder, sizeof(folder), "%s/unified", mount) < (int)sizeof(folder))
            least = smaller_quota(least, hierarchy_cpus(folder, group, cgroup_v2_cpus));
        return least;
    }
    if (!has_cpu_controller(list) ||
        snprintf(folder, sizeof(folder), "%s/%s", mount, list) >= (int)sizeof(folder))
        return 0;
    return hierarchy_cpus(folder, group, cgroup_v1_cpus);
}

unsigned cpu_cgroup_quota(const char *self, const char *mount)
{
    FILE *f = fopen(self, "re");
    if (f == NULL)
        return 0;
    unsigned least = 0;
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, f) > 0)
        least = smaller_quota(least, line_cpus(line, mount));
    free(line);
    fclose(f);
    return least;
}

/* CPUs in this thread's affinity mask; the kernel refuses a mask smaller than its own. */
static unsigned affinity_cpus(void)
{
    for (size_t cpus = 1024; cpus <= 1u << 20; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (set == NULL)
            break;
        size_t bytes = CPU_ALLOC_SIZE(cpus);
        int rc = sched_getaffinity(0, bytes, set);
        int error = errno;
        int count = rc == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (rc == 0)
            return count > 0 ? (unsigned)count : 1;
        if (error != EINVAL)
            break;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
}

unsigned cvd_cpu_count(void)
{
    return smaller_quota(affinity_cpus(), cpu_cgroup_quota("/proc/self/cgroup", "/sys/fs/cgroup"));
}

/* ---- which one ---- */

#if defined(__x86_64__)

/* The name that the processor gives itself, and family, model and stepping: under a hypervisor the
 * name may say little. */
static void describe_cpu(char *text, size_t size)
{
    unsigned r[12] = {0}, signature = 0, b, c, d;
    (void)__get_cpuid(1, &signature, &b, &c, &d);
    for (unsigned i = 0; i < 3; i++)
        (void)__get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]);
    (void)snprintf(text, size, "%.*s %x", (int)sizeof(r), (const char *)r, signature);
}

#else

/* What Linux shows of an arm64 processor's identification register. */
static void describe_cpu(char *text, size_t size)
{
    static const char file[] = "/sys/devices/system/cpu/cpu0/regs/identification/midr_el1";
    if (!read_text(file, text, size))
        (void)snprintf(text, size, "unknown");
}

#endif

void cpu_model(char out[CPU_MODEL_BYTES])
{
    char text[CPU_MODEL_BYTES];
    size_t len = 0;
    describe_cpu(text, sizeof(text));
    for (const char *p = text; *p != '\0'; p++) {
        if (isalnum((unsigned char)*p) || *p == '.' || *p == '_')
            out[len++] = *p;
        else if (len > 0 && out[len - 1] != '-')
            out[len++] = '-';
    }
    while (len > 0 && out[len - 1] == '-')
        len--;
    out[len] = '\0';
}

/* ---- denormals ---- */

#if defined(__x86_64__)

#define MXCSR_DAZ_FTZ 0x8040u

uint64_t cpu_denormals_flush(void)
{
    unsigned mode = __builtin_ia32_stmxcsr();
    if ((mode & MXCSR_DAZ_FTZ) != MXCSR_DAZ_FTZ)
        __builtin_ia32_ldmxcsr(mode | MXCSR_DAZ_FTZ);
    return mode;
}

/* Sets the two bits back and leaves the exception flags as they have become. */
void cpu_denormals_restore(uint64_t mode)
{
    if ((mode & MXCSR_DAZ_FTZ) != MXCSR_DAZ_FTZ)
        __builtin_ia32_ldmxcsr((__builtin_ia32_stmxcsr() & ~MXCSR_DAZ_FTZ) |
                               ((unsigned)mode & MXCSR_DAZ_FTZ));
}

#elif defined(__aarch64__)

#define FPCR_FZ (UINT64_C(1) << 24)

uint64_t cpu_denormals_flush(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    if (!(mode & FPCR_FZ))
        __asm__ volatile("msr fpcr, %0" : : "r"(mode | FPCR_FZ));
    return mode;
}

void cpu_denormals_restore(uint64_t mode)
{
    if (!(mode & FPCR_FZ))
        __asm__ volatile("msr fpcr, %0" : : "r"(mode));
}

#else

uint64_t cpu_denormals_flush(void)
{
    return 0;
}

void cpu_denormals_restore(uint64_t mode)
{
    (void)mode;
}

#endif
