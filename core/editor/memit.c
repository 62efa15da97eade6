/* memit.c - a MEMIT edit: values of all facts, then module after module the keys that
 * lead to them, what is still missing, and the shift that adds it. */
#include "core/editor/memit.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/draft.h"
#include "core/editor/memit_impl.h"
#include "core/shift.h"

/* A slice of facts through the model, and what comes of it. */
struct slice {
    size_t first, n, n_texts; /* facts; their texts */
    int64_t n_rows;
};

struct run {
    const struct mal_edit_task *task;
    struct mal_memit *memit;
    struct mal_model *model;
    struct mal_backend *be;
    const struct mal_memit_fact *facts; /* (n) */
    size_t n;
    int64_t block;  /* of the last module */
    const float *z; /* (n, C) */
    float *k, *r;   /* (n, d_in), (n, C) of the module at hand; host */
    double *mean;   /* (d_in) */
    struct mal_draft draft;
    struct mal_delta delta;
    int64_t done; /* modules */
};

static int64_t channels(const struct run *run) {
    return mal_model_info(run->model)->n_channels;
}

/* ---- Keys and residuals ---- */

static struct slice slice_at(const struct run *run, size_t first) {
    int64_t most = mal_memit_most_rows(run->task->progress, run->be);
    struct slice s = {.first = first};
    for (; first + s.n < run->n; s.n++) {
        const struct mal_memit_fact *fact = &run->facts[first + s.n];
        int64_t rows = 0;
        for (size_t i = 0; i < fact->n; i++)
            rows += fact->at[i] + 1;
        if (s.n > 0 && s.n_rows + rows > most) break;
        s.n_rows += rows;
        s.n_texts += fact->n;
    }
    return s;
}

/* Its texts up to their subjects' last tokens; the caller frees *out_block. */
static bool pack(const struct run *run, const struct slice *s, struct mal_batch *out,
                 int32_t **out_block, struct mal_error *err) {
    size_t n = s->n_texts, rows = (size_t)s->n_rows;
    int32_t *start = mal_calloc(2 * n + 1 + 2 * rows, sizeof *start);
    if (!start) return mal_fail(err, MAL_NO_MEMORY, "packed texts");
    int32_t *from = start + n + 1, *ids = from + n, *labels = ids + rows;
    memset(labels, 0xff, rows * sizeof *labels);
    size_t k = 0;
    for (size_t i = s->first; i < s->first + s->n; i++) {
        const struct mal_memit_fact *fact = &run->facts[i];
        for (size_t t = 0; t < fact->n; t++, k++) {
            from[k] = fact->at[t];
            start[k + 1] = start[k] + from[k] + 1;
            memcpy(ids + start[k], fact->texts[t].ids,
                   (size_t)(from[k] + 1) * sizeof *ids);
        }
    }
    *out = (struct mal_batch){
        .n_seqs = n, .start = start, .ids = ids, .from = from, .labels = labels};
    *out_block = start;
    return true;
}

/* k of a fact: the mean over its prompts and the groups of contexts of each group's. */
static void average(const struct run *run, const struct mal_memit_fact *fact,
                    const float *keys, int64_t d_in, float *out) {
    const struct mal_memit *memit = run->memit;
    memset(run->mean, 0, (size_t)d_in * sizeof *run->mean);
    for (size_t p = 0; p < fact->n_prompts; p++) {
        for (size_t g = 0; g < memit->n_groups; g++) {
            double share = 1 / (double)(fact->n_prompts * memit->n_groups) /
                           (double)memit->groups[g];
            for (size_t c = 0; c < memit->groups[g]; c++, keys += d_in) {
                for (int64_t j = 0; j < d_in; j++)
                    run->mean[j] += share * (double)keys[j];
            }
        }
    }
    for (int64_t j = 0; j < d_in; j++)
        out[j] = (float)run->mean[j];
}

/* What the slice's texts gave: keys (texts, d_in) and the last block's states (texts, C),
 * host memory, into run->k and run->r. */
static void take(struct run *run, const struct slice *s, size_t m, const float *keys,
                 const float *states) {
    const struct mal_linear *lin = mal_model_edit(run->model, m);
    int64_t c = channels(run);
    float left = (float)(run->memit->n_modules - m);
    for (size_t i = s->first; i < s->first + s->n; i++) {
        const struct mal_memit_fact *fact = &run->facts[i];
        average(run, fact, keys, lin->d_in, run->k + (int64_t)i * lin->d_in);
        for (int64_t j = 0; j < c; j++) { /* the first text is the prompt alone */
            int64_t at = (int64_t)i * c + j;
            run->r[at] = (run->z[at] - states[j]) / left;
        }
        keys += (int64_t)fact->n * lin->d_in;
        states += (int64_t)fact->n * c;
    }
}

static bool run_slice(struct run *run, const struct slice *s, size_t m, float *device,
                      float *host, struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(run->model, m);
    size_t keys = s->n_texts * (size_t)lin->d_in;
    size_t all = keys + s->n_texts * (size_t)channels(run);
    struct mal_batch batch;
    int32_t *block = NULL;
    float **u = mal_calloc(run->memit->n_modules, sizeof *u);
    bool ok = (u || mal_fail(err, MAL_NO_MEMORY, "edit modules")) &&
              pack(run, s, &batch, &block, err);
    if (ok) u[m] = device;
    mal_draft_use(&run->draft);
    ok = ok &&
         mal_model_inside(
             run->model, &batch,
             &(struct mal_inside){.block = run->block, .u = u, .x = device + keys}, err);
    if (ok) mal_backend_download(run->be, host, device, all * sizeof *host);
    ok = ok && mal_backend_sync(run->be, err);
    if (ok) take(run, s, m, host, host + keys);
    mal_free(block);
    mal_free(u);
    return ok;
}

static bool tick(void *arg) {
    struct run *run = arg;
    const struct mal_progress *progress = run->task->progress;
    return !progress || !progress->tick ||
           progress->tick(progress->arg, MAL_STAGE_SOLVE, run->done,
                          (int64_t)run->memit->n_modules);
}

static bool measure(struct run *run, size_t m, struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(run->model, m);
    double begin = mal_clock_seconds();
    size_t texts = 0;
    for (struct slice s = slice_at(run, 0); s.n > 0; s = slice_at(run, s.first + s.n)) {
        if (s.n_texts > texts) texts = s.n_texts;
    }
    size_t bytes = texts * (size_t)(lin->d_in + channels(run)) * sizeof(float);
    float *device = mal_backend_alloc(run->be, bytes), *host = mal_malloc(bytes);
    bool ok =
        (device && host) ||
        mal_fail(err, MAL_NO_MEMORY, "module '%s': keys of %zu texts", lin->name, texts);
    for (struct slice s = slice_at(run, 0); ok && s.n > 0;
         s = slice_at(run, s.first + s.n)) {
        ok = run_slice(run, &s, m, device, host, err) &&
             mal_progress_step(run->task->progress, MAL_STAGE_SOLVE, run->done,
                               (int64_t)run->memit->n_modules, err);
    }
    mal_backend_free(run->be, device);
    mal_free(host);
    run->task->report->seconds[MAL_STAGE_FORWARD] += mal_clock_seconds() - begin;
    return ok;
}

/* ---- Shifts ---- */

/* The module's shift into the weights that the next ones are measured on. */
static bool apply(struct run *run, size_t m, const struct mal_delta_part *part,
                  struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(run->model, m);
    float *t = run->draft.tensors[m].shift;
    if (!mal_shift_add_part(run->be, part, lin->transposed, t, err)) return false;
    mal_draft_round(&run->draft, m);
    return mal_backend_sync(run->be, err);
}

static bool solve(struct run *run, size_t m, struct mal_delta_part *out,
                  struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(run->model, m);
    const struct mal_progress *progress = run->task->progress;
    double begin = mal_clock_seconds();
    size_t k_bytes = run->n * (size_t)lin->d_in * sizeof(float);
    size_t r_bytes = run->n * (size_t)lin->d_out * sizeof(float);
    float *k = mal_backend_alloc(run->be, k_bytes),
          *r = mal_backend_alloc(run->be, r_bytes);
    bool ok = (k && r) || mal_fail(err, MAL_NO_MEMORY, "module '%s': keys of %zu facts",
                                   lin->name, run->n);
    if (ok) {
        struct mal_memit_solve s = {.memit = run->memit,
                                    .m = m,
                                    .mom2_weight =
                                        run->task->editor->hyper[MAL_MEMIT_MOM2_WEIGHT],
                                    .module = lin->name,
                                    .n = (int64_t)run->n,
                                    .d_in = lin->d_in,
                                    .d_out = lin->d_out,
                                    .dtype = lin->dtype,
                                    .k = k,
                                    .r = r,
                                    .pace = {.be = run->be, .tick = tick, .arg = run}};
        mal_backend_upload(run->be, k, run->k, k_bytes);
        mal_backend_upload(run->be, r, run->r, r_bytes);
        mal_progress_observe(progress, MAL_OBSERVED_KEYS, m, s.n, k);
        mal_progress_observe(progress, MAL_OBSERVED_DIFFERENCES, m, s.n, r);
        ok = mal_memit_solve(&s, out, err);
    }
    mal_backend_free(run->be, k);
    mal_backend_free(run->be, r);
    run->task->report->seconds[MAL_STAGE_SOLVE] += mal_clock_seconds() - begin;
    return ok;
}

static bool open_modules(struct run *run, struct mal_error *err) {
    size_t n_modules = run->memit->n_modules;
    int64_t widest = 0;
    for (size_t m = 0; m < n_modules; m++) {
        int64_t d_in = mal_model_edit(run->model, m)->d_in;
        if (d_in > widest) widest = d_in;
    }
    run->delta.parts = mal_calloc(n_modules, sizeof *run->delta.parts);
    run->k = mal_calloc(run->n * (size_t)widest, sizeof *run->k);
    run->r = mal_calloc(run->n * (size_t)channels(run), sizeof *run->r);
    run->mean = mal_calloc((size_t)widest, sizeof *run->mean);
    if (!run->delta.parts || !run->k || !run->r || !run->mean)
        return mal_fail(err, MAL_NO_MEMORY, "keys of %zu facts", run->n);
    return mal_draft_begin(&run->draft, run->model, err);
}

static bool edit_modules(struct run *run, struct mal_error *err) {
    size_t n = run->memit->n_modules;
    if (!open_modules(run, err)) return false;
    for (size_t m = 0; m < n; m++, run->done++) {
        struct mal_delta_part *part = &run->delta.parts[m];
        if (!measure(run, m, err) || !solve(run, m, part, err)) return false;
        run->delta.n_parts++;
        if (m + 1 < n && !apply(run, m, part, err)) return false;
    }
    mal_delta_sort(&run->delta);
    return true;
}

bool mal_memit_edit_to(const struct mal_edit_task *task,
                       const struct mal_memit_fact *facts, size_t n, const float *z,
                       struct mal_delta *out, struct mal_error *err) {
    struct run run = {.task = task,
                      .memit = task->editor->own,
                      .model = task->model,
                      .be = mal_model_backend(task->model),
                      .facts = facts,
                      .n = n,
                      .block = mal_memit_block(task),
                      .z = z};
    bool ok = edit_modules(&run, err);
    mal_draft_finish(&run.draft);
    mal_free(run.k);
    mal_free(run.r);
    mal_free(run.mean);
    if (ok)
        *out = run.delta;
    else
        mal_delta_finish(&run.delta);
    return ok;
}

/* ---- The whole ---- */

int64_t mal_memit_block(const struct mal_edit_task *task) {
    return mal_model_edit(task->model, task->editor->n_modules - 1)->block;
}

static bool read_facts(const struct mal_edit_task *task, struct mal_memit_fact *facts,
                       struct mal_error *err) {
    double begin = mal_clock_seconds();
    for (size_t i = 0; i < task->n_facts; i++) {
        struct mal_error own = {0};
        char pointer[sizeof own.pointer + 32];
        if (mal_memit_fact_init(&facts[i], task->editor->own, task->model, task->tok,
                                &task->facts[i], &own))
            continue;
        snprintf(pointer, sizeof pointer, "/facts/%zu%s", i, own.pointer);
        return mal_fail_at(err, own.status, pointer, "fact %zu: %s", i, own.text);
    }
    task->report->n_tokens = (int64_t)task->n_facts;
    task->report->seconds[MAL_STAGE_TOKENIZE] += mal_clock_seconds() - begin;
    return true;
}

static bool find_values(const struct mal_edit_task *task,
                        const struct mal_memit_fact *facts, float *z,
                        struct mal_error *err) {
    struct mal_memit_values values = {.model = task->model,
                                      .block = mal_memit_block(task),
                                      .hyper = task->editor->hyper,
                                      .facts = facts,
                                      .n = task->n_facts,
                                      .progress = task->progress,
                                      .report = task->report};
    bool ok = mal_memit_find_values(&values, z, err);
    mal_model_drop_scratch(task->model); /* room for the solves */
    return ok;
}

bool mal_memit_edit(const struct mal_edit_task *task, struct mal_delta *out,
                    struct mal_error *err) {
    size_t n = task->n_facts, c = (size_t)mal_model_info(task->model)->n_channels;
    struct mal_memit_fact *facts = mal_calloc(n, sizeof *facts);
    float *z = mal_calloc(n * c, sizeof *z);
    bool ok = (facts && z) || mal_fail(err, MAL_NO_MEMORY, "values of %zu facts", n);
    ok = ok && read_facts(task, facts, err) && find_values(task, facts, z, err) &&
         mal_memit_edit_to(task, facts, n, z, out, err);
    mal_memit_facts_free(facts, n);
    mal_free(z);
    return ok;
}
