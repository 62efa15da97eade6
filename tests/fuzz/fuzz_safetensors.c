/* fuzz_safetensors.c - a hostile safetensors file.
 *
 * What opens must hold what the header of the reader promises: names in order and found
 * again, bytes that follow from dtype and shape, lie in the file, and together cover it.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t room, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t room);

/* Changes the header's text and writes its length before it: blind mutation would break
 * the length nearly every time, and so never come past it. One in eight is blind all the
 * same. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t room, unsigned seed) {
    static uint8_t text[4096];
    uint64_t length = 0;
    if (bytes >= sizeof length) memcpy(&length, data, sizeof length);
    if (seed % 8 == 0 || bytes < sizeof length || length > bytes - sizeof length ||
        length > sizeof text || room > sizeof text)
        return LLVMFuzzerMutate(data, bytes, room);
    size_t n_data = bytes - sizeof length - (size_t)length;
    memcpy(text, data + sizeof length, (size_t)length);
    length = LLVMFuzzerMutate(text, (size_t)length, room - sizeof length - n_data);
    memmove(data + sizeof length + length, data + bytes - n_data, n_data);
    memcpy(data, &length, sizeof length);
    memcpy(data + sizeof length, text, (size_t)length);
    return sizeof length + (size_t)length + n_data;
}

static void check_tensor(const struct mal_safetensors *f, size_t i, size_t file_bytes) {
    const struct mal_st_tensor *t = mal_safetensors_at(f, i);
    struct mal_error err = {0};
    assert(mal_safetensors_find(f, t->name) == t);
    assert(i == 0 || strcmp(mal_safetensors_at(f, i - 1)->name, t->name) < 0);
    assert(t->n_dims >= 0 && t->n_dims <= MAL_MAX_DIMS);
    assert(t->bytes == (uint64_t)t->n_elements * mal_dtype_size(t->dtype));
    assert(t->offset <= file_bytes && t->bytes <= file_bytes - t->offset);
    float *values = mal_malloc((size_t)t->n_elements * sizeof *values);
    assert(values);
    bool floats = t->dtype <= MAL_BF16;
    bool ok = mal_safetensors_read_f32(f, t, values, &err);
    assert(ok == floats);
    mal_free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static int fd = -1;
    static char path[32];
    if (fd < 0) {
        fd = memfd_create("fuzz", 0);
        if (fd < 0) abort();
        snprintf(path, sizeof path, "/dev/fd/%d", fd);
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, bytes, 0) != (ssize_t)bytes) abort();
    struct mal_safetensors *f = NULL;
    struct mal_error err = {0};
    if (!mal_safetensors_open(&f, path, &err)) {
        assert(!f && err.status != MAL_OK && err.text[0] != '\0');
        return 0;
    }
    uint64_t covered = 0;
    for (size_t i = 0; i < mal_safetensors_count(f); i++) {
        check_tensor(f, i, bytes);
        covered += mal_safetensors_at(f, i)->bytes;
    }
    uint64_t header;
    memcpy(&header, data, sizeof header);
    assert(8 + header + covered == bytes);
    mal_safetensors_close(f);
    return 0;
}
