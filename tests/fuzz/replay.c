/* replay.c - runs a fuzz target once over each given file, and each file of a given
 * folder: what libFuzzer does without time, for a build without it. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t room);

/* For custom mutators, which nobody calls here. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t room) {
    abort();
}

static size_t run_file(const char *path) {
    FILE *file = fopen(path, "rb");
    long bytes = -1;
    if (file && fseek(file, 0, SEEK_END) == 0) bytes = ftell(file);
    uint8_t *data = bytes >= 0 ? malloc((size_t)bytes + 1) : NULL;
    if (data) rewind(file);
    if (!data || fread(data, 1, (size_t)bytes, file) != (size_t)bytes) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(1);
    }
    fclose(file);
    uint8_t *exact =
        malloc((size_t)bytes ? (size_t)bytes : 1); /* so that reads past it are seen */
    if (!exact) exit(1);
    for (long i = 0; i < bytes; i++)
        exact[i] = data[i];
    free(data);
    LLVMFuzzerTestOneInput(exact, (size_t)bytes);
    free(exact);
    return 1;
}

static size_t run_path(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return run_file(path);
    size_t n = 0;
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        char name[4096];
        if (entry->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        n += run_file(name);
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv) {
    size_t n = 0;
    for (int i = 1; i < argc; i++)
        n += run_path(argv[i]);
    printf("%zu inputs\n", n);
    return n ? 0 : 1;
}
