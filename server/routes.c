/* The route table and path matching; no HTTP library in sight. */
#include "server/routes.h"

#include "server/uri.h"

#include <string.h>

#define GET_ONLY  METHOD_GET | METHOD_HEAD, "GET, HEAD", false, false, NULL
#define ADMIN_GET METHOD_GET | METHOD_HEAD, "GET, HEAD", false, true, NULL
#define CLASSIFY  METHOD_POST | METHOD_PUT, "POST, PUT", true, false, api_classify_is_busy

const struct route routes[] = {
    {"/", "/", GET_ONLY, api_index},
    {"/classify", "/classify", CLASSIFY, api_classify},
    {"/classify/*", "/classify/{model}", CLASSIFY, api_classify},
    {"/classify/*/*", "/classify/{model}/{version}", CLASSIFY, api_classify},
    {"/models", "/models", ADMIN_GET, api_models},
    {"/models/*", "/models/{model}", ADMIN_GET, api_model},
    {"/livez", "/livez", ADMIN_GET, api_livez},
    {"/readyz", "/readyz", ADMIN_GET, api_readyz},
    {"/healthz", "/healthz", ADMIN_GET, api_readyz},
    {"/ping", "/ping", ADMIN_GET, api_ping},
    {"/metrics", "/metrics", ADMIN_GET, api_metrics},
};
const size_t routes_count = sizeof routes / sizeof *routes;

struct span {
    const char *start;
    size_t len;
};

static bool match(const char *pattern, const char *path, struct span *spans)
{
    const char *begin = path;

    for (; *pattern; pattern++) {
        if (*pattern != '*') {
            if (*pattern != *path)
                return false;
            path++;
            continue;
        }
        size_t len = strcspn(path, "/");
        if (len == 0)
            return false;
        *spans++ = (struct span){path, len};
        path += len;
    }
    /* One slash too many at the end is a common slip; "//" is something else. */
    if (path[0] == '/' && path[1] == '\0' && path > begin && path[-1] != '/')
        path++;
    return *path == '\0';
}

bool routes_match(const char *path, char *scratch, const struct route **route,
                  const char *captures[REQUEST_MAX_CAPTURES])
{
    struct span spans[REQUEST_MAX_CAPTURES] = {{0}};

    *route = NULL;
    for (unsigned i = 0; i < REQUEST_MAX_CAPTURES; i++)
        captures[i] = NULL;
    /* Literal segments are compared undecoded, so that a path has one spelling for us and for
     * whatever filters paths in front of us. The escapes must be well-formed all the same. */
    strcpy(scratch, path);
    if (!uri_decode(scratch, false))
        return false;
    for (size_t i = 0; i < routes_count && !*route; i++) {
        memset(spans, 0, sizeof spans);
        if (match(routes[i].pattern, path, spans))
            *route = &routes[i];
    }
    if (!*route)
        return true;
    for (unsigned i = 0; i < REQUEST_MAX_CAPTURES && spans[i].len; i++) {
        memcpy(scratch, spans[i].start, spans[i].len);
        scratch[spans[i].len] = '\0';
        if (!uri_decode(scratch, false))
            return false;
        captures[i] = scratch;
        scratch += spans[i].len + 1;
    }
    return true;
}
