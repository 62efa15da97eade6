/* gpu_bench.h - what the programs that measure a device share: how fast it could be,
 * device memory with random contents, and a clock around queued repeats.
 *
 * Nothing here knows a device but through core/backend.h. Results are JSON lines on
 * standard output, written as they come, so that a run that is stopped leaves those it
 * has. */
#ifndef MAL_GPU_BENCH_H
#define MAL_GPU_BENCH_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/backend.h"
#include "core/clock.h"
#include "core/random.h"

/* ---- How fast it could be ---- */

enum peak { PEAK_BF16, PEAK_TF32, PEAK_FP32, PEAK_FP64, PEAK_BYTES, N_PEAKS };

static const char *const peak_names[N_PEAKS] = {"bf16", "tf32", "fp32", "fp64", "bytes"};

struct peaks {
    double rate[N_PEAKS]; /* operations or bytes a second */
};

/* An H100 (SXM) by its data sheet. */
static inline struct peaks peaks_default(void) {
    return (struct peaks){{989e12, 494e12, 67e12, 67e12, 3.35e12}};
}

/* "bf16=989,bytes=3.35": in units of 10^12 a second. False for a name that is none. */
static inline bool peaks_parse(struct peaks *out, const char *text) {
    while (*text) {
        int which = 0;
        size_t n = strcspn(text, "=");
        while (which < N_PEAKS && (strlen(peak_names[which]) != n ||
                                   strncmp(peak_names[which], text, n) != 0))
            which++;
        if (which == N_PEAKS || text[n] != '=') return false;
        char *end;
        out->rate[which] = 1e12 * strtod(text + n + 1, &end);
        if (!(out->rate[which] > 0) || (*end && *end != ',')) return false;
        text = *end ? end + 1 : end;
    }
    return true;
}

/* What must be done at least. */
struct cost {
    double flops;
    enum peak unit; /* that does them */
    double bytes;   /* through the device's memory, each once */
};

static inline double floor_seconds(const struct peaks *peaks, const struct cost *cost) {
    double work = cost->flops / peaks->rate[cost->unit],
           moved = cost->bytes / peaks->rate[PEAK_BYTES];
    return work > moved ? work : moved;
}

/* ---- A bench ---- */

enum { MAX_TAKEN = 64, BLOCK_FLOATS = 1 << 22 };

struct bench {
    struct mal_backend *be;
    struct peaks peaks;
    double seconds;   /* to spend on each case */
    const char *only; /* names that begin so, NULL: all */
    void *taken[MAX_TAKEN];
    size_t n_taken;
    float *block;        /* (BLOCK_FLOATS) random numbers in [-1, 1), host */
    float *device_block; /* the same on the device */
    bool no_memory;
    int n_failed;
};

/* A number that is none makes no line. */
static inline void print_line(json_t *line) {
    if (!line) line = json_pack("{s:s}", "error", "a figure is not a number");
    json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    fflush(stdout);
    json_decref(line);
}

static inline bool bench_open(struct bench *b, const char *device,
                              struct mal_error *err) {
    uint64_t seed = 1;
    size_t bytes = BLOCK_FLOATS * sizeof(float);
    if (!mal_backend_create(&b->be, device, err)) return false;
    b->block = mal_malloc(bytes);
    b->device_block = mal_backend_alloc(b->be, bytes);
    if (!b->block || !b->device_block) return mal_fail(err, MAL_NO_MEMORY, "numbers");
    for (size_t i = 0; i < BLOCK_FLOATS; i++)
        b->block[i] = (float)(2 * mal_random_unit(&seed) - 1);
    mal_backend_upload(b->be, b->device_block, b->block, bytes);
    return mal_backend_sync(b->be, err);
}

static inline void bench_close(struct bench *b) {
    if (!b->be) return;
    mal_backend_free(b->be, b->device_block);
    mal_free(b->block);
    mal_backend_destroy(b->be);
}

/* Device memory until bench_release(); where there is too little, cases are passed over.
 */
static inline void *bench_take(struct bench *b, int64_t bytes) {
    void *mem =
        b->n_taken < MAX_TAKEN ? mal_backend_alloc(b->be, (size_t)bytes + 64) : NULL;
    if (mem)
        b->taken[b->n_taken++] = mem;
    else
        b->no_memory = true;
    return mem;
}

static inline void bench_release(struct bench *b) {
    while (b->n_taken > 0)
        mal_backend_free(b->be, b->taken[--b->n_taken]);
    b->no_memory = false;
}

/* Random numbers in [-1, 1), repeated after BLOCK_FLOATS. */
static inline float *bench_floats(struct bench *b, int64_t n) {
    float *x = bench_take(b, n * (int64_t)sizeof *x);
    for (int64_t i = 0; x && i < n; i += BLOCK_FLOATS) {
        int64_t k = n - i < BLOCK_FLOATS ? n - i : BLOCK_FLOATS;
        mal_backend_copy(b->be, x + i, b->device_block, (size_t)k * sizeof *x);
    }
    return x;
}

static inline uint16_t *bench_bf16(struct bench *b, int64_t n) {
    uint16_t *x = bench_take(b, n * (int64_t)sizeof *x);
    for (int64_t i = 0; x && i < n; i += BLOCK_FLOATS) {
        int64_t k = n - i < BLOCK_FLOATS ? n - i : BLOCK_FLOATS;
        mal_convert(b->be, k, x + i, MAL_BF16, b->device_block, MAL_F32);
    }
    return x;
}

static inline double *bench_doubles(struct bench *b, int64_t n) {
    double *x = bench_take(b, n * (int64_t)sizeof *x);
    for (int64_t i = 0; x && i < n; i += BLOCK_FLOATS) {
        int64_t k = n - i < BLOCK_FLOATS ? n - i : BLOCK_FLOATS;
        mal_convert(b->be, k, x + i, MAL_F64, b->device_block, MAL_F32);
    }
    return x;
}

/* i * step where below is 0, else random numbers below that. */
static inline int32_t *bench_ints(struct bench *b, int64_t n, int64_t step,
                                  int64_t below) {
    uint64_t seed = 5;
    int32_t *x = bench_take(b, n * (int64_t)sizeof *x),
            *host = mal_malloc((size_t)n * sizeof *host);
    if (!host) b->no_memory = true;
    for (int64_t i = 0; host && i < n; i++)
        host[i] = (int32_t)(below ? (int64_t)mal_random_below(&seed, (uint64_t)below)
                                  : i * step);
    if (x && host) mal_backend_upload(b->be, x, host, (size_t)n * sizeof *x);
    struct mal_error err = {0};
    if (!mal_backend_sync(b->be, &err)) b->no_memory = true;
    mal_free(host);
    return x;
}

/* ---- The clock ---- */

enum { MAX_BATCHES = 9 };

/* for (struct timer t = timer(b, ...); timer_next(&t);) operation;
 *
 * times the operation, warmed up once: batches of as many as take some 20 ms, the device
 * waited for after each batch only; the best batch counts. */
struct timer {
    struct bench *b;
    const char *name;
    char what[96];
    struct cost cost;
    int64_t calls, repeats, left;
    int n_batches;
    double start, began, spent[MAX_BATCHES]; /* a call, of each batch */
};

/* `what`: the case, by its sizes; together with the name it is how results are matched.
 */
static inline struct timer timer(struct bench *b, const char *name, const char *what,
                                 struct cost cost) {
    struct timer t = {.b = b, .name = name, .cost = cost};
    snprintf(t.what, sizeof t.what, "%s", what);
    return t;
}

static inline bool timer_fail(struct timer *t, const char *why) {
    t->b->n_failed++;
    print_line(
        json_pack("{s:s,s:s,s:s}", "name", t->name, "case", t->what, "error", why));
    return false;
}

static inline int by_seconds(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline bool timer_report(struct timer *t) {
    qsort(t->spent, (size_t)t->n_batches, sizeof *t->spent, by_seconds);
    double best = t->spent[0], median = t->spent[t->n_batches / 2];
    double least = floor_seconds(&t->b->peaks, &t->cost);
    bool moves = t->cost.bytes / t->b->peaks.rate[PEAK_BYTES] >= least;
    json_t *line =
        json_pack("{s:s,s:s,s:f,s:f,s:I}", "name", t->name, "case", t->what, "ms",
                  1e3 * best, "median_ms", 1e3 * median, "calls", (json_int_t)t->calls);
    if (t->cost.flops > 0)
        json_object_set_new(line, "tflops", json_real(1e-12 * t->cost.flops / best));
    if (t->cost.bytes > 0)
        json_object_set_new(line, "gbps", json_real(1e-9 * t->cost.bytes / best));
    if (least > 0) {
        json_object_set_new(line, "floor_ms", json_real(1e3 * least));
        json_object_set_new(line, "share", json_real(least / best));
        json_object_set_new(line, "bound",
                            json_string(peak_names[moves ? PEAK_BYTES : t->cost.unit]));
    }
    print_line(line);
    return false;
}

/* Whether an operation of this name, or one whose name begins so, is asked for. */
static inline bool bench_wants(const struct bench *b, const char *name) {
    size_t n = b->only ? strlen(b->only) : 0, own = strlen(name);
    return strncmp(name, b->only ? b->only : "", n < own ? n : own) == 0;
}

static inline bool timer_wanted(const struct timer *t) {
    return !t->b->only || strncmp(t->name, t->b->only, strlen(t->b->only)) == 0;
}

/* A batch ends; false after the last. */
static inline bool timer_batch(struct timer *t, double now) {
    enum { LEAST = 3 };

    if (t->calls == 2) { /* one call was timed: so many make a batch */
        double one = now - t->start;
        t->repeats = one > 0.02 ? 1 : (int64_t)(0.02 / (one > 1e-7 ? one : 1e-7)) + 1;
    } else {
        t->spent[t->n_batches++] = (now - t->start) / (double)t->repeats;
        bool enough = now - t->began > t->b->seconds;
        if (t->n_batches == MAX_BATCHES || (enough && t->n_batches >= LEAST))
            return false;
        /* what takes long is timed once or twice */
        if (enough && now - t->began > 4 * t->b->seconds) return false;
    }
    t->left = t->repeats;
    return true;
}

static inline bool timer_next(struct timer *t) {
    struct mal_error err = {0};
    if (!timer_wanted(t)) return false;
    if (t->b->no_memory) return timer_fail(t, "too little memory");
    if (t->calls > 1 && t->left > 0) {
        t->left--;
        t->calls++;
        return true;
    }
    if (!mal_backend_sync(t->b->be, &err)) return timer_fail(t, err.text);
    double now = mal_clock_seconds();
    if (t->calls == 1) t->began = now;
    if (t->calls > 1 && !timer_batch(t, now)) return timer_report(t);
    t->start = mal_clock_seconds();
    if (t->left > 0) t->left--;
    t->calls++;
    return true;
}

#endif
