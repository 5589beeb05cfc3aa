/*
 * Inside the HTTP daemon: the connections, the request that each is busy with, and the guard, a
 * thread that ends slow connections and notices clients that leave while their request is computed.
 *
 * libmicrohttpd's own timeout only counts silence, so one byte a second holds a connection for
 * ever, and a suspended connection is not looked at at all. The guard therefore watches the sockets
 * beside the library. It may call shutdown() on them, never close(): the library tells
 * conn_closed() before it closes a descriptor, and both run under the table's lock.
 */
#ifndef CONVD_SERVER_HTTP_CONN_H
#define CONVD_SERVER_HTTP_CONN_H

#include "server/http.h"
#include "server/inflate.h"
#include "server/request.h"

#include <convd/status.h>

#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>

#define HEADER_LIMIT_MS         10000u /* from the first byte to the end of the header */
#define BODY_LIMIT_MS           30000u
#define BODY_GRACE_MS           5000u /* from then on a body must come at this rate on average */
#define BODY_BYTES_PER_S        1024u
#define DRAIN_LIMIT_MS          5000u /* a body that is read only to be thrown away */
#define DRAIN_LIMIT_BYTES       (64u << 20)
#define WRITE_LIMIT_MS          30000u
#define SURPLUS_IDLE_MS         2000u  /* a connection beyond max-connections that asks nothing */
#define ADMIN_CONNECTIONS       64u    /* of the daemon on admin-listen */
#define CONNECTION_MEMORY_BYTES 32768u /* also the limit of a request header */

/* What a connection is doing, as far as the guard is concerned. */
enum conn_phase {
    CONN_IDLE,  /* no complete request header */
    CONN_BODY,  /* the body is arriving */
    CONN_DRAIN, /* it is thrown away, the reply is known */
    CONN_WORK,  /* with a handler */
    CONN_WRITE, /* the reply is being sent */
    CONN_ENDED  /* the guard has ended it: nothing more is sent */
};

/* Where the request is in the library's sequence of handler calls. */
enum conn_stage {
    STAGE_NONE,      /* no handler call yet */
    STAGE_RECEIVING, /* the body goes into the buffer */
    STAGE_DRAINING,  /* the reply is known, the body is thrown away */
    STAGE_DEFERRED,  /* suspended; the next call finds the reply */
    STAGE_REPLIED
};

struct http_body {
    char *data;
    size_t len, room;
    struct inflater *inflater; /* NULL: as received */
};

struct conn {
    struct http *http;
    struct http_loop *loop; /* its I/O thread */
    unsigned index, generation;
    int fd;
    struct in6_addr address; /* IPv4 within IPv6 */
    struct conn *next_free;
    bool live;
    bool surplus; /* came when max-connections were there already */
    bool monitored;
    atomic_bool peer_gone; /* the client has closed its side */
    atomic_bool gone;      /* nobody waits for answers: that, or the server stops */

    /* What it does and since when, in one word, so that the guard's decision and an I/O thread's
     * next step exclude each other. */
    _Atomic uint64_t phase_word;
    atomic_size_t received; /* body bytes of this request */

    /* The guard's notes on an idle connection: its phase word, the bytes it had received when that
     * began, and when more were seen. */
    uint64_t idle_word, idle_bytes, header_ms;

    /* The request; touched by the connection's I/O thread, or by whoever works on it while the
     * connection is suspended. */
    struct MHD_Connection *con;
    enum conn_stage stage;
    bool close;       /* answer with Connection: close */
    bool is_work;     /* counted in http.work */
    bool client_left; /* before the reply was sent */

    /* While the request is deferred; see http_loop.c. */
    bool answered, suspended, orphan;
    unsigned looks;
    uint64_t more_round; /* of its loop, that leaves more to do for the next */
    struct conn *next_deferred, *next_finished;

    struct request rq;
    struct http_body body;
    size_t reply_len;
    bool composed;
    struct MHD_Response *response;
    int outcome; /* what it came to, once it is over: a status, 0 when nobody was there to hear it
                  */
    const char *outcome_code;
    uint64_t total_ns;
    bool to_clear; /* listed in loop.to_clear */
    struct conn *next_to_clear;
    uint64_t timeout_ns;
    char *uri; /* the path, then the query, then room for the captures; uri_inline or the pool's */
    char *query; /* inside uri, or NULL */
    char *scratch;
    char client[INET6_ADDRSTRLEN]; /* empty until a log line has needed it */
    char uri_inline[384];
};

struct http_loop {
    struct http *http;
    struct MHD_Daemon *daemon;
    pthread_t thread;
    bool running;
    int epoll, wake;                       /* the library's sockets and `wake` are watched there */
    struct conn *deferred, *last_deferred; /* in this round, not yet handed over */
    unsigned deferred_count;
    struct conn *to_clear, *last_to_clear; /* whose requests are over */
    unsigned blocked;                      /* deferred, neither answered nor suspended */
    bool impatient;                        /* nothing else happens: suspends what is blocked */
    uint64_t round;
    unsigned more;     /* connections that this round leaves more to do for */
    unsigned vain;     /* rounds that the library wanted at once, without news between */
    uint64_t pause_ns; /* before the next one */
    atomic_bool stop, asleep;
    _Atomic(struct conn *) finished; /* newest first */
};

struct http {
    struct app *app;
    enum http_role role;
    struct http_loop *loops;
    unsigned loop_count;
    int listen_fd;
    char address[80];
    unsigned max_connections; /* as far as the descriptors go */
    unsigned table_size;      /* libmicrohttpd's limit: some more, to answer 503 on */
    uint64_t id_seed;
    atomic_uint_fast64_t id_count;

    pthread_mutex_t lock; /* the table */
    struct conn *conns, *free_conns;
    unsigned used; /* slots that were ever in use */
    atomic_uint live;

    atomic_uint open;     /* requests begun and not completed */
    atomic_uint work;     /* those of them that carry work and were not refused at once */
    atomic_uint busy;     /* those with a handler, deferred ones included */
    atomic_bool stopping; /* no request is given to a handler any more */
    atomic_size_t body_bytes;

    pthread_t guard;
    bool guard_running;
    int guard_epoll, guard_wake;
    uint64_t attentive_ms; /* since when the guard has swept without a gap */
};

/* ---- http_conn.c: the table ---- */

/* A new connection's entry, or NULL when the table is full. */
struct conn *conn_opened(struct http_loop *l, int fd, const struct sockaddr *address);
/* The entry is free from here on, unless its request is an orphan; then from conn_buried() on. */
void conn_closed(struct conn *c);
void conn_buried(struct conn *c);
unsigned conn_count_from(struct http *h, const struct sockaddr *address);

/* False when the guard has ended the connection. */
bool conn_enter(struct conn *c, enum conn_phase phase);

/* A phase word: milliseconds of the monotonic clock, a step count, a phase. The count tells two
 * phases within one millisecond apart. */
#define CONN_PHASE_BITS 3
#define CONN_STEP_BITS  21
static inline enum conn_phase conn_word_phase(uint64_t word)
{
    return (enum conn_phase)(word & ((1u << CONN_PHASE_BITS) - 1));
}
static inline uint64_t conn_word_ms(uint64_t word)
{
    return word >> (CONN_PHASE_BITS + CONN_STEP_BITS);
}

/* Has the guard look whether the client stays, from here to the end of the connection. */
void conn_monitor(struct conn *c);

/* Ends a connection from its own I/O thread, with the reply's status and code as a last word past
 * the library. */
void conn_cut(struct conn *c, const char *message);

/* ---- http_loop.c: the I/O threads ---- */

/* Runs l->daemon. */
enum cvd_status loop_start(struct http_loop *l, struct cvd_error *err);
/* Ends the thread and the daemon; every deferred request must have been finished. */
void loop_stop(struct http_loop *l);
/* Inside a handler call: there will be an answer later, perhaps not soon. */
void loop_defer(struct conn *c, bool for_long);
/* Inside a handler call: more is likely to happen on the connection at once, as after a piece of a
 * body; or that is over. */
void loop_more(struct conn *c);
void loop_no_more(struct conn *c);
/* A request was refused for a backlog of so much time. */
void loop_overloaded(struct http_loop *l, uint64_t backlog_ns);
/* Inside the calls that follow: whether it is there. */
bool loop_has_answer(struct conn *c);
/* The library closes the connection: whether its request is still with others. Then it is finished
 * (http_finish) when they are done with it. */
bool loop_abandon(struct conn *c);
/* Has http_clear() called when the library has done its round, and replies are on their way; or
 * now, when the connection has something new to do. */
void loop_clear_later(struct conn *c);
void loop_clear_now(struct conn *c);
/* From any thread: the request has its answer, and may be gone at once; `next` is another that this
 * thread finishes directly afterwards, or NULL. */
void loop_finish(struct conn *c, const struct conn *next);

/* ---- http_guard.c ---- */
enum cvd_status guard_start(struct http *h, struct cvd_error *err);
void guard_stop(struct http *h);
/* Writes a complete reply straight to the socket, as far as it takes it at once. */
void guard_last_word(int fd, int status, const char *code, const char *message);

/* ---- http_body.c ---- */
enum body_result { BODY_OK, BODY_TOO_LARGE, BODY_CORRUPT, BODY_NO_MEMORY };
void body_begin(struct conn *c, uint64_t expected_len);
enum body_result body_add(struct conn *c, const char *data, size_t len);
void body_free(struct conn *c);

/* ---- http_listen.c ---- */

/* Opens the listening socket and fills h->address. */
enum cvd_status listen_open(struct http *h, const char *address, struct cvd_error *err);
/* Settles max_connections and table_size, for data by what RLIMIT_NOFILE allows. */
enum cvd_status listen_limits(struct http *h, struct cvd_error *err);

/* ---- http_request.c: libmicrohttpd's callbacks for one request ---- */
void *http_uri_seen(void *cls, const char *uri, struct MHD_Connection *con);
enum MHD_Result http_access(void *cls, struct MHD_Connection *con, const char *url,
                            const char *method, const char *version, const char *upload_data,
                            size_t *upload_data_size, void **con_cls);

/* ---- http_reply.c ---- */

/* Makes c->response of c->rq.reply. */
void http_compose(struct conn *c);
/* Queues it. */
enum MHD_Result http_send(struct conn *c);
/* The request is over, answered or not: its metrics. */
void http_finish(struct conn *c, enum MHD_RequestTerminationCode how);
/* And afterwards: its log line and memory. */
void http_clear(struct conn *c);

#endif
