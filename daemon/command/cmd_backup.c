/* cmd_backup.c - malmend backup: a consistent copy of a database, in use or not. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/new_file.h"
#include "daemon/base/report.h"
#include "daemon/command/commands.h"
#include "daemon/command/options.h"
#include "daemon/command/workbench.h"
#include "daemon/serve.h"
#include "sql/store.h"

struct values {
    char *db, *out;
    bool json;
};

static const struct mal_option options[] = {
    {"db", MAL_OPTION_TEXT, offsetof(struct values, db), "FILE", NULL,
     "Database of a daemon, running or not.", .required = true},
    {"out", MAL_OPTION_TEXT, offsetof(struct values, out), "FILE", NULL,
     "The copy; must not be there yet.", .required = true},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "Machine-readable report."},
    {0},
};

static const struct mal_option_set set = {
    "backup",
    "Copies a database as it is now into one file, while a daemon goes on writing to it. The copy "
    "is checked before it gets its name; 'malmend verify' checks it further, and 'malmend serve' "
    "serves it with the same model and editor. An editor that a daemon made where it was given none "
    "is copied, too: DB.editor.safetensors to OUT.editor.safetensors.",
    options, false};

static bool show(void *arg, uint64_t done, uint64_t total) {
    struct mal_bar *bar = arg;
    bar->total = (int64_t)(total / 1000);
    mal_bar_update(bar, (int64_t)(done / 1000));
    return true;
}

/* ---- The editor that a daemon made ---- */

/* Paths of it, owned. */
struct editor {
    char *db, *out;
    bool copied;
};

static void finish_editor(struct editor *editor) {
    mal_free(editor->db);
    mal_free(editor->out);
}

/* One of another database must not be taken for the copy's. */
static bool find_editor(struct editor *out, const struct values *v,
                        struct mal_error *err) {
    struct stat info;
    *out = (struct editor){.db = mal_serve_editor_path(v->db, err),
                           .out = mal_serve_editor_path(v->out, err)};
    if (!out->db || !out->out) return false;
    return lstat(out->out, &info) != 0 ||
           mal_fail(err, MAL_CONFLICT, "'%s' is there already", out->out);
}

/* After the database: what was taught before it was copied has its editor by now. */
static bool copy_editor(struct editor *editor, struct mal_error *err) {
    char *data = NULL;
    size_t bytes = 0;
    if (access(editor->db, F_OK) != 0 && errno == ENOENT) return true;
    if (!mal_file_read(&data, &bytes, editor->db, SIZE_MAX, err)) return false;
    struct mal_new_file file;
    bool ok = mal_new_file_open(&file, editor->out, err) &&
              mal_new_file_write(&file, data, bytes, err) &&
              mal_new_file_commit(&file, err);
    mal_new_file_abandon(&file);
    mal_free(data);
    editor->copied = ok;
    return ok;
}

/* ---- The whole ---- */

/* What the copy holds is read from the copy. */
static bool report(const struct values *v, const struct editor *editor,
                   struct mal_error *err) {
    struct mal_store *store = NULL;
    struct stat info = {0};
    int64_t last = -1;
    bool ok = mal_store_open_reader(&store, v->out, err) &&
              mal_store_last_version(store, &last, err);
    mal_store_close(store);
    if (!ok) return false;
    (void)stat(v->out, &info);
    if (v->json) {
        json_t *json =
            json_pack("{s:o,s:I,s:I,s:o}", "out", mal_json_fit(v->out), "bytes",
                      (json_int_t)info.st_size, "live_version", (json_int_t)last,
                      "editor", editor->copied ? mal_json_fit(editor->out) : json_null());
        json_dumpf(json, stdout, MAL_JSON_TOLD);
        printf("\n");
        json_decref(json);
        return true;
    }
    printf("%s: %" PRId64 " bytes, live version %" PRId64 "%s%s\n", v->out,
           (int64_t)info.st_size, last, editor->copied ? "; its editor: " : "",
           editor->copied ? editor->out : "");
    return true;
}

static bool run(const struct values *v, struct mal_error *err) {
    struct mal_bar bar;
    struct editor editor;
    mal_bar_start(&bar, "kilobytes", 0, v->json);
    bool ok = find_editor(&editor, v, err) &&
              (access(v->out, F_OK) == 0 || mal_workbench_check_out(v->out, err)) &&
              mal_store_backup(v->db, v->out, show, &bar, err);
    if (ok) {
        mal_bar_finish(&bar);
        ok = copy_editor(&editor, err);
        if (!ok) (void)unlink(v->out);
    }
    ok = ok && report(v, &editor, err);
    finish_editor(&editor);
    return ok;
}

int mal_cmd_backup(int argc, char **argv) {
    struct values v = {0};
    struct mal_error err = {0};
    int code;
    if (mal_options_parse(&set, argc, argv, &v, &code)) {
        code = run(&v, &err) ? 0 : mal_report_error(&err, v.json);
    }
    mal_options_finish(&set, &v);
    return code;
}
