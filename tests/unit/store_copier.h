/* store_copier.h - a thread that copies a store's log, as the daemon's does. */
#ifndef MAL_STORE_COPIER_H
#define MAL_STORE_COPIER_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "store_fixture.h"

struct copier {
    struct mal_store *store;
    pthread_t thread;
    sem_t asked;
    _Atomic bool stop;
    struct mal_error err; /* of the first that failed */
};

static inline void copier_wake(void *arg) {
    sem_post(&((struct copier *)arg)->asked);
}

static inline void *copier_main(void *arg) {
    struct copier *copier = arg;
    while (copier->err.status == MAL_OK) {
        while (sem_wait(&copier->asked) != 0) {
        }
        if (atomic_load(&copier->stop)) break;
        if (!mal_store_copy_log(copier->store, &copier->err)) break;
    }
    return NULL;
}

static inline bool copier_start(struct copier *copier, struct mal_store *store,
                                struct mal_error *err) {
    *copier = (struct copier){.store = store};
    return sem_init(&copier->asked, 0, 0) == 0 &&
           mal_store_share_log(store, copier_wake, copier, err) &&
           pthread_create(&copier->thread, NULL, copier_main, copier) == 0;
}

static inline void copier_stop(struct copier *copier) {
    atomic_store(&copier->stop, true);
    sem_post(&copier->asked);
    pthread_join(copier->thread, NULL);
    sem_destroy(&copier->asked);
}

#endif
