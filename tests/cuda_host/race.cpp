/* race.cpp - finds races: what two threads of a launch do to the same memory, one of them
 * writing, with nothing between that orders it. Kernels that are compiled with
 * -fsanitize=thread call the functions at the end before every access; this file takes
 * the place of that sanitizer's library.
 *
 * Of every two bytes of device and of shared memory a cell keeps who wrote them and who
 * read them last in this launch. In a block __syncthreads() orders, in a warp
 * __syncwarp() too (shuffles do not), between blocks nothing does. What is found does not
 * depend on the order in which the threads ran. Two threads that have one byte each of a
 * pair count as having the same. */
#include "internal.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PIECE = 2, WARP = 32, TEXT = 512 };

/* Who else has read since it could have been ordered before what is to come. */
enum many { ONE, LANES, WARPS, BLOCKS };

struct touched {
    uint32_t block, code; /* code: where in the program, from its beginning */
    uint16_t thread, n_barriers, n_syncs;
    uint8_t there, many;
};

struct cell {
    uint32_t run; /* the launch; for shared memory the block's run */
    touched write, read;
};

extern "C" const char __executable_start;

static cell *cells(size_t bytes) {
    void *mem =
        mmap(nullptr, bytes / PIECE * sizeof(cell) + sizeof(cell), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mem == MAP_FAILED)
        mal_host_stop("no addresses to tell races of %zu bytes", bytes);
    return (cell *)mem;
}

/* ---- Messages ---- */

/* The place in the source, and where it was inlined. */
static void place(uint32_t code, char *text) {
    char command[TEXT], exe[TEXT / 2];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    snprintf(text, TEXT, "+%#x", code);
    if (n <= 0) return;
    exe[n] = '\0';
    snprintf(command, sizeof command, "addr2line -i -e '%s' %#x 2>/dev/null", exe,
             code - 1);
    FILE *lines = popen(command, "r");
    size_t used = 0;
    char line[TEXT];
    while (lines && fgets(line, sizeof line, lines)) {
        line[strcspn(line, " \n")] = '\0';
        if (strstr(line, "device_code.h")) break; /* the launch */
        const char *name = line;
        for (const char *up; (up = strstr(name, "../"));) /* from where it was compiled */
            name = up + 3;
        int more = snprintf(text + used, TEXT - used, "%s%s", used ? " < " : "", name);
        if (used + (size_t)more >= TEXT) break;
        used += (size_t)more;
    }
    if (lines) pclose(lines);
}

[[noreturn]] static void race(const char *kind, const void *p, const touched *before,
                              bool wrote, const touched *now, bool writes) {
    char then_at[TEXT], now_at[TEXT];
    mal_host_tells = false; /* of what is needed to say so */
    place(before->code, then_at);
    place(now->code, now_at);
    mal_host_stop("race in %s memory at %p: thread %u of block %u %s it at %s, thread %u "
                  "of block %u %s it at %s, and nothing orders them",
                  kind, p, now->thread, now->block, writes ? "writes" : "reads", now_at,
                  before->thread, before->block, wrote ? "wrote" : "read", then_at);
}

/* ---- Order ---- */

static bool same_warp(const touched *a, const touched *b) {
    return a->thread / WARP == b->thread / WARP;
}

/* Whether all that `a` stands for comes before `b`. */
static bool ordered(const touched *a, const touched *b) {
    if (a->block != b->block || a->many == BLOCKS) return false;
    if (a->n_barriers < b->n_barriers) return true;
    if (a->many == WARPS || !same_warp(a, b)) return false;
    return a->n_syncs < b->n_syncs || (a->many == ONE && a->thread == b->thread);
}

/* Takes a read into those there were. */
static void join(touched *reads, const touched *now) {
    if (!reads->there || ordered(reads, now))
        *reads = *now;
    else if (reads->block != now->block || reads->many == BLOCKS)
        reads->many = BLOCKS;
    else if (!same_warp(reads, now) || reads->many == WARPS)
        reads->many = WARPS;
    else
        reads->many = LANES;
}

/* True: the first of the launch to do this there. */
static bool touch(const char *kind, cell *c, uint32_t run, const void *p,
                  const touched *now, bool writes) {
    if (c->run != run) {
        *c = {};
        c->run = run;
    }
    bool first = !(writes ? c->write : c->read).there;
    if (c->write.there && !ordered(&c->write, now))
        race(kind, p, &c->write, true, now, writes);
    if (!writes) {
        join(&c->read, now);
        return first;
    }
    if (c->read.there && !ordered(&c->read, now))
        race(kind, p, &c->read, false, now, writes);
    c->write = *now;
    c->read.there = 0;
    return first;
}

/* ---- Accesses ---- */

static cell *of_device, *of_dynamic, *of_static;
static const size_t MOST_DYNAMIC = 256 << 10;

static void make_cells() {
    of_device = cells(mal_host_device_bytes());
    of_dynamic = cells(MOST_DYNAMIC);
    of_static = cells((size_t)mal_host_shared_bytes());
}

/* A number of its own for every block that runs: shared memory begins anew. */
static uint32_t block_run(const mal_host_moment *m) {
    static uint64_t launch;
    static uint32_t block, run;
    if (launch != m->launch || block != m->block || run == 0) run++;
    launch = m->launch;
    block = m->block;
    return run;
}

static void tell(const void *p, size_t bytes, bool writes, const void *code) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    mal_host_moment m;
    if (!mal_host_tells || !mal_host_now(&m)) return;
    pthread_once(&once, make_cells);
    if (m.n_barriers > UINT16_MAX || m.n_syncs > UINT16_MAX)
        mal_host_stop("too many barriers for race.cpp to count");

    uint32_t run = (uint32_t)m.launch;
    int64_t at;
    cell *c;
    const char *kind = "shared";
    if ((at = mal_host_device_at(p)) >= 0) {
        kind = "device";
        c = of_device;
    } else {
        at = (const char *)p - m.shared;
        c = of_dynamic;
        if (at < 0 || at >= (int64_t)m.shared_bytes) {
            at = mal_host_shared_at(p);
            c = of_static;
        }
        if (at < 0) return; /* a thread's own */
        run = block_run(&m);
    }
    touched now = {m.block,
                   (uint32_t)((const char *)code - &__executable_start),
                   (uint16_t)m.thread,
                   (uint16_t)m.n_barriers,
                   (uint16_t)m.n_syncs,
                   1,
                   ONE};
    bool first = false;
    for (int64_t i = at / PIECE; i * PIECE < at + (int64_t)bytes; i++)
        first |= touch(kind, &c[i], run, p, &now, writes);
    if (first && c == of_device)
        mal_host_use_device(m.stream, p, bytes, writes ? MAL_HOST_WRITES : MAL_HOST_READS,
                            "a kernel");
}

/* ---- What the compiler calls ---- */

__attribute__((constructor)) static void begin() {
    mal_host_tells = true;
}

#define HERE __builtin_return_address(0)

#define ACCESSES(bytes)                           \
    void __tsan_read##bytes(void *p) {            \
        tell(p, bytes, false, HERE);              \
    }                                             \
    void __tsan_write##bytes(void *p) {           \
        tell(p, bytes, true, HERE);               \
    }                                             \
    void __tsan_unaligned_read##bytes(void *p) {  \
        tell(p, bytes, false, HERE);              \
    }                                             \
    void __tsan_unaligned_write##bytes(void *p) { \
        tell(p, bytes, true, HERE);               \
    }

extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(void *p, size_t bytes) {
    tell(p, bytes, false, HERE);
}

void __tsan_write_range(void *p, size_t bytes) {
    tell(p, bytes, true, HERE);
}

void __tsan_init() {}

void __tsan_func_entry(void *) {}

void __tsan_func_exit() {}

/* Of the host's part of a source. */
uint64_t __tsan_atomic64_fetch_add(volatile uint64_t *p, uint64_t more, int order) {
    (void)order;
    return __atomic_fetch_add(p, more, __ATOMIC_SEQ_CST);
}
}
