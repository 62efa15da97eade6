/* config_check.c - every part of a configuration is looked at, whatever the others are.
 */
#include "daemon/command/config_check.h"

#include <stdio.h>

#include "core/alloc.h"
#include "core/backend.h"
#include "core/json.h"
#include "daemon/base/disk.h"
#include "daemon/engine/engine_check.h"
#include "daemon/http/listen.h"
#include "daemon/http/tokens.h"
#include "sql/store.h"

enum { DIGITS = JSON_REAL_PRECISION(12) }; /* as the options are written */

struct report {
    const struct mal_config_check *check;
    json_t *problems, *warnings; /* arrays of {"option","detail"} */
    struct mal_engine_check engine;
    struct mal_store_look db;
    int64_t last_version; /* -1: none, or not known */
    bool no_memory;       /* for all that there is to say */
};

static void add(struct report *report, json_t *list, const char *option,
                const char *detail) {
    json_t *entry =
        json_pack("{s:s,s:o}", "option", option, "detail", mal_json_fit(detail));
    if (json_array_append_new(list, entry)) report->no_memory = true;
}

static void on_fault(void *arg, const char *option, const struct mal_error *err) {
    struct report *report = arg;
    add(report, report->problems, option, err->text);
}

static void on_warning(void *arg, const char *option, const char *detail) {
    struct report *report = arg;
    add(report, report->warnings, option, detail);
}

/* ---- Parts ---- */

static void look_at_listen(struct report *report) {
    const struct mal_serve_options *o = report->check->serve;
    struct mal_tokens *tokens = NULL;
    struct mal_error err = {0}, tokens_err = {0};
    if (o->tokens && !mal_tokens_load(&tokens, o->tokens, &tokens_err))
        on_fault(report, "tokens", &tokens_err);
    if (tokens && tokens->exposed)
        add(report, report->warnings, "tokens",
            "everybody on this machine may read the hashes");
    mal_tokens_free(tokens);
    /* A file that cannot be read is a fault of its own. */
    if (!mal_listen_check(o->listen, o->tokens != NULL, &err))
        on_fault(report, "listen", &err);
}

static void look_at_device(struct report *report) {
    struct mal_error err = {0};
    struct mal_backend *be = NULL;
    if (!mal_backend_create(&be, report->check->serve->device, &err))
        on_fault(report, "device", &err);
    mal_backend_destroy(be);
}

static bool look_at_database(struct report *report, struct mal_store **out) {
    const char *path = report->check->serve->db;
    struct mal_error err = {0};
    *out = NULL;
    bool ok = mal_store_look(&report->db, path, &err);
    if (ok && report->db.outdated) {
        add(report, report->warnings, "db",
            "the database is of an older version of malmend and will be migrated; what is "
            "in it was not looked at");
    } else if (ok && report->db.exists) {
        ok = mal_store_open_reader(out, path, &err) &&
             mal_store_last_version(*out, &report->last_version, &err);
    }
    if (!ok) on_fault(report, "db", &err);
    return ok;
}

static void look_at_disk(struct report *report) {
    const struct mal_serve_options *o = report->check->serve;
    int64_t bytes = 0;
    if (!report->db.exists || !mal_disk_free(o->db, &bytes)) return;
    if (bytes >= o->min_free_disk) return;
    char text[160];
    (void)snprintf(text, sizeof text,
                   "%lld bytes are free where the database is, with less than %lld edits "
                   "are refused",
                   (long long)bytes, (long long)o->min_free_disk);
    add(report, report->warnings, "min_free_disk", text);
}

static void look_at_engine(struct report *report, struct mal_store *store) {
    const struct mal_serve_options *o = report->check->serve;
    struct mal_suites suites = {0};
    struct mal_error err = {0}, suites_err = {0};
    if (!mal_suites_load(&suites, o->suites, (size_t)o->max_queue, &suites_err))
        on_fault(report, "suites", &suites_err);
    char *cache = mal_serve_editor_path(o->db, &err);
    if (!cache) {
        on_fault(report, "db", &err);
        mal_suites_finish(&suites);
        return;
    }
    struct mal_engine_options engine = mal_serve_engine_options(o, cache);
    report->engine.options = &engine;
    report->engine.data = o->data;
    report->engine.store = store;
    report->engine.suites = &suites;
    report->engine.fault = on_fault;
    report->engine.warn = on_warning;
    report->engine.arg = report;
    mal_engine_check(&report->engine);
    mal_suites_finish(&suites);
    mal_free(cache);
}

/* ---- Telling ---- */

static json_t *found_json(const struct report *report) {
    const struct mal_engine_check *engine = &report->engine;
    json_t *model = json_null(), *editor = json_null();
    if (*engine->architecture) {
        model = json_pack("{s:s,s:I,s:s,s:I}", "architecture", engine->architecture,
                          "parameters", (json_int_t)engine->n_parameters, "dtype",
                          engine->dtype, "edit_modules", (json_int_t)engine->n_modules);
    }
    if (*engine->editor_path) {
        editor = json_pack("{s:o,s:s}", "file", mal_json_fit(engine->editor_path),
                           "method", engine->editor_method);
    }
    json_t *version =
        report->last_version < 0 ? json_null() : json_integer(report->last_version);
    return json_pack("{s:o,s:o,s:{s:b,s:b,s:o}}", "model", model, "editor", editor,
                     "database", "exists", report->db.exists, "to_be_migrated",
                     report->db.outdated, "live_version", version);
}

static void print_json(struct report *report) {
    json_t *json = json_pack(
        "{s:b,s:O,s:O,s:o,s:O,s:O}", "valid", json_array_size(report->problems) == 0,
        "options", report->check->options, "origins", report->check->origins, "found",
        found_json(report), "problems", report->problems, "warnings", report->warnings);
    char *text = mal_json_dump(json, JSON_COMPACT | DIGITS);
    report->no_memory = !text;
    if (text) puts(text);
    mal_free(text);
    json_decref(json);
}

static void print_options(struct report *report) {
    const char *name;
    json_t *value;
    json_object_foreach (report->check->options, name, value) {
        const char *origin =
            json_string_value(json_object_get(report->check->origins, name));
        char *text = mal_json_dump(value, JSON_ENCODE_ANY | DIGITS);
        if (!text) report->no_memory = true;
        printf("%-27s %-27s %s\n", name, json_is_null(value) || !text ? "-" : text,
               origin ? origin : "");
        mal_free(text);
    }
}

static void print_found(const struct report *report) {
    const struct mal_engine_check *engine = &report->engine;
    putchar('\n');
    if (*engine->architecture) {
        printf("model: %s, %lld parameters, %s, %zu modules to edit\n",
               engine->architecture, (long long)engine->n_parameters, engine->dtype,
               engine->n_modules);
    }
    if (*engine->editor_path)
        printf("editor: %s, %s\n", engine->editor_method, engine->editor_path);
    if (!*engine->editor_path && *engine->architecture)
        printf("editor: none yet, made on the first facts\n");
    if (report->last_version >= 0)
        printf("database: live version %lld\n", (long long)report->last_version);
    if (!report->db.exists) printf("database: will be made\n");
}

static void print_list(const char *label, const json_t *list) {
    size_t i;
    json_t *entry;
    json_array_foreach (list, i, entry) {
        fprintf(stderr, "malmend serve: %s%s: %s\n", label,
                json_string_value(json_object_get(entry, "option")),
                json_string_value(json_object_get(entry, "detail")));
    }
}

static void print(struct report *report) {
    if (report->check->json) {
        print_json(report);
    } else {
        print_options(report);
        print_found(report);
    }
    print_list("warning: ", report->warnings);
    print_list("", report->problems);
}

int mal_config_check(const struct mal_config_check *check) {
    mal_json_guard();
    struct report report = {.check = check,
                            .problems = json_array(),
                            .warnings = json_array(),
                            .last_version = -1};
    struct mal_store *store = NULL;
    report.no_memory = !report.problems || !report.warnings;
    if (!report.no_memory) {
        look_at_listen(&report);
        look_at_device(&report);
        if (look_at_database(&report, &store)) look_at_disk(&report);
        look_at_engine(&report, store);
    }
    if (!report.no_memory) print(&report);
    if (report.no_memory) fprintf(stderr, "malmend serve: out of memory\n");
    bool ok = !report.no_memory && json_array_size(report.problems) == 0;
    mal_store_close(store);
    json_decref(report.problems);
    json_decref(report.warnings);
    return ok ? 0 : 1;
}
