/* Fills replies: every response body of convd is made through this file. */
#ifndef CONVD_SERVER_REPLY_H
#define CONVD_SERVER_REPLY_H

#include "server/request.h"

#include <convd/status.h>

/* {"error":{"code":"…","message":"…","request_id":"…"}}; the message is escaped. Without
 * memory for it the answer is 503 out_of_memory, a fixed text. Returns REQUEST_DONE so that a
 * handler can return it. */
enum request_result reply_error(struct request *rq, int status, const char *code,
                                const char *format, ...) __attribute__((format(printf, 4, 5)));

/* 503 with Retry-After (1 to 3 seconds, spread so that clients do not come back together). */
enum request_result reply_busy(struct request *rq, const char *code, const char *message);

/* Takes ownership of a JSON text, the data of a struct text. */
enum request_result reply_json_take(struct request *rq, int status, char *text, size_t len);

/* A body that lives for ever. */
enum request_result reply_static(struct request *rq, int status, const char *content_type,
                                 const char *body, size_t len);

/* The same for a text of another type. */
enum request_result reply_take(struct request *rq, int status, const char *content_type, char *body,
                               size_t len);

/*
 * A growing text, in pool.h's memory, for composing replies; on want of memory it turns `failed`
 * and stays empty. text_json_string() writes a quoted, escaped JSON string; invalid UTF-8 becomes
 * U+FFFD.
 */
struct text {
    char *data;
    size_t len, room;
    bool failed;
};
void text_append(struct text *t, const char *data, size_t len);
void text_puts(struct text *t, const char *string);
void text_printf(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_json_string(struct text *t, const char *string);
/* The fewest digits, six to nine, that give the same float; "null" when it is not finite. */
void text_json_number(struct text *t, double value);
void text_free(struct text *t);

#endif
