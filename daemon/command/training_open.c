/* training_open.c - what a training starts from: model, data, editor, statistics, step.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/new_file.h"
#include "daemon/base/check.h"
#include "daemon/base/modules.h"
#include "daemon/command/options.h"
#include "daemon/command/training.h"

enum { RANK = 1920, BLOCKS = 2, MICRO_BATCH = 32, SEARCHED_FACTS = 256 };

static const double LR_SHARE = 0.01; /* of the first step size: its rate in a group of its
                                        own */

/* ---- Data ---- */

/* "64" or "16:1024" */
static bool parse_range(const char *text, int64_t *out_min, int64_t *out_max,
                        struct mal_error *err) {
    char *stop = NULL;
    long long min = strtoll(text, &stop, 10), max = min;
    if (*stop == ':') max = strtoll(stop + 1, &stop, 10);
    if (stop == text || *stop || min < 1 || max < min || max > INT32_MAX) {
        return mal_fail(err, MAL_INVALID,
                        "'%s' is not a number of facts, nor two of them with a colon "
                        "between, the smaller first",
                        text);
    }
    *out_min = min;
    *out_max = max;
    return true;
}

bool mal_training_check_edits(const char *text, struct mal_error *err) {
    int64_t min, max;
    return parse_range(text, &min, &max, err);
}

static bool load_data(struct mal_training *t, const char *path,
                      struct mal_train_data *out, struct mal_fact **out_facts,
                      size_t *out_n, struct mal_error *err) {
    if (!mal_facts_load(out_facts, out_n, path, err) ||
        !mal_workbench_check_facts(path, *out_facts, *out_n, 0, err))
        return false;
    struct mal_error own = {0};
    if (mal_train_data_make(out, t->wb.model, t->wb.tok, *out_facts, *out_n, &own))
        return true;
    return mal_fail(err, own.status, "%s: %s", mal_file_shown(path), own.text);
}

/* ---- The editor ---- */

static bool same(const char *option, bool given, bool equal, struct mal_error *err) {
    if (!given || equal) return true;
    return mal_fail(err, MAL_INVALID, "--%s is another one in the editor of --init",
                    option);
}

static bool open_init(struct mal_training *t, struct mal_error *err) {
    const struct mal_training_options *o = t->o;
    struct mal_editor *editor;
    if (!mal_editor_open(&t->wb.editor, o->init, err)) return false;
    editor = t->wb.editor;
    bool means = editor->loss == MAL_LOSS_MICROBATCH_MEAN;
    bool ok = same("method", o->method,
                   o->method && mal_method_find(o->method) == editor->method, err) &&
              same("rank", o->rank != MAL_OPTION_UNSET, o->rank == editor->rank, err) &&
              same("blocks", o->blocks != MAL_OPTION_UNSET, o->blocks == editor->n_blocks,
                   err) &&
              same("loss", o->loss, o->loss && (o->loss[0] == 'm') == means, err);
    if (!ok) return false;
    struct mal_error own = {0};
    if (mal_editor_bind(editor, t->wb.model, &own)) return true;
    return mal_fail(err, own.status, "%s: %s", mal_file_shown(o->init), own.text);
}

static int64_t or_else(int64_t value, int64_t otherwise) {
    return value == MAL_OPTION_UNSET ? otherwise : value;
}

static bool create(struct mal_training *t, struct mal_error *err) {
    const struct mal_training_options *o = t->o;
    struct mal_module_names modules;
    const struct mal_method *method =
        o->method ? mal_method_find(o->method) : &mal_method_malmen;
    if (!mal_module_names_choose(&modules, o->modules, t->wb.model, method, err))
        return false;
    bool ok =
        mal_editor_create(&t->wb.editor, method, t->wb.model, modules.names, modules.n,
                          or_else(o->rank, RANK), or_else(o->blocks, BLOCKS),
                          isnan(o->lr) ? 1 : o->lr, (uint64_t)o->seed, err) &&
        mal_editor_bind(t->wb.editor, t->wb.model, err);
    mal_module_names_finish(&modules);
    if (!ok) return false;
    t->wb.editor->micro_batch = MICRO_BATCH;
    if (o->loss && o->loss[0] == 'm') t->wb.editor->loss = MAL_LOSS_MICROBATCH_MEAN;
    return true;
}

static bool set_preserve(struct mal_training *t, struct mal_error *err) {
    struct mal_editor *editor = t->wb.editor;
    if (t->o->preserve) {
        struct mal_preserve_texts texts = {0};
        if (!editor->method->solves)
            return mal_fail(err, MAL_INVALID, "--preserve: %s solves no system",
                            editor->method->title);
        if (!mal_preserve_texts_load(&texts, t->o->preserve, t->wb.model, t->wb.tok,
                                     err) ||
            !mal_editor_set_preserve(editor, t->wb.model, &texts, t->o->preserve_weight,
                                     err)) {
            return false;
        }
    }
    if (editor->preserve.n == 0) return true;
    return mal_preserve_create(&t->preserve, t->wb.model, editor, NULL, (double)NAN, NULL,
                               err);
}

static bool search_tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    (void)total;
    if (stage == MAL_STAGE_VERIFY) mal_bar_update(arg, done); /* steps tried */
    return true;
}

/* The first step size, and the statistics to begin with. */
static bool search_step(struct mal_training *t, const struct mal_fact *facts, size_t n,
                        struct mal_error *err) {
    size_t most = (size_t)t->order.max_edits;
    if (most > SEARCHED_FACTS) most = SEARCHED_FACTS;
    struct mal_progress progress = {search_tick, &t->bar};
    mal_bar_start(&t->bar, "steps tried", 0, t->o->json);
    bool ok = mal_editor_search(t->wb.editor, t->wb.model, t->wb.tok, facts,
                                n < most ? n : most, &progress, &t->search, err);
    mal_bar_finish(&t->bar);
    return ok;
}

static bool open_editor(struct mal_training *t, const struct mal_fact *facts, size_t n,
                        struct mal_error *err) {
    const struct mal_training_options *o = t->o;
    if (!(o->init ? open_init(t, err) : create(t, err))) return false;
    struct mal_editor *editor = t->wb.editor;
    if (!editor->method->net)
        return mal_fail(err, MAL_INVALID, "an editor of %s has nothing to train",
                        editor->method->title);
    if (o->micro_batch != MAL_OPTION_UNSET) editor->micro_batch = o->micro_batch;
    if (!set_preserve(t, err)) return false;
    bool searches = !o->init && isnan(o->lr) && !o->resume;
    if (searches && !search_step(t, facts, n, err)) return false;
    if (!isnan(o->lr)) mal_editor_set_lr(editor, o->lr);
    editor->n_edits = t->order.max_edits;
    memcpy(editor->base_model, t->wb.base_model, sizeof t->wb.base_model);
    return true;
}

/* ---- Memory ---- */

/* "1.25 GiB", "340 MiB" */
static void size_text(size_t bytes, char out[24]) {
    double mib = (double)bytes / (double)(1 << 20);
    if (mib < 1024) {
        snprintf(out, 24, "%.0f MiB", mib);
    } else {
        snprintf(out, 24, "%.2f GiB", mib / 1024);
    }
}

/* The option that would make the largest part smaller. */
static const char *remedy(const struct mal_editor *editor,
                          const struct mal_train_need *need) {
    size_t pass = need->passes > need->solves ? need->passes : 0;
    if (need->rows >= need->network && need->rows >= pass && need->rows >= need->solves)
        return "--n-edits";
    if (need->network >= pass && need->network >= need->solves) return "--rank";
    if (pass == 0) return "--modules";
    return editor->loss == MAL_LOSS_MICROBATCH_MEAN ? "--micro-batch" : "--modules";
}

static bool check_memory(struct mal_training *t, const struct mal_train_options *options,
                         struct mal_error *err) {
    struct mal_train_need need, valid = {0};
    size_t there = mal_backend_available(t->wb.be);
    if (t->o->max_memory != MAL_OPTION_UNSET) there = (size_t)t->o->max_memory;
    if (!mal_trainer_need(t->wb.model, t->wb.editor, options, &t->data,
                          t->order.max_edits, &need, err)) {
        return false;
    }
    if (t->valid.n_facts > 0 &&
        !mal_trainer_need(t->wb.model, t->wb.editor, options, &t->valid,
                          t->order.max_edits, &valid, err)) {
        return false;
    }
    if (valid.total > need.total) need = valid;
    if (there == 0 || need.total <= there) return true;
    char text[7][24];
    const size_t sizes[] = {need.total, there,       need.weights, need.network,
                            need.rows,  need.passes, need.solves};
    for (size_t i = 0; i < 7; i++)
        size_text(sizes[i], text[i]);
    return mal_fail(
        err, MAL_TOO_LARGE,
        "a step takes up to %s beside the model and the editor, of %s: edited "
        "weights %s, hyper-network %s, rows of %" PRId64
        " facts %s, then a pass %s or a solve %s; a smaller %s would help most",
        text[0], text[1], text[2], text[3], t->order.max_edits, text[4], text[5], text[6],
        remedy(t->wb.editor, &need));
}

/* ---- The whole ---- */

/* As the reference has it the steps are parameters like others; else they have a rate of
 * their own, a share of where they begin. */
static void set_rates(struct mal_training *t) {
    bool common = t->wb.editor->loss == MAL_LOSS_MICROBATCH_MEAN;
    t->meta_rate = t->o->meta_lr;
    t->lr_rate = common ? t->meta_rate : LR_SHARE * fabs(mal_training_mean_lr(t));
    if (!isnan(t->o->lr_meta_lr)) t->lr_rate = t->o->lr_meta_lr;
}

static bool open_trainer(struct mal_training *t, struct mal_error *err) {
    const struct mal_training_options *o = t->o;
    struct mal_train_options options = {.loc_coef = o->loc_coef,
                                        .max_norm = o->max_norm,
                                        .editor_batch = o->editor_batch,
                                        .preserve = t->preserve};
    return check_memory(t, &options, err) &&
           mal_trainer_create(&t->trainer, t->wb.model, t->wb.editor, &options, err);
}

/* Earlier programs, interrupted in a validation, did not count the step before it. */
static bool count_step(struct mal_training *t) {
    int64_t taken = mal_trainer_steps(t->trainer);
    const size_t *facts;
    size_t n;
    uint64_t seed;
    return taken == t->order.step || (taken == t->order.step + 1 &&
                                      mal_train_order_next(&t->order, &facts, &n, &seed));
}

/* The line search is not made again: its step is the rate's measure. */
static bool resume(struct mal_training *t, struct mal_error *err) {
    if (!t->o->resume) return true;
    if (!mal_training_check_state(t, t->o->resume, err) ||
        !mal_train_state_load(t->trainer, t->o->resume, &t->position, err)) {
        return false;
    }
    t->order.step = t->position.step;
    t->order.epoch = t->position.epoch;
    t->order.at = (size_t)t->position.at;
    t->lr_rate = t->position.lr_rate;
    if (t->order.at > t->order.n_facts) {
        return mal_fail(err, MAL_CORRUPT, "%s: more facts than the data has",
                        mal_file_shown(t->o->resume));
    }
    return count_step(t) ||
           mal_fail(err, MAL_CORRUPT,
                    "%s: metadata 'step' is %" PRId64 ", 't' is %" PRId64,
                    mal_file_shown(t->o->resume), t->order.step,
                    mal_trainer_steps(t->trainer));
}

/* What would be found out about after the step was searched, or at the end. */
static bool check_outs(const struct mal_training *t, struct mal_error *err) {
    const char *log = t->o->log;
    struct stat info;
    if (!mal_workbench_check_out(t->o->out, err) ||
        !mal_workbench_check_out(t->state, err))
        return false;
    if (!log) return true;
    if (stat(log, &info) != 0) return mal_new_file_check_place(log, err);
    if (S_ISDIR(info.st_mode)) {
        errno = EISDIR;
    } else if (access(log, W_OK) == 0) {
        return true;
    }
    return mal_fail(err, MAL_IO, "%s: %s", mal_file_shown(log), strerror(errno));
}

static bool open_log(struct mal_training *t, struct mal_error *err) {
    if (!t->o->log) return true;
    t->log = fopen(t->o->log, t->o->resume ? "ae" : "we");
    return t->log ||
           mal_fail(err, MAL_IO, "%s: %s", mal_file_shown(t->o->log), strerror(errno));
}

static bool open_all(struct mal_training *t, struct mal_fact **facts, size_t *n,
                     struct mal_error *err) {
    const struct mal_training_options *o = t->o;
    struct mal_train_order *order = &t->order;
    size_t n_valid = 0;
    *order = (struct mal_train_order){
        .shuffle = !o->no_shuffle, .seed = (uint64_t)o->seed, .epochs = o->epochs};
    t->position.best = (double)NAN;
    if (!parse_range(o->n_edits, &order->min_edits, &order->max_edits, err) ||
        !check_outs(t, err) ||
        !mal_workbench_open(&t->wb, o->model, o->device, NULL, NULL, err) ||
        !mal_workbench_fingerprint(&t->wb, err) ||
        !mal_training_describe(t, &t->run, err) ||
        !load_data(t, o->data, &t->data, facts, n, err)) {
        return false;
    }
    order->n_facts = *n;
    if (!mal_train_order_init(order, err) || !open_editor(t, *facts, *n, err))
        return false;
    if (o->valid) {
        struct mal_fact *valid = NULL;
        bool ok = load_data(t, o->valid, &t->valid, &valid, &n_valid, err);
        mal_facts_free(valid, n_valid);
        if (!ok) return false;
    }
    set_rates(t);
    return open_trainer(t, err) && resume(t, err) && open_log(t, err);
}

static void warn_of_state(const struct mal_training *t) {
    if (t->o->resume || access(t->state, F_OK) != 0) return;
    fprintf(stderr,
            "malmend: %s is of a run that --resume goes on with; this one begins "
            "anew and replaces it\n",
            t->state);
}

bool mal_training_open(struct mal_training *training,
                       const struct mal_training_options *options,
                       struct mal_error *err) {
    struct mal_fact *facts = NULL;
    size_t n = 0;
    *training = (struct mal_training){.o = options};
    training->state = mal_file_beside(options->out, ".state");
    if (!training->state) return mal_fail(err, MAL_NO_MEMORY, "path of the state");
    bool ok = open_all(training, &facts, &n, err);
    mal_facts_free(facts, n);
    if (ok) warn_of_state(training);
    return ok;
}

void mal_training_close(struct mal_training *t) {
    if (t->log) fclose(t->log);
    mal_trainer_destroy(t->trainer);
    mal_preserve_destroy(t->preserve);
    mal_train_order_finish(&t->order);
    mal_train_data_finish(&t->data);
    mal_train_data_finish(&t->valid);
    mal_workbench_close(&t->wb);
    mal_free(t->run);
    mal_free(t->state);
}
