/* engine_job.h - jobs as tests of an engine need them in the database. */
#ifndef MAL_TEST_ENGINE_JOB_H
#define MAL_TEST_ENGINE_JOB_H

#include "scratch.h"

#include "core/alloc.h"
#include "daemon/engine/engine.h"
#include "proto/wire.h"

static inline bool engine_job_row(void *arg, struct mal_store *from, size_t i,
                                  struct mal_fact_row *out, struct mal_error *err) {
    *out = ((const struct mal_fact_row *)arg)[i];
    return true;
}

/* With these facts, whose ids are new; or without any. */
static inline void engine_job_add(struct mal_store *store, const char *id,
                                  const struct mal_fact *facts, size_t n) {
    struct mal_error err = {0};
    struct mal_job_row job = {.id = (char *)(uintptr_t)id, .to_version = -1};
    struct mal_fact_row *rows = mal_calloc(n + 1, sizeof *rows);
    assert_non_null(rows);
    for (size_t i = 0; i < n; i++)
        rows[i] = (struct mal_fact_row){.id = facts[i].id,
                                        .prompt = facts[i].prompt,
                                        .target = facts[i].target,
                                        .fact_json = mal_encode_fact(&facts[i])};
    char text[] = "{}";
    struct mal_audit_row audit = {.who = text,
                                  .role = text,
                                  .origin = text,
                                  .action = text,
                                  .request_id = text,
                                  .detail_json = text};
    struct mal_fact_source source = {.n = n, .get = engine_job_row, .arg = rows};
    assert_ok(mal_store_add_job(store, &job, n ? &source : NULL, NULL, NULL, NULL, &audit,
                                &err),
              &err);
    for (size_t i = 0; i < n; i++)
        mal_free(rows[i].fact_json);
    mal_free(rows);
}

#endif
