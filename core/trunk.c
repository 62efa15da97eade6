/* trunk.c - states by text, and the way to the device and back.
 *
 * What a pass leaves stays on the device while there is plenty of room, and is given back
 * when there is not (mal_backend_on_shortage()); beyond that it goes to host memory. */
#include "core/trunk.h"

#include <stdint.h>
#include <string.h>

#include "core/alloc.h"

enum {
    FIRST_ROOM = 256,
    GATHER_PARALLEL = 1 << 20, /* bytes */
    SHARE = 4                  /* of the memory that is free: what is kept at most */
};

/* What one pass left. */
struct chunk {
    struct chunk *next;
    float *states; /* of the device, or on the host; NULL: they were given back */
    size_t bytes;
    bool on_device; /* and that is not the host */
};

struct kept {
    const int32_t *ids; /* NULL: a free place */
    int32_t n;
    const struct chunk *chunk;
    size_t at; /* bytes: where its (n, C) begin in the chunk */
};

struct mal_trunk {
    struct mal_model *model;
    struct mal_backend *be;
    size_t row; /* bytes of one state */
    struct kept *table;
    size_t n, room; /* a power of two, at most half full */
    struct chunk *chunks;
    size_t on_host, on_device; /* bytes */
    size_t limit;              /* of those on the host */
    bool gives_back;           /* it is asked when device memory is short */
    bool takes;                /* it is being asked by its own allocation */

    /* Of the batch of the next pass, on the device, and on the host where that is another
     * memory and texts are kept in it. */
    float *staged, *host;
    int64_t staged_rows, host_rows;
};

/* ---- Its life ---- */

static void free_states(struct mal_trunk *trunk, struct chunk *chunk) {
    size_t *bytes = chunk->on_device ? &trunk->on_device : &trunk->on_host;
    if (!chunk->states) return;
    *bytes -= chunk->bytes;
    if (chunk->on_device)
        mal_backend_free(trunk->be, chunk->states);
    else
        mal_free(chunk->states);
    chunk->states = NULL;
}

/* Device memory is short: texts that are kept there are no longer. */
static bool give_back(void *arg) {
    struct mal_trunk *trunk = arg;
    if (trunk->takes || trunk->on_device == 0) return false;
    for (struct chunk *chunk = trunk->chunks; chunk; chunk = chunk->next)
        if (chunk->on_device) free_states(trunk, chunk);
    return true;
}

bool mal_trunk_create(struct mal_trunk **out, struct mal_model *model,
                      struct mal_error *err) {
    struct mal_trunk *trunk = mal_calloc(1, sizeof *trunk);
    if (!trunk) return mal_fail(err, MAL_NO_MEMORY, "states of texts");
    trunk->model = model;
    trunk->be = mal_model_backend(model);
    trunk->row = (size_t)mal_model_info(model)->n_channels * sizeof(float);
    trunk->limit = mal_available_memory() / SHARE;
    trunk->gives_back = !mal_backend_on_host(trunk->be) &&
                        mal_backend_on_shortage(trunk->be, give_back, trunk);
    *out = trunk;
    return true;
}

static void drop_staged(struct mal_trunk *trunk) {
    mal_backend_free(trunk->be, trunk->staged);
    if (trunk->host) mal_backend_free_host(trunk->be, trunk->host);
    trunk->staged = trunk->host = NULL;
    trunk->staged_rows = trunk->host_rows = 0;
}

void mal_trunk_destroy(struct mal_trunk *trunk) {
    if (!trunk) return;
    struct mal_error err = {0};
    bool ended = mal_backend_sync(trunk->be, &err); /* copies on their way to chunks */
    (void)ended;
    if (trunk->gives_back) mal_backend_on_shortage(trunk->be, NULL, NULL);
    drop_staged(trunk);
    while (trunk->chunks) {
        struct chunk *next = trunk->chunks->next;
        free_states(trunk, trunk->chunks);
        mal_free(trunk->chunks);
        trunk->chunks = next;
    }
    mal_free(trunk->table);
    mal_free(trunk);
}

size_t mal_trunk_bytes(const struct mal_trunk *trunk) {
    return trunk->on_host + trunk->on_device;
}

/* ---- The table ---- */

/* The place of a text, or the free one where it would be. */
static struct kept *place_of(const struct mal_trunk *trunk, const int32_t *ids,
                             int32_t n) {
    uint64_t hash = (uint64_t)(uintptr_t)ids * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)n;
    size_t i = (size_t)(hash >> 32) & (trunk->room - 1);
    while (trunk->table[i].ids && (trunk->table[i].ids != ids || trunk->table[i].n != n))
        i = (i + 1) & (trunk->room - 1);
    return &trunk->table[i];
}

/* NULL: its states are not kept. */
static const struct kept *find(const struct mal_trunk *trunk, const int32_t *ids,
                               int32_t n) {
    const struct kept *kept = trunk->n > 0 ? place_of(trunk, ids, n) : NULL;
    return kept && kept->ids && kept->chunk->states ? kept : NULL;
}

/* False: there is no memory for `more` texts. */
static bool grow(struct mal_trunk *trunk, size_t more) {
    size_t room = trunk->room ? trunk->room : FIRST_ROOM;
    while (room < 2 * (trunk->n + more))
        room *= 2;
    if (room == trunk->room) return true;
    struct mal_trunk grown = *trunk;
    grown.room = room;
    grown.table = mal_calloc(room, sizeof *grown.table);
    if (!grown.table) return false;
    for (size_t i = 0; i < trunk->room; i++) {
        const struct kept *old = &trunk->table[i];
        if (old->ids) *place_of(&grown, old->ids, old->n) = *old;
    }
    mal_free(trunk->table);
    *trunk = grown;
    return true;
}

/* ---- Passes ---- */

static const int32_t *ids_of(const struct mal_example *examples, const size_t *order,
                             size_t i) {
    return examples[order ? order[i] : i].ids;
}

/* The next pass' rows on the device. */
static bool make_room(struct mal_trunk *trunk, int64_t rows) {
    if (rows <= trunk->staged_rows) return true;
    drop_staged(trunk);
    trunk->staged = mal_backend_alloc(trunk->be, (size_t)rows * trunk->row);
    if (trunk->staged) trunk->staged_rows = rows;
    return trunk->staged;
}

/* And on the host, for those that come from there. */
static bool make_host_room(struct mal_trunk *trunk) {
    if (trunk->host_rows == trunk->staged_rows) return true;
    size_t bytes = (size_t)trunk->staged_rows * trunk->row;
    trunk->host = mal_backend_alloc_host(trunk->be, bytes);
    if (trunk->host) trunk->host_rows = trunk->staged_rows;
    return trunk->host;
}

/* The texts of a batch, and where their rows begin. */
struct texts {
    const struct mal_example *examples;
    const size_t *order;
    size_t n;
    const int32_t *start;
};

static const struct kept *text_at(const struct mal_trunk *trunk,
                                  const struct texts *texts, size_t i) {
    return find(trunk, ids_of(texts->examples, texts->order, i),
                texts->start[i + 1] - texts->start[i]);
}

/* Where text i's states are to be, and how many bytes. */
static char *place_in(const struct mal_trunk *trunk, const struct texts *texts, size_t i,
                      float *of, size_t *bytes) {
    *bytes = (size_t)(texts->start[i + 1] - texts->start[i]) * trunk->row;
    return (char *)of + (size_t)texts->start[i] * trunk->row;
}

/* Of texts that are all kept. */
static void gather_on_host(const struct mal_trunk *trunk, const struct texts *texts,
                           float *to) {
    size_t all = (size_t)texts->start[texts->n] * trunk->row;
#pragma omp parallel for schedule(static) if (all > GATHER_PARALLEL)
    for (size_t i = 0; i < texts->n; i++) {
        size_t bytes;
        const struct kept *kept = text_at(trunk, texts, i);
        char *place = place_in(trunk, texts, i, to, &bytes);
        if (!kept->chunk->on_device)
            memcpy(place, (const char *)kept->chunk->states + kept->at, bytes);
    }
}

/* The states of all texts, one after the other, for the pass to begin with; `host`: some
 * are in host memory. */
static bool gather(struct mal_trunk *trunk, const struct texts *texts, bool host) {
    if (mal_backend_on_host(trunk->be)) {
        gather_on_host(trunk, texts, trunk->staged);
        return true;
    }
    if (host) {
        if (!make_host_room(trunk)) return false;
        gather_on_host(trunk, texts, trunk->host);
        mal_backend_upload(trunk->be, trunk->staged, trunk->host,
                           (size_t)texts->start[texts->n] * trunk->row);
    }
    for (size_t i = 0; i < texts->n; i++) {
        size_t bytes;
        const struct kept *kept = text_at(trunk, texts, i);
        char *place = place_in(trunk, texts, i, trunk->staged, &bytes);
        if (kept->chunk->on_device)
            mal_backend_copy(trunk->be, place,
                             (const char *)kept->chunk->states + kept->at, bytes);
    }
    return true;
}

void mal_trunk_begin(struct mal_trunk *trunk, const struct mal_example *examples,
                     const size_t *order, size_t n, struct mal_batch *batch) {
    const int32_t *start = trunk ? mal_model_trunk_start(trunk->model, batch) : NULL;
    if (!start || !make_room(trunk, start[n])) return;
    const struct texts texts = {examples, order, n, start};
    bool known = true, host = false;
    for (size_t i = 0; known && i < n; i++) {
        const struct kept *kept = text_at(trunk, &texts, i);
        known = kept != NULL;
        host = host || (kept && !kept->chunk->on_device);
    }
    if (known && !gather(trunk, &texts, host)) return;
    batch->trunk = trunk->staged;
    batch->trunk_known = known;
}

/* Memory for `bytes`, where there is plenty of it. */
static bool take(struct mal_trunk *trunk, struct chunk *chunk, size_t bytes) {
    *chunk = (struct chunk){.bytes = bytes};
    if (trunk->gives_back) {
        size_t all = mal_backend_available(trunk->be) + trunk->on_device;
        trunk->takes = true;
        if (trunk->on_device + bytes <= all / SHARE)
            chunk->states = mal_backend_alloc(trunk->be, bytes);
        trunk->takes = false;
        chunk->on_device = chunk->states != NULL;
    }
    if (!chunk->states && trunk->on_host + bytes <= trunk->limit)
        chunk->states = mal_malloc(bytes);
    if (!chunk->states) return false;
    *(chunk->on_device ? &trunk->on_device : &trunk->on_host) += bytes;
    return true;
}

static struct chunk *keep_rows(struct mal_trunk *trunk, const float *rows, size_t bytes) {
    struct chunk *chunk = mal_malloc(sizeof *chunk);
    if (!chunk || !take(trunk, chunk, bytes)) {
        mal_free(chunk);
        return NULL;
    }
    chunk->next = trunk->chunks;
    trunk->chunks = chunk;
    if (chunk->on_device)
        mal_backend_copy(trunk->be, chunk->states, rows, bytes);
    else
        mal_backend_download(trunk->be, chunk->states, rows, bytes);
    return chunk;
}

void mal_trunk_end(struct mal_trunk *trunk, const struct mal_example *examples,
                   const size_t *order, const struct mal_batch *batch) {
    if (!batch->trunk || batch->trunk_known) return;
    const int32_t *start = mal_model_trunk_start(trunk->model, batch);
    size_t n = batch->n_seqs;
    if (!grow(trunk, n)) return;
    const struct chunk *chunk =
        keep_rows(trunk, batch->trunk, (size_t)start[n] * trunk->row);
    for (size_t i = 0; chunk && i < n; i++) {
        const int32_t *ids = ids_of(examples, order, i);
        int32_t rows = start[i + 1] - start[i];
        struct kept *place = place_of(trunk, ids, rows);
        trunk->n += place->ids == NULL;
        *place = (struct kept){ids, rows, chunk, (size_t)start[i] * trunk->row};
    }
}
