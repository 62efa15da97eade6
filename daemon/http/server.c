/* server.c - connections and deadlines: libmicrohttpd in external epoll mode.
 *
 * After every MHD_run() the library is asked when it wants to run again: its epoll
 * descriptor does not say that bytes already read wait for processing, and large bodies
 * would hang. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "daemon/base/loop.h"
#include "daemon/http/server_impl.h"

enum {
    /* Above the limits of framing, so that they are ours to refuse: a header takes 64
       bytes beside its text. The library fills it with zeros for each request. */
    CONNECTION_MEMORY = 128 << 10,
    QUIET_MS = 500 /* for a stream's client to take what is left */
};

/* Where an answer breaks off as it is made, the library closes the connection the next
 * time that it looks at it, and in epoll mode it does not look behind an older one that
 * has nothing to do. One that goes on is looked at. */
static void close_broken(struct mal_server *server) {
    for (struct mal_client *p = server->clients; p; p = p->next) {
        if (!p->broken) continue;
        p->broken = false;
        MHD_suspend_connection(p->connection);
        MHD_resume_connection(p->connection);
        server->resumed = true;
    }
    server->n_broken = 0;
}

static void run(void *arg) {
    struct mal_server *server = arg;
    MHD_UNSIGNED_LONG_LONG ms;
    do {
        server->resumed = false;
        MHD_run(server->mhd);
        if (server->n_broken) close_broken(server);
    } while (server->resumed);
    bool due = MHD_get_timeout(server->mhd, &ms) == MHD_YES;
    mal_loop_alarm(server->loop, due ? (int64_t)ms : -1);
}

void mal_exchange_enter(struct mal_exchange *ex, enum mal_phase phase) {
    ex->client->phase = phase;
    ex->client->since_ms = mal_monotonic_ms();
}

void mal_exchange_resume(struct mal_exchange *ex) {
    ex->suspended = false;
    MHD_resume_connection(ex->connection);
    ex->server->resumed = true;
    mal_loop_alarm(ex->server->loop, 0);
}

/* ---- Callbacks of the library ---- */

static enum MHD_Result send_answer(struct mal_exchange *ex) {
    const struct mal_server_options *o = &ex->server->options;
    mal_exchange_enter(ex, MAL_PHASE_SENDING);
    if (!ex->response) {
        mal_exchange_no_memory(ex);
        return MHD_NO;
    }
    o->answered(o->arg, &ex->pub, ex->status);
    return MHD_queue_response(ex->connection, (unsigned)ex->status, ex->response);
}

static void suspend(struct mal_exchange *ex) {
    ex->suspended = true;
    MHD_suspend_connection(ex->connection);
}

static struct mal_client *client_of(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection,
                                  const char *url, const char *method,
                                  const char *version, const char *data,
                                  size_t *data_bytes, void **context) {
    struct mal_server *server = arg;
    struct mal_exchange *ex = *context;
    if (!ex) {
        mal_server_last_words(server, connection, client_of(connection),
                              MHD_HTTP_SERVICE_UNAVAILABLE, "Service Unavailable",
                              "out of memory");
        return MHD_NO;
    }
    if (!ex->begun) {
        mal_exchange_begin(ex, url, method, version);
        return ex->answered && !ex->drain ? send_answer(ex) : MHD_YES;
    }
    if (ex->resting) return MHD_YES; /* a further chunk of what it has read: later */
    if (*data_bytes) {
        if (!mal_exchange_take(ex, data, *data_bytes)) return MHD_NO;
        *data_bytes = 0;
        if (ex->resting) suspend(ex);
        return MHD_YES;
    }
    if (!ex->answered && !ex->handled) {
        ex->handled = true;
        mal_exchange_enter(ex, MAL_PHASE_WORKING);
        server->options.handle(server->options.arg, &ex->pub);
    }
    if (ex->answered) return send_answer(ex);
    suspend(ex);
    return MHD_YES;
}

static bool is_bad_uri(const char *uri) {
    return strstr(uri, "%00") || uri[strcspn(uri, " \t\r\n")];
}

/* The first thing known of a request is its address: here its exchange begins. */
static void *on_uri(void *arg, const char *uri, struct MHD_Connection *connection) {
    struct mal_server *server = arg;
    struct mal_client *client = client_of(connection);
    /* Without memory for the client nobody knows who it is. */
    struct mal_exchange *ex = client ? mal_calloc(1, sizeof *ex) : NULL;
    if (!ex) return NULL;
    ex->server = server;
    ex->connection = connection;
    ex->client = client;
    ex->pub.peer = &client->from;
    client->exchange = ex;
    ex->uri_bytes = strlen(uri);
    ex->bad_uri = is_bad_uri(uri);
    ex->pub.method = ex->pub.path = "";
    ex->pub.began = mal_clock_seconds();
    server->n_exchanges++;
    mal_exchange_enter(ex, MAL_PHASE_RECEIVING);
    return ex;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code) {
    struct mal_exchange *ex = *context;
    if (!ex) return;
    *context = NULL;
    mal_exchange_enter(ex, MAL_PHASE_IDLE);
    ex->client->exchange = NULL;
    ex->client->taken += ex->head_bytes + ex->received;
    ex->server->n_exchanges--;
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK && !ex->client->broken) {
        ex->client->broken = true;
        ex->server->n_broken++;
    }
    if (ex->receiver.gone && ex->pub.owner) ex->receiver.gone(&ex->pub);
    if (ex->stream.next) ex->stream.gone(ex->stream.arg);
    if (ex->response) MHD_destroy_response(ex->response);
    mal_free(ex->text);
    mal_free(ex->pub.body);
    mal_free(ex->path);
    mal_free(ex);
}

static void on_connection(void *arg, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code) {
    struct mal_server *server = arg;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        struct mal_client *client = mal_calloc(1, sizeof *client);
        if (!client) return;
        client->connection = connection;
        client->since_ms = mal_monotonic_ms();
        mal_peer_read(mal_exchange_socket(connection), &client->from);
        client->next = server->clients;
        if (client->next) client->next->prev = client;
        server->clients = client;
        server->n_clients++;
        server->n_accepted++;
        *context = client;
        return;
    }
    struct mal_client *client = *context;
    if (!client) return;
    server->n_clients--;
    if (client->broken) server->n_broken--;
    if (client->next) client->next->prev = client->prev;
    if (client->prev) {
        client->prev->next = client->next;
    } else {
        server->clients = client->next;
    }
    mal_free(client);
    *context = NULL;
}

/* The library overlooks an end that arrives together with data, and would keep the
 * connection; and at a suspended one it does not look at all. */
static bool has_left(const struct mal_client *client) {
    char byte;
    if (client->phase != MAL_PHASE_IDLE && client->phase != MAL_PHASE_RECEIVING &&
        client->phase != MAL_PHASE_WAITING)
        return false;
    ssize_t n =
        recv(mal_exchange_socket(client->connection), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static bool is_late(const struct mal_server *server, const struct mal_client *client,
                    int64_t now) {
    if (client->phase == MAL_PHASE_WORKING || client->phase == MAL_PHASE_WAITING)
        return false;
    int64_t allowed = server->options.timeout_ms;
    bool streams = client->exchange && client->exchange->stream.next;
    if (server->quiet && streams && allowed > QUIET_MS) allowed = QUIET_MS;
    return now - client->since_ms > allowed;
}

void mal_server_sweep(struct mal_server *server) {
    int64_t now = mal_monotonic_ms();
    for (struct mal_client *p = server->clients; p; p = p->next) {
        if (p->cut) continue;
        bool late = is_late(server, p, now);
        if (!late && !has_left(p)) continue;
        if (late && p->phase == MAL_PHASE_RECEIVING && p->exchange) {
            mal_exchange_last_words(p->exchange, MHD_HTTP_REQUEST_TIMEOUT,
                                    "Request Timeout",
                                    "the request did not arrive in time");
        }
        p->cut = true;
        int fd = mal_exchange_socket(p->connection);
        if (fd >= 0) shutdown(fd, SHUT_RDWR); /* the library sees the end and closes */
        if (p->phase == MAL_PHASE_WAITING) mal_request_wake(&p->exchange->pub);
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
    errno = 0;
    server->mhd = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_request, server, MHD_OPTION_EXTERNAL_LOGGER, mal_server_heard, server,
        MHD_OPTION_LISTEN_SOCKET, (MHD_socket)options->listen_fd,
        MHD_OPTION_CONNECTION_LIMIT, options->max_connections,
        MHD_OPTION_PER_IP_CONNECTION_LIMIT, options->max_per_address,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_URI_LOG_CALLBACK, on_uri, server, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, server, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
        MHD_OPTION_END);
    if (!server->mhd) {
        mal_fail(err, errno == ENOMEM ? MAL_NO_MEMORY : MAL_IO,
                 "cannot start the HTTP server");
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
    server->quiet = true;
    MHD_socket fd = MHD_quiesce_daemon(server->mhd);
    if (fd != MHD_INVALID_SOCKET) close(fd);
}

size_t mal_server_connections(const struct mal_server *server) {
    return server->n_clients;
}

uint64_t mal_server_accepted(const struct mal_server *server) {
    return server->n_accepted;
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
