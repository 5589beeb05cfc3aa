/*
 * convd serve: the daemon's life, from its options to its last request.
 *
 * It listens first and loads its models after, so that probes are answered from the start. The main
 * thread then waits for a signal; all other threads have signals blocked. SIGHUP has the models
 * read again. After SIGTERM it goes on accepting for drain-delay, while load balancers learn from
 * /readyz that it is leaving, then refuses new work and finishes what it has.
 */
#include "server/app.h"
#include "server/clock.h"
#include "server/commands.h"
#include "server/config.h"
#include "server/http.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/registry.h"

#include <convd/version.h>

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUIET_NS 100000000u /* no unfinished work for so long: the drain is complete */

/* While nothing is served yet there is nothing to finish; and a second signal is an order. */
static void exit_success(int signal)
{
    (void)signal;
    _exit(0);
}

static void exit_failure(int signal)
{
    (void)signal;
    _exit(1);
}

static void stop_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
}

static void on_stop_signals(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler};
    sigset_t set;

    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    stop_signals(&set);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* What the main thread waits for. SIGHUP is never unblocked: one that comes while models are being
 * loaded waits until they are, one that comes while the daemon stops is not heard. */
static void awaited_signals(sigset_t *set)
{
    stop_signals(set);
    sigaddset(set, SIGHUP);
}

/* Before any other thread exists and inherits the mask. */
static void prepare_signals(void)
{
    sigset_t set;

    awaited_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static const char *wait_for_stop(struct app *app)
{
    sigset_t set;
    int signal = 0;

    awaited_signals(&set);
    while (sigwait(&set, &signal) != 0 || signal == SIGHUP) {
        if (signal == SIGHUP) {
            log_event(app->log, LOG_INFO, "reloading",
                      (const struct log_field[]){{"signal", "SIGHUP"}, {NULL, NULL}});
            registry_reload(app->registry);
        }
    }
    return signal == SIGINT ? "SIGINT" : "SIGTERM";
}

static void sleep_ns(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};

    while (nanosleep(&t, &t) != 0)
        continue;
}

static void drain(struct app *app, struct http *http, const char *why)
{
    char inflight[16];
    uint64_t start_ns = clock_ns(), quiet_ns, now_ns;

    atomic_store(&app->phase, APP_DRAINING);
    snprintf(inflight, sizeof inflight, "%u", http_inflight(http));
    log_event(app->log, LOG_INFO, "draining",
              (const struct log_field[]){{"signal", why}, {"#inflight", inflight}, {NULL, NULL}});
    sleep_ns(app->config->drain_delay_ns);

    atomic_store(&app->phase, APP_STOPPING);
    start_ns = quiet_ns = now_ns = clock_ns();
    while (now_ns - start_ns < app->config->drain_timeout_ns && now_ns - quiet_ns < QUIET_NS) {
        sleep_ns(5000000);
        now_ns = clock_ns();
        if (http_inflight(http) > 0)
            quiet_ns = now_ns;
    }
    snprintf(inflight, sizeof inflight, "%u", http_inflight(http));
    if (http_inflight(http) > 0)
        log_event(app->log, LOG_WARN, "drain timeout: unfinished requests are given up",
                  (const struct log_field[]){{"#inflight", inflight}, {NULL, NULL}});
}

static bool is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "[::1]", 5) == 0;
}

static void announce(struct app *app, const struct http *http)
{
    char threads[16];

    snprintf(threads, sizeof threads, "%u", cvd_engine_threads(app->engine));
    log_event(app->log, LOG_INFO, "listening",
              (const struct log_field[]){
                  {"address", http_address(http)},
                  {"version", CVD_VERSION},
                  {"cpu", cvd_cpu_name(cvd_engine_cpu(app->engine))},
                  {"#threads", threads},
                  {"reachable", is_loopback(http_address(http)) ? "this machine" : "the network"},
                  {NULL, NULL},
              });
}

/* Everything between the creation of the log and its end. */
static int serve(const struct config *config, struct log *log, uint64_t begin_ns)
{
    struct app app = {.config = config, .log = log};
    struct cvd_settings settings;
    struct cvd_error err = {0};
    struct http *http = NULL, *admin = NULL;
    int result = 1;
    char took[32];

    atomic_store(&app.phase, APP_LOADING);
    cvd_settings_default(&settings);
    settings.threads = config->threads;
    settings.cpu = config->cpu;
    if (cvd_engine_create(&settings, &app.engine, &err) != CVD_STATUS_OK)
        goto done;
    app.metrics = metrics_create(cvd_cpu_name(cvd_engine_cpu(app.engine)));
    if (app.metrics)
        app.registry = registry_create(app.engine, config, app.metrics, log);
    if (!app.registry) {
        cvd_error_set(&err, CVD_STATUS_OUT_OF_MEMORY, "out of memory");
        goto done;
    }
    if (http_start(&app, HTTP_DATA, &http, &err) != CVD_STATUS_OK)
        goto done;
    announce(&app, http);
    if (config->admin_listen) {
        if (http_start(&app, HTTP_ADMIN, &admin, &err) != CVD_STATUS_OK)
            goto done;
        log_event(log, LOG_INFO, "admin listening",
                  (const struct log_field[]){{"address", http_address(admin)}, {NULL, NULL}});
    }

    on_stop_signals(exit_success);
    enum cvd_status loaded = registry_load(app.registry, &err);
    prepare_signals();
    if (loaded != CVD_STATUS_OK)
        goto done;
    atomic_store(&app.phase, APP_READY);
    snprintf(took, sizeof took, "%.1f", (double)(clock_ns() - begin_ns) / 1e6);
    log_event(log, LOG_INFO, "ready", (const struct log_field[]){{"#ms", took}, {NULL, NULL}});

    const char *why = wait_for_stop(&app);
    on_stop_signals(exit_failure);
    drain(&app, http, why);
    result = 0;
done:
    if (result != 0)
        log_printf(log, LOG_ERROR, "%s", err.message);
    http_stop(http);
    http_stop(admin); /* the last to go: /livez is true until here */
    registry_destroy(app.registry);
    metrics_destroy(app.metrics);
    cvd_engine_destroy(app.engine);
    if (result == 0)
        log_event(log, LOG_INFO, "stopped", NULL);
    return result;
}

int cmd_serve(int argc, char **argv)
{
    uint64_t begin_ns = clock_ns();
    struct config config;

    prepare_signals();
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            puts("usage: convd [serve] [options]\n\n"
                 "Serves image classifiers over HTTP. Options, with their defaults:\n");
            config_help(stdout);
            puts("\nEach option can also be given as an environment variable (--max-body: "
                 "CONVD_MAX_BODY)\nor as a key of the --config file (max_body). Flags win over the "
                 "environment, the\nenvironment over the file.");
            return 0;
        }
    }
    /* Few arenas and a fixed mmap threshold: memory of a burst goes back to the system. */
    mallopt(M_ARENA_MAX, 4);
    mallopt(M_MMAP_THRESHOLD, 256 << 10);
    int result = config_load(&config, argc - 1, argv + 1, stderr);
    if (result != 0)
        return result;
    struct log *log = log_create(config.log_level, config.log_format);
    if (!log) {
        fprintf(stderr, "convd: cannot start the log\n");
        config_free(&config);
        return 1;
    }
    result = serve(&config, log, begin_ns);
    log_destroy(log);
    config_free(&config);
    return result;
}
