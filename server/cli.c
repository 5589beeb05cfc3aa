/* Parsing a tool's command line from its table of options. */
#include "server/cli.h"

#include "server/config.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void help(const struct cli *cli)
{
    printf("usage: convd %s [options] %s\n\n%s\n\noptions:\n", cli->command, cli->operands,
           cli->about);
    for (const struct cli_option *o = cli->options; o->name; o++) {
        char left[40];
        snprintf(left, sizeof left, "--%s%s%s", o->name, o->value ? " " : "",
                 o->value ? o->value : "");
        printf("  %-20s %s\n", left, o->help);
    }
    printf("  %-20s %s\n", "--help", "this text");
}

static bool parse_count(const char *text, unsigned min, unsigned max, unsigned *out)
{
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (errno || *end || n < min || n > max)
        return false;
    *out = (unsigned)n;
    return true;
}

/* `unit` may follow the number. */
static bool parse_number(const char *text, const char *unit, double min, double max, double *out)
{
    char *end;
    if ((*text < '0' || *text > '9') && *text != '.')
        return false;
    double x = strtod(text, &end);
    if (end == text || (*end && strcmp(end, unit) != 0) || !isfinite(x) || x < min || x > max)
        return false;
    *out = x;
    return true;
}

static bool parse_choice(const char *text, const char *const *choices, unsigned *out)
{
    for (unsigned i = 0; choices[i]; i++) {
        if (strcmp(text, choices[i]) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

/* "auto, c, neon, avx2 or avx512" and the like, for a message. */
static void list_choices(const char *const *choices, char *text, size_t room)
{
    size_t len = 0;
    *text = '\0';
    for (unsigned i = 0; choices[i] && len < room; i++)
        len += (size_t)snprintf(text + len, room - len, "%s%s",
                                i == 0           ? ""
                                : choices[i + 1] ? ", "
                                                 : " or ",
                                choices[i]);
}

/* Stores the value; false with what it should be in `should`. `name` is not needed: it is the
 * caller's to put before the message. */
static bool set(const struct cli_option *o, const char *value, char *should, size_t room)
{
    switch (o->kind) {
    case CLI_FLAG:
        *(bool *)o->target = true;
        return true;
    case CLI_TEXT:
        snprintf(should, room, "not empty");
        *(const char **)o->target = value;
        return *value != '\0';
    case CLI_COUNT:
        snprintf(should, room, "a whole number from %u to %u", o->min, o->max);
        return parse_count(value, o->min, o->max, o->target);
    case CLI_SECONDS:
        snprintf(should, room, "a number of seconds from %u to %u", o->min, o->max);
        return parse_number(value, "s", o->min, o->max, o->target);
    case CLI_TIME:
        snprintf(should, room, "a time such as 500ms or 5s (us, ms, s, m), at most %us", o->max);
        return config_time(value, o->max * UINT64_C(1000000000), o->target);
    case CLI_NUMBER:
        snprintf(should, room, "a number from %u to %u", o->min, o->max);
        return parse_number(value, "", o->min, o->max, o->target);
    case CLI_CPU:
        snprintf(should, room, "auto, c, neon, avx2 or avx512");
        return cvd_cpu_parse(value, o->target);
    case CLI_CHOICE:
        list_choices(o->choices, should, room);
        return parse_choice(value, o->choices, o->target);
    }
    return false;
}

static enum cli_result wrong(const struct cli *cli, const char *option, const char *text)
{
    fprintf(stderr, "convd %s: %s%s; see 'convd %s --help'\n", cli->command, option, text,
            cli->command);
    return CLI_WRONG;
}

/* One option at argv[*i], which begins with "--". */
static enum cli_result parse_option(const struct cli *cli, int argc, char **argv, int *i)
{
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    const struct cli_option *o = cli->options;
    while (o->name && (strlen(o->name) != len || strncmp(o->name, name, len) != 0))
        o++;
    if (!o->name)
        return wrong(cli, argv[*i], ": no such option");
    const char *value = equals ? equals + 1 : NULL;
    if (o->kind == CLI_FLAG && value)
        return wrong(cli, argv[*i], ": takes no value");
    if (o->kind != CLI_FLAG && !value) {
        if (*i + 1 >= argc)
            return wrong(cli, argv[*i], ": a value is missing");
        value = argv[++*i];
    }
    char should[128], text[320];
    if (set(o, value, should, sizeof should))
        return CLI_RUN;
    snprintf(text, sizeof text, "--%s: '%.100s' should be %s", o->name, value, should);
    return wrong(cli, "", text);
}

enum cli_result cli_parse(const struct cli *cli, int argc, char **argv, int *operands)
{
    int count = 0;
    bool options = true;
    for (int i = 1; i < argc; i++) {
        if (!options || argv[i][0] != '-' || strcmp(argv[i], "-") == 0) {
            argv[count++] = argv[i];
        } else if (strcmp(argv[i], "--") == 0) {
            options = false;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            help(cli);
            return CLI_HELP;
        } else if (argv[i][1] != '-') {
            return wrong(cli, argv[i], ": no such option");
        } else {
            enum cli_result result = parse_option(cli, argc, argv, &i);
            if (result != CLI_RUN)
                return result;
        }
    }
    if (count < cli->min_operands)
        return wrong(cli, cli->operands, " is missing");
    if (count > cli->max_operands)
        return wrong(cli, argv[cli->max_operands], ": one argument too many");
    *operands = count;
    return CLI_RUN;
}

enum cli_result cli_environment(const char *command, struct cvd_settings *settings)
{
    const char *threads = getenv("CONVD_THREADS"), *cpu = getenv("CONVD_CPU");
    if (threads && !parse_count(threads, 0, CVD_MAX_THREADS, &settings->threads)) {
        fprintf(stderr, "convd %s: CONVD_THREADS: '%.100s' should be a whole number from 0 to %d\n",
                command, threads, CVD_MAX_THREADS);
        return CLI_WRONG;
    }
    if (cpu && !cvd_cpu_parse(cpu, &settings->cpu)) {
        fprintf(stderr, "convd %s: CONVD_CPU: '%.100s' should be auto, c, neon, avx2 or avx512\n",
                command, cpu);
        return CLI_WRONG;
    }
    return CLI_RUN;
}

enum cli_result cli_tuning(const char *command, struct cvd_load_options *load)
{
    const uint64_t max_ns = CLI_TUNE_MAX_SECONDS * UINT64_C(1000000000);
    const char *budget = getenv("CONVD_TUNE_BUDGET"), *cache = getenv("CONVD_TUNE_CACHE");
    if (!budget || !*budget)
        budget = CONFIG_TUNE_BUDGET;
    if (!config_time(budget, max_ns, &load->tune_ns)) {
        fprintf(stderr,
                "convd %s: CONVD_TUNE_BUDGET: '%.100s' should be a time such as 500ms or 5s\n",
                command, budget);
        return CLI_WRONG;
    }
    if (cache && *cache)
        load->tune_cache = cache;
    return CLI_RUN;
}

int cli_fail(const char *command, const char *message)
{
    fprintf(stderr, "convd %s: %s\n", command, message);
    return 1;
}

int cli_end(const char *command, int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    return cli_fail(command, "the output could not be written");
}
