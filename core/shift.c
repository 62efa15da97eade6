/* shift.c - parts of deltas into a sum on the device, and the sum back. */
#include "core/shift.h"

#include "core/alloc.h"

/* Its data in device memory as fp32. */
static void apply(struct mal_backend *be, const struct mal_delta_part *part,
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
    bool wide = part->dtype == MAL_F32, there = mal_backend_on_host(be);
    size_t n = mal_delta_part_elements(part), bytes = mal_delta_part_bytes(part);
    void *stored = there ? part->data : mal_backend_alloc(be, bytes);
    float *data = wide || !stored ? stored : mal_backend_alloc(be, n * sizeof *data);
    bool ok = data || mal_fail(err, MAL_NO_MEMORY, "module '%s': its shift (%zu bytes)",
                               part->module, n * sizeof *data);
    if (ok) {
        if (!there) mal_backend_upload(be, stored, part->data, bytes);
        if (!wide) mal_convert(be, (int64_t)n, data, MAL_F32, stored, part->dtype);
        apply(be, part, data, transposed, t);
        ok = mal_backend_sync(be, err);
    }
    if (!wide) mal_backend_free(be, data);
    if (!there) mal_backend_free(be, stored);
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
                                  .encoding = MAL_ENCODING_DENSE,
                                  .dtype = MAL_F32};
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
