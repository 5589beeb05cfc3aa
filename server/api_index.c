/* GET /: the web page for browsers, a sign of life for everything else. */
#include "server/reply.h"
#include "server/routes.h"

#include <string.h>
#include <strings.h>

extern const char web_page_bytes[], web_page_end[]; /* web/page.S */

enum request_result api_index(struct request *rq)
{
    static const char alive[] = "{\"status\":\"alive\"}\n";

    if (strcasestr(rq->accept, "text/html"))
        return reply_static(rq, 200, "text/html; charset=utf-8", web_page_bytes,
                            (size_t)(web_page_end - web_page_bytes));
    return reply_static(rq, 200, "application/json", alive, sizeof alive - 1);
}
