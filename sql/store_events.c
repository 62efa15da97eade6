/* store_events.c - what triggers have written of jobs and versions. */
#include "sql/store_impl.h"

#include "core/alloc.h"

static void finish_event(void *out) {
    struct mal_event_row *row = out;
    mal_free(row->kind);
    mal_free(row->data_json);
    *row = (struct mal_event_row){0};
}

static bool take_event(struct mal_query *q, void *out, struct mal_error *err) {
    struct mal_event_row row = {0};
    row.id = mal_take_int(q);
    row.kind = mal_take_text(q);
    row.data_json = mal_take_text(q);
    if (!mal_query_taken(q, err)) {
        finish_event(&row);
        return false;
    }
    *(struct mal_event_row *)out = row;
    return true;
}

static const struct mal_row_type event_rows = {sizeof(struct mal_event_row), take_event,
                                               finish_event};

bool mal_store_events(struct mal_store *store, int64_t after, size_t limit,
                      struct mal_event_row **out, size_t *out_n, struct mal_error *err) {
    struct mal_query q;
    void *rows;
    mal_query_open(&q, store, MAL_SQL_EVENTS);
    mal_bind_int(&q, after);
    mal_bind_int(&q, (int64_t)limit);
    if (!mal_query_rows(&q, &event_rows, limit, &rows, out_n, NULL, err)) return false;
    *out = rows;
    return true;
}

void mal_event_rows_free(struct mal_event_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++)
        finish_event(&rows[i]);
    mal_free(rows);
}

bool mal_store_last_event(struct mal_store *store, int64_t *last, struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_LAST_EVENT);
    return mal_query_value(&q, 0, last, err);
}

bool mal_store_event_range(struct mal_store *store, int64_t *first, int64_t *last,
                           struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_FIRST_EVENT);
    return mal_query_value(&q, 1, first, err) && mal_store_last_event(store, last, err);
}
