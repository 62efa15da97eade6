/* suites.c - a directory of files of facts. */
#include "daemon/engine/suites.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/utf8.h"
#include "daemon/engine/engine.h"

static void suite_finish(struct mal_suite *suite) {
    mal_facts_free(suite->facts, suite->n_facts);
    mal_free(suite->name);
    mal_free(suite->path);
    *suite = (struct mal_suite){0};
}

void mal_suites_finish(struct mal_suites *suites) {
    for (size_t i = 0; i < suites->n; i++)
        suite_finish(&suites->list[i]);
    mal_free(suites->list);
    *suites = (struct mal_suites){0};
}

/* ---- Reading ---- */

/* How much of the file's name is the suite's; 0: it is none. */
static size_t name_length(const char *file) {
    static const char *const ends[] = {".json", ".ndjson", ".jsonl"};
    size_t n = strlen(file);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t end = strlen(ends[i]);
        if (n > end && file[0] != '.' && strcmp(file + n - end, ends[i]) == 0)
            return n - end;
    }
    return 0;
}

static bool add(struct mal_suites *suites, const char *dir, const char *file,
                size_t length, struct mal_error *err) {
    if (!mal_utf8_valid(file, length))
        return mal_fail(err, MAL_INVALID, "%s: a file's name is not UTF-8",
                        mal_file_shown(dir));
    struct mal_suite *list = mal_realloc(suites->list, (suites->n + 1) * sizeof *list);
    if (!list) return mal_fail(err, MAL_NO_MEMORY, "suites");
    suites->list = list;
    struct mal_suite suite = {.name = mal_strdup(file), .path = mal_file_join(dir, file)};
    suites->list[suites->n++] = suite;
    if (!suite.name || !suite.path) return mal_fail(err, MAL_NO_MEMORY, "suites");
    suite.name[length] = '\0';
    return true;
}

static bool list_files(struct mal_suites *suites, const char *path,
                       struct mal_error *err) {
    DIR *dir = opendir(path);
    if (!dir) {
        bool none = errno == ENOENT || errno == ENOTDIR;
        return mal_fail(err, none ? MAL_NOT_FOUND : MAL_IO, "%s: %s",
                        mal_file_shown(path), strerror(errno));
    }
    bool ok = true;
    errno = 0;
    for (struct dirent *entry; ok && (entry = readdir(dir)); errno = 0) {
        size_t length = name_length(entry->d_name);
        if (length > 0) ok = add(suites, path, entry->d_name, length, err);
    }
    if (ok && errno)
        ok = mal_fail(err, MAL_IO, "%s: %s", mal_file_shown(path), strerror(errno));
    closedir(dir);
    return ok;
}

static int by_name(const void *a, const void *b) {
    const struct mal_suite *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : strcmp(x->path, y->path);
}

static bool read_facts(struct mal_suite *suite, size_t max_facts, struct mal_error *err) {
    if (!mal_facts_load(&suite->facts, &suite->n_facts, suite->path, err)) return false;
    return suite->n_facts <= max_facts ||
           mal_fail(err, MAL_TOO_LARGE, "%s: %zu facts, --max-queue lets %zu wait",
                    mal_file_shown(suite->path), suite->n_facts, max_facts);
}

static bool load(struct mal_suites *suites, const char *dir, size_t max_facts,
                 struct mal_error *err) {
    if (!list_files(suites, dir, err)) return false;
    if (suites->n > 0) qsort(suites->list, suites->n, sizeof *suites->list, by_name);
    for (size_t i = 0; i < suites->n; i++) {
        struct mal_suite *suite = &suites->list[i];
        if (i > 0 && strcmp(suite[-1].name, suite->name) == 0)
            return mal_fail(err, MAL_INVALID, "%s: there is a suite '%.64s' already",
                            mal_file_shown(suite->path), suite->name);
        if (!read_facts(suite, max_facts, err)) return false;
    }
    return true;
}

bool mal_suites_load(struct mal_suites *out, const char *dir, size_t max_facts,
                     struct mal_error *err) {
    struct mal_suites suites = {0};
    if (dir && !load(&suites, dir, max_facts, err)) {
        mal_suites_finish(&suites);
        return false;
    }
    *out = suites;
    return true;
}

bool mal_suites_check(const struct mal_suites *suites, const struct mal_engine *engine,
                      struct mal_error *err) {
    int64_t tokens;
    for (size_t i = 0; i < suites->n; i++) {
        const struct mal_suite *suite = &suites->list[i];
        if (!mal_engine_check_facts(engine, suite->facts, suite->n_facts, 0, &tokens,
                                    err))
            return mal_fail_wrap(err, "%s: %s", mal_file_shown(suite->path),
                                 err->pointer);
    }
    return true;
}

/* ---- Finding ---- */

const struct mal_suite *mal_suites_find(const struct mal_suites *suites, const char *name,
                                        struct mal_error *err) {
    char known[256] = "";
    for (size_t i = 0, n = 0; i < suites->n; i++) {
        if (strcmp(suites->list[i].name, name) == 0) return &suites->list[i];
        if (n < sizeof known)
            n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "",
                                  suites->list[i].name);
    }
    mal_fail_at(err, MAL_INVALID, "/suite", "there is no suite '%.64s'; %s%s", name,
                suites->n ? "there are " : "there are none (serve --suites DIR)", known);
    return NULL;
}
