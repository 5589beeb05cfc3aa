/* Options: defaults, units, ranges, sources and their precedence, and errors that help. */
#include "server/config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct config config;
static char errors[8192];

/* Loads with these flags; `errors` holds what was printed. */
static int load(const char *const *words)
{
    char *argv[64];
    int argc = 0;

    for (; words[argc]; argc++)
        argv[argc] = strdup(words[argc]);
    memset(errors, 0, sizeof errors);
    FILE *out = fmemopen(errors, sizeof errors - 1, "w");
    int rc = config_load(&config, argc, argv, out);
    fclose(out);
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    return rc;
}
#define LOAD(...) load((const char *const[]){__VA_ARGS__, NULL})

static void expect_error(const char *const *parts, const char *const *words)
{
    cr_expect_eq(load(words), 2, "%s was accepted", words[0]);
    for (; *parts; parts++)
        cr_expect_not_null(strstr(errors, *parts), "'%s' is not in: %s", *parts, errors);
}
#define EXPECT_ERROR(parts, ...) expect_error(parts, (const char *const[]){__VA_ARGS__, NULL})
#define PARTS(...)        \
    (const char *const[]) \
    {                     \
        __VA_ARGS__, NULL \
    }

/* A configuration file with this text; its name. */
static const char *file(const char *text)
{
    static char name[64];
    int fd;

    snprintf(name, sizeof name, "/tmp/convd-test-config-XXXXXX");
    fd = mkstemp(name);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return name;
}

static void clean(void)
{
    config_free(&config);
}

static void no_environment(void)
{
    extern char **environ;

    for (char **e = environ; *e;) {
        if (strncmp(*e, "CONVD_", 6) == 0) {
            char name[128];
            snprintf(name, sizeof name, "%.*s", (int)strcspn(*e, "="), *e);
            unsetenv(name);
        } else {
            e++;
        }
    }
}

TestSuite(config, .init = no_environment, .fini = clean);

Test(config, defaults)
{
    cr_assert_eq(LOAD(NULL), 0, "%s", errors);
    cr_expect_str_eq(config.listen, "127.0.0.1:8080");
    cr_expect_null(config.admin_listen);
    cr_expect_null(config.models);
    cr_expect_null(config.default_model);
    cr_expect_eq(config.threads, 0);
    cr_expect_eq(config.io_threads, 1);
    cr_expect_eq(config.cpu, CVD_CPU_AUTO);
    cr_expect_eq(config.tune_budget_ns, 2000000000u);
    cr_expect_null(config.tune_cache);
    cr_expect_eq(config.max_batch, 32);
    cr_expect_eq(config.max_delay_ns, 0);
    cr_expect_eq(config.max_queue, 1024);
    cr_expect_eq(config.max_queue_bytes, 268435456u);
    cr_expect_eq(config.max_body, 16777216u);
    cr_expect_eq(config.max_pixels, 16777216u);
    cr_expect_eq(config.request_timeout_ns, 5000000000u);
    cr_expect_eq(config.idle_timeout_ns, 75000000000u);
    cr_expect_eq(config.max_connections, 4096);
    cr_expect_eq(config.max_connections_per_ip, 0);
    cr_expect_eq(config.drain_delay_ns, 5000000000u);
    cr_expect_eq(config.drain_timeout_ns, 20000000000u);
    cr_expect_eq(config.log_level, LOG_INFO);
    cr_expect_eq(config.log_format, LOG_TEXT);
    cr_expect(config.access_log);
}

Test(config, both_spellings_of_a_flag)
{
    cr_assert_eq(LOAD("--listen", "0.0.0.0:1", "--models=a=b", "--access-log", "off", "--cpu=c",
                      "--log-level", "debug", "--log-format=json", "--default-model", "--x"),
                 0, "%s", errors);
    cr_expect_str_eq(config.listen, "0.0.0.0:1");
    cr_expect_str_eq(config.models, "a=b");
    cr_expect_not(config.access_log);
    cr_expect_eq(config.cpu, CVD_CPU_C);
    cr_expect_eq(config.log_level, LOG_DEBUG);
    cr_expect_eq(config.log_format, LOG_JSON);
    cr_expect_str_eq(config.default_model, "--x", "the word after a flag is its value");
}

Test(config, units)
{
    cr_assert_eq(LOAD("--request-timeout", "1500ms", "--idle-timeout=2m", "--drain-delay", "250us",
                      "--drain-timeout=0", "--max-delay-us", "300", "--max-body", "512K",
                      "--max-queue-bytes", "3G", "--max-pixels", "100"),
                 0, "%s", errors);
    cr_expect_eq(config.request_timeout_ns, 1500000000u);
    cr_expect_eq(config.idle_timeout_ns, 120000000000u);
    cr_expect_eq(config.drain_delay_ns, 250000u);
    cr_expect_eq(config.drain_timeout_ns, 0);
    cr_expect_eq(config.max_delay_ns, 300000u);
    cr_expect_eq(config.max_body, 524288u);
    cr_expect_eq(config.max_queue_bytes, 3221225472u);
    cr_expect_eq(config.max_pixels, 100u);
    clean();
    cr_assert_eq(LOAD("--max-body", "2048"), 0, "bytes need no unit");
    cr_expect_eq(config.max_body, 2048u);
}

Test(config, times_for_others)
{
    uint64_t ns = 7;
    cr_expect(config_time("1500us", 2000000, &ns));
    cr_expect_eq(ns, 1500000);
    cr_expect(config_time("2ms", 2000000, &ns));
    cr_expect(config_time("0", 2000000, &ns));
    cr_expect_eq(ns, 0);
    cr_expect_not(config_time("3ms", 2000000, &ns));
    cr_expect_not(config_time("2", 2000000, &ns), "a number without a unit");
    cr_expect_not(config_time("", 2000000, &ns));
    cr_expect_not(config_time("-1ms", 2000000, &ns));
}

Test(config, values_are_parsed_strictly)
{
    static const char *const bad[] = {
        "--request-timeout=5",
        "--request-timeout=5S",
        "--request-timeout=5 s",
        "--request-timeout=-5s",
        "--request-timeout=s",
        "--request-timeout=1.5s",
        "--request-timeout=0",
        "--request-timeout=11m",
        "--request-timeout=999us",
        "--request-timeout=99999999999999999999s",
        "--request-timeout=18446744073709551615m",
        "--max-body=",
        "--max-body=16MB",
        "--max-body=16m",
        "--max-body=1023",
        "--max-body=2G",
        "--threads=257",
        "--threads=0x2",
        "--threads= 2",
        "--threads=+2",
        "--io-threads=0",
        "--max-batch=0",
        "--max-batch=4294967297",
        "--cpu=sse",
        "--cpu=AVX2",
        "--log-level=trace",
        "--log-format=xml",
        "--access-log=maybe",
        "--access-log=",
        "--models=",
        "--listen=",
        "--listen=localhost",
        "--listen=:",
        "--listen=a:65536",
        "--listen=a:-1",
        "--listen=::1:80",
        "--listen=[::1]",
        "--listen=a:80x",
        "--listen=]:80",
        "--max-delay-us=5us",
        "--drain-delay=601s",
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_eq(LOAD(bad[i]), 2, "%s was accepted", bad[i]);
}

Test(config, an_error_names_option_value_source_and_range)
{
    EXPECT_ERROR(PARTS("max-body", "'17Q'", "--max-body", "from 1K to 1G"), "--max-body", "17Q");
    EXPECT_ERROR(PARTS("threads", "'-1'", "from 0 to 256"), "--threads=-1");
    EXPECT_ERROR(PARTS("request-timeout", "from 1ms to 10m"), "--request-timeout=1h");
    EXPECT_ERROR(PARTS("drain-delay", "from 0 to 10m"), "--drain-delay=x");
    EXPECT_ERROR(PARTS("max-delay-us", "from 0 to 1000000"), "--max-delay-us=1000001");
    EXPECT_ERROR(PARTS("cpu", "avx512"), "--cpu=best");
}

Test(config, every_error_is_reported)
{
    EXPECT_ERROR(PARTS("--frobnicate: unknown option", "threads: 'x'", "cpu: 'y'",
                       "unexpected argument 'stray'", "--max-batch: is given twice",
                       "--log-level: needs a value"),
                 "--frobnicate", "1", "--threads", "x", "--cpu=y", "stray", "--max-batch=1",
                 "--max-batch=2", "--log-level");
    int lines = 0;
    for (const char *p = errors; *p; p++)
        lines += *p == '\n';
    cr_expect_eq(lines, 6, "%s", errors);
}

Test(config, unknown_options_of_any_shape)
{
    EXPECT_ERROR(PARTS("--tls-cert: unknown option"), "--tls-cert=x");
    EXPECT_ERROR(PARTS("--max: unknown option"), "--max=1");
    EXPECT_ERROR(PARTS("--max-body-size: unknown option"), "--max-body-size=1");
    EXPECT_ERROR(PARTS("--frob: unknown option"), "--frob", "--threads=1");
    EXPECT_ERROR(PARTS("unexpected argument '--'"), "--");
    EXPECT_ERROR(PARTS("unexpected argument '-l'"), "-l");
}

Test(config, environment)
{
    setenv("CONVD_MAX_BATCH", "8", 1);
    setenv("CONVD_ACCESS_LOG", "false", 1);
    setenv("CONVD_MODELS", "", 1);                /* as good as unset */
    setenv("CONVD_PORT", "tcp://10.0.0.1:80", 1); /* Kubernetes', not ours */
    cr_assert_eq(LOAD(NULL), 0, "%s", errors);
    cr_expect_eq(config.max_batch, 8);
    cr_expect_not(config.access_log);
    cr_expect_null(config.admin_listen);
    cr_expect_null(config.models);
    clean();
    setenv("CONVD_MAX_BATCH", "zero", 1);
    EXPECT_ERROR(PARTS("max-batch: 'zero'", "CONVD_MAX_BATCH"), "--max-batch=3");
}

Test(config, file_values)
{
    const char *name = file("{\"listen\": \"[::1]:9\", \"max_batch\": 4, \"max_body\": \"1M\", "
                            "\"access_log\": false, \"request_timeout\": \"2s\", \"cpu\": \"c\"}");

    cr_assert_eq(LOAD("--config", name), 0, "%s", errors);
    cr_expect_str_eq(config.listen, "[::1]:9");
    cr_expect_eq(config.max_batch, 4);
    cr_expect_eq(config.max_body, 1048576u);
    cr_expect_not(config.access_log);
    cr_expect_eq(config.request_timeout_ns, 2000000000u);
    cr_expect_eq(config.cpu, CVD_CPU_C);
    unlink(name);
}

Test(config, flags_over_environment_over_file)
{
    const char *name = file("{\"max_batch\": 1, \"max_queue\": 1, \"io_threads\": 1}");

    setenv("CONVD_CONFIG", name, 1);
    setenv("CONVD_MAX_BATCH", "2", 1);
    setenv("CONVD_MAX_QUEUE", "2", 1);
    cr_assert_eq(LOAD("--max-batch", "3"), 0, "%s", errors);
    cr_expect_eq(config.max_batch, 3);
    cr_expect_eq(config.max_queue, 2);
    cr_expect_eq(config.io_threads, 1);
    unlink(name);
}

Test(config, file_errors_name_file_and_key)
{
    static const struct {
        const char *text, *part;
    } bad[] = {
        {"{\"max_batches\": 1}", "unknown key 'max_batches'"},
        {"{\"max-batch\": 1}", "unknown key 'max-batch'"},
        {"{\"config\": \"x\"}", "unknown key 'config'"},
        {"{\"max_batch\": 1, \"max_batch\": 2}", "line 1"},
        {"{\"max_batch\": 0}", "key max_batch"},
        {"{\"max_batch\": 1.5}", "key max_batch"},
        {"{\"max_batch\": null}", "key max_batch"},
        {"{\"models\": [\"a\"]}", "key models"},
        {"{\"access_log\": 2}", "key access_log"},
        {"{\"listen\": true}", "key listen"},
        {"[1]", "one JSON object"},
        {"{\n\"max_batch\": }", "line 2"},
        {"", "line 1"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *name = file(bad[i].text);
        EXPECT_ERROR(PARTS(bad[i].part, name), "--config", name);
        unlink(name);
    }
    EXPECT_ERROR(PARTS("/nowhere/x.json", "No such file"), "--config=/nowhere/x.json");
    EXPECT_ERROR(PARTS("/tmp", "Is a directory"), "--config=/tmp");
    EXPECT_ERROR(PARTS("/dev/zero", "not a regular file"), "--config=/dev/zero");
}

Test(config, addresses)
{
    char host[CONFIG_HOST_BYTES], port[CONFIG_PORT_BYTES];

    cr_assert(config_address("127.0.0.1:0", host, port));
    cr_expect_str_eq(host, "127.0.0.1");
    cr_expect_str_eq(port, "0");
    cr_assert(config_address("[::]:65535", host, port));
    cr_expect_str_eq(host, "::");
    cr_expect_str_eq(port, "65535");
    cr_assert(config_address(":8080", host, port));
    cr_expect_str_eq(host, "");
    cr_assert(config_address("localhost:80", host, port));
    cr_expect_str_eq(host, "localhost");

    char longest[400];
    memset(longest, 'a', sizeof longest);
    strcpy(longest + 255, ":1");
    cr_expect(config_address(longest, host, port));
    memset(longest, 'a', sizeof longest);
    strcpy(longest + 256, ":1");
    cr_expect_not(config_address(longest, host, port));
}

Test(config, help_lists_every_option_with_its_default)
{
    static char help[8192];
    FILE *out = fmemopen(help, sizeof help - 1, "w");

    config_help(out);
    fclose(out);
    static const char *const lines[] = {"--listen ADDR:PORT",  "(127.0.0.1:8080)",
                                        "--max-batch N",       "(32)",
                                        "--idle-timeout TIME", "(75s)",
                                        "--config FILE"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        cr_expect_not_null(strstr(help, lines[i]), "%s", lines[i]);
    for (char *line = strtok(help, "\n"); line; line = strtok(NULL, "\n"))
        cr_expect_leq(strlen(line), 110u, "%s", line);
}
