/* server_refusal.c - what the library refuses itself, answered in our words.
 *
 * It would send a page of HTML, after a Content-Length that is no number behind two
 * status lines. Before that it tells its log: then our problem is written past it and the
 * socket shut for writing, so that the page goes nowhere. The log does not say which
 * connection is meant. If it could be more than one, the page stands. */
#include <string.h>

#include "daemon/http/server_impl.h"

/* The library has refused it, or it is being answered. */
static bool has_answer(const struct mal_client *client) {
    return MHD_get_connection_info(client->connection, MHD_CONNECTION_INFO_HTTP_STATUS);
}

/* Its headers are all there, and we have not been asked: the library does both at once,
 * so it is the one that is being looked at. */
static bool is_at_its_headers(const struct mal_client *client) {
    return client->exchange && !client->exchange->begun &&
           MHD_get_connection_info(client->connection,
                                   MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
}

/* The first line comes in, maybe with the request before: the library has read more than
 * its requests took. */
static bool has_begun_a_line(const struct mal_client *client) {
    uint64_t taken;
    return !mal_peer_taken(mal_exchange_socket(client->connection), &taken) ||
           taken != client->taken;
}

/* The library is reading what it could refuse: a head, or chunks. */
static bool is_read(const struct mal_client *client) {
    const struct mal_exchange *ex = client->exchange;
    if (!ex) return has_begun_a_line(client);
    return !ex->begun || (ex->chunked && !ex->suspended && !ex->answered);
}

static struct mal_client *find_refused(const struct mal_server *server,
                                       bool *out_at_headers) {
    struct mal_client *found = NULL;
    size_t n = 0;
    *out_at_headers = false;
    for (struct mal_client *p = server->clients; p; p = p->next) {
        if (has_answer(p)) continue;
        if (is_at_its_headers(p)) {
            *out_at_headers = true;
            return p;
        }
        if (!is_read(p)) continue;
        found = p;
        n++;
    }
    return n == 1 ? found : NULL;
}

static const char *reason(unsigned status) {
    switch (status) {
    case MHD_HTTP_CONTENT_TOO_LARGE: return "a chunk is larger than any body may be";
    case MHD_HTTP_URI_TOO_LONG: return "the address is longer than 8 KiB";
    case MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE:
        return "the headers are larger than 32 KiB, or too many";
    case MHD_HTTP_HTTP_VERSION_NOT_SUPPORTED:
        return "the version of HTTP is neither 1.0 nor 1.1";
    default: return "the request has a line that is not HTTP";
    }
}

void mal_server_heard(void *arg, const char *format, va_list args) {
    struct mal_server *server = arg;
    bool at_headers;
    if (!strstr(format, "HTTP response code is %u")) return;
    unsigned status = va_arg(args, unsigned);
    struct mal_client *client = find_refused(server, &at_headers);
    if (!client) return;
    const char *detail = reason(status);
    if (at_headers && status != MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE) {
        status = MHD_HTTP_BAD_REQUEST;
        detail = "the request has a Content-Length that is no number";
    }
    const char *title = MHD_get_reason_phrase_for(status);
    if (client->exchange) {
        mal_exchange_last_words(client->exchange, (int)status, title, detail);
    } else {
        mal_server_last_words(server, client->connection, client, (int)status, title,
                              detail);
    }
}
