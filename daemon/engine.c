/* engine.c - opening what the worker owns, and reading from any version in memory. */
#include "daemon/engine_impl.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"
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

const char *mal_engine_editor_path(const struct mal_engine_options *options) {
    if (options->editor_path) return options->editor_path;
    return access(options->cache_path, F_OK) == 0 ? options->cache_path : NULL;
}

static bool open_editor(struct mal_engine *engine, const char *path,
                        struct mal_error *err) {
    struct mal_editor *editor = NULL;
    if (!mal_editor_open(&editor, path, err)) return false;
    if (!mal_editor_bind(editor, engine->model, err)) {
        mal_editor_close(editor);
        return mal_fail_wrap(err, "%s", path);
    }
    engine->norms = mal_editor_norms(editor, err);
    if (!engine->norms || !mal_preserve_create(&engine->preserve, engine->model, editor,
                                               NULL, (double)NAN, NULL, err)) {
        mal_editor_close(editor);
        return mal_fail_wrap(err, "%s", path);
    }
    engine->n_norms = editor->n_shapes;
    engine->editor = editor;
    mal_hash_hex(&editor->hash, engine->editor_hash);
    return true;
}

static bool keep_modules(struct mal_engine *engine, const char *modules_json,
                         struct mal_error *err) {
    json_t *list = json_loads(modules_json, 0, NULL);
    size_t n = json_array_size(list);
    const char **names = mal_calloc(n, sizeof *names);
    bool ok = names || mal_fail(err, MAL_NO_MEMORY, "edit modules");
    if (ok && n == 0) ok = mal_fail(err, MAL_CORRUPT, "%s", modules_json);
    for (size_t i = 0; ok && i < n; i++) {
        names[i] = json_string_value(json_array_get(list, i));
        ok = names[i] || mal_fail(err, MAL_CORRUPT, "%s", modules_json);
    }
    ok = ok && mal_model_set_edits(engine->model, names, n, err);
    mal_free(names);
    json_decref(list);
    return ok || mal_fail_wrap(err, "the database's edit modules");
}

/* Without an editor: the modules of the database, of a new one the architecture's own. */
static bool choose_modules(struct mal_engine *engine, const char *modules_json,
                           struct mal_error *err) {
    if (modules_json) return keep_modules(engine, modules_json, err);
    return mal_model_set_default_edits(engine->model, err);
}

static bool open_parts(struct mal_engine *engine,
                       const struct mal_engine_options *options, struct mal_error *err) {
    if (!mal_backend_create(&engine->be, options->device, err)) return false;
    if (!mal_model_open(&engine->model, options->model_dir, engine->be, err))
        return false;
    if (!mal_tokenizer_open(&engine->tok, options->model_dir, err)) return false;
    if (!mal_check_model(engine->model, engine->tok, options->model_dir, err))
        return false;
    const char *editor_path = mal_engine_editor_path(options);
    if (editor_path && !open_editor(engine, editor_path, err)) return false;
    if (!editor_path && !choose_modules(engine, options->modules_json, err)) return false;
    struct mal_hash hash;
    if (!mal_model_fingerprint(engine->model, &hash, err)) {
        return false;
    }
    mal_hash_hex(&hash, engine->base_model);
    return mal_weights_create(&engine->ws, engine->model, options->keep_versions, err);
}

bool mal_engine_look(const struct mal_engine_options *options, struct mal_error *err) {
    struct mal_checkpoint *ckpt = NULL;
    struct mal_safetensors *editor = NULL;
    const char *editor_path = mal_engine_editor_path(options);
    bool ok = mal_checkpoint_open(&ckpt, options->model_dir, err) &&
              (!editor_path || mal_safetensors_open(&editor, editor_path, err));
    mal_safetensors_close(editor);
    mal_checkpoint_close(ckpt);
    return ok;
}

bool mal_engine_open(struct mal_engine **out, const struct mal_engine_options *options,
                     struct mal_error *err) {
    struct mal_engine *engine = mal_calloc(1, sizeof *engine);
    if (!engine) return mal_fail(err, MAL_NO_MEMORY, "engine");
    if (!open_parts(engine, options, err)) goto fail;
    engine->model_name = mal_file_base(options->model_dir);
    if (!name_modules(engine, err)) goto fail;
    engine->cache_path = mal_strdup(options->cache_path);
    if (!engine->model_name || !engine->cache_path) {
        mal_fail(err, MAL_NO_MEMORY, "engine");
        goto fail;
    }
    *out = engine;
    return true;

fail:
    mal_engine_close(engine);
    return false;
}

void mal_engine_close(struct mal_engine *engine) {
    if (!engine) return;
    mal_weights_destroy(engine->ws);
    mal_norms_free(engine->norms, engine->n_norms);
    mal_preserve_destroy(engine->preserve);
    mal_editor_close(engine->editor);
    mal_tokenizer_close(engine->tok);
    mal_model_close(engine->model);
    mal_backend_destroy(engine->be);
    free(engine->modules_json); /* jansson's */
    mal_free(engine->model_name);
    mal_free(engine->cache_path);
    mal_free(engine);
}

bool mal_engine_make_editor(struct mal_engine *engine, const struct mal_fact *facts,
                            size_t n, const struct mal_progress *progress,
                            struct mal_instant_report *report, struct mal_error *err) {
    struct mal_editor *editor = NULL;
    mal_engine_set_view(engine, VIEW_BASE);
    bool ok = mal_editor_make(&editor, engine->model, engine->tok, facts, n, progress,
                              report, err) &&
              mal_editor_save(editor, engine->cache_path, err) &&
              open_editor(engine, engine->cache_path, err);
    mal_editor_close(editor);
    mal_engine_set_view(engine, VIEW_LIVE);
    return ok;
}

/* ---- What it is ---- */

const struct mal_model_info *mal_engine_model_info(const struct mal_engine *engine) {
    return mal_model_info(engine->model);
}

const struct mal_tokenizer *mal_engine_tokenizer(const struct mal_engine *engine) {
    return engine->tok;
}

const char *mal_engine_modules(const struct mal_engine *engine) {
    return engine->modules_json;
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
    return mal_check_facts(engine->model, engine->tok, facts, n, out_tokens, err);
}
