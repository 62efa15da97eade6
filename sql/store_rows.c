/* store_rows.c - rows of the database as structs with owned strings. */
#include "sql/store_impl.h"

#include <limits.h>
#include <stdint.h>

#include "core/alloc.h"

/* ---- Release ---- */

void mal_job_row_finish(struct mal_job_row *row) {
    mal_free(row->id);
    mal_free(row->note);
    mal_free(row->request_json);
    mal_free(row->result_json);
    mal_free(row->error_json);
    *row = (struct mal_job_row){0};
}

void mal_fact_row_finish(struct mal_fact_row *row) {
    mal_free(row->id);
    mal_free(row->job);
    mal_free(row->prompt);
    mal_free(row->target);
    mal_free(row->fact_json);
    mal_free(row->verified_json);
    mal_free(row->superseded_by);
    *row = (struct mal_fact_row){0};
}

void mal_version_row_finish(struct mal_version_row *row) {
    mal_free(row->weights_hash);
    mal_free(row->chain_hash);
    mal_free(row->delta_hash);
    mal_free(row->encoding);
    mal_free(row->editor_method);
    mal_free(row->editor_hash);
    mal_free(row->update);
    mal_free(row->modules_json);
    mal_free(row->measures_json);
    mal_free(row->values_hash);
    mal_free(row->basis);
    *row = (struct mal_version_row){0};
}

void mal_job_rows_free(struct mal_job_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++)
        mal_job_row_finish(&rows[i]);
    mal_free(rows);
}

void mal_fact_rows_free(struct mal_fact_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++)
        mal_fact_row_finish(&rows[i]);
    mal_free(rows);
}

void mal_version_rows_free(struct mal_version_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++)
        mal_version_row_finish(&rows[i]);
    mal_free(rows);
}

static void blob_row_finish(struct mal_blob_row *row) {
    mal_free(row->name);
    mal_free(row->header_json);
    mal_free(row->sha256);
    *row = (struct mal_blob_row){0};
}

void mal_blob_rows_free(struct mal_blob_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++)
        blob_row_finish(&rows[i]);
    mal_free(rows);
}

static void value_row_finish(struct mal_value_row *row) {
    mal_free(row->id);
    mal_free(row->sha256);
    *row = (struct mal_value_row){0};
}

void mal_value_rows_free(struct mal_value_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++)
        value_row_finish(&rows[i]);
    mal_free(rows);
}

void mal_store_strings_free(char **strings, size_t n) {
    for (size_t i = 0; i < n; i++)
        mal_free(strings[i]);
    mal_free(strings);
}

/* ---- Reading: the columns in the order of statements.c ---- */

static bool take_job(struct mal_query *q, void *out, struct mal_error *err) {
    struct mal_job_row row = {0};
    row.id = mal_take_text(q);
    row.kind = (enum mal_job_kind)mal_take_word(q, mal_job_kind_from_name);
    row.state = (enum mal_job_state)mal_take_word(q, mal_job_state_from_name);
    row.created_ms = mal_take_int(q);
    row.started_ms = mal_take_opt(q, 0);
    row.finished_ms = mal_take_opt(q, 0);
    row.n_facts = mal_take_int(q);
    row.version = mal_take_opt(q, -1);
    row.to_version = mal_take_opt(q, -1);
    row.note = mal_take_opt_text(q);
    row.request_json = mal_take_opt_text(q);
    row.result_json = mal_take_opt_text(q);
    row.error_json = mal_take_opt_text(q);
    if (!mal_query_taken(q, err)) {
        mal_job_row_finish(&row);
        return false;
    }
    *(struct mal_job_row *)out = row;
    return true;
}

static bool take_fact(struct mal_query *q, void *out, struct mal_error *err) {
    struct mal_fact_row row = {0};
    row.seq = mal_take_int(q);
    row.id = mal_take_text(q);
    row.job = mal_take_text(q);
    row.index = mal_take_int(q);
    row.state = (enum mal_fact_state)mal_take_word(q, mal_fact_state_from_name);
    row.version = mal_take_opt(q, -1);
    row.prompt = mal_take_text(q);
    row.target = mal_take_text(q);
    row.fact_json = mal_take_text(q);
    row.verified_json = mal_take_opt_text(q);
    row.superseded_by = mal_take_opt_text(q);
    row.pinned = mal_take_int(q) != 0;
    if (!mal_query_taken(q, err)) {
        mal_fact_row_finish(&row);
        return false;
    }
    *(struct mal_fact_row *)out = row;
    return true;
}

static bool take_version(struct mal_query *q, void *out, struct mal_error *err) {
    struct mal_version_row row = {0};
    row.version = mal_take_int(q);
    row.parent = mal_take_opt(q, -1);
    row.kind = (enum mal_version_kind)mal_take_word(q, mal_version_kind_from_name);
    row.created_ms = mal_take_int(q);
    row.to_version = mal_take_opt(q, -1);
    row.n_facts = mal_take_int(q);
    row.live_facts = mal_take_int(q);
    row.weights_hash = mal_take_text(q);
    row.chain_hash = mal_take_text(q);
    row.delta_hash = mal_take_text(q);
    row.encoding = mal_take_text(q);
    row.delta_bytes = mal_take_int(q);
    row.editor_method = mal_take_text(q);
    row.editor_hash = mal_take_text(q);
    row.update = mal_take_text(q);
    row.modules_json = mal_take_text(q);
    row.measures_json = mal_take_text(q);
    row.pruned = mal_take_int(q) != 0;
    row.keyframe = mal_take_int(q) != 0;
    row.values_hash = mal_take_text(q);
    row.basis = mal_take_text(q);
    if (!mal_query_taken(q, err)) {
        mal_version_row_finish(&row);
        return false;
    }
    *(struct mal_version_row *)out = row;
    return true;
}

static bool take_blob(struct mal_query *q, void *out, struct mal_error *err) {
    struct mal_blob_row row = {0};
    row.name = mal_take_text(q);
    row.header_json = mal_take_text(q);
    row.sha256 = mal_take_text(q);
    int64_t bytes = mal_take_int(q);
    row.bytes = (uint64_t)bytes;
    q->bad = q->bad || bytes < 0;
    if (!mal_query_taken(q, err)) {
        blob_row_finish(&row);
        return false;
    }
    *(struct mal_blob_row *)out = row;
    return true;
}

static bool take_value(struct mal_query *q, void *out, struct mal_error *err) {
    struct mal_value_row row = {0};
    row.fact = mal_take_int(q);
    row.id = mal_take_text(q);
    row.sha256 = mal_take_text(q);
    row.bytes = (uint64_t)mal_take_int(q);
    if (!mal_query_taken(q, err)) {
        value_row_finish(&row);
        return false;
    }
    *(struct mal_value_row *)out = row;
    return true;
}

static bool take_member(struct mal_query *q, void *out, struct mal_error *err) {
    struct mal_member *member = out;
    member->seq = mal_take_int(q);
    member->pinned = mal_take_int(q) != 0;
    return mal_query_taken(q, err);
}

static bool take_string(struct mal_query *q, void *out, struct mal_error *err) {
    char *text = mal_take_text(q);
    if (!mal_query_taken(q, err)) {
        mal_free(text);
        return false;
    }
    *(char **)out = text;
    return true;
}

/* ---- Kinds of rows ---- */

static void finish_job(void *row) {
    mal_job_row_finish(row);
}

static void finish_fact(void *row) {
    mal_fact_row_finish(row);
}

static void finish_version(void *row) {
    mal_version_row_finish(row);
}

static void finish_blob(void *row) {
    blob_row_finish(row);
}

static void finish_value(void *row) {
    value_row_finish(row);
}

static void finish_member(void *row) {}

static void finish_string(void *row) {
    mal_free(*(char **)row);
}

const struct mal_row_type mal_job_rows = {sizeof(struct mal_job_row), take_job,
                                          finish_job};
const struct mal_row_type mal_fact_rows = {sizeof(struct mal_fact_row), take_fact,
                                           finish_fact};
const struct mal_row_type mal_version_rows = {sizeof(struct mal_version_row),
                                              take_version, finish_version};
const struct mal_row_type mal_blob_rows = {sizeof(struct mal_blob_row), take_blob,
                                           finish_blob};
const struct mal_row_type mal_value_rows = {sizeof(struct mal_value_row), take_value,
                                            finish_value};
const struct mal_row_type mal_member_rows = {sizeof(struct mal_member), take_member,
                                             finish_member};
const struct mal_row_type mal_string_rows = {sizeof(char *), take_string, finish_string};

/* ---- Pages ---- */

static bool grow(char **rows, size_t n, size_t *capacity, size_t size,
                 struct mal_error *err) {
    if (n < *capacity) return true;
    size_t wanted = *capacity ? 2 * *capacity : 16;
    char *grown = wanted <= SIZE_MAX / size ? mal_realloc(*rows, wanted * size) : NULL;
    if (!grown) return mal_fail(err, MAL_NO_MEMORY, "%zu rows of the database", wanted);
    *rows = grown;
    *capacity = wanted;
    return true;
}

bool mal_query_rows(struct mal_query *q, const struct mal_row_type *type, size_t limit,
                    void **out, size_t *out_n, bool *out_more, struct mal_error *err) {
    char *rows = NULL;
    size_t n = 0, capacity = 0;
    bool row = false, done;
    while ((done = mal_query_next(q, &row, err)) && row && n < limit) {
        done = grow(&rows, n, &capacity, type->size, err) &&
               type->take(q, rows + n * type->size, err);
        if (!done) break;
        n++;
    }
    mal_query_close(q);
    if (!done) {
        for (size_t i = 0; i < n; i++)
            type->finish(rows + i * type->size);
        mal_free(rows);
        return false;
    }
    *out = rows;
    *out_n = n;
    if (out_more) *out_more = row;
    return true;
}

bool mal_query_row(struct mal_query *q, const struct mal_row_type *type, void *out,
                   bool *out_found, struct mal_error *err) {
    bool row = false;
    bool done = mal_query_next(q, &row, err) && (!row || type->take(q, out, err));
    mal_query_close(q);
    if (done) *out_found = row;
    return done;
}

int64_t mal_page_limit(size_t limit) {
    return limit < INT64_MAX ? (int64_t)limit + 1 : INT64_MAX;
}
