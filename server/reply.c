/* Every response body of convd is put into its request here. */
#include "server/reply.h"

#include "server/pool.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char no_memory_text[] =
    "{\"error\":{\"code\":\"out_of_memory\",\"message\":\"out of memory\"}}\n";

static enum request_result fill(struct request *rq, int status, const char *content_type,
                                char *body, size_t len, bool is_static)
{
    struct reply *reply = &rq->reply;

    if (!reply->body_is_static)
        pool_free(reply->body);
    reply->status = status;
    reply->content_type = content_type;
    reply->body = body;
    reply->body_len = len;
    reply->body_is_static = is_static;
    return REQUEST_DONE;
}

enum request_result reply_static(struct request *rq, int status, const char *content_type,
                                 const char *body, size_t len)
{
    /* Nobody writes to or frees a static body: the cast keeps struct reply to one pointer. */
    return fill(rq, status, content_type, (char *)(uintptr_t)body, len, true);
}

enum request_result reply_take(struct request *rq, int status, const char *content_type, char *body,
                               size_t len)
{
    if (!body) {
        rq->reply.error_code = "out_of_memory";
        rq->reply.retry_after = 1;
        return reply_static(rq, 503, "application/json", no_memory_text, sizeof no_memory_text - 1);
    }
    return fill(rq, status, content_type, body, len, false);
}

enum request_result reply_json_take(struct request *rq, int status, char *text, size_t len)
{
    return reply_take(rq, status, "application/json", text, len);
}

enum request_result reply_error(struct request *rq, int status, const char *code,
                                const char *format, ...)
{
    struct text body = {0};
    char message[512];
    va_list args;

    va_start(args, format);
    if (vsnprintf(message, sizeof message, format, args) < 0)
        message[0] = '\0';
    va_end(args);
    text_puts(&body, "{\"error\":{\"code\":");
    text_json_string(&body, code);
    text_puts(&body, ",\"message\":");
    text_json_string(&body, message);
    if (rq->id[0]) {
        text_puts(&body, ",\"request_id\":");
        text_json_string(&body, rq->id);
    }
    text_puts(&body, "}}\n");
    if (body.failed)
        return reply_take(rq, status, NULL, NULL, 0);
    rq->reply.error_code = code;
    return fill(rq, status, "application/json", body.data, body.len, false);
}

enum request_result reply_busy(struct request *rq, const char *code, const char *message)
{
    unsigned hash = 2166136261u; /* FNV-1a of the request id: one to three seconds */

    for (const char *p = rq->id; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    rq->reply.retry_after = 1 + (hash >> 8) % 3;
    return reply_error(rq, 503, code, "%s", message);
}
