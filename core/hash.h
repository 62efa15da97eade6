/* hash.h - SHA-256 (OpenSSL's, which uses the CPU's instructions). */
#ifndef MAL_HASH_H
#define MAL_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

enum { MAL_HASH_BYTES = 32, MAL_HASH_HEX = 65 }; /* HEX: with the closing zero */

struct mal_hash {
    uint8_t bytes[MAL_HASH_BYTES];
};

struct mal_hasher; /* one running hash */

bool mal_hasher_create(struct mal_hasher **out, struct mal_error *err) MAL_CHECK;
void mal_hasher_destroy(struct mal_hasher *hasher); /* takes NULL */
void mal_hasher_add(struct mal_hasher *hasher, const void *data, size_t bytes);
/* Length-prefixed (8 bytes, little endian), so that two fields never run into each other.
 */
void mal_hasher_add_text(struct mal_hasher *hasher, const char *text);
void mal_hasher_add_u64(struct mal_hasher *hasher, uint64_t value);
struct mal_hash mal_hasher_end(struct mal_hasher *hasher); /* and starts anew */

struct mal_hash mal_hash_of(const void *data, size_t bytes);
void mal_hash_hex(const struct mal_hash *hash, char out[MAL_HASH_HEX]);
bool mal_hash_from_hex(struct mal_hash *out,
                       const char *hex); /* false: not 64 hex digits */
bool mal_hash_equal(const struct mal_hash *a, const struct mal_hash *b);

#endif
