/* engine.c - opening what the worker owns, and reading from any version in memory. */
#include "daemon/engine_impl.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "daemon/check.h"

/* ---- Opening ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool name_modules(struct mal_engine *engine, struct mal_error *err) {
    size_t n = mal_model_n_edits(engine->model);
    const char **names = mal_calloc(n, sizeof *names);
    json_t *list = json_array();
    if (names && list) {
        for (size_t i = 0; i < n; i++)
            names[i] = mal_model_edit(engine->model, i)->name;
        qsort(names, n, sizeof *names, by_name);
        for (size_t i = 0; i < n; i++)
            json_array_append_new(list, json_string(names[i]));
        engine->modules_json = json_dumps(list, JSON_COMPACT);
    }
    mal_free(names);
    json_decref(list);
    return engine->modules_json || mal_fail(err, MAL_NO_MEMORY, "edit modules");
}

static bool name_model(struct mal_engine *engine, const char *dir,
                       struct mal_error *err) {
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    size_t at = n;
    while (at > 0 && dir[at - 1] != '/')
        at--;
    engine->model_name = mal_strdup(dir + at);
    if (!engine->model_name) return mal_fail(err, MAL_NO_MEMORY, "model name");
    engine->model_name[n - at] = 0;
    return true;
}

static bool open_parts(struct mal_engine *engine,
                       const struct mal_engine_options *options, struct mal_error *err) {
    if (!mal_backend_create(&engine->be, options->device, err)) return false;
    if (!mal_model_open(&engine->model, options->model_dir, engine->be, err))
        return false;
    if (!mal_tokenizer_open(&engine->tok, options->model_dir, err)) return false;
    if (!mal_check_vocabulary(engine->tok, engine->model, options->model_dir, err))
        return false;
    if (!mal_editor_open(&engine->editor, options->editor_path, err)) return false;
    if (!mal_editor_bind(engine->editor, engine->model, err)) {
        return mal_fail_wrap(err, "%s", options->editor_path);
    }
    if (!mal_preserve_create(&engine->preserve, engine->model, engine->editor, NULL,
                             (double)NAN, NULL, err))
        return mal_fail_wrap(err, "%s", options->editor_path);
    struct mal_hash hash;
    if (!mal_model_fingerprint(engine->model, &hash, err)) {
        return false;
    }
    mal_hash_hex(&hash, engine->base_model);
    mal_hash_hex(&engine->editor->hash, engine->editor_hash);
    return mal_weights_create(&engine->ws, engine->model, options->keep_versions, err);
}

bool mal_engine_look(const struct mal_engine_options *options, struct mal_error *err) {
    struct mal_checkpoint *ckpt = NULL;
    struct mal_safetensors *editor = NULL;
    bool ok = mal_checkpoint_open(&ckpt, options->model_dir, err) &&
              mal_safetensors_open(&editor, options->editor_path, err);
    mal_safetensors_close(editor);
    mal_checkpoint_close(ckpt);
    return ok;
}

bool mal_engine_open(struct mal_engine **out, const struct mal_engine_options *options,
                     struct mal_error *err) {
    struct mal_engine *engine = mal_calloc(1, sizeof *engine);
    if (!engine) return mal_fail(err, MAL_NO_MEMORY, "engine");
    if (!open_parts(engine, options, err)) goto fail;
    if (!name_model(engine, options->model_dir, err)) goto fail;
    if (!name_modules(engine, err)) goto fail;
    engine->norms = mal_editor_norms(engine->editor, err);
    if (!engine->norms) goto fail;
    *out = engine;
    return true;

fail:
    mal_engine_close(engine);
    return false;
}

void mal_engine_close(struct mal_engine *engine) {
    if (!engine) return;
    mal_weights_destroy(engine->ws);
    if (engine->norms) mal_norms_free(engine->norms, engine->editor->n_shapes);
    mal_preserve_destroy(engine->preserve);
    mal_editor_close(engine->editor);
    mal_tokenizer_close(engine->tok);
    mal_model_close(engine->model);
    mal_backend_destroy(engine->be);
    free(engine->modules_json); /* jansson's */
    mal_free(engine->model_name);
    mal_free(engine);
}

/* ---- What it is ---- */

const struct mal_model_info *mal_engine_model_info(const struct mal_engine *engine) {
    return mal_model_info(engine->model);
}

const struct mal_tokenizer *mal_engine_tokenizer(const struct mal_engine *engine) {
    return engine->tok;
}

const struct mal_editor *mal_engine_editor(const struct mal_engine *engine) {
    return engine->editor;
}

const char *mal_engine_device(const struct mal_engine *engine) {
    return mal_backend_name(engine->be);
}

const char *mal_engine_base_model(const struct mal_engine *engine) {
    return engine->base_model;
}

const char *mal_engine_model_name(const struct mal_engine *engine) {
    return engine->model_name;
}

int64_t mal_engine_live(const struct mal_engine *engine) {
    return mal_weights_live(engine->ws);
}

bool mal_engine_has(const struct mal_engine *engine, int64_t version) {
    return mal_weights_has(engine->ws, version);
}

size_t mal_engine_versions(const struct mal_engine *engine, int64_t *out, size_t max) {
    size_t n = 0;
    for (int64_t v = 0; v <= mal_weights_live(engine->ws) && n < max; v++) {
        if (mal_weights_has(engine->ws, v)) out[n++] = v;
    }
    return n;
}

size_t mal_engine_device_bytes(const struct mal_engine *engine) {
    return mal_backend_bytes(engine->be);
}

/* ---- Reads ---- */

void mal_engine_set_view(struct mal_engine *engine, enum engine_view view) {
    engine->view = view;
    if (view == VIEW_PREPARED) {
        mal_weights_use_prepared(engine->ws);
    } else {
        mal_weights_use(engine->ws, view == VIEW_BASE ? 0 : mal_weights_live(engine->ws));
    }
}

bool mal_engine_generate(struct mal_engine *engine, int64_t version,
                         struct mal_generation *gens, size_t n, bool (*tick)(void *),
                         void *tick_arg, struct mal_error *err) {
    mal_weights_use(engine->ws, version);
    bool ok = mal_generate(engine->model, engine->tok, gens, n, tick, tick_arg, err);
    mal_engine_set_view(engine, engine->view);
    return ok;
}

bool mal_engine_score(struct mal_engine *engine, int64_t version,
                      const struct mal_score_item *items, size_t n, const char *pointer,
                      bool (*tick)(void *), void *tick_arg, struct mal_score **out,
                      struct mal_error *err) {
    mal_weights_use(engine->ws, version);
    bool ok = mal_score_items(engine->model, engine->tok, items, n, pointer, tick,
                              tick_arg, out, err);
    mal_engine_set_view(engine, engine->view);
    return ok;
}

bool mal_engine_check_facts(const struct mal_engine *engine, const struct mal_fact *facts,
                            size_t n, int64_t *out_tokens, struct mal_error *err) {
    int64_t context = mal_model_info(engine->model)->n_context;
    return mal_check_facts(engine->tok, context, facts, n, out_tokens, err);
}
