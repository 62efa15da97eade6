/* memit.c - MEMIT's search for values: many facts at once, and one at a time.
 *
 *     bench_memit MODEL EDITOR FACTS N MOST DEVICE
 *
 * The values of the first N facts, at most MOST of them together (0: as many as the
 * program would take). Prints a JSON line: seconds and processor seconds, steps, the
 * facts' losses at their last steps (mean of -log p of the target, and how many came
 * below 0.05), and memory: what the device's allocations grew to beside the model, and
 * the process. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/memit_impl.h"

struct bench {
    struct mal_backend *be;
    struct mal_model *model;
    struct mal_tokenizer *tok;
    struct mal_editor *editor;
    struct mal_fact *facts;
    struct mal_memit_fact *texts; /* (n) */
    size_t n_facts, n;
    struct mal_memit_terms *last; /* (n) of each fact's last step */
    int64_t steps;                /* of all */
    size_t model_bytes;           /* on the device */
    size_t device_bytes;          /* the most there were between two passes */
};

static bool open_bench(struct bench *b, char **argv, struct mal_error *err) {
    bool ok = mal_backend_create(&b->be, argv[6], err) &&
              mal_model_open(&b->model, argv[1], b->be, err) &&
              mal_tokenizer_open(&b->tok, argv[1], err) &&
              mal_editor_open(&b->editor, argv[2], err) &&
              mal_editor_bind(b->editor, b->model, err) &&
              mal_facts_load(&b->facts, &b->n_facts, argv[3], err);
    if (!ok) return false;
    b->n = strtoul(argv[4], NULL, 10);
    if (b->n > b->n_facts) b->n = b->n_facts;
    b->texts = mal_calloc(b->n, sizeof *b->texts);
    b->last = mal_calloc(b->n, sizeof *b->last);
    if (!b->texts || !b->last) return mal_fail(err, MAL_NO_MEMORY, "facts");
    for (size_t i = 0; i < b->n; i++) {
        if (!mal_memit_fact_init(&b->texts[i], b->editor->own, b->model, b->tok,
                                 &b->facts[i], err))
            return false;
    }
    return true;
}

static void close_bench(struct bench *b) {
    mal_free(b->last);
    mal_memit_facts_free(b->texts, b->n);
    mal_facts_free(b->facts, b->n_facts);
    mal_editor_close(b->editor);
    mal_tokenizer_close(b->tok);
    mal_model_close(b->model);
    mal_backend_destroy(b->be);
}

static void watch(void *arg, size_t fact, int64_t step, const struct mal_memit_terms *t) {
    struct bench *b = arg;
    (void)step;
    b->last[fact] = *t;
    b->steps++;
}

static bool tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct bench *b = arg;
    size_t bytes = mal_backend_bytes(b->be);
    (void)stage, (void)done, (void)total;
    if (bytes > b->device_bytes) b->device_bytes = bytes;
    return true;
}

static double processor_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool run(struct bench *b, size_t most, double seconds[2], struct mal_error *err) {
    struct mal_edit_report report = {0};
    struct mal_progress progress = {.tick = tick, .arg = b};
    struct mal_memit_values values = {
        .model = b->model,
        .block = mal_model_edit(b->model, b->editor->n_modules - 1)->block,
        .hyper = b->editor->hyper,
        .facts = b->texts,
        .n = b->n,
        .most_facts = most,
        .progress = &progress,
        .report = &report,
        .watch = watch,
        .watch_arg = b};
    float *z =
        mal_malloc(b->n * (size_t)mal_model_info(b->model)->n_channels * sizeof *z);
    if (!z) return mal_fail(err, MAL_NO_MEMORY, "values");
    b->model_bytes = mal_backend_bytes(b->be);
    double begin = mal_clock_seconds(), spent = processor_seconds();
    bool ok = mal_memit_find_values(&values, z, err);
    seconds[0] = mal_clock_seconds() - begin;
    seconds[1] = processor_seconds() - spent;
    mal_free(z);
    return ok;
}

static void print(const struct bench *b, size_t most, const double seconds[2]) {
    double n = (double)b->n, nll = 0;
    json_int_t low = 0;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    for (size_t i = 0; i < b->n; i++) {
        nll += b->last[i].nll / n;
        low += b->last[i].loss < 0.05;
    }
    json_t *out = json_pack(
        "{s:I,s:I,s:f,s:f,s:f,s:I,s:f,s:I,s:I,s:I}", "facts", (json_int_t)b->n, "most",
        (json_int_t)most, "seconds", seconds[0], "processor_seconds", seconds[1],
        "seconds_per_fact", seconds[0] / n, "steps", (json_int_t)b->steps, "nll", nll,
        "low", low, "device_bytes", (json_int_t)(b->device_bytes - b->model_bytes),
        "max_rss_kib", (json_int_t)usage.ru_maxrss);
    json_dumpf(out, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(out);
}

int main(int argc, char **argv) {
    struct bench b = {0};
    struct mal_error err = {0};
    double seconds[2] = {0};
    if (argc != 7) {
        fprintf(stderr, "usage: bench_memit MODEL EDITOR FACTS N MOST DEVICE\n");
        return 2;
    }
    size_t most = strtoul(argv[5], NULL, 10);
    bool ok = open_bench(&b, argv, &err) && run(&b, most, seconds, &err);
    if (ok)
        print(&b, most, seconds);
    else
        fprintf(stderr, "%s\n", err.text);
    close_bench(&b);
    return ok ? 0 : 1;
}
