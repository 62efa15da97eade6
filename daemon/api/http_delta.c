/* http_delta.c - GET /v1/versions/{n}/delta: a version's difference from the base, whole
 * or in ranges. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/hash.h"
#include "daemon/api/daemon.h"
#include "daemon/api/downloads.h"
#include "daemon/api/handlers.h"
#include "daemon/api/http_version.h"
#include "daemon/engine/history.h"
#include "daemon/http/http.h"

struct asked {
    struct mal_download_waiter waiter; /* first: the waiter is what was asked */
    struct mal_request *req;
    int64_t version;
    enum mal_download_format format;
    char weights_hash[MAL_HASH_HEX];
};

/* ---- Tags ---- */

struct etag {
    char text[MAL_HASH_HEX + 16];
};

/* A version is what it is for good, and so is its difference. An adapter is made of the
 * factors of the versions before as long as they are there. */
static struct etag etag_of(const struct asked *asked, bool whole) {
    struct etag etag;
    const char *what = asked->format != MAL_DOWNLOAD_LORA ? "delta"
                       : whole                            ? "lora"
                                                          : "lora-svd";
    snprintf(etag.text, sizeof etag.text, "\"%s-%s\"", asked->weights_hash, what);
    return etag;
}

/* The tag of a file that the client has and is as good as any; empty: it has none. */
static struct etag known_etag(const struct asked *asked) {
    for (int whole = 1; whole >= 0; whole--) {
        struct etag etag = etag_of(asked, whole);
        if (mal_http_is_known(asked->req, etag.text)) return etag;
    }
    return (struct etag){""};
}

/* ---- Ranges ---- */

enum range { WHOLE, PART, NOWHERE };

/* Digits at *text, which moves behind them; -1: none. More than any file has stays so. */
static int64_t read_digits(const char **text) {
    size_t n = strspn(*text, "0123456789");
    int64_t value = n ? 0 : -1;
    for (size_t i = 0; i < n; i++) {
        if (value < INT64_MAX / 16) value = value * 10 + ((*text)[i] - '0');
    }
    *text += n;
    return value;
}

/* What of `bytes` a Range asks for. What is not one range of bytes is as if it were not
 * there. */
static enum range parse_range(const char *text, uint64_t bytes, uint64_t *offset,
                              uint64_t *length) {
    static const char unit[] = "bytes=";
    if (!text || strncmp(text, unit, strlen(unit)) != 0) return WHOLE;
    text += strlen(unit);
    int64_t from = read_digits(&text);
    if (*text++ != '-') return WHOLE;
    int64_t to = read_digits(&text);
    if (*text || (from < 0 && to < 0) || (to >= 0 && from > to)) return WHOLE;
    if (from < 0) { /* the last `to` */
        uint64_t last = (uint64_t)to < bytes ? (uint64_t)to : bytes;
        *offset = bytes - last;
        *length = last;
        return last ? PART : NOWHERE;
    }
    if ((uint64_t)from >= bytes) return NOWHERE;
    uint64_t end = to >= 0 && (uint64_t)to < bytes ? (uint64_t)to + 1 : bytes;
    *offset = (uint64_t)from;
    *length = end - *offset;
    return PART;
}

/* A range of an older file is of no use: If-Range names the one that parts are there of,
 * by its tag. */
static bool wants_range(const struct mal_request *req, const char *etag) {
    const char *only_of = mal_request_header(req, "If-Range");
    return !req->head && (!only_of || !strcmp(only_of, etag));
}

/* ---- Answers ---- */

static void set_name(const struct asked *asked) {
    char text[80];
    snprintf(text, sizeof text, "attachment; filename=\"v%" PRId64 "-%s\"",
             asked->version,
             asked->format == MAL_DOWNLOAD_LORA ? "lora.tar" : "delta.safetensors");
    mal_request_set(asked->req, "Content-Disposition", text);
}

static void answer_file(const struct asked *asked, const struct mal_download *file) {
    struct mal_request *req = asked->req;
    bool lora = asked->format == MAL_DOWNLOAD_LORA;
    uint64_t offset = 0, length = file->bytes;
    struct etag etag = etag_of(asked, file->whole);
    char text[80];
    enum range range = WHOLE;
    if (wants_range(req, etag.text)) {
        range =
            parse_range(mal_request_header(req, "Range"), file->bytes, &offset, &length);
    }
    mal_request_set(req, "Accept-Ranges", "bytes");
    if (range == NOWHERE) {
        snprintf(text, sizeof text, "bytes */%" PRIu64, file->bytes);
        mal_request_set(req, "Content-Range", text);
        mal_http_refuse(req, 416, "the range begins behind the end, of %" PRIu64 " bytes",
                        file->bytes);
        return;
    }
    if (range == PART) {
        snprintf(text, sizeof text, "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, offset,
                 offset + length - 1, file->bytes);
        mal_request_set(req, "Content-Range", text);
    }
    set_name(asked);
    if (lora) {
        snprintf(text, sizeof text, "%.3g", file->relative_error);
        mal_request_set(req, "Malmend-Relative-Error", text);
    }
    mal_request_set(req, "ETag", etag.text);
    mal_request_answer_file(req, range == PART ? 206 : 200,
                            lora ? "application/x-tar" : "application/octet-stream",
                            file->fd, offset, length);
}

static void ready(struct mal_download_waiter *waiter, const struct mal_download *download,
                  const struct mal_error *err) {
    struct asked *asked = (struct asked *)waiter;
    if (download) {
        answer_file(asked, download);
    } else {
        mal_http_fail(asked->req, err);
    }
    mal_free(asked);
}

/* ---- The request ---- */

static bool read_format(const struct mal_request *req, enum mal_download_format *out,
                        struct mal_error *err) {
    const char *text = mal_request_query(req, "format");
    *out = text && !strcmp(text, "lora") ? MAL_DOWNLOAD_LORA : MAL_DOWNLOAD_SAFETENSORS;
    if (!text || !strcmp(text, "lora") || !strcmp(text, "safetensors")) return true;
    return mal_fail(err, MAL_INVALID,
                    "query parameter 'format': '%.64s' is neither safetensors nor lora",
                    text);
}

static void get(struct mal_daemon *d, struct mal_request *req,
                const struct mal_version_row *row, enum mal_download_format format) {
    struct asked *asked = mal_calloc(1, sizeof *asked);
    if (!asked) {
        mal_http_no_memory(req);
        return;
    }
    *asked = (struct asked){.waiter = {.ready = ready},
                            .req = req,
                            .version = row->version,
                            .format = format};
    snprintf(asked->weights_hash, sizeof asked->weights_hash, "%s", row->weights_hash);
    struct etag known = known_etag(asked);
    if (*known.text) {
        mal_request_set(req, "ETag", known.text);
        mal_request_answer(req, 304, NULL, NULL, 0);
        mal_free(asked);
        return;
    }
    mal_downloads_get(d->downloads, row->version, row->weights_hash, format,
                      &asked->waiter);
}

void mal_get_version_delta(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct mal_version_row row = {0};
    enum mal_download_format format;
    if (read_format(req, &format, &err) &&
        mal_read_version(d, req->param[0], &row, &err) &&
        mal_history_check_stored(&row, &err)) {
        get(d, req, &row, format);
    } else {
        mal_http_fail(req, &err);
    }
    mal_version_row_finish(&row);
}
