/* delta.c - the stored form of a change to the weights: sizes, identity, release. */
#include "core/delta.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"

const char *mal_encoding_name(enum mal_encoding encoding) {
    switch (encoding) {
    case MAL_ENCODING_FACTORS: return "factors";
    case MAL_ENCODING_DENSE: return "dense";
    default: return "none";
    }
}

static int by_module(const void *a, const void *b) {
    return strcmp(((const struct mal_delta_part *)a)->module,
                  ((const struct mal_delta_part *)b)->module);
}

void mal_delta_sort(struct mal_delta *delta) {
    qsort(delta->parts, delta->n_parts, sizeof *delta->parts, by_module);
}

enum mal_dtype mal_delta_dtype(enum mal_dtype weight) {
    return weight == MAL_BF16 ? MAL_BF16 : MAL_F32;
}

size_t mal_delta_part_elements(const struct mal_delta_part *part) {
    assert(part->d_in >= 0 && part->d_out >= 0 && part->rank >= 0);
    if (part->encoding == MAL_ENCODING_FACTORS)
        return (size_t)part->rank * ((size_t)part->d_in + (size_t)part->d_out);
    return (size_t)part->d_in * (size_t)part->d_out;
}

size_t mal_delta_part_bytes(const struct mal_delta_part *part) {
    assert(part->dtype == MAL_F32 || part->dtype == MAL_BF16);
    return mal_delta_part_elements(part) * mal_dtype_size(part->dtype);
}

bool mal_delta_part_widen(struct mal_delta_part *part, struct mal_error *err) {
    if (part->dtype == MAL_F32) return true;
    size_t n = mal_delta_part_elements(part);
    float *wide = mal_malloc(n * sizeof *wide);
    if (!wide)
        return mal_fail(err, MAL_NO_MEMORY, "module '%s': its shift", part->module);
    mal_to_f32(wide, part->data, part->dtype, n);
    mal_free(part->data);
    part->data = wide;
    part->dtype = MAL_F32;
    part->hashed = false;
    return true;
}

bool mal_delta_factors_pay(int64_t d_in, int64_t d_out, int64_t rank) {
    return rank * (d_in + d_out) < d_in * d_out;
}

uint64_t mal_delta_bytes(const struct mal_delta *delta) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < delta->n_parts; i++)
        bytes += mal_delta_part_bytes(&delta->parts[i]);
    return bytes;
}

enum mal_encoding mal_delta_encoding(const struct mal_delta *delta) {
    enum mal_encoding encoding =
        delta->n_parts > 0 ? MAL_ENCODING_FACTORS : MAL_ENCODING_NONE;
    for (size_t i = 0; i < delta->n_parts; i++) {
        if (delta->parts[i].encoding == MAL_ENCODING_DENSE) encoding = MAL_ENCODING_DENSE;
    }
    return encoding;
}

void mal_delta_hash_data(struct mal_delta *delta) {
#pragma omp parallel for schedule(dynamic) if (delta->n_parts > 1)
    for (size_t i = 0; i < delta->n_parts; i++) {
        struct mal_delta_part *part = &delta->parts[i];
        if (!part->hashed)
            part->hash = mal_hash_of(part->data, mal_delta_part_bytes(part));
        part->hashed = true;
    }
}

static void add_encoding(struct mal_hasher *hasher, const struct mal_delta_part *part) {
    char text[16];
    bool wide = part->dtype == MAL_F32;
    snprintf(text, sizeof text, "%s%s%s", mal_encoding_name(part->encoding),
             wide ? "" : " ", wide ? "" : mal_dtype_name(part->dtype));
    mal_hasher_add_text(hasher, text);
}

bool mal_delta_hash(struct mal_delta *delta, struct mal_hash *out,
                    struct mal_error *err) {
    struct mal_hasher *hasher = NULL;
    if (!mal_hasher_create(&hasher, err)) return false;
    mal_delta_hash_data(delta);
    for (size_t i = 0; i < delta->n_parts; i++) {
        const struct mal_delta_part *part = &delta->parts[i];
        assert(i == 0 || strcmp(delta->parts[i - 1].module, part->module) < 0);
        mal_hasher_add_text(hasher, part->module);
        add_encoding(hasher, part);
        mal_hasher_add_u64(hasher, (uint64_t)part->d_in);
        mal_hasher_add_u64(hasher, (uint64_t)part->d_out);
        mal_hasher_add_u64(hasher, (uint64_t)part->rank);
        mal_hasher_add(hasher, part->hash.bytes, sizeof part->hash.bytes);
    }
    *out = mal_hasher_end(hasher);
    mal_hasher_destroy(hasher);
    return true;
}

void mal_delta_finish(struct mal_delta *delta) {
    for (size_t i = 0; i < delta->n_parts; i++) {
        mal_free(delta->parts[i].module);
        mal_free(delta->parts[i].data);
    }
    mal_free(delta->parts);
    *delta = (struct mal_delta){0};
}
