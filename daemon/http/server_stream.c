/* server_stream.c - bodies that are made as the client takes them.
 *
 * The library asks for more when all before is in the socket. Where there is nothing, the
 * connection is suspended, or it would ask again at once; what its client does meanwhile
 * only mal_server_sweep() sees. */
#include <assert.h>
#include <string.h>

#include "core/alloc.h"
#include "daemon/http/server_impl.h"

enum { BLOCK = 4096 }; /* what HTTP/1.0 is sent at a time */

static ssize_t wait(struct mal_exchange *ex) {
    mal_exchange_enter(ex, MAL_PHASE_WAITING);
    ex->suspended = true;
    MHD_suspend_connection(ex->connection);
    return 0;
}

static ssize_t read_stream(void *arg, uint64_t position, char *buffer, size_t room) {
    struct mal_exchange *ex = arg;
    if (ex->client->cut) return MHD_CONTENT_READER_END_WITH_ERROR;
    mal_exchange_enter(ex, MAL_PHASE_SENDING);
    if (ex->text_at == ex->text_bytes) {
        mal_free(ex->text);
        ex->text = NULL;
        ex->text_bytes = ex->text_at = 0;
        switch (ex->stream.next(ex->stream.arg, &ex->text, &ex->text_bytes)) {
        case MAL_STREAM_TEXT: break;
        case MAL_STREAM_WAIT: return wait(ex);
        case MAL_STREAM_END: return MHD_CONTENT_READER_END_OF_STREAM;
        case MAL_STREAM_BREAK: return MHD_CONTENT_READER_END_WITH_ERROR;
        }
        assert(ex->text_bytes > 0);
    }
    size_t left = ex->text_bytes - ex->text_at, n = left < room ? left : room;
    memcpy(buffer, ex->text + ex->text_at, n);
    ex->text_at += n;
    return (ssize_t)n;
}

void mal_request_stream(struct mal_request *req, int status, const char *type,
                        const struct mal_stream *stream) {
    struct mal_exchange *ex = mal_exchange_of(req);
    assert(!ex->answered);
    ex->stream = *stream;
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, ex, NULL);
    /* The library ends a HEAD's chunks, which have not begun: so there are none. */
    if (response && req->head)
        MHD_set_response_options(response, MHD_RF_HTTP_1_0_COMPATIBLE_STRICT, MHD_RO_END);
    mal_exchange_answer(ex, status, type, response);
}

void mal_request_wake(struct mal_request *req) {
    struct mal_exchange *ex = mal_exchange_of(req);
    if (ex->suspended && ex->answered) mal_exchange_resume(ex);
}
