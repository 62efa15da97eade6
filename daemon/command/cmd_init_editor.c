/* cmd_init_editor.c - malmend init-editor: an editor that needs no training, or one to
 * train. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/backend.h"
#include "core/editor/hyper.h"
#include "core/editor/search.h"
#include "core/json.h"
#include "daemon/base/check.h"
#include "daemon/base/modules.h"
#include "daemon/base/report.h"
#include "daemon/command/commands.h"
#include "daemon/command/options.h"
#include "daemon/command/workbench.h"
#include "daemon/engine/measures.h"

enum { N_EDITS = 256, RANK = 1920, BLOCKS = 2, CONTEXTS = 5 };

/* Numbers MAL_OPTION_UNSET or NaN where nothing was said. */
struct values {
    char *model, *method, *modules, *data, *hyper, *preserve, *out, *device;
    double lr;
    int64_t n_edits, rank, blocks, contexts, seed;
    bool json;
};

static const struct mal_option options[] = {
    {"model", MAL_OPTION_TEXT, offsetof(struct values, model), "DIR", NULL,
     "Model directory as on the Hugging Face hub.", .required = true},
    {"method", MAL_OPTION_CHOICE, offsetof(struct values, method), MAL_METHOD_CHOICES,
     NULL,
     "ultraedit needs no training and keeps running statistics; malmen and mend start as the "
     "identity; ft and locft-bf fine-tune the weights and have nothing but their numbers; memit "
     "needs --preserve.",
     .required = true},
    {"modules", MAL_OPTION_TEXT, offsetof(struct values, modules), "LIST", NULL,
     "Linear layers to edit, by commas, as named in the checkpoint; when not given, those the "
     "paper chose for the architecture (GPT-2: mlp.c_proj of the upper half); ft, locft-bf: one "
     "block's; memit: the last layers of some lower MLPs, as deep as in GPT-J or GPT-2 XL.",
     .check = mal_module_names_check},
    {"data", MAL_OPTION_TEXT, offsetof(struct values, data), "FILE", NULL,
     "Facts with other answers than the model's, to find the step size on (and, for malmen and "
     "mend, the statistics)."},
    {"n-edits", MAL_OPTION_INT, offsetof(struct values, n_edits), "N", NULL,
     "Facts of --data to use: as many as will be edited at a time; 256.", .min = 1,
     .max = 1e9},
    {"lr", MAL_OPTION_REAL, offsetof(struct values, lr), "X", NULL,
     "Step size; without --data the paper's 1e-6, which means little on another model.",
     .min = 0, .max = 1e9},
    {"hyper", MAL_OPTION_TEXT, offsetof(struct values, hyper), "JSON", NULL,
     "ft, locft-bf, memit: an object of numbers in place of the usual ones, as in "
     "{\"steps\":10}; memit has v_lr, v_steps, v_weight_decay, clamp, kl_factor, "
     "mom2_weight, loss_layer, ft has lr, steps, weight_decay, norm_constraint (0: none), "
     "batch_size, locft-bf lr, epochs, weight_decay, batch_size, seed."},
    {"preserve", MAL_OPTION_TEXT, offsetof(struct values, preserve), "TEXT", NULL,
     "memit: ordinary text, prompts or facts, as much as there is. Second moments of the "
     "modules' inputs are measured on it, which say what is to stay."},
    {"contexts", MAL_OPTION_INT, offsetof(struct values, contexts), "N", NULL,
     "memit: sentences the model makes up, after which facts are taught, too; 0 where the model "
     "knows no text of more than a sentence; 5.",
     .min = 0, .max = 1000},
    {"rank", MAL_OPTION_INT, offsetof(struct values, rank), "R", NULL,
     "malmen, mend: rank of the network's blocks; 1920.", .min = 1, .max = 1 << 20},
    {"blocks", MAL_OPTION_INT, offsetof(struct values, blocks), "B", NULL,
     "malmen, mend: blocks of the network, 0: none, the plain identity; 2.", .min = 0,
     .max = 64},
    {"seed", MAL_OPTION_INT, offsetof(struct values, seed), "N", NULL,
     "malmen, mend: seed of the network's random side; memit: of the sentences the model makes "
     "up; 0.",
     .min = 0, .max = 9e15},
    {"out", MAL_OPTION_TEXT, offsetof(struct values, out), "FILE", NULL,
     "The editor file to write.", .required = true},
    {"device", MAL_OPTION_TEXT, offsetof(struct values, device), "NAME", "auto",
     "auto, cpu, cpu:bf16 or cuda:N.", .check = mal_backend_check_name},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "Machine-readable report."},
    {0},
};

static const struct mal_option_set set = {
    "init-editor",
    "Makes an editor that needs no training, or one to be trained.\n\nWith --data its step size is "
    "searched: the facts are measured and solved once, then steps that are powers of two, then "
    "half powers, are scored by how many facts, rephrases and unrelated prompts come out right.",
    options, false};

/* ---- Reporting ---- */

struct outcome {
    struct mal_search_report search;
    int64_t n_tokens; /* measured of --preserve */
};

/* The same for all modules. */
static double step_of(const struct mal_editor *editor) {
    const float *lr = editor->shapes[0].lr;
    return lr ? (double)lr[0] : editor->lr;
}

/* From mal_malloc; NULL: memory is out. */
static char *numbers_of(const struct mal_editor *editor) {
    const struct mal_method *method = editor->method;
    return mal_hyper_dump(method->hyper, method->n_hyper, editor->hyper);
}

static json_t *steps_json(const struct mal_search_report *report) {
    json_t *steps = json_array();
    for (size_t i = 0; i < report->n_points; i++) {
        const struct mal_search_point *p = &report->points[i];
        const struct mal_measures *m = &p->measures;
        json_array_append_new(steps,
                              json_pack("{s:f,s:f,s:o}", "lr", exp2(p->exponent), "score",
                                        p->score, "teacher_forced",
                                        mal_shares_json(m->tf_es, m->tf_gs, m->tf_ls)));
    }
    return steps;
}

static void print_json(const struct mal_editor *editor, const struct outcome *o) {
    json_t *modules = json_array();
    for (size_t m = 0; m < editor->n_modules; m++) {
        json_array_append_new(modules, json_string(editor->modules[m].name));
    }
    json_t *out =
        json_pack("{s:s,s:o}", "method", editor->method->name, "modules", modules);
    if (editor->method->keyed) {
        json_object_set_new(out, "lr", json_real(step_of(editor)));
        json_object_set_new(out, "search", steps_json(&o->search));
    } else {
        char *numbers = numbers_of(editor);
        json_error_t problem;
        json_object_set_new(
            out, "hyper",
            numbers ? mal_json_parse(numbers, strlen(numbers), 0, &problem) : NULL);
        mal_free(numbers);
    }
    if (editor->method->measure)
        json_object_set_new(out, "tokens", json_integer(o->n_tokens));
    json_dumpf(out, stdout, JSON_COMPACT); /* in full: a step may be given again */
    putchar('\n');
    json_decref(out);
}

static void print_step(const char *step, const struct mal_measures *m, const char *mark) {
    printf("%-16s", step);
    mal_print_shares(m->tf_es, m->tf_gs, m->tf_ls);
    printf("%s\n", mark);
}

static void print_text(const struct mal_editor *editor, const struct outcome *o,
                       const char *path) {
    const struct mal_search_report *report = &o->search;
    if (report->n_points > 0) {
        printf("teacher-forced %%      es      gs      ls\n");
        print_step("before", &report->before, "");
    }
    for (double e = -64; e <= 64; e += 0.5) {
        for (size_t i = 0; i < report->n_points; i++) {
            const struct mal_search_point *p = &report->points[i];
            char step[32];
            if (p->exponent != e) continue;
            snprintf(step, sizeof step, "step 2^%g", e);
            print_step(step, &p->measures, i == report->best ? "  best" : "");
        }
    }
    printf("%s: %s, %zu modules, ", path, editor->method->name, editor->n_modules);
    if (editor->method->keyed) {
        printf("step %g\n", step_of(editor));
        return;
    }
    if (editor->method->measure) printf("%lld tokens, ", (long long)o->n_tokens);
    char *numbers = numbers_of(editor);
    printf("%s\n", numbers ? numbers : "");
    mal_free(numbers);
}

/* ---- The command ---- */

static int64_t or_else(int64_t value, int64_t otherwise) {
    return value == MAL_OPTION_UNSET ? otherwise : value;
}

static bool tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct mal_bar *bar = arg;
    (void)stage, (void)total;
    mal_bar_update(bar, done); /* steps tried, texts */
    return true;
}

static bool search(struct mal_workbench *wb, const struct values *v,
                   struct mal_search_report *report, struct mal_error *err) {
    struct mal_fact *facts = NULL;
    size_t n = 0;
    if (!mal_facts_load(&facts, &n, v->data, err)) return false;
    if (!mal_check_facts_form(v->data, facts, n, err)) {
        mal_facts_free(facts, n);
        return false;
    }
    size_t most = (size_t)or_else(v->n_edits, N_EDITS), n_used = n < most ? n : most;
    struct mal_bar bar;
    struct mal_progress progress = {tick, &bar};
    mal_bar_start(&bar, "steps tried", 0, v->json);
    bool ok =
        mal_check_facts_of(v->data, wb->model, wb->tok, wb->editor, facts, n_used, err) &&
        mal_editor_search(wb->editor, wb->model, wb->tok, facts, n_used, &progress,
                          report, err);
    mal_bar_finish(&bar);
    mal_facts_free(facts, n);
    return ok;
}

/* NULL: there is none that means nothing to the method. */
static const char *odd_option(const struct mal_method *method, const struct values *v) {
    const struct {
        const char *name;
        bool given, used;
    } options_of[] = {
        {"hyper", v->hyper, !method->keyed},
        {"data", v->data, method->keyed},
        {"n-edits", v->n_edits != MAL_OPTION_UNSET, method->keyed},
        {"lr", !isnan(v->lr), method->keyed},
        {"rank", v->rank != MAL_OPTION_UNSET, method->net},
        {"blocks", v->blocks != MAL_OPTION_UNSET, method->net},
        {"contexts", v->contexts != MAL_OPTION_UNSET, method->measure},
        {"seed", v->seed != MAL_OPTION_UNSET, method->net || method->measure},
    };

    for (size_t i = 0; i < sizeof options_of / sizeof *options_of; i++) {
        if (options_of[i].given && !options_of[i].used) return options_of[i].name;
    }
    return NULL;
}

static bool check_hyper(const struct mal_method *method, const char *hyper,
                        struct mal_error *err) {
    double *values = mal_calloc(method->n_hyper, sizeof *values);
    bool ok = values || mal_fail(err, MAL_NO_MEMORY, "options");
    ok = ok && mal_hyper_read(method->hyper, method->n_hyper, hyper, false, values,
                              MAL_INVALID, "--hyper", err);
    mal_free(values);
    return ok;
}

/* What the command line alone tells. */
static bool check_options(const struct values *v, struct mal_error *err) {
    const struct mal_method *method = mal_method_find(v->method);
    const char *odd = odd_option(method, v);
    if (method->measure && !v->preserve) {
        return mal_fail(err, MAL_INVALID, "%s needs --preserve, text to measure",
                        method->title);
    }
    if (!method->measure && v->preserve)
        return mal_fail(err, MAL_INVALID, "--preserve: %s has no use for it",
                        method->title);
    if (odd) {
        return mal_fail(err, MAL_INVALID, "--%s: %s has no use for it%s", odd,
                        method->title,
                        method->keyed ? "" : "; its numbers are set by --hyper");
    }
    if (v->n_edits != MAL_OPTION_UNSET && !v->data)
        return mal_fail(err, MAL_INVALID, "--n-edits counts facts of --data");
    return !v->hyper || check_hyper(method, v->hyper, err);
}

static bool make_keyed(struct mal_workbench *wb, const struct mal_method *method,
                       const struct values *v, const struct mal_module_names *modules,
                       struct mal_search_report *report, struct mal_error *err) {
    double lr = isnan(v->lr) ? 1e-6 : v->lr;
    if (!mal_editor_create(&wb->editor, method, wb->model, modules->names, modules->n,
                           or_else(v->rank, RANK), or_else(v->blocks, BLOCKS), lr,
                           (uint64_t)or_else(v->seed, 0), err) ||
        !mal_editor_bind(wb->editor, wb->model, err)) {
        return false;
    }
    if (v->data && !search(wb, v, report, err)) return false;
    if (v->data && !isnan(v->lr)) mal_editor_set_lr(wb->editor, v->lr);
    return true;
}

static bool measure(struct mal_workbench *wb, const struct values *v,
                    struct outcome *outcome, struct mal_error *err) {
    struct mal_preserve_texts texts = {0};
    struct mal_bar bar;
    struct mal_progress progress = {tick, &bar};
    if (!mal_preserve_texts_load(&texts, v->preserve, wb->model, wb->tok, err))
        return false;
    mal_bar_start(&bar, "texts", (int64_t)texts.n, v->json);
    struct mal_method_sample sample = {.tok = wb->tok,
                                       .texts = &texts,
                                       .n_contexts = or_else(v->contexts, CONTEXTS),
                                       .seed = (uint64_t)or_else(v->seed, 0),
                                       .progress = &progress};
    bool ok = wb->editor->method->measure(wb->editor, wb->model, &sample,
                                          &outcome->n_tokens, err);
    mal_bar_finish(&bar);
    mal_preserve_texts_finish(&texts);
    return ok;
}

static bool make_direct(struct mal_workbench *wb, const struct mal_method *method,
                        const struct values *v, const struct mal_module_names *modules,
                        struct outcome *outcome, struct mal_error *err) {
    if (!mal_editor_create_direct(&wb->editor, method, wb->model, modules->names,
                                  modules->n, v->hyper, err))
        return false;
    return method->measure ? measure(wb, v, outcome, err)
                           : mal_editor_bind(wb->editor, wb->model, err);
}

static bool make(struct mal_workbench *wb, const struct values *v,
                 struct outcome *outcome, struct mal_error *err) {
    const struct mal_method *method = mal_method_find(v->method);
    struct mal_module_names modules = {0};
    bool ok = mal_module_names_choose(&modules, v->modules, wb->model, method, err);
    ok = ok && (method->keyed ? make_keyed(wb, method, v, &modules, &outcome->search, err)
                              : make_direct(wb, method, v, &modules, outcome, err));
    mal_module_names_finish(&modules);
    if (!ok || !mal_workbench_fingerprint(wb, err)) return false;
    memcpy(wb->editor->base_model, wb->base_model, sizeof wb->base_model);
    return mal_editor_save(wb->editor, v->out, err);
}

/* One that was neither searched nor given. Networks are trained from it, and say what
 * they lack by themselves. */
static void warn_of_step(const struct mal_editor *editor, const struct values *v) {
    if (!editor->method->keyed || editor->method->net || v->data || !isnan(v->lr)) return;
    fprintf(stderr,
            "malmend: %s: the step is the paper's %g, which may edit nothing in this "
            "model: --data searches one, --lr sets it\n",
            v->out, editor->lr);
}

static bool run(const struct values *v, struct mal_error *err) {
    struct mal_workbench wb = {0};
    struct outcome outcome = {0};
    bool ok = mal_workbench_check_out(v->out, err) &&
              mal_workbench_open(&wb, v->model, v->device, NULL, NULL, err) &&
              make(&wb, v, &outcome, err);
    struct mal_error why = {0};
    if (ok && !mal_editor_check_statistics(wb.editor, &why))
        fprintf(stderr, "malmend: %s: %s\n", v->out, why.text);
    if (ok) warn_of_step(wb.editor, v);
    if (ok && v->json) print_json(wb.editor, &outcome);
    if (ok && !v->json) print_text(wb.editor, &outcome, v->out);
    mal_workbench_close(&wb);
    return ok;
}

int mal_cmd_init_editor(int argc, char **argv) {
    struct values v = {0};
    struct mal_error err = {0};
    int code;
    if (mal_options_parse(&set, argc, argv, &v, &code)) {
        if (!check_options(&v, &err)) {
            code = mal_options_misused(&set, &err);
        } else {
            code = run(&v, &err) ? 0 : mal_report_error(&err, v.json);
        }
    }
    mal_options_finish(&set, &v);
    return code;
}
