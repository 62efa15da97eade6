/* fake_engine.c - daemon/engine/engine.h over a table of prompts and targets, so that the
 * daemon can be tested without a model. A version is a table; its blob is the table as
 * JSON, its weights hash the hash of that. Tokens are bytes. What a test wants to see go
 * wrong it writes into a fact: a prompt "held: FILE" takes until there is that file, and
 * with a target "held: FILE" it takes as long until what is durable is live; a target
 * "fail:numeric", "fail:device", "fail:space" or "fail:io" fails so, one "lost:device"
 * for memory that a lost device does not give, and "lack:json" among other facts for JSON
 * that there is no memory for; a target "wrong:..."
 * is learnt and measured as wrong; one "unread:N" fails N times for a damaged page; a
 * target "weak:..." is what an idle daemon finds
 * failing. Loading takes until there is the file that
 * MAL_FAKE_LOAD_HELD names. */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/json.h"
#include "core/tensor.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/engine_export.h"
#include "daemon/engine/history.h"
#include "daemon/engine/probes.h"
#include "fake_engine.h"
#include "fake_measure.h"
#include "fake_work.h"

enum { MAX_SLOTS = 256 };

struct slot {
    int64_t version;
    json_t *table;
    char hash[MAL_HASH_HEX];
};

struct mal_engine {
    struct mal_model_info info;
    struct mal_editor editor;
    struct mal_editor_module module;
    bool joint;
    struct mal_gate gate;
    struct slot slots[MAX_SLOTS]; /* ascending */
    size_t n_slots, keep;
    char chain[MAL_HASH_HEX]; /* of the live version */
    json_t *prepared;
    char prepared_chain[MAL_HASH_HEX];
    char fail[16]; /* how the next persist fails */
    bool lost;     /* the device */
    int n_unread;  /* how often a job has failed for a damaged page */
};

/* The change being persisted, on the writer's thread; one at a time. */
static char *staged_table;
static char staged_fail[16];

bool fake_is_held(const char *text) {
    return !strncmp(text, "held: ", 6) && access(text + 6, F_OK);
}

static char *table_text(const json_t *table) {
    char *text = json_dumps(table, JSON_COMPACT | JSON_SORT_KEYS);
    char *copy = text ? mal_strdup(text) : NULL;
    free(text);
    return copy;
}

static void hash_text(const char *text, char out[MAL_HASH_HEX]) {
    struct mal_hash hash = mal_hash_of(text, strlen(text));
    mal_hash_hex(&hash, out);
}

static struct slot *find(const struct mal_engine *e, int64_t version) {
    for (size_t i = 0; i < e->n_slots; i++) {
        if (e->slots[i].version == version) return (struct slot *)&e->slots[i];
    }
    return NULL;
}

const json_t *fake_table(const struct mal_engine *e, int64_t version) {
    return find(e, version)->table;
}

/* Keeps the base, the live one and `keep` between them. */
static void add_slot(struct mal_engine *e, int64_t version, json_t *table) {
    if (e->n_slots == e->keep + 2) {
        json_decref(e->slots[1].table);
        memmove(&e->slots[1], &e->slots[2], (e->n_slots - 2) * sizeof e->slots[0]);
        e->n_slots--;
    }
    struct slot *slot = &e->slots[e->n_slots++];
    slot->version = version;
    slot->table = table;
    char *text = table_text(table);
    hash_text(text, slot->hash);
    mal_free(text);
}

/* ---- Opening ---- */

bool mal_engine_look(const struct mal_engine_options *options, struct mal_error *err) {
    return true;
}

const char *mal_engine_editor_path(const struct mal_engine_options *options) {
    return options->editor_path;
}

bool mal_engine_open(struct mal_engine **out, const struct mal_engine_options *options,
                     struct mal_error *err) {
    struct stat st;
    if (stat(options->model_dir, &st)) {
        return mal_fail(err, MAL_NOT_FOUND, "%s: no such model", options->model_dir);
    }
    const char *held = getenv("MAL_FAKE_LOAD_HELD");
    while (held && access(held, F_OK))
        poll(NULL, 0, SLICE_MS);
    struct mal_engine *e = mal_calloc(1, sizeof *e);
    if (!e) return mal_fail(err, MAL_NO_MEMORY, "engine");
    e->keep = (size_t)options->keep_versions;
    e->joint = options->update && strcmp(options->update, "joint") == 0;
    e->gate = options->gate;
    e->info = (struct mal_model_info){.architecture = "table",
                                      .n_context = CONTEXT,
                                      .n_vocab = 256,
                                      .n_parameters = 1,
                                      .dtype = MAL_F32,
                                      .eos = 0};
    e->module.name = (char *)"table";
    e->editor = (struct mal_editor){
        .method = &mal_method_ultraedit, .modules = &e->module, .n_modules = 1};
    *out = e;
    return true;
}

void mal_engine_close(struct mal_engine *e) {
    if (!e) return;
    for (size_t i = 0; i < e->n_slots; i++)
        json_decref(e->slots[i].table);
    json_decref(e->prepared);
    mal_free(staged_table);
    staged_table = NULL;
    mal_free(e);
}

const struct mal_model_info *mal_engine_model_info(const struct mal_engine *e) {
    return &e->info;
}

const struct mal_tokenizer *mal_engine_tokenizer(const struct mal_engine *e) {
    return NULL;
}

const struct mal_editor *mal_engine_editor(const struct mal_engine *e) {
    return &e->editor;
}

const char *mal_engine_modules(const struct mal_engine *e) {
    return "[\"table\"]";
}

bool mal_engine_make_editor(struct mal_engine *e, const struct mal_fact *facts, size_t n,
                            const struct mal_progress *progress,
                            struct mal_instant_report *report, struct mal_error *err) {
    return mal_fail(err, MAL_INVALID, "the fake engine has an editor");
}

const char *mal_engine_device(const struct mal_engine *e) {
    return "cpu";
}

const char *mal_engine_base_model(const struct mal_engine *e) {
    return "fake";
}

const char *mal_engine_model_name(const struct mal_engine *e) {
    return "fake";
}

/* Only version 0 can be downloaded: it is zeros, whatever is stored, more of them than
 * sockets hold. */
bool mal_engine_export(const struct mal_engine *e, struct mal_export *out,
                       struct mal_error *err) {
    char name[] = "table";
    struct mal_linear table = {
        .name = name, .d_in = 1 << 21, .d_out = 4, .transposed = true, .dtype = MAL_F32};
    *out = (struct mal_export){.modules = mal_calloc(1, sizeof *out->modules),
                               .model_name = "fake",
                               .base_model = "fake",
                               .version = -1};
    return mal_export_add(out, &table, err);
}

bool fake_read_table(struct mal_store *store, int64_t version, json_t **out,
                     struct mal_error *err) {
    struct mal_blob_row *rows = NULL;
    size_t n = 0;
    if (!mal_store_blobs(store, version, &rows, &n, err)) return false;
    char *text = n == 1 ? mal_calloc(1, rows[0].bytes + 1) : NULL;
    bool ok = text && mal_store_read_blob(store, version, &rows[0], text, err);
    mal_blob_rows_free(rows, n);
    *out = ok ? json_loads(text, 0, NULL) : NULL;
    mal_free(text);
    return *out ||
           mal_fail(err, MAL_CORRUPT, "version %" PRId64 " has no table", version);
}

bool mal_engine_recover(struct mal_engine *e, struct mal_store *store, bool *out_empty,
                        struct mal_error *err) {
    int64_t last;
    if (!mal_store_last_version(store, &last, err)) return false;
    *out_empty = last < 0;
    int64_t oldest = last - (int64_t)e->keep > 1 ? last - (int64_t)e->keep : 1;
    for (int64_t v = 0; v <= last; v++) {
        if (v && v < oldest) continue;
        struct mal_version_row row = {0};
        json_t *table = NULL;
        if (!mal_store_get_version(store, v, &row, err)) return false;
        bool ok = fake_read_table(store, v, &table, err);
        if (ok) add_slot(e, v, table);
        if (ok && strcmp(find(e, v)->hash, row.weights_hash)) {
            ok = mal_fail(err, MAL_CORRUPT, "version %" PRId64 " has another hash", v);
        }
        if (ok) snprintf(e->chain, sizeof e->chain, "%s", row.chain_hash);
        mal_version_row_finish(&row);
        if (!ok) return false;
    }
    return true;
}

/* ---- Changes ---- */

void mal_change_finish(struct mal_change *change) {
    mal_version_row_finish(&change->row);
    for (size_t i = 0; i < change->n_facts; i++) {
        mal_free((char *)change->facts[i].id);
        mal_free((char *)change->facts[i].verified_json);
    }
    mal_free(change->facts);
    for (size_t i = 0; i < change->n_results; i++)
        mal_free(change->results[i]);
    mal_free(change->results);
    *change = (struct mal_change){0};
}

static void prepare(struct mal_engine *e, json_t *table, int64_t version,
                    int64_t to_version, enum mal_version_kind kind, int64_t now_ms,
                    struct mal_change *out) {
    char hash[MAL_HASH_HEX], both[2 * MAL_HASH_HEX];
    json_decref(e->prepared);
    e->prepared = table;
    mal_free(staged_table);
    staged_table = table_text(table);
    snprintf(staged_fail, sizeof staged_fail, "%s", e->fail);
    hash_text(staged_table, hash);
    snprintf(both, sizeof both, "%s%s", e->chain, hash);
    hash_text(both, e->prepared_chain);
    out->row = (struct mal_version_row){
        .version = version,
        .parent = version - 1,
        .kind = kind,
        .created_ms = now_ms,
        .to_version = to_version,
        .n_facts = (int64_t)out->n_facts,
        .weights_hash = mal_strdup(hash),
        .chain_hash = mal_strdup(e->prepared_chain),
        .delta_hash = mal_strdup(hash),
        .encoding = mal_strdup("dense"),
        .delta_bytes = (int64_t)strlen(staged_table),
        .editor_method = mal_strdup("ultraedit"),
        .editor_hash = mal_strdup(""),
        .update = mal_strdup("sequential"),
        .modules_json = mal_strdup("[{\"name\":\"table\",\"shift_norm\":1.0,"
                                   "\"weight_norm\":2.0}]"),
        .measures_json = mal_fake_measures_text(&out->measures)};
}

bool mal_engine_base_change(struct mal_engine *e, int64_t now_ms, struct mal_change *out,
                            struct mal_error *err) {
    prepare(e, json_object(), 0, -1, MAL_VERSION_BASE, now_ms, out);
    return true;
}

static bool bad_target(const struct mal_fact *facts, size_t n, const char *target) {
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(facts[i].target, target)) return true;
    }
    return false;
}

bool fake_can_read(struct mal_engine *e, const struct mal_fact *facts, size_t n,
                   struct mal_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (!strncmp(facts[i].target, "unread:", 7) &&
            e->n_unread < atoi(facts[i].target + 7)) {
            e->n_unread++;
            return mal_fail(err, MAL_CORRUPT, "database disk image is malformed");
        }
    }
    e->n_unread = 0;
    return true;
}

static bool any_held(const struct mal_fact *facts, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (fake_is_held(facts[i].prompt)) return true;
    }
    return false;
}

/* While it is held it is now at one step, now at the other. */
static bool work(const struct mal_fact *facts, size_t n,
                 const struct mal_progress *progress, struct mal_error *err) {
    int turn = 0;
    for (int done = 0; done < 2; done += done || !any_held(facts, n)) {
        poll(NULL, 0, SLICE_MS);
        if (!progress->tick(progress->arg, MAL_STAGE_FORWARD, turn++ % 2, 2)) {
            return mal_fail(err, MAL_CANCELLED, "cancelled");
        }
    }
    return true;
}

bool mal_engine_solved_otherwise(struct mal_engine *e, struct mal_store *store, bool *out,
                                 struct mal_error *err) {
    *out = false;
    return true;
}

bool mal_engine_ask(struct mal_engine *e, const struct mal_fact *facts, size_t n,
                    const struct mal_progress *progress, struct mal_agreement *out,
                    struct mal_error *err) {
    *out = (struct mal_agreement){0};
    return true;
}

void mal_agreement_finish(struct mal_agreement *agreement) {
    *agreement = (struct mal_agreement){0};
}

bool mal_engine_edit(struct mal_engine *e, struct mal_store *store,
                     const struct mal_batch_edit *batch,
                     const struct mal_agreement *agreement, int64_t now_ms,
                     const struct mal_progress *progress, struct mal_change *out,
                     struct mal_error *err) {
    const struct mal_fact *facts = batch->facts;
    size_t n_facts = batch->n;
    double begin = mal_clock_seconds();
    *out = (struct mal_change){.passes = true};
    for (size_t i = 0; i < n_facts; i++)
        fake_stuck(facts[i].prompt);
    if (!work(facts, n_facts, progress, err)) return false;
    out->report.seconds[MAL_STAGE_FORWARD] = mal_clock_seconds() - begin;
    if (bad_target(facts, n_facts, "fail:numeric")) {
        return mal_fail(err, MAL_NUMERIC,
                        "module table: the matrix is not positive definite");
    }
    if (bad_target(facts, n_facts, "fail:device")) {
        return mal_fail(err, MAL_DEVICE, "the device fell off the bus");
    }
    if (bad_target(facts, n_facts, "lost:device")) {
        e->lost = true;
        return mal_fail(err, MAL_NO_MEMORY, "keys");
    }
    if (n_facts > 1 && bad_target(facts, n_facts, "lack:json")) {
        mal_json_set_lacked(true);
        return mal_fail(err, MAL_NO_MEMORY, "a stored fact");
    }
    if (!fake_can_read(e, facts, n_facts, err)) return false;
    e->fail[0] = 0;
    if (bad_target(facts, n_facts, "fail:space")) strcpy(e->fail, "space");
    if (bad_target(facts, n_facts, "fail:io")) strcpy(e->fail, "io");
    json_t *table = json_copy(find(e, mal_engine_live(e))->table);
    out->facts = mal_calloc(n_facts, sizeof *out->facts);
    out->n_facts = n_facts;
    for (size_t i = 0; i < n_facts; i++) {
        json_object_set_new(table, facts[i].prompt, json_string(facts[i].target));
        out->facts[i].id = mal_strdup(facts[i].id);
        out->facts[i].verified_json =
            mal_strdup("{\"decoded\":true,\"logprob\":-0.5,\"rank\":1}");
    }
    mal_fake_measure(out, batch);
    prepare(e, table, mal_engine_live(e) + 1, -1, MAL_VERSION_EDIT, now_ms, out);
    return true;
}

bool mal_engine_rollback(struct mal_engine *e, struct mal_store *store,
                         int64_t to_version, int64_t now_ms,
                         const struct mal_progress *progress, struct mal_change *out,
                         struct mal_error *err) {
    json_t *table = NULL;
    int64_t last;
    if (!mal_store_last_version(store, &last, err)) return false;
    if (to_version > last)
        return mal_fail(err, MAL_INVALID, "no version %" PRId64, to_version);
    if (!fake_read_table(store, to_version, &table, err)) return false;
    e->fail[0] = 0;
    prepare(e, table, last + 1, to_version, MAL_VERSION_ROLLBACK, now_ms, out);
    return true;
}

/* A table is not what can be taken back, repaired or solved anew. */
static bool fail_no_facts(struct mal_error *err) {
    return mal_fail(err, MAL_INVALID, "the fake engine has no joint system");
}

bool mal_engine_retract(struct mal_engine *e, struct mal_store *store,
                        const struct mal_retraction *facts, size_t n, int64_t now_ms,
                        const struct mal_progress *progress, struct mal_change *out,
                        struct mal_error *err) {
    return fail_no_facts(err);
}

bool mal_engine_repair(struct mal_engine *e, struct mal_store *store,
                       const int64_t *facts, size_t n, int64_t now_ms,
                       const struct mal_progress *progress, struct mal_change *out,
                       struct mal_error *err) {
    return fail_no_facts(err);
}

bool mal_engine_consolidate(struct mal_engine *e, struct mal_store *store, int64_t now_ms,
                            const struct mal_progress *progress, struct mal_change *out,
                            struct mal_error *err) {
    return fail_no_facts(err);
}

bool mal_engine_scrub(struct mal_engine *e, struct mal_store *store, int64_t after,
                      bool (*tick)(void *), void *tick_arg, struct mal_scrubbed *out,
                      struct mal_error *err) {
    const char *prompt;
    json_t *target;
    *out = (struct mal_scrubbed){0};
    json_object_foreach (find(e, mal_engine_live(e))->table, prompt, target) {
        if (out->n == MAL_SCRUB_FACTS) break;
        out->failing[out->n_failing] = (int64_t)++out->n;
        if (!strncmp(json_string_value(target), "weak:", 5)) out->n_failing++;
    }
    return true;
}

void mal_scrubbed_finish(struct mal_scrubbed *scrubbed) {}

bool mal_engine_is_ready(const struct mal_engine *e) {
    return true;
}

bool mal_engine_make_ready(struct mal_engine *e, struct mal_store *store,
                           const struct mal_progress *progress, struct mal_error *err) {
    return mal_fail(err, MAL_INVALID, "it is ready");
}

void mal_engine_joint_size(const struct mal_engine *e, size_t *bytes, size_t *n_facts,
                           bool *in_step) {
    *bytes = *n_facts = 0;
    *in_step = false;
}

bool mal_engine_is_joint(const struct mal_engine *e) {
    return e->joint;
}

const char *mal_engine_lacks_texts(const struct mal_engine *e) {
    return NULL;
}

const struct mal_gate *mal_engine_gate(const struct mal_engine *e) {
    return &e->gate;
}

bool mal_engine_add_keyframe(struct mal_engine *e, struct mal_change *change,
                             const struct mal_progress *progress, struct mal_error *err) {
    change->row.keyframe = true;
    return true;
}

bool mal_change_persist(struct mal_change *change, struct mal_store *writer,
                        const char *const *jobs, size_t n_jobs, struct mal_error *err) {
    if (!strcmp(staged_fail, "space"))
        return mal_fail(err, MAL_NO_SPACE, "database: disk full");
    if (!strcmp(staged_fail, "io"))
        return mal_fail(err, MAL_IO, "database: fsync failed");
    struct mal_blob blob = {.name = "delta/table",
                            .header_json = "{}",
                            .data = staged_table,
                            .bytes = strlen(staged_table),
                            .sha256 = change->row.delta_hash};
    if (!change->row.version &&
        (!mal_store_set_meta(writer, "base_model", "fake", err) ||
         !mal_history_note_digest_form(writer, MAL_DIGEST_PIECES, err))) {
        return false;
    }
    if (!mal_store_stage_blob(writer, change->row.version, &blob, err)) return false;
    struct mal_publish publish = {
        .row = &change->row,
        .jobs = jobs,
        .job_results = change->n_results ? (const char *const *)change->results : NULL,
        .n_jobs = n_jobs,
        .facts = change->facts,
        .n_facts = change->n_facts,
        .rejected = change->rejected,
        .n_rejected = change->n_rejected,
        .now_ms = mal_clock_unix_ms()};
    return mal_store_publish(writer, &publish, err);
}

void mal_engine_publish(struct mal_engine *e, struct mal_change *change) {
    const char *prompt;
    json_t *target;
    json_object_foreach (e->prepared, prompt, target) {
        while (fake_is_held(json_string_value(target)))
            poll(NULL, 0, SLICE_MS);
    }
    add_slot(e, change->row.version, e->prepared);
    e->prepared = NULL;
    memcpy(e->chain, e->prepared_chain, sizeof e->chain);
}

void mal_engine_abandon(struct mal_engine *e) {
    json_decref(e->prepared);
    e->prepared = NULL;
}

/* ---- Reads ---- */

int64_t mal_engine_live(const struct mal_engine *e) {
    return e->n_slots ? e->slots[e->n_slots - 1].version : -1;
}

void mal_engine_name_failure(const struct mal_engine *e, struct mal_error *err) {
    if (!e->lost || err->status != MAL_NO_MEMORY) return;
    *err = (struct mal_error){0};
    mal_fail(err, MAL_DEVICE, "the device fell off the bus");
}

void mal_engine_name_read_failure(const struct mal_engine *e, struct mal_error *err) {
    mal_engine_name_failure(e, err);
}

void mal_engine_live_hash(const struct mal_engine *e, char out[MAL_HASH_HEX]) {
    strcpy(out, find(e, mal_engine_live(e))->hash);
}

bool mal_engine_has(const struct mal_engine *e, int64_t version) {
    return find(e, version) != NULL;
}

size_t mal_engine_versions(const struct mal_engine *e, int64_t *out, size_t max) {
    size_t n = e->n_slots < max ? e->n_slots : max;
    for (size_t i = 0; i < n; i++)
        out[i] = e->slots[i].version;
    return n;
}

size_t mal_engine_device_bytes(const struct mal_engine *e) {
    return 4096;
}

bool mal_engine_check_facts(const struct mal_engine *e, const struct mal_fact *facts,
                            size_t n, size_t first, int64_t *out_tokens,
                            struct mal_error *err) {
    *out_tokens = 0;
    for (size_t i = 0; i < n; i++) {
        char at[64];
        snprintf(at, sizeof at, "/facts/%zu/prompt", first + i);
        if (strlen(facts[i].prompt) + strlen(facts[i].target) >= CONTEXT) {
            return mal_fail_at(err, MAL_INVALID, at,
                               "fact %zu is longer than the context", first + i);
        }
        *out_tokens += (int64_t)strlen(facts[i].target) + 1;
    }
    return true;
}

bool mal_engine_check_taught(const struct mal_engine *e, const struct mal_fact *facts,
                             size_t n, size_t first, int64_t *out_tokens,
                             struct mal_error *err) {
    return mal_engine_check_facts(e, facts, n, first, out_tokens, err);
}
