/* weights_impl.h - planes and versions, for the files of weights_state.h. */
#ifndef MAL_WEIGHTS_IMPL_H
#define MAL_WEIGHTS_IMPL_H

#include <pthread.h>

#include "core/weights_state.h"

struct plane {
    int refs;
    float *t;             /* owned, as W is stored; NULL: zero, and w is the base's */
    void *w;              /* owned; NULL: linear->w0 */
    struct mal_hash hash; /* of W's bytes as in the checkpoint */
    double shift_norm, weight_norm;
};

struct version {
    int64_t number;
    struct plane **planes; /* (n_modules), each referenced */
    struct mal_hash hash;
    struct mal_module_norms *norms; /* (n_modules) */
    int leases;                     /* of other threads; under the state's lock */
    struct version *next;           /* among those that are leaving */
};

struct mal_weights_state {
    struct mal_model *model; /* borrowed */
    struct mal_backend *be;  /* borrowed */
    size_t n_modules;
    int keep;
    enum mal_digest_form form;
    /* What other threads look at: they read it, and its owner changes it, under the lock.
     */
    pthread_mutex_t lock;
    struct version **versions; /* in order of publishing: base, kept ones, live last */
    size_t n_versions, capacity;
    struct version *leaving;  /* evicted while leased: to be freed by the owner */
    struct version *prepared; /* NULL: none */
    struct version *held;     /* likewise */
    bool *fresh;              /* (n_modules) planes that are the prepared version's own */
    double *sum;              /* one on the device, for norms */
    double hash_seconds;      /* of the last version prepared */
    const struct version *in_use; /* what passes are to use */
};

static inline const struct mal_linear *module_at(const struct mal_weights_state *ws,
                                                 size_t m) {
    return mal_model_edit(ws->model, m);
}

static inline int64_t n_elements(const struct mal_linear *lin) {
    return lin->d_in * lin->d_out;
}

static inline const void *plane_weight(const struct plane *plane,
                                       const struct mal_linear *lin) {
    return plane->w ? plane->w : lin->w0;
}

static inline struct version *live_version(const struct mal_weights_state *ws) {
    return ws->versions[ws->n_versions - 1];
}

static inline struct version *find_version(const struct mal_weights_state *ws,
                                           int64_t number) {
    for (size_t i = 0; i < ws->n_versions; i++)
        if (ws->versions[i]->number == number) return ws->versions[i];
    return NULL;
}

/* Lets `model`, the state's or a reader's, use the version, without its being remembered
 * as what passes are to use. A module is that of the same index. */
void mal_version_lend(const struct mal_weights_state *ws, const struct version *v,
                      struct mal_model *model);

/* A version no longer among ws->versions: freed, at once or when its last lease ended.
 */
void mal_version_evict(struct mal_weights_state *ws, struct version *v);
/* Frees those evicted whose last lease has ended since. */
void mal_version_reap(struct mal_weights_state *ws);
void mal_version_free(struct mal_weights_state *ws, struct version *v); /* takes NULL */

/* T of the plane becomes `shift` (d_in, d_out), on the host, to the bit: 0 + x would lose
 * the sign of -0. */
bool mal_plane_set(struct mal_weights_state *ws, struct plane *plane,
                   const struct mal_linear *lin, const float *shift,
                   struct mal_error *err) MAL_CHECK;

#endif
