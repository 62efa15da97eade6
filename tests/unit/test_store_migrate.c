/* test_store_migrate.c - what a store opens and what it refuses: schemas, foreign and
 * torn files, a second writer. What is refused keeps its bytes. */
#include "store_fixture.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char *read_file(const char *path, size_t *out_bytes) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *out_bytes = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*out_bytes + 1);
    assert_int_equal(fread(data, 1, *out_bytes, file), *out_bytes);
    data[*out_bytes] = '\0';
    fclose(file);
    return data;
}

static void write_file(const char *path, const char *data, size_t bytes) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static void run_sql(const char *path, const char *sql) {
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(db));
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* Neither a writer nor a reader takes the file, and its bytes stay. */
static void assert_refused(const char *path, enum mal_status status, const char *part) {
    struct mal_store *store = NULL;
    size_t bytes, bytes_after;
    char *before = read_file(path, &bytes);
    assert_fails(status, part, mal_store_open(&store, path, &err));
    assert_fails(status, part, mal_store_open_reader(&store, path, &err));
    assert_null(store);
    char *after = read_file(path, &bytes_after);
    assert_int_equal(bytes, bytes_after);
    assert_memory_equal(before, after, bytes);
    free(before);
    free(after);
}

/* ---- Schemas ---- */

static char *schema_of(const char *path) {
    struct mal_store *store = open_store(path);
    assert_done(mal_store_check(store, &err));
    char *schema = dump_schema(store->db);
    mal_store_close(store);
    return schema;
}

/* Brings a database of schema `from`, 0: none, to `to` as the program of that schema left
 * it. */
static void bring_to(const char *path, int64_t from, int64_t to) {
    char mark[96];
    for (int64_t i = from; i < to; i++)
        run_sql(path, mal_sql_migrations[i]);
    snprintf(mark, sizeof mark, "PRAGMA application_id = %d; PRAGMA user_version = %d",
             MAL_STORE_APPLICATION_ID, (int)to);
    run_sql(path, mark);
}

static void every_schema_migrates_to_the_newest(void **state) {
    char *fresh = schema_of(path_of(state));
    assert_non_null(strstr(fresh, "fact_states"));
    for (int64_t from = 0; from < mal_store_newest_schema(); from++) {
        char words[32];
        place_remove(*state);
        place_make(*state);
        bring_to(path_of(state), 0, from);

        struct mal_store *store = NULL;
        snprintf(words, sizeof words, "has schema %d", (int)from);
        assert_fails(MAL_CONFLICT, words,
                     mal_store_open_reader(&store, path_of(state), &err));
        char *migrated = schema_of(path_of(state));
        assert_string_equal(migrated, fresh);
        free(migrated);
    }
    free(fresh);
}

/* As the program of schema 1 left it: taught a.0 and a.1, b.0 in place of a.0, back to 1,
 * c.0 waits. */
static const char content_1[] =
    "INSERT INTO blobs VALUES (1, 1, 'delta/x', '{}', 'ff', 2);"
    "INSERT INTO blob_chunks VALUES (1, 1, 0, x'0102');"
    "INSERT INTO jobs (seq, id, kind, state, created_ms, finished_ms, n_facts, version,"
    " to_version) VALUES (1, 'a', 'edit', 'applied', 1, 2, 2, 1, NULL),"
    " (2, 'b', 'edit', 'applied', 3, 4, 1, 2, NULL),"
    " (3, 'back', 'rollback', 'applied', 5, 6, 0, 3, 1),"
    " (4, 'c', 'edit', 'running', 7, NULL, 1, NULL, NULL);"
    "INSERT INTO facts VALUES (1, 'a.0', 1, 0, 'live', 1, 'p', 't', '{}', '{}', NULL),"
    " (2, 'a.1', 1, 1, 'live', 1, 'q', 't', '{}', NULL, NULL),"
    " (3, 'b.0', 2, 0, 'rolled_back', 2, 'p', 't', '{}', NULL, NULL),"
    " (4, 'c.0', 4, 0, 'queued', NULL, 'q', 't', '{}', NULL, NULL);"
    "INSERT INTO versions VALUES"
    " (0, NULL, 'base', 0, NULL, 0, 0, 'w0', 'c0', 'd', 'none', 0, '', '', 'joint',"
    "  '[]', '{}', 0),"
    " (1, 0, 'edit', 2, NULL, 2, 2, 'w1', 'c1', 'd', 'factors', 2, 'malmen', 'e',"
    "  'joint', '[]', '{}', 0),"
    " (2, 1, 'edit', 4, NULL, 1, 2, 'w2', 'c2', 'd', 'none', 0, '', '', 'joint', '[]',"
    "  '{}', 0),"
    " (3, 2, 'rollback', 6, 1, 0, 2, 'w1', 'c3', 'd', 'none', 0, '', '', 'joint', '[]',"
    "  '{}', 0);"
    "INSERT INTO version_jobs VALUES (1, 0, 1), (2, 0, 2), (3, 0, 3);"
    "INSERT INTO fact_states VALUES (1, 1, 'live', NULL), (2, 1, 'live', NULL),"
    " (1, 2, 'superseded', 3), (3, 2, 'live', NULL), (1, 3, 'live', NULL),"
    " (3, 3, 'rolled_back', NULL);"
    "INSERT INTO idempotency VALUES ('k', 'h', '{}', 1);"
    "INSERT INTO meta VALUES ('base_model', 'm')";

static char *rows_of_schema_1(const char *path) {
    static const char sql[] =
        "SELECT * FROM jobs; SELECT seq, id, job, idx, state, version, prompt, target,"
        " fact_json, verified_json, superseded_by FROM facts;"
        "SELECT version, parent, kind, created_ms, to_version, n_facts, live_facts,"
        " weights_hash, chain_hash, delta_hash, encoding, delta_bytes, editor_method,"
        " editor_hash, update_mode, modules_json, measures_json, pruned FROM versions;"
        "SELECT * FROM version_jobs; SELECT fact, version, state, by_fact FROM"
        " fact_states; SELECT * FROM idempotency;"
        "SELECT * FROM meta WHERE key <> 'weights_hash';"
        "SELECT * FROM blobs; SELECT blob, idx, hex(data) FROM blob_chunks";
    struct dump dump = {0};
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, dump_row, &dump, NULL), SQLITE_OK);
    sqlite3_close(db);
    return dump.text;
}

static void content_of_schema_1_lives_on(void **state) {
    bring_to(path_of(state), 0, 1);
    run_sql(path_of(state), content_1);
    char *before = rows_of_schema_1(path_of(state));
    struct mal_store *store = open_store(path_of(state));
    assert_done(mal_store_check(store, &err));
    mal_store_close(store);
    char *after = rows_of_schema_1(path_of(state));
    assert_string_equal(before, after);
    free(before);
    free(after);

    store = open_store(path_of(state));
    struct mal_version_row row;
    char *form;
    assert_done(mal_store_get_meta(store, "weights_hash", &form, &err));
    assert_string_equal(form, "whole");
    mal_free(form);
    assert_done(mal_store_get_version(store, 3, &row, &err));
    assert_false(row.keyframe);
    assert_string_equal(row.values_hash, "");
    mal_version_row_finish(&row);
    assert_string_equal(fact_states(store, 2), "a.1 live, b.0 rolled_back");
    struct mal_member *members;
    size_t n;
    assert_done(mal_store_member_list(store, &members, &n, &err));
    assert_int_equal(n, 2);
    assert_int_equal(members[1].seq, 2);
    assert_false(members[1].pinned);
    mal_free(members);

    assert_done(publish(store, 4, -1, "c", &err));
    assert_string_equal(fact_states(store, -1), "a.0 live, a.1 superseded by c.0, "
                                                "b.0 rolled_back, c.0 live");
    struct mal_retraction pin = {"a.0", true};
    struct mal_version_row next = version_row(5, -1);
    struct mal_publish p = {.row = &next, .retracted = &pin, .n_retracted = 1};
    assert_done(mal_store_publish(store, &p, &err));
    assert_done(publish(store, 6, 2, NULL, &err));
    assert_string_equal(fact_states(store, -1), "a.0 superseded by b.0, a.1 live, "
                                                "b.0 live, c.0 rolled_back");
    assert_done(publish(store, 7, 5, NULL, &err));
    assert_string_equal(fact_states(store, -1),
                        "a.0 pinned retracted, a.1 superseded by c.0, b.0 rolled_back, "
                        "c.0 live");
    assert_done(mal_store_check(store, &err));
    mal_store_close(store);
}

/* What happened before there were events is not among them; what happens then is. */
static void events_begin_with_schema_3(void **state) {
    bring_to(path_of(state), 0, 1);
    run_sql(path_of(state), content_1);
    bring_to(path_of(state), 1, 2);
    run_sql(path_of(state), "INSERT INTO fact_values VALUES (1, 1, 9, 'ff', x'01')");
    char *before = rows_of_schema_1(path_of(state));
    struct mal_store *store = open_store(path_of(state));
    int64_t first, last;
    assert_done(mal_store_check(store, &err));
    assert_done(mal_store_event_range(store, &first, &last, &err));
    assert_int_equal(first, 1);
    assert_int_equal(last, 0);
    mal_store_close(store);
    char *after = rows_of_schema_1(path_of(state));
    assert_string_equal(before, after);
    free(before);
    free(after);

    store = open_store(path_of(state));
    assert_done(publish(store, 4, -1, "c", &err));
    struct mal_event_row *rows;
    size_t n;
    assert_done(mal_store_events(store, 0, 10, &rows, &n, &err));
    assert_int_equal(n, 2);
    assert_string_equal(rows[0].data_json, "{\"id\":\"c\",\"state\":\"applied\","
                                           "\"kind\":\"edit\",\"version\":4}");
    assert_int_equal(rows[1].id, 2);
    assert_string_equal(rows[1].kind, "version");
    mal_event_rows_free(rows, n);
    mal_store_close(store);
}

/* Facts are found by, and supersede each other by, prompts without spaces at the end. */
static void prompts_lose_spaces_at_the_end(void **state) {
    bring_to(path_of(state), 0, 5);
    run_sql(path_of(state),
            "INSERT INTO jobs (seq, id, kind, state, created_ms, n_facts) VALUES"
            " (1, 'a', 'edit', 'queued', 1, 3);"
            "INSERT INTO facts (seq, id, job, idx, state, prompt, target, fact_json)"
            " VALUES (1, 'a.0', 1, 0, 'queued', 'p q', 't', '{}'),"
            " (2, 'a.1', 1, 1, 'queued', 'p q  ', 't', '{\"prompt\":\"p q  \"}'),"
            " (3, 'a.2', 1, 2, 'queued', 'other ', 't', '{}')");
    struct mal_store *store = open_store(path_of(state));
    struct mal_fact_query query = {
        .state = -1, .version = -1, .prompt = "p q ", .limit = 10};
    struct mal_fact_row *rows;
    size_t n;
    assert_done(mal_store_list_facts(store, &query, &rows, &n, NULL, &err));
    assert_int_equal(n, 2);
    assert_string_equal(rows[1].prompt, "p q");
    assert_string_equal(rows[1].fact_json, "{\"prompt\":\"p q  \"}");
    mal_fact_rows_free(rows, n);
    assert_done(mal_store_check(store, &err));
    mal_store_close(store);
}

/* What facts were taught in before it was looked at excludes others as what comes then.
 */
static void phrasings_are_found(void **state) {
    bring_to(path_of(state), 0, 6);
    run_sql(path_of(state),
            "INSERT INTO jobs (seq, id, kind, state, created_ms, n_facts) VALUES"
            " (1, 'a', 'edit', 'applied', 1, 2), (2, 'b', 'edit', 'queued', 1, 1);"
            "INSERT INTO facts (seq, id, job, idx, state, prompt, target, fact_json)"
            " VALUES (1, 'a.0', 1, 0, 'live', 'p', 't', '{\"prompts\":[\"q \",\"q\"]}'),"
            " (2, 'a.1', 1, 1, 'live', 'r', 't', '{\"subject\":\"r\"}'),"
            " (3, 'b.0', 2, 0, 'queued', 'q', 'u', '{\"prompts\":[\"s\"]}')");
    struct mal_store *store = open_store(path_of(state));
    struct mal_fact_row *rows;
    size_t n;
    assert_done(mal_store_members_against(store, 3, &rows, &n, &err));
    assert_int_equal(n, 1);
    assert_string_equal(rows[0].id, "a.0");
    mal_fact_rows_free(rows, n);
    assert_done(mal_store_check(store, &err));
    mal_store_close(store);
}

static void newer_schema_is_refused(void **state) {
    char part[96];
    mal_store_close(open_store(path_of(state)));
    run_sql(path_of(state), "PRAGMA user_version = 97");
    snprintf(part, sizeof part, "has schema 97, this program knows schemas up to %d",
             (int)mal_store_newest_schema());
    assert_refused(path_of(state), MAL_CORRUPT, part);
}

/* The number may still be in the write-ahead log of a newer program that was killed. */
static void newer_schema_in_the_log_is_refused(void **state) {
    mal_store_close(open_store(path_of(state)));
    pid_t child = fork();
    if (child == 0) {
        sqlite3 *db;
        bool done =
            sqlite3_open(path_of(state), &db) == SQLITE_OK &&
            sqlite3_exec(db, "PRAGMA user_version = 97", NULL, NULL, NULL) == SQLITE_OK;
        _exit(done ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    char wal[128];
    size_t bytes;
    snprintf(wal, sizeof wal, "%s-wal", path_of(state));
    free(read_file(wal, &bytes));
    assert_true(bytes > 0);
    assert_refused(path_of(state), MAL_CORRUPT, "has schema 97");
}

static void failing_migration_is_undone(void **state) {
    run_sql(path_of(state), "CREATE TABLE versions (x)");
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d", MAL_STORE_APPLICATION_ID);
    run_sql(path_of(state), sql);
    struct mal_store *store = NULL;
    assert_fails(MAL_CORRUPT, "migration to schema 1",
                 mal_store_open(&store, path_of(state), &err));
    sqlite3 *db;
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_open(path_of(state), &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(db, "SELECT count(*) FROM sqlite_schema", -1, &stmt, 0),
        SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(stmt, 0), 1);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
}

/* ---- Files ---- */

static void files_of_others_are_refused(void **state) {
    char text[5000];
    memset(text, 'x', sizeof text);
    write_file(path_of(state), text, sizeof text);
    assert_refused(path_of(state), MAL_CORRUPT, "not a database");
    write_file(path_of(state), text, 10);
    assert_refused(path_of(state), MAL_CORRUPT, "not a database");
    unlink(path_of(state));
    run_sql(path_of(state), "CREATE TABLE notes (x); PRAGMA application_id = 7");
    assert_refused(path_of(state), MAL_CORRUPT, "not made by malmend (application id 7)");
}

static void damaged_files_are_refused(void **state) {
    struct mal_store *store = open_store(path_of(state));
    struct mal_blob blob = {"a", "{}", path_of(state), 50, "ff"};
    const char *prompts[] = {"p", "q"};
    for (int i = 0; i < 40; i++) {
        char id[16];
        snprintf(id, sizeof id, "job_%d", i);
        assert_done(add_job(store, id, 2, prompts, &err));
    }
    assert_done(mal_store_stage_blob(store, 0, &blob, &err));
    assert_done(publish(store, 0, -1, NULL, &err));
    mal_store_close(store);

    size_t bytes;
    char *whole = read_file(path_of(state), &bytes);
    for (size_t keep = 1; keep < bytes; keep += keep < 200 ? 37 : bytes / 9) {
        write_file(path_of(state), whole, keep);
        assert_refused(path_of(state), MAL_CORRUPT, path_of(state));
    }
    /* Noise inside is either met on opening or by the check; nothing crashes over it. */
    for (uint32_t seed = 1; seed <= 40; seed++) {
        char *torn = malloc(bytes);
        uint32_t x = seed;
        size_t from = 100 + seed * 797 % (bytes - 700);
        memcpy(torn, whole, bytes);
        for (size_t i = from; i < from + 600; i++) {
            torn[i] = (char)((x = x * 1664525 + 1013904223) >> 24);
        }
        write_file(path_of(state), torn, bytes);
        free(torn);
        struct mal_error err = {0};
        bool sound = mal_store_open(&store, path_of(state), &err);
        if (sound) {
            struct mal_job_row *rows;
            size_t n;
            if (mal_store_queued_jobs(store, &rows, &n, &err)) mal_job_rows_free(rows, n);
            err = (struct mal_error){0};
            sound = mal_store_check(store, &err);
            mal_store_close(store);
        }
        if (!sound) {
            assert_int_equal(err.status, MAL_CORRUPT);
            assert_non_null(strstr(err.text, path_of(state)));
        }
        char name[128];
        snprintf(name, sizeof name, "%s-wal", path_of(state));
        unlink(name);
        snprintf(name, sizeof name, "%s-shm", path_of(state));
        unlink(name);
    }
    free(whole);
}

static void empty_file_is_new_only_once(void **state) {
    struct mal_store *store = NULL;
    write_file(path_of(state), "", 0);
    mal_store_close(open_store(path_of(state)));
    write_file(path_of(state), "", 0);
    assert_fails(MAL_CORRUPT, "was in use and is now empty",
                 mal_store_open(&store, path_of(state), &err));
}

static void log_without_its_database_is_kept(void **state) {
    char wal[128];
    struct mal_store *store = NULL;
    size_t bytes;
    snprintf(wal, sizeof wal, "%s-wal", path_of(state));
    write_file(wal, "frames", 6);
    assert_fails(MAL_CORRUPT, "without its database",
                 mal_store_open(&store, path_of(state), &err));
    free(read_file(wal, &bytes));
    assert_int_equal(bytes, 6);
}

static void half_made_database_is_made_again(void **state) {
    char fresh[128];
    snprintf(fresh, sizeof fresh, "%s.new", path_of(state));
    write_file(fresh, "half", 4);
    mal_store_close(open_store(path_of(state)));
    assert_int_equal(access(fresh, F_OK), -1);
}

static void paths_that_lead_nowhere(void **state) {
    char path[128];
    struct mal_store *store = NULL;
    assert_fails(MAL_NOT_FOUND, path_of(state),
                 mal_store_open_reader(&store, path_of(state), &err));
    snprintf(path, sizeof path, "%s/none/facts.db", ((struct place *)*state)->dir);
    assert_fails(MAL_NOT_FOUND, "none", mal_store_open(&store, path, &err));
    assert_fails(MAL_INVALID, "empty", mal_store_open(&store, "", &err));
    assert_int_equal(mkdir(path_of(state), 0700), 0);
    assert_fails(MAL_CORRUPT, "not a regular file",
                 mal_store_open(&store, path_of(state), &err));
    snprintf(path, sizeof path, "%s.lock", path_of(state));
    assert_int_equal(access(path, F_OK), -1); /* nothing is left beside it */
    rmdir(path_of(state));
    snprintf(path, sizeof path, "%s/", path_of(state));
    assert_fails(MAL_INVALID, "the name of a directory",
                 mal_store_open(&store, path, &err));
    assert_int_equal(access(path_of(state), F_OK), -1);
}

/* ---- One writer ---- */

/* SQLite keeps the log beside a name: by a hard link it would begin another one. */
static void other_name_is_refused(void **state) {
    struct mal_store *store = NULL;
    struct mal_store_look look = {0};
    char other[128], lock[160];
    snprintf(other, sizeof other, "%s.other", path_of(state));
    snprintf(lock, sizeof lock, "%s.lock", other);
    for (int in_use = 1; in_use >= 0; in_use--) {
        struct mal_store *first = in_use ? open_store(path_of(state)) : NULL;
        if (in_use) assert_int_equal(link(path_of(state), other), 0);
        assert_fails(MAL_CONFLICT, "is one of 2 hard links",
                     mal_store_open(&store, other, &err));
        assert_fails(MAL_CONFLICT, "is one of 2 hard links",
                     mal_store_look(&look, other, &err));
        assert_int_equal(access(lock, F_OK), -1);
        mal_store_close(first);
    }
    mal_store_close(open_store(path_of(state))); /* by the name it was served by */
    struct mal_error err = {0};
    assert_true(mal_store_open_reader(&store, other, &err));
    mal_store_close(store);
    assert_int_equal(unlink(path_of(state)), 0);
    mal_store_close(open_store(other)); /* its only name by now */
    assert_int_equal(rename(other, path_of(state)), 0);
    static const char *const left[] = {".lock", "-wal", "-shm"};
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        snprintf(lock, sizeof lock, "%s%s", other, left[i]);
        unlink(lock);
    }
}

static void second_writer_is_refused(void **state) {
    struct mal_store *first = open_store(path_of(state)), *second = NULL;
    char link_path[128], part[64];
    snprintf(part, sizeof part, "in use by process %d", (int)getpid());
    assert_fails(MAL_CONFLICT, part, mal_store_open(&second, path_of(state), &err));
    snprintf(link_path, sizeof link_path, "%s.link", path_of(state));
    assert_int_equal(symlink(path_of(state), link_path), 0);
    assert_fails(MAL_CONFLICT, part, mal_store_open(&second, link_path, &err));

    pid_t child = fork();
    if (child == 0) {
        struct mal_error err = {0};
        bool refused = !mal_store_open(&second, path_of(state), &err) &&
                       err.status == MAL_CONFLICT && strstr(err.text, part);
        _exit(refused ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);

    /* Being refused has not loosened the first one's hold. */
    assert_done(publish(first, 0, -1, NULL, &err));
    assert_fails(MAL_CONFLICT, part, mal_store_open(&second, path_of(state), &err));
    mal_store_close(first);
    mal_store_close(open_store(link_path));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACE_TEST(every_schema_migrates_to_the_newest),
        PLACE_TEST(phrasings_are_found),
        PLACE_TEST(content_of_schema_1_lives_on),
        PLACE_TEST(events_begin_with_schema_3),
        PLACE_TEST(prompts_lose_spaces_at_the_end),
        PLACE_TEST(newer_schema_is_refused),
        PLACE_TEST(newer_schema_in_the_log_is_refused),
        PLACE_TEST(failing_migration_is_undone),
        PLACE_TEST(files_of_others_are_refused),
        PLACE_TEST(damaged_files_are_refused),
        PLACE_TEST(empty_file_is_new_only_once),
        PLACE_TEST(log_without_its_database_is_kept),
        PLACE_TEST(half_made_database_is_made_again),
        PLACE_TEST(paths_that_lead_nowhere),
        PLACE_TEST(other_name_is_refused),
        PLACE_TEST(second_writer_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
