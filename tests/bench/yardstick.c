/*
 * The yardstick of the HTTP benchmark: what libmicrohttpd costs by itself. Reads the body of any
 * POST and answers a small fixed JSON text, with the daemon flags that convd uses.
 *
 *   yardstick [IO_THREADS]    prints its port and serves until it is told to end
 */
#include <microhttpd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char answer[] =
    "{\"model\":\"none\",\"version\":\"1\",\"label\":\"7\",\"probability\":0.5,\"classes\":[{"
    "\"index\":7,\"label\":\"7\",\"probability\":0.5}],\"timing_ms\":{\"decode\":0.01,\"queue\":"
    "0.01,\"compute\":0.05}}\n";

static enum MHD_Result handle(void *cookie, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *data_len, void **state)
{
    static char begun;
    (void)cookie, (void)url, (void)method, (void)version, (void)data;
    if (*state == NULL) {
        *state = &begun;
        return MHD_YES;
    }
    if (*data_len > 0) {
        *data_len = 0;
        return MHD_YES;
    }
    /* MHD_RESPMEM_PERSISTENT: the text is neither copied nor written to. */
    struct MHD_Response *response = MHD_create_response_from_buffer(
        sizeof answer - 1, (void *)(uintptr_t)answer, MHD_RESPMEM_PERSISTENT);
    MHD_add_response_header(response, "Content-Type", "application/json");
    enum MHD_Result queued = MHD_queue_response(connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return queued;
}

int main(int argc, char **argv)
{
    long threads = argc > 1 ? strtol(argv[1], NULL, 10) : 1;
    if (threads < 1 || threads > 64) {
        fprintf(stderr, "usage: yardstick [IO_THREADS]  (1 to 64)\n");
        return 2;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_SOCK_ADDR, 0, &address},
        {MHD_OPTION_CONNECTION_LIMIT, 4096, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, 75, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, 32768, NULL},
        {MHD_OPTION_LISTEN_BACKLOG_SIZE, 4096, NULL},
        {threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, (intptr_t)threads, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG,
        0, NULL, NULL, handle, NULL, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    if (daemon == NULL) {
        fprintf(stderr, "yardstick: the daemon does not start\n");
        return 1;
    }
    printf("%u\n", (unsigned)MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT)->port);
    fflush(stdout);
    sigset_t signals;
    int caught;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    sigwait(&signals, &caught);
    MHD_stop_daemon(daemon);
    return 0;
}
