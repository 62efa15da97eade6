/* migrate.c - brings a database to the schema of this program, one embedded file a
 * transaction.
 *
 * PRAGMA user_version counts the files applied and is raised inside the file's own
 * transaction. */
#include "sql/store_impl.h"

#include <inttypes.h>
#include <stdio.h>

int64_t mal_store_newest_schema(void) {
    int64_t n = 0;
    while (mal_sql_migrations[n])
        n++;
    return n;
}

static bool apply(struct mal_store *store, int64_t number, struct mal_error *err) {
    char bump[64];
    snprintf(bump, sizeof bump, "PRAGMA user_version = %" PRId64, number);
    if (!mal_store_exec(store, "BEGIN IMMEDIATE", err)) return false;
    if (mal_store_exec(store, mal_sql_migrations[number - 1], err) &&
        mal_store_exec(store, bump, err) && mal_store_exec(store, "COMMIT", err)) {
        return true;
    }
    if (!sqlite3_get_autocommit(store->db)) {
        sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    }
    return mal_fail_wrap(err, "migration to schema %" PRId64, number);
}

bool mal_store_migrate(struct mal_store *store, struct mal_error *err) {
    int64_t schema;
    if (!mal_store_ask(store, "PRAGMA user_version", &schema, err)) return false;
    while (schema < mal_store_newest_schema()) {
        if (!apply(store, ++schema, err)) return false;
    }
    return true;
}
