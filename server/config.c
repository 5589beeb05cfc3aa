/*
 * Options. The table below is the only list of them: flags, environment variables, file keys,
 * ranges, defaults and the help text all come from it.
 *
 * An environment variable that starts with CONVD_ and is no option is not an error: Kubernetes
 * invents such names (CONVD_PORT, CONVD_SERVICE_HOST) for a service called "convd".
 */
#include "server/config.h"

#include "server/file.h"
#include "server/strict_json.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define US             1000u
#define MS             1000000u
#define S              1000000000u
#define MAX_FILE_BYTES (1 << 20)

enum kind {
    STRING,       /* char * */
    ADDRESS,      /* char * */
    COUNT,        /* unsigned */
    COUNT_64,     /* uint64_t */
    MICROSECONDS, /* uint64_t ns, written as a plain number of us */
    DURATION,     /* uint64_t ns */
    SIZE,         /* size_t */
    BOOLEAN,      /* bool */
    CPU,          /* enum cvd_cpu */
    LEVEL,        /* enum config_log_level */
    FORMAT,       /* enum config_log_format */
    FILE_NAME     /* --config itself: read before everything else, stored nowhere */
};

struct option {
    const char *name;
    enum kind kind;
    size_t offset;
    uint64_t min, max;    /* of the numbers, in the stored unit */
    const char *standard; /* default; NULL = unset */
    const char *value;    /* how --help writes the value */
    const char *help;
};

#define AT(field) offsetof(struct config, field)

static const struct option options[] = {
    {"listen", ADDRESS, AT(listen), 0, 0, "127.0.0.1:8080", "ADDR:PORT",
     "where to listen; port 0: any free one, no ADDR: everywhere"},
    {"admin-listen", ADDRESS, AT(admin_listen), 0, 0, NULL, "ADDR:PORT",
     "probes and metrics here too, apart from other traffic"},
    {"models", STRING, AT(models), 0, 0, NULL, "DIR", "folder of models to serve"},
    {"default-model", STRING, AT(default_model), 0, 0, NULL, "NAME",
     "model that /classify uses when none is named"},
    {"threads", COUNT, AT(threads), 0, CVD_MAX_THREADS, "0", "N",
     "compute threads; 0 = one for each CPU this process may use"},
    {"io-threads", COUNT, AT(io_threads), 1, 64, "1", "N", "threads that move bytes"},
    {"cpu", CPU, AT(cpu), 0, 0, "auto", "LEVEL",
     "highest instruction set to use: auto, c, neon, avx2, avx512"},
    {"tune-budget", DURATION, AT(tune_budget_ns), 0, 3600 * (uint64_t)S, CONFIG_TUNE_BUDGET, "TIME",
     "time for choosing a model's algorithms by timing; 0: none"},
    {"tune-cache", STRING, AT(tune_cache), 0, 0, NULL, "DIR", "folder that keeps those choices"},
    {"max-batch", COUNT, AT(max_batch), 1, 1024, "32", "N", "most images computed together"},
    {"max-delay-us", MICROSECONDS, AT(max_delay_ns), 0, (uint64_t)S, "0", "N",
     "microseconds a request may wait for a fuller batch"},
    {"max-queue", COUNT, AT(max_queue), 1, 1000000, "1024", "N",
     "most images waiting for one model; beyond that 503"},
    {"max-queue-bytes", SIZE, AT(max_queue_bytes), 1 << 20, (uint64_t)1 << 40, "256M", "SIZE",
     "most bytes of images waiting, and of request bodies held"},
    {"max-body", SIZE, AT(max_body), 1 << 10, 1 << 30, "16M", "SIZE",
     "largest request body, also after decompression"},
    {"max-pixels", COUNT_64, AT(max_pixels), 1, 1 << 28, "16777216", "N",
     "largest width x height of an image"},
    {"request-timeout", DURATION, AT(request_timeout_ns), MS, 600 * (uint64_t)S, "5s", "TIME",
     "most time from a complete request to its answer"},
    {"idle-timeout", DURATION, AT(idle_timeout_ns), S, 3600 * (uint64_t)S, "75s", "TIME",
     "how long an idle connection is kept"},
    {"max-connections", COUNT, AT(max_connections), 1, 1000000, "4096", "N",
     "connections served at a time; beyond that 503"},
    {"max-connections-per-ip", COUNT, AT(max_connections_per_ip), 0, 1000000, "0", "N",
     "of one client address; 0 = no limit"},
    {"drain-delay", DURATION, AT(drain_delay_ns), 0, 600 * (uint64_t)S, "5s", "TIME",
     "after SIGTERM: still accept requests this long"},
    {"drain-timeout", DURATION, AT(drain_timeout_ns), 0, 3600 * (uint64_t)S, "20s", "TIME",
     "after that: wait this long for unfinished requests"},
    {"log-level", LEVEL, AT(log_level), 0, 0, "info", "LEVEL", "error, warn, info or debug"},
    {"log-format", FORMAT, AT(log_format), 0, 0, "text", "FORMAT", "text or json"},
    {"access-log", BOOLEAN, AT(access_log), 0, 0, "on", "on|off", "one log line for each request"},
    {"config", FILE_NAME, 0, 0, 0, NULL, "FILE", "JSON file of options: {\"max_batch\": 16}"},
};
#define OPTIONS    (sizeof options / sizeof *options)
#define NAME_BYTES 48

/* ---- names ---- */

static void env_name(const struct option *o, char out[NAME_BYTES])
{
    int n = snprintf(out, NAME_BYTES, "CONVD_%s", o->name);

    for (int i = 0; i < n; i++)
        out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

static bool key_is(const struct option *o, const char *key)
{
    const char *name = o->name;

    for (; *name && *key; name++, key++)
        if (*key != (*name == '-' ? '_' : *name))
            return false;
    return *name == *key;
}

/* ---- values ---- */

struct unit {
    const char *name;
    uint64_t factor;
};
/* Smallest first: the largest that divides a value writes it. */
static const struct unit time_units[] = {{"us", US}, {"ms", MS}, {"s", S}, {"m", 60 * (uint64_t)S}};
static const struct unit size_units[] = {
    {"", 1}, {"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", (uint64_t)1 << 40}};
static const struct unit plain_units[] = {{"", 1}};
static const struct unit microseconds[] = {{"", US}};

static const struct unit *units_of(enum kind kind, size_t *count)
{
    switch (kind) {
    case DURATION:
        *count = sizeof time_units / sizeof *time_units;
        return time_units;
    case SIZE:
        *count = sizeof size_units / sizeof *size_units;
        return size_units;
    case MICROSECONDS:
        *count = 1;
        return microseconds;
    default:
        *count = 1;
        return plain_units;
    }
}

static bool parse_number(const struct option *o, const char *text, uint64_t *out)
{
    size_t count;
    const struct unit *units = units_of(o->kind, &count);
    uint64_t value = 0;
    const char *p = text;

    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (unsigned)(*p - '0'), &value))
            return false;
    if (p == text)
        return false;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(p, units[i].name) != 0)
            continue;
        if (__builtin_mul_overflow(value, units[i].factor, &value))
            return false;
        *out = value;
        return value >= o->min && value <= o->max;
    }
    *out = 0; /* zero needs no unit */
    return *p == '\0' && value == 0 && o->min == 0;
}

bool config_time(const char *text, uint64_t max_ns, uint64_t *ns)
{
    return parse_number(&(const struct option){.kind = DURATION, .max = max_ns}, text, ns);
}

static void print_number(const struct option *o, uint64_t value, char *out, size_t size)
{
    size_t count;
    const struct unit *units = units_of(o->kind, &count), *unit = units;

    for (size_t i = 0; i < count; i++)
        if (value >= units[i].factor && value % units[i].factor == 0)
            unit = &units[i];
    snprintf(out, size, "%" PRIu64 "%s", value / unit->factor, value ? unit->name : "");
}

/* Index of text among names, or -1. */
static int choice(const char *text, const char *const *names, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    return -1;
}

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const char *const format_names[] = {"text", "json"};
static const char *const bool_names[] = {"off", "on", "false", "true", "no", "yes", "0", "1"};

bool config_address(const char *text, char host[CONFIG_HOST_BYTES], char port[CONFIG_PORT_BYTES])
{
    const char *colon = strrchr(text, ':'), *start = text, *end = colon;

    if (!colon)
        return false;
    if (*text == '[') {
        if (colon == text || colon[-1] != ']')
            return false;
        start++;
        end--;
    } else if (strcspn(text, ":[] ") != (size_t)(colon - text)) {
        return false; /* an IPv6 address without brackets: which colon is the port's? */
    }
    size_t host_len = (size_t)(end - start), port_len = strlen(colon + 1);
    if (host_len >= CONFIG_HOST_BYTES || port_len == 0 || port_len >= CONFIG_PORT_BYTES ||
        strspn(colon + 1, "0123456789") != port_len || atol(colon + 1) > 65535)
        return false;
    memcpy(host, start, host_len);
    host[host_len] = '\0';
    memcpy(port, colon + 1, port_len + 1);
    return true;
}

static bool set_string(char **field, const char *text)
{
    char *copy = strdup(text);

    if (!copy)
        return false;
    free(*field);
    *field = copy;
    return true;
}

/* Stores a value; false when it is not one. */
static bool set(struct config *config, const struct option *o, const char *text)
{
    void *field = (char *)config + o->offset;
    char host[CONFIG_HOST_BYTES], port[CONFIG_PORT_BYTES];
    uint64_t number;
    int index;

    switch (o->kind) {
    case STRING:
        return *text && set_string(field, text);
    case ADDRESS:
        return config_address(text, host, port) && set_string(field, text);
    case COUNT:
        if (!parse_number(o, text, &number))
            return false;
        *(unsigned *)field = (unsigned)number;
        return true;
    case COUNT_64:
    case MICROSECONDS:
    case DURATION:
        if (!parse_number(o, text, &number))
            return false;
        *(uint64_t *)field = number;
        return true;
    case SIZE:
        if (!parse_number(o, text, &number))
            return false;
        *(size_t *)field = (size_t)number;
        return true;
    case BOOLEAN:
        index = choice(text, bool_names, 8);
        *(bool *)field = index & 1;
        return index >= 0;
    case CPU:
        return cvd_cpu_parse(text, field);
    case LEVEL:
        index = choice(text, level_names, 4);
        *(enum config_log_level *)field = (enum config_log_level)(index & 3);
        return index >= 0;
    case FORMAT:
        index = choice(text, format_names, 2);
        *(enum config_log_format *)field = (enum config_log_format)(index & 1);
        return index >= 0;
    case FILE_NAME:
        return true;
    }
    return false;
}

/* What the value of an option should be, for the error message. */
static void expectation(const struct option *o, char *out, size_t size)
{
    char min[32], max[32];

    print_number(o, o->min, min, sizeof min);
    print_number(o, o->max, max, sizeof max);
    switch (o->kind) {
    case STRING:
    case FILE_NAME:
        snprintf(out, size, "must not be empty");
        return;
    case ADDRESS:
        snprintf(out, size, "should be ADDR:PORT, [IPV6]:PORT or :PORT with a port up to 65535");
        return;
    case COUNT:
    case COUNT_64:
    case MICROSECONDS:
        snprintf(out, size, "should be a whole number from %s to %s", min, max);
        return;
    case DURATION:
        snprintf(out, size, "should be a time such as 500ms or 5s (us, ms, s, m), from %s to %s",
                 min, max);
        return;
    case SIZE:
        snprintf(out, size, "should be a size such as 512K or 16M (K, M, G), from %s to %s", min,
                 max);
        return;
    case BOOLEAN:
        snprintf(out, size, "should be on or off");
        return;
    case CPU:
        snprintf(out, size, "should be auto, c, neon, avx2 or avx512");
        return;
    case LEVEL:
        snprintf(out, size, "should be error, warn, info or debug");
        return;
    case FORMAT:
        snprintf(out, size, "should be text or json");
        return;
    }
}

/* ---- sources ---- */

struct loader {
    struct config *config;
    FILE *errors;
    unsigned error_count;
    const char *flags[OPTIONS]; /* values given on the command line */
};

static void reject(struct loader *l, const struct option *o, const char *text, const char *source)
{
    char should[160];

    expectation(o, should, sizeof should);
    fprintf(l->errors, "convd: %s: '%.100s' (%s) %s\n", o->name, text, source, should);
    l->error_count++;
}

/* source: "flag --x", "environment CONVD_X" or "FILE: key x". */
static void apply(struct loader *l, const struct option *o, const char *text, const char *source)
{
    if (!set(l->config, o, text))
        reject(l, o, text, source);
}

static void read_flags(struct loader *l, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i], *name = word + 2;
        if (strncmp(word, "--", 2) != 0 || !*name) {
            fprintf(l->errors, "convd: unexpected argument '%.100s': options start with --\n",
                    word);
            l->error_count++;
            continue;
        }
        size_t len = strcspn(name, "="), k = 0;
        while (k < OPTIONS &&
               (strlen(options[k].name) != len || strncmp(options[k].name, name, len) != 0))
            k++;
        const char *value = name[len] == '=' ? name + len + 1 : NULL;
        const char *problem = NULL;
        if (k == OPTIONS)
            problem = "unknown option; --help lists them all";
        else if (!value && i + 1 == argc)
            problem = "needs a value";
        else if (l->flags[k])
            problem = "is given twice";
        if (problem) {
            fprintf(l->errors, "convd: --%.*s: %s\n", (int)(len < 100 ? len : 100), name, problem);
            l->error_count++;
        }
        /* The word after an unknown option is its value, unless it looks like another option. */
        bool takes_next =
            !value && i + 1 < argc && (k < OPTIONS || strncmp(argv[i + 1], "--", 2) != 0);
        if (takes_next)
            value = argv[++i];
        if (!problem)
            l->flags[k] = value;
    }
}

/* A JSON value as the text that a flag would have, in buf if need be; NULL when it has none. */
static const char *json_text(const json_t *value, char *buf, size_t size)
{
    switch (json_typeof(value)) {
    case JSON_STRING:
        return json_string_value(value);
    case JSON_INTEGER:
        snprintf(buf, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return buf;
    case JSON_TRUE:
        return "on";
    case JSON_FALSE:
        return "off";
    default:
        return NULL;
    }
}

static void file_error(struct loader *l, const char *path, const char *text)
{
    fprintf(l->errors, "convd: %s: %s\n", path, text);
    l->error_count++;
}

/* Whether the file holds options, else why not is reported; strict_json_free() in any case. */
static bool file_open(struct loader *l, const char *path, struct strict_json *doc)
{
    struct cvd_error err;
    char reason[512], *text;
    size_t len;

    *doc = (struct strict_json){.root = NULL};
    if (file_read(path, false, MAX_FILE_BYTES, &text, &len, &err) != CVD_STATUS_OK) {
        fprintf(l->errors, "convd: %s\n", err.message);
        l->error_count++;
        return false;
    }
    const bool json = strict_json_read(doc, text, len);
    free(text);
    if (!json) {
        snprintf(reason, sizeof reason, "line %d: %s", doc->fault.line, doc->fault.text);
        file_error(l, path, doc->no_memory ? "no memory" : reason);
    } else if (!json_is_object(doc->root)) {
        file_error(l, path, "should be one JSON object of options");
    } else {
        return true;
    }
    return false;
}

static void read_file(struct loader *l, const char *path)
{
    struct strict_json doc;
    json_t *value;
    const char *key;

    if (!file_open(l, path, &doc))
        goto done;
    json_object_foreach(doc.root, key, value)
    {
        char source[512], buf[32];
        const struct option *o = options;
        while (o < options + OPTIONS && (!key_is(o, key) || o->kind == FILE_NAME))
            o++;
        if (o == options + OPTIONS) {
            snprintf(source, sizeof source, "unknown key '%.100s'", key);
            file_error(l, path, source);
            continue;
        }
        snprintf(source, sizeof source, "%.400s: key %.60s", path, key);
        const char *text = json_text(value, buf, sizeof buf);
        if (text)
            apply(l, o, text, source);
        else
            reject(l, o, "null, fraction, list or object", source);
    }
done:
    strict_json_free(&doc);
}

int config_load(struct config *config, int argc, char **argv, FILE *errors)
{
    struct loader l = {.config = config, .errors = errors};
    const char *file = NULL;
    char name[NAME_BYTES], source[NAME_BYTES + 16];

    memset(config, 0, sizeof *config);
    read_flags(&l, argc, argv);
    for (size_t i = 0; i < OPTIONS; i++) {
        if (options[i].kind == FILE_NAME) {
            env_name(&options[i], name);
            file = l.flags[i] ? l.flags[i] : getenv(name);
        }
        if (options[i].standard)
            apply(&l, &options[i], options[i].standard, "default");
    }
    if (file && *file)
        read_file(&l, file);
    /* Each source is checked, also where a stronger one covers it. An empty variable counts as
     * unset: that is what "${X:-}" in a compose file makes of it. */
    for (size_t i = 0; i < OPTIONS; i++) {
        env_name(&options[i], name);
        const char *value = getenv(name);
        if (value && *value) {
            snprintf(source, sizeof source, "environment %s", name);
            apply(&l, &options[i], value, source);
        }
        if (l.flags[i]) {
            snprintf(source, sizeof source, "flag --%s", options[i].name);
            apply(&l, &options[i], l.flags[i], source);
        }
    }
    if (l.error_count == 0)
        return 0;
    config_free(config);
    return 2;
}

void config_free(struct config *config)
{
    for (size_t i = 0; i < OPTIONS; i++) {
        if (options[i].kind == STRING || options[i].kind == ADDRESS) {
            char **field = (char **)(void *)((char *)config + options[i].offset);
            free(*field);
            *field = NULL;
        }
    }
}

void config_help(FILE *out)
{
    char left[64];

    for (size_t i = 0; i < OPTIONS; i++) {
        const struct option *o = &options[i];
        snprintf(left, sizeof left, "--%s %s", o->name, o->value);
        fprintf(out, "  %-30s %s", left, o->help);
        if (o->standard)
            fprintf(out, " (%s)", o->standard);
        fputc('\n', out);
    }
}
