/* CPU levels against what the kernel says, cgroup quotas in made-up trees, denormals. */
#include "engine/runtime/cpu.h"

#include <criterion/criterion.h>

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

Test(cpu, names_are_distinct_and_parse_back)
{
    for (unsigned i = 0; i < CVD_CPU_COUNT; i++) {
        enum cvd_cpu back = CVD_CPU_COUNT;
        cr_assert(cvd_cpu_parse(cvd_cpu_name((enum cvd_cpu)i), &back));
        cr_assert_eq((unsigned)back, i);
    }
    enum cvd_cpu untouched = CVD_CPU_AVX2;
    cr_assert_not(cvd_cpu_parse("AVX2", &untouched));
    cr_assert_not(cvd_cpu_parse("", &untouched));
    cr_assert_not(cvd_cpu_parse("avx", &untouched));
    cr_assert_eq(untouched, CVD_CPU_AVX2);
    cr_assert_str_eq(cvd_cpu_name(CVD_CPU_COUNT), "unknown");
}

/* Whether every word of `words` is among the "flags" of /proc/cpuinfo. The kernel lists AVX flags
 * only when it saves their registers. */
static bool kernel_has(const char *words)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    cr_assert_not_null(f);
    char *line = NULL, *flags = NULL;
    size_t room = 0;
    while (flags == NULL && getline(&line, &room, f) > 0) {
        if (strncmp(line, "flags", 5) == 0)
            flags = line;
    }
    fclose(f);
    bool all = flags != NULL;
    char list[128], *rest = NULL;
    snprintf(list, sizeof(list), "%s", words);
    if (flags != NULL)
        flags[strcspn(flags, "\n")] = ' ';
    for (char *w = strtok_r(list, " ", &rest); w != NULL && all; w = strtok_r(NULL, " ", &rest)) {
        char padded[40];
        snprintf(padded, sizeof(padded), " %s ", w);
        all = strstr(flags, padded) != NULL;
    }
    free(line);
    return all;
}

Test(cpu, levels_agree_with_the_kernel)
{
    cr_assert(cvd_cpu_supported(CVD_CPU_AUTO));
    cr_assert(cvd_cpu_supported(CVD_CPU_C));
    cr_assert_not(cvd_cpu_supported(CVD_CPU_COUNT));
#if defined(__x86_64__)
    bool avx2 = kernel_has("avx avx2 fma");
    cr_assert_eq(cvd_cpu_supported(CVD_CPU_AVX2), avx2);
    cr_assert_eq(cvd_cpu_supported(CVD_CPU_AVX512),
                 avx2 && kernel_has("avx512f avx512bw avx512dq avx512vl"));
    cr_assert_not(cvd_cpu_supported(CVD_CPU_NEON));
#elif defined(__aarch64__)
    cr_assert(cvd_cpu_supported(CVD_CPU_NEON));
    cr_assert_not(cvd_cpu_supported(CVD_CPU_AVX2));
#endif
}

Test(cpu, best_is_supported_and_never_above_its_limit)
{
    for (unsigned limit = 0; limit < CVD_CPU_COUNT; limit++) {
        enum cvd_cpu best = cpu_best((enum cvd_cpu)limit);
        cr_assert_neq(best, CVD_CPU_AUTO);
        cr_assert(cvd_cpu_supported(best));
        cr_assert(limit == CVD_CPU_AUTO || (unsigned)best <= limit);
    }
    cr_assert_eq(cpu_best(CVD_CPU_C), CVD_CPU_C);
    for (unsigned level = CVD_CPU_C; level < CVD_CPU_COUNT; level++) {
        if (cvd_cpu_supported((enum cvd_cpu)level))
            cr_assert_eq(cpu_best((enum cvd_cpu)level), (enum cvd_cpu)level);
    }
}

/* Which model it is depends on the machine; that it can be a part of a file's name does not. */
Test(cpu, model_is_a_name)
{
    char model[CPU_MODEL_BYTES], again[CPU_MODEL_BYTES];
    cpu_model(model);
    cpu_model(again);
    cr_assert_str_eq(model, again);
    cr_assert_gt(strlen(model), 0);
    cr_assert_eq(strspn(model, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"),
                 strlen(model), "%s", model);
    cr_assert(model[0] != '-' && model[0] != '.', "%s", model);
}

Test(cpu, quota_texts)
{
    static const struct {
        const char *text;
        unsigned cpus;
    } cases[] = {
        {"max 100000\n", 0},
        {"100000 100000\n", 1},
        {"150000 100000\n", 2},
        {"200000 100000", 2},
        {"200001 100000", 3},
        {"1000 100000\n", 1},
        {"  100000 100000", 0},
        {"100000", 0},
        {"100000 ", 0},
        {"100000 0", 0},
        {"0 100000", 0},
        {"-1 100000", 0},
        {"100000 100000 x", 0},
        {"100000x 100000", 0},
        {"1e5 100000", 0},
        {"", 0},
        {"\n", 0},
        {"max", 0},
        {"99999999999999999999999 100000", 0},
        {"18446744073709551615 1", UINT32_MAX},
        {"18446744073709551615 18446744073709551614", 2},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        cr_expect_eq(cpu_quota_parse(cases[i].text), cases[i].cpus, "\"%s\" gave %u", cases[i].text,
                     cpu_quota_parse(cases[i].text));
}

/* ---- cgroup trees ---- */

static char root[64];

static void make_root(void)
{
    snprintf(root, sizeof(root), "/tmp/convd-cpu-XXXXXX");
    cr_assert_not_null(mkdtemp(root));
}

static void remove_root(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", root);
    cr_assert_eq(system(command), 0);
}

/* Writes a file below the root, making its folders. */
static void put(const char *path, const char *text)
{
    char full[256];
    int len = snprintf(full, sizeof(full), "%s/%s", root, path);
    for (int i = (int)strlen(root) + 1; i < len; i++) {
        if (full[i] == '/') {
            full[i] = '\0';
            mkdir(full, 0755);
            full[i] = '/';
        }
    }
    FILE *f = fopen(full, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

static unsigned quota_of(const char *self)
{
    char mount[128], file[128];
    put("self", self);
    snprintf(file, sizeof(file), "%s/self", root);
    snprintf(mount, sizeof(mount), "%s/fs", root);
    return cpu_cgroup_quota(file, mount);
}

TestSuite(cgroup, .init = make_root, .fini = remove_root);

Test(cgroup, the_smallest_quota_on_the_way_up_counts)
{
    put("fs/a/b/c/cpu.max", "max 100000\n");
    put("fs/a/b/cpu.max", "300000 100000\n");
    put("fs/a/cpu.max", "500000 100000\n");
    cr_assert_eq(quota_of("0::/a/b/c\n"), 3);
    put("fs/a/cpu.max", "100000 100000\n");
    cr_assert_eq(quota_of("0::/a/b/c\n"), 1);
    cr_assert_eq(quota_of("0::/a/b/c/\n"), 1);
    put("fs/a/b/c/cpu.max", "50000 100000\n");
    put("fs/a/cpu.max", "max 100000\n");
    cr_assert_eq(quota_of("0::/a/b/c\n"), 1);
    cr_assert_eq(quota_of("0::/a\n"), 0);
}

Test(cgroup, a_container_sees_only_its_own_root)
{
    put("fs/cpu.max", "250000 100000\n");
    cr_assert_eq(quota_of("0::/\n"), 3);
    cr_assert_eq(quota_of("0::/kubepods/pod1/ctr\n"), 3);
    cr_assert_eq(quota_of("0::/../other\n"), 3);
}

Test(cgroup, version_1_and_both)
{
    put("fs/cpu,cpuacct/x/cpu.cfs_quota_us", "400000\n");
    put("fs/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
    put("fs/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    put("fs/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    cr_assert_eq(quota_of("12:cpuset:/y\n4:cpu,cpuacct:/x\n"), 4);
    cr_assert_eq(quota_of("4:cpu,cpuacct:/\n"), 0);
    cr_assert_eq(quota_of("4:cpuset,cpuacct:/x\n"), 0);
    put("fs/unified/x/cpu.max", "200000 100000\n");
    cr_assert_eq(quota_of("4:cpu,cpuacct:/x\n0::/x\n"), 2);
}

Test(cgroup, nonsense_sets_no_limit)
{
    put("fs/cpu.max", "garbage");
    cr_assert_eq(quota_of(""), 0);
    cr_assert_eq(quota_of("0:/\n:::\n0\n\n::\n"), 0);
    cr_assert_eq(cpu_cgroup_quota("/nonexistent", "/nonexistent"), 0);
}

Test(cpu, count_is_within_what_is_online)
{
    unsigned count = cvd_cpu_count();
    cr_assert_geq(count, 1);
    cr_assert_leq(count, (unsigned)sysconf(_SC_NPROCESSORS_CONF));
}

Test(cpu, denormals_are_flushed_and_come_back)
{
    volatile float small = FLT_MIN, half = 0.5f;
    volatile float before = small * half;
    cr_assert_neq(before, 0.0f);
    uint64_t mode = cpu_denormals_flush();
    volatile float product = small * half; /* a denormal result */
    volatile float sum = before + 0.0f;    /* a denormal operand */
    uint64_t inner = cpu_denormals_flush();
    cpu_denormals_restore(inner);
    volatile float still = small * half;
    cpu_denormals_restore(mode);
    volatile float after = small * half;
#if defined(__x86_64__) || defined(__aarch64__)
    cr_assert_eq(product, 0.0f);
    cr_assert_eq(sum, 0.0f);
    cr_assert_eq(still, 0.0f);
#endif
    cr_assert_eq(after, before);
}
