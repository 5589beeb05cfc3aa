/*
 * The daemon's life in places that are not a terminal: read-only, unprivileged, as process 1, with
 * few descriptors, with a standard error that is closed or stuck, stopped for a while, and replaced
 * again and again while clients come through a proxy.
 *
 * Longer runs: CONVD_RESTARTS (3) is how often daemons are replaced, CONVD_STOP_S (1) for how many
 * seconds one is stopped.
 */
#include "tests/support/proxy.h"
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/mount.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RAW "Content-Type: application/octet-stream\r\n"

#define MODEL "engine/models/lenet5.onnx"

static int setting(const char *name, int standard)
{
    const char *text = getenv(name);
    return text != NULL && atoi(text) > 0 ? atoi(text) : standard;
}

/* Waits for a daemon whose log cannot be read. */
static void await(struct server *s)
{
    double deadline = process_now_s() + 30.0 * server_slowness();
    for (;;) {
        struct client *c = client_try_connect(s);
        if (c != NULL) {
            client_close(c);
            if (http_get(s, "/readyz")->status == 200)
                return;
        }
        cr_assert(process_now_s() < deadline, "the server is not ready in time");
        process_pause_ms(5);
    }
}

static void post_raw(struct client *c, int digit, const char *headers)
{
    client_printf(c, "POST /classify HTTP/1.1\r\nHost: x\r\n" RAW "%sContent-Length: 784\r\n\r\n",
                  headers);
    client_send(c, digit_pixels(digit), 784);
}

/* Every kind of work: images that are decoded, errors, metrics. */
static void expect_service(const struct server *s)
{
    struct data png = data_read("digit-7.png"), photo = data_read("paper-8.jpg");
    expect_digit(http_post(s, "/classify", NULL, png.bytes, png.len), 7, 5, "PNG");
    expect_digit(http_post(s, "/classify", NULL, photo.bytes, photo.len), 8, 5, "JPEG");
    expect_digit(http_post(s, "/classify", "application/octet-stream", digit_pixels(4), 784), 4, 5,
                 "raw");
    response_expect_error(http_post(s, "/classify", NULL, "seven", 5), 415, NULL, "text");
    cr_assert_eq(http_get(s, "/readyz")->status, 200);
    cr_assert(http_metric(s, "process_open_fds") > 0);
}

/* ---------------------------------------------------------------- loading */

/* A folder that takes a while to load: the built-in model under many names. */
static const char *many_models(int count)
{
    char *folder = data_printf("/tmp/convd-models-XXXXXX"), *model = realpath(MODEL, NULL);
    cr_assert(mkdtemp(folder) != NULL && model != NULL, "%s, %s: %s", folder, MODEL,
              strerror(errno));
    for (int i = 0; i < count; i++)
        cr_assert(symlink(model, data_printf("%s/m%d.onnx", folder, i)) == 0);
    free(model);
    return folder;
}

static void remove_models(const char *folder, int count)
{
    for (int i = 0; i < count; i++)
        unlink(data_printf("%s/m%d.onnx", folder, i));
    rmdir(folder);
}

static struct server *launch_loading(const char *folder)
{
    struct server *s = server_launch(&(struct server_setup){
        .port = server_free_port(), .options = (const char *const[]){"--models", folder, NULL}});
    cr_assert(server_log_wait(s, "\"listening\"", 20), "%s", server_log(s));
    return s;
}

/* It listens first and loads after: whoever asks meanwhile is told. */
Test(lifecycle, loading)
{
    const struct response *r = NULL;
    int count = 30;
    for (; r == NULL || r->status != 503; count *= 2) { /* until it took long enough */
        cr_assert(count < 10000, "nobody was told: %s", r->body);
        const char *folder = many_models(count);
        struct server *s = launch_loading(folder);
        cr_expect_eq(http_get(s, "/livez")->status, 200);
        const struct response *ready = http_get(s, "/readyz");
        r = http_post(s, "/classify", "application/octet-stream", digit_pixels(1), 784);
        if (r->status == 503) {
            response_expect_error(ready, 503, "loading", "/readyz");
            response_expect_error(r, 503, "loading", "/classify");
            cr_expect(response_header(r, "Retry-After") != NULL);
            cr_expect(http_metric(s, "convd_rejected_total{reason=\"not_ready\"}") == 1);
        }
        server_await(s);
        expect_service(s);
        server_stop(s);

        /* There is nothing to finish yet. */
        server_stop(launch_loading(folder));
        remove_models(folder, count);
    }
}

/* ---------------------------------------------------------------- standard error */

/* With it and without the other two, whose numbers must not become those of connections. */
Test(lifecycle, standard_error_is_closed)
{
    for (int others = -1; others <= 0; others++) {
        struct server *s = server_launch(&(struct server_setup){
            .port = server_free_port(), .process = {.in = others, .out = others, .err = -1}});
        await(s);
        for (int i = 0; i < 5; i++)
            expect_service(s);
        server_stop(s);
    }
}

/* Whoever read the log is gone. */
Test(lifecycle, standard_error_is_a_broken_pipe)
{
    int ends[2];
    cr_assert(pipe2(ends, O_CLOEXEC) == 0);
    close(ends[0]);
    struct server *s = server_launch(
        &(struct server_setup){.port = server_free_port(), .process = {.err = ends[1]}});
    await(s);
    for (int i = 0; i < 5; i++)
        expect_service(s);
    double cpu_s = server_cpu_s(s);
    process_pause_ms(500);
    cr_expect(server_cpu_s(s) - cpu_s < 0.1 * server_slowness(),
              "busy with lines that nobody reads");
    server_stop(s);
    close(ends[1]);
}

/* Nobody reads the pipe: log lines are lost, requests are not, nor do they wait. */
Test(lifecycle, standard_error_is_stuck)
{
    int ends[2];
    cr_assert(pipe2(ends, O_CLOEXEC) == 0);
    fcntl(ends[1], F_SETPIPE_SZ, 4096);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    while (write(ends[1], "x", 1) == 1)
        ;
    fcntl(ends[1], F_SETFL, 0);
    struct server *s = server_launch(
        &(struct server_setup){.port = server_free_port(), .process = {.err = ends[1]}});
    await(s);
    char *longer = data_alloc(2001);
    memset(longer, 'a', 2000);
    struct client *c = client_connect(s);
    /* More than the log holds. */
    for (int i = 0; i < 1000; i++) {
        client_printf(c, "GET /%s HTTP/1.1\r\nHost: x\r\n\r\n", longer);
        cr_assert_eq(client_read(c, false)->status, 404);
    }
    client_close(c);
    expect_service(s);
    server_stop(s);
    close(ends[0]);
    close(ends[1]);
}

/* ---------------------------------------------------------------- limits and privileges */

static bool few_descriptors(void *cookie)
{
    (void)cookie;
    return setrlimit(RLIMIT_NOFILE, &(struct rlimit){64, 64}) == 0;
}

/* The connections that are possible are served, those above are not waited for in a busy loop, and
 * a crowd that only sits there does not keep others out. */
Test(lifecycle, sixty_four_descriptors)
{
    enum { CROWD = 32 };
    struct server *s =
        server_launch(&(struct server_setup){.process = {.prepare = few_descriptors}});
    server_await(s);
    cr_assert(strstr(server_log(s), "max-connections lowered") != NULL, "%s", server_log(s));
    expect_service(s);
    struct client *crowd[CROWD];
    for (int i = 0; i < CROWD; i++)
        crowd[i] = client_connect(s);
    double begin = process_now_s(), cpu_s = server_cpu_s(s);
    size_t log_len = strlen(server_log(s));
    process_pause_ms(1000);
    cpu_s = server_cpu_s(s) - cpu_s;
    log_len = strlen(server_log(s)) - log_len;
    double seconds = process_now_s() - begin;
    cr_expect(cpu_s < 0.2 * seconds * server_slowness(), "%.2f s of processor time", cpu_s);
    cr_expect((double)log_len < 4000 * seconds, "%zu bytes of log in %.1f s", log_len, seconds);
    cr_expect_eq(http_get(s, "/livez")->status, 200); /* idle, they could stay for 75 s */
    for (int i = 0; i < CROWD; i++)
        client_close(crowd[i]);
    /* They leave one by one; until then there are too many. */
    cr_assert(http_metric_wait(s, "process_open_fds", 0, 32, 20));
    expect_service(s);
    server_stop(s);
}

/* Connections leave what a reload needs. */
Test(lifecycle, reloaded_with_all_connections_taken)
{
    enum { CROWD = 64 };
    char *folder = data_printf("/tmp/convd-models-XXXXXX");
    cr_assert(mkdtemp(folder) != NULL);
    const char *model = data_printf("%s/mine.onnx", folder);
    cr_assert_eq(system(data_printf("cp %s %s", MODEL, model)), 0);
    struct server *s = server_launch(&(struct server_setup){
        .options = (const char *const[]){"--models", folder, "--default-model", "lenet5", NULL},
        .process = {.prepare = few_descriptors}});
    server_await(s);
    struct client *crowd[CROWD];
    for (int i = 0; i < CROWD; i++)
        crowd[i] = client_connect(s);
    process_pause_ms(50);
    cr_assert(utimensat(AT_FDCWD, model, NULL, 0) == 0);
    server_signal(s, SIGHUP);
    cr_assert(server_log_wait(s, "loaded=1 unchanged=1 failed=0", 20), "%s", server_log_tail(s));
    for (int i = 0; i < CROWD; i++)
        client_close(crowd[i]);
    cr_assert(http_metric_wait(s, "process_open_fds", 0, 32, 20));
    expect_service(s);
    server_stop(s);
    unlink(model);
    rmdir(folder);
}

/* Everything that is mounted becomes read-only, and the user nobody in particular. */
static bool read_only_nobody(void *cookie)
{
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    bool root = geteuid() == 0;

    (void)cookie;
    if (unshare(CLONE_NEWNS | (root ? 0 : CLONE_NEWUSER)) != 0 ||
        syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &attributes, sizeof attributes) !=
            0)
        return false;
    if (open("written", O_WRONLY | O_CREAT, 0600) >= 0 || errno != EROFS)
        return false;
    if (root && (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0))
        return false;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && access(server_program(), X_OK) == 0;
}

Test(lifecycle, read_only_and_unprivileged)
{
    struct server_setup setup = {.process = {.prepare = read_only_nobody}};
    if (!process_permitted(&setup.process))
        cr_skip_test("a read-only view of the files for another user is not permitted here");
    struct server *s = server_launch(&setup);
    server_await(s);
    expect_service(s);
    server_signal(s, SIGHUP);
    process_pause_ms(100);
    expect_service(s);
    server_stop(s);
}

/* Signals that process 1 has no handler for do not reach it. */
Test(lifecycle, as_process_1)
{
    struct server_setup setup = {
        .process = {.clone_flags = CLONE_NEWPID | (geteuid() == 0 ? 0 : CLONE_NEWUSER)}};
    if (!process_permitted(&setup.process))
        cr_skip_test("a namespace of process numbers is not permitted here");
    struct server *s = server_launch(&setup);
    server_await(s);
    expect_service(s);
    server_stop(s);

    setup.options = (const char *const[]){"--drain-delay", "60s", NULL};
    s = server_launch(&setup);
    server_await(s);
    server_signal(s, SIGTERM);
    cr_assert(server_log_wait(s, "\"draining\"", 20));
    server_signal(s, SIGTERM);
    cr_assert_eq(server_wait(s, 30.0 * server_slowness()), 1, "a second signal ends it at once");
}

/* ---------------------------------------------------------------- stopped */

/* As by a debugger, or with the whole machine: what waited too long is told so, what came meanwhile
 * is answered, and nothing spins afterwards. Returns what was told. */
static int stop_and_continue(int seconds)
{
    struct server *s = server_start_with("--max-delay-us", "600000");
    struct client *queued = client_connect(s), *begun = client_connect(s),
                  *kept = client_connect(s);
    client_printf(kept, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    cr_assert_eq(client_read(kept, false)->status, 200);
    client_printf(begun, "POST /classify HTTP/1.1\r\nHo");
    post_raw(queued, 2, "X-Request-Timeout-Ms: 500\r\n");
    http_metric_wait(s, "convd_queue_depth{model=\"lenet5\"}", 1, 1, 1);
    server_signal(s, SIGSTOP);
    struct client *late = client_connect(s);
    post_raw(late, 5, "");
    post_raw(kept, 6, "");
    client_printf(begun, "st: x\r\n" RAW "Content-Length: 784\r\n\r\n");
    client_send(begun, digit_pixels(3), 784);
    process_pause_ms(seconds * 1000L);
    server_signal(s, SIGCONT);

    const struct response *r = client_read(queued, false);
    int told = r == NULL ? 0 : r->status;
    if (told == 200) /* before the stop */
        expect_digit(r, 2, 5, "queued before");
    else
        response_expect_error(r, 504, "deadline_exceeded", "queued before");
    expect_digit(client_read(late, false), 5, 5, "connected meanwhile");
    expect_digit(client_read(kept, false), 6, 5, "sent meanwhile");
    expect_digit(client_read(begun, false), 3, 5, "finished meanwhile");
    double cpu_s = server_cpu_s(s);
    process_pause_ms(500);
    cr_expect(server_cpu_s(s) - cpu_s < 0.1 * server_slowness(), "busy with nothing");
    client_close(late);
    client_close(kept);
    client_close(queued);
    client_close(begun);
    expect_service(s);
    server_stop(s);
    return told;
}

Test(lifecycle, stopped_and_continued)
{
    int seconds = setting("CONVD_STOP_S", 1), left = 10;
    while (stop_and_continue(seconds) != 504)
        cr_assert(--left > 0, "what waited was always computed");
}

/* ---------------------------------------------------------------- ended in the middle */

/* Requests that are still with a worker when the drain's time is over: the library must not be
 * stopped before they are back. */
Test(lifecycle, ended_while_computing)
{
    enum { CLIENTS = 4, IMAGES = 250 };
    struct server *s = server_start_with("--cpu", "c", "--threads", "1", "--max-batch", "1024",
                                         "--drain-timeout", "50ms");
    struct body b = {0};
    body_printf(&b, "{\"pixels\":");
    body_pixels(&b, data_alloc(IMAGES * 784), (const unsigned[]){IMAGES, 28, 28, 1}, 4);
    body_printf(&b, "}");
    struct client *clients[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_connect(s);
        client_printf(clients[i],
                      "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", b.len);
        client_send(clients[i], b.bytes, b.len);
    }
    cr_assert(
        http_metric_wait(s, "convd_queue_wait_seconds_count{model=\"lenet5\"}", 1, CLIENTS, 20));
    server_stop(s);
    for (int i = 0; i < CLIENTS; i++) {
        const struct response *r = client_read(clients[i], false);
        cr_expect(r == NULL || r->status == 200 || r->status >= 499, "%s", r->body);
        client_close(clients[i]);
    }
}

/* ---------------------------------------------------------------- replaced under load */

struct user {
    pthread_t thread;
    const struct server *proxy;
    int digit;
    atomic_bool *leave;
    unsigned requests, failures;
    char first[256]; /* what the first failure looked like */
};

/* Threads other than the test's must not assert: they count. */
static void *use(void *arg)
{
    struct user *u = arg;
    struct data png = data_read(data_printf("digit-%d.png", u->digit));
    const char *label = data_printf("\"label\":\"%d\",\"probability\"", u->digit);
    struct client *c = client_connect(u->proxy);
    while (!atomic_load(u->leave)) {
        if (u->requests % 3 == 0) {
            client_printf(c, "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                          png.len);
            client_send(c, png.bytes, png.len);
        } else {
            post_raw(c, u->digit, "");
        }
        const struct response *r = client_read(c, false);
        u->requests++;
        if (r == NULL || r->status != 200 || strstr(r->body, label) == NULL) {
            if (u->failures++ == 0)
                snprintf(u->first, sizeof u->first, "%.255s", r == NULL ? "no answer" : r->body);
        }
        const char *connection = r == NULL ? "close" : response_header(r, "Connection");
        if (connection != NULL && strcmp(connection, "close") == 0) {
            client_close(c);
            c = client_connect(u->proxy);
        }
        process_pause_ms(2);
    }
    client_close(c);
    return NULL;
}

static struct server *launch_at(unsigned port, unsigned delay_ms)
{
    struct server *s = server_launch(&(struct server_setup){
        .port = port,
        .options = (const char *const[]){"--drain-delay", data_printf("%ums", delay_ms),
                                         "--access-log", "off", NULL}});
    server_await(s);
    return s;
}

/* One of two daemons leaves and another one comes in its place, again and again. Returns how many
 * requests failed: none, if the proxy notices within half of the delay who leaves and who is back.
 */
static unsigned replace_with(enum proxy_kind kind, unsigned delay_ms, const char **failure)
{
    enum { USERS = 6 };
    static const char served[] =
        "convd_http_requests_total{route=\"/classify\",method=\"POST\",code=\"200\"}";
    struct server *back[2] = {launch_at(server_free_port(), delay_ms),
                              launch_at(server_free_port(), delay_ms)};
    struct server *proxy = proxy_start(&(struct proxy_options){
        .kind = kind, .ports = {back[0]->port, back[1]->port}, .fails_over = true});
    atomic_bool leave = false;
    struct user users[USERS];
    process_pause_ms(delay_ms / 2);
    for (int i = 0; i < USERS; i++) {
        users[i] = (struct user){.proxy = proxy, .digit = i, .leave = &leave};
        cr_assert(pthread_create(&users[i].thread, NULL, use, &users[i]) == 0);
    }
    for (int i = 0, n = setting("CONVD_RESTARTS", 3); i < n; i++) {
        unsigned port = back[i % 2]->port;
        process_pause_ms(100);
        server_stop(back[i % 2]);
        back[i % 2] = launch_at(port, delay_ms);
        process_pause_ms(delay_ms / 2);
    }
    for (int i = 0; i < 2; i++)
        cr_expect(http_metric_wait(back[i], served, 1, 1e9, 20), "daemon %d was never asked", i);
    atomic_store(&leave, true);
    unsigned failures = 0;
    for (int i = 0; i < USERS; i++) {
        pthread_join(users[i].thread, NULL);
        failures += users[i].failures;
        if (users[i].failures > 0)
            *failure = data_printf("%s", users[i].first);
        cr_expect_gt(users[i].requests, 0);
    }
    proxy_stop(proxy);
    server_stop(back[0]);
    server_stop(back[1]);
    return failures;
}

static void replace(enum proxy_kind kind)
{
    const char *failure = "";
    unsigned delay_ms = 400, failures;
    while ((failures = replace_with(kind, delay_ms, &failure)) > 0 && delay_ms < 5000)
        delay_ms *= 2; /* a proxy that stalls notices late */
    cr_expect_eq(failures, 0, "%u requests failed: %s", failures, failure);
}

Test(lifecycle, replaced_behind_haproxy)
{
    replace(PROXY_HAPROXY);
}
Test(lifecycle, replaced_behind_nginx)
{
    replace(PROXY_NGINX);
}

/* The length of the time slices of a thread of the server's (all with this name: the shortest), as
 * sched_getattr(2) tells it; 0 where the kernel does not know. */
static uint64_t slice_ns(pid_t pid, const char *thread)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_ns, deadline_ns, period_ns;
    } attr;
    uint64_t shortest = UINT64_MAX;
    char path[64], name[32];

    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    cr_assert(tasks != NULL);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        int id = atoi(task->d_name);
        snprintf(path, sizeof path, "/proc/%d/task/%d/comm", (int)pid, id);
        FILE *comm = id > 0 ? fopen(path, "re") : NULL;
        bool is_it =
            comm && fgets(name, sizeof name, comm) && strncmp(name, thread, strlen(thread)) == 0;
        if (comm)
            fclose(comm);
        if (!is_it)
            continue;
        if (syscall(SYS_sched_getattr, id, &attr, sizeof attr, 0) != 0)
            attr.runtime_ns = 0;
        shortest = attr.runtime_ns < shortest ? attr.runtime_ns : shortest;
    }
    closedir(tasks);
    return shortest;
}

/* The thread that moves bytes goes before those that compute. */
Test(lifecycle, the_io_thread_asks_for_short_slices)
{
    struct server *s = server_start_with("--threads", "1");
    uint64_t workers = slice_ns(s->pid, "convd-worker"), io = slice_ns(s->pid, "convd-io");
    server_stop(s);
    if (workers == 0)
        cr_skip_test("this kernel knows no time slices of a thread's own");
    cr_expect_lt(io, workers);
}
