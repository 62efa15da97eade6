/* scratch.h - what tests of files share: a directory of their own, files in it, errors'
 * words. */
#ifndef MAL_TEST_SCRATCH_H
#define MAL_TEST_SCRATCH_H

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/error.h"

static char scratch_dir[64];

/* The folder of golden cases: ../shared/golden where it is, else the committed one. */
static inline const char *golden_dir(void) {
    static char dir[512];
    const char *root = getenv("MAL_SOURCE_ROOT");
    if (!root) root = ".";
    snprintf(dir, sizeof dir, "%s/../shared/golden", root);
    if (access(dir, R_OK) != 0) snprintf(dir, sizeof dir, "%s/tests/golden/cases", root);
    return dir;
}

/* For a test on data that is not part of the project: passes with a word where it is not.
 */
#define return_if_absent(path)                         \
    do {                                               \
        if (access(path, R_OK) != 0) {                 \
            print_message("# %s is not here\n", path); \
            return;                                    \
        }                                              \
    } while (0)

/* cmocka group setup: makes the directory. */
static inline int scratch_make(void **state) {
    strcpy(scratch_dir, "/tmp/malmend-test-XXXXXX");
    return mkdtemp(scratch_dir) ? 0 : -1;
}

static inline int scratch_remove_tree(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return remove(path);
    for (struct dirent *e; (e = readdir(dir));) {
        char inner[512];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if ((size_t)snprintf(inner, sizeof inner, "%s/%s", path, e->d_name) <
            sizeof inner)
            scratch_remove_tree(inner);
    }
    closedir(dir);
    return rmdir(path);
}

/* cmocka group teardown: removes it with all that is in it. */
static inline int scratch_remove(void **state) {
    return scratch_remove_tree(scratch_dir);
}

/* The path of a file in the directory, in one of four buffers taken in turn. */
static inline const char *scratch_path(const char *name) {
    static char paths[4][512];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", scratch_dir, name);
    return path;
}

static inline void scratch_mkdir(const char *name) {
    assert_int_equal(mkdir(scratch_path(name), 0777), 0);
}

static inline const char *scratch_write(const char *name, const void *data,
                                        size_t bytes) {
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    return path;
}

static inline const char *scratch_text(const char *name, const char *text) {
    return scratch_write(name, text, strlen(text));
}

/* `expected` may be NULL. */
static inline void assert_text(const char *text, const char *expected) {
    if (!expected) {
        assert_null(text);
        return;
    }
    assert_non_null(text);
    assert_string_equal(text, expected);
}

/* The error has this status and holds these words; it is cleared. */
#define assert_error(err, expected_status, words)                          \
    do {                                                                   \
        if (!strstr((err)->text, words))                                   \
            fail_msg("'%s' is not in the error '%s'", words, (err)->text); \
        assert_int_equal((err)->status, expected_status);                  \
        *(err) = (struct mal_error){0};                                    \
    } while (0)

/* The call is true; when not, its error is shown. */
#define assert_ok(call, err)                                 \
    do {                                                     \
        if (!(call)) fail_msg("%s: %s", #call, (err)->text); \
    } while (0)

#endif
