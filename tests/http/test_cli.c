/* The command line: exit codes, help, errors that name what is wrong, and the tools' results. */
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const commands[] = {"serve", "classify", "inspect", "bench", "train"};
enum { COMMANDS = sizeof commands / sizeof *commands };

Test(cli, help_and_version)
{
    struct program p = program_run("--version");
    cr_assert(p.status == 0 && strncmp(p.output, "convd ", 6) == 0 &&
              isdigit((unsigned char)p.output[6]));
    p = program_run("--help");
    cr_assert(p.status == 0 && p.errors[0] == '\0');
    for (size_t i = 0; i < COMMANDS; i++) {
        cr_expect(strstr(p.output, commands[i]) != NULL, "--help does not name %s", commands[i]);
        struct program help = program_run(commands[i], "--help");
        cr_expect(help.status == 0 && help.errors[0] == '\0' && strlen(help.output) > 100,
                  "%s --help: status %d\n%s%s", commands[i], help.status, help.output, help.errors);
        for (const char *line = help.output; *line != '\0'; line += strcspn(line, "\n") + 1)
            cr_expect(strcspn(line, "\n") <= 120, "%s --help: a line of %zu characters",
                      commands[i], strcspn(line, "\n"));
    }
}

/* Calls fn with each "--option" that a command's help begins a line with. */
static void each_option(const char *help, void (*fn)(const char *option, void *cookie),
                        void *cookie)
{
    for (const char *line = help; *line != '\0';
         line += strcspn(line, "\n"), line += *line == '\n') {
        const char *word = line + strspn(line, " ");
        if (word != line && strncmp(word, "--", 2) == 0)
            fn(data_printf("%.*s", (int)strcspn(word, " =\n,"), word), cookie);
    }
}

static void expect_in_manual(const char *option, void *manual)
{
    const char *page = manual, *name = option + 2;
    cr_expect(strstr(page, data_printf("Fl Fl %s\n", name)) != NULL ||
                  strstr(page, data_printf("Fl Fl %s ", name)) != NULL,
              "deploy/convd.1 does not know %s", option);
}

Test(cli, the_manual_page_knows_every_option)
{
    FILE *file = fopen("deploy/convd.1", "r");
    cr_assert(file != NULL);
    static char page[65536];
    size_t len = fread(page, 1, sizeof page - 1, file);
    fclose(file);
    cr_assert(len > 1000 && len < sizeof page - 1);
    for (size_t i = 0; i < COMMANDS; i++)
        each_option(program_run(commands[i], "--help").output, expect_in_manual, page);
}

/* Wrong usage ends with 2 and says what is wrong, on standard error alone. */
static void expect_usage_error(struct program p, const char *word, const char *what)
{
    cr_expect_eq(p.status, 2, "%s: status %d\n%s%s", what, p.status, p.output, p.errors);
    cr_expect(strstr(p.errors, word) != NULL, "%s: nothing about '%s':\n%s", what, word, p.errors);
    cr_expect_str_empty(p.output, "%s", what);
}

Test(cli, wrong_usage)
{
    expect_usage_error(program_run("nonsense"), "nonsense", "an unknown command");
    for (size_t i = 0; i < COMMANDS; i++)
        expect_usage_error(program_run(commands[i], "--nonsense", "1"), "nonsense", commands[i]);
    expect_usage_error(program_run("--nonsense"), "nonsense", "an unknown option alone");
    expect_usage_error(program_run("serve", "stray"), "stray", "a stray word");
    expect_usage_error(program_run("classify"), "classify", "classify without a file");
    expect_usage_error(program_run("train"), "train", "train without data");
    expect_usage_error(program_run("bench", "--batch", "0"), "batch", "bench --batch 0");
    expect_usage_error(program_run("bench", "--threads", "x"), "threads", "bench --threads x");
    expect_usage_error(program_run("bench", "--seconds", "-1"), "seconds", "bench --seconds -1");
    expect_usage_error(program_run("bench", "--tune-budget", "2"), "500ms", "no unit");
    expect_usage_error(program_run("inspect", "--tune-budget", "61m"), "3600s", "an hour");
    expect_usage_error(program_run("classify", "--tune-cache", "", "x"), "tune-cache", "no folder");
}

Test(cli, values_out_of_range)
{
    static const char *const rows[][2] = {
        {"listen", "8080"},
        {"listen", "127.0.0.1:99999"},
        {"listen", "::1:8080"},
        {"threads", "257"},
        {"threads", "-1"},
        {"threads", "two"},
        {"io-threads", "0"},
        {"cpu", "sse"},
        {"max-batch", "0"},
        {"max-batch", "1e3"},
        {"max-delay-us", "1s"},
        {"max-queue", "0"},
        {"max-queue-bytes", "1"},
        {"max-body", "16X"},
        {"max-body", "99999999999999T"},
        {"max-pixels", "0"},
        {"request-timeout", "5"},
        {"request-timeout", "0s"},
        {"idle-timeout", "1h"},
        {"max-connections", "0"},
        {"drain-delay", "-1s"},
        {"drain-timeout", "soon"},
        {"log-level", "loud"},
        {"log-format", "xml"},
        {"access-log", "maybe"},
        {"models", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *option = data_printf("--%s", rows[i][0]);
        const char *what = data_printf("%s %s", option, rows[i][1]);
        struct program p = program_run("serve", option, rows[i][1]);
        expect_usage_error(p, rows[i][0], what);
        if (rows[i][1][0] != '\0')
            expect_usage_error(p, rows[i][1], what);
    }
    /* All errors at once, a line each. */
    struct program p = program_run("serve", "--threads", "x", "--max-batch", "0", "--what", "1");
    cr_expect(p.status == 2 && strstr(p.errors, "threads") != NULL &&
                  strstr(p.errors, "max-batch") != NULL && strstr(p.errors, "what") != NULL,
              "%s", p.errors);
    expect_usage_error(program_run("serve", "--threads", "1", "--threads", "1"), "threads",
                       "an option twice");
    expect_usage_error(program_run("serve", "--threads"), "threads", "an option without value");
}

/* A file in /tmp with this text; its name lives as long as the test. */
static const char *temporary(const char *content)
{
    char *path = data_printf("/tmp/convd-test-XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, content, strlen(content)) == (ssize_t)strlen(content));
    close(fd);
    return path;
}

Test(cli, configuration_file)
{
    static const struct {
        const char *content, *word;
    } bad[] = {
        {"{\"max_bach\": 1}", "max_bach"},
        {"{\"max_batch\": 0}", "max_batch"},
        {"{\"max_batch\": [1]}", "max_batch"},
        {"{\"max_batch\": 1, \"max_batch\": 2}", "max_batch"},
        {"{", "line 1"},
        {"[]", "object"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *path = temporary(bad[i].content);
        struct program p = program_run("serve", "--config", path);
        expect_usage_error(p, bad[i].word, bad[i].content);
        expect_usage_error(p, path, bad[i].content);
        unlink(path);
    }
    expect_usage_error(program_run("serve", "--config", "/nonexistent.json"), "/nonexistent.json",
                       "no such file");
    const char *path = temporary("{\"max_pixels\": 100, \"max_batch\": 2, \"access_log\": false}");
    struct server *s = server_start_with("--config", path, "--max-pixels", "784");
    struct data png = data_read("digit-1.png"), large = data_read("paper-2.bmp");
    expect_digit(http_post(s, "/classify", NULL, png.bytes, png.len), 1, 5, "flags win");
    response_expect_error(http_post(s, "/classify", NULL, large.bytes, large.len), 422,
                          "image_too_large", "paper-2.bmp");
    cr_assert(strstr(server_log(s), "\"request\"") == NULL, "access_log: false");
    server_stop(s);
    unlink(path);
}

Test(cli, failures_at_start)
{
    struct server *s = server_start(NULL);
    const char *address = data_printf("127.0.0.1:%u", s->port);
    struct program p = program_run("serve", "--listen", address);
    cr_expect_eq(p.status, 1);
    cr_expect(strstr(p.errors, address) != NULL, "%s", p.errors);
    server_stop(s);
    p = program_run("serve", "--listen", "127.0.0.1:0", "--models", "/nonexistent");
    cr_expect_eq(p.status, 1, "%s", p.errors);
    cr_expect(strstr(p.errors, "/nonexistent") != NULL, "%s", p.errors);
}

/* ---------------------------------------------------------------- the tools */

Test(cli, classify)
{
    for (int digit = 0; digit < 10; digit++) {
        const char *path = data_printf("tests/data/digit-%d.png", digit);
        struct program p = program_run("classify", path);
        cr_expect(p.status == 0 && p.errors[0] == '\0', "%s: %s", path, p.errors);
        cr_expect(strncmp(p.output, data_printf("%s: %d ", path, digit), strlen(path) + 4) == 0,
                  "%s", p.output);
    }
    struct program p = program_run("classify", "tests/data/paper-8.jpg", "tests/data/paper-2.bmp");
    cr_expect(p.status == 0 && strstr(p.output, "paper-8.jpg: 8 ") != NULL &&
                  strstr(p.output, "paper-2.bmp: 2 ") != NULL,
              "%s", p.output);
}

Test(cli, classify_standard_input)
{
    struct data png = data_read("digit-7.png");
    struct program p =
        program_run_args(png.bytes, png.len, (const char *const[]){"classify", "-", NULL});
    cr_expect(p.status == 0 && strstr(p.output, ": 7 ") != NULL, "%s%s", p.output, p.errors);
}

/* The tool and the daemon give the same answer. */
Test(cli, classify_agrees_with_the_daemon)
{
    struct server *s = server_start(NULL);
    struct data png = data_read("paper-3.png");
    json_t *served = json_object_get(
        expect_digit(http_post(s, "/classify", NULL, png.bytes, png.len), 3, 5, "POST"), "classes");
    struct program p = program_run("classify", "--json", "tests/data/paper-3.png");
    json_t *printed = json_loads(p.output, JSON_REJECT_DUPLICATES, NULL);
    cr_assert(p.status == 0 && printed != NULL, "%s%s", p.output, p.errors);
    cr_expect(json_equal(served, json_object_get(printed, "classes")), "%s", p.output);
    json_decref(printed);
    server_stop(s);
}

Test(cli, classify_reports_bad_files_and_goes_on)
{
    struct program p =
        program_run("classify", "/nonexistent.png", "tests/data/draw.py", "tests/data/digit-7.png");
    cr_expect_eq(p.status, 1);
    cr_expect(strstr(p.errors, "/nonexistent.png") != NULL, "%s", p.errors);
    cr_expect(strstr(p.errors, "tests/data/draw.py") != NULL, "%s", p.errors);
    cr_expect(strstr(p.output, "digit-7.png: 7 ") != NULL, "%s", p.output);
    p = program_run("classify", "--model", "nonsense", "tests/data/digit-7.png");
    cr_expect(p.status == 1 && strstr(p.errors, "nonsense") != NULL, "%s", p.errors);
}

/* The figures of LeNet-5, worked out by hand: see test_routes.c. */
Test(cli, inspect)
{
    struct program p = program_run("inspect");
    cr_expect(p.status == 0 && p.errors[0] == '\0', "%s", p.errors);
    static const char *const words[] = {"Conv", "MaxPool", "Gemm"};
    for (size_t i = 0; i < 3; i++)
        cr_expect(strstr(p.output, words[i]) != NULL, "no %s:\n%s", words[i], p.output);
    p = program_run("inspect", "--json", "lenet5");
    json_t *model = json_loads(p.output, JSON_REJECT_DUPLICATES, NULL);
    cr_assert(p.status == 0 && model != NULL, "%s%s", p.output, p.errors);
    json_int_t parameters = 0, macs = 0;
    size_t i;
    json_t *layer;
    json_array_foreach(json_object_get(model, "layers"), i, layer)
    {
        parameters += json_integer_value(json_object_get(layer, "parameters"));
        macs += json_integer_value(json_object_get(layer, "macs"));
    }
    cr_expect_eq(parameters, 61706, "%lld parameters", (long long)parameters);
    cr_expect_eq(macs, 416520, "%lld multiply-adds", (long long)macs);
    json_decref(model);
    p = program_run("inspect", "tests/data/digit-7.png");
    cr_expect(p.status == 1 && strstr(p.errors, "digit-7.png") != NULL, "%s", p.errors);
}

Test(cli, bench)
{
    struct program p =
        program_run("bench", "--json", "--seconds", "0.2", "--threads", "1", "--batch", "4");
    json_t *result = json_loads(p.output, JSON_REJECT_DUPLICATES, NULL);
    cr_assert(p.status == 0 && result != NULL, "%s%s", p.output, p.errors);
    static const char *const numbers[] = {
        "threads", "batch",        "runs",   "median_ms",   "p10_ms",
        "p99_ms",  "images_per_s", "gflops", "peak_gflops", "percent_of_peak"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        cr_expect(json_number_value(json_object_get(result, numbers[i])) > 0, "%s: %s", numbers[i],
                  p.output);
    cr_expect_eq(json_integer_value(json_object_get(result, "batch")), 4);
    cr_expect_str_eq(json_string_value(json_object_get(result, "model")), "lenet5");
    cr_expect(json_is_string(json_object_get(result, "cpu")));
    json_decref(result);
}

/* Layers as inspect names them, with figures that fit each other; batch and threads decide how a
 * run is cut. */
static void expect_timed_layers(const char *batch, const char *threads)
{
    struct program p = program_run("bench", "--per-layer", "--json", "--seconds", "0.05", "--batch",
                                   batch, "--threads", threads);
    struct program q = program_run("inspect", "--json");
    json_t *result = json_loads(p.output, JSON_REJECT_DUPLICATES, NULL);
    json_t *model = json_loads(q.output, JSON_REJECT_DUPLICATES, NULL);
    cr_assert(p.status == 0 && result != NULL && model != NULL, "%s%s", p.output, p.errors);
    json_t *layers = json_object_get(result, "layers"), *same = json_object_get(model, "layers");
    cr_assert(json_array_size(layers) > 0);
    cr_assert_eq(json_array_size(layers), json_array_size(same), "%s", p.output);
    cr_expect(json_integer_value(json_object_get(result, "layer_runs")) >= 3);
    double peak = json_number_value(json_object_get(result, "peak_gflops")), percent = 0;
    size_t i;
    json_t *layer;
    json_array_foreach(layers, i, layer)
    {
        static const char *const members[] = {"name", "op", "kernel", "shape", "macs"};
        for (size_t m = 0; m < sizeof members / sizeof *members; m++)
            cr_expect(json_equal(json_object_get(layer, members[m]),
                                 json_object_get(json_array_get(same, i), members[m])),
                      "layer %zu: %s:\n%s", i, members[m], p.output);
        double macs = json_number_value(json_object_get(layer, "macs"));
        double ms = json_number_value(json_object_get(layer, "median_ms"));
        double gflops = json_number_value(json_object_get(layer, "gflops"));
        cr_assert(ms > 0, "layer %zu takes no time:\n%s", i, p.output);
        double expected = 2 * macs * atof(batch) / ms * 1e-6;
        cr_expect_float_eq(gflops, expected, expected * 1e-4, "layer %zu:\n%s", i, p.output);
        cr_expect_float_eq(json_number_value(json_object_get(layer, "percent_of_peak")),
                           gflops / peak * 100, gflops / peak * 1e-2, "layer %zu:\n%s", i,
                           p.output);
        percent += json_number_value(json_object_get(layer, "percent_of_total"));
    }
    cr_expect_float_eq(percent, 100, 1e-3, "the layers are %f %%", percent);
    json_decref(result);
    json_decref(model);
}

Test(cli, bench_times_layers)
{
    expect_timed_layers("1", "1");
    expect_timed_layers("1", "2");
    expect_timed_layers("8", "1");
    expect_timed_layers("8", "2");
    struct program p = program_run("bench", "--json", "--seconds", "0.01");
    cr_expect(p.status == 0 && strstr(p.output, "layers") == NULL, "%s", p.output);
}

/* A row for each layer in the model's order, and the total below. */
Test(cli, bench_prints_a_table_of_layers)
{
    struct program p =
        program_run("bench", "--per-layer", "--seconds", "0.05", "--batch", "8", "--threads", "2");
    cr_assert(p.status == 0 && p.errors[0] == '\0', "%s", p.errors);
    static const char *const rows[] = {
        "an image ", "images/s", "GFLOP/s, ", "% of peak\n", "\n1  c1 ",  "\n2  s2 ",  "\n3  c3 ",
        "\n4  s4 ",  "\n5  f5 ", "\n6  f6 ",  "\n7  out ",   "   total ", " 416,520 ", " 100.0 "};
    const char *at = p.output;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        at = strstr(at, rows[i]);
        cr_assert(at != NULL, "no '%s' where it should be:\n%s", rows[i], p.output);
    }
    cr_expect(strstr(p.output, "mean over the threads") != NULL, "%s", p.output);
}

Test(cli, train_reports_bad_data)
{
    struct program p =
        program_run("train", "--data", "/nonexistent", "--output", "/tmp/convd-test-none.onnx");
    cr_expect(p.status == 1 && strstr(p.errors, "/nonexistent") != NULL, "%s", p.errors);
    p = program_run("train", "--data", "tests/http", "--output", "/tmp/convd-test-none.onnx");
    cr_expect(p.status == 1 && strstr(p.errors, "tests/http") != NULL, "%s", p.errors);
    cr_expect(access("/tmp/convd-test-none.onnx", F_OK) != 0);
}
