/* spm_file.c - reads the file; numbers of fields as in sentencepiece_model.proto. */
#include "core/tokenizer/spm_file.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/tokenizer/protobuf.h"
#include "core/utf8.h"

static const size_t MAX_FILE_BYTES = (size_t)256 << 20;

/* ---- Pieces ---- */

static bool add_piece(struct mal_spm_file *file, const struct mal_piece *piece,
                      int64_t type) {
    if (file->n == file->capacity) {
        size_t capacity = 2 * file->capacity + 1024;
        struct mal_piece *pieces =
            mal_realloc(file->pieces, capacity * sizeof *file->pieces);
        if (pieces) file->pieces = pieces;
        int64_t *types = mal_realloc(file->types, capacity * sizeof *file->types);
        if (types) file->types = types;
        if (!pieces || !types) return false;
        file->capacity = capacity;
    }
    file->pieces[file->n] = *piece;
    file->types[file->n++] = type;
    return true;
}

static bool check_piece(const struct mal_spm_file *file, const struct mal_piece *piece,
                        int64_t type, const char *where, struct mal_error *err) {
    const char *problem = NULL;
    if (piece->bytes == 0) {
        problem = "is empty";
    } else if (piece->bytes > MAL_MAX_PIECE_BYTES) {
        problem = "is too long";
    } else if (!mal_utf8_valid(piece->text, piece->bytes) ||
               memchr(piece->text, 0, piece->bytes)) {
        problem = "is not UTF-8 text";
    } else if (!isfinite(piece->score)) {
        problem = "has a score that is not finite";
    } else if (type < MAL_SPM_NORMAL || type > MAL_SPM_BYTE) {
        problem = "has an unknown type";
    } else if (file->n == MAL_MAX_TOKEN_ID) {
        problem = "is one too many";
    }
    if (!problem) return true;
    return mal_fail(err, MAL_INVALID, "%s: piece %zu %s", mal_file_shown(where), file->n,
                    problem);
}

static bool read_piece(struct mal_spm_file *file, struct mal_proto *proto,
                       struct mal_error *err) {
    struct mal_piece piece = {0};
    int64_t type = MAL_SPM_NORMAL;
    for (;;) {
        struct mal_proto_field field;
        bool found, ok = true;
        float score;
        if (!mal_proto_next(proto, &field, &found, err)) return false;
        if (!found) break;
        if (field.number == 1) {
            ok = mal_proto_bytes(proto, &field, "piece", &piece.text, &piece.bytes, err);
        } else if (field.number == 2) {
            ok = mal_proto_float(proto, &field, "score", &score, err);
            if (ok) piece.score = score;
        } else if (field.number == 3) {
            ok = mal_proto_int(proto, &field, "type", &type, err);
        }
        if (!ok) return false;
    }
    if (!check_piece(file, &piece, type, proto->where, err)) return false;
    if (type == MAL_SPM_UNKNOWN) file->unk = (int64_t)file->n;
    return add_piece(file, &piece, type) ||
           mal_fail(err, MAL_NO_MEMORY, "%s: pieces", mal_file_shown(proto->where));
}

/* ---- How it was trained, how it normalizes ---- */

static bool read_trainer(struct mal_spm_file *file, struct mal_proto *proto,
                         struct mal_error *err) {
    for (;;) {
        struct mal_proto_field field;
        bool found, ok = true;
        if (!mal_proto_next(proto, &field, &found, err)) return false;
        if (!found) return true;
        switch (field.number) {
        case 3:
            ok = mal_proto_int(proto, &field, "model_type", &file->model_type, err);
            break;
        case 24:
            ok = mal_proto_bool(proto, &field, "treat_whitespace_as_suffix",
                                &file->whitespace_as_suffix, err);
            break;
        case 35:
            ok =
                mal_proto_bool(proto, &field, "byte_fallback", &file->byte_fallback, err);
            break;
        case 41: ok = mal_proto_int(proto, &field, "bos_id", &file->bos, err); break;
        case 42: ok = mal_proto_int(proto, &field, "eos_id", &file->eos, err); break;
        default: break;
        }
        if (!ok) return false;
    }
}

static bool read_normalizer(struct mal_spm_file *file, struct mal_proto *proto,
                            struct mal_error *err) {
    for (;;) {
        struct mal_proto_field field;
        bool found, ok = true;
        if (!mal_proto_next(proto, &field, &found, err)) return false;
        if (!found) return true;
        switch (field.number) {
        case 2:
            ok = mal_proto_bytes(proto, &field, "precompiled_charsmap", &file->charsmap,
                                 &file->n_charsmap, err);
            break;
        case 3:
            ok = mal_proto_bool(proto, &field, "add_dummy_prefix",
                                &file->add_dummy_prefix, err);
            break;
        case 4:
            ok = mal_proto_bool(proto, &field, "remove_extra_whitespaces",
                                &file->remove_extra_whitespaces, err);
            break;
        case 5:
            ok = mal_proto_bool(proto, &field, "escape_whitespaces",
                                &file->escape_whitespaces, err);
            break;
        default: break;
        }
        if (!ok) return false;
    }
}

/* ---- The whole ---- */

static bool read_model(struct mal_spm_file *file, struct mal_proto *proto,
                       struct mal_error *err) {
    static const char *const names[] = {NULL, "pieces", "trainer_spec",
                                        "normalizer_spec"};
    for (;;) {
        struct mal_proto_field field;
        struct mal_proto part;
        bool found;
        if (!mal_proto_next(proto, &field, &found, err)) return false;
        if (!found) return true;
        if (field.number < 1 || field.number > 3) continue;
        if (!mal_proto_message(proto, &field, names[field.number], &part, err))
            return false;
        bool ok = field.number == 1   ? read_piece(file, &part, err)
                  : field.number == 2 ? read_trainer(file, &part, err)
                                      : read_normalizer(file, &part, err);
        if (!ok) return false;
    }
}

static bool check_model(const struct mal_spm_file *file, const char *path,
                        struct mal_error *err) {
    const char *problem = NULL;
    if (file->model_type != 1 && file->model_type != 2) {
        return mal_fail(err, MAL_INVALID,
                        "%s: model_type %" PRId64
                        " is not supported, only 1 (unigram) and 2 (bpe)",
                        mal_file_shown(path), file->model_type);
    }
    if (file->n == 0) {
        problem = "there are no pieces: not a SentencePiece model";
    } else if (file->unk < 0) {
        problem = "there is no piece of the type unknown";
    } else if (file->model_type == 2 && file->bos >= (int64_t)file->n) {
        problem = "bos_id is not the id of a piece";
    } else if (file->eos >= (int64_t)file->n) {
        problem = "eos_id is not the id of a piece";
    } else if (!file->escape_whitespaces) {
        problem = "escape_whitespaces: false is not supported";
    } else if (file->whitespace_as_suffix) {
        problem = "treat_whitespace_as_suffix is not supported";
    }
    if (!problem) return true;
    return mal_fail(err, MAL_INVALID, "%s: %s", mal_file_shown(path), problem);
}

bool mal_spm_file_read(struct mal_spm_file *out, const char *path,
                       struct mal_error *err) {
    size_t bytes;
    *out = (struct mal_spm_file){.model_type = 1,
                                 .unk = -1,
                                 .bos = 1,
                                 .eos = 2,
                                 .add_dummy_prefix = true,
                                 .remove_extra_whitespaces = true,
                                 .escape_whitespaces = true};
    if (!mal_file_read(&out->bytes, &bytes, path, MAX_FILE_BYTES, err)) return false;
    struct mal_proto proto = {out->bytes, out->bytes + bytes, path, "the model"};
    return read_model(out, &proto, err) && check_model(out, path, err);
}

void mal_spm_file_finish(struct mal_spm_file *file) {
    mal_free(file->bytes);
    mal_free(file->pieces);
    mal_free(file->types);
    *file = (struct mal_spm_file){0};
}
