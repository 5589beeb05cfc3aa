/*
 * Options of the command-line tools: one table a tool, from which parsing, range errors and --help
 * come. (The daemon's many options are config.h's.)
 */
#ifndef CONVD_SERVER_CLI_H
#define CONVD_SERVER_CLI_H

#include <convd/model.h>

#include <stddef.h>

enum cli_kind {
    CLI_FLAG,    /* bool */
    CLI_TEXT,    /* const char * */
    CLI_COUNT,   /* unsigned, min … max */
    CLI_SECONDS, /* double, min … max */
    CLI_TIME,    /* uint64_t ns, up to max seconds */
    CLI_NUMBER,  /* double, min … max */
    CLI_CPU,     /* enum cvd_cpu */
    CLI_CHOICE   /* unsigned: which of `choices` */
};

struct cli_option {
    const char *name;
    enum cli_kind kind;
    void *target;      /* holds the default beforehand */
    const char *value; /* how --help writes the value; NULL for a flag */
    const char *help;
    unsigned min, max;
    const char *const *choices; /* ended by NULL */
};

struct cli {
    const char *command;  /* "bench" */
    const char *operands; /* how --help writes them: "[MODEL|FILE]" */
    const char *about;
    int min_operands, max_operands;
    const struct cli_option *options; /* ended by a row without a name */
};

enum cli_result { CLI_RUN, CLI_HELP, CLI_WRONG };

/*
 * Parses argv (argv[0] is the command's name) and moves the operands to argv[0 … *operands - 1].
 * "--x v" and "--x=v" are the same, "--" ends the options, "-" is an operand. CLI_HELP: --help was
 * printed, exit 0. CLI_WRONG: the reason is on stderr, exit 2.
 */
enum cli_result cli_parse(const struct cli *cli, int argc, char **argv, int *operands);

/* Threads and CPU level from CONVD_THREADS and CONVD_CPU, as the daemon takes them; flags come
 * later and win. CLI_WRONG as above. */
enum cli_result cli_environment(const char *command, struct cvd_settings *settings);

/* The two rows that every tool with an engine has. */
#define CLI_ENGINE_OPTIONS(settings)                                                 \
    {.name = "threads",                                                              \
     .kind = CLI_COUNT,                                                              \
     .target = &(settings).threads,                                                  \
     .value = "N",                                                                   \
     .help = "compute threads; 0 (default) = one for each CPU",                      \
     .max = CVD_MAX_THREADS},                                                        \
    {                                                                                \
        .name = "cpu", .kind = CLI_CPU, .target = &(settings).cpu, .value = "LEVEL", \
        .help = "highest instruction set to use: auto, c, neon, avx2, avx512"        \
    }

/* tune_ns and tune_cache: their defaults, and CONVD_TUNE_BUDGET and CONVD_TUNE_CACHE over them.
 * CLI_WRONG as above. */
enum cli_result cli_tuning(const char *command, struct cvd_load_options *load);

#define CLI_TUNE_MAX_SECONDS 3600
/* The two rows that every tool with a model has. */
#define CLI_TUNE_OPTIONS(load)                                                                \
    {.name = "tune-budget",                                                                   \
     .kind = CLI_TIME,                                                                        \
     .target = &(load).tune_ns,                                                               \
     .value = "TIME",                                                                         \
     .help = "time for choosing algorithms by timing (default 2s); 0: none",                  \
     .max = CLI_TUNE_MAX_SECONDS},                                                            \
    {                                                                                         \
        .name = "tune-cache", .kind = CLI_TEXT, .target = &(load).tune_cache, .value = "DIR", \
        .help = "folder that keeps those choices"                                             \
    }

/* "convd COMMAND: message" on stderr; returns 1, the exit code. */
int cli_fail(const char *command, const char *message);

/* Writes out what is buffered for stdout; 1 and a message when that fails (a full disk), else
 * `code`. */
int cli_end(const char *command, int code);

#endif
