/* `convd train` from its command line to its file, and the progress lines and output files that it
 * uses. */
#include "server/clock.h"
#include "server/commands.h"
#include "server/progress.h"
#include "server/save.h"
#include "tests/support/data.h"
#include "tests/support/server.h"

#include <convd/model.h>

#include <criterion/criterion.h>

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/convd-train-XXXXXX";

static void make_scratch(void)
{
    cr_assert_not_null(mkdtemp(folder));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_scratch(void)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(train_command, .init = make_scratch, .fini = remove_scratch);

static void put(const char *name, const void *bytes, size_t len)
{
    FILE *file = fopen(data_printf("%s/%s", folder, name), "wb");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(bytes, 1, len, file), len);
    cr_assert_eq(fclose(file), 0);
}

/* 120 images of 12x12: the upper or the lower half is light. */
static void put_halves(void)
{
    enum { COUNT = 120, SIDE = 12 };
    static uint8_t images[16 + COUNT * SIDE * SIDE] = {0, 0, 8, 3,    0, 0, 0, COUNT,
                                                       0, 0, 0, SIDE, 0, 0, 0, SIDE};
    static uint8_t labels[8 + COUNT] = {0, 0, 8, 1, 0, 0, 0, COUNT};
    for (unsigned i = 0; i < COUNT; i++) {
        const unsigned label = i * 7 % 3 % 2;
        labels[8 + i] = (uint8_t)label;
        for (unsigned p = 0; p < SIDE * SIDE; p++)
            images[16 + i * SIDE * SIDE + p] =
                (uint8_t)(p / (SIDE * SIDE / 2) == label ? 150 + i % 100 : i % 20);
    }
    put("train-images-idx3-ubyte", images, sizeof images);
    put("train-labels-idx1-ubyte", labels, sizeof labels);
}

static const char *output_path(void)
{
    return data_printf("%s/out.onnx", folder);
}

/* Number of files in the scratch folder. */
static int files;
static int count_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)path;
    (void)st;
    (void)ftw;
    files += type == FTW_F;
    return 0;
}

static int count_files(void)
{
    files = 0;
    nftw(folder, count_one, 16, FTW_PHYS);
    return files;
}

Test(train_command, trains_and_writes)
{
    put_halves();
    const struct program p =
        program_run("train", "--data", folder, "--output", output_path(), "--epochs", "4",
                    "--batch=16", "--threads", "2", "--no-augment", "--seed", "3", "--dropout",
                    "0.1", "--activation", "tanh", "--optimizer", "adam", "--learning-rate", ".004",
                    "--validation", "20", "--weight-decay", "0", "--momentum", "0.5");
    cr_assert_eq(p.status, 0, "%s%s", p.output, p.errors);
    cr_expect(strstr(p.output, "120 images of 12x12, 2 classes; 20 held out"), "%s", p.output);
    cr_expect(strstr(p.output, "LeNet-5, tanh, dropout 0.1"), "%s", p.output);
    cr_expect(strstr(p.output, "4 epochs, batches of 16, adam, learning rate 0.004"), "%s",
              p.output);
    cr_expect(strstr(p.output, "not augmented, seed 3"), "%s", p.output);
    for (int epoch = 1; epoch <= 4; epoch++)
        cr_expect(strstr(p.output, data_printf("epoch %d/4  loss ", epoch)), "%s", p.output);
    cr_expect(strstr(p.output, "out.onnx: accuracy 100.00 %"), "%s", p.output);
    cr_expect_eq(count_files(), 3, "something was left behind");

    struct cvd_engine *engine = NULL;
    struct cvd_model *model = NULL;
    struct cvd_error err;
    cr_assert_eq(cvd_engine_create(NULL, &engine, &err), CVD_STATUS_OK);
    cr_assert_eq(cvd_model_load_file(engine, output_path(), NULL, &model, &err), CVD_STATUS_OK,
                 "%s", err.message);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
}

#define EXPECT_WRONG(words, ...)                                                               \
    do {                                                                                       \
        const struct program wrong = program_run("train", __VA_ARGS__);                        \
        cr_expect_eq(wrong.status, 2, "exit status %d: %s", wrong.status, wrong.errors);       \
        cr_expect(strstr(wrong.errors, words), "'%s' does not say '%s'", wrong.errors, words); \
    } while (0)

Test(train_command, wrong_usage)
{
    put_halves();
    const char *out = output_path();
    EXPECT_WRONG("--data is missing", "--output", out);
    EXPECT_WRONG("--output is missing", "--data", folder);
    EXPECT_WRONG("--epochs: '0' should be a whole number from 1 to 10000", "--data", folder,
                 "--output", out, "--epochs", "0");
    EXPECT_WRONG("--batch: '5000' should be", "--data", folder, "--output", out, "--batch", "5000");
    EXPECT_WRONG("--learning-rate: 'fast' should be a number from 0 to 100", "--data", folder,
                 "--output", out, "--learning-rate", "fast");
    EXPECT_WRONG("--learning-rate: '1s'", "--data", folder, "--output", out, "--learning-rate",
                 "1s");
    EXPECT_WRONG("--activation: 'gelu' should be relu, tanh or sigmoid", "--data", folder,
                 "--output", out, "--activation", "gelu");
    EXPECT_WRONG("--optimizer: 'lion' should be adam or sgd", "--data", folder, "--output", out,
                 "--optimizer", "lion");
    EXPECT_WRONG("dropout is 0.95", "--data", folder, "--output", out, "--dropout", "0.95");
    EXPECT_WRONG("validation is 120", "--data", folder, "--output", out, "--validation", "120");
    EXPECT_WRONG("--colour: no such option", "--colour");
    EXPECT_WRONG("one argument too many", "--data", folder, "--output", out, "more");
    cr_expect_eq(count_files(), 2, "something was written");
}

Test(train_command, help)
{
    const struct program p = program_run("train", "--help");
    cr_expect_eq(p.status, 0);
    for (const char *const *o =
             (const char *const[]){"--data DIR", "--output FILE", "--epochs N", "--batch N",
                                   "--learning-rate X", "--optimizer NAME", "--momentum X",
                                   "--weight-decay X", "--dropout P", "--activation NAME",
                                   "--no-augment", "--validation N", "--seed S", "--threads N",
                                   "--cpu LEVEL", NULL};
         *o; o++)
        cr_expect(strstr(p.output, *o), "%s is not in\n%s", *o, p.output);
}

Test(train_command, what_cannot_be_read_or_written)
{
    const struct program no_data =
        program_run("train", "--data", "/tmp/convd-no-such", "--output", output_path());
    cr_expect_eq(no_data.status, 1);
    cr_expect(strstr(no_data.errors, "/tmp/convd-no-such: No such file"), "%s", no_data.errors);
    put_halves();
    const struct program no_folder = program_run("train", "--data", folder, "--output",
                                                 data_printf("%s/missing/out.onnx", folder));
    cr_expect_eq(no_folder.status, 1);
    cr_expect(strstr(no_folder.errors, "missing/out.onnx: cannot be written: No such file"), "%s",
              no_folder.errors);
    cr_expect_str_empty(no_folder.output, "found out before the work");
}

/* Ctrl-C in the middle: the best epoch so far is written and the exit status is 0. */
static void check_interrupt(int signal_number)
{
    int out[2];
    put_halves();
    cr_assert_eq(pipe(out), 0);
    fflush(NULL);
    const pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        char *argv[] = {(char[]){"train"},
                        (char[]){"--data"},
                        folder,
                        (char[]){"--output"},
                        strdup(output_path()),
                        (char[]){"--epochs"},
                        (char[]){"10000"},
                        (char[]){"--threads"},
                        (char[]){"1"},
                        NULL};
        dup2(out[1], STDOUT_FILENO);
        close(out[0]);
        close(out[1]);
        _exit(cmd_train(9, argv));
    }
    close(out[1]);
    FILE *lines = fdopen(out[0], "r");
    char line[256], last[256] = "";
    bool signalled = false;
    while (fgets(line, sizeof line, lines)) {
        if (!signalled && strstr(line, "epoch     2/10000")) {
            signalled = true;
            kill(child, signal_number);
        }
        strcpy(last, line);
    }
    fclose(lines);
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(signalled);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x", (unsigned)status);
    cr_expect(strncmp(last, "stopped; ", 9) == 0, "%s", last);
    cr_expect_eq(access(output_path(), R_OK), 0);
    cr_expect_eq(count_files(), 3);
}

Test(train_command, interrupt)
{
    check_interrupt(SIGINT);
}

Test(train_command, terminate)
{
    check_interrupt(SIGTERM);
}

/* ---- output files ---- */

Test(train_command, save_replaces_whole_files_only)
{
    struct cvd_error err;
    struct stat st;
    const char *path = output_path();
    umask(022);
    put("out.onnx", "old", 3);
    cr_expect_eq(save_check(path, &err), CVD_STATUS_OK, "%s", err.message);
    cr_expect_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_size, 3, "checking changed the file");
    cr_expect_eq(save_file(path, "newer", 5, &err), CVD_STATUS_OK, "%s", err.message);
    cr_expect_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_size, 5);
    cr_expect_eq(st.st_mode & 0777, 0644);
    cr_expect_eq(count_files(), 1);
    cr_expect_eq(save_check(folder, &err), CVD_STATUS_IO);
    cr_expect(strstr(err.message, "not a regular file"), "%s", err.message);
    cr_expect_eq(save_file("/dev/null", "x", 1, &err), CVD_STATUS_IO);
    cr_expect_eq(stat("/dev/null", &st), 0);
    cr_expect(S_ISCHR(st.st_mode));
}

/* ---- progress lines ---- */

Test(train_command, progress_lines)
{
    const struct progress p = {.unit = "images", .total = 1000, .start_ns = 0};
    char line[PROGRESS_LINE_BYTES];
    /* 250 in 5 s: 50 a second, 750 left take 15 s. */
    progress_line(&p, "epoch 1/4", 250, 5000000000u, 80, line);
    cr_expect_str_eq(line, "epoch 1/4 [#########............................]  25 %  50 images/s  "
                           "0:15 left");
    cr_expect_eq(strlen(line), 79);
    progress_line(&p, "epoch 1/4", 250, 5000000000u, 0, line);
    cr_expect_str_eq(line, "epoch 1/4  25 %  50 images/s  0:15 left");
    progress_line(&p, "epoch 1/4", 0, 0, 0, line);
    cr_expect_str_eq(line, "epoch 1/4   0 %  0 images/s  ? left");
    progress_line(&p, "x", 1, 10000000000u, 0, line); /* 9,990 s */
    cr_expect_str_eq(line, "x   0 %  0 images/s  2:46:30 left");
    for (unsigned columns = 1; columns < 300; columns++) {
        progress_line(&p, "epoch 1/4", 1000, 5000000000u, columns, line);
        cr_expect_lt(strlen(line), columns, "wraps at %u columns", columns);
    }
}

Test(train_command, progress_off_a_terminal)
{
    char *text = NULL;
    size_t len = 0;
    struct progress p;
    int fd = dup(STDERR_FILENO);
    cr_assert_geq(fd, 0);
    FILE *file = tmpfile();
    progress_begin(&p, file, "images", 10);
    cr_expect_not(p.terminal);
    progress_update(&p, "reading", 1);
    cr_expect_eq(ftell(file), 0, "the first line comes after a while only");
    p.next_ns = 0;
    progress_update(&p, "reading", 5);
    progress_clear(&p);
    rewind(file);
    cr_expect_gt(getline(&text, &len, file), 0);
    cr_expect(strncmp(text, "reading  50 % ", 14) == 0, "%s", text);
    cr_expect_null(strchr(text, '\x1b'));
    cr_expect_lt(getline(&text, &len, file), 0, "one line");
    free(text);
    fclose(file);
    close(fd);
}
