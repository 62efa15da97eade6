/* weights_read.c - weights and shifts between the device, oriented as in the checkpoint,
 * and the host. */
#include <assert.h>
#include <string.h>

#include "core/alloc.h"
#include "core/shift.h"
#include "core/weights_impl.h"

bool mal_plane_set(struct mal_weights_state *ws, struct plane *plane,
                   const struct mal_linear *lin, const float *shift,
                   struct mal_error *err) {
    size_t bytes = (size_t)n_elements(lin) * sizeof *shift;
    if (!lin->transposed) {
        mal_backend_upload(ws->be, plane->t, shift, bytes);
        return mal_backend_sync(ws->be, err);
    }
    float *stored = mal_malloc(bytes); /* (d_out, d_in) */
    if (!stored) return mal_fail(err, MAL_NO_MEMORY, "module '%s': its shift", lin->name);
    mal_transpose(stored, shift, lin->d_in, lin->d_out);
    mal_backend_upload(ws->be, plane->t, stored, bytes);
    bool ok = mal_backend_sync(ws->be, err);
    mal_free(stored);
    return ok;
}

const float *mal_weights_shift(const struct mal_weights_state *ws, size_t module) {
    assert(module < ws->n_modules);
    return live_version(ws)->planes[module]->t;
}

bool mal_weights_read_shift(struct mal_weights_state *ws, size_t module, float *out,
                            struct mal_error *err) {
    assert(module < ws->n_modules);
    const struct mal_linear *lin = module_at(ws, module);
    const struct plane *plane = live_version(ws)->planes[module];
    if (plane->t) return mal_shift_read(ws->be, lin, plane->t, out, err);
    memset(out, 0, (size_t)n_elements(lin) * sizeof *out);
    return true;
}

bool mal_weights_read_keyframe(struct mal_weights_state *ws, void (*tick)(void *),
                               void *tick_arg, struct mal_delta *out,
                               struct mal_error *err) {
    assert(ws->prepared);
    struct mal_delta keyframe = {.parts = mal_calloc(ws->n_modules, sizeof *out->parts)};
    bool ok = keyframe.parts || mal_fail(err, MAL_NO_MEMORY, "a keyframe");
    for (size_t m = 0; ok && m < ws->n_modules; m++) {
        const float *t = ws->prepared->planes[m]->t;
        if (!t) continue;
        ok = mal_shift_read_part(ws->be, module_at(ws, m), t,
                                 &keyframe.parts[keyframe.n_parts], err);
        if (ok) keyframe.n_parts++;
        if (ok && tick) tick(tick_arg);
    }
    if (!ok) {
        mal_delta_finish(&keyframe);
        return false;
    }
    mal_delta_sort(&keyframe);
    *out = keyframe;
    return true;
}

bool mal_weights_read(struct mal_weights_state *ws, int64_t version, size_t module,
                      float *out, struct mal_error *err) {
    const struct version *v = find_version(ws, version);
    assert(v && module < ws->n_modules);
    const struct mal_linear *lin = module_at(ws, module);
    size_t n = (size_t)n_elements(lin), bytes = n * mal_dtype_size(lin->w_dtype);
    void *stored = mal_malloc(bytes);
    if (!stored)
        return mal_fail(err, MAL_NO_MEMORY, "module '%s': its weight", lin->name);
    mal_backend_download(ws->be, stored, plane_weight(v->planes[module], lin), bytes);
    bool ok = mal_backend_sync(ws->be, err);
    if (ok) mal_to_f32(out, stored, lin->w_dtype, n);
    mal_free(stored);
    return ok;
}
