/* render.c - rows to JSON. */
#include "daemon/api/render.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "daemon/http/http.h"
#include "proto/wire.h"

/* Text the store holds as JSON; null when it holds none or something unreadable. */
static json_t *parse(const char *text) {
    json_error_t problem;
    json_t *value =
        text ? mal_json_parse(text, strlen(text), JSON_DECODE_ANY, &problem) : NULL;
    return value ? value : json_null();
}

static void set_time(json_t *object, const char *key, int64_t ms) {
    if (!ms) return;
    char text[32];
    mal_format_time(ms, text);
    json_object_set_new(object, key, json_string(text));
}

static void set_parsed(json_t *object, const char *key, const char *text) {
    if (text) json_object_set_new(object, key, parse(text));
}

json_t *mal_render_job(const struct mal_job_row *row, struct mal_daemon_status *status) {
    json_t *job =
        json_pack("{s:s,s:s,s:s,s:s}", "id", row->id, "object", "job", "kind",
                  mal_job_kind_name(row->kind), "state", mal_job_state_name(row->state));
    if (!job) return NULL;
    set_time(job, "created_at", row->created_ms);
    set_time(job, "started_at", row->started_ms);
    set_time(job, "finished_at", row->finished_ms);
    bool evaluation = row->kind == MAL_JOB_EVALUATION;
    if (row->kind == MAL_JOB_EDIT || row->kind == MAL_JOB_RETRACTION || evaluation)
        json_object_set_new(job, "facts", json_integer(row->n_facts));
    if (row->kind == MAL_JOB_RETRACTION && row->request_json) {
        bool drop = mal_retraction_drops(row->request_json);
        json_object_set_new(job, "mode", json_string(drop ? "drop" : "pin"));
    }
    if (row->kind == MAL_JOB_ROLLBACK) {
        json_object_set_new(job, "to_version", json_integer(row->to_version));
    }
    int64_t version = evaluation ? row->to_version : row->version;
    if (version >= 0) json_object_set_new(job, "version", json_integer(version));
    if (row->note) {
        const char *key = row->kind == MAL_JOB_EDIT ? "note" : "reason";
        if (evaluation) key = "suite";
        json_object_set_new(job, key, json_string(row->note));
    }
    enum mal_stage stage;
    int64_t done, total;
    if (status && row->state == MAL_JOB_RUNNING &&
        mal_status_job_progress(status, row->id, &stage, &done, &total)) {
        json_object_set_new(job, "progress",
                            json_pack("{s:s,s:I,s:I}", "stage", mal_stage_name(stage),
                                      "done", (json_int_t)done, "total",
                                      (json_int_t)total));
    }
    set_parsed(job, "result", row->result_json);
    set_parsed(job, "error", row->error_json);
    return job;
}

/* Measures are many fractions, and reading and writing those takes longer than all the
 * rest. */
char *mal_render_job_text(const struct mal_job_row *row,
                          struct mal_daemon_status *status) {
    static const char *const keys[] = {",\"result\":", ",\"error\":"};
    const char *const values[] = {row->result_json, row->error_json};
    struct mal_job_row rest = *row;
    rest.result_json = rest.error_json = NULL;
    char *head = mal_json_text(mal_render_job(&rest, status));
    if (!head) return NULL;
    size_t n = strlen(head), bytes = n + 1;
    for (int i = 0; i < 2; i++)
        bytes += values[i] ? strlen(keys[i]) + strlen(values[i]) : 0;
    char *text = mal_realloc(head, bytes);
    if (!text) {
        mal_free(head);
        return NULL;
    }
    n--; /* the closing brace */
    for (int i = 0; i < 2; i++) {
        if (!values[i]) continue;
        n += (size_t)snprintf(text + n, bytes - n, "%s%s", keys[i], values[i]);
    }
    memcpy(text + n, "}", 2);
    return text;
}

json_t *mal_render_fact(const struct mal_fact_row *row) {
    json_t *fact = json_pack("{s:s,s:s,s:s,s:s}", "id", row->id, "object", "fact",
                             "prompt", row->prompt, "target", row->target);
    if (!fact) return NULL;
    json_t *given = parse(row->fact_json);
    json_object_del(given, "id"); /* the row's counts */
    if (json_is_object(given)) json_object_update_missing(fact, given);
    json_decref(given);
    json_object_set_new(fact, "state", json_string(mal_fact_state_name(row->state)));
    json_object_set_new(fact, "job", json_string(row->job));
    json_object_set_new(fact, "version",
                        row->version >= 0 ? json_integer(row->version) : json_null());
    if (row->state == MAL_FACT_RETRACTED)
        json_object_set_new(fact, "pinned", json_boolean(row->pinned));
    json_object_set_new(fact, "verified", parse(row->verified_json));
    if (row->superseded_by) {
        json_object_set_new(fact, "superseded_by", json_string(row->superseded_by));
    }
    return fact;
}

static json_t *array_of(char *const *strings, size_t n) {
    json_t *array = json_array();
    for (size_t i = 0; array && i < n; i++)
        json_array_append_new(array, json_string(strings[i]));
    return array;
}

static json_t *array_or_empty(const char *text) {
    json_t *value = parse(text);
    if (json_is_array(value)) return value;
    json_decref(value);
    return json_array();
}

static json_t *object_or_empty(const char *text) {
    json_t *value = parse(text);
    if (json_is_object(value)) return value;
    json_decref(value);
    return json_object();
}

json_t *mal_render_version(const struct mal_version_row *row,
                           const struct mal_version_more *more) {
    char created[32];
    mal_format_time(row->created_ms, created);
    json_t *parent = row->parent >= 0 ? json_integer(row->parent) : json_null();
    json_t *delta = json_pack("{s:s,s:I,s:s}", "hash", row->delta_hash, "bytes",
                              (json_int_t)row->delta_bytes, "encoding", row->encoding);
    json_t *editor =
        json_pack("{s:s,s:s}", "method", row->editor_method, "hash", row->editor_hash);
    json_t *version = json_pack(
        "{s:s,s:I,s:o,s:s,s:s,s:o,s:I,s:I,s:s,s:s,s:o,s:I,s:o,s:o,s:o,s:s,s:b,s:b,s:b}",
        "object", "version", "version", (json_int_t)row->version, "parent", parent,
        "kind", mal_version_kind_name(row->kind), "created_at", created, "jobs",
        array_of(more->jobs, more->n_jobs), "facts", (json_int_t)row->n_facts,
        "live_facts", (json_int_t)row->live_facts, "weights_hash", row->weights_hash,
        "chain_hash", row->chain_hash, "delta", delta, "bytes", (json_int_t)more->bytes,
        "modules", array_or_empty(row->modules_json), "measures",
        object_or_empty(row->measures_json), "editor", editor, "update", row->update,
        "keyframe", row->keyframe, "in_memory", more->in_memory, "pruned", row->pruned);
    if (version && row->to_version >= 0) {
        json_object_set_new(version, "to_version", json_integer(row->to_version));
    }
    return version;
}
