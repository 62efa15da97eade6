/* engine_check.c - a configuration looked at file by file: what can be read is held
 * against what else can be read. */
#include "daemon/engine/engine_check.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/alloc.h"
#include "core/editor/perplexity.h"
#include "core/facts.h"
#include "core/prompts_load.h"
#include "daemon/base/check.h"
#include "daemon/engine/engine_impl.h"
#include "daemon/engine/history.h"

struct look {
    struct mal_engine_check *check;
    struct mal_engine engine; /* no device, no weights: what may be asked of its parts is
                                 what touches neither */
    bool fits;                /* the model and its tokenizer are there and go together */
    bool no_texts;            /* of --preserve, which has a fault */
};

static bool fault(const struct look *look, const char *option,
                  const struct mal_error *err) {
    look->check->fault(look->check->arg, option, err);
    return false;
}

/* ---- Model ---- */

static bool look_at_model(struct look *look) {
    struct mal_engine_check *check = look->check;
    struct mal_engine *engine = &look->engine;
    const char *dir = check->options->model_dir;
    struct mal_error err = {0};
    if (!mal_model_look(&engine->model, dir, &err)) return fault(look, "model", &err);
    const struct mal_model_info *info = mal_model_info(engine->model);
    (void)snprintf(check->architecture, sizeof check->architecture, "%s",
                   info->architecture);
    (void)snprintf(check->dtype, sizeof check->dtype, "%s", mal_dtype_name(info->dtype));
    check->n_parameters = info->n_parameters;
    if (mal_tokenizer_open(&engine->tok, dir, &err) &&
        mal_check_model(engine->model, engine->tok, dir, &err))
        return true;
    return fault(look, "model", &err);
}

/* ---- Texts and facts ---- */

static bool pass(void *arg, const struct mal_prompt *prompt, struct mal_error *err) {
    (void)arg, (void)prompt, (void)err;
    return true;
}

static void look_at_preserve(struct look *look) {
    struct mal_engine *engine = &look->engine;
    struct mal_error err = {0};
    const char *path = look->check->options->preserve;
    look->no_texts =
        path && !(look->fits ? mal_preserve_texts_load(&engine->preserve_texts, path,
                                                       engine->model, engine->tok, &err)
                             : mal_prompts_load(path, false, pass, NULL, &err));
    if (look->no_texts) fault(look, "preserve", &err);
}

static void look_at_data(struct look *look) {
    struct mal_fact *facts = NULL;
    size_t n = 0;
    struct mal_error err = {0};
    const char *path = look->check->data;
    if (!mal_facts_load(&facts, &n, path, &err) ||
        (look->fits && !mal_check_facts_of(path, look->engine.model, look->engine.tok,
                                           NULL, facts, n, &err)))
        fault(look, "data", &err);
    mal_facts_free(facts, n);
}

static void look_at_texts(struct look *look) {
    const struct mal_engine_options *o = look->check->options;
    struct mal_engine *engine = &look->engine;
    struct mal_error probes_err = {0}, suites_err = {0};
    look_at_preserve(look);
    if (o->probes && (!mal_probes_load(&engine->probes, o->probes, &probes_err) ||
                      (look->fits && !mal_probes_check(&engine->probes, engine->model,
                                                       engine->tok, &probes_err))))
        fault(look, "probes", &probes_err);
    if (look->fits && !mal_suites_check(look->check->suites, engine, &suites_err))
        fault(look, "suites", &suites_err);
    if (look->check->data && !mal_engine_editor_path(o)) look_at_data(look);
}

/* ---- Editor and database ---- */

static bool look_at_editor(struct look *look, const char *path) {
    struct mal_engine_check *check = look->check;
    struct mal_engine *engine = &look->engine;
    struct mal_error err = {0};
    bool ok = mal_editor_open(&engine->editor, path, &err);
    if (ok) {
        (void)snprintf(check->editor_path, sizeof check->editor_path, "%s", path);
        (void)snprintf(check->editor_method, sizeof check->editor_method, "%s",
                       engine->editor->method->name);
        ok = !engine->model || mal_engine_bind_editor(engine, engine->editor, &err) ||
             mal_fail_wrap(&err, "%s", path);
    }
    return ok || fault(look, "editor", &err);
}

/* Only a database that holds a version is one of this model. */
static void look_at_database(struct look *look) {
    struct mal_store *store = look->check->store;
    struct mal_engine *engine = &look->engine;
    struct mal_error err = {0};
    struct mal_hash hash;
    int64_t last = -1;
    bool ok = mal_store_last_version(store, &last, &err);
    if (ok && last >= 0) {
        ok = mal_model_fingerprint(engine->model, &hash, &err);
        if (ok) mal_hash_hex(&hash, engine->base_model);
        ok = ok && mal_history_check_meta(store, "base_model", engine->base_model, &err);
        ok = ok && (!engine->modules_json ||
                    mal_history_check_meta(store, "modules", engine->modules_json, &err));
    }
    if (!ok) fault(look, "db", &err);
}

static void look_at_modules(struct look *look) {
    const char *path = mal_engine_editor_path(look->check->options);
    struct mal_engine *engine = &look->engine;
    struct mal_error err = {0};
    char *modules = NULL;
    bool ok = true;
    if (path) {
        ok = look_at_editor(look, path);
    } else if (!engine->model) {
        return;
    } else if ((look->check->store &&
                !mal_store_get_meta(look->check->store, "modules", &modules, &err)) ||
               !mal_engine_choose_modules(engine, modules, &err)) {
        ok = fault(look, "db", &err);
    }
    mal_free(modules);
    if (!ok || !engine->model) return;
    look->check->n_modules = mal_model_n_edits(engine->model);
    if (!mal_engine_name_modules(engine, &err)) fault(look, "model", &err);
}

/* As mal_engine_lacks_texts() will say. */
static void look_at_gate(const struct look *look) {
    static const struct mal_preserve_texts none;
    const struct mal_engine *engine = &look->engine;
    const struct mal_preserve_texts *texts = &none;
    enum mal_model_kind kind = MAL_MODEL_CAUSAL;
    const struct mal_engine_options *o = look->check->options;
    bool unread = look->no_texts || (o->preserve && !look->fits) ||
                  (mal_engine_editor_path(o) && !engine->editor);
    if (!mal_gate_asks(&engine->gate, MAL_GATE_PERPLEXITY_GROWTH) || unread) return;
    if (engine->model) kind = mal_model_info(engine->model)->kind;
    if (engine->editor || engine->preserve_texts.n > 0) texts = mal_engine_texts(engine);
    if (!mal_perplexity_has_tokens(kind, texts)) {
        look->check->warn(look->check->arg, "gate_max_perplexity_growth",
                          mal_engine_why_no_perplexity(engine));
    }
}

void mal_engine_check(struct mal_engine_check *check) {
    struct look look = {.check = check};
    struct mal_engine *engine = &look.engine;
    mal_engine_set_options(engine, check->options);
    look.fits = look_at_model(&look);
    look_at_texts(&look);
    look_at_modules(&look);
    look_at_gate(&look);
    if (look.fits && check->store) look_at_database(&look);
    mal_probes_finish(&engine->probes);
    mal_preserve_texts_finish(&engine->preserve_texts);
    mal_editor_close(engine->editor);
    mal_tokenizer_close(engine->tok);
    mal_model_close(engine->model);
    free(engine->modules_json); /* jansson's */
}
