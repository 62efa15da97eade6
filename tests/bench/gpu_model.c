/* gpu_model.c - a large random checkpoint, quickly: the linear layers are holes in the
 * file, filled on the device once they are there. */
#include "gpu_model.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/random.h"
#include "core/tensor.h"

enum {
    BLOCK = 32 << 20, /* random numbers that are repeated */
    PIECE = 1 << 20,  /* of it, copied by a thread at a time */
    STEP = 65537,     /* by which tensors begin apart, in ALIGNED bytes */
    ALIGNED = 64,
    ROTARY = 64,
    CONTEXT = 2048
};

static const float STD = 0.02F;

/* ---- Small files ---- */

static bool write_text(const char *dir, const char *name, const char *text,
                       struct mal_error *err) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    bool ok = file && fputs(text, file) >= 0;
    ok = file && fclose(file) == 0 && ok;
    return ok || mal_fail(err, MAL_IO, "%s: %s", path, strerror(errno));
}

static bool write_config(const char *dir, const struct gpu_model_shape *s,
                         struct mal_error *err) {
    char text[1024];
    int64_t head = s->channels / s->heads;
    snprintf(text, sizeof text,
             "{\"model_type\": \"gptj\", \"architectures\": [\"GPTJForCausalLM\"],\n"
             " \"activation_function\": \"gelu_new\", \"layer_norm_epsilon\": 1e-05,\n"
             " \"n_embd\": %" PRId64 ", \"n_inner\": %" PRId64 ", \"n_layer\": %" PRId64
             ", \"n_head\": %" PRId64 ",\n \"n_positions\": %d, \"rotary_dim\": %" PRId64
             ", \"vocab_size\": %" PRId64 ",\n \"bos_token_id\": 256, "
             "\"eos_token_id\": 256, \"tie_word_embeddings\": false, "
             "\"torch_dtype\": \"bfloat16\"}\n",
             s->channels, s->inner, s->layers, s->heads, CONTEXT,
             head < ROTARY ? head : ROTARY, s->vocab);
    return write_text(dir, "config.json", text, err);
}

/* Byte-level BPE without merges: the 256 bytes, in the letters that stand for them. */
static bool write_tokenizer(const char *dir, struct mal_error *err) {
    char text[256 * 24], *p = text, *end = text + sizeof text;
    int moved = 0;
    p += snprintf(p, (size_t)(end - p), "{");
    for (int i = 0; i < 256; i++) {
        bool shown = (i >= 33 && i <= 126) || (i >= 161 && i != 173);
        p += snprintf(p, (size_t)(end - p), "\"\\u%04x\": %d, ",
                      (unsigned)(shown ? i : 256 + moved++), i);
    }
    snprintf(p, (size_t)(end - p), "\"<|endoftext|>\": 256}\n");
    return write_text(dir, "vocab.json", text, err) &&
           write_text(dir, "merges.txt", "#version: 0.2\n", err);
}

/* ---- The checkpoint ---- */

/* A hole in the file takes no memory and reads as zeros. */
enum content { RANDOM, ONES, HOLE };

struct tensor {
    char name[96];
    int64_t rows, columns; /* rows 0: a vector */
    enum content what;
    int64_t bytes, at; /* in the data */
};

struct tensors {
    struct tensor *list;
    size_t n, room;
    int64_t bytes;
    bool failed;
};

static void add(struct tensors *t, int64_t layer, const char *name, int64_t rows,
                int64_t columns, enum content what) {
    if (t->n == t->room) {
        size_t room = t->room ? 2 * t->room : 64;
        struct tensor *list = mal_realloc(t->list, room * sizeof *list);
        if (!list) {
            t->failed = true;
            return;
        }
        t->list = list;
        t->room = room;
    }
    struct tensor *one = &t->list[t->n++];
    *one = (struct tensor){.rows = rows, .columns = columns, .what = what};
    if (layer >= 0)
        snprintf(one->name, sizeof one->name, "transformer.h.%" PRId64 ".%s", layer,
                 name);
    else
        snprintf(one->name, sizeof one->name, "%s", name);
    one->bytes = 2 * columns * (rows ? rows : 1);
    one->at = t->bytes;
    t->bytes += one->bytes;
}

static void list_tensors(struct tensors *t, const struct gpu_model_shape *s) {
    int64_t c = s->channels, f = s->inner, v = s->vocab;
    add(t, -1, "transformer.wte.weight", v, c, RANDOM);
    for (int64_t l = 0; l < s->layers; l++) {
        add(t, l, "ln_1.weight", 0, c, ONES);
        add(t, l, "ln_1.bias", 0, c, RANDOM);
        add(t, l, "attn.q_proj.weight", c, c, HOLE);
        add(t, l, "attn.k_proj.weight", c, c, HOLE);
        add(t, l, "attn.v_proj.weight", c, c, HOLE);
        add(t, l, "attn.out_proj.weight", c, c, HOLE);
        add(t, l, "mlp.fc_in.weight", f, c, HOLE);
        add(t, l, "mlp.fc_in.bias", 0, f, RANDOM);
        add(t, l, "mlp.fc_out.weight", c, f, HOLE);
        add(t, l, "mlp.fc_out.bias", 0, c, RANDOM);
    }
    add(t, -1, "transformer.ln_f.weight", 0, c, ONES);
    add(t, -1, "transformer.ln_f.bias", 0, c, RANDOM);
    add(t, -1, "lm_head.weight", v, c, RANDOM);
    add(t, -1, "lm_head.bias", 0, v, RANDOM);
}

/* The file's beginning; *bytes long, owned. */
static char *make_header(const struct tensors *t, size_t *bytes) {
    size_t room = 64 + t->n * 256;
    char *text = mal_malloc(room), *p = text;
    if (!text) return NULL;
    p += 8;
    p += snprintf(p, 64, "{\"__metadata__\": {\"format\": \"pt\"}");
    for (size_t i = 0; i < t->n; i++) {
        const struct tensor *one = &t->list[i];
        char shape[64];
        snprintf(shape, sizeof shape, one->rows ? "%" PRId64 ", %" PRId64 : "%" PRId64,
                 one->rows ? one->rows : one->columns, one->columns);
        p += snprintf(p, 250,
                      ", \"%s\": {\"dtype\": \"BF16\", \"shape\": [%s], "
                      "\"data_offsets\": [%" PRId64 ", %" PRId64 "]}",
                      one->name, shape, one->at, one->at + one->bytes);
    }
    *p++ = '}';
    while ((p - text) % 8)
        *p++ = ' ';
    uint64_t length = (uint64_t)(p - text) - 8;
    memcpy(text, &length, 8); /* little endian, as x86 is */
    *bytes = (size_t)(p - text);
    return text;
}

/* BLOCK bytes of numbers with a deviation of STD, twice one after the other, so that
 * BLOCK bytes can be taken from anywhere in the first; owned. */
static char *make_block(void) {
    enum { AT_ONCE = 4096 };

    char *block = mal_malloc((size_t)2 * BLOCK);
    int64_t n = BLOCK / 2 / AT_ONCE;
#pragma omp parallel for
    for (int64_t i = 0; i < (block ? n : 0); i++) {
        float values[AT_ONCE];
        uint64_t seed = (uint64_t)i;
        for (int k = 0; k < AT_ONCE; k++)
            values[k] = STD * 1.7320508F * (float)(2 * mal_random_unit(&seed) - 1);
        mal_from_f32(block + i * 2 * AT_ONCE, values, MAL_BF16, AT_ONCE);
    }
    if (block) memcpy(block + BLOCK, block, BLOCK);
    return block;
}

static void fill_tensor(const struct tensor *t, size_t i, const char *block, char *dst) {
    static const uint16_t one = 0x3f80;
    if (t->what == HOLE) return;
    if (t->what == ONES) {
        for (int64_t k = 0; k < t->bytes; k += 2)
            memcpy(dst + k, &one, 2);
        return;
    }
    const char *from = block + (i * STEP) % (BLOCK / ALIGNED) * ALIGNED;
#pragma omp parallel for
    for (int64_t at = 0; at < t->bytes; at += PIECE) {
        int64_t n = t->bytes - at < PIECE ? t->bytes - at : PIECE;
        memcpy(dst + at, from + at % BLOCK, (size_t)n);
    }
}

static bool write_tensors(const char *path, const struct tensors *t,
                          struct mal_error *err) {
    size_t header_bytes = 0;
    char *header = make_header(t, &header_bytes), *block = make_block();
    size_t bytes = header_bytes + (size_t)t->bytes;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0666);
    bool ok = header && block && fd >= 0 && ftruncate(fd, (off_t)bytes) == 0;
    char *map =
        ok ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (map != MAP_FAILED) {
        memcpy(map, header, header_bytes);
        for (size_t i = 0; i < t->n; i++)
            fill_tensor(&t->list[i], i, block, map + header_bytes + t->list[i].at);
        ok = munmap(map, bytes) == 0;
    } else {
        ok = mal_fail(err, MAL_IO, "%s: %s", path, strerror(errno));
    }
    if (fd >= 0) close(fd);
    mal_free(header);
    mal_free(block);
    return ok;
}

bool gpu_model_write(const char *dir, const struct gpu_model_shape *shape,
                     struct mal_error *err) {
    char path[512];
    struct tensors t = {0};
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    list_tensors(&t, shape);
    bool ok = (!t.failed || mal_fail(err, MAL_NO_MEMORY, "tensors")) &&
              write_config(dir, shape, err) && write_tokenizer(dir, err) &&
              write_tensors(path, &t, err);
    mal_free(t.list);
    return ok;
}

bool gpu_model_fill(struct mal_model *model, struct mal_error *err) {
    struct mal_backend *be = mal_model_backend(model);
    char *block = make_block(), *device = mal_backend_alloc(be, (size_t)2 * BLOCK);
    bool ok = (block && device) || mal_fail(err, MAL_NO_MEMORY, "random weights");
    if (ok) mal_backend_upload(be, device, block, (size_t)2 * BLOCK);
    for (size_t i = 0; ok && i < mal_model_n_linears(model); i++) {
        const struct mal_linear *lin = mal_model_linear(model, i);
        char *dst = (char *)(uintptr_t)lin->w0;
        const char *from = device + (i * STEP) % (BLOCK / ALIGNED) * ALIGNED;
        int64_t bytes = 2 * lin->d_in * lin->d_out;
        for (int64_t at = 0; at < bytes; at += BLOCK) {
            int64_t n = bytes - at < BLOCK ? bytes - at : BLOCK;
            mal_backend_copy(be, dst + at, from, (size_t)n);
        }
    }
    ok = ok && mal_backend_sync(be, err);
    mal_backend_free(be, device);
    mal_free(block);
    return ok;
}

/* ---- Facts ---- */

/* A word of so many letters; NULL without memory. */
static char *word(uint64_t *seed, int letters) {
    char text[128];
    for (int i = 0; i < letters; i++)
        text[i] = (char)('a' + mal_random_below(seed, 26));
    text[letters] = 0;
    return mal_strdup(text);
}

/* With a space before it, of 3 or 4 tokens. */
static char *answer(uint64_t *seed) {
    return word(seed, 2 + (int)mal_random_below(seed, 2));
}

static char *question(uint64_t *seed, int tokens) {
    int most = tokens > 100 ? 100 : tokens;
    return word(seed, most - 2 - 4 + (int)mal_random_below(seed, 9));
}

/* Four letters, or as many as there are, that end three before the prompt does: zsRE's
 * subjects are about so long, and so far from the end. */
static char *subject(const char *prompt) {
    size_t n = strlen(prompt), end = n > 3 ? n - 3 : n, from = end > 4 ? end - 4 : 0;
    char text[8];
    snprintf(text, sizeof text, "%.*s", (int)(end - from), prompt + from);
    return mal_strdup(text);
}

bool gpu_model_facts(struct mal_fact **out, size_t n, int tokens, struct mal_error *err) {
    uint64_t seed = 11;
    struct mal_fact *facts = mal_calloc(n, sizeof *facts);
    if (!facts) return mal_fail(err, MAL_NO_MEMORY, "facts");
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        struct mal_fact *fact = &facts[i];
        fact->prompt = question(&seed, tokens);
        fact->target = answer(&seed);
        fact->rephrases = mal_calloc(1, sizeof *fact->rephrases);
        fact->unrelated = mal_calloc(1, sizeof *fact->unrelated);
        ok = ok && fact->prompt && fact->target && fact->rephrases && fact->unrelated;
        if (!ok) break;
        fact->subject = subject(fact->prompt);
        fact->n_rephrases = fact->n_unrelated = 1;
        fact->rephrases[0] = question(&seed, tokens);
        fact->unrelated[0].prompt = question(&seed, tokens);
        fact->unrelated[0].target = answer(&seed);
        ok = fact->subject && fact->rephrases[0] && fact->unrelated[0].prompt &&
             fact->unrelated[0].target;
    }
    if (ok) {
        *out = facts;
        return true;
    }
    mal_facts_free(facts, n);
    return mal_fail(err, MAL_NO_MEMORY, "facts");
}
