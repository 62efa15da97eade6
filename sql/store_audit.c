/* store_audit.c - who asked for what: written beside it, listed, never changed. */
#include "sql/store_impl.h"

#include <stdint.h>

#include "core/alloc.h"

bool mal_store_add_audit(struct mal_store *store, const struct mal_audit_row *row,
                         const char *job, int64_t now_ms, struct mal_error *err) {
    struct mal_query q;
    int64_t n = 0;
    mal_query_open(&q, store, MAL_SQL_ADD_AUDIT);
    mal_bind_int(&q, now_ms);
    mal_bind_text(&q, row->who);
    mal_bind_text(&q, row->role);
    mal_bind_text(&q, row->origin);
    mal_bind_text(&q, row->action);
    mal_bind_text(&q, row->request_id);
    mal_bind_text(&q, row->detail_json);
    mal_bind_text(&q, job);
    if (!mal_query_run(&q, &n, err)) return mal_fail_wrap(err, "audit");
    return n == 1 || mal_fail(err, MAL_NOT_FOUND, "there is no job '%s'", job);
}

void mal_audit_row_finish(struct mal_audit_row *row) {
    mal_free(row->who);
    mal_free(row->role);
    mal_free(row->origin);
    mal_free(row->action);
    mal_free(row->request_id);
    mal_free(row->job);
    mal_free(row->detail_json);
    *row = (struct mal_audit_row){0};
}

void mal_audit_rows_free(struct mal_audit_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++)
        mal_audit_row_finish(&rows[i]);
    mal_free(rows);
}

static bool take_audit(struct mal_query *q, void *out, struct mal_error *err) {
    struct mal_audit_row row = {0};
    row.id = mal_take_int(q);
    row.created_ms = mal_take_int(q);
    row.who = mal_take_text(q);
    row.role = mal_take_text(q);
    row.origin = mal_take_text(q);
    row.action = mal_take_text(q);
    row.request_id = mal_take_text(q);
    row.job = mal_take_text(q);
    row.detail_json = mal_take_text(q);
    if (!mal_query_taken(q, err)) {
        mal_audit_row_finish(&row);
        return false;
    }
    *(struct mal_audit_row *)out = row;
    return true;
}

static void finish_audit(void *row) {
    mal_audit_row_finish(row);
}

const struct mal_row_type mal_audit_rows = {sizeof(struct mal_audit_row), take_audit,
                                            finish_audit};

/* -1: no such job, which no row is about. */
static bool find_job(struct mal_store *store, const char *id, int64_t *out,
                     struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_JOB_SEQ);
    mal_bind_text(&q, id);
    return mal_query_value(&q, -1, out, err);
}

bool mal_store_list_audit(struct mal_store *store, const struct mal_audit_query *query,
                          struct mal_audit_row **out, size_t *out_n, bool *has_more,
                          struct mal_error *err) {
    struct mal_query q;
    int64_t job = INT64_MIN;
    if (query->job && !find_job(store, query->job, &job, err)) return false;
    mal_query_open(&q, store,
                   query->job      ? MAL_SQL_LIST_AUDIT_OF_JOB
                   : query->who    ? MAL_SQL_LIST_AUDIT_OF_WHO
                   : query->action ? MAL_SQL_LIST_AUDIT_OF_ACTION
                                   : MAL_SQL_LIST_AUDIT);
    mal_bind_text(&q, query->who);
    mal_bind_text(&q, query->action);
    mal_bind_opt(&q, job, INT64_MIN);
    mal_bind_int(&q, query->before);
    mal_bind_int(&q, mal_page_limit(query->limit));
    void *rows;
    if (!mal_query_rows(&q, &mal_audit_rows, query->limit, &rows, out_n, has_more, err)) {
        return false;
    }
    *out = rows;
    return true;
}
