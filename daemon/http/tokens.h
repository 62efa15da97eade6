/* tokens.h - the bearer tokens of --tokens: a file of names, roles and hashes.
 *
 * A line is `name role sha256hex`; blank lines and what begins with # are skipped. The
 * file holds no secret, but whoever writes it decides who may do what. */
#ifndef MAL_TOKENS_H
#define MAL_TOKENS_H

#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"
#include "core/hash.h"
#include "daemon/http/role.h"

enum { MAL_TOKEN_NAME_BYTES = 65 }; /* with the closing zero */

struct mal_token {
    char name[MAL_TOKEN_NAME_BYTES];
    enum mal_role role;
    struct mal_hash hash;
};

struct mal_tokens {
    struct mal_token *list;
    size_t n;
    bool exposed; /* everybody may read the file, and try what fits its hashes */
};

/* 1 to 64 of [A-Za-z0-9._-], and not "local", which the audit calls somebody else. */
bool mal_token_name_valid(const char *name);

/* An error names file and line. Refused as sshd refuses authorized_keys: a file of
 * another user than root and the daemon's own, or which group or others may write. Owned
 * by the caller. */
bool mal_tokens_load(struct mal_tokens **out, const char *path,
                     struct mal_error *err) MAL_CHECK;
void mal_tokens_free(struct mal_tokens *tokens); /* takes NULL */

/* The token whose hash is that of this text; NULL: none. How long it takes depends on the
 * number of tokens and on the length of the text only. Borrowed. */
const struct mal_token *mal_tokens_find(const struct mal_tokens *tokens, const char *text,
                                        size_t bytes);

#endif
