/* workbench_save.c - the edited weights as files: the difference from the base, or the
 * whole model. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "daemon/workbench.h"

/* ---- The difference ---- */

static bool shift_as_stored(struct mal_workbench *wb, size_t module, float **out,
                            struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(wb->model, module);
    size_t bytes = (size_t)(lin->d_in * lin->d_out) * sizeof(float);
    float *shift = mal_malloc(bytes);
    if (!shift) return mal_fail(err, MAL_NO_MEMORY, "delta");
    *out = shift;
    if (!mal_weights_read_shift(wb->ws, module, shift, err)) return false;
    if (!lin->transposed) return true;
    float *turned = mal_malloc(bytes);
    if (!turned) return mal_fail(err, MAL_NO_MEMORY, "delta");
    for (int64_t i = 0; i < lin->d_in; i++) {
        for (int64_t j = 0; j < lin->d_out; j++) {
            turned[j * lin->d_in + i] = shift[i * lin->d_out + j];
        }
    }
    mal_free(shift);
    *out = turned;
    return true;
}

bool mal_workbench_write_delta(struct mal_workbench *wb, const char *path,
                               struct mal_error *err) {
    size_t n = mal_model_n_edits(wb->model);
    struct mal_st_entry *entries = mal_calloc(n, sizeof *entries);
    float **data = mal_calloc(n, sizeof *data);
    char(*names)[256] = mal_calloc(n, sizeof *names);
    bool ok = (entries && data && names) || mal_fail(err, MAL_NO_MEMORY, "delta");
    ok = ok && mal_workbench_fingerprint(wb, err);
    for (size_t m = 0; ok && m < n; m++) {
        const struct mal_linear *lin = mal_model_edit(wb->model, m);
        ok = shift_as_stored(wb, m, &data[m], err);
        snprintf(names[m], sizeof names[m], "%s.weight", lin->name);
        entries[m] =
            (struct mal_st_entry){.name = names[m], .dtype = MAL_F32, .n_dims = 2};
        entries[m].shape[0] = lin->transposed ? lin->d_out : lin->d_in;
        entries[m].shape[1] = lin->transposed ? lin->d_in : lin->d_out;
        entries[m].data = data[m];
    }
    struct mal_st_meta meta[] = {{"format", "malmend-delta-1"},
                                 {"base_model", wb->base_model}};
    ok = ok && mal_safetensors_write(path, entries, n, meta, 2, err);
    for (size_t m = 0; data && m < n; m++)
        mal_free(data[m]);
    mal_free(names);
    mal_free(data);
    mal_free(entries);
    return ok;
}

/* ---- The whole model: files copied, then the edited tensors overwritten in place ----
 */

static bool fail_io(struct mal_error *err, const char *path) {
    enum mal_status status = errno == ENOSPC || errno == EDQUOT ? MAL_NO_SPACE : MAL_IO;
    return mal_fail(err, status, "%s: %s", path, strerror(errno));
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

static bool join(char out[PATH_MAX], const char *dir, const char *name,
                 struct mal_error *err) {
    int n = snprintf(out, PATH_MAX, "%s/%s", dir, name);
    return (n > 0 && n < PATH_MAX) ||
           mal_fail(err, MAL_INVALID, "%s: the path is too long", dir);
}

/* Weights in another format than the one edited would come along unedited. */
static bool is_stale(const char *name) {
    static const char *const suffixes[] = {".bin",  ".h5",   ".msgpack", ".ot",
                                           ".gguf", ".onnx", ".pt",      ".pth"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t m = strlen(suffixes[i]);
        if (n > m && strcmp(name + n - m, suffixes[i]) == 0) return true;
    }
    return false;
}

static bool copy_dir(const char *from, const char *to, struct mal_error *err) {
    DIR *dir = opendir(from);
    if (!dir) return fail_io(err, from);
    bool ok = true;
    for (struct dirent *entry; ok && (entry = readdir(dir));) {
        char source[PATH_MAX], target[PATH_MAX];
        struct stat st;
        if (is_stale(entry->d_name)) continue;
        if (!join(source, from, entry->d_name, err) ||
            !join(target, to, entry->d_name, err)) {
            ok = false;
        } else if (stat(source, &st) != 0) {
            ok = fail_io(err, source);
        } else if (S_ISREG(st.st_mode)) {
            ok = copy_file(source, target, err);
        }
    }
    closedir(dir);
    return ok;
}

static bool overwrite_tensor(struct mal_workbench *wb, size_t module, const char *dir,
                             struct mal_error *err) {
    const struct mal_linear *lin = mal_model_edit(wb->model, module);
    char name[256], path[PATH_MAX];
    snprintf(name, sizeof name, "%s.weight", lin->name);
    struct mal_checkpoint_tensor at =
        mal_checkpoint_find(mal_model_checkpoint(wb->model), name);
    const char *file = strrchr(mal_safetensors_path(at.file), '/');
    if (!join(path, dir, file ? file + 1 : mal_safetensors_path(at.file), err))
        return false;

    size_t n = (size_t)(lin->d_in * lin->d_out), size = mal_dtype_size(lin->dtype);
    float *values = mal_malloc(n * sizeof *values);
    char *stored = mal_malloc(n * size);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = (values && stored) || mal_fail(err, MAL_NO_MEMORY, "%s", lin->name);
    if (ok && fd < 0) ok = fail_io(err, path);
    ok = ok && mal_weights_read(wb->ws, mal_weights_live(wb->ws), module, values, err);
    if (ok) mal_from_f32(stored, values, lin->dtype, n);
    ok = ok && write_all(fd, stored, n * size, (off_t)at.tensor->offset, path, err);
    if (ok && fsync(fd) != 0) ok = fail_io(err, path);
    if (fd >= 0) close(fd);
    mal_free(values);
    mal_free(stored);
    return ok;
}

/* What a failed or killed save has left: files, no folders. */
static void remove_partial(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
    (void)rmdir(path);
}

bool mal_workbench_save_model(struct mal_workbench *wb, const char *dir,
                              struct mal_error *err) {
    char partial[PATH_MAX];
    int length = (int)strlen(dir);
    while (length > 1 && dir[length - 1] == '/')
        length--;
    int n = snprintf(partial, sizeof partial, "%.*s.partial", length, dir);
    if (n < 0 || n >= PATH_MAX)
        return mal_fail(err, MAL_INVALID, "%s: the path is too long", dir);
    if (!mal_workbench_check_dir(dir, err)) return false;
    remove_partial(partial);
    if (mkdir(partial, 0755) != 0) return fail_io(err, partial);
    bool ok = copy_dir(mal_checkpoint_dir(mal_model_checkpoint(wb->model)), partial, err);
    for (size_t m = 0; ok && m < mal_model_n_edits(wb->model); m++) {
        ok = overwrite_tensor(wb, m, partial, err);
    }
    if (ok && rename(partial, dir) != 0)
        ok = fail_io(err, dir); /* an empty one is replaced */
    if (!ok) remove_partial(partial);
    return ok;
}

/* ---- Beforehand ---- */

static bool check_parent(const char *path, struct mal_error *err) {
    char parent[PATH_MAX];
    if (strlen(path) >= sizeof parent)
        return mal_fail(err, MAL_INVALID, "%s: too long", path);
    strcpy(parent, path);
    return access(dirname(parent), W_OK | X_OK) == 0 || fail_io(err, path);
}

bool mal_workbench_check_out(const char *path, struct mal_error *err) {
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        return mal_fail(err, MAL_INVALID, "%s: not a regular file", path);
    }
    return check_parent(path, err);
}

bool mal_workbench_check_dir(const char *path, struct mal_error *err) {
    DIR *dir = opendir(path);
    if (!dir && errno == ENOENT) return check_parent(path, err);
    if (!dir) return fail_io(err, path);
    bool empty = true;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            empty = false;
    }
    closedir(dir);
    return empty ||
           mal_fail(err, MAL_CONFLICT, "%s: there is something in it already", path);
}
