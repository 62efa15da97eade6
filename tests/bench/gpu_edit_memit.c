/* gpu_edit_memit.c - a MEMIT edit on the model of bench_gpu_edit, and from it what as
 * many facts would take as MALMEN's authors compare the two with. */
#include "core/editor/edit.h"
#include "core/editor/memit_impl.h"
#include "gpu_edit.h"

enum {
    MANY = 16384,    /* the facts of that comparison */
    PIECE = 1 << 22, /* random numbers that are repeated */
    N_CONTEXTS = 6
};

enum { TOKENIZE, BELOW, DESCENT, KEYS, SOLVE, DRAFT, APPLY, HASH, N_PARTS };

static const char *const part_names[N_PARTS] = {"tokenize", "below", "descent", "keys",
                                                "solve",    "draft", "apply",   "hash"};

struct memit_run {
    struct edit_bench *e;
    size_t n;
    struct mal_editor *editor;
    struct mal_weights_state *ws;
    struct mal_progress progress;
    struct mal_memit_fact *facts; /* (n) */
    float *z;                     /* (n, C) */
    double *nll;                  /* (n) at the last step so far */
    int64_t steps;                /* of all facts */
    struct mal_edit_report report;
    struct mal_delta delta;
    double seconds[N_PARTS];
    double many; /* seconds of one module's solve for MANY facts */
    size_t search_bytes, edit_bytes;
};

/* ---- An editor ---- */

/* Those that a model makes up are sentences of ten tokens. */
static const char *const contexts[N_CONTEXTS] = {"{}",
                                                 "The harbor. {}",
                                                 "Therefore.. {}",
                                                 "Because we. {}",
                                                 "I remember. {}",
                                                 "You can go. {}"};

/* Of inputs that have some of their size in common. */
static float *make_moments(int64_t d) {
    float *c = mal_malloc((size_t)(d * d) * sizeof *c);
#pragma omp parallel for
    for (int64_t i = 0; i < (c ? d : 0); i++) {
        for (int64_t j = 0; j < d; j++)
            c[i * d + j] = 0.1F;
        c[i * d + i] += 0.4F;
    }
    return c;
}

static bool fill_editor(struct memit_run *r, struct mal_error *err) {
    struct mal_memit *memit = mal_memit_create(r->editor->n_modules, err);
    r->editor->own = memit;
    if (!memit) return false;
    memit->contexts = mal_calloc(N_CONTEXTS, sizeof *memit->contexts);
    memit->groups = mal_calloc(2, sizeof *memit->groups);
    bool ok = memit->contexts && memit->groups;
    for (size_t i = 0; ok && i < N_CONTEXTS; i++) {
        memit->contexts[i] = mal_strdup(contexts[i]);
        ok = memit->contexts[i];
        if (ok) memit->n_contexts++;
    }
    for (size_t m = 0; ok && m < memit->n_modules; m++) {
        const char *name = r->editor->modules[m].name;
        memit->d_in[m] = mal_model_find_linear(r->e->model, name)->d_in;
        memit->mom2[m] = make_moments(memit->d_in[m]);
        ok = memit->mom2[m];
    }
    if (!ok) return mal_fail(err, MAL_NO_MEMORY, "second moments");
    memit->groups[memit->n_groups++] = 1;
    memit->groups[memit->n_groups++] = N_CONTEXTS - 1;
    return true;
}

static bool make_editor(struct memit_run *r, struct mal_error *err) {
    struct mal_model *model = r->e->model;
    const char **modules = NULL;
    size_t n = 0;
    bool ok = mal_memit_choose(model, &modules, &n, err) &&
              mal_editor_create_direct(&r->editor, &mal_method_memit, model, modules, n,
                                       NULL, err) &&
              fill_editor(r, err) && mal_editor_bind(r->editor, model, err);
    mal_free(modules);
    return ok;
}

/* A model has the edit modules of one editor: the other cases' give way. */
static bool open_run(struct memit_run *r, struct mal_error *err) {
    struct edit_bench *e = r->e;
    size_t c = (size_t)mal_model_info(e->model)->n_channels;
    mal_joint_destroy(e->joint);
    e->joint = NULL;
    e->n_joint = 0;
    mal_weights_destroy(e->ws);
    e->ws = NULL;
    mal_model_drop_scratch(e->model);
    r->progress = edit_progress(e);
    r->facts = mal_calloc(r->n, sizeof *r->facts);
    r->z = mal_calloc(r->n * c, sizeof *r->z);
    r->nll = mal_calloc(r->n, sizeof *r->nll);
    if (!r->facts || !r->z || !r->nll)
        return mal_fail(err, MAL_NO_MEMORY, "values of %zu facts", r->n);
    return make_editor(r, err) && mal_weights_create(&r->ws, e->model, 0, err);
}

static bool close_run(struct memit_run *r, struct mal_error *err) {
    struct edit_bench *e = r->e;
    mal_delta_finish(&r->delta);
    mal_memit_facts_free(r->facts, r->n);
    mal_free(r->z);
    mal_free(r->nll);
    mal_weights_destroy(r->ws);
    mal_editor_close(r->editor);
    mal_model_drop_scratch(e->model);
    return mal_editor_bind(e->editor, e->model, err) &&
           mal_weights_create(&e->ws, e->model, e->keep, err);
}

/* ---- The edit ---- */

static bool read_facts(struct memit_run *r, struct mal_error *err) {
    const struct edit_bench *e = r->e;
    double begin = mal_clock_seconds();
    for (size_t i = 0; i < r->n; i++) {
        if (!mal_memit_fact_init(&r->facts[i], r->editor->own, e->model, e->tok,
                                 &e->facts[i], err))
            return false;
    }
    r->seconds[TOKENIZE] = mal_clock_seconds() - begin;
    return true;
}

static int64_t last_block(const struct memit_run *r) {
    return mal_model_edit(r->e->model, r->editor->n_modules - 1)->block;
}

static void watch(void *arg, size_t fact, int64_t step, const struct mal_memit_terms *t) {
    struct memit_run *r = arg;
    (void)step;
    r->nll[fact] = t->nll;
    r->steps++;
}

static bool find_values(struct memit_run *r, struct mal_error *err) {
    struct mal_memit_values values = {.model = r->e->model,
                                      .block = last_block(r),
                                      .hyper = r->editor->hyper,
                                      .facts = r->facts,
                                      .n = r->n,
                                      .progress = &r->progress,
                                      .report = &r->report,
                                      .watch = watch,
                                      .watch_arg = r};
    double begin = mal_clock_seconds();
    bool ok = mal_memit_find_values(&values, r->z, err);
    r->seconds[BELOW] = r->report.seconds[MAL_STAGE_FORWARD];
    r->seconds[DESCENT] = mal_clock_seconds() - begin - r->seconds[BELOW];
    r->search_bytes = r->e->peak_bytes;
    mal_model_drop_scratch(r->e->model); /* as mal_memit_edit() does */
    return ok;
}

static bool edit(struct memit_run *r, struct mal_error *err) {
    struct edit_bench *e = r->e;
    struct mal_edit_report report = {0};
    struct mal_edit_task task = {.model = e->model,
                                 .tok = e->tok,
                                 .editor = r->editor,
                                 .facts = e->facts,
                                 .n_facts = r->n,
                                 .progress = &r->progress,
                                 .report = &report};
    r->progress = edit_progress(e);
    double times[3] = {mal_clock_seconds()};
    bool ok = mal_memit_edit_to(&task, r->facts, r->n, r->z, &r->delta, err);
    times[1] = mal_clock_seconds();
    ok = ok && mal_weights_try(r->ws, 0, &r->delta, NULL, NULL, err);
    times[2] = mal_clock_seconds();
    ok = ok && mal_weights_seal(r->ws, NULL, NULL, err);
    r->seconds[KEYS] = report.seconds[MAL_STAGE_FORWARD];
    r->seconds[SOLVE] = report.seconds[MAL_STAGE_SOLVE];
    r->seconds[DRAFT] = times[1] - times[0] - r->seconds[KEYS] - r->seconds[SOLVE];
    r->seconds[APPLY] = times[2] - times[1];
    if (ok) r->seconds[HASH] = mal_weights_hash_seconds(r->ws);
    r->edit_bytes = e->peak_bytes;
    return ok;
}

/* ---- The solve for many ---- */

static bool tick(void *arg) {
    const struct mal_progress *progress = arg;
    return progress->tick(progress->arg, MAL_STAGE_SOLVE, 0, 0);
}

/* `host` (PIECE) over and over; NULL: no memory. */
static float *on_device(struct mal_backend *be, const float *host, int64_t n) {
    float *x = mal_backend_alloc(be, (size_t)n * sizeof *x);
    for (int64_t i = 0; x && i < n; i += PIECE) {
        int64_t k = n - i < PIECE ? n - i : PIECE;
        mal_backend_upload(be, x + i, host, (size_t)k * sizeof *x);
    }
    return x;
}

static bool solve_random(struct memit_run *r, const float *k, const float *residuals,
                         struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(r->e->model, 0);
    struct mal_delta_part part = {0};
    struct mal_memit_solve solve = {
        .memit = r->editor->own,
        .mom2_weight = r->editor->hyper[MAL_MEMIT_MOM2_WEIGHT],
        .module = lin->name,
        .n = MANY,
        .d_in = lin->d_in,
        .d_out = lin->d_out,
        .dtype = lin->dtype,
        .k = k,
        .r = residuals,
        .pace = {.be = r->e->be, .tick = tick, .arg = &r->progress}};
    if (!mal_backend_sync(r->e->be, err)) return false;
    double begin = mal_clock_seconds();
    bool ok = mal_memit_solve(&solve, &part, err);
    r->many = mal_clock_seconds() - begin;
    mal_free(part.module);
    mal_free(part.data);
    return ok;
}

/* It grows otherwise than with the facts, and how long it takes does not depend on what
 * the keys are. */
static bool solve_many(struct memit_run *r, struct mal_error *err) {
    struct mal_backend *be = r->e->be;
    const struct mal_linear *lin = mal_model_edit(r->e->model, 0);
    uint64_t seed = 17;
    float *host = mal_malloc(PIECE * sizeof *host);
    for (int64_t i = 0; host && i < PIECE; i++)
        host[i] = (float)(2 * mal_random_unit(&seed) - 1);
    float *k = host ? on_device(be, host, MANY * lin->d_in) : NULL,
          *residuals = host ? on_device(be, host, MANY * lin->d_out) : NULL;
    bool ok = (k && residuals) ||
              mal_fail(err, MAL_NO_MEMORY, "random keys of %d facts", (int)MANY);
    ok = ok && solve_random(r, k, residuals, err);
    mal_backend_free(be, k);
    mal_backend_free(be, residuals);
    mal_free(host);
    return ok;
}

/* ---- What came of it ---- */

struct rows {
    double live, labels, keys; /* run again each step; with losses; up to the subjects */
};

static struct rows count_rows(const struct memit_run *r) {
    struct rows rows = {0};
    for (size_t i = 0; i < r->n; i++) {
        const struct mal_memit_fact *fact = &r->facts[i];
        for (size_t t = 0; t < fact->n; t++) {
            rows.live += fact->texts[t].n - fact->at[t];
            rows.labels += fact->texts[t].n_target;
            rows.keys += fact->at[t] + 1;
        }
        rows.live++; /* the text that is to stay */
        rows.labels++;
    }
    return rows;
}

/* Of the parts that are mostly products. */
static void find_floors(const struct memit_run *r, double *least) {
    const struct edit_bench *e = r->e;
    const struct mal_linear *lin = mal_model_edit(e->model, 0);
    enum peak unit = e->exact ? PEAK_FP32 : PEAK_BF16;
    struct rows rows = count_rows(r);
    double n = (double)r->n, c = (double)e->shape.channels, v = (double)e->shape.vocab,
           block = 4 * c * c + 2 * c * (double)e->shape.inner,
           layers = (double)e->shape.layers, above = layers - 1 - (double)last_block(r),
           in = (double)lin->d_in, out = (double)lin->d_out,
           modules = (double)r->editor->n_modules;
    double steps = (double)r->steps / n;
    /* As the solve is made for few facts, and for many. */
    double solve = mal_delta_factors_pay(lin->d_in, lin->d_out, (int64_t)r->n)
                       ? 2 * n * in * in + 5 * n * n * in + 4 * n * n * out
                       : n * in * in + 2 * n * in * out + 2 * in * in * out;
    const struct cost costs[N_PARTS] = {
        [BELOW] = {2 * (double)r->report.n_input_tokens * block * (layers - 1), unit, 0},
        [DESCENT] = {steps * 4 *
                         (block * (rows.live * (above - 1) + rows.labels) +
                          rows.labels * c * v),
                     unit, 0},
        [KEYS] = {2 * rows.keys * block * modules * (double)last_block(r), unit, 0},
        [SOLVE] = {modules * (in * in * in / 3 + solve), PEAK_FP64, 0}};
    for (int p = 0; p < N_PARTS; p++)
        least[p] = floor_seconds(&e->peaks, &costs[p]);
}

static json_t *parts_json(const double *parts) {
    json_t *out = json_object();
    for (int p = 0; p < N_PARTS; p++) {
        if (parts[p] > 0) json_object_set_new(out, part_names[p], json_real(parts[p]));
    }
    return out;
}

static double sum_of(const double *parts, int first, int end) {
    double sum = 0;
    for (int p = first; p < end; p++)
        sum += parts[p];
    return sum;
}

/* What goes through the model grows with the facts; what is done to the weights does not
 * but for the solve, which was measured. */
static void extrapolate(const struct memit_run *r, double *out) {
    for (int p = 0; p < N_PARTS; p++)
        out[p] = r->seconds[p] * (p <= KEYS ? MANY / (double)r->n : 1);
    out[SOLVE] = r->many * (double)r->editor->n_modules;
}

static void report(const struct memit_run *r) {
    const struct mal_linear *lin = mal_model_edit(r->e->model, 0);
    double n = (double)r->n, nll = 0, least[N_PARTS], many[N_PARTS];
    size_t all_bytes = r->e->peak_bytes;
    if (r->search_bytes > all_bytes) all_bytes = r->search_bytes;
    struct rows rows = count_rows(r);
    char hash[MAL_HASH_HEX];
    struct mal_hash weights = mal_weights_prepared_hash(r->ws);
    mal_hash_hex(&weights, hash);
    for (size_t i = 0; i < r->n; i++)
        nll += r->nll[i] / n;
    find_floors(r, least);
    extrapolate(r, many);
    print_line(json_pack(
        "{s:s,s:I,s:I,s:[I,I],s:I,s:I,s:f,s:f,s:f,s:f,s:f,s:o,s:o,s:f,s:f,s:s,s:I,s:I,"
        "s:I,s:s,s:f,s:b,s:o,s:f}",
        "case", "memit", "facts", (json_int_t)r->n, "modules",
        (json_int_t)r->editor->n_modules, "module", (json_int_t)lin->d_in,
        (json_int_t)lin->d_out, "contexts", (json_int_t)N_CONTEXTS, "input_tokens",
        (json_int_t)r->report.n_input_tokens, "rows_of_a_step", rows.live, "steps",
        (double)r->steps / n, "loss", r->report.loss, "last_loss", nll, "total_seconds",
        sum_of(r->seconds, 0, N_PARTS), "seconds", parts_json(r->seconds), "floor",
        parts_json(least), "values_per_fact", sum_of(r->seconds, BELOW, KEYS) / n,
        "edit_per_fact", sum_of(r->seconds, KEYS, N_PARTS) / n, "encoding",
        mal_encoding_name(mal_delta_encoding(&r->delta)), "search_device_bytes",
        (json_int_t)r->search_bytes, "edit_device_bytes", (json_int_t)r->edit_bytes,
        "peak_device_bytes", (json_int_t)all_bytes, "weights", hash, "at_16384_seconds",
        sum_of(many, 0, N_PARTS), "at_16384_extrapolated", 1, "at_16384_parts",
        parts_json(many), "module_solve_16384", r->many));
}

void run_memit(struct edit_bench *e, size_t n,
               void (*report_error)(struct edit_bench *e, const char *name, size_t n,
                                    const struct mal_error *err)) {
    struct mal_error err = {0}, own = {0};
    struct memit_run r = {.e = e, .n = n};
    bool ok = open_run(&r, &err) && read_facts(&r, &err) && find_values(&r, &err) &&
              edit(&r, &err) && solve_many(&r, &err);
    if (ok)
        report(&r);
    else
        report_error(e, "memit", n, &err);
    if (!close_run(&r, &own)) report_error(e, "memit", n, &own);
}
