/* wire_impl.h - reading members of a request with errors that carry a JSON pointer.
 *
 * `base` is the pointer of the object ("" at the top, "/facts/3" in a list). A member
 * that is null counts as absent where it may be absent. Texts out are owned by the caller
 * and are left alone when the member is absent; on an error nothing is allocated. */
#ifndef MAL_WIRE_IMPL_H
#define MAL_WIRE_IMPL_H

#include <jansson.h>

#include "core/facts.h"
#include "proto/wire.h"

enum { MAL_POINTER_BYTES = 128 };

/* base "/" key, with ~ and / of the key escaped. Returns `out`. */
const char *mal_wire_pointer(char out[MAL_POINTER_BYTES], const char *base,
                             const char *key);
const char *mal_wire_pointer_at(char out[MAL_POINTER_BYTES], const char *base,
                                size_t index);

/* The body as an object (owned by the caller), or NULL. `line` 0: the whole body, else
 * the line of it that this text is, for messages. */
json_t *mal_wire_parse(const char *body, size_t bytes, size_t line,
                       struct mal_error *err);
/* Fails with MAL_MALFORMED: "must be EXPECTED, it is ..."; always false. */
bool mal_wire_wrong_type(const json_t *value, const char *pointer, const char *expected,
                         struct mal_error *err);

/* MAL_INVALID for the first member that is not among `known`, which ends with NULL. */
bool mal_wire_only(const json_t *object, const char *base, const char *const *known,
                   struct mal_error *err) MAL_CHECK;
/* The member; *out NULL: absent. A required one that is absent is MAL_INVALID. */
bool mal_wire_need(const json_t *object, const char *base, const char *key,
                   const char *expected, const json_t **out,
                   struct mal_error *err) MAL_CHECK;

bool mal_wire_text(const json_t *object, const char *base, const char *key, char **out,
                   struct mal_error *err) MAL_CHECK;
/* Required, with more than spaces in it. */
bool mal_wire_text_filled(const json_t *object, const char *base, const char *key,
                          char **out, struct mal_error *err) MAL_CHECK;
/* Optional, at most MAL_NOTE_CHARACTERS long. */
bool mal_wire_note(const json_t *object, const char *key, char **out,
                   struct mal_error *err) MAL_CHECK;
bool mal_wire_bool(const json_t *object, const char *base, const char *key, bool *out,
                   struct mal_error *err) MAL_CHECK;
/* A number without a fraction (2.0 is one), within min..max. */
bool mal_wire_int(const json_t *object, const char *base, const char *key, int64_t min,
                  int64_t max, int64_t *out, struct mal_error *err) MAL_CHECK;
bool mal_wire_real(const json_t *object, const char *base, const char *key, double min,
                   double max, double *out, struct mal_error *err) MAL_CHECK;

/* An array of texts; with `single`, one text will do. */
enum mal_wire_emptiness {
    MAL_WIRE_FILLED,    /* more than spaces in each text */
    MAL_WIRE_NOT_EMPTY, /* spaces are good too */
    MAL_WIRE_ANY,
};

struct mal_wire_list {
    const char *key;
    size_t min, max; /* number of texts; max 0: any */
    bool single;
    enum mal_wire_emptiness texts;
};

bool mal_wire_texts(const json_t *object, const char *base,
                    const struct mal_wire_list *list, char ***out, size_t *out_n,
                    struct mal_error *err) MAL_CHECK;
void mal_wire_texts_free(char **texts, size_t n); /* takes NULL */

/* A Fact, in a request or stored. */
bool mal_wire_fact(const json_t *object, const char *base, struct mal_fact *out,
                   struct mal_error *err) MAL_CHECK;
/* The member "facts", required: at least one Fact. *out (*out_n) owned. */
bool mal_wire_facts(const json_t *root, const char *expected, size_t max_facts,
                    struct mal_fact **out, size_t *out_n,
                    struct mal_error *err) MAL_CHECK;
/* What facts of one request must be together: ids apart, prompts and further phrasings
 * without two answers. Of each text hashes are kept, so that there may be millions. */
struct mal_claim;

struct mal_claims {
    struct mal_claim *list; /* (n_claims), owned */
    size_t n_claims, capacity;
    size_t n; /* facts */
};

bool mal_claims_add(struct mal_claims *claims, const struct mal_fact *fact,
                    struct mal_error *err) MAL_CHECK;
/* The first fact that does not go with an earlier one is MAL_INVALID. Once, at the end.
 */
bool mal_claims_check(struct mal_claims *claims, struct mal_error *err) MAL_CHECK;
void mal_claims_finish(struct mal_claims *claims);

/* What an id of a fact or a job may be made of. */
bool mal_wire_check_id(const char *id, const char *pointer,
                       struct mal_error *err) MAL_CHECK;
/* MAL_TOO_LARGE for /facts; always false. n = max_facts + 1: that many at least. */
bool mal_wire_too_many_facts(size_t n, size_t max_facts, struct mal_error *err);

/* Compact text of `value`, owned; NULL when memory is out or `value` is NULL. */
char *mal_wire_dump(const json_t *value);

#endif
