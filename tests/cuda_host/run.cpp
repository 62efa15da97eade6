/* run.cpp - runs kernels: the threads of a block are fibers of one thread of the system.
 *
 * A thread runs until it has to wait for others; then its stack is left and another
 * thread goes on: one that need not wait any more, or one that has not begun, on a stack
 * of its own. Where nothing waits, all threads of a block run on one stack, one after the
 * other. The order in which threads begin jumps about in the block, in odd blocks
 * backwards, or is that of MAL_CUDA_HOST_ORDER, so that what misses a barrier shows.
 *
 * Blocks are spread over the threads of OpenMP. */
#include "internal.h"

#include <pthread.h>
#include <stdio.h>

__thread uint3 threadIdx, blockIdx;
__thread dim3 blockDim, gridDim;

enum {
    MAX_THREADS = 1024,
    WARP = 32,
    MAX_WARPS = MAX_THREADS / WARP,
    MAX_SHARED = 227 << 10,
    SHARED_GUARD = 256,
    SPREAD_THREADS = 4096 /* launches of fewer threads run where they are made */
};

/* What all blocks of a launch share. */
struct launch {
    dim3 grid, block;
    int64_t n_blocks;
    int n_threads, shared;
    void (*call)(const void *kernel);
    const void *kernel;
    uint64_t seed;
    int64_t step, first; /* the order of blocks */
    uint64_t number;     /* of the launch, from 1 */
    cudaStream_t stream;
};

/* A thread that waits, in which collective. */
struct waiter {
    int fiber;
    mal_host_collective kind;
    unsigned mask;
    mal_host_place place;
};

/* A collective that lanes of a warp wait in. */
struct meeting {
    unsigned mask, arrived;
    mal_host_collective kind;
    int width;
    mal_host_place place;
};

/* What is given to a collective, and what it gives. */
struct warp {
    meeting meetings[WARP]; /* at the lowest lane of the mask */
    uint64_t values[WARP], results[WARP];
    unsigned lanes[WARP];
    uint32_t n_syncs; /* __syncwarp() of all its lanes that have been passed */
};

struct runner {
    runner *next_idle;
    const launch *now;
    int64_t block;
    uint64_t random;

    /* Threads begin in the order first, first + step, ... modulo their number; or as
     * `order` has them. */
    int n_begun, begin_at, begin_step;
    uint16_t order[MAX_THREADS];
    int n_done;

    int thread, fiber; /* that run now; fiber 0 is the system's stack */
    mal_fiber fibers[MAX_THREADS + 1];
    uint16_t idle[MAX_THREADS + 1]; /* fibers that nothing runs on */
    int n_idle;

    uint16_t ready[MAX_THREADS]; /* a ring: threads that need not wait any more */
    unsigned ready_from, n_ready;

    waiter waiters[MAX_THREADS];
    uint16_t at_barrier[MAX_THREADS];
    int n_at_barrier;
    uint32_t n_barriers; /* that have been passed */
    warp warps[MAX_WARPS];

    char *shared;
};

static __thread runner *running;

/* ---- Messages ---- */

static const char *const collective_names[] = {
    "__syncthreads()",    "__syncwarp()",      "__shfl_sync()",  "__shfl_up_sync()",
    "__shfl_down_sync()", "__shfl_xor_sync()", "__ballot_sync()"};

static dim3 thread_at(const runner *r, int thread) {
    unsigned x = r->now->block.x, y = r->now->block.y, t = (unsigned)thread;
    return dim3(t % x, t / x % y, t / x / y);
}

static void describe(char *text, size_t bytes, const runner *r, int thread) {
    dim3 t = thread_at(r, thread);
    snprintf(text, bytes, "thread (%u,%u,%u) of block (%u,%u,%u)", t.x, t.y, t.z,
             blockIdx.x, blockIdx.y, blockIdx.z);
}

static bool same_place(mal_host_place a, mal_host_place b) {
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

[[noreturn]] static void differ(const runner *r, int a, int b) {
    const waiter *x = &r->waiters[a], *y = &r->waiters[b];
    char text[96];
    describe(text, sizeof text, r, a);
    dim3 t = thread_at(r, b);
    mal_host_stop(
        "%s is in %s at %s:%d (mask %08x), thread (%u,%u,%u) in %s at %s:%d (mask "
        "%08x): they wait for each other",
        text, collective_names[x->kind], x->place.file, x->place.line, x->mask, t.x, t.y,
        t.z, collective_names[y->kind], y->place.file, y->place.line, y->mask);
}

static bool waits(const runner *r, int thread) {
    const warp *w = &r->warps[thread / WARP];
    for (int i = 0; i < WARP; i++)
        if (w->meetings[i].arrived >> (thread % WARP) & 1) return true;
    for (int i = 0; i < r->n_at_barrier; i++)
        if (r->at_barrier[i] == thread) return true;
    return false;
}

/* Nothing can go on, but not all threads have returned. */
[[noreturn]] static void deadlock(const runner *r) {
    static bool told[MAX_THREADS];
    char text[1024];
    int n = r->now->n_threads, used = 0;
    for (int i = 0; i < n; i++) {
        if (told[i] || !waits(r, i)) continue;
        const waiter *w = &r->waiters[i];
        int same = 0;
        for (int j = i; j < n; j++) {
            const waiter *v = &r->waiters[j];
            if (!waits(r, j) || v->kind != w->kind || !same_place(v->place, w->place))
                continue;
            told[j] = true;
            same++;
        }
        dim3 t = thread_at(r, i);
        int more =
            snprintf(text + used, sizeof text - (size_t)used,
                     "; %d (such as (%u,%u,%u)) wait in %s at %s:%d", same, t.x, t.y, t.z,
                     collective_names[w->kind], w->place.file, w->place.line);
        used = used + more < (int)sizeof text ? used + more : (int)sizeof text - 1;
    }
    mal_host_stop("block (%u,%u,%u) does not end: of %d threads %d have returned%s",
                  blockIdx.x, blockIdx.y, blockIdx.z, n, r->n_done, used ? text : "");
}

/* ---- Orders ---- */

static uint64_t scramble(uint64_t x) {
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53u;
    return x ^ x >> 33;
}

static unsigned random_below(runner *r, unsigned n) {
    r->random = r->random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((r->random >> 33) % n);
}

static int64_t common_divisor(int64_t a, int64_t b) {
    while (b) {
        int64_t c = a % b;
        a = b;
        b = c;
    }
    return a;
}

/* About 0.618 n, and without a divisor in common with n. */
static int64_t step_through(int64_t n) {
    int64_t step = (int64_t)(0.618 * (double)n);
    if (step < 1) step = 1;
    while (common_divisor(step, n) != 1)
        step++;
    return step;
}

static void order_threads(runner *r) {
    const launch *l = r->now;
    int n = l->n_threads;
    if (l->seed) {
        r->random = scramble(l->seed ^ scramble((uint64_t)r->block));
        for (int i = 0; i < n; i++) {
            unsigned j = random_below(r, (unsigned)i + 1);
            r->order[i] = r->order[j];
            r->order[j] = (uint16_t)i;
        }
        return;
    }
    r->begin_step = (int)step_through(n) % n;
    if (r->block % 2) r->begin_step = n - r->begin_step;
    r->begin_at = (int)(r->block % n);
}

static int next_to_begin(runner *r) {
    if (r->now->seed) return r->order[r->n_begun++];
    int thread = r->begin_at, n = r->now->n_threads;
    r->begin_at += r->begin_step;
    if (r->begin_at >= n) r->begin_at -= n;
    r->n_begun++;
    return thread;
}

/* ---- Threads ---- */

static void make_ready(runner *r, int thread) {
    r->ready[(r->ready_from + r->n_ready++) % MAX_THREADS] = (uint16_t)thread;
}

static int take_ready(runner *r) {
    uint16_t *first = &r->ready[r->ready_from % MAX_THREADS];
    if (r->now->seed) {
        unsigned other = random_below(r, r->n_ready);
        uint16_t *at = &r->ready[(r->ready_from + other) % MAX_THREADS];
        uint16_t thread = *at;
        *at = *first;
        *first = thread;
    }
    r->ready_from++;
    r->n_ready--;
    return *first;
}

/* Whether a thread that waited goes on now, or one begins. */
static bool resumes(runner *r) {
    bool can_begin = r->n_begun < r->now->n_threads;
    if (r->n_ready == 0) {
        if (!can_begin) deadlock(r);
        return false;
    }
    return !can_begin || !r->now->seed || random_below(r, 2);
}

/* The thread begins. */
static void become(runner *r, int thread, int fiber) {
    r->thread = thread;
    r->fiber = fiber;
    dim3 block = r->now->block;
    if (block.y == 1 && block.z == 1) {
        threadIdx = {(unsigned)thread, 0, 0};
    } else {
        dim3 t = thread_at(r, thread);
        threadIdx = {t.x, t.y, t.z};
    }
}

/* Begins threads on the stack that runs, until others are to go on. Returns on fiber 0
 * only, when all threads have returned. */
static void work() {
    runner *r = running;
    int here = r->fiber, n = r->now->n_threads;
    for (;;) {
        if (r->n_done == n) {
            if (here == 0) return;
            r->idle[r->n_idle++] = (uint16_t)here;
            r->fiber = 0;
            mal_fiber_switch(&r->fibers[here], &r->fibers[0], true);
        } else if (resumes(r)) {
            int to = r->waiters[take_ready(r)].fiber;
            if (here) r->idle[r->n_idle++] = (uint16_t)here;
            mal_fiber_switch(&r->fibers[here], &r->fibers[to], here != 0);
        } else {
            become(r, next_to_begin(r), here);
            r->now->call(r->now->kernel);
            r->n_done++;
        }
    }
}

/* Leaves the thread that runs until make_ready() has been called for it. */
static void wait(runner *r) {
    int thread = r->thread, here = r->fiber, to;
    uint3 at = threadIdx;
    r->waiters[thread].fiber = here;
    if (resumes(r)) {
        to = r->waiters[take_ready(r)].fiber;
    } else {
        to = r->idle[--r->n_idle];
        r->fiber = to;
        mal_fiber_begin(&r->fibers[to], work, to);
    }
    if (to != here) mal_fiber_switch(&r->fibers[here], &r->fibers[to], false);
    r->thread = thread;
    r->fiber = here;
    threadIdx = at;
}

/* ---- Barriers and shuffles ---- */

static runner *inside(mal_host_collective kind) {
    if (!running) mal_host_stop("%s outside of a kernel", collective_names[kind]);
    return running;
}

void mal_host_sync_block(mal_host_place place) {
    runner *r = inside(MAL_HOST_SYNCTHREADS);
    int thread = r->thread;
    waiter *w = &r->waiters[thread];
    w->kind = MAL_HOST_SYNCTHREADS;
    w->mask = 0xffffffffu;
    w->place = place;
    if (r->n_at_barrier && !same_place(place, r->waiters[r->at_barrier[0]].place))
        differ(r, r->at_barrier[0], thread);
    if (r->n_at_barrier + 1 == r->now->n_threads) {
        for (int i = 0; i < r->n_at_barrier; i++)
            make_ready(r, r->at_barrier[i]);
        r->n_at_barrier = 0;
        r->n_barriers++;
        return;
    }
    r->at_barrier[r->n_at_barrier++] = (uint16_t)thread;
    wait(r);
}

/* The lane whose value `lane` is given. */
static int source_of(const warp *w, const meeting *m, int lane) {
    int base = lane & ~(m->width - 1);
    unsigned by = w->lanes[lane];
    switch (m->kind) {
    case MAL_HOST_SHFL: return base | (int)(by & (unsigned)(m->width - 1));
    case MAL_HOST_SHFL_UP: return by <= (unsigned)(lane - base) ? lane - (int)by : lane;
    case MAL_HOST_SHFL_DOWN:
        return by < (unsigned)(base + m->width - lane) ? lane + (int)by : lane;
    default:
        return (lane ^ (int)(by & 31)) < base + m->width ? lane ^ (int)(by & 31) : lane;
    }
}

/* All lanes are there: what each is given. */
static void exchange(warp *w, const meeting *m) {
    uint64_t votes = 0;
    if (m->kind == MAL_HOST_BALLOT) {
        for (unsigned left = m->mask; left; left &= left - 1)
            votes |= w->values[__builtin_ctz(left)] << __builtin_ctz(left);
        for (unsigned left = m->mask; left; left &= left - 1)
            w->results[__builtin_ctz(left)] = votes;
    } else if (m->kind != MAL_HOST_SYNCWARP) {
        for (unsigned left = m->mask; left; left &= left - 1) {
            int lane = __builtin_ctz(left), from = source_of(w, m, lane);
            /* from a lane that takes no part: anything */
            w->results[lane] = m->mask >> from & 1 ? w->values[from] : UINT64_MAX;
        }
    }
}

[[noreturn]] static void bad_mask(const runner *r, mal_host_collective kind,
                                  unsigned mask, bool own, mal_host_place place) {
    char text[96];
    describe(text, sizeof text, r, r->thread);
    mal_host_stop("%s at %s:%d, %s: mask %08x %s", collective_names[kind], place.file,
                  place.line, text, mask,
                  own ? "names lanes that the block does not have" : "leaves itself out");
}

uint64_t mal_host_sync_warp(mal_host_collective kind, unsigned mask, uint64_t value,
                            unsigned lane, int width, mal_host_place place) {
    runner *r = inside(kind);
    int thread = r->thread, first = thread / WARP * WARP, n = r->now->n_threads - first;
    unsigned bit = 1u << (thread - first), there = n >= WARP ? ~0u : (1u << n) - 1;
    if (!(mask & bit) || (mask & ~there)) bad_mask(r, kind, mask, mask & bit, place);
    if (width < 1 || width > WARP || (width & (width - 1)))
        mal_host_stop("%s at %s:%d: width %d", collective_names[kind], place.file,
                      place.line, width);

    warp *w = &r->warps[first / WARP];
    meeting *m = &w->meetings[__builtin_ctz(mask)];
    waiter *self = &r->waiters[thread];
    self->kind = kind;
    self->mask = mask;
    self->place = place;
    w->values[thread - first] = value;
    w->lanes[thread - first] = lane;
    if (m->arrived == 0)
        *m = {mask, 0, kind, width, place};
    else if (m->mask != mask || m->kind != kind || m->width != width ||
             !same_place(m->place, place))
        differ(r, first + __builtin_ctz(m->arrived), thread);
    m->arrived |= bit;
    if (m->arrived != mask) {
        wait(r);
    } else {
        for (unsigned left = mask & ~bit; left; left &= left - 1)
            make_ready(r, first + __builtin_ctz(left));
        m->arrived = 0;
        if (kind == MAL_HOST_SYNCWARP && mask == there) w->n_syncs++;
        exchange(w, m);
    }
    return w->results[thread - first];
}

/* ---- Shared memory ---- */

void *mal_host_shared() {
    if (!running) mal_host_stop("shared memory outside of a kernel");
    return running->shared;
}

static void check_guard(const runner *r) {
    const unsigned char *guard = (const unsigned char *)r->shared + r->now->shared;
    unsigned changed = 0;
    for (int i = 0; i < SHARED_GUARD; i++)
        changed |= guard[i] ^ 0xa5u;
    if (changed)
        mal_host_stop("block (%u,%u,%u) wrote behind its %d bytes of shared memory",
                      blockIdx.x, blockIdx.y, blockIdx.z, r->now->shared);
}

/* ---- Blocks ---- */

static pthread_mutex_t idle_lock = PTHREAD_MUTEX_INITIALIZER;
static runner *idle_runners;

static runner *take_runner() {
    pthread_mutex_lock(&idle_lock);
    runner *r = idle_runners;
    if (r) idle_runners = r->next_idle;
    pthread_mutex_unlock(&idle_lock);
    if (r) return r;
    r = (runner *)calloc(1, sizeof *r);
    void *shared = nullptr;
    if (!r || posix_memalign(&shared, 128, MAX_SHARED + SHARED_GUARD) != 0)
        mal_host_stop("no memory to run a block in");
    r->shared = (char *)shared;
    for (int i = MAX_THREADS; i > 0; i--)
        r->idle[r->n_idle++] = (uint16_t)i;
    return r;
}

static void give_runner(runner *r) {
    r->fibers[0] = {};
    pthread_mutex_lock(&idle_lock);
    r->next_idle = idle_runners;
    idle_runners = r;
    pthread_mutex_unlock(&idle_lock);
}

static void run_block(runner *r, int64_t block) {
    const launch *l = r->now;
    r->block = block;
    unsigned x = l->grid.x, y = l->grid.y, b = (unsigned)(block % ((int64_t)x * y));
    blockIdx = {b % x, b / x, (unsigned)(block / ((int64_t)x * y))};
    r->n_begun = r->n_done = 0;
    order_threads(r);
    r->n_barriers = 0;
    for (int i = 0; i < MAX_WARPS; i++)
        r->warps[i].n_syncs = 0;
    if (l->seed) mal_host_spoil_shared();
    memset(r->shared, 0xff, (size_t)l->shared);
    memset(r->shared + l->shared, 0xa5, SHARED_GUARD);
    r->fiber = 0;
    work();
    check_guard(r);
}

static void run_blocks(const launch *l) {
    bool spread = l->n_blocks > 1 && l->n_blocks * l->n_threads >= SPREAD_THREADS &&
                  !mal_host_tells;
    (void)spread;
#pragma omp parallel if (spread)
    {
        runner *r = take_runner();
        r->now = l;
        running = r;
        gridDim = l->grid;
        blockDim = l->block;
        mal_host_spoil_shared();
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < l->n_blocks; i++)
            run_block(r, (int64_t)(((unsigned __int128)i * (uint64_t)l->step +
                                    (uint64_t)l->first) %
                                   (uint64_t)l->n_blocks));
        running = nullptr;
        give_runner(r);
    }
}

/* ---- Races ---- */

bool mal_host_tells;

bool mal_host_now(mal_host_moment *m) {
    const runner *r = running;
    if (!r) return false;
    m->launch = r->now->number;
    m->stream = r->now->stream;
    m->block = (uint32_t)r->block;
    m->thread = (uint32_t)r->thread;
    m->n_barriers = r->n_barriers;
    m->n_syncs = r->warps[r->thread / WARP].n_syncs;
    m->shared = r->shared;
    m->shared_bytes = (size_t)r->now->shared;
    return true;
}

/* ---- Launches ---- */

static int most_shared = 48 << 10;
static uint64_t n_launches;

cudaError_t cudaFuncSetAttribute(const void *func, enum cudaFuncAttribute attr,
                                 int value) {
    if (!func) return mal_host_error(cudaErrorInvalidDeviceFunction);
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > MAX_SHARED) return mal_host_error(cudaErrorInvalidValue);
    /* a launch does not say which function it is of: it holds for all */
    if (value > most_shared) most_shared = value;
    return cudaSuccess;
}

static bool allowed(int64_t grid_x, dim3 grid, int64_t block_x, dim3 block,
                    int64_t shared) {
    return grid_x >= 1 && grid_x <= INT32_MAX && grid.y >= 1 && grid.y <= 65535 &&
           grid.z >= 1 && grid.z <= 65535 && block_x >= 1 && block_x <= MAX_THREADS &&
           block.y >= 1 && block.y <= MAX_THREADS && block.z >= 1 && block.z <= 64 &&
           (uint64_t)block.x * block.y * block.z <= MAX_THREADS && shared >= 0 &&
           shared <= most_shared;
}

void mal_host_run(int64_t grid_x, dim3 grid, int64_t block_x, dim3 block, int64_t shared,
                  cudaStream_t stream, void (*call)(const void *kernel),
                  const void *kernel) {
    if (running) mal_host_stop("a kernel launches a kernel");
    if (!mal_host_is_stream(stream)) {
        mal_host_error(cudaErrorInvalidResourceHandle);
        return;
    }
    if (!allowed(grid_x, grid, block_x, block, shared)) {
        mal_host_error(cudaErrorInvalidConfiguration);
        return;
    }
    launch l = {};
    l.grid = grid;
    l.block = block;
    l.n_blocks = (int64_t)grid.x * grid.y * grid.z;
    l.n_threads = (int)(block.x * block.y * block.z);
    l.shared = (int)shared;
    l.call = call;
    l.kernel = kernel;
    l.step = 1;
    uint64_t n = __atomic_fetch_add(&n_launches, 1, __ATOMIC_RELAXED),
             seed = mal_host_order();
    l.number = n + 1;
    l.stream = stream;
    if (seed) {
        l.seed = scramble(seed + n) | 1;
        l.step = step_through(l.n_blocks);
        l.first = (int64_t)(l.seed % (uint64_t)l.n_blocks);
    }
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
    if (mal_host_tells) pthread_mutex_lock(&one);
    mal_host_access access;
    run_blocks(&l);
    if (mal_host_tells) pthread_mutex_unlock(&one);
}
