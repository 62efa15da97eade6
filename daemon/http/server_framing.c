/* server_framing.c - where a request ends, and what is refused before its body. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "daemon/http/same_site.h"
#include "daemon/http/server_impl.h"

enum {
    MAX_URI = 8 << 10,
    MAX_HEADER_BYTES = 32 << 10,
    DRAIN_BYTES = 64 << 10 /* a refused body up to this size is read and dropped */
};

/* What is there twice, a proxy and the daemon may take one each of. */
static const struct {
    const char *name, *doubled;
} single[] = {{"Authorization", "more than one Authorization"},
              {"Content-Type", "more than one Content-Type"},
              {"Idempotency-Key", "more than one Idempotency-Key"}};

enum { N_SINGLE = sizeof single / sizeof *single };

struct framing {
    int lengths, encodings, hosts;
    const char *length, *encoding;
    bool seen[N_SINGLE];
    const char *twice;    /* of these; NULL */
    bool odd;             /* a header that others may take for another */
    const char *line_end; /* of the line before, in the library's buffer */
    bool torn;            /* between two headers is what the library has not told us */
};

/* Release 0.9.75 of the library, Debian 12's, takes a line ": x" for the empty one that
 * ends a head, and what follows for a request; and it cuts a value at a zero byte.
 * Neither is to be seen but in where it put the texts: each line begins one byte or two,
 * LF or CRLF, behind the one before. Its strict option looks at neither. */
static bool shows_lines(void) {
    return !strcmp(MHD_get_version(), "0.9.75");
}

static bool is_next_line(const char *line_end, const char *line) {
    return line == line_end + 1 || line == line_end + 2;
}

static bool is_token(const char *text) {
    static const char others[] = "!#$%&'*+-.^_`|~";
    const char *p = text;
    while (isalnum((unsigned char)*p) || (*p && strchr(others, *p)))
        p++;
    return p > text && !*p;
}

static size_t count_head(struct mal_exchange *ex) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(ex->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return info ? info->header_size : 0;
}

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
    for (size_t i = 0; i < N_SINGLE; i++) {
        if (strcasecmp(key, single[i].name) != 0) continue;
        if (f->seen[i]) f->twice = single[i].doubled;
        f->seen[i] = true;
    }
    if (!is_next_line(f->line_end, key)) f->torn = true;
    f->line_end = value ? value + strlen(value) : key + strlen(key);
    if (!is_token(key) || (value && strpbrk(value, "\r\n"))) f->odd = true;
    return MHD_YES;
}

/* Two readings of where a request ends are how one is smuggled past a proxy: NULL, or
 * what is wrong. */
static const char *check_framing(struct mal_exchange *ex, const char *method,
                                 const char *version) {
    struct framing f = {.line_end = version + strlen(version)};
    MHD_get_connection_values(ex->connection, MHD_HEADER_KIND, count_framing, &f);
    /* Two line ends are all that follows the last header. */
    if (method + ex->head_bytes > f.line_end + 4) f.torn = true;
    if (f.torn && shows_lines())
        return "a header over two lines, without a name or with a zero byte";
    if (f.odd) return "a header whose name is no token, or a line break in one";
    if (f.lengths && f.encodings) return "Content-Length together with Transfer-Encoding";
    if (f.lengths > 1) return "more than one Content-Length";
    if (f.encodings > 1) return "more than one Transfer-Encoding";
    if (f.hosts > 1) return "more than one Host";
    if (f.twice) return f.twice;
    if (!f.hosts && !strcmp(version, MHD_HTTP_VERSION_1_1)) return "no Host";
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

/* The path of an address as a proxy is given it, "http://host/path": what it names must
 * be what Host does, by which pages from elsewhere are told apart. NULL: it is not. */
static const char *path_of(struct mal_exchange *ex, const char *address) {
    const char *host = mal_request_header(&ex->pub, "Host");
    const char *named = mal_after_scheme(address);
    if (!named) return address;
    size_t n = strcspn(named, "/");
    if (!host || strlen(host) != n || strncasecmp(host, named, n) != 0) return NULL;
    return named[n] ? named + n : "/";
}

static bool wants_body(const char *method) {
    return !strcmp(method, "POST") || !strcmp(method, "PUT") || !strcmp(method, "PATCH");
}

static void refuse(struct mal_exchange *ex, int status, const char *detail) {
    ex->server->options.refuse(ex->server->options.arg, &ex->pub, status, detail);
}

static void copy_media_type(struct mal_exchange *ex) {
    const char *type = mal_request_header(&ex->pub, "Content-Type");
    size_t n = 0;
    for (; type && type[n] && !strchr("; \t", type[n]) && n + 1 < sizeof ex->type; n++) {
        ex->type[n] = (char)tolower((unsigned char)type[n]);
    }
    ex->pub.content_type = ex->type;
}

void mal_exchange_identify(struct mal_exchange *ex) {
    struct mal_request *req = &ex->pub;
    const char *id = mal_request_header(req, "X-Request-Id");
    if (mal_request_id_valid(id)) {
        snprintf(req->id, sizeof req->id, "%s", id);
    } else {
        mal_id_make(&ex->server->ids, "req_", mal_clock_unix_ms(), req->id);
    }
    mal_trace_id(mal_request_header(req, "traceparent"), req->trace_id);
    mal_request_set(req, "X-Request-Id", req->id);
}

/* One to be told of, and one behind it to be cut up. */
static char *copy_twice(const char *path) {
    size_t bytes = strlen(path) + 1;
    char *both = mal_malloc(2 * bytes);
    if (both) {
        memcpy(both, path, bytes);
        memcpy(both + bytes, path, bytes);
    }
    return both;
}

void mal_exchange_begin(struct mal_exchange *ex, const char *path, const char *method,
                        const char *version) {
    const struct mal_server_options *o = &ex->server->options;
    ex->begun = true;
    ex->head_bytes = count_head(ex);
    mal_exchange_identify(ex);
    const char *own = path_of(ex, path);
    ex->path = copy_twice(own ? own : path);
    ex->pub.path = ex->path ? ex->path : "";
    ex->pub.segments = ex->path ? ex->path + strlen(ex->path) + 1 : NULL;
    ex->pub.head = !strcmp(method, "HEAD");
    ex->pub.method = ex->pub.head ? "GET" : method;
    copy_media_type(ex);

    const char *wrong = check_framing(ex, method, version);
    if (!wrong && ex->bad_uri) wrong = "a zero byte or a space in the address";
    if (!wrong && !own) wrong = "an address of another host than Host";
    if (wrong) {
        char detail[128];
        snprintf(detail, sizeof detail, "the request has %s", wrong);
        mal_request_set(&ex->pub, "Connection", "close");
        refuse(ex, MHD_HTTP_BAD_REQUEST, detail);
        return;
    }
    /* The library lets chunks end in a mere LF, which others may read as something else:
       nothing is to follow them. */
    if (ex->chunked) mal_request_set(&ex->pub, "Connection", "close");
    bool has_length = ex->declared != UINT64_MAX;
    if (!ex->path) {
        mal_exchange_answer(ex, MHD_HTTP_SERVICE_UNAVAILABLE, NULL, NULL);
    } else if (ex->uri_bytes > MAX_URI) {
        refuse(ex, MHD_HTTP_URI_TOO_LONG, "the address is longer than 8 KiB");
    } else if (ex->head_bytes > MAX_HEADER_BYTES) {
        refuse(ex, MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE,
               "the headers are larger than 32 KiB");
    } else {
        o->begin(o->arg, &ex->pub);
    }
    bool needs_length = wants_body(method) && !ex->pub.bodiless;
    if (!ex->answered && needs_length && !ex->chunked && !has_length) {
        mal_request_set(&ex->pub, "Connection", "close"); /* it may have sent one */
        refuse(ex, MHD_HTTP_LENGTH_REQUIRED, "the request has no Content-Length");
    }
    if (!ex->answered && !ex->chunked && has_length &&
        ex->declared > mal_exchange_max_body(ex)) {
        char detail[128];
        snprintf(detail, sizeof detail, "the body has %llu bytes, at most %llu are taken",
                 (unsigned long long)ex->declared,
                 (unsigned long long)mal_exchange_max_body(ex));
        refuse(ex, MHD_HTTP_CONTENT_TOO_LARGE, detail);
    }
    /* The connection lives on after a refusal only if its body is read to the end. */
    ex->drain = !ex->chunked && (!has_length || ex->declared <= DRAIN_BYTES) &&
                !mal_request_header(&ex->pub, "Expect");
}
