/* server.c - connections, framing, deadlines: libmicrohttpd in external epoll mode.
 *
 * After every MHD_run() the library is asked when it wants to run again: its epoll
 * descriptor does not say that bytes already read wait for processing, and large bodies
 * would hang. */
#include "daemon/server.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <microhttpd.h>

#include "core/alloc.h"
#include "daemon/loop.h"

enum {
    MAX_HEADERS_SET = 6,
    MAX_URI = 8 << 10,
    MAX_HEADER_BYTES = 32 << 10,
    CONNECTION_MEMORY =
        128 << 10,          /* above the two limits, so that they are ours to refuse */
    DRAIN_BYTES = 64 << 10, /* a refused body up to this size is read and dropped */
    FILE_BLOCK = 256 << 10
};

enum phase { IDLE, RECEIVING, WORKING, SENDING };

struct peer {
    struct peer *prev, *next;
    struct MHD_Connection *connection;
    enum phase phase;
    int64_t since_ms; /* the phase's beginning */
    bool cut;
};

struct header {
    char name[32], value[256];
};

struct exchange {
    struct mal_request pub; /* first: the request is the exchange */
    struct mal_server *server;
    struct MHD_Connection *connection;
    struct peer *peer;
    bool begun, handled, suspended, drain, chunked, bad_uri;
    char *path;
    char type[128];
    size_t capacity, uri_bytes;
    uint64_t declared; /* Content-Length */
    struct header set[MAX_HEADERS_SET];
    size_t n_set;
    struct MHD_Response *response;
    int status;
};

struct mal_server {
    struct mal_server_options options;
    struct mal_loop *loop;
    struct MHD_Daemon *mhd;
    struct peer *peers;
    size_t n_exchanges;
    bool resumed; /* the library does not wake its own descriptor for this */
};

static struct exchange *exchange_of(const struct mal_request *req) {
    return (struct exchange *)req;
}

static void run(void *arg) {
    struct mal_server *server = arg;
    MHD_UNSIGNED_LONG_LONG ms;
    do {
        server->resumed = false;
        MHD_run(server->mhd);
    } while (server->resumed);
    bool due = MHD_get_timeout(server->mhd, &ms) == MHD_YES;
    mal_loop_alarm(server->loop, due ? (int64_t)ms : -1);
}

static void enter(struct exchange *ex, enum phase phase) {
    if (!ex->peer) return;
    ex->peer->phase = phase;
    ex->peer->since_ms = mal_monotonic_ms();
}

/* ---- What handlers call ---- */

const char *mal_request_header(const struct mal_request *req, const char *name) {
    return MHD_lookup_connection_value(exchange_of(req)->connection, MHD_HEADER_KIND,
                                       name);
}

const char *mal_request_query(const struct mal_request *req, const char *name) {
    return MHD_lookup_connection_value(exchange_of(req)->connection,
                                       MHD_GET_ARGUMENT_KIND, name);
}

struct odd {
    const struct mal_request *req;
    const char *const *known;
    const char *name;
};

static enum MHD_Result find_odd(void *arg, enum MHD_ValueKind kind, const char *key,
                                const char *value) {
    struct odd *odd = arg;
    size_t i = 0;
    while (odd->known[i] && strcasecmp(odd->known[i], key))
        i++;
    /* The library looks up the first of several. */
    bool first = value && mal_request_query(odd->req, key) == value;
    if (odd->known[i] && first) return MHD_YES;
    odd->name = key;
    return MHD_NO;
}

const char *mal_request_query_odd(const struct mal_request *req,
                                  const char *const *known) {
    struct odd odd = {.req = req, .known = known};
    MHD_get_connection_values(exchange_of(req)->connection, MHD_GET_ARGUMENT_KIND,
                              find_odd, &odd);
    return odd.name;
}

void mal_request_set(struct mal_request *req, const char *name, const char *value) {
    struct exchange *ex = exchange_of(req);
    if (ex->n_set == MAX_HEADERS_SET) return;
    struct header *h = &ex->set[ex->n_set++];
    snprintf(h->name, sizeof h->name, "%s", name);
    snprintf(h->value, sizeof h->value, "%s", value);
}

/* Takes over `response`, NULL where memory is out. */
static void answer(struct exchange *ex, int status, const char *type,
                   struct MHD_Response *response) {
    ex->response = response;
    if (!ex->response) {
        status = MHD_HTTP_SERVICE_UNAVAILABLE;
        ex->response =
            MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
    }
    if (ex->response && type) MHD_add_response_header(ex->response, "Content-Type", type);
    for (size_t i = 0; ex->response && i < ex->n_set; i++) {
        MHD_add_response_header(ex->response, ex->set[i].name, ex->set[i].value);
    }
    ex->status = status;
    if (ex->suspended) {
        ex->suspended = false;
        MHD_resume_connection(ex->connection);
        ex->server->resumed = true;
        mal_loop_alarm(ex->server->loop, 0);
    }
}

void mal_request_answer(struct mal_request *req, int status, const char *type, char *body,
                        size_t bytes) {
    struct exchange *ex = exchange_of(req);
    if (ex->response) {
        mal_free(body);
        return;
    }
    struct MHD_Response *response =
        body ? MHD_create_response_from_buffer_with_free_callback(bytes, body, mal_free)
             : MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
    if (!response) mal_free(body);
    answer(ex, status, type, response);
}

/* ---- Files ---- */

struct part {
    struct exchange *ex; /* outlives its response */
    int fd;
    uint64_t offset;
};

/* Asked for when all before it has gone out: so a download may take as long as it does,
 * but must go on. */
static ssize_t read_part(void *arg, uint64_t position, char *buffer, size_t room) {
    struct part *part = arg;
    enter(part->ex, SENDING);
    ssize_t n;
    do {
        n = pread(part->fd, buffer, room, (off_t)(part->offset + position));
    } while (n < 0 && errno == EINTR);
    return n > 0 ? n : MHD_CONTENT_READER_END_WITH_ERROR;
}

static void free_part(void *arg) {
    struct part *part = arg;
    close(part->fd);
    mal_free(part);
}

void mal_request_answer_file(struct mal_request *req, int status, const char *type,
                             int fd, uint64_t offset, uint64_t bytes) {
    struct exchange *ex = exchange_of(req);
    if (ex->response) return;
    struct MHD_Response *response = NULL;
    struct part *part = mal_calloc(1, sizeof *part);
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (part && own >= 0) {
        *part = (struct part){.ex = ex, .fd = own, .offset = offset};
        response = MHD_create_response_from_callback(bytes, FILE_BLOCK, read_part, part,
                                                     free_part);
    }
    if (!response) {
        if (own >= 0) close(own);
        mal_free(part);
    }
    answer(ex, status, type, response);
}

/* ---- Framing ---- */

struct framing {
    int lengths, encodings, hosts;
    const char *length, *encoding;
};

static enum MHD_Result count_framing(void *arg, enum MHD_ValueKind kind, const char *key,
                                     const char *value) {
    struct framing *f = arg;
    if (!strcasecmp(key, "Content-Length")) {
        f->lengths++;
        f->length = value;
    } else if (!strcasecmp(key, "Transfer-Encoding")) {
        f->encodings++;
        f->encoding = value;
    } else if (!strcasecmp(key, "Host")) {
        f->hosts++;
    }
    return MHD_YES;
}

/* Two readings of where a request ends are how one is smuggled past a proxy: NULL, or
 * what is wrong. */
static const char *check_framing(struct exchange *ex, const char *version) {
    struct framing f = {0};
    MHD_get_connection_values(ex->connection, MHD_HEADER_KIND, count_framing, &f);
    if (f.lengths && f.encodings) return "Content-Length together with Transfer-Encoding";
    if (f.lengths > 1) return "more than one Content-Length";
    if (f.encodings > 1) return "more than one Transfer-Encoding";
    if (f.hosts > 1) return "more than one Host";
    if (f.encodings) {
        if (!f.encoding || strcasecmp(f.encoding, "chunked")) {
            return "a Transfer-Encoding other than chunked";
        }
        if (strcmp(version, MHD_HTTP_VERSION_1_1)) {
            return "a Transfer-Encoding before HTTP/1.1";
        }
        ex->chunked = true;
    }
    if (f.lengths) {
        size_t n = f.length ? strspn(f.length, "0123456789") : 0;
        if (!n || f.length[n] || n > 18) return "a Content-Length that is no number";
        ex->declared = 0;
        for (size_t i = 0; i < n; i++)
            ex->declared = ex->declared * 10 + (f.length[i] - '0');
    }
    if (!f.lengths && !f.encodings) ex->declared = UINT64_MAX;
    return NULL;
}

static bool wants_body(const char *method) {
    return !strcmp(method, "POST") || !strcmp(method, "PUT") || !strcmp(method, "PATCH");
}

static void refuse(struct exchange *ex, int status, const char *detail) {
    ex->server->options.refuse(ex->server->options.arg, &ex->pub, status, detail);
}

static void copy_media_type(struct exchange *ex) {
    const char *type = mal_request_header(&ex->pub, "Content-Type");
    size_t n = 0;
    for (; type && type[n] && !strchr("; \t", type[n]) && n + 1 < sizeof ex->type; n++) {
        ex->type[n] = (char)tolower((unsigned char)type[n]);
    }
    ex->pub.content_type = ex->type;
}

static size_t header_bytes(struct exchange *ex) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(ex->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return info ? info->header_size : 0;
}

static void begin(struct exchange *ex, const char *path, const char *method,
                  const char *version) {
    const struct mal_server_options *o = &ex->server->options;
    ex->begun = true;
    ex->path = mal_strdup(path);
    ex->pub.path = ex->path ? ex->path : "";
    ex->pub.head = !strcmp(method, "HEAD");
    ex->pub.method = ex->pub.head ? "GET" : method;
    copy_media_type(ex);

    const char *wrong = check_framing(ex, version);
    if (!wrong && ex->bad_uri) wrong = "a zero byte in the address";
    if (wrong) {
        char detail[128];
        snprintf(detail, sizeof detail, "the request has %s", wrong);
        mal_request_set(&ex->pub, "Connection", "close");
        refuse(ex, MHD_HTTP_BAD_REQUEST, detail);
        return;
    }
    bool has_length = ex->declared != UINT64_MAX;
    if (!ex->path) {
        refuse(ex, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory");
    } else if (ex->uri_bytes > MAX_URI) {
        refuse(ex, MHD_HTTP_URI_TOO_LONG, "the address is longer than 8 KiB");
    } else if (header_bytes(ex) > MAX_HEADER_BYTES) {
        refuse(ex, MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE,
               "the headers are larger than 32 KiB");
    } else {
        o->begin(o->arg, &ex->pub);
    }
    if (!ex->response && wants_body(method) && !ex->chunked && !has_length) {
        refuse(ex, MHD_HTTP_LENGTH_REQUIRED, "the request has no Content-Length");
    }
    if (!ex->response && !ex->chunked && has_length && ex->declared > o->max_body) {
        char detail[128];
        snprintf(detail, sizeof detail, "the body has %llu bytes, at most %zu are taken",
                 (unsigned long long)ex->declared, o->max_body);
        refuse(ex, MHD_HTTP_CONTENT_TOO_LARGE, detail);
    }
    /* The connection lives on after a refusal only if its body is read to the end. */
    ex->drain = !ex->chunked && (!has_length || ex->declared <= DRAIN_BYTES) &&
                !mal_request_header(&ex->pub, "Expect");
}

/* ---- Ends of connections ---- */

static int socket_of(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? (int)info->connect_fd : -1;
}

/* The library takes no answer in the middle of a body, so this one is written past it, as
 * far as the socket takes it; the connection is closed right after. */
static void send_last_words(struct MHD_Connection *connection, int status,
                            const char *title, const char *detail) {
    char body[256], text[512];
    int n = snprintf(
        body, sizeof body,
        "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,\"detail\":\"%s\"}",
        title, status, detail);
    int m = snprintf(text, sizeof text,
                     "HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\n"
                     "Content-Length: %d\r\nConnection: close\r\n\r\n%s",
                     status, title, n, body);
    int fd = socket_of(connection);
    if (fd < 0) return;
    if (send(fd, text, (size_t)m, MSG_DONTWAIT | MSG_NOSIGNAL) == m)
        shutdown(fd, SHUT_WR);
}

static bool take_body(struct exchange *ex, const char *data, size_t bytes) {
    struct mal_request *req = &ex->pub;
    if (ex->response) return true; /* refused: drained */
    if (bytes > ex->server->options.max_body - req->body_bytes) {
        char detail[96];
        snprintf(detail, sizeof detail, "the body is larger than %zu bytes",
                 ex->server->options.max_body);
        send_last_words(ex->connection, MHD_HTTP_CONTENT_TOO_LARGE, "Content Too Large",
                        detail);
        return false;
    }
    size_t need = req->body_bytes + bytes + 1;
    if (need > ex->capacity) {
        size_t capacity = ex->capacity ? ex->capacity : 4096;
        while (capacity < need)
            capacity *= 2;
        char *body = mal_realloc(req->body, capacity);
        if (!body) {
            send_last_words(ex->connection, MHD_HTTP_SERVICE_UNAVAILABLE,
                            "Service Unavailable", "out of memory");
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

/* ---- Callbacks of the library ---- */

static enum MHD_Result send_answer(struct exchange *ex) {
    const struct mal_server_options *o = &ex->server->options;
    enter(ex, SENDING);
    o->answered(o->arg, &ex->pub, ex->status);
    return MHD_queue_response(ex->connection, (unsigned)ex->status, ex->response);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection,
                                  const char *url, const char *method,
                                  const char *version, const char *data,
                                  size_t *data_bytes, void **context) {
    struct mal_server *server = arg;
    struct exchange *ex = *context;
    if (!ex) return MHD_NO;
    if (!ex->begun) {
        begin(ex, url, method, version);
        return ex->response && !ex->drain ? send_answer(ex) : MHD_YES;
    }
    if (*data_bytes) {
        if (!take_body(ex, data, *data_bytes)) return MHD_NO;
        *data_bytes = 0;
        return MHD_YES;
    }
    if (!ex->response && !ex->handled) {
        ex->handled = true;
        enter(ex, WORKING);
        server->options.handle(server->options.arg, &ex->pub);
    }
    if (ex->response) return send_answer(ex);
    ex->suspended = true;
    MHD_suspend_connection(connection);
    return MHD_YES;
}

static bool has_zero_byte(const char *uri) {
    return strstr(uri, "%00") != NULL;
}

/* The first thing known of a request is its address: here its exchange begins. */
static void *on_uri(void *arg, const char *uri, struct MHD_Connection *connection) {
    struct mal_server *server = arg;
    struct exchange *ex = mal_calloc(1, sizeof *ex);
    if (!ex) return NULL;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    ex->server = server;
    ex->connection = connection;
    ex->peer = info ? info->socket_context : NULL;
    ex->uri_bytes = strlen(uri);
    ex->bad_uri = has_zero_byte(uri);
    ex->pub.began_ms = mal_monotonic_ms();
    server->n_exchanges++;
    enter(ex, RECEIVING);
    return ex;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code) {
    struct exchange *ex = *context;
    if (!ex) return;
    *context = NULL;
    enter(ex, IDLE);
    ex->server->n_exchanges--;
    if (ex->response) MHD_destroy_response(ex->response);
    mal_free(ex->pub.body);
    mal_free(ex->path);
    mal_free(ex);
}

static void on_connection(void *arg, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code) {
    struct mal_server *server = arg;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        struct peer *peer = mal_calloc(1, sizeof *peer);
        if (!peer) return;
        peer->connection = connection;
        peer->since_ms = mal_monotonic_ms();
        peer->next = server->peers;
        if (peer->next) peer->next->prev = peer;
        server->peers = peer;
        *context = peer;
        return;
    }
    struct peer *peer = *context;
    if (!peer) return;
    if (peer->next) peer->next->prev = peer->prev;
    if (peer->prev) {
        peer->prev->next = peer->next;
    } else {
        server->peers = peer->next;
    }
    mal_free(peer);
    *context = NULL;
}

/* The library overlooks an end that arrives together with data, and would keep the
 * connection. */
static bool has_left(const struct peer *peer) {
    char byte;
    if (peer->phase != IDLE && peer->phase != RECEIVING) return false;
    return recv(socket_of(peer->connection), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void mal_server_sweep(struct mal_server *server) {
    int64_t now = mal_monotonic_ms();
    for (struct peer *p = server->peers; p; p = p->next) {
        if (p->cut || p->phase == WORKING) continue;
        bool late = now - p->since_ms > server->options.timeout_ms;
        if (!late && !has_left(p)) continue;
        if (late && p->phase == RECEIVING) {
            send_last_words(p->connection, MHD_HTTP_REQUEST_TIMEOUT, "Request Timeout",
                            "the request did not arrive in time");
        }
        p->cut = true;
        int fd = socket_of(p->connection);
        if (fd >= 0) shutdown(fd, SHUT_RDWR); /* the library sees the end and closes */
    }
    run(server); /* at the limit of connections it accepts again only when it is run */
}

/* ---- Start and stop ---- */

bool mal_server_start(struct mal_server **out, struct mal_loop *loop,
                      const struct mal_server_options *options, struct mal_error *err) {
    struct mal_server *server = mal_calloc(1, sizeof *server);
    if (!server) return mal_fail(err, MAL_NO_MEMORY, "server");
    server->options = *options;
    server->loop = loop;
    server->mhd = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, server,
        MHD_OPTION_LISTEN_SOCKET, (MHD_socket)options->listen_fd,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_CONNECTION_LIMIT,
        options->max_connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_URI_LOG_CALLBACK, on_uri, server,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, server, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, server, MHD_OPTION_END);
    if (!server->mhd) {
        mal_fail(err, MAL_IO, "cannot start the HTTP server");
        goto fail;
    }
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(server->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info) {
        mal_fail(err, MAL_IO, "the HTTP library was built without epoll");
        goto fail;
    }
    if (!mal_loop_watch(loop, info->epoll_fd, run, server, err)) goto fail;
    *out = server;
    return true;

fail:
    if (server->mhd) MHD_stop_daemon(server->mhd);
    mal_free(server);
    return false;
}

void mal_server_quiesce(struct mal_server *server) {
    MHD_socket fd = MHD_quiesce_daemon(server->mhd);
    if (fd != MHD_INVALID_SOCKET) close(fd);
}

size_t mal_server_requests(const struct mal_server *server) {
    return server->n_exchanges;
}

void mal_server_stop(struct mal_server *server) {
    if (!server) return;
    mal_loop_unwatch(server->loop);
    MHD_stop_daemon(server->mhd);
    mal_free(server);
}
