/* test_kernels.c - which of OpenBLAS' kernels are used where it does not know the
 * processor. Each case in a process of its own: the choice is made once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/backend.h"
#include "core/cpu/blas.h"

void gotoblas_dynamic_init(void) __attribute__((weak));
void gotoblas_dynamic_quit(void) __attribute__((weak));

static const char variable[] = "OPENBLAS_CORETYPE";

static void begin_with(const char *kernels) {
    setenv(variable, kernels, 1);
    gotoblas_dynamic_quit();
    gotoblas_dynamic_init();
    unsetenv(variable);
}

/* As if the library were older than the processor. */
static void know_nothing(void) {
    begin_with("PRESCOTT");
}

static bool is_fallback(void) {
    return strcmp(openblas_get_corename(), "Prescott") == 0;
}

static bool has_avx2(void) {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return false;
#endif
}

static bool is_chosen(void) {
    know_nothing();
    mal_cpu_choose_kernels();
    return is_fallback() != has_avx2() && !getenv(variable);
}

static bool is_chosen_with_the_device(void) {
    struct mal_backend *be;
    struct mal_error err = {0};
    know_nothing();
    if (!mal_backend_create(&be, "cpu", &err)) return false;
    bool named = strstr(mal_backend_describe(be), "Prescott") != NULL;
    mal_backend_destroy(be);
    return named != has_avx2();
}

static bool is_left_to_who_says(void) {
    know_nothing();
    setenv(variable, "PRESCOTT", 1);
    mal_cpu_choose_kernels();
    return is_fallback() && strcmp(getenv(variable), "PRESCOTT") == 0;
}

static bool is_left_as_it_is(void) {
    begin_with("NEHALEM");
    mal_cpu_choose_kernels();
    return strcmp(openblas_get_corename(), "Nehalem") == 0;
}

static void assert_in_child(bool (*holds)(void)) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) _exit(holds() ? 0 : 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void newer_processor(void **state) {
    assert_in_child(is_chosen);
}

static void newer_processor_of_a_device(void **state) {
    assert_in_child(is_chosen_with_the_device);
}

static void given_kernels(void **state) {
    assert_in_child(is_left_to_who_says);
}

static void known_processor(void **state) {
    assert_in_child(is_left_as_it_is);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(newer_processor),
        cmocka_unit_test(newer_processor_of_a_device),
        cmocka_unit_test(given_kernels),
        cmocka_unit_test(known_processor),
    };
    if (!gotoblas_dynamic_init || !gotoblas_dynamic_quit) {
        puts("1..0 # SKIP this OpenBLAS has kernels of one kind");
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
