/* gpu_edit_reads.c - answers given by a second thread, on its own stream of the device,
 * while nothing else runs there and while facts are taught. */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "core/model/generate.h"
#include "gpu_edit.h"

enum { MOST_READS = 1 << 16, IDLE_MS = 1500, PROMPT = 20, TOKENS = 8, SLOWEST = 4 };

struct one_read {
    double seconds;
    int stage; /* of the edit, when it ended */
};

struct reading {
    struct edit_bench *e;
    struct mal_model *reader;
    pthread_mutex_t lock;
    bool over;
    struct mal_error err;
    struct one_read reads[MOST_READS];
    size_t n;
};

static bool is_over(struct reading *r) {
    pthread_mutex_lock(&r->lock);
    bool over = r->over || r->n == MOST_READS;
    pthread_mutex_unlock(&r->lock);
    return over;
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
    while (!is_over(r) && read_once(r))
        ;
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

static double ms_at(const struct reading *r, size_t i) {
    return 1e3 * r->reads[i].seconds;
}

static void report(struct reading *r, const char *what, size_t facts, double seconds) {
    json_t *slowest = json_array();
    qsort(r->reads, r->n, sizeof *r->reads, by_size);
    for (size_t i = 0; i < SLOWEST && i < r->n; i++) {
        const struct one_read *read = &r->reads[r->n - 1 - i];
        json_array_append_new(
            slowest, json_pack("{s:f,s:s}", "ms", 1e3 * read->seconds, "stage",
                               facts ? mal_stage_name((enum mal_stage)read->stage) : ""));
    }
    print_line(json_pack("{s:s,s:s,s:I,s:I,s:f,s:f,s:f,s:o}", "case", "reads", "while",
                         what, "facts", (json_int_t)facts, "reads", (json_int_t)r->n,
                         "seconds", seconds, "p50_ms", ms_at(r, r->n / 2), "p99_ms",
                         ms_at(r, r->n * 99 / 100), "slowest", slowest));
}

/* Reads as long as `teach` runs, or for a while where that is NULL. */
static bool read_beside(struct reading *r, const char *what, size_t facts,
                        void (*teach)(struct edit_bench *e, const char *name, size_t n),
                        struct mal_error *err) {
    pthread_t thread;
    r->over = false;
    r->n = 0;
    double begin = mal_clock_seconds();
    if (pthread_create(&thread, NULL, read_all, r))
        return mal_fail(err, MAL_NO_MEMORY, "no thread");
    if (teach) {
        teach(r->e, what, facts);
    } else {
        wait_ms(IDLE_MS);
    }
    pthread_mutex_lock(&r->lock);
    r->over = true;
    pthread_mutex_unlock(&r->lock);
    pthread_join(thread, NULL);
    if (r->n > 0) {
        report(r, what, facts, mal_clock_seconds() - begin);
    } else if (r->err.status != MAL_OK) {
        *err = r->err;
    }
    return r->n > 0;
}

void run_reads(struct edit_bench *e, size_t n,
               void (*teach)(struct edit_bench *e, const char *name, size_t n),
               void (*report_error)(struct edit_bench *e, const char *name, size_t n,
                                    const struct mal_error *err)) {
    struct mal_error err = {0};
    struct mal_backend *beside = NULL;
    struct reading *r = calloc(1, sizeof *r);
    bool ok = r && mal_backend_create_beside(&beside, e->be, &err) &&
              mal_model_share(&r->reader, e->model, beside, &err);
    if (ok) {
        r->e = e;
        pthread_mutex_init(&r->lock, NULL);
        ok = read_once(r) && read_beside(r, "idle", 0, NULL, &err) &&
             read_beside(r, "alone", n, teach, &err);
        pthread_mutex_destroy(&r->lock);
    }
    if (!ok) report_error(e, "reads", n, &err);
    if (r) mal_model_close(r->reader);
    mal_backend_destroy(beside);
    free(r);
}
