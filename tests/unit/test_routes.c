/* Routes: what matches, what is captured, what is malformed; query strings. */
#include "server/routes.h"
#include "server/uri.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static char scratch[1024];
static const char *captures[REQUEST_MAX_CAPTURES];

/* The pattern that a path finds, "none" or "malformed". */
static const char *match(const char *path)
{
    const struct route *route;

    if (!routes_match(path, scratch, &route, captures))
        return "malformed";
    return route ? route->pattern : "none";
}

Test(routes, literals)
{
    cr_expect_str_eq(match("/"), "/");
    cr_expect_str_eq(match("/classify"), "/classify");
    cr_expect_str_eq(match("/models"), "/models");
    cr_expect_str_eq(match("/livez"), "/livez");
    cr_expect_str_eq(match("/readyz"), "/readyz");
    cr_expect_str_eq(match("/healthz"), "/healthz");
    cr_expect_str_eq(match("/ping"), "/ping");
    cr_expect_str_eq(match("/metrics"), "/metrics");
    cr_expect_null(captures[0]);
}

Test(routes, captures_are_decoded)
{
    cr_expect_str_eq(match("/classify/lenet5"), "/classify/*");
    cr_expect_str_eq(captures[0], "lenet5");
    cr_expect_null(captures[1]);
    cr_expect_str_eq(match("/classify/a%20b%2Fc/12"), "/classify/*/*");
    cr_expect_str_eq(captures[0], "a b/c");
    cr_expect_str_eq(captures[1], "12");
    cr_expect_null(captures[2]);
    cr_expect_str_eq(match("/models/caf%c3%A9+x"), "/models/*");
    cr_expect_str_eq(captures[0], "caf\xc3\xa9+x", "'+' is a space in queries only");
    cr_expect_str_eq(match("/models"), "/models");
    cr_expect_null(captures[0], "nothing is left of an earlier match");
}

Test(routes, one_trailing_slash_is_tolerated)
{
    cr_expect_str_eq(match("/livez/"), "/livez");
    cr_expect_str_eq(match("/classify/lenet5/"), "/classify/*");
    cr_expect_str_eq(captures[0], "lenet5");
    cr_expect_str_eq(match("/livez//"), "none");
    cr_expect_str_eq(match("//"), "none");
    cr_expect_str_eq(match("/classify/a//"), "none");
}

Test(routes, nothing_is_normalised)
{
    cr_expect_str_eq(match("//livez"), "none");
    cr_expect_str_eq(match("/./livez"), "none");
    cr_expect_str_eq(match("/models/../livez"), "none");
    cr_expect_str_eq(match("/LIVEZ"), "none");
    cr_expect_str_eq(match("/%6civez"), "none", "an encoded spelling of a literal");
    cr_expect_str_eq(match("/live"), "none");
    cr_expect_str_eq(match("/livezz"), "none");
    cr_expect_str_eq(match("/classify/a/b/c"), "none");
    cr_expect_str_eq(match("/classify//b"), "none");
    cr_expect_str_eq(match(""), "none");
}

Test(routes, malformed_escapes_are_refused_on_every_path)
{
    static const char *const bad[] = {
        "/models/%",   "/models/%4",  "/models/%zz", "/nothing/%g0", "/models/a%00",
        "/models/%0a", "/models/%1F", "/models/%7f", "/x\x01",       "/models/%4\xff"};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_str_eq(match(bad[i]), "malformed", "%s", bad[i]);
}

Test(routes, scratch_of_the_paths_size_is_enough)
{
    const char *path = "/classify/a/b";
    char tight[16];
    const struct route *route;

    memset(tight, '#', sizeof tight);
    cr_assert(routes_match(path, tight, &route, captures));
    for (size_t i = strlen(path) + 1; i < sizeof tight; i++)
        cr_expect_eq(tight[i], '#');
}

Test(routes, table)
{
    for (size_t i = 0; i < routes_count; i++) {
        const struct route *r = &routes[i];
        cr_expect_not_null(r->handler);
        for (size_t j = 0; j < i; j++)
            cr_expect_str_neq(r->label, routes[j].label, "labels are series of the metrics");
        /* The Allow header says what the bits say. */
        cr_expect_eq(strstr(r->allow, "GET") != NULL, (r->methods & METHOD_GET) != 0);
        cr_expect_eq(strstr(r->allow, "HEAD") != NULL, (r->methods & METHOD_HEAD) != 0);
        cr_expect_eq(strstr(r->allow, "POST") != NULL, (r->methods & METHOD_POST) != 0);
        cr_expect_eq(strstr(r->allow, "PUT") != NULL, (r->methods & METHOD_PUT) != 0);
        cr_expect_eq((r->methods & METHOD_GET) != 0, (r->methods & METHOD_HEAD) != 0);
        cr_expect_eq(r->takes_body, (r->methods & METHOD_POST) != 0);
    }
}

/* ---- queries ---- */

static struct request query(const char *text, bool expected)
{
    static char buf[256];
    struct request rq = {0};

    snprintf(buf, sizeof buf, "%s", text);
    cr_expect_eq(uri_query(buf, rq.query, REQUEST_MAX_QUERY, &rq.query_count), expected, "%s",
                 text);
    return rq;
}

Test(query, pairs)
{
    struct request rq = query("top_k=5&model=a%26b+c&verbose&&empty=", true);

    cr_expect_eq(rq.query_count, 4);
    cr_expect_str_eq(request_query(&rq, "top_k"), "5");
    cr_expect_str_eq(request_query(&rq, "model"), "a&b c");
    cr_expect_str_eq(request_query(&rq, "verbose"), "");
    cr_expect_str_eq(request_query(&rq, "empty"), "");
    cr_expect_null(request_query(&rq, "top"));
    rq = query("", true);
    cr_expect_eq(rq.query_count, 0);
    rq = query("a=1&a=2", true);
    cr_expect_str_eq(request_query(&rq, "a"), "1", "the first one counts");
    rq = query("a=b=c", true);
    cr_expect_str_eq(request_query(&rq, "a"), "b=c");
}

Test(query, malformed)
{
    query("a=%", false);
    query("%zz=1", false);
    query("a=%00", false);
    query("a=%0A", false);
    query("1&2&3&4&5&6&7&8&9&10&11&12&13&14&15&16", true);
    query("1&2&3&4&5&6&7&8&9&10&11&12&13&14&15&16&17", false);
}
