/* GET /metrics: the Prometheus page. */
#include "server/metrics.h"
#include "server/reply.h"
#include "server/routes.h"

enum request_result api_metrics(struct request *rq)
{
    size_t len = 0;
    char *page = metrics_text(rq->app->metrics, &len);
    return reply_take(rq, 200, "text/plain; version=0.0.4; charset=utf-8", page, len);
}
