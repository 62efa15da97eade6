/* json.h - JSON files, read with errors that name file, key and what was expected. */
#ifndef MAL_JSON_H
#define MAL_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "core/error.h"

/* Loads a file (duplicate keys refused, at most 256 MiB). *out is owned by the caller.
 * A missing file is MAL_NOT_FOUND, malformed JSON is MAL_CORRUPT with line and column. */
bool mal_json_load(json_t **out, const char *path, struct mal_error *err) MAL_CHECK;

/* The same of a text, an object or an array; `where` names it in errors. */
bool mal_json_read(json_t **out, const char *text, const char *where,
                   struct mal_error *err) MAL_CHECK;

/* json_loadb(), but lack of memory is always seen: jansson itself ignores it where a
 * string it is reading grows, and reads on past its end. NULL: mal_json_fail(). */
json_t *mal_json_parse(const char *text, size_t bytes, size_t flags,
                       json_error_t *problem);

/* Any text as a JSON string: what is not UTF-8, such as a path, with U+FFFD in its place.
 * New reference, NULL: out of memory. */
json_t *mal_json_fit(const char *text);

/* The value as text, ended by a zero byte, from mal_malloc. NULL: `root` is, or there was
 * no memory for it or, on this thread, for any JSON since mal_json_lacked(): members may
 * be missing in it. */
char *mal_json_dump(const json_t *root, size_t flags);
/* What people and programs are told: 0.94 and not 0.93999999999999995. */
#define MAL_JSON_TOLD (JSON_COMPACT | JSON_REAL_PRECISION(15))

/* Whether JSON has met lack of memory on this thread since this was asked last: at the
 * beginning of something new, so that it does not suffer for what was before. */
bool mal_json_lacked(void);
void mal_json_set_lacked(bool was);

/* Lets jansson allocate through core/alloc.h from now on; mal_json_parse() does it by
 * itself. */
void mal_json_guard(void);

/* What jansson says is wrong with `where`, as an error; lack of memory is MAL_NO_MEMORY
 * whatever the status. Always false. */
bool mal_json_fail(const json_error_t *problem, enum mal_status status, const char *where,
                   struct mal_error *err);
const char *mal_json_type(const json_t *value); /* "an object", "a string", ... */

/* Typed members of an object. `where` names the file in errors. The value is written only
 * on success. A missing key is an error in the plain form and leaves *out alone in the
 * _opt form; null counts as missing; a wrong type is always an error. Strings are
 * borrowed from `object`. */
bool mal_json_int(const json_t *object, const char *key, int64_t min, int64_t max,
                  int64_t *out, const char *where, struct mal_error *err) MAL_CHECK;
bool mal_json_int_opt(const json_t *object, const char *key, int64_t min, int64_t max,
                      int64_t *out, const char *where, struct mal_error *err) MAL_CHECK;
bool mal_json_real_opt(const json_t *object, const char *key, double *out,
                       const char *where, struct mal_error *err) MAL_CHECK;
bool mal_json_bool_opt(const json_t *object, const char *key, bool *out,
                       const char *where, struct mal_error *err) MAL_CHECK;
bool mal_json_string(const json_t *object, const char *key, const char **out,
                     const char *where, struct mal_error *err) MAL_CHECK;
bool mal_json_string_opt(const json_t *object, const char *key, const char **out,
                         const char *where, struct mal_error *err) MAL_CHECK;

#endif
