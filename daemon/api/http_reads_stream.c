/* http_reads_stream.c - completions whose text is sent while it is made.
 *
 * The worker puts what is certain of each text into a queue, a piece a token; the loop
 * takes a piece when the client has taken the one before. The queue holds no more than
 * the answers, however slow the client is, and the worker never waits for one. Until
 * there is a first piece, an error is an answer of its own; from then on, the stream's
 * last event.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "daemon/api/http_reads_impl.h"
#include "daemon/http/http.h"

struct piece {
    struct piece *next;
    size_t choice;
    bool ended; /* the last one of the choice */
    enum mal_finish finish;
    size_t bytes;
    char text[];
};

struct mal_streaming {
    struct mal_inquiry *q;
    pthread_mutex_t lock; /* of what follows */
    struct piece *first, **last;
    bool posted;

    /* The worker's, and the loop's when it is done. */
    size_t *taken; /* (n) bytes of each choice that are in pieces */
    bool *ended;   /* (n) so is its last */

    /* The loop's. */
    struct mal_task task;
    bool begun, done, gone;    /* answering; the worker is done; the client has left */
    bool *sent;                /* (n) something of a choice */
    bool said_usage, said_all; /* what follows the pieces */
};

/* ---- On the worker's thread ---- */

/* What is new of a choice. NULL: nothing; or no memory, and there is more the next time.
 */
static struct piece *take_piece(struct mal_streaming *st,
                                const struct mal_generation *gen, size_t choice) {
    size_t from = st->taken[choice], bytes = gen->sure > from ? gen->sure - from : 0;
    if (st->ended[choice] || (bytes == 0 && !gen->ended)) return NULL;
    struct piece *piece = mal_malloc(sizeof *piece + bytes);
    if (!piece) return NULL;
    *piece = (struct piece){
        .choice = choice, .ended = gen->ended, .finish = gen->finish, .bytes = bytes};
    if (bytes) memcpy(piece->text, gen->text + from, bytes);
    st->taken[choice] = from + bytes;
    st->ended[choice] = gen->ended;
    return piece;
}

static void progress(struct mal_read *read, const struct mal_generation *gens) {
    struct mal_inquiry *q = (struct mal_inquiry *)read;
    struct mal_streaming *st = q->streaming;
    bool post = false;
    for (size_t i = 0; i < read->n; i++) {
        struct piece *piece = take_piece(st, &gens[i], i);
        if (!piece) continue;
        pthread_mutex_lock(&st->lock);
        *st->last = piece;
        st->last = &piece->next;
        post = post || !st->posted;
        st->posted = true;
        pthread_mutex_unlock(&st->lock);
    }
    if (post) mal_loop_post(q->daemon->loop, &st->task);
}

/* ---- Texts ---- */

static enum mal_stream_step say(const char *before, char *json, const char *after,
                                char **text, size_t *bytes) {
    size_t room = json ? strlen(before) + strlen(json) + strlen(after) + 16 : 0;
    *text = json ? mal_malloc(room) : NULL;
    if (*text)
        *bytes = (size_t)snprintf(*text, room, "data: %s%s%s\n\n", before, json, after);
    mal_free(json);
    return *text ? MAL_STREAM_TEXT : MAL_STREAM_BREAK;
}

static enum mal_stream_step say_chunk(const struct mal_inquiry *q, json_t *choices,
                                      json_t *usage, char **text, size_t *bytes) {
    return say("", mal_json_text(mal_render_completion(q, choices, usage)), "", text,
               bytes);
}

static enum mal_stream_step say_piece(struct mal_streaming *st, const struct piece *piece,
                                      char **text, size_t *bytes) {
    const struct mal_inquiry *q = st->q;
    json_t *choice =
        mal_render_choice(q, piece->choice, !st->sent[piece->choice], piece->text,
                          piece->bytes, piece->ended, piece->finish);
    st->sent[piece->choice] = true;
    return say_chunk(q, json_pack("[o]", choice),
                     q->completion.include_usage ? json_null() : NULL, text, bytes);
}

/* After the pieces. */
static enum mal_stream_step say_end(struct mal_streaming *st, char **text,
                                    size_t *bytes) {
    struct mal_inquiry *q = st->q;
    if (st->said_all) return MAL_STREAM_END;
    if (q->read.ok && q->completion.include_usage && !st->said_usage) {
        st->said_usage = true;
        return say_chunk(q, json_array(), mal_render_usage(q), text, bytes);
    }
    st->said_all = true;
    if (q->read.ok) return say("", mal_strdup("[DONE]"), "", text, bytes);
    const struct mal_error *err = &q->read.err;
    return say("{\"error\":", mal_encode_problem(err, mal_status_http(err->status)), "}",
               text, bytes);
}

/* ---- On the loop ---- */

static struct piece *take_first(struct mal_streaming *st) {
    pthread_mutex_lock(&st->lock);
    struct piece *piece = st->first;
    if (piece) st->first = piece->next;
    if (!st->first) st->last = &st->first;
    pthread_mutex_unlock(&st->lock);
    return piece;
}

static enum mal_stream_step next(void *arg, char **text, size_t *bytes) {
    struct mal_streaming *st = arg;
    struct piece *piece = take_first(st);
    if (!piece) return st->done ? say_end(st, text, bytes) : MAL_STREAM_WAIT;
    enum mal_stream_step step = say_piece(st, piece, text, bytes);
    mal_free(piece);
    return step;
}

static void gone(void *arg) {
    struct mal_streaming *st = arg;
    st->gone = true;
    if (st->done) {
        mal_inquiry_free(st->q);
    } else {
        mal_worker_give_up(st->q->daemon->worker, &st->q->read);
    }
}

/* There are pieces, or the worker is done. */
static void wake(struct mal_streaming *st) {
    struct mal_stream stream = {.next = next, .gone = gone, .arg = st};
    if (st->begun) {
        mal_request_wake(st->q->req);
    } else {
        st->begun = true;
        mal_inquiry_begin(st->q);
        mal_http_event_stream(st->q->req, &stream);
    }
}

static void run_progress(void *arg) {
    struct mal_streaming *st = arg;
    pthread_mutex_lock(&st->lock);
    st->posted = false;
    pthread_mutex_unlock(&st->lock);
    if (!st->gone) wake(st);
}

/* All pieces are there, and the loop has been told of them. */
static void done(struct mal_read *read) {
    struct mal_inquiry *q = (struct mal_inquiry *)read;
    struct mal_streaming *st = q->streaming;
    st->done = true;
    for (size_t i = 0; read->ok && i < read->n; i++) {
        if (!st->ended[i]) read->ok = mal_fail(&read->err, MAL_NO_MEMORY, "answer");
    }
    if (st->gone) {
        mal_inquiry_free(q);
    } else if (st->begun || read->ok) {
        wake(st);
    } else {
        mal_http_fail(q->req, &read->err);
        mal_inquiry_free(q);
    }
}

/* ---- Life ---- */

bool mal_streaming_create(struct mal_inquiry *q, struct mal_error *err) {
    size_t n = q->read.n;
    struct mal_streaming *st = mal_calloc(1, sizeof *st);
    if (!st) return mal_fail(err, MAL_NO_MEMORY, "answer");
    pthread_mutex_init(&st->lock, NULL);
    st->q = q;
    st->last = &st->first;
    st->task = (struct mal_task){.run = run_progress, .arg = st};
    st->taken = mal_calloc(n, sizeof *st->taken);
    st->ended = mal_calloc(n, sizeof *st->ended);
    st->sent = mal_calloc(n, sizeof *st->sent);
    q->streaming = st;
    q->read.progress = progress;
    q->read.done = done;
    return (st->taken && st->ended && st->sent) || mal_fail(err, MAL_NO_MEMORY, "answer");
}

void mal_streaming_free(struct mal_streaming *st) {
    if (!st) return;
    struct piece *piece;
    while ((piece = take_first(st)))
        mal_free(piece);
    pthread_mutex_destroy(&st->lock);
    mal_free(st->taken);
    mal_free(st->ended);
    mal_free(st->sent);
    mal_free(st);
}
