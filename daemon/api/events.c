/* events.c - streams of events, each with its place in the store's table. */
#include "daemon/api/events.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "daemon/base/log.h"
#include "daemon/base/loop.h"
#include "daemon/base/status.h"
#include "daemon/http/auth.h"
#include "daemon/http/http.h"
#include "sql/store.h"

enum {
    ROWS = 64,          /* read at a time */
    PASSED_OVER = 4096, /* events of the other kind, before the loop has its turn again */
    HEARTBEAT_MS = 15000,
    WINDOW_MS = 100, /* in which a stream is woken so often at most: where events come */
    MOST_WAKES = 8,  /* by the thousand, many go out together */
    LINES_BYTES = 96 /* what an event is beside its kind and data, at most */
};

struct follower {
    struct follower *prev, *next;
    struct mal_events *events;
    struct mal_request *req;
    int64_t at; /* the last event it has, or has passed over */
    const char *kind;
    bool fresh;      /* gave no place: is told where it begins */
    bool lost;       /* gave a place that is none */
    bool begun;      /* has been sent the opening lines */
    int64_t sent_ms; /* when something was sent last */
    int64_t window_ms, n_wakes;
};

struct mal_events {
    struct mal_store *reader;
    struct mal_daemon_status *status;
    const struct mal_auth *auth;
    struct follower *followers;
    size_t n, max;
    int64_t last;    /* the last event that may be told, as far as known */
    int64_t seen_ms; /* when that was found out */
    bool stopping;
    bool broken; /* the store cannot be read */
};

/* ---- Text ---- */

struct text {
    char *text;
    size_t bytes, room;
};

static void add(struct text *out, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void add(struct text *out, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(out->text + out->bytes, out->room - out->bytes, format, args);
    va_end(args);
    out->bytes += (size_t)n;
    assert(out->bytes < out->room);
}

static bool is_wanted(const struct follower *f, const struct mal_event_row *row) {
    return !f->kind || !strcmp(f->kind, row->kind);
}

/* False: out of memory. */
static bool reserve(const struct follower *f, const struct mal_event_row *rows, size_t n,
                    struct text *out) {
    size_t room = 3 * LINES_BYTES; /* opening, reset, end */
    for (size_t i = 0; i < n; i++) {
        if (is_wanted(f, &rows[i]))
            room += LINES_BYTES + strlen(rows[i].kind) + strlen(rows[i].data_json);
    }
    *out = (struct text){.text = mal_malloc(room), .room = room};
    return out->text != NULL;
}

/* A comment, so that proxies pass on the answer's beginning, and for one who gave no
 * place the event after which it begins: it comes back with that. */
static void open_stream(struct follower *f, struct text *out) {
    add(out, ": events of jobs and versions\nretry: 1000\n");
    if (f->fresh) add(out, "id: %" PRId64 "\n", f->at);
    add(out, "\n");
    f->begun = true;
}

/* `f->at` is not followed by the next event that is kept. */
static void reset(struct follower *f, int64_t oldest, struct text *out) {
    add(out, "event: reset\ndata: {\"oldest\":%" PRId64 ",\"newest\":%" PRId64 "}\n\n",
        oldest, f->events->last);
    f->lost = false;
}

static void add_events(struct follower *f, const struct mal_event_row *rows, size_t n,
                       struct text *out) {
    if (f->lost || (n && rows[0].id != f->at + 1))
        reset(f, n ? rows[0].id : f->at + 1, out);
    for (size_t i = 0; i < n; i++) {
        f->at = rows[i].id;
        if (!is_wanted(f, &rows[i])) continue;
        add(out, "id: %" PRId64 "\nevent: %s\ndata: %s\n\n", rows[i].id, rows[i].kind,
            rows[i].data_json);
    }
}

/* ---- What a stream sends next ---- */

static enum mal_stream_step break_stream(const struct mal_error *err) {
    mal_log("error", "event stream failed", "{s:s}", "detail", err->text);
    return MAL_STREAM_BREAK;
}

/* Finds out the last event that may be told. The events are looked at before the
 * versions, and these before what is live: none of the events can be of a later version.
 */
static bool look(struct mal_events *events, struct mal_error *err) {
    int64_t last, version;
    if (!mal_store_last_event(events->reader, &last, err) ||
        !mal_store_last_version(events->reader, &version, err))
        return false;
    int64_t live = mal_status_live(events->status); /* -1: loading, nobody is answered */
    if (live < 0 || version <= live) events->last = last;
    events->seen_ms = mal_monotonic_ms();
    events->broken = false;
    return true;
}

/* Reads on. *out_n: rows that were there. False: the store failed, or memory is out. */
static bool read_some(struct follower *f, struct text *out, size_t *out_n,
                      struct mal_error *err) {
    struct mal_event_row *rows = NULL;
    size_t n = 0, n_read = 0;
    if (f->at < f->events->last &&
        !mal_store_events(f->events->reader, f->at, ROWS, &rows, &n_read, err))
        return false;
    while (n < n_read && rows[n].id <= f->events->last)
        n++;
    bool ok = reserve(f, rows, n, out) || mal_fail(err, MAL_NO_MEMORY, "events");
    if (ok && !f->begun) open_stream(f, out);
    if (ok) add_events(f, rows, n, out);
    mal_event_rows_free(rows, n_read);
    *out_n = n;
    return ok;
}

static bool is_over(struct follower *f) {
    return f->events->stopping || !mal_auth_lasts(f->events->auth, f->req);
}

static enum mal_stream_step next(void *arg, char **text, size_t *bytes) {
    struct follower *f = arg;
    struct text out = {0};
    if (is_over(f)) return MAL_STREAM_END;
    if (f->events->broken) return MAL_STREAM_BREAK;
    int64_t now = mal_monotonic_ms();
    size_t n = 0, passed = 0;
    do {
        struct mal_error err = {0};
        mal_free(out.text);
        if (!read_some(f, &out, &n, &err)) return break_stream(&err);
        passed += n;
    } while (!out.bytes && n && passed < PASSED_OVER);
    bool silent = now - f->sent_ms >= HEARTBEAT_MS || passed >= PASSED_OVER;
    if (!out.bytes && silent) add(&out, ":\n\n");
    if (!out.bytes) {
        mal_free(out.text);
        return MAL_STREAM_WAIT;
    }
    f->sent_ms = now;
    *text = out.text;
    *bytes = out.bytes;
    return MAL_STREAM_TEXT;
}

static void gone(void *arg) {
    struct follower *f = arg;
    struct mal_events *events = f->events;
    if (f->next) f->next->prev = f->prev;
    if (f->prev) {
        f->prev->next = f->next;
    } else {
        events->followers = f->next;
    }
    events->n--;
    mal_free(f);
}

/* ---- Following ---- */

static bool find_place(struct mal_events *events, const struct mal_events_query *query,
                       struct follower *f, struct mal_error *err) {
    int64_t first, last;
    if (!mal_store_event_range(events->reader, &first, &last, err) || !look(events, err))
        return false;
    f->fresh = query->after < 0;
    f->lost = query->after > last;
    f->at = f->fresh ? events->last : f->lost ? first - 1 : query->after;
    return true;
}

bool mal_events_follow(struct mal_events *events, struct mal_request *req,
                       const struct mal_events_query *query, struct mal_error *err) {
    if (events->n >= events->max)
        return mal_fail(err, MAL_NOT_READY,
                        "%zu event streams are open, no more are allowed", events->n);
    struct follower *f = mal_calloc(1, sizeof *f);
    if (!f) return mal_fail(err, MAL_NO_MEMORY, "event stream");
    *f = (struct follower){.events = events, .req = req, .kind = query->kind};
    if (!find_place(events, query, f, err)) {
        mal_free(f);
        return false;
    }
    f->next = events->followers;
    if (f->next) f->next->prev = f;
    events->followers = f;
    events->n++;
    struct mal_stream stream = {.next = next, .gone = gone, .arg = f};
    mal_http_event_stream(req, &stream);
    return true;
}

static bool is_due(struct follower *f, int64_t now) {
    if (is_over(f) || f->events->broken) return true;
    if (now - f->sent_ms >= HEARTBEAT_MS) return true;
    if (f->at >= f->events->last) return false;
    if (now - f->window_ms >= WINDOW_MS) {
        f->window_ms = now;
        f->n_wakes = 0;
    }
    return f->n_wakes++ < MOST_WAKES;
}

void mal_events_wake(struct mal_events *events) {
    struct mal_error err = {0};
    int64_t now = mal_monotonic_ms();
    if (!events->followers && now - events->seen_ms < WINDOW_MS) return;
    if (!look(events, &err)) events->broken = true;
    if (events->broken && events->followers)
        mal_log("error", "events not read", "{s:s}", "detail", err.text);
    for (struct follower *f = events->followers; f; f = f->next) {
        if (is_due(f, now)) mal_request_wake(f->req);
    }
}

void mal_events_stop(struct mal_events *events) {
    events->stopping = true;
    mal_events_wake(events);
}

size_t mal_events_streams(const struct mal_events *events) {
    return events->n;
}

bool mal_events_view(struct mal_events *events, struct mal_events_view *out,
                     struct mal_error *err) {
    if (!look(events, err)) return false;
    *out = (struct mal_events_view){
        .streams = events->n, .max_streams = events->max, .last = events->last};
    return true;
}

/* ---- Life ---- */

bool mal_events_create(struct mal_events **out, struct mal_store *reader,
                       struct mal_daemon_status *status, const struct mal_auth *auth,
                       int64_t max_streams, struct mal_error *err) {
    struct mal_events *events = mal_calloc(1, sizeof *events);
    if (!events) return mal_fail(err, MAL_NO_MEMORY, "events");
    events->reader = reader;
    events->status = status;
    events->auth = auth;
    events->max = (size_t)max_streams;
    *out = events;
    return true;
}

void mal_events_destroy(struct mal_events *events) {
    mal_free(events);
}
