/* server.h - HTTP over libmicrohttpd, on the loop.
 *
 * A request reaches its handler whole (headers, then body, within the limits) and is
 * answered once, at once or later; until then its connection is suspended and the request
 * stays valid. What HTTP leaves open to smuggling is refused before anything else is
 * looked at. */
#ifndef MAL_SERVER_H
#define MAL_SERVER_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "daemon/http/peer.h"
#include "daemon/http/request_id.h"
#include "daemon/http/role.h"

struct mal_loop;
struct mal_server;

enum { MAL_MAX_PARAMS = 2, MAL_WHO_BYTES = 72 };

/* All members are borrowed from the request. */
struct mal_request {
    const char *method;       /* HEAD reads as GET: the body is left out below */
    bool head;                /* it is HEAD all the same */
    const char *path;         /* decoded, without the query */
    char *segments;           /* the same, for the router to cut up */
    const char *content_type; /* media type only, lower case; "" when not given */
    char *body;               /* with a closing zero; NULL when empty */
    size_t body_bytes;
    const char *param[MAL_MAX_PARAMS]; /* what stood for {..} in the path */
    const void *route;                 /* the router's */
    double began;                      /* seconds of a clock that only goes forward */
    bool bodiless; /* the call takes no body: the length of none need not be told */
    bool waits;    /* as long as the client asked for: its time says nothing */
    void *owner;   /* who has mal_request_receive() called */
    const struct mal_peer *peer;
    char who[MAL_WHO_BYTES]; /* the caller's name once it is checked; "" not known */
    enum mal_role role;      /* and what it may, */
    enum mal_role needed;    /* what it needs to, */
    uint64_t known_by;       /* and by which reading of the tokens */
    char id[MAL_REQUEST_ID_BYTES];     /* the client's X-Request-Id, or one of ours */
    char trace_id[MAL_TRACE_ID_BYTES]; /* of the client's traceparent; "" */
};

/* A header's or query parameter's value; NULL: not there. */
const char *mal_request_header(const struct mal_request *req, const char *name);
const char *mal_request_query(const struct mal_request *req, const char *name);

/* Whether Accept, in one header or several, takes one of `types` (accept.h). */
bool mal_request_accepts(const struct mal_request *req, const char *types);

/* The first query parameter that is not among `known` ("limit, after"; NULL: none is), or
 * is there a second time, or has no value; NULL: there is no such one. */
const char *mal_request_query_odd(const struct mal_request *req, const char *known);

/* Adds a header to the answer to come; at most 7, values up to 255 bytes. */
void mal_request_set(struct mal_request *req, const char *name, const char *value);
/* Loop thread only. Takes over `body` (from mal_malloc or mal_strdup; NULL: empty);
 * `type` may be NULL; with a type and no body it is a 503, out of memory. The request may
 * be gone when it returns. */
void mal_request_answer(struct mal_request *req, int status, const char *type, char *body,
                        size_t bytes);

/* The same with bytes [offset, offset + bytes) of an open file, of which it takes a
 * descriptor of its own; they are read as the client takes them. */
void mal_request_answer_file(struct mal_request *req, int status, const char *type,
                             int fd, uint64_t offset, uint64_t bytes);

/* What a stream has to send next. */
enum mal_stream_step {
    MAL_STREAM_TEXT, /* this */
    MAL_STREAM_WAIT, /* nothing yet: mal_request_wake() when there is something */
    MAL_STREAM_END,  /* that was all */
    MAL_STREAM_BREAK /* it will never be whole: the connection is closed */
};

/* A body that is made as the client takes it. All on the loop. */
struct mal_stream {
    /* Asked when all before has gone out, so that nothing piles up for a slow client.
     * Fills in `text` (from mal_malloc, handed over) and `bytes` (> 0) for
     * MAL_STREAM_TEXT. */
    enum mal_stream_step (*next)(void *arg, char **text, size_t *bytes);
    /* The request is gone: answered whole, or its client has left. Comes once in any
     * case, and nothing is asked after it. */
    void (*gone)(void *arg);
    void *arg;
};

/* The same with a stream; the request is valid until `gone`, which comes later. Of HEAD,
 * `next` is not asked. */
void mal_request_stream(struct mal_request *req, int status, const char *type,
                        const struct mal_stream *stream);
/* Its `next` is asked again, soon; does nothing while the client is busy taking. */
void mal_request_wake(struct mal_request *req);

/* A body that is not gathered but handed over while it arrives. */
struct mal_receiver {
    uint64_t max_bytes;
    /* The next 256 KiB or more are in the request's body. The connection rests until
     * mal_request_more(), or until the request is answered: then what is left of the body
     * is read and dropped. */
    void (*piece)(struct mal_request *req);
    /* The request ends with its owner still set: nobody has taken it over. */
    void (*gone)(struct mal_request *req);
};

/* In `begin` only. `handle` gets what is left after the last piece. */
void mal_request_receive(struct mal_request *req, const struct mal_receiver *receiver);
/* The piece has been taken. Loop thread only. */
void mal_request_more(struct mal_request *req);

struct mal_server_options {
    int listen_fd;      /* taken over on success */
    size_t max_body;    /* bytes */
    int64_t timeout_ms; /* for receiving a whole request, and for sending the answer; of a
                         * file or a body in pieces, for each 256 KiB of it, of a
                         * stream, for each text */
    unsigned max_connections, max_per_address; /* of TCP; 0: no limit */
    void *arg;
    /* The headers are there. May answer already (refuse); the body is then not waited
     * for. */
    void (*begin)(void *arg, struct mal_request *req);
    /* The whole request is there and `begin` has not answered it. */
    void (*handle)(void *arg, struct mal_request *req);
    /* Answers with a problem of this status: what the server itself refuses. */
    void (*refuse)(void *arg, struct mal_request *req, int status, const char *detail);
    /* An answer goes out, or a request that never arrived whole is cut off with one. */
    void (*answered)(void *arg, const struct mal_request *req, int status);
};

bool mal_server_start(struct mal_server **out, struct mal_loop *loop,
                      const struct mal_server_options *options,
                      struct mal_error *err) MAL_CHECK;
/* To be called a few times a second: ends connections past their deadline. */
void mal_server_sweep(struct mal_server *server);
/* Accepts no more connections; the ones there go on, but streams whose clients take
 * nothing are cut. Whoever streams is to come to an end. */
void mal_server_quiesce(struct mal_server *server);
size_t mal_server_connections(const struct mal_server *server); /* open now */
uint64_t mal_server_accepted(const struct mal_server *server);  /* ever */
/* Requests begun and not yet answered to the last byte. */
size_t mal_server_requests(const struct mal_server *server);
/* Every request must have been answered. Takes NULL. */
void mal_server_stop(struct mal_server *server);

#endif
