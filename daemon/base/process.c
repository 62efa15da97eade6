/* process.c - /proc/self. */
#include "daemon/base/process.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"

static const double REMEMBER_SECONDS = 10;

static void read_memory(int64_t *out_virtual, int64_t *out_resident) {
    long long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file && fscanf(file, "%lld %lld", &pages, &resident) != 2) pages = resident = 0;
    if (file) fclose(file);
    *out_virtual = pages * sysconf(_SC_PAGESIZE);
    *out_resident = resident * sysconf(_SC_PAGESIZE);
}

int64_t mal_process_resident_bytes(void) {
    int64_t all, resident;
    read_memory(&all, &resident);
    return resident;
}

/* The directory's size since Linux 6.2; before that its entries must be walked through,
 * milliseconds where there are thousands of connections. */
static int64_t count_files(void) {
    static int64_t known;
    static double since;
    struct stat st;
    if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0) return st.st_size;
    double now = mal_clock_seconds();
    if (known && now - since < REMEMBER_SECONDS) return known;
    DIR *directory = opendir("/proc/self/fd");
    if (!directory) return 0;
    known = -3; /* the two dots, and the directory's own */
    while (readdir(directory))
        known++;
    closedir(directory);
    since = now;
    return known;
}

/* The kernel knows in ticks after its own start. */
static double started(void) {
    static double known;
    char text[1024];
    unsigned long long ticks = 0;
    struct timespec up, now;
    if (known > 0) return known;
    FILE *file = fopen("/proc/self/stat", "re");
    size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) fclose(file);
    text[n] = 0;
    const char *at = strrchr(text, ')'); /* a program's name may hold blanks */
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at) return 0;
    ticks = strtoull(at, NULL, 10);
    clock_gettime(CLOCK_BOOTTIME, &up);
    clock_gettime(CLOCK_REALTIME, &now);
    double boot =
        (double)(now.tv_sec - up.tv_sec) + 1e-9 * (double)(now.tv_nsec - up.tv_nsec);
    known = boot + (double)ticks / (double)sysconf(_SC_CLK_TCK);
    return known;
}

void mal_process_look(struct mal_process *out) {
    struct timespec cpu = {0};
    struct rlimit files = {0};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    getrlimit(RLIMIT_NOFILE, &files);
    *out = (struct mal_process){.cpu_seconds =
                                    (double)cpu.tv_sec + 1e-9 * (double)cpu.tv_nsec,
                                .started = started(),
                                .open_files = count_files(),
                                .max_files = (int64_t)files.rlim_cur};
    read_memory(&out->virtual_bytes, &out->resident_bytes);
}
