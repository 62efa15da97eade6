/* fingerprint.c - the identity of a checkpoint: hashes of its tensors, made in parallel.
 */
#include "core/checkpoint.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <omp.h>

#include "core/alloc.h"

enum { SLICE_BYTES = 1 << 20, MAX_THREADS = 64 };

struct item {
    size_t i; /* of the tensor in the checkpoint */
    uint64_t bytes;
};

struct work {
    const struct mal_checkpoint *ckpt;
    size_t n;
    struct item
        *order; /* (n) longest first, so that no thread is left with one at the end */
    struct mal_hash *hashes; /* (n) of the checkpoint's tensors */
    atomic_size_t next;
    atomic_bool stop;
    pthread_mutex_t lock; /* of the error */
    struct mal_error *err;
};

static bool hash_tensor(const struct mal_checkpoint_tensor *t, struct mal_hasher *hasher,
                        void *slice, struct mal_hash *out, struct mal_error *err) {
    for (uint64_t done = 0; done < t->tensor->bytes;) {
        uint64_t left = t->tensor->bytes - done;
        size_t bytes = left < SLICE_BYTES ? (size_t)left : SLICE_BYTES;
        if (!mal_safetensors_read(t->file, t->tensor, done, slice, bytes, err))
            return false;
        mal_hasher_add(hasher, slice, bytes);
        done += bytes;
    }
    *out = mal_hasher_end(hasher);
    return true;
}

static bool hash_tensors(struct work *w, struct mal_error *err) {
    struct mal_hasher *hasher = NULL;
    void *slice = mal_malloc(SLICE_BYTES);
    bool ok = slice ? mal_hasher_create(&hasher, err)
                    : mal_fail(err, MAL_NO_MEMORY, "fingerprint");
    while (ok && !atomic_load(&w->stop)) {
        size_t next = atomic_fetch_add(&w->next, 1);
        if (next >= w->n) break;
        size_t i = w->order[next].i;
        struct mal_checkpoint_tensor t = mal_checkpoint_at(w->ckpt, i);
        ok = hash_tensor(&t, hasher, slice, &w->hashes[i], err);
    }
    mal_hasher_destroy(hasher);
    mal_free(slice);
    return ok;
}

static void *run(void *arg) {
    struct work *w = arg;
    struct mal_error err = {0};
    if (!hash_tensors(w, &err)) {
        atomic_store(&w->stop, true);
        pthread_mutex_lock(&w->lock);
        mal_fail(w->err, err.status, "%s", err.text);
        pthread_mutex_unlock(&w->lock);
    }
    return NULL;
}

static int longest_first(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return x->i < y->i ? -1 : x->i > y->i;
}

/* The calling thread works too; where no other can be started it does all. */
static bool run_threads(struct work *w) {
    pthread_t threads[MAX_THREADS];
    int n_threads = omp_get_max_threads() - 1, started = 0;
    if (n_threads > MAX_THREADS) n_threads = MAX_THREADS;
    while (started < n_threads && pthread_create(&threads[started], NULL, run, w) == 0)
        started++;
    run(w);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return w->err->status == MAL_OK;
}

static bool combine(const struct work *w, struct mal_hash *out) {
    struct mal_hasher *hasher;
    if (!mal_hasher_create(&hasher, w->err)) return false;
    for (size_t i = 0; i < w->n; i++) {
        const struct mal_st_tensor *t = mal_checkpoint_at(w->ckpt, i).tensor;
        mal_hasher_add_text(hasher, t->name);
        mal_hasher_add_text(hasher, mal_dtype_name(t->dtype));
        mal_hasher_add_u64(hasher, (uint64_t)t->n_dims);
        for (int d = 0; d < t->n_dims; d++)
            mal_hasher_add_u64(hasher, (uint64_t)t->shape[d]);
        mal_hasher_add(hasher, w->hashes[i].bytes, sizeof w->hashes[i].bytes);
    }
    *out = mal_hasher_end(hasher);
    mal_hasher_destroy(hasher);
    return true;
}

bool mal_checkpoint_fingerprint(const struct mal_checkpoint *ckpt, struct mal_hash *out,
                                struct mal_error *err) {
    struct work w = {.ckpt = ckpt,
                     .n = mal_checkpoint_count(ckpt),
                     .err = err,
                     .lock = PTHREAD_MUTEX_INITIALIZER};
    w.order = mal_calloc(w.n, sizeof *w.order);
    w.hashes = mal_calloc(w.n, sizeof *w.hashes);
    bool ok = w.order && w.hashes;
    if (!ok) mal_fail(err, MAL_NO_MEMORY, "fingerprint");
    for (size_t i = 0; ok && i < w.n; i++)
        w.order[i] = (struct item){i, mal_checkpoint_at(ckpt, i).tensor->bytes};
    if (ok) qsort(w.order, w.n, sizeof *w.order, longest_first);
    ok = ok && run_threads(&w) && combine(&w, out);
    mal_free(w.order);
    mal_free(w.hashes);
    pthread_mutex_destroy(&w.lock);
    return ok;
}
