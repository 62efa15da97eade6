/* http_version_diff.c - GET /v1/versions/{a}/diff/{b}: what changed from one version to
 * another.
 *
 * Everything is read on a work thread, with a handle of its own: the lists of facts and
 * the weights may be large. For the same reason few run at a time. */
#include <string.h>

#include "core/alloc.h"
#include "core/json.h"
#include "daemon/api/daemon.h"
#include "daemon/api/handlers.h"
#include "daemon/api/http_version.h"
#include "daemon/engine/version_diff.h"
#include "daemon/http/http.h"

enum { PAGE = 500, MAX_IDS = 10000, MAX_AT_ONCE = 2 };

struct diff {
    struct mal_daemon *daemon;
    struct mal_request *req;
    struct mal_version_row from, to;
    char *answer;
    struct mal_error err;
};

/* ---- Facts ---- */

/* The live facts of a version, in the order of seq, a page at a time. */
struct cursor {
    struct mal_store *store;
    struct mal_fact_query query;
    struct mal_fact_row *rows;
    size_t n, at;
    bool has_more;
};

static bool read_page(struct cursor *c, struct mal_error *err) {
    struct mal_fact_row *rows = NULL;
    size_t n = 0;
    bool has_more = false;
    c->query.after = c->n ? c->rows[c->n - 1].id : NULL;
    if (!mal_store_list_facts(c->store, &c->query, &rows, &n, &has_more, err)) {
        return false;
    }
    mal_fact_rows_free(c->rows, c->n);
    c->rows = rows;
    c->n = n;
    c->at = 0;
    c->has_more = has_more;
    return true;
}

/* *out NULL: there is none left. */
static bool look(struct cursor *c, const struct mal_fact_row **out,
                 struct mal_error *err) {
    if (c->at == c->n && c->has_more && !read_page(c, err)) return false;
    *out = c->at < c->n ? &c->rows[c->at] : NULL;
    return true;
}

struct lists {
    json_t *added, *removed;
    bool truncated;
};

static bool add_id(struct lists *lists, json_t *list, const char *id,
                   struct mal_error *err) {
    if (json_array_size(list) == MAX_IDS) {
        lists->truncated = true;
        return true;
    }
    return !json_array_append_new(list, json_string(id)) ||
           mal_fail(err, MAL_NO_MEMORY, "facts that differ");
}

/* Both lists ascend, so that a fact of one alone is seen when the other is past it. */
static bool compare_facts(struct cursor *a, struct cursor *b, struct lists *lists,
                          struct mal_error *err) {
    while (true) {
        const struct mal_fact_row *x, *y;
        if (!look(a, &x, err) || !look(b, &y, err)) return false;
        if (!x && !y) return true;
        bool only_x = x && (!y || x->seq < y->seq);
        bool only_y = y && (!x || y->seq < x->seq);
        if (only_x && !add_id(lists, lists->removed, x->id, err)) return false;
        if (only_y && !add_id(lists, lists->added, y->id, err)) return false;
        if (!only_y) a->at++;
        if (!only_x) b->at++;
    }
}

static json_t *diff_facts(struct mal_store *store, int64_t from, int64_t to,
                          struct mal_error *err) {
    struct cursor a = {.store = store,
                       .query = {.state = -1, .version = from, .limit = PAGE},
                       .has_more = true};
    struct cursor b = a;
    b.query.version = to;
    struct lists lists = {.added = json_array(), .removed = json_array()};
    bool ok = lists.added && lists.removed;
    if (!ok) mal_fail(err, MAL_NO_MEMORY, "facts that differ");
    if (ok && from != to) ok = compare_facts(&a, &b, &lists, err);
    mal_fact_rows_free(a.rows, a.n);
    mal_fact_rows_free(b.rows, b.n);
    json_t *facts = json_pack("{s:o,s:o,s:b}", "added", lists.added, "removed",
                              lists.removed, "truncated", lists.truncated);
    if (ok && facts) return facts;
    if (ok) mal_fail(err, MAL_NO_MEMORY, "facts that differ");
    json_decref(facts);
    return NULL;
}

/* ---- The rest ---- */

static json_t *measures_of(const struct mal_version_row *row) {
    json_error_t problem;
    const char *text = row->measures_json;
    json_t *measures = text ? mal_json_parse(text, strlen(text), 0, &problem) : NULL;
    return measures ? measures : json_object();
}

/* null where what lies between the two was pruned. */
static json_t *diff_modules(const struct diff *diff, struct mal_store *store,
                            struct mal_error *err) {
    struct mal_diff weights = {0};
    if (!mal_diff_versions(store, &diff->from, &diff->to, &weights, err)) return NULL;
    if (!weights.stored) return json_null();
    json_t *array = json_array();
    bool ok = array != NULL;
    for (size_t i = 0; i < weights.n && ok; i++) {
        const struct mal_module_diff *module = &weights.modules[i];
        ok = !json_array_append_new(
            array, json_pack("{s:s,s:f}", "name", module->name, "norm", module->norm));
    }
    mal_diff_finish(&weights);
    if (ok) return array;
    json_decref(array);
    mal_fail(err, MAL_NO_MEMORY, "modules that differ");
    return NULL;
}

static json_t *compare(const struct diff *diff, struct mal_store *store,
                       struct mal_error *err) {
    json_t *facts = diff_facts(store, diff->from.version, diff->to.version, err);
    json_t *modules = facts ? diff_modules(diff, store, err) : NULL;
    if (!modules) {
        json_decref(facts);
        return NULL;
    }
    return json_pack("{s:I,s:I,s:o,s:o,s:{s:o,s:o}}", "from",
                     (json_int_t)diff->from.version, "to", (json_int_t)diff->to.version,
                     "facts", facts, "modules", modules, "measures", "from",
                     measures_of(&diff->from), "to", measures_of(&diff->to));
}

static void work(void *arg) {
    struct diff *diff = arg;
    struct mal_store *store = NULL;
    if (!mal_store_open_reader(&store, diff->daemon->db, &diff->err)) return;
    diff->answer = mal_json_text(compare(diff, store, &diff->err));
    mal_store_close(store);
}

static void finish(struct diff *diff) {
    diff->daemon->n_diffs--;
    mal_version_row_finish(&diff->from);
    mal_version_row_finish(&diff->to);
    mal_free(diff);
}

static void answer(void *arg) {
    struct diff *diff = arg;
    if (diff->err.status == MAL_OK) {
        mal_http_text(diff->req, 200, diff->answer);
    } else {
        mal_http_fail(diff->req, &diff->err);
    }
    finish(diff);
}

void mal_get_version_diff(struct mal_daemon *d, struct mal_request *req) {
    struct mal_error err = {0};
    struct diff *diff = mal_calloc(1, sizeof *diff);
    if (!diff) {
        mal_http_no_memory(req);
        return;
    }
    diff->daemon = d;
    diff->req = req;
    d->n_diffs++;
    if (d->n_diffs > MAX_AT_ONCE) {
        mal_fail(&err, MAL_BUSY, "%d comparisons of versions are running already",
                 MAX_AT_ONCE);
    } else if (mal_read_version(d, req->param[0], &diff->from, &err) &&
               mal_read_version(d, req->param[1], &diff->to, &err) &&
               mal_loop_work(d->loop, work, answer, diff, &err)) {
        return;
    }
    mal_http_fail(req, &err);
    finish(diff);
}
