/* shift.c - parts of deltas into a sum on the device, and the sum back. */
#include "core/shift.h"

#include "core/alloc.h"

void mal_shift_add(struct mal_backend *be, const struct mal_delta_part *part,
                   const float *data, bool transposed, float *t) {
    if (part->encoding == MAL_ENCODING_FACTORS) {
        mal_apply_factors(be, part->d_in, part->d_out, part->rank, data,
                          data + part->d_in * part->rank, transposed, t);
    } else {
        mal_apply_dense(be, part->d_in, part->d_out, data, transposed, t);
    }
}

bool mal_shift_add_part(struct mal_backend *be, const struct mal_delta_part *part,
                        bool transposed, float *t, struct mal_error *err) {
    size_t bytes = mal_delta_part_bytes(part);
    float *data = mal_backend_alloc(be, bytes);
    if (!data) {
        return mal_fail(err, MAL_NO_MEMORY, "module '%s': its shift (%zu bytes)",
                        part->module, bytes);
    }
    mal_backend_upload(be, data, part->data, bytes);
    mal_shift_add(be, part, data, transposed, t);
    bool ok = mal_backend_sync(be, err);
    mal_backend_free(be, data);
    return ok;
}

bool mal_shift_read(struct mal_backend *be, const struct mal_linear *lin, const float *t,
                    float *out, struct mal_error *err) {
    size_t bytes = (size_t)(lin->d_in * lin->d_out) * sizeof *out;
    if (!lin->transposed) {
        mal_backend_download(be, out, t, bytes);
        return mal_backend_sync(be, err);
    }
    float *stored = mal_malloc(bytes); /* (d_out, d_in) */
    if (!stored) return mal_fail(err, MAL_NO_MEMORY, "module '%s': its shift", lin->name);
    mal_backend_download(be, stored, t, bytes);
    bool ok = mal_backend_sync(be, err);
    if (ok) mal_transpose(out, stored, lin->d_out, lin->d_in);
    mal_free(stored);
    return ok;
}

bool mal_shift_read_part(struct mal_backend *be, const struct mal_linear *lin,
                         const float *t, struct mal_delta_part *out,
                         struct mal_error *err) {
    struct mal_delta_part part = {.module = mal_strdup(lin->name),
                                  .d_in = lin->d_in,
                                  .d_out = lin->d_out,
                                  .encoding = MAL_ENCODING_DENSE};
    part.data = mal_malloc(mal_delta_part_bytes(&part));
    bool ok = (part.module && part.data) ||
              mal_fail(err, MAL_NO_MEMORY, "module '%s': its shift", lin->name);
    if (ok && mal_shift_read(be, lin, t, part.data, err)) {
        *out = part;
        return true;
    }
    mal_free(part.module);
    mal_free(part.data);
    return false;
}
