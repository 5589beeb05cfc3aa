/* onnx-conformance: runs folders in the format of ONNX's backend tests and tells what fails. */
#include "tests/support/conformance.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

static const char usage[] =
    "usage: onnx-conformance [--skip-unsupported] [--cpu LEVEL] [--threads N] DIR...\n"
    "\n"
    "Runs cases in the format of ONNX's backend tests (model.onnx, test_data_set_*/input_*.pb and\n"
    "output_*.pb). A DIR is a case or a folder of them.\n"
    "\n"
    "  --skip-unsupported  do not count what is not implemented as a failure\n"
    "  --cpu LEVEL         auto, c, neon, avx2 or avx512 (default: $CONVD_CPU, else auto)\n"
    "  --threads N         worker threads (default 0: one for each CPU)\n"
    "\n"
    "Exit status: 0 when all pass, 1 when one fails or none was run, 2 for wrong usage.\n";

struct counts {
    size_t passed, failed, skipped;
};

static void report(void *ctx, const char *name, enum conformance_verdict verdict,
                   const char *reason)
{
    struct counts *c = ctx;
    switch (verdict) {
    case CONFORMANCE_PASS:
        c->passed++;
        printf("pass %s\n", name);
        break;
    case CONFORMANCE_FAIL:
        c->failed++;
        printf("FAIL %s: %s\n", name, reason);
        break;
    case CONFORMANCE_SKIP:
        c->skipped++;
        printf("skip %s: %s\n", name, reason);
        break;
    }
}

static int wrong_usage(const char *what, const char *value)
{
    fprintf(stderr, "onnx-conformance: %s '%s'\n\n%s", what, value, usage);
    return 2;
}

static int run_all(const struct cvd_settings *settings, char **folders, bool skip_unsupported)
{
    struct cvd_engine *engine;
    struct cvd_error err;
    struct counts c = {0};
    if (cvd_engine_create(settings, &engine, &err) != CVD_STATUS_OK) {
        fprintf(stderr, "onnx-conformance: %s\n", err.message);
        return 1;
    }
    for (; *folders; folders++)
        if (!conformance_run(engine, *folders, skip_unsupported, report, &c)) {
            c.failed++;
            printf("FAIL %s: the folder cannot be read\n", *folders);
        }
    cvd_engine_destroy(engine);
    printf("%zu passed, %zu failed, %zu skipped\n", c.passed, c.failed, c.skipped);
    return c.failed == 0 && c.passed > 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"skip-unsupported", no_argument, NULL, 's'},
                                            {"cpu", required_argument, NULL, 'c'},
                                            {"threads", required_argument, NULL, 't'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const char *level = getenv("CONVD_CPU");
    struct cvd_settings settings;
    bool skip_unsupported = false;
    cvd_settings_default(&settings);
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        char *end;
        switch (option) {
        case 's':
            skip_unsupported = true;
            break;
        case 'c':
            level = optarg;
            break;
        case 't':
            settings.threads = (unsigned)strtoul(optarg, &end, 10);
            if (end == optarg || *end != '\0' || settings.threads > CVD_MAX_THREADS)
                return wrong_usage("no number of threads:", optarg);
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            fputs(usage, stderr);
            return 2;
        }
    }
    if (level && level[0] != '\0' && !cvd_cpu_parse(level, &settings.cpu))
        return wrong_usage("no CPU level:", level);
    if (optind == argc) {
        fputs(usage, stderr);
        return 2;
    }
    return run_all(&settings, argv + optind, skip_unsupported);
}
