/* cmd_edit.c - malmend edit: one batch of facts without a daemon. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/backend.h"
#include "core/clock.h"
#include "core/editor/resume.h"
#include "core/file.h"
#include "core/json.h"
#include "core/new_file.h"
#include "daemon/base/check.h"
#include "daemon/command/commands.h"
#include "daemon/engine/measures.h"
#include "daemon/command/options.h"
#include "daemon/base/report.h"
#include "daemon/command/teacher.h"

struct values {
    char *model, *editor, *data, *facts, *out, *save_model, *preserve, *device;
    int64_t repair_rounds;
    double preserve_weight, repair_tau, save_every;
    bool verify, json;
};

static const struct mal_option options[] = {
    {"model", MAL_OPTION_TEXT, offsetof(struct values, model), "DIR", NULL,
     "Model directory as on the Hugging Face hub.", .required = true},
    {"editor", MAL_OPTION_TEXT, offsetof(struct values, editor), "FILE", NULL,
     "Editor file, as 'malmend init-editor' made it; when not given, one is made on the spot."},
    {"data", MAL_OPTION_TEXT, offsetof(struct values, data), "FILE", NULL,
     "Facts to make that editor on; when not given, those to teach."},
    {"facts", MAL_OPTION_TEXT, offsetof(struct values, facts), "FILE", NULL,
     "Facts to teach: JSON or NDJSON of the API's facts, zsRE, FEVER or CounterFact.",
     .required = true},
    {"out", MAL_OPTION_TEXT, offsetof(struct values, out), "FILE", NULL,
     "Write the weight difference here (safetensors)."},
    {"save-model", MAL_OPTION_TEXT, offsetof(struct values, save_model), "DIR", NULL,
     "Write the whole edited model into this new directory."},
    {"preserve", MAL_OPTION_TEXT, offsetof(struct values, preserve), "FILE", NULL,
     MAL_HELP_PRESERVE},
    {"preserve-weight", MAL_OPTION_REAL, offsetof(struct values, preserve_weight), "W",
     NULL, MAL_HELP_PRESERVE_WEIGHT, 0, INFINITY},
    {"repair-rounds", MAL_OPTION_INT, offsetof(struct values, repair_rounds), "N", "4",
     MAL_HELP_REPAIR_ROUNDS, 0, 1000},
    {"repair-tau", MAL_OPTION_REAL, offsetof(struct values, repair_tau), "P", "0.9",
     MAL_HELP_REPAIR_TAU, 0, 1},
    {"save-every", MAL_OPTION_DURATION, offsetof(struct values, save_every), "S", "30",
     "An edit that fine-tunes is saved so often as OUT.state (or DIR.state), until it is "
     "done; the same command goes on from there.",
     .min = 0, .max = 1e6},
    {"verify", MAL_OPTION_FLAG, offsetof(struct values, verify), NULL, NULL,
     "Score the facts, their rephrases and unrelated prompts before and after."},
    {"device", MAL_OPTION_TEXT, offsetof(struct values, device), "NAME", "auto",
     "auto, cpu, cpu:bf16 or cuda:N.",
     .check = mal_backend_check_name},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "Machine-readable report."},
    {0},
};

static const struct mal_option_set set = {
    "edit",
    "Teaches a model one batch of facts.\n\nWrites the difference of the weights, the whole edited "
    "model, or both, and reports what was done.",
    options, false};

struct outcome {
    struct mal_instant_report made; /* zero: the editor was given */
    struct mal_taught taught;
    struct mal_measures before, after;
    char weights_hash[MAL_HASH_HEX];
    double seconds_open, seconds_preserve, seconds_total;
};

struct ticker {
    struct mal_bar bar;
    enum mal_stage stage;
    bool started, json;
};

static bool tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    struct ticker *ticker = arg;
    /* network and solve take turns, module by module: the later of the two is shown */
    if (ticker->started && stage < ticker->stage) return true;
    if (!ticker->started || ticker->stage != stage) {
        if (ticker->started) mal_bar_finish(&ticker->bar);
        mal_bar_start(&ticker->bar, mal_stage_name(stage), total, ticker->json);
        ticker->stage = stage;
        ticker->started = true;
    }
    mal_bar_update(&ticker->bar, done);
    return true;
}

/* ---- Going on after a kill ---- */

static void tell(void *arg, enum mal_resume_event what, int64_t done, int64_t total,
                 const struct mal_error *why) {
    const struct mal_resume *resume = arg;
    if (what == MAL_RESUMED)
        fprintf(stderr, "goes on after %lld of %lld mini-batches: %s\n", (long long)done,
                (long long)total, resume->path);
    if (what == MAL_RESUME_UNREAD)
        fprintf(stderr, "begins anew: %s\n", why->text);
    if (what == MAL_RESUME_UNSAVED)
        fprintf(stderr, "not saved: %s\n", why->text);
}

/* Of an edit that is written somewhere; *out's path owned, NULL: it is not. */
static bool open_resume(struct mal_workbench *wb, const struct values *v,
                        struct mal_resume *out, struct mal_error *err) {
    const char *written = v->out ? v->out : v->save_model;
    bool whole = wb->editor->method->keyed; /* in one go */
    *out = (struct mal_resume){.seconds = v->save_every, .tell = tell, .arg = out};
    if (!written || whole) return true;
    if (!mal_workbench_fingerprint(wb, err)) return false;
    out->run = wb->base_model;
    out->path = mal_file_beside(written, ".state");
    return out->path || mal_fail(err, MAL_NO_MEMORY, "options");
}

/* `done`: what it came to is written. */
static void close_resume(struct mal_resume *resume, bool done) {
    struct mal_error why = {0};
    if (done && resume->path && !mal_new_file_remove(resume->path, &why))
        fprintf(stderr, "%s\n", why.text);
    mal_free((char *)resume->path);
}

/* ---- Working ---- */

static bool measure(struct mal_workbench *wb, const struct mal_fact *facts, size_t n,
                    struct mal_measures *out, struct mal_error *err) {
    struct mal_score *scores = NULL;
    size_t n_scores = 0;
    if (!mal_score_facts(wb->model, wb->tok, facts, n, NULL, NULL, NULL, &scores, &n_scores,
                         err)) {
        return false;
    }
    mal_measures_of(facts, n, scores, out);
    mal_scores_free(scores, n_scores);
    return true;
}

static bool teach(struct mal_workbench *wb, const struct values *v,
                  const struct mal_resume *resume, const struct mal_fact *facts, size_t n,
                  struct outcome *outcome, struct mal_error *err) {
    struct mal_teacher_options how = {.max_rounds = v->repair_rounds,
                                      .tau = v->repair_tau,
                                      .resume = resume->path ? resume : NULL};
    struct ticker ticker = {.json = v->json};
    struct mal_progress progress = {tick, &ticker};
    struct mal_teacher *teacher = NULL;
    bool ok = mal_teacher_create(&teacher, wb, &how, err) &&
              mal_teacher_teach(teacher, facts, n, &progress, &outcome->taught, err);
    if (ticker.started) mal_bar_finish(&ticker.bar);
    mal_teacher_destroy(teacher);
    if (!ok) return false;
    struct mal_hash hash = mal_weights_hash(wb->ws, mal_weights_live(wb->ws));
    mal_hash_hex(&hash, outcome->weights_hash);
    return true;
}

static bool edit(struct mal_workbench *wb, const struct values *v,
                 const struct mal_fact *facts, size_t n, struct outcome *outcome,
                 struct mal_error *err) {
    bool ok = !v->verify || measure(wb, facts, n, &outcome->before, err);
    double began = mal_clock_seconds();
    ok = ok && mal_workbench_preserve(wb, v->preserve, v->preserve_weight, v->json, err);
    outcome->seconds_preserve = mal_clock_seconds() - began;
    struct mal_resume resume = {0};
    ok = ok && open_resume(wb, v, &resume, err) &&
         teach(wb, v, &resume, facts, n, outcome, err);
    ok = ok && (!v->verify || measure(wb, facts, n, &outcome->after, err));
    double begin = mal_clock_seconds();
    ok = ok && (!v->out || mal_workbench_write_delta(wb, v->out, err));
    ok = ok && (!v->save_model || mal_workbench_save_model(wb, v->save_model, err));
    close_resume(&resume, ok);
    outcome->taught.report.seconds[MAL_STAGE_PERSIST] = mal_clock_seconds() - begin;
    return ok;
}

/* ---- Reporting ---- */

static json_t *editor_json(const struct mal_editor *editor,
                           const struct mal_instant_report *made) {
    json_t *out = json_pack("{s:b,s:s,s:I}", "made", made->lr > 0, "method",
                            editor->method->name, "modules",
                            (json_int_t)editor->n_modules);
    if (made->lr > 0) {
        json_object_set_new(out, "lr", json_real(made->lr));
        json_object_set_new(out, "facts", json_integer((json_int_t)made->n_facts));
        json_object_set_new(out, "made_up", json_integer((json_int_t)made->n_made));
    }
    return out;
}

static void print_json(const struct values *v, const struct mal_workbench *wb,
                       const struct outcome *o) {
    json_t *seconds = mal_seconds_json(o->taught.report.seconds, MAL_N_STAGES);
    json_object_set_new(seconds, "open", json_real(o->seconds_open));
    json_object_set_new(seconds, "preserve", json_real(o->seconds_preserve));
    json_object_set_new(seconds, "total", json_real(o->seconds_total));
    json_t *out = json_pack(
        "{s:I,s:I,s:I,s:I,s:f,s:s,s:o,s:o}", "facts",
        (json_int_t)o->taught.report.n_facts, "rounds", (json_int_t)o->taught.n_rounds,
        "tokens", (json_int_t)o->taught.report.n_tokens, "input_tokens",
        (json_int_t)o->taught.report.n_input_tokens, "loss", o->taught.report.loss,
        "weights_hash", o->weights_hash, "editor", editor_json(wb->editor, &o->made),
        "seconds", seconds);
    if (v->verify) {
        json_object_set_new(out, "before", mal_measures_json(&o->before));
        json_object_set_new(out, "after", mal_measures_json(&o->after));
    }
    json_dumpf(out, stdout, MAL_JSON_TOLD);
    putchar('\n');
    json_decref(out);
}

static void print_measures(const char *when, const struct mal_measures *m) {
    printf("%-8s", when);
    mal_print_shares(m->tf_es, m->tf_gs, m->tf_ls);
    mal_print_shares(m->dec_es, m->dec_gs, m->dec_ls);
    putchar('\n');
}

static void print_text(const struct values *v, const struct outcome *o) {
    printf(
        "%zu facts, %lld edit tokens, %lld rounds of repair, %.2f s (opening the model "
        "%.2f s, measuring what is preserved %.2f s)\n",
        o->taught.report.n_facts, (long long)o->taught.report.n_tokens,
        (long long)o->taught.n_rounds, o->seconds_total, o->seconds_open,
        o->seconds_preserve);
    for (int s = 0; s < MAL_N_STAGES; s++) {
        printf("  %-9s %8.3f s\n", mal_stage_name((enum mal_stage)s),
               o->taught.report.seconds[s]);
    }
    printf("weights %s\n", o->weights_hash);
    if (!v->verify) return;
    printf("%%        teacher-forced          decoded\n"
           "              es      gs      ls      es      gs      ls\n");
    print_measures("before", &o->before);
    print_measures("after", &o->after);
}

static bool run(const struct values *v, struct mal_error *err) {
    struct mal_workbench wb = {0};
    struct mal_fact *facts = NULL;
    size_t n = 0;
    struct outcome outcome = {0};
    double begin = mal_clock_seconds();
    bool ok = mal_facts_load(&facts, &n, v->facts, err) &&
              mal_workbench_check_facts(v->facts, facts, n, n, err) &&
              (!v->out || mal_workbench_check_out(v->out, err)) &&
              (!v->save_model || mal_workbench_check_dir(v->save_model, err)) &&
              mal_workbench_open(&wb, v->model, v->device, v->editor, NULL, err) &&
              mal_check_facts_of(v->facts, wb.model, wb.tok, wb.editor, facts, n, err);
    outcome.seconds_open = mal_clock_seconds() - begin;
    double begin_search = mal_clock_seconds();
    ok = ok && (v->editor || mal_workbench_make_editor(&wb, v->data, facts, n, v->json,
                                                       &outcome.made, err));
    double search_seconds = mal_clock_seconds() - begin_search;
    if (ok) mal_workbench_warn(&wb, n);
    ok = ok && edit(&wb, v, facts, n, &outcome, err);
    outcome.taught.report.seconds[MAL_STAGE_SEARCH] = v->editor ? 0 : search_seconds;
    outcome.seconds_total = mal_clock_seconds() - begin;
    if (ok && v->json) print_json(v, &wb, &outcome);
    if (ok && !v->json) print_text(v, &outcome);
    mal_facts_free(facts, n);
    mal_workbench_close(&wb);
    return ok;
}

int mal_cmd_edit(int argc, char **argv) {
    struct values v = {0};
    struct mal_error err = {0};
    int code;
    bool parsed = mal_options_parse(&set, argc, argv, &v, &code);
    if (parsed && v.out && v.save_model && strcmp(v.out, v.save_model) == 0) {
        mal_fail(&err, MAL_INVALID, "--out and --save-model name the same path");
        code = mal_options_misused(&set, &err);
    } else if (parsed) {
        code = run(&v, &err) ? 0 : mal_report_error(&err, v.json);
    }
    mal_options_finish(&set, &v);
    return code;
}
