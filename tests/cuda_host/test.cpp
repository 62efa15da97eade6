/* test.cpp - what runs a test, and tries what ends the program. */
#include "test.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

bool failed;
static int n_tests, n_failed;

void test(const char *name, void (*run)()) {
    failed = false;
    run();
    n_failed += failed;
    printf("%s %d - %s\n", failed ? "not ok" : "ok", ++n_tests, name);
    fflush(stdout);
}

bool any_failed() {
    return n_failed != 0;
}

bool ends_well(void (*run)(), char *text, size_t bytes) {
    int ends[2], status = 0;
    size_t n = 0;
    ssize_t more;
    fflush(stdout);
    if (pipe(ends) != 0) return false;
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        run();
        fflush(stdout);
        _exit(failed);
    }
    close(ends[1]);
    while (n < bytes - 1 && (more = read(ends[0], text + n, bytes - 1 - n)) > 0)
        n += (size_t)more;
    text[n] = '\0';
    close(ends[0]);
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool dies(void (*run)(), const char *words) {
    char text[8192];
    bool well = ends_well(run, text, sizeof text);
    if (!well && strstr(text, words)) return true;
    printf("# ends %s and says: %s\n", well ? "well" : "badly", text);
    return false;
}
