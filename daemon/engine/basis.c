/* basis.c - the basis as a hash, of a version and of the engine. */
#include "daemon/engine/basis.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/joint.h"
#include "core/file.h"
#include "core/hash.h"
#include "daemon/engine/engine_impl.h"

enum { MOST_BYTES = 1 << 28 /* of a tokenizer's file */ };

static void add_real(struct mal_hasher *hasher, double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    mal_hasher_add_u64(hasher, bits);
}

static void add_systems(struct mal_hasher *hasher, const struct mal_engine *engine) {
    for (size_t m = 0; m < mal_model_n_edits(engine->model); m++) {
        mal_hasher_add_text(hasher, mal_model_edit(engine->model, m)->name);
        add_real(hasher, mal_joint_ridge(engine->editor, m));
        add_real(hasher, mal_preserve_weight(engine->preserve, m));
    }
    if (!engine->preserve) return;
    const struct mal_preserve_texts *texts = mal_engine_texts(engine);
    size_t n_ids = (size_t)texts->start[texts->n];
    mal_hasher_add_u64(hasher, texts->n);
    mal_hasher_add(hasher, texts->ids, n_ids * sizeof *texts->ids);
    mal_hasher_add(hasher, texts->start, (texts->n + 1) * sizeof *texts->start);
    mal_hasher_add(hasher, texts->from, texts->n * sizeof *texts->from);
}

/* What words become. */
static bool add_files(struct mal_hasher *hasher, const char *dir, struct mal_error *err) {
    static const char *const names[] = {"tokenizer.json", "vocab.json",
                                        "merges.txt",     "vocab.txt",
                                        "spiece.model",   "tokenizer.model"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct mal_error own = {0};
        char *path = mal_file_join(dir, names[i]), *text = NULL;
        size_t bytes = 0;
        if (!path) return mal_fail(err, MAL_NO_MEMORY, "%s", dir);
        bool ok = mal_file_read(&text, &bytes, path, MOST_BYTES, &own);
        mal_free(path);
        if (ok) {
            mal_hasher_add_text(hasher, names[i]);
            mal_hasher_add(hasher, text, bytes);
            mal_free(text);
        } else if (own.status != MAL_NOT_FOUND) {
            *err = own;
            return false;
        }
    }
    return true;
}

/* And what is put around them. */
static bool add_ends(struct mal_hasher *hasher, const struct mal_tokenizer *tok,
                     struct mal_error *err) {
    struct mal_ids ids = {0};
    bool ok = mal_tokenizer_encode(tok, "a", 1, true, &ids, err);
    if (ok) mal_hasher_add(hasher, ids.ids, ids.n * sizeof *ids.ids);
    mal_ids_finish(&ids);
    return ok;
}

bool mal_engine_find_basis(struct mal_engine *engine, struct mal_error *err) {
    const char *dir = mal_checkpoint_dir(mal_model_checkpoint(engine->model));
    struct mal_hasher *hasher;
    if (!engine->joint) return true;
    if (!mal_hasher_create(&hasher, err)) return false;
    add_systems(hasher, engine);
    bool ok = add_files(hasher, dir, err) && add_ends(hasher, engine->tok, err);
    struct mal_hash hash = mal_hasher_end(hasher);
    mal_hasher_destroy(hasher);
    if (ok) mal_hash_hex(&hash, engine->basis);
    return ok;
}

bool mal_basis_of_row(const struct mal_engine *engine, struct mal_store *store,
                      struct mal_version_row *row, struct mal_error *err) {
    if (row->to_version >= 0) {
        struct mal_version_row to = {0};
        if (!mal_store_get_version(store, row->to_version, &to, err)) return false;
        row->basis = to.basis;
        to.basis = NULL;
        mal_version_row_finish(&to);
    } else {
        row->basis = mal_strdup(engine->basis);
    }
    return row->basis || mal_fail(err, MAL_NO_MEMORY, "version");
}

bool mal_engine_solved_otherwise(struct mal_engine *engine, struct mal_store *store,
                                 bool *out, struct mal_error *err) {
    struct mal_version_row row = {0};
    struct mal_store_counts counts;
    *out = false;
    if (!engine->joint || !engine->editor) return true;
    if (!mal_store_counts(store, &counts, err) ||
        !mal_store_get_version(store, mal_weights_live(engine->ws), &row, err))
        return false;
    *out = counts.live_facts > 0 && *row.basis && strcmp(row.basis, engine->basis) != 0;
    mal_version_row_finish(&row);
    return true;
}
