/* cmd_eval.c - malmend eval: how well an editor edits, on facts it has not seen. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/backend.h"
#include "core/file.h"
#include "core/json.h"
#include "daemon/base/check.h"
#include "daemon/base/report.h"
#include "daemon/command/commands.h"
#include "daemon/command/eval_report.h"
#include "daemon/command/options.h"

struct values {
    char *model, *editor, *data, *update, *preserve, *report, *per_fact;
    char *device;
    int64_t n_edits, batches, repair_rounds;
    double preserve_weight, repair_tau;
    bool reset, json;
};

static const struct mal_option options[] = {
    {"model", MAL_OPTION_TEXT, offsetof(struct values, model), "DIR", NULL,
     "Model directory as on the Hugging Face hub.", .required = true},
    {"editor", MAL_OPTION_TEXT, offsetof(struct values, editor), "FILE", NULL,
     "Editor file, as 'malmend train' or 'init-editor' made it; when not given, one is made "
     "on the first batch."},
    {"data", MAL_OPTION_TEXT, offsetof(struct values, data), "FILE", NULL,
     "Facts to edit, in order: JSON or NDJSON of the API's facts, zsRE, FEVER or CounterFact.",
     .required = true},
    {"n-edits", MAL_OPTION_INT, offsetof(struct values, n_edits), "N", "64",
     "Facts of one batch; the last one may have fewer.", 1, INT32_MAX},
    {"batches", MAL_OPTION_INT, offsetof(struct values, batches), "N", NULL,
     "Batches to edit; without it as many as the data gives.", 1, INT32_MAX},
    {"update", MAL_OPTION_CHOICE, offsetof(struct values, update), "sequential|joint",
     "sequential",
     "sequential: each batch is measured on the weights after the one before, as in the "
     "papers. joint: after each batch all facts so far are solved together from the base."},
    {"preserve", MAL_OPTION_TEXT, offsetof(struct values, preserve), "FILE", NULL,
     MAL_HELP_PRESERVE},
    {"preserve-weight", MAL_OPTION_REAL, offsetof(struct values, preserve_weight), "W",
     NULL, MAL_HELP_PRESERVE_WEIGHT, 0, INFINITY},
    {"repair-rounds", MAL_OPTION_INT, offsetof(struct values, repair_rounds), "N", "4",
     MAL_HELP_REPAIR_ROUNDS, 0, 1000},
    {"repair-tau", MAL_OPTION_REAL, offsetof(struct values, repair_tau), "P", "0.9",
     MAL_HELP_REPAIR_TAU, 0, 1},
    {"reset", MAL_OPTION_FLAG, offsetof(struct values, reset), NULL, NULL,
     "Return to the base model before each batch; then nothing is said of retention."},
    {"report", MAL_OPTION_TEXT, offsetof(struct values, report), "FILE", NULL,
     "Write the report here, as JSON."},
    {"per-fact", MAL_OPTION_TEXT, offsetof(struct values, per_fact), "FILE", NULL,
     "Write a line of JSON for each fact, before and right after its batch."},
    {"device", MAL_OPTION_TEXT, offsetof(struct values, device), "NAME", "auto",
     "auto, cpu, cpu:bf16 or cuda:N.", .check = mal_backend_check_name},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "The report on standard output as JSON."},
    {0},
};

static const struct mal_option_set set = {
    "eval",
    "Edits facts batch by batch and measures what becomes of them.\n\nES, GS, LS: the "
    "share right of the facts themselves, their rephrases and their unrelated prompts, "
    "decoded (the whole target, greedily) and teacher-forced (its tokens); and the share "
    "of unrelated prompts that are answered as the base model does. Measured before, right "
    "after each batch on its own facts, and then on all facts so far (retention).",
    options, false};

/* ---- What is to be edited ---- */

static bool choose_facts(const struct values *v, size_t n, size_t *out,
                         struct mal_error *err) {
    size_t size = (size_t)v->n_edits, there = (n + size - 1) / size;
    *out = n;
    if (v->batches == MAL_OPTION_UNSET) return true;
    if ((size_t)v->batches > there) {
        return mal_fail(err, MAL_INVALID,
                        "%s: %zu facts are %zu batches of %zu, not %lld", v->data, n,
                        there, size, (long long)v->batches);
    }
    if ((size_t)v->batches * size < n) *out = (size_t)v->batches * size;
    return true;
}

/* ---- The command ---- */

static bool write_reports(const struct values *v, const struct mal_eval *eval,
                          const struct mal_eval_plan *plan,
                          const struct mal_eval_setup *setup, struct mal_error *err) {
    json_t *report = mal_eval_json(eval, plan, setup);
    bool ok = report || mal_fail(err, MAL_NO_MEMORY, "report");
    ok = ok && (!v->report || mal_eval_write_json(report, v->report, err)) &&
         (!v->per_fact || mal_eval_write_facts(eval, plan, v->per_fact, err));
    if (ok && v->json) {
        json_dumpf(report, stdout, MAL_JSON_TOLD);
        putchar('\n');
    } else if (ok) {
        mal_eval_print(eval, plan, setup);
    }
    json_decref(report);
    return ok;
}

static bool evaluate(const struct values *v, struct mal_workbench *wb,
                     const struct mal_fact *facts, size_t n, struct mal_error *err) {
    struct mal_eval_plan plan = {.facts = facts,
                                 .n_facts = n,
                                 .n_edits = (size_t)v->n_edits,
                                 .teacher = {.joint = strcmp(v->update, "joint") == 0,
                                             .max_rounds = v->repair_rounds,
                                             .tau = v->repair_tau},
                                 .reset = v->reset,
                                 .silent = v->json};
    char *name = mal_file_label(v->model);
    struct mal_eval_setup setup = {.editor = wb->editor, .model = name};
    struct mal_eval eval = {0};
    bool ok = name || mal_fail(err, MAL_NO_MEMORY, "model name");
    ok = ok && mal_workbench_preserve(wb, v->preserve, v->preserve_weight, v->json, err);
    setup.preserve = wb->preserve;
    ok = ok && mal_eval_run(wb, &plan, &eval, err) &&
         write_reports(v, &eval, &plan, &setup, err);
    mal_eval_finish(&eval);
    mal_free(name);
    return ok;
}

static bool run(const struct values *v, struct mal_error *err) {
    struct mal_workbench wb = {0};
    struct mal_fact *facts = NULL;
    size_t n = 0, n_used = 0;
    bool ok =
        mal_facts_load(&facts, &n, v->data, err) && choose_facts(v, n, &n_used, err) &&
        mal_workbench_check_facts(v->data, facts, n_used, (size_t)v->n_edits, err) &&
        (!v->report || mal_workbench_check_out(v->report, err)) &&
        (!v->per_fact || mal_workbench_check_out(v->per_fact, err)) &&
        mal_workbench_open(&wb, v->model, v->device, v->editor, NULL, err) &&
        mal_check_facts_of(v->data, wb.model, wb.tok, wb.editor, facts, n_used, err);
    size_t first = n_used < (size_t)v->n_edits ? n_used : (size_t)v->n_edits;
    struct mal_instant_report made;
    ok = ok && (v->editor ||
                mal_workbench_make_editor(&wb, NULL, facts, first, v->json, &made, err));
    if (ok) mal_workbench_warn(&wb, first);
    ok = ok && evaluate(v, &wb, facts, n_used, err);
    mal_facts_free(facts, n);
    mal_workbench_close(&wb);
    return ok;
}

int mal_cmd_eval(int argc, char **argv) {
    struct values v = {0};
    struct mal_error err = {0};
    int code;
    bool parsed = mal_options_parse(&set, argc, argv, &v, &code);
    if (parsed && v.report && v.per_fact && strcmp(v.report, v.per_fact) == 0) {
        mal_fail(&err, MAL_INVALID, "--report and --per-fact name the same file");
        code = mal_options_misused(&set, &err);
    } else if (parsed) {
        code = run(&v, &err) ? 0 : mal_report_error(&err, v.json);
    }
    mal_options_finish(&set, &v);
    return code;
}
