/* server_answer.c - what handlers ask of a request, and answer: bodies whole, and parts
 * of files. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "core/alloc.h"
#include "daemon/http/accept.h"
#include "daemon/http/server_impl.h"

enum { FILE_BLOCK = 256 << 10 };

const char *mal_request_header(const struct mal_request *req, const char *name) {
    return MHD_lookup_connection_value(mal_exchange_of(req)->connection, MHD_HEADER_KIND,
                                       name);
}

const char *mal_request_query(const struct mal_request *req, const char *name) {
    return MHD_lookup_connection_value(mal_exchange_of(req)->connection,
                                       MHD_GET_ARGUMENT_KIND, name);
}

struct accept {
    const char *types;
    bool asked, taken;
};

static enum MHD_Result read_accept(void *arg, enum MHD_ValueKind kind, const char *key,
                                   const char *value) {
    struct accept *accept = arg;
    if (strcasecmp(key, "Accept")) return MHD_YES;
    accept->asked = true;
    if (mal_accepts(value, accept->types)) accept->taken = true;
    return MHD_YES;
}

bool mal_request_accepts(const struct mal_request *req, const char *types) {
    struct accept accept = {.types = types};
    MHD_get_connection_values(mal_exchange_of(req)->connection, MHD_HEADER_KIND,
                              read_accept, &accept);
    return !accept.asked || accept.taken;
}

struct odd {
    const struct mal_request *req;
    const char *known, *name;
};

static bool is_listed(const char *list, const char *name) {
    size_t n = strlen(name);
    for (; list && *list; list += strspn(list, ", ")) {
        size_t length = strcspn(list, ",");
        if (length == n && !strncasecmp(list, name, n)) return true;
        list += length;
    }
    return false;
}

static enum MHD_Result find_odd(void *arg, enum MHD_ValueKind kind, const char *key,
                                const char *value) {
    struct odd *odd = arg;
    /* The library looks up the first of several. */
    bool first = value && mal_request_query(odd->req, key) == value;
    if (first && is_listed(odd->known, key)) return MHD_YES;
    odd->name = key;
    return MHD_NO;
}

const char *mal_request_query_odd(const struct mal_request *req, const char *known) {
    struct odd odd = {.req = req, .known = known};
    MHD_get_connection_values(mal_exchange_of(req)->connection, MHD_GET_ARGUMENT_KIND,
                              find_odd, &odd);
    return odd.name;
}

void mal_request_set(struct mal_request *req, const char *name, const char *value) {
    struct mal_exchange *ex = mal_exchange_of(req);
    if (ex->n_set == MAL_SERVER_HEADERS_SET) return;
    struct mal_header *h = &ex->set[ex->n_set++];
    snprintf(h->name, sizeof h->name, "%s", name);
    snprintf(h->value, sizeof h->value, "%s", value);
}

static bool add_headers(const struct mal_exchange *ex, const char *type,
                        struct MHD_Response *response) {
    bool ok = !type || MHD_add_response_header(response, "Content-Type", type) == MHD_YES;
    for (size_t i = 0; ok && i < ex->n_set; i++) {
        ok = MHD_add_response_header(response, ex->set[i].name, ex->set[i].value) ==
             MHD_YES;
    }
    return ok;
}

void mal_exchange_answer(struct mal_exchange *ex, int status, const char *type,
                         struct MHD_Response *response) {
    if (response && !add_headers(ex, type, response)) {
        MHD_destroy_response(response);
        response = NULL;
    }
    ex->answered = true;
    ex->response = response;
    ex->status = status;
    mal_exchange_rested(ex);
    if (ex->suspended) mal_exchange_resume(ex);
}

void mal_request_answer(struct mal_request *req, int status, const char *type, char *body,
                        size_t bytes) {
    struct mal_exchange *ex = mal_exchange_of(req);
    if (ex->answered) {
        mal_free(body);
        return;
    }
    struct MHD_Response *response = NULL;
    if (body) {
        response =
            MHD_create_response_from_buffer_with_free_callback(bytes, body, mal_free);
        if (!response) mal_free(body);
    } else if (!type) {
        response = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
    }
    mal_exchange_answer(ex, status, type, response);
}

/* ---- Files ---- */

struct part {
    struct mal_exchange *ex; /* outlives its response */
    int fd;
    uint64_t offset;
};

/* Asked for when all before it has gone out: so a download may take as long as it does,
 * but must go on. */
static ssize_t read_part(void *arg, uint64_t position, char *buffer, size_t room) {
    struct part *part = arg;
    mal_exchange_enter(part->ex, MAL_PHASE_SENDING);
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
    struct mal_exchange *ex = mal_exchange_of(req);
    if (ex->answered) return;
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
    mal_exchange_answer(ex, status, type, response);
}
