/* server_impl.h - what the files of the HTTP server share. */
#ifndef MAL_SERVER_IMPL_H
#define MAL_SERVER_IMPL_H

#include <microhttpd.h>
#include <stdarg.h>

#include "daemon/base/ids.h"
#include "daemon/http/server.h"

enum { MAL_SERVER_HEADERS_SET = 9 };

enum mal_phase {
    MAL_PHASE_IDLE,
    MAL_PHASE_RECEIVING,
    MAL_PHASE_WORKING,
    MAL_PHASE_SENDING,
    MAL_PHASE_WAITING /* a stream that has nothing to send */
};

struct mal_exchange;

/* A connection. */
struct mal_client {
    struct mal_client *prev, *next;
    struct MHD_Connection *connection;
    struct mal_exchange *exchange; /* the one of now; NULL */
    enum mal_phase phase;
    int64_t since_ms; /* the phase's beginning */
    bool cut;
    bool broken; /* its answer broke off; the library is still to close it */
    struct mal_peer from;
    uint64_t taken; /* bytes of its requests that have ended */
};

struct mal_header {
    char name[32], value[256];
};

/* A request and its answer. */
struct mal_exchange {
    struct mal_request pub; /* first: the request is the exchange */
    struct mal_server *server;
    struct MHD_Connection *connection;
    struct mal_client *client;
    bool begun, handled, suspended, drain, chunked, bad_uri;
    bool resting; /* a piece of the body is being worked on */
    char *path;
    char type[128];
    size_t capacity, uri_bytes, head_bytes;
    uint64_t declared; /* Content-Length; UINT64_MAX: none */
    uint64_t received;
    struct mal_receiver receiver;
    struct mal_header set[MAL_SERVER_HEADERS_SET];
    size_t n_set;
    bool answered;
    struct MHD_Response *response; /* NULL, though it is answered: out of memory */
    int status;
    struct mal_stream stream; /* next NULL: the answer is none */
    char *text;               /* of the stream, (text_bytes), sent up to text_at */
    size_t text_bytes, text_at;
};

struct mal_server {
    struct mal_server_options options;
    struct mal_loop *loop;
    struct MHD_Daemon *mhd;
    struct mal_client *clients;
    size_t n_exchanges, n_clients, n_broken;
    uint64_t n_accepted;
    struct mal_id_maker ids; /* of requests */
    bool quiet;              /* stopping */
    bool resumed;            /* the library does not wake its own descriptor for this */
};

static inline struct mal_exchange *mal_exchange_of(const struct mal_request *req) {
    return (struct mal_exchange *)req;
}

void mal_exchange_enter(struct mal_exchange *ex, enum mal_phase phase);
/* The suspended connection goes on, soon. */
void mal_exchange_resume(struct mal_exchange *ex);
/* Takes over `response`; NULL: out of memory, whatever the status. */
void mal_exchange_answer(struct mal_exchange *ex, int status, const char *type,
                         struct MHD_Response *response);

/* Gives the request its id: before anything can be refused. */
void mal_exchange_identify(struct mal_exchange *ex);
/* The headers are there: refuses what HTTP leaves open to smuggling and what is too
 * large, then asks the options' `begin` (server_framing.c). */
void mal_exchange_begin(struct mal_exchange *ex, const char *path, const char *method,
                        const char *version);

/* ---- Bodies (server_body.c) ---- */

uint64_t mal_exchange_max_body(const struct mal_exchange *ex);
/* The next bytes of the body; false: the connection ends. With `resting` it is to be
 * suspended. */
bool mal_exchange_take(struct mal_exchange *ex, const char *data, size_t bytes) MAL_CHECK;
/* Who worked on a piece is done, or has answered. */
void mal_exchange_rested(struct mal_exchange *ex);

/* The library's log: what it refuses itself is answered with a problem
 * (server_refusal.c). */
void mal_server_heard(void *arg, const char *format, va_list args);

int mal_exchange_socket(struct MHD_Connection *connection); /* -1: none */
/* The library takes no answer in the middle of a request, so this one is written past it,
 * as far as the socket takes it; the connection is closed right after. */
void mal_exchange_last_words(struct mal_exchange *ex, int status, const char *title,
                             const char *detail);
void mal_exchange_no_memory(struct mal_exchange *ex);
/* The same of a request that there is no exchange for; `client` NULL: nor that. */
void mal_server_last_words(struct mal_server *server, struct MHD_Connection *connection,
                           struct mal_client *client, int status, const char *title,
                           const char *detail);

#endif
