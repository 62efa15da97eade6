/* fuzz_history.c - what a database holds of versions, as replay reads it: rows, headers
 * of deltas and keyframes, their data, statistics.
 *
 * The input is a byte for each of three versions and then blobs: a byte that says of
 * which version and kind, two lengths, the header, the data. Hashes are right, but for
 * blobs that say otherwise: what must be refused is what only a writer of ours with other
 * ideas, or a forger, could have stored. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/cpu/cpu.h"
#include "core/hash.h"
#include "core/model/model_impl.h"
#include "daemon/engine/history.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { VERSIONS = 3, BLOBS = 16, MODULES = 2 };

static void must(bool ok) {
    if (!ok) abort();
}

/* ---- The database ---- */

struct blob {
    int64_t version;
    char name[32], header[256], sha256[MAL_HASH_HEX];
    const uint8_t *data;
    size_t bytes;
};

static struct {
    uint8_t version[VERSIONS + 1];
    struct blob blobs[BLOBS];
    size_t n_blobs;
    char delta_hash[VERSIONS + 1][MAL_HASH_HEX];
} db;

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct blob *)a)->name, ((const struct blob *)b)->name);
}

static void read_input(const uint8_t *data, size_t bytes) {
    static const char *const names[] = {"delta/a",    "delta/b",      "keyframe/a",
                                        "keyframe/b", "norm/(3, 2)",  "norm/(2, 2)",
                                        "delta/none", "keyframe/none"};
    memset(&db, 0, sizeof db);
    for (size_t i = 1; i <= VERSIONS && bytes > 0; i++, bytes--)
        db.version[i] = *data++;
    while (bytes >= 3 && db.n_blobs < BLOBS) {
        struct blob *blob = &db.blobs[db.n_blobs];
        size_t n_header = data[1], n_data = data[2];
        uint8_t kind = data[0];
        data += 3;
        bytes -= 3;
        if (n_header > bytes || n_data > bytes - n_header) break;
        blob->version = 1 + (kind >> 3) % VERSIONS;
        strcpy(blob->name, names[kind & 7]);
        memcpy(blob->header, data, n_header);
        blob->data = data + n_header;
        blob->bytes = n_data;
        struct mal_hash hash = mal_hash_of(blob->data, n_data);
        mal_hash_hex(&hash, blob->sha256);
        if (kind & 128) blob->sha256[0] = 'x';
        data += n_header + n_data;
        bytes -= n_header + n_data;
        size_t same = 0; /* a name is there once */
        while (same < db.n_blobs && (db.blobs[same].version != blob->version ||
                                     strcmp(db.blobs[same].name, blob->name) != 0))
            same++;
        if (same == db.n_blobs) db.n_blobs++;
    }
    qsort(db.blobs, db.n_blobs, sizeof *db.blobs, by_name);
}

bool mal_store_get_version(struct mal_store *store, int64_t version,
                           struct mal_version_row *out, struct mal_error *err) {
    if (version < 0 || version > VERSIONS)
        return mal_fail(err, MAL_NOT_FOUND, "no version %lld", (long long)version);
    uint8_t said = db.version[version];
    *out = (struct mal_version_row){
        .version = version,
        .parent = version - 1 - (said >> 6 & 1),
        .kind = (enum mal_version_kind)(version ? 1 + (said & 7) % 5 : 0),
        .to_version = said & 8 ? (said >> 4 & 3) : -1,
        .live_facts = said & 16,
        .keyframe = said & 32,
        .pruned = said & 128,
        .delta_hash = mal_strdup(db.delta_hash[version])};
    return true;
}

void mal_version_row_finish(struct mal_version_row *row) {
    mal_free(row->delta_hash);
}

bool mal_store_blobs(struct mal_store *store, int64_t version, struct mal_blob_row **out,
                     size_t *out_n, struct mal_error *err) {
    struct mal_blob_row *rows = mal_calloc(BLOBS, sizeof *rows);
    size_t n = 0;
    for (size_t i = 0; i < db.n_blobs; i++) {
        const struct blob *blob = &db.blobs[i];
        if (blob->version != version) continue;
        rows[n++] =
            (struct mal_blob_row){mal_strdup(blob->name), mal_strdup(blob->header),
                                  mal_strdup(blob->sha256), blob->bytes};
    }
    *out = rows;
    *out_n = n;
    return true;
}

void mal_blob_rows_free(struct mal_blob_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        mal_free(rows[i].name);
        mal_free(rows[i].header_json);
        mal_free(rows[i].sha256);
    }
    mal_free(rows);
}

bool mal_store_read_blob(struct mal_store *store, int64_t version,
                         const struct mal_blob_row *row, void *data,
                         struct mal_error *err) {
    for (size_t i = 0; i < db.n_blobs; i++) {
        const struct blob *blob = &db.blobs[i];
        if (blob->version != version || strcmp(blob->name, row->name) != 0) continue;
        must(blob->bytes == row->bytes);
        memcpy(data, blob->data, blob->bytes);
        return true;
    }
    abort();
}

/* What history.c's neighbours need to be linked, and is not called. */
bool mal_store_stage_blob(struct mal_store *writer, int64_t version,
                          const struct mal_blob *blob, struct mal_error *err) {
    abort();
}

bool mal_store_get_meta(struct mal_store *store, const char *key, char **out,
                        struct mal_error *err) {
    abort();
}

const char *mal_version_kind_name(enum mal_version_kind kind) {
    abort();
}

bool mal_store_stage_values(struct mal_store *store, int64_t version,
                            const struct mal_fact_values *values, size_t n,
                            struct mal_error *err) {
    abort();
}

bool mal_store_unstage_values(struct mal_store *store, int64_t version,
                              const int64_t *facts, size_t n, struct mal_error *err) {
    abort();
}

bool mal_store_values(struct mal_store *store, int64_t version,
                      struct mal_value_row **out, size_t *out_n, struct mal_error *err) {
    abort();
}

void mal_value_rows_free(struct mal_value_row *rows, size_t n) {
    abort();
}

bool mal_store_read_values(struct mal_store *store, int64_t fact, const int64_t *path,
                           size_t n_path, void **out, uint64_t *bytes, char **sha256,
                           struct mal_error *err) {
    abort();
}

/* ---- The model it is replayed on ---- */

static struct mal_model model;
static struct mal_linear linears[MODULES], *list[MODULES] = {&linears[0], &linears[1]};

static void make_model(void) {
    static const char *const names[MODULES] = {"a", "b"};
    static const struct mal_prefix prefixes[] = {{NULL, NULL}};
    static const struct mal_arch arch = {.model_type = "made", .prefixes = prefixes};
    static const int64_t sizes[MODULES][2] = {{3, 2}, {2, 2}};
    struct mal_error err = {0};
    struct mal_backend *be = NULL;
    must(mal_backend_create(&be, "cpu", &err));
    model = (struct mal_model){.arch = &arch, .be = be, .linears = list};
    for (size_t i = 0; i < MODULES; i++) {
        size_t n = (size_t)(sizes[i][0] * sizes[i][1]);
        float *w = mal_backend_alloc(be, n * sizeof *w);
        must(w);
        memset(w, 0, n * sizeof *w); /* the device is this machine */
        linears[i] = (struct mal_linear){.name = mal_strdup(names[i]),
                                         .d_in = sizes[i][0],
                                         .d_out = sizes[i][1],
                                         .dtype = MAL_F32,
                                         .w_dtype = MAL_F32,
                                         .w = w,
                                         .w0 = w,
                                         .edit = -1};
    }
    model.n_linears = MODULES;
    must(mal_model_set_edits(&model, names, MODULES, &err));
}

/* ---- Reading ---- */

static void check_refusal(const struct mal_error *err) {
    must(err->text[0] && (err->status == MAL_CORRUPT || err->status == MAL_CONFLICT ||
                          err->status == MAL_INVALID || err->status == MAL_NOT_FOUND ||
                          err->status == MAL_NUMERIC));
}

/* The row's hash is that of the delta, which the refusal of another one tells. */
static void learn_hash(int64_t version) {
    struct mal_delta delta = {0};
    struct mal_error err = {0};
    must(!mal_history_delta(NULL, version, &delta, &err));
    check_refusal(&err);
    const char *says = strstr(err.text, "the delta's hash is ");
    if (says) memcpy(db.delta_hash[version], says + 20, MAL_HASH_HEX - 1);
}

static void check_delta(int64_t version) {
    struct mal_delta delta = {0};
    struct mal_error err = {0};
    if (!mal_history_delta(NULL, version, &delta, &err)) {
        check_refusal(&err);
        return;
    }
    for (size_t i = 0; i < delta.n_parts; i++) {
        const struct mal_delta_part *part = &delta.parts[i];
        must(part->d_in > 0 && part->d_out > 0 && part->rank >= 0 && part->data);
        must(mal_delta_part_bytes(part) < 256);
        must(i == 0 || strcmp(delta.parts[i - 1].module, part->module) < 0);
    }
    mal_delta_finish(&delta);
}

static void check_replay(int64_t version) {
    static struct mal_weights_state *ws;
    struct mal_error err = {0};
    if (!ws) must(mal_weights_create(&ws, &model, 1, &err));
    if (mal_history_replay(NULL, version, ws, NULL, NULL, &err)) {
        mal_weights_discard(ws);
    } else {
        check_refusal(&err);
    }
}

static void check_norms(int64_t version) {
    enum { SIZE = 5 };

    static float mean[SIZE], var[SIZE], std[SIZE];
    struct mal_editor_shape shapes[] = {{.d_in = 3, .d_out = 2}};
    struct mal_editor editor = {.shapes = shapes, .n_shapes = 1};
    struct mal_normalizer norm = {.size = SIZE, .mean = mean, .var = var, .std = std};
    struct mal_error err = {0};
    if (!mal_history_norms(NULL, version, &editor, &norm, &err)) check_refusal(&err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (!model.be) make_model();
    read_input(data, bytes);
    for (int64_t version = 1; version <= VERSIONS; version++)
        learn_hash(version);
    for (int64_t version = 1; version <= VERSIONS; version++) {
        struct mal_error err = {0};
        check_delta(version);
        check_replay(version);
        check_norms(version);
        if (!mal_history_check_blobs(NULL, version, &err)) check_refusal(&err);
    }
    return 0;
}
