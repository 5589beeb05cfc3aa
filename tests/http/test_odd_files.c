/*
 * Things that are no files in the places of files. Opening a pipe waits for a writer and reading a
 * device may never end, so none of them is opened or read as if it were one; the message names it.
 */
#include "tests/support/requests.h"
#include "tests/unit/classifier_model.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <ftw.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char folder[64];

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "/tmp/convd-odd-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void remove_folder(void)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(odd_files, .init = make_folder, .fini = remove_folder);

static const char *at(const char *name)
{
    return data_printf("%s/%s", folder, name);
}

static void put(const char *name, const void *bytes, size_t len)
{
    FILE *f = fopen(at(name), "wb");
    cr_assert(f != NULL && fwrite(bytes, 1, len, f) == len && fclose(f) == 0, "%s", name);
}

static void put_model(const char *name)
{
    struct pb file = classifier_model(&(struct classifier_options){0});
    put(name, file.data, file.len);
    pb_free(&file);
}

/* ---- what there may be in place of a file ---- */

static bool make_pipe(const char *path)
{
    return mkfifo(path, 0600) == 0;
}

static bool make_subfolder(const char *path)
{
    return mkdir(path, 0700) == 0;
}

static bool make_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    bool good = bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return good;
}

/* Endless. */
static bool link_to_device(const char *path)
{
    return symlink("/dev/zero", path) == 0;
}

static bool link_to_nowhere(const char *path)
{
    return symlink("nowhere", path) == 0;
}

static bool link_to_itself(const char *path)
{
    return symlink(path, path) == 0;
}

static const struct {
    const char *name;
    bool (*make)(const char *path);
} oddities[] = {
    {"pipe", make_pipe},        {"folder", make_subfolder},   {"socket", make_socket},
    {"device", link_to_device}, {"nowhere", link_to_nowhere}, {"circle", link_to_itself},
};
enum { ODDITIES = sizeof oddities / sizeof *oddities };

/* ---- the model folder ---- */

static unsigned logged(const struct server *s, const char *text)
{
    unsigned count = 0;
    for (const char *p = server_log(s); (p = strstr(p, text)) != NULL; p++)
        count++;
    return count;
}

/* Whether one line says that a model was not loaded, and names this file. */
static bool refused(const struct server *s, const char *path)
{
    for (const char *p = server_log(s); (p = strstr(p, "\"model not loaded\"")) != NULL; p++) {
        const char *end = strchr(p, '\n'), *found = strstr(p, path);
        if (found != NULL && (end == NULL || found < end))
            return true;
    }
    return false;
}

static int status_of(const struct server *s, const char *model)
{
    static const unsigned char pixels[CLASSIFIER_PIXELS];
    return http_post(s, data_printf("/classify/%s", model), "application/octet-stream", pixels,
                     sizeof pixels)
        ->status;
}

static void reload(struct server *s)
{
    unsigned passes = logged(s, "\"model folder read\"");
    server_signal(s, SIGHUP);
    for (int ms = 0; logged(s, "\"model folder read\"") == passes; ms += 2) {
        cr_assert(ms < 20000 * server_slowness(), "the reload does not end:\n%s",
                  server_log_tail(s));
        process_pause_ms(2);
    }
}

/* Each of these models is good but for one of its files; the last has an older version, which must
 * not be served in place of the one that cannot be read. */
static const char *const places[] = {
    "%s.onnx", "%s/model.onnx", "%s/config.json", "%s/labels.txt", "%s/2/model.onnx",
};
enum { PLACES = sizeof places / sizeof *places };

static const char *model_name(size_t place, size_t oddity)
{
    return data_printf("m%zu-%s", place, oddities[oddity].name);
}

static const char *file_name(size_t place, const char *model)
{
    /* Not a format of the compiler's to check: the texts are those above. */
    const char *mark = strstr(places[place], "%s");
    return data_printf("%s%s", model, mark + 2);
}

static void put_good(size_t place, const char *model)
{
    if (place == 0) {
        put_model(file_name(place, model));
        return;
    }
    cr_assert_eq(mkdir(at(model), 0700), 0);
    if (place == 4) {
        cr_assert_eq(mkdir(at(data_printf("%s/1", model)), 0700), 0);
        cr_assert_eq(mkdir(at(data_printf("%s/2", model)), 0700), 0);
        put_model(data_printf("%s/1/model.onnx", model));
        put_model(data_printf("%s/2/model.onnx", model));
    } else {
        put_model(data_printf("%s/model.onnx", model));
    }
    if (place == 2)
        put(file_name(place, model), "{}", 2);
    if (place == 3)
        put(file_name(place, model), "a\nb\nc\nd\ne\n", 10);
}

static const char *odd_path(size_t place, size_t oddity)
{
    return at(file_name(place, model_name(place, oddity)));
}

static void spoil(size_t place, size_t oddity)
{
    const char *path = odd_path(place, oddity);
    unlink(path);
    cr_assert(oddities[oddity].make(path), "%s: %s", path, strerror(errno));
}

Test(odd_files, in_the_model_folder)
{
    put_model("good.onnx");
    for (size_t place = 0; place < PLACES; place++) {
        for (size_t i = 0; i < ODDITIES; i++) {
            put_good(place, model_name(place, i));
            spoil(place, i);
        }
    }
    struct server *s = server_start_with("--models", folder, "--log-format", "json");
    cr_expect_eq(status_of(s, "good"), 200);
    for (size_t place = 0; place < PLACES; place++) {
        for (size_t i = 0; i < ODDITIES; i++) {
            cr_expect_eq(status_of(s, model_name(place, i)), 404, "%s", model_name(place, i));
            cr_expect(refused(s, odd_path(place, i)), "nothing about %s:\n%s", odd_path(place, i),
                      server_log(s));
        }
    }
    server_stop(s);
}

Test(odd_files, at_a_reload)
{
    for (size_t place = 0; place < PLACES; place++)
        for (size_t i = 0; i < ODDITIES; i++)
            put_good(place, model_name(place, i));
    struct server *s = server_start_with("--models", folder, "--log-format", "json");
    for (size_t place = 0; place < PLACES; place++)
        for (size_t i = 0; i < ODDITIES; i++)
            spoil(place, i);
    reload(s);
    for (size_t place = 0; place < PLACES; place++) {
        for (size_t i = 0; i < ODDITIES; i++) {
            /* A folder of that name is another model. */
            bool gone = place == 0 && oddities[i].make == make_subfolder;
            cr_expect_eq(status_of(s, model_name(place, i)), gone ? 404 : 200, "%s",
                         model_name(place, i));
            cr_expect(refused(s, odd_path(place, i)), "nothing about %s:\n%s", odd_path(place, i),
                      server_log_tail(s));
        }
    }
    server_stop(s);
}

/* The user nobody in particular, if there is a choice. */
static bool become_nobody(void *cookie)
{
    (void)cookie;
    return geteuid() != 0 || (setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
}

Test(odd_files, without_permission)
{
    const size_t any = 0; /* only a name here */
    struct server_setup setup = {
        .options = (const char *const[]){"--models", folder, "--log-format", "json", NULL},
        .process = {.prepare = become_nobody}};
    if (!process_permitted(&setup.process))
        cr_skip_test("becoming another user is not permitted here");
    umask(022);
    cr_assert_eq(chmod(folder, 0755), 0);
    put_model("good.onnx");
    for (size_t place = 0; place < PLACES; place++) {
        put_good(place, model_name(place, any));
        chmod(at(model_name(place, any)), 0755);
        chmod(at(data_printf("%s/2", model_name(place, any))), 0755);
    }
    for (size_t place = 0; place < PLACES; place++)
        cr_assert_eq(chmod(odd_path(place, any), 0), 0);
    cr_assert(mkdir(at("locked"), 0755) == 0);
    put_model("locked/model.onnx");
    cr_assert_eq(chmod(at("locked"), 0), 0);
    struct server *s = server_launch(&setup);
    server_await(s);
    cr_expect_eq(status_of(s, "good"), 200);
    for (size_t place = 0; place < PLACES; place++)
        cr_expect(refused(s, odd_path(place, any)), "nothing about %s:\n%s", odd_path(place, any),
                  server_log(s));
    cr_expect(refused(s, at("locked")), "%s", server_log(s));
    server_stop(s);
}

/* ---- other files ---- */

static void expect_named(struct program p, int status, const char *path)
{
    cr_expect_eq(p.status, status, "%s: status %d: %s", path, p.status, p.errors);
    cr_expect(strstr(p.errors, path) != NULL, "no '%s' in: %s", path, p.errors);
}

Test(odd_files, of_the_command_line)
{
    for (size_t i = 0; i < ODDITIES; i++) {
        const char *path = at(oddities[i].name), *model = at(data_printf("%zu.onnx", i));
        cr_assert(oddities[i].make(path) && oddities[i].make(model), "%s", path);
        expect_named(program_run("serve", "--config", path), 2, path);
        if (oddities[i].make != make_subfolder) /* and an empty folder is one */
            expect_named(program_run("serve", "--models", path, "--listen", "127.0.0.1:0"), 1,
                         path);
        expect_named(program_run("inspect", model), 1, model);
        expect_named(program_run("classify", "--model", model, "tests/data/digit-1.png"), 1, model);
    }
}
