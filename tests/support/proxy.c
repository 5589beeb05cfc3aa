/* nginx and HAProxy, started for a test. */
#include "tests/support/proxy.h"

#include "tests/support/data.h"
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

struct proxy {
    struct server front; /* first; its log is what the proxy says about itself */
    int requests_fd;     /* a line for each request it has taken */
    const char *folder;
};

const char *proxy_name(enum proxy_kind kind)
{
    static const char *const names[PROXY_KINDS] = {"nginx", "nginx without buffering", "HAProxy",
                                                   "HAProxy at its most tolerant"};
    return names[kind];
}

static bool is_nginx(enum proxy_kind kind)
{
    return kind == PROXY_NGINX || kind == PROXY_NGINX_UNBUFFERED;
}

/* Daemons' folders are in the search path of root alone. */
static const char *find(const char *program)
{
    static const char *const folders[] = {"/usr/sbin", "/usr/local/sbin", "/usr/bin",
                                          "/usr/local/bin"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        const char *path = data_printf("%s/%s", folders[i], program);
        if (access(path, X_OK) == 0)
            return path;
    }
    cr_skip_test("%s is not installed (Debian package %s)", program, program);
    return NULL;
}

/* Headers that it would usually repair or leave out go through as they came: more of what a hostile
 * client writes reaches the daemon. */
static const char *nginx_config(const struct proxy_options *o, unsigned port, const char *folder)
{
    struct body b = {0};
    body_printf(&b,
                "daemon off; master_process off; pid %s/pid; error_log stderr warn;\n"
                "events { worker_connections 512; }\n"
                "http {\n"
                "  log_format requests '$request';\n"
                "  access_log /dev/fd/1 requests;\n"
                "  client_body_temp_path %s/body; proxy_temp_path %s/proxy;\n"
                "  fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/s;\n"
                "  ignore_invalid_headers off; underscores_in_headers on; merge_slashes off;\n"
                "  client_max_body_size 0; keepalive_timeout 60s;\n"
                "  upstream back { keepalive 16; keepalive_timeout %us;\n",
                folder, folder, folder, folder, folder, folder, o->idle_s);
    for (int i = 0; i < 2 && o->ports[i] != 0; i++)
        body_printf(&b, "    server 127.0.0.1:%u max_fails=0;\n", o->ports[i]);
    body_printf(&b,
                "  }\n"
                "  server { listen 127.0.0.1:%u;\n"
                "    location / {\n"
                "      proxy_pass http://back; proxy_http_version 1.1;\n"
                "      proxy_set_header Connection \"\";\n"
                "      proxy_request_buffering %s; proxy_next_upstream %s;\n"
                "    }\n"
                "  }\n"
                "}\n",
                port, o->kind == PROXY_NGINX ? "on" : "off",
                o->fails_over ? "error http_503 non_idempotent" : "off");
    body_add(&b, "", 1);
    return b.bytes;
}

static const char *haproxy_config(const struct proxy_options *o, unsigned port)
{
    struct body b = {0};
    body_printf(&b,
                "global\n"
                "  log stdout format raw local0 info\n"
                "  maxconn 512\n"
                "defaults\n"
                "  mode http\n"
                "  timeout connect 5s\n"
                "  timeout client 30s\n"
                "  timeout server 30s\n"
                "  timeout http-keep-alive 60s\n"
                "  timeout check 5s\n" /* who answers late is not down */
                "  http-reuse always\n"
                "  retries 0\n"
                "frontend front\n"
                "  bind 127.0.0.1:%u\n"
                "  log global\n"
                "  log-format %%{+Q}r\n"
                "%s"
                "  default_backend back\n"
                "backend back\n"
                "%s"
                "  default-server pool-purge-delay %us%s\n",
                port, o->kind == PROXY_HAPROXY_LAX ? "  option accept-invalid-http-request\n" : "",
                o->fails_over ? "  option httpchk GET /readyz\n" : "", o->idle_s,
                o->fails_over ? " check inter 50ms fall 1 rise 1" : "");
    for (int i = 0; i < 2 && o->ports[i] != 0; i++)
        body_printf(&b, "  server s%d 127.0.0.1:%u\n", i, o->ports[i]);
    body_add(&b, "", 1);
    return b.bytes;
}

static const char *write_config(const char *folder, const char *text)
{
    const char *path = data_printf("%s/config", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s", path,
              strerror(errno));
    close(fd);
    return path;
}

struct server *proxy_start(const struct proxy_options *options)
{
    struct proxy_options o = *options;
    const char *program = find(is_nginx(o.kind) ? "nginx" : "haproxy");
    struct proxy *p = data_alloc(sizeof *p);
    char *folder = data_printf("/tmp/convd-proxy-XXXXXX");
    cr_assert(mkdtemp(folder) != NULL, "%s: %s", folder, strerror(errno));
    p->folder = folder;
    p->front.port = server_free_port();
    p->front.log_fd = process_file("proxy log");
    p->requests_fd = process_file("proxy requests");
    o.idle_s = o.idle_s != 0 ? o.idle_s : 60;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    cr_assert(null >= 0);
    struct process_setup setup = {.in = null, .out = p->requests_fd, .err = p->front.log_fd};
    char *argv[8] = {data_printf("%s", program), data_printf("-db"), data_printf("-f"), NULL};
    if (is_nginx(o.kind)) {
        argv[3] = data_printf("%s", write_config(folder, nginx_config(&o, p->front.port, folder)));
        argv[1] = data_printf("-c");
        argv[2] = argv[3];
        argv[3] = data_printf("-e");
        argv[4] = data_printf("stderr");
    } else {
        argv[3] = data_printf("%s", write_config(folder, haproxy_config(&o, p->front.port)));
    }
    p->front.pid = process_start(argv, &setup);
    close(null);
    double deadline = process_now_s() + 30;
    struct client *c;
    while ((c = client_try_connect(&p->front)) == NULL) {
        cr_assert(process_now_s() < deadline, "%s does not listen:\n%s", program,
                  server_log(&p->front));
        process_pause_ms(5);
    }
    client_close(c);
    return &p->front;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void proxy_stop(struct server *front)
{
    struct proxy *p = (struct proxy *)(void *)front;
    server_signal(front, SIGTERM);
    if (server_wait(front, 5) == PROCESS_RUNNING) {
        server_signal(front, SIGKILL);
        server_wait(front, 5);
    }
    nftw(p->folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    close(p->requests_fd);
    close(front->log_fd);
}

unsigned proxy_requests(const struct server *front, const char *text)
{
    const struct proxy *p = (const struct proxy *)(const void *)front;
    unsigned count = 0;
    for (const char *at = process_text(p->requests_fd); (at = strstr(at, text)) != NULL; at++)
        count++;
    return count;
}

unsigned proxy_connections(unsigned port)
{
    enum { TIME_WAIT = 6, LISTEN = 10 };
    FILE *file = fopen("/proc/net/tcp", "r");
    char line[256];
    unsigned count = 0, local, remote, state;
    cr_assert(file != NULL);
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, " %*u: %*x:%x %*x:%x %x", &local, &remote, &state) == 3)
            count += (local == port && state != LISTEN) || (remote == port && state == TIME_WAIT);
    fclose(file);
    return count;
}
