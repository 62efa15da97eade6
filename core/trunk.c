/* trunk.c - states by text, and the way to the device and back. */
#include "core/trunk.h"

#include <stdint.h>
#include <string.h>

#include "core/alloc.h"

enum { FIRST_ROOM = 256, GATHER_PARALLEL = 1 << 20 /* bytes */ };

struct kept {
    const int32_t *ids; /* NULL: a free place */
    int32_t n;
    const float *states; /* (n, C), in a chunk */
};

/* What one pass left. */
struct chunk {
    struct chunk *next;
    float states[];
};

struct mal_trunk {
    struct mal_model *model;
    struct mal_backend *be;
    size_t row; /* bytes of one state */
    struct kept *table;
    size_t n, room; /* a power of two, at most half full */
    struct chunk *chunks;
    size_t bytes, limit;

    /* Of the batch of the next pass, on the device, and on the host where that is another
     * memory. */
    float *staged, *host;
    int64_t staged_rows;
};

/* ---- Its life ---- */

bool mal_trunk_create(struct mal_trunk **out, struct mal_model *model,
                      struct mal_error *err) {
    struct mal_trunk *trunk = mal_calloc(1, sizeof *trunk);
    if (!trunk) return mal_fail(err, MAL_NO_MEMORY, "states of texts");
    trunk->model = model;
    trunk->be = mal_model_backend(model);
    trunk->row = (size_t)mal_model_info(model)->n_channels * sizeof(float);
    trunk->limit = mal_available_memory() / 4;
    *out = trunk;
    return true;
}

static void drop_staged(struct mal_trunk *trunk) {
    mal_backend_free(trunk->be, trunk->staged);
    if (trunk->host) mal_backend_free_host(trunk->be, trunk->host);
    trunk->staged = trunk->host = NULL;
    trunk->staged_rows = 0;
}

void mal_trunk_destroy(struct mal_trunk *trunk) {
    if (!trunk) return;
    struct mal_error err = {0};
    bool ended = mal_backend_sync(trunk->be, &err); /* copies on their way to chunks */
    (void)ended;
    drop_staged(trunk);
    while (trunk->chunks) {
        struct chunk *next = trunk->chunks->next;
        mal_free(trunk->chunks);
        trunk->chunks = next;
    }
    mal_free(trunk->table);
    mal_free(trunk);
}

size_t mal_trunk_bytes(const struct mal_trunk *trunk) {
    return trunk->bytes;
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

static const float *find(const struct mal_trunk *trunk, const int32_t *ids, int32_t n) {
    return trunk->n > 0 ? place_of(trunk, ids, n)->states : NULL;
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

static bool make_room(struct mal_trunk *trunk, int64_t rows) {
    if (rows <= trunk->staged_rows) return true;
    size_t bytes = (size_t)rows * trunk->row;
    bool on_host = mal_backend_on_host(trunk->be);
    drop_staged(trunk);
    trunk->staged = mal_backend_alloc(trunk->be, bytes);
    if (!on_host) trunk->host = mal_backend_alloc_host(trunk->be, bytes);
    if (!trunk->staged || (!on_host && !trunk->host)) {
        drop_staged(trunk);
        return false;
    }
    trunk->staged_rows = rows;
    return true;
}

/* The states of all texts, one after the other, for the pass to begin with. */
static void gather(struct mal_trunk *trunk, const struct mal_example *examples,
                   const size_t *order, size_t n, const int32_t *start) {
    float *to = trunk->host ? trunk->host : trunk->staged;
    size_t bytes = (size_t)start[n] * trunk->row;
#pragma omp parallel for schedule(static) if (bytes > GATHER_PARALLEL)
    for (size_t i = 0; i < n; i++) {
        int32_t rows = start[i + 1] - start[i];
        memcpy((char *)to + (size_t)start[i] * trunk->row,
               find(trunk, ids_of(examples, order, i), rows), (size_t)rows * trunk->row);
    }
    if (trunk->host) mal_backend_upload(trunk->be, trunk->staged, trunk->host, bytes);
}

void mal_trunk_begin(struct mal_trunk *trunk, const struct mal_example *examples,
                     const size_t *order, size_t n, struct mal_batch *batch) {
    const int32_t *start = trunk ? mal_model_trunk_start(trunk->model, batch) : NULL;
    if (!start) return;
    bool known = true;
    for (size_t i = 0; known && i < n; i++)
        known = find(trunk, ids_of(examples, order, i), start[i + 1] - start[i]) != NULL;
    if (!known && trunk->bytes + (size_t)start[n] * trunk->row > trunk->limit) return;
    if (!make_room(trunk, start[n])) return;
    if (known) gather(trunk, examples, order, n, start);
    batch->trunk = trunk->staged;
    batch->trunk_known = known;
}

void mal_trunk_end(struct mal_trunk *trunk, const struct mal_example *examples,
                   const size_t *order, const struct mal_batch *batch) {
    if (!batch->trunk || batch->trunk_known) return;
    const int32_t *start = mal_model_trunk_start(trunk->model, batch);
    size_t n = batch->n_seqs, bytes = (size_t)start[n] * trunk->row;
    if (!grow(trunk, n)) return;
    struct chunk *chunk = mal_malloc(sizeof *chunk + bytes);
    if (!chunk) return;
    chunk->next = trunk->chunks;
    trunk->chunks = chunk;
    trunk->bytes += bytes;
    mal_backend_download(trunk->be, chunk->states, batch->trunk, bytes);
    for (size_t i = 0; i < n; i++) {
        const int32_t *ids = ids_of(examples, order, i);
        int32_t rows = start[i + 1] - start[i];
        struct kept *place = place_of(trunk, ids, rows);
        trunk->n += place->ids == NULL;
        *place = (struct kept){
            ids, rows, chunk->states + (size_t)start[i] * trunk->row / sizeof(float)};
    }
}
