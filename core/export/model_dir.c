/* model_dir.c - the whole edited model: the base's files copied, then the edited tensors
 * overwritten in place. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/export/export_impl.h"
#include "core/file.h"
#include "core/new_dir.h"

static bool fail_io(struct mal_error *err, const char *path) {
    return mal_fail(err, mal_status_of_errno(errno), "%s: %s", mal_file_shown(path),
                    strerror(errno));
}

static char *join(const char *dir, const char *name, struct mal_error *err) {
    char *path = mal_file_join(dir, name);
    if (!path) mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(dir));
    return path;
}

static bool write_all(int fd, const char *data, size_t bytes, off_t offset,
                      const char *path, struct mal_error *err) {
    while (bytes > 0) {
        ssize_t n = pwrite(fd, data, bytes, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_io(err, path);
        data += n;
        bytes -= (size_t)n;
        offset += n;
    }
    return true;
}

/* ---- Copying ---- */

static bool copy_open(int from, int to, const char *path, struct mal_error *err) {
    enum { SLICE = 1 << 20 };

    char *buffer = mal_malloc(SLICE);
    if (!buffer) return mal_fail(err, MAL_NO_MEMORY, "copying");
    off_t offset = 0;
    bool ok = true;
    for (;;) {
        ssize_t n = read(from, buffer, SLICE);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) ok = fail_io(err, path);
        if (n <= 0 || !ok) break;
        ok = write_all(to, buffer, (size_t)n, offset, path, err);
        offset += n;
        if (!ok) break;
    }
    mal_free(buffer);
    return ok;
}

static bool copy_file(const char *from, const char *to, struct mal_error *err) {
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0) return fail_io(err, from);
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    bool ok = out >= 0 || fail_io(err, to);
    ok = ok && copy_open(in, out, to, err);
    if (ok && fsync(out) != 0) ok = fail_io(err, to);
    close(in);
    if (out >= 0) close(out);
    return ok;
}

static bool ends_in(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0;
}

/* Whether a tensor of `base` is in the file. */
static bool holds_tensors(const struct mal_checkpoint *base, const char *name) {
    for (size_t i = 0; i < mal_checkpoint_count(base); i++) {
        const char *path = mal_safetensors_path(mal_checkpoint_at(base, i).file);
        const char *slash = strrchr(path, '/');
        if (strcmp(slash ? slash + 1 : path, name) == 0) return true;
    }
    return false;
}

/* Weights in other files than the edited ones would come along unedited, and a program
 * might read those: another format, the same under other names
 * (consolidated.safetensors), shards beside a single file, which the index leads to. */
static bool is_stale(const struct mal_checkpoint *base, const char *name) {
    static const char *const suffixes[] = {".bin",  ".h5",   ".msgpack", ".ot",
                                           ".gguf", ".onnx", ".pt",      ".pth"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (ends_in(name, suffixes[i])) return true;
    }
    if (strcmp(name, "model.safetensors.index.json") == 0)
        return holds_tensors(base, "model.safetensors");
    return ends_in(name, ".safetensors") && !holds_tensors(base, name);
}

static bool copy_entry(const char *from, const char *to, const char *name,
                       struct mal_error *err) {
    struct stat st;
    char *source = join(from, name, err), *target = join(to, name, err);
    bool ok = source && target;
    if (ok && stat(source, &st) != 0) ok = fail_io(err, source);
    if (ok && S_ISREG(st.st_mode)) ok = copy_file(source, target, err);
    mal_free(source);
    mal_free(target);
    return ok;
}

static bool copy_dir(const struct mal_checkpoint *base, const char *to,
                     struct mal_error *err) {
    const char *from = mal_checkpoint_dir(base);
    DIR *dir = opendir(from);
    if (!dir) return fail_io(err, from);
    bool ok = true;
    for (struct dirent *entry; ok && (entry = readdir(dir));)
        ok = is_stale(base, entry->d_name) || copy_entry(from, to, entry->d_name, err);
    closedir(dir);
    return ok;
}

/* ---- The edited tensors ---- */

static bool overwrite(const struct mal_export *ex, size_t m,
                      const struct mal_checkpoint_tensor *at, const char *dir,
                      struct mal_error *err) {
    char *name = mal_file_base(mal_safetensors_path(at->file));
    char *path = name ? join(dir, name, err) : NULL;
    char *weight = mal_malloc(at->tensor->bytes);
    int fd = -1;
    bool ok = (path && weight) ||
              mal_fail(err, MAL_NO_MEMORY, "module '%s'", ex->modules[m].name);
    ok = ok && ex->weight(ex->arg, m, weight, err);
    if (ok && (fd = open(path, O_WRONLY | O_CLOEXEC)) < 0) ok = fail_io(err, path);
    ok = ok &&
         write_all(fd, weight, at->tensor->bytes, (off_t)at->tensor->offset, path, err);
    if (ok && fsync(fd) != 0) ok = fail_io(err, path);
    if (fd >= 0) close(fd);
    mal_free(weight);
    mal_free(path);
    mal_free(name);
    return ok;
}

bool mal_export_model(const struct mal_export *ex, const struct mal_checkpoint *base,
                      const char *dir, struct mal_error *err) {
    struct mal_new_dir new;
    if (!mal_new_dir_open(&new, dir, err)) return false;
    bool ok = copy_dir(base, new.partial, err);
    for (size_t m = 0; ok && m < ex->n_modules; m++) {
        char name[256];
        mal_export_tensor(&ex->modules[m], name, sizeof name);
        struct mal_checkpoint_tensor at = mal_checkpoint_find(base, name);
        ok = overwrite(ex, m, &at, new.partial, err);
        mal_export_tick(ex, m + 1);
    }
    ok = ok && mal_new_dir_commit(&new, err);
    mal_new_dir_abandon(&new);
    return ok;
}
