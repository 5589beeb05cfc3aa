/*
 * Request bodies: one growing buffer each, inflated on the way in when the client compressed it,
 * never beyond max-body, all of them together never beyond max-queue-bytes.
 */
#include "server/http_conn.h"

#include "server/config.h"
#include "server/pool.h"

#include <string.h>

/* What a client announces is believed up to here; beyond it the buffer grows with what comes. */
#define FIRST_ROOM_BYTES (256u << 10)
#define LEAST_ROOM_BYTES 1024u

/* Takes `more` bytes from the budget of all bodies; a body that is alone always fits. */
static bool charge(struct conn *c, size_t more)
{
    struct http *h = c->http;
    size_t before = atomic_fetch_add(&h->body_bytes, more);

    if (before <= c->body.room || before + more <= h->app->config->max_queue_bytes)
        return true;
    atomic_fetch_sub(&h->body_bytes, more);
    return false;
}

static enum body_result grow(struct conn *c, size_t room)
{
    struct http_body *b = &c->body;
    size_t more = room - b->room;

    if (!charge(c, more))
        return BODY_NO_MEMORY;
    char *data = pool_grow(b->data, b->len, room);
    if (!data) {
        atomic_fetch_sub(&c->http->body_bytes, more);
        return BODY_NO_MEMORY;
    }
    b->data = data;
    b->room = room;
    return BODY_OK;
}

void body_begin(struct conn *c, uint64_t expected_len)
{
    struct http_body *b = &c->body;

    /* Without memory for it now, body_add() says so. */
    if (expected_len > 0 && !b->inflater)
        (void)grow(c, expected_len < FIRST_ROOM_BYTES ? (size_t)expected_len : FIRST_ROOM_BYTES);
}

static enum body_result append(struct conn *c, const char *data, size_t len)
{
    struct http_body *b = &c->body;
    size_t limit = c->http->app->config->max_body;

    if (len > limit - b->len)
        return BODY_TOO_LARGE;
    if (len > b->room - b->len) {
        size_t need = b->len + len, room = b->room * 2;
        if (room < LEAST_ROOM_BYTES)
            room = LEAST_ROOM_BYTES;
        if (room < need)
            room = need;
        if (room > limit)
            room = limit;
        enum body_result rc = grow(c, room);
        if (rc != BODY_OK)
            return rc;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
    return BODY_OK;
}

struct sink {
    struct conn *c;
    enum body_result result;
};

static bool inflated(void *cookie, const void *bytes, size_t len)
{
    struct sink *sink = cookie;

    sink->result = append(sink->c, bytes, len);
    return sink->result == BODY_OK;
}

enum body_result body_add(struct conn *c, const char *data, size_t len)
{
    struct sink sink = {.c = c, .result = BODY_OK};

    if (!c->body.inflater)
        return append(c, data, len);
    switch (inflate_add(c->body.inflater, data, len, inflated, &sink)) {
    case INFLATE_CORRUPT:
        return BODY_CORRUPT;
    case INFLATE_NO_MEMORY:
        return BODY_NO_MEMORY;
    case INFLATE_OK:
    case INFLATE_STOPPED:
        break;
    }
    return sink.result;
}

void body_free(struct conn *c)
{
    atomic_fetch_sub(&c->http->body_bytes, c->body.room);
    pool_free(c->body.data);
    inflate_destroy(c->body.inflater);
    c->body = (struct http_body){0};
}
