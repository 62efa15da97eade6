/* weights_state.c - versions of the edited weights in memory.
 *
 * A version is a list of planes, one per edit module: the accumulator T and the rounded
 * weight W made from it. Planes are immutable once made and shared by every version that
 * has them: a module that a delta does not touch costs nothing, and returning to a
 * version in memory is a swap of pointers. The base's planes borrow W0 from the model and
 * have no T, so version 0 is the checkpoint to the bit (W0 + 0 would turn -0 into +0). A
 * plane made here costs one T (fp32) and one W: T is kept with each version because a
 * return to it must go on from there. */
#include "core/weights_impl.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/shift.h"
#include "core/weights_digest.h"

/* Versions equal to the base hold no weights and are not counted against `keep`, only
 * here. */
enum { MAX_EMPTY = 64 };

/* ---- Planes ---- */

static void plane_release(struct mal_weights_state *ws, struct plane *plane) {
    if (!plane || --plane->refs > 0) return;
    mal_backend_free(ws->be, plane->t);
    mal_backend_free(ws->be, plane->w);
    mal_free(plane);
}

/* A plane whose T is that of `from`, to be added to; W is still to be made. */
static struct plane *plane_begin(struct mal_weights_state *ws, const struct plane *from,
                                 const struct mal_linear *lin, struct mal_error *err) {
    size_t t_bytes = (size_t)n_elements(lin) * sizeof(float);
    size_t w_bytes = (size_t)n_elements(lin) * mal_dtype_size(lin->w_dtype);
    struct plane *plane = mal_calloc(1, sizeof *plane);
    if (!plane) goto fail;
    plane->refs = 1;
    plane->t = mal_backend_alloc(ws->be, t_bytes);
    plane->w = mal_backend_alloc(ws->be, w_bytes);
    if (!plane->t || !plane->w) goto fail;
    if (from->t) {
        mal_backend_copy(ws->be, plane->t, from->t, t_bytes);
    } else {
        mal_backend_zero(ws->be, plane->t, t_bytes);
    }
    return plane;

fail:
    plane_release(ws, plane);
    mal_fail(err, MAL_NO_MEMORY, "module '%s': a version of its weights (%zu bytes)",
             lin->name, t_bytes + w_bytes);
    return NULL;
}

/* ---- Versions ---- */

void mal_version_free(struct mal_weights_state *ws, struct version *v) {
    if (!v) return;
    for (size_t m = 0; v->planes && m < ws->n_modules; m++)
        plane_release(ws, v->planes[m]);
    mal_free(v->planes);
    mal_free(v->norms);
    mal_free(v);
}

/* A version with the planes of `from`; without, with none yet. */
static struct version *version_begin(struct mal_weights_state *ws,
                                     const struct version *from, struct mal_error *err) {
    struct version *v = mal_calloc(1, sizeof *v);
    if (!v) goto fail;
    v->planes = mal_calloc(ws->n_modules, sizeof(struct plane *));
    v->norms = mal_calloc(ws->n_modules, sizeof *v->norms);
    if (!v->planes || !v->norms) goto fail;
    for (size_t m = 0; from && m < ws->n_modules; m++) {
        v->planes[m] = from->planes[m];
        v->planes[m]->refs++;
    }
    return v;

fail:
    mal_version_free(ws, v);
    mal_fail(err, MAL_NO_MEMORY, "a version of the weights");
    return NULL;
}

static bool version_is_base(const struct mal_weights_state *ws, const struct version *v) {
    for (size_t m = 0; m < ws->n_modules; m++)
        if (v->planes[m]->w) return false;
    return true;
}

void mal_version_lend(const struct mal_weights_state *ws, const struct version *v,
                      struct mal_model *model) {
    for (size_t m = 0; m < ws->n_modules; m++) {
        struct mal_linear *lin = mal_model_edit(model, m);
        mal_linear_use(lin, plane_weight(v->planes[m], lin));
    }
}

static void version_use(struct mal_weights_state *ws, const struct version *v) {
    mal_version_lend(ws, v, ws->model);
    ws->in_use = v;
}

/* ---- From T to a finished version ---- */

/* ||T||_F of the fresh planes. */
static bool measure_shifts(struct mal_weights_state *ws, struct version *v,
                           const bool *fresh, struct mal_error *err) {
    for (size_t m = 0; m < ws->n_modules; m++) {
        struct plane *plane = v->planes[m];
        if (!fresh[m] || !plane->t) continue;
        double sum = 0;
        mal_sum_squares(ws->be, n_elements(module_at(ws, m)), plane->t, ws->sum);
        mal_backend_download(ws->be, &sum, ws->sum, sizeof sum);
        if (!mal_backend_sync(ws->be, err)) return false;
        plane->shift_norm = sqrt(sum);
    }
    return true;
}

/* Hash and ||W||_F of the fresh planes; a weight that is NaN or infinite ends it. */
static bool digest_planes(struct mal_weights_state *ws, struct version *v,
                          const bool *fresh, void (*tick)(void *), void *tick_arg,
                          struct mal_error *err) {
    struct mal_digest *digests = mal_calloc(ws->n_modules, sizeof *digests);
    if (!digests) return mal_fail(err, MAL_NO_MEMORY, "weight digests");
    size_t n = 0;
    for (size_t m = 0; m < ws->n_modules; m++) {
        if (!fresh[m]) continue;
        const struct mal_linear *lin = module_at(ws, m);
        digests[n++] =
            (struct mal_digest){.linear = lin, .w = plane_weight(v->planes[m], lin)};
    }
    bool ok = mal_digest_weights(ws->be, ws->form, digests, n, tick, tick_arg, err);
    for (size_t m = 0, i = 0; ok && m < ws->n_modules; m++) {
        if (!fresh[m]) continue;
        struct plane *plane = v->planes[m];
        plane->hash = digests[i].hash;
        plane->weight_norm = sqrt(digests[i++].sum_squares);
        if (!isfinite(plane->weight_norm)) {
            ok = mal_fail(err, MAL_NUMERIC,
                          "module '%s': the edited weight has a NaN or infinite value",
                          module_at(ws, m)->name);
        }
    }
    mal_free(digests);
    return ok;
}

static bool seal(struct mal_weights_state *ws, struct version *v, struct mal_error *err) {
    struct mal_named_digest *named = mal_calloc(ws->n_modules, sizeof *named);
    if (!named) return mal_fail(err, MAL_NO_MEMORY, "weights hash");
    for (size_t m = 0; m < ws->n_modules; m++) {
        const struct plane *plane = v->planes[m];
        named[m] = (struct mal_named_digest){module_at(ws, m), plane->hash};
        v->norms[m] = (struct mal_module_norms){.module = module_at(ws, m)->name,
                                                .shift_norm = plane->shift_norm,
                                                .weight_norm = plane->weight_norm};
    }
    bool ok = mal_digest_combine(named, ws->n_modules, &v->hash, err);
    mal_free(named);
    return ok;
}

/* W of the planes marked fresh. */
static bool round_planes(struct mal_weights_state *ws, struct version *v,
                         const bool *fresh, void (*tick)(void *), void *tick_arg,
                         struct mal_error *err) {
    for (size_t m = 0; m < ws->n_modules; m++) {
        const struct mal_linear *lin = module_at(ws, m);
        struct plane *plane = v->planes[m];
        if (!fresh[m] || !plane->t) continue;
        mal_round_weight(ws->be, n_elements(lin), lin->w0, plane->t, lin->dtype, plane->w,
                         lin->w_dtype);
        if (!mal_backend_sync(ws->be, err)) return false;
        if (tick) tick(tick_arg);
    }
    return true;
}

double mal_weights_hash_seconds(const struct mal_weights_state *ws) {
    return ws->hash_seconds;
}

/* ---- Deltas ---- */

static bool find_module(const struct mal_weights_state *ws,
                        const struct mal_delta_part *part, size_t *out,
                        struct mal_error *err) {
    const struct mal_linear *lin = mal_model_find_editable(ws->model, part->module);
    if (!lin || lin->edit < 0) {
        return mal_fail(err, MAL_INVALID,
                        "the delta is for module '%s', which is not edited here",
                        part->module);
    }
    if (lin->d_in != part->d_in || lin->d_out != part->d_out) {
        return mal_fail(err, MAL_INVALID,
                        "module '%s' is (%lld, %lld), the delta's shift (%lld, %lld)",
                        lin->name, (long long)lin->d_in, (long long)lin->d_out,
                        (long long)part->d_in, (long long)part->d_out);
    }
    *out = (size_t)lin->edit;
    return true;
}

/* v's plane of the module, its own to add to. */
static struct plane *own_plane(struct mal_weights_state *ws, struct version *v,
                               bool *fresh, size_t m, struct mal_error *err) {
    if (fresh[m]) return v->planes[m];
    struct plane *plane = plane_begin(ws, v->planes[m], module_at(ws, m), err);
    if (!plane) return NULL;
    plane_release(ws, v->planes[m]);
    v->planes[m] = plane;
    fresh[m] = true;
    return plane;
}

static bool add_part(struct mal_weights_state *ws, struct version *v, bool *fresh,
                     const struct mal_delta_part *part, struct mal_error *err) {
    size_t m = 0;
    if (!find_module(ws, part, &m, err)) return false;
    struct plane *plane = own_plane(ws, v, fresh, m, err);
    return plane &&
           mal_shift_add_part(ws->be, part, module_at(ws, m)->transposed, plane->t, err);
}

static bool add_delta(struct mal_weights_state *ws, struct version *v, bool *fresh,
                      const struct mal_delta *delta, void (*tick)(void *), void *tick_arg,
                      struct mal_error *err) {
    for (size_t i = 0; i < delta->n_parts; i++) {
        if (!add_part(ws, v, fresh, &delta->parts[i], err)) return false;
        if (tick) tick(tick_arg);
    }
    return true;
}

static bool set_shift(struct mal_weights_state *ws, struct version *v, bool *fresh,
                      const struct mal_delta_part *part, struct mal_error *err) {
    size_t m = 0;
    assert(part->encoding == MAL_ENCODING_DENSE);
    if (!find_module(ws, part, &m, err)) return false;
    struct plane *plane = own_plane(ws, v, fresh, m, err);
    return plane && mal_plane_set(ws, plane, module_at(ws, m), part->data, err);
}

static bool set_shifts(struct mal_weights_state *ws, struct version *v, bool *fresh,
                       const struct mal_delta *keyframe, struct mal_error *err) {
    for (size_t i = 0; i < keyframe->n_parts; i++)
        if (!set_shift(ws, v, fresh, &keyframe->parts[i], err)) return false;
    return true;
}

/* ---- Preparing ---- */

static void drop_prepared(struct mal_weights_state *ws) {
    mal_version_free(ws, ws->prepared);
    mal_free(ws->fresh);
    ws->prepared = NULL;
    ws->fresh = NULL;
}

/* Planes of `from`, to be added to. */
static bool begin_prepare(struct mal_weights_state *ws, const struct version *from,
                          struct mal_error *err) {
    assert(!ws->prepared);
    mal_version_reap(ws);
    ws->fresh = mal_calloc(ws->n_modules, sizeof *ws->fresh);
    ws->prepared = ws->fresh ? version_begin(ws, from, err) : NULL;
    if (ws->prepared) return true;
    if (!ws->fresh) mal_fail(err, MAL_NO_MEMORY, "a version of the weights");
    drop_prepared(ws);
    return false;
}

bool mal_weights_seal(struct mal_weights_state *ws, void (*tick)(void *), void *tick_arg,
                      struct mal_error *err) {
    assert(ws->prepared);
    double begin = mal_clock_seconds();
    bool ok = measure_shifts(ws, ws->prepared, ws->fresh, err) &&
              digest_planes(ws, ws->prepared, ws->fresh, tick, tick_arg, err) &&
              seal(ws, ws->prepared, err);
    ws->hash_seconds = mal_clock_seconds() - begin;
    if (!ok) mal_weights_discard(ws);
    return ok;
}

bool mal_weights_try(struct mal_weights_state *ws, int64_t from,
                     const struct mal_delta *delta, void (*tick)(void *), void *tick_arg,
                     struct mal_error *err) {
    const struct version *basis = find_version(ws, from);
    assert(basis);
    mal_weights_discard(ws);
    if (!begin_prepare(ws, basis, err)) return false;
    bool ok = add_delta(ws, ws->prepared, ws->fresh, delta, tick, tick_arg, err) &&
              round_planes(ws, ws->prepared, ws->fresh, tick, tick_arg, err);
    if (!ok) drop_prepared(ws);
    return ok;
}

bool mal_weights_prepare(struct mal_weights_state *ws, const struct mal_delta *delta,
                         void (*tick)(void *), void *tick_arg, struct mal_error *err) {
    assert(!ws->prepared);
    return mal_weights_try(ws, mal_weights_live(ws), delta, tick, tick_arg, err) &&
           mal_weights_seal(ws, tick, tick_arg, err);
}

bool mal_weights_prepare_return(struct mal_weights_state *ws, int64_t version,
                                struct mal_error *err) {
    struct version *from = find_version(ws, version);
    assert(from);
    return begin_prepare(ws, from, err) && mal_weights_seal(ws, NULL, NULL, err);
}

bool mal_weights_prepare_replay(struct mal_weights_state *ws,
                                const struct mal_replay *replay, void (*tick)(void *),
                                void *tick_arg, struct mal_error *err) {
    if (!begin_prepare(ws, ws->versions[0], err)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < replay->n; i++) {
        struct mal_delta delta = {0};
        ok = replay->next(replay->arg, i, &delta, err);
        ok = ok &&
             (i < replay->n_set
                  ? set_shifts(ws, ws->prepared, ws->fresh, &delta, err)
                  : add_delta(ws, ws->prepared, ws->fresh, &delta, tick, tick_arg, err));
        mal_delta_finish(&delta);
        if (ok && i < replay->n_set && tick) tick(tick_arg);
    }
    ok = ok && round_planes(ws, ws->prepared, ws->fresh, tick, tick_arg, err);
    if (!ok) drop_prepared(ws);
    return ok && mal_weights_seal(ws, tick, tick_arg, err);
}

struct mal_hash mal_weights_prepared_hash(const struct mal_weights_state *ws) {
    assert(ws->prepared);
    return ws->prepared->hash;
}

const struct mal_module_norms *
mal_weights_prepared_norms(const struct mal_weights_state *ws) {
    assert(ws->prepared);
    return ws->prepared->norms;
}

void mal_weights_use_prepared(struct mal_weights_state *ws) {
    assert(ws->prepared);
    version_use(ws, ws->prepared);
}

/* Lets versions beyond the limits leave memory, oldest first; base and live stay. */
static void evict(struct mal_weights_state *ws) {
    size_t kept = 0, empty = 0;
    for (size_t i = ws->n_versions - 1; i-- > 1;) {
        struct version *v = ws->versions[i];
        bool stays =
            version_is_base(ws, v) ? empty++ < MAX_EMPTY : kept++ < (size_t)ws->keep;
        if (stays) continue;
        pthread_mutex_lock(&ws->lock);
        ws->n_versions--;
        memmove(ws->versions + i, ws->versions + i + 1,
                (ws->n_versions - i) * sizeof(struct version *));
        pthread_mutex_unlock(&ws->lock);
        mal_version_evict(ws, v);
    }
}

void mal_weights_publish(struct mal_weights_state *ws, int64_t version) {
    assert(ws->prepared && ws->n_versions < ws->capacity && !find_version(ws, version));
    ws->prepared->number = version;
    pthread_mutex_lock(&ws->lock);
    ws->versions[ws->n_versions++] = ws->prepared;
    pthread_mutex_unlock(&ws->lock);
    ws->prepared = NULL;
    drop_prepared(ws);
    version_use(ws, live_version(ws));
    evict(ws);
}

void mal_weights_discard(struct mal_weights_state *ws) {
    if (!ws->prepared) return;
    version_use(ws, live_version(ws));
    drop_prepared(ws);
}

/* ---- Holding ---- */

void mal_weights_hold(struct mal_weights_state *ws) {
    assert(ws->prepared && !ws->held);
    version_use(ws, live_version(ws));
    ws->held = ws->prepared;
    ws->prepared = NULL;
    drop_prepared(ws);
}

void mal_weights_use_held(struct mal_weights_state *ws) {
    assert(ws->held);
    version_use(ws, ws->held);
}

void mal_weights_let_go(struct mal_weights_state *ws) {
    if (ws->in_use == ws->held) version_use(ws, live_version(ws));
    mal_version_free(ws, ws->held);
    ws->held = NULL;
}

/* ---- Life ---- */

static struct version *make_base(struct mal_weights_state *ws, struct mal_error *err) {
    struct version *v = version_begin(ws, NULL, err);
    bool *fresh = mal_calloc(ws->n_modules, sizeof *fresh);
    bool ok = v && fresh;
    for (size_t m = 0; ok && m < ws->n_modules; m++) {
        v->planes[m] = mal_calloc(1, sizeof *v->planes[m]);
        ok = v->planes[m];
        if (ok) v->planes[m]->refs = 1;
        fresh[m] = true;
    }
    if (!ok) {
        mal_fail(err, MAL_NO_MEMORY, "the base version");
    } else {
        ok = digest_planes(ws, v, fresh, NULL, NULL, err) && seal(ws, v, err);
    }
    mal_free(fresh);
    if (ok) return v;
    mal_version_free(ws, v);
    return NULL;
}

bool mal_weights_create(struct mal_weights_state **out, struct mal_model *model, int keep,
                        struct mal_error *err) {
    return mal_weights_create_in_form(out, model, keep, MAL_DIGEST_PIECES, err);
}

bool mal_weights_create_in_form(struct mal_weights_state **out, struct mal_model *model,
                                int keep, enum mal_digest_form form,
                                struct mal_error *err) {
    assert(keep >= 0 && mal_model_n_edited(model) > 0);
    struct mal_weights_state *ws = mal_calloc(1, sizeof *ws);
    if (!ws) return mal_fail(err, MAL_NO_MEMORY, "weights");
    ws->model = model;
    ws->be = mal_model_backend(model);
    ws->n_modules = mal_model_n_edited(model);
    ws->keep = keep;
    ws->form = form;
    pthread_mutex_init(&ws->lock, NULL);
    ws->capacity = (size_t)keep + MAX_EMPTY + 3; /* base, live, and the one that comes */
    ws->versions = mal_calloc(ws->capacity, sizeof(struct version *));
    ws->sum = mal_backend_alloc(ws->be, sizeof *ws->sum);
    if (!ws->versions || !ws->sum) {
        mal_fail(err, MAL_NO_MEMORY, "weights");
        goto fail;
    }
    ws->versions[0] = make_base(ws, err);
    if (!ws->versions[0]) goto fail;
    ws->n_versions = 1;
    version_use(ws, live_version(ws));
    *out = ws;
    return true;

fail:
    mal_weights_destroy(ws);
    return false;
}

void mal_weights_destroy(struct mal_weights_state *ws) {
    if (!ws) return;
    if (ws->n_versions > 0) version_use(ws, ws->versions[0]);
    drop_prepared(ws);
    mal_version_free(ws, ws->held);
    for (size_t i = 0; i < ws->n_versions; i++)
        mal_version_free(ws, ws->versions[i]);
    mal_version_reap(ws);
    assert(!ws->leaving);
    pthread_mutex_destroy(&ws->lock);
    mal_backend_free(ws->be, ws->sum);
    mal_free(ws->versions);
    mal_free(ws);
}

/* ---- Reading ---- */

struct mal_model *mal_weights_model(const struct mal_weights_state *ws) {
    return ws->model;
}

enum mal_digest_form mal_weights_form(const struct mal_weights_state *ws) {
    return ws->form;
}

int64_t mal_weights_live(const struct mal_weights_state *ws) {
    return live_version(ws)->number;
}

bool mal_weights_has(const struct mal_weights_state *ws, int64_t version) {
    return find_version(ws, version);
}

struct mal_hash mal_weights_hash(const struct mal_weights_state *ws, int64_t version) {
    const struct version *v = find_version(ws, version);
    assert(v);
    return v->hash;
}

const struct mal_module_norms *mal_weights_norms(const struct mal_weights_state *ws,
                                                 int64_t version) {
    const struct version *v = find_version(ws, version);
    assert(v);
    return v->norms;
}

void mal_weights_use(struct mal_weights_state *ws, int64_t version) {
    const struct version *v = find_version(ws, version);
    assert(v);
    version_use(ws, v);
}

void mal_weights_lend(struct mal_weights_state *ws, int64_t version) {
    const struct version *v = find_version(ws, version);
    assert(v);
    mal_version_lend(ws, v, ws->model);
}

void mal_weights_give_back(struct mal_weights_state *ws) {
    mal_version_lend(ws, ws->in_use, ws->model);
}
