/* check.c - what can be refused before any work is done. */
#include "daemon/base/check.h"

#include <stdio.h>
#include <string.h>

#include "core/example.h"
#include "core/file.h"
#include "proto/wire.h"

bool mal_check_model(const struct mal_model *model, const struct mal_tokenizer *tok,
                     const char *dir, struct mal_error *err) {
    const struct mal_model_info *info = mal_model_info(model);
    /* Of an added token behind them a text is refused: mal_text_tokens(). */
    int64_t has = mal_tokenizer_size_of_model(tok);
    if (has > info->n_vocab) {
        return mal_fail(err, MAL_INVALID,
                        "%s: the tokenizer has %lld tokens, the model %lld", dir,
                        (long long)has, (long long)info->n_vocab);
    }
    if (info->n_outputs > 0) return true;
    return mal_fail(err, MAL_INVALID,
                    "%s: the model has no head: tensor 'classifier.weight' is missing",
                    dir);
}

/* `field` and `of_target` are where prompt and target stand in the fact. */
static bool check_text(const struct mal_model *model, const struct mal_tokenizer *tok,
                       size_t fact, const char *field, const char *of_target,
                       const char *prompt, const char *target, const char *join,
                       int64_t *tokens, struct mal_error *err) {
    struct mal_example example = {0};
    struct mal_error own = {0};
    bool ok = target ? mal_example_init(&example, model, tok, prompt, target, join, &own)
                     : mal_example_open(&example, model, tok, prompt, &own);
    *tokens = example.n_target;
    mal_example_finish(&example);
    if (ok) return true;
    char pointer[96];
    snprintf(pointer, sizeof pointer, "/facts/%zu/%s", fact,
             strcmp(own.pointer, "/target") == 0 ? of_target : field);
    return mal_fail_at(err, own.status, pointer, "%s", own.text);
}

static bool check_fact(const struct mal_model *model, const struct mal_tokenizer *tok,
                       const struct mal_fact *fact, size_t i, int64_t *total,
                       struct mal_error *err) {
    char field[64], of_target[64];
    int64_t n = 0;
    if (!check_text(model, tok, i, "prompt", "target", fact->prompt, fact->target,
                    fact->join, &n, err)) {
        return false;
    }
    *total += n;
    for (size_t j = 0; j < fact->n_prompts; j++) {
        snprintf(field, sizeof field, "prompts/%zu", j);
        if (!check_text(model, tok, i, field, "target", fact->prompts[j], fact->target,
                        fact->join, &n, err)) {
            return false;
        }
        *total += n;
    }
    for (size_t j = 0; j < fact->n_rephrases; j++) {
        snprintf(field, sizeof field, "rephrases/%zu", j);
        if (!check_text(model, tok, i, field, "target", fact->rephrases[j], fact->target,
                        fact->join, &n, err)) {
            return false;
        }
    }
    for (size_t j = 0; j < fact->n_unrelated; j++) {
        const struct mal_probe *probe = &fact->unrelated[j];
        snprintf(field, sizeof field, "unrelated/%zu/prompt", j);
        snprintf(of_target, sizeof of_target, "unrelated/%zu/target", j);
        if (!check_text(model, tok, i, field, of_target, probe->prompt, probe->target,
                        fact->join, &n, err)) {
            return false;
        }
    }
    return true;
}

static bool check_taught(const struct mal_editor *editor, const struct mal_model *model,
                         const struct mal_tokenizer *tok, const struct mal_fact *fact,
                         size_t i, struct mal_error *err) {
    struct mal_error own = {0};
    char pointer[sizeof own.pointer + 32];
    if (!editor || !editor->method->check_fact ||
        editor->method->check_fact(editor, model, tok, fact, &own))
        return true;
    snprintf(pointer, sizeof pointer, "/facts/%zu%s", i, own.pointer);
    return mal_fail_at(err, own.status, pointer, "%s", own.text);
}

bool mal_check_facts(const struct mal_model *model, const struct mal_tokenizer *tok,
                     const struct mal_editor *editor, const struct mal_fact *facts,
                     size_t n, size_t first, int64_t *out_tokens, struct mal_error *err) {
    int64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        if (!check_fact(model, tok, &facts[i], first + i, &total, err) ||
            !check_taught(editor, model, tok, &facts[i], first + i, err))
            return false;
    }
    *out_tokens = total;
    return true;
}

bool mal_check_facts_of(const char *path, const struct mal_model *model,
                        const struct mal_tokenizer *tok, const struct mal_editor *editor,
                        const struct mal_fact *facts, size_t n, struct mal_error *err) {
    int64_t tokens;
    if (mal_check_facts(model, tok, editor, facts, n, 0, &tokens, err)) return true;
    return mal_fail_wrap(err, "%s: %s", path, err->pointer);
}

/* ---- As a request ---- */

bool mal_check_facts_form(const char *path, const struct mal_fact *facts, size_t n,
                          struct mal_error *err) {
    const char *shown = mal_file_shown(path);
    for (size_t i = 0; i < n; i++) {
        const struct mal_fact *fact = &facts[i];
        if (fact->odd) {
            return mal_fail(err, MAL_INVALID, "%s: /facts/%zu%s: there is no such member",
                            shown, i, fact->odd);
        }
        if (!fact->of_set && fact->id && !mal_fact_id_valid(fact->id)) {
            return mal_fail(err, MAL_INVALID,
                            "%s: /facts/%zu/id: expected 1 to %d of the characters A-Z "
                            "a-z 0-9 _ . : -",
                            shown, i, MAL_FACT_ID);
        }
    }
    return true;
}

bool mal_check_facts_agree(const char *path, const struct mal_fact *facts, size_t n,
                           size_t batch, size_t *out_contradicting,
                           struct mal_error *err) {
    bool of_set = false, ok = true;
    for (size_t i = 0; i < n; i++)
        of_set = of_set || facts[i].of_set;
    for (size_t i = 0; ok && batch > 0 && !of_set && i < n; i += batch)
        ok = mal_facts_agree(facts + i, n - i < batch ? n - i : batch, i, err);
    ok = ok && mal_facts_contradicting(facts, n, out_contradicting, err);
    return ok || mal_fail_wrap(err, "%s", mal_file_shown(path));
}
