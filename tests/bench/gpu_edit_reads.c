/* gpu_edit_reads.c - answers given by a second thread, on its own stream of the device:
 * while nothing else runs there, while facts are taught, and while they are taught as the
 * daemon does it, whose every tick waits for the reads there are
 * (daemon/worker/reader.c). Who reads asks again at once. */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "core/model/generate.h"
#include "gpu_edit.h"

enum {
    MOST_READS = 1 << 16,
    IDLE_MS = 6500,     /* of more than 100 reads p99 is not the slowest one */
    SLICE_TOKENS = 512, /* as in daemon/worker/jobs.c, if --slice says nothing else */
    PROMPT = 20,
    TOKENS = 8,
    SLOWEST = 4
};

struct one_read {
    double seconds;
    int stage; /* of the edit, when it ended */
};

struct reading {
    struct edit_bench *e;
    void (*teach)(struct edit_bench *e, const char *name, size_t n);
    struct mal_model *reader;
    pthread_mutex_t lock; /* of the next three, never held over a read */
    pthread_cond_t ended;
    bool over;
    size_t n_asked, n_ended; /* answered, or failed */
    struct mal_error err;
    struct one_read reads[MOST_READS];
    size_t n;
    double idle_ms[2];            /* p50 and p99 with nothing beside them */
    double unread;                /* seconds of the edit when nobody reads */
    double served_at, served_for; /* when a tick's wait ended last, its seconds */
};

struct phase {
    const char *what;
    size_t facts; /* taught meanwhile; 0: none */
    bool settled;
};

/* Whether to read once more, which is asked for with that. */
static bool ask(struct reading *r) {
    pthread_mutex_lock(&r->lock);
    bool more = !r->over && r->n_asked < MOST_READS;
    if (more) r->n_asked++;
    pthread_mutex_unlock(&r->lock);
    return more;
}

static void end_one(struct reading *r) {
    pthread_mutex_lock(&r->lock);
    r->n_ended++;
    pthread_cond_signal(&r->ended);
    pthread_mutex_unlock(&r->lock);
}

void settle_reads(struct reading *r) {
    double now = mal_clock_seconds();
    if (now - r->served_at < r->served_for / 2) return;
    pthread_mutex_lock(&r->lock);
    size_t asked = r->n_asked;
    while (r->n_ended < asked)
        pthread_cond_wait(&r->ended, &r->lock);
    pthread_mutex_unlock(&r->lock);
    r->served_at = mal_clock_seconds();
    r->served_for = r->served_at - now;
}

static bool read_once(struct reading *r) {
    static int32_t prompt[PROMPT];
    for (int32_t i = 0; i < PROMPT; i++)
        prompt[i] = 'a' + i;
    struct mal_generation gen = {
        .prompt = prompt, .n_prompt = PROMPT, .max_tokens = TOKENS, .top_p = 1};
    struct mal_weights_lease lease;
    double begin = mal_clock_seconds();
    if (!mal_weights_lease(r->e->ws, -1, r->reader, &lease, &r->err)) return false;
    bool ok = mal_generate(r->reader, r->e->tok, &gen, 1, NULL, NULL, &r->err);
    mal_weights_end_lease(r->e->ws, &lease);
    mal_generation_finish(&gen);
    if (ok)
        r->reads[r->n++] = (struct one_read){mal_clock_seconds() - begin, r->e->stage};
    return ok;
}

static void *read_all(void *arg) {
    struct reading *r = arg;
    for (bool ok = true; ok && ask(r);) {
        ok = read_once(r);
        end_one(r);
    }
    return NULL;
}

static void wait_ms(int64_t ms) {
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static int by_size(const void *a, const void *b) {
    const struct one_read *x = a, *y = b;
    return (x->seconds > y->seconds) - (x->seconds < y->seconds);
}

static double ms_at(const struct reading *r, size_t percent) {
    return 1e3 * r->reads[r->n * percent / 100].seconds;
}

static void report(struct reading *r, const struct phase *phase, double seconds) {
    json_t *line = json_pack("{s:s,s:s,s:I,s:I,s:f}", "case", "reads", "while",
                             phase->what, "facts", (json_int_t)phase->facts, "reads",
                             (json_int_t)r->n, "seconds", seconds);
    json_t *slowest = json_array();
    qsort(r->reads, r->n, sizeof *r->reads, by_size);
    double ms[2] = {ms_at(r, 50), ms_at(r, 99)};
    if (!phase->facts) memcpy(r->idle_ms, ms, sizeof ms);
    for (size_t i = 0; i < SLOWEST && i < r->n; i++) {
        const struct one_read *read = &r->reads[r->n - 1 - i];
        const char *stage =
            phase->facts ? mal_stage_name((enum mal_stage)read->stage) : "";
        json_array_append_new(
            slowest, json_pack("{s:f,s:s}", "ms", 1e3 * read->seconds, "stage", stage));
    }
    json_object_update_new(line,
                           json_pack("{s:f,s:f}", "p50_ms", ms[0], "p99_ms", ms[1]));
    if (phase->facts) {
        json_object_update_new(
            line, json_pack("{s:f,s:f,s:f,s:f,s:I}", "idle_p50_ms", r->idle_ms[0],
                            "idle_p99_ms", r->idle_ms[1], "edit_seconds",
                            r->e->edit_seconds, "edit_seconds_unread", r->unread,
                            "slice_tokens", (json_int_t)r->e->slice));
    }
    json_object_set_new(line, "slowest", slowest);
    print_line(line);
}

/* Reads as long as the phase's facts are taught, or for a while where it has none. */
static bool read_beside(struct reading *r, const struct phase *phase,
                        struct mal_error *err) {
    pthread_t thread;
    r->over = false;
    r->n = 0;
    r->n_asked = r->n_ended = 0;
    double begin = mal_clock_seconds();
    if (pthread_create(&thread, NULL, read_all, r))
        return mal_fail(err, MAL_NO_MEMORY, "no thread");
    if (phase->facts) {
        r->e->reading = phase->settled ? r : NULL;
        r->e->beside = phase->settled ? "reads, settled" : "reads";
        r->teach(r->e, "alone", phase->facts);
        r->e->reading = NULL;
        r->e->beside = NULL;
    } else {
        wait_ms(IDLE_MS);
    }
    pthread_mutex_lock(&r->lock);
    r->over = true;
    pthread_mutex_unlock(&r->lock);
    pthread_join(thread, NULL);
    *err = r->err;
    if (err->status != MAL_OK) return false;
    if (r->n == 0) return mal_fail(err, MAL_CANCELLED, "no read was answered");
    report(r, phase, mal_clock_seconds() - begin);
    return true;
}

/* The edit without reads comes first, so that what is done once is done. */
static bool read_in_phases(struct reading *r, size_t n, struct mal_error *err) {
    const struct phase phases[] = {
        {"idle", 0, false}, {"alone", n, false}, {"settled", n, true}};
    r->teach(r->e, "alone", n);
    r->unread = r->e->edit_seconds;
    bool ok = read_once(r);
    if (!ok) *err = r->err;
    for (size_t i = 0; ok && i < sizeof phases / sizeof *phases; i++)
        ok = read_beside(r, &phases[i], err);
    return ok;
}

void run_reads(struct edit_bench *e, size_t n,
               void (*teach)(struct edit_bench *e, const char *name, size_t n),
               void (*report_error)(struct edit_bench *e, const char *name, size_t n,
                                    const struct mal_error *err)) {
    struct mal_error err = {0};
    struct mal_backend *beside = NULL;
    struct reading *r = calloc(1, sizeof *r);
    int64_t slice = e->slice;
    if (slice == 0) e->slice = SLICE_TOKENS;
    bool ok = r && mal_backend_create_beside(&beside, e->be, &err) &&
              mal_model_share(&r->reader, e->model, beside, &err);
    if (ok) {
        r->e = e;
        r->teach = teach;
        pthread_mutex_init(&r->lock, NULL);
        pthread_cond_init(&r->ended, NULL);
        ok = read_in_phases(r, n, &err);
        pthread_cond_destroy(&r->ended);
        pthread_mutex_destroy(&r->lock);
    }
    if (!ok) report_error(e, "reads", n, &err);
    if (r) mal_model_close(r->reader);
    mal_backend_destroy(beside);
    free(r);
    e->slice = slice;
}
