/* hash.c - SHA-256 through OpenSSL's low-level functions: unlike its newer ones they
 * never allocate, so that a digest cannot fail in the middle and only a hasher needs
 * memory. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "core/hash.h"

#include <string.h>

#include <openssl/sha.h>

#include "core/alloc.h"

struct mal_hasher {
    SHA256_CTX ctx;
};

bool mal_hasher_create(struct mal_hasher **out, struct mal_error *err) {
    struct mal_hasher *h = mal_malloc(sizeof *h);
    if (!h) return mal_fail(err, MAL_NO_MEMORY, "hasher");
    (void)SHA256_Init(&h->ctx);
    *out = h;
    return true;
}

void mal_hasher_destroy(struct mal_hasher *hasher) {
    mal_free(hasher);
}

void mal_hasher_add(struct mal_hasher *hasher, const void *data, size_t bytes) {
    (void)SHA256_Update(&hasher->ctx, data, bytes);
}

void mal_hasher_add_u64(struct mal_hasher *hasher, uint64_t value) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    mal_hasher_add(hasher, bytes, sizeof bytes);
}

void mal_hasher_add_text(struct mal_hasher *hasher, const char *text) {
    size_t bytes = strlen(text);
    mal_hasher_add_u64(hasher, bytes);
    mal_hasher_add(hasher, text, bytes);
}

struct mal_hash mal_hasher_end(struct mal_hasher *hasher) {
    struct mal_hash hash;
    (void)SHA256_Final(hash.bytes, &hasher->ctx);
    (void)SHA256_Init(&hasher->ctx);
    return hash;
}

struct mal_hash mal_hash_of(const void *data, size_t bytes) {
    struct mal_hasher hasher;
    (void)SHA256_Init(&hasher.ctx);
    mal_hasher_add(&hasher, data, bytes);
    return mal_hasher_end(&hasher);
}

void mal_hash_hex(const struct mal_hash *hash, char out[MAL_HASH_HEX]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < MAL_HASH_BYTES; i++) {
        out[2 * i] = digits[hash->bytes[i] >> 4];
        out[2 * i + 1] = digits[hash->bytes[i] & 15];
    }
    out[MAL_HASH_HEX - 1] = '\0';
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

bool mal_hash_from_hex(struct mal_hash *out, const char *hex) {
    struct mal_hash hash;
    if (strlen(hex) != MAL_HASH_HEX - 1) return false;
    for (int i = 0; i < MAL_HASH_BYTES; i++) {
        int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        hash.bytes[i] = (uint8_t)(high << 4 | low);
    }
    *out = hash;
    return true;
}

bool mal_hash_equal(const struct mal_hash *a, const struct mal_hash *b) {
    return memcmp(a->bytes, b->bytes, MAL_HASH_BYTES) == 0;
}
