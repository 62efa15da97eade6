/* weights_state.h - the edited weights of a model, version by version (core/README.md
 * section 4).
 *
 * Per edit module: the base weight W0 (in the model, untouched), an fp32 accumulator T of
 * all deltas of the live version in order, and W = round(W0 + T) in the checkpoint's
 * dtype. An edited bias is one more module, (1, d_out). A change is prepared on shadow
 * memory and published by swapping pointers; recent versions stay in memory and can be
 * read or returned to. Owned by one thread, the model's; another one may hold versions
 * and read them. */
#ifndef MAL_WEIGHTS_STATE_H
#define MAL_WEIGHTS_STATE_H

#include "core/delta.h"
#include "core/model/model.h"
#include "core/weights_digest.h"

struct mal_weights_state;

/* Norms of one edit module in a version. */
struct mal_module_norms {
    const char *module; /* borrowed from the model */
    double shift_norm;  /* ||T||_F */
    double weight_norm; /* ||W||_F */
};

/* Version 0: the base. `model` must have its edit modules set; it is borrowed. Keeps at
 * most `keep` versions beside live and base (a version whose weights equal the base's
 * costs nothing). */
bool mal_weights_create(struct mal_weights_state **out, struct mal_model *model, int keep,
                        struct mal_error *err) MAL_CHECK;
/* The same where versions are hashed as an older database has them. */
bool mal_weights_create_in_form(struct mal_weights_state **out, struct mal_model *model,
                                int keep, enum mal_digest_form form,
                                struct mal_error *err) MAL_CHECK;
void mal_weights_destroy(
    struct mal_weights_state *ws); /* takes NULL; the model reads base again */

struct mal_model *mal_weights_model(const struct mal_weights_state *ws);
enum mal_digest_form mal_weights_form(const struct mal_weights_state *ws);
int64_t mal_weights_live(const struct mal_weights_state *ws);
bool mal_weights_has(const struct mal_weights_state *ws, int64_t version);
/* Hash and norms of a version in memory. */
struct mal_hash mal_weights_hash(const struct mal_weights_state *ws, int64_t version);
const struct mal_module_norms *mal_weights_norms(const struct mal_weights_state *ws,
                                                 int64_t version);

/* Lets the model's passes use the weights of `version`, which must be in memory. */
void mal_weights_use(struct mal_weights_state *ws, int64_t version);
/* The same for a read in the midst of something else, until mal_weights_give_back() lets
 * the passes use again what they used before. */
void mal_weights_lend(struct mal_weights_state *ws, int64_t version);
void mal_weights_give_back(struct mal_weights_state *ws);

/* ---- For a second thread ---- */

struct version;

/* A version that stays in memory until it is let go, whatever is published meanwhile. */
struct mal_weights_lease {
    int64_t number;
    struct version *version;
};

/* Lets the passes of `reader`, which shares the state's model (mal_model_share()), use
 * the weights of a version; -1: of the live one. MAL_NOT_FOUND: it is not in memory. Any
 * thread, as is the next. */
bool mal_weights_lease(struct mal_weights_state *ws, int64_t version,
                       struct mal_model *reader, struct mal_weights_lease *out,
                       struct mal_error *err) MAL_CHECK;
/* When the passes' results are there. */
void mal_weights_end_lease(struct mal_weights_state *ws,
                           const struct mal_weights_lease *lease);

/* ---- Changes ---- */

/* Prepares the successor of live on shadow memory: T + delta, rounded, hashed, norms
 * measured. A NaN or infinite weight is MAL_NUMERIC naming the module; an error leaves
 * all as it was. At most one successor is prepared at a time. `tick` (may be NULL) is
 * called between modules. */
bool mal_weights_prepare(struct mal_weights_state *ws, const struct mal_delta *delta,
                         void (*tick)(void *), void *tick_arg,
                         struct mal_error *err) MAL_CHECK;
/* The same in two steps: mal_weights_try() makes weights that passes can use but no hash
 * and no norms, in place of what was prepared before, so that several deltas can be tried
 * cheaply; mal_weights_seal() adds those, after which it is prepared. The delta is added
 * to the version `from`, which is in memory: live, or the base. */
bool mal_weights_try(struct mal_weights_state *ws, int64_t from,
                     const struct mal_delta *delta, void (*tick)(void *), void *tick_arg,
                     struct mal_error *err) MAL_CHECK;
bool mal_weights_seal(struct mal_weights_state *ws, void (*tick)(void *), void *tick_arg,
                      struct mal_error *err) MAL_CHECK;
/* Prepares a successor with the weights of `version`, which is in memory. */
bool mal_weights_prepare_return(struct mal_weights_state *ws, int64_t version,
                                struct mal_error *err) MAL_CHECK;

/* A version built anew from the base: `n` deltas, given one at a time by `next` and
 * finished by the callee of prepare. The first `n_set` are parts of a keyframe: T itself
 * of their modules, dense; the others are added in order. */
struct mal_replay {
    size_t n_set, n;
    bool (*next)(void *arg, size_t i, struct mal_delta *out, struct mal_error *err);
    void *arg;
};

bool mal_weights_prepare_replay(struct mal_weights_state *ws,
                                const struct mal_replay *replay, void (*tick)(void *),
                                void *tick_arg, struct mal_error *err) MAL_CHECK;
/* T of the prepared version as a keyframe: dense parts, sorted, of the modules that are
 * not the base's; a module that is has none, as W0 + 0 is not always W0 (-0). *out owned.
 */
bool mal_weights_read_keyframe(struct mal_weights_state *ws, void (*tick)(void *),
                               void *tick_arg, struct mal_delta *out,
                               struct mal_error *err) MAL_CHECK;
struct mal_hash mal_weights_prepared_hash(const struct mal_weights_state *ws);
/* How much of the last preparation was hashing. */
double mal_weights_hash_seconds(const struct mal_weights_state *ws);
const struct mal_module_norms *
mal_weights_prepared_norms(const struct mal_weights_state *ws);
/* Lets the passes use the prepared weights (to measure them before publishing). */
void mal_weights_use_prepared(struct mal_weights_state *ws);
/* The prepared weights become live as `version`; the oldest kept version may leave
 * memory. */
void mal_weights_publish(struct mal_weights_state *ws, int64_t version);
void mal_weights_discard(struct mal_weights_state *ws); /* forget what was prepared */

/* The prepared weights are held apart, whatever is prepared and published from then on,
 * until they are let go. One such set at a time. */
void mal_weights_hold(struct mal_weights_state *ws);
void mal_weights_use_held(struct mal_weights_state *ws);
void mal_weights_let_go(struct mal_weights_state *ws);

/* The live T of an edit module on the device, oriented as its weight in the checkpoint,
 * until the next publication; NULL: zero. */
const float *mal_weights_shift(const struct mal_weights_state *ws, size_t module);
/* The live T of an edit module (d_in, d_out) to host memory, for exports and shadows. */
bool mal_weights_read_shift(struct mal_weights_state *ws, size_t module, float *out,
                            struct mal_error *err) MAL_CHECK;
/* W of an edit module in a version in memory, fp32, in the checkpoint's orientation. */
bool mal_weights_read(struct mal_weights_state *ws, int64_t version, size_t module,
                      float *out, struct mal_error *err) MAL_CHECK;

#endif
