/* streams.cpp - streams, and what two of them do to the same memory: what one has written
 * another may use, and what one has used another may write or free, once the host has
 * waited for the one. Kernels tell of what they use only with race.cpp.
 *
 * Everything is done when its call returns, so this is about what was promised, not about
 * what happened. Of a wait it is not asked which thread waited, and of an allocation not
 * which part of it. */
#include "internal.h"

struct CUstream_st {
    uint64_t sign; /* that it is one, and lives */
    int index;     /* of the stream; 0: the one that is nobody's */
};

static const uint64_t STREAM = 0x6d616c7374726d31u;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool taken[MAL_HOST_STREAMS] = {true};
static uint64_t n_uses, waited[MAL_HOST_STREAMS]; /* up to which use of that stream */

bool mal_host_is_stream(cudaStream_t stream) {
    return !stream || stream->sign == STREAM;
}

int mal_host_index(cudaStream_t stream) {
    return stream ? stream->index : 0;
}

/* ---- What they use ---- */

void mal_host_waited(cudaStream_t stream) {
    pthread_mutex_lock(&lock);
    waited[mal_host_index(stream)] = n_uses;
    pthread_mutex_unlock(&lock);
}

void mal_host_waited_for_all() {
    pthread_mutex_lock(&lock);
    for (uint64_t &of_one : waited)
        of_one = n_uses;
    pthread_mutex_unlock(&lock);
}

void mal_host_join_uses(mal_host_uses *uses, cudaStream_t stream, mal_host_how how,
                        const char *what) {
    int self = mal_host_index(stream);
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAL_HOST_STREAMS; i++) {
        bool wrote = uses->wrote[i] > waited[i], read = uses->read[i] > waited[i];
        if (i != self && (wrote || (read && how == MAL_HOST_WRITES)))
            mal_host_stop("%s on stream %d %s memory that stream %d %s, and the host has "
                          "not waited for that",
                          what, self,
                          how == MAL_HOST_WRITES ? "writes or frees" : "reads", i,
                          wrote ? "writes" : "reads");
    }
    n_uses++;
    (how == MAL_HOST_WRITES ? uses->wrote : uses->read)[self] = n_uses;
    pthread_mutex_unlock(&lock);
}

/* ---- The runtime's functions ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *pStream, unsigned int flags) {
    if (!pStream || flags > cudaStreamNonBlocking)
        return mal_host_error(cudaErrorInvalidValue);
    cudaStream_t stream = (cudaStream_t)malloc(sizeof *stream);
    if (!stream) return mal_host_error(cudaErrorMemoryAllocation);
    int index = 0;
    pthread_mutex_lock(&lock);
    while (index < MAL_HOST_STREAMS && taken[index])
        index++;
    if (index == MAL_HOST_STREAMS) mal_host_stop("too many streams for streams.cpp");
    taken[index] = true;
    waited[index] = n_uses;
    pthread_mutex_unlock(&lock);
    *stream = {STREAM, index};
    *pStream = stream;
    return cudaSuccess;
}

enum { LEAST_PRIORITY = 0, GREATEST_PRIORITY = -5 };

cudaError_t cudaDeviceGetStreamPriorityRange(int *leastPriority, int *greatestPriority) {
    *leastPriority = LEAST_PRIORITY;
    *greatestPriority = GREATEST_PRIORITY;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *pStream, unsigned int flags,
                                         int priority) {
    if (priority > LEAST_PRIORITY || priority < GREATEST_PRIORITY)
        return mal_host_error(cudaErrorInvalidValue);
    return cudaStreamCreateWithFlags(pStream, flags);
}

cudaError_t cudaStreamCreate(cudaStream_t *pStream) {
    return cudaStreamCreateWithFlags(pStream, cudaStreamDefault);
}

/* What it has begun is done as far as anybody can tell: who destroys it has waited. */
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    if (!stream || !mal_host_is_stream(stream))
        return mal_host_error(cudaErrorInvalidResourceHandle);
    pthread_mutex_lock(&lock);
    waited[stream->index] = n_uses;
    taken[stream->index] = false;
    pthread_mutex_unlock(&lock);
    stream->sign = 0;
    free(stream);
    return cudaSuccess;
}

void mal_host_wait_for(cudaStream_t stream) {
    mal_host_late_wait(stream, mal_host_late_now());
    mal_host_waited(stream);
    mal_host_pool_wait();
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (!mal_host_is_stream(stream))
        return mal_host_error(cudaErrorInvalidResourceHandle);
    mal_host_wait_for(stream);
    return cudaSuccess;
}

/* A copy that the host has not waited for is found done the second time it is asked for.
 */
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    if (!mal_host_is_stream(stream))
        return mal_host_error(cudaErrorInvalidResourceHandle);
    bool pending = mal_host_late_pending(stream, mal_host_late_now());
    mal_host_wait_for(stream);
    return pending ? cudaErrorNotReady : cudaSuccess;
}
