/* disk.c - free space, looked at before anything is promised. */
#include "daemon/base/disk.h"

#include <pthread.h>
#include <sys/statvfs.h>

#include <jansson.h>

#include "core/alloc.h"
#include "daemon/base/log.h"

struct mal_disk {
    struct mal_disk_options o;
    pthread_mutex_t lock; /* of `low`, and so that events come in order */
    bool low;
};

bool mal_disk_free(const char *path, int64_t *out) {
    struct statvfs fs;
    if (statvfs(path, &fs) != 0) return false;
    *out = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
    return true;
}

bool mal_disk_create(struct mal_disk **out, const struct mal_disk_options *options,
                     struct mal_error *err) {
    struct mal_disk *disk = mal_calloc(1, sizeof *disk);
    if (!disk) return mal_fail(err, MAL_NO_MEMORY, "disk");
    disk->o = *options;
    if (!disk->o.free_bytes) disk->o.free_bytes = mal_disk_free;
    pthread_mutex_init(&disk->lock, NULL);
    *out = disk;
    return true;
}

void mal_disk_destroy(struct mal_disk *disk) {
    if (!disk) return;
    pthread_mutex_destroy(&disk->lock);
    mal_free(disk);
}

bool mal_disk_low(struct mal_disk *disk) {
    int64_t bytes = 0;
    pthread_mutex_lock(&disk->lock);
    /* A disk that cannot be asked is not called low: writing to it will tell. */
    bool known = disk->o.free_bytes(disk->o.path, &bytes);
    bool low = known && bytes < disk->o.min_free;
    if (known && disk->o.seen) disk->o.seen(disk->o.arg, bytes, low);
    if (low != disk->low) {
        mal_log(low ? "warning" : "info", low ? "disk low" : "disk has room again",
                "{s:I,s:I}", "free_bytes", (json_int_t)bytes, "min_free_bytes",
                (json_int_t)disk->o.min_free);
    }
    disk->low = low;
    pthread_mutex_unlock(&disk->lock);
    return low;
}

bool mal_disk_has_room(int fd, int64_t bytes, int64_t min_free, struct mal_error *err) {
    struct statvfs fs;
    if (fstatvfs(fd, &fs) != 0) return true; /* writing will tell */
    int64_t left = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
    if (left - bytes >= min_free) return true;
    return mal_fail(err, MAL_NO_SPACE,
                    "the disk of the database has %lld bytes left, too few for a file of "
                    "%lld",
                    (long long)left, (long long)bytes);
}
