/* test_safetensors.c - every rule of the format has a file that breaks it; what is
 * written is read back; nothing leaks when memory, the disk or the file ends. */
#include "no_memory.h"
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sys/syscall.h>

#include "core/alloc.h"
#include "core/safetensors.h"

/* ---- System calls that misbehave ---- */

static size_t pread_at_most; /* 0: no limit */
static int pread_interrupts; /* how many calls fail with EINTR first */
static int write_errno;      /* 0: writes succeed */
static int fsync_errno;

ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset) {
    if (pread_interrupts > 0) {
        pread_interrupts--;
        errno = EINTR;
        return -1;
    }
    if (pread_at_most > 0 && bytes > pread_at_most) bytes = pread_at_most;
    return syscall(SYS_pread64, fd, buffer, bytes, offset);
}

ssize_t write(int fd, const void *buffer, size_t bytes) {
    if (write_errno != 0 && fd > 2) {
        errno = write_errno;
        return -1;
    }
    return syscall(SYS_write, fd, buffer, bytes);
}

int fsync(int fd) {
    if (fsync_errno != 0) {
        errno = fsync_errno;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

/* ---- Files ---- */

/* A file with this header and `n_data` bytes 0, 1, 2, ... */
static const char *make(const char *name, const char *header, size_t header_bytes,
                        size_t n_data) {
    static unsigned char bytes[4096];
    assert_true(8 + header_bytes + n_data <= sizeof bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(header_bytes >> (8 * i));
    memcpy(bytes + 8, header, header_bytes);
    for (size_t i = 0; i < n_data; i++)
        bytes[8 + header_bytes + i] = (unsigned char)i;
    return scratch_write(name, bytes, 8 + header_bytes + n_data);
}

static struct mal_safetensors *open_text(const char *header, size_t n_data) {
    struct mal_error err = {0};
    struct mal_safetensors *f = NULL;
    const char *path = make("good.safetensors", header, strlen(header), n_data);
    assert_ok(mal_safetensors_open(&f, path, &err), &err);
    return f;
}

#define A(rest) "{\"a\":{" rest "}}"
#define T(name, dtype, shape, offsets)                       \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape \
    ",\"data_offsets\":" offsets "}"

static const struct broken {
    const char *header;
    size_t n_data;
    const char *words;
} broken[] = {
    /* the header as a whole */
    {"", 0, "header does not start with '{'"},
    {" {}", 0, "header does not start with '{'"},
    {"[]", 0, "header does not start with '{'"},
    {"{\"a\xff\":1}", 0, "header is not UTF-8"},
    {"{\"a\":\"\xed\xa0\x80\"}", 0, "header is not UTF-8"},
    {"{\"a\":", 0, "line 1 column 5"},
    {"{} x", 0, "end of file expected"},
    {"{\"a\\u0000b\":1}", 0, "texts cannot hold the character U+0000"},
    {"{" T("a", "U8", "[1]", "[0,1]") "," T("a", "U8", "[1]", "[0,1]") "}", 1,
     "duplicate object key"},
    {A("\"dtype\":\"U8\",\"dtype\":\"I8\""), 1, "duplicate object key"},
    {"{\"__metadata__\":1}", 0, "__metadata__ is not an object"},
    {"{\"__metadata__\":null}", 0, "__metadata__ is not an object"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__ 'k' is an integer, not a string"},

    /* the description of a tensor */
    {"{\"a\":[]}", 0, "tensor 'a': described by an array, not an object"},
    {A("\"shape\":[1],\"data_offsets\":[0,1]"), 1, "tensor 'a': dtype is missing"},
    {A("\"dtype\":\"U8\",\"data_offsets\":[0,1]"), 1, "tensor 'a': shape is missing"},
    {A("\"dtype\":\"U8\",\"shape\":[1]"), 1, "tensor 'a': data_offsets is missing"},
    {A("\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,1]"), 1,
     "tensor 'a': dtype is not a string"},
    {"{" T("h.0.w", "F8_E4M3", "[1]", "[0,1]") "}", 1,
     "tensor 'h.0.w': dtype 'F8_E4M3' is not supported"},
    {"{" T("a", "f32", "[1]", "[0,4]") "}", 4, "dtype 'f32' is not supported"},
    {"{" T("a", "U8", "1", "[0,1]") "}", 1, "tensor 'a': shape is not an array"},
    {"{" T("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1,
     "tensor 'a': 9 dimensions, more than 8"},
    {"{" T("a", "U8", "[1,-1]", "[0,1]") "}", 1, "dimension 1 is negative (-1)"},
    {"{" T("a", "U8", "[1.0]", "[0,1]") "}", 1, "dimension 0 is not an integer"},
    {"{" T("a", "U8", "[\"1\"]", "[0,1]") "}", 1, "dimension 0 is not an integer"},
    {"{" T("a", "U8", "[18446744073709551616]", "[0,1]") "}", 1, "too big integer"},
    {"{" T("a", "U8", "[4294967296,4294967296]", "[0,0]") "}", 0,
     "tensor 'a': too many elements for 64 bits"},
    {"{" T("a", "F64", "[4611686018427387904]", "[0,0]") "}", 0,
     "tensor 'a': too many bytes for 64 bits"},

    /* its place */
    {"{" T("a", "U8", "[1]", "0") "}", 1, "data_offsets is not an array of two integers"},
    {"{" T("a", "U8", "[1]", "[0]") "}", 1,
     "data_offsets is not an array of two integers"},
    {"{" T("a", "U8", "[1]", "[0,1,2]") "}", 1,
     "data_offsets is not an array of two integers"},
    {"{" T("a", "U8", "[1]", "[0.0,1]") "}", 1,
     "data_offsets is not an array of two integers"},
    {"{" T("a", "U8", "[1]", "[-1,0]") "}", 1, "tensor 'a': data_offsets are negative"},
    {"{" T("a", "U8", "[1]", "[1,0]") "}", 1,
     "data_offsets begin at 1, after their end 0"},
    {"{" T("a", "F32", "[2]", "[0,4]") "}", 4,
     "tensor 'a': data_offsets hold 4 bytes, shape and dtype need 8"},
    {"{" T("a", "F32", "[2]", "[0,8]") "}", 7,
     "tensor 'a': data_offsets end at 8, beyond the file's 7 bytes of data"},
    {"{" T("a", "U8", "[1]", "[9223372036854775806,9223372036854775807]") "}", 1,
     "beyond the file's 1 bytes of data"},

    /* coverage */
    {"{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[3,7]") "}", 7,
     "tensor 'b': overlaps tensor 'a'"},
    {"{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[0,4]") "}", 4,
     "tensor 'b': overlaps tensor 'a'"},
    {"{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[0]", "[2,2]") "}", 4,
     "tensor 'b': overlaps tensor 'a'"},
    {"{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[5,9]") "}", 9,
     "tensor 'b': 1 bytes before it belong to no tensor"},
    {"{" T("a", "U8", "[4]", "[2,6]") "}", 6,
     "tensor 'a': 2 bytes before it belong to no tensor"},
    {"{" T("a", "U8", "[4]", "[0,4]") "}", 6, "2 bytes at the end belong to no tensor"},
    {"{}", 3, "3 bytes at the end belong to no tensor"},
};

static void test_broken(void **state) {
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        struct mal_error err = {0};
        struct mal_safetensors *f = NULL;
        const char *path = make("broken.safetensors", broken[i].header,
                                strlen(broken[i].header), broken[i].n_data);
        if (mal_safetensors_open(&f, path, &err))
            fail_msg("accepted: %s", broken[i].header);
        assert_null(f);
        assert_non_null(strstr(err.text, "/broken.safetensors: "));
        assert_error(&err, MAL_CORRUPT, broken[i].words);
    }
}

static void test_broken_length(void **state) {
    static const struct {
        const char *bytes;
        size_t n;
        const char *words;
    } cases[] = {
        {"", 0, "0 bytes, shorter than the header's length"},
        {"\2\0\0\0\0\0\0", 7, "7 bytes, shorter than the header's length"},
        {"\3\0\0\0\0\0\0\0{}", 10, "header of 3 bytes reaches beyond the file's 10"},
        {"\1\xe1\xf5\5\0\0\0\0{}", 10,
         "header of 100000001 bytes, more than 100000000 allowed"},
        {"\0\0\0\0\0\0\0\x80{}", 10, "header of 9223372036854775808 bytes"},
        {"\xff\xff\xff\xff\xff\xff\xff\xff{}", 10,
         "header of 18446744073709551615 bytes"},
        {"\2\0\0\0\0\0\0\0{\0", 10, "line 1"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mal_error err = {0};
        struct mal_safetensors *f;
        const char *path = scratch_write("short.safetensors", cases[i].bytes, cases[i].n);
        assert_false(mal_safetensors_open(&f, path, &err));
        assert_error(&err, MAL_CORRUPT, cases[i].words);
    }
    struct mal_error err = {0};
    struct mal_safetensors *f;
    assert_false(mal_safetensors_open(&f, scratch_path("none.safetensors"), &err));
    assert_error(&err, MAL_NOT_FOUND, "none.safetensors: No such file");
    assert_false(mal_safetensors_open(&f, scratch_dir, &err));
    assert_error(&err, MAL_IO, "not a regular file");
}

static void test_accepted(void **state) {
    struct mal_safetensors *f = open_text("{}      ", 0);
    assert_int_equal(mal_safetensors_count(f), 0);
    assert_null(mal_safetensors_find(f, "a"));
    assert_null(mal_safetensors_metadata(f, "format"));
    mal_safetensors_close(f);

    static const char four[] =
        "{\"__metadata__\":{\"format\":\"pt\"}," T("b", "F32", "[2,1]", "[0,8]") "," T(
            "scalar", "I16", "[]", "[8,10]") "," T("none", "F64", "[3,0]",
                                                   "[8,8]") "," T("a", "U8", "[2]",
                                                                  "[10,12]") "} ";
    f = open_text(four, 12);
    assert_int_equal(mal_safetensors_count(f), 4);
    static const char *const names[] = {"a", "b", "none", "scalar"};
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(mal_safetensors_at(f, i)->name, names[i]);
    const struct mal_st_tensor *t = mal_safetensors_find(f, "scalar");
    assert_non_null(t);
    assert_int_equal(t->n_dims, 0);
    assert_int_equal(t->n_elements, 1);
    assert_int_equal(t->bytes, 2);
    uint8_t raw[2];
    struct mal_error err = {0};
    assert_ok(mal_safetensors_read(f, t, 0, raw, 2, &err), &err);
    assert_int_equal(raw[0], 8);
    assert_ok(mal_safetensors_read(f, t, 1, raw, 1, &err), &err);
    assert_int_equal(raw[0], 9);
    t = mal_safetensors_find(f, "none");
    assert_int_equal(t->n_elements, 0);
    assert_ok(mal_safetensors_read_f32(f, t, NULL, &err), &err);
    assert_int_equal(mal_safetensors_find(f, "b")->shape[0], 2);
    assert_string_equal(mal_safetensors_metadata(f, "format"), "pt");
    assert_null(mal_safetensors_metadata(f, "other"));
    assert_non_null(strstr(mal_safetensors_path(f), "/good.safetensors"));

    float x[2];
    assert_false(mal_safetensors_read_f32(f, mal_safetensors_find(f, "a"), x, &err));
    assert_error(&err, MAL_CORRUPT,
                 "tensor 'a': dtype U8 where a floating one is needed");
    mal_safetensors_close(f);
    mal_safetensors_close(NULL);
}

/* ---- Writing and reading back ---- */

enum {
    LARGE = 300000
}; /* elements; more than one slice of the reader, and not a multiple */

static float value_at(int64_t i) {
    return (float)(i % 251 - 125) / 8; /* exact in every floating dtype here */
}

static void test_round_trip(void **state) {
    struct mal_error err = {0};
    float *f32 = mal_malloc(LARGE * sizeof *f32),
          *back = mal_malloc(LARGE * sizeof *back);
    double *f64 = mal_malloc(LARGE * sizeof *f64);
    uint16_t *f16 = mal_malloc(LARGE * 2), *bf16 = mal_malloc(LARGE * 2);
    for (int64_t i = 0; i < LARGE; i++)
        f64[i] = f32[i] = value_at(i);
    mal_from_f32(f16, f32, MAL_F16, LARGE);
    mal_from_f32(bf16, f32, MAL_BF16, LARGE);
    const struct mal_st_entry entries[] = {
        {"half", MAL_F16, 1, {LARGE}, f16},
        {"single", MAL_F32, 2, {3, LARGE / 3}, f32},
        {"double", MAL_F64, 1, {LARGE}, f64},
        {"brain", MAL_BF16, 1, {LARGE}, bf16},
        {"flags", MAL_BOOL, 1, {3}, "\1\0\1"},
        {"empty", MAL_F32, 2, {0, 5}, NULL},
    };
    const struct mal_st_meta meta[] = {{"method", "malmen"}, {"n", "\xc3\xa9\"\\"}};
    const char *path = scratch_path("round.safetensors");
    assert_ok(mal_safetensors_write(path, entries, 6, meta, 2, &err), &err);

    struct mal_safetensors *f;
    assert_ok(mal_safetensors_open(&f, path, &err), &err);
    assert_int_equal(mal_safetensors_count(f), 6);
    assert_string_equal(mal_safetensors_metadata(f, "n"), "\xc3\xa9\"\\");
    pread_at_most = 70001; /* so that reads end amid an element */
    for (size_t e = 0; e < 4; e++) {
        const struct mal_st_tensor *t = mal_safetensors_find(f, entries[e].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, entries[e].dtype);
        assert_int_equal(t->n_dims, entries[e].n_dims);
        assert_int_equal(t->offset % mal_dtype_size(t->dtype), 0);
        memset(back, 0xff, LARGE * sizeof *back);
        pread_interrupts = 2;
        assert_ok(mal_safetensors_read_f32(f, t, back, &err), &err);
        assert_memory_equal(back, f32, LARGE * sizeof *back);
    }
    pread_at_most = 0;
    mal_safetensors_close(f);
    mal_free(f32);
    mal_free(f64);
    mal_free(f16);
    mal_free(bf16);
    mal_free(back);
}

static void test_bytes_written(void **state) {
    struct mal_error err = {0};
    const struct mal_st_entry entries[] = {{"b", MAL_U8, 1, {1}, "\7"},
                                           {"c", MAL_F32, 0, {0}, "\1\2\3\4"},
                                           {"a", MAL_U8, 1, {2}, "\5\6"}};
    const struct mal_st_meta meta[] = {{"format", "pt"}};
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"}," T("c", "F32", "[]", "[0,4]") "," T(
            "a", "U8", "[2]", "[4,6]") "," T("b", "U8", "[1]", "[6,7]") "}";
    const char *path = scratch_path("bytes.safetensors");
    assert_ok(mal_safetensors_write(path, entries, 3, meta, 1, &err), &err);
    char bytes[512];
    FILE *file = fopen(path, "rb");
    size_t n = fread(bytes, 1, sizeof bytes, file),
           padded = (sizeof header - 1 + 7) / 8 * 8;
    fclose(file);
    assert_int_equal(n, 8 + padded + 7);
    assert_int_equal((unsigned char)bytes[0], padded);
    assert_memory_equal(bytes + 8, header, sizeof header - 1);
    for (size_t i = 8 + sizeof header - 1; i < 8 + padded; i++)
        assert_int_equal(bytes[i], ' ');
    assert_memory_equal(bytes + 8 + padded, "\1\2\3\4\5\6\7", 7);
}

static size_t files_in_scratch(void) {
    size_t n = 0;
    DIR *dir = opendir(scratch_dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void test_write_fails(void **state) {
    struct mal_error err = {0};
    struct mal_st_entry entries[] = {{"a", MAL_U8, 1, {2}, "ab"},
                                     {"b", MAL_U8, 1, {1}, "c"}};
    const struct mal_st_meta meta[] = {{"k", "v"}};
    const char *path = scratch_text("kept.safetensors", "the old file");
    size_t n_files = files_in_scratch();

    write_errno = ENOSPC;
    assert_false(mal_safetensors_write(path, entries, 2, meta, 1, &err));
    write_errno = 0;
    assert_error(&err, MAL_NO_SPACE,
                 "kept.safetensors: writing: No space left on device");
    fsync_errno = EIO;
    assert_false(mal_safetensors_write(path, entries, 2, meta, 1, &err));
    fsync_errno = 0;
    assert_error(&err, MAL_IO, "kept.safetensors: writing: Input/output error");
    assert_false(
        mal_safetensors_write(scratch_path("no/dir"), entries, 2, meta, 1, &err));
    assert_error(&err, MAL_IO, "creating it: No such file");
    scratch_mkdir("taken");
    assert_false(mal_safetensors_write(scratch_path("taken"), entries, 2, meta, 1, &err));
    assert_error(&err, MAL_IO, "renaming into place: Is a directory");

    entries[1].name = "a";
    assert_false(mal_safetensors_write(path, entries, 2, meta, 1, &err));
    assert_error(&err, MAL_INVALID, "'a': the name is there twice");
    entries[1].name = "__metadata__";
    assert_false(mal_safetensors_write(path, entries, 2, NULL, 0, &err));
    assert_error(&err, MAL_INVALID, "'__metadata__': not a name for a tensor");
    entries[1].name = "\xff";
    assert_false(mal_safetensors_write(path, entries, 2, NULL, 0, &err));
    assert_error(&err, MAL_INVALID, "'?': the name is not UTF-8");
    const struct mal_st_meta bad[] = {{"k", "\xff"}};
    assert_false(mal_safetensors_write(path, entries, 1, bad, 1, &err));
    assert_error(&err, MAL_INVALID, "'k': the value is not UTF-8");

    assert_int_equal(files_in_scratch(),
                     n_files + 1); /* the directory, and nothing left over */
    char old[32] = {0};
    FILE *file = fopen(path, "rb");
    assert_int_equal(fread(old, 1, sizeof old, file), 12);
    fclose(file);
    assert_string_equal(old, "the old file");
}

static void test_shrunk(void **state) {
    struct mal_error err = {0};
    struct mal_safetensors *f = open_text("{" T("w", "F16", "[8]", "[0,16]") "}", 16);
    float x[8];
    assert_int_equal(truncate(mal_safetensors_path(f), 70), 0);
    assert_false(mal_safetensors_read_f32(f, mal_safetensors_at(f, 0), x, &err));
    assert_error(&err, MAL_IO,
                 "good.safetensors: reading tensor 'w': the file has become shorter");
    mal_safetensors_close(f);
}

/* ---- Memory runs out ---- */

static bool read_small(const char *path, struct mal_error *err) {
    struct mal_safetensors *f;
    if (!mal_safetensors_open(&f, path, err)) return false;
    float x[2];
    bool ok = mal_safetensors_read_f32(f, mal_safetensors_find(f, "a"), x, err);
    mal_safetensors_close(f);
    return ok;
}

static bool write_small(const char *path, struct mal_error *err) {
    const struct mal_st_entry entries[] = {{"a", MAL_F16, 2, {1, 2}, "abcd"},
                                           {"b", MAL_U8, 1, {1}, "c"}};
    const struct mal_st_meta meta[] = {{"k", "v"}};
    return mal_safetensors_write(path, entries, 2, meta, 1, err);
}

static void test_no_memory(void **state) {
    char path[512];
    strcpy(path, scratch_path("memory.safetensors"));
    fail_each_allocation(write_small, path, 15);
    fail_each_allocation(read_small, path, 15);
}

/* ---- Files of the reference implementation ---- */

static size_t n_golden;

static void copy_golden(const char *path) {
    struct mal_error err = {0};
    struct mal_safetensors *f;
    assert_ok(mal_safetensors_open(&f, path, &err), &err);
    size_t n = mal_safetensors_count(f);
    struct mal_st_entry *entries = mal_calloc(n, sizeof *entries);
    char **data = mal_calloc(n, sizeof *data);
    for (size_t i = 0; i < n; i++) {
        const struct mal_st_tensor *t = mal_safetensors_at(f, n - 1 - i);
        data[i] = mal_malloc((size_t)t->bytes);
        assert_ok(mal_safetensors_read(f, t, 0, data[i], (size_t)t->bytes, &err), &err);
        entries[i] = (struct mal_st_entry){t->name, t->dtype, t->n_dims, {0}, data[i]};
        memcpy(entries[i].shape, t->shape, sizeof t->shape);
    }
    const char *format = mal_safetensors_metadata(f, "format");
    const struct mal_st_meta meta = {"format", format};
    const char *copy = scratch_path("copy.safetensors");
    assert_ok(mal_safetensors_write(copy, entries, n, &meta, format ? 1 : 0, &err), &err);
    FILE *one = fopen(path, "rb"), *other = fopen(copy, "rb");
    int c, d;
    do {
        c = getc(one);
        d = getc(other);
    } while (c == d && c != EOF);
    if (c != d) fail_msg("%s: written again it differs", path);
    fclose(one);
    fclose(other);
    for (size_t i = 0; i < n; i++)
        mal_free(data[i]);
    mal_free(data);
    mal_free(entries);
    mal_safetensors_close(f);
    n_golden++;
}

/* The reference's own files, written again, have the same bytes. */
static void test_golden(void **state) {
    const char *root = getenv("MAL_SOURCE_ROOT");
    char dir[512], path[1024];
    snprintf(dir, sizeof dir, "%s/../shared/golden", root ? root : ".");
    return_if_absent(dir);
    DIR *cases = opendir(dir);
    assert_non_null(cases);
    for (struct dirent *e; (e = readdir(cases));) {
        static const char *const names[] = {"expected.safetensors",
                                            "model/model.safetensors"};
        for (size_t i = 0; e->d_name[0] != '.' && i < 2; i++) {
            snprintf(path, sizeof path, "%s/%s/%s", dir, e->d_name, names[i]);
            if (access(path, F_OK) == 0) copy_golden(path);
        }
    }
    closedir(cases);
    assert_true(n_golden > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken),        cmocka_unit_test(test_broken_length),
        cmocka_unit_test(test_accepted),      cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_bytes_written), cmocka_unit_test(test_write_fails),
        cmocka_unit_test(test_shrunk),        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests_name("safetensors", tests, scratch_make,
                                       scratch_remove);
}
