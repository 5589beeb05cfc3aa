/*
 * Load for benchmarks and soak tests: reads the plan from its arguments, carries it out, prints one
 * JSON object.
 *
 *   loadgen [OPTION...] HOST:PORT
 *
 *   --rate N           requests a second at even distances; without it, every connection sends its
 *                      next request when it has the answer to the last
 *   --seconds S        (5)
 *   --connections N    most connections; with --rate they are opened as they are needed (64)
 *   --timeout MS       how long after its moment a request is waited for (5000)
 * and for each kind of request, the second and further ones after --next:
 *   --method M --path P --header 'NAME: VALUE' --body FILE
 *   --share N          of this kind in the mix, beside the others' (1)
 *   --expect N[,N...]  statuses that are right; others are counted as wrong
 *   --text TEXT        that the body of a 2xx answer has to contain, else it is wrong
 *   --abort N          leave after N bytes of the body
 */
#include "tests/bench/loadgen/load.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static int usage(const char *why)
{
    fprintf(stderr,
            "loadgen: %s\n"
            "usage: loadgen [--rate N] [--seconds S] [--connections N] [--timeout MS]\n"
            "               KIND [--next KIND]... HOST:PORT\n"
            "KIND: [--method M] [--path P] [--header 'NAME: VALUE']... [--body FILE] [--share N]\n"
            "      [--expect N[,N...]] [--text TEXT] [--abort BYTES]\n",
            why);
    return 2;
}

/* A number from least to most; false when it is none. */
static bool number(const char *text, double least, double most, double *out)
{
    char *end;

    *out = strtod(text, &end);
    return end != text && *end == '\0' && *out >= least && *out <= most;
}

static bool add_header(struct load_kind *kind, const char *line)
{
    char *headers;

    if (!strchr(line, ':') ||
        asprintf(&headers, "%s%s\r\n", kind->headers ? kind->headers : "", line) < 0)
        return false;
    free(kind->headers);
    kind->headers = headers;
    return true;
}

enum choice {
    RATE = 1,
    SECONDS,
    CONNECTIONS,
    TIMEOUT,
    METHOD,
    PATH,
    HEADER,
    BODY,
    SHARE,
    EXPECT,
    TEXT,
    ABORT,
    NEXT
};

static const struct option options[] = {
    {"rate", 1, NULL, RATE},
    {"seconds", 1, NULL, SECONDS},
    {"connections", 1, NULL, CONNECTIONS},
    {"timeout", 1, NULL, TIMEOUT},
    {"method", 1, NULL, METHOD},
    {"path", 1, NULL, PATH},
    {"header", 1, NULL, HEADER},
    {"body", 1, NULL, BODY},
    {"share", 1, NULL, SHARE},
    {"expect", 1, NULL, EXPECT},
    {"text", 1, NULL, TEXT},
    {"abort", 1, NULL, ABORT},
    {"next", 0, NULL, NEXT},
    {0},
};

static struct load_kind *add_kind(struct load_plan *plan)
{
    struct load_kind *kind = &plan->kinds[plan->kind_count++];

    *kind = (struct load_kind){.path = "/", .share = 1};
    return kind;
}

/* Applies one option; false when its value is not right. */
static bool apply(struct load_plan *plan, enum choice choice, const char *value)
{
    struct load_kind *kind = &plan->kinds[plan->kind_count - 1];
    double n = 0;

    switch (choice) {
    case RATE:
        return number(value, 0.01, 1e7, &plan->rate);
    case SECONDS:
        return number(value, 0.01, 1e6, &plan->seconds);
    case CONNECTIONS:
        if (!number(value, 1, 1e6, &n))
            return false;
        plan->connections = (unsigned)n;
        return true;
    case TIMEOUT:
        if (!number(value, 1, 1e6, &n))
            return false;
        plan->timeout_ns = (uint64_t)(n * 1e6);
        return true;
    case METHOD:
        kind->method = value;
        return true;
    case PATH:
        kind->path = value;
        return value[0] == '/';
    case HEADER:
        return add_header(kind, value);
    case BODY:
        kind->body_file = value;
        return true;
    case SHARE:
        if (!number(value, 1, 1e4, &n))
            return false;
        kind->share = (unsigned)n;
        return true;
    case EXPECT:
        kind->expect = value;
        return true;
    case TEXT:
        kind->text = value;
        return true;
    case ABORT:
        if (!number(value, 0, 1e9, &n))
            return false;
        kind->aborts = true;
        kind->abort_after = (size_t)n;
        return true;
    case NEXT:
        if (plan->kind_count == LOAD_MAX_KINDS)
            return false;
        add_kind(plan);
        return true;
    }
    return false;
}

static bool find_address(char *host_port, struct load_plan *plan)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    char *colon = strrchr(host_port, ':');
    char *host = host_port;

    if (!colon)
        return false;
    *colon = '\0';
    size_t len = strlen(host);
    if (len > 2 && host[0] == '[' && host[len - 1] == ']') {
        host[len - 1] = '\0';
        host++;
    }
    return getaddrinfo(host, colon + 1, &hints, &plan->address) == 0;
}

int main(int argc, char **argv)
{
    static struct load_plan plan = {.seconds = 5, .connections = 64, .timeout_ns = 5000000000u};
    static struct load_tally tally;
    char why[256];
    int c, which = 0;

    add_kind(&plan);
    while ((c = getopt_long(argc, argv, "", options, &which)) != -1) {
        if (c == '?')
            return usage("options are wrong");
        if (!apply(&plan, (enum choice)c, optarg)) {
            snprintf(why, sizeof why, "--%s: not with \"%s\"", options[which].name,
                     optarg ? optarg : "more of them");
            return usage(why);
        }
    }
    char *target = optind == argc - 1 ? strdup(argv[optind]) : NULL;
    if (!target || !find_address(target, &plan))
        return usage("the last argument has to be HOST:PORT");
    for (unsigned i = 0; i < plan.kind_count; i++)
        if (!load_kind_build(&plan.kinds[i], argv[optind]))
            return 1;
    if (!load_run(&plan, &tally))
        return 1;
    load_report(stdout, &plan, &tally);
    freeaddrinfo(plan.address);
    free(target);
    return 0;
}
