/* bulk.c - from lines to a file of records, and back. */
#include "daemon/api/bulk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/new_file.h"
#include "daemon/base/disk.h"
#include "daemon/engine/engine.h"
#include "proto/wire.h"

/* Of a record, each closed by a zero byte; no id is an empty one. */
enum field { ID, PROMPT, TARGET, JSON, N_FIELDS };

struct text {
    char *text; /* getdelim()'s */
    size_t capacity;
};

struct mal_bulk {
    struct mal_bulk_options o;
    struct mal_fact_lines *lines;
    FILE *file;
    struct text fields[N_FIELDS];
};

static bool fail_file(struct mal_error *err) {
    return mal_fail(err, errno == ENOMEM ? MAL_NO_MEMORY : mal_status_of_errno(errno),
                    "the file beside the database that facts are received into: %s",
                    strerror(errno));
}

static bool put(struct mal_bulk *bulk, const char *text) {
    return fwrite(text, strlen(text) + 1, 1, bulk->file) == 1;
}

static bool take(void *arg, const struct mal_fact *fact, const char *json, size_t index,
                 struct mal_error *err) {
    struct mal_bulk *bulk = arg;
    int64_t tokens = 0;
    if (!mal_engine_check_taught(bulk->o.engine, fact, 1, index, &tokens, err))
        return false;
    return (put(bulk, fact->id ? fact->id : "") && put(bulk, fact->prompt) &&
            put(bulk, fact->target) && put(bulk, json)) ||
           fail_file(err);
}

bool mal_bulk_create(struct mal_bulk **out, const struct mal_bulk_options *options,
                     struct mal_error *err) {
    struct mal_bulk *bulk = mal_calloc(1, sizeof *bulk);
    struct mal_new_file file = {.fd = -1};
    if (!bulk) return mal_fail(err, MAL_NO_MEMORY, "facts of the request");
    bulk->o = *options;
    struct mal_fact_lines_options lines = {.max_facts = options->max_facts,
                                           .max_line = options->max_line,
                                           .take = take,
                                           .arg = bulk};
    if (!mal_fact_lines_create(&bulk->lines, &lines, err) ||
        !mal_new_file_unnamed(&file, options->db, err)) {
        mal_bulk_destroy(bulk);
        return false;
    }
    bulk->file = fdopen(file.fd, "w+");
    if (!bulk->file) {
        fail_file(err);
        close(file.fd);
        mal_bulk_destroy(bulk);
        return false;
    }
    *out = bulk;
    return true;
}

void mal_bulk_destroy(struct mal_bulk *bulk) {
    if (!bulk) return;
    mal_fact_lines_destroy(bulk->lines);
    if (bulk->file) fclose(bulk->file);
    for (int i = 0; i < N_FIELDS; i++)
        free(bulk->fields[i].text);
    mal_free(bulk);
}

bool mal_bulk_add(struct mal_bulk *bulk, const char *data, size_t bytes,
                  struct mal_error *err) {
    /* What is written of it is about as long, and is written once more at the commit. */
    return mal_disk_has_room(fileno(bulk->file), 2 * (int64_t)bytes, bulk->o.min_free,
                             err) &&
           mal_fact_lines_add(bulk->lines, data, bytes, err);
}

bool mal_bulk_end(struct mal_bulk *bulk, struct mal_error *err) {
    if (!mal_fact_lines_end(bulk->lines, err)) return false;
    return (fflush(bulk->file) == 0 && fseek(bulk->file, 0, SEEK_SET) == 0) ||
           fail_file(err);
}

size_t mal_bulk_facts(const struct mal_bulk *bulk) {
    return mal_fact_lines_count(bulk->lines);
}

bool mal_bulk_next(struct mal_bulk *bulk, struct mal_fact_row *out,
                   struct mal_error *err) {
    for (int i = 0; i < N_FIELDS; i++) {
        struct text *field = &bulk->fields[i];
        errno = EIO; /* an end where there should be none */
        if (getdelim(&field->text, &field->capacity, 0, bulk->file) < 0)
            return fail_file(err);
    }
    char *id = bulk->fields[ID].text;
    *out = (struct mal_fact_row){.id = *id ? id : NULL,
                                 .prompt = bulk->fields[PROMPT].text,
                                 .target = bulk->fields[TARGET].text,
                                 .fact_json = bulk->fields[JSON].text};
    return true;
}
