/* change.c - what all changes of the weights have in common: the version's row, what is
 * written down with it, and the publication. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"
#include "daemon/engine/basis.h"
#include "daemon/engine/change_impl.h"
#include "daemon/engine/measures.h"
#include "daemon/engine/stager.h"

void mal_change_finish(struct mal_change *change) {
    if (change->stager) mal_stager_drop(change->stager);
    mal_version_row_finish(&change->row);
    mal_delta_finish(&change->delta);
    mal_delta_finish(&change->keyframe);
    mal_norms_free(change->norms, change->n_norms);
    for (size_t i = 0; i < change->n_facts; i++) {
        mal_free((char *)change->facts[i].id);
        mal_free((char *)change->facts[i].verified_json);
    }
    mal_free(change->facts);
    for (size_t i = 0; i < change->n_values; i++) {
        mal_free((char *)change->values[i].id);
        mal_free(change->values[i].data);
    }
    mal_free(change->values);
    for (size_t i = 0; i < change->n_results; i++)
        mal_free(change->results[i]);
    mal_free(change->results);
    mal_free(change->base_model);
    mal_free(change->modules_json);
    *change = (struct mal_change){0};
}

/* ---- JSON ---- */

static char *dump(json_t *json) {
    char *text = mal_json_dump(json, MAL_JSON_TOLD);
    json_decref(json);
    return text;
}

static char *norms_json(const struct mal_module_norms *norms, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(list, json_pack("{s:s,s:f,s:f}", "name", norms[i].module,
                                              "shift_norm", norms[i].shift_norm,
                                              "weight_norm", norms[i].weight_norm));
    }
    return dump(list);
}

/* ---- Values ---- */

struct mal_history_value *mal_change_add_values(struct mal_change *change, size_t n,
                                                struct mal_error *err) {
    size_t n_all = change->n_values + n;
    struct mal_history_value *all = mal_realloc(change->values, n_all * sizeof *all);
    if (!all) {
        mal_fail(err, MAL_NO_MEMORY, "values of %zu facts", n);
        return NULL;
    }
    struct mal_history_value *added = all + change->n_values;
    memset(added, 0, n * sizeof *added);
    change->values = all;
    change->n_values = n_all;
    return added;
}

static int by_seq(const void *a, const void *b) {
    const struct mal_history_value *x = a, *y = b;
    return (x->fact > y->fact) - (x->fact < y->fact);
}

static bool seal_values(struct mal_change *change, struct mal_error *err) {
    char hash[MAL_HASH_HEX] = "";
    if (change->n_values > 0)
        qsort(change->values, change->n_values, sizeof *change->values, by_seq);
    if (!mal_history_hash_values(change->values, change->n_values, hash, err))
        return false;
    change->row.values_hash = mal_strdup(hash);
    return change->row.values_hash || mal_fail(err, MAL_NO_MEMORY, "version");
}

/* ---- The version row ---- */

void mal_change_begin(struct mal_engine *engine, enum mal_version_kind kind,
                      int64_t now_ms, struct mal_change *out) {
    int64_t live = mal_weights_live(engine->ws);
    *out = (struct mal_change){.editor = engine->editor, .passes = true};
    out->row = (struct mal_version_row){.version = live + 1,
                                        .parent = live,
                                        .kind = kind,
                                        .created_ms = now_ms,
                                        .to_version = -1};
}

bool mal_change_fill_row(struct mal_engine *engine, struct mal_store *store,
                         bool prepared, struct mal_change *change,
                         struct mal_error *err) {
    struct mal_version_row *row = &change->row;
    struct mal_hash weights = prepared ? mal_weights_prepared_hash(engine->ws)
                                       : mal_weights_hash(engine->ws, 0);
    const struct mal_module_norms *norms = prepared
                                               ? mal_weights_prepared_norms(engine->ws)
                                               : mal_weights_norms(engine->ws, 0);
    struct mal_hash delta;
    char hex[MAL_HASH_HEX];
    if (!mal_delta_hash(&change->delta, &delta, err) || !seal_values(change, err))
        return false;

    mal_hash_hex(&weights, hex);
    row->weights_hash = mal_strdup(hex);
    mal_hash_hex(&delta, hex);
    row->delta_hash = mal_strdup(hex);
    row->encoding = mal_strdup(mal_encoding_name(mal_delta_encoding(&change->delta)));
    row->delta_bytes = (int64_t)mal_delta_bytes(&change->delta);
    row->editor_method = mal_strdup(engine->editor ? engine->editor->method->name : "");
    row->editor_hash = mal_strdup(engine->editor_hash);
    row->update = mal_strdup(engine->joint ? "joint" : "sequential");
    row->modules_json = norms_json(norms, mal_model_n_edited(engine->model));
    row->measures_json = change->measures.n_facts
                             ? dump(mal_measures_json(&change->measures))
                             : mal_strdup("{}");
    if (!row->weights_hash || !row->delta_hash || !row->encoding || !row->editor_method ||
        !row->editor_hash || !row->update || !row->modules_json || !row->measures_json) {
        return mal_fail(err, MAL_NO_MEMORY, "version");
    }
    if (!mal_basis_of_row(engine, store, row, err)) return false;
    struct mal_version_row parent = {0};
    bool ok = row->parent < 0 || mal_store_get_version(store, row->parent, &parent, err);
    ok = ok && mal_history_chain(row, row->parent < 0 ? "" : parent.chain_hash, hex, err);
    mal_version_row_finish(&parent);
    row->chain_hash = ok ? mal_strdup(hex) : NULL;
    return row->chain_hash || mal_fail(err, MAL_NO_MEMORY, "version");
}

bool mal_engine_base_change(struct mal_engine *engine, int64_t now_ms,
                            struct mal_change *out, struct mal_error *err) {
    struct mal_change change = {.editor = engine->editor};
    change.row = (struct mal_version_row){
        .parent = -1, .kind = MAL_VERSION_BASE, .created_ms = now_ms, .to_version = -1};
    change.base_model = mal_strdup(engine->base_model);
    change.modules_json = mal_strdup(engine->modules_json);
    change.form = mal_weights_form(engine->ws);
    bool ok = (change.base_model && change.modules_json) ||
              mal_fail(err, MAL_NO_MEMORY, "version");
    if (!ok || !mal_change_fill_row(engine, NULL, false, &change, err)) {
        mal_change_finish(&change);
        return false;
    }
    *out = change;
    return true;
}

/* ---- Making it ready ---- */

void mal_change_give_delta(struct mal_change *change) {
    if (!change->stager || change->delta_given ||
        mal_delta_bytes(&change->delta) < MAL_STAGER_LEAST)
        return;
    mal_delta_hash_data(&change->delta);
    mal_stager_delta(change->stager, change->row.version, &change->delta);
    change->delta_given = true;
}

static bool take_norms(struct mal_engine *engine, struct mal_normalizer *norms,
                       struct mal_change *change) {
    change->norms = norms;
    change->n_norms = engine->n_norms;
    return norms;
}

bool mal_change_copy_norms(struct mal_engine *engine, struct mal_change *change,
                           struct mal_error *err) {
    return !engine->editor->method->running ||
           take_norms(engine, mal_norms_copy(engine->norms, engine->n_norms, err),
                      change);
}

bool mal_change_new_norms(struct mal_engine *engine, struct mal_change *change,
                          struct mal_error *err) {
    return !engine->editor->method->running ||
           take_norms(engine, mal_editor_norms(engine->editor, err), change);
}

bool mal_change_end(struct mal_engine *engine, bool ok, struct mal_change *change,
                    struct mal_change *out) {
    if (ok) {
        *out = *change;
    } else {
        mal_weights_discard(engine->ws);
        mal_change_finish(change);
    }
    mal_weights_use(engine->ws, mal_weights_live(engine->ws));
    return ok;
}

void mal_change_tick(void *arg) {
    const struct mal_progress *progress = arg;
    /* the prepared weights are discarded by whoever gives up, so the answer waits until
     * then */
    if (progress && progress->tick)
        (void)progress->tick(progress->arg, MAL_STAGE_APPLY, 0, 0);
}

bool mal_change_seal(struct mal_engine *engine, const struct mal_progress *progress,
                     struct mal_change *change, struct mal_error *err) {
    bool ok = mal_weights_seal(engine->ws, mal_change_tick, (void *)progress, err);
    change->report.seconds[MAL_STAGE_HASH] += mal_weights_hash_seconds(engine->ws);
    return ok;
}

/* ---- Rollbacks ---- */

bool mal_engine_rollback(struct mal_engine *engine, struct mal_store *store,
                         int64_t to_version, int64_t now_ms,
                         const struct mal_progress *progress, struct mal_change *out,
                         struct mal_error *err) {
    int64_t live = mal_weights_live(engine->ws);
    if (to_version < 0 || to_version > live) {
        return mal_fail_at(err, MAL_INVALID, "/to_version",
                           "there is no version %lld; the newest is %lld",
                           (long long)to_version, (long long)live);
    }
    struct mal_change change;
    mal_change_begin(engine, MAL_VERSION_ROLLBACK, now_ms, &change);
    change.row.to_version = to_version;
    change.n_norms = engine->n_norms;
    bool ok = mal_engine_read_norms(engine, store, to_version, &change.norms, err);
    ok = ok && mal_engine_prepare_version(engine, store, to_version, mal_change_tick,
                                          (void *)progress, err);
    ok = ok && mal_change_fill_row(engine, store, true, &change, err);
    return mal_change_end(engine, ok, &change, out);
}

/* ---- Making it durable, making it live ---- */

bool mal_engine_add_keyframe(struct mal_engine *engine, struct mal_change *change,
                             const struct mal_progress *progress, struct mal_error *err) {
    if (engine->editor && !change->norms && !mal_change_copy_norms(engine, change, err))
        return false;
    change->row.keyframe = true;
    return mal_weights_read_keyframe(engine->ws, mal_change_tick, (void *)progress,
                                     &change->keyframe, err);
}

bool mal_change_persist(struct mal_change *change, struct mal_store *writer,
                        const char *const *jobs, size_t n_jobs, struct mal_error *err) {
    struct mal_version_row *row = &change->row;
    bool running = change->editor && change->editor->method->running;
    bool norms = row->keyframe || row->kind == MAL_VERSION_EDIT ||
                 row->kind == MAL_VERSION_CONSOLIDATION;
    if (change->base_model &&
        (!mal_store_set_meta(writer, "base_model", change->base_model, err) ||
         !mal_store_set_meta(writer, "modules", change->modules_json, err) ||
         !mal_history_note_digest_form(writer, change->form, err))) {
        return false;
    }
    struct mal_history_parts parts = {
        .delta = change->delta_given ? NULL : &change->delta,
        .keyframe = row->keyframe ? &change->keyframe : NULL,
        .editor = change->editor,
        .norms = running && norms ? change->norms : NULL,
        .values = change->values,
        .n_values = change->n_values};
    struct mal_publish publish = {
        .row = row,
        .jobs = jobs,
        .job_results =
            change->n_results == n_jobs ? (const char *const *)change->results : NULL,
        .n_jobs = n_jobs,
        .facts = change->facts,
        .n_facts = change->n_facts,
        .now_ms = mal_clock_unix_ms(),
        .retracted = change->retracted,
        .n_retracted = change->n_retracted,
        .rejected = change->rejected,
        .n_rejected = change->n_rejected};
    return mal_history_stage(writer, row->version, &parts, err) &&
           mal_store_publish(writer, &publish, err);
}

void mal_engine_publish(struct mal_engine *engine, struct mal_change *change) {
    if (change->row.version == 0) return; /* the base is live from the start */
    mal_weights_publish(engine->ws, change->row.version);
    if (engine->joint && change->row.kind != MAL_VERSION_ROLLBACK)
        engine->members.version = change->row.version;
    if (change->norms) {
        mal_norms_free(engine->norms, change->n_norms);
        engine->norms = change->norms;
        change->norms = NULL;
    }
}

void mal_engine_abandon(struct mal_engine *engine) {
    mal_weights_discard(engine->ws);
}
