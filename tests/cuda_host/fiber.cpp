/* fiber.cpp - stacks, and the switch from one to another.
 *
 * On x86-64 the switch saves the registers a call preserves and costs a few nanoseconds;
 * elsewhere it is swapcontext(), with its system calls. */
#include "internal.h"

#include <stdio.h>
#include <sys/mman.h>

#ifdef MAL_HOST_ASAN
#    include <sanitizer/asan_interface.h>
#    include <sanitizer/common_interface_defs.h>
#endif
#ifdef MAL_HOST_TSAN
#    include <sanitizer/tsan_interface.h>
#endif

enum { PAGE = 4096, SPREAD = 64 << 10 };

/* ---- The switch ---- */

#ifdef __x86_64__

extern "C" void mal_fiber_jump(void **save, void *to);
asm(".text\n"
    ".globl mal_fiber_jump\n"
    ".hidden mal_fiber_jump\n"
    ".type mal_fiber_jump, @function\n"
    "mal_fiber_jump:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size mal_fiber_jump, . - mal_fiber_jump\n");

/* As if entry() had been left by a jump at its very beginning. */
static void *first_frame(mal_fiber *fiber, size_t bytes, void (*entry)()) {
    void **top = (void **)(fiber->bottom + bytes);
    *--top = nullptr; /* where entry() would return to */
    *--top = (void *)entry;
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    return top;
}

static void jump(mal_fiber *from, mal_fiber *to) {
    mal_fiber_jump(&from->sp, to->sp);
}

#else
#    include <ucontext.h>

static ucontext_t *context(mal_fiber *fiber) {
    if (!fiber->sp) fiber->sp = calloc(1, sizeof(ucontext_t));
    if (!fiber->sp) mal_host_stop("no memory for a thread");
    return (ucontext_t *)fiber->sp;
}

static void *first_frame(mal_fiber *fiber, size_t bytes, void (*entry)()) {
    ucontext_t *c = context(fiber);
    getcontext(c);
    c->uc_stack.ss_sp = fiber->bottom;
    c->uc_stack.ss_size = bytes;
    makecontext(c, entry, 0);
    return c;
}

static void jump(mal_fiber *from, mal_fiber *to) {
    swapcontext(context(from), context(to));
}

#endif

/* ---- What the sanitizers are told ---- */

/* The stack that was left last, by this thread of the system. */
static __thread mal_fiber *left;

static void arrive(mal_fiber *fiber) {
#ifdef MAL_HOST_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(fiber->sanitizer, &bottom, &bytes);
    if (left && !left->bottom) {
        left->bottom = (char *)bottom;
        left->bytes = bytes;
    }
#endif
    (void)fiber;
}

struct start {
    mal_fiber *fiber;
    void (*entry)();
};

static __thread start starting;

static void begin() {
    start now = starting;
    arrive(now.fiber);
    now.entry();
}

void mal_fiber_switch(mal_fiber *from, mal_fiber *to, bool gone) {
    left = from;
    (void)gone;
#ifdef MAL_HOST_ASAN
    __sanitizer_start_switch_fiber(gone ? nullptr : &from->sanitizer, to->bottom,
                                   to->bytes);
#endif
#ifdef MAL_HOST_TSAN
    if (!from->sanitizer) from->sanitizer = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->sanitizer, 0);
#endif
    jump(from, to);
    arrive(from);
}

/* ---- Memory ---- */

void mal_fiber_begin(mal_fiber *fiber, void (*entry)(), int number) {
    if (!fiber->bottom) {
        char *mem = (char *)mmap(nullptr, PAGE + MAL_FIBER_BYTES, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mem == MAP_FAILED) mal_host_stop("no memory for a thread's stack");
        mprotect(mem, PAGE, PROT_NONE); /* it grows down: what is too deep crashes */
        fiber->bottom = mem + PAGE;
        fiber->bytes = MAL_FIBER_BYTES;
    }
#ifdef MAL_HOST_ASAN
    __asan_unpoison_memory_region(fiber->bottom, fiber->bytes);
    fiber->sanitizer = nullptr;
#endif
#ifdef MAL_HOST_TSAN
    if (!fiber->sanitizer) fiber->sanitizer = __tsan_create_fiber(0);
#endif
    starting = {fiber, entry};
    fiber->sp = first_frame(fiber, fiber->bytes - (size_t)number * 1088 % SPREAD, begin);
}
