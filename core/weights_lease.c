/* weights_lease.c - versions that a second thread reads while the owner makes others. */
#include "core/weights_impl.h"

bool mal_weights_lease(struct mal_weights_state *ws, int64_t version,
                       struct mal_model *reader, struct mal_weights_lease *out,
                       struct mal_error *err) {
    pthread_mutex_lock(&ws->lock);
    struct version *v = version < 0 ? live_version(ws) : find_version(ws, version);
    if (v) v->leases++;
    pthread_mutex_unlock(&ws->lock);
    if (!v) {
        return mal_fail(err, MAL_NOT_FOUND, "version %lld is not in memory",
                        (long long)version);
    }
    mal_version_lend(ws, v, reader);
    *out = (struct mal_weights_lease){v->number, v};
    return true;
}

void mal_weights_end_lease(struct mal_weights_state *ws,
                           const struct mal_weights_lease *lease) {
    pthread_mutex_lock(&ws->lock);
    lease->version->leases--;
    pthread_mutex_unlock(&ws->lock);
}

void mal_version_evict(struct mal_weights_state *ws, struct version *v) {
    v->next = ws->leaving;
    ws->leaving = v;
    mal_version_reap(ws);
}

void mal_version_reap(struct mal_weights_state *ws) {
    struct version **p = &ws->leaving;
    while (*p) {
        struct version *v = *p;
        pthread_mutex_lock(&ws->lock);
        bool leased = v->leases > 0;
        pthread_mutex_unlock(&ws->lock);
        if (leased) {
            p = &v->next;
        } else {
            *p = v->next;
            mal_version_free(ws, v);
        }
    }
}
