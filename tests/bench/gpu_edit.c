/* gpu_edit.c - a whole edit on a device at a model's full size, from facts to the
 * weights of the version that is published, each stage beside the least time that the
 * device could take; rolling back; generation; and a step of training.
 *
 *     bench_gpu_edit --dir DIR [--device NAME] [--layers N] [--channels N] [--inner N]
 *         [--heads N] [--vocab N] [--rank N] [--blocks N] [--tokens N] [--rounds N]
 *         [--slice N] [--keep N] [--peak LIST] CASE...
 *
 * Weights are random; what must be read of them is written to DIR, unless it is there.
 * Without sizes: GPT-J 6B's, with MALMEN's editor of the paper. CASE:
 *
 *     passes:N    keys and value gradients of N facts, in slices of several lengths
 *     once:N      N facts in one pass added to the live weights (--repair-rounds 0)
 *     alone:N     N facts in a system of their own, verified, with --rounds of repair
 *     joint:N     N facts into the system of all facts before in cases of this kind
 *     rollback    to the base and back again
 *     generate:N  32 tokens after N prompts at once
 *     train:N     steps of training with N facts each
 *     reads:N     answers that a second thread gives, by itself and while N facts are
 *                 taught, with and without the ticks' wait for them
 *     memit:N     N facts by MEMIT and, extrapolated, 16,384; begins and ends at the base
 *
 * A JSON line for each; what a case lacks memory for says so and the others go on. */
#include <getopt.h>

#include "core/cpu/blas.h"
#include "core/editor/edit.h"
#include "core/editor/joint.h"
#include "core/editor/repair.h"
#include "core/editor/resident.h"
#include "core/model/generate.h"
#include "gpu_edit.h"

/* ---- Ticks ---- */

/* All ticks of an edit come after the stream was synchronised, so that the host's clock
 * sees the device's time, and a read that a tick waits for has the device to itself; only
 * a copy of weights that are hashed next may be under way. */
static void note_time(struct edit_bench *e, enum mal_stage stage) {
    double seconds = mal_clock_seconds() - e->last_tick;
    if (seconds > e->longest[stage]) e->longest[stage] = seconds;
}

static bool listen(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct edit_bench *e = arg;
    size_t bytes = mal_backend_bytes(e->be);
    (void)done, (void)total;
    note_time(e, stage);
    e->stage = (int)stage;
    if (bytes > e->peak_bytes) e->peak_bytes = bytes;
    if (e->reading) settle_reads(e->reading);
    e->last_tick = mal_clock_seconds();
    return true;
}

static void listen_apply(void *arg) {
    (void)listen(arg, MAL_STAGE_APPLY, 0, 0);
}

static void listen_hash(void *arg) {
    (void)listen(arg, MAL_STAGE_HASH, 0, 0);
}

struct mal_progress edit_progress(struct edit_bench *e) {
    e->peak_bytes = mal_backend_bytes(e->be);
    memset(e->longest, 0, sizeof e->longest);
    e->last_tick = mal_clock_seconds();
    return (struct mal_progress){.tick = listen, .arg = e, .slice_tokens = e->slice};
}

/* ---- Opening ---- */

static bool make_model(struct edit_bench *e, struct mal_error *err) {
    char path[600];
    snprintf(path, sizeof path, "%s/model.safetensors", e->dir);
    FILE *there = fopen(path, "r");
    if (there) {
        fclose(there);
        return true;
    }
    return gpu_model_write(e->dir, &e->shape, err);
}

/* Statistics that change nothing, as those of a trained editor would change little. */
static void set_statistics(struct mal_editor *editor) {
    for (size_t s = 0; s < editor->n_shapes; s++) {
        struct mal_normalizer *norm = &editor->shapes[s].norm;
        norm->n = 1024;
        for (int64_t i = 0; i < norm->size; i++) {
            norm->std[i] = 1;
            norm->var[i] = 1023;
        }
    }
}

static bool make_editor(struct edit_bench *e, struct mal_error *err) {
    const char **modules = NULL;
    size_t n = 0;
    bool ok = mal_model_default_edits(e->model, &modules, &n, err) &&
              mal_editor_create(&e->editor, &mal_method_malmen, e->model, modules, n,
                                e->rank, e->blocks, 1e-3, 3, err) &&
              mal_editor_bind(e->editor, e->model, err) &&
              mal_editor_make_resident(e->editor, e->be, err);
    if (ok) set_statistics(e->editor);
    mal_free(modules);
    return ok;
}

static bool open_all(struct edit_bench *e, struct mal_error *err) {
    double times[6] = {mal_clock_seconds()};
    bool ok = mal_backend_create(&e->be, e->device, err);
    times[1] = mal_clock_seconds();
    ok = ok && make_model(e, err);
    times[2] = mal_clock_seconds();
    ok = ok && mal_model_open(&e->model, e->dir, e->be, err) &&
         gpu_model_fill(e->model, err) && mal_tokenizer_open(&e->tok, e->dir, err);
    times[3] = mal_clock_seconds();
    ok = ok && make_editor(e, err);
    times[4] = mal_clock_seconds();
    ok = ok && mal_weights_create(&e->ws, e->model, e->keep, err) &&
         gpu_model_facts(&e->facts, e->n_facts, e->tokens, err);
    times[5] = mal_clock_seconds();
    if (!ok) return false;
    const struct mal_model_info *info = mal_model_info(e->model);
    const struct mal_linear *lin = mal_model_edit(e->model, 0);
    print_line(json_pack(
        "{s:s,s:s,s:s,s:I,s:I,s:I,s:[I,I],s:I,s:I,s:{s:f,s:f,s:f,s:f,s:f},s:I,s:I}",
        "case", "open", "device", e->device, "description", mal_backend_describe(e->be),
        "parameters", (json_int_t)info->n_parameters, "layers",
        (json_int_t)info->n_layers, "modules", (json_int_t)mal_model_n_edits(e->model),
        "module", (json_int_t)lin->d_in, (json_int_t)lin->d_out, "rank",
        (json_int_t)e->rank, "blocks", (json_int_t)e->blocks, "seconds", "device",
        times[1] - times[0], "write", times[2] - times[1], "model", times[3] - times[2],
        "editor", times[4] - times[3], "base", times[5] - times[4], "device_bytes",
        (json_int_t)mal_backend_bytes(e->be), "device_available",
        (json_int_t)mal_backend_available(e->be)));
    return true;
}

static void close_all(struct edit_bench *e) {
    mal_joint_destroy(e->joint);
    mal_facts_free(e->facts, e->n_facts);
    mal_weights_destroy(e->ws);
    mal_editor_close(e->editor);
    mal_tokenizer_close(e->tok);
    mal_model_close(e->model);
    mal_backend_destroy(e->be);
}

/* ---- Publishing ---- */

static void publish(struct edit_bench *e) {
    mal_weights_publish(e->ws, mal_weights_live(e->ws) + 1);
    mal_weights_use(e->ws, mal_weights_live(e->ws));
}

static bool return_to(struct edit_bench *e, int64_t version, struct mal_error *err) {
    if (!mal_weights_prepare_return(e->ws, version, err)) return false;
    publish(e);
    return true;
}

static bool seal(struct edit_bench *e, struct mal_edit_report *report,
                 struct mal_error *err) {
    if (!mal_weights_seal(e->ws, listen_hash, e, err)) return false;
    report->seconds[MAL_STAGE_HASH] += mal_weights_hash_seconds(e->ws);
    publish(e);
    note_time(e, MAL_STAGE_HASH);
    return true;
}

/* ---- Edits ---- */

enum { BEGIN, TEACH, REPAIR, SEAL, END, N_PARTS };

static const char *const part_names[N_PARTS] = {"begin", "teach", "repair", "seal",
                                                "end"};

struct outcome {
    struct mal_edit_report report;
    struct mal_delta delta;
    double seconds;
    double parts[N_PARTS]; /* the same time, cut otherwise */
    int64_t rounds;
    size_t correct; /* of the facts, verified */
    enum edit_form form;
};

static bool edit_once(struct edit_bench *e, size_t n, struct outcome *o,
                      struct mal_error *err) {
    struct mal_progress progress = edit_progress(e);
    int64_t live = mal_weights_live(e->ws);
    struct mal_edit_task task = {.model = e->model,
                                 .tok = e->tok,
                                 .editor = e->editor,
                                 .facts = e->facts,
                                 .n_facts = n,
                                 .progress = &progress,
                                 .report = &o->report};
    if (!mal_edit_run(&task, &o->delta, err)) return false;
    double begin = mal_clock_seconds();
    bool ok = mal_weights_try(e->ws, live, &o->delta, listen_apply, e, err);
    o->report.seconds[MAL_STAGE_APPLY] = mal_clock_seconds() - begin;
    return ok && seal(e, &o->report, err);
}

/* As the product teaches: facts in a system, verified, repaired. */
static bool solve(struct edit_bench *e, struct mal_joint *joint, bool shared,
                  const struct mal_example *texts, size_t n, struct outcome *o,
                  struct mal_error *err) {
    struct mal_progress progress = edit_progress(e);
    struct mal_joint_change *change = NULL;
    int64_t live = mal_weights_live(e->ws);
    struct mal_repair repair = {.ws = e->ws,
                                .editor = e->editor,
                                .origin = shared ? 0 : live,
                                .basis = live,
                                .max_rounds = e->rounds,
                                .tau = MAL_REPAIR_TAU,
                                .progress = &progress,
                                .report = &o->report,
                                .taught = texts,
                                .n_taught = n};
    double times[4] = {mal_clock_seconds()};
    mal_weights_use(e->ws, repair.origin);
    bool ok = mal_joint_change_create(&change, joint, shared ? e->ws : NULL, &progress,
                                      &o->report, err) &&
              mal_joint_teach(change, NULL, texts, n, err);
    times[1] = mal_clock_seconds();
    repair.change = change;
    ok = ok && mal_repair_run(&repair, err);
    times[2] = mal_clock_seconds();
    for (size_t i = 0; ok && i < n; i++)
        o->correct += repair.scores[i].correct;
    o->rounds = repair.n_rounds;
    o->delta = repair.delta;
    repair.delta = (struct mal_delta){0};
    mal_repair_finish(&repair);
    mal_joint_change_destroy(change);
    times[3] = mal_clock_seconds();
    ok = ok && seal(e, &o->report, err);
    o->parts[TEACH] = times[1] - times[0];
    o->parts[REPAIR] = times[2] - times[1];
    o->parts[END] = times[3] - times[2];
    o->parts[SEAL] = mal_clock_seconds() - times[3];
    return ok;
}

static bool edit_in_system(struct edit_bench *e, size_t n, bool shared, struct outcome *o,
                           struct mal_error *err) {
    struct mal_example *texts = NULL;
    struct mal_joint *own = NULL;
    size_t n_texts = 0;
    double begin = mal_clock_seconds();
    /* the facts of a shared system are others each time */
    const struct mal_fact *facts = e->facts + (shared ? e->n_joint : 0);
    bool ok = mal_examples_of_facts(e->model, e->tok, facts, n, &texts, &n_texts, err);
    o->report.seconds[MAL_STAGE_TOKENIZE] = mal_clock_seconds() - begin;
    ok =
        ok && (shared || mal_joint_create_alone(&own, e->model, e->editor, NULL, 0, err));
    o->parts[BEGIN] = mal_clock_seconds() - begin;
    ok = ok && solve(e, shared ? e->joint : own, shared, texts, n_texts, o, err);
    double end = mal_clock_seconds();
    mal_joint_destroy(own);
    mal_examples_free(texts, n_texts);
    o->parts[END] += mal_clock_seconds() - end;
    if (shared) e->n_joint += n;
    return ok;
}

static json_t *stages_json(const double *seconds) {
    json_t *out = json_object();
    for (int s = 0; s < MAL_N_STAGES; s++) {
        if (seconds[s] > 0)
            json_object_set_new(out, mal_stage_name((enum mal_stage)s),
                                json_real(seconds[s]));
    }
    return out;
}

static json_t *parts_json(const double *parts) {
    json_t *out = json_object();
    for (int i = 0; i < N_PARTS; i++)
        json_object_set_new(out, part_names[i], json_real(parts[i]));
    return out;
}

/* What no stage accounts for. */
static double rest_of(const struct outcome *o) {
    double rest = o->seconds;
    for (int s = 0; s < MAL_N_STAGES; s++)
        rest -= o->report.seconds[s];
    return rest;
}

static void report_edit(struct edit_bench *e, const char *name, size_t n,
                        const struct outcome *o) {
    double least[MAL_N_STAGES] = {0};
    char hash[MAL_HASH_HEX];
    struct mal_hash weights = mal_weights_hash(e->ws, mal_weights_live(e->ws));
    mal_hash_hex(&weights, hash);
    edit_floors(e, o->form, &o->report, least);
    print_line(json_pack(
        "{s:s,s:I,s:I,s:I,s:f,s:f,s:f,s:o,s:o,s:o,s:o,s:I,s:I,s:s,s:I,s:I,s:s,s:s*}",
        "case", name, "facts", (json_int_t)n, "rows", (json_int_t)o->report.n_tokens,
        "input_tokens", (json_int_t)o->report.n_input_tokens, "loss", o->report.loss,
        "total_seconds", o->seconds, "rest_seconds", rest_of(o), "seconds",
        stages_json(o->report.seconds), "floor", stages_json(least), "longest",
        stages_json(e->longest), "parts", parts_json(o->parts), "rounds",
        (json_int_t)o->rounds, "correct", (json_int_t)o->correct, "encoding",
        mal_encoding_name(mal_delta_encoding(&o->delta)), "delta_bytes",
        (json_int_t)mal_delta_bytes(&o->delta), "peak_device_bytes",
        (json_int_t)e->peak_bytes, "weights", hash, "beside", e->beside));
}

/* One that does not fit into memory, say, leaves the others. */
static void report_error(struct edit_bench *e, const char *name, size_t n,
                         const struct mal_error *err) {
    e->n_failed++;
    print_line(json_pack("{s:s,s:I,s:s,s:I}", "case", name, "facts", (json_int_t)n,
                         "error", err->text, "peak_device_bytes",
                         (json_int_t)e->peak_bytes));
}

static bool open_joint(struct edit_bench *e, struct mal_error *err) {
    double begin = mal_clock_seconds();
    if (e->joint) return true;
    if (!mal_joint_create(&e->joint, e->model, e->editor, NULL, 0, err)) return false;
    print_line(json_pack("{s:s,s:f,s:I}", "case", "joint system", "total_seconds",
                         mal_clock_seconds() - begin, "held_bytes",
                         (json_int_t)mal_joint_held_bytes(e->joint)));
    return true;
}

static void run_edit(struct edit_bench *e, const char *name, size_t n) {
    struct mal_error err = {0};
    bool shared = strcmp(name, "joint") == 0, once = strcmp(name, "once") == 0;
    struct outcome o = {.form = once ? EDIT_ONCE : shared ? EDIT_JOINT : EDIT_ALONE};
    if (!shared) {
        mal_joint_destroy(e->joint);
        e->joint = NULL;
        e->n_joint = 0;
    }
    /* each from the base, but in the shared system, which begins there */
    bool ok = ((shared && e->joint) || return_to(e, 0, &err)) &&
              (!shared || open_joint(e, &err));
    double begin = mal_clock_seconds();
    ok =
        ok && (once ? edit_once(e, n, &o, &err) : edit_in_system(e, n, shared, &o, &err));
    e->edit_seconds = o.seconds = mal_clock_seconds() - begin;
    if (ok)
        report_edit(e, name, n, &o);
    else
        report_error(e, name, n, &err);
    mal_weights_discard(e->ws);
    mal_delta_finish(&o.delta);
    mal_model_drop_scratch(e->model);
}

/* ---- Passes ---- */

static bool time_passes(struct edit_bench *e, size_t n, int64_t slice,
                        struct mal_error *err) {
    struct mal_progress progress = edit_progress(e);
    struct mal_edit_report report = {0};
    struct mal_edit_rows rows;
    progress.slice_tokens = slice;
    if (!mal_edit_rows_of_facts(&rows, e->model, e->tok, e->editor, e->facts, n,
                                &progress, &report, err))
        return false;
    bool ok = true;
    double best[2] = {INFINITY, INFINITY};
    for (int i = 0; ok && i < 3; i++) { /* the first warms up */
        report.seconds[MAL_STAGE_FORWARD] = report.seconds[MAL_STAGE_BACKWARD] = 0;
        ok = mal_edit_rows_measure(&rows, err);
        for (int s = 0; i > 0 && s < 2; s++)
            best[s] = fmin(best[s], report.seconds[MAL_STAGE_FORWARD + s]);
    }
    mal_edit_rows_finish(&rows);
    if (!ok) return false;
    double least[MAL_N_STAGES] = {0}, both = best[0] + best[1];
    edit_floors(e, EDIT_ONCE, &report, least);
    print_line(json_pack("{s:s,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:f}", "case", "passes",
                         "facts", (json_int_t)n, "slice_tokens", (json_int_t)slice,
                         "input_tokens", (json_int_t)report.n_input_tokens, "forward",
                         best[0], "backward", best[1], "tokens_per_second",
                         (double)report.n_input_tokens / both, "share_forward",
                         least[MAL_STAGE_FORWARD] / best[0], "share_backward",
                         least[MAL_STAGE_BACKWARD] / best[1]));
    return true;
}

static void run_passes(struct edit_bench *e, size_t n) {
    static const int64_t slices[] = {512, 2048, 8192, 20480};
    struct mal_error err = {0};
    for (size_t i = 0; i < sizeof slices / sizeof *slices; i++) {
        if (!time_passes(e, n, slices[i], &err)) report_error(e, "passes", n, &err);
        mal_model_drop_scratch(e->model);
    }
}

/* ---- Reads and versions ---- */

static bool to_and_back(struct edit_bench *e, struct mal_error *err) {
    int64_t version = mal_weights_live(e->ws);
    struct mal_hash before = mal_weights_hash(e->ws, version), after;
    double begin = mal_clock_seconds();
    if (!return_to(e, 0, err)) return false;
    double middle = mal_clock_seconds();
    if (!return_to(e, version, err)) return false;
    double end = mal_clock_seconds();
    after = mal_weights_hash(e->ws, mal_weights_live(e->ws));
    print_line(json_pack("{s:s,s:f,s:f,s:b}", "case", "rollback", "to_base",
                         middle - begin, "and_back", end - middle, "same",
                         (int)mal_hash_equal(&before, &after)));
    return true;
}

static void run_rollback(struct edit_bench *e) {
    struct mal_error err = {0};
    if (!to_and_back(e, &err)) report_error(e, "rollback", 0, &err);
}

static bool generate(struct edit_bench *e, size_t n, int64_t tokens, double *seconds,
                     struct mal_error *err) {
    struct mal_generation *gens = mal_calloc(n, sizeof *gens);
    if (!gens) return mal_fail(err, MAL_NO_MEMORY, "generation");
    static int32_t prompt[20];
    for (int32_t i = 0; i < 20; i++)
        prompt[i] = 'a' + i;
    for (size_t i = 0; i < n; i++)
        gens[i] = (struct mal_generation){
            .prompt = prompt, .n_prompt = 20, .max_tokens = tokens, .top_p = 1};
    double begin = mal_clock_seconds();
    bool ok = mal_generate(e->model, e->tok, gens, n, NULL, NULL, err);
    *seconds = mal_clock_seconds() - begin;
    for (size_t i = 0; i < n; i++)
        mal_generation_finish(&gens[i]);
    mal_free(gens);
    return ok;
}

static void run_generate(struct edit_bench *e, size_t n) {
    enum { TOKENS = 32 };
    struct mal_error err = {0};
    double first = 0, all = 0;
    if (!generate(e, n, TOKENS, &all, &err) || !generate(e, n, 1, &first, &err) ||
        !generate(e, n, TOKENS, &all, &err)) {
        report_error(e, "generate", n, &err);
        return;
    }
    double step = (all - first) / (TOKENS - 1);
    double least = 2 * (double)mal_model_info(e->model)->n_parameters /
                   e->peaks.rate[PEAK_BYTES]; /* the embeddings are not read, but few */
    print_line(json_pack("{s:s,s:I,s:f,s:f,s:f,s:f,s:f}", "case", "generate", "prompts",
                         (json_int_t)n, "first_token", first, "step", step,
                         "tokens_per_second", (double)n / step, "floor", least, "share",
                         least / step));
}

/* ---- The program ---- */

static void run_case(struct edit_bench *e, const char *text) {
    static const char *const edits[] = {"once", "alone", "joint"};
    char name[32];
    size_t n = strcspn(text, ":");
    snprintf(name, sizeof name, "%.*s", (int)(n < 31 ? n : 31), text);
    size_t facts = text[n] ? (size_t)strtoull(text + n + 1, NULL, 10) : 1;
    for (size_t i = 0; i < 3; i++)
        if (strcmp(name, edits[i]) == 0) run_edit(e, edits[i], facts);
    if (strcmp(name, "passes") == 0) run_passes(e, facts);
    if (strcmp(name, "rollback") == 0) run_rollback(e);
    if (strcmp(name, "generate") == 0) run_generate(e, facts);
    if (strcmp(name, "reads") == 0) run_reads(e, facts, run_edit, report_error);
    if (strcmp(name, "train") == 0) run_train(e, facts, report_error);
    if (strcmp(name, "memit") == 0) run_memit(e, facts, report_error);
}

/* Facts that the cases need at most; joint ones are others each time. */
static size_t count_facts(char **cases, int n) {
    size_t most = 1, joint = 0;
    for (int i = 0; i < n; i++) {
        const char *colon = strchr(cases[i], ':');
        size_t facts = colon ? (size_t)strtoull(colon + 1, NULL, 10) : 1;
        if (strncmp(cases[i], "joint", 5) == 0) facts = joint += facts;
        if (facts > most) most = facts;
    }
    return most;
}

static int usage(void) {
    fprintf(stderr, "usage: bench_gpu_edit --dir DIR [--device NAME] [--peak LIST] "
                    "[--NAME N ...] CASE...\n");
    return 2;
}

enum {
    LAYERS = 256,
    CHANNELS,
    INNER,
    HEADS,
    VOCAB,
    RANK,
    BLOCKS,
    TOKENS,
    ROUNDS,
    SLICE,
    KEEP,
    DEVICE,
    DIR,
    PEAK
};

static bool set_option(struct edit_bench *e, int option, const char *text) {
    int64_t n = strtoll(text, NULL, 10);
    switch (option) {
    case LAYERS: e->shape.layers = n; break;
    case CHANNELS: e->shape.channels = n; break;
    case INNER: e->shape.inner = n; break;
    case HEADS: e->shape.heads = n; break;
    case VOCAB: e->shape.vocab = n; break;
    case RANK: e->rank = n; break;
    case BLOCKS: e->blocks = n; break;
    case TOKENS: e->tokens = (int)n; break;
    case ROUNDS: e->rounds = n; break;
    case SLICE: e->slice = n; break;
    case KEEP: e->keep = (int)n; break;
    case DEVICE: e->device = text; break;
    case DIR: e->dir = text; break;
    case PEAK: return peaks_parse(&e->peaks, text);
    default: return false;
    }
    return true;
}

int main(int argc, char **argv) {
    static const char *const names[] = {"layers", "channels", "inner",  "heads",  "vocab",
                                        "rank",   "blocks",   "tokens", "rounds", "slice",
                                        "keep",   "device",   "dir",    "peak"};

    enum { N_NAMES = sizeof names / sizeof *names };

    mal_cpu_prepare(argv);
    struct option options[N_NAMES + 1] = {{0}};
    for (int i = 0; i < N_NAMES; i++)
        options[i] = (struct option){names[i], required_argument, NULL, LAYERS + i};
    struct edit_bench e = {.device = "cpu",
                           .shape = {28, 4096, 16384, 16, 50400},
                           .rank = 1920,
                           .blocks = 2,
                           .tokens = 20,
                           .keep = 2,
                           .peaks = peaks_default()};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;)
        if (!set_option(&e, c, optarg)) return usage();
    if (!e.dir || optind == argc || e.tokens < 10 || e.shape.vocab < 257) return usage();
    e.exact = strstr(e.device, ":fp32") || strstr(e.device, ":emulated") ||
              strcmp(e.device, "cpu") == 0;
    e.n_facts = count_facts(argv + optind, argc - optind);
    struct mal_error err = {0};
    bool ok = open_all(&e, &err);
    if (!ok) fprintf(stderr, "bench_gpu_edit: %s\n", err.text);
    for (int i = optind; ok && e.ws && i < argc; i++)
        run_case(&e, argv[i]);
    close_all(&e);
    return ok && e.n_failed == 0 ? 0 : 1;
}
