/* cmd_verify.c - malmend verify: walks a database's versions, checks every hash and, with
 * the model at hand, replays them all. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/backend.h"
#include "daemon/base/report.h"
#include "daemon/command/commands.h"
#include "daemon/command/options.h"
#include "daemon/command/workbench.h"
#include "daemon/engine/history.h"

struct values {
    char *db, *model, *device;
    bool json;
};

static const struct mal_option options[] = {
    {"db", MAL_OPTION_TEXT, offsetof(struct values, db), "FILE", NULL,
     "Database of a daemon, running or not.", .required = true},
    {"model", MAL_OPTION_TEXT, offsetof(struct values, model), "DIR", NULL,
     "Base model: replay every version and check its weights' hash, too."},
    {"device", MAL_OPTION_TEXT, offsetof(struct values, device), "NAME", "auto",
     "auto, cpu, cpu:bf16 or cuda:N.", .check = mal_backend_check_name},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "Machine-readable report."},
    {0},
};

static const struct mal_option_set set = {
    "verify",
    "Walks the versions of a database: the database's own integrity, the hash chain, the bytes of "
    "every delta, keyframe and fact's values and, with --model, the weights of every version by "
    "replaying them. Of versions that were pruned the chain is left to check.",
    options, false};

struct walk {
    struct mal_store *store;
    struct mal_workbench wb;
    bool replay;
    struct mal_bar bar;
    char chain[MAL_HASH_HEX]; /* of the version before */
    int64_t versions, pruned, deltas, keyframes, values;
    uint64_t delta_bytes;
};

/* ---- One version ---- */

/* By way of the version that was returned to, unless that is gone: a keyframe here is yet
 * to be checked. */
static bool prepare_rollback(struct walk *walk, const struct mal_version_row *row,
                             struct mal_error *err) {
    struct mal_weights_state *ws = walk->wb.ws;
    struct mal_version_row to = {0};
    if (mal_weights_has(ws, row->to_version))
        return mal_weights_prepare_return(ws, row->to_version, err);
    bool ok = mal_store_get_version(walk->store, row->to_version, &to, err);
    int64_t version = to.pruned ? row->version : row->to_version;
    mal_version_row_finish(&to);
    return ok && mal_history_replay(walk->store, version, ws, NULL, NULL, err);
}

/* From the version before where that is at hand; after pruned ones it is not. */
static bool prepare(struct walk *walk, const struct mal_version_row *row,
                    const struct mal_delta *delta, struct mal_error *err) {
    struct mal_weights_state *ws = walk->wb.ws;
    if (row->to_version >= 0) return prepare_rollback(walk, row, err);
    bool follows = mal_weights_live(ws) == row->parent && !mal_history_begins(row);
    if (follows) return mal_weights_prepare(ws, delta, NULL, NULL, err);
    return mal_history_replay(walk->store, row->version, ws, NULL, NULL, err);
}

static bool same_part(const struct mal_delta_part *a, const struct mal_delta_part *b) {
    return strcmp(a->module, b->module) == 0 && a->d_in == b->d_in &&
           a->d_out == b->d_out && a->dtype == b->dtype &&
           memcmp(a->data, b->data, mal_delta_part_bytes(a)) == 0;
}

/* The keyframe is what the weights are made from, whichever way they were prepared. */
static bool check_keyframe(struct walk *walk, const struct mal_version_row *row,
                           struct mal_error *err) {
    struct mal_delta stored = {0}, made = {0};
    bool ok = mal_history_keyframe(walk->store, row->version, &stored, err) &&
              mal_weights_read_keyframe(walk->wb.ws, NULL, NULL, &made, err);
    bool same = ok && stored.n_parts == made.n_parts;
    for (size_t i = 0; same && i < made.n_parts; i++)
        same = same_part(&stored.parts[i], &made.parts[i]);
    mal_delta_finish(&stored);
    mal_delta_finish(&made);
    if (!ok || same) return ok;
    return mal_fail(err, MAL_CORRUPT, "version %lld: its keyframe is not its weights",
                    (long long)row->version);
}

static bool check_hash(const struct mal_version_row *row, struct mal_hash hash,
                       struct mal_error *err) {
    char hex[MAL_HASH_HEX];
    mal_hash_hex(&hash, hex);
    if (strcmp(hex, row->weights_hash) == 0) return true;
    return mal_fail(err, MAL_CORRUPT,
                    "version %lld: the weights hash to %s, its row says %s",
                    (long long)row->version, hex, row->weights_hash);
}

static bool check_weights(struct walk *walk, const struct mal_version_row *row,
                          const struct mal_delta *delta, struct mal_error *err) {
    struct mal_weights_state *ws = walk->wb.ws;
    if (row->version == 0) return check_hash(row, mal_weights_hash(ws, 0), err);
    if (!prepare(walk, row, delta, err)) {
        return mal_fail_wrap(err, "replaying version %lld", (long long)row->version);
    }
    if (!check_hash(row, mal_weights_prepared_hash(ws), err)) return false;
    if (row->keyframe && !check_keyframe(walk, row, err)) return false;
    mal_weights_publish(ws, row->version);
    return true;
}

/* What is stored with a version and, with the model, what its weights are. */
static bool check_stored(struct walk *walk, const struct mal_version_row *row,
                         struct mal_error *err) {
    struct mal_delta delta = {0};
    bool ok = mal_history_delta(walk->store, row->version, &delta, err) &&
              mal_history_check_blobs(walk->store, row->version, err) &&
              (!walk->replay || check_weights(walk, row, &delta, err));
    if (ok) {
        walk->deltas += delta.n_parts > 0;
        walk->keyframes += row->keyframe;
        walk->delta_bytes += mal_delta_bytes(&delta);
    }
    mal_delta_finish(&delta);
    return ok;
}

static bool check_once(struct walk *walk, int64_t version, struct mal_error *err) {
    struct mal_version_row row = {0};
    size_t n_values = 0;
    bool ok = mal_store_get_version(walk->store, version, &row, err) &&
              mal_history_follow(&row, walk->chain, err) &&
              mal_history_check_values(walk->store, &row, &n_values, err) &&
              (row.pruned || check_stored(walk, &row, err));
    if (ok) {
        walk->versions++;
        walk->pruned += row.pruned;
        walk->values += (int64_t)n_values;
    }
    mal_version_row_finish(&row);
    return ok;
}

static bool check_version(struct walk *walk, int64_t version, struct mal_error *err) {
    struct mal_history_tries tries;
    char chain[MAL_HASH_HEX];
    memcpy(chain, walk->chain, sizeof chain);
    if (!mal_history_begin_tries(walk->store, &tries, err)) return false;
    while (!check_once(walk, version, err)) {
        if (!mal_history_try_again(walk->store, &tries, err)) return false;
        memcpy(walk->chain, chain, sizeof chain);
        if (walk->replay) mal_weights_discard(walk->wb.ws);
    }
    return true;
}

/* ---- The whole ---- */

static bool check_all(struct walk *walk, const struct values *v, struct mal_error *err) {
    int64_t last = -1;
    enum mal_digest_form form;
    if (!mal_store_check(walk->store, err)) return false;
    if (!mal_history_digest_form(walk->store, &form, err))
        return mal_fail_wrap(err, "%s", v->db);
    if (!mal_store_last_version(walk->store, &last, err)) return false;
    mal_bar_start(&walk->bar, "versions", last + 1, v->json);
    for (int64_t version = 0; version <= last; version++) {
        if (!check_version(walk, version, err)) return mal_fail_wrap(err, "%s", v->db);
        mal_bar_update(&walk->bar, version + 1);
    }
    mal_bar_finish(&walk->bar);
    return true;
}

static void report(const struct walk *walk, const struct values *v) {
    if (v->json) {
        printf("{\"versions\":%lld,\"pruned\":%lld,\"deltas\":%lld,\"delta_bytes\":%llu,"
               "\"keyframes\":%lld,\"values\":%lld,\"replayed\":%s,"
               "\"chain_hash\":\"%s\"}\n",
               (long long)walk->versions, (long long)walk->pruned,
               (long long)walk->deltas, (unsigned long long)walk->delta_bytes,
               (long long)walk->keyframes, (long long)walk->values,
               walk->replay ? "true" : "false", walk->chain);
        return;
    }
    printf("%lld versions, %lld deltas of %llu bytes", (long long)walk->versions,
           (long long)walk->deltas, (unsigned long long)walk->delta_bytes);
    if (walk->keyframes) printf(", %lld keyframes", (long long)walk->keyframes);
    if (walk->values) printf(", values of facts %lld times", (long long)walk->values);
    printf(": chain and deltas hold");
    printf(walk->replay ? ", weights replayed\n"
                        : "; weights not replayed (no --model)\n");
    if (walk->pruned) {
        printf("%lld versions were pruned: nothing but the chain is left of them\n",
               (long long)walk->pruned);
    }
    printf("chain %s\n", walk->chain);
}

static bool run(const struct values *v, struct mal_error *err) {
    struct walk walk = {.replay = v->model != NULL};
    bool ok = mal_store_open_reader(&walk.store, v->db, err) &&
              (!v->model || mal_workbench_open_database(&walk.wb, walk.store, v->db,
                                                        v->model, v->device, 4, err)) &&
              check_all(&walk, v, err);
    if (ok) report(&walk, v);
    mal_workbench_close(&walk.wb);
    mal_store_close(walk.store);
    return ok;
}

int mal_cmd_verify(int argc, char **argv) {
    struct values v = {0};
    struct mal_error err = {0};
    int code;
    if (mal_options_parse(&set, argc, argv, &v, &code)) {
        code = run(&v, &err) ? 0 : mal_report_error(&err, v.json);
    }
    mal_options_finish(&set, &v);
    return code;
}
