/* downloads.c - makes the files and keeps a few. */
#include "daemon/api/downloads.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/export/lora.h"
#include "core/new_file.h"
#include "daemon/api/daemon.h"
#include "daemon/base/disk.h"
#include "daemon/engine/engine_export.h"
#include "daemon/engine/history.h"
#include "daemon/engine/history_shift.h"

enum { KEPT = 4, IDLE_MS = 60000 };

enum state { WAITING, MAKING, READY };

struct item {
    struct item *next; /* in the order they were asked for */
    int64_t version;
    enum mal_download_format format;
    enum state state;
    char weights_hash[MAL_HASH_HEX];
    struct mal_download file; /* fd -1: not yet */
    int64_t used_ms;          /* when it was last asked for */
    struct mal_download_waiter *waiters;
};

struct mal_downloads {
    struct mal_daemon *d;
    struct item *items;
};

/* What the work thread works on; one at a time. */
struct making {
    struct mal_downloads *downloads;
    struct item *item; /* not looked at by the work thread */
    const char *db;
    int64_t min_free; /* bytes to be left on its disk */
    enum mal_download_format format;
    struct mal_export ex; /* its texts are those of the engine, or of `item` */
    struct mal_history_shift *shift;
    char *model_name, *base_model; /* owned: the engine may be gone before this is done */
    struct mal_download file;
    bool ok;
    struct mal_error err;
};

/* ---- On the work thread ---- */

static bool read_shift(void *arg, size_t module, float *out, struct mal_error *err) {
    struct making *making = arg;
    return mal_history_shift_read(making->shift, &making->ex.modules[module], out, err);
}

static bool read_factors(void *arg, size_t module, struct mal_export_factors *out,
                         struct mal_error *err) {
    struct making *making = arg;
    return mal_history_shift_factors(making->shift, &making->ex.modules[module], out,
                                     err);
}

/* The file's bytes at most, but for a header. */
static int64_t bytes_needed(const struct making *making) {
    int64_t floats = 0;
    for (size_t m = 0; m < making->ex.n_modules; m++) {
        int64_t d_in = making->ex.modules[m].d_in, d_out = making->ex.modules[m].d_out;
        int64_t rank = d_in < d_out ? d_in : d_out;
        if (rank > MAL_LORA_MAX_RANK) rank = MAL_LORA_MAX_RANK;
        floats +=
            making->format == MAL_DOWNLOAD_LORA ? rank * (d_in + d_out) : d_in * d_out;
    }
    return floats * (int64_t)sizeof(float);
}

static bool write_file(struct making *making, struct mal_new_file *file,
                       struct mal_error *err) {
    if (making->format == MAL_DOWNLOAD_SAFETENSORS)
        return mal_export_delta(&making->ex, file, err);
    struct mal_lora lora = {0};
    bool ok = mal_lora_create(&lora, &making->ex, MAL_LORA_MAX_RANK, err) &&
              mal_lora_write_tar(&lora, file, err);
    making->file.relative_error = lora.error;
    mal_lora_finish(&lora);
    return ok;
}

static bool make_once(struct making *making, struct mal_store *store,
                      struct mal_error *err) {
    struct mal_new_file file = {.fd = -1};
    struct stat st;
    bool ok = mal_history_shift_open(&making->shift, store, making->ex.version, err) &&
              mal_new_file_unnamed(&file, making->db, err) &&
              mal_disk_has_room(file.fd, bytes_needed(making), making->min_free, err) &&
              write_file(making, &file, err);
    if (ok && fstat(file.fd, &st) != 0) ok = mal_fail(err, MAL_IO, "the file made");
    if (ok) {
        making->file.whole = mal_history_shift_is_whole(making->shift);
        making->file.fd = file.fd;
        making->file.bytes = (uint64_t)st.st_size;
    } else if (file.fd >= 0) {
        close(file.fd);
    }
    mal_history_shift_close(making->shift);
    making->shift = NULL;
    return ok;
}

static void make(void *arg) {
    struct making *making = arg;
    struct mal_error *err = &making->err;
    struct mal_store *store = NULL;
    struct mal_history_tries tries;
    bool ok = mal_store_open_reader(&store, making->db, err) &&
              mal_history_begin_tries(store, &tries, err);
    while (ok && !making->ok) {
        making->ok = make_once(making, store, err);
        ok = making->ok || mal_history_try_again(store, &tries, err);
    }
    mal_store_close(store);
}

/* ---- On the loop ---- */

static void begin_next(struct mal_downloads *downloads);

static void making_free(struct making *making) {
    mal_export_finish(&making->ex);
    mal_free(making->model_name);
    mal_free(making->base_model);
    mal_free(making);
}

static void item_free(struct item *item) {
    if (item->file.fd >= 0) close(item->file.fd);
    mal_free(item);
}

static void drop(struct mal_downloads *downloads, struct item *item) {
    struct item **p = &downloads->items;
    while (*p != item)
        p = &(*p)->next;
    *p = item->next;
    item_free(item);
}

/* Of the files that are ready, the one longest unused goes if there are too many. */
static void drop_oldest(struct mal_downloads *downloads) {
    struct item *oldest = NULL;
    int ready = 0;
    for (struct item *item = downloads->items; item; item = item->next) {
        if (item->state != READY) continue;
        ready++;
        if (!oldest || item->used_ms < oldest->used_ms) oldest = item;
    }
    if (ready > KEPT) drop(downloads, oldest);
}

static void tell(struct item *item, const struct mal_download *file,
                 const struct mal_error *err) {
    struct mal_download_waiter *waiter = item->waiters;
    item->waiters = NULL;
    while (waiter) {
        struct mal_download_waiter *next = waiter->next;
        waiter->ready(waiter, file, err);
        waiter = next;
    }
}

static void made(void *arg) {
    struct making *making = arg;
    struct mal_downloads *downloads = making->downloads;
    struct item *item = making->item;
    if (making->ok) {
        item->file = making->file;
        item->state = READY;
        item->used_ms = mal_monotonic_ms();
        mal_count(&downloads->d->metrics->downloads_made, 1);
        tell(item, &item->file, NULL);
        drop_oldest(downloads);
    } else {
        tell(item, NULL, &making->err);
        drop(downloads, item);
    }
    making_free(making);
    begin_next(downloads);
}

static bool begin(struct mal_downloads *downloads, struct item *item,
                  struct mal_error *err) {
    struct mal_daemon *d = downloads->d;
    struct making *making = mal_calloc(1, sizeof *making);
    if (!making) return mal_fail(err, MAL_NO_MEMORY, "download");
    *making = (struct making){.downloads = downloads,
                              .item = item,
                              .db = d->db,
                              .min_free = d->min_free_disk,
                              .format = item->format,
                              .file = {.fd = -1}};
    if (!mal_engine_export(d->engine, &making->ex, err)) goto fail;
    making->model_name = mal_strdup(making->ex.model_name);
    making->base_model = mal_strdup(making->ex.base_model);
    if (!making->model_name || !making->base_model) {
        mal_fail(err, MAL_NO_MEMORY, "download");
        goto fail;
    }
    making->ex.model_name = making->model_name;
    making->ex.base_model = making->base_model;
    making->ex.version = item->version;
    making->ex.weights_hash = item->weights_hash;
    making->ex.shift = read_shift;
    making->ex.factors = read_factors;
    making->ex.arg = making;
    if (!mal_loop_work(d->loop, make, made, making, err)) goto fail;
    return true;

fail:
    making_free(making);
    return false;
}

/* The item asked for first, unless one is being made. */
static void begin_next(struct mal_downloads *downloads) {
    struct item *next;
    do {
        next = NULL;
        for (struct item *item = downloads->items; item; item = item->next) {
            if (item->state == MAKING) return;
            if (item->state == WAITING && !next) next = item;
        }
        if (!next) return;
        struct mal_error err = {0};
        if (!downloads->d->engine || downloads->d->stopping) {
            mal_fail(&err, MAL_NOT_READY, "the daemon is stopping");
        } else if (begin(downloads, next, &err)) {
            next->state = MAKING;
            return;
        }
        tell(next, NULL, &err);
        drop(downloads, next);
    } while (next);
}

static struct item *find(const struct mal_downloads *downloads, int64_t version,
                         enum mal_download_format format) {
    struct item *item = downloads->items;
    while (item && (item->version != version || item->format != format))
        item = item->next;
    return item;
}

static struct item *add(struct mal_downloads *downloads, int64_t version,
                        const char *weights_hash, enum mal_download_format format) {
    struct item *item = mal_calloc(1, sizeof *item), **last = &downloads->items;
    if (!item) return NULL;
    *item = (struct item){.version = version, .format = format, .file = {.fd = -1}};
    snprintf(item->weights_hash, sizeof item->weights_hash, "%s", weights_hash);
    while (*last)
        last = &(*last)->next;
    *last = item;
    return item;
}

void mal_downloads_get(struct mal_downloads *downloads, int64_t version,
                       const char *weights_hash, enum mal_download_format format,
                       struct mal_download_waiter *waiter) {
    struct item *item = find(downloads, version, format);
    if (!item) item = add(downloads, version, weights_hash, format);
    if (!item) {
        struct mal_error err = {0};
        mal_fail(&err, MAL_NO_MEMORY, "download");
        waiter->ready(waiter, NULL, &err);
        return;
    }
    item->used_ms = mal_monotonic_ms();
    if (item->state == READY) {
        waiter->ready(waiter, &item->file, NULL);
        return;
    }
    waiter->next = item->waiters;
    item->waiters = waiter;
    begin_next(downloads);
}

void mal_downloads_look(const struct mal_downloads *downloads,
                        struct mal_downloads_view *out) {
    *out = (struct mal_downloads_view){0};
    for (const struct item *item = downloads->items; item; item = item->next) {
        if (item->state != READY) continue;
        out->files++;
        out->bytes += item->file.bytes;
    }
}

void mal_downloads_sweep(struct mal_downloads *downloads) {
    int64_t now = mal_monotonic_ms();
    for (struct item *item = downloads->items, *next; item; item = next) {
        next = item->next;
        if (item->state == READY && now - item->used_ms > IDLE_MS) drop(downloads, item);
    }
}

/* ---- Life ---- */

bool mal_downloads_create(struct mal_downloads **out, struct mal_daemon *d,
                          struct mal_error *err) {
    struct mal_downloads *downloads = mal_calloc(1, sizeof *downloads);
    if (!downloads) return mal_fail(err, MAL_NO_MEMORY, "downloads");
    downloads->d = d;
    *out = downloads;
    return true;
}

void mal_downloads_destroy(struct mal_downloads *downloads) {
    if (!downloads) return;
    while (downloads->items)
        drop(downloads, downloads->items);
    mal_free(downloads);
}
