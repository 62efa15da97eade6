/* store_fixture.h - what the tests of the store share: a directory, jobs and versions to
 * put in a database, and a dump of all its rows to compare states by. */
#ifndef MAL_STORE_FIXTURE_H
#define MAL_STORE_FIXTURE_H

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/alloc.h"
#include "sql/store_impl.h"

struct place {
    char dir[64], path[96];
};

static inline void place_make(struct place *place) {
    const char *base = getenv("TMPDIR");
    if (!base || strlen(base) > 30) base = "/tmp";
    snprintf(place->dir, sizeof place->dir, "%s/mal_store_XXXXXX", base);
    assert_non_null(mkdtemp(place->dir));
    snprintf(place->path, sizeof place->path, "%s/facts.db", place->dir);
}

static inline void place_remove(struct place *place) {
    static const char *const suffixes[] = {
        "", "-wal", "-shm", "-journal", ".lock", ".new", ".new-wal", ".bak", ".link"};
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", place->path, suffixes[i]);
        unlink(name);
    }
    assert_int_equal(rmdir(place->dir), 0);
}

static inline int place_set_up(void **state) {
    struct place *place = calloc(1, sizeof *place);
    place_make(place);
    *state = place;
    return 0;
}

static inline int place_tear_down(void **state) {
    place_remove(*state);
    free(*state);
    return 0;
}

/* A test with a place of its own. */
#define PLACE_TEST(name) \
    cmocka_unit_test_setup_teardown(name, place_set_up, place_tear_down)

static inline const char *path_of(void **state) {
    return ((struct place *)*state)->path;
}

#define assert_done(expression)                                       \
    do {                                                              \
        struct mal_error err = {0};                                   \
        if (!(expression)) fail_msg("%s: %s", #expression, err.text); \
    } while (0)

#define assert_fails(wanted, part, expression)                                     \
    do {                                                                           \
        struct mal_error err = {0};                                                \
        if (expression) fail_msg("%s succeeded", #expression);                     \
        if (err.status != (wanted) || !strstr(err.text, part)) {                   \
            fail_msg("%s: status %d, %s", #expression, (int)err.status, err.text); \
        }                                                                          \
    } while (0)

static inline struct mal_store *open_store(const char *path) {
    struct mal_store *store = NULL;
    assert_done(mal_store_open(&store, path, &err));
    return store;
}

static inline struct mal_store *open_reader(const char *path) {
    struct mal_store *store = NULL;
    assert_done(mal_store_open_reader(&store, path, &err));
    return store;
}

/* What a query of one number says. */
static inline int64_t number_of(struct mal_store *store, const char *sql) {
    int64_t n = -1;
    assert_done(mal_store_ask(store, sql, &n, &err));
    return n;
}

/* As it is now. False: one of them is not there, or cannot be. */
static inline bool copy_file(const char *from, const char *to) {
    char block[1 << 16];
    ssize_t n;
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (in >= 0 && out >= 0) {
        while ((n = read(in, block, sizeof block)) > 0)
            if (write(out, block, (size_t)n) != n) abort();
    }
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    return in >= 0 && out >= 0;
}

static inline bool get_fact_row(void *arg, struct mal_store *store, size_t i,
                                struct mal_fact_row *out, struct mal_error *err) {
    *out = ((const struct mal_fact_row *)arg)[i];
    return true;
}

/* Who asks for all jobs of these tests. */
static inline const struct mal_audit_row *asked(void) {
    static char who[] = "ci", role[] = "edit", origin[] = "192.0.2.7", detail[] = "{}";
    static char action[] = "POST /v1/edits", request[] = "req_1";
    static const struct mal_audit_row row = {.who = who,
                                             .role = role,
                                             .origin = origin,
                                             .action = action,
                                             .request_id = request,
                                             .detail_json = detail};
    return &row;
}

/* A job with one fact per prompt; the facts are called <job>.0, <job>.1, ... */
static inline bool add_job(struct mal_store *store, const char *id, size_t n,
                           const char *const *prompts, struct mal_error *err) {
    struct mal_job_row job = {.id = (char *)(uintptr_t)id,
                              .kind = n ? MAL_JOB_EDIT : MAL_JOB_ROLLBACK,
                              .created_ms = 1000,
                              .to_version = -1};
    struct mal_fact_row facts[8] = {0};
    char ids[8][64];
    assert_true(n <= 8);
    for (size_t i = 0; i < n; i++) {
        snprintf(ids[i], sizeof ids[i], "%s.%zu", id, i);
        facts[i].id = ids[i];
        facts[i].prompt = (char *)(uintptr_t)prompts[i];
        facts[i].target = ids[i];
        facts[i].fact_json = ids[i];
    }
    struct mal_fact_source source = {.n = n, .get = get_fact_row, .arg = facts};
    return mal_store_add_job(store, &job, &source, NULL, NULL, NULL, asked(), err);
}

/* A row that lacks nothing; its strings are constants. */
static inline struct mal_version_row version_row(int64_t version, int64_t to_version) {
    static char hash[] = "aa", encoding[] = "none";
    return (struct mal_version_row){
        .version = version,
        .parent = version - 1,
        .kind = version == 0      ? MAL_VERSION_BASE
                : to_version >= 0 ? MAL_VERSION_ROLLBACK
                                  : MAL_VERSION_EDIT,
        .created_ms = 2000 + version,
        .to_version = to_version,
        .n_facts = 3,
        .weights_hash = hash,
        .chain_hash = hash,
        .delta_hash = hash,
        .encoding = encoding,
    };
}

/* Publishes a version made by one job; job NULL: by none. */
static inline bool publish(struct mal_store *store, int64_t version, int64_t to_version,
                           const char *job, struct mal_error *err) {
    struct mal_version_row row = version_row(version, to_version);
    struct mal_publish p = {
        .row = &row, .jobs = &job, .n_jobs = job != NULL, .now_ms = 3000};
    return mal_store_publish(store, &p, err);
}

/* Version 1: facts a.0, a.1, a.2 with prompts p, q, r are live. */
static inline struct mal_store *taught(void **state) {
    struct mal_store *store = open_store(path_of(state));
    assert_done(publish(store, 0, -1, NULL, &err));
    assert_done(add_job(store, "a", 3, (const char *[]){"p", "q", "r"}, &err));
    assert_done(publish(store, 1, -1, "a", &err));
    return store;
}

/* ---- Dump ---- */

struct dump {
    char *text;
    size_t used, capacity;
};

static inline void dump_add(struct dump *dump, const char *text) {
    size_t n = strlen(text);
    if (dump->used + n + 2 > dump->capacity) {
        dump->capacity = 2 * dump->capacity + n + 4096;
        dump->text = realloc(dump->text, dump->capacity);
        assert_non_null(dump->text);
    }
    memcpy(dump->text + dump->used, text, n);
    dump->used += n;
    dump->text[dump->used++] = '\n';
    dump->text[dump->used] = '\0';
}

static inline int dump_row(void *arg, int n, char **values, char **names) {
    for (int i = 0; i < n; i++)
        dump_add(arg, values[i] ? values[i] : "NULL");
    return 0;
}

/* The schema and its number; owned (free). */
static inline char *dump_schema(sqlite3 *db) {
    struct dump dump = {0};
    const char *sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type,"
                      " name; PRAGMA user_version";
    assert_int_equal(sqlite3_exec(db, sql, dump_row, &dump, NULL), SQLITE_OK);
    return dump.text;
}

/* Every row of every table (of chunks the ids and sizes), and the schema; owned (free).
 */
static inline char *dump_all(sqlite3 *db) {
    static const char *const queries[] = {
        "PRAGMA user_version",
        "PRAGMA application_id",
        "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name",
        "SELECT * FROM meta",
        "SELECT * FROM jobs",
        "SELECT * FROM facts",
        "SELECT * FROM versions",
        "SELECT * FROM version_jobs",
        "SELECT * FROM fact_states",
        "SELECT * FROM idempotency",
        "SELECT * FROM audit",
        "SELECT * FROM blobs",
        "SELECT blob, idx, length(data) FROM blob_chunks ORDER BY id",
        "SELECT id, fact, version, sha256, hex(data) FROM fact_values",
        "SELECT id, kind, data_json FROM events",
    };
    struct dump dump = {0};
    for (size_t i = 0; i < sizeof queries / sizeof queries[0]; i++) {
        dump_add(&dump, queries[i]);
        assert_int_equal(sqlite3_exec(db, queries[i], dump_row, &dump, NULL), SQLITE_OK);
    }
    return dump.text;
}

/* "id state" of every fact, as it is now, in order, separated by commas, into a static
 * buffer. */
static inline const char *fact_states(struct mal_store *store, int64_t version) {
    static char text[2048];
    struct mal_fact_row *rows = NULL;
    size_t n = 0;
    bool more = true;
    struct mal_fact_query query = {.state = -1, .version = version, .limit = 1000};
    assert_done(mal_store_list_facts(store, &query, &rows, &n, &more, &err));
    assert_false(more);
    text[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s%s%s %s%s%s", i ? ", " : "",
                 rows[i].id, rows[i].pinned ? " pinned" : "",
                 mal_fact_state_name(rows[i].state), rows[i].superseded_by ? " by " : "",
                 rows[i].superseded_by ? rows[i].superseded_by : "");
    }
    mal_fact_rows_free(rows, n);
    return text;
}

#endif
