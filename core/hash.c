/* hash.c - SHA-256 through OpenSSL's EVP interface.
 *
 * A digest that cannot be computed would be taken for a real one, so a failure of the
 * library in the middle of a hash ends the process; creating a hasher is where lack of
 * memory is an error. */
#include "core/hash.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/sha.h>

#include "core/alloc.h"

struct mal_hasher {
    EVP_MD_CTX *ctx;
};

static void must(bool ok) {
    if (!ok) abort();
}

bool mal_hasher_create(struct mal_hasher **out, struct mal_error *err) {
    struct mal_hasher *h = mal_calloc(1, sizeof *h);
    if (!h) return mal_fail(err, MAL_NO_MEMORY, "hasher");
    h->ctx = EVP_MD_CTX_new();
    if (!h->ctx || EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) != 1) {
        mal_hasher_destroy(h);
        return mal_fail(err, MAL_NO_MEMORY, "hasher");
    }
    *out = h;
    return true;
}

void mal_hasher_destroy(struct mal_hasher *hasher) {
    if (!hasher) return;
    EVP_MD_CTX_free(hasher->ctx);
    mal_free(hasher);
}

void mal_hasher_add(struct mal_hasher *hasher, const void *data, size_t bytes) {
    must(EVP_DigestUpdate(hasher->ctx, data, bytes) == 1);
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
    must(EVP_DigestFinal_ex(hasher->ctx, hash.bytes, NULL) == 1);
    must(EVP_DigestInit_ex(hasher->ctx, NULL, NULL) == 1);
    return hash;
}

struct mal_hash mal_hash_of(const void *data, size_t bytes) {
    struct mal_hash hash;
    must(SHA256(data, bytes, hash.bytes) != NULL);
    return hash;
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
