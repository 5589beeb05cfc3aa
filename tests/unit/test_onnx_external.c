/* External data: what is read, and everything that must not be. */
#include "engine/onnx/external.h"
#include "engine/onnx/onnx.h"
#include "tests/unit/onnx_build.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* A scratch folder: model/ with good and bad things in it, and a secret beside it. */
static char folder[64];
static char model_folder[80];
static struct graph g;
static struct cvd_error err;

static void write_file(const char *path, const void *data, size_t len)
{
    FILE *f = fopen(path, "wb");
    cr_assert_neq(f, NULL, "%s", path);
    cr_assert_eq(fwrite(data, 1, len, f), len);
    cr_assert_eq(fclose(f), 0);
}

static void setup(void)
{
    snprintf(folder, sizeof(folder), "/tmp/convd-external-%ld", (long)getpid());
    cr_assert_eq(mkdir(folder, 0700), 0);
    cr_assert_eq(chdir(folder), 0);
    cr_assert_eq(mkdir("model", 0700), 0);
    cr_assert_eq(mkdir("model/sub", 0700), 0);
    cr_assert_eq(mkdir("elsewhere", 0700), 0);
    write_file("secret.bin", "secretsecretsecret", 18);
    write_file("elsewhere/w.bin", "elsewhereelsewhere", 18);
    write_file("model/w.bin", "....\0\0\x80\x3f\0\0\0\x40", 12); /* floats 1, 2 from byte 4 on */
    write_file("model/sub/w.bin", "\0\0\x80\x3f\0\0\0\x40", 8);
    write_file("model/hard.bin", "\0\0\x80\x3f\0\0\0\x40", 8);
    cr_assert_eq(link("model/hard.bin", "elsewhere/other-name.bin"), 0);
    cr_assert_eq(symlink("w.bin", "model/inner-link.bin"), 0);
    cr_assert_eq(symlink("../secret.bin", "model/outer-link.bin"), 0);
    cr_assert_eq(symlink("../elsewhere", "model/link"), 0);
    cr_assert_eq(symlink("model", "model-link"), 0);
    cr_assert_eq(mkfifo("model/pipe", 0600), 0);
    snprintf(model_folder, sizeof(model_folder), "%s/model", folder);
    cr_assert_eq(graph_init(&g, &err), CVD_STATUS_OK);
}

static void teardown(void)
{
    graph_release(&g);
    static const char *const files[] = {"secret.bin",
                                        "elsewhere/w.bin",
                                        "elsewhere/other-name.bin",
                                        "model/w.bin",
                                        "model/sub/w.bin",
                                        "model/hard.bin",
                                        "model/inner-link.bin",
                                        "model/outer-link.bin",
                                        "model/link",
                                        "model-link",
                                        "model/pipe",
                                        "model/sub",
                                        "model",
                                        "elsewhere"};
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
        remove(files[i]);
    rmdir(folder);
}

TestSuite(onnx_external, .init = setup, .fini = teardown);

static void entry(struct pb *tensor, const char *key, const char *value)
{
    struct pb e = {0};
    pb_text(&e, 1, key);
    if (value)
        pb_text(&e, 2, value);
    pb_message(tensor, 13, e);
}

/* A model with initializer "w", float32 [2], at that place; NULL leaves a key out. */
static struct pb model_with(const char *location, const char *offset, const char *length)
{
    struct pb graph = {0}, tensor = {0};
    pb_int(&tensor, 1, 2);
    pb_int(&tensor, 2, 1);
    pb_text(&tensor, 8, "w");
    if (location)
        entry(&tensor, "location", location);
    if (offset)
        entry(&tensor, "offset", offset);
    if (length)
        entry(&tensor, "length", length);
    entry(&tensor, "checksum", "ignored");
    pb_int(&tensor, 14, 1);
    pb_message(&graph, 5, tensor);
    pb_message(&graph, 1, pb_node("Add", "a", "x", "w", "y"));
    pb_ends(&graph);
    return pb_model(graph);
}

static enum cvd_status read_in(const char *where, const char *location, const char *offset,
                               const char *length)
{
    struct pb model = model_with(location, offset, length);
    const struct onnx_source source = {.file_name = "m.onnx", .folder = where};
    graph_release(&g);
    cr_assert_eq(graph_init(&g, &err), CVD_STATUS_OK);
    enum cvd_status status = onnx_read(model.data, model.len, &source, &g, &err);
    pb_free(&model);
    return status;
}

static void reads(const char *where, const char *location, const char *offset, const char *length)
{
    static const float wanted[] = {1, 2};
    cr_assert_eq(read_in(where, location, offset, length), CVD_STATUS_OK, "%s: %s", location,
                 err.message);
    cr_assert_eq(g.values[0].bytes, 8);
    cr_assert_eq(memcmp(g.values[0].data, wanted, 8), 0, "%s", location);
}

static void refuses(enum cvd_status status, const char *location, const char *offset,
                    const char *length, const char *part)
{
    enum cvd_status got = read_in(model_folder, location, offset, length);
    cr_expect_eq(got, status, "%s: %s: %s", location, cvd_status_name(got), err.message);
    cr_expect_neq(strstr(err.message, part), NULL, "%s: '%s' lacks '%s'", location, err.message,
                  part);
}

Test(onnx_external, what_is_read)
{
    reads(model_folder, "w.bin", "4", "8");
    reads(model_folder, "w.bin", "4", NULL);
    reads(model_folder, "w.bin", "0004", "8");
    reads(model_folder, "sub/w.bin", NULL, NULL);
    reads(model_folder, "./sub//w.bin", "0", "8");
    reads("model", "sub/w.bin", NULL, NULL);
    reads("model-link", "sub/w.bin", NULL, NULL); /* the user's own link to the folder */
}

Test(onnx_external, paths_that_lead_out)
{
    const enum cvd_status invalid = CVD_STATUS_INVALID_MODEL;
    char absolute[128];
    snprintf(absolute, sizeof(absolute), "%s/model/sub/w.bin", folder);
    refuses(invalid, absolute, NULL, NULL, "outside the model's folder");
    refuses(invalid, "/etc/passwd", NULL, NULL, "outside the model's folder");
    refuses(invalid, "../secret.bin", NULL, NULL, "outside the model's folder");
    refuses(invalid, "..", NULL, NULL, "outside the model's folder");
    refuses(invalid, "sub/../../secret.bin", NULL, NULL, "outside the model's folder");
    refuses(invalid, "sub/../w.bin", NULL, NULL, "outside the model's folder");
    refuses(invalid, "./../secret.bin", NULL, NULL, "outside the model's folder");
    refuses(invalid, "sub/..", NULL, NULL, "outside the model's folder");
    refuses(invalid, "", NULL, NULL, "not a path");
    refuses(invalid, NULL, NULL, NULL, "not a path");
}

Test(onnx_external, things_that_are_no_plain_files)
{
    const enum cvd_status invalid = CVD_STATUS_INVALID_MODEL;
    refuses(invalid, "inner-link.bin", "4", NULL, "symbolic link");
    refuses(invalid, "outer-link.bin", NULL, NULL, "symbolic link");
    refuses(invalid, "link/w.bin", NULL, NULL, "symbolic link");
    refuses(invalid, "hard.bin", NULL, NULL, "2 hard links");
    refuses(invalid, "pipe", NULL, NULL, "not a regular file");
    refuses(invalid, "sub", NULL, NULL, "not a regular file");
    refuses(CVD_STATUS_IO, "missing.bin", NULL, NULL, "No such file");
    refuses(CVD_STATUS_IO, "w.bin/x", NULL, NULL, "Not a directory");
    cr_assert_eq(read_in("/nonexistent", "w.bin", "4", NULL), CVD_STATUS_IO);
}

Test(onnx_external, ranges)
{
    const enum cvd_status invalid = CVD_STATUS_INVALID_MODEL;
    refuses(invalid, "w.bin", "5", NULL, "12 bytes, too few for 8 from byte 5 on");
    refuses(invalid, "w.bin", "13", NULL, "too few");
    refuses(invalid, "w.bin", "18446744073709551615", NULL, "too few");
    refuses(invalid, "w.bin", "18446744073709551616", NULL, "not a number");
    refuses(invalid, "w.bin", "-4", NULL, "not a number");
    refuses(invalid, "w.bin", "4 ", NULL, "not a number");
    refuses(invalid, "w.bin", "", NULL, "not a number");
    refuses(invalid, "w.bin", "4", "0x8", "not a number");
    refuses(invalid, "w.bin", "4", "7", "has 7 bytes of data, float32 [2] needs 8");
    refuses(invalid, "w.bin", "4", "18446744073709551615", "needs 8");
}

Test(onnx_external, raw_data_beside_it)
{
    struct pb graph = {0}, tensor = {0};
    pb_int(&tensor, 2, 1);
    pb_text(&tensor, 8, "w");
    pb_bytes(&tensor, 9, "1234", 4);
    entry(&tensor, "location", "w.bin");
    pb_int(&tensor, 14, 1);
    pb_message(&graph, 5, tensor);
    struct pb model = pb_model(graph);
    const struct onnx_source source = {.folder = model_folder};
    cr_assert_eq(onnx_read(model.data, model.len, &source, &g, &err), CVD_STATUS_INVALID_MODEL);
    cr_assert_neq(strstr(err.message, "both raw_data and external data"), NULL, "%s", err.message);
    pb_free(&model);
}

/* Many tensors may point at one range, so the sum is limited and not only each of them. */
Test(onnx_external, the_total_is_limited)
{
    struct pb graph = {0};
    for (int i = 0; i < 3; i++) {
        struct pb tensor = {0};
        char name[2] = {(char)('a' + i), '\0'};
        pb_int(&tensor, 1, 2);
        pb_int(&tensor, 2, 1);
        pb_text(&tensor, 8, name);
        entry(&tensor, "location", "w.bin");
        pb_int(&tensor, 14, 1);
        pb_message(&graph, 5, tensor);
    }
    struct pb model = pb_model(graph);
    struct onnx_source source = {.folder = model_folder, .max_external_bytes = 23};
    cr_assert_eq(onnx_read(model.data, model.len, &source, &g, &err), CVD_STATUS_UNSUPPORTED);
    cr_assert_neq(strstr(err.message, "'c'"), NULL, "%s", err.message);
    graph_release(&g);
    cr_assert_eq(graph_init(&g, &err), CVD_STATUS_OK);
    source.max_external_bytes = 24;
    cr_assert_eq(onnx_read(model.data, model.len, &source, &g, &err), CVD_STATUS_OK);
    pb_free(&model);
}

/* Kernels without openat2() get the same answers. */
Test(onnx_external, by_parts)
{
    static const struct {
        const char *path;
        bool ok;
    } cases[] = {{"sub/w.bin", true},       {"./sub//w.bin", true},   {"hard.bin", false},
                 {"inner-link.bin", false}, {"link/w.bin", false},    {"pipe", false},
                 {"outer-link.bin", false}, {"missing/w.bin", false}, {"sub", false},
                 {"sub/", false},           {"w.bin/x", false},       {"../secret.bin", false},
                 {"sub/../w.bin", false},   {"/etc/passwd", false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        for (int portable = 0; portable < 2; portable++) {
            const struct wire_bytes path = {(const uint8_t *)cases[i].path, strlen(cases[i].path)};
            int fd = -1;
            enum cvd_status status = external_open(model_folder, path, 0, 8, portable, &fd, &err);
            cr_expect_eq(status == CVD_STATUS_OK, cases[i].ok, "%s: %s", cases[i].path,
                         err.message);
            if (status)
                continue;
            float data[2];
            cr_expect_eq(external_read(fd, 0, data, 8, &err), CVD_STATUS_OK);
            cr_expect(data[0] == 1 && data[1] == 2);
            cr_expect_eq(external_read(fd, 4, data, 8, &err), CVD_STATUS_IO);
            cr_expect_eq(close(fd), 0);
        }
}

/* Whatever is refused, no descriptor stays open. */
Test(onnx_external, descriptors_are_closed)
{
    int before = dup(0);
    close(before);
    refuses(CVD_STATUS_INVALID_MODEL, "hard.bin", NULL, NULL, "hard");
    refuses(CVD_STATUS_INVALID_MODEL, "pipe", NULL, NULL, "regular");
    refuses(CVD_STATUS_INVALID_MODEL, "w.bin", "5", NULL, "few");
    refuses(CVD_STATUS_IO, "missing.bin", NULL, NULL, "No such");
    reads(model_folder, "w.bin", "4", "8");
    struct pb model = model_with("w.bin", "4", "8");
    const struct onnx_source source = {.folder = model_folder};
    for (size_t n = 1; n < 8; n++) {
        graph_release(&g);
        cr_assert_eq(graph_init(&g, &err), CVD_STATUS_OK);
        mem_fail_after(n, false);
        (void)onnx_read(model.data, model.len, &source, &g, &err);
        mem_fail_after(0, false);
    }
    pb_free(&model);
    int after = dup(0);
    close(after);
    cr_assert_eq(after, before);
}
