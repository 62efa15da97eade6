/* eval_report.c - an evaluation in its three forms. */
#include "daemon/command/eval_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "core/new_file.h"
#include "daemon/engine/measures.h"

/* ---- JSON ---- */

static json_t *batches_json(const struct mal_eval *eval) {
    json_t *list = json_array();
    for (size_t b = 0; b < eval->n_batches; b++) {
        const struct mal_eval_batch *batch = &eval->batches[b];
        json_array_append_new(
            list,
            json_pack("{s:I,s:I,s:I,s:I,s:o,s:f,s:o}", "batch", (json_int_t)b, "facts",
                      (json_int_t)batch->n_facts, "tokens", (json_int_t)batch->n_tokens,
                      "rounds", (json_int_t)batch->n_rounds, "seconds",
                      mal_seconds_json(batch->seconds, MAL_STAGE_PERSIST),
                      "seconds_measuring", batch->seconds_measuring, "measures",
                      mal_measures_json(&batch->measures)));
    }
    return list;
}

static json_t *retention_json(const struct mal_eval *eval) {
    json_t *list = json_array();
    for (size_t b = 0; b < eval->n_batches; b++) {
        const struct mal_measures *m = &eval->batches[b].retention;
        json_array_append_new(list, json_pack("{s:I,s:I,s:o}", "batch", (json_int_t)b,
                                              "facts", (json_int_t)m->n_facts, "measures",
                                              mal_measures_json(m)));
    }
    return list;
}

static json_t *editor_json(const struct mal_editor *editor) {
    char hash[MAL_HASH_HEX];
    mal_hash_hex(&editor->hash, hash);
    json_t *object = json_pack("{s:s,s:s}", "method", editor->method->name, "hash", hash);
    if (editor->n_edits > 0)
        json_object_set_new(object, "n_edits", json_integer(editor->n_edits));
    return object;
}

static const char *update_name(const struct mal_eval_plan *plan) {
    return plan->teacher.joint ? "joint" : "sequential";
}

json_t *mal_eval_json(const struct mal_eval *eval, const struct mal_eval_plan *plan,
                      const struct mal_eval_setup *setup) {
    json_t *report = json_pack(
        "{s:o,s:o,s:o,s:o,s:s,s:{s:I,s:f},s:b,s:I,s:s}", "before",
        mal_measures_json(&eval->before), "after", mal_measures_json(&eval->after),
        "batches", batches_json(eval), "editor", editor_json(setup->editor), "update",
        update_name(plan), "repair", "rounds", (json_int_t)plan->teacher.max_rounds,
        "tau", plan->teacher.tau, "reset", plan->reset, "n_edits",
        (json_int_t)plan->n_edits, "model", setup->model);
    if (!plan->reset) json_object_set_new(report, "retention", retention_json(eval));
    if (setup->preserve) {
        json_object_set_new(report, "preserve",
                            json_pack("{s:I}", "keys",
                                      (json_int_t)(setup->preserve->n_keys[0] +
                                                   setup->preserve->n_keys[1])));
    }
    return report;
}

/* ---- A table ---- */

static void print_row(const char *what, const struct mal_measures *m) {
    printf("%-12s%8zu", what, m->n_facts);
    mal_print_shares(m->dec_es, m->dec_gs, m->dec_ls);
    printf("  ");
    mal_print_shares(m->tf_es, m->tf_gs, m->tf_ls);
    if (isnan(m->agreement)) {
        printf("%12s\n", "-");
    } else {
        printf("%12.1f\n", 100 * m->agreement);
    }
}

void mal_eval_print(const struct mal_eval *eval, const struct mal_eval_plan *plan,
                    const struct mal_eval_setup *setup) {
    double seconds = 0;
    int64_t tokens = 0;
    for (size_t b = 0; b < eval->n_batches; b++) {
        tokens += eval->batches[b].n_tokens;
        for (int s = 0; s < MAL_STAGE_VERIFY; s++)
            seconds += eval->batches[b].seconds[s];
    }
    printf("%s, %zu facts in %zu %s of %zu, %s%s\n", setup->editor->method->name,
           plan->n_facts, eval->n_batches, eval->n_batches == 1 ? "batch" : "batches",
           plan->n_edits, plan->reset ? "each on the base model" : update_name(plan),
           setup->preserve ? ", texts preserved" : "");
    printf("%lld edit tokens, %.2f s for the edits alone\n\n", (long long)tokens,
           seconds);
    printf("%-12s%8s%16s%8s  %20s%4s%12s\n", "%", "facts", "decoded", "",
           "teacher-forced", "", "unrelated");
    printf("%-12s%8s%8s%8s%8s  %8s%8s%8s%12s\n", "", "", "es", "gs", "ls", "es", "gs",
           "ls", "as before");
    print_row("before", &eval->before);
    print_row("after", &eval->after);
    if (plan->reset) return;
    for (size_t b = 0; b < eval->n_batches; b++)
        print_row(b == 0 ? "retention" : "", &eval->batches[b].retention);
}

/* ---- Fact by fact ---- */

/* {"teacher_forced","decoded"} of a fact's rephrases or unrelated prompts. */
static void set_shares(json_t *object, const char *key, double tf, double decoded) {
    if (isnan(tf)) return;
    json_object_set_new(object, key,
                        json_pack("{s:f,s:f}", "teacher_forced", tf, "decoded", decoded));
}

static json_t *scores_json(const struct mal_fact *fact, const struct mal_score *scores) {
    struct mal_measures m;
    mal_measures_of(fact, 1, scores, &m);
    json_t *object = json_pack("{s:b,s:f}", "decoded", scores[0].correct,
                               "teacher_forced", scores[0].share);
    if (isfinite(scores[0].logprob)) /* JSON has no infinity */
        json_object_set_new(object, "logprob", json_real(scores[0].logprob));
    set_shares(object, "rephrases", m.tf_gs, m.dec_gs);
    set_shares(object, "unrelated", m.tf_ls, m.dec_ls);
    return object;
}

static bool write_line(struct mal_new_file *file, const json_t *object,
                       struct mal_error *err) {
    char *text = mal_json_dump(object, MAL_JSON_TOLD);
    if (!text) return mal_fail(err, MAL_NO_MEMORY, "report");
    bool ok = mal_new_file_write(file, text, strlen(text), err) &&
              mal_new_file_write(file, "\n", 1, err);
    mal_free(text);
    return ok;
}

bool mal_eval_write_facts(const struct mal_eval *eval, const struct mal_eval_plan *plan,
                          const char *path, struct mal_error *err) {
    struct mal_new_file file;
    if (!mal_new_file_open(&file, path, err)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < plan->n_facts; i++) {
        const struct mal_fact *fact = &plan->facts[i];
        size_t item = eval->first_item[i];
        json_t *line = json_pack("{s:I,s:I,s:s,s:s,s:o,s:o}", "fact", (json_int_t)i,
                                 "batch", (json_int_t)(i / plan->n_edits), "prompt",
                                 fact->prompt, "target", fact->target, "before",
                                 scores_json(fact, eval->before_scores + item), "after",
                                 scores_json(fact, eval->after_scores + item));
        ok = write_line(&file, line, err);
        json_decref(line);
    }
    ok = ok && mal_new_file_commit(&file, err);
    mal_new_file_abandon(&file);
    return ok;
}

bool mal_eval_write_json(const json_t *report, const char *path, struct mal_error *err) {
    struct mal_new_file file;
    if (!mal_new_file_open(&file, path, err)) return false;
    bool ok = write_line(&file, report, err) && mal_new_file_commit(&file, err);
    mal_new_file_abandon(&file);
    return ok;
}
