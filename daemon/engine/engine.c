/* engine.c - opening what the worker owns, and reading from any version in memory. */
#include "daemon/engine/engine_impl.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/perplexity.h"
#include "core/editor/resident.h"
#include "core/file.h"
#include "core/json.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/engine/basis.h"

/* ---- Opening ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

bool mal_engine_name_modules(struct mal_engine *engine, struct mal_error *err) {
    size_t n = mal_model_n_edited(engine->model);
    const char **names = mal_calloc(n, sizeof *names);
    json_t *list = json_array();
    if (names && list) {
        for (size_t i = 0; i < n; i++)
            names[i] = mal_model_edit(engine->model, i)->name;
        qsort(names, n, sizeof *names, by_name);
        for (size_t i = 0; i < n; i++)
            json_array_append_new(list, json_string(names[i]));
        engine->modules_json = mal_json_dump(list, JSON_COMPACT);
    }
    mal_free(names);
    json_decref(list);
    return engine->modules_json || mal_fail(err, MAL_NO_MEMORY, "edit modules");
}

const char *mal_engine_editor_path(const struct mal_engine_options *options) {
    if (options->editor_path) return options->editor_path;
    return access(options->cache_path, F_OK) == 0 ? options->cache_path : NULL;
}

const struct mal_preserve_texts *mal_engine_texts(const struct mal_engine *engine) {
    return engine->preserve_texts.n > 0 ? &engine->preserve_texts
                                        : &engine->editor->preserve;
}

static bool measure_base_perplexity(struct mal_engine *engine, struct mal_error *err) {
    engine->base_perplexity = (double)NAN;
    return !mal_gate_asks(&engine->gate, MAL_GATE_PERPLEXITY_GROWTH) ||
           mal_perplexity_measure(engine->model, mal_engine_texts(engine),
                                  MAL_PERPLEXITY_TOKENS, NULL, NULL,
                                  &engine->base_perplexity, err);
}

/* Said when the daemon starts, not when a job fails. */
static bool check_joint_memory(const struct mal_engine *engine, struct mal_error *err) {
    size_t least = mal_joint_bytes(engine->model);
    if (engine->joint_memory == 0 || engine->joint_memory >= least) return true;
    return mal_fail(err, MAL_NO_MEMORY,
                    "the system of all live facts takes %zu bytes at least, "
                    "--joint-memory allows %zu",
                    least, engine->joint_memory);
}

bool mal_engine_bind_editor(struct mal_engine *engine, struct mal_editor *editor,
                            struct mal_error *err) {
    if (!mal_editor_bind(editor, engine->model, err) ||
        !mal_editor_check_statistics(editor, err))
        return false;
    if (engine->asked_joint && !editor->method->solves) {
        return mal_fail(err, MAL_INVALID,
                        "%s solves no system that all live facts could be held in: "
                        "serve with --update sequential",
                        editor->method->title);
    }
    if (!engine->update_given) engine->joint = editor->method->joint;
    return !engine->joint || check_joint_memory(engine, err);
}

/* With --preserve, or texts in the editor, that takes as long as a batch of them. */
static bool measure_texts(struct mal_engine *engine, const struct mal_editor *editor,
                          struct mal_error *err) {
    double begin = mal_clock_seconds();
    if (!mal_preserve_create(&engine->preserve, engine->model, editor,
                             &engine->preserve_texts, engine->preserve_weight, NULL, err))
        return false;
    size_t given = engine->preserve_texts.n, n = given ? given : editor->preserve.n;
    if (engine->preserve)
        mal_log("info", "preserved texts measured", "{s:I,s:f}", "texts", (json_int_t)n,
                "seconds", mal_clock_seconds() - begin);
    return true;
}

/* The base weights are in use. */
static bool take_editor(struct mal_engine *engine, struct mal_editor *editor,
                        struct mal_error *err) {
    if (!mal_engine_bind_editor(engine, editor, err) ||
        !mal_editor_make_resident(editor, engine->be, err))
        return false;
    engine->norms = mal_editor_norms(editor, err);
    if (!engine->norms) return false;
    engine->n_norms = editor->n_shapes;
    if (!measure_texts(engine, editor, err)) return false;
    engine->editor = editor;
    mal_hash_hex(&editor->hash, engine->editor_hash);
    return mal_engine_find_basis(engine, err) && measure_base_perplexity(engine, err);
}

/* As if there had been none: the next batch makes one. */
static void give_up_editor(struct mal_engine *engine) {
    mal_norms_free(engine->norms, engine->n_norms);
    mal_preserve_destroy(engine->preserve);
    engine->norms = NULL;
    engine->preserve = NULL;
    engine->editor = NULL;
    engine->editor_hash[0] = engine->basis[0] = '\0';
}

static bool open_editor(struct mal_engine *engine, const char *path,
                        struct mal_error *err) {
    struct mal_editor *editor = NULL;
    if (!mal_editor_open(&editor, path, err)) return false;
    if (take_editor(engine, editor, err)) return true;
    give_up_editor(engine);
    mal_editor_close(editor);
    return mal_fail_wrap(err, "%s", path);
}

static bool keep_modules(struct mal_engine *engine, const char *modules_json,
                         struct mal_error *err) {
    json_t *list = NULL;
    if (!mal_json_read(&list, modules_json, "the database's edit modules", err))
        return false;
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

bool mal_engine_choose_modules(struct mal_engine *engine, const char *modules_json,
                               struct mal_error *err) {
    if (!modules_json) return mal_model_set_default_edits(engine->model, err);
    if (!keep_modules(engine, modules_json, err)) return false;
    if (mal_model_n_edited(engine->model) == mal_model_n_edits(engine->model))
        return true;
    return mal_fail(err, MAL_INVALID,
                    "the database's edits change biases, which an editor made on the "
                    "spot does not: name the editor they were made with by --editor");
}

/* What the model is to keep, and to be asked. */
static bool open_files(struct mal_engine *engine,
                       const struct mal_engine_options *options, struct mal_error *err) {
    if (options->preserve &&
        !mal_preserve_texts_load(&engine->preserve_texts, options->preserve,
                                 engine->model, engine->tok, err))
        return false;
    return !options->probes ||
           (mal_probes_load(&engine->probes, options->probes, err) &&
            mal_probes_check(&engine->probes, engine->model, engine->tok, err));
}

void mal_engine_set_options(struct mal_engine *engine,
                            const struct mal_engine_options *options) {
    engine->update_given = options->update != NULL;
    engine->asked_joint = options->update && strcmp(options->update, "joint") == 0;
    engine->joint = !options->update || engine->asked_joint;
    engine->preserve_weight = options->preserve_weight;
    engine->repair_rounds = options->repair_rounds;
    engine->repair_tau = options->repair_tau;
    engine->verify_limit = options->verify_limit;
    engine->joint_memory = options->joint_memory;
    engine->gate = options->gate;
    engine->base_perplexity = (double)NAN;
}

static bool open_parts(struct mal_engine *engine,
                       const struct mal_engine_options *options, struct mal_error *err) {
    if (!mal_backend_create(&engine->be, options->device, err)) return false;
    if (!mal_model_open(&engine->model, options->model_dir, engine->be, err))
        return false;
    if (!mal_tokenizer_open(&engine->tok, options->model_dir, err)) return false;
    if (!mal_check_model(engine->model, engine->tok, options->model_dir, err))
        return false;
    if (!open_files(engine, options, err)) return false;
    const char *editor_path = mal_engine_editor_path(options);
    if (editor_path && !open_editor(engine, editor_path, err)) return false;
    if (editor_path) engine->taught_by = engine->editor;
    if (!editor_path && !mal_engine_choose_modules(engine, options->modules_json, err))
        return false;
    struct mal_hash hash;
    if (!mal_model_fingerprint(engine->model, &hash, err)) {
        return false;
    }
    mal_hash_hex(&hash, engine->base_model);
    return mal_weights_create_in_form(&engine->ws, engine->model, options->keep_versions,
                                      options->form, err) &&
           mal_engine_open_reads(engine, options->read_stream, err);
}

/* The texts themselves need the model's tokenizer. */
static bool look_at_texts(const char *path, struct mal_error *err) {
    char *text;
    size_t bytes;
    if (!mal_file_read(&text, &bytes, path, (size_t)1 << 30, err)) return false;
    mal_free(text);
    return true;
}

bool mal_engine_look(const struct mal_engine_options *options, struct mal_error *err) {
    struct mal_checkpoint *ckpt = NULL;
    struct mal_safetensors *editor = NULL;
    struct mal_probes probes = {0};
    const char *editor_path = mal_engine_editor_path(options);
    bool ok = mal_checkpoint_open(&ckpt, options->model_dir, err) &&
              (!editor_path || mal_safetensors_open(&editor, editor_path, err)) &&
              (!options->probes || mal_probes_load(&probes, options->probes, err)) &&
              (!options->preserve || look_at_texts(options->preserve, err));
    mal_probes_finish(&probes);
    mal_safetensors_close(editor);
    mal_checkpoint_close(ckpt);
    return ok;
}

bool mal_engine_open(struct mal_engine **out, const struct mal_engine_options *options,
                     struct mal_error *err) {
    struct mal_engine *engine = mal_calloc(1, sizeof *engine);
    if (!engine) return mal_fail(err, MAL_NO_MEMORY, "engine");
    mal_engine_set_options(engine, options);
    if (!open_parts(engine, options, err)) goto fail;
    engine->model_name = mal_file_label(options->model_dir);
    if (!mal_engine_name_modules(engine, err)) goto fail;
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
    mal_members_drop(&engine->members);
    mal_engine_close_reads(engine);
    mal_weights_destroy(engine->ws);
    mal_probes_finish(&engine->probes);
    mal_preserve_texts_finish(&engine->preserve_texts);
    mal_norms_free(engine->norms, engine->n_norms);
    mal_preserve_destroy(engine->preserve);
    mal_editor_close(engine->editor);
    mal_tokenizer_close(engine->tok);
    mal_model_close(engine->model);
    mal_backend_destroy(engine->be);
    mal_free(engine->modules_json);
    mal_free(engine->model_name);
    mal_free(engine->cache_path);
    mal_free(engine);
}

bool mal_engine_make_editor(struct mal_engine *engine, const struct mal_fact *facts,
                            size_t n, const struct mal_progress *progress,
                            struct mal_instant_report *report, struct mal_error *err) {
    struct mal_editor *editor = NULL;
    mal_weights_use(engine->ws, 0);
    bool ok = mal_editor_make(&editor, engine->model, engine->tok, facts, n, progress,
                              report, err) &&
              mal_editor_save(editor, engine->cache_path, err) &&
              open_editor(engine, engine->cache_path, err);
    mal_editor_close(editor);
    mal_weights_use(engine->ws, mal_weights_live(engine->ws));
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

bool mal_engine_is_joint(const struct mal_engine *engine) {
    return engine->joint;
}

const char *mal_engine_why_no_perplexity(const struct mal_engine *engine) {
    bool checker =
        engine->model && mal_model_info(engine->model)->kind == MAL_MODEL_CLASSIFIER;
    return checker ? "--gate-max-perplexity-growth is given, and a fact checker has no "
                     "perplexity"
                   : "--gate-max-perplexity-growth is given, and neither --preserve nor "
                     "the editor has a text to measure it on";
}

const char *mal_engine_lacks_texts(const struct mal_engine *engine) {
    bool lacks = mal_gate_asks(&engine->gate, MAL_GATE_PERPLEXITY_GROWTH) &&
                 engine->editor && isnan(engine->base_perplexity);
    return lacks ? mal_engine_why_no_perplexity(engine) : NULL;
}

const struct mal_gate *mal_engine_gate(const struct mal_engine *engine) {
    return &engine->gate;
}

struct mal_members_of mal_engine_members_of(const struct mal_engine *engine) {
    return (struct mal_members_of){.model = engine->model,
                                   .tok = engine->tok,
                                   .editor = engine->editor,
                                   .preserve = engine->preserve,
                                   .max_bytes = engine->joint_memory};
}

void mal_engine_joint_size(const struct mal_engine *engine, size_t *bytes,
                           size_t *n_facts, bool *in_step) {
    const struct mal_members *members = &engine->members;
    *bytes = members->joint ? mal_joint_held_bytes(members->joint) : 0;
    *n_facts = members->n;
    *in_step = members->joint && members->version == mal_engine_live(engine);
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

void mal_engine_name_failure(const struct mal_engine *engine, struct mal_error *err) {
    mal_backend_name_failure(engine->be, err);
}

void mal_engine_live_hash(const struct mal_engine *engine, char out[MAL_HASH_HEX]) {
    struct mal_hash hash = mal_weights_hash(engine->ws, mal_weights_live(engine->ws));
    mal_hash_hex(&hash, out);
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
    return mal_backend_bytes(engine->be) +
           (engine->read_be ? mal_backend_bytes(engine->read_be) : 0);
}

bool mal_engine_check_facts(const struct mal_engine *engine, const struct mal_fact *facts,
                            size_t n, size_t first, int64_t *out_tokens,
                            struct mal_error *err) {
    return mal_check_facts(engine->model, engine->tok, NULL, facts, n, first, out_tokens,
                           err);
}

bool mal_engine_check_taught(const struct mal_engine *engine,
                             const struct mal_fact *facts, size_t n, size_t first,
                             int64_t *out_tokens, struct mal_error *err) {
    return mal_check_facts(engine->model, engine->tok, engine->taught_by, facts, n, first,
                           out_tokens, err);
}
