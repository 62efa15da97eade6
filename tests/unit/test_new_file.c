/* test_new_file.c - files take their place whole; what a killed process has left of one
 * goes, what another is writing stays. */
#include "scratch.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/new_file.h"

static void open_new(struct mal_new_file *file, const char *path) {
    struct mal_error err = {0};
    assert_ok(mal_new_file_open(file, path, &err), &err);
}

static void put(struct mal_new_file *file, const char *text) {
    struct mal_error err = {0};
    assert_ok(mal_new_file_write(file, text, strlen(text), &err), &err);
}

static void commit(struct mal_new_file *file) {
    struct mal_error err = {0};
    assert_ok(mal_new_file_commit(file, &err), &err);
}

/* The file holds the text, and the directory nothing else but so many files. */
static void assert_holds(const char *path, const char *text, int others) {
    char there[64] = "";
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(there, 1, sizeof there - 1, file), strlen(text));
    fclose(file);
    assert_string_equal(there, text);
    DIR *dir = opendir(scratch_dir);
    for (struct dirent *e; (e = readdir(dir));)
        others -= strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(dir);
    assert_int_equal(others, -1);
}

static void test_whole(void **state) {
    (void)state;
    const char *path = scratch_text("f", "before");
    struct mal_new_file file;
    open_new(&file, path);
    put(&file, "af");
    assert_holds(path, "before", 1);
    put(&file, "ter");
    commit(&file);
    assert_holds(path, "after", 0);

    open_new(&file, path);
    put(&file, "never");
    mal_new_file_abandon(&file);
    mal_new_file_abandon(&file);
    assert_holds(path, "after", 0);

    struct mal_error err = {0};
    assert_ok(mal_new_file_unnamed(&file, path, &err), &err);
    put(&file, "gone with its descriptor");
    assert_holds(path, "after", 0);
    close(file.fd);

    assert_ok(mal_new_file_remove(path, &err), &err);
    assert_int_equal(access(path, F_OK), -1);
    assert_ok(mal_new_file_remove(path, &err), &err); /* there is none */
}

static void test_two_at_once(void **state) {
    (void)state;
    struct mal_error err = {0};
    const char *path = scratch_text("f", "before");
    struct mal_new_file first, second;
    open_new(&first, path);
    put(&first, "first");
    open_new(&second, path);
    put(&second, "second");
    assert_ok(mal_new_file_remove(path, &err), &err);
    commit(&first);
    assert_holds(path, "first", 1);
    commit(&second);
    assert_holds(path, "second", 0);
    unlink(path);
}

/* A process that has written so many files in part, and is killed or still there. */
static pid_t writer(const char *path, int n) {
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct mal_error err = {0};
        struct mal_new_file file;
        for (int i = 0; i < n; i++) {
            if (!mal_new_file_open(&file, path, &err) ||
                !mal_new_file_write(&file, "part", 4, &err))
                _exit(1);
        }
        if (write(ready[1], "", 1) == 1) pause();
        _exit(1);
    }
    char byte;
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return child;
}

static void end(pid_t child) {
    int status;
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

static void test_killed(void **state) {
    (void)state;
    struct mal_error err = {0};
    struct mal_new_file file;
    const char *path = scratch_text("f", "before");
    for (int round = 0; round < 3; round++) { /* more than there are names, in all */
        end(writer(path, 60));
        assert_holds(path, "before", 60);
        open_new(&file, path);
        assert_holds(path, "before", 1);
        mal_new_file_abandon(&file);
    }

    end(writer(path, 2));
    assert_ok(mal_new_file_remove(path, &err), &err);
    assert_holds(scratch_text("f", ""), "", 0);

    pid_t alive = writer(path, 2);
    assert_ok(mal_new_file_remove(path, &err), &err);
    open_new(&file, path);
    put(&file, "beside it");
    commit(&file);
    assert_holds(path, "beside it", 2);
    end(alive);
    assert_ok(mal_new_file_remove(path, &err), &err);
    assert_int_equal(rmdir(scratch_dir), 0);
    assert_int_equal(mkdir(scratch_dir, 0700), 0);
}

/* In a directory that others may write to, a name is no reason to touch what it leads to.
 */
static void test_not_ours(void **state) {
    (void)state;
    const char *path = scratch_text("f", "before");
    const char *other = scratch_text("other", "another's");
    assert_int_equal(symlink(other, scratch_path("f.tmp-0")), 0);
    assert_int_equal(mkfifo(scratch_path("f.tmp-1"), 0600), 0);
    struct mal_new_file file;
    open_new(&file, path);
    put(&file, "after");
    commit(&file);
    assert_holds(path, "after", 3);
    assert_holds(other, "another's", 3);
    unlink(path);
    unlink(other);
    unlink(scratch_path("f.tmp-0"));
    unlink(scratch_path("f.tmp-1"));
}

static void test_errors(void **state) {
    (void)state;
    struct mal_error err = {0};
    struct mal_new_file file;
    assert_false(mal_new_file_open(&file, scratch_path("none/f"), &err));
    assert_error(&err, MAL_IO, "none/f.tmp-0: creating it: No such file");
    mal_new_file_abandon(&file);

    open_new(&file, scratch_path("d"));
    scratch_mkdir("d");
    assert_false(mal_new_file_commit(&file, &err));
    assert_error(&err, MAL_IO, "d: renaming into place: Is a directory");
    assert_int_equal(rmdir(scratch_path("d")), 0);

    const char *path = scratch_path("f");
    pid_t child = writer(path, 100);
    assert_false(mal_new_file_open(&file, path, &err));
    assert_error(&err, MAL_IO, "f.tmp-99: creating it: File exists");
    end(child);
    assert_ok(mal_new_file_remove(path, &err), &err);
}

/* Writers of one path, some of them killed: what is at the path is always one's whole
 * text. */
static void test_beside_each_other(void **state) {
    (void)state;

    enum { WRITERS = 4, ROUNDS = 600 };

    const char *path = scratch_text("f", "00000000");
    pid_t children[WRITERS] = {0};
    for (int round = 0; round < ROUNDS; round++) {
        int i = round % WRITERS;
        if (children[i]) end(children[i]);
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            char text[9] = {0};
            memset(text, '1' + i, 8);
            for (;;) {
                struct mal_error err = {0};
                struct mal_new_file file;
                if (!mal_new_file_open(&file, path, &err) ||
                    !mal_new_file_write(&file, text, 4, &err) ||
                    !mal_new_file_write(&file, text + 4, 4, &err) ||
                    !mal_new_file_commit(&file, &err))
                    _exit(1); /* and `end` finds no killed one */
            }
        }
        for (int look = 0; look < 200; look++) {
            struct mal_error err = {0};
            char *text;
            size_t bytes;
            assert_ok(mal_file_read(&text, &bytes, path, 64, &err), &err);
            assert_int_equal(bytes, 8);
            for (int c = 1; c < 8; c++)
                assert_int_equal(text[c], text[0]);
            mal_free(text);
        }
    }
    for (int i = 0; i < WRITERS; i++)
        end(children[i]);
    struct mal_error err = {0};
    assert_ok(mal_new_file_remove(path, &err), &err);
    assert_int_equal(rmdir(scratch_dir), 0); /* nothing is left */
    assert_int_equal(mkdir(scratch_dir, 0700), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),  cmocka_unit_test(test_two_at_once),
        cmocka_unit_test(test_killed), cmocka_unit_test(test_not_ours),
        cmocka_unit_test(test_errors), cmocka_unit_test(test_beside_each_other),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
