/* cmd_backup.c - malmend backup: a consistent copy of a database, in use or not. */
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include <jansson.h>

#include "daemon/commands.h"
#include "daemon/options.h"
#include "daemon/report.h"
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
    "serves it with the same model and editor.",
    options, false};

static bool show(void *arg, uint64_t done, uint64_t total) {
    struct mal_bar *bar = arg;
    bar->total = (int64_t)(total / 1000);
    mal_bar_update(bar, (int64_t)(done / 1000));
    return true;
}

/* What the copy holds is read from the copy. */
static bool report(const struct values *v, struct mal_error *err) {
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
            json_pack("{s:s,s:I,s:I}", "out", v->out, "bytes", (json_int_t)info.st_size,
                      "live_version", (json_int_t)last);
        json_dumpf(json, stdout, JSON_COMPACT);
        printf("\n");
        json_decref(json);
        return true;
    }
    printf("%s: %" PRId64 " bytes, live version %" PRId64 "\n", v->out,
           (int64_t)info.st_size, last);
    return true;
}

static bool run(const struct values *v, struct mal_error *err) {
    struct mal_bar bar;
    mal_bar_start(&bar, "kilobytes", 0, v->json);
    bool ok = mal_store_backup(v->db, v->out, show, &bar, err);
    if (ok) mal_bar_finish(&bar);
    return ok && report(v, err);
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
