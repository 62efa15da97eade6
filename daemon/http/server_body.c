/* server_body.c - bodies: gathered whole, or handed over in pieces while they arrive. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "daemon/http/server_impl.h"

enum { PIECE_SHIFT = 18 }; /* of 256 KiB */

int mal_exchange_socket(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? (int)info->connect_fd : -1;
}

void mal_exchange_last_words(struct mal_exchange *ex, int status, const char *title,
                             const char *detail) {
    const struct mal_server_options *o = &ex->server->options;
    bool no_memory = status == MHD_HTTP_SERVICE_UNAVAILABLE;
    char body[256], text[768];
    if (!ex->begun) mal_exchange_identify(ex); /* with what has come of its headers */
    int n = snprintf(body, sizeof body,
                     "{\"type\":\"%s\",\"title\":\"%s\",\"status\":%d,\"detail\":\"%s\"}",
                     no_memory ? "urn:malmend:problem:no-memory" : "about:blank",
                     no_memory ? "out of memory" : title, status, detail);
    int m = snprintf(text, sizeof text,
                     "HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\n"
                     "Content-Length: %d\r\nX-Request-Id: %s\r\n%sConnection: "
                     "close\r\n\r\n%s",
                     status, title, n, ex->pub.id, no_memory ? "Retry-After: 1\r\n" : "",
                     ex->pub.head ? "" : body);
    o->answered(o->arg, &ex->pub, status);
    int fd = mal_exchange_socket(ex->connection);
    if (fd < 0) return;
    (void)send(fd, text, (size_t)m, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
}

void mal_exchange_no_memory(struct mal_exchange *ex) {
    mal_exchange_last_words(ex, MHD_HTTP_SERVICE_UNAVAILABLE, "Service Unavailable",
                            "out of memory");
}

void mal_server_last_words(struct mal_server *server, struct MHD_Connection *connection,
                           struct mal_client *client, int status, const char *title,
                           const char *detail) {
    static const struct mal_peer nobody = {.uid = -1, .origin = "unknown"};
    struct mal_exchange unknown = {
        .server = server,
        .connection = connection,
        .client = client,
        .pub = {.method = "",
                .path = "",
                .peer = client ? &client->from : &nobody,
                .began = mal_clock_seconds()},
    };
    mal_exchange_last_words(&unknown, status, title, detail);
}

uint64_t mal_exchange_max_body(const struct mal_exchange *ex) {
    return ex->receiver.piece ? ex->receiver.max_bytes : ex->server->options.max_body;
}

static bool keep(struct mal_exchange *ex, const char *data, size_t bytes) {
    struct mal_request *req = &ex->pub;
    size_t need = req->body_bytes + bytes + 1;
    if (need > ex->capacity) {
        size_t capacity = ex->capacity ? ex->capacity : 4096;
        while (capacity < need)
            capacity *= 2;
        char *body = mal_realloc(req->body, capacity);
        if (!body) {
            mal_exchange_no_memory(ex);
            return false;
        }
        req->body = body;
        ex->capacity = capacity;
    }
    memcpy(req->body + req->body_bytes, data, bytes);
    req->body_bytes += bytes;
    req->body[req->body_bytes] = 0;
    return true;
}

bool mal_exchange_take(struct mal_exchange *ex, const char *data, size_t bytes) {
    struct mal_request *req = &ex->pub;
    uint64_t before = ex->received, max = mal_exchange_max_body(ex);
    bool in_pieces = ex->receiver.piece != NULL;
    ex->received += bytes;
    if (ex->received > max) {
        char detail[96];
        snprintf(detail, sizeof detail, "the body is larger than %llu bytes",
                 (unsigned long long)max);
        mal_exchange_last_words(ex, MHD_HTTP_CONTENT_TOO_LARGE, "Content Too Large",
                                detail);
        return false;
    }
    /* Such a body may take as long as it does, but must go on, also if it is drained. */
    if (in_pieces && before >> PIECE_SHIFT != ex->received >> PIECE_SHIFT)
        mal_exchange_enter(ex, MAL_PHASE_RECEIVING);
    if (ex->answered) return true; /* refused: drained */
    if (!keep(ex, data, bytes)) return false;
    if (!in_pieces || req->body_bytes >> PIECE_SHIFT == 0) return true;
    ex->resting = true;
    mal_exchange_enter(ex, MAL_PHASE_WORKING);
    ex->receiver.piece(req);
    return true;
}

void mal_exchange_rested(struct mal_exchange *ex) {
    if (!ex->resting) return;
    ex->resting = false;
    mal_exchange_enter(ex, MAL_PHASE_RECEIVING);
}

void mal_request_receive(struct mal_request *req, const struct mal_receiver *receiver) {
    mal_exchange_of(req)->receiver = *receiver;
}

void mal_request_more(struct mal_request *req) {
    struct mal_exchange *ex = mal_exchange_of(req);
    req->body_bytes = 0;
    mal_exchange_rested(ex);
    if (ex->suspended) mal_exchange_resume(ex);
}
