/* cmd_export.c - malmend export: a version of a database for another engine. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/export/lora.h"
#include "core/file.h"
#include "core/json.h"
#include "core/new_dir.h"
#include "core/new_file.h"
#include "daemon/base/report.h"
#include "daemon/command/commands.h"
#include "daemon/command/options.h"
#include "daemon/command/workbench.h"
#include "daemon/engine/history.h"
#include "daemon/engine/history_shift.h"

struct values {
    char *db, *model, *format, *out;
    int64_t version, rank;
    bool json;
};

static const struct mal_option options[] = {
    {"db", MAL_OPTION_TEXT, offsetof(struct values, db), "FILE", NULL,
     "Database of a daemon, running or not.", .required = true},
    {"model", MAL_OPTION_TEXT, offsetof(struct values, model), "DIR", NULL,
     "Base model of the database.", .required = true},
    {"version", MAL_OPTION_INT, offsetof(struct values, version), "N", NULL,
     "Version to export.", 0, INFINITY, .required = true},
    {"format", MAL_OPTION_CHOICE, offsetof(struct values, format),
     "safetensors|delta|lora|model", NULL,
     "safetensors: a file of the weights of all edit modules, as they are in the checkpoint; of a "
     "version that equals the base, the base's. delta: a file of their difference from the base, "
     "fp32. lora: a new directory with a PEFT adapter. model: a new directory with the whole edited "
     "model.",
     .required = true},
    {"out", MAL_OPTION_TEXT, offsetof(struct values, out), "PATH", NULL,
     "Where to; must not be there yet.", .required = true},
    {"rank", MAL_OPTION_INT, offsetof(struct values, rank), "R", "256",
     "Highest rank of an adapter. Where the difference has a higher one the nearest "
     "adapter is written, and how far it is off reported.",
     1, 1 << 20},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "Machine-readable report."},
    {0},
};

static const struct mal_option_set set = {
    "export",
    "Writes a version for another engine.\n\nThe version is replayed and its weights are checked "
    "against the database before anything is written.",
    options, false};

struct job {
    const struct values *v;
    struct mal_store *store;
    struct mal_version_row row;
    struct mal_workbench wb;
    struct mal_history_shift *shift; /* for an adapter's factors */
    struct mal_export ex;            /* of the workbench, but for factors and progress */
    struct mal_bar bar;
    char *model_name; /* owned */
    /* What was done. */
    struct mal_lora lora;
    size_t n_modules;
};

static bool is(const struct job *job, const char *format) {
    return strcmp(job->v->format, format) == 0;
}

/* ---- The version ---- */

static bool check_out(const struct job *job, struct mal_error *err) {
    const char *out = job->v->out;
    struct stat st;
    if (is(job, "lora") || is(job, "model")) return mal_new_dir_check(out, err);
    if (stat(out, &st) == 0)
        return mal_fail(err, MAL_CONFLICT, "%s: it is there already",
                        mal_file_shown(out));
    return mal_workbench_check_out(out, err);
}

static bool find_version(struct job *job, struct mal_error *err) {
    int64_t last, version = job->v->version;
    if (!mal_store_last_version(job->store, &last, err)) return false;
    if (last < 0) {
        return mal_fail(err, MAL_NOT_FOUND,
                        "%s: there is no version in it yet: no daemon has loaded its "
                        "model",
                        mal_file_shown(job->v->db));
    }
    if (version > last) {
        return mal_fail(err, MAL_NOT_FOUND,
                        "%s: there is no version %" PRId64 ", the newest is %" PRId64,
                        mal_file_shown(job->v->db), version, last);
    }
    if (!mal_store_get_version(job->store, version, &job->row, err)) return false;
    return mal_history_check_stored(&job->row, err) ||
           mal_fail_wrap(err, "%s", mal_file_shown(job->v->db));
}

static bool replay(struct job *job, struct mal_error *err) {
    struct mal_weights_state *ws = job->wb.ws;
    int64_t version = job->v->version;
    struct mal_history_tries tries;
    if (!mal_history_begin_tries(job->store, &tries, err)) return false;
    while (version > 0 && !mal_history_replay(job->store, version, ws, NULL, NULL, err)) {
        if (!mal_history_try_again(job->store, &tries, err)) return false;
        mal_weights_discard(ws);
    }
    struct mal_hash hash =
        version > 0 ? mal_weights_prepared_hash(ws) : mal_weights_hash(ws, 0);
    char hex[MAL_HASH_HEX];
    mal_hash_hex(&hash, hex);
    if (strcmp(hex, job->row.weights_hash) != 0) {
        return mal_fail(err, MAL_CORRUPT,
                        "version %" PRId64 ": the weights hash to %s, its row says %s",
                        version, hex, job->row.weights_hash);
    }
    if (version > 0) mal_weights_publish(ws, version);
    return true;
}

/* ---- What is exported ---- */

static bool read_shift(void *arg, size_t module, float *out, struct mal_error *err) {
    struct job *job = arg;
    return mal_weights_read_shift(job->wb.ws, module, out, err);
}

static bool read_factors(void *arg, size_t module, struct mal_export_factors *out,
                         struct mal_error *err) {
    struct job *job = arg;
    return mal_history_shift_factors(job->shift, &job->ex.modules[module], out, err);
}

static void tick(void *arg, size_t done) {
    struct job *job = arg;
    mal_bar_update(&job->bar, (int64_t)done);
}

static bool prepare_lora(struct job *job, struct mal_error *err) {
    job->ex.shift = read_shift;
    job->ex.factors = read_factors;
    job->ex.weight = NULL;
    job->ex.tick = tick;
    job->ex.arg = job;
    return mal_history_shift_open(&job->shift, job->store, job->v->version, err);
}

static bool make_lora(struct job *job, struct mal_error *err) {
    struct mal_history_tries tries;
    if (!mal_history_begin_tries(job->store, &tries, err)) return false;
    while (!prepare_lora(job, err) ||
           !mal_lora_create(&job->lora, &job->ex, job->v->rank, err)) {
        mal_history_shift_close(job->shift);
        job->shift = NULL;
        mal_lora_finish(&job->lora);
        if (!mal_history_try_again(job->store, &tries, err)) return false;
    }
    return true;
}

static bool write_lora(struct job *job, struct mal_error *err) {
    if (!make_lora(job, err)) return false;
    job->n_modules = job->lora.n_parts;
    return mal_lora_write_dir(&job->lora, job->v->out, err);
}

static bool write_file(struct job *job, struct mal_error *err) {
    struct mal_new_file file;
    if (!mal_new_file_open(&file, job->v->out, err)) return false;
    bool ok = is(job, "delta") ? mal_export_delta(&job->ex, &file, err)
                               : mal_export_weights(&job->ex, &file, err);
    ok = ok && mal_new_file_commit(&file, err);
    mal_new_file_abandon(&file);
    return ok;
}

static bool write_out(struct job *job, struct mal_error *err) {
    if (!mal_workbench_export(&job->wb, &job->ex, err)) return false;
    job->ex.version = job->v->version;
    job->ex.weights_hash = job->row.weights_hash;
    job->ex.model_name = job->model_name;
    job->n_modules = job->ex.n_modules;
    mal_bar_start(&job->bar, "export", (int64_t)job->n_modules, job->v->json);
    bool ok;
    if (is(job, "lora")) {
        ok = write_lora(job, err);
    } else if (is(job, "model")) {
        ok = mal_export_model(&job->ex, mal_model_checkpoint(job->wb.model), job->v->out,
                              err);
    } else {
        ok = write_file(job, err);
    }
    mal_bar_finish(&job->bar);
    return ok;
}

/* ---- The whole ---- */

static void report(const struct job *job) {
    const struct values *v = job->v;
    if (v->json) {
        json_t *out =
            json_pack("{s:I,s:s,s:s,s:o,s:I}", "version", (json_int_t)v->version,
                      "weights_hash", job->row.weights_hash, "format", v->format, "out",
                      mal_json_fit(v->out), "modules", (json_int_t)job->n_modules);
        if (is(job, "lora")) {
            json_object_set_new(out, "rank", json_integer(job->lora.rank));
            json_object_set_new(out, "relative_error", json_real(job->lora.error));
            json_object_set_new(out, "exact", json_boolean(job->lora.exact));
        }
        json_dumpf(out, stdout, MAL_JSON_TOLD);
        putchar('\n');
        json_decref(out);
        return;
    }
    printf("version %" PRId64 " as %s in %s: %zu modules", v->version, v->format, v->out,
           job->n_modules);
    if (is(job, "lora")) {
        printf(" of rank %" PRId64 ", %s (relative error %.2g)", job->lora.rank,
               job->lora.exact ? "exact" : "not exact", job->lora.error);
    }
    printf("\nweights %s\n", job->row.weights_hash);
}

static bool run(const struct values *v, struct mal_error *err) {
    struct job job = {.v = v, .model_name = mal_file_label(v->model)};
    bool ok = job.model_name || mal_fail(err, MAL_NO_MEMORY, "export");
    ok =
        ok && check_out(&job, err) && mal_store_open_reader(&job.store, v->db, err) &&
        find_version(&job, err) &&
        mal_workbench_open_database(&job.wb, job.store, v->db, v->model, "cpu", 0, err) &&
        replay(&job, err) && write_out(&job, err);
    if (ok) report(&job);
    mal_lora_finish(&job.lora);
    mal_export_finish(&job.ex);
    mal_history_shift_close(job.shift);
    mal_workbench_close(&job.wb);
    mal_version_row_finish(&job.row);
    mal_store_close(job.store);
    mal_free(job.model_name);
    return ok;
}

int mal_cmd_export(int argc, char **argv) {
    struct values v = {0};
    struct mal_error err = {0};
    int code;
    if (mal_options_parse(&set, argc, argv, &v, &code)) {
        code = run(&v, &err) ? 0 : mal_report_error(&err, v.json);
    }
    mal_options_finish(&set, &v);
    return code;
}
