/* pool.c - a queue of tasks and the threads behind it. */
#include "daemon/base/pool.h"

#include <pthread.h>

#include "core/alloc.h"
#include "core/json.h"

struct mal_pool {
    pthread_mutex_t lock;
    pthread_cond_t asked;
    struct mal_task *first, **last;
    bool stop;
    size_t n_threads;
    pthread_t threads[];
};

static void *pool_main(void *arg) {
    struct mal_pool *pool = arg;
    pthread_mutex_lock(&pool->lock);
    while (true) {
        struct mal_task *task = pool->first;
        if (task) {
            pool->first = task->next;
            if (!pool->first) pool->last = &pool->first;
            pthread_mutex_unlock(&pool->lock);
            (void)mal_json_lacked();
            task->run(task->arg);
            pthread_mutex_lock(&pool->lock);
        } else if (pool->stop) {
            break;
        } else {
            pthread_cond_wait(&pool->asked, &pool->lock);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

bool mal_pool_create(struct mal_pool **out, size_t n_threads, struct mal_error *err) {
    struct mal_pool *pool = mal_calloc(1, sizeof *pool + n_threads * sizeof(pthread_t));
    if (!pool) return mal_fail(err, MAL_NO_MEMORY, "work threads");
    pool->last = &pool->first;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->asked, NULL);
    while (pool->n_threads < n_threads) {
        if (pthread_create(&pool->threads[pool->n_threads], NULL, pool_main, pool)) {
            mal_pool_destroy(pool);
            return mal_fail(err, MAL_NO_MEMORY, "work threads");
        }
        pool->n_threads++;
    }
    *out = pool;
    return true;
}

void mal_pool_destroy(struct mal_pool *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->asked);
    pthread_mutex_unlock(&pool->lock);
    for (size_t i = 0; i < pool->n_threads; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->asked);
    pthread_mutex_destroy(&pool->lock);
    mal_free(pool);
}

void mal_pool_add(struct mal_pool *pool, struct mal_task *task) {
    task->next = NULL;
    pthread_mutex_lock(&pool->lock);
    *pool->last = task;
    pool->last = &task->next;
    pthread_cond_signal(&pool->asked);
    pthread_mutex_unlock(&pool->lock);
}
